"""Pictures of trials and of utterances as points: that they show the numbers they were given."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from test_plots_similarity import bank
from test_verification import voices

from unisat import plots
from unisat.interpret.speakers.maps import embed
from unisat.interpret.speakers.trials import verify_trials
from unisat.interpret.statistics.error_rates import det
from unisat.plots import CLASSES, embedding


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
