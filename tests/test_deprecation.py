"""Old names warn, say what they are called now, and give the same things."""

import importlib
import inspect
import pickle
import re
import sys

import numpy as np
import pandas as pd
import pytest

from unisat.deprecation import OldModule, moved, renamed
from unisat.interpret.features.bank import FeatureBank

pytestmark = pytest.mark.runs_once

for package in ("unisat.interpret", "unisat.plots", "unisat.widgets"):
    importlib.import_module(package)
OLD = sorted(name for name, module in sys.modules.items() if isinstance(module, OldModule))
ROOMS = {"unisat.interpret.layers": "over_time", "unisat.interpret.units": "clusters"}


def test_there_are_old_paths():
    assert len(OLD) >= 60
    assert {"unisat.interpret.bank", "unisat.plots.attribution", "unisat.widgets.mask_view"} <= set(OLD)


def gives_what_moved(old, homes):
    module, found = importlib.import_module(old), 0
    for home in map(importlib.import_module, homes):
        for name, value in inspect.getmembers(home):
            if getattr(value, "__module__", None) == home.__name__ and not name.startswith("_"):
                with pytest.warns(DeprecationWarning, match=rf"{old}\.{name} is now unisat\.[\w.]+\.{name};"):
                    assert getattr(module, name) is value
                found += 1
    assert found


@pytest.mark.parametrize("old", OLD)
def test_an_old_path_gives_what_moved(old):
    gives_what_moved(old, sys.modules[old].homes)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_that_was_a_module_gives_what_it_held(room):
    gives_what_moved(room, [f"{room}.{ROOMS[room]}"])


def test_the_warning_is_at_the_line_that_uses_the_name():
    with pytest.warns(DeprecationWarning, match="is now") as caught:
        from unisat.interpret.bank import FeatureBank  # noqa: F401
    assert {warning.filename for warning in caught} == {__file__}
    with pytest.warns(DeprecationWarning, match="is now") as caught:
        renamed("unisat.x", {"old": "unisat.frames.hop"})("old")
    assert {warning.filename for warning in caught} == {__file__}


RENAMED = {
    "unisat.interpret.speakers.maps.again": "unisat.interpret.speakers.xvectors.collect_like",
    "unisat.interpret.speakers.maps.neighbours": "unisat.interpret.speakers.maps.nearest_utterances",
    "unisat.interpret.speakers.maps.xvectors": "unisat.interpret.speakers.xvectors.xvectors",
    "unisat.interpret.embedding.neighbours": "unisat.interpret.speakers.maps.nearest_utterances",
    "unisat.interpret.embedding.again": "unisat.interpret.speakers.xvectors.collect_like",
    "unisat.interpret.features.collect.fresh": "unisat.interpret.features.collect.untrained_twin",
    "unisat.interpret.collect.fresh": "unisat.interpret.features.collect.untrained_twin",
    "unisat.training.checkpoints.whole_folder": "unisat.files.whole_folder",
}


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_gives_what_has_a_new_one(old):
    module, _, name = old.rpartition(".")
    home, _, new = RENAMED[old].rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"{re.escape(old)} is now {re.escape(RENAMED[old])};") as caught:
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(home), new)
    assert {warning.filename for warning in caught} == {__file__}


def test_an_old_attribute_and_an_old_keyword_give_the_new_ones():
    table, arrays = pd.DataFrame({"id": ["a"]}), {"hidden.0": np.ones((1, 2))}
    with pytest.warns(DeprecationWarning, match=r"about= of FeatureBank\.from_arrays is now settings=;") as caught:
        bank = FeatureBank.from_arrays(table, arrays, about={"model": "m"})
    assert {warning.filename for warning in caught} == {__file__}
    assert bank.settings == {"model": "m"}
    with pytest.warns(DeprecationWarning, match=r"FeatureBank\.about is now FeatureBank\.settings;") as caught:
        assert bank.about is bank.settings
    assert {warning.filename for warning in caught} == {__file__}
    with pytest.warns(DeprecationWarning, match=r"about= of FeatureBank\.__init__ is now settings=;") as caught:
        assert FeatureBank(table, bank._parts, about={"seed": 1}).settings == {"seed": 1}
    assert {warning.filename for warning in caught} == {__file__}


def test_what_a_package_shows_is_said_to_be_there():
    style = importlib.import_module("unisat.plots.style")
    with pytest.warns(DeprecationWarning, match=r"plots\.style\.CLASSES is now unisat\.plots\.CLASSES;"):
        assert style.CLASSES is importlib.import_module("unisat").plots.CLASSES
    with pytest.warns(DeprecationWarning, match=r"plots\.style\.cells is now unisat\.plots\._style\.cells;"):
        assert style.cells([0.1], 1)
    assert importlib.import_module("unisat").plots.style is style  # as an attribute too, as an import would leave it


def test_names_that_never_were_are_refused():
    with pytest.raises(AttributeError, match=r"no attribute 'Bonk'; its contents are now in unisat\.frames"):
        moved("unisat.old", "unisat.frames")("Bonk")
    with pytest.raises(AttributeError, match=r"'unisat\.x' has no attribute 'other'"):
        renamed("unisat.x", {"old": "unisat.frames.hop"})("other")
    with pytest.raises(ImportError, match="cannot import name 'Bonk'"):
        from unisat.interpret.bank import Bonk  # noqa: F401


def test_a_renamed_function_warns():
    with pytest.warns(DeprecationWarning, match=r"unisat\.x\.old is now unisat\.frames\.hop; the old name goes"):
        given = renamed("unisat.x", {"old": "unisat.frames.hop"})("old")
    assert given is importlib.import_module("unisat.frames").hop


def test_pickles_made_at_old_paths_load():
    text = b"cunisat.interpret.bank\nFeatureBank\n."  # protocol 0: the name of a class alone
    with pytest.warns(DeprecationWarning, match="is now"):
        assert pickle.loads(text) is importlib.import_module("unisat.interpret.features.bank").FeatureBank
