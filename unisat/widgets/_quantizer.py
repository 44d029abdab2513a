"""Watch a frame choose its entry of the codebook: logits, noise, temperature, choice, and what all frames use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ipywidgets import Dropdown, FloatSlider, IntSlider, Label, Play, SelectionSlider, ToggleButton
from matplotlib.axes import Axes
from torch import Tensor, nn

from unisat.corpus import Batch
from unisat.frames import SAMPLE_RATE
from unisat.interpret.activations.capture import Trace
from unisat.interpret.units.perplexity import perplexity_over_steps, read_history, step_of_temperature
from unisat.interpret.units.quantizer import (
    Choice,
    CodeMap,
    Frames,
    captured_frames,
    check_quantizer,
    code_map,
    quantized_frames,
)
from unisat.plots import _quantizer as plots
from unisat.plots._style import CLASSES, literal
from unisat.widgets._choices import utterance_menu
from unisat.widgets._picture import Look, Picture, Sound, answers, control, new_figure

SPAN = 20.0  # a logit that lies lower has a chance of less than one in a hundred million
ABOVE = 8.0
HOT, COLD, STEP = 2.0, 0.5, 0.05  # temperatures of training
EACH = 250  # milliseconds of a step when the temperature falls by itself
AROUND = 0.25  # seconds before and behind a frame, to listen to


class QuantizerView(Picture):
    """Choices of a quantizer; made by `quantizer`.

    Attributes
    ----------
    logits, noise, soft : Float[Tensor, "entries"]
        Of the frame and the group that are shown; the noise is 0 if it is switched off.
    code, drawn : int
        The frame's entry without noise, as in evaluation, and with it.
    counts : DataFrame
        How many frames chose each entry of the group: without noise (``code``), and with it (``drawn``).
    table : DataFrame
        Entries and perplexities of each group, see `unisat.interpret.units.perplexity.perplexities`.
    over_frames, over_steps : DataFrame
        The curves; ``over_steps`` is None without a history.
    book : CodeMap
        Where the entries lie; None if only a trace is there, which holds no entries.
    cooling : ipywidgets.Play
        Lets the temperature fall as in training; its value counts steps.
    """

    choice: Choice
    logits: Tensor
    noise: Tensor
    soft: Tensor
    code: int
    drawn: int
    counts: pd.DataFrame
    table: pd.DataFrame
    over_frames: pd.DataFrame
    over_steps: pd.DataFrame | None

    def __init__(
        self,
        frames: dict[str, Frames],
        ids: Sequence[str],
        batch: Batch | None,
        history: pd.DataFrame | None,
        book: CodeMap | None,
    ) -> None:
        self.book = book
        self.frames, self.ids, self.batch, self.history = frames, ids, batch, history
        first = next(iter(frames.values()))
        self.groups, self.entries = first.logits.shape[1:]
        self.steps = [] if history is None else [perplexity_over_steps(history, group) for group in range(self.groups)]
        self._last: tuple[Any, Any] = (None, None)
        self.end = end = float(first.seconds.max())
        heat = {"value": HOT, "min": COLD, "max": HOT, "step": STEP}
        super().__init__(
            control(FloatSlider, "temperature", "of training's soft choice, from 2 down to 0.5", **heat),
            control(ToggleButton, "noise", "add Gumbel noise, as in training", value=True),
            control(IntSlider, "seed", "other noise", max=99),
            control(SelectionSlider, "group", "of the codebook, from 0", options=range(self.groups)),
            utterance_menu(ids, "whose frames to look at"),
            control(FloatSlider, "frame", "the frame nearest to it, in s", value=first.unsure(0), max=end, step=0.02),
            control(Dropdown, "counted", "which frames count", options=list(frames)),
        )
        steps = {"max": round((HOT - COLD) / STEP), "interval": EACH, "show_repeat": False}
        self.cooling = control(Play, "cool", "let the temperature fall from 2 to 0.5, as in training", **steps)
        self.cooling.observe(self._cool, "value")
        row = self.children[0]
        row.children = (Label("let it fall:"), self.cooling, *row.children)
        self.first()

    def redraw(self, change: object = None) -> None:
        """Let the player stand where the temperature is, and show the choice."""
        if change is not None:  # else no control has moved
            self.controls["seed"].disabled = not self.controls["noise"].value
            self.cooling.value = self._step()
        super().redraw(change)

    def _step(self) -> int:
        return round((HOT - self.controls["temperature"].value) / STEP)

    def _cool(self, change: dict[str, Any]) -> None:
        if change["new"] != self._step():  # else the slider itself has moved, maybe between two steps
            self.controls["temperature"].value = round(HOT - STEP * change["new"], 2)

    def look(
        self, temperature: float, noise: bool, seed: int, group: int, utterance: int, frame: float, counted: str
    ) -> Look:
        """Let one frame choose, and count what all frames choose."""
        these = self.frames[counted]
        row = these.nearest(utterance, frame)
        if row is None:
            raise ValueError(f"no frame of {self.ids[utterance]} is hidden; look at all, or at another utterance.")
        added, codes = self._drawn(counted, seed if noise else None)
        self.choice = found = these.choice(row, group, temperature, added)
        self.logits, self.noise, self.soft = found.logits, found.noise, found.soft
        self.code, self.drawn = found.code, found.drawn
        counts = {"code": these.count(these.codes)[group], "drawn": these.count(codes)[group]}
        self.counts = pd.DataFrame(counts).rename_axis("entry")
        self.table = these.table_with(codes) if noise else these.table
        self.over_frames, self.over_steps = these.curves[group], self.steps[group] if self.steps else None
        if self.figure is None:
            self._build()
        self._set_choice(temperature)
        rows, seconds = these.of(utterance), float(these.seconds[row])
        plots.set_code_track(these.seconds[rows], these.codes[rows, group], codes[rows, group], self.track)
        self.track.lines[2].set_xdata([seconds] * 2)
        self.track.title.set_text(
            f"{literal(self.ids[utterance])}: the entry of each frame; orange where noise makes it another"
        )
        self._set_book(group, temperature)
        return self._look(utterance, group, seconds, temperature, float(these.moved(codes)[group]))

    def _drawn(self, frames: str, seed: int | None) -> tuple[Tensor, np.ndarray]:
        """Noise, and the codes with it."""
        if self._last[0] != (frames, seed):
            self._last = (frames, seed), self.frames[frames].draw(seed)
        return self._last[1]

    def _build(self) -> None:
        self.figure = figure = new_figure(8.4, 8.6)
        grid = figure.add_gridspec(4, 12, height_ratios=(1.4, 0.9, 2.0, 1.5))
        flat, below = np.zeros(self.entries), (-SPAN, ABOVE)
        self.panels = [figure.add_subplot(grid[0, 3 * place : 3 * place + 3]) for place in range(4)]
        for ax in self.panels[:2]:
            plots.entry_scores(flat, flat, limits=below, label="score − largest logit", ax=ax)
        for ax in self.panels[2:]:
            plots.entry_scores(flat, flat, ax=ax)
        for ax in self.panels[1::2]:
            ax.set_ylabel("")
        times, none = np.array([self.end]), np.array([0])
        self.track = plots.code_track(times, none, entries=self.entries, ax=figure.add_subplot(grid[1, :]))
        self.track.axvline(0, color="black", linewidth=1.5)
        # limits for whatever is counted: a redraw draws no axis anew
        all_counts = [count for these in self.frames.values() for count in these.count(these.codes)]
        fullest = max(all_counts, key=lambda count: count.max() / count.sum())
        self.map = figure.add_subplot(grid[2, :6])
        if self.book is None:
            _instead(self.map, "a model (not its trace)\nshows its codebook here")
        else:
            plots.code_map(self.book.places[0], fullest, ax=self.map)
        self.use = plots.code_counts(fullest, ax=figure.add_subplot(grid[2, 6:]))
        draw = partial(plots.perplexity, entries=self.entries, legend=False)
        widest = max((these.curves[0] for these in self.frames.values()), key=lambda curve: curve["frames"].iloc[-1])
        self.over = draw(widest, ax=figure.add_subplot(grid[3, :6]))
        self.trained = figure.add_subplot(grid[3, 6:])
        if self.over_steps is None:
            _instead(self.trained, "history=… shows\ntraining steps here")
        else:
            draw(self.over_steps, ax=self.trained)
            self.trained.axvline(0, color=CLASSES[3], linewidth=1.5, label="step of this temperature")
            self.trained.set_ylabel("")
        for ax in figure.axes:
            ax.title.set_fontsize(9)
            ax.xaxis.label.set_fontsize(9)
            ax.yaxis.label.set_fontsize(9)
            ax.tick_params(labelsize=8)
        told = self.history is not None and "temperature" in self.history
        handles = list(self.over.lines) + self.trained.lines[len(self.over.lines) :] * told
        figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
        self.timed(self.track)

    def _set_choice(self, temperature: float) -> None:
        highest = self.logits.max()
        logits, noisy = (self.logits - highest).numpy(), (self.logits + self.noise - highest).numpy()
        likely, soft = self.choice.likely.numpy(), self.soft.numpy()
        chosen, drawn = np.eye(self.entries)[[self.code, self.drawn]]
        for ax, name, before, after in (
            (self.panels[0], f"logits: {self.code} leads", logits, logits),
            (self.panels[1], f"+ noise (orange): {self.drawn} leads", logits, noisy),
            (self.panels[2], f"softmax, orange at {temperature:.2f}: {soft[self.drawn]:.2f}", likely, soft),
            (self.panels[3], f"hard: entry {self.drawn}", chosen, drawn),
        ):
            plots.set_entry_scores(before, after, ax)
            ax.title.set_text(name)

    def _set_book(self, group: int, temperature: float) -> None:
        row = self.table.loc[group]
        plots.set_code_counts(self.counts["code"].to_numpy(), self.counts["drawn"].to_numpy(), self.use)
        self.use.title.set_text(f"group {group}: {int(row['used'])} of {self.entries} used")
        if self.book is not None:
            at: dict[str, Any] = {"code": self.code, "drawn": self.drawn}
            explained = tuple(self.book.explained[group])
            plots.set_code_map(
                self.book.places[group], self.counts["code"].to_numpy(), self.map, explained=explained, **at
            )
            self.map.title.set_text(f"entries of group {group}; black: chosen, orange: with noise")
        plots.set_perplexity(self.over_frames, self.over)
        self.over.title.set_text(f"{int(row['frames']):,} frames: {row['hard']:.1f}, corrected {row['corrected']:.1f}")
        if self.over_steps is not None:
            plots.set_perplexity(self.over_steps, self.trained)
            step = step_of_temperature(self.history, temperature)
            self.trained.lines[-1].set_xdata([np.nan if step is None else step] * 2)
            self.trained.title.set_text(f"in training, at last {self.over_steps['hard'].iloc[-1]:.1f}")

    def _look(self, utterance: int, group: int, seconds: float, temperature: float, moved: float) -> Look:
        caption = " ".join(
            [
                f"{self.ids[utterance]}, frame at {seconds:.2f} s, group {group}: the logits prefer entry {self.code} "
                f"(probability {self.choice.likely[self.code]:.2f}),",
                f"the noise makes it {self.drawn};" if self.drawn != self.code else "and it is chosen;",
                f"at temperature {temperature:.2f} its soft share is {self.soft[self.drawn]:.2f}.",
                *self._use(group, moved),
            ]
        )
        sounds = {}
        if self.batch is not None:
            waveform = self.batch.waveforms[utterance]
            start = max(0, round(SAMPLE_RATE * (seconds - AROUND)))
            part = waveform[start : round(SAMPLE_RATE * (seconds + AROUND))]
            sounds = {"around the frame": Sound(part, start / SAMPLE_RATE), "the utterance": Sound(waveform)}
        style = {"border": 0, "na_rep": "–", "float_format": "{:.1f}".format}
        shown = self.table.drop(columns="unseen_below")  # the sentence says it; a narrow page has no room
        return Look(caption=caption, sounds=sounds, html=shown.to_html(index=False, **style))

    def _use(self, group: int, moved: float) -> Iterator[str]:
        """What to say of all frames, and of training."""
        row = self.table.loc[group]
        unseen = int(row["unseen"])
        bound = f", and each of the {unseen} unseen ones has less than {row['unseen_below']:.2%} of such frames"
        which = self.controls["counted"].value
        used = f"{int(row['frames']):,} frames ({which}) use {int(row['used'])} of {self.entries} entries"
        yield f"{used}{bound if unseen else ''};"
        yield f"perplexity {row['soft']:.1f} soft, {row['hard']:.1f} hard, {row['corrected']:.1f} corrected."
        if "drawn" in row:
            yield f"With noise {moved:.0%} of them choose another entry, and the hard one is {row['drawn']:.1f}."
        if self.over_steps is not None:
            first, last = self.over_steps.iloc[0], self.over_steps.iloc[-1]
            yield (
                f"In training, on hidden frames with noise, it went from {first['hard']:.1f} at step "
                f"{first['step']:.0f} to {last['hard']:.1f} at step {last['step']:.0f}."
            )

    def clicked(self, ax: Axes, x: float, y: float) -> None:
        """Take the frame at a time of the utterance."""
        if ax is self.track:
            self.set(frame=min(max(x, 0.0), self.end))


def _instead(ax: Axes, words: str) -> None:
    ax.set_axis_off()
    ax.text(0.5, 0.5, words, ha="center", va="center")


@answers
def quantizer(
    source: nn.Module | Trace, batch: Batch | None = None, history: pd.DataFrame | str | Path | None = None
) -> QuantizerView:
    """How a frame chooses its entry of the codebook, how all frames use it, and how training came to it.

    Above, one frame and one group: the logits below their largest; with Gumbel noise; the softmax of their sum over the
    temperature, beside that of the logits alone; and the choice. Then the entry of each frame of the utterance (a click
    chooses one), a map of the codebook's entries, how many frames chose each of them, and the codebook's perplexity
    over frames and training steps. A player lets the temperature fall.

    Parameters
    ----------
    source
        A model with a quantizer, ``us.load("tiny", "pretraining")``; or ``us.run(model, batch, "quant.logits")[1]``,
        with "mask.indices" too if frames were hidden.
    batch
        What to quantize, and to play; a trace may go without.
    history : DataFrame or path, optional
        The log of a training run: ``train.csv`` of ``unisat pretrain``, its folder, or a table like it; see
        `unisat.interpret.units.perplexity.perplexity_over_steps`.
    """
    if isinstance(source, Trace):
        frames, ids, book = captured_frames(source), source.ids, None
    else:
        check_quantizer(source)
        if batch is None:
            raise ValueError("a model needs something to quantize; give a batch, or the trace of a run.")
        frames, ids, book = quantized_frames(source, batch), batch.ids, code_map(source)
    if batch is not None and len(batch) != len(ids):
        raise ValueError(f"the batch has {len(batch)} utterances, the trace {len(ids)}; give what was captured.")
    return QuantizerView(frames, ids, batch, None if history is None else read_history(history), book)
