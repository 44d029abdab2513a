"""Intervals: what is drawn, and how often they hold the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from unisat.interpret.statistics.intervals import (
    as_good_as_best,
    interval,
    jackknife,
    leave_out,
    lower_bounds,
    partition,
    resampled,
)

SPEAKERS, EACH = 20, 10
WHO = np.repeat(np.arange(SPEAKERS), EACH)


def worlds(number, seed=0):
    """Whether each utterance was recognised, (n, worlds): speakers differ, utterances of one are alike."""
    draw = np.random.default_rng(seed)
    ease = draw.beta(4, 2, size=(SPEAKERS, number))  # mean 2/3
    return (draw.random((SPEAKERS * EACH, number)) < ease[WHO]).astype(float)


def covered(counts, right, truth):
    drawn = counts @ right / counts.sum(1, keepdims=True)
    low, high = np.array([interval(world, groups=SPEAKERS) for world in drawn.T]).T
    return ((low <= truth) & (truth <= high)).mean()


def test_the_interval_holds_the_truth_in_19_of_20_worlds_of_alike_utterances():
    right = worlds(1000)
    assert 0.93 <= covered(resampled(WHO, 1000), right, 2 / 3) <= 0.97
    # utterances drawn as if they were independent promise far too much
    naive = np.random.default_rng(0).multinomial(len(WHO), np.full(len(WHO), 1 / len(WHO)), 1000)
    assert covered(naive, right, 2 / 3) < 0.85


def test_the_interval_of_a_paired_difference_holds_the_truth():
    draw = np.random.default_rng(1)
    ease = draw.beta(4, 2, size=(SPEAKERS, 1000))
    shared = draw.random((SPEAKERS * EACH, 1000))
    # another layer loses a share of what this one has, for some speakers much, for others nothing
    loss = draw.beta(1, 3, size=(SPEAKERS, 1000))[WHO]
    gap = (shared < ease[WHO]).astype(float) - (shared < (1 - loss) * ease[WHO])
    assert 0.93 <= covered(resampled(WHO, 1000), gap, 1 / 4 * 2 / 3) <= 0.97


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30).filter(lambda g: len(set(g)) > 1))
def test_a_draw_has_as_many_speakers_as_there_are_and_all_their_utterances(groups):
    groups = np.array(groups)
    counts = resampled(groups, 20, seed=3)
    names = np.unique(groups)
    times = np.stack([counts[:, groups == name].max(1) for name in names], axis=1)
    np.testing.assert_array_equal(times.sum(1), len(names))
    np.testing.assert_array_equal(counts, times[:, np.searchsorted(names, groups)])  # a speaker comes as a whole


def test_speakers_are_drawn_as_often_as_one_another():
    counts = resampled(WHO, 4000)
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.1)
    # variance of a speaker's share: multinomial
    np.testing.assert_allclose((counts.reshape(-1, SPEAKERS, EACH).sum(2) / EACH).var(0).mean(), 0.95, rtol=0.05)


def test_the_same_seed_draws_the_same():
    np.testing.assert_array_equal(resampled(WHO, 5, seed=1), resampled(WHO, 5, seed=1))
    assert (resampled(WHO, 5, seed=1) != resampled(WHO, 5, seed=2)).any()


def test_a_speaker_alone_gives_no_interval():
    with pytest.raises(ValueError, match="at least two of them, got 1"):
        resampled(["a", "a"])
    with pytest.raises(ValueError, match="n_boot=0 must be at least 1"):
        resampled(["a", "b"], 0)


def test_draws_that_are_not_finite_are_left_out():
    assert interval(np.array([np.nan, 1.0, 1.0, np.inf])) == (1.0, 1.0)
    assert np.isnan(interval(np.array([np.nan]))).all()


def layers(number, truth, seed=0):
    """Accuracies of layers in so many worlds, with bootstrap draws: speakers are hard for all layers alike."""
    draw = np.random.default_rng(seed)
    counts = resampled(WHO, 300, seed=seed)
    for _ in range(number):
        hard = draw.normal(size=SPEAKERS)[WHO]
        right = np.array(truth)[:, None] + 0.2 * hard + 0.2 * draw.normal(size=(len(truth), len(WHO)))
        yield right.mean(1), right @ counts.T / counts.sum(1)


def test_the_best_layer_is_among_those_that_cannot_be_told_from_the_best():
    flat = [as_good_as_best(*world, groups=SPEAKERS) for world in layers(400, [0.7] * 7)]
    assert 0.93 <= np.mean(flat) <= 0.97  # all are equally good: each is left out in 5 %
    clear = [as_good_as_best(*world).tolist() for world in layers(50, [0.7, 0.7, 0.9, 0.7])]
    assert clear.count([False, False, True, False]) >= 48


def test_equal_layers_are_equally_good_and_worse_ones_are_not():
    noise = np.random.default_rng(0).normal(size=100)
    draws = np.stack([1 + noise, 1 + noise, noise])
    assert as_good_as_best(np.array([1.0, 1.0, 0.0]), draws).tolist() == [True, True, False]


def test_all_layers_lie_above_their_bounds_at_once():
    above = [(lower_bounds(values, draws, groups=SPEAKERS) < 0.5).all() for values, draws in layers(300, [0.5] * 7)]
    assert np.mean(above) >= 0.92
    values, draws = next(layers(1, [0.5] * 7))
    assert (lower_bounds(values, draws) < np.quantile(draws, 0.05, axis=1)).all()  # wider than one at a time


@pytest.mark.parametrize("rows", [2, 3, 5, 20])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_jackknife_of_a_mean_is_students_interval(rows, level):
    """The mean's jackknife has a closed form: scipy.stats knows the interval, exactly, however few rows there are."""
    values = np.random.default_rng(rows).normal(size=(rows, 4, 3))
    everything, left_out = leave_out(lambda keep: values[keep].mean(0), rows, np.arange(rows))
    low, high = stats.t.interval(level, rows - 1, loc=values.mean(0), scale=stats.sem(values))
    np.testing.assert_allclose(everything - jackknife(left_out, level), low, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(everything + jackknife(left_out, level), high, rtol=1e-10, atol=1e-12)
    assert leave_out(lambda keep: values[keep].mean(0), rows, None)[1] is None


def test_groups_are_dealt_into_blocks_as_a_whole():
    block = partition(np.repeat(list("abcdefg"), 3), 3, seed=1)
    assert (block.reshape(7, 3) == block[::3, None]).all()
    assert sorted(np.bincount(block[::3])) == [2, 2, 3]
    assert len(set(partition(["a", "b"], 20))) == 2  # no more blocks than groups
    assert any((partition(np.arange(7), 3, seed) != partition(np.arange(7), 3)).any() for seed in range(1, 4))
