"""A layer in two dimensions, with the numbers that say how much of it the picture keeps."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from unisat.interpret.bank import FeatureBank
from unisat.interpret.result import Result, plots

METHODS = ("umap", "pca", "lda")
NEIGHBORS = 5
"""Most neighbours that the purity looks at."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Embedding(Result):
    """Utterances as points; of `embed`.

    Attributes
    ----------
    site, method, color : str
        ``color`` is the column whose classes the points are coloured by.
    utterances : DataFrame
        The bank's table, a row for each point.
    coordinates : (points, 2)
    near, near_drawn : (points, 5 or fewer)
        Each point's nearest neighbours, in the features and in the picture.
    trustworthiness : float
        1 if all neighbours in the picture are neighbours in the features (Venna and Kaski 2001), over ``n_neighbors``.
    explained : (2,), optional
        Share of the variance (PCA), or of the variance between classes (LDA), along each axis.
    held_out : bool, optional
        Of LDA, whether it has not seen the points that are shown.
    """

    site: str
    method: str
    color: str
    utterances: pd.DataFrame
    coordinates: Float[np.ndarray, "points 2"]
    near: Int[np.ndarray, "points neighbors"]
    near_drawn: Int[np.ndarray, "points neighbors"]
    trustworthiness: float
    explained: tuple[float, float] | None = None
    held_out: bool | None = None

    def purity(self, column: str | None = None) -> dict[str, float]:
        """Give the share of nearest neighbours of a point's own class, a mean over points.

        ``original`` is that in the features, ``drawn`` that in the picture, ``chance`` that of neighbours drawn at
        random, and ``neighbors`` how many are looked at: 5, or one less than the smallest class has points.
        """
        name = self.color if column is None else column
        if name not in self.utterances or self.utterances[name].isna().any():
            raise ValueError(f"{name!r} is no column, or a partly empty one; there are {', '.join(self.utterances)}.")
        _, codes, sizes = np.unique(self.utterances[name].astype(str), return_inverse=True, return_counts=True)
        count = int(np.clip(sizes.min() - 1, 1, self.near.shape[1]))
        shares = {
            key: float((codes[near[:, :count]] == codes[:, None]).mean())
            for key, near in (("original", self.near), ("drawn", self.near_drawn))
        }
        return {**shares, "chance": float((sizes[codes] - 1).mean() / (len(codes) - 1)), "neighbors": count}

    def table(self) -> pd.DataFrame:
        """Give the bank's table with ``x`` and ``y``, one row for each point."""
        return self.utterances.assign(x=self.coordinates[:, 0], y=self.coordinates[:, 1])

    def plot(self, color: str | None = None, **options: Any) -> Any:
        """Draw the points coloured by a column; the title says how far the picture can be trusted."""
        name = self.color if color is None else color
        pure = self.purity(name)
        fitted = {True: ", utterances held out", False: ", fitted on these labels", None: ""}[self.held_out]
        title = (
            f"{self.site}{fitted}: trustworthiness {self.trustworthiness:.2f}\n"
            f"{pure['neighbors']:.0f}-neighbour purity of {name}: {pure['original']:.2f} in the features, "
            f"{pure['drawn']:.2f} here, chance {pure['chance']:.2f}"
        )
        options = {"method": self.method, "explained": self.explained, "title": title, **options}
        return plots().embedding(self.table(), color=name, **options)


