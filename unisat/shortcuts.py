"""The same numbers, sooner: when a model may take a fast way instead of a plain formula.

`unisat.model` holds the formulas and `unisat.fast` the fast ways. The decorator `sooner` joins a formula with its fast
way. Inside `plain` a model takes no fast way. docs/performance.md says how much time each of them saves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from torch import nn
from torch.nn.modules import module as torch_module

from unisat.deprecation import renamed
from unisat.modules import recorded

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
    """Make models compute step by step, as the formulas are written, inside this scope.

    Code that `torch.compile` has compiled takes no notice of the scope. Gradient checkpointing computes the layers
    again in the backward pass, so the backward pass must be in the scope too.
    """
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def allowed(*, compiled: bool = False) -> bool:
    """Whether a model may take a fast way here: not inside `plain`; in recorded code only one that is ``compiled``."""
    return compiled if recorded() else not _PLAIN.get()


def watched(*modules: nn.Module) -> bool:
    """Whether one of these modules has a hook, or torch has a global one, which sees all modules.

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
    """Try a fast way first; compute the decorated formula if the fast way gives `NotImplemented`.

    Parameters
    ----------
    fast : callable
        It takes what the decorated function takes (for a method, the module comes first) and gives the same within
        1e-5. Where it does not apply it gives `NotImplemented`: inside `plain`, under a hook that would see the
        difference, and in other cases that it names itself.
    """

    def decorate(formula: Callable[P, R]) -> Callable[P, R]:
        @wraps(formula)
        def either(*args: Any, **options: Any) -> Any:
            found = fast(*args, **options)
            return formula(*args, **options) if found is NotImplemented else found

        return either

    return decorate


_FAST = (
    "Folded Linear fold_group_norm kept_spectrum linear mkl_is_slow pattern_is_cheap shifted_products spectrum".split()
)
__getattr__ = renamed(__name__, {"bit_sum": "unisat.modules.bit_sum"} | {name: f"unisat.fast.{name}" for name in _FAST})
