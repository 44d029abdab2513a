"""Break one operator at a time, and see whether a notebook notices.

    python benchmarks/mutations.py [--only losses masking] [--limit 10] [--write docs/mutations.md]

A mutant is a copy of the package with a single operator changed: + for -, * for /, < for >=, > for <=, == for !=, or a
sign that is taken away. The code cells of the notebooks that are about the file run against it, their asserts included,
pictures and players not shown; the first one that fails has noticed. What no notebook notices has survived. The
notebooks first run against the copy as it is; one that fails there has noticed only what fails it in another cell or
in another way. Writes docs/mutations.md.
"""

import argparse
import ast
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.dont_write_bytecode = True  # a mutant has the size and often the second of the one before it

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "unisat/losses.py": ["06", "13", "07"],
    "unisat/masking.py": ["04", "06", "13", "00"],
    "unisat/quantizer.py": ["05", "06", "13"],
    "unisat/xvector.py": ["12", "14"],
    "unisat/interpret/activations/reduce.py": ["14", "08"],
}
"""Where to change something, and the notebooks that are about it, the quickest to notice first."""

FUNCTIONS = {"unisat/interpret/activations/reduce.py": {"mean", "mean_std", "norms", "_count"}}
"""In a file named here only these: the pooling of utterances."""

LEFT_OUT = {"reference_span_mask", "_check_spans", "_check_utterances", "_check", "__init__"}
"""Functions that compute nothing of ours: the reference's sampler, kept for parity; refusals; sizes of layers."""

SWAPS = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Lt: ("<", ">="),
    ast.GtE: (">=", "<"),
    ast.Gt: (">", "<="),
    ast.LtE: ("<=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
}
LONGEST = 240
"""Seconds after which a notebook that still runs against a mutant counts as failed."""


@dataclass(frozen=True)
class Mutant:
    """One change: the text between two places of a file."""

    file: str
    function: str
    line: int
    start: int
    end: int
    new: str
    before: str
    after: str


def mutants(file: str) -> list[Mutant]:
    """Every operator of a file's functions that can be changed, in the order of the text."""
    text = (ROOT / file).read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line.encode()))
    raw = text.encode()
    found = []

    def add(function: str, node: ast.AST, start: int, end: int, new: str) -> None:
        changed = (raw[:start] + new.encode() + raw[end:]).decode().splitlines()
        number = text[: len(raw[:start].decode())].count("\n")
        found.append(
            Mutant(file, function, number + 1, start, end, new, lines[number].strip(), changed[number].strip())
        )

    def place(node: ast.AST, end: bool = False) -> int:
        line, column = (node.end_lineno, node.end_col_offset) if end else (node.lineno, node.col_offset)
        return offsets[line - 1] + column

    def operator(function: str, kind: type, left: ast.AST, right: ast.AST) -> None:
        if kind not in SWAPS:
            return
        old, new = SWAPS[kind]
        between = raw[place(left, end=True) : place(right)].decode()
        match = re.search(rf"(?<![<>=!*/]){re.escape(old)}(?![=*/])", between)
        assert match, (file, left.lineno, between)
        start = place(left, end=True) + match.start()
        add(function, left, start, start + len(old), new)

    def walk(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.Raise | ast.JoinedStr):
            return
        if isinstance(node, ast.FunctionDef):
            function = node.name
            wanted = FUNCTIONS.get(file)
            if function in LEFT_OUT or (wanted and function not in wanted):
                return
            for child in node.body:  # not decorators and annotations
                walk(child, function)
            return
        if function:
            if isinstance(node, ast.BinOp):
                operator(function, type(node.op), node.left, node.right)
            elif isinstance(node, ast.Compare):
                for kind, left, right in zip(node.ops, [node.left, *node.comparators], node.comparators, strict=False):
                    operator(function, type(kind), left, right)
            elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
                # -1 is mostly the last axis
                if not isinstance(node.operand, ast.Constant):
                    add(function, node, place(node), place(node) + 1, "")
            elif isinstance(node, ast.AugAssign):
                return
        for child in ast.iter_child_nodes(node):
            walk(child, function)

    walk(ast.parse(text), "")
    return sorted(set(found), key=lambda one: one.start)


def copy(folder: Path) -> None:
    """Copy the package into an empty folder, with what the notebooks find beside it."""
    shutil.copytree(ROOT / "unisat", folder / "unisat", ignore=shutil.ignore_patterns("__pycache__", "checkpoints"))
    (folder / "unisat" / "checkpoints").symlink_to(ROOT / "unisat" / "checkpoints")
    for name in ("data", "docs", "recipes"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "notebooks").mkdir()


