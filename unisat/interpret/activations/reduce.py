"""Reducers compute inside a hook what is kept of a site, so that the frames of a corpus need not fit into memory.

There are two kinds. A *per-utterance* reducer is a function ``(values, valid) -> (batch, ...)``: `mean`, `mean_std`,
`norms`, `CodeCounts`. A *corpus-wide* reducer has ``update(values, valid)`` and ``value()``: `Moments`, `Histogram`,
`TopFrames`, or your own class. ``values`` is (batch, positions, ...); ``valid`` is (batch, positions), True where a
frame counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from unisat.config import UniSpeechSatConfig
from unisat.interpret.activations.sites import TIME_AXES, Site
from unisat.precision import float64

PerUtterance = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class Reducer(Protocol):
    """An object that gathers something over a whole corpus.

    If it also has ``state()`` (a dict of tensors) and ``merge(state)``, the results of several processes or of an
    interrupted run can be put together. If it has ``wants_rows = True``, ``update`` also gets the row numbers of the
    utterances.
    """

    def update(self, values: Tensor, valid: Tensor) -> None:
        """Take in a batch."""

    def value(self) -> Mapping[str, Tensor]:
        """Give what was gathered, by name."""


def mean(
    values: Shaped[Tensor, "batch positions ..."], valid: Bool[Tensor, "batch positions"]
) -> Float[Tensor, "batch ..."]:
    """Mean over the positions that count; NaN where no position counts."""
    values, weights = _float(values), valid.to(torch.float32)
    total = torch.einsum("bt,bt...->b...", weights, values)
    return total / _count(valid, total)


def mean_std(
    values: Shaped[Tensor, "batch positions ..."], valid: Bool[Tensor, "batch positions"]
) -> Float[Tensor, "batch double"]:
    """Means of all channels and then their population standard deviations, over the positions that count."""
    values = _float(values).flatten(2) if values.ndim > 2 else _float(values)[..., None]
    middle = mean(values, valid)
    # deviations from the mean: the difference of two large squares would lose its digits
    spread = mean((values - middle[:, None]).square(), valid).sqrt()
    return torch.cat([middle, spread], dim=-1)


def norms(
    values: Shaped[Tensor, "batch positions ..."], valid: Bool[Tensor, "batch positions"]
) -> Float[Tensor, "batch 1"]:
    """Root mean square over all channels of the positions that count."""
    squares = _float(values).square()
    return mean(squares.flatten(2).mean(-1) if values.ndim > 2 else squares, valid).sqrt()[:, None]


class CodeCounts:
    """Counts how often each utterance chose each entry of each group: (batch, groups, entries) of int64."""

    def __init__(self, entries: int) -> None:
        self.entries = entries

    def __call__(
        self, values: Int[Tensor, "batch positions groups"], valid: Bool[Tensor, "batch positions"]
    ) -> Int[Tensor, "batch groups entries"]:
        """Count the codes."""
        batch, _, groups = values.shape
        counts = torch.zeros(batch, groups, self.entries, dtype=torch.int64, device=values.device)
        weights = valid[..., None].expand(values.shape).to(torch.int64)
        return counts.scatter_add_(2, values.transpose(1, 2), weights.transpose(1, 2))


class Moments:
    """Mean and population covariance of a site's channels over all frames of the corpus, in float64."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def update(self, values: Shaped[Tensor, "batch positions ..."], valid: Bool[Tensor, "batch positions"]) -> None:
        """Take in a batch."""
        frames = float64(values[valid].flatten(1))
        self.merge(
            {"frames": torch.tensor(float(len(frames))), "sum": frames.sum(0), "products": frames.mT @ frames},
        )

    def state(self) -> dict[str, Tensor]:
        """Give the sums."""
        return dict(self._sums)

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add the sums of another."""
        self._sums = {name: self._sums.get(name, 0) + value.double() for name, value in state.items()}

    def value(self) -> dict[str, Tensor]:
        """Give ``frames``, ``mean`` (channels,) and ``covariance`` (channels, channels)."""
        frames = self._sums["frames"]
        middle = self._sums["sum"] / frames
        covariance = self._sums["products"] / frames - torch.outer(middle, middle)
        return {"frames": frames, "mean": middle, "covariance": covariance}


class Histogram:
    """Counts a site's values, of all channels, in ``bins`` equal steps from ``low`` to ``high``."""

    def __init__(self, low: float, high: float, bins: int = 100) -> None:
        if not low < high or bins < 1:
            raise ValueError(f"a histogram needs low < high and bins of at least 1, got {low}, {high}, {bins}.")
        self.low, self.high, self.bins = low, high, bins
        self._counts = torch.zeros(bins + 2, dtype=torch.int64)

    @property
    def edges(self) -> Float[Tensor, " edges"]:
        """Limits of the bins."""
        return torch.linspace(self.low, self.high, self.bins + 1, dtype=torch.float64)

    def update(self, values: Shaped[Tensor, "batch positions ..."], valid: Bool[Tensor, "batch positions"]) -> None:
        """Take in a batch."""
        flat = values[valid].flatten().cpu().double()
        places = torch.searchsorted(self.edges, flat, right=True)
        # as in NumPy, the last bin includes both its ends
        places = torch.where(flat == self.edges[-1], self.bins, places)
        self._counts = self._counts + torch.bincount(places, minlength=len(self._counts))

    def state(self) -> dict[str, Tensor]:
        """Give the counts."""
        return {"counts": self._counts}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add the counts of another."""
        self._counts = self._counts + state["counts"]

    def value(self) -> dict[str, Tensor]:
        """Give ``counts`` (bins,), ``edges`` (bins + 1,), and how many values lie ``below`` and ``above``."""
        below, above = self._counts[0], self._counts[-1]
        return {"counts": self._counts[1:-1], "edges": self.edges, "below": below, "above": above}


class TopFrames:
    """Finds for each channel the ``k`` frames of the corpus where it is largest, to see what it answers to."""

    wants_rows = True

    def __init__(self, k: int = 10) -> None:
        if k < 1:
            raise ValueError(f"k={k} must be at least 1.")
        self.k = k
        self._best: dict[str, Tensor] = {}

    def update(
        self,
        values: Shaped[Tensor, "batch positions ..."],
        valid: Bool[Tensor, "batch positions"],
        rows: Int[Tensor, " batch"],
    ) -> None:
        """Take in a batch whose utterances are these rows of the table."""
        utterance, frame = valid.nonzero().unbind(1)
        flat = values[valid].flatten(1).float()
        if not len(flat):
            return
        best, at = flat.topk(min(self.k, len(flat)), dim=0)
        self.merge({"values": best.mT, "rows": rows.to(at.device)[utterance[at]].mT, "frames": frame[at].mT})

    def state(self) -> dict[str, Tensor]:
        """Give the best frames so far."""
        return {name: value.contiguous() for name, value in self._best.items()}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Keep the best frames of both."""
        if not state:
            return
        both = {n: torch.cat([self._best[n], v.cpu()], 1) if self._best else v.cpu() for n, v in state.items()}
        order = both["values"].sort(dim=1, descending=True, stable=True).indices[:, : self.k]
        self._best = {name: value.gather(1, order) for name, value in both.items()}

    def value(self) -> dict[str, Tensor]:
        """Give ``values``, ``rows`` of the table and ``frames``, each (channels, k), with the largest first."""
        return self.state()


