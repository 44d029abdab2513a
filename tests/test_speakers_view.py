"""Maps of speakers: neighbours, rates and places against loops; clicks, outlines and uploads without a browser."""

import io

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from matplotlib.colors import to_rgba_array

import unisat as us
from unisat.corpus import Batch
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.speakers.maps import again, embed, neighbours, xvectors
from unisat.interpret.statistics.error_rates import eer
from unisat.plots import CLASSES
from unisat.widgets._picture import Refusal
from unisat.widgets._speakers import LEAST, SpeakersView, speakers


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


def sounds(one):
    noise = torch.Generator().manual_seed(0)
    waves = [0.1 * torch.randn(8_000, generator=noise) for _ in range(len(one))]
    return Batch.from_arrays(waves, sampling_rate=16_000, ids=one.ids)


def upload(samples, rate=16_000, name="me.wav", **options):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", **options)
    return {"name": name, "size": file.tell(), "content": file.getvalue()}


@pytest.fixture(scope="module")
def model():
    return us.load("tiny", "xvector")


@pytest.fixture(scope="module")
def clips():
    return us.corpus.builtin().where(speaker=["v01", "v02", "v03", "v04"], sentence=["s01", "s02", "s03"]).batch()


@pytest.fixture(scope="module")
def collected(model, clips):
    return us.collect(model, clips, ["hidden.1", "hidden.4"], max_seconds=0.6, progress=False)


@pytest.fixture
def view():
    plain = bank()
    made = speakers(plain, sounds(plain))
    yield made
    made.close()


@pytest.fixture(scope="module")
def kept(collected, clips, model):
    made = speakers(collected, clips, model)
    assert isinstance(made, SpeakersView), made.error
    yield made
    made.close()


@pytest.fixture
def real(kept):
    kept.set(site="xvector", beside="pca", utterance=0, select="lasso", recording=None)
    return kept


# what is computed


def scaled(one, site):
    values = one[site].astype(float)
    return (values - values.mean(0)) / values.std(0)


