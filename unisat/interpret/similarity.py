"""How alike layers are (debiased CKA, held-out CCA, principal subspaces), and in which directions labels live."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from unisat.interpret.bank import FeatureBank
from unisat.interpret.result import Result, plots

KINDS = {
    "cka": "debiased linear CKA",
    "cca": "held-out canonical correlation",
    "projection": "overlap of principal subspaces",
}
"""What `layer_similarity` can measure."""

FOLDS = 5
LIMIT_BYTES = 4_000_000_000  # of Gram matrices
EXPLAINED = 0.9  # share of the centroids' variance that a label's subspace holds where no rank is given


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerSimilarity(Result):
    """How alike each layer of one side is to each of the other; of `layer_similarity`.

    Attributes
    ----------
    kind : {"cka", "cca", "projection"}
    rows, columns : tuple of str
        The sites compared.
    values : (rows, columns)
        1 for the same representation.
    low, high : (rows, columns)
        95 % interval over speakers; NaN where they are not known, or fewer than three.
    chance : float
        What unrelated layers are expected to have.
    """

    kind: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Float[np.ndarray, "rows columns"]
    low: Float[np.ndarray, "rows columns"]
    high: Float[np.ndarray, "rows columns"]
    chance: float

    def table(self) -> pd.DataFrame:
        """Give one row for each pair: ``kind``, ``first``, ``second``, ``similarity``, ``low``, ``high``."""
        pairs = pd.MultiIndex.from_product([self.rows, self.columns], names=["first", "second"]).to_frame(index=False)
        pairs.insert(0, "kind", self.kind)
        return pairs.assign(similarity=self.values.ravel(), low=self.low.ravel(), high=self.high.ravel())

    def plot(self, **options: Any) -> Any:
        """Draw a heat map, or with ``to="hidden.0"`` the curve of similarity to that layer with its interval."""
        return plots().layer_similarity(self.table(), **{"chance": self.chance, **options})


def layer_similarity(
    bank: FeatureBank,
    other: FeatureBank | None = None,
    *,
    kind: str = "cka",
    sites: Sequence[str] | None = None,
    other_sites: Sequence[str] | None = None,
    pool: str | None = None,
    components: int | None = None,
    blocks: int = 20,
    seed: int = 0,
) -> LayerSimilarity:
    """Give how alike layers represent the same utterances, within a bank or between two.

    ``"cka"`` is linear centred kernel alignment (Kornblith et al. 2019, arXiv:1905.00414) with the unbiased HSIC of
    Song et al. 2012 (as Nguyen et al. 2021): with fewer utterances than channels the plain estimator calls noise alike
    (0.93 for 60 utterances of 768 independent channels; Murphy et al. 2024, arXiv:2405.01012). It is blind to rotation
    and to the size of the features, not to that of single channels. Utterances are taken to be independent: with few
    speakers and many utterances of each it reads high where both layers tell the speakers apart.

    ``"cca"`` is the mean canonical correlation on held-out utterances. Each side is reduced to its first principal
    components, whitened and rotated on four fifths of the speakers (of the utterances, where speakers are not known);
    the correlation is that of the fifth left out. It is blind to every invertible linear map of those components, and
    below what endless data would give, as every fit to a sample is.

    ``"projection"`` is the share of the first principal subspaces that two layers have in common,
    ``|U V^T|^2 / components``. It compares channel with channel, so both need the same ones: layers of one residual
    stream do.

    Intervals come from a jackknife over speakers in at most ``blocks`` blocks, not from a bootstrap: an utterance drawn
    twice would be alike to itself, which is the very bias that the estimator takes away. That of CCA leaves blocks out
    of the held-out correlation and does not fit anew.

    Parameters
    ----------
    bank : FeatureBank
        One row for each utterance (``reduce="mean"``, ``"mean+std"``, …).
    other : FeatureBank, optional
        Another model's bank of the same utterances, in any order.
    sites : sequence of str, optional
        Sites of ``bank``; its ``hidden.*`` if None.
    other_sites : sequence of str, optional
        Sites of the other side, such as ``untrained.0.hidden.*`` of the same bank; as ``sites`` if None.
    pool : {"mean", "mean+std"}, optional
        As in `FeatureBank.features`.
    components : int, optional
        Principal components of CCA and projection; if None 10, or fewer where there are not ten utterances for each.
    blocks : int
        Most blocks of speakers for the jackknife; 0 for no interval.
    seed : int
        Of how speakers are put into blocks and folds.

    Raises
    ------
    ValueError
        If the banks hold different utterances, there are too few of them, a layer does not vary, or widths do not fit.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(KINDS)}.")
    if blocks < 0 or blocks in (1, 2):
        raise ValueError(f"blocks={blocks} must be at least 3, or 0 for no interval.")
    second = bank if other is None else matched(bank, other)
    rows = list(bank.hidden if sites is None else sites)
    columns = list(other_sites if other_sites is not None else second.hidden if sites is None else rows)
    for names, side in ((rows, bank), (columns, second)):
        if not names:
            raise ValueError(f"there are no layers to compare; name sites, the bank has {', '.join(side.sites)}.")
        for site in names:
            if side.is_frames(site):
                raise ValueError(f"{site!r} has a row for each frame; collect the bank with reduce='mean' to compare.")
    count = len(bank)
    same = second is bank and rows == columns
    if kind == "cka":
        _check_size(count, len(rows) + (0 if same else len(columns)))
    else:
        _check_components(kind, count, components)
    left = [_centred(bank, site, pool) for site in rows]
    right = left if same else [_centred(second, site, pool) for site in columns]
    widths = sorted({values.shape[1] for values in [*left, *right]})
    rank = min(10, count // 10, widths[0]) if components is None else components
    if kind != "cka" and rank > widths[0]:
        raise ValueError(f"components={components} is more than the {widths[0]} channels of the narrowest site.")
    if kind == "projection" and len(widths) > 1:
        raise ValueError(
            "kind='projection' compares channel with channel, so all sites must have the same width, got "
            f"{widths}; use kind='cka' or 'cca'."
        )
    speakers = known_speakers(bank)
    parts = None if speakers is None or not blocks else partition(speakers, blocks, seed)
    if parts is not None and (parts.max() < 2 or np.bincount(parts).max() > count - 4):
        parts = None  # two speakers say nothing of others, three utterances nothing at all
    chance = 0.0
    if kind == "cka":
        gram_left = [values @ values.T for values in left]
        gram_right = gram_left if same else [values @ values.T for values in right]
        values, left_out = leave_out(lambda keep: _cka(gram_left, gram_right, keep), count, parts)
    elif kind == "projection":
        chance = rank / widths[0]
        values, left_out = leave_out(lambda keep: _overlap(left, right, rank, keep), count, parts)
    else:
        units = np.arange(count) if speakers is None or len(set(speakers)) < FOLDS else speakers
        values, left_out = _held_out(left, right, rank, partition(units, FOLDS, seed), parts)
    low, high = jackknife(values, left_out)
    settings = {
        "kind": KINDS[kind],
        "model": bank.about.get("model"),
        "other_model": second.about.get("model"),
        "utterances": count,
        "speakers": None if speakers is None else len(set(speakers)),
        "pool": pool,
        "components": None if kind == "cka" else rank,
        "blocks": 0 if parts is None else int(parts.max()) + 1,
        "seed": seed,
    }
    return LayerSimilarity(
        kind=kind,
        rows=tuple(rows),
        columns=tuple(columns),
        values=values,
        low=low,
        high=high,
        chance=chance,
        settings=settings,
    )


def matched(bank: FeatureBank, other: FeatureBank) -> FeatureBank:
    """The other bank with its utterances in the order of the first.

    Raises
    ------
    ValueError
        If the two do not hold the same utterances, each once.
    """
    for name, side in (("first", bank), ("second", other)):
        if len(set(side.ids)) < len(side):
            raise ValueError(f"the {name} bank has {len(side) - len(set(side.ids))} ids more than once.")
    missing, extra = sorted(set(bank.ids) - set(other.ids)), sorted(set(other.ids) - set(bank.ids))
    if missing or extra:
        raise ValueError(
            f"both banks must hold the same utterances; {len(missing)} are only in the first (such as {missing[:1]}) "
            f"and {len(extra)} only in the second ({extra[:1]}). Take those that both have: bank.where(id=[…])."
        )
    place = {name: row for row, name in enumerate(other.ids)}
    return other.take([place[name] for name in bank.ids])


def known_speakers(bank: FeatureBank) -> np.ndarray | None:
    """Who speaks in each utterance; None where that is not known of all."""
    if "speaker" not in bank.table or (bank.table["speaker"].isna() | (bank.table["speaker"].astype(str) == "")).any():
        return None
    return bank.labels("speaker")


def partition(units: Sequence[Any] | np.ndarray, count: int, seed: int = 0) -> Int[np.ndarray, " rows"]:
    """The block of each row: units (speakers) in a random order dealt into at most ``count`` blocks."""
    names, codes = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(names)) % min(count, len(names)))[codes]


