"""One step of the pretraining objective, taken apart: who was mixed, what was compared, and what every term adds."""

from __future__ import annotations

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
from unisat.losses import (
    ContentFloors,
    content_floors,
    content_loss,
    contrastive_bce,
    contrastive_infonce,
    contrastive_report,
)
from unisat.masking import time_mask
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
    """What happened to one batch; `one_step` gives it.

    Attributes
    ----------
    config : UniSpeechSatConfig
        The configuration, with the weights and kinds of the terms.
    mixed : (batch, samples)
        What the model read.
    record : Mixing
        Who was mixed into whom, where and how loud.
    targets : (batch, frames)
        The cluster that each frame should be recognised as; -100 where there is none.
    output : UniSpeechSatForPreTrainingOutput
        Output of the model, with ``mask_time_indices``, ``utterances`` and ``instances``.
    cosines : (S, S)
        Cosine of each masked frame's projected state (row) with each masked frame's quantized state (column).
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
        """True where the anchor and the quantized frame come from one utterance."""
        return self.utterances[:, None] == self.utterances[None]

    @property
    def compared(self) -> Bool[Tensor, "masked masked"]:
        """True where the contrastive loss looks: at each frame's own code and the instances drawn for it.

        In the paper's form (``config.contrastive_loss="infonce"``) it looks at the own code and all those of other
        utterances.
        """
        own = torch.eye(len(self.cosines), dtype=torch.bool, device=self.cosines.device)
        if self.config.contrastive_loss == "infonce":
            return own | ~self.positives
        return own if self.output.instances is None else own.scatter(1, self.output.instances, True)

    def candidates(self, anchor: int) -> Int[Tensor, " candidates"]:
        """List the columns that a row of the matrix is compared with: its own first; one drawn twice comes twice."""
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

    @property
    def floors(self) -> ContentFloors:
        """What answers that hear nothing get on the masked frames' clusters."""
        return content_floors(self.targets, self.output.mask_time_indices, self.output.valid)

    def mixtures(self, names: Sequence[str]) -> pd.DataFrame:
        """Say who was mixed into whom, by number of utterance: ``into, from, start, end, snr_db``, times in seconds."""
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
        """Give each term of the loss: its value, its floor, its weight, and what it adds to the loss.

        Parameters
        ----------
        temperature : float, optional
            Divides the cosines of the content loss and of the contrastive loss; by default the configuration's.

        Returns
        -------
        pandas.DataFrame
            One row for each term. ``value`` is in nats; the diversity is a share of the codebook and the penalty a mean
            square. ``chance`` is what the best constant answer gets, which has only counted: of a content loss the
            entropy of the clusters (`unisat.losses.content_floors`); it is NaN where there is none. ``share`` is the
            share of the counted frames that the term is a mean of, and ``contribution = value · weight · share``. The
            contributions sum to the loss.
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
            chance[name] = float(content_floors(self.targets, chosen, output.valid).entropy)
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
    """Mix and mask a batch, run the model on it in evaluation mode, and keep all that the objective compares.

    Parameters
    ----------
    model
        A model with the parts of the objective, in evaluation mode: without dropout and Gumbel noise.
    batch
        Two utterances at least.
    targets : (batch, frames), optional
        The cluster of each frame; by default the model's own answer to the clean batch.
    mask_prob, mixing_prob : float, optional
        As in `unisat.masking.span_mask` and `unisat.mixing.mix_utterances`; by default those of the configuration.
    seed : int
        Seed of the generator that draws, in this order, mixtures, masks and contrastive instances.
    """
    check_model(model)
    config, kernels, strides = model.config, model.config.conv_kernel, model.config.conv_stride
    draws = torch.Generator().manual_seed(seed)
    device = model.label_embeddings_concat.device
    waveforms, attention_mask = batch.input_values.to(device), batch.attention_mask.to(device)
    targets = clean_targets(model, batch) if targets is None else targets.to(device)
    with torch.no_grad():
        mixed, record = mix_utterances(
            waveforms,
            batch.lengths.to(device),
            mixing_prob=config.mixing_prob if mixing_prob is None else mixing_prob,
            normalize=config.mixing_normalize,
            generator=draws,
        )
        frames = stack_length(batch.lengths, kernels, strides).to(device)
        mask = time_mask(frames, stack_length(waveforms.shape[1], kernels, strides), config, draws, mask_prob=mask_prob)
        output = model(
            mixed,
            attention_mask=attention_mask,
            return_dict=True,
            targets=targets,
            mask_time_indices=mask,
            generator=draws,
        )
    return Step(
        config=config,
        mixed=mixed,
        record=record,
        targets=check_targets(targets, output.valid, config.num_clusters),
        output=output,
        cosines=_cosines(output),
    )


def _cosines(output: UniSpeechSatForPreTrainingOutput) -> Float[Tensor, "masked masked"]:
    """Cosine of each masked frame's projected state (row) with each masked frame's quantized one (column)."""
    assert output.speaker_states is not None
    assert output.projected_quantized_states is not None
    masked = output.mask_time_indices
    states, codes = output.speaker_states[masked].float(), output.projected_quantized_states[masked].float()
    return F.normalize(states, dim=-1) @ F.normalize(codes, dim=-1).T


def clean_targets(model: UniSpeechSatForPreTraining, batch: Batch) -> Int[Tensor, "batch frames"]:
    """Targets for a model whose clusters are not known: its own answer to the batch, neither mixed nor masked."""
    check_model(model)
    device = model.label_embeddings_concat.device
    with torch.no_grad():
        output = model(batch.input_values.to(device), batch.attention_mask.to(device), return_dict=True)
    return output.logits.argmax(-1).masked_fill(~output.valid, -100)


def check_model(model: object) -> None:
    """Refuse a model without the parts of the objective, and a model in training mode."""
    if not isinstance(model, UniSpeechSatForPreTraining):
        raise ValueError(
            f"a {type(model).__name__} has no parts of the pretraining objective (label embeddings, quantizer, speaker "
            'projection); load one that has, us.load("tiny", "pretraining") or '
            "us.UniSpeechSatForPreTraining.from_pretrained(…)."
        )
    if model.training:
        raise ValueError("the model is in training, where each step differs; call model.eval() first.")
