"""Discrete units: what each layer would say, how a codebook is used, and what clusters stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from unisat.interpret.units.lenses import over_frames
from unisat.plots._style import CLASSES, array, axes, cells, heat_map, literal

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
    """What each layer says over time, layer 0 at the bottom: colours, and the name of a class where it begins.

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
            dark = colours[layer, frame] < sum(limits) / 2  # the lower half of the colour map
            place: dict[str, Any] = {"ha": "left", "va": "center", "fontsize": 7, "clip_on": True}
            ax.text(time, layer, name, color="white" if dark else "black", parse_math=False, **place)
            free = time + LETTER * len(name) * (end - start)
    ax.set(xlabel="time (s)", ylabel="layer")
    step = -(-layers // 13)  # at most 13 labels
    ax.set_yticks(range(0, layers, step))
    return ax


def lens_layers(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share of frames in which each layer agrees with the last one, and in which it is right, if targets are known.

    Lines are over all frames, dots are single utterances. Dotted lines are for always saying the most frequent class.

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
    for colour, (column, (count, constant, label)) in zip(CLASSES, shares.items(), strict=False):
        if column not in table:
            continue
        known, mean = table[table[count] > 0], over_frames(table, column, count)
        ax.plot(known["layer"], known[column], ".", color=colour, alpha=0.4, markersize=4)
        ax.plot(mean.index, mean, color=colour, marker="o", markersize=4, label=label)
        if constant is not None:
            level = over_frames(table, constant, count).iloc[0]
            ax.axhline(level, color=colour, linestyle=":", label="always the most frequent")
    ax.set(xlabel="layer", ylabel="share of frames", ylim=(-0.03, 1.03))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False)
    return ax


def kmeans_lens(table: pd.DataFrame, *, metric: str = "pnmi", ax: Axes | None = None) -> Axes:
    """A metric of each layer's units with its 95 % interval; the dotted line is for shuffled labels.

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


def code_usage(table: pd.DataFrame, *, summary: pd.DataFrame | None = None, ax: Axes | None = None) -> Axes:
    """Use of each entry in each group, the most used entry first, beside a codebook in even use.

    The dotted line is a codebook in even use after as many frames. It is not flat, because some entries are used more
    often by chance. A curve ends where entries are unseen; crosses at the bottom mark these.

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
        text = f"group {literal(group)}"
        if summary is not None:
            about = summary.set_index("group").loc[str(group)]
            text += f": perplexity {about['perplexity_corrected']:.3g} of {len(rows)}"
            if pd.notna(about["low"]):
                text += f" (95 %: {about['low']:.3g} to {about['high']:.3g})"
        colour = CLASSES[place % len(CLASSES)]
        ax.plot(rows["rank"] + 1, 100 * rows["share"].where(rows["count"] > 0), color=colour, label=text)
        unseen = rows[rows["count"] == 0]
        if len(unseen):
            label, height = f"group {group}: {len(unseen)} unseen", np.full(len(unseen), 0.03 + 0.05 * place)
            marks: dict[str, Any] = {"color": colour, "marker": "x", "markersize": 4, "linestyle": "none"}
            ax.plot(unseen["rank"] + 1, height, transform=ax.get_xaxis_transform(), label=label, **marks)
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
    """Entries that each speaker (or other label) chooses, in percent of its frames.

    Entries are sorted by the label that favours them most, so that favourites lie along a diagonal. Unused entries are
    left out.

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
    ax.set_yticks(range(0, len(used), step), [literal(name) for name in used.index[::step]], fontsize="small")
    ax.invert_yaxis()
    where = "" if group is None else f" of group {group}"
    ax.set_xlabel(
        f"{values.shape[1]} of {shares.shape[1]} entries{where}, by the {literal(shares.index.name)} that favours them"
    )
    ax.set_ylabel(literal(shares.index.name))
    return ax


def rarefaction(table: pd.DataFrame, *, entries: int | None = None, ax: Axes | None = None) -> Axes:
    """Number of used entries over frames in each group, beside a codebook in even use (dotted).

    A curve that becomes flat below the number of entries shows that some entries are never used. A curve that still
    rises shows that there are too few frames.

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


def unit_durations(table: pd.DataFrame, *, name: int = 5, ax: Axes | None = None) -> Axes:
    """Mean duration of each unit over its share of the frames; the ``name`` longest and most frequent are numbered.

    Long units are often silence or noise. The dotted line is the share of a unit if all were equally frequent.

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
    named = share[sorted({*share.nlargest(name).index, *milliseconds.nlargest(name).index})]
    for place, row in enumerate(named.sort_values(ascending=False).index):
        # on either side by turns: the most frequent ones lie close together, and the first of them at the edge
        side: dict[str, Any] = {"xytext": (4, 3)} if place % 2 else {"xytext": (-4, 3), "ha": "right"}
        where = (share[row], milliseconds[row])
        ax.annotate(literal(shown["unit"][row]), where, textcoords="offset points", fontsize="small", **side)
    ax.axvline(100 / len(table), color="black", linestyle=":", linewidth=1, label="all equally frequent")
    ax.set_xlabel(f"share of {shown['frames'].sum():,} frames (%)")
    ax.set_ylabel("mean duration (ms)")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False)
    return ax


def unit_labels(shares: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Labels that each unit stands for, in percent of the unit's frames.

    Units are sorted by their most frequent label, so that pure units make a bright diagonal.

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
    ax.set_yticks(
        range(0, shares.shape[1], step), [literal(label) for label in shares.columns[::step]], fontsize="small"
    )
    step = -(-len(shares) // 25)
    ax.set_xticks(
        range(0, len(shares), step), [literal(unit) for unit in shares.index[order][::step]], fontsize="small"
    )
    ax.invert_yaxis()
    ax.set_xlabel("unit, by its most frequent label")
    ax.set_ylabel("label")
    return ax
