"""What each part of UniSpeech-SAT adds to HuBERT, at a size that a laptop trains: contrastive loss, mixing, both.

    python benchmarks/ablation.py [--steps 500] [--seeds 0 1 2]

Four arms on the same MFCC clusters: the content loss alone, with the contrastive loss, with utterance mixing, with
both; several seeds each, the same crops for all arms of a seed. Every model is judged the same way: error rate of
unseen speakers by layer (cosine and LDA, first two seconds), detection of frames where two speak, by layer, and
accuracy of the masked clusters. Finished runs are not repeated. Writes benchmarks/ablation.csv and docs/ablation.md.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from speakers import SPEECH, evaluate, layer_means

import unisat as us
from unisat.mixing import Mixing, mix_pair
from unisat.training import loop, recipe

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
ARMS = {
    "content loss only": dict(contrastive_loss_weight=0.0, diversity_loss_weight=0.0, mixing_prob=0.0),
    "+ contrastive": dict(mixing_prob=0.0),
    "+ mixing": dict(contrastive_loss_weight=0.0, diversity_loss_weight=0.0),
    "+ both": dict(),
}
PLAN = recipe.read(ROOT / "recipes" / "tiny-1.toml")
SIZE = dict(hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=384, conv_dim=[64] * 7)
MEASURES = {
    "eer_cosine": "speaker EER, cosine, best layer",
    "eer_lda": "speaker EER, LDA, best layer",
    "overlap": "two speakers, balanced accuracy, best layer",
    "accuracy_masked": "masked clusters, accuracy",
}


def run(arm: str, seed: int, steps: int, out: Path) -> Path:
    """Train one model, or find it trained."""
    values = PLAN.flat() | {"out": str(out), "seed": seed}
    values |= {"optimizer.steps": steps, "optimizer.warmup_steps": steps // 10}
    values |= {"run.valid_every": steps, "run.save_every": steps, "run.keep": 1}
    values |= {f"model.{name}": value for name, value in {**SIZE, **ARMS[arm]}.items()}
    if not (out / "model").exists():
        shared = out.parent / "targets"
        if shared.exists() and not (out / "targets").exists():
            shutil.copytree(shared, out / "targets")
        loop.pretrain(recipe.from_dict(recipe.apply({}, values)))
        if not shared.exists():
            shutil.copytree(out / "targets", shared)
        shutil.rmtree(out / "checkpoints")
    return out / "model"


def mixtures(split: str, count: int, seed: int = 0) -> list[tuple[torch.Tensor, Mixing]]:
    """Clips of two seconds of a split, each with another speaker in a random half of it, at -5 to 5 dB."""
    table = pd.read_csv(SPEECH / "metadata.csv")
    table = table[(table["split"] == split) & (table["seconds"] >= 2)]
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        first = table.iloc[draw.integers(len(table))]
        second = table[table["speaker"] != first["speaker"]].iloc[
            draw.integers((table["speaker"] != first["speaker"]).sum())
        ]
        main, other = (us.audio.load(SPEECH / row["path"])[:32_000] for row in (first, second))
        start, length = int(draw.integers(16_000)), 16_000
        level = float(draw.uniform(-5, 5))
        mixture = mix_pair(main, other, snr_db=level, start=start, length=length, normalize=True)
        one = torch.ones(1, dtype=torch.long)
        found.append((mixture, Mixing(one, one * start, one * (start + length), 0 * one, torch.tensor([level]))))
    return found


def overlap_accuracy(model: us.UniSpeechSatModel, train: int = 150, test: int = 150) -> list[float]:
    """Balanced accuracy of "do two speak in this frame" by layer: fitted on train speakers, judged on unseen ones."""
    config = model.config
    sides = []
    for split, count in (("train", train), ("unseen", test)):
        states, labels = [], []
        for wave, record in mixtures(split, count):
            with torch.inference_mode():
                hidden = torch.stack(model(wave[None], output_hidden_states=True).hidden_states)[:, 0, ::2]
            frames = us.frames.stack_length(len(wave), config.conv_kernel, config.conv_stride)
            geometry = dict(hop=config.inputs_to_logits_ratio, receptive_field=config.receptive_field)
            labels.append(record.overlapped_frames(frames, **geometry)[0, ::2])
            states.append(hidden)
        sides.append((torch.cat(states, 1).numpy(), torch.cat(labels).numpy()))
    (x, y), (x_test, y_test) = sides
    rates = []
    for layer in range(len(x)):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
        rates.append(balanced_accuracy_score(y_test, probe.fit(x[layer], y).predict(x_test[layer])))
    return rates


def judge(folder: Path, arm: str, seed: int) -> pd.DataFrame:
    """One row for each layer."""
    model = us.UniSpeechSatModel.from_pretrained(folder)
    rates = evaluate(layer_means(model), n_boot=1).pivot(index="layer", columns="backend", values="eer")
    last = pd.read_csv(folder.parent / "valid.csv").iloc[-1] if (folder.parent / "valid.csv").exists() else {}
    table = pd.DataFrame({"eer_cosine": rates["cosine"], "eer_lda": rates["LDA"], "overlap": overlap_accuracy(model)})
    table["accuracy_masked"] = last.get("accuracy_masked", np.nan)
    return table.reset_index().assign(arm=arm, seed=seed)


def best(results: pd.DataFrame) -> pd.DataFrame:
    """One row for each run: the best layer of each measure."""
    runs = results.groupby(["arm", "seed"])
    low, high = runs[["eer_cosine", "eer_lda"]].min(), runs[["overlap", "accuracy_masked"]].max()
    return low.join(high)


def interval(values: np.ndarray) -> str:
    """Mean and 95 % interval of a mean of few seeds (Student's t)."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.3f} ± {half:.3f}"


def report(results: pd.DataFrame, steps: int) -> str:
    """The tables as Markdown, with what they say about the paper's shape."""
    runs, seeds = best(results), sorted(results["seed"].unique())
    arms = [arm for arm in ARMS if arm in set(results["arm"])]
    lines = ["# What each part adds, at a small size", ""]
    lines += [
        f"Written by `python benchmarks/ablation.py --steps {steps}`: {len(seeds)} seeds, {steps} steps of "
        f"{PLAN.data.batch_seconds:g} s, {SIZE['num_hidden_layers']} layers of width {SIZE['hidden_size']}. "
        "The models of the paper saw many thousand times as much speech. Mean over seeds ± half of its 95 % interval "
        "(Student's t); less is better for error rates. Best layers are chosen on what they are judged by, in all arms "
        "alike."
    ]
    lines += ["", "| | " + " | ".join(MEASURES.values()) + " |", "|---|" + "---|" * len(MEASURES)]
    for arm in arms:
        cells = [interval(runs.loc[arm][name].to_numpy()) for name in MEASURES]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    lines += ["", "## Differences to the content loss alone, paired by seed", ""]
    lines += ["| | " + " | ".join(MEASURES.values()) + " |", "|---|" + "---|" * len(MEASURES)]
    said = {}
    for arm in arms[1:]:
        cells = []
        for name in MEASURES:
            change = (runs.loc[arm][name] - runs.loc[arms[0]][name]).to_numpy()
            half = stats.t.ppf(0.975, len(change) - 1) * change.std(ddof=1) / np.sqrt(len(change))
            said[arm, name] = (change.mean(), half)
            cells.append(f"{change.mean():+.3f} ± {half:.3f}")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    lines += ["", "## By layer", "", "Means over seeds; layer 0 enters the first layer.", ""]
    for name in ("eer_cosine", "eer_lda", "overlap"):
        table = results.groupby(["arm", "layer"])[name].mean().unstack().loc[arms]
        lines += [f"**{MEASURES[name].removesuffix(', best layer')}**", ""]
        lines += ["| layer | " + " | ".join(map(str, table.columns)) + " |", "|---|" + "---|" * len(table.columns)]
        lines += [f"| {arm} | " + " | ".join(f"{value:.3f}" for value in row) + " |" for arm, row in table.iterrows()]
        lines.append("")
    lines += ["## The paper's shape", ""]
    lines.append("| the paper says | here | |")
    lines.append("|---|---|---|")
    expected = [
        ("the contrastive loss lowers the speaker error", "+ contrastive", "eer_cosine", -1),
        ("the contrastive loss lowers the speaker error", "+ contrastive", "eer_lda", -1),
        ("mixing helps most where two speak", "+ mixing", "overlap", 1),
        ("mixing costs a little on content", "+ mixing", "accuracy_masked", -1),
        ("both together lower the speaker error", "+ both", "eer_cosine", -1),
        ("both together lower the speaker error", "+ both", "eer_lda", -1),
        ("both together help where two speak", "+ both", "overlap", 1),
    ]
    for claim, arm, name, sign in expected:
        if (arm, name) in said:
            mean, half = said[arm, name]
            clear = abs(mean) > half
            verdict = ("seen" if mean * sign > 0 else "the opposite") if clear else "not told apart from chance"
            lines.append(f"| {claim} | {mean:+.3f} ± {half:.3f} ({MEASURES[name]}) | {verdict} |")
    lines += ["", "Each row is a test of its own at 95 %; among several, one may be clear by chance."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train what is missing, judge it, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "ablation")
    options = parser.parse_args()
    tables = []
    for seed in options.seeds:
        for arm in ARMS:
            place = options.out / f"{list(ARMS).index(arm)}-{seed}"
            judged = place / "judged.json"
            folder = run(arm, seed, options.steps, place)
            if not judged.exists():
                judged.write_text(judge(folder, arm, seed).to_json(orient="records"))
            tables.append(pd.DataFrame(json.loads(judged.read_text())))
            print(tables[-1].round(3).to_string(index=False), flush=True)
    results = pd.concat(tables, ignore_index=True)
    results.round(5).to_csv(FOLDER / "ablation.csv", index=False)
    (ROOT / "docs" / "ablation.md").write_text(report(results, options.steps))
    print(report(results, options.steps))


if __name__ == "__main__":
    main()
