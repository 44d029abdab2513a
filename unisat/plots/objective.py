"""Pictures of the pretraining objective: what is compared with what, what is mixed where, and the terms over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from torch import Tensor

from unisat.frames import SAMPLE_RATE
from unisat.plots.style import CLASSES, SIGNED, array, axes, heat_map
from unisat.plots.wave import waveform as draw_waveform


def similarity(
    similarity: Float[Tensor, "frames frames"],
    utterances: Int[Tensor, " frames"],
    *,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Anchors against quantized frames, (S, S); lines part utterances, the blocks on the diagonal are positives.

    Parameters
    ----------
    similarity : (S, S)
        From `unisat.losses.contrastive_similarity`: row = anchor, column = quantized frame.
    utterances : (S,)
        The utterance of each masked frame, in order.
    names : sequence of str, optional
        Names of the utterances; their numbers, if None.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if None.
    """
    values = array(similarity, "similarity", "frames", "frames")
    rows = utterances.detach().cpu().numpy()
    if rows.shape != values.shape[:1] or values.shape[0] != values.shape[1] or (np.diff(rows) < 0).any():
        raise ValueError(
            f"utterances must name the utterance of each of the {len(values)} masked frames in order, got "
            f"{rows.shape} numbers for a matrix of {values.shape}."
        )
    ax = axes(ax, 5.6, 4.6)
    size, most = len(values), float(np.abs(values).max())
    extent = (0.0, float(size))
    heat_map(values, x=extent, y=extent, label="cosine / temperature", limits=(-most, most), colours=SIGNED, ax=ax)
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    for start in starts[1:]:
        ax.axhline(start, color="black", linewidth=0.8)
        ax.axvline(start, color="black", linewidth=0.8)
    middles = (starts + np.append(starts[1:], size)) / 2
    labels = [str(row) if names is None else names[row] for row in rows[starts]]
    ax.set_xticks(middles, labels)
    ax.set_yticks(middles, labels)
    ax.set_xlabel("quantized frames, by utterance")
    ax.set_ylabel("anchors, by utterance")
    return ax


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


def terms(
    table: pd.DataFrame,
    *,
    chance: Mapping[str, float] | None = None,
    label: str = "loss (nats)",
    ax: Axes | None = None,
) -> Axes:
    """Columns of a table over its index (steps), with each column's chance level, where given, as a dotted line."""
    if table.empty:
        raise ValueError("there are no steps to draw; the table is empty.")
    ax = axes(ax, 8.0, 3.0)
    for place, name in enumerate(table):
        colour = CLASSES[place % len(CLASSES)]
        ax.plot(table.index, table[name], color=colour, label=name, marker="o", markersize=3)
        if chance and name in chance:
            ax.axhline(chance[name], color=colour, linestyle=":", label=f"{name}: chance")
    ax.set_xlabel("step")
    ax.set_ylabel(label)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax
