"""How the built-in model was trained: every trial, what it heard and what it learned. Writes docs/training.md.

    python benchmarks/training.py            # from what recipes/gpu.py and benchmarks/development.py left in build/
    python benchmarks/training.py --page     # from benchmarks/training.json, which keeps what was read

Reads the logs of the runs (build/<run>/train.csv, valid.csv), what the clusters of their layers know
(build/gpu/<iteration>-layers.csv), the stages (build/gpu/stages.txt) and the probes on development speakers
(build/development/*.csv, of which controls.csv holds what needs no model).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

import unisat as us
from unisat.training import recipe

ROOT = Path(__file__).resolve().parents[1]
LARGE = "large/"
"""Before the names of runs with batches of 128 s, three iterations and few steps: the first attempt."""
RUNS = {
    f"{LARGE}first-*": ("iteration 1, a trial", "sat-1"),
    f"{LARGE}sat/1": ("iteration 1", "sat-1"),
    f"{LARGE}sat/2": ("iteration 2", "sat-2"),
    f"{LARGE}hubert/3-*": ("content only", "hubert-2"),
    f"{LARGE}contrastive/3-*": ("+ contrastive", "sat-2"),
    f"{LARGE}mixing/3-*": ("+ mixing", "sat-2"),
    f"{LARGE}sat/3-*": ("+ both", "sat-2"),
    "sat/1": ("iteration 1, from what large/sat/2 had learned", "sat-1"),
    "lda/1": ("the same, told of phones", "lda-1"),
    "hubert/2-[01]": ("content only", "hubert-2"),
    "contrastive/2-*": ("+ contrastive", "sat-2"),
    "mixing/2-*": ("+ mixing", "sat-2"),
    "sat/2-[01]": ("+ both", "sat-2"),
    "sat/2-on": ("+ both, learning on from sat/2-0 with batches of 32 s", "sat-2"),
    "hubert/2-on": ("content only, learning on from hubert/2-0", "hubert-2"),
    "other/2-*": ("told of phones, + both", "lda-2"),
    "other-hubert/2-*": ("told of phones, content only", "lda-2"),
}
"""Folders in build: what they are, and the recipe that has the same model."""
VALID = {
    "accuracy_masked": "masked accuracy",
    "accuracy_masked_commonest": "of the commonest cluster",
    "accuracy_masked_copied": "of the nearest frame seen",
    "content_masked": "loss (nats)",
    "content_masked_entropy": "entropy of the clusters (nats)",
}
SPEAKER = ["contrastive", "contrastive_chance", "code_perplexity_0", "code_perplexity_1"]
POINTS = 40
"""Most points of a curve that are kept."""


def curve(log: pd.DataFrame) -> dict[str, list[float]]:
    """Hours heard and masked accuracy in training, thinned out."""
    if "hours" in log:
        hours = log["hours"]
    else:  # seconds are of a step, and each row is the mean of the steps since the one before
        hours = (log["audio_seconds"] * log["step"].diff().fillna(log["step"])).cumsum() / 3600
    rows = np.unique(np.linspace(0, len(log) - 1, POINTS).astype(int))
    return {
        "hours": hours.iloc[rows].round(3).tolist(),
        "accuracy": log["accuracy_masked"].iloc[rows].round(4).tolist(),
    }


def read(build: Path, kept_before: dict) -> dict:
    """What the page is made of: what was kept before, and what is there now."""
    runs, layers = {}, {}
    for pattern in RUNS:
        for folder in sorted(build.glob(pattern)):
            if not (folder / "valid.csv").exists() or not (folder / "train.csv").exists():
                continue
            valid, log = pd.read_csv(folder / "valid.csv").iloc[-1], pd.read_csv(folder / "train.csv")
            kept = [name for name in ("hours", "step", *VALID, *SPEAKER) if name in valid]
            name = folder.relative_to(build).as_posix()
            told = curve(log)
            numbers = {"hours": told["hours"][-1], **{key: float(valid[key]) for key in kept}}
            runs[name] = {"pattern": pattern, **numbers, "curve": told}
    for file in sorted((build / "gpu").glob("*-layers.csv")):
        table = pd.read_csv(file)
        columns = ["layer", "clusters", "pnmi", "pnmi_floor", "speaker_bits", "speaker_floor", "phones"]
        layers[file.stem.removesuffix("-layers")] = (
            table[[name for name in columns if name in table]].round(4).to_dict("records")
        )
    stages = [line for file in sorted((build / "gpu").glob("stages*.txt")) for line in file.read_text().splitlines()]
    probes = {
        file.stem.removesuffix("-model"): pd.read_csv(file).round(4).to_dict("records")
        for file in sorted((build / "development").glob("*.csv"))
    }
    if not runs:
        raise SystemExit(f"no run in {build}: train (recipes/gpu.py), or give --page.")
    found = {"runs": runs, "layers": layers, "probes": probes}
    both = {name: {**kept_before.get(name, {}), **part} for name, part in found.items()}
    both["runs"] = {name: run for pattern in RUNS for name, run in both["runs"].items() if run["pattern"] == pattern}
    return {**both, "stages": {**kept_before.get("stages", {}), **({"": stages} if stages else {})}}


def taught(rows: list[dict]) -> int:
    """The layer whose clusters know most of the phones: the next iteration learns them."""
    return max(rows, key=lambda row: row["pnmi"])["layer"]


def header(names: list[str]) -> list[str]:
    """The first two lines of a table."""
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]


def runs_table(results: dict) -> list[str]:
    """Every run."""
    names = ["run", "", "steps", "hours heard", *VALID.values(), "contrastive loss (who knows nothing)", "codes in use"]
    lines = header(names)
    for name, run in results["runs"].items():
        what, file = RUNS[run["pattern"]]
        made = recipe.read(ROOT / "recipes" / f"{file}.toml").model_config()
        cells = [name, what]
        cells += [f"{run['step']:.0f}", f"{run['hours']:.1f}" if "hours" in run else ""]
        cells += [f"{run[key]:.3f}" if key in run else "" for key in VALID]
        if "+ contrastive" in what or "+ both" in what:
            cells.append(f"{run['contrastive']:.4f} ({run['contrastive_chance']:.4f})")
            codes = " and ".join(f"{run[key]:.1f}" for key in SPEAKER[2:])
            cells.append(f"{codes} of {made.num_codevectors_per_group}")
        else:
            cells += ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Validation speech (development speakers), without mixing; a trial is named after its learning rate. ",
    ]
    lines[-1] += "The contrastive loss of the arms without it is not trained, and left out. Codes in use: "
    lines[-1] += "the perplexity of what a batch picks, mean over batches, of each of the two groups."
    return lines


def layers_tables(results: dict) -> list[str]:
    """What chose a layer."""
    lines = []
    for name, rows in results["layers"].items():
        label = f"for {name}, k = {rows[0]['clusters']}"
        lines += ["", *header([label, *(f"layer {row['layer']}" for row in rows)])]
        for label, key, floor, digits in (
            ("PNMI with phones", "pnmi", "pnmi_floor", 3),
            ("speaker (bits)", "speaker_bits", "speaker_floor", 2),
        ):
            cells = []
            for row in rows:
                mark = "**" if row["layer"] == taught(rows) and key == "pnmi" else ""
                cells.append(f"{mark}{row[key]:.{digits}f}{mark} ({row[floor]:.{digits}f})")
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        if "phones" in rows[0]:
            lines.append("| phones, by an LDA | " + " | ".join(f"{row['phones']:.3f}" for row in rows) + " |")
    return lines


def best(rows: list[dict]) -> dict:
    """The row that knows most of the phones."""
    return max(rows, key=lambda row: row["phones"])


def go(results: dict) -> list[str]:
    """Phones on development speakers against MFCC, and the line that decides."""
    probes = results["probes"]
    lines = header(["features", "phones (one frame, LDA)", "voices, EER, cosine", "voices, EER, LDA"])
    shown = [(row["features"], row) for row in probes.get("controls", [])]
    models = {name: rows for name, rows in probes.items() if name != "controls"}
    for name, rows in models.items():
        row = best(rows)
        shown.append((f"{name}, layer {row['layer']} (best for phones)", row))
    for name, row in shown:
        cells = []
        for key in ("phones", "eer_cosine", "eer_lda"):
            number = row.get(key)
            known = number is not None and np.isfinite(number)
            cells.append(f"{number:.3f} ({row[f'{key}_low']:.3f} to {row[f'{key}_high']:.3f})" if known else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    bars = [row for row in probes.get("controls", []) if row["features"] == "MFCC, mean off"]
    lines.append("")
    for name, rows in models.items():
        if bars and not name.startswith("untrained"):
            row, bar = best(rows), bars[0]
            word = "**go**" if row["phones"] > bar["phones"] else "**no go**"
            apart = "apart" if row["phones_low"] > bar["phones_high"] else "not apart"
            lines.append(
                f"- {name}: {word}, {row['phones']:.3f} in layer {row['layer']} against {bar['phones']:.3f} of MFCC "
                f"without their mean; their intervals over speakers are {apart}."
            )
    return lines


def picture(results: dict, file: Path) -> None:
    """Masked accuracy over the hours heard."""
    ax = us.plots.axes(None, 8.4, 3.6)
    for place, (pattern, (what, _)) in enumerate(RUNS.items()):
        if pattern.startswith(LARGE):
            continue
        runs = [run["curve"] for run in results["runs"].values() if run["pattern"] == pattern]
        for number, run in enumerate(runs):
            ax.plot(
                run["hours"],
                run["accuracy"],
                color=us.plots.CLASSES[place % len(us.plots.CLASSES)],
                linewidth=1.4,
                label=what if number == 0 else None,
            )
    ax.set(xlabel="speech heard in the stage (h)", ylabel="masked accuracy, training", ylim=(0, None))
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)
    ax.figure.savefig(file, dpi=90)


def report(results: dict) -> str:
    """The page."""
    lines = ["# How the built-in model was trained", ""]
    lines += [
        "Written by `python benchmarks/training.py` from the logs of `recipes/gpu.py`. A stage ends by the clock; its "
        "runs hear the same speech and take as many steps. The first iteration learns content only; the arms of the "
        "second branch from its weights, and learn the same clusters. Runs whose names begin with `large/` had batches "
        "of 128 s, and few steps: they knew phones no better than MFCC. With batches of 32 s the first iteration does. "
        "Runs that were told of phones learn clusters of a linear discriminant (`recipes/discriminant.py`): they are "
        "semi-supervised, and stand beside the others. What ships is `sat/2-0`, and its twin is `hubert/2-0`. Both "
        "learned on for some time (`2-on`): they predicted their clusters better and knew a little less of phones, so "
        "they were left out."
    ]
    lines += ["", "![Masked accuracy over hours](images/training.png)", "", "## Runs", "", *runs_table(results)]
    lines += ["", "## Which layer teaches", ""]
    lines += [
        "K-means on training speakers, judged on development speakers, the mean taken off per utterance, floors in "
        "brackets (`recipes/gpu.py`). The layer whose clusters know most of the phones was taken (bold)."
    ]
    lines += [*layers_tables(results), "", "## Go or no go", ""]
    lines += ["`benchmarks/development.py`, on development speakers; 95 % intervals over speakers.", "", *go(results)]
    stages = [line for part in results["stages"].values() for line in part]
    lines += ["", "## The stages as they were written down", "", "```", *stages, "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read, keep, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build")
    parser.add_argument("--page", action="store_true", help="from benchmarks/training.json")
    parser.add_argument("--out", type=Path, default=ROOT, help="where docs and benchmarks lie")
    options = parser.parse_args()
    file = options.out / "benchmarks" / "training.json"
    if not options.page:
        file.parent.mkdir(parents=True, exist_ok=True)
        kept_before = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(read(options.build, kept_before), indent=1) + "\n")
    results = json.loads(file.read_text())
    images = options.out / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    (images.parent / "training.md").write_text(report(results))
    picture(results, images / "training.png")
    print(report(results))


if __name__ == "__main__":
    main()
