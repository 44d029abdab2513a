"""Move the parameters of the span mask, and see and hear what it hides."""

from __future__ import annotations

import torch
from ipywidgets import Dropdown, FloatSlider, IntSlider

from unisat.config import UniSpeechSatConfig
from unisat.corpus import Batch
from unisat.frames import SAMPLE_RATE, hop, stack_length
from unisat.masking import audible, span_lengths, span_mask
from unisat.plots import masks as plots
from unisat.pretrained import UniSpeechSatPreTrainedModel
from unisat.widgets.picture import Look, Picture, control, new_figure


class MaskView(Picture):
    """The masked spans of one utterance; made by `masks`.

    Attributes
    ----------
    mask : Bool[Tensor, "frames"]
        The mask now shown, True on masked frames.
    """

    mask: torch.Tensor

    def __init__(self, config: UniSpeechSatConfig, batch: Batch, utterance: int) -> None:
        self.config, self.batch = config, batch
        self._drawn: int | None = None  # the utterance whose waveform the figure holds
        longest, most = max(40, config.mask_time_length), max(10, config.mask_time_min_masks)
        prob, length, least = config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
        share = "share of the frames that the spans would hide if none overlapped"
        names = [(f"{index}: {name}", index) for index, name in enumerate(batch.ids)]
        super().__init__(
            control(FloatSlider, "mask_prob", share, value=prob, max=1.0, step=0.01),
            control(IntSlider, "mask_length", "frames in one span", value=length, min=1, max=longest),
            control(IntSlider, "min_spans", "spans drawn at least", value=least, max=most),
            control(IntSlider, "seed", "another mask of the same kind", max=99),
            control(Dropdown, "utterance", "what to mask", options=names, value=utterance),
        )
        if len(batch) == 1:
            self.controls["utterance"].layout.display = "none"
        self.first()

    def look(self, mask_prob: float, mask_length: int, min_spans: int, seed: int, utterance: int) -> Look:
        """Draw a mask from a generator that starts from ``seed``, and shade it."""
        waveform = self.batch.waveforms[utterance]
        kernels, strides = self.config.conv_kernel, self.config.conv_stride
        frames = stack_length(len(waveform), kernels, strides)
        self.mask = span_mask(
            torch.tensor([frames]),
            frames,
            mask_prob=mask_prob,
            mask_length=mask_length,
            min_spans=min_spans,
            generator=torch.Generator().manual_seed(seed),
        )[0]
        step = hop(strides)
        if self.figure is None or utterance != self._drawn:
            figure = new_figure(8.0, 2.6)
            plots.mask(waveform, self.mask, kernels=kernels, strides=strides, ax=figure.add_subplot())
            self.figure, self._drawn = figure, utterance
        else:  # the waveform stays, and most of the time of a redraw with it
            (ax,) = self.figure.axes
            ax.collections[-1].remove()
            plots.shade(self.mask, hop=step, ax=ax)
            ax.set_title(plots.summary(self.mask))
        return Look(
            sentence=self._sentence(mask_length, utterance),
            sounds={
                "what is left": audible(waveform, self.mask, hop=step, keep="visible"),
                "what was hidden": audible(waveform, self.mask, hop=step, keep="masked"),
            },
        )

    def _sentence(self, mask_length: int, utterance: int) -> str:
        frame_ms = 1000 * hop(self.config.conv_stride) / SAMPLE_RATE
        lengths = span_lengths(self.mask)
        longest = f", the longest {frame_ms * int(lengths.max()):.0f} ms" if len(lengths) else ""
        return (
            f"{self.batch.ids[utterance]}: {plots.summary(self.mask)}, "
            f"{frame_ms * int(lengths.sum()):.0f} ms hidden{longest}; "
            f"mask_length {mask_length} frames = {frame_ms * mask_length:.0f} ms."
        )


def masks(model: UniSpeechSatPreTrainedModel | UniSpeechSatConfig, batch: Batch, utterance: int = 0) -> MaskView:
    """Sliders over the span mask of `unisat.masking.span_mask`, starting from the configuration's values.

    Shows the waveform with its masked spans, says what share is masked, and plays what is left and what was
    hidden. The mask is drawn anew from ``seed`` at each move: the same values give the same mask.

    Parameters
    ----------
    model
        Whose front end and mask settings to use: a model or a configuration. The model is not run.
    batch
        The utterances to choose from.
    utterance : int
        Which one to show first.
    """
    config = model if isinstance(model, UniSpeechSatConfig) else model.config
    if not 0 <= utterance < len(batch):
        raise ValueError(f"utterance={utterance} is not one of the batch's {len(batch)}, counted from 0.")
    return MaskView(config, batch, utterance)
