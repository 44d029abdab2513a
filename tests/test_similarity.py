"""Debiased CKA, held-out CCA, overlapping subspaces: against loops, and on data whose truth is known."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisat.interpret.features.bank import FeatureBank, Part
from unisat.interpret.layers import similarity
from unisat.interpret.layers.similarity import layer_similarity
from unisat.interpret.layers.subspaces import subspaces


def bank(*layers, ids=None, about=None, **columns):
    """A bank of hidden.0, hidden.1, …; columns beside the ids."""
    rows = len(layers[0])
    table = pd.DataFrame({"id": ids or [f"u{row}" for row in range(rows)], **columns})
    return FeatureBank.from_arrays(table, {f"hidden.{k}": layer for k, layer in enumerate(layers)}, about)


def noise(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def one(result):
    return result.values[0, 1]


# CKA


@pytest.mark.parametrize(("rows", "biased"), [(60, 0.93), (300, 0.72)])
def test_independent_noise_has_no_debiased_cka_where_the_plain_one_is_large(rows, biased):
    plain, debiased = [], []
    for seed in range(12):
        x, y = noise(2 * seed, rows, 768), noise(2 * seed + 1, rows, 768)
        debiased.append(one(layer_similarity(bank(x, y))))
        x, y = x - x.mean(0), y - y.mean(0)
        norms = [np.linalg.norm(x @ x.T), np.linalg.norm(y @ y.T)]
        plain.append(np.sum((x @ x.T) * (y @ y.T)) / np.prod(norms))
    assert np.mean(plain) == pytest.approx(biased, abs=0.01)
    assert abs(np.mean(debiased)) < 0.02
    assert np.abs(debiased).max() < 0.1


def hsic(first, second):
    """Song et al. 2012, eq. 4: the mean over all four different rows, in plain loops."""
    different = itertools.permutations(range(len(first)), 4)
    return np.mean([first[i, j] * (second[i, j] + second[q, r] - 2 * second[i, q]) for i, j, q, r in different])


def test_cka_is_the_unbiased_hsic_over_four_different_utterances():
    x, y, z = noise(1, 8, 5) + 3, noise(2, 8, 3), noise(3, 8, 12)
    y[:, 0] += x[:, 0]
    values = layer_similarity(bank(x, y, z)).values
    grams = [layer @ layer.T for layer in (x, y, z)]
    norms = [np.sqrt(hsic(gram, gram)) for gram in grams]
    for i, j in itertools.product(range(3), repeat=2):
        assert values[i, j] == pytest.approx(hsic(grams[i], grams[j]) / (norms[i] * norms[j]), abs=1e-9)


@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
@settings(max_examples=20)
def test_cka_is_blind_to_rotation_size_and_shift(seed, size):
    x, y = noise(seed, 30, 6), noise(seed + 1, 30, 4)
    y[:, :2] += x[:, :2]
    rotation = np.linalg.qr(noise(seed + 2, 6, 6))[0]
    turned = size * x @ rotation + noise(seed + 3, 6)
    values = layer_similarity(bank(x, y, turned), blocks=0).values
    assert values[0, 2] == pytest.approx(1, abs=1e-6)
    assert values[0, 1] == pytest.approx(values[2, 1], abs=1e-6)
    np.testing.assert_allclose(values, values.T, atol=1e-12)


def test_the_interval_is_a_jackknife_that_leaves_each_speaker_out():
    speakers = np.repeat(["a", "b", "c", "d", "e"], 6)
    x, y = noise(1, 30, 4), noise(2, 30, 5)
    y[:, :3] += x[:, :3]
    result = layer_similarity(bank(x, y, speaker=speakers))
    left_out = [one(layer_similarity(bank(x[keep], y[keep]))) for keep in (speakers != s for s in "abcde")]
    half = 2.7764451 * np.sqrt(4 / 5 * np.sum((left_out - np.mean(left_out)) ** 2))  # t of 4 degrees of freedom
    assert result.low[0, 1] == pytest.approx(one(result) - half, abs=1e-6)
    assert result.high[0, 1] == pytest.approx(min(one(result) + half, 1), abs=1e-6)
    assert result.settings["blocks"] == result.settings["speakers"] == 5


def test_95_percent_intervals_hold_the_truth_in_about_95_percent_of_draws():
    mix = noise(7, 6, 5)

    def draw(seed, rows):
        x = noise(seed, rows, 6)
        return x, 0.6 * x @ mix + noise(seed + 1, rows, 5)

    # closed form for Gaussians: CKA is |Cov(x, y)|² over |Var(x)| |Var(y)|
    variance = 0.36 * mix.T @ mix + np.eye(5)
    truth = np.linalg.norm(0.6 * mix) ** 2 / (np.sqrt(6) * np.linalg.norm(variance))
    speakers = np.repeat([f"s{n}" for n in range(40)], 2)
    results = [layer_similarity(bank(*draw(2 * seed, 80), speaker=speakers)) for seed in range(200)]
    held = [result.low[0, 1] <= truth <= result.high[0, 1] for result in results]
    assert np.mean([one(result) for result in results]) == pytest.approx(truth, abs=0.01)
    assert 0.9 <= np.mean(held) <= 0.98


def test_without_three_speakers_there_is_no_interval():
    x, y = noise(1, 30, 4), noise(2, 30, 4)
    for columns in (
        {},
        {"speaker": ["a", "b"] * 15},
        {"speaker": [None] * 30},
        {"speaker": [""] + ["a", "b", "c"] * 9 + ["d"] * 2},
    ):
        result = layer_similarity(bank(x, y, **columns))
        assert np.isnan(result.low).all()
        assert result.settings["blocks"] == 0
    assert np.isnan(layer_similarity(bank(x, y, speaker=list("abc") * 10), blocks=0).low).all()
    few = layer_similarity(bank(x[:4], y[:4], speaker=list("abcd")))  # three would be left
    assert np.isfinite(few.values).all()
    assert np.isnan(few.low).all()


# between banks


@pytest.mark.parametrize("kind", ["cka", "cca"])
def test_banks_are_matched_by_id_whatever_their_order_and_width(kind):
    x, y = noise(1, 60, 8), noise(2, 60, 3)
    y += x[:, :3]
    order = np.random.default_rng(3).permutation(60)
    first = bank(x, about={"model": "one"})
    second = bank(y[order], ids=[f"u{row}" for row in order], about={"model": "two"})
    apart = layer_similarity(first, second, kind=kind, components=None if kind == "cka" else 3)
    together = layer_similarity(bank(x, y), kind=kind, components=None if kind == "cka" else 3)
    assert apart.values.shape == (1, 1)
    assert apart.values[0, 0] == pytest.approx(one(together), abs=1e-9)
    assert (apart.settings["model"], apart.settings["other_model"]) == ("one", "two")


def test_sites_of_the_other_side_may_have_other_names():
    arrays = {"hidden.0": noise(1, 20, 4), "untrained.0.hidden.0": noise(2, 20, 4), "logmel": noise(3, 20, 6)}
    both = FeatureBank.from_arrays(pd.DataFrame({"id": [f"u{row}" for row in range(20)]}), arrays)
    result = layer_similarity(both, other_sites=["untrained.0.hidden.0", "logmel"])
    assert (result.rows, result.columns) == (("hidden.0",), ("untrained.0.hidden.0", "logmel"))
    square = layer_similarity(both, sites=list(arrays))
    np.testing.assert_allclose(result.values[0], square.values[0, 1:], atol=1e-12)


def test_the_table_has_a_row_for_each_pair():
    result = layer_similarity(bank(noise(1, 20, 4), noise(2, 20, 4), speaker=list("abcde") * 4))
    table = result.table()
    row = table[(table["first"] == "hidden.1") & (table["second"] == "hidden.0")].iloc[0]
    assert len(table) == 4
    assert row["kind"] == "cka"
    assert (row["similarity"], row["low"], row["high"]) == (result.values[1, 0], result.low[1, 0], result.high[1, 0])


# CCA


def test_held_out_cca_of_independent_data_is_none_where_the_fitted_one_is_high():
    x, y = noise(1, 200, 20), noise(2, 200, 20)
    left, right = (np.linalg.qr(values - values.mean(0))[0] for values in (x, y))
    fitted = np.linalg.svd(left.T @ right, compute_uv=False)
    assert fitted.mean() > 0.25
    assert abs(one(layer_similarity(bank(x, y), kind="cca", components=20))) < 0.06
    assert abs(one(layer_similarity(bank(noise(3, 300, 768), noise(4, 300, 768)), kind="cca"))) < 0.08


def test_held_out_cca_finds_the_planted_correlation_behind_any_linear_map():
    x = noise(1, 3000, 4)
    y = 0.7 * x + np.sqrt(1 - 0.49) * noise(2, 3000, 4)
    mixed = y @ noise(3, 4, 4)
    result = layer_similarity(bank(x, y, mixed), kind="cca", components=4)
    assert one(result) == pytest.approx(0.7, abs=0.02)
    assert result.values[0, 2] == pytest.approx(one(result), abs=1e-6)
    assert result.values[1, 2] == pytest.approx(1, abs=1e-9)


def test_cca_holds_speakers_out_so_that_two_lists_of_voices_are_not_alike():
    speakers = np.repeat([f"s{n}" for n in range(20)], 10)
    places = np.repeat(np.arange(20), 10)
    x, y = (noise(seed, 20, 6)[places] + 0.1 * noise(seed + 5, 200, 6) for seed in (1, 2))
    known = layer_similarity(bank(x, y, speaker=speakers), kind="cca", components=6)
    unknown = layer_similarity(bank(x, y), kind="cca", components=6)
    assert one(unknown) > 0.4
    assert one(known) < 0.2
    assert known.low[0, 1] < one(known) < known.high[0, 1]


# projection


def test_the_overlap_of_principal_subspaces_is_the_planted_share():
    x, y = 0.01 * noise(1, 200, 20), 0.01 * noise(2, 200, 20)
    x[:, :5] += noise(3, 200, 5)
    y[:, 2:7] += noise(4, 200, 5)  # three of five directions are the same; the data are not
    result = layer_similarity(bank(x, y), kind="projection", components=5)
    assert one(result) == pytest.approx(0.6, abs=0.01)
    assert result.chance == 0.25
    white = [one(layer_similarity(bank(noise(s, 200, 20), noise(s + 50, 200, 20)), kind="projection", components=5))
             for s in range(10)]  # fmt: skip
    assert np.mean(white) == pytest.approx(0.25, abs=0.03)


# bad input


def framewise():
    arrays = {"hidden.0": noise(1, 6, 3), "hidden.0#frames": np.array([4, 2])}
    return FeatureBank(pd.DataFrame({"id": ["a", "b"]}), [Part(np.arange(2), arrays)])


def with_nan():
    values = noise(1, 20, 3)
    values[4, 1] = np.nan
    return bank(values)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layer_similarity(bank(noise(1, 9, 2)), kind="rsa"), "kind='rsa' must be one of cka, cca, projection"),
        (lambda: layer_similarity(bank(noise(1, 3, 2))), "at least 4 utterances, got 3"),
        (lambda: layer_similarity(bank(noise(1, 19, 2)), kind="cca"), "at least 20 utterances, .* got 19"),
        (
            lambda: layer_similarity(bank(noise(1, 50, 9)), kind="cca", components=6),
            "components=6 must lie between 1 and 5, a tenth of the 50 utterances",
        ),
        (
            lambda: layer_similarity(bank(noise(1, 90, 4)), kind="projection", components=6),
            "components=6 is more than the 4 channels",
        ),
        (
            lambda: layer_similarity(bank(noise(1, 50, 4), noise(2, 50, 5)), kind="projection", components=2),
            r"same width, got \[4, 5\]; use kind='cka'",
        ),
        (lambda: layer_similarity(bank(np.ones((9, 2)))), "hidden.0 is the same for all 9 utterances"),
        (
            lambda: layer_similarity(bank(noise(1, 40, 1) * np.ones(3)), kind="cca"),
            "varies in fewer than components=3 directions",
        ),
        (lambda: layer_similarity(with_nan()), "hidden.0 has values that are not finite for 1 utterance.*'u4'"),
        (lambda: layer_similarity(framewise()), "'hidden.0' has a row for each frame; collect .* reduce='mean'"),
        (lambda: layer_similarity(bank(noise(1, 9, 2)), sites=[]), "no layers to compare; .* the bank has hidden.0"),
        (lambda: layer_similarity(bank(noise(1, 9, 2)), blocks=2), "blocks=2 must be at least 3, or 0"),
        (
            lambda: layer_similarity(bank(noise(1, 9, 2)), bank(noise(1, 8, 2))),
            r"the second bank lacks 1 of them \('u8'\)\. Take",
        ),
        (
            lambda: layer_similarity(bank(noise(1, 4, 2)), bank(noise(1, 4, 2), ids=["u0", "u1", "u2", "u2"])),
            "the second bank has 1 ids more than once",
        ),
    ],
)
def test_a_comparison_that_means_nothing_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_more_utterances_than_memory_are_refused_with_how_many_fit(monkeypatch):
    monkeypatch.setattr(similarity, "LIMIT_BYTES", 2 * 8 * 100)
    layer_similarity(bank(noise(1, 10, 2), noise(2, 10, 2)))
    with pytest.raises(ValueError, match="take at most 10 utterances"):
        layer_similarity(bank(noise(1, 11, 2), noise(2, 11, 2)))


def test_a_model_of_13_layers_beside_one_of_25_is_matched_by_id():
    common = noise(0, 40, 6)
    base = [common[:, : 1 + k % 5] @ noise(k, 1 + k % 5, 8) + noise(50 + k, 40, 8) for k in range(13)]
    large = [common @ noise(100 + k, 6, 12) + noise(200 + k, 40, 12) for k in range(25)]
    speakers = [f"s{row // 4}" for row in range(40)]
    first, second = bank(*base, speaker=speakers), bank(*large, speaker=speakers)
    result = layer_similarity(first, second.take(np.random.default_rng(1).permutation(40)), names=("base", "large"))
    assert result.values.shape == result.low.shape == (13, 25)
    for i, j in ((0, 0), (3, 17), (12, 24)):
        assert result.values[i, j] == pytest.approx(one(layer_similarity(bank(base[i], large[j]))))
    assert result.settings["names"] == ("base", "large")
    # both sides in each other's place
    turned = layer_similarity(second, first, names=("large", "base"))
    np.testing.assert_allclose(turned.values, result.values.T, atol=1e-12)
    assert layer_similarity(first, second, kind="cca", blocks=0).values.shape == (13, 25)
    with pytest.raises(ValueError, match=r"'large' lacks 1 of them \('u0'\)"):
        layer_similarity(first, second.take(range(1, 40)), names=("base", "large"))


@pytest.mark.wrong_types
def test_one_name_for_two_models():
    with pytest.raises(ValueError, match="names='base' must be two"):
        layer_similarity(bank(noise(0, 5, 4)), bank(noise(1, 5, 4)), names="base")


# subspaces


def crossed(first, second, spread=0.0, seed=0, repeats=3):
    """Utterances of every pair of classes: first[i] + second[j] + noise."""
    pairs = [(i, j) for i in range(len(first)) for j in range(len(second)) for _ in range(repeats)]
    values = np.array([first[i] + second[j] for i, j in pairs]) + spread * noise(seed, len(pairs), first.shape[1])
    return bank(values, speaker=[f"s{i}" for i, _ in pairs], sentence=[f"t{j}" for _, j in pairs])


def test_labels_in_orthogonal_directions_leave_each_other_s_variance_alone():
    first, second = np.zeros((6, 30)), np.zeros((5, 30))
    first[:, :5], second[:, 10:14] = noise(1, 6, 5), noise(2, 5, 4)
    result = subspaces(crossed(first, second, 0.02))
    table = result.table()
    assert list(zip(table["label"], table["removed"], strict=True)) == [
        ("speaker", "sentence"),
        ("sentence", "speaker"),
    ]
    assert (table["residual"] > 0.99).all()
    assert (table["area"] > 0.99).all()
    assert (table["residual"] > table["shuffled_high"]).all()
    assert result.angles["hidden.0"].min() > 85
    assert result.settings["pairs_of_classes_seen"] == 1


def test_labels_in_the_same_directions_take_each_other_s_variance_away():
    first, second = np.zeros((6, 30)), np.zeros((5, 30))
    first[:, :3], second[:, :3] = noise(1, 6, 3), noise(2, 5, 3)
    result = subspaces(crossed(first, second, 0.01), rank=3)
    table = result.table()
    assert (table["residual"] < 0.01).all()
    assert (table["residual"] < table["random_low"]).all()
    assert result.angles["hidden.0"].max() < 5


def test_two_directions_at_30_degrees_are_measured_as_such():
    first, second = np.zeros((3, 4)), np.zeros((3, 4))
    first[:, 0] = [-1, 0, 1]
    second[:, 0], second[:, 1] = np.cos(np.pi / 6) * np.array([-2, 0, 2]), np.sin(np.pi / 6) * np.array([-2, 0, 2])
    result = subspaces(crossed(first, second), rank=1)
    table = result.table()
    np.testing.assert_allclose(result.angles["hidden.0"], [30], atol=1e-5)
    np.testing.assert_allclose(table["residual"], np.sin(np.pi / 6) ** 2, atol=1e-9)
    np.testing.assert_allclose(table["smallest_angle"], 30, atol=1e-5)
    np.testing.assert_array_equal(table["rank"], 1)


def test_what_is_left_is_that_of_principal_components_of_centroids():
    from sklearn.decomposition import PCA

    both = crossed(noise(1, 7, 12), noise(2, 6, 12), 0.5)
    both = both.take(np.random.default_rng(3).permutation(126)[:90])  # classes of different sizes
    frame = pd.DataFrame(both["hidden.0"])
    means = {name: frame.groupby(both.labels(name)).mean().to_numpy() for name in ("speaker", "sentence")}
    curves = subspaces(both, rank=4).curves
    for label, other in (("speaker", "sentence"), ("sentence", "speaker")):
        centred = means[label] - means[label].mean(0)
        for removed in (1, 3, len(means[other]) - 1):
            pca = PCA(removed).fit(means[other])
            rest = centred - centred @ pca.components_.T @ pca.components_
            share = np.sum(rest**2) / np.sum(centred**2)
            row = curves[(curves["label"] == label) & (curves["removed"] == removed)]
            assert row["residual"].item() == pytest.approx(share, abs=1e-9)
    result = subspaces(both, rank=4)
    bases = [PCA(4).fit(means[name]).components_ for name in ("speaker", "sentence")]
    cosines = np.linalg.svd(bases[0] @ bases[1].T, compute_uv=False)
    np.testing.assert_allclose(result.angles["hidden.0"], np.degrees(np.arccos(cosines)), atol=1e-4)
    table = result.table()
    assert table["smallest_angle"].iloc[0] == result.angles["hidden.0"].min()
    picked = curves[(curves["label"] == "speaker") & (curves["removed"] == 4)]["residual"].item()
    assert table["residual"].iloc[0] == pytest.approx(picked)


def test_random_directions_take_their_share_and_shuffled_ones_what_varies_most():
    first, second = np.zeros((8, 40)), np.zeros((8, 40))
    first[:, :4], second[:, 4:8] = noise(1, 8, 4), noise(2, 8, 4)
    table = subspaces(crossed(first, second, 0.1), rank=4, draws=200).table()
    assert (table["random_low"] < 1 - 4 / 40).all()
    assert (table["random_high"] > 1 - 4 / 40).all()
    # all variance lies in 8 of 40 channels, and so do the directions of groups drawn at random
    assert (table["shuffled_high"] < table["random_low"]).all()


def test_rank_holds_nine_tenths_of_the_variance_where_none_is_given():
    first, second = np.zeros((4, 6)), np.zeros((4, 6))
    first[:, 0], first[:, 1] = [-3, -3, 3, 3], [-1.01, 1.01, -1.01, 1.01]  # 89.8 % and 10.2 %
    second[:, 3], second[:, 4] = [-3, -3, 3, 3], [-0.99, 0.99, -0.99, 0.99]  # 90.2 % and 9.8 %
    table = subspaces(crossed(first, second)).table()
    assert table["rank"].tolist() == [1, 2]  # of the sentences, then of the speakers


def test_labels_of_frames_are_given_frame_by_frame_and_empty_ones_left_out():
    first, second = noise(1, 3, 5), noise(2, 4, 5)
    utterances = [(speaker, phones) for speaker in range(3) for phones in ([0, 1, 2, 3, 0], [3, 2, 1])]
    frames = np.concatenate([[first[s] + second[p] for p in phones] for s, phones in utterances])
    frames = np.concatenate([frames, 100 + noise(3, 2, 5)])
    lengths = np.array([len(phones) for _, phones in utterances])
    lengths[-1] += 2
    table = pd.DataFrame({"id": list("abcdef"), "speaker": [f"s{s}" for s, _ in utterances]})
    arrays = {"hidden.0": frames, "hidden.0#frames": lengths}
    by_frame = FeatureBank(table, [Part(np.arange(6), arrays)])
    phones = [str(p) for _, many in utterances for p in many] + ["", None]
    result = subspaces(by_frame, "hidden.0", "speaker", phones, rank=2, draws=2)
    speakers = np.repeat([s for s, _ in utterances], [5, 3, 5, 3, 5, 3])
    whole = bank(frames[:-2], speaker=speakers.astype(str), phone=phones[:-2])
    expected = subspaces(whole, "hidden.0", "speaker", "phone", rank=2, draws=2)
    np.testing.assert_allclose(result.angles["hidden.0"], expected.angles["hidden.0"])
    np.testing.assert_allclose(result.table()["residual"], expected.table()["residual"])
    assert result.second == "second"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"second": "speaker"}, "each class of 'speaker' comes with one class of 'speaker' alone"),
        ({"second": ["x"] * 36}, "'second' has one class only"),
        (
            {"second": ["x", "y"]},
            r"'second' must be a column, or one label for each of the 36 utterances, got shape \(2,\)",
        ),
        ({"second": "nested"}, "each class of 'nested' comes with one class of 'speaker' alone"),
        ({"second": "phone"}, "no column 'phone'"),
        ({"rank": 4}, "rank=4 must lie between 1 and 3: 4 classes of 'speaker'"),
        ({"draws": 0}, "draws=0 must be at least 1"),
        ({"sites": []}, "there are no layers"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(change, message):
    both = crossed(noise(1, 4, 6), noise(2, 3, 6), 0.1)
    both.table["nested"] = both.table["speaker"] + "-" + pd.Series(np.arange(36) % 2).astype(str)
    with pytest.raises(ValueError, match=message):
        subspaces(both, **{"first": "speaker", "second": "sentence", **change})


def test_classes_with_equal_means_are_refused():
    both = crossed(np.zeros((3, 4)), noise(2, 3, 4))
    with pytest.raises(ValueError, match="all classes of 'speaker' have the same mean"):
        subspaces(both)


def test_layers_that_know_the_same_speakers_in_other_directions_are_alike_only_with_pairs_of_one_speaker():
    draw = np.random.default_rng(0)
    who = np.repeat(np.arange(30), 5)
    one, two = (3 * draw.normal(size=(30, 40))[who] + draw.normal(size=(150, 40)) for _ in range(2))
    table = pd.DataFrame({"id": [f"u{n}" for n in range(150)], "speaker": [f"s{name}" for name in who]})
    bank = FeatureBank.from_arrays(
        table, {"hidden.0": one, "hidden.1": two, "hidden.2": one @ np.diag(draw.random(40))}
    )
    assert layer_similarity(bank).values[0, 1] > 0.35
    apart = layer_similarity(bank, same_speaker=False)
    assert abs(apart.values[0, 1]) < 0.1
    assert apart.values[0, 2] > 0.5
    np.testing.assert_allclose(np.diag(apart.values), 1)
    assert (apart.low[0, 1], apart.high[0, 1]) == pytest.approx((0, 0), abs=0.2)
    with pytest.raises(ValueError, match="same_speaker=False is for kind='cka' and a bank that knows its speakers"):
        layer_similarity(bank, kind="cca", same_speaker=False)
    # with each utterance a speaker of its own, all pairs are of two, and it is the debiased CKA
    alone = FeatureBank.from_arrays(table.assign(speaker=table["id"]), {"hidden.0": one, "hidden.1": two})
    np.testing.assert_allclose(
        layer_similarity(alone, same_speaker=False).values, layer_similarity(alone).values, atol=1e-10
    )
