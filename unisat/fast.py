"""The fast ways: each gives the numbers of a plain formula within 1e-5 (on frames of speech), where it applies.

============================  =================================================  ====================================
fast way                      instead of                                         in
============================  =================================================  ====================================
`multiply_as_convolution`     a matrix product                                   `apply`
`convolve_as_image`           a convolution that changes its input's layout      `Conv1d`, the x-vector's TDNN
`encode_in_pieces`            whole signals between the convolutions             ``FeatureEncoder.forward``
`fold_the_norm`               a convolution, then a norm over time               ``ConvLayer.forward``
`feed_forward_in_place`       a new tensor for the activation                    ``FeedForward.forward``
`convolve_by_spectra`         a convolution with a wide kernel                   ``PositionalConvEmbedding.forward``
`attend_fused`                the attention pattern in memory                    ``Attention.attend``
`attend_in_place`             the scores beside the pattern in memory            ``Attention.attend``
`leave_padding_out`           the frames behind the shorter utterances           ``EncoderLayer.forward``
============================  =================================================  ====================================

A fast way takes the arguments of its formula. Modules come as ``Any``, because this file may not import theirs,
`unisat.model`. Where a fast way does not apply, it gives `NotImplemented`: inside `unisat.shortcuts.plain`, under
`torch.compile` (save `attend_fused`), and where a hook would see the difference.
"""

from __future__ import annotations

import platform
import weakref
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import NotImplementedType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from unisat.config import ACTIVATIONS
from unisat.frames import conv_length, hop, receptive_field, stack_length, valid_positions
from unisat.group_norm import MaskedGroupNorm
from unisat.modules import bit_sum
from unisat.precision import has_float64
from unisat.shortcuts import allowed, sooner, watched


def learns(*parts: Tensor | nn.Module | None) -> bool:
    """Whether a gradient will be asked of one of these tensors, or of a weight of one of these modules."""
    tensors = [weight for part in parts for weight in (part.parameters() if isinstance(part, nn.Module) else [part])]
    return torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in tensors)


# ---- products ----


@lru_cache(maxsize=1)
def mkl_is_slow() -> bool:
    """Whether torch multiplies matrices with MKL on a processor on which MKL does not use AVX-512.

    MKL does not use it on processors of AMD. There oneDNN, which comes with torch too, is twice as fast.
    """
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    try:
        maker = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        maker = platform.processor()
    return "AuthenticAMD" in maker and torch.backends.cpu.get_cpu_capability() == "AVX512"


LEAST = 20_480
"""With fewer values in a matrix oneDNN costs more than it saves; torch has the same limit for convolutions."""


