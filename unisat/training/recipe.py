"""The settings of a pretraining run, which a TOML file holds.

`read` reads a `Recipe` and checks every key. Each checkpoint keeps the recipe, so that a run can only go on with the
settings it began with.
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
    """Which speech the model hears, and how it is cut into batches.

    Attributes
    ----------
    train, valid : dict
        The sources of speech by name. Each is a table with a ``source`` (a CSV or Parquet table, a list of another tool
        that `unisat.corpus.manifest` reads, a folder, or ``"builtin"``) and conditions,
        ``{source = "speech/metadata.csv", split = "train"}``. They are the arguments of
        `unisat.training.data.manifest`.
    weights : dict
        The share of each training source in what is heard, up to a common factor. Either all sources have a weight
        or none has. Without weights everything is heard once in each epoch.
    speaker_power : float
        This counts only with weights. Each speaker of a source is heard in proportion to this power of the seconds
        that the source has of them. With 1 all utterances are heard alike, with 0 all speakers.
    crop_seconds, min_seconds : float
        Utterances longer than ``crop_seconds`` are cut to a random crop of that length. Utterances shorter than
        ``min_seconds`` are left out.
    batch_seconds : float
        The audio in a batch of one process, with its padding.
    grid_seconds : float
        If this is above 0, all crops of a batch have the same length, a multiple of it, and nothing is padded.
    on_device : bool
        Whether everything is decoded once and kept, in 16 bits, on the device that trains.
    do_normalize : bool
        Whether each crop is brought to mean 0 and variance 1.
    cache_mb : int
        The memory for decoded sound files. A corpus that fits into it is decoded once.
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
    """How targets are made: by clustering MFCC (first iteration) or a hidden layer of a trained model (second).

    Attributes
    ----------
    features : {"mfcc", "hidden"}
        What is clustered.
    model : str, optional
        The folder of the model whose hidden states are clustered.
    layer : int, optional
        The layer of that model, counted from 1.
    clusters : int
        The number of clusters. The model gets as many label embeddings.
    sample_seconds : float
        How much audio k-means is fitted on.
    mean_off : {"no", "utterance", "speaker"}
        Whether the mean is taken off the features before they are clustered: the mean over each utterance, or over
        everything that a speaker says. What is left knows more about the sound and less about the voice. HuBERT takes
        no mean off.
    variance_one : bool
        Whether the features are then brought to variance 1 too.
    method : {"minibatch", "lloyd"}
        Whether k-means takes small batches on the CPU, as fairseq does, or all of the sample at once on the device of
        the model.
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
    """AdamW on all weights. The learning rate rises linearly, then falls linearly to 0.

    The values are HuBERT's, which has a ``clip_norm`` of 10 for Base and of 1 for Large.
    """

    learning_rate: float = 5e-4
    steps: int = 400_000
    warmup_steps: int = 32_000
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    eps: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float = 10.0


@dataclass
class Gumbel:
    """The temperature of the quantizer's draws.

    Each step multiplies it by the same factor. It falls from ``start`` to ``end`` in 70 % of the steps and stays there.
    """

    start: float = 2.0
    end: float = 0.5


@dataclass
class Schedule:
    """When terms of the loss come and go.

    Each field is a pair, begin and end, as shares of the run's steps.

    Attributes
    ----------
    unmasked_fade : list of float
        The unmasked term falls linearly to 0 between the two. If the list is empty, the term stays.
    contrastive_ramp : list of float
        The contrastive and the diversity term rise linearly from 0 between the two. If the list is empty, they are
        there from the beginning.
    """

    unmasked_fade: list[float] = field(default_factory=list)
    contrastive_ramp: list[float] = field(default_factory=list)


@dataclass
class Run:
    """The precision of the run, its accumulation, and after how many steps it logs, validates and saves.

    The run stops after ``max_bad_steps`` steps in a row without a finite gradient. ``compile`` gives the transformer's
    layers to ``torch.compile``. This takes half a minute and makes steps faster on a GPU.
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
    """Everything that a pretraining run depends on; each part has a class of its own.

    ``model`` holds fields of `UniSpeechSatConfig`. ``init`` is the folder of a model of an earlier iteration. The run
    begins with its weights, except those that predict clusters, which are drawn anew if the labels are others.
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


def read(path: str | Path, changes: Mapping[str, Any] | None = None, kind: type = Recipe) -> Any:
    """Read a recipe; ``changes`` are dotted names with new values, ``{"optimizer.steps": 100}``.

    ``kind`` is the class of the recipe, `Recipe` or `unisat.training.heads.HeadRecipe`.

    A recipe may begin with ``base = "other.toml"``. It then says only where it differs from that file, which lies
    beside it.

    Raises
    ------
    ValueError
        If the file is not TOML, or has a key that recipes do not have.
    """
    return _build(kind, apply(_file(Path(path)), changes or {}), "")


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
    """Find where two recipes differ; give both values by dotted name."""
    before, after = old.flat(), new.flat()
    names = sorted({*before, *after})
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _build(kind: type, values: Any, place: str) -> Any:
    parts: dict[str, type] = {"data": Data, "targets": Targets, "optimizer": Optimizer, "gumbel": Gumbel}
    parts |= {"augment": Augment, "schedule": Schedule, "run": Run}
    known = {item.name: item for item in fields(kind)}
    if not isinstance(values, Mapping):
        raise ValueError(f"{place.rstrip('.')}={values!r} must be a table with some of {', '.join(known)}.")
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"a recipe has no key {place}{unknown[0]}{nearest(unknown[0], list(known))}.")
    if "out" in known and "out" not in values:
        raise ValueError("a recipe needs the key out: the folder that the run writes to.")
    if "model" in known and known["model"].type == "str" and "model" not in values:
        raise ValueError("a recipe needs the key model: the folder of the pretrained model.")
    if not place:
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
