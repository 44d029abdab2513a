"""Shuffled labels for floors: each way keeps together what is alike, so that only the relation to measure is broken.

All take labels as an array of numbers, how many shuffles are wanted, and the generator that draws them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, Shaped

Labels = Int[np.ndarray, " labels"]
Groups = Shaped[np.ndarray, " labels"]


def among_rows(labels: Labels, count: int, draw: np.random.Generator, within: Groups | None = None) -> Iterator[Labels]:
    """Exchange the labels of rows, such as utterances, for one another; of those in one group of ``within``, if given.

    Where every speaker says the same sentences, sentences are exchanged within speakers: among all utterances, each
    shuffled sentence would have more of some speakers than of others, and would be known by the voice.
    """
    if within is None:
        return (draw.permutation(labels) for _ in range(count))
    _, group = np.unique(within, return_inverse=True)
    order = np.argsort(group, kind="stable")
    return (_placed(labels, order, np.lexsort((draw.random(len(labels)), group))) for _ in range(count))


def _placed(labels: Labels, places: Labels, rows: Labels) -> Labels:
    out = np.empty_like(labels)
    out[places] = labels[rows]
    return out


def among_groups(labels: Labels, groups: Groups, count: int, draw: np.random.Generator) -> Iterator[Labels]:
    """Exchange labels that all rows of a group share, such as a speaker's sex, among groups."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    return (draw.permutation(labels[first])[group] for _ in range(count))


def moved_round(labels: Labels, within: Labels, count: int, draw: np.random.Generator) -> Iterator[Labels]:
    """Move the labels of each stretch of frames, such as an utterance, by a random number of frames.

    The last ones come to the front of the stretch: neighbours stay neighbours, and each stretch keeps its labels.
    ``within`` has the same number in all frames of a stretch, which lie one behind the other.
    """
    first = np.flatnonzero(np.diff(within, prepend=within[:1] - 1))
    size = np.diff(first, append=len(labels))
    start, length = np.repeat(first, size), np.repeat(size, size)
    place = np.arange(len(labels)) - start
    for _ in range(count):
        shift = np.repeat((draw.random(len(size)) * size).astype(int), size)
        yield labels[start + (place + shift) % length]


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
