"""Targets of masked prediction: clusters of MFCC, then of hidden states (HuBERT, arXiv:2106.07447).

Labels are on the model's own frames by construction: hidden states are frames already, and of MFCC, which come twice as
often, every second one is taken.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from unisat import audio
from unisat.acoustics import mfcc
from unisat.clusters import Clusters, entropy, fit
from unisat.corpus import Corpus
from unisat.files import whole_folder
from unisat.frames import SAMPLE_RATE, conv_length
from unisat.model import UniSpeechSatModel
from unisat.modules import evaluating

MOST_UNREADABLE = 0.05
"""Share of files that may be unreadable before a run stops."""

MOST_CLUSTERS = 65_535
"""Highest number of clusters, since labels are stored in 16 bits."""


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

    def describe(self) -> dict[str, Any]:
        """Give what they are."""
        name = getattr(self.model, "name_or_path", None)
        model = name and Path(name).name
        return {"features": "hidden", "layer": self.layer, "do_normalize": self.do_normalize, "model": model}


def bounded_sample(corpus: Corpus, features: Features, *, seconds: float, seed: int) -> Float[Tensor, "frames dim"]:
    """Compute features of utterances drawn at random until they last ``seconds``, one after the other.

    Raises
    ------
    ValueError
        If ``seconds`` is not positive, or more than 5 % of the corpus's files turn out to be unreadable.
    """
    if not seconds > 0:
        raise ValueError(f"seconds={seconds} must be positive: so much audio is drawn to fit k-means on.")
    order = torch.randperm(len(corpus), generator=torch.Generator().manual_seed(seed)).tolist()
    parts, heard = [], 0.0
    reader = Reader(corpus)
    with tqdm(total=round(min(seconds, float(corpus.table["seconds"].sum()))), desc="sample", unit="s") as bar:
        for row in order:
            if heard >= seconds:
                break
            waveform = reader.read(row)
            if waveform is not None:
                parts.append(features(waveform))
                heard += len(waveform) / SAMPLE_RATE
                bar.update(round(len(waveform) / SAMPLE_RATE))
    return torch.cat(parts)


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
        path = self.corpus.table["path"].iloc[row]
        try:
            return audio.load(path)
        except (ValueError, OSError) as error:
            self.unreadable[str(path)] = str(error)
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
            If index and labels do not belong together.
        """
        folder = Path(folder)
        if not (folder / "targets.json").exists():
            raise FileNotFoundError(f"{folder} holds no targets (no targets.json); make_targets writes such a folder.")
        description = json.loads((folder / "targets.json").read_text(encoding="utf-8"))
        index = pd.read_csv(folder / "index.csv", dtype={"id": str}, keep_default_na=False).set_index("id")
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


def make_targets(
    corpus: Corpus, features: Features, folder: str | Path, *, clusters: int, sample_seconds: float, seed: int
) -> Targets:
    """Fit k-means on a sample of the corpus, assign all of it, and write the labels to ``folder``."""
    if not 2 <= clusters <= MOST_CLUSTERS:
        raise ValueError(f"clusters={clusters} must be between 2 and {MOST_CLUSTERS:,}.")
    found = fit(bounded_sample(corpus, features, seconds=sample_seconds, seed=seed), clusters, seed)
    described = features.describe()
    found = replace(found, features=described.get("features"), layer=described.get("layer"))
    return write_targets(corpus, features, found, folder, {"seed": seed, "sample_seconds": sample_seconds})


def write_targets(
    corpus: Corpus,
    features: Features,
    clusters: Clusters,
    folder: str | Path,
    about: dict[str, Any] | None = None,
) -> Targets:
    """Assign every frame of a corpus to a cluster, file by file, and write the labels whole or not at all.

    Warnings name empty clusters, and labels that say (nearly) nothing.

    Raises
    ------
    ValueError
        If more than 5 % of the files cannot be read, or the clusters are of other features or too many.
    """
    check_clusters(clusters, features.describe())
    folder = Path(folder)
    reader = Reader(corpus)
    with whole_folder(folder) as partial:
        flat = partial / "labels.u16"
        rows, short = _assign(reader, features, clusters, flat)
        if not rows:
            raise ValueError(f"no utterance of the corpus is as long as a frame; {len(short)} are too short.")
        labels = np.memmap(flat, np.uint16, "r")  # a corpus may have more labels than the memory holds
        np.save(partial / "labels.npy", labels)
        flat.unlink()
        pd.DataFrame(rows, columns=["id", "start", "frames"]).to_csv(partial / "index.csv", index=False)
        clusters.save(partial)
        count = count_labels(labels, len(clusters.centroids))
        description = {
            **features.describe(),
            **(about or {}),
            "clusters": len(clusters.centroids),
            "utterances": len(rows),
            "frames": len(labels),
            "label_hash": label_hash(rows, labels),
            "entropy": entropy(count),
            "empty_clusters": int((count == 0).sum()),
            "too_short": short,
            "unreadable": sorted(reader.unreadable),
        }
        (partial / "targets.json").write_text(json.dumps(description, indent=2), encoding="utf-8")
    warn_of_labels(count)
    return Targets.load(folder)


def _assign(
    reader: Reader, features: Features, clusters: Clusters, file: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """Write the labels of all utterances to a file; give where those of each are, and who is shorter than a frame."""
    rows: list[dict[str, Any]] = []
    short: list[str] = []
    start = 0
    with file.open("wb") as written:
        for row, name in enumerate(tqdm(reader.corpus.table["id"], desc="targets")):
            waveform = reader.read(row)
            if waveform is None:
                continue
            labels = clusters.assign(features(waveform)).numpy().astype(np.uint16)
            if not len(labels):
                short.append(name)
                continue
            labels.tofile(written)
            rows.append({"id": name, "start": start, "frames": len(labels)})
            start += len(labels)
    return rows, short


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
