"""The speakers widget: maps, neighbours and rates against the features; clicks, outlines and uploads."""

import copy
import json

import numpy as np
import pytest
import torch
from conftest import shuffled, small_config
from matplotlib.colors import to_rgba_array
from test_speaker_maps import bank, scaled
from widget_cases import LETTER, upload

import unisat as us
from unisat.corpus import Batch
from unisat.interpret.speakers.maps import embed, nearest_utterances
from unisat.interpret.statistics.error_rates import eer
from unisat.plots import CLASSES
from unisat.widgets._picture import Refusal
from unisat.widgets._speakers import LEAST, SpeakersView, speakers

pytestmark = pytest.mark.runs_once


def sounds(one):
    noise = torch.Generator().manual_seed(0)
    waves = [0.1 * torch.randn(8_000, generator=noise) for _ in range(len(one))]
    return Batch.from_arrays(waves, sampling_rate=16_000, ids=one.ids)


@pytest.fixture(scope="module")
def model():
    return shuffled(us.UniSpeechSatForXVector(small_config()))


@pytest.fixture(scope="module")
def clips():
    return us.corpus.builtin().where(speaker=["v01", "v02", "v03", "v04"], sentence=["s01", "s02", "s03"]).batch()


@pytest.fixture(scope="module")
def collected(model, clips):
    return us.collect(model, clips, ["hidden.1", "hidden.3"], max_seconds=0.6, progress=False)


@pytest.fixture(scope="module")
def plain():
    made = speakers(bank(), sounds(bank()))
    assert isinstance(made, SpeakersView), made.error
    yield made
    made.close()


@pytest.fixture
def view(plain):
    """One widget for all tests, each of which begins where it began."""
    plain.outlined = np.zeros(30, dtype=bool)
    plain.set(site="hidden.2", beside="pca", n_neighbors=15, color="speaker", hide=(), search="")
    plain.set(utterance=0, select="lasso")
    return plain


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


def points(view, side):
    return np.concatenate([one.get_offsets() for one in view.drawn[side].points.values()])


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
    assert f"rate by cosine {rate:.0%} ({low:.0%} to {high:.0%})" in view.caption
    pca = embed(one, "hidden.2", method="pca")
    assert view.numbers["purity"]["pca"] == pca.purity("speaker")
    assert view.numbers["trustworthiness"]["pca"] == pca.trustworthiness
    assert f"{pca.purity('speaker')['original']:.0%} have the same speaker (chance 17%)" in view.caption
    assert "UMAP and PCA of hidden.2, 30 utterances of 5 speakers" in view.caption


