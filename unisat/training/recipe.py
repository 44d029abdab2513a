"""What a pretraining run is made of, as a TOML file says it.

A `Recipe` is read with `read`, checked key by key, and stored with every checkpoint, so that a run that goes on is the
run that began.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from unisat.config import UniSpeechSatConfig, nearest
from unisat.training.augment import Augment


@dataclass
class Data:
    """Which speech, and how it is cut into batches.

    Attributes
    ----------
    train, valid : dict
        By name, tables with ``source`` (a CSV or Parquet manifest, a folder, or ``"builtin"``) and conditions, as
        `unisat.training.data.manifest` takes them, ``{source = "speech/metadata.csv", split = "train"}``.
    weights : dict
        By name of a training source, its share of what is heard, up to a common factor; all sources or none. Without
        weights everything is heard once in each epoch.
    speaker_power : float
        With weights: in a source, a speaker is heard in proportion to this power of the seconds there are of them. 1
        takes all utterances alike, 0 all speakers.
    crop_seconds, min_seconds : float
        Longer utterances are cut to a random crop of this length; shorter ones than ``min_seconds`` are left out.
    batch_seconds : float
        Audio in a batch of one process, padding counted.
    grid_seconds : float
        Above 0, all crops of a batch have one length, a multiple of this, and nothing is padded.
    on_device : bool
        Decode everything once and keep it, in 16 bits, on the device that trains.
    do_normalize : bool
        Zero mean and unit variance for each crop.
    cache_mb : int
        Memory for decoded sound files, so that a small corpus is decoded once.
    """

    train: dict[str, dict[str, Any]] = field(default_factory=dict)
    valid: dict[str, dict[str, Any]] = field(default_factory=dict)
    crop_seconds: float = 15.6
    min_seconds: float = 2.0
    batch_seconds: float = 87.5
    do_normalize: bool = True
    cache_mb: int = 1024
    weights: dict[str, float] = field(default_factory=dict)
    speaker_power: float = 1.0
    grid_seconds: float = 0.0
    on_device: bool = False


@dataclass
class Targets:
    """Where the clusters come from: MFCC (first iteration) or a hidden layer of a trained model (second).

    Attributes
    ----------
    features : {"mfcc", "hidden"}
        What is clustered.
    model : str, optional
        Folder of the model whose hidden states are clustered.
    layer : int, optional
        Its layer, counted from 1.
    clusters : int
        Number of clusters k; the model gets as many label embeddings.
    sample_seconds : float
        Audio that k-means is fitted on.
    mean_off : {"no", "utterance", "speaker"}
        Whether features have their mean taken off before they are clustered, over each utterance or over all that a
        speaker says: what is left knows more of the sound and less of the voice. "no" is HuBERT's way.
    variance_one : bool
        Whether they are brought to variance 1 too.
    method : {"minibatch", "lloyd"}
        K-means in small batches (fairseq's, on the CPU), or on all of the sample where the model lies.
    """

    features: str = "mfcc"
    model: str | None = None
    layer: int | None = None
    clusters: int = 100
    sample_seconds: float = 36_000.0
    mean_off: str = "no"
    variance_one: bool = False
    method: str = "minibatch"


@dataclass
class Optimizer:
    """AdamW on all weights, linear warm-up, linear decay to 0 (HuBERT's; ``clip_norm`` 10 for Base, 1 for Large)."""

    learning_rate: float = 5e-4
    steps: int = 400_000
    warmup_steps: int = 32_000
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    eps: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float = 10.0


@dataclass
class Gumbel:
    """Temperature of the quantizer's draws: from ``start`` down to ``end`` by a factor a step, reached at 70 %."""

    start: float = 2.0
    end: float = 0.5


@dataclass
class Schedule:
    """When terms of the loss come and go; each a pair of shares of the run's steps, from begin to end.

    Attributes
    ----------
    unmasked_fade : list of float
        The unmasked term falls to 0 along a line between the two; empty: it stays.
    contrastive_ramp : list of float
        The contrastive and the diversity term rise from 0 likewise; empty: they are there from the beginning.
    """

    unmasked_fade: list[float] = field(default_factory=list)
    contrastive_ramp: list[float] = field(default_factory=list)


@dataclass
class Run:
    """How the run goes: precision, accumulation, and how often it logs, validates and saves (in steps).

    ``max_bad_steps`` steps in a row without a finite gradient stop the run. ``compile`` gives the transformer's layers
    to ``torch.compile``, which takes half a minute and pays on a GPU.
    """

    precision: str = "no"
    compile: bool = False
    accumulate: int = 1
    log_every: int = 10
    valid_every: int = 1000
    save_every: int = 1000
    keep: int = 3
    max_bad_steps: int = 10
    tensorboard: bool = False


@dataclass
class Recipe:
    """Everything that a pretraining run depends on; see the parts. ``model`` holds `UniSpeechSatConfig` fields.

    ``init`` is the folder of a model of an earlier iteration to begin with; what predicts its clusters is drawn anew.
    """

    out: str
    seed: int = 0
    init: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    data: Data = field(default_factory=Data)
    targets: Targets = field(default_factory=Targets)
    optimizer: Optimizer = field(default_factory=Optimizer)
    gumbel: Gumbel = field(default_factory=Gumbel)
    augment: Augment = field(default_factory=Augment)
    schedule: Schedule = field(default_factory=Schedule)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        check_sources(self.data.train, "data.train")
        check_sources(self.data.valid, "data.valid")
        rules = {
            "optimizer.steps": self.optimizer.steps >= 1,
            "optimizer.learning_rate": self.optimizer.learning_rate > 0,
            "optimizer.warmup_steps": 0 <= self.optimizer.warmup_steps <= self.optimizer.steps,
            "optimizer.clip_norm": self.optimizer.clip_norm > 0,
            "optimizer.betas": len(self.optimizer.betas) == 2 and all(0 <= beta < 1 for beta in self.optimizer.betas),
            "optimizer.eps": self.optimizer.eps >= 0,
            "optimizer.weight_decay": self.optimizer.weight_decay >= 0,
            "gumbel.end": 0 < self.gumbel.end <= self.gumbel.start,
            "data.train": bool(self.data.train),
            "data.batch_seconds": self.data.batch_seconds > 0,
            "data.cache_mb": self.data.cache_mb >= 0,
            "data.crop_seconds": self.data.crop_seconds >= self.data.min_seconds > 0,
            "data.weights": not self.data.weights or {*self.data.weights} == {*self.data.train},
            "data.speaker_power": 0 <= self.data.speaker_power <= 1,
            "data.grid_seconds": 0 <= self.data.grid_seconds <= self.data.min_seconds,
            "targets.features": self.targets.features in ("mfcc", "hidden"),
            "targets.model": (self.targets.model is not None) == (self.targets.features == "hidden"),
            "targets.layer": (self.targets.layer is not None) == (self.targets.features == "hidden"),
            "targets.clusters": 2 <= self.targets.clusters <= 65_535,
            "targets.sample_seconds": self.targets.sample_seconds > 0,
            "targets.mean_off": self.targets.mean_off in ("no", "utterance", "speaker"),
            "targets.method": self.targets.method in ("minibatch", "lloyd"),
            "schedule.unmasked_fade": _is_stretch(self.schedule.unmasked_fade),
            "schedule.contrastive_ramp": _is_stretch(self.schedule.contrastive_ramp),
            "run.precision": self.run.precision in ("no", "bf16"),
            "run.accumulate": self.run.accumulate >= 1,
            "run.keep": self.run.keep >= 1,
            "run.max_bad_steps": self.run.max_bad_steps >= 1,
            "run.log_every": min(self.run.log_every, self.run.valid_every, self.run.save_every) >= 1,
            "model.num_clusters": self.model.get("num_clusters", self.targets.clusters) == self.targets.clusters,
        }
        if broken := [name for name, holds in rules.items() if not holds]:
            values = {name: _value(self, name) for name in broken}
            raise ValueError(f"the recipe has values that no run can be made of: {values}; see unisat.training.recipe.")

    def model_config(self) -> UniSpeechSatConfig:
        """Give the config of the model: a ``preset`` (base, large, tiny) with changes, or fields alone."""
        values = {**self.model, "num_clusters": self.targets.clusters}
        preset = values.pop("preset", None)
        if preset not in (None, "base", "large", "tiny"):
            raise ValueError(f"model.preset={preset!r} must be base, large or tiny, or left out.")
        return UniSpeechSatConfig(**values) if preset is None else getattr(UniSpeechSatConfig, preset)(**values)

    def flat(self) -> dict[str, Any]:
        """Give every value under its dotted name, ``"optimizer.steps"``."""
        return _flat(dataclasses.asdict(self))


def read(path: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe; ``changes`` are dotted names with new values, ``{"optimizer.steps": 100}``.

    A recipe may begin with ``base = "other.toml"``: it then says only where it differs from that file beside it.

    Raises
    ------
    ValueError
        If the file is not TOML, or has a key that a recipe does not.
    """
    return from_dict(apply(_file(Path(path)), changes or {}))


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a file in TOML.

    Raises
    ------
    ValueError
        If it is not TOML, or not in UTF-8.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 ({error}); save it in UTF-8.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not TOML: {error}.") from error


def _file(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a recipe and what it begins with; ``above`` are the files that begin with it."""
    values = read_toml(path)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str) or path.parent / base in (*above, path):
        raise ValueError(f"{path} begins with base={base!r}; give the name of another recipe beside it.")
    return apply(_file(path.parent / base, (*above, path)), _flat(values))


def apply(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Set dotted names in nested dictionaries."""
    for name, value in changes.items():
        *parents, last = name.split(".")
        part = values
        for parent in parents:
            part = part.setdefault(parent, {})
            if not isinstance(part, dict):
                raise ValueError(f"{name}={value!r} cannot be set: {parent} is {part!r}, which has no parts.")
        part[last] = value
    return values


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """Make a recipe of nested dictionaries, as TOML and JSON give them."""
    return _build(Recipe, values, "")


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """Dotted names of what differs, with both values, between recipes of runs that should be the same."""
    before, after = old.flat(), new.flat()
    names = sorted({*before, *after})
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _build(kind: type, values: Mapping[str, Any], place: str) -> Any:
    parts: dict[str, type] = {"data": Data, "targets": Targets, "optimizer": Optimizer, "gumbel": Gumbel}
    parts |= {"augment": Augment, "schedule": Schedule, "run": Run}
    known = {item.name: item for item in fields(kind)}
    if not isinstance(values, Mapping):
        raise ValueError(f"{place.rstrip('.')}={values!r} must be a table with some of {', '.join(known)}.")
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"a recipe has no key {place}{unknown[0]}{nearest(unknown[0], list(known))}.")
    if "out" in known and "out" not in values:
        raise ValueError("a recipe needs the key out: the folder that the run writes to.")
    if kind is Recipe:
        values = {
            name: _build(parts[name], value, f"{name}.") if name in parts else value for name, value in values.items()
        }
    check_types(kind, values, place)
    return kind(**values)


def check_types(kind: type, values: Mapping[str, Any], place: str) -> None:
    """Refuse values of other types than the fields of the dataclass ``kind``, and numbers that are not finite."""
    for item in fields(kind):
        if item.name in values and not _fits(values[item.name], str(item.type)):
            finite = ", and finite" if "float" in str(item.type) else ""
            raise ValueError(f"{place}{item.name}={values[item.name]!r} must be of type {item.type}{finite}.")


def _fits(value: Any, expected: str) -> bool:
    """Whether a value is of a type, as annotations write it: ``"dict[str, list[float]]"``, ``"int | None"``."""
    if expected.endswith(" | None"):
        return value is None or _fits(value, expected.removesuffix(" | None"))
    if expected.startswith("list["):
        return isinstance(value, list) and all(_fits(part, expected[5:-1]) for part in value)
    if expected.startswith("dict[str, "):
        return isinstance(value, Mapping) and all(_fits(part, expected[10:-1]) for part in value.values())
    if expected == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    kinds: dict[str, type] = {"int": int, "bool": bool, "str": str}
    return isinstance(value, kinds.get(expected, object)) and (expected != "int" or not isinstance(value, bool))


def check_sources(sources: Mapping[str, Mapping[str, Any]], place: str) -> None:
    """Refuse sources of speech that do not say where it lies."""
    for name, source in sources.items():
        if not isinstance(source.get("source"), str):
            raise ValueError(f'{place}.{name} needs a source: a manifest, a folder, or "builtin"; got {dict(source)}.')


def _is_stretch(shares: list[float]) -> bool:
    return not shares or (len(shares) == 2 and 0 <= shares[0] <= shares[1] <= 1)


def _value(recipe: Recipe, name: str) -> Any:
    return recipe.flat().get(name, getattr(getattr(recipe, name.split(".")[0]), name.split(".")[1], None))


def _flat(values: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{place}{name}.") if isinstance(value, Mapping) else {f"{place}{name}": value}
    return flat
