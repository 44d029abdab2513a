"""Numbers that describe an attention pattern."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor


def measures(
    pattern: Float[Tensor, "query key"], seconds: Float[Tensor, " frames"], *, near: int = 3
) -> dict[str, float]:
    """How far, how widely and how diagonally a pattern looks, on average over its queries.

    ``distance_ms`` is the mean of ``|key time - query time|`` in milliseconds, ``entropy_bits`` the mean
    entropy of a query's weights (0: one key, ``log2(keys)``: all alike), ``near_share`` the weight on keys at
    most ``near`` frames away; for each, a query's weights are first scaled to sum to 1 over the keys given.
    ``inside`` is what they summed to before: less than 1 if the pattern was cut from a longer one.
    """
    # NumPy: torch would share each of these small steps among threads, and wait for all of them
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
