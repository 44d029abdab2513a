"""Which layer knows a label: linear probes on every layer, with controls and with intervals over speakers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped
from tqdm.auto import tqdm

from unisat.config import nearest
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.features.known import known
from unisat.interpret.features.labels import row_labels
from unisat.interpret.probing.classifiers import LAMBDAS, group_folds
from unisat.interpret.probing.report import ACOUSTIC, CONTROLS, LayerReport, assemble
from unisat.interpret.probing.scoring import METRICS, P_TARGET, Plan, Task, measure
from unisat.interpret.statistics.intervals import resampled

PROBES = ("ridge", "logistic", "lda")


@dataclass(frozen=True, eq=False)
class _Units:
    """What is classified: utterances or frames that have a label."""

    bank: FeatureBank  # of the utterances with a label
    there: Int[np.ndarray, " utterances"]  # their rows in the bank that was given
    rows: Int[np.ndarray, " units"]  # of a site's features
    utterances: Int[np.ndarray, " units"]
    values: np.ndarray  # numbers of classes, or a quantity
    names: tuple[str, ...]  # of the classes; a quantity has none
    frames: bool


def probe_layers(
    bank: FeatureBank,
    target: str | Sequence[Any] | np.ndarray,
    *,
    groups: str | Sequence[Any] | np.ndarray | None = "session",
    probe: str = "ridge",
    sites: Sequence[str] | None = None,
    pool: str | None = None,
    controls: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    cv: int = 5,
    seeds: int = 5,
    n_boot: int = 1000,
    speakers: str = "speaker",
    standardize: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> LayerReport:
    """Ask every layer for a label with linear probes, on groups of utterances that the probe has not seen.

    Each layer's features are standardised on the training part of each fold. The penalty is chosen inside the training
    part from one grid (`classifiers.LAMBDAS`): for ridge on units left out one by one, for logistic regression on a
    quarter of the groups. Folds, grid and bootstrap draws are the same for all layers and controls.

    Parameters
    ----------
    bank : FeatureBank
        A bank of `unisat.collect`, for the controls with ``baselines=("untrained", "logmel", "mfcc", "loudness")``.
    target : str or sequence
        A column of the bank, or one label for each utterance, or one for each frame (of sites collected with
        ``reduce="frames"``, one utterance after the other). Floats are a quantity (pitch, energy), all else are
        classes, also whole numbers that pandas keeps as floats because of gaps. In a sequence None, NaN, "" and
        negative integers mean that there is no label; such units are left out.
    groups : str, sequence or None
        What stays together in a fold: a column, or a label for each utterance; None: each utterance by itself. Speakers
        to be told apart (``target="speaker"``) must be heard in other sessions than those they were learned from. A
        target that is the same in all utterances of a speaker (sex, accent, age) is asked of other speakers than those
        it was learned from: then ``"session"`` means the speaker, and the report's settings say so.
    probe : {"ridge", "logistic", "lda"}
        Ridge classifier (all classes weigh the same, closed form), multinomial logistic regression with L2, or LDA
        with Ledoit-Wolf shrinkage and equal priors. A quantity takes ridge regression.
    sites : sequence of str, optional
        Sites of the bank; by default all its hidden states.
    pool : {"mean", "mean+std"}, optional
        As in `FeatureBank.features`.
    controls : sequence of str, optional
        Which controls; by default all of these that the target can have:

        - ``shuffle``: the labels of each training part are shuffled. If that is better than chance, the report is
          ``leaky``.
        - ``random_attribute``: Hewitt & Liang's control task (2019, arXiv:1909.03368), a label that is drawn at random
          for each type and means nothing. For a speaker's attribute and for what is said the type is the speaker, with
          the same number of speakers in each class. Speakers with random names would be told apart as well as with
          their own. So for them the type is the session (or the group, where sessions are not known), and each gets a
          random speaker. Where sessions are held out that stays at chance. Where they are not, it says how much of the
          accuracy the recording channel can explain. ``selectivity`` is the accuracy less this one.
        - ``untrained``: the same sites with fresh weights, averaged over the bank's seeds.
        - ``logmel``, ``mfcc``, ``loudness`` (with length): acoustic statistics, which have no layers.
    metrics : sequence of str, optional
        Which metrics; by default ``bal_acc``, ``eer`` and ``min_dcf``, and ``r2`` for a quantity.

        - ``bal_acc``: balanced accuracy.
        - ``eer``, ``min_dcf``: equal error rate, and detection cost at 5 % targets as a share of the best cost without
          scores, over all pairs of a unit and a class (NaN where trials are too few, see `error_rates.trials_needed`).
        - ``bits``: usable information, H(label) less the cross-entropy on held-out units; also ``bits_share``, its
          share of H(label). It is measured by logistic regression, whatever ``probe`` is, and takes far longer than
          ridge.
        - ``mdl``: online codelength of all labels in bits (`classifiers.codelengths`), averaged over ``seeds`` orders;
          also ``compression``, ``n log2(classes)`` divided by it. For ``shuffle`` all labels are shuffled here.
        - ``r2``: 1 less the squared error on held-out units over that of the training part's mean.
    cv : int
        Number of folds, but no more than there are groups. Where speakers are told apart, no more than each of them has
        groups: a speaker whose group is held out would otherwise be rarer in training, which tells who it is.
    seeds : int
        Number of assignments of groups to folds; the value is the mean over them.
    n_boot : int
        Number of draws of the bootstrap: speakers with all their utterances, then seeds.
    speakers : str
        The column whose values are drawn.
    seed : int
        The first seed of folds, shuffles and draws.

    Returns
    -------
    LayerReport

    Raises
    ------
    ValueError
        If there is only one class, a class lies in a single group, every speaker has a single session, features are not
        finite (the message names utterance and site), a column is missing or partly empty, or the bank lacks a control.
    """
    chosen = _check_choices(bank, probe, sites, cv, seeds, n_boot)
    units = _read_target(bank, target, chosen)
    voices = units.bank.labels(speakers)
    kind = _kind(units, voices)
    groups_name, group_of = _read_groups(units, groups, kind, speakers)
    spoken, grouped = _codes(voices)[units.utterances], _codes(group_of)[units.utterances]
    _check_groups(units, grouped, groups_name, kind)
    measured = _check_metrics(metrics, units.names, probe)
    types = _types(units, kind, spoken, grouped)
    asked = _check_controls(units, controls, chosen, types)

    tasks = _tasks(units, kind, grouped, types if "random_attribute" in asked else None, cv, (seed, seeds))
    weights = np.vstack([np.ones(len(voices)), resampled(voices, n_boot, seed=seed)])
    plan = Plan(probe, measured, "standard" if standardize else "centre", seed, weights)
    found = _measure(units, pool, jobs(units.bank, chosen, asked), tasks, plan, progress)
    folds = tasks["trained"].folds
    said = target if isinstance(target, str) else "(given)"
    settings: dict[str, Any] = {"target": said, "kind": kind, "classes": list(units.names)}
    settings |= {"groups": groups_name, "probe": probe, "sites": chosen, "pool": pool, "controls": asked}
    settings |= {"metrics": measured, "folds": int(folds.max()) + 1, "seeds": seeds, "seed": seed, "n_boot": n_boot}
    settings |= {"speakers": speakers, "n_speakers": len(np.unique(voices)), "standardize": standardize}
    settings |= {"lambdas": LAMBDAS.tolist(), "p_target": P_TARGET, "heard_in_training": _overlap(units, folds)}
    settings["model"] = bank.settings.get("model")
    return assemble(found, len(units.names), len(units.rows), int(grouped.max()) + 1, seed, settings)


def _check_choices(
    bank: FeatureBank, probe: str, sites: Sequence[str] | None, cv: int, seeds: int, n_boot: int
) -> list[str]:
    if probe not in PROBES:
        raise ValueError(f"probe={probe!r} must be one of {', '.join(PROBES)}.")
    for name, value, least in (("cv", cv, 2), ("seeds", seeds, 1), ("n_boot", n_boot, 1)):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}.")
    chosen = bank.hidden if sites is None else [sites] if isinstance(sites, str) else list(sites)
    if not chosen:
        raise ValueError(f"there are no hidden states to probe; give sites= of {', '.join(bank.sites)}.")
    if missing := [site for site in chosen if site not in bank]:
        raise ValueError(
            f"the bank has no {missing[0]!r}{nearest(missing[0], bank.sites)}; it has {', '.join(bank.sites)}."
        )
    return chosen


def _read_target(bank: FeatureBank, target: Any, sites: Sequence[str]) -> _Units:
    """Find the units that have a label, and the bank of their utterances."""
    lengths = _rows_of_each(bank, sites)
    values = _labels(bank, target, sites[0])
    labelled = known(values)
    if not labelled.any():
        raise ValueError("target has no label: all are None, NaN, '' or negative.")
    utterances = np.repeat(np.arange(len(bank)), lengths)
    there = np.unique(utterances[labelled])
    rows = np.flatnonzero(labelled[np.isin(utterances, there)])
    what = f"target {target!r}" if isinstance(target, str) else "target"
    names: tuple[str, ...] = ()
    values = values[labelled]
    if values.dtype.kind == "f":
        values = values.astype(float)
        if not np.ptp(values) > 0:
            raise ValueError(f"{what} is {values[0]:g} everywhere; there is nothing to tell apart.")
    else:
        classes, values = np.unique(values.astype(str), return_inverse=True)
        names = tuple(str(name) for name in classes)
        if len(names) < 2:
            raise ValueError(f"{what} has one class only, {names[0]!r}; a probe needs two to tell apart.")
    of_units = np.searchsorted(there, utterances[labelled])
    return _Units(bank.take(there), there, rows, of_units, values, names, bank.is_frames(sites[0]))


def _rows_of_each(bank: FeatureBank, sites: Sequence[str]) -> Int[np.ndarray, " utterances"]:
    """Count the rows of each utterance at the sites, which must all have the same rows."""
    frames = bank.is_frames(sites[0])
    lengths = bank.lengths(sites[0]) if frames else np.ones(len(bank), dtype=int)
    for site in sites[1:]:
        if bank.is_frames(site) != frames or (frames and not np.array_equal(bank.lengths(site), lengths)):
            raise ValueError(f"{site} has other rows than {sites[0]}; probe sites with the same frames, or with none.")
    return lengths


def _labels(bank: FeatureBank, target: Any, site: str) -> Shaped[np.ndarray, " rows"]:
    """Read the label of each row of a site, as it is given."""
    values = row_labels(bank, site, target, "target")  # refuses a column with labels missing
    if isinstance(target, str) and bank.is_frames(site):
        raise ValueError(
            f"{site} has a row for each frame, {target!r} a label for each utterance: give a label for each frame, "
            f"np.repeat(bank.labels({target!r}), bank.lengths({site!r})), or collect with reduce='mean+std'."
        )
    if isinstance(target, str) and bank.table[target].dtype.kind == "f":
        return bank.table[target].to_numpy(float)
    return values


def _codes(*columns: np.ndarray) -> Int[np.ndarray, " units"]:
    """Give a number for each value, or combination of values."""
    numbers = [np.unique(column, return_inverse=True)[1] for column in columns]
    return np.unique(np.stack(numbers), axis=1, return_inverse=True)[1].reshape(-1)


def _kind(units: _Units, voices: np.ndarray) -> str:
    """Say whether the target is the speaker, an attribute that speakers keep, or changes within a speaker."""
    pairs = pd.DataFrame({"speaker": voices[units.utterances], "label": units.values}).drop_duplicates()
    if pairs["speaker"].duplicated().any():
        return "changing"
    return "attribute" if pairs["label"].duplicated().any() or not units.names else "speaker"


def _read_groups(units: _Units, groups: Any, kind: str, speakers: str) -> tuple[str, np.ndarray]:
    """Give the name of the groups, and the group of each utterance."""
    if groups is None:
        return "id", np.arange(len(units.bank))
    if not isinstance(groups, str):
        given = np.asarray(groups)
        if given.ndim != 1 or len(given) <= units.there[-1]:
            raise ValueError(f"groups must be a column, a label for each utterance, or None; got {given.shape}.")
        return "(given)", given[units.there].astype(str)
    if groups == "session" and (kind == "attribute" or (kind == "changing" and "segments" in units.bank.settings)):
        return speakers, units.bank.labels(speakers)
    try:
        return groups, units.bank.labels(groups)
    except ValueError as error:
        raise ValueError(f"{error} Or pass groups=None: each utterance by itself.") from None


def _check_groups(units: _Units, grouped: np.ndarray, name: str, kind: str) -> None:
    """Refuse classes with one group: a class needs one group to learn from and one to be asked about."""
    labels = units.values if units.names else np.zeros(len(grouped), dtype=int)
    of_class = np.bincount(np.unique(np.stack([labels, grouped]), axis=1)[0])
    few = np.flatnonzero(of_class < 2)
    if not len(few):
        return
    if not units.names:
        raise ValueError(f"all utterances have one {name}; folds need two. groups=None takes each utterance by itself.")
    names = ", ".join(repr(units.names[label]) for label in few[:3]) + (", …" if len(few) > 3 else "")
    count = f"{len(few)} of {len(of_class)} classes ({names})"
    if (np.bincount(labels)[few] < 2).any():
        raise ValueError(f"{count} have fewer than two utterances; leave them out with bank.where, or add utterances.")
    if kind == "speaker" and len(few) == len(of_class):
        raise ValueError(
            f"every speaker has a single {name}: held out, nothing is left to learn the speaker from. groups=None "
            "splits by utterance (accuracy then also says how well the recording channel is known); "
            "us.verify_trials compares voices that were never learned."
        )
    raise ValueError(
        f"{count} lie in a single {name}: held out, nothing is left to learn them from. Leave them out with "
        "bank.where, or choose other groups (None: each utterance by itself)."
    )


def _check_metrics(metrics: Sequence[str] | None, names: Sequence[str], probe: str) -> list[str]:
    there = METRICS if names else ("r2",)
    asked = list(there[:3] if metrics is None else [metrics] if isinstance(metrics, str) else metrics)
    if wrong := [name for name in asked if name not in there]:
        what = "classes" if names else "a quantity (floats; give strings or integers for classes)"
        raise ValueError(f"metrics={wrong[0]!r} is none of those for {what}: {', '.join(there)}.")
    if not asked:
        raise ValueError(f"metrics is empty; give some of {', '.join(there)}.")
    if not names and probe != "ridge":
        raise ValueError(f"probe={probe!r} tells classes apart, but target is a quantity (floats); take probe='ridge'.")
    return asked


def _types(units: _Units, kind: str, spoken: np.ndarray, grouped: np.ndarray) -> Int[np.ndarray, " units"] | None:
    """Give the types, each of which gets a random label; None where a random attribute makes no sense."""
    if units.frames or not units.names:
        return None
    if kind == "speaker":
        table = units.bank.table
        known = "session" in table and not (table["session"].isna() | (table["session"].astype(str) == "")).any()
        return _codes(spoken, table["session"].astype(str).to_numpy()[units.utterances] if known else grouped)
    return spoken if kind == "attribute" or spoken.max() + 1 >= 2 * len(units.names) else None


def _tasks(
    units: _Units,
    kind: str,
    grouped: Int[np.ndarray, " units"],
    types: Int[np.ndarray, " units"] | None,
    cv: int,
    seeds: tuple[int, int],
) -> dict[str, Task]:
    """Make the tasks: the labels, and a random attribute if there are ``types``.

    Parameters
    ----------
    seeds : (int, int)
        The first seed, and the number of assignments of groups to folds.
    """
    seed, count = seeds
    numbers = np.random.SeedSequence(seed).generate_state(count)
    of_class = np.bincount(np.unique(np.stack([units.values, grouped]), axis=1)[0]) if kind == "speaker" else [cv]
    most = min(cv, int(min(of_class)))

    def task(labels: np.ndarray, groups: np.ndarray, one_speaker_each: bool = False) -> Task:
        strata = labels if units.names else np.zeros(labels.shape, dtype=int)
        folds = [group_folds(row, groups, most, int(number)) for row, number in zip(strata, numbers, strict=True)]
        return Task(labels, len(units.names), groups, np.stack(folds), units.utterances, one_speaker_each)

    tasks = {"trained": task(np.tile(units.values, (count, 1)), grouped, kind == "speaker")}
    if types is not None:
        # a type that lies in several groups, or shares its own, can be held out in part
        tasks["random_attribute"] = task(_random_labels(units, kind, types, count, seed), _codes(types, grouped))
    return tasks


def _random_labels(
    units: _Units, kind: str, types: np.ndarray, seeds: int, seed: int
) -> Int[np.ndarray, "seeds units"]:
    """Permute the labels of the types; where a type has several labels, draw classes of equal size."""
    first = np.unique(types, return_index=True)[1]
    own = np.arange(len(first)) % len(units.names) if kind == "changing" else units.values[first]
    return np.stack([np.random.default_rng([seed, row, 1]).permutation(own)[types] for row in range(seeds)])


def _check_controls(
    units: _Units, controls: Sequence[str] | None, sites: Sequence[str], types: np.ndarray | None
) -> list[str]:
    bank = units.bank
    absent = lacking(bank, sites)
    if controls is None:
        cannot = {"random_attribute"} if types is None else set()
        cannot |= absent & set(ACOUSTIC) if units.frames else set()  # collect gives none of frames
        asked = [name for name in CONTROLS if name not in cannot]
    else:
        asked = [controls] if isinstance(controls, str) else list(dict.fromkeys(controls))
    if wrong := [name for name in asked if name not in CONTROLS]:
        raise ValueError(
            f"there is no control {wrong[0]!r}{nearest(wrong[0], CONTROLS)}; there are {', '.join(CONTROLS)}."
        )
    if "random_attribute" in asked and types is None:
        raise ValueError(
            "random_attribute needs classes of utterances, and two speakers for each class where the target changes "
            "within a speaker; leave it out of controls."
        )
    missing = [name for name in asked if name in absent]
    if units.frames and set(missing) & set(ACOUSTIC):
        raise ValueError(f"the bank has no {missing[0]} of frames, as the target is; leave it out of controls.")
    check_lacking(missing)
    return asked


def lacking(bank: FeatureBank, sites: Sequence[str]) -> set[str]:
    """Say which controls the bank has no values for, of the same kind of rows as the sites."""
    frames = bank.is_frames(sites[0])
    absent = {name for name in ACOUSTIC if name not in bank or bank.is_frames(name) != frames}
    return absent | ({"untrained"} if not all(_untrained(bank, site) for site in sites) else set())


def check_lacking(missing: Sequence[str]) -> None:
    """Refuse to measure without controls that are asked for and not there."""
    if missing:
        raise ValueError(
            f"the bank lacks {', '.join(missing)}, without which a curve says little: "
            f"us.collect(…, baselines={list(missing)}) has them measured; or name the controls you want in controls=."
        )


def _untrained(bank: FeatureBank, site: str) -> list[str]:
    return [name for name in bank.sites if re.fullmatch(rf"untrained\.\d+\.{re.escape(site)}", name)]


def jobs(bank: FeatureBank, sites: Sequence[str], asked: Sequence[str]) -> list[tuple[str, str, str]]:
    """List what is measured: which features, for which control and site."""
    own: list[str] = [name for name in ("trained", "shuffle", "random_attribute") if name in ("trained", *asked)]
    listed = [(site, control, site) for control in own for site in sites]
    if "untrained" in asked:
        listed += [(name, "untrained", site) for site in sites for name in _untrained(bank, site)]
    return listed + [(name, name, name) for name in ACOUSTIC if name in asked]


def _measure(
    units: _Units,
    pool: str | None,
    jobs: Sequence[tuple[str, str, str]],
    tasks: Mapping[str, Task],
    plan: Plan,
    progress: bool,
) -> dict[tuple[str, str], list[dict[str, np.ndarray]]]:
    """Measure all jobs; give by control and site the metrics' values and draws of each model."""

    def features_of(name: str) -> np.ndarray:
        return units.bank.features(name, None if name in ACOUSTIC else pool)[units.rows]

    for name in dict.fromkeys(job[0] for job in jobs):
        features_of(name)  # what is not finite is refused before anything is fitted
    found: dict[tuple[str, str], list[dict[str, np.ndarray]]] = {}
    for name, control, site in tqdm(jobs, desc="probe", disable=not progress):
        task = tasks.get(control, tasks["trained"])
        outcome = measure(features_of(name), task, plan, shuffle=control == "shuffle")
        found.setdefault((control, site), []).append(outcome)
    return found


def _overlap(units: _Units, folds: np.ndarray) -> dict[str, float]:
    """Give the share of held-out units whose speaker, session, sentence or text is also in training."""
    shares = {}
    for column in ("speaker", "session", "sentence", "text"):
        if column not in units.bank.table or units.bank.table[column].isna().any():
            continue
        codes = _codes(units.bank.table[column].astype(str).to_numpy())[units.utterances]
        known = [np.isin(codes[row == fold], codes[row != fold]) for row in folds for fold in range(row.max() + 1)]
        shares[column] = float(np.concatenate(known).mean())
    return shares
