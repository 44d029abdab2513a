import builtins
import contextlib
import gzip
import json
import pickle
import re
import shutil
import zipfile

import pytest
import torch
from conftest import ANNEX, POINTER, shuffled, small_config
from safetensors.torch import load_file, save_file

from unisat import UniSpeechSatForCTC, UniSpeechSatModel, checkpoint
from unisat.shortcuts import plain

pytestmark = pytest.mark.runs_once


@pytest.fixture
def saved(one_model, tmp_path):
    """A model and the folder it was saved in."""
    one_model.save_pretrained(tmp_path / "model")
    return one_model, tmp_path / "model"


def same(model, other):
    assert list(model.state_dict()) == list(other.state_dict())
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


def rewrite(folder, change, binary=False):
    """Change the saved weights, perhaps into a pytorch_model.bin."""
    state = change(load_file(folder / "model.safetensors"))
    if binary:
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors")


def older_spelling(state):
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, old in names.items():
        state = {name.replace(new, old): value for name, value in state.items()}
    assert any(name.endswith("weight_g") for name in state)
    return state


def with_head(state):
    state = {f"unispeech_sat.{name}": value for name, value in state.items()}
    return state | {"lm_head.weight": torch.zeros(3, 16), "quantizer.codevectors": torch.zeros(1)}


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("change", [dict, older_spelling, with_head, lambda s: with_head(older_spelling(s))])
def test_every_spelling_loads_without_a_word(saved, change, binary, recwarn, caplog):
    model, folder = saved
    rewrite(folder, change, binary)
    caplog.set_level("WARNING")
    same(UniSpeechSatModel.from_pretrained(folder), model)
    assert not recwarn.list
    assert not caplog.records


def test_a_loaded_model_computes_the_same_and_is_in_evaluation_mode(saved, ragged):
    model, folder = saved
    loaded = UniSpeechSatModel.from_pretrained(str(folder))
    assert not loaded.training
    same(loaded, model)
    with plain():
        assert torch.equal(loaded(*ragged[:2]).last_hidden_state, model(*ragged[:2]).last_hidden_state)
    # weights that lie elsewhere in memory round otherwise where padding is left out
    given = loaded(*ragged[:2]).last_hidden_state, model(*ragged[:2]).last_hidden_state
    torch.testing.assert_close(*given, atol=2e-6, rtol=0)
    assert all(weight.requires_grad for weight in loaded.parameters())


def test_config_changes_and_dtype(saved):
    _, folder = saved
    loaded = UniSpeechSatModel.from_pretrained(folder, padding="reference", layerdrop=0.0, dtype=torch.bfloat16)
    assert (loaded.config.padding, loaded.config.layerdrop, loaded.dtype) == ("reference", 0.0, torch.bfloat16)
    with pytest.raises(TypeError, match="'layer_drop' is not a field.*did you mean layerdrop"):
        UniSpeechSatModel.from_pretrained(folder, layer_drop=0.0)
    config = small_config(layerdrop=0.3)
    assert UniSpeechSatModel.from_pretrained(folder, config=config).config.layerdrop == 0.3


@pytest.mark.parametrize("binary", [False, True])
def test_shards(saved, binary):
    model, folder = saved
    state = list(model.state_dict().items())
    (folder / "model.safetensors").unlink()
    name = "pytorch_model.bin" if binary else "model.safetensors"
    stem, suffix = name.rsplit(".", 1)
    shards = {f"{stem}-0000{i + 1}-of-00002.{suffix}": dict(state[i::2]) for i in range(2)}
    for file, part in shards.items():
        torch.save(part, folder / file) if binary else save_file(part, folder / file)
    index = {"weight_map": {key: file for file, part in shards.items() for key in part}}
    (folder / f"{name}.index.json").write_text(json.dumps(index))
    same(UniSpeechSatModel.from_pretrained(folder), model)

    (folder / next(iter(shards))).unlink()
    with pytest.raises(FileNotFoundError, match="the index lists .*00001-of-00002"):
        UniSpeechSatModel.from_pretrained(folder)
    index["weight_map"]["masked_spec_embed"] = "../elsewhere.bin"
    (folder / f"{name}.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="a file outside its folder: '../elsewhere.bin'"):
        UniSpeechSatModel.from_pretrained(folder)
    (folder / f"{name}.index.json").write_text("[]")
    with pytest.raises(ValueError, match="is not an index of shards"):
        UniSpeechSatModel.from_pretrained(folder)


def test_everything_that_does_not_fit_is_listed_at_once(saved):
    _, folder = saved

    def damage(state):
        del state["masked_spec_embed"], state["encoder.layer_norm.bias"]
        state["encoder.layers.0.layer_norm.weight"] = torch.zeros(17)
        return state | {"encoder.layers.9.final_layer_norm.bias": torch.zeros(16)}

    rewrite(folder, damage)
    with pytest.raises(ValueError, match="does not fit UniSpeechSatModel") as error:
        UniSpeechSatModel.from_pretrained(folder)
    message = str(error.value)
    assert "missing from the checkpoint: \n    encoder.layer_norm.bias\n    masked_spec_embed\n" in message
    assert "not used by the model: \n    encoder.layers.9.final_layer_norm.bias\n" in message
    assert "encoder.layers.0.layer_norm.weight is (17,), the model has (16,)" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masked_spec_embed": None}, "missing from the checkpoint: \n    masked_spec_embed\n"),
        ({"encoder.layers.9.x": torch.zeros(2)}, "not used by the model: \n    encoder.layers.9.x\n"),
        ({"masked_spec_embed": torch.zeros(9)}, r"masked_spec_embed is \(9,\), the model has \(16,\)"),
    ],
)
def test_each_kind_of_misfit_alone_is_refused(saved, change, message):
    _, folder = saved
    rewrite(folder, lambda state: {k: v for k, v in (state | change).items() if v is not None})
    with pytest.raises(ValueError, match=message):
        UniSpeechSatModel.from_pretrained(folder)


