"""Metrics of what probes say about units that they have not seen, with bootstrap draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from unisat.interpret.probing import classifiers
from unisat.interpret.statistics.error_rates import crossing, eer, min_dcf
from unisat.interpret.statistics.scaling import Scale, scaling

METRICS = ("bal_acc", "eer", "min_dcf", "bits", "mdl")
LOWER_IS_BETTER = ("eer", "min_dcf", "mdl")
P_TARGET = 0.05
"""Share of target trials that ``min_dcf`` assumes."""


@dataclass(frozen=True, eq=False)
class Task:
    """Labels and folds of what is asked, or of a control, by seed.

    Attributes
    ----------
    labels : (seeds, units)
        Numbers of classes, or a quantity.
    classes : int
        Number of classes; 0 for a quantity.
    groups : (units,)
        The group of each unit.
    folds : (seeds, units)
        The fold of each unit.
    utterances : (units,)
        The utterance of each unit, which is an utterance or a frame of one.
    one_speaker_each : bool
        Whether classes are speakers, so that a speaker drawn twice is a class drawn twice.
    """

    labels: np.ndarray
    classes: int
    groups: Int[np.ndarray, " units"]
    folds: Int[np.ndarray, "seeds units"]
    utterances: Int[np.ndarray, " units"]
    one_speaker_each: bool = False


@dataclass(frozen=True, eq=False)
class Plan:
    """What is measured of every task, how, and with which draws.

    Attributes
    ----------
    scale : {"standard", "centre"}
        What happens to each channel before a probe is fitted.
    weights : (1 + n_boot, utterances)
        How often each utterance counts, at first once and then in each draw.
    """

    probe: str
    metrics: Sequence[str]
    scale: Scale
    seed: int
    weights: Float[np.ndarray, "draws utterances"]

    def sums(self, values: np.ndarray, task: Task) -> Float[np.ndarray, "seeds draws"]:
        """Sum (seeds, units) over the utterances of each draw."""
        total = self.weights.shape[1]
        return np.stack([np.bincount(task.utterances, row, total) for row in values]) @ self.weights.T


def measure(
    features: Float[np.ndarray, "units dim"], task: Task, plan: Plan, *, shuffle: bool = False
) -> dict[str, Float[np.ndarray, "seeds draws"]]:
    """Give each metric by seed: its value, then its value in each draw. ``shuffle`` shuffles the training labels."""
    if not task.classes:
        said = held_out(features, task, "ridge", plan, shuffle=shuffle)
        errors, without = (plan.sums((said[..., which] - task.labels) ** 2, task) for which in (0, 1))
        return {"r2": 1 - errors / without}
    out: dict[str, np.ndarray] = {}
    by_class = bool({"bal_acc", "eer", "min_dcf"} & set(plan.metrics))
    if "bits" in plan.metrics or (by_class and plan.probe == "logistic"):
        log_p, priors = _even_folds(held_out(features, task, "logistic", plan, shuffle=shuffle), task)
        if "bits" in plan.metrics:
            out |= _information(log_p, priors, task, plan)
    if by_class:
        if plan.probe == "logistic":
            scores = log_p - priors
        else:
            scores = held_out(features, task, plan.probe, plan, shuffle=shuffle)
        out["bal_acc"] = _balanced_accuracy(scores, task, plan.weights)
        if {"eer", "min_dcf"} & set(plan.metrics):
            if plan.probe != "ridge":
                scores = np.stack([classifiers.log_odds(each) for each in scores])
            out |= _detection(scores, task, plan.weights)
    if "mdl" in plan.metrics:
        out |= _online_code(features, task, plan, shuffle)
    more = {"bits": ("bits", "bits_share"), "mdl": ("mdl", "compression")}
    return {name: out[name] for metric in plan.metrics for name in more.get(metric, (metric,))}


def held_out(
    features: Float[np.ndarray, "units dim"], task: Task, probe: str, plan: Plan, *, shuffle: bool = False
) -> Float[np.ndarray, "seeds units classes"]:
    """Score each unit by the probe that has not seen its group.

    The scores of logistic regression and LDA are log probabilities, with the priors of the training part and with equal
    priors. For a quantity they are the prediction and the mean of the training part.
    """
    out = np.empty((*task.labels.shape, task.classes or 2))
    for row, (labels, folds) in enumerate(zip(task.labels, task.folds, strict=True)):
        for number in range(folds.max() + 1):
            held = folds == number
            known, groups = labels[~held], task.groups[~held]
            if shuffle:
                known = np.random.default_rng([plan.seed, row, number, 2]).permutation(known)
            scale = scaling(features[~held], plan.scale)
            train, test = scale(features[~held]), scale(features[held])
            if not task.classes:
                out[row, held, :1] = classifiers.ridge(train, known[:, None], np.ones(len(known)), test)[0]
                out[row, held, 1] = known.mean()
            elif probe == "logistic":
                blocks = classifiers.selection_blocks(known, groups)
                out[row, held] = classifiers.logistic_log_probabilities(train, known, blocks, test, task.classes)
            else:
                fit = classifiers.ridge_scores if probe == "ridge" else classifiers.lda_log_probabilities
                out[row, held] = fit(train, known, test, task.classes)
    return out


def _even_folds(log_p: np.ndarray, task: Task) -> tuple[np.ndarray, Float[np.ndarray, "seeds 1 classes"]]:
    """Correct log probabilities to the frequency that each class has in all units; give both, as logarithms.

    Where a group is held out its class is rarer in training. That would make a probe without information do worse than
    the label's frequency.
    """
    out = log_p.copy()
    counts = np.stack([np.bincount(labels, minlength=task.classes) for labels in task.labels])
    for row, (labels, folds) in enumerate(zip(task.labels, task.folds, strict=True)):
        for number in range(folds.max() + 1):
            there = np.bincount(labels[folds != number], minlength=task.classes)
            out[row, folds == number] += np.log(counts[row] / there)
    out -= np.logaddexp.reduce(out, axis=-1, keepdims=True)
    return out, np.log(counts / counts.sum(1, keepdims=True))[:, None]


def _balanced_accuracy(scores: np.ndarray, task: Task, weights: np.ndarray) -> Float[np.ndarray, "seeds draws"]:
    classes, total = task.classes, weights.shape[1]
    out = []
    for said, labels in zip(scores.argmax(-1), task.labels, strict=True):
        places = task.utterances * classes + labels
        there = np.bincount(places, minlength=total * classes).reshape(total, classes)
        right = np.bincount(places, said == labels, total * classes).reshape(total, classes)
        drawn, hits = weights @ there, weights @ right
        counts = drawn / there.sum(0) if task.one_speaker_each else (drawn > 0).astype(float)
        recall = np.divide(hits, drawn, out=np.zeros_like(hits), where=drawn > 0)
        out.append((counts * recall).sum(1) / counts.sum(1))
    return np.stack(out)


def _information(log_p: np.ndarray, priors: np.ndarray, task: Task, plan: Plan) -> dict[str, np.ndarray]:
    """Usable information: how many bits less a label takes given the features than given its frequency alone."""
    own = task.labels[..., None]
    given, before = (np.take_along_axis(each, own, -1)[..., 0] / np.log(2) for each in (log_p, priors))
    gained = plan.sums(given - before, task)
    return {"bits": gained / plan.sums(np.ones(before.shape), task), "bits_share": gained / plan.sums(-before, task)}


def _online_code(features: np.ndarray, task: Task, plan: Plan, shuffle: bool) -> dict[str, np.ndarray]:
    scaled = scaling(features, plan.scale)(features)
    rotated = classifiers.rotate(scaled - scaled.mean(0), scaled[:0]).train
    lengths = np.empty(task.labels.shape)
    for row, labels in enumerate(task.labels):
        sent = np.random.default_rng([plan.seed, row, 2]).permutation(labels) if shuffle else labels
        lengths[row] = classifiers.codelengths(rotated, sent, task.groups, task.classes, seed=(plan.seed, row))
    each = plan.sums(lengths, task) / plan.sums(np.ones(lengths.shape), task)
    return {"mdl": each * len(task.utterances), "compression": np.log2(task.classes) / each}


def _detection(scores: np.ndarray, task: Task, weights: np.ndarray) -> dict[str, Float[np.ndarray, "seeds draws"]]:
    """Error rates of all pairs of a unit and a class: exact values, and draws on a grid of some 400 thresholds."""
    total = weights.shape[1]
    rates: list[np.ndarray] = []
    costs: list[np.ndarray] = []
    shares = np.concatenate([np.linspace(0, 1, 150), 1 - np.geomspace(1e-4, 0.1, 50)])
    for said, labels in zip(scores, task.labels, strict=True):
        same = np.eye(task.classes, dtype=bool)[labels]
        grid = np.unique(np.concatenate([np.quantile(said[kind], shares) for kind in (same, ~same)]))
        cells = len(grid) + 1
        places = np.searchsorted(grid, said, side="right") + cells * task.utterances[:, None]
        # the number of trials of each utterance below each threshold; the last cell counts all of them
        below = [np.bincount(places[kind], minlength=total * cells).reshape(total, cells) for kind in (same, ~same)]
        rejected, refused = (weights @ counts.cumsum(1) for counts in below)
        start = np.zeros((len(weights), 1))
        miss = np.hstack([start, rejected / rejected[:, -1:]])
        alarm = np.hstack([start + 1, 1 - refused / refused[:, -1:]])
        rate, cost = crossing(1 - miss.T[::-1], alarm.T[::-1]), _least_cost(miss, alarm)
        rate[0], cost[0] = eer(said.ravel(), same.ravel()), min_dcf(said.ravel(), same.ravel(), P_TARGET)
        if np.isnan(cost[0]):  # too few trials
            cost[:] = np.nan
        rates.append(rate)
        costs.append(cost)
    return {"eer": np.stack(rates), "min_dcf": np.stack(costs)}


def _least_cost(miss: np.ndarray, alarm: np.ndarray) -> np.ndarray:
    return (P_TARGET * miss + (1 - P_TARGET) * alarm).min(-1) / min(P_TARGET, 1 - P_TARGET)
