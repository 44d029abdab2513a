"""Walk through the layers and heads of a captured run, and see and hear who attends to whom."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from ipywidgets import Dropdown, FloatRangeSlider, FloatSlider, SelectionSlider
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import LinearLocator, MaxNLocator, StrMethodFormatter
from torch import Tensor

from unisat.corpus import Batch
from unisat.frames import SAMPLE_RATE, frames_between
from unisat.interpret.activations.attention import (
    every_head,
    head_measures,
    heard_by,
    layer_patterns,
    measures,
    pattern_layers,
)
from unisat.interpret.activations.capture import Trace
from unisat.plots._attention import heads as draw_heads
from unisat.plots._attention import pattern as draw_pattern
from unisat.plots._attention import row as draw_row
from unisat.plots._attention import set_heads, set_pattern, set_row
from unisat.plots._style import CLASSES
from unisat.widgets._choices import check_utterance, utterance_menu
from unisat.widgets._picture import Look, Picture, Sound, answers, control, new_figure

MEAN = -1  # instead of the number of a head: the mean of all heads
ORDERS = {"number": None, "distance": "distance_ms", "entropy": "entropy_bits"}
"""What the small maps may be sorted by."""
LARGE, SMALL = 360, 40
"""Cells along a side of the large map, about as many as its pixels, and of the small maps."""


class AttentionView(Picture):
    """Attention patterns of one utterance; made by `attention`.

    Attributes
    ----------
    pattern : Float[Tensor, "query key"]
        The weights that are shown.
    row : Float[Tensor, "key"]
        Those of the chosen query.
    table : pandas.DataFrame
        ``distance_ms`` and ``entropy_bits`` of every head over the whole utterance, by layer and head.
    """

    pattern: Tensor
    row: Tensor
    table: pd.DataFrame
    waits = ("utterance",)

    def __init__(self, trace: Trace, batch: Batch | None, utterance: int) -> None:
        layers = pattern_layers(trace)
        check_utterance(utterance, trace.ids, "trace")
        self.trace, self.batch = trace, batch
        self._tables: dict[int, tuple[pd.DataFrame, str]] = {}  # by utterance: a few hundred numbers each
        site = f"block.{layers[0]}.attn.pattern"
        self.lengths, self.seconds = trace.lengths(site), trace.seconds(site).cpu().double()
        heads = range(trace[site].shape[1])
        end = self._end(utterance)
        layer_names = [(str(layer), layer) for layer in layers]
        head_names = [(f"mean of {len(heads)}", MEAN), *((str(head), head) for head in heads)]
        which = utterance_menu(trace.ids, "whose patterns", utterance)
        self._measured: dict[tuple[object, ...], dict[str, Tensor]] = {}
        which.observe(self._fit, "value")  # before the redraw, so that the part lies within the utterance by then
        super().__init__(
            control(SelectionSlider, "layer", "block of the encoder, from 0", options=layer_names),
            control(SelectionSlider, "head", "attention head, from 0, or the mean of all", options=head_names),
            control(FloatRangeSlider, "seconds", "part to look at", value=(0.0, end), max=end, step=0.02),
            control(FloatSlider, "query", "the frame nearest to it looks, in s", value=end / 2, max=end, step=0.02),
            control(Dropdown, "order", "of the small maps", options=list(ORDERS)),
            which,
        )
        self.first()

    def _end(self, utterance: int) -> float:
        return math.ceil(50 * float(self.seconds[int(self.lengths[utterance]) - 1])) / 50

    def _fit(self, change: dict[str, Any]) -> None:
        """Fit the part into the new utterance: it begins where it did, if that is still inside."""
        part, end = self.controls["seconds"], self._end(change["new"])
        start, stop = part.value
        whole = stop >= part.max
        with self.held():
            self.controls["query"].max = end
            part.max = end
            part.value = (start if start < end else 0.0, end if whole else min(stop, end))

    def look(
        self, layer: int, head: int, seconds: tuple[float, float], query: float, order: str, utterance: int
    ) -> Look:
        """Show one head, or the mean of all, between two times; all heads of the layer; and where one query looks."""
        within = self.seconds[: int(self.lengths[utterance])]
        part = frames_between(within, *seconds)
        times = within[part]
        if len(times) == 0:
            raise ValueError(f"no frame lies in {seconds[0]:.2f} to {seconds[1]:.2f} s; widen the range.")
        heads, mean = layer_patterns(self.trace, layer, utterance, part)
        self.pattern = mean if head == MEAN else heads[head]
        which = "mean of all heads" if head == MEAN else f"head {head}"
        place = int((times - query).abs().argmin())
        self.row, asks = self.pattern[place], float(times[place])
        titles = self._titles(heads, times, (layer, utterance, seconds))
        self.sorted = self._sort(order)
        if self.figure is None:
            self._build(heads, times, titles)
        self._draw(heads, head, times, titles, f"layer {layer}, {which}")
        self._draw_row(times, asks, utterance)
        self.table, html = self._every_head(utterance)
        shown = seconds[0], min(seconds[1], self._end(utterance))
        return Look(
            caption=self._caption(f"{self.trace.ids[utterance]}, {shown[0]:.2f}–{shown[1]:.2f} s", layer, which, times)
            + self._says_row(times, asks),
            sounds=self._sounds_of(utterance, shown, times),
            html=html,
        )

    def _every_head(self, utterance: int) -> tuple[pd.DataFrame, str]:
        """The table, and HTML that the reader can unfold; equal HTML is not sent again, and stays unfolded."""
        if utterance not in self._tables:
            table = every_head(self.trace, utterance)
            texts = [f"{far:.0f} / {bits:.1f}" for far, bits in table.to_numpy().tolist()]
            cells = pd.Series(texts, index=table.index).unstack().to_html(border=0)
            title = "every head over the whole utterance: milliseconds away / bits of entropy"
            wide = f'<div style="overflow-x: auto; white-space: nowrap">{cells}</div>'
            html = f"<details><summary>{title}</summary>{wide}</details>"
            self._tables[utterance] = table, html
        return self._tables[utterance]

    def _titles(self, heads: Tensor, times: Tensor, key: tuple[object, ...]) -> list[str]:
        if key not in self._measured:
            self._measured = dict(list(self._measured.items())[-30:])
            self._measured[key] = head_measures(heads, times)
        found = self._measured[key]
        self._now = found
        pairs = zip(found["distance_ms"].tolist(), found["entropy_bits"].tolist(), strict=True)
        return [f"{head}: {far:.0f} / {bits:.1f}" for head, (far, bits) in enumerate(pairs)]

    def _sort(self, order: str) -> list[int]:
        """Numbers of the heads, in the order of the small maps."""
        numbers = range(len(self._now["distance_ms"]))
        measure = ORDERS[order]
        return list(numbers) if measure is None else sorted(numbers, key=self._now[measure].tolist().__getitem__)

    def _draw_row(self, times: Tensor, asks: float, utterance: int) -> None:
        samples = None if self.batch is None else self.batch.waveforms[utterance]
        set_row(self.row, times, asks, samples, self.read)
        self.read.set_xlim(self.large.get_xlim())
        self.read.set_title(f"where the frame at {asks:.2f} s looks", fontsize=10)
        self.line.set_ydata([asks, asks])

    def _says_row(self, times: Tensor, asks: float) -> str:
        most = float(times[int(self.row.argmax())])
        return f" The frame at {asks:.2f} s looks most at {most:.2f} s, with {float(self.row.max()):.1%} of its weight."

    def _build(self, heads: Tensor, times: Tensor, titles: list[str]) -> None:
        self.figure = new_figure(8.4, 6.2)
        grid = self.figure.add_gridspec(2, 2, width_ratios=(1.35, 1), height_ratios=(3, 1))
        self.large = draw_pattern(self.pattern, seconds=times, ax=self.figure.add_subplot(grid[0, 0]))
        self.large.set_xlabel("")
        self.line = self.large.axhline(0, color=CLASSES[1], linewidth=1.2)
        self.read = draw_row(ax=self.figure.add_subplot(grid[1, :]))
        for axis in (self.large.xaxis, self.large.yaxis):  # drawing numbers takes most of the time of a redraw
            axis.set_major_formatter("{x:.2f}")
            axis.set_major_locator(MaxNLocator(4))
        self.small = draw_heads(heads, titles=titles, figure=self.figure, place=grid[0, 1], most=SMALL)
        self.small[0].set_ylabel("head: ms away /\nbits of entropy", fontsize=7)
        bar = self.large.images[0].colorbar
        assert bar is not None
        bar.locator, bar.formatter = LinearLocator(2), StrMethodFormatter("{x:.3f}")
        bar.update_ticks()
        self.frames = [
            ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, color=CLASSES[1], linewidth=3))
            for ax in self.small
        ]
        self.timed(self.large, self.read)

    def _draw(self, heads: Tensor, head: int, times: Tensor, titles: list[str], title: str) -> None:
        set_pattern(self.pattern, times, title, self.large, most=LARGE)
        set_heads(heads[self.sorted], [titles[number] for number in self.sorted], self.small, most=SMALL)
        for number, frame in zip(self.sorted, self.frames, strict=True):
            frame.set_visible(number == head)

    def _caption(self, part: str, layer: int, which: str, times: Tensor) -> str:
        found = measures(self.pattern, times)
        outside = 1 - found["inside"]
        rest = f" {outside:.0%} of the weight goes elsewhere and is left out." if outside > 0.005 else ""
        return (
            f"{part}, layer {layer}, {which}: "
            f"a frame looks {found['distance_ms']:.0f} ms away on average, with an entropy of "
            f"{found['entropy_bits']:.1f} bits (at most {math.log2(len(times)):.1f}) and "
            f"{found['near_share']:.0%} of its weight within 3 frames of itself.{rest}"
        )

    def _sounds_of(self, utterance: int, seconds: tuple[float, float], times: Tensor) -> dict[str, Sound]:
        if self.batch is None:
            return {}
        first, last = (round(SAMPLE_RATE * time) for time in seconds)
        heard = self.batch.waveforms[utterance][first:last]
        read = heard_by(self.row, times - seconds[0], heard)
        return {"this part": Sound(heard, seconds[0]), "what the frame reads, by weight": Sound(read, seconds[0])}

    def clicked(self, ax: Axes, x: float, y: float) -> None:
        """Choose the head whose small map was clicked, a second click the mean of all; elsewhere choose the query."""
        if ax in self.small:
            clicked, chosen = self.sorted[self.small.index(ax)], self.controls["head"].value
            self.controls["head"].value = MEAN if clicked == chosen else clicked
        elif ax in (self.large, self.read):
            self.set(query=min(max(y if ax is self.large else x, 0.0), self.controls["query"].max))


@answers
def attention(trace: Trace, batch: Batch | None = None, utterance: int = 0) -> AttentionView:
    """Controls over the attention patterns that a trace holds: layer, head, part of the utterance, utterance.

    Shows the weights between the valid frames, and says of what is shown how far a frame looks, how widely, and how
    much of its weight stays within 3 frames (`unisat.interpret.activations.attention.measures`). Beside it all heads of
    the layer, each with its distance and its entropy in the part shown, sorted by either; a click on one chooses it, a
    second one goes back to the mean. Below, where one query looks, over the waveform, to be heard with each moment as
    loud as its weight; a click on the large map chooses the query. A table has the numbers of every layer and head over
    the whole utterance. Maps of more frames than they have pixels show means over cells
    (`unisat.plots._attention.pooled`).

    Parameters
    ----------
    trace
        From ``us.run(model, batch, "block.*.attn.pattern")``, or of a few blocks only.
    batch
        What the model heard, to play it; no player if None.
    utterance : int
        Which utterance of the trace to show first.
    """
    return AttentionView(trace, batch, utterance)
