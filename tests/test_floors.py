"""Imports only look down: what each module may import, read from its source."""

import ast
from pathlib import Path

import pytest

import unisat

PACKAGE = Path(unisat.__file__).parent
LOW = """acoustics audio checkpoint clusters fairseq fast feature_extraction group_norm inputs losses masking mixing
    quantizer shortcuts tokenization""".split()
FLOOR = {
    **dict.fromkeys(["config", "deprecation", "files", "frames", "modules", "outputs", "precision"], 0),
    **dict.fromkeys(LOW, 1),
    **dict.fromkeys(["pretrained"], 1.5),
    **dict.fromkeys(["adapters"], 1.7),
    **dict.fromkeys(["model", "processing"], 2),
    **dict.fromkeys(["heads"], 2.5),
    **dict.fromkeys(["pretraining", "xvector"], 2.7),
    **dict.fromkeys(["corpus", "zoo"], 3),
    **dict.fromkeys(["interpret.result", "interpret.statistics"], 3.1),
    **dict.fromkeys(["interpret.activations", "interpret.objective"], 3.2),
    **dict.fromkeys(["interpret.features"], 3.3),
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


def test_plots_know_no_widgets():
    paths = [path for path in MODULES if room(path) == "plots"]
    assert paths
    assert not [name for path in paths for name in imported(path) if name.startswith("ipywidgets")]


def test_every_public_name_is_there():
    assert set(unisat.__all__) == set(unisat._HOME)
    for name in unisat.__all__:
        assert getattr(unisat, name) is not None
    assert set(unisat.__all__) <= set(dir(unisat))
    with pytest.raises(AttributeError, match="no attribute 'Modell'; it has .*Batch"):
        unisat.Modell  # noqa: B018
