"""Widgets without a browser: controls are moved by code, pictures, sentences and sounds are read back."""

import base64
import gc
import io
import math
import re
import time
import weakref

import ipywidgets
import matplotlib
import numpy as np
import pytest
import soundfile
import torch
from ipywidgets.widgets.widget import _instances
from PIL import Image

import unisat
from unisat import widgets
from unisat.audio import load, normalize
from unisat.config import UniSpeechSatConfig
from unisat.corpus import Batch
from unisat.frames import frame_seconds, stack_length
from unisat.interpret.attention import measures
from unisat.masking import audible, span_mask, spans
from unisat.plots.masks import summary
from unisat.widgets.picture import LOCK, Look, Picture, control, new_figure, player, png, wav

CONFIG = UniSpeechSatConfig(mask_time_prob=0.4, mask_time_length=5, mask_time_min_masks=2)


def clips(*ids):
    """Utterances of 51 and 99 frames."""
    noise = torch.Generator().manual_seed(0)
    waveforms = [torch.rand(samples, generator=noise) - 0.5 for samples in (16_480, 32_000)]
    return Batch.from_arrays(waveforms[: len(ids)], sampling_rate=16_000, ids=list(ids))


class Patterns:
    """Stands for a trace of two blocks with three heads; of the padded frames, utterance 1 has 30 valid ones."""

    ids = ("amy", "bob")
    sites = ("block.10.attn.pattern", "hidden.1", "block.2.attn.pattern")

    def __init__(self, frames=50, valid=30):
        draw = torch.Generator().manual_seed(1)
        self.valid = torch.tensor([frames, valid])
        self.patterns = {site: torch.rand(2, 3, frames, frames, generator=draw).softmax(-1) for site in self.sites[::2]}

    def __getitem__(self, site):
        return self.patterns[site]

    def lengths(self, site):
        return self.valid

    def seconds(self, site):
        frames = int(self.valid.max())
        return frame_seconds(frames, CONFIG.conv_kernel, CONFIG.conv_stride)


@pytest.fixture(autouse=True)
def no_widget_is_left():
    """Whatever a test makes, closing it leaves nothing behind: no control, layout or style."""
    before = set(_instances)
    yield
    for made in [one for one in _instances.values() if isinstance(one, Picture)]:
        made.close()
    assert set(_instances) == before


@pytest.fixture
def mask_widget():
    return widgets.masks(CONFIG, clips("amy <1>", "bob"))


@pytest.fixture
def attention_widget():
    return widgets.attention(Patterns(), utterance=1)


def html(widget):
    """All the HTML that a widget shows."""
    return "".join(child.value for child in widget.children if isinstance(child, ipywidgets.HTML))


def sounds(widget):
    """What a widget plays, by its name on the page: 16-bit samples."""
    found = re.findall(r'<audio controls aria-label="([^"]+)" src="data:audio/wav;base64,([^"]+)">', html(widget))
    return {name: decoded(base64.b64decode(content)) for name, content in found}


def decoded(content):
    samples, rate = soundfile.read(io.BytesIO(content), dtype="int16")
    assert rate == 16_000
    return samples


# the picture


def test_png_is_what_matplotlib_draws():
    figure = new_figure(3.0, 2.0)
    figure.add_subplot().plot([0, 1], [0, 1])
    ours = np.asarray(Image.open(io.BytesIO(png(figure))))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    np.testing.assert_array_equal(ours, np.asarray(Image.open(buffer))[..., :3])
    assert ours.shape == (200, 300, 3)


def test_layout_is_solved_once():
    figure = new_figure(3.0, 2.0)
    ax = figure.add_subplot()
    png(figure)
    before = ax.get_position().bounds
    ax.set_ylabel("one\ntwo\nthree")
    png(figure)
    assert ax.get_position().bounds == before


def test_wav_is_exact_and_never_normalised():
    samples = torch.tensor([0.0, 0.25, -1.0, 1e-5, 0.1, 1.0, 3.0, -7.0])
    expected = [0, 8192, -32768, 0, round(0.1 * 32768), 32767, 32767, -32768]
    assert decoded(wav(samples)).tolist() == expected
    every = torch.arange(-(2**15), 2**15)  # every 16-bit sample comes back
    np.testing.assert_array_equal(decoded(wav(every / 2**15)), every)


def test_player_has_a_name_and_waits():
    shown = player("what <is> left", torch.zeros(8000))
    assert 'aria-label="what &lt;is&gt; left, 0.5 s"' in shown
    assert "autoplay" not in shown
    assert "loop" not in shown


