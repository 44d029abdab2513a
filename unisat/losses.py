"""The terms of the pretraining objective (UniSpeech-SAT, arXiv:2110.05752), each a function of tensors.

Masked frames are flat throughout: ``S`` frames of a batch with the utterance that each belongs to. The authors keep
(batch, masked frames) instead and cut every utterance to the least masked one by *unmasking frames at random*, which
punches holes into the spans; a flat list needs no such cut.

Every function gives a number in nats that does not depend on how many frames there are (a mean), and its docstring says
what a model that knows nothing gets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
        τ; with cosines in [-1, 1] it bounds how sure a prediction can be.
    """
    return F.normalize(states, dim=-1) @ F.normalize(label_embeddings, dim=-1).T / temperature


@full_precision
def content_loss(logits: Float[Tensor, "frames clusters"], targets: Int[Tensor, " frames"]) -> Float[Tensor, ""]:
    """Cross-entropy of the frames' clusters: ``mean -log p(z_t | t)`` over frames with a target (not -100).

    The masked and the unmasked term of HuBERT (arXiv:2106.07447) are this function on different frames. fairseq
    computes the same as a softmax over [positive; all] with the positive's copy struck out, and logs it in bits.

    Chance is ``ln(clusters)``. A fresh model starts slightly above it, because label embeddings drawn from [0, 1) look
    alike (cosine 0.75). 0 where no frame has a target.
    """
    counted = targets != -100
    if not counted.any():
        return logits.sum() * 0
    return F.cross_entropy(logits, targets, ignore_index=-100)


@full_precision
def contrastive_similarity(
    anchors: Float[Tensor, "frames dim"], quantized: Float[Tensor, "frames dim"], temperature: float = 0.1
) -> Float[Tensor, "frames frames"]:
    """``cos(anchor i, quantized j) / temperature`` of all S masked frames of a batch, (S, S).

    Both forms of the contrastive loss read this matrix; picking instances out of it is the same as comparing each
    anchor with its own copies of 100 vectors, without the copies (101·S·dim numbers in the authors' code).
    """
    return F.normalize(anchors, dim=-1) @ F.normalize(quantized, dim=-1).T / temperature


def draw_instances(
    frames: int,
    num_instances: int = 100,
    *,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "frames instances"]:
    """For each masked frame ``num_instances`` others, drawn uniformly from all masked frames of the batch.

    A frame may draw itself, as in the authors' code in effect (their exclusion shifts the wrong axis); it is then one
    more positive of its own utterance.

    Raises
    ------
    ValueError
        If there is nothing to draw: without instances every answer would be yes.
    """
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
    """True where the anchor's utterance is the instance's; column 0 is the frame's own quantized state, always True."""
    same = utterances[instances] == utterances[:, None]
    return torch.cat([torch.ones_like(same[:, :1]), same], dim=1)


@full_precision
def contrastive_bce(
    similarity: Float[Tensor, "frames frames"],
    utterances: Int[Tensor, " frames"],
    instances: Int[Tensor, "frames instances"],
) -> Float[Tensor, ""]:
    """Is this code from my utterance, yes or no: the utterance-wise contrastive loss as released.

    ``mean over frames t and k = 0..K of BCE(s_tk, y_tk)``: ``s_t0`` compares the anchor with its own frame's code,
    ``s_tk`` with the k-th drawn instance, ``y`` is 1 where both come from one utterance (the authors' code,
    ``unispeech_sat.py``; the paper writes a softmax, see `contrastive_infonce`).

    Parameters
    ----------
    similarity : (S, S)
        From `contrastive_similarity`.
    utterances : (S,)
        Number of the utterance that each masked frame belongs to.
    instances : (S, K)
        From `draw_instances`.

    Raises
    ------
    ValueError
        If all frames come from one utterance: then every answer is yes and nothing can be learned.

    Notes
    -----
    Chance is ``binary_entropy(p)`` with ``p`` the share of positives, about ``(1 + K/B) / (K + 1)`` for B utterances of
    equal length: 0.393 at B = 8. Always saying no is right in ``1 - p`` of the cases, 87 % at B = 8.
    """
    _check_utterances(utterances)
    logits = _chosen(similarity, instances)
    return F.binary_cross_entropy_with_logits(logits, contrastive_targets(utterances, instances).to(logits.dtype))


