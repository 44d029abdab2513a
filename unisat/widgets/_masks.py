"""Move the parameters of masks, and see and hear what they hide; or look at the masks of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ipywidgets import FloatSlider, IntSlider, Widget
from torch import Tensor

from unisat.config import UniSpeechSatConfig
from unisat.corpus import Batch
from unisat.frames import SAMPLE_RATE, hop
from unisat.interpret.activations.capture import Trace
from unisat.interpret.masks import draw, drawn_spans, many_runs, replay
from unisat.masking import audible, span_lengths
from unisat.plots import _masks as plots
from unisat.plots._sound import set_spectrogram, set_waveform, spectrogram
from unisat.plots._sound import waveform as draw_waveform
from unisat.pretrained import UniSpeechSatPreTrainedModel
from unisat.widgets._choices import check_batch, check_utterance, utterance_menu
from unisat.widgets._picture import Look, Picture, answers, control, new_figure

SETTINGS = {
    "mask_time_prob": "mask_prob",
    "mask_time_length": "mask_length",
    "mask_time_min_masks": "min_spans",
    "mask_feature_prob": "channel_prob",
    "mask_feature_length": "channel_length",
    "mask_feature_min_masks": "min_channel_spans",
}
"""The control that sets each number of the configuration."""

STEPS = (5, 10, 20, 40, 80, 1000)  # ends of the histogram's axis, which then seldom moves


class MaskView(Picture):
    """Hidden frames and channels of one utterance; made by `masks`.

    Attributes
    ----------
    mask : Bool[Tensor, "frames"]
        True on the hidden frames.
    channels : Bool[Tensor, "channels"]
        True on the hidden channels.
    """

    mask: Tensor
    channels: Tensor

    def __init__(self, config: UniSpeechSatConfig, batch: Batch, utterance: int, trace: Trace | None = None) -> None:
        self.config, self.batch, self.trace = config, batch, trace
        self.hop = hop(config.conv_stride)
        self._drawn: int | None = None  # the utterance whose sound is drawn
        which = utterance_menu(batch.ids, "what to mask", utterance)
        super().__init__(*([] if trace is not None else self._sliders()), which)
        self.first()

    def _sliders(self) -> list[Widget]:
        time, feature = (
            [getattr(self.config, f"mask_{kind}_{name}") for name in ("prob", "length", "min_masks")]
            for kind in ("time", "feature")
        )
        return [
            *_spans("frames", ("mask_prob", "mask_length", "min_spans"), time, 40, "spans drawn at least"),
            *_spans(
                "channels", ("channel_prob", "channel_length", "min_channel_spans"), feature, 64, "at least, if any"
            ),
            control(IntSlider, "seed", "other masks of the same kind", max=99),
        ]

    def look(self, utterance: int, **values: Any) -> Look:
        """Show what the controls hide, or what the run hid."""
        waveform = self.batch.waveforms[utterance]
        expected, drawn = None, ""
        if self.trace is not None:
            self.mask, self.channels = replay(self.trace, utterance)
        else:
            for name in ("channel_length", "min_channel_spans"):
                self.controls[name].disabled = values["channel_prob"] == 0
            frames = plots.frames_of(waveform, self.config.conv_kernel, self.config.conv_stride)
            config = self.config.replace(**{name: values[slider] for name, slider in SETTINGS.items()})
            self.mask, self.channels = draw(frames, config, values["seed"])
            count = drawn_spans(frames, config, values["seed"])
            drawn = f"{count} span{'s' * (count != 1)} drawn, "
            lengths, masks = many_runs(frames, values["mask_prob"], values["mask_length"], values["min_spans"])
            expected = plots.run_counts(lengths) / masks
        runs = span_lengths(self.mask)
        if self.figure is None:
            self._build(waveform, expected)
        elif utterance != self._drawn:
            self._hear(waveform)
        self._drawn = utterance
        self._show(runs, expected)
        return Look(
            caption=self._caption(utterance, runs, drawn),
            sounds={
                "what is left": audible(waveform, self.mask, hop=self.hop, keep="visible"),
                "what was hidden": audible(waveform, self.mask, hop=self.hop, keep="masked"),
            },
        )

    def _build(self, waveform: Tensor, expected: np.ndarray | None) -> None:
        self.figure = figure = new_figure(8.4, 5.6)
        grid = figure.add_gridspec(3, 2, width_ratios=(3.4, 1), height_ratios=(1, 1.2, 1))
        self.wave = draw_waveform(waveform, ax=figure.add_subplot(grid[0, 0]))
        self.spectrum = spectrogram(waveform, ax=figure.add_subplot(grid[1, 0]))
        self.cells = plots.mask_cells(self.mask, self.channels, hop=self.hop, ax=figure.add_subplot(grid[2, 0]))
        self.runs = plots.run_lengths(span_lengths(self.mask), expected, ax=figure.add_subplot(grid[:2, 1]))
        self.shades = tuple(plots.shade(self.mask, hop=self.hop, ax=ax) for ax in (self.wave, self.spectrum))
        self.shades[1].set(facecolor="white", alpha=0.7)  # orange would be muddy over the colours of a spectrogram
        self.cells.set_xlim(0, len(waveform) / SAMPLE_RATE)
        self.wave.set_xlabel("")
        self.spectrum.set_xlabel("")
        self.timed(self.wave, self.spectrum, self.cells)

    def _hear(self, waveform: Tensor) -> None:
        """Put another utterance's sound into the figure."""
        set_waveform(waveform, self.wave)
        set_spectrogram(waveform, self.spectrum)
        end = len(self.mask) * self.hop / SAMPLE_RATE
        self.cells.images[0].set_extent((0, end, 0, self.config.hidden_size))
        self.cells.set_xlim(0, len(waveform) / SAMPLE_RATE)

    def _show(self, runs: Tensor, expected: np.ndarray | None) -> None:
        for shaded in self.shades:
            plots.set_shade(shaded, self.mask, hop=self.hop)
        self.wave.set_title(plots.summary(self.mask))
        self.cells.images[0].set_data(plots.cell_values(self.mask, self.channels))
        counts = plots.run_counts(runs)
        plots.set_run_lengths(counts, expected, self.runs)
        most = max(counts.max(), 0 if expected is None else expected.max())
        self.runs.set_ylim(0, next(step for step in STEPS if step >= most))

    def _caption(self, utterance: int, runs: Tensor, drawn: str) -> str:
        frame_ms = 1000 * self.hop / SAMPLE_RATE
        longest = f", the longest {frame_ms * int(runs.max()):.0f} ms" if len(runs) else ""
        hidden = (
            f"; {int(self.channels.sum())} of {len(self.channels)} channels are zero" if self.channels.any() else ""
        )
        return (
            f"{self.batch.ids[utterance]}: {drawn}{plots.summary(self.mask)}, "
            f"{frame_ms * int(runs.sum()):.0f} ms hidden{longest}{hidden}."
        )


