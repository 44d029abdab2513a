"""How sure a number is: a bootstrap over speakers, and a jackknife over blocks of speakers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special


def resampled(
    groups: Sequence[str] | np.ndarray, n_boot: int = 1000, *, seed: int = 0
) -> Int[np.ndarray, "n_boot utterances"]:
    """Draw speakers with all their utterances, ``n_boot`` times, and count how often each utterance comes.

    Utterances of one speaker are alike, so an interval from drawing utterances is too narrow (Wu et al., NIST,
    PMC5484007). To draw a speaker's utterances anew as well would count what differs between them twice. Use the rows
    of one call for all layers, so that differences between layers are paired.

    Parameters
    ----------
    groups : (utterances,)
        The speaker (or session) of each utterance.

    Returns
    -------
    (n_boot, utterances)
        Counts. Each row has as many speakers as there are, and a speaker drawn twice contributes twice.

    Raises
    ------
    ValueError
        If there are fewer than two speakers, or ``n_boot`` is less than 1.
    """
    names, codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"an interval over groups needs at least two of them, got {len(names)}; give the speakers.")
    if n_boot < 1:
        raise ValueError(f"n_boot={n_boot} must be at least 1.")
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_boot)
    return drawn[:, codes]


def few_groups(groups: int | None, level: float = 0.95) -> float:
    """Give by how much a bootstrap over so few groups falls short of Student's interval, in the normal case.

    A resample of n groups varies less than a sample by (n - 1) / n, and the spread of n groups is itself uncertain
    (Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69, 2015, section 5.3).
    Where their number is not known it is taken to be large.
    """
    if groups is None or groups < 2:
        return 1.0
    tail = (1 + level) / 2
    return float(special.stdtrit(groups - 1, tail) / special.ndtri(tail) * np.sqrt(groups / (groups - 1)))


def interval(
    draws: Float[np.ndarray, " n_boot"], level: float = 0.95, *, groups: int | None = None
) -> tuple[float, float]:
    """Percentile interval of bootstrap draws; draws that are not finite are left out.

    With the number of ``groups`` that were drawn, it takes percentiles farther out, as `few_groups` says (Hesterberg's
    expanded percentile interval).
    """
    finite = np.asarray(draws)[np.isfinite(draws)]
    if not len(finite):
        return float("nan"), float("nan")
    tail = special.ndtr(special.ndtri((1 - level) / 2) * few_groups(groups, level))
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)


def as_good_as_best(
    values: Float[np.ndarray, " candidates"],
    draws: Float[np.ndarray, "candidates n_boot"],
    level: float = 0.95,
    *,
    groups: int | None = None,
) -> Bool[np.ndarray, " candidates"]:
    """Find the candidates that cannot be told from the best, from paired draws; higher is better.

    The truly best one is among them with probability ``level``, although the best of many is in part the luckiest. A
    candidate is left out where another surpasses it by more than the ``level`` quantile of the largest of all
    standardised differences from it (a max-statistic for each candidate; Hsu 1984, Annals of Statistics 12,
    constrained multiple comparisons with the best). With the number of ``groups`` that were drawn, that quantile is
    widened by `few_groups`.
    """
    noise = draws[:, np.isfinite(draws).all(0)]
    noise = noise - noise.mean(1, keepdims=True)
    gaps = noise[:, None] - noise[None]  # (others, candidates, n_boot)
    error = np.sqrt((gaps**2).mean(-1)) + 1e-9 * max(1.0, np.abs(values).max())  # equal candidates have none
    largest = np.quantile((gaps / error[..., None]).max(0), level, axis=-1)
    wide = few_groups(groups, level)
    surpassed = (values[:, None] - values[None]) / error
    return surpassed.max(0) <= wide * largest + 1e-6


def lower_bounds(
    values: Float[np.ndarray, " candidates"],
    draws: Float[np.ndarray, "candidates n_boot"],
    level: float = 0.95,
    *,
    groups: int | None = None,
) -> Float[np.ndarray, " candidates"]:
    """Give bounds that all candidates exceed at once with probability ``level``, from the largest standardised draw.

    ``groups`` as in `as_good_as_best`.
    """
    noise = draws[:, np.isfinite(draws).all(0)]
    noise = noise - noise.mean(1, keepdims=True)
    error = noise.std(1)
    largest = (noise / np.where(error > 0, error, 1.0)[:, None]).max(0)
    wide = few_groups(groups, level)
    return values - wide * np.quantile(largest, level) * error


def partition(groups: Sequence[Any] | np.ndarray, count: int, seed: int = 0) -> Int[np.ndarray, " rows"]:
    """Deal groups (speakers) in a random order into at most ``count`` blocks, and give the block of each row."""
    names, codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(names)) % min(count, len(names)))[codes]


def leave_out(
    measure: Callable[[np.ndarray], np.ndarray], rows: int, blocks: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Measure on all rows, and again without each block; None for the second where there are no blocks."""
    everything = measure(np.arange(rows))
    if blocks is None:
        return everything, None
    return everything, np.stack([measure(np.flatnonzero(blocks != block)) for block in range(blocks.max() + 1)])


def jackknife(left_out: Float[np.ndarray, "blocks ..."], level: float = 0.95) -> np.ndarray:
    """Half the width of a number's interval, from its values without each block in turn.

    The standard error is that of Tukey's jackknife, and Student's t has one degree of freedom less than there are
    blocks (speakers). A jackknife serves where a bootstrap does not: a row that is drawn twice is alike to itself, and
    hides what was seen once.
    """
    degrees = len(left_out) - 1
    return np.asarray(special.stdtrit(degrees, (1 + level) / 2) * np.sqrt(degrees * left_out.var(0)))
