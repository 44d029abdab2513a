"""What each layer of the built-in checkpoint knows about recorded voices, with every control: docs/layers.md.

    python benchmarks/layers.py

On the recorded speech beside this clone, the first two seconds of each file. Features are collected once into
build/layers and taken from there the next time.
"""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from speakers import SPEECH

import unisat as us
from unisat.clusters import interval_labels
from unisat.interpret.features.bank import LENGTHS, Part
from unisat.interpret.features.collect import BASELINES
from unisat.interpret.units.clusters import units
from unisat.masking import span_mask
from unisat.training.targets import MfccFeatures

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SECONDS = 2.0
ACOUSTIC = ("logmel", "mfcc", "loudness")

TARGETS = {
    "speaker": (
        "Which of 36 speakers is it?",
        "Speakers that the checkpoint never heard; the probe knows them from other utterances, most of the same day.",
    ),
    "sex": (
        "Is it a man or a woman?",
        "Speakers that the probe never heard; the checkpoint, which was told no labels, has heard most of them.",
    ),
    "corpus": (
        "LibriSpeech or speechocean762?",
        "Where a recording comes from (room, microphone, accent): what a curve over speakers may be reading instead.",
    ),
}


def recordings() -> us.corpus.Corpus:
    """Every recording with its labels."""
    table = pd.read_csv(SPEECH / "metadata.csv")
    table["id"] = table["path"].str.removesuffix(".opus")
    table["path"] = [str(SPEECH / path) for path in table["path"]]
    table["session"] = table["source_utt"].fillna(table["id"])
    table["corpus"] = table["corpus_key"]
    return us.corpus.Corpus(table)


def bank() -> us.FeatureBank:
    """Pooled features of every recording: the model, three untrained twins, acoustic baselines."""
    folder = ROOT / "build" / "layers"
    model = us.load("tiny")
    return us.collect(model, recordings(), "hidden.*", baselines=BASELINES, max_seconds=SECONDS, folder=folder)


def codebook() -> tuple[pd.DataFrame, pd.DataFrame]:
    """How the codebook is used on masked frames of unseen speakers, and what its codes say of them."""
    model = us.load("tiny", "pretraining")
    codes = us.collect(model, recordings().where(split="unseen"), "quant.codes", reduce="counts", frames="masked")
    report = us.codebook_usage(codes, labels=["speaker", "corpus"])
    return report.summary(), report.information


def words() -> pd.DataFrame:
    """How much 100 clusters of frames tell of the word that is being spoken, at each layer and of MFCC, with floors."""
    spoken = pd.read_csv(SPEECH / "words.csv")
    corpus = recordings()
    heard = us.corpus.Corpus(corpus.table[corpus.table["id"].isin(spoken["path"].str.removesuffix(".opus"))])
    bank = us.collect(us.load("tiny"), heard, "hidden.*", reduce="frames", progress=False)
    mfcc = MfccFeatures()
    cepstra = [mfcc(wave).numpy() for wave in heard.batch(range(len(heard))).waveforms]
    lengths = np.array([len(part) for part in cepstra])
    arrays = {"mfcc": np.concatenate(cepstra), "mfcc" + LENGTHS: lengths}
    spectra = us.FeatureBank(bank.table, [Part(np.arange(len(bank)), arrays)])
    labels = {}
    for name, length in zip(bank.ids, lengths, strict=True):
        mine = spoken[spoken["path"] == f"{name}.opus"]
        codes, names = interval_labels(list(zip(mine["start"], mine["end"], mine["label"], strict=True)), int(length))
        labels[name] = [names[code] if code >= 0 else None for code in codes]
    found = {site: units(bank, site, 100) for site in bank.hidden} | {"mfcc": units(spectra, "mfcc", 100)}
    return pd.DataFrame({site: one.purity(labels).set_index("metric").loc["pnmi"] for site, one in found.items()}).T


