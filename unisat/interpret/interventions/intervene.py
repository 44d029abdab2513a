"""Change what a model computes: `intervene` holds edits for the length of a ``with`` block.

Edits say *where* (a site; heads, channels, seconds) and *what*; they are applied in the order in which they are given,
those of an outer block first, before anything is recorded, whichever scope was opened first. Only the frames of the
utterances are edited, never the padding behind them, so that an utterance in a padded batch is edited as it is alone.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor, nn

from unisat.config import UniSpeechSatConfig
from unisat.frames import frames_between, valid_positions
from unisat.inputs import sample_lengths
from unisat.interpret.activations.sites import Site, find_backbone, select, site_list
from unisat.interpret.interventions.edits import Intervention, Place, from_rows, to_rows
from unisat.model import UniSpeechSatModel
from unisat.modules import unwrap


class _Pass(threading.local):
    """The forward pass that this thread is in, or was in last."""

    samples: Int[Tensor, " batch"] | None = None
    width = 0
    in_backbone = False


class _Scope:
    """The edits of one ``with`` block."""

    def __init__(self, model: nn.Module, backbone: UniSpeechSatModel, edits: Sequence[Intervention]):
        self.model, self.edits = type(model).__name__, edits
        available = site_list(model)
        self.targets = [(edit, site) for edit in edits for site in select(available, [edit.site])]
        for edit, site in self.targets:
            edit.check(site)
        self.config: UniSpeechSatConfig = backbone.config
        self.signature = inspect.signature(backbone.forward)
        self.now = _Pass()

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = self.signature.bind(*args, **kwargs).arguments
        waveforms, mask = given["input_values"], given.get("attention_mask")
        if waveforms.ndim != 2:
            return  # the model says what is wrong
        batch, self.now.width = waveforms.shape
        self.now.samples = torch.full((batch,), self.now.width) if mask is None else sample_lengths(mask).cpu()
        self.now.in_backbone = True

    def end(self) -> None:
        self.now.in_backbone = False

    def apply(self, edit: Intervention, site: Site, seen: Any) -> Any:
        value, now = site.read(seen), self.now
        axis = 2 if site.is_square else 1
        if (
            now.samples is None
            or (site.in_backbone and not now.in_backbone)
            or (len(value), value.shape[axis]) != (len(now.samples), site.positions(now.width, self.config))
        ):
            raise ValueError(
                f"{edit!r} has to know which frames are padding, and reads it from the model's forward pass; inside "
                "intervene call the model, not its parts."
            )
        rows = to_rows(site, value)
        lengths = site.positions(now.samples, self.config).to(value.device)
        valid = valid_positions(lengths, rows.shape[1])
        active = valid[..., None]
        if edit.time is not None:
            seconds = site.seconds(now.width, self.config)
            inside = torch.zeros(len(seconds), dtype=torch.bool)
            inside[frames_between(seconds, *edit.time)] = True
            active = active & inside.to(value.device)[:, None]
            if not active.any():
                longest = seconds[: int(lengths.max())]
                raise ValueError(
                    f"no frame of {site.name} lies in time={edit.time}: those of the longest utterance are centred on "
                    f"{longest[0]:.3f} to {longest[-1]:.3f} s."
                )
        chosen = edit.chosen(site, rows.shape[1]).to(value.device)
        if site.is_square:  # keys of the padding stay out of attention
            active = active & valid.repeat(1, site.sizes[1])[:, None, chosen]
        part = rows[..., chosen]
        changed = edit.change(part, Place(site, lengths, active, chosen))
        edited = rows.clone()
        edited[..., chosen] = torch.where(active, changed, part)
        return site.write(seen, from_rows(site, edited))


_Entry = tuple[_Scope, Intervention, Site]


@dataclass
class _Installed:
    """The one hook on a side of a module, and the edits that it applies, in order."""

    handle: torch.utils.hooks.RemovableHandle
    entries: list[_Entry]


# hooks are shared by all scopes: PyTorch would run a second hook that goes first before the first one
_INSTALLED: WeakKeyDictionary[nn.Module, dict[str, _Installed]] = WeakKeyDictionary()
_SCOPES: list[_Scope] = []
_LOCK = threading.RLock()


def _install(module: nn.Module, side: str, entry: _Entry) -> None:
    with _LOCK:
        sides = _INSTALLED.setdefault(module, {})
        if side not in sides:
            entries: list[_Entry] = []
            before = lambda module, args: _through(entries, args)  # noqa: E731
            after = lambda module, args, output: _through(entries, output)  # noqa: E731
            if side == "input":
                handle = module.register_forward_pre_hook(before, prepend=True)
            else:
                handle = module.register_forward_hook(after, prepend=True)
            sides[side] = _Installed(handle, entries)
        sides[side].entries.append(entry)


def _through(entries: list[_Entry], seen: Any) -> Any:
    for scope, edit, site in list(entries):
        seen = scope.apply(edit, site, seen)
    return seen


def _uninstall(module: nn.Module, side: str, entry: _Entry) -> None:
    with _LOCK:
        sides = _INSTALLED[module]
        entries = sides[side].entries
        entries[:] = [other for other in entries if other is not entry]
        if not entries:
            sides.pop(side).handle.remove()
        if not sides:
            del _INSTALLED[module]


@contextmanager
def intervene(model: nn.Module, *edits: Intervention, allow_train: bool = False) -> Iterator[None]:
    """Edit what the model computes in every forward pass inside the ``with`` block.

    Parameters
    ----------
    model : UniSpeechSatModel or a model that holds one
        Also compiled; inside the block it runs eagerly, since compiled code does not call hooks.
    *edits : Ablate, Patch, Steer, Project, Edit or Placebo
        Applied in this order, behind those of blocks around this one. `unisat.capture` records edited values, whether
        it is opened before or after.
    allow_train : bool
        Edit in training mode too, where dropout and masks make every pass different.

    Raises
    ------
    ValueError
        Before any forward pass: if a selector matches nothing (with the nearest names), a site cannot be edited,
        a head or channel is beyond the site, a source or vector does not fit, or the model is in training mode. In a
        forward pass: if lengths differ (`Patch`), no frame lies in the seconds, or there is no other utterance.

    Examples
    --------
    >>> _, source = us.run(model, other, "block.4.attn.z")
    >>> with us.intervene(model, us.Patch("block.4.attn.z", source, head=2, align="crop")):
    ...     output, trace = us.run(model, batch, "hidden.*")
    """
    for edit in edits:
        if not isinstance(edit, Intervention):
            raise ValueError(f"intervene takes edits such as Ablate('block.2.attn.z', head=0), got {edit!r}.")
    model = unwrap(model)
    _, backbone = find_backbone(model)
    scope = _Scope(model, backbone, edits)
    _check_training(backbone, scope, allow_train)
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        _SCOPES.append(scope)
        stack.callback(_SCOPES.remove, scope)
        # functions, here and in _install: who copies the model inside a scope copies bound methods with all they hold
        begin = lambda module, args, kwargs: scope.begin(args, kwargs)  # noqa: E731
        stack.callback(backbone.register_forward_pre_hook(begin, with_kwargs=True).remove)
        # called when the forward pass raises, too
        stack.callback(backbone.register_forward_hook(lambda *_: scope.end(), always_call=True).remove)
        for edit, site in scope.targets:
            module, entry = model.get_submodule(site.module), (scope, edit, site)
            _install(module, site.side, entry)
            stack.callback(_uninstall, module, site.side, entry)
        yield


def _check_training(backbone: UniSpeechSatModel, scope: _Scope, allow_train: bool) -> None:
    if not backbone.training:
        return
    if not allow_train:
        raise ValueError(
            "the model is in training mode: dropout, masks and LayerDrop would make this intervention a random one; "
            "call model.eval() first, or pass allow_train=True."
        )
    if any(getattr(module, "gradient_checkpointing", False) for module in backbone.modules()):
        raise ValueError(
            "gradient checkpointing runs layers a second time in the backward pass, where edits may be gone; call "
            "model.gradient_checkpointing_disable() first."
        )
    layers = [site.name for _, site in scope.targets if "encoder.layers." in site.module]
    if layers and backbone.config.layerdrop > 0:
        raise ValueError(
            f"LayerDrop may skip the layer of {layers[0]}, and the edit with it; set model.config.layerdrop = 0."
        )


def active_scopes() -> pd.DataFrame:
    """What is edited at this moment: one row for each edit of each open `intervene`, outermost first.

    Returns
    -------
    pandas.DataFrame
        Columns ``scope`` (number), ``model`` (class), ``edit``, ``sites``.
    """
    rows = [
        {
            "scope": number,
            "model": scope.model,
            "edit": repr(edit),
            "sites": ", ".join(site.name for other, site in scope.targets if other is edit),
        }
        for number, scope in enumerate(_SCOPES)
        for edit in scope.edits
    ]
    return pd.DataFrame(rows, columns=["scope", "model", "edit", "sites"])
