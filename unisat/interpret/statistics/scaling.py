"""Channels brought to mean 0 and variance 1, by what one set of values says, in this set and in others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float

Scale = Literal["standard", "centre", "raw"]


def scaling(
    train: Float[np.ndarray, "*shape"], scale: Scale = "standard", *, axis: int = 0
) -> Callable[[np.ndarray], np.ndarray]:
    """Learn from ``train`` how values are scaled, and give the function that scales any values so.

    Parameters
    ----------
    train : array
        What the means and variances are those of.
    scale : {"standard", "centre", "raw"}
        Mean 0 and variance 1; mean 0 alone; or the values as they are.
    axis : int
        The axis that a mean is taken over: 0 where each channel is scaled over the rows. A channel that does not vary
        is centred, and not divided.

    Returns
    -------
    callable
        Takes an array whose other axes are those of ``train``; with ``axis=0`` also a single row.
    """
    whole = axis != 0  # a single row has no axis 0, so that the means must not have one either
    mean = train.mean(axis, keepdims=whole) if scale != "raw" else np.zeros(())
    spread = train.std(axis, keepdims=whole) if scale == "standard" else np.ones(())
    spread = np.where(spread > 0, spread, 1.0)
    return lambda values: (values - mean) / spread


def standardize(values: Float[np.ndarray, "*shape"], *, axis: int = 0) -> Float[np.ndarray, "*shape"]:
    """Scale values to mean 0 and variance 1 along an axis; what does not vary becomes 0."""
    return scaling(values, axis=axis)(values)
