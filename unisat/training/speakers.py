"""A speaker embedding on a pretrained model: the x-vector head, trained on hidden states that stay as they are.

The backbone is frozen, so its hidden states are computed once, kept on the disk in half precision, and a step of
training reads crops of them: minutes on a laptop, and the same backbone serves both checkpoints.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from unisat import audio
from unisat.config import nearest
from unisat.corpus import Corpus
from unisat.model import UniSpeechSatModel
from unisat.training.checkpoints import whole_folder
from unisat.training.data import manifest, union
from unisat.training.recipe import apply, check_types
from unisat.xvector import UniSpeechSatForXVector


@dataclass
class XVectorRecipe:
    """What the training of a speaker embedding depends on.

    Attributes
    ----------
    out, model : str
        Folder to write to; folder of the pretrained model.
    train : dict
        Sources of speech with speakers, as in `unisat.training.recipe.Data`.
    shortest_seconds, longest_seconds : float
        Crops have a length drawn anew for each batch, in between.
    batch_size, steps, learning_rate, weight_decay
        Utterances in a batch, each of another speaker; AdamW with a straight line down to 0.
    input_dropout : float
        Dropout on the weighted sum of the layers.
    head : dict
        Fields of the model's config to change, ``tdnn_kernel`` for example.
    """

    out: str
    model: str
    seed: int = 0
    train: dict[str, dict[str, Any]] = field(default_factory=dict)
    shortest_seconds: float = 1.0
    longest_seconds: float = 3.0
    batch_size: int = 64
    steps: int = 1000
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    input_dropout: float = 0.0
    do_normalize: bool = True
    head: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("the recipe needs at least one source of speech under train.")
        if not 0 < self.shortest_seconds <= self.longest_seconds:
            raise ValueError(
                f"shortest_seconds={self.shortest_seconds} and longest_seconds={self.longest_seconds} must be positive "
                "and in order."
            )
        if min(self.batch_size, self.steps) < 1:
            raise ValueError(f"batch_size={self.batch_size} and steps={self.steps} must be at least 1.")


def read(path: str | Path, changes: Mapping[str, Any] | None = None) -> XVectorRecipe:
    """Read a recipe from TOML; ``changes`` are names with new values."""
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}.") from error
    values = apply(values, changes or {})
    known = [item.name for item in fields(XVectorRecipe)]
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"a recipe has no key {unknown[0]}{nearest(unknown[0], known)}.")
    if missing := [name for name in ("out", "model") if name not in values]:
        raise ValueError(f"a recipe needs the key(s) {', '.join(missing)}.")
    check_types(XVectorRecipe, values, "")
    return XVectorRecipe(**values)


class HiddenStore:
    """All hidden states of a corpus, (frames, layers + 1, hidden) in float16, in a memory-mapped file."""

    def __init__(self, model: UniSpeechSatModel, corpus: Corpus, file: Path, *, do_normalize: bool = True) -> None:
        self.starts, self.frames = list[int](), list[int]()
        self.speakers: list[str] = []
        config = model.config
        file.parent.mkdir(parents=True, exist_ok=True)
        total = 0
        with file.open("wb") as written:
            for row in tqdm(corpus.table.itertuples(), total=len(corpus), desc="hidden states"):
                waveform = audio.load(row.path)
                if len(waveform) < config.receptive_field:
                    continue
                values = (audio.normalize(waveform) if do_normalize else waveform)[None].to(model.device)
                with torch.inference_mode():
                    states = model(values, output_hidden_states=True).hidden_states
                stack = torch.stack(states, dim=2)[0].half().cpu().numpy()  # (frames, layers + 1, hidden)
                stack.tofile(written)
                self.starts.append(total)
                self.frames.append(len(stack))
                self.speakers.append(row.speaker)
                total += len(stack)
        shape = (total, config.num_hidden_layers + 1, config.hidden_size)
        self.states = np.memmap(file, np.float16, "r", shape=shape)

    def crop(self, utterance: int, first: int, frames: int) -> Tensor:
        """Give (frames, layers + 1, hidden) of an utterance, from frame ``first`` on."""
        start = self.starts[utterance] + first
        return torch.from_numpy(np.array(self.states[start : start + frames]))


def train(recipe: XVectorRecipe, *, progress: bool = True) -> Path:
    """Train the head; give ``<out>/model`` with the backbone and the head in one checkpoint.

    Speakers are drawn uniformly for each batch, then an utterance of each, then a crop. The log is ``<out>/train.csv``.

    Raises
    ------
    ValueError
        If there are fewer than two speakers, or utterances without one.
    """
    corpus = union({name: manifest(**source) for name, source in recipe.train.items()})
    if corpus.table["speaker"].isna().any():
        nameless = corpus.table["id"][corpus.table["speaker"].isna()].tolist()
        raise ValueError(f"{len(nameless)} utterance(s) have no speaker, {nameless[:3]} among them; name or drop them.")
    speakers = sorted(corpus.table["speaker"].unique())
    if len(speakers) < 2:
        raise ValueError(f"telling voices apart needs at least two speakers, got {speakers}.")
    out = Path(recipe.out)
    backbone = UniSpeechSatModel.from_pretrained(recipe.model)
    store = HiddenStore(backbone, corpus, out / "hidden.f16", do_normalize=recipe.do_normalize)

    torch.manual_seed(recipe.seed)
    config = backbone.config.replace(
        use_weighted_layer_sum=True, id2label=dict(enumerate(speakers)), label2id={}, num_labels=len(speakers)
    ).replace(**recipe.head)
    model = UniSpeechSatForXVector(config)
    _start(model)
    model.unispeech_sat.load_state_dict(backbone.state_dict())
    model.freeze_base_model()
    model.train()
    model.unispeech_sat.eval()
    _fit(model, store, speakers, recipe, out, progress)

    model.eval()
    with whole_folder(out / "model") as partial:
        model.save_pretrained(partial)
        (partial / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2), encoding="utf-8")
    (out / "hidden.f16").unlink()
    return out / "model"


def _start(model: UniSpeechSatForXVector) -> None:
    """Draw the head's weights so that signals keep their size (He et al., 2015).

    The reference's 0.02, meant for transformers, lets them die on their way through the TDNN: after 200 steps the loss
    has not moved.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and not name.startswith(model.base_model_prefix):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            torch.nn.init.zeros_(layer.bias)


