"""Full precision inside a model that computes in half precision, and a logarithm that is safe at 0."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def widen(tensor: Tensor) -> Tensor:
    """Convert float16 and bfloat16 to float32; any other dtype, float64 too, stays as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64; Apple's GPUs and some of Intel's do not."""
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def widest(tensor: Tensor) -> Tensor:
    """Convert to float64, or to float32 on a device without float64."""
    return tensor.double() if has_float64(tensor.device) else tensor.float()


def float64(tensor: Tensor) -> Tensor:
    """Convert to float64, on the CPU if the tensor's device has none."""
    return tensor.double() if has_float64(tensor.device) else tensor.cpu().double()


def check_bfloat16(device: torch.device) -> None:
    """Warn if a processor multiplies bfloat16 more slowly than float32, as those without AVX-512 do."""
    if device.type != "cpu":
        return
    ratio = _product_seconds(torch.bfloat16) / _product_seconds(torch.float32)
    if ratio > 2:
        warnings.warn(
            f"on this processor a product of matrices in bfloat16 takes {ratio:.0f} times as long as in float32; "
            "precision='no' trains faster here.",
            stacklevel=2,
        )


def _product_seconds(dtype: torch.dtype) -> float:
    """Time of a product of matrices, the least of three."""
    one, took = torch.ones(384, 384, dtype=dtype), []
    for _ in range(3):
        start = time.perf_counter()
        one @ one
        took.append(time.perf_counter() - start)
    return min(took)


def xlogx(probability: Tensor) -> Tensor:
    """``x ln x``, which is 0 at 0 and has a finite gradient there.

    The gradient of `torch.xlogy` at 0 is NaN, and a softmax before it does not help, because 0 · NaN is NaN. Codebook
    entries with probability 0 are common: the logits of a fresh quantizer have a standard deviation of
    ``sqrt(hidden_size)``, and ``exp(-104)`` is 0 in float32. (fairseq takes ``ln(x + 1e-7)``.)
    """
    return probability * probability.clamp(min=torch.finfo(probability.dtype).tiny).log()


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function compute in float32 or better, whatever precision the model around it uses.

    Half precision loses too much in cosines over a temperature of 0.1, in logarithms of small probabilities and in
    means over a thousand frames. The authors cast the same places to float. The function gets widened tensors and
    runs without autocasting.
    """

    @wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        tensors = [value for value in (*args, *options.values()) if isinstance(value, Tensor)]
        if not tensors:
            raise TypeError(f"{function.__name__} takes tensors, got none; torch.as_tensor makes one of numbers.")
        wide = [widen(value) if isinstance(value, Tensor) else value for value in args]
        wide_options = {name: widen(value) if isinstance(value, Tensor) else value for name, value in options.items()}
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*wide, **wide_options)  # type: ignore[arg-type]

    return wrapper
