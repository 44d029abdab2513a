"""Files and folders are written whole or not at all, whatever happens on the way."""

import os
import signal
import subprocess
import sys

import pytest

from unisat import files
from unisat.files import remove_partial, whole_file, whole_folder


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
