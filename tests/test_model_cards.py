"""Folders laid out like the released ones, in small: their odd keys, flags, older names and pickled weights load."""

import json

import pytest
import torch
from conftest import shuffled
from test_heads import head_config

import unisat as us

pytestmark = pytest.mark.runs_once

STRAY = {"hidden_dropout_prob": 0.1, "feat_extract_dropout": 0.0, "gradient_checkpointing": False, "replace_prob": 0.5}
STRAY |= {
    "mask_channel_prob": 0.0,
    "mask_channel_length": 10,
    "transformers_version": "4.12.0.dev0",
    "_name_or_path": "x",
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": False, "mask_time_prob": 0.075}
VOICES = {"num_labels": 1251, "use_weighted_layer_sum": True}
CARDS = {
    "base": ("UniSpeechSatForPreTraining", {"activation_dropout": 0.1}),
    "base-plus": ("UniSpeechSatForPreTraining", {"activation_dropout": 0.0, "final_dropout": 0.0}),
    "large": ("UniSpeechSatForPreTraining", LARGE | {"tokenizer_class": "Wav2Vec2CTCTokenizer"}),
    "base-100h-libri-ft": ("UniSpeechSatForCTC", {"ctc_loss_reduction": "sum"}),
    "base-plus-sv": ("UniSpeechSatForXVector", VOICES),
    "large-sv": ("UniSpeechSatForXVector", VOICES | LARGE),
    "base-plus-sd": ("UniSpeechSatForAudioFrameClassification", {"num_labels": 2, "use_weighted_layer_sum": True}),
}


@pytest.fixture(params=CARDS)
def card(request, tmp_path):
    """A model and its folder: config.json with stray keys, pytorch_model.bin under older names."""
    name, changes = CARDS[request.param]
    model = shuffled(getattr(us, name)(head_config().replace(**changes)))
    config = model.config.to_dict() | STRAY
    (tmp_path / "config.json").write_text(json.dumps(config))
    older = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = model.state_dict()
    for new, old in older.items():
        state = {key.replace(new, old): value for key, value in state.items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    return model, tmp_path


def test_a_released_layout_loads_without_a_word(card, recwarn, caplog):
    model, folder = card
    loaded = type(model).from_pretrained(folder)
    assert not recwarn.list
    assert not caplog.records
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert loaded.config.extra.keys() >= STRAY.keys() - {"_name_or_path"}
    assert loaded.config.ctc_loss_reduction == model.config.ctc_loss_reduction
    assert loaded.config.num_labels == model.config.num_labels


def test_layer_weights_are_used(card):
    model, folder = card
    if not model.config.use_weighted_layer_sum:
        assert "layer_weights" not in model.state_dict()
        return
    wave = torch.randn(1, 2000, generator=torch.Generator().manual_seed(0))
    loaded = type(model).from_pretrained(folder)
    before = loaded(wave).logits
    with torch.no_grad():
        loaded.layer_weights[0] += 3
    assert not torch.equal(loaded(wave).logits, before)
