"""Checkpoints of a run: their names, which of them are kept, and what is in them."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unisat.deprecation import renamed
from unisat.files import reading, remove_partial

__getattr__ = renamed(__name__, {"whole_folder": "unisat.files.whole_folder"})


def name(step: int) -> str:
    """Folder of the checkpoint after ``step`` steps."""
    return f"step-{step:07d}"


def saved(folder: Path) -> list[tuple[int, Path]]:
    """Find the checkpoints in a folder, (steps, path), the oldest first."""
    found = [(re.fullmatch(r"step-(\d{7,})", path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(match[1]), path) for match, path in found if match)


class Checkpoint(NamedTuple):
    """What is in a checkpoint: ``state.json``, the model's weights and the optimizer's state."""

    state: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]


def read(folder: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    ValueError, FileNotFoundError
        If a file is damaged or missing; the message names it.
    """
    from safetensors.torch import load_file

    def remedy(path: Path) -> Any:
        return reading(path, "Take it from a copy, or delete this checkpoint.")

    with remedy(folder / "state.json"):
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        state = {**state, **{part: state[part] for part in ("step", "bad_steps", "unlogged", "processes", "recipe")}}
    with remedy(folder / "model.safetensors"):
        weights = load_file(folder / "model.safetensors")
    with remedy(folder / "optimizer.pt"):
        optimizer = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
    return Checkpoint(state, weights, optimizer)


def newest(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint that is whole, if there are any; warn of newer ones that are damaged.

    Raises
    ------
    ValueError
        If all are damaged.
    """
    damaged: list[str] = []
    for _, path in reversed(saved(folder)):
        try:
            found = read(path)
        except (ValueError, FileNotFoundError) as error:
            damaged.append(str(error))
            continue
        if damaged:
            warnings.warn(f"{' '.join(damaged)} The run goes on from {path}.", stacklevel=3)
        return found
    if damaged:
        raise ValueError(f"no checkpoint can be read: {' '.join(damaged)} Delete {folder} to begin anew.")
    return None


def prune(folder: Path, keep: int) -> None:
    """Delete all but the last ``keep`` checkpoints, and what a killed process left half written."""
    for _, path in saved(folder)[:-keep]:
        shutil.rmtree(path)
    remove_partial(folder)
