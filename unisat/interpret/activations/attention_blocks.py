"""Measures of attention in long speech, computed from queries and keys for some queries at a time.

A pattern pairs all frames with all frames, for every head of every layer: for a minute of speech this is too much to
keep. The functions here compute some weights, measure them and drop them. The model keeps its fused attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import index
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unisat.frames import frame_seconds
from unisat.interpret.activations.capture import Trace, as_batch, run
from unisat.interpret.activations.reduce import PerUtterance
from unisat.interpret.activations.sites import chosen_layers, find_backbone
from unisat.model import UniSpeechSatModel
from unisat.modules import unwrap

MEASURES = ["distance_ms", "entropy_bits", "near_share"]
"""Columns of `attention_statistics`."""


def attention_statistics(
    model: nn.Module,
    speech: Any,
    *,
    layers: int | Iterable[int] | None = None,
    near: int = 3,
    block: int = 64,
    sampling_rate: int | None = None,
    attention_mask: Tensor | None = None,
) -> pd.DataFrame:
    """Measure how far, how widely and how diagonally every head looks, without a whole pattern in memory.

    The numbers are those of `unisat.interpret.activations.attention.measures` for ``softmax(q k / sqrt(head_dim))``
    over an utterance's own frames (Vaswani et al., 2017, arXiv:1706.03762, equation 1), in float32 or better. WavLM's
    position bias is added to the scores.

    Parameters
    ----------
    model : UniSpeechSatModel or a model that holds one
        The model, in evaluation mode; it runs once.
    speech
        A `unisat.Batch`, or anything else that `unisat.run` takes.
    layers : int or several, optional
        Which layers, counted from 0; None for all.
    near : int
        How many frames on both sides ``near_share`` counts as near.
    block : int
        Queries at a time. At most 2 x heads x ``block`` x frames numbers are held besides the model's own.
    sampling_rate : int, optional
        Samples a second of bare waveforms.
    attention_mask : (batch, samples), optional
        Only for a tensor (batch, samples).

    Returns
    -------
    pandas.DataFrame
        Indexed by ``id``, ``layer``, ``head``, with means over an utterance's queries. ``distance_ms`` is the distance
        from the query to where it looks, in milliseconds; ``entropy_bits`` the entropy of its weights (0: a single
        key, ``log2(frames)``: all keys alike); ``near_share`` the weight on keys at most ``near`` frames away.

    Raises
    ------
    ValueError
        If there is no such layer, ``near`` or ``block`` is out of range, or the model is in training mode.

    Examples
    --------
    >>> table = us.attention_statistics(model, batch)
    >>> table["distance_ms"].groupby(["layer", "head"]).mean().unstack("head")
    """
    backbone = find_backbone(unwrap(model))[1]
    last = backbone.config.num_hidden_layers - 1
    chosen = chosen_layers(range(last + 1) if layers is None else layers, last)
    near, block = _at_least(0, near=near), _at_least(1, block=block)
    waiting: list[Tensor] = []

    def hold(values: Float[Tensor, "batch frames heads *head_dim"], valid: Bool[Tensor, "batch frames"]) -> Tensor:
        waiting.append(values)  # for the keys of the same layer, which come last
        return values.new_empty(len(values), 0)

    def describe(k: Float[Tensor, "batch frames heads head_dim"], valid: Bool[Tensor, "batch frames"]) -> Tensor:
        q, gate = waiting.pop(), waiting.pop() if waiting else [None] * len(k)
        each = zip(q, k, gate, valid.sum(1).tolist(), strict=True)
        return torch.stack([_measures(q[:n], k[:n], near, block, _bias(backbone, gate, n)) for q, k, gate, n in each])

    trace = _run(backbone, speech, chosen, (hold, describe), sampling_rate=sampling_rate, attention_mask=attention_mask)
    found = torch.stack([trace[f"block.{layer}.attn.k"] for layer in chosen], dim=1)  # (batch, layers, heads, measures)
    rows = pd.MultiIndex.from_product([trace.ids, chosen, range(found.shape[2])], names=["id", "layer", "head"])
    table = pd.DataFrame(found.flatten(0, 2).numpy(), rows, MEASURES)
    # until here distances are in frames: small whole numbers, which float32 holds exactly
    seconds = frame_seconds(2, backbone.config.conv_kernel, backbone.config.conv_stride)
    table["distance_ms"] *= 1000 * float(seconds[1] - seconds[0])
    return table


def rollout_of(
    model: nn.Module,
    speech: Any,
    queries: Sequence[int],
    *,
    utterance: int = 0,
    layers: int | Iterable[int] | None = None,
    block: int = 64,
    sampling_rate: int | None = None,
    attention_mask: Tensor | None = None,
) -> Float[Tensor, "queries keys"]:
    """Attention rollout of some frames: rows of `unisat.rollout` after the last layer, without frames x frames numbers.

    A row of ``A_L ... A_2 A_1`` is a row of ``A_L`` times ``A_{L-1}``, and so on down to the first layer, where
    ``A = 0.5 W + 0.5 I`` and ``W`` is the mean of a layer's heads (Abnar and Zuidema, 2020, arXiv:2005.00928, equation
    1). For that ``block`` rows of a pattern at a time are enough; queries and keys of all layers are kept.

    Parameters
    ----------
    model : UniSpeechSatModel or a model that holds one
        The model, in evaluation mode; it runs once.
    speech
        A `unisat.Batch`, or anything else that `unisat.run` takes.
    queries : sequence of int
        Frames of the utterance, counted from 0.
    utterance : int
        Which utterance of the batch.
    layers : int or several, optional
        Which layers, which must be consecutive; None for all.
    block : int
        Rows of a pattern at a time.
    sampling_rate : int, optional
        Samples a second of bare waveforms.
    attention_mask : (batch, samples), optional
        Only for a tensor (batch, samples).

    Returns
    -------
    (queries, keys)
        How much of each frame before the first layer arrives in the asked frames after the last layer, on the CPU, in
        float32 or better; valid frames only, each row sums to 1.

    Raises
    ------
    ValueError
        If there is no such layer, utterance or frame, the layers are not consecutive, ``block`` is not at least 1, or
        the model is in training mode.
    """
    backbone = find_backbone(unwrap(model))[1]
    last = backbone.config.num_hidden_layers - 1
    chosen = chosen_layers(range(last + 1) if layers is None else layers, last)
    if chosen != list(range(chosen[0], chosen[0] + len(chosen))):
        raise ValueError(f"rollout goes through consecutive layers, got layers={chosen}; leave none out between.")
    block, utterance = _at_least(1, block=block), _at_least(0, utterance=utterance)
    asked = [_at_least(0, queries=query) for query in queries]
    if not asked:
        raise ValueError("queries are empty; give the numbers of one or more frames.")
    if not isinstance(speech, Tensor) or speech.ndim != 2:
        speech = as_batch(speech, sampling_rate)
    if utterance >= len(speech):
        raise ValueError(f"utterance={utterance}: the batch has {len(speech)}, 0 to {len(speech) - 1}.")

    def keep(values: Float[Tensor, "batch frames heads *head_dim"], valid: Bool[Tensor, "batch frames"]) -> Tensor:
        return values[[utterance], : int(valid[utterance].sum())]

    trace = _run(backbone, speech, chosen, (keep, keep), attention_mask=attention_mask, device=backbone.device)
    frames = trace[f"block.{chosen[0]}.attn.q"].shape[1]
    if max(asked) >= frames:
        raise ValueError(f"queries={max(asked)}: the utterance has {frames} frames, 0 to {frames - 1}.")
    rows = F.one_hot(torch.tensor(asked, device=backbone.device), frames)
    for layer in reversed(chosen):
        *gate, q, k = (trace[f"block.{layer}.attn.{side}"][0] for side in _sides(backbone))
        rows = _arriving(rows, q, k, block, _bias(backbone, gate[0] if gate else None, frames))
    return rows.cpu()


def _run(
    backbone: UniSpeechSatModel, speech: Any, layers: Sequence[int], reducers: Sequence[PerUtterance], **options: Any
) -> Trace:
    """Run the model with a reducer for the keys of each layer, and one for what comes before them."""
    reduce: Mapping[str, PerUtterance] = {
        f"block.{layer}.attn.{side}": reducers[side == "k"] for layer in layers for side in _sides(backbone)
    }
    return run(backbone, speech, *reduce, reduce=reduce, **options)[1]


def _sides(backbone: UniSpeechSatModel) -> list[str]:
    """What a layer's scores are made of, in the order in which it is computed."""
    return ["q", "k"] if backbone.encoder.position_bias(1) is None else ["gate", "q", "k"]


