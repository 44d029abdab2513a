"""What every widget is made of: controls, one picture with a caption, and sounds to play."""

from __future__ import annotations

import base64
import functools
import struct
import sys
import threading
import warnings
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ParamSpec

import ipywidgets
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from unisat.frames import SAMPLE_RATE
from unisat.plots._show import fewer_colours, wav
from unisat.widgets._stage import LIMIT, Stage, Upload

LOCK = threading.RLock()
"""Held while a widget draws: newer kernels run callbacks in a thread of their own, even while a cell runs."""

DPI = 100


def new_figure(width: float, height: float, *, right: float = 1.0) -> Figure:
    """Figure of ``width`` by ``height`` inches without pyplot; axes fill it up to ``right`` of its width."""
    layout = ConstrainedLayoutEngine(rect=(0, 0, right, 1))
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def encode(rgba: np.ndarray) -> bytes:
    """Write pixels of (height, width, 4) bytes as a PNG file, in a fifth of the time that a smaller file takes."""
    rgb = rgba[..., :3]
    height, width, _ = rgb.shape
    rows = np.pad(rgb.reshape(height, 3 * width), ((0, 0), (1, 0)))  # a 0 in front of each row: not filtered

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)  # 8 bits of red, green and blue
    pixels = zlib.compress(rows.tobytes(), level=1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


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
    figure and returns a `Look`. If ``look`` raises an exception, the widget shows it, because a notebook would not,
    and keeps it as ``error``. A saved notebook keeps the picture and the caption.

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

    def __init__(self, *controls: ipywidgets.Widget) -> None:
        super().__init__()
        _close_previous_run(self)
        self.controls = {one.description: one for one in controls}
        self.figure: Figure | None = None
        self.png, self.caption = b"", ""
        self.error: Exception | None = None
        self._moving: tuple[Artist, ...] = ()
        self._cursors: tuple[Axes, ...] = ()
        self._still: Any = None  # the pixels of everything that does not move
        self._laid_out: Figure | None = None
        self._held = 0
        self.stage = Stage(picks=self.clicked is not None, lasso=self.lassoed is not None)
        self.stage.on_msg(self._pointed)
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

    def first(self) -> None:
        """Draw for the first time; only here an exception is raised."""
        self.redraw()
        if self.error is not None:
            self.close()
            raise self.error

    def moving(self, *artists: Artist) -> None:
        """Name the artists of ``figure`` that change: a redraw draws these, over the kept pixels of all others."""
        for one in artists:
            one.set_animated(True)
        self._moving = artists
        self.still()

    def still(self) -> None:
        """Say that more than the moving artists has changed: the next redraw draws everything."""
        self._still = None

    def cursor(self, *axes: Axes) -> None:
        """Name the axes with seconds along x: there a line follows the sound, and a click seeks."""
        self._cursors = axes

    def show(self, make: Callable[[], Look]) -> None:
        """Show the state that ``make`` leaves in ``figure``, or the exception that it raises.

        Warnings become part of the caption: a notebook shows neither those nor exceptions of a callback.
        """
        # autograd is switched off per thread: a no_grad in a cell of the notebook does not reach here
        with LOCK, torch.no_grad():
            try:
                with warnings.catch_warnings(record=True) as notes:
                    warnings.simplefilter("always")
                    look = make()
                    self.png = self._pixels()
            except Exception as error:
                self.error = error
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                stale = " The picture still shows what was there before." if self.png else ""
                self.stage.alert = f"{kind}{error}{stale}"
                return
            self.error, self.caption = None, " ".join([look.caption, *(str(note.message) for note in notes)])
            with self.stage.hold_sync():
                self.stage.png, self.stage.size, self.stage.alt = self.png, _size(self.png), self.caption
                self.stage.alert, self.stage.extra, self.stage.cursors = "", look.html, self._places()
            # sounds come after the picture, which the reader waits for
            self.stage.sounds = [_sound(name, one) for name, one in look.sounds.items()]

    def _pixels(self) -> bytes:
        if self.figure is None:
            return b""
        canvas = self.figure.canvas
        assert isinstance(canvas, FigureCanvasAgg)
        if self.figure is not self._laid_out or self._still is None:
            canvas.draw()
            # the layout is solved once: axes that shift at every redraw are hard to compare, and slow
            self.figure.set_layout_engine("none")
            self._laid_out, self._still = self.figure, canvas.copy_from_bbox(self.figure.bbox)
        elif self._moving:
            canvas.restore_region(self._still)
        else:
            canvas.draw()
        for one in self._moving:
            if one.get_figure(root=True) is self.figure:
                (one.axes or self.figure).draw_artist(one)
        return encode(np.asarray(canvas.buffer_rgba()))

    def _places(self) -> list[dict[str, float]]:
        places = []
        for ax in self._cursors:
            box, (start, end) = ax.get_position(), ax.get_xlim()
            shares = {"x0": box.x0, "x1": box.x1, "y0": 1 - box.y1, "y1": 1 - box.y0}
            places.append({**shares, "t0": float(start), "t1": float(end)})
        return places

    def _pointed(self, _: object, message: dict[str, Any], buffers: object) -> None:
        """Pass on where the reader clicked, or what the reader outlined."""
        points = np.array(message["points"] if message["kind"] == "lasso" else [message["point"]], dtype=float)
        with LOCK:
            if self.figure is None:
                return
            # the page counts shares from the top left, matplotlib pixels from the bottom left
            pixels = (points * [1, -1] + [0, 1]) * self.figure.bbox.size
            middle = pixels.mean(axis=0)
            ax = next((one for one in self.figure.axes if one.bbox.contains(*middle)), None)
            if ax is None:
                return
            there = ax.transData.inverted().transform(pixels)
            if message["kind"] == "lasso" and self.lassoed is not None:
                self.lassoed(ax, there)
            elif self.clicked is not None:
                self.clicked(ax, *there[0].tolist())

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
        for one in self.controls.values():
            one.unobserve(self.redraw, "value")
        self.stage.on_msg(self._pointed, remove=True)
        for child in (*self.children[0].children, *self.children):
            _close(child)
        self.layout.close()
        super().close()
        self.figure = self._laid_out = self._still = None
        self._moving = self._cursors = ()


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
            return make(*args, **kwargs)
        except ValueError as error:
            return Refusal(error)

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


def _size(file: bytes) -> list[int]:
    return list(struct.unpack(">2I", file[16:24])) if file else [0, 0]


def _sound(name: str, sound: Sound | Tensor) -> dict[str, Any]:
    one = sound if isinstance(sound, Sound) else Sound(sound)
    label = f"{name}, {len(one.samples) / SAMPLE_RATE:.1f} s"
    return {"label": label, "wav": wav(one.samples), "start": float(one.start)}


_IN_CELL: dict[str, tuple[str, list[weakref.ref[Picture]]]] = {}


def _close_previous_run(made: Picture) -> None:
    """Close what an earlier run of the same cell made: its view is gone, but ipywidgets keeps every widget alive."""
    kernel: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    parent = kernel.get_parent() if hasattr(kernel, "get_parent") else {}
    cell = parent.get("metadata", {}).get("cellId")
    if cell is None:
        return
    run = parent["header"]["msg_id"]
    before, widgets = _IN_CELL.get(cell, (run, []))
    if before != run:
        for one in widgets:
            old = one()
            if old is not None:
                old.close()
        widgets = []
    _IN_CELL[cell] = (run, [*widgets, weakref.ref(made)])


def _close(widget: ipywidgets.Widget) -> None:
    widget.layout.close()
    if isinstance(widget, ipywidgets.DOMWidget) and "style" in widget.traits():
        widget.style.close()
    widget.close()
