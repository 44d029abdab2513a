"""A matplotlib figure as data for the page, which draws it sharp, in its own colours, and answers the pointer at once.

`Scene` reads what the figures of `unisat.plots` are made of: images, lines, bars, areas, points, segments, words and
legends. So a picture is described once, in matplotlib, and the page and the stored picture show the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection, LineCollection, PathCollection, PolyCollection
from matplotlib.colors import Normalize, to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon, Rectangle, StepPatch
from matplotlib.patheffects import withStroke
from matplotlib.spines import Spine
from matplotlib.text import Text
from matplotlib.transforms import Bbox

PLACES: WeakKeyDictionary[Any, tuple[Any, list[tuple[float, float]]]] = WeakKeyDictionary()
"""Where the words of each legend stand, behind what that depends on: finding it took longer than all the rest."""

RAISED = str.maketrans("0123456789-−+", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁻⁺")


class Scene:
    """What the page draws.

    Attributes
    ----------
    parts : dict
        Sizes, axes and what is in them, as JSON; arrays are named in it.
    arrays : dict of str to bytes
        Their bytes, in float32 (colours: four bytes each; words: JSON), by a name that depends on the content alone.
    """

    def __init__(self, figure: Figure, timed: Sequence[Axes] = ()) -> None:
        self.arrays: dict[str, bytes] = {}
        self.figure: Any = figure
        self.dpi = figure.dpi
        width, height = figure.get_size_inches() * self.dpi
        self.height = height
        self.parts: dict[str, Any] = {"size": [round(width), round(height)]}
        self.parts["axes"] = [self._axes(ax, ax in timed) for ax in figure.axes if ax.get_visible()]
        self.parts["legends"] = [one for legend in figure.legends for one in self._legend(legend)]
        self.parts["texts"] = [self._text(one, Bbox([[0, 0], [width, height]])) for one in figure.texts]

    def _keep(self, values: Any, kind: str = "f4") -> str:
        content = json.dumps(values).encode() if kind == "json" else np.ascontiguousarray(values, f"<{kind}").tobytes()
        name = content_name(content, kind)
        self.arrays[name] = content
        return name

    def _axes(self, ax: Axes, timed: bool) -> dict[str, Any]:
        box = ax.get_position()
        made: dict[str, Any] = {"box": [box.x0, 1 - box.y1, box.x1, 1 - box.y0], "time": timed}
        made |= {name: self._axis(axis, ax.axison) for name, axis in (("x", ax.xaxis), ("y", ax.yaxis))}
        made["spines"] = [name for name, one in ax.spines.items() if ax.axison and one.get_visible()]
        made["titles"] = [
            {"text": plain(one.get_text()), "size": self._pixels(one.get_fontsize()), "align": align}
            for align, one in self._titles(ax).items()
            if one.get_text()
        ]
        bar = getattr(ax, "_colorbar", None)
        drawn = ax.get_children() if bar is None else []
        artists = sorted((one for one in drawn if one.get_visible()), key=lambda one: one.get_zorder())
        made["artists"] = [part for one in artists for part in self._artist(one, ax)]
        if bar is not None:
            made["artists"] = [self._bar(bar)]
        legend = ax.get_legend()
        made["legend"] = [] if legend is None else list(self._legend(legend))
        return made

    def _titles(self, ax: Any) -> dict[str, Any]:
        return {"center": ax.title, "left": ax._left_title, "right": ax._right_title}

    def _pixels(self, points: float) -> float:
        return round(points * self.dpi / 72, 2)

    def _axis(self, axis: Any, shown: bool) -> dict[str, Any]:
        low, high = sorted(axis.get_view_interval())
        made: dict[str, Any] = {"lim": [float(one) for one in axis.get_view_interval()], "scale": axis.get_scale()}
        label = axis.get_label()
        made |= {"label": plain(label.get_text()) if shown else "", "size": self._pixels(label.get_fontsize())}
        made |= {"ticks": [], "side": axis.get_ticks_position() if axis.axis_name == "y" else "default"}
        made["label side"] = axis.get_label_position()
        if not shown or not axis.get_visible():
            return made
        places = np.asarray(axis.get_majorticklocs(), dtype=float)
        names = axis.get_major_formatter().format_ticks(places.tolist())
        tick = axis.get_major_ticks(1)[0]
        made |= {"tick size": self._pixels(tick.label1.get_fontsize()), "turn": tick.label1.get_rotation()}
        on = tick.label1.get_visible() or tick.label2.get_visible()
        slack = 1e-9 * max(1.0, high - low)
        made["ticks"] = [
            [float(place), plain(name) if on else ""]
            for place, name in zip(places, names, strict=True)
            if low - slack <= place <= high + slack
        ]
        made["offset"] = plain(axis.get_major_formatter().get_offset())
        # ticks that matplotlib chose may be chosen anew where one looks closer; named ones stay
        made["numbers"] = type(axis.get_major_locator()).__name__ in ("AutoLocator", "MaxNLocator", "LinearLocator")
        return made

    # ---- what is drawn ----

    def _artist(self, one: Any, ax: Axes) -> Iterator[dict[str, Any]]:
        if isinstance(one, AxesImage):
            yield self._image(one)
        elif isinstance(one, Line2D):
            if np.size(one.get_xdata(orig=False)):
                yield {"kind": "line", **self._space(one, ax), **self._line(one), **self._stroke(one)}
        elif isinstance(one, Patch) and not isinstance(one, Spine) and one is not ax.patch:
            yield self._patch(one, ax)
        elif isinstance(one, Collection):
            yield from self._collection(one, ax)
        elif isinstance(one, Text) and one.get_text() and one not in self._titles(ax).values():
            yield self._text(one, ax.bbox, ax)

    def _space(self, one: Artist, ax: Axes) -> dict[str, Any]:
        """Which coordinates are of the data; the others are shares of the axes."""
        x, y = Artist.get_transform(one).contains_branch_seperately(ax.transData)  # of a patch: not of its own shape
        return {"data": [bool(x), bool(y)], "label": label_of(one)}

    def _image(self, one: Any) -> dict[str, Any]:
        values = np.ma.filled(np.ma.masked_invalid(one.get_array()).astype(float), np.nan)
        if values.ndim != 2 or type(one.norm) is not Normalize:
            raise NotImplementedError("the page draws images of one value a cell, on a linear scale of colours.")
        x0, x1, y0, y1 = (float(edge) for edge in one.get_extent())
        # row 0 at the first of the two heights
        edges = [y0, y1] if one.origin == "lower" else [y1, y0]
        made = {"kind": "image", "values": self._keep(values), "shape": list(values.shape), "x": [x0, x1], "y": edges}
        bar = one.colorbar
        made["name"] = plain(bar.ax.get_ylabel() or bar.ax.get_xlabel()) if bar is not None else ""
        return made | self._colours(one) | {"alpha": one.get_alpha() or 1.0}

    def _colours(self, one: Any) -> dict[str, Any]:
        table = one.cmap(np.linspace(0, 1, one.cmap.N), bytes=True)
        return {"clim": [float(one.norm.vmin), float(one.norm.vmax)], "colours": self._keep(table, "u1")}

    def _bar(self, bar: Any) -> dict[str, Any]:
        low, high = float(bar.norm.vmin), float(bar.norm.vmax)
        ramp = np.linspace(low, high, 256)
        upright = bar.orientation == "vertical"
        shape, x, y = ([256, 1], [0.0, 1.0], [low, high]) if upright else ([1, 256], [low, high], [0.0, 1.0])
        made = {"kind": "image", "values": self._keep(ramp), "shape": shape, "x": x, "y": y, "name": "", "alpha": 1.0}
        return made | self._colours(bar.mappable)

    def _line(self, one: Any) -> dict[str, Any]:
        x, y = (np.asarray(values, dtype=float) for values in one.get_data(orig=False))
        steps = one.get_drawstyle()
        if steps in ("steps", "steps-pre"):
            x, y = np.repeat(x, 2)[:-1], np.repeat(y, 2)[1:]
        elif steps == "steps-post":
            x, y = np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]
        elif steps == "steps-mid":
            middle = (x[1:] + x[:-1]) / 2
            x, y = np.concatenate([x[:1], np.repeat(middle, 2), x[-1:]]), np.repeat(y, 2)
        return {"x": self._keep(x), "y": self._keep(y)}

    def _stroke(self, one: Any) -> dict[str, Any]:
        _, dashes = one._unscaled_dash_pattern
        width = self._pixels(one.get_linewidth()) if one.get_linestyle() not in ("None", " ", "") else 0.0
        made: dict[str, Any] = {"colour": paint(one.get_color(), one.get_alpha())}
        made |= {"width": width, "dash": [self._pixels(one.get_linewidth() * part) for part in dashes or ()]}
        marker = str(one.get_marker())
        if marker not in ("None", "", " "):
            made |= {"marker": marker, "size": self._pixels(one.get_markersize())}
            made["fill"] = paint(one.get_markerfacecolor(), one.get_alpha())
            made["edge"] = paint(one.get_markeredgecolor(), one.get_alpha())
        return made

    def _patch(self, one: Any, ax: Axes) -> dict[str, Any]:
        made = {"kind": "area", **self._space(one, ax), **self._filling(one)}
        points: Any
        if isinstance(one, Rectangle):
            points = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * [one.get_width(), one.get_height()] + one.get_xy()
        elif isinstance(one, Polygon):
            points = one.get_xy()
        elif isinstance(one, StepPatch):
            points = one.get_path().to_polygons(closed_only=False)[0]
        else:
            raise NotImplementedError(f"the page does not know how to draw a {type(one).__name__}.")
        return made | {"points": self._keep(points), "ends": [len(points)]}

    def _filling(self, one: Any) -> dict[str, Any]:
        face, edge = one.get_facecolor(), one.get_edgecolor()
        width = self._pixels(one.get_linewidth()) if edge[3] else 0.0
        made: dict[str, Any] = {"fill": [paint(face)], "edge": [paint(edge)], "width": width}
        halo = [vars(effect)["_gc"] for effect in one.get_path_effects() if isinstance(effect, withStroke)]
        return made | {"halo": [[paint(each["foreground"]), self._pixels(each["linewidth"])] for each in halo]}

    def _collection(self, one: Any, ax: Axes) -> Iterator[dict[str, Any]]:
        (colours, which), edges = palette(one.get_facecolor()), palette(one.get_edgecolor())
        widths = np.atleast_1d(one.get_linewidth())
        made: dict[str, Any] = {"fill": spread(colours, which), "edge": spread(*edges)}
        made["width"] = self._pixels(float(widths[0])) if len(widths) else 0.0
        # asked beforehand, for matplotlib's types say less of these than there is
        points, strokes = isinstance(one, PathCollection), isinstance(one, LineCollection)
        if points and len(where := np.ma.filled(np.ma.asarray(one.get_offsets()).astype(float), np.nan)):
            sizes = np.sqrt(np.broadcast_to(one.get_sizes(), len(where))) * self.dpi / 72
            marker, names = one.get_paths()[0].vertices, list(getattr(one, "names", ()))
            made |= {"kind": "points", "points": self._keep(where), "sizes": self._keep(sizes)}
            made |= {"shape": marker.tolist() if len(marker) < 20 else []}  # a circle has 26 corners
            made |= {"label": label_of(one), "data": [True, True], "names": self._keep(names, "json") if names else ""}
            if len(colours) > 1:  # a number for each point: words for thousands of them take long
                made |= {"fill": colours, "paint": self._keep(which)}
            yield made
        elif strokes or isinstance(one, PolyCollection):
            parts = [path.vertices for path in one.get_paths() if len(path.vertices)]
            if parts:
                made |= {"kind": "segments" if strokes else "area", **self._space(one, ax)}
                ends = np.cumsum([len(part) for part in parts]).tolist()
                yield made | {"points": self._keep(np.concatenate(parts)), "ends": ends}

    def _text(self, one: Any, box: Any, ax: Axes | None = None) -> dict[str, Any]:
        x, y = (float(value) for value in (one.convert_xunits(one._x), one.convert_yunits(one._y)))
        within = one.get_transform().contains_branch_seperately(ax.transData) if ax is not None else (False, False)
        if not all(within):  # pixels as shares of the axes
            place = one.get_transform().transform((x, y))
            share = (place - [box.x0, box.y0]) / [box.width, box.height]
            x, y = (given if inside else float(part) for given, inside, part in zip((x, y), within, share, strict=True))
        made = {"kind": "text", "text": plain(one.get_text()), "x": x, "y": y, "data": [bool(part) for part in within]}
        made |= {"size": self._pixels(one.get_fontsize()), "align": one.get_ha(), "base": one.get_va()}
        made |= {"clip": one.get_clip_on(), "room": list(getattr(one, "room", ()))}
        return made | {"colour": paint(one.get_color(), one.get_alpha()), "turn": one.get_rotation(), "label": ""}

    def _legend(self, legend: Any) -> Iterator[dict[str, Any]]:
        """The entries, each at its place in pixels from the top left."""
        entries = [(None, legend.get_title()), *zip(legend.legend_handles, legend.get_texts(), strict=True)]
        entries = [(handle, text) for handle, text in entries if text.get_text()]
        places = self._places(legend, [text for _, text in entries])
        for (handle, text), (x, y) in zip(entries, places, strict=True):
            made = {"text": plain(text.get_text()), "x": x, "y": y, "size": self._pixels(text.get_fontsize())}
            made["handle"] = None
            if isinstance(handle, Line2D):
                made["handle"] = {"kind": "line", **self._stroke(handle)}
            elif isinstance(handle, Patch):
                made["handle"] = {"kind": "area", **self._filling(handle)}
            elif isinstance(handle, Collection):
                made["handle"] = {"kind": "points", "fill": [paint(one) for one in handle.get_facecolor()]}
            yield made

    def _places(self, legend: Any, words: list[Text]) -> list[tuple[float, float]]:
        """Left end and middle of the words of a legend, which is laid out again only if one of these has changed."""
        around = legend.get_bbox_to_anchor().bounds, legend._loc, self.height
        known = around, [(text.get_text(), text.get_fontsize()) for text in words]
        before, places = PLACES.get(legend, (None, []))
        if known != before or legend._loc == 0:  # 0 is the best place, which depends on the data
            renderer = self.figure.canvas.get_renderer()
            with renderer._draw_disabled():  # a legend finds its place when it is drawn
                legend.draw(renderer)
            boxes = [text.get_window_extent(renderer) for text in words]
            places = [(float(box.x0), float(self.height - (box.y0 + box.y1) / 2)) for box in boxes]
            PLACES[legend] = known, places
        return places


def content_name(content: bytes, kind: str) -> str:
    """Name that depends on the content alone, so that equal content is sent and kept once."""
    return f"{hashlib.blake2b(content, digest_size=9).hexdigest()}.{kind}"


def paint(colour: Any, alpha: float | None = None) -> str:
    """Colour with its opacity, as #rrggbbaa; "" for none."""
    rgba = to_rgba(colour, alpha)
    return to_hex(rgba, keep_alpha=True) if rgba[3] else ""


