"""Probabilistic linear discriminant analysis as the two-covariance model: voices differ, and recordings of a voice do.

A speaker is a point ``y ~ N(mean, between)``, and a recording of the speaker is ``x = y + e`` with ``e ~ N(0, within)``
(Brümmer and de Villiers, "The speaker partitioning problem", Odyssey 2010; Sizov, Lee and Kinnunen, "Unifying
probabilistic linear discriminant analysis variants in biometric authentication", S+SSPR 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class PLDA:
    """The two-covariance model.

    Attributes
    ----------
    mean : (dim,)
        Mean of speakers.
    between : (dim, dim)
        Covariance of speakers.
    within : (dim, dim)
        Covariance of one speaker's recordings.
    log_likelihood : float
        Log-likelihood of the data it was fitted to, in nats for each recording.
    """

    mean: Float[np.ndarray, " dim"]
    between: Float[np.ndarray, "dim dim"]
    within: Float[np.ndarray, "dim dim"]
    log_likelihood: float = float("nan")

    def scores(
        self, enrol: Float[np.ndarray, "trials dim"], test: Float[np.ndarray, "trials dim"]
    ) -> Float[np.ndarray, " trials"]:
        """Log-likelihood ratio of each trial, in nats: that both recordings are of one speaker rather than of two."""
        # in these coordinates `within` is 1 and `between` is diagonal, so that each has a ratio of its own
        upper = np.linalg.inv(np.linalg.cholesky(self.within)).T
        values, vectors = np.linalg.eigh(upper.T @ self.between @ upper)
        between = np.maximum(values, 0)
        total = between + 1
        u, v = ((side - self.mean) @ (upper @ vectors) for side in (enrol, test))
        determinant = total**2 - between**2
        square, product = 1 / total - total / determinant, 2 * between / determinant
        constant = (np.log(total) - np.log(determinant) / 2).sum()
        return constant + ((u**2 + v**2) @ square + (u * v) @ product) / 2


def fit_plda(
    features: Float[np.ndarray, "utterances dim"],
    speakers: Sequence[str] | np.ndarray,
    *,
    iterations: int = 1000,
    tolerance: float = 1e-8,
) -> PLDA:
    """Fit the two-covariance model by expectation maximisation with expanded parameters.

    The start is near the closed form for balanced data. Speakers may be moved and turned by any linear map in each step
    (Liu, Rubin and Wu, "Parameter expansion to accelerate EM: the PX-EM algorithm", Biometrika 85, 1998). Plain
    expectation maximisation all but stands still where speakers hardly differ in a direction.

    Parameters
    ----------
    features : (utterances, dim)
        Features of the utterances.
    speakers : (utterances,)
        Who speaks in each utterance.
    iterations : int
        Number of iterations, at most.
    tolerance : float
        The fit stops where the log-likelihood of a recording gains less than this, in nats.

    Raises
    ------
    ValueError
        If there are fewer than two speakers, or too few recordings for a covariance within speakers of full rank.
    """
    _, code, sizes = np.unique(np.asarray(speakers, dtype=str), return_inverse=True, return_counts=True)
    count, dim = features.shape
    if len(sizes) < 2 or count - len(sizes) < dim:
        raise ValueError(
            f"PLDA in {dim} dimensions needs at least two speakers and {dim} recordings more than speakers, got "
            f"{count} recordings of {len(sizes)}; reduce the dimensions (backend='plda' does, by LDA) or add speech."
        )
    centres = np.zeros((len(sizes), dim))
    np.add.at(centres, code, features)
    centres /= sizes[:, None]
    inside = features - centres[code]
    scatter = inside.T @ inside  # of recordings around their own speaker's mean
    mean = centres.mean(0)
    within = scatter / (count - len(sizes))
    # the spread of means that recordings leave is taken off, but no direction starts without any: it could not grow
    spread = np.atleast_2d(np.cov(centres.T, bias=True))
    upper = np.linalg.cholesky(within)
    values, vectors = np.linalg.eigh(np.linalg.solve(upper, np.linalg.solve(upper, spread).T))
    values = np.maximum(values - (1 / sizes).mean(), 0.1 * np.maximum(values, 1e-3))
    between = (upper @ vectors) * values @ (upper @ vectors).T
    likelihood = _log_likelihood(centres, sizes, scatter, mean, between, within) / count
    for _ in range(iterations):
        mean, between, within = _step(centres, sizes, scatter, mean, between, within)
        before, likelihood = likelihood, _log_likelihood(centres, sizes, scatter, mean, between, within) / count
        if likelihood - before < tolerance:
            break
    return PLDA(mean, between, within, likelihood)


def _step(
    centres: Float[np.ndarray, "speakers dim"],
    sizes: Int[np.ndarray, " speakers"],
    scatter: Float[np.ndarray, "dim dim"],
    mean: Float[np.ndarray, " dim"],
    between: Float[np.ndarray, "dim dim"],
    within: Float[np.ndarray, "dim dim"],
) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, "dim dim"], Float[np.ndarray, "dim dim"]]:
    """One step of expectation maximisation: where each speaker is expected, then the model that fits this best."""
    dim = len(mean)
    expected = np.zeros_like(centres)  # where each speaker is, seen from the mean
    spread, heard = np.zeros_like(within), np.zeros_like(within)  # uncertainty over speakers, and over recordings
    for size in np.unique(sizes):
        mine = sizes == size
        gain = np.linalg.solve((between + within / size).T, between.T).T
        posterior = between - gain @ between
        expected[mine] = (centres[mine] - mean) @ gain.T
        spread += mine.sum() * posterior
        heard += size * mine.sum() * posterior
    # recordings as a linear function of where their speaker is expected, with a constant
    given, rest = np.hstack([expected, np.ones((len(sizes), 1))]), centres - mean
    weighted = sizes[:, None] * rest
    square = given.T @ (sizes[:, None] * given)
    square[:dim, :dim] += heard
    cross = weighted.T @ given
    turn = cross @ np.linalg.pinv(square, hermitian=True)
    noise = scatter + weighted.T @ rest - turn @ cross.T
    moved = expected.mean(0)
    inside = spread / len(sizes) + np.cov(expected.T, bias=True).reshape(dim, dim)
    between = turn[:, :dim] @ inside @ turn[:, :dim].T
    return mean + turn[:, dim] + turn[:, :dim] @ moved, (between + between.T) / 2, (noise + noise.T) / (2 * sizes.sum())


def _log_likelihood(
    centres: np.ndarray,
    sizes: np.ndarray,
    scatter: np.ndarray,
    mean: np.ndarray,
    between: np.ndarray,
    within: np.ndarray,
) -> float:
    """Log-likelihood of all recordings.

    Recordings have the covariance ``within`` around their speaker's mean, and means ``between + within / size``.
    """
    dim, recordings = len(mean), sizes.sum()
    total = -0.5 * np.trace(np.linalg.solve(within, scatter))
    total -= 0.5 * (recordings - len(sizes)) * (np.linalg.slogdet(within)[1] + dim * np.log(2 * np.pi))
    for size in np.unique(sizes):
        rest = centres[sizes == size] - mean
        covariance = between + within / size
        log_determinant = np.linalg.slogdet(covariance)[1] + dim * np.log(2 * np.pi * size)
        total -= 0.5 * (np.sum(rest * np.linalg.solve(covariance, rest.T).T) + len(rest) * log_determinant)
    return float(total)
