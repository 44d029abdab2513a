"""Hidden states of recordings of minutes and hours by overlapping chunks, and their error against a whole pass.

The cost of self-attention grows with the square of the length. That of the convolutions does not, and their norm needs
the whole recording. So the convolutions run over all of it, and only the transformer runs by chunks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from unisat import audio
from unisat.frames import SAMPLE_RATE, frame_seconds, hop
from unisat.inputs import check_waveforms
from unisat.interpret.activations.sites import chosen_layers, find_backbone
from unisat.modules import evaluating, unwrap
from unisat.precision import float64

MOST_SECONDS = 120.0
"""Length of the longest recording that `chunk_error` runs whole."""


@dataclass(frozen=True, eq=False)
class LongStates:
    """Hidden states of a long recording, which `encode_long` gives.

    Attributes
    ----------
    hidden_states : dict of int to (frames, hidden)
        Hidden states by layer, numbered as the model's ``hidden_states``: 0 is what enters the first layer.
    seconds : (frames,)
        Time of the centre of each frame.
    chunks : list of (int, int)
        First frame of each chunk and the frame after its last. The chunks tile the recording.
    """

    hidden_states: dict[int, Float[Tensor, "frames hidden"]]
    seconds: Float[Tensor, " frames"]
    chunks: list[tuple[int, int]]


def encode_long(
    model: nn.Module,
    waveform: Float[Tensor, " samples"],
    *,
    chunk_seconds: float = 20.0,
    context_seconds: float = 2.0,
    layers: Literal["last", "all"] | Iterable[int] = "last",
    do_normalize: bool = True,
) -> LongStates:
    """Encode a long recording; memory and time grow with its length, not with the square of it.

    The transformer sees each chunk with ``context_seconds`` on both sides, of which nothing is kept. The front end is
    exact, and so is the positional convolution where the context covers its reach (64 frames or 1.28 s of Base). What
    is missing is attention to frames beyond the context; `chunk_error` measures how much that is.

    Parameters
    ----------
    model : UniSpeechSatModel or a model that holds one
        The model, which is in evaluation mode while this function runs.
    waveform : (samples,)
        The recording at 16 kHz.
    chunk_seconds, context_seconds : float
        What is kept of a chunk, and what the transformer sees on either side. The last chunk may be half as long again.
    layers : "last", "all" or several numbers
        Which hidden states to keep.
    do_normalize : bool
        Whether to bring the whole waveform to zero mean and unit variance, as the model was trained.

    Raises
    ------
    ValueError
        If the waveform is not (samples,), not finite or shorter than a frame, a number is out of range, or there is no
        such layer.
    """
    backbone = find_backbone(unwrap(model))[1]
    config = backbone.config
    last = config.num_hidden_layers
    asked = range(last + 1) if layers == "all" else last if layers == "last" else layers
    chosen = chosen_layers(asked, last, "'last', 'all' or ")
    rate = SAMPLE_RATE / hop(config.conv_stride)
    if not chunk_seconds * rate >= 1 or not context_seconds >= 0:
        raise ValueError(
            f"chunk_seconds={chunk_seconds} must hold a frame ({1 / rate:g} s), and context_seconds={context_seconds} "
            "not be negative."
        )
    if waveform.ndim != 1:
        raise ValueError(f"waveform must be (samples,), got {tuple(waveform.shape)}; encode recordings one by one.")
    check_waveforms(waveform[None], None, config)
    values = audio.normalize(waveform) if do_normalize else waveform
    kept: dict[int, list[Tensor]] = {layer: [] for layer in chosen}
    with evaluating(model), torch.inference_mode():
        features = backbone.feature_extractor(values[None].to(backbone.device, backbone.dtype))
        hidden, _ = backbone.feature_projection(features.transpose(1, 2))
        frames, context = hidden.shape[1], round(context_seconds * rate)
        chunks = tile(frames, max(1, round(chunk_seconds * rate)))
        for start, stop in chunks:
            first = max(0, start - context)
            _, states, _ = backbone.encoder(hidden[:, first : stop + context], output_hidden_states=True)
            for layer in chosen:
                # a copy, since a view would keep the context in memory, too
                kept[layer].append(states[layer][0, start - first : stop - first].to("cpu", copy=True))
    seconds = frame_seconds(frames, config.conv_kernel, config.conv_stride)
    return LongStates({layer: torch.cat(parts).clone() for layer, parts in kept.items()}, seconds, chunks)


def chunk_error(
    model: nn.Module,
    waveform: Float[Tensor, " samples"],
    *,
    chunk_seconds: float = 20.0,
    context_seconds: float = 2.0,
    do_normalize: bool = True,
) -> pd.DataFrame:
    """Measure how far hidden states by chunks are from those of a whole pass, on a recording that is not too long.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``layer``. ``rms`` is the root of the summed squared difference over that of the whole pass;
        ``largest`` is the largest difference of a frame over the root mean square of the frames; ``seam_rms`` is
        ``rms`` of the frames within a quarter of a second of a seam (NaN where there is one chunk).

    Raises
    ------
    ValueError
        If the recording is longer than `MOST_SECONDS`, and where `encode_long` raises one.
    """
    length = waveform.shape[-1] / SAMPLE_RATE
    if length > MOST_SECONDS:
        raise ValueError(
            f"the whole is run for comparison, {length:.0f} s are too long; pass {MOST_SECONDS:g} s of it."
        )

    def encode(seconds: float, context: float) -> LongStates:
        lengths = {"chunk_seconds": seconds, "context_seconds": context}
        return encode_long(model, waveform, layers="all", do_normalize=do_normalize, **lengths)

    parts, whole = encode(chunk_seconds, context_seconds), encode(2 * MOST_SECONDS, 0.0)
    near = torch.zeros(len(parts.seconds), dtype=torch.bool)
    for start, _ in parts.chunks[1:]:
        near |= (parts.seconds - parts.seconds[start]).abs() <= 0.25
    rows = {}
    for layer, state in whole.hidden_states.items():
        exact = float64(state)
        apart = (float64(parts.hidden_states[layer]) - exact).square().sum(-1)
        size = exact.square().sum(-1)
        rows[layer] = {
            "rms": float((apart.sum() / size.sum()).sqrt()),
            "largest": float((apart.max() / size.mean()).sqrt()),
            "seam_rms": float((apart[near].sum() / size[near].sum()).sqrt()) if near.any() else float("nan"),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")


def tile(frames: int, length: int) -> list[tuple[int, int]]:
    """Divide frames into chunks of ``length``; a rest shorter than half a chunk joins the last one."""
    starts = list(range(0, frames, length))
    if len(starts) > 1 and frames - starts[-1] < length / 2:
        starts.pop()
    return list(zip(starts, [*starts[1:], frames], strict=True))
