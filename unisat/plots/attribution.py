"""Which moments matter: an utterance's waveform over its attribution."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from unisat.frames import SAMPLE_RATE
from unisat.plots.style import SIGNED, array, axes, cells, heat_map, quantile
from unisat.plots.wave import envelope

CELL = 0.02
"""Seconds of a cell where attributions of samples are added up: that of a frame."""


def attribution(
    waveform: Float[Tensor, " samples"],
    values: Float[Tensor, " positions"],
    *,
    seconds: Float[Tensor, " positions"],
    label: str = "attribution",
    ax: Axes | None = None,
) -> Axes:
    """Waveform over its attribution: red speaks for the target, blue against it, white has nothing to do with it.

    Attributions of samples are added up over 20 ms, those of frames are drawn as they are. Colours end at the 99th
    percentile of the absolute values.

    Parameters
    ----------
    waveform : (samples,)
        One utterance at 16 kHz.
    values, seconds : (positions,)
        Attribution of each sample or frame, and its time.
    label : str
        What the colours are.
    """
    sound, drawn = array(waveform, "waveform", "samples"), array(values, "values", "positions").astype(float)
    start, end = cells(seconds, len(drawn))
    unit = "frame"
    if len(drawn) > 1 and (end - start) / len(drawn) < CELL / 2:
        per_cell = round(CELL * SAMPLE_RATE)
        starts = np.arange(0, len(drawn), per_cell)
        end = start + len(starts) * per_cell * (end - start) / len(drawn)
        drawn, unit = np.add.reduceat(drawn, starts), f"{1000 * CELL:g} ms"
    ax = axes(ax)
    limit, peak = quantile(np.abs(drawn), 0.99) or 1.0, float(np.abs(sound).max()) or 1.0
    heat_map(
        drawn[None],
        x=(start, end),
        y=(-1.05 * peak, 1.05 * peak),
        label=f"{label} per {unit}",
        limits=(-limit, limit),
        colours=SIGNED,
        ax=ax,
    )
    ax.plot(*envelope(sound), color="black", alpha=0.6, linewidth=0.5)
    ax.set_xlim(0, len(sound) / SAMPLE_RATE)
    ax.set(xlabel="time (s)", ylabel="amplitude")
    return ax
