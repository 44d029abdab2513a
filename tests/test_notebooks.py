"""Notebooks as they are stored; that they run and give the same again is nbval's part of `make test`."""

import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import unisat

pytestmark = pytest.mark.runs_once

SERIES = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))


def test_the_series_has_no_gap_and_every_notebook_its_solutions():
    assert [int(path.name[:2]) for path in SERIES] == list(range(19))
    assert [path.name for path in SOLUTIONS] == [path.name for path in SERIES]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(params=[*SERIES, *SOLUTIONS], ids=lambda path: f"{path.parent.name}/{path.name}")
def notebook(request):
    return read(request.param)


@pytest.fixture
def code(notebook):
    """Code cells with their source joined."""
    return [{**c, "text": "".join(c["source"])} for c in notebook["cells"] if c["cell_type"] == "code"]


def test_stored_by_one_run_from_top_to_bottom(code):
    # strict nbval compares nothing in a cell without a count
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(cell["outputs"] for cell in code)
    kinds = {(out["output_type"], out.get("name")) for cell in code for out in cell["outputs"]}
    assert not kinds & {("error", None), ("stream", "stderr")}


def test_metadata_that_every_front_end_reads(notebook):
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert all("execution" not in cell["metadata"] for cell in notebook["cells"])
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)


def test_small_enough_and_of_no_machine(notebook):
    text = json.dumps(notebook)
    assert len(text) < 1_000_000
    without_pictures = re.sub(r"[A-Za-z0-9+/=\\n]{200,}", "", text)
    assert not re.search(r"/(home|root|tmp|work|Users)/", without_pictures)
    assert "widget-view" not in without_pictures


def test_rhythm(notebook):
    """A heading first, a sentence before each code cell, at most 15 lines of code, an assert in each section."""
    cells = notebook["cells"]
    assert "".join(cells[0]["source"]).startswith("# ")
    section, asserts = "", {}
    for before, cell in zip([None, *cells], cells, strict=False):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
            section = headings[-1] if headings else section
            continue
        assert before["cell_type"] == "markdown", text
        assert text.count("\n") < 15, text
        assert not re.search(r"^class ", text, re.MULTILINE), text
        asserts[section] = asserts.get(section, False) or "assert" in text
    asserts.pop("")  # the imports
    assert len(asserts) >= 3
    assert all(asserts.values()), asserts
    assert re.search(r"^## What this does not show", "".join(cells[-1]["source"]), re.MULTILINE)


@pytest.mark.parametrize("path", SERIES, ids=lambda path: path.name)
def test_a_lesson_says_what_it_asks_what_it_needs_and_what_to_try(path):
    cells = read(path)["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    first = texts[0]
    assert re.search(r"^\*[^*].*\?\*$", first, re.MULTILINE | re.DOTALL), "a question in italics"
    assert re.search(r"\*\*You need:\*\* .+ \d+ minutes to read, \d+ to run\.", first, re.DOTALL)
    tries = next(text for text in texts if re.search(r"^## Try", text, re.MULTILINE))
    exercises = re.findall(r"^(\d)\. ", tries, re.MULTILINE)
    assert 3 <= len(exercises) <= 4
    assert f"(solutions/{path.name})" in tries
    solutions = read(path.parent / "solutions" / path.name)["cells"]
    solved = re.findall(r"^## Exercise (\d)", "\n".join("".join(cell["source"]) for cell in solutions), re.MULTILINE)
    assert solved == exercises


@pytest.mark.parametrize("path", SERIES, ids=lambda path: path.name)
def test_a_lesson_begins_with_a_bet_and_ends_with_its_grade(path):
    code = ["".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    assert any(re.match("bet = ", text) for text in code[:4])
    assert "us.grade(bet, " in code[-1] or 'bet["found"] = ' in code[-1]
    assert "assert" in code[-1]


@pytest.mark.parametrize("number", [*range(8), 10, 11, 12])
def test_a_lesson_on_a_part_of_the_model_begins_with_the_drawing(number):
    cells = read(SERIES[number])["cells"]
    first = next(i for i, cell in enumerate(cells) if "us.plots.architecture(" in "".join(cell["source"]))
    assert first < (20 if number == 0 else 5)  # the tour begins with a voice
    assert 'src="data:image/svg+xml;base64,' in "".join(cells[first]["outputs"][0]["data"]["text/html"])


def test_pictures_have_words_and_sounds_have_names(code):
    for cell in code:
        for output in cell["outputs"]:
            data = output.get("data", {})
            shown = "".join(data.get("text/html", ""))
            assert all(' alt="' in tag for tag in re.findall(r"<img [^>]{,2000}", shown)), cell["text"]
            assert all(' aria-label="' in tag for tag in re.findall(r"<audio [^>]{,300}", shown)), cell["text"]
            if "image/png" in data:  # a widget's: its sentence is beside it
                assert "us.widgets." in cell["text"] or len("".join(data["text/plain"])) > 40, cell["text"]
                assert "Figure" not in "".join(data["text/plain"]), cell["text"]


def test_some_notebook_shows_each_widget():
    text = "".join(path.read_text(encoding="utf-8") for path in SERIES)
    assert set(re.findall(r"= us\.widgets\.(\w+)\(", text)) == set(unisat.widgets.__all__)


def test_widgets_leave_a_picture_and_a_sentence(code):
    for cell in [cell for cell in code if re.search(r"= us\.widgets\.", cell["text"])]:
        data = cell["outputs"][-1]["data"]
        assert set(data) == {"image/png", "text/plain"}
        assert len("".join(data["text/plain"])) > 40


def test_the_index_is_what_the_notebooks_say():
    done = subprocess.run([sys.executable, ROOT / "notebooks" / "index.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_page_of_claims_is_what_the_notebooks_say():
    done = subprocess.run([sys.executable, ROOT / "notebooks" / "claims.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_number_that_no_cell_holds_is_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "notebooks"))
    import claims

    monkeypatch.setattr(claims, "FOLDER", tmp_path)
    words = "## One\n\nIn 2020 `4 * 8 = 32` heads, 17 % sharp, 23.5 ms apart; 12 drawn, 55 lost, 61 of layer 70."
    code = "drawn = range(12)\nassert 0.15 < sharp[55] < 0.2"
    shown = [{"output_type": "stream", "name": "stdout", "text": "23.46 ms"}]
    cells = [{"cell_type": "markdown", "source": words}]
    cells.append({"cell_type": "code", "source": code, "outputs": shown, "metadata": {}})
    path = tmp_path / "00_made.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    found = {number: how for _, _, number, how, _ in claims.claims(path)}
    assert found == {
        "32": "calculated",
        "17": "asserted",
        "23.5": "printed",
        "12": "set",
        "55": "set",
        "61": "not asserted",
    }
    with pytest.raises(SystemExit, match="it is 32"):
        claims.calculations("`4 * 8 = 33`")
