"""Old names that live on for one release: each use warns and says what the name is called now."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


class OldModule(ModuleType):
    """A module under its old path: it holds nothing, and gives what its new homes hold.

    Parameters
    ----------
    name : str
        The old path, ``"unisat.interpret.bank"``.
    homes : tuple of str
        The modules that hold its contents now; the first one that has a name gives it.
    """

    def __init__(self, name: str, homes: tuple[str, ...]) -> None:
        super().__init__(name, f"Moved to {' and '.join(homes)}.")
        self.__dict__["homes"] = homes

    def __getattr__(self, name: str) -> Any:
        return _moved(self.__name__, self.__dict__["homes"], name)


def old_modules(package: str, homes: Mapping[str, str]) -> None:
    """Let the old paths of a package's modules be imported as before.

    Parameters
    ----------
    package : str
        The package's name, ``__name__``.
    homes : dict
        By old name the new one, both inside the package; several are divided by spaces.
    """
    for old, new in homes.items():
        name = f"{package}.{old}"
        sys.modules[name] = OldModule(name, tuple(f"{package}.{home}" for home in new.split()))
        # as an import would; but a function of that name on the package's face stays
        vars(sys.modules[package]).setdefault(old, sys.modules[name])


def moved(old: str, *homes: str) -> Callable[[str], Any]:
    """Give the ``__getattr__`` of a package that was a module once, whose contents are now in ``homes``."""
    return lambda name: _moved(old, homes, name)


def _moved(old: str, homes: tuple[str, ...], name: str) -> Any:
    if not name.startswith("__"):
        for home in homes:
            module = importlib.import_module(home)
            if name in vars(module):
                value = getattr(module, name)
                _warn(f"{old}.{name}", f"{_shown(home, name, value)}.{name}")
                return value
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
        New dotted names by old names, ``{"fresh": "unisat.interpret.features.collect.untrained_twin"}``.
    otherwise : callable, optional
        The module's ``__getattr__`` for all other names.
    """
    return lambda name: _renamed(module, names, otherwise, name)


def _renamed(module: str, names: Mapping[str, str], otherwise: Callable[[str], Any] | None, name: str) -> Any:
    if name not in names:
        if otherwise is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}.")
        return otherwise(name)
    _warn(f"{module}.{name}", names[name])
    home, _, new = names[name].rpartition(".")
    return getattr(importlib.import_module(home), new)


def _warn(old: str, new: str) -> None:
    """Warn at the line that uses the old name: three calls up, through the module's ``__getattr__``."""
    warnings.warn(f"{old} is now {new}; the old name goes in the next release.", DeprecationWarning, stacklevel=4)
