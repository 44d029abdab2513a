"""A `LayerReport` holds what probes found at every layer and for every control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from unisat.config import nearest
from unisat.interpret.activations.sites import layer_number
from unisat.interpret.probing.scoring import LOWER_IS_BETTER
from unisat.interpret.result import Result, plots
from unisat.interpret.statistics.intervals import as_good_as_best, interval, lower_bounds

ACOUSTIC = ("logmel", "mfcc", "loudness")
CONTROLS = ("shuffle", "random_attribute", "untrained", *ACOUSTIC)
"""All controls; ``trained`` is the model itself."""

Found = Mapping[tuple[str, str], list[dict[str, Float[np.ndarray, "seeds draws"]]]]
"""Each metric's value and draws for each model, by control and site (an acoustic control is its own site)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerReport(Result):
    """What probes found at each layer, and what the same probes find where there should be less.

    Attributes
    ----------
    rows : DataFrame
        The rows of `table`.
    draws : dict
        Draws (n_boot,) by metric, control and site; draws with the same number have the same utterances.
    leaky : bool or None
        Whether probes that were taught shuffled labels do better than chance at some layer. Then labels of held-out
        utterances found their way into training, and no number here can be trusted. It is measured by the first
        metric, with one bound for all layers (`bootstrap.lower_bounds`). None without the control ``shuffle``.
    """

    rows: pd.DataFrame
    draws: Mapping[tuple[str, str, str], np.ndarray] = field(repr=False)
    leaky: bool | None

    def table(self) -> pd.DataFrame:
        """Give a row for each metric, control and site.

        The columns are ``layer`` (missing for what has no layers), ``site``, ``control`` (``trained`` is the model
        itself), ``metric``, ``value``, ``low`` and ``high`` (95 % interval), ``spread`` (standard deviation over seeds;
        of ``untrained`` over its models), ``chance``, ``selectivity`` (value less that of the random attribute), ``n``
        (utterances or frames) and ``n_groups``.
        """
        return self.rows.copy()

    def plot(self, metric: str | None = None, **options: Any) -> Any:
        """Draw a metric over layers with its controls (`unisat.plots.probe_curves`); `best_layers` are filled."""
        metric = self._metric(metric)
        best = self.best_layers(metric)
        return plots().probe_curves(self.rows, metric=metric, best=best, leaky=bool(self.leaky), **options)

    def best_layers(self, metric: str | None = None, level: float = 0.95) -> set[int]:
        """Give the layers that cannot be told from the best one: a set, not an argmax.

        Differences are paired, and bounded for each layer by one max-statistic over all others
        (`bootstrap.as_good_as_best`). The set holds the truly best layer with probability ``level``. It is empty where
        the metric could not be measured.
        """
        metric = self._metric(metric)
        rows = self.rows[(self.rows["metric"] == metric) & (self.rows["control"] == "trained")]
        if rows["value"].isna().any():
            return set()
        sign = -1 if metric in LOWER_IS_BETTER else 1
        draws = np.stack([self.draws[metric, "trained", site] for site in rows["site"]])
        speakers = self.settings.get("n_speakers")
        keep = as_good_as_best(sign * rows["value"].to_numpy(), sign * draws, level, groups=speakers)
        return {int(layer) for layer in rows["layer"][keep]}

    def difference(self, a: int | str, b: int | str, metric: str | None = None) -> tuple[float, float, float]:
        """Give how much more layer ``a`` has than ``b``, and the 95 % interval of that, paired.

        Parameters
        ----------
        a, b : int or str
            A layer or its site. ``b`` may also be a control, of the same layer if it has layers:
            ``difference(4, "untrained")``, ``difference(4, "logmel")``.

        Notes
        -----
        The interval is that of this one difference. If you chose the layers by looking at the curve, `best_layers`
        says more.
        """
        metric = self._metric(metric)
        site = self._site(a)
        other = ("trained", self._site(b)) if b not in CONTROLS else (str(b), str(b) if b in ACOUSTIC else site)
        if (metric, *other) not in self.draws:
            raise ValueError(f"this report has no control {b!r}; it has {', '.join(self.rows['control'].unique())}.")
        drawn = self.draws[metric, "trained", site] - self.draws[metric, *other]
        low, high = interval(drawn, groups=self.settings.get("n_speakers"))
        return self._value(metric, "trained", site) - self._value(metric, *other), low, high

    def _metric(self, metric: str | None) -> str:
        known = list(self.rows["metric"].unique())
        if metric is not None and metric not in known:
            raise ValueError(
                f"this report has no metric {metric!r}{nearest(metric, known)}; it has {', '.join(known)}."
            )
        return metric or known[0]

    def _site(self, layer: int | str) -> str:
        trained = self.rows[self.rows["control"] == "trained"]
        found = trained["site"][(trained["layer"] == layer) | (trained["site"] == layer)]
        if found.empty:
            raise ValueError(f"this report has no layer {layer!r}; it has {', '.join(trained['site'].unique())}.")
        return str(found.iloc[0])

    def _value(self, metric: str, control: str, site: str) -> float:
        rows = self.rows
        return float(rows["value"][(rows.metric == metric) & (rows.control == control) & (rows.site == site)].iloc[0])


