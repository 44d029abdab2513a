"""Read and write weights: names and shapes must fit, and no file can run code.

The module reads ``model.safetensors`` and ``pytorch_model.bin``, single or sharded, with the reference's current or
older names. It writes ``model.safetensors``.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unisat.files import fetched_by, save_tensors

CONFIG_NAME = "config.json"
SAFETENSORS_NAME = "model.safetensors"
BIN_NAME = "pytorch_model.bin"
WEIGHT_FILES = (SAFETENSORS_NAME, SAFETENSORS_NAME + ".index.json", BIN_NAME, BIN_NAME + ".index.json")

# the names of torch.nn.utils.weight_norm, and those of torch.nn.utils.parametrizations.weight_norm
_OLD_NAMES = {
    "conv.weight_g": "conv.parametrizations.weight.original0",
    "conv.weight_v": "conv.parametrizations.weight.original1",
}
# how files begin that often lie where weights should be, and what they are
_NO_WEIGHTS = {
    b"<": "a web page; fetch them again",
    b"{": "JSON; fetch them again",
    b"\x1f\x8b": "packed with gzip; unpack them",
}
logger = logging.getLogger(__name__)


def find_folder(name_or_path: str | Path, revision: str | None = None, subfolder: str = "", **hub: Any) -> Path:
    """Find a checkpoint's folder: a local one, or that of a hub repository (from the cache, or downloaded).

    ``hub`` are arguments of ``huggingface_hub.hf_hub_download``, such as ``cache_dir`` and ``local_files_only``.

    Raises
    ------
    FileNotFoundError
        If there is no such folder and no such repository can be reached; the message says which files go where.
    ValueError
        If the path is that of a file.
    ImportError
        If the name looks like a hub name and ``huggingface_hub`` is not installed.
    """
    path = Path(name_or_path).expanduser()
    if (path / subfolder).is_dir():
        return path / subfolder
    if path.is_dir():
        raise FileNotFoundError(f"there is no folder {subfolder!r} in {path}.")
    if path.is_file():
        raise ValueError(f"{path} is a file; give the folder that holds it together with {CONFIG_NAME}.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name_or_path)) or str(name_or_path).startswith("."):
        raise FileNotFoundError(
            f"there is no folder {str(name_or_path)!r}, and it is not a hub name (owner/name) either. "
            f"A checkpoint is a folder with {CONFIG_NAME} and {SAFETENSORS_NAME} or {BIN_NAME}."
        )
    place = {"subfolder": subfolder} if subfolder else {}
    return _download(str(name_or_path), {"revision": revision, **place, **hub})


def _download(name: str, options: Mapping[str, Any]) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise ImportError(
            f"there is no folder {name!r}; to load it from the hub: pip install 'unisat[hub]'."
        ) from error

    def get(filename: str) -> Path:
        return Path(huggingface_hub.hf_hub_download(name, filename, **options))

    offline: OSError | ValueError | None = None
    try:
        folder = get(CONFIG_NAME).parent
        for filename in WEIGHT_FILES:
            try:
                path = get(filename)
            except LocalEntryNotFoundError as error:  # not in the cache, and no network: the next name may be there
                offline = offline or error
                continue
            except EntryNotFoundError:
                continue
            if filename.endswith(".index.json"):
                for shard in _shards(path):
                    get(shard)
            return folder
        if offline is not None:
            raise offline
    except (OSError, ValueError) as error:  # offline, no such repository, or no access
        raise FileNotFoundError(
            f"{name!r} is neither a folder here nor could it be fetched from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}). "
            f"Without a network: put its {CONFIG_NAME} and {SAFETENSORS_NAME} (or {BIN_NAME}) into a folder "
            "and pass that folder's path."
        ) from error
    raise FileNotFoundError(f"the hub repository {name!r} holds none of {', '.join(WEIGHT_FILES)}.")


def _shards(index: Path) -> list[str]:
    """Give the names of the files that an index lists; all must lie beside the index."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of shards (an object with 'weight_map'): {error}.") from error
    if outside := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{index} names a file outside its folder: {outside[0]!r}; refused.")
    return names


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """Read all weights of a checkpoint folder to the CPU; safetensors comes first if both kinds are there.

    Raises
    ------
    FileNotFoundError
        If the folder holds no weights, or a shard is missing.
    ValueError
        If a file is truncated, is not what its name says, or would run code.
    """
    folder = Path(folder)
    for name in WEIGHT_FILES:
        path = folder / name
        if path.is_file():
            paths = [folder / shard for shard in _shards(path)] if name.endswith(".json") else [path]
            state: dict[str, Tensor] = {}
            for part in paths:
                state |= read_file(part)
            return state
    raise FileNotFoundError(f"{folder} holds none of {', '.join(WEIGHT_FILES)}: nothing to load.")


