"""Live parity with transformers 4.37.2 on configurations drawn at random, both ways through the files."""

import logging
import tempfile

import pytest
import torch
from conftest import relative, shuffled, small_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unisat import UniSpeechSatModel

pytestmark = pytest.mark.runs_once

transformers = pytest.importorskip("transformers")


def test_it_is_the_reference():
    assert transformers.__version__ == "4.37.2"


@st.composite
def configs(draw):
    # at least 6 channels and 8 dimensions: a layer norm over two numbers is the sign of their difference, and turns the
    # last digit of any implementation into the first
    heads, groups = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2]))
    layers = draw(st.integers(1, 3))
    stable = draw(st.booleans())
    sizes = dict(hidden_size=draw(st.integers(1, 3)) * 8, num_attention_heads=heads)
    sizes |= dict(num_hidden_layers=draw(st.integers(1, 3)), intermediate_size=draw(st.integers(3, 24)))
    front = dict(
        conv_dim=draw(st.lists(st.integers(6, 9), min_size=layers, max_size=layers)),
        conv_kernel=draw(st.lists(st.integers(2, 6), min_size=layers, max_size=layers)),
        conv_stride=draw(st.lists(st.integers(1, 4), min_size=layers, max_size=layers)),
        conv_bias=draw(st.booleans()),
        feat_extract_norm=draw(st.sampled_from(["group", "layer"])),
        feat_extract_activation=draw(st.sampled_from(["gelu", "relu", "silu", "tanh", "gelu_new"])),
        num_conv_pos_embeddings=draw(st.integers(1, 17)),
        num_conv_pos_embedding_groups=groups,
    )
    rest = dict(
        hidden_act=draw(st.sampled_from(["gelu", "relu", "swish", "mish", "linear", "leaky_relu"])),
        do_stable_layer_norm=stable,
        adapter_attn_dim=draw(st.sampled_from([None, 3])),
        layer_norm_eps=draw(st.sampled_from([1e-5, 1e-3])),
        padding="reference",
    )
    return small_config(**sizes, **front, **rest)


@st.composite
def batches(draw, config):
    shortest = config.receptive_field + 20
    lengths = draw(st.lists(st.integers(shortest, shortest + 300), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randn(len(lengths), max(lengths), generator=generator) * mask, mask


class quiet:
    """Silence the reference's false warning about weights that it did load."""

    def __enter__(self):
        logging.disable(logging.WARNING)

    def __exit__(self, *_):
        logging.disable(logging.NOTSET)


def compare(ours, theirs, waveforms, mask):
    """The same mathematics: in float64, where rounding hides nothing; and float32 as close as its rounding allows.

    A drawn model may magnify rounding (a norm over six channels that hardly differ does), in either implementation.
    So beside the 5e-6 that real sizes keep, float32 may be off by four times the reference's own error.
    """
    with torch.no_grad():
        single = [results(model, waveforms, mask) for model in (ours, theirs)]
        exact = [results(model.double(), waveforms.double(), mask) for model in (ours, theirs)]
    for a, b, exact_a, exact_b in zip(*single, *exact, strict=True):
        assert relative(exact_a, exact_b) <= 1e-9
        assert relative(a, b) <= max(5e-6, 4 * relative(b.double(), exact_b))


def results(model, waveforms, mask):
    """Everything a model gives, with and without the mask, watched and (ours: fused) unwatched."""
    found = []
    for given_mask in (None, mask):
        output = model(waveforms, attention_mask=given_mask, output_hidden_states=True, output_attentions=True)
        assert len(output.to_tuple()) == 4
        for field in output.to_tuple():
            found += field if isinstance(field, tuple) else [field]
        found.append(model(waveforms, attention_mask=given_mask).last_hidden_state)
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_our_files_load_there_and_give_the_same(data):
    config = data.draw(configs())
    waveforms, mask = data.draw(batches(config))
    ours = shuffled(UniSpeechSatModel(config), seed=data.draw(st.integers(0, 99)))
    with tempfile.TemporaryDirectory() as folder, quiet():
        ours.save_pretrained(folder)
        theirs, info = transformers.UniSpeechSatModel.from_pretrained(folder, output_loading_info=True)
    # 4.37.2 falsely lists the weight norm of the positional convolution as missing
    missing = [key for key in info["missing_keys"] if "parametrizations" not in key]
    assert (missing, info["unexpected_keys"], info["mismatched_keys"]) == ([], [], [])
    compare(ours, theirs.eval(), waveforms, mask)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_their_files_load_here_and_give_the_same(data):
    config = data.draw(configs())
    waveforms, mask = data.draw(batches(config))
    safe = data.draw(st.booleans())
    shards = data.draw(st.sampled_from(["10GB", "2kB"]))
    with_head = data.draw(st.booleans())
    kind = transformers.UniSpeechSatForCTC if with_head else transformers.UniSpeechSatModel
    reference = transformers.UniSpeechSatConfig(**config.to_dict())
    theirs = shuffled(kind(reference), seed=data.draw(st.integers(0, 99)))
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder, safe_serialization=safe, max_shard_size=shards)
        ours = UniSpeechSatModel.from_pretrained(folder)
    assert ours.config.padding == "reference"
    compare(ours, theirs.unispeech_sat if with_head else theirs, waveforms, mask)


@pytest.mark.parametrize("stable", [False, True])
def test_training_mode_without_randomness(stable):
    off = dict(hidden_dropout=0.0, activation_dropout=0.0, attention_dropout=0.0, layerdrop=0.0)
    config = small_config(**off, apply_spec_augment=False, do_stable_layer_norm=stable, padding="reference")
    ours = shuffled(UniSpeechSatModel(config)).train()
    with tempfile.TemporaryDirectory() as folder, quiet():
        ours.save_pretrained(folder)
        theirs = transformers.UniSpeechSatModel.from_pretrained(folder).train()
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.randn(2, 900, generator=generator)
    mask = (torch.arange(900) < torch.tensor([900, 500])[:, None]).long()
    for model in (ours, theirs):
        model(waveforms, mask).last_hidden_state.square().mean().backward()
    gradients = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        if weight.grad is None:
            assert gradients[name].grad is None
        elif not name.endswith("k_proj.bias"):  # exactly zero in theory: a softmax does not see it
            assert relative(weight.grad, gradients[name].grad) <= 2e-5, name
