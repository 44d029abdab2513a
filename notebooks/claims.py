"""Write docs/claims.md: every sentence with a number in the notebooks, and the cell that holds the number.

Usage: python notebooks/claims.py [--check]   (--check writes nothing and fails where the page is out of date)
"""

import ast
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parent / "docs" / "claims.md"
RULES = """\
# Numbers in the notebooks, and what holds them

Written by `notebooks/claims.py`; a test fails where this page is out of date. Cells count from 0. Rules:

- A *claim* is a sentence of a Markdown cell with a number in digits. Headings, formulas, code between backticks,
  questions, the exercises under "Try", the line "You need", numbers in words and whole numbers up to 10 (which any
  cell has) are left out.
- Not counted as numbers: years (four digits without a comma, 1950 to 2039), arXiv identifiers and links, names
  ("section 3", "layer 5", "seed 0", "wav2vec 2.0", `v01`), and the constants of the front end: 16 kHz, 16,000
  samples, 320 samples, 20 ms, 400 samples, 25 ms.
- **asserted**: an `assert` (or `assert_close`) of the cell has the number, or two bounds around it of which the upper
  is at most twice the lower.
- **printed**: the stored output of the cell has the number, rounded as in the sentence, and `make test` compares the
  output.
- **printed, may differ**: the same in a cell whose output differs between machines, so that it is not compared.
- **calculated**: the sentence has the calculation between backticks, and this script does it again.
- **set**: the number stands in the code of the cell, as something chosen.
- **on a page**: the sentence links to a page or notebook that has the number.
- **cited**: the paragraph names its source with an arXiv identifier or a web address.

A percentage is also looked for as a share, kHz as Hz. The script looks in the cells of the section (to the next `##`)
from the nearest to the farthest, then in the whole notebook, then, for solutions, in their notebook. Equal numbers
can meet by chance, small ones above all; the count of wrong numbers below says how often. So the table says where to
look; it does not replace looking.
"""
ORDER = ("asserted", "printed", "printed, may differ", "calculated", "set", "on a page", "cited", "not asserted")
NUMBER = r"(?<![\w.,#-])\d+(?:,\d{3})*(?:\.\d+)?(?![\w]|[.,]\d)"
NAMES = (
    r"sections?|exercises?|notebooks?|cells?|layers?|heads?|channels?|seeds?|steps?|frames?|equations?|"
    r"figures?|tables?|version|Python"
)
NOT_NUMBERS = (
    r"`[^`]*`",
    r"\$\$.+?\$\$|\$[^$]+\$",
    r"\[[^\]]*\]\([^)]*\)|https?://\S+|arXiv:\S+",
    r"wav2vec 2\.0",
    rf"\b(?:{NAMES})(?: to| and|,)? \d+(?:(?:,| and| to|–) ?\d+)*\b(?!,\d| ?%)",
    r"(?<![\d,.])(?:19[5-9]\d|20[0-3]\d)(?![\d,]*\d|\.\d)",
    r"\b(?:16 kHz|16,000 (?:samples|Hz)|320 samples|20 ms|400 samples|25 ms)",
)


def sentences(text: str) -> list[tuple[str, str]]:
    """Sentences of a Markdown cell, each with its paragraph."""
    found = []
    text = re.sub(r"```.*?```|\$\$.*?\$\$", "", re.sub(r"^#.*$", "", text, flags=re.MULTILINE), flags=re.DOTALL)
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-|*] |\d+\. |\|))", text):
        flat = re.sub(r"^(?:[-*]|\d+\.) ", "", " ".join(paragraph.split()))
        if not flat.startswith("**You need:**"):
            found += [(one, flat) for one in re.split(r"(?<=[.!?])[*)\"]? (?=[A-Z`*(\"$])", flat)]
    return found


def numbers(sentence: str) -> list[str]:
    """Numbers of a sentence that are neither names, years nor constants of the front end."""
    if sentence.rstrip("*)").endswith("?"):
        return []
    for pattern in NOT_NUMBERS:
        sentence = re.sub(pattern, " ", sentence)
    return [number for number in re.findall(NUMBER, sentence) if "." in number or value(number) > 10]


