"""Put the built-in models together, judge them, and write their cards: the last step of `make tiny`.

    python benchmarks/tiny.py             # from build/sat/2, build/hubert/2 and build/sat/xvector
    python benchmarks/tiny.py --judge     # what is in unisat/checkpoints already, again
    python benchmarks/tiny.py --page      # the cards only, from benchmarks/tiny.json

Writes unisat/checkpoints/tiny and tiny-hubert: weights in half precision, k-means, curves, recipes and the model card
with every number on it. Judged on recordings of speakers that they never heard: voices by the first two seconds of each
file, phones by single frames, words by what clusters of frames tell of them. Beside the models stand the same network
untrained and statistics of the spectrum with the same back ends.
"""

import argparse
import json
import shutil
from pathlib import Path

import pandas as pd
import torch
from development import Development
from layers import words, words_table
from speakers import evaluate, layer_means, log_mel_statistics, mfcc_statistics, trial_list, xvectors

import unisat as us
from unisat.checkpoint import read_weights, write_weights
from unisat.interpret.statistics.error_rates import eer_interval

ROOT = Path(__file__).resolve().parents[1]
BUILD, CHECKPOINTS = ROOT / "build", ROOT / "unisat" / "checkpoints"
MADE_OF = {"tiny": (BUILD / "sat" / "2", BUILD / "sat" / "xvector"), "tiny-hubert": (BUILD / "hubert" / "2", None)}
"""Each model: its pretraining, and its x-vector head."""
BEFORE = ("large/sat/1", "large/sat/2", "sat/1")
"""The stages that both have been through before their last one, as docs/training.md names them."""
PROBED = 250
"""Recordings of training speakers that phone probes are fitted on."""
SIDES = ("cosine", "LDA")
SIMPLE = {"MFCC": mfcc_statistics, "log-mel": log_mel_statistics}


def assemble(name: str) -> None:
    """One checkpoint of the backbone, the parts of the objective and, where there is one, the x-vector head."""
    pretraining, xvector = MADE_OF[name]
    folder = CHECKPOINTS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    heads = [pretraining / "model", *([xvector / "model"] if xvector else [])]
    weights = {key: weight for head in reversed(heads) for key, weight in read_weights(head).items()}
    write_weights({key: weight.half() for key, weight in weights.items()}, folder)
    config = us.UniSpeechSatConfig.from_pretrained(heads[-1])
    masks = us.UniSpeechSatConfig.from_pretrained(heads[0]).apply_spec_augment  # heads learn without
    config = config.replace(
        architectures=["UniSpeechSatForPreTraining"], torch_dtype="float16", apply_spec_augment=masks
    )
    config.save_pretrained(folder)
    for file in ("kmeans.safetensors", "targets.json", "recipe.json"):
        shutil.copy(pretraining / "model" / file, folder / file)
    for kind in ("train", "valid"):
        shutil.copy(pretraining / f"{kind}.csv", folder / f"{kind}.csv")
    if xvector:
        shutil.copy(xvector / "train.csv", folder / "xvector-train.csv")


def stages(name: str) -> list[dict]:
    """What a model has been through: steps, hours, and what it knew in the end."""
    runs = json.loads((ROOT / "benchmarks" / "training.json").read_text())["runs"]
    last = pd.read_csv(CHECKPOINTS / name / "valid.csv").iloc[-1].to_dict()
    rows = [{"run": run, **{key: part for key, part in runs[run].items() if key != "curve"}} for run in BEFORE]
    return [*rows, {"run": "what ships", **last}]


def phones() -> dict[str, list[dict]]:
    """Phones of unseen speakers, one frame, by a linear discriminant that was fitted on training speakers."""
    speech = Development(PROBED, "unseen")
    torch.manual_seed(0)
    models = {name: us.load(name) for name in MADE_OF}
    models["untrained"] = us.UniSpeechSatModel(models["tiny"].config).eval()
    found = {name: speech.layers(model, speakers=False) for name, model in models.items()}
    found["spectra"] = speech.controls(speakers=False)
    return {name: table.round(4).to_dict("records") for name, table in found.items()}


def heard() -> dict[str, int]:
    """How many judge."""
    trials, _, sides = trial_list()
    return {"trials": len(trials), "unseen speakers": len({*sides[0], *sides[1]})}


