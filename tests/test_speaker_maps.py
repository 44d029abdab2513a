"""Maps of speakers: neighbours and places against loops, x-vectors and other banks against the model."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import shuffled, small_config
from widget_cases import model as backbone_alone

import unisat as us
from unisat.corpus import Batch
from unisat.interpret.activations.sites import find_backbone
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.speakers.maps import embed, every_other, nearest_utterances
from unisat.interpret.speakers.trials import several_sessions
from unisat.interpret.speakers.xvectors import collect_like, collect_like_each, xvectors

pytestmark = pytest.mark.runs_once


def bank(people=5, each=6, sites=("hidden.1", "hidden.2"), width=8, spread=0.8, **about):
    draw = np.random.default_rng(0)
    codes = np.repeat(np.arange(people), each)
    table = pd.DataFrame(
        {
            "id": [f"u{row:02}" for row in range(len(codes))],
            "speaker": [f"s{code}" for code in codes],
            "sex": ["FM"[code % 2] for code in codes],
            "sentence": [f"t{row % each}" for row in range(len(codes))],
            "session": None,
            "seconds": draw.random(len(codes)),
        }
    )
    arrays = {
        site: draw.standard_normal((people, width))[codes] + spread * draw.standard_normal((len(codes), width))
        for site in sites
    }
    return FeatureBank.from_arrays(table, arrays, about)


def close(ours, theirs):
    """Whether both are alike, next to the largest value."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * float(abs(theirs).max()))


@pytest.fixture(scope="module")
def model():
    return shuffled(us.UniSpeechSatForXVector(small_config()))


@pytest.fixture(scope="module")
def clips():
    return us.corpus.builtin().where(speaker=["v01", "v02", "v03", "v04"], sentence=["s01", "s02", "s03"]).batch()


def scaled(one, site):
    values = one[site].astype(float)
    return (values - values.mean(0)) / values.std(0)


def test_neighbours_are_the_largest_cosines_of_standardised_channels():
    one = bank()
    values = scaled(one, "hidden.1")
    cosines = [a @ values[7] / np.sqrt((a @ a) * (values[7] @ values[7])) for a in values]
    order = [row for row in sorted(range(30), key=lambda row: -cosines[row]) if row != 7]
    near = nearest_utterances(one, "hidden.1", 7, count=4)
    assert near.index.tolist() == order[:4]
    np.testing.assert_allclose(near["similarity"], [cosines[row] for row in order[:4]])
    assert near["speaker"].tolist() == one.table["speaker"].iloc[order[:4]].tolist()
    other = nearest_utterances(one, "hidden.1", one["hidden.1"][7], count=4)  # as of a stranger
    assert other.index.tolist() == [7, *order[:3]]
    assert other["similarity"].iloc[0] == pytest.approx(1)


def test_xvectors_are_those_of_each_utterance_alone(model, clips):
    uneven = Batch.from_arrays([clips.waveforms[row][: 8_000 + 400 * row] for row in range(12)], sampling_rate=16_000)
    got = xvectors(model, uneven, batch_seconds=3.0)
    assert got.ids == list(uneven.ids)
    for row in (0, 5, 11):
        wave = us.audio.normalize(uneven.waveforms[row])
        with torch.no_grad():
            alone = model(wave[None]).embeddings[0]
        close(got["xvector"][row], alone)
    with torch.no_grad():
        raw = model(clips.waveforms[0][None, :11_200]).embeddings[0]
    loud = xvectors(model, clips[:1], max_seconds=0.7, do_normalize=False)
    close(loud["xvector"][0], raw)


def test_xvectors_leave_the_model_as_it_was_and_refuse_what_has_none(model, clips):
    model.train()
    model.classifier.eval()
    twice = [xvectors(model, clips[:2], max_seconds=0.5)["xvector"] for _ in range(2)]
    np.testing.assert_array_equal(*twice)
    assert model.training
    assert not model.classifier.training
    model.eval()
    with pytest.raises(ValueError, match="UniSpeechSatModel gives no x-vectors"):
        xvectors(backbone_alone(), clips)
    with pytest.raises(ValueError, match=r"'v01_s01' has 0.010 s; an x-vector needs"):
        xvectors(model, clips, max_seconds=0.01)


