"""The direction of a layer from one value of a label to another, such as from women to men."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unisat.inputs import check_number
from unisat.interpret.activations.capture import Trace
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.features.labels import FrameLabels, labelled, row_column
from unisat.interpret.interventions.edits import Steer
from unisat.interpret.probing.classifiers import group_folds, lda_log_probabilities, ridge_scores
from unisat.interpret.result import Result, plots
from unisat.interpret.statistics.intervals import interval, resampled
from unisat.interpret.statistics.scaling import scaling
from unisat.interpret.statistics.shuffles import among_groups, among_rows

Method = Literal["means", "lda", "ridge"]
Values = Float[np.ndarray, "rows dim"]
Second = Bool[np.ndarray, " rows"]
"""True in rows of the second class."""


@dataclass(frozen=True, eq=False)
class Axis:
    """A line through a layer: the mean of one class lies at 0 on it, that of the other at 1."""

    vector: Float[np.ndarray, " dim"]
    midpoint: Float[np.ndarray, " dim"]
    scale: float

    @classmethod
    def along(cls, vector: Float[np.ndarray, " dim"], values: Values, second: Second) -> Axis:
        """Scale a vector of any length; it points from the first class to the second."""
        low, high = values[~second].mean(0), values[second].mean(0)
        unit = vector / max(float(np.linalg.norm(vector)), np.finfo(float).tiny)
        scale = float((high - low) @ unit)
        return cls(-unit if scale < 0 else unit, (low + high) / 2, abs(scale))

    def place(self, values: Float[np.ndarray, "*rows dim"]) -> Float[np.ndarray, "*rows"]:
        """Say where values lie."""
        return 0.5 + (values - self.midpoint) @ self.vector / max(self.scale, np.finfo(float).tiny)


@dataclass(frozen=True, eq=False, kw_only=True)
class Direction(Result):
    """The direction from one value of a label to another; `unisat.direction` gives it.

    Attributes
    ----------
    site, label, first, second : str
        Where, of what, and the two values.
    vector : (channels,)
        A unit vector that points from the first class to the second.
    midpoint : (channels,)
        The middle between the means of the two classes.
    scale : float
        The distance of the two means along the vector. The mean of the first class lies at 0 and that of the second
        at 1.
    numbers : DataFrame
        What `table` gives.
    held_out : DataFrame
        ``id``, ``group``, ``label`` and ``place`` of each row on a direction that was found without its group.
    """

    site: str
    label: str
    first: str
    second: str
    vector: Float[np.ndarray, " channels"]
    midpoint: Float[np.ndarray, " channels"]
    scale: float
    numbers: pd.DataFrame
    held_out: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """Give three rows: ``what``, ``accuracy``, ``low`` and ``high``.

        Each class weighs the same in the accuracy, and a row counts as the second class if its place is beyond 0.5.
        The range of ``direction`` is the 95 % interval over groups. ``shuffled labels`` (exchanged among groups where
        all rows of a group have one label) and ``random directions`` have their mean and the 95 % range of the draws.
        All are held out: found on other groups than they are tried on.
        """
        return self.numbers.copy()

    def plot(self, **options: Any) -> Any:
        """Draw where the held-out rows of both classes lie."""
        return plots().direction(self.held_out, self.first, self.second, **options)

    def place(self, values: np.ndarray | Tensor) -> np.ndarray:
        """Say where values (…, channels) lie: 0 at the mean of the first class, 1 at the mean of the second."""
        rows = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values, dtype=float)
        if rows.shape[-1:] != self.vector.shape:
            raise ValueError(
                f"values have shape {rows.shape}; their last axis must be the {len(self.vector)} channels."
            )
        return Axis(self.vector, self.midpoint, self.scale).place(rows)

    def over_time(self, trace: Trace) -> pd.DataFrame:
        """Say where each frame of a trace lies: ``id``, ``frame``, ``seconds`` of its centre, and ``place``.

        Single frames vary more than the means over utterances or segments that a direction was found on.
        """
        if self.site not in trace:
            raise ValueError(
                f"the trace holds {', '.join(trace.sites)}; this direction is one of {self.site}; run that."
            )
        seconds, parts = trace.seconds(self.site).cpu().numpy(), []
        for name, values in zip(trace.ids, trace.ragged(self.site), strict=True):
            place, frames = self.place(values.flatten(1)), np.arange(len(values))
            parts.append(pd.DataFrame({"id": name, "frame": frames, "seconds": seconds[frames], "place": place}))
        return pd.concat(parts, ignore_index=True)

    def edit(self, by: float = 1.0, **where: Any) -> Steer:
        """Give the edit that moves all frames ``by`` from the first class to the second: 1 is from mean to mean.

        Parameters
        ----------
        by : float
            How far; negative values move from the second class to the first.
        where
            ``time=(start, end)`` in seconds, as in `unisat.Steer`.
        """
        check_number("by", by)
        return Steer(self.site, self.vector.astype(np.float32), by * self.scale, **where)


def direction(
    bank: FeatureBank,
    site: str,
    label: str | FrameLabels,
    first: str,
    second: str,
    *,
    method: Method = "means",
    groups: str | None = "speaker",
    cv: int = 5,
    draws: int = 100,
    n_boot: int = 1000,
    seed: int = 0,
) -> Direction:
    """Find the direction of a layer from one value of a label to another, and try it on groups it was not found on.

    Parameters
    ----------
    bank : FeatureBank
        Of utterances, segments or frames. Of ``reduce="mean+std"`` the means are taken.
    site : str
        A site of the bank.
    label : str, dict or sequence
        A column, or a label for each row of the site, as `unisat.subspaces` takes them.
    first, second : str
        Two values; rows with others are left out.
    method : {"means", "lda", "ridge"}
        The difference of the class means; that of linear discriminant analysis, which turns away from directions in
        which all classes vary (Ledoit-Wolf shrinkage); or that of the ridge classifier of `unisat.probe_layers`.
    groups : str or None
        The column whose values are held out together; None: the utterance.
    cv : int
        Folds of groups.
    draws : int
        Shuffles of the labels, and random directions.
    n_boot : int
        Draws of groups for the interval.
    seed : int
        The seed of folds, shuffles, directions and draws.

    Raises
    ------
    ValueError
        If there are no rows of a value, or all rows of one lie in a single group.

    Examples
    --------
    >>> sex = us.direction(bank, "hidden.4", "sex", "F", "M")
    >>> with us.intervene(model, sex.edit(by=1)):  # women's frames move to where men's are
    ...     output = model(input_values, attention_mask)
    """
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} must be one of {', '.join(get_args(Method))}.")
    for name, number, least in (("cv", cv, 2), ("draws", draws, 1), ("n_boot", n_boot, 1)):
        if number < least:
            raise ValueError(f"{name}={number} must be at least {least}.")
    title, values, high, who, ids = _two_classes(bank, site, label, (first, second), groups)
    folds = _folds(high, who, cv, seed, (title, first, second, groups or "utterance"))
    axis = _fit(values, high, method)
    if not axis.scale > 1e-10 * float(np.abs(values).max()):
        raise ValueError(f"{first!r} and {second!r} have the same mean at {site}; there is no direction between them.")
    places = _held_out(values, high, folds, lambda train, one: _fit(train, one, method))
    settings = {"model": bank.settings.get("model"), "method": method, "groups": groups, "folds": int(folds.max()) + 1}
    settings |= {"rows": [int((~high).sum()), int(high.sum())], "draws": draws, "n_boot": n_boot, "seed": seed}
    return Direction(
        site=site,
        label=title,
        first=first,
        second=second,
        vector=axis.vector,
        midpoint=axis.midpoint,
        scale=axis.scale,
        numbers=_numbers(values, high, who, folds, places, method, (draws, n_boot, seed)),
        held_out=pd.DataFrame({"id": ids, "group": who, "label": np.where(high, second, first), "place": places}),
        settings=settings,
    )


def _two_classes(
    bank: FeatureBank, site: str, label: str | FrameLabels, pair: tuple[str, str], groups: str | None
) -> tuple[str, Values, Second, np.ndarray, np.ndarray]:
    """The label's name, the rows of two classes, which are of the second one, and the group and utterance of each."""
    title, values, codes, names, rows = labelled(bank, site, label)
    for name in pair:
        if name not in names:
            raise ValueError(f"no row is {name!r}; there are {', '.join(map(repr, names[:8]))}.")
    if pair[0] == pair[1]:
        raise ValueError(f"first and second are both {pair[0]!r}; a direction leads from one value to another.")
    low, high = map(names.index, pair)
    keep = np.isin(codes, [low, high])
    column = groups or ("utterance" if "utterance" in bank.table else "id")
    who, ids = (row_column(bank, site, name).astype(str)[rows[keep]] for name in (column, "id"))
    return title, values[keep], codes[keep] == high, who, ids


