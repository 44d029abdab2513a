"""Environments of the peers, made here from pinned requirements, and the processes that run in them."""

from __future__ import annotations

import importlib.util
import json
import os
import site
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
OURS = ("unisat", "plain")
HERE = "transformers-here"
"""The transformers of this interpreter, where nothing can be installed."""


class AbsentError(Exception):
    """A peer or a device is not to be had here; the message says why."""


def python(name: str) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there.

    torch is that of this interpreter, for all: what is compared is not torch. The rest is the peer's own.
    """
    if name in OURS:
        return Path(sys.executable)
    if name == HERE:
        if importlib.util.find_spec("transformers") is None:
            raise AbsentError("this interpreter has no transformers")
        return Path(sys.executable)
    requirements = FOLDER / "peers" / f"{name}.txt"
    if not requirements.exists():
        known = ", ".join(sorted(path.stem for path in requirements.parent.glob("*.txt")))
        raise AbsentError(f"there is no peer {name!r}; there are {known} and plain (ours without shortcuts)")
    place = ROOT / "build" / "peers" / name
    interpreter = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    made = place / "requirements.txt"
    if not made.exists() or made.read_text() != requirements.read_text():
        venv.create(place, clear=True, with_pip=True)
        query = [str(interpreter), "-c", "import site; print(site.getsitepackages()[0])"]
        own = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
        (Path(own) / "torch-beside.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        command = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # torchaudio would bring another torch
        command += ["--no-deps"] if name == "torchaudio" else []
        done = subprocess.run([*command, "--requirement", str(requirements)], capture_output=True, text=True)
        if done.returncode:
            raise AbsentError(f"{name} could not be installed: {done.stderr.strip().splitlines()[-1]}")
        for compiled in [one for one in Path(own).glob("torchaudio/lib/*") if one.is_file()]:
            compiled.unlink()  # wants the CUDA build of torch; its models are plain PyTorch and do without
        made.write_text(requirements.read_text())
    return interpreter


class Side:
    """A process of `worker.py`, ours or a peer's."""

    def __init__(self, name: str, folder: str, device: str, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TRANSFORMERS_OFFLINE": "1"}
        command = [str(python(name)), str(FOLDER / "worker.py"), name, folder, device, str(threads)]
        self.name, self.errors = name, (ROOT / "build" / f"benchmark-{name}.log").open("w+")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)
        self.facts = self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise AbsentError(f"{self.name} ended: {['', *self.errors.read().strip().splitlines()][-1]}")
        return json.loads(line)

    def ask(self, work: str) -> dict:
        """Do a work once: seconds, megabytes and a number to compare; or ``absent`` with a reason."""
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it."""
        self.process.stdin.close()
        self.process.wait()
