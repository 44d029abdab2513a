"""Pictures of attribution and lenses: what the artists hold, not the pixels."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from unisat.interpret.interventions.attribution import Attribution
from unisat.interpret.units.lenses import KMeansLens, Lens
from unisat.plots import CLASSES, attribution, kmeans_lens, lens, lens_layers


def sound(samples=1600):
    return torch.rand(samples, generator=torch.Generator().manual_seed(0)) - 0.5


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


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
    drawn = lines(ax)
    expected = (30 * a["agreement"] + 10 * b["agreement"]) / 40
    assert drawn["agrees with the last layer"].get_ydata().tolist() == pytest.approx(expected.tolist())
    assert drawn["accuracy"].get_ydata().tolist() == pytest.approx(a["accuracy"].tolist())
    levels = {line.get_color(): line.get_ydata()[0] for line in ax.get_lines() if line.get_linestyle() == ":"}
    assert levels[CLASSES[0]] == pytest.approx((30 * a["constant"][0] + 10 * b["constant"][0]) / 40)
    assert levels[CLASSES[2]] == pytest.approx(8 / 30)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "share of frames")
    assert "accuracy" not in lines(lens_layers(made(targets=False).table()))


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
    drawn = lines(ax)
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


def test_each_picture_goes_where_it_is_told():
    own = Figure().add_subplot()
    assert attribution(sound(), torch.ones(4), seconds=torch.arange(4) / 50, ax=own) is own
    assert lens_layers(made().table(), ax=own) is own
    assert made().plot(0, ax=own) is own
