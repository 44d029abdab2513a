"""What layers know of phones and of speakers, on the development speakers: for choices, before the unseen ones judge.

    python benchmarks/development.py build/sat/2/model build/hubert/2/model [--untrained 1] [--out build/development]

Phones: accuracy of a linear discriminant on single frames, fitted on training speakers, judged on development
speakers; MFCC (mean off per utterance; also with four frames of context on both sides), log-mel and untrained twins
beside it. Speakers: equal error rate between the first two seconds of all pairs of recordings of a source, by cosine
and behind an LDA fitted on training speakers; means and standard deviations of log-mel and MFCC beside it. Intervals
are 95 %, over development speakers.
"""

import argparse
import json
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from phones import Phones, hidden_states, recordings, waves
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import unisat as us
from unisat.acoustics import log_mel, mfcc
from unisat.interpret.statistics.error_rates import eer, eer_interval
from unisat.training.targets import MeanOff, MfccFeatures, align

SECONDS = 2.0


def accuracy(fitted: tuple[np.ndarray, np.ndarray], judged: tuple[np.ndarray, np.ndarray], who: np.ndarray) -> dict:
    """Of a linear discriminant, over frames with a phone; interval over speakers."""
    known = fitted[1] >= 0
    probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-3).fit(fitted[0][known], fitted[1][known])
    asked = judged[1] >= 0
    right = probe.predict(judged[0][asked]) == judged[1][asked]
    by = pd.DataFrame({"who": who[asked], "right": right}).groupby("who")["right"].agg(["sum", "size"]).to_numpy(float)
    draw = np.random.default_rng(0).integers(len(by), size=(2000, len(by)))
    low, high = np.quantile(by[draw, 0].sum(1) / by[draw, 1].sum(1), [0.025, 0.975])
    return {"phones": right.mean(), "phones_low": low, "phones_high": high}


def with_context(part: torch.Tensor, frames: int = 4) -> torch.Tensor:
    """Each frame with those around it, (frames, dim × (2 frames + 1)); the ends repeated."""
    place = torch.arange(len(part))
    return torch.cat([part[(place + shift).clamp(0, len(part) - 1)] for shift in range(-frames, frames + 1)], 1)


def statistics(part: torch.Tensor) -> np.ndarray:
    """Mean and standard deviation over frames."""
    return torch.cat([part.mean(0), part.std(0)]).numpy()


