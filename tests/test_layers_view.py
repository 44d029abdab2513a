"""Hidden states over layers and time: what is shown against the trace, similarities against loops."""

import itertools

import numpy as np
import pytest
import torch
from conftest import shuffled, small_config

import unisat as us
from unisat.interpret.layers.over_time import MOST, frame_cka, frame_cosines, hidden_layers, layer_frames
from unisat.plots._layers import frame_similarity, outline, set_frame_similarity, set_outline
from unisat.plots._show import wav
from unisat.widgets._layers import LayersView, layers
from unisat.widgets._picture import Refusal

pytestmark = pytest.mark.usefixtures("no_widget_is_left")

LENGTHS = (4000, 2500)
CKA = "debiased CKA"


def sound():
    generator = torch.Generator().manual_seed(3)
    return us.Batch.from_arrays([torch.randn(length, generator=generator) for length in LENGTHS], sampling_rate=16_000)


@pytest.fixture(scope="module")
def model():
    return shuffled(us.UniSpeechSatModel(small_config()), 1).eval()


@pytest.fixture(scope="module")
def trace(model):
    return us.run(model, sound(), "hidden.*")[1]


@pytest.fixture
def view(trace):
    made = layers(trace, sound())
    assert isinstance(made, LayersView), made.error
    return made


# what is computed


def test_frames_of_all_layers_are_those_of_the_trace_without_padding(trace):
    states = layer_frames(trace, 1)
    assert hidden_layers(trace) == list(range(len(states)))
    for layer, state in enumerate(states):
        torch.testing.assert_close(state, trace.ragged(f"hidden.{layer}")[1])
    assert states.shape[1] < layer_frames(trace, 0).shape[1]


def test_the_cosine_of_two_layers_is_the_mean_over_frames(trace):
    states = layer_frames(trace, 1)
    got = frame_cosines(states)
    for first, second in itertools.product(range(len(states)), repeat=2):
        pairs = zip(states[first], states[second], strict=True)
        cosines = [float(a @ b / ((a @ a) * (b @ b)).sqrt()) for a, b in pairs]
        assert float(got[first, second]) == pytest.approx(np.mean(cosines), abs=1e-5)
    torch.testing.assert_close(frame_cosines(torch.stack([states[0], -3 * states[0]]))[0, 1], torch.tensor(-1.0))
    assert frame_cosines(torch.zeros(2, 3, 4)).abs().max() == 0


def hsic(first, second):
    """Song et al. 2012, eq. 4: the mean over all four different rows, in plain loops."""
    different = itertools.permutations(range(len(first)), 4)
    return np.mean([first[i, j] * (second[i, j] + second[q, r] - 2 * second[i, q]) for i, j, q, r in different])


def test_cka_is_that_of_the_frames_of_all_utterances(model, monkeypatch):
    monkeypatch.setattr("unisat.interpret.layers.over_time.MOST", 9)
    _, trace = us.run(model, sound(), "hidden.0", "hidden.2")
    frames = [torch.cat(trace.ragged(site)).double().numpy() for site in ("hidden.0", "hidden.2")]
    rows = np.round(np.linspace(0, len(frames[0]) - 1, 9)).astype(int)
    assert len(frames[0]) > 9
    one, two = (values[rows] @ values[rows].T for values in frames)
    expected = hsic(one, two) / np.sqrt(hsic(one, one) * hsic(two, two))
    got = frame_cka(trace)
    assert float(got[0, 1]) == pytest.approx(expected, abs=1e-4)
    assert float(got[1, 1]) == pytest.approx(1, abs=1e-5)


def test_long_recordings_are_compared_by_some_of_their_frames(model, monkeypatch):
    seen = []
    real = us.layer_similarity
    monkeypatch.setattr(
        "unisat.interpret.layers.over_time.layer_similarity",
        lambda bank, **how: seen.append(len(bank)) or real(bank, **how),
    )
    wave = torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    _, trace = us.run(model, wave.repeat(30), "hidden.*", sampling_rate=16_000)
    assert int(trace.lengths("hidden.0")[0]) > MOST
    assert frame_cka(trace).shape == (len(trace.sites),) * 2
    assert seen == [MOST]


# the widget


def test_the_slider_walks_through_the_layers(view, trace):
    for layer in (2, 1, 0):
        before = view.png
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
        assert f"hidden.{layer}, {len(state)} frames of 16 channels: RMS {rms.mean():.2f} over time" in view.sentence
        channels = state.square().mean(0).sqrt()
        assert f"largest channel is {int(channels.argmax())}, RMS {channels.max():.2f}" in view.sentence
        assert view.map.get_title() == f"hidden.{layer}"
        assert [frame.get_xy() for frame in view.frames] == [(0, layer - 0.5), (0, layer - 0.5), (layer - 0.5, 0)]
        assert view.png != before


