"""Who speaks when: one lane for each speaker, over time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Num, Shaped
from matplotlib.axes import Axes
from torch import Tensor

from unisat.masking import spans
from unisat.plots.style import CLASSES, array, axes, cells


def activity(
    active: Shaped[Tensor, "frames speakers"],
    *,
    seconds: Num[Tensor, " frames"],
    predicted: Shaped[Tensor, "frames speakers"] | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Bars where each speaker is active, first speaker on top; under it, hatched, where a model says so.

    Parameters
    ----------
    active : (frames, speakers)
        True, or 1, where a speaker is active.
    seconds : (frames,)
        Centre of each frame, as `unisat.frames.frame_seconds` gives it.
    predicted : (frames, speakers), optional
        The same from a model, its columns in the order of ``active``; of logits take ``logits > 0``.
    names : list of str, optional
        Of the speakers; "speaker 0", ... if None.
    """
    frames, speakers = array(active, "active", "frames", "speakers").shape
    if predicted is not None and predicted.shape != active.shape:
        raise ValueError(f"predicted must be {tuple(active.shape)}, as active is, got {tuple(predicted.shape)}.")
    names = [f"speaker {speaker}" for speaker in range(speakers)] if names is None else names
    if len(names) != speakers:
        raise ValueError(f"names has {len(names)} entries for {speakers} speakers; give one for each.")
    first, last = cells(seconds, frames)
    step = (last - first) / frames
    kinds = [("", active)] if predicted is None else [(", truth", active), (", predicted", predicted)]
    for kind, values in kinds:
        if not ((values == 0) | (values == 1)).all():
            name = "predicted" if kind == ", predicted" else "active"
            raise ValueError(f"{name} must be 0 or 1: whether each speaker is on; of logits take logits > 0.")
    ax = axes(ax, 8.0, 0.9 + 0.35 * speakers * len(kinds))
    lanes: list[str] = []
    for speaker, name in enumerate(names):
        for kind, values in kinds:
            on = spans(values[:, speaker].detach().cpu().to(torch.bool)).tolist()
            ax.broken_barh(
                [(first + step * start, step * (end - start)) for start, end in on],
                (len(lanes) - 0.4, 0.8),
                facecolor=CLASSES[speaker % len(CLASSES)],
                edgecolor="white",
                alpha=0.6 if kind == ", predicted" else 1.0,
                hatch="///" if kind == ", predicted" else None,
                linewidth=0,
            )
            lanes.append(name + kind)
    ax.set_yticks(range(len(lanes)), lanes, parse_math=False)
    ax.set(xlim=(first, last), ylim=(len(lanes) - 0.5, -0.5), xlabel="time (s)", ylabel="who is active")
    return ax
