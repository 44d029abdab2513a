"""The same numbers, sooner: other ways through the arithmetic of `unisat.model`, each checked against the plain one.

- `linear`: on processors for which MKL has no fast kernels, a matrix product is asked of oneDNN.
- `pattern_is_cheap`: in half precision, a short utterance attends through plain products.
- `fold_group_norm`: the norm behind the first convolution becomes a scale and an offset of its kernel.
- `shifted_products`: a convolution with a wide kernel is a product of spectra.

None is taken where a hook watches a module on the way, nor inside `plain`. docs/performance.md has what each brings.
"""

from __future__ import annotations

import platform
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from unisat.frames import valid_positions
from unisat.modules import bit_sum

_PLAIN: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plain() -> Iterator[None]:
    """Inside this scope models compute step by step as the formulas are written, without shortcuts."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def allowed() -> bool:
    """Whether shortcuts may be taken here: not inside `plain`, nor in what `torch.compile` looks at."""
    return not torch.compiler.is_compiling() and not _PLAIN.get()


def watched(module: nn.Module) -> bool:
    """Whether somebody hangs a hook on this module."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


@lru_cache(maxsize=1)
def mkl_is_slow() -> bool:
    """Whether torch multiplies matrices with MKL on a processor for which MKL leaves AVX-512 alone.

    On those of AMD it does, and oneDNN, which torch brings too, is twice as fast.
    """
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    try:
        maker = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        maker = platform.processor()
    return "AuthenticAMD" in maker and torch.backends.cpu.get_cpu_capability() == "AVX512"


LEAST = 20_480
"""Values in a matrix below which oneDNN costs more than it saves (torch has the same limit for convolutions)."""


def linear(
    values: Float[Tensor, "*batch inputs"], weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"]
) -> Float[Tensor, "*batch outputs"]:
    """``values @ weight.T + bias``, as a convolution of width 1 where that is faster."""
    single = values.dtype == torch.float32 == weight.dtype and not torch.is_autocast_enabled("cpu")
    if not (single and values.device.type == "cpu" and values.numel() > LEAST and allowed() and mkl_is_slow()):
        return F.linear(values, weight, bias)
    # one image, as wide as there are rows, whose channels lie side by side in memory: nothing is copied
    image = values.reshape(1, 1, -1, values.shape[-1]).permute(0, 3, 1, 2)
    # a dilation means nothing to a kernel of width 1, but without it torch gives a single thread's work to MKL
    out = F.conv2d(image, weight[:, :, None, None], bias, dilation=(1, 2))
    return out.permute(0, 2, 3, 1).reshape(*values.shape[:-1], len(weight))


