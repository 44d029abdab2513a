"""Pictures: what the artists hold, against hand computation; not the pixels."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from test_plots_results import RESULTS
from widget_cases import trace

from unisat import plots
from unisat.frames import SAMPLE_RATE, frame_seconds
from unisat.plots import _sound

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


SECONDS = frame_seconds(4, KERNELS, STRIDES)
DRAWN = {
    "activity": lambda ax: plots.activity(torch.eye(4), seconds=SECONDS, ax=ax),
    "alignment": lambda ax: plots.alignment(
        torch.zeros(800), [{"char": "a", "start_seconds": 0.0, "end_seconds": 0.02}], ax=ax
    ),
    "tokens": lambda ax: plots.tokens(torch.rand(4, 2), names=["-", "a"], seconds=SECONDS, ax=ax),
    "waveform": lambda ax: plots.waveform(torch.zeros(800), ax=ax),
    "spectrogram": lambda ax: plots.spectrogram(torch.zeros(800), ax=ax),
    "mask": lambda ax: plots.mask(
        torch.zeros(800), torch.tensor([True, False]), kernels=KERNELS, strides=STRIDES, ax=ax
    ),
    "mask_cells": lambda ax: plots.mask_cells(
        torch.tensor([True, False]), torch.tensor([False, False, True]), hop=320, ax=ax
    ),
    "run_lengths": lambda ax: plots.run_lengths(torch.tensor([3, 12]), ax=ax),
    "hidden": lambda ax: plots.hidden(torch.randn(4, 8), seconds=SECONDS, ax=ax),
    "features": lambda ax: plots.features(torch.randn(4, 8), seconds=SECONDS, ax=ax),
    "norms": lambda ax: plots.norms(trace("hidden.*"), ax=ax),
    "pattern": lambda ax: plots.pattern(torch.rand(4, 4), seconds=SECONDS, ax=ax),
    "entry_scores": lambda ax: plots.entry_scores(np.array([0.2, 0.8]), np.array([0.6, 0.4]), ax=ax),
    "code_track": lambda ax: plots.code_track(np.array([0.1, 0.2]), np.array([3, 4]), entries=8, ax=ax),
    "code_counts": lambda ax: plots.code_counts(np.array([3, 0, 1]), ax=ax),
    "code_map": lambda ax: plots.code_map(np.eye(3, 2), np.array([3, 0, 1]), ax=ax),
    "perplexity": lambda ax: plots.perplexity(pd.DataFrame({"step": [1, 2], "soft": [3.0, 4.0]}), entries=8, ax=ax),
    "mixing": lambda ax: plots.mixing(torch.zeros(800), start=100, end=300, snr_db=0.0, ax=ax),
    "similarity": lambda ax: plots.similarity(torch.rand(4, 4), torch.tensor([0, 0, 1, 1]), ax=ax),
    "terms": lambda ax: plots.terms(pd.DataFrame({"contrastive": [0.5, 0.4]}), ax=ax),
}


NO_PLOTS = {
    "Drawing",
    "architecture",  # of its own in test_plots_architecture.py
    "CLASSES",
    "CellFigure",
    "MAGNITUDE",
    "SIGNED",
    "axes",
    "describe",
    "grade",
    "heat_map",
    "listen",
    "run_counts",
    "say",
}
UNITS = {
    "run_lengths": "(frames",
    **dict.fromkeys(["similarity", "terms", "entry_scores", "code_counts", "code_map", "perplexity"], ""),
}


def test_every_plot_is_tested():
    assert set(DRAWN) | {name.partition(" ")[0] for name in RESULTS} == set(plots.__all__) - NO_PLOTS
    assert not set(DRAWN) & set(RESULTS)


@pytest.mark.parametrize("name", DRAWN)
def test_draws_where_told_or_into_a_new_figure_and_names_its_axes_with_units(name):
    given = Figure().add_subplot()
    assert DRAWN[name](given) is given
    ax = DRAWN[name](None)
    assert ax.figure is not given.figure
    assert ax.figure.png().startswith(b"\x89PNG")  # what a notebook shows
    assert ax.get_xlabel()
    assert UNITS.get(name, "(s)") in ax.get_xlabel()  # over frames, entries and steps there are no seconds
    assert ax.get_ylabel()
    bars = ax.figure.axes[1:]
    assert len(bars) == (len(ax.images) if name != "mask_cells" else 0)  # whose three colours have a legend
    assert all(bar.get_ylabel() for bar in bars)


# the sound


def test_waveform_is_drawn_sample_by_sample():
    samples = torch.tensor([0.0, 0.5, -1.0, 0.25], requires_grad=True)
    (line,) = plots.waveform(samples).lines
    np.testing.assert_allclose(line.get_xdata(), np.arange(4) / SAMPLE_RATE)
    np.testing.assert_allclose(line.get_ydata(), [0, 0.5, -1, 0.25])


def test_long_waveform_keeps_its_peaks():
    samples = torch.zeros(160_003)
    samples[77_777], samples[160_002] = 0.9, -0.8
    (line,) = plots.waveform(samples).lines
    x, y = line.get_xdata(), line.get_ydata()
    assert len(x) < 3 * _sound.POINTS
    assert (np.diff(x) > 0).all()
    assert (y.max(), y.min()) == (pytest.approx(0.9), pytest.approx(-0.8))
    assert x[y.argmax()] == pytest.approx(77_777 / SAMPLE_RATE, abs=0.005)


def test_a_full_scale_sine_is_at_0_db_at_its_frequency():
    samples = torch.sin(2 * math.pi * 1000 * torch.arange(16_000) / SAMPLE_RATE)
    ax = plots.spectrogram(samples)
    levels = np.asarray(ax.images[0].get_array())
    assert levels[:, 50].argmax() == 1000 // (SAMPLE_RATE / 512)
    assert levels[:, 50].max() == pytest.approx(0, abs=0.05)
    assert ax.images[0].get_clim() == (pytest.approx(levels.max() - 80), pytest.approx(levels.max()))
    # column 50 is centred on sample 50 * 160, row 32 on 1000 Hz
    left, right, bottom, top = ax.images[0].get_extent()
    assert left + 50.5 / levels.shape[1] * (right - left) == pytest.approx(0.5)
    assert bottom + 32.5 / len(levels) * (top - bottom) == pytest.approx(1000)


# masks


def test_masked_spans_are_shaded_on_the_hop_grid(clip, masked):
    ax = plots.mask(clip, masked, kernels=KERNELS, strides=STRIDES)
    (shade,) = ax.collections
    drawn = [tuple(path.vertices[:, 0][[0, 2]]) for path in shade.get_paths()]
    expected = [(3 * 0.02, 6 * 0.02), (10 * 0.02, 11 * 0.02), (50 * 0.02, 51 * 0.02)]
    np.testing.assert_allclose([sorted(pair) for pair in drawn], expected)
    assert ax.get_title() == "9.8% of 51 frames masked, 3 runs"


def test_a_mask_of_another_length_is_refused(clip, masked):
    with pytest.raises(ValueError, match=r"must be \(51,\) for 16480 samples, got \(50,\)"):
        plots.mask(clip, masked[:50], kernels=KERNELS, strides=STRIDES)


# layers


def test_a_single_frame_is_a_cell_of_one_hop():
    seconds = frame_seconds(1, KERNELS, STRIDES)  # its centre, 12.5 ms
    drawn = [
        plots.hidden(torch.randn(1, 4), seconds=seconds),
        plots.pattern(torch.ones(1, 1), seconds=seconds),
        plots.norms(pd.DataFrame([[1.0]], columns=[0.0125])),
    ]
    for ax in drawn:
        ax.figure.draw_without_rendering()
        assert ax.images[0].get_extent()[:2] == pytest.approx((0.0025, 0.0225))


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_blank_and_the_rest_is_seen(broken):
    state = torch.linspace(-1, 1, 200).reshape(100, 2)
    state[7, 1] = broken
    seconds = frame_seconds(100, KERNELS, STRIDES)
    for ax in (plots.hidden(state, seconds=seconds), plots.features(state, seconds=seconds)):
        values = np.ma.asarray(ax.images[0].get_array())
        assert np.argwhere(np.ma.getmaskarray(values)).tolist() == [[1, 7]]
        assert ax.images[0].get_clim()[1] == pytest.approx(0.98, abs=0.02)
        ax.figure.draw_without_rendering()


# attention


# mistakes


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: plots.waveform(torch.zeros(2, 800)), r"\(samples,\), got \(2, 800\); .*samples\[0\]"),
        (lambda: plots.waveform(torch.zeros(0)), r"something to draw, got \(0,\)"),
        (lambda: plots.hidden(torch.zeros(1, 4, 8), seconds=torch.zeros(4)), r"hidden_state\[0\]"),
        (lambda: plots.hidden(torch.zeros(4, 8), seconds=torch.zeros(3)), "each of the 4 frames"),
        (lambda: plots.pattern(torch.zeros(4, 3), seconds=torch.zeros(4)), "as many keys as queries"),
    ],
)
def test_mistakes_are_explained(draw, said):
    with pytest.raises(ValueError, match=said):
        draw()


# colours


def lab(rgb):
    """CIELAB of linear RGB (sRGB primaries, D65)."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    ratio = xyz / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
SIGHT = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def seen(colour, sight):
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return lab((SIGHT[sight] @ linear).clip(0, 1))


@pytest.mark.parametrize("sight", SIGHT)
def test_classes_are_told_apart_by_everyone(sight):
    distances = [
        np.linalg.norm(seen(one, sight) - seen(other, sight)) for one, other in itertools.combinations(plots.CLASSES, 2)
    ]
    assert len(distances) == 28
    assert min(distances) > 10


@pytest.mark.parametrize("sight", SIGHT)
def test_more_is_always_lighter(sight):
    lightness = [seen(colour, sight)[0] for colour in colormaps[plots.MAGNITUDE](np.linspace(0, 1, 32))]
    assert (np.diff(lightness) > 0).all()
