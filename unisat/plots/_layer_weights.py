"""Weighted sums of layers: what each layer gives to one, and what the sum is good for beside single layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from unisat.plots._style import CLASSES, axes, beside, label_layers, literal

TOPS = (0.125, 0.25, 0.5, 1.0)  # where the axis of shares may end

REFERENCES = ((CLASSES[2], "--"), (CLASSES[1], "-."), (CLASSES[3], (0, (1, 1))))

QUANTITIES = {
    "weight": "weight (softmax)",
    "contribution": "weight × RMS norm, share of all layers'",
    "change": "change of the sum without the layer",
    "accuracy_drop": "held-out accuracy lost without the layer",
    "loss_rise": "held-out cross-entropy gained (nats)",
}


def layer_weights(
    table: pd.DataFrame,
    *,
    quantities: Sequence[str] = ("weight", "contribution", "change", "accuracy_drop"),
    probe: Sequence[float] | np.ndarray | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Weights, contributions and leave-one-out changes over layers: a dot for each run, a line through their means.

    Parameters
    ----------
    table : DataFrame
        From `LayerWeights.table`.
    quantities : sequence of str
        Which of ``weight``, ``contribution``, ``change``, ``accuracy_drop``, ``loss_rise``; those the table lacks are
        left out.
    probe : (layers,), optional
        Accuracy of a probe of each layer alone, to draw beside them.
    """
    if wrong := [name for name in quantities if name not in QUANTITIES]:
        raise ValueError(f"there is no quantity {wrong[0]!r}; there are {', '.join(QUANTITIES)}.")
    sites = list(dict.fromkeys(table["site"]))
    if probe is not None and len(probe) != len(sites):
        raise ValueError(f"probe must have one accuracy for each of the {len(sites)} layers, got {len(probe)}.")
    ax = axes(ax, 8.0, 3.6)
    drawn = [name for name in quantities if name in table and table[name].notna().any()]
    several = table["run"].nunique() > 1
    for place, name in enumerate(drawn):
        number = list(QUANTITIES).index(name)
        style: dict[str, Any] = {"color": CLASSES[number], "marker": "osD^v"[number]}
        shift = (place - (len(drawn) - 1) / 2) * 0.14  # dots of several quantities beside one another
        means = table.groupby("layer")[name].mean()
        ax.plot(means.index + shift, means, markersize=5, linewidth=1, label=QUANTITIES[name], **style)
        if several:
            ax.plot(table["layer"] + shift, table[name], linestyle="", markersize=2.5, alpha=0.5, **style)
    ax.axhline(1 / len(sites), color="black", linestyle=":", linewidth=1, label="equal weights")
    if probe is not None:
        ax.plot(range(len(sites)), probe, color="0.4", linestyle="--", label="accuracy of a probe of the layer")
    label_layers(ax, sites)
    ax.set(ylabel="share (1 = all)" if "loss_rise" not in drawn else "share (1 = all), or nats")
    beside(ax, title=f"{table['run'].nunique()} runs: dots, means: lines" if several else None, title_fontsize=8)
    return ax


def layer_shares(table: pd.DataFrame, *, marks: pd.DataFrame | None = None, ax: Axes | None = None) -> Axes:
    """Two bars for each layer: its weight, and its contribution, which is weight times RMS norm as a share.

    Parameters
    ----------
    table : DataFrame
        With ``site``, ``weight`` and ``contribution``.
    marks : DataFrame, optional
        The same for trained weights, drawn as black ticks over the bars.
    """
    ax, place = axes(ax, 6.0, 3.4), np.arange(len(table))
    for shift, name, colour in ((-0.2, "weight", CLASSES[0]), (0.2, "contribution", CLASSES[4])):
        label = "weight × norm" if name == "contribution" else name
        ax.bar(place + shift, 0, width=0.4, color=colour, label=label)
        if marks is not None:
            tick: dict[str, Any] = {"marker": "_", "markersize": 10, "markeredgewidth": 1.8, "color": "black"}
            ax.plot(place + shift, marks[name], linestyle="none", label="trained" if shift > 0 else None, **tick)
    label_layers(ax, table["site"].tolist())
    ax.set(ylabel="share (all layers: 1)", ylim=(0, TOPS[0]))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8, columnspacing=1)
    set_layer_shares(table, ax)
    return ax


def set_layer_shares(table: pd.DataFrame, ax: Axes) -> None:
    """Update what `layer_shares` drew with other numbers."""
    values = table[["weight", "contribution"]].to_numpy()
    for bar, value in zip(ax.patches, values.T.ravel(), strict=True):
        bar.set(height=value)
    ticks = [np.asarray(line.get_ydata(), dtype=float).max() for line in ax.lines]
    top = next(top for top in TOPS if max(values.max(), *ticks, 0) <= 0.97 * top or top == TOPS[-1])
    ax.set_ylim(0, top * 1.03)


def sum_result(
    alone: Sequence[float] | np.ndarray,
    sites: Sequence[str],
    *,
    references: Mapping[str, float],
    ax: Axes | None = None,
) -> Axes:
    """A line for what each layer alone is good for, level lines for other sums, and a star for one more sum.

    Parameters
    ----------
    alone : (layers,)
        The result of each layer.
    references : mapping
        Results of other sums by name, at most three.
    """
    ax = axes(ax, 5.0, 2.4)
    line: dict[str, Any] = {"color": CLASSES[0], "marker": "o", "markersize": 4, "linewidth": 1.2}
    ax.plot(range(len(alone)), alone, label="one layer alone", **line)
    for (name, value), (colour, style) in zip(references.items(), REFERENCES, strict=False):
        ax.axhline(value, color=colour, linestyle=style, linewidth=1.5, label=literal(name))
    ax.plot([], [], color="black", linewidth=2, marker="_", markersize=12, markeredgewidth=2, zorder=3.5)
    star: dict[str, Any] = {"marker": "*", "markersize": 9, "color": "white", "markeredgecolor": "black", "zorder": 4}
    ax.plot([], [], linestyle="none", label="own sum, at its mean layer; line: 95 % over speakers", **star)
    label_layers(ax, sites)
    ax.set_ylabel("share")
    ax.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))  # steps of 2.5 % would be rounded
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _fit(ax)
    return ax


def set_own_sum(layer: float, value: float, ax: Axes, interval: tuple[float, float] | None = None) -> None:
    """Put the star of `sum_result` where a sum's mean layer and its result are, and a line over its interval."""
    ax.lines[-1].set_data([layer], [value])
    ax.lines[-2].set_data(([], []) if interval is None else ([layer, layer], interval))
    _fit(ax)


def _fit(ax: Axes) -> None:
    """End the axis at tens of percent: one that follows each result would hide how it moves."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ax.lines])
    low, high = np.floor(10 * (values.min() - 0.01)) / 10, np.ceil(10 * (values.max() + 0.01)) / 10
    ax.set_ylim(max(low, -0.03), min(high, 1.03))
