"""Statistics and rollout of attention by blocks of queries, against the whole patterns."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import shuffled, small_config
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import unisat as us
from unisat.interpret.activations.attention import measures, rollout
from unisat.interpret.activations.attention_blocks import MEASURES, _measures, attention_statistics, rollout_of
from unisat.interpret.activations.capture import run

BLOCKS = [1, 7, 45, 1000]
FRAMES = (45, 9, 1)
"""Of the utterances of `ragged`."""


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def described(patterns, seconds, near=3):
    """`measures` of each head."""
    found = [measures(head, seconds[: len(head)], near=near) for head in patterns]
    return [[one[name] for name in MEASURES] for one in found]


def pattern_of(q, k):
    """Attention weights of one utterance in float64; q and k are (frames, heads, head_dim)."""
    scores = torch.einsum("qhd,khd->hqk", q.double(), k.double()) / q.shape[-1] ** 0.5
    return scores.softmax(-1)


@pytest.mark.parametrize("block", BLOCKS)
def test_statistics_are_those_of_the_whole_patterns(model, ragged, block):
    waveforms, mask, _ = ragged
    table = attention_statistics(model, waveforms, near=2, block=block, attention_mask=mask)
    _, trace = run(model, waveforms, "block.*.attn.pattern", attention_mask=mask)
    assert list(table.columns) == MEASURES
    assert table.index.names == ["id", "layer", "head"]
    assert len(table) == 3 * 3 * 2
    seconds = trace.seconds("block.0.attn.pattern")
    for layer in range(3):
        for row, patterns in enumerate(trace.ragged(f"block.{layer}.attn.pattern")):
            assert patterns.shape == (2, FRAMES[row], FRAMES[row])
            expected = described(patterns, seconds, near=2)
            found = table.loc[(str(row), layer)]
            assert list(found.index) == [0, 1]
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    single = table.xs("2")  # one frame looks at itself
    assert (single == [0, 0, 1]).all().all()


def test_a_float64_model_is_measured_in_float64(one_model, ragged):
    model, (waveforms, mask, _) = one_model.double(), ragged
    table = attention_statistics(model, waveforms.double(), block=8, attention_mask=mask)
    _, trace = run(model, waveforms.double(), "block.*.attn.pattern", attention_mask=mask)
    seconds = trace.seconds("block.0.attn.pattern")
    expected = [
        described(trace.ragged(f"block.{layer}.attn.pattern")[row], seconds) for row in range(3) for layer in range(3)
    ]
    np.testing.assert_allclose(table, np.concatenate(expected), rtol=1e-11, atol=1e-12)
    rows = rollout_of(model, waveforms.double(), [3, 44], block=8, attention_mask=mask)
    assert rows.dtype == torch.float64
    torch.testing.assert_close(rows, rollout(trace)[-1][[3, 44]], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("way", ["bfloat16", "float16", "autocast"])
def test_half_precision_is_measured_in_float32(one_model, ragged, way):
    waveforms, mask, _ = ragged
    inside = torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast")
    model = one_model if way == "autocast" else one_model.to(getattr(torch, way))
    with inside:
        table = attention_statistics(model, waveforms, attention_mask=mask)
        rows = rollout_of(model, waveforms, [5], attention_mask=mask)
        _, trace = run(model, waveforms, "block.*.attn.[qk]", attention_mask=mask)
    assert trace["block.0.attn.q"].dtype == (torch.float16 if way == "float16" else torch.bfloat16)
    assert rows.dtype == torch.float32
    arrived = torch.eye(45, dtype=torch.float64)
    for layer in range(3):
        q, k = (trace.ragged(f"block.{layer}.attn.{side}") for side in "qk")
        for row in range(3):
            expected = described(pattern_of(q[row], k[row]), trace.seconds("block.0.attn.q"))
            np.testing.assert_allclose(table.loc[(str(row), layer)], expected, rtol=2e-5, atol=2e-6)
        arrived = (pattern_of(q[0], k[0]).mean(0) / 2 + torch.eye(45) / 2) @ arrived
    torch.testing.assert_close(rows.double(), arrived[[5]], rtol=1e-5, atol=1e-7)


@given(
    frames=st.integers(1, 30),
    heads=st.integers(1, 3),
    width=st.integers(1, 9),
    near=st.integers(0, 40),
    block=st.integers(1, 40),
    loud=st.sampled_from([0.0, 1.0, 10.0, 1000.0]),
    seed=st.integers(0, 2**31),
)
def test_any_queries_and_keys(frames, heads, width, near, block, loud, seed):
    q, k = torch.randn(2, frames, heads, width, generator=torch.Generator().manual_seed(seed)).unbind(0)
    q = q * loud
    expected = described(pattern_of(q, k), torch.arange(frames).double() / 1000, near=near)
    found = _measures(q.double(), k.double(), near, block)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    single = _measures(q, k, near, block)
    # float32 rounds a score to 1e-7 of its size: by as much of itself is the weight wrong
    largest = torch.einsum("qhd,khd->hqk", q.abs(), k.abs()).max().item()
    np.testing.assert_allclose(single, expected, rtol=1e-5 + 1e-6 * largest, atol=1e-5 + 1e-6 * largest)


def test_extremes_by_hand():
    alike = _measures(torch.zeros(8, 1, 4), torch.zeros(8, 1, 4), 7, 3)[0]
    pairs = [abs(i - j) for i in range(8) for j in range(8)]
    assert alike.tolist() == pytest.approx([sum(pairs) / 64, 3, 1])
    q = 100 * torch.eye(8)[:, None]
    assert _measures(q, q.roll(2, 0), 1, 3)[0].tolist() == pytest.approx([(6 * 2 + 2 * 6) / 8, 0, 0])
    assert _measures(q, q, 0, 3)[0].tolist() == pytest.approx([0, 0, 1])


def test_a_batch_names_its_rows_and_layers_may_be_chosen(one_model, ragged):
    waveforms, _, lengths = ragged
    waves = [wave[:length] for wave, length in zip(waveforms, lengths, strict=True)]
    batch = us.Batch.from_arrays(waves, sampling_rate=16000, ids=["a", "b", "c"])
    table = attention_statistics(one_model, batch)
    assert list(table.index.levels[0]) == ["a", "b", "c"]
    chosen = attention_statistics(one_model, batch, layers=[2, 0])
    assert list(chosen.xs("b").index) == [(0, 0), (0, 1), (2, 0), (2, 1)]
    # a layer that nobody watches leaves the padding out, which may move the last digit behind it
    pd.testing.assert_frame_equal(chosen, table.loc[(slice(None), [0, 2]), :], rtol=1e-5)
    pd.testing.assert_frame_equal(
        attention_statistics(one_model, batch, layers=1), table.loc[(slice(None), [1]), :], rtol=1e-5
    )
    alone = attention_statistics(one_model, waves[1], sampling_rate=16000)
    np.testing.assert_allclose(alone, table.loc[["b"]], rtol=1e-4, atol=1e-4)
    assert hooks(one_model) == 0


def test_a_model_with_a_head_is_measured_as_its_backbone(one_model, ragged):
    whole = us.UniSpeechSatForCTC(small_config(vocab_size=7)).eval()
    whole.unispeech_sat.load_state_dict(one_model.state_dict())
    table = attention_statistics(whole, ragged[0], attention_mask=ragged[1])
    assert table.equals(attention_statistics(one_model, ragged[0], attention_mask=ragged[1]))
    rows = rollout_of(whole, ragged[0], [2], attention_mask=ragged[1])
    assert torch.equal(rows, rollout_of(one_model, ragged[0], [2], attention_mask=ragged[1]))


@pytest.mark.parametrize("block", BLOCKS)
def test_rollout_is_rows_of_the_whole_one(model, ragged, block):
    waveforms, mask, _ = ragged
    _, trace = run(model, waveforms, "block.*.attn.pattern", attention_mask=mask)
    for row, queries in enumerate([[44, 0, 7, 7], range(9), [0]]):
        found = rollout_of(model, waveforms, queries, utterance=row, block=block, attention_mask=mask)
        expected = rollout(trace, utterance=row)[-1][list(queries)]
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found.sum(-1), torch.ones(len(queries)))
    assert hooks(model) == 0


@pytest.mark.parametrize(("layers", "selector"), [([2, 1], "{1:}"), ([0, 1], "{:2}"), (1, "1")])
def test_rollout_through_some_layers(one_model, ragged, layers, selector):
    _, trace = run(one_model, ragged[0], f"block.{selector}.attn.pattern", attention_mask=ragged[1])
    found = rollout_of(one_model, ragged[0], [30, 3], layers=layers, attention_mask=ragged[1])
    torch.testing.assert_close(found.double(), rollout(trace)[-1][[30, 3]], rtol=1e-5, atol=1e-7)


class Largest(TorchDispatchMode):
    """Most values in any tensor that is made inside."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.values = max([self.values, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))])
        return out


