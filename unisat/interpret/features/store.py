"""A store for what `collect` measures: in memory, or in a folder of parts with which an interrupted run goes on."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unisat.files import remove_partial, whole_file
from unisat.interpret.activations.reduce import Reducer, describe
from unisat.interpret.features.acoustic import ACOUSTIC
from unisat.interpret.features.bank import (
    LENGTHS,
    SOUND,
    FeatureBank,
    Part,
    array_names,
    read_part,
    tensor_names,
    write_index,
    write_part,
)

BATCHES_A_PART = 32
"""Number of batches in a part; an interrupted run loses at most so many."""

MOST_PARTS, PART_BYTES = 512, 2**29
"""Number of parts above which a finished bank has them put together, to so many bytes each."""


def processes() -> tuple[int, int]:
    """Rank and number of the processes that share the work under ``torchrun`` or ``accelerate launch``."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        torch.distributed.init_process_group("gloo")
        return torch.distributed.get_rank(), world
    return 0, 1


@cache
def _patient(everybody: Any) -> Any:
    """Make a group of all processes that waits: one may need hours longer, and the usual group waits for minutes."""
    return torch.distributed.new_group(timeout=timedelta(days=365), backend="gloo")


STATE = "~"
"""Prefix of the names under which a part keeps what corpus-wide reducers gathered."""


class Store:
    """Takes finished batches and keeps them in memory, or as parts in a folder."""

    def __init__(
        self,
        folder: Path | None,
        settings: dict[str, Any],
        table: pd.DataFrame,
        reduce: Any,
        rank: int,
        world: int,
        mark: Callable[[int], int],
    ) -> None:
        self.folder, self.settings, self.table, self.reduce = folder, settings, table, reduce
        self.rank, self.world, self.mark = rank, world, mark
        self.pending: list[tuple[int, list[int], dict[str, np.ndarray]]] = []
        self.parts: list[Part] = []
        self.reducers: dict[str, Reducer] = {}
        self.finished: set[int] = set()
        if world > 1 and folder is None:
            raise ValueError(f"{world} processes share this work; give them a folder, where they put it together.")
        stateful = hasattr(reduce, "state") and hasattr(reduce, "merge")
        if folder is not None and isinstance(reduce, Reducer) and not stateful:
            raise ValueError(
                f"{describe(reduce)} cannot be put together from parts: give it state() and merge(state), or leave "
                "folder out."
            )
        if folder is not None:
            self._open(folder)
        if world > 1:
            self.group = _patient(torch.distributed.group.WORLD)

    def _open(self, folder: Path) -> None:
        """Go on with what an earlier call left in the folder, if its settings and the sound were the same."""
        names = "\n".join(self.table["id"].astype(str))
        ours = {**self.settings, "utterances": hashlib.sha256(names.encode()).hexdigest()[:16]}
        ours = json.loads(json.dumps(ours))
        started = folder / "collect.json"
        folder.mkdir(parents=True, exist_ok=True)
        if started.exists():
            self._compare(folder, ours, json.loads(started.read_text(encoding="utf-8")))
        elif any(not re.match(r"\.?(collect|part-)|\.lock$", path.name) for path in folder.iterdir()):
            raise ValueError(f"{folder} holds other files; give a bank a folder of its own.")
        with whole_file(started) as partial:
            partial.write_text(json.dumps(ours, indent=2), encoding="utf-8")
        for path in sorted(folder.glob("part-*.safetensors")):
            self._take_up(path)

    def _compare(self, folder: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        """Refuse a folder whose numbers were made otherwise; older ones do not know the code of a reducer."""
        theirs.setdefault("reduce_code", ours.get("reduce_code"))
        if differ := [f"{k} ({theirs.get(k)} there)" for k in ours if ours[k] != theirs.get(k)]:
            raise ValueError(f"{folder} holds a bank made otherwise: {', '.join(differ)}; use another folder.")

    def _take_up(self, path: Path) -> None:
        """Count the utterances of a part as finished, if their sound is what it was; older parts do not know it."""
        part = read_part(path, [SOUND] if SOUND in tensor_names(path) else [], copied=True)
        marked = zip(part.rows.tolist(), part.arrays.get(SOUND, ()), strict=False)
        if changed := [row for row, mark in marked if self.mark(row) != mark]:
            raise ValueError(
                f"{path} holds numbers of other sound: the files of {len(changed)} utterance(s) have changed since, "
                f"first {self.table['id'].iloc[changed[0]]!r}. Use another folder, or delete the part."
            )
        self.finished.update(part.rows.tolist())

    def left(self, rows: np.ndarray) -> np.ndarray:
        """Give the rows of a batch that are not in the folder yet."""
        return np.array([row for row in rows.tolist() if row not in self.finished], dtype=int)

    def reducer(self, name: str) -> Reducer:
        """Give the corpus-wide reducer of a site."""
        if name not in self.reducers:
            self.reducers[name] = copy.deepcopy(self.reduce)
        return self.reducers[name]

    def add(self, number: int, rows: list[int], arrays: dict[str, np.ndarray]) -> None:
        """Take a batch."""
        self.pending.append((number, rows, arrays))
        if self.folder is not None and len(self.pending) >= BATCHES_A_PART:
            self.flush()

    def flush(self) -> None:
        """Make a part of the batches that are waiting."""
        if not self.pending:
            return
        names = list(self.pending[0][2])
        rows = np.concatenate([rows for _, rows, _ in self.pending])
        part = Part(rows, {name: np.concatenate([arrays[name] for *_, arrays in self.pending]) for name in names})
        if self.folder is None:
            self.parts.append(part)
        else:
            marks = np.array([self.mark(row) for row in rows.tolist()], dtype=np.int64)
            write_part(
                self._free(self.pending[0][0]), Part(rows, {**part.arrays, **_states(self.reducers), SOUND: marks})
            )
            self.reducers = {}
        self.pending = []

    def _free(self, number: int) -> Path:
        """Give a name for a part; a batch has several where a file was repaired since."""
        assert self.folder is not None
        names = chain([f"part-{number:05d}"], (f"part-{number:05d}-{again}" for again in count(1)))
        return next(path for name in names if not (path := self.folder / f"{name}.safetensors").exists())

    def finish(self) -> FeatureBank:
        """Make a bank of everything."""
        self.flush()
        if self.folder is None:
            return self._in_memory()
        self._meet()
        try:
            if self.rank == 0:
                remove_partial(self.folder)
                self._index(self.folder)
        finally:
            self._meet()
        return FeatureBank.load(self.folder)

    def _meet(self) -> None:
        """Wait for the other processes."""
        if self.world > 1:
            torch.distributed.barrier(self.group)

    def _in_memory(self) -> FeatureBank:
        statistics = {site: _arrays(reducer.value()) for site, reducer in self.reducers.items()}
        if not self.parts:
            raise ValueError(f"none of the {len(self.table)} utterances could be read; the warnings say why.")
        rows = np.concatenate([part.rows for part in self.parts])
        kept = np.sort(rows)
        renamed = [Part(np.searchsorted(kept, part.rows), part.arrays) for part in self.parts]
        scattered = FeatureBank(self.table.iloc[kept], renamed, statistics, self.settings)
        # arrays in the order of the corpus can be read without a copy
        arrays = {site: scattered[site] for site in scattered.sites}
        arrays |= {site + LENGTHS: scattered.lengths(site) for site in scattered.sites if scattered.is_frames(site)}
        return FeatureBank(scattered.table, [Part(np.arange(len(kept)), arrays)], statistics, self.settings)

    def _index(self, folder: Path) -> None:
        """Write the index of the parts with the labels of today, after making few of many parts."""
        paths = self._merged(_distinct(folder))
        if not paths:
            raise ValueError(f"none of the {len(self.table)} utterances could be read; the warnings say why.")
        kept = np.sort(np.concatenate([read_part(path, [], copied=True).rows for path in paths]))
        names = array_names(paths[0])
        statistics = {site: _arrays(reducer.value()) for site, reducer in self._gathered(paths).items()}
        arrays = [name for name in self._order(names) if not name.startswith(STATE)]
        write_index(
            folder, self.table.iloc[kept], self.settings, statistics, arrays, [path.name for path in paths], kept
        )

    def _gathered(self, paths: Sequence[Path]) -> dict[str, Reducer]:
        """Put together what corpus-wide reducers gathered in some parts, by site."""
        reducers: dict[str, Reducer] = {}
        for path in paths if isinstance(self.reduce, Reducer) else []:
            states: dict[str, dict[str, Tensor]] = {}
            names = [name for name in array_names(path) if name.startswith(STATE)]
            for name, value in read_part(path, names).arrays.items():
                site, _, what = name.removeprefix(STATE).rpartition("/")
                states.setdefault(site, {})[what] = torch.from_numpy(value)
            for site, state in states.items():
                reducers.setdefault(site, copy.deepcopy(self.reduce)).merge(state)  # type: ignore[attr-defined]
        return reducers

    def _merged(self, paths: list[Path]) -> list[Path]:
        """Make few large parts of many small ones, since a bank maps each of them."""
        if len(paths) <= MOST_PARTS:
            return paths
        groups: list[list[Path]] = []
        room = 0
        for path in paths:
            room -= path.stat().st_size
            if room < 0:
                groups.append([])
                room = PART_BYTES - path.stat().st_size
            groups[-1].append(path)
        return [group[0] if len(group) == 1 else self._one(group) for group in groups]

    def _one(self, paths: list[Path]) -> Path:
        """Make one part of several; a kill in between leaves both, and `_distinct` removes the small ones."""
        marked = all(SOUND in tensor_names(path) for path in paths)
        names = [name for name in array_names(paths[0]) if not name.startswith(STATE)] + [SOUND] * marked
        parts = [read_part(path, names) for path in paths]
        arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in names}
        whole = Part(np.concatenate([part.rows for part in parts]), {**arrays, **_states(self._gathered(paths))})
        target = self._free(int(paths[0].stem.split("-")[1]))
        write_part(target, whole)
        for path in paths:
            path.unlink()
        return target

    def _order(self, names: Sequence[str]) -> list[str]:
        """Bring the names of arrays into the order of the sites; a file has another order."""
        prefixes = ["", *(f"untrained.{n}." for n in range(self.settings["untrained_seeds"]))]
        sites = [prefix + site for prefix in prefixes for site in self.settings["sites"]] + list(ACOUSTIC)
        wanted = [name for site in sites for name in (site, site + LENGTHS)]
        return [name for name in wanted if name in names] + [name for name in names if name.startswith(STATE)]


def _states(reducers: Mapping[str, Reducer]) -> dict[str, np.ndarray]:
    """Give what corpus-wide reducers gathered as arrays of a part."""
    return {
        f"{STATE}{site}/{name}": value.cpu().numpy()
        for site, reducer in reducers.items()
        for name, value in reducer.state().items()  # type: ignore[attr-defined]
    }


def _distinct(folder: Path) -> list[Path]:
    """List the parts in a folder, and delete those whose utterances are all in a larger one."""
    rows = {path: read_part(path, [], copied=True).rows for path in sorted(folder.glob("part-*.safetensors"))}
    seen: set[int] = set()
    for path in sorted(rows, key=lambda path: -len(rows[path])):
        if seen.issuperset(rows[path].tolist()):
            path.unlink()
            del rows[path]
        else:
            seen.update(rows[path].tolist())
    return list(rows)


def _arrays(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value.cpu() if isinstance(value, Tensor) else value) for name, value in values.items()}