class Ruler(Picture):
    """Draws a line of the length asked for, or stumbles."""

    def __init__(self):
        super().__init__(control(ipywidgets.IntSlider, "length", "of the line", min=-2, value=1))
        self.figure = new_figure(2.0, 1.0)
        (self.line,) = self.figure.add_subplot().plot([0, 1], [0, 0])
        self.first()

    def look(self, length):
        assert not torch.is_grad_enabled()
        if length == -1:
            raise ValueError("length=-1 must be <positive>.")
        if length == -2:
            raise KeyError("length")
        self.line.set_data([0, 1 / length], [0, 0])
        return Look(sentence=f"A line of length {length} & more.")


def test_controls_move_the_picture():
    ruler = Ruler()
    before = ruler.png
    ruler.controls["length"].value = 2
    assert ruler.png != before
    assert base64.b64encode(ruler.png).decode() in html(ruler)
    assert ruler.sentence == "A line of length 2 & more."
    assert ">A line of length 2 &amp; more.</p>" in html(ruler)
    assert '<img width="200" height="100"' in html(ruler)
    assert 'alt="A line of length 2 &amp; more."' in html(ruler)


def test_errors_are_shown_and_go_away():
    ruler = Ruler()
    good = ruler.png
    ruler.controls["length"].value = -1
    assert isinstance(ruler.error, ValueError)
    assert 'role="alert"' in html(ruler)
    assert "length=-1 must be &lt;positive&gt;.<br>The picture still shows what was there before." in html(ruler)
    assert ruler.png == good
    ruler.controls["length"].value = -2
    assert "KeyError: &#x27;length&#x27;" in html(ruler)
    ruler.controls["length"].value = 1
    assert ruler.error is None
    assert "alert" not in html(ruler)
    assert ruler.png == good


def test_a_saved_notebook_keeps_picture_and_sentence():
    ruler = Ruler()
    bundle = ruler._repr_mimebundle_()
    assert bundle["text/plain"] == ruler.sentence
    assert base64.b64decode(bundle["image/png"]) == ruler.png
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_drawing_waits_for_the_lock():
    ruler = Ruler()
    holder = []
    ruler.look = lambda length: holder.append(LOCK._is_owned()) or Look(sentence="")
    ruler.redraw()
    assert holder == [True]


def test_closing_lets_go():
    ruler = Ruler()
    slider, figure, shown = ruler.controls["length"], weakref.ref(ruler.figure), ruler.png
    ruler.line = None
    ruler.close()
    ruler.close()  # twice does no harm
    slider.value = 7
    assert ruler.png == shown
    assert ruler.figure is None
    gone = weakref.ref(ruler)
    del ruler
    gc.collect()
    assert gone() is None
    assert figure() is None


def test_pyplot_is_never_asked(mask_widget, attention_widget):
    assert "matplotlib.pyplot" not in __import__("sys").modules or not matplotlib.pyplot.get_fignums()


@pytest.mark.parametrize("name", ["masks", "attention", "mixing", "recording"])
def test_every_control_has_a_name_and_a_tooltip(name, model):
    made = {
        "masks": lambda: widgets.masks(CONFIG, clips("amy <1>", "bob")),
        "mixing": lambda: widgets.mixing(clips("amy <1>", "bob")),
        "attention": lambda: widgets.attention(Patterns()),
        "recording": lambda: widgets.recording(model),
    }[name]()
    assert made.controls
    for description, one in made.controls.items():
        assert description == one.description
        assert one.tooltip


def test_widgets_are_functions_of_the_package():
    assert all(callable(getattr(widgets, name)) for name in widgets.__all__)


# masks


def expected_mask(widget, samples):
    values = {name: one.value for name, one in widget.controls.items()}
    frames = stack_length(samples, CONFIG.conv_kernel, CONFIG.conv_stride)
    return span_mask(
        torch.tensor([frames]),
        frames,
        mask_prob=values["mask_prob"],
        mask_length=values["mask_length"],
        min_spans=values["min_spans"],
        generator=torch.Generator().manual_seed(values["seed"]),
    )[0]


def test_masks_start_from_the_configuration(mask_widget):
    assert {name: one.value for name, one in mask_widget.controls.items()} == {
        "mask_prob": 0.4,
        "mask_length": 5,
        "min_spans": 2,
        "seed": 0,
        "utterance": 0,
    }
    assert mask_widget.mask.shape == (51,)
    torch.testing.assert_close(mask_widget.mask, expected_mask(mask_widget, 16_480))


