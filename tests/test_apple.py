"""What is measured on a device without float64, as Apple's GPUs, is what is measured on a CPU."""

import pytest
import torch
from apple import Apple, OnApple, on_apple
from conftest import relative, shuffled, small_config

import unisat as us
from unisat.acoustics import loudness
from unisat.interpret import chunk_error
from unisat.interpret.activations.attention import rollout, value_norms
from unisat.interpret.activations.reduce import Moments

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


MEASURES = {
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
