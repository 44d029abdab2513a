"""Speaker verification: do two recordings have one voice? Trials of a bank, with scores by cosine, LDA or PLDA."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from unisat.corpus import read_table
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.result import Result, plots
from unisat.interpret.speakers.plda import fit_plda
from unisat.interpret.statistics.error_rates import (
    BLOCK,
    det,
    eer,
    eer_draws,
    eer_interval,
    min_dcf,
    trials_needed,
)
from unisat.interpret.statistics.scaling import Scale, scaling

Backend = Literal["cosine", "lda", "plda"]
MOST_PAIRS = 20_000_000
"""Most pairs that `verify_trials` makes by itself, since more would fill the memory; above it needs a trial list."""

PRIORS = (0.01, 0.05)  # of target trials, in a summary


@dataclass(frozen=True, eq=False, kw_only=True)
class TrialScores(Result):
    """Scored trials, which `verify_trials` gives.

    Attributes
    ----------
    utterances : DataFrame
        The bank's table.
    enrol, test : (trials,)
        Rows of ``utterances``.
    same : (trials,)
        True for a target trial, whose recordings are both of one speaker.
    scores : (trials,)
        A cosine, or PLDA's log-likelihood ratio in nats: higher scores mean more similar voices.
    """

    utterances: pd.DataFrame
    enrol: Int[np.ndarray, " trials"]
    test: Int[np.ndarray, " trials"]
    same: Bool[np.ndarray, " trials"]
    scores: Float[np.ndarray, " trials"]

    def eer(self) -> float:
        """Give the equal error rate (`eer`)."""
        return eer(self.scores, self.same)

    def min_dcf(
        self, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0, *, rule_of_30: bool = True
    ) -> float:
        """Give the least detection cost (`min_dcf`); NaN where there are too few trials for it."""
        return min_dcf(self.scores, self.same, p_target, c_miss, c_fa, rule_of_30=rule_of_30)

    def det(self) -> pd.DataFrame:
        """Give the detection error trade-off, threshold by threshold (`det`)."""
        return det(self.scores, self.same)

    def interval(self, by: str = "speaker", *, level: float = 0.95) -> tuple[float, float]:
        """Give an interval of the equal error rate over speakers, or over another column of the table (`eer_interval`).

        Raises
        ------
        ValueError
            If the column is empty for an utterance of the trials.
        """
        how = {"n_boot": self.settings["n_boot"], "seed": self.settings["seed"], "level": level}
        return eer_interval(self.scores, self.same, self._sides(by), **how)

    def draws(self) -> Float[np.ndarray, " n_boot"]:
        """Give the equal error rate in each draw of speakers (`eer_draws`), the same draws for the same trials."""
        how = {"n_boot": self.settings["n_boot"], "seed": self.settings["seed"]}
        return eer_draws(self.scores, self.same, self._sides("speaker"), **how)

    def histogram(self, bins: int = 50) -> pd.DataFrame:
        """Count the scores of both kinds of trials in bins.

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
        """Give one row for each trial: ``enrol``, ``test`` (ids), their speakers if known, ``same``, ``score``."""
        ids = self.utterances["id"].to_numpy()
        columns = {"enrol": ids[self.enrol], "test": ids[self.test]}
        if "speaker" in self.utterances:
            speaker = self.utterances["speaker"].to_numpy()
            columns |= {"enrol_speaker": speaker[self.enrol], "test_speaker": speaker[self.test]}
        return pd.DataFrame({**columns, "same": self.same, "score": self.scores})

    def summary(self) -> pd.DataFrame:
        """Give one row: counts, the equal error rate with its interval over speakers, costs, and errors among one sex.

        ``min_dcf_0.01`` and ``min_dcf_0.05`` are NaN where there are too few trials. ``false_alarms_0.01`` counts the
        false alarms at the threshold with the least cost. ``eer_same_sex`` leaves out impostors of the other sex, who
        are easily told apart; it is NaN where the sexes are not known.
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
        """Draw the detection error trade-off, or the distribution of the scores (``kind="scores"``)."""
        if kind not in ("det", "scores"):
            raise ValueError(f"kind={kind!r} must be 'det' or 'scores'.")
        if kind == "scores":
            unit = "log-likelihood ratio (nats)" if self.settings["backend"] == "plda" else "cosine"
            counts = int(self.same.sum()), int((~self.same).sum())
            return plots().trial_scores(self.histogram(), counts=counts, unit=unit, **options)
        row = self.summary().iloc[0]
        return plots().det(self.det(), eer=row["eer"], interval=(row["low"], row["high"]), **options)

    def _sides(self, by: str) -> tuple[list[str], list[str]]:
        """Give the speaker, or what another column says, of the first and the second recording of each trial."""
        names = FeatureBank.from_arrays(self.utterances.iloc[self._heard()], {}).labels(by)
        column = np.empty(len(self.utterances), dtype=object)
        column[self._heard()] = names
        return column[self.enrol].tolist(), column[self.test].tolist()

    def _heard(self) -> np.ndarray:
        return np.unique(np.concatenate([self.enrol, self.test]))

    def _same_sex(self) -> float:
        """Give the error rate without impostors of the other sex."""
        if "sex" not in self.utterances or self.utterances["sex"].iloc[self._heard()].isna().any():
            return float("nan")
        sex = self.utterances["sex"].astype(str).to_numpy()
        keep = sex[self.enrol] == sex[self.test]
        return float("nan") if self.same[keep].all() else eer(self.scores[keep], self.same[keep])


def several_sessions(table: pd.DataFrame) -> bool:
    """Whether the session of each utterance is known, and some speaker was recorded in more than one."""
    if "session" not in table or table["session"].isna().any():
        return False
    speaker = table["speaker" if "speaker" in table else "id"].astype(str)
    return bool((table["session"].groupby(speaker).nunique() > 1).any())


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
    """Score trials of speakers on whom nothing was fitted: this says whether the space tells new voices apart.

    Parameters
    ----------
    bank : FeatureBank
        A bank with one row for each utterance.
    layer : int or str
        ``3`` for ``hidden.3``, or the name of a site.
    backend : {"cosine", "lda", "plda"}
        ``"lda"`` is the cosine after a linear discriminant analysis with shrunk covariances (scikit-learn's Ledoit-
        Wolf, of each speaker; one for all where speakers have two utterances each), fitted on ``train``. ``"plda"`` is
        the log-likelihood ratio of the two-covariance model in that space
        (`unisat.interpret.speakers.plda`). Speakers of ``train`` with one utterance say nothing about the scatter
        within a speaker and are left out of the fit.
    trials : DataFrame or path of a CSV, optional
        A list with ``enrol_path`` and ``test_path`` (or ``enrol_id`` and ``test_id``, or ``enrol`` and ``test``): ids
        or paths of the bank, or the last parts of its paths. ``label`` is 1 or True or "target" for one speaker; it may
        be missing where the bank knows the speakers. A list is used as it is. None: all pairs, each once.
    train : FeatureBank, optional
        A bank of other speakers, from the same model.
    pool : {"mean", "mean+std"} or None
        ``"mean"`` takes the means out of what ``reduce="mean+std"`` gave; None takes all that is there. A bank whose
        settings do not say how it was reduced is taken as it is.
    scale : {"standard", "centre", "raw"}
        What happens to each channel first: mean 0 and variance 1, mean 0, or nothing. It is learned from ``train``, or
        without it from the bank itself, which uses no label (``settings["scaled_on"]`` says so). Hidden states all
        point in nearly one direction, and a few channels are far larger than all others. Without scaling a cosine
        hardly sees the rest.
    dimensions : int
        Number of directions that the discriminant analysis keeps; there is one less than speakers in ``train``.
    exclude_same_session : bool
        Whether to leave out, of all pairs, target trials of one session, which the channel and the day make easy.
        Impostor trials stay: many corpora number the sessions of each speaker anew, so they are compared within a
        speaker only.
    n_boot, seed : int
        Number of draws for the interval, and their seed.

    Raises
    ------
    ValueError
        If a trial is not in the bank, its label contradicts the bank's speakers, ``train`` is missing, from another
        model or shares a speaker, sessions are needed but not known, no target or no impostor trial is left, or a value
        is not finite.

    Warns
    -----
    UserWarning
        If ``"plda"`` is trained on fewer than 50 speakers or 5 utterances each: too few for its covariances.
    """
    site = f"hidden.{layer}" if isinstance(layer, int) else layer
    _check_choices(bank, train, backend, scale, dimensions, n_boot)
    enrol, test, same, removed = _trials(bank, trials, exclude_same_session)
    _check_both_kinds(same, removed)
    features, known = _scaled(bank, train, site, pool, scale)
    settings = {
        "site": site,
        "model": bank.settings.get("model"),
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
    score = _cosine
    if backend != "cosine" and train is not None:
        features, known, who = _discriminant(features, known, train.labels("speaker"), dimensions)
        fitted = {"train_speakers": len(set(who)), "train_utterances": len(who), "dimensions": features.shape[1]}
        settings |= fitted
        if backend == "plda":
            _warn_of_few(fitted["train_speakers"], len(who))
            score = fit_plda(known, who).scores
    if backend != "plda":
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(float).tiny)
    size = max(1, BLOCK // features.shape[1])
    parts = [slice(start, start + size) for start in range(0, len(same), size)]
    scores = np.concatenate([score(features[enrol[part]], features[test[part]]) for part in parts])
    return TrialScores(utterances=bank.table, enrol=enrol, test=test, same=same, scores=scores, settings=settings)


def _check_choices(
    bank: FeatureBank, train: FeatureBank | None, backend: str, scale: str, dimensions: int, n_boot: int
) -> None:
    for name, value, there in (("backend", backend, get_args(Backend)), ("scale", scale, get_args(Scale))):
        if value not in there:
            raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, there))}.")
    if dimensions < 1 or n_boot < 1:
        raise ValueError(f"dimensions and n_boot must be at least 1, got {dimensions} and {n_boot}.")
    if backend != "cosine" and train is None:
        raise ValueError(f"backend={backend!r} is fitted on other speakers: pass train, a bank of them.")
    if train is not None:
        _check_train(bank, train)


def _check_both_kinds(same: Bool[np.ndarray, " trials"], removed: int) -> None:
    """Refuse trials that are all of one kind; ``removed`` is the number of targets that were left out."""
    if same.any() and not same.all():
        return
    said = (
        f"{removed} target trials of one session were left out (exclude_same_session=False keeps them, and measures "
        "the session as well)."
    )
    raise ValueError(
        f"an error rate needs trials of one speaker and trials of two, got {same.sum()} and {(~same).sum()}; "
        + (said if removed else "take more utterances or speakers.")
    )


def _scaled(
    bank: FeatureBank, train: FeatureBank | None, site: str, pool: str | None, scale: Scale
) -> tuple[Float[np.ndarray, "utterances dim"], Float[np.ndarray, "others dim"]]:
    """Give features of the bank and of ``train``, both with the scaling of ``train``, or without it of the bank."""
    features = _features(bank, site, pool)
    known = features if train is None else _features(train, site, pool)
    if known.shape[1] != features.shape[1]:
        raise ValueError(f"{site} has {features.shape[1]} channels in the bank and {known.shape[1]} in train.")
    scaled = scaling(known, scale)
    return scaled(features), scaled(known)


def _warn_of_few(speakers: int, utterances: int) -> None:
    """Warn where PLDA is fitted on too little for its covariances."""
    if speakers < 50 or utterances < 5 * speakers:
        warnings.warn(
            f"PLDA is fitted on {utterances} utterances of {speakers} speakers; its covariances want at least 50 "
            "speakers with 5 each: compare with backend='lda' before trusting it.",
            UserWarning,
            stacklevel=3,
        )


def _cosine(enrol: Float[np.ndarray, "trials dim"], test: Float[np.ndarray, "trials dim"]) -> np.ndarray:
    """Cosine of vectors of length 1."""
    return np.einsum("td,td->t", enrol, test)


def _check_train(bank: FeatureBank, train: FeatureBank) -> None:
    ours, theirs = bank.settings.get("model"), train.settings.get("model")
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
    return bank.features(site, pool if "reduce" in bank.settings else None)


def _discriminant(
    features: np.ndarray, known: np.ndarray, who: np.ndarray, dimensions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bring both into the space of a linear discriminant analysis; also give the speakers it was fitted on."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    several = pd.Series(who).groupby(who).transform("size").to_numpy() > 1
    known, who = known[several], who[several].astype(str)
    if len(set(who)) < 2:
        raise ValueError(f"train needs two speakers with two utterances each or more, got {len(set(who))}.")
    directions = min(dimensions, len(set(who)) - 1, known.shape[1])
    model = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto", n_components=directions)
    try:
        model.fit(known, who)
    except np.linalg.LinAlgError:  # two utterances a speaker: each one's covariance has no noise to be shrunk by
        axes = _pooled_discriminant(known, who)[:, :directions]
        return features @ axes, known @ axes, who
    return model.transform(features), model.transform(known), who


def _pooled_discriminant(known: np.ndarray, who: np.ndarray) -> Float[np.ndarray, "dim dim"]:
    """Directions of a discriminant analysis, the best first, with one shrunk covariance within all speakers."""
    from scipy.linalg import eigh
    from sklearn.covariance import ledoit_wolf

    code = np.unique(who, return_inverse=True)[1]
    centres = np.stack([known[code == number].mean(0) for number in range(code.max() + 1)])[code]
    within = ledoit_wolf(known - centres, assume_centered=True)[0]
    return eigh(np.cov(centres.T), within)[1][:, ::-1]


def _trials(
    bank: FeatureBank, trials: pd.DataFrame | str | Path | None, exclude_same_session: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Give the rows of both sides, which trials are targets, and how many targets of one session are left out."""
    if trials is not None:
        return *_listed(bank, trials if isinstance(trials, pd.DataFrame) else read_table(Path(trials))), 0
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
    """Read a trial list: the rows of both sides, and which trials are targets."""
    kind = next((kind for kind in ("_path", "_id", "") if {f"enrol{kind}", f"test{kind}"} <= set(trials)), None)
    if kind is None or trials.empty:
        raise ValueError(
            f"a trial list needs the columns enrol_path and test_path (or enrol_id and test_id), label, and at least a "
            f"row; got {list(trials)} with {len(trials)} rows."
        )
    places = _places(bank)
    enrol, test = (_rows(places, trials[f"{side}{kind}"], side) for side in ("enrol", "test"))
    speakers = None
    if "speaker" in bank.table and bank.table["speaker"].iloc[np.append(enrol, test)].notna().all():
        speakers = bank.table["speaker"].astype(str).to_numpy()
    if "label" not in trials:
        if speakers is None:
            raise ValueError("the trial list has no column label, and the bank does not know all its speakers.")
        return enrol, test, speakers[enrol] == speakers[test]
    same = _targets(trials["label"])
    if speakers is not None and (wrong := same != (speakers[enrol] == speakers[test])).any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"{wrong.sum()} label(s) contradict the bank's speakers, first in row {row}: label "
            f"{str(trials['label'].iloc[row])!r}, speakers {speakers[enrol[row]]!r} and {speakers[test[row]]!r}."
        )
    return enrol, test, same