def judge() -> dict:
    """Everything on the cards that takes time."""
    torch.manual_seed(0)
    untrained = us.UniSpeechSatModel(us.load("tiny").config).eval()
    rows = {name: evaluate(layer_means(us.load(name))) for name in MADE_OF}
    rows["untrained"] = evaluate(layer_means(untrained))
    rows["x-vector"] = evaluate(xvectors(us.load("tiny", "xvector")))
    rows |= {name: evaluate(statistics) for name, statistics in SIMPLE.items()}
    _, same, sides = trial_list()

    def less(one: pd.Series, other: pd.Series) -> dict[str, float]:
        """The difference of two rates over the same draws of speakers."""
        low, high = eer_interval(one["scores"], same, sides, versus=other["scores"])
        return {"eer": float(one["eer"] - other["eer"]), "low": low, "high": high}

    by = {name: table.set_index(["layer", "backend"]) for name, table in rows.items()}
    margins = {
        f"x-vector less {name}": {side: less(by["x-vector"].loc[(0, side)], by[name].loc[(0, side)]) for side in SIDES}
        for name in SIMPLE
    }
    twins = [
        {"layer": layer, side: less(by["tiny"].loc[(layer, side)], by["tiny-hubert"].loc[(layer, side)])}
        for layer in by["tiny"].index.unique("layer")
        for side in SIDES
    ]
    return {
        **heard(),
        "speakers": {name: table.drop(columns="scores").round(4).to_dict("records") for name, table in rows.items()},
        "margins": margins,
        "tiny less tiny-hubert": twins,
        "phones": phones(),
        "words": words().rename_axis("frames of").reset_index().to_dict("records"),
        "weights": {name: sum(part.numel() for part in read_weights(CHECKPOINTS / name).values()) for name in MADE_OF},
        "megabytes": {name: (CHECKPOINTS / name / "model.safetensors").stat().st_size / 1e6 for name in MADE_OF},
    }


def rate(row: dict, key: str = "eer", sign: str = "") -> str:
    """A number with its interval over speakers."""
    low, high = (row.get(f"{key}_{end}", row.get(end)) for end in ("low", "high"))
    return f"{row[key]:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def history(name: str) -> list[str]:
    """The table of its stages."""
    lines = [
        "| stage | steps | hours heard | masked accuracy | of the nearest frame seen | contrastive loss (who knows "
    ]
    lines[0] += "nothing) | codes in use |"
    lines.append("|" + "---|" * 7)
    codes = us.UniSpeechSatConfig.from_pretrained(CHECKPOINTS / name).num_codevectors_per_group
    for row in stages(name):
        cells = [row["run"], f"{row['step']:.0f}", f"{row['hours']:.1f}", f"{row['accuracy_masked']:.3f}"]
        cells.append(f"{row['accuracy_masked_copied']:.3f}")
        if name == "tiny" and row["run"] == "what ships":
            cells.append(f"{row['contrastive']:.3f} ({row['contrastive_chance']:.3f})")
            cells.append(f"{row['code_perplexity_0']:.1f} and {row['code_perplexity_1']:.1f} of {codes}")
        else:
            cells += ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def voices_table(results: dict) -> list[str]:
    """Equal error rates of everything."""
    by = {name: pd.DataFrame(rows).set_index(["layer", "backend"]) for name, rows in results["speakers"].items()}
    lines = ["| | cosine | LDA |", "|---|---|---|"]
    names = {"x-vector": "**x-vector head**", "untrained": "the same network untrained"}
    names |= {"MFCC": "MFCC, mean and deviation", "log-mel": "log-mel, mean and deviation"}
    for name, label in names.items():
        table = by[name]["eer"].unstack()
        picks = [(int(table[side].idxmin()), side) for side in SIDES]
        extra = [f", layer {layer}" if len(table) > 1 else "" for layer, _ in picks]
        cells = [rate(by[name].loc[pick].to_dict()) + more for pick, more in zip(picks, extra, strict=True)]
        lines.append(f"| {label} | {cells[0]} | {cells[1]} |")
    for name in MADE_OF:
        for layer in by[name].index.unique("layer"):
            cells = [rate(by[name].loc[(layer, side)].to_dict()) for side in SIDES]
            lines.append(f"| {name}, layer {layer} | {cells[0]} | {cells[1]} |")
    return lines


