"""Each fast way against its plain formula, in float32 and against float64, and when it must not be taken."""

import copy
import gc
import inspect
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import FAMILIES, family_config, shuffled, small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
)
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

import unisat
from unisat import UniSpeechSatForPreTraining, UniSpeechSatForXVector, UniSpeechSatModel, fast, shortcuts
from unisat.frames import valid_positions
from unisat.group_norm import MaskedGroupNorm
from unisat.model import Attention, EncoderLayer

KINDS = {
    "post-LN": {},
    "pre-LN": {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True},
    "group norm and bias": {"conv_bias": True},
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def one_dnn(monkeypatch):
    """Take the fast way of products on any processor, and for small matrices."""
    monkeypatch.setattr(fast, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(fast, "LEAST", 0)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ragged", [False, True])
def test_a_model_gives_the_same_numbers(kind, ragged, one_dnn, monkeypatch):
    monkeypatch.setattr(fast, "PIECE", 60)
    model = shuffled(UniSpeechSatModel(small_config(**KINDS[kind])))
    waveforms = draw(3, 9000)
    mask = valid_positions(torch.tensor([9000, 4000, 700]), 9000).long() if ragged else None
    quick = model(waveforms, mask, output_hidden_states=True)
    with shortcuts.plain():
        plain = model(waveforms, mask, output_hidden_states=True)
        exact = model.double()(waveforms.double(), mask, output_hidden_states=True)
    assert not torch.equal(quick.last_hidden_state, plain.last_hidden_state)  # another way was taken
    for a, b, c in zip(quick.hidden_states, plain.hidden_states, exact.hidden_states, strict=True):
        scale = c[quick.valid].abs().max()
        assert (a - b)[quick.valid].abs().max() <= 1e-5 * scale
        assert (a - c)[quick.valid].abs().max() <= 1e-5 * scale


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 70), st.sampled_from([1, 5, 16, 48]), st.sampled_from([1, 3, 64]), st.booleans(), st.integers(0, 9)
)
def test_a_product_through_one_dnn(rows, inputs, outputs, batched, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "mkl_is_slow", lambda: True)
        patch.setattr(fast, "LEAST", 0)
        values = draw(2, rows, inputs, seed=seed) if batched else draw(rows, inputs, seed=seed)
        weight, bias = draw(outputs, inputs, seed=seed + 1), draw(outputs, seed=seed + 2)
        for tensor in (values, weight, bias):
            tensor.requires_grad_()
        found = fast.linear(values, weight, bias)
        expected = F.linear(values.double(), weight.double(), bias.double())
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
        upstream = draw(*found.shape, seed=seed + 3)
        ours = torch.autograd.grad(found, (values, weight, bias), upstream)
        theirs = torch.autograd.grad(expected, (values, weight, bias), upstream.double())
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)


def test_products_of_other_precisions_go_the_plain_way(one_dnn):
    for dtype in (torch.float64, torch.bfloat16):
        values, weight, bias = (draw(*shape).to(dtype) for shape in [(30, 16), (8, 16), (8,)])
        assert torch.equal(fast.linear(values, weight, bias), F.linear(values, weight, bias))
    values, weight, bias = draw(30, 16), draw(8, 16), draw(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast.linear(values, weight, bias).dtype == torch.bfloat16
    with shortcuts.plain():
        assert torch.equal(fast.linear(values, weight, bias), F.linear(values, weight, bias))


@torch.no_grad()
def test_half_precision_attends_as_well_either_way(monkeypatch):
    model = shuffled(UniSpeechSatModel(small_config(hidden_size=64, num_attention_heads=4)))
    waveforms, mask = draw(2, 6000), valid_positions(torch.tensor([6000, 2500]), 6000).long()
    exact = model(waveforms, mask)
    model.bfloat16()
    errors = []
    for limit in (0, 10**9):
        monkeypatch.setattr(fast, "SMALL_PATTERN", limit)
        found = model(waveforms, mask).last_hidden_state
        errors.append(float((found - exact.last_hidden_state)[exact.valid].square().mean().sqrt()))
    assert errors[0] != errors[1]
    assert errors[1] <= 1.2 * errors[0] < 0.1


def test_half_precision_learns_as_well_either_way(monkeypatch):
    model = shuffled(UniSpeechSatModel(small_config(hidden_size=64, num_attention_heads=4)))
    waveforms, mask = draw(2, 6000), valid_positions(torch.tensor([6000, 2500]), 6000).long()
    weights = [model.get_parameter(f"encoder.layers.{part}_proj.weight") for part in ("0.attention.q", "2.attention.v")]
    upstream = draw(1, model(waveforms).last_hidden_state.shape[1], 64)

    def gradients(half):
        with Operators() as operators, torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = model(waveforms, mask)
            value = (output.last_hidden_state.float() * upstream * output.valid[..., None]).sum()
        return operators.seen, torch.autograd.grad(value, weights)

    exact, errors = gradients(half=False)[1], []
    for limit in (0, 1000):
        monkeypatch.setattr(fast, "LEARNING_FRAMES", limit)
        seen, found = gradients(half=True)
        assert ("fused attention" in seen) == (limit == 0)
        errors.append([float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)])
    assert errors[0] != errors[1]
    for fused, ours in zip(*errors, strict=True):
        assert ours <= 1.2 * fused < 0.1


