"""Measurements of a waveform that need no model: MFCC, log-mel bands and loudness, the baselines of every probe."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unisat.frames import SAMPLE_RATE

HOP, WINDOW = 160, 400
"""Samples from one frame of MFCC or log-mel bands to the next, and of each frame."""
LEAST_DB = -100.0
"""Level given to silence, in dB of full scale."""


def mfcc(waveform: Float[Tensor, " samples"]) -> Float[Tensor, "frames 39"]:
    """13 MFCC with Kaldi's defaults, their deltas and the deltas of those, 100 frames a second.

    The settings are those of fairseq's ``dump_mfcc_feature.py``: 23 mel bins, windows of 25 ms every 10 ms, no energy,
    no dither, no mean normalisation, samples in [-1, 1].
    """
    import kaldi_native_fbank as kaldi

    options = kaldi.MfccOptions()
    options.use_energy = False
    cepstra = _frames(kaldi.OnlineMfcc, options, waveform, 13)
    first = deltas(cepstra)
    return torch.cat([cepstra, first, deltas(first)], dim=1)


def deltas(features: Float[Tensor, "frames dim"]) -> Float[Tensor, "frames dim"]:
    """Slope of each feature over five frames: ``sum over n = 1, 2 of n (c[t + n] - c[t - n]) / 10``.

    The first and the last frame are repeated beyond the ends.
    """
    if not len(features):
        return features
    index = torch.arange(len(features))
    at = [features[(index + shift).clamp(0, len(features) - 1)] for shift in (-2, -1, 0, 1, 2)]
    return (2 * (at[4] - at[0]) + (at[3] - at[1])) / 10


def log_mel(waveform: Float[Tensor, " samples"], bands: int = 80) -> Float[Tensor, "frames bands"]:
    """Logarithm of the energy in mel bands with Kaldi's defaults (Povey window, pre-emphasis), 100 frames a second."""
    import kaldi_native_fbank as kaldi

    options = kaldi.FbankOptions()
    options.mel_opts.num_bins = bands
    return _frames(kaldi.OnlineFbank, options, waveform, bands)


def loudness(waveform: Float[Tensor, " samples"]) -> float:
    """Root mean square of a waveform in dB: 0 for a square wave at full scale, -100 for silence."""
    power = float(waveform.cpu().double().square().mean()) if len(waveform) else 0.0
    return max(LEAST_DB, 10 * float(np.log10(power))) if power > 0 else LEAST_DB


def _frames(kind: Any, options: Any, waveform: Float[Tensor, " samples"], width: int) -> Float[Tensor, "frames width"]:
    """Frames from one of Kaldi's feature computers, without dither, at 16,000 Hz."""
    options.frame_opts.dither = 0
    options.frame_opts.samp_freq = SAMPLE_RATE
    computer = kind(options)
    computer.accept_waveform(SAMPLE_RATE, waveform.float().tolist())
    computer.input_finished()
    rows = [computer.get_frame(frame) for frame in range(computer.num_frames_ready)]
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, width)
