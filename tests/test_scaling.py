"""Scaling: against scikit-learn's, with what does not vary, and along other axes."""

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from unisat.interpret.statistics.scaling import scaling, standardize

TRAIN = np.random.default_rng(0).normal(3, 5, size=(40, 6)) * np.arange(6)  # the first channel does not vary
OTHER = np.random.default_rng(1).normal(size=(7, 6))


@pytest.mark.parametrize(("scale", "options"), [("standard", {}), ("centre", {"with_std": False})])
def test_scaling_is_scikit_learns(scale, options):
    theirs, ours = StandardScaler(**options).fit(TRAIN), scaling(TRAIN, scale)
    for values in (TRAIN, OTHER):
        np.testing.assert_allclose(ours(values), theirs.transform(values), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(ours(OTHER[3]), ours(OTHER)[3])  # a single row


def test_raw_values_stay_as_they_are():
    np.testing.assert_array_equal(scaling(TRAIN, "raw")(OTHER), OTHER)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_values_are_standardised_along_any_axis(axis):
    values = np.random.default_rng(2).normal(2, 3, size=(4, 5, 6))
    values[:, :, 2] = values[:, 1, :] = values[3] = 7
    before, scaled = values.copy(), standardize(values, axis=axis)
    vary = np.ptp(values, axis) > 0
    np.testing.assert_allclose(scaled.mean(axis), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.var(axis), vary, atol=1e-12)
    np.testing.assert_array_equal(values, before)
