"""How often intervals hold the truth, and how often tests cry wolf, in worlds whose truth is known: docs/measuring.md.

    python benchmarks/coverage.py

Each simulation has the size that the notebooks use. A nominal 95 % interval should hold the truth in 93 to 97 of 100
worlds, and a p-value should lie below 0.05 in 3 to 7 of 100 worlds without an effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from unisat.interpret.features.bank import LENGTHS, FeatureBank, Part
from unisat.interpret.interventions.sweep import SweepResult
from unisat.interpret.statistics.error_rates import eer, eer_interval
from unisat.interpret.statistics.intervals import as_good_as_best, interval, resampled
from unisat.interpret.units.codebook import codebook_usage

PAGE = Path(__file__).resolve().parents[1] / "docs" / "measuring.md"
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"

Worlds = Iterator[bool]


# interventions


def swept(
    draw: np.random.Generator, pairs: int, heads: int, placebos: int, directions: str, effect: float = 0.0
) -> SweepResult:
    """Heads of 16 channels whose output a metric reads along one direction, and bent; patches in random directions.

    ``directions`` says how the clean values lie, seen from the metric: anew for each "pair", or "along" the metric by
    ``effect`` of their size.
    """
    size = np.exp(0.5 * draw.normal(size=(heads, 1, pairs)))
    unit = draw.normal(size=(heads, 1 + placebos, pairs, 16))
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    if directions == "along":
        unit[:, 0] *= np.sqrt(1 - effect**2)
        unit[:, 0, :, 0] = effect
    moved = size * unit[..., 0] + 0.3 * (size * unit[..., 1]) ** 2
    corrupt = draw.normal(size=pairs)
    return SweepResult(
        units=pd.DataFrame(
            {"site": "block.0.attn.z", "layer": 0, "head": range(heads), "start": np.nan, "end": np.nan}
        ),
        clean=corrupt + 4 + draw.normal(size=pairs),
        corrupt=corrupt,
        patched=corrupt + moved[:, 0],
        placebos=corrupt + moved[:, 1:],
        groups=np.arange(pairs).astype(str),
        n_boot=500,
    )


def one_head(worlds: int) -> Worlds:
    """Whether a head without an effect has p <= 0.05."""
    draw = np.random.default_rng(0)
    for _ in range(worlds // 36):
        yield from swept(draw, 12, 36, 2, "pair").table()["p_value"] <= 0.05


def any_head(worlds: int) -> Worlds:
    """Whether any of 36 heads without an effect has an adjusted p <= 0.05."""
    draw = np.random.default_rng(1)
    for _ in range(worlds):
        yield bool((swept(draw, 12, 36, 8, "pair").table()["p_adjusted"] <= 0.05).any())


def planted_head(worlds: int) -> Worlds:
    """Whether a head whose values lie half along the metric is found among 35 others."""
    draw = np.random.default_rng(2)
    for _ in range(worlds):
        result = swept(draw, 12, 36, 8, "pair")
        planted = swept(draw, 12, 1, 8, "along", 0.5)
        result.patched[0] = planted.patched[0] - planted.corrupt + result.corrupt
        result.placebos[0] = planted.placebos[0] - planted.corrupt + result.corrupt
        yield bool(result.table()["p_adjusted"][0] <= 0.05)


def effects(pairs: int) -> Callable[[int], Worlds]:
    """Whether the interval of an effect holds it; speakers differ in how far a patch moves them."""

    def worlds(count: int) -> Worlds:
        draw = np.random.default_rng(pairs)
        for _ in range(count):
            corrupt, gap = draw.normal(size=pairs), 2 + 0.5 * draw.normal(size=pairs)
            share = 0.5 + 0.2 * draw.normal(size=pairs)
            table = SweepResult(
                units=pd.DataFrame({"site": ["hidden.1"], "layer": 1, "head": None, "start": np.nan, "end": np.nan}),
                clean=corrupt + gap,
                corrupt=corrupt,
                patched=(corrupt + share * gap + 0.2 * draw.normal(size=pairs))[None],
                placebos=np.empty((1, 0, pairs)),
                groups=np.arange(pairs).astype(str),
            ).table()
            yield table["low"][0] <= 0.5 <= table["high"][0]

    return worlds


# layers


def answers(draw: np.random.Generator, speakers: int, layers: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Who speaks, and whether each layer's probe is right; speakers are more or less easy, layers err by themselves."""
    who = np.repeat(np.arange(speakers), each)
    ease = 1.0 + draw.normal(size=(speakers, 1)) + 0.3 * draw.normal(size=(speakers, layers))
    return who, (ease[who] + draw.logistic(size=(len(who), layers)) > 0).astype(float)


