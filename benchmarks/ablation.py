"""What each part of UniSpeech-SAT adds to HuBERT: contrastive loss, mixing, both, branched from the same weights.

    python benchmarks/ablation.py            # judges build/{hubert,contrastive,mixing,sat}/2-{0,1,2}/model
    python benchmarks/ablation.py --page     # writes the page and its picture anew from benchmarks/ablation.json

`recipes/gpu.py` trains them: four arms, several seeds, the same speech and as many steps for all. Each is judged layer
by layer. Voices: equal error rate of the unseen speakers' trials (speakers.py). Phones: a linear discriminant on single
frames, fitted on training speakers, judged on development speakers; once as they were recorded, and once with another
of them mixed in, in the frames where both are heard. Words: whether the nearest token among those of other development
speakers is the same word. Two speakers: whether both are heard in a frame. A model that was judged is not judged again.
Writes benchmarks/ablation.json, docs/ablation.md and its picture.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from phones import ROOT, SHARED, SILENCE, Phones, hidden_states, recordings, waves
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from speakers import SPEECH, clips, rates, trial_list
from tqdm import tqdm

import unisat as us
from unisat.acoustics import log_mel, mfcc
from unisat.frames import SAMPLE_RATE, conv_length, frame_seconds
from unisat.interpret.statistics.error_rates import eer_draws
from unisat.interpret.statistics.intervals import interval, resampled
from unisat.mixing import Mixing, mix_pair
from unisat.training.targets import MeanOff, align

ITERATION = 2
"""In which the arms part; that of the page from before was the third."""
ARMS = {"hubert": "content only", "contrastive": "+ contrastive", "mixing": "+ mixing", "sat": "+ both"}
MEASURES = {
    "eer_cosine": ("voices, EER, cosine", -1),
    "eer_lda": ("voices, EER, LDA", -1),
    "phones": ("phones", 1),
    "phones_mixed": ("phones under another voice", 1),
    "words": ("words, nearest token", 1),
    "overlap": ("two speakers, balanced accuracy", 1),
}
"""Name, and whether more (1) or less (-1) is better."""
CONTRASTS = [
    ("contrastive", "hubert"),
    ("mixing", "hubert"),
    ("sat", "hubert"),
    ("sat", "mixing"),
    ("sat", "contrastive"),
]
PAPER = [
    ("the contrastive loss lowers the speaker error", ["eer_cosine", "eer_lda"], -1, [CONTRASTS[0], CONTRASTS[3]]),
    ("the contrastive loss costs a little on phones", ["phones"], -1, [CONTRASTS[0], CONTRASTS[3]]),
    ("mixing helps to hear that two speak", ["overlap"], 1, [CONTRASTS[1], CONTRASTS[4]]),
    ("mixing keeps the main speaker's phones when another speaks", ["phones_mixed"], 1, [CONTRASTS[1], CONTRASTS[4]]),
    ("mixing costs a little on phones", ["phones"], -1, [CONTRASTS[1], CONTRASTS[4]]),
    ("both together lower the speaker error", ["eer_cosine", "eer_lda"], -1, [CONTRASTS[2]]),
    ("both together help to hear that two speak", ["overlap"], 1, [CONTRASTS[2]]),
]
"""Claims of arXiv:2110.05752 (table 1 and its ablation): text, measures, sign of the difference, which arms."""
SHAPES = [
    ("both: voices are known worse at the last layer than at the contrastive one", ["eer_cosine", "eer_lda"], "sat"),
    ("content only: voices are known worse at the last layer", ["eer_cosine", "eer_lda"], "hubert"),
    ("both: phones and words are known better at the last layer", ["phones", "words"], "sat"),
    ("content only: phones and words are known better at the last layer", ["phones", "words"], "hubert"),
]
"""What papers say of layers (arXiv:2110.13900, figure 2): the last layer less the contrastive one."""
MASKED = {
    "accuracy_masked": "accuracy",
    "accuracy_masked_commonest": "of the commonest cluster",
    "accuracy_masked_copied": "of the cluster of the nearest frame seen",
    "content_masked": "loss (nats)",
    "content_masked_entropy": "entropy of the clusters (nats)",
}
"""Columns of valid.csv: what is asked at masked frames, and floors."""
TWINS = ("sat", "hubert")
"""Arms without which there is nothing to compare; of others those count that were trained with the same seeds."""
DRAWS = 500
MOST_SECONDS = 4.0
Look = Callable[[list[torch.Tensor]], list[tuple[np.ndarray, np.ndarray]]]
"""From waveforms to, for each, its vectors (layers, dim) and its frames (layers, frames, dim)."""


def of_model(model: us.UniSpeechSatModel) -> Look:
    """Hidden states, and their means."""
    return lambda sound: [(part.mean(1).numpy(), part.numpy()) for part in hidden_states(model, sound)]


def of_spectrum(kind: Callable[[torch.Tensor], torch.Tensor]) -> Look:
    """Frames without their mean; means and standard deviations of whole spectra."""
    off = MeanOff("utterance")

    def look(sound: list[torch.Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
        found = []
        for wave in sound:
            values = kind(wave)
            frames = off(align(values, conv_length(len(wave), 400, 320)))
            found.append((torch.cat([values.mean(0), values.std(0)])[None].numpy(), frames[None].numpy()))
        return found

    return look


@dataclass
class Counts:
    """What was right of how many, by speaker; ``right`` (kinds, speakers), the measure is the mean over kinds."""

    right: np.ndarray
    asked: np.ndarray

    @classmethod
    def of(cls, right: np.ndarray, who: np.ndarray, names: list[str], kinds: np.ndarray | None = None) -> "Counts":
        """Count."""
        kinds = np.zeros(len(right), int) if kinds is None else kinds
        place = kinds * len(names) + pd.Categorical(who, names).codes
        size = (kinds.max() + 1) * len(names)
        sums = [np.bincount(place, values, size).reshape(-1, len(names)) for values in (right, np.ones(len(right)))]
        return cls(*sums)

    def rates(self, weights: np.ndarray) -> np.ndarray:
        """(rounds,): the measure, where speakers count as ``weights`` (rounds, speakers) says."""
        return ((weights @ self.right.T) / (weights @ self.asked.T)).mean(1)


def normalised(sound: list[torch.Tensor]) -> list[torch.Tensor]:
    """As models expect it."""
    return [us.audio.normalize(wave) for wave in sound]


def mixed(sound: list[torch.Tensor], speakers: np.ndarray, seed: int) -> tuple[list[torch.Tensor], list[np.ndarray]]:
    """Each recording with another speaker in a random half of it, -5 to 5 dB, and the frames with both."""
    draw, found, both = np.random.default_rng(seed), [], []
    for wave, name in zip(sound, speakers, strict=True):
        other = sound[draw.choice(np.flatnonzero(speakers != name))]
        length = min(len(wave) // 2, len(other))
        start, level = int(draw.integers(len(wave) - length + 1)), float(draw.uniform(-5, 5))
        found.append(mix_pair(wave, other, snr_db=level, start=start, length=length, normalize=True))
        one = torch.ones(1, dtype=torch.long)
        record = Mixing(one, one * start, one * (start + length), 0 * one, torch.tensor([level]))
        frames = conv_length(len(wave), 400, 320)
        both.append(record.overlapped_frames(frames, hop=320, receptive_field=400)[0].numpy())
    return found, both


def nearest_tokens(vectors: np.ndarray, who: np.ndarray) -> np.ndarray:
    """(tokens,): the row of the nearest token of another speaker, by cosine, the mean of all tokens taken off."""
    vectors = vectors - vectors.mean(0)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(who[:, None] != who, vectors @ vectors.T, -np.inf).argmax(1)


class Speech:
    """What all models hear, read once."""

    def __init__(self, most: int) -> None:
        phones = Phones()
        trials, self.same, self.sides = trial_list()
        self.unseen = sorted({*trials["enrol_path"], *trials["test_path"]})
        table = pd.read_csv(SPEECH / "metadata.csv")
        known = table[table["split"] == "train"].iloc[:: max(1, sum(table["split"] == "train") // most)]
        self.known = known["speaker"].to_numpy()
        self.test_clips = list(clips(self.unseen).values())
        self.train_clips = list(clips(list(known["path"])).values())
        # phones are fitted on those of the training clips whose speakers are no development speakers
        allowed = {*recordings()["file"]}
        files = [str(Path(path).with_suffix("")) for path in known["path"]]
        self.said_train = [
            phones(file, len(wave)) if file in phones and file in allowed else None
            for file, wave in zip(files, self.train_clips, strict=True)
        ]
        fitted = [row for row, codes in enumerate(self.said_train) if codes is not None]
        some = fitted[:: max(1, len(fitted) // 150)]
        self.fitted = known["speaker"].iloc[fitted].nunique()
        pairs = mixed([self.train_clips[row] for row in some], self.known[some], 0)
        self.train_mixed, self.train_both = pairs
        judged = recordings("development")
        judged = judged[[file in phones for file in judged["file"]]].groupby("speaker").head(max(2, most // 100))
        self.who = judged["speaker"].to_numpy()
        self.names = sorted({*self.who})
        self.sound = normalised(waves(judged, MOST_SECONDS))
        self.said = [phones(*pair) for pair in zip(judged["file"], map(len, self.sound), strict=True)]
        self.mixed, self.both = mixed(self.sound, self.who, 1)
        self.tokens = self.words(list(judged["file"]))
        self.weights = resampled(self.names, DRAWS)

    def words(self, files: list[str]) -> pd.DataFrame:
        """Tokens: number of the recording, first frame, end, word, speaker."""
        table = pd.read_csv(SHARED / "speech2" / "alignments" / "phones.csv")
        table = table[table["phone"] != SILENCE]
        table["file"] = table["path"].str.rpartition(".")[0]
        number = {file: row for row, file in enumerate(files)}
        spoken = table[table["file"].isin(number)].groupby(["file", "word_index"])
        rows = []
        for (file, _), part in spoken:
            row = number[file]
            centre = frame_seconds(len(self.said[row]), [400], [320]).numpy()
            inside = np.flatnonzero((centre >= part["start"].min()) & (centre < part["end"].max()))
            if len(inside) and part["end"].max() <= len(self.sound[row]) / SAMPLE_RATE:
                rows.append((row, inside[0], inside[-1] + 1, part["word"].iloc[0], part["speaker"].iloc[0]))
        return pd.DataFrame(rows, columns=["row", "begin", "end", "word", "speaker"])

    def nearest(self, vectors: np.ndarray) -> Counts:
        """Whether the nearest token of another speaker is the same word; of words that another speaker says as well."""
        word, who = (self.tokens[name].to_numpy() for name in ("word", "speaker"))
        alike, other = word[:, None] == word, who[:, None] != who
        nearest = nearest_tokens(vectors, who)
        asked = (alike & other).any(1)
        return Counts.of((word[nearest] == word)[asked], who[asked], self.names)

    def chance(self) -> dict[str, float]:
        """What guessing gets: the commonest phone, a random token of another speaker, either answer, either speaker."""
        said = np.concatenate(self.said)
        word, who = (self.tokens[name].to_numpy() for name in ("word", "speaker"))
        alike, other = word[:, None] == word, who[:, None] != who
        asked = (alike & other).any(1)
        commonest = np.bincount(said[said >= 0]).max() / (said >= 0).sum()
        under = np.concatenate([codes[both] for codes, both in zip(self.said, self.both, strict=True)])
        return {
            "eer_cosine": 0.5,
            "eer_lda": 0.5,
            "phones": float(commonest),
            "phones_mixed": float(np.bincount(under[under >= 0]).max() / (under >= 0).sum()),
            "words": float(((alike & other).sum(1) / other.sum(1))[asked].mean()),
            "overlap": 0.5,
        }

    def judge(self, look: Look) -> dict[str, np.ndarray]:
        """For each measure (layers, 1 + rounds): its value, and those of a bootstrap over speakers."""

        def vectors(sound: list[torch.Tensor]) -> np.ndarray:
            return np.stack([vector for vector, _ in look(sound)])

        test, known, frames, codes = vectors(self.test_clips), [], [], []
        for begin in range(0, len(self.train_clips), 64):  # frames of all of them would take memory
            for row, (vector, part) in enumerate(look(self.train_clips[begin : begin + 64]), begin):
                known.append(vector)
                if (said := self.said_train[row]) is not None:
                    frames.append(part[:, said >= 0])
                    codes.append(said[said >= 0])
        table = rates(self.unseen, test, np.stack(known), self.known, n_boot=1)
        found: dict[str, list[np.ndarray]] = {name: [] for name in MEASURES}
        for row in table.itertuples():
            rounds = eer_draws(row.scores, self.same, self.sides, n_boot=DRAWS)
            found[f"eer_{row.backend.lower()}"].append(np.append(row.eer, rounds))
        fitted, said = np.concatenate(frames, 1), np.concatenate(codes)
        clean, under, pairs = (
            [part for _, part in look(sound)] for sound in (self.sound, self.mixed, self.train_mixed)
        )
        means = [np.stack([clean[row][:, a:b].mean(1) for row, a, b, _, _ in self.tokens.itertuples(index=False)])]
        flat_clean, flat_under, flat_pairs = (np.concatenate(parts, 1) for parts in (clean, under, pairs))
        codes, both = np.concatenate(self.said), np.concatenate(self.both)
        who = np.repeat(self.who, [len(part) for part in self.said])
        for layer in range(len(fitted)):
            probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-3).fit(fitted[layer], said)
            pair = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-3, priors=[0.5, 0.5])
            pair.fit(flat_pairs[layer], np.concatenate(self.train_both))
            counts = {"words": self.nearest(means[0][:, layer])}
            for name, flat, asked in (
                ("phones", flat_clean, codes >= 0),
                ("phones_mixed", flat_under, both & (codes >= 0)),
            ):
                right = probe.predict(flat[layer][asked]) == codes[asked]
                counts[name] = Counts.of(right, who[asked], self.names)
            counts["overlap"] = Counts.of(pair.predict(flat_under[layer]) == both, who, self.names, both.astype(int))
            every = np.concatenate([np.ones_like(self.weights[:1]), self.weights])
            for name, counted in counts.items():
                found[name].append(counted.rates(every))
        return {name: np.stack(rows).astype(np.float32) for name, rows in found.items()}


def judged(speech: Callable[[], Speech], place: Path, name: str, stamp: str, look: Callable[[], Look]) -> dict:
    """What was found about a model, or is found now."""
    file = place / f"{name.replace('/', '-')}-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}.npz"
    if not file.exists():
        place.mkdir(parents=True, exist_ok=True)
        values = speech().judge(look())
        partial = file.with_suffix(f".{os.getpid()}.part")  # several may be at work, each on seeds of its own
        with partial.open("wb") as opened:
            np.savez(opened, **values)
        partial.rename(file)
    with np.load(file) as found:
        return dict(found)


Judged = dict[str, np.ndarray]


def difference(first: list[np.ndarray], second: list[np.ndarray], speakers: int) -> dict:
    """Mean over seeds of one less the other, paired, (1 + rounds,) each: interval over speakers, and each seed's."""
    less = np.stack(first) - np.stack(second)
    low, high = interval(less.mean(0)[1:], groups=speakers)
    return {"difference": float(less[:, 0].mean()), "low": low, "high": high, "seeds": less[:, 0].tolist()}


