"""Old names that work for one more release: each use warns and says the new name."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class OldModule(ModuleType):
    """A module under its old path: it is empty, and gives what its new homes hold.

    Parameters
    ----------
    name : str
        The old path, such as ``"unisat.interpret.bank"``.
    homes : tuple of str
        The modules that hold its contents now. A name comes from the first one that has it.
    """

    def __init__(self, name: str, homes: tuple[str, ...]) -> None:
        super().__init__(name, f"Moved to {' and '.join(homes)}.")
        self.__dict__["homes"] = homes

    def __getattr__(self, name: str) -> Any:
        return _moved(self.__name__, self.__dict__["homes"], name)


def old_modules(package: str, homes: Mapping[str, str]) -> None:
    """Make the old paths of a package's modules importable as before.

    Parameters
    ----------
    package : str
        The package's name, ``__name__``.
    homes : dict
        New names by old names, both inside the package. Several new ones are separated by spaces.
    """
    for old, new in homes.items():
        name = f"{package}.{old}"
        sys.modules[name] = OldModule(name, tuple(f"{package}.{home}" for home in new.split()))
        # as an import would; but a function of that name on the package's face stays
        vars(sys.modules[package]).setdefault(old, sys.modules[name])


def moved(old: str, *homes: str) -> Callable[[str], Any]:
    """Give the ``__getattr__`` of a package that was a module; its contents are now in ``homes``."""
    return lambda name: _moved(old, homes, name)


_RENAMED: dict[str, Mapping[str, str]] = {}
"""For each module with changed names: the new dotted names by old names."""


def _moved(old: str, homes: tuple[str, ...], name: str) -> Any:
    if not name.startswith("__"):
        for home in homes:
            module = importlib.import_module(home)
            if name in vars(module):
                value = getattr(module, name)
                _warn(f"{old}.{name}", f"{_shown(home, name, value)}.{name}")
                return value
            if new := _RENAMED.get(home, {}).get(name):
                _warn(f"{old}.{name}", new)
                return _get(new)
    raise AttributeError(f"module {old!r} has no attribute {name!r}; its contents are now in {', '.join(homes)}.")


def _shown(home: str, name: str, value: Any) -> str:
    """Where to import what ``home`` holds: from the package of a private module, if that shows it."""
    package, _, module = home.rpartition(".")
    return package if module.startswith("_") and vars(sys.modules[package]).get(name) is value else home


def renamed(
    module: str, names: Mapping[str, str], otherwise: Callable[[str], Any] | None = None
) -> Callable[[str], Any]:
    """Give the ``__getattr__`` of a module in which some names have changed.

    Parameters
    ----------
    module : str
        The module's own name, ``__name__``.
    names : dict
        New dotted names by old names, such as ``{"fresh": "unisat.interpret.features.collect.untrained_twin"}``.
    otherwise : callable, optional
        A ``__getattr__`` for all other names.
    """
    _RENAMED[module] = names
    return lambda name: _renamed(module, names, otherwise, name)


def _renamed(module: str, names: Mapping[str, str], otherwise: Callable[[str], Any] | None, name: str) -> Any:
    if name not in names:
        if otherwise is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}.")
        return otherwise(name)
    _warn(f"{module}.{name}", names[name])
    return _get(names[name])


def _get(dotted: str) -> Any:
    home, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(home), name)


class OldAttribute:
    """The old name of an attribute, in the body of its class: ``about = OldAttribute("settings")``."""

    def __init__(self, new: str) -> None:
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self.old = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        _warn(f"{owner.__name__}.{self.old}", f"{owner.__name__}.{self.new}", calls=2)
        return getattr(instance, self.new)


def old_keywords(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function be called with old names of its keywords too: ``@old_keywords(about="settings")``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in names.items():
                if old in kwargs:
                    _warn(f"{old}= of {function.__qualname__}", f"{new}=", calls=2)
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def _warn(old: str, new: str, calls: int = 3) -> None:
    """Warn at the line that uses the old name, which is so many calls up, behind the module's ``__getattr__``."""
    said = f"{old} is now {new}; the old name goes in the next release."
    warnings.warn(said, DeprecationWarning, stacklevel=calls + 1)
