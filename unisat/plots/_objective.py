"""The pretraining objective: what is compared with what, what each term adds, and the terms over steps.

The pictures of one step have a second function that updates them, for a widget that redraws only what changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from torch import Tensor

from unisat.frames import SAMPLE_RATE
from unisat.interpret.objective import Comparison
from unisat.masking import spans
from unisat.plots._sound import envelope
from unisat.plots._sound import waveform as draw_waveform
from unisat.plots._style import CLASSES, SIGNED, array, axes, heat_map, literal


def similarity(
    similarity: Float[Tensor, "frames frames"],
    utterances: Int[Tensor, " frames"],
    *,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Similarity of anchors and quantized frames; lines part utterances, and blocks on the diagonal are positives.

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
    _part_utterances(rows, names, ax)
    ax.set_xlabel("quantized frames, by utterance")
    ax.set_ylabel("anchors, by utterance")
    return ax


def set_similarity(
    values: Float[np.ndarray, "frames frames"],
    utterances: Int[Tensor, " frames"],
    names: Sequence[str],
    most: float,
    ax: Axes,
    keep: Artist,
) -> None:
    """Update what `similarity` drew with another matrix, perhaps of other frames; it is grey where it is masked."""
    size = len(values)
    ax.images[0].set(data=values, clim=(-most, most), extent=(0, size, 0, size))
    ax.set(xlim=(0, size), ylim=(0, size), facecolor="0.75")
    for line in [line for line in ax.lines if line is not keep]:
        line.remove()
    _part_utterances(utterances.cpu().numpy(), names, ax)


def _part_utterances(rows: Int[np.ndarray, " frames"], names: Sequence[str] | None, ax: Axes) -> None:
    """Draw a line where the next utterance begins, and name each of them along both axes."""
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    for start in starts[1:]:
        ax.axhline(start, color="black", linewidth=0.8)
        ax.axvline(start, color="black", linewidth=0.8)
    middles = (starts + np.append(starts[1:], len(rows))) / 2
    labels = [literal(row if names is None else names[row]) for row in rows[starts]]
    ax.set_xticks(middles, labels)
    ax.set_yticks(middles, labels)
    if len(labels) > 12:  # names of neighbours would run into one another
        ax.tick_params(labelsize=7)


def contributions(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """One bar for each term, ``value · weight · share`` long; a black mark is where the best constant answer lies.

    Parameters
    ----------
    table : pandas.DataFrame
        From ``unisat.interpret.objective.Step.terms()``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if None.
    """
    if table.empty:
        raise ValueError("there are no terms to draw; the table is empty.")
    ax = axes(ax, 6.0, 2.6)
    rows = range(len(table))
    ax.barh(rows, table["contribution"], height=0.6, color=CLASSES[5])
    ax.plot(table["contribution"], rows, color="black", marker="|", markersize=18, markeredgewidth=2, linestyle="none")
    for row in rows:
        ax.text(0, row, "", va="center", fontsize=8)
    ax.set_yticks(rows, [name.replace("_", "\n") for name in table.index])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlabel("adds to loss (nats); mark: constant")
    set_contributions(table, ax)
    return ax


def set_contributions(table: pd.DataFrame, ax: Axes) -> None:
    """Update what `contributions` drew with the numbers of another table of the same terms."""
    chance = (table["chance"] * table["weight"] * table["share"]).to_numpy()
    ends = np.fmax(table["contribution"].to_numpy(), chance)  # chance is NaN for terms without one
    ax.lines[0].set_xdata(chance)
    ax.set_xlim(0, 1.05 * max(float(ends.max()), 0.1))
    for bar, text, end, row in zip(ax.patches, ax.texts, ends, table.itertuples(), strict=True):
        bar.set(width=row.contribution)
        text.set_text(f"{row.value:.3g} · {row.weight:g}" + f" · {row.share:.0%}" * (row.share != 1))
        near = end < 0.5 * ax.get_xlim()[1]
        text.set(x=end + 0.03 * ax.get_xlim()[1] if near else 0.02 * ax.get_xlim()[1])
    ax.set_title(f"loss {table['contribution'].sum():.3f}, term by term")


def anchor(compared: Comparison, *, ax: Axes | None = None) -> Axes:
    """Scores of what one anchor is compared with, a dot each: its own utterance above, the others below.

    Dots of its own utterance should lie to the right of the line, the others to the left.

    Parameters
    ----------
    compared : Comparison
        From ``unisat.interpret.objective.Step.compare``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if None.
    """
    ax = axes(ax, 6.0, 1.8)
    for row in (0, 1):
        ax.plot([], [], color=CLASSES[1 - row], marker="o", markersize=3, linestyle="none")
    ax.axvline(compared.threshold, color="black", linewidth=0.8)
    ax.set_yticks([0, 1], ["own\nutterance", "others"])
    ax.set_ylim(1.5, -0.5)
    ax.set_xlabel("cosine / temperature")
    most = max([1.0, *compared.scores.abs().tolist()])
    ax.set_xlim(-most, most)
    set_anchor(compared, ax)
    return ax


def set_anchor(compared: Comparison, ax: Axes) -> None:
    """Update what `anchor` drew with another anchor's scores."""
    for row, chosen in enumerate((compared.same, ~compared.same)):
        values = compared.scores[chosen].detach().float().cpu().numpy()
        # frames with one code have one score: they are drawn one above the other
        ax.lines[row].set_data(values, row + np.linspace(-0.4, 0.4, len(values)))
    ax.lines[2].set_xdata([compared.threshold, compared.threshold])
    ax.set_title(f"one anchor: {int(compared.right.sum())} of {len(compared.right)} right")


