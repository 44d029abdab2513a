"""What probes find in each layer, with everything to compare it with on the same axes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from unisat.plots._style import CLASSES, axes

LABELS = {
    "bal_acc": "balanced accuracy",
    "eer": "equal error rate",
    "min_dcf": "minDCF (share of the cost without scores)",
    "bits": "usable information (bits)",
    "bits_share": "usable information (share of label entropy)",
    "mdl": "online codelength (bits)",
    "compression": "compression (uniform / online codelength)",
    "r2": "R² on held-out units",
}

STYLES: dict[str, tuple[str, dict[str, Any]]] = {
    "trained": ("trained", {"color": CLASSES[0], "linewidth": 2.2, "zorder": 3}),
    "untrained": ("untrained", {"color": CLASSES[1], "marker": "s", "markersize": 4}),
    "random_attribute": ("random attribute", {"color": CLASSES[3], "marker": "^", "markersize": 4}),
    "shuffle": ("shuffled labels", {"color": CLASSES[7], "marker": "x", "markersize": 4, "linewidth": 0.9}),
    "logmel": ("log-mel", {"color": CLASSES[2], "linestyle": "--"}),
    "mfcc": ("MFCC", {"color": CLASSES[4], "linestyle": "-."}),
    "loudness": ("loudness, length", {"color": CLASSES[5], "linestyle": (0, (1, 1))}),
}
"""Name and look of each control, in the order of the legend."""


def probe_curves(
    table: pd.DataFrame,
    *,
    metric: str = "bal_acc",
    best: Collection[int] = (),
    leaky: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """A metric over layers: the model, its controls and chance. Bands are 95 % intervals.

    Parameters
    ----------
    table : DataFrame
        From `LayerReport.table`.
    metric : str
        Which of its metrics.
    best : collection of int
        Layers whose points are filled, because they cannot be told from the best.
    leaky : bool
        Whether the title says that the numbers are not to be trusted.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if None.
    """
    rows = table[table["metric"] == metric]
    if rows.empty:
        raise ValueError(f"the table has no metric {metric!r}; it has {', '.join(table['metric'].unique())}.")
    ax = axes(ax, 8.0, 3.6)
    for control, (label, look) in STYLES.items():
        curve = rows[rows["control"] == control].sort_values("layer")
        if curve.empty:
            continue
        if curve["layer"].isna().any():
            ax.axhline(curve["value"].iloc[0], label=label, **look)
            ax.axhspan(curve["low"].iloc[0], curve["high"].iloc[0], color=look["color"], alpha=0.1, linewidth=0)
            continue
        layers = curve["layer"].to_numpy(int)
        ax.plot(layers, curve["value"], label=label, **look)
        ax.fill_between(layers, curve["low"], curve["high"], color=look["color"], alpha=0.18, linewidth=0)
        if control == "trained":
            filled = [layer in best for layer in layers]
            faces = [look["color"] if full else "white" for full in filled]
            ax.scatter(layers, curve["value"], s=36, facecolor=faces, edgecolor=look["color"], zorder=4)
            ax.set_xticks(layers[:: -(-len(layers) // 13)])
    ax.axhline(rows["chance"].iloc[0], color="0.4", linestyle=":", linewidth=1.2, label="chance")
    ax.set_xlabel("layer")
    ax.set_ylabel(LABELS.get(metric, metric))
    if leaky:
        ax.set_title("LEAKY: shuffled labels do better than chance", color=CLASSES[1])
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax
