"""The widgets as instruments: pointer, keys, zoom, sounds, buttons and files, held to what the kernel has."""

import hashlib
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import showcase
from PIL import Image

SHOWN = {"MaskView": "masks", "AttentionView": "attention", "LayersView": "layers", "SpeakersView": "speakers"}


@pytest.fixture(scope="module")
def page(lab):
    showcase.write(lab.notebooks / "instruments.ipynb", *SHOWN.values(), "recording")
    allowed = ["microphone", "clipboard-read", "clipboard-write"]
    with lab.open("instruments.ipynb", permissions=allowed) as opened:
        opened.run()
        assert opened.errors() == []
        yield opened
        assert opened.complaints == []
        assert opened.outside == []


@pytest.fixture
def masks(page):
    return page.instrument("MaskView")


@pytest.fixture
def attention(page):
    return page.instrument("AttentionView")


@pytest.fixture
def layers(page):
    return page.instrument("LayersView")


@pytest.fixture
def speakers(page):
    return page.instrument("SpeakersView")


def numbers(tip):
    """The last number of each part of what a picture says."""
    parts = (re.search(r"(−?[\d.]+)$", part) for part in tip.split(" · "))
    return [float(part[1].replace("−", "-")) for part in parts]


# ---- pointing ----


def cell(instrument, axes, x, y):
    """Value of the image of an axes at a place, as matplotlib has it."""
    image = f"widget.{axes}.images[0]"
    values, (left, right, low, high) = (
        np.array(instrument.ask(f"{image}.get_array().filled(0)")),
        instrument.ask(f"{image}.get_extent()"),
    )
    first, last = (low, high) if instrument.ask(f"{image}.origin") == "lower" else (high, low)
    rows, columns = values.shape
    return values[int((y - first) / (last - first) * rows), int((x - left) / (right - left) * columns)]


@pytest.mark.parametrize(
    ("kind", "axes", "places"),
    [
        ("MaskView", "spectrum", [(0.43, 1010), (2.61, 5030)]),
        ("AttentionView", "large", [(1.01, 2.03), (2.51, 0.27)]),
        ("AttentionView", "small[3]", [(1.01, 2.03)]),
        ("LayersView", "map", [(0.51, 33.2), (2.03, 150.2)]),
        ("LayersView", "alike", [(1.2, 0.1), (0.1, 2.9)]),
    ],
)
def test_the_picture_says_the_value_under_the_pointer(page, kind, axes, places):
    instrument = page.instrument(kind)
    low, high = instrument.ask(f"widget.{axes}.images[0].get_clim()")
    for x, y in places:
        said = numbers(instrument.hover(axes, x, y))
        assert said[-1] == pytest.approx(cell(instrument, axes, x, y), abs=(high - low) / 1000)


def test_a_layers_norm_is_said(layers):
    said = layers.hover("sizes", 1.234, 2.2)
    assert "layer 2 " in said
    expected = layers.ask("widget.norms.iloc[2, np.abs(widget.norms.columns.to_numpy(float) - 1.234).argmin()]")
    assert numbers(said)[-1] == pytest.approx(expected, abs=0.01)
    assert numbers(said)[0] == pytest.approx(1.234, abs=0.005)


def test_the_cursor_stands_on_every_time_axes(masks, layers):
    for axes, y in (("wave", 0), ("spectrum", 1000), ("cells", 50)):
        masks.hover(axes, 1.5, y)
        assert masks.lines == 3
    masks.hover("runs", 8, 2)
    assert masks.lines == 0
    layers.hover("map", 1, 50)
    assert (layers.lines, masks.lines) == (2, 0)


def test_a_click_chooses_a_layer_and_a_head(layers, attention):
    layers.click("sizes", 1, 3)
    assert layers.ask("widget.controls['layer'].value") == 3
    layers.click("alike", 1, 1)
    assert layers.ask("widget.controls['layer'].value") == 1
    for expected in (2, -1):  # a second click goes back to the mean
        attention.click("small[2]", 1, 1)
        assert attention.ask("widget.controls['head'].value") == expected


