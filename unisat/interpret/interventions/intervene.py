"""Change what a model computes: `intervene` applies edits for the length of a ``with`` block.

Edits say *where* (a site; heads, channels, seconds) and *how*. They are applied in the order in which they are given,
those of an outer block first, and always before anything is recorded, whichever scope was opened first. Only the frames
of the utterances are edited, never the padding after them, so an utterance in a padded batch is edited as it is alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from torch import nn

from unisat.frames import frames_between
from unisat.interpret.activations.forward import Following, Hook, hook, refuse_training
from unisat.interpret.activations.sites import Site, find_backbone, select, site_list
from unisat.interpret.interventions.edits import Intervention, Place, from_rows, to_rows
from unisat.model import UniSpeechSatModel
from unisat.modules import unwrap


class _Scope:
    """The edits of one ``with`` block."""

    def __init__(self, model: nn.Module, backbone: UniSpeechSatModel, edits: Sequence[Intervention]):
        self.model, self.edits = type(model).__name__, edits
        available = site_list(model)
        self.targets = [(edit, site) for edit in edits for site in select(available, [edit.site])]
        for edit, site in self.targets:
            edit.check(site)
        self.following, self.thread = Following(backbone), threading.get_ident()

    def apply(self, edit: Intervention, site: Site, seen: Any) -> Any:
        value, now = site.read(seen), self.following.now
        axis = 2 if site.is_square else 1
        if now is None or not now.reaches(site) or (len(value), value.shape[axis]) != (len(now), now.positions(site)):
            raise ValueError(
                f"{edit!r} has to know which frames are padding, and reads it from the model's forward pass; inside "
                "intervene call the model, not its parts."
            )
        rows = to_rows(site, value)
        lengths, valid = now.lengths(site).to(value.device), now.valid(site).to(value.device)
        active = valid[..., None]
        if edit.time is not None:
            seconds = now.seconds(site)
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
        if site.is_square:  # keys on the padding get no attention
            active = active & valid.repeat(1, site.sizes[1])[:, None, chosen]
        part = rows[..., chosen]
        changed = edit.change(part, Place(site, lengths, active, chosen))
        edited = rows.clone()
        edited[..., chosen] = torch.where(active, changed, part)
        return site.write(seen, from_rows(site, edited))


_Entry = tuple[_Scope, Intervention, Site]


@dataclass
class _Installed:
    """The one hook of a thread on a side of a module, and the edits that it applies, in order."""

    handle: Hook
    entries: list[_Entry]


# the scopes of a thread share a hook: of two hooks with prepend=True PyTorch would call the second one first
_INSTALLED: WeakKeyDictionary[nn.Module, dict[tuple[str, int], _Installed]] = WeakKeyDictionary()
_SCOPES: list[_Scope] = []
_LOCK = threading.RLock()


def _install(module: nn.Module, entry: _Entry) -> None:
    scope, _, site = entry
    with _LOCK:
        places, place = _INSTALLED.setdefault(module, {}), (site.side, scope.thread)
        if place not in places:
            entries: list[_Entry] = []
            handle = hook(module, site.side, lambda seen: _through(entries, seen), first=True)
            places[place] = _Installed(handle, entries)
        places[place].entries.append(entry)


def _through(entries: list[_Entry], seen: Any) -> Any:
    for scope, edit, site in list(entries):
        seen = scope.apply(edit, site, seen)
    return seen


def _uninstall(module: nn.Module, entry: _Entry) -> None:
    scope, _, site = entry
    with _LOCK:
        places, place = _INSTALLED[module], (site.side, scope.thread)
        entries = places[place].entries
        entries[:] = [other for other in entries if other is not entry]
        if not entries:
            places.pop(place).handle.remove()
        if not places:
            del _INSTALLED[module]


@contextmanager
def intervene(model: nn.Module, *edits: Intervention, allow_train: bool = False) -> Iterator[None]:
    """Edit what the model computes in every forward pass inside the ``with`` block.

    The block is for the thread that opens it. Passes in other threads are not edited: a thread opens a block of its
    own.

    Parameters
    ----------
    model : UniSpeechSatModel or a model that holds one
        The model may be compiled; inside the block it runs eagerly, since compiled code does not call hooks.
    *edits : Ablate, Patch, Steer, Project, Erase, Edit or Placebo
        The edits in the order in which they are applied, after those of blocks around this one. `unisat.capture`
        records edited values, whether it is opened before or after.
    allow_train : bool
        Whether to edit in training mode too, where dropout and masks make every pass different.

    Raises
    ------
    ValueError
        Before any forward pass, if a selector matches nothing (the message names the nearest sites), a site cannot be
        edited, a head or channel is beyond the site, a source or vector does not fit, or the model is in training mode.
        In a forward pass, if lengths differ (`Patch`), no frame lies in the seconds, or there is no other utterance.

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
    with scope.following.hooks(backbone), ExitStack() as stack:
        _SCOPES.append(scope)
        stack.callback(_SCOPES.remove, scope)
        for edit, site in scope.targets:
            module, entry = model.get_submodule(site.module), (scope, edit, site)
            _install(module, entry)
            stack.callback(_uninstall, module, entry)
        yield


def _check_training(backbone: UniSpeechSatModel, scope: _Scope, allow_train: bool) -> None:
    if not backbone.training:
        return
    if not allow_train:
        refuse_training(backbone, "intervention")
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
    """List what is edited in this thread now: one row for each edit of each open `intervene`, the outermost first.

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
        for number, scope in enumerate(scope for scope in _SCOPES if scope.thread == threading.get_ident())
        for edit in scope.edits
    ]
    return pd.DataFrame(rows, columns=["scope", "model", "edit", "sites"])
