"""What each layer of the built-in checkpoints knows about recorded voices, with every control: docs/layers.md.

    python benchmarks/layers.py [--only phone words ...]

On the recorded speech beside this clone, the first two seconds of each file (for words all of it), and for phones on
the people that ship. Features are collected once into build/layers and taken from there the next time. With --only the
other sections stay as they are in the page, if it is of the same checkpoints. The section `crossing` measures nothing:
it reads benchmarks/tiny.json.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import phones as phones_of
import torch
from ablation import nearest_tokens
from speakers import SPEECH

import unisat as us
from unisat.clusters import interval_labels
from unisat.interpret.features.bank import LENGTHS, Part
from unisat.interpret.features.collect import BASELINES
from unisat.interpret.statistics.intervals import interval, resampled
from unisat.interpret.statistics.shuffles import among_rows
from unisat.interpret.units.clusters import units
from unisat.masking import span_mask
from unisat.training.targets import MfccFeatures

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SECONDS = 2.0
ACOUSTIC = ("logmel", "mfcc", "loudness")
MODELS = ("tiny", "tiny-hubert")
CROSSED = {"phones": ("Phones", "share of frames", 1), "eer": ("Voices", "equal error rate", -1)}
"""What is laid beside each other: name, axis, and whether more (1) or less (-1) is better."""

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
    "phone": (
        "Which phone is it?",
        "One frame, the one at each phone's centre, of speakers that the probe never heard: the people who ship, with "
        "phones by forced alignment. Of log-mel and MFCC it is the frame's values, the mean of the utterance's phones "
        "taken off; loudness is the phone's, with its length. Phones that occur fewer than 50 times are left out.",
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


@cache
def bank() -> us.FeatureBank:
    """Pooled features of every recording: the model, three untrained twins, acoustic baselines."""
    folder = ROOT / "build" / "layers"
    model = us.load("tiny")
    return us.collect(model, recordings(), "hidden.*", baselines=BASELINES, max_seconds=SECONDS, folder=folder)


def mean_off(bank: us.FeatureBank, site: str) -> np.ndarray:
    """A site of segments, less the mean of the segments of their utterance."""
    rows = pd.DataFrame(bank[site])
    return (rows - rows.groupby(bank.table["utterance"]).transform("mean")).to_numpy()


def phones() -> us.FeatureBank:
    """The same of the frame at each phone's centre, the utterance's mean taken off the spectra."""
    said = us.Segments.people().tier("phone")
    asked = {"segments": said, "pool": "centre", "baselines": BASELINES, "folder": ROOT / "build" / "layers-phones"}
    found = us.collect(us.load("tiny"), us.corpus.people(), "hidden.*", **asked)
    values = {site: found[site] for site in found.sites} | {name: mean_off(found, name) for name in ("logmel", "mfcc")}
    often = found.table["label"].value_counts()
    named = us.FeatureBank.from_arrays(found.table, values, found.settings)
    return named.where(label=often[often >= 50].index.tolist())


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
    """What the numbers hang on beside the recordings: the checkpoints, and how frames are hidden."""
    masks = span_mask(
        torch.tensor([99, 499]), 499, mask_prob=0.65, mask_length=10, generator=torch.Generator().manual_seed(0)
    )
    found = hashlib.sha256(masks.numpy().tobytes())
    for path in sorted((ROOT / "unisat" / "checkpoints").glob("*/*.[js]*")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def report(target: str) -> us.interpret.LayerReport:
    """Probes of a target."""
    if target == "phone":
        return us.probe_layers(phones(), "label", groups="speaker", probe="lda", metrics=["bal_acc"])
    if target == "speaker":
        # a speaker's utterances are separate recordings, most of one day: the split is by utterance
        return us.probe_layers(bank().where(split="unseen"), target, groups=None, probe="lda", pool="mean")
    sexed = bank().where(sex=["F", "M"])
    return us.probe_layers(sexed if target == "sex" else sexed.where(corpus=["ls", "so"]), target, pool="mean")


def verification() -> pd.DataFrame:
    """Equal error rate of the trial list at each layer and of each control, by cosine and behind LDA."""
    everything = bank()
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
            other = by.get((control, row.site))
            cells.append(number(other.value, other.low, other.high) if other else "")
        mark = "**" if row.layer in best else ""
        selectivity = f"{row.selectivity:+.3f}" if np.isfinite(row.selectivity) else ""
        lines.append(f"| {mark}{row.layer}{mark} | {' | '.join(cells)} | {selectivity} |")
    for control in ACOUSTIC:
        row = by[control, control]
        lines.append(f"| {control} | {number(row.value, row.low, row.high)} | | | | |")
    settings = report.settings
    some = rows.iloc[0]
    units = "phones" if settings["target"] == "label" else "utterances"
    lines += ["", f"{some.n} {units}, {settings['n_speakers']} speakers, {settings['folds']} folds by "]
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


def heads() -> list[str]:
    """The section of attention: where each head looks, beside fresh weights and heads that look anywhere."""
    heard = phones_of.recordings("development").groupby("speaker").head(4)
    sound = phones_of.waves(heard, 4.0)
    batch = us.Batch.from_arrays(sound, sampling_rate=us.frames.SAMPLE_RATE)
    model = us.load("tiny")
    torch.manual_seed(0)
    by = ["layer", "head"]
    found, fresh = (
        us.attention_statistics(some, batch).groupby(by).mean()
        for some in (model, us.UniSpeechSatModel(model.config).eval())
    )
    frames = [us.frames.conv_length(len(wave), 400, 320) for wave in sound]
    # of frames drawn anywhere, all alike: a third of the length apart
    anywhere = np.mean([(n * n - 1) / (3 * n) for n in frames]) * 20, np.mean(np.log2(frames))
    local, wide = found["near_share"] >= 0.5, found["distance_ms"] >= 0.5 * anywhere[0]
    lines = ["Mean distance from a frame to where a head looks (ms), and the entropy of its weights (bits), over the "]
    lines[-1] += f"first four seconds of {len(sound)} recordings of {heard['speaker'].nunique()} development speakers. "
    lines[-1] += (
        f"A head that looks anywhere has {anywhere[0]:.0f} ms and {anywhere[1]:.1f} bits. **Bold**: half of the "
    )
    lines[-1] += "weight or more within three frames; *italic*: a distance of half of anywhere or more."
    lines += [
        "",
        "| layer | " + " | ".join(f"head {head}" for head in found.index.unique("head")) + " | untrained, all heads |",
    ]
    lines += ["|---|" + "---|" * (found.index.unique("head").size + 1)]
    for layer, rows in found.groupby("layer"):
        cells = []
        for place, row in rows.iterrows():
            mark = "**" if local[place] else "*" if wide[place] else ""
            cells.append(f"{mark}{row['distance_ms']:.0f} · {row['entropy_bits']:.1f}{mark}")
        twin = fresh.loc[layer].mean()
        cells.append(f"{twin['distance_ms']:.0f} · {twin['entropy_bits']:.1f}")
        lines.append(f"| {layer + 1} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Of {len(found)} heads {local.sum()} are local in this sense, and {wide.sum()} global; of the untrained ",
    ]
    lines[-1] += f"ones {(fresh['near_share'] >= 0.5).sum()} and {(fresh['distance_ms'] >= 0.5 * anywhere[0]).sum()}."
    return lines


def words_table(table: pd.DataFrame) -> list[str]:
    """Words as Markdown."""
    lines = ["| frames of | PNMI | floor, mean | floor, 95 % below |", "|---|---|---|---|"]
    for site, row in table.iterrows():
        name = str(site).replace("hidden.", "layer ")
        lines.append(f"| {name} | {row['value']:.3f} | {row['floor']:.3f} | {row['floor_high']:.3f} |")
    return [*lines, "", f"{table['frames'].iloc[0]:,} frames; words are shuffled as {table['shuffled'].iloc[0]}."]


def keep(target: str, numbers: pd.DataFrame) -> None:
    """Write the numbers of a section into docs/layers.csv."""
    before = pd.read_csv(DOCS / "layers.csv", dtype={"layer": "Int64"})
    parts = [before[before["target"] != target], numbers.assign(target=target).round(6)]
    pd.concat(parts).to_csv(DOCS / "layers.csv", index=False)


def probed(target: str) -> list[str]:
    """The section of a target; its picture and its numbers are written too."""
    found = report(target)
    found.plot("bal_acc").figure.savefig(DOCS / "images" / f"layers-{target}.png", dpi=90)
    keep(target, found.table())
    note = TARGETS[target][1]
    if target == "phone":
        spoken = {*us.corpus.people().table["speaker"]}
        heard = len(spoken & {*us.load("tiny").config.id2label.values()})  # of its x-vector head
        some = f"has heard other speech of {heard} of the {len(spoken)}" if heard else "has heard none of them"
        note += f" The checkpoint, which was told no labels, {some}."
    picture = f"![Balanced accuracy over layers, with controls](images/layers-{target}.png)"
    return [note, "", picture, "", *probe_table(found)]


def trials() -> list[str]:
    """The section of the trial list."""
    lines = [*verification_table(verification()), ""]
    lines += ["Channels are standardised (cosine), and LDA is fitted, on the training speakers. The rates of "]
    lines[-1] += "[the card](../unisat/checkpoints/tiny/README.md) take the mean off only."
    return lines


def codes() -> list[str]:
    """The section of the codebook."""
    about = "Codes of the contrastive layer at masked frames, over whole recordings of the 36 unseen speakers."
    return [about, "", *codebook_tables(*codebook())]


def clusters() -> list[str]:
    """The section of words."""
    lines = ["PNMI: the share of the uncertainty about the spoken word that one of 100 clusters takes away."]
    lines[-1] += " What is left of it when words are shuffled within speakers or utterances is the floor."
    return [*lines, "", *words_table(words())]


def crossed(results: dict) -> pd.DataFrame:
    """Phones and voices of each layer, and of spectra (whose layer is their name), out of benchmarks/tiny.json."""
    parts = []
    for kind, part in (("phones", "phones"), ("eer", "speakers")):
        names = {kind: "value", f"{kind}_low": "low", f"{kind}_high": "high"}
        parts += [pd.DataFrame(r).rename(columns=names).assign(model=m, kind=kind) for m, r in results[part].items()]
    table = pd.concat(parts, ignore_index=True)
    table = table[(table["backend"] != "cosine") & (table["model"] != "x-vector")]
    model = table["features"].fillna(table["model"]).str.replace(", mean off", "").str.replace(",", "")
    flat = model.groupby([table["kind"], model]).transform("size") == 1
    table = table.assign(model=model, layer=model.where(flat, table["layer"].map("{:.0f}".format)))
    return table[["kind", "model", "layer", "value", "low", "high"]]


def crossing_picture(table: pd.DataFrame, file: Path) -> None:
    """Phones beside voices: a model a colour, controls in grey, bands are intervals."""
    figure = us.plots.CellFigure(figsize=(10.5, 4.2), layout="constrained")
    looks = {"untrained": ":", "MFCC": "-.", "MFCC ± 4 frames": (0, (6, 1)), "log-mel": "--"}
    layers = table[table["model"] == MODELS[0]]["layer"].unique()
    for ax, (kind, (what, measure, sign)) in zip(figure.subplots(1, 2), CROSSED.items(), strict=True):
        for name, rows in table[table["kind"] == kind].groupby("model", sort=False):
            look = {"color": "0.45", "linestyle": looks.get(name), "linewidth": 1.2}
            if name in MODELS:
                look = {"color": us.plots.CLASSES[MODELS.index(name)], "marker": "os"[MODELS.index(name)]}
            value, low, high = (np.broadcast_to(rows[end], len(layers)) for end in ("value", "low", "high"))
            ax.plot(layers, value, label=name, markersize=4, **look)
            ax.fill_between(layers, low, high, color=look["color"], alpha=0.15 if name in MODELS else 0.06, linewidth=0)
        ax.set(xlabel="layer", ylabel=f"{what.lower()}, {measure}")
        ax.set_title("less is better" if sign < 0 else "more is better", fontsize=8, color="0.4", loc="right")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(file, dpi=90)


def grid(table: pd.DataFrame, kinds: dict[str, str]) -> list[str]:
    """Kinds of numbers beside each other as Markdown, of both models and controls; a row for each layer or spectrum."""
    heads = list(product(kinds, (*MODELS, "controls")))
    lines = ["| layer | " + " | ".join(kinds[kind] + name for kind, name in heads) + " |"]
    lines.append("|---|" + "---|" * len(heads))
    cells = {
        (row.layer, row.kind, row.model if row.model in MODELS else "controls"): number(row.value, row.low, row.high)
        for row in table.itertuples()
    }
    rows = {layer: [cells.get((layer, *head), "") for head in heads] for layer in table["layer"].unique()}
    return [*lines, *(f"| {layer} | {' | '.join(row)} |" for layer, row in rows.items())]


def crossing(table: pd.DataFrame) -> list[str]:
    """The section of phones beside voices, in numbers."""

    def apart(some: pd.DataFrame | pd.Series, one: pd.Series) -> pd.Series:
        return (some["low"] > one["high"]) | (some["high"] < one["low"])

    lines = ["Numbers of [the card](../unisat/checkpoints/tiny/README.md): speakers whom no model heard, linear "]
    lines[-1] += "discriminants everywhere. Phones: the share of single frames whose phone is found; of spectra, of "
    lines[-1] += "frames without their utterance's mean. Voices: equal error rate; of spectra, by mean and deviation. "
    lines[-1] += "Controls: the network untrained in the rows of layers, else the spectrum that is named."
    lines += ["", "![Phones beside voices over layers](images/layers-crossing.png)", ""]
    lines += [*grid(table, {kind: what.lower() + ", " for kind, (what, _, _) in CROSSED.items()}), ""]
    beyond = 0
    for kind, (what, _, sign) in CROSSED.items():
        by = dict(list(table[table["kind"] == kind].groupby("model", sort=False)))
        top = {name: rows.loc[(sign * rows["value"]).idxmax()] for name, rows in by.items()}
        said = []
        for name in MODELS:
            rows, value = by[name], round(top[name]["value"], 3)
            best, far = rows["layer"][rows["value"].round(3) == value], rows["layer"][apart(rows, top[name])]
            beyond += len(far)
            where = f"layer{'s' * (len(best) > 1)} {' and '.join(best)} of {name}"
            said.append(f"{where} ({value:.3f}; apart from it: {', '.join(far) or 'none'})")
        lines.append(f"- {what} are known best in {' and in '.join(said)}. Beside {MODELS[0]}'s best stand ")
        others = {name: " (apart)" if apart(one, top[MODELS[0]]) else "" for name, one in top.items()}
        lines[-1] += ", ".join(f"{n} {top[n]['value']:.3f}{others[n]}" for n in by if n not in MODELS) + "."
    lines += ["", "*Apart*: two intervals do not meet. "]
    lines[-1] += "" if beyond else "That of no layer is apart from the best one's, so none is shown to be the best. "
    lines[-1] += "Not shown: differences over the same draws of speakers, which can be clear where intervals meet, and "
    lines[-1] += "voices by cosine, which the card has."
    return lines


def beside() -> list[str]:
    """The section of phones beside voices; its picture is drawn too."""
    table = crossed(json.loads((ROOT / "benchmarks" / "tiny.json").read_text()))
    crossing_picture(table, DOCS / "images" / "layers-crossing.png")
    return crossing(table)


def tokens() -> list[str]:
    """The section of nearest tokens; its numbers are written too."""
    spoken = pd.read_csv(SPEECH / "words.csv").assign(tier="word")
    spoken["id"] = spoken["path"].str.removesuffix(".opus")
    spoken = spoken.merge(recordings().where(split="unseen").table[["id", "speaker"]], on="id")
    spoken = us.Segments(spoken[spoken.groupby("label")["speaker"].transform("nunique") > 1])
    heard, controls = recordings().where(id=spoken.ids), {MODELS[0]: ("untrained", "logmel", "mfcc")}
    found, floors = {}, []
    for name in MODELS:
        asked = {"segments": spoken, "baselines": controls.get(name, ()), "progress": False}
        bank = us.collect(us.load(name), heard, "hidden.*", **asked)
        who, said = bank.labels("speaker"), pd.factorize(bank.labels("label"))[0]
        weights = np.vstack([np.ones(len(who)), resampled(who, 2000)])
        for kind, site in product(("all", "utterance"), bank.sites):
            near = nearest_tokens(mean_off(bank, site) if kind == "utterance" else bank[site], who)
            twin, _, layer = site.rpartition("hidden.")
            key = (kind, "untrained" if twin else name, layer) if site not in ACOUSTIC else (kind, site, site)
            found.setdefault(key, []).append(weights @ (said[near] == said) / weights.sum(1))
            shuffled = among_rows(said, 200, np.random.default_rng(0), who)
            floors.append([np.mean(words[near] == words) for words in shuffled])
    draws, speakers = {key: np.mean(seeds, 0) for key, seeds in found.items()}, len({*who})
    rows = [(*key, one[0], *interval(one[1:], groups=speakers)) for key, one in draws.items()]
    table = pd.DataFrame(rows, columns=["kind", "model", "layer", "value", "low", "high"])
    chance, high = np.mean(floors), np.quantile(floors, 0.95, axis=1).max()
    kept = table.rename(columns={"model": "control", "layer": "site"}).assign(n=len(said), n_groups=speakers)
    kept["layer"] = pd.to_numeric(kept["site"], errors="coerce").astype("Int64")
    kept["site"] = kept["site"].where(kept["layer"].isna(), "hidden." + kept["site"])
    keep("word", kept.assign(metric="same_word, less mean of " + kept.pop("kind"), chance=chance))
    lines = ["The share of words whose nearest token of another speaker, by cosine of means over the words' frames, "]
    lines[-1] += f"is the same word: {len(said)} tokens of {said.max() + 1} Arabic words in recordings of {speakers} "
    lines[-1] += (
        "speakers. The models never heard these speakers, but others who say these words. From all vectors the "
    )
    lines[-1] += "mean of all tokens is taken off, and on the right that of their recording's. Controls: the mean of "
    lines[-1] += (
        "three untrained networks in the rows of layers, else the spectrum that is named. The commonest word is "
    )
    lines[-1] += f"{np.bincount(said).max() / len(said):.3f} of all. With words shuffled within speakers the share is "
    lines[-1] += f"{chance:.3f}, and at most {high:.3f} in 95 % of shuffles, in every row. Intervals draw the speakers "
    lines[-1] += "who are asked about, and are wide. [What each part adds](ablation.md) asks the same of English words."
    lines += ["", *grid(table, {"all": "", "utterance": "recording's mean off, "}), ""]
    lines += ["| the last layer of | less | mean of all off | recording's mean off |", "|---|---|---|---|"]
    last = {key[:2]: one for key, one in draws.items()}
    for name, other in [*product(MODELS, ("layer 0", "mfcc")), MODELS]:
        cells = []
        for kind in ("all", "utterance"):
            less = last[kind, name] - (draws[kind, name, "0"] if other == "layer 0" else last[kind, other])
            low, high = interval(less[1:], groups=speakers)
            cells.append(f"{less[0]:+.3f} ({low:+.3f} to {high:+.3f})")
        lines.append(f"| {name} | {other} | {' | '.join(cells)} |")
    return [*lines, "", "Differences are over the same draws of speakers."]


SECTIONS = {
    **{name: (title, partial(probed, name)) for name, (title, _) in TARGETS.items()},
    "trials": ("Is it the same speaker? Equal error rate on 36 unseen speakers", trials),
    "crossing": ("Phones beside voices", beside),
    "codebook": ("What the codebook does", codes),
    "words": ("What clusters of frames know of words", clusters),
    "tokens": ("Is the nearest token of another speaker the same word?", tokens),
    "attention": ("Where heads look", heads),
}


def page(sections: dict[str, str]) -> str:
    """docs/layers.md, from its sections by name."""
    lines = ["# What the layers of the built-in checkpoint know", ""]
    lines += [f"Written by `python benchmarks/layers.py` on {datetime.date.today().isoformat()}, as it comes out, "]
    lines[-1] += f"from checkpoint and masks `{made_from()}`."
    lines += [f"The first {SECONDS:.0f} s of each recording; features are means over frames. Intervals are 95 %, over "]
    lines[-1] += "speakers, then seeds; the untrained columns are three models with fresh weights (in the "
    lines[-1] += "table of trials: mean, and least to most). Bold: layers that cannot be told from the best one. "
    lines[-1] += "`logmel` and `mfcc` are means and standard deviations of what a microphone hears."
    for name, (title, _) in SECTIONS.items():
        lines += ["", f"## {title}", "", sections[name]]
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


def written(text: str) -> dict[str, str]:
    """The sections of a page by name, if it is of this checkpoint."""
    if made_from() not in text:
        raise SystemExit("docs/layers.md is of another checkpoint: run this without --only.")
    parts = dict(part.split("\n\n", 1) for part in text.split("\n## ")[1:])
    return {name: parts[title].strip() for name, (title, _) in SECTIONS.items() if title in parts}


def main() -> None:
    """Measure, and write the page, its pictures and a table of every number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    only = parser.parse_args().only
    sections = written((DOCS / "layers.md").read_text()) if len(only) < len(SECTIONS) else {}
    for name in only:
        sections[name] = "\n".join(SECTIONS[name][1]())
    (DOCS / "layers.md").write_text(page(sections))


if __name__ == "__main__":
    main()
