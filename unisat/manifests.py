"""Lists of speech that other tools write, as rows of a corpus's table: Kaldi, lhotse, NeMo, Common Voice.

None of these tools is needed. A row has ``path``, ``where`` (the file and line it comes from) and what else the list
says: ``id``, ``speaker``, ``session``, ``sex``, ``accent``, ``text``, ``seconds``, ``start``, ``end`` and columns of
its own.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]

SEXES = {"m": "M", "male": "M", "male_masculine": "M", "f": "F", "female": "F", "female_feminine": "F"}


def read(source: Any) -> Rows:
    """Read a list of speech; `unisat.corpus.manifest` says which there are.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is none of these lists, or something in it cannot be; the message names file and line.
    """
    if not isinstance(source, str | os.PathLike):
        return cut_set(source)
    file = Path(source)
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; check the path.")
    if file.is_dir() or file.name == "wav.scp":
        return kaldi(file if file.is_dir() else file.parent)
    if file.suffix == ".tsv":
        return common_voice(file)
    if file.name.removesuffix(".gz").endswith((".jsonl", ".json")):
        return json_lines(file)
    raise ValueError(
        f"{file} is no list of speech that is known; expected a Kaldi folder, a .jsonl or .jsonl.gz of lhotse or NeMo, "
        "or a .tsv of Common Voice. A folder with a metadata.csv is opened by unisat.corpus.folder."
    )


def is_list(file: Path) -> bool:
    """Whether a file is named as one of these lists is."""
    return file.name == "wav.scp" or file.name.removesuffix(".gz").endswith((".tsv", ".jsonl", ".json"))


def kaldi(folder: str | os.PathLike[str]) -> Rows:
    """Read ``wav.scp`` (files, no commands), and if they are there ``segments``, ``utt2spk``, ``text`` and others."""
    root = Path(folder)
    if not (root / "wav.scp").exists():
        raise FileNotFoundError(f"there is no {root / 'wav.scp'}, which a Kaldi folder has; check the path.")
    recordings = {}
    for name, (path, where) in _named(root / "wav.scp").items():
        if path.endswith("|") or path.startswith("|"):
            raise ValueError(
                f"{where}: {name!r} is a command ({path[:60]!r}), which is not run; write its sound into a file and "
                "put the path here."
            )
        if ".ark:" in path or not path:
            raise ValueError(f"{where}: expected the path of a sound file, got {path!r}; write sound files instead.")
        recordings[name] = {"path": _place(path, root), "where": where}
    segments = _segments(root / "segments", recordings) if (root / "segments").exists() else None
    found = {name: {"id": name, **row} for name, row in (recordings if segments is None else segments).items()}
    labels = {"speaker": "utt2spk", "text": "text"} | ({"seconds": "utt2dur"} if segments is None else {})
    for label, file in labels.items():
        for name, (value, where) in _named(root / file).items():
            if name not in found:
                of = "wav.scp" if segments is None else "segments"
                raise ValueError(f"{where}: utterance {name!r} is not in {of}; add it there or delete this line.")
            found[name][label] = _seconds(value, "a length", where) if label == "seconds" else value or None
    sexes = {name: SEXES.get(sex.lower()) for name, (sex, _) in _named(root / "spk2gender").items()}
    return [{**row, "sex": sexes.get(str(row.get("speaker")))} for row in found.values()]


def _segments(file: Path, recordings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Read lines such as ``utterance recording 1.25 3.5``; an end of -1 is the recording's end."""
    found = {}
    for name, (rest, where) in _named(file).items():
        if len(words := rest.split()) != 3:
            raise ValueError(f"{where}: expected an utterance, its recording, start and end, got {name} {rest[:60]}.")
        if words[0] not in recordings:
            raise ValueError(f"{where}: recording {words[0]!r} is not in wav.scp; add it there or delete this line.")
        start = _seconds(words[1], "a start", where)
        end = None if words[2] in ("-1", "-1.0") else _seconds(words[2], "an end", where)
        piece = _piece(start, end, where)
        found[name] = {**recordings[words[0]], **piece, "session": words[0], "where": where}
    return found


