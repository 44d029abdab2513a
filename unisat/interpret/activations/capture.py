"""Record what a model computes: `capture` for a scope, `run` for one forward pass.

A scope owns its hooks and removes them whatever happens. Nothing is stored on the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unisat.config import UniSpeechSatConfig, nearest
from unisat.corpus import Batch
from unisat.interpret.activations.forward import Following, ForwardPass, hook, refuse_training
from unisat.interpret.activations.reduce import PerUtterance, per_utterance
from unisat.interpret.activations.sites import TIME_AXES, Selector, Site, find_backbone, itemsize, select, site_list
from unisat.model import UniSpeechSatModel
from unisat.modules import unwrap
from unisat.precision import float64

DEFAULT_BUDGET = "2GB"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class Trace(Mapping[str, Tensor]):
    """What `capture` recorded: ``trace["hidden.3"]``, with lengths, times and ids of the utterances.

    It is a mapping from the names of the sites to what they held, in the order in which they are computed. It holds
    tensors and numbers, not the model. Inside a scope every forward pass adds one trace to `calls`. All other
    members need a single pass, and raise a ValueError where there are more.
    """

    def __init__(
        self, chosen: Sequence[Site], config: UniSpeechSatConfig, reduced: bool, ids: tuple[str, ...] | None
    ) -> None:
        self._sites = {site.name: site for site in chosen}
        self._config, self._reduced, self._ids = config, reduced, ids
        self._passes: list[ForwardPass] = []

    @property
    def calls(self) -> list[Trace]:
        """One trace for each forward pass of the scope."""
        singles = []
        for one in self._passes:
            single = Trace(list(self._sites.values()), self._config, self._reduced, self._ids)
            single._passes = [one]
            singles.append(single)
        return singles

    @property
    def _pass(self) -> ForwardPass:
        if len(self._passes) != 1:
            raise ValueError(
                f"this trace saw {len(self._passes)} forward passes; "
                + ("use trace.calls[i] to read one of them." if self._passes else "call the model inside the scope.")
            )
        return self._passes[0]

    def _site(self, name: str) -> Site:
        if name not in self._sites:
            raise KeyError(f"{name!r} was not captured{nearest(name, self.sites)}; there are {', '.join(self.sites)}.")
        return self._sites[name]

    @property
    def sites(self) -> list[str]:
        """Names of the captured sites, in the order in which they are computed."""
        return list(self._sites)

    @property
    def config(self) -> UniSpeechSatConfig:
        """Configuration of the model that ran."""
        return self._config

    @property
    def ids(self) -> tuple[str, ...]:
        """Name of each utterance; its number where no names were given."""
        return tuple(map(str, range(len(self._pass)))) if self._ids is None else self._ids

    def __getitem__(self, name: str) -> Tensor:
        self._site(name)
        values = self._pass.values
        if name not in values:
            raise KeyError(f"{name!r} was not computed in this forward pass (did LayerDrop skip its layer?).")
        return values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._sites

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    # two traces are equal if they are one: tensors do not say in one word whether they are equal
    __eq__, __hash__ = object.__eq__, object.__hash__

    def __repr__(self) -> str:
        calls = f"{len(self._passes)} forward pass{'' if len(self._passes) == 1 else 'es'}"
        return f"Trace({len(self._sites)} sites, {calls}, {self.nbytes / 1e6:.2f} MB)"

    def lengths(self, name: str) -> Int[Tensor, " batch"]:
        """Valid positions of each utterance along the site's time axis: frames, or samples for ``wave``."""
        return self._pass.lengths(self._site(name))

    def valid(self, name: str) -> Bool[Tensor, "batch positions"]:
        """True on the utterance, False on the padding after it."""
        return self._pass.valid(self._site(name))

    def seconds(self, name: str) -> Float[Tensor, " positions"]:
        """Time of each position in seconds: the centre of what the convolutions see."""
        return self._pass.seconds(self._site(name))

    def ragged(self, name: str) -> list[Tensor]:
        """Give one tensor for each utterance, without the padding."""
        site, lengths = self._site(name), self.lengths(name).tolist()
        if self._reduced:
            return list(self[name])
        return [
            tensor[tuple(slice(length) if axis in TIME_AXES else slice(None) for axis in site.shape[1:])]
            for tensor, length in zip(self[name], lengths, strict=True)
        ]

    @property
    def nbytes(self) -> int:
        """Bytes that the trace holds; memory that two sites share counts once."""
        values = [value for one in self._passes for value in one.values.values()]
        return sum({value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in values}.values())

    def table(self) -> pd.DataFrame:
        """Give a row for each site: shape, dtype, megabytes, RMS of valid values, how many values are not finite."""
        rows = []
        for name, site in self._sites.items():
            value = self[name]
            parts = float64(torch.cat([part.flatten() for part in self.ragged(name)]))
            axes = ("batch", *("reduced" for _ in value.shape[1:])) if self._reduced else site.shape
            shape = " ".join(f"{axis}={size}" for axis, size in zip(axes, value.shape, strict=True))
            rows.append(
                {
                    "site": name,
                    "shape": shape,
                    "dtype": str(value.dtype).removeprefix("torch."),
                    "MB": value.nbytes / 1e6,
                    "rms": parts.square().mean().sqrt().item(),
                    "not_finite": int((~torch.isfinite(parts)).sum()),
                }
            )
        return pd.DataFrame(rows).set_index("site")


