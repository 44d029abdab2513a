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

PAGE = """
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#e69f00', '#cc79a7', '#56b4e9', '#f0e442', '#444444', '#888888', '#aa3377'];
const host = () => { document.body.innerHTML = '<div id=host style="width:840px;height:480px"></div>'; return document.getElementById('host'); };
const floats = (text) => new Float32Array(Uint8Array.from(atob(text), (one) => one.charCodeAt(0)).buffer);
const cells = (map) => Array.from(map.values, (v, i) => [i % map.columns, Math.floor(i / map.columns), v]);
// begins with a frame, ends when it is painted
const painted = (draw) => new Promise((done) => requestAnimationFrame(() => {
  const started = performance.now(), { port1, port2 } = new MessageChannel();
  port1.onmessage = () => done(performance.now() - started);
  draw();
  for (const one of document.querySelectorAll('canvas')) if (one.width) one.getContext('2d').getImageData(0, 0, 1, 1);
  port2.postMessage(0);
}));
const makers = {
  unisat(work, data, scene) {
    const canvas = document.createElement('canvas');
    host().append(canvas);
    [canvas.width, canvas.height] = scene.parts.size;
    const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
    const arrays = new Map(Object.entries(scene.arrays).map(([name, text]) => [name, name.endsWith('u1') ? bytes(text) : floats(text)]));
    const pen = canvas.getContext('2d'), theme = { ink: '#000000', font: 'sans-serif' };
    return () => {
      pen.clearRect(0, 0, canvas.width, canvas.height);
      new Drawing(pen, structuredClone(scene.parts), arrays, theme).all({ time: null, zoomed: new Map() });
    };
  },
  uPlot(work, data) {
    if (work === 'heat') return null;
    const size = { width: 840, height: 480, scales: { x: { time: false } } }, dots = { paths: () => null, points: { show: true, size: 5 } };
    if (work === 'strip') return null;
    const order = Array.from(data.x.keys()).sort((a, b) => data.x[a] - data.x[b]);
    const series = COLOURS.map((stroke, k) => ({ ...dots, stroke }));
    const columns = [order.map((i) => data.x[i]), ...COLOURS.map((_, k) => order.map((i) => (i % 10 === k ? data.y[i] : null)))];
    const plot = new uPlot({ ...size, series: [{}, ...series] }, columns, host());
    return () => plot.setData(columns);
  },
  'Observable Plot'(work, data) {
    const place = host(), size = { width: 840, height: work === 'strip' ? 240 : 480 };
    const heat = (map) => Plot.plot({ ...size, color: { scheme: 'viridis' }, marks: [Plot.raster(map.values, { width: map.columns, height: map.rows })] });
    const points = () => Plot.plot({ ...size, marks: [Plot.dot(data.x, { x: data.x, y: data.y, r: 2.5, fill: (_, i) => COLOURS[i % 10] })] });
    const line = () => Plot.plot({ ...size, marks: [Plot.lineY(data.wave)] });
    const made = { heat: () => [heat(data.map)], points: () => [points()], strip: () => [line(), heat(data.map)] };
    return () => place.replaceChildren(...made[work]());
  },
  ECharts(work, data) {
    const chart = echarts.init(host(), null, { renderer: 'canvas' });
    const grids = work === 'strip' ? [{ bottom: '55%' }, { top: '55%' }] : [{}];
    const heat = (map, i) => ({ type: 'heatmap', data: cells(map), xAxisIndex: i, yAxisIndex: i, progressive: 0 });
    const kind = (n) => ({ type: 'category', data: Array.from({ length: n }, (_, k) => k) });
    const colour = { visualMap: { min: 0, max: 1, show: false, seriesIndex: work === 'strip' ? 1 : 0 } };
    const points = COLOURS.map((itemStyle, k) => ({ type: 'scatter', symbolSize: 5, itemStyle: { color: itemStyle },
      data: Array.from(data.x ?? [], (v, i) => [v, data.y[i]]).filter((_, i) => i % 10 === k) }));
    const options = {
      heat: () => ({ ...colour, xAxis: kind(data.map.columns), yAxis: kind(data.map.rows), series: [heat(data.map, 0)] }),
      points: () => ({ xAxis: { scale: true }, yAxis: { scale: true }, series: points }),
      strip: () => ({ ...colour, xAxis: [{ gridIndex: 0, max: data.wave.length }, { ...kind(data.map.columns), gridIndex: 1 }],
        yAxis: [{ gridIndex: 0 }, { ...kind(data.map.rows), gridIndex: 1 }],
        series: [{ type: 'line', showSymbol: false, data: Array.from(data.wave, (v, i) => [i, v]) }, heat(data.map, 1)] }),
    };
    return () => { chart.setOption({ animation: false, grid: grids, ...options[work]() }, { notMerge: true }); chart.getZr().flush(); };
  },
};
window.measure = async (side, work, given, scene, times) => {
  const data = { ...given };
  for (const name of ['x', 'y', 'wave']) if (data[name]) data[name] = floats(data[name]);
  if (data.map) data.map = { ...data.map, values: floats(data.map.values) };
  const draw = makers[side](work, data, scene), taken = [];
  if (!draw) return null;
  for (let i = -2; i < times; i++) taken.push(await painted(draw));
  return taken.slice(2);
};
"""


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
            size, small = (
                sum(map(len, each)) for each in zip(*((code.encode(), gzip.compress(code.encode())) for code in codes))
            )
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
        f"Written by `benchmarks/drawing.py`: what a page would have to carry, and the median of {TIMES} redraws with new data, from the",
        f"beginning of a frame until it is painted, in headless Chromium {version} without a GPU. A library may have 1 MB, must work",
        "offline, and must take its colours from JupyterLab's theme. A dash: it has no such picture.",
        "",
        *grid(("", "minified", *WORKS.values()), rows),
        "",
        "unisat draws by itself: none of the libraries draws all three pictures within the limits of size and time, and none knows",
        "matplotlib's figures, from which the page and the stored notebook get the same picture. The code for that is `_scene.py` and",
        "`scene.js`, and what a library would bring beyond it, pointer, zoom and lasso, has to follow a sound in `stage.js` anyway.",
        "",
    ]
    (ROOT / "docs" / "drawing.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
