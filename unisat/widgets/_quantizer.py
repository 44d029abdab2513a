"""Watch a frame choose its entry of the codebook: logits, noise, temperature, choice, and what all frames use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from ipywidgets import Dropdown, FloatSlider, IntSlider, SelectionSlider, ToggleButton
from matplotlib.axes import Axes
from torch import Tensor, nn

from unisat.corpus import Batch
from unisat.frames import SAMPLE_RATE
from unisat.interpret.activations.capture import Trace, run
from unisat.interpret.activations.sites import find, find_backbone
from unisat.interpret.features.collect import draw_masks
from unisat.interpret.units.codebook import NO_QUANTIZER, frames_to_call_dead
from unisat.interpret.units.perplexity import (
    gumbel_noise,
    perplexities,
    perplexity_over_frames,
    perplexity_over_steps,
    plug_in,
    read_history,
    step_of_temperature,
)
from unisat.plots import _quantizer as plots
from unisat.plots._style import CLASSES
from unisat.quantizer import GumbelVectorQuantizer
from unisat.widgets._picture import Look, Picture, Sound, answers, control, new_figure

LOGITS, MASK = "quant.logits", "mask.indices"
ALL, HIDDEN = "all, nothing hidden", "hidden ones, as in pretraining"
SPAN = 20.0  # logits further below the largest have less than one chance in a hundred million
ABOVE = 8.0
LONGEST = 180.0  # seconds of the batch with its padding
AROUND = 0.25  # seconds before and behind a frame, to listen to


class Frames(NamedTuple):
    """Frames of a batch, one behind the other: logits, the utterance of each, and its time in seconds."""

    logits: Tensor
    utterances: np.ndarray
    seconds: np.ndarray


class QuantizerView(Picture):
    """Choices of a quantizer; made by `quantizer`.

    Attributes
    ----------
    logits, noise, soft : Float[Tensor, "entries"]
        Of the frame and the group now shown; the noise is 0 where it is switched off.
    code, drawn : int
        The frame's entry without noise, as in evaluation, and with it.
    counts : DataFrame
        How many frames chose each entry of the group: without noise (``code``), and with it (``drawn``).
    table : DataFrame
        Entries and perplexities of each group, see `unisat.interpret.units.perplexity.perplexities`.
    over_frames, over_steps : DataFrame
        The curves; ``over_steps`` is None without a history.
    """

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
    ) -> None:
        self.frames, self.ids, self.batch, self.history = frames, ids, batch, history
        first = next(iter(frames.values()))
        self.groups, self.entries = first.logits.shape[1:]
        self.steps = [] if history is None else [perplexity_over_steps(history, group) for group in range(self.groups)]
        # what follows from no other control: codes without noise, the table, and a curve for each group
        self._kept = {
            name: (
                these.logits.argmax(-1).numpy(),
                perplexities(these.logits),
                [perplexity_over_frames(these.logits[:, group]) for group in range(self.groups)],
            )
            for name, these in frames.items()
        }
        self._last: tuple[Any, Any, Any] = (None, None, None)
        self.end = end = float(first.seconds.max())
        mine = first.utterances == 0
        unsure = first.logits[mine, 0].softmax(-1).max(-1).values.argmin()
        start = float(first.seconds[mine][unsure])
        names = [(f"{index}: {name}", index) for index, name in enumerate(ids)]
        heat = {"value": 2.0, "min": 0.5, "max": 2.0, "step": 0.05}
        super().__init__(
            control(FloatSlider, "temperature", "of training's soft choice, from 2 down to 0.5", **heat),
            control(ToggleButton, "noise", "add Gumbel noise, as in training", value=True),
            control(IntSlider, "seed", "other noise", max=99),
            control(SelectionSlider, "group", "of the codebook, from 0", options=range(self.groups)),
            control(Dropdown, "utterance", "whose frames to look at", options=names),
            control(FloatSlider, "frame", "the frame nearest to it, in s", value=start, max=end, step=0.02),
            control(Dropdown, "counted", "which frames count", options=list(frames)),
        )
        self.first()

    def look(
        self, temperature: float, noise: bool, seed: int, group: int, utterance: int, frame: float, counted: str
    ) -> Look:
        """Let one frame choose, and count what all frames choose."""
        these = self.frames[counted]
        rows = np.flatnonzero(these.utterances == utterance)
        if not len(rows):
            raise ValueError(f"no frame of {self.ids[utterance]} is hidden; look at all, or at another utterance.")
        row = int(rows[np.abs(these.seconds[rows] - frame).argmin()])
        before, base, curves = self._kept[counted]
        self.controls["seed"].disabled = not noise
        added, after = self._drawn(counted, seed) if noise else (torch.zeros_like(these.logits), before)
        self.logits, self.noise = these.logits[row, group], added[row, group]
        self.soft = ((self.logits + self.noise) / temperature).softmax(-1)
        self.code, self.drawn = int(before[row, group]), int(after[row, group])
        counts, drawn = self._count(before), self._count(after)
        self.counts = pd.DataFrame({"code": counts[group], "drawn": drawn[group]}).rename_axis("entry")
        self.table = base.assign(drawn=[plug_in(count) for count in drawn]) if noise else base
        self.over_frames, self.over_steps = curves[group], self.steps[group] if self.steps else None
        if self.figure is None:
            self._build()
        self._set_choice(temperature)
        plots.set_code_track(these.seconds[rows], before[rows, group], after[rows, group], self.track)
        self.track.lines[2].set_xdata([these.seconds[row]] * 2)
        self.track.title.set_text(
            f"{self.ids[utterance]}: the entry of each frame; orange where noise makes it another"
        )
        self._set_book(group, temperature)
        return self._look(
            utterance, group, float(these.seconds[row]), temperature, float((before != after)[:, group].mean())
        )

    def _drawn(self, frames: str, seed: int) -> tuple[Tensor, np.ndarray]:
        """Noise, and the codes with it."""
        if self._last[0] != (frames, seed):
            logits = self.frames[frames].logits
            noise = gumbel_noise(logits.shape, seed)
            self._last = (frames, seed), noise, (logits + noise).argmax(-1).numpy()
        return self._last[1:]

    def _count(self, codes: np.ndarray) -> list[np.ndarray]:
        return [np.bincount(codes[:, group], minlength=self.entries) for group in range(self.groups)]

    def _build(self) -> None:
        self.figure = figure = new_figure(8.4, 6.6)
        grid = figure.add_gridspec(3, 12, height_ratios=(1.25, 0.9, 1.5))
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
        all_counts = [count for codes, _, _ in self._kept.values() for count in self._count(codes)]
        fullest = max(all_counts, key=lambda count: count.max() / count.sum())
        self.use = plots.code_counts(fullest, ax=figure.add_subplot(grid[2, :4]))
        draw = partial(plots.perplexity, entries=self.entries, legend=False)
        widest = max((curves[0] for _, _, curves in self._kept.values()), key=lambda curve: curve["frames"].iloc[-1])
        self.over = draw(widest, ax=figure.add_subplot(grid[2, 4:8]))
        self.trained = figure.add_subplot(grid[2, 8:])
        if self.over_steps is None:
            self.trained.set_axis_off()
            self.trained.text(0.5, 0.5, "history=… shows\ntraining steps here", ha="center", va="center")
        else:
            draw(self.over_steps, ax=self.trained)
            self.trained.axvline(0, color=CLASSES[3], linewidth=1.5, label="step of this temperature")
            self.trained.set_ylabel("")
        for ax in figure.axes:
            ax.title.set_fontsize(9)
            ax.xaxis.label.set_fontsize(9)
            ax.yaxis.label.set_fontsize(9)
            ax.tick_params(labelsize=8)
        handles = list(self.over.lines) + self.trained.lines[len(self.over.lines) :]
        figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
        artists = [(ax.title, *ax.patches, *ax.lines) for ax in figure.axes]
        self.moving(*(one for several in artists for one in several))
        self.cursor(self.track)

    def _set_choice(self, temperature: float) -> None:
        highest = self.logits.max()
        logits, noisy = (self.logits - highest).numpy(), (self.logits + self.noise - highest).numpy()
        likely, soft = self.logits.softmax(-1).numpy(), self.soft.numpy()
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
        plots.set_perplexity(self.over_frames, self.over)
        self.over.title.set_text(f"{int(row['frames']):,} frames: {row['hard']:.1f}, corrected {row['corrected']:.1f}")
        if self.over_steps is not None:
            plots.set_perplexity(self.over_steps, self.trained)
            step = step_of_temperature(self.history, temperature)
            self.trained.lines[-1].set_xdata([np.nan if step is None else step] * 2)
            self.trained.title.set_text(f"in training, at last {self.over_steps['hard'].iloc[-1]:.1f}")

    def _look(self, utterance: int, group: int, seconds: float, temperature: float, moved: float) -> Look:
        sentence = " ".join(
            [
                f"{self.ids[utterance]}, frame at {seconds:.2f} s, group {group}: the logits prefer entry {self.code} "
                f"(probability {self.logits.softmax(-1)[self.code]:.2f}),",
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
        return Look(sentence=sentence, sounds=sounds, html=self.table.to_html(index=False, **style))

    def _use(self, group: int, moved: float) -> Iterator[str]:
        """What to say of all frames, and of training."""
        row, enough = self.table.loc[group], frames_to_call_dead(self.entries)
        dead = f"too few to call any dead ({enough:,})" if pd.isna(row["dead"]) else f"{int(row['dead'])} are dead"
        which = self.controls["counted"].value
        yield f"{int(row['frames']):,} frames ({which}) use {int(row['used'])} of {self.entries} entries, {dead};"
        yield f"perplexity {row['soft']:.1f} soft, {row['hard']:.1f} hard, {row['corrected']:.1f} corrected."
        if "drawn" in row:
            yield f"With noise {moved:.0%} of them choose another entry, and the hard one is {row['drawn']:.1f}."
        if self.over_steps is not None:
            first, last = self.over_steps.iloc[0], self.over_steps.iloc[-1]
            yield (
                f"Over training it went from {first['hard']:.1f} at step {first['step']:.0f} to {last['hard']:.1f} at "
                f"step {last['step']:.0f}."
            )

    def clicked(self, ax: Axes, x: float, y: float) -> None:
        """Take the frame at a time of the utterance."""
        if ax is self.track:
            self.set(frame=min(max(x, 0.0), self.end))


@answers
def quantizer(
    source: nn.Module | Trace, batch: Batch | None = None, history: pd.DataFrame | str | Path | None = None
) -> QuantizerView:
    """How a frame chooses its entry of the codebook, how all frames use it, and how training came to it.

    Above, one frame and one group: the logits below their largest; with Gumbel noise; the softmax of their sum over the
    temperature, beside that of the logits alone; and the choice. Then the entry of each frame of the utterance (a click
    chooses one), how many frames chose each entry, and the codebook's perplexity over frames and training steps.

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
        frames, ids = _captured(source), source.ids
    else:
        frames, ids = _run(source, batch), batch.ids if batch is not None else ()
    if batch is not None and len(batch) != len(ids):
        raise ValueError(f"the batch has {len(batch)} utterances, the trace {len(ids)}; give what was captured.")
    return QuantizerView(frames, ids, batch, None if history is None else read_history(history))