def leave_out(
    measure: Callable[[np.ndarray], np.ndarray], rows: int, parts: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Measure on all rows, and again without each block."""
    everything = measure(np.arange(rows))
    if parts is None:
        return everything, None
    return everything, np.stack([measure(np.flatnonzero(parts != part)) for part in range(parts.max() + 1)])


def jackknife(values: np.ndarray, left_out: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a similarity from its values without each block (Student's t, cut at -1 and 1)."""
    if left_out is None:
        return np.full_like(values, np.nan), np.full_like(values, np.nan)
    student = _scipy("stats").t.ppf(0.975, len(left_out) - 1)
    squares = (left_out - left_out.mean(0)) ** 2
    half = student * np.sqrt((len(left_out) - 1) * squares.mean(0))
    return np.clip(values - half, -1, 1), np.clip(values + half, -1, 1)


def _check_size(count: int, layers: int) -> None:
    if count < 4:
        raise ValueError(f"debiased CKA needs at least 4 utterances, got {count}.")
    if layers * count**2 * 8 > LIMIT_BYTES:
        most = int((LIMIT_BYTES / 8 / layers) ** 0.5)
        raise ValueError(
            f"{layers} layers of {count:,} utterances need {layers * count**2 * 8 / 1e9:.1f} GB of Gram matrices; "
            f"take at most {most:,} utterances (bank.take) or fewer sites."
        )


def _check_components(kind: str, count: int, components: int | None) -> None:
    if count < 20:
        raise ValueError(f"kind={kind!r} needs at least 20 utterances, ten for each of two components, got {count}.")
    if components is not None and not 1 <= components <= count // 10:
        raise ValueError(
            f"components={components} must lie between 1 and {count // 10}, a tenth of the {count} utterances: fitted "
            "to fewer, unrelated layers look alike."
        )


def _centred(bank: FeatureBank, site: str, pool: str | None) -> np.ndarray:
    values = bank.features(site, pool)
    if not np.ptp(values, axis=0).any():
        raise ValueError(f"{site} is the same for all {len(values)} utterances; there is nothing to compare.")
    return values - values.mean(0)


def _cka(left: Sequence[np.ndarray], right: Sequence[np.ndarray], keep: np.ndarray) -> np.ndarray:
    first = np.stack([_unit(gram, keep) for gram in left])
    return np.clip(first @ (first if right is left else np.stack([_unit(gram, keep) for gram in right])).T, -1, 1)


def _unit(gram: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """A U-centred Gram matrix as a vector of length 1: products of two of them are HSIC_1 over the geometric mean.

    Song et al. 2012, eq. 5, in the form of Székely and Rizzo 2014: rows and columns that sum to 0 beside the diagonal.
    """
    gram = gram[np.ix_(keep, keep)]
    count = len(gram)
    np.fill_diagonal(gram, 0)
    means = gram.sum(1) / (count - 2)
    gram -= means
    gram -= means[:, None]
    gram += means.sum() / (count - 1)
    np.fill_diagonal(gram, 0)
    return gram.ravel() / np.linalg.norm(gram)


def _overlap(left: Sequence[np.ndarray], right: Sequence[np.ndarray], rank: int, keep: np.ndarray) -> np.ndarray:
    first = [_principal(values[keep])[:rank] for values in left]
    second = first if right is left else [_principal(values[keep])[:rank] for values in right]
    return np.array([[np.square(one @ two.T).sum() / rank for two in second] for one in first])


def _principal(values: np.ndarray) -> np.ndarray:
    """Principal directions as rows, the largest first."""
    return np.linalg.svd(values - values.mean(0), full_matrices=False)[2]


def _held_out(
    left: Sequence[np.ndarray], right: Sequence[np.ndarray], rank: int, folds: np.ndarray, parts: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean held-out canonical correlation of each pair, and without each block."""
    reduced = []  # for each fold, each side: whitened components of all rows
    for fold in range(folds.max() + 1):
        train = folds != fold
        first = [_whitened(values, train, rank) for values in left]
        reduced.append((train, first, first if right is left else [_whitened(values, train, rank) for values in right]))
    groups = np.zeros(len(folds), dtype=int) if parts is None else parts
    sums = np.zeros((groups.max() + 1, len(left), len(right), 3, rank))  # of ab, aa, bb over the held-out rows
    for train, first, second in reduced:
        for i, one in enumerate(first):
            for j, two in enumerate(second):
                rotate, _, turn = np.linalg.svd(one[train].T @ two[train])
                a, b = one[~train] @ rotate, two[~train] @ turn.T
                for which, product in enumerate((a * b, a * a, b * b)):
                    np.add.at(sums[:, i, j, which], groups[~train], product)

    def correlation(total: np.ndarray) -> np.ndarray:
        return (total[..., 0, :] / np.sqrt(total[..., 1, :] * total[..., 2, :])).mean(-1)

    total = sums.sum(0)
    return correlation(total), None if parts is None else correlation(total - sums)


def _whitened(values: np.ndarray, train: np.ndarray, rank: int) -> np.ndarray:
    """The first principal components of all rows, with mean 0 and variance 1 on the training rows."""
    fitted = values[train]
    middle = fitted.mean(0)
    _, scales, directions = np.linalg.svd(fitted - middle, full_matrices=False)
    if scales[rank - 1] <= scales[0] * 1e-10:
        raise ValueError(f"a site varies in fewer than components={rank} directions; choose fewer components.")
    return (values - middle) @ directions[:rank].T / scales[:rank] * np.sqrt(len(fitted))


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
        degrees = np.degrees(_scipy("linalg").subspace_angles(bases[0].T, bases[1].T))[::-1]
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


def _scipy(part: str) -> Any:
    try:
        return importlib.import_module(f"scipy.{part}")
    except ImportError as error:
        raise ImportError("intervals and angles need scipy: pip install 'unisat[measure]'.") from error
