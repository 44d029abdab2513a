"""Masks: hidden frames over the sound, hidden frames and channels, and the lengths of hidden runs.

Frames are drawn on hop cells, which `unisat.masking.audible` explains.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap
from matplotlib.patches import StepPatch
from torch import Tensor

from unisat.frames import SAMPLE_RATE, hop, receptive_field, stack_length
from unisat.masking import spans
from unisat.plots._sound import waveform as draw_waveform
from unisat.plots._style import CLASSES, axes


def summary(mask_time_indices: Bool[Tensor, " frames"]) -> str:
    """Share of masked frames and number of unbroken runs of them, in words; spans that overlap make one run."""
    share, count = mask_time_indices.float().mean().item(), len(spans(mask_time_indices))
    return f"{share:.1%} of {len(mask_time_indices)} frames masked, {count} run{'s' * (count != 1)}"


def shade(mask_time_indices: Bool[Tensor, " frames"], *, hop: int, ax: Axes) -> PolyCollection:
    """Shade the hop cells of masked frames in ``ax``; return what was added, for `set_shade`."""
    transform = ax.get_xaxis_transform()
    shaded = ax.broken_barh([], (0, 1), transform=transform, facecolor=CLASSES[4], alpha=0.5, linewidth=0)
    set_shade(shaded, mask_time_indices, hop=hop)
    return shaded


def set_shade(shaded: PolyCollection, mask_time_indices: Bool[Tensor, " frames"], *, hop: int) -> None:
    """Move what `shade` drew to another mask."""
    edges = (spans(mask_time_indices).cpu().double() * hop / SAMPLE_RATE).tolist()
    shaded.set_verts([[(start, 0), (start, 1), (end, 1), (end, 0)] for start, end in edges])


def frames_of(waveform: Float[Tensor, " samples"], kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Number of frames of an utterance, at least one.

    Raises
    ------
    ValueError
        If it is too short for a frame.
    """
    frames = stack_length(waveform.shape[-1], kernels, strides)
    if frames == 0:
        least = receptive_field(kernels, strides)
        raise ValueError(f"a frame needs {least} samples, got {waveform.shape[-1]}; take a longer recording.")
    return frames


def mask(
    waveform: Float[Tensor, " samples"],
    mask_time_indices: Bool[Tensor, " frames"],
    *,
    kernels: Sequence[int],
    strides: Sequence[int],
    ax: Axes | None = None,
) -> Axes:
    """Waveform over time with masked spans shaded; the title has the masked share and the number of runs.

    Frame ``t`` is drawn from sample ``hop * t`` to ``hop * (t + 1)``, so that frames lie side by side. What
    neighbouring frames see overlaps.

    Parameters
    ----------
    waveform : (samples,)
        One utterance at 16 kHz, without padding.
    mask_time_indices : (frames,)
        True on masked frames.
    kernels, strides : sequence of int
        The front end, ``config.conv_kernel`` and ``config.conv_stride``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if None.
    """
    frames = frames_of(waveform, kernels, strides)
    if mask_time_indices.shape != (frames,):
        raise ValueError(
            f"mask_time_indices must be ({frames},) for {waveform.shape[-1]} samples, "
            f"got {tuple(mask_time_indices.shape)}; pick one utterance and cut the padding from both."
        )
    ax = draw_waveform(waveform, ax=ax)
    ax.set_title(summary(mask_time_indices))
    shade(mask_time_indices, hop=hop(strides), ax=ax)
    return ax


CELLS = {"seen": "0.85", "hidden frame: the learned vector": CLASSES[4], "hidden channel: zero": CLASSES[0]}
"""What becomes of a number that enters the transformer, and its colour."""


def cell_values(
    mask_time_indices: Bool[Tensor, " frames"], mask_feature_indices: Bool[Tensor, " channels"]
) -> Int[np.ndarray, "channels frames"]:
    """What becomes of each number: 0 is seen, 1 the learned vector, 2 zero. Hidden channels are zero in all frames."""
    time, feature = mask_time_indices.cpu().numpy(), mask_feature_indices.cpu().numpy()
    return np.where(feature[:, None], 2, time[None].astype(int))


def mask_cells(
    mask_time_indices: Bool[Tensor, " frames"],
    mask_feature_indices: Bool[Tensor, " channels"],
    *,
    hop: int,
    ax: Axes | None = None,
) -> Axes:
    """Map of every number that enters the transformer, channels over time: whether it is seen, or how it is hidden.

    Parameters
    ----------
    mask_time_indices : (frames,)
        True on masked frames.
    mask_feature_indices : (channels,)
        True on masked channels of the hidden state.
    hop : int
        Samples from one frame to the next.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if None.
    """
    ax = axes(ax)
    values = cell_values(mask_time_indices, mask_feature_indices)
    channels, frames = values.shape
    ax.imshow(
        values,
        cmap=ListedColormap(list(CELLS.values())),
        vmin=-0.5,
        vmax=2.5,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=(0, frames * hop / SAMPLE_RATE, 0, channels),
    )
    for name, colour in CELLS.items():
        ax.plot([], [], marker="s", linestyle="none", color=colour, label=name)
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=8, frameon=False, handletextpad=0.2)
    ax.set(xlabel="time (s)", ylabel="channel")
    return ax


BIN, LONGEST = 5, 100
"""Frames that one bar of `run_lengths` covers, and where the last bar begins, which counts all longer runs."""


def run_counts(lengths: Int[Tensor, " runs"]) -> Int[np.ndarray, " bars"]:
    """Number of runs in each bar of `run_lengths`."""
    edges = np.append(np.arange(0, LONGEST + BIN, BIN), np.inf)
    return np.histogram(lengths.cpu().numpy(), edges)[0]


def run_lengths(
    lengths: Int[Tensor, " runs"], expected: Float[np.ndarray, " bars"] | None = None, *, ax: Axes | None = None
) -> Axes:
    """Lengths of the hidden runs: bars for one draw, and a line for what a draw is expected to give.

    Parameters
    ----------
    lengths : (runs,)
        Frames of each unbroken run of masked frames, `unisat.masking.span_lengths`.
    expected : (bars,), optional
        `run_counts` of many draws, divided by the number of draws.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if None.
    """
    ax = axes(ax, 4.0, 2.6)
    counts = run_counts(lengths)
    starts = BIN * np.arange(len(counts))
    ax.bar(starts, counts, width=BIN, align="edge", color=CLASSES[4], edgecolor="white", label="this draw")
    line = np.zeros(len(counts)) if expected is None else expected
    ax.stairs(
        line, np.append(starts, starts[-1] + BIN), color="black", label="mean of many", visible=expected is not None
    )
    ax.set(xlabel=f"hidden run (frames;\nlast: {LONGEST} and more)", ylabel="runs", xlim=(0, LONGEST + BIN))
    ax.set_title("bars: this draw" + "\nline: mean of many draws" * (expected is not None), fontsize="small")
    return ax


def set_run_lengths(counts: Int[np.ndarray, " bars"], expected: Float[np.ndarray, " bars"] | None, ax: Axes) -> None:
    """Update what `run_lengths` drew with other `run_counts`."""
    for patch in ax.patches:
        if isinstance(patch, StepPatch):
            patch.set_data(np.zeros(len(counts)) if expected is None else expected)
    for bar, count in zip(ax.containers[0], counts, strict=True):
        bar.set_height(count)