def _folds(
    second: Second, who: np.ndarray, cv: int, seed: int, said: tuple[str, str, str, str]
) -> Int[np.ndarray, " rows"]:
    title, *pair, groups = said
    for name, mine in zip(pair, (~second, second), strict=True):
        if len(set(who[mine])) < 2:
            raise ValueError(
                f"all rows whose {title} is {name!r} have one {groups}; held out, nothing is left to learn from. "
                "Choose other groups (None: utterances)."
            )
    least = min(len(set(who[~second])), len(set(who[second])))
    return group_folds(second.astype(int), who, min(cv, least), seed)


def _fit(values: Values, second: Second, method: Method) -> Axis:
    """Find the direction on all rows."""
    if method == "means":
        return Axis.along(values[second].mean(0) - values[~second].mean(0), values, second)
    scaled = scaling(values)
    unit = np.vstack([np.zeros(values.shape[1]), np.eye(values.shape[1])])  # a score is linear: this reads its slope
    score = lda_log_probabilities if method == "lda" else ridge_scores
    said = score(scaled(values), second.astype(int), unit, 2)
    slope = (said[1:] - said[0]) @ np.array([-1.0, 1.0])
    spread = values.std(0)
    return Axis.along(slope / np.where(spread > 0, spread, 1.0), values, second)


