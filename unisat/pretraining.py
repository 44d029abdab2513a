"""The pretraining model: the backbone with everything that its objective compares."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unisat.config import UniSpeechSatConfig
from unisat.heads import HeadModel
from unisat.outputs import UniSpeechSatForPreTrainingOutput
from unisat.quantizer import GumbelVectorQuantizer


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
        self.project_q = nn.Linear(config.codevector_dim, config.proj_codevector_dim)
        self.project_hid = nn.Linear(config.hidden_size, config.proj_codevector_dim)
        self.speaker_proj = nn.Linear(config.hidden_size, config.codevector_dim)
        self.layer_norm_for_extract = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # a post-LN model does not use this norm: nothing would ever teach it
        self.layer_norm_for_extract.requires_grad_(config.do_stable_layer_norm)
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
        mask_time_indices: Bool[Tensor, "batch frames"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Give everything that the objective compares; the loss itself is not computed here.

        Parameters
        ----------
        mask_time_indices : (batch, frames), optional
            True on frames to hide; the perplexity then counts these frames only.
        generator : torch.Generator, optional
            Source of masks, LayerDrop and Gumbel noise in training.

        Returns
        -------
        UniSpeechSatForPreTrainingOutput
        """
        output, last = self.backbone(
            input_values,
            attention_mask,
            output_attentions,
            True,
            mask_time_indices=mask_time_indices,
            generator=generator,
        )
        layer = self.config.contrastive_layer
        assert output.hidden_states is not None
        contrastive = output.hidden_states[layer]
        # only pre-LN models were pretrained with this norm: a post-LN layer ends in one of its own
        if self.config.do_stable_layer_norm:
            contrastive = self.layer_norm_for_extract(contrastive)
        counted = output.valid if mask_time_indices is None else output.valid & mask_time_indices
        counted = counted if counted.any() else output.valid
        quantized = self.quantizer(self.dropout_features(contrastive), counted, generator=generator)
        projected = self.project_hid(last)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        result = UniSpeechSatForPreTrainingOutput(
            logits=cosine_logits(projected, self.label_embeddings_concat, self.config.contrastive_logits_temperature),
            projected_states=projected,
            projected_quantized_states=self.project_q(quantized.codevectors),
            codevector_perplexity=quantized.code_perplexity,
            hidden_states=output.hidden_states if wanted else None,
            attentions=output.attentions,
            speaker_states=self.speaker_proj(contrastive),
            extract_features=output.extract_features,
            valid=output.valid,
            lengths=output.lengths,
        )
        return self.give(result, return_dict)


def cosine_logits(
    states: Float[Tensor, "batch frames dim"], embeddings: Float[Tensor, "classes dim"], temperature: float
) -> Float[Tensor, "batch frames classes"]:
    """``cos(state, embedding) / temperature`` in float32, for every state and every embedding."""
    return F.normalize(states.float(), dim=-1) @ F.normalize(embeddings.float(), dim=-1).T / temperature