def at_best(runs: list[np.ndarray], sign: int) -> list[np.ndarray]:
    """Each seed's measure, (1 + rounds,), at the layer where the mean over seeds is best, chosen anew in each round."""
    best = (sign * np.stack(runs).mean(0)).argmax(0)
    return [run[best, np.arange(len(best))] for run in runs]


def compared(arms: dict[str, list[Judged]], layer: int, groups: dict[str, int]) -> dict[str, list[dict]]:
    """Differences between arms, and between layers of arms."""
    rows, shapes = [], []
    for minuend, subtrahend in [pair for pair in CONTRASTS if {*pair} <= {*arms}]:
        for name, (_, sign) in MEASURES.items():
            first, second = ([run[name] for run in arms[arm]] for arm in (minuend, subtrahend))
            places = {
                str(place): [[run[place] for run in side] for side in (first, second)] for place in range(len(first[0]))
            }
            places["best"] = [at_best(first, sign), at_best(second, sign)]
            for at, (one, other) in places.items():
                told = {"minuend": minuend, "subtrahend": subtrahend, "measure": name, "at": at}
                rows.append({**told, **difference(one, other, groups[name])})
    for arm, runs in arms.items():
        for name in MEASURES:
            last, middle = ([run[name][place] for run in runs] for place in (-1, layer))
            shapes.append({"arm": arm, "measure": name, **difference(last, middle, groups[name])})
    return {"differences": rows, "shapes": shapes}