def read_file(path: Path) -> dict[str, Tensor]:
    """Read one file of weights; it raises what `read_weights` raises."""
    if not path.is_file():
        raise FileNotFoundError(f"the index lists {path.name}, which is not in {path.parent}; fetch it again.")
    _look(path)
    if path.suffix == ".safetensors":
        import safetensors
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file ({error}); fetch it again.") from error
    state = read_torch(path)
    if not is_state(state):
        raise ValueError(f"{path} does not hold a state dict (names → tensors).")
    return dict(state)


def is_state(value: Any) -> bool:
    """Whether a value is a state dict: tensors by their names."""
    return isinstance(value, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def read_torch(path: Path, known: Callable[[Path], list[Any]] | None = None) -> Any:
    """Read what ``torch.save`` wrote; nothing in it is run.

    Besides torch's own types only those are made that ``known`` gives for the file.

    Raises
    ------
    ValueError
        If the file is truncated, is no torch file, unpacks to much more than it holds, or would run code.
    """
    _look(path)
    try:
        _check_packed(path)
        with torch.serialization.safe_globals(known(path) if known else []):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes end in any exception of torch or of Python
        if isinstance(error, pickle.UnpicklingError) and re.search(_WOULD_RUN, str(error)):
            raise ValueError(
                f"{path} holds more than tensors and would run code when read: refused. "
                "If you trust its source, convert it to safetensors elsewhere."
            ) from error
        said = str(error).split("WeightsUnpickler error:")[-1].split("Check the documentation")[0]
        said = " ".join(said.split()) or type(error).__name__
        raise ValueError(f"{path} is truncated or not a torch file ({said:.200}); fetch it again.") from error


# what torch says of names that are no tensors, and of what is done with them
_WOULD_RUN = "not an allowed global|is blocked|call reduce for unrecognized|only create new object|only build Tensor"


def _look(path: Path) -> None:
    """Refuse what often lies where weights should be."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if command := fetched_by(start):
        raise ValueError(f"{path} does not hold weights but is a pointer to them; run {command}.")
    for first, what in _NO_WEIGHTS.items():
        if start.startswith(first):
            raise ValueError(f"{path} does not hold weights but is {what}.")


def _check_packed(path: Path) -> None:
    """Refuse an archive that unpacks to much more than it holds; torch does not compress."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > 2 * path.stat().st_size + 2**20:
        raise ValueError(f"it unpacks to {unpacked:,} bytes")


def current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename ``weight_g`` and ``weight_v`` of older checkpoints to what torch calls them now."""
    renamed = {}
    for name, tensor in state.items():
        for old, new in _OLD_NAMES.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        renamed[name] = tensor
    return renamed


def _unwrapped(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Take off what `torch.compile` and `DataParallel` put in front of names, and say so."""
    wrapper = r"^(?:(?:module|_orig_mod)\.)+|(?<=\.)_orig_mod\."
    plain = {re.sub(wrapper, "", name): tensor for name, tensor in state.items()}
    if plain.keys() != state.keys():
        warnings.warn(
            f"{source} has names of weights with 'module.' or '_orig_mod.', which DataParallel and torch.compile put "
            "there; they are taken off. Save model.module or model._orig_mod to have names without them.",
            stacklevel=2,
        )
    return plain


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    prefix: str,
    *,
    optional: Container[str] = (),
    source: str = "the checkpoint",
    dtype: torch.dtype | None = None,
    fresh: Callable[[], Mapping[str, Tensor]] | None = None,
    ignore_mismatched_sizes: bool = False,
) -> list[str]:
    """Put all weights into a model, or say everything that does not fit.

    In a model with a head the backbone is under ``prefix`` (``unispeech_sat``); in one without a head it is at the top.
    Either kind of checkpoint goes into either kind of model. The weights of another head are left out. A head and
    adapters that the checkpoint does not have start ``fresh``; the backbone must be complete.

    Parameters
    ----------
    optional : several names
        Weights of the backbone that may start fresh like a head, and that are left out if the model does not have them.
    fresh : callable, optional
        Gives freshly drawn weights, and is called only if some are needed. If None, the checkpoint must have all.
    ignore_mismatched_sizes : bool
        Draw weights of the head afresh if the checkpoint's have another shape, such as another number of classes.

    Returns
    -------
    list of str
        Names of the weights that started fresh.

    Raises
    ------
    ValueError
        If weights are missing, unused or misshapen; one message names all of them. The model is then unchanged.
    """
    expected, dotted = model.state_dict(), prefix + "."
    has_head = any(name.startswith(dotted) for name in expected)
    state, head = _without_other_heads(current_names(_unwrapped(state, source)), expected, dotted, has_head)
    unwanted = [name for name in state if name.removeprefix(dotted) in optional and name not in expected]
    state = {name: value for name, value in state.items() if name not in unwanted}
    if head := head + unwanted:
        logger.info("left out of %s, for they have no use: %s", source, ", ".join(head))

    def may_start_fresh(name: str) -> bool:
        in_head = (has_head and not name.startswith(dotted)) or name.removeprefix(dotted) in optional
        return fresh is not None and (in_head or ".adapter_layer." in name)

    missing = sorted(set(expected) - set(state))
    misshapen = sorted(k for k in set(expected) & set(state) if _kind(state[k]) != _kind(expected[k]))
    new = [name for name in missing if may_start_fresh(name)]
    if ignore_mismatched_sizes:
        new += [name for name in misshapen if may_start_fresh(name)]
    wrong_shapes = [
        f"{name} is {_kind(state[name])}, the model has {_kind(expected[name])}"
        for name in misshapen
        if name not in new
    ]
    missing, unused = [name for name in missing if name not in new], sorted(set(state) - set(expected))
    if missing or unused or wrong_shapes:
        raise ValueError(misfit(source, model, missing, unused, wrong_shapes))
    if new and fresh is not None:
        state = state | {name: value for name, value in fresh().items() if name in new}
    # fresh weights have torch's default precision; they get that of the others
    dtype = dtype or next((value.dtype for value in state.values() if value.is_floating_point()), None)
    model.load_state_dict({k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}, assign=True)
    return new


