"""Training of a speaker embedding on a pretrained model: of the x-vector head alone, or of the transformer too.

The convolutions stay as they are. So their output is computed once and kept on the disk in half precision, and each
step of training reads crops of it. On a laptop this takes minutes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from unisat import audio
from unisat.config import nearest
from unisat.corpus import Corpus
from unisat.files import alone, remove_partial, save_json, whole_folder, writing
from unisat.frames import SAMPLE_RATE, valid_positions
from unisat.model import UniSpeechSatModel
from unisat.training.data import manifest, union
from unisat.training.recipe import apply, check_sources, check_types, read_toml
from unisat.xvector import AMSoftmaxLoss, TDNNLayer, UniSpeechSatForXVector


@dataclass
class XVectorRecipe:
    """What the training of a speaker embedding depends on.

    Attributes
    ----------
    out, model : str
        The folder to write to, and the folder of the pretrained model.
    train : dict
        Sources of speech with speakers, as in `unisat.training.recipe.Data`.
    shortest_seconds, longest_seconds : float
        The length of the crops is drawn between these two, anew for each batch.
    speeds : list of float
        The speeds at which the speech is heard; the first is 1. A voice at another speed counts as another speaker (Ko
        et al., 2015). The classes of these speakers are dropped in the end.
    batch_size : int
        The utterances in a batch, each of another speaker.
    steps, learning_rate, weight_decay
        Of AdamW. The learning rate takes one cycle: it rises to its value and falls to 0.
    backbone_learning_rate : float
        The learning rate of the transformer and the feature projection. With 0 they stay as they are. The convolutions
        never learn.
    margin : float
        The margin of the AM-softmax.
    precision : {"no", "bf16"}
        The precision of the forward pass.
    head : dict
        Fields of the model's config to change, ``tdnn_kernel`` for example.
    """

    out: str
    model: str
    seed: int = 0
    train: dict[str, dict[str, Any]] = field(default_factory=dict)
    shortest_seconds: float = 1.0
    longest_seconds: float = 3.0
    speeds: list[float] = field(default_factory=lambda: [1.0])
    batch_size: int = 64
    steps: int = 1000
    learning_rate: float = 1e-3
    backbone_learning_rate: float = 0.0
    margin: float = 0.4
    weight_decay: float = 0.01
    precision: str = "no"
    do_normalize: bool = True
    head: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("the recipe needs at least one source of speech under train.")
        check_sources(self.train, "train")
        if not 0 < self.shortest_seconds <= self.longest_seconds:
            raise ValueError(
                f"shortest_seconds={self.shortest_seconds} and longest_seconds={self.longest_seconds} must be positive "
                "and in order."
            )
        if min(self.batch_size, self.steps) < 1:
            raise ValueError(f"batch_size={self.batch_size} and steps={self.steps} must be at least 1.")
        if self.learning_rate <= 0 or self.backbone_learning_rate < 0:
            raise ValueError(
                f"learning_rate={self.learning_rate} must be positive and backbone_learning_rate="
                f"{self.backbone_learning_rate} at least 0."
            )
        if not self.speeds or self.speeds[0] != 1 or min(self.speeds) <= 0 or len({*self.speeds}) < len(self.speeds):
            raise ValueError(f"speeds={self.speeds} must be positive, each another one, and begin with 1.")
        if self.precision not in ("no", "bf16"):
            raise ValueError(f"precision={self.precision!r} must be 'no' or 'bf16'.")


def read(path: str | Path, changes: Mapping[str, Any] | None = None) -> XVectorRecipe:
    """Read a recipe from TOML; ``changes`` are names with new values."""
    values = apply(read_toml(path), changes or {})
    known = [item.name for item in fields(XVectorRecipe)]
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"a recipe has no key {unknown[0]}{nearest(unknown[0], known)}.")
    if missing := [name for name in ("out", "model") if name not in values]:
        raise ValueError(f"a recipe needs the key(s) {', '.join(missing)}.")
    check_types(XVectorRecipe, values, "")
    return XVectorRecipe(**values)


class FeatureStore:
    """The output of the convolutions for a corpus, (frames, channels) in float16, in a memory-mapped file."""

    def __init__(
        self,
        model: UniSpeechSatModel,
        corpus: Corpus,
        file: Path,
        *,
        speeds: list[float] | None = None,
        do_normalize: bool = True,
    ) -> None:
        self.starts, self.frames = list[int](), list[int]()
        self.voices: list[tuple[float, str]] = []  # speed and speaker of each row
        file.parent.mkdir(parents=True, exist_ok=True)
        total = 0
        with file.open("wb") as written:
            for row in tqdm(range(len(corpus)), desc="features"):
                waveform = corpus.waveform(row)
                for speed in speeds or [1.0]:
                    faster = waveform
                    if speed != 1:
                        # as if it had been recorded at another rate: pitch and formants move too
                        faster = torch.from_numpy(soxr.resample(waveform.numpy(), SAMPLE_RATE * speed, SAMPLE_RATE))
                    if len(faster) < model.config.receptive_field:
                        continue
                    values = (audio.normalize(faster) if do_normalize else faster)[None].to(model.device)
                    with torch.inference_mode():
                        features = model.feature_extractor(values)[0].T.half().cpu().numpy()  # (frames, channels)
                    with writing(file):
                        features.tofile(written)
                    self.starts.append(total)
                    self.frames.append(len(features))
                    self.voices.append((speed, corpus.table["speaker"].iloc[row]))
                    total += len(features)
        self.features = np.memmap(file, np.float16, "r", shape=(total, model.config.conv_dim[-1]))

    def crop(self, row: int, first: int, frames: int) -> Tensor:
        """Give (frames, channels) of an utterance, from frame ``first`` on."""
        start = self.starts[row] + first
        return torch.from_numpy(np.array(self.features[start : start + frames]))


def embed(
    model: UniSpeechSatForXVector, features: Float[Tensor, "batch frames channels"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch xvector"]:
    """Compute x-vectors from the output of the convolutions; ``lengths`` says how many frames of each are real."""
    backbone = model.unispeech_sat
    valid = valid_positions(lengths, features.shape[1])
    hidden, _ = backbone.feature_projection(features)
    _, states, _ = backbone.encoder(hidden, None if valid.all() else valid, output_hidden_states=True)
    return model.embed(model.weigh(states), lengths)


def train(recipe: XVectorRecipe, *, progress: bool = True) -> Path:
    """Train the head, and the transformer if it is to learn; give ``<out>/model``, one checkpoint with both.

    For each batch speakers are drawn uniformly, then an utterance of each, then a crop. The log is ``<out>/train.csv``.

    Raises
    ------
    ValueError
        If there are fewer than two speakers, or utterances without one.
    OSError
        If another run is at work in ``<out>``, or its disk is full.
    """
    with alone(Path(recipe.out)):
        remove_partial(Path(recipe.out))
        return _train(recipe, progress)


def _train(recipe: XVectorRecipe, progress: bool) -> Path:
    corpus = union({name: manifest(**source) for name, source in recipe.train.items()})
    if corpus.table["speaker"].isna().any():
        nameless = corpus.table["id"][corpus.table["speaker"].isna()].tolist()
        raise ValueError(f"{len(nameless)} utterance(s) have no speaker, {nameless[:3]} among them; name or drop them.")
    speakers = sorted(corpus.table["speaker"].unique())
    if len(speakers) < 2:
        raise ValueError(f"telling voices apart needs at least two speakers, got {speakers}.")
    out = Path(recipe.out)
    backbone = UniSpeechSatModel.from_pretrained(recipe.model)
    store = FeatureStore(backbone, corpus, out / "features.f16", speeds=recipe.speeds, do_normalize=recipe.do_normalize)

    torch.manual_seed(recipe.seed)
    config = backbone.config.replace(
        use_weighted_layer_sum=True, id2label=dict(enumerate(speakers)), label2id={}, num_labels=len(speakers)
    ).replace(**recipe.head)
    model = UniSpeechSatForXVector(config)
    model.unispeech_sat.load_state_dict(backbone.state_dict())
    model.freeze_base_model()
    if recipe.backbone_learning_rate:
        model.unispeech_sat.feature_projection.requires_grad_(True)
        model.unispeech_sat.encoder.requires_grad_(True)
    _fit(model, store, [(speed, name) for speed in recipe.speeds for name in speakers], recipe, out, progress)

    model.eval()
    with writing(out / "model"), whole_folder(out / "model") as partial:
        model.save_pretrained(partial)
        save_json(asdict(recipe), partial / "recipe.json")
    (out / "features.f16").unlink()
    return out / "model"


@torch.no_grad()
def _start(model: UniSpeechSatForXVector, features: Tensor, lengths: Tensor) -> None:
    """Draw the head's weights so that every channel of every layer has mean 0 and variance 1 over a first batch.

    This follows Salimans & Kingma (2016), section 3. The reference draws weights with a standard deviation of 0.02, as
    transformers do; signals then die on their way through the TDNN. With He's rule all x-vectors begin in nearly the
    same direction, and the cosine sees nothing but the direction.
    """

    def standardize(layer: nn.Linear, out: Tensor) -> Tensor:
        std, mean = torch.std_mean(out.flatten(0, -2), 0)
        std = std.clamp(min=1e-6)
        layer.weight.div_(std[:, None])
        layer.bias.sub_(mean).div_(std)
        return (out - mean) / std

    linear = [model.projector, model.feature_extractor, model.classifier]
    tdnn = [layer for layer in model.tdnn if isinstance(layer, TDNNLayer)]
    for layer in (*linear, *(layer.kernel for layer in tdnn)):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    hooks = [layer.register_forward_hook(lambda layer, _, out: standardize(layer, out)) for layer in linear]
    hooks += [  # what enters an activation of the TDNN is what the kernel gave
        layer.activation.register_forward_pre_hook(lambda _, given, k=layer.kernel: standardize(k, given[0]))
        for layer in tdnn
    ]
    try:
        model.classifier(embed(model, features, lengths))
    finally:
        for hook in hooks:
            hook.remove()


def batches(
    store: FeatureStore, voices: list[tuple[float, str]], model: UniSpeechSatForXVector, recipe: XVectorRecipe
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Give batches without end: draw voices, an utterance of each and a crop of it; give features, lengths, labels."""
    of_voice = {voice: list[int]() for voice in voices}
    for row, voice in enumerate(store.voices):
        of_voice[voice].append(row)
    heard = [label for label, voice in enumerate(voices) if of_voice[voice]]
    rate = SAMPLE_RATE / model.config.inputs_to_logits_ratio  # frames a second
    draw = np.random.default_rng(recipe.seed)
    while True:
        frames = max(model.shortest_frames, int(rate * draw.uniform(recipe.shortest_seconds, recipe.longest_seconds)))
        labels = [int(label) for label in draw.choice(heard, min(recipe.batch_size, len(heard)), replace=False)]
        rows = [int(draw.choice(of_voice[voices[label]])) for label in labels]
        lengths = [min(frames, store.frames[row]) for row in rows]
        first = [int(draw.integers(store.frames[row] - length + 1)) for row, length in zip(rows, lengths, strict=True)]
        crops = [store.crop(*place) for place in zip(rows, first, lengths, strict=True)]
        features = nn.utils.rnn.pad_sequence(crops, batch_first=True).float()
        yield features, torch.tensor(lengths), torch.tensor(labels)


