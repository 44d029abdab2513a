"""Utterance mixing: a stretch of another utterance is added to a part of this one (arXiv:2110.05752).

The labels stay those of the main speaker, so a model that predicts them must tell the two speakers apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unisat.frames import valid_positions
from unisat.inputs import check_number, check_tensor
from unisat.precision import widest

MOST_DB = 100.0
"""Levels may differ by so many decibels: one power is then 10 billion times the other."""


@dataclass(frozen=True)
class Mixing:
    """What was mixed into which utterance of a batch, and where; positions are in samples.

    Attributes
    ----------
    secondary : (batch,)
        Row of the batch that was mixed in; -1 where nothing was mixed in.
    start, end : (batch,)
        Where the stretch lies in the main utterance; ``end`` is the first sample behind it.
    source_start : (batch,)
        Where the stretch begins in the secondary utterance.
    snr_db : (batch,)
        Power of the whole main utterance over that of the whole secondary one after scaling, in dB; NaN where nothing
        was mixed in.
    """

    secondary: Int[Tensor, " batch"]
    start: Int[Tensor, " batch"]
    end: Int[Tensor, " batch"]
    source_start: Int[Tensor, " batch"]
    snr_db: Float[Tensor, " batch"]

    @property
    def mixed(self) -> Bool[Tensor, " batch"]:
        """True on utterances that something was mixed into."""
        return self.secondary >= 0

    def overlapped(self, samples: int) -> Bool[Tensor, "batch samples"]:
        """True on the samples where both utterances are heard."""
        place = torch.arange(samples, device=self.start.device)
        return (place >= self.start[:, None]) & (place < self.end[:, None])

    def overlapped_frames(self, frames: int, *, hop: int, receptive_field: int) -> Bool[Tensor, "batch frames"]:
        """True on frames that see at least one sample of the overlap."""
        first = torch.arange(frames, device=self.start.device) * hop
        touched = (first < self.end[:, None]) & (first + receptive_field > self.start[:, None])
        return touched & (self.end > self.start)[:, None]

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each mixed utterance, for a table."""
        names = ["secondary", "start", "end", "source_start", "snr_db"]
        return [
            {"utterance": row, **{name: getattr(self, name)[row].item() for name in names}}
            for row in self.mixed.nonzero().flatten().tolist()
        ]


