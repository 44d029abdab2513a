"""Heads on the hidden states: letters (CTC), a class for an utterance, classes for every frame.

`HeadModel` holds what the heads share. `unisat.xvector` and `unisat.pretraining` hold the two other heads.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import reduce
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unisat import adapters
from unisat.config import UniSpeechSatConfig
from unisat.inputs import check_tensor
from unisat.model import UniSpeechSatModel
from unisat.outputs import (
    CausalLMOutput,
    ModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
    Wav2Vec2BaseModelOutput,
)
from unisat.precision import full_precision, widen
from unisat.pretrained import UniSpeechSatPreTrainedModel


class HeadModel(UniSpeechSatPreTrainedModel):
    """A backbone under ``base_model_prefix`` and, if the config asks for them, weights for a sum of its layers."""

    backbone_class: ClassVar[type[UniSpeechSatModel]] = UniSpeechSatModel
    reads_adapter: ClassVar[bool] = False
    """Whether the head reads frames behind a convolutional adapter (`unisat.conv_adapter`)."""

    unispeech_sat: UniSpeechSatModel
    layer_weights: nn.Parameter

    def __init__(self, config: UniSpeechSatConfig, *, weighted_sum: bool = False):
        super().__init__(config)
        if config.add_adapter and not self.reads_adapter:
            raise ValueError(
                f"{type(self).__name__} does not read frames behind a convolutional adapter, which add_adapter=True "
                "puts behind the encoder; pass add_adapter=False, or use the backbone or its CTC model."
            )
        setattr(self, self.base_model_prefix, self.backbone_class(config))
        self.weighted_sum = weighted_sum and config.use_weighted_layer_sum
        if self.weighted_sum:
            count = config.num_hidden_layers + 1
            self.layer_weights = nn.Parameter(torch.full((count,), 1 / count))

    @property
    def base_model(self) -> UniSpeechSatModel:
        """The backbone."""
        model = getattr(self, self.base_model_prefix)
        assert isinstance(model, UniSpeechSatModel)
        return model

    def init_weights(self) -> None:
        """Draw the head's weights; `UniSpeechSatModel` has drawn those of the backbone already, by the same rules."""
        for name, child in self.named_children():
            if name != self.base_model_prefix:
                self.init_modules(child)
        self._init_module(self)

    def freeze_feature_encoder(self) -> None:
        """Keep the convolutions fixed in training."""
        self.base_model.freeze_feature_encoder()

    def freeze_base_model(self) -> None:
        """Keep the whole backbone fixed in training: only the head learns."""
        self.base_model.requires_grad_(False)

    def backbone(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
        **options: Any,
    ) -> tuple[Wav2Vec2BaseModelOutput, Float[Tensor, "batch frames hidden"]]:
        """Run the backbone; give its output and the hidden state that the head reads."""
        output = self.base_model(
            input_values,
            attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=True if self.weighted_sum else output_hidden_states,
            return_dict=True,
            **options,
        )
        return output, self.weigh(output.hidden_states) if self.weighted_sum else output.last_hidden_state

    def weigh(self, hidden_states: Iterable[Tensor]) -> Float[Tensor, "batch frames hidden"]:
        """Sum hidden states, weighted with the softmax of the layer weights.

        They are added one after the other, so no stack of them takes memory.
        """
        weights = self.layer_weights.softmax(-1)
        parts = (weight * hidden for weight, hidden in zip(weights, hidden_states, strict=True))
        return reduce(torch.add, parts)

    def give(self, output: ModelOutput, return_dict: bool | None) -> Any:
        """Give the output as an object, or as the reference's tuple."""
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()


def check_classes(
    labels: Tensor, shape: tuple[int, ...], classes: int, meaning: str, ignored: int | None = -100
) -> None:
    """Refuse class labels of the wrong shape or type, and those beyond the last class."""
    check_tensor("labels", labels)
    if tuple(labels.shape) != shape or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be {shape} {meaning} of integers, got {tuple(labels.shape)} of {labels.dtype}.")
    wrong = (labels >= classes) | (labels < 0)
    if ignored is not None:
        wrong &= labels != ignored
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"labels{place} is {int(labels[tuple(place)])}; with {classes} classes labels run from 0 to {classes - 1}. "
            "Is config.num_labels right?"
        )


