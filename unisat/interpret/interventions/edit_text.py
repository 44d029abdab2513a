"""Edits as text with their tensors, so that an experiment can be kept and run again."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unisat.interpret.activations.sites import matches
from unisat.interpret.interventions.edits import Ablate, Erase, Intervention, Patch, Placebo, Project, Recorded, Steer

EDITS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Ablate, Patch, Steer, Project, Erase, Placebo)}


def to_json(*edits: Intervention) -> str:
    """Write edits as text with their tensors and sources (as base64 of safetensors); `from_json` reads it.

    Raises
    ------
    ValueError
        If there is an `Edit`, which holds Python code.
    """
    return json.dumps([_encode_edit(edit) for edit in edits], ensure_ascii=False)


def from_json(text: str) -> tuple[Intervention, ...]:
    """Read the edits that `to_json` wrote; no text can make it create anything else."""
    data = json.loads(text)
    if not isinstance(data, list):
        raise ValueError(
            "expected the text that unisat.interpret.interventions.edit_text.to_json writes, a list of edits."
        )
    return tuple(_decode_edit(item) for item in data)


def _encode_edit(edit: Intervention) -> dict[str, Any]:
    name = type(edit).__name__
    if name not in EDITS:
        raise ValueError(f"{name} cannot be written as text: it holds Python code. Write the other edits only.")
    said = {item.name: getattr(edit, item.name) for item in fields(edit)}  # type: ignore[arg-type]
    if isinstance(edit, Patch):
        names = [site for site in edit.source.sites if matches(edit.site, site)]
        said["source"] = Recorded({n: edit.source[n] for n in names}, {n: edit.source.lengths(n) for n in names})
    return {"edit": name} | {key: _encode(value) for key, value in said.items() if value is not None}


def _encode(value: Any) -> Any:
    match value:
        case Intervention():
            return _encode_edit(value)
        case Recorded():
            lengths = {f"{name}{_LENGTHS}": frames for name, frames in value.frames.items()}
            return {"source": _pack(value.values | lengths)}
        case Tensor() | np.ndarray():
            return {"tensor": _pack({"tensor": torch.as_tensor(value)})}
        case re.Pattern():
            return {"regex": value.pattern, "flags": value.flags}
        case slice():
            return {"slice": [value.start, value.stop, value.step]}
    return value


_LENGTHS = "#lengths"


def _pack(tensors: dict[str, Tensor]) -> str:
    from safetensors.torch import save

    # a clone, since safetensors refuses tensors that share memory, as those of two sites may
    return base64.b64encode(save({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()})).decode()


def _unpack(text: str) -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(base64.b64decode(text))


def _decode_edit(data: Any) -> Intervention:
    if not isinstance(data, dict) or data.get("edit") not in EDITS:
        raise ValueError(f"{str(data)[:60]!r} is no edit; expected a dict whose 'edit' is one of {', '.join(EDITS)}.")
    kind = EDITS[data["edit"]]
    known = {item.name for item in fields(kind)}
    said = {key: value for key, value in data.items() if key != "edit"}
    if unknown := set(said) - known:
        raise ValueError(f"{data['edit']} has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}.")
    return kind(**{key: _decode(value) for key, value in said.items()})


def _decode(value: Any) -> Any:
    match value:
        case {"edit": _}:
            return _decode_edit(value)
        case {"source": text}:
            tensors = _unpack(text)
            names = [name for name in tensors if not name.endswith(_LENGTHS)]
            return Recorded({n: tensors[n] for n in names}, {n: tensors[n + _LENGTHS] for n in names})
        case {"tensor": text}:
            return _unpack(text)["tensor"]
        case {"regex": pattern, "flags": flags}:
            return re.compile(pattern, flags)
        case {"slice": ends}:
            return slice(*ends)
    return tuple(value) if isinstance(value, list) else value
