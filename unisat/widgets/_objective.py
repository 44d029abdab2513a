"""Look into one step of the pretraining objective: its terms, its instance matrix, its mixing record."""

from __future__ import annotations

import numpy as np
import pandas as pd
from ipywidgets import Dropdown, FloatSlider, IntSlider
from jaxtyping import Integer
from matplotlib.axes import Axes
from torch import Tensor

from unisat.corpus import Batch
from unisat.frames import SAMPLE_RATE, hop
from unisat.interpret.objective import Step, clean_targets, one_step
from unisat.modules import versions
from unisat.plots import _objective as plots
from unisat.plots._style import CLASSES, literal
from unisat.pretraining import UniSpeechSatForPreTraining
from unisat.widgets._choices import utterance_menu
from unisat.widgets._picture import Look, Picture, answers, control, new_figure

ALL, COMPARED, WANTED = "all cosines", "only what is compared", "the right answers"
LONGEST = 60.0  # seconds of the batch with its padding: the matrix grows with the square of them
KEPT = 8  # steps that are kept: going back to one of them runs no model
QUIETER = 0.1  # the model reads waveforms of unit variance, which exceed full scale by far


class LossesView(Picture):
    """One step of the objective; made by `losses`.

    Attributes
    ----------
    step : Step
        What was mixed, hidden and compared.
    table : pandas.DataFrame
        The terms of its loss at the chosen temperature, see `unisat.interpret.objective.Step.terms`.
    record : pandas.DataFrame
        Who was mixed into whom, where and how loud.
    anchor : int or None
        The chosen row of the matrix; None if no frame of the utterance is hidden.
    """

    step: Step
    table: pd.DataFrame
    record: pd.DataFrame
    anchor: int | None
    waits = ("mask_prob", "mixing_prob", "seed")

    def __init__(self, model: UniSpeechSatForPreTraining, batch: Batch, targets: Tensor | None, seed: int) -> None:
        self.model, self.batch, config = model, batch, model.config
        self._given, self._versions = targets, versions(model)
        self.targets = clean_targets(model, batch) if targets is None else targets
        self.hop_seconds = hop(config.conv_stride) / SAMPLE_RATE
        self._steps: dict[tuple[float, float, int], Step] = {}
        self._shown: tuple[object, ...] = ()
        hidden = "share of the frames that the spans would hide if none overlapped"
        mixed = "share of the utterances that get a stretch of another"
        warmth, end = config.contrastive_logits_temperature, float(batch.seconds.max())
        middle = self.hop_seconds * round(end / 2 / self.hop_seconds)
        heat = {"min": min(0.02, warmth), "max": max(1.0, warmth), "step": 0.02}
        super().__init__(
            control(FloatSlider, "mask_prob", hidden, value=config.mask_time_prob, max=1.0, step=0.05),
            control(FloatSlider, "mixing_prob", mixed, value=config.mixing_prob, max=1.0, step=0.1),
            control(IntSlider, "seed", "other mixtures, masks and instances", value=seed, max=99),
            control(FloatSlider, "temperature", "divides all cosines of the loss", value=warmth, **heat),
            control(Dropdown, "matrix", "which cells of it to show", options=[ALL, COMPARED, WANTED]),
            utterance_menu(batch.ids, "whose waveform and anchors to show"),
            control(
                FloatSlider,
                "anchor",
                "the hidden frame nearest to it, in s",
                value=middle,
                max=end,
                step=self.hop_seconds,
            ),
        )
        self.first()

    def look(
        self,
        mask_prob: float,
        mixing_prob: float,
        seed: int,
        temperature: float,
        matrix: str,
        utterance: int,
        anchor: float,
    ) -> Look:
        """Take the step, if it is a new one, and show it."""
        self.step = step = self._take(mask_prob, mixing_prob, seed)
        similarity = step.cosines / temperature
        if self._shown != (step, temperature, matrix, utterance):
            self.table, self.record = step.terms(temperature), step.mixtures(self.batch.ids)
            self._draw(similarity, matrix, utterance)
            self._shown = (step, temperature, matrix, utterance)
        found = step.nearest(utterance, anchor)
        self.anchor = None if found is None else found[0]
        for artist in (self.marks.title, *self.moved):
            artist.set_visible(found is not None)
        words = "none of its frames is hidden." if found is None else self._compare(*found, temperature)
        return self._look(utterance, words)

    def _take(self, mask_prob: float, mixing_prob: float, seed: int) -> Step:
        now = versions(self.model)
        if now != self._versions:  # a cell has trained it: its old steps are those of another model
            targets = clean_targets(self.model, self.batch) if self._given is None else self._given
            self._versions, self.targets, self._steps = now, targets, {}
        key = (mask_prob, mixing_prob, seed)
        if key not in self._steps:
            self._steps[key] = one_step(
                self.model, self.batch, self.targets, mask_prob=mask_prob, mixing_prob=mixing_prob, seed=seed
            )
            for old in list(self._steps)[:-KEPT]:
                del self._steps[old]
        return self._steps[key]

    def _build(self) -> None:
        self.figure = figure = new_figure(8.4, 6.0)
        grid = figure.add_gridspec(3, 2, height_ratios=(2.4, 1.2, 1.4), width_ratios=(1.25, 1))
        self.cells = plots.similarity(self.step.cosines, self.step.utterances, ax=figure.add_subplot(grid[:2, 0]))
        self.bars = plots.contributions(self.table, ax=figure.add_subplot(grid[0, 1]))
        self.marks = plots.anchor(self.step.compare(0), ax=figure.add_subplot(grid[1, 1]))
        self.wave = plots.heard(self.step.mixed[0], ax=figure.add_subplot(grid[2, :]))
        row = self.cells.axhline(0, color=CLASSES[4], linewidth=2)
        place = self.wave.axvline(0, color=CLASSES[1], linewidth=2)
        self.moved = (row, place, *self.marks.lines)
        self.timed(self.wave)

    def _draw(self, similarity: Tensor, matrix: str, utterance: int) -> None:
        """Draw everything that does not depend on the anchor."""
        if self.figure is None:
            self._build()
        step, values, most = self.step, similarity.cpu().numpy(), float(similarity.abs().max())
        shown = most * np.where(step.positives.cpu(), 1.0, -1.0) if matrix == WANTED else values
        left_out = matrix != ALL and ~step.compared.cpu().numpy()
        cells = np.ma.masked_array(shown, np.broadcast_to(left_out, shown.shape))
        plots.set_similarity(cells, step.utterances, self.batch.ids, most, self.cells, keep=self.moved[0])
        plots.set_contributions(self.table, self.bars)
        self.marks.set_xlim(-1.05 * most, 1.05 * most)
        samples = len(self.batch.waveforms[utterance])
        start, end = (int(edge[utterance]) for edge in (step.record.start, step.record.end))
        hidden = step.output.mask_time_indices[utterance]
        plots.set_heard(step.mixed[utterance, :samples], hidden, self.hop_seconds, start, end, self.wave)
        self.wave.set_title(literal(f"what the model hears of {self._mixture(utterance)}"))

    def _mixture(self, utterance: int) -> str:
        name = self.batch.ids[utterance]
        if utterance not in self.record.index:
            return f"{name}, with nobody mixed in"
        row = self.record.loc[utterance]
        return f"{name}, with {row['from']} from {row['start']:.2f} to {row['end']:.2f} s at {row['snr_db']:+.1f} dB"

    def _compare(self, anchor: int, seconds: float, temperature: float) -> str:
        """Show one anchor, and say how many of its comparisons are right."""
        compared = self.step.compare(anchor, temperature)
        plots.set_anchor(compared, self.marks)
        self.moved[0].set_ydata([anchor + 0.5] * 2)
        self.moved[1].set_xdata([seconds] * 2)
        own, others = compared.right[compared.same], compared.right[~compared.same]
        return (
            f"the frame at {seconds:.2f} s is compared with {len(own)} of its own utterance, {int(own.sum())} of them "
            f"above {compared.threshold:.1f}, and with {len(others)} of others, {int(others.sum())} of them below."
        )

    def _look(self, utterance: int, words: str) -> Look:
        table, floors = self.table, self.step.floors
        right = float(self.step.output.metrics["accuracy_masked"])
        compared = "The contrastive loss has no weight"
        if "contrastive" in table.index:
            value, chance = table.loc["contrastive", ["value", "chance"]]
            compared = f"Contrastive {value:.3f}, the best constant answer {chance:.3f}"
        caption = (
            f"Loss {table['contribution'].sum():.3f}. {compared}. Clusters of hidden frames: "
            f"{right:.0%} right, the commonest one {float(floors.commonest):.0%}, copied from the nearest visible "
            f"frame {float(floors.copied):.0%}. {len(self.record)} of {len(self.batch)} mixed, "
            f"{self.step.hidden_share:.0%} hidden. {self._mixture(utterance)}: {words}"
        )
        samples = len(self.batch.waveforms[utterance])
        sounds = {
            "what the model hears, quieter": QUIETER * self.step.mixed[utterance, :samples],
            "the main speaker alone": self.batch.waveforms[utterance],
        }
        style = {"border": 0, "na_rep": "–", "float_format": "{:.3f}".format}
        html = table.reset_index().to_html(index=False, **style)
        everybody = self.record.reindex(range(len(self.batch))).assign(
            into=list(self.batch.ids)
        )  # a table of one height
        html += everybody.to_html(index=False, **style)
        return Look(caption=caption, sounds=sounds, html=html)

    def clicked(self, ax: Axes, x: float, y: float) -> None:
        """Take a row of the matrix as anchor."""
        if ax is self.cells and 0 <= y < len(self.step.cosines):
            utterance, frame = self.step.output.mask_time_indices.nonzero()[int(y)].tolist()
            self.set(utterance=utterance, anchor=self.hop_seconds * frame)