def assemble(found: Found, classes: int, units: int, groups: int, seed: int, settings: dict[str, Any]) -> LayerReport:
    """Make the report: means over seeds and models, and draws in which seeds and models are drawn as well."""
    layers = _layers([site for control, site in found if control == "trained"])
    first = next(iter(found.values()))[0]
    metrics, n_boot = list(first), next(iter(first.values())).shape[1] - 1
    chance = {"bal_acc": 1 / max(1, classes), "eer": 0.5, "min_dcf": 1.0, "compression": 1.0}
    chance["mdl"] = units * float(np.log2(max(1, classes)))
    rows: list[dict[str, Any]] = []
    draws: dict[tuple[str, str, str], np.ndarray] = {}
    for metric in metrics:
        for (control, site), runs in found.items():
            every = np.stack([run[metric] for run in runs])  # (models, seeds, 1 + n_boot)
            by_model, by_seed = (_shares(n, n_boot, (seed, 4 + i)) for i, n in enumerate(every.shape[:2]))
            share = by_model[:, None] * by_seed
            drawn = draws[metric, control, site] = (share * every[..., 1:]).sum((0, 1))
            points = every[..., 0].mean(1) if len(runs) > 1 else every[0, :, 0]
            low, high = interval(drawn, groups=settings.get("n_speakers"))
            row: dict[str, Any] = {"layer": layers.get(site), "site": site, "control": control, "metric": metric}
            row |= {"value": float(every[..., 0].mean()), "low": low, "high": high}
            row |= {
                "spread": float(points.std(ddof=1)) if len(points) > 1 else np.nan,
                "chance": chance.get(metric, 0.0),
            }
            rows.append(row | {"selectivity": np.nan, "n": units, "n_groups": groups})
    table = pd.DataFrame(rows).astype({"layer": "Int64"})
    trained = (table["control"] == "trained") & ~table["metric"].isin(LOWER_IS_BETTER)
    random = table[table["control"] == "random_attribute"].set_index(["metric", "site"])["value"].to_dict()
    less = [random.get(key, np.nan) for key in zip(table["metric"], table["site"], strict=True)]
    table["selectivity"] = (table["value"] - less).where(trained)
    leaky = _leaky(table, draws, settings.get("n_speakers")) if (table["control"] == "shuffle").any() else None
    return LayerReport(rows=table, draws=draws, leaky=leaky, settings=settings | {"leaky": leaky})


def _shares(number: int, n_boot: int, seed: tuple[int, int]) -> Float[np.ndarray, "number n_boot"]:
    """Draw the weights of seeds or models in each draw, as uneven as a mean of so few is uncertain."""
    drawn = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), n_boot).T
    # a resample varies less than a sample, by (number - 1) / number
    return (1 + (drawn - 1) * np.sqrt(number / max(1, number - 1))) / number


def _layers(sites: Sequence[str]) -> dict[str, int]:
    """Give the layer of each site by the number in its name, or by its place where numbers do not differ."""
    found = [number for site in sites if (number := layer_number(site)) is not None]
    return dict(zip(sites, found if len(set(found)) == len(sites) else range(len(sites)), strict=True))


def _leaky(rows: pd.DataFrame, draws: Mapping[tuple[str, str, str], np.ndarray], speakers: int | None) -> bool:
    """Say whether shuffled labels beat chance at some layer, by the first metric."""
    metric = rows["metric"].iloc[0]
    shuffled = rows[(rows["metric"] == metric) & (rows["control"] == "shuffle")]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    stacked = sign * np.stack([draws[metric, "shuffle", site] for site in shuffled["site"]])
    low = lower_bounds(sign * shuffled["value"].to_numpy(), stacked, groups=speakers)
    return bool((low > sign * shuffled["chance"].to_numpy()).any())