def test_a_click_on_a_point_and_an_outline_around_points(speakers):
    where = np.array(speakers.ask("widget._where[1]"))
    name, who = speakers.ask("[str(widget.table[one].iloc[7]) for one in ('id', 'speaker')]")
    assert speakers.hover("drawn[1].ax", *where[7].tolist()) == f"{name} (speaker {who})"
    speakers.click("drawn[1].ax", *where[7].tolist())
    assert speakers.ask("widget.controls['utterance'].value") == 7
    assert not speakers.player("paused")  # it is heard at once
    speakers.view.locator("audio").first.evaluate("player => player.pause()")
    # the outline begins in the corner of the picture, outside all axes
    inside = (where < np.median(where, axis=0)).all(axis=1)
    low, middle = where.min(0) - 1, np.median(where, axis=0)
    left, bottom = speakers.ask("[widget.drawn[1].ax.get_xlim()[0], widget.drawn[1].ax.get_ylim()[0]]")
    corners = [(left, bottom), (left, middle[1]), tuple(middle), (middle[0], bottom)]
    places = [speakers.place("drawn[1].ax", float(x), float(y)) for x, y in corners]
    places[0] = places[0][0] - 8, places[0][1] + 8
    speakers.drag(*places)
    assert inside.any()
    assert (low < middle).all()
    assert speakers.ask("widget.controls['select'].value") == "lasso"
    assert speakers.ask("widget.outlined") == inside.tolist()


# ---- keys ----


def test_keys_point_and_click(layers, attention):
    layers.hover("sizes", 1, 2)
    layers.press("ArrowUp")
    up = numbers(layers.tip)[1]
    assert up in (1, 3)  # a layer further, whichever way the axis goes
    layers.press("Enter")
    assert layers.ask("widget.controls['layer'].value") == up
    attention.hover("small[1]", 1, 1)
    attention.press("Enter")
    assert attention.ask("widget.controls['head'].value") == 1
    attention.press("Enter")
    assert attention.ask("widget.controls['head'].value") == -1


def test_arrows_move_the_cursor_along_time(masks):
    masks.hover("wave", 1, 0)
    times = [numbers(masks.tip)[0]]
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowRight", "ArrowLeft"):
        masks.press(key)
        times.append(numbers(masks.tip)[0])
        assert masks.lines == 3
    step = masks.ask("np.ptp(widget.wave.get_xlim())") / 200
    np.testing.assert_allclose(np.diff(times) / step, [1, 1, 10, -1], atol=0.3)


# ---- many rows under one line ----


@pytest.fixture(scope="module")
def strip(lab):
    showcase.write(lab.notebooks / "strip.ipynb", "strip")
    with lab.open("strip.ipynb") as opened:
        opened.run()
        assert opened.errors() == []
        yield opened.instrument("StripView")
        assert opened.complaints == []


def test_every_row_of_a_strip_says_what_is_there(strip):
    said = strip.ask("widget.strip.segments.query('tier == \"phone\"')[['start', 'end', 'label']].to_numpy()")
    start, end, label = said[3]
    assert strip.hover("rows.said", (start + end) / 2, 0.2).endswith(f" · {label}")
    assert strip.lines == len(strip.ask("[one.get_position().bounds for one in widget.rows.all]"))
    frame = strip.ask("widget.strip.nearest(1.0)")
    for name in ("cluster", "group 1"):
        expected = strip.ask(f"int(widget.strip.units[{name!r}].iloc[{frame}])")
        time = strip.ask(f"widget.strip.seconds[{frame}]")
        assert strip.hover(f"rows.units[{name!r}]", time, 3).endswith(f" · chosen {expected}")


def test_a_click_on_a_strip_chooses_the_frame_and_the_sound_stays_there(strip):
    strip.click("rows.sound", 2.0, 3000)
    assert strip.ask("widget.frame") == strip.ask("widget.strip.nearest(2.0)")
    assert strip.player("currentTime") == pytest.approx(2.0, abs=0.01)
    strip.press(" ")
    strip.click("rows.look", 1.0, 0.001)
    strip.page.page.wait_for_timeout(200)
    assert strip.player("currentTime") > 1.0  # the redraw does not stop it
    assert not strip.player("paused")
    strip.press(" ")


def test_names_of_short_phones_are_written_where_one_looks_closer(strip):
    strip.hover("rows.said", 0.6, 0.2)
    whole = strip.words("0")
    closer = strip.words("+", "+", "+")
    said = strip.ask("widget.strip.segments['label'].tolist()")
    assert 0 < sum(word in said for word in closer) < len(said)
    assert set(closer) & set(said) - set(whole)
    strip.press("0")


