"""Two widgets that ipywidgets lacks: a picture to point at with words and sounds, and a file chooser with a limit.

The code for the page is ``stage.js``. The page loads nothing from a network: the kernel sends both files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

HERE = Path(__file__).parent
SCRIPT, STYLE = ((HERE / name).read_text(encoding="utf-8") for name in ("stage.js", "stage.css"))

LIMIT = 8_000_000
"""Bytes of the largest file that is sent to the kernel: Jupyter cuts the connection at a message of 10 MiB."""


class Stage(anywidget.AnyWidget):
    """One picture with its caption, a message, sounds, and HTML below them.

    Attributes
    ----------
    png : bytes
        The picture; nothing is shown while it is empty.
    size : list of int
        Its width and height in pixels of the page.
    alt, alert : str
        Alternative text and caption in one; a message for the reader.
    extra : str
        HTML below the sounds; text from outside is escaped in it.
    sounds : list of dict
        ``label``, ``wav`` (bytes) and ``start``, where it begins on the time axes in seconds.
    cursors : list of dict
        Axes along time: ``x0 x1 y0 y1`` as shares of the picture from its top left, ``t0 t1`` in seconds.
    picks, lasso : bool
        Whether clicks and outlines are sent: ``{"kind": "click", "point"}`` and ``{"kind": "lasso", "points"}``.
    """

    _esm, _css = SCRIPT, STYLE
    _kind = traitlets.Unicode("stage").tag(sync=True)
    png = traitlets.Bytes().tag(sync=True)
    size = traitlets.List(traitlets.Int(), [0, 0]).tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    alert = traitlets.Unicode().tag(sync=True)
    extra = traitlets.Unicode().tag(sync=True)
    sounds: Any = traitlets.List().tag(sync=True)
    cursors: Any = traitlets.List().tag(sync=True)
    picks = traitlets.Bool().tag(sync=True)
    lasso = traitlets.Bool().tag(sync=True)


class Upload(anywidget.AnyWidget):
    """A file chooser; ``value`` is None, or a dict of ``name``, ``size`` in bytes and ``content``.

    The content of a file beyond ``limit`` bytes stays in the page; `unisat.widgets._picture.content` says so.
    """

    _esm, _css = SCRIPT, STYLE
    _kind = traitlets.Unicode("upload").tag(sync=True)
    description = traitlets.Unicode().tag(sync=True)
    tooltip = traitlets.Unicode().tag(sync=True)
    limit = traitlets.Int(LIMIT).tag(sync=True)
    value: Any = traitlets.Any(None, allow_none=True).tag(sync=True, echo_update=False)
