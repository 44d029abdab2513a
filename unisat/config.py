"""`UniSpeechSatConfig`: the size and behaviour of a model, under the names of the reference's ``config.json``."""

from __future__ import annotations

import copy
import difflib
import inspect
import json
import math
import re
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from unisat import frames
from unisat.files import fetched_by

CONFIG_NAME = "config.json"
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_new": lambda: nn.GELU("tanh"),
    "gelu_pytorch_tanh": lambda: nn.GELU("tanh"),
    "leaky_relu": nn.LeakyReLU,
    "linear": nn.Identity,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
}
"""Activations by the reference's names."""

_POSITIVE = (
    "hidden_size num_attention_heads intermediate_size num_conv_pos_embeddings num_conv_pos_embedding_groups "
    "mask_time_length mask_feature_length num_codevectors_per_group num_codevector_groups codevector_dim "
    "proj_codevector_dim classifier_proj_size xvector_output_dim num_clusters layer_norm_eps feature_grad_mult "
    "contrastive_logits_temperature"
).split()
_NOT_NEGATIVE = (
    "num_hidden_layers mask_time_min_masks mask_feature_min_masks num_negatives diversity_loss_weight initializer_range"
    " masked_loss_weight unmasked_loss_weight contrastive_loss_weight feature_penalty_weight"
).split()
_PROBABILITIES = (
    "hidden_dropout activation_dropout attention_dropout feat_proj_dropout feat_quantizer_dropout final_dropout "
    "layerdrop mask_time_prob mask_feature_prob mixing_prob"
).split()
_CHOICES: dict[str, tuple[Any, ...]] = {
    "hidden_act": tuple(ACTIVATIONS),
    "feat_extract_activation": tuple(ACTIVATIONS),
    "feat_extract_norm": ("group", "layer"),
    "ctc_loss_reduction": ("mean", "sum", "none"),
    "padding": ("exact", "reference"),
    "contrastive_loss": ("bce", "infonce"),
    "diversity_loss": ("perplexity", "entropy"),
    "problem_type": (None, "regression", "single_label_classification", "multi_label_classification"),
}
_SAME_LENGTH = (("conv_dim", "conv_kernel", "conv_stride"), ("tdnn_dim", "tdnn_kernel", "tdnn_dilation"))
_INTEGER_OR_NONE = ("adapter_attn_dim", "utterance_contrastive_layer", "vocab_size")
_DIVIDES = (  # (divisor, dividend)
    ("num_attention_heads", "hidden_size"),
    ("num_conv_pos_embedding_groups", "hidden_size"),
    ("num_codevector_groups", "codevector_dim"),
)

FAMILIES = {
    "unispeech-sat": "UniSpeechSat",
    "wav2vec2": "Wav2Vec2",
    "hubert": "Hubert",
    "wavlm": "WavLM",
    "data2vec-audio": "Data2VecAudio",
    "unispeech": "UniSpeech",
}
"""How the names of a family's classes begin, by ``model_type``."""

# what hears log-mel spectra, not waveforms
_SPECTRA = (
    "whisper",
    "wav2vec2-bert",
    "seamless_m4t",
    "seamless_m4t_v2",
    "speech_to_text",
    "audio-spectrogram-transformer",
)

# a file of a few bytes must not ask for all memory and time there is
_LARGEST = 10**6
# what pipelines of the reference read of a config
_NONE = ("_commit_hash", "task_specific_params")
_MOST_LAYERS = 500
_MOST_WEIGHTS = 10**10


