"""Words, phones, speakers' turns: what is said when, read from the files that annotation tools write.

A `Segments` is one table for a whole corpus: utterance, tier, start, end, label. There are readers for Praat's
TextGrids, CTM, TIMIT, RTTM, ABX items, ELAN and the alignments of LibriSpeech, and writers for TextGrids and CTM.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from jaxtyping import Int

from unisat.files import shipped, whole_file
from unisat.frames import SAMPLE_RATE, frame_seconds

COLUMNS = ("id", "tier", "start", "end", "label")
Rule = Literal["centre", "abx"]
SLACK = 1e-6
"""Seconds by which neighbours may overlap: the rounding of files."""


class Row(NamedTuple):
    """A segment in a file, and the line where it stands."""

    id: str
    tier: str
    start: float
    end: float
    label: str
    line: int


@dataclass(frozen=True, eq=False)
class Segments:
    """Labelled stretches of the utterances of a corpus.

    Attributes
    ----------
    table : DataFrame
        One row for each segment: ``id`` of the utterance, ``tier``, ``start`` and ``end`` in seconds from the beginning
        of the utterance, ``label``. Rows are in the order of utterances, tiers and starts. Further columns are kept.

    Raises
    ------
    ValueError
        If a column is missing, a time is negative or not finite, or a segment ends before it starts.

    Examples
    --------
    >>> phones = us.Segments.read("corpus/*.TextGrid").tier("phones")
    >>> codes = phones.frames({"u1": 249})  # the phone at each of 249 frames, None in pauses
    """

    table: pd.DataFrame

    def __post_init__(self) -> None:
        table = self.table
        if lost := [name for name in COLUMNS if name not in table]:
            raise ValueError(f"segments need the columns {', '.join(COLUMNS)}; {', '.join(lost)} are missing.")
        table = table.astype({"id": str, "tier": str, "start": float, "end": float, "label": str})
        bad = ~(np.isfinite(table["start"]) & np.isfinite(table["end"]) & (table["start"] >= 0))
        bad |= table["end"] < table["start"]
        if bad.any():
            row = table[bad].iloc[0]
            raise ValueError(
                f"{bad.sum()} segment(s) have times that cannot be, first {row['label']!r} of {row['id']!r} from "
                f"{row['start']:g} to {row['end']:g} s; times are seconds from the utterance's beginning."
            )
        order = {name: number for number, name in enumerate(dict.fromkeys(table["id"]))}
        table = table.assign(_order=table["id"].map(order)).sort_values(
            ["_order", "tier", "start", "end"], kind="stable"
        )
        object.__setattr__(self, "table", table.drop(columns="_order").reset_index(drop=True))

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return f"Segments({len(self)} segments of {len(self.ids)} utterances, tiers {', '.join(self.tiers) or 'none'})"

    @property
    def ids(self) -> list[str]:
        """The utterances that have segments."""
        return self.table["id"].unique().tolist()

    @property
    def tiers(self) -> list[str]:
        """Names of the tiers."""
        return sorted(self.table["tier"].unique())

    def labels(self) -> list[str]:
        """Names of the labels of all utterances, sorted; a label's number is its place here, in every utterance."""
        return sorted(self.table["label"].unique())

    def tier(self, name: str) -> Segments:
        """Keep one tier."""
        if name not in self.tiers:
            raise ValueError(f"there is no tier {name!r}; there are {', '.join(self.tiers) or 'none'}.")
        return Segments(self.table[self.table["tier"] == name])

    def where(self, **values: Any) -> Segments:
        """Keep the segments whose columns have these values: ``where(id=["u1", "u2"], label="AA")``."""
        keep = np.ones(len(self), dtype=bool)
        for name, value in values.items():
            if name not in self.table:
                raise ValueError(f"segments have no column {name!r}; they have {', '.join(self.table)}.")
            keep &= self.table[name].isin([value] if isinstance(value, str) else value).to_numpy()
        return Segments(self.table[keep])

    def context(self) -> pd.DataFrame:
        """Give the table with ``previous`` and ``next`` label of the same tier, '' at the ends, and ``duration``."""
        by = self.table.groupby(["id", "tier"], sort=False)["label"]
        beside = {"previous": by.shift(1).fillna(""), "next": by.shift(-1).fillna("")}
        return self.table.assign(**beside, duration=self.table["end"] - self.table["start"])

    # at frames

    def frames(
        self,
        lengths: Mapping[str, int],
        rule: Rule = "centre",
        *,
        hop: int = 320,
        receptive_field: int = 400,
    ) -> dict[str, np.ndarray]:
        """Give the label at each frame of utterances, None where there is none.

        Such labels go into `unisat.codebook_usage`, `unisat.probe_layers` and `Units.purity` as they are.

        Parameters
        ----------
        lengths : dict
            Frames of each utterance by id; ``dict(zip(bank.ids, bank.lengths("hidden.1")))``.
        rule : {"centre", "abx"}
            Which frames belong to a segment, see `span`.
        hop, receptive_field : int
            Samples between frames, and samples that a frame sees.

        Raises
        ------
        ValueError
            If there is more than one tier, or segments of an utterance overlap.
        """
        if len(self.tiers) > 1:
            raise ValueError(
                f"a frame has one label, and there are the tiers {', '.join(self.tiers)}; take .tier(name)."
            )
        found = {name: np.full(length, None, dtype=object) for name, length in lengths.items()}
        for name, rows in self.table.groupby("id", sort=False):
            if name not in found:
                continue
            behind = rows["start"].to_numpy()[1:] < rows["end"].to_numpy()[:-1] - SLACK
            if behind.any():
                first = rows.iloc[int(np.argmax(behind))]
                raise ValueError(
                    f"{name!r} has segments that overlap, first behind {first['label']!r} from {first['start']:g} to "
                    f"{first['end']:g} s; a frame has one label."
                )
            spans = span(rows["start"], rows["end"], rule, hop=hop, receptive_field=receptive_field)
            for label, (first, last) in zip(rows["label"], spans, strict=True):
                found[name][first:last] = label
        return found

    def beyond(self, seconds: Mapping[str, float], slack: float = 0.05) -> pd.DataFrame:
        """Give the segments that end later than their utterance, by more than ``slack`` seconds."""
        return self.table[self.table["end"] > self.table["id"].map(seconds).fillna(np.inf) + slack]

    # files

    @classmethod
    def read(
        cls, paths: str | Path | Iterable[str | Path], *, kind: str | None = None, tier: str | None = None
    ) -> Segments:
        """Read files of segments; a file's name tells what it is.

        Parameters
        ----------
        paths : path or several
            Files, or a pattern such as ``"corpus/**/*.TextGrid"``. Where a file does not name utterances (TextGrid,
            TIMIT, ELAN) the utterance is called as the file is, without its ending.
        kind : str, optional
            One of `KINDS`, where the name does not tell.
        tier : str, optional
            What to call the tier of files that do not name tiers.

        Raises
        ------
        ValueError
            If a file is not what its name says, a time cannot be, or segments of a TextGrid's tier overlap; the message
            names the file and the line.
        """
        files = _files(paths)
        rows: list[Row] = []
        for file in files:
            name = kind or _KIND_OF.get("".join(file.suffixes[-2:]).lower()) or _KIND_OF.get(file.suffix.lower())
            if name not in KINDS:
                raise ValueError(f"{file}: cannot tell what this is; pass kind=, one of {', '.join(KINDS)}.")
            read = KINDS[name][0](file)
            rows += [_checked(row if tier is None else row._replace(tier=tier), file) for row in read]
        return cls(pd.DataFrame(rows, columns=[*COLUMNS, "line"]).drop(columns="line"))

    @classmethod
    def people(cls) -> Segments:
        """Give words and phones of `unisat.corpus.people`, tiers ``word`` and ``phone`` (39 of ARPAbet, no stress).

        They were made by forced alignment and are right to about a frame or two; data/README.md says how it was seen.
        """
        return cls.read(shipped("people") / "segments.csv")

    @classmethod
    def from_rows(cls, rows: Mapping[str, Sequence[Mapping[str, Any]]], tier: str = "segments") -> Segments:
        """Take lists of ``{"start", "end", "label"}`` by utterance, as rows of datasets hold them.

        A label may also be called ``text``, ``word``, ``phone`` or ``speaker``.
        """
        table = []
        for name, some in rows.items():
            for one in some:
                word = next((key for key in ("label", "text", "word", "phone", "speaker") if key in one), None)
                if word is None or not {"start", "end"} <= set(one):
                    raise ValueError(f"{name!r}: expected start, end and label, got {', '.join(map(str, one))}.")
                table.append((name, tier, one["start"], one["end"], one[word]))
        return cls(pd.DataFrame(table, columns=list(COLUMNS)))

    def to_textgrid(self, path: str | Path, *, id: str | None = None, seconds: float | None = None) -> None:
        """Write an utterance as a TextGrid of Praat, long form, UTF-8; gaps become empty intervals.

        Parameters
        ----------
        id : str, optional
            The utterance, if there are several.
        seconds : float, optional
            Where the recording ends; None for the end of the last segment.
        """
        mine = self._one(id)
        end = max(float(mine["end"].max()), seconds or 0.0)
        tiers = [(name, _filled(rows, end)) for name, rows in mine.groupby("tier")]
        lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end!r}"]
        lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
        for number, (name, rows) in enumerate(tiers, 1):
            lines += [f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quoted(str(name))}"]
            lines += ["        xmin = 0", f"        xmax = {end!r}", f"        intervals: size = {len(rows)}"]
            for place, (start, stop, label) in enumerate(rows, 1):
                lines += [
                    f"        intervals [{place}]:",
                    f"            xmin = {start!r}",
                    f"            xmax = {stop!r}",
                ]
                lines += [f"            text = {_quoted(label)}"]
        with whole_file(Path(path)) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def to_ctm(self, path: str | Path) -> None:
        """Write all segments of one tier as CTM: utterance, channel 1, start, duration, label."""
        if len(self.tiers) > 1:
            raise ValueError(f"CTM has no tiers, and there are {', '.join(self.tiers)}; take .tier(name).")
        if (odd := self.table["label"].str.contains(r"\s|^$") | self.table["id"].str.contains(r"\s")).any():
            raise ValueError(f"CTM cannot hold spaces; {self.table[odd].iloc[0]['label']!r} has one, or is empty.")
        text = "".join(f"{r.id} 1 {r.start:.6f} {r.end - r.start:.6f} {r.label}\n" for r in self.table.itertuples())
        with whole_file(Path(path)) as partial:
            partial.write_text(text, encoding="utf-8")

    def _one(self, name: str | None) -> pd.DataFrame:
        if name is None and len(self.ids) != 1:
            raise ValueError(f"a TextGrid is of one utterance, and there are {len(self.ids)}; say which, id=.")
        mine = self.table if name is None else self.table[self.table["id"] == name]
        if mine.empty:
            raise ValueError(f"there are no segments of {name!r}.")
        return mine