def test_a_failed_load_leaves_the_model_unchanged(one_model):
    before = {name: value.clone() for name, value in one_model.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit"):
        checkpoint.load_weights(one_model, {"masked_spec_embed": torch.zeros(16)}, "unispeech_sat")
    assert all(torch.equal(value, before[name]) for name, value in one_model.state_dict().items())


def test_another_family(saved):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "wavlm"}))
    with pytest.raises(ValueError, match="model_type='wavlm': a checkpoint of another family"):
        UniSpeechSatModel.from_pretrained(folder)


def test_truncated_and_foreign_files(saved):
    _, folder = saved
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="model.safetensors is not a whole safetensors file"):
            UniSpeechSatModel.from_pretrained(folder)
    path.unlink()
    torch.save({"a": torch.zeros(99)}, folder / "pytorch_model.bin")
    whole = (folder / "pytorch_model.bin").read_bytes()
    for content in (whole[: len(whole) // 2], b""):
        (folder / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(ValueError, match="pytorch_model.bin is truncated or not a torch file"):
            UniSpeechSatModel.from_pretrained(folder)
    torch.save([1, 2], folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="does not hold a state dict"):
        UniSpeechSatModel.from_pretrained(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="holds none of model.safetensors"):
        UniSpeechSatModel.from_pretrained(folder)


class Attack:
    """A pickle that would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return builtins.open, (str(self.path), "w")


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_pickle_that_wants_to_run_code_is_refused(saved, tmp_path, save):
    _, folder = saved
    (folder / "model.safetensors").unlink()
    save({"masked_spec_embed": Attack(tmp_path / "owned")}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="would run code when read: refused"):
        UniSpeechSatModel.from_pretrained(folder)
    assert not (tmp_path / "owned").exists()


def test_saving_is_whole_or_not_at_all(saved, monkeypatch):
    model, folder = saved
    before = (folder / "model.safetensors").read_bytes()

    def full_disk(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        shuffled(model, seed=5).save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_no_such_folder(tmp_path):
    for name in ("nowhere", str(tmp_path / "nowhere"), "./a/b"):
        with pytest.raises(FileNotFoundError, match=r"there is no folder .*A checkpoint is a folder with config.json"):
            UniSpeechSatModel.from_pretrained(name)
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(ValueError, match="is a file; give the folder"):
        UniSpeechSatModel.from_pretrained(tmp_path / "model.safetensors")


def test_a_hub_name_without_a_network(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.utils import LocalEntryNotFoundError

    def offline(name, filename, revision):
        raise LocalEntryNotFoundError("cannot reach the hub")

    monkeypatch.setattr(hub, "hf_hub_download", offline)
    with pytest.raises(FileNotFoundError, match=r"cannot reach the hub.*Without a network: put its config.json and"):
        UniSpeechSatModel.from_pretrained("microsoft/unispeech-sat-base")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_hub_name(saved, monkeypatch, name):
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.utils import EntryNotFoundError

    model, folder = saved
    if name == "pytorch_model.bin":
        rewrite(folder, older_spelling, binary=True)
    asked = []

    def download(repository, filename, revision):
        asked.append((repository, filename, revision))
        if not (folder / filename).is_file():
            raise EntryNotFoundError("404")
        return str(folder / filename)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    same(UniSpeechSatModel.from_pretrained("someone/sat", revision="abc"), model)
    assert asked[0] == ("someone/sat", "config.json", "abc")
    assert asked[-1] == ("someone/sat", name, "abc")


def test_a_hub_name_without_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'unisat\[hub\]'"):
        UniSpeechSatModel.from_pretrained("microsoft/unispeech-sat-base")


def as_bin(folder, content=None, **options):
    """Replace the weights by a pytorch_model.bin, and give its path."""
    path = folder / "pytorch_model.bin"
    torch.save(load_file(folder / "model.safetensors") if content is None else content, path, **options)
    (folder / "model.safetensors").unlink()
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes_of_a_bin_end_in_a_sentence(saved, zipped):
    _, folder = saved
    path = as_bin(folder, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    step = len(whole) // 60
    for cut in range(1, len(whole) - 1, step):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="pytorch_model.bin"):
            UniSpeechSatModel.from_pretrained(folder)
    for place in range(0, 3000, 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x81]) + whole[place + 1 :])
        with contextlib.suppress(ValueError):  # or it loads: a weight may be any number
            UniSpeechSatModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "git lfs pull"),
        (ANNEX, "git annex get"),
        (b"<!DOCTYPE html><html>Not Found</html>", "a web page"),
        (b'\n{"error": "404"}', "JSON; fetch"),
        (gzip.compress(b"x" * 99, mtime=0), "packed with gzip; unpack"),
    ],
)
def test_what_often_lies_where_weights_should_be(saved, name, content, message):
    _, folder = saved
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} does not hold weights but is .*{message}"):
        UniSpeechSatModel.from_pretrained(folder)


def test_an_archive_that_unpacks_to_much_more_is_refused(saved):
    _, folder = saved
    path = as_bin(folder)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
        archive.writestr("archive/data/99", bytes(2**23))
    with pytest.raises(ValueError, match=r"unpacks to 8,\d{3},\d{3} bytes"):
        UniSpeechSatModel.from_pretrained(folder)


def test_weights_that_are_no_numbers_with_a_point_do_not_fit(saved):
    _, folder = saved
    rewrite(folder, lambda state: state | {"masked_spec_embed": torch.zeros(16, dtype=torch.long)})
    with pytest.raises(ValueError, match=r"masked_spec_embed is \(16,\) of torch.int64.*the model has \(16,\)"):
        UniSpeechSatModel.from_pretrained(folder)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_of_compiled_and_parallel_models(saved, prefix):
    model, folder = saved
    rewrite(folder, lambda state: {prefix + name: value for name, value in state.items()})
    with pytest.warns(UserWarning, match=r"'module.' or '_orig_mod.'.*taken off"):
        same(UniSpeechSatModel.from_pretrained(folder), model)


def test_names_of_a_compiled_part(saved):
    model, folder = saved
    rewrite(folder, lambda state: {name.replace("encoder.", "encoder._orig_mod.", 1): v for name, v in state.items()})
    with pytest.warns(UserWarning, match="taken off"):
        same(UniSpeechSatModel.from_pretrained(folder), model)


def cached(folder, where, names):
    """Lay files of a checkpoint as the hub's cache does."""
    commit = "0" * 40
    snapshot = where / "models--some--sat" / "snapshots" / commit
    (where / "models--some--sat" / "refs").mkdir(parents=True)
    (where / "models--some--sat" / "refs" / "main").write_text(commit)
    snapshot.mkdir(parents=True)
    for name in names:
        shutil.copy(folder / name, snapshot / name)


def test_a_cached_bin_is_found_without_a_network(saved, tmp_path):
    pytest.importorskip("huggingface_hub")
    model, folder = saved
    as_bin(folder)
    cached(folder, tmp_path / "cache", ["config.json", "pytorch_model.bin"])
    options = dict(cache_dir=tmp_path / "cache", local_files_only=True)
    same(UniSpeechSatModel.from_pretrained("some/sat", **options), model)
    cached(folder, tmp_path / "empty", ["config.json"])
    with pytest.raises(FileNotFoundError, match="Without a network: put its config.json"):
        UniSpeechSatModel.from_pretrained("some/sat", cache_dir=tmp_path / "empty", local_files_only=True)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_precision_by_name(saved, name):
    _, folder = saved
    for given in (torch.float16, "float16", "torch.float16"):
        model = UniSpeechSatModel.from_pretrained(folder, **{name: given})
        assert model.dtype == torch.float16
        json.loads(model.config.to_json_string())
    assert UniSpeechSatModel.from_pretrained(folder, **{name: "auto"}).dtype == torch.float32
    for wrong in ("half-ish", "int8", 16, "nn"):
        with pytest.raises(ValueError, match="is no precision of weights; expected one such as torch.float16"):
            UniSpeechSatModel.from_pretrained(folder, **{name: wrong})


def test_arguments_of_the_reference(saved, tmp_path):
    model, folder = saved
    other = {name: value + 1 for name, value in model.state_dict().items()}
    load = UniSpeechSatModel.from_pretrained
    quiet = dict(low_cpu_mem_usage=True, use_safetensors=True, token="x", cache_dir=tmp_path, local_files_only=True)
    quiet["attn_implementation"] = "sdpa"
    same(load(folder.parent, subfolder=folder.name, device_map=None, output_loading_info=False, **quiet), model)
    assert torch.equal(load(folder, state_dict=other).masked_spec_embed, other["masked_spec_embed"])
    assert load(folder, gradient_checkpointing=True).is_gradient_checkpointing
    with pytest.raises(FileNotFoundError, match="there is no folder 'nowhere' in"):
        load(folder, subfolder="nowhere")
    for name, instead in {"device_map": r"to\(device\)", "output_loading_info": "a warning"}.items():
        with pytest.raises(TypeError, match=f"{name}= is not taken: .*{instead}"):
            load(folder, **{name: "auto"})

    out = tmp_path / "out"
    model.save_pretrained(out, is_main_process=False)
    assert not out.exists()
    model.save_pretrained(out, True, other, save_function=torch.save, max_shard_size="5GB", safe_serialization=True)
    assert torch.equal(load(out).masked_spec_embed, other["masked_spec_embed"])
    for change, message in [
        (dict(push_to_hub=True), "huggingface_hub.upload_folder"),
        (dict(safe_serialization=False), "safetensors only"),
        (dict(save_funktion=1), "no argument 'save_funktion'"),
    ]:
        with pytest.raises(TypeError, match=message):
            model.save_pretrained(out, **change)
    with pytest.raises(ValueError, match="must have the model's own names of weights; 'a' is in one alone"):
        model.save_pretrained(out, state_dict={**other, "a": torch.zeros(1)})


def test_weights_without_a_config_say_what_to_pass(saved):
    model, folder = saved
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"the Trainer of transformers saves them.*config=model.config"):
        UniSpeechSatModel.from_pretrained(folder)
    same(UniSpeechSatModel.from_pretrained(folder, config=model.config), model)


def test_names_that_people_call(one_model):
    head = UniSpeechSatForCTC(small_config())
    assert head.base_model is head.unispeech_sat
    assert one_model.base_model is one_model
    assert head.config_class is type(head.config)
    assert head.num_parameters() == sum(weight.numel() for weight in head.parameters())
    head.freeze_base_model()
    assert head.num_parameters(only_trainable=True) == head.lm_head.weight.numel() + head.lm_head.bias.numel()
    frames = one_model(torch.randn(1, 3000)).lengths
    assert torch.equal(one_model.get_feat_extract_output_lengths(torch.tensor([3000])), frames)
    assert one_model._get_feat_extract_output_lengths(3000) == int(frames)
    assert not head.can_generate()
    before = head.lm_head.weight.clone()
    head.tie_weights()
    assert torch.equal(head.lm_head.weight, before)
    head.post_init()
    assert not torch.equal(head.lm_head.weight, before)  # the reference's constructors end so
    instead = {
        "generate": "processor.batch_decode",
        "generation_config": "no text token by token",
        "resize_token_embeddings": "vocab_size=",
        "get_input_embeddings": "feature_extractor",
        "set_input_embeddings": "feature_extractor",
        "get_output_embeddings": "lm_head",
        "push_to_hub": "huggingface_hub.upload_folder",
    }
    for name, successor in instead.items():
        with pytest.raises(AttributeError, match=rf"UniSpeechSatForCTC has no {name}: .*{re.escape(successor)}"):
            getattr(head, name)
        assert not hasattr(one_model, name)  # as the Trainer asks
    with pytest.raises(AttributeError, match="'UniSpeechSatForCTC' object has no attribute 'lm_haed'"):
        getattr(head, "lm_" + "haed")
    with pytest.warns(DeprecationWarning, match="is now UniSpeechSatForCTC.freeze_feature_encoder"):
        UniSpeechSatForCTC(small_config()).freeze_feature_extractor()


def test_every_second_layer_can_be_checkpointed(one_model):
    one_model.activation_checkpointing_enable(every_n_layers=2)
    layers = [*one_model.feature_extractor.conv_layers, *one_model.encoder.layers]
    assert [layer.gradient_checkpointing for layer in layers] == [True, False, True, False, True, False]
    one_model.activation_checkpointing_disable()
    assert not one_model.is_gradient_checkpointing
    with pytest.raises(TypeError, match="save_on_cpu"):
        one_model.activation_checkpointing_enable(offload=True)