def nearest(name: str, known: Sequence[str]) -> str:
    """``" (did you mean …?)"`` with the closest known names, or an empty string."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def other_family(family: Any, expected: str | None = None) -> str:
    """Say what a ``model_type`` is that is not the ``expected`` one (None: any that loads), and what loads it."""
    said = "config.json says " + ("nothing of a model_type" if family is None else f"model_type={family!r}")
    if isinstance(family, str) and family in FAMILIES:
        name = FAMILIES[family]
        return (
            f"{said}: a checkpoint of another family than {expected!r}; load it with unisat.{name}Model or another "
            f"{name} class (its config is a {name}Config), or with unisat.AutoModel, which looks by itself."
        )
    spectra = "it hears log-mel spectra, and unisat has models that hear waveforms" if family in _SPECTRA else "unknown"
    return f"{said}: {spectra}; unisat reads {', '.join(FAMILIES)}."


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file that exists.

    Raises
    ------
    ValueError
        If the file holds anything else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        command = fetched_by(path.read_bytes())
        remedy = f"run {command}" if command else "check that it was downloaded whole"
        raise ValueError(f"{path} is not JSON ({error}); {remedy}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; expected a JSON object {{...}}.")
    return values


def _check_type(name: str, value: Any, default: Any) -> None:
    """Refuse a value whose type is not that of the default; `_check` looks where the default is None or a list."""
    expected = (int, float) if isinstance(default, float) else type(default)
    if default is MISSING or default is None or (isinstance(value, expected) and type(value) is not bool):
        return
    if value is None and name == "vocab_size":
        return
    if not (isinstance(default, bool) and isinstance(value, bool)):
        raise ValueError(f"{name}={value!r} is a {type(value).__name__}; a {type(default).__name__} was expected.")


def _stored(name: str, value: Any) -> Any:
    """Give a value as a config holds it: lists and names of dtypes, as in ``config.json``, and copies of what came."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if name == "id2label" and isinstance(value, Mapping):
        try:
            return {int(index): str(label) for index, label in value.items()}
        except (TypeError, ValueError):
            raise ValueError(f"id2label={dict(value)!r:.60} must give labels by their numbers: {{0: 'yes'}}.") from None
    return list(value) if isinstance(value, tuple) else copy.copy(value)