def told(runs: list[Judged], layer: int | None, groups: dict[str, int]) -> dict[str, dict]:
    """For each measure the values by layer and seed, and the mean over seeds with its interval, there and at best."""
    found = {}
    for name, (_, sign) in MEASURES.items():
        each = [run[name] for run in runs]
        mean = np.stack(each).mean(0)
        best = int((sign * mean[:, 0]).argmax())
        chosen = np.stack(at_best(each, sign)).mean(0)
        found[name] = {"layers": np.stack(each)[:, :, 0].round(5).tolist(), "best_layer": best}
        for place, draws in (("middle", mean[min(layer or 0, len(mean) - 1)]), ("best", chosen)):
            found[name][place] = [float(draws[0]), *interval(draws[1:], groups=groups[name])]
    return found


def measure(build: Path, seeds: list[int], most: int) -> dict:
    """Judge what is there."""
    models = {arm: {seed: build / arm / f"{ITERATION}-{seed}" / "model" for seed in seeds} for arm in ARMS}
    there = {
        arm: [seed for seed, path in found.items() if (path / "config.json").exists()] for arm, found in models.items()
    }
    whole = [seed for seed in seeds if all(seed in there[arm] for arm in TWINS)]
    if not whole:
        raise SystemExit(
            f"no seed has both of {', '.join(TWINS)} in {build}: train them (recipes/gpu.py) or give --page."
        )
    compared_arms = [arm for arm in ARMS if {*whole} <= {*there[arm]}]
    held: list[Speech] = []

    def speech() -> Speech:
        if not held:
            held.append(Speech(most))
        return held[0]

    place = build / "ablation"

    def look_at(name: str, path: Path) -> Judged:
        stamp = f"{most} {hashlib.sha256((path / 'model.safetensors').read_bytes()).hexdigest()}"
        return judged(speech, place, name, stamp, lambda: of_model(us.UniSpeechSatModel.from_pretrained(path).eval()))

    arms: dict[str, list[Judged]] = {arm: [] for arm in compared_arms}
    for seed in tqdm(whole, desc="seeds"):
        for arm in arms:
            arms[arm].append(look_at(f"{arm}-{seed}", models[arm][seed]))
            print(
                f"{arm}, seed {seed}: " + ", ".join(f"{key} {arms[arm][-1][key][:, 0].round(3)}" for key in MEASURES),
                flush=True,
            )
    config = us.UniSpeechSatConfig.from_pretrained(models["sat"][whole[0]])
    others: dict[str, list[Judged]] = {}
    if (start := build / "sat" / "2" / "model").exists():
        others["before the arms part"] = [look_at("start", start)]

    def fresh() -> Look:
        torch.manual_seed(0)
        return of_model(us.UniSpeechSatModel(config).eval())

    others["untrained"] = [judged(speech, place, "untrained", f"{most} {config}", fresh)]
    for name, kind in (("MFCC", mfcc), ("log-mel", log_mel)):
        others[name] = [judged(speech, place, name, str(most), lambda kind=kind: of_spectrum(kind))]
    heard = speech()
    groups = {name: len({*heard.sides[0], *heard.sides[1]}) if "eer" in name else len(heard.names) for name in MEASURES}
    layer = config.contrastive_layer
    valid = []
    for arm in arms:
        for seed in whole:
            row = pd.read_csv(build / arm / f"{ITERATION}-{seed}" / "valid.csv").iloc[-1]
            kept = ["hours", "step", *MASKED]
            valid.append({"arm": arm, "seed": seed, **{key: float(row[key]) for key in kept if key in row}})
    about = {
        "iteration": ITERATION,
        "seeds": whole,
        "layer": layer,
        "layers": config.num_hidden_layers,
        "trials": len(heard.same),
        "unseen_speakers": groups["eer_lda"],
        "development_speakers": len(heard.names),
        "recordings": len(heard.sound),
        "fitted_speakers": heard.fitted,
        "phones": int(sum((codes >= 0).sum() for codes in heard.said)),
        "tokens": len(heard.tokens),
        "chance": heard.chance(),
    }
    return {
        "about": about,
        "arms": {arm: told(runs, layer, groups) for arm, runs in arms.items()},
        "controls": {name: told(runs, layer, groups) for name, runs in others.items()},
        **compared(arms, layer, groups),
        "valid": valid,
    }


