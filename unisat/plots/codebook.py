"""Pictures of a codebook: how evenly its entries are used, by whom, and how many more would be with more frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes

from unisat.plots.style import CLASSES, axes, heat_map


def code_usage(table: pd.DataFrame, *, summary: pd.DataFrame | None = None, ax: Axes | None = None) -> Axes:
    """How often each entry is used, the most used first, group by group, against a book in even use.

    The dotted line is a book in even use seen through as many frames: it is not flat, since some entries come up more
    often by chance. Entries without a frame end a curve; those called dead are crosses at the foot.

    Parameters
    ----------
    table : DataFrame
        From `CodebookReport.table`.
    summary : DataFrame, optional
        From `CodebookReport.summary`: perplexities for the legend.
    """
    if table.empty:
        raise ValueError("there are no entries to draw; the table is empty.")
    ax = axes(ax, 9.0, 3.2)
    for place, (group, rows) in enumerate(table.groupby("group")):
        rows = rows.sort_values("rank")
        text = f"group {group}"
        if summary is not None:
            about = summary.set_index("group").loc[str(group)]
            text += f": perplexity {about['perplexity_corrected']:.3g} of {len(rows)}"
            if pd.notna(about["low"]):
                text += f" (95 %: {about['low']:.3g} to {about['high']:.3g})"
        colour = CLASSES[place % len(CLASSES)]
        ax.plot(rows["rank"] + 1, 100 * rows["share"].where(rows["count"] > 0), color=colour, label=text)
        dead = rows[rows["dead"]]
        if len(dead):
            label, height = f"group {group}: {len(dead)} dead", np.full(len(dead), 0.03 + 0.05 * place)
            marks: dict[str, Any] = {"color": colour, "marker": "x", "markersize": 4, "linestyle": "none"}
            ax.plot(dead["rank"] + 1, height, transform=ax.get_xaxis_transform(), label=label, **marks)
    frames = table["count"].groupby(table["group"]).sum().iloc[0]
    even = table[table["group"] == table["group"].iloc[0]].sort_values("rank")
    ax.plot(even["rank"] + 1, 100 * even["even_share"], color="black", linestyle=":", label="a book in even use")
    ax.set_xlabel(f"entries, most used first ({frames:,} frames)")
    ax.set_ylabel("frames (%)")
    ax.set_xlim(0.5, len(even) + 0.5)
    ax.set_yscale("log")
    ax.set_ylim(bottom=100 / frames / 3)  # a third of one frame
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax


def code_heat_map(shares: pd.DataFrame, *, group: int | None = None, ax: Axes | None = None) -> Axes:
    """Which entries each speaker (or other label) chooses, in percent of their frames.

    Entries stand in the order of the label that favours them most, so that favourites lie along a diagonal; entries
    that nobody uses are left out.

    Parameters
    ----------
    shares : DataFrame
        From `CodebookReport.shares`: labels in rows, entries in columns, rows sum to 1.
    group : int, optional
        For the axis label.
    """
    used = shares.loc[:, shares.sum() > 0]
    if used.empty:
        raise ValueError("no entry is used by any label; there is nothing to draw.")
    top, size = used.to_numpy().argmax(0), used.to_numpy().max(0)
    values: Float[np.ndarray, "labels entries"] = 100 * used.to_numpy()[:, np.lexsort((-size, top))]
    ax = axes(ax, 8.0, min(8.0, 1.6 + 0.18 * len(used)))
    x, y = (0.5, values.shape[1] + 0.5), (-0.5, len(used) - 0.5)
    limit = float(np.quantile(values, 0.995)) or float(values.max())
    heat_map(values, x=x, y=y, label="frames (%)", limits=(0.0, limit), ax=ax)
    step = -(-len(used) // 30)
    ax.set_yticks(range(0, len(used), step), [str(name) for name in used.index[::step]], fontsize="small")
    ax.invert_yaxis()
    where = "" if group is None else f" of group {group}"
    ax.set_xlabel(
        f"{values.shape[1]} of {shares.shape[1]} entries{where}, by the {shares.index.name} that favours them"
    )
    ax.set_ylabel(str(shares.index.name))
    return ax


def rarefaction(table: pd.DataFrame, *, entries: int | None = None, ax: Axes | None = None) -> Axes:
    """Entries used over frames, group by group, against a book in even use (dotted).

    A curve that has become flat below the number of entries shows a book that is not used in full; one that still rises
    shows too few frames.

    Parameters
    ----------
    table : DataFrame
        From `CodebookReport.rarefied`.
    entries : int, optional
        Entries in each group, drawn as a line.
    """
    if table.empty:
        raise ValueError("there are no frames to draw; the table is empty.")
    ax = axes(ax, 6.0, 3.2)
    for place, (group, rows) in enumerate(table.groupby("group")):
        colour = CLASSES[place % len(CLASSES)]
        ax.plot(rows["frames"], rows["used"], color=colour, label=f"group {group}: {rows['used'].iloc[-1]:.0f} used")
    first = table[table["group"] == table["group"].iloc[0]]
    ax.plot(first["frames"], first["used_if_uniform"], color="black", linestyle=":", label="a book in even use")
    if entries is not None:
        ax.axhline(entries, color="grey", linewidth=0.8, label=f"all {entries} entries")
    ax.set_xscale("log")
    ax.set_xlabel("frames, drawn at random")
    ax.set_ylabel("entries used")
    ax.set_ylim(bottom=0)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax
