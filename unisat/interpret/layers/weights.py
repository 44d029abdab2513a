"""Which layers a weighted sum reads: its weights, the sizes of what they weigh, and what happens without each layer.

A head with ``use_weighted_layer_sum`` adds up all hidden states with the softmax of its ``layer_weights``. The softmax
alone misleads, since hidden states differ in size (Fayyaz et al. 2021, arXiv:2109.05958).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unisat.interpret.activations.sites import find, find_backbone, unwrap
from unisat.interpret.features.bank import FeatureBank, known_speakers
from unisat.interpret.features.collect import fingerprint
from unisat.interpret.probing.classifiers import group_folds
from unisat.interpret.result import Result, plots
from unisat.interpret.statistics.intervals import interval, resampled
from unisat.interpret.statistics.scaling import scaling
from unisat.model import UniSpeechSatModel

LEARNING_RATE = 0.05

Head = nn.Module | Tensor | np.ndarray


class WeightedLayerSum(nn.Module):
    """A sum of layers with learned weights, as the reference's heads have: the softmax of ``layer_weights``.

    Parameters
    ----------
    num_layers : int
        How many hidden states are summed, hidden.0 included: one more than the model has blocks.
    normalize : bool
        Give each layer's vectors mean 0 and variance 1 over their channels first (a layer norm without weights), so
        that weights do not have to make up for sizes.
    """

    def __init__(self, num_layers: int, normalize: bool = False):
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers={num_layers} must be at least 1.")
        self.normalize = normalize
        self.layer_weights = nn.Parameter(torch.full((num_layers,), 1 / num_layers))

    def forward(self, hidden_states: Tensor | Iterable[Tensor]) -> Float[Tensor, "... dim"]:
        """Sum ``(layers, ..., dim)``, stacked or as a sequence such as ``output.hidden_states``."""
        layers = hidden_states if isinstance(hidden_states, Tensor) else torch.stack(tuple(hidden_states))
        if len(layers) != len(self.layer_weights):
            raise ValueError(f"expected {len(self.layer_weights)} layers to sum, got {len(layers)}.")
        if self.normalize:
            layers = F.layer_norm(layers, layers.shape[-1:])
        return torch.tensordot(self.layer_weights.softmax(0), layers, dims=1)


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerWeights(Result):
    """What each layer gives to a weighted sum; `layer_weights` and `fit_layer_weights` give it.

    Attributes
    ----------
    sites : tuple of str
    runs : tuple of str
        Names of the heads, or seeds.
    weights : (runs, layers)
        After the softmax.
    norms : (runs, layers)
        Root mean square of what is summed, over utterances, frames and channels.
    change : (runs, layers)
        By how much the sum moves, relative to its size, when a layer's weight is 0 and the other weights are scaled to
        sum to 1; NaN where the bank does not say.
    accuracy : (runs,), optional
        Held-out balanced accuracy.
    accuracy_drop, loss_rise : (runs, layers), optional
        How much held-out balanced accuracy is lost, and cross-entropy (nats) gained, without a layer. The classifier is
        not trained again.
    accuracy_interval : (low, high), optional
        95 % interval of the mean accuracy, over speakers (or groups) and their utterances.
    chance : float, optional
        Balanced accuracy of a guess.
    """

    sites: tuple[str, ...]
    runs: tuple[str, ...]
    weights: Float[np.ndarray, "runs layers"]
    norms: Float[np.ndarray, "runs layers"]
    change: Float[np.ndarray, "runs layers"]
    accuracy: Float[np.ndarray, " runs"] | None = None
    accuracy_drop: Float[np.ndarray, "runs layers"] | None = None
    loss_rise: Float[np.ndarray, "runs layers"] | None = None
    accuracy_interval: tuple[float, float] | None = None
    chance: float | None = None

    @property
    def contribution(self) -> Float[np.ndarray, "runs layers"]:
        """Weight times norm, as a share of all layers' (each run sums to 1)."""
        product = self.weights * self.norms
        return product / product.sum(1, keepdims=True)

    def averaged(self) -> tuple[Float[np.ndarray, " layers"], Float[np.ndarray, " layers"]]:
        """Give the weights and the norms, each as the mean over runs."""
        return self.weights.mean(0), self.norms.mean(0)

    def table(self) -> pd.DataFrame:
        """Give one row for each run and layer: ``run``, ``site``, ``layer`` and the attributes above."""
        columns: dict[str, np.ndarray | None] = {"weight": self.weights, "norm": self.norms}
        columns |= {"contribution": self.contribution, "change": self.change}
        columns |= {"accuracy_drop": self.accuracy_drop, "loss_rise": self.loss_rise}
        keys = pd.MultiIndex.from_product([self.runs, self.sites], names=["run", "site"]).to_frame(index=False)
        keys["layer"] = np.tile(np.arange(len(self.sites)), len(self.runs))
        return keys.assign(**{name: values.ravel() for name, values in columns.items() if values is not None})

    def plot(self, **options: Any) -> Any:
        """Draw weight, contribution and leave-one-out change over layers, a point for each run."""
        return plots().layer_weights(self.table(), **options)


