"""What every widget is made of: controls, one picture with a sentence about it, and sounds to play."""

from __future__ import annotations

import base64
import io
import struct
import threading
import warnings
import wave
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

import ipywidgets
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from unisat.frames import SAMPLE_RATE

LOCK = threading.RLock()
"""Held while a widget draws: newer kernels run callbacks in a thread of their own, even while a cell runs."""

DPI = 100


def new_figure(width: float, height: float, *, right: float = 1.0) -> Figure:
    """Figure of ``width`` by ``height`` inches, filled up to ``right`` of its width, unknown to pyplot."""
    layout = ConstrainedLayoutEngine(rect=(0, 0, right, 1))
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """Draw a figure as a PNG file.

    ``Figure.savefig`` would give a smaller file in twice the time, and that is the time one waits for.
    """
    assert isinstance(figure.canvas, FigureCanvasAgg)
    figure.canvas.draw()
    # the layout is solved once: axes that shift at every redraw are hard to compare, and slow
    figure.set_layout_engine("none")
    rgb = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    height, width, _ = rgb.shape
    rows = np.pad(rgb.reshape(height, 3 * width), ((0, 0), (1, 0)))  # a 0 in front of each row: not filtered

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)  # 8 bits of red, green and blue
    pixels = zlib.compress(rows.tobytes(), level=1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def wav(samples: Float[Tensor, " samples"]) -> bytes:
    """Write a 16-bit WAV file at 16 kHz: exactly as loud as ``samples``, cut off beyond full scale."""
    integers = np.rint(samples.detach().cpu().numpy() * 2.0**15).clip(-(2**15), 2**15 - 1)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(integers.astype("<i2").tobytes())
    return file.getvalue()


def data_uri(kind: str, content: bytes) -> str:
    """Content as an address that needs no file and no network."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def player(name: str, samples: Float[Tensor, " samples"]) -> str:
    """HTML of an audio player with its name beside it; it never starts by itself."""
    label = escape(f"{name}, {len(samples) / SAMPLE_RATE:.1f} s")
    sound = f'<audio controls aria-label="{label}" src="{data_uri("audio/wav", wav(samples))}"></audio>'
    return f'<div style="display: flex; align-items: center; gap: 1em">{sound} {label}</div>'


def control(kind: type[ipywidgets.Widget], name: str, tooltip: str, **settings: Any) -> ipywidgets.Widget:
    """Make a control that is known, and shown, by its whole name."""
    made = kind(description=name, tooltip=tooltip, style={"description_width": "initial"}, **settings)
    # the class gives controls their margins; the view of a SelectionSlider goes without
    return made.add_class("jupyter-widgets")


@dataclass(frozen=True, kw_only=True)
class Look:
    """One state of a widget, in words and sounds; the picture is the widget's figure.

    Attributes
    ----------
    sentence : str
        What the picture shows, with its numbers: the caption, the text for those who do not see the picture,
        and what remains of the widget where none can run.
    sounds : mapping of str to (samples,)
        What to play, by name, at 16 kHz.
    """

    sentence: str
    sounds: Mapping[str, Float[Tensor, " samples"]] = field(default_factory=dict)


class Picture(ipywidgets.VBox):
    """Controls above a picture that follows them; the base of every widget here.

    A subclass sets ``figure`` and writes ``look``, which takes the value of each control by name, changes the
    figure, and returns a `Look`. An exception there is shown in the widget, for a notebook would not show it,
    and kept as ``error``. In a saved notebook the picture and the sentence remain.

    Attributes
    ----------
    controls : dict of str to ipywidgets.Widget
        By their names; setting ``.value`` does what moving the control does.
    png : bytes
        The picture now shown, as a PNG file; empty before the first.
    sentence : str
        Its caption.
    error : Exception or None
        What the last redraw stumbled on.
    """

    look: Callable[..., Look]

    def __init__(self, *controls: ipywidgets.Widget) -> None:
        super().__init__()
        self.controls = {one.description: one for one in controls}
        self.figure: Figure | None = None
        self.png, self.sentence = b"", ""
        self.error: Exception | None = None
        self._image, self._alert, self._caption, self._sounds = (ipywidgets.HTML() for _ in range(4))
        row = ipywidgets.HBox(controls, layout={"flex_flow": "row wrap"})
        self.children = (row, self._image, self._alert, self._caption, self._sounds)
        for one in controls:
            one.observe(self.redraw, "value")

    def redraw(self, change: object = None) -> None:
        """Show what the controls ask for."""
        self.show(lambda: self.look(**{name: one.value for name, one in self.controls.items()}))

    def first(self) -> None:
        """Draw for the first time, where an exception is the caller's to see."""
        self.redraw()
        if self.error is not None:
            self.close()
            raise self.error

    def show(self, make: Callable[[], Look]) -> None:
        """Show the state that ``make`` leaves in ``figure``, or the exception that it raises.

        Warnings become part of the sentence: a notebook shows neither those nor exceptions of a callback.
        """
        # autograd is switched off per thread: a no_grad in the notebook's first cell does not reach here
        with LOCK, torch.no_grad():
            try:
                with warnings.catch_warnings(record=True) as notes:
                    warnings.simplefilter("always")
                    look = make()
                self.png = png(self.figure) if self.figure is not None else b""
            except Exception as error:
                self.error = error
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                stale = "<br>The picture still shows what was there before." if self.png else ""
                self._alert.value = (
                    '<p role="alert" style="color: var(--jp-error-color1, #b00020)">'
                    f"{escape(kind + str(error))}{stale}</p>"
                )
                return
            self.error, self.sentence = None, " ".join([look.sentence, *(str(note.message) for note in notes)])
            self._alert.value = ""
            self._image.value = self._img()
            # two lines high, so that what is below does not jump
            self._caption.value = f'<p style="margin: 0; min-height: 4.5em">{escape(self.sentence)}</p>'
            self._sounds.value = "".join(player(name, sound) for name, sound in look.sounds.items())

    def _img(self) -> str:
        if not self.png:
            return ""
        width, height = struct.unpack(">2I", self.png[16:24])
        return (
            f'<img width="{width}" height="{height}" style="max-width: 100%; height: auto" '
            f'alt="{escape(self.sentence)}" src="{data_uri("image/png", self.png)}">'
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = dict(super()._repr_mimebundle_(**kwargs))
        bundle["text/plain"] = self.sentence
        if self.png:
            bundle["image/png"] = base64.b64encode(self.png).decode()
        return bundle

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.sentence}"

    def close(self) -> None:
        """Take the widget off the page and let go of all that it held."""
        if self.comm is None:
            return
        for one in self.controls.values():
            one.unobserve(self.redraw, "value")
        for child in (*self.children[0].children, *self.children):
            _close(child)
        self.layout.close()
        super().close()
        self.figure = None


def _close(widget: ipywidgets.Widget) -> None:
    widget.layout.close()
    if isinstance(widget, ipywidgets.DOMWidget) and "style" in widget.traits():
        widget.style.close()
    widget.close()
