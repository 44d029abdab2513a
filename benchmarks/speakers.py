"""How well a model tells voices apart that it never heard, layer by layer: the same measure for every model here.

Each file of the trial list is cut to its first two seconds; a layer's vector is the mean of its hidden states. Two
back ends: the cosine of two vectors from which the training speakers' mean was taken, and the cosine behind a linear
discriminant analysis (covariance shrunk by 0.1) that was fitted on the training speakers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tqdm import tqdm

import unisat as us
from unisat.acoustics import log_mel, mfcc
from unisat.interpret.statistics.error_rates import eer, eer_interval

SPEECH = Path(__file__).resolve().parents[2] / "shared" / "speech"
SECONDS = 2.0


def clips(paths: list[str], seconds: float = SECONDS) -> dict[str, torch.Tensor]:
    """The first seconds of each file, normalised as the model expects."""
    waves = {path: us.audio.load(SPEECH / path)[: int(seconds * us.frames.SAMPLE_RATE)] for path in paths}
    return {path: us.audio.normalize(wave) for path, wave in waves.items()}


def layer_means(model: us.UniSpeechSatModel) -> Callable[[torch.Tensor], np.ndarray]:
    """A function from a waveform to (layers + 1, hidden): the mean over frames of each hidden state."""

    @torch.inference_mode()
    def embed(wave: torch.Tensor) -> np.ndarray:
        states = model(wave[None], output_hidden_states=True).hidden_states
        return torch.stack([state[0].mean(0) for state in states]).numpy()

    return embed


def xvectors(model: us.UniSpeechSatForXVector) -> Callable[[torch.Tensor], np.ndarray]:
    """A function from a waveform to (1, dim): its x-vector."""

    @torch.inference_mode()
    def embed(wave: torch.Tensor) -> np.ndarray:
        return model(wave[None]).embeddings.numpy()

    return embed


def mfcc_statistics(wave: torch.Tensor) -> np.ndarray:
    """(1, 78): mean and standard deviation of 39-dimensional MFCC, the spectral baseline."""
    features = mfcc(wave)
    return torch.cat([features.mean(0), features.std(0)])[None].numpy()


def log_mel_statistics(wave: torch.Tensor) -> np.ndarray:
    """(1, 160): mean and standard deviation of 80 log-mel bands; behind LDA the strongest of the simple systems."""
    features = log_mel(wave)
    return torch.cat([features.mean(0), features.std(0)])[None].numpy()


def trial_list() -> tuple[pd.DataFrame, np.ndarray, tuple[list[str], list[str]]]:
    """The trials, which of them are of one speaker, and who speaks on each side."""
    trials = pd.read_csv(SPEECH / "trials.csv")
    table = pd.read_csv(SPEECH / "metadata.csv")
    speaker = dict(zip(table["path"], table["speaker"], strict=True))
    sides = tuple([speaker[path] for path in trials[column]] for column in ("enrol_path", "test_path"))
    return trials, trials["label"].to_numpy().astype(bool), (sides[0], sides[1])


def evaluate(
    embed: Callable[[torch.Tensor], np.ndarray], *, n_boot: int = 500, limit: int | None = None
) -> pd.DataFrame:
    """Equal error rates on unseen speakers: one row for each layer and back end, with intervals and all scores."""
    trials, _, _ = trial_list()
    table = pd.read_csv(SPEECH / "metadata.csv")
    train = table[table["split"] == "train"]
    if limit is not None:
        train = train.iloc[:: max(1, len(train) // limit)]
    unseen = sorted({*trials["enrol_path"], *trials["test_path"]})
    vectors = {p: embed(w) for p, w in tqdm(clips(unseen).items(), desc="unseen speakers", leave=False)}
    fitted = [embed(w) for w in tqdm(clips(list(train["path"])).values(), desc="train speakers", leave=False)]
    matrices = np.stack([vectors[path] for path in unseen])
    return rates(unseen, matrices, np.stack(fitted), train["speaker"].to_numpy(), n_boot=n_boot)


def rates(
    unseen: list[str], vectors: np.ndarray, known: np.ndarray, who: np.ndarray, *, n_boot: int = 500
) -> pd.DataFrame:
    """The same from vectors (utterances, layers, dim): of the files of the trial list, and of who trains back ends."""
    trials, same, sides = trial_list()
    several = pd.Series(who).groupby(who).transform("size").to_numpy() > 1  # one utterance has no scatter
    rows = []
    for layer in range(known.shape[1]):
        for backend in ("cosine", "LDA"):
            matrix = vectors[:, layer]
            if backend == "LDA":
                discriminant = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1)
                matrix = discriminant.fit(known[several, layer], who[several]).transform(matrix)
            else:
                matrix = matrix - known[:, layer].mean(0)
            unit = dict(zip(unseen, matrix / np.linalg.norm(matrix, axis=1, keepdims=True), strict=True))
            scores = np.array(
                [unit[a] @ unit[b] for a, b in zip(trials["enrol_path"], trials["test_path"], strict=True)]
            )
            low, high = eer_interval(scores, same, sides, n_boot=n_boot)
            rate = {"eer": eer(scores, same), "low": low, "high": high}
            rows.append({"layer": layer, "backend": backend, **rate, "scores": scores})
    return pd.DataFrame(rows)
