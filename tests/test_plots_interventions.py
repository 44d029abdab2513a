"""Pictures of interventions and attributions: what the artists hold, against the table; not the pixels."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from unisat.interpret.interventions.attribution import Attribution
from unisat.plots import attribution, effect_map, effects


def table(sites, heads=(None,), windows=(np.nan,)):
    """A sweep whose unit number k has the effect ``k / 100`` and the placebo ``-k / 1000``."""
    rows = [
        (site, int(site.split(".")[1]) if "." in site else None, head, start, start + 0.5)
        for site in sites
        for head in heads
        for start in windows
    ]
    units = pd.DataFrame(rows, columns=["site", "layer", "head", "start", "end"])
    units = units.astype({"layer": "Int64", "head": "Int64"})
    effect = np.arange(len(units)) / 100
    return units.assign(
        effect=effect,
        low=effect - 0.02,
        high=effect + 0.03,
        difference=3 * effect,
        placebo=-effect / 10,
        placebo_low=-effect / 10 - 0.01,
        placebo_high=-effect / 10 + 0.01,
        p_value=0.2,
        p_adjusted=np.where(effect >= 0.04, 0.01, 0.5),
        n=8,
    )


BY_HEAD = table(["block.0.attn.z", "block.1.attn.z", "block.2.attn.z"], heads=range(2))
BY_TIME = table(["hidden.0", "hidden.3"], windows=[0.0, 0.5, 1.0])


def bars(ax):
    """Ends of horizontal lines by row, of each collection."""
    return [[(segment[0, 1], segment[:, 0].tolist()) for segment in lines.get_segments()] for lines in ax.collections]


def test_effects_show_intervals_and_placebos_row_by_row():
    data = table(["hidden.0", "hidden.1", "hidden.2"])
    ax = effects(data)
    placebo, patched = bars(ax)
    assert placebo == [(k, pytest.approx([-k / 1000 - 0.01, -k / 1000 + 0.01])) for k in range(3)]
    assert patched == [(k, pytest.approx([k / 100 - 0.02, k / 100 + 0.03])) for k in range(3)]
    drawn = {line.get_label(): line for line in ax.lines}
    assert drawn["patched, 95 % interval"].get_xdata().tolist() == data.effect.tolist()
    assert drawn["placebo, mean"].get_xdata().tolist() == data.placebo.tolist()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["hidden.0", "hidden.1", "hidden.2"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # first on top
    assert ax.get_xlabel() == "effect (0: as corrupt, 1: as clean)"
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["placebo, all draws", "placebo, mean", "patched, 95 % interval"]


def test_effects_without_a_placebo_draw_none():
    data = table(["hidden.0", "hidden.1"]).assign(placebo=np.nan, placebo_low=np.nan, placebo_high=np.nan)
    assert len(bars(effects(data))) == 1


def test_only_the_largest_are_drawn_in_the_table_s_order():
    ax = effects(BY_HEAD.assign(effect=[0.1, -0.9, 0.2, 0.0, 0.8, 0.05]), most=3)
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "block.0.attn.z head 1",
        "block.1.attn.z head 0",
        "block.2.attn.z head 0",
    ]
    assert ax.get_ylabel() == "patched place; 3 largest of 6"
    assert effects(BY_TIME).get_yticklabels()[1].get_text() == "hidden.0 0.5 to 1 s"


def test_the_map_of_layers_by_heads():
    ax = effect_map(BY_HEAD)
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array(), [[0, 0.01], [0.02, 0.03], [0.04, 0.05]])
    assert image.get_clim() == (-0.05, 0.05)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "1", "2"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("head", "layer of block.*.attn.z")
    assert ax.figure.axes[1].get_ylabel().startswith("effect")
    (dots,) = ax.lines  # p_adjusted below 0.05: the last row
    assert sorted(zip(dots.get_xdata(), dots.get_ydata(), strict=True)) == [(0, 2), (1, 2)]
    assert "p < 0.05 adjusted for all places" in ax.get_title(loc="left")
    assert not effect_map(BY_HEAD, level=0.001).lines


def test_the_map_of_the_placebo_has_the_limits_that_it_is_given():
    ax = effect_map(BY_HEAD, value="placebo", limit=0.5)
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array(), -np.array([[0, 0.01], [0.02, 0.03], [0.04, 0.05]]) / 10)
    assert image.get_clim() == (-0.5, 0.5)
    assert not ax.lines
    assert ax.figure.axes[1].get_ylabel() == "effect of the placebo"
    (image,) = effect_map(BY_HEAD, value="difference").images
    assert image.get_clim() == pytest.approx((-0.15, 0.15))


def test_the_map_of_places_by_seconds():
    ax = effect_map(BY_TIME)
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array(), [[0, 0.01, 0.02], [0.03, 0.04, 0.05]])
    assert image.get_extent() == [0, 1.5, -0.5, 1.5]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "3"]
    assert ax.get_xlabel() == "time (s)"
    (dots,) = ax.lines
    assert sorted(zip(dots.get_xdata(), dots.get_ydata(), strict=True)) == [(0.75, 1), (1.25, 1)]
    both = effect_map(table(["block.0.attn.z"], heads=range(2), windows=[0.0, 0.5]))
    assert [t.get_text() for t in both.get_yticklabels()] == ["block.0.attn.z head 0", "block.0.attn.z head 1"]


def test_sites_of_several_kinds_keep_their_names_and_whole_sites_stay_out():
    mixed = table(["block.0.attn.v", "block.0.attn.z"], heads=range(2))
    whole = table(["hidden.1"]).assign(effect=9.0)
    ax = effect_map(pd.concat([mixed, whole], ignore_index=True))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["block.0.attn.v", "block.0.attn.z"]
    assert ax.images[0].get_array().max() == pytest.approx(0.03)
    assert ax.get_ylabel() == "site"


@pytest.mark.parametrize("layers", [6, 25])
def test_labels_do_not_crowd(layers):
    sites = [f"block.{k}.attn.{name}" for k in range(layers) for name in "qkvz"]
    ax = effect_map(table(sites, heads=range(16)))
    assert len(ax.get_yticks()) <= 40
    assert len(ax.get_xticks()) == 16
    assert ax.figure.get_size_inches()[1] <= 10


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (table(["hidden.1"]), {}, "a map needs heads or windows of time"),
        (BY_HEAD.drop(columns=["start", "placebo"]), {}, "the table has no start, placebo; pass that of sweep"),
        (BY_HEAD.iloc[:0], {}, "the table has no rows"),
        (BY_HEAD, {"value": "p_value"}, "value='p_value' must be 'effect', 'difference' or 'placebo'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(data, options, message):
    with pytest.raises(ValueError, match=message):
        effect_map(data, **options)


def sound(samples=1600):
    return torch.rand(samples, generator=torch.Generator().manual_seed(0)) - 0.5


def bar(ax):
    """The label of the colour bar."""
    return ax.figure.axes[-1].get_ylabel()


def test_attributions_of_samples_are_added_up_over_20_ms():
    values = torch.randn(1500, generator=torch.Generator().manual_seed(1))
    ax = attribution(sound(1500), values, seconds=torch.arange(1500).double() / 16000)
    (image,) = ax.images
    sums = [values[start : start + 320].sum().item() for start in range(0, 1500, 320)]
    np.testing.assert_allclose(image.get_array()[0], sums, rtol=1e-4, atol=1e-5)
    left, right, _, _ = image.get_extent()
    assert left == pytest.approx(-0.5 / 16000)
    assert right == pytest.approx(5 * 0.02 - 0.5 / 16000)
    low, high = image.get_clim()
    assert low == -high  # white is 0
    assert high == pytest.approx(np.quantile(np.abs(sums), 0.99), rel=1e-5)
    assert bar(ax) == "attribution per 20 ms"
    assert ax.get_xlim() == (0, pytest.approx(1500 / 16000))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (s)", "amplitude")
    assert to_rgb(image.cmap(1.0))[0] > to_rgb(image.cmap(1.0))[2]  # red speaks for it


def test_attributions_of_frames_are_drawn_at_their_times():
    values = torch.tensor([1.0, -2.0, 0.5, 0.0])
    ax = attribution(sound(), values, seconds=0.0125 + torch.arange(4).double() / 50, label="rollout")
    (image,) = ax.images
    assert image.get_array()[0].tolist() == values.tolist()
    assert image.get_extent()[:2] == [pytest.approx(0.0025), pytest.approx(0.0825)]
    assert bar(ax) == "rollout per frame"
    assert ax.get_lines()[0].get_ydata().tolist() == pytest.approx(sound().tolist())


@pytest.mark.wrong_types
def test_attribution_refuses_a_batch_and_times_that_do_not_fit():
    with pytest.raises(
        ValueError, match=r"values must be \(positions,\), got \(2, 4\); pick one utterance, values\[0\]"
    ):
        attribution(sound(), torch.zeros(2, 4), seconds=torch.zeros(4))
    with pytest.raises(ValueError, match="one time for each of the 4 frames"):
        attribution(sound(), torch.zeros(4), seconds=torch.zeros(3))


def test_a_result_draws_itself_with_its_completeness_error():
    errors = pd.DataFrame({"id": ["a", "a", "b"], "relative": [0.001, 0.0234, 0.9]})
    found = Attribution(
        ids=("a", "b"),
        each=(torch.ones(2, 4), torch.zeros(2, 4)),
        seconds=(torch.arange(4) / 50.0,) * 2,
        waveforms=(sound(), sound()),
        completeness_error=errors,
        settings={"method": "ig", "wrt": "conv.out", "target": "cosine"},
    )
    ax = found.plot(0)
    title = "a: integrated gradients at conv.out, cosine, completeness error at most 2.3 %"
    assert ax.get_title() == title
    own = Figure().add_subplot()
    assert found.plot(1, ax=own) is own
    assert "90 %" in own.get_title()