# ---- a kernel that is busy, and controls that were asked ahead ----


def occupy(page, code):
    """Let the kernel run code for some seconds, and do not wait for it."""
    page.page.evaluate(
        """(code) => {
            jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({ code, silent: true });
        }""",
        code,
    )
    page.page.wait_for_timeout(200)


@pytest.fixture(scope="module")
def busy(lab):
    """Two widgets on a page."""
    showcase.write(lab.notebooks / "busy.ipynb", "masks", "mixing")
    with lab.open("busy.ipynb") as opened:
        opened.run()
        assert opened.errors() == []
        yield opened
        assert opened.complaints == []
        assert opened.alerts() == []


def seen(instrument):
    """What a reader sees and hears of a widget."""
    heard = instrument.view.locator("audio").evaluate_all("all => all.map((one) => [one.ariaLabel, one.src])")
    return instrument.look(), instrument.view.locator(".unisat-caption").inner_text(), heard


@pytest.mark.parametrize(("kind", "name"), [("MaskView", "mask_prob"), ("MixingView", "snr_db")])
def test_a_control_answers_while_the_kernel_is_busy(busy, kind, name):
    widget = busy.instrument(kind)
    widget.view.scroll_into_view_if_needed()
    slider = next(one[2] for one in busy.controls(widget.view) if one[1] == name)
    busy.step("slider", slider)
    busy.rest()
    before, value = seen(widget), widget.ask(f"widget.controls[{name!r}].value")
    occupy(busy, "import time; time.sleep(3)")
    for _ in range(3):  # to values where nobody has been
        busy.step("slider", slider)
    busy.page.wait_for_timeout(100)
    there = seen(widget)
    assert all(one != other for one, other in zip(before, there, strict=True))
    turn = widget.canvas.get_attribute("data-turn")
    assert widget.ask(f"widget.controls[{name!r}].value") != value  # which waits for the kernel
    widget.settle()
    assert seen(widget) == there  # what the kernel says is the same, to the sounds' very files
    assert widget.canvas.get_attribute("data-turn") == turn
    assert there[1] == widget.ask("widget.caption")
    assert there[0] != before[0]


def test_another_model_replaces_what_was_asked_ahead(busy):
    mixing = busy.instrument("MixingView")
    mixing.view.scroll_into_view_if_needed()
    slider = next(one[2] for one in busy.controls(mixing.view) if one[1] == "snr_db")
    busy.step("slider", slider)
    busy.rest()
    busy.python(mixing.found("object.__setattr__(widget.batch, 'ids', ('somebody else', *widget.batch.ids[1:]))"))
    occupy(busy, "import time; time.sleep(2)")
    caption = mixing.view.locator(".unisat-caption")
    busy.step("slider", slider)
    busy.page.wait_for_timeout(100)
    assert "somebody else" not in caption.inner_text()
    busy.idle()
    mixing.settle()
    assert caption.inner_text() == mixing.ask("widget.caption")
    assert "somebody else" in caption.inner_text()
    occupy(busy, "import time; time.sleep(2)")  # and what was kept of before is gone
    busy.step("slider", slider, back=True)
    busy.page.wait_for_timeout(100)
    assert "somebody else" in caption.inner_text()


# ---- looking closer ----


def limits(masks):
    """What the time axes show, by what they say near their ends; every axes says the same."""
    end = masks.ask("widget.wave.get_xlim()[1]")
    found = []
    for axes, y in (("wave", 0), ("spectrum", 1000), ("cells", 50)):
        shown = [numbers(masks.hover(axes, share * end, y))[0] for share in (0.1, 0.9)]
        step = (shown[1] - shown[0]) / 8
        found.append((shown[0] - step, shown[1] + step))
    assert np.ptp(found, axis=0).max() < 0.02
    return found[0]


