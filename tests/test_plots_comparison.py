"""The pictures of several models: what the artists hold."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

import unisat as us
from unisat.interpret.features.bank import FeatureBank
from unisat.plots import CLASSES, comparison, differences

pytestmark = pytest.mark.runs_once


def table(**layers):
    """Rows of models with as many layers each: layer k of model m has m / 10 + k / 100, its twin half of that."""
    rows = []
    for place, (model, count) in enumerate(layers.items(), 1):
        for control, share in (("trained", 1.0), ("untrained", 0.5), ("logmel", 1.0)):
            for layer in [None] if control == "logmel" else range(count)[::-1]:
                value = 0.77 if layer is None else share * (place / 10 + layer / 100)
                depth = np.nan if layer is None else layer / (count - 1)
                row = {"model": model, "layer": layer, "depth": depth, "control": control, "metric": "bal_acc"}
                rows.append(row | {"value": value, "low": value - 0.02, "high": value + 0.03, "chance": 0.05})
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def line(ax, label):
    return next(line for line in ax.lines if line.get_label() == label)


def bands(ax):
    return [band.get_paths()[0].vertices[:, 1] for band in ax.collections]


def test_each_model_has_a_colour_and_its_twin_the_same_one_dashed():
    ax = comparison(table(SAT=7, HuBERT=7), metric="bal_acc")
    for place, model in enumerate(("SAT", "HuBERT"), 1):
        for label, share, style in ((model, 1.0, "-"), (f"{model}, untrained", 0.5, "--")):
            x, y = line(ax, label).get_data()
            assert list(x) == list(range(7))
            np.testing.assert_allclose(y, share * (place / 10 + np.arange(7) / 100))
            assert line(ax, label).get_linestyle() == style
            assert line(ax, label).get_color() == CLASSES[place - 1]
            assert any(
                b.min() == pytest.approx(y[0] - 0.02) and b.max() == pytest.approx(y[-1] + 0.03) for b in bands(ax)
            )
    np.testing.assert_allclose(line(ax, "log-mel").get_ydata(), 0.77)
    np.testing.assert_allclose(line(ax, "chance").get_ydata(), 0.05)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "balanced accuracy")
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["SAT", "SAT, untrained", "HuBERT", "HuBERT, untrained", "log-mel", "chance"]


def test_models_of_12_and_24_layers_share_an_axis_of_depth():
    ax = comparison(table(base=13, large=25), metric="bal_acc", by="depth")
    np.testing.assert_allclose(line(ax, "base").get_xdata(), np.arange(13) / 12)
    np.testing.assert_allclose(line(ax, "large").get_xdata(), np.arange(25) / 24)
    assert ax.get_xlabel() == "depth (share of the last layer)"
    assert len(comparison(table(base=13, large=25), metric="bal_acc").get_xticks()) <= 13


def test_the_layers_that_cannot_be_told_from_a_model_s_best_are_filled():
    ax = comparison(table(SAT=4, HuBERT=4), metric="bal_acc", best={"SAT": {1, 2}, "HuBERT": set()})
    full = [one for one in ax.lines if one.get_linestyle() == "None" and len(one.get_xdata())]
    assert [list(one.get_xdata()) for one in full] == [[1, 2]]
    assert full[0].get_color() == CLASSES[0]
    assert to_rgba(line(ax, "SAT").get_markerfacecolor()) == to_rgba("white")


def test_leaks_and_metrics_that_are_not_there_are_said():
    ax = comparison(table(SAT=3), metric="bal_acc", leaky=["SAT"])
    assert ax.get_title() == "LEAKY (SAT): shuffled labels do better than chance"
    with pytest.raises(ValueError, match="no metric 'eer'; it has bal_acc"):
        comparison(table(SAT=3), metric="eer")


def difference_table():
    rows = []
    for control, size in (("trained", 1.0), ("untrained", 0.1)):
        for layer in (*range(5), "best"):
            value = 0.5 if layer == "best" else size * layer / 10
            at = "best" if layer == "best" else "layer"
            number = 3 if layer == "best" else layer
            row = {"metric": "eer", "first": "SAT", "second": "HuBERT", "at": at, "control": control}
            row |= {"first_layer": number, "second_layer": number, "depth": np.nan if at == "best" else number / 4}
            rows.append(row | {"difference": value, "low": value - 0.1, "high": value + 0.2})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("by", "end"), [("layer", 4), ("depth", 1)])
def test_differences_have_their_twins_and_the_best_stands_behind_the_last_layer(by, end):
    rows = difference_table()
    ax = differences(rows.replace({"at": {"layer": by}}), by=by)
    x, y = line(ax, "SAT less HuBERT").get_data()
    np.testing.assert_allclose(x, np.linspace(0, end, 5))
    np.testing.assert_allclose(y, np.arange(5) / 10)
    np.testing.assert_allclose(line(ax, "SAT less HuBERT, untrained").get_ydata(), np.arange(5) / 100)
    point = next(one for one in ax.lines if one.get_marker() == "D" and len(one.get_xdata()))
    assert point.get_xdata()[0] > end
    assert point.get_ydata()[0] == 0.5
    assert any(list(one.get_ydata()) == pytest.approx([0.4, 0.7]) for one in ax.lines)
    assert any(list(one.get_ydata()) == [0, 0] for one in ax.lines)
    assert ax.get_ylabel() == "difference of\nequal error rate"


def test_a_comparison_draws_itself():
    speaker = np.repeat(np.arange(6), 6)
    rows = pd.DataFrame({"id": [f"u{n}" for n in range(36)], "speaker": [f"s{n}" for n in speaker]})
    noise = np.random.default_rng(0).normal(size=(4, 36, 12))
    noise[1, :, :6] += 4 * np.eye(6)[speaker]
    banks = {
        name: FeatureBank.from_arrays(rows, {"hidden.0": noise[at], "hidden.1": noise[at + 1]})
        for name, at in (("A", 0), ("B", 2))
    }
    options = dict(groups=None, controls=("shuffle",), metrics=("bal_acc",), seeds=1, n_boot=100, progress=False)
    found = us.compare(banks, "speaker", **options)
    ax = found.plot()
    mine = found.table().query("model == 'A' and control == 'trained'")
    np.testing.assert_allclose(line(ax, "A").get_ydata(), mine["value"])
    assert list(next(one for one in ax.lines if one.get_linestyle() == "None").get_xdata()) == [1]
    drawn = found.plot("differences")
    np.testing.assert_allclose(
        line(drawn, "A less B").get_ydata(), found.differences().query("at == 'layer'")["difference"]
    )
