"""Frames and the entries that they choose, against the quantizer itself."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from widget_cases import model, noise, pretraining, pretraining_trace, trace

import unisat as us
from unisat.interpret.features.collect import draw_masks
from unisat.interpret.units.perplexity import gumbel_noise, perplexities
from unisat.interpret.units.quantizer import ALL, CAPTURED, HIDDEN, captured_frames, code_map, quantized_frames
from unisat.quantizer import gumbel_choice


@pytest.fixture(scope="module")
def run():
    return pretraining_trace("quant.logits", "quant.codes")


@pytest.fixture(scope="module")
def frames(run):
    return captured_frames(run)[CAPTURED]


def test_frames_stand_one_behind_the_other(frames, run):
    torch.testing.assert_close(frames.logits, torch.cat(run.ragged("quant.logits")))
    assert frames.codes.tolist() == torch.cat(run.ragged("quant.codes")).tolist()
    lengths = run.lengths("quant.logits").tolist()
    assert frames.utterances.tolist() == [row for row, length in enumerate(lengths) for _ in range(length)]
    assert frames.of(1).tolist() == list(range(lengths[0], lengths[0] + lengths[1]))
    times = run.seconds("quant.logits").tolist()
    assert frames.seconds.tolist() == [time for length in lengths for time in times[:length]]
    assert frames.table.equals(perplexities(frames.logits))
    assert [int(curve["frames"].iloc[-1]) for curve in frames.curves] == [sum(lengths)] * 2


def test_the_nearest_and_the_least_sure_frame(frames, run):
    times, lengths = run.seconds("quant.logits"), run.lengths("quant.logits").tolist()
    near = min(range(lengths[1]), key=lambda frame: abs(float(times[frame]) - 0.1))
    assert frames.nearest(1, 0.1) == lengths[0] + near
    assert frames.nearest(7, 0.1) is None
    sure = [max(one.softmax(-1).tolist()) for one in run.ragged("quant.logits")[1][:, 1]]
    assert frames.unsure(1, 1) == pytest.approx(float(times[sure.index(min(sure))]))


def test_noise_changes_codes_as_in_training(frames):
    noise, codes = frames.draw(5)
    expected = gumbel_choice(frames.logits, 0.7, torch.Generator().manual_seed(5)).argmax(-1)
    assert torch.equal(noise, gumbel_noise(frames.logits.shape, 5))
    assert codes.tolist() == expected.tolist()
    assert frames.moved(codes).tolist() == pytest.approx((expected.numpy() != frames.codes).mean(0).tolist())
    assert frames.moved(codes).min() > 0
    counts = frames.count(codes)
    for group in (0, 1):
        assert counts[group].tolist() == torch.bincount(expected[:, group], minlength=8).tolist()
        shares = [count / len(codes) for count in counts[group].tolist()]
        entropy = -sum(share * math.log(share) for share in shares if share)
        assert frames.table_with(codes).loc[group, "drawn"] == pytest.approx(math.exp(entropy))
    silence, plain = frames.draw(None)
    assert not silence.any()
    assert plain is frames.codes


def test_one_frame_chooses(frames):
    noise, codes = frames.draw(5)
    found = frames.choice(30, 1, 0.7, noise)
    logits = frames.logits[30, 1]
    torch.testing.assert_close(found.logits, logits)
    torch.testing.assert_close(found.noise, noise[30, 1])
    torch.testing.assert_close(found.soft, ((logits + noise[30, 1]) / 0.7).softmax(-1))
    torch.testing.assert_close(found.likely, logits.softmax(-1))
    assert (found.code, found.drawn) == (frames.codes[30, 1], codes[30, 1])


def test_a_model_is_run_without_masks_and_with_those_of_collect(frames):
    found = quantized_frames(pretraining(), noise())
    assert list(found) == [ALL, HIDDEN]
    torch.testing.assert_close(found[ALL].logits, frames.logits)
    mask = draw_masks(noise().lengths, noise().ids, pretraining().config, 0)
    _, masked = us.run(pretraining(), noise(), "quant.codes", "quant.logits", "mask.indices", mask_time_indices=mask)
    assert found[HIDDEN].codes.tolist() == masked["quant.codes"][mask].tolist()
    torch.testing.assert_close(captured_frames(masked)[HIDDEN].logits, found[HIDDEN].logits)
    bank = us.collect(pretraining(), noise(), "quant.codes", reduce="counts", frames="masked", progress=False)
    assert found[HIDDEN].count(found[HIDDEN].codes).tolist() == bank["quant.codes"].sum(0).tolist()


def test_what_has_no_codes_is_refused():
    with pytest.raises(
        ValueError, match="this checkpoint has no quantizer, a UniSpeechSatModel: only pretraining models"
    ):
        quantized_frames(model(), noise())
    with pytest.raises(ValueError, match="the trace holds hidden.1, but no quant.logits"):
        captured_frames(trace("hidden.1"))
    long = us.Batch.from_arrays([torch.rand(16_000 * 61)] * 3, sampling_rate=16_000)
    with pytest.raises(ValueError, match="183 s long with its padding, frames are counted up to 180 s"):
        quantized_frames(pretraining(), long)


def test_the_map_of_a_book_is_that_of_a_principal_component_analysis():
    model = pretraining()
    found, vectors = code_map(model), model.quantizer.codevectors.detach().double().numpy()[0]
    for group, entries in enumerate(np.split(vectors, 2)):
        pca = PCA(2).fit(entries)
        np.testing.assert_allclose(np.abs(found.places[group]), np.abs(pca.transform(entries)), atol=1e-9)
        np.testing.assert_allclose(found.explained[group], pca.explained_variance_ratio_)
        # distances are kept as far as two directions can, so a sign that turns one axis only would not be seen
        assert np.corrcoef(found.places[group].T)[0, 1] == pytest.approx(0, abs=1e-9)


def test_a_book_of_a_single_entry_has_a_map():
    found = code_map(pretraining(num_codevectors_per_group=1))
    assert found.places.shape == (2, 1, 2)
    assert not found.places.any()
    assert not found.explained.any()
