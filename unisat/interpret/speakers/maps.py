"""A layer in two dimensions, with the numbers that say how much of it the picture keeps."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from unisat.corpus import Batch, Corpus
from unisat.frames import SAMPLE_RATE
from unisat.interpret.activations.sites import find_backbone
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.features.batching import ReadAhead, Speech, batches, default_seconds
from unisat.interpret.features.collect import collect, fingerprint
from unisat.interpret.result import Result, plots
from unisat.xvector import UniSpeechSatForXVector

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
    mapper : callable, optional
        From features (points, dim) to coordinates; `place` calls it.
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
        """Give the points of other utterances on the same picture: the map is not fitted again.

        PCA and LDA project them. On UMAP a point lies between its three nearest neighbours in the features, the nearer
        the more: UMAP's own search for a place takes seconds at first, and can end beside an equal point.
        """
        if self.mapper is None:
            raise ValueError("this embedding was made without its map; make it anew with us.embed.")
        return self.mapper(np.asarray(features, dtype=float))

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
    mean, scale = np.zeros(values.shape[1]), np.ones(values.shape[1])
    if standardize:
        mean, scale = values[fitted].mean(0), values[fitted].std(0)
        scale = np.where(scale > 0, scale, 1)
    values = (values - mean) / scale
    explained: tuple[float, float] | None = None
    if method == "umap":
        coordinates, transform = _umap(values, n_neighbors, seed)
    elif method == "pca":
        coordinates, explained, transform = _pca(values)
    else:
        coordinates, explained, transform = _lda(values, labels, fitted, color)
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
        mapper=lambda features: transform((features - mean) / scale),
        settings=settings,
    )
    settings |= {"trustworthiness": result.trustworthiness, "purity": result.purity(), "explained": explained}
    return result


def neighbours(
    bank: FeatureBank, site: str, of: int | Float[np.ndarray, " dim"], *, count: int = 5, pool: str | None = None
) -> pd.DataFrame:
    """Give the utterances nearest to one of the bank's, or to other features: rows of its table with ``similarity``.

    Which is the cosine of channels brought to mean 0 and variance 1 over the bank, what `us.verify_trials` scores.
    """
    values = bank.features(site, pool)
    new = values[of] if isinstance(of, int) else np.asarray(of, dtype=float)
    mean, scale = values.mean(0), values.std(0)
    scale = np.where(scale > 0, scale, 1)
    values, new = (values - mean) / scale, (new - mean) / scale
    least = np.finfo(float).tiny
    cosine = values @ new / np.maximum(np.linalg.norm(values, axis=1) * np.linalg.norm(new), least)
    order = [row for row in np.argsort(-cosine, kind="stable") if not isinstance(of, int) or row != of][:count]
    return bank.table.iloc[order].assign(similarity=cosine[order])


def again(model: nn.Module, bank: FeatureBank, speech: Batch) -> FeatureBank:
    """Measure other utterances as those of a bank were measured, with the model that it was made with.

    Raises
    ------
    ValueError
        If it is another model, or the bank does not say how it was made.
    """
    if "model" not in bank.about:
        raise ValueError("the bank does not say how it was made; make it with us.collect or xvectors.")
    if bank.about["model"] not in (fingerprint(model), fingerprint(find_backbone(model)[1])):
        raise ValueError("the bank was made with another model than this; pass the one that was given to us.collect.")
    about: dict[str, Any] = {name: value for name, value in bank.about.items() if name in SAME}
    if "reduce" not in bank.about:
        return xvectors(cast(UniSpeechSatForXVector, model), speech, **about)
    if bank.about["reduce"] not in ("mean", "mean+std"):
        raise ValueError(f"reduce={bank.about['reduce']!r} cannot be repeated here; collect with 'mean' or 'mean+std'.")
    about["untrained_seeds"] = max(1, about["untrained_seeds"])
    return collect(model, speech, reduce=bank.about["reduce"], progress=False, **about)


def again_each(model: nn.Module, banks: Iterable[FeatureBank], speech: Batch) -> dict[FeatureBank, FeatureBank]:
    """Measure other utterances as those of several banks were measured, each bank once; see `again`.

    X-vectors come first: they need the longest utterance, and say whose is too short.
    """
    return {bank: again(model, bank, speech) for bank in sorted(set(banks), key=lambda bank: "reduce" in bank.about)}


def every_other(table: pd.DataFrame) -> Bool[np.ndarray, " utterances"]:
    """True on every other utterance of each speaker: half of them to fit LDA on, the others to judge it by."""
    speaker = table["speaker" if "speaker" in table else "id"].astype(str)
    return (speaker.groupby(speaker).cumcount() % 2 == 0).to_numpy()


SAME = ("max_seconds", "do_normalize", "sites", "frames", "baselines", "untrained_seeds", "seed")


Transform = Callable[[np.ndarray], np.ndarray]


def xvectors(
    model: UniSpeechSatForXVector,
    speech: Corpus | Batch,
    *,
    max_seconds: float | None = None,
    do_normalize: bool = True,
    batch_seconds: float | None = None,
) -> FeatureBank:
    """Give the x-vector of each utterance as a bank with the site ``"xvector"``: what `us.collect` is for layers.

    ``us.verify_trials(bank, "xvector")`` and ``us.embed(bank, "xvector")`` read it.

    Parameters
    ----------
    model : UniSpeechSatForXVector
        Put into evaluation mode for the time.
    max_seconds : float, optional
        Hear only the beginning of longer utterances.
    do_normalize : bool
        Bring each waveform to zero mean and unit variance, as the model was trained.
    batch_seconds : float, optional
        Most seconds of audio in one batch, padding included; if None, as `us.collect` chooses.

    Raises
    ------
    ValueError
        If the model has no x-vectors, or an utterance is too short for one or cannot be read.
    """
    if not isinstance(model, UniSpeechSatForXVector):
        raise ValueError(
            f"a {type(model).__name__} gives no x-vectors; load a model that does, us.load('tiny', 'xvector') for one."
        )
    source = Speech(speech, max_seconds, do_normalize)
    table = source.table
    rows: list[int] = []
    found: list[np.ndarray] = []
    seconds = default_seconds(model.device) if batch_seconds is None else batch_seconds
    plan = list(enumerate(batches(table["seconds"].to_numpy(float), seconds)))
    ahead = ReadAhead(source, plan, model.device, least=round(model.shortest_seconds * SAMPLE_RATE))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for batch in ahead:
            for row in batch.wanted:
                if row not in batch.waveforms:
                    samples, least = batch.too_short.get(row), model.shortest_seconds
                    what = "cannot be read" if samples is None else f"has {samples / SAMPLE_RATE:.3f} s"
                    name = table["id"].iloc[row]
                    raise ValueError(f"{name!r} {what}; an x-vector needs {least:g} s: leave that utterance out.")
            with torch.inference_mode(), ahead.working():
                there = [
                    part.to(model.device, non_blocking=True) for part in (batch.input_values, batch.attention_mask)
                ]
                found.append(model(there[0], attention_mask=there[1]).embeddings.float().cpu().numpy())
            rows.extend(batch.rows)
    finally:
        for module, training in modes:
            module.training = training
    about = {"model": fingerprint(model), "max_seconds": max_seconds, "do_normalize": do_normalize}
    bank = FeatureBank.from_arrays(table, {"xvector": np.concatenate(found)[np.argsort(rows)]}, about)
    bank.timing = ahead.timing()
    return bank


def _umap(values: np.ndarray, n_neighbors: int, seed: int) -> tuple[np.ndarray, Transform]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
            umap = importlib.import_module("umap")
    except ImportError as error:
        raise ImportError("method='umap' needs umap-learn: pip install 'unisat[measure]'.") from error
    mapper = umap.UMAP(n_neighbors=n_neighbors, random_state=seed, n_jobs=1)
    coordinates = np.asarray(mapper.fit_transform(values), dtype=float)
    near = _sklearn("neighbors").NearestNeighbors(n_neighbors=3).fit(values)

    def transform(new: np.ndarray) -> np.ndarray:
        distance, rows = near.kneighbors(new)
        weight = 1 / np.maximum(distance, 1e-9) ** 2
        return np.einsum("pn,pnc->pc", weight / weight.sum(1, keepdims=True), coordinates[rows])

    return coordinates, transform


def _pca(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float], Transform]:
    middle = values.mean(0)
    values = values - middle
    left, scales, right = np.linalg.svd(values, full_matrices=False)
    total = np.square(scales).sum()
    if len(scales) < 2 or not total > 0:
        raise ValueError("PCA needs features that vary, in at least two channels.")
    # the largest loading positive: the same picture on any machine
    signs = np.sign(right[np.arange(2), np.abs(right[:2]).argmax(1)])
    share = np.square(scales[:2]) / total
    loadings = right[:2].T * signs
    return left[:, :2] * scales[:2] * signs, (float(share[0]), float(share[1])), lambda new: (new - middle) @ loadings


def _lda(
    values: np.ndarray, labels: np.ndarray, fitted: np.ndarray, color: str
) -> tuple[np.ndarray, tuple[float, float], Transform]:
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
    except np.linalg.LinAlgError as error:  # of two utterances Ledoit and Wolf shrink nothing
        least = min((labels[fitted] == name).sum() for name in classes)
        raise ValueError(
            f"LDA needs at least 3 utterances of each class to fit on, {color!r} has a class with {least}. Collect "
            "more, or use method='pca' or 'umap'."
        ) from error
    # not explained_variance_ratio_: with shrinkage that counts negative eigenvalues, and can exceed 1
    apart = (discriminant.means_ @ discriminant.scalings_).var(0)
    share = apart[:2] / apart.sum()
    return coordinates, (float(share[0]), float(share[1])), discriminant.transform


def _nearest(values: np.ndarray, count: int) -> np.ndarray:
    return _sklearn("neighbors").NearestNeighbors(n_neighbors=count).fit(values).kneighbors(return_distance=False)


def _trustworthiness(values: np.ndarray, coordinates: np.ndarray, count: int) -> float:
    return float(_sklearn("manifold").trustworthiness(values, coordinates, n_neighbors=max(count, 1)))


def _sklearn(part: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{part}")
    except ImportError as error:
        raise ImportError("a picture's numbers need scikit-learn: pip install 'unisat[measure]'.") from error
