"""What a user gets: a wheel that works away from the clone, a core without extras, an import that is quick."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import unisat

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
CORE = PROJECT["project"]["dependencies"]

pytestmark = pytest.mark.runs_once


def python(code, folder, *options, **environment):
    """Run code in a new process in another folder, and give what it prints."""
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def closure(requirements):
    """Names of all that these requirements bring along, as far as it is installed here."""
    found, waiting = set(), [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        wanted = {"", *requirement.extras}
        if name == "unisat":
            waiting += [(Requirement(text), "") for extra in requirement.extras for text in EXTRAS[extra]]
        elif not {(name, extra) for extra in wanted} <= found:
            found |= {(name, extra) for extra in wanted}
            try:
                further = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            waiting += [(Requirement(text), extra) for text in further for extra in wanted]
    return {name for name, _ in found}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Run code where unisat's own requirements are installed and no extra: links to what is installed here."""
    site = tmp_path_factory.mktemp("site")
    for name in closure(CORE):
        package = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in package.files if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(package.locate_file(top))
    # without `site`, Python does not look into the folder where the extras lie
    return lambda code: python(code, site, "-S", PYTHONPATH=os.pathsep.join([str(site), str(ROOT)]))


def test_a_wheel_brings_the_speech_the_checkpoint_and_the_types(tmp_path):
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert not [name for name in names if name.startswith(("tests", "notebooks", "data"))]
        assert {"unisat/py.typed", "unisat/checkpoints/tiny/model.safetensors"} <= set(names)
        assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = Parser().parsestr(archive.read(metadata).decode())
        archive.extractall(tmp_path / "site")
    assert about["Version"] == unisat.__version__
    assert set(about.get_all("Provides-Extra")) == {"all", "hub", "notebook", "train", "umap", "widgets"}
    assert wheel.stat().st_size < 30e6
    assert {"unisat/people/segments.csv", "unisat/people/LICENSES/CC-BY-4.0.txt"} <= set(names)
    code = (
        "import unisat as us; c = us.corpus.builtin(); print(us.__file__, len(c), len(c.batch([0, 287])));"
        "print(len(us.corpus.people().batch([0, 265])), len(us.Segments.people().ids))"
    )
    file, utterances, read, people, timed = python(code, tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert (people, timed) == ("2", "266")
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


def test_without_extras_one_measures_and_each_lack_names_its_extra(alone):
    code = f"""if True:
        import importlib, importlib.util, json, pkgutil
        import torch
        import unisat as us

        absent = ["IPython", "accelerate", "anywidget", "huggingface_hub", "ipywidgets", "pyarrow", "umap"]
        assert not [name for name in absent if importlib.util.find_spec(name)]
        for module in pkgutil.walk_packages(us.__path__, "unisat."):
            if not module.name.startswith(("unisat.__main__", "unisat.widgets")):
                importlib.import_module(module.name)
        from unisat import clusters
        from unisat.training import data, loop, recipe

        corpus = us.corpus.builtin().where(sentence=["s01", "s02", "s03"])
        asked = dict(baselines=["logmel"], max_seconds=0.3, progress=False)
        bank = us.collect(us.load("tiny"), corpus, "hidden.1", **asked)
        report = us.probe_layers(bank, "speaker", groups="sentence", controls="logmel", progress=False)
        assert len(report.table()) and report.plot().lines
        assert len(clusters.fit(torch.eye(3), 2).centroids) == 2
        open("table.parquet", "w").close()

        def lack(use):
            try:
                use()
            except ImportError as error:
                return str(error)

        print(json.dumps([
            lack(lambda: us.widgets),
            lack(lambda: us.UniSpeechSatModel.from_pretrained("someone/sat")),
            lack(lambda: us.embed(bank, "hidden.1", method="umap")),
            lack(lambda: loop.pretrain(recipe.read({str(ROOT / "recipes" / "sat-1.toml")!r}))),
            lack(lambda: loop.Log(loop.Path("run"), 0, tensorboard=True)),
            lack(lambda: data.manifest("table.parquet")),
        ]))
    """
    messages = json.loads(" ".join(alone(code)))
    named = [re.fullmatch(r".+: pip install 'unisat\[(\w+)\]'\.", message)[1] for message in messages]
    assert named == ["widgets", "hub", "umap", "train", "train", "train"]


TEXTS = ["*.md", "Makefile", "binder/*", "docs/*.md", "notebooks/**/*.ipynb", "notebooks/*.md", "unisat/**/*.py"]


def test_every_extra_that_is_named_exists():
    named = {}
    for file in (file for pattern in TEXTS for file in ROOT.glob(pattern)):
        for extras in re.findall(r"""(?:unisat|['"]\.)\[([a-z,]+)\]""", file.read_text(encoding="utf-8")):
            named |= dict.fromkeys(extras.split(","), file.name)
    assert {"hub", "notebook", "train", "umap", "widgets"} <= set(named)
    assert not {extra: file for extra, file in named.items() if extra not in EXTRAS}


def test_all_that_can_be_installed_is_pinned():
    groups = [text for group in PROJECT["dependency-groups"].values() for text in group if isinstance(text, str)]
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
    pinned = {canonicalize_name(pin.name): pin.specifier for pin in pins}
    for text in [*CORE, *groups, *(text for extra in EXTRAS.values() for text in extra)]:
        wanted = Requirement(text)
        if wanted.name != "unisat":
            (pin,) = pinned[canonicalize_name(wanted.name)]
            assert wanted.specifier.contains(pin.version), f"{text} and {pin} exclude each other"
    installed = closure([*CORE, *groups, "unisat[all]"])
    # environments bring setuptools along, or take any
    assert installed - set(pinned) <= {"setuptools"}
