"""Activation patching, place by place: what a site or head of one utterance does to another's output.

Every pair is a *clean* utterance and a *corrupt* one. The corrupt one is run with the clean one's values at one place
(`unisat.Patch`) and a metric says how far its output moved towards the clean one's (Zhang and Nanda
2024, arXiv:2309.16042: denoising). A placebo, the same change turned in a random direction, says how far any change of
that size would have moved it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from unisat.corpus import Batch
from unisat.interpret.activations.capture import as_batch, run
from unisat.interpret.activations.sites import Selector, Site, select, site_list, unwrap
from unisat.interpret.features.collect import fingerprint
from unisat.interpret.interventions.edits import Align, Intervention, Patch, Placebo
from unisat.interpret.interventions.intervene import intervene
from unisat.interpret.interventions.metrics import Metric
from unisat.interpret.result import Result, plots
from unisat.interpret.statistics.intervals import interval, two_level


@dataclass(frozen=True, eq=False, kw_only=True)
class SweepResult(Result):
    """The effect of patching each place, with intervals and placebo; of `sweep`.

    Attributes
    ----------
    units : DataFrame
        One row for each place: ``site``, ``layer``, ``head``, ``start`` and ``end`` in seconds; empty where none.
    clean, corrupt : (pairs,)
        The metric of either utterance as it is.
    patched : (units, pairs)
        The metric of the corrupt utterance with the clean one's values.
    placebos : (units, draws, pairs)
        The metric with a change as large in random directions.
    groups : (pairs,)
        What is drawn first for intervals and signs: speakers, or each pair by itself.
    n_boot, seed : int
        Draws, and their seed.
    """

    units: pd.DataFrame
    clean: Float[np.ndarray, " pairs"]
    corrupt: Float[np.ndarray, " pairs"]
    patched: Float[np.ndarray, "units pairs"]
    placebos: Float[np.ndarray, "units draws pairs"]
    groups: np.ndarray
    n_boot: int = 1000
    seed: int = 0

    def table(self, level: float = 0.95) -> pd.DataFrame:
        """One row for each place.

        Columns: ``site``, ``layer``, ``head``, ``start``, ``end``; ``effect``, the mean of patched - corrupt over the
        mean of clean - corrupt (0: as corrupt, 1: as clean), with its interval ``low`` to ``high``, from a bootstrap
        over groups, then pairs; ``difference``, the mean of patched - corrupt in the metric's unit; ``placebo``, the
        mean effect of the placebos, and ``placebo_low`` to ``placebo_high``, the least and largest of the draws;
        ``p_value`` of the effect less the placebo, from flipping its sign at random group by group, two-sided;
        ``p_adjusted``, the same against the largest of all places in each draw (Westfall and Young 1993: the chance
        that *any* place shows so much by accident); ``n`` pairs.
        """
        moved, gap = self.patched - self.corrupt, self.clean - self.corrupt
        counts = two_level(self.groups, self.n_boot, seed=self.seed)
        draws = (counts @ moved.T) / (counts @ gap)[:, None]  # (n_boot, units)
        bounds = [interval(column, level) for column in draws.T]
        placebo = (self.placebos - self.corrupt).mean(-1) / gap.mean()  # (units, draws)
        given = placebo.shape[1] > 0
        nothing = np.full(len(self.units), np.nan)
        p_value, p_adjusted = self._p_values() if given else (nothing, nothing)
        return self.units.assign(
            effect=moved.mean(1) / gap.mean(),
            low=[low for low, _ in bounds],
            high=[high for _, high in bounds],
            difference=moved.mean(1),
            placebo=placebo.mean(1) if given else nothing,
            placebo_low=placebo.min(1) if given else nothing,
            placebo_high=placebo.max(1) if given else nothing,
            p_value=p_value,
            p_adjusted=p_adjusted,
            n=len(self.clean),
        )

    def _p_values(self) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]:
        """Of each place alone, and against the largest of all places."""
        names, codes = np.unique(self.groups, return_inverse=True)
        beyond = self.patched - self.placebos.mean(1)  # (units, pairs)
        sums = np.stack([np.bincount(codes, row, minlength=len(names)) for row in beyond])  # (units, groups)
        size = np.sqrt(np.square(sums).sum(1))  # signs do not change it
        sums = np.divide(sums, size[:, None], out=np.zeros_like(sums), where=size[:, None] > 0)
        signs = np.random.default_rng(self.seed).choice([-1.0, 1.0], size=(self.n_boot, len(names)))
        flipped, observed = np.abs(signs @ sums.T), np.abs(sums.sum(1)) - 1e-9  # equal sums in another order
        alone = (1 + (flipped >= observed).sum(0)) / (1 + self.n_boot)
        family = (1 + (flipped.max(1)[:, None] >= observed).sum(0)) / (1 + self.n_boot)
        return alone, family

    def plot(self, **options: Any) -> Any:
        """Effects with intervals and placebos; see `unisat.plots.effects`."""
        return plots().effects(self.table(), **options)

    def heatmap(self, **options: Any) -> Any:
        """Effects as colours, layers by heads or places by seconds; see `unisat.plots.effect_map`."""
        return plots().effect_map(self.table(), **options)


def sweep(
    model: nn.Module,
    clean: Any,
    corrupt: Any,
    sites: Selector | Sequence[Selector],
    metric: Metric | Callable[[Any], Tensor],
    *,
    heads: bool = True,
    window: float | None = None,
    align: Align = "error",
    placebo: int = 8,
    groups: Sequence[str] | None = None,
    sampling_rate: int | None = None,
    batch_size: int = 8,
    n_boot: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> SweepResult:
    """Patch clean utterances' values into corrupt ones, one place at a time, and measure what that does.

    Parameters
    ----------
    model : UniSpeechSatModel or a model that holds one
        In evaluation mode.
    clean, corrupt
        As many utterances each, paired in order: batches, paths, or waveforms with their ``sampling_rate``.
    sites : str, re.Pattern or several
        Places, as in `unisat.capture`.
    metric : Metric or callable
        `speaker_cosine`, `logit_difference`, or a function from the model's output to one number for each utterance.
    heads : bool
        Sites with heads one head at a time, not whole.
    window : float, optional
        Also one stretch of so many seconds at a time, from the start to where the shortest utterance ends.
    align : {"error", "crop", "stretch"}
        What to do where the utterances of a pair differ in length; see `unisat.Patch`.
    placebo : int
        Random directions for each place; 0 for none, and no p-values.
    groups : (pairs,), optional
        What is drawn first for intervals and p-values. None for the speakers of the side that has fewer (but two at
        least), where they are known, and each pair by itself elsewhere.
    batch_size : int
        Pairs in one forward pass; with exact padding it does not change the result.
    n_boot, seed : int
        Draws of intervals and of p-values, the smallest of which is ``1 / (1 + n_boot)``, and no less than
        ``2 ** (1 - groups)``; seed of these and of the placebos.

    Returns
    -------
    SweepResult

    Raises
    ------
    ValueError
        For fewer than two pairs, pairs of different length without ``align``, a site that cannot be patched, a metric
        that is not one finite number for each utterance or that does not tell clean from corrupt.

    Examples
    --------
    >>> metric = us.metrics.speaker_cosine(enrolled)  # (pairs, dim): the clean speakers, other recordings
    >>> us.sweep(model, clean, corrupt, "block.*.attn.z", metric, align="stretch").heatmap()
    """
    pairs = as_batch(clean, sampling_rate), as_batch(corrupt, sampling_rate)
    count = len(pairs[0])
    if len(pairs[1]) != count or count < 2:
        raise ValueError(
            f"clean and corrupt have {count} and {len(pairs[1])} utterances; they are paired in order, and an interval "
            "needs at least two pairs."
        )
    if placebo < 0 or batch_size < 1:
        raise ValueError(f"placebo={placebo} must be at least 0 and batch_size={batch_size} at least 1.")
    chosen = select(site_list(unwrap(model)), sites if isinstance(sites, list | tuple) else [sites])  # type: ignore[list-item]
    units = _units(chosen, heads, window, float(min(batch.seconds.min() for batch in pairs)))
    by, drawn_first = _groups(pairs, groups)
    for value in metric.values if isinstance(metric, Metric) else ():
        if value.ndim and len(value) != count:
            raise ValueError(f"the metric compares with {len(value)} utterances, there are {count} pairs.")
    found: dict[str, np.ndarray] = {
        "clean": np.empty(count),
        "corrupt": np.empty(count),
        "patched": np.empty((len(units), count)),
        "placebos": np.empty((len(units), placebo, count)),
    }
    seeds = np.random.default_rng(seed).integers(2**31, size=(len(units), placebo))
    batches = np.array_split(np.arange(count), -(-count // batch_size))
    bar = tqdm(total=len(batches) * len(units), desc="sweep", unit=" patches", disable=not progress)
    with bar, torch.no_grad():
        for rows in batches:
            measured = _patches(model, [batch[rows] for batch in pairs], chosen, units, metric, rows, align, seeds)
            for name, unit, values in measured:
                found[name][unit][rows] = values
                bar.update(name == "patched")
    gap = found["clean"] - found["corrupt"]
    draws = two_level(by, n_boot, seed=seed) @ gap / count
    low, high = interval(draws)
    if not gap.any() or abs(gap.mean()) < 1e-6 * np.abs(gap).max():
        raise ValueError(
            "the metric is the same for clean and corrupt utterances: there is no effect to take a share of."
        )
    if low <= 0 <= high:
        warnings.warn(
            f"clean and corrupt utterances differ by {gap.mean():.3g} in the metric, interval {low:.3g} to {high:.3g}: "
            "effects, which are shares of it, are not to be trusted. Choose pairs or a metric that tell them apart.",
            stacklevel=2,
        )
    settings = {
        "model": fingerprint(unwrap(model)),
        "metric": metric.name if isinstance(metric, Metric) else getattr(metric, "__name__", type(metric).__name__),
        "pairs": count,
        "groups": drawn_first,
        "heads": heads,
        "window": window,
        "align": align,
        "placebo": placebo,
        "n_boot": n_boot,
        "seed": seed,
        "gap": {"mean": float(gap.mean()), "low": low, "high": high},
    }
    return SweepResult(settings=settings, units=units, groups=by, n_boot=n_boot, seed=seed, **found)


def _units(chosen: Sequence[Site], heads: bool, window: float | None, shortest: float) -> pd.DataFrame:
    """The places, one row each."""
    starts = [np.nan]
    if window is not None:
        if not 0 < window <= shortest:
            raise ValueError(f"window={window} s must be above 0 and fit the shortest utterance, {shortest:.3f} s.")
        starts = [float(k * window) for k in range(int(shortest / window + 1e-9))]
    rows = [
        (site.name, _layer(site.name), head, start, start + (window or np.nan))
        for site in chosen
        for head in (range(site.sizes[site.shape.index("heads")]) if heads and "heads" in site.shape else [None])
        for start in starts
    ]
    units = pd.DataFrame(rows, columns=["site", "layer", "head", "start", "end"])
    return units.astype({"layer": "Int64", "head": "Int64"})


def _layer(name: str) -> int | None:
    found = re.match(r"(?:block|hidden)\.(\d+)", name)
    return int(found[1]) if found else None


def _groups(pairs: tuple[Batch, Batch], given: Sequence[str] | None) -> tuple[np.ndarray, str]:
    """What is drawn first, and its name."""
    count = len(pairs[0])
    if given is not None:
        if len(given) != count:
            raise ValueError(f"groups must name one for each of the {count} pairs, got {len(given)}.")
        return np.asarray(given, dtype=str), "given"
    known = {
        side: np.asarray(batch.speakers, dtype=str)
        for side, batch in zip(("clean", "corrupt"), pairs, strict=True)
        if None not in batch.speakers and len(set(batch.speakers)) > 1
    }
    if not known:
        return np.arange(count).astype(str), "pairs"
    side = min(known, key=lambda name: len(set(known[name])))
    return known[side], f"speakers of {side}"


def _patches(
    model: nn.Module,
    pairs: Sequence[Batch],
    chosen: Sequence[Site],
    units: pd.DataFrame,
    metric: Metric | Callable[[Any], Tensor],
    rows: np.ndarray,
    align: Align,
    seeds: np.ndarray,
) -> Iterator[tuple[str, tuple[int, ...], np.ndarray]]:
    """Measure the pairs of one batch: the name of a number, its place, and its values."""
    clean, corrupt = pairs
    device = next(model.parameters()).device
    output, source = run(model, clean, *(site.name for site in chosen), device=device)
    yield "clean", (), _measure(metric, output, rows)
    inputs = {
        "input_values": corrupt.input_values.to(device),
        "attention_mask": corrupt.attention_mask.to(device),
    }
    yield "corrupt", (), _measure(metric, model(**inputs), rows)
    for number, unit in enumerate(units.itertuples()):
        head = None if pd.isna(unit.head) else int(unit.head)
        time = None if np.isnan(unit.start) else (unit.start, unit.end)
        patch = Patch(unit.site, source, head=head, time=time, align=align)
        edits: dict[tuple[str, tuple[int, ...]], Intervention] = {("patched", (number,)): patch}
        edits |= {("placebos", (number, k)): Placebo(patch, int(drawn)) for k, drawn in enumerate(seeds[number])}
        for (name, place), edit in edits.items():
            with intervene(model, edit):
                output = model(**inputs)
            yield name, place, _measure(metric, output, rows)


def _measure(metric: Metric | Callable[[Any], Tensor], output: Any, rows: np.ndarray) -> Float[np.ndarray, " batch"]:
    values = metric(output, torch.from_numpy(rows)) if isinstance(metric, Metric) else metric(output)
    if not isinstance(values, Tensor) or values.shape != (len(rows),) or not torch.isfinite(values).all():
        got = f"{tuple(values.shape)}: {values}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"metric must give one finite number for each of {len(rows)} utterances, got {got}.")
    return values.double().cpu().numpy()
