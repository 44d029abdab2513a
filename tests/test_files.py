"""Files and folders are written whole or not at all, whatever happens on the way."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from unisat import files
from unisat.files import (
    NotWrittenError,
    alone,
    reading,
    remove_partial,
    save_tensors,
    whole_file,
    whole_folder,
    writing,
)


def put(path, text):
    """Write a text file, or a folder with one."""
    (path / "x" if path.is_dir() else path).write_text(text)


def read(path):
    return (path / "x" if path.is_dir() else path).read_text()


KINDS = [(whole_file, "a.txt"), (whole_folder, "a")]


@pytest.mark.parametrize(("whole", "name"), KINDS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path, whole, name, error):
    with pytest.raises(error), whole(tmp_path / name) as partial:
        put(partial, "never")
        raise error
    assert list(tmp_path.iterdir()) == []
    with whole(tmp_path / name) as partial:
        put(partial, "old")
        assert not (tmp_path / name).exists()
    with pytest.raises(error), whole(tmp_path / name) as partial:
        put(partial, "new")
        raise error
    assert read(tmp_path / name) == "old"
    with whole(tmp_path / name) as partial:
        put(partial, "new")
        assert read(tmp_path / name) == "old"
    assert read(tmp_path / name) == "new"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("whole", "name"), KINDS)
def test_all_is_on_the_disk_before_the_old_is_replaced(tmp_path, monkeypatch, whole, name):
    with whole(tmp_path / name) as partial:
        put(partial, "old")
    seen = []

    def full_disk(path):
        seen.append(path.read_text())
        assert read(tmp_path / name) == "old"
        raise OSError("No space left on device")

    monkeypatch.setattr(files, "_sync", full_disk)
    with pytest.raises(OSError, match="No space left"), whole(tmp_path / name) as partial:
        put(partial, "new")
    assert seen == ["new"]
    assert read(tmp_path / name) == "old"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("whole", "name"), KINDS)
def test_a_killed_process_leaves_what_was_there_and_its_rest_can_be_removed(tmp_path, whole, name):
    with whole(tmp_path / name) as partial:
        put(partial, "old")
    program = f"""
import os, signal
from pathlib import Path
from unisat.files import {whole.__name__}
with {whole.__name__}(Path({str(tmp_path / name)!r})) as partial:
    ({"partial" if whole is whole_file else "partial / 'x'"}).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert read(tmp_path / name) == "old"
    assert len(list(tmp_path.iterdir())) == 2
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_processes_do_not_write_to_one_place(tmp_path, monkeypatch):
    with whole_file(tmp_path / "a.txt") as mine:
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with whole_file(tmp_path / "a.txt") as theirs:
            theirs.write_text("theirs")
        mine.write_text("mine")
    assert mine != theirs
    assert (tmp_path / "a.txt").read_text() == "mine"


@pytest.mark.parametrize(("whole", "name"), KINDS)
def test_a_file_system_that_cannot_sync_folders_is_written_to(tmp_path, monkeypatch, whole, name):
    sync, synced = os.fsync, []

    def files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        synced.append(descriptor)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    with whole(tmp_path / name) as partial:
        put(partial, "x")
    assert read(tmp_path / name) == "x"
    assert len(synced) == 1

    def broken(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"), whole(tmp_path / name) as partial:
        put(partial, "y")
    assert read(tmp_path / name) == "x"


def test_a_folder_that_was_being_replaced_gets_its_name_back(tmp_path):
    for name in (".a.b.17.replaced", ".c.17.replaced", "c"):
        (tmp_path / name).mkdir()
        put(tmp_path / name, name)
    remove_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.b", "c"]
    assert read(tmp_path / "a.b") == ".a.b.17.replaced"
    assert read(tmp_path / "c") == "c"


def test_tensors_are_for_whoever_may_read_other_files(tmp_path):
    (tmp_path / "plain").write_text("")
    save_tensors({"x": torch.arange(3)}, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert load_file(tmp_path / "x.safetensors")["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), RuntimeError("No space left"), SafetensorError("No space left")]
)
def test_a_full_disk_is_named_with_the_room_it_lacks(tmp_path, monkeypatch, error):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9_000_000, 7_000_000, 2_000_000))
    lacks = r"/x could not be written, 2.0 MB are free on its disk: .*No space left"
    with pytest.raises(NotWrittenError, match=lacks), writing(tmp_path / "x"):
        raise error
    # what was written of the file already counts as room; what is named within is not named again
    (tmp_path / "x").write_bytes(bytes(500_000))
    lacks = r"^[^:]*/x could not be written, 1.5 MB are missing on its disk: "
    with pytest.raises(NotWrittenError, match=lacks), writing(tmp_path), writing(tmp_path / "x", 4_000_000):
        raise error
    with pytest.raises(KeyError), writing(tmp_path / "x"):
        raise KeyError


def test_a_damaged_file_is_named_with_what_to_do(tmp_path):
    for error in (SafetensorError("cut"), EOFError(), KeyError("start"), OSError(22, "Invalid argument")):
        told = r"/x is damaged or only half there \(.+\). Make it again."
        with pytest.raises(ValueError, match=told), reading(tmp_path / "x", "Make it again."):
            raise error
    with pytest.raises(FileNotFoundError), reading(tmp_path / "x", ""):
        (tmp_path / "x").read_text()


def test_one_process_at_a_time(tmp_path):
    (tmp_path / "out").mkdir()
    # what a process that was killed left there locks nobody out
    (tmp_path / "out" / ".lock").write_text("process 1 on a computer far away")
    with alone(tmp_path / "out"):
        told = rf"process {os.getpid()} on .* is at work in .*out. Wait for its end"
        with pytest.raises(OSError, match=told), alone(tmp_path / "out"):
            pass
        with alone(tmp_path / "another"):
            pass
    with pytest.raises(RuntimeError), alone(tmp_path / "out"):
        raise RuntimeError
    with alone(tmp_path / "out"):
        pass
