"""Reducers against NumPy, in batches of any cut."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unisat.interpret.activations.reduce import (
    CodeCounts,
    Histogram,
    Moments,
    Reducer,
    TopFrames,
    describe,
    mean,
    mean_std,
    norms,
)


@pytest.fixture
def batch():
    """Three utterances of 5, 1 and 3 frames; garbage in the padding."""
    draw = torch.Generator().manual_seed(0)
    values = 3 + torch.randn(3, 5, 2, 4, generator=draw)
    valid = torch.arange(5) < torch.tensor([5, 1, 3])[:, None]
    values[~valid] = 1e6
    return values, valid


def ragged(values, valid):
    return [row[keep].double().flatten(1).numpy() for row, keep in zip(values, valid, strict=True)]


def test_pooling_is_numpy_s_on_each_utterance_alone(batch):
    values, valid = batch
    for row, frames in enumerate(ragged(values, valid)):
        np.testing.assert_allclose(mean(values, valid)[row].flatten(), frames.mean(0), rtol=1e-6)
        both = np.concatenate([frames.mean(0), frames.std(0)])
        np.testing.assert_allclose(mean_std(values, valid)[row], both, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(norms(values, valid)[row], [np.sqrt((frames**2).mean())], rtol=1e-6)


def test_frames_in_any_order_and_holes_count_alike(batch):
    values, valid = batch
    hole = valid.clone()
    hole[0, 1] = False
    frames = ragged(values, hole)[0]
    np.testing.assert_allclose(mean(values, hole)[0].flatten(), frames.mean(0), rtol=1e-6)
    assert torch.isnan(mean(values, torch.zeros_like(valid))).all()


def test_a_waveform_has_one_channel():
    wave = torch.tensor([[1.0, -1.0, 3.0, 9.0]])
    valid = torch.tensor([[True, True, True, False]])
    assert mean_std(wave, valid).tolist()[0] == pytest.approx([1.0, np.std([1, -1, 3])])
    assert norms(wave, valid).tolist()[0] == pytest.approx([np.sqrt(11 / 3)])


def test_the_spread_survives_a_large_mean():
    values = 1e5 + torch.tensor([0.0, 1.0] * 500).reshape(1, 1000, 1)
    assert mean_std(values, torch.ones(1, 1000, dtype=torch.bool))[0, 1].item() == pytest.approx(0.5, rel=1e-3)


def test_codes_are_counted():
    codes = torch.tensor([[[0, 2], [0, 1], [3, 3]], [[1, 1], [2, 2], [2, 2]]])
    valid = torch.tensor([[True, True, False], [True, True, True]])
    counts = CodeCounts(4)(codes, valid)
    assert counts.tolist() == [[[2, 0, 0, 0], [0, 1, 1, 0]], [[0, 1, 2, 0], [0, 1, 2, 0]]]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 100))
def test_corpus_wide_reducers_do_not_care_how_the_corpus_is_cut(lengths, seed):
    draw = torch.Generator().manual_seed(seed)
    utterances = [torch.randn(length, 3, generator=draw) for length in lengths]
    everything = torch.cat(utterances).double().numpy()
    moments, histogram, top = Moments(), Histogram(-1.0, 1.0, bins=5), TopFrames(k=4)
    halves = [Moments(), Moments()], [Histogram(-1.0, 1.0, bins=5) for _ in range(2)], [TopFrames(4), TopFrames(4)]
    for row, frames in enumerate(utterances):
        valid = torch.ones(1, len(frames), dtype=torch.bool)
        for reducer, parts in zip((moments, histogram, top), halves, strict=True):
            extra = [torch.tensor([row])] if isinstance(reducer, TopFrames) else []
            reducer.update(frames[None], valid, *extra)
            parts[row % 2].update(frames[None], valid, *extra)
    found = moments.value()
    assert found["frames"] == len(everything)
    np.testing.assert_allclose(found["mean"], everything.mean(0), atol=1e-12)
    np.testing.assert_allclose(found["covariance"], np.cov(everything.T, bias=True), atol=1e-12)
    expected, _ = np.histogram(everything, bins=5, range=(-1, 1))
    assert histogram.value()["counts"].tolist() == expected.tolist()
    assert histogram.value()["below"] == (everything < -1).sum()
    assert histogram.value()["above"] == (everything > 1).sum()
    best = -np.sort(-everything, axis=0)[:4].T
    np.testing.assert_allclose(top.value()["values"], best, rtol=1e-6)
    rows, frames = top.value()["rows"], top.value()["frames"]
    for channel in range(3):
        looked_up = [utterances[r][f, channel] for r, f in zip(rows[channel], frames[channel], strict=True)]
        np.testing.assert_allclose(looked_up, best[channel], rtol=1e-6)
    for whole, (first, second) in zip((moments, histogram, top), halves, strict=True):
        if len(lengths) > 1:
            first.merge(second.state())
        for name, value in whole.value().items():
            if name not in ("rows", "frames"):  # of equals either may come first
                torch.testing.assert_close(first.value()[name], value)


def test_the_last_bin_has_both_its_ends():
    histogram = Histogram(0.0, 1.0, bins=2)
    histogram.update(torch.tensor([[[0.0], [0.5], [1.0], [1.5]]]), torch.ones(1, 4, dtype=torch.bool))
    assert histogram.value()["counts"].tolist() == [1, 2]
    assert histogram.value()["above"] == 1


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="low < high"):
        Histogram(1.0, 1.0)
    with pytest.raises(ValueError, match="k=0 must be at least 1"):
        TopFrames(0)
    assert all(isinstance(r, Reducer) for r in (Moments(), Histogram(0.0, 1.0), TopFrames()))
    assert not isinstance(CodeCounts(3), Reducer)
    assert [describe(r) for r in ("mean", mean, CodeCounts(8), TopFrames(3), Moments(), Histogram(0.0, 1.0, 5))] == [
        "mean",
        "mean",
        "CodeCounts(entries=8)",
        "TopFrames(k=3)",
        "Moments()",
        "Histogram(low=0.0, high=1.0, bins=5)",
    ]
