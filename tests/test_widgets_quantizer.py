"""The quantizer widget: what it shows of one frame's choice and of all frames, against the model."""

import math

import numpy as np
import pytest
import torch
from shown import sounds
from widget_cases import HISTORY, noise, pretraining, pretraining_trace

import unisat
from unisat.corpus import Batch
from unisat.frames import frame_seconds
from unisat.interpret.features.collect import draw_masks
from unisat.interpret.units.perplexity import gumbel_noise
from unisat.interpret.units.quantizer import CAPTURED, HIDDEN
from unisat.widgets import quantizer

pytestmark = pytest.mark.usefixtures("no_widget_is_left")


@pytest.fixture(scope="module")
def trace():
    return pretraining_trace("quant.logits", "quant.codes")


@pytest.fixture
def view():
    return quantizer(pretraining(), noise(), HISTORY)


def flat(trace, site):
    return torch.cat(trace.ragged(site))


def entropy(shares):
    return -sum(share * math.log(share) for share in shares if share > 0)


def test_the_frame_is_the_one_that_the_model_quantizes(view, trace):
    logits, codes = flat(trace, "quant.logits"), flat(trace, "quant.codes")
    view.set(utterance=1, frame=0.1, group=1, noise=False)
    amy = int(trace.lengths("quant.logits")[0])
    row = amy + int((trace.seconds("quant.logits") - 0.1).abs().argmin())
    assert view.error is None
    torch.testing.assert_close(view.logits, logits[row, 1])
    assert view.code == view.drawn == codes[row, 1]
    torch.testing.assert_close(view.soft, (logits[row, 1] / 2).softmax(-1))
    assert view.counts["code"].tolist() == torch.bincount(codes[:, 1], minlength=8).tolist()
    assert view.table["frames"].tolist() == [len(logits)] * 2
    assert f"bob, frame at {trace.seconds('quant.logits')[row - amy]:.2f} s, group 1" in view.caption


def test_noise_and_temperature(view, trace):
    logits = flat(trace, "quant.logits")
    view.set(seed=5, temperature=0.7, group=1)
    expected = (logits + gumbel_noise(logits.shape, 5))[:, 1].argmax(-1)
    assert view.counts["drawn"].tolist() == torch.bincount(expected, minlength=8).tolist()
    torch.testing.assert_close(view.soft, ((view.logits + view.noise) / 0.7).softmax(-1))
    assert view.soft.argmax() == view.drawn
    shares = [count / len(expected) for count in view.counts["drawn"]]
    assert view.table.loc[1, "drawn"] == pytest.approx(math.exp(entropy(shares)))
    moved = (expected != logits[:, 1].argmax(-1)).float().mean()
    assert f"With noise {moved:.0%} of them choose another entry" in view.caption
    drawn = view.drawn
    view.controls["temperature"].value = 2.0  # softens, chooses alike
    assert view.drawn == drawn
    view.controls["noise"].value = False
    assert "drawn" not in view.table
    assert view.counts["code"].equals(view.counts["drawn"].rename("code"))


def test_what_is_drawn(view, trace):
    config = pretraining().config
    view.set(seed=2, group=1)
    before, after = (patch.get_data().values for patch in view.use.patches)
    np.testing.assert_allclose(before, 100 * view.counts["code"] / view.counts["code"].sum())
    np.testing.assert_allclose(after, 100 * view.counts["drawn"] / view.counts["drawn"].sum())
    scores, noisy = (patch.get_data().values for patch in view.panels[1].patches)
    shift = (view.logits - view.logits.max()).numpy()
    np.testing.assert_allclose(scores, shift, rtol=1e-5)
    np.testing.assert_allclose(noisy, shift + view.noise.numpy(), rtol=1e-4)
    likely, soft = (patch.get_data().values for patch in view.panels[2].patches)
    np.testing.assert_allclose(likely, view.logits.softmax(-1), rtol=1e-5)
    np.testing.assert_allclose(soft, view.soft, rtol=1e-5)
    hard = view.panels[3].patches[1].get_data().values
    assert hard.tolist() == [float(entry == view.drawn) for entry in range(8)]
    np.testing.assert_array_equal(view.over.lines[2].get_ydata(), view.over_frames["corrected"])
    times = frame_seconds(len(view.track.lines[0].get_xdata()), config.conv_kernel, config.conv_stride)
    np.testing.assert_allclose(view.track.lines[0].get_xdata(), times)
    logits = trace.ragged("quant.logits")[0]
    added = gumbel_noise(flat(trace, "quant.logits").shape, 2)[: len(logits)]
    codes, drawn = logits[:, 1].argmax(-1), (logits + added)[:, 1].argmax(-1)
    assert view.track.lines[0].get_ydata().tolist() == codes.tolist()
    assert view.track.lines[1].get_ydata().tolist() == drawn[codes != drawn].tolist()
    np.testing.assert_array_equal(view.trained.lines[1].get_ydata(), HISTORY["code_perplexity_1"])
    view.controls["temperature"].value = 1.0
    assert view.trained.lines[-1].get_xdata()[0] == 20
    assert "went from 1.5 at step 10 to 1.2 at step 40" in view.caption


