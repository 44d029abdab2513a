"""Two-dimensional pictures: coordinates and the numbers that judge them, against loops and scikit-learn."""

import warnings

import numpy as np
import pandas as pd
import pytest

from unisat.interpret.features.bank import FeatureBank, Part
from unisat.interpret.speakers.maps import embed

pytestmark = pytest.mark.runs_once


def bank(values, **columns):
    table = pd.DataFrame({"id": [f"u{row}" for row in range(len(values))], **columns})
    return FeatureBank.from_arrays(table, {"hidden.1": values}, {"model": "0123"})


def voices(classes=4, each=8, spread=0.5, width=10, seed=0):
    draw = np.random.default_rng(seed)
    codes = np.repeat(np.arange(classes), each)
    values = draw.standard_normal((classes, width))[codes] + spread * draw.standard_normal((len(codes), width))
    speakers = [f"s{code}" for code in codes]
    return bank(values, speaker=speakers, sex=["FM"[code % 2] for code in codes])


@pytest.fixture(scope="module")
def drawn_by_umap():
    """The first UMAP of a process compiles for some seconds."""
    return embed(voices(), "hidden.1", n_neighbors=5)


def distances(values):
    return np.array([[np.sqrt(np.sum((one - two) ** 2)) for two in values] for one in values])


def test_pca_is_that_of_scikit_learn_on_standardised_channels():
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    both = voices()
    result = embed(both, "hidden.1", method="pca")
    theirs = PCA(2).fit(StandardScaler().fit_transform(both["hidden.1"]))
    expected = theirs.transform(StandardScaler().fit_transform(both["hidden.1"]))
    signs = np.sign((expected * result.coordinates).sum(0))
    np.testing.assert_allclose(result.coordinates, expected * signs, atol=1e-9)
    np.testing.assert_allclose(result.explained, theirs.explained_variance_ratio_)
    raw = embed(both, "hidden.1", method="pca", standardize=False)
    np.testing.assert_allclose(raw.explained, PCA(2).fit(both["hidden.1"]).explained_variance_ratio_)


def test_a_constant_channel_changes_nothing():
    both = voices()
    more = np.concatenate([both["hidden.1"], np.full((32, 1), 7.0)], axis=1)
    first = embed(both, "hidden.1", method="pca")
    second = embed(bank(more, speaker=both.labels("speaker")), "hidden.1", method="pca")
    np.testing.assert_allclose(np.abs(first.coordinates), np.abs(second.coordinates), atol=1e-9)


def test_purity_is_the_share_of_neighbours_of_the_same_class_in_features_and_in_the_picture():
    both = voices(spread=1.5)
    result = embed(both, "hidden.1", method="pca")
    values = both["hidden.1"]
    values = (values - values.mean(0)) / values.std(0)
    for column in ("speaker", "sex"):
        labels = both.labels(column)
        for key, data in (("original", values), ("drawn", result.coordinates)):
            far = distances(data) + np.diag(np.full(32, np.inf))
            shares = [np.mean(labels[np.argsort(row)[:5]] == own) for row, own in zip(far, labels, strict=True)]
            assert result.purity(column)[key] == pytest.approx(np.mean(shares))
    assert result.purity() == result.purity("speaker") == result.settings["purity"]
    assert result.purity()["original"] > result.purity()["drawn"] > result.purity()["chance"] == 7 / 31
    assert result.purity("sex")["chance"] == 15 / 31


def test_purity_looks_at_no_more_neighbours_than_the_smallest_class_can_give():
    draw = np.random.default_rng(0)
    labels = ["a"] * 6 + ["b"] * 3
    values = draw.standard_normal((9, 4)) + 100 * (np.array(labels) == "b")[:, None]
    result = embed(bank(values, speaker=labels), "hidden.1", method="pca")
    assert result.purity() == {
        "original": 1,
        "drawn": 1,
        "chance": pytest.approx((6 * 5 + 3 * 2) / 9 / 8),
        "neighbors": 2,
    }


def test_trustworthiness_counts_neighbours_that_only_the_picture_has():
    both, count, rows = voices(spread=2.0), 6, 32
    result = embed(both, "hidden.1", method="pca", n_neighbors=count)
    values = both["hidden.1"]
    ranks = distances((values - values.mean(0)) / values.std(0)).argsort().argsort()  # 0 is the point itself
    near = distances(result.coordinates).argsort()[:, 1 : count + 1]
    lost = sum(max(ranks[row, other] - count, 0) for row in range(rows) for other in near[row])
    expected = 1 - 2 / (rows * count * (2 * rows - 3 * count - 1)) * lost
    assert result.trustworthiness == pytest.approx(expected)
    assert 0.5 < result.trustworthiness < 1