def test_another_utterance_has_its_own_frames_norms_and_sound(view, trace):
    first = view.png
    view.controls["utterance"].value = 1
    torch.testing.assert_close(view.state, trace.ragged("hidden.0")[1])
    torch.testing.assert_close(view.similarity, frame_cosines(layer_frames(trace, 1)))
    np.testing.assert_allclose(view.sizes.images[0].get_array(), view.norms)
    times, hop = trace.seconds("hidden.0")[: len(view.state)], 64 / 16_000
    for ax in (view.map, view.sizes):
        assert ax.get_xlim() == pytest.approx((float(times[0]) - hop / 2, float(times[-1]) + hop / 2), abs=1e-4)
        assert ax.images[0].get_extent()[:2] == pytest.approx(ax.get_xlim())
    assert [len(view.stage.cursors), view.stage.cursors[0]["t1"]] == [2, pytest.approx(view.map.get_xlim()[1])]
    assert view.stage.sounds[0]["wav"] == wav(sound().waveforms[1])
    view.controls["utterance"].value = 0
    assert view.png == first


def test_similarity_is_of_frames_or_of_all_utterances(view, trace):
    torch.testing.assert_close(view.similarity, frame_cosines(layer_frames(trace, 0)))
    assert f"Cosine of frames: {view.similarity[0, 1]:.2f} with hidden.1." in view.sentence
    view.controls["similarity"].value = CKA
    torch.testing.assert_close(view.similarity, frame_cka(trace))
    assert f"Debiased CKA: {view.similarity[0, 1]:.2f} with hidden.1." in view.sentence
    np.testing.assert_allclose(view.alike.images[0].get_array(), view.similarity)
    assert view.alike.get_title() == "debiased CKA, all utterances"
    view.controls["layer"].value = 1
    both = f"{view.similarity[1, 0]:.2f} with hidden.0 and {view.similarity[1, 2]:.2f} with hidden.2."
    assert both in view.sentence


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


def test_some_layers_of_one_utterance_will_do(model):
    _, trace = us.run(model, sound().waveforms[0], "hidden.1", "hidden.3", sampling_rate=16_000)
    made = layers(trace)
    assert made.controls["utterance"].layout.display == "none"
    assert made.stage.sounds == []
    made.controls["layer"].value = 1
    torch.testing.assert_close(made.state, trace["hidden.3"][0])
    assert "hidden.3" in made.sentence
    assert f"{made.similarity[1, 0]:.2f} with hidden.1." in made.sentence
    _, alone = us.run(model, sound(), "hidden.2")
    single = layers(alone)
    assert single.error is None
    assert "with hidden" not in single.sentence


def test_what_is_not_finite_is_counted(model):
    _, broken = us.run(model, sound(), "hidden.*")
    broken["hidden.1"][0, 3, :2] = float("nan")
    made = layers(broken)
    made.controls["layer"].value = 1
    assert made.error is None
    assert made.sentence.endswith("2 values are not finite.")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda m: us.run(m, sound(), "block.0.attn.pattern")[1], "holds block.0.attn.pattern, but no hidden states"),
        (lambda m: us.run(m, sound(), "hidden.*", reduce="mean")[1], r"instead of \(batch, frames, hidden\)"),
    ],
)
def test_a_trace_without_frames_is_refused_in_the_widget(model, make, words):
    made = layers(make(model))
    assert isinstance(made, Refusal)
    with pytest.raises(ValueError, match=words):
        raise made.error


def test_what_does_not_belong_together_is_refused(trace):
    assert "the batch has 1 utterances, the trace 2" in str(layers(trace, sound()[0]).error)
    assert "the batch has [37, 61]" in str(layers(trace, sound()[[1, 0]]).error)
    assert "utterance=2 is not one of the trace's 2" in str(layers(trace, utterance=2).error)


# the picture


def test_similarities_have_zero_in_the_middle_and_numbers_in_the_cells():
    values = torch.tensor([[1.0, -0.5], [0.25, 1.0]])
    ax = frame_similarity(values, ["hidden.0", "hidden.4"], label="cosine")
    assert ax.images[0].get_clim() == (-1, 1)
    assert [text.get_text() for text in ax.texts] == ["1.00", "-0.50", "0.25", "1.00"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "4"]
    set_frame_similarity(values.T, "other", ax)
    np.testing.assert_array_equal(ax.images[0].get_array(), values.T)
    assert [text.get_text() for text in ax.texts] == ["1.00", "0.25", "-0.50", "1.00"]
    assert ax.get_title() == "other"
    many = frame_similarity(torch.eye(13), [f"hidden.{layer}" for layer in range(13)], label="many")
    assert len(many.texts) == 0


def test_an_outline_is_a_row_or_a_column_wide():
    ax = frame_similarity(torch.eye(3), ["hidden.0", "hidden.1", "hidden.2"], label="")
    row, column = outline(ax), outline(ax, column=True)
    set_outline(row, 2)
    set_outline(column, 1, column=True)
    ax.figure.canvas.draw()
    ends = [one.get_transform().transform_path(one.get_path()).get_extents() for one in (row, column)]
    corners = [ax.transData.transform(point) for point in ((-0.5, 1.5), (2.5, 2.5), (0.5, -0.5), (1.5, 2.5))]
    np.testing.assert_allclose([ends[0].min, ends[0].max, ends[1].min, ends[1].max], corners)
