"""WavLM's attention: a bias for the distance of two frames, gated by what the querying frame holds (arXiv:2110.13900).

All layers share one table, with a number for each bucket of distances and each head: near distances have a bucket
each, far ones share buckets of logarithmic width, and the two sides have their own. In each layer every frame and head
draws a gate from the attention's input, and adds its gate times the table's number to the scores.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unisat.config import UniSpeechSatConfig
from unisat.configs import WavLMConfig
from unisat.fast import apply
from unisat.model import Attention, Encoder, Hidden, Pattern, Valid

Gate = Float[Tensor, "batch heads queries"]


class PositionGate(nn.Module):
    """The gate of each frame and head, from eight numbers that its own part of the attention's input gives."""

    def forward(self, projected: Float[Tensor, "batch queries heads 8"], scale: Float[Tensor, "1 heads 1 1"]) -> Gate:
        """``1 + (1 - update) + update * reset * scale``, with two sigmoids of sums of four numbers each."""
        update, reset = projected.unflatten(-1, (2, 4)).sum(-1).sigmoid().permute(3, 0, 2, 1)
        return update * (reset * scale[..., 0] - 1) + 2


class GatedBias(nn.Module):
    """What is added to the scores: each query's gate times the bias of each distance."""

    def forward(self, gate: Gate, bias: Float[Tensor, "heads queries keys"]) -> Pattern:
        """Multiply."""
        return gate[..., None] * bias


class GatedAttention(Attention):
    """Attention with a gated bias for the distance of two frames. The first layer's holds the table of all layers."""

    def __init__(self, config: WavLMConfig, layer: int):
        super().__init__(config)
        self.buckets, self.farthest = config.num_buckets, config.max_bucket_distance
        head_dim = config.hidden_size // self.num_heads
        self.gru_rel_pos_const = nn.Parameter(torch.empty(1, self.num_heads, 1, 1))
        self.gru_rel_pos_linear = nn.Linear(head_dim, 8)
        self.gate, self.gated_bias = PositionGate(), GatedBias()
        if layer == 0:
            self.rel_attn_embed = nn.Embedding(self.buckets, self.num_heads)

    def reset_parameters(self) -> None:
        """Set the gate's scale to 1; the table starts standard normal, as torch's embeddings do."""
        nn.init.ones_(self.gru_rel_pos_const)

    def forward(
        self, hidden: Hidden, valid: Valid | None = None, output_attentions: bool = False, bias: Tensor | None = None
    ) -> tuple[Hidden, Pattern | None]:
        """Attend; ``bias`` (heads, queries, keys) is what `position_bias` of the first layer gives."""
        assert bias is not None
        heads = hidden.unflatten(-1, (self.num_heads, -1))  # (batch, queries, heads, head_dim)
        gate = self.gate(apply(self.gru_rel_pos_linear, heads), self.gru_rel_pos_const)
        return super().forward(hidden, valid, output_attentions, self.gated_bias(gate, bias))

    def position_bias(
        self, frames: int, start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "heads queries frames"]:
        """Give the bias of each head for some queries and all keys, not gated; only the first layer's attention can."""
        distances = torch.arange(1 - frames, frames, device=self.rel_attn_embed.weight.device)
        table = self.rel_attn_embed(bucket(distances, self.buckets, self.farthest)).T  # (heads, distances)
        rows = table.unfold(1, frames, 1)  # the last row begins with distance 0, that of query 0 to key 0
        return rows[:, frames - (frames if stop is None else stop) : frames - start].flip(1)


def bucket(distances: Int[Tensor, "*shape"], buckets: int, farthest: int) -> Int[Tensor, "*shape"]:
    """Give the bucket of each distance from a query to a key, in frames; positive ones are in the upper half.

    Of the half for a side, half the buckets hold one distance each. The others divide the rest up to ``farthest``
    into equal parts of its logarithm, and the last one takes all beyond.
    """
    side = buckets // 2
    single = side // 2
    far = distances.abs().clamp(min=1).float()
    # in this order and in float32, as the reference, or a distance at the edge of a bucket could fall into the next
    shared = (single + (far / single).log() / math.log(farthest / single) * (side - single)).long().clamp(max=side - 1)
    return (distances > 0) * side + torch.where(distances.abs() < single, distances.abs(), shared)


class WavLMEncoder(Encoder):
    """The transformer with WavLM's attention."""

    def attention(self, config: UniSpeechSatConfig, layer: int) -> Attention:
        """Make the attention of a layer; the first layer's holds the table of distances."""
        assert isinstance(config, WavLMConfig)
        return GatedAttention(config, layer)

    def position_bias(
        self, frames: int, start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "heads queries frames"] | None:
        """Give the bias that each layer gates, computed once."""
        first: Any = next(iter(self.layers), None)
        return None if first is None else first.attention.position_bias(frames, start, stop)
