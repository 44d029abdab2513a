"""Move the parameters of the masks, and see and hear what they hide; or look at the masks that a run had."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from ipywidgets import Dropdown, FloatSlider, IntSlider, Widget
from jaxtyping import Float
from torch import Tensor

from unisat.config import UniSpeechSatConfig
from unisat.corpus import Batch
from unisat.frames import SAMPLE_RATE, hop, stack_length
from unisat.interpret.activations.capture import Trace
from unisat.masking import audible, span_lengths, span_mask
from unisat.plots import _masks as plots
from unisat.plots._sound import set_spectrogram, set_waveform, spectrogram
from unisat.plots._sound import waveform as draw_waveform
from unisat.pretrained import UniSpeechSatPreTrainedModel
from unisat.widgets._picture import Look, Picture, answers, control, new_figure

DRAWS = (25, 8)  # batches, and masks in each: a batch is rounded up or down as one
STEPS = (5, 10, 20, 40, 80, 1000)  # ends of the histogram's axis, which then seldom moves


@lru_cache(maxsize=64)
def _expected(frames: int, prob: float, length: int, least: int) -> Float[np.ndarray, " bars"]:
    """Mean number of hidden runs of each length in one utterance."""
    draws, (batches, size) = torch.Generator().manual_seed(0), DRAWS
    lengths = torch.full((size,), frames)
    batch = partial(span_mask, lengths, frames, mask_prob=prob, mask_length=length, min_spans=least, generator=draws)
    masks = torch.cat([batch() for _ in range(batches)])
    apart = torch.nn.functional.pad(masks, (0, 1)).flatten()  # a seen frame between one mask and the next
    return plots.run_counts(span_lengths(apart)) / len(masks)


class MaskView(Picture):
    """Hidden frames and channels of one utterance; made by `masks`.

    Attributes
    ----------
    mask : Bool[Tensor, "frames"]
        True on the frames now hidden.
    channels : Bool[Tensor, "channels"]
        True on the channels now hidden.
    """

    mask: Tensor
    channels: Tensor

    def __init__(self, config: UniSpeechSatConfig, batch: Batch, utterance: int, trace: Trace | None = None) -> None:
        self.config, self.batch, self.trace = config, batch, trace
        self.hop = hop(config.conv_stride)
        self._drawn: int | None = None  # the utterance whose sound the figure holds
        names = [(f"{index}: {name}", index) for index, name in enumerate(batch.ids)]
        which = control(Dropdown, "utterance", "what to mask", options=names, value=utterance)
        super().__init__(*([] if trace is not None else self._sliders()), which)
        if len(batch) == 1:
            which.layout.display = "none"
        self.first()

    def _sliders(self) -> list[Widget]:
        config = self.config
        longest, widest = max(40, config.mask_time_length), max(64, config.mask_feature_length)
        share = "share of the {} that the spans would hide if none overlapped"
        prob, length, least = config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
        wide, few = config.mask_feature_length, config.mask_feature_min_masks
        return [
            control(FloatSlider, "mask_prob", share.format("frames"), value=prob, max=1.0, step=0.01),
            control(IntSlider, "mask_length", "frames in one span", value=length, min=1, max=longest),
            control(IntSlider, "min_spans", "spans drawn at least", value=least, max=max(10, least)),
            control(
                FloatSlider,
                "channel_prob",
                share.format("channels"),
                value=config.mask_feature_prob,
                max=1.0,
                step=0.01,
            ),
            control(IntSlider, "channel_length", "channels in one span", value=wide, min=1, max=widest),
            control(IntSlider, "min_channel_spans", "at least, if any", value=few, max=max(10, few)),
            control(IntSlider, "seed", "other masks of the same kind", max=99),
        ]

    def look(self, utterance: int, **values: Any) -> Look:
        """Hide what the controls ask for, or what was hidden in the run, and show it."""
        waveform = self.batch.waveforms[utterance]
        if self.trace is None:
            self._draw_masks(waveform, **values)
        else:
            self._replay(utterance)
        runs, expected = span_lengths(self.mask), None
        if self.trace is None:
            time = values["mask_prob"], values["mask_length"], values["min_spans"]
            expected = _expected(len(self.mask), *time)
        if self.figure is None:
            self._build(waveform, expected)
        elif utterance != self._drawn:
            self._hear(waveform)
        self._drawn = utterance
        self._show(runs, expected)
        return Look(
            sentence=self._sentence(utterance, runs),
            sounds={
                "what is left": audible(waveform, self.mask, hop=self.hop, keep="visible"),
                "what was hidden": audible(waveform, self.mask, hop=self.hop, keep="masked"),
            },
        )

    def _draw_masks(self, waveform: Tensor, **values: Any) -> None:
        frames = plots.frames_of(waveform, self.config.conv_kernel, self.config.conv_stride)
        draws, width = torch.Generator().manual_seed(values["seed"]), self.config.hidden_size
        self.mask = span_mask(
            torch.tensor([frames]),
            frames,
            mask_prob=values["mask_prob"],
            mask_length=values["mask_length"],
            min_spans=values["min_spans"],
            generator=draws,
        )[0]
        self.channels = torch.zeros(width, dtype=torch.bool)
        for name in ("channel_length", "min_channel_spans"):
            self.controls[name].disabled = values["channel_prob"] == 0
        # as in the model, where a probability of 0 draws none, whatever the least number is
        if values["channel_prob"] > 0:
            self.channels = span_mask(
                torch.tensor([width]),
                width,
                mask_prob=values["channel_prob"],
                mask_length=values["channel_length"],
                min_spans=values["min_channel_spans"],
                generator=draws,
            )[0]

    def _replay(self, utterance: int) -> None:
        assert self.trace is not None
        self.mask = self.trace.ragged("mask.indices")[utterance].cpu()
        self.channels = torch.zeros(self.config.hidden_size, dtype=torch.bool)
        if "mask.out" in self.trace.sites:
            self.channels = (self.trace.ragged("mask.out")[utterance] == 0).all(0).cpu()

    def _build(self, waveform: Tensor, expected: np.ndarray | None) -> None:
        self.figure = figure = new_figure(8.4, 5.6)
        grid = figure.add_gridspec(3, 2, width_ratios=(3.4, 1), height_ratios=(1, 1.2, 1))
        self.wave = draw_waveform(waveform, ax=figure.add_subplot(grid[0, 0]))
        self.spectrum = spectrogram(waveform, ax=figure.add_subplot(grid[1, 0]))
        self.cells = plots.mask_cells(self.mask, self.channels, hop=self.hop, ax=figure.add_subplot(grid[2, 0]))
        self.runs = plots.run_lengths(span_lengths(self.mask), expected, ax=figure.add_subplot(grid[:2, 1]))
        self.shades = tuple(plots.shade(self.mask, hop=self.hop, ax=ax) for ax in (self.wave, self.spectrum))
        self.shades[1].set(facecolor="white", alpha=0.7)  # orange over the spectrogram's colours would be mud
        self.cells.set_xlim(0, len(waveform) / SAMPLE_RATE)
        self.wave.set_xlabel("")
        self.spectrum.set_xlabel("")
        # the numbers beside the histogram change with its height, and are drawn with it
        self.moving(*self.shades, self.wave.title, self.cells.images[0], *self.runs.patches, self.runs.yaxis)
        self.cursor(self.wave, self.spectrum, self.cells)

    def _hear(self, waveform: Tensor) -> None:
        """Put another utterance's sound into the figure."""
        set_waveform(waveform, self.wave)
        set_spectrogram(waveform, self.spectrum)
        end = len(self.mask) * self.hop / SAMPLE_RATE
        self.cells.images[0].set_extent((0, end, 0, self.config.hidden_size))
        self.cells.set_xlim(0, len(waveform) / SAMPLE_RATE)
        self.still()

    def _show(self, runs: Tensor, expected: np.ndarray | None) -> None:
        for shaded in self.shades:
            plots.set_shade(shaded, self.mask, hop=self.hop)
        self.wave.set_title(plots.summary(self.mask))
        self.cells.images[0].set_data(plots.cell_values(self.mask, self.channels))
        counts = plots.run_counts(runs)
        plots.set_run_lengths(counts, expected, self.runs)
        most = max(counts.max(), 0 if expected is None else expected.max())
        self.runs.set_ylim(0, next(step for step in STEPS if step >= most))

    def _sentence(self, utterance: int, runs: Tensor) -> str:
        frame_ms = 1000 * self.hop / SAMPLE_RATE
        longest = f", the longest {frame_ms * int(runs.max()):.0f} ms" if len(runs) else ""
        hidden = (
            f"; {int(self.channels.sum())} of {len(self.channels)} channels are zero" if self.channels.any() else ""
        )
        return (
            f"{self.batch.ids[utterance]}: {plots.summary(self.mask)}, "
            f"{frame_ms * int(runs.sum()):.0f} ms hidden{longest}{hidden}."
        )


