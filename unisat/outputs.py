"""What the models return: named fields that also unpack like the reference's tuples."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field, fields
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """Fields that are read by name, ``out.name`` or ``out["name"]``, or by position, ``out[0]``.

    Positions count the reference's fields that are not None. Fields marked `ours` are not in the reference; they are
    read by name only, so positions mean the same as in the reference. An output unpacks into its values, as a tuple
    does; `keys`, `values`, `items` and `get` are those of a dict.
    """

    def __post_init__(self) -> None:
        names: tuple[str, ...] = type(self).__match_args__
        given = getattr(self, names[0], None) if names else None
        if isinstance(given, Iterator):  # torch.nn.DataParallel makes an output of what it gathered
            given = self._named(list(given))
        if isinstance(given, Mapping):  # and accelerate one of what it cast
            vars(self).update({item.name: None for item in fields(self)} | dict(given))

    def _named(self, values: Sequence[Any]) -> dict[str, Any]:
        """Name the values of a tuple, which may lack the loss in front, and states and patterns behind."""
        names = [item.name for item in fields(self) if not item.metadata.get("ours")]
        tensors = [value for value in values if isinstance(value, Tensor)]
        plain = [name for name in names if name not in ("hidden_states", "attentions")]
        named: dict[str, Any] = dict(zip(reversed(plain), reversed(tensors), strict=False))
        for layers in values[len(tensors) :]:
            states = all(layer is not None and layer.ndim == 3 for layer in layers)
            named["hidden_states" if states else "attentions"] = layers
        return named

    def keys(self) -> list[str]:
        """Names of the fields that are not None."""
        return [item.name for item in fields(self) if getattr(self, item.name) is not None]

    def values(self) -> ValuesView[Any]:
        """The fields that are not None."""
        return self._given().values()

    def items(self) -> ItemsView[str, Any]:
        """Names and fields, without those that are None."""
        return self._given().items()

    def get(self, name: str, default: Any = None) -> Any:
        """A field by its name, or ``default`` if it is None."""
        return self._given().get(name, default)

    def _given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.keys()}

    def to_tuple(self) -> tuple[Any, ...]:
        """The reference's fields in its order, without those that are None."""
        names = [item.name for item in fields(self) if not item.metadata.get("ours")]
        return tuple(getattr(self, name) for name in names if getattr(self, name) is not None)

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(f"{key!r} is not in this output; it holds {', '.join(self.keys())}.")
        return getattr(self, key)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __len__(self) -> int:
        return len(self.to_tuple())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __repr__(self) -> str:
        lines = "".join(f"\n  {name}: {_describe(getattr(self, name))}" for name in self.keys())
        return f"{type(self).__name__}({lines}\n)"


# accelerate and the Trainer walk through mappings; they ask for items, and do not iterate
Mapping.register(ModelOutput)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple) and value:
        return f"{len(value)} × {_describe(value[0])}"
    if isinstance(value, dict):
        numbers = {name: number.item() if isinstance(number, Tensor) else number for name, number in value.items()}
        return ", ".join(f"{name} {number:.4g}" for name, number in numbers.items())
    return repr(value)


def ours() -> Any:
    """Mark a field that the reference does not return."""
    return field(default=None, metadata={"ours": True})


@dataclass(frozen=True, eq=False, repr=False)
class Wav2Vec2BaseModelOutput(ModelOutput):
    """What `UniSpeechSatModel` returns.

    Attributes
    ----------
    last_hidden_state : (batch, frames, hidden)
        Output of the last layer (pre-LN models: behind the final layer norm), or of the convolutional adapter behind
        it, which some models of wav2vec 2.0, WavLM and data2vec have; it has fewer frames then.
    extract_features : (batch, frames, conv_dim[-1])
        Output of the convolutions behind the layer norm of the feature projection.
    hidden_states : tuple of num_hidden_layers + 1 tensors (batch, frames, hidden), optional
        Input of the first layer, then the output of each layer; the last is `last_hidden_state` (but see
        `UniSpeechSatConfig.sums_before_norm`).
    attentions : tuple of num_hidden_layers tensors (batch, heads, query frames, key frames), optional
        Attention weights before dropout; None for a layer that LayerDrop skipped.
    valid : (batch, frames)
        True on frames of `last_hidden_state` that are the utterance, False on padding, where hidden states mean
        nothing and depend on which fast ways are taken. Not in the reference.
    lengths : (batch,)
        Valid frames of `last_hidden_state` in each utterance. Not in the reference.
    conv_features : (batch, conv_dim[-1], frames)
        Output of the convolutions before any norm. Not in the reference.
    mask_time_indices : (batch, frames)
        True on frames that a given or a drawn mask hid. Not in the reference.
    """

    last_hidden_state: Float[Tensor, "batch last_frames last"]
    extract_features: Float[Tensor, "batch frames channels"]
    hidden_states: tuple[Float[Tensor, "batch frames hidden"], ...] | None = None
    attentions: tuple[Float[Tensor, "batch heads queries keys"] | None, ...] | None = None
    valid: Bool[Tensor, "batch last_frames"] = ours()
    lengths: Int[Tensor, " batch"] = ours()
    conv_features: Float[Tensor, "batch channels frames"] = ours()
    mask_time_indices: Bool[Tensor, "batch frames"] = ours()