@pytest.mark.parametrize("padded", [False, True])
def test_no_tensor_is_larger_than_a_block_of_queries(padded):
    heads, block, frames = 4, 40, 500
    model = shuffled(us.UniSpeechSatModel(small_config(num_attention_heads=heads, feat_extract_norm="layer")))
    waveforms = torch.randn(1 + padded, 148 + 64 * (frames - 1), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(waveforms.shape).long()
    mask[1:, 10_000:] = 0
    with Largest() as largest:
        attention_statistics(model, waveforms, block=block, attention_mask=mask)
    assert largest.values == heads * block * frames
    with Largest() as largest:
        rollout_of(model, waveforms, [4, 5], block=block, attention_mask=mask)
    assert largest.values == heads * block * frames
    with Largest() as largest:
        run(model, waveforms, "block.0.attn.pattern", attention_mask=mask)
    assert largest.values == len(waveforms) * heads * frames**2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(layers=[1, 3]), r"layers=\[1, 3\] must be numbers from 0 to 2, one or more"),
        (dict(layers=-1), "layers=-1 must be numbers from 0 to 2, one or more"),
        (dict(layers=[]), r"layers=\[\] must be numbers from 0 to 2, one or more"),
        (dict(block=0), "block=0 must be a whole number of at least 1"),
        (dict(block=2.5), r"block=2\.5 must be a whole number"),
    ],
)
@pytest.mark.wrong_types
def test_bad_input(one_model, ragged, wrong, message):
    waveforms, mask, _ = ragged
    with pytest.raises(ValueError, match=message):
        attention_statistics(one_model, waveforms, attention_mask=mask, **wrong)
    with pytest.raises(ValueError, match=message):
        rollout_of(one_model, waveforms, [0], attention_mask=mask, **wrong)


