"""What the recipes train on: nobody who ships with the package, chooses or judges; and what is written about them."""

import re

import pandas as pd
import pytest
from conftest import ROOT

from unisat.cli import main
from unisat.training import heads, recipe
from unisat.training.data import manifest

SPEECH = ROOT.parent / "shared" / "speech"
RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*-[0-9].toml"))
LISTS = ("people", "development")


def listed(name):
    return pd.read_csv(ROOT / "data" / f"{name}.csv", dtype=str)


def test_there_are_recipes():
    assert RECIPES == ["hubert-2.toml", "lda-1.toml", "lda-2.toml", "sat-1.toml", "sat-2.toml"]


def test_the_lists_hold_whom_they_should():
    people, development = listed("people"), listed("development")
    assert not {*people["speaker"]} & {*development["speaker"]}
    assert len(people) >= 40
    counts = people["source"].value_counts()
    assert (counts["CSTR VCTK"], counts["LibriSpeech train-clean-100"] >= 16, counts["speechocean762"] >= 20) == (
        7,
        True,
        True,
    )
    assert abs((people["sex"] == "F").sum() - (people["sex"] == "M").sum()) <= 1
    assert len(development) == 20
    assert (development["sex"] == "F").sum() == 10
    for table in (people, development):
        assert table["speaker"].is_unique
        assert (table["timed_seconds"].astype(float) > 0).all()


@pytest.fixture(scope="module")
def trained():
    """Each recipe's training and validation speech."""
    if not SPEECH.exists():
        pytest.skip("the recorded speech is not here")
    found, read = {}, {}  # the recipes share most of their sources
    for name in RECIPES:
        data = recipe.read(ROOT / "recipes" / name).data
        for kind, sources in (("train", data.train), ("valid", data.valid)):
            tables = []
            for source in sources.values():
                if str(source) not in read:
                    read[str(source)] = manifest(**{**source, "source": _here(source["source"])}).table
                tables.append(read[str(source)])
            found[name, kind] = pd.concat(tables)[["path", "speaker"]]
    return found


def _here(source):
    return source if source == "builtin" else str(ROOT / source)


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_is_trained_on_that_judges_chooses_or_ships(trained, name):
    heard = trained[name, "train"]
    assert len(heard) > 8000
    whole = pd.read_csv(SPEECH / "metadata.csv")
    trials = pd.read_csv(SPEECH / "trials.csv")
    unseen = {*whole.loc[whole["split"] == "unseen", "speaker"]}
    assert len(unseen) == 36
    for speakers in (unseen, *({*listed(which)["speaker"]} for which in LISTS)):
        assert not {*heard["speaker"]} & speakers
    judged = {str((SPEECH / path).resolve()) for path in {*trials["enrol_path"], *trials["test_path"]}}
    assert len(judged) > 300
    assert not {*heard["path"]} & judged
    assert not any("fsdd" in path for path in heard["path"])
    held_out = whole[whole["split"].isin(["dev", "test"])]
    assert not {*heard["path"]} & {str((SPEECH / path).resolve()) for path in held_out["path"]}


@pytest.mark.parametrize("name", RECIPES)
def test_development_speakers_validate(trained, name):
    assert {*trained[name, "valid"]["speaker"]} == {*listed("development")["speaker"]}


def test_twins_differ_in_the_objective_alone():
    ours, twin = (recipe.read(ROOT / "recipes" / f"{name}-2.toml") for name in ("sat", "hubert"))
    objective = {f"model.{name}" for name in ("mixing_prob", "contrastive_loss_weight", "diversity_loss_weight")}
    changed = recipe.differences(ours, twin)
    assert set(changed) == {"out"} | objective
    assert all(changed[name][0] > 0 == changed[name][1] for name in objective)
    assert changed["out"] == ("build/sat/2", "build/hubert/2")