@answers
def masks(
    model: UniSpeechSatPreTrainedModel | UniSpeechSatConfig | Trace, batch: Batch, utterance: int = 0
) -> MaskView:
    """Sliders over the masks of `unisat.masking.span_mask`, starting from the configuration's values.

    Shows the hidden frames over the waveform and its spectrogram, every number that enters the transformer, and how
    long the hidden runs are, in this draw and on average; plays what is left and what was hidden. The masks are drawn
    anew from ``seed`` at each move: the same values give the same masks.

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
    if not 0 <= utterance < len(batch):
        raise ValueError(f"utterance={utterance} is not one of the batch's {len(batch)}, counted from 0.")
    if not isinstance(model, Trace):
        config = model if isinstance(model, UniSpeechSatConfig) else model.config
        return MaskView(config, batch, utterance)
    if "mask.indices" not in model.sites:
        raise ValueError(
            f"the trace holds {', '.join(model.sites) or 'nothing'}, but no masks; "
            'capture them with us.run(model, batch, "mask.*").'
        )
    frames = [stack_length(len(one), model.config.conv_kernel, model.config.conv_stride) for one in batch.waveforms]
    if model.lengths("mask.indices").tolist() != frames:
        raise ValueError(
            f"the trace saw utterances of {model.lengths('mask.indices').tolist()} frames, the batch has {frames}; "
            "give the batch that was run."
        )
    return MaskView(model.config, batch, utterance, trace=model)
