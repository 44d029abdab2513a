"""Time what a reader waits for in every widget: pointer, closer look, control, asked ahead or not; needs Chromium.

    python benchmarks/instruments.py

The widgets of tests/browser/showcase.py in JupyterLab in headless Chromium. Writes benchmarks/instruments.json, and
docs/performance.md with its table.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests" / "browser")]

import report  # noqa: E402
import roofline  # noqa: E402
import showcase  # noqa: E402
from lab import Lab  # noqa: E402

TIMES = 20
LEAST = 5
"""So many moves of a control must change the picture."""
HOLD_BACK = 3
"""Events that are not counted: code is compiled, fonts are loaded."""


def measure(page, view, name: str) -> dict:
    """Medians in milliseconds over `TIMES` events of each kind."""
    view.scroll_into_view_if_needed()
    found = {
        kind: view.evaluate("(view, [kind, times]) => unisat.times(view, kind, times)", [kind, TIMES])
        for kind in ("hover", "zoom")
    }
    page.ahead(False)
    kind, what, control = showcase.to_move(page, view, name)
    # from end to end, for a single step may have nothing to say: an anchor of the losses is the nearest hidden frame
    keys = [("Home", "End")[number % 2] if kind == "slider" else None for number in range(TIMES + HOLD_BACK)]
    moves = [page.timed(view, kind, control, key=key) for key in keys]
    found["kernel"] = [move["first"] for move in moves[HOLD_BACK:] if move["first"] is not None]
    assert len(found["kernel"]) >= LEAST, f"{name}: moving {what} changed nothing"
    page.ahead(True)
    page.rest()  # meanwhile the page asks for the neighbours of the control touched last
    moves = control.evaluate(
        "(control, [view, times]) => unisat.moves(view, control, times)", [view.element_handle(), TIMES]
    )
    assert len(moves) >= LEAST, f"{name}: {what} was not asked ahead"
    found["ahead"] = moves
    return {"control": what} | {one: round(median(times), 1) for one, times in found.items()}


def main() -> None:
    """Measure, and write the results and the page."""
    names = [name for name in showcase.CELLS if name != "recording"]  # it has an upload, and no control to move
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        place = Path(folder) / "notebooks"
        place.mkdir()
        showcase.write(place / "all.ipynb", *names)
        lab = stack.enter_context(Lab(Path(folder) / "server", place, PYTHONPATH=str(ROOT)))
        page = stack.enter_context(lab.open("all.ipynb"))
        page.run()
        assert not page.errors() + page.alerts(), page.errors() + page.alerts()
        widgets = {name: measure(page, view, name) for name, view in zip(names, page.views(), strict=True)}
        cpuinfo = Path("/proc/cpuinfo")
        machine = roofline.processor(cpuinfo.read_text()) if cpuinfo.exists() else {}
        found = {
            "when": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "chromium": lab.browser.version,
            "machine": machine,
            "times": TIMES,
            "widgets": widgets,
        }
    report.WIDGETS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    report.write(json.loads((ROOT / "benchmarks" / "results.json").read_text()))


if __name__ == "__main__":
    main()
