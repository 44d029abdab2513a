"""Speakers: utterances as points in two dimensions, and how well trials tell voices apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from unisat.plots._style import CLASSES, axes, beside, literal

MARKERS = "os^"
"""Eight colours, then the same with the next shape: 24 classes."""

REST = "0.75"
"""Grey of what has no colour of its own."""

AXES = {"umap": "UMAP {} (no unit)", "pca": "PC {}", "lda": "LD {}"}

TICKS = np.array([0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8])


def embedding(
    table: pd.DataFrame,
    *,
    color: str,
    method: str = "umap",
    explained: tuple[float, float] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Points coloured by the classes of a column; with more than eight classes their shapes differ too.

    Parameters
    ----------
    table : DataFrame
        From `Embedding.table`: ``x``, ``y`` and the column ``color``. Beyond 24 classes those with the fewest points
        are grey.
    method : {"umap", "pca", "lda"}
        For the names of the axes.
    explained : (2,), optional
        Share of the variance along each axis; for LDA, of the variance between classes.
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
        ax.scatter(
            table["x"][mine], table["y"][mine], s=26, edgecolors="0.25", linewidths=0.4, label=literal(name), **style
        )
    xlabel, ylabel = axis_names(method, explained)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_title(literal(title), fontsize=9)
    if method == "umap":
        ax.set(xticks=[], yticks=[])  # distances mean nothing
    beside(ax, title=literal(color), ncols=int(np.ceil(len(styles) / 16)))
    return ax


def marks(labels: pd.Series) -> dict[str, dict[str, Any]]:
    """Colour and marker of each class, for at most 24 classes: those with the most points."""
    most = len(CLASSES) * len(MARKERS)
    names = sorted(labels.value_counts(sort=True).index[:most], key=lambda name: (len(name), name))
    return {
        name: {"color": CLASSES[place % len(CLASSES)], "marker": MARKERS[place // len(CLASSES)]}
        for place, name in enumerate(names)
    }


def axis_names(method: str, explained: tuple[float, float] | None = None) -> tuple[str, str]:
    """Names of the two axes of a map."""
    units = ["", ""] if explained is None else [f" ({share:.0%} of the variance)" for share in explained]
    if method == "lda" and explained is not None:
        units = [f" ({share:.0%} of the variance between classes)" for share in explained]
    return AXES[method].format(1) + units[0], AXES[method].format(2) + units[1]


@dataclass(frozen=True)
class PointMap:
    """What `point_map` drew, for `set_point_map` and `ring_points`.

    Attributes
    ----------
    points : dict of str to PathCollection
        The points of each shape.
    others : PathCollection
        Points without a class of their own, in grey.
    star, ring, rings : Line2D
        A point from elsewhere, the one that is chosen, and all that are selected.
    near : LineCollection
        From one point to its neighbours.
    """

    ax: Axes
    points: dict[str, PathCollection]
    others: PathCollection
    star: Line2D
    ring: Line2D
    rings: Line2D
    near: Any


def point_map(ax: Axes) -> PointMap:
    """Prepare a map of utterances without points; `set_point_map` puts them there, each with a name for the page."""
    edge: dict[str, Any] = {"edgecolors": "0.25", "linewidths": 0.4}
    around: dict[str, Any] = {"marker": "o", "ls": "", "mfc": "none", "mec": "black"}
    near = LineCollection([], colors="0.5", linewidths=0.8, zorder=0.5)
    ax.add_collection(near, autolim=False)
    return PointMap(
        ax=ax,
        points={mark: ax.scatter([], [], s=26, marker=mark, **edge) for mark in MARKERS},
        others=ax.scatter([], [], s=8, color=REST, linewidths=0, zorder=0),
        star=ax.plot([], [], "*", ms=18, mfc="white", mec="black", mew=1.5)[0],
        ring=ax.plot([], [], ms=14, mew=2.4, **around)[0],
        rings=ax.plot([], [], ms=9, mew=1.0, **around)[0],
        near=near,
    )


def set_point_map(
    drawn: PointMap,
    where: Float[np.ndarray, "points 2"],
    labels: pd.Series,
    names: Sequence[str],
    *,
    grey: Bool[np.ndarray, " points"],
    shown: Bool[np.ndarray, " points"],
    star: Float[np.ndarray, "stars 2"],
) -> None:
    """Put points on a map, with the look that `marks` gives to their labels.

    Parameters
    ----------
    where : (points, 2)
    labels : Series
        The class of each point, as text.
    names : (points,)
        What the page says of each point.
    grey : (points,)
        True on points that are drawn in grey whatever their class.
    shown : (points,)
        False on points that are left out; the axes keep room for them.
    star : (stars, 2)
        Points from elsewhere, one or none.
    """
    styles = marks(labels)
    said = labels.to_numpy(dtype=object)
    shapes = np.array([styles[one]["marker"] if one in styles else "" for one in said])
    colours = {name: to_rgba(one["color"]) for name, one in styles.items()}  # once for each class: matplotlib is slow
    plain = (shapes == "") | grey
    faint = plain & shown
    named = np.asarray(names, dtype=object)
    drawn.others.set_offsets(where[faint])
    drawn.others.names = named[faint].tolist()  # type: ignore[attr-defined]
    for shape, artist in drawn.points.items():
        mine = (shapes == shape) & ~plain & shown
        rows = np.array([colours[one] for one in said[mine]]).reshape(-1, 4)
        artist.set(offsets=where[mine], facecolors=rows)
        artist.names = named[mine].tolist()  # type: ignore[attr-defined]
    drawn.star.set_data(*star.T)
    every = np.concatenate([where, star])
    low, high = every.min(0), every.max(0)
    room = 0.06 * (high - low) + 1e-9
    drawn.ax.set(xlim=(low[0] - room[0], high[0] + room[0]), ylim=(low[1] - room[1], high[1] + room[1]))


def ring_points(
    drawn: PointMap,
    where: Float[np.ndarray, "points 2"],
    chosen: int,
    selected: Bool[np.ndarray, " points"],
    near: Bool[np.ndarray, " points"],
) -> None:
    """Ring one point of a map, and those selected; lines go to those near it, from the star where there is one."""
    drawn.ring.set_data(*where[[chosen]].T)
    drawn.rings.set_data(*where[selected].T)
    star = np.stack(drawn.star.get_data(), axis=1)
    begin = star[0] if len(star) else where[chosen]
    drawn.near.set_segments([np.stack([begin, end]) for end in where[near]])


def class_legend(labels: pd.Series, title: str, ax: Axes, hidden: Collection[str] = ()) -> None:
    """Name the colours and shapes of the classes in axes of their own; the hidden ones are empty and pale."""
    styles = marks(labels)
    keys = [Line2D([], [], ls="", ms=5, mec="0.25", mew=0.4, label=literal(name), **styles[name]) for name in styles]
    style: dict[str, Any] = {"frameon": False, "fontsize": 8, "columnspacing": 0.6, "handletextpad": 0.1}
    many = len(keys) > len(CLASSES)
    legend = ax.legend(handles=keys, title=literal(title), loc="upper left", ncols=1 + many, **style)
    for name, key, text in zip(styles, legend.legend_handles, legend.get_texts(), strict=True):
        if name in hidden:
            key.set(markerfacecolor="none", alpha=0.4)  # type: ignore[union-attr]
            text.set_color(REST)


def class_at(labels: pd.Series, ax: Axes, x: float, y: float) -> str | None:
    """Give the class whose entry in what `class_legend` drew lies at a point of the axes; None beside the entries."""
    (across, down), legend = ax.transData.transform((x, y)), ax.get_legend()
    for name, text in zip(marks(labels), legend.get_texts() if legend else (), strict=True):
        box = text.get_window_extent()
        if box.x0 - 2 * box.height <= across <= box.x1 and box.y0 <= down <= box.y1:  # its mark stands before it
            return name
    return None


def _probit(share: np.ndarray) -> np.ndarray:
    return torch.special.ndtri(torch.as_tensor(np.asarray(share, dtype=float))).numpy()


def _normal(share: np.ndarray) -> np.ndarray:
    return torch.special.ndtr(torch.as_tensor(np.asarray(share, dtype=float))).numpy()


def det(
    points: pd.DataFrame,
    *,
    eer: float | None = None,
    interval: tuple[float, float] | None = None,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Detection error trade-off: misses over false alarms, both on the scale of a normal distribution's quantiles.

    On these scales two normal distributions of scores with equal widths give a straight line. Several systems can be
    drawn into one ``ax``, each with its ``label``.

    Parameters
    ----------
    points : DataFrame
        From `unisat.interpret.statistics.error_rates.det`: columns ``false_alarm`` and ``miss``.
    eer : float, optional
        It is marked on the diagonal.
    interval : (low, high), optional
        Interval of the equal error rate, drawn along the diagonal.
    label : str, optional
        Name of the system.
    """
    if missing := {"false_alarm", "miss"} - set(points):
        raise ValueError(f"points must have the columns false_alarm and miss, got {list(points)}: {missing} missing.")
    fresh = ax is None or not ax.lines
    ax = axes(ax, 5.2, 4.8)
    alarm, miss = points["false_alarm"].to_numpy(), points["miss"].to_numpy()
    # rates of exactly 0 and 1 lie infinitely far out; the curve ends at its last points before them
    inside = (alarm > 0) & (miss > 0) & (alarm < 1) & (miss < 1)
    colour = CLASSES[sum(line.get_linestyle() == "-" for line in ax.lines) % len(CLASSES)]
    rate = "" if eer is None else f"EER {100 * eer:.1f} %"
    if interval is not None and np.isfinite(interval).all():
        rate += f" (95 %: {100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
    text = literal(": ".join(part for part in (label, rate) if part))
    ax.plot(alarm[inside], miss[inside], color=colour, linestyle="-", label=text or None)
    if interval is not None and np.isfinite(interval).all():
        ax.plot(interval, interval, color=colour, linestyle="--", linewidth=3, alpha=0.5)
    if eer is not None:
        ax.plot([eer], [eer], color=colour, marker="o", linestyle="none")
    if fresh:
        ax.set_xscale("function", functions=(_probit, _normal))
        ax.set_yscale("function", functions=(_probit, _normal))
        ax.axline((0.5, 0.5), (0.1, 0.1), color="grey", linewidth=0.8, linestyle=":", zorder=0)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(FixedLocator(TICKS.tolist()))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))
        ax.set_xlabel("false alarms (% of impostor trials)")
        ax.set_ylabel("misses (% of target trials)")
        ax.grid(alpha=0.3)
        ax.set(xlim=(0.02, 0.8), ylim=(0.02, 0.8))
    least = min([0.02, *alarm[inside], *miss[inside]]) / 1.3
    low = max(1e-4, min(least, ax.get_xlim()[0]))
    ax.set(xlim=(low, 0.8), ylim=(low, 0.8))
    if text:
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False)
    return ax


def trial_scores(
    histogram: pd.DataFrame, *, counts: tuple[int, int] | None = None, unit: str = "score", ax: Axes | None = None
) -> Axes:
    """Histogram of the scores of target and of impostor trials, each in shares of its own trials.

    Parameters
    ----------
    histogram : DataFrame
        From `TrialScores.histogram`: ``low``, ``high``, ``target``, ``impostor``.
    counts : (targets, impostors), optional
        Number of trials, for the legend.
    unit : str
        What a score is.
    """
    if histogram.empty:
        raise ValueError("there are no bins to draw; the table is empty.")
    ax = axes(ax, 7.0, 2.8)
    edges = np.append(histogram["low"], histogram["high"].iloc[-1])
    for place, kind in enumerate(("impostor", "target")):
        text = f"{kind} trials" + ("" if counts is None else f" ({counts[1 - place]:,})")
        ax.stairs(100 * histogram[kind], edges, color=CLASSES[place], fill=True, alpha=0.4)
        ax.stairs(100 * histogram[kind], edges, color=CLASSES[place], label=text)
    ax.set_xlabel(literal(unit))
    ax.set_ylabel("trials (% of their kind)")
    ax.set_ylim(bottom=0)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax
