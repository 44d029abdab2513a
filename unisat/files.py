"""Files and folders that are written whole or not at all.

An error, a full disk or a killed process may interrupt the writing. What stood there before then stays untouched.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, and move the file to ``path`` when all of it is on the disk."""
    partial = _beside(path, "partial")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def shipped(name: str) -> Path:
    """Give the folder of speech that comes with unisat: beside the package in a wheel, under ``data`` in a clone.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    """
    here = Path(__file__).resolve()
    for place in (here.parent / name, here.parents[1] / "data" / name):
        if (place / "metadata.csv").exists():
            return place
    raise FileNotFoundError(f"the speech that comes with unisat ({name}) is missing; install unisat again.")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder beside ``folder`` to write into, and move it to ``folder`` when all of it is on the disk."""
    partial = _beside(folder, "partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
        replaced = _beside(folder, "replaced")
        if folder.exists():
            folder.replace(replaced)
        partial.replace(folder)
        _sync(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Delete what killed processes left half written in a folder; no process may be writing there."""
    for path in folder.glob(".*.partial"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _beside(path: Path, kind: str) -> Path:
    """Give a hidden name in the same folder that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.{kind}")


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