def span(
    starts: Sequence[float] | pd.Series,
    ends: Sequence[float] | pd.Series,
    rule: Rule = "centre",
    *,
    hop: int = 320,
    receptive_field: int = 400,
) -> Int[np.ndarray, "segments 2"]:
    """Give the first frame of each segment, and the one behind its last.

    With ``rule="centre"`` a frame belongs to the segment in which the middle of the samples that it sees lies, its end
    left out: ours are at 12.5 + 20 t ms. ``rule="abx"`` is that of the ABX tools (Zero Resource Speech Challenge):
    frames are taken to be centred at 10 + 20 t ms, and both ends count.
    """
    start, end = (np.asarray(side, dtype=float) for side in (starts, ends))
    if rule not in ("centre", "abx"):
        raise ValueError(f"rule={rule!r} must be 'centre' or 'abx'.")
    step = hop / SAMPLE_RATE
    if rule == "abx":
        first, last = np.ceil(start / step - 0.5 - SLACK), np.floor(end / step - 0.5 + SLACK) + 1
    else:
        middle = float(frame_seconds(1, [receptive_field], [hop])[0])
        first, last = (np.ceil((side - middle) / step - SLACK) for side in (start, end))
    first = np.maximum(first, 0).astype(int)
    return np.stack([first, np.maximum(last.astype(int), first)], axis=1)


