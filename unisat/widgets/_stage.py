"""What ipywidgets lacks: a picture with words and sounds that one can point at, and a file chooser with a limit.

The page's side is ``stage.js``. Nothing is fetched: both files travel through the kernel.
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
    """One picture, its caption, what went wrong, its sounds, and what belongs below.

    Attributes
    ----------
    png : bytes
        The picture; nothing is shown while empty.
    size : list of int
        Its width and height in pixels of the page.
    alt, alert : str
        Alternative text and caption in one; a message for the reader.
    extra : str
        HTML below the sounds, with everything from outside escaped.
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
