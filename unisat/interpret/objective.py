"""One step of the pretraining objective taken apart: who was mixed, what was compared, what every term adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from unisat.config import UniSpeechSatConfig
from unisat.corpus import Batch
from unisat.frames import SAMPLE_RATE, hop, stack_length
from unisat.losses import content_loss, contrastive_bce, contrastive_infonce, contrastive_report
from unisat.masking import span_mask
from unisat.mixing import Mixing, mix_utterances
from unisat.outputs import UniSpeechSatForPreTrainingOutput
from unisat.pretraining import UniSpeechSatForPreTraining, check_targets


@dataclass(frozen=True, eq=False)
class Comparison:
    """What one masked frame is compared with; of `Step.compare`.

    Attributes
    ----------
    scores : (candidates,)
        Cosine over temperature of the frame with each quantized frame.
    same : (candidates,)
        True where that comes from the frame's own utterance.
    threshold : float
        The loss answers yes from here on: 0 in the released loss, in the paper's the score of the frame's own code.
    """

    scores: Float[Tensor, " candidates"]
    same: Bool[Tensor, " candidates"]
    threshold: float

    @property
    def right(self) -> Bool[Tensor, " candidates"]:
        """True where the answer is right: yes to the frame's own utterance, no to the others."""
        return (self.scores >= self.threshold) == self.same


@dataclass(frozen=True, eq=False)
class Step:
    """What one batch went through; made by `one_step`.

    Attributes
    ----------
    config : UniSpeechSatConfig
        Weights and kinds of the terms.
    mixed : (batch, samples)
        What the model read.
    record : Mixing
        Who was mixed into whom, where and how loud.
    targets : (batch, frames)
        The cluster that each frame is to be recognised as; -100 where there is none.
    output : UniSpeechSatForPreTrainingOutput
        Of the model, with ``mask_time_indices``, ``utterances`` and ``instances``.
    cosines : (S, S)
        Of each masked frame's projected state (row) with each masked frame's quantized one (column).
    """

    config: UniSpeechSatConfig
    mixed: Float[Tensor, "batch samples"]
    record: Mixing
    targets: Int[Tensor, "batch frames"]
    output: UniSpeechSatForPreTrainingOutput
    cosines: Float[Tensor, "masked masked"]

    @property
    def utterances(self) -> Int[Tensor, " masked"]:
        """The utterance that each masked frame belongs to."""
        return self.output.mask_time_indices.nonzero()[:, 0]

    @property
    def positives(self) -> Bool[Tensor, "masked masked"]:
        """True where anchor and quantized frame come from one utterance."""
        return self.utterances[:, None] == self.utterances[None]

    @property
    def compared(self) -> Bool[Tensor, "masked masked"]:
        """True where the contrastive loss looks: each frame's own code and the instances drawn for it.

        In the paper's form (``config.contrastive_loss="infonce"``) these are the own code and all of other utterances.
        """
        own = torch.eye(len(self.cosines), dtype=torch.bool, device=self.cosines.device)
        if self.config.contrastive_loss == "infonce":
            return own | ~self.positives
        return own if self.output.instances is None else own.scatter(1, self.output.instances, True)

    def candidates(self, anchor: int) -> Int[Tensor, " candidates"]:
        """Columns that one row of the matrix is compared with: its own first, one drawn twice twice."""
        own = torch.tensor([anchor], device=self.cosines.device)
        if self.config.contrastive_loss == "infonce":
            return torch.cat([own, (~self.positives[anchor]).nonzero()[:, 0]])
        return own if self.output.instances is None else torch.cat([own, self.output.instances[anchor]])

    def compare(self, anchor: int, temperature: float | None = None) -> Comparison:
        """Compare one row of the matrix with its `candidates`; the temperature is the configuration's, if None."""
        temperature = self.config.contrastive_logits_temperature if temperature is None else temperature
        columns = self.candidates(anchor)
        scores = self.cosines[anchor, columns] / temperature
        threshold = 0.0 if self.config.contrastive_loss == "bce" else float(scores[0])
        return Comparison(scores, self.positives[anchor, columns], threshold)

    def nearest(self, utterance: int, seconds: float) -> tuple[int, float] | None:
        """Row of the masked frame of an utterance that begins nearest to a time, and when that is; None without one."""
        frames = self.output.mask_time_indices[utterance].nonzero()[:, 0]
        if not len(frames):
            return None
        starts = hop(self.config.conv_stride) / SAMPLE_RATE * frames
        place = int((starts - seconds).abs().argmin())
        return int((self.utterances == utterance).nonzero()[place, 0]), float(starts[place])

    @property
    def hidden_share(self) -> float:
        """Share of the valid frames that are masked."""
        return float(self.output.mask_time_indices.sum() / self.output.valid.sum())

    def mixtures(self, names: Sequence[str]) -> pd.DataFrame:
        """Who was mixed into whom, by number of utterance: ``into, from, start, end, snr_db``, times in seconds."""
        rows = [
            {
                "utterance": row["utterance"],
                "into": names[row["utterance"]],
                "from": names[row["secondary"]],
                "start": row["start"] / SAMPLE_RATE,
                "end": row["end"] / SAMPLE_RATE,
                "snr_db": row["snr_db"],
            }
            for row in self.record.rows()
        ]
        columns = ["utterance", "into", "from", "start", "end", "snr_db"]
        return pd.DataFrame(rows, columns=columns).set_index("utterance")

    def terms(self, temperature: float | None = None) -> pd.DataFrame:
        """Each term of the loss: its value, what knowing nothing gives, its weight, and what it adds to the loss.

        Parameters
        ----------
        temperature : float, optional
            Divides the cosines of the content and of the contrastive loss; the configuration's, if None.

        Returns
        -------
        pandas.DataFrame
            One row for each term: ``value`` in nats (the diversity: a share of the codebook; the penalty: a mean
            square), ``chance`` (NaN where there is none), ``weight``, ``share`` of the counted frames that the term is
            a mean of, ``contribution = value · weight · share``. The contributions sum to the loss.
        """
        config, output = self.config, self.output
        temperature = config.contrastive_logits_temperature if temperature is None else temperature
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} must be positive.")
        assert output.logits is not None
        terms, chance, share = dict(output.terms), {}, {}
        logits = output.logits * (config.contrastive_logits_temperature / temperature)
        masked = output.mask_time_indices
        for name, chosen in {"content_masked": masked, "content_unmasked": output.valid & ~masked}.items():
            terms[name] = content_loss(logits[chosen], self.targets[chosen])
            chance[name] = math.log(config.num_clusters)
            counted = int((self.targets[chosen] != -100).sum()) if output.weights[name] else 0
            share[name] = counted / max(output.sample_size or 0, 1)
        if "contrastive" in terms:
            similarity, instances = self.cosines / temperature, output.instances
            if instances is None:
                terms["contrastive"] = contrastive_infonce(similarity, self.utterances)
            else:
                terms["contrastive"] = contrastive_bce(similarity, self.utterances, instances)
            chance["contrastive"] = float(
                contrastive_report(similarity, self.utterances, instances)["contrastive_chance"]
            )
        table = pd.DataFrame({"value": {name: float(term) for name, term in terms.items()}})
        table["chance"] = pd.Series(chance)
        table["weight"] = pd.Series(dict(output.weights))
        table["share"] = pd.Series(share).reindex(table.index).fillna(1.0)
        table["contribution"] = table["value"] * table["weight"] * table["share"]
        return table.rename_axis("term")


