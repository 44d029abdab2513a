"""Pictures of a quantizer's choices: that they show the numbers they were given."""

import numpy as np
import pandas as pd
import pytest

from unisat import plots


@pytest.mark.wrong_types
def test_pictures_show_their_numbers():
    table = pd.DataFrame({"step": [1, 2], "soft": [3.0, 4.0]})
    ax = plots.perplexity(table, entries=8)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["soft", "all 8 entries"]
    assert ax.get_xlabel() == "training step"
    ax = plots.code_counts(np.array([3, 0, 1]))
    assert ax.lines[0].get_xdata().tolist() == [1]
    assert ax.patches[0].get_data().values.tolist() == [75.0, 0.0, 25.0]
    places = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 9.0]])
    ax = plots.code_map(places, np.array([3, 0, 1]), explained=(0.5, 0.25))
    assert ax.collections[0].get_offsets().tolist() == places[[0, 2]].tolist()
    large, small = ax.collections[0].get_sizes()
    assert large == 3 * small
    assert ax.collections[0].names == ["entry 0: 75.0% of the frames", "entry 2: 25.0% of the frames"]
    assert ax.lines[0].get_xydata().tolist() == [[2.0, 3.0]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("PC 1 (50%)", "PC 2 (25%)")
    ax = plots.code_track(np.array([0.1, 0.2]), np.array([3, 4]), np.array([3, 7]), entries=8)
    assert ax.lines[1].get_ydata().tolist() == [7]
    ax = plots.entry_scores(np.array([0.2, 0.8]), np.array([0.6, 0.4]))
    assert ax.lines[0].get_xdata() == [0]
    with pytest.raises(ValueError, match="no frame was counted"):
        plots.code_counts(np.zeros(3, dtype=int))
    with pytest.raises(ValueError, match="no frame was counted"):
        plots.code_map(places, np.zeros(3, dtype=int))
    with pytest.raises(ValueError, match="the table is empty"):
        plots.perplexity(table[:0], entries=8)
    with pytest.raises(ValueError, match="of the same entries, got 2 and 3"):
        plots.entry_scores(np.zeros(2), np.zeros(3))
