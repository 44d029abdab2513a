"""The group norm behind the first convolution: it normalises over time and leaves out the padding."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from unisat.frames import valid_positions
from unisat.precision import widen


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm with one channel in each group, whose mean and variance leave out the padding.

    A plain `torch.nn.GroupNorm` averages over the padding too. An utterance in a padded batch then gets other numbers
    than alone (huggingface/transformers #21534, pytorch/audio #2242).
    """

    def forward(
        self, channels: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channels frames"]:
        """Normalise each channel of each utterance over its first ``lengths`` frames; None means all frames."""
        if lengths is None:
            return super().forward(channels)
        valid = valid_positions(lengths, channels.shape[-1])[:, None]  # (batch, 1, frames)
        # a sum of squares over time passes what float16 can hold
        wide, count = widen(channels), lengths[:, None, None]
        mean = wide.masked_fill(~valid, 0).sum(-1, keepdim=True) / count
        centred = (wide - mean).masked_fill(~valid, 0)
        variance = centred.square().sum(-1, keepdim=True) / count
        normed = centred * ((variance + self.eps).rsqrt() * self.weight[:, None]) + self.bias[:, None]
        return normed.to(channels.dtype)
