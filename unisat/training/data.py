"""Batches for pretraining: manifests, crops on frame boundaries with their labels, length buckets that mix speakers.

All that is drawn is a function of the seed and of a place (epoch, step, process), so any batch can be made without the
earlier ones.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unisat import audio, corpus, manifests
from unisat.config import UniSpeechSatConfig
from unisat.corpus import PIECE, Corpus, span
from unisat.files import places
from unisat.frames import SAMPLE_RATE, conv_length, valid_positions
from unisat.training.targets import MOST_UNREADABLE, Targets, too_many

LABELS = {"id", "speaker", "session", "text", "sentence", "sex", "accent"}
"""Columns of a table that are always read as strings."""

BLOCK = 2**16
"""Rows of a table that are objects of Python at a time."""

MARKED = 10_000
"""Files of a source whose content a run remembers when it begins; to look at so many takes about a second."""


def manifest(
    source: str | Path,
    *,
    without: Sequence[str | Path] = (),
    within: Sequence[str | Path] = (),
    where: Mapping[str, Any] | None = None,
    **columns: Any,
) -> Corpus:
    """Open speech for training, without reading any sound.

    Parameters
    ----------
    source
        ``"builtin"``; a folder (see `unisat.corpus.folder`); a list of Kaldi, lhotse, NeMo or Common Voice (see
        `unisat.corpus.manifest`); or a table, CSV or Parquet, with a column ``path`` (relative to the table's folder)
        and, if known, ``id``, ``speaker``, ``seconds`` and others.
    without, within
        Tables (CSV) with a column ``speaker``: the speakers in them are left out, or no others are kept.
    where
        Values of columns, for those whose name means something else here: ``where={"source": "VCTK"}``.
    columns
        Values of columns, ``split="train"``: only such rows are kept.

    Raises
    ------
    ValueError
        If the table has no ``path``, no row fits, or more than 5 % of the files cannot be read. Fewer unreadable files
        are left out with a warning and listed in the corpus's ``report``.
    """
    columns = {**(where or {}), **columns}
    lists = [(file, True) for file in within] + [(file, False) for file in without]

    def kept(found: Corpus) -> Corpus:
        found = found.where(**columns) if columns else found
        for file, wanted in lists:
            found = _spoken_by(found, Path(file), wanted)
        return found

    if source == "builtin":
        return kept(corpus.builtin())
    file = Path(source)
    if not file.is_dir() and not manifests.is_list(file):
        return _table(file, kept)
    found = corpus.folder(file) if file.is_dir() else corpus.manifest(file)
    unreadable = dict(found.report.itertuples(index=False, name=None))
    too_many(unreadable, len(found) + len(unreadable))
    return kept(found)


def _spoken_by(found: Corpus, file: Path, wanted: bool) -> Corpus:
    """Keep what the speakers listed in a table say, or what all others say."""
    listed = corpus.read_table(file)
    if "speaker" not in listed:
        raise ValueError(f"{file} needs a column speaker: it lists whom to keep or leave out; it has {list(listed)}.")
    table = found.table[found.table["speaker"].isin(listed["speaker"]) == wanted]
    if table.empty:
        raise ValueError(f"no utterance is left: {'no' if wanted else 'every'} speaker is listed in {file}.")
    return Corpus(table, dict(found.report.itertuples(index=False, name=None)))


def _table(file: Path, kept: Callable[[Corpus], Corpus]) -> Corpus:
    if not file.exists():
        raise FileNotFoundError(f"there is no manifest {file}; expected a .csv or .parquet table, or a folder.")
    table = corpus.read_table(file, dict.fromkeys(LABELS, str))
    if "path" not in table or table.empty:
        raise ValueError(f"{file} needs a column path and at least a row; its columns are {list(table)}.")
    if table["path"].isna().any():
        rows = np.flatnonzero(table["path"].isna()).tolist()
        raise ValueError(f"{file} needs a path in each row; row(s) {rows[:10]}, counted from 0, have none.")
    # labels stay strings where a table holds numbers, since targets are found by their id
    for name in LABELS & set(table):
        table[name] = _mapped(table[name], lambda label: None if pd.isna(label) or label == "" else str(label))
    if "id" not in table or table["id"].isna().any():
        named = _mapped(table["path"], corpus.without_suffix)
        table["id"] = table["id"].where(table["id"].notna(), named) if "id" in table else named
    folder = os.path.abspath(file.parent)
    table["path"] = _mapped(table["path"], lambda path: os.path.normpath(os.path.join(folder, path)))
    if "seconds" in table:
        table["seconds"] = _numbers(table["seconds"], file)
    # files of rows that are not asked for need not exist
    table = kept(Corpus(table)).table
    unreadable = {}
    seconds = table["seconds"].to_numpy(float, copy=True)
    known = np.isfinite(seconds) & (seconds > 0)
    for path in _missing(table["path"][known]):
        unreadable[path] = f"{path} does not exist."
    for row in np.flatnonzero(~known):
        try:
            seconds[row] = audio.duration(table["path"].iloc[row], **span(table.iloc[row]))
        except (ValueError, OSError) as error:
            unreadable[table["path"].iloc[row]] = str(error)
    table["seconds"] = seconds
    too_many(unreadable, len(table))
    if unreadable:
        warnings.warn(f"{len(unreadable)} file(s) of {file} left out; see report.", UserWarning, stacklevel=3)
        table = table[~table["path"].isin(list(unreadable))]
    return Corpus(table, unreadable)


def _blocks(column: pd.Series) -> Iterator[pd.Series]:
    """Divide a column: its strings are smaller in pandas's arrays than as objects of Python, of which few exist so."""
    return (column.iloc[start : start + BLOCK] for start in range(0, len(column), BLOCK))


def _mapped(column: pd.Series, function: Callable[[Any], str | None]) -> pd.Series:
    """Give a column of strings, made of each value of a column."""
    text = object if column.isna().all() else pd.Series([""]).dtype  # a block without a label is still of strings
    parts = [pd.Series([*map(function, block.tolist())], dtype=text) for block in _blocks(column)]
    return pd.concat(parts, ignore_index=True).set_axis(column.index)


def _numbers(seconds: pd.Series, file: Path) -> pd.Series:
    """Read the column of seconds of a table; empty cells are NaN."""
    numbers = pd.to_numeric(seconds, errors="coerce")
    if (wrong := numbers.isna() & seconds.notna()).any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"{file} has {seconds[row]!r} in the column seconds (row {row}, counted from 0); write numbers such as "
            "3.25, or leave the column out to have the files measured."
        )
    return numbers.astype(float)


