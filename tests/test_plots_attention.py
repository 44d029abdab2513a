"""Pictures of attention: that they show the weights they were given."""

import numpy as np
import pytest
import torch

from unisat import plots
from unisat.frames import frame_seconds
from unisat.plots._attention import pooled

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


def test_long_patterns_are_averaged_over_cells():
    patterns = torch.rand(2, 500, 500, generator=torch.Generator().manual_seed(0))
    shown = pooled(patterns, 100)
    for row, column in [(0, 0), (7, 93), (99, 99)]:
        cell = patterns[1, 5 * row : 5 * row + 5, 5 * column : 5 * column + 5]
        assert shown[1, row, column] == pytest.approx(float(cell.mean()), rel=1e-5)
    np.testing.assert_array_equal(pooled(patterns, 500), patterns.numpy())


def test_pattern_has_queries_down_and_keys_across():
    weights = torch.eye(5).roll(1, dims=1)  # every frame looks at the next
    ax = plots.pattern(weights, seconds=frame_seconds(5, KERNELS, STRIDES))
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), weights)
    # a point in query 1's row and key 2's column, in seconds, has the weight 1; the first query is at the top
    row, column = (0.0325, 0.0525)
    left, right, bottom, top = ax.images[0].get_extent()
    across, down = (column - left) / (right - left) * 5, (row - bottom) / (top - bottom) * 5
    assert (int(down), int(across)) == (1, 2)
    assert ax.transData.transform((left, bottom))[1] > ax.transData.transform((left, top))[1]
    assert ax.figure.axes[1].get_ylabel() == "attention weight"
