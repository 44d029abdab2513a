"""Targets of masked prediction: clusters of MFCC, then of hidden states (HuBERT, arXiv:2106.07447).

Labels are on the model's own frames by construction: hidden states are frames already, and of MFCC, which come twice as
often, every second one is taken.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from unisat import audio
from unisat.acoustics import mfcc
from unisat.clusters import Clusters, entropy, fit, lloyd
from unisat.corpus import PIECE, Corpus
from unisat.files import reading, save_json, whole_file, whole_folder, writing
from unisat.frames import SAMPLE_RATE, conv_length, valid_positions
from unisat.model import UniSpeechSatModel
from unisat.modules import evaluating

MOST_UNREADABLE = 0.05
"""Share of files that may be unreadable before a run stops."""

MOST_CLUSTERS = 65_535
"""Highest number of clusters, since labels are stored in 16 bits."""

GROUP, BATCH_SECONDS = 512, 200.0
"""Files that are read together for a model on a GPU, and the seconds of audio that it gets in one batch."""


@runtime_checkable
class Features(Protocol):
    """A function from a waveform to one row of features for each frame of the model."""

    def __call__(self, waveform: Float[Tensor, " samples"]) -> Float[Tensor, "frames dim"]:
        """Give the features; (0, dim) for a waveform shorter than a frame."""

    def describe(self) -> dict[str, Any]:
        """Describe the features, to store this with the labels."""


class MfccFeatures:
    """`mfcc` at the model's frames: every second of the 100 rows a second."""

    def __init__(self, hop: int = 320, receptive_field: int = 400) -> None:
        if hop % 160 or receptive_field < 400:
            raise ValueError(
                f"a model with a frame every {hop} samples, each of {receptive_field}, does not fit MFCC, which come "
                "every 160 samples and see 400; cluster hidden states (features='hidden') instead."
            )
        self.hop, self.receptive_field = hop, receptive_field

    def __call__(self, waveform: Float[Tensor, " samples"]) -> Float[Tensor, "frames 39"]:
        """Give (frames, 39)."""
        frames = conv_length(len(waveform), self.receptive_field, self.hop)
        return align(mfcc(waveform), frames, self.hop // 160)

    def describe(self) -> dict[str, Any]:
        """Give what they are."""
        return {"features": "mfcc", "layer": None}


def align(features: Float[Tensor, "rows dim"], frames: int, ratio: int = 2) -> Float[Tensor, "frames dim"]:
    """Row ``ratio · t`` for frame ``t`` of the model, for as many of its frames as there are rows.

    Raises
    ------
    ValueError
        If there are rows for more than a frame more or fewer.
    """
    if abs(len(features) / ratio - frames) > 1:
        raise ValueError(
            f"{len(features)} rows of features, {ratio} for each frame, do not belong to {frames} frames: the two come "
            "from different audio or rates."
        )
    return features[::ratio][:frames]


class HiddenFeatures:
    """A hidden state of a trained model, without masks and always in evaluation mode.

    Parameters
    ----------
    model : UniSpeechSatModel
        The teacher.
    layer : int
        ``hidden_states[layer]``: the output of that layer, counted from 1.
    do_normalize : bool
        Whether the model was trained on normalised waveforms.
    chunk_seconds : float
        Longer recordings are divided into pieces of this length, which overlap so that no frame is lost between them.
    """

    def __init__(
        self, model: UniSpeechSatModel, layer: int, *, do_normalize: bool = True, chunk_seconds: float = 100.0
    ) -> None:
        if not 1 <= layer <= model.config.num_hidden_layers:
            raise ValueError(f"layer={layer} must be one of the model's {model.config.num_hidden_layers} layers.")
        self.model, self.layer, self.do_normalize = model, layer, do_normalize
        self.chunk = max(1, int(chunk_seconds * SAMPLE_RATE / model.config.inputs_to_logits_ratio))

    @torch.inference_mode()
    def __call__(self, waveform: Float[Tensor, " samples"]) -> Float[Tensor, "frames hidden"]:
        """Give (frames, hidden)."""
        config = self.model.config
        hop, field = config.inputs_to_logits_ratio, config.receptive_field
        frames = conv_length(len(waveform), field, hop)
        waveform = audio.normalize(waveform) if self.do_normalize and frames else waveform
        parts = [torch.zeros(0, config.hidden_size)]
        for first in range(0, frames, self.chunk):
            last = min(frames, first + self.chunk)
            # samples after the last frame belong to the last piece, since a group norm sees them too
            end = len(waveform) if last == frames else (last - 1) * hop + field
            piece = waveform[first * hop : end].to(self.model.device)
            with evaluating(self.model):
                states = self.model(piece[None], output_hidden_states=True).hidden_states
            parts.append(states[self.layer][0].float().cpu())
        return torch.cat(parts)

    @property
    def batched(self) -> bool:
        """Whether several waveforms together are faster; they are on a GPU, which one waveform does not fill."""
        return self.model.device.type != "cpu"

    @torch.inference_mode()
    def many(self, waveforms: Sequence[Float[Tensor, " _"]]) -> list[Float[Tensor, "_ hidden"]]:
        """Give for each waveform what a call would give, up to rounding; waveforms of like lengths share a batch."""
        config = self.model.config
        longest = self.chunk * config.inputs_to_logits_ratio
        found: dict[int, Tensor] = {}
        batch: list[int] = []

        def flush() -> None:
            waves = [audio.normalize(waveforms[row]) if self.do_normalize else waveforms[row] for row in batch]
            lengths = torch.tensor([len(wave) for wave in waves])
            padded = pad_sequence(waves, batch_first=True).to(self.model.device)
            mask = valid_positions(lengths, padded.shape[1]).long().to(self.model.device)
            with evaluating(self.model):
                states = self.model(padded, mask, output_hidden_states=True).hidden_states[self.layer].float().cpu()
            frames = conv_length(lengths, config.receptive_field, config.inputs_to_logits_ratio).tolist()
            found.update(
                {row: states[place, :count] for place, (row, count) in enumerate(zip(batch, frames, strict=True))}
            )
            batch.clear()

        for row in sorted(range(len(waveforms)), key=lambda row: len(waveforms[row])):
            size = len(waveforms[row])
            if not config.receptive_field <= size <= longest:
                found[row] = self(waveforms[row])
                continue
            if batch and (len(batch) + 1) * size > BATCH_SECONDS * SAMPLE_RATE:
                flush()
            batch.append(row)
        if batch:
            flush()
        return [found[row] for row in range(len(waveforms))]

    def describe(self) -> dict[str, Any]:
        """Give what they are."""
        name = getattr(self.model, "name_or_path", None)
        model = name and Path(name).name
        return {"features": "hidden", "layer": self.layer, "do_normalize": self.do_normalize, "model": model}


@dataclass(frozen=True)
class MeanOff:
    """Takes the mean off features, over an utterance or over all that a speaker says, and can bring them to variance 1.

    The mean tells the voice and the channel. Without it clusters know less of these, and more of the sound.

    Attributes
    ----------
    over : {"no", "utterance", "speaker"}
    variance_one : bool
        Whether each feature is divided by its standard deviation, too.
    speakers : dict
        By speaker, mean and standard deviation, (2, dim). Speakers who are not in it get those of the utterance.
    """

    over: str = "no"
    variance_one: bool = False
    speakers: Mapping[str, Float[Tensor, "2 dim"]] = field(default_factory=dict)

    @classmethod
    def fit(cls, corpus: Corpus, features: Features, over: str, variance_one: bool = False) -> MeanOff:
        """Measure mean and standard deviation of each speaker, if the mean is taken over speakers."""
        if over not in ("no", "utterance", "speaker"):
            raise ValueError(f"mean_off={over!r} must be 'no', 'utterance' or 'speaker'.")
        if over != "speaker":
            return cls(over, variance_one)
        sums: dict[str, list[Tensor]] = {}
        known_as = speakers_of(corpus)
        for row, _, part in featured(Reader(corpus), features, range(len(corpus))):
            speaker = known_as[row]
            if len(part) and speaker is not None:
                wide = part.double()
                moments = [torch.tensor(float(len(part))), wide.sum(0), wide.square().sum(0)]
                known = sums.get(speaker)
                sums[speaker] = moments if known is None else [a + b for a, b in zip(known, moments, strict=True)]
        speakers = {}
        for name, (count, total, squares) in sums.items():
            mean = total / count
            speakers[name] = torch.stack([mean, (squares / count - mean.square()).clamp(min=0).sqrt()]).float()
        return cls(over, variance_one, speakers)

    def __call__(self, part: Float[Tensor, "frames dim"], speaker: str | None = None) -> Float[Tensor, "frames dim"]:
        """Give the features of an utterance without their mean."""
        if self.over == "no" or not len(part):
            return part
        known = self.speakers.get(speaker) if self.over == "speaker" and speaker is not None else None
        mean, deviation = (part.mean(0), part.std(0, correction=0)) if known is None else known.to(part)
        return (part - mean) / deviation.clamp(min=1e-5) if self.variance_one else part - mean

    def describe(self) -> dict[str, Any]:
        """Describe what is done, to store this with the labels; give {} if nothing is done."""
        return {} if self.over == "no" else {"mean_off": self.over, "variance_one": self.variance_one}


def speakers_of(corpus: Corpus) -> list[str | None]:
    """Give the speaker of each row; None where the table names none."""
    return [None if pd.isna(speaker) else speaker for speaker in corpus.table["speaker"]]


def featured(reader: Reader, features: Features, rows: Iterable[int]) -> Iterator[tuple[int, int, Tensor]]:
    """Give row, number of samples and features of some rows of a corpus; skip files that cannot be read.

    A model on a GPU gets many waveforms at once, and several threads read the files.
    """
    if not getattr(features, "batched", False):
        for row in rows:
            waveform = reader.read(row)
            if waveform is not None:
                yield row, len(waveform), features(waveform)
        return
    rows = iter(rows)
    with ThreadPoolExecutor(8) as pool:
        while group := list(islice(rows, GROUP)):
            pairs = zip(group, pool.map(reader.read, group), strict=True)
            read = [(row, wave) for row, wave in pairs if wave is not None]
            parts = features.many([wave for _, wave in read])  # type: ignore[attr-defined]
            for (row, wave), part in zip(read, parts, strict=True):
                yield row, len(wave), part


def bounded_sample(
    corpus: Corpus, features: Features, *, seconds: float, seed: int, mean_off: MeanOff | None = None
) -> Float[Tensor, "frames dim"]:
    """Compute features of utterances drawn at random until they last ``seconds``, one after the other.

    Raises
    ------
    ValueError
        If ``seconds`` is not positive, or more than 5 % of the corpus's files turn out to be unreadable.
    """
    if not seconds > 0:
        raise ValueError(f"seconds={seconds} must be positive: so much audio is drawn to fit k-means on.")
    order = torch.randperm(len(corpus), generator=torch.Generator().manual_seed(seed)).tolist()
    rows, heard = np.empty((0, 0), np.float32), 0.0
    filled = 0
    mean_off = mean_off or MeanOff()
    speakers = speakers_of(corpus)
    with tqdm(total=round(min(seconds, float(corpus.table["seconds"].sum()))), desc="sample", unit="s") as bar:
        for row, samples, part in featured(Reader(corpus), features, order):
            values = mean_off(part, speakers[row]).numpy()
            if filled + len(values) > len(rows):
                # this array grows where it lies; a list of parts would need as much memory again to be put together
                rows.resize((filled + len(values) + filled // 8, values.shape[1]), refcheck=False)
            if len(values):
                rows[filled : filled + len(values)] = values
            filled += len(values)
            heard += samples / SAMPLE_RATE
            bar.update(round(samples / SAMPLE_RATE))
            if heard >= seconds:
                break
    rows.resize((filled, rows.shape[1]), refcheck=False)
    return torch.from_numpy(rows)


class Reader:
    """Reads a corpus file by file; files that cannot be read are listed, skipped and counted.

    It raises a ValueError as soon as more than 5 % of the corpus could not be read. This is a share of the corpus and
    not of the files read so far, of which a single file may be many.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.unreadable: dict[str, str] = {}

    def read(self, row: int) -> Float[Tensor, " samples"] | None:
        """Give a waveform, or None where the file cannot be read."""
        try:
            return self.corpus.waveform(row)
        except (ValueError, OSError) as error:
            self.unreadable[str(self.corpus.table["id"].iloc[row])] = str(error)
            warnings.warn(f"left out: {error}", UserWarning, stacklevel=2)
            too_many(self.unreadable, len(self.corpus))
            return None


def too_many(unreadable: dict[str, str], tried: int) -> None:
    """Raise a ValueError where more than `MOST_UNREADABLE` of the files tried could not be read."""
    if tried and len(unreadable) > MOST_UNREADABLE * tried:
        some = "; ".join(list(unreadable.values())[:3])
        raise ValueError(
            f"{len(unreadable)} of {tried} files could not be read, more than {MOST_UNREADABLE:.0%}: {some}. Repair "
            "the files or the manifest."
        )


@dataclass(frozen=True, eq=False)
class Targets:
    """The cluster of every frame of a corpus, in a folder; labels are read from the disk when they are needed.

    Attributes
    ----------
    index : DataFrame
        By utterance id: ``start`` in ``labels``, ``frames``.
    labels : (all frames,)
        All labels, memory-mapped.
    clusters : Clusters
        The clusters.
    description : dict
        What `make_targets` wrote to ``targets.json``.
    """

    index: pd.DataFrame
    labels: np.ndarray
    clusters: Clusters
    description: dict[str, Any]

    @classmethod
    def load(cls, folder: str | Path) -> Targets:
        """Open a folder that `write_targets` wrote; this reads only its index.

        Raises
        ------
        FileNotFoundError
            If there are no targets in it.
        ValueError
            If a file is damaged, or index and labels do not belong together.
        """
        folder = Path(folder)
        if not (folder / "targets.json").exists():
            raise FileNotFoundError(f"{folder} holds no targets (no targets.json); make_targets writes such a folder.")
        remedy = f"Delete {folder}: the run makes its targets again."
        with reading(folder / "targets.json", remedy):
            description = json.loads((folder / "targets.json").read_text(encoding="utf-8"))
            description["label_hash"]
        with reading(folder / "index.csv", remedy):
            index = pd.read_csv(folder / "index.csv", dtype={"id": str}, keep_default_na=False).set_index("id")
            index = index.astype({"start": int, "frames": int})
        with reading(folder / "labels.npy", remedy):
            labels = np.load(folder / "labels.npy", mmap_mode="r")
        if index["frames"].sum() != len(labels):
            raise ValueError(
                f"{folder} is broken: its index.csv counts {index['frames'].sum()} frames, its labels.npy holds "
                f"{len(labels)}; make the targets again."
            )
        return cls(index, labels, Clusters.load(folder), description)

    @property
    def ids(self) -> list[str]:
        """Utterances that have targets, in the corpus's order."""
        return list(self.index.index)

    @property
    def label_hash(self) -> str:
        """Hash of all labels and of the utterances that they belong to."""
        return str(self.description["label_hash"])

    def hash_labels(self) -> str:
        """Compute the hash of the labels that are there, whatever the description says."""
        rows = self.index.reset_index().to_dict("records")
        return label_hash(rows, self.labels)

    def __contains__(self, name: object) -> bool:
        return name in self.index.index

    def __getitem__(self, name: str) -> Int[Tensor, " frames"]:
        if name not in self.index.index:
            raise KeyError(f"there are no targets for utterance {name!r}; were they made for another corpus?")
        start, frames = self.index.loc[name, ["start", "frames"]]
        labels = np.asarray(self.labels[start : start + frames]).astype(np.int64)
        check_labels(labels, len(self.clusters.centroids))
        return torch.from_numpy(labels)

    def histogram(self) -> Int[Tensor, " clusters"]:
        """Count the frames in each cluster."""
        return torch.from_numpy(count_labels(self.labels, len(self.clusters.centroids)))


def check_labels(labels: np.ndarray, clusters: int) -> None:
    """Refuse labels that are beyond the number of clusters."""
    if len(labels) and (largest := int(labels.max())) >= clusters:
        raise ValueError(
            f"there is a label {largest}, but {clusters} clusters have the labels 0 to {clusters - 1}: labels and "
            "k-means are of different runs; make the targets again."
        )


def count_labels(labels: np.ndarray, clusters: int, block: int = 2**20) -> np.ndarray:
    """Count frames in each cluster, (clusters,), block by block, since the labels may not fit into memory."""
    count = np.zeros(clusters, dtype=np.int64)
    for start in range(0, len(labels), block):
        part = labels[start : start + block]
        check_labels(part, clusters)
        count += np.bincount(part, minlength=clusters)
    return count


PART, PART_SECONDS = GROUP, 1800.0
"""Most utterances and seconds in a part of the labels. A run that is killed loses at most a part in each process."""


def make_targets(
    corpus: Corpus,
    features: Features,
    folder: str | Path,
    *,
    clusters: int,
    sample_seconds: float,
    seed: int,
    mean_off: MeanOff | None = None,
    device: torch.device | str | None = None,
    rank: int = 0,
    processes: int = 1,
) -> Targets:
    """Fit k-means on a sample of the corpus, assign all of it, and write the labels to ``folder``.

    With a ``device``, k-means is `unisat.clusters.lloyd` on it; without one, it is `unisat.clusters.fit`. What is done
    lies in ``<folder>-unfinished`` until all is, so that a call that was killed can be made again and goes on.

    Several processes may share the work: each calls this with its ``rank``. The first fits k-means. They meet in the
    folder alone, where they wait for one another as long as it takes; it must not hold targets yet.
    """
    if not 2 <= clusters <= MOST_CLUSTERS:
        raise ValueError(f"clusters={clusters} must be between 2 and {MOST_CLUSTERS:,}.")
    about = {"seed": seed, "sample_seconds": sample_seconds}
    method = "minibatch" if device is None else "lloyd"
    begun = {**about, "clusters": clusters, "method": method, "content": _content(corpus, features, mean_off)}
    parts = _Parts(Path(folder), begun, corpus, rank, processes)
    if rank == 0 and not parts.begun:
        sample = bounded_sample(corpus, features, seconds=sample_seconds, seed=seed, mean_off=mean_off)
        found = fit(sample, clusters, seed) if device is None else lloyd(sample.to(device), clusters, seed)
        described = features.describe()
        parts.begin(replace(found, features=described.get("features"), layer=described.get("layer")))
    return parts.finish(features, mean_off or MeanOff(), about)


def write_targets(
    corpus: Corpus,
    features: Features,
    clusters: Clusters,
    folder: str | Path,
    about: dict[str, Any] | None = None,
    *,
    mean_off: MeanOff | None = None,
) -> Targets:
    """Assign every frame of a corpus to a cluster, file by file, and write the labels whole or not at all.

    Warnings name empty clusters, and labels that say (nearly) nothing. What is done lies in ``<folder>-unfinished``
    until all is, so that a call that was killed can be made again and goes on.

    Raises
    ------
    ValueError
        If more than 5 % of the files cannot be read, or the clusters are of other features or too many.
    """
    check_clusters(clusters, features.describe())
    centroids = hashlib.sha256(clusters.centroids.numpy().tobytes()).hexdigest()
    begun = {**(about or {}), "centroids": centroids, "content": _content(corpus, features, mean_off)}
    parts = _Parts(Path(folder), begun, corpus)
    if not parts.begun:
        parts.begin(clusters)
    return parts.finish(features, mean_off or MeanOff(), about or {})


def _content(corpus: Corpus, features: Features, mean_off: MeanOff | None) -> str:
    """Hash of what is clustered: the utterances, and the features with the weights of their model."""
    digest = hashlib.sha256(json.dumps([features.describe(), (mean_off or MeanOff()).describe()]).encode())
    pieces = [name for name in PIECE if name in corpus.table]
    for row in corpus.table[["id", "speaker", "path", "seconds", *pieces]].itertuples(index=False):
        digest.update("\t".join(map(str, row)).encode())
    if isinstance(features, HiddenFeatures):
        for weight in features.model.state_dict().values():
            digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _Parts:
    """The labels on their way: ``<folder>-unfinished`` with k-means and a file for each part of the corpus."""

    def __init__(self, folder: Path, begun: dict[str, Any], corpus: Corpus, rank: int = 0, processes: int = 1) -> None:
        self.folder, self.parts, self.corpus = folder, Path(f"{folder}-unfinished"), corpus
        self.rank, self.processes = rank, processes
        self.settings = {**begun, "part": [PART, PART_SECONDS]}
        self.rows = [*_divided(corpus.table["seconds"].fillna(0).astype(float))]

    @property
    def begun(self) -> bool:
        """Whether there is a beginning with these settings."""
        try:
            return json.loads((self.parts / "begun.json").read_text(encoding="utf-8")) == self.settings
        except FileNotFoundError:
            return False

    def begin(self, clusters: Clusters) -> None:
        """Keep k-means, and forget what was begun with other settings."""
        shutil.rmtree(self.parts, ignore_errors=True)
        self.parts.mkdir(parents=True)
        clusters.save(self.parts)
        with whole_file(self.parts / "begun.json") as partial:
            save_json(self.settings, partial)

    def finish(self, features: Features, mean_off: MeanOff, about: dict[str, Any]) -> Targets:
        """Make this process's parts; then the first process puts all of them together."""
        made = self.folder / "targets.json"
        if self.rank == 0:
            self._assign(features, mean_off, lambda: False)
            _wait(lambda: all(self.file(part).exists() for part in range(len(self.rows))))
            self._together({**features.describe(), **mean_off.describe(), **about})
        else:
            _wait(lambda: self.begun or made.exists())
            self._assign(features, mean_off, made.exists)
            _wait(made.exists)
        return Targets.load(self.folder)

    def file(self, part: int) -> Path:
        """Where a part lies."""
        return self.parts / f"part-{part:06d}.npz"

    def _assign(self, features: Features, mean_off: MeanOff, together: Callable[[], bool]) -> None:
        """Make the parts of this process that are not there yet, unless all parts have been put together already."""
        reader, speakers = Reader(self.corpus), speakers_of(self.corpus)
        mine = range(self.rank, len(self.rows), self.processes)
        total = sum(len(self.rows[part]) for part in mine)
        with tqdm(desc="targets", total=total, disable=self.rank > 0) as bar:
            for part in mine:
                rows, file = self.rows[part], self.file(part)
                if file.exists() or together():
                    bar.update(len(rows))
                    continue
                clusters = Clusters.load(self.parts)
                frames, labels = np.full(len(rows), -1, np.int64), [np.zeros(0, np.uint16)]
                for row, _, values in featured(reader, features, rows):
                    labels.append(clusters.assign(mean_off(values, speakers[row])).numpy().astype(np.uint16))
                    frames[row - rows.start] = len(labels[-1])
                    bar.update()
                with writing(file), whole_file(file) as partial, partial.open("wb") as opened:
                    np.savez(opened, labels=np.concatenate(labels), frames=frames)

    def _together(self, described: dict[str, Any]) -> None:
        """Write the targets of all parts, and delete the parts."""
        names, paths = self.corpus.table["id"].tolist(), self.corpus.table["path"].tolist()
        with writing(self.folder), whole_folder(self.folder) as partial:
            frames = np.concatenate([self._read(part, "frames") for part in range(len(self.rows))])
            unreadable = sorted({str(paths[row]) for row in np.flatnonzero(frames < 0)})
            too_many(dict(zip(unreadable, unreadable, strict=True)), len(names))
            short = [names[row] for row in np.flatnonzero(frames == 0)]
            kept = np.flatnonzero(frames > 0)
            if not len(kept):
                raise ValueError(f"no utterance of the corpus is as long as a frame; {len(short)} are too short.")
            with (partial / "labels.npy").open("wb") as file:
                # part by part, since a corpus may have more labels than the memory holds
                shape = {"descr": "<u2", "fortran_order": False, "shape": (int(frames[kept].sum()),)}
                np.lib.format.write_array_header_1_0(file, shape)
                for part in range(len(self.rows)):
                    file.write(self._read(part, "labels").astype("<u2").tobytes())
            starts = np.cumsum(frames[kept]) - frames[kept]
            index = pd.DataFrame({"id": [names[row] for row in kept], "start": starts, "frames": frames[kept]})
            index.to_csv(partial / "index.csv", index=False)
            clusters = Clusters.load(self.parts)
            clusters.save(partial)
            labels = np.load(partial / "labels.npy", mmap_mode="r")
            count = count_labels(labels, len(clusters.centroids))
            description = {
                **described,
                "clusters": len(clusters.centroids),
                "utterances": len(kept),
                "frames": len(labels),
                "label_hash": label_hash(index.to_dict("records"), labels),
                "entropy": entropy(count),
                "empty_clusters": int((count == 0).sum()),
                "too_short": short,
                "unreadable": unreadable,
            }
            save_json(description, partial / "targets.json")
        shutil.rmtree(self.parts)
        warn_of_labels(count)

    def _read(self, part: int, name: str) -> np.ndarray:
        remedy = "Delete it and start again: only this part is made anew."
        with reading(self.file(part), remedy), np.load(self.file(part)) as arrays:
            return arrays[name]


def _divided(seconds: Iterable[float]) -> Iterator[range]:
    """Divide utterances into parts, and give the rows of each."""
    start, row, total = 0, -1, 0.0
    for row, length in enumerate(seconds):
        if row > start and (row - start == PART or total + length > PART_SECONDS):
            yield range(start, row)
            start, total = row, 0.0
        total += length
    yield range(start, row + 1)


def _wait(until: Callable[[], bool]) -> None:
    """Wait for another process, however long it takes."""
    while not until():
        time.sleep(0.2)


def check_clusters(clusters: Clusters, described: dict[str, Any]) -> None:
    """Refuse clusters of other features, if they say of which they are, and more clusters than 16 bits can count."""
    if len(clusters.centroids) > MOST_CLUSTERS:
        raise ValueError(
            f"{len(clusters.centroids)} clusters are more than the {MOST_CLUSTERS:,} that labels can name."
        )
    ours, theirs = (clusters.features, clusters.layer), (described.get("features"), described.get("layer"))
    if clusters.features is not None and ours != theirs:
        raise ValueError(
            f"the clusters are of features={ours[0]!r}, layer={ours[1]}, the features are {theirs[0]!r}, "
            f"layer={theirs[1]}; give the features that the clusters were fitted on."
        )


def label_hash(rows: Iterable[dict[str, Any]], labels: np.ndarray) -> str:
    """SHA-256 of the labels and of the utterances that they belong to."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row['id']}\t{row['start']}\t{row['frames']}\n".encode())
    digest.update(np.ascontiguousarray(labels, dtype="<u2").data)  # without a copy of a memory-mapped file
    return digest.hexdigest()


def warn_of_labels(count: np.ndarray) -> None:
    """Warn where a histogram of labels has empty clusters, or so few in use that labels are easily guessed."""
    if empty := int((count == 0).sum()):
        warnings.warn(f"{empty} of {len(count)} clusters are empty: no frame has their label.", stacklevel=3)
    if entropy(count) < 0.5 * math.log(len(count)) or count.max() > 0.5 * count.sum():
        warnings.warn(
            f"the labels are degenerate: their entropy is {entropy(count):.2f} of at most {math.log(len(count)):.2f} "
            f"nats and the largest cluster holds {count.max() / max(1, count.sum()):.0%} of the frames.",
            stacklevel=3,
        )
