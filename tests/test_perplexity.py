"""Entries in use: perplexities against sums by hand, over frames and over training."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from widget_cases import HISTORY, pretraining_trace

from unisat.interpret.units import perplexity
from unisat.interpret.units.perplexity import (
    gumbel_noise,
    perplexities,
    perplexity_over_frames,
    perplexity_over_steps,
    step_of_temperature,
)
from unisat.quantizer import gumbel_choice


def entropy(shares):
    return -sum(share * math.log(share) for share in shares if share > 0)


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
    assert table["unseen"].tolist() == [0, 1]
    assert table["unseen_below"].tolist() == pytest.approx([1 - 0.05 ** (1 / 300)] * 2)
    assert (table["corrected"] >= table["hard"]).all()
    assert (table["corrected"] <= 4).all()


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


def test_over_frames_all_frames_are_the_last_point():
    logits = torch.cat(pretraining_trace("quant.logits").ragged("quant.logits"))
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


def test_perplexities_are_those_of_the_entropy():
    count = np.array([5, 0, 90, 5, 1])
    assert perplexity.perplexity_plugin(count) == pytest.approx(np.exp(scipy.stats.entropy(count)))
    # 60 entries in use of which 40 frames show but a part: nearer to the truth, and never over the book
    draws = np.random.default_rng(0).multinomial(40, np.full(60, 1 / 60), 200)
    plugin, corrected = (
        np.array([measure(draw) for draw in draws])
        for measure in (perplexity.perplexity_plugin, perplexity.perplexity_corrected)
    )
    assert plugin.mean() < 32
    assert 45 < corrected.mean() <= 60
    assert corrected.max() == 60


@pytest.mark.parametrize(("old", "new"), [("plug_in", "perplexity_plugin"), ("corrected", "perplexity_corrected")])
def test_old_names_warn(old, new):
    with pytest.warns(
        DeprecationWarning, match=rf"perplexity\.{old} is now unisat\.interpret\.units\.perplexity\.{new}"
    ):
        assert getattr(perplexity, old) is getattr(perplexity, new)
