"""What every widget is made of: controls, one picture with a caption, and sounds to play.

A page that has nothing to do asks ahead for what neighbouring values of a control would show. A `_Double` of the widget
draws that in a figure of its own, so that the widget, its figure and its controls stay as they are.
"""

from __future__ import annotations

import ast
import base64
import functools
import inspect
import io
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from types import FunctionType, SimpleNamespace
from typing import Any, ParamSpec

import ipywidgets
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from unisat.frames import SAMPLE_RATE
from unisat.plots._show import fewer_colours, wav
from unisat.widgets._scene import Scene, content_name
from unisat.widgets._stage import LIMIT, Stage, Upload

LOCK = threading.RLock()
"""Held while a widget draws: newer kernels run callbacks in a thread of their own, even while a cell runs."""

DPI = 100
TYPES = {"png": "image/png", "svg": "image/svg+xml", "csv": "text/csv"}


def new_figure(width: float, height: float, *, right: float = 1.0) -> Figure:
    """Figure of ``width`` by ``height`` inches without pyplot; axes fill it up to ``right`` of its width."""
    layout = ConstrainedLayoutEngine(rect=(0, 0, right, 1))
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def control(kind: type[ipywidgets.Widget], name: str, tooltip: str, **settings: Any) -> ipywidgets.Widget:
    """Make a control that shows its whole name."""
    made = kind(description=name, tooltip=tooltip, style={"description_width": "initial"}, **settings)
    # this class gives margins, and the view of a SelectionSlider lacks it
    return made.add_class("jupyter-widgets")


@dataclass(frozen=True)
class Sound:
    """What to play: 16 kHz ``samples`` that begin at ``start`` seconds of the picture's time axes."""

    samples: Float[Tensor, " samples"]
    start: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Look:
    """One state of a widget, in words and sounds; the picture is the widget's figure.

    Attributes
    ----------
    caption : str
        What the picture shows, with its numbers: also the text for those who do not see the picture, and what remains
        of the widget where none can run.
    sounds : mapping of str to Sound or (samples,)
        What to play, by name, at 16 kHz.
    html : str
        What stands below, such as a table; text from outside is escaped in it.
    """

    caption: str
    sounds: Mapping[str, Sound | Float[Tensor, " samples"]] = field(default_factory=dict)
    html: str = ""