def test_keys_and_wheel_zoom_all_time_axes_with_new_numbers(masks):
    end = masks.ask("widget.wave.get_xlim()[1]")
    masks.hover("spectrum", 1, 2000)
    words = masks.words("+", "+")
    low, high = limits(masks)
    assert (low, high) == (pytest.approx(0.75, abs=0.02), pytest.approx(0.75 + end / 4, abs=0.02))
    ticks = [float(word) for word in words if re.fullmatch(r"\d\.\d\d?", word) and low < float(word) < high]
    assert len(set(ticks)) >= 3
    for tick in set(ticks) - {1.0}:  # the histogram may have this one too
        assert ticks.count(tick) >= 3
    masks.hover("spectrum", 1, 2000)
    masks.press("-")
    assert np.ptp(limits(masks)) == pytest.approx(end / 2, abs=0.03)
    masks.press("0")
    assert limits(masks) == (pytest.approx(0, abs=0.02), pytest.approx(end, abs=0.02))
    before = masks.hover("spectrum", 1.2, 2000)
    masks.keyboard.down("Control")
    masks.mouse.wheel(0, -300)
    masks.settle()
    masks.keyboard.up("Control")
    assert masks.tip.split(" · ")[2] == before.split(" · ")[2]  # the same place lies under the pointer
    assert np.ptp(limits(masks)) == pytest.approx(end / np.e, abs=0.03)
    # shift and drag: what lay at 1.2 lies where 2 lay
    masks.keyboard.down("Shift")
    masks.drag(masks.place("spectrum", 1.2, 2000), masks.place("spectrum", 2, 2000))
    masks.keyboard.up("Shift")
    assert numbers(masks.hover("cells", 2, 50))[0] == pytest.approx(1.2, abs=0.02)
    assert masks.player("paused")
    masks.press("0")


def test_what_was_looked_at_closer_stays_while_a_slider_moves(page, masks):
    masks.hover("spectrum", 1, 2000)
    masks.press("+")
    before = limits(masks)
    _, _, seed = next(one for one in page.controls(masks.view) if one[1] == "seed")
    page.step("slider", seed)
    masks.settle()
    assert limits(masks) == pytest.approx(before, abs=0.02)
    # another utterance has other times
    page.step("menu", next(one[2] for one in page.controls(masks.view) if one[1] == "utterance"))
    masks.settle()
    assert limits(masks) == pytest.approx(masks.ask("widget.wave.get_xlim()"), abs=0.03)
    masks.ask("widget.reset()")
    masks.settle()


# ---- sounds ----


def test_a_dragged_stretch_plays_and_ends_and_a_double_click_looks_closer(masks):
    masks.drag(masks.place("wave", 0.5, 0), masks.place("wave", 1.1, 0))
    assert not masks.player("paused")
    assert 0.5 <= masks.player("currentTime") < 1.1
    assert 0.5 <= float(masks.over.get_attribute("data-playing")) < 1.1
    masks.page.page.wait_for_timeout(1000)
    assert masks.player("paused")
    assert masks.player("currentTime") == pytest.approx(1.1, abs=0.08)
    masks.double_click("wave", 0.8, 0)
    assert limits(masks) == pytest.approx((0.5, 1.1), abs=0.02)
    masks.double_click("wave", 0.8, 0)
    assert limits(masks) == pytest.approx(masks.ask("widget.wave.get_xlim()"), abs=0.02)


def test_a_stretch_that_is_dragged_backwards_is_the_same(masks):
    masks.drag(masks.place("spectrum", 2.0, 4000), masks.place("spectrum", 1.6, 100))
    assert 1.6 <= masks.player("currentTime") < 2
    masks.page.page.wait_for_timeout(700)
    assert masks.player("paused")
    assert masks.player("currentTime") == pytest.approx(2, abs=0.08)


def test_a_click_on_the_time_axis_seeks_and_space_plays(masks):
    masks.click("spectrum", 2.4, 1000)
    assert masks.player("currentTime") == pytest.approx(2.4, abs=0.01)
    assert float(masks.over.get_attribute("data-playing")) == pytest.approx(2.4, abs=0.01)
    masks.press(" ")
    assert not masks.player("paused")
    assert masks.player("currentTime") > 2.4
    # another player silences this one
    masks.view.locator("audio").nth(1).evaluate("player => player.play()")
    masks.settle()
    assert masks.player("paused")
    masks.view.locator("audio").nth(1).evaluate("player => player.pause()")


def test_one_sound_on_the_whole_page(masks, layers):
    masks.view.locator("audio").first.evaluate("player => { player.currentTime = 0; player.play(); }")
    layers.view.locator("audio").first.evaluate("player => { player.currentTime = 0; return player.play(); }")
    layers.settle()
    assert masks.player("paused")
    assert not layers.player("paused")
    assert float(layers.over.get_attribute("data-playing")) > 0
    layers.view.locator("audio").first.evaluate("player => player.pause()")