def front(channels, taps, stride, seed=0):
    conv, norm = nn.Conv1d(1, channels, taps, stride, bias=False), MaskedGroupNorm(channels, channels)
    with torch.no_grad():
        for index, weight in enumerate([conv.weight, norm.weight, norm.bias]):
            weight.copy_(draw(*weight.shape, seed=seed + index))
    return conv, norm


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 3), st.integers(0, 50), st.floats(-100, 100))
def test_the_folded_norm(taps, stride, batch, seed, offset):
    conv, norm = front(7, taps, stride, seed)
    waveforms = offset + draw(batch, taps + 12 * stride, seed=seed)
    lengths = torch.randint(2, 14, (batch,), generator=torch.Generator().manual_seed(seed))
    for counted in (None, lengths):
        found = fast.fold_group_norm(waveforms, conv, norm, counted)(waveforms)
        exact = norm.double()(conv.double()(waveforms.double()[:, None]), counted)
        norm.float(), conv.float()
        valid = valid_positions(torch.full((batch,), 13) if counted is None else counted, 13)[:, None]
        with shortcuts.plain():
            plain = norm(conv(waveforms[:, None]), counted)
        ours, theirs = ((one.double() - exact) * valid for one in (found, plain))
        # however few digits the offset leaves: as good as the plain way
        assert ours.abs().max() <= 2 * theirs.abs().max() + 1e-5 * (exact * valid).abs().max()


