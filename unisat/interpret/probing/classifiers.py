"""Linear probes: ridge and LDA in closed form, logistic regression by L-BFGS, and the folds on which they are tried.

Ridge and logistic regression work on features turned to the axes of their own covariance. There are no more axes than
utterances, and one decomposition serves a whole grid of penalties (Rifkin & Lippert 2007, MIT-CSAIL-TR-2007-025).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

LAMBDAS = 10.0 ** np.arange(-1, 5.5, 0.5)
"""Penalties that are tried on features of unit variance, the same for each probe, layer and baseline."""


class Rotated(NamedTuple):
    """Features on the axes of the training data's covariance, and the training data's squared length along each."""

    train: Float[np.ndarray, "units axes"]
    test: Float[np.ndarray, "others axes"]
    spectrum: Float[np.ndarray, " axes"]


def rotate(train: Float[np.ndarray, "units dim"], test: Float[np.ndarray, "others dim"]) -> Rotated:
    """Turn centred features to at most as many axes as units; inner products with training data do not change."""
    units, dim = train.shape
    if units > dim:
        spectrum, axes = np.linalg.eigh(train.T @ train)
        return Rotated(train @ axes, test @ axes, np.maximum(spectrum, 0.0))
    spectrum, vectors = np.linalg.eigh(train @ train.T)
    there = spectrum > spectrum[-1] * max(units, dim) * np.finfo(float).eps
    vectors, lengths = vectors[:, there], np.sqrt(spectrum[there])
    return Rotated(vectors * lengths, (test @ train.T) @ (vectors / lengths), spectrum[there])


# folds


def group_folds(
    labels: Shaped[np.ndarray, " units"], groups: Shaped[np.ndarray, " units"], folds: int, seed: int = 0
) -> Int[np.ndarray, " units"]:
    """Give each unit's fold: groups stay whole, and each class is spread as evenly as possible.

    Groups come in random order. Each goes to the fold with the least of its classes; of equal folds to the smallest.

    Raises
    ------
    ValueError
        If a class lies in one fold whatever the order: then it has one group, or shares each of its groups.
    """
    _, codes = np.unique(groups, return_inverse=True)
    _, labels = np.unique(labels, return_inverse=True)
    total, classes = int(codes.max()) + 1, int(labels.max()) + 1
    folds = min(folds, total)
    counts = np.bincount(codes * classes + labels, minlength=total * classes).reshape(total, classes)
    shares, sizes = counts / counts.sum(0), counts.sum(1)
    draw = np.random.default_rng(seed)
    for _ in range(20):
        there, load, fold = np.zeros((folds, classes)), np.zeros(folds), np.zeros(total, dtype=int)
        for group in draw.permutation(total):
            overlap = (there @ shares[group]).round(12)
            fold[group] = np.lexsort((load, overlap))[0]
            there[fold[group]] += shares[group]
            load[fold[group]] += sizes[group]
        if there.max() < 1 - 1e-9 or classes == 1:
            return fold[codes]
    raise ValueError(f"a class cannot be spread over {folds} folds of {total} groups; give it more groups.")


def selection_blocks(labels: Int[np.ndarray, " units"], groups: Int[np.ndarray, " units"]) -> Int[np.ndarray, " units"]:
    """Say what is left out together when a penalty is chosen: a group, or single units of a class with one group."""
    pairs = np.unique(np.stack([labels, groups]), axis=1)
    alone = np.bincount(pairs[0], minlength=int(labels.max()) + 1)[labels] < 2
    return np.where(alone, int(groups.max()) + 1 + np.arange(len(groups)), groups)


# ridge


def ridge(
    train: Float[np.ndarray, "units dim"],
    targets: Float[np.ndarray, "units outputs"],
    weights: Float[np.ndarray, " units"],
    test: Float[np.ndarray, "others dim"],
    lambdas: Float[np.ndarray, " grid"] = LAMBDAS,
) -> tuple[Float[np.ndarray, "others outputs"], float]:
    """Weighted least squares with an L2 penalty: give the predictions of ``test`` and the chosen penalty.

    The penalty is the one with the least squared error on units left out one by one. The error of such a unit is
    ``e_i / (1 - H_ii)``, with the hat matrix H and the errors e of the fit to all units.
    """
    share, root = weights / weights.sum(), np.sqrt(weights)[:, None]
    centre, mean = share @ train, share @ targets
    axes = rotate(root * (train - centre), test - centre)
    wanted = root * (targets - mean)
    moments = axes.train.T @ wanted
    shrink = 1 / (axes.spectrum[:, None] + lambdas)  # (axes, grid)
    leverage = axes.train**2 @ shrink + share[:, None]
    left_out = [
        (wanted - axes.train @ (moments * shrink[:, [place]])) / (1 - leverage[:, [place]])
        for place in range(len(lambdas))
    ]
    best = int(np.argmin([(errors**2).sum() for errors in left_out]))
    return axes.test @ (moments * shrink[:, [best]]) + mean, float(lambdas[best])


def ridge_scores(
    train: Float[np.ndarray, "units dim"],
    labels: Int[np.ndarray, " units"],
    test: Float[np.ndarray, "others dim"],
    classes: int,
    lambdas: Float[np.ndarray, " grid"] = LAMBDAS,
) -> Float[np.ndarray, "others classes"]:
    """Give each class's score: `ridge` to 1 for the class and -1 for the others, where all classes weigh the same."""
    weights = len(labels) / classes / np.bincount(labels, minlength=classes)[labels]
    return ridge(train, 2.0 * np.eye(classes)[labels] - 1, weights, test, lambdas)[0]


