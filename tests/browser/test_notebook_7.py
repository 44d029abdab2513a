"""The widgets in Notebook 7, which has JupyterLab's parts and a page of its own."""

import importlib.util

import pytest
import showcase

KINDS = {"MaskView": "masks", "QuantizerView": "quantizer"}


@pytest.fixture(scope="module")
def page(lab):
    if importlib.util.find_spec("notebook") is None:
        pytest.skip("Notebook 7 is not installed: pip install --group test")
    showcase.write(lab.notebooks / "seven.ipynb", *KINDS.values())
    with lab.open("seven.ipynb", where="notebooks") as opened:
        opened.run()
        assert opened.errors() == []
        yield opened
        # Notebook's own plugins miss settings that JupyterLab's have; see the stack
        assert [one for one in opened.complaints if "notebook_core" not in one] == []
        assert opened.outside == []


def test_it_is_notebook_7(page):
    assert page.page.evaluate("jupyterapp.name") == "Jupyter Notebook"
    assert len(page.views()) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_changes_the_picture(page, kind):
    """Within a second, whatever the machine does beside."""
    instrument = page.instrument(kind)
    slider = next(control for shown, _, control in page.controls(instrument.view) if shown == "slider")
    found = page.timed(instrument.view, "slider", slider, back=page.at_its_end(slider))
    assert found["first"] is not None
    assert found["first"] < 1000
    assert page.alerts() == []


def test_the_picture_says_what_is_under_the_pointer(page):
    masks = page.instrument("MaskView")
    assert "Hz" in masks.hover("spectrum", 0.43, 1010)


def test_the_player_lets_the_temperature_fall(page):
    quantizer = page.instrument("QuantizerView")
    player = quantizer.view.locator(".widget-play button").first
    hot = quantizer.ask("widget.controls['temperature'].value")
    player.click()
    page.page.wait_for_function("document.querySelector('.widget-play i').className.includes('pause')")
    page.page.wait_for_timeout(1500)
    player.click()
    page.idle()
    assert 0.5 <= quantizer.ask("widget.controls['temperature'].value") < hot
