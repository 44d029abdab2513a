"""Hold the widgets' own drawing beside libraries: bytes, and milliseconds of a redraw; needs Chromium, npm, a network.

    python benchmarks/drawing.py

Packages are fetched by npm into a temporary folder, and nothing of them stays. Writes docs/drawing.md.
"""

from __future__ import annotations

import base64
import gzip
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests" / "browser")]

from lab import CHROMIUM, FLAGS  # noqa: E402
from report import grid  # noqa: E402

from unisat.widgets._picture import new_figure  # noqa: E402
from unisat.widgets._scene import Scene  # noqa: E402
from unisat.widgets._stage import DRAW  # noqa: E402

TIMES, LIMIT = 20, 1_000_000
LIBRARIES = {
    "uPlot": {"uplot": "uPlot.iife.min.js"},
    "Observable Plot": {"d3": "d3.min.js", "@observablehq/plot": "plot.umd.min.js"},
    "ECharts": {"echarts": "echarts.min.js"},
}
WORKS = {
    "heat": "an attention map, 360 × 360",
    "points": "5,000 points in ten colours",
    "strip": "a waveform of 8,000 points over a heat map, 128 × 200",
}

PAGE = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


def text(values: np.ndarray | bytes) -> str:
    """Floats for the page."""
    content = values if isinstance(values, bytes) else np.ascontiguousarray(values, dtype="<f4").tobytes()
    return base64.b64encode(content).decode()


def picture(work: str) -> tuple[dict, dict]:
    """The data of a work, for the libraries, and our scene of it."""
    rng = np.random.default_rng(0)
    figure = new_figure(8.4, 4.8)
    if work == "points":
        x, y = rng.standard_normal((2, 5000))
        figure.subplots().scatter(x, y, s=13, c=[f"C{row % 10}" for row in range(5000)], linewidths=0)
        data = {"x": text(x), "y": text(y)}
    else:
        rows, columns = (360, 360) if work == "heat" else (128, 200)
        values = rng.random((rows, columns))
        axes = figure.subplots(2 if work == "strip" else 1, squeeze=False)[:, 0]
        axes[-1].imshow(values, aspect="auto", origin="lower", vmin=0, vmax=1)
        data = {"map": {"values": text(values), "rows": rows, "columns": columns}}
        if work == "strip":
            wave = rng.standard_normal(8000)
            axes[0].plot(wave, linewidth=0.8)
            data["wave"] = text(wave)
    figure.draw_without_rendering()
    scene = Scene(figure)
    return data, {"parts": scene.parts, "arrays": {name: text(content) for name, content in scene.arrays.items()}}


def fetch(package: str, file: str, folder: Path) -> tuple[str, str]:
    """Version and minified code of a package of npm."""
    said = subprocess.run(["npm", "pack", package, "--silent"], cwd=folder, check=True, capture_output=True, text=True)
    packed = folder / said.stdout.split()[-1]
    with tarfile.open(packed) as archive:
        content = archive.extractfile(f"package/dist/{file}")
        assert content is not None
        return packed.stem.rsplit("-", 1)[1], content.read().decode()


def main() -> None:
    """Measure, and write the page."""
    from playwright.sync_api import sync_playwright

    scripts, versions = {"unisat": [DRAW]}, {"unisat": "`scene.js`"}
    with tempfile.TemporaryDirectory() as folder:
        for side, files in LIBRARIES.items():
            got = {package: fetch(package, file, Path(folder)) for package, file in files.items()}
            scripts[side] = [code for _, code in got.values()]
            versions[side] = ", ".join(f"{package} {version}" for package, (version, _) in got.items())
    pictures = {work: picture(work) for work in WORKS}
    rows = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for side, codes in scripts.items():
            page = browser.new_page(viewport={"width": 1000, "height": 700})
            for code in (*codes, PAGE):
                page.add_script_tag(content=code)
            size = sum(len(code.encode()) for code in codes)
            small = sum(len(gzip.compress(code.encode())) for code in codes)
            cells = []
            for work, (data, scene) in pictures.items():
                asked = [side, work, data, scene if side == "unisat" else None, TIMES]
                taken = page.evaluate("([...asked]) => measure(...asked)", asked)
                cells.append("–" if taken is None else f"{median(taken):.1f} ms")
            large = "" if size <= LIMIT else " **too large**"
            rows.append(
                (f"{side}<br>{versions[side]}", f"{size / 1000:.0f} kB{large}<br>{small / 1000:.0f} kB packed", *cells)
            )
            page.close()
        version = browser.version
        browser.close()
    lines = [
        "# Who draws the widgets' pictures",
        "",
        f"Written by `benchmarks/drawing.py`: what a page would have to carry, and the median of {TIMES} redraws",
        "with new data, from the beginning of a frame until it is painted, in headless Chromium",
        f"{version} without a GPU. A library may have 1 MB, must work offline, and must take its",
        "colours from JupyterLab's theme. A dash: it has no such picture.",
        "",
        *grid(("", "minified", *WORKS.values()), rows),
        "",
        "unisat draws by itself: uPlot has no maps, ECharts is larger than a page may carry, and Observable Plot,",
        "which has all three, takes several times as long for maps and points. Nor do they know matplotlib's figures,",
        "from which the page and the stored notebook get the same picture: `_scene.py` and `scene.js` would stay for",
        "the most part, and a sound's line, zoom and lasso in `stage.js` too.",
        "",
    ]
    (ROOT / "docs" / "drawing.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