def _named(file: Path) -> dict[str, tuple[str, str]]:
    """Give what stands behind the first word of each line, and where; nothing if there is no such file."""
    found: dict[str, tuple[str, str]] = {}
    for where, text in _lines(file) if file.exists() else ():
        name, *rest = text.split(maxsplit=1)
        if name in found:
            raise ValueError(f"{where}: {name!r} comes a second time; names must differ.")
        found[name] = (rest[0].strip() if rest else "", where)
    return found


def common_voice(file: Path) -> Rows:
    """Read a list such as ``validated.tsv``; its sound files are in ``clips`` beside it."""
    lines = _lines(file)
    columns = next(lines, ("", ""))[1].split("\t")
    if not {"client_id", "path"} <= {*columns}:
        raise ValueError(f"{file}, line 1: expected the columns client_id, path and sentence, got {columns}.")
    lengths = file.parent / "clip_durations.tsv"  # clip, milliseconds
    seconds = {}
    for where, text in list(_lines(lengths))[1:] if lengths.exists() else ():
        clip, _, length = text.partition("\t")
        seconds[clip] = _seconds(length, "milliseconds", where) / 1000
    rows = []
    for where, text in lines:
        if len(cells := text.split("\t")) > len(columns):
            raise ValueError(f"{where}: {len(cells)} cells for {len(columns)} columns; a tab stands where none should.")
        row: dict[str, Any] = dict.fromkeys(columns) | {
            n: cell or None for n, cell in zip(columns, cells, strict=False)
        }
        if (clip := row.pop("path")) is None:
            raise ValueError(f"{where}: expected the name of a sound file in the column path, got nothing.")
        rows.append(
            {
                "path": _place(clip, file.parent / "clips"),
                "id": os.path.splitext(clip)[0],
                "speaker": row.pop("client_id"),
                "sex": SEXES.get(str(row.pop("gender", None)).lower()),
                "accent": row.pop("accents", None) or row.pop("accent", None),
                "text": row.pop("sentence", None),
                "sentence": row.pop("sentence_id", None),
                "seconds": seconds.get(clip),
                "where": where,
                **{name: cell for name, cell in row.items() if name not in ("id", "start", "end", "seconds")},
            }
        )
    return _some(rows, file)


def json_lines(file: Path) -> Rows:
    """Read a list with one JSON object a line: cuts of lhotse, or a manifest of NeMo."""
    rows = []
    for where, text in _lines(file):
        try:
            entry = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{where}: expected a JSON object on each line ({error}).") from None
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected a JSON object, got {text[:40]!r}.")
        if "audio_filepath" in entry:
            rows.append(_nemo(entry, file.parent, where))
        elif str(entry.get("type")).endswith("Cut"):
            rows.append(_cut(entry, file.parent, where))
        else:
            raise ValueError(
                f"{where}: expected a cut of lhotse or audio_filepath of NeMo, got an object with {', '.join(entry)}."
            )
    return _some(rows, file)


def cut_set(cuts: Any) -> Rows:
    """Read cuts of lhotse in memory, anything that gives objects with ``to_dict``."""
    rows = []
    for number, cut in enumerate(cuts if isinstance(cuts, Iterable) else [cuts]):
        if not hasattr(cut, "to_dict"):
            raise TypeError(
                f"expected a path or a CutSet of lhotse, got {type(cuts).__name__} of {type(cut).__name__}; "
                "unisat.Batch.from_files reads sound files."
            )
        rows.append(_cut(cut.to_dict(), Path(), f"cut {number}"))
    return _some(rows, "the CutSet")


def _cut(cut: dict[str, Any], folder: Path, where: str) -> dict[str, Any]:
    try:
        return _cut_row(cut, folder, where)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: the cut is not as lhotse writes it ({type(error).__name__}: {error}).") from None


