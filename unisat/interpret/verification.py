"""Are two recordings of one voice: trials, their scores, and the error rates, with intervals over speakers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from unisat.interpret.bank import FeatureBank
from unisat.interpret.plda import fit_plda
from unisat.interpret.result import Result, plots

Backend = Literal["cosine", "lda", "plda"]
Scale = Literal["standard", "centre", "raw"]
MOST_PAIRS = 20_000_000
"""All pairs of more utterances than make this many would fill the memory; a trial list is needed then."""

LEAST_ERRORS = 30
"""Doddington's rule of 30: with so many errors a rate lies within 30 % of the truth, at 90 % confidence."""

PRIORS = (0.01, 0.05)  # of target trials, in a summary
BLOCK = 4_000_000  # weights of trials in memory at once, in a bootstrap


def _check(scores: np.ndarray, same: np.ndarray, weights: np.ndarray) -> None:
    if scores.ndim != 1 or scores.shape != same.shape or scores.shape != weights.shape:
        raise ValueError(
            f"scores, same and weights must be one number a trial, got {scores.shape}, {same.shape}, {weights.shape}."
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} of {len(scores)} scores are not finite.")
    if not weights[same].sum() > 0 or not weights[~same].sum() > 0:
        raise ValueError("an error rate needs trials of one speaker and trials of two.")


