"""Time unisat beside other implementations, in one go, and keep the proof.

    python -m benchmarks [--against transformers-4.37.2 transformers-latest torchaudio plain] [--device cuda]
                         [--only forward ragged ...] [--rounds 7] [--threads 2]

Each peer runs in an environment of its own, made here (`peers/`); all processes stay open and take turns (A B C A B C
…), one at a time, so that a noisy machine disturbs all. A ratio is the peer's time over ours in the same round: above
1, ours is faster. What cannot run is reported as absent. Results are appended to benchmarks/results.json, and
docs/performance.md is written from the newest of each work on each machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as a script beside its siblings

import report
import roofline
from alone import ALONE
from peers import ROOT, AbsentError, Side

PEERS = ("transformers-4.37.2", "transformers-latest", "torchaudio", "plain")
MORE = ["start", "tour", "alone", "tricks"]
ALL = [*(work for work in report.WORKS if work not in report.GPU_WORKS), *MORE]
SLOW = {"collect": 3, "collect_padded": 3, "xvector": 3}
"""At most so many rounds."""


def machine(device: str, threads: int) -> dict:
    """What one must know of the machine to read its times."""
    import torch

    cpuinfo, facts = Path("/proc/cpuinfo"), {"processor": platform.processor() or platform.machine()}
    if cpuinfo.exists():
        facts |= roofline.processor(cpuinfo.read_text())
    facts |= {"cores": os.cpu_count(), "threads": threads, "torch": torch.__version__}
    facts["instructions"] = torch.backends.cpu.get_cpu_capability()
    if device.startswith("cuda"):
        facts["device"] = torch.cuda.get_device_name()
    return facts


def compare(sides: list[Side], work: str, rounds: int) -> dict:
    """Times and memory of one work on every side that does it; ratios in the same round."""
    there, found = [], {}
    for side in sides:
        first = side.ask(work)  # warms up
        if "absent" in first:
            found[side.name] = first
        else:
            there.append(side)
    answers = [{side.name: side.ask(work) for side in there} for _ in range(rounds)]
    for side in there:
        mine = [answer[side.name] for answer in answers]
        ratios = [answer[side.name]["seconds"] / answer["unisat"]["seconds"] for answer in answers]
        found[side.name] = {
            "seconds": statistics.median(one["seconds"] for one in mine),
            "mb": max(one["mb"] for one in mine),
            "above_mb": max(one["mb"] - one["before_mb"] for one in mine),
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
            "check": mine[0]["check"],
        }
    checks = {name: one["check"] for name, one in found.items() if one.get("check") is not None}
    tolerance = 3e-2 if "bf16" in work or work == "tf32" else 1e-4
    for name, value in checks.items():
        if abs(value / checks["unisat"] - 1) > tolerance:
            raise RuntimeError(f"{work}: {name} computes something else ({value} against {checks['unisat']}).")
    return found


def starting(rounds: int) -> dict:
    """Seconds of ``import torch``, and of ``import unisat`` with its model and capture, in turn."""
    code = {"torch": "import torch", "unisat": "import unisat; unisat.UniSpeechSatModel; unisat.run"}
    times: dict[str, list[float]] = {name: [] for name in code}
    for _ in range(rounds):
        for name, statement in code.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            times[name].append(time.perf_counter() - start)
    extra = [b - a for a, b in zip(times["torch"], times["unisat"], strict=True)]
    return {
        "torch": statistics.median(times["torch"]),
        "extra": statistics.median(extra),
        "least": min(extra),
        "most": max(extra),
    }


def tour() -> dict:
    """Seconds of the tour notebook, from the start of a fresh process to its last cell."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "notebook", "--output-dir", folder]
        start = time.perf_counter()
        subprocess.run([*command, str(ROOT / "notebooks" / "00_tour.ipynb")], check=True, capture_output=True)
        return {"seconds": time.perf_counter() - start}


def alone() -> dict:
    """What `alone.py` measures, each in a fresh process."""
    script, found = str(ROOT / "benchmarks" / "alone.py"), {}
    for name in ALONE:
        done = subprocess.run([sys.executable, script, name], capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout)
    return found


def tricks() -> dict:
    """What `tricks.py` measures."""
    script = str(ROOT / "benchmarks" / "tricks.py")
    return json.loads(subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Run what is asked for and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", nargs="*", default=list(PEERS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", default=ALL, choices=[*report.WORKS, *MORE])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()

    import torch

    import unisat
    from unisat import UniSpeechSatConfig, UniSpeechSatForXVector

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit(f"absent: {options.device} (torch {torch.__version__} sees no such device here)")
    torch.set_num_threads(options.threads)
    (ROOT / "build").mkdir(exist_ok=True)
    results: dict = {
        "when": datetime.date.today().isoformat(),
        "device": options.device,
        "machine": machine(options.device, options.threads),
        "rates": roofline.rates(options.device),
        "peers": {},
        "works": {},
    }
    file = ROOT / "benchmarks" / "results.json"
    history = json.loads(file.read_text()) if file.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        base = UniSpeechSatConfig.base(use_weighted_layer_sum=False)
        UniSpeechSatForXVector(base).save_pretrained(folder)  # the backbone is in it
        for kind in (unisat.WavLMModel, unisat.HubertModel, unisat.Wav2Vec2Model):
            kind(kind.config_class.base()).save_pretrained(Path(folder) / kind.base_model_prefix)
        for size in ("tiny", "base"):
            config = getattr(UniSpeechSatConfig, size)(mask_time_prob=0.65)
            (Path(folder) / f"{size}.json").write_text(json.dumps(config.to_dict()))
        sides: list[Side] = []
        for name in ("unisat", *options.against):
            try:
                sides.append(Side(name, folder, options.device, options.threads))
                results["peers"][name] = sides[-1].facts
            except AbsentError as reason:
                results["peers"][name] = {"absent": str(reason)}
                print(f"absent: {name}: {reason}", flush=True)
        for work in options.only:
            if work in report.WORKS:
                found = compare(sides, work, min(options.rounds, SLOW.get(work, options.rounds)))
            else:
                found = {"start": lambda: starting(options.rounds), "tour": tour, "alone": alone, "tricks": tricks}[
                    work
                ]()
            results["works"][work] = found
            print(report.line(work, found), flush=True)
            file.write_text(json.dumps([*history, results], indent=1) + "\n")  # what is done is kept, come what may
        for side in sides:
            side.close()
    report.write([*history, results])


if __name__ == "__main__":
    main()
