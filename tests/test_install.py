"""What a user gets: a wheel that works away from the clone, and an import that does not keep one waiting."""

import os
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

pytestmark = pytest.mark.runs_once


def python(code, folder, **environment):
    """Run code in a new process in another folder, and give what it prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_wheel_brings_the_speech(tmp_path):
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.startswith(("tests", "notebooks", "data"))]
        archive.extractall(tmp_path / "site")
    code = "import unisat as us; c = us.corpus.builtin(); print(us.__file__, len(c), len(c.batch([0, 287])))"
    file, utterances, read = python(code, tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert file == str(tmp_path / "site" / "unisat" / "__init__.py")
    assert (utterances, read) == ("288", "2")


def test_importing_the_model_loads_no_plots_no_tables_and_no_compiler(tmp_path):
    code = (
        "import sys, torch; before = set(sys.modules); import unisat; unisat.UniSpeechSatModel;"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before});"
        "print('dynamo' if 'torch._dynamo' in sys.modules else '')"
    )
    loaded = python(code, tmp_path)
    assert "unisat" in loaded
    assert not {"matplotlib", "pandas", "scipy", "sklearn", "ipywidgets", "IPython", "dynamo"} & set(loaded)