def layer_weights(heads: Head | Sequence[Head], bank: FeatureBank) -> LayerWeights:
    """Measure what each layer contributes to the weighted sum of a head, or of several heads on one backbone.

    Parameters
    ----------
    heads : head, WeightedLayerSum, (layers,) array, or a sequence of those
        Models with ``config.use_weighted_layer_sum``. Arrays are weights as the reference stores them, before the
        softmax. One head trained from five seeds shows how far the weights can be trusted.
    bank : FeatureBank
        ``hidden.*`` of the heads' backbone. ``reduce="mean+std"`` gives norms exactly, and the change of the sum's mean
        over each utterance; ``"frames"`` gives the change of every frame; ``"norms"`` gives norms alone. Each utterance
        counts the same. Arrays of your own (`FeatureBank.from_arrays`) are taken to be what is summed.

    Raises
    ------
    ValueError
        If a head has no layer weights, they are not as many as the bank's layers, or the bank is another model's.
    """
    listed: list[Head] = [heads] if isinstance(heads, nn.Module | Tensor | np.ndarray) else list(heads)
    if not listed:
        raise ValueError("heads is empty; give at least one head.")
    raw = np.stack([_logits(head, len(bank.hidden)) for head in listed])
    _check_backbone(listed, bank)
    weights = np.exp(raw - raw.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    norms, products = _sizes(bank)
    change = np.full_like(weights, np.nan) if products is None else leave_one_out(weights, products)
    settings = {
        "model": bank.settings.get("model"),
        "reduce": bank.settings.get("reduce"),
        "frames": bank.settings.get("frames"),
        "utterances": len(bank),
        "heads": len(listed),
    }
    return LayerWeights(
        sites=tuple(bank.hidden),
        runs=tuple(str(number) for number in range(len(listed))),
        weights=weights,
        norms=np.tile(norms, (len(listed), 1)),
        change=change,
        settings=settings,
    )


def leave_one_out(
    weights: Float[np.ndarray, "runs layers"], products: Float[np.ndarray, "layers layers"]
) -> Float[np.ndarray, "runs layers"]:
    """Change of a weighted sum without each layer, relative to the sum, from the layers' inner products.

    ``products[k, l]`` is the sum of h_k · h_l over all vectors. The change is NaN for a layer whose weight is 1.
    """
    out = np.full_like(weights, np.nan)
    for run, layer in np.ndindex(*weights.shape):
        own, weight = weights[run], weights[run, layer]
        if weight < 1:
            other = np.where(np.arange(len(own)) == layer, 0, own) / (1 - weight)
            moved = (other - own) @ products @ (other - own)
            out[run, layer] = np.sqrt(max(moved, 0) / (own @ products @ own))
    return out


def _logits(head: Head, layers: int) -> np.ndarray:
    if isinstance(head, nn.Module):
        values = getattr(unwrap(head), "layer_weights", None)
        if values is None:
            raise ValueError(
                f"{type(head).__name__} has no layer_weights: its config has use_weighted_layer_sum=False, or it reads "
                "the last hidden state alone. Train weights on frozen features with us.fit_layer_weights."
            )
    else:
        values = head
    raw = (values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values)).astype(float)
    if raw.shape != (layers,):
        raise ValueError(
            f"expected one weight for each of the bank's {layers} layers (hidden.0 included), got shape {raw.shape}; "
            'collect "hidden.*" of the model that the head sits on.'
        )
    if not np.isfinite(raw).all():
        raise ValueError(f"layer weights {np.flatnonzero(~np.isfinite(raw)).tolist()} are not finite.")
    return raw


