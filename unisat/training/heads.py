"""Training of heads on a pretrained model: a voice's vector, letters, who speaks when; the transformer may learn too.

Speech is decoded once and kept, in 16 bits, on the device that trains. Each step cuts a batch out of it there, changes
its channel if the recipe asks for that, and runs the whole model. The convolutions never learn.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from unisat.config import UniSpeechSatConfig
from unisat.corpus import Corpus
from unisat.feature_extraction import Wav2Vec2FeatureExtractor
from unisat.files import alone, remove_partial, save_json, whole_folder, writing
from unisat.frames import SAMPLE_RATE, hop, receptive_field, valid_positions
from unisat.heads import HeadModel, UniSpeechSatForAudioFrameClassification, UniSpeechSatForCTC, frame_loss
from unisat.model import UniSpeechSatModel
from unisat.outputs import XVectorOutput
from unisat.precision import check_bfloat16
from unisat.processing import Wav2Vec2Processor
from unisat.tokenization import Wav2Vec2CTCTokenizer
from unisat.training import resident
from unisat.training.augment import Augment, augment
from unisat.training.data import manifest, union
from unisat.training.recipe import check_sources
from unisat.xvector import AMSoftmaxLoss, TDNNLayer, UniSpeechSatForXVector

Clock = Callable[[], float]
"""Gives the share of the time that has gone; a training that has one ends when it gives 1."""

GRID = SAMPLE_RATE // 10
"""Batches are so many samples wide, or a multiple: Fourier transforms of few lengths without large prime factors."""


@dataclass
class HeadRecipe:
    """What the training of a head depends on.

    Attributes
    ----------
    out, model : str
        The folder to write to, and the folder of the pretrained model.
    train, valid : dict
        Sources of speech, as in `unisat.training.recipe.Data`: with speakers, and for CTC with a column ``text``. The
        head is judged on ``valid`` in the end (an x-vector is not).
    shortest_seconds, longest_seconds : float
        Shorter utterances are left out. The length of an x-vector's crops is drawn between the two, anew for each
        batch. CTC hears whole utterances, none longer than that. Mixtures of two speakers last that long at most.
    speeds : list of float
        The speeds at which the speech of an x-vector is heard; the first is 1. A voice at another speed counts as
        another speaker (Ko et al., 2015). The classes of these speakers are dropped in the end.
    batch_size : int
        The utterances in a batch, each of another speaker, or the mixtures.
    batch_seconds : float
        The audio in a batch of CTC, with its padding.
    steps, learning_rate, weight_decay
        Of AdamW. The learning rate takes one cycle: it rises to its value and falls to 0.
    backbone_learning_rate : float
        The learning rate of the transformer and the feature projection. With 0 they stay as they are.
    hearings : int
        If the backbone stays as it is: so many batches are heard, once, before the training of an x-vector, and their
        hidden states are kept in half precision. The steps then take these batches again and again, each time in a new
        order, and cost next to nothing. They take 2 bytes for each channel of each frame of each layer. With 0 each
        step hears a new batch.
    margin : float
        The margin of the AM-softmax.
    precision : {"no", "bf16"}
        The precision of the forward pass.
    augment : Augment
        How the channel of the training speech is changed.
    head : dict
        Fields of the model's config to change, ``tdnn_kernel`` for example. Frames are masked in training only if
        ``mask_time_prob`` is among them.
    """

    out: str
    model: str
    seed: int = 0
    train: dict[str, dict[str, Any]] = field(default_factory=dict)
    valid: dict[str, dict[str, Any]] = field(default_factory=dict)
    shortest_seconds: float = 1.0
    longest_seconds: float = 3.0
    speeds: list[float] = field(default_factory=lambda: [1.0])
    batch_size: int = 64
    batch_seconds: float = 100.0
    steps: int = 1000
    learning_rate: float = 1e-3
    backbone_learning_rate: float = 0.0
    hearings: int = 0
    margin: float = 0.4
    weight_decay: float = 0.01
    precision: str = "no"
    do_normalize: bool = True
    augment: Augment = field(default_factory=Augment)
    head: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("the recipe needs at least one source of speech under train.")
        check_sources(self.train, "train")
        check_sources(self.valid, "valid")
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
        if self.hearings < 0 or (self.hearings and self.backbone_learning_rate):
            raise ValueError(
                f"hearings={self.hearings} must be at least 0, and 0 where the backbone learns (backbone_learning_rate="
                f"{self.backbone_learning_rate}): states that are kept are those of a backbone that stays as it is."
            )
        if not self.speeds or self.speeds[0] != 1 or min(self.speeds) <= 0 or len({*self.speeds}) < len(self.speeds):
            raise ValueError(f"speeds={self.speeds} must be positive, each another one, and begin with 1.")
        if self.precision not in ("no", "bf16"):
            raise ValueError(f"precision={self.precision!r} must be 'no' or 'bf16'.")


class Speech:
    """The utterances of a recipe's sources, decoded once, in 16 bits on a device."""

    def __init__(self, corpus: Corpus, device: torch.device | str) -> None:
        store, self.starts = resident.decode(corpus)
        self.table, self.samples = corpus.table, np.diff(self.starts)
        self.store = store.to(device)

    def cut(
        self, rows: np.ndarray, first: np.ndarray, lengths: np.ndarray, samples: int, offsets: np.ndarray | int = 0
    ) -> Float[Tensor, "batch samples"]:
        """Give ``lengths`` samples of utterances from ``first`` on, with zeros behind and, ``offsets`` many, before."""
        numbers = np.stack([self.starts[rows] + first, lengths, np.broadcast_to(offsets, rows.shape)])
        begin, length, offset = torch.from_numpy(numbers).to(self.store.device)[..., None]
        place = torch.arange(samples, device=self.store.device) - offset
        waves = self.store[(begin + place).clamp(0, len(self.store) - 1)].float() / resident.FULL_SCALE
        return waves.masked_fill((place < 0) | (place >= length), 0)


