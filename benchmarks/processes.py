"""Two processes of one thread against one of two threads: `python benchmarks/processes.py`.

Both pretrain a model of the built-in one's size on the built-in voices, as `unisat pretrain` and `torchrun` do. The
runs take turns. What counts is the sound that a second hears: of a run, the median over its steps; of all, the median
of the ratios within a round. Writes benchmarks/processes.json.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import report
import roofline

ROUNDS, STEPS, FIRST = 3, 16, 4
"""Runs of each kind, their steps, and how many of these do not count: they find the memory that the rest uses."""

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
KINDS = {"one process of two threads": (2, ()), "two processes of one thread": (1, TWO)}
"""Threads of a process, and what stands before the command."""


def recipe(out: Path, steps: int) -> str:
    """Such a run, as TOML."""
    return f"""
        out = "{out}"
        [model]
        preset = "tiny"
        num_hidden_layers = 8
        mask_time_prob = 0.65
        [data]
        crop_seconds = 2.0
        min_seconds = 2.0
        batch_seconds = 16.0
        train.voices.source = "builtin"
        [targets]
        clusters = 50
        sample_seconds = 100.0
        [optimizer]
        steps = {steps}
        warmup_steps = 2
        [run]
        log_every = 1
    """


def heard(kind: str, targets: Path, folder: Path) -> float:
    """Seconds of sound in a second, of one run."""
    (threads, launcher), out = KINDS[kind], folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(targets, out / "targets")
    (folder / "recipe.toml").write_text(recipe(out, STEPS), encoding="utf-8")
    command = [sys.executable, *launcher, "-m", "unisat", "pretrain", "--config", str(folder / "recipe.toml")]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    log = pd.read_csv(out / "train.csv").iloc[FIRST:]
    return float((log["audio_seconds"] / log["seconds"]).median())


def measure() -> dict:
    """All runs, in turn."""
    from unisat.training import loop
    from unisat.training.recipe import read

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.toml").write_text(recipe(folder / "first", 3), encoding="utf-8")
        loop.pretrain(read(folder / "recipe.toml"), progress=False)  # makes the targets
        runs = pd.DataFrame(
            [{kind: heard(kind, folder / "first" / "targets", folder) for kind in KINDS} for _ in range(ROUNDS)]
        )
    one, two = KINDS
    ratio = runs[two] / runs[one]
    return {**runs.median().to_dict(), "ratio": ratio.median(), "least": ratio.min(), "most": ratio.max()}


if __name__ == "__main__":
    machine = roofline.processor(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    found = {"when": datetime.date.today().isoformat(), "machine": machine, "found": measure()}
    report.PROCESSES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
