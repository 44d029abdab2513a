"""Utterances of a corpus as padded batches of like length, which are read while the model works on earlier ones."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unisat import audio
from unisat.corpus import WHOLE, Batch, Corpus, span
from unisat.files import places
from unisat.frames import SAMPLE_RATE, valid_positions


@dataclass(frozen=True, eq=False)
class Speech:
    """Utterances of a corpus or of a batch in memory, which are read when they are needed."""

    source: Corpus | Batch
    max_seconds: float | None
    do_normalize: bool

    @property
    def table(self) -> pd.DataFrame:
        """One row for each utterance, with the seconds that the model will hear."""
        table = self.source.table() if isinstance(self.source, Batch) else self.source.table.copy()
        if table["seconds"].isna().any():
            missing = table["id"][table["seconds"].isna()].tolist()
            raise ValueError(
                f"the length of {len(missing)} utterance(s) is not known (first: {missing[0]!r}); fill the column "
                "seconds, or let us.corpus.folder find the files."
            )
        if self.max_seconds is not None:
            table["seconds"] = table["seconds"].astype(float).clip(upper=self.max_seconds)
        return table

    def read(self, rows: Sequence[int]) -> dict[int, Tensor]:
        """Read waveforms by row, cut but not normalised. A warning names those that cannot be read and are left out."""
        waveforms = {}
        for row in rows:
            if isinstance(self.source, Batch):
                waveforms[row] = self.source.waveforms[row]
                continue
            try:
                waveforms[row] = self.source.waveform(row)
            except (ValueError, OSError) as error:
                warnings.warn(f"left out: {error}", UserWarning, stacklevel=2)
                continue
            if waveforms[row].min() == waveforms[row].max():
                name = self.source.table["id"].iloc[row]
                warnings.warn(f"nothing but silence in {name!r}.", UserWarning, stacklevel=2)
        if self.max_seconds is not None:
            waveforms = {row: wave[: round(self.max_seconds * SAMPLE_RATE)] for row, wave in waveforms.items()}
        return waveforms

    def mark(self, row: int) -> int:
        """Give a number that other sound does not have: for a waveform, or for the size and three places of a file."""
        found = hashlib.blake2b(digest_size=8)
        if isinstance(self.source, Batch):
            found.update(self.source.waveforms[row].numpy().tobytes())
        else:
            utterance = self.source.table.iloc[row]
            if (piece := span(utterance)) != WHOLE:
                found.update(repr(piece).encode())
            if pd.isna(utterance["path"]):  # in a dataset
                found.update(self.source.waveform(row).numpy().tobytes())
                return int.from_bytes(found.digest(), "little", signed=True)
            with suppress(OSError, ValueError):
                for part in places(utterance["path"]):
                    found.update(part)
        return int.from_bytes(found.digest(), "little", signed=True)

    def normalize(self, waveform: Tensor) -> Tensor:
        """Give the waveform as the model expects it."""
        return audio.normalize(waveform) if self.do_normalize else waveform


def batches(seconds: np.ndarray, batch_seconds: float) -> list[np.ndarray]:
    """Divide utterances into batches of like length, longest first.

    A padded batch has at most ``batch_seconds`` of audio, or is a single utterance.
    """
    if not batch_seconds > 0:
        raise ValueError(f"batch_seconds={batch_seconds} must be positive.")
    order = np.argsort(-seconds, kind="stable")
    plan: list[np.ndarray] = []
    start = 0
    while start < len(order):
        size = max(1, int(batch_seconds // max(seconds[order[start]], 1e-9)))
        plan.append(order[start : start + size])
        start += size
    return plan


def default_seconds(device: torch.device) -> float:
    """Seconds of audio in a batch: as much as fits a CPU's caches, and enough to keep a GPU busy."""
    return 10.0 if device.type == "cpu" else 80.0


@dataclass(frozen=True, eq=False)
class PaddedBatch:
    """Some utterances, ready for the model.

    ``waveforms`` are as they were read, by row; ``input_values`` are normalised and padded. The rows that were
    ``wanted`` but are not in ``waveforms`` could not be read, or are ``too_short`` for a frame.
    """

    number: int
    wanted: list[int]
    waveforms: dict[int, Tensor]
    too_short: dict[int, int]
    lengths: Int[Tensor, " batch"]
    input_values: Float[Tensor, "batch samples"]
    attention_mask: Int[Tensor, "batch samples"]

    @property
    def rows(self) -> list[int]:
        """Rows of the utterances in the batch."""
        return list(self.waveforms)


@dataclass(eq=False)
class ReadAhead:
    """Gives padded batches in order; threads make them while the caller works. It also keeps the time.

    Attributes
    ----------
    waited, inside, seconds : float
        Seconds spent waiting for a batch, inside `working`, and from the first batch to the end.
    """

    speech: Speech
    todo: Sequence[tuple[int, np.ndarray]]
    device: torch.device
    least: int = 1
    """Number of samples below which an utterance is left out."""
    workers: int | None = None
    """Number of threads that read; by default 4, and 1 on a CPU, where the model needs the others."""
    waited: float = field(default=0.0, init=False)
    inside: float = field(default=0.0, init=False)
    seconds: float = field(default=0.0, init=False)

    def __iter__(self) -> Iterator[PaddedBatch]:
        workers = self.workers or (1 if self.device.type == "cpu" else 4)
        started = time.perf_counter()
        waiting: deque[Future[PaddedBatch]] = deque()
        with ThreadPoolExecutor(workers) as readers:
            for number, rows in self.todo:
                waiting.append(readers.submit(self._make, number, rows.tolist()))
                if len(waiting) > workers + 1:
                    yield self._next(waiting)
            while waiting:
                yield self._next(waiting)
        self.seconds = time.perf_counter() - started

    def _next(self, waiting: deque[Future[PaddedBatch]]) -> PaddedBatch:
        start = time.perf_counter()
        batch = waiting.popleft().result()
        self.waited += time.perf_counter() - start
        return batch

    def _make(self, number: int, rows: list[int]) -> PaddedBatch:
        found = self.speech.read(rows)
        waveforms = {row: wave for row, wave in found.items() if len(wave) >= self.least}
        too_short = {row: len(wave) for row, wave in found.items() if len(wave) < self.least}
        lengths = torch.tensor([len(wave) for wave in waveforms.values()], dtype=torch.long)
        if waveforms:
            values = pad_sequence([self.speech.normalize(wave) for wave in waveforms.values()], batch_first=True)
        else:
            values = torch.zeros(0, 0)
        mask = valid_positions(lengths, values.shape[1]).long()
        if self.device.type == "cuda":
            values, mask = values.pin_memory(), mask.pin_memory()
        return PaddedBatch(number, rows, waveforms, too_short, lengths, values, mask)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the time of this scope as time in the model."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.inside += time.perf_counter() - start

    def timing(self) -> dict[str, float]:
        """Give seconds in all, in the model and waiting for batches, and the share of the time outside the model."""
        outside = max(0.0, 1 - self.inside / self.seconds) if self.seconds else 0.0
        return {"seconds": self.seconds, "model": self.inside, "waiting": self.waited, "outside_share": outside}
