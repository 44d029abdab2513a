"""Frames of a batch and the entries that they choose: one frame's choice, and what all of them use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unisat.corpus import Batch
from unisat.interpret.activations.capture import Trace, run
from unisat.interpret.activations.sites import find, find_backbone
from unisat.interpret.features.collect import draw_masks
from unisat.interpret.units.codebook import NO_QUANTIZER
from unisat.interpret.units.perplexity import gumbel_noise, perplexities, perplexity_over_frames, perplexity_plugin
from unisat.quantizer import GumbelVectorQuantizer

LOGITS, MASK = "quant.logits", "mask.indices"
ALL, HIDDEN, CAPTURED = "all, nothing hidden", "hidden ones, as in pretraining", "as captured"
"""Which frames count."""

LONGEST = 180.0
"""Seconds of the longest batch, with its padding, whose frames are counted at once."""


@dataclass(frozen=True)
class Choice:
    """How one frame chooses its entry of one group.

    Attributes
    ----------
    logits, noise, soft : (entries,)
        ``soft`` is the softmax of logits and noise over the temperature.
    likely : (entries,)
        The softmax of the logits alone.
    code, drawn : int
        The entry without noise, as in evaluation, and with it.
    """

    logits: Float[Tensor, " entries"]
    noise: Float[Tensor, " entries"]
    soft: Float[Tensor, " entries"]
    likely: Float[Tensor, " entries"]
    code: int
    drawn: int


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of a batch, one behind the other.

    Attributes
    ----------
    logits : (frames, groups, entries)
    utterances, seconds : (frames,)
        The number of each frame's utterance, and its time.
    """

    logits: Float[Tensor, "frames groups entries"]
    utterances: Int[np.ndarray, " frames"]
    seconds: Float[np.ndarray, " frames"]

    @cached_property
    def codes(self) -> Int[np.ndarray, "frames groups"]:
        """The entry that each frame chooses without noise."""
        return self.logits.argmax(-1).numpy()

    @cached_property
    def table(self) -> pd.DataFrame:
        """Entries and perplexities of each group, see `unisat.interpret.units.perplexity.perplexities`."""
        return perplexities(self.logits)

    @cached_property
    def curves(self) -> list[pd.DataFrame]:
        """Perplexity over the number of frames, for each group."""
        return [perplexity_over_frames(self.logits[:, group]) for group in range(self.logits.shape[1])]

    def of(self, utterance: int) -> Int[np.ndarray, " rows"]:
        """Rows of one utterance's frames."""
        return np.flatnonzero(self.utterances == utterance)

    def nearest(self, utterance: int, seconds: float) -> int | None:
        """Row of an utterance's frame that is nearest to a time; None if it has no frame here."""
        rows = self.of(utterance)
        return int(rows[np.abs(self.seconds[rows] - seconds).argmin()]) if len(rows) else None

    def unsure(self, utterance: int, group: int = 0) -> float:
        """Time of an utterance's frame whose likeliest entry is least likely."""
        rows = self.of(utterance)
        likely = self.logits[rows, group].softmax(-1).max(-1).values
        return float(self.seconds[rows][int(likely.argmin())])

    def draw(self, seed: int | None) -> tuple[Tensor, Int[np.ndarray, "frames groups"]]:
        """Gumbel noise for every logit, and the codes with it; 0 and the codes without it, if ``seed`` is None."""
        if seed is None:
            return torch.zeros_like(self.logits), self.codes
        noise = gumbel_noise(self.logits.shape, seed)
        return noise, (self.logits + noise).argmax(-1).numpy()

    def choice(self, row: int, group: int, temperature: float, noise: Tensor) -> Choice:
        """Look at one frame's choice in one group; ``noise`` is for every logit, from `draw`."""
        logits, added = self.logits[row, group], noise[row, group]
        noisy = logits + added
        return Choice(
            logits=logits,
            noise=added,
            soft=(noisy / temperature).softmax(-1),
            likely=logits.softmax(-1),
            code=int(logits.argmax()),
            drawn=int(noisy.argmax()),
        )

    def count(self, codes: Int[np.ndarray, "frames groups"]) -> Int[np.ndarray, "groups entries"]:
        """Count how many frames chose each entry of each group."""
        groups, entries = self.logits.shape[1:]
        return np.stack([np.bincount(codes[:, group], minlength=entries) for group in range(groups)])

    def moved(self, codes: Int[np.ndarray, "frames groups"]) -> Float[np.ndarray, " groups"]:
        """Share of the frames that noise makes choose another entry, in each group."""
        return (codes != self.codes).mean(0)

    def table_with(self, codes: Int[np.ndarray, "frames groups"]) -> pd.DataFrame:
        """Give `table` with one more column, ``drawn``: the perplexity of codes that noise has drawn."""
        return self.table.assign(drawn=[perplexity_plugin(count) for count in self.count(codes)])