def heard(waveform: Float[Tensor, " samples"], *, ax: Axes | None = None) -> Axes:
    """What the model reads of one utterance; `set_heard` says where two speak and what is hidden."""
    ax = draw_waveform(waveform, ax=ax)
    ax.set_ylabel("amplitude\n(unit variance)")
    ax.broken_barh([], (0, 1), transform=ax.get_xaxis_transform(), facecolor=CLASSES[4], alpha=0.5, linewidth=0)
    ax.broken_barh([], (0, 0.07), transform=ax.get_xaxis_transform(), facecolor="black", linewidth=0)
    return ax


def set_heard(
    waveform: Float[Tensor, " samples"],
    hidden: Bool[Tensor, " frames"],
    hop_seconds: float,
    start: int,
    end: int,
    ax: Axes,
) -> None:
    """Update what `heard` drew: orange from sample ``start`` to ``end``, black below hidden frames."""
    values = waveform.detach().float().cpu().numpy()
    ax.lines[0].set_data(*envelope(values))
    height = 1.15 * max(float(np.abs(values).max()), 1e-6)
    ax.set(xlim=(0, len(values) / SAMPLE_RATE), ylim=(-height, height))
    edges = hop_seconds * spans(hidden.cpu()).double().numpy()
    boxes = [[_box(start / SAMPLE_RATE, end / SAMPLE_RATE, 1.0)], [_box(first, last, 0.07) for first, last in edges]]
    for drawn, vertices in zip(ax.collections, boxes, strict=True):
        assert isinstance(drawn, PolyCollection)
        drawn.set_verts(vertices)


def _box(start: float, end: float, height: float) -> list[tuple[float, float]]:
    return [(start, 0.0), (start, height), (end, height), (end, 0.0)]


def terms(
    table: pd.DataFrame,
    *,
    chance: Mapping[str, float] | None = None,
    label: str = "loss (nats)",
    ax: Axes | None = None,
) -> Axes:
    """Columns of a table over its index, the steps; dotted lines are the chance levels that are given."""
    if table.empty:
        raise ValueError("there are no steps to draw; the table is empty.")
    ax = axes(ax, 8.0, 3.0)
    for place, name in enumerate(table):
        colour = CLASSES[place % len(CLASSES)]
        ax.plot(table.index, table[name], color=colour, label=literal(name), marker="o", markersize=3)
        if chance and name in chance:
            ax.axhline(chance[name], color=colour, linestyle=":", label=literal(f"{name}: chance"))
    ax.set_xlabel("step")
    ax.set_ylabel(literal(label))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax
