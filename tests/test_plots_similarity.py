"""Pictures of similarity, subspaces, layer weights and embeddings: what the artists hold."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.layers.similarity import layer_similarity as compare
from unisat.interpret.layers.subspaces import subspaces as measure_subspaces
from unisat.interpret.layers.weights import layer_weights as weigh
from unisat.interpret.speakers.maps import embed
from unisat.plots import CLASSES, embedding, layer_similarity, layer_weights, subspaces


def bank(layers=3, classes=4, each=9, width=6):
    draw = np.random.default_rng(0)
    codes = np.repeat(np.arange(classes), each)
    arrays = {f"hidden.{k}": draw.standard_normal((len(codes), width)) + codes[:, None] for k in range(layers)}
    table = pd.DataFrame({"id": [f"u{row}" for row in range(len(codes))], "speaker": [f"s{code}" for code in codes]})
    return FeatureBank.from_arrays(table.assign(sentence=[f"t{row % 3}" for row in range(len(codes))]), arrays)


def ticks(ax, axis="x"):
    return [label.get_text() for label in getattr(ax, f"get_{axis}ticklabels")()]


def outside(ax):
    """Whether the legend lies beside the data."""
    ax.figure.canvas.draw()
    return ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1


RESULTS = {
    "layer_similarity": lambda: compare(bank()),
    "layer_similarity to one": lambda: compare(bank()),
    "subspaces": lambda: measure_subspaces(bank(), draws=3),
    "layer_weights": lambda: weigh(np.zeros(3), bank()),
    "embedding": lambda: embed(bank(), "hidden.1", method="pca"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_draws_itself_where_it_is_told(name):
    ax = Figure().add_subplot()
    options = {"to": "hidden.1"} if name.endswith("one") else {}
    assert RESULTS[name]().plot(ax=ax, **options) is ax
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    alone = RESULTS[name]().plot(**options)
    assert alone.figure is not ax.figure
    if alone.get_legend() is not None:
        assert outside(alone)


# similarity


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


# weights


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


# embeddings


def points(classes, each=3):
    names = [f"s{code}" for code in range(classes) for _ in range(each)]
    return pd.DataFrame({"x": np.arange(len(names)), "y": np.arange(len(names)) % 5, "speaker": names})


def test_24_classes_differ_in_colour_or_shape():
    ax = embedding(points(24), color="speaker")
    looks = {
        (tuple(group.get_facecolor()[0]), tuple(map(tuple, group.get_paths()[0].vertices))) for group in ax.collections
    }
    assert len(ax.collections) == len(looks) == 24
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [f"s{code}" for code in range(24)]
    assert {tuple(group.get_facecolor()[0][:3]) for group in ax.collections} == {to_rgb(c) for c in CLASSES}
    for group in ax.collections:
        mine = points(24)["speaker"] == group.get_label()
        np.testing.assert_array_equal(group.get_offsets(), points(24).loc[mine, ["x", "y"]])
    assert outside(ax)


def test_eight_classes_need_colours_alone():
    ax = embedding(points(8), color="speaker")
    assert len({tuple(group.get_facecolor()[0]) for group in ax.collections}) == 8
    assert len({len(group.get_paths()[0].vertices) for group in ax.collections}) == 1


def test_of_more_classes_the_rarest_are_grey():
    table = pd.concat([points(26), points(20)], ignore_index=True)  # s20 to s25 are rare
    ax = embedding(table, color="speaker")
    grey = ax.collections[0]
    assert grey.get_label() == "2 other classes"
    assert len(grey.get_offsets()) == 6
    assert {f"s{code}" for code in range(20)} <= {group.get_label() for group in ax.collections}


def test_the_title_says_how_far_the_picture_can_be_trusted():
    result = embed(bank(), "hidden.1", method="pca")
    ax = result.plot()
    pure = result.purity()
    assert ax.get_title() == (
        f"hidden.1: trustworthiness {result.trustworthiness:.2f}\n5-neighbour purity of speaker: "
        f"{pure['original']:.2f} in the features, {pure['drawn']:.2f} here, chance {8 / 35:.2f}"
    )
    assert ax.get_xlabel() == f"PC 1 ({result.explained[0]:.0%} of the variance)"
    by_sentence = result.plot(color="sentence")
    assert f"{result.purity('sentence')['original']:.2f} in the features" in by_sentence.get_title()
    assert len(by_sentence.collections) == 3
    held = embed(bank(), "hidden.1", method="lda", fit_on=np.arange(36) % 2 == 0).plot()
    assert held.get_title().startswith("hidden.1, utterances held out: ")
    with pytest.warns(UserWarning, match="fitted on the labels"):
        seen = embed(bank(), "hidden.1", method="lda")
    assert seen.plot().get_title().startswith("hidden.1, fitted on these labels: ")
    assert "of the variance between classes" in seen.plot().get_xlabel()


def test_distances_in_umap_have_no_scale():
    ax = embedding(points(3), color="speaker", method="umap")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("UMAP 1 (no unit)", "UMAP 2 (no unit)")
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0
    with pytest.raises(ValueError, match="no column 'voice'"):
        embedding(points(3), color="voice")
    with pytest.raises(ValueError, match="method='tsne' must be one of"):
        embedding(points(3), color="speaker", method="tsne")
