"""The widget for a recording of one's own: what it shows, and what it answers to what is not one."""

import io

import numpy as np
import pytest
import soundfile
import torch
from shown import decoded, sounds
from widget_cases import model

from unisat import widgets
from unisat.audio import load, normalize

pytestmark = pytest.mark.usefixtures("no_widget_is_left")


@pytest.fixture
def recording_widget():
    return widgets.recording(model())


def spoken(seconds, rate=16_000, channels=1):
    """Bytes of a WAV file of quiet noise."""
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, (int(seconds * rate), channels))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def test_recording_waits_for_a_file(recording_widget):
    assert recording_widget.png == b""
    assert "Choose an audio file" in recording_widget.stage.alert + recording_widget.stage.alt
    bundle = recording_widget._repr_mimebundle_()
    assert "image/png" not in bundle
    assert bundle["text/plain"] == recording_widget.caption


def test_recording_shows_waveform_norms_and_player(recording_widget):
    content = spoken(1.0)
    recording_widget.load(content, "my $voice$.wav")
    assert recording_widget.error is None
    with torch.no_grad():
        states = model()(normalize(load(content))[None], output_hidden_states=True).hidden_states
    norms = np.stack([state[0].square().mean(-1).sqrt().numpy() for state in states])
    above, below = recording_widget.figure.axes[:2]
    assert len(above.lines) == 1
    assert not above.title.get_parse_math()
    np.testing.assert_allclose(np.asarray(below.images[0].get_array()), norms, rtol=1e-4)
    means = norms.mean(1)
    assert recording_widget.caption.startswith("my $voice$.wav: 1.0 s, 248 frames, peak 0.10, RMS 0.058; ")
    assert f"smallest in layer {means.argmin()} ({means.min():.2f})" in recording_widget.caption
    assert f"largest in layer {means.argmax()} ({means.max():.2f})" in recording_widget.caption
    ((name, heard),) = sounds(recording_widget).items()
    assert name == "my $voice$.wav, 1.0 s"
    np.testing.assert_array_equal(heard, decoded(content))


def test_recording_says_what_it_changed(recording_widget):
    recording_widget.load(spoken(1.0, channels=2), "two.wav")
    assert "two.wav has 2 channels" in recording_widget.caption


def test_an_upload_is_loaded(recording_widget):
    file = memoryview(spoken(0.5))
    recording_widget.controls["recording"].value = {"name": "a.wav", "content": file, "size": len(file)}
    assert recording_widget.caption.startswith("a.wav: 0.5 s")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "nothing.wav"),
        (b"this is a letter, not a recording", "nothing.wav"),
        (spoken(61.0, rate=8000), "nothing.wav is 61 s long; cut it to 60 s or less."),
        (spoken(0.005), "nothing.wav has 80 samples, one frame needs 148; choose a longer one."),
    ],
)
def test_what_is_not_a_recording_gets_a_sentence(recording_widget, content, said):
    recording_widget.load(content, "nothing.wav")
    assert isinstance(recording_widget.error, ValueError)
    assert said in recording_widget.stage.alert + recording_widget.stage.alt
    assert "Traceback" not in recording_widget.stage.alert + recording_widget.stage.alt
    assert recording_widget.png == b""
    recording_widget.load(spoken(0.5), "good.wav")
    assert recording_widget.stage.alert == ""


def test_silence_is_remarked_upon(recording_widget):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8000), 16_000, format="WAV")
    recording_widget.load(file.getvalue(), "quiet.wav")
    assert "nothing but silence in quiet.wav" in recording_widget.caption


def test_a_file_that_the_page_did_not_send_is_answered(recording_widget):
    recording_widget.controls["recording"].value = {"name": "hour.wav", "content": memoryview(b""), "size": 115_200_044}
    assert recording_widget.stage.alert == (
        "hour.wav has 115 MB, a page can send 8 MB; cut out what you want to hear, or read it with us.Batch.from_files."
    )


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"), [(96_000, 1, "PCM_16"), (16_000, 6, "PCM_16"), (8000, 1, "PCM_U8")]
)
def test_unusual_formats_are_read(recording_widget, rate, channels, subtype):
    file = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (rate, channels))
    soundfile.write(file, noise, rate, format="WAV", subtype=subtype)
    recording_widget.load(file.getvalue(), "odd.wav")
    assert recording_widget.error is None
    assert recording_widget.caption.startswith("odd.wav: 1.0 s, 248 frames")
