"""Run notebooks in fresh kernels and store their outputs, without what changes from run to run.

How many minutes a notebook took, rounded up, is written into its first cell, "1 to run"; the index reads it there.

Usage: python notebooks/store.py [notebook.ipynb …]   (all beside and below this file by default)
"""

import math
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def store(path: Path) -> None:
    """Execute a notebook in its own folder and write it back."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", store_widget_state=False)
    began = time.perf_counter()
    client.execute(cwd=path.parent)
    minutes, first = math.ceil((time.perf_counter() - began) / 60), notebook.cells[0]
    first.source = re.sub(r"\b\d+ to run\.", f"{minutes} to run.", first.source)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        for output in cell.get("outputs", []):
            # a live widget has no life in a file; its picture and its sentence stay
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for argument in sys.argv[1:] or sorted(FOLDER.glob("**/[0-9]*.ipynb")):
        sys.stdout.write(f"{Path(argument).name}\n")
        store(Path(argument))
