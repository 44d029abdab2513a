"""Notebooks with widgets in a browser: they run, say nothing wrong, name everything, stay on this machine, and answer.

Those without widgets are left to nbval, and their pictures' words to `tests/test_notebooks.py`.
"""

import json
import os
from statistics import median

import pytest
import torch
from lab import ROOT

NOTEBOOKS = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if "us.widgets." in path.read_text("utf-8")]
FAST = torch.backends.cpu.get_cpu_capability() == "AVX512"
SLACK = float(os.environ.get("UNISAT_SLACK", "4" if FAST else "8"))
"""Factor on all times, for machines that are shared, and twice that without AVX-512; 1 on a quiet one that has it."""

LIMIT_MS = 150
"""From a key on a control to the first change of the picture, for the slowest: a map that is measured anew."""

ENOUGH, MOVES = 3, 5
"""A control is moved until the picture has changed so often, or it has been moved so often."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_in_the_browser(lab, installed, path):
    with lab.open(path.name) as page:
        seconds = page.run()
        assert page.errors() == []
        assert page.python("import unisat; print(unisat.__file__)").startswith(str(installed))
        assert seconds < 60 * max(1, SLACK / 2)
        names = page.names()
        assert names == {"pictures": 0, "sounds": 0, "controls": [], "unreachable": []}
        kinds = [line for line in page.python(KINDS).split("\n") if line]
        views = page.views()
        measured = {}
        for view, kind in zip(views, kinds, strict=True):
            assert view.evaluate("view => unisat.contrast(view)") == []
            view.scroll_into_view_if_needed()
            for what, name, control in page.controls(view):
                if what == "file" or not page.enabled(control):
                    continue
                end = what == "slider" and page.at_its_end(control)
                moves: list[dict] = []
                while len(moves) < MOVES and sum(bool(move.get("changed")) for move in moves) < ENOUGH:
                    moves.append(page.timed(view, what, control, back=end))
                if not any(move.get("changed") for move in moves):
                    moves += insist(page, view, what, control)
                said = page.alerts()
                assert any(move.get("changed") for move in moves), (kind, name, said)
                assert max(move["blank"] for move in moves) == 0, (kind, name)
                assert max(move["jump"] for move in moves) <= 1, (kind, name)
                times = [move["first"] for move in moves if move["first"] is not None]
                measured[f"{kind}.{name}"] = round(median(times))
                assert median(times) <= SLACK * LIMIT_MS, (kind, name, times)
        assert page.complaints == []
        assert page.outside == []
        peak = int(page.python("import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)")) / 1e6
        assert peak <= 2  # GB
    table = ROOT / "build" / "browser" / f"{path.stem}.json"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(
        json.dumps({"seconds": round(seconds, 1), "peak_gb": round(peak, 2), "first_ms": measured}, indent=1) + "\n"
    )


def insist(page, view, what, control):
    """Go further where single steps change nothing: in that state of the widget they may have nothing to say."""
    if what == "slider":  # a least number of spans, say, says nothing until it is large
        return [page.timed(view, what, control, key=key) for key in ("End", "PageDown", "PageDown", "Home")]
    moves = []
    for kind, _, other in page.controls(view)[:1]:  # one scale for all layers, say, is that of the largest layer
        for _ in range(3):
            page.step(kind, other, back=True)
            page.idle()
            moves.append(page.timed(view, what, control))
    return moves


# the class of each widget that the notebook shows, in the order of the page
KINDS = """
from ipywidgets.widgets.widget import _instances as _every
from unisat.widgets._picture import Picture as _Picture
_shown = [one for one in _every.values() if isinstance(one, _Picture)]
print("\\n".join(type(one).__name__ for one in _shown))
"""
