"""Every mistake gets a sentence: what came, what was expected, what to do."""

import pytest
import torch
from conftest import small_config

from unisat.inputs import sample_lengths

GOOD = torch.randn(2, 500)


def halves(first, second):
    mask = torch.ones(2, 500)
    mask[0], mask[1] = first, second
    return mask


LEFT = torch.cat([torch.zeros(100), torch.ones(400)])
HOLES = torch.ones(500).index_fill(0, torch.tensor([7]), 0)
SHORT = torch.cat([torch.ones(147), torch.zeros(353)])
CASES = {
    "one waveform": (dict(input_values=torch.zeros(500)), r"\(batch, samples\), got \(500,\).*waveform\[None\]"),
    "channels": (dict(input_values=torch.zeros(1, 2, 500)), r"got \(1, 2, 500\).*mix channels down"),
    "int16": (dict(input_values=torch.ones(1, 500, dtype=torch.int16)), r"torch.int16; expected floats.*32768"),
    "NaN": (
        dict(input_values=torch.cat([GOOD, torch.full((1, 500), torch.nan)])),
        r"NaN or Inf in utterance\(s\) \[2\]",
    ),
    "Inf": (dict(input_values=GOOD / 0), r"NaN or Inf in utterance\(s\) \[0, 1\]"),
    "beyond float32": (
        dict(input_values=torch.cat([GOOD.double(), torch.full((1, 500), 1e39, dtype=torch.float64)])),
        r"utterance\(s\) \[2\], or samples beyond 1e\+15.*torch.float32.*scale it to \[-1, 1\]",
    ),
    "too loud for a norm": (dict(input_values=1e20 * GOOD), r"utterance\(s\) \[0, 1\], or samples beyond 1e\+15"),
    "a list": (dict(input_values=[0.0] * 500), r"input_values must be a tensor, got list; torch.as_tensor"),
    "mask as a list": (dict(input_values=GOOD, attention_mask=[[1] * 500] * 2), "attention_mask must be a tensor"),
    "mask of NumPy": (
        dict(input_values=GOOD, attention_mask=torch.ones(2, 500).numpy()),
        "attention_mask must be a tensor, got ndarray",
    ),
    "frame mask as a list": (
        dict(input_values=GOOD, mask_time_indices=[[True] * 6] * 2),
        "mask_time_indices must be a tensor, got list",
    ),
    "empty": (dict(input_values=torch.zeros(1, 0)), r"needs 148 samples.*utterance 0 \(0 samples\)"),
    "no utterance": (dict(input_values=torch.zeros(0, 500)), "the batch is empty"),
    "too short": (
        dict(input_values=torch.zeros(2, 147)),
        r"148 samples \(9.25 ms at 16 kHz\).*0 \(147 samples\), 1 \(147",
    ),
    "too short in a batch": (
        dict(input_values=GOOD, attention_mask=halves(1, SHORT)),
        r"utterance 1 \(147 samples\)",
    ),
    "all-zero mask": (dict(input_values=GOOD, attention_mask=halves(1, 0)), r"all zeros for utterance\(s\) \[1\]"),
    "left padding": (
        dict(input_values=GOOD, attention_mask=halves(LEFT, 1)),
        r"zeros in front of ones .* \[0\].*right",
    ),
    "holes": (
        dict(input_values=GOOD, attention_mask=halves(HOLES, 1)),
        r"zeros in front of ones for utterance\(s\) \[0\]",
    ),
    "mask of other shape": (
        dict(input_values=GOOD, attention_mask=torch.ones(2, 400)),
        r"\(2, 400\) must have the shape",
    ),
    "mask of one axis": (dict(input_values=GOOD, attention_mask=torch.ones(500)), r"\(500,\) must have the shape"),
    "frame mask too long": (
        dict(input_values=GOOD, mask_time_indices=torch.ones(2, 500).bool()),
        r"must be \(2, 6\) \(batch, frames\) of bool.*got \(2, 500\)",
    ),
    "frame mask of integers": (
        dict(input_values=GOOD, mask_time_indices=torch.ones(2, 6).long()),
        r"int64.*mask.bool\(\)",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.wrong_types
def test_a_mistake_gets_a_sentence(one_model, case):
    inputs, message = CASES[case]
    with pytest.raises((ValueError, TypeError), match=message):
        one_model(**inputs)


@pytest.mark.parametrize("way", ["half", "autocast", "bfloat16"])
def test_samples_must_fit_the_precision_of_the_model(model, way):
    """16-bit samples as floats are within the range of float16, but a convolution makes them larger."""
    loud = 20_000 * GOOD
    if way == "bfloat16":  # as wide as float32
        assert torch.isfinite(model.bfloat16()(loud).last_hidden_state).all()
        return
    model = model.half() if way == "half" else model
    with torch.autocast("cpu", torch.float16, enabled=way == "autocast"):
        with pytest.raises(ValueError, match=r"samples beyond 4094, the largest that a model in torch.float16 can"):
            model(loud)
        assert torch.isfinite(model(4000 * GOOD / GOOD.abs().max()).last_hidden_state).all()


def test_a_model_elsewhere_gets_what_it_is_given(model):
    """The meta device stands for a GPU: it takes no tensors of the CPU either."""
    mask = (torch.arange(500) < torch.tensor([[500], [300]])).long()
    output = model.to("meta")(GOOD, mask, mask_time_indices=torch.zeros(2, 6).bool())
    assert {output.last_hidden_state.device.type, output.lengths.device.type} == {"meta"}


def test_silence_is_no_mistake(model):
    assert torch.isfinite(model(torch.zeros(1, 500)).last_hidden_state).all()


def test_the_shortest_clip_gives_one_frame(model):
    assert small_config().receptive_field == 148
    out = model(torch.randn(1, 148))
    assert out.last_hidden_state.shape[1] == 1
    assert torch.isfinite(out.last_hidden_state).all()


def test_sample_lengths():
    assert sample_lengths(torch.tensor([[1, 1, 0], [1, 1, 1]])).tolist() == [2, 3]
    with pytest.raises(ValueError, match=r"must be \(batch, samples\), got \(3,\)"):
        sample_lengths(torch.ones(3))
