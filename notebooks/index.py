"""Write the table of notebooks into README.md and notebooks/README.md, from what the notebooks say of themselves.

Usage: python notebooks/index.py [--check]   (--check writes nothing and fails where a table is out of date)

Badges for Binder and Colab are written where pyproject.toml names a GitHub repository, as [project.urls] Repository.
"""

import json
import re
import sys
import tomllib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
BEGIN, END = "<!-- notebooks: written by notebooks/index.py -->", "<!-- end of notebooks -->"


def lesson(path: Path) -> tuple[str, str, str]:
    """Question, minutes and what one needs before it, from the first cell of a notebook."""
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    question = re.search(r"^\*([^*].*?[^*])\*$", first, re.MULTILINE | re.DOTALL)
    need = re.search(r"\*\*You need:\*\*\s+(.+?);\s+(\d+ minutes to read, \d+ to run)\.", first, re.DOTALL)
    if question is None or need is None:
        raise SystemExit(f"{path.name} lacks a *question* or a **You need:** line in its first cell.")
    before, minutes = (" ".join(one.split()) for one in need.groups())
    before = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", before)  # a link there is relative to the notebook
    return " ".join(question[1].split()), minutes.replace(" minutes", ""), before


def table(folder: str, repository: str | None) -> str:
    """Table of the lessons, with links relative to a page that sees the notebooks in ``folder``."""
    rows = ["| notebook | question | minutes | before it |", "|---|---|---|---|"]
    for path in sorted(FOLDER.glob("[0-9][0-9]_*.ipynb")):
        question, minutes, before = lesson(path)
        links = f"[`{path.stem}`]({folder}{path.name}), [solutions]({folder}solutions/{path.name})"
        rows.append(f"| {links} | {question} | {minutes} | {before} |")
    if repository is not None:
        where = repository.removeprefix("https://github.com/").rstrip("/")
        binder = f"https://mybinder.org/v2/gh/{where}/HEAD?urlpath=lab/tree/notebooks/00_tour.ipynb"
        colab = f"https://colab.research.google.com/github/{where}/blob/main/notebooks/00_tour.ipynb"
        rows += [
            "",
            f"[![Binder](https://mybinder.org/badge_logo.svg)]({binder}) "
            f"[![Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})",
        ]
    return "\n".join(rows)


def main() -> None:
    """Write, or check, both tables."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project.get("urls", {}).get("Repository")
    for page, folder in ((ROOT / "README.md", "notebooks/"), (FOLDER / "README.md", "")):
        text = page.read_text(encoding="utf-8")
        start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        new = f"{text[:start]}\n{table(folder, repository)}\n{text[end:]}"
        if new == text:
            continue
        if "--check" in sys.argv:
            raise SystemExit(f"the table in {page.relative_to(ROOT)} is out of date; run: python notebooks/index.py")
        page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
