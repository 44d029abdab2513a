"""Checkpoints of a run: written whole or not at all, and only the last few kept."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to write into, and put it in ``folder``'s place when all of it is on the disk.

    Whatever goes wrong before that (an error, a full disk, a killed process) leaves what stood there untouched.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in [*(path for path in partial.rglob("*") if path.is_file()), partial]:
            _sync(file)
        replaced = folder.with_name(f".{folder.name}.{os.getpid()}.replaced")
        if folder.exists():
            folder.replace(replaced)
        partial.replace(folder)
        _sync(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path, ignore_errors=True)
