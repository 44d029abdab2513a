"""What every picture shares: colours, a figure that needs no pyplot, checked arrays, frames as cells, named layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from torch import Tensor

from unisat.frames import SAMPLE_RATE
from unisat.plots._show import CellFigure

CLASSES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
"""Okabe and Ito's eight colours for classes, which differ in every common form of colour blindness."""

MAGNITUDE = "viridis"
"""Colour map for values that cannot be negative."""

SIGNED = "RdBu_r"
"""Colour map for values with a sign: blue below zero, white at zero, red above."""

LABELS = 13
"""Most layers with a label of their own on an axis."""

ANNOTATED = 10
"""Most layers along a side of a map with numbers in its cells."""

DEFAULT_HOP = 320 / SAMPLE_RATE  # seconds: the width of the cell of a single frame, which has no neighbour


def axes(ax: Axes | None = None, width: float = 8.0, height: float = 2.6) -> Axes:
    """Return the given axes, or those of a new figure of ``width`` by ``height`` inches."""
    return ax if ax is not None else CellFigure(figsize=(width, height), layout="constrained").add_subplot()


def array(values: Tensor, name: str, *dimensions: str) -> np.ndarray:
    """Check the dimensions of a tensor from any device and of any type, and return it as a float array.

    Raises
    ------
    ValueError
        If ``values`` has another number of dimensions, or is empty along one of them.
    """
    expected = f"({', '.join(dimensions)}{',' * (len(dimensions) == 1)})"
    if values.ndim != len(dimensions):
        hint = f"; pick one utterance, {name}[0]" if values.ndim == len(dimensions) + 1 else ""
        raise ValueError(f"{name} must be {expected}, got {tuple(values.shape)}{hint}.")
    if 0 in values.shape:
        raise ValueError(f"{name} must be {expected} with something to draw, got {tuple(values.shape)}.")
    return values.detach().float().cpu().numpy()


def cells(seconds: Tensor | np.ndarray, frames: int) -> tuple[float, float]:
    """Start of the first of ``frames`` cells and end of the last, where each cell is centred on its time."""
    times = np.asarray(seconds, dtype=float)
    if times.shape != (frames,):
        raise ValueError(
            f"seconds must hold one time for each of the {frames} frames, got shape {times.shape}; "
            "cut both to the same frames."
        )
    half = (times[-1] - times[0]) / (frames - 1) / 2 if frames > 1 else DEFAULT_HOP / 2
    return float(times[0] - half), float(times[-1] + half)


def quantile(values: np.ndarray, share: float) -> float:
    """Value below which ``share`` of the finite values lie, where colours may end; 0 if no value is finite."""
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, share)) if len(finite) else 0.0


def literal(text: object) -> str:
    """Write text from outside so that matplotlib shows it as it is: between two dollar signs it reads mathematics."""
    return str(text).replace("$", r"\$")


def heat_map(
    values: Float[np.ndarray, "rows columns"],
    *,
    x: tuple[float, float],
    y: tuple[float, float],
    label: str,
    limits: tuple[float, float],
    colours: str = MAGNITUDE,
    ax: Axes,
) -> AxesImage:
    """Draw values as colours, row 0 at ``y[0]`` and the last row at ``y[1]``, with a named colour bar.

    If values lie beyond ``limits``, the colour bar ends in an arrow. Values that are not finite stay blank.
    """
    image = ax.imshow(
        values,
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=(*x, *y),
    )
    below, above = bool(values.min() < limits[0]), bool(values.max() > limits[1])
    ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    ax.figure.colorbar(image, ax=ax, label=literal(label), extend=ends[below, above])
    return image


def layer_names(sites: Sequence[str]) -> tuple[list[str], str]:
    """Short names of sites and a title for them; numbers of layers, if all sites are of one kind."""
    stems = {site.rpartition(".")[0] for site in sites}
    if len(stems) == 1 and all(site.rpartition(".")[2].isdigit() for site in sites):
        stem = stems.pop()
        return [site.rpartition(".")[2] for site in sites], "layer" if stem == "hidden" else f"layer of {stem}"
    return list(sites), "site"


def label_layers(ax: Axes, sites: Sequence[str], axis: str = "x") -> None:
    """Name the layers along an axis, every second or third one where there are many."""
    names, title = layer_names([literal(site) for site in sites])
    step = -(-len(names) // LABELS)
    turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if axis == "x" and title == "site" else {}
    ax.set(**{f"{axis}label": title})
    (ax.set_xticks if axis == "x" else ax.set_yticks)(range(0, len(names), step), names[::step], **turned)


def beside(ax: Axes, **options: Any) -> None:
    """Put the legend to the right of the data, never over them."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8, **options)
