"""Labels of frames and utterances, in whatever form they are given, as numbers.

A row without a label has None, NaN, an empty string or a negative number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.features.known import known, plain
from unisat.segments import Segments

Labels: TypeAlias = Sequence[Any] | np.ndarray | Tensor | pd.Series
FrameLabels: TypeAlias = Segments | Mapping[str, Labels] | Labels
"""A label for each frame: segments of one tier, by utterance id, utterance by utterance, or of all frames one behind
the other."""


def frame_labels(
    labels: FrameLabels, ids: Sequence[str], lengths: Int[np.ndarray, " utterances"], name: str = "labels"
) -> Shaped[np.ndarray, " frames"]:
    """Read the label of each frame as it is given, utterances one behind the other.

    Parameters
    ----------
    labels : dict or sequence
        See `FrameLabels`.
    ids, lengths : (utterances,)
        Names of the utterances, and how many frames each has.
    name : str
        What the labels are called in messages.

    Raises
    ------
    ValueError
        If an utterance has no labels, or not as many as frames.
    """
    if isinstance(labels, Segments):
        labels = labels.frames(dict(zip(ids, lengths.tolist(), strict=True)))
    if isinstance(labels, Mapping):
        if lost := [utterance for utterance in ids if utterance not in labels]:
            raise ValueError(
                f"{name!r} has nothing for {len(lost)} utterance(s), first {lost[0]!r}; give each its labels, or take "
                "the others with bank.take(rows)."
            )
        labels = [labels[utterance] for utterance in ids]
    elif any(np.ndim(part) != 1 for part in labels):
        return _flat(labels, int(lengths.sum()), f"{name!r} must have one label for each of the {lengths.sum()} frames")
    if len(labels) != len(ids):
        raise ValueError(f"{name!r} has {len(labels)} rows for {len(ids)} utterances; give each utterance its own.")
    parts = [plain(part) for part in labels]
    for utterance, part, length in zip(ids, parts, lengths, strict=True):
        if part.shape != (length,):
            raise ValueError(f"{utterance!r} has {length} frames, but {name!r} of shape {part.shape} for it.")
    parts = [part for part in parts if len(part)] or [np.empty(0, dtype=int)]
    if any(part.dtype.kind in "OU" for part in parts):  # numpy would make strings of numbers beside strings
        parts = [part.astype(object) for part in parts]
    return np.concatenate(parts)


def row_labels(
    bank: FeatureBank, site: str, labels: str | FrameLabels, name: str = "labels"
) -> Shaped[np.ndarray, " rows"]:
    """Read the label of each row of a site as it is given: of each utterance, or of each frame of a frame-wise site.

    Parameters
    ----------
    labels : str, dict or sequence
        A column of the bank, which gives each frame the label of its utterance; or labels of the rows.

    Raises
    ------
    ValueError
        If there is no such column, an utterance has nothing in it, or labels are not as many as rows.
    """
    framewise = bank.is_frames(site)
    if isinstance(labels, str):
        return np.repeat(bank.labels(labels), bank.lengths(site)) if framewise else bank.labels(labels)
    if framewise:
        return frame_labels(labels, bank.ids, bank.lengths(site), name)
    return _flat(labels, len(bank), f"{name!r} must be a column, or one label for each of the {len(bank)} utterances")


def row_column(bank: FeatureBank, site: str, name: str) -> Shaped[np.ndarray, " rows"]:
    """Give what a column says of each row of a site, which may be nothing."""
    if name not in bank.table:
        bank.labels(name)  # says which columns there are
    column = plain(bank.table[name])
    return np.repeat(column, bank.lengths(site)) if bank.is_frames(site) else column


class Labelled(NamedTuple):
    """The rows of a site that have a label: their features, the label's number, the names, and which rows they are."""

    title: str
    values: Float[np.ndarray, "rows dim"]
    codes: Int[np.ndarray, " rows"]
    names: list[str]
    rows: Int[np.ndarray, " rows"]


def labelled(bank: FeatureBank, site: str, label: str | FrameLabels) -> Labelled:
    """Find the rows of a site that have a label, a column or one as `row_labels` takes it.

    Of a bank with ``reduce="mean+std"`` the values are the means.

    Raises
    ------
    ValueError
        If there is no such column, or no row has a label.
    """
    title = label if isinstance(label, str) else "label"
    given = row_column(bank, site, label) if isinstance(label, str) else row_labels(bank, site, label)
    codes, names = label_codes(given, title)
    rows = np.flatnonzero(codes >= 0)
    pool = "mean" if bank.settings.get("reduce") == "mean+std" else None
    return Labelled(title, bank.features(site, pool)[rows], codes[rows], names, rows)


def label_codes(
    labels: Shaped[np.ndarray, " rows"], name: str = "labels"
) -> tuple[Int[np.ndarray, " rows"], list[str]]:
    """Give a number for each row's label, -1 where it has none, and the labels' names.

    Names are in order, whole numbers by size. A negative number of any type is no label.

    Raises
    ------
    ValueError
        If no row has a label.
    """
    labels = labels.astype(object) if labels.dtype.kind == "f" else labels
    there = known(labels)
    if not there.any():
        raise ValueError(f"no row has a label in {name!r}: all are None, NaN, '' or negative.")
    plain = labels[there] if labels.dtype.kind in "iu" else labels[there].astype(str)
    names, found = np.unique(plain, return_inverse=True)
    codes = np.full(len(labels), -1)
    codes[there] = found
    return codes, names.astype(str).tolist()


def frame_codes(
    labels: FrameLabels, ids: Sequence[str], lengths: Int[np.ndarray, " utterances"], name: str = "labels"
) -> tuple[Int[np.ndarray, " frames"], list[str]]:
    """Read labels of frames in any form (`frame_labels`) as numbers with names (`label_codes`)."""
    return label_codes(frame_labels(labels, ids, lengths, name), name)


def _flat(labels: Any, rows: int, wanted: str) -> np.ndarray:
    given = plain(labels)
    if given.shape != (rows,):
        raise ValueError(f"{wanted}, got shape {given.shape}.")
    return given