# linear discriminant analysis


def lda_log_probabilities(
    train: Float[np.ndarray, "units dim"],
    labels: Int[np.ndarray, " units"],
    test: Float[np.ndarray, "others dim"],
    classes: int,
) -> Float[np.ndarray, "others classes"]:
    """Give the log probability of each class by LDA with equal priors.

    The covariance is the mean of the classes' own covariances. Each is shrunk towards its diagonal by the amount of
    Ledoit & Wolf 2004 (J. Multivariate Analysis 88), as scikit-learn does with ``shrinkage="auto"``.
    """
    units, dim = train.shape
    means = np.stack([train[labels == label].mean(0) for label in range(classes)])
    residuals, diagonal = train - means[labels], np.zeros(dim)
    for label in range(classes):
        mine = labels == label
        spread = residuals[mine].std(0)
        spread = np.where(spread > 0, spread, 1.0)
        amount, size = shrinkage(residuals[mine] / spread)
        residuals[mine] *= np.sqrt((1 - amount) / classes / mine.sum())
        diagonal += amount * size * spread**2 / classes
    # for classes without spread, or with one unit each
    diagonal += 1e-10 * max(float(train.var(0).mean()), np.finfo(float).tiny)
    scaled, centred = residuals / np.sqrt(diagonal), (means - means.mean(0)) / np.sqrt(diagonal)
    if units > dim:
        directions = np.linalg.solve(np.eye(dim) + scaled.T @ scaled, centred.T).T
    else:  # Woodbury
        directions = centred - np.linalg.solve(np.eye(units) + scaled @ scaled.T, scaled @ centred.T).T @ scaled
    directions /= np.sqrt(diagonal)
    offsets = ((means + means.mean(0)) * directions).sum(1) / 2
    return _log_softmax(test @ directions.T - offsets)


def shrinkage(centred: Float[np.ndarray, "units dim"]) -> tuple[float, float]:
    """Give how far Ledoit & Wolf shrink the covariance of centred features, and the mean variance they shrink to."""
    units, dim = centred.shape
    lengths = (centred**2).sum(1)
    size = float(lengths.sum() / units / dim)
    squares = float(((centred @ centred.T if units < dim else centred.T @ centred) ** 2).sum()) / units**2
    noise, spread = float(lengths @ lengths / units - squares) / units, squares - dim * size**2
    return (min(1.0, noise / spread) if noise > 0 and spread > 0 else float(noise > 0)), size


# logistic regression


