"""Checks of what a model is given: each error says what came, what was expected and what to do."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from unisat.config import UniSpeechSatConfig
from unisat.frames import SAMPLE_RATE, valid_positions


def sample_lengths(attention_mask: Tensor) -> Int[Tensor, " batch"]:
    """Number of samples of each utterance, from a mask that is 1 on samples and 0 on the padding behind them.

    Raises
    ------
    ValueError
        If the mask is not two-dimensional, is 0 for a whole utterance, or has a 0 in front of a 1. The reference
        counts the ones, so it reads such a batch as if it were padded on the right.
    """
    if attention_mask.ndim != 2:
        raise ValueError(f"attention_mask must be (batch, samples), got {tuple(attention_mask.shape)}.")
    kept = attention_mask != 0
    lengths = kept.sum(-1)
    if empty := (lengths == 0).nonzero().flatten().tolist():
        raise ValueError(
            f"attention_mask is all zeros for utterance(s) {empty}; expected 1 on the samples of each utterance. "
            "Drop empty utterances from the batch."
        )
    if not torch.equal(kept, valid_positions(lengths, kept.shape[1])):
        wrong = (kept != valid_positions(lengths, kept.shape[1])).any(-1).nonzero().flatten().tolist()
        raise ValueError(
            f"attention_mask has zeros in front of ones for utterance(s) {wrong}; expected padding on the right, "
            "ones first and zeros behind them (padding_side='right'): move the samples to the front."
        )
    return lengths


def check_waveforms(
    input_values: Tensor, attention_mask: Tensor | None, config: UniSpeechSatConfig
) -> Int[Tensor, " batch"]:
    """Refuse anything but a batch of waveforms; return the number of samples of each utterance."""
    if input_values.ndim != 2:
        raise ValueError(
            f"input_values must be (batch, samples), got {tuple(input_values.shape)}; "
            "give a single recording a batch axis with waveform[None], and mix channels down to one."
        )
    if not input_values.is_floating_point():
        raise ValueError(
            f"input_values are {input_values.dtype}; expected floats around [-1, 1]. "
            "Scale integers first (int16: waveform / 32768), or let unisat.Batch.from_arrays do it."
        )
    if not torch.compiler.is_compiling() and not torch.isfinite(input_values).all():
        wrong = (~torch.isfinite(input_values)).any(-1).nonzero().flatten().tolist()
        raise ValueError(f"input_values hold NaN or Inf in utterance(s) {wrong}; repair or drop the recording.")
    batch, samples = input_values.shape
    lengths = torch.full((batch,), samples, device=input_values.device)
    if attention_mask is not None:
        if attention_mask.shape != input_values.shape:
            raise ValueError(
                f"attention_mask {tuple(attention_mask.shape)} must have the shape of input_values "
                f"{tuple(input_values.shape)}: one entry for each sample."
            )
        lengths = sample_lengths(attention_mask).to(input_values.device)
    needed = config.receptive_field
    if batch == 0 or int(lengths.min()) < needed:
        short = [f"{index} ({length} samples)" for index, length in enumerate(lengths.tolist()) if length < needed]
        short = [*short[:8], f"and {len(short) - 8:,} more"] if len(short) > 8 else short
        raise ValueError(
            f"one frame needs {needed} samples ({1000 * needed / SAMPLE_RATE:g} ms at 16 kHz); "
            f"too short: utterance {', '.join(short) or '(the batch is empty)'}. Drop or join such clips."
        )
    return lengths


def check_mask(mask_time_indices: Tensor | None, valid: Tensor) -> None:
    """Refuse a mask that does not hold one boolean for each frame."""
    if mask_time_indices is None:
        return
    if mask_time_indices.shape != valid.shape or mask_time_indices.dtype != torch.bool:
        raise ValueError(
            f"mask_time_indices must be {tuple(valid.shape)} (batch, frames) of bool, True on frames to hide; got "
            f"{tuple(mask_time_indices.shape)} of {mask_time_indices.dtype}. "
            "The mask counts frames, not samples. Turn 0 and 1 into booleans with mask.bool()."
        )