# ---- buttons ----

STATE = "{name: one.value for name, one in widget.controls.items() if name != 'recording'}"
MOVED = {
    "MaskView": "widget.set(mask_prob=0.4, seed=3)",
    "AttentionView": "widget.set(layer=2, head=1, seconds=(0.4, 1.6))",
    "LayersView": "widget.set(**{'layer': 2, 'one scale': True})",
    "SpeakersView": "widget.set(utterance=5, color='sex')",
}


@pytest.mark.parametrize("kind", MOVED)
def test_copied_code_makes_the_same_widget_and_reset_goes_back(page, kind):
    instrument = page.instrument(kind)
    instrument.ask("widget.reset()")
    first = instrument.ask(STATE)
    instrument.ask(MOVED[kind])
    moved = instrument.ask(STATE)
    assert moved != first
    instrument.button("Copy code")
    code = instrument.view.evaluate("view => view.querySelector('[data-code]').dataset.code")
    assert page.page.evaluate("navigator.clipboard.readText()") == code
    assert code in instrument.view.inner_text()
    again = f"(again := {code})"
    made = page.python(f"{again}\nprint(again.caption)\nwidget = again\nprint({STATE})\nagain.close()")
    caption = instrument.ask("widget.caption")
    assert made.split("\n")[0] == caption
    assert made.split("\n")[1] == page.python(instrument.found(f"print({STATE})")).strip()
    instrument.button("Reset")
    assert instrument.ask(STATE) == first
    assert instrument.ask("widget.caption") != caption


def test_pictures_and_numbers_are_saved(attention):
    name, png = attention.download("PNG")
    assert name == "attention.png"
    picture = Image.open(io.BytesIO(png))
    assert picture.size == (840, 620)
    assert hashlib.sha256(png).hexdigest() == attention.ask("__import__('hashlib').sha256(widget.png).hexdigest()")
    name, svg = attention.download("SVG")
    assert name == "attention.svg"
    assert ET.fromstring(svg).tag.endswith("svg")
    assert b"layer" in svg
    name, csv = attention.download("Table")
    assert name == "attention.csv"
    table = pd.read_csv(io.BytesIO(csv))
    np.testing.assert_allclose(table["entropy_bits"], attention.ask("widget.table['entropy_bits'].to_numpy()"))


def test_a_widget_without_a_table_offers_none(masks):
    assert masks.view.get_by_role("button", name="PNG").is_visible()
    assert not masks.view.get_by_role("button", name="Table").is_visible()


# ---- the reader's voice ----


def test_a_recording_from_the_microphone(page):
    recording = page.instrument("RecordingView")
    recording.button("● Record")
    page.page.wait_for_timeout(1500)
    recording.button("■ Stop")
    page.page.wait_for_function(
        "[...document.querySelectorAll('.unisat-caption')].some((one) => /my voice 1: 1\\.\\d s/.test(one.textContent))"
    )
    assert page.alerts() == []
    assert recording.ask("np.abs(np.frombuffer(widget.stage.sounds[0]['wav'][44:], '<i2')).max()") > 300  # it beeps
    assert recording.view.get_by_role("button", name="● Record").is_visible()


# ---- what is seen ----


def brightness(instrument, axes):
    """Of the left edge of an axes, from 0 to 1."""
    low, high = instrument.ask(f"widget.{axes}.get_ylim()")
    x, y = instrument.place(axes, instrument.ask(f"widget.{axes}.get_xlim()[0]"), low + 0.37 * (high - low))
    return instrument.canvas.evaluate(
        """(canvas, [x, y]) => {
            const box = canvas.getBoundingClientRect(), sharp = canvas.width / box.width;
            const at = [(x - box.left) * sharp - 3, (y - box.top) * sharp].map(Math.round);
            const { data } = canvas.getContext('2d').getImageData(...at, 6, 1);
            const drawn = [0, 1, 2, 3, 4, 5].map((i) => [...data.slice(4 * i, 4 * i + 4)]);
            const [r, g, b] = drawn.reduce((a, b) => (b[3] > a[3] ? b : a));
            return (r + g + b) / 765;
        }""",
        [x, y],
    )