def value(number: str) -> float:
    """A number as it is written: 1,000 or 0.5."""
    return float(number.replace(",", ""))


def constants(node: ast.AST) -> list[float]:
    """Numbers in a piece of code, without those that only choose: indices and named arguments."""
    if isinstance(node, ast.Constant):
        return [node.value] if type(node.value) in (int, float) else []
    left_out = {ast.Subscript: ["slice"], ast.Call: ["keywords"]}.get(type(node), [])
    parts = [part for name, part in ast.iter_fields(node) if name not in left_out]
    nodes = [one for part in parts for one in (part if isinstance(part, list) else [part])]
    return [number for one in nodes if isinstance(one, ast.AST) for number in constants(one)]


def changed(number: str) -> str:
    """A wrong number: one more in the last digit."""
    digits = len(number.partition(".")[2])
    return f"{value(number) + 10.0**-digits:.{digits}f}"


def calculations(text: str) -> list[tuple[str, str]]:
    """Calculations between backticks, `3 * 4 = 12`, each with its result; a wrong one is an error."""
    found = re.findall(r"`((?:[\d.,+\-*/() ]|ln|e(?!\w))+) = ([\d.,]+)`", text)
    for formula, result in found:
        exact = eval(formula.replace(",", ""), {"__builtins__": {}, "ln": math.log, "e": math.e})
        if abs(exact - value(result)) > 0.5 * 10.0 ** -len(result.partition(".")[2]):
            raise SystemExit(f"a notebook says {formula} = {result}; it is {exact}")
    return found


class Cell:
    """Numbers that a code cell asserts, prints and sets."""

    def __init__(self, index: int, cell: dict) -> None:
        tree = ast.parse("".join(cell["source"]))
        checks = [n for n in ast.walk(tree) if isinstance(n, ast.Assert)]
        checks += [n for n in ast.walk(tree) if isinstance(n, ast.Call) and "assert_close" in ast.unparse(n.func)]
        chains = [c for check in checks for c in ast.walk(check) if isinstance(c, ast.Compare) and len(c.ops) > 1]
        triples = [zip(p, p[1:], p[2:], strict=False) for c in chains if (p := [c.left, *c.comparators])]
        bounds = [sorted(constants(a) + constants(b)) for triple in triples for a, x, b in triple if not constants(x)]
        self.index = index
        self.bounds = [tuple(b) for b in bounds if len(b) == 2 and b[1] <= 2 * b[0]]
        self.asserted = {n for check in checks for n in constants(check)}
        everything = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
        self.set = {n for n in everything if type(n) in (int, float)} - self.asserted
        shown = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell["outputs"]]
        self.printed = [value(n) for n in re.findall(NUMBER, " ".join("".join(one) for one in shown))]
        self.compared = "nbval-ignore-output" not in cell["metadata"].get("tags", [])

    def holds(self, number: str, sentence: str) -> str | None:
        """How the cell holds a number of a sentence."""
        n, digits = value(number), len(number.partition(".")[2])
        for scale in (1, 100) if "%" in sentence else (1, 1e-3) if "kHz" in sentence else (1,):
            exact = [round(c * scale, 9) for c in self.asserted]
            if n in exact or any(low * scale <= n <= high * scale for low, high in self.bounds):
                return "asserted"
            if any(abs(round(p * scale, digits) - n) < 1e-9 for p in self.printed):
                return "printed" if self.compared else "printed, may differ"
            if n in [round(c * scale, 9) for c in self.set]:
                return "set"
        return None


def source(number: str, sentence: str, where: dict[str, list[Cell]]) -> tuple[str, str] | None:
    """How a number is held and by which cell: the best way in the section, then in the notebook, then in the lesson."""
    for name, cells in where.items():
        found = [(how, cell) for cell in cells if (how := cell.holds(number, sentence))]
        if found:
            how, cell = min(found, key=lambda one: ORDER.index(one[0]))
            return how, f"{cell.index}{name}"
    return None


