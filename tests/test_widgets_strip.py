"""The strip widget: every row against numbers that were computed another way, and what a click chooses."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import small_config
from shown import sounds
from widget_cases import SAID, model, noise, pretraining, trace

import unisat as us
from unisat.interpret.activations.attention import measures
from unisat.interpret.layers.strip import LONGEST, strip
from unisat.interpret.objective import clean_targets
from unisat.plots import _strip as plots
from unisat.plots._sound import envelope
from unisat.widgets import strip as strip_widget
from unisat.widgets._picture import Refusal, new_figure
from unisat.widgets._scene import Scene

pytestmark = pytest.mark.usefixtures("no_widget_is_left")

ALONE = noise()[1]  # 61 frames


@pytest.fixture
def view():
    return strip_widget(pretraining(), noise(), 1, SAID)


def alone(*sites):
    return us.run(pretraining(), ALONE, *sites)


def test_the_row_of_a_head_is_that_of_its_pattern(view):
    seen = alone("block.2.attn.pattern")[1]["block.2.attn.pattern"][0]
    times = np.asarray(alone("hidden.0")[1].seconds("hidden.0"))
    view.set(layer=2, head=1, frame=float(times[17]))
    assert view.frame == 17
    seconds, weights = view.rows.look.lines[1].get_data()
    np.testing.assert_allclose(seconds, times)
    np.testing.assert_allclose(weights, seen[1, 17], rtol=1e-5)
    assert view.rows.look.get_title() == "where the frame looks in layer 2, head 1"
    view.set(head=-1)
    np.testing.assert_allclose(view.rows.look.lines[1].get_ydata(), seen[:, 17].mean(0), rtol=1e-5)
    assert view.rows.look.get_title() == "where the frame looks in layer 2, mean of all heads"


@pytest.mark.parametrize("head", [None, 0])
def test_where_frames_look_on_average_is_what_the_whole_pattern_says(head):
    one = strip(model(), noise(), 0)
    heads = us.run(model(), noise()[0], "block.1.attn.pattern")[1]["block.1.attn.pattern"][0]
    expected = measures(heads.mean(0) if head is None else heads[head], one.seconds)
    every = pd.DataFrame([one.look(frame, 1, head) for frame in range(len(one.seconds))])
    assert every["distance_ms"].mean() == pytest.approx(expected["distance_ms"], rel=1e-4)
    assert every["near_share"].mean() == pytest.approx(expected["near_share"], rel=1e-4)
    peaks = one.seconds[(heads.mean(0) if head is None else heads[head]).argmax(-1)]
    np.testing.assert_allclose(every["most_at"], peaks)


def test_units_are_the_models_answers_to_the_utterance_alone(view):
    _, seen = alone("quant.logits")
    codes = seen["quant.logits"][0].argmax(-1)
    clusters = clean_targets(pretraining(), ALONE)[0]
    assert list(view.rows.units) == ["cluster", "group 0", "group 1"]
    for name, expected in {"cluster": clusters, "group 0": codes[:, 0], "group 1": codes[:, 1]}.items():
        np.testing.assert_array_equal(view.rows.units[name].lines[0].get_ydata(), expected)
        assert len(view.rows.units[name].lines[1].get_ydata()) == 0
    tops = [ax.get_ylim()[1] for ax in view.rows.units.values()]
    assert tops == pytest.approx([1.05 * 12 - 0.5, 1.05 * 8 - 0.5, 1.05 * 8 - 0.5])


def test_norms_are_those_of_the_hidden_states(view):
    output = pretraining()(ALONE.input_values, ALONE.attention_mask, output_hidden_states=True, return_dict=True)
    expected = torch.stack([one[0].pow(2).mean(-1).sqrt() for one in output.hidden_states])
    np.testing.assert_allclose(view.rows.sizes.images[0].get_array(), expected.detach(), rtol=1e-5)
    view.set(layer=1)
    assert view.rows.layer.get_xy() == (0, 1.5)  # around hidden.2, which that block gives
    assert view.table["rms"].tolist() == pytest.approx(expected[2].tolist(), rel=1e-5)


def test_labels_at_frames_are_those_of_segments(view):
    config = pretraining().config
    how = {"hop": us.frames.hop(config.conv_stride), "receptive_field": 148}
    for tier in ("phone", "word"):
        expected = SAID.tier(tier).frames({"bob": len(view.strip.seconds)}, **how)["bob"]
        assert [label or None for label in view.strip.labels[tier]] == expected.tolist()
    assert view.strip.labels["phone"].nunique() == 4  # three phones and the pauses between them


def test_segments_are_cells_with_names_on_rows_of_their_tier(view):
    said = SAID.table[SAID.table["id"] == "bob"]
    assert [text.get_text() for text in view.rows.said.get_yticklabels()] == ["phone", "word"]
    boxes = [path.get_extents() for path in view.rows.said.collections[0].get_paths()]
    np.testing.assert_allclose([(box.x0, box.x1) for box in boxes], said[["start", "end"]])
    assert [(box.y0, box.y1) for box in boxes] == [(-0.5, 0.5)] * 3 + [(0.5, 1.5)]
    assert [text.get_text() for text in view.rows.said.texts] == said["label"].tolist()
    view.set(utterance=2)  # of which nothing is known
    assert len(view.rows.said.texts) == 0
    assert len(view.rows.said.collections[0].get_paths()) == 0
    assert ", phone –, word –, cluster" in view.caption


def test_a_name_is_drawn_where_it_fits():
    table = pd.DataFrame({"tier": "t", "start": [0.0, 1.0], "end": [1.0, 1.001], "label": ["wide", "narrow"]})
    ax = plots.tiers(table, ["t"], ax=new_figure(6, 2).add_subplot())
    ax.set_xlim(0, 1.1)

    def inked():
        ax.figure.canvas.draw()
        pixels = np.array(ax.figure.canvas.buffer_rgba())
        for text in ax.texts:
            text.set_visible(False)
        ax.figure.canvas.draw()
        bare = np.array(ax.figure.canvas.buffer_rgba())
        columns = np.flatnonzero((pixels != bare).any((0, 2)))
        for text in ax.texts:
            text.set_visible(True)
        return ax.transData.inverted().transform(np.stack([columns, 0 * columns], axis=1))[:, 0]

    assert 0.3 < inked().min() < inked().max() < 0.7
    ax.set_xlim(0.9998, 1.0012)  # a closer look
    assert 1.0 < inked().min() < inked().max() < 1.001
    (first, second) = [one for one in Scene(ax.figure).parts["axes"][0]["artists"] if one["kind"] == "text"]
    assert (first["text"], first["room"], first["clip"]) == ("wide", [1.0, 1.0], True)
    assert second["room"] == pytest.approx([0.001, 1.0])


def test_the_sound_is_drawn_as_it_was_recorded(view):
    _, values = view.rows.wave.lines[0].get_data()
    np.testing.assert_array_equal(values, envelope(ALONE.waveforms[0].numpy())[1])
    assert [ax.get_xlim() for ax in view.rows.all] == [(0, 0.25)] * 8
    assert len(view.figure.axes) == 8 + 2  # and two scales of colours
    view.set(utterance=0)
    assert [ax.get_xlim() for ax in view.rows.all] == [(0, 0.6)] * 8
    assert view.rows.wave.get_title() == "amy <1>"
    assert view.rows.sound.images[0].get_extent()[1] == pytest.approx(0.6, abs=0.01)


def test_what_a_model_does_not_have_is_left_out():
    bare = strip_widget(model(), noise())
    assert bare.rows.units == {}
    assert bare.rows.said is None
    assert len(bare.rows.all) == 4
    assert "cluster" not in bare.caption
    other = us.Wav2Vec2ForPreTraining(
        us.Wav2Vec2Config.from_dict(small_config().to_dict() | {"model_type": "wav2vec2"})
    )
    coded = strip_widget(other.eval(), noise())
    assert list(coded.rows.units) == ["group 0", "group 1"]
    assert [len(axes.lines[0].get_ydata()) for axes in coded.rows.units.values()] == [148, 148]


def test_words_say_what_is_at_the_frame(view):
    row = view.table.iloc[view.frame]
    found = view.strip.look(view.frame, 0)
    said = SAID.table[(SAID.table["id"] == "bob") & (SAID.table["start"] <= row["seconds"])]
    phone = said[(said["tier"] == "phone") & (said["end"] > row["seconds"])]["label"].item()
    assert view.caption == (
        f"bob, frame 30 at {row['seconds']:.2f} s, phone {phone}, word see, cluster {row['cluster']}, "
        f"entry {row['group 0']} in group 0 and {row['group 1']} in group 1. Layer 0, the mean of all heads looks "
        f"{found['distance_ms']:.0f} ms away on average, most at {found['most_at']:.2f} s, with "
        f"{found['near_share']:.0%} of its weight within 3 frames of itself; behind that layer the frame's RMS norm is "
        f"{row['rms']:.2f}."
    )


def test_a_click_on_any_row_chooses_the_frame_and_what_is_around_it(view):
    for place, ax in enumerate(view.rows.all):
        time = 0.05 + 0.02 * place
        view.clicked(ax, time, 0.0)
        assert view.error is None
        centre = float(view.strip.seconds[view.frame])
        assert abs(centre - time) <= 0.5 * 64 / 16_000
        assert [mark.get_xdata()[0] for mark in view.rows.marks] == [centre] * 8
        assert f"at {centre:.2f} s" in view.caption
    view.clicked(view.rows.wave, -1.0, 0.0)
    assert view.frame == 0
    view.clicked(view.figure.axes[-1], 0.1, 0.0)  # a scale of colours
    assert view.frame == 0
    view.set(frame=100.0, utterance=0)
    start = round(16_000 * (float(view.strip.seconds[-1]) - 0.25))
    whole, near = sounds(view).values()
    np.testing.assert_array_equal(whole, (noise().waveforms[0] * 2**15).round())
    np.testing.assert_array_equal(near, whole[start:])
    assert [one["start"] for one in view.stage.sounds] == [0.0, start / 16_000]


def test_a_model_runs_once_for_each_utterance_until_it_learns(monkeypatch):
    import unisat.widgets._strip as module

    ran = []
    monkeypatch.setattr(module, "computed", lambda *given: ran.append(given[2]) or strip(*given))
    learner = copy.deepcopy(pretraining())
    view = strip_widget(learner, noise(), 0)
    first = view.strip
    view.set(utterance=2, layer=1, head=1, frame=0.05)
    view.set(utterance=0, layer=2, head=0)
    assert ran == [0, 2]
    assert view.strip is first
    with torch.no_grad():
        learner.project_hid.weight.neg_()
    view.set(frame=0.01)
    assert ran == [0, 2, 0]
    assert not np.array_equal(view.strip.units["cluster"], first.units["cluster"])
    np.testing.assert_array_equal(view.rows.units["cluster"].lines[0].get_ydata(), view.strip.units["cluster"])


def test_a_slider_goes_from_one_model_to_the_next(monkeypatch):
    import unisat.widgets._strip as module

    ran = []
    monkeypatch.setattr(module, "computed", lambda *given: ran.append(given[0]) or strip(*given))
    models = {"before": pretraining(), "after": copy.deepcopy(pretraining(num_clusters=20))}
    view = strip_widget(models, noise(), 1)
    for name in ("before", "after", "before"):
        view.set(model=name)
        assert view.model is models[name]
        expected = clean_targets(models[name], ALONE)[0]
        np.testing.assert_array_equal(view.rows.units["cluster"].lines[0].get_ydata(), expected)
        top = view.rows.units["cluster"].get_ylim()[1]
        assert top == pytest.approx(1.05 * models[name].config.num_clusters - 0.5)
        assert view.caption.startswith(f"{name}: bob, frame 30 at ")
        assert f", cluster {expected[30]}, entry " in view.caption
    assert ran == [*models.values()]
    with torch.no_grad():
        models["after"].project_hid.weight.neg_()
    view.set(model="after")
    view.set(model="before")
    assert ran == [*models.values(), models["after"]]


def test_what_is_kept_is_together_as_long_as_one_utterance_may_be(monkeypatch):
    import unisat.widgets._strip as module

    monkeypatch.setattr(module, "LONGEST", 0.75)  # of 0.6, 0.25 and 0.125 s
    view = strip_widget(model(), noise(), 0)
    kept = []
    for utterance in (2, 1, 2, 0):
        view.set(utterance=utterance)
        kept.append([one.id for one in view._strips.values()])
    assert kept == [["amy <1>", "cat"], ["cat", "bob"], ["cat", "bob"], ["amy <1>"]]


def test_padding_does_not_touch_an_utterance():
    one = strip(model(), noise(), 2)
    expected = us.run(model(), noise()[2], "block.0.attn.pattern")[1]["block.0.attn.pattern"][0]
    torch.testing.assert_close(one.patterns[0], expected)
    beside = trace("block.0.attn.pattern").ragged("block.0.attn.pattern")[2]
    assert one.patterns[0].shape == beside.shape  # the norm over time reads padding, so that its numbers are others


def test_mistakes_are_answered(view):
    long = us.Batch.from_arrays([torch.rand(4000), torch.rand(16_000 * 61)], sampling_rate=16_000, ids=["a", "b"])
    made = strip_widget(model(), long)
    assert made.error is None
    made.set(utterance=1)
    assert f"b is 61 s long, attention is looked at up to {LONGEST:.0f} s" in made.stage.alert
    made.set(utterance=0)
    assert made.error is None
    for refused, words in {
        strip_widget(copy.deepcopy(model()).train(), noise()): "model.eval()",
        strip_widget(model(), noise(), segments=us.Segments.people()): "utterances of the segments is in the batch",
        strip_widget({}, noise()): "the mapping of models is empty",
        strip_widget({"one": model(), "other": pretraining()}, noise()): "model 'other' has class, num_hidden_layers",
        strip_widget(
            {"one": model(), "deep": us.UniSpeechSatModel(small_config(num_hidden_layers=4)).eval()}, noise()
        ): "give models of one shape",
        strip_widget(model(), noise(), 3): "utterance=3 is not one of the batch's 3",
        strip_widget(model(), us.Batch.from_arrays([torch.rand(9)], sampling_rate=16_000)): "needs 148 samples",
    }.items():
        assert isinstance(refused, Refusal)
        assert words in refused.stage.alert
