"""Several models on one axis: what each one's layers know, and how much more one has than another, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from unisat.interpret.activations.sites import hidden_sites
from unisat.interpret.features.bank import FeatureBank, matched
from unisat.interpret.probing.probes import check_lacking, jobs, lacking, probe_layers
from unisat.interpret.probing.report import ACOUSTIC, LayerReport, assemble
from unisat.interpret.probing.scoring import LOWER_IS_BETTER
from unisat.interpret.result import Result, plots
from unisat.interpret.speakers.trials import verify_trials
from unisat.interpret.statistics.intervals import interval

Task = Literal["probe", "verify"]
By = Literal["layer", "depth"]
SAME = ("speaker", "session", "utterance", "start", "end", "seconds")
"""Columns that banks of the same utterances agree in, beside those that are asked for."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison(Result):
    """What several models know of the same utterances, layer by layer; `compare` gives it.

    Attributes
    ----------
    reports : dict of str to LayerReport
        The report of each model, by its name. Draws with the same number are of the same speakers in all of them.
    by : {"layer", "depth"}
        Whether layers are compared by their number, or by their depth as a share of the model's last layer.
    last : dict of str to int
        The last layer of each model, whose depth is 1.
    """

    reports: Mapping[str, LayerReport]
    by: By
    last: Mapping[str, int]

    def table(self) -> pd.DataFrame:
        """Give the rows of all reports (`LayerReport.table`), with the ``model`` first and ``depth`` behind ``layer``.

        ``depth`` is 0 for layer 0 and 1 for the model's last layer.
        """
        tables = []
        for name, report in self.reports.items():
            rows = report.table()
            rows.insert(1, "depth", rows["layer"].astype(float) / max(1, self.last[name]))
            rows.insert(0, "model", name)
            tables.append(rows)
        return pd.concat(tables, ignore_index=True)

    def differences(self, metric: str | None = None) -> pd.DataFrame:
        """Give how much more the first model of each pair has than the second, with 95 % intervals over speakers.

        Returns
        -------
        DataFrame
            ``metric``, ``first``, ``second``, ``at``, ``control``, ``first_layer``, ``second_layer``, ``depth``,
            ``difference`` (the first's value less the second's: of an error rate, below 0 is better), ``low`` and
            ``high``. ``at`` is:

            - ``layer`` or ``depth``: two layers of the same number, or each layer of the model with fewer layers beside
              the nearest of the other; ``depth`` is that of the former.
            - ``best``: the best layer of each model. The interval chooses both anew in each draw, since they were
              chosen by looking at the same speakers.

            ``control`` is ``trained`` for the models themselves. ``untrained`` is the difference of their twins with
            fresh weights, at the same layers: what the architectures alone make of it.

        Notes
        -----
        Each interval is that of one difference. Where you look for a layer in which two models differ, one in twenty
        such intervals leaves out 0 by chance. The best of more layers is in part the luckiest, so ``best`` speaks a
        little for the model that has more of them.
        """
        name = self._metric(metric)
        pairs = combinations(self.reports, 2)
        table = pd.DataFrame([row for first, second in pairs for row in self._pair(first, second, name)])
        return table.astype({"first_layer": "Int64", "second_layer": "Int64"})

    def plot(self, kind: Literal["curves", "differences"] = "curves", metric: str | None = None, **options: Any) -> Any:
        """Draw the models' curves with their controls (`unisat.plots.comparison`), or their differences.

        Layers that cannot be told from their model's best are filled.
        """
        if kind not in ("curves", "differences"):
            raise ValueError(f"kind={kind!r} must be 'curves' or 'differences'.")
        metric = self._metric(metric)
        if kind == "differences":
            return plots().differences(self.differences(metric), by=self.by, **options)
        best = {name: report.best_layers(metric) for name, report in self.reports.items()}
        leaky = [name for name, report in self.reports.items() if report.leaky]
        return plots().comparison(self.table(), metric=metric, by=self.by, best=best, leaky=leaky, **options)

    def _metric(self, metric: str | None) -> str:
        return next(iter(self.reports.values()))._metric(metric)

    def _pair(self, first: str, second: str, metric: str) -> Iterator[dict[str, Any]]:
        """Give the rows of one pair of models."""
        one, two = (_curves(self.reports[name], metric) for name in (first, second))
        ends = self.last[first], self.last[second]
        sign = -1 if metric in LOWER_IS_BETTER else 1
        best = [np.argmax(sign * model["trained"].every, axis=0) for model in (one, two)]
        groups = self.reports[first].settings["n_speakers"]
        places = [(self.by, *pair) for pair in _beside(one["trained"].layers, two["trained"].layers, ends, self.by)]
        for control in [name for name in one if name in two]:
            a, b = one[control], two[control]
            for at, i, j in [*places, ("best", *best)]:
                across = np.arange(a.every.shape[1])
                drawn = a.every[i, across] - b.every[j, across]
                i, j = (int(np.ravel(place)[0]) for place in (i, j))
                low, high = interval(drawn[1:], groups=groups)
                row: dict[str, Any] = {"metric": metric, "first": first, "second": second, "at": at, "control": control}
                row |= {"first_layer": a.layers[i], "second_layer": b.layers[j]}
                depth = a.layers[i] / max(1, ends[0]) if len(a.layers) <= len(b.layers) else b.layers[j] / ends[1]
                row |= {"depth": np.nan if at == "best" else float(depth)}
                yield row | {"difference": float(drawn[0]), "low": low, "high": high}


