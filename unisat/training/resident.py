"""Speech that is decoded once and kept on the device of the model, so that no batch waits for a disk or a decoder.

An hour takes 115 MB (16 bits a sample). Only the places of the crops go to the device for a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unisat.corpus import Corpus
from unisat.frames import valid_positions
from unisat.training.data import MisalignedTargetsError, TrainingBatch, TrainingData

FULL_SCALE = 2**15
"""What 16-bit samples are divided by."""


def decode(corpus: Corpus, workers: int = 8) -> tuple[Int[Tensor, " samples"], np.ndarray]:
    """Give all samples of a corpus as 16-bit integers, and where each utterance begins, with the end of the last.

    Raises
    ------
    ValueError
        If a file cannot be read.
    """

    def read(row: int) -> np.ndarray:
        return (corpus.waveform(row) * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1).short().numpy()

    with ThreadPoolExecutor(workers) as pool:
        waves = list(pool.map(read, range(len(corpus))))
    starts = np.concatenate([[0], np.cumsum([len(wave) for wave in waves])]).astype(np.int64)
    return torch.from_numpy(np.concatenate(waves)), starts


class ResidentData(TrainingData):
    """`TrainingData` with speech and targets on a device; it gives the same batches, up to the rounding to 16 bits.

    Parameters
    ----------
    device : torch.device
        Where batches are made.
    others
        As of `TrainingData`.
    """

    def __init__(self, *arguments: Any, device: torch.device | str, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "cache_mb": 0})
        self.device = torch.device(device)
        store, self.starts = decode(Corpus(self.table))
        self.store = store.to(self.device)
        labels = [self.targets[name] for name in self.table["id"]]
        self.label_starts = np.concatenate([[0], np.cumsum([len(part) for part in labels])]).astype(np.int64)
        self.labels = torch.cat(labels).int().to(self.device)
        samples, counted = np.diff(self.starts), np.diff(self.label_starts)
        frames = (samples - self.receptive_field) // self.hop + 1
        if wrong := np.flatnonzero(np.abs(frames - counted) > 1).tolist():
            row = wrong[0]
            raise MisalignedTargetsError(
                f"utterance {self.table['id'].iloc[row]!r} has {counted[row]} labels for {frames[row]} frames, more "
                "than one apart: the labels were made for other audio or another frame rate; make them anew."
            )

    def __getitem__(self, step: int) -> TrainingBatch:
        """Gather the batch of a step."""
        rows, first, numbers = self.places(step)
        samples, frames, padded = int(numbers[1].max()), int(numbers[3].max()), bool(np.ptp(numbers[1]))
        waves, valid, targets = self.gather(torch.from_numpy(numbers).to(self.device), samples, frames, padded)
        return TrainingBatch(
            input_values=waves,
            attention_mask=None if valid is None else valid.long(),
            targets=targets,
            starts=torch.from_numpy(first),
            ids=tuple(self.table["id"].iloc[rows]),
            speakers=tuple(self.speakers[row] for row in rows),
        )

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw the crops of a step; give rows of the table, first samples, and what `gather` wants to know of each."""
        rows = np.array(self.rows(step))
        share = np.random.default_rng([self.seed, 1, step, self.rank]).random(len(rows))
        samples = np.diff(self.starts)[rows]
        lengths = np.minimum(samples, self.crops[rows])
        first = (share * (np.maximum(0, samples - self.crops[rows]) // self.hop + 1)).astype(int) * self.hop
        frames = (lengths - self.receptive_field) // self.hop + 1
        label = self.label_starts[rows] + first // self.hop
        numbers = [self.starts[rows] + first, lengths, label, frames, self.label_starts[rows + 1] - label]
        return rows, first, np.stack(numbers)

    def gather(
        self, numbers: Int[Tensor, "5 batch"], samples: int, frames: int, padded: bool
    ) -> tuple[Float[Tensor, "batch samples"], Bool[Tensor, "batch samples"] | None, Int[Tensor, "batch frames"]]:
        """Give waveforms, which samples are real (None for all) and targets; nothing waits for the device."""
        begin, length, label_begin, frame, left = numbers
        place = torch.arange(samples, device=self.device)
        waves = self.store[(begin[:, None] + place).clamp(max=len(self.store) - 1)].float() / FULL_SCALE
        valid = valid_positions(length, samples) if padded else None
        waves = waves if valid is None else waves.masked_fill(~valid, 0)
        if self.do_normalize:
            waves = normalized(waves, length, valid)
        place = torch.arange(frames, device=self.device)
        known = place < torch.minimum(frame, left)[:, None]
        targets = self.labels[(label_begin[:, None] + place).clamp(max=len(self.labels) - 1)].long()
        return waves, valid, targets.masked_fill(~known, -100)

    def iterate(self, step: int = 0, *, ahead: int = 2) -> Iterator[TrainingBatch]:
        """Give the batches from a step on, without end; nothing is gained by reading ahead."""
        while True:
            yield self[step]
            step += 1


def normalized(waves: Tensor, lengths: Tensor, valid: Tensor | None) -> Tensor:
    """Zero mean and unit variance of each utterance, as `unisat.audio.normalize` does for one, in float32."""
    centred = waves - (waves.sum(1) / lengths)[:, None]
    centred = centred if valid is None else centred.masked_fill(~valid, 0)
    return centred * (centred.square().sum(1) / lengths + 1e-7).rsqrt()[:, None]
