"""Are two recordings of one voice: error rates of a list of trials, with intervals over speakers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def eer(scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Equal error rate: where as many impostors are let in as true speakers are kept out, both as shares.

    Between two thresholds the curve is a straight line (as scikit-learn's ROC and s3prl have it).

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
        If there are no trials of one of the two kinds, or scores are not finite.
    """
    scores, same = np.asarray(scores, dtype=float), np.asarray(same, dtype=bool)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=float)
    if scores.ndim != 1 or scores.shape != same.shape or scores.shape != weights.shape:
        raise ValueError(
            f"scores, same and weights must be one number a trial, got {scores.shape}, {same.shape}, {weights.shape}."
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} of {len(scores)} scores are not finite.")
    targets, impostors = weights[same].sum(), weights[~same].sum()
    if not targets > 0 or not impostors > 0:
        raise ValueError("an error rate needs trials of one speaker and trials of two.")
    order = np.argsort(-scores, kind="stable")
    last_of_score = np.append(np.diff(scores[order]) != 0, True)
    accepted = np.concatenate([[0], np.cumsum(np.where(same, weights, 0)[order])[last_of_score]]) / targets
    false_alarm = np.concatenate([[0], np.cumsum(np.where(same, 0, weights)[order])[last_of_score]]) / impostors
    gap = (1 - accepted) - false_alarm  # from 1 down to -1
    after = int(np.argmax(gap <= 0))
    before = after - 1
    share = gap[before] / (gap[before] - gap[after])
    return float(false_alarm[before] + share * (false_alarm[after] - false_alarm[before]))


def eer_interval(
    scores: np.ndarray,
    same: np.ndarray,
    speakers: tuple[Sequence[str], Sequence[str]],
    *,
    versus: np.ndarray | None = None,
    level: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the `eer` when other speakers had been drawn: a bootstrap over speakers, not over trials.

    Trials share speakers and so are not independent. Each round draws speakers with replacement; a trial of one speaker
    counts as often as that speaker was drawn, a trial of two as often as the product.

    Parameters
    ----------
    speakers : two sequences of (trials,)
        Who speaks in the first and in the second recording of each trial.
    versus : (trials,), optional
        Scores of another system on the same trials: the interval is then that of the difference, this one's rate less
        the other's, which is far narrower than the two rates' own where the same speakers are hard for both.
    """
    names, codes = np.unique(np.concatenate([np.asarray(side, dtype=str) for side in speakers]), return_inverse=True)
    first, second = codes[: len(scores)], codes[len(scores) :]
    draw = np.random.default_rng(seed)
    rates: list[float] = []
    while len(rates) < n_boot:
        count = np.bincount(draw.integers(len(names), size=len(names)), minlength=len(names)).astype(float)
        weights = np.where(first == second, count[first], count[first] * count[second])
        if weights[same].sum() > 0 and weights[~same].sum() > 0:
            rates.append(eer(scores, same, weights) - (0.0 if versus is None else eer(versus, same, weights)))
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