def _rates(scores: np.ndarray, same: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds from strict (nothing is accepted) to lax, with the shares accepted of targets and impostors."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # the last of equal scores
    hits, alarms = (np.cumsum((weights * kind)[order]) for kind in (same, ~same))
    accepted, false_alarm = (np.append(0, total[ends]) / total[-1] for total in (hits, alarms))
    return np.append(np.inf, scores[order][ends]), accepted, false_alarm


def _eer_rounds(
    scores: np.ndarray,
    same: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    count: Float[np.ndarray, "speakers rounds"],
) -> np.ndarray:
    """The `eer` in each round of a bootstrap that has trials of both kinds, as if each were computed alone.

    What a trial counts depends only on the pair of its speakers. So the sorted trials are cut into blocks, a table says
    how often each pair comes in each block, one product of matrices gives all rounds' rates at the blocks' ends, and
    only the block where a round's rates cross is looked at trial by trial.
    """
    order = np.argsort(-scores, kind="stable")
    scores, same, first, second = scores[order], same[order], first[order], second[order]
    last = np.append(np.diff(scores) != 0, True)
    threshold = np.cumsum(last) - last  # number of each trial's own
    keys, pair = np.unique((first * len(count) + second) * 2 + same, return_inverse=True)
    weights = count[keys // 2 // len(count)] * count[keys // 2 % len(count)]  # (pairs, rounds)
    target = keys % 2 == 1
    blocks = min(int(np.sqrt(100 * len(scores) / len(keys))), threshold[-1] + 1)
    block = threshold * blocks // (threshold[-1] + 1)
    table = np.bincount(block * len(keys) + pair, minlength=blocks * len(keys)).reshape(blocks, -1).astype(float)
    starts = np.searchsorted(block, np.arange(blocks + 1))
    hits, alarms = (table[:, kind] @ weights[kind] for kind in (target, ~target))  # (blocks, rounds)
    both = (hits.sum(0) > 0) & (alarms.sum(0) > 0)
    hits, alarms = (np.cumsum(np.pad(kind[:, both], ((1, 0), (0, 0))), axis=0) for kind in (hits, alarms))
    weights = weights[:, both]
    crossed = np.argmax((1 - hits[1:] / hits[-1]) - alarms[1:] / alarms[-1] <= 0, axis=0)
    rates = np.zeros(len(crossed))
    for number in np.unique(crossed):
        rounds, here = np.flatnonzero(crossed == number), slice(starts[number], starts[number + 1])
        counted = weights[pair[here]][:, rounds]
        shares = []
        for total, kind in ((hits, same[here]), (alarms, ~same[here])):
            inside = total[number, rounds] + np.cumsum(counted * kind[:, None], axis=0)[last[here]]
            shares.append(np.concatenate([total[number, rounds][None], inside]) / total[-1, rounds])
        rates[rounds] = _crossing(*shares)
    return rates


def _crossing(accepted: np.ndarray, false_alarm: np.ndarray) -> Any:
    """Where the misses equal the false alarms, along the first axis; a straight line between two thresholds."""
    gap = (1 - accepted) - false_alarm  # from 1 down to -1
    after = np.argmax(gap <= 0, axis=0, keepdims=True)
    high, low = (np.take_along_axis(gap, place, 0) for place in (after - 1, after))
    first, last = (np.take_along_axis(false_alarm, place, 0) for place in (after - 1, after))
    return (first + high / (high - low) * (last - first))[0]


def eer(scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Equal error rate: where as many impostors are let in as true speakers are kept out, both as shares.

    Between two thresholds the curve is a straight line (as scikit-learn's ROC and s3prl have it).

    Parameters
    ----------
    scores : (trials,)
        Higher for more alike.
    same : (trials,)
        True where both recordings are of one speaker.
    weights : (trials,), optional
        How often each trial counts.

    Raises
    ------
    ValueError
        If there are no trials of one of the two kinds, or scores are not finite.
    """
    scores, same = np.asarray(scores, dtype=float), np.asarray(same, dtype=bool)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=float)
    _check(scores, same, weights)
    return float(_crossing(*_rates(scores, same, weights)[1:]))


def det(scores: np.ndarray, same: np.ndarray) -> pd.DataFrame:
    """The detection error trade-off: one row for each threshold, from the strictest to the most lax.

    Returns
    -------
    DataFrame
        ``threshold`` (a trial is accepted from there on; the first accepts none), ``false_alarm`` (share of impostor
        trials accepted), ``miss`` (share of target trials rejected). Martin et al., "The DET curve in assessment of
        detection task performance", Eurospeech 1997.
    """
    scores, same = np.asarray(scores, dtype=float), np.asarray(same, dtype=bool)
    _check(scores, same, np.ones(len(scores)))
    thresholds, accepted, false_alarm = _rates(scores, same, np.ones(len(scores)))
    return pd.DataFrame({"threshold": thresholds, "false_alarm": false_alarm, "miss": 1 - accepted})


def min_dcf(
    scores: np.ndarray,
    same: np.ndarray,
    p_target: float = 0.01,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    *,
    rule_of_30: bool = True,
) -> float:
    """Least detection cost over all thresholds, as a share of that of the better of "always yes" and "always no".

    ``min(c_miss p P_miss + c_fa (1 - p) P_fa) / min(c_miss p, c_fa (1 - p))`` (NIST SRE 2016 plan, equations 1-3).

    Parameters
    ----------
    scores, same
        As in `eer`.
    p_target : float
        How likely a trial is to be a target where the system will be used.
    c_miss, c_fa : float
        What a miss and a false alarm cost.
    rule_of_30 : bool
        Give NaN where the trials are too few (see `trials_needed`).

    Raises
    ------
    ValueError
        As `eer`, or if ``p_target`` does not lie between 0 and 1, or a cost is not positive.
    """
    impostors, targets = trials_needed(p_target, c_miss, c_fa)
    points, same = det(scores, same), np.asarray(same, dtype=bool)
    if rule_of_30 and ((~same).sum() < impostors or same.sum() < targets):
        return float("nan")
    cost = c_miss * p_target * points["miss"] + c_fa * (1 - p_target) * points["false_alarm"]
    return float(cost.min() / min(c_miss * p_target, c_fa * (1 - p_target)))


def trials_needed(p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0) -> tuple[int, int]:
    """How many impostor and how many target trials a `min_dcf` needs.

    A system is only worth having where its false alarms alone cost less than accepting nobody, that is up to a rate of
    ``c_miss p / (c_fa (1 - p))``, 1 in 99 at ``p = 0.01``. There at least 30 false alarms must be expected
    (Doddington's rule of 30), or one impostor more or less moves the cost by more than a thirtieth: 2970 impostor
    trials at ``p = 0.01``. The same for misses. It depends on the trials alone, not on the scores, so that a good
    system is not hidden for making few errors; how many it made, `TrialScores.summary` says.
    """
    if not 0 < p_target < 1 or not c_miss > 0 or not c_fa > 0:
        raise ValueError(
            f"p_target must lie between 0 and 1 and costs must be positive, got {p_target}, {c_miss} and {c_fa}."
        )
    miss, alarm = c_miss * p_target, c_fa * (1 - p_target)
    # 30 * 0.99 / 0.01 is 2970.0000000000005
    impostors, targets = (int(np.ceil(LEAST_ERRORS * cost / min(miss, alarm) - 1e-6)) for cost in (alarm, miss))
    return impostors, targets


def eer_interval(
    scores: np.ndarray,
    same: np.ndarray,
    speakers: tuple[Sequence[str] | np.ndarray, Sequence[str] | np.ndarray],
    *,
    versus: np.ndarray | None = None,
    level: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the `eer` when other speakers had been drawn: a bootstrap over speakers, not over trials.

    Trials share speakers and so are not independent. Each round draws speakers with replacement; a trial of one speaker
    counts as often as that speaker was drawn, a trial of two as often as the product.

    Parameters
    ----------
    speakers : two sequences of (trials,)
        Who speaks in the first and in the second recording of each trial.
    versus : (trials,), optional
        Scores of another system on the same trials: the interval is then that of the difference, this one's rate less
        the other's, which is far narrower than the two rates' own where the same speakers are hard for both.
    """
    scores, same = np.asarray(scores, dtype=float), np.asarray(same, dtype=bool)
    systems = [scores] if versus is None else [scores, np.asarray(versus, dtype=float)]
    for system in systems:
        _check(system, same, np.ones(len(same)))
    names, codes = np.unique(np.concatenate([np.asarray(side, dtype=str) for side in speakers]), return_inverse=True)
    first, second = codes[: len(scores)], codes[len(scores) :]
    second = np.where(first == second, len(names), second)  # which counts once in every round
    draw = np.random.default_rng(seed)
    size, rates = max(1, min(n_boot, BLOCK // min(len(scores), len(names) ** 2))), np.zeros(0)
    while len(rates) < n_boot:
        drawn = draw.integers(len(names), size=(size, len(names)))
        count = np.stack([np.bincount(row, minlength=len(names)) for row in drawn], axis=1)  # (speakers, rounds)
        count = np.concatenate([count, np.ones_like(count[:1])]).astype(float)
        found = [_eer_rounds(system, same, first, second, count) for system in systems]
        rates = np.append(rates, found[0] if versus is None else found[0] - found[1])
    low, high = np.quantile(rates[:n_boot], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, eq=False, kw_only=True)
class TrialScores(Result):
    """Scored trials: what `verify_trials` gives.

    Attributes
    ----------
    utterances : DataFrame
        The bank's table.
    enrol, test : (trials,)
        Rows of ``utterances``.
    same : (trials,)
        True for a target trial: both recordings are of one speaker.
    scores : (trials,)
        Higher for more alike: a cosine, or PLDA's log-likelihood ratio in nats.
    """

    utterances: pd.DataFrame
    enrol: Int[np.ndarray, " trials"]
    test: Int[np.ndarray, " trials"]
    same: Bool[np.ndarray, " trials"]
    scores: Float[np.ndarray, " trials"]

    def eer(self) -> float:
        """The equal error rate (`eer`)."""
        return eer(self.scores, self.same)

    def min_dcf(
        self, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0, *, rule_of_30: bool = True
    ) -> float:
        """The least detection cost (`min_dcf`); NaN where the trials are too few for it."""
        return min_dcf(self.scores, self.same, p_target, c_miss, c_fa, rule_of_30=rule_of_30)

    def det(self) -> pd.DataFrame:
        """The detection error trade-off, threshold by threshold (`det`)."""
        return det(self.scores, self.same)

    def interval(self, by: str = "speaker", *, level: float = 0.95) -> tuple[float, float]:
        """Interval of the equal error rate over speakers, or what another column of the table says (`eer_interval`).

        Raises
        ------
        ValueError
            If an utterance of the trials has nothing in the column.
        """
        names = FeatureBank.from_arrays(self.utterances.iloc[self._heard()], {}).labels(by)
        column = np.empty(len(self.utterances), dtype=object)
        column[self._heard()] = names
        sides = column[self.enrol].tolist(), column[self.test].tolist()
        how = {"n_boot": self.settings["n_boot"], "seed": self.settings["seed"], "level": level}
        return eer_interval(self.scores, self.same, sides, **how)

    def histogram(self, bins: int = 50) -> pd.DataFrame:
        """How the scores of both kinds of trials spread.

        Returns
        -------
        DataFrame
            One row for each bin: ``low``, ``high``, and the shares of ``target`` and ``impostor`` trials in it.
        """
        edges = np.histogram_bin_edges(self.scores, bins)
        shares = {
            name: np.histogram(self.scores[kind], edges)[0] / kind.sum()
            for name, kind in (("target", self.same), ("impostor", ~self.same))
        }
        return pd.DataFrame({"low": edges[:-1], "high": edges[1:], **shares})

    def table(self) -> pd.DataFrame:
        """One row for each trial: ``enrol``, ``test`` (ids), their speakers where known, ``same``, ``score``."""
        ids = self.utterances["id"].to_numpy()
        columns = {"enrol": ids[self.enrol], "test": ids[self.test]}
        if "speaker" in self.utterances:
            speaker = self.utterances["speaker"].to_numpy()
            columns |= {"enrol_speaker": speaker[self.enrol], "test_speaker": speaker[self.test]}
        return pd.DataFrame({**columns, "same": self.same, "score": self.scores})

    def summary(self) -> pd.DataFrame:
        """One row: counts, the equal error rate with its interval over speakers, costs, and errors among one sex.

        ``min_dcf_0.01`` and ``min_dcf_0.05`` are NaN where there are too few trials; ``false_alarms_0.01`` says how
        many false alarms were made where the cost is least. ``eer_same_sex`` leaves impostors of the other sex out:
        with them, telling the sexes apart already does much of the work; NaN where the sexes are not known.
        """
        known = "speaker" in self.utterances and self.utterances["speaker"].iloc[self._heard()].notna().all()
        low, high = self.interval() if known else (np.nan, np.nan)
        row: dict[str, Any] = {
            "site": self.settings["site"],
            "backend": self.settings["backend"],
            "utterances": len(self._heard()),
            "speakers": self.utterances["speaker"].iloc[self._heard()].nunique() if known else np.nan,
            "target_trials": int(self.same.sum()),
            "impostor_trials": int((~self.same).sum()),
            "same_session_removed": self.settings["same_session_removed"],
            "eer": self.eer(),
            "low": low,
            "high": high,
            "eer_same_sex": self._same_sex(),
        }
        points = self.det()
        for p in PRIORS:
            row[f"min_dcf_{p}"] = self.min_dcf(p)
            best = (p * points["miss"] + (1 - p) * points["false_alarm"]).idxmin()
            row[f"false_alarms_{p}"] = round(points["false_alarm"][best] * (~self.same).sum())
        return pd.DataFrame([row])

    def plot(self, kind: Literal["det", "scores"] = "det", **options: Any) -> Any:
        """Draw the detection error trade-off, or how the scores spread (``kind="scores"``)."""
        if kind not in ("det", "scores"):
            raise ValueError(f"kind={kind!r} must be 'det' or 'scores'.")
        if kind == "scores":
            unit = "log-likelihood ratio (nats)" if self.settings["backend"] == "plda" else "cosine"
            counts = int(self.same.sum()), int((~self.same).sum())
            return plots().trial_scores(self.histogram(), counts=counts, unit=unit, **options)
        row = self.summary().iloc[0]
        return plots().det(self.det(), eer=row["eer"], interval=(row["low"], row["high"]), **options)

    def _heard(self) -> np.ndarray:
        return np.unique(np.concatenate([self.enrol, self.test]))

    def _same_sex(self) -> float:
        """The error rate without the impostors of the other sex."""
        if "sex" not in self.utterances or self.utterances["sex"].iloc[self._heard()].isna().any():
            return float("nan")
        sex = self.utterances["sex"].astype(str).to_numpy()
        keep = sex[self.enrol] == sex[self.test]
        return float("nan") if self.same[keep].all() else eer(self.scores[keep], self.same[keep])


def verify_trials(
    bank: FeatureBank,
    layer: int | str,
    *,
    backend: Backend = "cosine",
    trials: pd.DataFrame | str | Path | None = None,
    train: FeatureBank | None = None,
    pool: Literal["mean", "mean+std"] | None = "mean",
    scale: Scale = "standard",
    dimensions: int = 50,
    exclude_same_session: bool = True,
    n_boot: int = 1000,
    seed: int = 0,
) -> TrialScores:
    """Score trials of speakers that nothing was fitted on: does the space tell new voices apart.

    Parameters
    ----------
    bank : FeatureBank
        With one row for each utterance.
    layer : int or str
        ``3`` for ``hidden.3``, or the name of a site.
    backend : {"cosine", "lda", "plda"}
        ``"lda"``: the cosine behind a linear discriminant analysis whose covariance is shrunk (scikit-learn's Ledoit-
        Wolf), fitted on ``train``. ``"plda"``: the log-likelihood ratio of the two-covariance model in that space
        (`unisat.interpret.plda`). Speakers of ``train`` with one utterance say nothing about the scatter within a
        speaker and are left out of the fit.
    trials : DataFrame or path of a CSV, optional
        ``enrol_path`` and ``test_path`` (or ``enrol_id`` and ``test_id``, or ``enrol`` and ``test``): ids or paths of
        the bank, or the last parts of its paths; and ``label``, 1 or True or "target" for one speaker, which may be
        missing where the bank knows the speakers. Such a list is taken as it is. None for all pairs, each once.
    train : FeatureBank, optional
        Of other speakers, from the same model.
    pool : {"mean", "mean+std"} or None
        Which half of what ``reduce="mean+std"`` gave; None for all there is. A bank that does not say how it was
        reduced is taken as it is.
    scale : {"standard", "centre", "raw"}
        What happens to each channel first: mean 0 and variance 1, mean 0, or nothing; over ``train``, without it over
        the bank itself (which uses no label; ``settings["scaled_on"]`` says so). Hidden states point in nearly one
        direction, and a few channels are far larger than all others: without it a cosine hardly sees the rest.
    dimensions : int
        Directions that the discriminant analysis keeps, at most the speakers of ``train`` less one.
    exclude_same_session : bool
        Of all pairs, leave out target trials of one session, which the channel and the day make easy. (Impostor trials
        stay: sessions are compared within a speaker, many corpora number them anew for each.)
    n_boot, seed : int
        Of the interval.

    Raises
    ------
    ValueError
        If a trial is not in the bank, its label contradicts the bank's speakers, ``train`` is missing, of another model
        or shares a speaker, sessions are needed and not known, no target or no impostor trial is left, or a value is
        not finite.

    Warns
    -----
    UserWarning
        For ``"plda"`` with fewer than 50 speakers or 5 utterances each to train on, too few for its covariances.
    """
    site = f"hidden.{layer}" if isinstance(layer, int) else layer
    for name, value, there in (("backend", backend, get_args(Backend)), ("scale", scale, get_args(Scale))):
        if value not in there:
            raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, there))}.")
    if dimensions < 1 or n_boot < 1:
        raise ValueError(f"dimensions and n_boot must be at least 1, got {dimensions} and {n_boot}.")
    if backend != "cosine" and train is None:
        raise ValueError(f"backend={backend!r} is fitted on other speakers: pass train, a bank of them.")
    if train is not None:
        _check_train(bank, train)
    enrol, test, same, removed = _trials(bank, trials, exclude_same_session)
    if same.all() or not same.any():
        raise ValueError(
            f"an error rate needs trials of one speaker and trials of two, got {same.sum()} and {(~same).sum()}; "
            + (
                f"{removed} target trials of one session were left out (exclude_same_session=False keeps them, and "
                "measures the session as well)."
                if removed
                else "take more utterances or speakers."
            )
        )
    features = _features(bank, site, pool)
    known = features if train is None else _features(train, site, pool)
    if known.shape[1] != features.shape[1]:
        raise ValueError(f"{site} has {features.shape[1]} channels in the bank and {known.shape[1]} in train.")
    mean = known.mean(0) if scale != "raw" else 0.0
    spread = known.std(0) if scale == "standard" else np.ones(known.shape[1])
    spread[spread == 0] = 1.0
    features, known = (features - mean) / spread, (known - mean) / spread
    settings = {
        "site": site,
        "model": bank.about.get("model"),
        "backend": backend,
        "pool": pool,
        "scale": scale,
        "scaled_on": None if scale == "raw" else "train" if train is not None else "the bank itself",
        "trials": "all pairs" if trials is None else "given",
        "exclude_same_session": exclude_same_session if trials is None else None,
        "same_session_removed": removed,
        "min_dcf_needs": {str(p): dict(zip(("impostor", "target"), trials_needed(p), strict=True)) for p in PRIORS},
        "n_boot": n_boot,
        "seed": seed,
    }
    if backend != "cosine" and train is not None:
        who = train.labels("speaker")
        features, known, who = _discriminant(features, known, who, dimensions)
        speakers = len(set(who))
        settings |= {"train_speakers": speakers, "train_utterances": len(who), "dimensions": features.shape[1]}
        if backend == "plda" and (speakers < 50 or len(who) < 5 * speakers):
            warnings.warn(
                f"PLDA is fitted on {len(who)} utterances of {speakers} speakers; its covariances want at least 50 "
                "speakers with 5 each: compare with backend='lda' before trusting it.",
                UserWarning,
                stacklevel=2,
            )
    if backend == "plda":
        score = fit_plda(known, who).scores
    else:
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(float).tiny)
        score = _cosine
    size = max(1, BLOCK // features.shape[1])
    parts = [slice(start, start + size) for start in range(0, len(same), size)]
    scores = np.concatenate([score(features[enrol[part]], features[test[part]]) for part in parts])
    return TrialScores(utterances=bank.table, enrol=enrol, test=test, same=same, scores=scores, settings=settings)


def _cosine(enrol: Float[np.ndarray, "trials dim"], test: Float[np.ndarray, "trials dim"]) -> np.ndarray:
    """Of vectors of length 1."""
    return np.einsum("td,td->t", enrol, test)


def _check_train(bank: FeatureBank, train: FeatureBank) -> None:
    ours, theirs = bank.about.get("model"), train.about.get("model")
    if ours is not None and theirs is not None and ours != theirs:
        raise ValueError(f"bank and train are of different models ({ours}, {theirs}); collect both from one.")
    if both := sorted({*bank.labels("speaker")} & {*train.labels("speaker")}):
        raise ValueError(
            f"{len(both)} speaker(s) are in train as well as in bank ({', '.join(both[:3])}{', …' * (len(both) > 3)}): "
            "what was fitted on a voice cannot be judged by it; use bank.where(speaker=...) to part them."
        )


def _features(bank: FeatureBank, site: str, pool: str | None) -> Float[np.ndarray, "utterances dim"]:
    if bank.is_frames(site):
        raise ValueError(f"{site} has a row for each frame; trials compare utterances: collect it with 'mean+std'.")
    return bank.features(site, pool if "reduce" in bank.about else None)


def _discriminant(
    features: np.ndarray, known: np.ndarray, who: np.ndarray, dimensions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both in the space of a linear discriminant analysis, and the speakers of what it was fitted on."""
    try:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    except ImportError as error:
        raise ImportError("discriminant analysis needs scikit-learn: pip install 'unisat[measure]'.") from error
    several = pd.Series(who).groupby(who).transform("size").to_numpy() > 1
    known, who = known[several], who[several].astype(str)
    if len(set(who)) < 2:
        raise ValueError(f"train needs two speakers with two utterances each or more, got {len(set(who))}.")
    directions = min(dimensions, len(set(who)) - 1, known.shape[1])
    model = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto", n_components=directions).fit(known, who)
    return model.transform(features), model.transform(known), who


def _trials(
    bank: FeatureBank, trials: pd.DataFrame | str | Path | None, exclude_same_session: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Rows of both sides, which trials are targets, and how many targets of one session were left out."""
    if trials is not None:
        return *_listed(bank, trials if isinstance(trials, pd.DataFrame) else pd.read_csv(trials)), 0
    pairs = len(bank) * (len(bank) - 1) // 2
    if pairs > MOST_PAIRS:
        raise ValueError(f"{len(bank)} utterances make {pairs:,} pairs, over {MOST_PAIRS:,}; give a list as trials=.")
    speakers = np.unique(bank.labels("speaker").astype(str), return_inverse=True)[1]
    enrol, test = np.triu_indices(len(bank), 1)
    same = speakers[enrol] == speakers[test]
    if not exclude_same_session:
        return enrol, test, same, 0
    try:
        sessions = np.unique(bank.labels("session").astype(str), return_inverse=True)[1]
    except ValueError as error:
        raise ValueError(
            f"two recordings of one session are easily told to be of one speaker, but {error} Or pass "
            "exclude_same_session=False, and say so with the result."
        ) from error
    drop = same & (sessions[enrol] == sessions[test])
    return enrol[~drop], test[~drop], same[~drop], int(drop.sum())


def _listed(bank: FeatureBank, trials: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A trial list's rows of both sides, and which trials are targets."""
    kind = next((kind for kind in ("_path", "_id", "") if {f"enrol{kind}", f"test{kind}"} <= set(trials)), None)
    if kind is None or trials.empty:
        raise ValueError(
            f"a trial list needs the columns enrol_path and test_path (or enrol_id and test_id), label, and at least a "
            f"row; got {list(trials)} with {len(trials)} rows."
        )
    places = _places(bank)
    enrol, test = (
        np.array([places.get(str(name), -1) for name in trials[f"{side}{kind}"]], dtype=int)
        for side in ("enrol", "test")
    )
    for side, rows in (("enrol", enrol), ("test", test)):
        if (lost := trials[f"{side}{kind}"][rows < 0]).any():
            raise ValueError(
                f"{lost.nunique()} {side} recording(s) of the trial list are not in the bank, or more than once: "
                f"{', '.join(map(repr, lost.unique()[:3]))}; collect them too, or leave their trials out."
            )
    known = None
    if "speaker" in bank.table and bank.table["speaker"].iloc[np.append(enrol, test)].notna().all():
        speakers = bank.table["speaker"].astype(str).to_numpy()
        known = speakers[enrol] == speakers[test]
    if "label" not in trials:
        if known is None:
            raise ValueError("the trial list has no column label, and the bank does not know all its speakers.")
        return enrol, test, known
    meanings = {"1": True, "target": True, "true": True, "0": False, "nontarget": False, "false": False}
    labels = [meanings.get(str(label).lower().removesuffix(".0")) for label in trials["label"]]
    if None in labels:
        wrong = trials["label"].iloc[labels.index(None)]
        raise ValueError(
            f"label must be 1 or 0 (or target, nontarget), got {str(wrong)!r} in row {labels.index(None)}."
        )
    same = np.array(labels, dtype=bool)
    if known is not None and (known != same).any():
        row = int(np.argmax(known != same))
        raise ValueError(
            f"{(known != same).sum()} label(s) contradict the bank's speakers, first in row {row}: label "
            f"{str(trials['label'].iloc[row])!r}, speakers {speakers[enrol[row]]!r} and {speakers[test[row]]!r}."
        )
    return enrol, test, same


def _places(bank: FeatureBank) -> dict[str, int]:
    """The row of each utterance by its id, its path and the last parts of its path; -1 where several share a name."""
    named: dict[str, set[int]] = {}
    for row, name in enumerate(bank.ids):
        named.setdefault(str(name), set()).add(row)
    for row, path in enumerate(bank.table.get("path", [])):
        if isinstance(path, str | Path):
            parts = Path(path).parts
            for start in range(len(parts)):
                named.setdefault("/".join(parts[start:]).replace("//", "/"), set()).add(row)
    return {name: rows.pop() if len(rows) == 1 else -1 for name, rows in named.items()}