def notebooks(numbers: list[str]) -> list[Path]:
    """The notebooks of these numbers that there are."""
    found = [sorted((ROOT / "notebooks").glob(f"{number}_*.ipynb")) for number in numbers]
    return [paths[0] for paths in found if paths]


def run(folder: Path, notebook: Path, answer) -> None:
    """Run the code cells of a notebook against the package in ``folder``; send the first failure, or None."""
    os.chdir(folder / "notebooks")
    sys.path.insert(0, str(folder))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    warnings.simplefilter("ignore")
    names = {"__name__": "__main__"}
    cells = [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        try:
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
            if number == 1:
                assert Path(names["us"].__file__).is_relative_to(folder), "another unisat was imported"
        except BaseException as error:
            answer.send(f"cell {number}, {type(error).__name__}")
            break
    else:
        answer.send(None)
    os._exit(0)  # no waiting for threads


def check(folder: Path, notebook: Path) -> str | None:
    """Run a notebook in a process of its own, forked from this one, which has imported what is slow to import."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(folder, notebook, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(LONGEST) else f"no end after {LONGEST} s"
    except EOFError:
        return "it crashed"
    finally:
        process.kill()
        process.join()


def table(rows: list[tuple[Mutant, str]], files: list[str], ends_early: list[str]) -> str:
    """The page."""
    survived = [one for one, noticed in rows if not noticed]
    text = [
        "# Do the notebooks notice?",
        "",
        f"{len(rows)} changes of one operator each, {len(rows) - len(survived)} noticed by a notebook, "
        f"{len(survived)} survived. For each file the notebooks that are about it ran, in this order, up to the first "
        "that failed: " + "; ".join(f"`{file}`: {', '.join(FILES[file])}" for file in files) + ".",
        "",
    ]
    if ends_early:
        text += [f"These fail without any change, and so were compared up to there: {', '.join(ends_early)}.", ""]
    for title, wanted in (("Survived", False), ("Noticed", True)):
        chosen = [(one, noticed) for one, noticed in rows if bool(noticed) == wanted]
        text += [f"## {title}", ""]
        if not chosen:
            text += ["None.", ""]
            continue
        text += ["| where | function | from | to | noticed by |", "|---|---|---|---|---|"]
        for one, noticed in chosen:
            old, new = (line.replace("|", "\\|") for line in (one.before, one.after))
            text.append(f"| {one.file}:{one.line} | {one.function} | `{old}` | `{new}` | {noticed or '–'} |")
        text.append("")
    text += ["Written by `python benchmarks/mutations.py`.", ""]
    return "\n".join(text)


def main() -> None:
    """Make the mutants, run the notebooks, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="parts of file names")
    parser.add_argument("--limit", type=int, help="at most so many mutants of a file, spread over it")
    parser.add_argument("--write", type=Path, default=ROOT / "docs" / "mutations.md")
    parser.add_argument("--list", action="store_true", help="only list the mutants")
    options = parser.parse_args()
    files = [file for file in FILES if not options.only or any(part in file for part in options.only)]
    if options.list:
        for file in files:
            for one in mutants(file):
                print(f"{one.file}:{one.line} {one.before}  ->  {one.after}")
        return

    # imported once, inherited by every fork; not unisat, which is the mutant
    import matplotlib.backends.backend_agg
    import pandas
    import scipy.stats
    import sklearn.cluster
    import sklearn.discriminant_analysis
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    del matplotlib, pandas, scipy, sklearn

    rows, ends_early = [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        copy(folder)
        unchanged: dict[Path, str | None] = {}
        for file in files:
            original = (ROOT / file).read_bytes()
            chosen = mutants(file)
            step = max(1, -(-len(chosen) // options.limit)) if options.limit else 1
            asked = notebooks(FILES[file])
            for notebook in asked:
                if notebook not in unchanged:
                    said = unchanged[notebook] = check(folder, notebook)
                    ends_early += [] if said is None else [f"{notebook.stem} ({said})"]
                    print(f"{notebook.stem}: {said or 'runs'}", flush=True)
            for one in chosen[::step]:
                (folder / file).write_bytes(original[: one.start] + one.new.encode() + original[one.end :])
                noticed = ""
                for notebook in asked:
                    said = check(folder, notebook)
                    if said and said != unchanged[notebook]:
                        noticed = f"{notebook.stem}, {said}"
                        break
                rows.append((one, noticed))
                print(f"{one.file}:{one.line} {one.after}: {noticed or 'SURVIVED'}", flush=True)
                # after each, so that a run that is stopped leaves what it found
                options.write.write_text(table(rows, files, ends_early), encoding="utf-8")
            (folder / file).write_bytes(original)


if __name__ == "__main__":
    main()
