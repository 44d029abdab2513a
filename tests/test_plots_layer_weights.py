"""Pictures of weighted sums of layers: what the artists hold."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from test_plots_similarity import bank

from unisat.interpret.layers.weights import layer_weights as weigh
from unisat.plots import layer_weights
from unisat.plots._layer_weights import layer_shares, set_layer_shares, set_own_sum, sum_result


def test_bars_stand_beside_one_another_and_the_axis_follows():
    table = pd.DataFrame({"site": ["hidden.0", "hidden.1"], "weight": [0.6, 0.4], "contribution": [0.1, 0.9]})
    marks = table.assign(weight=[0.5, 0.5], contribution=[0.2, 0.8])
    ax = layer_shares(table, marks=marks)
    assert [bar.get_height() for bar in ax.patches] == [0.6, 0.4, 0.1, 0.9]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.5, 0.5], [0.2, 0.8]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["trained", "weight", "weight × norm"]
    assert ax.get_ylim()[1] > 0.9
    small = table.assign(weight=[0.1, 0.05], contribution=[0.02, 0.1])
    set_layer_shares(small, ax)
    assert ax.get_ylim()[1] > 0.9  # the ticks are still there
    bare = layer_shares(small)
    assert bare.get_ylim()[1] < 0.2
    set_layer_shares(table, bare)
    assert bare.get_ylim()[1] > 0.9


def test_a_result_outside_the_axis_widens_it():
    ax = sum_result([0.2, 0.3], ["hidden.0", "hidden.1"], references={"uniform": 0.25})
    assert ax.lines[0].get_ydata().tolist() == [0.2, 0.3]
    assert list(ax.lines[1].get_ydata()) == [0.25, 0.25]
    before = ax.get_ylim()
    set_own_sum(0.5, 0.25, ax)
    assert ax.get_ylim() == before
    set_own_sum(1.0, 0.6, ax)
    assert ax.get_ylim()[1] > 0.6
    assert np.ravel(ax.lines[-1].get_data()).tolist() == [1.0, 0.6]
    set_own_sum(1.0, 0.6, ax, (0.55, 0.72))
    assert np.ravel(ax.lines[-2].get_data()).tolist() == [1.0, 1.0, 0.55, 0.72]
    assert ax.get_ylim()[1] > 0.72
    set_own_sum(0.5, 0.25, ax)
    assert ax.get_ylim() == before  # whatever was shown between


def test_weights_are_a_dot_for_each_run_and_a_line_of_means():
    raw = [np.log([0.5, 0.3, 0.2]), np.log([0.7, 0.1, 0.2])]
    result = weigh(raw, bank())
    ax = layer_weights(result.table(), probe=[0.2, 0.9, 0.4])
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["weight (softmax)"].get_ydata(), [0.6, 0.2, 0.2])
    np.testing.assert_allclose(
        lines["weight × RMS norm, share of all layers'"].get_ydata(), result.contribution.mean(0)
    )
    dots = ax.lines[1]  # behind the line of the first quantity
    np.testing.assert_allclose(dots.get_ydata(), [0.5, 0.3, 0.2, 0.7, 0.1, 0.2])
    assert to_rgb(dots.get_color()) == to_rgb(lines["weight (softmax)"].get_color())
    np.testing.assert_allclose(lines["equal weights"].get_ydata(), 1 / 3)
    np.testing.assert_array_equal(lines["accuracy of a probe of the layer"].get_ydata(), [0.2, 0.9, 0.4])
    assert ax.get_legend().get_title().get_text() == "2 runs: dots, means: lines"


def test_what_the_table_lacks_is_not_drawn():
    table = weigh(np.zeros(3), bank()).table().assign(change=np.nan)
    ax = layer_weights(table)
    assert [line.get_label() for line in ax.lines] == [
        "weight (softmax)",
        "weight × RMS norm, share of all layers'",
        "equal weights",
    ]
    with pytest.raises(ValueError, match="no quantity 'norms'; there are weight, contribution"):
        layer_weights(table, quantities=["norms"])
    with pytest.raises(ValueError, match="one accuracy for each of the 3 layers, got 2"):
        layer_weights(table, probe=[0.1, 0.2])
