"""A `FeatureBank` holds what a model says about every utterance of a corpus, and who speaks in each.

`unisat.collect` makes a bank. It can be saved, and opened without the model or the corpus; its arrays are then
memory-mapped.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unisat.config import nearest
from unisat.deprecation import OldAttribute, old_keywords
from unisat.files import in_utf_8, reading, save_tensors, whole_file
from unisat.interpret.activations.sites import hidden_sites
from unisat.interpret.features.known import known, plain, whole_columns

ROWS = "rows"
SOUND = "rows#sound"
"""Array of a part with a number for the sound that each row was measured of."""
LENGTHS = "#frames"
"""Suffix of the array with the number of frames of each utterance at a frame-wise site."""
_ANEW = "Delete it and run the same collect(folder=…) again, which computes its utterances anew."

MOST_MAPS = 16_384
"""Files that are mapped; the parts of a bank with more of them are copied, since Linux maps at most 65,530."""


@dataclass(frozen=True, eq=False)
class Part:
    """Arrays of some utterances. ``rows`` are their places in the table; the first axis of each array is theirs.

    A frame-wise site has the frames of its utterances one after the other, and ``<site>#frames`` says how many frames
    each utterance has.
    """

    rows: np.ndarray
    arrays: Mapping[str, np.ndarray]
    ends: dict[str, np.ndarray] = field(default_factory=dict, init=False)
    """Where each utterance's frames end, by site; `frames` fills it in."""

    def frames(self, site: str, place: int) -> np.ndarray:
        """Give the frames of one utterance."""
        lengths = self.arrays[site + LENGTHS]
        if site not in self.ends:
            self.ends[site] = np.cumsum(lengths)
        end = self.ends[site][place]
        return self.arrays[site][end - lengths[place] : end]


