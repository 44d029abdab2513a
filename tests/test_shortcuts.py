"""Each shortcut against the plain way, in float32 and against float64, and when it must not be taken."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from conftest import shuffled, small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

import unisat.model
from unisat import UniSpeechSatModel, shortcuts
from unisat.frames import valid_positions
from unisat.group_norm import MaskedGroupNorm

KINDS = {
    "post-LN": {},
    "pre-LN": {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True},
    "group norm and bias": {"conv_bias": True},
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def one_dnn(monkeypatch):
    """Take the products' shortcut on any processor, and for small matrices."""
    monkeypatch.setattr(shortcuts, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(shortcuts, "LEAST", 0)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ragged", [False, True])
def test_a_model_gives_the_same_numbers(kind, ragged, one_dnn, monkeypatch):
    monkeypatch.setattr(unisat.model, "PIECE", 60)
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
        patch.setattr(shortcuts, "mkl_is_slow", lambda: True)
        patch.setattr(shortcuts, "LEAST", 0)
        values = draw(2, rows, inputs, seed=seed) if batched else draw(rows, inputs, seed=seed)
        weight, bias = draw(outputs, inputs, seed=seed + 1), draw(outputs, seed=seed + 2)
        for tensor in (values, weight, bias):
            tensor.requires_grad_()
        found = shortcuts.linear(values, weight, bias)
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
        assert torch.equal(shortcuts.linear(values, weight, bias), F.linear(values, weight, bias))
    values, weight, bias = draw(30, 16), draw(8, 16), draw(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert shortcuts.linear(values, weight, bias).dtype == torch.bfloat16
    with shortcuts.plain():
        assert torch.equal(shortcuts.linear(values, weight, bias), F.linear(values, weight, bias))


@torch.no_grad()
def test_half_precision_attends_as_well_either_way(monkeypatch):
    model = shuffled(UniSpeechSatModel(small_config(hidden_size=64, num_attention_heads=4)))
    waveforms, mask = draw(2, 6000), valid_positions(torch.tensor([6000, 2500]), 6000).long()
    exact = model(waveforms, mask)
    model.bfloat16()
    errors = []
    for limit in (0, 10**9):
        monkeypatch.setattr(shortcuts, "SMALL_PATTERN", limit)
        found = model(waveforms, mask).last_hidden_state
        errors.append(float((found - exact.last_hidden_state)[exact.valid].square().mean().sqrt()))
    assert errors[0] != errors[1]
    assert errors[1] <= 1.2 * errors[0] < 0.1


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
        found = shortcuts.fold_group_norm(waveforms, conv, norm, counted)(waveforms)
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
    found = shortcuts.fold_group_norm(waveform, conv, norm, None)(waveform)
    with shortcuts.plain():
        plain = norm(conv(waveform[:, None]))
    exact = norm.double()(conv.double()(waveform.double()[:, None]))
    assert (found - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-5


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
    found = shortcuts.shifted_products(signal, shortcuts.spectrum(weight, groups), taps, taps // 2)
    exact = F.conv1d(signal.double().transpose(1, 2), weight.double(), padding=taps // 2, groups=groups)
    exact = exact[..., :frames].transpose(1, 2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-6 * float(exact.abs().max()) + 1e-6, rtol=0)


def test_where_all_is_zero_spectra_give_zero():
    """As behind an utterance in a padded batch: a layer norm would make noise of what is left there."""
    signal, weight = draw(2, 90, 8), draw(8, 4, 16, seed=1)
    signal[0, 20:60] = 0
    found = shortcuts.shifted_products(signal, shortcuts.spectrum(weight, 2), 16, 8)
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
    first = shortcuts.kept_spectrum(conv)
    assert shortcuts.kept_spectrum(conv) is first
    change(conv)
    again = shortcuts.kept_spectrum(conv)
    assert again is not first
    torch.testing.assert_close(again, shortcuts.spectrum(conv.weight, conv.groups))


def test_spectra_go_with_their_model():
    conv = normed_conv()
    kernel = weakref.ref(shortcuts.kept_spectrum(conv))
    assert kernel() is not None
    del conv
    gc.collect()
    assert kernel() is None
    conv = normed_conv()
    shortcuts.kept_spectrum(conv)
    assert len(conv.state_dict()) == 3  # bias, norms, directions: what is kept is no part of the model
    assert copy.deepcopy(conv) not in shortcuts._SPECTRA
    with torch.inference_mode():
        assert shortcuts.kept_spectrum(normed_conv()) is None  # such weights do not count their changes


@torch.no_grad()
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_pieces_of_any_length_are_the_whole(piece, monkeypatch):
    model = shuffled(UniSpeechSatModel(small_config()))
    waveforms, lengths = draw(3, 6000), torch.tensor([6000, 3000, 500])
    monkeypatch.setattr(unisat.model, "PIECE", piece)
    monkeypatch.setattr(unisat.model, "LEAST_PIECE", piece)
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


def test_plain_is_undone():
    assert shortcuts.allowed()
    with pytest.raises(ZeroDivisionError), shortcuts.plain():
        with shortcuts.plain():
            assert not shortcuts.allowed()
        assert not shortcuts.allowed()
        1 / 0  # noqa: B018
    assert shortcuts.allowed()
