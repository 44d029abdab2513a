"""What a codebook does over a corpus: which entries it uses, how evenly, and how much they know about the speaker.

The codes of this model depend on the *contrastive layer*: the quantizer reads that layer's hidden state, in pretraining
at masked frames alone, not the output of the convolutions as in wav2vec 2.0. Codes of other frames, of another layer or
of another checkpoint are other codes: collect ``quant.codes`` with ``frames="masked"``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import nn

from unisat.clusters import entropy
from unisat.interpret.activations.sites import find
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.result import Result, plots
from unisat.quantizer import GumbelVectorQuantizer

NO_QUANTIZER = "this checkpoint has no quantizer"
DEAD = 0.01
"""Entries without a frame are called dead where a book in even use would leave *any* entry unused less often."""

NATS = float(np.log(2))  # of one bit
FrameLabels = Mapping[str, Sequence[Any] | np.ndarray] | Sequence[Any] | np.ndarray
"""A label for each frame, by utterance id, or of all frames one behind the other."""


# estimates


def corrected_entropy(counts: Int[np.ndarray, "*batch entries"]) -> Float[np.ndarray, "*batch"]:
    """Entropy in nats of what the counts were drawn from, the bias of few frames taken off.

    Chao, Wang and Jost, "Entropy and the species accumulation curve", Methods in Ecology and Evolution 4 (2013):
    entries seen once and twice say how much of the book was not seen. Of six estimators tried on even, geometric, Zipf
    and Dirichlet books of 320 entries (plug-in, Miller-Madow, Chao-Shen, Grassberger, jackknife over frames) it had the
    least bias: an even book at 499 frames reads 320, plug-in 221, Miller-Madow 284. It takes frames for independent.

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
    seen = (x * (_digamma(n)[..., None] - _digamma(known))).sum(-1) / n
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


def _digamma(x: Any) -> np.ndarray:
    return torch.digamma(torch.as_tensor(x)).numpy()


def rarefy(counts: Int[np.ndarray, " entries"], frames: Sequence[int] | np.ndarray) -> Float[np.ndarray, " sizes"]:
    """How many entries so many of the counted frames, drawn at random, are expected to use (Hurlbert 1971)."""
    counts, sizes = np.asarray(counts), np.asarray(frames)
    total = int(counts.sum())
    if not ((sizes >= 0) & (sizes <= total)).all():
        raise ValueError(f"frames must lie between 0 and the {total} that were counted, got {sizes.tolist()}.")

    def log_factorial(n: np.ndarray) -> np.ndarray:
        return torch.lgamma(torch.as_tensor(n, dtype=torch.float64) + 1).numpy()

    used = counts[counts > 0]
    left = total - used - sizes[:, None]
    log_unseen = log_factorial(total - used) - log_factorial(np.maximum(left, 0))
    log_unseen += (log_factorial(total - sizes) - log_factorial(np.asarray(total)))[:, None]
    return (1 - np.where(left >= 0, np.exp(log_unseen), 0)).sum(1)


def unseen_if_uniform(entries: int, frames: Any) -> Any:
    """How many of ``entries`` a book that uses all alike is expected not to use in so many frames."""
    return entries * (1 - 1 / entries) ** np.asarray(frames, dtype=float)


def frames_to_call_dead(entries: int) -> int:
    """From how many frames on an unused entry is called dead: where even use would have used all, 99 times in 100.

    That is ``entries (1 - 1 / entries)^frames < 0.01``, 3315 frames for 320 entries. An entry unused in N frames may
    still be in use, but less than in 3 of N frames (95 % confidence).
    """
    return int(np.ceil(np.log(DEAD / entries) / np.log1p(-1 / entries))) if entries > 1 else 1


def mutual_information(table: np.ndarray) -> float:
    """Plug-in mutual information of the rows and columns of a table of counts, in bits."""
    return (entropy(table.sum(0)) + entropy(table.sum(1)) - entropy(np.ravel(table))) / NATS


# reports