def fit_logistic(
    features: Float[np.ndarray, "units axes"],
    labels: Int[np.ndarray, " units"],
    classes: int,
    lambdas: Float[np.ndarray, " grid"],
    iterations: int,
    dtype: torch.dtype = torch.float32,
    intercept_penalty: float = 1e-3,
    tolerance: float = 1e-4,
) -> Float[Tensor, "axes+1 grid classes"]:
    """Fit multinomial logistic regression for all penalties at once; give the coefficients, intercepts last.

    The fit minimises the sum of cross-entropies in nats plus ``lambda / 2`` times the squared coefficients. Intercepts
    have a penalty of their own, so that a class not seen yet is unlikely and not impossible. Each axis is scaled by its
    curvature, since L-BFGS needs five times the iterations otherwise. The fit ends where a step gains less than
    ``tolerance``.
    """
    rows = torch.as_tensor(np.column_stack([features, np.ones(len(features))]), dtype=dtype)
    truth = torch.as_tensor(labels)
    axes, grid = rows.shape[1], len(lambdas)
    penalties = torch.as_tensor(lambdas, dtype=dtype).expand(axes, grid).clone()
    penalties[-1] = intercept_penalty
    # p(1 - p) of a class, at the start, is about 1 / classes
    scale = (rows.square().sum(0)[:, None] / classes + penalties).rsqrt()[:, :, None]
    scaled = torch.zeros(axes, grid, classes, dtype=dtype)
    optimizer = torch.optim.LBFGS(
        [scaled],
        max_iter=iterations,
        history_size=8,
        tolerance_grad=tolerance,
        tolerance_change=tolerance,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def loss() -> Tensor:
        weights = scale * scaled
        log_p = torch.log_softmax((rows @ weights.flatten(1)).unflatten(1, (grid, classes)), -1)
        chosen = truth[:, None, None].expand(-1, grid, 1)
        value = 0.5 * (penalties[:, :, None] * weights.square()).sum() - log_p.gather(2, chosen).sum()
        slope = log_p.exp_().scatter_add_(2, chosen, torch.full(chosen.shape, -1, dtype=dtype))
        pull = (rows.T @ slope.flatten(1)).unflatten(1, (grid, classes)) + penalties[:, :, None] * weights
        scaled.grad = scale * pull
        return value

    optimizer.step(loss)
    return scale * scaled


def predict_logistic(
    coefficients: Float[Tensor, "coefficients grid classes"], features: Float[np.ndarray, "others axes"]
) -> Float[np.ndarray, "others grid classes"]:
    """Give log probabilities in nats for each penalty."""
    rows = torch.as_tensor(features, dtype=coefficients.dtype)
    logits = torch.einsum("na,agc->ngc", rows, coefficients[:-1]) + coefficients[-1]
    return torch.log_softmax(logits.double(), -1).numpy()


def logistic_log_probabilities(
    train: Float[np.ndarray, "units dim"],
    labels: Int[np.ndarray, " units"],
    blocks: Int[np.ndarray, " units"],
    test: Float[np.ndarray, "others dim"],
    classes: int,
    lambdas: Float[np.ndarray, " grid"] = LAMBDAS,
) -> Float[np.ndarray, "others classes"]:
    """Give the log probability of each class by logistic regression.

    The penalty is the one with the least cross-entropy on a quarter of the training data, whose blocks are not in the
    rest.
    """
    centre = train.mean(0)
    axes = rotate(train - centre, test - centre)
    inner: Bool[np.ndarray, " units"] = group_folds(labels, blocks, 4) > 0
    tried = fit_logistic(axes.train[inner], labels[inner], classes, lambdas, iterations=30)
    held_out = predict_logistic(tried, axes.train[~inner])
    cost = -np.take_along_axis(held_out, labels[~inner][:, None, None], 2).sum((0, 2))
    best = lambdas[int(np.argmin(cost))]
    final = fit_logistic(axes.train, labels, classes, np.array([best]), iterations=200)
    return predict_logistic(final, axes.test)[:, 0]


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    return torch.log_softmax(torch.from_numpy(scores), -1).numpy()


def log_odds(log_probabilities: Float[np.ndarray, "units classes"]) -> Float[np.ndarray, "units classes"]:
    """Log of each class's probability over that of all others; units can share a threshold on it."""
    others = np.empty_like(log_probabilities)
    for label in range(log_probabilities.shape[1]):
        others[:, label] = np.logaddexp.reduce(np.delete(log_probabilities, label, axis=1), axis=1)
    return log_probabilities - others


# online codelength

BLOCK_ENDS = np.array([0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0])
"""Shares of the data after which the probe is fitted anew (Voita & Titov 2020)."""


def codelengths(
    features: Float[np.ndarray, "units axes"],
    labels: Int[np.ndarray, " units"],
    groups: Int[np.ndarray, " units"],
    classes: int,
    seed: int | tuple[int, ...] = 0,
    lambdas: Float[np.ndarray, " grid"] = LAMBDAS,
) -> Float[np.ndarray, " units"]:
    """Bits that each label takes when labels are sent one after the other: the online code of Voita & Titov 2020.

    See arXiv:2003.12298, section 2.2; sender and receiver both have the features. Whole groups come in random order.
    A label of the first block costs ``log2(classes)`` bits, and a label of each further block what logistic regression
    on the blocks before it says. No penalty is chosen: the code is that of the mixture of all penalties of the grid,
    which costs at most ``log2(len(lambdas))`` bits more than that of the best one.
    """
    _, codes = np.unique(groups, return_inverse=True)
    places = np.random.default_rng(seed).permutation(int(codes.max()) + 1)[codes]
    order = np.argsort(places, kind="stable")
    wholes = np.append(np.flatnonzero(np.diff(places[order])) + 1, len(order))
    ends = np.unique(wholes[np.searchsorted(wholes, np.ceil(BLOCK_ENDS * len(order)))])
    likely = []  # log probability of each label, for each penalty
    for begin, end in pairwise(ends):
        known, coming = order[:begin], order[begin:end]
        fitted = fit_logistic(features[known], labels[known], classes, lambdas, 30, intercept_penalty=1.0)
        said = predict_logistic(fitted, features[coming])
        likely.append(np.take_along_axis(said, labels[coming][:, None, None], 2)[..., 0])
    out = np.full(len(labels), np.log2(classes))
    if likely:
        so_far = np.logaddexp.reduce(np.cumsum(np.concatenate(likely), axis=0), axis=1) - np.log(len(lambdas))
        out[order[ends[0] :]] = -np.diff(so_far, prepend=0.0) / np.log(2)
    return out
