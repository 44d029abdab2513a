import copy
import inspect
import json
import pickle

import pytest
import torch
from conftest import POINTER

from unisat import UniSpeechSatConfig


def test_every_field_of_the_reference_with_its_default():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.UniSpeechSatConfig()
    ours = UniSpeechSatConfig()
    names = [name for name in inspect.signature(type(theirs).__init__).parameters if name not in ("self", "kwargs")]
    assert len(names) >= 50
    for name in names:
        value = getattr(theirs, name)
        assert getattr(ours, name) == (list(value) if isinstance(value, tuple) else value), name
    for name in ("num_feat_extract_layers", "inputs_to_logits_ratio", "num_labels", "id2label", "label2id"):
        assert getattr(ours, name) == getattr(theirs, name), name


def test_presets_have_the_sizes_of_the_released_models():
    base, large, tiny = UniSpeechSatConfig.base(), UniSpeechSatConfig.large(), UniSpeechSatConfig.tiny()
    assert (base.hidden_size, base.num_hidden_layers, base.do_stable_layer_norm) == (768, 12, False)
    assert (large.hidden_size, large.num_hidden_layers, large.num_attention_heads) == (1024, 24, 16)
    assert (large.feat_extract_norm, large.do_stable_layer_norm, large.conv_bias) == ("layer", True, False)
    assert (tiny.hidden_size, tiny.num_hidden_layers, tiny.inputs_to_logits_ratio) == (192, 6, 320)
    assert UniSpeechSatConfig.tiny(layerdrop=0.0).layerdrop == 0.0
    assert base.receptive_field == 400


