"""Span masks: the frames and channels that SpecAugment and pretraining hide.

`span_mask` draws a whole batch at once from a `torch.Generator`. `reference_span_mask` is the reference's sampler,
number for number, for comparison with results made by it.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unisat.config import UniSpeechSatConfig
from unisat.inputs import check_number, check_tensor


def num_spans(
    lengths: Int[Tensor, " batch"],
    frames: int,
    mask_prob: float,
    mask_length: int,
    min_spans: int,
    rounding: float,
) -> Int[Tensor, " batch"]:
    """Number of spans of each utterance: ``int(mask_prob * length / mask_length + rounding)``, at least ``min_spans``.

    ``rounding`` in [0, 1) rounds the expected number up or down at random, once for a batch (the reference's
    epsilon). There are never more spans than fit side by side into the padded batch, and never more than the
    utterance has places for a start. An utterance that is shorter than a span has no such place.
    """
    # in float64, like Python's numbers, so that a product close to an integer rounds as in the reference
    expected = mask_prob * lengths.cpu().double() / mask_length + rounding
    wanted = expected.to(lengths).clamp(min=min_spans)
    places = (lengths - (mask_length - 1)).clamp(min=0)
    return wanted.clamp(max=frames // mask_length).minimum(places)


LONGEST = 2**16
"""A span may have so many frames (22 minutes), or as many as the batch."""


def _check_spans(
    lengths: Tensor, frames: int, mask_prob: float, mask_length: int, min_spans: int
) -> Int[Tensor, " batch"]:
    """Refuse what is out of its range; give the lengths on the CPU."""
    check_tensor("lengths", lengths)
    if lengths.ndim != 1 or lengths.is_floating_point():
        raise ValueError(f"lengths must be (batch,) of integers, got {tuple(lengths.shape)} of {lengths.dtype}.")
    check_number("frames", frames, 0, whole=True)
    check_number("mask_prob", mask_prob)
    check_number("mask_length", mask_length, most=max(frames, LONGEST), whole=True)
    check_number("min_spans", min_spans, whole=True)
    if not 0 <= mask_prob <= 1:
        raise ValueError(f"mask_prob={mask_prob} must be a probability in [0, 1].")
    if mask_length < 1 or min_spans < 0:
        raise ValueError(
            f"mask_length={mask_length} must be at least one frame and min_spans={min_spans} not negative."
        )
    sizes = lengths.cpu()  # read once: all that follows from them is counted on the CPU
    longest = int(sizes.max()) if sizes.numel() else frames
    if longest > frames:
        raise ValueError(f"an utterance of {longest} frames does not fit into {frames} frames.")
    if longest < mask_length and (mask_prob > 0 or min_spans > 0):
        warnings.warn(
            f"mask_length={mask_length} frames is longer than every utterance (up to {longest} frames): "
            "nothing is hidden; choose a shorter mask or longer clips.",
            stacklevel=3,
        )
    return sizes


def span_mask(
    lengths: Int[Tensor, " batch"],
    frames: int,
    *,
    mask_prob: float,
    mask_length: int,
    min_spans: int = 0,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "batch frames"]:
    """Hide spans of ``mask_length`` frames, about ``mask_prob`` of each utterance; True on hidden frames.

    Starts are drawn without replacement from all places where a span fits. Spans may overlap, so the hidden share
    is at most about ``mask_prob`` (SpecAugment, arXiv:1904.08779; wav2vec 2.0, arXiv:2006.11477, section 3.1, in
    the reference's form). Padding is never hidden. An utterance shorter than one span keeps all its frames; the
    reference stops with an error there, or hides a frame of padding. If all utterances are that short, a warning
    says so.

    Parameters
    ----------
    lengths : (batch,)
        Valid frames of each utterance.
    frames : int
        Frames of the padded batch.
    mask_prob : float
        Share of frames that would be hidden if no two spans overlapped.
    mask_length : int
        Frames of one span, or channels if the last axis holds channels.
    min_spans : int
        Least number of spans of an utterance, where they fit.
    generator : torch.Generator, optional
        Source of randomness; None is torch's own.

    Raises
    ------
    ValueError
        If a number is out of its range, or a length is larger than ``frames``.
    """
    sizes = _check_spans(lengths, frames, mask_prob, mask_length, min_spans)
    source = generator.device if generator is not None else lengths.device
    rounding = float(torch.rand((), generator=generator, device=source))
    spans = num_spans(sizes, frames, mask_prob, mask_length, min_spans, rounding)

    places = (sizes - mask_length + 1).clamp(min=0)
    starts, drawn = draw_without_replacement(places, spans, generator, source, lengths.device)
    # all rows lie in one line of memory, with room for a span behind each; starts that do not count go into that room
    width = frames + mask_length
    line = torch.zeros(mask_length - 1 + len(lengths) * width, dtype=torch.bool, device=lengths.device)
    rows = line[mask_length - 1 :].view(len(lengths), width)
    rows.scatter_(1, torch.where(drawn, starts, frames), True)
    reach = 1  # frames that each start hides
    while reach < mask_length:
        step = min(reach, mask_length - reach)
        line = line[step:] | line[:-step]
        reach += step
    return line.view(len(lengths), width)[:, :frames].contiguous()


def time_mask(
    lengths: Int[Tensor, " batch"],
    frames: int,
    config: UniSpeechSatConfig,
    generator: torch.Generator | None,
    *,
    mask_prob: float | None = None,
) -> Bool[Tensor, "batch frames"]:
    """Hide spans of frames as a configuration says, in `span_mask`; ``mask_prob`` takes the place of its share."""
    return span_mask(
        lengths,
        frames,
        mask_prob=config.mask_time_prob if mask_prob is None else mask_prob,
        mask_length=config.mask_time_length,
        min_spans=config.mask_time_min_masks,
        generator=generator,
    )


def draw_without_replacement(
    places: Int[Tensor, " batch"],
    count: Int[Tensor, " batch"],
    generator: torch.Generator | None,
    source: torch.device,
    device: torch.device | None = None,
) -> tuple[Int[Tensor, "batch draws"], Bool[Tensor, "batch draws"]]:
    """Draw ``count`` different numbers below ``places`` for each row; return draws, and which of them count.

    The draws are on ``device`` (None: where ``places`` are), and numbers are drawn on ``source``.

    More numbers than needed are drawn, with repetition. The last draw of each number is kept, and the last ``count``
    of these draws count. All numbers are treated alike, so every set of ``count`` numbers is equally probable. A
    random score for each place would work too, but there are fifteen times as many places as spans.
    """
    batch, most = len(places), int(count.max()) if count.numel() else 0
    size = int(places.max()) if places.numel() else 0
    places, count = places.to(device), count.to(device)
    turns = most + most // 8 + 16
    while True:
        scores = torch.rand(batch, turns, generator=generator, device=source).to(places.device)
        draws = (scores * places[:, None]).long().minimum(places[:, None] - 1).clamp(min=0)
        turn = torch.arange(turns, device=places.device).expand(batch, -1)
        # each place keeps the turn of its last draw; only a CPU writes in a known order
        last = torch.empty(batch, max(size, 1), dtype=torch.long, device=places.device)
        if last.device.type == "cpu":
            last.scatter_(1, draws, turn)
        else:
            last.scatter_reduce_(1, draws, turn, "amax", include_self=False)
        kept = last.gather(1, draws) == turn
        rank = kept.cumsum(1)
        if (rank[:, -1] >= count).all():
            return draws, kept & (rank > rank[:, -1:] - count[:, None])
        turns *= 2  # there were too many repetitions, which happens if nearly all places are drawn


def spans(mask_time_indices: Bool[Tensor, " frames"]) -> Int[Tensor, "spans 2"]:
    """First frame of each unbroken run of masked frames, and the first frame behind it."""
    _check_row(mask_time_indices)
    inside = torch.nn.functional.pad(mask_time_indices.int(), (1, 1))
    change = inside.diff()
    return torch.stack([(change == 1).nonzero().flatten(), (change == -1).nonzero().flatten()], dim=1)


def _check_row(mask_time_indices: Tensor) -> None:
    check_tensor("mask_time_indices", mask_time_indices)
    if mask_time_indices.ndim != 1 or mask_time_indices.dtype != torch.bool:
        raise ValueError(
            f"mask_time_indices must be (frames,) of bool, got {tuple(mask_time_indices.shape)} of "
            f"{mask_time_indices.dtype}; give the row of one utterance."
        )


def span_lengths(mask_time_indices: Bool[Tensor, " frames"]) -> Int[Tensor, " spans"]:
    """Number of frames in each of the `spans`; above ``mask_time_length`` where drawn spans overlap or touch."""
    return spans(mask_time_indices).diff(dim=1).flatten()


def audible(
    waveform: Float[Tensor, " samples"],
    mask_time_indices: Bool[Tensor, " frames"],
    *,
    hop: int,
    keep: Literal["visible", "masked"] = "visible",
) -> Float[Tensor, " samples"]:
    """Silence the hop cells of masked frames, or with ``keep="masked"`` everything else.

    Frames overlap (with the default front end each sees 400 samples, and the next one starts 320 samples later), so
    a mask of frames does not divide the samples. Here frame ``t`` owns its *hop cell*, the samples ``[320 t,
    320 (t + 1))``; cells tile the waveform as frames tile the mask. The few samples behind the last cell are visible.

    The two results add up to the waveform. They are for listening: the model masks features, not samples, and the
    visible frame before a span sees the first 5 ms of it.
    """
    if keep not in ("visible", "masked"):
        raise ValueError(f"keep={keep!r} must be 'visible' or 'masked'.")
    _check_row(mask_time_indices)
    check_number("hop", hop, 1, whole=True)
    check_tensor("waveform", waveform)
    if waveform.ndim != 1:
        raise ValueError(f"waveform must be (samples,), got {tuple(waveform.shape)}; give one utterance.")
    masked = mask_time_indices.repeat_interleave(hop)[: len(waveform)]
    masked = torch.nn.functional.pad(masked, (0, len(waveform) - len(masked)))
    return torch.where(masked == (keep == "masked"), waveform, 0.0)


class SpecAugment(nn.Module):
    """Hides spans of frames behind a learned vector, and spans of channels behind zeros (arXiv:1904.08779)."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        self.config = config

    def forward(
        self,
        hidden: Float[Tensor, "batch frames hidden"],
        masked_spec_embed: Float[Tensor, " hidden"] | None,
        lengths: Int[Tensor, " batch"],
        mask_time_indices: Bool[Tensor, "batch frames"] | None,
        generator: torch.Generator | None,
    ) -> tuple[Float[Tensor, "batch frames hidden"], Bool[Tensor, "batch frames"]]:
        """Return the masked frames and the mask; a given mask is always used, and one is drawn only in training."""
        batch, frames, width = hidden.shape
        config, augment = self.config, self.training and self.config.apply_spec_augment
        if mask_time_indices is None and augment and config.mask_time_prob > 0:
            mask_time_indices = time_mask(lengths, frames, config, generator)
        if mask_time_indices is None:
            mask_time_indices = torch.zeros(batch, frames, dtype=torch.bool, device=hidden.device)
        elif masked_spec_embed is None:
            raise ValueError(
                "this model has no masked_spec_embed to hide frames behind: its config has no probability of a mask. "
                "Load it with mask_time_prob=0.05, and train the vector if the checkpoint has none."
            )
        else:
            hidden = torch.where(mask_time_indices[..., None], masked_spec_embed, hidden)
        channel = {"mask_length": config.mask_feature_length, "min_spans": config.mask_feature_min_masks}
        if augment and config.mask_feature_prob > 0:
            widths = torch.full((batch,), width, device=hidden.device)
            mask_feature_indices = span_mask(
                widths, width, mask_prob=config.mask_feature_prob, **channel, generator=generator
            )
            hidden = hidden.masked_fill(mask_feature_indices[:, None], 0)
        return hidden, mask_time_indices


def reference_span_mask(
    shape: tuple[int, int],
    mask_prob: float,
    mask_length: int,
    lengths: list[int] | None = None,
    min_masks: int = 0,
    *,
    rng: np.random.RandomState,
) -> np.ndarray:
    """Draw the reference's mask (``_compute_mask_indices`` of ``transformers`` 4.37.2), quirks included.

    With ``rng = numpy.random.RandomState(seed)`` the result is what the reference gives after
    ``numpy.random.seed(seed)``. In an utterance shorter than one span the *last* frame of the batch is hidden, even
    if it is padding. A ``mask_length`` above the number of frames is an error. Use `span_mask` for new work.

    Returns
    -------
    numpy.ndarray of bool, shape (batch, frames)
    """
    batch, frames = shape
    if mask_length < 1:
        raise ValueError(f"mask_length={mask_length} must be at least 1.")
    if mask_length > frames:
        raise ValueError(
            f"mask_length={mask_length} is longer than the {frames} frames; shorten it or use a longer clip."
        )
    rounding = rng.rand(1).item()

    def spans(length: int) -> int:
        wanted = max(int(mask_prob * length / mask_length + rounding), min_masks)
        if wanted * mask_length > frames:
            wanted = frames // mask_length
        return max(min(wanted, length - (mask_length - 1)), 0)

    mask = np.zeros(shape, dtype=bool)
    most = spans(frames)
    for row, length in zip(mask, lengths or [frames] * batch, strict=True):
        if most == 0:
            break
        starts = rng.choice(np.arange(length - (mask_length - 1)), spans(length), replace=False)
        # the reference pads the list of starts with its first entry, or with the last frame if there is no entry
        if len(starts) == 0:
            starts = np.array([frames - 1])
        for start in starts:
            row[start : start + mask_length] = True
    return mask