def _fit(
    model: UniSpeechSatForXVector,
    store: FeatureStore,
    voices: list[tuple[float, str]],
    recipe: XVectorRecipe,
    out: Path,
    progress: bool,
) -> None:
    """Take the steps, and write the log.

    ``voices`` are the classes: all speakers at the first speed, then all at the second, and so on.
    """
    speakers = model.config.num_labels
    model.objective = AMSoftmaxLoss(model.config.xvector_output_dim, len(voices), margin=recipe.margin)
    model.objective.reset_parameters()
    drawn = batches(store, voices, model, recipe)
    model.eval()
    _start(model, *next(drawn)[:2])
    model.train()
    model.unispeech_sat.train(recipe.backbone_learning_rate > 0)
    heads = [weight for name, weight in model.named_parameters() if not name.startswith(model.base_model_prefix)]
    peaks = [recipe.learning_rate, recipe.backbone_learning_rate]
    groups = [{"params": heads, "lr": peaks[0]}, {"params": [*model.unispeech_sat.parameters()], "lr": peaks[1]}]
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=recipe.steps + 1, pct_start=0.15)
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    _log(out / "train.csv", ["step", "loss", "accuracy"], "w")
    for step in tqdm(range(1, recipe.steps + 1), disable=not progress, desc="x-vector"):
        features, lengths, truth = next(drawn)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            logits = model.classifier(embed(model, features, lengths)).float()
        loss = model.objective(logits, truth)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 5.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 0 or step == recipe.steps:
            cosine = nn.functional.normalize(logits, dim=1) @ nn.functional.normalize(model.objective.weight, dim=0)
            right = (cosine.argmax(1) == truth).float().mean()
            _log(out / "train.csv", [step, f"{float(loss.detach()):.6g}", f"{float(right):.4f}"])
    # the classes of other speeds were there to learn from and name nobody
    model.objective.weight = nn.Parameter(model.objective.weight.detach()[:, :speakers].clone())


def _log(file: Path, row: list[Any], mode: str = "a") -> None:
    """Write a row of the log."""
    with writing(file), file.open(mode, newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerow(row)
