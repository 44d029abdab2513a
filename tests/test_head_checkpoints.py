"""Checkpoints between backbones and heads, language adapters, and the authors' fairseq files."""

import argparse
import collections
import json
import re

import numpy as np
import pytest
import torch
from conftest import shuffled, small_config
from safetensors.torch import load_file, save_file
from test_heads import KINDS, head_config

import unisat as us
from unisat import fairseq

pytestmark = pytest.mark.runs_once


@pytest.fixture
def backbone(tmp_path):
    """A saved backbone and its folder."""
    model = shuffled(us.UniSpeechSatModel(head_config()))
    model.save_pretrained(tmp_path / "backbone")
    return model, tmp_path / "backbone"


def same(state, other, prefix=""):
    assert state
    for name, value in state.items():
        assert torch.equal(value, other[prefix + name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind, tmp_path, recwarn):
    model = shuffled(KINDS[kind](head_config(use_weighted_layer_sum=True)))
    model.save_pretrained(tmp_path)
    loaded = KINDS[kind].from_pretrained(tmp_path)
    assert list(loaded.state_dict()) == list(model.state_dict())
    same(model.state_dict(), loaded.state_dict())
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [type(model).__name__]
    assert not recwarn.list


@pytest.mark.parametrize("kind", KINDS)
def test_a_backbone_into_a_head_names_what_is_new(kind, backbone):
    model, folder = backbone
    with pytest.warns(UserWarning, match="they start fresh; train them") as caught:
        head = KINDS[kind].from_pretrained(folder)
    (message,) = [str(one.message) for one in caught]
    new = {name for name in head.state_dict() if not name.startswith("unispeech_sat.")}
    assert set(re.search(r"no weights for (.*): they", message)[1].split(", ")) == new
    same(model.state_dict(), head.state_dict(), "unispeech_sat.")
    assert all(torch.isfinite(value).all() for value in head.state_dict().values())
    assert not any(weight.is_meta for weight in head.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_into_the_backbone_and_into_another_head(kind, tmp_path, recwarn):
    model = shuffled(KINDS[kind](head_config()))
    model.save_pretrained(tmp_path)
    alone = us.UniSpeechSatModel.from_pretrained(tmp_path)
    assert not recwarn.list
    same(alone.state_dict(), model.state_dict(), "unispeech_sat.")
    other = us.UniSpeechSatForCTC if kind != "ctc" else us.UniSpeechSatForXVector
    with pytest.warns(UserWarning, match="start fresh"):
        head = other.from_pretrained(tmp_path)
    same(alone.state_dict(), head.state_dict(), "unispeech_sat.")


def test_another_number_of_classes(tmp_path):
    shuffled(us.UniSpeechSatForSequenceClassification(head_config())).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"classifier.weight is \(3, 8\), the model has \(5, 8\)"):
        us.UniSpeechSatForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    with pytest.warns(UserWarning, match=r"no weights for classifier.bias, classifier.weight: they start fresh"):
        model = us.UniSpeechSatForSequenceClassification.from_pretrained(
            tmp_path, num_labels=5, ignore_mismatched_sizes=True
        )
    assert model.classifier.weight.shape == (5, 8)
    # a backbone of another size is never made up
    with pytest.raises(ValueError, match="of another shape"):
        us.UniSpeechSatForSequenceClassification.from_pretrained(
            tmp_path, intermediate_size=24, ignore_mismatched_sizes=True
        )


def test_an_incomplete_backbone_is_refused(backbone):
    _, folder = backbone
    state = load_file(folder / "model.safetensors")
    del state["encoder.layers.1.layer_norm.bias"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"missing from the checkpoint: \n    unispeech_sat.encoder.layers.1.layer_norm"
    ):
        us.UniSpeechSatForCTC.from_pretrained(folder)


def test_layer_weights_of_a_checkpoint_without_them_start_equal(tmp_path):
    shuffled(us.UniSpeechSatForXVector(head_config())).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="no weights for layer_weights"):
        model = us.UniSpeechSatForXVector.from_pretrained(tmp_path, use_weighted_layer_sum=True)
    assert model.layer_weights.tolist() == [0.25] * 4


# adapters


