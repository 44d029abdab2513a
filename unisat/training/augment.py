"""Other microphones, rooms and noises: random changes of the channel, for a whole batch at once, where the batch lies.

Targets are made of the clean signal, so a model learns to hear through the channel. An utterance may change its channel
on the way: two halves of one voice then differ in everything but the voice, and the contrastive loss, which has to find
the frames of an utterance, cannot do so by the channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unisat.frames import SAMPLE_RATE, valid_positions

ROOM_SAMPLES = 8000
"""Samples of a room's response, half a second."""

KNOTS = 10
"""Frequencies, equally spaced on the mel scale, between which an equaliser's gain runs along straight lines."""

FADE_SAMPLES = 160
"""Samples over which one channel passes into another."""


@dataclass
class Augment:
    """How often and how much the channel is changed; as it comes, not at all.

    Attributes
    ----------
    clean_prob : float
        Probability that an utterance, or a part of it behind a change, stays as it was recorded.
    equalizer_db : float
        Gains are drawn between minus and plus this, in dB.
    noise_prob, noise_db : float, (float, float)
        How often stationary noise of a random colour is added; range of the level of speech over noise.
    room_prob, room_seconds, room_db
        How often speech is heard in a room; range of the time in which its echo falls by 60 dB, and of the level of the
        direct sound over the echo.
    band_prob : float
        How often the band is limited, as by a telephone or a codec: from 50 to 400 Hz to 3 to 7.5 kHz.
    change_prob : float
        How often the channel changes on the way.
    """

    clean_prob: float = 1.0
    equalizer_db: float = 8.0
    noise_prob: float = 0.0
    noise_db: list[float] = field(default_factory=lambda: [5.0, 30.0])
    room_prob: float = 0.0
    room_seconds: list[float] = field(default_factory=lambda: [0.1, 0.6])
    room_db: list[float] = field(default_factory=lambda: [0.0, 15.0])
    band_prob: float = 0.0
    change_prob: float = 0.0

    def __post_init__(self) -> None:
        names = ("clean_prob", "noise_prob", "room_prob", "band_prob", "change_prob")
        if wrong := [name for name in names if not 0 <= getattr(self, name) <= 1]:
            raise ValueError(f"augment.{wrong[0]}={getattr(self, wrong[0])} must be a probability in [0, 1].")
        if self.equalizer_db < 0:
            raise ValueError(f"augment.equalizer_db={self.equalizer_db} must not be negative.")
        for name in ("noise_db", "room_seconds", "room_db"):
            span = getattr(self, name)
            if len(span) != 2 or not span[0] <= span[1] or (name == "room_seconds" and span[0] <= 0):
                raise ValueError(f"augment.{name}={span} must be a range, [lowest, highest].")

    @property
    def idle(self) -> bool:
        """Whether nothing is ever changed."""
        return self.clean_prob >= 1


class _Draw:
    """Random numbers from a generator, on the device where they are needed."""

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        self.generator, self.device = generator, device

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        drawn = torch.rand(*shape, generator=self.generator, device=self.generator.device).to(self.device)
        return low + (high - low) * drawn

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.generator.device).to(self.device)


