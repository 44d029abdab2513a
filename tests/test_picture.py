"""The base of every widget, without a browser: controls are moved by code, pictures, words and sounds are read back."""

import base64
import gc
import io
import math
import weakref

import ipywidgets
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from shown import decoded, sounds

from unisat import plots, widgets
from unisat.plots._show import player, wav
from unisat.widgets import _picture as picture
from unisat.widgets._picture import LOCK, Look, Picture, Refusal, Sound, answers, content, control, new_figure, upload

pytestmark = pytest.mark.usefixtures("no_widget_is_left")


class Ruler(Picture):
    """Draws a line of the length asked for, or stumbles."""

    def __init__(self, moving=False):
        super().__init__(
            control(ipywidgets.IntSlider, "length", "of the line", min=-2, value=1),
            control(ipywidgets.Checkbox, "wide", "twice the axis", value=False),
        )
        self.figure = new_figure(2.0, 1.0)
        self.ax = self.figure.add_subplot()
        (self.line,) = self.ax.plot([0, 1], [0, 0])
        self.clicks = []
        self.looks = 0
        if moving:
            self.moving(self.line, self.ax.title)
        self.cursor(self.ax)
        self.first()

    def look(self, length, wide):
        assert not torch.is_grad_enabled()
        self.looks += 1
        if length == -1:
            raise ValueError("length=-1 must be <positive>.")
        if length == -2:
            raise KeyError("length")
        self.line.set_data([0, 1 / length], [0, 0])
        self.ax.set_title(str(length))
        if self.ax.get_xlim() != (0, 1 + wide):
            self.ax.set_xlim(0, 1 + wide)
            self.still()
        beep = torch.full((800,), length / 100)
        return Look(caption=f"A line of length {length} & more.", sounds={"beep": Sound(beep, 0.25)}, html="<b>1</b>")

    def clicked(self, ax, x, y):
        self.clicks.append((ax, x, y))


def pixels(view):
    return np.asarray(Image.open(io.BytesIO(view.png)))


# pictures


def test_png_is_what_matplotlib_draws():
    ruler = Ruler()
    buffer = io.BytesIO()
    ruler.figure.savefig(buffer, format="png", dpi=100)
    np.testing.assert_array_equal(pixels(ruler), np.asarray(Image.open(buffer))[..., :3])
    assert pixels(ruler).shape == (100, 200, 3)


def test_moving_artists_give_the_picture_that_drawing_everything_gives():
    moving, whole = Ruler(moving=True), Ruler()
    for length, wide in [(2, False), (7, False), (7, True), (3, True), (1, False)]:
        for one in (moving, whole):
            one.set(length=length, wide=wide)
        # the spines lie over the line where everything is drawn, below it where it moves
        differs = (pixels(moving) != pixels(whole)).any(-1)
        assert differs.mean() < 0.005
    assert moving.png != b""


def test_what_is_kept_is_not_drawn_again(monkeypatch):
    ruler = Ruler(moving=True)
    drawn = []
    whole = type(ruler.figure.canvas).draw
    monkeypatch.setattr(type(ruler.figure.canvas), "draw", lambda self: drawn.append(1) or whole(self))
    ruler.controls["length"].value = 5
    assert drawn == []
    ruler.controls["wide"].value = True
    assert drawn == [1]


def test_layout_is_solved_once():
    ruler = Ruler()
    before = ruler.ax.get_position().bounds
    ruler.ax.set_ylabel("one\ntwo\nthree")
    ruler.controls["length"].value = 4
    assert ruler.ax.get_position().bounds == before


def test_several_controls_at_once_draw_once():
    ruler = Ruler()
    before = ruler.looks
    ruler.set(length=4, wide=True)
    assert ruler.looks == before + 1
    ruler.controls["length"].value = 5  # observed as before
    assert ruler.looks == before + 2


def test_controls_move_the_picture():
    ruler = Ruler()
    before = ruler.png
    ruler.controls["length"].value = 2
    assert ruler.png != before
    assert ruler.stage.png == ruler.png
    assert ruler.stage.size == [200, 100]
    assert ruler.stage.alt == ruler.caption == "A line of length 2 & more."
    assert ruler.stage.extra == "<b>1</b>"


def test_pyplot_is_never_asked():
    Ruler()
    assert "matplotlib.pyplot" not in __import__("sys").modules or not matplotlib.pyplot.get_fignums()


def test_drawing_waits_for_the_lock():
    ruler = Ruler()
    holder = []
    ruler.look = lambda **values: holder.append(LOCK._is_owned()) or Look(caption="")
    ruler.redraw()
    assert holder == [True]


