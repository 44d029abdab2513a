"""Units, the clusters of a layer's frames: which phones or words they stand for, and how each of them sounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from unisat.clusters import Clusters, cluster_quality, fit
from unisat.corpus import Batch, Corpus
from unisat.frames import SAMPLE_RATE, frame_seconds
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.features.labels import FrameLabels, frame_codes
from unisat.interpret.result import Result, plots
from unisat.interpret.units.codebook import known_speakers, moved_tables


@dataclass(frozen=True, eq=False, kw_only=True)
class Units(Result):
    """The unit (cluster) of each frame, which `units` gives.

    Attributes
    ----------
    clusters : Clusters
        The centroids; ``clusters.assign(features)`` gives the units of other frames.
    utterances : DataFrame
        The bank's table.
    lengths : (utterances,)
        How many frames each utterance has.
    assigned : (frames,)
        The unit of each frame, utterances one behind the other.
    distances : (frames,)
        How far each frame is from its unit's centroid.
    """

    clusters: Clusters
    utterances: pd.DataFrame
    lengths: Int[np.ndarray, " utterances"]
    assigned: Int[np.ndarray, " frames"]
    distances: Float[np.ndarray, " frames"]

    def table(self) -> pd.DataFrame:
        """Give one row for each unit.

        Returns
        -------
        DataFrame
            ``unit``, ``frames``, ``share`` of all frames, the number of ``utterances`` that have it, its ``runs``
            (stretches of adjacent frames), their ``mean_seconds`` counted in hops, and the ``mean_distance`` of its
            frames from the centroid.
        """
        runs = self.runs()
        by_unit = runs.groupby("unit")
        rows = pd.DataFrame({"unit": np.arange(len(self.clusters.centroids))})
        found = pd.DataFrame(
            {
                "frames": by_unit["frames"].sum(),
                "utterances": by_unit["row"].nunique(),
                "runs": by_unit.size(),
                "mean_seconds": by_unit["frames"].mean() * np.diff(self._seconds(2, 0.0))[0],
                "mean_distance": pd.Series(self.distances).groupby(self.assigned).mean(),
            }
        )
        rows = rows.join(found, on="unit").fillna({"frames": 0, "utterances": 0, "runs": 0})
        rows = rows.astype({"frames": int, "utterances": int, "runs": int})
        rows.insert(2, "share", rows["frames"] / len(self.assigned))
        return rows

    def runs(self) -> pd.DataFrame:
        """Give one row for each stretch of frames of one unit, in the order of speech.

        Returns
        -------
        DataFrame
            ``unit``, ``row`` of the utterance, ``start`` (its first frame), ``frames``, and the mean ``distance`` from
            the centroid.
        """
        row = np.repeat(np.arange(len(self.lengths)), self.lengths)
        firsts = np.flatnonzero(np.diff(self.assigned, prepend=-1) | np.diff(row, prepend=-1))
        frames = np.diff(np.append(firsts, len(self.assigned)))
        starts = np.cumsum(self.lengths) - self.lengths
        return pd.DataFrame(
            {
                "unit": self.assigned[firsts],
                "row": row[firsts],
                "start": firsts - starts[row[firsts]],
                "frames": frames,
                "distance": np.add.reduceat(self.distances, firsts) / frames,
            }
        )

    def purity(self, labels: FrameLabels, *, n_shuffles: int = 100, seed: int = 0) -> pd.DataFrame:
        """Measure phone purity, cluster purity and PNMI (HuBERT, arXiv:2106.07447), each with its floor.

        Parameters
        ----------
        labels : dict or sequence
            A label for each frame, such as the phone, in any form that `unisat.interpret.features.labels` reads. Frames
            with a negative number, None or an empty string are left out.
        n_shuffles, seed : int
            Of the floor: the same measures with the labels moved round within each utterance, or within each speaker
            where most utterances have one label only. Phone purity rises with the number of units, so that a value
            without its floor says nothing.

        Returns
        -------
        DataFrame
            Rows ``phone_purity`` (accuracy of guessing each unit's most frequent phone), ``cluster_purity`` (accuracy
            of guessing each phone's most frequent unit) and ``pnmi`` (share of the phone's entropy that the unit takes
            away), with ``value``, ``floor`` (mean), ``floor_high`` (95 % quantile), the ``frames`` with a label, and
            what was ``shuffled``.

        Raises
        ------
        ValueError
            If an utterance has no labels, or not as many as frames.
        """
        if n_shuffles < 1:
            raise ValueError(f"n_shuffles={n_shuffles} must be at least 1.")
        phones = frame_codes(labels, self.utterances["id"].tolist(), self.lengths)[0]
        draw, speakers = np.random.default_rng(seed), known_speakers(self.utterances)
        tables, among = moved_tables(self.assigned, phones, self.lengths, speakers, n_shuffles, draw)
        found = pd.DataFrame(map(cluster_quality, tables))[["phone_purity", "cluster_purity", "pnmi"]]
        floors = found[1:]
        columns = {"value": found.iloc[0], "floor": floors.mean(), "floor_high": floors.quantile(0.95)}
        table = pd.DataFrame(columns).rename_axis("metric").reset_index()
        return table.assign(frames=int((phones >= 0).sum()), shuffled=among)

    def shares(self, labels: FrameLabels) -> pd.DataFrame:
        """Give the share of each label in each unit, (units, labels): rows sum to 1, units without labels are left out.

        Parameters
        ----------
        labels : dict or sequence
            As in `purity`.
        """
        phones, names = frame_codes(labels, self.utterances["id"].tolist(), self.lengths)
        known = phones >= 0
        table = pd.crosstab(self.assigned[known], np.array(names)[phones[known]], normalize="index")
        return table.rename_axis(index="unit", columns="label")

    def exemplars(self, unit: int, n: int = 5, *, by: Literal["longest", "closest"] = "longest") -> pd.DataFrame:
        """Find where a unit is heard best: its longest runs, or the runs closest to the centroid.

        Returns
        -------
        DataFrame
            ``id``; ``start_seconds``, of the first sample that the convolutions see for the first frame, and
            ``end_seconds``, of the last sample that they see for the last frame; ``frames``; and the mean ``distance``
            from the centroid. The best run comes first.
        """
        if not 0 <= unit < len(self.clusters.centroids):
            raise ValueError(f"unit={unit} must be one of the {len(self.clusters.centroids)} units, from 0.")
        if by not in ("longest", "closest") or n < 1:
            raise ValueError(f"by={by!r} must be 'longest' or 'closest', and n={n} at least 1.")
        runs = self.runs().assign(length=lambda table: -table["frames"])
        keys = ["length", "distance"] if by == "longest" else ["distance", "length"]
        best = runs[runs["unit"] == unit].sort_values(keys, kind="stable").head(n)
        begins, ends = (self._seconds(int(self.lengths.max()), at) for at in (0.0, 1.0))
        first, last = best["start"], best["start"] + best["frames"] - 1
        return pd.DataFrame(
            {
                "id": self.utterances["id"].to_numpy()[best["row"]],
                "start_seconds": begins[first],
                "end_seconds": ends[last],
                "frames": best["frames"],
                "distance": best["distance"],
            }
        ).reset_index(drop=True)

    def audio(
        self,
        unit: int,
        source: Corpus | Batch,
        n: int = 5,
        *,
        by: Literal["longest", "closest"] = "longest",
        context: float = 0.0,
    ) -> Batch:
        """Cut the `exemplars` of a unit out of the speech, for listening.

        Parameters
        ----------
        source : Corpus or Batch
            What the bank was collected from.
        context : float
            Seconds to add before and behind, as far as the utterance goes.

        Raises
        ------
        ValueError
            If an utterance is not in ``source``.
        """
        if not context >= 0:
            raise ValueError(f"context={context} seconds must be at least 0.")
        table = self.exemplars(unit, n, by=by)
        if table.empty:
            raise ValueError(f"no frame is of unit {unit}; there is nothing to hear.")
        ids = source.table["id"].tolist() if isinstance(source, Corpus) else list(source.ids)
        if lost := set(table["id"]) - set(ids):
            raise ValueError(f"{min(lost)!r} is not in {source!r}; pass what the bank was collected from.")
        names = list(dict.fromkeys(table["id"]))
        places = [ids.index(name) for name in names]
        batch = source.batch(places) if isinstance(source, Corpus) else source[places]
        clips = []
        for row in table.itertuples():
            wave = batch.waveforms[batch.ids.index(row.id)]
            first, last = (round(seconds * SAMPLE_RATE) for seconds in (row.start_seconds, row.end_seconds))
            margin = round(context * SAMPLE_RATE)
            clips.append(wave[max(0, first - margin) : last + margin])
        return Batch.from_arrays(
            clips,
            sampling_rate=SAMPLE_RATE,
            ids=[f"{row.id} {row.start_seconds:.3f} to {row.end_seconds:.3f} s" for row in table.itertuples()],
            speaker=[batch.speakers[batch.ids.index(name)] for name in table["id"]],
        )

    def plot(self, labels: FrameLabels | None = None, **options: Any) -> Any:
        """Draw how long and how frequent the units are or, with labels of frames, which label each unit has."""
        if labels is None:
            return plots().unit_durations(self.table(), **options)
        return plots().unit_labels(self.shares(labels), **options)

    def _seconds(self, frames: int, at: float) -> Float[np.ndarray, " frames"]:
        return frame_seconds(frames, [self.settings["receptive_field"]], [self.settings["hop"]], at).numpy()


def units(bank: FeatureBank, site: str, k: int = 100, *, seed: int = 0) -> Units:
    """Cluster the frames of a layer into ``k`` units by k-means, as HuBERT does to make its targets.

    Parameters
    ----------
    bank : FeatureBank
        From ``us.collect(model, corpus, site, reduce="frames")``.
    site : str
        A site of the bank, such as ``hidden.6``.
    k : int
        How many units to make.
    seed : int
        The seed of k-means (`unisat.clusters.fit`).

    Raises
    ------
    ValueError
        If the site has no frames, or only masked or only visible frames, whose times are not known; if there are fewer
        frames than units; or if a value is not finite.
    """
    if k < 2:
        raise ValueError(f"k={k} must be at least 2.")
    lengths = bank.lengths(site)
    if bank.settings.get("frames") not in (None, "valid"):
        raise ValueError(
            f"the bank has {bank.settings['frames']} frames only, whose times are not known; collect with "
            "frames='valid'."
        )
    features = torch.from_numpy(bank.features(site).astype(np.float32))
    found = fit(features, k, seed)
    assigned = found.assign(features)
    near = [part - found.centroids[code] for part, code in zip(features.split(8192), assigned.split(8192), strict=True)]
    distances = torch.cat([part.norm(dim=1) for part in near])
    settings = {
        "site": site,
        "model": bank.settings.get("model"),
        "k": k,
        "seed": seed,
        "frames": len(features),
        "mean_squared_distance": found.inertia,
        "hop": bank.settings.get("hop", 320),
        "receptive_field": bank.settings.get("receptive_field", 400),
    }
    return Units(
        clusters=found,
        utterances=bank.table,
        lengths=lengths,
        assigned=assigned.numpy(),
        distances=distances.numpy(),
        settings=settings,
    )
