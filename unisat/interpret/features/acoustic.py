"""Acoustic baselines of an utterance: measures of the sound itself, without a model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unisat import acoustics
from unisat.frames import SAMPLE_RATE
from unisat.interpret.activations.reduce import mean_std

ACOUSTIC = {
    "logmel": "mean and standard deviation of 80 log-mel bands",
    "mfcc": "mean and standard deviation of 39 MFCC",
    "loudness": "loudness (dB) and length (s)",
}


def acoustic(name: str, waveform: Tensor) -> np.ndarray:
    """Measure an acoustic baseline of one utterance as it was recorded; `ACOUSTIC` describes each baseline."""
    if name == "loudness":
        return np.array([acoustics.loudness(waveform), len(waveform) / SAMPLE_RATE], dtype=np.float32)
    rows = acoustics.log_mel(waveform) if name == "logmel" else acoustics.mfcc(waveform)
    return mean_std(rows[None], torch.ones(1, len(rows), dtype=torch.bool))[0].numpy()
