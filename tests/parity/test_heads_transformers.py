"""Live parity of every class with transformers 4.37.2: files both ways, ragged batches, training without randomness."""

import tempfile

import pytest
import torch
from conftest import relative, shuffled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_heads import TDNN
from test_transformers import batches, configs, quiet

import unisat as us

pytestmark = pytest.mark.runs_once

transformers = pytest.importorskip("transformers")
NAMES = [
    "UniSpeechSatForCTC",
    "UniSpeechSatForSequenceClassification",
    "UniSpeechSatForAudioFrameClassification",
    "UniSpeechSatForXVector",
    "UniSpeechSatForPreTraining",
    "UniSpeechSatModel",
]
FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def cases(draw, least_frames):
    """A config, a ragged batch and whether to sum the layers."""
    config = draw(configs()).replace(
        vocab_size=draw(st.integers(3, 9)),
        num_labels=draw(st.integers(2, 5)),
        use_weighted_layer_sum=draw(st.booleans()),
        ctc_loss_reduction=draw(st.sampled_from(["mean", "sum"])),
        ctc_zero_infinity=True,
        codevector_dim=8,
        **TDNN,
    )
    waveforms, mask = draw(batches(config))
    more = config.inputs_to_logits_ratio * least_frames
    longer = torch.randn(len(waveforms), more, generator=torch.Generator().manual_seed(1))
    waveforms = torch.cat([longer, waveforms], dim=1)  # so that every utterance has frames enough for an x-vector
    return config, waveforms, torch.cat([torch.ones(len(mask), more).long(), mask], dim=1)


def labels_for(name, config, frames, batch):
    generator = torch.Generator().manual_seed(2)
    if name == "UniSpeechSatForCTC":
        labels = torch.randint(0, config.vocab_size, (batch, 4), generator=generator)
        labels[0, 2:] = -100
        return labels
    if name == "UniSpeechSatForAudioFrameClassification":
        return (torch.rand(batch, frames, config.num_labels, generator=generator) > 0.5).float()
    return torch.randint(0, config.num_labels, (batch,), generator=generator)


def assert_same(ours, theirs, name, waveforms, mask):
    """Both with and without the mask; every field that both have. In float64: float32 is compared for the backbone."""
    config = ours.config
    ours, theirs, waveforms = ours.double(), theirs.double(), waveforms.double()
    for given_mask in (None, mask):
        options = dict(attention_mask=given_mask, output_hidden_states=True, output_attentions=True)
        extra = {}
        if name not in ("UniSpeechSatModel", "UniSpeechSatForPreTraining"):
            frames = us.frames.stack_length(waveforms.shape[1], config.conv_kernel, config.conv_stride)
            options["labels"] = labels_for(name, config, frames, len(waveforms))
            extra = {"loss": "reference"} if "Frame" in name else {}
        a, b = ours(waveforms, **options, **extra), theirs(waveforms, **options)
        if name == "UniSpeechSatForPreTraining":  # the reference's fields hold other things under these names
            assert relative(a.hidden_states[-1], b.projected_states) <= 1e-9
            assert relative(a.extract_features, b.logits) <= 1e-9
            continue
        assert {key for key in a.keys() if key in b} == set(b.keys())  # noqa: SIM118 - a result, no dict
        for field in ("loss", "logits", "embeddings", "last_hidden_state"):
            if field in b:
                size = max(1, b[field].abs().max().item())
                assert (a[field] - b[field]).abs().max() <= 1e-9 * size, field
        for left, right in zip(a.hidden_states, b.hidden_states, strict=True):
            assert relative(left, right) <= 1e-9
        # tuples have the same length and order, but for the loss that the reference drops from frame classification
        plain = ours(waveforms, **options, **extra, return_dict=False)
        assert len(plain) == len(theirs(waveforms, **options, return_dict=False)) + ("Frame" in name)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(st.data())
@torch.no_grad()
def test_our_files_there(name, data):
    config, waveforms, mask = data.draw(cases(least_frames=12))
    ours = shuffled(getattr(us, name)(config), seed=data.draw(st.integers(0, 99)))
    with tempfile.TemporaryDirectory() as folder, quiet():
        ours.save_pretrained(folder)
        theirs, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    missing = [key for key in info["missing_keys"] if "parametrizations" not in key]
    assert (missing, info["unexpected_keys"], info["mismatched_keys"]) == ([], [], [])
    assert_same(ours, theirs.eval(), name, waveforms, mask)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(st.data())
@torch.no_grad()
def test_their_files_here(name, data):
    config, waveforms, mask = data.draw(cases(least_frames=12))
    reference = transformers.UniSpeechSatConfig(**config.to_dict())
    theirs = shuffled(getattr(transformers, name)(reference), seed=data.draw(st.integers(0, 99)))
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder, safe_serialization=data.draw(st.booleans()))
        ours = getattr(us, name).from_pretrained(folder)
    assert_same(ours, theirs, name, waveforms, mask)


@pytest.mark.parametrize("name", NAMES[:4])
def test_training_without_randomness(name):
    off = "hidden_dropout activation_dropout attention_dropout feat_proj_dropout final_dropout layerdrop".split()
    from test_heads import head_config

    config = head_config(padding="reference", use_weighted_layer_sum=True)
    config = config.replace(**dict.fromkeys(off, 0.0), apply_spec_augment=False)
    ours = shuffled(getattr(us, name)(config)).train()
    with tempfile.TemporaryDirectory() as folder, quiet():
        ours.save_pretrained(folder)
        theirs = getattr(transformers, name).from_pretrained(folder).train()
    waveforms = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(3000) < torch.tensor([3000, 1500])[:, None]).long()
    labels = labels_for(name, config, 45, 2)
    extra = {"loss": "reference"} if "Frame" in name else {}
    ours(waveforms, mask, labels=labels, **extra).loss.backward()
    theirs(waveforms, mask, labels=labels).loss.backward()
    gradients = dict(theirs.named_parameters())
    for key, weight in ours.named_parameters():
        if weight.grad is None:
            assert gradients[key].grad is None, key
        elif not key.endswith("k_proj.bias"):  # zero in theory: a softmax does not see it
            assert relative(weight.grad, gradients[key].grad) <= 5e-5, key
