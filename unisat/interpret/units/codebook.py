"""How a corpus uses a codebook: which entries, how evenly, and how much they know about the speaker.

An entry that no frame chose is *unseen*. It may be dead, or rare: ``unseen_below`` says how rare.

The codes of UniSpeech-SAT depend on the *contrastive layer*: the quantizer reads the hidden state of that layer, and in
pretraining at masked frames alone. (In wav2vec 2.0 it reads the output of the convolutions.) So codes of other frames,
of another layer and of another checkpoint are different codes. Collect ``quant.codes`` with ``frames="masked"``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Num
from scipy.special import gammaln, psi
from torch import nn

from unisat import clusters
from unisat.clusters import contingency, entropy
from unisat.deprecation import renamed
from unisat.interpret.activations.sites import find
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.features.labels import FrameLabels, frame_codes
from unisat.interpret.result import Result, plots
from unisat.interpret.statistics.intervals import jackknife
from unisat.interpret.statistics.shuffles import among_groups, among_rows, moved_round
from unisat.quantizer import GumbelVectorQuantizer

NO_QUANTIZER = "this checkpoint has no quantizer"
CONFIDENCE = 0.95
"""That of the share which an unseen entry has at most."""

NATS = float(np.log(2))  # of one bit


# estimates


def corrected_entropy(counts: Int[np.ndarray, "*batch entries"]) -> Float[np.ndarray, "*batch"]:
    """Estimate the entropy in nats of what the counts were drawn from, without the bias of few frames.

    Chao, Wang and Jost, "Entropy and the species accumulation curve", Methods in Ecology and Evolution 4 (2013): the
    entries that were seen once and twice say how much of the book was not seen. Of six estimators (this one, plug-in,
    Miller-Madow, Chao-Shen, Grassberger, jackknife over frames) it had the least bias on even, geometric, Zipf and
    Dirichlet books of 320 entries: 499 frames of an even book read 320, plug-in 221, Miller-Madow 284. It takes frames
    to be independent.

    Raises
    ------
    ValueError
        If a histogram is empty.
    """
    x = np.asarray(counts, dtype=float)
    n = x.sum(-1)
    if not (n > 0).all():
        raise ValueError("no frame was counted; a perplexity needs at least one.")
    known = np.where(x > 0, x, 1.0)
    seen = (x * (psi(n)[..., None] - psi(known))).sum(-1) / n
    once, twice = (x == 1).sum(-1).astype(float), (x == 2).sum(-1).astype(float)
    # share of the frames that entries seen once would have, were they seen once more
    more = (n - 1) * np.where(twice > 0, once, np.maximum(once - 1, 0))
    rare = np.where((once == 0) | (n == 1), 1.0, np.maximum(twice, 1) * 2 / (more + 2 * np.maximum(twice, 1)))[
        ..., None
    ]
    # sum over j of (1 - rare)^j / (n - 1 + j), as an integral over [0, inf) by a double exponential rule
    step = np.linspace(-4, 4.5, 120)
    at = np.exp(step - np.exp(-step))
    weight = at * (1 + np.exp(-step)) * np.exp(-at) * (step[1] - step[0])
    far = at / n[..., None]
    unseen = ((1 - rare) * weight / (rare * np.exp(-far) - np.expm1(-far))).sum(-1) / n
    return np.asarray(seen + once / n * unseen)


def rarefy(counts: Int[np.ndarray, " entries"], frames: Sequence[int] | np.ndarray) -> Float[np.ndarray, " sizes"]:
    """Give how many entries some of the counted frames, drawn at random, are expected to use (Hurlbert 1971)."""
    counts, sizes = np.asarray(counts), np.asarray(frames)
    total = int(counts.sum())
    if not ((sizes >= 0) & (sizes <= total)).all():
        raise ValueError(f"frames must lie between 0 and the {total} that were counted, got {sizes.tolist()}.")
    used = counts[counts > 0]
    left = total - used - sizes[:, None]
    # the logarithm of a ratio of factorials: ways to draw none of an entry's frames, of all ways to draw
    log_unseen = gammaln(total - used + 1) - gammaln(np.maximum(left, 0) + 1)
    log_unseen += (gammaln(total - sizes + 1) - gammaln(total + 1))[:, None]
    return (1 - np.where(left >= 0, np.exp(log_unseen), 0)).sum(1)


def unseen_if_uniform(entries: int, frames: Any) -> Any:
    """Give how many of ``entries`` a book in even use is expected not to use in so many frames."""
    return entries * (1 - 1 / entries) ** np.asarray(frames, dtype=float)


def frames_to_see_all(entries: int) -> int:
    """Give the number of frames in which a book in even use would have used all entries, 99 times in 100.

    That is the least N with ``entries (1 - 1 / entries)^N < 0.01``, 3315 frames for 320 entries. From there on unseen
    entries show that use is not even. They do not show that the entries are dead: see `unseen_below`.
    """
    return int(np.ceil(np.log(0.01 / entries) / np.log1p(-1 / entries))) if entries > 1 else 1


def unseen_probability(share: Any, frames: Any) -> Any:
    """Give the probability that none of so many frames chose an entry of this share: ``(1 - share)^frames``."""
    return (1 - np.asarray(share, dtype=float)) ** np.asarray(frames, dtype=float)


def unseen_below(frames: int) -> float:
    """Give the share that an entry has at most, with 95 % confidence, if none of so many frames chose it.

    The share at which `unseen_probability` is 5 %, about 3 of N. Frames are taken to be independent. Neighbours are
    not, so that the true limit is higher.
    """
    return float(-np.expm1(np.log1p(-CONFIDENCE) / frames))


def mutual_information(table: Num[np.ndarray, "codes labels"]) -> float:
    """Mutual information of the rows and columns of a table of counts (`unisat.clusters`), in bits."""
    return clusters.mutual_information(table) / NATS


# reports


@dataclass(frozen=True, eq=False, kw_only=True)
class CodebookReport(Result):
    """What `codebook_usage` finds.

    Attributes
    ----------
    utterances : DataFrame
        The table of the bank.
    counts : (utterances, groups, entries)
        How often each entry was chosen in each utterance.
    codes : (frames, groups) or None
        The entries that each frame chose, where the bank has them.
    information : DataFrame
        What the codes of each group know about each label, in one row for each group and label: ``mi_bits``, the mutual
        information with the label of the frame; ``floor_bits`` and ``floor_high``, its mean and 95 % quantile with the
        labels shuffled; ``corrected_bits``, by how much it exceeds the mean floor; ``pnmi``, its share of the label's
        entropy, and ``pnmi_corrected``; ``p_value``; and what was ``shuffled``.
    """

    utterances: pd.DataFrame
    counts: Int[np.ndarray, "utterances groups entries"]
    codes: Int[np.ndarray, "frames groups"] | None = None
    information: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """Give one row for each entry of each group.

        Returns
        -------
        DataFrame
            ``group``, ``entry``, ``count``, ``share`` of the frames, ``rank`` by use (0 for the most used), and
            ``even_share``, which the entry of this rank is expected to have in as many frames of a book in even use.
        """
        total = self.counts.sum(0)
        groups, entries = total.shape
        frames = total.sum(1)
        draws = np.random.default_rng(self.settings["seed"]).multinomial(frames[0], np.full(entries, 1 / entries), 50)
        even = np.sort(draws, axis=1)[:, ::-1].mean(0) / frames[0]
        rank = np.argsort(np.argsort(-total, axis=1, kind="stable"), axis=1)
        return pd.DataFrame(
            {
                "group": np.repeat(np.arange(groups), entries),
                "entry": np.tile(np.arange(entries), groups),
                "count": total.ravel(),
                "share": (total / frames[:, None]).ravel(),
                "rank": rank.ravel(),
                "even_share": even[rank].ravel(),
            }
        )

    def summary(self) -> pd.DataFrame:
        """Give one row for each group, and one for all groups together where the bank has the codes of every frame.

        Returns
        -------
        DataFrame
            ``frames``, ``entries``, ``used``, ``unseen`` and ``unseen_if_uniform``; ``unseen_below``, the share of the
            frames that an unseen entry has at most (`unseen_below`); ``perplexity`` of the counts as they are;
            ``perplexity_corrected``, at most ``entries``, with a 95 % interval ``low`` to ``high``. Two biases are
            corrected. That of few frames (`corrected_entropy`); and that of few speakers, or of few utterances where
            speakers are not known, by a jackknife: each speaker has favourites, so that few speakers use fewer entries
            than all would. (A bootstrap would repeat frames, and so hide the entries that were seen once.) With one
            speaker, and for all groups together, only the first is corrected and there is no interval.
        """
        over = self._interval_groups()
        total = self.counts.sum(0)
        groups, entries = total.shape
        rows = []
        for group, count in enumerate(total):
            corrected = _corrected(self.counts[:, group], over, entries)
            rows.append({"group": str(group), **_usage(count, entries), **corrected})
        if self.codes is not None and groups > 1:
            count = np.unique(self.codes, axis=0, return_counts=True)[1]
            corrected = _corrected(count[None], np.zeros(1), entries**groups)
            rows.append({"group": "joint", **_usage(count, entries**groups), **corrected})
        return pd.DataFrame(rows)

    def rarefied(self, points: int = 60) -> pd.DataFrame:
        """Give entries used over frames: ``group``, ``frames``, ``used`` (`rarefy`) and ``used_if_uniform``."""
        tables = []
        for group, count in enumerate(self.counts.sum(0)):
            frames = np.unique(np.geomspace(1, count.sum(), points).round().astype(int))
            even = len(count) - unseen_if_uniform(len(count), frames)
            columns = {"frames": frames, "used": rarefy(count, frames), "used_if_uniform": even}
            tables.append(pd.DataFrame({"group": group, **columns}))
        return pd.concat(tables, ignore_index=True)

    def shares(self, labels: str = "speaker", group: int = 0) -> pd.DataFrame:
        """Give the share of each entry by the values of a column: labels in rows, entries in columns."""
        if not 0 <= group < self.counts.shape[1]:
            raise ValueError(f"group={group} must be one of the {self.counts.shape[1]} groups, from 0.")
        names = FeatureBank.from_arrays(self.utterances, {}).labels(labels)
        table = pd.DataFrame(self.counts[:, group]).groupby(names).sum()
        heard = table.sum(axis=1)
        return table[heard > 0].div(heard[heard > 0], axis=0).rename_axis(index=labels, columns="entry")

    def plot(self, **options: Any) -> Any:
        """Draw how often each entry is used, most used first, against even use (`unisat.plots.code_usage`)."""
        return plots().code_usage(self.table(), summary=self.summary(), **options)

    def heatmap(self, labels: str = "speaker", *, group: int = 0, **options: Any) -> Any:
        """Draw which entries each speaker, or other label, chooses (`unisat.plots.code_heat_map`)."""
        return plots().code_heat_map(self.shares(labels, group), group=group, **options)

    def rarefaction(self, **options: Any) -> Any:
        """Draw entries used over frames, against even use (`unisat.plots.rarefaction`)."""
        return plots().rarefaction(self.rarefied(), entries=self.counts.shape[2], **options)

    def _interval_groups(self) -> Int[np.ndarray, " utterances"]:
        """The speaker of each utterance, or the utterance itself: what the jackknife leaves out."""
        if self.settings["interval_over"] == "speakers":
            return np.unique(self.utterances["speaker"].astype(str), return_inverse=True)[1]
        return np.arange(len(self.counts))


def _usage(count: Int[np.ndarray, " _"], entries: int) -> dict[str, Any]:
    frames, used = int(count.sum()), int((count > 0).sum())
    return {
        "frames": frames,
        "entries": entries,
        "used": used,
        "unseen": entries - used,
        "unseen_if_uniform": float(unseen_if_uniform(entries, frames)),
        "unseen_below": unseen_below(frames),
        "perplexity": float(np.exp(entropy(count))),
    }


def _corrected(counts: Num[np.ndarray, "utterances _"], groups: np.ndarray, entries: int) -> dict[str, float]:
    """Corrected perplexity with its 95 % interval, by a jackknife over groups of utterances."""
    parts = pd.DataFrame(counts).groupby(groups).sum().to_numpy()
    parts = parts[parts.sum(1) > 0]
    total, size = parts.sum(0), len(parts)
    middle, reach = corrected_entropy(total), np.array(np.nan)
    if size > 1:
        without = corrected_entropy(total - parts)
        middle = size * middle - (size - 1) * without.mean()
        reach = jackknife(without)
    value, low, high = np.clip(np.exp([middle, middle - reach, middle + reach]), 1, entries).tolist()
    return {"perplexity_corrected": value, "low": low, "high": high}


def codebook_usage(
    source: FeatureBank | np.ndarray,
    *,
    site: str = "quant.codes",
    entries: int | None = None,
    labels: str | Sequence[str] = (),
    within: str | None = None,
    frame_labels: Mapping[str, FrameLabels] | None = None,
    n_shuffles: int = 100,
    seed: int = 0,
) -> CodebookReport:
    """Measure how a corpus uses the codebook, group by group: used and unseen entries, perplexity, what codes know.

    Every number comes with its frames and with what a book in even use would show in as many frames: few frames leave
    much of any book unused, and their perplexity is low.

    Parameters
    ----------
    source : FeatureBank or array
        ``us.collect(model, corpus, "quant.codes", reduce="counts", frames="masked")``; with ``reduce="frames"`` codes
        of several groups are counted jointly too, and can be compared with labels of frames. Or counts,
        (groups, entries) or (utterances, groups, entries).
    site : str
        Where the codes are. They are codes of the checkpoint's contrastive layer (see above).
    entries : int, optional
        Entries in each group, ``model.config.num_codevectors_per_group``. A bank of codes needs it, since codes do not
        show how many entries there are.
    labels : str or sequence of str
        Columns of the bank, such as ``"speaker"``, which codes may know something about. For the floor, labels are
        shuffled among utterances, not among frames, since frames of one utterance are alike. A label that is the same
        in all utterances of each speaker, such as sex, is shuffled among speakers. A label that differs within
        speakers, such as the sentence, is shuffled within each speaker, so that voices say nothing about it.
    within : str, optional
        A column. Labels are then shuffled among the utterances that share its value: ``within="sentence"`` for the
        label "speaker", where all speakers say the same sentences.
    frame_labels : dict, optional
        By name, a label for each frame, such as phones or words (`unisat.clusters.interval_labels`), in any form that
        `unisat.interpret.features.labels` reads; frames with a negative number, None or an empty string are left out.
        For their floor, labels are moved round within each utterance, which leaves neighbours together; within each
        speaker where most utterances have one label only.
    n_shuffles, seed : int
        Of the floors.

    Raises
    ------
    ValueError
        If the checkpoint has no quantizer, ``source`` holds no counts or codes, a column or the label of a frame is
        missing, or a label has one value only.

    Warns
    -----
    UserWarning
        If the bank was collected on other frames than masked ones, unless the model is wav2vec 2.0's.
    """
    use = _read(source, site, entries)
    if n_shuffles < 1:
        raise ValueError(f"n_shuffles={n_shuffles} must be at least 1.")
    frames = use.about.get("frames")
    # the quantizer of wav2vec 2.0 reads convolutions, which no mask changes
    if frames not in (None, "masked") and use.about.get("family") != "wav2vec2":
        warnings.warn(
            f"these are codes of {frames} frames, but in pretraining the quantizer reads masked ones alone; "
            "us.collect(..., frames='masked') gives those.",
            UserWarning,
            stacklevel=2,
        )
    columns, draw = [labels] if isinstance(labels, str) else labels, np.random.default_rng(seed)
    rows = [row for name in columns for row in _of_utterances(use, name, within, n_shuffles, draw)]
    rows += [row for item in (frame_labels or {}).items() for row in _of_frames(use, *item, n_shuffles, draw)]
    settings = {
        "site": site,
        "model": use.about.get("model"),
        "frames": frames,
        "counted_frames": int(use.counts[:, 0].sum()),
        "estimator": "Chao, Wang and Jost 2013, jackknife",
        "interval_over": "utterances" if use.speakers is None else "speakers",
        "n_shuffles": n_shuffles,
        "seed": seed,
    }
    return CodebookReport(
        utterances=use.utterances,
        counts=use.counts,
        codes=use.codes,
        information=pd.DataFrame(rows),
        settings=settings,
    )


# reading


@dataclass(frozen=True, eq=False)
class _Use:
    """What was chosen: entries counted by utterance, and the codes of each frame where they are known."""

    utterances: pd.DataFrame
    counts: Num[np.ndarray, "utterances groups entries"]
    codes: Int[np.ndarray, "frames groups"] | None = None
    lengths: Int[np.ndarray, " utterances"] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def speakers(self) -> np.ndarray | None:
        return known_speakers(self.utterances)


def known_speakers(utterances: pd.DataFrame) -> np.ndarray | None:
    """Give who speaks in each utterance; None where that is not known of all, or one speaks in all."""
    found = utterances.get("speaker")
    if found is None or found.isna().any() or found.nunique() < 2:
        return None
    return found.astype(str).to_numpy()


def _read(source: FeatureBank | np.ndarray, site: str, entries: int | None) -> _Use:
    """Read a bank of codes or of counts, or counts at hand, and check them."""
    if isinstance(source, nn.Module):
        if find(source, GumbelVectorQuantizer) is None:
            raise ValueError(f"{NO_QUANTIZER}: only pretraining models have one (unisat.UniSpeechSatForPreTraining).")
        raise ValueError("give a bank, us.collect(model, corpus, 'quant.codes', reduce='counts', frames='masked').")
    if not isinstance(source, FeatureBank):
        counts = np.asarray(source)
        counts = counts[None] if counts.ndim == 2 else counts
        use = _Use(pd.DataFrame({"id": [f"utterance {row}" for row in range(len(counts))]}), counts)
    elif site not in source:
        raise ValueError(
            f"{NO_QUANTIZER}, or its codes were not collected: the bank has no {site!r}, only "
            f"{', '.join(source.sites) or 'statistics'}; collect 'quant.codes' of a pretraining model."
        )
    elif source.is_frames(site):
        codes, lengths = source[site], source.lengths(site)
        use = _Use(source.table, _count(codes, lengths, entries), codes, lengths, source.settings)
    else:
        use = _Use(source.table, source[site], about=source.settings)
    _check_counts(use.counts, entries, use.utterances["id"].tolist())
    return use


def _count(codes: np.ndarray, lengths: np.ndarray, entries: int | None) -> Int[np.ndarray, "utterances groups entries"]:
    if entries is None:
        raise ValueError(
            "codes do not show how large the book is; pass entries=model.config.num_codevectors_per_group."
        )
    if codes.ndim != 2 or codes.dtype.kind not in "iu" or codes.min(initial=0) < 0 or codes.max(initial=0) >= entries:
        raise ValueError(
            f"codes must be whole numbers from 0 to {entries - 1}, (frames, groups), got {codes.dtype} of "
            f"{codes.shape} up to {codes.max(initial=0)}."
        )
    utterance, shape = np.repeat(np.arange(len(lengths)), lengths), (len(lengths), entries)
    return np.stack([contingency(utterance, group, shape=shape) for group in codes.T], axis=1)


def _check_counts(counts: np.ndarray, entries: int | None, ids: list[str]) -> None:
    if counts.ndim != 3 or 0 in counts.shape or (entries is not None and counts.shape[2] != entries):
        wanted = "entries" if entries is None else str(entries)
        raise ValueError(f"counts must be (utterances, groups, {wanted}), got {counts.shape}.")
    finite = np.isfinite(counts)
    if not finite.all():
        row = int(np.argmin(finite.all((1, 2))))
        raise ValueError(f"counts of {(~finite.all((1, 2))).sum()} utterance(s) are not finite, first {ids[row]!r}.")
    if (counts < 0).any() or (counts != np.round(counts)).any():
        raise ValueError(f"counts must be whole numbers from 0, got {counts.dtype} from {counts.min()}.")
    frames = counts.sum(2)
    if (frames != frames[:, :1]).any() or not frames.sum():
        raise ValueError(
            "every frame has one code in each group, at least one frame; the groups' counts differ or are 0."
        )


# what codes know


def _of_utterances(
    use: _Use, column: str, within: str | None, n_shuffles: int, draw: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """What the codes of each group know about a column; it is shuffled at the level of its label."""
    table = FeatureBank.from_arrays(use.utterances, {})
    names = table.labels(column).astype(str)
    values = np.unique(names, return_inverse=True)[1]
    who, shared = use.speakers, None if within is None else table.labels(within).astype(str)
    of_speakers = who is not None and len(set(who)) == len(set(zip(who, values, strict=True)))
    if within is None and who is not None and of_speakers and values.max() + 1 < len(set(who)):
        shuffled, among = list(among_groups(values, who, n_shuffles, draw)), "speakers"
    else:
        if within is None and not of_speakers:
            within, shared = "speaker", who
        shuffled = list(among_rows(values, n_shuffles, draw, shared))
        among = "utterances" if shared is None else f"utterances of each {within}"
    for group in range(use.counts.shape[1]):
        tables = (_by_label(use.counts[:, group], row) for row in (values, *shuffled))
        yield {"label": column, "group": group, **information(tables, column), "shuffled": among}


def _of_frames(
    use: _Use, name: str, labels: FrameLabels, n_shuffles: int, draw: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """What the codes of each group know about labels of frames."""
    if use.codes is None or use.lengths is None:
        raise ValueError(f"{name!r} labels frames, but the codes of frames were not kept; use reduce='frames'.")
    numbers = frame_codes(labels, use.utterances["id"].tolist(), use.lengths, name)[0]
    for group, codes in enumerate(use.codes.T):
        tables, among = moved_tables(codes, numbers, use.lengths, use.speakers, n_shuffles, draw)
        yield {"label": name, "group": group, **information(tables, name), "shuffled": among}


def information(tables: Iterable[Num[np.ndarray, "codes labels"]], name: str) -> dict[str, Any]:
    """Give what codes know about a label, from a table (codes, labels) of counts and shuffled ones behind it."""
    tables = iter(tables)
    true = next(tables)
    given = entropy(true.sum(0)) / NATS
    if not given > 0:
        raise ValueError(f"{name!r} has one value only; there is nothing to know about it.")
    found, floors = mutual_information(true), np.array([mutual_information(table) for table in tables])
    floor = float(floors.mean())
    return {
        "frames": int(true.sum()),
        "values": int((true.sum(0) > 0).sum()),
        "entropy_bits": given,
        "mi_bits": found,
        "floor_bits": floor,
        "floor_high": float(np.quantile(floors, 0.95)),
        "corrected_bits": found - floor,
        "pnmi": found / given,
        "pnmi_corrected": (found - floor) / given,
        # rounding must not make an equal floor a lower one
        "p_value": float((1 + (floors >= found - 1e-12).sum()) / (1 + len(floors))),
    }


def _by_label(counts: Num[np.ndarray, "utterances entries"], values: np.ndarray) -> Num[np.ndarray, "entries labels"]:
    """Count how often each entry comes with each label."""
    order = np.argsort(values, kind="stable")
    return np.add.reduceat(counts[order], np.flatnonzero(np.diff(values[order], prepend=-1)), axis=0).T


def moved_tables(
    codes: Int[np.ndarray, " frames"],
    labels: Int[np.ndarray, " frames"],
    lengths: Int[np.ndarray, " utterances"],
    speakers: np.ndarray | None,
    n_shuffles: int,
    draw: np.random.Generator,
) -> tuple[Iterator[Int[np.ndarray, "codes labels"]], str]:
    """Give tables of counts, the true one, then those with the labels moved round; and say where they were moved.

    Frames without a label, such as silence, are left out first: labels would else come to lie on frames of another
    kind. Labels are moved within each utterance, so that what codes and labels have in common because of the speaker or
    the recording is in the floor. Where most utterances have one label only they are moved within each speaker.
    """
    known = labels >= 0
    utterance = np.repeat(np.arange(len(lengths)), lengths)[known]
    codes, labels = codes[known], labels[known]
    kinds = np.bincount(np.unique(np.stack([utterance, labels]), axis=1)[0], minlength=len(lengths))
    within, among = utterance, "frames of each utterance, moved round"
    if (kinds == 1).sum() > (kinds > 1).sum():
        within, among = np.zeros_like(utterance), "frames, moved round"
        if speakers is not None:
            within = np.unique(speakers, return_inverse=True)[1][utterance]
            among = "frames of each speaker, moved round"
            order = np.argsort(within, kind="stable")
            within, codes, labels = within[order], codes[order], labels[order]
    moved = moved_round(labels, within, n_shuffles, draw)
    return (contingency(codes, row) for row in chain([labels], moved)), among


__getattr__ = renamed(__name__, {"frames_to_call_dead": "unisat.interpret.units.codebook.frames_to_see_all"})