@dataclass(frozen=True, eq=False, kw_only=True)
class CodebookReport(Result):
    """What `codebook_usage` finds.

    Attributes
    ----------
    utterances : DataFrame
        Whose codes they are.
    counts : (utterances, groups, entries)
        How often each entry was chosen in each utterance.
    codes : (frames, groups) or None
        The entries that each frame chose, where the bank has them.
    information : DataFrame
        What the codes of each group know about each label, one row each: ``mi_bits``, mutual information with the label
        of the frame; ``floor_bits`` and ``floor_high``, its mean and 95 % quantile with the labels shuffled;
        ``corrected_bits``, what is over the mean floor; ``pnmi``, its share of the label's entropy, and
        ``pnmi_corrected``; ``p_value``; and what was ``shuffled``.
    """

    utterances: pd.DataFrame
    counts: Int[np.ndarray, "utterances groups entries"]
    codes: Int[np.ndarray, "frames groups"] | None = None
    information: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """One row for each entry of each group.

        Returns
        -------
        DataFrame
            ``group``, ``entry``, ``count``, ``share`` of the frames, ``rank`` by use (0: most used), ``even_share``
            that the entry of this rank is expected to have in a book in even use at as many frames, and ``dead``.
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
                "dead": ((total == 0) & (frames[:, None] >= frames_to_call_dead(entries))).ravel(),
            }
        )

    def summary(self) -> pd.DataFrame:
        """One row for each group, and one for all groups together where the bank has the codes of every frame.

        Returns
        -------
        DataFrame
            ``frames``, ``entries``, ``used``, ``unseen`` and ``unseen_if_uniform``; ``dead``, missing where there are
            too few frames to tell (`frames_to_call_dead`); ``perplexity``, plug-in; ``perplexity_corrected``, at
            most ``entries``, with an interval ``low`` to ``high``. Two corrections: of the frames' number
            (`corrected_entropy`), and, by a jackknife over speakers (over utterances where speakers are not known),
            of their number: each speaker has favourites, so that few speakers use fewer entries than all would. (A
            bootstrap would repeat frames, and so hide the entries seen once.) With one unit, and jointly, there is
            the first alone and no interval.
        """
        units = self._units()
        total = self.counts.sum(0)
        groups, entries = total.shape
        rows = []
        for group, count in enumerate(total):
            rows.append(
                {"group": str(group), **_usage(count, entries), **_corrected(self.counts[:, group], units, entries)}
            )
        if self.codes is not None and groups > 1:
            count = np.unique(self.codes, axis=0, return_counts=True)[1]
            corrected = _corrected(count[None], np.zeros(1), entries**groups)
            rows.append({"group": "joint", **_usage(count, entries**groups), **corrected, "dead": None})
        table = pd.DataFrame(rows)
        return table.assign(dead=table["dead"].astype("Int64"))

    def rarefied(self, points: int = 60) -> pd.DataFrame:
        """Entries used over frames: ``group``, ``frames``, ``used`` (`rarefy`) and ``used_if_uniform``."""
        tables = []
        for group, count in enumerate(self.counts.sum(0)):
            frames = np.unique(np.geomspace(1, count.sum(), points).round().astype(int))
            even = len(count) - unseen_if_uniform(len(count), frames)
            columns = {"frames": frames, "used": rarefy(count, frames), "used_if_uniform": even}
            tables.append(pd.DataFrame({"group": group, **columns}))
        return pd.concat(tables, ignore_index=True)

    def shares(self, labels: str = "speaker", group: int = 0) -> pd.DataFrame:
        """How often each value of a column of the table chooses each entry: labels in rows, entries in columns."""
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

    def _units(self) -> np.ndarray:
        """Whom the interval is over: a number for each utterance."""
        if self.settings["interval_over"] == "speakers":
            return np.unique(self.utterances["speaker"].astype(str), return_inverse=True)[1]
        return np.arange(len(self.counts))


def _usage(count: np.ndarray, entries: int) -> dict[str, Any]:
    frames, used = int(count.sum()), int((count > 0).sum())
    return {
        "frames": frames,
        "entries": entries,
        "used": used,
        "unseen": entries - used,
        "unseen_if_uniform": float(unseen_if_uniform(entries, frames)),
        "dead": entries - used if frames >= frames_to_call_dead(entries) else None,
        "perplexity": float(np.exp(entropy(count))),
    }


def _corrected(counts: Int[np.ndarray, "utterances used"], units: np.ndarray, entries: int) -> dict[str, float]:
    """Corrected perplexity with its 95 % interval, by a jackknife that leaves out one unit after another."""
    parts = pd.DataFrame(counts).groupby(units).sum().to_numpy()
    parts = parts[parts.sum(1) > 0]
    size, middle, reach = len(parts), corrected_entropy(parts.sum(0)), np.nan
    if size > 1:
        without = corrected_entropy(parts.sum(0) - parts)
        middle = size * middle - (size - 1) * without.mean()
        z, degrees = 1.959964, size - 1
        # Student's 97.5 % quantile, Cornish-Fisher
        t = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        reach = t * np.sqrt(degrees / size * np.square(without - without.mean()).sum())
    value, low, high = np.clip(np.exp([middle, middle - reach, middle + reach]), 1, entries).tolist()
    return {"perplexity_corrected": value, "low": low, "high": high}


def codebook_usage(
    source: FeatureBank | np.ndarray,
    *,
    site: str = "quant.codes",
    entries: int | None = None,
    labels: str | Sequence[str] = (),
    frame_labels: Mapping[str, FrameLabels] | None = None,
    n_shuffles: int = 100,
    seed: int = 0,
) -> CodebookReport:
    """Find out how a corpus uses the codebook, group by group: entries used and dead, perplexity, what the codes know.

    Every number comes with its frames and with what a book in even use would show at as many: over few frames much of
    any book is unused, and its perplexity is low.

    Parameters
    ----------
    source : FeatureBank or array
        ``us.collect(model, corpus, "quant.codes", reduce="counts", frames="masked")``; with ``reduce="frames"`` codes
        of several groups are counted jointly too, and can be compared with labels of frames. Or counts at hand,
        (groups, entries) or (utterances, groups, entries).
    site : str
        Where the codes are. What they are codes of is the contrastive layer of the checkpoint (see above).
    entries : int, optional
        Entries in each group, ``model.config.num_codevectors_per_group``: needed where the bank has codes, which do not
        show how many there are.
    labels : str or sequence of str
        Columns of the bank, such as ``"speaker"``: how much do codes tell of them? The floor is that of labels shuffled
        among utterances, not frames, since frames of one utterance are alike; a label that is the same in all
        utterances of each speaker, such as sex, is shuffled among speakers.
    frame_labels : dict, optional
        By name, a label for each frame, such as phones or words (`unisat.clusters.interval_labels`): a dict from
        utterance id, or one sequence for all frames; frames with a negative number, None or an empty string are left
        out. Their floor is that of labels moved round by a random number of frames, which leaves neighbours together.
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
        If the bank was collected on other frames than masked ones.
    """
    if isinstance(source, nn.Module):
        if find(source, GumbelVectorQuantizer) is None:
            raise ValueError(f"{NO_QUANTIZER}: only pretraining models have one (unisat.UniSpeechSatForPreTraining).")
        raise ValueError("give a bank, us.collect(model, corpus, 'quant.codes', reduce='counts', frames='masked').")
    if n_shuffles < 1:
        raise ValueError(f"n_shuffles={n_shuffles} must be at least 1.")
    about: Mapping[str, Any] = {}
    codes = lengths = None
    if isinstance(source, FeatureBank):
        about = source.about
        if site not in source:
            raise ValueError(
                f"{NO_QUANTIZER}, or its codes were not collected: the bank has no {site!r}, only "
                f"{', '.join(source.sites) or 'statistics'}; collect 'quant.codes' of a pretraining model."
            )
        utterances = source.table
        if source.is_frames(site):
            codes, lengths = source[site], source.lengths(site)
            counts = _count(codes, lengths, entries)
        else:
            counts = source[site]
    else:
        counts = np.asarray(source)
        counts = counts[None] if counts.ndim == 2 else counts
        utterances = pd.DataFrame({"id": [f"utterance {row}" for row in range(len(counts))]})
    _check_counts(counts, entries, utterances["id"].tolist())
    if (frames := about.get("frames")) not in (None, "masked"):
        warnings.warn(
            f"these are codes of {frames} frames, but in pretraining the quantizer reads masked ones alone; "
            "us.collect(..., frames='masked') gives those.",
            UserWarning,
            stacklevel=2,
        )
    speakers = utterances.get("speaker")
    by_speaker = speakers is not None and speakers.notna().all() and speakers.nunique() > 1
    draw = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for name in [labels] if isinstance(labels, str) else labels:
        values = np.unique(FeatureBank.from_arrays(utterances, {}).labels(name).astype(str), return_inverse=True)[1]
        shuffled, among = _shuffles(values, utterances if by_speaker else None, n_shuffles, draw)
        for group in range(counts.shape[1]):
            tables = (_by_label(counts[:, group], row) for row in (values, *shuffled))
            rows.append({"label": name, "group": group, **information(tables, name), "shuffled": among})
    for name, given in (frame_labels or {}).items():
        if codes is None or lengths is None:
            raise ValueError(f"{name!r} labels frames, but the codes of frames were not kept; use reduce='frames'.")
        phones = frame_codes(given, utterances["id"].tolist(), lengths, name)[0]
        for group in range(counts.shape[1]):
            moved = moved_tables(codes[:, group], phones, n_shuffles, draw)
            rows.append({"label": name, "group": group, **information(moved, name), "shuffled": "frames, moved round"})
    settings = {
        "site": site,
        "model": about.get("model"),
        "frames": frames,
        "counted_frames": int(counts[:, 0].sum()),
        "frames_to_call_dead": frames_to_call_dead(counts.shape[2]),
        "estimator": "Chao, Wang and Jost 2013, jackknife",
        "interval_over": "speakers" if by_speaker else "utterances",
        "n_shuffles": n_shuffles,
        "seed": seed,
    }
    return CodebookReport(
        utterances=utterances, counts=counts, codes=codes, information=pd.DataFrame(rows), settings=settings
    )


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
    utterance = np.repeat(np.arange(len(lengths)), lengths)
    count = np.zeros((len(lengths), codes.shape[1], entries), dtype=int)
    for group in range(codes.shape[1]):
        np.add.at(count[:, group], (utterance, codes[:, group]), 1)
    return count


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


# labels


def information(tables: Iterable[np.ndarray], name: str) -> dict[str, Any]:
    """What codes know about a label, from a table (codes, labels) of counts and shuffled ones behind it."""
    tables = iter(tables)
    true = next(tables)
    given = entropy(true.sum(0)) / NATS
    if not given > 0:
        raise ValueError(f"{name!r} has one value only; there is nothing to know about it.")
    found, floors = mutual_information(true), np.array([mutual_information(table) for table in tables])
    return {
        "frames": int(true.sum()),
        "values": int((true.sum(0) > 0).sum()),
        "entropy_bits": given,
        "mi_bits": found,
        "floor_bits": float(floors.mean()),
        "floor_high": float(np.quantile(floors, 0.95)),
        "corrected_bits": found - float(floors.mean()),
        "pnmi": found / given,
        "pnmi_corrected": (found - float(floors.mean())) / given,
        # rounding must not make an equal floor a lower one
        "p_value": float((1 + (floors >= found - 1e-12).sum()) / (1 + len(floors))),
    }


def _shuffles(
    values: np.ndarray, utterances: pd.DataFrame | None, n_shuffles: int, draw: np.random.Generator
) -> tuple[list[np.ndarray], str]:
    """Labels shuffled among utterances, or among speakers if they are the speakers' own."""
    if utterances is not None:
        speakers, first = np.unique(utterances["speaker"].astype(str), return_index=True)
        who = np.searchsorted(speakers, utterances["speaker"].astype(str))
        if len(np.unique(values)) < len(speakers) and (values == values[first][who]).all():
            return [draw.permutation(values[first])[who] for _ in range(n_shuffles)], "speakers"
    return [draw.permutation(values) for _ in range(n_shuffles)], "utterances"