def power(waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Mean square of the valid samples of each utterance, in float64 where the device has it."""
    valid = valid_positions(lengths, waveforms.shape[1])
    return widest(waveforms).square().masked_fill(~valid, 0).sum(1) / lengths


def mix_utterances(
    input_values: Float[Tensor, "batch samples"],
    lengths: Int[Tensor, " batch"] | None = None,
    *,
    mixing_prob: float = 0.2,
    max_share: float = 0.5,
    snr_db: tuple[float, float] = (-5.0, 5.0),
    normalize: bool = True,
    faithful: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "batch samples"], Mixing]:
    """Mix a stretch of another utterance of the batch into some utterances; return the mixtures and a record.

    With probability ``mixing_prob`` an utterance gets a stretch of another one, as that one was before mixing. The
    stretch has at least one sample and at most ``max_share`` of this utterance's samples. It comes from anywhere in
    the other utterance, goes to anywhere in this one, and has a level drawn uniformly in decibels. Levels compare
    whole utterances. A silent secondary utterance adds silence. An utterance that is too short for a stretch of one
    sample stays as it is.

    Parameters
    ----------
    input_values : (batch, samples)
        Waveforms, padded on the right. They are not written to, and padding stays as it is.
    lengths : (batch,), optional
        Valid samples of each utterance; None for all.
    mixing_prob : float
        The best evidence for Base is for 0.2; the released Large has 0.5.
    max_share : float
        Longest stretch as a share of the main utterance. Up to one half, the main speaker stays the main speaker.
    snr_db : (float, float)
        Range of the level of the main utterance over the other one.
    normalize : bool
        Bring mixtures back to zero mean and unit variance, as the authors do for models that expect it.
    faithful : bool
        Keep the release's quirks: utterances are mixed in place, one after the other. So a mixture or the utterance
        itself may be mixed in, and a stretch may be empty.
    generator : torch.Generator, optional
        Source of randomness; None is torch's own.

    Returns
    -------
    mixed : (batch, samples)
    record : Mixing
        With fewer than two utterances nothing is mixed.

    Raises
    ------
    ValueError
        If a number is out of its range, lengths do not fit, or a sample is NaN or infinite.
    """
    check_tensor("input_values", input_values)
    if input_values.ndim != 2 or not input_values.is_floating_point():
        raise ValueError(
            f"input_values must be (batch, samples) of floats, got {tuple(input_values.shape)} of {input_values.dtype}."
        )
    batch, samples = input_values.shape
    lengths = torch.full((batch,), samples, device=input_values.device) if lengths is None else lengths
    sizes = _check(lengths, batch, samples, mixing_prob, max_share, snr_db)
    if not power(input_values, lengths).isfinite().all():
        raise ValueError("input_values hold samples that are NaN or infinite; repair or drop these utterances.")
    device = generator.device if generator is not None else torch.device("cpu")

    # six numbers for each utterance, mixed or not, so that one more mixture changes no other
    draws = torch.rand(batch, 6, generator=generator, device=device).cpu().double()
    record = _drawn(draws, sizes, input_values.device, mixing_prob, max_share, snr_db, faithful)
    if not faithful:
        return _mix(input_values, input_values, lengths, record, lengths, normalize), record
    mixed = input_values.clone()
    for row in record.mixed.nonzero().flatten().tolist():
        mixed[row] = _mix(mixed, mixed[row : row + 1], lengths, _row(record, row), lengths[row : row + 1], normalize)
    return mixed, record


def _drawn(
    draws: Tensor,
    sizes: Tensor,
    device: torch.device,
    mixing_prob: float,
    max_share: float,
    snr_db: tuple[float, float],
    faithful: bool,
) -> Mixing:
    """What to mix into which utterance, and where, from six numbers in [0, 1) for each utterance."""
    batch = len(sizes)
    chosen, who, span, here, there, level = draws.unbind(1)
    if faithful:
        secondary = (who * batch).long()
    else:
        secondary = (torch.arange(batch) + 1 + (who * (batch - 1)).long()) % max(batch, 1)
    # in float64, where a product does not round up to more samples than there are
    longest = torch.minimum((max_share * sizes.double()).long(), sizes[secondary])
    span = (span * (longest + 1)).long() if faithful else (1 + (span * longest).long()).minimum(longest)
    start = (here * (sizes - span + 1)).long()
    source_start = (there * (sizes[secondary] - span + 1)).long()
    decibels = snr_db[0] + level * (snr_db[1] - snr_db[0])

    none = (chosen >= mixing_prob) | torch.tensor(batch < 2)
    none = none if faithful else none | (span == 0)  # too short for a stretch of one sample
    return Mixing(
        secondary=secondary.masked_fill(none, -1).to(device),
        start=start.masked_fill(none, 0).to(device),
        end=(start + span).masked_fill(none, 0).to(device),
        source_start=source_start.masked_fill(none, 0).to(device),
        snr_db=decibels.masked_fill(none, float("nan")).to(device, torch.float32),
    )


def _mix(
    sources: Tensor, primaries: Tensor, source_lengths: Tensor, record: Mixing, lengths: Tensor, normalize: bool
) -> Tensor:
    """Add to each of ``primaries`` its stretch of ``sources``."""
    samples = sources.shape[1]
    secondary = record.secondary.clamp(min=0)
    strength = power(sources, source_lengths)[secondary]
    ratio = power(primaries, lengths) / (strength * 10 ** (widest(record.snr_db) / 10))
    scale = torch.where(strength > 0, ratio, 0).sqrt()

    inside = record.overlapped(samples)
    place = torch.arange(samples, device=sources.device) + (record.source_start - record.start)[:, None]
    stretch = sources[secondary].gather(1, place.clamp(0, samples - 1))
    added = torch.where(inside, stretch * scale[:, None], 0).to(primaries.dtype)
    mixtures = primaries + added
    if normalize:
        mixtures = _normalized(mixtures, lengths)
    valid = valid_positions(lengths, samples)
    return torch.where(record.mixed[:, None] & valid, mixtures, primaries)


def _normalized(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Zero mean and unit variance over the valid samples, as `unisat.audio.normalize` does for one utterance."""
    valid = valid_positions(lengths, waveforms.shape[1])
    wide = widest(waveforms).masked_fill(~valid, 0)
    centred = (wide - (wide.sum(1) / lengths)[:, None]).masked_fill(~valid, 0)
    variance = centred.square().sum(1) / lengths
    return (centred / (variance + 1e-7).sqrt()[:, None]).to(waveforms.dtype)


def _row(record: Mixing, row: int) -> Mixing:
    values = {name: value[row : row + 1] for name, value in vars(record).items()}
    return Mixing(**values)


def mix_pair(
    primary: Float[Tensor, " samples"],
    secondary: Float[Tensor, " others"],
    *,
    snr_db: float,
    start: int,
    length: int,
    source_start: int = 0,
    normalize: bool = False,
) -> Float[Tensor, " samples"]:
    """Mix ``length`` samples of one utterance into another, from sample ``start`` on: `mix_utterances` without draws.

    Raises
    ------
    ValueError
        If the stretch does not lie inside both utterances, or the level is not within 100 decibels.
    """
    check_number("snr_db", snr_db, -MOST_DB, MOST_DB)
    for name, place in (("start", start), ("length", length), ("source_start", source_start)):
        check_number(name, place, whole=True)
    for name, wave in (("primary", primary), ("secondary", secondary)):
        check_tensor(name, wave)
        if wave.ndim != 1:
            raise ValueError(f"{name} must be (samples,), got {tuple(wave.shape)}; give one utterance.")
    for name, first, wave in (("primary", start, primary), ("secondary", source_start, secondary)):
        if not 0 <= first <= first + length <= len(wave):
            raise ValueError(
                f"samples {first} to {first + length} do not lie inside the {name} utterance of {len(wave)} samples."
            )
    samples = max(len(primary), len(secondary))
    pair = torch.stack([torch.nn.functional.pad(wave, (0, samples - len(wave))) for wave in (primary, secondary)])
    lengths = torch.tensor([len(primary), len(secondary)], device=primary.device)
    places = torch.tensor([[1], [start], [start + length], [source_start]], device=primary.device)
    level = torch.tensor([snr_db], dtype=torch.float32, device=primary.device)
    record = Mixing(places[0], places[1], places[2], places[3], level)
    return _mix(pair, pair[:1], lengths, record, lengths[:1], normalize)[0, : len(primary)]


def _check(
    lengths: Tensor, batch: int, samples: int, mixing_prob: float, max_share: float, snr_db: tuple[float, float]
) -> Int[Tensor, " batch"]:
    """Refuse what is out of its range; give the lengths on the CPU."""
    check_number("mixing_prob", mixing_prob)
    check_number("max_share", max_share)
    if not 0 <= mixing_prob <= 1 or not 0 < max_share <= 1:
        raise ValueError(f"mixing_prob={mixing_prob} must be in [0, 1] and max_share={max_share} in (0, 1].")
    if not isinstance(snr_db, list | tuple) or len(snr_db) != 2:
        raise TypeError(f"snr_db={snr_db!r} must be (lowest, highest) in decibels.")
    for bound in snr_db:
        check_number("snr_db", bound, -MOST_DB, MOST_DB)
    if snr_db[0] > snr_db[1]:
        raise ValueError(f"snr_db={snr_db} must be (lowest, highest) in decibels.")
    check_tensor("lengths", lengths)
    if lengths.is_floating_point():
        raise ValueError(f"lengths must be whole numbers of samples, got {lengths.dtype}.")
    sizes = lengths.cpu()  # read once
    if sizes.shape != (batch,) or (batch and not 1 <= int(sizes.min()) <= int(sizes.max()) <= samples):
        raise ValueError(f"lengths must be ({batch},) numbers of samples from 1 to {samples}, got {lengths.tolist()}.")
    return sizes
