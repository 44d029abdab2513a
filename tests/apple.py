"""CPU tensors that behave like Apple's: they say that they are on mps, and have no float64.

What is made of them is there too, until it is moved with ``cpu()`` or ``to``. Tensors of both kinds may meet, which a
real device refuses; tests on a GPU look at that.
"""

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

MPS = torch.device("mps")


class OnApple(torch.Tensor):
    """A tensor that says it is on mps."""

    @property
    def device(self):
        return MPS

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return called(func, args, kwargs or {})


class ParameterOnApple(OnApple, nn.Parameter):
    """A parameter that says so."""


def called(func, args, kwargs):
    """Call a function of torch; what comes of tensors on mps is there, and must not be in float64."""
    leaves = tree_leaves((args, kwargs))
    named = [str(leaf) for leaf in leaves if isinstance(leaf, str | torch.device) and str(leaf) in ("cpu", "mps")]
    there = "mps" in named or any(isinstance(leaf, OnApple) for leaf in leaves)
    back = func is torch.Tensor.cpu or named == ["cpu"]
    if func is torch.Tensor.to and isinstance(args[1], torch.Tensor):
        there = isinstance(args[1], OnApple)
        back, args = not there, (args[0], args[1].as_subclass(torch.Tensor), *args[2:])
    made = {MPS: "cpu", "mps": "cpu"}
    args, kwargs = tree_map(lambda x: made.get(x, x) if isinstance(x, str | torch.device) else x, (args, kwargs))
    with torch._C.DisableTorchFunctionSubclass():
        out = func(*args, **kwargs)

    def placed(leaf):
        if not isinstance(leaf, torch.Tensor) or isinstance(leaf, nn.Parameter):
            return leaf
        if back or not there:
            return leaf.as_subclass(torch.Tensor)
        if leaf.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return leaf.as_subclass(OnApple)

    return tree_map(placed, out)


class Apple(TorchFunctionMode):
    """Where tensors can be made on mps."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return called(func, args, kwargs or {})


def on_apple(model):
    """Move a model there."""
    for parameter in model.parameters():
        parameter.__class__ = ParameterOnApple
    return model
