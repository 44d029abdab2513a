"""How alike layers are, and how much of a label's variance is left without another label's directions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from unisat.plots._style import ANNOTATED, CLASSES, axes, beside, heat_map, label_layers, literal

NAMES = {
    "cka": "debiased CKA",
    "cca": "held-out canonical correlation",
    "projection": "overlap of principal subspaces",
}


def layer_similarity(
    table: pd.DataFrame,
    *,
    to: str | None = None,
    chance: float | None = None,
    names: tuple[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Heat map of the similarities between two sets of layers; small maps have numbers in the cells.

    Parameters
    ----------
    table : DataFrame
        From `LayerSimilarity.table`.
    to : str, optional
        Draw a curve instead: the similarity of every ``first`` to this ``second`` site, with its interval.
    chance : float, optional
        Similarity of unrelated layers: a dotted line beside the curve.
    names : (str, str), optional
        Names of the models, for the axes: those of ``first`` and of ``second``.
    """
    columns = list(dict.fromkeys(table["second"]))
    rows = list(dict.fromkeys(table["first"]))
    name = NAMES[table["kind"].iloc[0]]
    if to is not None:
        if to not in columns:
            raise ValueError(f"to={to!r} must be one of the second sites: {', '.join(columns)}.")
        ax = axes(ax, 6.4, 3.4)
        of = "" if names is None else f" of {literal(names[1])}"
        ax.set_title(f"with {literal(to)}{of}", fontsize=9)
        ax = _curve(table[table["second"] == to], rows, name, chance, ax)
        if names is not None:
            ax.set_xlabel(f"{literal(names[0])}: {ax.get_xlabel()}")
        return ax
    values = table["similarity"].to_numpy(float).reshape(len(rows), len(columns))
    ax = axes(ax, 6.0, 4.8)
    limits = (min(0.0, float(np.nanmin(values))), 1.0)
    heat_map(values, x=(-0.5, len(columns) - 0.5), y=(-0.5, len(rows) - 0.5), label=name, limits=limits, ax=ax)
    if max(values.shape) <= ANNOTATED:
        for (row, column), value in np.ndenumerate(values):
            dark = value < 0.6 * (limits[1] - limits[0]) + limits[0]
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", size=8, color="white" if dark else "black")
    label_layers(ax, rows, "y")
    label_layers(ax, columns, "x")
    if names is not None:
        ax.set(
            ylabel=f"{literal(names[0])}: {ax.get_ylabel()}",
            xlabel=f"{literal(names[1])}: {ax.get_xlabel()}",
        )
    return ax


def _curve(table: pd.DataFrame, rows: Sequence[str], label: str, chance: float | None, ax: Axes) -> Axes:
    x = np.arange(len(rows))
    ax.plot(x, table["similarity"], color=CLASSES[0], marker="o", markersize=4, label="similarity")
    if table["low"].notna().any():
        text = "95 % over speakers"
        ax.fill_between(x, table["low"], table["high"], color=CLASSES[0], alpha=0.2, linewidth=0, label=text)
    if chance is not None:
        ax.axhline(chance, color="black", linestyle=":", linewidth=1, label="unrelated")
    label_layers(ax, rows)
    ax.set(ylabel=label, ylim=(min(-0.05, float(table[["similarity", "low"]].min().min())), 1.05))
    beside(ax)
    return ax


def subspaces(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share of the variance between a label's classes that is left without the other label's directions, by layer.

    1 means orthogonal, 0 means inside. Bands are the 95 % range for directions of the other label after shuffling;
    thin dotted lines enclose the 95 % range for random directions.

    Parameters
    ----------
    table : DataFrame
        From `Subspaces.table`.
    """
    ax = axes(ax, 7.6, 3.4)
    sites = list(dict.fromkeys(table["site"]))
    x = np.arange(len(sites))
    for place, label in enumerate(dict.fromkeys(table["label"])):
        rows, colour = table[table["label"] == label], CLASSES[place]
        marker = "os"[place]
        name = f"{literal(label)} without {literal(rows['removed'].iloc[0])}"
        ax.plot(x, rows["residual"], color=colour, marker=marker, markersize=4, label=name)
        one = len(x) == 1  # a band of one layer needs a width
        wide = np.array([-0.3, 0.3]) if one else x
        low, high = (np.broadcast_to(rows[f"shuffled_{end}"], wide.shape) for end in ("low", "high"))
        shuffled = f"{literal(label)} without shuffled {literal(rows['removed'].iloc[0])}, 95 %"
        ax.fill_between(wide, low, high, color=colour, alpha=0.2, linewidth=0, label=shuffled)
        for end in ("low", "high"):
            values = np.broadcast_to(rows[f"random_{end}"], wide.shape)
            text = f"{literal(label)} without random directions, 95 %" if end == "low" else None
            ax.plot(wide, values, color=colour, linestyle=":", linewidth=1, label=text)
    label_layers(ax, sites)
    ax.set(ylabel="share of variance left", ylim=(-0.03, 1.03))
    beside(ax)
    return ax
