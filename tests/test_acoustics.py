"""Acoustic features against plain numpy."""

import math

import numpy as np
import pytest
import torch

import unisat as us
from unisat.acoustics import deltas, log_mel, loudness, mfcc


def kaldi_mfcc(wave):
    """Kaldi's feature-mfcc.cc in plain numpy: 13 cepstra from 23 mel bins, samples in [-1, 1]."""
    frames = (len(wave) - 400) // 160 + 1
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85

    def mel(hertz):
        return 1127 * np.log(1 + hertz / 700)

    edges = np.linspace(mel(20), mel(8000), 25)
    bins = mel(np.arange(256) * 16_000 / 512)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    banks = np.clip(np.minimum(rise, fall), 0, None)  # (23, 256)
    order, places = np.arange(13)[:, None], np.arange(23) + 0.5
    cosine = np.sqrt(2 / 23) * np.cos(np.pi / 23 * order * places)
    cosine[0] = np.sqrt(1 / 23)
    lifter = 1 + 11 * np.sin(np.pi * np.arange(13) / 22)
    rows = []
    for frame in range(frames):
        x = wave[160 * frame : 160 * frame + 400].astype(np.float64)
        x = x - x.mean()
        x = x - 0.97 * np.concatenate([x[:1], x[:-1]])
        power = np.abs(np.fft.rfft(x * window, 512)) ** 2
        rows.append(lifter * (cosine @ np.log(np.maximum(banks @ power[:256], np.finfo(np.float32).eps))))
    return np.array(rows)


def deltas_by_loops(rows):
    out = np.zeros_like(rows)
    for t in range(len(rows)):
        for n in (1, 2):
            after, before = min(t + n, len(rows) - 1), max(t - n, 0)
            out[t] += n * (rows[after] - rows[before]) / 10
    return out


def test_mfcc_against_plain_numpy():
    wave = us.corpus.builtin().batch(0).waveforms[0][:16_000]
    ours = mfcc(wave).numpy()
    cepstra = kaldi_mfcc(wave.numpy())
    assert ours.shape == (98, 39)
    # cepstra reach 100; the difference is that of float32
    np.testing.assert_allclose(ours[:, :13], cepstra, rtol=0, atol=1e-3)
    first = deltas_by_loops(cepstra)
    np.testing.assert_allclose(ours[:, 13:26], first, rtol=0, atol=1e-3)
    np.testing.assert_allclose(ours[:, 26:], deltas_by_loops(first), rtol=0, atol=1e-3)
    np.testing.assert_allclose(deltas(torch.from_numpy(cepstra)).numpy(), first, atol=1e-12)
    assert mfcc(torch.zeros(399)).shape == (0, 39)


def mel_filters(bands):
    """Triangles that rise and fall evenly on the mel scale between 20 Hz and 8 kHz, (bands, 256)."""

    def mel(hertz):
        return 1127 * np.log(1 + hertz / 700)

    edges = np.linspace(mel(20), mel(8000), bands + 2)
    bins = mel(np.arange(256) * 16_000 / 512)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.clip(np.minimum(rise, fall), 0, None)


def test_log_mel_against_plain_numpy():
    wave = us.corpus.builtin().batch(0).waveforms[0][:8_000]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    expected = []
    for start in range(0, 8_000 - 399, 160):
        x = wave[start : start + 400].double().numpy()
        x = x - x.mean()
        x = x - 0.97 * np.concatenate([x[:1], x[:-1]])
        power = np.abs(np.fft.rfft(x * window, 512)) ** 2
        expected.append(np.log(np.maximum(mel_filters(80) @ power[:256], np.finfo(np.float32).eps)))
    np.testing.assert_allclose(log_mel(wave).numpy(), np.array(expected), rtol=0, atol=1e-3)
    assert log_mel(torch.zeros(399), 40).shape == (0, 40)


def test_loudness_is_in_decibels_of_full_scale():
    square = torch.tensor([1.0, -1.0]).repeat(100)
    assert loudness(square) == 0
    assert loudness(0.1 * square) == pytest.approx(-20)
    sine = torch.sin(2 * math.pi * torch.arange(16_000) / 100)
    assert loudness(sine) == pytest.approx(-3.0103, abs=1e-3)
    assert loudness(torch.zeros(100)) == loudness(1e-9 * square) == loudness(torch.zeros(0)) == -100
