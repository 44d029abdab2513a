"""Write docs/performance.md from benchmarks/results.json, as `python -m benchmarks` does; alone: run this file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import roofline
import works

from unisat import UniSpeechSatConfig

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Work:
    """What a work is, and what it is asked to reach."""

    title: str
    bar: float | None = None
    """Times as fast as the faster of the two transformers."""
    audio: tuple[float, ...] = ()
    """Seconds of each utterance."""
    dtype: str = "float32"
    passes: int = 1
    """Forward passes that it is worth: forward and backward count as three."""
    size: str = "base"


STEPS = {name: (size, batch, seconds) for name, (size, batch, seconds) in works.STEPS.items()}
WORKS = {
    "forward": Work("forward, 1 × 10 s", 1.15, (10,)),
    "ragged": Work("forward, 8 ragged clips of 2 to 10 s with mask", 1.4, works.RAGGED),
    "wavlm": Work("forward of WavLM Base, 1 × 10 s", 1.0, (10,)),
    "wavlm_ragged": Work("the same, 8 ragged clips of 2 to 10 s with mask", 1.0, works.RAGGED),
    "hubert": Work("forward of HuBERT Base, 1 × 10 s", 1.15, (10,)),
    "wav2vec2": Work("forward of wav2vec 2.0 Base, 1 × 10 s", 1.15, (10,)),
    "everything": Work("all hidden states and all attentions, 1 × 10 s", 1.15, (10,)),
    "collect": Work("hidden states pooled over a ragged corpus; the peer one utterance at a time", 2.0, works.corpus()),
    "collect_padded": Work("the same; the peer padded by eight (and wrong)", 2.0, works.corpus()),
    "bf16": Work("forward in bfloat16, 1 × 10 s", 1.15, (10,), "bfloat16"),
    "masks": Work("span masks, 64 × 1,500 frames", 20.0),
    "xvector": Work("x-vectors of 32 ragged clips", 1.5, works.clips()),
    "step_tiny": Work("a step of pretraining, tiny, 10 × 3 s", 1.2, (3,) * 10, passes=3, size="tiny"),
    "step_base": Work("a step of pretraining, Base, 4 × 3 s", 1.2, (3,) * 4, passes=3),
}
LONG_MB, START_S, TOUR_S = 2000, 0.5, 30
"""Bars of ten minutes in one pass, of ``import unisat`` and of the tour."""


def faster(found: dict) -> dict | None:
    """The faster of the two transformers, if either is there."""
    there = [one for name, one in found.items() if name.startswith("transformers") and "ratio" in one]
    return min(there, key=lambda one: one["ratio"]) if there else None


def line(work: str, found: dict) -> str:
    """A result in a line, for the terminal."""
    if work not in WORKS:
        return f"{work:15} {found}"
    ours = found["unisat"]
    parts = [f"{work:15} {ours['seconds']:.3f} s"]
    others = {name: one for name, one in found.items() if isinstance(one, dict) and name != "unisat"}
    parts += [f"{name} {one['ratio']:.2f}x" for name, one in others.items() if "ratio" in one]
    return ", ".join(parts)


def verdict(reached: bool) -> str:
    """Whether a bar is reached, in a word."""
    return "reached" if reached else "**missed**"


def newest(history: list[dict], device: str) -> dict[str, tuple[dict, dict]]:
    """The newest run and result of each work on a kind of device."""
    runs = [run for run in history if run["device"].split(":")[0] == device]
    return {work: (run, found) for run in runs for work, found in run["works"].items()}


def share(work: str, run: dict, seconds: float) -> str:
    """How much of the time the machine's floor would take."""
    about = WORKS[work]
    if not about.audio:
        return "–"
    config = getattr(UniSpeechSatConfig, about.size)()
    least = about.passes * roofline.floor_seconds(config, about.audio, run["rates"], about.dtype)
    return f"{least:.2f} s ({least / seconds:.0%})"


