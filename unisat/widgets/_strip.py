"""One utterance in rows over time, as in Praat's window: sound, segments, units, attention and norms under one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from ipywidgets import FloatSlider, SelectionSlider
from matplotlib.axes import Axes

from unisat.corpus import Batch
from unisat.frames import SAMPLE_RATE, frame_seconds, hop, stack_length
from unisat.interpret.layers.strip import LONGEST, NEAR, Strip
from unisat.interpret.layers.strip import strip as computed
from unisat.modules import versions
from unisat.plots import _strip as plots
from unisat.pretrained import UniSpeechSatPreTrainedModel
from unisat.segments import Segments
from unisat.widgets._choices import check_utterance, utterance_menu
from unisat.widgets._picture import Look, Picture, Sound, answers, control, new_figure

Models = UniSpeechSatPreTrainedModel | Mapping[str, UniSpeechSatPreTrainedModel]

MEAN = -1  # instead of the number of a head: the mean of all heads
AROUND = 0.25  # seconds before and behind a frame, to listen to


class StripView(Picture):
    """One utterance over time; made by `strip`.

    Attributes
    ----------
    model
        The one that is chosen.
    strip : Strip
        What it computes of the utterance.
    frame : int
        The chosen one.
    table : DataFrame
        A row for each frame, see `unisat.interpret.layers.strip.Strip.table`.
    """

    strip: Strip
    frame: int
    table: pd.DataFrame
    waits = ("model", "utterance")

    def __init__(self, models: Models, batch: Batch, utterance: int, segments: Segments | None) -> None:
        check_utterance(utterance, batch.ids, "batch")
        if segments is not None and not set(segments.ids) & set(batch.ids):
            raise ValueError(
                f"none of the {len(segments.ids)} utterances of the segments is in the batch, whose first is "
                f"{batch.ids[0]!r}; give segments with the batch's ids."
            )
        self.models = models if isinstance(models, Mapping) else {"": models}
        _check_alike(self.models)
        self.batch, self.segments = batch, segments
        self.model = next(iter(self.models.values()))
        self._strips: dict[Any, Strip] = {}
        self._drawn: Strip | None = None
        config = self.model.config
        front = config.conv_kernel, config.conv_stride
        frames = [max(1, stack_length(len(one), *front)) for one in batch.waveforms]
        times = frame_seconds(max(frames), *front).tolist()
        place = {"value": times[frames[utterance] // 2], "min": times[0], "max": times[-1]}
        heads = range(config.num_attention_heads)
        names = [(f"mean of {len(heads)}", MEAN), *((str(head), head) for head in heads)]
        layers = range(config.num_hidden_layers)
        which = control(SelectionSlider, "model", "whose answers to look at", options=[*self.models])
        if len(self.models) == 1:
            which.layout.display = "none"
        super().__init__(
            which,
            utterance_menu(batch.ids, "whom to look at", utterance),
            control(SelectionSlider, "layer", "block of the encoder, from 0", options=layers),
            control(SelectionSlider, "head", "attention head, from 0, or the mean of all", options=names),
            control(
                FloatSlider,
                "frame",
                "the nearest frame, in s; a click does the same",
                **place,
                step=hop(config.conv_stride) / SAMPLE_RATE,
            ),
        )
        self.first()

    def look(self, model: str, utterance: int, layer: int, head: int, frame: float) -> Look:
        """Show an utterance, and what is at one of its frames."""
        self.model = self.models[model]
        self.strip = one = self._compute(model, utterance)
        self.frame, which = one.nearest(frame), None if head == MEAN else head
        if self.figure is None:
            self.figure = new_figure(8.4, 0.9 + 1.13 * sum(plots.heights(one)))
            self.rows = plots.strip(one, figure=self.figure)
            self.timed(*self.rows.all)
        if self._drawn is not one:
            plots.set_strip(one, self.rows)
            self._drawn = one
        plots.set_frame(one, self.frame, layer, which, self.rows)
        self.table = one.table(self.frame, layer, which)
        at = float(one.seconds[self.frame])
        start = max(0, round(SAMPLE_RATE * (at - AROUND)))
        near = Sound(one.samples[start : round(SAMPLE_RATE * (at + AROUND))], start / SAMPLE_RATE)
        return Look(
            caption=f"{model}: " * bool(model) + self._caption(layer, which),
            sounds={"the utterance": one.samples, "around the frame": near},
        )

    def _compute(self, model: str, utterance: int) -> Strip:
        key = model, utterance, versions(self.model)
        if key not in self._strips:
            made = computed(self.model, self.batch, utterance, self.segments)
            # what a cell's training has changed is computed anew, and what there was of this model is of another one
            kept = [(old, one) for old, one in self._strips.items() if old[0] != model or old[2] == key[2]]
            # together as long as the longest may be: memory grows with the square of the length
            while sum(len(one.samples) for _, one in kept) + len(made.samples) > LONGEST * SAMPLE_RATE:
                del kept[0]
            self._strips.clear()
            self._strips.update([*kept, (key, made)])
        return self._strips[key]

    def _caption(self, layer: int, head: int | None) -> str:
        one, row = self.strip, self.table.iloc[self.frame]
        said = [f"{tier} {row[tier] or '–'}" for tier in one.labels]
        # by column, for numbers stay whole; in a row with seconds they would not
        unit = {name: column.iloc[self.frame] for name, column in one.units.items()}
        units = [f"cluster {unit['cluster']}"] if "cluster" in one.sizes else []
        codes = [f"{unit[name]} in {name}" for name in one.sizes if name != "cluster"]
        units += [f"entry {' and '.join(codes)}"] if codes else []
        found = one.look(self.frame, layer, head)
        which = "the mean of all heads" if head is None else f"head {head}"
        return (
            f"{one.id}, frame {self.frame} at {row['seconds']:.2f} s"
            f"{''.join(f', {text}' for text in (*said, *units))}. Layer {layer}, {which} looks "
            f"{found['distance_ms']:.0f} ms away on average, most at {found['most_at']:.2f} s, with "
            f"{found['near_share']:.0%} of its weight within {NEAR} frames of itself; behind that layer the frame's "
            f"RMS norm is {row['rms']:.2f}."
        )

    def clicked(self, ax: Axes, x: float, y: float) -> None:
        """Take the frame at a time of the utterance."""
        if ax in self.rows.all:
            slider = self.controls["frame"]
            self.set(frame=min(max(x, slider.min), slider.max))


def _check_alike(models: Mapping[str, UniSpeechSatPreTrainedModel]) -> None:
    """Refuse models whose pictures would have other rows, or frames at other times."""
    if not models:
        raise ValueError("the mapping of models is empty; give a model, or names with models.")
    fields = "num_hidden_layers", "num_attention_heads", "num_codevector_groups", "conv_kernel", "conv_stride"
    kinds = {
        name: (type(one).__name__, *(getattr(one.config, field) for field in fields)) for name, one in models.items()
    }
    (first, kind), *others = kinds.items()
    for name, other in others:
        if other != kind:
            raise ValueError(
                f"model {name!r} has class, {', '.join(fields)} {other}, model {first!r} has {kind}; give models of "
                "one shape, or a widget for each."
            )


@answers
def strip(model: Models, batch: Batch, utterance: int = 0, segments: Segments | None = None) -> StripView:
    """One utterance in rows that share the axis of time: what is heard, what is said, and what the model makes of it.

    From the top: waveform; spectrogram; segments, if they are given; the cluster that the pretraining head predicts for
    each frame, and the entries that the quantizer chooses, nothing hidden, if the model has these parts; where the
    chosen frame looks, in one head or the mean of all; and the RMS norm of every layer. A click on any row chooses the
    frame there; the words below the picture say what is at it.

    Parameters
    ----------
    model
        In evaluation mode; ``us.load("tiny", "pretraining")`` fills every row. It runs once for each utterance, and
        again once its weights have changed (`unisat.modules.versions`). With several of one shape by their names, such
        as the checkpoints of a training, a slider goes from one to the next.
    batch
        Each utterance is run alone, and has 60 s at most.
    utterance : int
        To begin with.
    segments : Segments, optional
        Words, phones or turns of the utterances, such as ``us.Segments.people()``.
    """
    return StripView(model, batch, utterance, segments)