WRONG = [
    (dict(conv_dim=[512, 512]), "conv_dim has 2, conv_kernel has 7, conv_stride has 7"),
    (dict(tdnn_kernel=[5, 3]), "tdnn_kernel has 2"),
    (dict(conv_dim=[], conv_kernel=[], conv_stride=[]), "conv_dim has 0"),
    (dict(conv_kernel=[10, 3, 3, 3, 3, 2, 0]), r"conv_kernel=.* positive integers"),
    (dict(hidden_size=100), "hidden_size=100 must be a multiple of num_attention_heads=12"),
    (
        dict(num_conv_pos_embedding_groups=7),
        "hidden_size=768 must be a multiple of num_conv_pos_embedding_groups=7",
    ),
    (dict(codevector_dim=255), "codevector_dim=255 must be a multiple of num_codevector_groups=2"),
    (dict(hidden_act="glu"), "hidden_act='glu' must be one of 'gelu'"),
    (dict(feat_extract_activation="x"), "feat_extract_activation='x'"),
    (dict(feat_extract_norm="batch"), "feat_extract_norm='batch' must be one of 'group', 'layer'"),
    (dict(padding="left"), "padding='left' must be one of 'exact', 'reference'"),
    (dict(ctc_loss_reduction="max"), "ctc_loss_reduction='max'"),
    (dict(hidden_dropout=1.5), "hidden_dropout=1.5 must be a probability"),
    (dict(mask_time_prob=-0.1), "mask_time_prob=-0.1 must be a probability"),
    (dict(mask_time_length=0), "mask_time_length=0 must be positive"),
    (dict(initializer_range=1e30), r"initializer_range=1e\+30 must be at most 1"),
    (dict(num_hidden_layers=-1), "num_hidden_layers=-1 must not be negative"),
    (dict(vocab_size=0), "vocab_size=0"),
    (dict(adapter_attn_dim=0), "adapter_attn_dim=0"),
    (dict(hidden_size="768"), "hidden_size='768' is a str; a int was expected"),
    (dict(hidden_size=768.0), "hidden_size=768.0 is a float"),
    (dict(hidden_size=True), "hidden_size=True is a bool"),
    (dict(conv_bias=1), "conv_bias=1 is a int; a bool was expected"),
    (dict(num_labels=3, id2label={0: "a"}), "num_labels=3 and id2label with 1 entries disagree"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[" ".join(values) for values, _ in WRONG])
def test_a_value_that_breaks_a_rule_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        UniSpeechSatConfig(**values)


def test_what_may_be_none_or_odd():
    config = UniSpeechSatConfig(
        vocab_size=None, conv_dim=(8, 8), conv_kernel=(3, 3), conv_stride=(2, 1), hidden_dropout=0
    )
    assert config.vocab_size is None
    assert config.conv_dim == [8, 8]  # lists, as in config.json
    assert config.inputs_to_logits_ratio == 2


def test_a_changed_attribute_is_checked_at_once_and_a_refused_one_undone():
    config = UniSpeechSatConfig()
    config.layerdrop = 0.0
    assert config.layerdrop == 0.0
    with pytest.raises(ValueError, match="layerdrop=2"):
        config.layerdrop = 2
    assert config.layerdrop == 0.0
    config.num_labels = 5
    assert config.id2label[4] == "LABEL_4"
    assert config.label2id["LABEL_4"] == 4
    with pytest.raises(AttributeError, match="hiden_size.*did you mean hidden_size"):
        config.hiden_size  # noqa: B018


def test_replace_changes_dependent_fields_together_and_leaves_the_original_alone():
    config = UniSpeechSatConfig()
    wider = config.replace(hidden_size=1024, num_attention_heads=16)
    assert (wider.hidden_size, config.hidden_size) == (1024, 768)
    wider.conv_dim.append(1)
    assert len(config.conv_dim) == 7
    assert config.replace(num_labels=4).num_labels == 4
    with pytest.raises(TypeError, match="'hiden_size' is not a field.*did you mean hidden_size"):
        config.replace(hiden_size=1)


def test_unknown_keys_warn_when_typed_and_are_kept_when_read(tmp_path):
    with pytest.warns(UserWarning, match="'mask_channel_prob' is not a field"):
        typed = UniSpeechSatConfig(mask_channel_prob=0.5)
    assert typed.mask_channel_prob == 0.5
    text = {**typed.to_dict(), "freeze_feat_extract_train": True, "replace_prob": 0.5}
    (tmp_path / "config.json").write_text(json.dumps(text))
    config = UniSpeechSatConfig.from_pretrained(tmp_path)
    assert config.freeze_feat_extract_train is True
    config.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == text


def test_labels_from_names_numbers_and_files():
    assert UniSpeechSatConfig(num_labels=3).label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    config = UniSpeechSatConfig.from_dict({"id2label": {"0": "ann", "1": "bob", "2": "eve"}})
    assert config.num_labels == 3
    assert config.label2id == {"ann": 0, "bob": 1, "eve": 2}
    assert config.to_dict()["id2label"] == {"0": "ann", "1": "bob", "2": "eve"}


def test_files_that_are_no_config(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(FileNotFoundError, match=r"a checkpoint's folder holds a config.json"):
        UniSpeechSatConfig.from_pretrained(tmp_path)
    path.write_text('{"model_type": "wav2vec2"}')
    with pytest.raises(ValueError, match="model_type='wav2vec2': a checkpoint of another family"):
        UniSpeechSatConfig.from_pretrained(tmp_path)
    path.write_text('{"hidden_size": ')
    with pytest.raises(ValueError, match="is not JSON .*downloaded whole"):
        UniSpeechSatConfig.from_pretrained(tmp_path)
    path.write_bytes(POINTER)
    with pytest.raises(ValueError, match="is not JSON .*run git lfs pull"):
        UniSpeechSatConfig.from_pretrained(tmp_path)
    path.write_text("[1]")
    with pytest.raises(ValueError, match="holds a list"):
        UniSpeechSatConfig.from_pretrained(tmp_path)


def test_round_trip_with_the_reference(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = UniSpeechSatConfig.large(num_labels=3, adapter_attn_dim=8, mask_feature_prob=0.25)
    ours.save_pretrained(tmp_path)
    theirs = transformers.UniSpeechSatConfig.from_pretrained(tmp_path)
    assert (theirs.hidden_size, theirs.mask_feature_prob, theirs.num_labels) == (1024, 0.25, 3)
    assert theirs.adapter_attn_dim == 8
    theirs.save_pretrained(tmp_path)
    again = UniSpeechSatConfig.from_pretrained(tmp_path)
    assert {**again.to_dict(), "transformers_version": None} == {**ours.to_dict(), "transformers_version": None}


def test_copies_and_pickles():
    config = UniSpeechSatConfig.tiny()
    assert copy.deepcopy(config) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert config != UniSpeechSatConfig.base()


def test_the_signature_lists_the_fields():
    parameters = inspect.signature(UniSpeechSatConfig).parameters
    assert parameters["hidden_size"].default == 768
    assert parameters["conv_dim"].default == [512] * 7


REFUSED = [
    ("conv_stride", 5, "conv_stride=5 must hold positive integers"),
    ("tdnn_dim", None, "tdnn_dim=None must hold positive integers"),
    ("conv_kernel", [3, "3"], "conv_kernel=.* must hold positive integers"),
    ("adapter_attn_dim", [], r"adapter_attn_dim=\[\] must be a whole number, or None"),
    ("utterance_contrastive_layer", "x", "utterance_contrastive_layer='x' must be a whole number"),
    ("id2label", 5, "id2label=5 must be a dict"),
    ("extra", 5, "extra=5 must be a dict"),
    ("id2label", {"a": "b"}, "id2label={'a': 'b'} must give labels by their numbers"),
    ("torch_dtype", 16, "torch_dtype=16 must be a torch.dtype or its name"),
    ("num_labels", -1, "num_labels=-1 must be a whole number"),
    ("num_labels", 2.5, "num_labels=2.5 must be a whole number"),
    ("num_labels", 10**9, "num_labels=1000000000 must be a whole number from 0 to"),
    ("num_hidden_layers", 8000, "num_hidden_layers=8000 is beyond reason; at most 500"),
    ("mask_time_length", 10**9, "mask_time_length=1000000000 is beyond reason"),
    ("initializer_range", 1e30, "initializer_range=1e[+]30 must be at most 1"),
    ("layer_norm_eps", float("nan"), "layer_norm_eps=nan must be positive"),
    ("intermediate_size", 10**6, "a model of about 2e[+]10 weights, which is beyond reason"),
]


@pytest.mark.wrong_types
@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_a_refused_value_does_not_stay(name, value, message):
    config = UniSpeechSatConfig()
    before = config.to_dict()
    with pytest.raises(ValueError, match=message):
        setattr(config, name, value)
    with pytest.raises(ValueError, match=message):
        config.update({"layerdrop": 0.0, name: value})
    assert config.to_dict() == before
    with pytest.raises(ValueError, match=message):
        UniSpeechSatConfig.from_dict({name: value})


def test_json_nested_beyond_reading(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="config.json is not JSON"):
        UniSpeechSatConfig.from_pretrained(tmp_path)


def test_a_precision_is_kept_by_its_name(tmp_path):
    config = UniSpeechSatConfig(torch_dtype=torch.float16)
    assert json.loads(config.to_json_string())["torch_dtype"] == "float16"
    config.torch_dtype = torch.bfloat16
    assert config.torch_dtype == "bfloat16"
    # transformers 5 calls it dtype; of a file with both, an older unisat wrote torch_dtype last
    (tmp_path / "config.json").write_text(json.dumps({"dtype": "float16"}))
    assert UniSpeechSatConfig.from_pretrained(tmp_path).to_dict()["torch_dtype"] == "float16"
    assert "dtype" not in UniSpeechSatConfig.from_pretrained(tmp_path).to_dict()
    both = UniSpeechSatConfig.from_dict({"dtype": "float16", "torch_dtype": "float32"})
    assert both.torch_dtype == "float32"


def test_the_reference_s_ways_to_write_and_change(tmp_path):
    config = UniSpeechSatConfig(hidden_size=24, num_attention_heads=2, num_conv_pos_embedding_groups=2)
    assert config.to_diff_dict() == {
        "hidden_size": 24,
        "model_type": "unispeech-sat",
        "num_attention_heads": 2,
        "num_conv_pos_embedding_groups": 2,
    }
    config.to_json_file(tmp_path / "short.json", use_diff=True)
    assert json.loads((tmp_path / "short.json").read_text()) == config.to_diff_dict()
    assert UniSpeechSatConfig.from_json_file(tmp_path / "short.json") == config
    config.update({"hidden_size": 30, "num_attention_heads": 3, "num_labels": 4, "my_key": 1})
    assert (config.hidden_size, config.num_labels, config.label2id["LABEL_3"], config.my_key) == (30, 4, 3, 1)
    config.conv_dim = (512,) * 7
    assert config.conv_dim == [512] * 7
    config.id2label = {"0": "no", "1": "yes"}
    assert config.id2label == {0: "no", 1: "yes"}
