"""What is hidden from the model: masks drawn as in training, the masks that a run had, and how long hidden runs are."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unisat.config import UniSpeechSatConfig
from unisat.interpret.activations.capture import Trace
from unisat.masking import num_spans, span_lengths, span_mask

BATCHES, SIZE = 25, 8
"""Batches that `many_runs` draws, and masks in each: whether a number of spans is rounded up is drawn for a batch."""


def draw(
    frames: int, config: UniSpeechSatConfig, seed: int
) -> tuple[Bool[Tensor, " frames"], Bool[Tensor, " channels"]]:
    """Hide frames and channels of one utterance as `unisat.masking.SpecAugment` does in training.

    Frames are also hidden where ``mask_time_prob`` is 0 and ``mask_time_min_masks`` is not; channels are not, as in
    the model.

    Parameters
    ----------
    frames : int
        In the utterance.
    config : UniSpeechSatConfig
        Shares, lengths and least numbers of spans, and the number of channels.
    seed : int
        Of the generator that draws, frames first.

    Returns
    -------
    (frames,), (channels,)
        True on what is hidden.
    """
    generator, width = torch.Generator().manual_seed(seed), config.hidden_size

    def spans(size: int, prob: float, length: int, least: int) -> Tensor:
        options: dict[str, Any] = {"mask_prob": prob, "mask_length": length, "min_spans": least, "generator": generator}
        return span_mask(torch.tensor([size]), size, **options)[0]

    mask = spans(frames, config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks)
    if config.mask_feature_prob == 0:
        return mask, torch.zeros(width, dtype=torch.bool)
    return mask, spans(width, config.mask_feature_prob, config.mask_feature_length, config.mask_feature_min_masks)


def drawn_spans(frames: int, config: UniSpeechSatConfig, seed: int) -> int:
    """Number of spans that `draw` hides frames with; where they overlap or touch, there are fewer runs."""
    rounding = float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
    settings = config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
    return int(num_spans(torch.tensor([frames]), frames, *settings, rounding))


def replay(trace: Trace, utterance: int) -> tuple[Bool[Tensor, " frames"], Bool[Tensor, " channels"]]:
    """Give the frames and channels of one utterance that a run hid; no channel where the trace lacks ``mask.out``.

    Raises
    ------
    ValueError
        If the trace has no ``mask.indices``.
    """
    if "mask.indices" not in trace.sites:
        raise ValueError(
            f"the trace holds {', '.join(trace.sites) or 'nothing'}, but no masks; "
            'capture them with us.run(model, batch, "mask.*").'
        )
    channels = torch.zeros(trace.config.hidden_size, dtype=torch.bool)
    if "mask.out" in trace.sites:
        channels = (trace.ragged("mask.out")[utterance] == 0).all(0).cpu()
    return trace.ragged("mask.indices")[utterance].cpu(), channels


@lru_cache(maxsize=64)
def many_runs(frames: int, mask_prob: float, mask_length: int, min_spans: int) -> tuple[Int[Tensor, " runs"], int]:
    """Frames of each hidden run in many masks of one utterance, and how many masks those are."""
    generator, lengths = torch.Generator().manual_seed(0), torch.full((SIZE,), frames)
    settings: dict[str, Any] = {"mask_prob": mask_prob, "mask_length": mask_length, "min_spans": min_spans}
    masks = torch.cat([span_mask(lengths, frames, **settings, generator=generator) for _ in range(BATCHES)])
    apart = torch.nn.functional.pad(masks, (0, 1)).flatten()  # a seen frame between one mask and the next
    return span_lengths(apart), len(masks)