def test_neighbours_are_the_largest_cosines_of_standardised_channels():
    one = bank()
    values = scaled(one, "hidden.1")
    cosines = [a @ values[7] / np.sqrt((a @ a) * (values[7] @ values[7])) for a in values]
    order = [row for row in sorted(range(30), key=lambda row: -cosines[row]) if row != 7]
    near = neighbours(one, "hidden.1", 7, count=4)
    assert near.index.tolist() == order[:4]
    np.testing.assert_allclose(near["similarity"], [cosines[row] for row in order[:4]])
    assert near["speaker"].tolist() == one.table["speaker"].iloc[order[:4]].tolist()
    other = neighbours(one, "hidden.1", one["hidden.1"][7], count=4)  # the same features, as those of a stranger
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
        torch.testing.assert_close(torch.from_numpy(got["xvector"][row]), alone, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        raw = model(clips.waveforms[0][None, :11_200]).embeddings[0]
    loud = xvectors(model, clips[:1], max_seconds=0.7, do_normalize=False)
    torch.testing.assert_close(torch.from_numpy(loud["xvector"][0]), raw, rtol=1e-3, atol=1e-3)


def test_xvectors_leave_the_model_as_it_was_and_refuse_what_has_none(model, clips):
    model.train()
    model.classifier.eval()
    twice = [xvectors(model, clips[:2], max_seconds=0.5)["xvector"] for _ in range(2)]
    np.testing.assert_array_equal(*twice)
    assert model.training
    assert not model.classifier.training
    model.eval()
    with pytest.raises(ValueError, match="UniSpeechSatModel gives no x-vectors"):
        xvectors(us.load("tiny"), clips)
    with pytest.raises(ValueError, match=r"'v01_s01' has 0.010 s; an x-vector needs"):
        xvectors(model, clips, max_seconds=0.01)


@pytest.mark.parametrize("reduce", ["mean", "mean+std"])
def test_again_measures_as_the_bank_was_measured(model, clips, reduce):
    how = {"max_seconds": 0.5, "progress": False, "baselines": ["mfcc"]}
    one = us.collect(model, clips[:3], "hidden.2", reduce=reduce, **how)
    for site in ("hidden.2", "mfcc"):
        np.testing.assert_allclose(again(model, one, clips[[1]])[site], one[site][[1]], rtol=1e-3, atol=1e-4)
    vectors = xvectors(model, clips[:3], max_seconds=0.5)
    np.testing.assert_allclose(
        again(model, vectors, clips[[1]])["xvector"], vectors["xvector"][[1]], rtol=1e-3, atol=1e-3
    )
    backbone = us.load("tiny")
    theirs = us.collect(backbone, clips[:3], "hidden.2", reduce=reduce, **how)
    assert again(model, theirs, clips[[1]])["hidden.2"].shape == one["hidden.2"][[1]].shape


def test_again_refuses_what_it_cannot_repeat(model, clips):
    with pytest.raises(ValueError, match="does not say how it was made"):
        again(model, bank(), clips[[0]])
    with pytest.raises(ValueError, match="made with another model"):
        again(model, bank(model="0123", reduce="mean"), clips[[0]])
    norms = us.collect(model, clips[:2], "hidden.2", reduce="norms", max_seconds=0.5, progress=False)
    with pytest.raises(ValueError, match="reduce='norms' cannot be repeated"):
        again(model, norms, clips[[0]])


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


# what is shown


def points(view, side):
    return np.concatenate([one.get_offsets() for one in view._points[side].values()])


def test_numbers_are_those_of_the_features(view):
    one = view.banks["hidden.2"]
    assert view.controls["site"].value == "hidden.2"
    values = scaled(one, "hidden.2")
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    pairs = np.triu_indices(30, 1)
    speaker = one.table["speaker"].to_numpy()
    rate = eer((values @ values.T)[pairs], speaker[pairs[0]] == speaker[pairs[1]])
    assert view.numbers["eer"] == pytest.approx(rate)
    low, high = view.numbers["interval"]
    assert low <= rate <= high
    assert f"rate by cosine {rate:.0%} ({low:.0%} to {high:.0%})" in view.sentence
    pca = embed(one, "hidden.2", method="pca")
    assert view.numbers["purity"]["pca"] == pca.purity("speaker")
    assert view.numbers["trustworthiness"]["pca"] == pca.trustworthiness
    assert f"{pca.purity('speaker')['original']:.0%} have the same speaker (chance 17%)" in view.sentence
    assert "UMAP and PCA of hidden.2, 30 utterances of 5 speakers" in view.sentence


def test_maps_show_every_utterance_in_the_colour_and_shape_of_its_class(view):
    for side, method in enumerate(("umap", "pca")):
        assert sorted(points(view, side).tolist()) == sorted(view.maps[method].coordinates.tolist())
    colours = view._points[1]["o"].get_facecolors()
    np.testing.assert_array_equal(colours, to_rgba_array([CLASSES[row // 6] for row in range(30)]))
    legend = view._names.get_legend()
    assert [one.get_text() for one in legend.get_texts()] == ["s0", "s1", "s2", "s3", "s4"]
    view.controls["color"].value = "sex"
    assert [one.get_text() for one in view._names.get_legend().get_texts()] == ["F", "M"]
    assert view._names.get_legend().get_title().get_text() == "sex"
    assert {tuple(one) for one in view._points[1]["o"].get_facecolors()} < {tuple(one) for one in colours}
    assert "the same sex" in view.sentence


def test_more_than_eight_speakers_differ_in_shape_and_more_than_24_are_grey():
    made = speakers(bank(people=26, each=3, sites=("hidden.1",)))
    assert [len(one.get_offsets()) for one in made._points[0].values()] == [3 * len(CLASSES)] * 3
    assert len(made._others[0].get_offsets()) == 2 * 3
    made.close()


def test_every_control_changes_the_picture_and_what_it_should(view):
    seen = {view.png}
    moves = {
        "site": "hidden.1",
        "beside": "lda",
        "n_neighbors": 5,
        "color": "sentence",
        "utterance": 9,
        "select": "class",
    }
    for name, value in moves.items():
        view.controls[name].value = value
        assert view.error is None
        assert view.png not in seen
        seen.add(view.png)
    assert view.maps["umap"].settings["n_neighbors"] == 5
    assert view.maps["lda"].site == "hidden.1"
    assert view.selection["sentence"].unique().tolist() == ["t3"]
    assert "Ringed: u09 (speaker s1)" in view.sentence
    view.set(site="hidden.2", beside="pca", n_neighbors=15, color="speaker", utterance=0, select="lasso")
    assert view.png in seen


def test_lda_is_fitted_on_half_of_each_speaker_and_shows_the_other(view):
    view.controls["beside"].value = "lda"
    assert view.maps["lda"].held_out
    assert view.maps["lda"].utterances["sentence"].unique().tolist() == ["t1", "t3", "t5"]
    assert len(view._others[1].get_offsets()) == 15
    np.testing.assert_allclose(sorted(points(view, 1).tolist()), sorted(view.maps["lda"].coordinates.tolist()))


def test_a_click_chooses_the_nearest_point_and_plays_it(view):
    ax = view.figure.axes[1]
    x, y = view.maps["pca"].coordinates[13]
    view.clicked(ax, x, y)
    assert view.controls["utterance"].value == 13
    assert [one["label"] for one in view.stage.sounds] == ["u13, 0.5 s"]
    ring = view._rings[1][0]
    assert [float(one[0]) for one in ring.get_data()] == pytest.approx([x, y])
    assert "Ringed: u13 (speaker s2)" in view.sentence
    far = ax.get_xlim()[0], ax.get_ylim()[1]
    view.clicked(ax, *far)
    view.clicked(view.figure.axes[2], x, y)  # the legend
    assert view.controls["utterance"].value == 13


def test_outlined_points_become_a_frame_and_are_ringed_on_both_maps(view):
    ax, where = view.figure.axes[1], view.maps["pca"].coordinates
    middle = np.median(where[:, 0])
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    view.controls["select"].value = "class"
    view.lassoed(ax, np.array([[middle, low], [right, low], [right, high], [middle, high]]))
    inside = np.flatnonzero(where[:, 0] > middle)
    assert view.selection.index.tolist() == inside.tolist()
    assert view.controls["select"].value == "lasso"
    umap = np.stack(view._rings[0][1].get_data(), axis=1)
    np.testing.assert_allclose(umap, view.maps["umap"].coordinates[inside])
    assert f"Selected: {len(inside)}, the first 8" in view.stage.extra
    view.lassoed(ax, np.array([[left, low], [middle, low], [middle, high], [left, high]]))
    assert view.selection.index.tolist() == np.flatnonzero(where[:, 0] < middle).tolist()
    assert view.figure.axes[1] is ax


def test_neighbours_can_be_selected_by_keyboard_alone(view):
    view.set(utterance=4, select="nearest")
    expected = neighbours(view.banks["hidden.2"], "hidden.2", 4)
    assert view.neighbours.index.tolist() == expected.index.tolist()
    assert view.selection.index.tolist() == sorted(expected.index)
    assert f"{expected['similarity'].iloc[0]:.2f}" in view.stage.extra


def test_names_from_outside_are_escaped():
    one = bank()
    one.table.loc[0, ["id", "speaker"]] = "<b>x</b>"
    made = speakers(one)
    made.controls["select"].value = "class"
    assert "<b>x" not in made.stage.extra
    assert "&lt;b&gt;x" in made.stage.extra
    made.close()


# recordings


def test_a_recording_that_the_bank_holds_lies_on_its_own_point(real, clips):
    real.controls["recording"].value = upload(clips.waveforms[7].numpy())
    assert real.error is None
    for site in ("hidden.1", "hidden.4", "xvector"):
        real.set(site=site)
        assert real.neighbours["id"].iloc[0] == clips.ids[7]
        assert real.neighbours["similarity"].iloc[0] > 0.99
        star, where = np.array(real._stars[1].get_data())[:, 0], real.maps["pca"].coordinates
        away = np.linalg.norm(where - star, axis=1)
        assert away[7] < 0.02 * np.median(away)
        umap = np.array(real._stars[0].get_data())[:, 0]
        assert np.linalg.norm(real.maps["umap"].coordinates - umap, axis=1).argmin() == 7
    assert "Nearest to the star, me.wav, in the features: v03_s02" in real.sentence
    assert [one["label"][:6] for one in real.stage.sounds] == ["v01_s0", "me.wav"]
    real.controls["recording"].value = None
    assert len(real._stars[0].get_data()[0]) == 0


def test_recordings_are_pooled_like_the_bank(clips, model):
    one = us.collect(model, clips, "hidden.4", max_seconds=0.6, progress=False)
    made = speakers(one, clips, us.load("tiny", "xvector"), pool="mean+std")
    assert made.maps["pca"].settings["pool"] is None  # of x-vectors
    made.set(site="hidden.4", recording=upload(clips.waveforms[2].numpy()))
    assert made.maps["pca"].settings["pool"] == "mean+std"
    assert made.neighbours["similarity"].iloc[0] > 0.99
    made.close()


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"), [(96_000, 1, "PCM_16"), (16_000, 6, "PCM_16"), (8_000, 1, "PCM_U8")]
)
def test_recordings_of_other_formats_are_heard(real, rate, channels, subtype):
    draw = np.random.default_rng(0)
    real.controls["recording"].value = upload(0.1 * draw.standard_normal((rate, channels)), rate, subtype=subtype)
    assert real.error is None
    assert "Nearest to the star" in real.sentence
    assert ("6 channels; taking their mean" in real.sentence) == (channels == 6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "a.txt", "size": 3, "content": b"abc"}, "a.txt could not be read as sound"),
        ({"name": "empty.wav", "size": 0, "content": b""}, "empty.wav could not be read as sound"),
        (upload(np.zeros(300)), "has 300 samples, one frame needs 400"),
        (upload(np.zeros(61 * 8_000), 8_000, subtype="PCM_U8"), "is 61 s long; cut it to 60 s"),
        ({"name": "hour.wav", "size": 115_000_000, "content": b""}, "hour.wav has 115 MB, a page can send 8 MB"),
        (upload(np.r_[0.1, np.zeros(399)]), "me.wav"),
    ],
)
def test_what_cannot_be_heard_is_said_once_and_does_not_block_the_rest(real, given, said):
    sentence = real.sentence
    real.controls["recording"].value = given
    assert isinstance(real.error, ValueError)
    assert said in real.stage.alert
    assert real.sentence == sentence
    real.controls["utterance"].value = 3
    assert real.error is None
    assert real.stage.alert == ""
    assert "Ringed: v02_s01" in real.sentence


# what cannot be shown


def test_too_few_utterances_are_refused_in_the_widget():
    made = speakers(bank(people=1, each=2))
    assert isinstance(made, Refusal)
    assert f"needs {LEAST} utterances or more, got 2; collect more" in made.sentence
    made.close()
    least = speakers(bank(people=2, each=LEAST // 2))
    assert least.error is None
    least.close()


def test_one_speaker_has_maps_but_no_error_rate(view):
    made = speakers(bank(people=1, each=12))
    assert made.error is None
    assert made.numbers["eer"] is None
    assert "no error rate, which needs two speakers with two utterances each; collect more" in made.sentence
    made.controls["beside"].value = "lda"
    assert "LDA needs at least 3 classes" in made.stage.alert
    assert "pca" in made.stage.alert
    made.controls["beside"].value = "pca"
    assert made.stage.alert == ""
    made.close()


def test_two_utterances_of_a_speaker_are_too_few_for_lda():
    made = speakers(bank(people=4, each=4, width=40))
    made.controls["beside"].value = "lda"
    assert "LDA needs at least 3 utterances of each class to fit on, 'speaker' has a class with 2" in made.stage.alert
    made.close()


def test_without_speech_or_a_model_there_is_nothing_to_hear_or_to_upload():
    made = speakers(bank())
    assert "recording" not in made.controls
    assert made.stage.sounds == []
    made.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: speakers(bank(), sounds(bank(people=3))),
            r"12 utterances of the bank are not in speech \(first: 'u18'\)",
        ),
        (lambda: speakers([bank(), bank(people=4)]), "of different utterances, or in another order"),
    ],
)
def test_what_does_not_belong_together_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        raise make().error


def test_files_named_by_the_bank_are_played_as_far_as_they_were_heard(collected, model):
    corpus = us.corpus.builtin().where(speaker=["v01", "v02"], sentence=[f"s{row:02}" for row in range(1, 7)])
    one = us.collect(model, corpus, "hidden.1", max_seconds=0.5, progress=False)
    made = speakers(one)
    assert [one["label"] for one in made.stage.sounds] == ["v01_s01, 0.5 s"]
    made.close()


def test_sessions_are_told_apart_where_they_are_known():
    one = bank()
    one.table["session"] = [f"{speaker}-{row % 2}" for row, speaker in enumerate(one.table["speaker"])]
    made = speakers(one)
    scored = us.verify_trials(one, "hidden.2", exclude_same_session=True)
    assert made.sessions
    assert made.numbers["eer"] == pytest.approx(scored.eer())
    assert made.numbers["eer"] != pytest.approx(us.verify_trials(one, "hidden.2", exclude_same_session=False).eer())
    assert "session" in made.controls["color"].options
    made.close()
