"""What attention does: measures of a pattern, rollout, and the norms of what heads pass on."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from unisat.frames import SAMPLE_RATE
from unisat.interpret.activations.capture import Trace
from unisat.interpret.activations.sites import find_backbone, layer_number
from unisat.modules import unwrap
from unisat.precision import float64


def measures(
    pattern: Float[Tensor, "query key"], seconds: Float[Tensor, " frames"], *, near: int = 3
) -> dict[str, float]:
    """Measure how far, how widely and how diagonally a pattern looks, on average over its queries.

    ``distance_ms`` is the mean of ``|key time - query time|`` in milliseconds. ``entropy_bits`` is the mean entropy
    of a query's weights (0: a single key, ``log2(keys)``: all keys alike). ``near_share`` is the weight on keys at
    most ``near`` frames away. For all three a query's weights are first scaled to sum to 1 over the given keys.
    ``inside`` is their sum before that: it is less than 1 if the pattern was cut from a longer one.
    """
    # NumPy, since torch would share each of these small steps among threads and wait for all of them
    weights = pattern.detach().cpu().double().numpy()
    times, frame = np.asarray(seconds, dtype=float), np.arange(len(seconds))
    sums = weights.sum(-1, keepdims=True)
    weights = np.divide(weights, sums, out=np.zeros_like(weights), where=sums > 0)
    logs = np.log2(weights, out=np.zeros_like(weights), where=weights > 0)
    return {
        "distance_ms": 1000 * float((weights * np.abs(times[:, None] - times)).sum(-1).mean()),
        "entropy_bits": -float((weights * logs).sum(-1).mean()),
        "near_share": float((weights * (np.abs(frame[:, None] - frame) <= near)).sum(-1).mean()),
        "inside": float(sums.mean()),
    }


def head_measures(
    patterns: Float[Tensor, "heads query key"], seconds: Float[Tensor, " frames"]
) -> dict[str, Float[Tensor, " heads"]]:
    """``distance_ms`` and ``entropy_bits`` of `measures` for all heads of a layer at once, in single precision."""
    weights, times = patterns.detach().cpu().float(), torch.as_tensor(seconds).cpu().float()
    sums = weights.sum(-1, keepdim=True)
    weights = torch.where(sums > 0, weights / sums, 0.0)
    apart = (times[:, None] - times).abs()
    queries = weights.shape[1]
    return {
        "distance_ms": 1000 * torch.einsum("hqk,qk->h", weights, apart) / queries,
        "entropy_bits": torch.special.entr(weights).sum((1, 2)) / (queries * math.log(2)),
    }


def heard_by(
    row: Float[Tensor, " keys"], seconds: Float[Tensor, " keys"], samples: Float[Tensor, " samples"]
) -> Float[Tensor, " samples"]:
    """16 kHz ``samples``, each moment as loud as a query's weight there over its largest one.

    Between the centres of the frames, which ``seconds`` gives from the first sample on, the weight is interpolated.
    """
    weights = (row / row.max().clamp(min=1e-9)).detach().cpu().double()
    loud = np.interp(np.arange(len(samples)) / SAMPLE_RATE, np.asarray(seconds, dtype=float), weights.numpy())
    return samples * torch.from_numpy(loud).to(samples)


def pattern_layers(trace: Trace) -> list[int]:
    """Numbers of the blocks whose attention patterns a trace holds, in order.

    Raises
    ------
    ValueError
        If there are none.
    """
    found = [re.fullmatch(r"block\.(\d+)\.attn\.pattern", site) for site in trace.sites]
    layers = sorted(int(one[1]) for one in found if one is not None)
    if not layers:
        raise ValueError(
            f"the trace holds {', '.join(trace.sites) or 'nothing'}, but no attention patterns; "
            'capture them with us.run(model, batch, "block.*.attn.pattern").'
        )
    return layers


def layer_patterns(
    trace: Trace, layer: int, utterance: int, frames: slice
) -> tuple[Float[Tensor, "heads query key"], Float[Tensor, "query key"]]:
    """Patterns of all heads of a layer between some frames of one utterance, and the mean of all heads."""
    heads = trace[f"block.{layer}.attn.pattern"][utterance, :, frames, frames].detach().float().cpu()
    return heads, heads.mean(0)


def every_head(trace: Trace, utterance: int) -> pd.DataFrame:
    """``distance_ms`` and ``entropy_bits`` of each captured layer and head (rows) over a whole utterance."""
    found = {}
    for layer in pattern_layers(trace):
        site = f"block.{layer}.attn.pattern"
        frames = slice(int(trace.lengths(site)[utterance]))
        heads, _ = layer_patterns(trace, layer, utterance, frames)
        numbers = head_measures(heads, trace.seconds(site)[frames])
        found[layer] = pd.DataFrame({name: one.numpy() for name, one in numbers.items()})
    return pd.concat(found, names=["layer", "head"])


def rollout(trace: Trace, *, utterance: int = 0) -> Float[Tensor, "layers queries keys"]:
    """Attention rollout: how much of each frame arrives in each frame after each layer, if only attention moves it.

    The matrices ``A = 0.5 W + 0.5 I`` of the layers are multiplied, where ``W`` is the mean of a layer's heads and the
    rows of ``A`` are scaled to sum to 1 (Abnar and Zuidema, 2020, arXiv:2005.00928, equation 1). Rollout knows nothing
    of what the values hold, nor of what the output projection and the feed-forward do: see `value_norms`.

    Parameters
    ----------
    trace : Trace
        A trace with ``block.*.attn.pattern`` of consecutive layers; rollout starts at the first of them.

    Returns
    -------
    (layers, queries, keys)
        Valid frames only; each row sums to 1.
    """
    names = [name for name in trace.sites if name.endswith("attn.pattern")]
    layers = [layer for name in names if (layer := layer_number(name)) is not None]
    if not layers or layers != list(range(layers[0], layers[0] + len(layers))):
        raise ValueError(
            f"rollout needs the attention patterns of consecutive layers, the trace has those of {layers}; capture "
            "'block.*.attn.pattern'."
        )
    out: list[Tensor] = []
    for name in names:
        weights = float64(trace.ragged(name)[utterance]).mean(0)
        mixed = weights / 2 + torch.eye(len(weights), dtype=weights.dtype, device=weights.device) / 2
        mixed = mixed / mixed.sum(-1, keepdim=True)  # in half precision rows do not quite sum to 1
        out.append(mixed @ out[-1] if out else mixed)
    return torch.stack(out)


def value_norms(
    model: nn.Module, trace: Trace, layer: int, *, utterance: int = 0, summed: bool = False
) -> Float[Tensor, "*heads queries keys"]:
    """Value-weighted norms ``||alpha f(x)||``: the size of what arrives from a key, not only its weight.

    A head computes ``f(x) = (x W_V + b_V) W_O``. The sum of ``alpha f(x)`` over keys and heads, and the bias of the
    output projection, make ``attn.out`` (Kobayashi et al., 2020, arXiv:2004.10102, equations 2 and 5).

    Parameters
    ----------
    trace : Trace
        A trace with ``block.{layer}.attn.pattern`` and ``block.{layer}.attn.v``.
    summed : bool
        Whether to give the norm of all heads' contributions together, instead of each head's.

    Returns
    -------
    (heads, queries, keys), or (queries, keys) with ``summed``
        Valid frames only.
    """
    pattern = float64(trace.ragged(f"block.{layer}.attn.pattern")[utterance])
    values = float64(trace.ragged(f"block.{layer}.attn.v")[utterance])  # (keys, heads, head_dim)
    attention: Any = find_backbone(unwrap(model))[1].encoder.layers[layer].attention
    weight = float64(attention.out_proj.weight.detach()).to(values)
    weight = weight.unflatten(1, values.shape[1:])  # (hidden, heads, head_dim)
    arriving = torch.einsum("khd,ohd->hko", values, weight)
    if not summed:
        return pattern * arriving.norm(dim=-1)[:, None]
    # the heads' vectors are added before the norm; inner products give it without (queries, keys, hidden) numbers
    products = torch.einsum("hko,jko->khj", arriving, arriving)
    squares = (torch.einsum("hqk,khj->jqk", pattern, products) * pattern).sum(0)
    return squares.clamp(min=0).sqrt()
