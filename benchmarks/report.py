"""Write docs/performance.md from benchmarks/results.json, as `python -m benchmarks` does; alone: run this file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import roofline
import works

from unisat import UniSpeechSatConfig

ROOT = Path(__file__).resolve().parent.parent
WIDGETS = ROOT / "benchmarks" / "instruments.json"
SHARES = ROOT / "benchmarks" / "shares.json"
PROCESSES = ROOT / "benchmarks" / "processes.json"


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


WORKS = {
    "forward": Work("forward, 1 × 10 s", 1.15, (10,)),
    "ragged": Work("forward, 8 ragged clips of 2 to 10 s with mask", 1.4, works.RAGGED),
    "wavlm": Work("forward of WavLM Base, 1 × 10 s", 1.5, (10,)),
    "wavlm_ragged": Work("the same, 8 ragged clips of 2 to 10 s with mask", 2.5, works.RAGGED),
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
GPU_WORKS = {
    "tf32": Work("forward in TF32, 1 × 10 s", 1.3, (10,)),
    "compiled": Work("forward through torch.compile, 1 × 10 s", 1.0, (10,)),
    "large_bf16": Work("forward in bfloat16, 10 × 10 s", 1.3, (10,) * 10, "bfloat16"),
    "step_bf16": Work("a step of pretraining with autocasting, Base, 4 × 3 s", 1.5, (3,) * 4, "bfloat16", passes=3),
}
"""What is worth its time on a GPU alone; run where it is named."""
WORKS |= GPU_WORKS
LONG_MB, START_S, TOUR_S, SEGMENTS = 2000, 0.5, 30, 1.1
"""Bars of ten minutes in one pass, of ``import unisat``, of the tour, and of segments over one pass."""
AT_ONCE_MS = {"hover": 16, "zoom": 16, "ahead": 16, "kernel": 100}
"""Bars of what a widget's picture takes: where the pointer is, where one looks closer, where a control moves to what
was asked ahead, and to what was not."""
NEAR = 1.25
"""Rates of one machine differ by less than this factor from run to run."""


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


@dataclass
class Machine:
    """One that was measured: its facts and rates, by its newest run, and the newest run and result of each work."""

    facts: dict = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    found: dict[str, tuple[dict, dict]] = field(default_factory=dict)

    def ran(self, run: dict) -> bool:
        """Whether a run can have been here: no fact that both know differs, and no rate by more than `NEAR`."""
        known = [key for key in ("device", "processor", "family", "model", "threads") if key in self.facts]
        alike = all(run["machine"].get(key, self.facts[key]) == self.facts[key] for key in known)
        return alike and all(1 / NEAR < run["rates"][name] / rate < NEAR for name, rate in self.rates.items())


def machines(history: list[dict], device: str) -> dict[str, Machine]:
    """The machines that ran on a kind of device, by a letter, the first measured first."""
    found: list[Machine] = []
    for run in (run for run in history if run["device"].split(":")[0] == device):
        machine = next((one for one in found if one.ran(run)), None)
        if machine is None:
            found.append(machine := Machine())
        machine.facts |= run["machine"]
        machine.rates = run["rates"]
        machine.found |= {work: (run, result) for work, result in run["works"].items()}
    return {chr(ord("A") + number): machine for number, machine in enumerate(found)}


def grid(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A table in Markdown."""
    return ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]


def columns(heads: Sequence[str], cells: dict[str, dict[tuple[str, ...], str]]) -> list[str]:
    """A table with a column for each machine: cells by letter and by what stands left of them."""
    rows = dict.fromkeys(row for column in cells.values() for row in column)
    return grid((*heads, *cells), [(*row, *(column.get(row, "–") for column in cells.values())) for row in rows])


def time(seconds: float) -> str:
    """Seconds or milliseconds."""
    return f"{seconds:.3f} s" if seconds >= 0.01 else f"{1e3 * seconds:.2f} ms"


def named(there: dict[str, Machine]) -> list[str]:
    """A row for each machine: what it is."""
    heads = "", "processor", "family, model", "cores, threads", "instructions", "float32", "bfloat16", "memory", "torch"
    rows = []
    for letter, one in there.items():
        facts, rates = one.facts, one.rates
        number = ", ".join(facts[key] for key in ("family", "model") if key in facts) or "not noted"
        sizes = [f"{rates[name] / 1e9:.0f}" for name in ("float32", "bfloat16", "bytes")]
        threads = f"{facts['cores']}, {facts['threads']}"
        dates = ", ".join(sorted({run["when"] for run, _ in one.found.values()}))
        name = facts.get("device", facts["processor"])
        rows.append((f"**{letter}**", name, number, threads, facts["instructions"], *sizes, facts["torch"], dates))
    return grid((*heads, "measured"), rows)