@torch.no_grad()
def test_a_kernel_that_lets_little_through():
    """A loud low tone and a kernel that stops it: the variance is a small difference of large numbers."""
    conv, norm = front(4, 10, 5)
    conv.weight -= conv.weight.mean(-1, keepdim=True)  # stops what is constant
    waveform = 50 * torch.sin(torch.arange(16_000) * 2 * torch.pi * 5 / 16_000)[None] + 0.01 * draw(1, 16_000)
    found = fast.fold_group_norm(waveform, conv, norm, None)(waveform)
    with shortcuts.plain():
        plain = norm(conv(waveform[:, None]))
    exact = norm.double()(conv.double()(waveform.double()[:, None]))
    assert (found - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-5


class WithoutFloat64(TorchDispatchMode):
    """Refuses float64, as the GPUs of Apple do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dtype == torch.float64:
            raise TypeError("there is no float64 here")
        return out


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_device_without_float64(kind):
    model = shuffled(UniSpeechSatModel(small_config(**KINDS[kind])))
    expected = model(draw(2, 3000)).last_hidden_state
    with WithoutFloat64():
        found = model(draw(2, 3000)).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_gradients_through_the_folded_norm():
    model = shuffled(UniSpeechSatModel(small_config())).eval()
    waveforms = draw(2, 3000).requires_grad_()
    mask = valid_positions(torch.tensor([3000, 2000]), 3000).long()

    def gradients():
        output = model(waveforms, mask)
        values = [waveforms, *model.feature_extractor.parameters()]
        return torch.autograd.grad((output.last_hidden_state * output.valid[..., None]).square().sum(), values)

    quick = gradients()
    with shortcuts.plain():
        plain = gradients()
    for a, b in zip(quick, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4 * float(b.abs().max()), rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 700), st.sampled_from([1, 2, 3, 16, 127, 128]), st.sampled_from([1, 2, 4]), st.integers(1, 3))
def test_convolution_by_spectra(frames, taps, groups, batch):
    signal, weight = draw(batch, frames, 8), draw(8, 8 // groups, taps, seed=1)
    found = fast.shifted_products(signal, fast.spectrum(weight, groups), taps, taps // 2)
    exact = F.conv1d(signal.double().transpose(1, 2), weight.double(), padding=taps // 2, groups=groups)
    exact = exact[..., :frames].transpose(1, 2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-6 * float(exact.abs().max()) + 1e-6, rtol=0)


def test_where_all_is_zero_spectra_give_zero():
    """As behind an utterance in a padded batch: a layer norm would make noise of what is left there."""
    signal, weight = draw(2, 90, 8), draw(8, 4, 16, seed=1)
    signal[0, 20:60] = 0
    found = fast.shifted_products(signal, fast.spectrum(weight, 2), 16, 8)
    exact = F.conv1d(signal.transpose(1, 2), weight, padding=8, groups=2).transpose(1, 2)[:, :90]
    zero = (exact == 0).all(-1)
    assert zero[0].sum() == 40 - 15
    assert torch.equal((found == 0).all(-1), zero)


def normed_conv():
    return parametrizations.weight_norm(nn.Conv1d(8, 8, 4, groups=2), dim=2)


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda conv: conv.parametrizations.weight.original0.mul_(2),
        lambda conv: conv.parametrizations.weight.original1[0].add_(1),
        lambda conv: conv.parametrizations.weight.original1.data.copy_(conv.parametrizations.weight.original1.flip(-1)),
        lambda conv: conv.parametrizations.weight.original1.data.copy_(conv.parametrizations.weight.original1.flip(0)),
        lambda conv: conv.load_state_dict(normed_conv().state_dict()),
        lambda conv: setattr(conv, "weight", draw(8, 4, 4)),
    ],
    ids=["in place", "a part", "the taps through data", "the channels through data", "loaded", "assigned"],
)
def test_a_spectrum_is_kept_until_the_weights_change(change):
    conv = normed_conv()
    first = fast.kept_spectrum(conv)
    assert fast.kept_spectrum(conv) is first
    change(conv)
    again = fast.kept_spectrum(conv)
    assert again is not first
    torch.testing.assert_close(again, fast.spectrum(conv.weight, conv.groups))


def test_spectra_go_with_their_model():
    conv = normed_conv()
    kernel = weakref.ref(fast.kept_spectrum(conv))
    assert kernel() is not None
    del conv
    gc.collect()
    assert kernel() is None
    conv = normed_conv()
    fast.kept_spectrum(conv)
    assert len(conv.state_dict()) == 3  # bias, norms, directions: what is kept is no part of the model
    assert copy.deepcopy(conv) not in fast._SPECTRA
    with torch.inference_mode():
        assert fast.kept_spectrum(normed_conv()) is None  # such weights do not count their changes


@torch.no_grad()
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_pieces_of_any_length_are_the_whole(piece, monkeypatch):
    model = shuffled(UniSpeechSatModel(small_config()))
    waveforms, lengths = draw(3, 6000), torch.tensor([6000, 3000, 500])
    monkeypatch.setattr(fast, "PIECE", piece)
    monkeypatch.setattr(fast, "LEAST_PIECE", piece)
    with shortcuts.plain():
        whole = model.feature_extractor(waveforms, lengths)
    found = model.feature_extractor(waveforms, lengths)
    ends = unisat.frames.stack_length(lengths, model.config.conv_kernel, model.config.conv_stride)
    valid = valid_positions(ends, whole.shape[-1])[:, None]
    assert found.shape == whole.shape
    torch.testing.assert_close(found * valid, whole * valid, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("place", ["conv_layers.0", "conv_layers.0.conv", "conv_layers.0.layer_norm", "conv_layers.2"])
def test_who_watches_the_front_end_sees_whole_signals(place):
    model = shuffled(UniSpeechSatModel(small_config()))
    seen = []
    model.feature_extractor.get_submodule(place).register_forward_hook(lambda module, args, out: seen.append(out.shape))
    waveforms = draw(2, 6000)
    model(waveforms)
    layers = 3 if place.startswith("conv_layers.2") else 1
    kernels, strides = model.config.conv_kernel[:layers], model.config.conv_stride[:layers]
    assert [shape[-1] for shape in seen] == [unisat.frames.stack_length(6000, kernels, strides)]


@pytest.fixture
def any_padding(monkeypatch):
    """Leave padding out however little there is."""
    monkeypatch.setattr(fast, "PER_UTTERANCE", 0)
    monkeypatch.setattr(fast, "SHARE", 0)


LAYERS = {family: (family, {}) for family in FAMILIES} | {
    "pre-LN": ("unispeech-sat", KINDS["pre-LN"]),
    "pre-LN of WavLM": ("wavlm", KINDS["pre-LN"]),
    "language adapters": ("wav2vec2", KINDS["pre-LN"] | {"adapter_attn_dim": 5}),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", LAYERS)
@settings(max_examples=12, deadline=None)
@given(lengths=st.lists(st.integers(148, 2500), min_size=2, max_size=5), alone=st.booleans(), seed=st.integers(0, 9))
def test_frames_of_all_utterances_in_one_row(kind, lengths, alone, seed):
    family, changes = LAYERS[kind]
    config = family_config(family, **changes)
    model = shuffled(unisat.AutoModel.from_config(config), seed)
    lengths[0], lengths[-1] = max(lengths) + 400, 148 if alone else lengths[-1]  # one frame
    waveforms, samples = draw(len(lengths), lengths[0], seed=seed), torch.tensor(lengths)
    mask = valid_positions(samples, lengths[0]).long()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "PER_UTTERANCE", 0)
        patch.setattr(fast, "SHARE", 0)
        with Operators() as operators:
            quick = model(waveforms, mask, output_hidden_states=True)
    assert "index_copy" in operators.seen
    with shortcuts.plain():
        plain = model(waveforms, mask, output_hidden_states=True)
    frames = unisat.frames.stack_length(samples, config.conv_kernel, config.conv_stride)
    assert frames[-1] == 1 or not alone
    valid = valid_positions(frames, quick.hidden_states[0].shape[1])
    pairs = [(a, b, valid) for a, b in zip(quick.hidden_states, plain.hidden_states, strict=True)]
    for a, b, counted in (*pairs, (quick.last_hidden_state, plain.last_hidden_state, plain.valid)):
        assert a.shape == b.shape
        assert (a - b)[counted].abs().max() <= 1e-5 * b[counted].abs().max()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["all kept", "computed twice"])
@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_without_padding(kind, checkpointing, any_padding):
    family, changes = LAYERS[kind]
    dropouts = ("hidden", "attention", "activation", "feat_proj")
    still = {f"{name}_dropout": 0.0 for name in dropouts} | {"apply_spec_augment": False, "layerdrop": 0.4}
    model = shuffled(unisat.AutoModel.from_config(family_config(family, **changes, **still))).train()
    samples = torch.tensor([3000, 900, 1700])
    waveforms, mask = draw(3, 3000), valid_positions(samples, 3000).long()
    if checkpointing:
        model.gradient_checkpointing_enable()

    def learn(scope, model=model, waveforms=waveforms):
        generator = torch.Generator().manual_seed(1)  # drops the second layer
        with Operators() as operators, scope:
            output = model(waveforms, mask, generator=generator)
            value = (output.last_hidden_state * draw(*output.last_hidden_state.shape) * output.valid[..., None]).sum()
            value.backward()
        weights = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        model.zero_grad()
        return operators.seen, weights

    seen, quick = learn(nullcontext())
    _, plain = learn(shortcuts.plain())
    _, exact = learn(shortcuts.plain(), copy.deepcopy(model).double(), waveforms.double())
    assert "index_copy" in seen
    assert any(name.startswith("encoder.layers.0.") for name in quick)
    assert not any(name.startswith("encoder.layers.1.") for name in quick)
    assert quick.keys() == plain.keys() == exact.keys()
    largest = max(float(gradient.abs().max()) for gradient in exact.values())
    for name, gradient in exact.items():
        # what a shared bias of all keys gives is nothing but rounding
        bound = 1e-5 * (largest if name.endswith("k_proj.bias") else float(gradient.abs().max()))
        ours, theirs = ((one[name] - gradient).abs().max() for one in (quick, plain))
        assert ours <= 2 * theirs + bound, name


def test_dropout_draws_for_the_frames_that_there_are(any_padding):
    model = shuffled(UniSpeechSatModel(small_config(layerdrop=0.0, apply_spec_augment=False))).train()
    waveforms, mask = draw(2, 3000), valid_positions(torch.tensor([3000, 900]), 3000).long()

    def states():
        torch.manual_seed(0)
        return model(waveforms, mask).last_hidden_state

    with Operators() as operators:
        first = states()
    assert "index_copy" in operators.seen
    assert torch.equal(first, states())  # the same draws from the same seed
    with shortcuts.plain():
        assert not torch.allclose(first, states())  # noqa: TID251
    model.gradient_checkpointing_enable()
    gradients = []
    for on in (True, False):
        model.gradient_checkpointing_enable() if on else model.gradient_checkpointing_disable()
        states().square().sum().backward()
        gradients.append([one.grad for one in model.parameters() if one.grad is not None])
        model.zero_grad()
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_frozen_is_encoded_as_without_gradients(kind):
    model = shuffled(UniSpeechSatModel(small_config(**KINDS[kind], attention_dropout=0.0)))
    waveforms, mask = draw(2, 3000), valid_positions(torch.tensor([3000, 1700]), 3000).long()

    def computed(waveforms=waveforms):
        with Operators() as operators:
            output = model(waveforms, mask)
        return operators.seen, output

    model.freeze_feature_encoder()
    with torch.no_grad():
        without = model.feature_extractor(waveforms, mask.sum(1))
    _, output = computed()
    assert torch.equal(output.conv_features, without)
    assert not output.conv_features.requires_grad
    assert output.last_hidden_state.requires_grad
    seen, output = computed(waveforms.clone().requires_grad_())  # the waveform may still ask
    assert "gelu_" not in seen
    assert output.conv_features.requires_grad
    model.requires_grad_(False)
    with torch.no_grad():
        expected, _ = computed()
    seen, output = computed()
    assert seen == expected
    assert not output.last_hidden_state.requires_grad
    model.encoder.layers[0].register_forward_pre_hook(lambda layer, given: (given[0].requires_grad_(), *given[1:]))
    _, output = computed()  # a site that asks in the middle of a frozen model
    assert output.last_hidden_state.requires_grad


@torch.no_grad()
@pytest.mark.parametrize(
    "place", ["", ".attention", ".attention.q_proj", ".final_layer_norm", ".feed_forward.activation"]
)
def test_who_watches_a_layer_sees_the_padded_batch(place, any_padding, monkeypatch):
    model, mask = shuffled(UniSpeechSatModel(small_config())), valid_positions(torch.tensor([3000, 700, 160]), 3000)
    answers, seen, judge = [], [], fast.attention_alone_mixes
    monkeypatch.setattr(fast, "attention_alone_mixes", lambda layer: answers.append(judge(layer)) or answers[-1])
    watched = model.encoder.get_submodule(f"layers.1{place}")
    watched.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    model(draw(3, 3000), mask.long())
    assert answers == [True, place == "", True]  # in the other layers padding is left out
    ((given, found),) = seen
    assert given.shape[:2] == (found[0] if isinstance(found, tuple) else found).shape[:2] == (3, 45)


@torch.no_grad()
def test_where_padding_stays():
    layer = shuffled(UniSpeechSatModel(small_config())).encoder.layers[0]
    hidden, valid = draw(3, 60, 16), valid_positions(torch.tensor([60, 9, 1]), 60)

    def stays(valid=valid, output_attentions=False):
        return fast.leave_padding_out(layer, hidden, valid, output_attentions) is NotImplemented

    assert not stays()
    assert stays(None)
    assert stays(output_attentions=True)
    assert stays(valid_positions(torch.tensor([60, 30, 12]), 60))  # 78 frames of padding: 20 of each, and a tenth
    assert not stays(valid_positions(torch.tensor([60, 30, 11]), 60))
    layer.config.padding = "reference"
    assert stays()
    layer.config.padding = "exact"

    class Smooth(nn.Module):
        def forward(self, values):
            return values.cumsum(1)

    layer.attention.softmax = Smooth()  # attention sees one utterance at a time, whatever it is made of
    assert not stays()
    layer.feed_forward.activation = Smooth()
    assert stays()


@torch.no_grad()
def test_layers_that_an_earlier_version_pickled_take_padded_batches():
    model, mask = shuffled(UniSpeechSatModel(small_config())), valid_positions(torch.tensor([3000, 160]), 3000)
    expected = model(draw(2, 3000), mask.long())
    for layer in model.encoder.layers:
        del layer.config
    found = model(draw(2, 3000), mask.long())
    torch.testing.assert_close(found.last_hidden_state[found.valid], expected.last_hidden_state[expected.valid])


@dataclass
class Way:
    """A fast way: the plain formula below it, what both are given, and where it does not apply."""

    formula: Callable
    args: tuple
    hooks: str = ""
    """Parts of the module under whose hooks it is not taken."""
    gradients: bool = False
    float64: bool = False
    compiled: bool = False


def ways():
    """Every fast way of `unisat.fast`, on a small model."""
    model = shuffled(UniSpeechSatModel(small_config()))
    front, positions, layer = model.feature_extractor, model.encoder.pos_conv_embed, model.encoder.layers[0]
    hidden, valid = draw(3, 40, 16, seed=1), valid_positions(torch.tensor([40, 9, 1]), 40)
    heads = [draw(3, 2, 40, 8, seed=seed) for seed in (2, 3, 4)]
    signal, first = draw(3, 6000), front.conv_layers[0]
    inside = "conv_layers conv_layers.0 conv_layers.0.conv conv_layers.0.layer_norm conv_layers.2.activation"
    wide = "intermediate_dense activation"
    return {
        "multiply_as_convolution": Way(fast.linear, (hidden, draw(20, 16), draw(20)), gradients=True),
        "convolve_as_image": Way(
            fast.conv1d, (draw(3, 12, 90), draw(10, 12, 8), draw(10), 4), gradients=True, float64=True
        ),
        "encode_in_pieces": Way(type(front).forward, (front, signal, torch.tensor([6000, 3000, 700])), inside),
        "fold_the_norm": Way(type(first).forward, (first, signal[:, None], None), "conv layer_norm", gradients=True),
        "feed_forward_in_place": Way(
            type(layer.feed_forward).forward, (layer.feed_forward, hidden), wide, gradients=True, float64=True
        ),
        "convolve_by_spectra": Way(type(positions).forward, (positions, hidden), "conv conv.parametrizations.weight.0"),
        "attend_fused": Way(
            Attention.attend,
            (layer.attention, *heads, valid, False),
            "softmax dropout",
            gradients=True,
            float64=True,
            compiled=True,
        ),
        "attend_in_place": Way(Attention.attend, (layer.attention, *heads, valid, True), "softmax", float64=True),
        "leave_padding_out": Way(
            EncoderLayer.forward,
            (layer, draw(3, 60, 16), valid_positions(torch.tensor([60, 9, 1]), 60)),
            " ".join(name for name, _ in layer.named_modules() if name),
            gradients=True,
            float64=True,
        ),
    }


WAYS = ways()


def test_every_fast_way_is_listed_and_stands_above_a_formula():
    source = "".join(Path(module.__file__).read_text(encoding="utf-8") for module in (unisat.model, fast))
    assert sorted(re.findall(r"^ *@sooner\((?:fast\.)?(\w+)\)$", source, re.MULTILINE)) == sorted(WAYS)
    listed = re.findall(r"^`(\w+)`  ", fast.__doc__, re.MULTILINE)
    assert sorted(listed) == sorted(WAYS)


def values(given):
    """The tensors of what a way gives."""
    return [one for one in (given if isinstance(given, tuple) else (given,)) if one is not None]


def in_double(args):
    """The same in float64."""
    args = [one.double() if isinstance(one, Tensor) and one.is_floating_point() else one for one in args]
    return [copy.deepcopy(one).double() if isinstance(one, nn.Module) else one for one in args]


@torch.no_grad()
@pytest.mark.parametrize("name", WAYS)
def test_a_fast_way_gives_what_the_formula_gives(name, one_dnn):
    way = WAYS[name]
    before = copy.deepcopy(way.args)
    found = values(getattr(fast, name)(*way.args))
    taken = values(way.formula(*way.args))
    with shortcuts.plain():
        plain = values(inspect.unwrap(way.formula)(*way.args))
        exact = values(inspect.unwrap(way.formula)(*in_double(way.args)))
    assert len(found) == len(taken) == len(plain) == len(exact) > 0
    counted = 1
    if name == "encode_in_pieces":  # leaves padding out
        lengths = unisat.frames.stack_length(way.args[2], way.args[0].kernels, way.args[0].strides)
        counted = valid_positions(lengths, found[0].shape[-1])[:, None]
    if name == "leave_padding_out":
        counted = way.args[2][..., None]
    for a, b, c, d in zip(found, taken, plain, exact, strict=True):
        assert torch.equal(a, b)  # it is the one that is taken
        scale = float((c * counted).abs().max())
        torch.testing.assert_close(a * counted, c * counted, atol=1e-5 * scale, rtol=0)
        torch.testing.assert_close(a.double() * counted, d * counted, atol=1e-5 * scale, rtol=0)
    for one, other in zip(way.args, before, strict=True):
        assert not isinstance(one, Tensor) or torch.equal(one, other)  # nothing was written into what it got


@pytest.mark.parametrize("name", WAYS)
def test_where_a_fast_way_does_not_apply(name, one_dnn, monkeypatch):
    way, go = WAYS[name], getattr(fast, name)
    with torch.no_grad():
        assert go(*way.args) is not NotImplemented
        with shortcuts.plain():
            assert go(*way.args) is NotImplemented
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            assert (go(*way.args) is NotImplemented) != way.compiled
        assert (go(*in_double(way.args)) is NotImplemented) != way.float64
    real = [isinstance(one, Tensor) and one.is_floating_point() for one in way.args]
    asked = [one.clone().requires_grad_() if is_real else one for one, is_real in zip(way.args, real, strict=True)]
    assert (go(*asked) is NotImplemented) != way.gradients


HOOKS = {
    "forward": nn.Module.register_forward_hook,
    "forward pre": nn.Module.register_forward_pre_hook,
    "backward": nn.Module.register_full_backward_hook,
    "backward pre": nn.Module.register_full_backward_pre_hook,
}
GLOBAL_HOOKS = {
    "forward": register_module_forward_hook,
    "forward pre": register_module_forward_pre_hook,
    "backward": register_module_full_backward_hook,
    "backward pre": register_module_full_backward_pre_hook,
}


@torch.no_grad()
@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("name", [name for name in WAYS if WAYS[name].hooks])
def test_a_fast_way_is_not_taken_under_a_hook(name, kind):
    way, go = WAYS[name], getattr(fast, name)
    module, *args = way.args
    for place in way.hooks.split():
        handle = HOOKS[kind](module.get_submodule(place), lambda *_: None)
        assert go(module, *args) is NotImplemented, place
        handle.remove()
        assert go(module, *args) is not NotImplemented
    handle = HOOKS[kind](module, lambda *_: None)
    assert go(module, *args) is not NotImplemented  # which sees what goes in and comes out either way
    handle.remove()
    handle = GLOBAL_HOOKS[kind](lambda *_: None)
    assert go(module, *args) is NotImplemented
    handle.remove()
    assert go(module, *args) is not NotImplemented


class Operators(TorchDispatchMode):
    """The fast operators that are computed inside this scope, and those that write into their arguments."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = str(operator).removeprefix("aten.").removesuffix(".default")
        if name.startswith("convolution") and args[0].ndim == 4:
            self.seen.add("convolution of an image")
        if name.startswith("_scaled_dot_product"):
            self.seen.add("fused attention")
        if name in {"gelu_", "baddbmm", "_fft_r2c", "softmax.int_out", "index_copy"}:
            self.seen.add(name)
        return operator(*args, **(kwargs or {}))


SIZES = dict(vocab_size=7, tdnn_dim=[12, 10], tdnn_kernel=[3, 1], tdnn_dilation=[2, 1], xvector_output_dim=9)
FAST = {"gelu_", "_fft_r2c", "fused attention", "convolution of an image", "index_copy"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_class", [UniSpeechSatModel, UniSpeechSatForXVector, UniSpeechSatForPreTraining])
def test_plain_is_really_plain(model_class, kind, one_dnn):
    model = shuffled(model_class(small_config(**SIZES, **KINDS[kind], attention_dropout=0.0, layerdrop=0.0)))
    waveforms, mask = draw(3, 6000), valid_positions(torch.tensor([6000, 4000, 2000]), 6000).long()

    def computed(scope, grad=False, **options):
        with Operators() as operators, scope, torch.set_grad_enabled(grad):
            output = model(waveforms, mask, **options)
            if grad:
                output[0].square().sum().backward()
        return operators.seen

    expected = FAST | (set() if kind == "pre-LN" else {"baddbmm"})
    assert computed(nullcontext()) == expected
    expected = expected - {"fused attention", "index_copy"} | {"softmax.int_out"}
    assert computed(nullcontext(), output_attentions=True) == expected
    for options in ({}, {"output_attentions": True}):
        assert computed(shortcuts.plain(), **options) == set()
    with torch.autocast("cpu", torch.bfloat16):
        assert computed(shortcuts.plain()) == set()
    model.train()
    assert {"fused attention", "convolution of an image"} <= computed(nullcontext(), grad=True)
    assert computed(shortcuts.plain(), grad=True) == set()


@torch.no_grad()
def test_global_hooks_see_every_module_and_whole_signals():
    model = shuffled(UniSpeechSatModel(small_config()))
    waveforms = draw(2, 6000)

    def calls(scope):
        seen = []
        handle = register_module_forward_hook(lambda module, args, output: seen.append((module, kept(output))))
        with scope:
            model(waveforms)
        handle.remove()
        return seen

    def kept(output):
        output = output[0] if isinstance(output, tuple) else output
        return output.clone() if isinstance(output, Tensor) else None

    found, plain = calls(nullcontext()), calls(shortcuts.plain())
    assert [module for module, _ in found] == [module for module, _ in plain]
    assert {type(module) for module, _ in found} >= {nn.Softmax, nn.GELU, MaskedGroupNorm, fast.Conv1d}
    for (_, ours), (_, theirs) in zip(found, plain, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs)


def test_a_part_in_another_s_place_is_not_written_into_and_not_left_out():
    model = shuffled(UniSpeechSatModel(small_config()))
    hidden, waveforms = draw(1, 9, 16), draw(1, 3000)
    layer = model.encoder.layers[0].feed_forward
    layer.intermediate_dense, layer.output_dense = nn.Identity(), nn.Identity()
    before = hidden.clone()
    with torch.no_grad():
        torch.testing.assert_close(layer(hidden), F.gelu(before))
        assert torch.equal(hidden, before)

    class Sharp(nn.Module):
        def forward(self, scores):
            return F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores)

    class Shifted(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.weight, self.bias = inner, inner.weight, inner.bias

        def forward(self, signal):
            return self.inner(signal) + signal.mean() * 3

    sharp = model.encoder.layers[1].attention
    sharp.softmax, sharp.dropout = Sharp(), nn.Identity()
    with torch.no_grad():
        found, pattern = sharp(hidden, None, True)
        assert set(pattern.unique().tolist()) == {0.0, 1.0}
        torch.testing.assert_close(sharp(hidden)[0], found)
    front = model.feature_extractor
    front.conv_layers[0].conv = Shifted(front.conv_layers[0].conv)
    with torch.no_grad(), shortcuts.plain():
        expected = front(waveforms)
    with torch.no_grad():
        torch.testing.assert_close(front(waveforms), expected)


@torch.no_grad()
def test_a_positional_kernel_without_weight_norm():
    model = shuffled(UniSpeechSatModel(small_config()))
    positions, hidden = model.encoder.pos_conv_embed, draw(2, 30, 16)
    expected = positions(hidden)
    torch.nn.utils.parametrize.remove_parametrizations(positions.conv, "weight")
    torch.testing.assert_close(positions(hidden), expected)


@pytest.mark.wrong_types  # the checks of types cannot be compiled
def test_compiled_code_is_one_graph_and_attends_fused():
    if "FRESH_PROCESS" not in os.environ:  # what other tests have compiled before may leave torch without compiling
        name = f"{__file__}::test_compiled_code_is_one_graph_and_attends_fused"
        environment = {**os.environ, "FRESH_PROCESS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", name], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
        assert "1 passed" in done.stdout
        return
    for train in (False, True):
        one_graph(train)


def one_graph(train):
    off = dict.fromkeys(["hidden_dropout", "activation_dropout", "attention_dropout"], 0.0)
    model = shuffled(UniSpeechSatModel(small_config(**off))).train(train)
    graphs = []
    torch._dynamo.reset()  # after many compilations it would give up

    def keep(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    waveforms, hidden = draw(2, 3000), draw(2, 20, 16)
    valid = valid_positions(torch.tensor([20, 7]), 20)
    for part, args in ((model.feature_extractor, (waveforms,)), (model.encoder.layers[0], (hidden, valid))):
        with torch.set_grad_enabled(train):
            # through a function of its own: torch gives up on one that other tests have compiled too often
            found = torch.compile(lambda *given, part=part: part(*given), backend=keep, fullgraph=True)(*args)
            torch.testing.assert_close(found, part(*args), atol=1e-5, rtol=1e-5)
    assert len(graphs) == 2
    said = "\n".join("\n".join(graph) for graph in graphs)
    assert "scaled_dot_product_attention" in said
    assert not re.search("conv2d|gelu_|baddbmm|fft", said)


@torch.no_grad()
def test_copies_and_replicas_compute_the_same():
    model = shuffled(UniSpeechSatModel(small_config()))
    waveforms = draw(2, 6000)
    expected = model(waveforms).last_hidden_state
    assert torch.equal(copy.deepcopy(model)(waveforms).last_hidden_state, expected)
    features = model.feature_extractor(waveforms)
    for part, args in ((model.feature_extractor, (waveforms,)), (model.encoder.pos_conv_embed, (draw(2, 30, 16),))):
        replica = replicated(part)
        torch.testing.assert_close(replica(*args), part(*args))
    assert torch.equal(model.feature_extractor(waveforms), features)


def replicated(module):
    """A replica as `torch.nn.DataParallel` makes them: its weights are no parameters."""
    replica = module._replicate_for_data_parallel()
    for name, weight in module._parameters.items():
        replica._parameters.pop(name, None)
        setattr(replica, name, weight if weight is None else weight.detach())
    for name, child in module._modules.items():
        replica._modules[name] = None if child is None else replicated(child)
    return replica
