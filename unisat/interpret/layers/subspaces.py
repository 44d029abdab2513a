"""The directions of a layer in which a label varies, and whether two labels share them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.linalg import subspace_angles

from unisat.clusters import contingency
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.features.labels import FrameLabels, label_codes, row_labels
from unisat.interpret.result import Result, plots

EXPLAINED = 0.9  # share of the centroids' variance that a label's subspace holds where no rank is given


@dataclass(frozen=True, eq=False, kw_only=True)
class Subspaces(Result):
    """Whether two labels vary in the same directions of a layer; `subspaces` gives it.

    Attributes
    ----------
    first, second : str
        Names of the labels.
    numbers : DataFrame
        What `table` gives.
    curves : DataFrame
        ``site``, ``label``, ``removed`` (how many directions of the other label are taken out) and ``residual`` (the
        share of the label's variance that is left).
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
        ``area`` is the mean of that share when 1, 2, … all directions are taken out, similar to the cumulative residual
        variance of Mohamed et al. 2024. ``random_low`` and ``random_high`` are the 95 % range of ``residual`` for
        random directions. ``shuffled_low`` and ``shuffled_high`` are that for the directions of the other label when it
        is shuffled, which lie where the layer varies. ``smallest_angle`` is the first principal angle, in degrees.
        """
        return self.numbers.copy()

    def plot(self, **options: Any) -> Any:
        """Draw what is left of each label's variance over layers, with the ranges that chance gives."""
        return plots().subspaces(self.table(), **options)


def subspaces(
    bank: FeatureBank,
    sites: str | Sequence[str] | None = None,
    first: str | FrameLabels = "speaker",
    second: str | FrameLabels = "sentence",
    *,
    rank: int | None = None,
    pool: str | None = None,
    draws: int = 100,
    seed: int = 0,
) -> Subspaces:
    """Measure how far two labels share directions, by the principal subspaces of their class centroids.

    The method is that of Liu et al. 2023 (arXiv:2305.12464): a label's subspace is spanned by the principal components
    of the means of its classes. Labels should be crossed (every speaker says every sentence): a mean over few classes
    of the other label depends on that label too.

    Parameters
    ----------
    bank : FeatureBank
        A bank with frame-wise sites serves for labels of frames, such as phones.
    sites : str or sequence of str, optional
        Sites of one width; ``hidden.*`` if None.
    first, second : str, dict or sequence
        Columns of the bank, or one label for each row of a site (each frame of a frame-wise site), in any form that
        `unisat.interpret.features.labels` reads. Rows with None, NaN, ``""`` or a negative number are left out.
    rank : int, optional
        Directions of each label's subspace; if None, as many as hold 90 % of the variance between its centroids.
    draws : int
        How many random and how many shuffled subspaces to compare with.
    seed : int
        The seed of those subspaces.

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
    numbers: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    angles: dict[str, np.ndarray] = {}
    filled = float("nan")
    for site in names:
        values, codes = _labelled(bank, site, pool, zip(titles, (first, second), strict=True))
        filled = _check_crossed(titles, codes)
        rows, points, angles[site] = _compare(values, codes, titles, rank, draws, draw)
        numbers += [{"site": site, **row} for row in rows]
        curves += [{"site": site, **point} for point in points]
    held = rank if rank is not None else f"{EXPLAINED:.0%} of the centroids' variance"
    settings = {"model": bank.settings.get("model"), "first": titles[0], "second": titles[1], "rank": held}
    settings |= {"pairs_of_classes_seen": filled, "utterances": len(bank), "pool": pool, "draws": draws, "seed": seed}
    return Subspaces(
        first=titles[0],
        second=titles[1],
        numbers=pd.DataFrame(numbers),
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


def _labelled(
    bank: FeatureBank, site: str, pool: str | None, labels: Iterable[tuple[str, str | FrameLabels]]
) -> tuple[Float[np.ndarray, "rows dim"], list[Int[np.ndarray, " rows"]]]:
    """The rows of a site that have all labels, around their mean, and the class of each row for each label."""
    codes = [label_codes(row_labels(bank, site, given, title), title)[0] for title, given in labels]
    there = np.min(codes, axis=0) >= 0
    values = bank.features(site, pool)[there]
    return values - values.mean(0), [np.unique(code[there], return_inverse=True)[1] for code in codes]


def _compare(
    values: np.ndarray,
    codes: Sequence[np.ndarray],
    titles: Sequence[str],
    rank: int | None,
    draws: int,
    draw: np.random.Generator,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], np.ndarray]:
    """The numbers of one site for each label, its curves, and its principal angles in degrees, the smallest first."""
    parts = [_Centroids.of(values, code) for code in codes]
    ranks = [part.rank(rank, title) for part, title in zip(parts, titles, strict=True)]
    bases = [part.directions[:size] for part, size in zip(parts, ranks, strict=True)]
    degrees = np.degrees(subspace_angles(bases[0].T, bases[1].T))[::-1]
    rows, curves = [], []
    for one, two in ((0, 1), (1, 0)):
        curve = parts[one].residual(parts[two].directions).tolist()
        row = {"label": titles[one], "removed": titles[two], "rank": ranks[two]}
        row |= {"residual": curve[ranks[two] - 1], "area": float(np.mean(curve))}
        row |= _by_chance(parts[one], values, codes[two], ranks[two], draws, draw)
        rows.append(row | {"smallest_angle": float(degrees[0])})
        curves += [{"label": titles[one], "removed": 1 + n, "residual": share} for n, share in enumerate(curve)]
    return rows, curves, degrees


def _by_chance(
    centroids: _Centroids, values: np.ndarray, removed: np.ndarray, rank: int, draws: int, draw: np.random.Generator
) -> dict[str, float]:
    """95 % ranges of what is left of centroids without the subspace of shuffled classes, and without a random one."""
    shuffled = [_Centroids.of(values, draw.permutation(removed)).directions for _ in range(draws)]
    random = [np.linalg.qr(draw.standard_normal((values.shape[1], rank)))[0].T for _ in range(draws)]
    ranges: dict[str, float] = {}
    for name, bases in (("random", random), ("shuffled", shuffled)):
        left = [centroids.residual(basis[:rank])[-1] for basis in bases]
        ranges |= {f"{name}_low": float(np.quantile(left, 0.025)), f"{name}_high": float(np.quantile(left, 0.975))}
    return ranges


def _check_crossed(titles: tuple[str, ...], codes: Sequence[np.ndarray]) -> float:
    """Check that centroids can tell the labels apart, and give the share of pairs of classes that occur."""
    for title, code in zip(titles, codes, strict=True):
        if not len(code) or code.max() < 1:
            raise ValueError(f"{title!r} has one class only; there is no variance between classes to look at.")
    pairs = contingency(*codes) > 0
    for one, two, alone in ((*titles, pairs.sum(1) == 1), (*titles[::-1], pairs.sum(0) == 1)):
        if alone.all():
            raise ValueError(
                f"each class of {one!r} comes with one class of {two!r} alone, so their centroids cannot be told "
                "apart; choose labels that are crossed."
            )
    return float(pairs.mean())
