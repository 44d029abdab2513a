"""How the quantizer chooses: scores of entries, codes over time and in total, perplexity over frames or steps.

Each picture has a second function that updates it, for a widget that redraws only what changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from unisat.plots._style import CLASSES, axes, literal

CURVES: dict[str, dict[str, Any]] = {
    "soft": {"color": CLASSES[0], "linestyle": "-"},
    "hard": {"color": CLASSES[1], "linestyle": "-"},
    "corrected": {"color": CLASSES[2], "linestyle": "--"},
    "even": {"color": "black", "linestyle": ":"},
}
"""How each perplexity is drawn; ``even`` is the plug-in perplexity of a codebook in even use."""

AREA = 1200
"""Square points of an entry that all frames choose."""

LABELS = {"soft": "soft", "hard": "hard, plug-in", "corrected": "hard, corrected", "even": "a book in even use"}


def entry_scores(
    before: Float[np.ndarray, " entries"],
    after: Float[np.ndarray, " entries"],
    *,
    limits: tuple[float, float] = (0.0, 1.0),
    label: str = "probability",
    ax: Axes | None = None,
) -> Axes:
    """Two scores of each entry: ``before`` filled in light blue, ``after`` as an orange line, marked at its largest.

    Parameters
    ----------
    before, after : (entries,)
        Such as logits without and with noise.
    limits : (low, high)
        Of the y axis; smaller scores are not seen.
    label : str
        Of the y axis.
    """
    if len(before) != len(after) or not len(before):
        raise ValueError(f"scores must be of the same entries, got {len(before)} and {len(after)}.")
    ax = axes(ax, 4.0, 2.2)
    edges = np.arange(len(before) + 1) - 0.5
    ax.stairs(before, edges, baseline=limits[0], fill=True, color=CLASSES[5])
    ax.stairs(after, edges, baseline=limits[0], color=CLASSES[1], linewidth=1.2)
    ax.plot([], [], color="black", marker="v", markersize=5, linestyle="none")
    ax.set(xlim=(edges[0], edges[-1]), xlabel="entry", ylabel=literal(label))
    low, high = limits
    ax.set_ylim(low, high + 0.1 * (high - low))
    set_entry_scores(before, after, ax)
    return ax


def set_entry_scores(before: np.ndarray, after: np.ndarray, ax: Axes) -> None:
    """Update what `entry_scores` drew with the scores of another frame."""
    low, high = ax.get_ylim()
    for patch, values in zip(ax.patches, (before, after), strict=True):
        patch.set_data(np.clip(values, low, None))  # type: ignore[attr-defined]
    winner = int(np.argmax(after))
    ax.lines[0].set_data([winner], [min(after[winner] + 0.05 * (high - low), high - 0.03 * (high - low))])


def code_track(
    seconds: Float[np.ndarray, " frames"],
    codes: Int[np.ndarray, " frames"],
    drawn: Int[np.ndarray, " frames"] | None = None,
    *,
    entries: int,
    ax: Axes | None = None,
) -> Axes:
    """A dot for the entry that each frame of an utterance chooses, and an orange cross where noise changes it.

    Parameters
    ----------
    seconds : (frames,)
        Time of each frame.
    codes : (frames,)
        Of one group.
    drawn : (frames,), optional
        The same with noise.
    entries : int
        In the group.
    """
    ax = axes(ax, 8.0, 1.8)
    ax.plot([], [], color=CLASSES[0], marker="o", markersize=3, linestyle="none")
    ax.plot([], [], color=CLASSES[1], marker="x", markersize=5, linestyle="none")
    ax.set(xlim=(0, 1.02 * float(np.max(seconds, initial=0.02))), xlabel="time (s)", ylabel="entry")
    place_entries(entries, ax)
    set_code_track(seconds, codes, codes if drawn is None else drawn, ax)
    return ax


def set_code_track(seconds: np.ndarray, codes: np.ndarray, drawn: np.ndarray, ax: Axes) -> None:
    """Update what `code_track` drew with other frames."""
    other = codes != drawn
    ax.lines[0].set_data(seconds, codes)
    ax.lines[1].set_data(seconds[other], drawn[other])


def place_entries(entries: int, ax: Axes) -> None:
    """Stretch the axis of what `code_track` drew to a number of entries."""
    ax.set_ylim(-0.05 * entries - 0.5, 1.05 * entries - 0.5)


def code_counts(
    counts: Int[np.ndarray, " entries"], drawn: Int[np.ndarray, " entries"] | None = None, *, ax: Axes | None = None
) -> Axes:
    """Share of the frames that chose each entry, in orange with noise; crosses are entries that no frame chose.

    Parameters
    ----------
    counts : (entries,)
        Frames that chose each entry of a group.
    drawn : (entries,), optional
        The same with noise.
    """
    if not np.sum(counts):
        raise ValueError("no frame was counted; there is nothing to draw.")
    ax = axes(ax, 4.0, 2.4)
    edges = np.arange(len(counts) + 1) - 0.5
    ax.stairs(np.zeros(len(counts)), edges, fill=True, color=CLASSES[5])
    ax.stairs(np.zeros(len(counts)), edges, color=CLASSES[1], linewidth=1.2)
    marker = "x" if len(counts) <= 64 else "|"  # many crosses would look like a bar
    ax.plot([], [], color="black", marker=marker, markersize=4, linestyle="none")
    ax.axhline(100 / len(counts), color="black", linestyle=":")
    top = 118 * max(np.max(counts) / np.sum(counts), 1.5 / len(counts))
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0, top), xlabel="entry", ylabel="frames (%)")
    set_code_counts(counts, counts if drawn is None else drawn, ax)
    return ax


def set_code_counts(counts: np.ndarray, drawn: np.ndarray, ax: Axes) -> None:
    """Update what `code_counts` drew with other counts."""
    for patch, values in zip(ax.patches, (counts, drawn), strict=True):
        patch.set_data(100 * values / values.sum())  # type: ignore[attr-defined]
    unused = np.flatnonzero(counts == 0)
    ax.lines[0].set_data(unused, np.full(len(unused), 0.03 * ax.get_ylim()[1]))


def code_map(
    places: Float[np.ndarray, "entries 2"],
    counts: Int[np.ndarray, " entries"],
    *,
    explained: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Entries of a group in two dimensions: the area is the share of frames that chose one, a cross that none did.

    Parameters
    ----------
    places : (entries, 2)
        From `unisat.interpret.units.quantizer.code_map`.
    counts : (entries,)
        Frames that chose each entry.
    explained : (2,), optional
        Share of the variance along each axis.
    """
    ax = axes(ax, 4.2, 3.0)
    ax.scatter([], [], color=CLASSES[5], edgecolors="0.25", linewidths=0.4)
    ax.plot([], [], color="0.6", marker="x", markersize=4, linestyle="none", zorder=0.5)
    for area, colour in ((260, CLASSES[1]), (140, "black")):  # rings, of which the page draws the width of points
        ax.scatter([], [], s=area, facecolors="none", edgecolors=colour, linewidths=2.2, zorder=3)
    set_code_map(places, counts, ax, explained=explained)
    return ax