@dataclass(frozen=True, eq=False)
class _Curve:
    """The layers of a model or of its untrained twins, with the value of each and then its draws."""

    layers: Int[np.ndarray, " layers"]
    every: Float[np.ndarray, "layers draws"]


def _curves(report: LayerReport, metric: str) -> dict[str, _Curve]:
    """Give the curves of a model and of its twins, by control."""
    found = {}
    for control in ("trained", "untrained"):
        rows = report.rows[(report.rows["metric"] == metric) & (report.rows["control"] == control)]
        if len(rows):
            rows = rows.sort_values("layer")
            draws = np.stack([report.draws[metric, control, site] for site in rows["site"]])
            found[control] = _Curve(rows["layer"].to_numpy(int), np.column_stack([rows["value"], draws]))
    return found


def _beside(one: np.ndarray, two: np.ndarray, ends: tuple[int, int], by: By) -> list[tuple[int, int]]:
    """Give the places of layers that are compared: of the same number, or of the nearest depth."""
    if by == "layer":
        return [(i, int(np.flatnonzero(two == layer)[0])) for i, layer in enumerate(one) if layer in two]
    gaps = np.abs(one[:, None] / max(1, ends[0]) - two / max(1, ends[1])).round(9)
    if len(one) <= len(two):
        return [(i, int(j)) for i, j in enumerate(gaps.argmin(1))]
    return [(int(i), j) for j, i in enumerate(gaps.argmin(0))]


def compare(
    banks: Mapping[str, FeatureBank],
    target: str | Sequence[Any] | np.ndarray = "speaker",
    *,
    task: Task = "probe",
    by: By | None = None,
    **options: Any,
) -> Comparison:
    """Ask the layers of several models the same question, of the same utterances, folds and draws of speakers.

    Parameters
    ----------
    banks : dict of str to FeatureBank
        A bank of each model, by the name that the model has in tables and pictures: two or more, made from the same
        utterances in any order. Each has its own controls, as `probe_layers` takes them: ``untrained`` is a twin of its
        own architecture.
    target : str or sequence
        As in `probe_layers`. A sequence has the order of the first bank.
    task : {"probe", "verify"}
        ``"probe"`` is `probe_layers`. ``"verify"`` is `verify_trials` of each layer: the equal error rate of telling
        speakers apart on whom nothing was fitted.
    by : {"layer", "depth"}, optional
        How layers are put beside each other: by number, or by depth as a share of the last layer in the bank. None:
        by number where all banks have the same layers, else by depth.
    **options
        Those of `probe_layers`, or of `verify_trials` with ``sites`` and ``controls`` (``untrained``, ``logmel``,
        ``mfcc``, ``loudness``; all of them by default). ``train`` is then a dict of banks, one for each model.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If banks do not hold the same utterances (the message names those that are missing), contradict each other about
        them, or were pooled in different ways; if there are fewer than two; or as `probe_layers` and `verify_trials`,
        with the model's name.

    Examples
    --------
    >>> found = us.compare({"SAT": bank, "HuBERT": other}, "speaker")
    >>> found.differences()
    >>> found.plot(), found.plot("differences")
    """
    if not isinstance(banks, Mapping) or len(banks) < 2:
        raise ValueError('banks must be a dict of two banks or more by name: {"SAT": bank, "HuBERT": other}.')
    for name, value, there in (("task", task, get_args(Task)), ("by", by, (None, *get_args(By)))):
        if value not in there:
            raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, there))}.")
    if task == "verify" and not (isinstance(target, str) and target == "speaker"):
        raise ValueError("task='verify' tells speakers apart: leave target out, or give 'speaker'.")
    named = [target, options.get("groups"), options.get("speakers")]
    same = _matched(banks, [name for name in named if isinstance(name, str)], options.get("pool"))
    reports, train = {}, options.pop("train", None)
    if train is not None and (not isinstance(train, Mapping) or set(train) != set(banks)):
        raise ValueError(f"train must be a dict with a bank for each model: {', '.join(banks)}.")
    for name, bank in same.items():
        try:
            if task == "probe":
                reports[name] = probe_layers(bank, target, **options)
            else:
                reports[name] = _verified(bank, train=None if train is None else train[name], **options)
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from error
    layers = {name: report.rows["layer"].dropna().astype(int) for name, report in reports.items()}
    last = {name: int(max([*layers[name], *hidden_sites(bank.sites)])) for name, bank in same.items()}
    alike = len({(last[name], *sorted(set(layers[name]))) for name in reports}) == 1
    chosen = by or ("layer" if alike else "depth")
    settings = {"models": {name: report.settings for name, report in reports.items()}, "task": task, "by": chosen}
    return Comparison(reports=reports, by=chosen, last=last, settings=settings)


