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
    ):
        sys.modules.pop(name, None)


def test_the_page_is_what_the_results_say():
    import report

    history = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert report.render(history) == page
    assert "<!--" not in page
    everything = {work for run in history for work in run["works"]}
    waiting = {"wavlm", "wavlm_ragged", "hubert", "wav2vec2"}  # for the next run
    assert everything | waiting == {*report.WORKS, "start", "tour", "alone", "tricks"}


def test_a_missed_bar_is_called_missed():
    import report

    side = {"seconds": 1.0, "mb": 1.0, "above_mb": 1.0, "check": None, "least": 1.0, "most": 1.0}
    run = {"device": "cpu", "when": "", "machine": {}, "rates": {"float32": 1e12, "bfloat16": 1e12, "bytes": 1e12}}
    for ratio, said in ((1.1, "**missed**"), (1.2, "reached")):
        found = {
            "unisat": side,
            "transformers-a": {**side, "ratio": 3.0},
            "transformers-b": {**side, "ratio": ratio},
            "torchaudio": {**side, "ratio": 0.1},
        }
        row = next(line for line in report.table({"forward": (run, found)}) if "forward, 1" in line)
        assert said in row
        assert f"**{ratio:.2f}×**" in row


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
    stages = ["1 s  iteration 1 is first-0.003, layer 5", "2 s  iteration 1 is first-0.0015, layer 6"]
    assert training.chosen(stages) == {1: ("first-0.0015", 6)}
