"""The reference's golden data: hidden states, attentions, features, gradients, older names, output lengths."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from conftest import SHARED, relative
from safetensors.torch import load_file

import unisat
from unisat import UniSpeechSatModel
from unisat.frames import stack_length

pytestmark = pytest.mark.runs_once

TOLERANCE = 1e-5
HEADED = ("ctc", "seqcls", "framecls", "xvector", "pretraining")
FOLDERS = sorted(p.name for p in (SHARED / "fixtures").glob("*__*") if p.name.rpartition("__")[2] in ("model", *HEADED))


def load(fixtures, name, **changes):
    model = UniSpeechSatModel.from_pretrained(fixtures / name, padding="reference", **changes)
    return model, load_file(fixtures / name / "io.safetensors")


def test_there_are_golden_data(fixtures):
    assert len(FOLDERS) >= 20
    assert {name.rpartition("__")[2] for name in FOLDERS} == {"model", *HEADED}


@pytest.mark.parametrize("tag", ["nomask", "mask"])
@pytest.mark.parametrize("name", FOLDERS)
def test_backbone(fixtures, name, tag):
    model, data = load(fixtures, name)
    mask = data["attention_mask"] if tag == "mask" else None
    out = model(data["input_values"], mask, output_hidden_states=True, output_attentions=True)
    fused = model(data["input_values"], mask, output_hidden_states=True)
    compared = 0
    for key, theirs in data.items():
        field, _, index = key.removeprefix(f"{tag}.").partition(".")
        if not key.startswith(f"{tag}.") or field not in out.keys():  # noqa: SIM118 - a result, no dict
            continue
        # the padded queries of a batch are nobody's numbers, but the reference's are ours all the same
        for result in (out, fused) if field != "attentions" else (out,):
            ours = result[field][int(index)] if index else result[field]
            assert relative(ours, theirs) <= TOLERANCE, key
        compared += 1
    assert compared >= 2 * model.config.num_hidden_layers + 1


@pytest.mark.parametrize("name", [name for name in FOLDERS if name.endswith("__model")])
def test_given_time_mask(fixtures, name):
    model, data = load(fixtures, name)
    out = model(data["input_values"], data["attention_mask"], data["mask_time_indices"].bool())
    assert relative(out.last_hidden_state, data["mask_spec.last_hidden_state"]) <= TOLERANCE


def test_older_names(fixtures, tmp_path):
    shutil.copy(fixtures / "post__model" / "config.json", tmp_path)
    shutil.copy(fixtures / "post__model_legacy_names" / "model.safetensors", tmp_path)
    assert any(name.endswith("weight_g") for name in load_file(tmp_path / "model.safetensors"))
    new, data = load(fixtures, "post__model")
    old = UniSpeechSatModel.from_pretrained(tmp_path)
    assert torch.equal(old(data["input_values"]).last_hidden_state, new(data["input_values"]).last_hidden_state)


def test_output_lengths(fixtures):
    cases = json.loads((fixtures / "feat_lengths_default.json").read_text())
    assert len(cases) > 10
    for samples, frames in cases.items():
        # below one receptive field the reference counts negative frames
        assert stack_length(int(samples), [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]) == max(frames, 0)


CLASSES = {
    "ctc": unisat.UniSpeechSatForCTC,
    "seqcls": unisat.UniSpeechSatForSequenceClassification,
    "framecls": unisat.UniSpeechSatForAudioFrameClassification,
    "xvector": unisat.UniSpeechSatForXVector,
}
WITH_LABELS = [name for name in FOLDERS if name.rpartition("__")[2] in CLASSES]


def load_head(fixtures, name, **changes):
    kind = CLASSES[name.rpartition("__")[2]]
    model = kind.from_pretrained(fixtures / name, padding="reference", **changes)
    options = {"loss": "reference"} if "framecls" in name else {}
    return model, load_file(fixtures / name / "io.safetensors"), options


@pytest.mark.parametrize("tag", ["nomask", "mask"])
@pytest.mark.parametrize("name", WITH_LABELS)
def test_heads(fixtures, name, tag):
    model, data, options = load_head(fixtures, name)
    mask = data["attention_mask"] if tag == "mask" else None
    out = model(data["input_values"], mask, labels=data["labels"], **options)
    for field in ("logits", "embeddings", "loss"):
        if f"{tag}.{field}" in data:
            assert relative(out[field], data[f"{tag}.{field}"].view_as(out[field])) <= TOLERANCE, field
    assert f"{tag}.loss" in data


@pytest.mark.parametrize("name", WITH_LABELS)
def test_gradients(fixtures, name):
    model, data, options = load_head(fixtures, name)
    # the reference's own order of operations: fused attention moves the last digit, and CTC magnifies it
    out = model(data["input_values"], data["attention_mask"], labels=data["labels"], output_attentions=True, **options)
    out.loss.backward()
    ours = {f"grad.{key}": weight.grad for key, weight in model.named_parameters()}
    theirs = {key: value for key, value in data.items() if key.startswith("grad.")}
    assert len(theirs) == 4
    for key, gradient in theirs.items():
        assert relative(ours[key], gradient) <= TOLERANCE, key


@pytest.mark.parametrize("name", [name for name in WITH_LABELS if name.endswith("__ctc")])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_ctc_reductions(fixtures, name, reduction):
    model, data, _ = load_head(fixtures, name, ctc_loss_reduction=reduction)
    out = model(data["input_values"], data["attention_mask"], labels=data["labels"])
    assert relative(out.loss, data[f"mask.loss_{reduction}"].view_as(out.loss)) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name in FOLDERS if name.endswith("__pretraining")])
def test_pretraining_loads_every_weight(fixtures, name):
    model = unisat.UniSpeechSatForPreTraining.from_pretrained(fixtures / name, padding="reference")
    state, data = load_file(fixtures / name / "model.safetensors"), load_file(fixtures / name / "io.safetensors")
    assert set(model.state_dict()) == set(state)
    out = model(data["input_values"], data["attention_mask"])
    # the reference gives the last hidden state where the projected one should be, and features for logits
    last = data["mask.projected_states"]
    expected = F.linear(last, state["project_hid.weight"], state["project_hid.bias"])
    assert relative(out.projected_states, expected) <= TOLERANCE
    assert relative(out.extract_features, data["mask.logits"]) <= TOLERANCE
