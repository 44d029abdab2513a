"""Targets that know phones: clusters of a linear discriminant of MFCC, fitted on aligned training speakers.

    python recipes/discriminant.py recipes/lda-1.toml

A model that learns these has been told what phones are: it is not purely self-supervised, and its card has to say so.
Written into the recipe's ``out``: ``targets``, for every recording that the recipe reads. What clusters know of the
phones of development speakers is printed.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import targets as judge  # noqa: E402
from phones import SHARED, Phones  # noqa: E402
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # noqa: E402

from unisat.corpus import Corpus  # noqa: E402
from unisat.training import recipe  # noqa: E402
from unisat.training.data import manifest, union  # noqa: E402
from unisat.training.targets import MfccFeatures, make_targets  # noqa: E402

CONTEXT = 4
"""Frames on each side that the discriminant sees."""


class Beside:
    """MFCC of frames and their neighbours, without the utterance's mean, in the directions that tell phones apart."""

    def __init__(self) -> None:
        self.mfcc = MfccFeatures()
        self.directions = torch.eye((2 * CONTEXT + 1) * 39)

    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        """Give (frames, directions)."""
        centred = self.mfcc(waveform)
        if not len(centred):
            return centred.new_zeros(0, self.directions.shape[1])
        centred = centred - centred.mean(0)
        padded = torch.cat([centred[:1].expand(CONTEXT, -1), centred, centred[-1:].expand(CONTEXT, -1)])
        return padded.unfold(0, 2 * CONTEXT + 1, 1).flatten(1) @ self.directions

    def describe(self) -> dict[str, Any]:
        """Give what they are."""
        return {**self.mfcc.describe(), "discriminant": f"LDA to phones, ± {CONTEXT} frames"}

    def fit(self, corpus: Corpus, said: dict[int, np.ndarray]) -> None:
        """Find the directions from the phones of the frames of some rows of a corpus; -1 where there is none."""
        codes = np.concatenate([*said.values()])
        rows = torch.cat([self(corpus.waveform(row)) for row in said]).numpy()[codes >= 0]
        found = LinearDiscriminantAnalysis(solver="eigen", shrinkage=1e-3).fit(rows, codes[codes >= 0])
        self.directions = torch.from_numpy(found.scalings_[:, : len(found.classes_) - 1]).float()


def main(file: str) -> None:
    """Run the command."""
    made, phones, features = recipe.read(file), Phones(), Beside()
    sources = {**made.data.train, **{f"valid-{name}": source for name, source in made.data.valid.items()}}
    corpus = union({name: manifest(**source) for name, source in sources.items()})
    files = [os.path.relpath(path, SHARED / "speech").rsplit(".", 1)[0] for path in corpus.table["path"]]
    known = [row for row, name in enumerate(files) if name in phones]
    said = {row: phones(files[row], len(corpus.waveform(row))) for row in known}
    valid = corpus.table["id"].str.startswith("valid-")
    fitted = {row: codes for row, codes in said.items() if not valid[row]}
    features.fit(corpus, fitted)
    settings = made.targets
    how: dict[str, Any] = {"clusters": settings.clusters, "sample_seconds": settings.sample_seconds, "seed": made.seed}
    targets = make_targets(corpus, features, Path(made.out) / "targets", device="cpu", **how)
    judged = [row for row in said if valid[row]]
    labels = [targets[corpus.table["id"].iloc[row]].numpy().astype(int) for row in judged]
    told = judge.judge(labels, [said[row] for row in judged], corpus.table["speaker"].iloc[judged].tolist())
    print(f"{len(fitted)} recordings fitted, {len(judged)} judged: {told}")


if __name__ == "__main__":
    main(sys.argv[1])