@dataclass(frozen=True, eq=False, repr=False)
class BaseModelOutput(Wav2Vec2BaseModelOutput):
    """What `HubertModel` returns: in the reference without ``extract_features``, which have no position here."""

    extract_features: Float[Tensor, "batch frames channels"] = ours()


@dataclass(frozen=True, eq=False, repr=False)
class Wav2Vec2ForPreTrainingOutput(ModelOutput):
    """What `Wav2Vec2ForPreTraining` returns.

    Attributes
    ----------
    loss, contrastive_loss, diversity_loss : (), optional
        Sums over the hidden frames, where negatives are given or drawn; ``loss`` is the first with
        ``diversity_loss_weight`` times the second.
    projected_states : (batch, frames, proj_codevector_dim)
        `project_hid` of the last hidden state.
    projected_quantized_states : (batch, frames, proj_codevector_dim)
        `project_q` of the quantized output of the convolutions.
    codevector_perplexity : (groups,)
        Number of entries in use in each group, over the hidden frames, or all valid ones where none is hidden: from
        the mean probabilities in training, else from the choices. The reference adds the groups up.
    hidden_states, attentions
        As in `Wav2Vec2BaseModelOutput`.
    extract_features, valid, lengths, mask_time_indices
        As in `Wav2Vec2BaseModelOutput`. Not in the reference.
    negatives : (hidden frames, negatives), optional
        Frames, counted through the whole batch, that each hidden frame was compared with. Not in the reference.
    """

    loss: Float[Tensor, ""] | None = None
    projected_states: Float[Tensor, "batch frames projected"] | None = None
    projected_quantized_states: Float[Tensor, "batch frames projected"] | None = None
    codevector_perplexity: Float[Tensor, " groups"] | None = None
    hidden_states: tuple[Float[Tensor, "batch frames hidden"], ...] | None = None
    attentions: tuple[Float[Tensor, "batch heads queries keys"] | None, ...] | None = None
    contrastive_loss: Float[Tensor, ""] | None = None
    diversity_loss: Float[Tensor, ""] | None = None
    extract_features: Float[Tensor, "batch frames channels"] = ours()
    valid: Bool[Tensor, "batch frames"] = ours()
    lengths: Int[Tensor, " batch"] = ours()
    mask_time_indices: Bool[Tensor, "batch frames"] = ours()
    negatives: Int[Tensor, "hidden_frames negatives"] | None = ours()


@dataclass(frozen=True, eq=False, repr=False)
class CausalLMOutput(ModelOutput):
    """What `UniSpeechSatForCTC` returns.

    Attributes
    ----------
    loss : (), or (batch,) with ``ctc_loss_reduction="none"``, optional
        CTC loss, where labels were given.
    logits : (batch, frames, vocabulary)
        A score for each token in each frame, before the softmax.
    hidden_states, attentions
        As in `Wav2Vec2BaseModelOutput`.
    lengths : (batch,)
        Valid frames of each utterance. Not in the reference.
    """

    loss: Tensor | None = None
    logits: Float[Tensor, "batch frames vocabulary"] | None = None
    hidden_states: tuple[Float[Tensor, "batch frames hidden"], ...] | None = None
    attentions: tuple[Float[Tensor, "batch heads queries keys"] | None, ...] | None = None
    lengths: Int[Tensor, " batch"] = ours()


@dataclass(frozen=True, eq=False, repr=False)
class SequenceClassifierOutput(ModelOutput):
    """What `UniSpeechSatForSequenceClassification` returns: ``logits`` are (batch, labels)."""

    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "batch labels"] | None = None
    hidden_states: tuple[Float[Tensor, "batch frames hidden"], ...] | None = None
    attentions: tuple[Float[Tensor, "batch heads queries keys"] | None, ...] | None = None
    lengths: Int[Tensor, " batch"] = ours()


@dataclass(frozen=True, eq=False, repr=False)
class TokenClassifierOutput(ModelOutput):
    """What `UniSpeechSatForAudioFrameClassification` returns: ``logits`` are (batch, frames, labels)."""

    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "batch frames labels"] | None = None
    hidden_states: tuple[Float[Tensor, "batch frames hidden"], ...] | None = None
    attentions: tuple[Float[Tensor, "batch heads queries keys"] | None, ...] | None = None
    valid: Bool[Tensor, "batch frames"] = ours()
    lengths: Int[Tensor, " batch"] = ours()