class Development:
    """The speech, its phones and its pairs, read once; ``listed`` says who judges, as `phones.recordings` does."""

    def __init__(self, files: int, listed: str = "development") -> None:
        self.phones = Phones()
        fitted, judged = recordings(), recordings(listed)
        timed, heard = ([file in self.phones for file in table["file"]] for table in (fitted, judged))
        self.fitted = fitted[timed].iloc[:: max(1, sum(timed) // files)].reset_index(drop=True)
        self.judged = judged[heard].reset_index(drop=True)
        self.waves = [waves(table) for table in (self.fitted, self.judged)]
        self.codes = [
            [self.phones(file, len(wave)) for file, wave in zip(table["file"], sound, strict=True)]
            for table, sound in zip((self.fitted, self.judged), self.waves, strict=True)
        ]
        # speakers: recordings that last, of those with several
        train = fitted[fitted["seconds"] >= SECONDS]
        train = train.groupby("speaker").head(20)
        self.train = train[train.groupby("speaker")["file"].transform("size") > 1].reset_index(drop=True)
        self.test = judged[judged["seconds"] >= SECONDS].reset_index(drop=True)
        rows = [part.index for _, part in self.test.groupby("source")]
        self.pairs = np.array([pair for part in rows for pair in combinations(part, 2)])

    @cached_property
    def clips(self) -> list[list[torch.Tensor]]:
        """The beginnings of what the speakers' back ends are fitted on, and judged on."""
        return [waves(table, SECONDS) for table in (self.train, self.test)]

    def phone_rows(self, parts: list[list[torch.Tensor]]) -> dict:
        """Accuracy, from features of all fitted and all judged recordings."""
        sides, frames = [], []
        for features, codes in zip(parts, self.codes, strict=True):
            frames = [min(len(part), len(code)) for part, code in zip(features, codes, strict=True)]
            flat = torch.cat([part[:count] for part, count in zip(features, frames, strict=True)]).numpy()
            sides.append((flat, np.concatenate([code[:count] for code, count in zip(codes, frames, strict=True)])))
        who = np.repeat(self.judged["speaker"].to_numpy(), frames)
        return {**accuracy(sides[0], sides[1], who), "frames": int((sides[1][1] >= 0).sum())}

    def speaker_rows(self, train: np.ndarray, test: np.ndarray) -> dict:
        """Equal error rates, from one vector a recording."""
        who = self.test["speaker"].to_numpy()
        first, second = self.pairs.T
        same = who[first] == who[second]
        told = {}
        names = self.train["speaker"].to_numpy()
        discriminant = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1).fit(train, names)
        for name, vectors in (("cosine", test - train.mean(0)), ("lda", discriminant.transform(test))):
            unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            scores = (unit[first] * unit[second]).sum(1)
            low, high = eer_interval(scores, same, (list(who[first]), list(who[second])), n_boot=200)
            told |= {f"eer_{name}": eer(scores, same), f"eer_{name}_low": low, f"eer_{name}_high": high}
        return told

    def controls(self, speakers: bool = True) -> pd.DataFrame:
        """What needs no model."""
        cepstra, off = MfccFeatures(), MeanOff("utterance")
        plain = [[off(cepstra(wave)) for wave in part] for part in self.waves]
        bands = [
            [off(align(log_mel(wave), len(code))) for wave, code in zip(*pair, strict=True)]
            for pair in zip(self.waves, self.codes, strict=True)
        ]
        around = [[with_context(part) for part in side] for side in plain]
        rows = [
            {"features": "MFCC, mean off", **self.phone_rows(plain)},
            {"features": "MFCC, mean off, ± 4 frames", **self.phone_rows(around)},
            {"features": "log-mel, mean off", **self.phone_rows(bands)},
        ]
        for row, kind in ((0, mfcc), (2, log_mel)) if speakers else ():
            rows[row] |= self.speaker_rows(
                *(np.stack([statistics(kind(wave)) for wave in side]) for side in self.clips)
            )
        return pd.DataFrame(rows)

    def layers(self, model: us.UniSpeechSatModel, speakers: bool = True) -> pd.DataFrame:
        """One row for each layer of a model."""
        states = [hidden_states(model, side) for side in self.waves]
        numbers = range(model.config.num_hidden_layers + 1)
        rows = [
            {"layer": layer, **self.phone_rows([[part[layer] for part in side] for side in states])}
            for layer in numbers
        ]
        if speakers:
            clips = [np.stack([part.mean(1).numpy() for part in hidden_states(model, side)]) for side in self.clips]
            for layer in numbers:
                rows[layer] |= self.speaker_rows(*(side[:, layer] for side in clips))
        return pd.DataFrame(rows)


def main() -> None:
    """Measure models and controls, print and keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--files", type=int, default=500, help="that phone probes are fitted on")
    parser.add_argument("--untrained", type=int, default=0, help="twins with fresh weights of the first model")
    parser.add_argument("--no-controls", action="store_true")
    parser.add_argument("--only-phones", action="store_true", help="leave out speakers, which take most of the time")
    parser.add_argument("--out", type=Path, default=Path("build/development"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    speech, speakers = Development(options.files), not options.only_phones
    about = {"fitted": len(speech.fitted), "fitted_speakers": speech.fitted["speaker"].nunique()}
    about |= {
        "judged": len(speech.judged),
        "pairs": len(speech.pairs),
        "train_speakers": speech.train["speaker"].nunique(),
    }
    print(json.dumps(about))
    found = {} if options.no_controls else {"controls": speech.controls(speakers)}
    for path in options.models:
        found["-".join(path.parts[-3:])] = speech.layers(us.UniSpeechSatModel.from_pretrained(path), speakers)
    for seed in range(options.untrained):
        torch.manual_seed(seed)
        config = us.UniSpeechSatModel.from_pretrained(options.models[0]).config
        found[f"untrained-{seed}"] = speech.layers(us.UniSpeechSatModel(config).eval(), speakers)
    for name, table in found.items():
        table.to_csv(options.out / f"{name}.csv", index=False)
        shown = [column for column in table if not column.endswith(("_low", "_high"))]
        print(f"\n{name}\n{table[shown].round(4).to_string(index=False)}")


if __name__ == "__main__":
    main()
