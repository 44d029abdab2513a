"""Time pooled features of all 13 layers of Base over a ragged corpus, against two ways of doing it with transformers.

    python benchmarks/collect.py [--peers 4.37.2 latest] [--repeats 5] [--threads 2]

The corpus is noise with the lengths of read speech (a gamma distribution, 1 to 16 s). Ours is `unisat.collect`. The
peer either pads eight utterances at a time, in the order of the corpus, or takes one at a time; then mean and standard
deviation over the valid frames of each hidden state. Two processes take turns, as in forward.py; a ratio is the peer's
time over ours in neighbouring runs. Beside the time stands how far the peer's features lie from its own features of
single utterances. Then: what capturing pooled hidden states adds to a forward pass of 10 s, in turn with and without;
and the highest memory over a corpus of files and over one sixteen times as long. Writes collect.json and .md.
"""

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

from forward import Process, peak_mb, peer_site

FOLDER = Path(__file__).resolve().parent
UTTERANCES = 32
CASES = ("padded by eight", "one at a time")


def lengths(count: int) -> list[int]:
    """Samples of each utterance."""
    import numpy as np

    seconds = np.clip(np.random.default_rng(0).gamma(2.5, 2.2, size=count), 1.0, 16.0)
    return [int(16_000 * s) for s in seconds]


def waveforms() -> list:
    """The corpus."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(samples, generator=generator) for samples in lengths(UTTERANCES)]


def pooled(states, frame_lengths):
    """(utterances, 13, 2 * hidden): mean and standard deviation over the valid frames."""
    import torch

    frames = states[0].shape[1]
    valid = (torch.arange(frames) < frame_lengths[:, None])[..., None].float()
    out = []
    for state in states:
        mean = (state * valid).sum(1) / valid.sum(1)
        spread = (((state - mean[:, None]) ** 2 * valid).sum(1) / valid.sum(1)).sqrt()
        out.append(torch.cat([mean, spread], dim=-1))
    return torch.stack(out, dim=1)


def our_features(folder: str):
    """A function of a case's name that gives all features and the seconds they took."""
    import torch

    import unisat as us

    model = us.UniSpeechSatModel.from_pretrained(folder)
    batch = us.Batch.from_arrays(waveforms(), sampling_rate=16_000)

    def features(case: str):
        start = time.perf_counter()
        bank = us.collect(model, batch, "hidden.*", progress=False)
        elapsed = time.perf_counter() - start
        return torch.stack([torch.from_numpy(bank[site]) for site in bank.hidden], dim=1), elapsed

    return features


def their_features(folder: str):
    """The same of the peer."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import UniSpeechSatModel

    model = UniSpeechSatModel.from_pretrained(folder).eval()
    waves = [(w - w.mean()) / torch.sqrt(w.var(unbiased=False) + 1e-7) for w in waveforms()]

    def features(case: str):
        size = {"padded by eight": 8, "one at a time": 1}[case]
        out = []
        start = time.perf_counter()
        with torch.inference_mode():
            for first in range(0, len(waves), size):
                some = waves[first : first + size]
                samples = torch.tensor([len(wave) for wave in some])
                values = pad_sequence(some, batch_first=True)
                mask = (torch.arange(values.shape[1]) < samples[:, None]).long()
                states = model(values, attention_mask=mask, output_hidden_states=True).hidden_states
                out.append(pooled(states, model._get_feat_extract_output_lengths(samples)))
        return torch.cat(out), time.perf_counter() - start

    return features


def worker(kind: str, folder: str, threads: int) -> None:
    """Answer a case's name on standard input with its time and a file of the features."""
    import torch

    torch.set_num_threads(threads)
    version = "here"
    if kind == "transformers":
        import transformers

        transformers.logging.set_verbosity_error()
        version = transformers.__version__
    print(json.dumps({"version": version, "torch": torch.__version__}), flush=True)
    features = our_features(folder) if kind == "unisat" else their_features(folder)
    for line in sys.stdin:
        values, elapsed = features(line.strip())
        path = f"{folder}/{kind}.pt"
        torch.save(values, path)
        print(json.dumps({"seconds": elapsed, "features": path}), flush=True)


