"""Who attends to whom: one attention pattern over time, and all heads of a layer at a glance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from torch import Tensor

from unisat.plots._sound import envelope
from unisat.plots._style import CLASSES, MAGNITUDE, array, axes, cells, heat_map, literal, quantile


def pattern(pattern: Float[Tensor, "query key"], *, seconds: Float[Tensor, " frames"], ax: Axes | None = None) -> Axes:
    """One head's attention weights in one utterance: queries from top to bottom, keys from left to right.

    Each row sums to 1; on the diagonal, from the top left, every frame looks at itself. Colours run from 0 to
    the largest weight.
    """
    weights = array(pattern, "pattern", "query", "key")
    if weights.shape[0] != weights.shape[1]:
        raise ValueError(
            f"pattern must have as many keys as queries, got {weights.shape}; cut both to the same frames."
        )
    span = cells(seconds, len(weights))
    ax = axes(ax, 6.0, 5.0)
    heat_map(weights, x=span, y=span, label="attention weight", limits=(0.0, quantile(weights, 1.0)), ax=ax)
    ax.invert_yaxis()
    ax.set(xlabel="key: time looked at (s)", ylabel="query: time that looks (s)")
    return ax


def set_pattern(
    pattern: Float[Tensor, "query key"], seconds: Float[Tensor, " frames"], title: str, ax: Axes, *, most: int
) -> None:
    """Update what `pattern` drew with other weights in at most ``most`` cells a side."""
    start, end = cells(seconds, len(seconds))
    weights = pooled(pattern, most)
    ax.images[0].set(data=weights, clim=(0, quantile(weights, 1.0)), extent=(start, end, start, end))
    averaged = f" (mean over cells of {len(seconds) / most:.1f} frames)" if len(seconds) > most else ""
    ax.set_title(literal(title) + averaged)
    ax.set(xlim=(start, end), ylim=(end, start))


def pooled(patterns: Float[Tensor, "*heads query key"], most: int) -> Float[np.ndarray, "*heads rows columns"]:
    """Patterns with at most ``most`` cells along a side; each cell is the mean of the frames that it covers.

    A picture has few pixels. If frames were left out, some heads would lose their diagonal and others would not.
    """
    weights = patterns.detach().cpu().float()
    if weights.shape[-1] > most:
        stack = weights.reshape(-1, 1, *weights.shape[-2:])
        weights = torch.nn.functional.adaptive_avg_pool2d(stack, most).reshape(*weights.shape[:-2], most, most)
    return weights.numpy()


def heads(
    patterns: Float[Tensor, "heads query key"],
    *,
    titles: Sequence[str],
    figure: Figure,
    place: SubplotSpec,
    most: int = 40,
) -> list[Axes]:
    """All heads of a layer as small maps without scales, colours from 0 to each head's own largest weight.

    Parameters
    ----------
    patterns : (heads, query, key)
        Of one utterance.
    titles : sequence of str
        One for each head.
    figure, place : matplotlib.figure.Figure, matplotlib.gridspec.SubplotSpec
        What to draw into, and which part of it to fill.
    most : int
        Most cells along a side, see `pooled`.
    """
    columns = math.ceil(math.sqrt(len(patterns) * 0.75))
    grid = place.subgridspec(math.ceil(len(patterns) / columns), columns)
    small = []
    for head, values in enumerate(pooled(patterns, most)):
        ax = figure.add_subplot(grid[head // columns, head % columns], xticks=[], yticks=[])
        ax.imshow(values, cmap=MAGNITUDE, vmin=0, vmax=quantile(values, 1.0), aspect="equal", interpolation="nearest")
        ax.set_title(literal(titles[head]), fontsize=7, pad=2)
        small.append(ax)
    return small


def row(*, ax: Axes | None = None) -> Axes:
    """Where one query looks: its weights over time in front of the waveform in grey; `set_row` puts them there."""
    ax = axes(ax, 6.0, 1.6)
    ax.plot([], [], color="0.7", linewidth=0.5)  # the waveform
    ax.plot([], [], color=CLASSES[1], linewidth=1.5, label="weight")
    ax.axvline(0, color="black", linewidth=1.5)
    ax.set(xlabel="key: time looked at (s)", ylabel="weight")
    return ax


def set_row(
    weights: Float[Tensor, " keys"],
    seconds: Float[Tensor, " keys"],
    query: float,
    samples: Float[Tensor, " samples"] | None,
    ax: Axes,
) -> None:
    """Update what `row` drew, except the limits of its times; the waveform fills the height, whatever its own."""
    values = array(weights, "weights", "keys")
    top = max(1.1 * float(values.max()), 1e-9)
    sound, line, mark = ax.lines
    if samples is not None:
        times, heard = envelope(samples.numpy())
        sound.set_data(times, top / 2 * (1 + heard / max(float(np.abs(heard).max()), 1e-9)))
    line.set_data(np.asarray(seconds, dtype=float), values)
    mark.set_xdata([query, query])
    ax.set_ylim(0, top)


def set_heads(
    patterns: Float[Tensor, "heads query key"], titles: Sequence[str], small: Sequence[Axes], *, most: int = 40
) -> None:
    """Update what `heads` drew with other patterns and titles."""
    for ax, values, title in zip(small, pooled(patterns, most), titles, strict=True):
        side = len(values)
        ax.images[0].set(data=values, clim=(0, quantile(values, 1.0)), extent=(0, side, side, 0))
        ax.set(xlim=(0, side), ylim=(side, 0))
        ax.title.set_text(literal(title))
