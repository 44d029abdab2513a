"""A JupyterLab for the session: unisat as a wheel brings it, copies of the notebooks, and nothing else of the clone.

But for a model that a notebook reads. Every test is skipped where there is no browser.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from lab import CHROMIUM, ROOT, Lab

try:
    import playwright  # noqa: F401
except ImportError:
    MISSING = "playwright is not installed: pip install --group test"
else:
    MISSING = "" if CHROMIUM else "no chromium on the PATH (apt install chromium, or set UNISAT_CHROMIUM)"


def pytest_collection_modifyitems(items):
    if MISSING:
        for item in items:
            if item.path.is_relative_to(ROOT / "tests" / "browser"):
                item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory):
    """Where the notebooks lie that the browser opens: copies, not to be harmed, and not in the clone."""
    folder = tmp_path_factory.mktemp("lab") / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    between = Path("recipes") / "interim" / "sat-1"  # notebook 6 has it between fresh weights and the built-in model
    shutil.copytree(ROOT / between, folder.parent / between)
    return folder


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """Where a wheel was unpacked, as an installation does it."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="session")
def lab(notebooks, installed, tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("server"), notebooks, PYTHONPATH=str(installed)) as running:
        yield running
