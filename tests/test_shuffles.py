"""Shuffled labels: what each way keeps together, and that it draws all that is left."""

from collections import Counter

import numpy as np

from unisat.interpret.statistics.shuffles import among_groups, among_rows, exchanged_stretches, moved_round


def draw(seed=0):
    return np.random.default_rng(seed)


def test_labels_of_rows_are_exchanged():
    labels = np.array([0, 0, 1, 2])
    seen = Counter(tuple(row) for row in among_rows(labels, 1200, draw()))
    assert len(seen) == 12  # 4! / 2!
    assert all(sorted(row) == [0, 0, 1, 2] for row in seen)
    assert min(seen.values()) > 60  # 100 of each expected


def test_labels_of_groups_stay_the_groups_own():
    groups = np.array(list("bbaacbcb"))
    labels = np.array([1, 1, 0, 0, 2, 1, 2, 1])
    seen = Counter()
    for row in among_groups(labels, groups, 600, draw()):
        own = [set(row[groups == name]) for name in "abc"]
        assert all(len(each) == 1 for each in own)
        seen[tuple(each.pop() for each in own)] += 1
    assert len(seen) == 6
    assert min(seen.values()) > 60


def test_labels_are_exchanged_within_groups():
    groups, labels = np.array(list("baabb")), np.array([0, 1, 2, 3, 4])
    seen = Counter(tuple(row) for row in among_rows(labels, 1200, draw(), groups))
    assert len(seen) == 12  # 2! 3!
    assert all(set(np.array(row)[groups == "a"]) == {1, 2} for row in seen)
    assert min(seen.values()) > 60


def test_labels_are_moved_round_within_each_stretch():
    labels, within = np.array([0, 1, 2, 3, 4, 5, 6, 9]), np.array([4, 4, 4, 7, 7, 7, 7, 5])
    seen = Counter()
    for row in moved_round(labels, within, 1200, draw()):
        assert set(row[:3]) == {0, 1, 2}
        assert np.array_equal(np.diff(row[:3]) % 3, [1, 1])  # neighbours stay neighbours
        assert np.array_equal(np.diff(row[3:7]) % 4, [1, 1, 1])
        assert row[7] == 9
        seen[row[0], row[3]] += 1
    assert len(seen) == 12
    assert min(seen.values()) > 60
    assert [row.tolist() for row in moved_round(np.array([], int), np.array([], int), 2, draw())] == [[], []]


def test_stretches_stay_whole():
    labels = np.array([2, 2, 2, -1, 0, 0, 1, 1, 1, 1, -1, 3])
    utterance = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1])  # the last stretch of 1 is two
    seen = set()
    for new in exchanged_stretches(labels, utterance, 400, draw()):
        stretches = [new[0:3], new[4:6], new[6:8], new[8:10], new[11:12]]
        assert all(len(set(part)) == 1 for part in stretches)
        assert sorted(part[0] for part in stretches) == [0, 1, 1, 2, 3]
        assert (new[[3, 10]] == -1).all()
        seen.add(tuple(part[0] for part in stretches))
    assert len(seen) == 60  # 5! / 2!


def test_shuffles_depend_on_the_generator_alone_and_write_nothing():
    labels, utterance = np.array([0, 0, 1, 2, -1, 1]), np.array([0, 0, 0, 1, 1, 1])
    before = labels.copy()
    for shuffled in (
        lambda seed: among_rows(labels, 3, draw(seed)),
        lambda seed: among_groups(labels, np.arange(6), 3, draw(seed)),
        lambda seed: moved_round(labels, utterance, 3, draw(seed)),
        lambda seed: exchanged_stretches(labels, utterance, 3, draw(seed)),
    ):
        first, again, other = (np.stack(list(shuffled(seed))) for seed in (4, 4, 5))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()
    np.testing.assert_array_equal(labels, before)