class Linear(nn.Linear):
    """`torch.nn.Linear` through `linear`."""

    def forward(self, input: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Multiply."""
        return linear(input, self.weight, self.bias)


SMALL_PATTERN = 4_000_000
"""Weights of all heads that fit into a processor's caches."""


def pattern_is_cheap(queries: Float[Tensor, "batch heads frames head_dim"]) -> bool:
    """Whether to attend by way of the whole pattern: of half precision, torch's fused attention is slow on a CPU."""
    batch, heads, frames, _ = queries.shape
    half = queries.device.type == "cpu" and queries.dtype in (torch.bfloat16, torch.float16)
    return half and batch * heads * frames * frames <= SMALL_PATTERN and not torch.is_grad_enabled() and allowed()


class Folded(NamedTuple):
    """A convolution of one channel with the norm behind it, for each utterance of a batch."""

    kernel: Float[Tensor, "batch taps channels"]
    bias: Float[Tensor, "batch 1 channels"]
    offset: Float[Tensor, "batch 1"]
    """What is taken off the waveform first: the bias makes up for it."""
    stride: int

    def __call__(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch channels frames"]:
        """Convolve; without gradients so that a frame's channels lie side by side in memory.

        Of the next convolution, the forward pass is faster so, the backward pass otherwise.
        """
        seen = (waveform - self.offset).unfold(1, self.kernel.shape[1], self.stride)  # (batch, frames, taps)
        if torch.is_grad_enabled():
            return torch.baddbmm(self.bias.transpose(1, 2), self.kernel.transpose(1, 2), seen.transpose(1, 2))
        return torch.baddbmm(self.bias, seen, self.kernel).transpose(1, 2)

    def __getitem__(self, utterances: Tensor | slice) -> Folded:  # type: ignore[override]
        """The same for some utterances."""
        return Folded(self.kernel[utterances], self.bias[utterances], self.offset[utterances], self.stride)


def fold_group_norm(
    waveform: Float[Tensor, "batch samples"], conv: nn.Conv1d, norm: nn.GroupNorm, lengths: Int[Tensor, " batch"] | None
) -> Folded:
    """Put the mean and variance over time of what ``conv`` will give into its kernel.

    A channel is ``k · x_t`` for the samples ``x_t`` under the kernel, so its mean is ``k · mean(x)`` and its variance
    ``k' cov(x) k``, with a covariance of 10 by 10 numbers: the 512 channels need not be looked at. In float64, since a
    kernel that lets little of a loud signal through is a small difference of large numbers. A bias of the convolution
    drops out.

    Parameters
    ----------
    lengths : (batch,), optional
        Frames behind the convolution that count; None for all.
    """
    taps, stride = conv.kernel_size[0], conv.stride[0]
    frames = waveform.double().unfold(1, taps, stride)  # (batch, frames, taps)
    count: int | Tensor
    if lengths is None:
        mean = frames.mean(1, keepdim=True)  # (batch, 1, taps)
        centred, count = frames - mean, frames.shape[1]
    else:
        valid, count = valid_positions(lengths, frames.shape[1])[..., None], lengths[:, None, None]
        mean = frames.masked_fill(~valid, 0).sum(1, keepdim=True) / count
        centred = (frames - mean).masked_fill(~valid, 0)
    covariance = centred.transpose(1, 2) @ centred / count
    kernel = conv.weight.double()[:, 0]  # (channels, taps)
    variance = ((kernel @ covariance) * kernel).sum(-1).clamp(min=0)  # (batch, channels)
    scale = norm.weight.double() * (variance + norm.eps).rsqrt()
    # a constant under the waveform costs digits, and vanishes in the norm; half precision has none to spare for this
    offset = mean.mean(-1) if waveform.dtype == torch.float32 else torch.zeros_like(mean[..., 0])
    offset = offset.detach().to(waveform)
    bias = norm.bias.double() - ((mean - offset[..., None]) @ kernel.T)[:, 0] * scale
    scaled = kernel.T * scale[:, None]  # (batch, taps, channels)
    return Folded(scaled.to(waveform), bias[:, None].to(waveform), offset, stride)


WINDOW = 256
"""Frames that `shifted_products` transforms at once."""


def spectrum(
    weight: Float[Tensor, "channels inputs taps"], groups: int
) -> Complex[Tensor, "frequencies groups inputs out"]:
    """What `shifted_products` multiplies by: the conjugate spectrum of a grouped kernel."""
    frequencies = torch.fft.rfft(weight.float(), n=WINDOW).conj()
    return frequencies.unflatten(0, (groups, -1)).permute(3, 0, 2, 1).resolve_conj().contiguous()


def shifted_products(
    signal: Float[Tensor, "batch frames channels"],
    kernel: Complex[Tensor, "frequencies groups inputs out"],
    taps: int,
    padding: int,
) -> Float[Tensor, "batch frames channels"]:
    """A grouped convolution over time, padded with zeros, by way of spectra (overlap-save, in float32).

    Out of `WINDOW` transformed frames the last ``taps - 1`` wrap around and are dropped; the windows overlap by those.
    A kernel of 128 taps on 48 channels is too narrow for matrix units and too wide for direct convolution.
    """
    frames, step = signal.shape[1], WINDOW - taps + 1
    windows = -(-frames // step)
    padded = F.pad(signal.float().transpose(1, 2), (padding, (windows - 1) * step + WINDOW - padding - frames))
    seen = torch.fft.rfft(padded.unfold(2, WINDOW, step))  # (batch, channels, windows, frequencies)
    rows = seen.unflatten(1, (kernel.shape[1], -1)).permute(4, 1, 0, 3, 2)  # (frequencies, groups, batch, windows, in)
    products = rows.flatten(2, 3) @ kernel
    products = products.unflatten(2, rows.shape[2:4]).permute(2, 3, 1, 4, 0).flatten(2, 3)
    out = torch.fft.irfft(products, n=WINDOW)[..., :step]  # (batch, windows, channels, step)
    out = out.transpose(2, 3).flatten(1, 2)[:, :frames]
    # where a kernel sees zeros alone (padding), rounding would stand in for 0, and a layer norm behind make it large
    seen_any = F.max_pool1d(signal.abs().amax(-1)[:, None], taps, stride=1, padding=padding)[:, 0, :frames] > 0
    return out.masked_fill(~seen_any[..., None], 0).to(signal.dtype)


class _Kept(NamedTuple):
    key: tuple[object, ...]
    kernel: Tensor


_SPECTRA: weakref.WeakKeyDictionary[nn.Module, _Kept] = weakref.WeakKeyDictionary()


def kept_spectrum(conv: nn.Conv1d) -> Complex[Tensor, "frequencies groups inputs out"] | None:
    """The `spectrum` of a convolution with weight norm, computed again when its weights have changed.

    None where changes cannot be told. In-place changes are told by torch's own count of them; those through ``.data``,
    which it does not count, by a sum over all bits.
    """
    originals = list(conv.parametrizations["weight"].parameters())  # type: ignore[index,union-attr]
    if any(weight.is_inference() for weight in originals):
        return None
    places = [(weight.data_ptr(), weight._version, weight.dtype) for weight in originals]
    key = (*places, *(bit_sum(weight) for weight in originals))
    kept = _SPECTRA.get(conv)
    if kept is None or kept.key != key:
        with torch.no_grad():
            _SPECTRA[conv] = kept = _Kept(key, spectrum(conv.weight, conv.groups))
    return kept.kernel
