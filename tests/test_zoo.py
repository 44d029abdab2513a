"""The checkpoints that come with unisat: they load whole, are small, say where they come from, and have learned."""

import csv
import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

import unisat as us
from unisat import zoo
from unisat.interpret.statistics.error_rates import eer
from unisat.masking import span_mask
from unisat.training import recipe
from unisat.training.targets import Clusters

pytestmark = pytest.mark.runs_once
NAMES = ("tiny", "tiny-hubert")


def test_every_head_loads_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone, pretraining, voices = (us.load("tiny", head) for head in (None, "pretraining", "xvector"))
    for model in (backbone, pretraining, voices):
        assert not model.training
        assert model.dtype == torch.float32
    for name, weight in backbone.state_dict().items():
        for model in (pretraining, voices):
            assert torch.equal(model.unispeech_sat.state_dict()[name], weight), name
    assert isinstance(voices, us.UniSpeechSatForXVector)
    assert len(voices.config.id2label) == voices.config.num_labels > 300
    with pytest.raises(ValueError, match="no built-in checkpoint 'large'; there are: tiny, tiny-hubert"):
        us.load("large")
    with pytest.raises(ValueError, match="head='ctc' of 'tiny' must be one of None, 'pretraining', 'xvector'"):
        us.load("tiny", "ctc")
    with pytest.raises(ValueError, match="head='xvector' of 'tiny-hubert' must be one of None, 'pretraining'"):
        us.load("tiny-hubert", "xvector")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_says_where_it_comes_from(name):
    folder = zoo.folder(name)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12e6
    card = (folder / "README.md").read_text(encoding="utf-8")
    for source in (
        "LibriSpeech",
        "speechocean762",
        "Arabic Speech Commands",
        "Common Voice",
        "Asterisk",
        "DSPSpeech-20",
    ):
        assert source in card
    assert "license: cc-by-4.0" in card
    described = json.loads((folder / "targets.json").read_text())
    assert described["label_hash"][:16] in card
    assert Clusters.load(folder).centroids.shape == (us.load(name).config.num_clusters, 192)
    with (folder / "train.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    made = recipe.from_dict(json.loads((folder / "recipe.json").read_text()))
    assert int(rows[-1]["step"]) == made.optimizer.steps
    config, ours = made.model_config(), us.load(name, "pretraining").config
    for key in (
        "hidden_size",
        "num_hidden_layers",
        "conv_dim",
        "num_clusters",
        "mixing_prob",
        "contrastive_loss_weight",
    ):
        assert getattr(config, key) == getattr(ours, key), key


def test_the_twins_differ_in_the_objective_alone():
    """The same start, speech, targets, steps and seed."""
    ours, twin = (recipe.from_dict(json.loads((zoo.folder(name) / "recipe.json").read_text())) for name in NAMES)
    objective = {f"model.{name}" for name in ("mixing_prob", "contrastive_loss_weight", "diversity_loss_weight")}
    assert set(recipe.differences(ours, twin)) == {"out"} | objective
    hashes = {json.loads((zoo.folder(name) / "targets.json").read_text())["label_hash"] for name in NAMES}
    assert len(hashes) == 1


def test_the_cards_numbers_are_the_scripts():
    results = json.loads((ROOT / "benchmarks" / "tiny.json").read_text())
    card = (zoo.folder("tiny") / "README.md").read_text(encoding="utf-8")
    for table in results["speakers"].values():
        best = min(row["eer"] for row in table if row["backend"] == "cosine")
        assert f"{best:.3f}" in card
    for name in NAMES:
        for row in results["phones"][name]:
            assert f"{row['phones']:.3f}" in card
    final = pd.read_csv(zoo.folder("tiny") / "valid.csv").iloc[-1]
    assert f"{final['accuracy_masked']:.3f}" in card


def test_it_has_learned_what_it_was_taught():
    model = us.load("tiny", "pretraining")
    torch.manual_seed(0)
    fresh = us.UniSpeechSatForPreTraining(model.config).eval()
    speech = us.corpus.builtin()
    rows = [speech.where(speaker=f"v{i:02d}", sentence=f"s{i:02d}").batch().waveforms[0] for i in range(1, 9)]
    batch = us.Batch.from_arrays(rows, sampling_rate=16_000)
    options = dict(attention_mask=batch.attention_mask)
    with torch.no_grad():
        clean = model(batch.input_values, **options)
        hide = span_mask(
            clean.lengths,
            int(clean.lengths.max()),
            mask_prob=0.65,
            mask_length=10,
            generator=torch.Generator().manual_seed(0),
        )
        options |= dict(targets=clean.logits.argmax(-1), mask_time_indices=hide)
        trained, untrained = (
            m(batch.input_values, **options, generator=torch.Generator().manual_seed(0)) for m in (model, fresh)
        )
    assert trained.metrics["accuracy_masked"] > 5 * untrained.metrics["accuracy_masked"]
    # all synthetic voices are of one make, which the model has to tell apart; below chance it is on recorded ones
    assert trained.terms["contrastive"] < untrained.terms["contrastive"]


def unseen(recorded, every):
    """Trials and their first two seconds."""
    trials = pd.read_csv(recorded / "trials.csv").iloc[::every]
    paths = sorted({*trials["enrol_path"], *trials["test_path"]})
    return trials, {path: us.audio.normalize(us.audio.load(recorded / path)[:32_000]) for path in paths}


def rate(trials, waves, embed):
    vectors = {path: torch.nn.functional.normalize(embed(wave), dim=0) for path, wave in waves.items()}
    pairs = zip(trials["enrol_path"], trials["test_path"], strict=True)
    return eer(np.array([float(vectors[a] @ vectors[b]) for a, b in pairs]), trials["label"].to_numpy() == 1)


def test_voices_it_never_heard(recorded):
    trials, waves = unseen(recorded, every=20)
    voices = us.load("tiny", "xvector")
    torch.manual_seed(0)
    fresh = us.UniSpeechSatModel(voices.config).eval()
    with torch.no_grad():
        head = rate(trials, waves, lambda wave: voices(wave[None]).embeddings[0])
        untrained = rate(trials, waves, lambda wave: fresh(wave[None]).last_hidden_state[0].mean(0))
        trained = rate(trials, waves, lambda wave: voices.unispeech_sat(wave[None]).last_hidden_state[0].mean(0))
    assert trained < 0.6 * untrained
    assert head < 0.6 * untrained


@pytest.mark.parametrize("backend", ["cosine", "LDA"])
def test_it_tells_voices_apart_better_than_their_spectrum(backend):
    results = json.loads((ROOT / "benchmarks" / "tiny.json").read_text())["speakers"]
    rates = {name: min(row["eer"] for row in rows if row["backend"] == backend) for name, rows in results.items()}
    assert rates["x-vector"] < rates["MFCC"] < rates["untrained"]
