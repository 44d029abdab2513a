"""Random changes of the channel, as by other microphones, rooms and noises, for a whole batch on its device.

Targets are made from the clean signal, so a model learns to ignore the channel. An utterance may also change its
channel on the way. Its two parts then have only the voice in common. The contrastive loss looks for frames of the same
utterance, and it cannot find them by the channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unisat.frames import SAMPLE_RATE, valid_positions

ROOM_SAMPLES = 8000
"""The length of a room's response in samples, half a second."""

KNOTS = 10
"""How many frequencies an equaliser's gain is drawn at; they are equally spaced in mel, and it is linear between."""

FADE_SAMPLES = 160
"""The number of samples during which one channel fades into another."""


@dataclass
class Augment:
    """How often and how much the channel is changed; the default is not at all.

    Attributes
    ----------
    clean_prob : float
        The probability that an utterance stays as it was recorded. Where the channel changes on the way, it is that of
        each part.
    equalizer_db : float
        The equaliser's gains are drawn between minus and plus this, in dB.
    noise_prob : float
        The probability that stationary noise of a random colour is added.
    noise_db : list of float
        The lowest and the highest level of the speech over that noise.
    room_prob : float
        The probability that the speech is heard in a room.
    room_seconds : list of float
        The shortest and the longest time in which the echo of the room falls by 60 dB.
    room_db : list of float
        The lowest and the highest level of the direct sound over the echo.
    band_prob : float
        The probability that the band is limited, as by a telephone or a codec. Its lower end is drawn from 50 to 400
        Hz, its upper end from 3 to 7.5 kHz.
    change_prob : float
        The probability that the channel changes on the way.
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
    """Give each utterance as it sounds through another channel, at the same level and with the same padding.

    Parameters
    ----------
    waveforms : (batch, samples)
        The utterances. They are not written to.
    generator : torch.Generator
        The source of all draws.
    lengths : (batch,), optional
        How many samples of each utterance are valid; None if all are.
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
    """Give each utterance a filter, an echo and a noise of its own."""
    batch, samples = waveforms.shape
    size = samples + ROOM_SAMPLES
    frequencies = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE, device=waveforms.device)
    knots = _knots(frequencies)
    gain = settings.equalizer_db * draw.uniform(batch, KNOTS, low=-1, high=1) @ knots  # dB
    gain = gain - _outside_band(frequencies, settings, draw, batch)
    response = 10 ** (gain / 20) * torch.fft.rfft(_echo(settings, draw, batch), n=size)
    heard = torch.fft.irfft(torch.fft.rfft(waveforms, n=size) * response, n=size)[:, :samples]
    # the level of the noise is relative to the filtered speech, so silence stays silent
    colour = 10 ** (15 * draw.uniform(batch, KNOTS, low=-1, high=1) @ knots / 20)
    noise = torch.fft.irfft(torch.fft.rfft(draw.normal(batch, samples), n=size) * colour, n=size)[:, :samples]
    level = draw.uniform(batch, 1, low=settings.noise_db[0], high=settings.noise_db[1])
    level = level + 200.0 * (draw.uniform(batch, 1) >= settings.noise_prob)
    heard = heard + noise * _rms(heard, valid) / _rms(noise, valid) * 10 ** (-level / 20)
    clean = draw.uniform(batch, 1) < settings.clean_prob
    return torch.where(clean, waveforms, _like(heard, waveforms, valid))


def _knots(frequencies: Tensor) -> Float[Tensor, "knots frequencies"]:
    """Compute the share of each knot's gain at each frequency: triangles on the mel scale."""
    mel = torch.log1p(frequencies / 700)
    place = mel / math.log1p(SAMPLE_RATE / 2 / 700) * (KNOTS - 1)
    return (1 - (place - torch.arange(KNOTS, device=place.device)[:, None]).abs()).clamp(min=0)


def _outside_band(frequencies: Tensor, settings: Augment, draw: _Draw, batch: int) -> Tensor:
    """Compute what a limited band takes off, in dB: 24 dB for each octave below it, 60 for each octave above."""
    limited = draw.uniform(batch, 1) < settings.band_prob
    octave = frequencies.clamp(min=1).log2()
    lowest = draw.uniform(batch, 1, low=math.log2(50), high=math.log2(400))
    highest = draw.uniform(batch, 1, low=math.log2(3000), high=math.log2(7500))
    off = 24 * (lowest - octave).clamp(min=0) + 60 * (octave - highest).clamp(min=0)
    return off * limited


def _echo(settings: Augment, draw: _Draw, batch: int) -> Float[Tensor, "batch response"]:
    """Draw the response of a simulated room: the direct sound, then noise that dies away."""
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
    """Compute the root mean square of the valid samples of each utterance, (batch, 1). It is never 0."""
    square = waveforms.square()
    if valid is None:
        mean = square.mean(1, keepdim=True)
    else:
        mean = square.masked_fill(~valid, 0).sum(1, keepdim=True) / valid.sum(1, keepdim=True)
    return mean.clamp(min=1e-20).sqrt()


def _like(heard: Tensor, waveforms: Tensor, valid: Tensor | None) -> Tensor:
    """Bring what is heard to the level of what was said and take its mean off; leave the padding as it was."""
    if valid is None:
        centred = heard - heard.mean(1, keepdim=True)
        return centred * (_rms(waveforms, None) / _rms(centred, None))
    mean = heard.masked_fill(~valid, 0).sum(1, keepdim=True) / valid.sum(1, keepdim=True)
    centred = heard - mean
    return torch.where(valid, centred * (_rms(waveforms, valid) / _rms(centred, valid)), waveforms)