def simpler(results: dict) -> str:
    """What has a lower rate than all that was learned, if anything has."""
    best = {name: min((row["eer"], row["backend"]) for row in rows) for name, rows in results["speakers"].items()}
    ours = min(best[name][0] for name in ("x-vector", *MADE_OF))
    plain, (least, backend) = min(((name, best[name]) for name in SIMPLE), key=lambda pair: pair[1])
    if least >= ours:
        return ""
    voices = us.UniSpeechSatConfig.from_pretrained(CHECKPOINTS / "tiny").num_labels
    return (
        f" **Mean and deviation of {plain} have a lower rate ({least:.3f}, by {backend}) than any layer and the x-vector "
        f"head:** these models have heard no more than {voices} voices, a few minutes of each."
    )


def phones_table(results: dict) -> list[str]:
    """Shares of frames whose phone is found."""
    spectra = {row["features"]: row for row in results["phones"]["spectra"]}
    lines = ["| | tiny | tiny-hubert | untrained |", "|---|---|---|---|"]
    tables = [results["phones"][name] for name in (*MADE_OF, "untrained")]
    found = {f"layer {rows[0]['layer']}": [rate(row, "phones") for row in rows] for rows in zip(*tables, strict=True)}
    found |= {name: [rate(row, "phones"), "", ""] for name, row in spectra.items()}
    return [*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in found.items())]


ATTRIBUTION = [
    '- LibriSpeech, "LibriSpeech (c) 2014 by Vassil Panayotov", CC BY 4.0; Panayotov, Chen, Povey, Khudanpur, ICASSP '
    "2015. <https://www.openslr.org/12>",
    "- speechocean762, CC BY 4.0; Zhang et al., Interspeech 2021. <https://www.openslr.org/101>",
    "- Arabic Speech Commands v1, CC BY 4.0; Ghandoura, Hjabo, Al Dakkak, Eng. Appl. of AI 2021.",
    "- Asterisk core sounds, Italian and Russian, CC BY 3.0; Digium and contributors.",
    "- DSPSpeech-20, MIT; AMMI speech of Nigerian Pidgin (B. Bassey), Swahili (C. Gitau) and Yoruba (S. Ogun), MIT.",
    "- Common Voice, Persian and Twi, CC0; Mozilla and contributors.",
    "- unisat's synthetic voices (data/README.md), MIT.",
]


