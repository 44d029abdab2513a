"""One utterance mixed into another: the mixture's waveform, and where two speak."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from unisat.frames import SAMPLE_RATE
from unisat.plots._sound import envelope
from unisat.plots._sound import waveform as draw_waveform
from unisat.plots._style import CLASSES


def mixing(waveform: Float[Tensor, " samples"], *, start: int, end: int, snr_db: float, ax: Axes | None = None) -> Axes:
    """A mixture's waveform over time, shaded where two speak; ``start`` and ``end`` in samples."""
    if not 0 <= start <= end <= waveform.shape[-1]:
        raise ValueError(f"samples {start} to {end} do not lie inside {waveform.shape[-1]} samples.")
    ax = draw_waveform(waveform, ax=ax)
    first, last = start / SAMPLE_RATE, end / SAMPLE_RATE
    if end > start:
        ax.axvspan(first, last, color=CLASSES[4], alpha=0.4, linewidth=0)
    ax.set_title(f"two speak from {first:.2f} to {last:.2f} s, the main one {snr_db:+.1f} dB")
    return ax


def set_mixing(
    waveform: Float[Tensor, " samples"],
    other: Float[Tensor, " _"],
    *,
    start: int,
    end: int,
    snr_db: float,
    ax: Axes,
) -> None:
    """Update what `mixing` drew with another mixture; the second line of ``ax`` is what was mixed in."""
    first, last = start / SAMPLE_RATE, end / SAMPLE_RATE
    ax.lines[0].set_data(*envelope(waveform.numpy()))
    times, values = envelope(other.numpy()) if len(other) else (np.empty(0), np.empty(0))
    ax.lines[1].set_data(first + times, values)
    ax.patches[0].set(x=first, width=last - first)
    ax.set_title(f"two speak from {first:.2f} to {last:.2f} s, the main one {snr_db:+.1f} dB")
    height = 2.0 ** math.ceil(math.log2(1.02 * max(float(waveform.abs().max()), 1e-3)))
    ax.axis((0.0, len(waveform) / SAMPLE_RATE, -height, height))
