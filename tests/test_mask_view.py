"""The masks widget against `unisat.masking` and `SpecAugment`; and the masks of a run, replayed."""

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch
from shown import sounds

import unisat
from unisat import widgets
from unisat.config import UniSpeechSatConfig
from unisat.corpus import Batch
from unisat.frames import stack_length
from unisat.masking import SpecAugment, audible, span_mask, spans
from unisat.plots import _sound
from unisat.plots._masks import summary

pytestmark = pytest.mark.usefixtures("no_widget_is_left")

CONFIG = UniSpeechSatConfig(mask_time_prob=0.4, mask_time_length=5, mask_time_min_masks=2)


def clips(*ids):
    """Utterances of 51 and 99 frames."""
    noise = torch.Generator().manual_seed(0)
    waveforms = [torch.rand(samples, generator=noise) - 0.5 for samples in (16_480, 32_000)]
    return Batch.from_arrays(waveforms[: len(ids)], sampling_rate=16_000, ids=list(ids))


@pytest.fixture
def mask_widget():
    return widgets.masks(CONFIG, clips("amy <1>", "bob"))


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
        "channel_prob": 0.0,
        "channel_length": 10,
        "min_channel_spans": 0,
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
    for ax in (mask_widget.wave, mask_widget.spectrum):
        assert len(ax.collections[-1].get_paths()) == len(spans(mask_widget.mask))
    assert mask_widget.wave.get_title() == summary(mask_widget.mask)
    assert mask_widget.wave.get_xlim() == mask_widget.spectrum.get_xlim() == (0, len(waveform) / 16_000)
    np.testing.assert_array_equal(mask_widget.wave.lines[0].get_ydata(), _sound.envelope(waveform.numpy())[1])
    bars = [bar.get_height() for bar in mask_widget.runs.containers[0]]
    assert sum(bars) == len(spans(mask_widget.mask))
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
    assert mask_widget.sentence == ("amy <1>: 9.8% of 51 frames masked, 1 span, 100 ms hidden, the longest 100 ms.")
    assert "amy <1>" in mask_widget.stage.alt
    mask_widget.controls["min_spans"].value = 0
    assert "0.0% of 51 frames masked, 0 spans, 0 ms hidden." in mask_widget.sentence


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
    refused = widgets.masks(CONFIG, clips("amy <1>", "bob"), utterance=2)
    assert refused.stage.alert == "utterance=2 is not one of the batch's 2, counted from 0."


@pytest.mark.parametrize(("name", "value"), [("channel_length", 3), ("min_channel_spans", 9), ("seed", 3)])
def test_channels_are_hidden_as_the_model_does_it(mask_widget, name, value):
    assert not mask_widget.channels.any()
    assert mask_widget.controls[name].disabled == (name != "seed")
    mask_widget.controls["channel_prob"].value = 0.05
    assert not mask_widget.controls[name].disabled
    before = mask_widget.png
    mask_widget.controls[name].value = value
    assert mask_widget.png != before
    values = {key: one.value for key, one in mask_widget.controls.items()}
    config = CONFIG.replace(
        mask_time_prob=values["mask_prob"],
        mask_feature_prob=values["channel_prob"],
        mask_feature_length=values["channel_length"],
        mask_feature_min_masks=values["min_channel_spans"],
    )
    augment = SpecAugment(config).train()
    seed = torch.Generator().manual_seed(values["seed"])
    given = torch.ones(1, 51, config.hidden_size)
    hidden, mask = augment(given, torch.full((config.hidden_size,), 2.0), torch.tensor([51]), None, seed)
    assert torch.equal(mask_widget.mask, mask[0])
    assert torch.equal(mask_widget.channels, (hidden[0] == 0).all(0))
    assert f"{int(mask_widget.channels.sum())} of {config.hidden_size} channels are zero" in mask_widget.sentence
    shown = np.asarray(mask_widget.cells.images[0].get_array())
    meaning = torch.tensor([1.0, 2.0, 0.0])  # seen, learned vector, zero
    assert torch.equal(meaning[torch.from_numpy(shown)].T, hidden[0])


def test_the_line_is_what_many_draws_give(mask_widget):
    (stairs,) = [one for one in mask_widget.runs.patches if isinstance(one, StepPatch)]
    draws, total = torch.Generator().manual_seed(5), 0
    for _ in range(2000):
        mask = span_mask(torch.tensor([51]), 51, mask_prob=0.4, mask_length=5, min_spans=2, generator=draws)[0]
        total += len(spans(mask))
    assert stairs.get_data()[0].sum() == pytest.approx(total / 2000, rel=0.05)


def test_masks_of_a_run_are_replayed():
    torch.manual_seed(0)
    config = unisat.UniSpeechSatConfig.tiny(mask_time_prob=0.5, mask_feature_prob=0.2)
    model, batch = unisat.UniSpeechSatModel(config).train(), clips("amy <1>", "bob")
    _, trace = unisat.run(model, batch, "mask.*", allow_train=True)
    view = widgets.masks(trace, batch, utterance=1)
    assert list(view.controls) == ["utterance"]
    for utterance in (1, 0):
        view.controls["utterance"].value = utterance
        mask, hidden = trace.ragged("mask.indices")[utterance], trace.ragged("mask.out")[utterance]
        assert torch.equal(view.mask, mask)
        assert mask.any()
        zero = torch.tensor([bool((hidden[:, channel] == 0).all()) for channel in range(config.hidden_size)])
        assert torch.equal(view.channels, zero)
        assert zero.any()
        assert len(view.wave.collections[-1].get_paths()) == len(spans(mask))


def test_a_run_without_masks_or_of_others_is_answered():
    torch.manual_seed(0)
    model, batch = unisat.UniSpeechSatModel(unisat.UniSpeechSatConfig.tiny()).eval(), clips("amy <1>", "bob")
    _, trace = unisat.run(model, batch, "hidden.1")
    assert 'holds hidden.1, but no masks; capture them with us.run(model, batch, "mask.*")' in (
        widgets.masks(trace, batch).stage.alert
    )
    _, trace = unisat.run(model, batch, "mask.*")
    assert "saw utterances of [51, 99] frames, the batch has [99]" in widgets.masks(trace, batch[1]).stage.alert
