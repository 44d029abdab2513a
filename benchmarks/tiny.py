"""Put the built-in checkpoint together, judge it, and write its card: the last step of `make tiny`.

    python benchmarks/tiny.py

Reads build/tiny (two iterations of pretraining and the x-vector head), writes unisat/checkpoints/tiny: weights in half
precision, k-means, curves, recipes and the model card with every number on it. Judged on recordings of speakers that it
never heard (first two seconds of each), beside the same network untrained and statistics of the spectrum; and on how
much its clusters know about spoken words, beside what is left when words are shuffled.

Where build/tiny is gone, what was judged with it stays as it is in benchmarks/tiny.json, and only the controls, which
need no more than the checkpoint and the recordings, are measured anew.
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from layers import words, words_table
from speakers import SPEECH, evaluate, layer_means, log_mel_statistics, mfcc_statistics, trial_list, xvectors

import unisat as us
from unisat.clusters import Clusters, interval_labels, pnmi
from unisat.interpret.statistics.error_rates import eer_interval
from unisat.training import heads, recipe
from unisat.training.targets import HiddenFeatures, MfccFeatures

ROOT = Path(__file__).resolve().parents[1]
BUILD, TINY = ROOT / "build" / "tiny", ROOT / "unisat" / "checkpoints" / "tiny"


def assemble() -> None:
    """One checkpoint of the backbone, the parts of the objective and the x-vector head, in half precision."""
    from unisat.checkpoint import read_weights, write_weights

    shutil.rmtree(TINY, ignore_errors=True)
    TINY.mkdir(parents=True)
    pretraining, xvector = BUILD / "2" / "model", BUILD / "xvector" / "model"
    weights = {**read_weights(xvector), **read_weights(pretraining)}
    write_weights({name: weight.half() for name, weight in weights.items()}, TINY)
    config = us.UniSpeechSatConfig.from_pretrained(xvector)
    config = config.replace(architectures=["UniSpeechSatForPreTraining"], torch_dtype="float16")
    config.save_pretrained(TINY)
    for name in ("kmeans.safetensors", "targets.json"):
        shutil.copy(pretraining / name, TINY / name)
    for iteration in (1, 2):
        for kind in ("train", "valid"):
            shutil.copy(BUILD / str(iteration) / f"{kind}.csv", TINY / f"iteration-{iteration}-{kind}.csv")
    shutil.copy(BUILD / "xvector" / "train.csv", TINY / "xvector-train.csv")


def word_pnmi() -> dict[str, float]:
    """How much the targets of each iteration tell about the word being spoken."""
    words = pd.read_csv(SPEECH / "words.csv")
    names = sorted(words["label"].unique())
    first = us.UniSpeechSatModel.from_pretrained(BUILD / "1" / "model")
    layer = json.loads((BUILD / "2" / "model" / "targets.json").read_text())["layer"]
    sources = {
        "iteration 1 (MFCC)": (MfccFeatures(), Clusters.load(BUILD / "1" / "model")),
        f"iteration 2 (layer {layer} of iteration 1)": (HiddenFeatures(first, layer), Clusters.load(TINY)),
    }
    files = words["path"].unique()
    waves = {path: us.audio.load(SPEECH / path) for path in files}
    known = {}
    for name, (features, clusters) in sources.items():
        labels, truth = [], []
        for path in files:
            row = clusters.assign(features(waves[path]))
            spoken = words[words["path"] == path]
            intervals = [(word.start, word.end, f"{names.index(word.label):04d}") for word in spoken.itertuples()]
            codes, present = interval_labels(intervals, len(row))
            numbers = np.array([int(word) for word in present])
            truth.append(np.where(codes >= 0, numbers[codes], -1))
            labels.append(row.numpy())
        known[name] = pnmi(np.concatenate(labels), np.concatenate(truth))
    return known


def controls(results: dict) -> dict:
    """Add what needs the checkpoint and the recordings alone: log-mel statistics, and words with their floors."""
    spectra = evaluate(log_mel_statistics).drop(columns="scores").round(4).to_dict("records")
    known = words().rename_axis("frames of").reset_index()
    return {**results, "speakers": {**results["speakers"], "log-mel": spectra}, "words": known.to_dict("records")}


def judge() -> dict:
    """What needs build/tiny."""
    torch.manual_seed(0)
    untrained = us.UniSpeechSatModel(us.load("tiny").config).eval()
    rows = {
        "tiny": evaluate(layer_means(us.load("tiny"))),
        "untrained": evaluate(layer_means(untrained)),
        "x-vector": evaluate(xvectors(us.load("tiny", "xvector"))),
        "MFCC": evaluate(mfcc_statistics),
    }
    _, same, sides = trial_list()
    margins = {}
    for backend in ("cosine", "LDA"):
        ours, theirs = (rows[name].set_index("backend").loc[backend] for name in ("x-vector", "MFCC"))
        low, high = eer_interval(ours["scores"], same, sides, versus=theirs["scores"])
        margins[backend] = {"eer": float(ours["eer"] - theirs["eer"]), "low": low, "high": high}
    final = {}
    for iteration in (1, 2):
        valid = pd.read_csv(TINY / f"iteration-{iteration}-valid.csv").iloc[-1]
        train = pd.read_csv(TINY / f"iteration-{iteration}-train.csv").iloc[-1]
        names = ["accuracy_masked", "accuracy_unmasked", "contrastive", "contrastive_chance"]
        names += ["code_perplexity_0", "code_perplexity_1"]
        final[iteration] = {"step": int(train["step"]), **{name: float(valid[name]) for name in names}}
    return {
        "speakers": {name: table.drop(columns="scores").round(4).to_dict("records") for name, table in rows.items()},
        "x-vector less MFCC": margins,
        "final": final,
        "word_pnmi": word_pnmi(),
        "weights": sum(weight.numel() for weight in us.load("tiny").parameters()),
        "megabytes": (TINY / "model.safetensors").stat().st_size / 1e6,
    }


def rate(row: dict) -> str:
    """An error rate with its interval over speakers."""
    return f"{row['eer']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def card(results: dict) -> str:
    """The model card."""
    targets = json.loads((TINY / "targets.json").read_text())
    recipes = {i: recipe.read(ROOT / "recipes" / f"tiny-{i}.toml") for i in (1, 2)}
    voices = recipe.read(ROOT / "recipes" / "tiny-xvector.toml", kind=heads.HeadRecipe)
    by_layer = {name: pd.DataFrame(rows).set_index(["layer", "backend"]) for name, rows in results["speakers"].items()}
    audio = {i: pd.read_csv(TINY / f"iteration-{i}-train.csv") for i in (1, 2)}
    hours = {i: float(table["audio_seconds"].mean() * table["step"].iloc[-1] / 3600) for i, table in audio.items()}
    lines = [
        "---",
        "library_name: unisat",
        "license: cc-by-sa-4.0",
        "---",
        "",
        "# tiny: a small UniSpeech-SAT to take apart",
        "",
        f"{results['weights'] / 1e6:.1f} million weights ({results['megabytes']:.1f} MB in half precision, heads "
        "included): six pre-LN layers of width 192 on a narrow front end. It comes with unisat so that notebooks show "
        "something learned; it is a specimen, not a tool.",
        "",
        "```python",
        "import unisat as us",
        "",
        'backbone = us.load("tiny")',
        'objective = us.load("tiny", "pretraining")',
        'voices = us.load("tiny", "xvector")',
        "```",
        "",
        "## How it was trained",
        "",
        "`make tiny` does it again where the recorded speech is present (recipes/tiny-1.toml, tiny-2.toml, "
        "tiny-xvector.toml; seed 0). Two iterations from scratch, HuBERT's way, with utterance mixing and the "
        "utterance-wise contrastive loss in both:",
        "",
        "| | targets | steps | audio heard | masked accuracy | unmasked | contrastive loss (chance) | codes in use |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for i, final in results["final"].items():
        plan = recipes[i].targets
        source = "MFCC" if plan.features == "mfcc" else f"layer {plan.layer} of iteration 1"
        lines.append(
            f"| iteration {i} | {plan.clusters} clusters, {source} | {final['step']} | {hours[i]:.1f} h | "
            f"{final['accuracy_masked']:.3f} | {final['accuracy_unmasked']:.3f} | "
            f"{final['contrastive']:.3f} ({final['contrastive_chance']:.3f}) | "
            f"{final['code_perplexity_0']:.1f} and {final['code_perplexity_1']:.1f} of 32 |"
        )
    clusters = recipes[2].targets.clusters
    lines += [
        "",
        f"Accuracies are on the validation split, without mixing; chance is {1 / clusters:.3f}, and {math.log(clusters):.2f} "
        f"nats. Then an x-vector head on the frozen backbone, {voices.steps} steps on the speakers of the same speech, "
        f"heard at {', '.join(map(str, voices.speeds))} times its speed. Labels: {targets['label_hash'][:16]}…",
        "",
        "## What it knows",
        "",
        "Speakers it never heard (36 of them, 2,880 trials, first two seconds of each file): equal error rate with its 95 % "
        "interval over speakers. Cosine: of mean hidden states, the training mean taken off; LDA fitted on the training "
        "speakers.",
        "",
        "| | cosine | LDA |",
        "|---|---|---|",
    ]
    names = {"untrained": "the same network untrained", "MFCC": "MFCC, mean and deviation"}
    names |= {"log-mel": "log-mel, mean and deviation", "x-vector": "x-vector head"}
    for name, label in names.items():
        table = by_layer[name]["eer"].unstack()
        picks = [(int(table[backend].idxmin()), backend) for backend in ("cosine", "LDA")]
        cells = [rate(by_layer[name].loc[pick].to_dict()) for pick in picks]
        extra = [f", layer {layer}" if len(table) > 1 else "" for layer, _ in picks]
        lines.append(f"| {label} | {cells[0]}{extra[0]} | {cells[1]}{extra[1]} |")
    for layer in by_layer["tiny"].index.unique("layer"):
        cells = [rate(by_layer["tiny"].loc[(layer, backend)].to_dict()) for backend in ("cosine", "LDA")]
        lines.append(f"| tiny, layer {layer} | {cells[0]} | {cells[1]} |")
    best = {name: table["eer"].min() for name, table in by_layer.items()}  # by the better back end of each
    plain = min(("MFCC", "log-mel"), key=lambda name: best[name])
    simple = [label for label in ("tiny", "x-vector") if best[label] >= best[plain]]
    margin = [
        f"{row['eer']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}) by {backend}"
        for backend, row in results["x-vector less MFCC"].items()
    ]
    lines += [
        "",
        "For the untrained network the layer is the best one for each back end. Over the same draws of speakers the x-vector "
        f"head's rate less that of MFCC is {' and '.join(margin)}. The head's shape and "
        "training were chosen with these trials in view, so its rate is a little too good.",
    ]
    if simple:
        lines[-1] += (
            f" **Plain {plain} statistics have a lower rate ({best[plain]:.3f} by the better back end)** than "
            + " and ".join({"tiny": "any layer", "x-vector": "the x-vector head"}[label] for label in simple)
            + ", though the intervals overlap: the model has heard a few hours of speech, and few utterances of each speaker."
        )
    lines.append("")
    table = pd.DataFrame(results["words"]).set_index("frames of")
    told = [f"{value:.3f} for {name}" for name, value in results["word_pnmi"].items()]
    lines += [
        "Share of the uncertainty about the spoken word that one of 100 clusters of frames takes away (PNMI against "
    ]
    lines[-1] += (
        "words.csv), for clusters of the checkpoint's layers and of MFCC, each fitted on these files. The floor is "
    )
    lines[-1] += (
        "what is left of it when words no longer belong to their frames; only what lies above it is knowledge of "
    )
    lines[-1] += "words."
    lines += ["", *words_table(table), ""]
    lines += [
        f"The targets that were trained on, fitted on the training speech, had {' and '.join(told)}. Their clusters are "
    ]
    lines[-1] += (
        "of models that are not kept, so their floors are not known; those in the table say how much of such a "
    )
    lines[-1] += "number there is without any word."
    lines += [
        "",
        "## Limits",
        "",
        "A few hours of read English, of words in Arabic and digits: it knows little of other languages, of spontaneous or "
        "noisy speech and of children. Most speakers were recorded in one session each, so that *speaker* and *recording* "
        "are not told apart by these numbers. Do not use it to identify people.",
        "",
        "## Data, licences, attribution",
        "",
        "Train split and pool of the recorded set, and unisat's synthetic voices (data/README.md, MIT). Changes: cut, "
        "resampled to 16 kHz, "
        f"crops of {recipes[2].data.crop_seconds:g} seconds, utterances mixed, for the x-vector also played "
        "faster and slower.",
        "",
        '- LibriSpeech, "LibriSpeech (c) 2014 by Vassil Panayotov", CC BY 4.0; Panayotov, Chen, Povey, Khudanpur, ICASSP '
        "2015. <https://www.openslr.org/12>",
        "- speechocean762, CC BY 4.0; Zhang et al., Interspeech 2021. <https://www.openslr.org/101>",
        "- Arabic Speech Commands v1, CC BY 4.0; Ghandoura, Hjabo, Al Dakkak, Eng. Appl. of AI 2021.",
        "- Free Spoken Digit Dataset, CC BY-SA 4.0; Z. Jackson and contributors. "
        "<https://github.com/Jakobovski/free-spoken-digit-dataset>",
        "- CSTR VCTK, CC BY 4.0 (0.92) and ODC-By 1.0 (0.80); Veaux, Yamagishi, MacDonald, University of Edinburgh. "
        "<https://datashare.ed.ac.uk/handle/10283/3443>",
        "",
        "Because of the digits the weights are offered under CC BY-SA 4.0, to be on the safe side; the code is MIT.",
        "",
        "Written by `python benchmarks/tiny.py`; curves in the CSV files beside it.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Assemble, judge, write."""
    file = ROOT / "benchmarks" / "tiny.json"
    if BUILD.exists():
        assemble()
        results = judge()
    else:
        results = json.loads(file.read_text())
        results["final"] = {int(iteration): final for iteration, final in results["final"].items()}
    results = controls(results)
    file.write_text(json.dumps(results, indent=1) + "\n")
    (TINY / "README.md").write_text(card(results))
    print(card(results))


if __name__ == "__main__":
    main()
