"""Shuffled labels for floors: each way keeps together what is alike, so that only the relation to measure is broken.

All take labels as an array of numbers, how many shuffles are wanted, and the generator that draws them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, Shaped

Labels = Int[np.ndarray, " labels"]


def among_rows(labels: Labels, count: int, draw: np.random.Generator) -> Iterator[Labels]:
    """Exchange the labels of all rows, such as utterances, for one another."""
    return (draw.permutation(labels) for _ in range(count))


def among_groups(
    labels: Labels, groups: Shaped[np.ndarray, " labels"], count: int, draw: np.random.Generator
) -> Iterator[Labels]:
    """Exchange labels that all rows of a group share, such as a speaker's sex, among groups."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    return (draw.permutation(labels[first])[group] for _ in range(count))


def moved_round(labels: Labels, count: int, draw: np.random.Generator) -> Iterator[Labels]:
    """Move the labels of all frames by a random number of frames, the last ones to the front: neighbours stay so."""
    return (np.roll(labels, shift) for shift in draw.integers(1, max(2, len(labels)), size=count))


def exchanged_stretches(labels: Labels, utterance: Labels, count: int, draw: np.random.Generator) -> Iterator[Labels]:
    """Keep each stretch of one label in one utterance whole, and exchange the labels of stretches for one another.

    Stretches whose label is negative keep it: there nothing is known.
    """
    new = (np.diff(labels, prepend=labels[0]) != 0) | (np.diff(utterance, prepend=utterance[0]) != 0)
    stretch = np.cumsum(new)
    names = labels[np.unique(stretch, return_index=True)[1]]
    known = names >= 0
    for _ in range(count):
        exchanged = names.copy()
        exchanged[known] = draw.permutation(names[known])
        yield exchanged[stretch]