def made_from() -> str:
    """What the numbers hang on beside the recordings: the checkpoint, and how frames are hidden."""
    masks = span_mask(
        torch.tensor([99, 499]), 499, mask_prob=0.65, mask_length=10, generator=torch.Generator().manual_seed(0)
    )
    found = hashlib.sha256(masks.numpy().tobytes())
    for path in sorted((ROOT / "unisat" / "checkpoints" / "tiny").glob("*.[js]*")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def reports(everything: us.FeatureBank) -> dict[str, us.interpret.LayerReport]:
    """Probes of each target."""
    unseen = everything.where(split="unseen")
    sexed = everything.where(sex=["F", "M"])
    return {
        # a speaker's utterances are separate recordings, most of one day: the split is by utterance
        "speaker": us.probe_layers(unseen, "speaker", groups=None, probe="lda", pool="mean"),
        "sex": us.probe_layers(sexed, "sex", pool="mean"),
        "corpus": us.probe_layers(sexed.where(corpus=["ls", "so"]), "corpus", pool="mean"),
    }


def verification(everything: us.FeatureBank) -> pd.DataFrame:
    """Equal error rate of the trial list at each layer and of each control, by cosine and behind LDA."""
    unseen, train = everything.where(split="unseen"), everything.where(split="train")
    untrained = [f"untrained.{seed}.{site}" for site in everything.hidden for seed in range(3)]
    rows = []
    for site in [*everything.hidden, *untrained, *ACOUSTIC]:
        for backend in ("cosine", "lda"):
            scores = us.verify_trials(
                unseen,
                site,
                backend=backend,
                trials=SPEECH / "trials.csv",
                train=train,
                pool=None if site in ACOUSTIC else "mean",
            )
            low, high = scores.interval()
            rows.append({"site": site, "backend": backend, "eer": scores.eer(), "low": low, "high": high})
    table = pd.DataFrame(rows)
    table["control"] = np.where(table["site"].isin(ACOUSTIC), table["site"], "trained")
    table.loc[table["site"].str.startswith("untrained"), "control"] = "untrained"
    table["layer"] = table["site"].str.extract(r"hidden\.(\d+)$")[0]
    return table


def number(value: float, low: float, high: float) -> str:
    """A value with its interval."""
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def probe_table(report: us.interpret.LayerReport) -> list[str]:
    """A report as Markdown: a row for each layer, the baselines that have no layers below."""
    rows = report.table()
    rows = rows[rows["metric"] == "bal_acc"]
    by = {(row.control, row.site): row for row in rows.itertuples()}
    best = report.best_layers("bal_acc")
    lines = ["| layer | balanced accuracy | untrained | shuffled labels | random attribute | selectivity |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in rows[rows["control"] == "trained"].itertuples():
        cells = [number(row.value, row.low, row.high)]
        for control in ("untrained", "shuffle", "random_attribute"):
            other = by[control, row.site]
            cells.append(number(other.value, other.low, other.high))
        mark = "**" if row.layer in best else ""
        lines.append(f"| {mark}{row.layer}{mark} | {' | '.join(cells)} | {row.selectivity:+.3f} |")
    for control in ACOUSTIC:
        row = by[control, control]
        lines.append(f"| {control} | {number(row.value, row.low, row.high)} | | | | |")
    settings = report.settings
    some = rows.iloc[0]
    lines += ["", f"{some.n} utterances, {settings['n_speakers']} speakers, {settings['folds']} folds by "]
    lines[-1] += (
        f"{settings['groups']}, {settings['seeds']} seeds, probe: {settings['probe']}, chance {some.chance:.3f}. "
    )
    lines[-1] += f"Layers that cannot be told from the best: {', '.join(map(str, sorted(best)))}. "
    lines[-1] += "**Leaky: shuffled labels beat chance.**" if report.leaky else "Shuffled labels stay at chance."
    for name in ("untrained", "logmel", "mfcc"):
        top = max(best, key=lambda layer: by["trained", f"hidden.{layer}"].value)
        difference, low, high = report.difference(top, name, "bal_acc")
        lines[-1] += f" Layer {top} less {name}: {difference:+.3f} ({low:+.3f} to {high:+.3f})."
    return lines


def verification_table(table: pd.DataFrame) -> list[str]:
    """Equal error rates as Markdown."""
    lines = ["| layer | cosine | untrained | LDA | untrained |", "|---|---|---|---|---|"]
    for layer in sorted(table["layer"].dropna().unique(), key=int):
        cells = []
        for backend in ("cosine", "lda"):
            some = table[(table["layer"] == layer) & (table["backend"] == backend)]
            own = some[some["control"] == "trained"].iloc[0]
            twins = some[some["control"] == "untrained"]["eer"]
            cells += [
                number(own.eer, own.low, own.high),
                f"{twins.mean():.3f} ({twins.min():.3f} to {twins.max():.3f})",
            ]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    for control in ACOUSTIC:
        some = table[table["control"] == control].set_index("backend")
        cells = [number(*some.loc[backend, ["eer", "low", "high"]]) for backend in ("cosine", "lda")]
        lines.append(f"| {control} | {cells[0]} | | {cells[1]} | |")
    return lines


def codebook_tables(summary: pd.DataFrame, information: pd.DataFrame) -> list[str]:
    """Both as Markdown."""
    lines = [
        "| group | masked frames | entries | used | an unseen one has less than | perplexity | corrected |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in summary.itertuples():
        counts = f"{row.frames:,} | {row.entries} | {row.used} | {row.unseen_below:.2%}"
        perplexity = f"{row.perplexity:.1f} | {row.perplexity_corrected:.1f} ({row.low:.1f} to {row.high:.1f})"
        lines.append(f"| {row.group} | {counts} | {perplexity} |")
    lines += ["", "| label | group | entropy (bits) | information (bits) | shuffled labels | corrected |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in information.itertuples():
        cells = f"{row.entropy_bits:.2f} | {row.mi_bits:.2f} | {row.floor_bits:.2f} | {row.corrected_bits:.2f}"
        lines.append(f"| {row.label} | {row.group} | {cells} |")
    return lines


def words_table(table: pd.DataFrame) -> list[str]:
    """Words as Markdown."""
    lines = ["| frames of | PNMI | floor, mean | floor, 95 % below |", "|---|---|---|---|"]
    for site, row in table.iterrows():
        name = str(site).replace("hidden.", "layer ")
        lines.append(f"| {name} | {row['value']:.3f} | {row['floor']:.3f} | {row['floor_high']:.3f} |")
    return [*lines, "", f"{table['frames'].iloc[0]:,} frames; words are shuffled as {table['shuffled'].iloc[0]}."]


def page(
    found: dict[str, us.interpret.LayerReport],
    trials: pd.DataFrame,
    usage: tuple[pd.DataFrame, pd.DataFrame],
    known: pd.DataFrame,
) -> str:
    """docs/layers.md."""
    lines = ["# What the layers of the built-in checkpoint know", ""]
    lines += [f"Written by `python benchmarks/layers.py` on {datetime.date.today().isoformat()}, as it comes out, "]
    lines[-1] += f"from checkpoint and masks `{made_from()}`."
    lines += [f"The first {SECONDS:.0f} s of each recording; features are means over frames. Intervals are 95 %, over "]
    lines[-1] += "speakers, then seeds; the untrained columns are three models with fresh weights (in the "
    lines[-1] += "table of trials: mean, and least to most). Bold: layers that cannot be told from the best one. "
    lines[-1] += "`logmel` and `mfcc` are means and standard deviations of what a microphone hears."
    for target, report in found.items():
        title, note = TARGETS[target]
        lines += ["", f"## {title}", "", note, ""]
        lines += [f"![Balanced accuracy over layers, with controls](images/layers-{target}.png)", ""]
        lines += probe_table(report)
    lines += ["", "## Is it the same speaker? Equal error rate on 36 unseen speakers", ""]
    lines += verification_table(trials)
    lines += ["", "Channels are standardised (cosine), and LDA is fitted, on the training speakers. The rates of "]
    lines[-1] += "[the card](../unisat/checkpoints/tiny/README.md) take the mean off only."
    lines += ["", "## What the codebook does", ""]
    lines += ["Codes of the contrastive layer at masked frames, over whole recordings of the 36 unseen speakers."]
    lines += ["", *codebook_tables(*usage)]
    lines += ["", "## What clusters of frames know of words", ""]
    lines += ["PNMI: the share of the uncertainty about the spoken word that one of 100 clusters takes away."]
    lines[-1] += " What is left of it when words are shuffled within speakers or utterances is the floor."
    lines += ["", *words_table(known)]
    lines += ["", "## How to read this", ""]
    lines += [
        "A speaker's recordings here are mostly of one day and one microphone: telling 36 speakers apart is also "
    ]
    lines[-1] += "telling 36 rooms apart, and the third table shows how much of that there is. Random attribute, for "
    lines[-1] += (
        "speakers: a random name for each utterance. Curves whose untrained twin has the same shape are no finding "
    )
    lines[-1] += "about training; a probe says that something can be read, not that the model uses it."
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure everything and write the page, its pictures and a table of every number."""
    everything = bank()
    found = reports(everything)
    for target, report in found.items():
        report.plot("bal_acc").figure.savefig(DOCS / "images" / f"layers-{target}.png", dpi=90)
    trials = verification(everything)
    numbers = pd.concat([report.table().assign(target=target) for target, report in found.items()])
    numbers.round(6).to_csv(DOCS / "layers.csv", index=False)
    (DOCS / "layers.md").write_text(page(found, trials, codebook(), words()))


if __name__ == "__main__":
    main()
