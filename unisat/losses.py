"""The terms of the pretraining objective (UniSpeech-SAT, arXiv:2110.05752), each a function of tensors.

The masked frames of a batch are always one flat list of ``S`` frames, with the utterance of each frame. The authors
keep (batch, masked frames) instead: they cut every utterance to the least masked one by *unmasking frames at random*,
which makes holes in the spans. A flat list needs no such cut.

Every loss is a mean, so it does not depend on the number of frames. Cross-entropies are in nats. What a model reaches
that has only counted is given beside them: `content_floors`, `contrastive_report`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unisat.inputs import check_number
from unisat.precision import full_precision, xlogx


@full_precision
def content_logits(
    states: Float[Tensor, "*frames dim"], label_embeddings: Float[Tensor, "clusters dim"], temperature: float = 0.1
) -> Float[Tensor, "*frames clusters"]:
    """``cos(state, label embedding) / temperature`` for every frame and every cluster (HuBERT, arXiv:2106.07447).

    Parameters
    ----------
    states : (..., dim)
        `project_hid` of the last hidden state.
    label_embeddings : (clusters, dim)
        One learned vector for each cluster.
    temperature : float
        τ. The cosines lie in [-1, 1], so τ limits how sure a prediction can be.
    """
    _check_temperature(temperature)
    return F.normalize(states, dim=-1) @ F.normalize(label_embeddings, dim=-1).T / temperature


@full_precision
def content_loss(logits: Float[Tensor, "frames clusters"], targets: Int[Tensor, " frames"]) -> Float[Tensor, ""]:
    """Cross-entropy of the frames' clusters: ``mean -log p(z_t | t)`` over frames with a target (not -100).

    The masked and the unmasked term of HuBERT (arXiv:2106.07447) are this function on different frames. fairseq
    computes the same value as a softmax over [positive; all] without the positive's copy, and logs it in bits.

    Equal probabilities for all clusters give ``ln(clusters)``. A fresh model starts slightly above it, because label
    embeddings drawn from [0, 1) are similar (cosine 0.75). A model that has only counted gets less than
    ``ln(clusters)``: see `content_floors`. The loss is 0 if no frame has a target.

    Raises
    ------
    ValueError
        If there is not one target for each frame, or a target is no cluster.
    """
    frames, clusters = logits.shape
    if targets.shape != (frames,) or targets.is_floating_point():
        raise ValueError(f"targets must be ({frames},) integers, got {tuple(targets.shape)} of {targets.dtype}.")
    counted = targets != -100
    wrong = counted & ((targets < 0) | (targets >= clusters))
    any_counted, any_wrong = torch.stack([counted.any(), wrong.any()]).tolist()  # a GPU is waited for once
    if any_wrong:
        raise ValueError(
            f"targets hold {int(targets[wrong][0])}; with {clusters} clusters they run from 0 to {clusters - 1}, and "
            "-100 where there is none."
        )
    if not any_counted:
        return logits.sum() * 0
    return F.cross_entropy(logits, targets, ignore_index=-100)


@dataclass(frozen=True, eq=False)
class ContentFloors:
    """What three answers get that hear nothing of the frames in question; `content_floors` counts them.

    Only an accuracy above `commonest` and `copied` and a loss below `entropy` show that a model has heard something.
    All three are NaN where no frame is in question.

    Attributes
    ----------
    counts : (clusters,)
        Frames of each cluster among the frames in question. Counts of several batches add up.
    copies : ()
        Number of frames in question whose cluster the nearest other frame has.
    """

    counts: Int[Tensor, " clusters"]
    copies: Int[Tensor, ""]

    @property
    def commonest(self) -> Float[Tensor, ""]:
        """Accuracy of the best constant answer: the share of the commonest cluster."""
        return self.counts.max() / self.counts.sum()

    @property
    def copied(self) -> Float[Tensor, ""]:
        """Accuracy of an answer that copies the cluster of the nearest frame that it may look at."""
        return self.copies / self.counts.sum()

    @property
    def entropy(self) -> Float[Tensor, ""]:
        """Loss in nats of the best constant probabilities, which are the clusters' shares; at most ``ln(clusters)``."""
        return -xlogx(self.counts / self.counts.sum()).sum()


