"""Other channels: what each change does to a signal, in numbers, and what stays."""

import numpy as np
import pytest
import torch

from unisat.training import augment as module
from unisat.training.augment import Augment, augment


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(batch=3, samples=16_000, seed=1):
    return torch.randn(batch, samples, generator=draw(seed))


def rms(wave):
    return wave.square().mean(-1).sqrt()


EVERYTHING = dict(clean_prob=0.0, noise_prob=1.0, room_prob=1.0, band_prob=1.0, change_prob=1.0)


def test_nothing_happens_unless_asked_for():
    waves = noise()
    assert augment(waves, Augment(), generator=draw()) is waves
    assert Augment().idle
    assert not Augment(clean_prob=0.9).idle


def test_level_and_input_stay_and_draws_come_from_the_generator():
    waves = noise() * torch.tensor([[1.0], [0.01], [30.0]])
    before = waves.clone()
    heard = augment(waves, Augment(**EVERYTHING), generator=draw())
    torch.testing.assert_close(waves, before, rtol=0, atol=0)
    torch.testing.assert_close(rms(heard), rms(waves), rtol=1e-4, atol=0)
    assert (heard.mean(1).abs() < 1e-5 * rms(waves)).all()
    torch.testing.assert_close(heard, augment(waves, Augment(**EVERYTHING), generator=draw()), rtol=0, atol=0)
    assert not torch.equal(heard, augment(waves, Augment(**EVERYTHING), generator=draw(5)))
    # each utterance through a channel of its own
    same = waves[:1].expand(3, -1)
    one, two, _ = augment(same, Augment(clean_prob=0.0), generator=draw())
    assert (one - two).abs().max() > 0.1


def test_clean_stays_as_it_was_recorded():
    waves = noise(200, 2_000)
    waves -= waves.mean(1, keepdim=True)
    heard = augment(waves, Augment(**{**EVERYTHING, "clean_prob": 0.4, "change_prob": 0.0}), generator=draw())
    untouched = ((heard - waves).abs().amax(1) < 1e-3 * rms(waves)).float().mean()
    assert 0.3 < untouched < 0.5


def test_padding_changes_nothing_and_is_not_changed():
    waves = noise(2, 8_000)
    waves[1, 5_000:] = 0
    lengths = torch.tensor([8_000, 5_000])
    heard = augment(waves, Augment(**EVERYTHING), generator=draw(), lengths=lengths)
    assert (heard[1, 5_000:] == 0).all()
    torch.testing.assert_close(rms(heard[1, :5_000]), rms(waves[1, :5_000]), rtol=1e-4, atol=0)


def gains(wave, heard):
    """Gain at each frequency of a periodogram in 64 bands, dB."""
    powers = [torch.fft.rfft(part.double()).abs().square()[:8192].reshape(64, -1).mean(1) for part in (wave, heard)]
    return 10 * (powers[1] / powers[0]).log10()


def test_the_equaliser_keeps_within_its_gains():
    waves = noise(8, 32_000)
    heard = augment(waves, Augment(clean_prob=0.0, equalizer_db=6.0), generator=draw())
    for wave, other in zip(waves, heard, strict=True):
        found = gains(wave, other)
        assert 1 < found.max() - found.min() < 13
    flat = augment(waves, Augment(clean_prob=0.0, equalizer_db=0.0), generator=draw())
    torch.testing.assert_close(flat, waves - waves.mean(1, keepdim=True), rtol=0, atol=1e-3)


def test_a_limited_band_ends_where_it_says():
    waves = noise(16, 32_000)
    heard = augment(waves, Augment(clean_prob=0.0, equalizer_db=0.0, band_prob=1.0), generator=draw())
    frequencies = np.arange(64) * 8192 / 64 / 32_000 * 16_000
    for wave, other in zip(waves, heard, strict=True):
        found = gains(wave, other)[(frequencies > 500) & (frequencies < 2_900)]
        assert found.max() - found.min() < 0.5  # louder, as much as is missing elsewhere
    # the spectrum's upper end is behind the highest of limits, 7.5 kHz
    powers = torch.fft.rfft(heard).abs().square()
    top, middle = powers[:, -400:].mean(1), powers[:, 4_000:8_000].mean(1)
    assert (10 * (top / middle).log10() < -2).all()


@pytest.mark.parametrize("level", [0.0, 10.0, 25.0])
def test_noise_has_the_level_that_was_drawn(level):
    place = torch.arange(32_000) / 16_000
    tone = torch.sin(2 * torch.pi * 1_000 * place)[None] * 0.3
    settings = Augment(clean_prob=0.0, equalizer_db=0.0, noise_prob=1.0, noise_db=[level, level])
    heard = augment(tone, settings, generator=draw())
    scale = (heard * tone).sum() / tone.square().sum()  # noise and tone have nothing in common
    left = heard - scale * tone
    assert 20 * float((rms(scale * tone) / rms(left)).log10()) == pytest.approx(level, abs=0.5)


def test_a_room_answers_behind_the_direct_sound():
    click = torch.zeros(4, 16_000)
    click[:, 1_000] = 1
    settings = Augment(clean_prob=0.0, equalizer_db=0.0, room_prob=1.0, room_db=[6.0, 6.0], room_seconds=[0.2, 0.2])
    heard = augment(click, settings, generator=draw())
    centred = heard - heard[:, :900].mean(1, keepdim=True)
    direct, before, after = centred[:, 1_000].square(), centred[:, :990], centred[:, 1_010:]
    assert (before.abs().amax(1) < 1e-3 * direct.sqrt()).all()
    tail = after.square().sum(1)
    for ratio in (10 * (direct / tail).log10()).tolist():
        assert ratio == pytest.approx(6.0, abs=0.3)
    # 60 dB in 0.2 s: 30 dB between two stretches that are 0.1 s apart
    early, late = (centred[:, start : start + 400].square().mean(1) for start in (1_400, 3_000))
    assert float((10 * (early / late).log10()).mean()) == pytest.approx(30, abs=4)


def test_a_channel_changes_on_the_way():
    waves = noise(1, 32_000)
    settings = Augment(clean_prob=0.0, equalizer_db=8.0, change_prob=1.0)
    changing = augment(waves, settings, generator=draw(3))
    still = augment(waves, Augment(clean_prob=0.0, equalizer_db=8.0), generator=draw(3))
    # the first channel is drawn the same; up to a factor for the level the beginnings are alike, the ends are not
    first, last = slice(2_000, 6_000), slice(-6_000, -2_000)

    def likeness(part):
        return float(torch.corrcoef(torch.stack([changing[0, part], still[0, part]]))[0, 1])

    assert likeness(first) > 0.999
    assert likeness(last) < 0.99


def test_silence_stays_finite():
    heard = augment(torch.zeros(2, 4_000), Augment(**EVERYTHING), generator=draw())
    assert heard.isfinite().all()


def test_hats_share_out_the_spectrum():
    knots = module._knots(torch.linspace(0, 8000, 501))
    torch.testing.assert_close(knots.sum(0), torch.ones(501))
