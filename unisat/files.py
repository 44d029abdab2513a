"""Files and folders that are written whole or not at all, and what is said of those that cannot be written or read.

An error, a full disk or a killed process may interrupt the writing. What stood there before then stays untouched.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

POINTERS = {b"version https://git-lfs": "git lfs pull", b"/annex/objects/": "git annex get"}
"""How the pointers begin that stand in place of files which were not fetched, and what fetches the files."""


def fetched_by(start: bytes) -> str | None:
    """Say what fetches a file of which only a pointer is there, from how that begins; None for any other file."""
    return next((command for first, command in POINTERS.items() if start.startswith(first)), None)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, and move the file to ``path`` when all of it is on the disk."""
    partial = _beside(path, "partial")
    partial.touch()
    mode = partial.stat().st_mode
    try:
        yield partial
        partial.chmod(mode)  # safetensors lets nobody else read its files
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


def in_utf_8(name: str) -> str:
    r"""Write the bytes of a file's name that are not in UTF-8 as ``\xe9``: no table takes them as they are."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def places(path: str | Path) -> Iterator[bytes]:
    """Give the size of a file and what is in three places of it: enough to notice other content, and quick to read."""
    with open(path, "rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        yield str(size).encode()
        for place in (0, size // 2, max(0, size - 4096)):
            file.seek(place)
            yield file.read(4096)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder beside ``folder`` to write into, and move it to ``folder`` when all of it is on the disk."""
    partial = _beside(folder, "partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            if path.is_file():
                path.chmod(partial.stat().st_mode & 0o666)
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
    """Delete what killed processes left half written in a folder; no process may be writing there.

    A folder that was about to be replaced when its process was killed gets its name back.
    """
    for path in folder.glob(".*.replaced"):
        before = path.with_name(path.name[1:].rsplit(".", 2)[0])
        if not before.exists():
            path.replace(before)
    for path in [*folder.glob(".*.partial"), *folder.glob(".*.replaced")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class NotWrittenError(OSError):
    """A file could not be written; the message names it."""


@contextmanager
def writing(path: Path, size: int = 0) -> Iterator[None]:
    """Turn what is raised on a full disk, by torch and safetensors too, into an error that names file and lacking room.

    Parameters
    ----------
    path : Path
        The file.
    size : int
        How many bytes it will have, where that is known.

    Raises
    ------
    NotWrittenError
        If the file cannot be written.
    """
    from safetensors import SafetensorError

    try:
        yield
    except NotWrittenError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        room = shutil.disk_usage(path.parent).free + (path.stat().st_size if path.exists() else 0)
        lacks = f"{(size - room) / 1e6:,.1f} MB are missing" if size > room else f"{room / 1e6:,.1f} MB are free"
        why = str(error).splitlines()[0]
        raise NotWrittenError(f"{path} could not be written, {lacks} on its disk: {why}") from error


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Turn what a library raises on a damaged file into a ValueError that names the file and says what to do.

    Raises
    ------
    ValueError
        If the file is not what it should be. That it is not there, or is somebody else's, is said by Python.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # each library has errors of its own; torch's are sometimes an OSError without a name
        start = b""
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(64)
        if command := fetched_by(start):
            raise ValueError(f"{path} is only a pointer to the file that belongs there; run {command}.") from error
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged or only half there ({why}). {remedy}") from error


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all; it gets the usual mode, where safetensors lets the owner alone.

    Raises
    ------
    NotWrittenError
        If it cannot be written.
    """
    from safetensors.torch import save_file

    with writing(path, sum(tensor.nbytes for tensor in tensors.values())), whole_file(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(dict(tensors), partial, dict(metadata) if metadata else None)
        partial.chmod(mode)


def save_json(value: Any, path: Path) -> None:
    """Write something as JSON."""
    with writing(path):
        path.write_text(json.dumps(value, indent=2), encoding="utf-8")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder as long as this one lasts.

    ``<folder>/.lock`` names the process and its computer. The system takes the lock from a process that ends, however
    it ends, so a file that a killed process left locks nobody out.

    Raises
    ------
    BlockingIOError
        If another process is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("ab+", buffering=0) as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = path.read_text(encoding="utf-8", errors="replace") or "another process"
            raise BlockingIOError(
                f"{who} is at work in {folder}. Wait for its end, or write to another folder."
            ) from error
        except (ImportError, OSError):  # Windows and some network drives have no such locks
            pass
        with writing(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


def _beside(path: Path, kind: str) -> Path:
    """Give a hidden name in the same folder that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.{kind}")


CANNOT = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EBADF}
"""What file systems answer that cannot sync folders, some CIFS and FUSE mounts, and Windows."""


def _sync(path: Path) -> None:
    """Wait until a file is on the disk; or a folder's list of files, where the file system can do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in CANNOT:
            raise
