import json
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import span_lengths
from scipy.stats import chisquare

from unisat import masking
from unisat.masking import audible, draw_without_replacement, num_spans, reference_span_mask, span_mask


def draw(lengths, frames, seed=0, **options):
    return span_mask(torch.tensor(lengths), frames, generator=torch.Generator().manual_seed(seed), **options)


def test_reference_sampler_number_for_number(fixtures):
    cases = json.loads((fixtures / "mask_indices.json").read_text())
    assert len(cases) >= 7
    for case in cases:
        mask = reference_span_mask(
            tuple(case["shape"]),
            case["mask_prob"],
            case["mask_length"],
            case["lengths"],
            case["min_masks"],
            rng=np.random.RandomState(case["seed"]),
        )
        assert [np.flatnonzero(row).tolist() for row in mask] == case["masked"], case["seed"]


@given(
    st.integers(0, 1000),
    st.floats(0, 1),
    st.integers(1, 6),
    st.integers(0, 3),
    st.lists(st.integers(1, 25), min_size=1, max_size=4),
)
def test_reference_sampler_is_the_installed_reference(seed, mask_prob, mask_length, min_masks, lengths):
    modeling = pytest.importorskip("transformers.models.unispeech_sat.modeling_unispeech_sat")
    shape = (len(lengths), max(max(lengths), mask_length))
    padding = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    np.random.seed(seed)  # noqa: NPY002 - the reference draws from numpy's global generator
    theirs = modeling._compute_mask_indices(shape, mask_prob, mask_length, padding.long(), min_masks)
    rng = np.random.RandomState(seed)
    assert np.array_equal(reference_span_mask(shape, mask_prob, mask_length, lengths, min_masks, rng=rng), theirs)


@given(
    st.integers(0, 10**6),
    st.floats(0, 1),
    st.integers(1, 9),
    st.integers(0, 3),
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
def test_spans_lie_inside_the_utterance_and_are_whole(seed, mask_prob, mask_length, min_spans, lengths):
    lengths = [*lengths, 40]  # one at least is longer than a span
    mask = draw(lengths, 40, seed, mask_prob=mask_prob, mask_length=mask_length, min_spans=min_spans)
    assert mask.shape == (len(lengths), 40)
    for row, length in zip(mask, lengths, strict=True):
        assert not row[length:].any()
        assert all(run >= mask_length for run in span_lengths(row.tolist()))
        if length < mask_length:
            assert not row.any()
        elif min_spans:
            assert row.any()


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=4),
    st.integers(0, 8),
    st.floats(0, 1),
    st.integers(1, 7),
    st.integers(0, 9),
    st.floats(0, 0.999),
)
def test_number_of_spans_is_the_reference_s(lengths, more, mask_prob, mask_length, min_spans, rounding):
    frames = max(lengths) + more
    ours = num_spans(torch.tensor(lengths), frames, mask_prob, mask_length, min_spans, rounding)
    for count, length in zip(ours.tolist(), lengths, strict=True):
        expected = max(int(mask_prob * length / mask_length + rounding), min_spans)
        expected = frames // mask_length if expected * mask_length > frames else expected
        places = length - mask_length + 1
        assert count == max(min(expected, places), 0)


def test_same_distribution_as_the_reference():
    # 40 frames and 25 of 40; 4,000 draws of each: how often each frame is hidden, and how many are
    lengths, options = [40, 25], dict(mask_prob=0.5, mask_length=4)
    generator, rng = torch.Generator().manual_seed(0), np.random.RandomState(0)
    ours = torch.stack([span_mask(torch.tensor(lengths), 40, generator=generator, **options) for _ in range(4000)])
    theirs = np.stack([reference_span_mask((2, 40), 0.5, 4, lengths, rng=rng) for _ in range(4000)])
    # standard error of a share of 4,000 draws is at most 0.008; five of them apart is no chance
    assert (ours.double().mean(0) - torch.from_numpy(theirs).double().mean(0)).abs().max() < 5 * 0.008 * 2**0.5
    ours_total, theirs_total = ours.sum(-1).double(), torch.from_numpy(theirs).sum(-1).double()
    assert (ours_total.mean(0) - theirs_total.mean(0)).abs().max() < 0.3
    assert (ours_total.std(0) - theirs_total.std(0)).abs().max() < 0.2


def test_the_generator_decides():
    options = dict(mask_prob=0.5, mask_length=3)
    assert torch.equal(draw([50], 50, 1, **options), draw([50], 50, 1, **options))
    assert not torch.equal(draw([50], 50, 1, **options), draw([50], 50, 2, **options))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    draw([50], 50, 1, **options)
    assert torch.equal(torch.get_rng_state(), state)


