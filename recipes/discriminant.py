"""Targets that know phones: clusters of a linear discriminant of MFCC, fitted on aligned training speakers.

    python recipes/discriminant.py recipes/lda-1.toml

A model that learns these has been told what phones are: it is not purely self-supervised, and its card has to say so.
Written into the recipe's ``out``: ``targets``, for every recording that the recipe reads. What clusters know of the
phones of development speakers is printed.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import targets as judge  # noqa: E402
from phones import SHARED, Phones  # noqa: E402
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # noqa: E402

from unisat.clusters import entropy, lloyd  # noqa: E402
from unisat.files import save_json  # noqa: E402
from unisat.training import recipe  # noqa: E402
from unisat.training.data import manifest, union  # noqa: E402
from unisat.training.targets import MfccFeatures, label_hash  # noqa: E402

CONTEXT = 4
"""Frames on each side that the discriminant sees."""


def beside(features: torch.Tensor) -> torch.Tensor:
    """Frames with their neighbours and without the utterance's mean; (frames, (2 · CONTEXT + 1) · 39)."""
    centred = features - features.mean(0)
    padded = torch.cat([centred[:1].expand(CONTEXT, -1), centred, centred[-1:].expand(CONTEXT, -1)])
    return padded.unfold(0, 2 * CONTEXT + 1, 1).flatten(1)


def main(file: str) -> None:
    """Run the command."""
    made = recipe.read(file)
    sources = {**made.data.train, **{f"valid-{name}": source for name, source in made.data.valid.items()}}
    corpus = union({name: manifest(**source) for name, source in sources.items()})
    table, features, phones = corpus.table, MfccFeatures(), Phones()
    heard = [features(corpus.waveform(row)) for row in tqdm(range(len(table)))]
    files = [os.path.relpath(path, SHARED / "speech").rsplit(".", 1)[0] for path in table["path"]]
    valid = table["id"].str.startswith("valid-").to_numpy()

    def said(row: int) -> np.ndarray:
        return phones(files[row], int((len(heard[row]) - 1) * 320 + 400))

    known = [row for row, name in enumerate(files) if name in phones and len(heard[row])]
    fitted = [row for row in known if not valid[row]]
    codes = np.concatenate([said(row) for row in fitted])
    rows = torch.cat([beside(heard[row]) for row in fitted]).numpy()[codes >= 0]
    discriminant = LinearDiscriminantAnalysis(solver="eigen", shrinkage=1e-3).fit(rows, codes[codes >= 0])
    size = len(discriminant.classes_) - 1
    directions = torch.from_numpy(discriminant.scalings_[:, :size]).float()
    seen = [beside(part) @ directions if len(part) else part.new_zeros(0, size) for part in heard]
    every, sizes = torch.cat(seen), np.array([len(part) for part in seen])
    chosen = torch.randperm(len(every), generator=torch.Generator().manual_seed(made.seed))
    clusters = lloyd(every[chosen[: int(50 * made.targets.sample_seconds)]], made.targets.clusters, made.seed)
    labels, starts = clusters.assign(every).numpy().astype(np.uint16), np.cumsum(sizes) - sizes
    judged = [row for row in known if valid[row]]
    parts = [labels[starts[row] : starts[row] + sizes[row]].astype(int) for row in judged]
    told = judge.judge(parts, [said(row) for row in judged], table["speaker"].iloc[judged].tolist())
    print(f"{len(fitted)} recordings fitted, {len(judged)} judged: {told}")
    folder = Path(made.out) / "targets"
    folder.mkdir(parents=True, exist_ok=True)
    index = pd.DataFrame({"id": table["id"], "start": starts, "frames": sizes})
    index.to_csv(folder / "index.csv", index=False)
    np.save(folder / "labels.npy", labels)
    type(clusters)(clusters.centroids, clusters.inertia, "mfcc").save(folder)
    count = np.bincount(labels, minlength=made.targets.clusters)
    about = {"features": "mfcc", "layer": None, "mean_off": "utterance", "variance_one": False, "seed": made.seed}
    about |= {
        "sample_seconds": made.targets.sample_seconds,
        "clusters": made.targets.clusters,
        "utterances": len(table),
    }
    about |= {"frames": len(labels), "label_hash": label_hash(index.to_dict("records"), labels)}
    about |= {"entropy": entropy(count), "empty_clusters": int((count == 0).sum()), "too_short": [], "unreadable": []}
    save_json({**about, "discriminant": f"LDA to phones, ± {CONTEXT} frames"}, folder / "targets.json")


if __name__ == "__main__":
    main(sys.argv[1])
