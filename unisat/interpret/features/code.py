"""A number for what a function of one's own computes, so that numbers of another function are not taken for its own."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
OURS = ("unisat", "builtins", "torch", "numpy", "typing")


def code_digest(spec: Any) -> str | None:
    """Sixteen digits for what a function or an object's class computes, and with which values; None for a name.

    What belongs to this package is known by its name. The digits depend on the version of Python.
    """
    function = isinstance(spec, FunctionType | MethodType | functools.partial)
    if isinstance(spec, str) or _ours(spec if isinstance(spec, FunctionType) else None if function else type(spec)):
        return None
    parts = _parts(spec if function else [type(spec), getattr(spec, "__dict__", {})], set())
    return hashlib.sha256("\n".join(parts).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _ours(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] in OURS


def _parts(value: Any, seen: set[int]) -> Iterator[str]:
    """Give texts that together differ where two values, or what two functions compute, differ."""
    inside: list[Any] = []
    if isinstance(value, FunctionType | type):
        if id(value) in seen or _ours(value):
            yield value.__qualname__
            return
        seen.add(id(value))
    if isinstance(value, CodeType):
        yield f"{value.co_code.hex()} {value.co_names}"
        inside = list(value.co_consts)
    elif isinstance(value, FunctionType):
        # other functions of the file and its constants are part of what is computed
        there = [value.__globals__.get(name) for name in value.__code__.co_names]
        named = [thing for thing in there if isinstance(thing, FunctionType | int | float | str | tuple)]
        closed = [cell.cell_contents for cell in value.__closure__ or ()]
        inside = [value.__code__, value.__defaults__, value.__kwdefaults__, closed, named]
    elif isinstance(value, MethodType):
        inside = [value.__func__, value.__self__]
    elif isinstance(value, type):
        inside = [f for base in value.__mro__ if not _ours(base) for f in vars(base).values() if callable(f)]
    elif isinstance(value, functools.partial):
        inside = [value.func, value.args, value.keywords]
    elif isinstance(value, Tensor | np.ndarray):
        array = np.ascontiguousarray(value.detach().cpu().double() if isinstance(value, Tensor) else value)
        yield f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    elif isinstance(value, list | tuple):
        inside = list(value)
    elif isinstance(value, dict):
        inside = [part for name in sorted(value, key=str) for part in (str(name), value[name])]
    else:
        yield ADDRESS.sub("", repr(value))
    for part in inside:
        yield from _parts(part, seen)
