"""Activation patching place by place: what a site or head of one utterance does to the output of another.

Every pair is a *clean* utterance and a *corrupt* one. The corrupt one is run with the clean one's values at one place
(`unisat.Patch`), and a metric says how far its output moved towards the clean one's (Zhang and Nanda 2024,
arXiv:2309.16042: denoising). Placebos, the same change turned in random directions, say how far any change of that size
would have moved it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from unisat.corpus import Batch
from unisat.interpret.activations.capture import as_batch, run
from unisat.interpret.activations.sites import Selector, Site, layer_number, select, site_list
from unisat.interpret.interventions.edits import Align, Intervention, Patch, Placebo
from unisat.interpret.interventions.intervene import intervene
from unisat.interpret.interventions.metrics import Metric
from unisat.interpret.result import Result, plots
from unisat.interpret.statistics.intervals import jackknife
from unisat.modules import fingerprint, unwrap


@dataclass(frozen=True, eq=False, kw_only=True)
class SweepResult(Result):
    """The effect of patching each place, with intervals and placebos; `sweep` gives it.

    Attributes
    ----------
    units : DataFrame
        One row for each place: ``site``, ``layer``, ``head``, ``start`` and ``end`` in seconds, empty where there is
        none.
    clean, corrupt : (pairs,)
        The metric of either utterance as it is.
    patched : (units, pairs)
        The metric of the corrupt utterance with the clean one's values.
    placebos : (units, draws, pairs)
        The metric with an equally large change in random directions, drawn anew for each pair.
    groups : (pairs,)
        What intervals leave out in turn: speakers, or each pair by itself.
    n_boot, seed : int
        Number of draws for p-values, and their seed.
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
        """Give one row for each place.

        ``site``, ``layer``, ``head``, ``start`` and ``end`` say which place. ``effect`` is the mean of patched -
        corrupt over the mean of clean - corrupt (0: as corrupt, 1: as clean), with its interval ``low`` to ``high``
        from a jackknife over groups. ``difference`` is the mean of patched - corrupt in the metric's unit. ``placebo``
        is the mean effect of the placebos, ``placebo_low`` and ``placebo_high`` are the least and the largest of the
        draws. ``p_value``, two-sided, is that of the hypothesis that the clean values do what a change of their size
        does in any direction: each pair's effect is exchanged at random with its placebos. ``p_adjusted`` is the same
        against the largest of all places in each draw (Westfall and Young 1993: the chance that *any* place shows so
        much by accident). Neither can be below ``p_least``, which so many placebos, pairs and draws allow. ``n`` is the
        number of pairs.
        """
        moved, gap = self.patched - self.corrupt, self.clean - self.corrupt
        effect = moved.mean(1) / gap.mean()
        reach = self._reach(moved, gap, level)
        placebo = (self.placebos - self.corrupt).mean(-1) / gap.mean()  # (units, draws)
        draws = placebo.shape[1]
        nothing = np.full(len(self.units), np.nan)
        p_value, p_adjusted = self._p_values() if draws else (nothing, nothing)
        return self.units.assign(
            effect=effect,
            low=effect - reach,
            high=effect + reach,
            difference=moved.mean(1),
            placebo=placebo.mean(1) if draws else nothing,
            placebo_low=placebo.min(1) if draws else nothing,
            placebo_high=placebo.max(1) if draws else nothing,
            p_value=p_value,
            p_adjusted=p_adjusted,
            p_least=p_least(draws, len(gap), self.n_boot) if draws else nothing,
            n=len(gap),
        )

    def _reach(self, moved: np.ndarray, gap: np.ndarray, level: float) -> Float[np.ndarray, " units"]:
        """Half the width of each effect's interval."""
        names, codes = np.unique(self.groups, return_inverse=True)
        member = np.eye(len(names))[codes]
        without = moved.sum(1) - (moved @ member).T, gap.sum() - (gap @ member)[:, None]  # (groups, units), (groups, 1)
        return jackknife(without[0] / without[1], level)

    def _p_values(self) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]:
        """Compute p-values of each place alone, and against the largest of all places."""
        values = np.concatenate([self.patched[:, None], self.placebos], axis=1)  # (units, 1 + draws, pairs)
        values = values - values.mean(1, keepdims=True)
        size = np.sqrt(np.square(values).mean(1).sum(-1))[:, None, None]  # exchanges do not change it
        values = np.divide(values, size, out=np.zeros_like(values), where=size > 0)
        pairs = np.arange(values.shape[2])
        taken = np.random.default_rng(self.seed).integers(values.shape[1], size=(self.n_boot, len(pairs)))
        exchanged = np.abs(np.stack([values[:, row, pairs].sum(-1) for row in taken]))  # (n_boot, units)
        observed = np.abs(values[:, 0].sum(-1)) - 1e-9  # equal sums may differ by rounding
        alone = (1 + (exchanged >= observed).sum(0)) / (1 + self.n_boot)
        family = (1 + (exchanged.max(1)[:, None] >= observed).sum(0)) / (1 + self.n_boot)
        return alone, family

    def plot(self, **options: Any) -> Any:
        """Draw effects with intervals and placebos (`unisat.plots.effects`)."""
        return plots().effects(self.table(), **options)

    def heatmap(self, **options: Any) -> Any:
        """Draw effects as colours, layers by heads or places by seconds (`unisat.plots.effect_map`)."""
        return plots().effect_map(self.table(), **options)


