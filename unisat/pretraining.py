"""The pretraining model: the backbone, everything that its objective compares, and the objective itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn

from unisat.config import UniSpeechSatConfig
from unisat.heads import HeadModel
from unisat.inputs import check_waveforms
from unisat.losses import (
    content_logits,
    content_loss,
    contrastive_bce,
    contrastive_infonce,
    contrastive_report,
    contrastive_similarity,
    diversity_entropy,
    diversity_loss,
    draw_instances,
    feature_penalty,
    total_loss,
)
from unisat.mixing import mix_utterances
from unisat.outputs import UniSpeechSatForPreTrainingOutput
from unisat.quantizer import GumbelVectorQuantizer, Quantized
from unisat.shortcuts import Linear


class UniSpeechSatForPreTraining(HeadModel):
    """The backbone with the parts of its pretraining objective (arXiv:2110.05752).

    ``project_hid`` and ``label_embeddings_concat`` predict the cluster of a hidden frame from the last layer;
    ``speaker_proj`` and, through the quantizer, ``project_q`` compare frames of the contrastive layer. The authors call
    them final_proj, label_embs_concat, spk_proj and project_q. The reference loads these weights and uses none.
    """

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__(config)
        self.dropout_features = nn.Dropout(config.feat_quantizer_dropout)
        if config.codevector_dim != config.proj_codevector_dim:
            raise ValueError(
                f"codevector_dim={config.codevector_dim} and proj_codevector_dim={config.proj_codevector_dim} must be "
                "equal: the objective takes cosines between states of the two widths."
            )
        self.label_embeddings_concat = nn.Parameter(torch.empty(config.num_clusters, config.codevector_dim))
        self.quantizer = GumbelVectorQuantizer(config)
        self.project_q = Linear(config.codevector_dim, config.proj_codevector_dim)
        self.project_hid = Linear(config.hidden_size, config.proj_codevector_dim)
        self.speaker_proj = Linear(config.hidden_size, config.codevector_dim)
        self.layer_norm_for_extract = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # a post-LN model does not use this norm: nothing would ever teach it
        self.layer_norm_for_extract.requires_grad_(config.do_stable_layer_norm)
        self.term_scales: dict[str, float] = {}  # factors of the weights of terms; a schedule of training moves them
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the head's weights; the label embeddings uniform in [0, 1), as the authors do (the reference: 0)."""
        super().init_weights()
        if not self.label_embeddings_concat.is_meta:
            nn.init.uniform_(self.label_embeddings_concat)

    def set_gumbel_temperature(self, temperature: float) -> None:
        """Set the temperature of the quantizer's draws; training lowers it step by step."""
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} must be positive.")
        self.quantizer.temperature = temperature

    def forward(
        self,
        input_values: Float[Tensor, "batch samples"],
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        targets: Integer[Tensor, "batch labels"] | None = None,
        mask_time_indices: Bool[Tensor, "batch frames"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Give everything that the objective compares and, with ``targets``, the loss and each of its terms.

        In training, utterances are mixed with probability ``config.mixing_prob`` and, where no mask is given, a mask is
        drawn from the config's ``mask_time_*``. One forward pass serves all terms: the content loss reads the last
        hidden state, the contrastive loss and the quantizer that of ``config.contrastive_layer``, both of masked input.
        LayerDrop may skip that layer; what it would have got is then read instead, as in the authors' code. The last
        layer of a pre-LN model is read behind the final norm (the authors: in front of it).

        Parameters
        ----------
        targets : (batch, frames), optional
            The cluster of each frame, from 0 to ``num_clusters - 1``; -100 where there is none. May be a frame longer
            or shorter than the features, as k-means labels of other features are.
        mask_time_indices : (batch, frames), optional
            True on frames to hide.
        generator : torch.Generator, optional
            Source, in this order, of mixing, masks, LayerDrop, Gumbel noise and (also in evaluation, where targets are
            given) contrastive instances. Dropout always draws from torch's own.

        Returns
        -------
        UniSpeechSatForPreTrainingOutput

        Raises
        ------
        ValueError
            If targets do not fit, no frame is masked or none of those that count has a target, or all masked frames
            come from one utterance while ``contrastive_loss_weight`` is not 0.
        """
        mixing = None
        if self.training and self.config.mixing_prob > 0:
            samples = check_waveforms(input_values, attention_mask, self.config)
            input_values, mixing = mix_utterances(
                input_values,
                samples,
                mixing_prob=self.config.mixing_prob,
                normalize=self.config.mixing_normalize,
                generator=generator,
            )
        output, last = self.backbone(
            input_values,
            attention_mask,
            output_attentions,
            True,
            mask_time_indices=mask_time_indices,
            generator=generator,
        )
        assert output.hidden_states is not None
        contrastive = output.hidden_states[self.config.contrastive_layer]
        # only pre-LN models were pretrained with this norm: a post-LN layer ends in one of its own
        if self.config.do_stable_layer_norm:
            contrastive = self.layer_norm_for_extract(contrastive)
        masked = output.mask_time_indices & output.valid
        counted = masked if masked.any() else output.valid
        quantized = self.quantizer(self.dropout_features(contrastive), counted, generator=generator)
        projected = self.project_hid(last)
        temperature = self.config.contrastive_logits_temperature
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        result = UniSpeechSatForPreTrainingOutput(
            logits=content_logits(projected, self.label_embeddings_concat, temperature),
            projected_states=projected,
            projected_quantized_states=self.project_q(quantized.codevectors),
            codevector_perplexity=quantized.code_perplexity,
            hidden_states=output.hidden_states if wanted else None,
            attentions=output.attentions,
            prob_perplexity=quantized.prob_perplexity,
            speaker_states=self.speaker_proj(contrastive),
            extract_features=output.extract_features,
            valid=output.valid,
            lengths=output.lengths,
            mask_time_indices=masked,
            mixing=mixing,
        )
        if targets is not None:
            targets = check_targets(targets, output.valid, self.config.num_clusters)
            result = self.objective(result, targets, output.conv_features, quantized, generator)
        return self.give(result, return_dict)

    def objective(
        self,
        output: UniSpeechSatForPreTrainingOutput,
        targets: Int[Tensor, "batch frames"],
        conv_features: Float[Tensor, "batch channels frames"],
        quantized: Quantized,
        generator: torch.Generator | None = None,
    ) -> UniSpeechSatForPreTrainingOutput:
        """Add the terms of the loss, their weights, the total and the accuracies to what `forward` compared."""
        config, masked = self.config, output.mask_time_indices
        if not masked.any():
            raise ValueError(
                "no frame is masked, so there is nothing to predict; pass mask_time_indices (unisat.masking.span_mask "
                "draws one), or train (model.train()) with config.mask_time_prob above 0 and clips longer than a span."
            )
        weights = {
            "content_masked": config.masked_loss_weight,
            "content_unmasked": config.unmasked_loss_weight,
            "contrastive": config.contrastive_loss_weight,
            "diversity": config.diversity_loss_weight,
            "feature_penalty": config.feature_penalty_weight,
        }
        weights = {name: weight * self.term_scales.get(name, 1.0) for name, weight in weights.items()}
        terms: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        frames: dict[str, int] = {}
        assert output.logits is not None
        assert output.projected_quantized_states is not None
        for name, chosen in {"masked": masked, "unmasked": output.valid & ~masked}.items():
            logits, expected = output.logits[chosen], targets[chosen]
            # unmasked logits count in the total only where somebody wants them to
            logits = logits if weights[f"content_{name}"] else logits.detach()
            terms[f"content_{name}"] = content_loss(logits, expected)
            has_target = expected != -100
            right = (logits.argmax(-1) == expected)[has_target]
            metrics[f"accuracy_{name}"] = (
                right.float().mean() if len(right) else torch.full_like(terms[f"content_{name}"], torch.nan)
            )
            if weights[f"content_{name}"]:
                frames[f"content_{name}"] = int(has_target.sum())

        utterances, instances = masked.nonzero()[:, 0], None
        if config.contrastive_loss_weight:  # also where a schedule holds it at 0: it is worth a column in the log
            similarity = contrastive_similarity(
                output.speaker_states[masked],
                output.projected_quantized_states[masked],
                config.contrastive_logits_temperature,
            )
            if config.contrastive_loss == "bce":
                instances = draw_instances(
                    len(utterances), config.num_negatives, device=utterances.device, generator=generator
                )
                terms["contrastive"] = contrastive_bce(similarity, utterances, instances)
            else:
                terms["contrastive"] = contrastive_infonce(similarity, utterances)
            metrics |= contrastive_report(similarity.detach(), utterances, instances)
        if config.diversity_loss == "perplexity":
            terms["diversity"] = diversity_loss(output.prob_perplexity, config.num_codevectors_per_group)
        else:
            terms["diversity"] = diversity_entropy(quantized.probabilities[masked].mean(0))
        terms["feature_penalty"] = feature_penalty(conv_features, output.valid)
        return replace(
            output,
            loss=total_loss(terms, weights, frames),
            terms=terms,
            weights=weights,
            metrics=metrics,
            instances=instances,
            utterances=utterances,
            # where no content term has a weight, the other terms are means over masked frames all the same
            sample_size=sum(frames.values()) if frames else len(utterances),
        )


def check_targets(
    targets: Tensor, valid: Bool[Tensor, "batch frames"], num_clusters: int
) -> Int[Tensor, "batch frames"]:
    """Refuse targets that cannot be the frames' clusters; give one for each frame of the batch."""
    batch, frames = valid.shape
    if targets.ndim != 2 or len(targets) != batch or targets.is_floating_point() or targets.dtype == torch.bool:
        raise ValueError(
            f"targets must be ({batch}, {frames}) integers, got {tuple(targets.shape)} of {targets.dtype}."
        )
    if abs(targets.shape[1] - frames) > 1:
        raise ValueError(
            f"targets have {targets.shape[1]} frames, the features {frames}: more than one apart. Were they made at "
            "another frame rate (MFCC: take every second), or of another crop?"
        )
    targets = targets.long()  # before -100, which small integers cannot hold
    wrong = ((targets < 0) & (targets != -100)) | (targets >= num_clusters)
    if wrong.any():
        row, frame = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"targets[{row}, {frame}] is {int(targets[row, frame])}; with num_clusters={num_clusters} they run from 0 "
            f"to {num_clusters - 1}, and -100 where there is none."
        )
    return F.pad(targets, (0, max(0, frames - targets.shape[1])), value=-100)[:, :frames]
