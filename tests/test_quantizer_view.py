"""The quantizer widget against the quantizer itself, and perplexities against sums by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import small_config
from shown import sounds

import unisat
from unisat import UniSpeechSatForPreTraining, UniSpeechSatModel, plots
from unisat.corpus import Batch
from unisat.frames import frame_seconds
from unisat.interpret.features.collect import draw_masks
from unisat.interpret.units.codebook import frames_to_call_dead
from unisat.interpret.units.perplexity import (
    gumbel_noise,
    perplexities,
    perplexity_over_frames,
    perplexity_over_steps,
    step_of_temperature,
)
from unisat.quantizer import gumbel_choice
from unisat.widgets._quantizer import ALL, HIDDEN, quantizer

pytestmark = pytest.mark.usefixtures("no_widget_is_left")


@pytest.fixture(scope="module")
def batch():
    noise = torch.Generator().manual_seed(0)
    waveforms = [torch.rand(samples, generator=noise) - 0.5 for samples in (16_480, 32_000)]
    return Batch.from_arrays(waveforms, sampling_rate=16_000, ids=["amy <1>", "bob"])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return UniSpeechSatForPreTraining(small_config()).eval()


@pytest.fixture(scope="module")
def trace(model, batch):
    return unisat.run(model, batch, "quant.logits", "quant.codes")[1]


HISTORY = pd.DataFrame(
    {
        "step": [10, 20, 30, 40],
        "temperature": [2.0, 1.0, 0.5, 0.5],
        "prob_perplexity_0": [7.0, 6.5, 6.0, 5.0],
        "code_perplexity_0": [6.0, 5.0, 4.0, 3.0],
        "prob_perplexity_1": [2.0, 2.0, 2.0, 2.0],
        "code_perplexity_1": [1.5, 1.4, 1.3, 1.2],
    }
)


@pytest.fixture
def view(model, batch):
    return quantizer(model, batch, HISTORY)


def flat(trace, site):
    return torch.cat(trace.ragged(site))


def entropy(shares):
    return -sum(share * math.log(share) for share in shares if share > 0)


# numbers


def test_noise_is_what_training_adds():
    logits = torch.randn(40, 2, 8, generator=torch.Generator().manual_seed(0))
    choice = gumbel_choice(logits, 0.7, torch.Generator().manual_seed(3)).argmax(-1)
    assert torch.equal((logits + gumbel_noise(logits.shape, 3)).argmax(-1), choice)
    noise = gumbel_noise((200_000,), 1)
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)  # Euler's constant
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_perplexities_by_hand():
    logits = torch.randn(300, 2, 4, generator=torch.Generator().manual_seed(0))
    logits[:, 1, 3] = -50  # never chosen
    table = perplexities(logits)
    for group in (0, 1):
        codes, likely = logits[:, group].argmax(-1).tolist(), logits[:, group].softmax(-1).mean(0).tolist()
        counts = [codes.count(entry) for entry in range(4)]
        assert table.loc[group, "hard"] == pytest.approx(math.exp(entropy([count / 300 for count in counts])))
        assert table.loc[group, "soft"] == pytest.approx(math.exp(entropy(likely)), rel=1e-5)
        assert table.loc[group, "used_if_even"] == pytest.approx(4 - 4 * 0.75**300)
    assert table["frames"].tolist() == [300, 300]
    assert table["used"].tolist() == [4, 3]
    assert table["dead"].tolist() == [0, 1]
    assert (table["corrected"] >= table["hard"]).all()
    assert (table["corrected"] <= 4).all()
    assert perplexities(logits[: frames_to_call_dead(4) - 1])["dead"].isna().all()


def test_few_frames_of_an_even_book_are_corrected():
    """32 entries in even use: 60 frames show 25 of them, and the correction 32."""
    noise = gumbel_noise((4000, 32), 0)
    curve = perplexity_over_frames(noise, points=12).set_index("frames")
    few, many = curve.iloc[np.abs(curve.index - 60).argmin()], curve.iloc[-1]
    assert curve.index[-1] == 4000
    assert few["hard"] < 27
    assert few["hard"] == pytest.approx(few["even"], rel=0.04)
    assert few["corrected"] == pytest.approx(32, rel=0.08)
    assert many["hard"] == pytest.approx(32, rel=0.01)
    assert many["hard"] == pytest.approx(perplexities(noise[:, None]).loc[0, "hard"])
    assert many["soft"] == pytest.approx(perplexities(noise[:, None]).loc[0, "soft"], rel=1e-5)


def test_over_frames_all_frames_are_the_last_point(trace):
    logits = flat(trace, "quant.logits")
    for group in (0, 1):
        last, whole = perplexity_over_frames(logits[:, group]).iloc[-1], perplexities(logits).loc[group]
        for name in ("frames", "soft", "hard", "corrected"):
            assert last[name] == pytest.approx(whole[name], rel=1e-5)


def test_the_history_of_a_run(tmp_path):
    HISTORY.to_csv(tmp_path / "train.csv", index=False)
    for history in (HISTORY, tmp_path, tmp_path / "train.csv"):
        table = perplexity_over_steps(history, 1)
        assert table.columns.tolist() == ["step", "soft", "hard"]
        assert table["hard"].tolist() == [1.5, 1.4, 1.3, 1.2]
        assert table["soft"].tolist() == [2.0, 2.0, 2.0, 2.0]
    with_counts = HISTORY.assign(corrected_perplexity_0=9.0)
    assert perplexity_over_steps(with_counts, 0)["corrected"].tolist() == [9.0] * 4
    assert [step_of_temperature(HISTORY, warmth) for warmth in (1.9, 1.1, 0.5)] == [10, 20, 30]
    assert step_of_temperature(HISTORY.drop(columns="temperature"), 1.0) is None


# the widget


def test_the_frame_is_the_one_that_the_model_quantizes(view, trace):
    logits, codes = flat(trace, "quant.logits"), flat(trace, "quant.codes")
    view.set(utterance=1, frame=0.5, group=1, noise=False)
    amy = int(trace.lengths("quant.logits")[0])
    row = amy + int((trace.seconds("quant.logits") - 0.5).abs().argmin())
    assert view.error is None
    torch.testing.assert_close(view.logits, logits[row, 1])
    assert view.code == view.drawn == codes[row, 1]
    torch.testing.assert_close(view.soft, (logits[row, 1] / 2).softmax(-1))
    assert view.counts["code"].tolist() == torch.bincount(codes[:, 1], minlength=8).tolist()
    assert view.table["frames"].tolist() == [len(logits)] * 2
    assert f"bob, frame at {trace.seconds('quant.logits')[row - amy]:.2f} s, group 1" in view.sentence


def test_noise_and_temperature(view, trace):
    logits = flat(trace, "quant.logits")
    view.set(seed=5, temperature=0.7, group=1)
    noise = gumbel_noise(logits.shape, 5)
    expected = (logits + noise)[:, 1].argmax(-1)
    assert view.counts["drawn"].tolist() == torch.bincount(expected, minlength=8).tolist()
    torch.testing.assert_close(view.soft, ((view.logits + view.noise) / 0.7).softmax(-1))
    assert view.soft.argmax() == view.drawn
    shares = [count / len(expected) for count in view.counts["drawn"]]
    assert view.table.loc[1, "drawn"] == pytest.approx(math.exp(entropy(shares)))
    moved = (expected != logits[:, 1].argmax(-1)).float().mean()
    assert f"With noise {moved:.0%} of them choose another entry" in view.sentence
    drawn = view.drawn
    view.controls["temperature"].value = 2.0  # softens, chooses alike
    assert view.drawn == drawn
    view.controls["noise"].value = False
    assert "drawn" not in view.table
    assert view.counts["code"].equals(view.counts["drawn"].rename("code"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.5),
        ("noise", False),
        ("seed", 3),
        ("group", 1),
        ("utterance", 1),
        ("frame", 0.9),
        ("counted", HIDDEN),
    ],
)
def test_each_control_changes_the_picture_and_comes_back(view, name, value):
    before, start = view.png, view.controls[name].value
    view.controls[name].value = value
    assert view.error is None
    assert view.png != before
    view.controls[name].value = start
    assert view.png == before


def test_what_is_drawn(view, trace, model):
    config = model.config
    view.set(seed=2, group=1)
    before, after = (patch.get_data().values for patch in view.use.patches)
    np.testing.assert_allclose(before, 100 * view.counts["code"] / view.counts["code"].sum())
    np.testing.assert_allclose(after, 100 * view.counts["drawn"] / view.counts["drawn"].sum())
    scores, noisy = (patch.get_data().values for patch in view.panels[1].patches)
    shift = (view.logits - view.logits.max()).numpy()
    np.testing.assert_allclose(scores, shift, rtol=1e-5)
    np.testing.assert_allclose(noisy, shift + view.noise.numpy(), rtol=1e-4)
    likely, soft = (patch.get_data().values for patch in view.panels[2].patches)
    np.testing.assert_allclose(likely, view.logits.softmax(-1), rtol=1e-5)
    np.testing.assert_allclose(soft, view.soft, rtol=1e-5)
    hard = view.panels[3].patches[1].get_data().values
    assert hard.tolist() == [float(entry == view.drawn) for entry in range(8)]
    np.testing.assert_array_equal(view.over.lines[2].get_ydata(), view.over_frames["corrected"])
    times = frame_seconds(len(view.track.lines[0].get_xdata()), config.conv_kernel, config.conv_stride)
    np.testing.assert_allclose(view.track.lines[0].get_xdata(), times)
    logits = trace.ragged("quant.logits")[0]
    noise = gumbel_noise(flat(trace, "quant.logits").shape, 2)[: len(logits)]
    codes, drawn = logits[:, 1].argmax(-1), (logits + noise)[:, 1].argmax(-1)
    assert view.track.lines[0].get_ydata().tolist() == codes.tolist()
    assert view.track.lines[1].get_ydata().tolist() == drawn[codes != drawn].tolist()
    np.testing.assert_array_equal(view.trained.lines[1].get_ydata(), HISTORY["code_perplexity_1"])
    view.controls["temperature"].value = 1.0
    assert view.trained.lines[-1].get_xdata()[0] == 20
    assert "went from 1.5 at step 10 to 1.2 at step 40" in view.sentence


def test_hidden_frames_are_those_of_collect(view, model, batch):
    view.controls["counted"].value = HIDDEN
    mask = draw_masks(batch.lengths, batch.ids, model.config, 0)
    _, masked = unisat.run(model, batch, "quant.codes", "mask.indices", mask_time_indices=mask)
    expected = masked["quant.codes"][mask]
    assert view.table["frames"].tolist() == [int(mask.sum())] * 2
    assert view.counts["code"].tolist() == torch.bincount(expected[:, 0], minlength=8).tolist()
    bank = unisat.collect(model, batch, "quant.codes", reduce="counts", frames="masked", progress=False)
    assert view.counts["code"].tolist() == bank["quant.codes"].sum(0)[0].tolist()
    assert HIDDEN in view.sentence
    view.controls["counted"].value = ALL
    assert view.table["frames"].iloc[0] > mask.sum()


def test_a_click_on_the_track_takes_that_frame(view):
    view.clicked(view.track, 0.71, 3.0)
    assert view.controls["frame"].value == pytest.approx(0.71, abs=0.011)
    place = float(view.track.lines[2].get_xdata()[0])
    assert place == pytest.approx(0.71, abs=0.011)
    view.clicked(view.use, 0.2, 3.0)
    assert view.controls["frame"].value == pytest.approx(0.71, abs=0.011)


def test_sounds(view, batch):
    view.controls["frame"].value = 0.5
    near, whole = sounds(view).values()
    np.testing.assert_allclose(whole, batch.waveforms[0].numpy() * 2**15, atol=1)
    assert len(near) == 8000
    start = round(16_000 * view.stage.sounds[0]["start"])
    assert start == pytest.approx(16_000 * 0.25, abs=200)
    np.testing.assert_allclose(near, batch.waveforms[0][start : start + 8000].numpy() * 2**15, atol=1)


def test_a_trace_serves_too(model, batch, trace):
    view = quantizer(trace)
    assert view.error is None
    assert view.controls["counted"].options == ("as captured",)
    assert not view.stage.sounds
    assert view.over_steps is None
    mask = draw_masks(batch.lengths, batch.ids, model.config, 0)
    masked = unisat.run(model, batch, "quant.logits", "mask.indices", mask_time_indices=mask)[1]
    view = quantizer(masked, batch)
    view.controls["counted"].value = HIDDEN
    assert view.table["frames"].iloc[0] == mask.sum()


def test_one_group(batch):
    torch.manual_seed(0)
    single = UniSpeechSatForPreTraining(small_config(num_codevector_groups=1)).eval()
    view = quantizer(single, batch)
    assert view.error is None
    assert len(view.table) == 1


def test_what_it_cannot_do_is_said_in_the_widget(model, batch, trace, tmp_path):
    torch.manual_seed(0)
    plain = UniSpeechSatModel(small_config()).eval()
    layers = unisat.run(plain, batch, "hidden.1")[1]
    empty = tmp_path / "train.csv"
    empty.write_text("")
    few = HISTORY.drop(columns="code_perplexity_1")
    for widget, expected in (
        (quantizer(plain, batch), "this checkpoint has no quantizer, a UniSpeechSatModel: only pretraining models"),
        (quantizer(layers, batch), "the trace holds hidden.1, but no quant.logits"),
        (quantizer(model), "a model needs something to quantize; give a batch"),
        (quantizer(trace, batch[:1]), "the batch has 1 utterances, the trace 2"),
        (quantizer(model, batch, few), "the history has no code_perplexity_1, only step, temperature"),
        (quantizer(model, batch, HISTORY[:0]), "the history has no rows"),
        (quantizer(model, batch, empty), "could not be read as a log of training"),
        (quantizer(model, batch, tmp_path / "none"), "could not be read as a log of training"),
        (quantizer(model, Batch.from_arrays([torch.rand(16_000 * 61)] * 3, sampling_rate=16_000)), "up to 180 s"),
    ):
        assert isinstance(widget.error, ValueError)
        assert expected in widget.stage.alert


def test_an_utterance_without_hidden_frames(model, batch):
    mask = draw_masks(batch.lengths, batch.ids, model.config, 0)
    mask[0] = False
    view = quantizer(unisat.run(model, batch, "quant.logits", "mask.indices", mask_time_indices=mask)[1], batch)
    view.controls["counted"].value = HIDDEN
    assert "no frame of amy <1> is hidden" in view.stage.alert
    view.controls["utterance"].value = 1
    assert view.error is None


# the pictures alone


@pytest.mark.wrong_types
def test_pictures_stand_alone():
    table = pd.DataFrame({"step": [1, 2], "soft": [3.0, 4.0]})
    ax = plots.perplexity(table, entries=8)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["soft", "all 8 entries"]
    assert ax.get_xlabel() == "training step"
    ax = plots.code_counts(np.array([3, 0, 1]))
    assert ax.lines[0].get_xdata().tolist() == [1]
    assert ax.patches[0].get_data().values.tolist() == [75.0, 0.0, 25.0]
    ax = plots.code_track(np.array([0.1, 0.2]), np.array([3, 4]), np.array([3, 7]), entries=8)
    assert ax.lines[1].get_ydata().tolist() == [7]
    ax = plots.entry_scores(np.array([0.2, 0.8]), np.array([0.6, 0.4]))
    assert ax.lines[0].get_xdata() == [0]
    with pytest.raises(ValueError, match="no frame was counted"):
        plots.code_counts(np.zeros(3, dtype=int))
    with pytest.raises(ValueError, match="the table is empty"):
        plots.perplexity(table[:0], entries=8)
    with pytest.raises(ValueError, match="of the same entries, got 2 and 3"):
        plots.entry_scores(np.zeros(2), np.zeros(3))