def _missing(paths: pd.Series) -> Iterator[str]:
    """Give the paths at which there is no file; a folder is listed once instead of asking for each of its files."""
    listed = "", set[str]()  # a folder of which the next block may hold more
    for block in _blocks(paths):
        folders: dict[str, list[str]] = {}
        for path in block.tolist():
            folders.setdefault(os.path.dirname(path), []).append(path)
        for folder, wanted in folders.items():
            if len(wanted) > 8 and folder != listed[0]:
                listed = folder, set()
                with suppress(OSError), os.scandir(folder) as entries:
                    listed = folder, {entry.name for entry in entries if not entry.is_symlink()}
            there = listed[1] if folder == listed[0] else ()
            yield from (path for path in wanted if os.path.basename(path) not in there and not os.path.exists(path))


def union(corpora: Mapping[str, Corpus]) -> Corpus:
    """Put several corpora into one; ids become ``name/id``, and speakers keep their names."""
    tables = [part.table.assign(id=f"{name}/" + part.table["id"].astype(str)) for name, part in corpora.items()]
    if not tables:
        raise ValueError("there is no speech: give at least one source.")
    shared = [name for name in tables[0] if all(name in table for table in tables)]
    shared += [name for name in PIECE if name not in shared and any(name in table for table in tables)]
    tables = [table.reindex(columns=shared) for table in tables]
    whole = pd.DataFrame({name: _joined([table[name] for table in tables]) for name in shared})
    whole["seconds"] = whole["seconds"].astype(float)
    unreadable = {path: why for part in corpora.values() for path, why in part.report.itertuples(index=False)}
    return Corpus(whole, unreadable)


def _joined(columns: list[pd.Series]) -> pd.Series:
    """Put columns after one another; strings stay strings, beside columns that are empty."""
    text = next((column.dtype for column in columns if isinstance(column.dtype, pd.StringDtype)), float)
    kinds = {text if column.dtype == float and column.isna().all() else column.dtype for column in columns}
    kind = kinds.pop() if len(kinds) == 1 else object
    return pd.concat([column.astype(kind) for column in columns], ignore_index=True)


