"""`collect` runs a model over a corpus and keeps of every utterance only what is asked for, in a `FeatureBank`.

Utterances of like length share a padded batch, which does not change their numbers. Reducers run inside the hooks, so
that memory does not grow with the corpus.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor, nn
from tqdm.auto import tqdm

from unisat.config import UniSpeechSatConfig
from unisat.corpus import Batch, Corpus
from unisat.deprecation import renamed
from unisat.files import alone
from unisat.frames import SAMPLE_RATE, hop, receptive_field, stack_length
from unisat.interpret.activations.capture import capture, parse_bytes
from unisat.interpret.activations.reduce import PerUtterance, Reducer, describe, per_utterance
from unisat.interpret.activations.sites import Selector, Site, find_backbone, itemsize, select, site_list
from unisat.interpret.features.acoustic import ACOUSTIC, acoustic
from unisat.interpret.features.bank import LENGTHS, FeatureBank
from unisat.interpret.features.batching import PaddedBatch, ReadAhead, Speech, batches, default_seconds
from unisat.interpret.features.code import code_digest
from unisat.interpret.features.segmented import Pool, Pooling
from unisat.interpret.features.store import Store, processes
from unisat.masking import time_mask
from unisat.model import UniSpeechSatModel
from unisat.modules import evaluating, fingerprint, unwrap
from unisat.segments import Segments

__getattr__ = renamed(__name__, {"fresh": "unisat.interpret.features.collect.untrained_twin"})

FRAMES = ("valid", "masked", "visible")
BASELINES = ("untrained", *ACOUSTIC)
"""What `collect` can measure besides the model: the same architecture with fresh weights, and the sound itself."""


def collect(
    model: nn.Module,
    corpus: Corpus | Batch,
    sites: Selector | Sequence[Selector] = "hidden.*",
    *,
    reduce: str | PerUtterance | Reducer = "mean+std",
    frames: str = "valid",
    baselines: Iterable[str] = (),
    untrained_seeds: int = 3,
    batch_seconds: float | None = None,
    max_seconds: float | None = None,
    segments: Segments | None = None,
    pool: Pool = "mean",
    do_normalize: bool = True,
    folder: str | Path | None = None,
    budget: int | str = "2GB",
    seed: int = 0,
    progress: bool = True,
) -> FeatureBank:
    """Run a model over a corpus and keep a summary of each utterance at some sites.

    Parameters
    ----------
    model : UniSpeechSatModel or a model that holds one
        The model, which is in evaluation mode while this function runs.
    corpus : Corpus or Batch
        The speech. Files of a corpus are read when their batch comes.
    sites : selector or list of selectors
        Which sites, as in `unisat.capture`.
    reduce : str, callable or Reducer
        What to keep of each utterance: ``"mean+std"``, ``"mean"``, ``"norms"``, ``"counts"`` (of ``quant.codes``);
        ``"frames"`` for every frame; a function of ``(values, valid)`` that gives (batch, ...); or a corpus-wide
        reducer (`unisat.interpret.activations.reduce`), whose value ``bank.statistics(site)`` gives.
    frames : {"valid", "masked", "visible"}
        Which frames count. With ``"masked"`` and ``"visible"`` frames of each utterance are hidden as in pretraining
        (``mask_time_prob`` and the like of the config), the same frames for the same ``seed`` and id.
    baselines : iterable of {"untrained", "logmel", "mfcc", "loudness"}
        What to measure besides, from the same sound: the architecture with fresh weights (``untrained_seeds`` times,
        at sites such as ``untrained.0.hidden.3``), and acoustic statistics: of an utterance mean and standard
        deviation of log-mel bands and MFCC, of a segment what ``pool`` makes of their frames. A curve over layers says
        little without them.
    batch_seconds : float, optional
        Most seconds of audio in one batch, padding included. The default is 10 on a CPU, whose caches do not hold
        larger batches, and 80 elsewhere.
    max_seconds : float, optional
        The model hears only the beginning of longer utterances: their length may give a speaker away.
    segments : Segments, optional
        Words or phones. The bank then has a row for each of them instead of each utterance, with ``label``,
        ``previous``, ``next``, ``utterance``, ``duration`` and the columns of the corpus; ``reduce`` is not used.
        Segments of other utterances are left out.
    pool : {"mean", "centre"}
        Keep the mean of a segment's frames, or the frame at its centre.
    do_normalize : bool
        Whether to bring each waveform to zero mean and unit variance, as the model was trained.
    folder : path, optional
        Where to write parts as they are finished. After an interruption the same call goes on where it stopped. It
        takes up corrected labels and repaired files, and refuses other settings, sound or code of ``reduce``. It is
        needed where several processes (``torchrun``, ``accelerate launch``) share the work; each gets the whole bank.
    budget : int or str
        Most bytes that the bank may have.
    seed : int
        Seed of masks and untrained weights.

    Returns
    -------
    FeatureBank
        The bank, in the order of the corpus. Utterances that cannot be read or are shorter than a frame are left out
        with a warning. ``bank.timing`` says how long it took, and which share of the time was outside the model.

    Raises
    ------
    ValueError
        If the reducer does not fit a site, nothing can be read, the bank would be larger than the budget, or the folder
        holds a bank with other settings.
    OSError
        If another call is at work in the folder.
    """
    inner = unwrap(model)
    backbone = find_backbone(inner)[1]
    config = backbone.config
    chosen = select(site_list(inner), [sites] if isinstance(sites, str | re.Pattern) else list(sites))
    kinds = _check_choices(frames, list(baselines), reduce, chosen, config)
    speech = Speech(corpus, max_seconds, do_normalize)
    table = speech.table
    if batch_seconds is None:
        batch_seconds = default_seconds(backbone.device)
    plan = batches(table["seconds"].to_numpy(float), batch_seconds)
    fresh = untrained_seeds if "untrained" in kinds else 0
    settings: dict[str, Any] = {"model": fingerprint(inner), "sites": [site.name for site in chosen]}
    settings |= {"reduce": describe(reduce), "frames": frames, "baselines": kinds, "untrained_seeds": fresh}
    if (code := code_digest(reduce)) is not None:
        settings["reduce_code"] = code
    if config.model_type != UniSpeechSatConfig.model_type:
        settings["family"] = config.model_type
    settings |= {"hop": hop(config.conv_stride)}
    settings |= {"receptive_field": receptive_field(config.conv_kernel, config.conv_stride)}
    settings |= {"batch_seconds": batch_seconds, "max_seconds": max_seconds, "do_normalize": do_normalize, "seed": seed}
    pooling = _pooling(segments, pool, chosen, table, settings, len(config.conv_dim))
    if pooling is not None:
        reduce, settings = "frames", settings | pooling.settings() | {"reduce": "segments"}
    elif reduce == "frames":
        _check_budget(chosen, table, config, parse_bytes(budget))
    rank, world = processes()
    twins = {f"untrained.{n}.": untrained_twin(backbone, seed + n) for n in range(fresh)}
    with evaluating(inner), nullcontext() if folder is None or rank else alone(Path(folder)):
        store = Store(None if folder is None else Path(folder), settings, table, reduce, rank, world, speech.mark)
        # batches are shared by number, not among those that are left: another process may have finished some already
        shared = [(number, store.left(plan[number])) for number in range(rank, len(plan), world)]
        mine = [(number, rows) for number, rows in shared if len(rows)]
        work = _Work({"": inner, **twins}, chosen, reduce, [name for name in kinds if name in ACOUSTIC], store, pooling)
        ahead = ReadAhead(speech, mine, backbone.device, least=settings["receptive_field"])
        _measure_all(work, ahead, progress=progress and rank == 0)
        bank = store.finish()
    bank.timing = ahead.timing()
    return bank if pooling is None else pooling.bank(bank)


def _check_choices(
    frames: str, baselines: list[str], reduce: Any, chosen: Sequence[Site], config: UniSpeechSatConfig
) -> list[str]:
    if frames not in FRAMES:
        raise ValueError(f"frames={frames!r} must be one of {', '.join(FRAMES)}.")
    if frames != "valid" and config.mask_time_prob <= 0:
        raise ValueError(f"frames={frames!r} hides frames, but this model's config has mask_time_prob=0.")
    if wrong := [name for name in baselines if name not in BASELINES]:
        raise ValueError(f"there is no baseline {wrong[0]!r}; there are {', '.join(BASELINES)}.")
    for site in chosen:  # what cannot be reduced is refused before anything runs
        if reduce == "frames" or isinstance(reduce, Reducer):
            per_utterance(lambda values, valid: values, site, config)
        else:
            per_utterance(reduce, site, config)
        if frames != "valid" and site.conv_layers != len(config.conv_dim):
            raise ValueError(f"{site.name} has no masked frames: masks lie on the frames behind the convolutions.")
    return [name for name in BASELINES if name in baselines]


def _pooling(
    segments: Segments | None,
    pool: Pool,
    chosen: Sequence[Site],
    table: pd.DataFrame,
    settings: Mapping[str, Any],
    convolutions: int,
) -> Pooling | None:
    """Match the segments, if there are any, with the utterances and the sites."""
    if segments is None:
        return None
    if settings["frames"] != "valid":
        raise ValueError(f"segments pool all frames of theirs; leave frames={settings['frames']!r} out.")
    found = Pooling.of(segments, pool, table, settings["hop"], settings["receptive_field"], settings["max_seconds"])
    for site in chosen:
        found.check(site, convolutions)
    return found


def _check_budget(chosen: Sequence[Site], table: pd.DataFrame, config: UniSpeechSatConfig, limit: int) -> None:
    samples = (table["seconds"].to_numpy(float) * SAMPLE_RATE).astype(int)
    sizes = {s.name: sum(s.numel(1, int(n), config) for n in samples) * itemsize(s, 4) for s in chosen}
    if sum(sizes.values()) > limit:
        largest = max(sizes, key=sizes.__getitem__)
        frames = sum(stack_length(int(n), config.conv_kernel, config.conv_stride) for n in samples)
        raise ValueError(
            f"every frame of this corpus ({frames:,} frames) would be {sum(sizes.values()) / 1e6:,.0f} MB, over the "
            f"budget of {limit / 1e6:,.0f} MB; the largest site is {largest!r} ({sizes[largest] / 1e6:,.0f} MB). "
            "Choose fewer sites or utterances, a reducer such as 'mean+std', or raise budget."
        )


def untrained_twin(backbone: UniSpeechSatModel, seed: int) -> UniSpeechSatModel:
    """Make a model of the same config with fresh weights, in evaluation mode: it shows what the architecture can do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = type(backbone)(backbone.config)
    return twin.to(device=backbone.device, dtype=backbone.dtype).eval()


