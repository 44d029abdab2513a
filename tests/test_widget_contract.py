"""What every widget does: each control moves the picture and back, mistakes become messages, nothing is left."""

import gc
import sys
import weakref
from types import SimpleNamespace

import pytest
from ipywidgets.widgets.widget import _instances
from shown import sounds
from widget_cases import CASES, model, pretraining

from unisat import widgets
from unisat.interpret.interventions.intervene import active_scopes
from unisat.widgets._picture import Refusal


@pytest.fixture(scope="module")
def tried(request):
    """A widget as its case begins, one for all tests of it; the last of them closes it."""
    before, case = set(_instances), CASES[request.param]
    tried = SimpleNamespace(view=case.make(), case=case, before=before)
    assert tried.view.error is None, tried.view.error
    tried.view.set(**case.start)
    tried.start = {name: control.value for name, control in tried.view.controls.items()}
    yield tried
    if tried.view is not None:
        tried.view.close()


def shown(view):
    """Everything that a reader sees and hears."""
    heard = [(label, samples.tobytes()) for label, samples in sounds(view).items()]
    return view.png, view.caption, view.stage.extra, view.stage.alert, view.stage.scene, view.stage._arrays, heard


def test_every_widget_is_tried():
    assert set(CASES) == set(widgets.__all__)
    assert sum(len(case.moves) for case in CASES.values()) >= 45
    assert sum(bool(case.mistakes) for case in CASES.values()) >= 6
    assert sum(case.refused is not None for case in CASES.values()) >= 8


@pytest.mark.parametrize("tried", CASES, indirect=True, scope="module")
class TestContract:
    def test_it_begins_with_a_picture_in_words(self, tried):
        view = tried.view
        assert set(view.controls) == set(tried.case.moves)
        assert view.png.startswith(b"\x89PNG")
        assert view.stage.names == list(view.stage._arrays)
        assert len(view.caption) > 40
        assert view.stage.alt == view.caption == view._repr_mimebundle_()["text/plain"]
        assert view.stage.alert == ""
        assert "<1>" not in view.stage.extra  # of a name from outside
        assert all(label for label in sounds(view))

    def test_each_control_changes_the_picture_and_comes_back(self, tried):
        view, before = tried.view, shown(tried.view)
        for control, value in tried.case.moves.items():
            view.controls[control].value = value
            assert view.error is None, control
            assert view.png != before[0], control
            assert (view.stage.scene, view.stage._arrays) != before[4:6], control  # the page shows it, too
            view.set(**tried.start)
            assert shown(view) == before, control  # changed in place: nothing of another state may stay

    def test_a_mistake_becomes_a_message_and_is_forgiven(self, tried):
        view, before = tried.view, shown(tried.view)
        for values, words in tried.case.mistakes:
            view.set(**values)
            assert isinstance(view.error, ValueError)
            assert words in view.stage.alert
            assert "Traceback" not in view.stage.alert
            assert view.stage.alert.endswith("The picture still shows what was there before.")
            assert (view.png, view.caption) == before[:2]
            view.set(**tried.start)
            assert shown(view) == before

    def test_nothing_is_left_after_closing(self, tried):
        view, control = tried.view, next(iter(tried.case.moves))
        gone = [weakref.ref(one) for one in (view, view.figure, view.figure.axes[0], view.stage)]
        moved, png = view.controls[control], view.png
        view.close()
        view.close()  # twice does no harm
        assert set(_instances) == tried.before  # no control, layout or style, and with them no comm
        assert view.comm is None
        moved.value = tried.case.moves[control]
        assert view.png == png  # nobody observes
        for one in (model(), pretraining()):
            assert not any(part._forward_hooks or part._forward_pre_hooks for part in one.modules())
        assert active_scopes().empty
        pyplot = sys.modules.get("matplotlib.pyplot")
        assert pyplot is None or pyplot.get_fignums() == []
        tried.view = view = None
        gc.collect()
        assert [one() for one in gone] == [None] * 4


@pytest.mark.wrong_types
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.refused])
def test_what_cannot_be_shown_is_said_in_the_widget(name):
    make, words = CASES[name].refused
    before = set(_instances)
    refused = make()
    assert isinstance(refused, Refusal)
    assert isinstance(refused.error, ValueError)
    assert words in refused.stage.alert
    assert refused.caption == refused.stage.alert
    refused.close()
    assert set(_instances) == before