Bias = Callable[[int, int], Tensor]
"""Gives what is added to the scores of some queries, (heads, queries, frames), from the first and the last."""


def _bias(backbone: UniSpeechSatModel, gate: Float[Tensor, "frames heads"] | None, frames: int) -> Bias | None:
    """The position bias of one layer and utterance; None where the model has none."""
    if gate is None:
        return None

    encoder: Any = backbone.encoder

    def rows(start: int, stop: int) -> Float[Tensor, "heads queries frames"]:
        with torch.no_grad():
            stop = min(stop, frames)
            return gate[start:stop].T[..., None] * encoder.position_bias(frames, start, stop)

    return rows


def _scores(
    q: Float[Tensor, "frames heads head_dim"],
    k: Float[Tensor, "frames heads head_dim"],
    block: int,
    bias: Bias | None = None,
) -> Iterator[tuple[int, Float[Tensor, "heads block frames"]]]:
    """Scaled scores of one utterance for ``block`` queries at a time, with the number of the first query."""
    precision = torch.promote_types(q.dtype, torch.float32)
    queries = q.to(precision).transpose(0, 1) * q.shape[-1] ** -0.5  # (heads, frames, head_dim)
    keys = k.to(precision).permute(1, 2, 0)
    for start in range(0, len(q), block):
        scores = queries[:, start : start + block] @ keys
        yield start, scores if bias is None else scores + bias(start, start + block)