def set_code_map(
    places: np.ndarray,
    counts: np.ndarray,
    ax: Axes,
    *,
    explained: tuple[float, float] | None = None,
    code: int | None = None,
    drawn: int | None = None,
) -> None:
    """Update what `code_map` drew; a black ring goes around the entry ``code``, an orange one around ``drawn``."""
    if not np.sum(counts):
        raise ValueError("no frame was counted; there is nothing to draw.")
    share, used = counts / np.sum(counts), np.flatnonzero(counts)
    points: Any = ax.collections[0]
    points.set(offsets=places[used], sizes=AREA * share[used])
    points.names = [f"entry {entry}: {share[entry]:.1%} of the frames" for entry in used]
    ax.lines[0].set_data(*places[counts == 0].T)
    for ring, entry in zip(ax.collections[1:], (drawn, code), strict=True):
        ring.set_offsets(places[[] if entry is None else [entry]])
    room = 0.08 * np.ptp(places, axis=0) + 1e-9
    low, high = places.min(0) - room, places.max(0) + room
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    names = ("PC 1", "PC 2") if explained is None else (f"PC {k + 1} ({explained[k]:.0%})" for k in range(2))
    ax.set(**dict(zip(("xlabel", "ylabel"), names, strict=True)))


def perplexity(table: pd.DataFrame, *, entries: int, legend: bool = True, ax: Axes | None = None) -> Axes:
    """Entries in use over frames (on a logarithmic axis) or over training steps, from 0 to all of them.

    Parameters
    ----------
    table : DataFrame
        From `unisat.interpret.units.perplexity`, over frames or over steps: ``frames`` or ``step`` first, and any of
        ``soft``, ``hard``, ``corrected``, ``even``.
    entries : int
        In the group, a grey line.
    legend : bool
        Whether to name the curves beside the picture.
    """
    if table.empty:
        raise ValueError("there is no perplexity to draw; the table is empty.")
    ax = axes(ax, 6.0, 3.0)
    first = str(table.columns[0])
    for name, look in CURVES.items():
        ax.plot([], [], label=LABELS[name] if name in table else None, **look)
    ax.axhline(entries, color="grey", linewidth=0.8, label=f"all {entries} entries")
    if first == "frames":
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.xaxis.set_minor_formatter(NullFormatter())
    start, end = float(table[first].min()), float(table[first].max())
    ax.set_xlim(start, end if end > start else start + 1)
    ax.set(ylim=(0, 1.05 * entries), ylabel="perplexity (entries)")
    ax.set_xlabel("frames, drawn at random" if first == "frames" else "training step")
    set_perplexity(table, ax)
    if legend:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax


def set_perplexity(table: pd.DataFrame, ax: Axes) -> None:
    """Update what `perplexity` drew with the numbers of another table of the same range."""
    for line, name in zip(ax.lines, CURVES, strict=False):
        line.set_data((table.iloc[:, 0], table[name]) if name in table else ([], []))