@dataclass(frozen=True, eq=False)
class _Work:
    """What is measured of every utterance, and the store that takes it.

    Attributes
    ----------
    models : dict of str to Module
        The models by the prefix of their sites' names, which is empty for the model itself.
    acoustic : list of str
        Acoustic baselines.
    """

    models: Mapping[str, nn.Module]
    sites: Sequence[Site]
    reduce: str | PerUtterance | Reducer
    acoustic: Sequence[str]
    store: Store
    pooling: Pooling | None = None

    @property
    def config(self) -> UniSpeechSatConfig:
        return find_backbone(self.models[""])[1].config

    def ids(self, rows: Sequence[int]) -> list[str]:
        """Names of some utterances."""
        return self.store.table["id"].iloc[list(rows)].astype(str).tolist()


def _measure_all(work: _Work, ahead: ReadAhead, *, progress: bool) -> None:
    """Measure all batches and give them to the store."""
    total = sum(len(rows) for _, rows in ahead.todo)
    with tqdm(total=total, desc="collect", unit=" utterances", disable=not progress) as bar:
        for batch in ahead:
            for row, samples in batch.too_short.items():
                name = work.store.table["id"].iloc[row]
                said = f"left out: {name!r} has {samples} samples, a frame needs {ahead.least}."
                warnings.warn(said, UserWarning, stacklevel=3)
            if batch.rows:
                work.store.add(batch.number, batch.rows, _measure(work, batch, ahead))
            bar.update(len(batch.wanted))
        bar.set_postfix_str(f"{ahead.timing()['outside_share']:.1%} of the time outside the model")