def table(found: dict[str, tuple[dict, dict]]) -> list[str]:
    """A row for each work."""
    heads = "work", "bar", "against the faster `transformers`", "min to max", "", "ours", "the machine's floor (share)"
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for work, about in WORKS.items():
        if work not in found:
            lines.append(f"| {about.title} | | not run | | | | |")
            continue
        run, one = found[work]
        peer, ours = faster(one), one["unisat"]
        speed = f"**{peer['ratio']:.2f}×** | {peer['least']:.2f} to {peer['most']:.2f}" if peer else "absent | "
        said = verdict(peer["ratio"] >= about.bar) if peer else ""
        time = f"{ours['seconds']:.3f} s" if ours["seconds"] >= 0.01 else f"{1e3 * ours['seconds']:.2f} ms"
        cells = about.title, f"{about.bar}×", speed, said, time, share(work, run, ours["seconds"])
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def beside(found: dict[str, tuple[dict, dict]], names: list[str]) -> list[str]:
    """Every side's time and memory."""
    lines = ["| work | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for work, (_, one) in found.items():
        if work not in WORKS:
            continue
        cells = []
        for name in names:
            side = one.get(name, {"absent": ""})
            if "absent" in side:
                cells.append("–")
            else:
                speed = "" if name == "unisat" else f", {side['ratio']:.2f}×"
                cells.append(f"{side['seconds']:.3f} s{speed}, {side['mb']:.0f} MB")
        lines.append(f"| {WORKS[work].title} | " + " | ".join(cells) + " |")
    return lines


def alone(found: dict[str, tuple[dict, dict]]) -> list[str]:
    """Rows of what has no peer."""
    lines = ["| what | bar | measured | |", "|---|---|---|---|"]

    def row(what: str, bar: str, measured: str, reached: bool) -> None:
        lines.append(f"| {what} | {bar} | {measured} | {verdict(reached)} |")

    if "start" in found:
        _, one = found["start"]
        measured = f"{one['extra']:+.2f} s ({one['least']:+.2f} to {one['most']:+.2f}) on top of {one['torch']:.2f} s"
        row("`import unisat`, with its model and capture", f"≤ torch + {START_S} s", measured, one["extra"] <= START_S)
    if "tour" in found:
        seconds = found["tour"][1]["seconds"]
        row("the tour notebook, cold start to last cell", f"≤ {TOUR_S} s", f"{seconds:.1f} s", seconds <= TOUR_S)
    if "alone" in found:
        run, one = found["alone"]
        base, long, capture = UniSpeechSatConfig.base(), one["long"], one["capture"]
        least = roofline.floor_seconds(base, [600], run["rates"], "float32")
        measured = f"{long['mb']:.0f} MB, {long['seconds']:.0f} s (the machine's floor: {least:.0f} s)"
        row("10 minutes through Base in one pass", f"≤ {LONG_MB} MB over the weights", measured, long["mb"] <= LONG_MB)
        chunks = one["long_chunks"]
        measured = f"{chunks['mb']:.0f} MB, {chunks['seconds']:.0f} s; the error: [`chunks.md`](chunks.md)"
        row("the same by chunks of 20 s (`us.encode_long`)", "", measured, chunks["mb"] <= LONG_MB)
        cost = [100 * (capture[name] - 1) for name in ("ratio", "least", "most")]
        measured = f"{cost[0]:+.1f} % ({cost[1]:+.1f} to {cost[2]:+.1f} %), {capture['bytes'] / 1e6:.2f} MB"
        row("mean and deviation of 13 hidden states of 10 s, captured", "≤ 5 %, ≤ 0.1 MB", measured, cost[0] <= 5)
        if pooled := one.get("segments"):  # earlier runs are without
            cost = [100 * (pooled[name] - 1) for name in ("ratio", "least", "most")]
            measured = f"{cost[0]:+.1f} % ({cost[1]:+.1f} to {cost[2]:+.1f} %)"
            what = f"rows for {pooled['segments']:,} segments of 200 utterances instead of a mean for each utterance"
            row(what, "≤ 10 %", measured, cost[0] <= 10)
        few, many = one["corpus"]["mb"], one["corpus_16"]["mb"]
        measured = f"{few:.0f} MB over 16 files, {many:.0f} MB over sixteen times as many"
        row("highest memory of `collect` into a folder", "flat", measured, many <= 1.1 * few)
        matrix, gathered = one["contrastive"]["mb"], one["contrastive_gathered"]["mb"]
        measured = f"{matrix:.0f} MB, {gathered:.0f} MB with 101 vectors gathered for each masked frame"
        row("contrastive loss, 8 × 430 masked frames", "≤ half", measured, matrix <= gathered / 2)
    return lines


def section(history: list[dict], device: str) -> list[str]:
    """Everything about one kind of device."""
    found = newest(history, device)
    if not found:
        return [f"Absent: there was no {device} device where this was measured."]
    last = next(iter(found.values()))[0]
    facts, rates = last["machine"], last["rates"]
    dates = sorted({run["when"] for run, _ in found.values()})
    lines = [
        f"{facts.get('device', facts['processor'])}, {facts['cores']} cores, {facts['threads']} threads "
        f"({facts['instructions']}), torch {facts['torch']}; measured {' and '.join(dates)}. Matrix products: "
        f"{rates['float32'] / 1e9:.0f} billion operations a second in float32, {rates['bfloat16'] / 1e9:.0f} in "
        f"bfloat16; memory: {rates['bytes'] / 1e9:.0f} GB a second (`benchmarks/roofline.py`).",
        "",
        *table(found),
        "",
        *alone(found),
        "",
        "Times, ratios and highest memory of the process (weights and libraries included) of each side:",
        "",
    ]
    peers: dict[str, dict] = {}
    for run, _ in found.values():
        peers |= run["peers"]
    lines += beside(found, list(peers))
    lines += [""]
    for name, facts in peers.items():
        said = f"absent: {facts['absent']}" if "absent" in facts else f"{facts['version']}, torch {facts['torch']}"
        lines.append(f"- {name}: {said}")
    return lines


def tricks(rows: list[dict], faster: str) -> list[str]:
    """Rows of `tricks.py`."""
    heads = "what", "taken", "ms", "instead of", "ms", faster, "largest difference"
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        differ = f"{row['difference']:.0e}" if "difference" in row else "–"
        cells = row["what"], row["this"], f"{row['ms']:.2f}", row["other"], f"{row['other_ms']:.2f}"
        lines.append("| " + " | ".join((*cells, f"{row['ratio']:.2f}×", differ)) + " |")
    return lines


def render(history: list[dict]) -> str:
    """The page: benchmarks/performance.template with its tables."""
    text = (ROOT / "benchmarks" / "performance.template").read_text(encoding="utf-8")
    for device in ("cpu", "cuda"):
        text = text.replace(f"<!-- {device} -->", "\n".join(section(history, device)))
    found = newest(history, "cpu").get("tricks")
    for name, faster in (("kept", "times as fast"), ("left", "times as fast as it")):
        lines = tricks(found[1][name], faster) if found else ["Not run."]
        text = text.replace(f"<!-- {name} -->", "\n".join(lines))
    return text


def write(history: list[dict]) -> None:
    """Write docs/performance.md."""
    (ROOT / "docs" / "performance.md").write_text(render(history), encoding="utf-8")


if __name__ == "__main__":
    write(json.loads((ROOT / "benchmarks" / "results.json").read_text()))
