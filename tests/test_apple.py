"""What is measured and trained on a device without float64, as Apple's GPUs, is what is on a CPU."""

import csv
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from apple import Apple, OnApple, on_apple
from conftest import relative, shuffled, small_config

import unisat as us
from unisat.acoustics import loudness
from unisat.clusters import lloyd
from unisat.interpret import chunk_error
from unisat.interpret.activations.attention import rollout, value_norms
from unisat.interpret.activations.reduce import Moments
from unisat.training import heads, loop, recipe
from unisat.training.augment import Augment
from unisat.training.targets import HiddenFeatures

SITES = ("block.*.attn.pattern", "block.1.attn.v", "hidden.*")
WAVES = [torch.randn(samples, generator=torch.Generator().manual_seed(samples)) for samples in (3000, 2000)]


def mean(output):
    return output.last_hidden_state.mean((1, 2))


def edited(model, batch, edit):
    with us.intervene(model, edit):
        return us.run(model, batch, "hidden.3")[1]["hidden.3"]


def basis(rank):
    return torch.linalg.qr(torch.randn(16, rank, generator=torch.Generator().manual_seed(0)))[0].mT


def traced(model, batch):
    """A trace that stays on the model's device."""
    with us.capture(model, *SITES, device=model.device) as trace:
        model(batch.input_values.to(model.device), attention_mask=batch.attention_mask.to(model.device))
    return trace


def erase():
    return us.Erase("hidden.2", basis(2).double().numpy(), mean=torch.ones(16).numpy())


def attributed(method, wrt=None):
    def measure(model, batch):
        target = None if method in ("rollout", "norms") else mean
        found = us.attribute(model, batch, target, method=method, wrt=wrt, **({"steps": 4} if method == "ig" else {}))
        return torch.cat([values.flatten() for values in found.values])

    return measure


def moments(model, batch):
    found = us.collect(model, batch, "hidden.2", reduce=Moments(), progress=False)
    return torch.from_numpy(found.statistics("hidden.2")["covariance"])


def forward(model, batch, rows=None, **options):
    mask = None if rows else batch.attention_mask.to(model.device)
    with torch.no_grad():
        output = model(batch.input_values[:rows].to(model.device), attention_mask=mask, **options)
    return output.last_hidden_state * output.valid[..., None]