def elsewhere(number: str, paragraph: str, sentence: str, path: Path) -> tuple[str, str]:
    """A page that the sentence links to, or a source that the paragraph cites."""
    for target in re.findall(r"\]\(([^)#]+\.(?:md|csv|ipynb))", sentence):
        page = (path.parent / target).resolve()
        if page.exists() and value(number) in map(value, re.findall(NUMBER, page.read_text(encoding="utf-8"))):
            return "on a page", f"`{page.relative_to(FOLDER.parent)}`"
    return ("cited", "") if re.search(r"arXiv:|https?://", paragraph) else ("not asserted", "")


def read(path: Path) -> tuple[list[dict], list[Cell]]:
    """Cells of a notebook, and its code cells."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return cells, [Cell(i, cell) for i, cell in enumerate(cells) if cell["cell_type"] == "code"]


def claims(path: Path, said: Callable[[str], str] = str) -> list[tuple[int, str, str, str, str]]:
    """Cell, sentence, number, how it is held and by what, for each claim; ``said`` may change the numbers."""
    cells, code = read(path)
    marks = [i for i, c in enumerate(cells) if re.search(r"^## ", "".join(c["source"]), re.MULTILINE)] + [len(cells)]
    lesson = FOLDER / path.name
    beside = [] if lesson == path else read(lesson)[1]
    rows, heading = [], ""
    for index, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            continue
        text = "".join(cell["source"])
        for part in re.split(r"^(?=## )", text, flags=re.MULTILINE):
            heading = part.partition("\n")[0] if part.startswith("## ") else heading
            if heading.startswith("## Try"):
                continue
            begun = index + part.startswith("## ")  # what stands before a heading belongs to the section before it
            start, end = max([m for m in marks if m < begun], default=-1), min(m for m in marks if m >= begun)
            near = sorted(code, key=lambda one: (abs(one.index - index), one.index < index))
            inside = [one for one in near if start < one.index < end]
            for sentence, paragraph in sentences(part):
                rows += [(index, sentence, result, "calculated", "") for _, result in calculations(sentence)]
                for number in map(said, numbers(sentence)):
                    where = {"": inside, ", another section": near, " of the notebook": beside}
                    found = source(number, sentence, where) or elsewhere(number, paragraph, sentence, path)
                    rows.append((index, sentence, number, *found))
    return rows


def page() -> str:
    """The page."""
    tables, counts, left, by_chance = [], Counter(), [], Counter()
    for path in sorted([*FOLDER.glob("[0-9]*.ipynb"), *FOLDER.glob("solutions/[0-9]*.ipynb")]):
        name = str(path.relative_to(FOLDER).with_suffix(""))
        rows = claims(path)
        tables += [f"\n## `{name}`\n", "| cell | sentence | number | how | by cell |", "|---|---|---|---|---|"]
        by_chance.update("section" in by for *_, how, by in claims(path, changed) if how in (*ORDER[:3], "set"))
        for index, sentence, number, how, by in rows:
            counts[how] += 1
            # a link is relative to its notebook
            shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", sentence).replace("|", r"\|")
            tables.append(f"| {index} | {shown} | {number} | {how} | {by} |")
            if how == "not asserted":
                left.append(f"- `{name}`, cell {index}: {number} in: {shown}")
    total = f"{sum(counts.values())} numbers: " + ", ".join(f"{counts[how]} {how}" for how in ORDER) + "."
    total += (
        f" With each number one higher in its last digit, {by_chance[False]} are still found in the section by chance, "
    )
    total += f"and {by_chance[True]} in another one."
    return "\n".join([RULES, total, "\n## Not asserted\n", *(left or ["None."]), *tables]) + "\n"


if __name__ == "__main__":
    new = page()
    if "--check" not in sys.argv:
        PAGE.write_text(new, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != new:
        raise SystemExit("docs/claims.md is out of date; run: python notebooks/claims.py")