@pytest.fixture
def multilingual(tmp_path):
    """A CTC model with adapters, and two languages beside it: one in each kind of file."""
    config = head_config(do_stable_layer_norm=True, adapter_attn_dim=5)
    model = shuffled(us.UniSpeechSatForCTC(config))
    model.save_pretrained(tmp_path)
    names = [k for k in model.state_dict() if ".adapter_layer." in k or k.startswith("lm_head")]
    assert len(names) == 3 * 6 + 2
    files = {}
    for seed, (lang, tokens) in enumerate({"fra": 7, "zh-hans": 11}.items(), start=1):
        other = shuffled(us.UniSpeechSatForCTC(config.replace(vocab_size=tokens)), seed)
        files[lang] = {name: other.state_dict()[name].contiguous() for name in names}
    save_file(files["fra"], tmp_path / "adapter.fra.safetensors")
    torch.save(files["zh-hans"], tmp_path / "adapter.zh-hans.bin")
    return tmp_path, files


def test_languages_are_loaded_and_the_head_resized(multilingual, clips):
    folder, files = multilingual
    model = us.UniSpeechSatForCTC.from_pretrained(folder, target_lang="zh-hans")
    assert (model.target_lang, model.config.vocab_size, model.lm_head.out_features) == ("zh-hans", 11, 11)
    same(files["zh-hans"], model.state_dict())
    assert model(clips).logits.shape[-1] == 11
    model.load_adapter("fra")
    same(files["fra"], model.state_dict())
    assert (model.target_lang, model.config.vocab_size) == ("fra", 7)
    with torch.no_grad():
        model.lm_head.bias.zero_()
    model.load_adapter("fra", force_load=False)  # there already
    assert not model.lm_head.bias.any()
    model.load_adapter("fra")
    same(files["fra"], model.state_dict())


@pytest.fixture
def clips():
    return torch.randn(2, 900, generator=torch.Generator().manual_seed(0))


def test_an_adapter_round_trip_and_fresh_adapters(multilingual, tmp_path):
    folder, files = multilingual
    model = us.UniSpeechSatForCTC.from_pretrained(folder, target_lang="fra")
    path = model.save_adapter("deu", tmp_path / "out")
    assert path.name == "adapter.deu.safetensors"
    same(files["fra"], load_file(path))
    backbone = {k: v.clone() for k, v in model.state_dict().items() if k not in files["fra"]}
    model.init_adapter_layers()
    assert not any(
        torch.equal(model.state_dict()[k], v) for k, v in files["fra"].items() if k.endswith("linear_1.weight")
    )
    same(backbone, model.state_dict())
    model.load_adapter("deu", tmp_path / "out")
    same(files["fra"], model.state_dict())


@pytest.mark.parametrize("lang", ["../fra", "a/b", "", ".", "fra.bin", "..", "/etc/x"])
def test_a_language_is_a_plain_word(multilingual, lang):
    model = us.UniSpeechSatForCTC.from_pretrained(multilingual[0])
    with pytest.raises(ValueError, match="must be a plain word such as 'fra'"):
        model.load_adapter(lang)


def test_adapter_files_that_do_not_fit(multilingual):
    folder, files = multilingual
    model = us.UniSpeechSatForCTC.from_pretrained(folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(FileNotFoundError, match=r"no adapter.deu.safetensors .*languages there: fra, zh-hans"):
        model.load_adapter("deu")
    good = files["fra"]
    first = next(iter(good))
    for change, message in [
        ({k: v for k, v in good.items() if k != first}, f"missing from the checkpoint: \n    {first}"),
        (good | {"extra.weight": torch.zeros(2)}, "not used by the model: \n    extra.weight"),
        (good | {"lm_head.weight": torch.zeros(7, 17)}, r"lm_head.weight is \(7, 17\), the model has \(7, 16\)"),
        (good | {"lm_head.bias": torch.zeros(6)}, "7 rows and 6 biases"),
    ]:
        save_file(change, folder / "adapter.deu.safetensors")
        with pytest.raises(ValueError, match=message):
            model.load_adapter("deu")
    (folder / "adapter.deu.safetensors").write_bytes(b"12")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        model.load_adapter("deu")
    same(before, model.state_dict())


def test_models_without_adapters(tmp_path):
    with pytest.raises(ValueError, match="target_lang='fra' needs adapters, but config.adapter_attn_dim is None"):
        us.UniSpeechSatForCTC(head_config(), target_lang="fra")
    post = us.UniSpeechSatForCTC(head_config(adapter_attn_dim=5))
    with pytest.raises(ValueError, match="has no adapters: .*do_stable_layer_norm be True"):
        post.load_adapter("fra", tmp_path)
    stable = us.UniSpeechSatForCTC(head_config(adapter_attn_dim=5, do_stable_layer_norm=True))
    with pytest.raises(ValueError, match=r"not loaded from a folder; say where adapters lie"):
        stable.load_adapter("fra")


def test_adapters_start_fresh_in_a_checkpoint_without_them(tmp_path):
    us.UniSpeechSatForCTC(head_config(do_stable_layer_norm=True)).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"encoder.layers.0.adapter_layer.linear_1.bias.*start fresh"):
        us.UniSpeechSatForCTC.from_pretrained(tmp_path, adapter_attn_dim=4)


