"""Every link of every page and notebook leads to a file, and to a heading where it names one."""

import json
import re

import pytest
from conftest import ROOT

pytestmark = pytest.mark.runs_once

PAGES = sorted(
    path
    for folder in (".", "docs", "notebooks", "data", "benchmarks", "unisat")
    for path in (ROOT / folder).glob("*.md" if folder == "." else "**/*.md")
)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("**/*.ipynb"))
NOTEBOOKS = [path for path in NOTEBOOKS if ".ipynb_checkpoints" not in path.parts]


def text_of(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return text


def headings(path):
    """Names that GitHub gives to a page's headings."""
    lines = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", text_of(path), flags=re.DOTALL)
    for link in re.findall(r"\]\(<?([^)\s>]+)>?\)", text):
        if re.match(r"https?:|mailto:|data:", link):
            continue
        name, _, heading = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert not heading or heading in headings(target), link
    for link in re.findall(r"https?://[^\s)>\]\"'`]+", text):
        # no address of one machine, and none that is cut
        assert re.match(r"https?://[\w-]+(\.[\w-]+)+(/|$)", link), link


def test_there_are_pages():
    assert len(PAGES) >= 8
    assert len(NOTEBOOKS) >= 7
