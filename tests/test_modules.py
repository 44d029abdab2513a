"""What belongs to any module: its inside, its mode, its memory, and whether its weights have changed."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unisat.modules import GradientCheckpointingLayer, bit_sum, drops, evaluating, fingerprint, unwrap, versions


def test_what_is_inside_the_wrappers():
    inner, compiled = nn.Linear(2, 2), partial(torch.compile, backend="eager")
    for wrapped in (inner, nn.DataParallel(inner), compiled(inner), compiled(nn.DataParallel(inner))):
        assert unwrap(wrapped) is inner


@pytest.mark.wrong_types
def test_a_layer_is_dropped_as_often_as_asked_for():
    generator = torch.Generator().manual_seed(0)
    share = sum(drops(0.3, generator) for _ in range(2000)) / 2000
    assert share == pytest.approx(0.3, abs=0.04)
    # on the CPU the draws after it do not depend on the probability
    after = []
    for probability in (0.0, 0.5):
        generator.manual_seed(0)
        drops(probability, generator)
        after.append(torch.rand((), generator=generator))
    assert after[0] == after[1] == torch.rand(2, generator=generator.manual_seed(0))[1]
    # a generator elsewhere would have to be read: this one cannot be
    elsewhere = SimpleNamespace(device=torch.device("cuda"))
    assert not drops(0.0, elsewhere)
    with pytest.raises((TypeError, RuntimeError, AssertionError)):
        drops(0.5, elsewhere)


def test_each_module_gets_its_own_mode_back():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
    model[1].eval()
    before = [module.training for module in model.modules()]
    assert True in before and False in before  # noqa: PT018
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert not any(module.training for module in model.modules())
        1 / 0  # noqa: B018
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("shape", [(), (3,), (4, 5), (2, 3, 7)])
def test_any_changed_bit_changes_the_sum(shape, dtype):
    weight = torch.ones(shape, dtype=dtype)
    before = bit_sum(weight)
    assert bit_sum(weight.clone()) == before
    for index in range(weight.numel()):
        changed = weight.clone()
        changed.view(-1).view(torch.int8)[index * weight.itemsize] ^= 1
        assert bit_sum(changed) != before
    rows = torch.arange(12.0).view(3, 4)
    assert bit_sum(rows) != bit_sum(rows.flip(0))
    assert bit_sum(rows[1:]) == bit_sum(rows[1:].clone())  # wherever in memory it begins


def test_order_and_signs_change_the_sum():
    weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    before = bit_sum(weight)
    taken = {
        "columns turned around": weight.flip(1),
        "pairs of columns turned around": weight.unflatten(1, (-1, 2)).flip(1).flatten(1),
        "two columns": weight[:, [2, 1, 0, *range(3, 32)]],
        "two values of a row": torch.cat([weight[:3], weight[3:4].flip(1), weight[4:]]),
        "every second sign": weight * torch.tensor([1.0, -1.0]).repeat(16),
    }
    for name, changed in taken.items():
        assert bit_sum(changed) != before, name
    assert bit_sum(weight[0].flip(0)) != bit_sum(weight[0])
    with torch.autocast("cpu", torch.float16):
        assert bit_sum(weight) == before
    broken = torch.full((3, 4), torch.nan)
    assert bit_sum(broken) == bit_sum(broken.clone())  # else nothing would ever be kept


def test_a_fingerprint_is_of_the_weights(one_model):
    before = fingerprint(one_model)
    assert fingerprint(one_model) == before == fingerprint(copy.deepcopy(one_model))
    kept = copy.deepcopy(one_model.state_dict())
    with torch.no_grad():
        one_model.encoder.layers[2].layer_norm.bias[3] += 1e-6
    assert fingerprint(one_model) != before
    one_model.load_state_dict(kept)
    assert fingerprint(one_model) == before
    weight = one_model.encoder.layers[0].attention.q_proj.weight.data
    weight.copy_(weight[[1, 0, *range(2, 16)]])  # behind the back of torch's count of changes
    assert fingerprint(one_model) != before
    weight.copy_(kept["encoder.layers.0.attention.q_proj.weight"])
    assert fingerprint(one_model) == before
    weight.copy_(weight.unflatten(1, (-1, 2)).flip(1).flatten(1))
    assert fingerprint(one_model) != before


def through_an_optimizer(model, **options):
    sum(weight.square().sum() for weight in model.parameters()).backward()
    torch.optim.AdamW(model.parameters(), **options).step()


@pytest.mark.parametrize(
    "change",
    [
        lambda model: through_an_optimizer(model),
        lambda model: through_an_optimizer(model, fused=True),
        lambda model: through_an_optimizer(model, foreach=True),
        lambda model: model.load_state_dict({name: 2 * one for name, one in model.state_dict().items()}),
        lambda model: model[1].running_mean.add_(1),
        lambda model: setattr(model[0], "weight", nn.Parameter(2 * model[0].weight)),
        lambda model: setattr(model[0].weight, "data", 2 * model[0].weight.data),
        lambda model: model[0].weight.data.mul_(2),
        lambda model: model.half(),
    ],
)
def test_versions_tell_changed_weights(change):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    before = versions(model)
    model(torch.randn(2, 3))
    assert versions(model) == before
    change(model)
    assert versions(model) != before


def test_weights_made_in_inference_mode_have_versions_too():
    with torch.inference_mode():
        model = nn.Linear(2, 2)
    assert versions(model) == versions(model)


class Layer(GradientCheckpointingLayer):
    def __init__(self):
        super().__init__()
        self.inner, self.passes = nn.Linear(2, 2), 0

    def forward(self, values, scale):
        self.passes += 1
        return self.inner(values).tanh() * scale


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("enabled", [False, True])
def test_a_layer_that_keeps_only_its_inputs_is_computed_twice(train, enabled):
    torch.manual_seed(0)
    layer, seen = Layer().train(train), []
    layer.gradient_checkpointing = enabled
    layer.register_forward_pre_hook(lambda module, args: seen.append(args))
    values = torch.randn(3, 2, requires_grad=True)
    layer(values, 2.0).sum().backward()
    assert layer.passes == len(seen) == 1 + (train and enabled)
    expected = torch.autograd.grad((torch.tanh(values @ layer.inner.weight.T + layer.inner.bias) * 2).sum(), values)
    torch.testing.assert_close(values.grad, expected[0])