def test_ink_follows_the_theme(page, masks):
    seen = {}
    for theme in ("Dark", "Light"):
        page.wear(f"JupyterLab {theme}")
        seen[theme] = brightness(masks, "runs")
    assert seen["Light"] < 0.3
    assert seen["Dark"] > 0.7


def test_buttons_tips_and_pictures_can_be_read_and_reached(page, masks):
    for theme in ("Dark", "Light"):
        page.wear(f"JupyterLab {theme}")
        masks.hover("spectrum", 1, 2000)
        assert masks.view.locator(".unisat-tip").is_visible()
        assert masks.view.evaluate("view => unisat.contrast(view)") == []
    assert page.names() == {"pictures": 0, "sounds": 0, "controls": [], "unreachable": []}
    assert masks.canvas.get_attribute("aria-label") == masks.ask("widget.caption")
    # by keys alone: Tab from the last control comes to the picture, which shows that it is reached
    page.controls(masks.view)[-1][2].scroll_into_view_if_needed()
    masks.view.locator("select").last.focus()
    masks.keyboard.press("Tab")
    assert masks.canvas.evaluate("canvas => canvas === document.activeElement")
    assert masks.canvas.evaluate("canvas => getComputedStyle(canvas).outlineStyle") == "solid"
    assert masks.canvas.evaluate("canvas => parseFloat(getComputedStyle(canvas).outlineWidth)") >= 2


# ---- several views, sharp screens, kernels that go ----


@pytest.fixture(scope="module")
def twice(lab):
    """A widget shown twice, and one for recordings, on a sharp screen where no microphone is allowed."""
    path = showcase.write(lab.notebooks / "twice.ipynb", "layers", "recording")
    text = path.read_text().replace(showcase.CELLS["layers"], f"both = {showcase.CELLS['layers']}; display(both, both)")
    path.write_text(text)
    with lab.open(path.name, device_scale_factor=2) as opened:
        opened.run()
        assert opened.errors() == []
        yield opened
        assert opened.complaints == []


def test_a_sharp_screen_gets_a_sharp_picture(twice):
    canvas = twice.instrument("LayersView").canvas
    assert canvas.evaluate("canvas => canvas.width / canvas.getBoundingClientRect().width") == pytest.approx(
        2, abs=0.01
    )


def test_two_views_of_a_widget_both_work(twice):
    first, second = (twice.instrument("LayersView", view) for view in (0, 1))
    assert first.hover("map", 1, 50) == second.hover("map", 1, 50) != ""
    looks = [one.look() for one in (first, second)]
    assert looks[0] == looks[1] != "blank"
    second.click("sizes", 1, 3)
    after = [one.look() for one in (first, second)]
    assert after[0] == after[1] != looks[0]
    # what one view asks for comes to that view
    files = []
    twice.page.on("download", lambda file: files.append(file))
    second.button("PNG")
    twice.page.wait_for_timeout(500)
    assert len(files) == 1
    first.button("Copy code")
    assert first.view.locator("[data-code]").count() == 1
    assert second.view.locator("[data-code]").count() == 0


def test_a_view_that_comes_later_gets_everything(twice):
    twice.page.evaluate("""async () => {
        const notebook = jupyterapp.shell.currentWidget;
        notebook.content.activeCellIndex = 1;
        await jupyterapp.commands.execute('notebook:create-output-view');
        jupyterapp.shell.activateById(notebook.id);
    }""")
    twice.page.wait_for_timeout(1500)
    views = twice.page.locator(".jp-LinkedOutputView .unisat")
    looks = [view.evaluate("view => unisat.look(unisat.picture(view))") for view in views.all()]
    assert len(looks) == 2
    assert "blank" not in looks


def test_a_microphone_that_is_refused_is_said(twice):
    recording = twice.instrument("RecordingView", 2)
    recording.button("● Record")
    said = recording.view.locator(".unisat-upload .unisat-alert")
    twice.page.wait_for_timeout(500)
    assert "microphone cannot be used" in said.inner_text()
    assert "choose a file" in said.inner_text()


def test_a_widget_says_that_its_kernel_is_gone(twice):
    twice.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    twice.page.wait_for_function(
        "[...document.querySelectorAll('.unisat')].every((one) => one.innerText.includes('its kernel is gone'))"
    )
    twice.run()
    assert twice.alerts() == []
