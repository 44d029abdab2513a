"""Pictures of trials: the detection error trade-off, and how the scores of both kinds spread."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from unisat.plots.style import CLASSES, axes

TICKS = np.array([0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8])


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

    There two normal distributions of scores of one width make a straight line. Draw several systems into one ``ax``,
    each with its ``label``.

    Parameters
    ----------
    points : DataFrame
        From `unisat.interpret.statistics.error_rates.det`: columns ``false_alarm`` and ``miss``.
    eer : float, optional
        Marked where it lies, on the diagonal.
    interval : (low, high), optional
        Of the equal error rate; drawn along the diagonal.
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
    text = ": ".join(part for part in (label, rate) if part)
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
    """How the scores of target and impostor trials spread, each kind as shares of its own trials.

    Parameters
    ----------
    histogram : DataFrame
        From `TrialScores.histogram`: ``low``, ``high``, ``target``, ``impostor``.
    counts : (targets, impostors), optional
        How many trials, for the legend.
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
    ax.set_xlabel(unit)
    ax.set_ylabel("trials (% of their kind)")
    ax.set_ylim(bottom=0)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax
