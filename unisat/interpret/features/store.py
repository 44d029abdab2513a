"""A store for what `collect` measures: in memory, or in a folder of parts with which an interrupted run goes on."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unisat.files import remove_partial, whole_file
from unisat.interpret.activations.reduce import Reducer, describe
from unisat.interpret.features.acoustic import ACOUSTIC
from unisat.interpret.features.bank import LENGTHS, FeatureBank, Part, array_names, read_part, write_index, write_part

BATCHES_A_PART = 32
"""Number of batches in a part; an interrupted run loses at most so many."""


def processes() -> tuple[int, int]:
    """Rank and number of the processes that share the work under ``torchrun`` or ``accelerate launch``."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        torch.distributed.init_process_group("gloo")
        return torch.distributed.get_rank(), world
    return 0, 1


STATE = "~"
"""Prefix of the names under which a part keeps what corpus-wide reducers gathered."""


class Store:
    """Takes finished batches and keeps them in memory, or as parts in a folder."""

    def __init__(
        self, folder: Path | None, settings: dict[str, Any], table: pd.DataFrame, reduce: Any, rank: int, world: int
    ) -> None:
        self.folder, self.settings, self.table, self.reduce = folder, settings, table, reduce
        self.rank, self.world = rank, world
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

    def _open(self, folder: Path) -> None:
        """Go on with what an earlier call left in the folder, if its settings were the same."""
        ids = hashlib.sha256("\n".join(self.table["id"].astype(str)).encode()).hexdigest()[:16]
        ours = json.loads(json.dumps({**self.settings, "utterances": ids}))
        started = folder / "collect.json"
        folder.mkdir(parents=True, exist_ok=True)
        if started.exists():
            theirs = json.loads(started.read_text(encoding="utf-8"))
            if differ := [f"{k} ({theirs.get(k)} there)" for k in ours if ours[k] != theirs.get(k)]:
                raise ValueError(f"{folder} holds a bank made otherwise: {', '.join(differ)}; use another folder.")
        elif any(not path.name.lstrip(".").startswith(("collect", "part-")) for path in folder.iterdir()):
            raise ValueError(f"{folder} holds other files; give a bank a folder of its own.")
        with whole_file(started) as partial:
            partial.write_text(json.dumps(ours, indent=2), encoding="utf-8")
        for path in sorted(folder.glob("part-*.safetensors")):
            self.finished.update(read_part(path, []).rows.tolist())

    def done(self, rows: np.ndarray) -> bool:
        """Whether a batch is already in the folder."""
        return bool(self.finished.intersection(rows.tolist()))

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
            states = {
                f"{STATE}{site}/{name}": value.cpu().numpy()
                for site, reducer in self.reducers.items()
                for name, value in reducer.state().items()  # type: ignore[attr-defined]
            }
            path = self.folder / f"part-{self.pending[0][0]:05d}.safetensors"
            write_part(path, Part(rows, {**part.arrays, **states}))
            self.reducers = {}
        self.pending = []

    def finish(self) -> FeatureBank:
        """Make a bank of everything."""
        self.flush()
        if self.folder is None:
            return self._in_memory()
        if self.world > 1:
            torch.distributed.barrier()
        if self.rank == 0:
            remove_partial(self.folder)
            if not (self.folder / "bank.json").exists():
                self._index(self.folder)
        if self.world > 1:
            torch.distributed.barrier()
        return FeatureBank.load(self.folder)

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
        paths = sorted(folder.glob("part-*.safetensors"))
        if not paths:
            raise ValueError(f"none of the {len(self.table)} utterances could be read; the warnings say why.")
        names = array_names(paths[0])
        self.reducers = {}
        for path in paths:
            states: dict[str, dict[str, Tensor]] = {}
            for name, value in read_part(path, [name for name in names if name.startswith(STATE)]).arrays.items():
                site, _, what = name.removeprefix(STATE).rpartition("/")
                states.setdefault(site, {})[what] = torch.from_numpy(value)
            for site, state in states.items():
                self.reducer(site).merge(state)  # type: ignore[attr-defined]
        kept = np.sort(np.concatenate([read_part(path, []).rows for path in paths]))
        statistics = {site: _arrays(reducer.value()) for site, reducer in self.reducers.items()}
        arrays = [name for name in self._order(names) if not name.startswith(STATE)]
        write_index(
            folder, self.table.iloc[kept], self.settings, statistics, arrays, [path.name for path in paths], kept
        )

    def _order(self, names: Sequence[str]) -> list[str]:
        """Bring the names of arrays into the order of the sites; a file has another order."""
        prefixes = ["", *(f"untrained.{n}." for n in range(self.settings["untrained_seeds"]))]
        sites = [prefix + site for prefix in prefixes for site in self.settings["sites"]] + list(ACOUSTIC)
        wanted = [name for site in sites for name in (site, site + LENGTHS)]
        return [name for name in wanted if name in names] + [name for name in names if name.startswith(STATE)]


def _arrays(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value.cpu() if isinstance(value, Tensor) else value) for name, value in values.items()}