class UniSpeechSatForCTC(HeadModel):
    """A score for each letter in each frame, for speech recognition with CTC (Graves et al., 2006).

    Parameters
    ----------
    config : UniSpeechSatConfig
        It must have a `vocab_size`; its `pad_token_id` is the blank.
    target_lang : str, optional
        Language of the adapter, which `from_pretrained` loads. It needs a config with `adapter_attn_dim`.
    """

    reads_adapter = True

    def __init__(self, config: UniSpeechSatConfig, target_lang: str | None = None):
        super().__init__(config)
        if config.vocab_size is None:
            raise ValueError("vocab_size=None: CTC needs a vocabulary; say how many tokens the tokenizer has.")
        if target_lang is not None and config.adapter_attn_dim is None:
            raise ValueError(
                f"target_lang={target_lang!r} needs adapters, but config.adapter_attn_dim is None; "
                "use a checkpoint with adapters or leave target_lang out."
            )
        self.target_lang = target_lang
        self.dropout = nn.Dropout(config.final_dropout)
        self.lm_head = nn.Linear(config.last_size, config.vocab_size)
        self.init_weights()

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, target_lang: str | None = None, **options: Any) -> Any:
        """Load a checkpoint, then the adapter of a language; see `UniSpeechSatModel.from_pretrained`."""
        model = super().from_pretrained(name_or_path, **options)
        if target_lang is not None:
            model.load_adapter(target_lang)
        return model

    def load_adapter(self, target_lang: str, folder: str | Path | None = None, *, force_load: bool = True) -> None:
        """Replace the adapters and the letters by those of a language.

        The file is ``adapter.<lang>.safetensors``, or else ``adapter.<lang>.bin``, beside the checkpoint or in
        ``folder``. A vocabulary of another size gives a new `lm_head` and a new ``config.vocab_size``.

        Raises
        ------
        ValueError
            If the name of the language is no plain word, the model has no adapters, or the file holds other weights.
            The model is then unchanged.
        FileNotFoundError
            If there is no such file; the message names the languages that are there.
        """
        if target_lang == self.target_lang and not force_load:
            return
        adapters.load(self, target_lang, folder)
        self.target_lang = target_lang

    def save_adapter(self, target_lang: str, folder: str | Path) -> Path:
        """Write the adapters and the letters as ``adapter.<lang>.safetensors``, which `load_adapter` reads."""
        return adapters.save(self, target_lang, folder)

    def init_adapter_layers(self) -> None:
        """Draw fresh weights for the adapters and `lm_head`, to learn a new language."""
        adapters.check(self)
        for name, module in self.named_modules():
            if name.endswith("adapter_layer") or name == "lm_head":
                self.init_modules(module)

    def forward(
        self,
        input_values: Float[Tensor, "batch samples"],
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Score every token in every frame; with ``labels``, also give the loss.

        ``labels`` are (batch, tokens) of token ids; negative ones (-100) are padding. The loss is
        ``torch.nn.functional.ctc_loss`` in float32 with ``config.ctc_loss_reduction`` and ``ctc_zero_infinity``.
        "mean" divides each utterance's loss by its number of tokens. ``options`` go to `UniSpeechSatModel.forward`.

        Returns
        -------
        CausalLMOutput
        """
        if labels is not None:
            labels = self._checked(labels, len(input_values))
        output, hidden = self.backbone(input_values, attention_mask, output_attentions, output_hidden_states, **options)
        logits = self.lm_head(self.dropout(hidden))
        loss = None if labels is None else self.loss(logits, labels, output.lengths)
        result = CausalLMOutput(loss, logits, output.hidden_states, output.attentions, output.lengths)
        return self.give(result, return_dict)

    def _checked(self, labels: Tensor, batch: int) -> Tensor:
        check_tensor("labels", labels)
        labels = labels[None] if labels.ndim == 1 and batch == 1 else labels
        if labels.ndim != 2 or len(labels) != batch or labels.is_floating_point():
            raise ValueError(
                f"labels must be ({batch}, tokens) of integers, got {tuple(labels.shape)} of "
                f"{labels.dtype}; pad shorter ones with -100."
            )
        vocabulary = self.lm_head.out_features
        if (labels >= vocabulary).any():
            row, column = (labels >= vocabulary).nonzero()[0].tolist()
            raise ValueError(
                f"labels[{row}, {column}] is {int(labels[row, column])}; with vocab_size={vocabulary} token ids run "
                f"from 0 to {vocabulary - 1}. Does the tokenizer belong to this model?"
            )
        return labels

    def loss(
        self,
        logits: Float[Tensor, "batch frames vocabulary"],
        labels: Int[Tensor, "batch tokens"],
        lengths: Int[Tensor, " batch"],
    ) -> Tensor:
        """CTC loss of the first ``lengths`` frames of the logits against the labels; negative labels are padding."""
        labels = labels.to(logits.device)
        config, kept = self.config, labels >= 0
        counts = kept.sum(-1)
        if not config.ctc_zero_infinity and (sentence := impossible_targets(labels, lengths)):
            warnings.warn(sentence, stacklevel=3)
        # cuDNN's own CTC loss has requirements that these arguments need not meet
        with torch.backends.cudnn.flags(enabled=False):
            return F.ctc_loss(
                logits.float().log_softmax(-1).transpose(0, 1),  # (frames, batch, vocabulary)
                labels[kept],
                lengths,
                counts,
                blank=config.pad_token_id,
                reduction=config.ctc_loss_reduction,
                zero_infinity=config.ctc_zero_infinity,
            )


def impossible_targets(labels: Int[Tensor, "batch tokens"], lengths: Int[Tensor, " batch"]) -> str:
    """Say which utterances have too few frames for their tokens; the sentence is empty if none has.

    A target needs a frame for each token, and one more frame, a blank, between two equal tokens.
    """
    said = []
    for row, length in zip(labels.tolist(), lengths.tolist(), strict=True):
        tokens = [token for token in row if token >= 0]
        repeats = sum(a == b for a, b in pairwise(tokens))
        said.append((len(tokens) + repeats, len(tokens), repeats, length))
    short = [
        f"utterance {i} has {length} frames for {tokens} tokens and {repeats} blanks between equal ones"
        for i, (needed, tokens, repeats, length) in enumerate(said)
        if needed > length
    ]
    remedy = "; their loss is infinite: shorten the targets, drop them, or set ctc_zero_infinity=True."
    return "; ".join(short) + remedy if short else ""


class UniSpeechSatForSequenceClassification(HeadModel):
    """A class, or a number, for a whole utterance, from the mean of its projected frames."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__(config, weighted_sum=True)
        self.projector = nn.Linear(config.hidden_size, config.classifier_proj_size)
        self.classifier = nn.Linear(config.classifier_proj_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_values: Float[Tensor, "batch samples"],
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Classify each utterance; with ``labels``, also give the loss of ``config.problem_type``.

        If the type is None, the labels decide. ``num_labels=1`` means regression: mean squared error, labels (batch,)
        of floats. Integer labels (batch,) are classes: cross-entropy, which leaves -100 out. Float labels
        (batch, num_labels) say yes or no to each class: binary cross-entropy.

        Returns
        -------
        SequenceClassifierOutput
        """
        output, hidden = self.backbone(input_values, attention_mask, output_attentions, output_hidden_states, **options)
        projected = self.projector(hidden).masked_fill(~output.valid[..., None], 0)
        # a sum over time passes what float16 can hold
        mean = widen(projected).sum(1) / output.lengths[:, None]
        logits = self.classifier(mean.to(projected.dtype))
        loss = None if labels is None else self.loss(logits, labels)
        result = SequenceClassifierOutput(loss, logits, output.hidden_states, output.attentions, output.lengths)
        return self.give(result, return_dict)

    @full_precision
    def loss(self, logits: Float[Tensor, "batch labels"], labels: Tensor) -> Float[Tensor, ""]:
        """Loss of the problem's type; see `forward`."""
        check_tensor("labels", labels)
        batch, classes = logits.shape
        problem = self.config.problem_type
        if problem is None and classes > 1:
            problem = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
        if problem == "single_label_classification":
            labels = labels.flatten() if labels.numel() == batch else labels
            check_classes(labels, (batch,), classes, "(batch,)")
            return F.cross_entropy(logits, labels.to(logits.device))
        shape = (batch,) if classes == 1 else (batch, classes)
        if labels.numel() != batch * classes or labels.ndim > 2:
            raise ValueError(
                f"labels must be {shape} for {problem or 'regression'} with num_labels={classes}, "
                f"got {tuple(labels.shape)}."
            )
        labels = labels.to(logits).view_as(logits)
        if problem == "multi_label_classification":
            if not ((labels >= 0) & (labels <= 1)).all():
                raise ValueError("labels for multi_label_classification must lie in [0, 1]: yes or no to each class.")
            return F.binary_cross_entropy_with_logits(logits, labels)
        return F.mse_loss(logits, labels)


FrameLoss = Literal["bce", "pit", "reference"]


class UniSpeechSatForAudioFrameClassification(HeadModel):
    """Yes or no to each class in each frame: who speaks when (diarization)."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__(config, weighted_sum=True)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def forward(
        self,
        input_values: Float[Tensor, "batch samples"],
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        loss: FrameLoss = "bce",
        **options: Any,
    ) -> Any:
        """Score every class in every frame; with ``labels`` (batch, frames, num_labels) of 0 and 1, also give the loss.

        Parameters
        ----------
        loss : {"bce", "pit", "reference"}
            "bce" is the binary cross-entropy of each class, averaged over the valid frames of the batch. "pit" is the
            same under the best order of the classes in each utterance (`pit_loss`). "reference" is the reference's
            cross-entropy against the first class that is on: silence is class 0, overlap is lost, and padding counts.

        Returns
        -------
        TokenClassifierOutput
        """
        output, hidden = self.backbone(input_values, attention_mask, output_attentions, output_hidden_states, **options)
        logits = self.classifier(hidden)
        value = None if labels is None else frame_loss(logits, labels, output.valid, loss)
        result = TokenClassifierOutput(
            value, logits, output.hidden_states, output.attentions, output.valid, output.lengths
        )
        return self.give(result, return_dict)


@full_precision
def frame_loss(
    logits: Float[Tensor, "batch frames labels"],
    labels: Tensor,
    valid: Bool[Tensor, "batch frames"],
    kind: FrameLoss,
) -> Float[Tensor, ""]:
    """Loss of frame-wise classes; see `UniSpeechSatForAudioFrameClassification.forward`."""
    check_tensor("labels", labels)
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels must be {tuple(logits.shape)} (batch, frames, num_labels), got {tuple(labels.shape)}; frames are "
            "not samples (the backbone's output has lengths)."
        )
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("labels must be 0 or 1: whether each class is on in each frame.")
    labels = labels.to(logits)
    match kind:
        case "bce":
            return F.binary_cross_entropy_with_logits(logits[valid], labels[valid])
        case "pit":
            return pit_loss(logits, labels, valid)
        case "reference":
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten(0, 1).argmax(-1))
        case _:
            raise ValueError(f"loss={kind!r} must be 'bce', 'pit' or 'reference'.")


def pit_loss(
    logits: Float[Tensor, "batch frames labels"],
    labels: Float[Tensor, "batch frames labels"],
    valid: Bool[Tensor, "batch frames"],
) -> Float[Tensor, ""]:
    """Loss of permutation-invariant training: the classes of each utterance are taken in the order that fits best.

    The cost of an output and a speaker is their binary cross-entropy, averaged over the utterance's valid frames. The
    loss of an utterance is the least mean cost over all orders of the speakers; it is averaged over utterances
    (Fujita et al., 2019, arXiv:1909.05952, equation 3).

    Raises
    ------
    ValueError
        If there are more than 8 classes: they have too many orders to try.
    """
    classes = logits.shape[-1]
    if classes > 8:
        raise ValueError(f"pit over {classes} classes would try {classes}! orders; at most 8 are supported.")
    each = F.binary_cross_entropy_with_logits(
        logits[..., :, None].expand(*logits.shape, classes),
        labels[..., None, :].expand(*labels.shape, classes),
        reduction="none",
    )  # (batch, frames, output, speaker)
    weights = valid[..., None, None] / valid.sum(-1)[:, None, None, None]
    cost = (each * weights).sum(1)  # (batch, output, speaker)
    orders = torch.tensor(list(permutations(range(classes))), device=logits.device)
    outputs = torch.arange(classes, device=logits.device)
    return cost[:, outputs, orders].mean(-1).min(-1).values.mean()