@pytest.mark.parametrize("reduce", ["mean", "mean+std"])
def test_again_measures_as_the_bank_was_measured(model, clips, reduce):
    how = {"max_seconds": 0.5, "progress": False, "baselines": ["mfcc"]}
    one = us.collect(model, clips[:3], "hidden.2", reduce=reduce, **how)
    for site in ("hidden.2", "mfcc"):
        close(collect_like(model, one, clips[[1]])[site], one[site][[1]])
    vectors = xvectors(model, clips[:3], max_seconds=0.5)
    close(collect_like(model, vectors, clips[[1]])["xvector"], vectors["xvector"][[1]])
    theirs = us.collect(find_backbone(model)[1], clips[:3], "hidden.2", reduce=reduce, **how)
    assert collect_like(model, theirs, clips[[1]])["hidden.2"].shape == one["hidden.2"][[1]].shape


def test_again_refuses_what_it_cannot_repeat(model, clips):
    with pytest.raises(ValueError, match="does not say how it was made"):
        collect_like(model, bank(), clips[[0]])
    with pytest.raises(ValueError, match="made with another model"):
        collect_like(model, bank(model="0123", reduce="mean"), clips[[0]])
    norms = us.collect(model, clips[:2], "hidden.2", reduce="norms", max_seconds=0.5, progress=False)
    with pytest.raises(ValueError, match="reduce='norms' cannot be repeated"):
        collect_like(model, norms, clips[[0]])


@pytest.mark.parametrize("method", ["umap", "pca", "lda"])
def test_what_the_map_was_fitted_on_is_placed_where_it_is(method):
    one = bank()
    fit_on = np.arange(30) % 2 == 0 if method == "lda" else None
    made = embed(one, "hidden.1", method=method, n_neighbors=6, fit_on=fit_on)
    shown = np.ones(30, dtype=bool) if fit_on is None else ~fit_on
    np.testing.assert_allclose(made.place(one["hidden.1"][shown]), made.coordinates, atol=1e-4)


def test_umap_places_a_point_between_its_three_nearest_the_nearer_the_more():
    one = bank()
    made = embed(one, "hidden.1", n_neighbors=6)
    new = one["hidden.1"][3] + 0.3
    values, there = scaled(one, "hidden.1"), (new - one["hidden.1"].mean(0)) / one["hidden.1"].std(0)
    away = np.array([np.sqrt(sum((row - there) ** 2)) for row in values])
    nearest = np.argsort(away)[:3]
    weights = away[nearest] ** -2.0
    np.testing.assert_allclose(made.place(new[None])[0], weights @ made.coordinates[nearest] / weights.sum())


def test_lda_explains_a_share_of_the_scatter_between_classes():
    one, fit_on = bank(), np.arange(30) % 2 == 0
    made = embed(one, "hidden.1", method="lda", fit_on=fit_on)
    values = one["hidden.1"]
    values = (values - values[fit_on].mean(0)) / values[fit_on].std(0)
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto", priors=[0.2] * 5)
    lda.fit(values[fit_on], one.labels("speaker")[fit_on])
    within = lda.covariance_
    between = np.cov(lda.means_.T, bias=True)
    every = np.trace(np.linalg.solve(within, between))
    each = [v @ between @ v / (v @ within @ v) for v in lda.scalings_[:, :2].T]
    np.testing.assert_allclose(made.explained, np.array(each) / every, rtol=1e-6)
    assert 0 < made.explained[1] < made.explained[0]
    assert sum(made.explained) <= 1


def test_each_bank_is_measured_once_and_x_vectors_first(model, clips):
    one = us.collect(model, clips[:2], "hidden.2", max_seconds=0.5, progress=False)
    vectors = xvectors(model, clips[:2], max_seconds=0.5)
    found = collect_like_each(model, [one, vectors, one], clips[[1]])
    assert list(found) == [vectors, one]
    close(found[vectors]["xvector"], vectors["xvector"][[1]])
    short = Batch.from_arrays([clips.waveforms[0][5_000:5_500]], sampling_rate=16_000)
    with pytest.raises(ValueError, match="an x-vector needs"):  # rather than what the layers would say
        collect_like_each(model, [one, vectors], short)


def test_every_other_utterance_of_each_speaker():
    table = pd.DataFrame({"id": list("abcdefg"), "speaker": ["s", "t", "s", "s", "t", "u", "s"]})
    assert every_other(table).tolist() == [True, True, False, True, False, True, False]
    assert every_other(table[["id"]]).all()


def test_sessions_count_where_all_are_known_and_a_speaker_has_two():
    table = bank().table
    assert not several_sessions(table)
    assert not several_sessions(table.assign(session=table["speaker"]))
    two = [f"{speaker}-{row % 2}" for row, speaker in enumerate(table["speaker"])]
    assert several_sessions(table.assign(session=two))
    assert not several_sessions(table.assign(session=[None, *two[1:]]))
    assert not several_sessions(table.drop(columns="session"))