# fairseq: names written out a second time, from the reference's names to the authors'


def to_fairseq(state, layer_norm_convs):
    names = {}
    for name in state:
        new = name.removeprefix("unispeech_sat.")
        new = new.replace("masked_spec_embed", "mask_emb")
        new = re.sub(r"conv_layers\.(\d+)\.conv\.", r"conv_layers.\1.0.", new)
        new = re.sub(
            r"conv_layers\.(\d+)\.layer_norm\.", r"conv_layers.\1.2." + ("1." if layer_norm_convs else ""), new
        )
        new = new.replace("feature_projection.layer_norm.", "layer_norm.")
        new = new.replace("feature_projection.projection.", "post_extract_proj.")
        new = new.replace(
            "encoder.pos_conv_embed.conv.parametrizations.weight.original0", "encoder.pos_conv.0.weight_g"
        )
        new = new.replace(
            "encoder.pos_conv_embed.conv.parametrizations.weight.original1", "encoder.pos_conv.0.weight_v"
        )
        new = new.replace("encoder.pos_conv_embed.conv.bias", "encoder.pos_conv.0.bias")
        new = re.sub(r"^(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm.", new)
        new = new.replace(".attention.", ".self_attn.")
        new = new.replace(".feed_forward.intermediate_dense.", ".fc1.").replace(".feed_forward.output_dense.", ".fc2.")
        new = re.sub("^layer_norm_for_extract", "encoder.layer_norm_for_extract", new)
        new = new.replace("project_hid.", "final_proj.").replace("speaker_proj.", "spk_proj.")
        new = new.replace("label_embeddings_concat", "label_embs_concat").replace(
            "quantizer.codevectors", "quantizer.vars"
        )
        names[name] = new
    return names


FRONT = dict(conv_dim=[8] * 7, conv_kernel=[10, 3, 3, 3, 3, 2, 2], conv_stride=[5, 2, 2, 2, 2, 2, 2])


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("where", ["args", "cfg"])
def test_an_authors_file_gives_the_same_model(tmp_path, stable, where, recwarn):
    config = small_config(
        **FRONT, do_stable_layer_norm=stable, feat_extract_norm="layer" if stable else "group", num_codevector_groups=2
    )
    model = shuffled(us.UniSpeechSatForPreTraining(config))
    state = model.state_dict()
    names = to_fairseq(state, stable)
    content = {
        names[name]: value
        for name, value in state.items()
        if stable or not name.startswith("layer_norm_for_extract")  # post-LN files have none
    }
    settings = {
        "encoder_attention_heads": 2,
        "layer_norm_first": stable,
        "conv_feature_layers": "[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2",
        "latent_groups": 2,
        "utterance_contrastive_layer": 2,
    }
    settings = {"args": argparse.Namespace(**settings)} if where == "args" else {"cfg": {"model": settings}}
    torch.save({"model": content, "optimizer_history": [{"num_updates": 3}], **settings}, tmp_path / "sat.pt")
    loaded = us.UniSpeechSatForPreTraining.from_fairseq(tmp_path / "sat.pt")
    for name, value in state.items():
        if stable or not name.startswith("layer_norm_for_extract"):
            assert torch.equal(loaded.state_dict()[name], value), name
    for field in "conv_dim conv_kernel conv_stride num_attention_heads do_stable_layer_norm feat_extract_norm".split():
        assert getattr(loaded.config, field) == getattr(config, field), field
    assert loaded.config.utterance_contrastive_layer == 2
    wave = torch.randn(1, 1500, generator=torch.Generator().manual_seed(0))
    model.config.utterance_contrastive_layer = 2
    torch.testing.assert_close(loaded(wave).speaker_states, model(wave).speaker_states)
    assert us.UniSpeechSatModel.from_fairseq(tmp_path / "sat.pt").dtype == torch.float32
    assert not recwarn.list


