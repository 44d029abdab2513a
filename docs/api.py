"""Write the API reference from the docstrings into build/docs: python docs/api.py."""

import pkgutil
import warnings
from pathlib import Path

import pdoc

import unisat

TARGET = Path(__file__).resolve().parents[1] / "build" / "docs"


def modules() -> list[str]:
    """Name every public module that pdoc does not find by itself, which follows ``__all__``."""
    named = ["unisat"]
    for one in pkgutil.walk_packages(unisat.__path__, "unisat."):
        if "._" not in one.name and one.name not in pdoc.extract.walk_specs(named):
            named.append(one.name)
    return named


if __name__ == "__main__":
    # a named tuple's shapes are strings that pdoc cannot look up; it prints them as they stand
    warnings.filterwarnings("ignore", "Error parsing type annotation")
    unisat.__all__ = dir(unisat)  # pdoc shows these on the first page
    pdoc.render.configure(docformat="numpy", footer_text=f"unisat {unisat.__version__}")
    pdoc.pdoc(*modules(), output_directory=TARGET)
