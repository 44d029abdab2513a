"""Names from outside are shown as they are, also those that matplotlib would read as mathematics."""

import numpy as np
import pandas as pd
import pytest
import torch
from widget_cases import noise, pretraining

import unisat as us
from unisat import plots
from unisat.plots._attention import set_pattern
from unisat.plots._layers import frame_similarity
from unisat.plots._objective import _part_utterances
from unisat.plots._speakers import class_legend
from unisat.plots._style import label_layers, literal
from unisat.widgets._objective import losses
from unisat.widgets._quantizer import quantizer

NAME = r"$\home$"  # no mathematics: matplotlib refuses to draw it
POINTS = pd.DataFrame({"x": [0.0, 1.0], "y": [0.0, 1.0], NAME: [NAME, "b"]})
SHARES = pd.DataFrame([[0.9, 0.1], [0.2, 0.8]], index=pd.Index([NAME, "b"], name=NAME), columns=[NAME, "y"])
RATES = pd.DataFrame({"false_alarm": [0.2, 0.5], "miss": [0.5, 0.2]})
BINS = pd.DataFrame({"low": [0.0], "high": [1.0], "target": [1.0], "impostor": [1.0]})
LEFT = {name: [0.5] for name in ("residual", "shuffled_low", "shuffled_high", "random_low", "random_high")}


def drawn_by(function, *args):
    ax = plots.axes()
    function(*args, ax)
    return ax


PICTURES = {
    "points": lambda: plots.embedding(POINTS, color=NAME, title=NAME),
    "classes": lambda: drawn_by(class_legend, POINTS[NAME], NAME),
    "labels of units": lambda: plots.unit_labels(SHARES),
    "codes": lambda: plots.code_heat_map(SHARES),
    "systems": lambda: plots.det(RATES, label=NAME),
    "scores": lambda: plots.trial_scores(BINS, unit=NAME),
    "steps": lambda: plots.terms(pd.DataFrame({NAME: [1.0, 2.0]}), chance={NAME: 1.0}, label=NAME),
    "subspaces": lambda: plots.subspaces(pd.DataFrame({"site": ["s"], "label": [NAME], "removed": [NAME], **LEFT})),
    "sites": lambda: drawn_by(lambda ax: label_layers(ax, [NAME, "b"])),
    "colours": lambda: plots.attribution(torch.ones(800), torch.ones(4), seconds=torch.arange(4) / 100, label=NAME),
    "matrix": lambda: drawn_by(lambda ax: _part_utterances(np.array([0, 0, 1]), [NAME, "b"], ax)),
    "layers": lambda: frame_similarity(torch.eye(2), [NAME, "b"], label=NAME),
    "units": lambda: plots.unit_durations(
        pd.DataFrame({"unit": [NAME], "frames": [3], "share": [1.0], "mean_seconds": [0.1]})
    ),
    "attention": lambda: drawn_by(_looked_at),
}


def _looked_at(ax):
    plots.pattern(torch.eye(4), seconds=torch.arange(4) / 50, ax=ax)
    set_pattern(torch.eye(4), torch.arange(4) / 50, NAME, ax, most=4)


@pytest.mark.parametrize("picture", PICTURES)
def test_a_name_with_dollars_is_drawn_as_it_is(picture):
    ax = PICTURES[picture]()
    ax.figure.canvas.draw()
    shown = [text.get_text() for text in ax.figure.findobj(lambda one: hasattr(one, "get_text"))]
    assert any(literal(NAME) in text for text in shown)
    assert not any(text.replace(r"\$", "").count("$") for text in shown)
    assert r"\$" not in plots.describe(ax.figure)


def test_literal_dollars():
    assert literal("a $ b") == r"a \$ b"
    assert literal(3) == "3"
    ax = plots.axes()
    for text in ("$1 and $2", r"\$5$", "a$b"):
        title = ax.set_title(literal(text))
        assert title._preprocess_math(title.get_text()) == (text, False)


@pytest.mark.usefixtures("no_widget_is_left")
@pytest.mark.parametrize("widget", ["losses", "quantizer"])
def test_widgets_draw_such_names_too(widget):
    batch = us.Batch.from_arrays(list(noise().waveforms), sampling_rate=16_000, ids=[NAME, "b", "c"])
    made = {"losses": losses, "quantizer": quantizer}[widget](pretraining(), batch)
    assert made.error is None, made.error
    shown = [text.get_text() for text in made.figure.findobj(lambda one: hasattr(one, "get_text"))]
    assert any(literal(NAME) in text for text in shown)