MEASURES = {
    "forward": lambda model, batch: forward(model, batch, rows=1),
    "padded": forward,
    "patterns": lambda model, batch: forward(model, batch, output_attentions=True),
    "run": lambda model, batch: us.run(model, batch, *SITES)[1]["block.1.attn.v"],
    "collect": lambda model, batch: torch.tensor(us.collect(model, batch, "hidden.2", progress=False)["hidden.2"]),
    "many": lambda model, batch: torch.cat(HiddenFeatures(model, 2).many(WAVES)),
    "lloyd": lambda model, batch: lloyd(WAVES[0].view(-1, 10).to(model.device), 5).centroids,
    "table": lambda model, batch: torch.tensor(traced(model, batch).table()["rms"].tolist()),
    "rollout": lambda model, batch: rollout(traced(model, batch)),
    "value norms": lambda model, batch: value_norms(model, traced(model, batch), 1),
    "moments": moments,
    "integrated gradients": attributed("ig", "wave"),
    "gradients": attributed("gradient", "hidden.1"),
    "attributed norms": attributed("norms"),
    "project": lambda model, batch: edited(model, batch, us.Project("hidden.2", basis(3).to(model.device))),
    "erase": lambda model, batch: edited(model, batch, erase()),
    "erase later": lambda model, batch: erase().apply(traced(model, batch)["hidden.2"]),
    "placebo": lambda model, batch: edited(
        model, batch, us.Placebo(us.Project("hidden.2", basis(3)), seed=1, match="variance")
    ),
    "chunks": lambda model, batch: torch.tensor(
        chunk_error(model, torch.cat(WAVES * 8), chunk_seconds=1.0, context_seconds=0.2)["rms"].tolist()
    ),
    "loudness": lambda model, batch: torch.tensor(loudness(WAVES[0].to(model.device))),
    "normalised": lambda model, batch: us.audio.normalize(WAVES[0].to(model.device)),
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_device_without_float64_gives_the_same(name):
    batch = us.Batch.from_arrays(WAVES, sampling_rate=16_000)
    expected = MEASURES[name](shuffled(us.UniSpeechSatModel(small_config())), batch)
    model = on_apple(shuffled(us.UniSpeechSatModel(small_config())))
    with Apple():
        found = MEASURES[name](model, batch).cpu()
    assert type(found) is torch.Tensor
    assert relative(found.double(), expected.double()) <= 1e-4


def test_the_device_behaves_like_apple_s():
    with Apple():
        there = torch.ones(3, device="mps")
        assert isinstance(there * 2, OnApple)
        assert (there * 2).device.type == "mps"
        assert torch.zeros(2).double().device.type == "cpu"
        assert type(there.cpu().double()) is torch.Tensor
        for refused in (there.double, lambda: there.to(torch.float64), lambda: torch.ones(3).double().to("mps")):
            with pytest.raises(TypeError, match="doesn't support float64"):
                refused()


def test_what_lies_on_two_devices_does_not_meet():
    with Apple():
        here, there = torch.ones(3), torch.ones(3, device="mps")
        one, *_ = there
        assert isinstance(one, OnApple)
        assert isinstance(there[torch.tensor([0, 2])] * torch.tensor(2.0), OnApple)
        there[:2], here[1:] = here[:2], there[1:]  # copies
        cpu, own = torch.Generator(), torch.Generator("mps")
        assert isinstance(torch.rand(2, device="mps", generator=own), OnApple)
        refused = {
            "same device": [
                lambda: there + here,
                lambda: torch.cat([there, here]),
                lambda: here[torch.ones(3, dtype=torch.long, device="mps")],
                lambda: there.masked_fill(here > 0, 1),
                lambda: torch.nn.functional.linear(there, here[None]),
            ],
            "generator": [lambda: torch.rand(2, device="mps", generator=cpu), lambda: torch.rand(2, generator=own)],
        }
        for message, calls in refused.items():
            for call in calls:
                with pytest.raises(RuntimeError, match=message):
                    call()
        with pytest.raises(TypeError, match="to numpy"):
            there.numpy()


def test_what_waits_is_counted():
    with Apple() as apple:
        there = torch.ones(3, device="mps")
        _ = there.sum().item(), int(there[0]), there[there > 0], there.cpu(), there.to("cpu"), bool(there.all())
        _ = there + 1, there[:2], torch.ones(2).tolist(), there.to(torch.float16), there[torch.tensor([0])]
        waited = ["item", "__int__", "__getitem__", "cpu", "to", "__bool__"]
        assert apple.waited == waited


OFF = dict.fromkeys(["hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout"], 0.0)
OFF |= dict(final_dropout=0.0, feat_quantizer_dropout=0.0)
OFF |= dict(layerdrop=1e-9)  # with 0, a generator on a device is not asked


def pretrained(device, place, padded=True):
    """A step of pretraining with masks, mixing and all terms: loss, terms, a gradient and what was waited for."""
    config = small_config(**OFF, mask_time_length=3, mask_time_prob=0.5, mixing_prob=0.9, unmasked_loss_weight=1.0)
    model = shuffled(us.UniSpeechSatForPreTraining(config)).train()
    batch = us.Batch.from_arrays([*WAVES, WAVES[0][:2500], WAVES[0][:2700]], sampling_rate=16_000)
    mask = batch.attention_mask if padded else torch.ones_like(batch.attention_mask)
    targets = torch.arange(45).expand(4, -1) % 12
    with Apple() as apple:
        model.to(device)
        given = [tensor.to(device) for tensor in (batch.input_values, mask, targets)]
        generator = torch.Generator(place).manual_seed(0)
        apple.waited.clear()
        output = model(given[0], given[1], targets=given[2], generator=generator)
        waited = [*apple.waited]
        output.loss.backward()
        numbers = torch.stack([output.loss, *output.terms.values(), *output.metrics.values()]).detach().cpu()
        gradient = model.speaker_proj.weight.grad.cpu()
    assert output.mixing.mixed.any()
    return torch.cat([numbers, gradient.flatten()]), waited


@pytest.mark.parametrize("place", ["cpu", "mps"])
def test_a_step_of_pretraining_is_the_same(place):
    expected, waited = pretrained("cpu", "cpu")
    assert not waited
    found, _ = pretrained("mps", place)
    assert type(found) is torch.Tensor
    assert relative(found, expected) <= 1e-4


def test_how_often_a_device_is_waited_for():
    """Not more often than today; three times of pretraining are LayerDrop's."""
    batch = us.Batch.from_arrays(WAVES, sampling_rate=16_000)
    waited = {}
    for kind, changes in {"post-LN": {}, "pre-LN": dict(do_stable_layer_norm=True, feat_extract_norm="layer")}.items():
        model = on_apple(shuffled(us.UniSpeechSatModel(small_config(**changes))))
        with Apple() as apple:
            given = batch.input_values.to("mps"), batch.attention_mask.to("mps")
            apple.waited.clear()
            with torch.no_grad():
                model(*given)
        waited[kind] = len(apple.waited)
    waited["pretraining"] = len(pretrained("mps", "mps")[1])
    most = {"post-LN": 1, "pre-LN": 3, "pretraining": 22}
    assert all(waited[kind] <= most[kind] for kind in most), waited


@pytest.fixture
def spoken(tmp_path):
    """Eight coloured noises of two speakers, with texts."""
    draw, rows = np.random.default_rng(0), []
    for row in range(8):
        wave = np.convolve(draw.normal(size=9000 + 800 * row), draw.normal(size=9 + row), "same")
        soundfile.write(tmp_path / f"{row}.wav", 0.1 * wave / np.abs(wave).max(), 16_000)
        rows.append({"id": row, "path": f"{row}.wav", "speaker": "ab"[row % 2], "text": "AB"[row // 2 % 2]})
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path


AUGMENT = dict(clean_prob=0.2, noise_prob=0.5, room_prob=0.5, band_prob=0.5, change_prob=0.5)
SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, **OFF)
SMALL |= dict(conv_dim=[8, 8, 8], conv_kernel=[10, 8, 10], conv_stride=[5, 8, 8], num_conv_pos_embeddings=8)
SMALL |= dict(num_conv_pos_embedding_groups=2, num_codevectors_per_group=4, codevector_dim=8, proj_codevector_dim=8)


def log(file):
    with file.open() as lines:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]
    return torch.tensor([[value for name, value in row.items() if name != "seconds"] for row in rows])


def pretrain(spoken, device, monkeypatch):
    """Two steps of a recipe with everything on the device, and the validation behind them."""
    sources = {"noise": {"source": str(spoken / "table.csv")}}
    made = recipe.from_dict(
        dict(
            out=str(spoken / device),
            model=SMALL | dict(mask_time_prob=0.5, mask_time_length=4, mixing_prob=0.5),
            data=dict(
                train=sources, valid=sources, crop_seconds=0.7, min_seconds=0.5, batch_seconds=3.0, on_device=True
            ),
            targets=dict(clusters=5, sample_seconds=100.0, method="lloyd"),
            augment=AUGMENT,
            optimizer=dict(learning_rate=1e-3, steps=2, warmup_steps=1),
            run=dict(log_every=1, valid_every=2, save_every=2),
        )
    )
    alone = dict(process_index=0, num_processes=1, prepare=lambda *given: given, backward=lambda loss: loss.backward())
    alone |= dict(clip_grad_norm_=torch.nn.utils.clip_grad_norm_, wait_for_everyone=lambda: None)
    monkeypatch.setattr(loop, "_accelerator", lambda: SimpleNamespace(device=torch.device(device), **alone))
    with Apple():
        trainer = loop.Trainer(made, progress=False)
        assert trainer.train.store.device.type == trainer.model.device.type == device
        trainer.run()
    return torch.cat([log(spoken / device / name).flatten() for name in ("train.csv", "valid.csv")])


@pytest.mark.runs_once
def test_a_recipe_gives_the_same_log(spoken, monkeypatch):
    expected, found = (pretrain(spoken, device, monkeypatch) for device in ("cpu", "mps"))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def taught(kind, spoken, device):
    """A few steps of a head, and what it is worth."""
    sources = {"noise": {"source": str(spoken / "table.csv")}}
    sizes = dict(shortest_seconds=0.2, longest_seconds=0.8, batch_size=4, batch_seconds=3.0, steps=2)
    made = heads.HeadRecipe(
        out=str(spoken / device),
        model="",
        train=sources,
        valid=sources,
        speeds=[1.0, 0.9],
        backbone_learning_rate=1e-3,
        augment=Augment(**AUGMENT),
        head=SMALL | dict(xvector_output_dim=8, tdnn_dim=[8] * 4 + [16]),
        **sizes,
    )
    (spoken / device).mkdir()
    torch.manual_seed(0)
    with Apple():
        head = heads.KINDS[kind](made, us.UniSpeechSatConfig(), torch.device(device))
        head.config = us.UniSpeechSatConfig(**SMALL)
        model = shuffled(head.model_class(heads._config(head))).to(device)
        model.freeze_feature_encoder()
        heads._fit(model, head, False, None)
        worth = head.judge(model.eval(), head.read(sources)) if head.judged else {}
    return torch.cat([log(spoken / device / "train.csv").flatten(), torch.tensor([*worth.values()])])


@pytest.mark.runs_once
@pytest.mark.parametrize("kind", heads.KINDS)
def test_a_head_learns_the_same(kind, spoken):
    expected, found = (taught(kind, spoken, device) for device in ("cpu", "mps"))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