class Picture(ipywidgets.VBox):
    """Controls above a picture that follows them; the base of every widget here.

    A subclass sets ``figure`` and defines ``look``, which takes the value of each control by name, changes the
    figure and returns a `Look`. The page draws the figure (`unisat.widgets._scene.Scene`). If ``look`` raises an
    exception, the widget shows it, because a notebook would not, and keeps it as ``error``. A saved notebook keeps the
    picture, as matplotlib draws it, and the caption.

    Where the first ``look`` makes the figure, the page asks ahead for neighbouring values. A subclass names in
    ``waits`` the controls of which it must not: those whose look takes long, or that move others.

    A subclass may define ``clicked(ax, x, y)`` and ``lassoed(ax, vertices)``, which get the data coordinates that the
    reader points at.

    Attributes
    ----------
    controls : dict of str to ipywidgets.Widget
        The controls by their names; setting ``.value`` does what moving the control does.
    png : bytes
        The picture that is shown, as a PNG file; empty before the first one.
    caption : str
        What the picture shows, with its numbers; in ``stage`` the alternative text as well.
    error : Exception or None
        The exception of the last redraw.
    """

    look: Callable[..., Look]
    clicked: Callable[[Axes, float, float], None] | None = None
    lassoed: Callable[[Axes, Float[np.ndarray, "vertices 2"]], None] | None = None
    table: pd.DataFrame
    maker = ""
    waits: tuple[str, ...] = ()

    def __init__(self, *controls: ipywidgets.Widget) -> None:
        super().__init__()
        self._source = _close_previous_run(self)
        self.controls = {one.description: one for one in controls}
        self._initial = {name: one.value for name, one in self.controls.items() if not isinstance(one, Upload)}
        self.figure: Figure | None = None
        self.caption = ""
        self.error: Exception | None = None
        self._png: bytes | None = b""
        self._timed: tuple[Axes, ...] = ()
        self._laid_out: Figure | None = None
        self._held = 0
        self._noted = False
        self._drawing: dict[str, Any] | None = None
        self.stage = Stage(picks=self.clicked is not None, lasso=self.lassoed is not None, controls=list(controls))
        self.stage.on_msg(self._told)
        row = ipywidgets.HBox(controls, layout={"flex_flow": "row wrap"})
        self.children = (row, self.stage)
        self.add_class("unisat")
        for one in controls:
            one.observe(self.redraw, "value")

    @property
    def sentence(self) -> str:
        """The caption under its old name."""
        warnings.warn("sentence is now caption; the old name goes in the next release.", DeprecationWarning, 2)
        return self.caption

    @property
    def png(self) -> bytes:
        """The picture as a PNG file, drawn when it is asked for."""
        if self._png is None:
            self._png = self._file("png")
        return self._png

    def redraw(self, change: object = None) -> None:
        """Show what the controls ask for."""
        if not self._held:
            self.show(lambda: self.look(**{name: one.value for name, one in self.controls.items()}))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Draw nothing while controls are moved inside this scope."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def set(self, **values: Any) -> None:
        """Move several controls at once, with one redraw."""
        with self.held():
            for name, value in values.items():
                self.controls[name].value = value
        self.redraw()

    def at(self, **values: Any) -> Picture:
        """Move several controls at once, and give the widget; what `as_code` writes."""
        self.set(**values)
        return self

    def reset(self) -> None:
        """Put every control back to where it was when the widget was made."""
        self.set(**self._initial)

    def as_code(self) -> str:
        """Python that makes this widget, as its cell did, with the controls as they are now."""
        call = f"us.widgets.{self.maker}(...)"
        with suppress(SyntaxError):
            calls = [one for one in ast.walk(ast.parse(self._source)) if isinstance(one, ast.Call)]
            mine = [one for one in calls if getattr(one.func, "attr", getattr(one.func, "id", "")) == self.maker]
            call = ast.unparse(mine[-1]) if mine else call
        moved = {
            name: self.controls[name].value
            for name, value in self._initial.items()
            if self.controls[name].value != value
        }
        if not moved:
            return call
        if all(name.isidentifier() for name in moved):
            return f"{call}.at({', '.join(f'{name}={value!r}' for name, value in moved.items())})"
        return f"{call}.at(**{moved!r})"

    def first(self) -> None:
        """Draw for the first time; only here an exception is raised."""
        self.redraw()
        if self.error is not None:
            self.close()
            raise self.error
        if self._drawing and "figure" in self._drawing:
            asked = self._initial.keys() - {*self.waits}
            self.stage.ahead = [place for place, name in enumerate(self.controls) if name in asked]

    def timed(self, *axes: Axes) -> None:
        """Name the axes with seconds along x: there a line follows the pointer and the sound, and a click seeks."""
        self._timed = axes

    def play(self) -> None:
        """Play the first sound from its beginning; call it after the redraw that brings the sound."""
        self.stage.play += 1

    def show(self, make: Callable[[], Look]) -> None:
        """Show the state that ``make`` leaves in ``figure``, or the exception that it raises.

        Warnings become part of the caption: a notebook shows neither those nor exceptions of a callback.
        """
        # autograd is switched off per thread: a no_grad in a cell of the notebook does not reach here
        with LOCK, torch.no_grad(), self._at_work():
            before = dict(self.__dict__)
            try:
                with warnings.catch_warnings(record=True) as notes:
                    warnings.simplefilter("always")
                    look = make()
                    scene = self._scene()
            except Exception as error:
                self.error = error
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                stale = " The picture still shows what was there before." if self.stage.scene else ""
                self.stage.alert = f"{kind}{error}{stale}"
                return
            if self._drawing is None:  # what a look sets, as it was before the first one
                self._drawing = {k: before.get(k) for k, one in vars(self).items() if before.get(k) is not one}
            self.error, self.caption = None, " ".join([look.caption, *(str(note.message) for note in notes)])
            self._png = None if self.figure is not None else b""
            self._noted = bool(notes)
            with self.stage.hold_sync():
                if scene is not None:
                    self.stage.draw(scene)
                self.stage.alt, self.stage.alert, self.stage.extra = self.caption, "", look.html
                self.stage.buttons = self._buttons()
            # sounds come after the picture, which the reader waits for
            sounds = [_sound(name, one) for name, one in look.sounds.items()]
            with self.stage.hold_sync():
                self.stage.sounds, self.stage.shown = sounds, [self.stage.shown[0] + 1, self._state()]

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self.stage.busy = True
        try:
            yield
        finally:
            self.stage.busy = False

    def _scene(self) -> Scene | None:
        if self.figure is None:
            return None
        if self.figure is not self._laid_out:
            self._lay_out(self.figure)
            # the layout is solved once: axes that shift at every redraw are hard to compare, and slow
            self.figure.set_layout_engine("none")
            self._laid_out = self.figure
        return Scene(self.figure, self._timed)

    def _lay_out(self, figure: Figure) -> None:
        figure.draw_without_rendering()

    def _buttons(self) -> list[str]:
        table = isinstance(getattr(self, "table", None), pd.DataFrame)
        files = ["png", "svg"] * (self.figure is not None) + ["csv"] * table
        return ["reset", "code"] * bool(self._initial) + files

    def _file(self, kind: str) -> bytes:
        if kind == "csv":
            return self.table.to_csv().encode()
        file = io.BytesIO()
        if self.figure is not None:
            self.figure.savefig(file, format=kind)
        return file.getvalue()

    def _told(self, _: object, message: dict[str, Any], buffers: object) -> None:
        """Do what the page asks for."""
        kind = message["kind"]
        with LOCK:
            if kind == "want":
                self.stage.send_all()
            elif kind == "reset":
                self.reset()
            elif kind == "code":
                self.stage.send({"kind": "code", "text": self.as_code()})
            elif kind in ("png", "svg", "csv"):
                name = {"kind": "file", "name": f"{self.maker or 'widget'}.{kind}", "type": TYPES[kind]}
                self.stage.send(name, [self._file(kind)])
            elif kind == "ahead":
                self.stage.answer(message["state"], self._ahead(message["state"]))
            else:
                self._pointed(message)

    def _state(self) -> list[Any]:
        """Where the controls stand, as the page has it."""
        return [_to_page(one) for one in self.controls.values()]

    def _ahead(self, state: list[Any]) -> SimpleNamespace | None:
        """What a page would be sent if its controls came to this state; None if that is an error, or has warnings."""
        if not self.stage.ahead or self.error is not None:
            return None
        assert self._drawing is not None
        if self._drawing["figure"] is None:  # begin as the widget began: axes may keep something of that
            self._double(self._initial)
        given = zip(self.controls.items(), state, strict=True)
        return self._double({name: _from_page(one, value) for (name, one), value in given})

    def _double(self, values: dict[str, Any]) -> SimpleNamespace | None:
        double: Any = _Double(self, values)
        double.redraw()
        self._drawing = {name: vars(double)[name] for name in self._drawing or {}}
        fine = double.stage.scene and double.error is None and not double._noted
        return double.stage if fine else None

    def _pointed(self, message: dict[str, Any]) -> None:
        """Pass on where the reader clicked, or what the reader outlined."""
        if self.figure is None:
            return
        ax = [one for one in self.figure.axes if one.get_visible()][message["axes"]]
        if message["kind"] == "lasso" and self.lassoed is not None:
            self.lassoed(ax, np.array(message["points"], dtype=float))
        elif message["kind"] == "click" and self.clicked is not None:
            self.clicked(ax, *map(float, message["point"]))

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = dict(super()._repr_mimebundle_(**kwargs))
        bundle["text/plain"] = self.caption
        if self.png:
            bundle["image/png"] = base64.b64encode(fewer_colours(self.png)).decode()
        return bundle

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.caption}"

    def close(self) -> None:
        """Remove the widget from the page and release everything that it held."""
        if self.comm is None:
            return
        with suppress(Exception):  # of a figure that could not be drawn
            self._png = self.png
        for one in self.controls.values():
            one.unobserve(self.redraw, "value")
        self.stage.on_msg(self._told, remove=True)
        for child in (*self.children[0].children, *self.children):
            _close(child)
        self.layout.close()
        super().close()
        self.figure = self._laid_out = self._drawing = None
        self._timed = ()


