"""Checkpoints of a run: their names, and which of them are kept."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from unisat.deprecation import renamed
from unisat.files import remove_partial

__getattr__ = renamed(__name__, {"whole_folder": "unisat.files.whole_folder"})


def name(step: int) -> str:
    """Folder of the checkpoint after ``step`` steps."""
    return f"step-{step:07d}"


def saved(folder: Path) -> list[tuple[int, Path]]:
    """Find the checkpoints in a folder, (steps, path), the oldest first."""
    found = [(re.fullmatch(r"step-(\d{7,})", path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(match[1]), path) for match, path in found if match)


def prune(folder: Path, keep: int) -> None:
    """Delete all but the last ``keep`` checkpoints, and what a killed process left half written."""
    for _, path in saved(folder)[:-keep]:
        shutil.rmtree(path)
    remove_partial(folder)
