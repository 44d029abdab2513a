"""Speech with its labels: a `Batch` of utterances in memory, a `Corpus` of files that are read when needed.

corpus = us.corpus.folder("LibriSpeech/dev-clean")    # or us.corpus.builtin(), us.corpus.manifest("cuts.jsonl.gz")
batch = corpus.where(sex="F").sample(4, seed=0).batch()
model(batch.input_values, attention_mask=batch.attention_mask)
"""

from __future__ import annotations

import codecs
import csv
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unisat import audio, manifests
from unisat.audio import decoded
from unisat.files import in_utf_8, shipped
from unisat.frames import SAMPLE_RATE, valid_positions
from unisat.layouts import LAYOUTS, tree

Rows = int | slice | Sequence[int] | np.ndarray | Tensor
"""A choice of utterances: a number, a slice or several numbers."""

COLUMNS = ["path", "id", "speaker", "session", "sex", "accent", "sentence", "text", "seconds"]
"""Columns that every `Corpus.table` has; a corpus's own columns follow them."""

PIECE = ["start", "end"]
"""Columns, in seconds, that a table has where files hold several utterances; an empty one is the file's beginning or
end."""


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """Utterances of any lengths with their labels; an unknown label is None.

    Attributes
    ----------
    waveforms
        One tensor ``(samples,)`` for each utterance, 16,000 samples a second, as it was recorded: for listening.
    ids
        One name for each utterance; all names differ.
    speakers, sessions, texts, paths
        Speaker, recording session, spoken text and file of each utterance.
    do_normalize
        Whether `input_values` brings each utterance to zero mean and unit variance. The checkpoint's files say
        whether the model was trained so.
    """

    waveforms: tuple[Float[Tensor, " _"], ...]
    ids: tuple[str, ...]
    speakers: tuple[str | None, ...]
    sessions: tuple[str | None, ...]
    texts: tuple[str | None, ...]
    paths: tuple[Path | None, ...]
    do_normalize: bool = True

    def __post_init__(self) -> None:
        if not self.waveforms:
            raise ValueError("a batch needs at least one utterance, got none.")
        for name in LABELS:
            if len(getattr(self, name)) != len(self):
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries for {len(self)} utterances; give one for each."
                )
        if twice := [name for name, count in Counter(self.ids).items() if count > 1]:
            raise ValueError(f"ids must differ, {twice} come(s) more than once; pass others with ids=[...].")

    @classmethod
    def from_files(
        cls,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        speaker: Any = None,
        session: Any = None,
        ids: Any = None,
        text: Any = None,
        do_normalize: bool = True,
    ) -> Batch:
        """Read sound files of any rate with `unisat.audio.load`.

        ``speaker``, ``session`` and ``text`` are one label for all files or a list with one for each. By default
        ``ids`` are the file names without their endings.
        """
        files = [Path(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
        names = _short_names([file.as_posix() for file in files]) if ids is None else ids
        waveforms = [audio.load(file) for file in files]
        labels = {"ids": names, "speakers": speaker, "sessions": session, "texts": text}
        return cls._labelled(waveforms, do_normalize, **labels, paths=[Path(os.path.abspath(file)) for file in files])

    @classmethod
    def from_arrays(
        cls,
        arrays: Any,
        *,
        sampling_rate: int | None = None,
        speaker: Any = None,
        session: Any = None,
        ids: Any = None,
        text: Any = None,
        do_normalize: bool = True,
    ) -> Batch:
        """Take one array ``(samples,)`` or a list of them, at 16,000 samples a second.

        `unisat.audio.as_waveform` says what an array may be and why ``sampling_rate`` must be given.
        """
        if isinstance(arrays, Tensor | np.ndarray) and arrays.ndim > 1:
            raise ValueError(
                f"an array of shape {tuple(arrays.shape)} may hold utterances or channels; pass list(array) for "
                "utterances, or unisat.audio.as_waveform(array, 16000) for the channels of one."
            )
        one = isinstance(arrays, Tensor | np.ndarray) or (len(arrays) > 0 and np.isscalar(arrays[0]))
        waveforms = [audio.as_waveform(array, sampling_rate) for array in ([arrays] if one else arrays)]
        names = [f"utterance {row}" for row in range(len(waveforms))] if ids is None else ids
        labels = {"ids": names, "speakers": speaker, "sessions": session, "texts": text}
        return cls._labelled(waveforms, do_normalize, **labels, paths=None)

    @classmethod
    def from_rows(
        cls,
        rows: Any,
        audio: str = "audio",
        *,
        id: str | None = None,
        speaker: str | None = None,
        session: str | None = None,
        text: str | None = None,
        do_normalize: bool = True,
    ) -> Batch:
        """Take rows of a Hugging Face dataset: one, a list of them, or the lists of columns that ``ds[:8]`` gives.

        All arguments are names of columns. `unisat.audio.decoded` says what ``audio`` may hold; rows that are such a
        sound themselves are taken too. A streaming dataset gives batches so: ``for rows in ds.iter(8)``.
        """
        listed = _as_rows(rows, audio)
        labels = {}
        for name, column in {"ids": id, "speakers": speaker, "sessions": session, "texts": text}.items():
            if column is not None and (lost := [row for row in listed if column not in row]):
                raise ValueError(f"rows have no column {column!r}; they have {', '.join(map(str, lost[0]))}.")
            labels[name] = None if column is None else [row[column] for row in listed]
        names = [f"utterance {row}" for row in range(len(listed))]
        labels["ids"] = names if labels["ids"] is None else labels["ids"]
        waveforms = [decoded(row.get(audio, row), name) for row, name in zip(listed, names, strict=True)]
        return cls._labelled(waveforms, do_normalize, **labels, paths=None)

    @classmethod
    def _labelled(cls, waveforms: list[Tensor], do_normalize: bool, **labels: Any) -> Batch:
        """Make a batch with labels for every utterance, and warn of silence."""
        columns: dict[str, Any] = {name: _spread(given, len(waveforms)) for name, given in labels.items()}
        batch = cls(tuple(waveforms), do_normalize=do_normalize, **columns)
        silent = [name for name, wave in zip(batch.ids, waveforms, strict=True) if wave.min() == wave.max()]
        if silent:
            warnings.warn(f"nothing but silence in {', '.join(silent)}.", UserWarning, stacklevel=3)
        return batch

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Number of samples of each utterance."""
        return torch.tensor([len(waveform) for waveform in self.waveforms])

    @property
    def seconds(self) -> Float[Tensor, " batch"]:
        """Length of each utterance in seconds."""
        return self.lengths.double() / SAMPLE_RATE

    @property
    def input_values(self) -> Float[Tensor, "batch samples"]:
        """What the model reads: each utterance normalised by itself and padded with zeros to the longest one."""
        prepared = [audio.normalize(wave) if self.do_normalize else wave for wave in self.waveforms]
        return pad_sequence(prepared, batch_first=True)

    @property
    def attention_mask(self) -> Int[Tensor, "batch samples"]:
        """1 on the samples of each utterance, 0 on the padding behind them."""
        return valid_positions(self.lengths, int(self.lengths.max())).long()

    def table(self) -> pd.DataFrame:
        """One row for each utterance: id, speaker, session, seconds, text."""
        seconds = self.seconds.numpy()
        rows = zip(self.ids, self.speakers, self.sessions, seconds, self.texts, strict=True)
        return pd.DataFrame(rows, columns=["id", "speaker", "session", "seconds", "text"])

    def __len__(self) -> int:
        return len(self.waveforms)

    def __getitem__(self, rows: Rows) -> Batch:
        chosen = _positions(rows, len(self))
        columns: dict[str, Any] = {
            name: tuple(getattr(self, name)[row] for row in chosen) for name in ["waveforms", *LABELS]
        }
        return replace(self, **columns)

    def __iter__(self) -> Iterator[Batch]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        shortest, longest, total = self.seconds.min(), self.seconds.max(), self.seconds.sum()
        return (
            f"Batch(utterances={len(self)}, speakers={_distinct(self.speakers)}, "
            f"seconds={shortest:.2f} to {longest:.2f}, {total:.2f} in all)"
        )


LABELS = [field.name for field in fields(Batch) if field.name not in ("waveforms", "do_normalize")]


class Corpus:
    """A table of sound files, which are read only when a batch is asked for.

    Parameters
    ----------
    table
        One row for each utterance with at least ``path`` and ``id``; see `COLUMNS`. Other columns are kept. Where a
        file holds several utterances, ``start`` and ``end`` say in seconds where each of them is.
    unreadable
        Files that were left out, with the reason. A subset shares this dictionary with the corpus it comes from.
    stored
        Gives the sound in a row of a dataset, by the number in the column ``row``, for utterances without a path; see
        `from_dataset`.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        unreadable: dict[str, str] | None = None,
        stored: Callable[[int], Any] | None = None,
    ) -> None:
        if missing := [name for name in ("path", "id") if name not in table]:
            raise ValueError(f"a corpus table needs the column(s) {missing}; it has {list(table)}.")
        if table.empty:
            raise ValueError("a corpus needs at least one utterance, got an empty table.")
        if table["id"].isna().any():
            raise ValueError(f"{table['id'].isna().sum()} of {len(table)} ids are empty; give each utterance a name.")
        if table["id"].nunique() < len(table):
            twice = table["id"][table["id"].duplicated()].tolist()
            raise ValueError(f"ids must differ, {twice} come(s) more than once; change the column id.")
        others = [name for name in table if name not in COLUMNS]
        self.table = table.reindex(columns=COLUMNS + others).reset_index(drop=True)
        if {*PIECE} & {*others}:
            _check_pieces(self.table)
        self._unreadable = {} if unreadable is None else unreadable
        self._stored = stored

    @classmethod
    def from_dataset(
        cls,
        ds: Any,
        audio: str = "audio",
        *,
        id: str | None = None,
        speaker: str | None = None,
        session: str | None = None,
        text: str | None = None,
        seconds: str | None = None,
        **columns: str,
    ) -> Corpus:
        """Open a dataset of Hugging Face's ``datasets`` (2 to 4); sounds are read when they are needed.

        Its files are decoded here, so that ffmpeg, torchaudio and torchcodec are not needed.

        Parameters
        ----------
        ds
            One split of a dataset.
        audio
            The column of sounds: of the type ``Audio``, or with anything that `unisat.audio.decoded` takes.
        id, speaker, session, text, seconds
            Columns with these labels. Without ``seconds`` the headers of all sounds are read once.
        **columns
            Further columns, by the name that they get: ``sex="gender"``.

        Raises
        ------
        ValueError
            If there is no such column, or no sound can be read.
        TypeError
            If the dataset is streamed, or has several splits.
        """
        named = {"id": id, "speaker": speaker, "session": session, "text": text, "seconds": seconds, **columns}
        return _stored_speech(ds, audio, {name: column for name, column in named.items() if column is not None})

    @property
    def report(self) -> pd.DataFrame:
        """Path (or, of a piece, id) and reason of what could not be read; a subset lists what the whole corpus does."""
        # pandas's own strings are all in UTF-8
        return pd.DataFrame(sorted(self._unreadable.items()), columns=["path", "reason"], dtype=object)

    def where(self, **columns: Any) -> Corpus:
        """Keep the utterances whose columns have these values, or one of a list of values.

        ``corpus.where(sex="F", speaker=["v01", "v02"])``. An unknown column, and values that no utterance has,
        raise a ValueError.
        """
        keep = pd.Series(True, index=self.table.index)
        for name, wanted in columns.items():
            if name not in self.table:
                raise ValueError(f"there is no column {name!r}; there are {', '.join(self.table)}.")
            keep &= self.table[name].isin([wanted] if wanted is None or np.isscalar(wanted) else list(wanted))
            if not keep.any():
                there = sorted(map(str, self.table[name].dropna().unique()))
                raise ValueError(
                    f"no utterance fits {columns}; {name} is one of: "
                    f"{', '.join(there[:20])}{', ...' if len(there) > 20 else ''}."
                )
        return self[np.flatnonzero(keep)]

    def sample(self, utterances: int, seed: int) -> Corpus:
        """Draw this many utterances at random and keep the table's order; the same seed draws the same ones."""
        if not 1 <= utterances <= len(self):
            raise ValueError(f"cannot draw {utterances} of {len(self)} utterances; ask for 1 to {len(self)}.")
        drawn = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:utterances]
        return self[sorted(drawn.tolist())]

    def waveform(self, row: int) -> Float[Tensor, " samples"]:
        """Read one utterance: a file, or the piece of it that ``start`` and ``end`` name."""
        utterance = self.table.iloc[row]
        if self._stored is not None and pd.isna(utterance["path"]):
            return decoded(self._stored(int(utterance["row"])), utterance["id"])
        return audio.load(utterance["path"], **span(utterance))

    def batch(self, rows: Rows = slice(None), *, do_normalize: bool = True) -> Batch:
        """Read the utterances in these rows of the table, all by default.

        A file that cannot be read is left out with a warning and listed in `report`. If none can be read, a
        ValueError is raised.
        """
        chosen = _positions(rows, len(self))
        batch = self._read(chosen, do_normalize)
        if batch is None:
            first = self._unreadable[self._name(chosen[0])]
            raise ValueError(f"none of the {len(chosen)} utterance(s) could be read. {first}")
        return batch

    def batches(self, batch_size: int, *, do_normalize: bool = True) -> Iterator[Batch]:
        """Read all utterances in the table's order, ``batch_size`` rows at a time; leave out what cannot be read."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        rows = range(len(self))
        read = (self._read(rows[start : start + batch_size], do_normalize) for start in rows[::batch_size])
        return (batch for batch in read if batch is not None)

    def _read(self, rows: Sequence[int], do_normalize: bool) -> Batch | None:
        """Read those of these rows that can be read; None if none can."""
        waveforms, read = [], []
        for row in rows:
            try:
                waveforms.append(self.waveform(row))
                read.append(row)
            except (ValueError, OSError) as error:
                self._unreadable[self._name(row)] = str(error)
                warnings.warn(f"left out: {error}", UserWarning, stacklevel=3)
        if not read:
            return None
        table = self.table.iloc[read]
        return Batch._labelled(
            waveforms,
            do_normalize,
            ids=table["id"],
            speakers=table["speaker"],
            sessions=table["session"],
            texts=table["text"],
            paths=[None if pd.isna(path) else Path(path) for path in table["path"]],
        )

    def _name(self, row: int) -> str:
        """Give the name under which an utterance is reported: its path, or its id where it is only a piece."""
        utterance = self.table.iloc[row]
        alone = span(utterance) == WHOLE and not pd.isna(utterance["path"])
        return str(utterance["path"] if alone else utterance["id"])

    def __getitem__(self, rows: Rows) -> Corpus:
        return Corpus(self.table.iloc[_positions(rows, len(self))], self._unreadable, self._stored)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        minutes = self.table["seconds"].sum() / 60
        return (
            f"Corpus(utterances={len(self)}, speakers={_distinct(self.table['speaker'])}, "
            f"minutes={minutes:.1f}, unreadable={len(self._unreadable)})"
        )


def _as_rows(rows: Any, audio: str) -> list[Mapping[str, Any]]:
    """Give a list of rows, from one, several, or columns."""
    if isinstance(rows, Mapping):
        columns = isinstance(rows.get(audio), Sequence) and not isinstance(rows[audio], str | bytes)
        rows = (
            [dict(zip(rows, cells, strict=True)) for cells in zip(*rows.values(), strict=True)] if columns else [rows]
        )
    rows = list(rows)
    if wrong := [row for row in rows if not isinstance(row, Mapping)]:
        raise TypeError(f"a row of a dataset is a mapping from columns to values; got {type(wrong[0]).__name__}.")
    return rows


def _stored_speech(ds: Any, audio: str, columns: dict[str, str]) -> Corpus:
    """Make a corpus of a dataset; ``columns`` are its columns by the names that they get."""
    if isinstance(ds, Mapping):
        raise TypeError(f"there are the splits {', '.join(map(str, ds))}; pass one of them, ds[{next(iter(ds))!r}].")
    if not hasattr(ds, "column_names") or not hasattr(ds, "__len__"):
        raise TypeError(
            f"a {type(ds).__name__} has no rows to choose from; expected a dataset that is not streamed. Of a stream, "
            "unisat.Batch.from_rows takes rows: for rows in ds.iter(8)."
        )
    if missing := [name for name in (audio, *columns.values()) if name not in ds.column_names]:
        raise ValueError(f"there is no column {missing[0]!r}; there are {', '.join(ds.column_names)}.")
    plain = ds.with_format(None)
    table = pd.DataFrame(
        {name: _stored_labels(plain, column) for name, column in columns.items()}, index=range(len(ds))
    )
    table = table.assign(path=None, row=range(len(ds)))
    table["id"] = [f"utterance {row}" for row in table["row"]] if "id" not in table else table["id"].map(_label)
    sounds, feature = plain.remove_columns([name for name in ds.column_names if name != audio]), ds.features[audio]
    if getattr(feature, "decode", False):
        sounds = sounds.cast_column(audio, replace(feature, decode=False))

    def stored(row: int) -> Any:
        return sounds[row][audio]

    unreadable: dict[str, str] = {}
    if "seconds" not in table:
        lengths = [_stored_seconds(stored, row, name, unreadable) for row, name in enumerate(table["id"])]
        table["seconds"] = lengths
        if len(unreadable) == len(table):
            raise ValueError(
                f"no sound in the dataset could be read. {next(iter(unreadable.values()), 'It is empty.')}"
            )
        if unreadable:
            warnings.warn(f"{len(unreadable)} row(s) left out; see report.", UserWarning, stacklevel=4)
        table = table[table["seconds"].notna()]
    return Corpus(table, unreadable, stored)


def _stored_labels(ds: Any, column: str) -> list[Any]:
    """Give a column of labels; numbers of classes become their names."""
    names, values = getattr(ds.features[column], "names", None), list(ds[column])
    if names is None:
        return values
    return [None if value is None or value < 0 else names[value] for value in values]


def _stored_seconds(stored: Callable[[int], Any], row: int, name: str, unreadable: dict[str, str]) -> float | None:
    """Measure a sound in a dataset, by its header where it is a file; one that cannot be read is listed."""
    try:
        sound = stored(row)
        if (
            isinstance(sound, Mapping)
            and sound.get("array") is None
            and (file := sound.get("bytes") or sound.get("path"))
        ):
            return audio.duration(file)
        return len(decoded(sound, name)) / SAMPLE_RATE
    except (ValueError, TypeError, OSError) as error:
        unreadable[name] = f"{name}: {error}"
        return None


WHOLE = {"start": 0.0, "end": None}


def span(utterance: Any) -> dict[str, Any]:
    """Say between which seconds of its file an utterance is, as `audio.load` takes it, from a row of a table."""
    start, end = (utterance.get(name) for name in PIECE)
    return {"start": 0.0 if pd.isna(start) else float(start), "end": None if pd.isna(end) else float(end)}


def _check_pieces(table: pd.DataFrame) -> None:
    """Turn the columns ``start`` and ``end`` into numbers, refuse times that cannot be, and fill in ``seconds``."""
    for name in PIECE:
        given = table[name] if name in table else pd.Series(np.nan, index=table.index)
        table[name] = pd.to_numeric(given, errors="coerce").astype(float)
        wrong = (table[name].isna() & given.notna()) | (table[name] < 0) | np.isinf(table[name])
        if wrong.any():
            utterance, found = table["id"][wrong].iloc[0], str(given[wrong].iloc[0])
            raise ValueError(
                f"{name} of utterance {utterance!r} is {found!r}; expected seconds from the beginning of its file."
            )
    begin = table["start"].fillna(0.0)
    if (wrong := table["end"] <= begin).any():
        one = table[wrong].iloc[0]
        raise ValueError(f"utterance {one['id']!r} ends at {one['end']:g} s, not behind its start; correct the times.")
    table["seconds"] = table["seconds"].astype(float).fillna(table["end"] - begin)


def folder(path: str | os.PathLike[str], layout: str = "auto") -> Corpus:
    """Find the speech under a folder, and read its labels from file names and companion files.

    Parameters
    ----------
    path
        The folder of a corpus, or of a part of it whose files are where they were.
    layout
        How the files are laid out; ``"auto"`` takes the first of these layouts that fits most files:

        - ``"metadata"``: a ``metadata.csv`` with a column ``path``, relative to the folder, and any others;
        - ``"kaldi"``: ``wav.scp`` without commands; if there are, ``segments``, ``utt2spk``, ``text``, ``utt2dur`` and
          ``spk2gender``, session = recording;
        - ``"librispeech"``: ``84/121123/84-121123-0000.flac``, session = chapter, texts from
          ``84-121123.trans.txt``, sexes from ``SPEAKERS.TXT``;
        - ``"libritts"``: ``84/121123/84_121123_000007_000001.wav``, session = chapter, texts from
          ``84_121123_000007_000001.normalized.txt``, sexes from ``SPEAKERS.txt``;
        - ``"mls"``: ``audio/10148/10119/10148_10119_000000.flac``, session = book, texts from ``transcripts.txt``,
          sexes from ``metainfo.txt``;
        - ``"voxceleb"``: ``id10001/1zcIwhmdeo4/00001.wav``, session = video;
        - ``"vctk"``: ``wav48/p225/p225_001.wav`` or ``p225_001_mic1.flac`` (with a column ``microphone``), texts
          from ``txt/p225/p225_001.txt``, sexes and accents from ``speaker-info.txt``;
        - ``"timit"``: ``DR1/FCJF0/SA1.WAV``, accent = dialect region, sex = first letter, texts from ``SA1.TXT``;
        - ``"aishell"``: ``S0002/BAC009S0002W0122.wav``, texts from ``transcript/aishell_transcript_v0.8.txt``, sexes
          from ``speaker.info``;
        - ``"folders"``: ``<speaker>/<session>/<utterance>.wav``, with or without sessions. Chosen by ``"auto"``, it
          leaves speakers empty, with a warning, where the folders do not seem to be speakers.

    Returns
    -------
    Corpus
        Its rows have the order of ``metadata.csv``, or else of the paths. Only headers are read. Links are
        followed, and keep their own names. Files that cannot be read or do not fit the layout are left out with a
        warning and listed in ``report``.
    """
    root = os.path.abspath(path)
    if layout not in ("auto", *LAYOUTS):
        raise ValueError(f"layout must be 'auto' or one of {', '.join(LAYOUTS)}; got {layout!r}.")
    if not os.path.exists(root):
        raise FileNotFoundError(f"{path} does not exist; check the path.")
    if not os.path.isdir(root):
        raise ValueError(f"{path} is a file, expected a folder; use Batch.from_files for files.")
    unreadable: dict[str, str] = {}
    lists = {"metadata": "metadata.csv", "kaldi": "wav.scp"}
    there = [name for name, file in lists.items() if os.path.exists(os.path.join(root, file))]
    chosen = next(iter(there), layout) if layout == "auto" else layout
    if chosen == "kaldi":
        return _measured(manifests.kaldi(root), unreadable, str(path))
    rows = _metadata(Path(root)) if chosen == "metadata" else tree(root, layout, unreadable)
    paths = [row.pop("relative") for row in rows]
    _name_rows(rows, paths)
    for row, relative in zip(rows, paths, strict=True):
        # links stay as they are: DVC, git-annex and the hub link to files that are named by a hash
        row |= {"path": os.path.abspath(os.path.join(root, relative)), "seconds": None}
    return _measured(rows, unreadable, str(path))


def manifest(source: Any) -> Corpus:
    """Open the speech that a list of another tool names; the tool itself is not needed.

    Parameters
    ----------
    source
        - A Kaldi folder (``wav.scp``; see `folder`).
        - ``cuts.jsonl`` or ``cuts.jsonl.gz`` of lhotse, or a ``CutSet`` in memory: cuts of recordings in files, with
          speaker, sex, language and text of their supervisions. A cut with several supervisions is one utterance.
        - A JSONL manifest of NeMo: ``audio_filepath``, ``duration``, ``offset``, ``text``, ``speaker`` and others.
        - A TSV of Common Voice (``validated.tsv``), with the folder ``clips`` beside it.

    Returns
    -------
    Corpus
        Its rows have the order of the list. Paths are looked for beside the list, then from the current folder. Files
        that do not exist are left out with a warning and listed in ``report``; those whose length the list does not
        say are measured.

    Raises
    ------
    ValueError
        If the list is of another kind, or something in it cannot be; the message names file and line.
    """
    rows = manifests.read(source)
    _name_rows(rows, [row["path"] for row in rows])
    return _measured(rows, {}, str(source) if isinstance(source, str | os.PathLike) else "the CutSet")


def _name_rows(rows: list[dict[str, Any]], paths: list[str]) -> None:
    """Name the utterances without an id after their files, and pieces of files also after their starts."""
    whole = list(dict.fromkeys(map(in_utf_8, paths)))
    names = dict(zip(whole, _short_names(whole), strict=True))
    for row, path in zip(rows, paths, strict=True):
        name, start = names[in_utf_8(path)], span(row)["start"]
        row["id"] = _label(row.get("id")) or (name if span(row) == WHOLE else f"{name}-{start:g}")


def _measured(rows: list[dict[str, Any]], unreadable: dict[str, str], source: str) -> Corpus:
    """Make a corpus of utterances with ``path`` and ``id``; ask the files for ``seconds`` where they are not known."""
    readable, there = [], dict[str, bool]()
    for row in rows:
        path, piece, where = row["path"], span(row), row.pop("where", None)
        try:
            if row.get("seconds") is None or not there.setdefault(path, os.path.exists(path)):
                row["seconds"] = audio.duration(path, **piece)
            readable.append(row)
        except (ValueError, OSError) as error:
            unreadable[path if piece == WHOLE else row["id"]] = f"{where}: {error}" if where else str(error)
    if not readable:
        raise ValueError(f"no sound file in {source} could be read. {next(iter(unreadable.values()))}")
    if unreadable:
        warnings.warn(f"{len(unreadable)} file(s) in {source} left out; see report.", UserWarning, stacklevel=3)
    paths = pd.Series([row.pop("path") for row in readable], dtype=object)
    return Corpus(pd.DataFrame(readable).assign(path=paths), unreadable)


def builtin() -> Corpus:
    """The speech that comes with unisat: 24 synthetic voices, each of which says the same 12 sentences."""
    return folder(shipped("speech"), layout="metadata")


def people() -> Corpus:
    """Speech of 45 people that comes with unisat: two to eight pieces of 3 to 6 seconds each, with transcripts.

    Read English of LibriSpeech, speechocean762 (not native speakers) and VCTK, as many women as men. The built-in
    checkpoint's next training leaves them out. ``session`` is the recording that a piece was cut from. Words and phones
    are in ``us.Segments.people()``; attribution is in data/README.md.
    """
    return folder(shipped("people"), layout="metadata")


def read_table(file: Path, dtype: Mapping[str, Any] | type = str) -> pd.DataFrame:
    """Read a table, CSV or Parquet: in UTF-8, or in UTF-16 as spreadsheets save it; only empty cells are missing.

    Raises
    ------
    ValueError
        If it is no table; the message names the file, and the line that has more cells than there are columns.
    """
    try:
        if file.suffix.lower() == ".parquet":
            return pd.read_parquet(file)
        with file.open("rb") as opened:
            encoding = "utf-16" if opened.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8"
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # cells that would be lost
            options = {"dtype": dtype, "keep_default_na": False, "na_values": [""], "encoding": encoding}
            with pd.read_csv(file, **options, index_col=False, chunksize=2**16) as parts:
                return pd.concat(parts, ignore_index=True)
    except ImportError as error:
        raise ImportError(f"{file} needs pyarrow: pip install 'unisat[train]'.") from error
    except (ValueError, pd.errors.ParserWarning) as error:
        too_long = isinstance(error, pd.errors.ParserError | pd.errors.ParserWarning)
        said = _long_line(file, encoding) if too_long else str(error)
        kind = "Parquet" if file.suffix.lower() == ".parquet" else "comma-separated table in UTF-8"
        raise ValueError(f"{file} is not a {kind} ({said}); save it as one.") from error


def _long_line(file: Path, encoding: str) -> str:
    """Name the first line of a CSV file that has more cells than there are columns."""
    with file.open(encoding=encoding, newline="") as opened:
        cells = csv.reader(opened)
        columns = len(next(cells, []))
        return next((f"line {cells.line_num} has more than {columns} cells" for row in cells if len(row) > columns), "")


def _metadata(root: Path) -> list[dict[str, Any]]:
    """Read the rows of ``metadata.csv``; labels stay strings even if they look like numbers."""
    file = root / "metadata.csv"
    if not file.exists():
        raise FileNotFoundError(f"there is no {file}; layout='metadata' is {LAYOUTS['metadata']}.")
    table = read_table(file, {name: str for name in COLUMNS if name != "seconds"})
    if "path" not in table or table.empty:
        raise ValueError(f"{file} needs a column path and at least a row; its columns are {list(table)}.")
    pieces = ["path", *(name for name in ("start",) if name in table)]
    if (wrong := table["path"].isna() | table.duplicated(pieces)).any():
        lines = (table.index[wrong] + 2).tolist()
        raise ValueError(f"{file} needs a different path in each row; see line(s) {lines}.")
    return table.rename(columns={"path": "relative"}).to_dict("records")


def _short_names(paths: list[str]) -> list[str]:
    """The shortest names that all differ: without folder and ending, without ending, or whole paths."""
    without_ending = [without_suffix(path) for path in paths]
    stems = [os.path.basename(name) for name in without_ending]
    return next((names for names in (stems, without_ending) if len(set(names)) == len(paths)), paths)


def without_suffix(path: Any) -> str:
    """Give a path without its ending, with slashes."""
    return os.path.splitext(Path(path).as_posix())[0]


def _label(value: Any) -> Any:
    """Turn a label into a string, and a missing one into None; a path stays a path."""
    return value if isinstance(value, Path) else None if pd.isna(value) else str(value)


def _spread(labels: Any, utterances: int) -> tuple[Any, ...]:
    """One label for each utterance, from one label for all, one for each, or None."""
    return tuple(map(_label, [labels] * utterances if labels is None or np.isscalar(labels) else labels))


def _positions(rows: Any, utterances: int) -> list[int]:
    """Positions in a list of ``utterances``, from a number, a slice or several numbers."""
    everything = range(utterances)
    rows = everything[rows] if isinstance(rows, slice) else rows
    rows = rows.tolist() if hasattr(rows, "tolist") else rows
    rows = list(rows) if isinstance(rows, Iterable) else [rows]
    if any(isinstance(row, bool) for row in rows):
        raise ValueError("utterances are chosen by number, got True and False; numpy.flatnonzero gives the numbers.")
    if not rows:
        raise ValueError(f"no utterance is chosen; choose at least one of {utterances}.")
    try:
        return [everything[index(row)] for row in rows]
    except IndexError:
        raise IndexError(f"there are {utterances} utterances, 0 to {utterances - 1}; got {rows}.") from None


def _distinct(labels: Iterable[Any]) -> int:
    """Number of different labels; missing ones do not count."""
    return len(set(pd.Series(labels, dtype=object).dropna()))