def _matched(banks: Mapping[str, FeatureBank], columns: Sequence[str], pool: str | None) -> dict[str, FeatureBank]:
    """Give the banks with their utterances in the order of the first, or refuse what is not of the same utterances."""
    (first, bank), *others = banks.items()
    found = {first: bank}
    for name, other in others:
        other = found[name] = matched(bank, other, (repr(first), repr(name)))
        for column in dict.fromkeys([*columns, *SAME]):
            if column in bank.table and column in other.table:
                ours, theirs = bank.table[column], other.table[column]
                unlike = ~(ours.astype(str) == theirs.astype(str)) & ~(ours.isna() & theirs.isna())
                if unlike.any():
                    row = int(np.argmax(unlike))
                    said = f"{str(ours[row])!r} in {first!r} and {str(theirs[row])!r} in {name!r}"
                    raise ValueError(
                        f"{column!r} of {bank.ids[row]!r} is {said}, and {unlike.sum()} utterance(s) differ in it; "
                        "compare banks of the same utterances."
                    )
        for setting in ("reduce", "frames"):
            made = [each.settings.get(setting) for each in (bank, other)]
            if None not in made and made[0] != made[1] and (setting != "reduce" or pool is None):
                hint = "; pool='mean' takes the means out of both" if set(made) == {"mean", "mean+std"} else ""
                raise ValueError(
                    f"{first!r} was collected with {setting}={made[0]!r}, {name!r} with {made[1]!r}: one of them would "
                    f"know more by that alone. Collect both alike{hint}."
                )
    return found


def _verified(
    bank: FeatureBank,
    *,
    train: FeatureBank | None = None,
    sites: Sequence[str] | None = None,
    controls: Sequence[str] | None = None,
    pool: Literal["mean", "mean+std"] | None = "mean",
    progress: bool = True,
    **options: Any,
) -> LayerReport:
    """Report the equal error rate of each layer and control, with draws of speakers."""
    chosen = bank.hidden if sites is None else list(sites)
    known = ("untrained", *ACOUSTIC)
    asked = list(known) if controls is None else list(controls)
    if wrong := [name for name in asked if name not in known]:
        raise ValueError(f"trials have no control {wrong[0]!r}; they have {', '.join(known)}.")
    check_lacking([name for name in asked if name in lacking(bank, chosen)])
    found: dict[tuple[str, str], list[dict[str, np.ndarray]]] = {}
    for name, control, site in tqdm(jobs(bank, chosen, asked), desc="trials", disable=not progress):
        scored = verify_trials(bank, name, train=train, pool=None if name in ACOUSTIC else pool, **options)
        rates = np.append(scored.eer(), scored.draws())[None]
        found.setdefault((control, site), []).append({"eer": rates})
    heard = scored.summary().iloc[0]
    settings = scored.settings | {"sites": chosen, "controls": asked, "n_speakers": int(heard["speakers"])}
    seed = int(scored.settings["seed"])
    return assemble(found, 0, int(heard["utterances"]), int(heard["speakers"]), seed, settings | {"pool": pool})
