"""Who attends to whom: one attention pattern over time."""

from __future__ import annotations

from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from unisat.plots.style import array, axes, cells, heat_map, quantile


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