def accuracies(speakers: int, each: int) -> Callable[[int], Worlds]:
    """Whether the interval of an accuracy holds that of all speakers."""

    def worlds(count: int) -> Worlds:
        truth = answers(np.random.default_rng(99), 200_000, 1, 1)[1].mean()
        draw = np.random.default_rng(speakers)
        for number in range(count):
            who, right = answers(draw, speakers, 1, each)
            counts = resampled(who, 500, seed=number)
            low, high = interval((counts @ right[:, 0]) / counts.sum(1), groups=speakers)
            yield low <= truth <= high

    return worlds


def best_layers(count: int) -> Worlds:
    """Whether the fourth of seven equal layers is left out of the best ones."""
    draw = np.random.default_rng(3)
    for number in range(count):
        who, right = answers(draw, 24, 7, 8)
        counts = resampled(who, 500, seed=number)
        drawn = (counts @ right / counts.sum(1, keepdims=True)).T
        yield not as_good_as_best(right.mean(0), drawn, groups=24)[3]


# verification


def trials(draw: np.random.Generator, speakers: int, each: int) -> np.ndarray:
    """Unit vectors of utterances, (speakers, each, 6); some speakers vary more than others."""
    hard = np.exp(0.3 * draw.normal(size=(speakers, 1, 1)))
    x = draw.normal(size=(speakers, 1, 6)) + 0.8 * hard * draw.normal(size=(speakers, each, 6))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def error_rates(speakers: int, each: int) -> Callable[[int], Worlds]:
    """Whether the interval of an equal error rate holds that of all speakers."""

    def worlds(count: int) -> Worlds:
        draw = np.random.default_rng(speakers)
        pairs = trials(draw, 40_000, 2)
        scores = [np.einsum("sd,sd->s", pairs[:, 0], np.roll(pairs[:, 1], k, 0)) for k in range(4)]
        truth = eer(np.concatenate(scores), np.arange(4 * len(pairs)) < len(pairs))
        who = np.repeat(np.arange(speakers), each)
        enrol, test = np.triu_indices(len(who), 1)
        for number in range(count):
            x = trials(draw, speakers, each).reshape(len(who), -1)
            low, high = eer_interval(
                (x @ x.T)[enrol, test], who[enrol] == who[test], (who[enrol], who[test]), n_boot=300, seed=number
            )
            yield low <= truth <= high

    return worlds


# codes


def spoken(draw: np.random.Generator, shared: float) -> tuple[FeatureBank, dict[str, np.ndarray]]:
    """Codes of 12 speakers' 6 sentences and words at their frames, both in runs; neither says a thing of the other.

    ``shared`` is how strongly speakers favour some codes and some words.
    """
    codes, words, rows = [], {}, []
    for speaker in range(12):
        taste = [np.exp(shared * draw.normal(size=size)) for size in (16, 8)]
        for sentence in range(6):
            drawn = []
            for weights, run in zip(taste, (3, 12), strict=True):
                kinds = draw.choice(len(weights), size=120, p=weights / weights.sum())
                drawn.append(np.repeat(kinds, draw.geometric(1 / run, size=120))[:100])
            codes.append(drawn[0])
            words[f"{speaker}-{sentence}"] = drawn[1]
            rows.append({"id": f"{speaker}-{sentence}", "speaker": f"s{speaker}", "sentence": f"t{sentence}"})
    arrays = {"quant.codes": np.concatenate(codes)[:, None], "quant.codes" + LENGTHS: np.full(72, 100)}
    return FeatureBank(pd.DataFrame(rows), [Part(np.arange(72), arrays)]), words