@full_precision
def contrastive_infonce(
    similarity: Float[Tensor, "frames frames"], utterances: Int[Tensor, " frames"]
) -> Float[Tensor, ""]:
    """Which of these codes is mine: the utterance-wise contrastive loss as the paper writes it.

    ``mean over t of -log exp(s_tt) / (exp(s_tt) + sum over q of other utterances of exp(s_tq))``
    (arXiv:2110.05752; the paper sums over t).

    Chance is the mean of ``ln(1 + N_t)`` with ``N_t`` frames of other utterances.

    Raises
    ------
    ValueError
        If all frames come from one utterance.
    """
    _check_utterances(utterances)
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
    """How often the contrastive task is solved, and what knowing nothing would give.

    With ``instances`` the released form: the share of right answers; without, the paper's: the share of frames whose
    own code is nearest.

    Returns
    -------
    dict
        ``contrastive_accuracy``; ``contrastive_accuracy_chance`` of the best constant answer; ``contrastive_chance``,
        the loss of the best constant answer in nats: the loss has to fall *below* it to mean anything.
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

    The authors' form (fairseq, wav2vec 2.0). ``prob_perplexity`` is that of the mean softmax over masked frames,
    without Gumbel noise and temperature. Equal use of all entries gives 0, one entry for all frames ``1 - 1/V``.
    """
    return 1 - prob_perplexity.sum() / (len(prob_perplexity) * entries)


@full_precision
def diversity_entropy(mean_probabilities: Float[Tensor, "groups entries"]) -> Float[Tensor, ""]:
    """Negative entropy of the codebook's use: ``(1 / GV) sum of p log p`` (wav2vec 2.0, arXiv:2006.11477, eq. 4).

    Between ``-ln(V) / V`` (equal use) and 0 (one entry). About a hundredth of `diversity_loss`: weights of the two
    are not interchangeable.
    """
    return xlogx(mean_probabilities).sum() / mean_probabilities.numel()


@full_precision
def feature_penalty(
    conv_features: Float[Tensor, "batch channels frames"], valid: Bool[Tensor, "batch frames"]
) -> Float[Tensor, ""]:
    """Mean square of the convolutions' output over valid frames, before any norm: keeps the features small (HuBERT)."""
    squares = conv_features.square().mean(1)  # (batch, frames)
    return squares[valid].mean()


def total_loss(terms: Mapping[str, Tensor], weights: Mapping[str, float], frames: Mapping[str, int]) -> Tensor:
    """``sum of weight × term`` for each frame that the content loss counts, as the authors' criterion assembles it.

    Its content terms are sums over masked and, where their weight is not 0, unmasked frames; every other term is a
    mean, multiplied by the number N of frames counted; the whole is divided by N (fairseq's ``sample_size``). So with
    the unmasked weight 0 the total is ``CE + 10 P + ...`` for each masked frame.

    Parameters
    ----------
    terms, weights : dict
        By name; a term without a weight is an error, a weight without a term is not used.
    frames : dict
        How many frames each content term is a mean of, for those with a weight above 0; empty where none has.

    Raises
    ------
    ValueError
        If a content term is wanted and no frame of it has a target.
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
    """The anchor's own frame, then its instances: (S, K + 1)."""
    return torch.cat([similarity.diagonal()[:, None], similarity.gather(1, instances)], dim=1)


def _check_utterances(utterances: Tensor) -> None:
    if not torch.compiler.is_compiling() and not (utterances != utterances[:1]).any():
        raise ValueError(
            "the contrastive loss compares utterances, but all masked frames come from one; pass a batch of at least "
            "two utterances, or set contrastive_loss_weight=0."
        )