# words


def test_errors_are_shown_and_go_away():
    ruler = Ruler()
    good = ruler.png
    ruler.controls["length"].value = -1
    assert isinstance(ruler.error, ValueError)
    assert ruler.stage.alert == "length=-1 must be <positive>. The picture still shows what was there before."
    assert ruler.stage.png == good
    ruler.controls["length"].value = -2
    assert ruler.stage.alert.startswith("KeyError: 'length'")
    ruler.controls["length"].value = 1
    assert ruler.error is None
    assert ruler.stage.alert == ""
    assert ruler.png == good


def test_the_caption_has_had_another_name():
    ruler = Ruler()
    with pytest.warns(DeprecationWarning, match="sentence is now caption"):
        assert ruler.sentence == ruler.caption


def test_a_factory_answers_a_mistake_with_a_widget():
    @answers
    def made(length: int = 1) -> Picture:
        """Make one."""
        if length < 0:
            raise ValueError(f"length={length} is negative.")
        return Ruler()

    refused = made(length=-3)
    assert isinstance(refused, Refusal)
    assert isinstance(refused.error, ValueError)
    assert refused.stage.alert == "length=-3 is negative."
    assert refused._repr_mimebundle_()["text/plain"] == "length=-3 is negative."
    assert isinstance(made(), Ruler)
    assert made.__doc__ == "Make one."


def test_a_saved_notebook_keeps_picture_and_sentence():
    ruler = Ruler()
    bundle = ruler._repr_mimebundle_()
    assert bundle["text/plain"] == ruler.caption
    kept = np.asarray(Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).convert("RGB"))
    assert np.abs(kept.astype(int) - pixels(ruler)).max() <= 16  # a few colours less
    assert "application/vnd.jupyter.widget-view+json" in bundle


# sounds


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


def test_sounds_are_named_and_know_where_they_begin():
    ruler = Ruler()
    assert sounds(ruler)["beep, 0.1 s"].tolist() == [round(2**15 / 100)] * 800  # 0.05 s
    assert ruler.stage.sounds[0]["start"] == 0.25
    (place,) = ruler.stage.cursors
    box = ruler.ax.get_position()
    assert place == {"x0": box.x0, "x1": box.x1, "y0": 1 - box.y1, "y1": 1 - box.y0, "t0": 0, "t1": 1}
    ruler.controls["wide"].value = True
    assert ruler.stage.cursors[0]["t1"] == 2


# pointing


def test_a_click_is_told_in_data_coordinates():
    ruler = Ruler()
    assert ruler.stage.picks
    assert not ruler.stage.lasso
    box = ruler.ax.get_position()
    x, y = box.x0 + 0.25 * box.width, 1 - (box.y0 + 0.75 * box.height)
    ruler._pointed(None, {"kind": "click", "point": [x, y]}, None)
    low, high = ruler.ax.get_ylim()
    ((ax, there, up),) = ruler.clicks
    assert ax is ruler.ax
    assert (there, up) == (pytest.approx(0.25), pytest.approx(low + 0.75 * (high - low)))
    ruler._pointed(None, {"kind": "click", "point": [0.001, 0.001]}, None)  # beside the axes
    assert len(ruler.clicks) == 1


def test_an_outline_is_told_in_data_coordinates():
    class Roped(Ruler):
        def lassoed(self, ax, vertices):
            self.vertices = vertices

    ruler = Roped()
    box = ruler.ax.get_position()
    corners = np.array([[0.1, 0.2], [0.9, 0.2], [0.5, 0.8]])
    points = [[box.x0 + x * box.width, 1 - (box.y0 + y * box.height)] for x, y in corners]
    assert ruler.stage.lasso
    ruler._pointed(None, {"kind": "lasso", "points": points}, None)
    np.testing.assert_allclose(ruler.vertices[:, 0], corners[:, 0], atol=1e-9)
    low, high = ruler.ax.get_ylim()
    np.testing.assert_allclose(ruler.vertices[:, 1], low + corners[:, 1] * (high - low), atol=1e-9)


# files


def test_content_of_an_upload():
    assert upload("recording", "a file").value is None
    assert content({"name": "a.wav", "size": 3, "content": memoryview(b"abc")}) == (b"abc", "a.wav")
    with pytest.raises(ValueError, match=r"long.wav has 115 MB, a page can send 8 MB; cut out"):
        content({"name": "long.wav", "size": 115_000_000, "content": b""})
    for one in list(ipywidgets.widgets.widget._instances.values()):
        if isinstance(one, picture.Upload):
            one.layout.close()
            one.close()


# ends


