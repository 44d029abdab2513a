"""ABX: how often a sound is nearer to one of another kind than to one of its own, without any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.result import Result, plots
from unisat.interpret.statistics.intervals import jackknife

Distance = Literal["angular", "cosine", "euclidean"]


class Cell(NamedTuple):
    """Rows to compare: ``a`` and ``x`` are of one label, ``b`` of another; ``a`` and ``b`` of one speaker."""

    a: Int[np.ndarray, " as"]
    b: Int[np.ndarray, " bs"]
    x: Int[np.ndarray, " xs"]


@dataclass(frozen=True, eq=False, kw_only=True)
class AbxErrors(Result):
    """ABX errors of layers; `unisat.abx` gives it.

    Attributes
    ----------
    numbers : DataFrame
        What `table` gives.
    cells : DataFrame
        ``site``, ``context``, ``label``, ``other``, ``speaker`` of a and b, ``speaker_x`` (columns of ``across``), the
        number of triples and the ``error`` in each cell.
    """

    numbers: pd.DataFrame
    cells: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """Give for each site ``error``, its 95 % interval ``low`` and ``high`` (jackknife over speakers), ``cells``.

        The error is the mean over pairs of labels of the mean over contexts of the mean over speakers; chance is 0.5.
        """
        return self.numbers.copy()

    def plot(self, **options: Any) -> Any:
        """Draw the errors over layers."""
        return plots().abx(self.table(), **options)


def abx(
    bank: FeatureBank,
    sites: str | Sequence[str] | None = None,
    *,
    label: str = "label",
    by: Sequence[str] = ("previous", "next"),
    across: str | None = "speaker",
    distance: Distance = "angular",
    most: int = 10,
    most_across: int = 5,
    seed: int = 0,
) -> AbxErrors:
    """Measure how often a row X of one label is nearer to a row B of another label than to a row A of its own.

    The measure of the Zero Resource Speech Challenge (Schatz et al. 2013; Versteegh et al. 2015), on banks with one
    vector for each segment. A, B and X share their context (``by``). With ``across="speaker"``, A and B are of one
    speaker and X is of another, so that a layer which hears voices more than phones fails. A tie is half an error.

    It leaves out what the tools for whole files have (``fastabx``, ``libri-light``): they compare the frames of two
    segments along the best path (dynamic time warping), where this compares two pooled vectors. Errors of the two are
    not the same numbers; the order of layers is what to compare.

    Parameters
    ----------
    bank : FeatureBank
        Such as ``us.collect(model, corpus, "hidden.*", segments=phones)``.
    sites : str or sequence of str, optional
        ``hidden.*`` if None.
    label : str
        The column to tell apart.
    by : str or sequence of str
        Columns in which A, B and X are alike, by name or ``"previous next"``. Empty for any context.
    across : str or None
        The column in which A and B are alike and X differs; None: all three are alike in the column ``speaker``, where
        there is one, and X is another row than A.
    distance : {"angular", "cosine", "euclidean"}
        Between vectors. The first two order pairs alike, and so give the same errors.
    most : int
        Most rows of A, of B and of X in one cell; more are drawn.
    most_across : int
        Most speakers of X for one pair of labels, context and speaker of A; more are drawn.
    seed : int
        The seed of these draws, the same for all sites.

    Raises
    ------
    ValueError
        If no three rows fit.
    """
    columns = by.split() if isinstance(by, str) else list(by)
    names = [sites] if isinstance(sites, str) else list(bank.hidden if sites is None else sites)
    if not names:
        raise ValueError(f"there are no layers; name sites, the bank has {', '.join(bank.sites)}.")
    if distance not in get_args(Distance):
        raise ValueError(f"distance={distance!r} must be one of {', '.join(get_args(Distance))}.")
    for name, number in (("most", most), ("most_across", most_across)):
        if number < 1:
            raise ValueError(f"{name}={number} must be at least 1.")
    for site in names:
        if bank.is_frames(site):
            raise ValueError(f"{site} has a row for each frame; collect with segments= for a row for each segment.")
    table, cells = _cells(bank, label, columns, across, (most, most_across), np.random.default_rng(seed))
    if not cells:
        raise ValueError(
            f"no three rows fit: two alike in {label!r} and one not, all alike in {', '.join(columns) or 'nothing'}"
            + (f", X of another {across!r}" if across else "")
            + ". Take fewer columns in by=."
        )
    measured, rows = [], []
    for site in names:
        error = _errors(bank.features(site), cells, distance)
        measured.append(table.assign(site=site, error=error))
        low, high = _interval(table, error)
        rows.append({"site": site, "error": _mean(table, error), "low": low, "high": high, "cells": len(cells)})
    settings: dict[str, Any] = {"model": bank.settings.get("model"), "label": label, "by": columns, "across": across}
    settings |= {"distance": distance, "most": most, "most_across": most_across, "seed": seed}
    settings |= {"triples": int(table["triples"].sum())}
    return AbxErrors(numbers=pd.DataFrame(rows), cells=pd.concat(measured, ignore_index=True), settings=settings)


def _cells(
    bank: FeatureBank,
    label: str,
    by: Sequence[str],
    across: str | None,
    most: tuple[int, int],
    draw: np.random.Generator,
) -> tuple[pd.DataFrame, list[Cell]]:
    """All that can be compared, and what it is."""
    voice = across or ("speaker" if "speaker" in bank.table else None)
    frame = pd.DataFrame({"label": bank.labels(label), "voice": bank.labels(voice) if voice else ""})
    for name in by:
        if name not in bank.table:
            bank.labels(name)  # says which columns there are
    frame["context"] = bank.table[list(by)].astype(str).agg(" ".join, axis=1) if by else ""
    cells, said = [], []
    for context, alike in frame.groupby("context", sort=True):
        rows = {key: part.to_numpy() for key, part in alike.groupby(["voice", "label"]).groups.items()}
        heard: dict[str, list[str]] = {}
        for who, one in rows:
            heard.setdefault(one, []).append(who)
        for (who, one), a in rows.items():
            others = [w for w in heard[one] if w != who] if across else [who] * (len(a) > 1)
            for other in [two for w, two in rows if w == who and two != one] if others else []:
                for x in _drawn(np.array(others, dtype=object), most[1], draw):
                    cell = Cell(*(_drawn(part, most[0], draw) for part in (a, rows[who, other], rows[x, one])))
                    pairs = len(cell.a) * len(cell.x) - (0 if across else len(np.intersect1d(cell.a, cell.x)))
                    if pairs:
                        cells.append(cell)
                        said.append((context, one, other, who, x, pairs * len(cell.b)))
    return pd.DataFrame(said, columns=["context", "label", "other", "speaker", "speaker_x", "triples"]), cells


def _drawn(items: np.ndarray, most: int, draw: np.random.Generator) -> np.ndarray:
    return items if len(items) <= most else items[np.sort(draw.choice(len(items), most, replace=False))]


def _errors(
    values: Float[np.ndarray, "rows dim"], cells: Sequence[Cell], distance: Distance
) -> Float[np.ndarray, " cells"]:
    """Share of triples in which X is nearer to B, ties counted half; no row is compared with itself."""
    if distance != "euclidean":
        length = np.linalg.norm(values, axis=1, keepdims=True)
        if not (length > 0).all():
            raise ValueError("a row is zero everywhere and has no angle; take distance='euclidean'.")
        values = values / length
    found = np.empty(len(cells))
    for place, (a, b, x) in enumerate(cells):
        own, other = (_apart(values[x], values[side], distance) for side in (a, b))
        worse = (own[:, :, None] > other[:, None]) + 0.5 * (own[:, :, None] == other[:, None])
        found[place] = worse[x[:, None] != a].mean()
    return found


def _apart(one: Float[np.ndarray, "xs dim"], two: Float[np.ndarray, "others dim"], distance: Distance) -> np.ndarray:
    if distance == "euclidean":
        return np.square(one[:, None] - two).sum(-1)
    return -(one @ two.T)  # angles and cosines grow as this does


def _mean(table: pd.DataFrame, error: Float[np.ndarray, " cells"]) -> float:
    """Mean over speakers, then over contexts, then over pairs of labels."""
    found = table[["context", "label", "other"]].assign(error=error)
    contexts = found.groupby(["label", "other", "context"], sort=False)["error"].mean()
    return float(contexts.groupby(["label", "other"], sort=False).mean().mean())


def _interval(table: pd.DataFrame, error: Float[np.ndarray, " cells"]) -> tuple[float, float]:
    """95 % over speakers, each left out in turn; not a number where there are fewer than three."""
    who = sorted({*table["speaker"], *table["speaker_x"]})
    kept = [((table["speaker"] != one) & (table["speaker_x"] != one)).to_numpy() for one in who]
    if len(who) < 3 or not all(rows.any() for rows in kept):
        return float("nan"), float("nan")
    half = float(jackknife(np.array([_mean(table[rows], error[rows]) for rows in kept])))
    middle = _mean(table, error)
    return max(0.0, middle - half), min(1.0, middle + half)
