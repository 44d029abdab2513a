"""Samples, frames and seconds: the only place where one becomes another.

The waveform has 16,000 samples a second. The convolutional feature encoder turns it into *frames*: with the
default configuration one frame every 320 samples (20 ms), each seeing 400 samples (25 ms), so that frame ``t``
covers the samples ``[320 t, 320 t + 400)``. See `receptive_field` and `hop` for the general case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SAMPLE_RATE = 16_000
"""Samples a second of every waveform the model reads."""

Length = TypeVar("Length", int, Tensor)


def conv_length(length: Length, kernel: int, stride: int = 1, dilation: int = 1) -> Length:
    """Outputs of an unpadded 1-D convolution over ``length`` inputs, 0 where the kernel does not fit.

    ``floor((length - dilation * (kernel - 1) - 1) / stride) + 1``, as in `torch.nn.Conv1d`.
    """
    outputs = (length - dilation * (kernel - 1) - 1) // stride + 1
    return outputs.clamp(min=0) if isinstance(outputs, Tensor) else max(outputs, 0)


def stack_length(length: Length, kernels: Sequence[int], strides: Sequence[int]) -> Length:
    """Outputs of a stack of unpadded convolutions, `conv_length` applied in turn."""
    for kernel, stride in zip(kernels, strides, strict=True):
        length = conv_length(length, kernel, stride)
    return length


def hop(strides: Sequence[int]) -> int:
    """Samples from the start of one frame to the start of the next: the product of the strides."""
    samples = 1
    for stride in strides:
        samples *= stride
    return samples


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Samples that one frame sees: ``1 + sum_l (kernel_l - 1) * prod_{m < l} stride_m``."""
    return 1 + sum((kernel - 1) * hop(strides[:layer]) for layer, kernel in enumerate(kernels))


def frame_seconds(
    frames: int, kernels: Sequence[int], strides: Sequence[int], at: float = 0.5
) -> Float[Tensor, " frames"]:
    """Time of each frame in seconds: its start (``at=0``), centre (``0.5``) or end (``1``).

    With the default front end the centre of frame ``t`` is ``(320 t + 200) / 16000`` s. This is what the
    convolutions see; through attention every frame sees the whole utterance.
    """
    starts = torch.arange(frames, dtype=torch.float64) * hop(strides)
    return (starts + at * receptive_field(kernels, strides)) / SAMPLE_RATE


def frames_between(seconds: Float[Tensor, " frames"], start: float, end: float) -> slice:
    """The frames whose time lies in ``[start, end)``, as a slice; ``seconds`` rises, as from `frame_seconds`."""
    first, last = torch.searchsorted(seconds, torch.tensor([start, end], dtype=seconds.dtype)).tolist()
    return slice(first, last)


def valid_positions(lengths: Int[Tensor, " batch"], positions: int) -> Bool[Tensor, "batch positions"]:
    """True on the first ``lengths[i]`` of ``positions`` samples or frames, False on the padding behind."""
    return torch.arange(positions, device=lengths.device) < lengths[:, None]
