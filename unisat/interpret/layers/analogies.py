"""Analogies between classes of a label: whether the step from P to B leads from T to D."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.features.labels import FrameLabels, labelled, row_column
from unisat.interpret.result import Result, plots
from unisat.interpret.statistics.intervals import interval, resampled
from unisat.interpret.statistics.shuffles import among_rows

Means = Float[np.ndarray, "classes dim"]
Questions = Int[np.ndarray, "questions 4"]
"""Numbers of a, b, c and d in each question a : b :: c : d."""
Offsets = Float[np.ndarray, "questions dim"]
Ranks = Float[np.ndarray, " questions"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Analogies(Result):
    """Analogies between the class means of a label; `unisat.analogies` gives it.

    Attributes
    ----------
    numbers : DataFrame
        What `table` gives.
    questions : DataFrame
        ``site``, ``a``, ``b``, ``c``, ``d``, the ``rank`` of d among the answers (1 is right), and the class that was
        ``found``.
    """

    numbers: pd.DataFrame
    questions: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """Give for each site four rows: ``site``, ``what``, ``accuracy``, ``low``, ``high``, ``rank`` and ``chance``.

        The accuracy is the share of questions with the right answer, ``rank`` the mean rank of d, and ``chance`` what
        guessing gives. The ranges of ``analogy`` and ``no offset`` (the class nearest to c) are 95 % intervals over
        groups. ``shuffled labels`` (exchanged within groups) and ``random offsets`` (of the length of b - a) have their
        mean and the 95 % range of the draws. What ``no offset`` reaches is due to c alone.
        """
        return self.numbers.copy()

    def plot(self, **options: Any) -> Any:
        """Draw the accuracy over layers, with its floors."""
        return plots().analogies(self.table(), **options)


def analogies(
    bank: FeatureBank,
    label: str | FrameLabels,
    pairs: Sequence[tuple[str, str]],
    *,
    sites: str | Sequence[str] | None = None,
    groups: str = "speaker",
    draws: int = 100,
    n_boot: int = 1000,
    seed: int = 0,
) -> Analogies:
    """Ask whether the step between two classes is the same in all pairs: a : b :: c : ?, for any two of the pairs.

    The answer is the class whose mean has the largest cosine with b - a + c, where all means have the mean of the
    classes taken off and unit length (3CosAdd of Levy & Goldberg 2014, CoNLL; Mikolov et al. 2013, arXiv:1301.3781).
    a, b and c are no answers. Each two pairs are asked both ways, as a : b :: c : ? and b : a :: d : ?.

    Parameters
    ----------
    bank : FeatureBank
        Of utterances, segments or frames. Of ``reduce="mean+std"`` the means are taken.
    label : str, dict or sequence
        A column, or a label for each row of the sites, as `unisat.subspaces` takes them. All its classes are answers:
        leave out rare ones, whose means say little.
    pairs : list of (str, str)
        Two or more pairs of classes that differ in the same way, such as ``[("P", "B"), ("T", "D"), ("K", "G")]``.
    sites : str or sequence of str, optional
        ``hidden.*`` if None.
    groups : str
        The column that is drawn for the intervals, and within which labels are shuffled.
    draws : int
        Shuffles of the labels, and random offsets.
    n_boot : int
        Draws of groups for the intervals.
    seed : int
        The seed of shuffles, offsets and draws, the same for all sites.

    Raises
    ------
    ValueError
        If there are fewer than two pairs, a class is in none of the rows or in several pairs, or no class is left to
        answer.

    Notes
    -----
    Since a, b and c are no answers, the right one may be found because it is nearest to c (Linzen 2016,
    arXiv:1606.07736): compare with ``no offset``.

    Examples
    --------
    >>> phones = us.collect(model, corpus, "hidden.*", segments=us.Segments.people().tier("phone"))
    >>> us.analogies(phones, "label", [("P", "B"), ("T", "D"), ("K", "G"), ("S", "Z")]).table()
    """
    names = [sites] if isinstance(sites, str) else list(bank.hidden if sites is None else sites)
    if not names:
        raise ValueError(f"there are no layers; name sites, the bank has {', '.join(bank.sites)}.")
    for name, number in (("draws", draws), ("n_boot", n_boot)):
        if number < 1:
            raise ValueError(f"{name}={number} must be at least 1.")
    numbers: list[dict[str, Any]] = []
    asked: list[pd.DataFrame] = []
    for site in names:
        title, values, codes, classes, rows = labelled(bank, site, label)
        who = row_column(bank, site, groups).astype(str)[rows]
        questions = _questions(pairs, classes, title)
        found, ranks = _answers(_means(*_sums(values, codes, who, len(classes))), questions)
        numbers += [{"site": site, **row} for row in _numbers(values, codes, who, questions, (draws, n_boot, seed))]
        said = pd.DataFrame(np.array(classes, dtype=object)[questions], columns=list("abcd"))
        asked.append(said.assign(site=site, rank=ranks.astype(int), found=[classes[one] for one in found]))
    settings = {"model": bank.settings.get("model"), "label": title, "pairs": [list(pair) for pair in pairs]}
    settings |= {"classes": len(classes), "rows": len(rows), "groups": groups, "n_groups": len(set(who))}
    settings |= {"draws": draws, "n_boot": n_boot, "seed": seed}
    return Analogies(
        numbers=pd.DataFrame(numbers).assign(chance=1 / (len(classes) - 3)),
        questions=pd.concat(asked, ignore_index=True)[["site", *"abcd", "rank", "found"]],
        settings=settings,
    )


def _questions(pairs: Sequence[tuple[str, str]], classes: list[str], title: str) -> Questions:
    flat = [name for pair in pairs for name in pair]
    if len(pairs) < 2 or any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
        raise ValueError(f"pairs={pairs!r} must be two or more pairs of classes, such as [('P', 'B'), ('T', 'D')].")
    if lost := [name for name in flat if name not in classes]:
        raise ValueError(f"no row's {title} is {lost[0]!r}; there are {', '.join(map(repr, classes[:8]))}.")
    if twice := [name for name in flat if flat.count(name) > 1]:
        raise ValueError(f"{twice[0]!r} is in several pairs; a question needs four classes, each in one pair.")
    if len(classes) < 5:
        raise ValueError(f"{title} has {len(classes)} classes; three are given, and one of two or more must be found.")
    forth = [(*one, *other) for one, other in permutations(pairs, 2)]
    both = forth + [(b, a, d, c) for a, b, c, d in forth]
    return np.array([[classes.index(name) for name in one] for one in both])


def _sums(
    values: Float[np.ndarray, "rows dim"], codes: Int[np.ndarray, " rows"], who: np.ndarray, classes: int
) -> tuple[Float[np.ndarray, "groups classes dim"], Int[np.ndarray, "groups classes"]]:
    """Sum the rows of each class of each group, and count them."""
    groups, group = np.unique(who, return_inverse=True)
    shape = (len(groups), classes)
    cells = pd.DataFrame(values).groupby(np.ravel_multi_index((group, codes), shape))
    every = range(shape[0] * shape[1])
    sums = cells.sum().reindex(every, fill_value=0.0).to_numpy()
    return sums.reshape(*shape, -1), cells.size().reindex(every, fill_value=0).to_numpy().reshape(shape)


def _means(
    sums: Float[np.ndarray, "groups classes dim"],
    counts: Int[np.ndarray, "groups classes"],
    weights: np.ndarray | None = None,
) -> Means:
    """Centre the means of classes, where a group may count any number of times, and scale them to unit length.

    A class that is in no group has NaN.
    """
    weights = np.ones(len(sums)) if weights is None else weights
    with np.errstate(invalid="ignore"):
        means = np.tensordot(weights, sums, 1) / (weights @ counts)[:, None]
    means -= np.nanmean(means, axis=0)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def _answers(
    means: Means, questions: Questions, offsets: Offsets | None = None
) -> tuple[Int[np.ndarray, " questions"], Ranks]:
    """The class that is found for each question, and the rank of the right one; NaN where one of the four is missing.

    ``offsets`` are taken in place of b - a.
    """
    a, b, c, d = questions.T
    scores = (means[c] + (means[b] - means[a] if offsets is None else offsets)) @ means.T
    every = np.arange(len(questions))
    for given in (a, b, c):
        scores[every, given] = -np.inf
    right = scores[every, d]
    ranks = np.where(np.isnan(right), np.nan, 1.0 + (scores > right[:, None]).sum(1))
    return np.where(np.isnan(scores), -np.inf, scores).argmax(1), ranks


def _numbers(
    values: Float[np.ndarray, "rows dim"],
    codes: Int[np.ndarray, " rows"],
    who: np.ndarray,
    questions: Questions,
    counted: tuple[int, int, int],
) -> Iterator[dict[str, Any]]:
    """What `Analogies.table` gives of one site."""
    draws, n_boot, seed = counted
    classes, draw = int(codes.max()) + 1, np.random.default_rng(seed)
    sums, counts = _sums(values, codes, who, classes)
    whole = _means(sums, counts)
    weights = resampled(np.unique(who), n_boot, seed=seed)
    drawn = [_means(sums, counts, one) for one in weights]
    for what, offsets in {"analogy": None, "no offset": np.zeros((len(questions), values.shape[1]))}.items():
        reached = np.array([_accuracy(_answers(means, questions, offsets)[1]) for means in drawn])
        low, high = interval(reached, groups=len(sums))
        ranks = _answers(whole, questions, offsets)[1]
        yield {"what": what, "accuracy": _accuracy(ranks), "low": low, "high": high, "rank": float(ranks.mean())}
    nobody = np.zeros(len(codes))
    shuffled = [
        _answers(_means(*_sums(values, labels, nobody, classes)), questions)[1]
        for labels in among_rows(codes, draws, draw, within=who)
    ]
    lengths = np.linalg.norm(whole[questions[:, 1]] - whole[questions[:, 0]], axis=1, keepdims=True)
    random = []
    for _ in range(draws):
        steps = draw.standard_normal((len(questions), values.shape[1]))
        steps *= lengths / np.linalg.norm(steps, axis=1, keepdims=True)
        random.append(_answers(whole, questions, steps)[1])
    for what, found in {"shuffled labels": shuffled, "random offsets": random}.items():
        reached = np.array([_accuracy(ranks) for ranks in found])
        low, high = np.quantile(reached, [0.025, 0.975]).tolist()
        rank = float(np.mean(found))
        yield {"what": what, "accuracy": float(reached.mean()), "low": low, "high": high, "rank": rank}


def _accuracy(ranks: Ranks) -> float:
    """Share of the questions that could be asked with the right answer."""
    known = ranks[~np.isnan(ranks)]
    return float((known == 1).mean()) if len(known) else float("nan")