def content_floors(
    targets: Int[Tensor, "batch frames"],
    mask: Bool[Tensor, "batch frames"],
    valid: Bool[Tensor, "batch frames"],
    num_clusters: int = 0,
) -> ContentFloors:
    """Count what the clusters of masked frames give away without any sound.

    Parameters
    ----------
    targets : (batch, frames)
        The cluster of each frame; frames without one (-100) do not count and are not copied.
    mask : (batch, frames)
        The frames in question. An answer that copies looks at the nearest valid frame outside the mask, the earlier
        one if two are equally near. It is wrong in an utterance without such a frame.
    valid : (batch, frames)
        True on frames of the utterances, False on padding.
    num_clusters : int
        Least length of the counts, so that those of several batches can be added.
    """
    if not targets.shape == mask.shape == valid.shape or targets.ndim != 2:
        raise ValueError(
            f"targets, mask and valid must be of one shape (batch, frames), got {tuple(targets.shape)}, "
            f"{tuple(mask.shape)} and {tuple(valid.shape)}."
        )
    known = valid & (targets != -100)
    asked, seen = known & mask, known & ~mask
    count = targets.shape[1]
    frames = torch.arange(count, device=targets.device).expand_as(targets)
    before = torch.where(seen, frames, -2 * count).cummax(1).values
    behind = torch.where(seen, frames, 3 * count).flip(1).cummin(1).values.flip(1)
    nearest = torch.where(frames - before <= behind - frames, before, behind)
    copied = targets.gather(1, nearest.clamp(0, count - 1)) == targets
    return ContentFloors(
        counts=torch.bincount(targets[asked], minlength=max(num_clusters, 1)),
        copies=(asked & copied & seen.any(1, keepdim=True)).sum(),
    )


@full_precision
def contrastive_similarity(
    anchors: Float[Tensor, "frames dim"], quantized: Float[Tensor, "frames dim"], temperature: float = 0.1
) -> Float[Tensor, "frames frames"]:
    """``cos(anchor i, quantized j) / temperature`` of all S masked frames of a batch, (S, S).

    Both forms of the contrastive loss read this matrix. The authors' code copies 100 vectors for each anchor and
    compares it with them (101·S·dim numbers). Picking instances out of the matrix gives the same without copies.
    """
    _check_temperature(temperature)
    return F.normalize(anchors, dim=-1) @ F.normalize(quantized, dim=-1).T / temperature


def draw_instances(
    frames: int,
    num_instances: int = 100,
    *,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "frames instances"]:
    """For each masked frame, ``num_instances`` frames drawn uniformly from all masked frames of the batch.

    A frame may draw itself, and is then one more positive of its own utterance. The authors' code has the same
    effect, because its exclusion shifts the wrong axis.

    Raises
    ------
    ValueError
        If ``num_instances`` is below 1. Without instances every answer would be yes.
    """
    check_number("frames", frames, 0, whole=True)
    check_number("num_instances", num_instances, whole=True)
    if num_instances < 1:
        raise ValueError(
            f"num_instances={num_instances} leaves nothing to compare with; draw at least one (config.num_negatives), "
            "or set contrastive_loss_weight=0."
        )
    source = generator.device if generator is not None else device
    return torch.randint(frames, (frames, num_instances), generator=generator, device=source).to(device or "cpu")


def contrastive_targets(
    utterances: Int[Tensor, " frames"], instances: Int[Tensor, "frames instances"]
) -> Bool[Tensor, "frames instances+1"]:
    """True where the instance is from the anchor's utterance; column 0, the anchor's own frame, is always True."""
    same = utterances[instances] == utterances[:, None]
    return torch.cat([torch.ones_like(same[:, :1]), same], dim=1)


