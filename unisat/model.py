"""The UniSpeech-SAT backbone, from the waveform to the hidden states of every layer, in reading order.

waveform (batch, samples)
  └ FeatureEncoder       7 convolutions: one frame every 320 samples    (batch, channels, frames)
  └ FeatureProjection    layer norm, linear                             (batch, frames, hidden)
  └ SpecAugment          hides spans of frames (`unisat.masking`)       (batch, frames, hidden)
  └ Encoder              positional convolution, N × EncoderLayer       (batch, frames, hidden)

The mathematics and the parameter names are those of ``transformers`` 4.37.2 (``models/unispeech_sat``), so its
checkpoints load as they are. Whatever is worth watching enters or leaves a named submodule, where an ordinary
PyTorch hook sees it: `unisat.interpret.sites` has the table.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from unisat import shortcuts
from unisat.config import ACTIVATIONS, UniSpeechSatConfig
from unisat.frames import conv_length, hop, receptive_field, stack_length, valid_positions
from unisat.group_norm import MaskedGroupNorm
from unisat.inputs import check_mask, check_waveforms
from unisat.masking import SpecAugment
from unisat.outputs import Wav2Vec2BaseModelOutput
from unisat.pretrained import UniSpeechSatPreTrainedModel
from unisat.shortcuts import Folded, Linear, watched


def activate(activation: nn.Module, signal: Tensor, *makers: nn.Module) -> Tensor:
    """Apply an activation; in place where nobody can tell: no gradient, no hook on it or on what fed it."""
    is_gelu = isinstance(activation, nn.GELU) and activation.approximate == "none"
    if is_gelu and not signal.requires_grad and not any(map(watched, (activation, *makers))):
        # 65 MB behind the first convolution for 10 s of speech: a new tensor costs more than the function
        return torch.ops.aten.gelu_(signal)
    return activation(signal)


PIECE, LEAST_PIECE = 100, 16
"""Frames of all utterances together, and of each, that the convolutions compute at once without gradients."""


class ChannelsLastConv1d(nn.Conv1d):
    """A convolution that keeps its input's memory layout: what a norm over channels leaves, (batch, frames, channels).

    PyTorch's one-dimensional convolution copies such a signal into (batch, channels, frames) and the norm copies it
    back; its two-dimensional one takes it as it is. A third of a training step of a small model goes into these copies.
    """

    def forward(self, signal: Float[Tensor, "batch channels_in positions"]) -> Float[Tensor, "batch channels frames"]:
        """Convolve."""
        plane = F.conv2d(signal.unsqueeze(2), self.weight.unsqueeze(2), self.bias, stride=(1, self.stride[0]))
        return plane.squeeze(2)


class ConvLayer(nn.Module):
    """One convolution of the front end: conv → norm (none, over time, or over channels) → activation."""

    def __init__(self, config: UniSpeechSatConfig, layer: int):
        super().__init__()
        channels_in = config.conv_dim[layer - 1] if layer else 1
        channels = config.conv_dim[layer]
        kernel, stride = config.conv_kernel[layer], config.conv_stride[layer]
        self.conv = ChannelsLastConv1d(channels_in, channels, kernel, stride, bias=config.conv_bias)
        # the norms of the front end have torch's own eps in the reference, not config.layer_norm_eps
        self.layer_norm: nn.Module | None = None
        if config.feat_extract_norm == "layer":
            self.layer_norm = nn.LayerNorm(channels)
        elif layer == 0:
            self.layer_norm = MaskedGroupNorm(channels, channels)
        self.activation = ACTIVATIONS[config.feat_extract_activation]()

    def fold(self, waveform: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"] | None) -> Folded | None:
        """The norm over time folded into the kernel, where there is one and nobody looks between the two."""
        norm, conv = self.layer_norm, self.conv
        if not isinstance(norm, MaskedGroupNorm) or not shortcuts.allowed() or watched(conv) or watched(norm):
            return None
        if waveform.dtype == torch.float64 or (conv.bias is not None and torch.is_grad_enabled()):
            return None
        return shortcuts.fold_group_norm(waveform, conv, norm, lengths)

    def forward(
        self,
        signal: Float[Tensor, "batch channels_in positions"],
        lengths: Int[Tensor, " batch"] | None,
        folded: Folded | None = None,
    ) -> Float[Tensor, "batch channels frames"]:
        """Convolve; ``lengths`` are valid outputs of each utterance, None for all."""
        folded = folded or self.fold(signal[:, 0], lengths)
        if folded is not None:
            return activate(self.activation, folded(signal[:, 0]))
        signal = self.conv(signal)
        if isinstance(self.layer_norm, MaskedGroupNorm):
            signal = self.layer_norm(signal, lengths)
        elif self.layer_norm is not None:
            signal = self.layer_norm(signal.transpose(1, 2)).transpose(1, 2)
        return activate(self.activation, signal, *filter(None, (self.conv, self.layer_norm)))


class FeatureEncoder(nn.Module):
    """The convolutional front end: 16,000 samples a second become 50 frames a second."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        self.kernels, self.strides = config.conv_kernel, config.conv_stride
        self.conv_layers = nn.ModuleList(ConvLayer(config, layer) for layer in range(len(config.conv_dim)))
        self.gradient_checkpointing = False

    def forward(
        self, waveform: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channels frames"]:
        """Encode; ``lengths`` (in samples) keeps the padding out of the group norm's statistics."""
        if self.is_quick(waveform):
            return self.in_pieces(waveform, lengths)
        signal = waveform[:, None]  # (batch, 1, samples)
        learns = next(self.parameters()).requires_grad
        for layer, kernel, stride in zip(self.conv_layers, self.kernels, self.strides, strict=True):
            if lengths is not None:
                lengths = conv_length(lengths, kernel, stride)
            if self.gradient_checkpointing and self.training and learns:
                signal = checkpoint(layer, signal, lengths, use_reentrant=False)
            else:
                signal = layer(signal, lengths)
        return signal

    def is_quick(self, waveform: Tensor) -> bool:
        """Whether to encode in pieces: without gradients, with nobody watching (and not in float64)."""
        quick = shortcuts.allowed() and not torch.is_grad_enabled() and waveform.dtype != torch.float64
        return quick and not any(map(watched, self.conv_layers.modules()))

    def in_pieces(
        self, waveform: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch channels frames"]:
        """Encode some frames at a time, so that the wide signals between the layers stay in the processor's caches.

        Nothing is cut: each piece has all the samples that its frames see, and the norm over time is folded into the
        first kernel beforehand. Frames of padding are left out, and stay 0.
        """
        layers: list[Any] = list(self.conv_layers)
        first, *rest = layers
        step, field = hop(self.strides), receptive_field(self.kernels, self.strides)
        within = None if lengths is None else conv_length(lengths, self.kernels[0], self.strides[0])
        folded = first.fold(waveform, within)
        ends = None if lengths is None else stack_length(lengths, self.kernels, self.strides)
        frames = stack_length(waveform.shape[1], self.kernels, self.strides)
        features: Tensor | None = None
        piece = max(LEAST_PIECE, (PIECE if waveform.device.type == "cpu" else 100 * PIECE) // len(waveform))
        for start in range(0, frames, piece):
            stop = min(start + piece, frames)
            rows = slice(None) if ends is None else ends > start
            signal = waveform[rows, start * step : (stop - 1) * step + field][:, None]
            signal = first(signal, None, folded and folded[rows])
            for layer in rest:
                signal = layer(signal, None)
            if features is None:  # autocasting may have changed the precision
                features = signal.new_zeros(len(waveform), frames, signal.shape[1])
            features[rows, start:stop] = signal.transpose(1, 2)
        assert features is not None
        return features.transpose(1, 2)


class FeatureProjection(nn.Module):
    """Layer norm over channels, then a linear map to the width of the transformer."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = Linear(config.conv_dim[-1], config.hidden_size)
        self.dropout = nn.Dropout(config.feat_proj_dropout)

    def init_own_weights(self) -> None:
        """Uniform within ``1 / sqrt(channels)``, as torch's own linear layers."""
        bound = 1 / math.sqrt(self.projection.in_features)
        nn.init.uniform_(self.projection.weight, -bound, bound)
        nn.init.uniform_(self.projection.bias, -bound, bound)

    def forward(
        self, features: Float[Tensor, "batch frames channels"]
    ) -> tuple[Float[Tensor, "batch frames hidden"], Float[Tensor, "batch frames channels"]]:
        """Give the projected features and the normed ones (`extract_features` of the output)."""
        extract_features = self.layer_norm(features)
        return self.dropout(self.projection(extract_features)), extract_features


class PositionalConvEmbedding(nn.Module):
    """Where a frame is, from a wide grouped convolution over its neighbours."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        width, kernel = config.hidden_size, config.num_conv_pos_embeddings
        groups = config.num_conv_pos_embedding_groups
        conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups)
        # one norm for each tap of the kernel; the keys of the checkpoint depend on this function
        self.conv = parametrizations.weight_norm(conv, dim=2)
        self.activation = ACTIVATIONS[config.feat_extract_activation]()

    def init_own_weights(self) -> None:
        """Normal, std ``2 / sqrt(kernel * hidden_size)``, as fairseq; the reference's own attempt has no effect."""
        std = 2 / math.sqrt(self.conv.kernel_size[0] * self.conv.in_channels)
        # assigned, not written in place: the weight is computed from its norm and direction
        self.conv.weight = torch.empty_like(self.conv.weight).normal_(std=std)
        nn.init.zeros_(self.conv.bias)

    def is_quick(self, hidden: Tensor) -> bool:
        """Whether to convolve by way of spectra: on a CPU, without gradients, with nobody watching."""
        quick = shortcuts.allowed() and not torch.is_grad_enabled() and hidden.device.type == "cpu"
        narrow = self.conv.kernel_size[0] <= shortcuts.WINDOW // 2
        return quick and narrow and hidden.dtype != torch.float64 and not watched(self.conv)

    def forward(self, hidden: Float[Tensor, "batch frames hidden"]) -> Float[Tensor, "batch frames hidden"]:
        """Give what is to be added to each frame."""
        taps, padding = self.conv.kernel_size[0], self.conv.padding[0]
        if self.is_quick(hidden) and (kernel := shortcuts.kept_spectrum(self.conv)) is not None:
            positions = shortcuts.shifted_products(hidden, kernel, taps, padding) + self.conv.bias
            return activate(self.activation, positions)
        # an even kernel, padded by half on both sides, gives one frame too many
        positions = self.conv(hidden.transpose(1, 2))[..., : hidden.shape[1]]
        return self.activation(positions).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention, fused; explicit where somebody wants to see the scores or the pattern."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.q_proj = Linear(width, width)
        self.softmax = nn.Softmax(dim=-1)
        self.dropout = nn.Dropout(config.attention_dropout)
        self.out_proj = Linear(width, width)

    def forward(
        self,
        hidden: Float[Tensor, "batch frames hidden"],
        valid: Bool[Tensor, "batch frames"] | None = None,
        output_attentions: bool = False,
    ) -> tuple[Float[Tensor, "batch frames hidden"], Float[Tensor, "batch heads frames frames"] | None]:
        """Give the attended frames and, if asked for, the attention weights before dropout."""
        # (batch, frames, hidden) -> (batch, heads, frames, head_dim)
        q = self.q_proj(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k = self.k_proj(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        v = self.v_proj(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        keys = None if valid is None else valid[:, None, None, :]  # True on the keys one may look at
        pattern = None
        seen = output_attentions or watched(self.softmax) or watched(self.dropout)
        if seen or shortcuts.pattern_is_cheap(q):
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (batch, heads, queries, keys)
            if keys is not None:
                scores = scores.masked_fill(~keys, torch.finfo(scores.dtype).min)
            if scores.requires_grad or watched(self.softmax) or not shortcuts.allowed():
                pattern = self.softmax(scores)
            else:  # in the memory of the scores, which nobody asks for
                pattern = torch.softmax(scores, -1, out=scores)
            z = self.dropout(pattern) @ v
        else:
            dropout = self.dropout.p if self.training else 0.0
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=keys, dropout_p=dropout)
        return self.out_proj(z.transpose(1, 2).flatten(2)), pattern if output_attentions else None


class FeedForward(nn.Module):
    """Two linear maps with an activation between them, on each frame alone."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        self.intermediate_dense = Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]()
        self.intermediate_dropout = nn.Dropout(config.activation_dropout)
        self.output_dense = Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden: Float[Tensor, "batch frames hidden"]) -> Float[Tensor, "batch frames hidden"]:
        """Give what is to be added to each frame."""
        inner = activate(self.activation, self.intermediate_dense(hidden), self.intermediate_dense)
        return self.output_dropout(self.output_dense(self.intermediate_dropout(inner)))


class AttentionAdapter(nn.Module):
    """A narrow residual branch behind the feed-forward: the part of a layer that belongs to one language."""

    def __init__(self, hidden_size: int, adapter_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.linear_1 = Linear(hidden_size, adapter_dim)
        self.act_fn = nn.ReLU()
        self.linear_2 = Linear(adapter_dim, hidden_size)

    def forward(self, hidden: Float[Tensor, "batch frames hidden"]) -> Float[Tensor, "batch frames hidden"]:
        """Give what is to be added to each frame."""
        return self.linear_2(self.act_fn(self.linear_1(self.norm(hidden))))


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each added to the residual stream, with the norms behind or in front."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        self.norm_first = config.do_stable_layer_norm
        self.attention = Attention(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.adapter_layer: AttentionAdapter | None = None
        # the reference gives post-LN layers no adapter, whatever adapter_attn_dim says
        if config.adapter_attn_dim is not None and self.norm_first:
            self.adapter_layer = AttentionAdapter(config.hidden_size, config.adapter_attn_dim)

    def forward(
        self,
        hidden: Float[Tensor, "batch frames hidden"],
        valid: Bool[Tensor, "batch frames"] | None = None,
        output_attentions: bool = False,
    ) -> tuple[Float[Tensor, "batch frames hidden"], Float[Tensor, "batch heads frames frames"] | None]:
        """Give the residual stream behind this layer and, if asked for, the attention weights."""
        to_attend = self.layer_norm(hidden) if self.norm_first else hidden
        attended, pattern = self.attention(to_attend, valid, output_attentions)
        hidden = hidden + self.dropout(attended)
        if not self.norm_first:
            hidden = self.layer_norm(hidden)
            return self.final_layer_norm(hidden + self.feed_forward(hidden)), pattern
        hidden = hidden + self.feed_forward(self.final_layer_norm(hidden))
        if self.adapter_layer is not None:
            hidden = hidden + self.adapter_layer(hidden)
        return hidden, pattern


class Encoder(nn.Module):
    """The transformer: position, then the layers; norms before (Base) or behind (Large) the stack."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        self.config = config
        self.pos_conv_embed = PositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden: Float[Tensor, "batch frames hidden"],
        valid: Bool[Tensor, "batch frames"] | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "batch frames hidden"], list[Tensor], list[Tensor | None]]:
        """Give the last state and, if asked for, what enters the first layer and leaves each, and the patterns."""
        norm_first = self.config.do_stable_layer_norm
        if valid is not None:
            hidden = hidden.masked_fill(~valid[..., None], 0)  # the positional convolution looks around
        hidden = hidden + self.pos_conv_embed(hidden)
        hidden = self.dropout(hidden if norm_first else self.layer_norm(hidden))

        hidden_states, patterns = [], []
        for layer in self.layers:
            hidden_states += [hidden] if output_hidden_states else []
            pattern = None
            # nothing is drawn in evaluation; a layer that is dropped passes its input on
            dropped = self.training and self.drops(generator)
            if not dropped and self.gradient_checkpointing and self.training:
                hidden, pattern = checkpoint(layer, hidden, valid, output_attentions, use_reentrant=False)
            elif not dropped:
                hidden, pattern = layer(hidden, valid, output_attentions)
            patterns.append(pattern)
        hidden = self.layer_norm(hidden) if norm_first else hidden
        return hidden, [*hidden_states, hidden], patterns

    def drops(self, generator: torch.Generator | None) -> bool:
        """Draw whether the next layer is dropped; on a GPU only where one may be, since the answer is waited for."""
        source = torch.device("cpu") if generator is None else generator.device
        if source.type != "cpu" and not self.config.layerdrop:
            return False
        return torch.rand((), generator=generator, device=source).item() < self.config.layerdrop


class UniSpeechSatModel(UniSpeechSatPreTrainedModel):
    """UniSpeech-SAT without a head: a waveform in, hidden states out.

    A model made from a config starts in training mode with fresh weights; `from_pretrained` gives one in
    evaluation mode.
    """

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__(config)
        self.feature_extractor = FeatureEncoder(config)
        self.feature_projection = FeatureProjection(config)
        self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))
        self.spec_augment = SpecAugment(config)
        self.encoder = Encoder(config)
        self.init_weights()

    def init_own_weights(self) -> None:
        """Uniform in [0, 1)."""
        nn.init.uniform_(self.masked_spec_embed)

    def freeze_feature_encoder(self) -> None:
        """Keep the convolutions as they are in training; the feature projection still learns."""
        self.feature_extractor.requires_grad_(False)

    def forward(
        self,
        input_values: Float[Tensor, "batch samples"],
        attention_mask: Tensor | None = None,
        mask_time_indices: Bool[Tensor, "batch frames"] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Wav2Vec2BaseModelOutput | tuple[Any, ...]:
        """Encode a batch of 16 kHz waveforms.

        Parameters
        ----------
        input_values : (batch, samples)
            Waveforms, padded on the right; normalised where the checkpoint's preprocessor says so.
        attention_mask : (batch, samples), optional
            1 on samples, 0 on the padding behind them.
        mask_time_indices : (batch, frames), optional
            True on frames to hide behind `masked_spec_embed`; in training, None draws a mask (SpecAugment).
        output_attentions, output_hidden_states, return_dict : bool, optional
            Attention weights, all hidden states, an object rather than a tuple; None for the config's.
        generator : torch.Generator, optional
            Source of the masks and of LayerDrop in training (dropout always draws from torch's own).

        Raises
        ------
        ValueError
            If an input has the wrong shape or type, is not finite or too short, or a mask does not fit.
        """
        config = self.config
        with_attentions = config.output_attentions if output_attentions is None else output_attentions
        with_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        lengths = check_waveforms(input_values, attention_mask, config)
        padded = bool((lengths < input_values.shape[1]).any())

        masked_lengths = lengths if padded and config.padding == "exact" else None
        features = self.feature_extractor(input_values.to(self.dtype), masked_lengths)
        if config.feature_grad_mult != 1 and features.requires_grad:
            features.register_hook(lambda gradient: gradient * config.feature_grad_mult)
        frame_lengths = stack_length(lengths, config.conv_kernel, config.conv_stride)
        valid = valid_positions(frame_lengths, features.shape[-1])
        check_mask(mask_time_indices, valid)

        hidden, extract_features = self.feature_projection(features.transpose(1, 2))
        hidden, mask = self.spec_augment(hidden, self.masked_spec_embed, frame_lengths, mask_time_indices, generator)
        last_hidden_state, hidden_states, attentions = self.encoder(
            hidden, valid if padded else None, with_attentions, with_hidden_states, generator
        )
        output = Wav2Vec2BaseModelOutput(
            last_hidden_state=last_hidden_state,
            extract_features=extract_features,
            hidden_states=tuple(hidden_states) if with_hidden_states else None,
            attentions=tuple(attentions) if with_attentions else None,
            valid=valid,
            lengths=frame_lengths,
            conv_features=features,
            mask_time_indices=mask,
        )
        return output if (config.return_dict if return_dict is None else return_dict) else output.to_tuple()