def test_maps_show_every_utterance_in_the_colour_and_shape_of_its_class(view):
    for side, method in enumerate(("umap", "pca")):
        assert sorted(points(view, side).tolist()) == sorted(view.maps[method].coordinates.tolist())
    colours = view.drawn[1].points["o"].get_facecolors()
    np.testing.assert_array_equal(colours, to_rgba_array([CLASSES[row // 6] for row in range(30)]))
    legend = view.names.get_legend()
    assert [one.get_text() for one in legend.get_texts()] == ["s0", "s1", "s2", "s3", "s4"]
    view.controls["color"].value = "sex"
    assert [one.get_text() for one in view.names.get_legend().get_texts()] == ["F", "M"]
    assert view.names.get_legend().get_title().get_text() == "sex"
    assert {tuple(one) for one in view.drawn[1].points["o"].get_facecolors()} < {tuple(one) for one in colours}
    assert "the same sex" in view.caption


def test_more_than_eight_speakers_differ_in_shape_and_more_than_24_are_grey():
    made = speakers(bank(people=26, each=3, sites=("hidden.1",)))
    assert [len(one.get_offsets()) for one in made.drawn[0].points.values()] == [3 * len(CLASSES)] * 3
    assert len(made.drawn[0].others.get_offsets()) == 2 * 3
    made.close()


def test_every_control_shows_what_it_should(view):
    view.set(site="hidden.1", beside="lda", n_neighbors=5, color="sentence", utterance=9, select="class")
    assert view.error is None
    assert view.maps["umap"].settings["n_neighbors"] == 5
    assert view.maps["lda"].site == "hidden.1"
    assert view.selection["sentence"].unique().tolist() == ["t3"]
    assert "Ringed: u09 (speaker s1)" in view.caption


def test_lda_is_fitted_on_half_of_each_speaker_and_shows_the_other(view):
    view.controls["beside"].value = "lda"
    assert view.maps["lda"].held_out
    assert view.maps["lda"].utterances["sentence"].unique().tolist() == ["t1", "t3", "t5"]
    assert len(view.drawn[1].others.get_offsets()) == 15
    np.testing.assert_allclose(sorted(points(view, 1).tolist()), sorted(view.maps["lda"].coordinates.tolist()))


def test_a_click_chooses_the_nearest_point_and_plays_it(view):
    ax = view.figure.axes[1]
    (x, y), before = view.maps["pca"].coordinates[13].astype("f4"), view.stage.play  # as the page knows the place
    view.clicked(ax, float(x), float(y))
    assert view.controls["utterance"].value == 13
    assert [one["label"] for one in view.stage.sounds] == ["u13, 0.5 s"]
    assert view.stage.play == before + 1
    ring = view.drawn[1].ring
    assert [float(one[0]) for one in ring.get_data()] == pytest.approx([x, y])
    assert "Ringed: u13 (speaker s2)" in view.caption
    far = ax.get_xlim()[0], ax.get_ylim()[1]
    view.clicked(ax, *far)
    view.clicked(view.figure.axes[2], x, y)  # the legend
    assert view.controls["utterance"].value == 13
    assert view.stage.play == before + 1
    view.clicked(ax, float(x), float(y))  # the same again
    assert view.stage.play == before + 2


def named(view, side):
    """Places and names of all points, as the page gets them."""
    parts = view.stage.scene["axes"][side]["artists"]
    for one in parts:
        if one["kind"] == "points":
            where = np.frombuffer(view.stage._arrays[one["points"]], "<f4").reshape(-1, 2)
            yield from zip(where.tolist(), json.loads(view.stage._arrays[one["names"]]), strict=True)


@pytest.mark.parametrize("beside", ["pca", "lda"])
def test_the_page_knows_the_name_of_every_point(view, beside):
    view.set(beside=beside, color="sentence")
    for side, method in ((0, "umap"), (1, beside)):
        found = {name: place for place, name in named(view, side)}
        expected = {f"u{row:02} (speaker s{row // 6})": row for row in range(30)}
        assert set(found) == set(expected)
        if method != "lda":
            for name, row in expected.items():
                assert found[name] == pytest.approx(view.maps[method].coordinates[row].tolist(), rel=1e-5)


def test_lines_go_from_the_point_to_its_neighbours_on_both_maps(view):
    view.set(utterance=4)
    near = nearest_utterances(view.banks["hidden.2"], "hidden.2", 4).index
    for side, method in enumerate(("umap", "pca")):
        where, lines = view.maps[method].coordinates, np.array(view.drawn[side].near.get_segments())
        np.testing.assert_allclose(lines[:, 0], np.broadcast_to(where[4], (5, 2)))
        np.testing.assert_allclose(sorted(lines[:, 1].tolist()), sorted(where[near].tolist()))


def test_a_selection_can_be_cleared(view):
    view.outlined = np.arange(30) < 3
    view.set(select="lasso")
    assert len(view.selection) == 3
    view.set(select="nothing")
    assert len(view.selection) == 0
    assert len(view.drawn[0].rings.get_data()[0]) == 0
    assert "0 rows selected" in view.caption
    view.set(select="lasso")
    assert len(view.selection) == 3
    view.reset()
    assert len(view.selection) == 0


def test_outlined_points_become_a_frame_and_are_ringed_on_both_maps(view):
    ax, where = view.figure.axes[1], view.maps["pca"].coordinates
    middle = np.median(where[:, 0])
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    view.controls["select"].value = "class"
    view.lassoed(ax, np.array([[middle, low], [right, low], [right, high], [middle, high]]))
    inside = np.flatnonzero(where[:, 0] > middle)
    assert view.selection.index.tolist() == inside.tolist()
    assert view.controls["select"].value == "lasso"
    umap = np.stack(view.drawn[0].rings.get_data(), axis=1)
    np.testing.assert_allclose(umap, view.maps["umap"].coordinates[inside])
    assert f"Selected: {len(inside)}, the first 8" in view.stage.extra
    view.lassoed(ax, np.array([[left, low], [middle, low], [middle, high], [left, high]]))
    assert view.selection.index.tolist() == np.flatnonzero(where[:, 0] < middle).tolist()
    assert view.figure.axes[1] is ax


def test_neighbours_can_be_selected_by_keyboard_alone(view):
    view.set(utterance=4, select="nearest")
    expected = nearest_utterances(view.banks["hidden.2"], "hidden.2", 4)
    assert view.neighbours.index.tolist() == expected.index.tolist()
    assert view.selection.index.tolist() == sorted(expected.index)
    assert f"{expected['similarity'].iloc[0]:.2f}" in view.stage.extra


def test_an_utterance_is_found_by_a_part_of_its_id(view):
    view.controls["search"].value = "U1"
    assert view.caption.startswith("'U1' is in 10 ids (u10, u11, u12, …); type more of one.")
    assert view.controls["utterance"].value == 0
    view.controls["search"].value = " u17 "
    assert view.controls["utterance"].value == 17
    assert view.caption.startswith("UMAP and PCA")
    assert "Ringed: u17" in view.caption
    assert view.as_code().endswith("search=' u17 ', utterance=17)")
    view.controls["search"].value = "u99"
    assert view.caption.startswith("No id contains 'u99'.")
    assert view.controls["utterance"].value == 17
    view.set(search="u03", utterance=4)  # as code that is copied sets them
    assert view.controls["utterance"].value == 4
    view.set(search="")
    assert view.caption.startswith("UMAP and PCA")


def test_a_whole_id_is_found_though_others_contain_it():
    one = bank()
    one.table["id"] = [f"u{row}" for row in range(30)]
    made = speakers(one)
    made.controls["search"].value = "u2"
    assert made.controls["utterance"].value == 2
    made.close()


def test_a_click_in_the_legend_hides_a_class_and_shows_it_again(view):
    text = view.names.get_legend().get_texts()[1]
    box = text.get_window_extent().transformed(view.names.transData.inverted())
    where = view.maps["pca"].coordinates
    view.set(select="class", utterance=7)
    mine = view.stage.scene["axes"][0]["box"]
    view.clicked(view.names, box.x0, (box.y0 + box.y1) / 2)
    assert view.controls["hide"].value == ("s1",)
    assert view.shown.tolist() == [row // 6 != 1 for row in range(30)]
    for side in (0, 1):
        rest = view.maps["umap" if side == 0 else "pca"].coordinates[view.shown]
        assert sorted(points(view, side).tolist()) == sorted(rest.tolist())
        names = {f"u{row:02} (speaker s{row // 6})" for row in np.flatnonzero(view.shown)}
        assert {name for _, name in named(view, side)} == names
    assert view.stage.scene["axes"][0]["box"] == mine
    assert len(view.selection) == 0
    near = nearest_utterances(view.banks["hidden.2"], "hidden.2", 7).index
    unseen = sum(row // 6 == 1 for row in near)
    assert unseen > 0
    assert f"Hidden: s1, 6 utterances, {unseen} of the 5 nearest among them" in view.caption
    assert view.stage.extra.count("<td>hidden</td>") == unseen
    assert len(view.drawn[0].near.get_segments()) == 5 - unseen
    view.clicked(view.drawn[1].ax, *map(float, where[8]))  # of a hidden one
    assert view.controls["utterance"].value == 7
    box = view.names.get_legend().get_texts()[1].get_window_extent().transformed(view.names.transData.inverted())
    view.clicked(view.names, box.x1, (box.y0 + box.y1) / 2)
    assert view.controls["hide"].value == ()
    assert "Hidden" not in view.caption
    assert "<td>hidden</td>" not in view.stage.extra


def test_what_can_be_hidden_follows_the_colours(view):
    view.controls["hide"].value = ("s0", "s4")
    assert view.as_code().endswith("at(hide=('s0', 's4'))")
    view.controls["color"].value = "sex"
    assert view.controls["hide"].options == ("F", "M")
    assert view.controls["hide"].value == ()
    assert view.shown.all()
    view.at(color="sex", hide=("F",))
    assert view.shown.tolist() == (view.table["sex"] == "M").tolist()
    assert view.names.get_legend().get_texts()[0].get_color() != view.names.get_legend().get_texts()[1].get_color()
    view.reset()
    assert view.shown.all()
    assert view.controls["hide"].options == ("s0", "s1", "s2", "s3", "s4")


def test_names_from_outside_are_escaped():
    one = bank()
    one.table.loc[0, ["id", "speaker"]] = "<b>x</b>"
    made = speakers(one)
    made.controls["select"].value = "class"
    assert "<b>x" not in made.stage.extra
    assert "&lt;b&gt;x" in made.stage.extra
    made.close()


def test_a_recording_that_the_bank_holds_lies_on_its_own_point(real, clips):
    real.controls["recording"].value = upload(clips.waveforms[7].numpy())
    assert real.error is None
    for site in ("hidden.1", "hidden.3", "xvector"):
        real.set(site=site)
        assert real.neighbours["id"].iloc[0] == clips.ids[7]
        assert real.neighbours["similarity"].iloc[0] > 0.99
        star, where = np.array(real.drawn[1].star.get_data())[:, 0], real.maps["pca"].coordinates
        away = np.linalg.norm(where - star, axis=1)
        assert away[7] < 0.02 * np.median(away)
        umap = np.array(real.drawn[0].star.get_data())[:, 0]
        assert np.linalg.norm(real.maps["umap"].coordinates - umap, axis=1).argmin() == 7
        lines = np.array(real.drawn[1].near.get_segments())
        np.testing.assert_allclose(lines[:, 0], np.broadcast_to(star, (5, 2)))
    assert "Nearest to the star, me.wav, in the features: v03_s02" in real.caption
    assert [one["label"][:6] for one in real.stage.sounds] == ["v01_s0", "me.wav"]
    real.controls["recording"].value = None
    assert len(real.drawn[0].star.get_data()[0]) == 0


def test_a_recording_of_several_channels_is_heard_as_their_mean(real):
    draw = np.random.default_rng(0)
    real.controls["recording"].value = upload(0.1 * draw.standard_normal((16_000, 6)))
    assert real.error is None
    assert "Nearest to the star" in real.caption
    assert "6 channels; taking their mean" in real.caption


def test_recordings_are_pooled_like_the_bank(clips, model):
    one = us.collect(model, clips, "hidden.3", max_seconds=0.6, progress=False)
    made = speakers(one, clips, model, pool="mean+std")
    assert made.maps["pca"].settings["pool"] is None  # of x-vectors
    made.set(site="hidden.3", recording=upload(clips.waveforms[2].numpy()))
    assert made.maps["pca"].settings["pool"] == "mean+std"
    assert made.neighbours["similarity"].iloc[0] > 0.99
    made.close()


def test_a_recording_is_not_heard_by_a_model_that_has_changed(clips, model):
    changing = copy.deepcopy(model)
    one = us.collect(changing, clips, "hidden.3", max_seconds=0.6, progress=False)
    made = speakers(one, clips, changing)
    made.set(site="hidden.3", recording=upload(clips.waveforms[2].numpy()))
    assert made.error is None
    with torch.no_grad():
        changing.unispeech_sat.encoder.layers[0].layer_norm.bias += 1
    made.controls["utterance"].value = 1
    assert "made with another model" in str(made.error)
    made.close()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (LETTER, "a.txt could not be read as sound"),
        (upload(np.zeros(100)), "has 100 samples, one frame needs 148"),
        ({"name": "hour.wav", "size": 115_000_000, "content": b""}, "hour.wav has 115 MB, a page can send 8 MB"),
        (upload(np.r_[0.1, np.zeros(399)]), "me.wav"),
    ],
)
def test_what_cannot_be_heard_is_said_once_and_does_not_block_the_rest(real, given, said):
    sentence = real.caption
    real.controls["recording"].value = given
    assert isinstance(real.error, ValueError)
    assert said in real.stage.alert
    assert real.caption == sentence
    real.controls["utterance"].value = 3
    assert real.error is None
    assert real.stage.alert == ""
    assert "Ringed: v02_s01" in real.caption


def test_too_few_utterances_are_refused_in_the_widget():
    made = speakers(bank(people=1, each=2))
    assert isinstance(made, Refusal)
    assert f"needs {LEAST} utterances or more, got 2; collect more" in made.caption
    made.close()
    least = speakers(bank(people=2, each=LEAST // 2))
    assert least.error is None
    least.close()


def test_one_speaker_has_maps_but_no_error_rate():
    made = speakers(bank(people=1, each=12))
    assert made.error is None
    assert made.numbers["eer"] is None
    assert "no error rate, which needs two speakers with two utterances each; collect more" in made.caption
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
            "12 utterances of the bank are not in speech (first: 'u18')",
        ),
        (lambda: speakers([bank(), bank(people=4)]), "of different utterances, or in another order"),
    ],
)
def test_what_does_not_belong_together_is_refused(make, said):
    made = make()
    assert said in made.stage.alert
    made.close()


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