def _kind(tensor: Tensor) -> str:
    """The shape, and what keeps a tensor from being a weight of that shape."""
    odd = tensor.layout != torch.strided or not tensor.is_floating_point()
    return f"{tuple(tensor.shape)}{f' of {tensor.dtype}, {tensor.layout}' if odd else ''}"


def _without_other_heads(
    state: dict[str, Tensor], expected: Mapping[str, Tensor], dotted: str, has_head: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """Bring the backbone's names to the model's form; give the state, and the names of another head."""
    prefixed = any(name.startswith(dotted) for name in state)
    if has_head and not prefixed:
        return {dotted + name: value for name, value in state.items()}, []
    if not prefixed:
        return state, []
    other = sorted(name for name in state if not name.startswith(dotted) and name not in expected)
    kept = {name: value for name, value in state.items() if name not in other}
    return kept if has_head else {name.removeprefix(dotted): value for name, value in kept.items()}, other


def misfit(source: str, model: nn.Module, missing: list[str], unused: list[str], misshapen: list[str]) -> str:
    """Say everything that does not fit in one message."""
    return (
        f"{source} does not fit {type(model).__name__}:"
        f"\n  missing from the checkpoint: {_list(missing)}"
        f"\n  not used by the model: {_list(unused)}"
        f"\n  of another shape: {_list(misshapen)}"
        "\nDo config.json and the weights belong together?"
    )


def _list(names: Iterable[str]) -> str:
    return "".join(f"\n    {name}" for name in names) or "none"


def write_weights(state: Mapping[str, Tensor], folder: str | Path, name: str = SAFETENSORS_NAME) -> Path:
    """Write a safetensors file whole or not at all, and give its path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_tensors(tensors, folder / name, {"format": "pt"})  # transformers asks for the format
    return folder / name
