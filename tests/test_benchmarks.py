"""The benchmarks' own arithmetic and page; the times themselves are measured by hand."""

import importlib
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, small_config
from torch.utils.flop_counter import FlopCounterMode

from unisat import UniSpeechSatModel, shortcuts

pytestmark = pytest.mark.runs_once


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """Import as the scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield
    for name in (
        "report",
        "roofline",
        "works",
        "peers",
        "worker",
        "alone",
        "tricks",
        "layers",
        "speakers",
        "phones",
        "ablation",
        "training",
        "shares",
    ):
        sys.modules.pop(name, None)


def test_the_page_is_what_the_results_say():
    import report

    history = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert report.render(history) == page
    assert "<!--" not in page
    everything = {work for run in history for work in run["works"]}
    assert everything | {*report.GPU_WORKS} == {*report.WORKS, "start", "tour", "alone", "tricks"}


RATES = {"float32": 4e11, "bfloat16": 8e11, "bytes": 4e10}
SIDE = {"seconds": 1.0, "mb": 1.0, "above_mb": 1.0, "check": None, "least": 1.0, "most": 1.0}


def planted(faster=1.0, *, works=None, when="", device="cpu", **facts):
    """A run on a machine ``faster`` than the first."""
    machine = {"processor": "AMD EPYC", "cores": 2, "threads": 2, "torch": "2", "instructions": "AVX512", **facts}
    rates = {name: rate * faster for name, rate in RATES.items()}
    peers = {"unisat": {"version": "this one"}, "transformers-a": {"version": "1"}}
    run = {"when": when, "device": device, "machine": machine, "rates": rates, "peers": peers}
    return {**run, "works": works or {}}


def forward(ratio, seconds=1.0):
    """The result of a forward pass."""
    return {"forward": {"unisat": {**SIDE, "seconds": seconds}, "transformers-a": {**SIDE, "ratio": ratio}}}


def test_a_missed_bar_is_called_missed():
    import report

    for ratio, said in ((1.1, "**missed**"), (1.2, "reached")):
        found = {
            "unisat": SIDE,
            "transformers-a": {**SIDE, "ratio": 3.0},
            "transformers-b": {**SIDE, "ratio": ratio},
            "torchaudio": {**SIDE, "ratio": 0.1},
        }
        cells = report.compared({"forward": (planted(), found)})
        assert f"**{ratio:.2f}×** {said}" in cells["forward, 1 × 10 s", "1.15×"]
        assert set(cells.values()) == {cells["forward, 1 × 10 s", "1.15×"], "–"}


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([planted(), planted(1.2), planted(1.4), planted(1.2)], "AAAA"),  # each beside the newest
        ([planted(), planted(1.3), planted(1 / 1.3)], "ABC"),
        ([planted(), planted(0.45), planted(1.01), planted(0.46)], "ABAB"),
        ([planted(family="25", model="17"), planted(family="26", model="2"), planted(family="25", model="1")], "ABC"),
        ([planted(), planted(family="25", model="17"), planted(family="25", model="17"), planted()], "AAAA"),
        ([planted(), planted(family="25", model="17"), planted(family="26", model="2")], "AAB"),
        ([planted(), planted(threads=4), planted(processor="Intel")], "ABC"),
        ([planted(torch="3"), planted(instructions="AVX2")], "AA"),
        ([planted(device="cuda:0"), planted()], "-A"),
    ],
)
def test_runs_of_one_machine_are_found(runs, expected):
    import report

    there = report.machines([{**run, "works": {n: {}}} for n, run in enumerate(runs)], "cpu")
    where = {n: letter for letter, one in there.items() for n in one.found}
    assert "".join(where.get(n, "-") for n in range(len(runs))) == expected


def test_one_rate_that_differs_is_enough():
    import report

    for rate in RATES:
        other = planted()
        other["rates"][rate] *= 1.5
        assert list(report.machines([planted(), other], "cpu")) == ["A", "B"]


def test_the_newest_run_on_each_machine_counts_at_its_own_rates():
    import report
    import roofline

    from unisat import UniSpeechSatConfig

    floor = roofline.floor_seconds(UniSpeechSatConfig.base(), [10], RATES, "float32")
    runs = [
        planted(works=forward(9.0), when="1"),
        planted(0.5, works=forward(1.1, 4 * floor), when="2", family="25"),
        planted(1.1, works=forward(1.5, 2 * floor / 1.1), when="3"),
        planted(1.0, works={"start": {"extra": 0.1, "least": 0.0, "most": 0.2, "torch": 1.0}}, when="4"),
    ]
    lines = report.section(report.machines(runs, "cpu"), "cpu")
    (row,) = [line for line in lines if line.startswith("| forward, 1 × 10 s | 1.15×")]
    cells = row.split(" | ")[2:]
    assert cells[0] == f"**1.50×** reached<br>1.00 to 1.00<br>{2 * floor / 1.1:.3f} s, 50%"
    assert cells[1] == f"**1.10×** **missed**<br>1.00 to 1.00<br>{4 * floor:.3f} s, 50% |"
    named = [line for line in lines if line.startswith(("| **A**", "| **B**"))]
    assert named[0].split(" | ")[1:6] == ["AMD EPYC", "not noted", "2, 2", "AVX512", "400"]
    assert named[0].endswith("| 3, 4 |")
    assert named[1].split(" | ")[1:6] == ["AMD EPYC", "25", "2, 2", "AVX512", "200"]
    (start,) = [line for line in lines if line.startswith("| `import unisat`")]
    assert start.endswith("<br>reached | – |")


def test_segments_have_a_bar():
    import report

    small = {"mb": 1.0, "seconds": 900.0, "ratio": 1.0, "least": 1.0, "most": 1.0, "bytes": 1}
    found = dict.fromkeys(("long", "long_chunks", "capture", "corpus", "corpus_16", "contrastive"), small)
    found |= {"contrastive_gathered": {"mb": 3.0}}
    for ratio, said in ((1.09, "reached"), (1.11, "**missed**")):
        pooled = {"ratio": ratio, "least": 1.0, "most": 1.2, "segments": 10_000}
        cells = report.alone({"alone": (planted(), {**found, "segments": pooled})})
        (cell,) = [cell for (what, bar), cell in cells.items() if "10,000 segments" in what and bar == "≤ 1.10×"]
        assert cell == f"{ratio:.2f}× (1.00 to 1.20)<br>{said}"


def test_a_processor_is_named_with_its_numbers():
    import roofline

    one = "processor\t: {n}\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC: {n}\n"
    text = "\n".join(one.format(n=n) for n in range(2))
    assert roofline.processor(text) == {"processor": "AMD EPYC: 0", "family": "25", "model": "17"}
    assert roofline.processor("processor\t: 0\nCPU part\t: 0xd0c\n") == {}


def test_operations_are_those_that_torch_counts():
    import roofline

    config = small_config(hidden_size=32, num_attention_heads=2)
    model = UniSpeechSatModel(config).eval()
    waveform = torch.randn(1, 16_000)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), shortcuts.plain():
        model(waveform)
    # the positional convolution computes a frame that is cut off again
    cut = 2 * 32 * (32 // config.num_conv_pos_embedding_groups) * config.num_conv_pos_embeddings
    assert roofline.operations(config, [1.0]) == counter.get_total_flops() - cut


def test_each_work_can_be_done_by_us_and_by_the_reference():
    import report
    import works

    for work in report.WORKS:
        assert callable(getattr(works.Unisat, work))
        assert callable(getattr(works.Transformers, work))


def test_what_is_not_there_is_said_to_be_absent():
    import peers

    with pytest.raises(peers.AbsentError, match=r"no peer 'espnet'; there are torchaudio, transformers-4.37.2"):
        peers.python("espnet")
    assert str(peers.python("plain")) == sys.executable


def test_peers_are_pinned():
    for path in (ROOT / "benchmarks" / "peers").glob("*.txt"):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        assert lines
        assert all("==" in line for line in lines)


def test_the_page_of_layers_is_not_older_than_the_checkpoint_and_the_masks():
    import layers

    page = (ROOT / "docs" / "layers.md").read_text(encoding="utf-8")
    assert f"from checkpoint and masks `{layers.made_from()}`" in page, "run python benchmarks/layers.py"


def test_phones_beside_voices_are_what_the_results_say():
    import layers

    results = json.loads((ROOT / "benchmarks" / "tiny.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "layers.md").read_text(encoding="utf-8")
    found = layers.crossing(layers.crossed(results))
    assert "\n".join(found) in page, "run python benchmarks/layers.py --only crossing"
    row = results["speakers"]["tiny-hubert"][7]
    assert (row["layer"], row["backend"]) == (3, "LDA")
    (cells,) = [line.split(" | ") for line in found if line.startswith("| 3 ")]
    assert cells[5] == f"{row['eer']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def test_a_layer_is_apart_from_the_best_one_where_intervals_do_not_meet():
    import layers

    def rows(kind, *values):
        """Layers with intervals of 0.1 to both sides."""
        return [
            {"layer": n, "backend": "LDA", kind: value, f"{kind}_low": value - 0.1, f"{kind}_high": value + 0.1}
            for n, value in enumerate(values)
        ]

    def said(*values):
        parts = {
            "phones": {"tiny": rows("phones", *values), "tiny-hubert": rows("phones", 0.5, 0.6, 0.6)},
            "speakers": {"tiny": rows("eer", *values), "tiny-hubert": rows("eer", 0.5, 0.6, 0.6)},
        }
        parts["phones"]["spectra"] = [{"features": "MFCC, mean off", **rows("phones", 0.3)[0]}]
        return "\n".join(layers.crossing(layers.crossed(parts)))

    text = said(0.2, 0.45, 0.5)
    assert "Phones are known best in layer 2 of tiny (0.500; apart from it: 0) and in layers 1 and 2 of tiny-h" in text
    assert "Voices are known best in layer 0 of tiny (0.200; apart from it: 1, 2) and in layer 0 of tiny-hub" in text
    assert "Beside tiny's best stand MFCC 0.300." in text
    assert "none is shown to be the best" not in text
    assert "none is shown to be the best" in said(0.4, 0.45, 0.5)


def test_the_nearest_token_is_that_of_a_loop_over_other_speakers():
    import ablation

    draw = np.random.default_rng(2)
    who = np.repeat(["a", "b", "c"], [5, 4, 3])
    vectors = draw.normal(3, 1, (12, 6))
    vectors[1] = vectors[0] + 0.01  # of the same speaker: nearer than all others, and not asked
    found = ablation.nearest_tokens(vectors, who)
    mean = [sum(column) / 12 for column in vectors.T]
    for row, name in enumerate(who):
        cosines = {}
        for other in [place for place in range(12) if who[place] != name]:
            one, two = ([x - m for x, m in zip(vectors[place], mean, strict=True)] for place in (row, other))
            size = sum(x * x for x in one) * sum(x * x for x in two)
            cosines[other] = sum(x * y for x, y in zip(one, two, strict=True)) / size**0.5
        assert found[row] == max(cosines, key=cosines.get)


@pytest.mark.parametrize("name", ["ablation", "training"])
def test_the_pages_of_the_training_are_what_the_results_say(name):
    results = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert importlib.import_module(name).report(results) == page, f"run python benchmarks/{name}.py --page"


def test_a_claim_is_seen_only_where_speakers_and_all_seeds_agree():
    import ablation

    def told(effects, spread):
        draw = np.random.default_rng(0).normal(0, spread, 2000)
        second = [np.append(0.3, 0.3 + 0 * draw) for _ in effects]
        first = [np.append(0.3 + effect, 0.3 + effect + draw) for effect in effects]
        return ablation.difference(first, second, 30)

    assert ablation.verdict(told([0.1, 0.12, 0.08], 0.01), 1) == "seen"
    assert ablation.verdict(told([0.1, 0.12, 0.08], 0.01), -1) == "reversed"
    assert ablation.verdict(told([0.1, 0.12, -0.01], 0.01), 1) == "not seen"  # a seed disagrees
    assert ablation.verdict(told([0.1, 0.12, 0.08], 0.2), 1) == "not seen"  # speakers do
    row = told([0.1, 0.12, 0.08], 0.01)
    assert row["difference"] == pytest.approx(0.1)
    assert (row["high"] - row["low"]) / 2 == pytest.approx(1.96 * 0.01, rel=0.15)


def test_counts_are_those_of_a_loop_over_speakers():
    import ablation

    draw = np.random.default_rng(1)
    names = ["a", "b", "c"]
    who, kinds, right = draw.choice(names, 60), draw.integers(0, 2, 60), draw.integers(0, 2, 60).astype(bool)
    weights = np.array([[1, 1, 1], [2, 0, 1]])
    found = ablation.Counts.of(right, who, names, kinds).rates(weights)
    for row, value in zip(weights, found, strict=True):
        rates = []
        for kind in (0, 1):
            heard = [(row[names.index(w)], r) for w, k, r in zip(who, kinds, right, strict=True) if k == kind]
            rates.append(sum(times * r for times, r in heard) / sum(times for times, _ in heard))
        assert value == pytest.approx(np.mean(rates))


def test_the_best_layer_is_chosen_anew_in_each_draw():
    import ablation

    runs = [np.array([[0.1, 0.5], [0.2, 0.9]]), np.array([[0.3, 0.4], [0.1, 0.8]])]
    best = ablation.at_best(runs, -1)  # means of the layers: 0.2 and 0.15, in the next draw 0.45 and 0.85
    np.testing.assert_allclose(best, [[0.2, 0.5], [0.1, 0.4]])


def test_hours_of_a_log_are_those_that_were_heard():
    import training

    log = pd.DataFrame(
        {"step": [50, 100, 120], "audio_seconds": [360.0, 180.0, 90.0], "accuracy_masked": [0, 0.1, 0.2]}
    )
    assert training.curve(log)["hours"] == [5.0, 7.5, 8.0]
    assert training.curve(log.assign(hours=[4.0, 6.0, 9.0]))["hours"] == [
        4.0,
        6.0,
        9.0,
    ]  # a log that counts them itself
    assert training.taught([{"layer": 5, "pnmi": 0.2}, {"layer": 6, "pnmi": 0.3}, {"layer": 7, "pnmi": 0.1}]) == 6


def test_two_processes_are_timed_beside_one(monkeypatch):
    import processes
    import report

    from unisat.training import loop

    begun, (one, two) = [], processes.KINDS
    monkeypatch.setattr(loop, "pretrain", lambda recipe, **_: begun.append(recipe.model_config().num_hidden_layers))
    runs = iter([50.0, 40.0, 60.0, 57.0, 10.0, 9.1])  # one, two, one, two, …
    monkeypatch.setattr(processes, "heard", lambda kind, *_: next(runs))
    found = processes.measure()
    assert begun == [8]
    assert found == pytest.approx({one: 50, two: 40, "ratio": 0.91, "least": 0.8, "most": 0.95})
    (said,) = report.processes({"machine": {"maker": "X"}, "when": "today", "found": found})
    assert f"today, {one} 50 s of sound in a second, {two} 40 s" in said
    assert said.endswith("0.91 times as much as the one (0.80 to 0.95 over rounds; asked: 0.9, reached).")


def test_the_parts_of_a_step_are_the_step(monkeypatch):
    import shares

    monkeypatch.setattr(shares, "ROUNDS", 1)
    monkeypatch.setitem(shares.STEPS, shares.STEP, ("tiny", 2, 1))
    found = shares.shares()
    assert found.pop("step") > 0
    assert sum(found.values()) == pytest.approx(1)
    assert all(share > 0 for share in found.values())
    both = {f"{part}, {direction}" for part in shares.PARTS.values() for direction in ("forward", "backward")}
    assert both < found.keys()
