"""The layer norm in half precision: gradients of its weight and bias, which are sums over many rows."""

import pytest
import torch
from conftest import shuffled, small_config
from torch import nn

from unisat import UniSpeechSatModel
from unisat.layer_norm import LayerNorm


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(norm, values, upstream):
    values = values.clone().requires_grad_()
    found = norm(values)
    return found, torch.autograd.grad(found, (values, *norm.parameters()), upstream)


@pytest.mark.parametrize("way", ["autocast", "half"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_norm_sums_its_gradients_exactly(way, dtype):
    norm, theirs, exact = LayerNorm(24), nn.LayerNorm(24), nn.LayerNorm(24)
    with torch.no_grad():
        norm.weight.copy_(draw(24))
        norm.bias.copy_(draw(24, seed=1))
        norm.load_state_dict({name: weight.to(dtype) for name, weight in norm.state_dict().items()})
    for other in (theirs, exact):
        other.load_state_dict(norm.state_dict())
    exact.double()
    if way == "half":
        norm.to(dtype), theirs.to(dtype)
    values, upstream = draw(24_000, 24).to(dtype), (draw(24_000, 24, seed=2) + 0.02).to(dtype)
    _, (_, *expected) = gradients(exact, values.double(), upstream.double())
    with torch.autocast("cpu", dtype, enabled=way == "autocast"):
        out, (given, *found) = gradients(norm, values, upstream)
        plain, (given_plain, *_) = gradients(theirs, values, upstream)
    assert given.dtype == dtype
    assert torch.equal(out, plain) or way == "half"
    torch.testing.assert_close(out, plain, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(given, given_plain, atol=2e-2, rtol=1e-2)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= (5e-3 if way == "half" else 1e-4) * b.norm()


def test_each_weight_learns_in_bfloat16_as_in_float32():
    front = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_dim": [32] * 3}
    model = shuffled(UniSpeechSatModel(small_config(hidden_size=32, **front)))
    # scores do not depend on what all keys share, so the true gradient of such a bias is 0
    weights = {
        name: weight
        for name, weight in model.named_parameters()
        if not name.endswith("k_proj.bias") and name != "masked_spec_embed"
    }
    waveforms = draw(16, 16_000)
    upstream = draw(*model(waveforms).last_hidden_state.shape, seed=1) + 0.5

    def learn(half):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            states = model(waveforms).last_hidden_state
        return torch.autograd.grad((states.float() * upstream).sum(), list(weights.values()))

    errors = {
        name: float((a - b).norm() / b.norm()) for name, a, b in zip(weights, learn(True), learn(False), strict=True)
    }
    assert max(errors.values()) <= 0.06, errors
