"""Where rows lie between two classes, analogies and ABX errors over layers."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from unisat.plots._style import CLASSES, axes, beside, label_layers, literal


def direction(table: pd.DataFrame, first: str, second: str, *, bins: int = 40, ax: Axes | None = None) -> Axes:
    """Histograms of where held-out rows of two classes lie; the means of the classes lie at 0 and 1.

    Parameters
    ----------
    table : DataFrame
        From `Direction.held_out`: ``label`` and ``place``.
    first, second : str
        The two values.
    bins : int
        Number of bars.
    """
    ax = axes(ax, 6.4, 3.0)
    edges = np.histogram_bin_edges(table["place"], bins).tolist()
    for name, colour in zip((first, second), CLASSES, strict=False):
        places = table["place"][table["label"] == name]
        ax.hist(places, edges, color=colour, alpha=0.6, density=True, label=literal(name))
    ax.axvline(0.5, color="black", linestyle=":", linewidth=1, label="threshold")
    ax.set(xlabel=f"place: 0 is the mean of {literal(first)}, 1 that of {literal(second)}", ylabel="density")
    beside(ax)
    return ax


def analogies(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share of analogies that each site gets right, with its 95 % interval, and the ranges of the floors.

    Parameters
    ----------
    table : DataFrame
        From `Analogies.table`.
    """
    ax = axes(ax, 6.4, 3.0)
    sites = table["site"].drop_duplicates().tolist()
    for place, (what, colour) in enumerate(zip(table["what"].drop_duplicates(), CLASSES, strict=False)):
        some = table[table["what"] == what]
        x = np.arange(len(some)) + 0.12 * (place - 1.5)  # beside each other, so that no range hides another
        ax.plot(x, some["accuracy"], color=colour, marker="o", markersize=4, linestyle="none", label=what)
        ax.vlines(x, some["low"], some["high"], color=colour, alpha=0.5)
    ax.axhline(float(table["chance"].iloc[0]), color="black", linestyle=":", linewidth=1, label="chance")
    label_layers(ax, sites)
    ax.set(ylabel="right analogies", ylim=(0, None))
    beside(ax)
    return ax


def abx(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """ABX error of each site with its 95 % interval; chance is a dotted line.

    Parameters
    ----------
    table : DataFrame
        From `AbxErrors.table`.
    """
    ax = axes(ax, 6.4, 3.0)
    x = np.arange(len(table))
    # no line from site to site: spectra and other models are no further layers
    ax.plot(x, table["error"], color=CLASSES[0], marker="o", markersize=4, linestyle="none", label="ABX error")
    if table["low"].notna().all():
        ax.vlines(x, table["low"], table["high"], color=CLASSES[0], alpha=0.5, label="95 % over speakers")
    ax.axhline(0.5, color="black", linestyle=":", linewidth=1, label="chance")
    label_layers(ax, table["site"].tolist())
    ax.set(ylabel="ABX error", ylim=(0, max(0.55, float(table["error"].max()) + 0.05)))
    beside(ax)
    return ax