@pytest.mark.parametrize(
    ("name", "value"), [("mask_prob", 0.9), ("mask_length", 12), ("min_spans", 6), ("seed", 3), ("utterance", 1)]
)
def test_each_mask_control_does_what_it_says(mask_widget, name, value):
    before = mask_widget.png, mask_widget.sentence, mask_widget.mask
    mask_widget.controls[name].value = value
    assert mask_widget.error is None
    waveform = mask_widget.batch.waveforms[mask_widget.controls["utterance"].value]
    torch.testing.assert_close(mask_widget.mask, expected_mask(mask_widget, len(waveform)))
    assert mask_widget.png != before[0]
    assert mask_widget.sentence != before[1]
    (ax,) = mask_widget.figure.axes
    (shade,) = ax.collections
    assert len(shade.get_paths()) == len(spans(mask_widget.mask))
    assert ax.get_title() == summary(mask_widget.mask)
    left, hidden = sounds(mask_widget).values()
    for heard, keep in ((left, "visible"), (hidden, "masked")):
        part = audible(waveform, mask_widget.mask, hop=320, keep=keep)
        np.testing.assert_array_equal(heard, (part * 2**15).round())


def test_coming_back_gives_the_same_picture(mask_widget):
    """Artists are changed in place: nothing of an earlier state may stay."""
    before = mask_widget.png
    for name, value in [("seed", 5), ("mask_prob", 0.0), ("mask_prob", 1.0), ("mask_prob", 0.4), ("seed", 0)]:
        mask_widget.controls[name].value = value
    assert mask_widget.png == before
    for utterance in (1, 0):
        mask_widget.controls["utterance"].value = utterance
    assert mask_widget.png == before


def test_mask_sentence_says_what_is_shown(mask_widget):
    mask_widget.controls["mask_prob"].value = 0.0
    mask_widget.controls["min_spans"].value = 1
    assert mask_widget.sentence == (
        "amy <1>: 9.8% of 51 frames masked, 1 span, 100 ms hidden, the longest 100 ms; mask_length 5 frames = 100 ms."
    )
    assert "amy &lt;1&gt;" in html(mask_widget)
    mask_widget.controls["min_spans"].value = 0
    assert "0.0% of 51 frames masked, 0 spans, 0 ms hidden; mask_length" in mask_widget.sentence


def test_masks_of_a_single_utterance_need_no_menu():
    widget = widgets.masks(CONFIG, clips("amy"))
    assert widget.controls["utterance"].layout.display == "none"


def test_an_utterance_too_short_for_a_frame_is_answered_in_the_widget():
    batch = Batch.from_arrays([torch.rand(16_000), torch.rand(399)], sampling_rate=16_000)
    widget = widgets.masks(CONFIG, batch)
    widget.controls["utterance"].value = 1
    assert "a frame needs 400 samples, got 399" in html(widget)
    widget.controls["utterance"].value = 0
    assert widget.error is None


def test_a_span_longer_than_the_clip_is_said_in_the_widget():
    widget = widgets.masks(CONFIG, Batch.from_arrays([torch.rand(4000)], sampling_rate=16_000))
    widget.controls["mask_length"].value = 20
    assert widget.error is None
    assert not widget.mask.any()
    assert "longer than every utterance (up to 12 frames): nothing is hidden" in widget.sentence


def test_masks_of_no_such_utterance():
    with pytest.raises(ValueError, match="utterance=2 is not one of the batch's 2"):
        widgets.masks(CONFIG, clips("amy <1>", "bob"), utterance=2)


# attention


def test_attention_starts_with_the_mean_of_the_first_layer(attention_widget):
    assert [name for name, _ in attention_widget.controls["layer"].options] == ["2", "10"]
    expected = Patterns()["block.2.attn.pattern"][1, :, :30, :30].mean(0)  # 30 valid frames
    torch.testing.assert_close(attention_widget.pattern, expected)
    image = attention_widget.figure.axes[0].images[0]
    np.testing.assert_allclose(np.asarray(image.get_array()), expected)


def test_ten_seconds_of_attention_are_a_small_picture():
    wave = torch.cat(unisat.corpus.builtin().batch(slice(4)).waveforms)[:160_000]
    _, trace = unisat.run(unisat.load("tiny"), wave, "block.3.attn.pattern", sampling_rate=16_000)
    view = widgets.attention(trace)
    assert view.pattern.shape == (499, 499)
    view.controls["head"].value = 0
    # twelve heads of a layer as data in a page would be 68 MB in other tools; here each is a picture
    assert 12 * len(view.png) <= 3e6
    view.close()


