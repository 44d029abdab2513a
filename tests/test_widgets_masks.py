"""The masks widget: what its sliders hide, show and play, and the masks of a run."""

import numpy as np
import pytest
import torch
from conftest import small_config
from matplotlib.patches import StepPatch
from shown import sounds
from widget_cases import noise, trace

from unisat import run, widgets
from unisat.config import UniSpeechSatConfig
from unisat.corpus import Batch
from unisat.interpret.masks import draw, drawn_spans, many_runs, replay
from unisat.masking import audible, spans
from unisat.model import UniSpeechSatModel
from unisat.plots import _sound
from unisat.plots._masks import run_counts, summary

pytestmark = pytest.mark.usefixtures("no_widget_is_left")


CONFIG = UniSpeechSatConfig(mask_time_prob=0.4, mask_time_length=5, mask_time_min_masks=2, mask_feature_length=4)


@pytest.fixture(scope="module")
def clips():
    """Utterances of 51 and 99 frames."""
    draws = torch.Generator().manual_seed(0)
    waveforms = [torch.rand(samples, generator=draws) - 0.5 for samples in (16_480, 32_000)]
    return Batch.from_arrays(waveforms, sampling_rate=16_000, ids=["amy <1>", "bob"])


@pytest.fixture
def mask_widget(clips):
    return widgets.masks(CONFIG, clips)


def test_masks_start_from_the_configuration(mask_widget):
    assert {name: one.value for name, one in mask_widget.controls.items()} == {
        "mask_prob": 0.4,
        "mask_length": 5,
        "min_spans": 2,
        "channel_prob": 0.0,
        "channel_length": 4,
        "min_channel_spans": 0,
        "seed": 0,
        "utterance": 0,
    }
    assert mask_widget.mask.shape == (51,)
    torch.testing.assert_close(mask_widget.mask, draw(51, CONFIG, 0)[0])


def test_mask_sentence_says_what_is_shown(mask_widget):
    mask_widget.controls["mask_prob"].value = 0.0
    mask_widget.controls["min_spans"].value = 1
    assert mask_widget.caption == (
        "amy <1>: 1 span drawn, 9.8% of 51 frames masked, 1 run, 100 ms hidden, the longest 100 ms."
    )
    assert "amy <1>" in mask_widget.stage.alt
    mask_widget.controls["min_spans"].value = 0
    assert "0.0% of 51 frames masked, 0 runs, 0 ms hidden." in mask_widget.caption


def test_masks_of_a_single_utterance_need_no_menu(clips):
    widget = widgets.masks(CONFIG, clips[0])
    assert widget.controls["utterance"].layout.display == "none"


def test_a_span_longer_than_the_clip_is_said_in_the_widget():
    widget = widgets.masks(CONFIG, Batch.from_arrays([torch.rand(4000)], sampling_rate=16_000))
    widget.controls["mask_length"].value = 20
    assert widget.error is None
    assert not widget.mask.any()
    assert "longer than every utterance (up to 12 frames): nothing is hidden" in widget.caption


def test_each_slider_is_a_number_of_the_configuration(mask_widget, clips):
    """What they hide is hidden in every picture and silent, or heard alone."""
    moves = {"mask_prob": 0.9, "mask_length": 12, "min_spans": 6, "channel_prob": 0.05, "seed": 3, "utterance": 1}
    changes = {}
    for name, value in {**moves, "channel_length": 3, "min_channel_spans": 9}.items():
        if name in ("channel_length", "min_channel_spans"):
            assert not mask_widget.controls[name].disabled
        mask_widget.controls[name].value = value
        assert mask_widget.error is None
        changes[name] = value
        config = CONFIG.replace(
            mask_time_prob=changes.get("mask_prob", 0.4),
            mask_time_length=changes.get("mask_length", 5),
            mask_time_min_masks=changes.get("min_spans", 2),
            mask_feature_prob=changes.get("channel_prob", 0.0),
            mask_feature_length=changes.get("channel_length", 4),
            mask_feature_min_masks=changes.get("min_channel_spans", 0),
        )
        waveform, frames = (clips.waveforms[1], 99) if "utterance" in changes else (clips.waveforms[0], 51)
        mask, channels = draw(frames, config, changes.get("seed", 0))
        assert torch.equal(mask_widget.mask, mask)
        assert torch.equal(mask_widget.channels, channels)
        drawn, runs = drawn_spans(frames, config, changes.get("seed", 0)), len(spans(mask))
        assert f": {drawn} span{'s' * (drawn != 1)} drawn, " in mask_widget.caption
        assert f"masked, {runs} run{'s' * (runs != 1)}, " in mask_widget.caption
        for ax in (mask_widget.wave, mask_widget.spectrum):
            assert len(ax.collections[-1].get_paths()) == len(spans(mask))
        assert mask_widget.wave.get_title() == summary(mask)
        assert mask_widget.wave.get_xlim() == mask_widget.spectrum.get_xlim() == (0, len(waveform) / 16_000)
        np.testing.assert_array_equal(mask_widget.wave.lines[0].get_ydata(), _sound.envelope(waveform.numpy())[1])
        assert sum(bar.get_height() for bar in mask_widget.runs.containers[0]) == len(spans(mask))
        for heard, keep in zip(sounds(mask_widget).values(), ("visible", "masked"), strict=True):
            np.testing.assert_array_equal(heard, (audible(waveform, mask, hop=320, keep=keep) * 2**15).round())
    assert f"{int(channels.sum())} of 768 channels are zero" in mask_widget.caption
    shown = torch.from_numpy(np.asarray(mask_widget.cells.images[0].get_array()))
    assert torch.equal(shown, torch.where(channels[:, None], 2, mask.long()))


def test_channel_sliders_wait_for_a_share(mask_widget):
    assert not mask_widget.channels.any()
    assert [mask_widget.controls[name].disabled for name in ("channel_length", "min_channel_spans")] == [True, True]


def test_the_line_is_the_mean_of_many_masks(mask_widget):
    mask_widget.controls["mask_length"].value = 7
    (stairs,) = [one for one in mask_widget.runs.patches if isinstance(one, StepPatch)]
    lengths, masks = many_runs(51, 0.4, 7, 2)
    np.testing.assert_allclose(stairs.get_data()[0], run_counts(lengths) / masks)


def test_masks_of_a_run_are_replayed():
    torch.manual_seed(0)
    model = UniSpeechSatModel(small_config(mask_time_prob=0.5, mask_time_length=4, mask_feature_prob=0.4)).train()
    _, trace = run(model, noise(), "mask.*", allow_train=True)
    view = widgets.masks(trace, noise(), utterance=1)
    assert list(view.controls) == ["utterance"]
    for utterance in (1, 0):
        view.controls["utterance"].value = utterance
        mask, channels = replay(trace, utterance)
        assert torch.equal(view.mask, mask)
        assert torch.equal(view.channels, channels)
        assert len(view.wave.collections[-1].get_paths()) == len(spans(mask))


def test_a_run_without_masks_or_of_others_is_answered():
    assert "the trace holds hidden.1, but no masks" in widgets.masks(trace("hidden.1"), noise()).stage.alert
    said = widgets.masks(trace("mask.*"), noise()[1]).stage.alert
    assert "saw utterances of [148, 61, 29] frames, the batch has [61]" in said