@full_precision
def contrastive_bce(
    similarity: Float[Tensor, "frames frames"],
    utterances: Int[Tensor, " frames"],
    instances: Int[Tensor, "frames instances"],
) -> Float[Tensor, ""]:
    """The utterance-wise contrastive loss as released: is this code from the anchor's utterance, yes or no.

    ``mean over frames t and k = 0..K of BCE(s_tk, y_tk)``. ``s_t0`` compares the anchor with the code of its own
    frame, ``s_tk`` with the k-th drawn instance. ``y`` is 1 where both come from one utterance. This is the authors'
    code (``unispeech_sat.py``); the paper writes a softmax, see `contrastive_infonce`.

    Parameters
    ----------
    similarity : (S, S)
        From `contrastive_similarity`.
    utterances : (S,)
        Number of the utterance of each masked frame.
    instances : (S, K)
        From `draw_instances`.

    Raises
    ------
    ValueError
        If all frames come from one utterance. Then every answer is yes, and nothing can be learned.

    Notes
    -----
    Chance is ``binary_entropy(p)``, 0.393 at B = 8. ``p`` is the share of positives, about ``(1 + K/B) / (K + 1)`` for
    B utterances of equal length. The constant answer no is right in ``1 - p`` of the cases, 87 % at B = 8.
    """
    _check_utterances(utterances, similarity)
    logits = _chosen(similarity, instances)
    return F.binary_cross_entropy_with_logits(logits, contrastive_targets(utterances, instances).to(logits.dtype))


@full_precision
def contrastive_infonce(
    similarity: Float[Tensor, "frames frames"], utterances: Int[Tensor, " frames"]
) -> Float[Tensor, ""]:
    """The utterance-wise contrastive loss as the paper writes it: which of these codes is the anchor's own.

    ``mean over t of -log exp(s_tt) / (exp(s_tt) + sum over q of other utterances of exp(s_tq))``
    (arXiv:2110.05752; the paper sums over t).

    Chance is the mean of ``ln(1 + N_t)``, where ``N_t`` is the number of frames of other utterances.

    Raises
    ------
    ValueError
        If all frames come from one utterance.
    """
    _check_utterances(utterances, similarity)
    others = utterances[:, None] != utterances[None]
    own = similarity.diagonal()
    everything = torch.where(others | torch.eye(len(own), dtype=torch.bool, device=own.device), similarity, -math.inf)
    return (everything.logsumexp(1) - own).mean()


@full_precision
def contrastive_report(
    similarity: Float[Tensor, "frames frames"],
    utterances: Int[Tensor, " frames"],
    instances: Int[Tensor, "frames instances"] | None = None,
) -> dict[str, Tensor]:
    """How often the contrastive task is solved, and how often a model that knows nothing would solve it.

    With ``instances`` this is about the released form: the share of right answers. Without them it is about the
    paper's form: the share of frames whose own code is the nearest.

    Returns
    -------
    dict
        ``contrastive_accuracy``; ``contrastive_accuracy_chance``, the accuracy of the best constant answer;
        ``contrastive_chance``, its loss in nats. Only a loss *below* that shows that something was learned.
    """
    if instances is None:
        others = utterances[:, None] != utterances[None]
        rivals = 1 + others.sum(1).to(similarity.dtype)
        nearest = similarity.masked_fill(~others, -math.inf).max(1).values
        right, guess, chance = similarity.diagonal() > nearest, (1 / rivals).mean(), rivals.log().mean()
    else:
        targets = contrastive_targets(utterances, instances)
        positive = targets.to(similarity.dtype).mean()
        right = (_chosen(similarity, instances) >= 0) == targets
        guess, chance = torch.maximum(positive, 1 - positive), binary_entropy(positive)
    return {
        "contrastive_accuracy": right.to(similarity.dtype).mean(),
        "contrastive_accuracy_chance": guess,
        "contrastive_chance": chance,
    }


