"""Islands of full precision in a model that otherwise computes in half, and a logarithm that is safe at 0."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def widen(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; anything else, float64 among it, as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def xlogx(probability: Tensor) -> Tensor:
    """``x ln x``, 0 at 0, with a gradient that is finite there.

    The gradient of `torch.xlogy` at 0 is NaN, and a softmax in front of it does not help (0 · NaN). Codebook entries of
    probability 0 are no rare thing: a fresh quantizer's logits have a standard deviation of ``sqrt(hidden_size)``, and
    ``exp(-104)`` is 0 in float32. (fairseq takes ``ln(x + 1e-7)``.)
    """
    return probability * probability.clamp(min=torch.finfo(probability.dtype).tiny).log()


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function compute in float32 or better, whatever the model around it computes in.

    Cosines over a temperature of 0.1, logarithms of small probabilities and means over a thousand frames lose too
    much in half precision (the authors cast the same places to float). The function's tensors are widened and
    autocasting is off inside it.
    """

    @wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        tensors = [value for value in (*args, *options.values()) if isinstance(value, Tensor)]
        wide = [widen(value) if isinstance(value, Tensor) else value for value in args]
        wide_options = {name: widen(value) if isinstance(value, Tensor) else value for name, value in options.items()}
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*wide, **wide_options)  # type: ignore[arg-type]

    return wrapper
