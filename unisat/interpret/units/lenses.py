"""What each layer would say: a head's own weights, or k-means, applied to every hidden state."""

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
from unisat.heads import UniSpeechSatForCTC
from unisat.interpret.activations.capture import run
from unisat.interpret.activations.sites import find_backbone, unwrap
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.features.collect import fingerprint
from unisat.interpret.result import Result, plots
from unisat.losses import content_logits
from unisat.pretraining import UniSpeechSatForPreTraining, check_targets

METRICS = ("pnmi", "phone_purity", "cluster_purity")


@dataclass(frozen=True, eq=False, kw_only=True)
class Lens(Result):
    """What a head says in every frame of every hidden state, `ctc_lens` and `unit_lens` give it.

    The head has learned to read the last layer alone. Where it reads little in another, the layer may hold the same in
    other directions: a probe (`unisat.probe_layers`) asks that (nostalgebraist, 2020, "logit lens"; Belrose et al.,
    2023, arXiv:2303.08112).

    Attributes
    ----------
    ids : tuple of str
        Name of each utterance.
    logits : tuple of (layers, frames, classes)
        For each utterance without padding; layer k is ``hidden.k``, the last one the model's own logits.
    seconds : tuple of (frames,)
        Time of each frame's centre.
    blank : int or None
        The class that says nothing: CTC's blank.
    targets : tuple of (frames,), or None
        What is right in each frame, -100 where nothing counts.
    """

    ids: tuple[str, ...]
    logits: tuple[Float[Tensor, "layers _ classes"], ...]
    seconds: tuple[Float[Tensor, " _"], ...]
    blank: int | None = None
    targets: tuple[Int[Tensor, " _"], ...] | None = None

    @property
    def predictions(self) -> list[Int[Tensor, "layers _"]]:
        """For each utterance the likeliest class in each layer and frame."""
        return [logits.argmax(-1) for logits in self.logits]

    @property
    def entropy(self) -> list[Float[Tensor, "layers _"]]:
        """For each utterance how undecided each layer is in each frame, in bits."""
        logs = [logits.double().log_softmax(-1) for logits in self.logits]
        return [-(log.exp() * log).sum(-1) / np.log(2) for log in logs]

    def table(self) -> pd.DataFrame:
        """One row for each utterance and layer.

        ``agreement`` is the share of frames where the layer says what the last one says, ``constant`` what always
        saying the last layer's most frequent class would give; ``entropy_bits`` the mean entropy. With a blank:
        ``blank``, the share of frames that say nothing, and ``agreement_said``, the agreement where the last layer
        says something. With targets: ``accuracy`` over ``frames_counted``, and ``accuracy_constant``, that of always
        saying the most frequent target.
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
        """What each layer reads, as text (greedy): columns ``id``, ``layer``, ``text``.

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
            Which to draw over time (`unisat.plots.lens`); None for the curve over layers (`unisat.plots.lens_layers`).
        show : {"entropy", "probability"}
            What colours mean over time: how undecided, or the probability of the likeliest class.
        names : sequence of str, optional
            Names of the classes, to be written where one begins.
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
    """Read every hidden state with the CTC head: which letters each layer would write.

    In a pre-LN model the states between layers pass the encoder's final norm first, as the last one does.

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
    """Read every hidden state with the head of pretraining: which cluster each layer would predict.

    Cosines of ``project_hid`` of the state and the label embeddings, over the temperature
    (`unisat.losses.content_logits`); in a pre-LN model behind the encoder's final norm.

    Parameters
    ----------
    model : UniSpeechSatForPreTraining
        In evaluation mode.
    audio, sampling_rate, attention_mask
        As in `unisat.run`.
    targets : (batch, frames), optional
        The cluster of each frame, -100 where there is none, as in the model's ``forward``.
    mask_time_indices : (batch, frames), optional
        Frames to hide: the targets of these alone count then, as in the masked loss.
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
        settings={"model": fingerprint(model), "head": type(model).__name__, "utterances": len(trace)},
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class KMeansLens(Result):
    """How much the units of each layer know about labels of frames, `kmeans_lens` gives it.

    Attributes
    ----------
    numbers : DataFrame
        What `table` gives.
    """

    numbers: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """One row for each model, layer and metric.

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
    labels: Sequence[Integer[np.ndarray | Tensor, " _"]],
    *,
    k: int = 100,
    groups: str | None = "speaker",
    shuffles: int = 20,
    sample: int = 50_000,
    seed: int = 0,
) -> KMeansLens:
    """Cluster the frames of each layer with k-means and ask what the units know about labels, such as phones or words.

    PNMI, phone purity and cluster purity (HuBERT, arXiv:2106.07447, section 5; see `unisat.clusters`), each against a
    floor: with many units and few frames, shuffled labels do not give 0 either. The labels can be units themselves,
    those that a model was pretrained on: then it says at which layer these units are easiest to find.

    Parameters
    ----------
    bank : FeatureBank
        Of ``collect(..., reduce="frames")``. Its layers and, where it holds them, those of untrained models.
    labels : one (frames,) for each utterance of the bank
        A number for each frame, negative where there is none: `unisat.clusters.interval_labels` makes them of
        intervals in seconds.
    k : int
        Units of each layer.
    groups : str or None
        The interval says what as many frames of other speakers would have given (a jackknife that leaves out each
        value of this column in turn); None for no interval. What too few frames add to PNMI, the floor shows.
    shuffles : int
        Draws of the floor: stretches of one label stay whole and exchange their labels, since frames of one stretch are
        alike whatever they hold.
    sample : int
        Most frames to fit k-means on, drawn once for all layers; all are then assigned.
    seed : int
        Of k-means, the sample and the shuffles.

    Raises
    ------
    ValueError
        If the bank has no frames, labels do not fit its utterances, or there is only one group.
    """
    found = [(site, re.fullmatch(r"((untrained\.\d+)\.)?hidden\.(\d+)", site)) for site in bank.sites]
    sites = [(match[2] or "trained", int(match[3]), site) for site, match in found if match and bank.is_frames(site)]
    if not sites:
        raise ValueError('the bank has no frames of hidden states; collect it with reduce="frames".')
    if shuffles < 1:
        raise ValueError(f"shuffles={shuffles} must be at least 1: without a floor the numbers say nothing.")
    flat, utterance = _flat(bank, sites[0][2], labels)
    known = flat >= 0
    _, flat[known] = np.unique(flat[known], return_inverse=True)
    group = np.zeros(len(bank), dtype=int)
    if groups is not None:
        names, group = np.unique(bank.labels(groups).astype(str), return_inverse=True)
        if len(names) < 2:
            raise ValueError(
                f"all utterances are of {groups} {str(names[0])!r}: an interval over {groups}s needs two; pass "
                "groups=None, or 'id' for one over utterances."
            )
    draw = np.random.default_rng(seed)
    fitted = np.sort(draw.permutation(len(flat))[:sample])
    shuffled = [_exchanged(flat, utterance, draw) for _ in range(shuffles)]

    rows = []
    for model, layer, site in sites:
        features = torch.from_numpy(bank.features(site)).float()
        if len(features) != len(flat):
            raise ValueError(f"{site} has {len(features)} frames and {sites[0][2]} {len(flat)}; collect them together.")
        units = clusters.fit(features[fitted], k, seed).assign(features).numpy()
        tables = _tables(units, flat, group[utterance])
        values = scores(tables.sum(0))
        floors = np.stack([scores(_tables(units, other)[0]) for other in shuffled])
        half = _half_width(tables) if groups is not None else np.full(len(METRICS), np.nan)
        for i, metric in enumerate(METRICS):
            about = {"model": model, "layer": layer, "metric": metric, "value": values[i]}
            interval = {"low": values[i] - half[i], "high": values[i] + half[i]}
            floor = {"floor": floors[:, i].mean(), "floor_high": np.quantile(floors[:, i], 0.95)}
            rows.append(about | interval | floor)
    settings = {"model": bank.about.get("model"), "k": k, "groups": groups, "shuffles": shuffles, "sample": sample}
    settings |= {"seed": seed, "frames": int(known.sum()), "labels": int(flat.max()) + 1, "utterances": len(bank)}
    return KMeansLens(numbers=pd.DataFrame(rows), settings=settings)


def _flat(bank: FeatureBank, site: str, labels: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Label and utterance of every frame of the bank."""
    lengths = bank.lengths(site)
    if len(labels) != len(lengths):
        raise ValueError(
            f"{len(labels)} rows of labels for the {len(lengths)} utterances of the bank; give each its own."
        )
    arrays = [np.asarray(row) for row in labels]
    for name, row, length in zip(bank.ids, arrays, lengths, strict=True):
        if row.shape != (length,) or not np.issubdtype(row.dtype, np.integer):
            raise ValueError(
                f"labels of {name!r} must be ({length},) integers, one for each frame, got {row.shape} of {row.dtype}."
            )
    flat = np.concatenate(arrays).astype(np.int64)
    if len(np.unique(flat[flat >= 0])) < 2:
        raise ValueError("the labels name fewer than two classes: there is nothing to know.")
    return flat, np.repeat(np.arange(len(lengths)), lengths)


