"""Walk through the hidden states of a captured run: one layer over time, beside the norms and similarities of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ipywidgets import Dropdown, SelectionSlider, ToggleButton
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import LinearLocator, StrMethodFormatter
from torch import Tensor

from unisat.corpus import Batch
from unisat.interpret.activations.capture import Trace
from unisat.interpret.layers.over_time import (
    frame_cka,
    frame_cosines,
    hidden_layers,
    layer_frames,
    rms_norms,
    state_summary,
)
from unisat.plots._layers import (
    colour_limit,
    frame_similarity,
    hidden,
    norms,
    outline,
    place_rows,
    set_frame_similarity,
    set_hidden,
    set_norms,
    set_outline,
)
from unisat.widgets._choices import check_batch, check_utterance, utterance_menu
from unisat.widgets._picture import Look, Picture, Sound, answers, control, new_figure

COSINE, CKA = "cosine of frames", "debiased CKA"


class LayersView(Picture):
    """Hidden states of one utterance; made by `layers`.

    Attributes
    ----------
    state : Float[Tensor, "frames hidden"]
        The hidden state that is shown.
    norms : DataFrame
        RMS norms of all layers (rows) over seconds (columns), from `rms_norms`.
    similarity : Float[Tensor, "layers layers"]
        Of the captured layers, in their order.
    """

    state: Tensor
    waits = ("utterance", "similarity")

    def __init__(self, trace: Trace, batch: Batch | None, utterance: int) -> None:
        self.layers = hidden_layers(trace)
        check_utterance(utterance, trace.ids, "trace")
        self.sites = [f"hidden.{layer}" for layer in self.layers]
        if batch is not None:
            check_batch(trace, self.sites[0], batch)
        self.trace, self.batch = trace, batch
        self.seconds = trace.seconds(self.sites[0]).cpu().double()
        self._kept: dict[Any, Any] = {}
        self._drawn: tuple[int, str] | None = None
        places = [(str(layer), place) for place, layer in enumerate(self.layers)]
        super().__init__(
            control(SelectionSlider, "layer", "0 is what enters the first block", options=places),
            utterance_menu(trace.ids, "whose hidden states", utterance),
            control(Dropdown, "similarity", "of all layers: of this utterance, or of all", options=[COSINE, CKA]),
            control(ToggleButton, "one scale", "the same colours for all layers", value=False),
        )
        self.first()

    def look(self, layer: int, utterance: int, similarity: str, **options: bool) -> Look:
        """Show one hidden state over time, and mark it among all layers."""
        states = self._once(("states", utterance), lambda: layer_frames(self.trace, utterance))
        self.state = states[layer]
        self.norms = self._once(("norms", utterance), lambda: rms_norms(self.trace, utterance=utterance))
        if similarity == CKA:
            self.similarity = self._once(CKA, lambda: frame_cka(self.trace))
        else:
            self.similarity = self._once((COSINE, utterance), lambda: frame_cosines(states))
        ends = self._once(("ends", utterance), lambda: [colour_limit(one) for one in states])
        if self.figure is None:
            self._build(utterance, similarity)
        if self._drawn != (utterance, similarity):
            self._draw_all(utterance, similarity)
        self._draw(layer, max(ends) if options["one scale"] else ends[layer])
        sounds = {} if self.batch is None else {"utterance": Sound(self.batch.waveforms[utterance])}
        return Look(caption=self._caption(layer, utterance, similarity), sounds=sounds)

    def clicked(self, ax: Axes, x: float, y: float) -> None:
        """Choose the layer whose row was clicked, among the norms or the similarities."""
        if ax in (self.sizes, self.alike):
            self.controls["layer"].value = min(max(round(y), 0), len(self.layers) - 1)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            if key[0] == "states":  # these are by far the largest: one utterance is kept
                self._kept = {name: value for name, value in self._kept.items() if name[0] != "states"}
            self._kept[key] = make()
        return self._kept[key]

    def _times(self) -> Float[Tensor, " frames"]:
        return self.seconds[: len(self.state)]

    def _build(self, utterance: int, similarity: str) -> None:
        self.figure = new_figure(8.4, 5.0, right=0.99)
        grid = self.figure.add_gridspec(2, 2, width_ratios=(1.55, 1), height_ratios=(1.6, 1))
        self.map = hidden(self.state, seconds=self._times(), ax=self.figure.add_subplot(grid[0, 0]))
        self.map.set_xlabel("")
        self.sizes = norms(self.norms, ax=self.figure.add_subplot(grid[1, 0]))
        place = self.figure.add_subplot(grid[:, 1])
        self.alike = frame_similarity(self.similarity, self.sites, label=similarity, ax=place)
        bar = self.map.images[0].colorbar
        assert bar is not None
        bar.locator, bar.formatter = LinearLocator(3), StrMethodFormatter("{x:.1f}")
        bar.update_ticks()
        self.frames = outline(self.sizes), outline(self.alike), outline(self.alike, column=True)
        self.timed(self.map, self.sizes)

    def _draw_all(self, utterance: int, similarity: str) -> None:
        """Draw what does not depend on the layer."""
        place_rows(self._times(), self.map)
        place_rows(self._times(), self.sizes)
        set_norms(self.norms, self.sizes)
        many = ", all utterances" if similarity == CKA and len(self.trace.ids) > 1 else ""
        set_frame_similarity(self.similarity, similarity + many, self.alike)
        self._drawn = utterance, similarity

    def _draw(self, layer: int, limit: float) -> None:
        set_hidden(self.state, limit, self.map)
        self.map.set_title(self.sites[layer], fontsize=10)
        for number, frame in enumerate(self.frames):
            set_outline(frame, layer, column=number == 2)

    def _caption(self, layer: int, utterance: int, similarity: str) -> str:
        found = state_summary(self.state, self.norms.iloc[layer])
        # a norm can make all frames alike
        most = f", most at {found['most_at']:.2f} s" if found["most"] > 1.01 * found["least"] else ""
        near = [place for place in (layer - 1, layer + 1) if 0 <= place < len(self.layers)]
        pairs = " and ".join(f"{self.similarity[layer, one]:.2f} with {self.sites[one]}" for one in near)
        alike = f" {similarity[0].upper()}{similarity[1:]}: {pairs}." * bool(near)
        not_finite = f" {found['not_finite']} values are not finite." * bool(found["not_finite"])
        frames, channels = self.state.shape
        return (
            f"{self.trace.ids[utterance]}, {self.sites[layer]}, {frames} frames of {channels} channels: RMS "
            f"{found['mean']:.2f} over time ({found['least']:.2f} to {found['most']:.2f}{most}); the largest channel "
            f"is {found['channel']}, RMS {found['channel_rms']:.2f}, the median channel has "
            f"{found['median_rms']:.2f}.{alike}{not_finite}"
        )


@answers
def layers(trace: Trace, batch: Batch | None = None, utterance: int = 0) -> LayersView:
    """Controls over the hidden states that a trace holds: layer, utterance, how alike the layers are.

    One hidden state over time, channel by channel (white is 0, red positive, blue negative; the colours end at the 99th
    percentile of this layer, or of all layers); the RMS norm of every layer over time; and every layer against every
    other. A click on a layer's row chooses it.

    Parameters
    ----------
    trace
        From ``us.run(model, batch, "hidden.*")``, or of a few layers only.
    batch
        What the model heard, to play it; no player if None.
    utterance : int
        Which utterance of the trace to show first.
    """
    return LayersView(trace, batch, utterance)