@full_precision
def diversity_loss(prob_perplexity: Float[Tensor, " groups"], entries: int) -> Float[Tensor, ""]:
    """The share of the codebook that is not in use: ``(G·V - sum of perplexities) / (G·V)``, in [0, 1).

    This is the authors' form (fairseq, wav2vec 2.0). ``prob_perplexity`` is the perplexity of the mean softmax over
    masked frames, without Gumbel noise and temperature. Equal use of all entries gives 0; one entry for all frames
    gives ``1 - 1/V``.
    """
    return 1 - prob_perplexity.sum() / (len(prob_perplexity) * entries)


@full_precision
def diversity_entropy(mean_probabilities: Float[Tensor, "groups entries"]) -> Float[Tensor, ""]:
    """Negative entropy of the codebook's use: ``(1 / GV) sum of p log p`` (wav2vec 2.0, arXiv:2006.11477, eq. 4).

    It lies between ``-ln(V) / V`` (equal use) and 0 (one entry). Its scale is about a hundredth of `diversity_loss`,
    so the two need different weights.
    """
    return xlogx(mean_probabilities).sum() / mean_probabilities.numel()


@full_precision
def feature_penalty(
    conv_features: Float[Tensor, "batch channels frames"], valid: Bool[Tensor, "batch frames"]
) -> Float[Tensor, ""]:
    """Mean square of the convolutions' output over valid frames, before any norm; it keeps features small (HuBERT)."""
    squares = conv_features.square().mean(1)  # (batch, frames)
    if valid.shape != squares.shape or valid.dtype != torch.bool:
        raise ValueError(
            f"valid must be {tuple(squares.shape)} (batch, frames) of bool, got {tuple(valid.shape)} of {valid.dtype}."
        )
    return squares.masked_fill(~valid, 0).sum() / valid.sum()


def total_loss(terms: Mapping[str, Tensor], weights: Mapping[str, float], frames: Mapping[str, int]) -> Tensor:
    """``sum of weight × term`` for each frame that the content loss counts, as the authors' criterion assembles it.

    In that criterion the content terms are sums over masked frames and, if their weight is not 0, unmasked frames.
    Every other term is a mean that is multiplied by the number N of counted frames. The whole is divided by N
    (fairseq's ``sample_size``). With the unmasked weight 0 the total is ``CE + 10 P + ...`` for each masked frame.

    Parameters
    ----------
    terms, weights : dict
        By name. A term without a weight is an error; a weight without a term is not used.
    frames : dict
        Number of frames that each content term is a mean of, for terms with a weight above 0; empty without such terms.

    Raises
    ------
    ValueError
        If content terms are wanted and no frame has a target.
    """
    counted = sum(frames.values())
    if frames and not counted:
        raise ValueError(
            f"none of the frames of {', '.join(frames)} has a target (all are -100), so there is nothing to predict; "
            "mask frames that have one, or leave the batch out."
        )
    parts = [weights[name] * term * (frames[name] / counted if name in frames else 1) for name, term in terms.items()]
    return torch.stack(parts).sum()


def binary_entropy(probability: Tensor) -> Tensor:
    """``H(p) = -p ln p - (1 - p) ln(1 - p)`` in nats: the loss of the best constant answer to a yes-no question."""
    return -xlogx(probability) - xlogx(1 - probability)


def _chosen(similarity: Tensor, instances: Tensor) -> Tensor:
    """Similarity of each anchor to its own frame, then to its instances: (S, K + 1)."""
    return torch.cat([similarity.diagonal()[:, None], similarity.gather(1, instances)], dim=1)


def _check_temperature(temperature: float) -> None:
    check_number("temperature", temperature)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive.")


def _check_utterances(utterances: Tensor, similarity: Tensor) -> None:
    frames = len(utterances)
    if utterances.ndim != 1 or similarity.shape != (frames, frames):
        raise ValueError(
            f"similarity must be (frames, frames) and utterances (frames,), got {tuple(similarity.shape)} and "
            f"{tuple(utterances.shape)}."
        )
    if not torch.compiler.is_compiling() and not (utterances != utterances[:1]).any():
        raise ValueError(
            "the contrastive loss compares utterances, but all masked frames come from one; pass a batch of at least "
            "two utterances, or set contrastive_loss_weight=0."
        )
