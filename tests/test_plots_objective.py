"""Pictures of the objective: that they show the numbers they were given."""

import numpy as np
import pandas as pd
import pytest
import torch

from unisat import plots
from unisat.plots._objective import contributions


def test_similarity_shows_the_matrix_and_its_blocks():
    matrix, utterances = torch.linspace(-3, 2, 25).view(5, 5), torch.tensor([0, 0, 2, 2, 2])
    ax = plots.similarity(matrix, utterances, names=["a", "b", "c"])
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array(), matrix.numpy())
    assert image.get_clim() == (-3, 3)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a", "c"]
    assert ax.get_yticks().tolist() == [1.0, 3.5]
    assert sorted(line.get_xdata()[0] for line in ax.lines if line.get_xdata()[0] == line.get_xdata()[1]) == [2]
    assert ax.get_xlabel() == "quantized frames, by utterance"
    assert ax.get_ylabel() == "anchors, by utterance"
    with pytest.raises(ValueError, match="in order"):
        plots.similarity(matrix, utterances.flip(0))


@pytest.mark.wrong_types
def test_similarity_of_other_frames():
    with pytest.raises(ValueError, match=r"each of the 5 masked frames in order, got \(4,\)"):
        plots.similarity(torch.zeros(5, 5), torch.zeros(4).long())


def test_mixing_shades_where_two_speak():
    ax = plots.mixing(torch.rand(32_000), start=8000, end=16_000, snr_db=-3.0)
    band = ax.patches[-1].get_extents().transformed(ax.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((0.5, 1.0))
    assert ax.get_title() == "two speak from 0.50 to 1.00 s, the main one -3.0 dB"
    with pytest.raises(ValueError, match="samples 5 to 4 do not lie inside 10"):
        plots.mixing(torch.rand(10), start=5, end=4, snr_db=0.0)


def test_terms_over_steps():
    table = pd.DataFrame({"contrastive": [0.5, 0.3], "content": [4.0, 3.0]}, index=[10, 20])
    ax = plots.terms(table, chance={"contrastive": 0.39})
    drawn = {line.get_label(): line for line in ax.lines}
    assert drawn["contrastive"].get_ydata().tolist() == [0.5, 0.3]
    assert drawn["content"].get_xdata().tolist() == [10, 20]
    assert set(drawn["contrastive: chance"].get_ydata()) == {0.39}
    assert ax.get_xlabel() == "step"
    with pytest.raises(ValueError, match="no steps"):
        plots.terms(pd.DataFrame())


def test_bars_and_marks():
    table = pd.DataFrame(
        {"value": [2.0, 0.5], "chance": [4.0, np.nan], "weight": [1.0, 0.1], "share": [0.5, 1.0]},
        index=["content_masked", "diversity"],
    )
    table["contribution"] = [1.0, 0.05]
    ax = contributions(table)
    assert [bar.get_width() for bar in ax.patches] == [1.0, 0.05]
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [2.0, np.nan])
    assert [text.get_text() for text in ax.texts] == ["2 · 1 · 50%", "0.5 · 0.1"]
    assert ax.get_title() == "loss 1.050, term by term"
    with pytest.raises(ValueError, match="no terms"):
        contributions(table.iloc[:0])