class FeatureBank:
    """Features of utterances, by site: ``bank["hidden.3"]`` is (utterances, ...), in the order of ``bank.table``.

    Parameters
    ----------
    table : DataFrame
        One row for each utterance: ``id`` and all that is known of it: speaker, session, sex, seconds, … Whole numbers
        with gaps, which pandas keeps as floats, become ``Int64``; floats with gaps of the dtype ``Float64`` stay.
    parts : sequence of Part
        Parts that together hold every utterance once.
    statistics : dict, optional
        Statistics of the whole corpus, by site and name (see `unisat.interpret.activations.reduce`).
    settings : dict, optional
        How the bank was made: ``model`` (a fingerprint), ``reduce``, ``frames``, …

    Attributes
    ----------
    timing : dict of str to float
        How long `unisat.collect` took: ``seconds`` in all, in the ``model`` and ``waiting`` for sound, and
        ``outside_share``, the share of the time outside the model. It is not saved; other banks have an empty dict.
    """

    about = OldAttribute("settings")

    @old_keywords(about="settings")
    def __init__(
        self,
        table: pd.DataFrame,
        parts: Sequence[Part],
        statistics: Mapping[str, Mapping[str, np.ndarray]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.table = whole_columns(table.reset_index(drop=True))
        self.settings = dict(settings or {})
        self.timing: dict[str, float] = {}
        self._parts = list(parts)
        self._statistics = {site: dict(values) for site, values in (statistics or {}).items()}
        where = np.full((len(table), 2), -1)
        for number, part in enumerate(self._parts):
            where[part.rows] = np.stack([np.full(len(part.rows), number), np.arange(len(part.rows))], axis=1)
        if (where < 0).any() or sum(len(part.rows) for part in self._parts) != len(table):
            raise ValueError("the parts of a bank must hold each utterance of its table exactly once.")
        self._where = where  # (utterances, 2): part, place in it

    @classmethod
    @old_keywords(about="settings")
    def from_arrays(
        cls,
        table: pd.DataFrame,
        arrays: Mapping[str, np.ndarray | Tensor],
        settings: Mapping[str, Any] | None = None,
        *,
        lengths: Mapping[str, Sequence[int] | np.ndarray] | None = None,
    ) -> FeatureBank:
        """Make a bank of given arrays, such as features of another model.

        Parameters
        ----------
        table, settings
            As in `FeatureBank`.
        arrays : dict of str to (utterances, ...)
            What each site has for each utterance; or (frames, ...), the frames of all utterances one behind the other,
            at sites that ``lengths`` names.
        lengths : dict of str to (utterances,), optional
            How many frames each utterance has at a frame-wise site.

        Raises
        ------
        ValueError
            If an array or its lengths do not fit the utterances.
        """
        plain = {site: np.asarray(values) for site, values in arrays.items()}
        sizes = {site: np.asarray(given, dtype=int) for site, given in (lengths or {}).items()}
        for site, given in sizes.items():
            frames = len(plain.get(site, ()))
            if given.shape != (len(table),) or (given < 0).any() or given.sum() != frames:
                raise ValueError(
                    f"lengths of {site!r} must say how many of its {frames} frames each of the {len(table)} utterances "
                    f"has; got {given.shape} with the sum {given.sum()}."
                )
        rows = {site: values for site, values in plain.items() if site not in sizes}
        if wrong := {site: values.shape for site, values in rows.items() if len(values) != len(table)}:
            raise ValueError(
                f"each array must have one row for each of the {len(table)} utterances, got {wrong}; lengths= says how "
                "many frames each utterance has."
            )
        plain |= {site + LENGTHS: given for site, given in sizes.items()}
        return cls(table, [Part(np.arange(len(table)), plain)], settings=settings)

    # what there is

    @property
    def sites(self) -> list[str]:
        """Names of the sites that have values for each utterance."""
        names = self._parts[0].arrays if self._parts else {}
        return [name for name in names if not name.endswith(LENGTHS)]

    @property
    def hidden(self) -> list[str]:
        """The sites ``hidden.0``, ``hidden.1``, … of the bank, in order."""
        return list(hidden_sites(self.sites).values())

    @property
    def ids(self) -> list[str]:
        """Name of each utterance."""
        return self.table["id"].tolist()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, whether in memory or in files."""
        return sum(array.nbytes for part in self._parts for array in part.arrays.values())

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, site: object) -> bool:
        return site in self.sites

    def __repr__(self) -> str:
        sites = f"{len(self.sites)} site{'s' * (len(self.sites) != 1)}"
        return f"FeatureBank({len(self)} utterances, {sites}, {self.nbytes / 1e6:.2f} MB)"

    def _check(self, site: str) -> None:
        if site not in self.sites:
            raise KeyError(f"the bank has no {site!r}{nearest(site, self.sites)}; there are {', '.join(self.sites)}.")

    def is_frames(self, site: str) -> bool:
        """Whether a site has a row for each frame instead of each utterance."""
        self._check(site)
        return site + LENGTHS in self._parts[0].arrays

    # reading

    def __getitem__(self, site: str) -> np.ndarray:
        """Values (utterances, ...); of a frame-wise site (frames, ...), one utterance after the other."""
        frames, places = self.is_frames(site), self._where[:, 1]
        if len(self._parts) == 1 and np.array_equal(places, np.arange(len(self._parts[0].rows))):
            return self._parts[0].arrays[site]
        if frames:
            return np.concatenate([self.frames(site, row) for row in range(len(self))])
        if len(self._parts) == 1:
            return self._parts[0].arrays[site][places]
        first = self._parts[0].arrays[site]
        out = np.empty((len(self), *first.shape[1:]), first.dtype)
        order = np.argsort(self._where[:, 0], kind="stable")
        ends = np.searchsorted(self._where[order, 0], np.arange(len(self._parts)), side="right")
        for part, mine in zip(self._parts, np.split(order, ends[:-1]), strict=True):
            out[mine] = part.arrays[site][self._where[mine, 1]]
        return out

    def lengths(self, site: str) -> np.ndarray:
        """Number of frames of each utterance at a frame-wise site."""
        if not self.is_frames(site):
            raise ValueError(f"{site!r} has one row for each utterance; collect it with reduce='frames' for frames.")
        return np.array([self._parts[part].arrays[site + LENGTHS][place] for part, place in self._where], dtype=int)

    def frames(self, site: str, row: int) -> np.ndarray:
        """Features of the frames of one utterance, (frames, ...)."""
        if not self.is_frames(site):
            raise ValueError(f"{site!r} has one row for each utterance; collect it with reduce='frames' for frames.")
        number, place = self._where[row].tolist()
        return self._parts[number].frames(site, place)

    def features(self, site: str, pool: str | None = None) -> np.ndarray:
        """Give a matrix to measure on: (utterances or frames, dim) in float64, all finite.

        Parameters
        ----------
        pool : {"mean", "mean+std"}, optional
            ``"mean"`` takes the means out of what ``reduce="mean+std"`` gave; None takes all that is there.

        Raises
        ------
        ValueError
            If a value is not finite; the message names the site and the utterance. Or if ``pool`` does not fit.
        """
        values = self[site]
        flat = values.reshape(len(values), -1).astype(np.float64)
        reduced = self.settings.get("reduce")
        if pool not in (None, "mean", "mean+std") or (pool is not None and reduced not in (pool, "mean+std")):
            raise ValueError(f"pool={pool!r} cannot be had of a bank that was collected with reduce={reduced!r}.")
        if pool == "mean" and reduced == "mean+std":
            flat = flat[:, : flat.shape[1] // 2]
        if not np.isfinite(flat).all():
            bad = np.flatnonzero(~np.isfinite(flat).all(1))
            if self.is_frames(site):
                bad = np.unique(np.searchsorted(np.cumsum(self.lengths(site)), bad, side="right"))
            names = ", ".join(repr(self.ids[row]) for row in bad[:3]) + (", …" if len(bad) > 3 else "")
            raise ValueError(
                f"{site} has values that are not finite for {len(bad)} utterance(s): {names}; leave them out with "
                "bank[rows] or find out what the model did there (trace.table() counts such values by site)."
            )
        return flat

    def labels(self, column: str) -> np.ndarray:
        """Give a column of the table as strings, none of them missing.

        Raises
        ------
        ValueError
            If there is no such column, or some utterances have no label in it (`known`).
        """
        labelled = self._labelled(column)
        if not labelled.all():
            raise ValueError(
                f"{column!r} is empty for {(~labelled).sum()} of {len(self)} utterances (first: "
                f"{self.table['id'][~labelled].iloc[0]!r}); take bank.known({column!r}), or fill the column. A "
                "negative whole number is no label."
            )
        return self.table[column].astype(str).to_numpy(dtype=object)

    def _labelled(self, column: str) -> np.ndarray:
        """Whether each utterance has a label in a column."""
        if column not in self.table:
            there = [str(name) for name in self.table]
            raise ValueError(f"the bank has no column {column!r}{nearest(column, there)}; it has {', '.join(there)}.")
        return known(plain(self.table[column]))

    def statistics(self, site: str) -> dict[str, np.ndarray]:
        """Give what a corpus-wide reducer found at a site, by name."""
        if site not in self._statistics:
            raise KeyError(f"the bank has no statistics of {site!r}; it has those of {list(self._statistics)}.")
        return self._statistics[site]

    # choosing

    def take(self, rows: Iterable[int] | np.ndarray) -> FeatureBank:
        """Give the bank of some utterances, chosen by number or by True and False, without statistics of the corpus."""
        chosen = np.asarray(rows if isinstance(rows, np.ndarray) else list(rows))
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(int)
        if not len(chosen):
            raise ValueError(f"no utterance is chosen; choose at least one of {len(self)}.")
        bank = copy.copy(self)  # it shares the parts, which hold more than these utterances
        bank.table, bank._where = self.table.iloc[chosen].reset_index(drop=True), self._where[chosen]
        bank.timing, bank._statistics = {}, {}
        return bank

    def where(self, **columns: Any) -> FeatureBank:
        """Give the bank of the utterances whose columns have these values, or one of a list of values."""
        keep = np.ones(len(self), dtype=bool)
        for name, wanted in columns.items():
            if name not in self.table:
                raise ValueError(f"the bank has no column {name!r}; it has {', '.join(map(str, self.table))}.")
            keep &= self.table[name].isin([wanted] if np.isscalar(wanted) else list(wanted)).to_numpy()
        if not keep.any():
            raise ValueError(f"no utterance of the bank fits {columns}.")
        return self.take(keep)

    def known(self, *columns: str) -> FeatureBank:
        """Give the bank of the utterances that have a label in each of these columns.

        None, NaN, an empty string and a negative whole number are no labels.
        """
        keep = np.ones(len(self), dtype=bool)
        for name in columns:
            keep &= self._labelled(name)
        if not keep.any():
            raise ValueError(f"no utterance of the bank has a label in {', '.join(columns)}.")
        return self.take(keep)

    # files

    def save(self, folder: str | Path) -> None:
        """Write ``bank.json`` (table and settings) and ``part-00000.safetensors`` (arrays) into an empty folder.

        Dates and other values that JSON does not know become text.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty; save a bank into a folder of its own.")
        arrays = {site: np.ascontiguousarray(self[site]) for site in self.sites}
        arrays |= {site + LENGTHS: self.lengths(site) for site in self.sites if self.is_frames(site)}
        write_part(folder / "part-00000.safetensors", Part(np.arange(len(self)), arrays))
        write_index(folder, self.table, self.settings, self._statistics, list(arrays))

    @classmethod
    def load(cls, folder: str | Path) -> FeatureBank:
        """Open what `save` or ``collect(folder=…)`` wrote; arrays are mapped from the files, not read.

        Raises
        ------
        FileNotFoundError
            If the folder holds no bank, an unfinished one, or one of which parts are gone.
        ValueError
            If a file is damaged, or ``bank.json`` names parts elsewhere.
        """
        folder = Path(folder)
        if not (folder / "bank.json").exists():
            parts = len(list(folder.glob("part-*.safetensors"))) if folder.is_dir() else 0
            begun = f"; {parts} part(s) are there: run the same collect(folder=…) again to finish it" if parts else ""
            raise FileNotFoundError(f"{folder} holds no feature bank (no bank.json){begun}.")
        index = _read_index(folder / "bank.json")
        table = pd.DataFrame(index["table"]["data"], columns=index["table"]["columns"])
        if gone := [name for name in index["parts"] if not (folder / name).exists()]:
            raise FileNotFoundError(
                f"{folder} is a bank of {len(index['parts'])} part(s), and {', '.join(gone[:3])}"
                f"{f' and {len(gone) - 3} more' if len(gone) > 3 else ''} are not there. Copy them from where the bank "
                "was made, or run the same collect(folder=…) again, which computes their utterances anew."
            )
        copied = len(index["parts"]) > MOST_MAPS
        read = [read_part(folder / name, index["arrays"], copied=copied) for name in index["parts"]]
        if index["rows"] is not None:  # parts number the utterances of the corpus, of which some could not be read
            read = [Part(np.searchsorted(index["rows"], part.rows), part.arrays) for part in read]
        statistics: dict[str, dict[str, np.ndarray]] = {}
        if (folder / "statistics.safetensors").exists():
            from safetensors.torch import load_file

            with reading(folder / "statistics.safetensors", _ANEW):
                found = load_file(folder / "statistics.safetensors")
            for name, value in found.items():
                site, _, what = name.rpartition("/")
                statistics.setdefault(site, {})[what] = value.numpy()
        return cls(table, read, statistics, index["about"])


def write_part(path: Path, part: Part) -> None:
    """Write arrays to a safetensors file, whole or not at all."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in part.arrays.items()}
    save_tensors({ROWS: torch.from_numpy(np.asarray(part.rows, dtype=np.int64)), **tensors}, path)


def read_part(path: Path, names: Sequence[str], *, copied: bool = False) -> Part:
    """Map arrays of a safetensors file, or copy them, in the order of ``names``; the file itself has another order."""
    from safetensors import safe_open

    with reading(path, _ANEW), safe_open(path, "pt") as file:
        rows, *arrays = (file.get_tensor(name).numpy() for name in (ROWS, *names))
    return Part(
        rows.copy() if copied else rows, dict(zip(names, map(np.copy, arrays) if copied else arrays, strict=True))
    )


def _read_index(path: Path) -> dict[str, Any]:
    """Read and check ``bank.json``."""
    with reading(path, "Where collect made the bank, the same collect(folder=…) writes it anew."):
        index = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: index[name] for name in ("about", "arrays", "parts", "rows", "table")}
        parts = [str(name) for name in kept["parts"]]
        kept["table"]["columns"], kept["table"]["data"]
    if elsewhere := [name for name in parts if not re.fullmatch(r"part-[\w-]+\.safetensors", name)]:
        raise ValueError(
            f"{path} names {elsewhere[0]!r} as a part of the bank; expected names such as part-00000.safetensors of "
            "files beside it. Do not open banks of strangers that name others."
        )
    return kept


def array_names(path: Path) -> list[str]:
    """List the names of the arrays in a part, in the order of the file."""
    return [name for name in tensor_names(path) if name not in (ROWS, SOUND)]


def tensor_names(path: Path) -> list[str]:
    """List the names of all that is in a safetensors file, in its order."""
    from safetensors import safe_open

    with reading(path, _ANEW), safe_open(path, "pt") as file:
        return list(file.keys())


def write_index(
    folder: Path,
    table: pd.DataFrame,
    settings: Mapping[str, Any],
    statistics: Mapping[str, Mapping[str, np.ndarray]],
    arrays: Sequence[str],
    parts: Sequence[str] = ("part-00000.safetensors",),
    kept: np.ndarray | None = None,
) -> None:
    """Write ``bank.json`` as the last file of a bank: a folder without it holds an unfinished one."""
    if flat := {f"{site}/{name}": torch.as_tensor(v) for site, vs in statistics.items() for name, v in vs.items()}:
        save_tensors(flat, folder / "statistics.safetensors")
    plain = table.astype(object).where(table.notna(), None)
    rows = [[_plain(value) for value in row] for row in plain.to_numpy().tolist()]
    index = {
        "about": dict(settings),
        "arrays": list(arrays),
        "parts": list(parts),
        "rows": None if kept is None else kept.tolist(),
        "table": {"columns": [str(name) for name in table], "data": rows},
    }
    with whole_file(folder / "bank.json") as partial:
        partial.write_text(json.dumps(index, ensure_ascii=False, default=str), encoding="utf-8")


def _plain(value: Any) -> Any:
    """Give a cell of a table as JSON takes it; what JSON does not know becomes text."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, str | Path):
        return in_utf_8(str(value))
    return value if value is None or isinstance(value, bool | int | float | list | dict) else str(value)


def matched(bank: FeatureBank, other: FeatureBank, names: tuple[str, str]) -> FeatureBank:
    """Give the other bank with its utterances in the order of the first; ``names`` are those of both in messages.

    Raises
    ------
    ValueError
        If the two banks do not hold the same utterances, each of them once.
    """
    for name, side in zip(names, (bank, other), strict=True):
        if len(set(side.ids)) < len(side):
            raise ValueError(f"{name} has {len(side) - len(set(side.ids))} ids more than once.")
    missing, extra = (sorted({*one.ids} - {*two.ids}, key=str) for one, two in ((bank, other), (other, bank)))
    if missing or extra:
        lacks = [
            f"{name} lacks {len(lost)} of them ({', '.join(map(repr, lost[:3]))}{', …' * (len(lost) > 3)})"
            for name, lost in zip(names, (extra, missing), strict=True)
            if lost
        ]
        raise ValueError(
            f"both banks must hold the same utterances; {' and '.join(lacks)}. Take those that both have: "
            "bank.where(id=[…])."
        )
    place = {name: row for row, name in enumerate(other.ids)}
    return other.take([place[name] for name in bank.ids])


def known_speakers(bank: FeatureBank) -> np.ndarray | None:
    """Say who speaks in each utterance; None where the speaker of some utterance is not known."""
    if "speaker" not in bank.table or not known(plain(bank.table["speaker"])).all():
        return None
    return bank.labels("speaker")
