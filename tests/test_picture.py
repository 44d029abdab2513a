"""The base of every widget, without a browser: controls are moved by code, pictures, words and sounds are read back."""

import base64
import copy
import gc
import io
import math
import warnings
import weakref

import ipywidgets
import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from shown import decoded, sounds
from widget_cases import CASES, noise, pretraining

from unisat import plots, widgets
from unisat.plots._show import player, wav
from unisat.widgets import _picture as picture
from unisat.widgets._picture import LOCK, Look, Picture, Refusal, Sound, answers, content, control, new_figure, upload

pytestmark = pytest.mark.usefixtures("no_widget_is_left")


class Ruler(Picture):
    """Draws a line of the length asked for, or stumbles."""

    maker = "ruler"

    def __init__(self):
        super().__init__(
            control(ipywidgets.IntSlider, "length", "of the line", min=-2, value=1),
            control(ipywidgets.Checkbox, "wide", "twice the axis", value=False),
        )
        self.figure = new_figure(2.0, 1.0)
        self.ax = self.figure.add_subplot()
        (self.line,) = self.ax.plot([0, 1], [0, 0])
        self.clicks = []
        self.looks = 0
        self.timed(self.ax)
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
        self.ax.set_xlim(0, 1 + wide)
        beep = torch.full((800,), length / 100)
        return Look(caption=f"A line of length {length} & more.", sounds={"beep": Sound(beep, 0.25)}, html="<b>1</b>")

    def clicked(self, ax, x, y):
        self.clicks.append((ax, x, y))


def pixels(view):
    return np.asarray(Image.open(io.BytesIO(view.png)).convert("RGB"))


# pictures


def test_png_is_what_matplotlib_draws():
    ruler = Ruler()
    buffer = io.BytesIO()
    ruler.figure.savefig(buffer, format="png", dpi=100)
    np.testing.assert_array_equal(pixels(ruler), np.asarray(Image.open(buffer))[..., :3])
    assert pixels(ruler).shape == (100, 200, 3)


def test_the_picture_is_drawn_when_it_is_asked_for(monkeypatch):
    ruler = Ruler()
    drawn = []
    whole = type(ruler.figure).savefig
    monkeypatch.setattr(
        type(ruler.figure), "savefig", lambda self, *args, **how: drawn.append(1) or whole(self, *args, **how)
    )
    for length in (5, 6, 7):
        ruler.controls["length"].value = length
    assert drawn == []
    assert ruler.png == ruler.png != b""
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
    assert ruler.stage.scene["size"] == [200, 100]
    assert ruler.stage.scene["axes"][0]["titles"] == [{"text": "2", "size": pytest.approx(16.67), "align": "center"}]
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
    good, scene = ruler.png, ruler.stage.scene
    ruler.controls["length"].value = -1
    assert isinstance(ruler.error, ValueError)
    assert ruler.stage.alert == "length=-1 must be <positive>. The picture still shows what was there before."
    assert ruler.png == good
    assert ruler.stage.scene is scene
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
    (ax,) = ruler.stage.scene["axes"]
    assert ax["time"]
    assert ax["x"]["lim"] == [0, 1]
    ruler.controls["wide"].value = True
    assert ruler.stage.scene["axes"][0]["x"]["lim"] == [0, 2]


# pointing


def test_clicks_and_outlines_are_told_with_their_axes():
    class Roped(Ruler):
        def lassoed(self, ax, vertices):
            self.vertices = vertices

    ruler, roped = Ruler(), Roped()
    assert ruler.stage.picks
    assert not ruler.stage.lasso
    assert roped.stage.lasso
    ruler._told(None, {"kind": "click", "axes": 0, "point": [0.25, -3]}, None)
    assert ruler.clicks == [(ruler.ax, 0.25, -3.0)]
    corners = [[0.1, 0.2], [0.9, 0.2], [0.5, 0.8]]
    roped._told(None, {"kind": "lasso", "axes": 0, "points": corners}, None)
    assert roped.vertices.tolist() == corners
    ruler._told(None, {"kind": "lasso", "axes": 0, "points": corners}, None)  # which it does not know
    hidden = ruler.figure.add_axes((0, 0, 0.1, 0.1), visible=False)
    shown = ruler.figure.add_axes((0, 0, 0.2, 0.2))
    ruler._told(None, {"kind": "click", "axes": 1, "point": [0.5, 0.5]}, None)
    assert ruler.clicks[-1] == (shown, 0.5, 0.5)
    assert hidden is not shown


# what the page asks for


