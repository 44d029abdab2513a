"""The layers of one run: a hidden state over time, the size of every hidden state, and how alike layers are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from unisat.interpret.activations.capture import Trace
from unisat.interpret.layers.over_time import rms_norms
from unisat.plots._style import (
    ANNOTATED,
    MAGNITUDE,
    SIGNED,
    array,
    axes,
    cells,
    heat_map,
    label_layers,
    literal,
    quantile,
)


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

    The colours end at the 99th percentile of the absolute value, because a few channels are far larger than all others.
    """
    values, limit = array(hidden_state, "hidden_state", "frames", "hidden").T, colour_limit(hidden_state)
    return rows_over_time(values, seconds, (-limit, limit), row="channel", colours=SIGNED, ax=ax)


def colour_limit(hidden_state: Float[Tensor, "frames hidden"]) -> float:
    """Where the colours of `hidden` end: the 99th percentile of the absolute value."""
    return quantile(np.abs(array(hidden_state, "hidden_state", "frames", "hidden")), 0.99) or 1.0


def set_hidden(hidden_state: Float[Tensor, "frames hidden"], limit: float, ax: Axes) -> None:
    """Update what `hidden` drew with another hidden state of as many frames."""
    values = array(hidden_state, "hidden_state", "frames", "hidden").T
    ax.images[0].set(data=values, clim=(-limit, limit))


def set_norms(table: pd.DataFrame, ax: Axes) -> None:
    """Update what `norms` drew with another table."""
    values = table.to_numpy(dtype=float)
    ax.images[0].set(data=values, clim=(0, quantile(values, 1.0)))


def place_rows(seconds: Float[Tensor, " frames"], ax: Axes) -> None:
    """Stretch rows over time, and with them the axes, to the times of other frames."""
    _, _, low, high = ax.images[0].get_extent()
    ax.images[0].set_extent((*cells(seconds, len(seconds)), low, high))


def features(
    conv_features: Float[Tensor, "frames channels"],
    *,
    seconds: Float[Tensor, " frames"],
    ax: Axes | None = None,
) -> Axes:
    """One utterance's convolutional features, channels over time, the colours ending at the 99th percentile.

    After the GELU they are hardly ever negative, so the colours have no middle.
    """
    values = array(conv_features, "conv_features", "frames", "channels").T
    limits = quantile(values, 0.0), quantile(values, 0.99)
    return rows_over_time(values, seconds, limits, row="channel", ax=ax)


def frame_similarity(
    values: Float[Tensor, "layers layers"], sites: Sequence[str], *, label: str, ax: Axes | None = None
) -> Axes:
    """Similarity of each layer to each: white is 0, red alike, blue opposed. Small maps have numbers in the cells.

    Parameters
    ----------
    values : (layers, layers)
        From `unisat.interpret.layers.over_time`, between -1 and 1.
    """
    shown = array(values, "values", "layers", "layers")
    ax, edge = axes(ax, 5.0, 4.0), len(shown) - 0.5
    heat_map(shown, x=(-0.5, edge), y=(-0.5, edge), label="", limits=(-1.0, 1.0), colours=SIGNED, ax=ax)
    if len(shown) <= ANNOTATED:
        for row in range(len(shown)):
            for column in range(len(shown)):
                ax.text(column, row, "", ha="center", va="center", size=7)
    ax.tick_params(labelsize=8)
    label_layers(ax, sites, "x")
    label_layers(ax, sites, "y")
    set_frame_similarity(values, label, ax)
    return ax


def set_frame_similarity(values: Float[Tensor, "layers layers"], label: str, ax: Axes) -> None:
    """Update what `frame_similarity` drew with other numbers."""
    shown = array(values, "values", "layers", "layers")
    ax.images[0].set_data(shown)
    ax.set_title(literal(label), fontsize=9)
    for text, value in zip(ax.texts, shown.ravel().tolist(), strict=False):
        text.set(text=f"{value:.2f}", color="white" if abs(value) > 0.65 else "black")


def outline(ax: Axes, *, column: bool = False) -> Rectangle:
    """Add a frame for a row or a column of a heat map with rows of height 1; `set_outline` moves it.

    It is white within black, so that it is seen on every colour.
    """
    frame = Rectangle((0, 0), 1, 1, fill=False, edgecolor="white", linewidth=1.2)
    frame.set_transform(ax.get_xaxis_transform() if column else ax.get_yaxis_transform())
    frame.set_path_effects([withStroke(linewidth=3.2, foreground="black")])
    ax.add_patch(frame)
    return frame


def set_outline(frame: Rectangle, place: int, *, column: bool = False) -> None:
    """Move the frame to another row or column."""
    frame.set_xy((place - 0.5, 0) if column else (0, place - 0.5))
