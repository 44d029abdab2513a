"""What the layers hold: one hidden state, the convolutional features, and the size of every hidden state."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from unisat.interpret.activations.capture import Trace
from unisat.interpret.layers.over_time import rms_norms
from unisat.plots.style import MAGNITUDE, SIGNED, array, axes, cells, heat_map, quantile


def rows_over_time(
    values: np.ndarray,
    seconds: Tensor | np.ndarray,
    limits: tuple[float, float],
    *,
    row: str,
    label: str = "activation",
    colours: str = MAGNITUDE,
    ax: Axes | None,
) -> Axes:
    """Heat map with a row for each channel or layer, row 0 at the bottom."""
    x = cells(seconds, values.shape[1])
    ax = axes(ax)
    heat_map(values, x=x, y=(-0.5, len(values) - 0.5), label=label, limits=limits, colours=colours, ax=ax)
    ax.set(xlabel="time (s)", ylabel=row)
    return ax


def norms(data: Trace | pd.DataFrame, *, utterance: int = 0, ax: Axes | None = None) -> Axes:
    """RMS norm of each hidden state (layer 0 is what enters the first block) over time.

    ``data`` is a trace with ``hidden.*``, of which one ``utterance`` is drawn, or the table from `rms_norms`.
    """
    table = data if isinstance(data, pd.DataFrame) else rms_norms(data, utterance=utterance)
    values, seconds = table.to_numpy(dtype=float), table.columns.to_numpy(dtype=float)
    limits = 0.0, quantile(values, 1.0)
    ax = rows_over_time(values, seconds, limits, label="RMS norm", row="layer", ax=ax)
    step = -(-len(table) // 13)  # at most 13 labels
    ax.set_yticks(range(0, len(table), step), [str(layer) for layer in table.index[::step]])
    return ax


def hidden(
    hidden_state: Float[Tensor, "frames hidden"], *, seconds: Float[Tensor, " frames"], ax: Axes | None = None
) -> Axes:
    """One utterance's hidden state, channels over time: white is 0, red positive, blue negative.

    The colours end at the 99th percentile of the absolute value: a few channels are far larger than all else.
    """
    values = array(hidden_state, "hidden_state", "frames", "hidden").T
    limit = quantile(np.abs(values), 0.99) or 1.0
    return rows_over_time(values, seconds, (-limit, limit), row="channel", colours=SIGNED, ax=ax)


def features(
    conv_features: Float[Tensor, "frames channels"],
    *,
    seconds: Float[Tensor, " frames"],
    ax: Axes | None = None,
) -> Axes:
    """One utterance's convolutional features, channels over time, the colours ending at the 99th percentile.

    Past the GELU they are hardly ever below 0, so the colours do not have a middle.
    """
    values = array(conv_features, "conv_features", "frames", "channels").T
    limits = quantile(values, 0.0), quantile(values, 0.99)
    return rows_over_time(values, seconds, limits, row="channel", ax=ax)
