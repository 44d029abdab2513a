"""In which directions of a layer labels live, and whether two labels share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.linalg import subspace_angles

from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.result import Result, plots

EXPLAINED = 0.9  # share of the centroids' variance that a label's subspace holds where no rank is given


@dataclass(frozen=True, eq=False, kw_only=True)
class Subspaces(Result):
    """Whether two labels live in the same directions of a layer; of `subspaces`.

    Attributes
    ----------
    first, second : str
        Names of the labels.
    numbers : DataFrame
        See `table`.
    curves : DataFrame
        ``site``, ``label`` (whose variance), ``removed`` (directions of the other label taken out) and ``residual``.
    angles : dict
        By site, principal angles between the two subspaces in degrees, the smallest first.
    """

    first: str
    second: str
    numbers: pd.DataFrame
    curves: pd.DataFrame
    angles: dict[str, np.ndarray]

    def table(self) -> pd.DataFrame:
        """Give two rows for each site, one for each label.

        ``residual`` is the share of the variance between the centroids of ``label`` that is left when the subspace of
        ``removed`` (``rank`` directions) is taken out: 1 if the two are orthogonal, 0 if one lies in the other.
        ``area`` is the mean of that share when 1, 2, … all directions are taken out (in the manner of the cumulative
        residual variance of Mohamed et al. 2024). ``random_low`` and ``random_high`` are the 95 % range of ``residual``
        for random directions, ``shuffled_low`` and ``shuffled_high`` for those of the other label shuffled, which lie
        where the layer varies. ``smallest_angle`` is the first principal angle, in degrees.
        """
        return self.numbers.copy()

    def plot(self, **options: Any) -> Any:
        """Draw what is left of each label's variance, layer by layer, with its ranges by chance."""
        return plots().subspaces(self.table(), **options)


def subspaces(
    bank: FeatureBank,
    sites: str | Sequence[str] | None = None,
    first: str | Sequence[str] | np.ndarray = "speaker",
    second: str | Sequence[str] | np.ndarray = "sentence",
    *,
    rank: int | None = None,
    pool: str | None = None,
    draws: int = 100,
    seed: int = 0,
) -> Subspaces:
    """Give how far two labels share directions: principal subspaces of the class centroids, their angles, what is left.

    The method of Liu et al. 2023 (arXiv:2305.12464): the mean of each class, principal components of those means.
    Labels should be crossed (every speaker says every sentence): a mean over few classes of the other label carries
    that label too.

    Parameters
    ----------
    bank : FeatureBank
        Frame-wise sites serve for labels of frames, such as phones.
    sites : str or sequence of str, optional
        Those of one width; ``hidden.*`` if None.
    first, second : str or (rows,) of str
        Columns of the bank, or one label for each row of a site (of each frame, where it is frame-wise); rows with the
        label ``""`` are left out.
    rank : int, optional
        Directions of each label's subspace; as many as hold 90 % of the variance between its centroids, if None.
    draws : int
        Random and shuffled subspaces to compare with.

    Raises
    ------
    ValueError
        If a label has one class only, or each class of one label comes with one class of the other alone.
    """
    names = [sites] if isinstance(sites, str) else list(bank.hidden if sites is None else sites)
    if not names:
        raise ValueError(f"there are no layers; name sites, the bank has {', '.join(bank.sites)}.")
    if draws < 1:
        raise ValueError(f"draws={draws} must be at least 1.")
    titles = tuple(
        label if isinstance(label, str) else place for label, place in ((first, "first"), (second, "second"))
    )
    draw = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    angles: dict[str, np.ndarray] = {}
    filled = float("nan")
    for site in names:
        labels = [_labels(bank, site, label) for label in (first, second)]
        known = (labels[0] != "") & (labels[1] != "")
        codes = [np.unique(values[known], return_inverse=True)[1] for values in labels]
        filled = _check_crossed(titles, codes)
        values = bank.features(site, pool)[known]
        values = values - values.mean(0)
        parts = [_Centroids.of(values, code) for code in codes]
        ranks = [part.rank(rank, title) for part, title in zip(parts, titles, strict=True)]
        bases = [part.directions[:size] for part, size in zip(parts, ranks, strict=True)]
        degrees = np.degrees(subspace_angles(bases[0].T, bases[1].T))[::-1]
        angles[site] = degrees
        for one, two in ((0, 1), (1, 0)):
            curve = parts[one].residual(parts[two].directions)
            shuffled = [_Centroids.of(values, draw.permutation(codes[two])).directions for _ in range(draws)]
            random = [np.linalg.qr(draw.standard_normal((values.shape[1], ranks[two])))[0].T for _ in range(draws)]
            ranges = {
                f"{name}_{end}": float(np.quantile([parts[one].residual(basis[: ranks[two]])[-1] for basis in many], q))
                for name, many in (("random", random), ("shuffled", shuffled))
                for end, q in (("low", 0.025), ("high", 0.975))
            }
            about = {"site": site, "label": titles[one], "removed": titles[two], "rank": ranks[two]}
            numbers = {"residual": float(curve[ranks[two] - 1]), "area": float(curve.mean())}
            rows.append({**about, **numbers, **ranges, "smallest_angle": float(degrees[0])})
            curves += [
                {"site": site, "label": titles[one], "removed": count + 1, "residual": float(share)}
                for count, share in enumerate(curve)
            ]
    settings = {
        "model": bank.about.get("model"),
        "first": titles[0],
        "second": titles[1],
        "rank": rank if rank is not None else f"{EXPLAINED:.0%} of the centroids' variance",
        "pairs_of_classes_seen": filled,
        "utterances": len(bank),
        "pool": pool,
        "draws": draws,
        "seed": seed,
    }
    return Subspaces(
        first=titles[0],
        second=titles[1],
        numbers=pd.DataFrame(rows),
        curves=pd.DataFrame(curves),
        angles=angles,
        settings=settings,
    )