def test_lda_shows_noise_as_classes_unless_it_has_not_seen_it():
    draw = np.random.default_rng(0)
    noise = bank(draw.standard_normal((120, 300)), speaker=[f"s{row % 4}" for row in range(120)])
    with pytest.warns(UserWarning, match="fitted on the labels that it shows: 'speaker' looks separable"):
        seen = embed(noise, "hidden.1", method="lda")
    unseen = embed(noise, "hidden.1", method="lda", fit_on=np.arange(120) < 60)
    assert seen.purity()["drawn"] > 0.5
    assert unseen.purity()["drawn"] == pytest.approx(unseen.purity()["chance"], abs=0.1)
    assert unseen.utterances["id"].tolist() == [f"u{row}" for row in range(60, 120)]
    assert (unseen.settings["fitted"], unseen.settings["shown"]) == (60, 60)


def test_lda_finds_classes_where_they_are():
    both = voices(each=20, width=30)
    odd = np.arange(80) % 2 == 1
    result = embed(both, "hidden.1", method="lda", fit_on=odd)
    assert result.purity()["drawn"] > 0.9
    assert result.explained[0] > result.explained[1] > 0


def test_umap_keeps_planted_groups(drawn_by_umap):
    assert drawn_by_umap.purity()["drawn"] > 0.9
    assert drawn_by_umap.trustworthiness > 0.85
    assert drawn_by_umap.explained is None


def test_umap_gives_the_same_picture_each_time_without_a_word(drawn_by_umap):
    np.random.seed(3)  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = embed(voices(), "hidden.1", n_neighbors=5)
    np.testing.assert_array_equal(again.coordinates, drawn_by_umap.coordinates)
    other = embed(voices(), "hidden.1", n_neighbors=5, seed=1)
    assert not np.array_equal(other.coordinates, drawn_by_umap.coordinates)


def test_the_table_names_every_point(tmp_path):
    both = voices()
    result = embed(both, "hidden.1", method="pca")
    table = result.table()
    assert table[["id", "speaker", "sex"]].equals(both.table)
    np.testing.assert_array_equal(table[["x", "y"]], result.coordinates)
    result.save(tmp_path / "points.csv")
    assert pd.read_csv(tmp_path / "points.csv")["id"].tolist() == both.ids
    assert '"model": "0123"' in (tmp_path / "points.json").read_text()


def frames():
    arrays = {"hidden.1": np.ones((6, 3)), "hidden.1#frames": np.array([4, 2])}
    return FeatureBank(pd.DataFrame({"id": ["a", "b"], "speaker": ["a", "b"]}), [Part(np.arange(2), arrays)])


def with_nan():
    values = np.ones((8, 3))
    values[2] = np.nan
    return bank(values, speaker=list("abababab"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: embed(voices(), "hidden.1", method="tsne"), "method='tsne' must be one of umap, pca, lda"),
        (lambda: embed(voices(), "hidden.1", color="accent"), "no column 'accent'"),
        (lambda: embed(voices(1, 4), "hidden.1", method="pca"), "at least 5 utterances, got 4"),
        (lambda: embed(voices(), "hidden.1", n_neighbors=32), "n_neighbors=32 must lie between 2 and 31"),
        (lambda: embed(voices(), "hidden.1", method="lda", color="sex"), "at least 3 classes .* 'sex' has 2 in 32"),
        (lambda: embed(voices(8, 1), "hidden.1", method="lda"), "more utterances than classes; 'speaker' has 8 in 8"),
        (lambda: embed(voices(), "hidden.1", method="pca", fit_on=[True] * 32), "fit_on is for method='lda'"),
        (lambda: embed(voices(), "hidden.1", method="lda", fit_on=[True] * 31), "True or False for each of the 32"),
        (lambda: embed(voices(), "hidden.1", method="lda", fit_on=[True] * 32), "at least 5 utterances, got 0"),
        (
            lambda: embed(bank(np.ones((8, 3)), speaker=list("abababab")), "hidden.1", method="pca"),
            "features that vary",
        ),
        (lambda: embed(with_nan(), "hidden.1", method="pca"), "not finite for 1 utterance.*'u2'"),
        (lambda: embed(frames(), "hidden.1"), "'hidden.1' has a row for each frame"),
        (lambda: embed(voices(), "hidden.1", method="pca").purity("age"), "'age' is no column"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