def _held_out(
    values: Values, second: Second, folds: Int[np.ndarray, " rows"], find: Callable[[Values, Second], Axis]
) -> Float[np.ndarray, " rows"]:
    """Where each row lies on what was found without its fold."""
    places = np.empty(len(values))
    for fold in range(folds.max() + 1):
        train = folds != fold
        places[~train] = find(values[train], second[train]).place(values[~train])
    return places


def _accuracy(right: Bool[np.ndarray, " rows"], second: Second, counts: np.ndarray) -> np.ndarray:
    """Accuracy in which both classes weigh the same, of each row of counts."""
    weights = np.stack([counts * ~second, counts * second])  # (classes, draws, rows)
    with np.errstate(invalid="ignore"):  # a draw may be without a class
        return (weights @ right / weights.sum(-1)).mean(0)


def _numbers(
    values: Values,
    second: Second,
    who: np.ndarray,
    folds: Int[np.ndarray, " rows"],
    places: Float[np.ndarray, " rows"],
    method: Method,
    counts: tuple[int, int, int],
) -> pd.DataFrame:
    """What `Direction.table` gives."""
    draws, n_boot, seed = counts
    once, right = np.ones((1, len(second))), (places > 0.5) == second
    low, high = interval(_accuracy(right, second, resampled(who, n_boot, seed=seed)), groups=len(set(who)))
    rows = [{"what": "direction", "accuracy": float(_accuracy(right, second, once)[0]), "low": low, "high": high}]
    draw = np.random.default_rng(seed)

    def random(train: Values, one: Second) -> Axis:
        return Axis.along(draw.standard_normal((train.shape[1],)), train, one)

    def shuffled() -> Iterator[np.ndarray]:
        for labels in _shuffles(second, who, draws, draw):
            if all(len(set(labels[folds != fold])) == 2 for fold in range(folds.max() + 1)):
                found = _held_out(values, labels, folds, lambda train, one: _fit(train, one, method))
                yield _accuracy((found > 0.5) == labels, labels, once)

    floors = {"shuffled labels": list(shuffled())}
    floors["random directions"] = [
        _accuracy((_held_out(values, second, folds, random) > 0.5) == second, second, once) for _ in range(draws)
    ]
    for name, found in floors.items():
        reached = np.concatenate(found) if found else np.full(1, np.nan)
        ends = np.quantile(reached, [0.025, 0.975])
        rows.append({"what": name, "accuracy": float(reached.mean()), "low": float(ends[0]), "high": float(ends[1])})
    return pd.DataFrame(rows)


def _shuffles(second: Second, who: np.ndarray, draws: int, draw: np.random.Generator) -> Iterator[Second]:
    """Exchange labels among groups where each has one label, else among the rows of a group."""
    labels = second.astype(int)
    alone = len(set(zip(who, labels.tolist(), strict=True))) == len(set(who))
    found = among_groups(labels, who, draws, draw) if alone else among_rows(labels, draws, draw, within=who)
    return (one.astype(bool) for one in found)
