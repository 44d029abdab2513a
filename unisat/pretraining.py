"""The pretraining model: the backbone, the layers that its objective needs, and the objective."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn

from unisat.config import UniSpeechSatConfig
from unisat.fast import apply
from unisat.heads import HeadModel
from unisat.inputs import check_tensor, check_waveforms
from unisat.layer_norm import LayerNorm
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
from unisat.mixing import Mixing, mix_utterances
from unisat.outputs import UniSpeechSatForPreTrainingOutput, Wav2Vec2BaseModelOutput
from unisat.quantizer import GumbelVectorQuantizer, Quantized, check_temperature


class UniSpeechSatForPreTraining(HeadModel):
    """The backbone with the parts of its pretraining objective (arXiv:2110.05752).

    ``project_hid`` and ``label_embeddings_concat`` read the last layer and predict the cluster of a hidden frame.
    ``speaker_proj`` and ``project_q`` read the contrastive layer, the second one behind the quantizer; the objective
    compares what they give. The authors call the four final_proj, label_embs_concat, spk_proj and project_q. The
    reference loads these weights and uses none of them.
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
        self.project_q = nn.Linear(config.codevector_dim, config.proj_codevector_dim)
        self.project_hid = nn.Linear(config.hidden_size, config.proj_codevector_dim)
        self.speaker_proj = nn.Linear(config.hidden_size, config.codevector_dim)
        self.layer_norm_for_extract = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # a post-LN model does not use this norm, so it gets no gradient
        self.layer_norm_for_extract.requires_grad_(config.do_stable_layer_norm)
        self.term_scales: dict[str, float] = {}  # factors of the weights of terms; a schedule of training moves them
        self.init_weights()

    def reset_parameters(self) -> None:
        """Draw the label embeddings uniformly from [0, 1), as the authors do; the reference sets them to 0."""
        nn.init.uniform_(self.label_embeddings_concat)

    def set_gumbel_temperature(self, temperature: float) -> None:
        """Set the temperature of the quantizer's draws, which training lowers step by step."""
        check_temperature(temperature)
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
        """Give everything that the objective compares; with ``targets``, also the loss and each of its terms.

        In training, an utterance is mixed with another one with probability ``config.mixing_prob``. If no mask is
        given, training draws one from the config's ``mask_time_*``.

        One forward pass of the masked input serves all terms. The content loss reads the last hidden state; the
        contrastive loss and the quantizer read that of ``config.contrastive_layer``. If LayerDrop skips that layer,
        they read what the layer would have got, as in the authors' code. The last layer of a pre-LN model is read
        behind the final norm; the authors read it in front of the norm.

        Parameters
        ----------
        targets : (batch, frames), optional
            The cluster of each frame, from 0 to ``num_clusters - 1``; -100 where there is none. There may be one frame
            more or less than the features have, as with k-means labels of other features.
        mask_time_indices : (batch, frames), optional
            True on frames to hide.
        generator : torch.Generator, optional
            Source, in this order, of mixing, masks, LayerDrop, Gumbel noise and contrastive instances. Instances are
            drawn wherever targets are given, also in evaluation. Dropout always draws from torch's own generator.

        Returns
        -------
        UniSpeechSatForPreTrainingOutput

        Raises
        ------
        ValueError
            If targets do not fit; if no frame is masked; if no frame that counts has a target; or if all masked frames
            come from one utterance while ``contrastive_loss_weight`` is not 0.
        """
        input_values, mixing = self._mix(input_values, attention_mask, generator)
        output, last = self.backbone(
            input_values,
            attention_mask,
            output_attentions,
            True,
            mask_time_indices=mask_time_indices,
            generator=generator,
        )
        contrastive = self._contrastive_states(output)
        masked = output.mask_time_indices & output.valid
        counted = masked if masked.any() else output.valid
        quantized = self.quantizer(self.dropout_features(contrastive), counted, generator=generator)
        projected = apply(self.project_hid, last)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        result = UniSpeechSatForPreTrainingOutput(
            logits=content_logits(projected, self.label_embeddings_concat, self.config.contrastive_logits_temperature),
            projected_states=projected,
            projected_quantized_states=apply(self.project_q, quantized.codevectors),
            codevector_perplexity=quantized.code_perplexity,
            hidden_states=output.hidden_states if wanted else None,
            attentions=output.attentions,
            prob_perplexity=quantized.prob_perplexity,
            speaker_states=apply(self.speaker_proj, contrastive),
            extract_features=output.extract_features,
            valid=output.valid,
            lengths=output.lengths,
            mask_time_indices=masked,
            mixing=mixing,
        )
        if targets is not None:
            result = self.objective(result, targets, output.conv_features, quantized, generator)
        return self.give(result, return_dict)

    def _mix(
        self,
        input_values: Float[Tensor, "batch samples"],
        attention_mask: Tensor | None,
        generator: torch.Generator | None,
    ) -> tuple[Float[Tensor, "batch samples"], Mixing | None]:
        """Mix utterances if the model is training; give the waveforms and the record of who was mixed into whom."""
        config = self.config
        if not (self.training and config.mixing_prob > 0):
            return input_values, None
        return mix_utterances(
            input_values,
            check_waveforms(input_values, attention_mask, config, self.label_embeddings_concat.dtype)[0],
            mixing_prob=config.mixing_prob,
            normalize=config.mixing_normalize,
            generator=generator,
        )

    def _contrastive_states(self, output: Wav2Vec2BaseModelOutput) -> Float[Tensor, "batch frames hidden"]:
        """Give the hidden state that the contrastive loss and the quantizer read."""
        assert output.hidden_states is not None
        states = output.hidden_states[self.config.contrastive_layer]
        # only pre-LN models were pretrained with this norm: a post-LN layer ends in one of its own
        return self.layer_norm_for_extract(states) if self.config.do_stable_layer_norm else states

    def objective(
        self,
        output: UniSpeechSatForPreTrainingOutput,
        targets: Integer[Tensor, "batch labels"],
        conv_features: Float[Tensor, "batch channels frames"],
        quantized: Quantized,
        generator: torch.Generator | None = None,
    ) -> UniSpeechSatForPreTrainingOutput:
        """Add the loss, its terms, their weights and the accuracies to what `forward` has computed."""
        config, masked = self.config, output.mask_time_indices
        targets = check_targets(targets, output.valid, config.num_clusters)
        # places in a line of all frames: a GPU is waited for once for them, and for each use of a mask
        places = {"masked": masked, "unmasked": output.valid & ~masked}
        places = {name: chosen.flatten().nonzero()[:, 0] for name, chosen in places.items()}
        if not len(places["masked"]):
            raise ValueError(
                "no frame is masked, so there is nothing to predict; pass mask_time_indices (unisat.masking.span_mask "
                "draws one), or train (model.train()) with config.mask_time_prob above 0 and clips longer than a span."
            )
        weights = {name: self.term_scales.get(name, 1.0) * weight for name, weight in loss_weights(config).items()}
        terms: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        frames: dict[str, int] = {}
        assert output.logits is not None
        for name, chosen in places.items():
            term, logits, expected = f"content_{name}", output.logits.flatten(0, 1)[chosen], targets.flatten()[chosen]
            # a term without a weight is reported only: no gradient flows through it
            terms[term] = content_loss(logits if weights[term] else logits.detach(), expected)
            metrics[f"accuracy_{name}"] = content_accuracy(logits, expected)
            if weights[term]:
                frames[term] = int((expected != -100).sum())
        utterances, instances = places["masked"] // masked.shape[1], None
        if (
            config.contrastive_loss_weight
        ):  # also where a schedule holds the term at 0, since the log has a column for it
            terms["contrastive"], report, instances = self._contrast(output, places["masked"], utterances, generator)
            metrics |= report
        if config.diversity_loss == "perplexity":
            terms["diversity"] = diversity_loss(output.prob_perplexity, config.num_codevectors_per_group)
        else:
            terms["diversity"] = diversity_entropy(quantized.probabilities.flatten(0, 1)[places["masked"]].mean(0))
        terms["feature_penalty"] = feature_penalty(conv_features, output.valid)
        return replace(
            output,
            loss=total_loss(terms, weights, frames),
            terms=terms,
            weights=weights,
            metrics=metrics,
            instances=instances,
            utterances=utterances,
            # if no content term has a weight, the other terms are still means over masked frames
            sample_size=sum(frames.values()) if frames else len(utterances),
        )

    def _contrast(
        self,
        output: UniSpeechSatForPreTrainingOutput,
        places: Int[Tensor, " masked"],
        utterances: Int[Tensor, " masked"],
        generator: torch.Generator | None,
    ) -> tuple[Tensor, dict[str, Tensor], Int[Tensor, "masked instances"] | None]:
        """Give the contrastive loss in the form of the config, its report, and the instances drawn for it."""
        config = self.config
        assert output.projected_quantized_states is not None
        states = output.speaker_states, output.projected_quantized_states
        anchors, codes = (one.flatten(0, 1)[places] for one in states)
        similarity = contrastive_similarity(anchors, codes, config.contrastive_logits_temperature)
        if config.contrastive_loss == "bce":
            count, device = len(utterances), utterances.device
            instances = draw_instances(count, config.num_negatives, device=device, generator=generator)
            loss = contrastive_bce(similarity, utterances, instances)
        else:
            instances = None
            loss = contrastive_infonce(similarity, utterances)
        return loss, contrastive_report(similarity.detach(), utterances, instances), instances


def loss_weights(config: UniSpeechSatConfig) -> dict[str, float]:
    """Give the weight of each term of the loss, by the term's name."""
    return {
        "content_masked": config.masked_loss_weight,
        "content_unmasked": config.unmasked_loss_weight,
        "contrastive": config.contrastive_loss_weight,
        "diversity": config.diversity_loss_weight,
        "feature_penalty": config.feature_penalty_weight,
    }


def content_accuracy(logits: Float[Tensor, "frames clusters"], targets: Int[Tensor, " frames"]) -> Float[Tensor, ""]:
    """Share of the frames with a target (not -100) whose likeliest cluster it is; NaN where no frame has one."""
    return (logits.argmax(-1) == targets).sum() / (targets != -100).sum()


def check_targets(
    targets: Tensor, valid: Bool[Tensor, "batch frames"], num_clusters: int
) -> Int[Tensor, "batch frames"]:
    """Refuse targets that cannot be clusters of the frames; give exactly one target for each frame."""
    check_tensor("targets", targets)
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
    return F.pad(targets, (0, max(0, frames - targets.shape[1])), value=-100)[:, :frames].to(valid.device)
