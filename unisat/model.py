"""The UniSpeech-SAT backbone, from the waveform to the hidden states of every layer, in reading order.

waveform (batch, samples)
  └ FeatureEncoder       7 convolutions: one frame every 320 samples    (batch, channels, frames)
  └ FeatureProjection    layer norm, linear                             (batch, frames, hidden)
  └ SpecAugment          hides spans of frames (`unisat.masking`)       (batch, frames, hidden)
  └ Encoder              positional convolution, N × EncoderLayer       (batch, frames, hidden)

Other families (`unisat.family`) have this backbone too; `unisat.wavlm`, `unisat.positions` and `unisat.conv_adapter`
hold what is their own. Mathematics and parameter names are those of ``transformers`` 4.37.2, so its checkpoints load as
they are. Whatever is worth watching enters or leaves a named submodule, where a PyTorch hook sees it. ``@sooner(way)``
names another way to the numbers of the formula below it; the formula is all one has to read.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from unisat import fast
from unisat.adapters import AttentionAdapter
from unisat.config import ACTIVATIONS, UniSpeechSatConfig
from unisat.conv_adapter import ConvAdapter
from unisat.fast import Conv1d, apply
from unisat.frames import conv_length, stack_length, valid_positions
from unisat.group_norm import MaskedGroupNorm
from unisat.inputs import check_mask, check_waveforms
from unisat.layer_norm import LayerNorm
from unisat.masking import SpecAugment
from unisat.modules import GradientCheckpointingLayer, drops
from unisat.outputs import Wav2Vec2BaseModelOutput
from unisat.pretrained import UniSpeechSatPreTrainedModel
from unisat.shortcuts import sooner

# what the parts of the transformer hand on
Hidden = Float[Tensor, "batch frames hidden"]
Heads = Float[Tensor, "batch heads frames head_dim"]
Pattern = Float[Tensor, "batch heads frames frames"]  # how much each query (a frame) reads from each key (a frame)
Valid = Bool[Tensor, "batch frames"]  # False on padding


class ConvLayer(GradientCheckpointingLayer):
    """One convolution of the front end: conv → norm (none, over time, or over channels) → activation."""

    def __init__(self, config: UniSpeechSatConfig, layer: int):
        super().__init__()
        channels_in, channels = [1, *config.conv_dim][layer : layer + 2]  # a waveform has one channel
        kernel, stride = config.conv_kernel[layer], config.conv_stride[layer]
        self.conv = Conv1d(channels_in, channels, kernel, stride, bias=config.conv_bias)
        # the norms of the front end have torch's own eps in the reference, not config.layer_norm_eps
        self.layer_norm: nn.Module | None = None
        if config.feat_extract_norm == "layer":
            self.layer_norm = LayerNorm(channels)
        elif layer == 0:
            self.layer_norm = MaskedGroupNorm(channels, channels)
        self.activation = ACTIVATIONS[config.feat_extract_activation]()

    @sooner(fast.fold_the_norm)
    def forward(
        self, signal: Float[Tensor, "batch channels_in positions"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch channels frames"]:
        """Convolve; ``lengths`` are valid outputs of each utterance, None for all."""
        signal = self.conv(signal)
        if isinstance(self.layer_norm, MaskedGroupNorm):
            signal = self.layer_norm(signal, lengths)
        elif self.layer_norm is not None:
            signal = self.layer_norm(signal.transpose(1, 2)).transpose(1, 2)
        return self.activation(signal)


class FeatureEncoder(nn.Module):
    """The convolutional front end: 16,000 samples a second become 50 frames a second."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        self.kernels, self.strides = config.conv_kernel, config.conv_stride
        self.conv_layers = nn.ModuleList(ConvLayer(config, layer) for layer in range(len(config.conv_dim)))

    @sooner(fast.encode_in_pieces)
    def forward(
        self, waveform: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channels frames"]:
        """Encode; ``lengths`` (in samples) keeps padding out of the group norm's statistics. Padding gives 0."""
        signal = waveform[:, None]  # (batch, 1, samples)
        for layer, kernel, stride in zip(self.conv_layers, self.kernels, self.strides, strict=True):
            lengths = None if lengths is None else conv_length(lengths, kernel, stride)
            signal = layer(signal, lengths)
        return signal if lengths is None else signal.masked_fill(~valid_positions(lengths, signal.shape[2])[:, None], 0)


class FeatureProjection(nn.Module):
    """Layer norm over channels, then a linear map to the width of the transformer."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        self.layer_norm: nn.Module | None = None  # some models of HuBERT's family have none
        if config.feat_proj_layer_norm:
            self.layer_norm = LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)
        self.dropout = nn.Dropout(config.feat_proj_dropout)

    def reset_parameters(self) -> None:
        """Uniform within ``1 / sqrt(channels)``, as torch's own linear layers start."""
        self.projection.reset_parameters()

    def forward(
        self, features: Float[Tensor, "batch frames channels"]
    ) -> tuple[Hidden, Float[Tensor, "batch frames channels"]]:
        """Give the projected features and the normed ones (`extract_features` of the output)."""
        extract_features = features if self.layer_norm is None else self.layer_norm(features)
        return self.dropout(apply(self.projection, extract_features)), extract_features


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

    def reset_parameters(self) -> None:
        """Normal, std ``2 / sqrt(kernel * hidden_size)``, as fairseq; the reference's own attempt has no effect."""
        std = 2 / math.sqrt(self.conv.kernel_size[0] * self.conv.in_channels)
        # assigned, not written in place: the weight is computed from its norm and direction
        self.conv.weight = torch.empty_like(self.conv.weight).normal_(std=std)
        nn.init.zeros_(self.conv.bias)

    @sooner(fast.convolve_by_spectra)
    def forward(self, hidden: Hidden, valid: Valid | None = None) -> Hidden:
        """Give what is to be added to each frame; where ``valid`` is False, ``hidden`` is 0."""
        # an even kernel, padded by half on both sides, gives one frame too many
        positions = self.conv(hidden.transpose(1, 2))[..., : hidden.shape[1]]
        return self.activation(positions).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention: every frame reads from every other, as much as the pattern says."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.softmax = nn.Softmax(dim=-1)
        self.dropout = nn.Dropout(config.attention_dropout)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, hidden: Hidden, valid: Valid | None = None, output_attentions: bool = False, bias: Tensor | None = None
    ) -> tuple[Hidden, Pattern | None]:
        """Give the attended frames and, if asked for, the weights before dropout; ``bias`` is added to the scores."""
        # (batch, frames, hidden) -> (batch, heads, frames, head_dim)
        q = apply(self.q_proj, hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k = apply(self.k_proj, hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        v = apply(self.v_proj, hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        attended, pattern = self.attend(q, k, v, valid, output_attentions, bias)
        return apply(self.out_proj, attended.transpose(1, 2).flatten(2)), pattern

    @sooner(fast.attend_fused)
    @sooner(fast.attend_in_place)
    def attend(
        self, q: Heads, k: Heads, v: Heads, valid: Valid | None, output_attentions: bool, bias: Tensor | None = None
    ) -> tuple[Heads, Pattern | None]:
        """``softmax(q k' / sqrt(head_dim) + bias) v``; padding gets no weight."""
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (batch, heads, queries, keys)
        scores = scores if bias is None else scores + bias
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None, None, :], torch.finfo(scores.dtype).min)
        pattern = self.softmax(scores)
        return self.dropout(pattern) @ v, pattern if output_attentions else None


class FeedForward(nn.Module):
    """Two linear maps with an activation between them, on each frame alone."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]()
        self.intermediate_dropout = nn.Dropout(config.activation_dropout)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = nn.Dropout(config.hidden_dropout)

    @sooner(fast.feed_forward_in_place)
    def forward(self, hidden: Hidden) -> Hidden:
        """Give what is to be added to each frame."""
        inner = self.activation(apply(self.intermediate_dense, hidden))
        return self.output_dropout(apply(self.output_dense, self.intermediate_dropout(inner)))


class EncoderLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each added to the residual stream, with the norms behind or in front."""

    def __init__(self, config: UniSpeechSatConfig, attention: Attention):
        super().__init__()
        self.config = config
        self.norm_first = config.do_stable_layer_norm
        self.attention = attention
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.adapter_layer: AttentionAdapter | None = None
        # the reference gives post-LN layers no adapter, whatever adapter_attn_dim says
        if config.adapter_attn_dim is not None and self.norm_first:
            self.adapter_layer = AttentionAdapter(config.hidden_size, config.adapter_attn_dim)

    @sooner(fast.leave_padding_out)
    def forward(
        self, hidden: Hidden, valid: Valid | None = None, output_attentions: bool = False, bias: Tensor | None = None
    ) -> tuple[Hidden, Pattern | None]:
        """Give the residual stream behind this layer and, if asked for, the attention weights."""
        to_attend = self.layer_norm(hidden) if self.norm_first else hidden
        attended, pattern = self.attention(to_attend, valid, output_attentions, bias)
        return self.add(hidden, attended), pattern

    def add(self, hidden: Hidden, attended: Hidden) -> Hidden:
        """Add what attention gives, then what the feed-forward gives: each frame by itself."""
        hidden = hidden + self.dropout(attended)
        if not self.norm_first:
            hidden = self.layer_norm(hidden)
            return self.final_layer_norm(hidden + self.feed_forward(hidden))
        hidden = hidden + self.feed_forward(self.final_layer_norm(hidden))
        return hidden if self.adapter_layer is None else hidden + self.adapter_layer(hidden)


class Encoder(nn.Module):
    """The transformer: position, then the layers; norms before (Base) or behind (Large) the stack."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        self.config = config
        self.pos_conv_embed = self.positions(config)
        self.layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        layers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(EncoderLayer(config, self.attention(config, layer)) for layer in layers)

    # what other families have another of

    def positions(self, config: UniSpeechSatConfig) -> nn.Module:
        """Make the positional convolution."""
        return PositionalConvEmbedding(config)

    def attention(self, config: UniSpeechSatConfig, layer: int) -> Attention:
        """Make the attention of a layer."""
        return Attention(config)

    def position_bias(self, frames: int, start: int = 0, stop: int | None = None) -> Tensor | None:
        """Give what each layer gets to add to its scores of queries ``start`` to ``stop``: nothing."""
        return None

    def forward(
        self,
        hidden: Hidden,
        valid: Valid | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Hidden, list[Hidden], list[Pattern | None]]:
        """Give the last state and, if asked for, what enters the first layer and leaves each, and the patterns."""
        norm_first = self.config.do_stable_layer_norm
        if valid is not None:
            hidden = hidden.masked_fill(~valid[..., None], 0)  # the positional convolution looks around
        hidden = hidden + self.pos_conv_embed(hidden, valid if self.config.padding == "exact" else None)
        hidden = self.dropout(hidden if norm_first else self.layer_norm(hidden))

        hidden_states, patterns, bias = [], [], self.position_bias(hidden.shape[1])
        for number, layer in enumerate(self.layers):
            hidden_states += [hidden] if output_hidden_states else []
            # nothing is drawn in evaluation; a dropped layer passes its input on; the one that holds a bias stays
            dropped = self.training and drops(self.config.layerdrop, generator) and (number > 0 or bias is None)
            hidden, pattern = (hidden, None) if dropped else layer(hidden, valid, output_attentions, bias)
            patterns.append(pattern)
        last = self.layer_norm(hidden) if norm_first else hidden
        return last, [*hidden_states, hidden if self.config.sums_before_norm else last], patterns


class UniSpeechSatModel(UniSpeechSatPreTrainedModel):
    """UniSpeech-SAT without a head: a waveform in, hidden states out.

    A config makes one in training mode with fresh weights; `from_pretrained` gives one in evaluation mode.
    """

    encoder_class = Encoder
    output_class = Wav2Vec2BaseModelOutput
    masked_spec_embed: nn.Parameter | None

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__(config)
        self.feature_extractor = FeatureEncoder(config)
        self.feature_projection = FeatureProjection(config)
        embed = nn.Parameter(torch.empty(config.hidden_size)) if config.has_mask_embedding else None
        self.register_parameter("masked_spec_embed", embed)
        self.spec_augment = SpecAugment(config)
        self.encoder = self.encoder_class(config)
        self.adapter = ConvAdapter(config) if config.add_adapter else None
        self.init_weights()

    def reset_parameters(self) -> None:
        """Uniform in [0, 1)."""
        if self.masked_spec_embed is not None:
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
        conv: Any = self.feature_extractor.conv_layers[0].conv
        config, weight = self.config, conv.weight
        with_attentions = config.output_attentions if output_attentions is None else output_attentions
        with_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        lengths, padded = check_waveforms(input_values, attention_mask, config, weight.dtype)
        lengths = lengths.to(weight.device)
        masked_lengths = lengths if padded and config.padding == "exact" else None
        features = self.feature_extractor(input_values.to(weight.device, weight.dtype), masked_lengths)
        if config.feature_grad_mult != 1 and features.requires_grad:
            features.register_hook(lambda gradient: gradient * config.feature_grad_mult)
        frame_lengths = stack_length(lengths, config.conv_kernel, config.conv_stride)
        valid = valid_positions(frame_lengths, features.shape[-1])
        mask_time_indices = check_mask(mask_time_indices, valid)

        hidden, extract_features = self.feature_projection(features.transpose(1, 2))
        hidden, mask = self.spec_augment(hidden, self.masked_spec_embed, frame_lengths, mask_time_indices, generator)
        last_hidden_state, hidden_states, attentions = self.encoder(
            hidden, valid if padded else None, with_attentions, with_hidden_states, generator
        )
        extract_features = extract_features if masked_lengths is None else extract_features * valid[..., None]
        if self.adapter is not None:
            last_hidden_state, frame_lengths, valid = self.adapter(last_hidden_state, frame_lengths, valid)
        output = self.output_class(
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
