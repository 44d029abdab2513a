"""Acoustic baselines of an utterance or a segment: measures of the sound itself, without a model."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unisat import acoustics
from unisat.frames import SAMPLE_RATE
from unisat.interpret.activations.reduce import mean_std

ACOUSTIC = {
    "logmel": "mean and standard deviation of 80 log-mel bands",
    "mfcc": "mean and standard deviation of 39 MFCC",
    "loudness": "loudness (dB) and length (s)",
}


def acoustic(name: str, waveform: Float[Tensor, " samples"]) -> Float[np.ndarray, " dim"]:
    """Measure an acoustic baseline of one utterance as it was recorded; `ACOUSTIC` describes each baseline."""
    if name == "loudness":
        return np.array([acoustics.loudness(waveform), len(waveform) / SAMPLE_RATE], dtype=np.float32)
    rows = spectrum(name, waveform)
    return mean_std(rows[None], torch.ones(1, len(rows), dtype=torch.bool))[0].numpy()


def spectrum(name: str, waveform: Float[Tensor, " samples"]) -> Float[Tensor, "frames dim"]:
    """Give the frames of ``logmel`` or ``mfcc``, 100 a second."""
    return acoustics.log_mel(waveform) if name == "logmel" else acoustics.mfcc(waveform)
