"""Pictures of lenses, codebooks and units: that they show the numbers they were given."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_codebook import planted
from test_units import bank_of

from unisat import plots
from unisat.interpret.units.clusters import units
from unisat.interpret.units.codebook import codebook_usage
from unisat.interpret.units.lenses import KMeansLens, Lens
from unisat.plots import CLASSES, kmeans_lens, lens, lens_layers


def bar(ax):
    """The label of the colour bar."""
    return ax.figure.axes[-1].get_ylabel()


def labelled(ax):
    return {line.get_label(): line for line in ax.lines}


def test_usage_falls_from_the_most_used_entry_against_even_use():
    counts = np.array([[700, 100, 0, 200], [250, 250, 251, 249]])
    report = codebook_usage(counts)
    ax = report.plot()
    drawn = labelled(ax)
    uneven = drawn["group 0: perplexity 2.23 of 4"]
    assert uneven.get_ydata()[:3] == pytest.approx([70, 20, 10])
    assert np.isnan(uneven.get_ydata()[3])  # a log axis has no place for an unused entry
    assert drawn["group 0: 1 unseen"].get_xdata().tolist() == [4]
    assert "group 1: 0 unseen" not in drawn
    even = drawn["a book in even use"].get_ydata()
    assert even.sum() == pytest.approx(100)
    assert (np.diff(even) <= 0).all()
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "entries, most used first (1,000 frames)"
    assert ax.get_ylabel() == "frames (%)"
    with pytest.raises(ValueError, match="no entries"):
        plots.code_usage(report.table()[:0])


def test_usage_says_how_sure_its_perplexity_is():
    report = codebook_usage(planted())
    row = report.summary().iloc[1]
    text = f"group 1: perplexity {row['perplexity_corrected']:.3g} of 12 (95 %: {row['low']:.3g} to {row['high']:.3g})"
    assert text in labelled(report.plot())


def test_heat_map_puts_favourites_on_a_diagonal():
    shares = pd.DataFrame([[0.3, 0.6, 0.1, 0], [0.7, 0.2, 0.1, 0], [0.2, 0.1, 0.7, 0]], index=list("abc"))
    ax = plots.code_heat_map(shares.rename_axis(index="speaker"), group=1)
    values = np.asarray(ax.images[0].get_array())
    assert values.diagonal() == pytest.approx([60, 70, 70])
    assert values.sum(axis=1) == pytest.approx([100] * 3)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c"]
    assert ax.yaxis_inverted()
    assert ax.get_xlabel() == "3 of 4 entries of group 1, by the speaker that favours them"
    report = codebook_usage(planted())
    drawn = np.asarray(report.heatmap("sex").images[0].get_array())
    used = report.shares("sex")
    np.testing.assert_allclose(np.sort(drawn), np.sort(100 * used.loc[:, used.sum() > 0]))
    with pytest.raises(ValueError, match="no entry is used"):
        plots.code_heat_map(shares * 0)


def test_rarefaction_ends_at_the_entries_used():
    report = codebook_usage(np.array([[70, 10, 0, 20], [25, 25, 25, 25]]))
    ax = report.rarefaction()
    drawn = labelled(ax)
    table = report.rarefied()
    first = table[table["group"] == 0]
    np.testing.assert_allclose(drawn["group 0: 3 used"].get_ydata(), first["used"])
    np.testing.assert_allclose(drawn["a book in even use"].get_ydata(), first["used_if_uniform"])
    assert drawn["group 1: 4 used"].get_xdata()[-1] == 100
    assert drawn["all 4 entries"].get_ydata()[0] == 4
    assert ax.get_xscale() == "log"
    with pytest.raises(ValueError, match="no frames"):
        plots.rarefaction(table[:0])


def test_units_over_frequency_and_duration():
    draw = np.random.default_rng(0)
    phones = np.repeat(draw.integers(0, 3, size=60), draw.integers(1, 6, size=60))
    bank = bank_of(10 * np.eye(3)[phones] + draw.normal(scale=0.1, size=(len(phones), 3)), [len(phones)])
    found = units(bank, "hidden.1", k=3)
    ax = found.plot()
    table = found.table()
    dots = ax.lines[0]
    np.testing.assert_allclose(dots.get_xdata(), 100 * table["share"])
    np.testing.assert_allclose(dots.get_ydata(), 1000 * table["mean_seconds"])
    assert {text.get_text() for text in ax.texts} == {"0", "1", "2"}
    assert ax.get_ylabel() == "mean duration (ms)"
    with pytest.raises(ValueError, match="no unit has a frame"):
        plots.unit_durations(table[:0])
    names = np.array(["a", "b", "c"])[phones]
    ax = found.plot(names)
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), 100 * np.eye(3))
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c"]
    order = [int(text.get_text()) for text in ax.get_xticklabels()]
    assert [names[found.assigned == unit][0] for unit in order] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="no unit has a label"):
        plots.unit_labels(pd.DataFrame())


NAMES = ["-", " ", "A", "B"]


def test_a_lens_writes_a_name_where_a_class_begins_but_no_blank():
    predictions = torch.tensor([[0, 2, 3, 3] + [0] * 96, [1] * 50 + [3] * 50])
    values = torch.linspace(0, 1, 200).view(2, 100)
    seconds = torch.arange(100).double() / 50
    ax = lens(values, predictions, seconds=seconds, label="probability", limits=(0.0, 1.0), names=NAMES, blank=0)
    # the B would lie on the A, one frame before
    assert [(text.get_text(), text.get_position()[1]) for text in ax.texts] == [("A", 0), ("␣", 1), ("B", 1)]
    assert [text.get_position()[0] for text in ax.texts] == pytest.approx([0.01, -0.01, 0.99])
    assert [text.get_color() for text in ax.texts] == ["white", "black", "black"]
    np.testing.assert_allclose(ax.images[0].get_array(), values)
    assert bar(ax) == "probability"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (s)", "layer")
    many = lens(torch.rand(25, 4), torch.zeros(25, 4).long(), seconds=seconds[:4], label="x", limits=(0.0, 1.0))
    assert not many.texts
    assert len(many.get_yticks()) == 13


@pytest.mark.wrong_types
def test_a_lens_refuses_names_and_predictions_that_do_not_fit():
    values, seconds = torch.rand(2, 4), torch.arange(4) / 50
    with pytest.raises(ValueError, match=r"predictions must be \(2, 4\) as values are, got \(2, 3\)"):
        lens(values, torch.zeros(2, 3).long(), seconds=seconds, label="x", limits=(0.0, 1.0))
    with pytest.raises(ValueError, match="names has 4 entries and class 5 is predicted"):
        lens(values, torch.full((2, 4), 5), seconds=seconds, label="x", limits=(0.0, 1.0), names=NAMES)


def made(targets=True):
    draw = torch.Generator().manual_seed(0)
    return Lens(
        ids=("a", "b"),
        logits=(torch.randn(3, 30, 4, generator=draw), torch.randn(3, 10, 4, generator=draw)),
        seconds=(torch.arange(30) / 50, torch.arange(10) / 50),
        blank=0,
        targets=(torch.arange(30) % 4, torch.full((10,), -100)) if targets else None,
    )


def test_the_curve_over_layers_weighs_utterances_by_their_frames():
    found = made()
    ax = found.plot()
    table = found.table()
    a, b = (table[table["id"] == name].reset_index() for name in "ab")
    drawn = labelled(ax)
    expected = (30 * a["agreement"] + 10 * b["agreement"]) / 40
    assert drawn["agrees with the last layer"].get_ydata().tolist() == pytest.approx(expected.tolist())
    assert drawn["accuracy"].get_ydata().tolist() == pytest.approx(a["accuracy"].tolist())
    levels = {line.get_color(): line.get_ydata()[0] for line in ax.get_lines() if line.get_linestyle() == ":"}
    assert levels[CLASSES[0]] == pytest.approx((30 * a["constant"][0] + 10 * b["constant"][0]) / 40)
    assert levels[CLASSES[2]] == pytest.approx(8 / 30)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "share of frames")
    assert "accuracy" not in labelled(lens_layers(made(targets=False).table()))


def test_what_is_shown_over_time_is_entropy_or_probability():
    found = made()
    ax = found.plot(1)
    np.testing.assert_allclose(ax.images[0].get_array(), found.entropy[1], rtol=1e-6)
    assert ax.images[0].get_clim() == (0, 2)  # four classes: two bits at most
    assert bar(ax) == "entropy (bits)"
    ax = found.plot(1, show="probability", names=NAMES)
    np.testing.assert_allclose(ax.images[0].get_array(), found.logits[1].softmax(-1).amax(-1), rtol=1e-5)
    assert ax.images[0].get_clim() == (0, 1)
    assert ax.texts


def test_units_are_drawn_with_their_interval_floor_and_untrained_twins():
    rows = [
        {
            "model": model,
            "layer": layer,
            "metric": metric,
            "value": value,
            "low": value - 0.1,
            "high": value + 0.1,
            "floor": 0.05,
        }
        for model, level in (("trained", 0.5), ("untrained.0", 0.2), ("untrained.1", 0.3))
        for metric, plus in (("pnmi", 0), ("phone_purity", 0.2))
        for layer, value in enumerate([level + plus, level + plus + 0.1])
    ]
    found = KMeansLens(numbers=pd.DataFrame(rows))
    ax = found.plot()
    drawn = labelled(ax)
    assert drawn["trained"].get_ydata().tolist() == pytest.approx([0.5, 0.6])
    assert drawn["trained: shuffled labels"].get_ydata().tolist() == [0.05, 0.05]
    assert drawn["untrained, all seeds"].get_ydata().tolist() == pytest.approx([0.25, 0.35])
    bands = [np.ptp(band.get_paths()[0].vertices[:, 1]) for band in ax.collections]
    assert bands == pytest.approx([0.3, 0.2])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "PNMI")
    assert ax.get_ylim()[0] == 0
    assert kmeans_lens(found.table(), metric="phone_purity").get_ylabel() == "phone purity"
    with pytest.raises(ValueError, match="no metric 'abx'; there are pnmi, phone_purity"):
        kmeans_lens(found.table(), metric="abx")