def cell(work: str, run: dict, found: dict) -> str:
    """One work on one machine: the ratio, the time, and the share of it that the machine's floor would take."""
    about, peer, seconds = WORKS[work], faster(found), found["unisat"]["seconds"]
    lines = ["absent"]
    if peer:
        lines = [f"**{peer['ratio']:.2f}×** {verdict(peer['ratio'] >= about.bar)}"]
        lines += [f"{peer['least']:.2f} to {peer['most']:.2f}"]
    lines += [time(seconds)]
    if about.audio:
        config = getattr(UniSpeechSatConfig, about.size)()
        least = about.passes * roofline.floor_seconds(config, about.audio, run["rates"], about.dtype)
        lines[-1] += f", {least / seconds:.0%}"
    return "<br>".join(lines)


def compared(found: dict[str, tuple[dict, dict]]) -> dict[tuple[str, ...], str]:
    """Each work on one machine."""
    return {
        (about.title, f"{about.bar}×"): cell(work, *found[work]) if work in found else "–"
        for work, about in WORKS.items()
        if work in found or work not in GPU_WORKS
    }


def beside(machine: Machine) -> list[str]:
    """Every side's time, ratio and memory on one machine."""
    peers: dict[str, dict] = {}
    for run, _ in machine.found.values():
        peers |= run["peers"]
    rows = []
    for work in (work for work in WORKS if work in machine.found):
        cells = []
        for name in peers:
            side = machine.found[work][1].get(name, {"absent": ""})
            speed = "" if name == "unisat" or "absent" in side else f"{side['ratio']:.2f}×, "
            cells.append("–" if "absent" in side else f"{speed}{time(side['seconds'])}<br>{side['mb']:.0f} MB")
        rows.append((WORKS[work].title, *cells))
    versions = (facts.get("version", f"absent: {facts.get('absent')}") for facts in peers.values())
    return grid(("work", *(f"{name}<br>{version}" for name, version in zip(peers, versions, strict=True))), rows)


def alone(found: dict[str, tuple[dict, dict]]) -> dict[tuple[str, ...], str]:
    """What has no peer, on one machine."""
    cells: dict[tuple[str, ...], str] = {}

    def row(what: str, bar: str, measured: str, reached: bool) -> None:
        cells[what, bar] = f"{measured}<br>{verdict(reached)}"

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
        measured = f"{long['mb']:.0f} MB, {long['seconds']:.0f} s, {least / long['seconds']:.0%}"
        row("10 minutes through Base in one pass", f"≤ {LONG_MB} MB over the weights", measured, long["mb"] <= LONG_MB)
        chunks = one["long_chunks"]
        measured = f"{chunks['mb']:.0f} MB, {chunks['seconds']:.0f} s"
        row(
            "the same by chunks of 20 s (`us.encode_long`; the error: [`chunks.md`](chunks.md))",
            "",
            measured,
            chunks["mb"] <= LONG_MB,
        )
        cost = [100 * (capture[name] - 1) for name in ("ratio", "least", "most")]
        measured = f"{cost[0]:+.1f} % ({cost[1]:+.1f} to {cost[2]:+.1f} %), {capture['bytes'] / 1e6:.2f} MB"
        row("mean and deviation of 13 hidden states of 10 s, captured", "≤ 5 %, ≤ 0.1 MB", measured, cost[0] <= 5)
        if pooled := one.get("segments"):  # earlier runs are without
            measured = f"{pooled['ratio']:.2f}× ({pooled['least']:.2f} to {pooled['most']:.2f})"
            what = f"time of rows for {pooled['segments']:,} segments of 200 utterances over that of their means"
            row(what, f"≤ {SEGMENTS:.2f}×", measured, pooled["ratio"] <= SEGMENTS)
        few, many = one["corpus"]["mb"], one["corpus_16"]["mb"]
        measured = f"{few:.0f} MB, {many:.0f} MB"
        row(
            "highest memory of `collect` into a folder, 16 files and sixteen times as many",
            "flat",
            measured,
            many <= 1.1 * few,
        )
        matrix, gathered = one["contrastive"]["mb"], one["contrastive_gathered"]["mb"]
        measured = f"{matrix:.0f} MB, {gathered:.0f} MB"
        row(
            "contrastive loss, 8 × 430 masked frames; with 101 vectors gathered for each",
            "≤ half",
            measured,
            matrix <= gathered / 2,
        )
    return cells


