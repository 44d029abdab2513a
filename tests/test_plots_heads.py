"""Pictures of what heads say: letters over the waveform, speakers over time."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from unisat import plots
from unisat.frames import frame_seconds
from unisat.plots import CLASSES

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
SECONDS = frame_seconds(4, KERNELS, STRIDES)  # centres, the first cell begins at 2.5 ms
LETTERS = [
    {"char": "a", "start_offset": 0, "end_offset": 2, "start_seconds": 0.0, "end_seconds": 0.04},
    {"char": " ", "start_offset": 2, "end_offset": 3, "start_seconds": 0.04, "end_seconds": 0.06},
    {"char": "$", "start_offset": 45, "end_offset": 46, "start_seconds": 0.9, "end_seconds": 0.92},
]
ACTIVE = torch.tensor([[0, 1], [1, 1], [1, 0], [0, 1]])


def bars(collection):
    """Left, right, bottom and top of each bar."""
    corners = [path.vertices for path in collection.get_paths()]
    return [[*np.sort(c[:, 0])[[0, -1]], *np.sort(c[:, 1])[[0, -1]]] for c in corners]


def test_tokens_are_rows_in_the_order_of_their_ids():
    probabilities = torch.eye(3)[[0, 2, 2, 1]]
    ax = plots.tokens(probabilities, names=["-", "$", "$$"], seconds=SECONDS)
    image = ax.images[0]
    np.testing.assert_array_equal(np.asarray(image.get_array()), probabilities.T)
    assert image.get_clim() == (0, 1)
    np.testing.assert_allclose(image.get_extent(), [0.0025, 0.0825, -0.5, 2.5])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["-", "$", "$$"]


def test_tokens_refuse_logits_and_other_vocabularies():
    with pytest.raises(ValueError, match="2 entries for 3 tokens"):
        plots.tokens(torch.zeros(4, 3), names=["-", "a"], seconds=SECONDS)
    with pytest.raises(ValueError, match=r"softmax\(-1\) first"):
        plots.tokens(torch.full((4, 1), -2.0), names=["-"], seconds=SECONDS)


def test_letters_stand_over_what_is_shaded():
    ax = plots.alignment(torch.zeros(16_000), LETTERS)
    assert [text.get_text() for text in ax.texts] == ["a", "␣", "$"]
    np.testing.assert_allclose([text.xy[0] for text in ax.texts], [0.02, 0.05, 0.91])
    shaded = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches]
    np.testing.assert_allclose(shaded, [(0, 0.04), (0.04, 0.06), (0.9, 0.92)])
    assert ax.get_xlim() == (0, 1)


def test_letters_that_would_touch_go_into_rows():
    near = [{"char": "a", "start_seconds": t, "end_seconds": t + 0.02} for t in (0.1, 0.109, 0.118, 0.5)]
    ax = plots.alignment(torch.zeros(16_000), near)
    assert [text.xyann[1] for text in ax.texts] == [3, 13, 3, 3]


def test_words_are_letters_too():
    ax = plots.alignment(torch.zeros(16_000), [{"word": "yes", "start_seconds": 0.1, "end_seconds": 0.3}])
    assert ax.texts[0].get_text() == "yes"


def test_alignment_needs_seconds():
    with pytest.raises(ValueError, match="decode with frame_seconds="):
        plots.alignment(torch.zeros(800), [{"char": "a", "start_offset": 0, "end_offset": 1}])


def test_activity_has_a_lane_for_each_speaker():
    ax = plots.activity(ACTIVE, names=["Ann", "B$b$"], seconds=SECONDS)
    ann, bob = ax.collections
    np.testing.assert_allclose(bars(ann), [[0.0225, 0.0625, -0.4, 0.4]])
    np.testing.assert_allclose(bars(bob), [[0.0025, 0.0425, 0.6, 1.4], [0.0625, 0.0825, 0.6, 1.4]])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Ann", "B$b$"]
    assert ax.yaxis_inverted()


def test_prediction_is_hatched_under_the_truth():
    ax = plots.activity(ACTIVE, predicted=1 - ACTIVE, seconds=SECONDS)
    assert [bar.get_hatch() for bar in ax.collections] == [None, "///", None, "///"]
    lanes = ["speaker 0, truth", "speaker 0, predicted", "speaker 1, truth", "speaker 1, predicted"]
    assert [label.get_text() for label in ax.get_yticklabels()] == lanes
    np.testing.assert_allclose(bars(ax.collections[3]), [[0.0425, 0.0625, 2.6, 3.4]])
    colours = [tuple(bar.get_facecolor()[0][:3]) for bar in ax.collections]
    assert colours == [to_rgba(CLASSES[k])[:3] for k in (0, 0, 1, 1)]


def test_nobody_is_an_empty_lane():
    ax = plots.activity(torch.zeros(4, 1, dtype=torch.bool), seconds=SECONDS)
    assert bars(ax.collections[0]) == []


def test_activity_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="active must be 0 or 1.*logits > 0"):
        plots.activity(torch.randn(4, 2), seconds=SECONDS)
    with pytest.raises(ValueError, match="predicted must be 0 or 1"):
        plots.activity(ACTIVE, predicted=torch.randn(4, 2), seconds=SECONDS)
    with pytest.raises(ValueError, match="1 entries for 2 speakers"):
        plots.activity(ACTIVE, names=["Ann"], seconds=SECONDS)


@pytest.mark.wrong_types
def test_a_prediction_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"predicted must be \(4, 2\), as active is, got \(3, 2\)"):
        plots.activity(ACTIVE, predicted=ACTIVE[:3], seconds=SECONDS)
