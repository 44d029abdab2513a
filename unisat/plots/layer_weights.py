"""What each layer gives to a weighted sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from unisat.plots.layer_similarity import beside, label_layers
from unisat.plots.style import CLASSES, axes

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
