"""Masks as the model draws them, masks of a run, and how long hidden runs are, against the model and against loops."""

import pytest
import torch
from conftest import small_config
from widget_cases import noise, trace

import unisat as us
from unisat.interpret.masks import draw, drawn_spans, many_runs, replay
from unisat.masking import SpecAugment, span_mask, spans


@pytest.mark.parametrize("changes", [{}, {"mask_feature_prob": 0.3}, {"mask_feature_prob": 0.3, "mask_time_length": 9}])
@pytest.mark.parametrize("seed", [0, 3])
def test_frames_and_channels_are_hidden_as_in_training(changes, seed):
    config = small_config(**{"mask_time_prob": 0.4, "mask_time_length": 5, "mask_feature_length": 2, **changes})
    mask, channels = draw(51, config, seed)
    given, generator = torch.ones(1, 51, 16), torch.Generator().manual_seed(seed)
    learned = torch.full((16,), 2.0)
    hidden, expected = SpecAugment(config).train()(given, learned, torch.tensor([51]), None, generator)
    assert torch.equal(mask, expected[0])
    assert mask.any()
    assert torch.equal(channels, (hidden[0] == 0).all(0))
    assert channels.any() == ("mask_feature_prob" in changes)


def test_frames_are_hidden_at_least_as_often_as_asked_for():
    mask, channels = draw(51, small_config(mask_time_prob=0.0, mask_time_min_masks=1, mask_feature_min_masks=3), 0)
    assert len(spans(mask)) == 1
    assert not channels.any()


def test_the_masks_of_a_run_are_those_that_it_had():
    config = small_config(mask_time_prob=0.5, mask_time_length=3, mask_feature_prob=0.4, mask_feature_length=2)
    torch.manual_seed(0)
    _, run = us.run(us.UniSpeechSatModel(config).train(), noise(), "mask.*", allow_train=True)
    for utterance in (1, 0):
        mask, channels = replay(run, utterance)
        assert torch.equal(mask, run.ragged("mask.indices")[utterance])
        assert mask.any()
        values = run.ragged("mask.out")[utterance]
        assert channels.tolist() == [bool((values[:, channel] == 0).all()) for channel in range(16)]
        assert channels.any()


def test_a_run_without_masks_says_how_to_capture_them():
    with pytest.raises(
        ValueError, match=r'holds hidden.1, but no masks; capture them with us.run\(model, batch, "mask'
    ):
        replay(trace("hidden.1"), 0)


def test_many_runs_are_those_of_many_draws():
    lengths, masks = many_runs(51, 0.4, 5, 2)
    draws, total = torch.Generator().manual_seed(5), []
    for _ in range(2000):
        mask = span_mask(torch.tensor([51]), 51, mask_prob=0.4, mask_length=5, min_spans=2, generator=draws)[0]
        total += [end - start for start, end in spans(mask).tolist()]
    assert len(lengths) / masks == pytest.approx(len(total) / 2000, rel=0.05)
    assert lengths.float().mean().item() == pytest.approx(sum(total) / len(total), rel=0.05)
    assert lengths.max() <= 51


@pytest.mark.parametrize("seed", range(8))
def test_as_many_spans_are_drawn_as_said(seed):
    # spans of one frame cannot overlap
    config = us.UniSpeechSatConfig.tiny(mask_time_prob=0.33, mask_time_length=1, mask_time_min_masks=0)
    mask, _ = draw(50, config, seed)
    assert int(mask.sum()) == drawn_spans(50, config, seed) in (16, 17)
