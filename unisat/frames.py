"""Samples, frames and seconds: only this module converts one into another.

The waveform has 16,000 samples a second. The convolutional feature encoder turns it into *frames*. With the
default configuration a frame starts every 320 samples (20 ms) and sees 400 samples (25 ms), so frame ``t``
covers the samples ``[320 t, 320 t + 400)``. `hop` and `receptive_field` give these numbers in general.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SAMPLE_RATE = 16_000
"""Samples a second of every waveform that the model reads."""

Length = TypeVar("Length", int, Tensor)


def conv_length(length: Length, kernel: int, stride: int = 1, dilation: int = 1) -> Length:
    """Number of outputs of an unpadded 1-D convolution over ``length`` inputs; 0 where the kernel does not fit.

    ``floor((length - dilation * (kernel - 1) - 1) / stride) + 1``, as in `torch.nn.Conv1d`.
    """
    outputs = (length - dilation * (kernel - 1) - 1) // stride + 1
    return outputs.clamp(min=0) if isinstance(outputs, Tensor) else max(outputs, 0)


def stack_length(length: Length, kernels: Sequence[int], strides: Sequence[int]) -> Length:
    """Number of outputs of a stack of unpadded convolutions: `conv_length` for one layer after the other."""
    for kernel, stride in zip(kernels, strides, strict=True):
        length = conv_length(length, kernel, stride)
    return length


def hop(strides: Sequence[int]) -> int:
    """Number of samples from the start of one frame to the start of the next: the product of the strides."""
    samples = 1
    for stride in strides:
        samples *= stride
    return samples


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Number of samples that one frame sees: ``1 + sum_l (kernel_l - 1) * prod_{m < l} stride_m``."""
    return 1 + sum((kernel - 1) * hop(strides[:layer]) for layer, kernel in enumerate(kernels))


def frame_seconds(
    frames: int, kernels: Sequence[int], strides: Sequence[int], at: float = 0.5
) -> Float[Tensor, " frames"]:
    """Time of each frame in seconds: its start (``at=0``), centre (``0.5``) or end (``1``).

    With the default front end the centre of frame ``t`` is at ``(320 t + 200) / 16000`` s. These times are about what
    the convolutions see; through attention every frame sees the whole utterance.
    """
    starts = torch.arange(frames, dtype=torch.float64) * hop(strides)
    return (starts + at * receptive_field(kernels, strides)) / SAMPLE_RATE


def frames_between(seconds: Float[Tensor, " frames"], start: float, end: float) -> slice:
    """Slice of the frames whose time lies in ``[start, end)``; ``seconds`` are ascending, as from `frame_seconds`."""
    first, last = torch.searchsorted(seconds, torch.tensor([start, end], dtype=seconds.dtype)).tolist()
    return slice(first, last)


def valid_positions(lengths: Int[Tensor, " batch"], positions: int) -> Bool[Tensor, "batch positions"]:
    """True on the first ``lengths[i]`` of ``positions`` samples or frames, False on the padding behind them."""
    return torch.arange(positions, device=lengths.device) < lengths[:, None]