class _Double:
    """A widget's double: what its methods set, they set here, and they find everything else in the widget.

    Its controls are stand-ins, its stage keeps what it is given, and its figure, with all that is drawn there, is in
    ``view._drawing``: at first nothing, so that the first look makes it.
    """

    def __init__(self, view: Picture, values: dict[str, Any]) -> None:
        vars(self).update(view._drawing or {})
        self._view: Any = view
        self.controls = {
            name: SimpleNamespace(value=values.get(name), _options_values=getattr(one, "_options_values", None))
            for name, one in view.controls.items()
        }
        self.stage = SimpleNamespace(scene={}, shown=[0, []], hold_sync=nullcontext)
        self.stage.draw = lambda scene: setattr(self.stage, "scene", scene)

    def _lay_out(self, figure: Figure) -> None:
        for ax, other in zip(figure.axes, self._view.figure.axes, strict=True):
            ax.set_position(other.get_position(original=True))
            ax.set_position(other.get_position(), which="active")

    # super() in a method asks for it
    __class__ = property(lambda self: type(self._view))

    def __getattr__(self, name: str) -> Any:
        found = inspect.getattr_static(type(self._view), name, None)
        return found.__get__(self) if isinstance(found, FunctionType | property) else getattr(self._view, name)


class Refusal(Picture):
    """A widget that says why another one could not be made; ``error`` keeps the exception."""

    def __init__(self, error: ValueError) -> None:
        super().__init__()
        self.error, self.caption = error, str(error)
        self.stage.alert = self.caption


