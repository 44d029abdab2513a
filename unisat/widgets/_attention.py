"""Walk through the layers and heads of a captured run, and see and hear who attends to whom."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from ipywidgets import FloatRangeSlider, SelectionSlider
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import LinearLocator, MaxNLocator, StrMethodFormatter
from torch import Tensor

from unisat.corpus import Batch
from unisat.frames import SAMPLE_RATE, frames_between
from unisat.interpret.activations.attention import (
    every_head,
    head_measures,
    layer_patterns,
    measures,
    pattern_layers,
)
from unisat.interpret.activations.capture import Trace
from unisat.plots._attention import heads as draw_heads
from unisat.plots._attention import pattern as draw_pattern
from unisat.plots._attention import set_heads, set_pattern
from unisat.plots._style import CLASSES
from unisat.widgets._choices import check_utterance, utterance_menu
from unisat.widgets._picture import Look, Picture, Sound, answers, control, new_figure

MEAN = -1  # instead of the number of a head: the mean of all heads
LARGE, SMALL = 360, 40
"""Cells along a side of the large map, about as many as its pixels, and of the small maps."""


class AttentionView(Picture):
    """Attention patterns of one utterance; made by `attention`.

    Attributes
    ----------
    pattern : Float[Tensor, "query key"]
        The weights that are shown.
    table : pandas.DataFrame
        ``distance_ms`` and ``entropy_bits`` of every head over the whole utterance, by layer and head.
    """

    pattern: Tensor
    table: pd.DataFrame

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
            part.max = end
            part.value = (start if start < end else 0.0, end if whole else min(stop, end))

    def look(self, layer: int, head: int, seconds: tuple[float, float], utterance: int) -> Look:
        """Show one head, or the mean of all, between two times, and all heads of the layer beside it."""
        within = self.seconds[: int(self.lengths[utterance])]
        part = frames_between(within, *seconds)
        times = within[part]
        if len(times) == 0:
            raise ValueError(f"no frame lies in {seconds[0]:.2f} to {seconds[1]:.2f} s; widen the range.")
        heads, mean = layer_patterns(self.trace, layer, utterance, part)
        self.pattern = mean if head == MEAN else heads[head]
        which = "mean of all heads" if head == MEAN else f"head {head}"
        titles = self._titles(heads, times, (layer, utterance, seconds))
        if self.figure is None:
            self._build(heads, times, titles)
        self._draw(heads, head, times, titles, f"layer {layer}, {which}")
        self.table, html = self._every_head(utterance)
        shown = seconds[0], min(seconds[1], self._end(utterance))
        return Look(
            caption=self._caption(f"{self.trace.ids[utterance]}, {shown[0]:.2f}–{shown[1]:.2f} s", layer, which, times),
            sounds=self._sounds_of(utterance, shown),
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
        pairs = zip(found["distance_ms"].tolist(), found["entropy_bits"].tolist(), strict=True)
        return [f"{head}: {far:.0f} / {bits:.1f}" for head, (far, bits) in enumerate(pairs)]

    def _build(self, heads: Tensor, times: Tensor, titles: list[str]) -> None:
        self.figure = new_figure(8.4, 4.8)
        grid = self.figure.add_gridspec(1, 2, width_ratios=(1.35, 1))
        self.large = draw_pattern(self.pattern, seconds=times, ax=self.figure.add_subplot(grid[0]))
        for axis in (self.large.xaxis, self.large.yaxis):  # drawing numbers takes most of the time of a redraw
            axis.set_major_formatter("{x:.2f}")
            axis.set_major_locator(MaxNLocator(4))
        self.small = draw_heads(heads, titles=titles, figure=self.figure, place=grid[1], most=SMALL)
        self.small[0].set_ylabel("head: ms away /\nbits of entropy", fontsize=7)
        bar = self.large.images[0].colorbar
        assert bar is not None
        bar.locator, bar.formatter = LinearLocator(2), StrMethodFormatter("{x:.3f}")
        bar.update_ticks()
        self.frames = [
            ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, color=CLASSES[1], linewidth=3))
            for ax in self.small
        ]
        self.timed(self.large)

    def _draw(self, heads: Tensor, head: int, times: Tensor, titles: list[str], title: str) -> None:
        set_pattern(self.pattern, times, title, self.large, most=LARGE)
        set_heads(heads, titles, self.small, most=SMALL)
        for number, frame in enumerate(self.frames):
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

    def _sounds_of(self, utterance: int, seconds: tuple[float, float]) -> dict[str, Sound]:
        if self.batch is None:
            return {}
        first, last = (round(SAMPLE_RATE * time) for time in seconds)
        return {"this part": Sound(self.batch.waveforms[utterance][first:last], seconds[0])}

    def clicked(self, ax: Axes, x: float, y: float) -> None:
        """Choose the head whose small map was clicked; a second click chooses the mean of all heads."""
        if ax in self.small:
            clicked, chosen = self.small.index(ax), self.controls["head"].value
            self.controls["head"].value = MEAN if clicked == chosen else clicked


@answers
def attention(trace: Trace, batch: Batch | None = None, utterance: int = 0) -> AttentionView:
    """Controls over the attention patterns that a trace holds: layer, head, part of the utterance, utterance.

    Shows the weights between the valid frames, and says of what is shown how far a frame looks, how widely, and how
    much of its weight stays within 3 frames (`unisat.interpret.activations.attention.measures`). Beside it all heads of
    the layer, each with its distance and its entropy in the part shown; a click on one chooses it, a second one goes
    back to the mean. A table below has the numbers of every layer and head over the whole utterance. Maps of more
    frames than they have pixels show means over cells (`unisat.plots._attention.pooled`).

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
