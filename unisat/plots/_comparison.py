"""Several models on one axis, and their differences."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from unisat.plots._probes import LABELS, STYLES
from unisat.plots._style import CLASSES, axes, beside, literal

AXES = {"layer": "layer", "depth": "depth (share of the last layer)"}
MARKERS = "osD^v<>P"
FLAT = ("logmel", "mfcc", "loudness")
BANDS = {"trained": 0.15, "untrained": 0.07}


def comparison(
    table: pd.DataFrame,
    *,
    metric: str,
    by: str = "layer",
    best: Mapping[str, Collection[int]] | None = None,
    leaky: Collection[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """A metric over the layers of several models, a colour each; dashed in the same colour their untrained twins.

    Acoustic controls have no layers and are the same for all models: horizontal lines in grey. Bands are 95 %
    intervals.

    Parameters
    ----------
    table : DataFrame
        From `Comparison.table`.
    metric : str
        Which of its metrics.
    by : {"layer", "depth"}
        The horizontal axis.
    best : dict of str to collection of int, optional
        Layers of each model whose points are filled, because they cannot be told from its best.
    leaky : collection of str
        Models whose numbers are not to be trusted, which the title says.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if None.
    """
    rows = table[table["metric"] == metric]
    if rows.empty:
        raise ValueError(f"the table has no metric {metric!r}; it has {', '.join(table['metric'].unique())}.")
    ax = axes(ax, 8.4, 3.8)
    for place, (model, curves) in enumerate(rows.groupby("model", sort=False)):
        colour, name = CLASSES[place % len(CLASSES)], literal(model)
        for control, look in (
            ("trained", {"marker": MARKERS[place % len(MARKERS)], "linewidth": 2.0, "markersize": 6, "zorder": 3}),
            ("untrained", {"linestyle": "--", "linewidth": 1.2}),
        ):
            curve = curves[curves["control"] == control].sort_values("layer")
            if curve.empty:
                continue
            x = curve[by].to_numpy(float)
            label = name if control == "trained" else f"{name}, untrained"
            shown: dict[str, Any] = {"color": colour, "label": label, "markerfacecolor": "white", **look}
            ax.plot(x, curve["value"], **shown)
            ax.fill_between(x, curve["low"], curve["high"], color=colour, alpha=BANDS[control], linewidth=0)
            if control == "trained":
                filled = curve["layer"].isin(list((best or {}).get(str(model), ()))).to_numpy()
                ax.plot(
                    x[filled], curve["value"][filled], linestyle="none", color=colour, marker=look["marker"], zorder=4
                )
    for control in [name for name in FLAT if (rows["control"] == name).any()]:
        row = rows[rows["control"] == control].iloc[0]
        label, look = STYLES[control]
        ax.axhline(row["value"], color="0.35", linestyle=look["linestyle"], linewidth=1.2, label=label)
        ax.axhspan(row["low"], row["high"], color="0.35", alpha=0.08, linewidth=0)
    ax.axhline(rows["chance"].iloc[0], color="0.4", linestyle=":", linewidth=1.2, label="chance")
    if by == "layer":
        layers = np.unique(rows["layer"].dropna().astype(int))
        ax.set_xticks(layers[:: -(-len(layers) // 13)])
    ax.set(xlabel=AXES[by], ylabel=LABELS.get(metric, metric))
    if leaky:
        names = literal(", ".join(leaky))
        ax.set_title(f"LEAKY ({names}): shuffled labels do better than chance", color=CLASSES[1])
    beside(ax)
    return ax


def differences(table: pd.DataFrame, *, by: str = "layer", ax: Axes | None = None) -> Axes:
    """How much more the first model of each pair has than the second, with 95 % intervals; 0 is a dotted line.

    Dashed lines are the differences of their untrained twins. At the right end, beside the curves, stands the
    difference of each pair's best layers.

    Parameters
    ----------
    table : DataFrame
        From `Comparison.differences`.
    by : {"layer", "depth"}
        The horizontal axis.
    """
    ax = axes(ax, 8.4, 3.4)
    where = "depth" if by == "depth" else "first_layer"
    curves = table[table["at"] == by]
    end = float(curves[where].max()) if len(curves) else 0.0
    step = 0.08 if by == "depth" else 0.6
    pairs = list(table.groupby(["first", "second"], sort=False))
    for place, ((first, second), rows) in enumerate(pairs):
        colour, name = CLASSES[place % len(CLASSES)], f"{literal(first)} less {literal(second)}"
        for control, look in (("trained", {"marker": "o", "linewidth": 2.0}), ("untrained", {"linestyle": "--"})):
            curve = rows[(rows["at"] == by) & (rows["control"] == control)].sort_values(where)
            if curve.empty:
                continue
            x = curve[where].to_numpy(float)
            label = name if control == "trained" else f"{name}, untrained"
            ax.plot(x, curve["difference"], color=colour, markersize=4, label=label, **look)
            ax.fill_between(x, curve["low"], curve["high"], color=colour, alpha=BANDS[control], linewidth=0)
        for best in rows[(rows["at"] == "best") & (rows["control"] == "trained")].itertuples():
            x = end + step * (1 + 0.3 * place)
            ax.plot([x, x], [best.low, best.high], color=colour, linewidth=1.5)
            ax.plot([x], [best.difference], color=colour, marker="D", linestyle="none")
    ax.plot([], [], color="0.3", marker="D", linestyle="none", label="at the best layer of each")
    ax.axhline(0, color="0.4", linestyle=":", linewidth=1.2)
    ax.axvline(end + step / 2, color="0.85", linewidth=0.8)
    if by == "layer":
        layers = np.unique(curves[where].astype(int))
        ax.set_xticks(layers[:: -(-len(layers) // 13)])
    metric = table["metric"].iloc[0]
    ax.set(xlabel=AXES[by], ylabel=f"difference of\n{LABELS.get(metric, metric)}")
    beside(ax)
    return ax
