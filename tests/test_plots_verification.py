"""Pictures of trials: that they show the numbers they were given."""

import numpy as np
import pandas as pd
import pytest
from test_verification import voices

from unisat import plots
from unisat.interpret.speakers.trials import verify_trials
from unisat.interpret.statistics.error_rates import det


def test_curves_show_their_points_on_normal_deviates():
    scored = verify_trials(voices(12, 6), 0, n_boot=50)
    ax = scored.plot(label="layer 0")
    rates = scored.det()[["false_alarm", "miss"]]
    assert ((rates["false_alarm"] == 0) & (rates["miss"] < 1)).any()  # which no normal deviate has a place for
    inside = rates[((rates > 0) & (rates < 1)).all(axis=1)]
    curve, segment, mark = ax.lines[:3]
    np.testing.assert_allclose(curve.get_xdata(), inside["false_alarm"])
    np.testing.assert_allclose(curve.get_ydata(), inside["miss"])
    low, high = scored.interval()
    assert (tuple(segment.get_xdata()), tuple(segment.get_ydata())) == ((low, high), (low, high))
    assert mark.get_xdata()[0] == mark.get_ydata()[0] == scored.eer()
    text = ax.get_legend().get_texts()[0].get_text()
    assert text == f"layer 0: EER {100 * scored.eer():.1f} % (95 %: {100 * low:.1f} to {100 * high:.1f})"
    # on the axes, steps of the normal quantile are alike
    places = ax.transData.transform([[0.1587, 0.5], [0.5, 0.1587], [0.5, 0.5], [0.0228, 0.0228]])
    one, two = places[2] - places[0], places[0] - places[3]
    assert one[0] == pytest.approx(two[0], rel=1e-2)
    assert places[2][1] - places[1][1] == pytest.approx(places[1][1] - places[3][1], rel=1e-2)
    for line in ax.lines[:1]:
        assert ax.get_xlim()[0] <= line.get_xdata().min()
        assert ax.get_ylim()[0] <= line.get_ydata().min()
    assert ax.get_xlabel() == "false alarms (% of impostor trials)"
    ax.figure.canvas.draw()
    ticks = {float(tick.get_text()): place for tick, place in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True)}
    assert ticks[10] == 0.1


def test_several_systems_share_a_picture():
    draw = np.random.default_rng(0)
    same = np.arange(400) < 100
    ax = None
    for place, distance in enumerate((1, 2, 3)):
        ax = plots.det(det(draw.normal(size=400) + distance * same, same), label=f"{place}", eer=0.1, ax=ax)
    curves = [line for line in ax.lines if line.get_linestyle() == "-"]
    assert len({line.get_color() for line in curves}) == 3
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [f"{n}: EER 10.0 %" for n in range(3)]
    assert len([line for line in ax.lines if line.get_linestyle() == ":"]) == 1
    with pytest.raises(ValueError, match="columns false_alarm and miss"):
        plots.det(pd.DataFrame({"fa": [0.1]}))


def test_histogram_shows_each_kind_by_its_own_share():
    scored = verify_trials(voices(10, 4), 0)
    ax = scored.plot("scores")
    histogram = scored.histogram()
    outlines = {patch.get_label(): patch.get_data() for patch in ax.patches if not patch.get_label().startswith("_")}
    drawn = outlines[f"target trials ({scored.same.sum()})"]
    np.testing.assert_allclose(drawn.values, 100 * histogram["target"])
    np.testing.assert_allclose(drawn.edges, [*histogram["low"], histogram["high"].iloc[-1]])
    assert outlines[f"impostor trials ({(~scored.same).sum():,})"].values.sum() == pytest.approx(100)
    assert ax.get_xlabel() == "cosine"
    assert ax.get_ylabel() == "trials (% of their kind)"
    with pytest.raises(ValueError, match="no bins"):
        plots.trial_scores(histogram[:0])