def clear(row: dict) -> bool:
    """Whether the interval over speakers, and every seed, lie on one side of 0."""
    signs = {np.sign(value) for value in (row["low"], row["high"], *row["seeds"])}
    return len(signs) == 1 and 0 not in signs


def verdict(row: dict, sign: int) -> str:
    """What a difference says about a claim that it has this sign."""
    if not clear(row):
        return "not seen"
    return "seen" if row["difference"] * sign > 0 else "reversed"


def span(row: dict) -> str:
    """A difference with both of its spreads."""
    seeds = f"seeds {min(row['seeds']):+.3f} to {max(row['seeds']):+.3f}"
    text = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}; {seeds})"
    return f"**{text}**" if clear(row) else text


def summary(verdicts: list[str]) -> str:
    """One word for several comparisons of one claim."""
    kinds = {*verdicts} - {"not seen"}
    if not kinds:
        return "not seen"
    if len(kinds) == 2:
        return "seen and reversed"
    kind = kinds.pop()
    return kind if verdicts.count(kind) == len(verdicts) else f"{kind} in {verdicts.count(kind)} of {len(verdicts)}"


def claims(results: dict) -> list[str]:
    """The section on the paper, from the numbers."""
    about = results["about"]
    by = {(row["minuend"], row["subtrahend"], row["measure"], row["at"]): row for row in results["differences"]}
    middle = str(about["layer"])
    lines = ["| the paper says | arms | measure | at the contrastive layer | | at the best layer of each | |"]
    lines += ["|---|---|---|---|---|---|---|"]
    said = {}
    for text, measures, sign, contrasts in PAPER:
        said[text] = []
        for minuend, subtrahend in contrasts:
            if not {minuend, subtrahend} <= {*results["arms"]}:
                continue
            for name in measures:
                cells = []
                for at in (middle, "best"):
                    row = by[minuend, subtrahend, name, at]
                    said[text].append(verdict(row, sign))
                    cells += [span(row), said[text][-1]]
                arms = f"{ARMS[minuend]} less {ARMS[subtrahend]}"
                lines.append(f"| {text} | {arms} | {MEASURES[name][0]} | {' | '.join(cells)} |")
    lines += [
        "",
        f"| of layers | measure | layer {about['layers']} less layer {middle} | |",
        "|---|---|---|---|",
    ]
    shapes = {(row["arm"], row["measure"]): row for row in results["shapes"]}
    for text, measures, arm in SHAPES:
        said[text] = []
        for name in measures:
            row = shapes[arm, name]
            said[text].append(verdict(row, 1))
            lines.append(f"| {text} | {MEASURES[name][0]} | {span(row)} | {said[text][-1]} |")
    lines += ["", "In short:", ""]
    lines += [f"- {text}: **{summary(verdicts) if verdicts else 'not asked'}**" for text, verdicts in said.items()]
    return lines