def test_closing_lets_go():
    ruler = Ruler(moving=True)
    slider, figure, shown = ruler.controls["length"], weakref.ref(ruler.figure), ruler.png
    ruler.line = ruler.ax = None
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


class Kernel:
    """Stands for the kernel that runs a cell."""

    def __init__(self):
        self.cell, self.run = "a", "1"

    def get_parent(self):
        return {"metadata": {"cellId": self.cell}, "header": {"msg_id": self.run}}


def test_a_cell_that_is_run_again_closes_what_it_made_before(monkeypatch):
    kernel = Kernel()
    monkeypatch.setattr("IPython.get_ipython", lambda: kernel)
    monkeypatch.setattr(picture, "_IN_CELL", {})
    first, beside = Ruler(), Ruler()
    kernel.cell = "b"
    elsewhere = Ruler()
    kernel.cell, kernel.run = "a", "2"
    again = Ruler()
    assert first.comm is None
    assert beside.comm is None
    assert elsewhere.comm is not None
    assert again.comm is not None


def test_widgets_are_functions_of_the_package():
    assert all(callable(getattr(widgets, name)) for name in widgets.__all__)


# pictures and sounds of a cell


def test_a_figure_is_shown_with_its_finding():
    ax = plots.waveform(torch.full((1600,), 0.5))
    figure = plots.say(ax, "It <stays> at 0.5.")
    bundle = figure._repr_mimebundle_()
    assert bundle["text/plain"] == "It <stays> at 0.5."
    assert 'alt="It &lt;stays&gt; at 0.5."' in bundle["text/html"]
    assert "<figcaption>It &lt;stays&gt; at 0.5.</figcaption>" in bundle["text/html"]
    with pytest.raises(ValueError, match="the sentence is empty"):
        plots.say(ax, " ")
    with pytest.raises(ValueError, match="a Figure cannot hold a sentence"):
        plots.say(new_figure(2.0, 1.0).add_subplot(), "No.")


def test_a_figure_without_a_finding_says_what_is_drawn():
    ax = plots.axes()
    ax.plot([0, 2], [0, 5], label="ours")
    ax.set(xlabel="time (s)", ylabel="level (dB)", title="Two lines", xlim=(0, 2), ylim=(-1, 1234))
    assert plots.describe(ax.figure) == "Two lines; lines: ours; time (s): 0 to 2; level (dB): -1 to 1200."
    image = plots.spectrogram(torch.rand(1600))
    assert "colours: level (dB, full scale); time (s): 0 to 0.1; frequency (Hz): 0 to 8000." in plots.describe(
        image.figure
    )
    bars = plots.axes()
    bars.bar(["amy", "bob"], [1, 2])
    assert "x: amy, bob; y: 0 to 2.1" in plots.describe(bars.figure)
    assert f'alt="{plots.describe(ax.figure)}"' in ax.figure._repr_mimebundle_()["text/html"]


@pytest.mark.wrong_types
def test_a_sound_of_a_cell():
    heard = plots.listen(torch.tensor([0.0, 0.5, -0.25]), "a <click>")
    bundle = heard._repr_mimebundle_()
    assert bundle["text/plain"] == "a <click>, 0.0 s, peak 0.50, RMS 0.323"
    assert 'aria-label="a &lt;click&gt;, 0.0 s"' in bundle["text/html"]
    held = base64.b64decode(bundle["text/html"].split("base64,")[1].split('"')[0])
    assert decoded(held).tolist() == [0, 2**14, -(2**13)]
    with pytest.raises(ValueError, match=r"got \(0,\)"):
        plots.listen(torch.zeros(0), "nothing")
    with pytest.raises(ValueError, match="full scale 1, got torch.int16"):
        plots.listen(torch.zeros(3, dtype=torch.int16), "integers")


def test_a_bet_is_graded():
    assert plots.grade(0.65, 0.4951) == "You bet 0.65. It is 0.50: 0.15 too high."
    assert plots.grade(-0.2, 0.05) == "You bet -0.20. It is 0.05: 0.25 too low."
    assert plots.grade(320.0, 221.4, digits=0) == "You bet 320. It is 221: 99 too high."
    assert plots.grade(0.5, 0.496) == "You bet 0.50. It is 0.50: right."
    assert plots.grade("mfcc", "mfcc") == "You bet mfcc, and so it is."
    assert plots.grade("layer 6", "mfcc") == "You bet layer 6. It is mfcc."
    for bet, found in (("many", 0.5), (0.5, "many"), (math.nan, 0.5), (0.5, math.inf)):
        with pytest.raises(ValueError, match="must be finite numbers, or both words"):
            plots.grade(bet, found)
