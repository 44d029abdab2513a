"""Widgets without a browser: controls are moved by code, pictures, sentences and sounds are read back."""

import math
import time

import numpy as np
import pytest
import torch
from shown import sounds

import unisat
from unisat import widgets
from unisat.config import UniSpeechSatConfig
from unisat.corpus import Batch
from unisat.frames import frame_seconds, stack_length
from unisat.interpret.attention import measures
from unisat.masking import audible, span_mask, spans
from unisat.plots.masks import summary

pytestmark = pytest.mark.usefixtures("no_widget_is_left")

CONFIG = UniSpeechSatConfig(mask_time_prob=0.4, mask_time_length=5, mask_time_min_masks=2)


def clips(*ids):
    """Utterances of 51 and 99 frames."""
    noise = torch.Generator().manual_seed(0)
    waveforms = [torch.rand(samples, generator=noise) - 0.5 for samples in (16_480, 32_000)]
    return Batch.from_arrays(waveforms[: len(ids)], sampling_rate=16_000, ids=list(ids))


class Patterns:
    """Stands for a trace of two blocks with three heads; of the padded frames, utterance 1 has 30 valid ones."""

    ids = ("amy", "bob")
    sites = ("block.10.attn.pattern", "hidden.1", "block.2.attn.pattern")

    def __init__(self, frames=50, valid=30):
        draw = torch.Generator().manual_seed(1)
        self.valid = torch.tensor([frames, valid])
        self.patterns = {site: torch.rand(2, 3, frames, frames, generator=draw).softmax(-1) for site in self.sites[::2]}

    def __getitem__(self, site):
        return self.patterns[site]

    def lengths(self, site):
        return self.valid

    def seconds(self, site):
        frames = int(self.valid.max())
        return frame_seconds(frames, CONFIG.conv_kernel, CONFIG.conv_stride)


@pytest.fixture
def mask_widget():
    return widgets.masks(CONFIG, clips("amy <1>", "bob"))