P = ParamSpec("P")


def answers(make: Callable[P, Picture]) -> Callable[P, Any]:
    """Make a factory answer a user's mistake with a widget that says so, instead of a traceback."""

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Picture:
        try:
            view = make(*args, **kwargs)
        except ValueError as error:
            return Refusal(error)
        view.maker = make.__name__
        return view

    return made


def content(uploaded: dict[str, Any]) -> tuple[bytes, str]:
    """Give the bytes and the name of what an `Upload` holds.

    Raises
    ------
    ValueError
        If the file was too large to be sent.
    """
    name, size = uploaded["name"], uploaded["size"]
    if size > LIMIT:
        raise ValueError(
            f"{name} has {size / 1e6:.0f} MB, a page can send {LIMIT / 1e6:.0f} MB; cut out what you want to hear, "
            "or read it with us.Batch.from_files."
        )
    return bytes(uploaded["content"]), name


def upload(name: str, tooltip: str) -> Upload:
    """Make a chooser of sound files; its value goes through `content`."""
    return Upload(description=name, tooltip=tooltip)


def _sound(name: str, sound: Sound | Tensor) -> dict[str, Any]:
    one = sound if isinstance(sound, Sound) else Sound(sound)
    label, content = f"{name}, {len(one.samples) / SAMPLE_RATE:.1f} s", wav(one.samples)
    return {"label": label, "wav": content, "name": content_name(content, "wav"), "start": float(one.start)}


def _to_page(control: Any) -> Any:
    """Where a control stands, as the page has it: of a choice its number, of a file its name and size."""
    value, choices = control.value, getattr(control, "_options_values", None)
    if choices is not None and isinstance(value, tuple):
        return [choices.index(one) for one in value]
    if choices is not None:
        return choices.index(value) if value in choices else None
    if isinstance(value, dict):
        return [value["name"], value["size"]]
    return list(value) if isinstance(value, tuple) else value


def _from_page(control: Any, given: Any) -> Any:
    """What a control's value is if it stands there; a file is not asked ahead."""
    if control.value is None or given == _to_page(control):
        return control.value
    choices = getattr(control, "_options_values", None)
    return type(control.value)(given) if choices is None else choices[given]


_IN_CELL: dict[str, tuple[str, list[weakref.ref[Picture]]]] = {}


def _close_previous_run(made: Picture) -> str:
    """Close what an earlier run of the same cell made: its view is gone, but ipywidgets keeps every widget alive.

    Gives the text of the cell.
    """
    kernel: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    parent = kernel.get_parent() if hasattr(kernel, "get_parent") else {}
    cell, source = parent.get("metadata", {}).get("cellId"), parent.get("content", {}).get("code", "")
    if cell is not None:
        run = parent["header"]["msg_id"]
        before, widgets = _IN_CELL.get(cell, (run, []))
        if before != run:
            for one in widgets:
                old = one()
                if old is not None:
                    old.close()
            widgets = []
        _IN_CELL[cell] = (run, [*widgets, weakref.ref(made)])
    return source


def _close(widget: ipywidgets.Widget) -> None:
    widget.layout.close()
    if isinstance(widget, ipywidgets.DOMWidget) and "style" in widget.traits():
        widget.style.close()
    widget.close()
