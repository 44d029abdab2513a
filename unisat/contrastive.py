"""Pretraining of wav2vec 2.0: each hidden frame is to know its own code among those of other hidden frames.

The quantizer reads the normed output of the convolutions, which no mask hides, and the transformer predicts what it
gives (arXiv:2006.11477, section 3.2). In UniSpeech-SAT the quantizer reads a hidden state (`unisat.pretraining`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unisat.config import UniSpeechSatConfig
from unisat.fast import apply
from unisat.heads import HeadModel
from unisat.inputs import check_tensor
from unisat.losses import diversity_loss
from unisat.outputs import Wav2Vec2ForPreTrainingOutput
from unisat.precision import full_precision
from unisat.quantizer import GumbelVectorQuantizer, check_temperature


class ContrastivePreTraining(HeadModel):
    """The backbone with wav2vec 2.0's quantizer and the two projections that its objective compares."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__(config)
        self.dropout_features = nn.Dropout(config.feat_quantizer_dropout)
        self.quantizer = GumbelVectorQuantizer(config, config.conv_dim[-1])
        self.project_hid = nn.Linear(config.hidden_size, config.proj_codevector_dim)
        self.project_q = nn.Linear(config.codevector_dim, config.proj_codevector_dim)
        self.init_weights()

    def set_gumbel_temperature(self, temperature: float) -> None:
        """Set the temperature of the quantizer's draws, which training lowers step by step."""
        check_temperature(temperature)
        self.quantizer.temperature = temperature

    def forward(
        self,
        input_values: Float[Tensor, "batch samples"],
        attention_mask: Tensor | None = None,
        mask_time_indices: Bool[Tensor, "batch frames"] | None = None,
        sampled_negative_indices: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Give what the objective compares, and the loss where there are negatives.

        Parameters
        ----------
        mask_time_indices : (batch, frames), optional
            True on frames to hide; in training, None draws a mask.
        sampled_negative_indices : (batch, frames, negatives) or (hidden frames, negatives), optional
            Frames, counted through the whole batch, that each hidden frame is compared with, as the reference draws
            them. In training, None draws ``config.num_negatives`` for each hidden frame (`draw_negatives`).
        generator : torch.Generator, optional
            Source, in this order, of masks, LayerDrop, Gumbel noise and negatives.

        Returns
        -------
        Wav2Vec2ForPreTrainingOutput

        Raises
        ------
        ValueError
            If negatives do not fit, or none can be drawn.
        """
        output, last = self.backbone(
            input_values,
            attention_mask,
            output_attentions,
            output_hidden_states,
            mask_time_indices=mask_time_indices,
            generator=generator,
        )
        hidden = output.mask_time_indices & output.valid
        counted = hidden if hidden.any() else output.valid
        quantized = self.quantizer(self.dropout_features(output.extract_features), counted, generator=generator)
        projected, codes = apply(self.project_hid, last), apply(self.project_q, quantized.codevectors)
        perplexity = quantized.prob_perplexity if self.training else quantized.code_perplexity
        negatives = self._negatives(sampled_negative_indices, hidden, generator)
        loss = contrastive = diversity = None
        if negatives is not None:
            indices = quantized.codevector_indices
            temperature = self.config.contrastive_logits_temperature
            contrastive = contrastive_loss(projected[hidden], codes, indices, hidden, negatives, temperature)
            diversity = diversity_loss(perplexity, self.config.num_codevectors_per_group) * hidden.sum()
            loss = contrastive + self.config.diversity_loss_weight * diversity
        result = Wav2Vec2ForPreTrainingOutput(
            loss=loss,
            projected_states=projected,
            projected_quantized_states=codes,
            codevector_perplexity=perplexity,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            contrastive_loss=contrastive,
            diversity_loss=diversity,
            extract_features=output.extract_features,
            valid=output.valid,
            lengths=output.lengths,
            mask_time_indices=hidden,
            negatives=negatives,
        )
        return self.give(result, return_dict)

    def _negatives(
        self, given: Tensor | None, hidden: Bool[Tensor, "batch frames"], generator: torch.Generator | None
    ) -> Int[Tensor, "hidden_frames negatives"] | None:
        """Bring given negatives to one row for each hidden frame; in training, draw them where none are given."""
        if given is None:
            drawn = self.training and bool(hidden.any())
            return draw_negatives(hidden, self.config.num_negatives, generator=generator) if drawn else None
        check_tensor("sampled_negative_indices", given)
        count, shape = int(hidden.sum()), tuple(hidden.shape)
        whole = not given.is_floating_point() and given.dtype != torch.bool
        if not whole or given.ndim not in (2, 3) or given.shape[:-1] not in (shape, (count,)):
            raise ValueError(
                f"sampled_negative_indices must be {(*shape, 'negatives')!s} or {(count, 'negatives')!s} of integers, "
                f"got {tuple(given.shape)} of {given.dtype}.".replace("'", "")
            )
        rows = given.to(hidden.device).long()
        rows = rows[hidden] if rows.ndim == 3 else rows
        if ((rows < 0) | (rows >= hidden.numel())).any():
            raise ValueError(f"sampled_negative_indices are frames of the whole batch, from 0 to {hidden.numel() - 1}.")
        return rows


def draw_negatives(
    hidden: Bool[Tensor, "batch frames"], count: int, *, generator: torch.Generator | None = None
) -> Int[Tensor, "hidden_frames negatives"]:
    """Draw ``count`` other hidden frames of its utterance for each hidden frame, uniformly and with repetition.

    Frames are counted through the whole batch: frame ``t`` of utterance ``b`` is ``b * frames + t``.

    Raises
    ------
    ValueError
        If an utterance hides one frame only.
    """
    each = hidden.sum(1)
    if (each == 1).any():
        raise ValueError(
            f"utterance(s) {(each == 1).nonzero().flatten().tolist()} hide one frame; a negative is another hidden "
            "frame of the utterance: hide two or more, or none."
        )
    rows = hidden.nonzero()[:, 0]
    device = hidden.device if generator is None else generator.device
    drawn = torch.rand(len(rows), count, generator=generator, device=device).to(hidden.device)
    first = torch.arange(len(rows), device=hidden.device) - (each.cumsum(0) - each)[rows]  # its number in its utterance
    others = (drawn * (each[rows, None] - 1)).long().clamp(max=each[rows, None] - 2)
    others += others >= first[:, None]
    return hidden.flatten().nonzero().flatten()[others + (each.cumsum(0) - each)[rows, None]]


@full_precision
def contrastive_loss(
    anchors: Float[Tensor, "hidden_frames dim"],
    codes: Float[Tensor, "batch frames dim"],
    indices: Int[Tensor, "batch frames groups"],
    hidden: Bool[Tensor, "batch frames"],
    negatives: Int[Tensor, "hidden_frames negatives"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Sum over hidden frames of ``-log softmax`` of the own code's cosine among those of negatives (equation 3).

    A negative that chose the same entries is left out, since it is no other code.
    """
    own, flat = hidden.flatten().nonzero(), indices.flatten(0, 1)
    same = (flat[negatives] == flat[own]).all(-1)
    similarity = F.normalize(anchors, dim=-1) @ F.normalize(codes.flatten(0, 1), dim=-1).T / temperature
    scores = similarity.gather(1, torch.cat([own, negatives], dim=1))
    scores = scores.masked_fill(F.pad(same, (1, 0)), -torch.inf)
    return F.cross_entropy(scores, torch.zeros_like(own[:, 0]), reduction="sum")
