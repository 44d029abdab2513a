"""When a fast way is tried: the decorator, the plain scope, and who watches."""

import threading

import pytest
from torch import nn
from torch.nn.modules import module as torch_module

import unisat
from unisat import shortcuts
from unisat.shortcuts import sooner, watched


def half(number, digits=1):
    return NotImplemented if number % 2 else ("fast", number // 2, digits)


@sooner(half)
def divided(number, digits=1):
    """Half a number."""
    return "plain", round(number / 2, digits), digits


class Divider:
    @sooner(lambda self, number: NotImplemented)
    @sooner(lambda self, number: None if number == 0 else NotImplemented)
    def divide(self, number):
        return self, number / 2


def test_the_fast_way_is_tried_first_and_gets_the_same_arguments():
    assert divided(4) == ("fast", 2, 1)
    assert divided(4, digits=3) == ("fast", 2, 3)
    assert divided(5) == ("plain", 2.5, 1)
    assert divided(5, digits=0) == ("plain", 2.0, 0)
    assert (divided.__name__, divided.__doc__) == ("divided", "Half a number.")
    divider = Divider()
    assert divider.divide(3) == (divider, 1.5)
    assert divider.divide(0) is None  # an answer like any other
    assert vars(divider) == {}
    with pytest.raises(TypeError):
        divided("four", 1)


def test_plain_is_undone():
    assert shortcuts.allowed()
    with pytest.raises(ZeroDivisionError), shortcuts.plain():
        with shortcuts.plain():
            assert not shortcuts.allowed()
        assert not shortcuts.allowed()
        1 / 0  # noqa: B018
    assert shortcuts.allowed()


def test_plain_holds_in_its_own_thread_alone():
    seen = []
    with shortcuts.plain():
        thread = threading.Thread(target=lambda: seen.append(shortcuts.allowed()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_compiled_code_takes_only_what_suits_it(monkeypatch):
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    assert not shortcuts.allowed()
    assert shortcuts.allowed(compiled=True)


@pytest.mark.parametrize("name", ["forward_pre_hook", "forward_hook", "full_backward_pre_hook", "full_backward_hook"])
def test_who_watches(name):
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert not watched()
    assert not watched(one, other)
    handle = getattr(other, f"register_{name}")(lambda *_: None)
    assert watched(one, other)
    assert not watched(one)
    handle.remove()
    assert not watched(one, other)
    handle = getattr(torch_module, f"register_module_{name}")(lambda *_: None)
    assert watched(one)
    handle.remove()
    assert not watched(one)


def test_a_forward_in_place_of_the_class_s_counts_as_a_hook():
    module = nn.Linear(2, 2)
    module.forward = lambda values: values
    assert watched(module)
    del module.forward
    assert not watched(module)


def test_old_names_warn_and_lead_to_the_new_ones():
    for name in ("bit_sum", "Folded", "Linear", "linear", "kept_spectrum", "fold_group_norm"):
        home = unisat.modules if name == "bit_sum" else unisat.fast
        with pytest.warns(DeprecationWarning, match=f"unisat.shortcuts.{name} is now {home.__name__}.{name}"):
            assert getattr(shortcuts, name) is getattr(home, name)
    with pytest.raises(AttributeError, match="has no attribute 'quicker'"):
        shortcuts.quicker  # noqa: B018
