"""How alike layers are, by debiased CKA, held-out CCA or the overlap of principal subspaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from unisat.interpret.features.bank import FeatureBank, known_speakers, matched
from unisat.interpret.result import Result, plots
from unisat.interpret.statistics.intervals import jackknife, leave_out, partition

KINDS = {
    "cka": "debiased linear CKA",
    "cca": "held-out canonical correlation",
    "projection": "overlap of principal subspaces",
}
"""What `layer_similarity` can measure."""

NAMES = ("the first bank", "the second bank")
FOLDS = 5
LIMIT_BYTES = 4_000_000_000  # of Gram matrices


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerSimilarity(Result):
    """How alike each layer of one side is to each layer of the other; `layer_similarity` gives it.

    Attributes
    ----------
    kind : {"cka", "cca", "projection"}
    rows, columns : tuple of str
        The sites compared.
    values : (rows, columns)
        1 for the same representation.
    low, high : (rows, columns)
        95 % interval over speakers; NaN where speakers are not known or fewer than three.
    chance : float
        The similarity that unrelated layers are expected to have.
    names : (str, str) or None
        The models of ``rows`` and ``columns``, for the axes of the picture.
    """

    kind: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Float[np.ndarray, "rows columns"]
    low: Float[np.ndarray, "rows columns"]
    high: Float[np.ndarray, "rows columns"]
    chance: float
    names: tuple[str, str] | None = None

    def table(self) -> pd.DataFrame:
        """Give one row for each pair: ``kind``, ``first``, ``second``, ``similarity``, ``low``, ``high``."""
        pairs = pd.MultiIndex.from_product([self.rows, self.columns], names=["first", "second"]).to_frame(index=False)
        pairs.insert(0, "kind", self.kind)
        return pairs.assign(similarity=self.values.ravel(), low=self.low.ravel(), high=self.high.ravel())

    def plot(self, **options: Any) -> Any:
        """Draw a heat map, or with ``to="hidden.0"`` the curve of similarity to that layer with its interval."""
        return plots().layer_similarity(self.table(), **{"chance": self.chance, "names": self.names, **options})


def layer_similarity(
    bank: FeatureBank,
    other: FeatureBank | None = None,
    *,
    kind: str = "cka",
    sites: Sequence[str] | None = None,
    other_sites: Sequence[str] | None = None,
    pool: str | None = None,
    components: int | None = None,
    same_speaker: bool = True,
    names: tuple[str, str] | None = None,
    blocks: int = 20,
    seed: int = 0,
) -> LayerSimilarity:
    """Measure how alike layers represent the same utterances, within a bank or between two banks.

    ``"cka"`` is linear centred kernel alignment (Kornblith et al. 2019, arXiv:1905.00414) with the unbiased HSIC of
    Song et al. 2012 (as Nguyen et al. 2021). With fewer utterances than channels, the plain estimator calls noise alike
    (0.93 for 60 utterances of 768 independent channels; Murphy et al. 2024, arXiv:2405.01012). CKA does not change when
    features are rotated or all scaled, but it does when single channels are scaled. It takes utterances to be
    independent: with few speakers and many utterances of each it reads high where both layers tell speakers apart, in
    whatever directions. ``same_speaker=False`` leaves pairs of utterances of one speaker out, and asks whether the
    layers find the same *different* speakers alike.

    ``"cca"`` is the mean canonical correlation on held-out utterances. Each side is reduced to its first principal
    components, whitened and rotated on four fifths of the speakers (of the utterances, where speakers are not known);
    the correlation is that of the other fifth. It does not change under any invertible linear map of those components.
    As every fit to a sample, it is below what endless data would give.

    ``"projection"`` is the share of the first principal subspaces that two layers have in common,
    ``|U V^T|^2 / components``. It compares channel with channel, so both layers need the same channels, as the layers
    of one residual stream have.

    Intervals come from a jackknife over speakers in at most ``blocks`` blocks, not from a bootstrap: an utterance that
    is drawn twice would be alike to itself, and this is the bias that the estimator removes. The jackknife of CCA
    leaves blocks out of the held-out correlation and does not fit again.

    Parameters
    ----------
    bank : FeatureBank
        One row for each utterance (``reduce="mean"``, ``"mean+std"``, …).
    other : FeatureBank, optional
        Another model's bank of the same utterances, in any order. It may have more layers, and other channels.
    sites : sequence of str, optional
        Sites of ``bank``; its ``hidden.*`` if None.
    other_sites : sequence of str, optional
        Sites of the other side, such as ``untrained.0.hidden.*`` of the same bank; if None, those of ``sites``.
    pool : {"mean", "mean+std"}, optional
        As in `FeatureBank.features`.
    components : int, optional
        Principal components of CCA and projection; if None 10, or fewer where there are not ten utterances for each.
    same_speaker : bool
        Whether pairs of utterances of one speaker count. Only CKA can leave them out, where speakers are known.
    names : (str, str), optional
        What the models of ``bank`` and ``other`` are called in pictures and messages.
    blocks : int
        Most blocks of speakers for the jackknife; 0 for no interval.
    seed : int
        The seed that puts speakers into blocks and folds.

    Raises
    ------
    ValueError
        If the banks hold different utterances, there are too few of them, a layer does not vary, or widths do not fit.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(KINDS)}.")
    if blocks < 0 or blocks in (1, 2):
        raise ValueError(f"blocks={blocks} must be at least 3, or 0 for no interval.")
    if names is not None and (isinstance(names, str) or len(names) != 2):
        raise ValueError(f"names={names!r} must be two: of the first bank's model and of the other's.")
    called = NAMES if names is None else (repr(names[0]), repr(names[1]))
    second = bank if other is None else matched(bank, other, called)
    rows, columns = _sites(bank, second, sites, other_sites)
    same = second is bank and rows == columns
    _check_size(kind, len(bank), len(rows) + (0 if same else len(columns)), components)
    left = [_centred(bank, site, pool) for site in rows]
    right = left if same else [_centred(second, site, pool) for site in columns]
    widths = sorted({values.shape[1] for values in [*left, *right]})
    rank = _rank(kind, components, len(bank), widths)
    speakers = known_speakers(bank)
    block, folds = _blocks(speakers, len(bank), blocks, seed), _folds(speakers, len(bank), seed)
    if not same_speaker and (kind != "cka" or speakers is None or len(set(speakers)) < 4):
        raise ValueError("same_speaker=False is for kind='cka' and a bank that knows its speakers, at least four.")
    values, left_out = _measure(kind, left, right, rank, block, folds, None if same_speaker else speakers)
    reach = np.full_like(values, np.nan) if left_out is None else jackknife(left_out)
    settings = {"kind": KINDS[kind], "model": bank.settings.get("model"), "other_model": second.settings.get("model")}
    settings |= {"utterances": len(bank), "speakers": None if speakers is None else len(set(speakers)), "pool": pool}
    settings |= {"components": None if kind == "cka" else rank, "same_speaker": same_speaker}
    settings |= {"blocks": 0 if block is None else int(block.max()) + 1, "seed": seed}
    settings["names"] = names
    return LayerSimilarity(
        kind=kind,
        rows=tuple(rows),
        columns=tuple(columns),
        values=values,
        low=np.clip(values - reach, -1, 1),
        high=np.clip(values + reach, -1, 1),
        chance=rank / widths[0] if kind == "projection" else 0.0,
        names=names,
        settings=settings,
    )


