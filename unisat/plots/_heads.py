"""What heads say: the probability of each token, letters over the waveform, and who speaks when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Num, Shaped
from matplotlib.axes import Axes
from torch import Tensor

from unisat.masking import spans
from unisat.plots._sound import waveform as draw_waveform
from unisat.plots._style import CLASSES, array, axes, cells, heat_map

LETTER = 0.014
"""Share of the axes' width that a character of a label takes."""


def tokens(
    probabilities: Float[Tensor, "frames vocabulary"],
    *,
    names: Sequence[str],
    seconds: Float[Tensor, " frames"],
    ax: Axes | None = None,
) -> Axes:
    """Probability of every token over time, id 0 at the bottom; ``names`` are the tokens in the order of their ids."""
    values = array(probabilities, "probabilities", "frames", "vocabulary")
    if len(names) != values.shape[1]:
        raise ValueError(f"names has {len(names)} entries for {values.shape[1]} tokens; give one for each id.")
    if values.min() < 0 or values.max() > 1.001:
        raise ValueError("probabilities must lie in [0, 1]; of logits take softmax(-1) first.")
    span = cells(seconds, len(values))
    ax = axes(ax, 8.0, 1.2 + 0.15 * len(names))
    heat_map(values.T, x=span, y=(-0.5, len(names) - 0.5), label="probability", limits=(0.0, 1.0), ax=ax)
    ax.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    ax.set(xlabel="time (s)", ylabel="token")
    return ax


def alignment(
    waveform: Float[Tensor, " samples"], offsets: Sequence[Mapping[str, Any]], *, ax: Axes | None = None
) -> Axes:
    """Waveform with every letter or word above it; the frames that say it are shaded.

    Parameters
    ----------
    waveform : (samples,)
        One utterance at 16 kHz, without padding.
    offsets : list of dict
        ``char_offsets`` or ``word_offsets`` of `Wav2Vec2CTCTokenizer.decode`, called with ``frame_seconds``.
    """
    if any("start_seconds" not in offset for offset in offsets):
        raise ValueError("offsets must have seconds; decode with frame_seconds=config.inputs_to_logits_ratio / 16000.")
    ax = draw_waveform(waveform, ax=ax)
    left, right = ax.get_xlim()
    free: list[float] = []  # where the last label of each row ends
    for number, offset in enumerate(offsets):
        label = str(offset.get("char", offset.get("word"))).replace(" ", "␣")
        start, end = float(offset["start_seconds"]), float(offset["end_seconds"])
        colour = CLASSES[(4, 5)[number % 2]]
        ax.axvspan(start, end, facecolor=colour, alpha=0.5, linewidth=0)
        middle, half = (start + end) / 2, LETTER * len(label) * (right - left) / 2
        row = next((row for row, taken in enumerate(free) if taken <= middle - half), len(free))
        free[row : row + 1] = [middle + half]
        ax.annotate(
            label,
            (middle, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3 + 10 * row),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            parse_math=False,
        )
    ax.set_xlim(left, right)
    return ax


def activity(
    active: Shaped[Tensor, "frames speakers"],
    *,
    seconds: Num[Tensor, " frames"],
    predicted: Shaped[Tensor, "frames speakers"] | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Bars where each speaker is active, the first speaker on top; hatched bars below them are a model's answer.

    Parameters
    ----------
    active : (frames, speakers)
        True, or 1, where a speaker is active.
    seconds : (frames,)
        Centre of each frame, as `unisat.frames.frame_seconds` gives it.
    predicted : (frames, speakers), optional
        The same from a model, with columns in the order of ``active``; if it gives logits, pass ``logits > 0``.
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