def test_a_recipe_begins_with_another(tmp_path):
    (tmp_path / "a.toml").write_text(
        'out = "a"\n[data.train.x]\nsource = "x.csv"\n[optimizer]\nsteps = 7\nwarmup_steps = 1\n'
    )
    (tmp_path / "b.toml").write_text(
        'base = "a.toml"\nout = "b"\n[optimizer]\nsteps = 9\n[data.train.x]\nsplit = "train"\n'
    )
    made = recipe.read(tmp_path / "b.toml", {"seed": 3})
    assert (made.out, made.seed, made.optimizer.steps, made.optimizer.warmup_steps) == ("b", 3, 9, 1)
    assert made.data.train == {"x": {"source": "x.csv", "split": "train"}}


@pytest.mark.parametrize(
    "wrong",
    [
        {"targets": {"mean_off": "sentence"}},
        {"targets": {"method": "guess"}},
        {"schedule": {"unmasked_fade": [0.5, 0.2]}},
        {"schedule": {"contrastive_ramp": [0.5]}},
        {"data": {"weights": {"y": 1.0}}},
        {"data": {"speaker_power": 2.0}},
        {"data": {"grid_seconds": 9.0}},
        {"augment": {"clean_prob": 1.5}},
        {"augment": {"noise_db": [3.0, 1.0]}},
        {"optimizer": {"betas": []}},
        {"optimizer": {"betas": [0.9]}},
        {"optimizer": {"betas": [0.9, 0.98, 0.99]}},
        {"optimizer": {"betas": [0.9, 1.0]}},
        {"optimizer": {"betas": [0.9, "0.98"]}},
        {"optimizer": {"learning_rate": float("inf")}},
        {"data": {"batch_seconds": float("nan")}},
        {"data": {"crop_seconds": float("inf")}},
        {"data": {"train": {"x": {"sauce": "x.csv"}}}},
        {"data": {"train": "x.csv"}},
        {"targets": {"clusters": 10**9}},
    ],
)
def test_what_no_run_can_be_made_of(wrong):
    whole = {"out": "a", "data": {"train": {"x": {"source": "x.csv"}}}}
    for part, values in wrong.items():
        whole[part] = {**whole.get(part, {}), **values}
    with pytest.raises(ValueError, match=next(iter(next(iter(wrong.values()))))):
        recipe.from_dict(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("run=[]", r"run=\[\] must be a table"),
        ("model=5", r"model=5 must be of type dict"),
        ("optimizer.steps.x=1", r"optimizer.steps.x=1 cannot be set: steps is 7, which has no parts"),
        ("data.train=5", r"data.train=5 must be of type dict"),
        ("data.train.x=5", r"data.train=.* must be of type dict"),
        ("optimizer.betas=5", r"optimizer.betas=5 must be of type list"),
        ("out=" + "[" * 5000, r"out|No such file|name too long"),
        ("init=5", r"init=5 must be of type str"),
    ],
)
def test_odd_settings_are_answered(tmp_path, capsys, change, message):
    (tmp_path / "a.toml").write_text(
        f'out = "{tmp_path}/a"\n[data.train.x]\nsource = "x.csv"\n[optimizer]\nsteps = 7\nwarmup_steps = 1\n'
    )
    with pytest.raises(SystemExit) as stopped:
        main(["pretrain", "--config", str(tmp_path / "a.toml"), "--set", change])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_files_that_are_no_recipe(tmp_path):
    whole = 'out = "ä"\n[data.train.x]\nsource = "x.csv"\n'
    file = tmp_path / "a.toml"
    file.write_text(whole, encoding="utf-8-sig")
    assert recipe.read(file).out == "ä"
    for kind in (recipe.Recipe, heads.HeadRecipe):
        for encoding in ("latin-1", "utf-16"):
            file.write_text(whole, encoding=encoding)
            with pytest.raises(ValueError, match=r"a.toml is not in UTF-8 .*; save it in UTF-8"):
                recipe.read(file, kind=kind)
        file.write_text("out = " + "[" * 100_000)
        with pytest.raises(ValueError, match=r"a.toml is not TOML"):
            recipe.read(file, kind=kind)
    for base in ('"a.toml"', "5"):
        file.write_text(f"base = {base}\n{whole}")
        with pytest.raises(ValueError, match=r"a.toml begins with base="):
            recipe.read(file)
