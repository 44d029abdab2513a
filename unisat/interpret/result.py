"""What every measurement returns: numbers with their settings, as a table, a picture and two files."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """A measurement: `table` says it in numbers, `plot` in a picture, `save` keeps both numbers and settings.

    Attributes
    ----------
    settings : dict
        What has to be known to measure the same again: seeds, counts, choices, the model's fingerprint.
    """

    settings: dict[str, Any] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """Give the numbers, one row each (tidy)."""
        raise NotImplementedError

    def plot(self, **options: Any) -> Any:
        """Draw them; the matplotlib Axes."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write the table to ``path`` (CSV) and the settings beside it (``.json``)."""
        path = Path(path)
        if path.suffix != ".csv":
            raise ValueError(f"{path.name!r} must end in .csv: the table is written there, the settings beside it.")
        # settings first: what cannot be written as JSON must not leave half a result
        settings = json.dumps(self.settings, indent=2, ensure_ascii=False)
        self.table().to_csv(path, index=False)
        path.with_suffix(".json").write_text(settings + "\n", encoding="utf-8")


def plots() -> Any:
    """Import the storey above, for a result's own `plot`: the one place in `unisat.interpret` that looks up."""
    return importlib.import_module("unisat.plots")
