"""One small example of every widget: how it is made, where each control goes, and what it refuses."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch
from conftest import shuffled, small_config

import unisat as us
from unisat.interpret.features.bank import FeatureBank


@cache
def noise():
    """Utterances of 148, 61 and 29 frames of the small front end, by two speakers."""
    generator = torch.Generator().manual_seed(0)
    waves = [0.2 * torch.randn(samples, generator=generator) for samples in (9_600, 4_000, 2_000)]
    return us.Batch.from_arrays(waves, sampling_rate=16_000, ids=["amy <1>", "bob", "cat"])


@cache
def model():
    """Three layers of width 16."""
    return shuffled(us.UniSpeechSatModel(small_config()))


@cache
def deep():
    """What a model of eleven such layers computes in three of them, whose names stand in another order as numbers."""
    eleven = shuffled(us.UniSpeechSatModel(small_config(num_hidden_layers=11)))
    return us.run(
        eleven, noise(), "hidden.10", "hidden.0", "hidden.2", "block.10.attn.pattern", "block.2.attn.pattern"
    )[1]


@cache
def pretraining(**changes):
    """The same size with a quantizer, 12 clusters and the objective."""
    torch.manual_seed(0)
    return us.UniSpeechSatForPreTraining(small_config(mask_time_prob=0.5, mask_time_length=4, **changes)).eval()


@cache
def pretraining_trace(*sites):
    """What that model computes of `noise`."""
    return us.run(pretraining(), noise(), *sites)[1]


@cache
def trace(*sites):
    """What the small model computes of `noise`."""
    return us.run(model(), noise(), *sites)[1]


@cache
def voices(people=5, said=4):
    """Features of utterances in three layers: the first knows speakers, the last sentences."""
    draw = np.random.default_rng(0)
    who, what = np.repeat(np.arange(people), said), np.tile(np.arange(said), people)
    speakers, sentences = draw.standard_normal((people, 10)), draw.standard_normal((said, 10))
    arrays = {
        f"hidden.{layer}": (1 - layer / 2) * speakers[who]
        + layer / 2 * sentences[what]
        + 0.7 * draw.standard_normal((len(who), 10))
        for layer in range(3)
    }
    table = pd.DataFrame({"speaker": [f"s{code}" for code in who], "sentence": [f"t{code}" for code in what]})
    table["id"] = table["speaker"] + table["sentence"]
    return FeatureBank.from_arrays(table, arrays)


@cache
def clips():
    """Twenty-four utterances, six by each of four speakers."""
    generator = torch.Generator().manual_seed(1)
    waves = [0.2 * torch.randn(1_200 + 30 * row, generator=generator) for row in range(24)]
    ids, speaker = [f"u{row:02}" for row in range(24)], [f"s{row // 6}" for row in range(24)]
    return us.Batch.from_arrays(waves, sampling_rate=16_000, ids=ids, speaker=speaker)


@cache
def collected():
    """Means of the small model's layers over `clips`, of which each speaker says six sentences."""
    bank = us.collect(model(), clips(), ["hidden.1", "hidden.3"], progress=False)
    bank.table["sentence"] = [f"t{row % 6}" for row in range(24)]
    return bank


