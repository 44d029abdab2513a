"""Error rates of scored trials, costs of decisions, and their intervals over speakers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from unisat.interpret.statistics.intervals import interval

LEAST_ERRORS = 30
"""Doddington's rule of 30: with 30 errors a rate lies within 30 % of the truth, at 90 % confidence."""

BLOCK = 4_000_000  # weights of trials in memory at once, in a bootstrap


def _check(scores: np.ndarray, same: np.ndarray, weights: np.ndarray) -> None:
    if scores.ndim != 1 or scores.shape != same.shape or scores.shape != weights.shape:
        raise ValueError(
            f"scores, same and weights must be one number a trial, got {scores.shape}, {same.shape}, {weights.shape}."
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} of {len(scores)} scores are not finite.")
    if not weights[same].sum() > 0 or not weights[~same].sum() > 0:
        raise ValueError("an error rate needs trials of one speaker and trials of two.")


def _rates(scores: np.ndarray, same: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give thresholds from strict (none is accepted) to lax, and the shares of targets and impostors accepted there."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # the last of equal scores
    hits, alarms = (np.cumsum((weights * kind)[order]) for kind in (same, ~same))
    accepted, false_alarm = (np.append(0, total[ends]) / total[-1] for total in (hits, alarms))
    return np.append(np.inf, scores[order][ends]), accepted, false_alarm


def _eer_rounds(
    scores: np.ndarray,
    same: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    count: Float[np.ndarray, "speakers rounds"],
) -> np.ndarray:
    """Compute the `eer` of each round of a bootstrap that has trials of both kinds.

    The weight of a trial depends only on the pair of its speakers. So the sorted trials are cut into blocks, and a
    table counts each pair in each block. One product of matrices then gives the rates of all rounds at the ends of the
    blocks, and only the block in which a round's rates cross is computed trial by trial.
    """
    order = np.argsort(-scores, kind="stable")
    scores, same, first, second = scores[order], same[order], first[order], second[order]
    last = np.append(np.diff(scores) != 0, True)
    threshold = np.cumsum(last) - last  # the number of each trial's own threshold
    keys, pair = np.unique((first * len(count) + second) * 2 + same, return_inverse=True)
    weights = count[keys // 2 // len(count)] * count[keys // 2 % len(count)]  # (pairs, rounds)
    target = keys % 2 == 1
    blocks = min(int(np.sqrt(100 * len(scores) / len(keys))), threshold[-1] + 1)
    block = threshold * blocks // (threshold[-1] + 1)
    table = np.bincount(block * len(keys) + pair, minlength=blocks * len(keys)).reshape(blocks, -1).astype(float)
    starts = np.searchsorted(block, np.arange(blocks + 1))
    hits, alarms = (table[:, kind] @ weights[kind] for kind in (target, ~target))  # (blocks, rounds)
    both = (hits.sum(0) > 0) & (alarms.sum(0) > 0)
    hits, alarms = (np.cumsum(np.pad(kind[:, both], ((1, 0), (0, 0))), axis=0) for kind in (hits, alarms))
    weights = weights[:, both]
    crossed = np.argmax((1 - hits[1:] / hits[-1]) - alarms[1:] / alarms[-1] <= 0, axis=0)
    rates = np.zeros(len(crossed))
    for number in np.unique(crossed):
        rounds, here = np.flatnonzero(crossed == number), slice(starts[number], starts[number + 1])
        counted = weights[pair[here]][:, rounds]
        shares = []
        for total, kind in ((hits, same[here]), (alarms, ~same[here])):
            inside = total[number, rounds] + np.cumsum(counted * kind[:, None], axis=0)[last[here]]
            shares.append(np.concatenate([total[number, rounds][None], inside]) / total[-1, rounds])
        rates[rounds] = crossing(*shares)
    return rates


def crossing(accepted: np.ndarray, false_alarm: np.ndarray) -> Any:
    """Give the rate at which misses equal false alarms, on a straight line between two thresholds.

    Parameters
    ----------
    accepted, false_alarm : (thresholds, ...)
        Shares of targets and of impostors that are accepted, from strict (none) to lax (all).
    """
    gap = (1 - accepted) - false_alarm  # from 1 down to -1
    after = np.argmax(gap <= 0, axis=0, keepdims=True)
    high, low = (np.take_along_axis(gap, place, 0) for place in (after - 1, after))
    first, last = (np.take_along_axis(false_alarm, place, 0) for place in (after - 1, after))
    return (first + high / (high - low) * (last - first))[0]


def eer(scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Equal error rate: that at which the share of impostors accepted equals the share of true speakers rejected.

    Between two thresholds the curve is a straight line, as in scikit-learn's ROC and in s3prl.

    Parameters
    ----------
    scores : (trials,)
        Higher for more alike.
    same : (trials,)
        True where both recordings are of one speaker.
    weights : (trials,), optional
        How often each trial counts.

    Raises
    ------
    ValueError
        If there are no trials of one of the two kinds, or a score is not finite.
    """
    scores, same = np.asarray(scores, dtype=float), np.asarray(same, dtype=bool)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=float)
    _check(scores, same, weights)
    return float(crossing(*_rates(scores, same, weights)[1:]))


def det(scores: np.ndarray, same: np.ndarray) -> pd.DataFrame:
    """Give the detection error trade-off: one row for each threshold, from the strictest to the most lax.

    Returns
    -------
    DataFrame
        ``threshold`` (trials with this score or a higher one are accepted; the first accepts none), ``false_alarm``
        (share of impostor trials accepted) and ``miss`` (share of target trials rejected). Martin et al., "The DET
        curve in assessment of detection task performance", Eurospeech 1997.
    """
    scores, same = np.asarray(scores, dtype=float), np.asarray(same, dtype=bool)
    _check(scores, same, np.ones(len(scores)))
    thresholds, accepted, false_alarm = _rates(scores, same, np.ones(len(scores)))
    return pd.DataFrame({"threshold": thresholds, "false_alarm": false_alarm, "miss": 1 - accepted})


def min_dcf(
    scores: np.ndarray,
    same: np.ndarray,
    p_target: float = 0.01,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    *,
    rule_of_30: bool = True,
) -> float:
    """Least detection cost over all thresholds, as a share of that of the better of "always yes" and "always no".

    ``min(c_miss p P_miss + c_fa (1 - p) P_fa) / min(c_miss p, c_fa (1 - p))`` (NIST SRE 2016 plan, equations 1-3).

    Parameters
    ----------
    scores, same
        As in `eer`.
    p_target : float
        The probability of a target trial where the system will be used.
    c_miss, c_fa : float
        The costs of a miss and of a false alarm.
    rule_of_30 : bool
        Give NaN where the trials are too few (see `trials_needed`).

    Raises
    ------
    ValueError
        As `eer`, or if ``p_target`` does not lie between 0 and 1, or a cost is not positive.
    """
    impostors, targets = trials_needed(p_target, c_miss, c_fa)
    points, same = det(scores, same), np.asarray(same, dtype=bool)
    if rule_of_30 and ((~same).sum() < impostors or same.sum() < targets):
        return float("nan")
    cost = c_miss * p_target * points["miss"] + c_fa * (1 - p_target) * points["false_alarm"]
    return float(cost.min() / min(c_miss * p_target, c_fa * (1 - p_target)))


def trials_needed(p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0) -> tuple[int, int]:
    """Give how many impostor and how many target trials a `min_dcf` needs.

    A system is of use only where its false alarms alone cost less than accepting nobody, that is up to a rate of
    ``c_miss p / (c_fa (1 - p))``, 1 in 99 at ``p = 0.01``. At that rate at least 30 false alarms must be expected
    (Doddington's rule of 30), or a single impostor moves the cost by more than a thirtieth: at ``p = 0.01`` it takes
    2970 impostor trials. The same holds for misses. The rule looks at the number of trials, not at the scores, so that
    it does not hide a good system that makes few errors; `TrialScores.summary` says how many it made.
    """
    if not 0 < p_target < 1 or not c_miss > 0 or not c_fa > 0:
        raise ValueError(
            f"p_target must lie between 0 and 1 and costs must be positive, got {p_target}, {c_miss} and {c_fa}."
        )
    miss, alarm = c_miss * p_target, c_fa * (1 - p_target)
    # 30 * 0.99 / 0.01 is 2970.0000000000005
    impostors, targets = (int(np.ceil(LEAST_ERRORS * cost / min(miss, alarm) - 1e-6)) for cost in (alarm, miss))
    return impostors, targets


def eer_draws(
    scores: np.ndarray,
    same: np.ndarray,
    speakers: tuple[Sequence[str] | np.ndarray, Sequence[str] | np.ndarray],
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, " n_boot"]:
    """Give the `eer` in each round of a bootstrap over speakers.

    Trials share speakers, so they are not independent and cannot be drawn themselves. Each round draws speakers with
    replacement. A trial of one speaker counts as often as that speaker was drawn, a trial of two speakers as often as
    the product of both counts. Rounds without trials of both kinds are drawn anew. The same seed gives the same rounds
    for other scores of the same trials, so that differences between systems are paired.

    Parameters
    ----------
    speakers : two sequences of (trials,)
        Who speaks in the first and in the second recording of each trial.
    n_boot, seed : int
        How many rounds are drawn, and the seed they are drawn from.
    """
    first, second, people = speaker_codes(speakers)
    return coded_eer_draws(scores, same, first, second, people, n_boot=n_boot, seed=seed)


def speaker_codes(
    speakers: tuple[Sequence[str] | np.ndarray, Sequence[str] | np.ndarray],
) -> tuple[np.ndarray, np.ndarray, int]:
    """Give the speakers of both sides of each trial as numbers, and how many there are, for `coded_eer_draws`."""
    names, codes = np.unique(np.concatenate([np.asarray(side, dtype=str) for side in speakers]), return_inverse=True)
    return codes[: len(speakers[0])], codes[len(speakers[0]) :], len(names)


def coded_eer_draws(
    scores: np.ndarray,
    same: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    people: int,
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, " n_boot"]:
    """Give what `eer_draws` gives, for speakers that `speaker_codes` has numbered: many scores of the same trials."""
    scores, same = np.asarray(scores, dtype=float), np.asarray(same, dtype=bool)
    _check(scores, same, np.ones(len(same)))
    second = np.where(first == second, people, second)  # an extra speaker that counts once in every round
    draw = np.random.default_rng(seed)
    size, rates = max(1, min(n_boot, BLOCK // min(len(scores), people**2))), np.zeros(0)
    while len(rates) < n_boot:
        drawn = draw.integers(people, size=(size, people))
        count = np.stack([np.bincount(row, minlength=people) for row in drawn], axis=1)  # (speakers, rounds)
        count = np.concatenate([count, np.ones_like(count[:1])]).astype(float)
        rates = np.append(rates, _eer_rounds(scores, same, first, second, count))
    return rates[:n_boot]


def eer_interval(
    scores: np.ndarray,
    same: np.ndarray,
    speakers: tuple[Sequence[str] | np.ndarray, Sequence[str] | np.ndarray],
    *,
    versus: np.ndarray | None = None,
    level: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the `eer` over the speakers that might have been drawn, from the rounds of `eer_draws`.

    Parameters
    ----------
    speakers : two sequences of (trials,)
        Who speaks in the first and in the second recording of each trial.
    versus : (trials,), optional
        Scores of another system on the same trials. The interval is then that of this system's rate less the other's,
        which is far narrower than those of the two rates where the same speakers are hard for both.
    level : float
        The probability that the interval holds.
    n_boot, seed : int
        How many rounds are drawn, and the seed they are drawn from.
    """
    rates = eer_draws(scores, same, speakers, n_boot=n_boot, seed=seed)
    if versus is not None:
        rates = rates - eer_draws(versus, same, speakers, n_boot=n_boot, seed=seed)
    groups = len({*np.asarray(speakers[0], dtype=str), *np.asarray(speakers[1], dtype=str)})
    return interval(rates, level, groups=groups)
