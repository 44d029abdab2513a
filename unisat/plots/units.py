"""Pictures of units: how long and how frequent they are, and which phones or words they stand for."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from unisat.plots.style import CLASSES, axes, heat_map


def unit_durations(table: pd.DataFrame, *, name: int = 5, ax: Axes | None = None) -> Axes:
    """Mean duration of each unit over its share of the frames; the ``name`` longest and most frequent are numbered.

    Long units are often silence or noise. The dotted line is the share that all would have, were they equally frequent.

    Parameters
    ----------
    table : DataFrame
        From `Units.table`.
    """
    shown = table[table["frames"] > 0]
    if shown.empty:
        raise ValueError("no unit has a frame; there is nothing to draw.")
    ax = axes(ax, 6.0, 3.6)
    share, milliseconds = 100 * shown["share"], 1000 * shown["mean_seconds"]
    ax.plot(share, milliseconds, color=CLASSES[0], marker="o", markersize=4, linestyle="none", alpha=0.7)
    for row in sorted({*share.nlargest(name).index, *milliseconds.nlargest(name).index}):
        where = (share[row], milliseconds[row])
        ax.annotate(str(shown["unit"][row]), where, xytext=(4, 3), textcoords="offset points", fontsize="small")
    ax.axvline(100 / len(table), color="black", linestyle=":", linewidth=1, label="all equally frequent")
    ax.set_xlabel(f"share of {shown['frames'].sum():,} frames (%)")
    ax.set_ylabel("mean duration (ms)")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False)
    return ax


def unit_labels(shares: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """How often each unit stands for each label, in percent of the unit's frames.

    Units stand in the order of their most frequent label, so that pure units make a bright diagonal.

    Parameters
    ----------
    shares : DataFrame
        From `Units.shares`: units in rows, labels in columns.
    """
    if shares.empty:
        raise ValueError("no unit has a label; there is nothing to draw.")
    values = 100 * shares.to_numpy()
    order = np.lexsort((-values.max(1), values.argmax(1)))
    ax = axes(ax, 8.0, min(8.0, 1.6 + 0.18 * shares.shape[1]))
    x, y = (-0.5, len(shares) - 0.5), (-0.5, shares.shape[1] - 0.5)
    heat_map(values[order].T, x=x, y=y, label="frames of the unit (%)", limits=(0.0, float(values.max())), ax=ax)
    step = -(-shares.shape[1] // 40)
    ax.set_yticks(range(0, shares.shape[1], step), [str(label) for label in shares.columns[::step]], fontsize="small")
    step = -(-len(shares) // 25)
    ax.set_xticks(range(0, len(shares), step), [str(unit) for unit in shares.index[order][::step]], fontsize="small")
    ax.invert_yaxis()
    ax.set_xlabel("unit, by its most frequent label")
    ax.set_ylabel("label")
    return ax
