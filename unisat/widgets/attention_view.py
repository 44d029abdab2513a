"""Walk through the layers and heads of a captured run, and see who attends to whom."""

from __future__ import annotations

import math

from ipywidgets import FloatRangeSlider, SelectionSlider
from torch import Tensor

from unisat.corpus import Batch
from unisat.frames import SAMPLE_RATE, frames_between
from unisat.interpret.attention import measures
from unisat.interpret.capture import Trace
from unisat.plots.attention import pattern as draw_pattern
from unisat.plots.style import cells, quantile
from unisat.widgets.picture import Look, Picture, control, new_figure

BEFORE, AFTER = "block.", ".attn.pattern"
MEAN = -1  # in the place of a head: the mean of all


class AttentionView(Picture):
    """Attention patterns of one utterance; made by `attention`.

    Attributes
    ----------
    pattern : Float[Tensor, "query key"]
        The weights now shown.
    """

    pattern: Tensor

    def __init__(self, trace: Trace, batch: Batch | None, utterance: int) -> None:
        sites = [site for site in trace.sites if site.startswith(BEFORE) and site.endswith(AFTER)]
        if not sites:
            raise ValueError(
                f"the trace holds {', '.join(trace.sites) or 'nothing'}, but no attention patterns; "
                'capture them with us.run(model, batch, "block.*.attn.pattern").'
            )
        if not 0 <= utterance < len(trace.ids):
            raise ValueError(f"utterance={utterance} is not one of the trace's {len(trace.ids)}, from 0.")
        self.trace, self.batch, self.utterance = trace, batch, utterance
        frames = int(trace.lengths(sites[0])[utterance])
        self.seconds = trace.seconds(sites[0])[:frames].double().cpu()
        layers = sorted(int(site[len(BEFORE) : -len(AFTER)]) for site in sites)
        heads = range(trace[sites[0]].shape[1])
        end = math.ceil(50 * float(self.seconds[-1])) / 50
        layer_names = [(str(layer), layer) for layer in layers]
        head_names = [(f"mean of {len(heads)}", MEAN), *((str(head), head) for head in heads)]
        super().__init__(
            control(SelectionSlider, "layer", "block of the encoder, from 0", options=layer_names),
            control(SelectionSlider, "head", "attention head, from 0, or the mean of all", options=head_names),
            control(FloatRangeSlider, "seconds", "part to look at", value=(0.0, end), max=end, step=0.02),
        )
        self.first()

    def look(self, layer: int, head: int, seconds: tuple[float, float]) -> Look:
        """Show one head, or the mean of all, between two times."""
        part = frames_between(self.seconds, *seconds)
        times = self.seconds[part]
        if len(times) == 0:
            raise ValueError(f"no frame lies in {seconds[0]:.2f} to {seconds[1]:.2f} s; widen the range.")
        heads = self.trace[f"{BEFORE}{layer}{AFTER}"][self.utterance, :, part, part]
        self.pattern = (heads.float().mean(0) if head == MEAN else heads[head].float()).cpu()
        which = "mean of all heads" if head == MEAN else f"head {head}"
        self._draw(times, f"layer {layer}, {which}")
        return Look(sentence=self._sentence(layer, which, seconds, times), sounds=self._sounds_of(seconds))

    def _draw(self, times: Tensor, title: str) -> None:
        if self.figure is None:
            # the layout is solved once: times as wide as they can get, room for longer numbers at the colour bar
            self.figure = new_figure(6.8, 5.2, right=0.95)
            ax = draw_pattern(self.pattern, seconds=times, ax=self.figure.add_subplot())
            ax.xaxis.set_major_formatter("{x:.2f}")
            ax.yaxis.set_major_formatter("{x:.2f}")
        ax = self.figure.axes[0]
        start, end = cells(times, len(times))
        weights = self.pattern.numpy()
        ax.images[0].set(data=weights, clim=(0, quantile(weights, 1.0)), extent=(start, end) * 2)
        ax.set(xlim=(start, end), ylim=(end, start), title=title)

    def _sentence(self, layer: int, which: str, seconds: tuple[float, float], times: Tensor) -> str:
        found = measures(self.pattern, times)
        outside = 1 - found["inside"]
        rest = f" {outside:.0%} of the weight goes elsewhere and is left out." if outside > 0.005 else ""
        return (
            f"{self.trace.ids[self.utterance]}, {seconds[0]:.2f}–{seconds[1]:.2f} s, layer {layer}, {which}: "
            f"a frame looks {found['distance_ms']:.0f} ms away on average, with an entropy of "
            f"{found['entropy_bits']:.1f} bits (at most {math.log2(len(times)):.1f}) and "
            f"{found['near_share']:.0%} of its weight within 3 frames of itself.{rest}"
        )

    def _sounds_of(self, seconds: tuple[float, float]) -> dict[str, Tensor]:
        if self.batch is None:
            return {}
        first, last = (round(SAMPLE_RATE * time) for time in seconds)
        return {"this part": self.batch.waveforms[self.utterance][first:last]}


def attention(trace: Trace, batch: Batch | None = None, utterance: int = 0) -> AttentionView:
    """Sliders over the attention patterns that a trace holds: layer, head, and part of the utterance.

    Shows the weights between the valid frames, and says of what is shown how far a frame looks, how widely,
    and how much of its weight stays within 3 frames (see `unisat.interpret.attention.measures`).

    Parameters
    ----------
    trace
        From ``us.run(model, batch, "block.*.attn.pattern")``, or of a few blocks only.
    batch
        What the model heard, to play it; no player if None.
    utterance : int
        Which utterance of the trace to show.
    """
    return AttentionView(trace, batch, utterance)
