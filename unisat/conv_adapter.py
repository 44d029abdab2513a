"""The convolutional adapter of wav2vec 2.0: fewer and wider or narrower frames, behind the encoder."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unisat.config import UniSpeechSatConfig
from unisat.frames import conv_length, valid_positions
from unisat.layer_norm import LayerNorm

PADDING = 1
"""Zeros on both sides of the frames, whatever the kernel."""


def coarser(lengths: Any, config: UniSpeechSatConfig) -> Any:
    """Frames behind one layer of the adapter, of so many in front of it (a number, or a tensor of numbers)."""
    return conv_length(lengths + 2 * PADDING, config.adapter_kernel_size, config.adapter_stride)


class ConvAdapterLayer(nn.Module):
    """One convolution of the adapter, twice as wide; one half of it gates the other."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        width, kernel, stride = config.last_size, config.adapter_kernel_size, config.adapter_stride
        self.conv = nn.Conv1d(width, 2 * width, kernel, stride, padding=PADDING)

    def forward(self, hidden: Float[Tensor, "batch frames hidden"]) -> Float[Tensor, "batch fewer_frames hidden"]:
        """Convolve and gate."""
        return F.glu(self.conv(hidden.transpose(1, 2)), dim=1).transpose(1, 2)


class ConvAdapter(nn.Module):
    """Makes the last hidden state coarser in time, by 8 with the reference's defaults.

    The reference drops these layers by LayerDrop, too. Then the number of frames would depend on chance, so here it
    does not.
    """

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        self.config = config
        self.proj: nn.Linear | None = None
        self.proj_layer_norm: LayerNorm | None = None
        if config.last_size != config.hidden_size:
            self.proj = nn.Linear(config.hidden_size, config.last_size)
            self.proj_layer_norm = LayerNorm(config.last_size)
        self.layers = nn.ModuleList(ConvAdapterLayer(config) for _ in range(config.num_adapter_layers))

    def forward(
        self,
        hidden: Float[Tensor, "batch frames hidden"],
        lengths: Int[Tensor, " batch"],
        valid: Bool[Tensor, "batch frames"],
    ) -> tuple[Float[Tensor, "batch fewer_frames last"], Int[Tensor, " batch"], Bool[Tensor, "batch fewer_frames"]]:
        """Give the coarser frames, the valid ones of each utterance, and where they are."""
        if self.proj is not None and self.proj_layer_norm is not None:
            hidden = self.proj_layer_norm(self.proj(hidden))
        for layer in self.layers:
            if self.config.padding == "exact":  # else a convolution would see what stands in the padding
                hidden = hidden.masked_fill(~valid[..., None], 0)
            hidden = layer(hidden)
            lengths = coarser(lengths, self.config)
            valid = valid_positions(lengths, hidden.shape[1])
        return hidden, lengths, valid
