"""Perplexities of histograms: against scipy's entropy, and under their old names."""

import numpy as np
import pytest
from scipy.stats import entropy

from unisat.interpret.units import perplexity


def test_perplexities_are_those_of_the_entropy():
    count = np.array([5, 0, 90, 5, 1])
    assert perplexity.perplexity_plugin(count) == pytest.approx(np.exp(entropy(count)))
    # 60 entries in use of which 40 frames show but a part: nearer to the truth, and never over the book
    draws = np.random.default_rng(0).multinomial(40, np.full(60, 1 / 60), 200)
    plugin, corrected = (
        np.array([measure(draw) for draw in draws])
        for measure in (perplexity.perplexity_plugin, perplexity.perplexity_corrected)
    )
    assert plugin.mean() < 32
    assert 45 < corrected.mean() <= 60
    assert corrected.max() == 60


@pytest.mark.parametrize(("old", "new"), [("plug_in", "perplexity_plugin"), ("corrected", "perplexity_corrected")])
def test_old_names_warn(old, new):
    with pytest.warns(
        DeprecationWarning, match=rf"perplexity\.{old} is now unisat\.interpret\.units\.perplexity\.{new}"
    ):
        assert getattr(perplexity, old) is getattr(perplexity, new)
