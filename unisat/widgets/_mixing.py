"""Mix one voice into another at any level and place, see where, and hear it."""

from __future__ import annotations

import math
from typing import Any

import torch
from ipywidgets import Dropdown, FloatSlider
from matplotlib.axes import Axes

from unisat.corpus import Batch
from unisat.frames import SAMPLE_RATE
from unisat.mixing import mix_pair
from unisat.plots._mixing import mixing as draw_mixing
from unisat.plots._mixing import set_mixing
from unisat.plots._style import CLASSES, beside
from unisat.widgets._picture import Look, Picture, Sound, answers, control, new_figure


class MixingView(Picture):
    """One utterance with a stretch of another; made by `mixing`.

    Attributes
    ----------
    mixture : Tensor, (samples,)
        The mixture that is shown and played.
    added : Tensor, (end - start,)
        What is mixed in, as loud as it is in the mixture.
    start, end : int
        Samples between which two speak.
    """

    mixture: torch.Tensor
    added: torch.Tensor
    start: int
    end: int

    def __init__(self, batch: Batch, utterance: int, other: int) -> None:
        self.batch = batch
        names = [(f"{index}: {name}", index) for index, name in enumerate(batch.ids)]
        level = "power of the main utterance over that of the other, in dB"
        super().__init__(
            control(Dropdown, "utterance", "the main speaker", options=names, value=utterance),
            control(Dropdown, "other", "who is mixed in", options=names, value=other),
            control(FloatSlider, "snr_db", level, value=0.0, min=-20.0, max=20.0, step=1.0),
            control(
                FloatSlider, "start", "where the other begins, as a share of the clip", value=0.4, max=1.0, step=0.01
            ),
            control(FloatSlider, "share", "how much of the clip two speak in", value=0.4, max=1.0, step=0.01),
        )
        self.first()

    def look(self, utterance: int, other: int, snr_db: float, start: float, share: float) -> Look:
        """Mix, draw, and give the three sounds."""
        main, secondary = self.batch.waveforms[utterance], self.batch.waveforms[other]
        self.start = round(start * len(main))
        length = min(round(share * len(main)), len(main) - self.start, len(secondary))
        self.end = self.start + length
        self.mixture = mix_pair(main, secondary, snr_db=snr_db, start=self.start, length=length)
        self.added = (self.mixture - main)[self.start : self.end]
        self._draw(snr_db)
        names = self.batch.ids[utterance], self.batch.ids[other]
        caption = (
            f"{names[0]} with {length / SAMPLE_RATE:.2f} s of {names[1]} from {self.start / SAMPLE_RATE:.2f} s on, "
            f"{length / len(main):.0%} of it, at {snr_db:+.0f} dB; mixtures of pretraining lie between -5 and +5 dB "
            "and overlap in at most half."
        )
        peak, heard = float(self.mixture.abs().max()), "the mixture"
        if peak > 1:
            caption += f" It goes {20 * math.log10(peak):.1f} dB beyond full scale, and is played that much quieter."
            heard += ", quieter"
        sounds = {"the main speaker": Sound(main), heard: Sound(self.mixture / max(1.0, peak))}
        if length:
            sounds["what is mixed in"] = Sound(secondary[:length], self.start / SAMPLE_RATE)
        return Look(caption=caption, sounds=sounds)

    def clicked(self, ax: Axes, x: float, y: float) -> None:
        """Let the other begin there."""
        main = self.batch.waveforms[self.controls["utterance"].value]
        self.controls["start"].value = min(max(x * SAMPLE_RATE / len(main), 0.0), 1.0)

    def _draw(self, snr_db: float) -> None:
        there: dict[str, Any] = {"start": self.start, "end": self.end, "snr_db": snr_db}
        if self.figure is None:
            self.figure = new_figure(8.0, 2.6)
            ax = draw_mixing(self.mixture, **there, ax=self.figure.add_subplot())
            ax.lines[0].set_label("the mixture")
            ax.plot([], [], color=CLASSES[1], linewidth=0.6, alpha=0.8, label="what is mixed in")
            beside(ax)
            self.timed(ax)
        set_mixing(self.mixture, self.added, **there, ax=self.figure.axes[0])


@answers
def mixing(batch: Batch, utterance: int = 0, other: int = 1) -> MixingView:
    """Controls over who is mixed into whom, at which level, from where and for how long; see and hear the result.

    A click chooses where the other begins. What goes beyond full scale is played quieter, and said.

    Parameters
    ----------
    batch
        The utterances to choose from, two at least.
    utterance, other : int
        Main and secondary utterance to begin with.
    """
    if len(batch) < 2:
        raise ValueError(f"mixing needs two utterances, the batch has {len(batch)}; add another one.")
    if not (0 <= utterance < len(batch) and 0 <= other < len(batch)):
        raise ValueError(f"utterance={utterance} and other={other} must be among the batch's {len(batch)}, from 0.")
    return MixingView(batch, utterance, other)