def _rows(places: Mapping[str, int], names: pd.Series, side: str) -> Int[np.ndarray, " trials"]:
    """Find the rows of the bank that one side of a trial list names."""
    rows = np.array([places.get(str(name), -1) for name in names], dtype=int)
    if len(lost := names[rows < 0]):
        raise ValueError(
            f"{lost.nunique(dropna=False)} {side} recording(s) of the trial list are not in the bank, or more than "
            f"once: {', '.join(map(repr, lost.unique()[:3]))}; collect them too, or leave their trials out."
        )
    return rows


def _targets(labels: pd.Series) -> Bool[np.ndarray, " trials"]:
    """Read from a column of labels which trials are targets."""
    meanings = {"1": True, "target": True, "true": True, "0": False, "nontarget": False, "false": False}
    found = [meanings.get(str(label).lower().removesuffix(".0")) for label in labels]
    if None in found:
        row = found.index(None)
        raise ValueError(f"label must be 1 or 0 (or target, nontarget), got {str(labels.iloc[row])!r} in row {row}.")
    return np.array(found, dtype=bool)


def _places(bank: FeatureBank) -> dict[str, int]:
    """Give the row of each utterance by id, path and the last parts of its path; -1 where several share a name."""
    named: dict[str, set[int]] = {}
    for row, name in enumerate(bank.ids):
        named.setdefault(str(name), set()).add(row)
    for row, path in enumerate(bank.table.get("path", [])):
        if isinstance(path, str | Path):
            parts = Path(path).parts
            for start in range(len(parts)):
                named.setdefault("/".join(parts[start:]).replace("//", "/"), set()).add(row)
    return {name: rows.pop() if len(rows) == 1 else -1 for name, rows in named.items()}