def begun_with(targets: Targets, splits: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Say what a run is begun with: the labels, and of each source how many utterances, which ones, and their sound.

    Parameters
    ----------
    targets : Targets
        Their labels are read, whatever their description says.
    splits : dict
        By name (``"train"``), tables with ``id``, ``speaker``, ``seconds`` and ``path``.

    Returns
    -------
    dict
        Numbers, and hashes of 16 digits, by names like ``"data.train.voices.sizes"``. ``sound`` is of what is in three
        places of each file, of at most `MARKED` files of a source, and of the pieces of files.
    """

    def short(lines: Iterable[str]) -> str:
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def size(path: str) -> str:
        try:
            return str(os.path.getsize(path))
        except OSError:
            return "gone"

    def sound(path: str) -> str:
        try:
            return hashlib.sha256(b"".join(places(path))).hexdigest()
        except OSError:
            return "gone"

    def of_all(ask: Callable[[str], str], paths: list[str]) -> list[str]:
        parts = (paths[start : start + 100] for start in range(0, len(paths), 100))
        with ThreadPoolExecutor(8) as pool:  # network drives answer slowly
            return list(chain.from_iterable(pool.map(lambda part: [*map(ask, part)], parts)))

    found: dict[str, Any] = {"labels": targets.hash_labels()[:16]}
    for split, table in splits.items():
        for source, part in table.groupby(table["id"].str.split("/").str[0], sort=False):
            name = f"data.{split}.{str(source).removeprefix('valid-')}"
            rows = (f"{row.id}\t{row.speaker}\t{row.seconds:.6f}" for row in part.itertuples())
            files = part["path"].unique().tolist()
            sizes, sounds = of_all(size, part["path"].tolist()), of_all(sound, files[:: -(-len(files) // MARKED)])
            pieces = part.reindex(columns=PIECE).astype(float).fillna({"start": 0.0}).to_numpy().tolist()
            found |= {f"{name}.utterances": len(part), f"{name}.ids": short(rows), f"{name}.sizes": short(sizes)}
            found[f"{name}.sound"] = short([*sounds, *map(str, pieces)])
    return found


def read_crop(path: str | Path, start: int, samples: int) -> Float[Tensor, " samples"]:
    """Read ``samples`` samples from ``start`` on, counted at 16 kHz; of a mono file at that rate only this part.

    It is the part that `unisat.audio.load` would give. Opus and MP3 are decoded from their beginning up to the part:
    after a jump their decoders need some time, and samples would differ from those of a cached file.
    """
    with audio.opened(path) as (sounds, _):
        file = sounds[0]
        if len(sounds) == 1 and file.samplerate == SAMPLE_RATE and file.channels == 1:
            if start >= file.frames:
                raise ValueError(f"{path} has {file.frames} samples and none from {start} on: its manifest says more.")
            part = file.part(start, start + samples)[:, 0]
            if not np.isfinite(part).all():
                raise ValueError(f"{path} has NaN or infinite samples between {start} and {start + samples}.")
            return torch.from_numpy(np.ascontiguousarray(part))
    return audio.load(path)[start : start + samples]


class SoundCache:
    """Keeps decoded sound files and forgets the least recently used first; it is thread-safe.

    Parameters
    ----------
    megabytes : int
        Memory for samples (4 bytes each). With 0 nothing is kept, and only the crop is read from a file.
    """

    def __init__(self, megabytes: int) -> None:
        self.limit, self.size = megabytes * 2**20, 0
        self.waveforms: OrderedDict[str, Tensor] = OrderedDict()
        self.lock = threading.Lock()

    def crop(self, path: str, start: int, samples: int) -> Float[Tensor, " samples"]:
        """Give a part of a file."""
        if not self.limit:
            return read_crop(path, start, samples)
        with self.lock:
            waveform = self.waveforms.get(path)
            if waveform is not None:
                self.waveforms.move_to_end(path)
        if waveform is None:
            waveform = audio.load(path)
            with self.lock:
                if path not in self.waveforms:
                    self.waveforms[path] = waveform
                    self.size += 4 * len(waveform)
                while self.size > self.limit and self.waveforms:
                    _, forgotten = self.waveforms.popitem(last=False)
                    self.size -= 4 * len(forgotten)
        return waveform[start : start + samples].clone()


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """What a step of pretraining reads.

    Attributes
    ----------
    input_values, attention_mask : (batch, samples)
        Crops, each normalised by itself and followed by zeros; 1 on samples, 0 on padding. No mask means no padding.
    targets : (batch, frames)
        The cluster of each frame, -100 on padding.
    starts : (batch,)
        First sample of each crop in its file.
    ids, speakers
        The utterance and the speaker of each crop.
    """

    input_values: Float[Tensor, "batch samples"]
    attention_mask: Int[Tensor, "batch samples"] | None
    targets: Int[Tensor, "batch frames"]
    starts: Int[Tensor, " batch"]
    ids: tuple[str, ...]
    speakers: tuple[str | None, ...]

    def to(self, device: torch.device | str) -> TrainingBatch:
        """Move the tensors."""
        mask = self.attention_mask
        return replace(
            self,
            input_values=self.input_values.to(device),
            attention_mask=None if mask is None else mask.to(device),
            targets=self.targets.to(device),
            starts=self.starts.to(device),
        )

    @property
    def seconds(self) -> float:
        """Audio in the batch, padding not counted."""
        samples = self.input_values.numel() if self.attention_mask is None else int(self.attention_mask.sum())
        return samples / SAMPLE_RATE

    def __len__(self) -> int:
        return len(self.ids)


def plan(
    seconds: np.ndarray,
    speakers: Sequence[Any] | np.ndarray,
    *,
    crop_seconds: float,
    batch_seconds: float,
    draw: np.random.Generator,
    grid_seconds: float = 0.0,
) -> list[list[int]]:
    """Deal utterances into batches of like lengths and unlike speakers, in random order.

    Utterances are sorted by their length after cropping (ties in random order) and cut into buckets of eight batches.
    Inside a bucket the speakers take turns. So two utterances of one speaker, which the contrastive loss would push
    apart, are in one batch only where the bucket holds more utterances of that speaker than batches.

    With ``grid_seconds`` all crops of a batch have the same length (see `cropped`). Batches of one length have the same
    size, except where there is only one batch. Utterances that fill no batch are left out of this epoch.

    Returns
    -------
    list of lists of int
        Rows; at least two in a batch, ``rows × the longest ≤ batch_seconds``.
    """
    lengths = cropped(seconds, crop_seconds, grid_seconds)
    batches: list[list[int]] = []
    if grid_seconds:
        for length in np.unique(lengths):
            rows = draw.permutation(np.flatnonzero(lengths == length))
            size = max(2, int(batch_seconds / length + 1e-9))
            for start in range(0, len(rows), 8 * size):
                bucket = rows[start : start + 8 * size].tolist()
                if start == 0 or len(bucket) >= size:
                    batches += _deal(bucket, speakers, size, draw, whole=True)
        return [batches[place] for place in draw.permutation(len(batches))]
    order = np.lexsort((draw.random(len(lengths)), lengths))
    # how many utterances of each length fit into a batch; the longest of a bucket decides for all of it
    sizes = np.maximum(2, (batch_seconds / lengths[order] + 1e-9).astype(int))
    start = 0
    while start < len(order):
        window = sizes[start : start + 8 * sizes[start]]
        fits = np.arange(1, len(window) + 1) <= 8 * window  # True up to the end of the bucket
        end = start + max(1, int(fits.sum()))
        batches += _deal(order[start:end].tolist(), speakers, int(sizes[end - 1]), draw)
        start = end
    shuffled = draw.permutation(len(batches))
    return [batches[place] for place in shuffled]


def cropped(seconds: np.ndarray, crop_seconds: float, grid_seconds: float = 0.0) -> np.ndarray:
    """Give the lengths of utterances after cropping; with a grid, the largest multiple of it that fits."""
    lengths = np.minimum(seconds, crop_seconds)
    return np.floor(lengths / grid_seconds + 1e-6) * grid_seconds if grid_seconds else lengths


def _deal(
    bucket: list[int],
    speakers: Sequence[Any] | np.ndarray,
    size: int,
    draw: np.random.Generator,
    *,
    whole: bool = False,
) -> list[list[int]]:
    """Spread a bucket over batches of at most ``size``, each speaker's utterances over as many batches as possible.

    With ``whole``, utterances that do not fill a batch are left out, if the bucket has another batch.
    """
    if len(bucket) < 2:
        return []
    count = max(1, len(bucket) // size) if whole else min(-(-len(bucket) // size), len(bucket) // 2)
    by_speaker: dict[Any, list[int]] = {}
    mixed = [bucket[place] for place in draw.permutation(len(bucket))]
    # utterances are left out at random, so that no speaker is left out more often than others
    for row in mixed[: count * size] if whole else mixed:
        by_speaker.setdefault(speakers[row], []).append(row)
    # one speaker after the other, dealt around like cards
    cards = [row for group in by_speaker.values() for row in group][: count * size]
    return [cards[place::count] for place in range(count)]


class TrainingData:
    """Batches of crops with targets, each a function of its number: ``data[step]``.

    Parameters
    ----------
    corpus : Corpus
        What to train on; utterances shorter than ``min_seconds`` are left out.
    targets : Targets, or a mapping from id to labels
        Labels for every frame of every utterance.
    config : UniSpeechSatConfig
        The configuration, which says what a frame is.
    seed : int
        Seed of batches and crops.
    processes, rank : int
        How many processes share the data, and which of them this is; each takes batches of its own.
    weights, speaker_power, grid_seconds
        See `unisat.training.recipe.Data`. The source of an utterance is the part of its id before the first ``/``.
    """

    def __init__(
        self,
        corpus: Corpus,
        targets: Targets | Mapping[str, Tensor],
        config: UniSpeechSatConfig,
        *,
        crop_seconds: float,
        batch_seconds: float,
        min_seconds: float = 0.0,
        do_normalize: bool = True,
        cache_mb: int = 0,
        seed: int = 0,
        processes: int = 1,
        rank: int = 0,
        weights: Mapping[str, float] | None = None,
        speaker_power: float = 1.0,
        grid_seconds: float = 0.0,
    ) -> None:
        self.hop, self.receptive_field = config.inputs_to_logits_ratio, config.receptive_field
        finite = math.isfinite(crop_seconds) and math.isfinite(batch_seconds)
        # 2.01 * 16000 is a little less than 32160
        crop = round(crop_seconds * SAMPLE_RATE) // self.hop * self.hop if finite else 0
        if crop < self.receptive_field or batch_seconds < 2 * crop_seconds:
            raise ValueError(
                f"crop_seconds={crop_seconds} must hold a frame and batch_seconds={batch_seconds} two crops: the "
                "contrastive loss compares utterances."
            )
        shortest = max(min_seconds, self.receptive_field / SAMPLE_RATE)
        table, self.left_out = _usable(corpus, targets, shortest, 2 * processes)
        _warn_of_one_voice(table["speaker"])
        # an utterance without a speaker counts as a speaker of its own
        who, names = pd.factorize(table["speaker"])
        several = [*map(str, names), None]
        self.speakers = [several[number] for number in who]
        self.turns = np.where(who < 0, len(names) + np.arange(len(who)), who)
        self.table, self.targets, self.crop = table, targets, crop
        self.crop_seconds, self.batch_seconds, self.do_normalize = crop / SAMPLE_RATE, batch_seconds, do_normalize
        self.seconds, self.grid_seconds = table["seconds"].to_numpy(float), grid_seconds
        lengths = cropped(self.seconds, self.crop_seconds, grid_seconds) if grid_seconds else self.crop_seconds
        self.crops = np.broadcast_to(np.rint(lengths * SAMPLE_RATE).astype(int) // self.hop * self.hop, len(table))
        self.copies = None if not weights else self._copies(weights, speaker_power)
        self.seed, self.processes, self.rank = seed, processes, rank
        self.cache = SoundCache(cache_mb)
        self.unreadable: dict[str, str] = {}
        self._plans: OrderedDict[int, list[np.ndarray]] = OrderedDict()
        self._workers: list[tuple[threading.Event, threading.Thread]] = []
        # this number is the same in every epoch, since it depends on the lengths alone
        self.batches_per_epoch = len(self._plan(0)) // processes
        if not self.batches_per_epoch:
            raise ValueError(
                f"{len(table)} utterances make {len(self._plan(0))} batch(es) of batch_seconds={batch_seconds}, too "
                f"few for {processes} processes; choose smaller batches or fewer processes."
            )

    def _copies(self, weights: Mapping[str, float], speaker_power: float) -> np.ndarray:
        """Say how often each utterance is heard in an epoch, which lasts as long as all utterances together."""
        source = self.table["id"].str.split("/").str[0]
        if unknown := sorted({*source} - {*weights}):
            raise ValueError(f"there is no weight for the source(s) {unknown}; weights are {dict(weights)}.")
        spoken = pd.Series(self.seconds).groupby(self.turns).transform("sum")
        wish = self.seconds * spoken ** (speaker_power - 1)
        wish *= source.map(weights).astype(float) / wish.groupby(source).transform("sum")
        lengths = cropped(self.seconds, self.crop_seconds, self.grid_seconds)
        return (wish / wish.sum() * self.seconds.sum() / lengths).to_numpy()

    def _heard(self, draw: np.random.Generator) -> np.ndarray:
        """Draw the rows of an epoch: the expected number of each is rounded up or down by chance."""
        if self.copies is None:
            return np.arange(len(self.table))
        # one after the other along their length, so that epochs hold about the same lengths
        order = np.lexsort((draw.random(len(self.copies)), self.seconds))
        total = np.concatenate([[0.0], np.cumsum(self.copies[order])])
        return np.repeat(order, np.diff(np.floor(total + draw.random())).astype(int))

    def _plan(self, epoch: int) -> list[np.ndarray]:
        if epoch not in self._plans:
            draw = np.random.default_rng([self.seed, 0, epoch])
            heard = self._heard(draw)
            batches = plan(
                self.seconds[heard],
                self.turns[heard],
                crop_seconds=self.crop_seconds,
                batch_seconds=self.batch_seconds,
                draw=draw,
                grid_seconds=self.grid_seconds,
            )
            self._plans[epoch] = [heard[places].astype(np.int32) for places in batches]
            while len(self._plans) > 2:
                self._plans.popitem(last=False)
        return self._plans[epoch]

    def rows(self, step: int) -> list[int]:
        """Say which utterances this process takes at a step, where steps count from 0 through all epochs."""
        epoch, place = divmod(step, self.batches_per_epoch)
        batches = self._plan(epoch)
        # with weights an epoch may have some batches more or less than the first
        return batches[(place * self.processes + self.rank) % len(batches)].tolist()

    def __getitem__(self, step: int) -> TrainingBatch:
        """Read the batch of a step; files that cannot be read are left out and listed in ``unreadable``.

        Where fewer than two utterances are left, which the contrastive loss cannot compare, utterances of the next step
        join them.
        """
        draw = np.random.default_rng([self.seed, 1, step, self.rank])
        parts: list[tuple[int, int, Tensor, Tensor]] = []
        own = self.rows(step)
        spare = (row for row in self.rows(step + 1) if row not in own)
        for place, row in enumerate(chain(own, spare)):
            if place >= len(own) and len(parts) >= 2:
                break
            entry = self.table.iloc[row]
            first_draw = draw.random()  # also for an unreadable file, so that the crops of the others do not change
            try:
                parts.append((row, *self._crop(entry, first_draw, int(self.crops[row]))))
            except (OSError, ValueError) as error:
                if isinstance(error, MisalignedTargetsError):
                    raise
                self.unreadable[str(entry["path"])] = str(error)
                warnings.warn(f"left out: {entry['path']}: {error}", UserWarning, stacklevel=2)
                if len(self.unreadable) > MOST_UNREADABLE * len(self.table):
                    too_many(self.unreadable, len(self.table))
        if len(parts) < 2:
            raise ValueError(
                f"{len(parts)} file(s) of step {step} could be read, two are needed: "
                f"{list(self.unreadable.values())[-1]}"
            )
        rows, starts, crops, labels = zip(*parts, strict=True)
        waves = [audio.normalize(wave) if self.do_normalize else wave for wave in crops]
        lengths = torch.tensor([len(wave) for wave in waves])
        return TrainingBatch(
            input_values=pad_sequence(waves, batch_first=True),
            attention_mask=valid_positions(lengths, int(lengths.max())).long(),
            targets=pad_sequence(list(labels), batch_first=True, padding_value=-100),
            starts=torch.tensor(starts),
            ids=tuple(self.table["id"].iloc[list(rows)]),
            speakers=tuple(self.speakers[row] for row in rows),
        )

    def _crop(self, entry: pd.Series, share: float, crop: int) -> tuple[int, Tensor, Tensor]:
        """Read a crop that begins on a frame: its first sample, waveform and labels."""
        labels = self.targets[entry["id"]]
        samples = round(float(entry["seconds"]) * SAMPLE_RATE)
        start = int(share * (max(0, samples - crop) // self.hop + 1)) * self.hop
        piece = span(entry)
        if piece["end"] is not None:
            crop = min(crop, samples - start)
        wave = self.cache.crop(str(entry["path"]), start + round(piece["start"] * SAMPLE_RATE), crop)
        if len(wave) < self.receptive_field:
            raise ValueError(f"{entry['path']} is shorter than its manifest says: {samples} samples.")
        frames, whole = (conv_length(size, self.receptive_field, self.hop) for size in (len(wave), samples))
        if abs(len(labels) - whole) > 1:
            raise MisalignedTargetsError(
                f"utterance {entry['id']!r} has {len(labels)} labels for {whole} frames, more than one apart: the "
                "labels were made for other audio or another frame rate; make them anew."
            )
        first = start // self.hop
        part = labels[first : first + frames].long()
        return start, wave, torch.nn.functional.pad(part, (0, frames - len(part)), value=-100)

    def iterate(self, step: int = 0, *, ahead: int = 2) -> Iterator[TrainingBatch]:
        """Give the batches from a step on, without end; a thread of their own reads them ahead."""
        queue: Queue[Any] = Queue(maxsize=ahead)
        stop = threading.Event()

        def put(item: Any) -> bool:
            while not stop.is_set():
                try:
                    queue.put(item, timeout=0.1)
                except Full:
                    continue
                return True
            return False

        def work() -> None:
            place = step
            try:
                while put(self[place]):
                    place += 1
            except BaseException as error:  # any error is passed on to whoever reads the batches
                put(error)

        worker = threading.Thread(target=work, daemon=True)
        self._workers.append((stop, worker))
        worker.start()
        try:
            while not stop.is_set():
                try:
                    item = queue.get(timeout=0.1)
                except Empty:
                    continue
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()

    def close(self) -> None:
        """Stop reading ahead."""
        for stop, worker in self._workers:
            stop.set()
            worker.join()
        self._workers.clear()


def _usable(
    corpus: Corpus, targets: Targets | Mapping[str, Tensor], shortest: float, needed: int
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The utterances that are long enough and have targets, and how many are left out for which reason."""
    ids = corpus.table["id"]
    if wrong := [] if isinstance(ids.dtype, pd.StringDtype) else [name for name in ids if not isinstance(name, str)]:
        raise ValueError(
            f"{len(wrong)} id(s) are no text, {wrong[:3]} among them; targets are found by the text of an id."
        )
    seconds = corpus.table["seconds"].astype(float)
    if wrong := corpus.table["id"][~np.isfinite(seconds)].tolist():
        raise ValueError(
            f"{len(wrong)} utterance(s) have no finite seconds, {wrong[:3]} among them; correct the table."
        )
    long_enough = seconds >= shortest
    known = targets.index.index if isinstance(targets, Targets) else pd.Index(list(targets))
    has_targets = np.concatenate([known.get_indexer(block) >= 0 for block in _blocks(ids)])
    left_out = {"too short": int((~long_enough).sum()), "no targets": int((long_enough & ~has_targets).sum())}
    kept = long_enough & has_targets
    table = corpus.table if kept.all() else corpus.table[kept].reset_index(drop=True)
    if len(table) < needed:
        raise ValueError(
            f"{len(table)} of {len(corpus)} utterances last {shortest:g} s and have targets; {needed} are needed, two "
            "for each process."
        )
    return table, left_out


def _warn_of_one_voice(speakers: pd.Series) -> None:
    names = speakers.dropna().unique()
    if len(names) == 1:
        warnings.warn(
            f"all utterances are of one speaker, {names[0]}: the contrastive loss will tell recordings apart, not "
            "voices.",
            stacklevel=3,
        )


class MisalignedTargetsError(ValueError):
    """Raised for labels that do not belong to their audio, with which no run can go on."""
