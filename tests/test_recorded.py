"""The pretraining step that a GPU records (recipes/recorded.py): what it computes is what the model computes."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

import unisat as us
from unisat.masking import span_mask
from unisat.mixing import mix_utterances
from unisat.training import recipe

sys.path.insert(0, str(ROOT / "recipes"))
import recorded

pytestmark = [pytest.mark.runs_once, pytest.mark.filterwarnings("ignore:on this processor")]


def config(**changes):
    made = recipe.read(ROOT / "recipes" / "sat-2.toml").model_config()
    return made.replace(num_hidden_layers=3, unmasked_loss_weight=0.7, **changes)


@pytest.mark.parametrize("contrastive", [5.0, 0.0])
@pytest.mark.parametrize(("unmasked", "speaker"), [(1.0, 1.0), (0.0, 0.25)])
def test_loss_and_gradients_are_the_models(contrastive, unmasked, speaker):
    torch.manual_seed(0)
    model = us.UniSpeechSatForPreTraining(config(contrastive_loss_weight=contrastive)).eval()
    draw = torch.Generator().manual_seed(1)
    waves, targets = torch.randn(4, 16_000, generator=draw), torch.randint(400, (4, 49), generator=draw)
    targets[1, -1] = -100
    mask = span_mask(torch.full((4,), 49), 49, mask_prob=0.6, mask_length=5, generator=draw)
    model.term_scales = {"content_unmasked": unmasked, "contrastive": speaker, "diversity": speaker}
    expected = model(waves, targets=targets, mask_time_indices=mask, generator=draw)
    chosen = mask.flatten().nonzero()[:, 0]
    instances = expected.instances if contrastive else torch.zeros(len(chosen), 1, dtype=torch.long)
    scales = [torch.tensor(value) for value in (1.0, unmasked, speaker)]
    if not contrastive:  # the recipes that have no contrastive term have no diversity term either
        model.config.diversity_loss_weight = 0.0
        expected = model(waves, targets=targets, mask_time_indices=mask, generator=draw)
    loss, told = recorded.objective(model, waves, targets, mask, chosen, instances, *scales)
    torch.testing.assert_close(loss, expected.loss)
    for name, value in {**expected.terms, **expected.metrics}.items():
        if name in told:
            torch.testing.assert_close(told[name], value, msg=name)
    assert {"content_masked", "content_unmasked", "accuracy_masked", "feature_penalty"} <= {*told}
    assert ("contrastive_chance" in told) == (contrastive > 0)
    for group in range(2):
        torch.testing.assert_close(told[f"code_perplexity_{group}"], expected.codevector_perplexity[group])
        torch.testing.assert_close(told[f"prob_perplexity_{group}"], expected.prob_perplexity[group])
    expected.loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    loss.backward()
    for name, weight in model.named_parameters():
        ours = torch.zeros_like(weight) if weight.grad is None else weight.grad
        torch.testing.assert_close(ours, gradients.get(name, torch.zeros_like(weight)), rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("normalize", [True, False])
def test_mixtures_are_those_of_mix_utterances(normalize):
    waves = torch.randn(6, 8000, generator=torch.Generator().manual_seed(0))
    waves = (waves - waves.mean(1, keepdim=True)) / waves.std(1, keepdim=True, correction=0)
    draw = torch.Generator().manual_seed(3)
    expected, record = mix_utterances(waves, mixing_prob=0.7, normalize=normalize, generator=draw)
    assert 0 < record.mixed.sum() < 6
    length = torch.where(record.mixed, record.end - record.start, 0)
    draws = torch.stack([record.secondary.clamp(min=0), record.start, record.source_start, length])
    torch.testing.assert_close(recorded.mixed(waves, draws, record.snr_db.float(), normalize), expected)
    unmixed = ~record.mixed
    assert torch.equal(recorded.mixed(waves, draws, record.snr_db.float(), normalize)[unmixed], waves[unmixed])


@pytest.fixture
def made(tmp_path):
    changes = {"out": str(tmp_path / "out"), "init": None, "targets.features": "mfcc", "targets.model": None}
    changes |= {"targets.layer": None, "targets.clusters": 20, "data.batch_seconds": 12.0, "data.crop_seconds": 2.0}
    changes |= {"model.num_hidden_layers": 2, "model.hidden_size": 48, "model.intermediate_size": 96}
    changes |= {"optimizer.steps": recorded.NOMINAL, "optimizer.warmup_steps": 0, "data.on_device": True}
    found = recipe.read(ROOT / "recipes" / "sat-2.toml", changes)
    found.data.train, found.data.weights = {"voices": found.data.train["voices"]}, {"voices": 1.0}
    found.data.valid = {}
    return found


def test_a_run_by_the_clock(made):
    shares = iter([0.0, 0.5, 1.0])
    run = recorded.Recorded(made, lambda: next(shares))
    before = {name: weight.clone() for name, weight in run.model.named_parameters()}
    folder = run.run()
    kept = recipe.from_dict(json.loads((folder / "recipe.json").read_text()))
    assert kept.optimizer.steps == 2 * recorded.BLOCK
    log = pd.read_csv(folder.parent / "train.csv")
    assert log["step"].tolist() == [2 * recorded.BLOCK]
    assert {*recorded.NAMES} <= {*log}
    assert log["content_masked"][0] < np.log(20) + 0.3
    saved = us.UniSpeechSatForPreTraining.from_pretrained(folder).state_dict()
    changed = [name for name, weight in before.items() if not torch.equal(weight, saved[name])]
    assert "unispeech_sat.feature_extractor.conv_layers.0.conv.weight" in changed
    assert "quantizer.codevectors" in changed


def test_what_is_drawn(made):
    run = recorded.Recorded(made, lambda: 1.0)
    for step in range(8):
        values = recorded.drawn(run.train, made, run.config, step)
        again = recorded.drawn(run.train, made, run.config, step)
        for name, value in values.items():
            assert np.array_equal(np.asarray(value), np.asarray(again[name])), name
        batch, samples, frames = values["numbers"].shape[1], values["numbers"][1].max(), values["numbers"][3].max()
        assert (values["numbers"][1] == samples).all()  # nothing is padded
        assert values["mask"].shape == (batch, frames)
        assert values["mask"].flatten()[values["chosen"]].all()  # only masked frames are compared
        assert len(values["chosen"]) == int(recorded.COMPARED * batch * frames)
        partner, start, source_start, length = values["mixing"]
        assert (partner != np.arange(batch)).all()
        assert (partner >= 0).all()
        assert (partner < batch).all()
        assert (length <= samples // 2).all()
        for first in (start, source_start):
            assert (first >= 0).all()
            assert (first + length <= samples).all()
