"""Take a picture of every widget in JupyterLab, light and dark, wide and narrow: python docs/screenshots.py [name …].

They go to build/widgets, named by widget, theme and width of the page in pixels.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from unisat.plots._show import fewer_colours

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "build" / "widgets"
sys.path.insert(0, str(ROOT / "tests" / "browser"))

import showcase  # noqa: E402
from lab import Lab  # noqa: E402


def take(page, names: list[str]) -> None:
    """Store the picture of each widget of an open notebook in both themes and widths."""
    for theme in ("Light", "Dark"):
        page.wear(f"JupyterLab {theme}")
        for width in (1280, 900):
            page.page.set_viewport_size({"width": width, "height": 1400})
            page.page.wait_for_timeout(500)
            for name, view in zip(names, page.views(), strict=True):
                small = fewer_colours(view.screenshot())
                (TARGET / f"{name}-{theme.lower()}-{width}.png").write_bytes(small)


if __name__ == "__main__":
    names = sys.argv[1:] or list(showcase.CELLS)
    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "notebooks"
        place.mkdir()
        shutil.copytree(ROOT / "notebooks", place, dirs_exist_ok=True)
        showcase.write(place / "all.ipynb", *names)
        with Lab(Path(folder) / "server", place) as lab, lab.open("all.ipynb") as page:
            page.run()
            problems = page.errors() + page.alerts()
            if problems:
                raise SystemExit("\n".join(problems))
            take(page, names)