@contextmanager
def capture(
    model: nn.Module,
    *selectors: Selector,
    reduce: str | PerUtterance | Mapping[str, PerUtterance] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    grad: bool = False,
    budget: int | str = DEFAULT_BUDGET,
    allow_train: bool = False,
    ids: Sequence[str] | None = None,
) -> Iterator[Trace]:
    """Record sites of every forward pass inside the ``with`` block.

    The block is for the thread that opens it. Passes in other threads are not recorded: a thread opens a block of its
    own.

    Parameters
    ----------
    model : UniSpeechSatModel or a model that holds one
        The model may be compiled; inside the block it runs eagerly, since compiled code does not call hooks.
    *selectors : str or re.Pattern
        Which sites (`unisat.sites` lists them): names, globs, ranges; ``hidden.*`` by default.
    reduce : str or callable, optional
        What to keep of each utterance, computed inside the hook from its valid frames: ``"mean"``, ``"mean+std"``,
        ``"norms"``, ``"counts"`` (of codes), a function of ``(values, valid)`` that gives (batch, ...), or such a
        function for each site by name.
    dtype : torch.dtype, optional
        Precision to keep floats in, such as ``torch.float16``; None for that of the model.
    device : torch.device or str
        Where to keep the tensors.
    grad : bool
        Whether to keep the graph, so that gradients flow through the recorded tensors; by default they are detached.
    budget : int or str
        Most bytes that one forward pass may record (``"500MB"``). A larger pass is refused before it begins.
    allow_train : bool
        Whether to record in training mode too, where dropout, masks and LayerDrop make every pass different.
    ids : sequence of str, optional
        Names of the utterances of each batch.

    Raises
    ------
    ValueError
        If a selector matches nothing (the message names the nearest sites), the model is in training mode, or a
        forward pass would record more than the budget (the message names the largest site).

    Examples
    --------
    >>> with us.capture(model, "hidden.*", "block.3.attn.pattern") as trace:
    ...     output = model(input_values)
    >>> trace["block.3.attn.pattern"].shape  # (batch, heads, queries, keys)
    """
    model = unwrap(model)
    chosen = select(site_list(model), selectors or ("hidden.*",))
    _, backbone = find_backbone(model)
    if not allow_train:
        refuse_training(backbone, "recording")
    reducers: dict[str, PerUtterance] = {}
    if reduce is not None:
        specs = reduce if isinstance(reduce, Mapping) else {site.name: reduce for site in chosen}
        reducers = {site.name: per_utterance(specs[site.name], site, backbone.config) for site in chosen}
    limit = parse_bytes(budget)
    trace = Trace(chosen, backbone.config, reduce is not None, None if ids is None else tuple(ids))

    def check(begun: ForwardPass, backbone: UniSpeechSatModel) -> None:
        if reduce is None:  # what is reduced is small
            _check_budget(chosen, begun, (dtype or backbone.dtype).itemsize, limit)
        if ids is not None and len(ids) != len(begun):
            raise ValueError(f"{len(ids)} ids were given for a batch of {len(begun)} utterances.")

    def record(site: Site, seen: Any) -> None:
        now = following.now
        if now is None or not now.reaches(site):
            return
        value = site.read(seen)
        value = value if grad else value.detach()
        if reducers:
            value = reducers[site.name](value, now.valid(site).to(value.device))
        now.values[site.name] = value.to(device, dtype if value.is_floating_point() else None)

    following = Following(backbone, before=check, after=trace._passes.append)
    with following.hooks(backbone), ExitStack() as stack:
        for site in chosen:
            handle = hook(model.get_submodule(site.module), site.side, partial(record, site))
            stack.callback(handle.remove)
        yield trace