def _fit(
    model: UniSpeechSatForXVector,
    store: HiddenStore,
    speakers: list[str],
    recipe: XVectorRecipe,
    out: Path,
    progress: bool,
) -> None:
    """Take the steps, and write the log."""
    of_speaker = [[row for row, name in enumerate(store.speakers) if name == speaker] for speaker in speakers]
    heads = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(heads, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / recipe.steps, recipe.steps)
    rate = 16_000 / model.config.inputs_to_logits_ratio  # frames a second
    dropout = torch.nn.Dropout(recipe.input_dropout)
    draw = np.random.default_rng(recipe.seed)
    with (out / "train.csv").open("w", newline="", encoding="utf-8") as lines:
        log = csv.writer(lines)
        log.writerow(["step", "loss", "accuracy"])
        for step in tqdm(range(1, recipe.steps + 1), disable=not progress, desc="x-vector"):
            frames = max(
                model.shortest_frames, int(rate * draw.uniform(recipe.shortest_seconds, recipe.longest_seconds))
            )
            drawn = draw.choice(len(speakers), min(recipe.batch_size, len(speakers)), replace=False)
            labels = [int(label) for label in drawn if of_speaker[label]]
            rows = [int(draw.choice(of_speaker[label])) for label in labels]
            lengths = [min(frames, store.frames[row]) for row in rows]
            first = [
                int(draw.integers(store.frames[row] - length + 1)) for row, length in zip(rows, lengths, strict=True)
            ]
            crops = [store.crop(*place) for place in zip(rows, first, lengths, strict=True)]
            hidden = torch.nn.utils.rnn.pad_sequence(crops, batch_first=True).float()
            embeddings = model.embed(dropout(model.weigh(hidden.unbind(2))), torch.tensor(lengths))
            logits, truth = model.classifier(embeddings), torch.tensor(labels)
            loss = model.objective(logits, truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 10 == 0 or step == recipe.steps:
                cosine = torch.nn.functional.normalize(logits, dim=1) @ torch.nn.functional.normalize(
                    model.objective.weight, dim=0
                )
                right = (cosine.argmax(1) == truth).float().mean()
                log.writerow([step, f"{float(loss.detach()):.6g}", f"{float(right):.4f}"])