NAMES: dict[str, PerUtterance] = {"mean": mean, "mean+std": mean_std, "norms": norms}
"""Per-utterance reducers by name; ``"counts"`` and ``"frames"`` are two more names."""


def per_utterance(spec: str | PerUtterance, site: Site, config: UniSpeechSatConfig) -> PerUtterance:
    """Give the reducer that a name means at a site.

    Raises
    ------
    ValueError
        If there is no reducer of that name, or it cannot reduce the site.
    """
    if sum(axis in TIME_AXES for axis in site.shape) != 1:
        raise ValueError(
            f"{site.name} is ({', '.join(site.shape)}): with two time axes it cannot be reduced over one; capture it "
            "for single utterances with us.run."
        )
    if not isinstance(spec, str):
        return spec
    if spec == "counts":
        if site.name != "quant.codes":
            raise ValueError(f"reduce='counts' counts codes; {site.name} has none, the site is 'quant.codes'.")
        return CodeCounts(config.num_codevectors_per_group)
    if site.name == "quant.codes":
        raise ValueError("codes are names, not amounts: reduce='counts' counts them, reduce='frames' keeps them all.")
    if spec not in NAMES:
        raise ValueError(f"reduce={spec!r} must be one of {', '.join([*NAMES, 'counts', 'frames'])}, or a reducer.")
    return NAMES[spec]


def _float(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _count(valid: Bool[Tensor, "batch positions"], like: Tensor) -> Tensor:
    return valid.sum(1).to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def describe(spec: Any) -> str:
    """Name a reducer and its settings, for the record of how a bank was made."""
    if isinstance(spec, str):
        return spec
    if hasattr(spec, "__name__"):
        return str(spec.__name__)
    settings = [f"{name}={value}" for name, value in vars(spec).items() if not name.startswith("_")]
    return f"{type(spec).__name__}({', '.join(settings)})"
