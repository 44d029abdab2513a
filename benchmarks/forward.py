"""Time a forward pass of Base against transformers, and `import unisat` against `import torch`.

    python benchmarks/forward.py [--peers 4.37.2 latest] [--repeats 11] [--threads 2]

Each peer lives in its own folder under build/peers, made here with pip. One process holds our model, one the
peer's, both with the same weights; they run in turn (A B A B …) and only one at a time, so that a noisy machine
disturbs both. A ratio is the peer's time over ours in neighbouring runs: above 1 we are faster. Memory is the
highest resident size during the case, weights and libraries included. Writes benchmarks/forward.json and .md.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
CASES = {
    f"{size}, {what}": (batch, seconds, options)
    for size, batch, seconds in [("1 × 10 s", 1, 10), ("4 × 5 s", 4, 5)]
    for what, options in [
        ("last hidden state", {}),
        ("all hidden states", {"output_hidden_states": True}),
        ("all attentions", {"output_attentions": True}),
    ]
}


def peak_mb(reset: bool = False) -> float:
    """Highest resident size of this process since the last reset, in MB."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    except OSError:  # not Linux: the highest of the whole run
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def worker(kind: str, folder: str, threads: int) -> None:
    """Answer a case name on standard input with its time, memory and a number to compare."""
    import torch

    torch.set_num_threads(threads)
    if kind == "unisat":
        from unisat import UniSpeechSatModel

        models = dict.fromkeys(("plain", "eager"), UniSpeechSatModel.from_pretrained(folder))
        version = "here"
    else:
        import transformers
        from transformers import UniSpeechSatModel

        transformers.logging.set_verbosity_error()
        version = transformers.__version__
        models = {"plain": UniSpeechSatModel.from_pretrained(folder).eval()}
        # newer versions give attention weights on their eager path only
        eager = {} if version.startswith("4.37") else {"attn_implementation": "eager"}
        models["eager"] = UniSpeechSatModel.from_pretrained(folder, **eager).eval() if eager else models["plain"]
    print(json.dumps({"version": version, "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        batch, seconds, options = CASES[line.strip()]
        model = models["eager" if options.get("output_attentions") else "plain"]
        generator = torch.Generator().manual_seed(0)
        waveforms = 0.1 * torch.randn(batch, 16000 * seconds, generator=generator)
        peak_mb(reset=True)
        with torch.inference_mode():
            start = time.perf_counter()
            out = model(waveforms, **options)
            elapsed = time.perf_counter() - start
        answer = {"seconds": elapsed, "mb": peak_mb(), "check": out.last_hidden_state.abs().mean().item()}
        del out
        print(json.dumps(answer), flush=True)


class Process:
    """One of the two processes."""

    def __init__(self, kind: str, folder: str, threads: int, site: Path | None = None, script: str = __file__):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TRANSFORMERS_OFFLINE": "1"}
        environment["PYTHONPATH"] = str(site) if site else ""
        command = [sys.executable, script, "--worker", kind, folder, str(threads)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)
        self.facts = self.answer()

    def answer(self) -> dict:
        """The next line that it prints."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)

    def ask(self, case: str) -> dict:
        """Its time, memory and check for one case."""
        self.process.stdin.write(case + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End it."""
        self.process.stdin.close()
        self.process.wait()


def peer_site(version: str) -> Path:
    """Folder with transformers and what it needs, installed there once."""
    site = ROOT / "build" / "peers" / f"transformers-{version}"
    if not (site / "transformers").is_dir():
        name = "transformers" if version == "latest" else f"transformers=={version}"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", str(site), name, "numpy<3"], check=True)
    return site


def compare(folder: str, peer: str, repeats: int, threads: int) -> dict:
    """All cases against one peer."""
    ours = Process("unisat", folder, threads)
    theirs = Process("transformers", folder, threads, peer_site(peer))
    rows = {}
    for case in CASES:
        ours.ask(case), theirs.ask(case)  # warm up
        pairs = [(ours.ask(case), theirs.ask(case)) for _ in range(repeats)]
        a, b = pairs[0]
        assert abs(a["check"] / b["check"] - 1) < 1e-4, (case, a, b)
        ratios = [b["seconds"] / a["seconds"] for a, b in pairs]
        rows[case] = {
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "ours_s": statistics.median(a["seconds"] for a, _ in pairs),
            "theirs_s": statistics.median(b["seconds"] for _, b in pairs),
            "ours_mb": max(a["mb"] for a, _ in pairs),
            "theirs_mb": max(b["mb"] for _, b in pairs),
        }
        print(f"{case:32} {rows[case]['ratio']:.3f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    facts = theirs.facts
    ours.close(), theirs.close()
    return {"transformers": facts["version"], "torch": facts["torch"], "rows": rows}


def import_seconds(repeats: int) -> dict:
    """Seconds of `import torch` and of `import unisat` with its model and capture, in turn."""
    code = {"torch": "import torch", "unisat": "import unisat; unisat.UniSpeechSatModel; unisat.run"}
    times: dict[str, list[float]] = {name: [] for name in code}
    for _ in range(repeats):
        for name, statement in code.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            times[name].append(time.perf_counter() - start)
    extra = [b - a for a, b in zip(times["torch"], times["unisat"], strict=True)]
    return {"torch_s": statistics.median(times["torch"]), "extra_s": statistics.median(extra)}


def table(results: dict) -> str:
    """The results as Markdown."""
    lines = [
        "# Forward pass of Base, float32, CPU",
        "",
        f"Written by `python benchmarks/forward.py` on {results['when']}.",
    ]
    lines += [f"Machine: {results['machine']}, {results['threads']} threads, torch {results['torch']}. "]
    lines[-1] += "Ratios are transformers' time over ours in neighbouring runs: above 1, ours is faster."
    for peer in results["peers"]:
        lines += ["", f"## Against transformers {peer['transformers']}", ""]
        lines += ["| case | ratio (median) | min to max | ours | theirs | peak memory, ours | theirs |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for case, row in peer["rows"].items():
            times = f"{row['ours_s']:.2f} s | {row['theirs_s']:.2f} s"
            memory = f"{row['ours_mb']:.0f} MB | {row['theirs_mb']:.0f} MB"
            span = f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}"
            lines.append(f"| {case} | **{row['ratio']:.2f}×** | {span} | {times} | {memory} |")
    importing = results["import"]
    lines += [
        "",
        "## Importing",
        "",
        f"`import torch`: {importing['torch_s']:.2f} s. `import unisat`, with its model ",
    ]
    lines[-1] += f"and capture: {importing['extra_s']:+.2f} s on top of that."
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", default=["4.37.2", "latest"])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, folder, threads = options.worker
        worker(kind, folder, int(threads))
        return

    import torch

    from unisat import UniSpeechSatConfig, UniSpeechSatModel

    torch.manual_seed(0)
    results = {
        "when": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": options.threads,
        "torch": torch.__version__,
    }
    with tempfile.TemporaryDirectory() as folder:
        UniSpeechSatModel(UniSpeechSatConfig.base()).save_pretrained(folder)
        results["peers"] = [compare(folder, peer, options.repeats, options.threads) for peer in options.peers]
    results["import"] = import_seconds(5)
    (FOLDER / "forward.json").write_text(json.dumps(results, indent=1) + "\n")
    (FOLDER / "forward.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
