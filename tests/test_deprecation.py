"""Old names warn, say what they are called now, and give the same things."""

import importlib
import inspect
import pickle
import sys

import pytest

from unisat.deprecation import OldModule, moved, renamed

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