def test_each_attention_control_does_what_it_says(attention_widget):
    shown = {attention_widget.png}
    attention_widget.controls["layer"].value = 10
    attention_widget.controls["head"].value = 2
    patterns = Patterns()["block.10.attn.pattern"][1, 2, :30, :30]
    torch.testing.assert_close(attention_widget.pattern, patterns)
    image = attention_widget.figure.axes[0].images[0]
    np.testing.assert_allclose(np.asarray(image.get_array()), patterns)
    assert image.get_clim() == (0, pytest.approx(patterns.max().item()))
    assert attention_widget.figure.axes[0].get_title() == "layer 10, head 2"
    shown.add(attention_widget.png)
    # frames whose centres, 12.5 ms + 20 ms * t, lie between 100 and 300 ms: 5 to 14
    attention_widget.controls["seconds"].value = (0.1, 0.3)
    torch.testing.assert_close(attention_widget.pattern, patterns[5:15, 5:15])
    ax = attention_widget.figure.axes[0]
    assert ax.get_xlim() == (pytest.approx(0.1025), pytest.approx(0.3025))
    assert ax.get_ylim() == (pytest.approx(0.3025), pytest.approx(0.1025))  # the first query is at the top
    assert image.get_extent() == [*ax.get_xlim(), *ax.get_xlim()]
    shown.add(attention_widget.png)
    assert len(shown) == 3


def test_attention_sentence_is_computed_from_what_is_shown(attention_widget):
    whole = measures(attention_widget.pattern, attention_widget.seconds)
    assert attention_widget.sentence == (
        "bob, 0.00–0.60 s, layer 2, mean of all heads: a frame looks "
        f"{whole['distance_ms']:.0f} ms away on average, with an entropy of {whole['entropy_bits']:.1f} bits "
        f"(at most {math.log2(30):.1f}) and {whole['near_share']:.0%} of its weight within 3 frames of itself. "
        f"{1 - whole['inside']:.0%} of the weight goes elsewhere and is left out."
    )
    attention_widget.controls["seconds"].value = (0.0, 0.2)
    part = measures(attention_widget.pattern, attention_widget.seconds[:10])
    assert f"{part['distance_ms']:.0f} ms away" in attention_widget.sentence
    assert f"{1 - part['inside']:.0%} of the weight" in attention_widget.sentence


def test_an_empty_range_is_answered_in_the_widget(attention_widget):
    attention_widget.controls["seconds"].value = (0.2, 0.2)
    assert "no frame lies in 0.20 to 0.20 s; widen the range." in html(attention_widget)
    attention_widget.controls["seconds"].value = (0.2, 0.4)
    assert attention_widget.error is None


def test_attention_plays_the_part_shown():
    batch = clips("amy <1>", "bob")
    widget = widgets.attention(Patterns(), batch, utterance=0)
    widget.controls["seconds"].value = (0.1, 0.5)
    (heard,) = sounds(widget).values()
    np.testing.assert_array_equal(heard, (batch.waveforms[0][1600:8000] * 2**15).round())


def test_attention_without_patterns_says_how_to_capture_them():
    trace = Patterns()
    trace.sites = ("hidden.1",)
    with pytest.raises(ValueError, match=r'hidden.1.*us.run\(model, batch, "block.\*.attn.pattern"\)'):
        widgets.attention(trace)
    with pytest.raises(ValueError, match="utterance=2 is not one of the trace's 2"):
        widgets.attention(Patterns(), utterance=2)


def test_attention_over_500_frames_is_fast():
    widget = widgets.attention(Patterns(frames=500, valid=400))
    started = time.perf_counter()
    for head in range(3):
        widget.controls["head"].value = head
    assert (time.perf_counter() - started) / 3 < 1.0  # 0.05 s where nothing else runs
    assert widget.pattern.shape == (500, 500)


def test_attention_of_a_real_run(model):
    batch = clips("amy", "bob")
    _, trace = unisat.run(model, batch, "block.*.attn.pattern")
    widget = widgets.attention(trace, batch, utterance=0)
    assert len(widget.controls["layer"].options) == 6
    widget.controls["layer"].value, widget.controls["head"].value = 4, 5
    assert widget.error is None
    assert widget.pattern.shape == (51, 51)
    torch.testing.assert_close(widget.pattern.sum(-1), torch.ones(51))
    assert "goes elsewhere" not in widget.sentence


# recordings


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return unisat.UniSpeechSatModel(unisat.UniSpeechSatConfig.tiny()).eval()


@pytest.fixture
def recording_widget(model):
    return widgets.recording(model)


