"""Time the probes of all layers against loops over scikit-learn: same folds, same penalties, same features.

    python benchmarks/probing.py [--rounds 3] [--threads 1]

The features have the size of Base's: 13 layers of width 768, 630 utterances of 63 speakers in five sessions each; a
layer knows the speaker more or less well, and the session as well. A session is held out in one of five folds; a fold's
training part chooses its penalty from thirteen: ridge on utterances left out one by one, in closed form, ours as
RidgeClassifierCV; logistic regression on a quarter of the training part, sessions left out, ours for all penalties at
once, theirs in a loop over LogisticRegression. Each round runs all of them in turn; a ratio is a peer's time over ours
in the same round: above 1 we are faster. Writes benchmarks/probing.json and .md.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import time
import warnings
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LAYERS, WIDTH, LATENT, SPEAKERS, SESSIONS, EACH, SEEDS = 13, 768, 40, 63, 5, 2, 1


def data():
    """Layers (list of (utterances, width)), speakers, sessions: a few directions hold most, all hold noise."""
    import numpy as np

    draw = np.random.default_rng(0)
    speakers = np.repeat(np.arange(SPEAKERS), SESSIONS * EACH)
    sessions = np.repeat(np.arange(SPEAKERS * SESSIONS), EACH)
    scales = np.arange(1, LATENT + 1) ** -0.5
    layers = []
    for layer in range(LAYERS):
        voice = 0.9 - 0.05 * abs(layer - 4)
        latent = voice * draw.normal(size=(SPEAKERS, LATENT))[speakers]
        latent += 0.5 * draw.normal(size=(SPEAKERS * SESSIONS, LATENT))[sessions]
        latent += draw.normal(size=(len(speakers), LATENT))
        features = (latent * scales) @ draw.normal(size=(LATENT, WIDTH)) + draw.normal(size=(len(speakers), WIDTH))
        layers.append((features * 10 ** draw.uniform(-1, 1)).astype(np.float32))
    return layers, speakers, sessions


def ours(probe, layers, speakers, sessions, folds):
    """Share of held-out utterances recognised, (layers, seeds)."""
    import numpy as np

    from unisat.interpret.probing import scoring

    task = scoring.Task(np.tile(speakers, (SEEDS, 1)), SPEAKERS, sessions, folds, np.arange(len(speakers)))
    plan = scoring.Plan(probe, ["bal_acc"], True, 0, np.ones((1, len(speakers))))
    return np.stack([scoring.measure(layer.astype(float), task, plan)["bal_acc"][:, 0] for layer in layers])


def theirs(kind, layers, speakers, sessions, folds):
    """The same by a loop over scikit-learn."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from unisat.interpret.probing.classifiers import LAMBDAS, group_folds, selection_blocks

    def logistic(penalty):
        return make_pipeline(
            StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=1000, class_weight="balanced")
        )

    out = np.zeros((len(layers), SEEDS))
    for number, layer in enumerate(layers):
        features = layer.astype(float)
        for seed, fold in enumerate(folds):
            said = np.zeros(len(speakers), dtype=int)
            for held in (fold == value for value in range(fold.max() + 1)):
                train, labels = features[~held], speakers[~held]
                if kind == "RidgeClassifierCV":
                    model = make_pipeline(StandardScaler(), RidgeClassifierCV(LAMBDAS, class_weight="balanced"))
                else:
                    inner = group_folds(labels, selection_blocks(labels, sessions[~held]), 4) > 0
                    scores = []
                    for penalty in LAMBDAS:
                        tried = logistic(penalty).fit(train[inner], labels[inner])
                        log_p = tried.predict_log_proba(train[~inner])
                        scores.append(log_p[np.arange(len(log_p)), labels[~inner]].mean())
                    model = logistic(LAMBDAS[int(np.argmax(scores))])
                said[held] = model.fit(train, labels).predict(features[held])
            out[number, seed] = balanced_accuracy_score(speakers, said)
    return out


def table(results):
    """The results as Markdown."""
    lines = ["# Probing all layers, CPU", "", f"Written by `python benchmarks/probing.py` on {results['when']}."]
    lines += [
        f"Machine: {results['machine']}, {results['threads']} thread(s), scikit-learn {results['sklearn']}. "
        f"{LAYERS} layers of width {WIDTH}, {SPEAKERS * SESSIONS * EACH} utterances, {SPEAKERS} speakers × {SESSIONS} "
        f"sessions, {results['folds']} folds, {results['penalties']} penalties; times and ratios are medians of "
        f"{results['rounds']} rounds. Accuracy is balanced, on held-out sessions, mean over layers; in "
        "brackets, of the layer that knows most."
    ]
    lines += ["", "| who | seconds | accuracy |", "|---|---|---|"]
    for name, row in results["rows"].items():
        lines.append(f"| {name} | {row['seconds']:.1f} | {row['accuracy']:.3f} ({row['best']:.3f}) |")
    lines += ["", "| | time of the peer over ours (median) | min to max |", "|---|---|---|"]
    for name, row in results["ratios"].items():
        lines.append(f"| {name} | **{row['median']:.2f}×** | {row['min']:.2f} to {row['max']:.2f} |")
    return "\n".join(lines) + "\n"


def main():
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # before numpy is there

    import numpy as np
    import sklearn
    import torch

    from unisat.interpret.probing.classifiers import LAMBDAS, group_folds

    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # scikit-learn's logistic regression does not always converge
    layers, speakers, sessions = data()
    folds = np.stack([group_folds(speakers, sessions, SESSIONS, seed) for seed in range(SEEDS)])
    task = (layers, speakers, sessions, folds)
    runs = {
        "ours, ridge": lambda: ours("ridge", *task),
        "ours, LDA": lambda: ours("lda", *task),
        "ours, logistic": lambda: ours("logistic", *task),
        "RidgeClassifierCV": lambda: theirs("RidgeClassifierCV", *task),
        "LogisticRegression": lambda: theirs("LogisticRegression", *task),
    }
    seconds = {name: [] for name in runs}
    accuracy = {}
    for number in range(options.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            accuracy[name] = run()
            seconds[name].append(time.perf_counter() - start)
            print(f"round {number + 1}: {name:20} {seconds[name][-1]:8.2f} s, {accuracy[name].mean():.3f}", flush=True)
    pairs = [("RidgeClassifierCV", "ours, ridge"), ("LogisticRegression", "ours, ridge")]
    pairs += [("LogisticRegression", "ours, logistic")]
    ratios = {f"{peer} / {me}": [b / a for a, b in zip(seconds[me], seconds[peer], strict=True)] for peer, me in pairs}
    results = {
        "when": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": options.threads,
        "sklearn": sklearn.__version__,
        "rounds": options.rounds,
        "folds": int(folds.max()) + 1,
        "penalties": len(LAMBDAS),
        "rows": {
            name: {
                "seconds": statistics.median(seconds[name]),
                "accuracy": accuracy[name].mean(),
                "best": accuracy[name].mean(1).max(),
            }
            for name in runs
        },
        "ratios": {
            name: {"median": statistics.median(each), "min": min(each), "max": max(each)}
            for name, each in ratios.items()
        },
    }
    (FOLDER / "probing.json").write_text(json.dumps(results, indent=1) + "\n")
    (FOLDER / "probing.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
