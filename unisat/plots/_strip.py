"""One utterance in rows that share an axis of time: sound, segments, units, where a frame looks, norms of layers.

Each part has a second function that updates it, for a widget that redraws only what changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from unisat.frames import SAMPLE_RATE
from unisat.interpret.layers.strip import Strip
from unisat.plots._attention import row as looks
from unisat.plots._attention import set_row as set_looks
from unisat.plots._layers import norms, outline, place_rows, set_norms, set_outline
from unisat.plots._quantizer import code_track, place_entries, set_code_track
from unisat.plots._sound import set_spectrogram, set_waveform, spectrogram, waveform
from unisat.plots._style import CLASSES, axes, literal


class Label(Text):
    """Name of a stretch of time, in its middle; it is not drawn where it is wider than the stretch.

    Attributes
    ----------
    room : (width, height)
        Of the stretch, in the coordinates of the axes; who draws a closer look knows by it what fits then.
    """

    def __init__(self, start: float, end: float, row: float, text: str, **style: Any) -> None:
        super().__init__(
            (start + end) / 2, row, text, ha="center", va="center", clip_on=True, parse_math=False, **style
        )
        self.room = end - start, 1.0

    def draw(self, renderer: RendererBase) -> None:
        """Draw the name if it fits."""
        assert self.axes is not None
        x, _ = self.get_position()
        (left, _), (right, _) = self.axes.transData.transform([(x - self.room[0] / 2, 0), (x + self.room[0] / 2, 0)])
        if self.get_window_extent(renderer).width <= right - left:
            super().draw(renderer)


def tiers(segments: pd.DataFrame, names: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Segments as cells with their labels, a row for each tier, the first on top.

    Parameters
    ----------
    segments : DataFrame
        Rows of one utterance from the table of a `unisat.Segments`.
    names : sequence of str
        The tiers.
    """
    ax = axes(ax, 8.0, 0.6 + 0.3 * len(names))
    ax.add_collection(PolyCollection([], facecolors="none", edgecolors="black", linewidths=0.6), autolim=False)
    ax.set_yticks(range(len(names)), names, parse_math=False)
    ax.set(ylim=(len(names) - 0.5, -0.5), xlabel="time (s)")
    set_tiers(segments, names, ax)
    return ax


def set_tiers(segments: pd.DataFrame, names: Sequence[str], ax: Axes) -> None:
    """Update what `tiers` drew with the segments of another utterance."""
    (cells,) = ax.collections
    assert isinstance(cells, PolyCollection)
    for text in list(ax.texts):
        text.remove()
    boxes = []
    for row, name in enumerate(names):
        for one in segments[segments["tier"] == name].itertuples():
            low, high = row - 0.5, row + 0.5
            boxes.append([(one.start, low), (one.start, high), (one.end, high), (one.end, low)])
            ax.add_artist(Label(one.start, one.end, row, one.label, fontsize=8))
    cells.set_verts(boxes)


@dataclass(frozen=True)
class Rows:
    """What `strip` drew, for `set_strip` and `set_frame`.

    Attributes
    ----------
    wave, sound, look, sizes : Axes
        Waveform, spectrogram, where the chosen frame looks, norms.
    said : Axes or None
        Tiers of segments, if there are any.
    units : dict of str to Axes
        By column of `Strip.units`.
    marks : tuple of Line2D
        The chosen frame, in each row.
    layer : Rectangle
        Around the row of the norms that is chosen.
    """

    wave: Axes
    sound: Axes
    said: Axes | None
    units: dict[str, Axes]
    look: Axes
    sizes: Axes
    marks: tuple[Line2D, ...]
    layer: Rectangle

    @property
    def all(self) -> tuple[Axes, ...]:
        """Every row, from the top."""
        said = () if self.said is None else (self.said,)
        return (self.wave, self.sound, *said, *self.units.values(), self.look, self.sizes)


def heights(one: Strip) -> list[float]:
    """How high `strip` draws its rows, in inches."""
    said = [0.12 + 0.26 * one.labels.shape[1]] if one.labels.shape[1] else []
    return [0.7, 1.25, *said, *(0.65 for _ in one.sizes), 0.75, 1.25]


def strip(one: Strip, *, figure: Figure) -> Rows:
    """Draw an utterance in rows that share the axis of time; `set_frame` chooses a frame in it."""
    high = heights(one)
    panels = list(figure.subplots(len(high), sharex=True, height_ratios=high))
    left = iter(panels)
    wave, sound = waveform(one.samples, ax=next(left)), spectrogram(one.samples, ax=next(left))
    said = tiers(_of(one), list(one.labels), ax=next(left)) if one.labels.shape[1] else None
    units = {}
    for name, entries in one.sizes.items():
        units[name] = code_track(one.seconds.numpy(), one.units[name].to_numpy(), entries=entries, ax=next(left))
        units[name].set_ylabel(name)
        units[name].lines[0].set_label("chosen")  # what the page calls the value at the pointer
    look, sizes = looks(ax=next(left)), norms(one.norms, ax=next(left))
    layer = outline(sizes)
    for ax in panels:
        ax.set_xlabel("")
        ax.tick_params(labelsize=8)
        ax.yaxis.label.set_fontsize(8)
        ax.title.set_fontsize(9)
    for ax in (wave, look):
        ax.yaxis.set_major_locator(MaxNLocator(2))
    for ax, name in ((sound, "level (dB)"), (sizes, "RMS norm")):
        bar = ax.images[0].colorbar
        assert bar is not None
        bar.locator = MaxNLocator(4)
        bar.update_ticks()
        bar.set_label(name, size=8)
        bar.ax.tick_params(labelsize=8)
    sizes.set_xlabel("time (s)")
    marks = tuple(look.lines[-1] if ax is look else ax.axvline(0, linewidth=1.5) for ax in panels)
    for mark in marks:
        mark.set_color(CLASSES[3])
    return Rows(wave, sound, said, units, look, sizes, marks, layer)


def set_strip(one: Strip, rows: Rows) -> None:
    """Update what `strip` drew with another utterance, or what another model makes of it."""
    set_waveform(one.samples, rows.wave)
    set_spectrogram(one.samples, rows.sound)
    if rows.said is not None:
        set_tiers(_of(one), list(one.labels), rows.said)
    for name, ax in rows.units.items():
        codes = one.units[name].to_numpy()
        set_code_track(one.seconds.numpy(), codes, codes, ax)
        place_entries(one.sizes[name], ax)
    set_norms(one.norms, rows.sizes)
    place_rows(one.seconds, rows.sizes)
    rows.wave.title.set_text(literal(one.id))
    rows.wave.set_xlim(0, len(one.samples) / SAMPLE_RATE)


def set_frame(one: Strip, frame: int, layer: int, head: int | None, rows: Rows) -> None:
    """Mark a frame in all rows, and show where it looks in a block; ``head`` None is the mean of all heads."""
    at = float(one.seconds[frame])
    set_looks(one.weights(frame, layer, head), one.seconds, at, None, rows.look)
    which = "mean of all heads" if head is None else f"head {head}"
    rows.look.title.set_text(f"where the frame looks in layer {layer}, {which}")
    for mark in rows.marks:
        mark.set_xdata([at, at])
    set_outline(rows.layer, layer + 1)


def _of(one: Strip) -> pd.DataFrame:
    assert one.segments is not None
    return one.segments