def section(there: dict[str, Machine], device: str) -> list[str]:
    """Everything about one kind of device."""
    if not there:
        return [f"Absent: there was no {device} device where this was measured."]
    lines = named(there)
    for what, measured in (("work", compared), ("what", alone)):
        lines += ["", *columns((what, "bar"), {letter: measured(one.found) for letter, one in there.items()})]
    for letter, one in there.items():
        title = "Ratio, time and highest memory of the process (weights and libraries included) of each side on"
        lines += ["", f"{title} {letter}:", "", *beside(one)]
    return lines


def tricks(found: dict[str, tuple[dict, dict]], part: str) -> dict[tuple[str, ...], str]:
    """A part of `tricks.py` on one machine."""
    cells = {}
    for row in found["tricks"][1][part] if "tricks" in found else []:
        lines = [f"**{row['ratio']:.2f}×**", f"{row['ms']:.2f}, {row['other_ms']:.2f} ms"]
        lines += [f"{row['difference']:.0e}"] if "difference" in row else []
        cells[row["what"], row["this"], row["other"]] = "<br>".join(lines)
    return cells


def instruments(measured: dict) -> list[str]:
    """What `instruments.py` measured."""
    facts = ", ".join(str(one) for one in measured["machine"].values())
    chromium, when = measured["chromium"], measured["when"]
    about = f"Medians of {measured['times']} events, in headless Chromium {chromium} on {facts}, {when}."
    widgets = measured["widgets"]
    names = {"hover": "pointer", "zoom": "closer", "ahead": "control, asked ahead", "kernel": "control"}
    bars = {kind: bar for kind, bar in AT_ONCE_MS.items() if all(kind in one for one in widgets.values())}
    rows = []
    for name, one in widgets.items():
        cells = [f"{one[kind]:.1f} ms<br>{verdict(one[kind] <= bar)}" for kind, bar in bars.items()]
        rows.append((f"`{name}`", *cells, one["control"]))
    missed = [
        f"`{name}` ({names[kind]})" for kind, bar in bars.items() for name, one in widgets.items() if one[kind] > bar
    ]
    heads = [f"{names[kind]}<br>≤ {bar} ms" for kind, bar in bars.items()]
    return [about, "", *grid(("widget", *heads, "which control"), rows), "", f"Missed: {', '.join(missed) or 'none'}."]


def shares(measured: dict) -> list[str]:
    """What `shares.py` measured."""
    found = dict(measured["shares"])
    about = f"On {', '.join(measured['machine'].values())}, threads: {measured['threads']}, {measured['when']}; "
    about += f"a step took {found.pop('step'):.2f} s."
    rows: dict[str, list[str]] = {}
    for name, share in sorted(found.items(), key=lambda one: -one[1]):
        part, _, direction = name.rpartition(", ")
        cells = rows.setdefault(part or name, ["–", "–"])
        cells[direction == "backward"] = f"{share:.1%}"
    return [about, "", *grid(("part", "forward", "backward"), [(part, *cells) for part, cells in rows.items()])]


def processes(measured: dict) -> list[str]:
    """What `processes.py` measured."""
    found = dict(measured["found"])
    ratio, least, most = (found.pop(name) for name in ("ratio", "least", "most"))
    verdict = "reached" if ratio >= 0.9 else "**missed**"
    heard = ", ".join(f"{kind} {value:.0f} s of sound in a second" for kind, value in found.items())
    return [
        f"On {', '.join(measured['machine'].values())}, {measured['when']}, {heard}. The two hear {ratio:.2f} times as "
        f"much as the one ({least:.2f} to {most:.2f} over rounds; asked: 0.9, {verdict})."
    ]


def render(history: list[dict]) -> str:
    """The page: benchmarks/performance.template with its tables."""
    text = (ROOT / "benchmarks" / "performance.template").read_text(encoding="utf-8")
    cpu, cuda = machines(history, "cpu"), machines(history, "cuda")
    parts = {"cpu": section(cpu, "cpu"), "cuda": section(cuda, "cuda")}
    for part in ("kept", "left"):
        cells = {letter: tricks(one.found, part) for letter, one in cpu.items()}
        parts[part] = columns(("what", "taken", "instead of"), cells)
    parts["widgets"] = instruments(json.loads(WIDGETS.read_text(encoding="utf-8")))
    parts["shares"] = shares(json.loads(SHARES.read_text(encoding="utf-8")))
    parts["processes"] = processes(json.loads(PROCESSES.read_text(encoding="utf-8")))
    for part, lines in parts.items():
        text = text.replace(f"<!-- {part} -->", "\n".join(lines))
    return text


def write(history: list[dict]) -> None:
    """Write docs/performance.md."""
    (ROOT / "docs" / "performance.md").write_text(render(history), encoding="utf-8")


if __name__ == "__main__":
    write(json.loads((ROOT / "benchmarks" / "results.json").read_text()))
