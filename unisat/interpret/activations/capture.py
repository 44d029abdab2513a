"""Record what a model computes: `capture` for a scope, `run` for one forward pass.

A scope owns its hooks and takes them away again whatever happens; nothing is stored on the model.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unisat.config import UniSpeechSatConfig, nearest
from unisat.corpus import Batch
from unisat.frames import valid_positions
from unisat.inputs import sample_lengths
from unisat.interpret.activations.reduce import PerUtterance, per_utterance
from unisat.interpret.activations.sites import TIME_AXES, Selector, Site, find_backbone, itemsize, select, site_list
from unisat.model import UniSpeechSatModel
from unisat.modules import unwrap

DEFAULT_BUDGET = "2GB"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(eq=False)
class _Call:
    """One forward pass: what was recorded, and how long its utterances are."""

    samples: Int[Tensor, " batch"]
    width: int
    ids: tuple[str, ...]
    values: dict[str, Tensor] = field(default_factory=dict)

    def valid(self, site: Site, config: UniSpeechSatConfig) -> Bool[Tensor, "batch positions"]:
        """True on the utterance along the site's time axis, False on the padding."""
        return valid_positions(site.positions(self.samples, config), site.positions(self.width, config))


class Trace:
    """What `capture` recorded: ``trace["hidden.3"]``, with lengths, times and ids of the utterances.

    It holds tensors and numbers, not the model. Inside a scope every forward pass adds one to `calls`; the other
    members speak of the only one and say so where there are more.
    """

    def __init__(self, chosen: Sequence[Site], config: UniSpeechSatConfig, reduced: bool = False):
        self._sites = {site.name: site for site in chosen}
        self._config = config
        self._reduced = reduced
        self._calls: list[_Call] = []

    @property
    def calls(self) -> list[Trace]:
        """One trace for each forward pass of the scope."""
        singles = []
        for call in self._calls:
            single = Trace(list(self._sites.values()), self._config, self._reduced)
            single._calls = [call]
            singles.append(single)
        return singles

    @property
    def _call(self) -> _Call:
        if len(self._calls) != 1:
            raise ValueError(
                f"this trace saw {len(self._calls)} forward passes; "
                + ("use trace.calls[i] to read one of them." if self._calls else "call the model inside the scope.")
            )
        return self._calls[0]

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
        """Name of each utterance; its number where none was given."""
        return self._call.ids

    def __getitem__(self, name: str) -> Tensor:
        self._site(name)
        values = self._call.values
        if name not in values:
            raise KeyError(f"{name!r} was not computed in this forward pass (did LayerDrop skip its layer?).")
        return values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._sites

    def __len__(self) -> int:
        return len(self._call.samples)

    def __repr__(self) -> str:
        calls = f"{len(self._calls)} forward pass{'' if len(self._calls) == 1 else 'es'}"
        return f"Trace({len(self._sites)} sites, {calls}, {self.nbytes / 1e6:.2f} MB)"

    def lengths(self, name: str) -> Int[Tensor, " batch"]:
        """Valid positions of each utterance along the site's time axis: frames, or samples for ``wave``."""
        return self._site(name).positions(self._call.samples, self._config)

    def valid(self, name: str) -> Bool[Tensor, "batch positions"]:
        """True on the utterance, False on the padding behind it."""
        return self._call.valid(self._site(name), self._config)

    def seconds(self, name: str) -> Float[Tensor, " positions"]:
        """Time of the centre of each position in the waveform (of what the convolutions see), in seconds."""
        return self._site(name).seconds(self._call.width, self._config)

    def ragged(self, name: str) -> list[Tensor]:
        """One tensor for each utterance, without the padding."""
        site, lengths = self._site(name), self.lengths(name).tolist()
        if self._reduced:
            return list(self[name])
        return [
            tensor[tuple(slice(length) if axis in TIME_AXES else slice(None) for axis in site.shape[1:])]
            for tensor, length in zip(self[name], lengths, strict=True)
        ]

    @property
    def nbytes(self) -> int:
        """Bytes held; memory that two sites share counts once."""
        values = [value for call in self._calls for value in call.values.values()]
        return sum({value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in values}.values())

    def table(self) -> pd.DataFrame:
        """One row a site: shape, dtype, megabytes, RMS over valid values, how many values are not finite."""
        rows = []
        for name, site in self._sites.items():
            value = self[name]
            parts = torch.cat([part.flatten() for part in self.ragged(name)]).double()
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

    Parameters
    ----------
    model : UniSpeechSatModel or a model that holds one
        Also compiled; inside the block it runs eagerly, since compiled code does not call hooks.
    *selectors : str or re.Pattern
        Which sites (`unisat.sites` lists them): names, globs, ranges; ``hidden.*`` where none is given.
    reduce : str or callable, optional
        Keep of each utterance only this, computed inside the hook from its valid frames: ``"mean"``, ``"mean+std"``,
        ``"norms"``, ``"counts"`` (of codes), a function of ``(values, valid)`` that gives (batch, ...), or such a
        function for each site by name.
    dtype : torch.dtype, optional
        Precision to keep floats in, such as ``torch.float16``; None for that of the model.
    device : torch.device or str
        Where to keep them.
    grad : bool
        Keep the graph, so that gradients flow through what was recorded; by default tensors are detached.
    budget : int or str
        Most bytes that one forward pass may record (``"500MB"``); above it the pass is refused before it begins.
    allow_train : bool
        Record in training mode too, where dropout, masks and LayerDrop make every pass different.
    ids : sequence of str, optional
        Names of the utterances of each batch.

    Raises
    ------
    ValueError
        If a selector matches nothing (with the nearest names), the model is in training mode, or a forward pass
        would record more than the budget (with the largest site).

    Examples
    --------
    >>> with us.capture(model, "hidden.*", "block.3.attn.pattern") as trace:
    ...     output = model(input_values)
    >>> trace["block.3.attn.pattern"].shape  # (batch, heads, queries, keys)
    """
    model = unwrap(model)
    chosen = select(site_list(model), selectors or ("hidden.*",))
    _, backbone = find_backbone(model)
    if backbone.training and not allow_train:
        raise ValueError(
            "the model is in training mode: dropout, masks and LayerDrop would make this recording a random one; "
            "call model.eval() first, or pass allow_train=True."
        )
    limit = parse_bytes(budget)
    reducers: dict[str, PerUtterance] = {}
    if reduce is not None:
        specs = reduce if isinstance(reduce, Mapping) else {site.name: reduce for site in chosen}
        reducers = {site.name: per_utterance(specs[site.name], site, backbone.config) for site in chosen}
    trace = Trace(chosen, backbone.config, reduced=reduce is not None)
    recorder = _Recorder(trace, backbone, chosen, reducers, ids, limit, dtype, torch.device(device), grad)
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(recorder.close)
        stack.enter_context(recorder.hooks(model))
        yield trace


class _Recorder:
    """The hooks of one scope."""

    def __init__(
        self,
        trace: Trace,
        backbone: UniSpeechSatModel,
        chosen: Sequence[Site],
        reducers: Mapping[str, PerUtterance],
        ids: Sequence[str] | None,
        limit: int,
        dtype: torch.dtype | None,
        device: torch.device,
        grad: bool,
    ):
        self.trace, self.chosen, self.reducers, self.ids, self.limit = trace, chosen, reducers, ids, limit
        self.backbone: UniSpeechSatModel | None = backbone
        self.dtype, self.device, self.grad = dtype, device, grad
        self.signature = inspect.signature(backbone.forward)
        self.call: _Call | None = None
        self.in_backbone = False

    @contextmanager
    def hooks(self, model: nn.Module) -> Iterator[None]:
        assert self.backbone is not None
        handles = [
            self.backbone.register_forward_pre_hook(self.begin, with_kwargs=True),
            # called when the forward pass raises, too
            self.backbone.register_forward_hook(self.end, always_call=True),
        ]
        try:
            for site in self.chosen:
                module = model.get_submodule(site.module)
                if site.side == "input":
                    handles.append(module.register_forward_pre_hook(self._on_input(site)))
                else:
                    handles.append(module.register_forward_hook(self._on_output(site)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def close(self) -> None:
        self.call = self.backbone = None

    def begin(self, module: UniSpeechSatModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = self.signature.bind(*args, **kwargs).arguments
        waveforms, mask = given["input_values"], given.get("attention_mask")
        if waveforms.ndim != 2:
            return  # the model says what is wrong
        batch, width = waveforms.shape
        if not self.reducers:  # what is reduced is small
            self._check_budget(batch, width, (self.dtype or module.dtype).itemsize)
        samples = torch.full((batch,), width) if mask is None else sample_lengths(mask).cpu()
        ids = tuple(self.ids) if self.ids is not None else tuple(str(index) for index in range(batch))
        if len(ids) != batch:
            raise ValueError(f"{len(ids)} ids were given for a batch of {batch} utterances.")
        self.call, self.in_backbone = _Call(samples, width, ids), True

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        if output is not None and self.call is not None:
            self.trace._calls.append(self.call)
        else:
            self.call = None
        self.in_backbone = False

    def _check_budget(self, batch: int, width: int, floats: int) -> None:
        config = self.trace._config
        sizes = {site.name: site.numel(batch, width, config) * itemsize(site, floats) for site in self.chosen}
        if sum(sizes.values()) > self.limit:
            largest = max(sizes, key=sizes.__getitem__)
            raise ValueError(
                f"this forward pass would record {sum(sizes.values()) / 1e6:.1f} MB, over the budget of "
                f"{self.limit / 1e6:.1f} MB; the largest site is {largest!r} ({sizes[largest] / 1e6:.1f} MB). "
                "Choose fewer sites or utterances, dtype=torch.float16, or raise budget."
            )

    def _on_input(self, site: Site) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._record(site, args)

        return hook

    def _on_output(self, site: Site) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._record(site, output)

        return hook

    def _record(self, site: Site, seen: Any) -> None:
        # gradient checkpointing runs layers a second time, in the backward pass: that is no forward pass
        if self.call is None or (site.in_backbone and not self.in_backbone):
            return
        value = site.read(seen)
        value = value if self.grad else value.detach()
        if self.reducers:
            valid = self.call.valid(site, self.trace._config).to(value.device)
            value = self.reducers[site.name](value, valid)
        self.call.values[site.name] = value.to(self.device, self.dtype if value.is_floating_point() else None)


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
    """Run the model once and give its output together with what the sites held.

    Parameters
    ----------
    model : UniSpeechSatModel or a model that holds one
        In evaluation mode.
    audio
        A `unisat.Batch`; a path or a list of paths; a waveform or a list of them, with ``sampling_rate``; or a
        tensor (batch, samples), which is given to the model as it is, with ``attention_mask``.
    *selectors : str or re.Pattern
        Which sites, as in `capture`.
    sampling_rate : int, optional
        Of bare waveforms, in samples a second; files know theirs.
    attention_mask : (batch, samples), optional
        For a tensor (batch, samples) only: a Batch knows its lengths.
    mask_time_indices : (batch, frames), optional
        Frames to hide.
    **options
        ``dtype``, ``device``, ``grad``, ``budget``, ``allow_train`` of `capture`.

    Returns
    -------
    output, trace
        What ``model(...)`` returns, and a `Trace`.
    """
    inputs: dict[str, Any] = {"mask_time_indices": mask_time_indices}
    if isinstance(audio, Tensor) and audio.ndim == 2:
        inputs |= {"input_values": audio, "attention_mask": attention_mask}
    else:
        if attention_mask is not None:
            raise ValueError("attention_mask belongs to a tensor (batch, samples); waveforms know their lengths.")
        batch = as_batch(audio, sampling_rate)
        options.setdefault("ids", batch.ids)
        inputs |= {"input_values": batch.input_values, "attention_mask": batch.attention_mask}
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in inputs.items() if value is not None}
    gradients = nullcontext() if options.get("grad") else torch.no_grad()
    with capture(model, *selectors, **options) as trace, gradients:
        output = model(**inputs)
    return output, trace


def as_batch(audio: Any, sampling_rate: int | None = None) -> Batch:
    """A `unisat.Batch` of whatever `run` takes: a Batch, paths, or waveforms with their rate."""
    if isinstance(audio, Batch):
        return audio
    one = isinstance(audio, str | Path | Tensor | np.ndarray)
    items = [audio] if one else list(audio)
    if items and all(isinstance(item, str | Path) for item in items):
        return Batch.from_files(items)
    return Batch.from_arrays(items, sampling_rate=sampling_rate)