def p_least(placebos: int, pairs: int, n_boot: int) -> float:
    """Give the smallest p-value of a sweep: one in as many as there are exchanges, or as were drawn."""
    return max(1 / (1 + n_boot), (1 + placebos) ** -float(pairs))


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
        The model, in evaluation mode.
    clean, corrupt
        Equally many utterances, paired in order: batches, paths, or waveforms with their ``sampling_rate``.
    sites : str, re.Pattern or several
        The sites, as in `unisat.capture`.
    metric : Metric or callable
        `speaker_cosine`, `logit_difference`, or a function from the model's output to one number for each utterance.
    heads : bool
        Whether sites with heads are patched one head at a time instead of whole.
    window : float, optional
        Patch one stretch of so many seconds at a time, from the start to where the shortest utterance ends.
    align : {"error", "crop", "stretch"}
        What to do where the utterances of a pair differ in length; see `unisat.Patch`.
    placebo : int
        Number of random directions for each place and pair; with 0 there are no p-values.
    groups : (pairs,), optional
        What intervals leave out in turn. The default is the speakers of the side that has fewer (but two at least),
        where they are known, and otherwise each pair by itself. With two or three groups intervals are very wide.
    batch_size : int
        Pairs in one forward pass; with exact padding it does not change the result.
    n_boot, seed : int
        Number of draws for p-values, and the seed of these and of the placebos. The table's ``p_least`` is the smallest
        p-value that they allow.

    Returns
    -------
    SweepResult

    Raises
    ------
    ValueError
        If there are fewer than two pairs, pairs differ in length and ``align`` is not given, a site cannot be patched,
        or the metric does not give one finite number for each utterance or does not tell clean from corrupt.

    Examples
    --------
    >>> metric = us.metrics.speaker_cosine(enrolled)  # (pairs, dim): the clean speakers, other recordings
    >>> us.sweep(model, clean, corrupt, "block.*.attn.z", metric, align="stretch").heatmap()
    """
    pairs = as_batch(clean, sampling_rate), as_batch(corrupt, sampling_rate)
    _check_choices(pairs, metric, placebo, batch_size)
    chosen = select(site_list(unwrap(model)), sites if isinstance(sites, list | tuple) else [sites])  # type: ignore[list-item]
    units = _units(chosen, heads, window, float(min(batch.seconds.min() for batch in pairs)))
    by, drawn_first = _groups(pairs, groups)
    seeds = np.random.default_rng(seed).integers(2**31, size=(len(units), placebo, len(pairs[0])))
    work = _Work(model, [site.name for site in chosen], units, metric, align, seeds)
    found = _measure_all(work, pairs, batch_size, progress=progress)
    settings: dict[str, Any] = {"model": fingerprint(unwrap(model)), "metric": _name(metric), "pairs": len(pairs[0])}
    settings |= {"groups": drawn_first, "heads": heads, "window": window, "align": align, "placebo": placebo}
    settings |= {"n_boot": n_boot, "seed": seed, "gap": _gap(found["clean"] - found["corrupt"], by)}
    return SweepResult(settings=settings, units=units, groups=by, n_boot=n_boot, seed=seed, **found)


def _check_choices(
    pairs: tuple[Batch, Batch], metric: Metric | Callable[[Any], Tensor], placebo: int, batch_size: int
) -> None:
    clean, corrupt = map(len, pairs)
    if corrupt != clean or clean < 2:
        raise ValueError(
            f"clean and corrupt have {clean} and {corrupt} utterances; they are paired in order, and an interval needs "
            "at least two pairs."
        )
    if placebo < 0 or batch_size < 1:
        raise ValueError(f"placebo={placebo} must be at least 0 and batch_size={batch_size} at least 1.")
    for value in metric.values if isinstance(metric, Metric) else ():
        if value.ndim and len(value) != clean:
            raise ValueError(f"the metric compares with {len(value)} utterances, there are {clean} pairs.")


def _name(metric: Metric | Callable[[Any], Tensor]) -> str:
    return metric.name if isinstance(metric, Metric) else getattr(metric, "__name__", type(metric).__name__)


def _gap(gap: Float[np.ndarray, " pairs"], by: np.ndarray) -> dict[str, float]:
    """Measure how far apart clean and corrupt utterances are in the metric; effects are shares of this gap."""
    without = np.array([gap[by != name].mean() for name in np.unique(by)])
    low, high = (float(gap.mean() + sign * jackknife(without)) for sign in (-1, 1))
    if not gap.any() or abs(gap.mean()) < 1e-6 * np.abs(gap).max():
        raise ValueError(
            "the metric is the same for clean and corrupt utterances: there is no effect to take a share of."
        )
    if low <= 0 <= high:
        warnings.warn(
            f"clean and corrupt utterances differ by {gap.mean():.3g} in the metric, interval {low:.3g} to {high:.3g}: "
            "effects, which are shares of it, are not to be trusted. Choose pairs or a metric that tell them apart.",
            stacklevel=3,
        )
    return {"mean": float(gap.mean()), "low": low, "high": high}


def _units(chosen: Sequence[Site], heads: bool, window: float | None, shortest: float) -> pd.DataFrame:
    """List the places, one in each row."""
    starts = [np.nan]
    if window is not None:
        if not 0 < window <= shortest:
            raise ValueError(f"window={window} s must be above 0 and fit the shortest utterance, {shortest:.3f} s.")
        starts = [float(k * window) for k in range(int(shortest / window + 1e-9))]
    rows = [
        (site.name, layer_number(site.name), head, start, start + (window or np.nan))
        for site in chosen
        for head in (range(site.sizes[site.shape.index("heads")]) if heads and "heads" in site.shape else [None])
        for start in starts
    ]
    units = pd.DataFrame(rows, columns=["site", "layer", "head", "start", "end"])
    return units.astype({"layer": "Int64", "head": "Int64"})


def _groups(pairs: tuple[Batch, Batch], given: Sequence[str] | None) -> tuple[np.ndarray, str]:
    """Say what intervals leave out in turn, and what it is called."""
    count = len(pairs[0])
    if given is not None:
        if len(given) != count or len(set(given)) < 2:
            raise ValueError(
                f"groups must name one for each of the {count} pairs, at least two different ones; got {len(given)} "
                f"names, {len(set(given))} different."
            )
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


@dataclass(frozen=True, eq=False)
class _Work:
    """What is measured of every pair.

    Attributes
    ----------
    sites : list of str
        The sites whose values are taken from clean utterances.
    units : DataFrame
        The places where they are put into corrupt utterances.
    seeds : (units, draws, pairs)
        Seeds of the placebos.
    """

    model: nn.Module
    sites: Sequence[str]
    units: pd.DataFrame
    metric: Metric | Callable[[Any], Tensor]
    align: Align
    seeds: Int[np.ndarray, "units draws pairs"]


def _measure_all(
    work: _Work, pairs: tuple[Batch, Batch], batch_size: int, *, progress: bool
) -> dict[str, Float[np.ndarray, ...]]:
    """Measure all pairs: ``clean`` and ``corrupt`` as they are, ``patched`` and with ``placebos``."""
    count, units = len(pairs[0]), len(work.units)
    found = {"clean": np.empty(count), "corrupt": np.empty(count)}
    found |= {"patched": np.empty((units, count)), "placebos": np.empty(work.seeds.shape)}
    batches = np.array_split(np.arange(count), -(-count // batch_size))
    bar = tqdm(total=len(batches) * units, desc="sweep", unit=" patches", disable=not progress)
    with bar, torch.no_grad():
        for rows in batches:
            for name, unit, values in _patches(work, pairs[0][rows], pairs[1][rows], rows):
                found[name][unit][rows] = values
                bar.update(name == "patched")
    return found


def _patches(
    work: _Work, clean: Batch, corrupt: Batch, rows: np.ndarray
) -> Iterator[tuple[str, tuple[int, ...], np.ndarray]]:
    """Measure the pairs of one batch; give for each measurement its name, its place and its values."""
    model, metric = work.model, work.metric
    device = next(model.parameters()).device
    output, source = run(model, clean, *work.sites, device=device)
    yield "clean", (), _measure(metric, output, rows)
    inputs = {
        "input_values": corrupt.input_values.to(device),
        "attention_mask": corrupt.attention_mask.to(device),
    }
    yield "corrupt", (), _measure(metric, model(**inputs), rows)
    for number, unit in enumerate(work.units.itertuples()):
        head = None if pd.isna(unit.head) else int(unit.head)
        time = None if np.isnan(unit.start) else (unit.start, unit.end)
        patch = Patch(unit.site, source, head=head, time=time, align=work.align)
        edits: dict[tuple[str, tuple[int, ...]], Intervention] = {("patched", (number,)): patch}
        drawn = enumerate(work.seeds[number][:, rows].tolist())
        edits |= {("placebos", (number, k)): Placebo(patch, seeds) for k, seeds in drawn}
        for (name, place), edit in edits.items():
            with intervene(model, edit):
                output = model(**inputs)
            yield name, place, _measure(metric, output, rows)


def _measure(metric: Metric | Callable[[Any], Tensor], output: Any, rows: np.ndarray) -> Float[np.ndarray, " batch"]:
    values = metric(output, torch.from_numpy(rows)) if isinstance(metric, Metric) else metric(output)
    if not isinstance(values, Tensor) or values.shape != (len(rows),) or not torch.isfinite(values).all():
        got = f"{tuple(values.shape)}: {values}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"metric must give one finite number for each of {len(rows)} utterances, got {got}.")
    return values.cpu().double().numpy()