def _sites(
    bank: FeatureBank, second: FeatureBank, sites: Sequence[str] | None, other_sites: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The sites of both sides, all with one row for each utterance."""
    rows = list(bank.hidden if sites is None else sites)
    columns = list(other_sites if other_sites is not None else second.hidden if sites is None else rows)
    for names, side in ((rows, bank), (columns, second)):
        if not names:
            raise ValueError(f"there are no layers to compare; name sites, the bank has {', '.join(side.sites)}.")
        for site in names:
            if side.is_frames(site):
                raise ValueError(f"{site!r} has a row for each frame; collect the bank with reduce='mean' to compare.")
    return rows, columns


def _check_size(kind: str, count: int, layers: int, components: int | None) -> None:
    """Refuse too few utterances for the measure, and more than memory holds."""
    if kind != "cka":
        if count < 20:
            raise ValueError(
                f"kind={kind!r} needs at least 20 utterances, ten for each of two components, got {count}."
            )
        if components is not None and not 1 <= components <= count // 10:
            raise ValueError(
                f"components={components} must lie between 1 and {count // 10}, a tenth of the {count} utterances: "
                "fitted to fewer, unrelated layers look alike."
            )
        return
    if count < 4:
        raise ValueError(f"debiased CKA needs at least 4 utterances, got {count}.")
    if layers * count**2 * 8 > LIMIT_BYTES:
        most = int((LIMIT_BYTES / 8 / layers) ** 0.5)
        raise ValueError(
            f"{layers} layers of {count:,} utterances need {layers * count**2 * 8 / 1e9:.1f} GB of Gram matrices; "
            f"take at most {most:,} utterances (bank.take) or fewer sites."
        )


def _rank(kind: str, components: int | None, count: int, widths: Sequence[int]) -> int:
    """How many principal components of each site are compared."""
    rank = min(10, count // 10, widths[0]) if components is None else components
    if kind != "cka" and rank > widths[0]:
        raise ValueError(f"components={components} is more than the {widths[0]} channels of the narrowest site.")
    if kind == "projection" and len(widths) > 1:
        raise ValueError(
            "kind='projection' compares channel with channel, so all sites must have the same width, got "
            f"{widths}; use kind='cka' or 'cca'."
        )
    return rank


def _centred(bank: FeatureBank, site: str, pool: str | None) -> Float[np.ndarray, "utterances dim"]:
    values = bank.features(site, pool)
    if not np.ptp(values, axis=0).any():
        raise ValueError(f"{site} is the same for all {len(values)} utterances; there is nothing to compare.")
    return values - values.mean(0)


def _blocks(speakers: np.ndarray | None, count: int, most: int, seed: int) -> Int[np.ndarray, " utterances"] | None:
    """The block of each utterance for the jackknife; None where there can be no interval."""
    if speakers is None or not most:
        return None
    block = partition(speakers, most, seed)
    # two speakers say nothing of others, three utterances nothing at all
    return None if block.max() < 2 or np.bincount(block).max() > count - 4 else block


def _folds(speakers: np.ndarray | None, count: int, seed: int) -> Int[np.ndarray, " utterances"]:
    """The fold of each utterance for CCA: speakers stay together where there are enough of them."""
    groups = np.arange(count) if speakers is None or len(set(speakers)) < FOLDS else speakers
    return partition(groups, FOLDS, seed)


def _measure(
    kind: str,
    left: Sequence[np.ndarray],
    right: Sequence[np.ndarray],
    rank: int,
    block: np.ndarray | None,
    folds: np.ndarray,
    apart: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The similarity of each pair of sites, and without each block of utterances.

    CKA leaves out pairs of utterances that are of one group in ``apart``.
    """
    if kind == "cca":
        return _held_out(left, right, rank, folds, block)
    if kind == "projection":
        return leave_out(lambda keep: _overlap(left, right, rank, keep), len(folds), block)
    gram_left = [values @ values.T for values in left]
    gram_right = gram_left if right is left else [values @ values.T for values in right]
    return leave_out(lambda keep: _cka(gram_left, gram_right, keep, apart), len(folds), block)


def _cka(
    left: Sequence[np.ndarray], right: Sequence[np.ndarray], keep: np.ndarray, apart: np.ndarray | None
) -> np.ndarray:
    group = None if apart is None else apart[keep]
    first = np.stack([_unit(gram, keep, group) for gram in left])
    second = first if right is left else np.stack([_unit(gram, keep, group) for gram in right])
    return np.clip(first @ second.T, -1, 1)


def _unit(gram: np.ndarray, keep: np.ndarray, group: np.ndarray | None) -> np.ndarray:
    """Give a U-centred Gram matrix as a vector of length 1; the product of two is HSIC_1 over the geometric mean.

    Song et al. 2012, eq. 5, in the form of Székely and Rizzo 2014: without the diagonal, rows and columns sum to 0. So
    they do without the pairs of one group, where groups are given.
    """
    gram = gram[np.ix_(keep, keep)]
    count = len(gram)
    if group is not None:
        pairs = (group[:, None] != group).astype(float)
        row = np.linalg.lstsq(pairs + np.diag(pairs.sum(1)), (pairs * gram).sum(1), rcond=None)[0]
        gram = pairs * (gram - row - row[:, None])
        return gram.ravel() / np.linalg.norm(gram)
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
    left: Sequence[np.ndarray], right: Sequence[np.ndarray], rank: int, folds: np.ndarray, block: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean held-out canonical correlation of each pair, and without each block of utterances."""
    reduced = []  # for each fold, each side: whitened components of all rows
    for fold in range(folds.max() + 1):
        train = folds != fold
        first = [_whitened(values, train, rank) for values in left]
        reduced.append((train, first, first if right is left else [_whitened(values, train, rank) for values in right]))
    part = np.zeros(len(folds), dtype=int) if block is None else block
    sums = np.zeros((part.max() + 1, len(left), len(right), 3, rank))  # of ab, aa, bb over the held-out rows
    for train, first, second in reduced:
        for i, one in enumerate(first):
            for j, two in enumerate(second):
                rotate, _, turn = np.linalg.svd(one[train].T @ two[train])
                a, b = one[~train] @ rotate, two[~train] @ turn.T
                for which, product in enumerate((a * b, a * a, b * b)):
                    np.add.at(sums[:, i, j, which], part[~train], product)

    def correlation(total: np.ndarray) -> np.ndarray:
        return (total[..., 0, :] / np.sqrt(total[..., 1, :] * total[..., 2, :])).mean(-1)

    total = sums.sum(0)
    return correlation(total), None if block is None else correlation(total - sums)


def _whitened(values: np.ndarray, train: np.ndarray, rank: int) -> np.ndarray:
    """Give the first principal components of all rows, with mean 0 and variance 1 on the training rows."""
    fitted = values[train]
    middle = fitted.mean(0)
    _, scales, directions = np.linalg.svd(fitted - middle, full_matrices=False)
    if scales[rank - 1] <= scales[0] * 1e-10:
        raise ValueError(f"a site varies in fewer than components={rank} directions; choose fewer components.")
    return (values - middle) @ directions[:rank].T / scales[:rank] * np.sqrt(len(fitted))
