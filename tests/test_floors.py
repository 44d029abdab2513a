"""Imports only look down: what each module may import, read from its source."""

import ast
import importlib
import pydoc
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import unisat
from unisat.config import FAMILIES

PACKAGE = Path(unisat.__file__).parent
LOW = """acoustics audio checkpoint clusters conv_adapter fairseq fast feature_extraction group_norm inputs layer_norm
    layouts losses manifests masking mixing positions quantizer shortcuts tokenization""".split()
FLOOR = {
    **dict.fromkeys(["config", "configs", "deprecation", "files", "frames", "modules", "outputs", "precision"], 0),
    **dict.fromkeys(LOW, 1),
    **dict.fromkeys(["pretrained"], 1.5),
    **dict.fromkeys(["adapters"], 1.7),
    **dict.fromkeys(["model", "processing"], 2),
    **dict.fromkeys(["heads", "wavlm"], 2.5),
    **dict.fromkeys(["contrastive", "pretraining", "xvector"], 2.7),
    **dict.fromkeys(["family"], 2.8),
    **dict.fromkeys(["corpus", "segments", "zoo"], 3),
    **dict.fromkeys(["interpret.result", "interpret.statistics"], 3.1),
    **dict.fromkeys(["interpret.activations", "interpret.objective"], 3.2),
    **dict.fromkeys(["interpret.features", "interpret.masks"], 3.3),
    **dict.fromkeys(["interpret.interventions", "interpret.probing", "interpret.speakers"], 3.4),
    **dict.fromkeys(["interpret.layers", "interpret.units"], 3.5),
    **dict.fromkeys(["plots", "training"], 4),
    **dict.fromkeys(["cli", "widgets"], 5),
    **dict.fromkeys(["__main__"], 6),
}
PATHS = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
MODULES = [path for path in PATHS if path != PACKAGE / "interpret" / "__init__.py"]


def room(path):
    """A module's place in `FLOOR`: its folder, or itself; in `interpret` the folder or file inside."""
    return of_name(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def of_name(name):
    """The place of a dotted name without ``unisat.``."""
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "interpret" else 1])


def imported(path):
    """Dotted names of everything a module imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from ([f"unisat.{a.name}" for a in node.names] if node.module == "unisat" else [node.module])


def test_there_are_modules():
    assert len(MODULES) >= 15
    assert {room(path) for path in MODULES} == set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(PACKAGE)) for path in MODULES])
def test_imports_only_look_down(path):
    names = [of_name(name.removeprefix("unisat.")) for name in imported(path) if name.startswith("unisat.")]
    upward = [
        n for n in names if FLOOR[n] > FLOOR[room(path)] or (FLOOR[n] == FLOOR[room(path)] >= 2 and n != room(path))
    ]
    assert not upward, f"{room(path)} (floor {FLOOR[room(path)]}) imports {upward}"


@pytest.mark.parametrize("path", [p for p in MODULES if FLOOR[room(p)] < 4], ids=lambda p: p.name)
def test_the_mathematics_draws_nothing(path):
    drawn = [name for name in imported(path) if name.split(".")[0] in ("matplotlib", "ipywidgets", "IPython")]
    assert not drawn


def test_training_watches_nothing():
    paths = [path for path in MODULES if room(path) in ("training", "cli")]
    assert len(paths) >= 6
    names = [name.split(".")[1] for path in paths for name in imported(path) if name.startswith("unisat.")]
    assert not set(names) & {"interpret", "plots", "widgets"}


MEASURED = {"Comparison", "Strip", "Trace", "over_frames", "rms_norms"}
"""What plots take from `interpret`: types, and what turns a result into the numbers of its picture."""

STATISTICS = set(
    "bincount corrcoef cov einsum exp histogram log mean median norm quantile softmax sqrt std var".split()
)


def test_plots_draw_what_interpret_has_measured():
    for path in [path for path in MODULES if room(path) == "plots"]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        taken = {name.name for node in froms if "interpret" in str(node.module) for name in node.names}
        assert taken <= MEASURED, path
        assert not {str(node.module).split(".")[0] for node in froms} & {"scipy", "sklearn"}, path


def test_widgets_compute_no_statistics():
    paths = [path for path in MODULES if room(path) == "widgets" and path.name not in ("_picture.py", "_scene.py")]
    assert len(paths) >= 10
    for path in paths:
        calls = [
            node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
        ]
        assert not {one.attr for one in calls if isinstance(one, ast.Attribute)} & STATISTICS, path


def test_plots_know_no_widgets():
    paths = [path for path in MODULES if room(path) == "plots"]
    assert paths
    assert not [name for path in paths for name in imported(path) if name.startswith("ipywidgets")]


@pytest.mark.parametrize("name", ["plots", "widgets"])
def test_a_face_shows_functions_and_the_rooms_behind_it_are_private(name):
    face = getattr(unisat, name)
    assert [path.name for path in (PACKAGE / name).glob("*.py") if not path.name.startswith("_")] == []
    assert not [shown for shown in face.__all__ if isinstance(getattr(face, shown), ModuleType)]
    for old in [key for key in sys.modules if key.startswith(f"unisat.{name}.")]:
        assert isinstance(importlib.import_module(old), ModuleType)
    assert dir(face) == sorted(face.__all__)


def test_a_subject_has_one_name_from_plots_to_widgets():
    rooms = [{path.name for path in (PACKAGE / name).glob("_[a-z]*.py")} for name in ("plots", "widgets")]
    assert rooms[1] - rooms[0] == {
        "_choices.py",
        "_picture.py",
        "_scene.py",
        "_stage.py",
    }  # what all widgets are made of


def test_every_public_name_is_there():
    for face in (unisat, unisat.interpret):
        assert len(dir(face)) >= 15
        for name in dir(face):
            assert getattr(face, name) is not None
    with pytest.raises(AttributeError, match="No unisat attribute Modell"):
        unisat.Modell  # noqa: B018


def test_help_fits_on_a_screen_and_names_everything():
    text = pydoc.plain(pydoc.render_doc(unisat))
    introduction = text[: text.index("PACKAGE CONTENTS")].splitlines()
    assert len(introduction) <= 40
    assert len(text.splitlines()) <= 100
    classes = [name for name in dir(unisat) if name.startswith(("Auto", *FAMILIES.values()))]
    assert len(classes) >= 40
    words = set(re.findall(r"\w+", "\n".join(introduction)))
    assert not set(dir(unisat)) - {*words, *classes}
