"""The same numbers, sooner: when a model may leave the plain way through its arithmetic for a fast one.

The formulas stand in `unisat.model`, the fast ways in `unisat.fast`. `sooner` joins the two: it is the decorator above
a formula that has a fast twin. Inside `plain` no fast way is taken. docs/performance.md has what each of them brings.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as torch_module

P = ParamSpec("P")
R = TypeVar("R")

_PLAIN: ContextVar[bool] = ContextVar("plain", default=False)
_GLOBAL_HOOKS = (
    torch_module._global_forward_hooks,
    torch_module._global_forward_pre_hooks,
    torch_module._global_backward_hooks,
    torch_module._global_backward_pre_hooks,
)


@contextmanager
def plain() -> Iterator[None]:
    """Inside this scope models compute step by step as the formulas are written.

    Code that `torch.compile` has compiled does not look at the scope. Under gradient checkpointing the backward pass,
    which computes the layers again, belongs into it too.
    """
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def allowed(*, compiled: bool = False) -> bool:
    """Whether a fast way may be taken here: not inside `plain`, and in ``compiled`` code only one that suits it."""
    return compiled if torch.compiler.is_compiling() else not _PLAIN.get()


def watched(*modules: nn.Module) -> bool:
    """Whether a hook hangs on one of these modules, or a global one on all that there are.

    A ``forward`` that somebody has put on a module in place of its class's (Accelerate does) counts as a hook.
    """
    return any(_GLOBAL_HOOKS) or any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
        for module in modules
    )


def sooner(fast: Callable[..., Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Try a fast way first, and take the plain one below where the fast one gives `NotImplemented`.

    Parameters
    ----------
    fast : callable
        Takes what the decorated function takes (of a method: the module first) and gives the same within 1e-5, or
        `NotImplemented` where it does not apply: inside `plain`, under a hook that would see the difference, and
        wherever else it says so.
    """

    def decorate(formula: Callable[P, R]) -> Callable[P, R]:
        @wraps(formula)
        def either(*args: Any, **options: Any) -> Any:
            found = fast(*args, **options)
            return formula(*args, **options) if found is NotImplemented else found

        return either

    return decorate


_MOVED = {
    "bit_sum": "unisat.modules",
    **dict.fromkeys(["Folded", "Linear", "fold_group_norm", "kept_spectrum", "linear"], "unisat.fast"),
    **dict.fromkeys(["mkl_is_slow", "pattern_is_cheap", "shifted_products", "spectrum"], "unisat.fast"),
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module 'unisat.shortcuts' has no attribute {name!r}.")
    warnings.warn(f"unisat.shortcuts.{name} is now {_MOVED[name]}.{name}.", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module(_MOVED[name]), name)