def test_extremes():
    assert not draw([20], 20, mask_prob=0.0, mask_length=5).any()
    assert draw([20], 20, mask_prob=1.0, mask_length=20).all()
    assert draw([20], 20, mask_prob=0.0, mask_length=5, min_spans=2).sum() >= 5
    assert not draw([4, 9], 9, mask_prob=1.0, mask_length=5, min_spans=2)[0].any()


def test_a_mask_longer_than_every_clip_hides_nothing_and_says_so():
    message = r"mask_length=5 frames is longer than every utterance \(up to 4 frames\): nothing is hidden"
    with pytest.warns(UserWarning, match=message):
        assert not draw([4, 3], 4, mask_prob=0.5, mask_length=5).any()


@pytest.mark.wrong_types
def test_bad_numbers():
    for options, message in [
        (dict(mask_prob={0.5, 0.6}, mask_length=3), "mask_prob={.*} must be one number, got set"),
        (dict(mask_prob=0.5, mask_length=3.5), "mask_length=3.5 must be one whole number, got float"),
        (dict(mask_prob=0.5, mask_length=10**9), "mask_length=1000000000 must be at most 65536"),
        (dict(mask_prob=1.5, mask_length=3), "mask_prob=1.5 must be a probability"),
        (dict(mask_prob=0.5, mask_length=0), "mask_length=0 must be at least one frame"),
        (dict(mask_prob=0.5, mask_length=3, min_spans=-1), "min_spans=-1"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            draw([20], 20, **options)
    for lengths, message in [
        ([20], "lengths must be a tensor, got list"),
        (torch.tensor([[20]]), r"lengths must be \(batch,\) of integers, got \(1, 1\)"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            span_mask(lengths, 20, mask_prob=0.5, mask_length=3)
    for row, message in [(torch.ones(2, 9).bool(), r"give the row of one"), (torch.ones(9), "of torch.float32")]:
        with pytest.raises(ValueError, match=message):
            audible(torch.zeros(900), row, hop=100)
    with pytest.raises(ValueError, match="an utterance of 30 frames does not fit into 20 frames"):
        draw([30], 20, mask_prob=0.5, mask_length=3)
    with pytest.raises(ValueError, match="mask_length=9 is longer than the 4 frames"):
        reference_span_mask((1, 4), 0.5, 9, rng=np.random.RandomState(0))


@given(st.integers(0, 10**6), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=5))
def test_draws_are_different_and_as_many_as_asked_for(seed, rows):
    places = torch.tensor([size for size, _ in rows])
    count = torch.tensor([min(size, wanted) for size, wanted in rows])
    generator = torch.Generator().manual_seed(seed)
    draws, kept = draw_without_replacement(places, count, generator, torch.device("cpu"))
    for row, (size, wanted) in enumerate(rows):
        found = draws[row][kept[row]].tolist()
        assert len(set(found)) == len(found) == min(size, wanted)
        assert all(0 <= place < size for place in found)


@pytest.mark.parametrize(("size", "count"), [(5, 2), (5, 4), (4, 4), (6, 1)])
def test_every_set_is_as_probable_as_any_other(size, count):
    rows = 6000
    draws, kept = draw_without_replacement(
        torch.full((rows,), size), torch.full((rows,), count), torch.Generator().manual_seed(0), torch.device("cpu")
    )
    found = Counter(tuple(sorted(row[keep].tolist())) for row, keep in zip(draws, kept, strict=True))
    sets = list(combinations(range(size), count))
    assert set(found) == set(sets)
    if len(sets) > 1:
        assert chisquare([found[one] for one in sets]).pvalue > 1e-3


HOP = 320


def test_spans_of_a_mask(masked):
    assert masking.spans(masked).tolist() == [[3, 6], [10, 11], [50, 51]]
    assert masking.span_lengths(masked).tolist() == [3, 1, 1]
    assert masking.spans(torch.zeros(5, dtype=torch.bool)).tolist() == []
    assert masking.span_lengths(torch.ones(5, dtype=torch.bool)).tolist() == [5]


def test_audible_parts_add_up_to_the_waveform(clip, masked):
    left = masking.audible(clip, masked, hop=HOP)
    hidden = masking.audible(clip, masked, hop=HOP, keep="masked")
    torch.testing.assert_close(left + hidden, clip, rtol=0, atol=0)
    cells = torch.zeros(16_480, dtype=torch.bool)
    for frame in (3, 4, 5, 10, 50):
        cells[HOP * frame : HOP * (frame + 1)] = True
    assert not left[cells].any()
    torch.testing.assert_close(left[~cells], clip[~cells])
    assert not hidden[~cells].any()


@pytest.mark.wrong_types
def test_audible_keeps_one_or_the_other(clip, masked):
    with pytest.raises(ValueError, match="'visible' or 'masked'"):
        masking.audible(clip, masked, hop=HOP, keep="both")