def _spans(what: str, names: Sequence[str], values: Sequence[Any], longest: int, few: str) -> list[Widget]:
    """Make the sliders of one kind of span, along frames or channels: share, length and least number."""
    share, length, least = values
    tooltip = f"share of the {what} that the spans would hide if none overlapped"
    return [
        control(FloatSlider, names[0], tooltip, value=share, max=1.0, step=0.01),
        control(IntSlider, names[1], f"{what} in one span", value=length, min=1, max=max(longest, length)),
        control(IntSlider, names[2], few, value=least, max=max(10, least)),
    ]


@answers
def masks(
    model: UniSpeechSatPreTrainedModel | UniSpeechSatConfig | Trace, batch: Batch, utterance: int = 0
) -> MaskView:
    """Sliders over the masks of `unisat.masking.span_mask`, starting from the configuration's values.

    Shows the hidden frames over the waveform and its spectrogram, every number that enters the transformer, and how
    long the hidden runs are, in this draw and on average; spans that overlap or touch make one run. Plays what is left
    and what was hidden. The masks are drawn anew from ``seed`` at each move: the same values give the same masks.

    Parameters
    ----------
    model
        Whose front end and mask settings to use: a model, which is not run, or a configuration. Or a trace with
        ``mask.indices``, whose masks are shown as they were (with ``mask.out`` hidden channels too).
    batch
        The utterances to choose from; of a trace, those that it saw.
    utterance : int
        Which one to show first.
    """
    check_utterance(utterance, batch.ids, "batch")
    if not isinstance(model, Trace):
        return MaskView(model if isinstance(model, UniSpeechSatConfig) else model.config, batch, utterance)
    replay(model, 0)  # which says what is missing where the trace has no masks
    check_batch(model, "mask.indices", batch)
    return MaskView(model.config, batch, utterance, trace=model)