def upload(samples, rate=16_000, name="me.wav", **options):
    """What the page sends of a file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", **options)
    return {"name": name, "size": file.tell(), "content": file.getvalue()}


def tone(hertz):
    """A fifth of a second of a tone."""
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(3_200) / 16_000)


SAID = us.Segments(
    pd.DataFrame(
        [
            ("amy <1>", "phone", 0.1, 0.3, "<1>"),
            ("bob", "phone", 0.02, 0.10, "S"),
            ("bob", "phone", 0.10, 0.18, "IY"),
            ("bob", "phone", 0.20, 0.24, "$T$"),
            ("bob", "word", 0.02, 0.24, "see"),
            ("somebody else", "phone", 0.0, 1.0, "AA"),
        ],
        columns=["id", "tier", "start", "end", "label"],
    )
)
LETTER = {"name": "a.txt", "size": 3, "content": b"abc"}
HISTORY = pd.DataFrame(
    {
        "step": [10, 20, 30, 40],
        "temperature": [2.0, 1.0, 0.5, 0.5],
        "prob_perplexity_0": [7.0, 6.5, 6.0, 5.0],
        "code_perplexity_0": [6.0, 5.0, 4.0, 3.0],
        "prob_perplexity_1": [2.0, 2.0, 2.0, 2.0],
        "code_perplexity_1": [1.5, 1.4, 1.3, 1.2],
    }
)


@dataclass(frozen=True)
class Case:
    """A widget to be tried.

    Attributes
    ----------
    make : callable
        Gives the widget.
    moves : dict
        For each control another value, which shows something else.
    start : dict
        Values to begin from, where those of the new widget do not show what every control does.
    mistakes : tuple of (dict, str)
        Values that cannot be shown, and what the widget says of them.
    refused : (callable, str), optional
        Makes the widget with arguments that do not belong together, and what it says of them.
    """

    make: Callable[[], Any]
    moves: dict[str, Any]
    start: dict[str, Any] = field(default_factory=dict)
    mistakes: tuple[tuple[dict[str, Any], str], ...] = ()
    refused: tuple[Callable[[], Any], str] | None = None


MASKS = small_config(mask_time_prob=0.4, mask_time_length=5, mask_feature_prob=0.2, mask_feature_length=2)
SHORT = us.Batch.from_arrays(
    [wave[:end] for wave, end in zip(noise().waveforms, (3_000, 1_500, 147), strict=True)], sampling_rate=16_000
)
TOO_LONG = us.Batch.from_arrays(
    [*noise().waveforms[:2], torch.linspace(-1, 1, 16_000 * 61)], sampling_rate=16_000, ids=["amy <1>", "bob", "long"]
)
CASES = {
    "attention": Case(
        lambda: us.widgets.attention(trace("block.*.attn.pattern"), noise(), utterance=1),
        {"layer": 2, "head": 1, "seconds": (0.1, 0.2), "query": 0.04, "order": "distance", "utterance": 0},
        mistakes=(({"seconds": (0.2, 0.2)}, "no frame lies in 0.20 to 0.20 s; widen the range."),),
        refused=(lambda: us.widgets.attention(trace("hidden.*")), "but no attention patterns; capture them with"),
    ),
    "layer_weights": Case(
        lambda: us.widgets.layer_weights(voices(), np.log([0.2, 0.5, 0.3])),
        {"start from": "only hidden.2", "hidden.0": 0.9, "hidden.1": 0.1, "hidden.2": 1.0},
        mistakes=(({f"hidden.{k}": 0.0 for k in range(3)}, "all layers are at 0, which leaves nothing to sum"),),
        refused=(lambda: us.widgets.layer_weights(voices(), np.zeros(4)), "one weight for each of the bank's 3 layers"),
    ),
    "layers": Case(
        lambda: us.widgets.layers(trace("hidden.*"), noise()),
        {"layer": 2, "utterance": 1, "similarity": "debiased CKA", "one scale": True},
        refused=(lambda: us.widgets.layers(trace("block.*.attn.pattern")), "but no hidden states; capture them with"),
    ),
    "losses": Case(
        lambda: us.widgets.losses(pretraining(mask_time_min_masks=0), noise()),
        {
            "mask_prob": 0.3,
            "mixing_prob": 1.0,
            "seed": 2,
            "temperature": 0.3,
            "matrix": "only what is compared",
            "utterance": 1,
            "anchor": 0.0,
        },
        mistakes=(({"mask_prob": 0.0}, "no frame is masked"),),
        refused=(lambda: us.widgets.losses(pretraining(), noise()[0]), "at least two utterances"),
    ),
    "masks": Case(
        lambda: us.widgets.masks(MASKS, SHORT),
        {
            "mask_prob": 0.9,
            "mask_length": 12,
            "min_spans": 6,
            "channel_prob": 0.5,
            "channel_length": 5,
            "min_channel_spans": 4,
            "seed": 3,
            "utterance": 1,
        },
        mistakes=(({"utterance": 2}, "a frame needs 148 samples, got 147"),),
        refused=(lambda: us.widgets.masks(MASKS, SHORT, utterance=3), "utterance=3 is not one of the batch's 3"),
    ),
    "mixing": Case(
        lambda: us.widgets.mixing(noise()),
        {"utterance": 1, "other": 0, "snr_db": -9.0, "start": 0.1, "share": 0.2},
        refused=(lambda: us.widgets.mixing(noise()[0]), "mixing needs two utterances, the batch has 1"),
    ),
    "quantizer": Case(
        lambda: us.widgets.quantizer(pretraining(), noise(), HISTORY),
        {
            "temperature": 0.5,
            "noise": False,
            "seed": 3,
            "group": 1,
            "utterance": 1,
            "frame": 0.1,
            "counted": "hidden ones, as in pretraining",
        },
        refused=(lambda: us.widgets.quantizer(model(), noise()), "this checkpoint has no quantizer"),
    ),
    "recording": Case(
        lambda: us.widgets.recording(model()),
        {"recording": upload(tone(700), name="other.wav")},
        start={"recording": upload(tone(300))},
        mistakes=(({"recording": LETTER}, "a.txt could not be read as sound"),),
    ),
    "speakers": Case(
        lambda: us.widgets.speakers(collected(), clips(), model()),
        {
            "site": "hidden.1",
            "beside": "lda",
            "n_neighbors": 5,
            "color": "sentence",
            "hide": ("s1", "s3"),
            "search": "U05",
            "utterance": 7,
            "select": "nearest",
            "recording": upload(tone(300)),
        },
        mistakes=(({"recording": LETTER}, "a.txt could not be read as sound"),),
        refused=(lambda: us.widgets.speakers(collected().take(range(3))), "needs 8 utterances or more, got 3"),
    ),
    "strip": Case(
        lambda: us.widgets.strip({"before": pretraining(), "after": pretraining(num_clusters=20)}, TOO_LONG, 0, SAID),
        {"model": "after", "utterance": 1, "layer": 2, "head": 1, "frame": 0.05},
        mistakes=(({"utterance": 2}, "long is 61 s long, attention is looked at up to 60 s"),),
        refused=(lambda: us.widgets.strip(model(), noise(), segments=us.Segments.people()), "is in the batch, whose"),
    ),
}