@pytest.fixture
def attention_widget():
    return widgets.attention(Patterns(), utterance=1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return unisat.UniSpeechSatModel(unisat.UniSpeechSatConfig.tiny()).eval()


# masks


def expected_mask(widget, samples):
    values = {name: one.value for name, one in widget.controls.items()}
    frames = stack_length(samples, CONFIG.conv_kernel, CONFIG.conv_stride)
    return span_mask(
        torch.tensor([frames]),
        frames,
        mask_prob=values["mask_prob"],
        mask_length=values["mask_length"],
        min_spans=values["min_spans"],
        generator=torch.Generator().manual_seed(values["seed"]),
    )[0]


def test_masks_start_from_the_configuration(mask_widget):
    assert {name: one.value for name, one in mask_widget.controls.items()} == {
        "mask_prob": 0.4,
        "mask_length": 5,
        "min_spans": 2,
        "seed": 0,
        "utterance": 0,
    }
    assert mask_widget.mask.shape == (51,)
    torch.testing.assert_close(mask_widget.mask, expected_mask(mask_widget, 16_480))


@pytest.mark.parametrize(
    ("name", "value"), [("mask_prob", 0.9), ("mask_length", 12), ("min_spans", 6), ("seed", 3), ("utterance", 1)]
)
def test_each_mask_control_does_what_it_says(mask_widget, name, value):
    before = mask_widget.png, mask_widget.sentence, mask_widget.mask
    mask_widget.controls[name].value = value
    assert mask_widget.error is None
    waveform = mask_widget.batch.waveforms[mask_widget.controls["utterance"].value]
    torch.testing.assert_close(mask_widget.mask, expected_mask(mask_widget, len(waveform)))
    assert mask_widget.png != before[0]
    assert mask_widget.sentence != before[1]
    (ax,) = mask_widget.figure.axes
    (shade,) = ax.collections
    assert len(shade.get_paths()) == len(spans(mask_widget.mask))
    assert ax.get_title() == summary(mask_widget.mask)
    left, hidden = sounds(mask_widget).values()
    for heard, keep in ((left, "visible"), (hidden, "masked")):
        part = audible(waveform, mask_widget.mask, hop=320, keep=keep)
        np.testing.assert_array_equal(heard, (part * 2**15).round())


def test_coming_back_gives_the_same_picture(mask_widget):
    """Artists are changed in place: nothing of an earlier state may stay."""
    before = mask_widget.png
    for name, value in [("seed", 5), ("mask_prob", 0.0), ("mask_prob", 1.0), ("mask_prob", 0.4), ("seed", 0)]:
        mask_widget.controls[name].value = value
    assert mask_widget.png == before
    for utterance in (1, 0):
        mask_widget.controls["utterance"].value = utterance
    assert mask_widget.png == before


def test_mask_sentence_says_what_is_shown(mask_widget):
    mask_widget.controls["mask_prob"].value = 0.0
    mask_widget.controls["min_spans"].value = 1
    assert mask_widget.sentence == (
        "amy <1>: 9.8% of 51 frames masked, 1 span, 100 ms hidden, the longest 100 ms; mask_length 5 frames = 100 ms."
    )
    assert "amy <1>" in mask_widget.stage.alt
    mask_widget.controls["min_spans"].value = 0
    assert "0.0% of 51 frames masked, 0 spans, 0 ms hidden; mask_length" in mask_widget.sentence


def test_masks_of_a_single_utterance_need_no_menu():
    widget = widgets.masks(CONFIG, clips("amy"))
    assert widget.controls["utterance"].layout.display == "none"


def test_an_utterance_too_short_for_a_frame_is_answered_in_the_widget():
    batch = Batch.from_arrays([torch.rand(16_000), torch.rand(399)], sampling_rate=16_000)
    widget = widgets.masks(CONFIG, batch)
    widget.controls["utterance"].value = 1
    assert "a frame needs 400 samples, got 399" in widget.stage.alert
    widget.controls["utterance"].value = 0
    assert widget.error is None


def test_a_span_longer_than_the_clip_is_said_in_the_widget():
    widget = widgets.masks(CONFIG, Batch.from_arrays([torch.rand(4000)], sampling_rate=16_000))
    widget.controls["mask_length"].value = 20
    assert widget.error is None
    assert not widget.mask.any()
    assert "longer than every utterance (up to 12 frames): nothing is hidden" in widget.sentence


def test_masks_of_no_such_utterance():
    with pytest.raises(ValueError, match="utterance=2 is not one of the batch's 2"):
        widgets.masks(CONFIG, clips("amy <1>", "bob"), utterance=2)


# attention


def test_attention_starts_with_the_mean_of_the_first_layer(attention_widget):
    assert [name for name, _ in attention_widget.controls["layer"].options] == ["2", "10"]
    expected = Patterns()["block.2.attn.pattern"][1, :, :30, :30].mean(0)  # 30 valid frames
    torch.testing.assert_close(attention_widget.pattern, expected)
    image = attention_widget.figure.axes[0].images[0]
    np.testing.assert_allclose(np.asarray(image.get_array()), expected)


def test_ten_seconds_of_attention_are_a_small_picture():
    wave = torch.cat(unisat.corpus.builtin().batch(slice(4)).waveforms)[:160_000]
    _, trace = unisat.run(unisat.load("tiny"), wave, "block.3.attn.pattern", sampling_rate=16_000)
    view = widgets.attention(trace)
    assert view.pattern.shape == (499, 499)
    view.controls["head"].value = 0
    # twelve heads of a layer as data in a page would be 68 MB in other tools; here each is a picture
    assert 12 * len(view.png) <= 3e6
    view.close()


def test_each_attention_control_does_what_it_says(attention_widget):
    shown = {attention_widget.png}
    attention_widget.controls["layer"].value = 10
    attention_widget.controls["head"].value = 2
    patterns = Patterns()["block.10.attn.pattern"][1, 2, :30, :30]
    torch.testing.assert_close(attention_widget.pattern, patterns)
    image = attention_widget.figure.axes[0].images[0]
    np.testing.assert_allclose(np.asarray(image.get_array()), patterns)
    assert image.get_clim() == (0, pytest.approx(patterns.max().item()))
    assert attention_widget.figure.axes[0].get_title() == "layer 10, head 2"
    shown.add(attention_widget.png)
    # frames whose centres, 12.5 ms + 20 ms * t, lie between 100 and 300 ms: 5 to 14
    attention_widget.controls["seconds"].value = (0.1, 0.3)
    torch.testing.assert_close(attention_widget.pattern, patterns[5:15, 5:15])
    ax = attention_widget.figure.axes[0]
    assert ax.get_xlim() == (pytest.approx(0.1025), pytest.approx(0.3025))
    assert ax.get_ylim() == (pytest.approx(0.3025), pytest.approx(0.1025))  # the first query is at the top
    assert image.get_extent() == [*ax.get_xlim(), *ax.get_xlim()]
    shown.add(attention_widget.png)
    assert len(shown) == 3


def test_attention_sentence_is_computed_from_what_is_shown(attention_widget):
    whole = measures(attention_widget.pattern, attention_widget.seconds)
    assert attention_widget.sentence == (
        "bob, 0.00–0.60 s, layer 2, mean of all heads: a frame looks "
        f"{whole['distance_ms']:.0f} ms away on average, with an entropy of {whole['entropy_bits']:.1f} bits "
        f"(at most {math.log2(30):.1f}) and {whole['near_share']:.0%} of its weight within 3 frames of itself. "
        f"{1 - whole['inside']:.0%} of the weight goes elsewhere and is left out."
    )
    attention_widget.controls["seconds"].value = (0.0, 0.2)
    part = measures(attention_widget.pattern, attention_widget.seconds[:10])
    assert f"{part['distance_ms']:.0f} ms away" in attention_widget.sentence
    assert f"{1 - part['inside']:.0%} of the weight" in attention_widget.sentence


def test_an_empty_range_is_answered_in_the_widget(attention_widget):
    attention_widget.controls["seconds"].value = (0.2, 0.2)
    assert "no frame lies in 0.20 to 0.20 s; widen the range." in attention_widget.stage.alert
    attention_widget.controls["seconds"].value = (0.2, 0.4)
    assert attention_widget.error is None


def test_attention_plays_the_part_shown():
    batch = clips("amy <1>", "bob")
    widget = widgets.attention(Patterns(), batch, utterance=0)
    widget.controls["seconds"].value = (0.1, 0.5)
    (heard,) = sounds(widget).values()
    np.testing.assert_array_equal(heard, (batch.waveforms[0][1600:8000] * 2**15).round())


def test_attention_without_patterns_says_how_to_capture_them():
    trace = Patterns()
    trace.sites = ("hidden.1",)
    with pytest.raises(ValueError, match=r'hidden.1.*us.run\(model, batch, "block.\*.attn.pattern"\)'):
        widgets.attention(trace)
    with pytest.raises(ValueError, match="utterance=2 is not one of the trace's 2"):
        widgets.attention(Patterns(), utterance=2)


def test_attention_over_500_frames_is_fast():
    widget = widgets.attention(Patterns(frames=500, valid=400))
    started = time.perf_counter()
    for head in range(3):
        widget.controls["head"].value = head
    assert (time.perf_counter() - started) / 3 < 1.0  # 0.05 s where nothing else runs
    assert widget.pattern.shape == (500, 500)


def test_attention_of_a_real_run(model):
    batch = clips("amy", "bob")
    _, trace = unisat.run(model, batch, "block.*.attn.pattern")
    widget = widgets.attention(trace, batch, utterance=0)
    assert len(widget.controls["layer"].options) == 6
    widget.controls["layer"].value, widget.controls["head"].value = 4, 5
    assert widget.error is None
    assert widget.pattern.shape == (51, 51)
    torch.testing.assert_close(widget.pattern.sum(-1), torch.ones(51))
    assert "goes elsewhere" not in widget.sentence
