"""The README's Python runs as it stands there, and its commands exist; links: `test_links.py`."""

import re

import ipywidgets
import pytest
from conftest import ROOT

import unisat

pytestmark = pytest.mark.runs_once

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_examples_run(monkeypatch):
    whole = unisat.corpus.builtin()
    few = whole.where(speaker=[f"v{number:02d}" for number in range(1, 9)])  # a third of the voices, for time
    monkeypatch.setattr(unisat.corpus, "builtin", lambda: few)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["trace"].sites == ["block.3.resid_mid"]
    assert len(names["batch"]) == 4
    ipywidgets.Widget.close_all()  # the examples leave one on the page


def test_the_drawing_is_what_the_code_draws():
    stored = (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8")
    assert stored == unisat.plots.architecture(unisat.UniSpeechSatConfig.base()).svg
    assert "docs/images/architecture.svg" in README


def test_it_counts_the_voices_that_ship():
    voices, people = (corpus.table["speaker"].nunique() for corpus in (unisat.corpus.builtin(), unisat.corpus.people()))
    assert f"{voices} built-in synthetic voices, and {people} people" in README


def test_the_pages_name_tests_that_exist():
    for page in (ROOT / "docs").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for path, _, name in re.findall(r"`(tests/[\w/]+\.py)(::(\w+))?`", text):
            assert (ROOT / path).exists(), (page.name, path)
            assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), (page.name, name)


def test_the_commands_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = set(re.findall(r"`make (\w+)|^make (\w+)", README, re.MULTILINE))
    commands = {name for pair in commands for name in pair if name}
    assert {"lab", "test", "tour", "notebooks"} <= commands
    for command in commands:
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command