@dataclass(frozen=True, eq=False, repr=False)
class XVectorOutput(ModelOutput):
    """What `UniSpeechSatForXVector` returns.

    Attributes
    ----------
    loss : (), optional
        AM-softmax loss, where labels were given.
    logits : (batch, xvector_output_dim)
        Vectors that the loss compares with the speakers' weights. They do not serve to compare voices.
    embeddings : (batch, xvector_output_dim)
        The x-vectors; compare voices by their cosine.
    hidden_states, attentions
        As in `Wav2Vec2BaseModelOutput`.
    """

    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "batch xvector"] | None = None
    embeddings: Float[Tensor, "batch xvector"] | None = None
    hidden_states: tuple[Float[Tensor, "batch frames hidden"], ...] | None = None
    attentions: tuple[Float[Tensor, "batch heads queries keys"] | None, ...] | None = None


@dataclass(frozen=True, eq=False, repr=False)
class UniSpeechSatForPreTrainingOutput(ModelOutput):
    """What `UniSpeechSatForPreTraining` returns.

    The reference leaves ``loss``, ``projected_quantized_states`` and ``codevector_perplexity`` None. It returns the
    convolutions' output as ``logits`` and the last hidden state as ``projected_states``. The fields from
    `prob_perplexity` on are not in the reference; those from `terms` on need targets.

    Attributes
    ----------
    loss : (), optional
        Weighted total of `terms`, for each frame that the content loss counts (`unisat.losses.total_loss`).
    logits : (batch, frames, num_clusters)
        Cosine of `projected_states` and each label embedding, over the temperature.
    projected_states : (batch, frames, proj_codevector_dim)
        `project_hid` of the last hidden state; it predicts the cluster.
    projected_quantized_states : (batch, frames, proj_codevector_dim)
        `project_q` of the quantized states of the contrastive layer.
    codevector_perplexity : (groups,)
        Number of entries in use in each group of the codebook, from the hard choices on masked frames, or on valid
        ones where none is masked. The reference's definition adds the groups up.
    prob_perplexity : (groups,)
        The same number from the mean probabilities; the diversity loss reads it.
    speaker_states : (batch, frames, codevector_dim)
        `speaker_proj` of the contrastive layer: the anchors of the contrastive loss.
    mask_time_indices : (batch, frames)
        True on frames that were hidden, never on padding.
    mixing : Mixing, optional
        What was mixed into which utterance, and where; None in evaluation and if ``mixing_prob`` is 0.
    terms, weights : dict
        Each term of the loss, unweighted, and its weight: ``content_masked``, ``content_unmasked``, ``contrastive``,
        ``diversity``, ``feature_penalty``. A term with weight 0 is left out if it costs time to compute.
    metrics : dict
        ``accuracy_masked``, ``accuracy_unmasked`` (of clusters), ``contrastive_accuracy``,
        ``contrastive_accuracy_chance`` and ``contrastive_chance`` (the loss that the best constant answer gets).
    instances : (masked frames, num_negatives), optional
        The masked frames that each masked frame was compared with, by their numbers; None for "infonce".
    utterances : (masked frames,)
        The utterance of each masked frame, in the order of ``mask_time_indices.nonzero()``.
    sample_size : int
        Number of frames that `loss` is a mean over (fairseq's name); multiply by it to add losses up over batches.
        It counts masked frames with a target, and unmasked ones if they have a weight. If no content term has a
        weight, it counts all masked frames.
    """

    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "batch frames clusters"] | None = None
    projected_states: Float[Tensor, "batch frames projected"] | None = None
    projected_quantized_states: Float[Tensor, "batch frames projected"] | None = None
    codevector_perplexity: Float[Tensor, " groups"] | None = None
    hidden_states: tuple[Float[Tensor, "batch frames hidden"], ...] | None = None
    attentions: tuple[Float[Tensor, "batch heads queries keys"] | None, ...] | None = None
    prob_perplexity: Float[Tensor, " groups"] = ours()
    speaker_states: Float[Tensor, "batch frames codevector"] = ours()
    extract_features: Float[Tensor, "batch frames channels"] = ours()
    valid: Bool[Tensor, "batch frames"] = ours()
    lengths: Int[Tensor, " batch"] = ours()
    mask_time_indices: Bool[Tensor, "batch frames"] = ours()
    mixing: Any = ours()
    terms: dict[str, Float[Tensor, ""]] = ours()
    weights: dict[str, float] = ours()
    metrics: dict[str, Float[Tensor, ""]] = ours()
    instances: Int[Tensor, "masked instances"] | None = ours()
    utterances: Int[Tensor, " masked"] = ours()
    sample_size: int = ours()