@dataclass(frozen=True, eq=False)
class _Centroids:
    """Means of classes around their own mean, and their principal directions."""

    means: Float[np.ndarray, "classes dim"]
    directions: Float[np.ndarray, "components dim"]
    variances: Float[np.ndarray, " components"]
    total: float  # sum of squares of what the means are of

    @classmethod
    def of(cls, values: np.ndarray, codes: np.ndarray) -> _Centroids:
        member = np.arange(codes.max() + 1)[:, None] == codes  # (classes, rows)
        means = (member / member.sum(1, keepdims=True)) @ values
        means -= means.mean(0)
        _, scales, directions = np.linalg.svd(means, full_matrices=False)
        count = min(len(means) - 1, values.shape[1])  # centred means span one direction less
        return cls(means, directions[:count], scales[:count] ** 2, float(np.square(values).sum()))

    def rank(self, wanted: int | None, title: str) -> int:
        """Directions of the subspace."""
        if not self.variances.sum() > 1e-20 * self.total:
            raise ValueError(f"all classes of {title!r} have the same mean.")
        if wanted is None:
            shares = np.cumsum(self.variances) / self.variances.sum()
            return int(np.searchsorted(shares, EXPLAINED - 1e-12)) + 1
        if not 1 <= wanted <= len(self.directions):
            raise ValueError(
                f"rank={wanted} must lie between 1 and {len(self.directions)}: {len(self.means)} classes of {title!r} "
                f"span that many directions."
            )
        return wanted

    def residual(self, directions: np.ndarray) -> np.ndarray:
        """Share of the variance left when the first 1, 2, … of orthonormal directions are taken out."""
        gone = np.cumsum(np.square(self.means @ directions.T).sum(0)) / np.square(self.means).sum()
        return np.clip(1 - gone, 0, 1)


def _labels(bank: FeatureBank, site: str, labels: str | Sequence[str] | np.ndarray) -> np.ndarray:
    """One string for each row of a site."""
    frames = bank.is_frames(site)
    if isinstance(labels, str):
        values = bank.labels(labels)
        return np.repeat(values, bank.lengths(site)) if frames else values
    rows = int(bank.lengths(site).sum()) if frames else len(bank)
    values = np.asarray(labels, dtype=object)
    if values.shape != (rows,):
        raise ValueError(f"labels must be one for each of the {rows} rows of {site}, got shape {values.shape}.")
    return np.where(pd.isna(values), "", values).astype(str).astype(object)


def _check_crossed(titles: tuple[str, ...], codes: Sequence[np.ndarray]) -> float:
    """The share of pairs of classes that occur, after checking that a centroid can tell the labels apart."""
    for title, code in zip(titles, codes, strict=True):
        if not len(code) or code.max() < 1:
            raise ValueError(f"{title!r} has one class only; there is no variance between classes to look at.")
    pairs = pd.crosstab(codes[0], codes[1]).to_numpy() > 0
    for one, two, alone in ((*titles, pairs.sum(1) == 1), (*titles[::-1], pairs.sum(0) == 1)):
        if alone.all():
            raise ValueError(
                f"each class of {one!r} comes with one class of {two!r} alone, so their centroids cannot be told "
                "apart; choose labels that are crossed."
            )
    return float(pairs.mean())
