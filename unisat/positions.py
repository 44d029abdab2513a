"""Positional convolutions of other families: data2vec's stack of them, and one behind a batch norm."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from unisat.config import ACTIVATIONS, UniSpeechSatConfig
from unisat.configs import Data2VecAudioConfig

Hidden = Float[Tensor, "batch frames hidden"]
Valid = Bool[Tensor, "batch frames"]  # False on padding


def zero_padding(hidden: Hidden, valid: Valid | None) -> Hidden:
    """Set padding to 0, as the frames beyond the ends of an utterance are for a convolution."""
    return hidden if valid is None else hidden.masked_fill(~valid[..., None], 0)


class NormedPositionalConvEmbedding(nn.Module):
    """Where a frame is, from a wide grouped convolution behind a batch norm, without weight norm."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        width, kernel = config.hidden_size, config.num_conv_pos_embeddings
        self.batch_norm = nn.BatchNorm1d(width)
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=config.num_conv_pos_embedding_groups)
        self.activation = ACTIVATIONS[config.feat_extract_activation]()

    def forward(self, hidden: Hidden, valid: Valid | None = None) -> Hidden:
        """Give what is to be added to each frame; where ``valid`` is False, the convolution sees 0."""
        normed = zero_padding(self.batch_norm(hidden.transpose(1, 2)).transpose(1, 2), valid)
        # an even kernel, padded by half on both sides, gives one frame too many
        positions = self.conv(normed.transpose(1, 2))[..., : hidden.shape[1]]
        return self.activation(positions).transpose(1, 2)


class PositionalConvLayer(nn.Module):
    """One of data2vec's positional convolutions: convolution → layer norm without weights → activation."""

    def __init__(self, config: Data2VecAudioConfig):
        super().__init__()
        width, kernel = config.hidden_size, config.conv_pos_kernel_size
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=config.num_conv_pos_embedding_groups)
        self.layer_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.activation = ACTIVATIONS[config.feat_extract_activation]()

    def reset_parameters(self) -> None:
        """Set the bias to 0, as the reference does."""
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, hidden: Hidden) -> Hidden:
        """Convolve, norm, activate."""
        positions = self.conv(hidden.transpose(1, 2))[..., : hidden.shape[1]]
        return self.activation(self.layer_norm(positions.transpose(1, 2)))


class PositionalConvStack(nn.Module):
    """Where a frame is, from several convolutions, one behind the other (arXiv:2202.03555)."""

    def __init__(self, config: Data2VecAudioConfig):
        super().__init__()
        self.layers = nn.ModuleList(PositionalConvLayer(config) for _ in range(config.num_conv_pos_embeddings))

    def forward(self, hidden: Hidden, valid: Valid | None = None) -> Hidden:
        """Give what is to be added to each frame; where ``valid`` is False, each convolution sees 0."""
        for layer in self.layers:
            hidden = layer(zero_padding(hidden, valid))
        return hidden