def test_a_log_without_temperatures_names_no_step_of_one():
    for history in (HISTORY, HISTORY.drop(columns="temperature")):
        legend = quantizer(pretraining(), noise(), history).figure.legends[0]
        named = "step of this temperature" in [text.get_text() for text in legend.get_texts()]
        assert named == ("temperature" in history)


def test_the_map_shows_where_entries_lie_how_often_they_are_chosen_and_the_frame_s(view):
    view.set(seed=2, group=1, frame=0.2)
    places = view.book.places[1]
    counts = view.counts["code"].to_numpy()
    assert view.map.collections[0].get_offsets().tolist() == places[counts > 0].tolist()
    sizes = view.map.collections[0].get_sizes()
    np.testing.assert_allclose(sizes / sizes.sum(), counts[counts > 0] / counts.sum())
    assert view.map.lines[0].get_xydata().tolist() == places[counts == 0].tolist()
    drawn, code = (ring.get_offsets().tolist() for ring in view.map.collections[1:])
    assert (drawn, code) == ([places[view.drawn].tolist()], [places[view.code].tolist()])
    one, two = view.book.explained[1]
    assert (view.map.get_xlabel(), view.map.get_ylabel()) == (f"PC 1 ({one:.0%})", f"PC 2 ({two:.0%})")


def test_the_temperature_falls_by_itself_and_can_be_moved_meanwhile(view):
    view.cooling.value = 1  # as the page sets it, step by step
    assert view.controls["temperature"].value == 1.95
    torch.testing.assert_close(view.soft, ((view.logits + view.noise) / 1.95).softmax(-1))
    view.controls["temperature"].value = 1.0
    assert view.cooling.value == 20
    view.controls["temperature"].value = 0.73  # typed, between two steps
    assert view.controls["temperature"].value == 0.73
    assert view.cooling.value == 25
    view.cooling.value = 26
    assert view.controls["temperature"].value == 0.7
    view.cooling.value = view.cooling.max
    assert view.controls["temperature"].value == 0.5
    view.reset()
    assert (view.controls["temperature"].value, view.cooling.value) == (2.0, 0)


def test_a_click_on_the_track_takes_that_frame(view):
    view.clicked(view.track, 0.31, 3.0)
    assert view.controls["frame"].value == pytest.approx(0.31, abs=0.011)
    place = float(view.track.lines[2].get_xdata()[0])
    assert place == pytest.approx(0.31, abs=0.011)
    view.clicked(view.use, 0.2, 3.0)
    assert view.controls["frame"].value == pytest.approx(0.31, abs=0.011)


def test_sounds(view):
    view.controls["frame"].value = 0.3
    near, whole = sounds(view).values()
    wave = noise().waveforms[0].numpy() * 2**15
    np.testing.assert_allclose(whole, wave, atol=1)
    assert len(near) == 8000
    start = round(16_000 * view.stage.sounds[0]["start"])
    assert start == pytest.approx(16_000 * 0.05, abs=200)
    np.testing.assert_allclose(near, wave[start : start + 8000], atol=1)


def test_a_trace_serves_too(trace):
    view = quantizer(trace)
    assert view.error is None
    assert view.controls["counted"].options == (CAPTURED,)
    assert not view.stage.sounds
    assert view.over_steps is None
    assert view.book is None
    assert "The map has" not in view.caption


@pytest.fixture
def masked():
    """A run in which no frame of the first utterance was hidden."""
    mask = draw_masks(noise().lengths, noise().ids, pretraining().config, 0)
    mask[0] = False
    return unisat.run(pretraining(), noise(), "quant.logits", "mask.indices", mask_time_indices=mask)[1]


def test_hidden_frames_count_alone(masked):
    view = quantizer(masked, noise())
    view.set(counted=HIDDEN, utterance=1)
    assert view.table["frames"].iloc[0] == masked["mask.indices"].sum()
    assert HIDDEN in view.caption


def test_an_utterance_without_hidden_frames(masked):
    view = quantizer(masked, noise())
    view.controls["counted"].value = HIDDEN
    assert "no frame of amy <1> is hidden" in view.stage.alert
    view.controls["utterance"].value = 1
    assert view.error is None


def test_one_group():
    view = quantizer(pretraining(num_codevector_groups=1), noise())
    assert view.error is None
    assert len(view.table) == 1


def test_what_it_cannot_do_is_said_in_the_widget(trace, tmp_path):
    model, batch, empty = pretraining(), noise(), tmp_path / "train.csv"
    empty.write_text("")
    few = HISTORY.drop(columns="code_perplexity_1")
    for widget, expected in (
        (quantizer(model), "a model needs something to quantize; give a batch"),
        (quantizer(trace, batch[:1]), "the batch has 1 utterances, the trace 3"),
        (quantizer(model, batch, few), "the history has no code_perplexity_1, only step, temperature"),
        (quantizer(model, batch, HISTORY[:0]), "the history has no rows"),
        (quantizer(model, batch, empty), "could not be read as a log of training"),
        (quantizer(model, batch, tmp_path / "none"), "could not be read as a log of training"),
        (quantizer(model, Batch.from_arrays([torch.rand(16_000 * 61)] * 3, sampling_rate=16_000)), "up to 180 s"),
    ):
        assert isinstance(widget.error, ValueError)
        assert expected in widget.stage.alert
