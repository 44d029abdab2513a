"""What is erased is gone, as little else as can be, and a placebo takes as much."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import shuffled, small_config

import unisat as us
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.interventions.edit_text import from_json, to_json

WIDTH, CLASSES = 10, 4


def planted(rows=400, dim=WIDTH, seed=0):
    """Classes of unequal size whose means differ in some directions, with channels of unequal and shared variance."""
    draw = np.random.default_rng(seed)
    codes = draw.choice(CLASSES, rows, p=[0.4, 0.3, 0.2, 0.1])
    codes[:CLASSES] = range(CLASSES)
    mixing = draw.standard_normal((dim, dim)) * np.linspace(0.1, 3, dim)
    values = draw.standard_normal((rows, dim)) @ mixing + draw.standard_normal((CLASSES, dim))[codes] * 2 + 5
    table = pd.DataFrame({"id": [f"u{n}" for n in range(rows)], "speaker": [f"s{c}" for c in codes]})
    return FeatureBank.from_arrays(table, {"hidden.1": values}), codes


def accuracy(values, codes):
    """How often least squares on these very rows names the class: no probe sees more of them."""
    rows = np.column_stack([values, np.ones(len(values))])
    said = rows @ np.linalg.lstsq(rows, np.eye(CLASSES)[codes], rcond=None)[0]
    return (said.argmax(1) == codes).mean()


def test_rows_without_a_label_are_left_out():
    """Of a column as of a sequence."""
    bank, codes = planted()
    bank.table.loc[::3, "speaker"] = None
    edit = us.erase(bank, "hidden.1", "speaker")
    known = us.erase(bank.known("speaker"), "hidden.1", "speaker")
    given = us.erase(bank, "hidden.1", np.where(np.arange(len(codes)) % 3 == 0, -1, codes))
    for other in (known, given):
        np.testing.assert_allclose(edit.apply(bank["hidden.1"]), other.apply(bank["hidden.1"]))


@pytest.mark.parametrize("method", ["means", "leace"])
def test_class_means_become_equal_and_a_probe_knows_nothing(method):
    bank, codes = planted()
    edit = us.erase(bank, "hidden.1", "speaker", method=method)
    values = bank["hidden.1"]
    after = edit.apply(values)
    means = np.stack([after[codes == c].mean(0) for c in range(CLASSES)])
    np.testing.assert_allclose(means, np.tile(values.mean(0), (CLASSES, 1)), atol=1e-9)
    assert accuracy(values, codes) > 0.6
    assert accuracy(after, codes) == (codes == 0).mean()  # all are called the largest class
    assert edit.rank == CLASSES - 1
    np.testing.assert_allclose(edit.apply(after), after, atol=1e-9)  # erased once is erased


def test_leace_is_the_plain_formula_and_changes_less_than_means():
    from scipy.linalg import sqrtm

    bank, codes = planted()
    values = bank["hidden.1"]
    centred, labels = values - values.mean(0), np.eye(CLASSES)[codes]
    whiten = np.linalg.pinv(np.real(sqrtm(centred.T @ centred / len(values))))
    cross = np.zeros((WIDTH, CLASSES))
    for row, one in zip(centred, labels - labels.mean(0), strict=True):
        cross += np.outer(row, one) / len(values)
    seen = whiten @ cross
    projection = seen @ np.linalg.pinv(seen, rcond=1e-9)
    expected = np.stack([x - np.linalg.pinv(whiten) @ projection @ whiten @ (x - values.mean(0)) for x in values])
    after = us.erase(bank, "hidden.1", "speaker").apply(values)
    np.testing.assert_allclose(after, expected, atol=1e-8)
    means = us.erase(bank, "hidden.1", "speaker", method="means").apply(values)
    assert np.square(after - values).sum() < np.square(means - values).sum()


def test_means_take_out_only_directions_of_the_means():
    bank, codes = planted()
    edit = us.erase(bank, "hidden.1", "speaker", method="means")
    values = bank["hidden.1"]
    means = np.stack([values[codes == c].mean(0) for c in range(CLASSES)])
    others = np.linalg.svd(means - values.mean(0))[2][CLASSES:]
    np.testing.assert_allclose(edit.apply(values) @ others.T, values @ others.T, atol=1e-9)
    assert np.linalg.matrix_rank(values - edit.apply(values), tol=1e-6) == CLASSES - 1


def test_fewer_rows_than_channels_and_rows_without_a_label():
    bank, codes = planted(rows=30, dim=50)
    bank.table["speaker"] = np.where(np.arange(30) < 25, bank.table["speaker"], "")
    labels = bank.table["speaker"].tolist()
    edit = us.erase(bank, "hidden.1", labels)
    after = edit.apply(bank["hidden.1"])[:25]
    for c in range(CLASSES):
        np.testing.assert_allclose(after[codes[:25] == c].mean(0), after.mean(0), atol=1e-8)


@pytest.mark.parametrize("method", ["means", "leace"])
def test_a_placebo_loses_as_many_random_directions(method):
    model = shuffled(us.UniSpeechSatModel(small_config()))
    waves = list(torch.randn(12, 4000, generator=torch.Generator().manual_seed(0)))
    batch = us.Batch.from_arrays(waves, sampling_rate=16_000, ids=list("abcdefghijkl"), speaker=list("uvwxuvwxuvwx"))
    bank = us.collect(model, batch, "hidden.1", reduce="frames", progress=False)
    edit = us.erase(bank, "hidden.1", "speaker", method=method)
    values = bank.features("hidden.1")

    def inside(*edits):
        with us.intervene(model, *edits):
            return us.run(model, batch, "hidden.1")[1]["hidden.1"].flatten(0, 1).double().numpy()

    # the last step of hidden.1 is a layer norm: values vary in one direction by rounding alone
    np.testing.assert_allclose(inside(edit), edit.apply(values), atol=1e-4)
    one, two = (inside(us.Placebo(edit, seed=seed)) for seed in (1, 2))
    np.testing.assert_allclose(inside(*[us.Placebo(edit, seed=1)] * 2), one, atol=1e-4)
    assert np.abs(one - two).max() > 1e-2
    gone = values - one
    assert np.linalg.matrix_rank(gone - gone.mean(0), tol=1e-3) == edit.rank == 3
    if method == "leace":  # in the whitened space any three directions hold three units of variance
        centred = values - values.mean(0)
        for removed in (gone, values - inside(edit)):
            assert np.trace((removed - removed.mean(0)) @ edit.whiten @ edit.whiten @ centred.T) / len(
                values
            ) == pytest.approx(3, rel=1e-3)
    seeds = tuple(range(12))
    each = inside(us.Placebo(edit, seed=seeds)).reshape(12, -1, values.shape[1])
    np.testing.assert_allclose(each[1], one.reshape(each.shape)[1], atol=1e-4)
    for some in (edit, us.Placebo(edit, seed=1)):
        (again,) = from_json(to_json(some))
        np.testing.assert_array_equal(inside(again), inside(some))


@pytest.mark.wrong_types
def test_mistakes_are_said():
    bank, _ = planted()
    with pytest.raises(ValueError, match="method='inlp' must be one of means, leace"):
        us.erase(bank, "hidden.1", "speaker", method="inlp")
    with pytest.raises(ValueError, match="has one class only, 's1'"):
        us.erase(bank.where(speaker="s1"), "hidden.1", "speaker")
    alike = FeatureBank.from_arrays(bank.table[:4], {"hidden.1": np.ones((4, 3))})
    with pytest.raises(ValueError, match="have the same mean at hidden.1"):
        us.erase(alike, "hidden.1", "speaker", method="means")
    edit = us.erase(bank, "hidden.1", "speaker")
    with pytest.raises(ValueError, match=r"shape \(…, 10\), got \(3, 4\)"):
        edit.apply(np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"Erase takes basis \(rank, channels\)"):
        us.Erase("hidden.1", np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="leave head and dims out"):
        us.Erase("hidden.1", np.ones((1, 3)), np.ones(3), dims=[1])
    model = us.UniSpeechSatModel(small_config())
    with pytest.raises(ValueError, match="mean has 10 channels, hidden.1 needs 16"), us.intervene(model, edit):
        pass