@answers
def losses(
    model: UniSpeechSatForPreTraining,
    batch: Batch,
    targets: Integer[Tensor, "batch frames"] | None = None,
    *,
    seed: int = 0,
) -> LossesView:
    """One step of the pretraining objective: its terms, its instance matrix and its mixing record.

    Above: the matrix of all hidden frames against all quantized ones, by utterance; what each term adds to the loss,
    beside what the best constant answer would add; and one anchor's comparisons. Below: what the model hears of one
    utterance, orange where two speak, black below where frames are hidden. A click on a row of the matrix makes it the
    anchor.

    Parameters
    ----------
    model
        With the parts of the objective, in evaluation: ``us.load("tiny", "pretraining")``. Run once for each mask and
        mixing probability and seed, and again once its weights have changed (`unisat.modules.versions`).
    batch
        Two utterances or more, a minute at most.
    targets : (batch, frames), optional
        The cluster of each frame; what the model itself says of the clean batch, if None.
    seed : int
        To begin with: of mixtures, masks and instances.
    """
    seconds = len(batch) * float(batch.seconds.max())
    if seconds > LONGEST:
        raise ValueError(
            f"the batch is {seconds:.0f} s long with its padding, the matrix is drawn up to {LONGEST:.0f} s; take "
            "fewer or shorter utterances, batch[:4]."
        )
    return LossesView(model, batch, targets, seed)
