"""What only a browser shows of a widget: keys, pointing, files, sounds, themes, and what a second run leaves."""

import io

import numpy as np
import pytest
import showcase
import soundfile

import unisat


@pytest.fixture(scope="module")
def page(lab):
    """The masks widget, and one for recordings."""
    showcase.write(lab.notebooks / "showcase.ipynb", "masks", "recording")
    with lab.open("showcase.ipynb") as opened:
        opened.run()
        assert opened.errors() == []
        yield opened
        assert opened.complaints == []
        assert opened.outside == []


@pytest.fixture(scope="module")
def everything(lab):
    """Every widget, in the order of the showcase."""
    showcase.write(lab.notebooks / "all.ipynb")
    with lab.open("all.ipynb") as opened:
        opened.run()
        assert opened.errors() == []
        yield opened
        assert opened.complaints == []
        assert opened.outside == []


def test_every_widget_is_in_the_showcase():
    assert set(showcase.CELLS) == set(unisat.widgets.__all__)


def test_keys_belong_to_the_control(page):
    view = page.views()[0]
    slider = view.locator("[role=slider]").first
    cells = "jupyterapp.shell.currentWidget.content.model.cells.length"
    readout = view.locator(".widget-readout").first
    before, value = page.page.evaluate(cells), readout.inner_text()
    slider.focus()
    for key in ("ArrowRight", "b", "a", "d", "d"):
        page.page.keyboard.press(key)
    assert page.page.evaluate(cells) == before
    assert readout.inner_text() != value


def test_tab_goes_from_control_to_control(page):
    view = page.views()[0]
    view.locator("[role=slider]").first.focus()
    reached = set()
    for _ in range(24):
        name = page.page.evaluate("document.activeElement.ariaLabel")
        reached.add(name)
        page.page.keyboard.press("Tab")
    assert {name for kind, name, _ in page.controls(view) if kind == "slider"} <= reached


def test_a_sound_plays_as_loud_as_it_is_and_a_line_follows(page):
    view = page.views()[0]
    heard = view.evaluate("""async (view) => {
        const player = view.querySelector('audio'), bytes = await (await fetch(player.src)).arrayBuffer();
        const sound = await new AudioContext().decodeAudioData(bytes);
        const lines = [], line = () => Number(view.querySelector('.unisat-over').dataset.playing);
        await player.play();
        for (let i = 0; i < 4; i++) {
            await new Promise((done) => setTimeout(done, 200));
            lines.push([line(), player.currentTime]);
        }
        player.pause();
        const peak = sound.getChannelData(0).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        return { peak, seconds: sound.duration, lines };
    }""")
    wave = unisat.corpus.people().where(id=showcase.FIRST).batch().waveforms[0]
    assert heard["seconds"] == pytest.approx(len(wave) / 16_000, abs=0.01)
    assert 0 < heard["peak"] <= wave.abs().max() + 0.01
    lines, times = np.array(heard["lines"]).T
    assert times[-1] > 0.1
    np.testing.assert_allclose(lines, times, atol=0.15)
    assert (np.diff(lines) > 0).all()


def wav(rate, channels, subtype, seconds=1.0):
    file = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (int(rate * seconds), channels))
    soundfile.write(file, noise, rate, format="WAV", subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said", "alert"),
    [
        ("high.wav", wav(96_000, 1, "PCM_16"), "high.wav: 1.0 s, 49 frames", ""),
        ("six.wav", wav(16_000, 6, "PCM_16"), "six.wav has 6 channels", ""),
        ("eight.wav", wav(8000, 1, "PCM_U8"), "eight.wav: 1.0 s", ""),
        ("notes.txt", b"not a sound", "", "notes.txt could not be read as sound"),
        ("empty.wav", b"", "", "empty.wav"),
        ("long.wav", wav(8000, 1, "PCM_U8", 70), "", "long.wav is 70 s long; cut it to 60 s or less."),
        ("hour.wav", wav(8000, 1, "PCM_U8", 3600), "", "hour.wav has 29 MB, a page can send 8 MB"),
    ],
)
def test_files_from_the_readers_disk(page, name, content, said, alert):
    view = page.views()[1]
    view.locator("input[type=file]").set_input_files({"name": name, "mimeType": "audio/wav", "buffer": content})
    expected = said or alert
    page.page.wait_for_function(
        "text => [...document.querySelectorAll('.unisat')][1].innerText.includes(text)", arg=expected, timeout=20_000
    )
    assert (view.locator("p.unisat-alert").inner_text() == "") == (alert == "")


def test_a_cell_that_is_run_again_leaves_one_widget(page):
    count = (
        "from ipywidgets.widgets.widget import _instances\n"
        "from unisat.widgets._picture import Picture\n"
        "print(sum(isinstance(one, Picture) for one in _instances.values()), len(_instances))"
    )
    before = page.python(count)
    for _ in range(3):
        page.page.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex = 1")
        page.page.evaluate("jupyterapp.commands.execute('notebook:run-cell')")
        page.idle()
        page.page.wait_for_timeout(300)
    assert page.python(count) == before
    assert len(page.views()) == 2


def test_an_exception_is_said_in_the_widget(lab):
    path = showcase.write(lab.notebooks / "mistakes.ipynb", "masks")
    text = path.read_text().replace(showcase.CELLS["masks"], "us.widgets.masks(model, batch, utterance=99)")
    path.write_text(text)
    with lab.open(path.name) as opened:
        opened.run()
        assert opened.errors() == []
        assert opened.alerts() == ["utterance=99 is not one of the batch's 4, counted from 0."]


@pytest.mark.parametrize("name", [name for name in showcase.CELLS if name != "recording"])
def test_two_hundred_moves_leave_no_trace(everything, name):
    view = everything.views()[list(showcase.CELLS).index(name)]
    view.scroll_into_view_if_needed()
    kind, _, control = showcase.to_move(everything, view, name)

    def move(times):
        for number in range(times):
            everything.step(kind, control, back=number % 20 >= 10)
            everything.page.wait_for_timeout(15)
        everything.idle()

    move(40)  # fonts, caches, compiled code
    kernel, heap = everything.memory()
    move(200)
    everything.page.wait_for_timeout(1500)  # the last pictures are let go of
    kernel_after, heap_after = everything.memory()
    assert kernel_after - kernel <= 20
    assert heap_after - heap <= 20


def test_every_widget_is_readable_light_and_dark_wide_and_narrow(everything):
    assert everything.alerts() == []
    views = everything.views()
    assert len(views) == len(showcase.CELLS)
    assert everything.names() == {"pictures": 0, "sounds": 0, "controls": [], "unreachable": []}
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        everything.wear(theme)
        for width in (900, 1280):
            everything.page.set_viewport_size({"width": width, "height": 900})
            everything.page.wait_for_timeout(300)
            for view in views:
                assert view.evaluate("view => unisat.contrast(view)") == []
                # nothing sticks out of the page
                assert view.evaluate("view => view.scrollWidth - view.clientWidth") <= 0
