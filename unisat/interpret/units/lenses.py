"""What each layer would say if a head's own weights, or k-means, read every hidden state."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn

from unisat import clusters
from unisat.clusters import cluster_quality, contingency
from unisat.heads import UniSpeechSatForCTC
from unisat.interpret.activations.capture import run
from unisat.interpret.activations.sites import find_backbone, unwrap
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.features.collect import fingerprint
from unisat.interpret.features.labels import FrameLabels, label_codes, row_labels
from unisat.interpret.result import Result, plots
from unisat.interpret.statistics.intervals import jackknife
from unisat.interpret.statistics.shuffles import exchanged_stretches
from unisat.losses import content_logits
from unisat.pretraining import UniSpeechSatForPreTraining, check_targets

METRICS = ("pnmi", "phone_purity", "cluster_purity")


@dataclass(frozen=True, eq=False, kw_only=True)
class Lens(Result):
    """What a head says in every frame of every hidden state; `ctc_lens` and `unit_lens` give it.

    The head has learned to read the last layer alone. Where it reads little in another layer, that layer may hold the
    same in other directions: a probe (`unisat.probe_layers`) tests that (nostalgebraist, 2020, "logit lens"; Belrose et
    al., 2023, arXiv:2303.08112).

    Attributes
    ----------
    ids : tuple of str
        The name of each utterance.
    logits : tuple of (layers, frames, classes)
        Those of each utterance without padding. Layer k is ``hidden.k``; the last one has the model's own logits.
    seconds : tuple of (frames,)
        The time of each frame's centre.
    blank : int or None
        The class that says nothing, which is CTC's blank.
    targets : tuple of (frames,), or None
        The right class of each frame, -100 where the frame does not count.
    """

    ids: tuple[str, ...]
    logits: tuple[Float[Tensor, "layers _ classes"], ...]
    seconds: tuple[Float[Tensor, " _"], ...]
    blank: int | None = None
    targets: tuple[Int[Tensor, " _"], ...] | None = None

    @property
    def predictions(self) -> list[Int[Tensor, "layers _"]]:
        """The likeliest class in each layer and frame, for each utterance."""
        return [logits.argmax(-1) for logits in self.logits]

    @property
    def entropy(self) -> list[Float[Tensor, "layers _"]]:
        """How undecided each layer is in each frame, in bits, for each utterance."""
        logs = [logits.double().log_softmax(-1) for logits in self.logits]
        return [-(log.exp() * log).sum(-1) / np.log(2) for log in logs]

    def table(self) -> pd.DataFrame:
        """Give one row for each utterance and layer.

        ``agreement`` is the share of frames in which the layer says what the last one says; ``constant`` is the
        agreement of always saying the last layer's most frequent class; ``entropy_bits`` is the mean entropy. With a
        blank, ``blank`` is the share of frames that say nothing, and ``agreement_said`` is the agreement where the last
        layer says something. With targets, ``accuracy`` is over ``frames_counted``, and ``accuracy_constant`` is that
        of always saying the most frequent target.
        """
        rows = []
        for number, (name, said, bits) in enumerate(zip(self.ids, self.predictions, self.entropy, strict=True)):
            last, counts = said[-1], said[-1].bincount()
            same = (said == last).double()
            columns: dict[str, Any] = {"agreement": same.mean(1), "constant": counts.max() / len(last)}
            columns |= {"entropy_bits": bits.mean(1)}
            if self.blank is not None:
                columns |= {"blank": (said == self.blank).double().mean(1)}
                columns |= {"agreement_said": same[:, last != self.blank].mean(1)}
            if self.targets is not None:
                counted = self.targets[number] != -100
                target = self.targets[number][counted]
                most = target.bincount().max() / len(target) if len(target) else torch.nan
                columns |= {"accuracy": (said[:, counted] == target).double().mean(1), "accuracy_constant": most}
                columns |= {"frames_counted": len(target)}
            about = {"id": name, "layer": range(len(said)), "frames": len(last)}
            plain = {key: value.numpy() if isinstance(value, Tensor) else value for key, value in columns.items()}
            rows.append(pd.DataFrame(about | plain))
        return pd.concat(rows, ignore_index=True)

    def decode(self, tokenizer: Any, **options: Any) -> pd.DataFrame:
        """Give what each layer reads as text (greedy): columns ``id``, ``layer``, ``text``.

        ``options`` go to `Wav2Vec2CTCTokenizer.batch_decode`.
        """
        if self.blank is None:
            raise ValueError("units are no letters: only what ctc_lens gives can be decoded.")
        rows = []
        for name, said in zip(self.ids, self.predictions, strict=True):
            texts = tokenizer.batch_decode(said.tolist(), **options)
            rows += [{"id": name, "layer": layer, "text": text} for layer, text in enumerate(texts)]
        return pd.DataFrame(rows)

    def plot(
        self,
        utterance: int | None = None,
        *,
        show: Literal["entropy", "probability"] = "entropy",
        names: Sequence[str] | None = None,
        **options: Any,
    ) -> Any:
        """Draw the layers' agreement with the last one and their accuracy, or what they say over an utterance's time.

        Parameters
        ----------
        utterance : int, optional
            The utterance to draw over time (`unisat.plots.lens`); None for the curve over layers
            (`unisat.plots.lens_layers`).
        show : {"entropy", "probability"}
            What colours mean over time: how undecided a layer is, or the probability of the likeliest class.
        names : sequence of str, optional
            Names of the classes, which are written where a class begins.
        """
        if utterance is None:
            return plots().lens_layers(self.table(), **options)
        logits = self.logits[utterance]
        if show not in ("entropy", "probability"):
            raise ValueError(f"show={show!r} must be 'entropy' or 'probability'.")
        values = self.entropy[utterance] if show == "entropy" else logits.double().softmax(-1).amax(-1)
        label, most = ("entropy (bits)", float(np.log2(logits.shape[-1]))) if show == "entropy" else (show, 1.0)
        options = {"label": label, "limits": (0.0, most), "names": names, "blank": self.blank} | options
        return plots().lens(values, self.predictions[utterance], seconds=self.seconds[utterance], **options)


def over_frames(table: pd.DataFrame, column: str, count: str) -> pd.Series:
    """Give a share in `Lens.table` for each layer, over all utterances: ``count`` names the column of their frames."""
    known = table[table[column].notna() & (table[count] > 0)]
    totals = (known[column] * known[count]).groupby(known["layer"]).sum()
    return totals / known.groupby("layer")[count].sum()


def ctc_lens(
    model: nn.Module, audio: Any, *, sampling_rate: int | None = None, attention_mask: Tensor | None = None
) -> Lens:
    """Read every hidden state with the CTC head: it says which letters each layer would write.

    In a pre-LN model the states between layers pass the encoder's final norm first, as the last state does.

    Parameters
    ----------
    model : UniSpeechSatForCTC
        In evaluation mode.
    audio, sampling_rate, attention_mask
        As in `unisat.run`.
    """
    inner: Any = unwrap(model)
    if not isinstance(inner, UniSpeechSatForCTC):
        raise ValueError(f"ctc_lens needs a UniSpeechSatForCTC with its lm_head, got {type(inner).__name__}.")
    inputs = {"sampling_rate": sampling_rate, "attention_mask": attention_mask}
    return _lens(inner, audio, inner.lm_head, inputs, blank=inner.config.pad_token_id)


def unit_lens(
    model: nn.Module,
    audio: Any,
    targets: Integer[Tensor, "batch labels"] | None = None,
    *,
    mask_time_indices: Bool[Tensor, "batch frames"] | None = None,
    sampling_rate: int | None = None,
    attention_mask: Tensor | None = None,
) -> Lens:
    """Read every hidden state with the head of pretraining: it says which cluster each layer would predict.

    Logits are cosines of ``project_hid`` of the state and the label embeddings, over the temperature
    (`unisat.losses.content_logits`). In a pre-LN model the states pass the encoder's final norm first.

    Parameters
    ----------
    model : UniSpeechSatForPreTraining
        In evaluation mode.
    audio, sampling_rate, attention_mask
        As in `unisat.run`.
    targets : (batch, frames), optional
        The cluster of each frame, -100 where there is none, as in the model's ``forward``.
    mask_time_indices : (batch, frames), optional
        Frames to hide. Then their targets alone count, as in the masked loss.
    """
    inner: Any = unwrap(model)
    if not isinstance(inner, UniSpeechSatForPreTraining):
        raise ValueError(
            f"unit_lens needs a UniSpeechSatForPreTraining with its project_hid, got {type(inner).__name__}; for other "
            "models take kmeans_lens."
        )

    def head(state: Tensor) -> Tensor:
        projected = inner.project_hid(state)
        return content_logits(projected, inner.label_embeddings_concat, inner.config.contrastive_logits_temperature)

    inputs = {"sampling_rate": sampling_rate, "attention_mask": attention_mask, "mask_time_indices": mask_time_indices}
    return _lens(inner, audio, head, inputs, targets=targets)


def _lens(
    model: Any,
    audio: Any,
    head: Callable[[Tensor], Tensor],
    inputs: dict[str, Any],
    *,
    blank: int | None = None,
    targets: Tensor | None = None,
) -> Lens:
    backbone = find_backbone(model)[1]
    _, trace = run(model, audio, "hidden.*", device=model.device, **inputs)
    sites, lengths = trace.sites, trace.lengths(trace.sites[-1]).tolist()
    per_layer = []
    with torch.no_grad():
        for site in sites:
            between = backbone.config.do_stable_layer_norm and site != sites[-1]
            state = backbone.encoder.layer_norm(trace[site]) if between else trace[site]
            per_layer.append(head(state).cpu())
    logits = [torch.stack([layer[row, :n] for layer in per_layer]) for row, n in enumerate(lengths)]
    counted = None
    if targets is not None:
        valid, mask = trace.valid(sites[-1]), inputs["mask_time_indices"]
        wanted = check_targets(targets.cpu(), valid, backbone.config.num_clusters)
        if mask is not None:
            wanted = wanted.masked_fill(~mask.cpu(), -100)
        counted = tuple(row[:n] for row, n in zip(wanted, lengths, strict=True))
    return Lens(
        ids=trace.ids,
        logits=tuple(logits),
        seconds=tuple(trace.seconds(sites[-1])[:n] for n in lengths),
        blank=blank,
        targets=counted,
        settings={"model": fingerprint(model), "head": type(model).__name__, "utterances": len(trace.ids)},
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class KMeansLens(Result):
    """How much the units of each layer know about labels of frames; `kmeans_lens` gives it.

    Attributes
    ----------
    numbers : DataFrame
        What `table` gives.
    """

    numbers: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """Give one row for each model, layer and metric.

        Columns ``model`` ("trained", "untrained.0", …), ``layer``, ``metric`` ("pnmi", "phone_purity",
        "cluster_purity"), ``value`` with its 95 % interval ``low`` to ``high``, ``floor`` (the mean over shuffled
        labels) and ``floor_high`` (their 95th percentile).
        """
        return self.numbers.copy()

    def plot(self, metric: str = "pnmi", **options: Any) -> Any:
        """Draw a metric over layers (`unisat.plots.kmeans_lens`)."""
        return plots().kmeans_lens(self.numbers, metric=metric, **options)


def kmeans_lens(
    bank: FeatureBank,
    labels: FrameLabels,
    *,
    k: int = 100,
    groups: str | None = "speaker",
    shuffles: int = 20,
    sample: int = 50_000,
    seed: int = 0,
) -> KMeansLens:
    """Cluster the frames of each layer with k-means, and measure what its units know about labels such as phones.

    PNMI, phone purity and cluster purity (HuBERT, arXiv:2106.07447; see `unisat.clusters`), each against a floor: with
    many units and few frames, shuffled labels do not give 0 either. The labels can be units themselves, those that a
    model was pretrained on: then the numbers say at which layer these units are easiest to find.

    Parameters
    ----------
    bank : FeatureBank
        From ``collect(..., reduce="frames")``: its layers and, where it holds them, those of untrained models.
    labels : one (frames,) for each utterance of the bank
        A whole number or a name for each frame, negative or empty where there is none;
        `unisat.clusters.interval_labels` makes numbers of intervals in seconds. Other forms are those that
        `unisat.interpret.features.labels` reads.
    k : int
        How many units each layer has.
    groups : str or None
        The column whose values a jackknife leaves out in turn: the interval says what as many frames of other speakers
        would have given. None for no interval. By how much few frames raise PNMI, the floor shows.
    shuffles : int
        How many shuffles the floor is the mean of. Stretches of one label stay whole and exchange their labels, since
        frames of one stretch are alike whatever they hold.
    sample : int
        Most frames to fit k-means on, drawn once for all layers. All frames are then assigned.
    seed : int
        The seed of k-means, the sample and the shuffles.

    Raises
    ------
    ValueError
        If the bank has no frames, labels do not fit its utterances, or there is only one group.
    """
    sites = _hidden_sites(bank)
    if shuffles < 1:
        raise ValueError(f"shuffles={shuffles} must be at least 1: without a floor the numbers say nothing.")
    codes = _codes(bank, sites[0][2], labels)
    utterance = np.repeat(np.arange(len(bank)), bank.lengths(sites[0][2]))
    group = None if groups is None else _groups(bank, groups)[utterance]
    draw = np.random.default_rng(seed)
    fitted = np.sort(draw.permutation(len(codes))[:sample])
    shuffled = list(exchanged_stretches(codes, utterance, shuffles, draw))

    rows = []
    for model, layer, site in sites:
        features = torch.from_numpy(bank.features(site)).float()
        if len(features) != len(codes):
            raise ValueError(
                f"{site} has {len(features)} frames and {sites[0][2]} {len(codes)}; collect them together."
            )
        units = clusters.fit(features[fitted], k, seed).assign(features).numpy()
        about = {"model": model, "layer": layer}
        rows += [{**about, **numbers} for numbers in _measure(units, codes, shuffled, group)]
    settings = {"model": bank.settings.get("model"), "k": k, "groups": groups, "shuffles": shuffles, "sample": sample}
    settings |= {"seed": seed, "frames": int((codes >= 0).sum()), "labels": int(codes.max()) + 1}
    settings |= {"utterances": len(bank)}
    return KMeansLens(numbers=pd.DataFrame(rows), settings=settings)


def _hidden_sites(bank: FeatureBank) -> list[tuple[str, int, str]]:
    """Model, layer and name of each frame-wise site of hidden states, those of untrained models too."""
    found = [(site, re.fullmatch(r"((untrained\.\d+)\.)?hidden\.(\d+)", site)) for site in bank.sites]
    sites = [(match[2] or "trained", int(match[3]), site) for site, match in found if match and bank.is_frames(site)]
    if not sites:
        raise ValueError('the bank has no frames of hidden states; collect it with reduce="frames".')
    return sites


def _codes(bank: FeatureBank, site: str, labels: FrameLabels) -> Int[np.ndarray, " frames"]:
    given = row_labels(bank, site, labels)
    if given.dtype.kind == "f":
        raise ValueError(f"labels must be whole numbers or names, got {given.dtype}: a quantity has no classes.")
    codes, names = label_codes(given)
    if len(names) < 2:
        raise ValueError(f"the labels name fewer than two classes, {names[0]!r} alone: there is nothing to know.")
    return codes


def _groups(bank: FeatureBank, column: str) -> Int[np.ndarray, " utterances"]:
    """A number for the speaker, or other group, of each utterance."""
    names, group = np.unique(bank.labels(column).astype(str), return_inverse=True)
    if len(names) < 2:
        raise ValueError(
            f"all utterances are of {column} {str(names[0])!r}: an interval over {column}s needs two; pass "
            "groups=None, or 'id' for one over utterances."
        )
    return group


def _measure(
    units: Int[np.ndarray, " frames"],
    codes: Int[np.ndarray, " frames"],
    shuffled: Sequence[Int[np.ndarray, " frames"]],
    group: Int[np.ndarray, " frames"] | None,
) -> list[dict[str, Any]]:
    """Each metric of the units of one layer, with its interval over groups and its floor."""
    values = scores(contingency(units, codes))
    reach = np.full(len(METRICS), np.nan)
    if group is not None:
        tables = contingency(group, units, codes)
        reach = jackknife(np.stack([scores(tables.sum(0) - table) for table in tables]))
    floors = np.stack([scores(contingency(units, other)) for other in shuffled])
    columns = {"value": values, "low": values - reach, "high": values + reach}
    columns |= {"floor": floors.mean(0), "floor_high": np.quantile(floors, 0.95, axis=0)}
    return pd.DataFrame(columns).assign(metric=METRICS)[["metric", *columns]].to_dict("records")


def scores(table: Int[np.ndarray, "units labels"]) -> Float[np.ndarray, " metrics"]:
    """Give the `METRICS` of a table of counts."""
    found = cluster_quality(table)
    return np.array([found[metric] for metric in METRICS])
