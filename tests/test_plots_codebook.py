"""Pictures of codebooks and units: that they show the numbers they were given."""

import numpy as np
import pandas as pd
import pytest
from test_codebook import planted
from test_units import bank_of

from unisat import plots
from unisat.interpret.units.clusters import units
from unisat.interpret.units.codebook import codebook_usage


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
    assert drawn["group 0: 1 dead"].get_xdata().tolist() == [4]
    assert "group 1: 0 dead" not in drawn
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