def compare(folder: str, peer: str, repeats: int, threads: int) -> dict:
    """Both cases against one peer."""
    import torch

    ours = Process("unisat", folder, threads, script=__file__)
    theirs = Process("transformers", folder, threads, peer_site(peer), script=__file__)
    audio, rows = sum(lengths(UTTERANCES)) / 16_000, {}
    exact = torch.load(theirs.ask("one at a time")["features"])
    scale = exact.abs().amax((0, 2), keepdim=True)  # of each layer
    for case in CASES:
        pairs = [(ours.ask(case), theirs.ask(case)) for _ in range(repeats)]
        a, b = (torch.load(answer["features"]) for answer in pairs[-1])
        ratios = [b["seconds"] / a["seconds"] for a, b in pairs]
        rows[case] = {
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "ours_audio_per_s": audio / statistics.median(a["seconds"] for a, _ in pairs),
            "theirs_audio_per_s": audio / statistics.median(b["seconds"] for _, b in pairs),
            "ours_error": ((a - exact).abs() / scale).max().item(),
            "theirs_error": ((b - exact).abs() / scale).max().item(),
        }
        print(f"{case:16} {rows[case]['ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    facts = theirs.facts
    ours.close(), theirs.close()
    return {"transformers": facts["version"], "torch": facts["torch"], "rows": rows}


def capture_cost(folder: str, repeats: int) -> dict:
    """Time of a forward pass with pooled hidden states over that without, and the bytes that are kept."""
    import torch

    import unisat as us

    model = us.UniSpeechSatModel.from_pretrained(folder)
    wave = 0.1 * torch.randn(1, 160_000, generator=torch.Generator().manual_seed(0))
    ratios, kept = [], 0
    with torch.inference_mode():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            model(wave)
            plain = time.perf_counter() - start
            start = time.perf_counter()
            with us.capture(model, "hidden.*", reduce="mean+std") as trace:
                model(wave)
            ratios.append((time.perf_counter() - start) / plain)
            kept = trace.nbytes
    return {"ratio": statistics.median(ratios[1:]), "min": min(ratios[1:]), "max": max(ratios[1:]), "bytes": kept}


def memory(folder: str, times: int) -> float:
    """Highest memory, in MB, of collecting a corpus of files: 16 files, ``times`` over."""
    import pandas as pd
    import soundfile
    import torch

    import unisat as us

    rows = []
    for index, wave in enumerate(waveforms()[:16]):
        path = f"{folder}/{index}.flac"
        soundfile.write(path, wave.clamp(-1, 1).numpy(), 16_000)
        rows += [{"path": path, "id": f"{index}-{n}", "seconds": len(wave) / 16_000} for n in range(times)]
    torch.set_num_threads(2)
    # the columns of a model of Base's depth, but narrow: memory of the corpus, not of the weights, is asked for
    model = us.load("tiny")
    corpus = us.corpus.Corpus(pd.DataFrame(rows))
    us.collect(model, us.corpus.Corpus(corpus.table[:16]), "hidden.*", progress=False)
    peak_mb(reset=True)
    us.collect(model, corpus, "hidden.*", progress=False, folder=f"{folder}/bank-{times}")
    return peak_mb()


def table(results: dict) -> str:
    """The results as Markdown."""
    lines = ["# Pooled features of 13 layers over a ragged corpus, float32, CPU", ""]
    lines += [f"Written by `python benchmarks/collect.py` on {results['when']}."]
    lines += [f"Machine: {results['machine']}, {results['threads']} threads, torch {results['torch']}."]
    lines += [f"Base, {UTTERANCES} utterances, {results['audio_s']:.0f} s. Ratios are the peer's time over ours in "]
    lines[-1] += (
        "neighbouring runs: above 1, ours is faster. Errors are the largest difference from the peer's features "
    )
    lines[-1] += "of single utterances, over the largest value of the layer."
    for peer in results["peers"]:
        lines += ["", f"## Against transformers {peer['transformers']}", ""]
        lines += ["| the peer's way | ratio (median) | min to max | audio in a second, ours | theirs | error, ours |"]
        lines[-1] += " theirs |"
        lines += ["|---|---|---|---|---|---|---|"]
        for case, row in peer["rows"].items():
            rate = f"{row['ours_audio_per_s']:.1f} s | {row['theirs_audio_per_s']:.1f} s"
            errors = f"{row['ours_error']:.1e} | {row['theirs_error']:.1e}"
            span = f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}"
            lines.append(f"| {case} | **{row['ratio']:.2f}×** | {span} | {rate} | {errors} |")
    cost, mb = results["capture"], results["memory_mb"]
    lines += ["", "## What capturing costs", ""]
    lines += [
        f"Mean and standard deviation of 13 hidden states of 10 s: **{100 * (cost['ratio'] - 1):+.1f} %** of the "
    ]
    lines[-1] += f"forward pass (median; {100 * (cost['min'] - 1):+.1f} to {100 * (cost['max'] - 1):+.1f} %), "
    lines[-1] += f"{cost['bytes'] / 1e6:.2f} MB kept."
    lines += ["", "## Memory over the corpus", ""]
    lines += [
        f"Highest memory of the process: {mb['1']:.0f} MB over 16 files, {mb['16']:.0f} MB over sixteen times as many "
    ]
    lines[-1] += f'(**{mb["16"] / mb["1"]:.2f}×**), `us.load("tiny")`, written to a folder.'
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", default=["4.37.2", "latest"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options.worker[0], options.worker[1], int(options.worker[2]))
    if options.memory:
        print(memory(options.memory[0], int(options.memory[1])))
        return None
    import torch

    from unisat import UniSpeechSatConfig, UniSpeechSatModel

    torch.set_num_threads(options.threads)
    results: dict = {
        "when": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": options.threads,
        "torch": torch.__version__,
        "audio_s": sum(lengths(UTTERANCES)) / 16_000,
    }
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        UniSpeechSatModel(UniSpeechSatConfig()).save_pretrained(folder)
        results["capture"] = capture_cost(folder, 4 * options.repeats)
        results["memory_mb"] = {
            times: float(subprocess.check_output([sys.executable, __file__, "--memory", folder, times]).split()[-1])
            for times in ("1", "16")
        }
        results["peers"] = [compare(folder, peer, options.repeats, options.threads) for peer in options.peers]
    (FOLDER / "collect.json").write_text(json.dumps(results, indent=1) + "\n")
    (FOLDER / "collect.md").write_text(table(results))
    return None


if __name__ == "__main__":
    main()