def card(name: str, results: dict) -> str:
    """A model card."""
    targets = json.loads((CHECKPOINTS / name / "targets.json").read_text())
    hours = sum(row["hours"] for row in stages(name))
    twin = name != "tiny"
    lines = ["---", "library_name: unisat", "license: cc-by-4.0", "---", ""]
    lines += [
        "# tiny-hubert: the twin without speakers' losses" if twin else "# tiny: a small UniSpeech-SAT to take apart",
        "",
    ]
    size = (
        f"{results['weights'][name] / 1e6:.1f} million weights ({results['megabytes'][name]:.1f} MB in half precision, "
    )
    lines += [
        f"{size}{'the parts of the objective' if twin else 'heads'} included): eight pre-LN layers of width 192 on a narrow "
        "front end. It comes with unisat so that notebooks show something learned; it is a specimen, not a tool."
    ]
    if twin:
        lines[-1] += (
            " It learned by the content loss alone (HuBERT's); [`tiny`](../tiny/README.md), with the contrastive loss and "
            "utterance mixing, had the same speech, targets, steps, seed and start. Its quantizer has learned nothing."
        )
    lines += ["", "```python", "import unisat as us", "", f'backbone = us.load("{name}")']
    lines += [
        f'objective = us.load("{name}", "pretraining")',
        *([] if twin else ['voices = us.load("tiny", "xvector")']),
    ]
    lines += ["```", "", "## How it was trained", ""]
    lines += [
        f"Self-supervised, on twelve hours of speech that it heard again and again, {hours:.0f} h in all, each time in other "
        "crops and mostly through other channels (equaliser, noise, small rooms, band limits), with targets of the clean "
        "signal from which the utterance's mean was taken. [`docs/training.md`](../../../docs/training.md) has every run; "
        "these are the stages of this one. The first two had batches of 128 s, the third 32 s, the last one 64 s; the "
        "first and third learned clusters of MFCC, the second and the last one clusters of a layer.",
        "",
        *history(name),
        "",
        "Validation speech (development speakers), without mixing. The last stage is that of "
        f"`recipes/{'hubert' if twin else 'sat'}-2.toml`, as recipe.json beside this card says: {targets['clusters']} clusters of "
        f"layer {targets['layer']} of the model that the third stage gave. Labels: {targets['label_hash'][:16]}…",
    ]
    if not twin:
        lines[-1] += (
            " Then an x-vector head on the frozen backbone (`recipes/sat-xvector.toml`), on the speakers of the same speech."
        )
    lines += ["", "## What it knows", ""]
    lines += [
        f"Speakers it never heard ({results['unseen speakers']} of them, {results['trials']:,} trials, first two seconds of "
        "each file): equal error rate with its 95 % interval over speakers. Cosine: of mean hidden states, the training mean taken off; LDA fitted on the training "
        "speakers. For the untrained network the layer is the best one for each back end. As a yardstick, a speaker encoder "
        "that was trained on thousands of speakers (Resemblyzer 0.1.4, measured once, outside of this repository) has 0.049 on "
        "these trials without a back end.",
        "",
        *voices_table(results),
        "",
    ]
    told = []
    for pair, rows in results["margins"].items():
        told.append(f"{pair}: " + " and ".join(f"{rate(row, sign='+')} by {side}" for side, row in rows.items()))
    lines += [f"Over the same draws of speakers, {'; '.join(told)}.{simpler(results)}", ""]
    pairs: dict[int, list[str]] = {}
    for row in results["tiny less tiny-hubert"]:
        side = next(side for side in SIDES if side in row)
        pairs.setdefault(row["layer"], []).append(rate(row[side], sign="+"))
    lines += ["| tiny less tiny-hubert | cosine | LDA |", "|---|---|---|"]
    lines += [f"| layer {layer} | {' | '.join(cells)} |" for layer, cells in pairs.items()]
    lines += [
        "",
        "Phones of such speakers: the share of single frames whose phone a linear discriminant finds, that was fitted on "
        f"{PROBED} recordings of training speakers.",
        "",
        *phones_table(results),
        "",
        "Share of the uncertainty about the spoken word that one of 100 clusters of frames of `tiny` takes away (PNMI against "
        "words.csv), each fitted on these files. The floor is what is left of it when words no longer belong to their "
        "frames; only what lies above it is knowledge of words.",
        "",
        *words_table(pd.DataFrame(results["words"]).set_index("frames of")),
        "",
        "## Limits",
        "",
        "Twelve hours of read English, words in Arabic, and a little of other languages: it knows little of spontaneous or "
        "noisy speech and of children. Most speakers were recorded in one session each, so that *speaker* and *recording* are "
        "not told apart by these numbers. Do not use it to identify people.",
        "",
        "## Data, licences, attribution",
        "",
        "Changes: cut, resampled to 16 kHz, crops of 2 to 4 seconds, other channels, utterances mixed, for the x-vector also "
        "played faster and slower. Nobody of the trial lists, of those who ship with unisat or of the development speakers is "
        "among them (tests/test_recipes.py).",
        "",
        *ATTRIBUTION,
        "",
        "The weights are offered under CC BY 4.0; the code is MIT.",
        "",
        "Written by `python benchmarks/tiny.py`; curves in the CSV files beside it.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Assemble, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", action="store_true", help="do not put them together anew")
    parser.add_argument("--page", action="store_true", help="write the cards only")
    parser.add_argument("--assemble", action="store_true", help="put them together, and stop")
    options = parser.parse_args()
    file = ROOT / "benchmarks" / "tiny.json"
    if not options.page and not options.judge:
        for name in MADE_OF:
            assemble(name)
    if options.assemble:
        return
    if not options.page:
        file.write_text(json.dumps(judge(), indent=1) + "\n")
    results = json.loads(file.read_text())
    for name in MADE_OF:
        (CHECKPOINTS / name / "README.md").write_text(card(name, results))
    print(card("tiny", results))


if __name__ == "__main__":
    main()
