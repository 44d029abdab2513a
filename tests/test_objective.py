"""One step of the pretraining objective against the model's own numbers."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import unisat as us
from unisat.interpret.objective import clean_targets, one_step
from unisat.masking import span_mask
from unisat.mixing import mix_utterances


@pytest.fixture(scope="module")
def model():
    return us.load("tiny", "pretraining")


@pytest.fixture(scope="module")
def batch():
    """Three voices, of unequal length."""
    speech = us.corpus.builtin()
    lengths = (24_000, 20_000, 16_000)
    waves = [speech.where(speaker=f"v0{i}", sentence=f"s0{i}").batch().waveforms[0] for i in (1, 3, 5)]
    waves = [wave[:length] for wave, length in zip(waves, lengths, strict=True)]
    return us.Batch.from_arrays(waves, sampling_rate=16_000, ids=["v01", "v03", "v05"])


@pytest.fixture(scope="module")
def paper(model):
    """The same model with the loss as the paper writes it."""
    other = copy.deepcopy(model)
    other.config = model.config.replace(contrastive_loss="infonce")
    return other


def test_a_step_is_the_models_own(model, batch):
    step = one_step(model, batch, mask_prob=0.5, mixing_prob=1.0, seed=4)
    draws = torch.Generator().manual_seed(4)
    mixed, record = mix_utterances(batch.input_values, batch.lengths, mixing_prob=1.0, generator=draws)
    frames = torch.tensor([74, 62, 49])
    mask = span_mask(frames, 74, mask_prob=0.5, mask_length=10, min_spans=2, generator=draws)
    with torch.no_grad():
        targets = model(batch.input_values, attention_mask=batch.attention_mask).logits.argmax(-1)
        output = model(
            mixed,
            attention_mask=batch.attention_mask,
            targets=targets,
            mask_time_indices=mask,
            generator=draws,
        )
    torch.testing.assert_close(step.mixed, mixed)
    assert torch.equal(step.record.secondary, record.secondary)
    assert torch.equal(step.output.mask_time_indices, mask)
    assert torch.equal(step.output.instances, output.instances)
    table = step.terms()
    for name, term in output.terms.items():
        assert table.loc[name, "value"] == pytest.approx(float(term), rel=1e-5)
    assert table["contribution"].sum() == pytest.approx(float(output.loss), rel=1e-5)
    for name, chosen in {"content_masked": mask, "content_unmasked": output.valid & ~mask}.items():
        shares = torch.bincount(step.targets[chosen]) / chosen.sum()
        entropy = -sum(float(share) * np.log(float(share)) for share in shares if share)
        assert table.loc[name, "chance"] == pytest.approx(entropy, rel=1e-5)
    assert int(step.floors.counts.sum()) == int(mask.sum())
    assert table.loc["contrastive", "chance"] == pytest.approx(float(output.metrics["contrastive_chance"]), rel=1e-5)
    assert table["chance"].isna().tolist() == [False, False, False, True, True]
    anchors, codes = output.speaker_states[mask], output.projected_quantized_states[mask]
    expected = F.cosine_similarity(anchors[:, None], codes[None], dim=-1)
    torch.testing.assert_close(step.cosines, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_another_temperature_is_that_of_another_configuration(model, paper, batch, temperature):
    for one in (model, paper):
        other = copy.deepcopy(one)
        other.config = one.config.replace(contrastive_logits_temperature=temperature)
        targets = clean_targets(one, batch)
        expected = one_step(other, batch, targets).terms()
        pd.testing.assert_frame_equal(one_step(one, batch, targets).terms(temperature), expected, rtol=1e-4)


def test_what_is_compared(model, paper, batch):
    step = one_step(model, batch)
    rows = step.output.mask_time_indices.nonzero()[:, 0]
    assert torch.equal(step.positives, rows[:, None] == rows[None])
    anchor = 7
    columns = [anchor, *step.output.instances[anchor].tolist()]
    assert step.candidates(anchor).tolist() == columns
    assert set(step.compared[anchor].nonzero()[:, 0].tolist()) == set(columns)
    step = one_step(paper, batch)
    others = (rows != rows[anchor]).nonzero()[:, 0].tolist()
    assert step.candidates(anchor).tolist() == [anchor, *others]
    assert sorted(step.compared[anchor].nonzero()[:, 0].tolist()) == sorted([anchor, *others])


def test_targets_end_with_the_utterance(model, batch):
    assert (clean_targets(model, batch) == -100).sum(1).tolist() == [0, 12, 25]


def test_one_frame_is_compared_with_its_candidates(model, paper, batch):
    for one, own in ((model, False), (paper, True)):
        step = one_step(one, batch)
        columns = step.candidates(7)
        found = step.compare(7, 0.5)
        torch.testing.assert_close(found.scores, step.cosines[7, columns] / 0.5)
        torch.testing.assert_close(step.compare(7).scores, step.cosines[7, columns] / 0.1)  # the configuration's
        assert torch.equal(found.same, step.positives[7, columns])
        assert found.threshold == (float(found.scores[0]) if own else 0)
        for score, same, right in zip(found.scores.tolist(), found.same.tolist(), found.right.tolist(), strict=True):
            assert right == (same if score >= found.threshold else not same)


def test_the_nearest_masked_frame(model, batch):
    step = one_step(model, batch)
    hidden = step.output.mask_time_indices
    for utterance, seconds in ((0, 0.0), (1, 0.6), (2, 9.0)):
        row, start = step.nearest(utterance, seconds)
        frames = hidden[utterance].nonzero()[:, 0].tolist()
        frame = min(frames, key=lambda one: abs(0.02 * one - seconds))
        assert hidden.nonzero()[row].tolist() == [utterance, frame]
        assert start == pytest.approx(0.02 * frame)
    assert step.hidden_share == pytest.approx(int(hidden.sum()) / int(step.output.valid.sum()))


def test_an_utterance_without_masked_frames_has_no_nearest(model, batch):
    bare = copy.deepcopy(model)
    bare.config = model.config.replace(mask_time_min_masks=0)
    targets = clean_targets(bare, batch)
    for seed in range(100):
        step = one_step(bare, batch, targets, mask_prob=0.15, seed=seed)
        hidden = step.output.mask_time_indices.any(1)
        if hidden.sum() == 2:
            break
    assert step.nearest(int((~hidden).nonzero()[0, 0]), 0.5) is None


def test_other_models_are_refused(model, batch):
    with pytest.raises(ValueError, match="call model.eval"):
        one_step(copy.deepcopy(model).train(), batch)
