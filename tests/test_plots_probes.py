"""The picture of a probe's report: what the artists hold."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.probing.probes import probe_layers
from unisat.plots._probes import LABELS, STYLES, probe_curves

pytestmark = pytest.mark.runs_once

FLAT = ("logmel", "mfcc", "loudness")


def report(layers, metric="bal_acc"):
    """Every control has its own numbers: the value of layer k is base + k / 100, with a band of 0.02 and 0.03."""
    rows = []
    for place, control in enumerate(STYLES):
        for layer in [None] if control in FLAT else range(layers)[::-1]:
            value = 0.1 * (place + 1) + (layer or 0) / 100
            row = {"layer": layer, "site": f"hidden.{layer}", "control": control, "metric": metric, "value": value}
            rows.append(row | {"low": value - 0.02, "high": value + 0.03, "chance": 0.05})
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def line(ax, label):
    return next(line for line in ax.lines if line.get_label() == label)


@pytest.mark.parametrize("layers", [2, 7, 13, 25])
def test_every_control_is_on_the_same_axes_with_its_band(layers):
    ax = probe_curves(report(layers))
    bands = [
        band.get_paths()[0].vertices for band in ax.collections if band.get_paths() and len(band.get_offsets()) < 2
    ]
    for place, (control, (label, _)) in enumerate(STYLES.items()):
        base = 0.1 * (place + 1)
        if control in FLAT:
            np.testing.assert_allclose(line(ax, label).get_ydata(), base)
            assert any(
                patch.get_y() == pytest.approx(base - 0.02) and patch.get_height() == pytest.approx(0.05)
                for patch in ax.patches
            )
            continue
        x, y = line(ax, label).get_data()
        assert list(x) == list(range(layers))
        np.testing.assert_allclose(y, base + np.arange(layers) / 100)
        assert any(
            band[:, 1].min() == pytest.approx(base - 0.02)
            and band[:, 1].max() == pytest.approx(base + 0.03 + (layers - 1) / 100)
            for band in bands
        ), control
    np.testing.assert_allclose(line(ax, "chance").get_ydata(), 0.05)
    assert len(ax.get_xticks()) <= 13
    assert ax.get_xlabel() == "layer"


def test_the_layers_that_cannot_be_told_from_the_best_are_filled():
    ax = probe_curves(report(5), best={1, 3})
    points = next(c for c in ax.collections if len(c.get_offsets()) == 5)
    colour, white = to_rgba(STYLES["trained"][1]["color"]), to_rgba("white")
    assert [tuple(face) for face in points.get_facecolor()] == [white, colour, white, colour, white]


def test_controls_that_were_not_asked_for_are_not_drawn():
    rows = report(4)
    ax = probe_curves(rows[rows["control"].isin(["trained", "mfcc"])])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["trained", "MFCC", "chance"]


def test_each_metric_has_its_unit():
    for metric, label in LABELS.items():
        assert probe_curves(report(3, metric), metric=metric).get_ylabel() == label
    with pytest.raises(ValueError, match="no metric 'eer'; it has bal_acc"):
        probe_curves(report(3), metric="eer")


def test_a_leaky_report_says_so():
    assert probe_curves(report(3)).get_title() == ""
    assert "LEAKY" in probe_curves(report(3), leaky=True).get_title()


def test_the_legend_does_not_cover_data():
    ax = probe_curves(report(7))
    figure = ax.figure
    figure.draw_without_rendering()
    legend = ax.get_legend().get_window_extent()
    assert legend.x0 >= ax.get_window_extent().x1
    assert legend.x1 <= figure.bbox.x1


def test_a_report_draws_itself():
    speaker = np.repeat(np.arange(6), 6)
    table = pd.DataFrame({"id": [f"u{n}" for n in range(36)], "speaker": [f"s{n}" for n in speaker]})
    noise = np.random.default_rng(0).normal(size=(2, 36, 12))
    noise[1, :, :6] += 4 * np.eye(6)[speaker]
    bank = FeatureBank.from_arrays(table, {"hidden.0": noise[0], "hidden.1": noise[1]})
    options = dict(groups=None, controls=("shuffle",), seeds=1, n_boot=100, progress=False)
    found = probe_layers(bank, "speaker", metrics=("eer", "bal_acc"), **options)
    ax = found.plot()
    assert ax.get_ylabel() == "equal error rate"
    np.testing.assert_allclose(line(ax, "trained").get_ydata(), found.table()["value"][:2])
    other = Figure().add_subplot()
    assert found.plot("bal_acc", ax=other) is other
    points = next(c for c in other.collections if len(c.get_offsets()) == 2)
    assert tuple(points.get_facecolor()[0]) == to_rgba("white")
    assert tuple(points.get_facecolor()[1]) == to_rgba(STYLES["trained"][1]["color"])
