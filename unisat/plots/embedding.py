"""Utterances as points in two dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from unisat.plots.layer_similarity import beside
from unisat.plots.style import CLASSES, axes

MARKERS = "os^"
"""Eight colours, then the same with the next shape: 24 classes."""

REST = "0.75"
"""Grey of what has no colour of its own."""

AXES = {"umap": "UMAP {} (no unit)", "pca": "PC {}", "lda": "LD {}"}


def embedding(
    table: pd.DataFrame,
    *,
    color: str,
    method: str = "umap",
    explained: tuple[float, float] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Points coloured by the classes of a column; from nine classes on shapes tell them apart too.

    Parameters
    ----------
    table : DataFrame
        From `Embedding.table`: ``x``, ``y`` and the column ``color``. Beyond 24 classes those with the fewest points
        are grey.
    method : {"umap", "pca", "lda"}
        For the names of the axes.
    explained : (2,), optional
        Share of the variance (of LDA, between classes) along each axis.
    """
    if color not in table:
        raise ValueError(f"the table has no column {color!r}; it has {', '.join(map(str, table))}.")
    if method not in AXES:
        raise ValueError(f"method={method!r} must be one of {', '.join(AXES)}.")
    labels = table[color].astype(str)
    styles = marks(labels)
    ax = axes(ax, 7.6, 5.0)
    rest = ~labels.isin(list(styles))
    if rest.any():
        others = f"{labels[rest].nunique()} other classes"
        ax.scatter(table["x"][rest], table["y"][rest], s=14, color=REST, linewidths=0, label=others)
    for name, style in styles.items():
        mine = labels == name
        ax.scatter(table["x"][mine], table["y"][mine], s=26, edgecolors="0.25", linewidths=0.4, label=name, **style)
    xlabel, ylabel = axis_names(method, explained)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_title(title, fontsize=9)
    if method == "umap":
        ax.set(xticks=[], yticks=[])  # distances mean nothing
    beside(ax, title=color, ncols=int(np.ceil(len(styles) / 16)))
    return ax


def marks(labels: pd.Series) -> dict[str, dict[str, Any]]:
    """Colour and marker of each class, at most 24 of them: beyond, those with the most points."""
    most = len(CLASSES) * len(MARKERS)
    names = sorted(labels.value_counts(sort=True).index[:most], key=lambda name: (len(name), name))
    return {
        name: {"color": CLASSES[place % len(CLASSES)], "marker": MARKERS[place // len(CLASSES)]}
        for place, name in enumerate(names)
    }


def axis_names(method: str, explained: tuple[float, float] | None = None) -> tuple[str, str]:
    """What to write along the two axes of a map."""
    units = ["", ""] if explained is None else [f" ({share:.0%} of the variance)" for share in explained]
    if method == "lda" and explained is not None:
        units = [f" ({share:.0%} of the variance between classes)" for share in explained]
    return AXES[method].format(1) + units[0], AXES[method].format(2) + units[1]
