"""Reading sound: a file or an array becomes a mono *waveform* of 16,000 samples a second.

A waveform here is a float32 tensor ``(samples,)`` on the CPU with full scale at -1 and 1. It is for listening:
it is neither clipped nor made louder. `normalize` turns it into what the model reads.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, IOBase
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from unisat.frames import SAMPLE_RATE

SUFFIXES = (".aif", ".aiff", ".au", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".sph", ".wav")
"""Endings of sound files. libsndfile does not read m4a; it is listed so that such files are reported."""

# zero point and full scale of the integer samples that have one
INTEGERS = {"u1": (128, 2**7), "i2": (0, 2**15), "i4": (0, 2**31)}
MOST_CHANNELS = 8
# libsndfile gives 2**63 - 1 samples where a stream's header gives no length
LONGEST = 2**40


def load(
    path: str | os.PathLike[str] | bytes | bytearray | memoryview | IOBase, *, name: str | None = None
) -> Float[Tensor, " samples"]:
    """Read any sound file as a mono waveform of 16,000 samples a second.

    Parameters
    ----------
    path
        A file of any rate that libsndfile reads (WAV, FLAC, Ogg Vorbis and Opus, MP3, ...), the bytes of such a
        file, or an open binary file, as uploads in a notebook give them. Channels are averaged, with a warning.
    name
        Name of the sound in messages; by default its path.

    Raises
    ------
    FileNotFoundError
        If ``path`` does not exist.
    ValueError
        If the sound cannot be decoded, has no samples, or has samples that are NaN or infinite.
    """
    with _opened(path, name) as (sound, name):
        channels = sound.read(dtype="float32", always_2d=True)
        rate = sound.samplerate
    return _resampled(_checked(_mono(channels, name), name), rate, SAMPLE_RATE, name)


def duration(path: str | os.PathLike[str]) -> float:
    """Length of a sound file in seconds, from its header alone; the errors are those of `load`."""
    with _opened(path, None) as (sound, _):
        return sound.frames / sound.samplerate


def as_waveform(audio: ArrayLike, sampling_rate: int | None) -> Float[Tensor, " samples"]:
    """Copy an array that is already sampled at 16,000 Hz into a waveform.

    Parameters
    ----------
    audio
        NumPy array, tensor or list of floats ``(samples,)``. 16-bit, 32-bit and unsigned 8-bit integers are
        scaled to [-1, 1]. Up to eight channels, ``(channels, samples)`` or ``(samples, channels)``, are
        averaged, with a warning.
    sampling_rate
        Must be 16,000. An array does not hold its rate, and at another rate the model hears another voice.
    """
    if sampling_rate is None:
        raise ValueError("a bare array has no sample rate; pass sampling_rate=16000 or use resample.")
    if sampling_rate != SAMPLE_RATE:
        raise ValueError(
            f"sampling_rate is {sampling_rate}, the model listens at {SAMPLE_RATE}; "
            f"use unisat.audio.resample(audio, {sampling_rate}) first."
        )
    return torch.from_numpy(_samples(audio))


def resample(
    waveform: ArrayLike, sampling_rate: int | float, target: int | float = SAMPLE_RATE
) -> Float[Tensor, " samples"]:
    """Change the rate from ``sampling_rate`` to ``target`` samples a second, with soxr's high quality.

    ``waveform`` is anything that `as_waveform` takes. Frequencies above half the lower rate are filtered out.
    """
    rates: tuple[Any, Any] = (sampling_rate, target)
    for rate in rates:
        if not isinstance(rate, int | float | np.number) or not 0 < rate < math.inf:
            raise ValueError(f"a sample rate is a positive number of samples a second, got {rate!r}.")
    return _resampled(_samples(waveform), sampling_rate, target, "audio")


def normalize(waveform: Tensor) -> Float[Tensor, " samples"]:
    """Zero mean and unit variance over one utterance; silence becomes zeros.

    ``(x - mean) / sqrt(var + 1e-7)`` with the population variance, as in the reference's
    ``Wav2Vec2FeatureExtractor``. The 1e-7 keeps almost silent sound from becoming as loud as speech.
    """
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(
            f"waveform must be (samples,), got {tuple(waveform.shape)}; normalise each utterance by itself, "
            "before padding."
        )
    # in float64 the mean of equal samples is exactly that sample
    double = waveform.double()
    centred = double - double.mean()
    return (centred / (centred.square().mean() + 1e-7).sqrt()).to(waveform.dtype)


def decibels(
    samples: Float[Tensor, " samples"], *, window: int = 400, hop: int = 160, fft: int = 512
) -> Float[Tensor, "frequencies windows"]:
    """Level of each frequency over time, in dB relative to a sine at full scale, at least -120 dB.

    The short-time Fourier transform has a Hann window of ``window`` samples (25 ms) every ``hop`` samples
    (10 ms). Window ``w`` is centred on sample ``w * hop``, with silence before the start and after the end.
    Row ``f`` is at ``f * 16000 / fft`` Hz.
    """
    hann = torch.hann_window(window, device=samples.device)
    spectrum = torch.stft(
        samples.float(), fft, hop, window, hann, center=True, pad_mode="constant", return_complex=True
    )
    # a sine of amplitude 1 has the magnitude sum(window) / 2
    return 20 * (spectrum.abs() * 2 / hann.sum()).clamp(min=1e-6).log10()


@contextmanager
def _opened(source: Any, name: str | None) -> Iterator[tuple[soundfile.SoundFile, str]]:
    """Open a path, bytes or an open file, and give it a name; a decoding error becomes a ValueError with advice."""
    if hasattr(source, "read"):
        name = name or str(getattr(source, "name", "open file"))
        source = source.read()
        if isinstance(source, str):
            raise ValueError(f"{name} is opened as text; expected bytes: open it with mode 'rb'.")
    if isinstance(source, bytes | bytearray | memoryview):
        source, name = BytesIO(source), name or f"sound of {len(source)} bytes"
    else:
        source, name = Path(source), name or os.fspath(source)
        if source.is_dir():
            raise ValueError(f"{name} is a folder; expected a sound file. unisat.corpus.folder reads folders.")
        if not source.exists():
            raise FileNotFoundError(f"{name} does not exist; check the path, or list its folder.")
    try:
        with soundfile.SoundFile(source) as sound:
            if not sound.frames:
                raise ValueError(f"{name} holds no samples; record or export it again.")
            if sound.frames > LONGEST:
                raise ValueError(
                    f"{name} does not say how long it is (a stream written into a pipe?); write it again "
                    "with: ffmpeg -i INPUT output.wav"
                )
            yield sound, name
    # TypeError: a headerless .raw
    except (soundfile.SoundFileError, TypeError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise ValueError(
            f"{name} could not be read as sound ({reason}); WAV, FLAC, Ogg, Opus and MP3 are, anything else "
            "can be converted, for example with: ffmpeg -i INPUT output.wav"
        ) from error


def _samples(audio: Any) -> np.ndarray:
    """Fresh, finite, mono float32 array ``(samples,)`` from anything that `as_waveform` takes."""
    if isinstance(audio, Tensor):
        audio = audio.detach().cpu()
        audio = audio.float() if audio.dtype == torch.bfloat16 else audio
    try:
        given = np.asarray(audio)
    except ValueError as error:
        raise ValueError("audio is a list of unequal lengths; pass its utterances one by one.") from error
    if not given.size:
        raise ValueError(f"audio of shape {given.shape} holds no samples; drop it or record it again.")
    zero, full_scale = INTEGERS.get(given.dtype.str[1:], (0, 0))
    if given.dtype.kind != "f" and not full_scale:
        raise ValueError(
            f"audio holds {given.dtype}, which has no agreed full scale; pass floating point in [-1, 1], or "
            "int16, int32 or uint8 if it is PCM of that width. A path goes to unisat.audio.load."
        )
    # a float64 beyond the range of float32 becomes infinite, and `_checked` refuses it
    with np.errstate(over="ignore"):
        samples = ((given.astype(np.float64) - zero) / full_scale if full_scale else given).astype(np.float32)
    if samples.ndim == 2:
        channels = samples.T if len(samples) < samples.shape[1] else samples
        if channels.shape[1] <= MOST_CHANNELS and (len(channels) > channels.shape[1] or channels.size == 1):
            samples = _mono(channels, "audio")
    if samples.ndim != 1:
        raise ValueError(
            f"audio must be (samples,), or have at most {MOST_CHANNELS} channels; got shape {given.shape}: "
            "pass one utterance, or a list of them to Batch.from_arrays."
        )
    return _checked(samples, "audio")


def _mono(channels: np.ndarray, name: str) -> np.ndarray:
    """Mean over the channels of ``(samples, channels)``."""
    if channels.shape[1] == 1:
        return channels[:, 0]
    warnings.warn(f"{name} has {channels.shape[1]} channels; taking their mean.", UserWarning, stacklevel=4)
    with np.errstate(invalid="ignore"):
        return channels.mean(axis=1)


def _checked(samples: np.ndarray, name: str) -> np.ndarray:
    """Give ``samples`` back if none of them is NaN or infinite."""
    broken = np.flatnonzero(~np.isfinite(samples))
    if len(broken):
        raise ValueError(
            f"{name} has {len(broken)} of {len(samples)} samples NaN or infinite, the first is sample "
            f"{broken[0]}; repair or drop the recording."
        )
    return samples


def _resampled(samples: np.ndarray, rate: int | float, target: int | float, name: str) -> Tensor:
    """Mono float32 ``samples`` at the rate ``target``, as a tensor."""
    if rate != target:
        samples = soxr.resample(samples, rate, target, quality="HQ")
    if not len(samples):
        raise ValueError(f"{name} holds no samples at {target} Hz; drop it or record it again.")
    return torch.from_numpy(np.ascontiguousarray(samples))
