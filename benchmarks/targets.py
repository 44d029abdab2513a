"""What clusters know of phones and of the speaker, and which of a model's layers makes the best ones.

    python benchmarks/targets.py                                     # MFCC, writes docs/targets.md
    python benchmarks/targets.py --model build/sat/1/model           # and the layers of a model
    python benchmarks/targets.py --model build/sat/1/model --clusters 200 --choose build/sat/layer.txt

K-means is fitted on training speakers and judged on the development speakers (data/development.csv). PNMI is the share
of the uncertainty about the phone that the cluster takes away, over frames with a phone; its floor gives each frame the
phone of another, half a recording later. The information about the speaker is in bits, over all frames; its floor deals
the speakers out to the recordings anew.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from phones import ROOT, Phones, hidden_states, recordings, waves
from tqdm import tqdm

import unisat as us
from unisat.clusters import entropy, fit, joint, lloyd, pnmi
from unisat.training.targets import MeanOff, MfccFeatures

WAYS = {  # of taking off what the voice leaves
    "as it is": ("no", False),
    "mean off, utterance": ("utterance", False),
    "mean off, speaker": ("speaker", False),
    "mean off, variance 1, utterance": ("utterance", True),
}


def information(labels: np.ndarray, classes: np.ndarray) -> float:
    """Mutual information in bits."""
    table = joint(torch.from_numpy(labels), torch.from_numpy(classes))
    nats = entropy(table.sum(0)) + entropy(table.sum(1)) - entropy(table.ravel())
    return float(nats / np.log(2))


def without_voice(parts: list[torch.Tensor], speakers: list[str], way: tuple[str, bool]) -> list[torch.Tensor]:
    """Features of recordings, normalised."""
    over, variance_one = way
    known = {}
    if over == "speaker":
        for name in {*speakers}:
            rows = torch.cat([part for part, who in zip(parts, speakers, strict=True) if who == name])
            known[name] = torch.stack([rows.mean(0), rows.std(0, correction=0)])
    off = MeanOff(over, variance_one, known)
    return [off(part, who) for part, who in zip(parts, speakers, strict=True)]


def judge(labels: list[np.ndarray], phones: list[np.ndarray], speakers: list[str], draws: int = 5) -> dict[str, float]:
    """What the labels of recordings know, with floors."""
    flat, said = np.concatenate(labels), np.concatenate(phones)
    moved = np.concatenate([np.roll(part, len(part) // 2) for part in phones])
    codes = pd.Categorical(speakers).codes.astype(int)
    lengths = [len(part) for part in labels]
    random = np.random.default_rng(0)
    dealt = [information(flat, np.repeat(random.permutation(codes), lengths)) for _ in range(draws)]
    return {
        "pnmi": float(pnmi(torch.from_numpy(flat), torch.from_numpy(said))),
        "pnmi_floor": float(pnmi(torch.from_numpy(flat), torch.from_numpy(moved))),
        "speaker_bits": information(flat, np.repeat(codes, lengths)),
        "speaker_floor": float(np.mean(dealt)),
        "frames": len(flat),
    }


class Speech:
    """Development speakers with their phones, and training speakers that clusters are fitted on."""

    def __init__(self, files: int) -> None:
        self.phones = Phones()
        judged = recordings("development")
        self.judged = judged[[file in self.phones for file in judged["file"]]].reset_index(drop=True)
        fitted = recordings()
        self.fitted = fitted.iloc[:: max(1, len(fitted) // files)].reset_index(drop=True)
        self.waves, self.fitted_waves = waves(self.judged), waves(self.fitted)
        self.said = [self.phones(*pair) for pair in zip(self.judged["file"], map(len, self.waves), strict=True)]

    def rows(self, fitted: list[torch.Tensor], judged: list[torch.Tensor], clusters: list[int], device: str) -> list:
        """One row for each way and number of clusters, for features of both halves."""
        rows = []
        for name, way in WAYS.items():
            sample = torch.cat(without_voice(fitted, self.fitted["speaker"].tolist(), way))
            parts = without_voice(judged, self.judged["speaker"].tolist(), way)
            for count in clusters:
                found = fit(sample, count) if device == "cpu" else lloyd(sample.to(device), count)
                labels = [found.assign(part).numpy() for part in parts]
                said = [phones[: len(part)] for phones, part in zip(self.said, labels, strict=True)]
                rows.append({"way": name, "clusters": count, **judge(labels, said, self.judged["speaker"].tolist())})
        return rows


def measure(speech: Speech, model: Path | None, clusters: list[int], layers: list[int], device: str) -> pd.DataFrame:
    """One row for each feature, way and number of clusters."""
    if model is None:
        features = MfccFeatures()
        fitted, judged = ([features(wave) for wave in part] for part in (speech.fitted_waves, speech.waves))
        return pd.DataFrame(speech.rows(fitted, judged, clusters, device)).assign(features="MFCC")
    loaded = us.UniSpeechSatModel.from_pretrained(model).to(device)
    fitted, judged = (hidden_states(loaded, part) for part in (speech.fitted_waves, speech.waves))
    tables = []
    for layer in tqdm(layers or range(1, loaded.config.num_hidden_layers + 1), desc="layers"):
        rows = speech.rows([part[layer] for part in fitted], [part[layer] for part in judged], clusters, device)
        tables.append(pd.DataFrame(rows).assign(features=f"layer {layer}"))
    return pd.concat(tables, ignore_index=True)


def page(table: pd.DataFrame, speech: Speech) -> str:
    """The table as Markdown."""
    lines = ["# What clusters know: of the phone, and of the speaker", ""]
    lines += [
        f"Written by `python benchmarks/targets.py`. K-means on {len(speech.fitted)} recordings of "
        f"{speech.fitted['speaker'].nunique()} training speakers, judged on {len(speech.judged)} recordings of "
        f"{speech.judged['speaker'].nunique()} development speakers. Floors in brackets.",
        "",
        "| features | | k | PNMI with phones | information about the speaker (bits) |",
        "|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        cells = f"{row.pnmi:.3f} ({row.pnmi_floor:.3f}) | {row.speaker_bits:.2f} ({row.speaker_floor:.2f})"
        lines.append(f"| {row.features} | {row.way} | {row.clusters} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a pretrained model's folder; without one, MFCC")
    parser.add_argument("--clusters", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--layers", type=int, nargs="*", default=[], help="of the model; all, if none is named")
    parser.add_argument("--files", type=int, default=400, help="that clusters are fitted on")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--choose", type=Path, help="write the layer with the best PNMI, mean off, into this file")
    options = parser.parse_args()
    for name in {*WAYS} - {*options.ways}:
        del WAYS[name]
    speech = Speech(options.files)
    table = measure(speech, options.model, options.clusters, options.layers, options.device)
    print(page(table, speech))
    if options.choose:
        best = table.sort_values("pnmi").iloc[-1]
        options.choose.parent.mkdir(parents=True, exist_ok=True)
        options.choose.write_text(best["features"].removeprefix("layer "))
        table.to_csv(options.choose.with_suffix(".csv"), index=False)
    elif options.model is None:
        (ROOT / "docs" / "targets.md").write_text(page(table, speech))


if __name__ == "__main__":
    main()
