"""Clusters of frames, and how much they know about phones or words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unisat.frames import frame_seconds


@dataclass(frozen=True)
class Clusters:
    """K-means: one centroid a cluster, and of which features.

    Attributes
    ----------
    centroids : (clusters, dim)
    inertia : float
        Mean squared distance of the sample's frames to their centroids.
    features : str or None
        What was clustered, as `Features.describe` says: ``"mfcc"``, ``"hidden"``; None where nobody said.
    layer : int or None
        Of hidden states, which.
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
        return torch.cat(nearest) if nearest else torch.zeros(0, dtype=torch.long)

    def save(self, folder: str | Path) -> None:
        """Write ``kmeans.safetensors``; which features it is of goes into the metadata."""
        from safetensors.torch import save_file

        tensors = {"centroids": self.centroids.contiguous(), "inertia": torch.tensor(self.inertia, dtype=torch.float64)}
        about = {"features": json.dumps(self.features), "layer": json.dumps(self.layer)}
        save_file(tensors, Path(folder) / "kmeans.safetensors", about)

    @classmethod
    def load(cls, folder: str | Path) -> Clusters:
        """Read what `save` wrote."""
        from safetensors import safe_open

        with safe_open(Path(folder) / "kmeans.safetensors", "pt") as file:
            centroids, inertia = file.get_tensor("centroids"), float(file.get_tensor("inertia"))
            about = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
        return cls(centroids, inertia, about.get("features"), about.get("layer"))


def fit(sample: Float[Tensor, "frames dim"], clusters: int, seed: int = 0) -> Clusters:
    """Fit k-means with fairseq's settings for HuBERT (scikit-learn's ``MiniBatchKMeans``)."""
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise ImportError("k-means needs scikit-learn: pip install 'unisat[train]'.") from error
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
    found = Clusters(torch.from_numpy(np.asarray(means.cluster_centers_, dtype=np.float32)), 0.0)
    distances = (sample - found.centroids[found.assign(sample)]).square().sum(1).mean()
    return Clusters(found.centroids, float(distances))


TRIES = 6
"""Frames that `lloyd` draws for each centroid."""


def lloyd(sample: Float[Tensor, "frames dim"], clusters: int, seed: int = 0, *, rounds: int = 50) -> Clusters:
    """Fit k-means on all of a sample at once, where it lies: seconds on a GPU.

    Centroids begin as k-means++ draws them: each is the best of some frames, taken with a probability in proportion to
    their squared distance to the centroids before. Then they move to the means of their frames, ``rounds`` times. One
    that is left without frames stays where it is.
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
    found = Clusters(centroids, 0.0)
    inertia = float((sample - centroids[found.assign(sample, block=2**16)]).square().sum(1).mean())
    return Clusters(centroids.cpu(), inertia)


def entropy(count: np.ndarray) -> float:
    """Entropy of a histogram, in nats."""
    share = count[count > 0] / max(1, count.sum())
    return float((share * np.log(1 / share)).sum())


def joint(labels: Sequence[int] | Tensor, phones: Sequence[int] | Tensor) -> np.ndarray:
    """Count how often each label meets each phone, (labels, phones); frames with a negative one are left out."""
    z, y = np.asarray(labels), np.asarray(phones)
    if z.shape != y.shape or z.ndim != 1:
        raise ValueError(f"labels and phones must be one number for each frame, got {z.shape} and {y.shape}.")
    known = (z >= 0) & (y >= 0)
    if not known.any():
        raise ValueError("no frame has both a label and a phone.")
    _, z = np.unique(z[known], return_inverse=True)
    _, y = np.unique(y[known], return_inverse=True)
    table = np.zeros((z.max() + 1, y.max() + 1))
    np.add.at(table, (z, y), 1)
    return table


def pnmi(labels: Sequence[int] | Tensor, phones: Sequence[int] | Tensor) -> float:
    """Share of the uncertainty about the phone that the label takes away: ``I(y; z) / H(y)`` (HuBERT, section 5)."""
    table = joint(labels, phones)
    given = entropy(table.sum(0))
    both, first = entropy(table.ravel()), entropy(table.sum(1))
    return (given + first - both) / given if given > 0 else 1.0


def purity(labels: Sequence[int] | Tensor, phones: Sequence[int] | Tensor) -> float:
    """Accuracy of guessing each label's most frequent phone (HuBERT's phone purity)."""
    table = joint(labels, phones)
    return float(table.max(1).sum() / table.sum())


def cluster_purity(labels: Sequence[int] | Tensor, phones: Sequence[int] | Tensor) -> float:
    """Accuracy of guessing each phone's most frequent label (HuBERT's cluster purity)."""
    return purity(phones, labels)


def interval_labels(
    intervals: Iterable[tuple[float, float, str]], frames: int, *, hop: int = 320, receptive_field: int = 400
) -> tuple[Int[Tensor, " frames"], list[str]]:
    """Turn (start, end, label) in seconds into a number for each frame, -1 where there is none, and the labels' names.

    A frame has the label at the middle of what it sees; where intervals overlap, that of the last of them.
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