def _by_label(counts: Int[np.ndarray, "utterances entries"], values: np.ndarray) -> np.ndarray:
    """(entries, labels): how often each entry comes with each label."""
    order = np.argsort(values, kind="stable")
    return np.add.reduceat(counts[order], np.flatnonzero(np.diff(values[order], prepend=-1)), axis=0).T


def moved_tables(
    codes: np.ndarray, labels: np.ndarray, n_shuffles: int, draw: np.random.Generator
) -> Iterator[np.ndarray]:
    """Tables (codes, labels) of counts: the true one, and with the labels moved round by random numbers of frames."""
    size = codes.max() + 1, labels.max() + 1
    for shift in (0, *draw.integers(1, max(2, len(codes)), size=n_shuffles)):
        moved = np.roll(labels, shift)
        known = moved >= 0
        yield np.bincount(codes[known] * size[1] + moved[known], minlength=size[0] * size[1]).reshape(size)


def frame_codes(
    labels: FrameLabels, ids: Sequence[str], lengths: Int[np.ndarray, " utterances"], name: str = "labels"
) -> tuple[Int[np.ndarray, " frames"], list[str]]:
    """Give a number for each frame's label, -1 where it has none, and the labels' names.

    Raises
    ------
    ValueError
        If an utterance has no labels, or not as many as frames; or no frame has one.
    """
    if isinstance(labels, Mapping):
        if lost := [utterance for utterance in ids if utterance not in labels]:
            raise ValueError(
                f"{name!r} has nothing for {len(lost)} utterance(s), first {lost[0]!r}; give each its labels, or take "
                "the others with bank.take(rows)."
            )
        parts = [np.asarray(labels[utterance]) for utterance in ids]
        for utterance, part, length in zip(ids, parts, lengths, strict=True):
            if part.shape != (length,):
                raise ValueError(f"{utterance!r} has {length} frames, but {name!r} of shape {part.shape} for it.")
        flat = pd.Series(np.concatenate([part.astype(object) for part in parts]))
    else:
        given = np.asarray(labels)
        if given.shape != (lengths.sum(),):
            raise ValueError(f"{name!r} must have one label for each of the {lengths.sum()} frames, got {given.shape}.")
        flat = pd.Series(given.astype(object))
    missing = (flat.isna() | (flat == "")).to_numpy(copy=True)
    missing[~missing] = [not isinstance(label, str) and label < 0 for label in flat[~missing]]
    names, codes = np.unique(flat[~missing].astype(str), return_inverse=True)
    if not len(names):
        raise ValueError(f"no frame has a label in {name!r}.")
    numbers = np.full(len(flat), -1)
    numbers[~missing] = codes
    return numbers, names.tolist()