def embed(
    bank: FeatureBank,
    site: str,
    *,
    method: str = "umap",
    color: str = "speaker",
    n_neighbors: int = 15,
    seed: int = 0,
    standardize: bool = True,
    pool: str | None = None,
    fit_on: Sequence[bool] | np.ndarray | None = None,
) -> Embedding:
    """Give a two-dimensional picture of a site's utterances, with the numbers without which it shows nothing.

    The numbers are computed in the (standardised) features, so it is they that are the evidence. Distances between
    groups and the size of groups mean nothing in UMAP; look at several neighbourhoods, and at PCA beside::

        [us.embed(bank, "hidden.4", n_neighbors=n).plot() for n in (5, 15, 50)]

    Parameters
    ----------
    bank : FeatureBank
        One row for each utterance.
    method : {"umap", "pca", "lda"}
        ``"lda"`` (shrinkage of Ledoit and Wolf) places the classes of ``color`` as far apart as it can: it shows the
        utterances that it was fitted on apart, whether they are or not.
    n_neighbors : int
        Of UMAP, and of the trustworthiness (there at most just below half of the utterances).
    seed : int
        Of UMAP, which runs on one thread to give the same picture each time.
    standardize : bool
        Bring each channel to mean 0 and variance 1 first: otherwise the few largest channels decide.
    fit_on : (utterances,) of bool, optional
        Of LDA: utterances to fit on. The others alone are shown and counted.

    Raises
    ------
    ValueError
        If there are too few utterances or classes for the method.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} must be one of {', '.join(METHODS)}.")
    if fit_on is not None and method != "lda":
        raise ValueError(f"fit_on is for method='lda', which looks at the labels; method={method!r} does not.")
    if bank.is_frames(site):
        raise ValueError(f"{site!r} has a row for each frame; collect the bank with reduce='mean' or 'mean+std'.")
    labels = bank.labels(color)
    fitted = np.ones(len(bank), dtype=bool) if fit_on is None else np.asarray(fit_on)
    if fitted.dtype != bool or fitted.shape != (len(bank),):
        raise ValueError(f"fit_on must be True or False for each of the {len(bank)} utterances.")
    shown = ~fitted if fit_on is not None else fitted
    points = int(shown.sum())
    if points < 5:
        raise ValueError(f"a picture needs at least 5 utterances, got {points}.")
    if method == "umap" and not 2 <= n_neighbors < points:
        raise ValueError(
            f"n_neighbors={n_neighbors} must lie between 2 and {points - 1}, below the {points} utterances."
        )
    values = bank.features(site, pool)
    if standardize:
        scale = values[fitted].std(0)
        values = (values - values[fitted].mean(0)) / np.where(scale > 0, scale, 1)
    explained: tuple[float, float] | None = None
    if method == "umap":
        coordinates = _umap(values, n_neighbors, seed)
    elif method == "pca":
        coordinates, explained = _pca(values)
    else:
        coordinates, explained = _lda(values, labels, fitted, color)
        if fit_on is None:
            warnings.warn(
                f"LDA was fitted on the labels that it shows: {color!r} looks separable by construction. Give fit_on= "
                "to show utterances it has not seen.",
                UserWarning,
                stacklevel=2,
            )
    values, coordinates = values[shown], coordinates[shown]
    settings = {
        "model": bank.about.get("model"),
        "site": site,
        "method": method,
        "color": color,
        "n_neighbors": n_neighbors,
        "seed": seed,
        "standardize": standardize,
        "pool": pool,
        "fitted": int(fitted.sum()),
        "shown": points,
    }
    near, near_drawn = (_nearest(data, min(NEIGHBORS, points - 1)) for data in (values, coordinates))
    result = Embedding(
        site=site,
        method=method,
        color=color,
        utterances=bank.table[shown].reset_index(drop=True),
        coordinates=coordinates,
        near=near,
        near_drawn=near_drawn,
        trustworthiness=_trustworthiness(values, coordinates, min(n_neighbors, (points - 1) // 2)),
        explained=explained,
        held_out=fit_on is not None if method == "lda" else None,
        settings=settings,
    )
    settings |= {"trustworthiness": result.trustworthiness, "purity": result.purity(), "explained": explained}
    return result


def _umap(values: np.ndarray, n_neighbors: int, seed: int) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
            umap = importlib.import_module("umap")
    except ImportError as error:
        raise ImportError("method='umap' needs umap-learn: pip install 'unisat[measure]'.") from error
    mapper = umap.UMAP(n_neighbors=n_neighbors, random_state=seed, n_jobs=1)
    return np.asarray(mapper.fit_transform(values), dtype=float)


def _pca(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    values = values - values.mean(0)
    left, scales, right = np.linalg.svd(values, full_matrices=False)
    total = np.square(scales).sum()
    if len(scales) < 2 or not total > 0:
        raise ValueError("PCA needs features that vary, in at least two channels.")
    # the largest loading positive: the same picture on any machine
    signs = np.sign(right[np.arange(2), np.abs(right[:2]).argmax(1)])
    share = np.square(scales[:2]) / total
    return left[:, :2] * scales[:2] * signs, (float(share[0]), float(share[1]))


def _lda(
    values: np.ndarray, labels: np.ndarray, fitted: np.ndarray, color: str
) -> tuple[np.ndarray, tuple[float, float]]:
    classes = np.unique(labels[fitted])
    if len(classes) < 3 or len(classes) == fitted.sum():
        raise ValueError(
            f"LDA needs at least 3 classes for two axes, and more utterances than classes; {color!r} has "
            f"{len(classes)} in {fitted.sum()} utterances. Use method='pca' or 'umap'."
        )
    discriminant = _sklearn("discriminant_analysis").LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto")
    # each class counts the same
    discriminant.set_params(n_components=2, priors=np.full(len(classes), 1 / len(classes)))
    coordinates = discriminant.fit(values[fitted], labels[fitted]).transform(values)
    share = discriminant.explained_variance_ratio_
    return coordinates, (float(share[0]), float(share[1]))


def _nearest(values: np.ndarray, count: int) -> np.ndarray:
    return _sklearn("neighbors").NearestNeighbors(n_neighbors=count).fit(values).kneighbors(return_distance=False)


def _trustworthiness(values: np.ndarray, coordinates: np.ndarray, count: int) -> float:
    return float(_sklearn("manifold").trustworthiness(values, coordinates, n_neighbors=max(count, 1)))


def _sklearn(part: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{part}")
    except ImportError as error:
        raise ImportError("a picture's numbers need scikit-learn: pip install 'unisat[measure]'.") from error
