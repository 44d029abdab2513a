"""Reading sound: a file or an array becomes a mono *waveform* of 16,000 samples a second.

A waveform here is a float32 tensor ``(samples,)`` on the CPU with full scale at -1 and 1. It is for listening:
it is neither clipped nor made louder. `normalize` turns it into what the model reads.
"""

from __future__ import annotations

import math
import os
import stat
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BytesIO, IOBase
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from unisat.files import fetched_by
from unisat.frames import SAMPLE_RATE
from unisat.precision import widest

SUFFIXES = tuple(
    f".{ending}"
    for ending in (
        "8svx aac aif aifc aiff amr ape au caf flac iff m4a mka mp2 mp3 mp4 nist oga ogg opus rf64 snd sph voc w64 wav "
        "wave webm wma wv"
    ).split()
)
"""Endings of sound files. libsndfile does not read all of them; the others are listed so that they are reported."""

# zero point and full scale of the integer samples that have one
INTEGERS = {"u1": (128, 2**7), "i2": (0, 2**15), "i4": (0, 2**31)}
MOST_CHANNELS = 8
LONGEST = 2**28
"""Samples beyond which a header is not believed where the file is small for so many (an hour at 75 kHz)."""
RATES = 100, 10_000_000
"""Lowest and highest sample rate that sound of any kind has."""
LOUDEST = 100.0
"""Peak above which samples are taken for whole numbers of PCM that somebody made floats of; full scale is 1."""
EXACT = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")
"""Codings of samples (soundfile's subtypes, also of FLAC) in which a jump ends exactly on the sample."""
NEARLY = ("VORBIS", "OPUS")
"""Codings whose samples differ a little after a jump (by less than 0.001 of full scale)."""
OVERSHOOT = 0.5
"""Seconds by which a piece may be said to end behind its file: tables round."""
CANCELLED = 1e-3
"""Share of the channels' power below which their mean says nothing of them; unlike channels keep 1 / channels."""


