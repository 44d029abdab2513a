"""Pictures of similarity and subspaces: what the artists hold."""

import numpy as np
import pandas as pd
import pytest

from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.layers.similarity import layer_similarity as compare
from unisat.interpret.layers.subspaces import subspaces as measure_subspaces
from unisat.plots import layer_similarity, subspaces


def bank(layers=3, classes=4, each=9, width=6):
    draw = np.random.default_rng(0)
    codes = np.repeat(np.arange(classes), each)
    arrays = {f"hidden.{k}": draw.standard_normal((len(codes), width)) + codes[:, None] for k in range(layers)}
    table = pd.DataFrame({"id": [f"u{row}" for row in range(len(codes))], "speaker": [f"s{code}" for code in codes]})
    return FeatureBank.from_arrays(table.assign(sentence=[f"t{row % 3}" for row in range(len(codes))]), arrays)


def ticks(ax, axis="x"):
    return [label.get_text() for label in getattr(ax, f"get_{axis}ticklabels")()]


def test_similarities_are_cells_and_few_of_them_are_written_out():
    result = compare(bank())
    ax = layer_similarity(result.table())
    np.testing.assert_array_equal(ax.images[0].get_array(), result.values)
    assert [text.get_text() for text in ax.texts] == [f"{value:.2f}" for value in result.values.ravel()]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "layer")
    assert ax.figure.axes[1].get_ylabel() == "debiased CKA"
    assert ax.images[0].get_clim() == (0, 1)


def test_25_layers_keep_readable_axes():
    layers = [f"hidden.{k}" for k in range(25)]
    pairs = [{"kind": "cca", "first": a, "second": b, "similarity": 0.5 - (a != b)} for a in layers for b in layers]
    ax = layer_similarity(pd.DataFrame(pairs))
    assert ticks(ax) == ticks(ax, "y") == [str(k) for k in range(0, 25, 2)]
    assert not ax.texts
    assert ax.images[0].get_clim() == (-0.5, 1)  # a negative estimate is not cut


def test_sites_of_other_kinds_are_written_in_full():
    both = bank()
    result = compare(both, other_sites=["hidden.0", "hidden.2"])
    table = result.table().replace({"second": {"hidden.0": "untrained.0.hidden.0", "hidden.2": "untrained.0.hidden.2"}})
    ax = layer_similarity(table)
    assert (ticks(ax), ax.get_xlabel()) == (["0", "2"], "layer of untrained.0.hidden")
    ax = layer_similarity(table.replace({"second": {"untrained.0.hidden.0": "logmel"}}))
    assert (ticks(ax), ax.get_xlabel()) == (["logmel", "untrained.0.hidden.2"], "site")


def test_the_curve_to_one_layer_has_its_interval_and_chance():
    result = compare(bank(), kind="projection")
    ax = layer_similarity(result.table(), to="hidden.2", chance=result.chance)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), result.values[:, 2])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [0.5, 0.5])  # 3 of 6 channels
    band = ax.collections[0].get_paths()[0].vertices
    assert {result.low[1, 2], result.high[1, 2]} <= set(band[band[:, 0] == 1][:, 1])
    assert ax.get_title() == "with hidden.2"
    bare = compare(FeatureBank.from_arrays(bank().table[["id"]], {"hidden.0": bank()["hidden.0"]}))
    assert not layer_similarity(bare.table(), to="hidden.0").collections
    with pytest.raises(ValueError, match="to='hidden.9' must be one of the second sites: hidden.0"):
        layer_similarity(result.table(), to="hidden.9")


@pytest.mark.parametrize("layers", [1, 3])
def test_what_is_left_of_each_label_is_a_line_with_its_ranges(layers):
    table = measure_subspaces(bank(layers), draws=5).table()
    ax = subspaces(table)
    labels = [line.get_label() for line in ax.lines]
    assert labels[0] == "speaker without sentence"
    for label, other in (("speaker", "sentence"), ("sentence", "speaker")):
        rows = table[table["label"] == label]
        place = labels.index(f"{label} without {other}")
        np.testing.assert_array_equal(ax.lines[place].get_ydata(), rows["residual"])
        np.testing.assert_array_equal(np.unique(ax.lines[place + 1].get_ydata()), np.unique(rows["random_low"]))
        np.testing.assert_array_equal(np.unique(ax.lines[place + 2].get_ydata()), np.unique(rows["random_high"]))
    assert len(ax.collections) == 2
    assert ax.get_ylabel() == "share of variance left"


def test_the_axes_name_both_models():
    result = compare(bank(2), bank(5), names=("SAT", "$HuBERT"))
    ax = result.plot()
    assert ax.images[0].get_array().shape == (2, 5)
    assert (ticks(ax), ticks(ax, "y")) == (["0", "1", "2", "3", "4"], ["0", "1"])
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("SAT: layer", r"\$HuBERT: layer")
    curve = result.plot(to="hidden.4")
    assert curve.get_title() == r"with hidden.4 of \$HuBERT"
    assert curve.get_xlabel() == "SAT: layer"