def _cut_row(cut: dict[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """Take one cut: a recording in a file, or a piece of it, with what its supervisions say."""
    recording = cut.get("recording") or {}
    sources = recording.get("sources") or []
    changes = [one.get("name") for one in recording.get("transforms") or [] if one.get("name") != "Resample"]
    if changes or len(sources) != 1 or sources[0].get("type") != "file":
        what = f"changed by {', '.join(map(str, changes))}" if changes else "not a recording in one file"
        raise ValueError(
            f"{where}: the cut {cut.get('id')!r} ({cut.get('type')}) is {what}; write it with cuts.save_audios(folder)."
        )
    heard, there = (_channels(one) for one in (cut.get("channel"), recording.get("channel_ids")))
    if heard and there and heard != there:
        raise ValueError(
            f"{where}: the cut {cut.get('id')!r} is channel {sorted(heard)} of {sorted(there)}, and channels would be "
            "averaged; write it with cuts.save_audios(folder)."
        )
    start, seconds = (_seconds(cut.get(name), name, where) for name in ("start", "duration"))
    piece = _piece(start, start + seconds, where)
    said = cut.get("supervisions") or []
    alone = {name: {one.get(name) for one in said} for name in ("speaker", "gender", "language")}
    about = {name: values.pop() if len(values) == 1 else None for name, values in alone.items()}
    whole = start == 0 and abs(seconds - recording.get("duration", math.inf)) < 1e-3
    return {
        "path": _place(sources[0]["source"], folder),
        "id": cut.get("id"),
        "speaker": about["speaker"],
        "session": recording.get("id"),
        "sex": SEXES.get(str(about["gender"]).lower()),
        "text": " ".join(one["text"] for one in said if one.get("text")) or None,
        "seconds": seconds,
        **({} if whole else piece),
        "language": about["language"],
        "where": where,
    }


def _channels(given: Any) -> set[int]:
    return set() if given is None else set(given) if isinstance(given, list) else {given}


def _nemo(entry: dict[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """Take one line of a NeMo manifest; an ``offset`` makes it a piece of its file."""
    path, offset, seconds = (entry.pop(name, None) for name in ("audio_filepath", "offset", "duration"))
    if not path or not isinstance(path, str):
        raise ValueError(f"{where}: expected the path of a sound file in audio_filepath, got {path!r}.")
    seconds = None if seconds is None else _seconds(seconds, "duration", where)
    own = {"path", "start", "end", "seconds"}  # what these mean in a corpus, NeMo says by other names
    plain = {name: value for name, value in entry.items() if not isinstance(value, list | dict) and name not in own}
    row = {**plain, "path": _place(path, folder), "seconds": seconds, "where": where}
    row["sex"] = SEXES.get(str(row.pop("gender", row.get("sex"))).lower())
    if offset is not None:
        start = _seconds(offset, "offset", where)
        row |= _piece(start, None if seconds is None else start + seconds, where)
    for name in ("id", "speaker", "session", "text"):
        row[name] = None if row.get(name) is None else str(row[name])
    return row


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Give each line that is not empty, with its place; a line ends at a line feed alone, texts may hold others."""
    line = 0
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as given:
            for line, raw in enumerate(given, 1):
                if text := raw.decode("utf-8-sig" if line == 1 else "utf-8").strip(" \r\n"):
                    yield f"{file}, line {line}", text
    except UnicodeDecodeError:
        raise ValueError(f"{file}, line {line}: not text in UTF-8; save the file as UTF-8.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{file}, behind line {line}: the compressed file is damaged ({error}).") from None


def _seconds(value: Any, what: str, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number < math.inf:
        raise ValueError(f"{where}: {what} is a number, 0 or more; got {value!r}.")
    return number


def _piece(start: float, end: float | None, where: str) -> dict[str, float | None]:
    if end is not None and end <= start:
        raise ValueError(f"{where}: from {start:g} to {end:g} s; an utterance ends behind its start.")
    return {"start": start, "end": end, "seconds": None if end is None else end - start}


def _place(path: Any, folder: Path) -> str:
    """Find a file that a list in ``folder`` names: beside the list, or from where the program runs, as the tools do."""
    beside = os.path.abspath(os.path.join(folder, path))
    return beside if os.path.exists(beside) or not os.path.exists(path) else os.path.abspath(path)


def _some(rows: Rows, file: Any) -> Rows:
    if not rows:
        raise ValueError(f"{file} lists no utterance; expected at least one.")
    return rows
