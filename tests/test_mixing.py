"""Utterance mixing against a loop that follows the release line by line, and by its own record."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import unisat as us
from unisat.mixing import Mixing, mix_pair, mix_utterances, power


def waves(batch=6, samples=4000, seed=0):
    scale = torch.tensor([[0.1], [1.0], [0.3], [2.0], [0.5], [0.7]])[:batch]
    return scale * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


LENGTHS = torch.tensor([4000, 3000, 3999, 1000, 2500, 4000])


def mixed_by_loops(sources, primary, row, record, lengths, normalize):
    """The release's inner loop for one utterance, sample by sample, with the record's draws."""
    k, start, end = int(record.secondary[row]), int(record.start[row]), int(record.end[row])
    source_start = int(record.source_start[row])
    n, m = int(lengths[row]), int(lengths[k])
    x, v = primary.double().tolist(), sources[k].double().tolist()
    x_power = sum(value * value for value in x[:n]) / n
    v_power = sum(value * value for value in v[:m]) / m
    ratio = 10 ** (float(record.snr_db[row]) / 10)
    scale = 0.0 if v_power == 0 else math.sqrt(x_power / (v_power * ratio))
    for step in range(end - start):
        x[start + step] += scale * v[source_start + step]
    if normalize:
        mean = sum(x[:n]) / n
        variance = sum((value - mean) ** 2 for value in x[:n]) / n
        x[:n] = [(value - mean) / math.sqrt(variance + 1e-7) for value in x[:n]]
    return torch.tensor(x)


@pytest.mark.parametrize("normalize", [True, False])
def test_against_the_loop(normalize):
    waveforms = waves()
    before = waveforms.clone()
    generator = torch.Generator().manual_seed(3)
    mixed, record = mix_utterances(waveforms, LENGTHS, mixing_prob=0.7, normalize=normalize, generator=generator)
    assert torch.equal(waveforms, before)
    assert 2 <= record.mixed.sum() < 6
    for row in range(6):
        if record.mixed[row]:
            expected = mixed_by_loops(waveforms, waveforms[row], row, record, LENGTHS, normalize)
            torch.testing.assert_close(mixed[row].double(), expected.double(), rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(mixed[row], waveforms[row])


def test_the_faithful_form_goes_on_with_mixtures():
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        waveforms = waves(seed=seed)
        mixed, record = mix_utterances(waveforms, LENGTHS, mixing_prob=0.9, faithful=True, generator=generator)
        so_far = waveforms.clone()
        for row in range(6):
            if record.mixed[row]:
                so_far[row] = mixed_by_loops(so_far, so_far[row], row, record, LENGTHS, True)
        torch.testing.assert_close(mixed, so_far, rtol=1e-4, atol=1e-5)
    every = [
        mix_utterances(waves(), mixing_prob=1.0, faithful=True, generator=torch.Generator().manual_seed(seed))[1]
        for seed in range(300)
    ]
    itself = torch.stack([record.secondary == torch.arange(6) for record in every]).float().mean()
    assert itself == pytest.approx(1 / 6, abs=0.03)
    short = waves(samples=8)
    spans = [
        mix_utterances(short, mixing_prob=1.0, faithful=True, generator=torch.Generator().manual_seed(seed))[1]
        for seed in range(100)
    ]
    lengths = torch.cat([record.end - record.start for record in spans])
    assert set(lengths.tolist()) == {0, 1, 2, 3, 4}  # half of eight samples at most, none at least


@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.1, 0.5, 1.0]), data=st.data())
def test_what_the_record_promises(seed, share, data):
    lengths = torch.tensor(data.draw(st.lists(st.integers(1, 60), min_size=2, max_size=6)))
    samples = int(lengths.max()) + data.draw(st.integers(0, 5))
    waveforms = torch.randn(len(lengths), samples, generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    mixed, record = mix_utterances(waveforms, lengths, mixing_prob=0.8, max_share=share, generator=generator)
    rows = torch.arange(len(lengths))
    span = record.end - record.start
    done = record.mixed
    assert (record.secondary[done] != rows[done]).all()
    assert (span <= share * lengths + 1e-6).all()
    assert (record.start >= 0).all()
    assert (record.end <= lengths).all()
    assert (record.source_start[done] + span[done] <= lengths[record.secondary[done]]).all()
    assert ((record.snr_db[done] >= -5) & (record.snr_db[done] <= 5)).all()
    assert record.snr_db[~done].isnan().all()
    assert (span[~done] == 0).all()
    # one sample of two or more can always be mixed
    long_enough = done & (share * lengths >= 1)
    assert (span[long_enough] >= 1).all()
    padding = torch.arange(samples) >= lengths[:, None]
    assert torch.equal(mixed[padding], waveforms[padding])
    assert torch.equal(record.overlapped(samples).sum(1), span)
    again, _ = mix_utterances(
        waveforms, lengths, mixing_prob=0.8, max_share=share, generator=torch.Generator().manual_seed(seed)
    )
    assert torch.equal(again, mixed)


def test_the_level_is_the_one_drawn():
    waveforms = waves()
    mixed, record = mix_utterances(
        waveforms, mixing_prob=1.0, normalize=False, generator=torch.Generator().manual_seed(0)
    )
    added = mixed - waveforms
    whole = power(waveforms, torch.full((6,), 4000))
    for row in range(6):
        place = slice(int(record.start[row]), int(record.end[row]))
        k, first = int(record.secondary[row]), int(record.source_start[row])
        stretch = waveforms[k, first : first + place.stop - place.start]
        scale = (added[row, place] @ stretch / (stretch @ stretch)).item()  # least squares: how loud it was made
        measured = 10 * math.log10(whole[row] / (scale**2 * whole[k]))
        assert measured == pytest.approx(record.snr_db[row].item(), abs=0.1)
        outside = ~record.overlapped(4000)[row]
        assert added[row, outside].abs().max() == 0


def test_draws_are_uniform():
    waveforms = torch.randn(4, 100)
    records = [
        mix_utterances(waveforms, mixing_prob=0.2, generator=torch.Generator().manual_seed(seed))[1]
        for seed in range(3000)
    ]
    mixed = torch.stack([record.mixed for record in records])
    assert mixed.float().mean() == pytest.approx(0.2, abs=0.02)
    span = torch.stack([record.end - record.start for record in records])[mixed].float()
    assert (span.min(), span.max()) == (1, 50)
    assert span.mean() == pytest.approx(25.5, abs=1.0)
    decibels = torch.stack([record.snr_db for record in records])[mixed]
    assert decibels.mean() == pytest.approx(0, abs=0.3)
    assert decibels.std() == pytest.approx(10 / math.sqrt(12), abs=0.2)
    shift = (torch.stack([record.secondary for record in records]) - torch.arange(4))[mixed] % 4
    share = torch.bincount(shift, minlength=4).float() / len(shift)
    torch.testing.assert_close(share, torch.tensor([0.0, 1 / 3, 1 / 3, 1 / 3]), atol=0.04, rtol=0)


def test_nothing_to_mix():
    for waveforms, probability in ((waves(1), 1.0), (waves(), 0.0)):
        mixed, record = mix_utterances(waveforms, mixing_prob=probability)
        assert torch.equal(mixed, waveforms)
        assert not record.mixed.any()
        assert record.rows() == []
    silent = waves(2)
    silent[1] = 0
    mixed, record = mix_utterances(silent, mixing_prob=1.0, normalize=False)
    assert torch.equal(mixed[0], silent[0])
    assert torch.isfinite(mixed).all()


def test_normalised_as_the_extractor_does():
    mixed, _ = mix_utterances(waves(), LENGTHS, mixing_prob=1.0, normalize=False, generator=torch.manual_seed(1))
    normal, _ = mix_utterances(waves(), LENGTHS, mixing_prob=1.0, generator=torch.manual_seed(1))
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(normal[row, :length], us.audio.normalize(mixed[row, :length]))
    assert normal.dtype == torch.float32
    assert mix_utterances(waves().double(), mixing_prob=1.0)[0].dtype == torch.float64


def test_a_pair_by_hand_is_the_batch():
    waveforms = waves()
    mixed, record = mix_utterances(waveforms, LENGTHS, mixing_prob=1.0, generator=torch.Generator().manual_seed(5))
    for row in range(6):
        k = int(record.secondary[row])
        pair = mix_pair(
            waveforms[row, : LENGTHS[row]],
            waveforms[k, : LENGTHS[k]],
            snr_db=record.snr_db[row].item(),
            start=int(record.start[row]),
            length=int(record.end[row] - record.start[row]),
            source_start=int(record.source_start[row]),
            normalize=True,
        )
        torch.testing.assert_close(pair, mixed[row, : LENGTHS[row]])
    with pytest.raises(ValueError, match="samples 3900 to 4100 do not lie inside the primary utterance of 4000"):
        mix_pair(waveforms[0], waveforms[1], snr_db=0.0, start=3900, length=200)


def test_frames_that_hear_two():
    one = torch.tensor([1])
    for start, end in ((1000, 1300), (720, 960), (719, 961), (640, 641)):  # on, and next to, the ends of frames
        record = Mixing(one, torch.tensor([start]), torch.tensor([end]), one, torch.tensor([0.0]))
        touched = record.overlapped_frames(10, hop=320, receptive_field=400)[0]
        by_hand = [any(start <= sample < end for sample in range(320 * t, 320 * t + 400)) for t in range(10)]
        assert touched.tolist() == by_hand
    record = Mixing(one, torch.tensor([1000]), torch.tensor([1300]), one, torch.tensor([0.0]))
    assert record.rows() == [
        {"utterance": 0, "secondary": 1, "start": 1000, "end": 1300, "source_start": 1, "snr_db": 0.0}
    ]
    # a frame that ends where the overlap begins, or begins where it ends, hears nothing of it
    edges = Mixing(one, torch.tensor([1040]), torch.tensor([1280]), one, torch.tensor([0.0]))
    touched = edges.overlapped_frames(10, hop=320, receptive_field=400)[0]
    assert touched.nonzero().flatten().tolist() == [3]
    nothing = Mixing(-one, 0 * one, 0 * one, 0 * one, torch.tensor([math.nan]))
    assert not nothing.overlapped_frames(10, hop=320, receptive_field=400).any()


@given(st.integers(0, 60), st.integers(0, 20), st.integers(1, 9), st.integers(1, 15))
def test_frames_that_hear_two_by_hand(start, length, hop, field):
    one = torch.tensor([1])
    record = Mixing(one, one * start, one * (start + length), one, torch.tensor([0.0]))
    touched = record.overlapped_frames(12, hop=hop, receptive_field=field)[0]
    heard = set(range(start, start + length))
    assert touched.tolist() == [bool(heard & set(range(hop * t, hop * t + field))) for t in range(12)]


def test_half_precision_stays_half_precision():
    generators = (torch.Generator().manual_seed(2) for _ in range(2))
    exact, half = (
        mix_utterances(wave, LENGTHS, mixing_prob=1.0, generator=generator)[0]
        for wave, generator in zip((waves().half().double(), waves().half()), generators, strict=True)
    )
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), exact, atol=4e-3, rtol=4e-3)


def test_too_short_for_a_stretch_is_not_mixed():
    single = torch.randn(3, 1)
    mixed, record = mix_utterances(single, mixing_prob=1.0)
    assert torch.equal(mixed, single)
    assert not record.mixed.any()


def test_the_longest_stretch_is_computed_in_float64():
    # 0.29 * 400 is a little less than 116 in float64, and 116 in float32
    wave = torch.randn(2, 400)
    spans = [
        (record.end - record.start).max()
        for seed in range(600)
        for record in [mix_utterances(wave, mixing_prob=1.0, max_share=0.29, generator=torch.manual_seed(seed))[1]]
    ]
    assert max(spans) == int(0.29 * 400) == 115


def test_what_is_not_finite_is_refused():
    broken = waves()
    broken[2, 5] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        mix_utterances(broken, LENGTHS, mixing_prob=1.0)
    padded = waves()
    padded[3, 1000:] = torch.nan  # padding may be anything
    mixed, _ = mix_utterances(padded, LENGTHS, mixing_prob=1.0)
    assert all(mixed[row, :length].isfinite().all() for row, length in enumerate(LENGTHS))
    for level in (math.nan, math.inf, -math.inf, 4000.0, -4000.0):
        with pytest.raises(ValueError, match="snr_db=.* must be at least -100 and at most 100"):
            mix_pair(broken[0], broken[1], snr_db=level, start=0, length=10)


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(mixing_prob=1.5), r"mixing_prob=1.5 must be in \[0, 1\]"),
        (dict(max_share=0.0), r"max_share=0.0 in \(0, 1\]"),
        (dict(snr_db=(5.0, -5.0)), "lowest, highest"),
        (dict(snr_db=(-math.inf, 5.0)), "snr_db=-inf must be at least -100 and at most 100"),
        (dict(snr_db=(math.nan, 5.0)), "snr_db=nan must be"),
        (dict(snr_db=(-4000.0, -3000.0)), "snr_db=-4000.0 must be at least -100 and at most 100"),
        (dict(snr_db=5.0), r"snr_db=5.0 must be \(lowest, highest\)"),
        (dict(snr_db=(5.0, {6.0})), r"snr_db={6.0} must be one number, got set"),
        (dict(mixing_prob={0.2, 0.5}), "mixing_prob={.*} must be one number, got set"),
        (dict(max_share=torch.rand(6)), "max_share=tensor.* must be one number, got Tensor"),
        (dict(lengths=[4000] * 6), "lengths must be a tensor, got list"),
        (dict(mixing_prob=math.nan), r"mixing_prob=nan must be in"),
        (dict(lengths=torch.tensor([9.5, 2, 3, 4, 5, 6])), "whole numbers of samples, got torch.float32"),
        (dict(lengths=torch.tensor([1, 2])), r"lengths must be \(6,\)"),
        (dict(lengths=torch.tensor([1, 2, 3, 4, 5, 4001])), "from 1 to 4000"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        mix_utterances(waves(), **options)


@pytest.mark.wrong_types
def test_what_is_no_batch_or_no_place_is_refused():
    with pytest.raises(ValueError, match=r"input_values must be \(batch, samples\) of floats, got \(4000,\)"):
        mix_utterances(waves()[0])
    with pytest.raises(TypeError, match="input_values must be a tensor, got ndarray"):
        mix_utterances(waves().numpy())
    with pytest.raises(TypeError, match=r"start=0.5 must be one whole number, got float"):
        mix_pair(waves()[0], waves()[1], snr_db=0.0, start=0.5, length=10)
    with pytest.raises(ValueError, match=r"secondary must be \(samples,\), got \(6, 4000\)"):
        mix_pair(waves()[0], waves(), snr_db=0.0, start=0, length=10)