def _measures(
    q: Float[Tensor, "frames heads head_dim"],
    k: Float[Tensor, "frames heads head_dim"],
    near: int,
    block: int,
    bias: Bias | None = None,
) -> Float[Tensor, "heads measures"]:
    """`MEASURES` of one layer and utterance, the distance in frames, in float64 on the CPU."""
    frames, heads, _ = q.shape
    number = torch.arange(frames, dtype=torch.float32, device=q.device)
    total = torch.zeros(heads, len(MEASURES), dtype=torch.float64)
    with torch.autocast(q.device.type, enabled=False):
        for start, scores in _scores(q, k, block, bias):
            scores -= scores.amax(-1, keepdim=True)
            weights = scores.exp()
            sums = weights.sum(-1)  # (heads, block)
            apart = (number[start : start + block, None] - number).abs()
            distance = torch.einsum("hqk,qk->hq", weights, apart.to(weights)) / sums
            band = slice(max(0, start - near), start + block + near)  # other keys are not near a query of the block
            inside = torch.einsum("hqk,qk->hq", weights[..., band], (apart[:, band] <= near).to(weights)) / sums
            # -sum p log p, with p = exp(score) / sum, in the memory of the scores, which are not needed any more
            entropy = sums.log() - scores.mul_(weights).sum(-1) / sums
            total += torch.stack([distance, entropy, inside], dim=-1).sum(1).cpu()
    total[:, MEASURES.index("entropy_bits")] /= math.log(2)
    return total / frames


def _arriving(
    rows: Tensor,
    q: Float[Tensor, "frames heads head_dim"],
    k: Float[Tensor, "frames heads head_dim"],
    block: int,
    bias: Bias | None = None,
) -> Float[Tensor, "queries frames"]:
    """``rows @ (0.5 W + 0.5 I)``, where ``W`` is the mean of the heads."""
    rows = rows.to(torch.promote_types(q.dtype, torch.float32))
    arriving = torch.zeros_like(rows)
    with torch.autocast(q.device.type, enabled=False):
        for start, scores in _scores(q, k, block, bias):
            arriving += rows[:, start : start + block] @ torch.softmax(scores, -1, out=scores).mean(0)
    return (rows + arriving) / 2


def _at_least(least: int, **named: Any) -> int:
    """Check for a whole number of at least ``least``; the keyword is its name in the message."""
    ((name, number),) = named.items()
    try:
        whole = index(number)
    except TypeError:
        whole = least - 1
    if whole < least:
        raise ValueError(f"{name}={number!r} must be a whole number of at least {least}.")
    return whole
