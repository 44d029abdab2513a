"""Which frames are hidden: spans of masked frames over the waveform, drawn on hop cells (`unisat.masking`)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from torch import Tensor

from unisat.frames import SAMPLE_RATE, hop, receptive_field, stack_length
from unisat.masking import spans
from unisat.plots.style import CLASSES
from unisat.plots.wave import waveform as draw_waveform


def summary(mask_time_indices: Bool[Tensor, " frames"]) -> str:
    """Share of frames masked and number of spans, in words."""
    share, count = mask_time_indices.float().mean().item(), len(spans(mask_time_indices))
    return f"{share:.1%} of {len(mask_time_indices)} frames masked, {count} span{'s' * (count != 1)}"


def shade(mask_time_indices: Bool[Tensor, " frames"], *, hop: int, ax: Axes) -> PolyCollection:
    """Shade the hop cells of masked frames in ``ax``; what was added is returned, to be removed again."""
    seconds = spans(mask_time_indices).double() * hop / SAMPLE_RATE
    return ax.broken_barh(
        [(start, end - start) for start, end in seconds.tolist()],
        (0, 1),
        transform=ax.get_xaxis_transform(),
        facecolor=CLASSES[4],
        alpha=0.5,
        linewidth=0,
    )


def mask(
    waveform: Float[Tensor, " samples"],
    mask_time_indices: Bool[Tensor, " frames"],
    *,
    kernels: Sequence[int],
    strides: Sequence[int],
    ax: Axes | None = None,
) -> Axes:
    """Waveform with its masked spans shaded, over time; the title says the share masked and the spans.

    Spans are drawn on the hop grid, frame ``t`` from sample ``hop * t`` to ``hop * (t + 1)``, so that they
    tile; what neighbouring frames see overlaps.

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
    frames = stack_length(waveform.shape[-1], kernels, strides)
    if frames == 0:
        least = receptive_field(kernels, strides)
        raise ValueError(f"a frame needs {least} samples, got {waveform.shape[-1]}; take a longer recording.")
    if mask_time_indices.shape != (frames,):
        raise ValueError(
            f"mask_time_indices must be ({frames},) for {waveform.shape[-1]} samples, "
            f"got {tuple(mask_time_indices.shape)}; pick one utterance and cut the padding from both."
        )
    ax = draw_waveform(waveform, ax=ax)
    ax.set_title(summary(mask_time_indices))
    shade(mask_time_indices, hop=hop(strides), ax=ax)
    return ax
