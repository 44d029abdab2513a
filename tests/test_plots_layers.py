"""Pictures of the layers of a run: what the artists hold, against the values."""

import numpy as np
import pytest
import torch
from widget_cases import deep, trace

from unisat import plots
from unisat.frames import frame_seconds
from unisat.interpret.layers.over_time import rms_norms
from unisat.plots._layers import frame_similarity, outline, set_frame_similarity, set_outline

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


def test_similarities_have_zero_in_the_middle_and_numbers_in_the_cells():
    values = torch.tensor([[1.0, -0.5], [0.25, 1.0]])
    ax = frame_similarity(values, ["hidden.0", "hidden.4"], label="cosine")
    assert ax.images[0].get_clim() == (-1, 1)
    assert [text.get_text() for text in ax.texts] == ["1.00", "-0.50", "0.25", "1.00"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "4"]
    set_frame_similarity(values.T, "other", ax)
    np.testing.assert_array_equal(ax.images[0].get_array(), values.T)
    assert [text.get_text() for text in ax.texts] == ["1.00", "0.25", "-0.50", "1.00"]
    assert ax.get_title() == "other"
    many = frame_similarity(torch.eye(13), [f"hidden.{layer}" for layer in range(13)], label="many")
    assert len(many.texts) == 0


def test_an_outline_is_a_row_or_a_column_wide():
    ax = frame_similarity(torch.eye(3), ["hidden.0", "hidden.1", "hidden.2"], label="")
    row, column = outline(ax), outline(ax, column=True)
    set_outline(row, 2)
    set_outline(column, 1, column=True)
    ax.figure.canvas.draw()
    ends = [one.get_transform().transform_path(one.get_path()).get_extents() for one in (row, column)]
    corners = [ax.transData.transform(point) for point in ((-0.5, 1.5), (2.5, 2.5), (0.5, -0.5), (1.5, 2.5))]
    np.testing.assert_allclose([ends[0].min, ends[0].max, ends[1].min, ends[1].max], corners)


def test_hidden_state_is_channels_over_seconds():
    state = torch.randn(20, 6, generator=torch.Generator().manual_seed(2), dtype=torch.bfloat16)
    image = plots.hidden(state, seconds=frame_seconds(20, KERNELS, STRIDES)).images[0]
    np.testing.assert_allclose(np.asarray(image.get_array()), state.float().numpy().T)
    low, high = image.get_clim()
    assert low == -high  # white is zero
    left, right, bottom, top = image.get_extent()
    # the first frame's centre is 12.5 ms; cells are 20 ms wide
    assert (left, right, bottom, top) == (
        pytest.approx(0.0025),
        pytest.approx(0.4025),
        -0.5,
        5.5,
    )


def test_features_end_at_the_99th_percentile():
    conv = torch.linspace(0, 100, 101)[:, None].expand(101, 3)
    ax = plots.features(conv, seconds=frame_seconds(101, KERNELS, STRIDES))
    assert ax.images[0].get_clim() == (0, pytest.approx(99))
    assert ax.images[0].colorbar.extend == "max"


def test_norms_drawn_from_a_trace_or_from_its_table():
    table = rms_norms(deep(), utterance=1)
    for ax in (plots.norms(deep(), utterance=1), plots.norms(table)):
        np.testing.assert_array_equal(ax.images[0].get_array(), table)
        assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "2", "10"]


def test_a_trace_without_hidden_states_says_how_to_capture_them():
    with pytest.raises(ValueError, match=r'holds conv.out.*us.run\(model, batch, "hidden.\*"\)'):
        plots.norms(trace("conv.out"))
