"""Tools for any torch module: its wrappers, its mode, its memory, LayerDrop, and whether its weights have changed."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unisat.precision import full_precision


def unwrap(model: nn.Module) -> nn.Module:
    """Give the module inside `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    inner = getattr(model, "_orig_mod", None)
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        inner = model.module
    return model if inner is None else unwrap(inner)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode; afterwards each of its modules gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class GradientCheckpointingLayer(nn.Module):
    """A layer that can save memory in training: it keeps only its inputs and computes its inside twice."""

    gradient_checkpointing = False

    def __call__(self, *args: Any) -> Any:
        """Call the layer with its hooks."""
        if self.gradient_checkpointing and self.training:
            return checkpoint(super().__call__, *args, use_reentrant=False)
        return super().__call__(*args)


def drops(probability: float, generator: torch.Generator | None = None) -> bool:
    """Draw whether a layer is dropped.

    The draw is read at once, and a GPU would be waited for. So a generator on a GPU draws only where the probability
    is above 0; one on the CPU always draws, and what is drawn after it does not depend on the probability.
    """
    device = torch.device("cpu") if generator is None else generator.device
    drawn = device.type == "cpu" or probability > 0
    return drawn and torch.rand((), generator=generator, device=device).item() < probability


def recorded() -> bool:
    """Whether torch records this code to run it again: `torch.compile`, `torch.export`, `torch.jit.trace`."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def exported() -> bool:
    """Whether torch records this code without a way back to Python: `torch.export`, `torch.jit.trace`."""
    exporting = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    return exporting or torch.jit.is_tracing()


def bit_sum(weight: Tensor) -> int:
    """Give a number that changes with any bit of the weights, and with their order.

    Of two sums, the first sees every bit: it reads up to eight bytes as one integer, adds these up in each row, and
    adds the sums times the rows' numbers. The second sees order and signs: it adds up the weights in float32, each
    times irregular numbers of its row and its column.
    """
    rows = weight.detach().contiguous()
    rows = rows.flatten(1) if rows.ndim > 1 else rows.reshape(1, -1)
    sizes = rows.shape[1] * rows.element_size(), rows.storage_offset() * rows.element_size()
    words = next(
        word
        for word in (torch.int64, torch.int32, torch.int16, torch.int8)
        if not any(s % word.itemsize for s in sizes)
    )
    first = int((rows.view(words).sum(1) * torch.arange(1, len(rows) + 1, device=rows.device)).sum())
    second = int(_ordered_sum(rows).view(torch.int32))  # its bits: NaN would not be equal to itself
    return first << 32 | second & (1 << 32) - 1


@full_precision
def _ordered_sum(rows: Tensor) -> Tensor:
    row, column = (torch.arange(1.0, size + 1, device=rows.device).sin() for size in rows.shape)
    return row @ (rows.float() @ column)


_FINGERPRINTS: weakref.WeakKeyDictionary[nn.Module, tuple[list[tuple[str, int]], str]] = weakref.WeakKeyDictionary()


def fingerprint(model: nn.Module) -> str:
    """Sixteen digits that two models share only if all their weights are equal.

    The hash of all weights of Base takes a third of a second; it is computed again only after they have changed.
    """
    model = unwrap(model)
    weights = sorted(model.state_dict().items())
    state = [(name, bit_sum(weight)) for name, weight in weights]
    kept = _FINGERPRINTS.get(model)
    if kept is None or kept[0] != state:
        digest = hashlib.sha256()
        for name, weight in weights:
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        _FINGERPRINTS[model] = kept = state, digest.hexdigest()[:16]
    return kept[1]


@torch.no_grad()
def versions(model: nn.Module) -> tuple[Any, ...]:
    """Give what differs as soon as weights have been written to, replaced or moved; hardly any weight is read.

    It takes a millisecond where `fingerprint` takes some forty, so a widget can look at each move. Torch counts what is
    written to a tensor, but not what goes through ``.data`` or a fused optimizer. So some sixteen numbers of each
    weight are looked at as well; what changes others, and is not counted, only the fingerprint sees.
    """
    weights = (*model.parameters(), *model.buffers())
    # inference tensors are not counted, and cannot be written to outside inference mode
    counts = [(id(one), one.data_ptr(), 0 if one.is_inference() else one._version) for one in weights]
    some = [one.flatten()[:: 1 + one.numel() // 16].to(weights[0].device, torch.float32) for one in weights]
    return *counts, torch.cat(some).cpu().numpy().tobytes()
