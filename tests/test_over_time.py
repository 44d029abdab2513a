"""Hidden states of a run over layers and time: norms by hand, cosines and CKA against loops."""

import itertools

import numpy as np
import pytest
import torch
from widget_cases import deep, model, trace

import unisat as us
from unisat.interpret.layers.over_time import (
    MOST,
    frame_cka,
    frame_cosines,
    hidden_layers,
    layer_frames,
    rms_norms,
    smallest_and_largest,
    state_summary,
)


def test_frames_of_all_layers_are_those_of_the_trace_without_padding():
    run = trace("hidden.*")
    states = layer_frames(run, 1)
    assert hidden_layers(run) == list(range(len(states)))
    for layer, state in enumerate(states):
        torch.testing.assert_close(state, run.ragged(f"hidden.{layer}")[1])
    assert states.shape[1] < layer_frames(run, 0).shape[1]


def test_the_cosine_of_two_layers_is_the_mean_over_frames():
    states = layer_frames(trace("hidden.*"), 1)
    got = frame_cosines(states)
    for first, second in itertools.product(range(len(states)), repeat=2):
        pairs = zip(states[first], states[second], strict=True)
        cosines = [float(a @ b / ((a @ a) * (b @ b)).sqrt()) for a, b in pairs]
        assert float(got[first, second]) == pytest.approx(np.mean(cosines), abs=1e-5)
    torch.testing.assert_close(frame_cosines(torch.stack([states[0], -3 * states[0]]))[0, 1], torch.tensor(-1.0))
    assert frame_cosines(torch.zeros(2, 3, 4)).abs().max() == 0


def hsic(first, second):
    """Song et al. 2012, eq. 4: the mean over all four different rows, in plain loops."""
    different = itertools.permutations(range(len(first)), 4)
    return np.mean([first[i, j] * (second[i, j] + second[q, r] - 2 * second[i, q]) for i, j, q, r in different])


def test_cka_is_that_of_the_frames_of_all_utterances(monkeypatch):
    monkeypatch.setattr("unisat.interpret.layers.over_time.MOST", 9)
    run = trace("hidden.0", "hidden.2")
    frames = [torch.cat(run.ragged(site)).double().numpy() for site in ("hidden.0", "hidden.2")]
    rows = np.round(np.linspace(0, len(frames[0]) - 1, 9)).astype(int)
    assert len(frames[0]) > 9
    one, two = (values[rows] @ values[rows].T for values in frames)
    expected = hsic(one, two) / np.sqrt(hsic(one, one) * hsic(two, two))
    got = frame_cka(run)
    assert float(got[0, 1]) == pytest.approx(expected, abs=1e-4)
    assert float(got[1, 1]) == pytest.approx(1, abs=1e-5)


def test_long_recordings_are_compared_by_some_of_their_frames(monkeypatch):
    seen = []
    real = us.layer_similarity
    monkeypatch.setattr(
        "unisat.interpret.layers.over_time.layer_similarity",
        lambda bank, **how: seen.append(len(bank)) or real(bank, **how),
    )
    wave = torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    _, run = us.run(model(), wave.repeat(30), "hidden.*", sampling_rate=16_000)
    assert int(run.lengths("hidden.0")[0]) > MOST
    assert frame_cka(run).shape == (len(run.sites),) * 2
    assert seen == [MOST]


def test_norms_are_those_of_valid_frames_layer_by_layer():
    run = deep()
    table = rms_norms(run, utterance=1)
    assert table.index.tolist() == [0, 2, 10]  # by number, not by name
    assert table.columns.tolist() == run.seconds("hidden.0")[: run.lengths("hidden.0")[1]].tolist()
    for layer, row in table.iterrows():
        expected = [np.sqrt(np.mean(np.square(frame))) for frame in run.ragged(f"hidden.{layer}")[1].numpy()]
        np.testing.assert_allclose(row, expected, rtol=1e-5)
    means = {layer: row.mean() for layer, row in table.iterrows()}
    least, _, most = sorted(means, key=means.get)
    assert smallest_and_largest(table).to_dict() == pytest.approx({least: means[least], most: means[most]})
    assert smallest_and_largest(table).index.tolist() == [least, most]


def test_a_state_is_summarised_by_its_norm_and_its_largest_channel():
    run = trace("hidden.*")
    state, norms = run.ragged("hidden.2")[0].clone(), rms_norms(run).loc[2]
    found = state_summary(state, norms)
    frames = [np.sqrt(np.mean(np.square(frame))) for frame in state.numpy()]
    assert found["mean"] == pytest.approx(np.mean(frames), rel=1e-5)
    assert (found["least"], found["most"]) == pytest.approx((min(frames), max(frames)), rel=1e-5)
    assert found["most_at"] == pytest.approx(float(run.seconds("hidden.2")[int(np.argmax(frames))]))
    channels = [np.sqrt(np.mean(np.square(channel))) for channel in state.T.numpy()]
    assert (found["channel"], found["channel_rms"]) == (np.argmax(channels), pytest.approx(max(channels), rel=1e-5))
    assert found["median_rms"] == pytest.approx(sorted(channels)[7], rel=1e-5)  # torch's: the lower one of two
    assert found["not_finite"] == 0
    state[3, :2] = torch.tensor([torch.nan, torch.inf])
    assert state_summary(state, norms)["not_finite"] == 2