def sent(monkeypatch, ruler):
    messages = []
    monkeypatch.setattr(ruler.stage, "send", lambda content, buffers=None: messages.append((content, buffers)))
    return messages


def test_the_page_gets_the_arrays_that_it_lacks(monkeypatch):
    ruler = Ruler()
    messages = sent(monkeypatch, ruler)
    before = set(ruler.stage.names)
    ruler.controls["length"].value = 3
    ((content, buffers),) = messages
    new = set(ruler.stage.names) - before
    assert len(new) == 1  # the line's x; its y is as it was
    assert set(content["names"]) == new
    np.testing.assert_allclose(np.frombuffer(buffers[0], "<f4"), [0, 1 / 3], rtol=1e-6)
    ruler._told(None, {"kind": "want"}, None)
    assert messages[-1][0]["names"] == ruler.stage.names


def test_reset_puts_every_control_back():
    ruler = Ruler()
    ruler.set(length=4, wide=True)
    looks = ruler.looks
    ruler._told(None, {"kind": "reset"}, None)
    assert (ruler.controls["length"].value, ruler.controls["wide"].value) == (1, False)
    assert ruler.looks == looks + 1


def test_code_makes_the_same_widget_again(monkeypatch):
    kernel = Kernel()
    kernel.code = "first = ruler(1)\nview = made.ruler(\n    'a', b=[1, 2]\n)\nview.png"
    monkeypatch.setattr("IPython.get_ipython", lambda: kernel)
    monkeypatch.setattr(picture, "_IN_CELL", {})
    ruler = Ruler()
    messages = sent(monkeypatch, ruler)
    assert ruler.as_code() == "made.ruler('a', b=[1, 2])"
    ruler.set(length=4, wide=True)
    ruler._told(None, {"kind": "code"}, None)
    assert messages[-1][0] == {"kind": "code", "text": "made.ruler('a', b=[1, 2]).at(length=4, wide=True)"}
    again = Ruler().at(length=4, wide=True)
    assert (again.caption, again.png) == (ruler.caption, ruler.png)
    ruler.controls["a b"] = ruler.controls.pop("length")
    ruler._initial = {"a b": 1}
    assert ruler.as_code() == "made.ruler('a', b=[1, 2]).at(**{'a b': 4})"
    ruler._source = "%magic line"
    assert ruler.as_code().startswith("us.widgets.ruler(...)")


def test_files_of_the_picture_and_its_numbers(monkeypatch):
    ruler = Ruler()
    messages = sent(monkeypatch, ruler)
    assert ruler.stage.buttons == ["reset", "code", "png", "svg"]
    ruler._told(None, {"kind": "png"}, None)
    assert messages[-1] == ({"kind": "file", "name": "ruler.png", "type": "image/png"}, [ruler.png])
    ruler._told(None, {"kind": "svg"}, None)
    assert b"<svg" in messages[-1][1][0]
    ruler.table = pd.DataFrame({"a": [1, 2]})
    ruler.redraw()
    assert ruler.stage.buttons[-1] == "csv"
    ruler._told(None, {"kind": "csv"}, None)
    assert pd.read_csv(io.BytesIO(messages[-1][1][0]))["a"].tolist() == [1, 2]


def test_the_page_knows_when_the_kernel_is_at_work():
    ruler = Ruler()
    seen = []
    ruler.look = lambda **values: seen.append(ruler.stage.busy) or Look(caption="")
    ruler.redraw()
    assert seen == [True]
    assert not ruler.stage.busy
    ruler.controls["length"].value = -1
    assert not ruler.stage.busy


# what the page asks ahead


def anywhere(control):
    """Where the page may have a control that it asks ahead."""
    if hasattr(control, "_options_values"):
        return st.integers(0, len(control._options_values) - 1)
    if isinstance(control.value, bool):
        return st.booleans()
    if not isinstance(control.value, int | float):
        return st.just(picture._to_page(control))
    steps = math.floor((control.max - control.min) / control.step + 1e-9)
    return st.integers(0, steps).map(lambda number: control.min + number * control.step)


def state_of(view):
    """Everything that a widget shows, says and keeps, and the very objects that it has."""
    png, table = view.png, getattr(view, "table", None)
    told = [one.get_state() for one in (*view.controls.values(), view.stage)]
    objects = {name: id(one) for name, one in vars(view).items() if name != "_drawing"}
    return png, view.caption, view.as_code(), None if table is None else table.to_csv(), told, objects