def one_step(
    model: UniSpeechSatForPreTraining,
    batch: Batch,
    targets: Integer[Tensor, "batch frames"] | None = None,
    *,
    mask_prob: float | None = None,
    mixing_prob: float | None = None,
    seed: int = 0,
) -> Step:
    """Mix and mask a batch, run it through the model in evaluation, and keep all that the objective compares.

    Parameters
    ----------
    model
        With the parts of the objective, in evaluation (``model.eval()``): no dropout, no Gumbel noise.
    batch
        Two utterances at least.
    targets : (batch, frames), optional
        The cluster of each frame; the model's own answer to the clean batch, if None.
    mask_prob, mixing_prob : float, optional
        As in `unisat.masking.span_mask` and `unisat.mixing.mix_utterances`; the configuration's, if None.
    seed : int
        Of the generator that draws, in this order, mixtures, masks and contrastive instances.
    """
    check_model(model)
    config = model.config
    draws = torch.Generator().manual_seed(seed)
    device = model.label_embeddings_concat.device
    clean, attention_mask = batch.input_values.to(device), batch.attention_mask.to(device)
    targets = clean_targets(model, batch) if targets is None else targets.to(device)
    with torch.no_grad():
        mixed, record = mix_utterances(
            clean,
            batch.lengths.to(device),
            mixing_prob=config.mixing_prob if mixing_prob is None else mixing_prob,
            normalize=config.mixing_normalize,
            generator=draws,
        )
        frames = stack_length(batch.lengths, config.conv_kernel, config.conv_stride).to(device)
        mask = span_mask(
            frames,
            stack_length(clean.shape[1], config.conv_kernel, config.conv_stride),
            mask_prob=config.mask_time_prob if mask_prob is None else mask_prob,
            mask_length=config.mask_time_length,
            min_spans=config.mask_time_min_masks,
            generator=draws,
        )
        output = model(
            mixed,
            attention_mask=attention_mask,
            return_dict=True,
            targets=targets,
            mask_time_indices=mask,
            generator=draws,
        )
    masked = output.mask_time_indices
    states, codes = output.speaker_states[masked], output.projected_quantized_states[masked]
    return Step(
        config=config,
        mixed=mixed,
        record=record,
        targets=check_targets(targets, output.valid, config.num_clusters),
        output=output,
        cosines=F.normalize(states.float(), dim=-1) @ F.normalize(codes.float(), dim=-1).T,
    )


def clean_targets(model: UniSpeechSatForPreTraining, batch: Batch) -> Int[Tensor, "batch frames"]:
    """Targets for a model whose clusters are not at hand: its own answer to the batch, unmixed and unmasked."""
    check_model(model)
    device = model.label_embeddings_concat.device
    with torch.no_grad():
        output = model(batch.input_values.to(device), batch.attention_mask.to(device), return_dict=True)
    return output.logits.argmax(-1).masked_fill(~output.valid, -100)


def check_model(model: object) -> None:
    """Refuse a model without the parts of the objective, or one whose dropout is on."""
    if not isinstance(model, UniSpeechSatForPreTraining):
        raise ValueError(
            f"a {type(model).__name__} has no parts of the pretraining objective (label embeddings, quantizer, speaker "
            'projection); load one that has, us.load("tiny", "pretraining") or '
            "us.UniSpeechSatForPreTraining.from_pretrained(…)."
        )
    if model.training:
        raise ValueError("the model is in training, where each step differs; call model.eval() first.")
