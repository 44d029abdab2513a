"""What each layer would say: over time, and how much of it is right, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from unisat.plots.style import CLASSES, array, axes, cells, heat_map

LETTER = 0.012
"""Share of the axes' width that a letter takes."""


def lens(
    values: Float[Tensor, "layers frames"],
    predictions: Int[Tensor, "layers frames"],
    *,
    seconds: Float[Tensor, " frames"],
    label: str,
    limits: tuple[float, float],
    names: Sequence[str] | None = None,
    blank: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What each layer says over time, layer 0 at the bottom: colours, and the names of the classes where one begins.

    Parameters
    ----------
    values, predictions : (layers, frames)
        What the colours show (`label`, within `limits`), and the likeliest class.
    names : sequence of str, optional
        Names of the classes, in the order of their numbers; None writes nothing.
    blank : int, optional
        The class whose name is not written.
    """
    colours = array(values, "values", "layers", "frames")
    classes = predictions.cpu().numpy()
    if classes.shape != colours.shape:
        raise ValueError(f"predictions must be {colours.shape} as values are, got {classes.shape}.")
    if names is not None and classes.max() >= len(names):
        raise ValueError(f"names has {len(names)} entries and class {classes.max()} is predicted; give one for each.")
    layers, frames = colours.shape
    start, end = cells(seconds, frames)
    ax = axes(ax, 9.0, 1.4 + 0.22 * layers)
    heat_map(colours, x=(start, end), y=(-0.5, layers - 0.5), label=label, limits=limits, ax=ax)
    for layer, row in enumerate(classes if names is not None else ()):
        free = -np.inf
        for frame in np.flatnonzero(np.diff(row, prepend=-1)):
            name = str(names[row[frame]]).replace(" ", "␣")  # type: ignore[index]
            time = start + frame / frames * (end - start)
            if row[frame] == blank or time < free:
                continue
            dark = colours[layer, frame] < sum(limits) / 2  # the colour map's lower half
            place: dict[str, Any] = {"ha": "left", "va": "center", "fontsize": 7, "clip_on": True}
            ax.text(time, layer, name, color="white" if dark else "black", parse_math=False, **place)
            free = time + LETTER * len(name) * (end - start)
    ax.set(xlabel="time (s)", ylabel="layer")
    step = -(-layers // 13)  # at most 13 labels
    ax.set_yticks(range(0, layers, step))
    return ax


def lens_layers(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share of frames in which each layer agrees with the last one, and is right where targets are known.

    Lines are over all frames, dots single utterances; dotted lines always say the most frequent class.

    Parameters
    ----------
    table : DataFrame
        From `unisat.interpret.units.lenses.Lens.table`.
    """
    shares = {
        "agreement": ("frames", "constant", "agrees with the last layer"),
        "agreement_said": ("frames", None, "agrees where that says a letter"),
        "accuracy": ("frames_counted", "accuracy_constant", "accuracy"),
    }
    ax = axes(ax, 7.0, 3.4)
    for colour, (column, (weight, constant, label)) in zip(CLASSES, shares.items(), strict=False):
        if column not in table:
            continue
        known = table[table[column].notna() & (table[weight] > 0)]
        layers, mean = _pooled(known, column, weight)
        ax.plot(known["layer"], known[column], ".", color=colour, alpha=0.4, markersize=4)
        ax.plot(layers, mean, color=colour, marker="o", markersize=4, label=label)
        if constant is not None:
            _, level = _pooled(known, constant, weight)
            ax.axhline(level[0], color=colour, linestyle=":", label="always the most frequent")
    ax.set(xlabel="layer", ylabel="share of frames", ylim=(-0.03, 1.03))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False)
    return ax


def _pooled(table: pd.DataFrame, column: str, weight: str) -> tuple[np.ndarray, np.ndarray]:
    """Layers, and a column's mean in each, frame by frame."""
    totals = (table[column] * table[weight]).groupby(table["layer"]).sum()
    means = totals / table.groupby("layer")[weight].sum()
    return means.index.to_numpy(), means.to_numpy()


def kmeans_lens(table: pd.DataFrame, *, metric: str = "pnmi", ax: Axes | None = None) -> Axes:
    """A metric of each layer's units, with its 95 % interval; dotted, what shuffled labels give.

    Parameters
    ----------
    table : DataFrame
        From `unisat.interpret.units.lenses.KMeansLens.table`.
    metric : {"pnmi", "phone_purity", "cluster_purity"}
    """
    chosen = table[table["metric"] == metric]
    if chosen.empty:
        raise ValueError(f"there is no metric {metric!r}; there are {', '.join(table['metric'].unique())}.")
    ax = axes(ax, 7.0, 3.4)
    trained = chosen[chosen["model"] == "trained"].sort_values("layer")
    if len(trained):
        layers = trained["layer"].to_numpy()
        ax.fill_between(layers, trained["low"], trained["high"], color=CLASSES[0], alpha=0.2, linewidth=0)
        ax.plot(layers, trained["value"], color=CLASSES[0], marker="o", markersize=4, label="trained")
        ax.plot(layers, trained["floor"], color=CLASSES[0], linestyle=":", label="trained: shuffled labels")
    untrained = chosen[chosen["model"] != "trained"].groupby("layer")["value"].agg(["mean", "min", "max"])
    if len(untrained):
        layers = untrained.index.to_numpy()
        ax.fill_between(layers, untrained["min"], untrained["max"], color=CLASSES[1], alpha=0.2, linewidth=0)
        ax.plot(layers, untrained["mean"], color=CLASSES[1], marker="s", markersize=4, label="untrained, all seeds")
    titles = {"pnmi": "PNMI", "phone_purity": "phone purity", "cluster_purity": "cluster purity"}
    ax.set(xlabel="layer", ylabel=titles.get(metric, metric))
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False)
    return ax