def _captured(trace: Trace) -> dict[str, Frames]:
    if LOGITS not in trace:
        raise ValueError(
            f"the trace holds {', '.join(trace.sites) or 'nothing'}, but no {LOGITS}; capture them with "
            f'us.run(model, batch, "{LOGITS}"), of a pretraining model: no other has a quantizer.'
        )
    frames = {"as captured": _frames(trace)}
    if MASK in trace and trace[MASK].any():
        frames[HIDDEN] = _frames(trace, trace[MASK])
    return frames


def _run(model: nn.Module, batch: Batch | None) -> dict[str, Frames]:
    if find(model, GumbelVectorQuantizer) is None:
        raise ValueError(
            f"{NO_QUANTIZER}, a {type(model).__name__}: only pretraining models have one, "
            'us.load("tiny", "pretraining") or us.UniSpeechSatForPreTraining.from_pretrained(…).'
        )
    if batch is None:
        raise ValueError("a model needs something to quantize; give a batch, or the trace of a run.")
    seconds = len(batch) * float(batch.seconds.max())
    if seconds > LONGEST:
        raise ValueError(
            f"the batch is {seconds:.0f} s long with its padding, frames are counted up to {LONGEST:.0f} s; take fewer "
            "or shorter utterances, batch[:4], or collect their codes: us.collect and us.codebook_usage."
        )
    frames = {ALL: _frames(run(model, batch, LOGITS)[1])}
    mask = draw_masks(batch.lengths, batch.ids, find_backbone(model)[1].config, 0)
    if mask.any():
        frames[HIDDEN] = _frames(run(model, batch, LOGITS, mask_time_indices=mask)[1], mask)
    return frames


def _frames(trace: Trace, mask: Tensor | None = None) -> Frames:
    valid = trace.valid(LOGITS).cpu()
    utterances, places = (valid if mask is None else valid & mask.cpu()).nonzero(as_tuple=True)
    seconds = trace.seconds(LOGITS).cpu().numpy()[places.numpy()]
    return Frames(trace[LOGITS].cpu().float()[utterances, places], utterances.numpy(), seconds)