def _measure(work: _Work, batch: PaddedBatch, ahead: ReadAhead) -> dict[str, np.ndarray]:
    """Measure one batch; give its arrays by name."""
    inputs, settings, names = {"attention_mask": batch.attention_mask}, work.store.settings, work.ids(batch.rows)
    counts = None if work.pooling is None else work.pooling.counts(names)
    counted: Tensor | None = None
    if settings["frames"] != "valid":
        mask = inputs["mask_time_indices"] = draw_masks(batch.lengths, names, work.config, settings["seed"])
        counted = mask if settings["frames"] == "masked" else ~mask
    arrays: dict[str, np.ndarray] = {}
    for prefix, model in work.models.items():
        here = [site for site in work.sites if not prefix or site.in_backbone]
        if not here:
            continue
        reducers = {site.name: _reducer(work, site, prefix + site.name, batch.rows, names, counted) for site in here}
        device = next(model.parameters()).device
        with capture(model, *reducers, reduce=reducers) as trace, torch.inference_mode(), ahead.working():
            there = {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
            model(batch.input_values.to(device, non_blocking=True), **there)
        for site in here if not isinstance(work.reduce, Reducer) else []:
            arrays[prefix + site.name] = _kept(trace[site.name], prefix + site.name, work, len(batch.rows))
            if work.reduce == "frames":
                valid = trace.valid(site.name)
                frames = (valid if counted is None else valid & counted).sum(1).numpy()
                arrays[prefix + site.name + LENGTHS] = frames if counts is None else counts
    for name in work.acoustic:
        waves = (batch.waveforms[row] for row in batch.rows)
        if work.pooling is None:
            arrays[name] = np.stack([acoustic(name, wave) for wave in waves])
        else:
            pairs = zip(waves, names, strict=True)
            arrays[name] = np.concatenate([work.pooling.acoustic(name, wave, one) for wave, one in pairs])
            arrays[name + LENGTHS] = work.pooling.counts(names)
    return arrays


def _kept(values: Tensor, name: str, work: _Work, utterances: int) -> np.ndarray:
    """Give what a reducer made of a batch, if it can be kept."""
    if values.dtype == torch.bfloat16:
        raise ValueError(
            f"reduce={describe(work.reduce)!r} gives bfloat16 at {name}, which NumPy does not know; collect with "
            "model.float(), or reduce to float32."
        )
    if work.reduce != "frames" and len(values) != utterances:
        raise ValueError(
            f"reduce={describe(work.reduce)!r} gives {tuple(values.shape)} at {name} for a batch of {utterances} "
            "utterances; expected a row for each of them."
        )
    return values.numpy()


def _reducer(
    work: _Work,
    site: Site,
    name: str,
    rows: Sequence[int],
    ids: Sequence[str],
    counted: Bool[Tensor, "batch frames"] | None,
) -> PerUtterance:
    """Make the function that the hook at a site calls with what it sees."""

    def counting(valid: Tensor) -> Tensor:
        return valid if counted is None else valid & counted.to(valid.device)

    def gather(values: Tensor, valid: Tensor) -> Tensor:
        reducer = work.store.reducer(name)
        extra = [torch.tensor(rows)] if getattr(reducer, "wants_rows", False) else []
        reducer.update(values, counting(valid), *extra)
        return valid[:0]

    if isinstance(work.reduce, Reducer):
        return gather
    if (pooling := work.pooling) is not None:
        return lambda values, valid: pooling.pool(values, valid, ids)
    if work.reduce == "frames":
        return lambda values, valid: values[counting(valid)]
    keep = per_utterance(work.reduce, site, work.config)
    return lambda values, valid: keep(values, counting(valid))


def draw_masks(
    lengths: Tensor, ids: Sequence[str], config: UniSpeechSatConfig, seed: int
) -> Bool[Tensor, "batch frames"]:
    """Draw masks as in pretraining, the same for the same id and seed in any batch."""
    frames = stack_length(lengths, config.conv_kernel, config.conv_stride)
    masks = torch.zeros(len(frames), int(frames.max()), dtype=torch.bool)
    for row, (length, name) in enumerate(zip(frames.tolist(), ids, strict=True)):
        number = int.from_bytes(hashlib.sha256(f"{seed}\t{name}".encode()).digest()[:6], "big")
        generator = torch.Generator().manual_seed(number)
        masks[row, :length] = time_mask(torch.tensor([length]), length, config, generator)[0]
    return masks
