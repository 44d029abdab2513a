"""The layer norm, whose weight and bias learn in half precision as they do in float32."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unisat.modules import recorded
from unisat.precision import widen

ROWS = 2048
"""So many rows are widened at once: all at once take longer, for they leave the processor's caches."""


class _Norm(torch.autograd.Function):
    """A norm of the last axis in half precision whose backward pass computes in float32."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        found, mean, scale = torch.native_layer_norm(values, values.shape[-1:], widen(weight), widen(bias), eps)
        ctx.save_for_backward(values, weight, bias, mean, scale)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        values, weight, bias, *moments = ctx.saved_tensors
        affine = [widen(weight), widen(bias)]
        of_weight, of_bias = (torch.zeros_like(one) for one in affine)
        rows = [one.reshape(-1, values.shape[-1]).split(ROWS) for one in (upstream, values)]
        parts = []
        for given, seen, mean, scale in zip(*rows, *(one.reshape(-1, 1).split(ROWS) for one in moments), strict=True):
            wide = given.float(), seen.float(), seen.shape[-1:], mean, scale, *affine, [True, True, True]
            part, *sums = torch.ops.aten.native_layer_norm_backward(*wide)
            parts.append(part.to(values.dtype))
            of_weight += sums[0]
            of_bias += sums[1]
        return torch.cat(parts).view(values.shape), of_weight.to(weight), of_bias.to(bias), None


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm` with exact gradients of its weight and bias in half precision.

    On a CPU, torch adds these gradients up in the precision of the values. In bfloat16, what is added to a large sum
    is lost: the more rows there are, the more is wrong. `tests/test_layer_norm.py` has both beside float64.
    """

    def forward(self, input: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch channels"]:
        """Normalise the channels of each row."""
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        half = input.device.type == "cpu" and input.dtype in (torch.float16, torch.bfloat16)
        if not (learns and half) or recorded():
            return super().forward(input)
        found: Tensor = _Norm.apply(input, self.weight, self.bias, self.eps)
        return found
