import builtins
import json
import pickle

import pytest
import torch
from conftest import shuffled, small_config
from safetensors.torch import load_file, save_file

from unisat import UniSpeechSatModel, checkpoint

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
    assert torch.equal(loaded(*ragged[:2]).last_hidden_state, model(*ragged[:2]).last_hidden_state)
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