def words_known(shared: float) -> Callable[[int], Worlds]:
    """Whether codes that know nothing of words have p <= 0.05 for them."""

    def worlds(count: int) -> Worlds:
        draw = np.random.default_rng(4)
        for number in range(count):
            bank, words = spoken(draw, shared)
            report = codebook_usage(bank, entries=16, frame_labels={"word": words}, n_shuffles=39, seed=number)
            yield report.information["p_value"][0] <= 0.05

    return worlds


def sentences_known(count: int) -> Worlds:
    """Whether codes that know voices and nothing of sentences have p <= 0.05 for the sentence."""
    draw = np.random.default_rng(5)
    for number in range(count):
        report = codebook_usage(spoken(draw, 1.0)[0], entries=16, labels="sentence", n_shuffles=39, seed=number)
        yield report.information["p_value"][0] <= 0.05


def voices_known(count: int) -> Worlds:
    """Whether codes that know nothing of voices have p <= 0.05 for the speaker."""
    draw = np.random.default_rng(6)
    for number in range(count):
        report = codebook_usage(spoken(draw, 0.0)[0], entries=16, labels="speaker", n_shuffles=39, seed=number)
        yield report.information["p_value"][0] <= 0.05


SIMULATIONS: list[tuple[str, str, str, Callable[[int], Worlds], int]] = [
    ("`sweep`: p-value of a head", "12 pairs, 2 placebos", "false alarms", one_head, 7200),
    ("`sweep`: adjusted p-value of any head", "12 pairs, 36 heads, 8 placebos", "false alarms", any_head, 1000),
    ("`sweep`: a planted head, adjusted", "the same", "found", planted_head, 300),
    *(("`sweep`: effect", f"{pairs} pairs", "covered", effects(pairs), 2000) for pairs in (6, 8, 12)),
    *(
        (
            "`probe_layers`: accuracy",
            f"{speakers} speakers, {each} utterances each",
            "covered",
            accuracies(speakers, each),
            2000,
        )
        for speakers, each in ((12, 4), (24, 12), (36, 8))
    ),
    (
        "`best_layers`: a given one of seven equal layers",
        "24 speakers, 8 utterances each",
        "false alarms",
        best_layers,
        1000,
    ),
    *(
        (
            "`verify_trials`: equal error rate",
            f"{speakers} speakers, {each} utterances each",
            "covered",
            error_rates(speakers, each),
            1000,
        )
        for speakers, each in ((12, 4), (24, 4), (36, 4))
    ),
    ("`codebook_usage`: words", "12 speakers, 72 utterances", "false alarms", words_known(0.0), 1000),
    ("the same, speakers favour both codes and words", "the same", "false alarms", words_known(1.0), 1000),
    ("`codebook_usage`: sentence, codes know voices", "the same", "false alarms", sentences_known, 1000),
    ("`codebook_usage`: speaker", "the same", "false alarms", voices_known, 1000),
]


def main() -> None:
    """Simulate and write."""
    lines = ["| what | size | worlds | nominal | measured |", "|---|---|---|---|---|"]
    for what, size, kind, simulation, count in SIMULATIONS:
        seen = np.array(list(simulation(count)), dtype=float)
        nominal = {"false alarms": "0.05 false alarms", "covered": "0.95 covered", "found": "found"}[kind]
        lines.append(f"| {what} | {size} | {len(seen):,} | {nominal} | {seen.mean():.3f} |")
        print(lines[-1], flush=True)
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
