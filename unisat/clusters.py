"""Clusters of frames, and how much they know about phones or words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from unisat.files import reading, save_tensors
from unisat.frames import frame_seconds


@dataclass(frozen=True)
class Clusters:
    """The centroids that k-means found, and the features they are of.

    Attributes
    ----------
    centroids : (clusters, dim)
    inertia : float
        Mean squared distance of the sample's frames to their centroids.
    features : str or None
        What was clustered, as `Features.describe` says: ``"mfcc"``, ``"hidden"``; None where it is not known.
    layer : int or None
        Which layer the hidden states are of.
    """

    centroids: Float[Tensor, "clusters dim"]
    inertia: float
    features: str | None = None
    layer: int | None = None

    def assign(self, features: Float[Tensor, "frames dim"], block: int = 8192) -> Int[Tensor, " frames"]:
        """Give the nearest centroid of each frame."""
        if features.shape[1] != self.centroids.shape[1]:
            raise ValueError(
                f"features of width {features.shape[1]} cannot be compared with centroids of {self.centroids.shape[1]}."
            )
        centroids = self.centroids.to(features.device)
        squares = centroids.square().sum(1)
        # |x|² is the same for all centroids
        nearest = [(squares - 2 * part @ centroids.T).argmin(1) for part in features.float().split(block)]
        return torch.cat(nearest) if nearest else torch.zeros(0, dtype=torch.long, device=features.device)

    def save(self, folder: str | Path) -> None:
        """Write ``kmeans.safetensors``; its metadata says which features were clustered."""
        tensors = {"centroids": self.centroids.contiguous(), "inertia": torch.tensor(self.inertia, dtype=torch.float64)}
        # one entry, since safetensors writes several in an order of chance
        about = {"about": json.dumps({"features": self.features, "layer": self.layer})}
        save_tensors(tensors, Path(folder) / "kmeans.safetensors", about)

    @classmethod
    def load(cls, folder: str | Path) -> Clusters:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        from safetensors import safe_open

        path = Path(folder) / "kmeans.safetensors"
        with reading(path, "Make the targets again, or take the file from a copy."), safe_open(path, "pt") as file:
            centroids, inertia = file.get_tensor("centroids"), float(file.get_tensor("inertia"))
            about = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
        about = about.get("about", about)  # earlier files have an entry for each
        return cls(centroids, inertia, about.get("features"), about.get("layer"))


def fit(sample: Float[Tensor, "frames dim"], clusters: int, seed: int = 0) -> Clusters:
    """Fit k-means with fairseq's settings for HuBERT (scikit-learn's ``MiniBatchKMeans``)."""
    from sklearn.cluster import MiniBatchKMeans

    if len(sample) < clusters:
        raise ValueError(
            f"{len(sample)} frames cannot make {clusters} clusters; take a larger sample or fewer clusters."
        )
    means = MiniBatchKMeans(
        clusters,
        init="k-means++",
        n_init=20,
        batch_size=10_000,
        max_iter=100,
        tol=0.0,
        max_no_improvement=100,
        reassignment_ratio=0.0,
        compute_labels=False,
        random_state=seed,
    ).fit(sample.numpy())
    centroids = torch.from_numpy(np.asarray(means.cluster_centers_, dtype=np.float32))
    return Clusters(centroids, _inertia(sample, centroids))


def _inertia(sample: Float[Tensor, "frames dim"], centroids: Float[Tensor, "clusters dim"]) -> float:
    """Mean squared distance to the nearest centroid, block by block, since a sample may fill the memory."""
    found = Clusters(centroids, 0.0)
    parts = sample.split(2**16)
    return float(torch.cat([(part - centroids[found.assign(part)]).square().sum(1) for part in parts]).mean())


TRIES = 6
"""Frames that `lloyd` draws for each centroid."""


def lloyd(sample: Float[Tensor, "frames dim"], clusters: int, seed: int = 0, *, rounds: int = 50) -> Clusters:
    """Fit k-means on all of a sample at once, on the sample's device; a GPU takes seconds.

    k-means++ draws the first centroids: each is the best of `TRIES` frames, which are drawn with a probability in
    proportion to their squared distance to the earlier centroids. Then centroids move to the means of their frames,
    ``rounds`` times. A centroid without frames stays where it is.

    Raises
    ------
    ValueError
        If the sample has fewer frames than there are clusters.
    """
    if len(sample) < clusters:
        raise ValueError(
            f"{len(sample)} frames cannot make {clusters} clusters; take a larger sample or fewer clusters."
        )
    turns = torch.rand(clusters, TRIES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    centroids = sample[int(turns[0, 0] * len(sample))][None].float()
    distance = (sample - centroids).square().sum(1)
    for turn in turns[1:].to(sample.device, distance.dtype):
        total = distance.cumsum(0)
        chosen = sample[torch.searchsorted(total, total[-1] * turn).clamp(max=len(sample) - 1)].float()
        left = torch.stack([torch.minimum(distance, (sample - one).square().sum(1)) for one in chosen])
        best = left.sum(1).argmin()
        centroids, distance = torch.cat([centroids, chosen[best][None]]), left[best]
    for _ in range(rounds):
        nearest = Clusters(centroids, 0.0).assign(sample, block=2**16)
        count = torch.bincount(nearest, minlength=clusters)[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, nearest, sample.float())
        centroids = torch.where(count > 0, sums / count.clamp(min=1), centroids)
    return Clusters(centroids.cpu(), _inertia(sample, centroids))


def entropy(count: Num[np.ndarray, "*shape"]) -> float:
    """Entropy of a histogram, in nats."""
    share = count[count > 0] / max(1, count.sum())
    return float((share * np.log(1 / share)).sum())


def contingency(*codes: Int[np.ndarray, " _"], shape: Sequence[int] | None = None) -> Int[np.ndarray, "*shape"]:
    """Count how often numbers come together, in a table with one axis for each array of numbers.

    Parameters
    ----------
    codes : (frames,) each
        Whole numbers. A frame in which one of them is negative is left out.
    shape : sequence of int, optional
        The size of the table; if None, each axis ends with the largest number.
    """
    known = np.logical_and.reduce([code >= 0 for code in codes])
    size = tuple(shape or (int(code.max()) + 1 for code in codes))
    place = np.ravel_multi_index([code[known] for code in codes], size)
    return np.bincount(place, minlength=int(np.prod(size))).reshape(size)


def mutual_information(table: Num[np.ndarray, "rows columns"]) -> float:
    """Mutual information of the rows and columns of a table of counts, in nats; the bias of few counts is left in."""
    return entropy(table.sum(0)) + entropy(table.sum(1)) - entropy(table)


def cluster_quality(table: Num[np.ndarray, "clusters phones"]) -> dict[str, float]:
    """Measure what clusters know about phones, from a table of counts (HuBERT, arXiv:2106.07447).

    Returns
    -------
    dict
        ``pnmi``, ``phone_purity`` and ``cluster_purity``; see `pnmi`, `purity` and `cluster_purity`.
    """
    given, total = entropy(table.sum(0)), table.sum()
    return {
        "pnmi": mutual_information(table) / given if given > 0 else 1.0,
        "phone_purity": float(table.max(1).sum() / total),
        "cluster_purity": float(table.max(0).sum() / total),
    }


def joint(labels: Sequence[int] | Tensor, phones: Sequence[int] | Tensor) -> Float[np.ndarray, "labels phones"]:
    """Count how often each label meets each phone; frames with a negative number are left out."""
    z, y = np.asarray(labels), np.asarray(phones)
    if z.shape != y.shape or z.ndim != 1:
        raise ValueError(f"labels and phones must be one number for each frame, got {z.shape} and {y.shape}.")
    known = (z >= 0) & (y >= 0)
    if not known.any():
        raise ValueError("no frame has both a label and a phone.")
    numbers = (np.unique(side[known], return_inverse=True)[1] for side in (z, y))
    return contingency(*numbers).astype(float)


def pnmi(labels: Sequence[int] | Tensor, phones: Sequence[int] | Tensor) -> float:
    """Share of the uncertainty about the phone that the label takes away: ``I(y; z) / H(y)``."""
    return cluster_quality(joint(labels, phones))["pnmi"]


def purity(labels: Sequence[int] | Tensor, phones: Sequence[int] | Tensor) -> float:
    """Accuracy of guessing each label's most frequent phone (HuBERT's phone purity)."""
    return cluster_quality(joint(labels, phones))["phone_purity"]


def cluster_purity(labels: Sequence[int] | Tensor, phones: Sequence[int] | Tensor) -> float:
    """Accuracy of guessing each phone's most frequent label (HuBERT's cluster purity)."""
    return cluster_quality(joint(labels, phones))["cluster_purity"]


def interval_labels(
    intervals: Iterable[tuple[float, float, str]], frames: int, *, hop: int = 320, receptive_field: int = 400
) -> tuple[Int[Tensor, " frames"], list[str]]:
    """Turn (start, end, label) in seconds into a number for each frame, and give the labels' names.

    A frame has the label at the middle of the samples that it sees, and -1 where there is none. Where intervals
    overlap, the last one counts.
    """
    intervals = list(intervals)
    if backward := [interval for interval in intervals if not interval[0] <= interval[1]]:
        raise ValueError(
            f"an interval cannot end before it starts, got {backward[0]}; give (start, end, label) in seconds."
        )
    names = sorted({label for _, _, label in intervals})
    middle = frame_seconds(frames, [receptive_field], [hop]).numpy()
    codes = np.full(frames, -1)
    for start, end, label in intervals:
        codes[(middle >= start) & (middle < end)] = names.index(label)
    return torch.from_numpy(codes), names