def value(numbers: list[float]) -> str:
    """A value with its interval."""
    return f"{numbers[0]:.3f} ({numbers[1]:.3f} to {numbers[2]:.3f})"


def header(names: list[str], first: str = "") -> list[str]:
    """The first two lines of a table."""
    return [f"| {first} | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]


def report(results: dict) -> str:
    """The page."""
    about, valid = results["about"], pd.DataFrame(results["valid"])
    names, middle = [name for name, _ in MEASURES.values()], about["layer"]
    hours, steps = valid.get("hours", pd.Series(dtype=float)), valid["step"]
    heard = f" and {hours.min():.1f} to {hours.max():.1f} h of speech" if len(hours) else ""
    lines = ["# What each part adds", ""]
    lines += [
        f"Written by `python benchmarks/ablation.py`: {len(results['arms'])} arms, {len(about['seeds'])} seeds, "
        "branched from the same "
        f"weights; {steps.min():.0f} to {steps.max():.0f} steps{heard} each (`recipes/sat-2.toml`, iteration "
        f"{about.get('iteration', 3)}, `recipes/gpu.py`). "
        f"{about['layers']} layers; the contrastive loss reads layer {middle}. *Voices*: {about['trials']} trials of "
        f"{about['unseen_speakers']} unseen speakers, first two seconds. All else: {about['recordings']} recordings of "
        f"{about['development_speakers']} development speakers, {about['phones']} frames with a phone, "
        f"{about['tokens']} words. Phones: a linear discriminant on single frames, fitted on "
        f"{about['fitted_speakers']} training speakers in the clear; *under another voice* the same discriminant, in "
        "the frames where a second speaker is mixed in (-5 to 5 dB). Words: the nearest token of another "
        "speaker is the same word, of words that another speaker says as well. Two speakers: "
        "is a frame one where both are heard, fitted on mixtures of training speakers. Intervals are 95 %, over "
        "speakers, the same draws for all. Best layers are chosen by what they are judged by, anew in each draw, in "
        "all arms alike. The models of the paper are far larger, and heard far more speech."
    ]
    lines += ["", "![Measures over layers, an arm each](images/ablation-layers.png)"]
    for title, place in ((f"At the contrastive layer ({middle})", "middle"), ("At the best layer of each", "best")):
        lines += ["", f"## {title}", "", *header(names)]
        arms = {ARMS[arm]: found for arm, found in results["arms"].items()}
        for name, found in {**arms, **results["controls"]}.items():
            cells = []
            for key in MEASURES:
                layers = len(found[key]["layers"][0])
                where = f", layer {found[key]['best_layer']}" if place == "best" and layers > 1 else ""
                cells.append(value(found[key][place]) + where)
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("| chance | " + " | ".join(f"{about['chance'][key]:.3f}" for key in MEASURES) + " |")
    lines += [
        "",
        "MFCC and log-mel: mean and deviation for voices; for the rest single frames, the utterance's mean off.",
    ]
    lines += ["", "## Differences", ""]
    lines += [
        "Paired by seed and by speaker. In brackets the interval over speakers of the mean over seeds, then the least "
        "and the greatest of the seeds. **Bold**: both lie on one side of 0."
    ]
    by = {(row["minuend"], row["subtrahend"], row["measure"], row["at"]): row for row in results["differences"]}
    for title, at in ((f"layer {middle}", str(middle)), ("best layer of each", "best")):
        lines += ["", *header(names, title)]
        for minuend, subtrahend in [pair for pair in CONTRASTS if {*pair} <= {*results["arms"]}]:
            cells = [span(by[minuend, subtrahend, name, at]) for name in MEASURES]
            lines.append(f"| {ARMS[minuend]} less {ARMS[subtrahend]} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "## Masked frames",
        "",
        *header(list(MASKED.values())),
    ]
    for arm in results["arms"]:
        label, rows = ARMS[arm], valid[valid["arm"] == arm]
        cells = []
        for key in MASKED:
            cells.append(
                f"{rows[key].mean():.3f} ({rows[key].min():.3f} to {rows[key].max():.3f})" if key in rows else ""
            )
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Mean over seeds, least and greatest; validation speech without mixing, the same clusters for all arms.",
    ]
    lines += ["", "## The paper's claims", ""]
    lines += [
        "*Seen*: the interval over speakers and every seed lie on the side that the paper says; *reversed*: on the "
        f"other; *not seen*: neither. Of {len(about['seeds'])} seeds all agree by chance in one of "
        f"{2 ** (len(about['seeds']) - 1)} cases; among many rows some are clear by chance.",
        "",
        *claims(results),
    ]
    lines += ["", "## By layer", "", "Means over seeds; layer 0 enters the first layer.", ""]
    for key, (name, _) in MEASURES.items():
        lines += [*header([str(layer) for layer in range(about["layers"] + 1)], name)]
        shown = {ARMS[arm]: found for arm, found in results["arms"].items()} | {
            name: found for name, found in results["controls"].items() if len(found[key]["layers"][0]) > 1
        }
        for label, found in shown.items():
            mean = np.mean(found[key]["layers"], 0)
            lines.append(f"| {label} | " + " | ".join(f"{number:.3f}" for number in mean) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def picture(results: dict, file: Path) -> None:
    """Measures over layers: an arm a colour, the band from the least to the greatest of the seeds."""
    figure = us.plots.CellFigure(figsize=(12, 6.4), layout="constrained")
    layers = np.arange(results["about"]["layers"] + 1)
    looks = {"MFCC": "-.", "log-mel": "--", "untrained": ":", "before the arms part": "-"}
    for ax, (key, (name, sign)) in zip(figure.subplots(2, 3).flat, MEASURES.items(), strict=True):
        for control, found in results["controls"].items():
            mean = np.mean(found[key]["layers"], 0)
            shown = np.broadcast_to(mean, len(layers)) if len(mean) == 1 else mean
            ax.plot(layers, shown, color="0.45", linestyle=looks[control], linewidth=1.2, label=control, zorder=1)
        for place, (arm, label) in enumerate(ARMS.items()):
            if arm not in results["arms"]:
                continue
            values = np.array(results["arms"][arm][key]["layers"])
            colour = us.plots.CLASSES[place]
            ax.plot(layers, values.mean(0), color=colour, marker="osD^"[place], markersize=4, label=label, zorder=3)
            ax.fill_between(layers, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
        ax.axvline(results["about"]["layer"], color="0.8", linewidth=0.8, zorder=0)
        ax.set(xlabel="layer", ylabel=name, xticks=layers)
        ax.set_title("less is better" if sign < 0 else "more is better", fontsize=8, color="0.4", loc="right")
    lines = figure.axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(file, dpi=90)


def main() -> None:
    """Judge what is not judged yet, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--files", type=int, default=1000, help="most training recordings, to try it out")
    parser.add_argument("--page", action="store_true", help="from benchmarks/ablation.json, without models")
    parser.add_argument("--out", type=Path, default=ROOT, help="where docs and benchmarks lie")
    options = parser.parse_args()
    file = options.out / "benchmarks" / "ablation.json"
    if not options.page:
        results = measure(options.build, options.seeds, options.files)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    results = json.loads(file.read_text())
    images = options.out / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    (images.parent / "ablation.md").write_text(report(results))
    picture(results, images / "ablation-layers.png")
    print(report(results))


if __name__ == "__main__":
    main()
