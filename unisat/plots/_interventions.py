"""What interventions did, place by place; and which moments of an utterance a target is attributed to."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from unisat.frames import SAMPLE_RATE
from unisat.plots._sound import envelope
from unisat.plots._style import CLASSES, SIGNED, array, axes, cells, heat_map, literal, quantile

CELL = 0.02
"""Seconds over which attributions of samples are added up, about one frame."""

EFFECT = "effect (0: as corrupt, 1: as clean)"
MAPPED = {
    "effect": "effect\n(0: as corrupt, 1: as clean)",
    "difference": "difference of the metric",
    "placebo": "effect of the placebo",
}


def effects(table: pd.DataFrame, *, most: int = 30, ax: Axes | None = None) -> Axes:
    """Effect of each place with its interval, beside the effect of placebos.

    Parameters
    ----------
    table : DataFrame
        From ``sweep(...).table()``: ``site``, ``head``, ``start``, ``effect``, ``low``, ``high``, ``placebo``,
        ``placebo_low``, ``placebo_high``.
    most : int
        Largest number of places to draw: those with the largest effects, in the table's order.
    """
    _check(table)
    kept = table.loc[table["effect"].abs().nlargest(most).index.sort_values()]
    rows = np.arange(len(kept))
    ax = axes(ax, 7.0, 1.2 + 0.22 * len(kept))
    ax.axvline(0, color="0.6", linewidth=0.8)
    if kept["high"].max() > 0.4:  # else it would squeeze the rest
        ax.axvline(1, color="0.6", linewidth=0.8, linestyle=":")
    if kept["placebo"].notna().any():
        ax.hlines(
            rows, kept["placebo_low"], kept["placebo_high"], color="0.75", linewidth=6, label="placebo, all draws"
        )
        ax.plot(kept["placebo"], rows, "|", color="0.35", markersize=8, label="placebo, mean")
    ax.hlines(rows, kept["low"], kept["high"], color=CLASSES[0], linewidth=1.5)
    ax.plot(kept["effect"], rows, "o", color=CLASSES[0], markersize=4, label="patched, 95 % interval")
    ax.set_yticks(rows, [literal(_name(row)) for row in kept.to_dict("records")], fontsize="small")
    ax.set_ylim(len(kept) - 0.4, -0.6)  # first place on top
    left_out = f"; {len(kept)} largest of {len(table)}" if len(kept) < len(table) else ""
    ax.set(xlabel=EFFECT, ylabel=f"patched place{left_out}")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize="small")
    return ax


def effect_map(
    table: pd.DataFrame,
    *,
    value: str = "effect",
    level: float = 0.05,
    limit: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Effects as colours: layers by heads, or places by seconds; red towards clean, blue away from it.

    Parameters
    ----------
    table : DataFrame
        From ``sweep(...).table()``. If it has no seconds, whole sites have no column here and are left out.
    value : {"effect", "difference", "placebo"}
        Which column. Draw ``placebo`` beside ``effect`` to see what any change of that size does.
    level : float
        Dots mark places whose ``p_adjusted`` is below; only on ``effect`` and ``difference``.
    limit : float, optional
        Where the colours end; None for the largest absolute value. Give one to pictures that are to be compared.
    """
    _check(table)
    if value not in MAPPED:
        raise ValueError(f"value={value!r} must be 'effect', 'difference' or 'placebo'.")
    timed = bool(table["start"].notna().any())
    if not timed:
        table = table[table["head"].notna()]
        if table.empty:
            raise ValueError(
                "a map needs heads or windows of time for its columns; draw whole sites with plots.effects, or sweep "
                "with heads=True or window=..."
            )
    column = table["start" if timed else "head"].astype(float)
    places = table["site"] + (table["head"].map(lambda h: "" if pd.isna(h) else f" head {h}") if timed else "")
    columns, names = np.sort(column.unique()), list(dict.fromkeys(places))
    at = [names.index(name) for name in places], np.searchsorted(columns, column)
    values = np.full((len(names), len(columns)), np.nan)
    values[at] = table[value]
    ax = axes(ax, 7.0, min(1.3 + 0.22 * len(names), 10.0))
    limit = limit or quantile(np.abs(values), 1.0) or 1.0
    x = (float(columns[0]), float(table["end"].max())) if timed else (-0.5, len(columns) - 0.5)
    y, limits = (-0.5, len(names) - 0.5), (-limit, limit)
    heat_map(values, x=x, y=y, label=MAPPED[value], limits=limits, colours=SIGNED, ax=ax)
    if value != "placebo" and (sure := (table["p_adjusted"] < level).to_numpy()).any():
        across = table["start"].add(table["end"]).div(2) if timed else at[1]
        style: dict[str, Any] = {"color": "black", "markeredgecolor": "white", "markersize": 5}
        ax.plot(np.asarray(across)[sure], np.asarray(at[0])[sure], "o", **style)
        ax.set_title(f"dot: beyond the placebo, p < {level:g} adjusted for all places", fontsize="small", loc="left")
    _name_rows(table, places, ax)
    if timed:
        ax.set_xlabel("time (s)")
    else:
        step = -(-len(columns) // 16)
        ax.set_xticks(range(0, len(columns), step), [f"{int(head)}" for head in columns[::step]])
        ax.set_xlabel("head")
    return ax


def _name_rows(table: pd.DataFrame, places: pd.Series, ax: Axes) -> None:
    """Name the rows of a map: by numbers of layers if all rows are one kind of site, else by their sites."""
    names = list(dict.fromkeys(places))
    kinds = {re.sub(r"\d+", "*", name) for name in names}
    by_head = bool((places != table["site"]).any())
    if len(kinds) == 1 and table["layer"].notna().all() and not by_head:
        said = kinds.pop()
        ax.set_ylabel(f"layer of {literal(said)}" if len(said) < 24 else "layer")
        labels = [str(layer) for layer in table["layer"].groupby(places, sort=False).first()]
    else:
        ax.set_ylabel("site")
        labels = [literal(name) for name in names]
    step = -(-len(names) // 40)  # at most 40 labels
    ax.set_yticks(range(0, len(names), step), labels[::step], fontsize="small")


def _check(table: pd.DataFrame) -> None:
    if missing := [name for name in ("site", "head", "start", "effect", "placebo") if name not in table]:
        raise ValueError(f"the table has no {', '.join(missing)}; pass that of sweep(...).table().")
    if table.empty:
        raise ValueError("the table has no rows: there is nothing to draw.")


def _name(row: dict[str, object]) -> str:
    head = "" if pd.isna(row["head"]) else f" head {row['head']}"
    return f"{row['site']}{head}" + ("" if pd.isna(row["start"]) else f" {row['start']:g} to {row['end']:g} s")


def attribution(
    waveform: Float[Tensor, " samples"],
    values: Float[Tensor, " positions"],
    *,
    seconds: Float[Tensor, " positions"],
    label: str = "attribution",
    ax: Axes | None = None,
) -> Axes:
    """Waveform over its attribution: red is for the target, blue is against it, white is neither.

    Attributions of samples are added up over 20 ms; those of frames are drawn as they are. Colours end at the 99th
    percentile of the absolute values.

    Parameters
    ----------
    waveform : (samples,)
        One utterance at 16 kHz.
    values, seconds : (positions,)
        Attribution of each sample or frame, and its time.
    label : str
        What the colours are.
    """
    sound, drawn = array(waveform, "waveform", "samples"), array(values, "values", "positions").astype(float)
    start, end = cells(seconds, len(drawn))
    unit = "frame"
    if len(drawn) > 1 and (end - start) / len(drawn) < CELL / 2:
        per_cell = round(CELL * SAMPLE_RATE)
        starts = np.arange(0, len(drawn), per_cell)
        end = start + len(starts) * per_cell * (end - start) / len(drawn)
        drawn, unit = np.add.reduceat(drawn, starts), f"{1000 * CELL:g} ms"
    ax = axes(ax)
    limit, peak = quantile(np.abs(drawn), 0.99) or 1.0, float(np.abs(sound).max()) or 1.0
    heat_map(
        drawn[None],
        x=(start, end),
        y=(-1.05 * peak, 1.05 * peak),
        label=f"{label} per {unit}",
        limits=(-limit, limit),
        colours=SIGNED,
        ax=ax,
    )
    ax.plot(*envelope(sound), color="black", alpha=0.6, linewidth=0.5)
    ax.set_xlim(0, len(sound) / SAMPLE_RATE)
    ax.set(xlabel="time (s)", ylabel="amplitude")
    return ax