@dataclass(frozen=True)
class CodeMap:
    """Entries of a codebook in two dimensions, each group by itself; `code_map` gives it.

    Attributes
    ----------
    places : (groups, entries, 2)
        Along the two directions in which a group's entries vary most, from their mean.
    explained : (groups, 2)
        Share of the variance of the group's entries along each of them.
    """

    places: Float[np.ndarray, "groups entries 2"]
    explained: Float[np.ndarray, "groups 2"]


def code_map(model: nn.Module) -> CodeMap:
    """Lay out the entries of a model's codebook by a principal component analysis of each group."""
    check_quantizer(model)
    quantizer = cast(GumbelVectorQuantizer, model.get_submodule(find(model, GumbelVectorQuantizer) or ""))
    vectors = (
        quantizer.codevectors.detach().cpu().double().numpy().reshape(quantizer.num_groups, quantizer.num_vars, -1)
    )
    left, scales, right = np.linalg.svd(vectors - vectors.mean(1, keepdims=True), full_matrices=False)
    # the largest loading is positive, so that the map is the same on any machine
    signs = np.sign(np.take_along_axis(right, np.abs(right).argmax(-1, keepdims=True), -1))[..., 0]
    variance = np.square(scales)
    places, shares = left * (scales * signs)[:, None], variance / np.maximum(variance.sum(-1, keepdims=True), 1e-300)
    missing = max(0, 2 - scales.shape[-1])  # a book of one entry or of one channel has one direction
    pad = (0, missing)
    return CodeMap(np.pad(places, ((0, 0), (0, 0), pad))[..., :2], np.pad(shares, ((0, 0), pad))[:, :2])


def captured_frames(trace: Trace) -> dict[str, Frames]:
    """Frames of a captured run, all of them and the masked ones, by name.

    Raises
    ------
    ValueError
        If the trace has no ``quant.logits``.
    """
    if LOGITS not in trace:
        raise ValueError(
            f"the trace holds {', '.join(trace.sites) or 'nothing'}, but no {LOGITS}; capture them with "
            f'us.run(model, batch, "{LOGITS}"), of a pretraining model: no other has a quantizer.'
        )
    frames = {CAPTURED: _frames(trace)}
    if MASK in trace and trace[MASK].any():
        frames[HIDDEN] = _frames(trace, trace[MASK])
    return frames


def quantized_frames(model: nn.Module, batch: Batch) -> dict[str, Frames]:
    """Run a model over a batch, without masks and with masks as in pretraining, and give the frames of both by name.

    Raises
    ------
    ValueError
        If the model has no quantizer, or the batch is too long.
    """
    check_quantizer(model)
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


def check_quantizer(model: nn.Module) -> None:
    """Refuse a model without a quantizer."""
    if find(model, GumbelVectorQuantizer) is None:
        raise ValueError(
            f"{NO_QUANTIZER}, a {type(model).__name__}: only pretraining models have one, "
            'us.load("tiny", "pretraining") or us.UniSpeechSatForPreTraining.from_pretrained(…).'
        )


def _frames(trace: Trace, mask: Tensor | None = None) -> Frames:
    valid = trace.valid(LOGITS).cpu()
    utterances, places = (valid if mask is None else valid & mask.cpu()).nonzero(as_tuple=True)
    seconds = trace.seconds(LOGITS).cpu().numpy()[places.numpy()]
    return Frames(trace[LOGITS].cpu().float()[utterances, places], utterances.numpy(), seconds)
