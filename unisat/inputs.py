"""Checks of what a model is given: each error says what came, what was expected and what to do."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unisat.config import UniSpeechSatConfig
from unisat.frames import SAMPLE_RATE, valid_positions
from unisat.modules import exported, recorded

LOUDEST = 1e15
"""Samples beyond this are refused: their squares, summed in a norm, could pass what float32 holds."""


def check_tensor(name: str, value: Any) -> None:
    """Refuse anything but a tensor, such as a list or a NumPy array."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}; torch.as_tensor({name}) makes it one.")


def check_number(
    name: str, value: Any, least: float = -math.inf, most: float = math.inf, *, whole: bool = False
) -> None:
    """Refuse anything but one number (with ``whole``, a whole one), and one below ``least`` or above ``most``."""
    kind = "whole number" if whole else "number"
    if getattr(value, "ndim", 0) or not hasattr(value, "__index__" if whole else "__float__"):
        raise TypeError(f"{name}={value!r} must be one {kind}, got {type(value).__name__}.")
    bounds = [f"at least {least:g}"] * (least > -math.inf) + [f"at most {most:g}"] * (most < math.inf)
    if bounds and not least <= value <= most:
        raise ValueError(f"{name}={value} must be {' and '.join(bounds)}.")


def sample_lengths(attention_mask: Tensor) -> Int[Tensor, " batch"]:
    """Number of samples of each utterance, from a mask that is 1 on samples and 0 on the padding behind them.

    Raises
    ------
    TypeError
        If the mask is no tensor.
    ValueError
        If the mask is not two-dimensional, is 0 for a whole utterance, or has a 0 in front of a 1. The reference
        counts the ones, so it reads such a batch as if it were padded on the right.
    """
    check_tensor("attention_mask", attention_mask)
    if attention_mask.ndim != 2:
        raise ValueError(f"attention_mask must be (batch, samples), got {tuple(attention_mask.shape)}.")
    lengths, broken = _count(attention_mask)
    if broken.any():
        _refuse_mask(lengths, broken)
    return lengths


def _count(attention_mask: Tensor) -> tuple[Int[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """Count the ones of each utterance; say where a mask is none, without reading it: a GPU would be waited for."""
    kept = attention_mask != 0
    lengths = kept.sum(-1)
    return lengths, (lengths == 0) | (kept != valid_positions(lengths, kept.shape[1])).any(-1)


def _refuse_mask(lengths: Int[Tensor, " batch"], broken: Bool[Tensor, " batch"]) -> None:
    if empty := (lengths == 0).nonzero().flatten().tolist():
        raise ValueError(
            f"attention_mask is all zeros for utterance(s) {empty}; expected 1 on the samples of each utterance. "
            "Drop empty utterances from the batch."
        )
    raise ValueError(
        f"attention_mask has zeros in front of ones for utterance(s) {broken.nonzero().flatten().tolist()}; expected "
        "padding on the right, ones first and zeros behind them (padding_side='right'): move the samples to the front."
    )


def check_waveforms(
    input_values: Tensor,
    attention_mask: Tensor | None,
    config: UniSpeechSatConfig,
    dtype: torch.dtype = torch.float32,
) -> tuple[Int[Tensor, " batch"], bool]:
    """Refuse anything but a batch of waveforms; return the samples of each utterance, and whether there is padding.

    ``dtype`` is the precision in which the model reads the waveforms. A GPU is waited for once.
    """
    check_tensor("input_values", input_values)
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
    batch, samples = input_values.shape
    lengths = torch.full((batch,), samples, device=input_values.device)
    broken = torch.zeros_like(lengths, dtype=torch.bool)
    if attention_mask is not None:
        check_tensor("attention_mask", attention_mask)
        if exported():
            raise ValueError(
                "code with an attention_mask cannot be exported or traced: it would keep the lengths of this batch. "
                "Leave the mask out and export for one length; torch.compile takes masks."
            )
        if attention_mask.shape != input_values.shape:
            raise ValueError(
                f"attention_mask {tuple(attention_mask.shape)} must have the shape of input_values "
                f"{tuple(input_values.shape)}: one entry for each sample."
            )
        lengths, broken = (one.to(input_values.device) for one in _count(attention_mask))
    loud = torch.zeros_like(broken)
    if not recorded() and samples:
        dtype, most = _loudest(dtype, input_values.device.type)
        loud = ~(input_values.abs().amax(-1) <= most)  # True for NaN, too
    shortest, any_loud = samples, 0
    # without a mask recorded code has nothing to read from a device, so it can be exported
    if batch and not (recorded() and attention_mask is None):
        numbers = lengths.min(), broken.any(), loud.any()
        shortest, any_broken, any_loud = torch.stack([number.long() for number in numbers]).tolist()
        if any_broken:
            _refuse_mask(lengths, broken)
    needed = config.receptive_field
    if batch == 0 or shortest < needed:
        short = [f"{index} ({length} samples)" for index, length in enumerate(lengths.tolist()) if length < needed]
        short = [*short[:8], f"and {len(short) - 8:,} more"] if len(short) > 8 else short
        raise ValueError(
            f"one frame needs {needed} samples ({1000 * needed / SAMPLE_RATE:g} ms at 16 kHz); "
            f"too short: utterance {', '.join(short) or '(the batch is empty)'}. Drop or join such clips."
        )
    if any_loud:
        raise ValueError(
            f"input_values hold NaN or Inf in utterance(s) {loud.nonzero().flatten().tolist()}, or samples beyond "
            f"{most:.4g}, the largest that a model in {dtype} can take; repair or drop the recording, or scale it to "
            "[-1, 1]."
        )
    return lengths, shortest < samples


def _loudest(dtype: torch.dtype, device: str) -> tuple[torch.dtype, float]:
    """Give the precision in which a model reads waveforms, and the largest sample whose products will be in it."""
    if dtype == torch.float32 and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    # the first convolution makes a sample a few times larger: its kernels have ten taps
    return dtype, min(LOUDEST, torch.finfo(dtype).max / 16)


def check_mask(mask_time_indices: Tensor | None, valid: Bool[Tensor, "batch frames"]) -> Tensor | None:
    """Refuse a mask that does not hold one boolean for each frame; give it on the device of the frames."""
    if mask_time_indices is None:
        return None
    check_tensor("mask_time_indices", mask_time_indices)
    if mask_time_indices.shape != valid.shape or mask_time_indices.dtype != torch.bool:
        raise ValueError(
            f"mask_time_indices must be {tuple(valid.shape)} (batch, frames) of bool, True on frames to hide; got "
            f"{tuple(mask_time_indices.shape)} of {mask_time_indices.dtype}. "
            "The mask counts frames, not samples. Turn 0 and 1 into booleans with mask.bool()."
        )
    return mask_time_indices.to(valid.device)