# reading


def _files(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    if not isinstance(paths, str | Path):
        return [Path(path) for path in paths]
    if any(sign in str(paths) for sign in "*?["):
        root = Path(paths).anchor or "."
        found = sorted(Path(root).glob(str(Path(paths).relative_to(root) if Path(paths).anchor else paths)))
        if not found:
            raise ValueError(f"no file fits {str(paths)!r}.")
        return found
    return [Path(paths)]


def _checked(row: Row, file: Path) -> Row:
    if not (np.isfinite([row.start, row.end]).all() and 0 <= row.start <= row.end):
        raise ValueError(
            f"{file}, line {row.line}: {row.label!r} from {row.start:g} to {row.end:g} s; a segment starts at 0 s or "
            "later and does not end before it starts."
        )
    return row


def _text(file: Path) -> str:
    """Read text in UTF-8 or UTF-16, which tools write with a mark at the beginning."""
    data = file.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not text in UTF-8 or UTF-16 (byte {error.start} is {data[error.start]:#04x}); save it as UTF-8."
        ) from None


def _fields(file: Path, least: int, what: str, comment: str = ";;") -> Iterable[tuple[int, list[str]]]:
    """Give number and words of each line that is not empty and no comment."""
    for line, text in enumerate(_text(file).splitlines(), 1):
        if not text.strip() or text.startswith(comment):
            continue
        words = text.split()
        if len(words) < least:
            raise ValueError(f"{file}, line {line}: expected {what}, got {text.strip()[:80]!r}.")
        yield line, words


def _number(text: str, file: Path, line: int) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{file}, line {line}: expected a number of seconds or samples, got {text[:40]!r}.") from None


_TOKEN = re.compile(r'"(?:[^"]|"")*"|<exists>|<absent>|(?<![\w.\[])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w\]])')


class _Tokens:
    """The strings and numbers of a TextGrid, whose long form only adds names to those of the short form."""

    def __init__(self, file: Path) -> None:
        self.file, text = file, _text(file)
        self.found = [(match.start(), match.group()) for match in _TOKEN.finditer(text)]
        self.breaks = np.array([place for place, sign in enumerate(text) if sign == "\n"])
        self.place = 0

    @property
    def line(self) -> int:
        at = self.found[min(self.place, len(self.found) - 1)][0] if self.found else 0
        return int(np.searchsorted(self.breaks, at)) + 1

    def next(self, what: str) -> str:
        if self.place >= len(self.found):
            raise ValueError(f"{self.file}, line {self.line}: the file ends where {what} is expected.")
        self.place += 1
        return self.found[self.place - 1][1]

    def string(self, what: str) -> str:
        line, token = self.line, self.next(what)
        if not token.startswith('"'):
            raise ValueError(f"{self.file}, line {line}: expected {what} in quotes, got {token[:40]!r}.")
        return token[1:-1].replace('""', '"')

    def number(self, what: str) -> float:
        line, token = self.line, self.next(what)
        if token.startswith(('"', "<")):
            raise ValueError(f"{self.file}, line {line}: expected {what}, a number, got {token[:40]!r}.")
        return float(token)


def _textgrid(file: Path) -> list[Row]:
    """Long and short text form of Praat; points become segments without a length, empty intervals are left out."""
    tokens, rows = _Tokens(file), []
    if tokens.string("'ooTextFile'") != "ooTextFile" or tokens.string("'TextGrid'") != "TextGrid":
        raise ValueError(f"{file} is no TextGrid in Praat's text form (Praat: Save as text file).")
    tokens.number("the beginning"), tokens.number("the end")
    if tokens.next("<exists>") != "<exists>":
        return []
    for _ in range(int(tokens.number("the number of tiers"))):
        kind, name = tokens.string("a tier's class"), tokens.string("a tier's name")
        if kind not in ("IntervalTier", "TextTier"):
            raise ValueError(f"{file}, line {tokens.line}: a tier is an IntervalTier or a TextTier, not {kind!r}.")
        tokens.number("the tier's beginning"), tokens.number("the tier's end")
        last = 0.0
        for _ in range(int(tokens.number("the number of intervals"))):
            line, start = tokens.line, tokens.number("a start")
            end = tokens.number("an end") if kind == "IntervalTier" else start
            label = tokens.string("a label").strip()
            if kind == "IntervalTier" and 0 <= start < last - SLACK:
                raise ValueError(
                    f"{file}, line {line}: {label!r} starts at {start:g} s, before the end of the one before it, "
                    f"{last:g} s."
                )
            last = max(last, end)
            if label:
                rows.append(Row(file.stem, name, start, end, label, line))
    return rows


def _ctm(file: Path) -> list[Row]:
    rows = []
    for line, (name, _, start, duration, label, *_) in _fields(file, 5, "utterance, channel, start, duration, label"):
        begin = _number(start, file, line)
        rows.append(Row(name, "word", begin, begin + _number(duration, file, line), label, line))
    return rows


def _timit(tier: str) -> Callable[[Path], list[Row]]:
    def read(file: Path) -> list[Row]:
        rows = []
        for line, (start, end, *label) in _fields(file, 3, "first sample, last sample, label"):
            first, last = (_number(side, file, line) / SAMPLE_RATE for side in (start, end))
            rows.append(Row(file.stem, tier, first, last, " ".join(label), line))
        return rows

    return read


def _rttm(file: Path) -> list[Row]:
    rows = []
    for line, words in _fields(file, 8, "SPEAKER, file, channel, start, duration, <NA>, <NA>, name"):
        if words[0] == "SPEAKER":
            start = _number(words[3], file, line)
            rows.append(Row(words[1], "speaker", start, start + _number(words[4], file, line), words[7], line))
    return rows


def _item(file: Path) -> list[Row]:
    rows = []
    for line, words in _fields(file, 4, "file, onset, offset, label", comment="#"):
        rows.append(
            Row(words[0], "phone", _number(words[1], file, line), _number(words[2], file, line), words[3], line)
        )
    return rows


def _alignment(file: Path) -> list[Row]:
    """Words of a chapter and where each ends, a line for an utterance: ``84-121123-0000 ",GO,,DO" "0.49,0.89,…"``."""
    rows = []
    for line, text in enumerate(_text(file).splitlines(), 1):
        found = re.fullmatch(r'(\S+) "(.*)" "(.*)"\s*', text)
        if text.strip() and (found is None or found[2].count(",") != found[3].count(",")):
            raise ValueError(f'{file}, line {line}: expected utterance "words" "ends", as many of each.')
        if found:
            ends = [_number(end, file, line) for end in found[3].split(",")]
            spans = zip([0.0, *ends[:-1]], ends, found[2].split(","), strict=True)
            rows += [Row(found[1], "word", start, end, word, line) for start, end, word in spans if word]
    return rows


def _eaf(file: Path) -> list[Row]:
    """Tiers of ELAN; an annotation that refers to another one has the other's times."""
    text = _text(file)
    if "<!ENTITY" in text:
        raise ValueError(f"{file} defines entities, which no ELAN file needs; it is not read.")
    try:
        root = ElementTree.fromstring(text.encode())
    except ElementTree.ParseError as error:
        raise ValueError(f"{file}, line {error.position[0]}: not an ELAN file ({error}).") from None
    at = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
    times: dict[str | None, tuple[float, float]] = {}
    rows, waiting = [], []
    for tier in root.iter("TIER"):
        for one in tier.iter():
            value = (one.findtext("ANNOTATION_VALUE") or "").strip()
            name = str(tier.get("TIER_ID"))
            if one.tag == "ALIGNABLE_ANNOTATION":
                slots = [at.get(one.get(f"TIME_SLOT_REF{side}")) for side in (1, 2)]
                if None in slots:
                    raise ValueError(
                        f"{file}: annotation {one.get('ANNOTATION_ID')!r} of {name!r} has no times; align it in ELAN."
                    )
                start, end = (float(str(slot)) / 1000 for slot in slots)
                times[one.get("ANNOTATION_ID")] = start, end
                rows.append((name, start, end, value))
            elif one.tag == "REF_ANNOTATION":
                waiting.append((name, one.get("ANNOTATION_ID"), one.get("ANNOTATION_REF"), value))
    while waiting:
        ready = [one for one in waiting if one[2] in times]
        if not ready:
            raise ValueError(f"{file}: annotation {waiting[0][1]!r} refers to {waiting[0][2]!r}, which has no times.")
        for name, own, other, value in ready:
            times[own] = times[other]
            rows.append((name, *times[other], value))
        waiting = [one for one in waiting if one[1] not in times]
    return [Row(file.stem, name, start, end, value, 0) for name, start, end, value in rows if value]


def _table(file: Path) -> list[Row]:
    """A comma-separated table with the columns of `Segments.table`."""
    rows = []
    for line, one in enumerate(csv.DictReader(_text(file).splitlines()), 2):
        if not set(COLUMNS) <= set(one) or None in one.values():
            raise ValueError(f"{file}, line {line}: expected the columns {', '.join(COLUMNS)}.")
        start, end = (_number(one[side], file, line) for side in ("start", "end"))
        rows.append(Row(one["id"], one["tier"], start, end, one["label"], line))
    return rows


KINDS: dict[str, tuple[Callable[[Path], list[Row]], tuple[str, ...]]] = {
    "textgrid": (_textgrid, (".textgrid",)),
    "ctm": (_ctm, (".ctm",)),
    "timit-phones": (_timit("phone"), (".phn",)),
    "timit-words": (_timit("word"), (".wrd",)),
    "rttm": (_rttm, (".rttm",)),
    "item": (_item, (".item",)),
    "elan": (_eaf, (".eaf",)),
    "librispeech": (_alignment, (".alignment.txt",)),
    "table": (_table, (".csv",)),
}
"""What can be read: a reader, and the endings of such files."""

_KIND_OF = {ending: name for name, (_, endings) in KINDS.items() for ending in endings}


# writing


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _filled(rows: pd.DataFrame, end: float) -> list[tuple[float, float, str]]:
    """The intervals of a tier from 0 to ``end``, with empty ones in the gaps."""
    filled: list[tuple[float, float, str]] = []
    last = 0.0
    for row in rows.itertuples():
        if row.start < last - SLACK:
            raise ValueError(
                f"{row.label!r} of tier {row.tier!r} overlaps the one before it; Praat's intervals cannot."
            )
        if row.start > last + SLACK:
            filled.append((last, row.start, ""))
        filled.append((max(last, row.start), row.end, row.label))
        last = row.end
    return [*filled, (last, end, "")] if end > last + SLACK else filled
