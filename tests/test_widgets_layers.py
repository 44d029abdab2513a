"""The layers widget: what is shown of a run against the trace."""

import numpy as np
import pytest
import torch
import widget_cases
from widget_cases import model, noise

import unisat as us
from unisat.interpret.layers.over_time import frame_cka, frame_cosines, layer_frames
from unisat.plots._show import wav
from unisat.widgets._layers import LayersView, layers

pytestmark = pytest.mark.usefixtures("no_widget_is_left")

CKA = "debiased CKA"


@pytest.fixture(scope="module")
def trace():
    return widget_cases.trace("hidden.*")


@pytest.fixture
def view(trace):
    made = layers(trace, noise())
    assert isinstance(made, LayersView), made.error
    return made


def test_the_slider_walks_through_the_layers(view, trace):
    for layer in (2, 1, 0):
        view.controls["layer"].value = layer
        state = trace.ragged(f"hidden.{layer}")[0]
        torch.testing.assert_close(view.state, state)
        image = view.map.images[0]
        np.testing.assert_array_equal(image.get_array(), state.T)
        limit = np.quantile(state.abs().numpy(), 0.99)
        assert image.get_clim() == pytest.approx((-limit, limit))
        assert image.get_cmap().name == "RdBu_r"
        rms = state.square().mean(1).sqrt()
        np.testing.assert_allclose(view.norms.loc[layer], rms, rtol=1e-5)
        assert f"hidden.{layer}, {len(state)} frames of 16 channels: RMS {rms.mean():.2f} over time" in view.caption
        channels = state.square().mean(0).sqrt()
        assert f"largest channel is {int(channels.argmax())}, RMS {channels.max():.2f}" in view.caption
        assert view.map.get_title() == f"hidden.{layer}"
        assert [frame.get_xy() for frame in view.frames] == [(0, layer - 0.5), (0, layer - 0.5), (layer - 0.5, 0)]


def test_another_utterance_has_its_own_frames_norms_and_sound(view, trace):
    view.controls["utterance"].value = 1
    torch.testing.assert_close(view.state, trace.ragged("hidden.0")[1])
    torch.testing.assert_close(view.similarity, frame_cosines(layer_frames(trace, 1)))
    np.testing.assert_allclose(view.sizes.images[0].get_array(), view.norms)
    times, hop = trace.seconds("hidden.0")[: len(view.state)], 64 / 16_000
    for ax in (view.map, view.sizes):
        assert ax.get_xlim() == pytest.approx((float(times[0]) - hop / 2, float(times[-1]) + hop / 2), abs=1e-4)
        assert ax.images[0].get_extent()[:2] == pytest.approx(ax.get_xlim())
    timed = [ax for ax in view.stage.scene["axes"] if ax["time"]]
    assert [len(timed), timed[0]["x"]["lim"][1]] == [2, pytest.approx(view.map.get_xlim()[1])]
    assert view.stage.sounds[0]["wav"] == wav(noise().waveforms[1])


def test_similarity_is_of_frames_or_of_all_utterances(view, trace):
    torch.testing.assert_close(view.similarity, frame_cosines(layer_frames(trace, 0)))
    assert f"Cosine of frames: {view.similarity[0, 1]:.2f} with hidden.1." in view.caption
    view.controls["similarity"].value = CKA
    torch.testing.assert_close(view.similarity, frame_cka(trace))
    assert f"Debiased CKA: {view.similarity[0, 1]:.2f} with hidden.1." in view.caption
    np.testing.assert_allclose(view.alike.images[0].get_array(), view.similarity)
    assert view.alike.get_title() == "debiased CKA, all utterances"
    view.controls["layer"].value = 1
    both = f"{view.similarity[1, 0]:.2f} with hidden.0 and {view.similarity[1, 2]:.2f} with hidden.2."
    assert both in view.caption


def test_one_scale_makes_layers_comparable(view, trace):
    view.controls["one scale"].value = True
    most = max(np.quantile(layer.abs().numpy(), 0.99) for layer in layer_frames(trace, 0))
    for layer in (0, 1):
        view.controls["layer"].value = layer
        assert view.map.images[0].get_clim() == pytest.approx((-most, most))


def test_a_click_on_a_row_chooses_the_layer(view):
    view.clicked(view.sizes, 0.1, 1.3)
    assert view.controls["layer"].value == 1
    view.clicked(view.alike, 0.0, 2.4)
    assert view.controls["layer"].value == 2
    view.clicked(view.map, 0.1, 1.0)  # there a click seeks
    assert view.controls["layer"].value == 2
    view.clicked(view.sizes, 0.1, 99.0)
    assert view.controls["layer"].value == len(view.layers) - 1


def test_some_layers_of_one_utterance_will_do():
    _, trace = us.run(model(), noise().waveforms[0], "hidden.1", "hidden.3", sampling_rate=16_000)
    made = layers(trace)
    assert made.controls["utterance"].layout.display == "none"
    assert made.stage.sounds == []
    made.controls["layer"].value = 1
    torch.testing.assert_close(made.state, trace["hidden.3"][0])
    assert "hidden.3" in made.caption
    assert f"{made.similarity[1, 0]:.2f} with hidden.1." in made.caption
    _, alone = us.run(model(), noise(), "hidden.2")
    single = layers(alone)
    assert single.error is None
    assert "with hidden" not in single.caption


def test_what_is_not_finite_is_counted():
    _, broken = us.run(model(), noise(), "hidden.*")
    broken["hidden.1"][0, 3, :2] = float("nan")
    made = layers(broken)
    made.controls["layer"].value = 1
    assert made.error is None
    assert made.caption.endswith("2 values are not finite.")


def test_what_does_not_belong_together_is_refused(trace):
    assert "frames, the batch has [148]; give the batch that was run" in str(layers(trace, noise()[0]).error)
    assert "[148, 61, 29] frames, the batch has [61, 148, 29]" in str(layers(trace, noise()[[1, 0, 2]]).error)
    assert "utterance=3 is not one of the trace's 3" in str(layers(trace, utterance=3).error)


def test_a_trace_of_means_is_refused():
    _, means = us.run(model(), noise(), "hidden.*", reduce="mean")
    assert "instead of (batch, frames, hidden); capture them without reduce" in layers(means).stage.alert
