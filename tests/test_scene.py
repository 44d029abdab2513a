"""What the page is told of a figure, against what matplotlib draws of it."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke
from PIL import Image

from unisat.widgets._scene import Scene, paint, plain


def figure():
    made = Figure(figsize=(3, 2), dpi=100)
    FigureCanvasAgg(made)
    return made, made.add_axes((0.2, 0.2, 0.7, 0.7))


def read(scene, name):
    kind = name.partition(".")[2]
    return np.frombuffer(scene.arrays[name], f"<{kind}")


def only(scene, kind):
    (found,) = [one for one in scene.parts["axes"][0]["artists"] if one["kind"] == kind]
    return found


def coloured(scene, x, y):
    """Colour that the page gives a place of the data: the formula of scene.js, written again."""
    image = only(scene, "image")
    rows, columns = image["shape"]
    column = int((x - image["x"][0]) / (image["x"][1] - image["x"][0]) * columns)
    row = int((y - image["y"][0]) / (image["y"][1] - image["y"][0]) * rows)
    value = read(scene, image["values"]).reshape(rows, columns)[row, column]
    table, (low, high) = read(scene, image["colours"]).reshape(-1, 4), image["clim"]
    return table[min(len(table) - 1, max(0, int((value - low) / (high - low) * len(table))))]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["upper", "lower"]),
    st.permutations([0.0, 2.0]),
    st.permutations([5.0, 8.0]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_an_image_lies_where_matplotlib_draws_it(origin, x, y, flip_x, flip_y, rows, columns):
    made, ax = figure()
    values = np.random.default_rng(rows * columns).uniform(size=(rows, columns))
    ax.imshow(values, origin=origin, extent=(*x, *y), aspect="auto", interpolation="nearest", vmin=0.1, vmax=0.8)
    ax.set(xlim=(0, 2), ylim=(5, 8))
    if flip_x:
        ax.invert_xaxis()
    if flip_y:
        ax.invert_yaxis()
    made.canvas.draw()
    pixels, scene = np.asarray(made.canvas.buffer_rgba()), Scene(made)
    for column in range(columns):
        for row in range(rows):
            there = 2 * (column + 0.5) / columns, 5 + 3 * (row + 0.5) / rows
            across, up = ax.transData.transform(there)
            drawn = pixels[len(pixels) - 1 - int(up), int(across)]
            np.testing.assert_allclose(coloured(scene, *there)[:3], drawn[:3], atol=3)


def test_values_that_are_missing_stay_missing():
    made, ax = figure()
    ax.imshow(np.ma.masked_array([[1.0, 2.0]], [[False, True]]))
    scene = Scene(made)
    assert np.isnan(read(scene, only(scene, "image")["values"])).tolist() == [False, True]


def test_a_colour_bar_is_a_ramp():
    made, ax = figure()
    made.colorbar(ax.imshow([[0.0, 4.0]], vmin=0, vmax=4), ax=ax, label="heat")
    scene = Scene(made)
    ramp = scene.parts["axes"][1]["artists"][0]
    assert ramp["shape"] == [256, 1]
    assert (ramp["y"], ramp["clim"]) == ([0, 4], [0, 4])
    assert (read(scene, ramp["values"])[[0, -1]] == [0, 4]).all()
    assert scene.parts["axes"][0]["artists"][0]["name"] == "heat"
    assert scene.parts["axes"][1]["spines"] == ["outline"]


@pytest.mark.parametrize("style", ["default", "steps-pre", "steps-mid", "steps-post"])
def test_a_line_goes_through_matplotlibs_points(style):
    made, ax = figure()
    x, y = np.array([0.0, 1.0, 3.0]), np.array([2.0, np.nan, 1.0])
    (line,) = ax.plot(x, y, "--", color="red", linewidth=2, marker="s", drawstyle=style, label="a")
    scene = Scene(made)
    told = only(scene, "line")
    expected = line._path.cleaned() if style == "default" else None
    found = np.stack([read(scene, told["x"]), read(scene, told["y"])], 1)
    if expected is None:
        line.recache(always=True)
        from matplotlib.cbook import STEP_LOOKUP_MAP

        steps = STEP_LOOKUP_MAP[style](x, y)
        np.testing.assert_allclose(found, np.stack(steps, 1))
    else:
        np.testing.assert_allclose(found, np.stack([x, y], 1))
    assert told["colour"] == "#ff0000ff"
    assert told["width"] == pytest.approx(2 * 100 / 72, abs=0.01)
    assert len(told["dash"]) == 2
    assert (told["marker"], told["label"]) == ("s", "a")


def test_coordinates_are_of_the_data_or_of_the_axes():
    made, ax = figure()
    ax.axvline(3)
    ax.axhspan(1, 2)
    ax.text(0.5, 0.25, "half", transform=ax.transAxes)
    ax.text(4, 0.5, "at four", transform=ax.get_xaxis_transform())
    scene = Scene(made)
    assert only(scene, "line")["data"] == [True, False]
    assert read(scene, only(scene, "line")["y"]).tolist() == [0, 1]
    assert only(scene, "area")["data"] == [False, True]
    half, four = [one for one in scene.parts["axes"][0]["artists"] if one["kind"] == "text"]
    assert (half["clip"], half["room"]) == (False, [])
    assert (half["x"], half["y"], half["data"]) == (pytest.approx(0.5), pytest.approx(0.25), [False, False])
    assert (four["x"], four["y"], four["data"]) == (4, pytest.approx(0.5), [True, False])


def test_areas_points_and_segments_keep_their_corners_and_colours():
    made, ax = figure()
    ax.bar([1, 2], [3, 4], width=0.5, color=["red", "blue"])
    ax.fill_between([0, 1], [0, 0], [1, 2], color="green", alpha=0.5)
    ax.broken_barh([(0, 1), (2, 1)], (5, 1))
    ax.vlines([1, 2], 0, 7, color="black")
    dots = ax.scatter([1, 2], [3, 4], s=[36, 144], marker="^", c=["red", "blue"])
    dots.names = ["one", "two"]
    box = ax.axvspan(0, 1, fill=False)
    box.set_path_effects([withStroke(linewidth=3, foreground="white")])
    scene = Scene(made)
    parts = scene.parts["axes"][0]["artists"]
    bars = [one for one in parts if one["kind"] == "area"]
    assert read(scene, bars[0]["points"]).reshape(-1, 2).tolist() == [[0.75, 0], [1.25, 0], [1.25, 3], [0.75, 3]]
    assert [one["fill"] for one in bars if one["fill"] in (["#ff0000ff"], ["#0000ffff"])] == [
        ["#ff0000ff"],
        ["#0000ffff"],
    ]
    assert sum(one["fill"] == ["#00800080"] for one in bars) == 1
    two = next(one for one in bars if len(one["ends"]) == 2)
    assert read(scene, two["points"])[:2].tolist() == [0, 5]
    assert next(one["halo"] for one in bars if one.get("halo")) == [["#ffffffff", pytest.approx(4.17, abs=0.01)]]
    segments, points = only(scene, "segments"), only(scene, "points")
    assert segments["ends"] == [2, 4]
    assert read(scene, segments["points"]).reshape(-1, 2).tolist() == [[1, 0], [1, 7], [2, 0], [2, 7]]
    assert read(scene, points["sizes"]).tolist() == pytest.approx([6 * 100 / 72, 12 * 100 / 72])
    assert json.loads(scene.arrays[points["names"]]) == ["one", "two"]
    told = [points["fill"][int(place)] for place in read(scene, points["paint"])]
    assert told == ["#ff0000ff", "#0000ffff"]
    assert len(points["shape"]) == 4  # of a triangle, closed


def test_what_is_not_to_be_seen_is_left_out():
    made, ax = figure()
    ax.plot([0, 1], [0, 1])[0].set_visible(False)
    ax.plot([], [])
    made.add_axes((0, 0, 1, 1), visible=False)
    ax.set_axis_off()
    (told,) = Scene(made).parts["axes"]
    assert told["artists"] == told["spines"] == told["x"]["ticks"] == told["y"]["ticks"] == []


def test_ticks_are_matplotlibs():
    made, ax = figure()
    ax.set(xlim=(0, 10), ylim=(1, 1000), yscale="log", xlabel=r"a \$ sign")
    ax.set_xticks([1, 2], ["one", "two"])
    made.canvas.draw()
    told = Scene(made).parts["axes"][0]
    assert told["x"]["ticks"] == [[1, "one"], [2, "two"]]
    assert not told["x"]["numbers"]
    assert told["x"]["label"] == "a $ sign"
    assert told["y"]["scale"] == "log"
    assert told["y"]["ticks"] == [[1, "10⁰"], [10, "10¹"], [100, "10²"], [1000, "10³"]]


def test_a_legend_lies_where_matplotlib_draws_it():
    made, ax = figure()
    ax.plot([0, 1], [0, 1], color="red", label="line")
    ax.bar([0], [1], color="blue", label="bar")
    made.legend(loc="upper right")
    ax.legend(title="which")
    made.canvas.draw()
    scene = Scene(made)
    words = [one["text"] for one in scene.parts["axes"][0]["legend"]]
    assert words == ["which", "line", "bar"]
    first = scene.parts["legends"][0]
    box = made.legends[0].get_texts()[0].get_window_extent()
    assert (first["x"], first["y"]) == (pytest.approx(box.x0), pytest.approx(200 - (box.y0 + box.y1) / 2))
    assert first["handle"]["colour"] == "#ff0000ff"
    assert scene.parts["legends"][1]["handle"]["fill"] == ["#0000ffff"]


def test_a_legend_is_laid_out_again_when_it_has_changed(monkeypatch):
    made, ax = figure()
    (line,) = ax.plot([0, 1], [0, 1], label="line")
    named = ax.legend(loc="lower left")
    drawn, draw = [], Legend.draw
    monkeypatch.setattr(Legend, "draw", lambda legend, renderer: drawn.append(legend) or draw(legend, renderer))

    def told():
        (entry,) = Scene(made).parts["axes"][0]["legend"]
        many = len(drawn)
        made.canvas.draw()
        del drawn[many:]
        box = named.get_texts()[0].get_window_extent()
        assert (entry["x"], entry["y"]) == (pytest.approx(box.x0), pytest.approx(200 - (box.y0 + box.y1) / 2))
        return entry, many

    first, _ = told()
    line.set(color="red", ydata=[1, 0])
    named.legend_handles[0].set_color("red")
    again, many = told()
    assert many == 1
    assert again["handle"]["colour"] == "#ff0000ff" != first["handle"]["colour"]
    changes = (
        lambda: named.get_texts()[0].set_text("another line"),
        lambda: named.get_texts()[0].set_fontsize(5),
        lambda: ax.set_position((0.4, 0.3, 0.5, 0.6)),
        lambda: named.set_loc("upper right"),
        lambda: named.set_loc("best"),
        lambda: line.set_ydata([1, 1]),
    )
    for number, change in enumerate(changes, 2):
        change()
        assert told()[1] == number


def test_equal_content_has_one_name_whatever_the_figure():
    names = []
    for _ in range(2):
        made, ax = figure()
        ax.plot([0, 1, 2], [0, 1, 2])
        scene = Scene(made)
        names.append(list(scene.arrays))
    assert names[0] == names[1]
    assert len(names[0]) == 1  # x and y are the same numbers


def test_what_the_page_cannot_draw_is_refused():
    made, ax = figure()
    ax.add_patch(Ellipse((0, 0), 1, 1))
    with pytest.raises(NotImplementedError, match="does not know how to draw a Ellipse"):
        Scene(made)
    made, ax = figure()
    ax.imshow(np.zeros((2, 2, 3)))
    with pytest.raises(NotImplementedError, match="one value a cell"):
        Scene(made)


def test_colours_and_words():
    assert paint("none") == paint((0, 0, 0, 0)) == ""
    assert paint("red", 0.5) == "#ff000080"
    assert plain(r"$\mathdefault{10^{-2}}$") == "10⁻²"
    assert plain(r"5 \$ and \$") == "5 $ and $"


def test_an_attention_map_has_its_first_query_at_the_top():
    from unisat.plots._attention import pattern, set_pattern

    made, ax = figure()
    weights, seconds = np.eye(4, dtype=np.float32), np.arange(4) * 0.02
    import torch

    pattern(torch.from_numpy(weights), seconds=torch.from_numpy(seconds), ax=ax)
    for change in (False, True):
        if change:
            set_pattern(torch.from_numpy(weights), torch.from_numpy(seconds), "again", ax, most=100)
        file = io.BytesIO()
        made.savefig(file, dpi=100)
        pixels = np.asarray(Image.open(file))
        box = ax.get_position()
        left, top = int(300 * box.x0) + 4, int(200 * (1 - box.y1)) + 4
        right, bottom = int(300 * box.x1) - 4, int(200 * (1 - box.y0)) - 4
        bright = [int(pixels[y, x, :3].sum()) for y, x in ((top, left), (bottom, right), (top, right), (bottom, left))]
        assert min(bright[:2]) > max(bright[2:]) + 100
