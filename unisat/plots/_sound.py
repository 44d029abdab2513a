"""The sound itself: its samples and its spectrogram over time."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from unisat.audio import decibels
from unisat.frames import SAMPLE_RATE
from unisat.plots._style import CLASSES, array, axes, heat_map

POINTS = 4000
"""Longest waveform that is drawn sample by sample: it has more samples than a picture has columns."""


def envelope(samples: Float[np.ndarray, " samples"]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and values of a line that looks like the waveform and has fewer points.

    A long waveform is cut into runs of equal length, and the line takes the minimum and the maximum of each. Taking
    every n-th sample would lose peaks.
    """
    run = 2 * (len(samples) // POINTS)
    if run < 2:
        return np.arange(len(samples)) / SAMPLE_RATE, samples
    starts = np.arange(0, len(samples), run)
    extremes = np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
    times = np.repeat(starts / SAMPLE_RATE, 2)
    times[1::2] += run / 2 / SAMPLE_RATE
    return times, np.stack(extremes, axis=1).ravel()


def waveform(samples: Float[Tensor, " samples"], *, ax: Axes | None = None) -> Axes:
    """Amplitude of 16 kHz ``samples`` over time; 1 is full scale, the loudest that a file can hold."""
    ax = axes(ax)
    ax.plot([], [], color=CLASSES[0], linewidth=0.6)
    ax.set(xlabel="time (s)", ylabel="amplitude")
    set_waveform(samples, ax)
    return ax


def set_waveform(samples: Float[Tensor, " samples"], ax: Axes) -> None:
    """Update what `waveform` drew with another sound."""
    values = array(samples, "samples", "samples")
    ax.lines[0].set_data(*envelope(values))
    ax.relim()
    ax.autoscale(axis="y")
    ax.set_xlim(0, len(values) / SAMPLE_RATE)


def spectrogram(samples: Float[Tensor, " samples"], *, span_db: float = 80.0, ax: Axes | None = None) -> Axes:
    """Spectrogram of 16 kHz ``samples`` (`unisat.audio.decibels`), from the loudest cell to ``span_db`` below."""
    ax = axes(ax)
    levels, x, y = _levels(samples)
    limits = (float(levels.max()) - span_db, float(levels.max()))
    heat_map(levels, x=x, y=y, label="level (dB, full scale)", limits=limits, ax=ax)
    ax.set(xlim=(0, len(samples) / SAMPLE_RATE), ylim=(0, SAMPLE_RATE / 2))
    ax.set(xlabel="time (s)", ylabel="frequency (Hz)")
    return ax


def set_spectrogram(samples: Float[Tensor, " samples"], ax: Axes) -> None:
    """Update what `spectrogram` drew with another sound, over as many dB."""
    levels, x, y = _levels(samples)
    (image,) = ax.images
    low, high = image.get_clim()
    image.set(data=levels, extent=(*x, *y), clim=(float(levels.max()) - (high - low), float(levels.max())))
    ax.set_xlim(0, len(samples) / SAMPLE_RATE)


def _levels(samples: Tensor) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Levels in dB, frequency by time, and the seconds and hertz between which their cells lie."""
    values = array(samples, "samples", "samples")
    hop = 160
    levels = decibels(torch.from_numpy(values), hop=hop).numpy()
    step, row = hop / SAMPLE_RATE, SAMPLE_RATE / 2 / (len(levels) - 1)
    return levels, (-step / 2, (levels.shape[1] - 0.5) * step), (-row / 2, SAMPLE_RATE / 2 + row / 2)
