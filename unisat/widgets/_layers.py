"""Walk through the hidden states of a captured run: one layer over time, beside the size and the likeness of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ipywidgets import Dropdown, SelectionSlider, ToggleButton
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import LinearLocator, StrMethodFormatter
from torch import Tensor

from unisat.corpus import Batch
from unisat.frames import stack_length
from unisat.interpret.activations.capture import Trace
from unisat.interpret.layers.over_time import frame_cka, frame_cosines, hidden_layers, layer_frames, rms_norms
from unisat.plots._layers import frame_similarity, hidden, norms, outline, set_frame_similarity, set_outline
from unisat.plots._style import cells, quantile
from unisat.widgets._picture import Look, Picture, Sound, answers, control, new_figure

COSINE, CKA = "cosine of frames", "debiased CKA"


class LayersView(Picture):
    """Hidden states of one utterance; made by `layers`.

    Attributes
    ----------
    state : Float[Tensor, "frames hidden"]
        What is now shown.
    norms : DataFrame
        RMS of all layers (rows) over seconds (columns), from `rms_norms`.
    similarity : Float[Tensor, "layers layers"]
        Of the captured layers, in their order.
    """

    state: Tensor

    def __init__(self, trace: Trace, batch: Batch | None, utterance: int) -> None:
        self.layers = hidden_layers(trace)
        if not 0 <= utterance < len(trace.ids):
            raise ValueError(f"utterance={utterance} is not one of the trace's {len(trace.ids)}, from 0.")
        if batch is not None and len(batch) != len(trace):
            raise ValueError(
                f"the batch has {len(batch)} utterances, the trace {len(trace)}; pass the batch that the model heard."
            )
        first = f"hidden.{self.layers[0]}"
        if batch is not None:
            front = trace.config.conv_kernel, trace.config.conv_stride
            frames, seen = [stack_length(len(one), *front) for one in batch.waveforms], trace.lengths(first).tolist()
            if frames != seen:
                raise ValueError(
                    f"the trace saw utterances of {seen} frames, the batch has {frames}; give the batch that was run."
                )
        self.trace, self.batch = trace, batch
        self.sites = [f"hidden.{layer}" for layer in self.layers]
        self.seconds = trace.seconds(self.sites[0]).double().cpu()
        self._kept: dict[Any, Any] = {}
        self._drawn: tuple[int, str] | None = None
        names = [(f"{index}: {name}", index) for index, name in enumerate(trace.ids)]
        which = control(Dropdown, "utterance", "whose hidden states", options=names, value=utterance)
        places = [(str(layer), place) for place, layer in enumerate(self.layers)]
        super().__init__(
            control(SelectionSlider, "layer", "0 is what enters the first block", options=places),
            which,
            control(Dropdown, "similarity", "of all layers: of this utterance, or of all", options=[COSINE, CKA]),
            control(ToggleButton, "one scale", "the same colours for all layers", value=False),
        )
        if len(names) == 1:
            which.layout.display = "none"
        self.first()

    def look(self, layer: int, utterance: int, similarity: str, **options: bool) -> Look:
        """Show one hidden state over time, and mark it among all."""
        states = self._once(("states", utterance), lambda: layer_frames(self.trace, utterance))
        self.state = states[layer]
        self.norms = self._once(("norms", utterance), lambda: rms_norms(self.trace, utterance=utterance))
        if similarity == CKA:
            self.similarity = self._once(CKA, lambda: frame_cka(self.trace))
        else:
            self.similarity = self._once((COSINE, utterance), lambda: frame_cosines(states))
        ends = self._once(("ends", utterance), lambda: [quantile(one.abs().numpy(), 0.99) or 1.0 for one in states])
        if self.figure is None:
            self._build(utterance, similarity)
        if self._drawn != (utterance, similarity):
            self._draw_all(utterance, similarity)
        self._draw(layer, max(ends) if options["one scale"] else ends[layer])
        sounds = {} if self.batch is None else {"utterance": Sound(self.batch.waveforms[utterance])}
        return Look(sentence=self._sentence(layer, utterance, similarity), sounds=sounds)

    def clicked(self, ax: Axes, x: float, y: float) -> None:
        """Choose the layer whose row was clicked, among the norms or the similarities."""
        if ax in (self.sizes, self.alike):
            self.controls["layer"].value = min(max(round(y), 0), len(self.layers) - 1)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            if key[0] == "states":  # the largest by far: those of one utterance are enough
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
        self.moving(self.map.images[0], self.map.title, bar.ax.yaxis, *self.frames)
        self.cursor(self.map, self.sizes)

    def _draw_all(self, utterance: int, similarity: str) -> None:
        """Draw what does not follow the layer."""
        start, end = cells(self._times(), len(self.state))
        values = self.norms.to_numpy(dtype=float)
        self.sizes.images[0].set(data=values, clim=(0, quantile(values, 1.0)))
        for ax, rows in ((self.map, self.state.shape[1]), (self.sizes, len(values))):
            ax.images[0].set_extent((start, end, -0.5, rows - 0.5))  # and with it the axes' limits
        many = ", all utterances" if similarity == CKA and len(self.trace) > 1 else ""
        set_frame_similarity(self.similarity, similarity + many, self.alike)
        self._drawn = utterance, similarity
        self.still()

    def _draw(self, layer: int, limit: float) -> None:
        self.map.images[0].set(data=self.state.T.numpy(), clim=(-limit, limit))
        self.map.set_title(f"hidden.{self.layers[layer]}", fontsize=10)
        for number, frame in enumerate(self.frames):
            set_outline(frame, layer, column=number == 2)

    def _sentence(self, layer: int, utterance: int, similarity: str) -> str:
        times, size = self._times(), self.norms.iloc[layer]
        most = f", most at {size.idxmax():.2f} s" if size.max() > 1.01 * size.min() else ""  # a norm makes all alike
        channels = self.state.square().mean(0).sqrt()
        top = int(channels.argmax())
        near = [place for place in (layer - 1, layer + 1) if 0 <= place < len(self.layers)]
        pairs = " and ".join(f"{self.similarity[layer, one]:.2f} with hidden.{self.layers[one]}" for one in near)
        alike = f" {similarity[0].upper()}{similarity[1:]}: {pairs}." * bool(near)
        lost = int((~torch.isfinite(self.state)).sum())
        not_finite = f" {lost} values are not finite." * bool(lost)
        return (
            f"{self.trace.ids[utterance]}, hidden.{self.layers[layer]}, {len(times)} frames of {self.state.shape[1]} "
            f"channels: RMS {size.mean():.2f} over time ({size.min():.2f} to {size.max():.2f}{most}); "
            f"the largest channel is {top}, RMS {channels[top]:.2f}, the median channel has "
            f"{channels.median():.2f}.{alike}{not_finite}"
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
