"""Two widgets that ipywidgets lacks: a picture to point at with words and sounds, and a chooser of a file or a voice.

The code for the page is in ``scene.js``, which draws, and ``stage.js``. The page loads nothing from a network: the
kernel sends the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

from unisat.widgets._scene import Scene

HERE = Path(__file__).parent
DRAW, SCRIPT, STYLE = ((HERE / name).read_text(encoding="utf-8") for name in ("scene.js", "stage.js", "stage.css"))

LIMIT = 8_000_000
"""Bytes of the largest file that is sent to the kernel: Jupyter cuts the connection at a message of 10 MiB."""


class Stage(anywidget.AnyWidget):
    """One picture with its caption, a message, sounds, and HTML below them.

    Attributes
    ----------
    scene : dict
        The picture, from `unisat.widgets._scene.Scene`; nothing is shown while it is empty.
    names : list of str
        The arrays that it needs. The page gets those that it lacks in messages, and asks for all where it has none.
    alt, alert : str
        Alternative text and caption in one; a message for the reader.
    extra : str
        HTML below the sounds; text from outside is escaped in it.
    sounds : list of dict
        ``label``, ``wav`` (bytes), its ``name`` and ``start``, where it begins on the time axes in seconds.
    shown : list
        A number that grows with each picture, and the state of the controls that it is of: sent last.
    controls : list of ipywidgets.Widget
        What moves the picture, in the order of a state.
    ahead : list of int
        Those of which the page may ask ahead; if there is none, it keeps no pictures either.
    picks, lasso : bool
        Whether clicks and outlines are sent, with the number of the axes and places in their data:
        ``{"kind": "click", "axes", "point"}`` and ``{"kind": "lasso", "axes", "points"}``.
    buttons : list of str
        Those to be seen: ``reset``, ``code``, ``png``, ``svg``, ``csv``; a click sends ``{"kind": ...}``.
    busy : bool
        Whether the kernel is at work on the picture.
    play : int
        The first sound plays each time that this grows.
    """

    _esm, _css = DRAW + SCRIPT, STYLE
    _kind = traitlets.Unicode("stage").tag(sync=True)
    scene: Any = traitlets.Dict().tag(sync=True)
    names: Any = traitlets.List().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    alert = traitlets.Unicode().tag(sync=True)
    extra = traitlets.Unicode().tag(sync=True)
    sounds: Any = traitlets.List().tag(sync=True)
    picks = traitlets.Bool().tag(sync=True)
    lasso = traitlets.Bool().tag(sync=True)
    buttons: Any = traitlets.List().tag(sync=True)
    busy = traitlets.Bool().tag(sync=True)
    play = traitlets.Int().tag(sync=True)
    shown: Any = traitlets.List([0, []]).tag(sync=True)
    controls: Any = traitlets.List().tag(sync=True, **ipywidgets.widget_serialization)
    ahead: Any = traitlets.List().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._arrays: dict[str, bytes] = {}

    def draw(self, scene: Scene) -> None:
        """Show a scene: send the arrays that the one before did not have, then the rest."""
        new = {name: content for name, content in scene.arrays.items() if name not in self._arrays}
        self._arrays = scene.arrays
        self._send_arrays(new)
        self.names = list(scene.arrays)
        self.scene = scene.parts

    def send_all(self) -> None:
        """Send every array, to a page that has come later."""
        self._send_arrays(self._arrays)

    def answer(self, asked: list[Any], found: Any) -> None:
        """Send what the page asked ahead: traits of a stage, with arrays and sounds that are not of this one."""
        content: dict[str, Any] = {"kind": "ahead", "asked": asked}
        arrays: dict[str, bytes] = {}
        if found is not None:
            there = {*self._arrays, *(one["name"] for one in self.sounds)}
            arrays = found.scene.arrays | {one["name"]: one["wav"] for one in found.sounds}
            arrays = {name: one for name, one in arrays.items() if name not in there}
            sounds = [{name: one[name] for name in ("label", "name", "start")} for one in found.sounds]
            words = {"alt": found.alt, "extra": found.extra, "state": found.shown[1]}
            content |= {"scene": found.scene.parts, "all": list(found.scene.arrays), "sounds": sounds, **words}
        self._send_arrays(arrays, **content)

    def _send_arrays(self, arrays: dict[str, bytes], kind: str = "arrays", **more: Any) -> None:
        kinds = [name.partition(".")[2] for name in arrays]
        self.send({"kind": kind, "names": list(arrays), "kinds": kinds, **more}, list(arrays.values()))


class Upload(anywidget.AnyWidget):
    """A chooser of a file, or of what the microphone hears.

    ``value`` is None, or a dict of ``name``, ``size`` in bytes and ``content``.

    The content of a file beyond ``limit`` bytes stays in the page; `unisat.widgets._picture.content` says so.
    """

    _esm, _css = SCRIPT, STYLE
    _kind = traitlets.Unicode("upload").tag(sync=True)
    description = traitlets.Unicode().tag(sync=True)
    tooltip = traitlets.Unicode().tag(sync=True)
    limit = traitlets.Int(LIMIT).tag(sync=True)
    value: Any = traitlets.Any(None, allow_none=True).tag(sync=True, echo_update=False)