def multiply_as_convolution(
    values: Float[Tensor, "*batch inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None = None,
) -> Float[Tensor, "*batch outputs"] | NotImplementedType:
    """Multiply matrices as a convolution of width 1.

    Torch gives convolutions to oneDNN, but products to MKL. This way applies in float32 on processors for which MKL
    has no fast kernels.
    """
    single = values.dtype == torch.float32 == weight.dtype and not torch.is_autocast_enabled("cpu")
    if not (single and values.device.type == "cpu" and values.numel() > LEAST and allowed() and mkl_is_slow()):
        return NotImplemented
    # an image as wide as there are rows, with the channels side by side in memory, so nothing is copied
    image = values.reshape(1, 1, -1, values.shape[-1]).permute(0, 3, 1, 2)
    # dilation does not change a kernel of width 1, but without it torch gives the work of a single thread to MKL
    out = F.conv2d(image, weight[:, :, None, None], bias, dilation=(1, 2))
    return out.permute(0, 2, 3, 1).reshape(*values.shape[:-1], len(weight))


@sooner(multiply_as_convolution)
def linear(
    values: Float[Tensor, "*batch inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None = None,
) -> Float[Tensor, "*batch outputs"]:
    """``values @ weight.T + bias``."""
    return F.linear(values, weight, bias)


Linear = nn.Linear
"""Models that were pickled whole find their layers under this name."""


def apply(layer: nn.Module, values: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
    """``layer(values)``; a plain `torch.nn.Linear` that nobody watches computes with `linear`.

    The layers are no subclass, because tools that exchange linear layers, such as dynamic quantization, ask for this
    very class.
    """
    if type(layer) is not nn.Linear or watched(layer):
        return layer(values)
    return linear(values, layer.weight, layer.bias)


# ---- convolutions ----


def convolve_as_image(
    signal: Float[Tensor, "batch inputs positions"],
    weight: Float[Tensor, "outputs inputs taps"],
    bias: Float[Tensor, " outputs"] | None = None,
    stride: int = 1,
    dilation: int = 1,
) -> Float[Tensor, "batch outputs frames"] | NotImplementedType:
    """Convolve one row of an image, which leaves the channels of a position side by side in memory.

    A norm over channels needs this layout. PyTorch's one-dimensional convolution copies the signal into (batch,
    channels, positions), and the norm copies it back. These copies take a third of a small model's training step.
    """
    if not allowed():
        return NotImplemented
    row = F.conv2d(signal.unsqueeze(2), weight.unsqueeze(2), bias, stride=(1, stride), dilation=(1, dilation))
    return row.squeeze(2)


@sooner(convolve_as_image)
def conv1d(
    signal: Float[Tensor, "batch inputs positions"],
    weight: Float[Tensor, "outputs inputs taps"],
    bias: Float[Tensor, " outputs"] | None = None,
    stride: int = 1,
    dilation: int = 1,
) -> Float[Tensor, "batch outputs frames"]:
    """Convolve, without padding."""
    return F.conv1d(signal, weight, bias, stride, dilation=dilation)


class Conv1d(nn.Conv1d):
    """`torch.nn.Conv1d` without padding that computes with `conv1d`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = True):
        super().__init__(in_channels, out_channels, kernel_size, stride, bias=bias)

    def forward(self, input: Float[Tensor, "batch inputs positions"]) -> Float[Tensor, "batch outputs frames"]:
        """Convolve."""
        return conv1d(input, self.weight, self.bias, self.stride[0])


# ---- activations ----


def in_place(activation: nn.Module, signal: Tensor) -> Tensor:
    """Apply an activation; a GELU without gradients overwrites ``signal``, which nobody else may hold."""
    is_gelu = isinstance(activation, nn.GELU) and activation.approximate == "none"
    if is_gelu and not signal.requires_grad and not watched(activation):
        # 10 s of speech are 65 MB behind the first convolution: a new tensor costs more than the function
        return torch.ops.aten.gelu_(signal)
    return activation(signal)


def feed_forward_in_place(
    layer: Any, hidden: Float[Tensor, "batch frames hidden"]
) -> Float[Tensor, "batch frames hidden"] | NotImplementedType:
    """Compute the feed-forward with an activation that overwrites its input."""
    wide = layer.intermediate_dense
    # another module in its place might return its own input, which we must not overwrite
    if not allowed() or watched(wide, layer.activation) or not isinstance(wide, nn.Linear):
        return NotImplemented
    inner = in_place(layer.activation, apply(wide, hidden))
    return layer.output_dropout(apply(layer.output_dense, layer.intermediate_dropout(inner)))


# ---- attention ----

SMALL_PATTERN = 4_000_000
"""So many attention weights, of all heads together, fit into a processor's caches."""
LEARNING_FRAMES = 1000
"""With more frames (20 s), fused attention is faster in training too; a pattern of 1500 takes 15 % more time."""


def pattern_is_cheap(queries: Float[Tensor, "batch heads frames head_dim"]) -> bool:
    """Whether to compute the whole pattern: on a CPU, torch's fused attention is slow in half precision."""
    batch, heads, frames, _ = queries.shape
    small = batch * heads * frames * frames <= SMALL_PATTERN
    if learns(queries):  # fused, the backward pass takes two to four times as long
        small = frames <= LEARNING_FRAMES
    half = queries.device.type == "cpu" and queries.dtype in (torch.bfloat16, torch.float16)
    return half and small and allowed()


Attended = tuple[
    Float[Tensor, "batch heads frames head_dim"],  # what each query reads
    Float[Tensor, "batch heads frames frames"] | None,  # the pattern, if asked for
]


def attend_fused(
    attention: Any,
    q: Float[Tensor, "batch heads frames head_dim"],
    k: Float[Tensor, "batch heads frames head_dim"],
    v: Float[Tensor, "batch heads frames head_dim"],
    valid: Bool[Tensor, "batch frames"] | None,
    output_attentions: bool,
    bias: Float[Tensor, "*batch frames frames"] | None = None,
) -> Attended | NotImplementedType:
    """Attend with torch's fused attention, which keeps no pattern in memory, if nobody wants to see the pattern.

    Compiled code uses it too.
    """
    softmax, dropout = attention.softmax, attention.dropout
    if not allowed(compiled=True) or output_attentions or watched(softmax, dropout) or pattern_is_cheap(q):
        return NotImplemented
    if not isinstance(softmax, nn.Softmax) or not isinstance(dropout, nn.Dropout):
        return NotImplemented
    keys = None if valid is None else valid[:, None, None, :]
    if bias is not None and keys is not None:
        # a bias was made for this layer alone, and in a batch is as large as the pattern: written in place if unseen
        unseen = not torch.is_grad_enabled() and not watched(*attention.children())
        fill = bias.masked_fill_ if unseen else bias.masked_fill
        keys = fill(~keys, torch.finfo(bias.dtype).min)
    elif bias is not None:
        keys = bias
    probability = dropout.p if attention.training else 0.0
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keys, dropout_p=probability), None


def attend_in_place(
    attention: Any,
    q: Float[Tensor, "batch heads frames head_dim"],
    k: Float[Tensor, "batch heads frames head_dim"],
    v: Float[Tensor, "batch heads frames head_dim"],
    valid: Bool[Tensor, "batch frames"] | None,
    output_attentions: bool,
    bias: Float[Tensor, "*batch frames frames"] | None = None,
) -> Attended | NotImplementedType:
    """Attend with a pattern that overwrites the scores, which nobody else needs, where no gradient does."""
    softmax = attention.softmax
    if not allowed() or learns(q, k, v, bias) or watched(softmax) or not isinstance(softmax, nn.Softmax):
        return NotImplemented
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        scores += bias
    if valid is not None:
        scores.masked_fill_(~valid[:, None, None, :], torch.finfo(scores.dtype).min)
    pattern = torch.softmax(scores, -1, out=scores)
    return attention.dropout(pattern) @ v, pattern if output_attentions else None


# ---- padding ----

PER_UTTERANCE, SHARE = 20, 0.1
"""Leaving padding out costs what so many frames of each utterance do, and this share of all frames."""
PER_FRAME = (nn.LayerNorm, nn.Linear, nn.Dropout, *{type(make()) for make in ACTIVATIONS.values()})
"""What computes each frame by itself, whatever lies beside it."""


def attention_alone_mixes(layer: Any) -> bool:
    """Whether a layer computes each frame by itself outside its attention, and nobody watches inside."""
    attention = set(layer.attention.modules())
    others = [type(module) for module in layer.modules() if module not in attention]
    if not all(kind in PER_FRAME or kind.__module__.startswith("unisat.") for kind in others):
        return False
    return not watched(*(module for module in layer.modules() if module is not layer))


def leave_padding_out(
    layer: Any,
    hidden: Float[Tensor, "batch frames hidden"],
    valid: Bool[Tensor, "batch frames"] | None = None,
    output_attentions: bool = False,
    bias: Float[Tensor, "heads frames frames"] | None = None,
) -> tuple[Float[Tensor, "batch frames hidden"], None] | NotImplementedType:
    """Compute a layer on the valid frames of all utterances in one row, in which each utterance attends by itself.

    Padding passes through as it is; what the formula makes of it means nothing either. This applies on a CPU (a GPU
    would be waited for), and with ``padding="exact"``: the reference's numbers are those on padding too. In training,
    dropout draws for the valid frames alone, so it draws other numbers than the formula.
    """
    if not allowed() or valid is None or output_attentions:
        return NotImplemented
    config = getattr(layer, "config", None)  # which layers that an earlier version pickled whole lack
    exact = config is not None and config.padding == "exact"
    if hidden.device.type != "cpu" or not exact or not attention_alone_mixes(layer):
        return NotImplemented
    lengths = valid.sum(1).tolist()
    if valid.numel() - sum(lengths) <= PER_UTTERANCE * len(lengths) + SHARE * valid.numel():
        return NotImplemented
    places = valid.flatten().nonzero()[:, 0]
    row = hidden.flatten(0, 1).index_select(0, places)[None]  # (1, valid frames of all, hidden)
    to_attend = layer.layer_norm(row) if layer.norm_first else row
    attended = []
    for frames, utterance in zip(lengths, to_attend.split(lengths, 1), strict=True):
        own = None if bias is None else bias[:, :frames, :frames]  # it is about distances only
        attended.append(layer.attention(utterance, None, False, own)[0])
    row = layer.add(row, torch.cat(attended, 1))
    return hidden.to(row).flatten(0, 1).index_copy(0, places, row[0]).view_as(hidden), None


# ---- the first convolution and its norm over time ----


@dataclass(frozen=True, eq=False)
class Folded:
    """A convolution of one channel and the norm behind it as one convolution, for each utterance of a batch.

    Attributes
    ----------
    kernel : (batch, taps, channels)
    bias : (batch, 1, channels)
    offset : (batch, 1)
        It is subtracted from the waveform first; the bias makes up for it.
    stride : int
        Samples from one frame to the next.
    """

    kernel: Float[Tensor, "batch taps channels"]
    bias: Float[Tensor, "batch 1 channels"]
    offset: Float[Tensor, "batch 1"]
    stride: int

    def __call__(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch channels frames"]:
        """Convolve; where nothing learns, a frame's channels come out side by side in memory.

        This layout speeds up the forward pass of the next convolution; the other one speeds up its backward pass.
        """
        seen = (waveform - self.offset).unfold(1, self.kernel.shape[1], self.stride)  # (batch, frames, taps)
        if learns(self.kernel, self.bias, waveform):
            return torch.baddbmm(self.bias.transpose(1, 2), self.kernel.transpose(1, 2), seen.transpose(1, 2))
        return torch.baddbmm(self.bias, seen, self.kernel).transpose(1, 2)

    def take(self, utterances: Bool[Tensor, " batch"] | slice) -> Folded:
        """Give the same for some utterances of the batch."""
        return Folded(self.kernel[utterances], self.bias[utterances], self.offset[utterances], self.stride)


def fold_group_norm(
    waveform: Float[Tensor, "batch samples"], conv: nn.Conv1d, norm: nn.GroupNorm, lengths: Int[Tensor, " batch"] | None
) -> Folded:
    """Fold a norm over time into the kernel of the convolution in front of it.

    A channel is ``k · x_t`` for the samples ``x_t`` under the kernel ``k``. So its mean is ``k · mean(x)`` and its
    variance is ``k' cov(x) k``. The covariance has 10 by 10 numbers, and the 512 channels need not be computed for it.
    All this is in float64, because a kernel that lets little of a loud signal through gives small differences of large
    numbers. A bias of the convolution drops out.

    Parameters
    ----------
    lengths : (batch,), optional
        Frames behind the convolution that count; None means all.
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
    # a constant offset vanishes in the norm but costs digits; in half precision, subtracting it would cost more
    offset = mean.mean(-1) if waveform.dtype == torch.float32 else torch.zeros_like(mean[..., 0])
    offset = offset.detach().to(waveform)
    bias = norm.bias.double() - ((mean - offset[..., None]) @ kernel.T)[:, 0] * scale
    scaled = kernel.T * scale[:, None]  # (batch, taps, channels)
    return Folded(scaled.to(waveform), bias[:, None].to(waveform), offset, stride)


def can_be_folded(layer: Any, waveform: Float[Tensor, "batch positions"]) -> bool:
    """Whether a front-end layer has a norm over time, and nobody looks between its convolution and the norm."""
    conv, norm = layer.conv, layer.layer_norm
    if not isinstance(conv, nn.Conv1d) or not isinstance(norm, MaskedGroupNorm) or waveform.dtype == torch.float64:
        return False
    # a bias drops out, so it would get no gradient
    return allowed() and not watched(conv, norm) and not learns(conv.bias) and has_float64(waveform.device)


def fold_the_norm(
    layer: Any, signal: Float[Tensor, "batch inputs positions"], lengths: Int[Tensor, " batch"] | None
) -> Float[Tensor, "batch channels frames"] | NotImplementedType:
    """Compute a convolution of the waveform and the norm behind it at once, then the activation."""
    waveform = signal[:, 0]
    if not can_be_folded(layer, waveform):
        return NotImplemented
    both = fold_group_norm(waveform, layer.conv, layer.layer_norm, lengths)
    return in_place(layer.activation, both(waveform))


# ---- the front end ----

PIECE, LEAST_PIECE = 100, 16
"""The convolutions compute so many frames of all utterances at once, and at least so many of each."""


def encode_in_pieces(
    encoder: Any, waveform: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, "batch channels frames"] | NotImplementedType:
    """Encode some frames at a time, so that the wide signals between the layers stay in the processor's caches.

    The result is the same, because each piece has all the samples that its frames see, and the norm over time is
    folded into the first kernel beforehand. Frames of padding are 0. This applies where no gradient is asked of the
    waveform or the weights (a frozen front end too), not in float64.
    """
    if not allowed() or learns(waveform, encoder) or waveform.dtype == torch.float64:
        return NotImplemented
    if watched(*encoder.conv_layers.modules()):
        return NotImplemented
    first, *rest = encoder.conv_layers
    opening: Folded | None = None
    if can_be_folded(first, waveform):
        within = None if lengths is None else conv_length(lengths, encoder.kernels[0], encoder.strides[0])
        opening = fold_group_norm(waveform, first.conv, first.layer_norm, within)
    elif isinstance(first.layer_norm, MaskedGroupNorm):
        return NotImplemented
    step, field = hop(encoder.strides), receptive_field(encoder.kernels, encoder.strides)
    ends = None if lengths is None else stack_length(lengths, encoder.kernels, encoder.strides)
    frames = stack_length(waveform.shape[1], encoder.kernels, encoder.strides)
    piece = max(LEAST_PIECE, (PIECE if waveform.device.type == "cpu" else 100 * PIECE) // len(waveform))
    features: Tensor | None = None
    for start in range(0, frames, piece):
        stop = min(start + piece, frames)
        rows = slice(None) if ends is None else ends > start
        samples = waveform[rows, start * step : (stop - 1) * step + field]
        if opening is None:
            signal = first(samples[:, None], None)
        else:
            signal = in_place(first.activation, opening.take(rows)(samples))
        for layer in rest:
            signal = layer(signal, None)
        if features is None:  # autocasting may have changed the precision
            features = signal.new_zeros(len(waveform), frames, signal.shape[1])
        features[rows, start:stop] = signal.transpose(1, 2)
    assert features is not None
    if ends is not None:
        features.masked_fill_(~valid_positions(ends, frames)[..., None], 0)
    return features.transpose(1, 2)


# ---- the positional convolution ----

WINDOW = 256
"""`shifted_products` transforms so many frames at once."""


def spectrum(
    weight: Float[Tensor, "channels inputs taps"], groups: int
) -> Complex[Tensor, "frequencies groups inputs out"]:
    """Conjugate spectrum of a grouped kernel, by which `shifted_products` multiplies."""
    frequencies = torch.fft.rfft(weight.float(), n=WINDOW).conj()
    return frequencies.unflatten(0, (groups, -1)).permute(3, 0, 2, 1).resolve_conj().contiguous()


def shifted_products(
    signal: Float[Tensor, "batch frames channels"],
    kernel: Complex[Tensor, "frequencies groups inputs out"],
    taps: int,
    padding: int,
) -> Float[Tensor, "batch frames channels"]:
    """Compute a grouped convolution over time, padded with zeros, from spectra (overlap-save, in float32).

    Of `WINDOW` transformed frames the last ``taps - 1`` wrap around and are dropped, so windows overlap by that many.
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
    # where a kernel sees only zeros (padding), a rounding error would replace 0, and a later layer norm magnify it
    seen_any = F.max_pool1d(signal.abs().amax(-1)[:, None], taps, stride=1, padding=padding)[:, 0, :frames] > 0
    return out.masked_fill(~seen_any[..., None], 0).to(signal.dtype)


class _Kept(NamedTuple):
    key: tuple[object, ...]
    kernel: Tensor


_SPECTRA: weakref.WeakKeyDictionary[nn.Module, _Kept] = weakref.WeakKeyDictionary()


def kept_spectrum(conv: nn.Conv1d) -> Complex[Tensor, "frequencies groups inputs out"] | None:
    """The `spectrum` of a convolution with weight norm; it is computed again when the weights have changed.

    It is None if a change could go unnoticed. Torch counts changes in place, but not those through ``.data``; a sum
    over all bits notices these.
    """
    originals = [weight for name, weight in conv.named_parameters() if name != "bias"]
    if not originals or any(weight.is_inference() for weight in originals):
        return None
    places = [(weight.data_ptr(), weight._version, weight.dtype) for weight in originals]
    key = (*places, *(bit_sum(weight) for weight in originals))
    kept = _SPECTRA.get(conv)
    if kept is None or kept.key != key:
        with torch.no_grad():
            _SPECTRA[conv] = kept = _Kept(key, spectrum(conv.weight, conv.groups))
    return kept.kernel


def convolve_by_spectra(
    embedding: Any, hidden: Float[Tensor, "batch frames hidden"], valid: Bool[Tensor, "batch frames"] | None = None
) -> Float[Tensor, "batch frames hidden"] | NotImplementedType:
    """Compute the positional convolution from spectra: on a CPU, where nothing learns, and not in float64."""
    conv = embedding.conv
    if not isinstance(embedding.conv, nn.Conv1d) or watched(*conv.modules()):
        return NotImplemented
    if not allowed() or learns(hidden, embedding):
        return NotImplemented
    if hidden.device.type != "cpu" or hidden.dtype == torch.float64 or conv.kernel_size[0] > WINDOW // 2:
        return NotImplemented
    kernel = kept_spectrum(conv)
    if kernel is None:
        return NotImplemented
    positions = shifted_products(hidden, kernel, conv.kernel_size[0], conv.padding[0]) + conv.bias
    return in_place(embedding.activation, positions)