def at_speed(waves: Float[Tensor, "batch samples"], samples: int) -> Float[Tensor, "batch fewer"]:
    """Resample to so many samples, by the spectrum, as if recorded at another rate: pitch and formants move too."""
    return torch.fft.irfft(torch.fft.rfft(waves), n=samples) * (samples / waves.shape[1])


@dataclass(frozen=True, eq=False)
class HeadBatch:
    """Waveforms (batch, samples), how many samples of each are real, and what the head is to say of them."""

    waves: Tensor
    lengths: Tensor
    truth: Tensor

    @property
    def mask(self) -> Int[Tensor, "batch samples"]:
        """1 on samples, 0 on padding."""
        return valid_positions(self.lengths, self.waves.shape[1]).long()


class Head:
    """What the training of a kind of head has of its own: its model, its batches, its loss and its judgement."""

    model_class: type[HeadModel]
    judged = True
    needs_speakers = True
    recalls = False
    """Whether it can learn from hidden states that were kept."""

    def __init__(self, recipe: HeadRecipe, config: UniSpeechSatConfig, device: torch.device) -> None:
        self.recipe, self.config, self.device = recipe, config, device
        self.speech = self.read(recipe.train)

    def read(self, sources: dict[str, dict[str, Any]]) -> Speech:
        """Read what is long enough."""
        found = union({name: manifest(**source) for name, source in sources.items()}).table
        if self.needs_speakers and found["speaker"].isna().any():
            nameless = found["id"][found["speaker"].isna()].tolist()
            raise ValueError(
                f"{len(nameless)} utterance(s) have no speaker, {nameless[:3]} among them; name or drop them."
            )
        table = self.kept(found[found["seconds"] >= self.recipe.shortest_seconds])
        if table.empty:
            text = "" if self.needs_speakers else ", and a column text"
            raise ValueError(f"no utterance of {[*sources]} has the length{text} that it needs; see shortest_seconds.")
        if self.needs_speakers and table["speaker"].nunique() < 2:
            raise ValueError(f"telling voices apart needs at least two speakers, got {[*table['speaker'].unique()]}.")
        return Speech(Corpus(table.reset_index(drop=True)), self.device)

    def kept(self, table: pd.DataFrame) -> pd.DataFrame:
        """Leave out rows of a table of utterances that cannot be used."""
        return table

    def fields(self) -> dict[str, Any]:
        """Give the fields of the config that the head needs."""
        return {}

    def begin(self, model: Any, batch: HeadBatch) -> None:
        """Prepare the head for training."""

    def batches(self, speech: Speech, draw: np.random.Generator) -> Iterator[HeadBatch]:
        """Give batches without end."""
        raise NotImplementedError

    def recalled(self, model: Any, states: list[Tensor], lengths: Tensor) -> Any:
        """Give the model's output for hidden states that were kept, and how many frames of each are real."""
        raise NotImplementedError

    def loss(self, model: Any, output: Any, batch: HeadBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Give the loss, and other numbers for the log."""
        raise NotImplementedError

    def judge(self, model: Any, speech: Speech) -> dict[str, float]:
        """Give what the head is worth."""
        raise NotImplementedError

    def finish(self, model: Any) -> None:
        """Take off what was there only to learn from."""

    def save(self, model: Any, folder: Path) -> None:
        """Write the model and what else it needs."""
        model.save_pretrained(folder)

    def autocast(self) -> torch.autocast:
        """Compute in the recipe's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def normalized(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """Bring each to mean 0 and variance 1, if the recipe says so."""
        valid = valid_positions(lengths, waves.shape[1])
        return resident.normalized(waves, lengths, valid) if self.recipe.do_normalize else waves


class XVector(Head):
    """A vector for a voice, trained with AM-softmax.

    For each batch speakers are drawn uniformly, then an utterance of each, then a crop.
    """

    model_class = UniSpeechSatForXVector
    judged = False
    recalls = True

    def __init__(self, recipe: HeadRecipe, config: UniSpeechSatConfig, device: torch.device) -> None:
        super().__init__(recipe, config, device)
        self.speakers = sorted(self.speech.table["speaker"].unique())

    def fields(self) -> dict[str, Any]:
        """Give a class to each speaker."""
        names = dict(enumerate(self.speakers))
        return {"use_weighted_layer_sum": True, "id2label": names, "label2id": {}, "num_labels": len(names)}

    def batches(self, speech: Speech, draw: np.random.Generator) -> Iterator[HeadBatch]:
        """Give crops of as many voices; the classes are all speakers at the first speed, then at the second, etc."""
        recipe, rows_of = self.recipe, speech.table.groupby("speaker").indices
        speeds = np.array(recipe.speeds)
        while True:
            seconds = draw.uniform(recipe.shortest_seconds, recipe.longest_seconds)
            samples = GRID * max(1, round(SAMPLE_RATE * seconds / GRID))
            voices = len(speeds) * len(self.speakers)
            labels = draw.choice(voices, min(recipe.batch_size, voices), replace=False)
            rows = np.array([draw.choice(rows_of[self.speakers[label % len(self.speakers)]]) for label in labels])
            which = labels // len(self.speakers)
            lengths = np.minimum(samples, speech.samples[rows] // speeds[which]).astype(int)
            read = np.minimum(speech.samples[rows], np.ceil(lengths * speeds[which]).astype(int))
            first = draw.integers(speech.samples[rows] - read + 1)
            waves = torch.zeros(len(rows), samples, device=self.device)
            for number in np.unique(which):
                chosen, speed = np.flatnonzero(which == number), speeds[number]
                width = round(samples * speed)
                crops = speech.cut(rows[chosen], first[chosen], np.minimum(read[chosen], width), width)
                heard = crops if speed == 1 else at_speed(crops, samples)
                waves[torch.from_numpy(chosen).to(self.device)] = heard
            length = torch.from_numpy(lengths).to(self.device)
            waves = waves.masked_fill(~valid_positions(length, samples), 0)  # resampling rings a little
            truth = torch.from_numpy(labels).to(self.device)
            yield HeadBatch(self.normalized(waves, length), length, truth)

    @torch.no_grad()
    def begin(self, model: UniSpeechSatForXVector, batch: HeadBatch) -> None:
        """Draw the head's weights so that each channel of each layer has mean 0 and variance 1 over a first batch.

        This follows Salimans & Kingma (2016), section 3. The reference draws weights with a standard deviation of 0.02,
        as transformers do; signals then die on their way through the TDNN. With He's rule all x-vectors begin in nearly
        the same direction, and the cosine sees nothing but the direction.
        """
        classes = len(self.speakers) * len(self.recipe.speeds)
        model.objective = AMSoftmaxLoss(model.config.xvector_output_dim, classes, margin=self.recipe.margin)
        model.objective.reset_parameters()
        model.objective.to(self.device)

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
            model(batch.waves, batch.mask)
        finally:
            for hook in hooks:
                hook.remove()

    def recalled(self, model: UniSpeechSatForXVector, states: list[Tensor], lengths: Tensor) -> XVectorOutput:
        """Give the output without the backbone's work."""
        embeddings = model.embed(model.weigh(states), lengths)
        return XVectorOutput(None, model.classifier(embeddings), embeddings)

    def loss(self, model: UniSpeechSatForXVector, output: Any, batch: HeadBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """AM-softmax, and the share of the batch whose nearest class is the right one."""
        logits = output.logits.float()
        with torch.no_grad():
            cosine = nn.functional.normalize(logits, dim=1) @ nn.functional.normalize(model.objective.weight, dim=0)
            right = (cosine.argmax(1) == batch.truth).float().mean()
        return model.objective(logits, batch.truth), {"accuracy": right}

    def finish(self, model: UniSpeechSatForXVector) -> None:
        """Drop the classes of other speeds: they were there to learn from and name nobody."""
        model.objective.weight = nn.Parameter(model.objective.weight.detach()[:, : len(self.speakers)].clone())


LETTERS = ["<pad>", "<s>", "</s>", "<unk>", *"|ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
"""The vocabulary of the reference's English models; the first is the blank."""


def spelled(text: Any) -> str:
    """Give a transcript in the letters of the vocabulary, A to Z and the apostrophe, with single spaces."""
    return re.sub("[^A-Z']+", " ", text.upper().replace("’", "'")).strip() if isinstance(text, str) else ""


def edits(one: Sequence[str], other: Sequence[str]) -> int:
    """Count the insertions, deletions and substitutions that make one sequence the other (Levenshtein, 1966)."""
    row = [*range(len(other) + 1)]
    for number, part in enumerate(one, 1):
        before, row[0] = row[0], number
        for place, same in enumerate(other, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (part != same))
    return row[-1]


class CTC(Head):
    """Letters. Whole utterances are heard, those of about the same length together."""

    model_class = UniSpeechSatForCTC
    needs_speakers = False

    def __init__(self, recipe: HeadRecipe, config: UniSpeechSatConfig, device: torch.device) -> None:
        self.tokenizer = Wav2Vec2CTCTokenizer({letter: number for number, letter in enumerate(LETTERS)})
        super().__init__(recipe, config, device)

    def kept(self, table: pd.DataFrame) -> pd.DataFrame:
        """Keep what has a transcript and is not too long."""
        table = table.assign(text=[spelled(text) for text in table.get("text", [None] * len(table))])
        return table[(table["text"] != "") & (table["seconds"] <= self.recipe.longest_seconds)]

    def fields(self) -> dict[str, Any]:
        """Give the vocabulary; an utterance that is too fast for its text is left out of the loss."""
        tokens = {"vocab_size": len(LETTERS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        return {**tokens, "ctc_zero_infinity": True, "ctc_loss_reduction": "mean"}

    def plan(self, speech: Speech, draw: np.random.Generator) -> list[np.ndarray]:
        """Deal all utterances to batches, in an order of its own each time."""
        order = np.argsort(-speech.samples * draw.uniform(0.9, 1.1, len(speech.samples)))
        most, found, longest = self.recipe.batch_seconds * SAMPLE_RATE, list[list[int]](), 0
        for row in order.tolist():
            longest = max(longest, int(speech.samples[row]))
            if not found or (len(found[-1]) + 1) * longest > most:
                found.append([])
                longest = int(speech.samples[row])
            found[-1].append(row)
        return [np.array(found[number]) for number in draw.permutation(len(found))]

    def batch(self, speech: Speech, rows: np.ndarray, speed: float = 1.0) -> HeadBatch:
        """Give utterances at a speed, and their letters, -100 behind them."""
        samples = GRID * math.ceil(speech.samples[rows].max() / speed / GRID)
        waves = speech.cut(rows, np.zeros_like(rows), speech.samples[rows], round(samples * speed))
        lengths = torch.from_numpy((speech.samples[rows] / speed).astype(np.int64)).to(self.device)
        if speed != 1:
            waves = at_speed(waves, samples).masked_fill(~valid_positions(lengths, samples), 0)
        ids = [torch.tensor(self.tokenizer.encode(speech.table["text"].iloc[row])) for row in rows]
        truth = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-100).to(self.device)
        return HeadBatch(self.normalized(waves, lengths), lengths, truth)

    def batches(self, speech: Speech, draw: np.random.Generator) -> Iterator[HeadBatch]:
        """Give all utterances, then all again, each batch at one of the speeds."""
        while True:
            for rows in self.plan(speech, draw):
                yield self.batch(speech, rows, float(draw.choice(self.recipe.speeds)))

    def loss(self, model: UniSpeechSatForCTC, output: Any, batch: HeadBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """CTC loss, in nats a letter."""
        return model.loss(output.logits, batch.truth, output.lengths), {}

    @torch.no_grad()
    def judge(self, model: UniSpeechSatForCTC, speech: Speech) -> dict[str, float]:
        """Read everything greedily; give edits for each letter (spaces count) and for each word, silence gives 1."""
        wrong, letters, wrong_words, words = 0, 0, 0, 0
        for rows in self.plan(speech, np.random.default_rng(0)):
            batch = self.batch(speech, rows)
            output = model(batch.waves, batch.mask)
            ids = output.logits.argmax(-1).tolist()
            for row, line, length in zip(rows, ids, output.lengths.tolist(), strict=True):
                said, heard = speech.table["text"].iloc[row], self.tokenizer.decode(line[:length])
                wrong, letters = wrong + edits(said, heard), letters + len(said)
                wrong_words, words = wrong_words + edits(said.split(), heard.split()), words + len(said.split())
        rates = {"character_error": wrong / letters, "word_error": wrong_words / words}
        return {**rates, "characters": letters, "utterances": len(speech.samples)}

    def save(self, model: UniSpeechSatForCTC, folder: Path) -> None:
        """Write the model, the vocabulary and how sound is prepared."""
        super().save(model, folder)
        extractor = Wav2Vec2FeatureExtractor(do_normalize=self.recipe.do_normalize, return_attention_mask=True)
        Wav2Vec2Processor(extractor, self.tokenizer).save_pretrained(folder)


AUDIBLE_DB = 30.0
"""A frame counts as speech if it is no more than so much weaker than the strongest frame of its utterance."""
LEVEL_DB = 5.0
"""The second voice of a mixture is up to so much weaker or stronger than the first."""


class Diarization(Head):
    """Who of two speaks when, in mixtures that are made as they are needed."""

    model_class = UniSpeechSatForAudioFrameClassification

    def fields(self) -> dict[str, Any]:
        """Give a class to each of two voices, whose order means nothing."""
        return {"use_weighted_layer_sum": True, "id2label": {0: "one", 1: "other"}, "label2id": {}, "num_labels": 2}

    def active(self, waves: Float[Tensor, "batch samples"]) -> Bool[Tensor, "batch frames"]:
        """Find the frames of single voices in which there is speech."""
        config = self.config
        size, step = receptive_field(config.conv_kernel, config.conv_stride), hop(config.conv_stride)
        power = waves.square().unfold(1, size, step).mean(-1)
        return power > power.max(1, keepdim=True).values * 10 ** (-AUDIBLE_DB / 10)

    def mixtures(self, speech: Speech, draw: np.random.Generator, count: int) -> HeadBatch:
        """Mix utterances of two speakers each: while the first speaks, the second begins."""
        rows_of = [*speech.table.groupby("speaker").indices.values()]
        pairs = [draw.choice(len(rows_of), 2, replace=False) for _ in range(count)]
        one, other = np.array([[draw.choice(rows_of[speaker]) for speaker in pair] for pair in pairs]).T
        samples = int(self.recipe.longest_seconds * SAMPLE_RATE)
        length = np.minimum(samples, speech.samples[one])
        offset = (draw.random(count) * np.minimum(length, 0.8 * samples)).astype(int)
        left = np.minimum(samples - offset, speech.samples[other])
        first = [draw.integers(speech.samples[rows] - size + 1) for rows, size in ((one, length), (other, left))]
        voices = torch.stack(
            [speech.cut(one, first[0], length, samples), speech.cut(other, first[1], left, samples, offset)]
        )
        level = 10 ** (draw.uniform(-LEVEL_DB, LEVEL_DB, count) / 20)
        power = np.stack([length, left / level**2])[..., None]  # what the sum of squares is to be
        scale = torch.from_numpy(power).to(voices) / voices.square().sum(-1, keepdim=True).clamp(min=1e-9)
        voices = voices * scale.sqrt()
        lengths = torch.from_numpy(np.maximum(length, offset + left)).to(self.device)
        truth = torch.stack([self.active(voice) for voice in voices], -1).float()
        return HeadBatch(self.normalized(voices.sum(0), lengths), lengths, truth)

    def batches(self, speech: Speech, draw: np.random.Generator) -> Iterator[HeadBatch]:
        """Give mixtures without end."""
        while True:
            yield self.mixtures(speech, draw, self.recipe.batch_size)

    def loss(
        self, model: UniSpeechSatForAudioFrameClassification, output: Any, batch: HeadBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Permutation-invariant cross-entropy, and the share of decisions that are wrong."""
        wrong, decisions = frame_errors(output.logits > 0, batch.truth > 0, output.valid)
        return frame_loss(output.logits, batch.truth, output.valid, "pit"), {"frame_error": wrong / decisions}

    @torch.no_grad()
    def judge(self, model: UniSpeechSatForAudioFrameClassification, speech: Speech) -> dict[str, float]:
        """Give the share of wrong decisions over 256 mixtures, and of the best constant answer to all of them."""
        draw = np.random.default_rng(0)
        counts = torch.zeros(5, dtype=torch.float64)
        for _ in range(16):
            batch = self.mixtures(speech, draw, 16)
            output = model(batch.waves, batch.mask)
            truth = batch.truth > 0
            answers = [output.logits > 0]
            answers += [torch.tensor(always, device=self.device).expand_as(truth) for always in CONSTANT]
            found = [frame_errors(answer, truth, output.valid) for answer in answers]
            counts += torch.stack([*(wrong for wrong, _ in found), found[0][1]]).cpu()
        error, *constant = (counts[:-1] / counts[-1]).tolist()
        return {"frame_error": error, "frame_error_constant": min(constant), "frame_error_nobody": constant[0]}


CONSTANT = ((False, False), (True, False), (True, True))
"""Answers that hear nothing: nobody speaks, one does, both do."""


def frame_errors(
    said: Bool[Tensor, "batch frames 2"], truth: Bool[Tensor, "batch frames 2"], valid: Bool[Tensor, "batch frames"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Count wrong decisions, of each utterance in the better order of its two voices, and all decisions."""
    orders = torch.stack([(said != truth) & valid[..., None], (said.flip(-1) != truth) & valid[..., None]])
    return orders.sum((2, 3)).min(0).values.sum().float(), 2.0 * valid.sum()


KINDS: dict[str, type[Head]] = {"xvector": XVector, "ctc": CTC, "diarization": Diarization}
"""The heads by the name of their command."""


def train(kind: str, recipe: HeadRecipe, *, progress: bool = True, clock: Clock | None = None) -> Path:
    """Train a head, and the transformer if it is to learn; give ``<out>/model``, one checkpoint with both.

    The log is ``<out>/train.csv``; what the head is worth in the end is in ``<out>/valid.csv``.

    Parameters
    ----------
    kind : {"xvector", "ctc", "diarization"}
        Which head.
    recipe : HeadRecipe
        What it depends on.
    progress : bool
        Whether to show a bar.
    clock : callable, optional
        With one, the training ends when it gives 1, whatever the recipe's ``steps``.

    Raises
    ------
    ValueError
        If there are fewer than two speakers, or utterances without one, or nothing to learn from, or if ``hearings``
        are asked for with another head than an x-vector's.
    OSError
        If another run is at work in ``<out>``, or its disk is full.
    """
    if recipe.hearings and not KINDS[kind].recalls:
        raise ValueError(
            f"hearings={recipe.hearings}: only the training of an x-vector keeps hidden states, not that of {kind}; "
            "leave it out."
        )
    out = Path(recipe.out)
    with alone(out):
        remove_partial(out)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        backbone = UniSpeechSatModel.from_pretrained(recipe.model)
        if recipe.precision == "bf16":
            check_bfloat16(device)
        head = KINDS[kind](recipe, backbone.config, device)
        torch.manual_seed(recipe.seed)
        model = head.model_class(_config(head))
        model.base_model.load_state_dict(backbone.state_dict())
        model.freeze_base_model()
        if recipe.backbone_learning_rate:
            model.base_model.requires_grad_(True)
            model.freeze_feature_encoder()
        model.to(device)
        steps = _fit(model, head, progress, clock)
        model.eval()
        if head.judged and recipe.valid:
            found = head.judge(model, head.read(recipe.valid))
            _log(out / "valid.csv", ["step", *found], "w")
            _log(out / "valid.csv", [steps, *(f"{value:.6g}" for value in found.values())])
        head.finish(model)
        with writing(out / "model"), whole_folder(out / "model") as partial:
            head.save(model, partial)
            save_json(asdict(replace(recipe, steps=steps)), partial / "recipe.json")
    return out / "model"


def _config(head: Head) -> UniSpeechSatConfig:
    """Give the config of the whole model; the masks of pretraining are not for those who learn to read."""
    masked = "mask_time_prob" in head.recipe.head
    return head.config.replace(apply_spec_augment=masked, **head.fields()).replace(**head.recipe.head)


def _fit(model: HeadModel, head: Head, progress: bool, clock: Clock | None) -> int:
    """Take the steps, and write the log; give their number."""
    recipe, out = head.recipe, Path(head.recipe.out)
    batches = head.batches(head.speech, np.random.default_rng(recipe.seed))
    model.eval()
    head.begin(model, next(batches))
    model.train()
    model.base_model.train(recipe.backbone_learning_rate > 0)
    own = [weight for name, weight in model.named_parameters() if not name.startswith(model.base_model_prefix)]
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    peaks = [recipe.learning_rate, recipe.backbone_learning_rate]
    groups = [{"params": own}, {"params": [*model.base_model.parameters()]}]
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    answers = (_recall if recipe.hearings else _hear)(model, head, batches)
    step, skipped, bar = 0, 0, tqdm(total=recipe.steps, disable=not progress, desc=type(head).__name__)
    while (share := clock() if clock else step / recipe.steps) < 1:
        step += 1
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * one_cycle(share)
        batch, output = next(answers)
        loss, numbers = head.loss(model, output, batch)
        optimizer.zero_grad()
        loss.backward()
        if torch.isfinite(nn.utils.clip_grad_norm_(learning, 5.0)):
            optimizer.step()
        else:
            skipped += 1
        if step == 1:
            _log(out / "train.csv", ["step", "loss", *numbers, "skipped"], "w")
        if step == 1 or step % 10 == 0 or step == recipe.steps:
            told = [f"{float(value.detach()):.6g}" for value in (loss, *numbers.values())]
            _log(out / "train.csv", [step, *told, skipped])
        bar.update()
    return step


def _heard(head: Head, batches: Iterator[HeadBatch]) -> Iterator[tuple[HeadBatch, Tensor]]:
    """Give batches and what is heard of them, through other channels."""
    channel = torch.Generator(head.device).manual_seed(head.recipe.seed)
    for batch in batches:
        yield batch, augment(batch.waves, head.recipe.augment, generator=channel, lengths=batch.lengths)


def _hear(model: HeadModel, head: Head, batches: Iterator[HeadBatch]) -> Iterator[tuple[HeadBatch, Any]]:
    """Give batches and the model's output for them."""
    for batch, waves in _heard(head, batches):
        with head.autocast():
            output = model(waves, batch.mask)
        yield batch, output


def _recall(model: HeadModel, head: Head, batches: Iterator[HeadBatch]) -> Iterator[tuple[HeadBatch, Any]]:
    """Run the backbone on a number of batches; then give these again and again, and what the head makes of them."""
    kept = []
    for batch, waves in islice(_heard(head, batches), head.recipe.hearings):
        with torch.no_grad(), head.autocast():
            output = model.base_model(waves, batch.mask, output_hidden_states=True)
        states = [state.half() for state in output.hidden_states]
        kept.append((replace(batch, waves=waves[:, :0].clone()), states, output.lengths))
    draw = np.random.default_rng(head.recipe.seed)
    while True:
        for place in draw.permutation(len(kept)):
            batch, states, lengths = kept[place]
            with head.autocast():
                output = head.recalled(model, [state.float() for state in states], lengths)
            yield batch, output


def one_cycle(share: float, rising: float = 0.15) -> float:
    """Give the learning rate as a share of its peak: it rises from 1/25 to 1, then falls to 0, along half cosines."""
    if share < rising:
        return 1 - (1 - 1 / 25) * (1 + math.cos(math.pi * share / rising)) / 2
    return (1 + math.cos(math.pi * (share - rising) / (1 - rising))) / 2


def _log(file: Path, row: list[Any], mode: str = "a") -> None:
    """Write a row of the log."""
    with writing(file), file.open(mode, newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerow(row)