def _check_backbone(heads: Sequence[Head], bank: FeatureBank) -> None:
    """Refuse a bank of another model, where both say whose they are."""
    known = bank.settings.get("model")
    models = [unwrap(head) for head in heads if isinstance(head, nn.Module)]
    models = [model for model in models if find(model, UniSpeechSatModel) is not None]
    if known is None or not models:
        return
    backbones = {fingerprint(find_backbone(model)[1]) for model in models}
    if len(backbones) > 1:
        raise ValueError(f"the heads sit on {len(backbones)} different backbones; call layer_weights for each.")
    if known not in backbones | {fingerprint(model) for model in models}:
        raise ValueError(
            f"the bank was collected from another model (fingerprint {known}) than the head sits on "
            f"({backbones.pop()}); collect it from the head itself."
        )


def _sizes(bank: FeatureBank) -> tuple[np.ndarray, np.ndarray | None]:
    """RMS norm of each layer, and inner products of the layers where the bank has their vectors (else None)."""
    sites, reduced = bank.hidden, bank.settings.get("reduce")
    if any(bank.is_frames(site) for site in sites):
        products = np.zeros((len(sites), len(sites)))
        for row in range(len(bank)):
            layers = np.stack([bank.frames(site, row) for site in sites]).astype(float)  # (layers, frames, dim)
            flat = layers.reshape(len(sites), -1)
            if not np.isfinite(flat).all():
                bank.features(sites[int(np.flatnonzero(~np.isfinite(flat).all(1))[0])])  # says which utterance
            products += flat @ flat.T / flat.shape[1]
        return np.sqrt(np.diag(products) / len(bank)), products
    layers = np.stack([bank.features(site) for site in sites])
    squares = np.square(layers).mean((1, 2))
    if reduced == "norms":
        return np.sqrt(squares), None
    if reduced not in (None, "mean+std"):
        raise ValueError(
            f"norms cannot be had of a bank that was collected with reduce={reduced!r}; use 'mean+std', 'frames' or "
            "'norms'."
        )
    if reduced == "mean+std":  # mean of x² over frames = mean² + std², half of the columns each
        squares, layers = 2 * squares, layers[..., : layers.shape[2] // 2]
    flat = layers.reshape(len(sites), -1)
    return np.sqrt(squares), flat @ flat.T


def fit_layer_weights(
    bank: FeatureBank,
    target: str,
    *,
    groups: str,
    sites: Sequence[str] | None = None,
    pool: str | None = None,
    normalize: str | None = "zscore",
    folds: int = 5,
    seeds: int = 5,
    steps: int = 200,
    weight_decay: float = 1.0,
    n_boot: int = 1000,
) -> LayerWeights:
    """Train a weighted sum of frozen, pooled layers with a linear classifier on top, and measure it on held-out groups.

    This is SUPERB's protocol (Yang et al. 2021, 2024) on a bank. The weights of a seed are means over its folds. With
    few utterances and many channels, noise is learned as well as the label: read ``accuracy_drop`` beside ``weight``.

    Parameters
    ----------
    bank : FeatureBank
        One row for each utterance.
    target, groups : str
        Columns: the classes to tell apart, and what must not be on both sides of a fold (sessions).
    normalize : {"zscore", "layer_norm"}, optional
        ``"zscore"`` standardises each channel of each layer on the training fold, ``"layer_norm"`` each vector over its
        channels. None leaves layers as they are, except for one factor for all.
    folds, seeds : int
        Every seed deals its own folds and draws its own classifier.
    steps : int
        Steps of AdamW, each on all training utterances at once, with a learning rate of 0.05.
    weight_decay : float
        Weight decay of the classifier; the layer weights have none.
    n_boot : int
        Draws for the interval of the accuracy.

    Raises
    ------
    ValueError
        If there is one class only, a class has one group only, or there are fewer groups than folds.
    """
    if normalize not in (None, "zscore", "layer_norm"):
        raise ValueError(f"normalize={normalize!r} must be 'zscore', 'layer_norm' or None.")
    if seeds < 1 or steps < 1:
        raise ValueError(f"seeds={seeds} and steps={steps} must be at least 1.")
    names = list(bank.hidden if sites is None else sites)
    if len(names) < 2:
        raise ValueError(f"a weighted sum needs at least two layers, got {names}; the bank has {bank.sites}.")
    labels, held = bank.labels(target), bank.labels(groups)
    _check_groups(target, groups, labels, held, folds)
    classes, codes = np.unique(labels, return_inverse=True)
    layers, how = _stacked(bank, names, pool), _Training(normalize, folds, steps, weight_decay)
    runs = [_cross_validated(layers, codes, held, how, seed) for seed in range(seeds)]
    numbers = {name: np.stack([run[name] for run in runs]) for name in runs[0]}
    right = numbers.pop("right").mean(0)
    settings = {"model": bank.settings.get("model"), "target": target, "groups": groups, "pool": pool}
    settings |= {"normalize": normalize, "folds": folds, "seeds": list(range(seeds)), "steps": steps}
    settings |= {"weight_decay": weight_decay, "learning_rate": LEARNING_RATE, "n_boot": n_boot}
    settings |= {"utterances": len(bank), "classes": len(classes), "accuracy": numbers["accuracy"].tolist()}
    return LayerWeights(
        sites=tuple(names),
        runs=tuple(str(seed) for seed in range(seeds)),
        **numbers,
        accuracy_interval=_interval(bank, held, codes, right, n_boot),
        chance=1 / len(classes),
        settings=settings,
    )


def _check_groups(target: str, groups: str, labels: np.ndarray, held: np.ndarray, folds: int) -> None:
    count = len(set(held))
    if len(set(labels)) < 2:
        raise ValueError(f"{target!r} has one class only ({labels[0]!r}); there is nothing to tell apart.")
    if not 2 <= folds <= count:
        raise ValueError(f"folds={folds} must lie between 2 and the {count} classes of groups={groups!r}.")
    seen = pd.DataFrame({"label": labels, "group": held}).groupby("label")["group"].nunique()
    if (seen < 2).any():
        raise ValueError(
            f"{(seen < 2).sum()} classes of {target!r} (first: {seen.index[seen < 2][0]!r}) are in one {groups!r} "
            "only: held out, nothing is left to learn them from. Leave them out, or choose other groups."
        )


def _stacked(bank: FeatureBank, sites: Sequence[str], pool: str | None) -> Float[np.ndarray, "layers utterances dim"]:
    features = {}
    for site in sites:
        if bank.is_frames(site):
            raise ValueError(f"{site!r} has a row for each frame; collect the bank with reduce='mean' or 'mean+std'.")
        features[site] = bank.features(site, pool)
    widths = {site: values.shape[1] for site, values in features.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"layers can be summed only if they are equally wide, got {widths}.")
    return np.stack([features[site] for site in sites])


@dataclass(frozen=True)
class _Training:
    """How the classifiers of one seed are trained, as `fit_layer_weights` says."""

    normalize: str | None
    folds: int
    steps: int
    weight_decay: float


def _cross_validated(
    layers: Float[np.ndarray, "layers utterances dim"],
    codes: Int[np.ndarray, " utterances"],
    held: np.ndarray,
    how: _Training,
    seed: int,
) -> dict[str, np.ndarray]:
    """What one seed finds: weights and sizes as means over folds, and what held-out utterances say."""
    label, classes = torch.from_numpy(codes), int(codes.max()) + 1
    weights, norms, change = np.zeros((3, len(layers)))
    scores = torch.zeros(len(layers) + 1, len(codes), classes)  # of the whole sum, then without each layer
    fold = group_folds(codes, held, how.folds, seed)
    for number in range(how.folds):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        prepared = _prepare(layers, train, how.normalize)
        fitted = _train(prepared[:, train], label[train], classes, seed, how)
        scores[:, test], softmax = _without(prepared[:, test], *fitted)
        seen = prepared[:, train].double().flatten(1)
        weights += softmax / how.folds
        norms += seen.square().mean(1).sqrt().numpy() / how.folds
        change += leave_one_out(softmax[None], (seen @ seen.T).numpy())[0] / how.folds
    hits = (scores.argmax(-1) == label).numpy()  # (1 + layers, utterances)
    balanced = np.stack([hits[:, codes == code].mean(1) for code in range(classes)]).mean(0)
    losses = torch.stack([F.cross_entropy(score, label) for score in scores]).numpy()
    return {
        "weights": weights,
        "norms": norms,
        "change": change,
        "accuracy": balanced[0],
        "accuracy_drop": balanced[0] - balanced[1:],
        "loss_rise": (losses[1:] - losses[0]).astype(float),
        "right": hits[0].astype(float),
    }


def _prepare(
    layers: Float[np.ndarray, "layers utterances dim"], train: Int[np.ndarray, " train"], normalize: str | None
) -> Float[Tensor, "layers utterances dim"]:
    """Prepare layers for the sum; the result is in float32."""
    seen = layers[:, train]
    if normalize == "zscore":
        layers = scaling(seen, axis=1)(layers)
    elif normalize is None:  # one factor for all, so that the same learning rate serves
        layers = layers / np.sqrt(np.square(seen).mean())
    prepared = torch.from_numpy(layers)
    return (F.layer_norm(prepared, prepared.shape[-1:]) if normalize == "layer_norm" else prepared).float()


def _train(
    layers: Float[Tensor, "layers utterances dim"],
    label: Int[Tensor, " utterances"],
    classes: int,
    seed: int,
    how: _Training,
) -> tuple[WeightedLayerSum, nn.Linear]:
    """A weighted sum and a linear classifier on top, trained together."""
    total = WeightedLayerSum(len(layers))
    linear = nn.utils.skip_init(nn.Linear, layers.shape[-1], classes)
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(linear.weight, std=layers.shape[-1] ** -0.5, generator=generator)
    nn.init.zeros_(linear.bias)
    groups: list[dict[str, Any]] = [
        {"params": linear.parameters(), "weight_decay": how.weight_decay},
        {"params": total.parameters(), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)
    for _ in range(how.steps):
        optimizer.zero_grad()
        F.cross_entropy(linear(total(layers)), label).backward()
        optimizer.step()
    return total, linear


@torch.no_grad()
def _without(
    layers: Float[Tensor, "layers utterances dim"], total: WeightedLayerSum, linear: nn.Linear
) -> tuple[Float[Tensor, "one_and_layers utterances classes"], Float[np.ndarray, " layers"]]:
    """Logits of the whole sum, then of the sum without each layer; and the weights."""
    softmax = total.layer_weights.double().softmax(0)
    parts = softmax.float()[:, None, None] * (layers @ linear.weight.T)  # the classifier is linear: one part a layer
    whole = parts.sum(0)
    rest = (whole - parts) / (1 - softmax.float())[:, None, None].clamp(min=1e-6)
    return torch.cat([whole[None], rest]) + linear.bias, softmax.numpy()


def _interval(
    bank: FeatureBank, held: np.ndarray, codes: np.ndarray, right: np.ndarray, n_boot: int
) -> tuple[float, float]:
    """The interval of the balanced accuracy, over speakers where they are known, else over groups."""
    speakers = known_speakers(bank)
    groups = held if speakers is None else speakers
    counts = resampled(groups, n_boot)
    weights = counts / np.bincount(codes)[codes]
    return interval((weights * right).sum(1) / weights.sum(1), groups=len(set(groups)))