@pytest.mark.parametrize(
    ("queries", "wrong", "message"),
    [
        ([], {}, "queries are empty; give the numbers of one or more frames"),
        ([0, 9], dict(utterance=1), "queries=9: the utterance has 9 frames, 0 to 8"),
        ([0, -1], {}, "queries=-1 must be a whole number of at least 0"),
        ([0], dict(utterance=3), "utterance=3: the batch has 3, 0 to 2"),
        ([0], dict(utterance=-1), "utterance=-1 must be a whole number of at least 0"),
        ([0], dict(layers=[0, 2]), r"consecutive layers, got layers=\[0, 2\]"),
    ],
)
def test_bad_queries(one_model, ragged, queries, wrong, message):
    with pytest.raises(ValueError, match=message):
        rollout_of(one_model, ragged[0], queries, attention_mask=ragged[1], **wrong)
    assert hooks(one_model) == 0


def test_other_mistakes(one_model, ragged):
    with pytest.raises(ValueError, match="near=-1 must be a whole number of at least 0"):
        attention_statistics(one_model, ragged[0], near=-1)
    with pytest.raises(ValueError, match="Linear holds no UniSpeechSatModel"):
        attention_statistics(torch.nn.Linear(1, 1), ragged[0])
    with pytest.raises(ValueError, match="pass sampling_rate=16000"):
        rollout_of(one_model, ragged[0][0], [0])
    one_model.train()
    for measured in (lambda: attention_statistics(one_model, ragged[0]), lambda: rollout_of(one_model, ragged[0], [0])):
        with pytest.raises(ValueError, match=r"training mode.*model.eval\(\) first"):
            measured()
    assert hooks(one_model) == 0
