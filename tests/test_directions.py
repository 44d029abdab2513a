"""Directions between two classes: planted ones are found, and their floors are where chance is."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import shuffled, small_config

import unisat as us
from unisat.interpret.features.bank import FeatureBank

WIDTH = 12
QUICK = {"draws": 20, "n_boot": 100}


def planted(apart=4.0, speakers=20, each=12, noise=None, seed=0):
    """Speakers of two sexes whose means differ by ``apart`` along channel 2, with some spread in every channel."""
    draw = np.random.default_rng(seed)
    who = np.repeat(np.arange(speakers), each)
    sex = np.where(who % 2, "M", "F")
    values = draw.standard_normal((len(who), WIDTH)) * (1.0 if noise is None else noise)
    values[:, 2] += apart * (sex == "M")
    table = pd.DataFrame({"id": [f"u{n}" for n in range(len(who))], "speaker": [f"s{n}" for n in who], "sex": sex})
    table["word"] = [f"w{n % 3}" for n in range(len(who))]
    return FeatureBank.from_arrays(table, {"hidden.1": values})


@pytest.mark.parametrize("method", ["means", "lda", "ridge"])
def test_a_planted_direction_is_found_on_speakers_that_were_not_heard(method):
    found = us.direction(planted(), "hidden.1", "sex", "F", "M", method=method, **QUICK)
    assert found.vector[2] > 0.95
    assert np.linalg.norm(found.vector) == pytest.approx(1)
    table = found.table().set_index("what")
    assert table.accuracy["direction"] > 0.95
    assert table.low["direction"] <= table.accuracy["direction"] <= table.high["direction"]
    assert table.low["shuffled labels"] < 0.5 < table.high["shuffled labels"]
    assert table.high["random directions"] < table.accuracy["direction"]


@pytest.mark.parametrize("method", ["means", "lda", "ridge"])
def test_the_means_lie_at_0_and_1(method):
    bank = planted()
    found = us.direction(bank, "hidden.1", "sex", "F", "M", method=method, **QUICK)
    men = bank.labels("sex") == "M"
    for mine, place in ((~men, 0), (men, 1)):
        assert found.place(bank["hidden.1"][mine]).mean() == pytest.approx(place, abs=1e-9)
    back = us.direction(bank, "hidden.1", "sex", "M", "F", method=method, **QUICK)
    np.testing.assert_allclose(back.vector, -found.vector, atol=1e-9)
    moved = bank["hidden.1"] + found.edit(by=-1).scale * found.edit().vector
    np.testing.assert_allclose(found.place(moved), found.place(bank["hidden.1"]) - 1, atol=1e-5)


def test_lda_turns_away_from_what_varies_in_all_classes_and_equals_scikit_learn():
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    bank = planted(noise=np.linspace(0.5, 3, WIDTH))
    bank["hidden.1"][:, 5] += 3 * bank["hidden.1"][:, 2]
    found = us.direction(bank, "hidden.1", "sex", "F", "M", method="lda", **QUICK)
    lda = LinearDiscriminantAnalysis("lsqr", shrinkage="auto", priors=[0.5, 0.5])
    slope = lda.fit(bank["hidden.1"], bank.labels("sex")).coef_[0]
    assert found.vector @ slope / np.linalg.norm(slope) > 0.9999
    means = us.direction(bank, "hidden.1", "sex", "F", "M", **QUICK)
    assert found.table().accuracy[0] > means.table().accuracy[0]


def test_the_difference_of_means_by_a_loop():
    bank = planted()
    found = us.direction(bank, "hidden.1", "sex", "F", "M", **QUICK)
    sums = {"F": [0.0] * WIDTH, "M": [0.0] * WIDTH}
    for row, sex in zip(bank["hidden.1"], bank.labels("sex"), strict=True):
        for channel in range(WIDTH):
            sums[sex][channel] += row[channel] / 120
    expected = np.array(sums["M"]) - sums["F"]
    np.testing.assert_allclose(found.vector * found.scale, expected)
    np.testing.assert_allclose(found.midpoint, (np.array(sums["M"]) + sums["F"]) / 2)


def test_nothing_planted_is_at_chance():
    table = us.direction(planted(apart=0.0), "hidden.1", "sex", "F", "M", **QUICK).table().set_index("what")
    low, high = table.loc["shuffled labels", ["low", "high"]]
    assert low - 0.05 < table.accuracy["direction"] < high + 0.05
    assert table.accuracy["direction"] < 0.65


def test_a_label_that_changes_within_speakers_is_shuffled_within_them():
    """Speakers with more of one word keep their share, so that a shuffled word is not known by the voice."""
    bank = planted()
    found = us.direction(bank, "hidden.1", "word", "w0", "w1", **QUICK)
    assert found.settings["rows"] == [80, 80]
    table = found.table().set_index("what")
    assert table.low["shuffled labels"] < 0.5 < table.high["shuffled labels"]


def test_over_time_and_in_the_model():
    model = shuffled(us.UniSpeechSatModel(small_config()))
    draw = torch.Generator().manual_seed(0)
    waves = [torch.randn(n, generator=draw) for n in (4000, 5000, 6000, 4000, 4500, 5500)]
    batch = us.Batch.from_arrays(waves, sampling_rate=16_000, ids=list("abcdef"), speaker=list("uvwxyz"))
    bank = us.collect(model, batch, "hidden.1", progress=False)
    bank.table["sex"] = list("FMFMFM")
    found = us.direction(bank, "hidden.1", "sex", "F", "M", **QUICK)
    _, trace = us.run(model, batch, "hidden.1")
    frames = found.over_time(trace)
    assert frames.id.value_counts(sort=False).tolist() == trace.lengths("hidden.1").tolist()
    assert frames.seconds[:2].tolist() == trace.seconds("hidden.1")[:2].tolist()
    means = frames.groupby("id").place.mean()
    np.testing.assert_allclose(means, found.place(bank.features("hidden.1", "mean")), atol=1e-4)
    with us.intervene(model, found.edit(by=1.5)):
        _, moved = us.run(model, batch, "hidden.1")
    np.testing.assert_allclose(found.over_time(moved).place, frames.place + 1.5, atol=1e-3)
    other = us.run(model, batch, "hidden.0")[1]
    with pytest.raises(ValueError, match=r"the trace holds hidden.0; this direction is one of hidden.1"):
        found.over_time(other)


@pytest.mark.wrong_types
def test_mistakes_are_said():
    bank = planted()
    ask = {
        "no row is 'X'; there are 'F', 'M'": {"second": "X"},
        "both 'F'": {"second": "F"},
        "have one sex; held out": {"groups": "sex"},
        "method='svm' must be one of means, lda, ridge": {"method": "svm"},
        "draws=0 must be at least 1": {"draws": 0},
        "no column 'sexx'": {"label": "sexx"},
    }
    for message, wrong in ask.items():
        given = {"label": "sex", "first": "F", "second": "M"} | wrong
        with pytest.raises(ValueError, match=message):
            us.direction(bank, "hidden.1", **given)
    with pytest.raises(ValueError, match="last axis must be the 12 channels"):
        us.direction(bank, "hidden.1", "sex", "F", "M", **QUICK).place(np.zeros((3, 4)))
    same = FeatureBank.from_arrays(bank.table, {"hidden.1": np.ones((len(bank), 3))})
    with pytest.raises(ValueError, match="have the same mean at hidden.1"):
        us.direction(same, "hidden.1", "sex", "F", "M", **QUICK)