def load(
    path: str | os.PathLike[str] | bytes | bytearray | memoryview | IOBase,
    *,
    name: str | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> Float[Tensor, " samples"]:
    """Read any sound file as a mono waveform of 16,000 samples a second.

    Parameters
    ----------
    path
        A file of any rate that libsndfile reads (WAV, FLAC, Ogg Vorbis and Opus, MP3, ...), the bytes of such a
        file, or an open binary file, as uploads in a notebook give them. Channels are averaged, with a warning. Of a
        WAV file whose header was never finished all that follows is read, of a chained Ogg file all its parts.
    name
        Name of the sound in messages; by default its path.
    start, end
        Seconds between which the file is read; by default all of it. Most codings can jump to the place. An end up to
        half a second behind the file is the file's.

    Raises
    ------
    FileNotFoundError
        If ``path`` does not exist.
    ValueError
        If the sound cannot be decoded, has no samples, or has samples that are NaN or infinite, or if the file has
        nothing between ``start`` and ``end``.
    """
    with opened(path, name) as (sounds, name):
        if start or end is not None:
            last = _end(sum(sound.duration() for sound in sounds), start, end, name)
            if len(sounds) == 1:
                rate = sounds[0].samplerate
                part = sounds[0].part(round(start * rate), round(last * rate), EXACT + NEARLY)
                return _resampled(_checked(_mono(part, name), name), rate, SAMPLE_RATE, name)
        parts = [(_mono(sound.decoded(), name), sound.samplerate) for sound in sounds]
    whole = torch.cat([_resampled(_checked(part, name), rate, SAMPLE_RATE, name) for part, rate in parts])
    return whole[round(start * SAMPLE_RATE) : None if end is None else round(end * SAMPLE_RATE)]


def duration(path: str | os.PathLike[str] | bytes, *, start: float = 0.0, end: float | None = None) -> float:
    """Length of a sound file, or of its part between two times, in seconds; the errors are those of `load`.

    Only the header is read. One that does not say how long the sound is, or more than the file can hold, is not
    believed: then all is read.
    """
    with opened(path) as (sounds, name):
        return _end(sum(sound.duration() for sound in sounds), start, end, name) - start


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
        _check_rate(rate, "audio")
    return _resampled(_samples(waveform), sampling_rate, target, "audio")


def decoded(sound: Any, name: str = "audio") -> Float[Tensor, " samples"]:
    """Give the waveform of a sound as a row of a Hugging Face dataset holds it; none of its decoders is needed.

    Parameters
    ----------
    sound
        ``{"bytes": ..., "path": ...}``, the file that is not decoded yet; ``{"array": ..., "sampling_rate": ...}``; a
        decoder of torchcodec, or anything with ``get_all_samples()``; or what `load` takes.
    name
        Name of the sound in messages.
    """
    if isinstance(sound, Mapping) and sound.get("array") is not None:
        array, rate = sound["array"], sound.get("sampling_rate")
    elif isinstance(sound, Mapping):
        given = sound.get("path") if sound.get("bytes") is None else sound["bytes"]
        if given is None:
            raise ValueError(f"{name} has neither array nor bytes nor path; it has {', '.join(map(str, sound))}.")
        return load(given, name=None if isinstance(given, str) else name)
    elif hasattr(sound, "get_all_samples"):
        samples = sound.get_all_samples()
        array, rate = samples.data, samples.sample_rate
    elif isinstance(sound, str | os.PathLike | bytes):
        return load(sound, name=None if isinstance(sound, str | os.PathLike) else name)
    else:
        raise TypeError(
            f"{name} is {type(sound).__name__}; expected a row's audio: a mapping with bytes, path or array, a "
            "decoder, or a path."
        )
    if rate is None:
        raise ValueError(f"{name} is an array without its sampling_rate; give both.")
    return as_waveform(array, rate) if rate == SAMPLE_RATE else resample(array, rate)


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
    wide = widest(waveform)
    centred = wide - wide.mean()
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


class Sound(soundfile.SoundFile):
    """A sound file of ``size`` bytes that is read on and on.

    soundfile jumps after each read to where it is anyway. Some codings cannot jump, and no file where its header lies.
    """

    size = 0

    def seekable(self) -> bool:
        """Say no, so that no read is followed by a jump; `seek` itself jumps."""
        return False

    def decoded(self) -> np.ndarray:
        """Give all samples (samples, channels)."""
        if self._believed():
            return self.read(self.frames, dtype="float32", always_2d=True)
        return np.concatenate(list(self._blocks()))

    def part(self, first: int, last: int, jumps: tuple[str, ...] = EXACT) -> np.ndarray:
        """Give the samples (samples, channels) from ``first`` up to ``last``; jump there in the codings ``jumps``."""
        if not self._believed():
            return self.decoded()[first:last]
        skip = first if self.subtype.startswith(jumps) else 0
        if skip:
            self.seek(skip)  # never to 0, after which MP3 would be decoded differently
        return self.read(max(0, min(last, self.frames) - skip), dtype="float32", always_2d=True)[first - skip :]

    def duration(self) -> float:
        """Give the length in seconds."""
        return (self.frames if self._believed() else sum(map(len, self._blocks()))) / self.samplerate

    def _believed(self) -> bool:
        """Whether the file can hold as much as its header says; only the longest silence takes less."""
        return self.frames * self.channels <= LONGEST or self.frames <= 64 * self.size

    def _blocks(self) -> Iterator[np.ndarray]:
        while len(block := self.read(2**20, dtype="float32", always_2d=True)):
            yield block


@contextmanager
def opened(source: Any, name: str | None = None) -> Iterator[tuple[list[Sound], str]]:
    """Open a path, bytes or an open file: its sounds, nearly always one, and its name.

    A chained Ogg file has several. A decoding error, also one inside the scope, becomes a ValueError with advice.
    """
    if hasattr(source, "read"):
        name = name or str(getattr(source, "name", "open file"))
        source = source.read()
        if isinstance(source, str):
            raise ValueError(f"{name} is opened as text; expected bytes: open it with mode 'rb'.")
    with ExitStack() as stack:
        if isinstance(source, bytes | bytearray | memoryview):
            given: Any = BytesIO(source)
            file, name = given, name or f"sound of {len(source)} bytes"
        else:
            name = name or os.fspath(source)
            _check_path(source, name)
            file = stack.enter_context(open(source, "rb", buffering=0))
            # libsndfile knows no names longer than 1,023 bytes, and soundfile none that are not UTF-8
            given = file.fileno() if os.name == "posix" else os.fspath(source)
        try:
            pieces = _chain(file) or _unfinished(file, name)
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            sounds = [stack.enter_context(Sound(piece, closefd=False)) for piece in pieces or [given]]
            for sound in sounds:
                sound.size = size
                _check_rate(sound.samplerate, name)
                if not sound.frames:
                    said = f" in its {size:,} bytes (unfinished?)" if size > 4096 else ""
                    raise ValueError(f"{name} holds no samples{said}; record or export it again.")
            yield sounds, name
        # TypeError: a headerless .raw
        except (soundfile.SoundFileError, TypeError) as error:
            reason = getattr(error, "error_string", str(error)).rstrip(".")
            file.seek(0)
            if command := fetched_by(file.read(64)):
                raise ValueError(f"{name} holds no sound but a pointer to it; run {command}.") from error
            raise ValueError(
                f"{name} could not be read as sound ({reason}); WAV, FLAC, Ogg, Opus and MP3 are, anything else "
                "can be converted, for example with: ffmpeg -i INPUT output.wav"
            ) from error


def _end(seconds: float, start: float, end: float | None, name: str) -> float:
    """Give the second at which a part of a sound of so many ``seconds`` ends."""
    last = seconds if end is None else end
    if not 0 <= start < min(last, seconds) or last > seconds + OVERSHOOT:
        said = f"{start:g} to {'its end' if end is None else f'{end:g}'}"
        raise ValueError(f"{name} lasts {seconds:g} s and has no part from {said} s; correct start and end.")
    return min(last, seconds)


def _check_path(path: Any, name: str) -> None:
    """Refuse what is no file: a pipe would be waited for, and a link to a terminal opened."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        what = "is a link to a file that does not exist" if os.path.islink(path) else "does not exist"
        raise FileNotFoundError(f"{name} {what}; check the path, or list its folder.") from None
    except ValueError as error:
        raise ValueError(f"{name!r} is no path ({error}).") from None
    if stat.S_ISDIR(mode):
        raise ValueError(f"{name} is a folder; expected a sound file. unisat.corpus.folder reads folders.")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{name} is a pipe or a device; expected a sound file.")


def _check_rate(rate: Any, name: str) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(
            f"{name} has a sample rate of {rate} Hz; expected {RATES[0]:,} to {RATES[1]:,}: its header, or the number, "
            "is wrong."
        )


def _unfinished(file: Any, name: str) -> list[BytesIO]:
    """Give a WAV file with the sizes that it has, where the recorder was killed before it wrote them; else nothing."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    if (head := file.read(12))[:4] != b"RIFF" or head[8:] != b"WAVE":
        return []
    kind, size, start = b"", 0, 12
    while kind != b"data":
        start += size + size % 2
        file.seek(start)
        if len(head := file.read(8)) < 8:
            return []
        kind, size = struct.unpack("<4sI", head)
        start += 8
    after = start + size + size % 2
    if after + 8 > end:
        return []
    file.seek(after)
    following, length = struct.unpack("<4sI", file.read(8))
    if all(0x20 <= byte < 0x7F for byte in following) and (size or after + 8 + length <= end):
        return []
    warnings.warn(
        f"{name} says that it has {size:,} bytes of samples, but {end - start:,} follow: reading all of them. The "
        "recording seems to be unfinished.",
        UserWarning,
        stacklevel=6,
    )
    file.seek(0)
    whole = bytearray(file.read())
    whole[4:8], whole[start - 4 : start] = (struct.pack("<I", min(end - at, 2**32 - 1)) for at in (8, start))
    return [BytesIO(whole)]


def _chain(file: Any) -> list[BytesIO]:
    """Divide an Ogg file into the streams that lie one behind the other in it; nothing where there is only one.

    libsndfile reads the first of them. The last page of a chain has a number that no stream has at the beginning.
    """
    if file.read(4) != b"OggS":
        return []
    file.seek(max(0, file.seek(0, os.SEEK_END) - 2**17))
    tail = file.read()
    file.seek(0)
    head = file.read(2**16)
    at, numbers = 0, set()
    while head[at : at + 4] == b"OggS" and head[at + 5] & 2:  # pages that begin a stream
        numbers.add(head[at + 14 : at + 18])
        at += _page(head, at)
    if not numbers or tail[tail.rfind(b"OggS") :][14:18] in numbers:
        return []
    file.seek(0)
    whole = file.read()
    at, starts, before = 0, [], 0
    while whole[at : at + 4] == b"OggS":
        begins = whole[at + 5] & 2
        starts += [at] if begins and not before else []
        before = begins
        at += _page(whole, at)
    return [BytesIO(whole[start:end]) for start, end in zip(starts, [*starts[1:], len(whole)], strict=True)]


def _page(data: bytes, at: int) -> int:
    """Count the bytes of a page of an Ogg file."""
    segments = data[at + 26 : at + 27]
    return 27 + sum(segments) + sum(data[at + 27 : at + 27 + sum(segments)])


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
    with np.errstate(invalid="ignore", over="ignore"):
        mean = channels.mean(axis=1)
        if np.square(mean).sum() < CANCELLED * np.square(channels).mean(axis=1).sum():
            said = f"the channels of {name} cancel each other: nearly nothing is left in their mean; take one of them."
            warnings.warn(said, UserWarning, stacklevel=4)
    return mean


def _checked(samples: np.ndarray, name: str) -> np.ndarray:
    """Give ``samples`` back if none of them is NaN or infinite."""
    broken = np.flatnonzero(~np.isfinite(samples))
    if len(broken):
        raise ValueError(
            f"{name} has {len(broken)} of {len(samples)} samples NaN or infinite, the first is sample "
            f"{broken[0]}; repair or drop the recording."
        )
    if len(samples) and (peak := max(samples.max(), -samples.min())) > LOUDEST:
        warnings.warn(
            f"{name} has samples up to {peak:,.0f}, where full scale is 1; divide whole numbers of PCM by their full "
            "scale (32768 for 16 bits).",
            UserWarning,
            stacklevel=4,
        )
    return samples


def _resampled(samples: np.ndarray, rate: int | float, target: int | float, name: str) -> Tensor:
    """Mono float32 ``samples`` at the rate ``target``, as a tensor."""
    if rate != target:
        samples = soxr.resample(samples, rate, target, quality="HQ")
    if not len(samples):
        raise ValueError(f"{name} holds no samples at {target} Hz; drop it or record it again.")
    return torch.from_numpy(np.ascontiguousarray(samples))