def spoken(seconds, rate=16_000, channels=1):
    """Bytes of a WAV file of quiet noise."""
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, (int(seconds * rate), channels))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def test_recording_waits_for_a_file(recording_widget):
    assert recording_widget.png == b""
    assert "Choose an audio file" in html(recording_widget)
    bundle = recording_widget._repr_mimebundle_()
    assert "image/png" not in bundle
    assert bundle["text/plain"] == recording_widget.sentence


def test_recording_shows_waveform_norms_and_player(recording_widget, model):
    content = spoken(1.0)
    recording_widget.load(content, "my $voice$.wav")
    assert recording_widget.error is None
    with torch.no_grad():
        states = model(normalize(load(content))[None], output_hidden_states=True).hidden_states
    norms = np.stack([state[0].square().mean(-1).sqrt().numpy() for state in states])
    above, below = recording_widget.figure.axes[:2]
    assert len(above.lines) == 1
    assert not above.title.get_parse_math()
    np.testing.assert_allclose(np.asarray(below.images[0].get_array()), norms, rtol=1e-4)
    means = norms.mean(1)
    assert recording_widget.sentence.startswith("my $voice$.wav: 1.0 s, 49 frames, peak 0.10, RMS 0.058; ")
    assert f"smallest in layer {means.argmin()} ({means.min():.2f})" in recording_widget.sentence
    assert f"largest in layer {means.argmax()} ({means.max():.2f})" in recording_widget.sentence
    ((name, heard),) = sounds(recording_widget).items()
    assert name == "my $voice$.wav, 1.0 s"
    np.testing.assert_array_equal(heard, decoded(content))


def test_recording_says_what_it_changed(recording_widget):
    recording_widget.load(spoken(1.0, channels=2), "two.wav")
    assert "two.wav has 2 channels" in recording_widget.sentence


def test_an_upload_is_loaded(recording_widget):
    upload = {"name": "a.wav", "content": memoryview(spoken(0.5)), "size": 0, "type": "audio/wav"}
    recording_widget.show(lambda: recording_widget.look(recording=(upload,)))
    assert recording_widget.sentence.startswith("a.wav: 0.5 s")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "nothing.wav"),
        (b"this is a letter, not a recording", "nothing.wav"),
        (spoken(61.0, rate=8000), "nothing.wav is 61 s long; cut it to 60 s or less."),
        (spoken(0.02), "nothing.wav has 320 samples, one frame needs 400; choose a longer one."),
    ],
)
def test_what_is_not_a_recording_gets_a_sentence(recording_widget, content, said):
    recording_widget.load(content, "nothing.wav")
    assert isinstance(recording_widget.error, ValueError)
    assert said in html(recording_widget)
    assert "Traceback" not in html(recording_widget)
    assert recording_widget.png == b""
    recording_widget.load(spoken(0.5), "good.wav")
    assert "alert" not in html(recording_widget)


def test_silence_is_remarked_upon(recording_widget):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8000), 16_000, format="WAV")
    recording_widget.load(file.getvalue(), "quiet.wav")
    assert "nothing but silence in quiet.wav" in recording_widget.sentence


# mixing


def test_mixing_is_what_its_controls_say():
    batch = clips("amy <1>", "bob")
    widget = widgets.mixing(batch)
    assert (widget.start, widget.end) == (round(0.4 * 16_480), round(0.4 * 16_480) + round(0.4 * 16_480))
    for name, value in {"snr_db": 7.0, "share": 0.25, "start": 0.7, "utterance": 1, "other": 0}.items():
        before = widget.png, widget.mixture
        widget.controls[name].value = value
        assert widget.error is None
        assert widget.png != before[0]
        assert not torch.equal(widget.mixture, before[1])
    main, other = batch.waveforms[1], batch.waveforms[0]
    assert widget.start == round(0.7 * 32_000)
    expected = unisat.mixing.mix_pair(main, other, snr_db=7.0, start=widget.start, length=8000)
    assert torch.equal(widget.mixture, expected)
    assert "0.50 s of amy <1> from 1.40 s on, 25% of it, at +7 dB" in widget.sentence
    widget.controls["share"].value = 0.5
    assert widget.end == 32_000  # half of the clip is asked for, but it ends before
    widget.controls["share"].value = 0.0
    assert torch.equal(widget.mixture, main)
    with pytest.raises(ValueError, match="mixing needs two utterances, the batch has 1"):
        widgets.mixing(clips("amy"))
    with pytest.raises(ValueError, match="other=2 must be among the batch's 2"):
        widgets.mixing(batch, other=2)
