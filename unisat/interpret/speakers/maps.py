"""Pictures of a layer in two dimensions, with the numbers that say how much of the layer they keep."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from unisat.deprecation import renamed
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.result import Result, plots
from unisat.interpret.statistics.scaling import scaling

__getattr__ = renamed(
    __name__,
    {
        "again": "unisat.interpret.speakers.xvectors.collect_like",
        "neighbours": "unisat.interpret.speakers.maps.nearest_utterances",
        "xvectors": "unisat.interpret.speakers.xvectors.xvectors",
    },
)

METHODS = ("umap", "pca", "lda")
NEIGHBORS = 5
"""Number of neighbours that the purity looks at, at most."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Embedding(Result):
    """Utterances as points; `embed` gives it.

    Attributes
    ----------
    site, method, color : str
        The choices; ``color`` is the column whose classes the points are coloured by.
    utterances : DataFrame
        The bank's table, with a row for each point.
    coordinates : (points, 2)
        The points.
    near, near_drawn : (points, 5 or fewer)
        Each point's nearest neighbours in the features and in the picture.
    trustworthiness : float
        1 if all neighbours in the picture are neighbours in the features (Venna and Kaski 2001), over ``n_neighbors``.
    explained : (2,), optional
        Share of the variance (PCA), or of the variance between classes (LDA), along each axis.
    held_out : bool, optional
        Only for LDA: whether it was fitted on other points than those that are shown.
    mapper : callable, optional
        A function from features (points, dim) to coordinates, which `place` calls.
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
    mapper: Callable[[np.ndarray], np.ndarray] | None = field(default=None, repr=False)

    def place(self, features: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "points 2"]:
        """Give the points of other utterances in the same picture, without fitting the map again.

        PCA and LDA project them. In a UMAP picture a point lies between its three nearest neighbours in the features,
        nearer to the nearer ones. UMAP's own search for a place takes seconds at first, and may place a point beside an
        equal one.
        """
        if self.mapper is None:
            raise ValueError("this embedding was made without its map; make it anew with us.embed.")
        return self.mapper(np.asarray(features, dtype=float))

    def purity(self, column: str | None = None) -> dict[str, float]:
        """Give the share of nearest neighbours that are of a point's own class, as a mean over points.

        ``original`` is the share in the features, ``drawn`` that in the picture, and ``chance`` that of neighbours
        drawn at random. ``neighbors`` says how many count: 5, or one less than the points of the smallest class.
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
        """Draw the points, coloured by a column; the title says how far the picture can be trusted."""
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

    The numbers are the evidence: they are computed in the (standardised) features. In a UMAP picture the distances
    between groups and the sizes of groups mean nothing. Look at several sizes of neighbourhood, and also at PCA::

        [us.embed(bank, "hidden.4", n_neighbors=n).plot() for n in (5, 15, 50)]

    Parameters
    ----------
    bank : FeatureBank
        A bank with one row for each utterance.
    method : {"umap", "pca", "lda"}
        ``"lda"`` (with the shrinkage of Ledoit and Wolf) places the classes of ``color`` as far apart as it can. It
        separates the utterances that it was fitted on, whether their classes differ or not.
    n_neighbors : int
        Neighbours of UMAP and of the trustworthiness (there always fewer than half of the utterances).
    seed : int
        Seed of UMAP, which runs on one thread to give the same picture each time.
    standardize : bool
        Whether to bring each channel to mean 0 and variance 1 first; otherwise the few largest channels decide.
    fit_on : (utterances,) of bool, optional
        Only for LDA: the utterances to fit on. Only the others are shown and counted.

    Raises
    ------
    ValueError
        If there are too few utterances or classes for the method.
    """
    fitted = _check_choices(bank, site, method, color, n_neighbors, fit_on)
    shown = fitted if fit_on is None else ~fitted
    values = bank.features(site, pool)
    scale = scaling(values[fitted], "standard" if standardize else "raw")
    values = scale(values)
    if method == "lda":
        drawn = _lda(values, bank.labels(color), fitted, color)
    else:
        drawn = _pca(values) if method == "pca" else _umap(values, n_neighbors, seed)
    if method == "lda" and fit_on is None:
        warnings.warn(
            f"LDA was fitted on the labels that it shows: {color!r} looks separable by construction. Give fit_on= "
            "to show utterances it has not seen.",
            UserWarning,
            stacklevel=2,
        )
    values, coordinates = values[shown], drawn.coordinates[shown]
    points = len(values)
    near, near_drawn = (_nearest(data, min(NEIGHBORS, points - 1)) for data in (values, coordinates))
    chosen = {"site": site, "method": method, "color": color}
    settings = {"model": bank.settings.get("model"), **chosen, "n_neighbors": n_neighbors, "seed": seed}
    settings |= {"standardize": standardize, "pool": pool, "fitted": int(fitted.sum()), "shown": points}
    result = Embedding(
        **chosen,
        utterances=bank.table[shown].reset_index(drop=True),
        coordinates=coordinates,
        near=near,
        near_drawn=near_drawn,
        trustworthiness=_trustworthiness(values, coordinates, min(n_neighbors, (points - 1) // 2)),
        explained=drawn.explained,
        held_out=fit_on is not None if method == "lda" else None,
        mapper=lambda features: drawn.place(scale(features)),
        settings=settings,
    )
    settings |= {"trustworthiness": result.trustworthiness, "purity": result.purity(), "explained": drawn.explained}
    return result


def _check_choices(
    bank: FeatureBank, site: str, method: str, color: str, n_neighbors: int, fit_on: Sequence[bool] | np.ndarray | None
) -> Bool[np.ndarray, " utterances"]:
    """Refuse what cannot be drawn; give which utterances the picture is fitted on."""
    if method not in METHODS:
        raise ValueError(f"method={method!r} must be one of {', '.join(METHODS)}.")
    if fit_on is not None and method != "lda":
        raise ValueError(f"fit_on is for method='lda', which looks at the labels; method={method!r} does not.")
    if bank.is_frames(site):
        raise ValueError(f"{site!r} has a row for each frame; collect the bank with reduce='mean' or 'mean+std'.")
    bank.labels(color)  # refuses labels that are missing
    fitted = np.ones(len(bank), dtype=bool) if fit_on is None else np.asarray(fit_on)
    if fitted.dtype != bool or fitted.shape != (len(bank),):
        raise ValueError(f"fit_on must be True or False for each of the {len(bank)} utterances.")
    points = int((fitted if fit_on is None else ~fitted).sum())
    if points < 5:
        raise ValueError(f"a picture needs at least 5 utterances, got {points}.")
    if method == "umap" and not 2 <= n_neighbors < points:
        raise ValueError(
            f"n_neighbors={n_neighbors} must lie between 2 and {points - 1}, below the {points} utterances."
        )
    return fitted


def nearest_utterances(
    bank: FeatureBank, site: str, of: int | Float[np.ndarray, " dim"], *, count: int = 5, pool: str | None = None
) -> pd.DataFrame:
    """Give the utterances nearest to one of the bank's, or to other features: rows of its table with ``similarity``.

    The similarity is the cosine of channels brought to mean 0 and variance 1 over the bank, which is what
    `us.verify_trials` scores.
    """
    values = bank.features(site, pool)
    scale = scaling(values)
    new = scale(values[of] if isinstance(of, int) else np.asarray(of, dtype=float))
    values = scale(values)
    least = np.finfo(float).tiny
    cosine = values @ new / np.maximum(np.linalg.norm(values, axis=1) * np.linalg.norm(new), least)
    order = [row for row in np.argsort(-cosine, kind="stable") if not isinstance(of, int) or row != of][:count]
    return bank.table.iloc[order].assign(similarity=cosine[order])


def every_other(table: pd.DataFrame) -> Bool[np.ndarray, " utterances"]:
    """True on every other utterance of each speaker: half of them to fit LDA on, the others to judge it by."""
    speaker = table["speaker" if "speaker" in table else "id"].astype(str)
    return (speaker.groupby(speaker).cumcount() % 2 == 0).to_numpy()


class _Drawn(NamedTuple):
    """Coordinates, the function that places other features, and what share of the variance each axis explains."""

    coordinates: Float[np.ndarray, "points 2"]
    place: Callable[[np.ndarray], np.ndarray]
    explained: tuple[float, float] | None = None


def _umap(values: np.ndarray, n_neighbors: int, seed: int) -> _Drawn:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
            umap = importlib.import_module("umap")
    except ImportError as error:
        raise ImportError("method='umap' needs umap-learn: pip install 'unisat[umap]'.") from error
    mapper = umap.UMAP(n_neighbors=n_neighbors, random_state=seed, n_jobs=1)
    coordinates = np.asarray(mapper.fit_transform(values), dtype=float)
    near = _sklearn("neighbors").NearestNeighbors(n_neighbors=3).fit(values)

    def place(new: np.ndarray) -> np.ndarray:
        distance, rows = near.kneighbors(new)
        weight = 1 / np.maximum(distance, 1e-9) ** 2
        return np.einsum("pn,pnc->pc", weight / weight.sum(1, keepdims=True), coordinates[rows])

    return _Drawn(coordinates, place)


def _pca(values: np.ndarray) -> _Drawn:
    middle = values.mean(0)
    values = values - middle
    left, scales, right = np.linalg.svd(values, full_matrices=False)
    total = np.square(scales).sum()
    if len(scales) < 2 or not total > 0:
        raise ValueError("PCA needs features that vary, in at least two channels.")
    # the largest loading is positive, so that the picture is the same on any machine
    signs = np.sign(right[np.arange(2), np.abs(right[:2]).argmax(1)])
    share = np.square(scales[:2]) / total
    loadings = right[:2].T * signs
    explained = float(share[0]), float(share[1])
    return _Drawn(left[:, :2] * scales[:2] * signs, lambda new: (new - middle) @ loadings, explained)


def _lda(values: np.ndarray, labels: np.ndarray, fitted: np.ndarray, color: str) -> _Drawn:
    classes = np.unique(labels[fitted])
    if len(classes) < 3 or len(classes) == fitted.sum():
        raise ValueError(
            f"LDA needs at least 3 classes for two axes, and more utterances than classes; {color!r} has "
            f"{len(classes)} in {fitted.sum()} utterances. Use method='pca' or 'umap'."
        )
    discriminant = _sklearn("discriminant_analysis").LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto")
    # each class counts the same
    discriminant.set_params(n_components=2, priors=np.full(len(classes), 1 / len(classes)))
    try:
        coordinates = discriminant.fit(values[fitted], labels[fitted]).transform(values)
    except np.linalg.LinAlgError as error:  # for two utterances there is no shrinkage
        least = min((labels[fitted] == name).sum() for name in classes)
        raise ValueError(
            f"LDA needs at least 3 utterances of each class to fit on, {color!r} has a class with {least}. Collect "
            "more, or use method='pca' or 'umap'."
        ) from error
    # not explained_variance_ratio_: with shrinkage that counts negative eigenvalues, and can exceed 1
    apart = (discriminant.means_ @ discriminant.scalings_).var(0)
    share = apart[:2] / apart.sum()
    return _Drawn(coordinates, discriminant.transform, (float(share[0]), float(share[1])))


def _nearest(values: np.ndarray, count: int) -> np.ndarray:
    return _sklearn("neighbors").NearestNeighbors(n_neighbors=count).fit(values).kneighbors(return_distance=False)


def _trustworthiness(values: np.ndarray, coordinates: np.ndarray, count: int) -> float:
    return float(_sklearn("manifold").trustworthiness(values, coordinates, n_neighbors=max(count, 1)))


def _sklearn(part: str) -> Any:
    return importlib.import_module(f"sklearn.{part}")