def test_a_fine_tuned_authors_file(tmp_path):
    model = shuffled(us.UniSpeechSatForCTC(small_config(**FRONT, vocab_size=9)))
    names = to_fairseq(model.state_dict(), False)
    content = {
        "w2v_encoder.proj." + name.removeprefix("lm_head.")
        if name.startswith("lm_head")
        else "w2v_encoder.w2v_model." + names[name]: value
        for name, value in model.state_dict().items()
    }
    inner = {"encoder_attention_heads": 2, "layer_norm_first": False}
    torch.save({"model": content, "cfg": {"model": {"w2v_args": {"model": inner}}}}, tmp_path / "ctc.pt")
    loaded = us.UniSpeechSatForCTC.from_fairseq(tmp_path / "ctc.pt")
    same(model.state_dict(), loaded.state_dict())
    assert loaded.config.vocab_size == 9


def test_files_that_are_no_fairseq_checkpoint(tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(FileNotFoundError, match="from_fairseq reads one .pt file"):
        us.UniSpeechSatModel.from_fairseq(path)
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match="truncated or not a torch file|run code"):
        us.UniSpeechSatModel.from_fairseq(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(ValueError, match="a dict with 'model' was expected"):
        us.UniSpeechSatModel.from_fairseq(path)
    torch.save({"model": {"decoder.embed": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match=r"weights that UniSpeech-SAT does not have: decoder.embed"):
        us.UniSpeechSatModel.from_fairseq(path)
    torch.save({"model": {"mask_emb": torch.zeros(4)}}, path)
    with pytest.raises(ValueError, match="has no encoder.pos_conv_embed.conv.weight_v"):
        us.UniSpeechSatModel.from_fairseq(path)


def call_me(*_):
    raise AssertionError("a name in the file was called")


class Dictionary:
    """What the authors' trainer keeps of its task, besides weights."""

    def __init__(self, made):
        self.symbols = ["<s>", "<pad>"]
        made.append(self)

    def __reduce__(self):
        return call_me, (1,), {"symbols": self.symbols}


def authors_content(**settings):
    """Weights of a small model under the authors' names, and settings."""
    model = shuffled(us.UniSpeechSatModel(small_config(**FRONT, num_hidden_layers=1)))
    names = to_fairseq(model.state_dict(), False)
    settings = {"encoder_attention_heads": 2, "layer_norm_first": False, **settings}
    return model, {"model": {names[k]: v for k, v in model.state_dict().items()}, "cfg": {"model": settings}}


def test_objects_of_the_task_are_replaced_and_nothing_is_called(tmp_path):
    model, content = authors_content()
    content["task_state"] = {"dictionaries": [Dictionary([])], "labels": collections.Counter("ab")}
    content["extra_state"] = {"epoch": np.float64(3)}
    torch.save(content, tmp_path / "sat.pt")
    same(model.state_dict(), us.UniSpeechSatModel.from_fairseq(tmp_path / "sat.pt", torch_dtype="float32").state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder_attention_heads": "two"}, "encoder_attention_heads='two' must be a positive whole number"),
        ({"encoder_attention_heads": 0}, "encoder_attention_heads=0 must be a positive whole number"),
        ({"spk_layer": 1.5}, "spk_layer=1.5 must be a positive whole number"),
        ({"conv_feature_layers": "[(8,10,5)] * 300000000"}, "asks for more than 100 convolutions"),
    ],
)
def test_settings_of_the_authors_are_checked(tmp_path, settings, message):
    torch.save(authors_content(**settings)[1], tmp_path / "sat.pt")
    with pytest.raises(ValueError, match=message):
        us.UniSpeechSatModel.from_fairseq(tmp_path / "sat.pt")


def test_authors_files_of_odd_shapes_and_settings(tmp_path):
    path = tmp_path / "sat.pt"
    _, content = authors_content()
    loop = argparse.Namespace()
    loop.w2v_args = loop
    odd = {
        "settings that hold settings": {**content, "cfg": None, "args": loop},
        "num_hidden_layers=8001 is beyond reason": {
            **content,
            "model": content["model"] | {"encoder.layers.8000.fc1.bias": torch.zeros(4)},
        },
        "shapes|no UniSpeech-SAT has": {
            **content,
            "model": content["model"] | {"encoder.pos_conv.0.weight_v": torch.zeros(4)},
        },
        "a dict with 'model' was expected": {**content, "model": {3: torch.zeros(1)}},
    }
    for message, one in odd.items():
        torch.save(one, path)
        with pytest.raises(ValueError, match=message):
            us.UniSpeechSatModel.from_fairseq(path)


def test_strides_are_read_not_run():
    assert fairseq._strides("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2") == [5, 2, 2, 2, 2, 2, 2]
