"""One utterance as a model reads it, on one axis of time: what is said, units, where heads look, norms of layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from unisat.corpus import Batch
from unisat.interpret.activations.capture import capture
from unisat.interpret.activations.sites import find
from unisat.interpret.layers.over_time import rms_norms
from unisat.modules import unwrap
from unisat.pretraining import UniSpeechSatForPreTraining
from unisat.quantizer import GumbelVectorQuantizer
from unisat.segments import Segments

LONGEST = 60.0
"""Seconds of the longest utterance: attention takes time and memory with the square of it."""

NEAR = 3
"""Frames to either side of a frame that count as near it, as in `unisat.interpret.activations.attention.measures`."""


@dataclass(frozen=True, eq=False)
class Strip:
    """What a model computes of one utterance, frame by frame; `strip` gives it.

    Attributes
    ----------
    id : str
        The utterance.
    samples : (samples,)
        Its sound at 16 kHz, as it was recorded.
    seconds : (frames,)
        The time of each frame's centre.
    segments : DataFrame or None
        The utterance's rows of the table of a `unisat.Segments`.
    labels : DataFrame
        A row for each frame and a column for each tier: the label of the segment in which the frame's centre lies, ""
        in none. Where segments of a tier overlap, the one that begins last.
    units : DataFrame
        A row for each frame: ``cluster``, the likeliest one of the pretraining head, and ``group 0``, ``group 1``, …,
        the entry that the quantizer chooses in each group, nothing hidden and without noise. A model without one of
        these parts has no such column.
    sizes : dict of str to int
        How many clusters there are, or entries of a group, by column of ``units``.
    patterns : (heads, query, key) by int
        Attention weights of each block.
    norms : DataFrame
        RMS norm of each hidden state over time, from `unisat.interpret.layers.over_time.rms_norms`.
    """

    id: str
    samples: Float[Tensor, " samples"]
    seconds: Float[Tensor, " frames"]
    segments: pd.DataFrame | None
    labels: pd.DataFrame
    units: pd.DataFrame
    sizes: dict[str, int]
    patterns: dict[int, Float[Tensor, "heads query key"]]
    norms: pd.DataFrame

    def nearest(self, seconds: float) -> int:
        """Number of the frame whose centre is nearest to a time."""
        return int((self.seconds - seconds).abs().argmin())

    def weights(self, frame: int, layer: int, head: int | None = None) -> Float[Tensor, " key"]:
        """Where a frame looks in a block: a head's weight on each frame, or the mean of all heads."""
        heads = self.patterns[layer][:, frame].float().cpu()
        return heads.mean(0) if head is None else heads[head]

    def look(self, frame: int, layer: int, head: int | None = None) -> dict[str, float]:
        """Measure where a frame looks, as `unisat.interpret.activations.attention.measures` does over all frames.

        Returns
        -------
        dict
            ``distance_ms``, the mean distance in time; ``near_share``, the weight on frames at most `NEAR` away; and
            ``most_at``, the time of the frame with the largest weight in seconds.
        """
        weights = self.weights(frame, layer, head).double()
        near = weights[max(0, frame - NEAR) : frame + NEAR + 1].sum()
        apart = (self.seconds - self.seconds[frame]).abs()
        return {
            "distance_ms": 1000 * float(weights @ apart / weights.sum()),
            "near_share": float(near / weights.sum()),
            "most_at": float(self.seconds[int(weights.argmax())]),
        }

    def table(self, frame: int, layer: int, head: int | None = None) -> pd.DataFrame:
        """Give a row for each frame: time, labels, units, the weight from ``frame``, and the norm behind the block."""
        looked = {"weight": self.weights(frame, layer, head).numpy(), "rms": self.norms.loc[layer + 1].to_numpy()}
        times = pd.Series(self.seconds.numpy(), name="seconds")
        return pd.concat([times, self.labels, self.units, pd.DataFrame(looked)], axis=1)


def strip(model: nn.Module, batch: Batch, utterance: int = 0, segments: Segments | None = None) -> Strip:
    """Run a model once over one utterance, and keep what can be shown on one axis of time.

    Parameters
    ----------
    model
        Any model with the backbone, in evaluation mode. Clusters need a `unisat.UniSpeechSatForPreTraining`, codes a
        quantizer.
    batch
        The utterance is run alone, so that no padding touches it.
    utterance : int
        Which one.
    segments : Segments, optional
        Words, phones or turns; those of other utterances are left out.

    Raises
    ------
    ValueError
        If the utterance is longer than `LONGEST`, or the model is in training mode.
    """
    model, one = unwrap(model), batch[utterance]
    seconds = float(one.seconds[0])
    if seconds > LONGEST:
        raise ValueError(
            f"{one.ids[0]} is {seconds:.0f} s long, attention is looked at up to {LONGEST:.0f} s; cut it, or take "
            "another utterance."
        )
    quantizer = find(model, GumbelVectorQuantizer)
    sites = ["hidden.*", "block.*.attn.pattern", *(["quant.codes"] if quantizer is not None else [])]
    device = next(model.parameters()).device
    with torch.no_grad(), capture(model, *sites, ids=one.ids) as trace:
        output = model(one.input_values.to(device), one.attention_mask.to(device), return_dict=True)
    norms = rms_norms(trace)
    times = trace.seconds("hidden.0").cpu().double()
    units, sizes = {}, {}
    if isinstance(model, UniSpeechSatForPreTraining):
        units["cluster"], sizes["cluster"] = output.logits[0].argmax(-1), output.logits.shape[-1]
    if quantizer is not None:
        entries = trace.config.num_codevectors_per_group
        for group, codes in enumerate(trace["quant.codes"][0].T):
            units[f"group {group}"], sizes[f"group {group}"] = codes, entries
    mine = None if segments is None else segments.table[segments.table["id"] == one.ids[0]]
    tiers = () if segments is None else segments.tiers
    return Strip(
        id=one.ids[0],
        samples=one.waveforms[0],
        seconds=times,
        segments=mine,
        labels=pd.DataFrame({tier: _labels(mine[mine["tier"] == tier], times.numpy()) for tier in tiers}),  # type: ignore[index]
        units=pd.DataFrame({name: values.cpu().numpy() for name, values in units.items()}),
        sizes=sizes,
        patterns={layer: trace[f"block.{layer}.attn.pattern"][0] for layer in range(trace.config.num_hidden_layers)},
        norms=norms,
    )


def _labels(rows: pd.DataFrame, times: np.ndarray) -> np.ndarray:
    """The label at each time, "" where there is none."""
    found = np.full(len(times), "", dtype=object)
    for start, end, label in zip(rows["start"], rows["end"], rows["label"], strict=True):
        found[(start <= times) & (times < end)] = label
    return found