@pytest.mark.runs_once
@pytest.mark.parametrize("name", [name for name in CASES if name != "recording"])
def test_what_is_asked_ahead_is_what_moving_shows_and_nothing_changes(name):
    view, answered = CASES[name].make(), []
    names = list(view.controls)

    @settings(max_examples=4, phases=[Phase.generate])
    @given(st.data())
    def holds(data):
        state, place = view._state(), data.draw(st.sampled_from(view.stage.ahead))  # the page moves one at a time
        state[place] = data.draw(anywhere(view.controls[names[place]]))
        before = state_of(view)
        found = view._ahead(state)
        assert state_of(view) == before
        moved = view.controls[names[place]]
        moved.value = picture._from_page(moved, state[place])
        if found is None:
            assert view.error is not None or view._noted
            view.reset()
            return
        answered.append(found)
        assert (found.scene.parts, found.scene.arrays) == (view.stage.scene, view.stage._arrays)
        for trait in ("alt", "extra", "sounds", "buttons"):
            assert getattr(found, trait) == getattr(view.stage, trait)
        assert found.shown[1] == view.stage.shown[1] == view._state()

    holds()
    assert answered
    assert {*view.waits} < {*names}


def test_a_recording_and_a_figure_from_elsewhere_are_not_asked_ahead():
    assert CASES["recording"].make().stage.ahead == []
    ruler = Ruler()
    assert ruler.stage.ahead == []
    assert ruler._ahead([3, False]) is None


class Drawn(Ruler):
    """A ruler whose first look makes the figure."""

    def __init__(self):
        Picture.__init__(
            self,
            control(ipywidgets.IntSlider, "length", "of the line", min=-2, value=1),
            control(ipywidgets.Checkbox, "wide", "twice the axis", value=False),
            upload("file", "not asked ahead"),
        )
        self.first()

    def look(self, length, wide, file):
        if length == 5:
            warnings.warn("five is odd.", UserWarning, stacklevel=1)
        self.looks = 0
        if self.figure is None:
            self.figure = new_figure(2.0, 1.0)
            self.ax = self.figure.add_subplot()
            (self.line,) = self.ax.plot([0, 1], [0, 0])
        return super().look(length, wide)


def test_errors_and_warnings_are_not_answered_and_leave_nothing():
    ruler = Drawn()
    before = state_of(ruler)
    assert ruler.stage.ahead == [0, 1]
    for length, told in ((-1, False), (5, False), (-2, False), (7, True)):
        assert (ruler._ahead([length, False, None]) is not None) == told
    assert state_of(ruler) == before
    ruler.controls["length"].value = -1
    assert ruler._ahead([7, False, None]) is None  # the picture is of another state than the controls
    ruler.controls["length"].value = 5
    assert "five is odd." in ruler.caption


def test_the_page_is_sent_what_it_lacks_of_what_it_asked(monkeypatch):
    ruler = Drawn()
    messages = sent(monkeypatch, ruler)
    ruler._told(None, {"kind": "ahead", "state": [3, True, None]}, None)
    ruler._told(None, {"kind": "ahead", "state": [-1, True, None]}, None)
    ((content, buffers), refused) = messages
    assert content["asked"] == content["state"] == [3, True, None]
    assert content["alt"] == "A line of length 3 & more."
    lacking = [name for name in content["all"] if name not in ruler.stage.names]
    assert content["names"] == [*lacking, content["sounds"][0]["name"]]
    np.testing.assert_allclose(np.frombuffer(buffers[0], "<f4"), [0, 1 / 3], rtol=1e-6)
    assert decoded(buffers[1])[0] == round(0.03 * 2**15)
    assert refused == ({"kind": "ahead", "asked": [-1, True, None], "names": [], "kinds": []}, [])
    number, state = ruler.stage.shown
    ruler.set(length=3, wide=True)
    assert ruler.stage.shown == [number + 1, [3, True, None]] != [number, state]
    assert ruler.stage.scene == content["scene"]
    assert ruler.stage.sounds[0]["name"] == content["sounds"][0]["name"]


def test_what_is_asked_ahead_is_of_the_model_as_it_is():
    model = copy.deepcopy(pretraining(mask_time_min_masks=0))
    view = widgets.losses(model, noise())
    state = view._state()
    state[list(view.controls).index("temperature")] = 0.3
    old = view._ahead(state)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    new = view._ahead(state)
    assert new.scene.arrays != old.scene.arrays
    view.controls["temperature"].value = 0.3
    assert (view.stage.scene, view.stage._arrays) == (new.scene.parts, new.scene.arrays)


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
    ruler = Ruler()
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
        self.cell, self.run, self.code = "a", "1", ""

    def get_parent(self):
        content = {"code": self.code}
        return {"metadata": {"cellId": self.cell}, "header": {"msg_id": self.run}, "content": content}


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
