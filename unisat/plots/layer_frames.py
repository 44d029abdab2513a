"""How alike the layers of one run are, and which of them is meant."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from unisat.plots.layer_similarity import ANNOTATED, label_layers
from unisat.plots.style import SIGNED, array, axes, heat_map


def frame_similarity(
    values: Float[Tensor, "layers layers"], sites: Sequence[str], *, label: str, ax: Axes | None = None
) -> Axes:
    """Layers against layers: white is 0, red alike, blue opposed; numbers in the cells where there is room.

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
    """Give what `frame_similarity` drew other numbers."""
    shown = array(values, "values", "layers", "layers")
    ax.images[0].set_data(shown)
    ax.set_title(label, fontsize=9)
    for text, value in zip(ax.texts, shown.ravel().tolist(), strict=False):
        text.set(text=f"{value:.2f}", color="white" if abs(value) > 0.65 else "black")


def outline(ax: Axes, *, column: bool = False) -> Rectangle:
    """A frame around a row (or a column) of a heat map whose rows are one high; `set_outline` says which.

    White within black, which no colour of a map hides.
    """
    frame = Rectangle((0, 0), 1, 1, fill=False, edgecolor="white", linewidth=1.2)
    frame.set_transform(ax.get_xaxis_transform() if column else ax.get_yaxis_transform())
    frame.set_path_effects([withStroke(linewidth=3.2, foreground="black")])
    ax.add_patch(frame)
    return frame


def set_outline(frame: Rectangle, place: int, *, column: bool = False) -> None:
    """Put the frame around another row or column."""
    frame.set_xy((place - 0.5, 0) if column else (0, place - 0.5))