def _exchanged(labels: np.ndarray, utterance: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The same stretches, each with the label of another one."""
    new = (np.diff(labels, prepend=labels[0]) != 0) | (np.diff(utterance, prepend=utterance[0]) != 0)
    stretch = np.cumsum(new)
    names = labels[np.unique(stretch, return_index=True)[1]]
    known = names >= 0
    names[known] = draw.permutation(names[known])
    return names[stretch]


def _tables(units: np.ndarray, labels: np.ndarray, group: np.ndarray | None = None) -> np.ndarray:
    """How often each unit meets each label, (groups, units, labels); frames without a label are left out."""
    group = np.zeros(len(units), dtype=int) if group is None else group
    shape, known = (group.max() + 1, units.max() + 1, labels.max() + 1), labels >= 0
    place = np.ravel_multi_index((group[known], units[known], labels[known]), shape)
    return np.bincount(place, minlength=int(np.prod(shape))).reshape(shape)


def scores(table: np.ndarray) -> np.ndarray:
    """`METRICS` of a joint count (units, labels): see `unisat.clusters`."""
    given = clusters.entropy(table.sum(0))
    shared = given + clusters.entropy(table.sum(1)) - clusters.entropy(table.ravel())
    frames = table.sum()
    return np.array([shared / given if given > 0 else 1.0, table.max(1).sum() / frames, table.max(0).sum() / frames])


def _half_width(tables: np.ndarray) -> np.ndarray:
    """Half the 95 % interval of `scores` over groups, from leaving each out (jackknife, Student's t)."""
    from scipy.stats import t

    total, count = tables.sum(0), len(tables)
    without = np.stack([scores(total - table) for table in tables])
    error = np.sqrt((count - 1) / count * ((without - without.mean(0)) ** 2).sum(0))
    return t.ppf(0.975, count - 1) * error