def augment(
    waveforms: Float[Tensor, "batch samples"],
    settings: Augment,
    *,
    generator: torch.Generator,
    lengths: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch samples"]:
    """Hear each utterance through another channel; its level stays, and so does the padding.

    Parameters
    ----------
    waveforms : (batch, samples)
        Not written to.
    generator : torch.Generator
        Source of all draws.
    lengths : (batch,), optional
        Valid samples of each utterance; None for all.
    """
    batch, samples = waveforms.shape
    if settings.idle:
        return waveforms
    valid = None if lengths is None else valid_positions(lengths, samples)
    draw = _Draw(generator, waveforms.device)
    heard = _through_channel(waveforms, settings, draw, valid)
    if settings.change_prob > 0:
        other = _through_channel(waveforms, settings, draw, valid)
        when = draw.uniform(batch, 1, low=0.2, high=0.8) * samples
        never = draw.uniform(batch, 1) >= settings.change_prob
        place = torch.arange(samples, device=waveforms.device) - when.masked_fill(never, 2.0 * samples)
        heard = heard + (other - heard) * (place / FADE_SAMPLES).clamp(0, 1)
    return _like(heard, waveforms, valid)


def _through_channel(waveforms: Tensor, settings: Augment, draw: _Draw, valid: Tensor | None) -> Tensor:
    """Filter, echo and noise, each utterance its own."""
    batch, samples = waveforms.shape
    size = samples + ROOM_SAMPLES
    frequencies = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE, device=waveforms.device)
    knots = _knots(frequencies)
    gain = settings.equalizer_db * draw.uniform(batch, KNOTS, low=-1, high=1) @ knots  # dB
    gain = gain - _outside_band(frequencies, settings, draw, batch)
    response = 10 ** (gain / 20) * torch.fft.rfft(_echo(settings, draw, batch), n=size)
    heard = torch.fft.irfft(torch.fft.rfft(waveforms, n=size) * response, n=size)[:, :samples]
    # a room in which nothing was said adds nothing: the level of noise is that under the filtered speech
    colour = 10 ** (15 * draw.uniform(batch, KNOTS, low=-1, high=1) @ knots / 20)
    noise = torch.fft.irfft(torch.fft.rfft(draw.normal(batch, samples), n=size) * colour, n=size)[:, :samples]
    level = draw.uniform(batch, 1, low=settings.noise_db[0], high=settings.noise_db[1])
    level = level + 200.0 * (draw.uniform(batch, 1) >= settings.noise_prob)
    heard = heard + noise * _rms(heard, valid) / _rms(noise, valid) * 10 ** (-level / 20)
    clean = draw.uniform(batch, 1) < settings.clean_prob
    return torch.where(clean, waveforms, _like(heard, waveforms, valid))


def _knots(frequencies: Tensor) -> Float[Tensor, "knots frequencies"]:
    """Share of each knot's gain at each frequency: hats on the mel scale."""
    mel = torch.log1p(frequencies / 700)
    place = mel / math.log1p(SAMPLE_RATE / 2 / 700) * (KNOTS - 1)
    return (1 - (place - torch.arange(KNOTS, device=place.device)[:, None]).abs()).clamp(min=0)


def _outside_band(frequencies: Tensor, settings: Augment, draw: _Draw, batch: int) -> Tensor:
    """What a limited band takes off, in dB: 24 dB an octave below, 60 above."""
    limited = draw.uniform(batch, 1) < settings.band_prob
    octave = frequencies.clamp(min=1).log2()
    lowest = draw.uniform(batch, 1, low=math.log2(50), high=math.log2(400))
    highest = draw.uniform(batch, 1, low=math.log2(3000), high=math.log2(7500))
    off = 24 * (lowest - octave).clamp(min=0) + 60 * (octave - highest).clamp(min=0)
    return off * limited


def _echo(settings: Augment, draw: _Draw, batch: int) -> Float[Tensor, "batch response"]:
    """Response of a simulated room: the direct sound, then noise that dies away."""
    seconds = draw.uniform(batch, 1, low=settings.room_seconds[0], high=settings.room_seconds[1])
    time = torch.arange(ROOM_SAMPLES, device=seconds.device) / SAMPLE_RATE
    tail = draw.normal(batch, ROOM_SAMPLES) * 10 ** (-3 * time / seconds)
    tail = tail * (time > draw.uniform(batch, 1, low=0.002, high=0.01))
    tail = tail / tail.square().sum(1, keepdim=True).sqrt()
    level = draw.uniform(batch, 1, low=settings.room_db[0], high=settings.room_db[1])
    echo = tail * 10 ** (-level / 20) * (draw.uniform(batch, 1) < settings.room_prob)
    direct = torch.zeros_like(echo)
    direct[:, 0] = 1
    return direct + echo


def _rms(waveforms: Tensor, valid: Tensor | None) -> Tensor:
    """Root mean square of the valid samples of each utterance, (batch, 1), never 0."""
    square = waveforms.square()
    if valid is None:
        mean = square.mean(1, keepdim=True)
    else:
        mean = square.masked_fill(~valid, 0).sum(1, keepdim=True) / valid.sum(1, keepdim=True)
    return mean.clamp(min=1e-20).sqrt()


def _like(heard: Tensor, waveforms: Tensor, valid: Tensor | None) -> Tensor:
    """Bring what is heard to the level of what was said, without a constant; padding as it was."""
    if valid is None:
        centred = heard - heard.mean(1, keepdim=True)
        return centred * (_rms(waveforms, None) / _rms(centred, None))
    mean = heard.masked_fill(~valid, 0).sum(1, keepdim=True) / valid.sum(1, keepdim=True)
    centred = heard - mean
    return torch.where(valid, centred * (_rms(waveforms, valid) / _rms(centred, valid)), waveforms)
