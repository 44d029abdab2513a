"""The API reference is built from the docstrings, without a warning, and asks nothing of the network."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

import unisat

pytestmark = pytest.mark.runs_once


def test_the_reference_has_every_public_name():
    command = [sys.executable, "-W", "error", "docs/api.py"]
    subprocess.run(command, cwd=ROOT, check=True)
    first = (ROOT / "build" / "docs" / "unisat.html").read_text(encoding="utf-8")
    modules = {"audio", "corpus", "frames", "losses", "masking", "metrics", "mixing", "outputs", "plots", "shortcuts"}
    modules |= {"interpret", "widgets"}
    assert not [name for name in set(dir(unisat)) - modules if f'id="{name}"' not in first]
    pages = {str(path.relative_to(ROOT / "build" / "docs")) for path in (ROOT / "build" / "docs").rglob("*.html")}
    sources = {str(path.relative_to(ROOT).with_suffix(".html")) for path in (ROOT / "unisat").rglob("*.py")}
    assert not {name for name in sources - pages if "/_" not in name}
    assert not {name for name in pages if "/_" in name}
    shown = (ROOT / "build" / "docs" / "unisat" / "plots.html").read_text(encoding="utf-8")
    assert not [name for name in unisat.plots.__all__ if f'id="{name}"' not in shown]
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="https?:', first)
