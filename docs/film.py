"""Make the README's pictures: python docs/film.py writes docs/images/architecture.svg and docs/images/instruments.gif.

In the film a reader's pointer and keys move over some of the widgets in JupyterLab; each step is one screenshot.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests" / "browser"))

import showcase  # noqa: E402
from lab import Lab  # noqa: E402

import unisat  # noqa: E402

SIZE = 880, 660
NAMES = ["strip", "masks", "attention", "quantizer"]
COLOURS = 200
FRAME_MS = 160


class Film:
    """Frames of one widget, each with the pointer drawn where it is."""

    def __init__(self, page, view) -> None:
        self.page, self.view, self.frames = page, view, []
        view.scroll_into_view_if_needed()
        self.pointer = None

    def shoot(self, times: int = 1) -> None:
        """Take the widget as it is now."""
        self.page.page.wait_for_timeout(60)
        picture = Image.open(io.BytesIO(self.view.screenshot())).convert("RGB").crop((0, 0, *SIZE))
        if self.pointer is not None:
            box = self.view.bounding_box()
            x, y = self.pointer[0] - box["x"], self.pointer[1] - box["y"]
            arrow = [(x, y), (x, y + 17), (x + 4, y + 13), (x + 11, y + 12)]
            ImageDraw.Draw(picture).polygon(arrow, fill="black", outline="white")
        self.frames += [picture] * times

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A share of the picture as a place in the page."""
        box = self.view.locator(".unisat-drawing").bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def move(self, x: float, y: float, steps: int = 6) -> None:
        """Move the pointer to a share of the picture."""
        end = self.place(x, y)
        begin = self.pointer or end
        for step in range(1, steps + 1):
            share = step / steps
            self.pointer = tuple(a + share * (b - a) for a, b in zip(begin, end, strict=True))
            self.page.page.mouse.move(*self.pointer)
            self.shoot()

    def click(self) -> None:
        """Click where the pointer is."""
        self.page.page.mouse.click(*self.pointer)
        self.page.idle()
        self.shoot(3)

    def press(self, name: str, key: str, times: int, each: int = 1) -> None:
        """Move a slider by keys."""
        self.pointer = None
        slider = next(one for kind, label, one in self.page.controls(self.view) if (kind, label) == ("slider", name))
        slider.focus()
        for _ in range(times):
            for _ in range(each):
                self.page.page.keyboard.press(key)
            self.page.idle()
            self.shoot()


def films(page) -> list[Image.Image]:
    """Everything that is shown, one widget after the other."""
    strip, masks, attention, quantizer = (Film(page, view) for view in page.views())
    strip.shoot(3)
    strip.move(0.15, 0.5, steps=1)
    strip.move(0.5, 0.5, steps=10)
    strip.click()
    strip.press("layer", "ArrowRight", 3)
    masks.shoot(3)
    masks.press("mask_prob", "ArrowLeft", 6, each=5)
    masks.press("mask_prob", "ArrowRight", 6, each=5)
    masks.move(0.1, 0.45, steps=1)
    masks.move(0.5, 0.5, steps=10)
    attention.view.scroll_into_view_if_needed()
    attention.shoot(2)
    attention.press("layer", "ArrowRight", 4)
    attention.move(0.3, 0.2, steps=1)
    for y in (0.3, 0.4, 0.55):
        attention.move(0.35, y, steps=3)
        attention.click()
    quantizer.view.scroll_into_view_if_needed()
    quantizer.shoot(2)
    quantizer.press("temperature", "ArrowLeft", 10, each=3)
    quantizer.move(0.2, 0.45, steps=1)
    for x in (0.4, 0.6):
        quantizer.move(x, 0.47, steps=3)
        quantizer.click()
    return [*strip.frames, *masks.frames, *attention.frames, *quantizer.frames]


if __name__ == "__main__":
    drawing = unisat.plots.architecture(unisat.UniSpeechSatConfig.base())
    (IMAGES / "architecture.svg").write_text(drawing.svg, encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "notebooks"
        place.mkdir()
        showcase.write(place / "film.ipynb", *NAMES)
        with Lab(Path(folder) / "server", place) as lab, lab.open("film.ipynb", height=1400) as page:
            page.run()
            if problems := page.errors() + page.alerts():
                raise SystemExit("\n".join(problems))
            taken = films(page)
    # the same colours for all: what does not move is then the same, and takes no room
    sheet = Image.new("RGB", (SIZE[0], SIZE[1] * len(taken[::9])))
    for row, one in enumerate(taken[::9]):
        sheet.paste(one, (0, SIZE[1] * row))
    colours = sheet.quantize(COLOURS, dither=Image.Dither.NONE)
    taken = [one.quantize(palette=colours, dither=Image.Dither.NONE) for one in taken]
    taken[0].save(
        IMAGES / "instruments.gif", save_all=True, append_images=taken[1:], duration=FRAME_MS, loop=0, optimize=True
    )