def _take_extra(values: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    """Take what is no field out of the values of a config."""
    extra = values.pop("extra", {})
    if not isinstance(extra, Mapping):
        raise ValueError(f"extra={extra!r:.60} must be a dict of keys that are no fields.")
    return {**extra, **{key: values.pop(key) for key in [*values] if key not in names}}


def _labels(count: Any) -> dict[int, str]:
    """Give ``LABEL_0``, ``LABEL_1`` … for a number of labels."""
    if type(count) is not int or not 0 <= count <= _LARGEST:
        raise ValueError(f"num_labels={count!r} must be a whole number from 0 to {_LARGEST}.")
    return {index: f"LABEL_{index}" for index in range(count)}


Config = TypeVar("Config", bound="UniSpeechSatConfig")


@dataclass(init=False)
class UniSpeechSatConfig:
    """Sizes, norms, dropouts and masks of a UniSpeech-SAT model, checked when made and when changed.

    The reference's fields have the names and defaults of ``transformers`` 4.37.2, which documents them. This list
    holds the other fields, and those that need more words.

    Parameters
    ----------
    do_stable_layer_norm : bool
        False puts a layer norm behind each residual sum (post-LN, Base). True puts one in front of attention and
        of feed-forward, and one at the end (pre-LN, Large).
    feat_extract_norm : {"group", "layer"}
        Norm of the convolutional front end: group norm over time in its first layer, or layer norm over
        channels in every layer.
    mask_time_prob, mask_time_length, mask_time_min_masks
        SpecAugment over time: share of frames, length of a span in frames, least number of spans.
    adapter_attn_dim : int, optional
        Width of the adapter behind each layer's feed-forward (pre-LN models only); None for no adapters.
    utterance_contrastive_layer : int, optional
        Layer, counted from 1, whose output the contrastive loss and the quantizer read. None is the middle layer, as
        in both released sizes. The reference does not have this field.
    num_negatives : int
        Number of instances that each masked frame is compared with in the "bce" form of the contrastive loss. They
        may come from its own utterance too. The authors call it ``cross_sample_instances``.
    masked_loss_weight, unmasked_loss_weight : float
        Weights of the content loss on masked and on unmasked frames; 1 and 0 in HuBERT and all released models.
    contrastive_loss_weight, diversity_loss_weight, feature_penalty_weight : float
        Weights of the other terms of the pretraining objective. Only the last default, 10, is published; 1 and 0.1
        are unisat's choice (the released Large ended with 0 and 0).
    contrastive_loss : {"bce", "infonce"}
        The utterance-wise contrastive loss as released or as the paper writes it; see `unisat.losses`.
    diversity_loss : {"perplexity", "entropy"}
        The authors' form, or wav2vec 2.0's formula; its values are about a hundred times smaller.
    feature_grad_mult : float
        Factor on the gradient that reaches the convolutions in training (0.1 for the released Base, 1 for Large).
    mixing_prob : float
        Probability that `UniSpeechSatForPreTraining` mixes a stretch of another utterance into an utterance in
        training. The best evidence is for 0.2 with Base and 0.5 with Large.
    mixing_normalize : bool
        Whether mixtures are brought back to zero mean and unit variance, for models that expect it.
    padding : {"exact", "reference"}
        With an ``attention_mask``, "exact" gives an utterance in a padded batch the same numbers as alone.
        "reference" gives the reference's numbers: its first group norm averages over the padding too.
    num_labels : int, optional
        Names this many labels ``LABEL_0``, ``LABEL_1`` …; ``id2label`` wins where both are given.

    Keys that are not fields are kept in ``extra``, read as attributes and written back to ``config.json``. Typed
    ones give a warning; those from a file do not.

    Raises
    ------
    ValueError
        If no model could be built from a value; the message names the field, its value and the rule. A changed
        attribute is checked at once, so change fields that depend on each other with `replace`.
    """

    vocab_size: int | None = 32
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout: float = 0.1
    activation_dropout: float = 0.1
    attention_dropout: float = 0.1
    feat_proj_dropout: float = 0.0
    feat_quantizer_dropout: float = 0.0
    final_dropout: float = 0.1
    layerdrop: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    conv_dim: list[int] = field(default_factory=lambda: [512] * 7)
    conv_stride: list[int] = field(default_factory=lambda: [5, 2, 2, 2, 2, 2, 2])
    conv_kernel: list[int] = field(default_factory=lambda: [10, 3, 3, 3, 3, 2, 2])
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    do_stable_layer_norm: bool = False
    apply_spec_augment: bool = True
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    num_codevectors_per_group: int = 320
    num_codevector_groups: int = 2
    contrastive_logits_temperature: float = 0.1
    num_negatives: int = 100
    codevector_dim: int = 256
    proj_codevector_dim: int = 256
    diversity_loss_weight: float = 0.1
    ctc_loss_reduction: str = "mean"
    ctc_zero_infinity: bool = False
    use_weighted_layer_sum: bool = False
    classifier_proj_size: int = 256
    tdnn_dim: list[int] = field(default_factory=lambda: [512, 512, 512, 512, 1500])
    tdnn_kernel: list[int] = field(default_factory=lambda: [5, 3, 3, 1, 1])
    tdnn_dilation: list[int] = field(default_factory=lambda: [1, 2, 3, 1, 1])
    xvector_output_dim: int = 512
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2
    num_clusters: int = 504
    adapter_attn_dim: int | None = None
    utterance_contrastive_layer: int | None = None
    masked_loss_weight: float = 1.0
    unmasked_loss_weight: float = 0.0
    contrastive_loss_weight: float = 1.0
    feature_penalty_weight: float = 10.0
    contrastive_loss: str = "bce"
    diversity_loss: str = "perplexity"
    feature_grad_mult: float = 1.0
    mixing_prob: float = 0.0
    mixing_normalize: bool = True
    padding: str = "exact"
    id2label: dict[int, str] = field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    label2id: dict[str, int] = field(default_factory=dict)
    problem_type: str | None = None
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True
    architectures: list[str] | None = None
    tokenizer_class: str | None = None
    torch_dtype: str | None = None
    extra: dict[str, Any] = field(default_factory=dict, repr=False)

    model_type = "unispeech-sat"
    fixed: ClassVar[Mapping[str, Any]] = {}
    """Fields with one value in the family. A file may say anything else, which the reference does not read."""

    positive: ClassVar[tuple[str, ...]] = ()
    """Fields that the family adds and that must be positive."""

    # what the configs of other families (`unisat.configs`) have as fields
    feat_proj_layer_norm = True
    add_adapter = False

    def __init__(self, *, num_labels: int | None = None, **values: Any):
        vars(self)["_checked"] = False
        names = {item.name: item for item in fields(self)}
        extra = _take_extra(values, names)
        for key in extra:
            if key not in _DERIVED:
                warnings.warn(
                    f"{key!r} is not a field of {type(self).__name__}{nearest(key, list(names))}; "
                    "it is kept in config.extra and changes nothing.",
                    stacklevel=2,
                )
        self._fill(num_labels, values, extra)

    def _fill(self, num_labels: int | None, values: dict[str, Any], extra: dict[str, Any]) -> None:
        if "dtype" in extra:  # the name of torch_dtype since transformers 5
            values = {"torch_dtype": extra.pop("dtype"), **values}
        for item in fields(self):
            default = item.default if item.default_factory is MISSING else item.default_factory()
            setattr(self, item.name, _stored(item.name, values.get(item.name, default)))
        self.extra = {key: _stored(key, value) for key, value in extra.items() if key not in _DERIVED}
        if num_labels is not None and "id2label" not in values:
            self.id2label = _labels(num_labels)
        if not values.get("label2id") and isinstance(self.id2label, dict):
            self.label2id = {label: index for index, label in self.id2label.items()}
        self._check()
        if "id2label" in values and num_labels not in (None, len(self.id2label)):
            raise ValueError(
                f"num_labels={num_labels} and id2label with {len(self.id2label)} entries disagree; pass only one."
            )
        vars(self)["_checked"] = True

    def _check(self) -> None:
        self._check_types()
        if self.initializer_range > 1:
            raise ValueError(f"initializer_range={self.initializer_range} must be at most 1; the reference has 0.02.")
        positive = (*_POSITIVE, *self.positive)
        for name in (*positive, *_NOT_NEGATIVE):
            value = getattr(self, name)
            if name in positive and not value > 0:
                raise ValueError(f"{name}={value} must be positive.")
            if not value >= 0:
                raise ValueError(f"{name}={value} must not be negative.")
            if value > (largest := _MOST_LAYERS if name in ("num_hidden_layers", "num_adapter_layers") else _LARGEST):
                raise ValueError(f"{name}={value} is beyond reason; at most {largest} is taken.")
        for name in _PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a probability in [0, 1].")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                allowed = ", ".join(map(repr, choices))
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {allowed}.")
        self._check_fixed(vars(self))
        self._check_lists()
        for divisor, dividend in _DIVIDES:
            if getattr(self, dividend) % getattr(self, divisor):
                raise ValueError(
                    f"{dividend}={getattr(self, dividend)} must be a multiple of {divisor}={getattr(self, divisor)}."
                )
        if self.vocab_size is not None and not 0 < self.vocab_size <= _LARGEST:
            raise ValueError(
                f"vocab_size={self.vocab_size} must be positive, at most {_LARGEST}, or None for no vocabulary."
            )
        layer = self.utterance_contrastive_layer
        if layer is not None and not 1 <= layer <= self.num_hidden_layers:
            raise ValueError(
                f"utterance_contrastive_layer={layer} must be one of the num_hidden_layers={self.num_hidden_layers} "
                "layers, counted from 1, or None for the middle one."
            )
        if self.adapter_attn_dim is not None and not 0 < self.adapter_attn_dim <= _LARGEST:
            raise ValueError(f"adapter_attn_dim={self.adapter_attn_dim} must be positive, or None for no adapters.")
        if (weights := self._rough_size()) > _MOST_WEIGHTS:
            raise ValueError(
                f"these sizes make a model of about {weights:.0e} weights, which is beyond reason; at most "
                f"{_MOST_WEIGHTS:.0e} are taken."
            )

    def _check_fixed(self, values: Mapping[str, Any]) -> None:
        for name, value in self.fixed.items():
            if values.get(name, value) != value:
                raise ValueError(f"{name}={values[name]!r}: a {self.model_type} model has {value!r} always.")

    def _check_types(self) -> None:
        for item in fields(self):
            _check_type(item.name, getattr(self, item.name), item.default)
        for name in ("id2label", "label2id", "extra"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name}={getattr(self, name)!r:.60} must be a dict.")
        for name in _INTEGER_OR_NONE:
            if type(getattr(self, name)) not in (int, type(None)):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a whole number, or None.")
        if not isinstance(self.torch_dtype, str | None):
            raise ValueError(f"torch_dtype={self.torch_dtype!r} must be a torch.dtype or its name, such as 'float16'.")

    def _check_lists(self) -> None:
        for names in _SAME_LENGTH:
            for name in names:
                sizes = getattr(self, name)
                if not isinstance(sizes, list) or any(
                    type(size) is not int or not 1 <= size <= _LARGEST for size in sizes
                ):
                    raise ValueError(f"{name}={sizes!r:.80} must hold positive integers, at most {_LARGEST}.")
            lengths = [len(getattr(self, name)) for name in names]
            if len(set(lengths)) > 1 or not 1 <= lengths[0] <= _MOST_LAYERS:
                counts = ", ".join(f"{name} has {length}" for name, length in zip(names, lengths, strict=True))
                raise ValueError(f"{', '.join(names)} must have one entry per layer each: {counts}.")

    def _rough_size(self) -> int:
        """Number of weights in the largest parts of any model with these sizes."""
        width, positions = self.hidden_size, self.num_conv_pos_embeddings // self.num_conv_pos_embedding_groups
        layers = self.num_hidden_layers * (4 * width + 2 * self.intermediate_size + 2 * (self.adapter_attn_dim or 0))
        convs = sum(map(math.prod, zip([1, *self.conv_dim], self.conv_dim, self.conv_kernel, strict=False)))
        speakers = self.xvector_output_dim * (self.num_labels + self.xvector_output_dim + 2 * self.tdnn_dim[-1])
        delays = zip([width, *self.tdnn_dim], self.tdnn_dim, self.tdnn_kernel, strict=False)
        codes = self.num_codevectors_per_group * (self.num_codevector_groups * width + self.codevector_dim)
        matrices = self.codevector_dim * self.num_clusters + self.classifier_proj_size * self.num_labels
        tokens = (self.vocab_size or 0) + self.num_labels + self.classifier_proj_size + self.proj_codevector_dim
        per_width = layers + positions * width + tokens + self.conv_dim[-1]
        return width * per_width + convs + speakers + sum(map(math.prod, delays)) + codes + matrices

    def __setattr__(self, name: str, value: Any) -> None:
        if not self.__dict__.get("_checked"):
            object.__setattr__(self, name, value)
            return
        if name == "num_labels":
            if value != self.num_labels:
                self.update({"num_labels": value})
            return
        if name not in {item.name for item in fields(self)}:
            self.extra[name] = value
            return
        trial = copy.copy(self)
        vars(trial)[name] = _stored(name, value)
        trial._check()
        vars(self)[name] = vars(trial)[name]

    def __getattr__(self, name: str) -> Any:
        # Python comes here only for names that are neither fields nor methods
        extra = self.__dict__.get("extra", {})
        if name in extra or name in _NONE:
            return extra.get(name)
        raise AttributeError(
            f"{type(self).__name__} has no field {name!r}{nearest(name, [f.name for f in fields(self)])}."
        )

    # values that follow from the fields

    @property
    def num_labels(self) -> int:
        """Number of classes, ``len(id2label)``."""
        return len(self.id2label)

    @property
    def num_feat_extract_layers(self) -> int:
        """Number of convolutional layers in front of the transformer."""
        return len(self.conv_dim)

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Number of samples from the start of one frame to the start of the next (320 by default, 20 ms)."""
        return frames.hop(self.conv_stride)

    @property
    def contrastive_layer(self) -> int:
        """Index of the hidden state that the contrastive loss and the quantizer read."""
        if self.utterance_contrastive_layer is not None:
            return self.utterance_contrastive_layer
        return (self.num_hidden_layers + 1) // 2

    @property
    def has_mask_embedding(self) -> bool:
        """Whether the model has a ``masked_spec_embed``: always, but in other families only where it may be used."""
        return True

    @property
    def last_size(self) -> int:
        """Width of the last hidden state: ``hidden_size``, or what a convolutional adapter makes of it."""
        return self.hidden_size

    @property
    def sums_before_norm(self) -> bool:
        """Whether the weighted sum takes the last layer in front of the final norm, where pre-LN models have it.

        Since 5.16 transformers does so, and weights that it trained are made for it: the ``transformers_version`` of
        a file tells. The last of the hidden states is then what the sum takes.
        """
        found = re.match(r"(\d+)\.(\d+)", str(self.extra.get("transformers_version")))
        newer = found is not None and (int(found[1]), int(found[2])) >= (5, 16)
        return newer and self.do_stable_layer_norm and self.use_weighted_layer_sum

    @property
    def receptive_field(self) -> int:
        """Number of samples that one frame sees (400 by default, 25 ms), which is the shortest usable clip."""
        return frames.receptive_field(self.conv_kernel, self.conv_stride)

    # presets

    @classmethod
    def base(cls: type[Config], **changes: Any) -> Config:
        """UniSpeech-SAT Base and Base+: 12 post-LN layers of width 768, 94 million parameters."""
        return cls(**changes)

    @classmethod
    def large(cls: type[Config], **changes: Any) -> Config:
        """UniSpeech-SAT Large: 24 pre-LN layers of width 1024, 315 million parameters."""
        sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
        norms = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
        codebook = {"codevector_dim": 768, "proj_codevector_dim": 768}
        large = {**sizes, "intermediate_size": 4096, **norms, **codebook, "mask_time_prob": 0.075}
        return cls(**{**large, **cls.fixed, **changes})

    @classmethod
    def tiny(cls: type[Config], **changes: Any) -> Config:
        """Six pre-LN layers of width 192 on a narrow front end; a laptop computes seconds of speech in milliseconds."""
        sizes = {
            "hidden_size": 192,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "intermediate_size": 768,
        }
        front = {"conv_dim": [128] * 7, "num_conv_pos_embeddings": 64, "num_conv_pos_embedding_groups": 16}
        norms = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
        codebook = {"num_codevectors_per_group": 32, "codevector_dim": 64, "proj_codevector_dim": 64}
        heads = {"num_clusters": 104, "tdnn_dim": [192] * 4 + [384], "xvector_output_dim": 128}
        return cls(**{**sizes, **front, **norms, **codebook, **heads, **cls.fixed, **changes})

    def replace(self: Config, **changes: Any) -> Config:
        """Return a copy in which some fields are changed together and checked once at the end."""
        values = {item.name: copy.copy(getattr(self, item.name)) for item in fields(self)}
        if unknown := [name for name in changes if name not in {*values, *self.extra, "num_labels"}]:
            raise TypeError(f"{unknown[0]!r} is not a field of {type(self).__name__}{nearest(unknown[0], [*values])}.")
        self._check_fixed(changes)
        if "num_labels" in changes:
            del values["id2label"]
        if {"num_labels", "id2label"} & set(changes):
            del values["label2id"]
        return self.from_dict({**values, **changes})

    def update(self, values: Mapping[str, Any]) -> None:
        """Change fields in place, together: if one is refused, all stay. What is no field goes into ``extra``."""
        names = {*(item.name for item in fields(self)), "num_labels"}
        changed = self.replace(**{name: value for name, value in values.items() if name in names})
        changed.extra |= {name: value for name, value in values.items() if name not in names}
        vars(self).update(vars(changed))

    # reading and writing

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
        """Make a config from the reference's keys; unknown ones are kept in ``extra`` without a warning.

        Raises
        ------
        ValueError
            If ``model_type`` names another family, or a value breaks a rule.
        """
        values = dict(values)
        family = values.pop("model_type", cls.model_type)
        if family != cls.model_type:
            raise ValueError(other_family(family, cls.model_type))
        values |= {name: value for name, value in cls.fixed.items() if name in values}
        names = {item.name for item in fields(cls)}
        num_labels = values.pop("num_labels", None)
        extra = _take_extra(values, names)
        config = cls.__new__(cls)
        vars(config)["_checked"] = False
        config._fill(num_labels, values, extra)
        return config

    def to_dict(self) -> dict[str, Any]:
        """All fields and extra keys under the reference's names, as they go into ``config.json``."""
        values = {item.name: copy.copy(getattr(self, item.name)) for item in fields(self)}
        values |= values.pop("extra")
        values["id2label"] = {str(index): label for index, label in self.id2label.items()}
        values["model_type"] = self.model_type
        values["num_feat_extract_layers"] = self.num_feat_extract_layers
        # the reference's default for these is None too, and it does not write it
        optional = "problem_type architectures tokenizer_class torch_dtype adapter_attn_dim utterance_contrastive_layer"
        return {key: values[key] for key in sorted(values) if key not in optional.split() or values[key] is not None}

    @classmethod
    def from_json_file(cls: type[Config], path: str | Path) -> Config:
        """Read a ``config.json``.

        Raises
        ------
        ValueError
            If the file is not a JSON object, or for the reasons in `from_dict`.
        FileNotFoundError
            If the file does not exist.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"there is no {path}; a checkpoint's folder holds a {CONFIG_NAME}. For weights alone, as the Trainer "
                "of transformers saves them, pass the config of the model that was trained: config=model.config."
            )
        return cls.from_dict(read_object(Path(path)))

    def to_diff_dict(self) -> dict[str, Any]:
        """What `to_dict` gives, without the values that are the defaults."""
        default = type(self)().to_dict()
        return {key: value for key, value in self.to_dict().items() if key == "model_type" or default.get(key) != value}

    def to_json_string(self, use_diff: bool = False) -> str:
        """The text of ``config.json``; with ``use_diff`` without the values that are the defaults."""
        return json.dumps(self.to_diff_dict() if use_diff else self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, path: str | Path, use_diff: bool = False) -> None:
        """Write what `to_json_string` gives into a file."""
        Path(path).write_text(self.to_json_string(use_diff), encoding="utf-8")

    @classmethod
    def from_pretrained(cls: type[Config], folder: str | Path, **changes: Any) -> Config:
        """Read ``config.json`` from a local folder (or the file itself), with some fields changed."""
        path = Path(folder)
        config = cls.from_json_file(path / CONFIG_NAME if path.is_dir() else path)
        return config.replace(**changes) if changes else config

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` into a folder, which is made if it is missing."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.to_json_file(Path(folder) / CONFIG_NAME)


# computed here and written for the reference; they are not extra keys
_DERIVED = {"num_feat_extract_layers", "inputs_to_logits_ratio", "num_labels"}


def show_fields(kind: type[UniSpeechSatConfig]) -> None:
    """Let Shift-Tab in a notebook show the fields and their defaults instead of ``**values``."""
    kind.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                item.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=item.default if item.default_factory is MISSING else item.default_factory(),
                annotation=item.type,
            )
            for item in fields(kind)
            if item.name != "extra"
        ]
    )


show_fields(UniSpeechSatConfig)
