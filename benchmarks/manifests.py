"""What a large manifest costs before the first batch, in memory and time: writes docs/manifests.md.

    python benchmarks/manifests.py

Rows name links to a thousand small files, so that no two paths are the same and every file exists. Each size is read in
a process of its own; memory is what the process takes more than before.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS, FILES = (200_000, 1_000_000), 1000


def written(rows: int, folder: Path) -> Path:
    """Write a CSV table with so many rows."""
    (folder / "real").mkdir(exist_ok=True)
    for number in range(FILES):
        (folder / "real" / f"utterance-{number:04d}.wav").touch()
    lines = ["path,id,speaker,seconds"]
    for row in range(rows):
        who, number = divmod(row, FILES)
        if number == 0 and not (folder / f"speaker-{who:04d}").exists():
            (folder / f"speaker-{who:04d}").symlink_to("real")
        path = f"speaker-{who:04d}/utterance-{number:04d}.wav"
        lines.append(f"{path},speaker-{who:04d}-utterance-{number:04d},speaker-{who:04d},1.0")
    table = folder / f"{rows}.csv"
    table.write_text("\n".join(lines))
    return table


def measure(table: Path, small: Path) -> None:
    """Print peak megabytes and seconds: of reading a table, then with targets and the plan of an epoch."""
    import numpy as np
    import pandas as pd
    import torch

    from unisat import UniSpeechSatConfig
    from unisat.clusters import Clusters
    from unisat.training.data import TrainingData, manifest, union
    from unisat.training.targets import Targets

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    union({"a": manifest(small)})  # what is imported on the way does not count
    before, began = peak(), time.perf_counter()
    corpus = union({"a": manifest(table)})
    read = f"{peak() - before} {time.perf_counter() - began}"
    index = pd.DataFrame({"id": corpus.table["id"], "start": 49 * np.arange(len(corpus)), "frames": 49})
    labels = np.broadcast_to(np.uint16(0), 49 * len(corpus))
    targets = Targets(index.set_index("id"), labels, Clusters(torch.zeros(2, 2), 0.0), {})
    began = time.perf_counter()
    TrainingData(corpus, targets, UniSpeechSatConfig(), crop_seconds=1.0, batch_seconds=16.0).rows(0)
    print(read, peak() - before, time.perf_counter() - began)


def main() -> None:
    """Measure and write."""
    lines = [
        "# Large manifests: what they cost before the first batch",
        "",
        "Written by `python benchmarks/manifests.py`: CSV tables with path, id, speaker and seconds, on one core. Peak "
        "memory is over that of a process that has read a small table. A row's targets are found by its id.",
        "",
        "| rows | memory, read | time, read | memory, with targets and an epoch's plan | time, plan |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        small = written(FILES, Path(folder))
        for rows in ROWS:
            command = [sys.executable, __file__, str(written(rows, Path(folder))), str(small)]
            done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
            read, reading, all_of_it, planning = map(float, done.stdout.split())
            lines.append(f"| {rows:,} | {read:.0f} MB | {reading:.1f} s | {all_of_it:.0f} MB | {planning:.1f} s |")
    (Path(__file__).resolve().parents[1] / "docs" / "manifests.md").write_text(
        "\n".join(lines) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