def _check_budget(chosen: Sequence[Site], begun: ForwardPass, floats: int, limit: int) -> None:
    """Refuse a pass that would record more than ``limit`` bytes, with ``floats`` bytes for each float."""
    sizes = {site.name: site.numel(len(begun), begun.width, begun.config) * itemsize(site, floats) for site in chosen}
    if sum(sizes.values()) > limit:
        largest = max(sizes, key=sizes.__getitem__)
        raise ValueError(
            f"this forward pass would record {sum(sizes.values()) / 1e6:.1f} MB, over the budget of "
            f"{limit / 1e6:.1f} MB; the largest site is {largest!r} ({sizes[largest] / 1e6:.1f} MB). "
            "Choose fewer sites or utterances, dtype=torch.float16, or raise budget."
        )


def parse_bytes(size: int | str) -> int:
    """Bytes of ``1000``, ``"500MB"`` or ``"2 GB"``."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?B?)\s*", str(size).upper())
    if not found or found[2] not in _UNITS:
        raise ValueError(f"{size!r} is not a size; expected bytes, or a text such as '500MB' or '2GB'.")
    return int(float(found[1]) * _UNITS[found[2]])


def run(
    model: nn.Module,
    audio: Any,
    *selectors: Selector,
    sampling_rate: int | None = None,
    attention_mask: Tensor | None = None,
    mask_time_indices: Bool[Tensor, "batch frames"] | None = None,
    **options: Any,
) -> tuple[Any, Trace]:
    """Run the model once and give its output and what the sites held.

    Parameters
    ----------
    model : UniSpeechSatModel or a model that holds one
        The model, in evaluation mode.
    audio
        A `unisat.Batch`; a path or a list of paths; a row of a dataset with a column ``audio``, or a list of them; a
        waveform or a list of them, with ``sampling_rate``; or a tensor (batch, samples) with its ``attention_mask``,
        which the model gets as it is.
    *selectors : str or re.Pattern
        Which sites, as in `capture`.
    sampling_rate : int, optional
        Samples a second of bare waveforms; files know theirs.
    attention_mask : (batch, samples), optional
        Only for a tensor (batch, samples): a Batch knows its lengths.
    mask_time_indices : (batch, frames), optional
        Frames to hide.
    **options
        Options of `capture`: ``dtype``, ``device``, ``grad``, ``budget``, ``allow_train``.

    Returns
    -------
    output, trace
        What ``model(...)`` returns, and a `Trace`.
    """
    values, mask, batch = as_inputs(audio, sampling_rate, attention_mask)
    if batch is not None:
        options.setdefault("ids", batch.ids)
    inputs = {"mask_time_indices": mask_time_indices, "input_values": values, "attention_mask": mask}
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in inputs.items() if value is not None}
    gradients = nullcontext() if options.get("grad") else torch.no_grad()
    with capture(model, *selectors, **options) as trace, gradients:
        output = model(**inputs)
    return output, trace


def as_inputs(
    audio: Any, sampling_rate: int | None = None, attention_mask: Tensor | None = None
) -> tuple[Float[Tensor, "batch samples"], Tensor | None, Batch | None]:
    """Give what a model is called with for all that `run` takes: waveforms, their mask, and their batch, if any.

    Raises
    ------
    ValueError
        If there is a mask for anything but a tensor (batch, samples).
    """
    if isinstance(audio, Tensor) and audio.ndim == 2:
        return audio, attention_mask, None
    if attention_mask is not None:
        raise ValueError("attention_mask belongs to a tensor (batch, samples); waveforms know their lengths.")
    batch = as_batch(audio, sampling_rate)
    return batch.input_values, batch.attention_mask, batch


def as_batch(audio: Any, sampling_rate: int | None = None) -> Batch:
    """Make a `unisat.Batch` of what `run` takes: a Batch, paths, rows of a dataset, or waveforms with their rate."""
    if isinstance(audio, Batch):
        return audio
    one = isinstance(audio, str | Path | Tensor | np.ndarray | Mapping)
    items = [audio] if one else list(audio)
    if items and all(isinstance(item, Mapping) for item in items):
        return Batch.from_rows(items)
    if items and all(isinstance(item, str | Path) for item in items):
        return Batch.from_files(items)
    return Batch.from_arrays(items, sampling_rate=sampling_rate)