def palette(colours: Any) -> tuple[list[str], np.ndarray]:
    """Give the different colours among rows of red, green, blue and opacity, and for each row which of them it is."""
    rows = np.round(255 * np.asarray(colours, dtype=float).reshape(-1, 4)).astype("u1")
    _, first, which = np.unique(rows.view("u4").ravel(), return_index=True, return_inverse=True)
    return [paint(tuple(row)) for row in (rows[first] / 255).tolist()], which


def spread(colours: list[str], which: np.ndarray) -> list[str]:
    """Give the colour of each row again; a single one if all are equal."""
    return colours if len(colours) <= 1 else [colours[place] for place in which]


def label_of(one: Artist) -> str:
    """What a legend would call it; "" if it has no name."""
    name = str(one.get_label())
    return "" if name.startswith("_") else plain(name)


def plain(text: str) -> str:
    """Write a text of matplotlib without its mathematics: powers are raised, a protected dollar is a dollar."""
    text = re.sub(r"\^\{?([-−+\d]+)\}?", lambda found: found[1].translate(RAISED), text)
    text = re.sub(r"(?<!\\)\$|\\mathdefault|[{}]" if "mathdefault" in text else r"(?<!\\)\$", "", text)
    return text.replace(r"\$", "$").replace(r"\times", "×").replace(r"\tau", "τ")
