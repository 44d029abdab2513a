"""A row for each word or phone instead of each utterance: frames are pooled while the model runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from unisat import acoustics
from unisat.frames import SAMPLE_RATE, frame_seconds
from unisat.interpret.activations.sites import Site
from unisat.interpret.features.acoustic import acoustic, spectrum
from unisat.interpret.features.bank import FeatureBank, Part
from unisat.segments import Segments, span

Pool = Literal["mean", "centre"]
SLACK = 0.05
"""Seconds by which a segment may end after its utterance: tools round, and cut sound at other places."""


@dataclass(frozen=True, eq=False)
class Pooling:
    """Segments of the utterances of a corpus, and how the frames of each become one row.

    Attributes
    ----------
    segments : Segments
        Those of the corpus's utterances, in its order.
    how : {"mean", "centre"}
        The mean of the segment's frames, or the frame whose centre is nearest to the segment's.
    rows : dict
        By utterance, the places of its segments in the table.
    spans : (segments, 3)
        First frame of each segment, the one behind its last, and the one whose centre is nearest to the segment's.
    """

    segments: Segments
    how: Pool
    rows: dict[str, np.ndarray]
    spans: Int[np.ndarray, "segments 3"]
    _plans: dict[Any, tuple[Int[Tensor, " frames"], Int[Tensor, " segments"]]] = field(
        default_factory=dict, init=False, repr=False
    )

    @classmethod
    def of(
        cls, segments: Segments, how: Pool, table: pd.DataFrame, hop: int, receptive_field: int, cut: float | None
    ) -> Pooling:
        """Match segments with a corpus; what is cut off (``max_seconds``) has none.

        Raises
        ------
        ValueError
            If no utterance has segments, or segments end later than their utterance.
        """
        if how not in ("mean", "centre"):
            raise ValueError(f"pool={how!r} must be 'mean' or 'centre'.")
        ids = table["id"].astype(str).tolist()
        mine = segments.table[segments.table["id"].isin(ids)]
        if cut is not None:
            mine = mine[mine["end"] <= cut]
        if mine.empty:
            raise ValueError(
                f"none of the {len(ids)} utterances has segments: theirs are called {ids[0]!r} and so on, those of the "
                f"segments {', '.join(map(repr, segments.ids[:2]))}."
            )
        order = {name: number for number, name in enumerate(ids)}
        mine = mine.assign(_at=mine["id"].map(order)).sort_values(["_at", "start", "end"], kind="stable")
        chosen = Segments(mine.drop(columns="_at"))
        late = chosen.beyond(dict(zip(ids, table["seconds"].astype(float), strict=True)), SLACK)
        if len(late):
            one = late.iloc[0]
            raise ValueError(
                f"{len(late)} segment(s) end later than their utterance, first {one['label']!r} of {one['id']!r} at "
                f"{one['end']:g} s; are they of another recording, or of the file that this was cut from?"
            )
        places = {str(name): rows.to_numpy() for name, rows in chosen.table.groupby("id").groups.items()}
        return cls(chosen, how, places, _spans(chosen.table, hop, receptive_field))

    def check(self, site: Site, convolutions: int) -> None:
        """Refuse a site whose frames are not the model's, or that has no frames."""
        if site.conv_layers != convolutions:
            raise ValueError(f"{site.name} has no row for each frame behind the convolutions; segments pool such rows.")
        if self.how == "mean" and site.name == "quant.codes":
            raise ValueError("codes have no mean; take pool='centre'.")

    def settings(self) -> dict[str, Any]:
        """Give what the settings of a bank say: sixteen digits that stand for the segments, and the pooling."""
        text = self.segments.table[["id", "tier", "start", "end", "label"]].to_csv(index=False)
        return {"segments": hashlib.sha256(text.encode()).hexdigest()[:16], "segment_pool": self.how}

    def counts(self, ids: Sequence[str]) -> Int[np.ndarray, " utterances"]:
        """Number of segments of each utterance."""
        return np.array([len(self.rows.get(name, ())) for name in ids], dtype=int)

    def pool(
        self,
        values: Shaped[Tensor, "batch frames ..."],
        valid: Bool[Tensor, "batch frames"],
        ids: Sequence[str],
    ) -> Shaped[Tensor, "segments ..."]:
        """Pool the frames of a batch: a row for each segment, utterance by utterance.

        A segment in which no frame's centre lies has the frame whose centre is nearest.
        """
        key = values.shape[1], tuple(valid.sum(1).tolist()), tuple(ids)
        if key not in self._plans:  # sites of one batch share it
            self._plans.clear()
            self._plans[key] = self._plan(*key)
        frames, sizes = (part.to(values.device) for part in self._plans[key])
        chosen = values.flatten(0, 1)[frames]
        if self.how == "centre" or not len(sizes):
            return chosen
        means = torch.segment_reduce(chosen.flatten(1).float(), "mean", lengths=sizes)
        return means.unflatten(1, values.shape[2:])

    def _plan(
        self, width: int, lengths: Sequence[int], ids: Sequence[str]
    ) -> tuple[Int[Tensor, " frames"], Int[Tensor, " segments"]]:
        """Frames of all segments of a batch, counted through its utterances, and how many each segment has."""
        counts = self.counts(ids)
        places = np.concatenate([self.rows.get(name, np.empty(0, dtype=int)) for name in ids])
        first, last, nearest = self.spans[places].T
        length = np.repeat(lengths, counts)
        nearest = np.minimum(nearest, length - 1)
        alone = (last <= first) | (first >= length) | (self.how == "centre")
        first, last = np.where(alone, nearest, first), np.where(alone, nearest + 1, np.minimum(last, length))
        sizes = last - first
        begin = first + np.repeat(np.arange(len(ids)) * width, counts) - (np.cumsum(sizes) - sizes)
        return torch.from_numpy(np.arange(sizes.sum()) + np.repeat(begin, sizes)), torch.from_numpy(sizes)

    def acoustic(
        self, name: str, waveform: Float[Tensor, " samples"], utterance: str
    ) -> Float[np.ndarray, "segments dim"]:
        """Measure an acoustic baseline of each segment of an utterance; spectra are pooled as the model's frames are.

        An utterance too short for a frame of 25 ms has NaN.
        """
        mine = self.segments.table.iloc[self.rows.get(utterance, np.empty(0, dtype=int))]
        if name == "loudness":
            ends = (mine[["start", "end"]].to_numpy() * SAMPLE_RATE).round().astype(int)
            rows = [acoustic(name, waveform[start:end]) for start, end in ends]
            return np.stack(rows) if rows else np.empty((0, 2), dtype=np.float32)
        frames = spectrum(name, waveform)
        if not len(frames):
            return np.full((len(mine), frames.shape[1]), np.nan, dtype=np.float32)
        return self._sound.pool(frames[None], torch.ones(1, len(frames), dtype=torch.bool), [utterance]).numpy()

    @cached_property
    def _sound(self) -> Pooling:
        """The same for frames of spectra."""
        return replace(self, spans=_spans(self.segments.table, acoustics.HOP, acoustics.WINDOW))

    def bank(self, utterances: FeatureBank) -> FeatureBank:
        """Give a bank with a row for each segment, from one whose frame-wise sites have a row for each segment.

        ``id`` is the utterance's with the segment's number; ``utterance``, ``tier``, ``start``, ``end``, ``label``,
        ``previous`` and ``next`` label, ``duration``, and what is known of the utterance. ``seconds`` is the segment's.
        """
        table = self.segments.context().rename(columns={"id": "utterance"})
        ids = utterances.table["id"].astype(str)
        table = table[table["utterance"].isin(ids)]
        number = table.groupby("utterance", sort=False).cumcount()
        table.insert(0, "id", table["utterance"] + "#" + number.astype(str))
        known = utterances.table.drop(columns=[c for c in table if c in utterances.table and c != "id"])
        table = table.merge(known.rename(columns={"id": "utterance"}), on="utterance", how="left")
        arrays = {site: utterances[site] for site in utterances.sites if utterances.is_frames(site)}
        made = FeatureBank(table.assign(seconds=table["duration"]), [Part(np.arange(len(table)), arrays)])
        made.settings, made.timing = utterances.settings, utterances.timing
        return made


def _spans(table: pd.DataFrame, hop: int, receptive_field: int) -> Int[np.ndarray, "segments 3"]:
    start, end = table["start"], table["end"]
    middle = float(frame_seconds(1, [receptive_field], [hop])[0])
    nearest = np.maximum(np.round(((start + end).to_numpy() / 2 - middle) * SAMPLE_RATE / hop), 0).astype(int)
    return np.column_stack([span(start, end, hop=hop, receptive_field=receptive_field), nearest])
