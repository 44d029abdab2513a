"""What a weighted sum of layers is good for: rates against loops and the library's trials, shares by hand."""

import numpy as np
import pandas as pd
import pytest

import unisat as us
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.layers.weighted_sums import DRAWS, WeightedSums, mean_layer, shares, with_weight
from unisat.interpret.statistics.error_rates import eer
from unisat.interpret.statistics.intervals import interval, resampled

WEIGHTS = np.array([0.2, 0.5, 0.3])


SIZES = (1.0, 3.0, 0.5)  # of the layers


def bank(people=6, said=5, layers=3, width=10, **columns):
    """Layer 0 knows voices, the last one sentences, those between a little of both."""
    draw = np.random.default_rng(0)
    who, what = np.repeat(np.arange(people), said), np.tile(np.arange(said), people)
    voices, words = draw.standard_normal((people, width)), draw.standard_normal((said, width))
    arrays = {}
    for layer in range(layers):
        share = layer / max(1, layers - 1)
        mixed = (1 - share) * voices[who] + share * words[what] + 0.7 * draw.standard_normal((len(who), width))
        arrays[f"hidden.{layer}"] = SIZES[layer % 3] * mixed + 2
    table = pd.DataFrame(
        {
            "id": [f"u{row:02}" for row in range(len(who))],
            "speaker": [f"s{code}" for code in who],
            "sentence": [f"t{code}" for code in what],
            "session": None,
        }
    )
    return FeatureBank.from_arrays(table.assign(**columns), arrays)


def by_hand(one, weights, column="sentence", sessions=None):
    """Both rates, pair by pair."""
    summed = sum(weight * one[site] for weight, site in zip(weights, one.hidden, strict=True))
    summed = (summed - summed.mean(0)) / summed.std(0)
    cosine = [[a @ b / np.sqrt((a @ a) * (b @ b)) for b in summed] for a in summed]
    who, what = one.table["speaker"].tolist(), one.table[column].tolist()
    pairs = [(i, j) for i in range(len(one)) for j in range(i)]
    if sessions is not None:
        pairs = [(i, j) for i, j in pairs if who[i] != who[j] or sessions[i] != sessions[j]]
    scores, same = [cosine[i][j] for i, j in pairs], [who[i] == who[j] for i, j in pairs]
    hits, chances = [], []
    for i in range(len(one)):
        others = [j for j in range(len(one)) if who[j] != who[i]]
        chances.append(np.mean([what[j] == what[i] for j in others]))
        hits.append(what[max(others, key=lambda j, i=i: cosine[i][j])] == what[i])
    asked = [chance > 0 for chance in chances]
    found = {"eer": eer(np.array(scores), np.array(same)), "retrieval": np.mean(np.array(hits)[asked])}
    return found, np.mean(np.array(chances)[asked])


@pytest.mark.parametrize("weights", [WEIGHTS, np.array([0.0, 0.0, 1.0]), np.array([0.7, 0.1, 0.2])])
def test_rates_are_those_of_all_pairs(weights):
    one = bank()
    found, chance = by_hand(one, weights)
    sums = WeightedSums(one)
    assert sums.measure(weights) == pytest.approx(found)
    assert sums.measure(5 * weights) == pytest.approx(found)
    assert sums.chance == pytest.approx({"eer": 0.5, "retrieval": chance})
    assert 0 < found["eer"] < 1
    assert found["retrieval"] > chance


def test_the_rate_of_a_sum_is_that_of_verify_trials():
    one = bank()
    summed = np.tensordot(WEIGHTS, np.stack([one[site] for site in one.hidden]), 1)
    theirs = FeatureBank.from_arrays(one.table, {"sum": summed})
    ours = WeightedSums(one)
    expected = us.verify_trials(theirs, "sum", exclude_same_session=False).eer()
    assert ours.measure(WEIGHTS)["eer"] == pytest.approx(expected)
    alone = [us.verify_trials(one, layer, exclude_same_session=False).eer() for layer in range(3)]
    assert ours.single_layers()["eer"].tolist() == pytest.approx(alone)
    assert ours.single_layers()["site"].tolist() == one.hidden


def test_intervals_are_those_of_verify_trials_and_of_askers_drawn_by_hand():
    one = bank()
    found = WeightedSums(one).intervals(WEIGHTS)
    summed = np.tensordot(WEIGHTS, np.stack([one[site] for site in one.hidden]), 1)
    theirs = FeatureBank.from_arrays(one.table, {"sum": summed})
    trials = us.verify_trials(theirs, "sum", exclude_same_session=False, n_boot=DRAWS)
    assert found["eer"] == pytest.approx(trials.interval())
    who, what = one.table["speaker"].tolist(), one.table["sentence"].tolist()
    cosine, hits = WeightedSums(one).cosines(WEIGHTS), []
    for i in range(len(one)):
        others = [j for j in range(len(one)) if who[j] != who[i]]
        hits.append(what[max(others, key=lambda j, i=i: cosine[i][j])] == what[i])
    shares = [sum(times[i] * hits[i] for i in range(30)) / sum(times) for times in resampled(who, DRAWS)]
    assert found["retrieval"] == pytest.approx(interval(np.array(shares), groups=6))
    low, high = found["retrieval"]
    assert low < np.mean(hits) < high


def test_only_the_means_of_means_and_deviations_are_summed():
    plain = bank()
    noise = np.random.default_rng(1).standard_normal((len(plain), 10))
    arrays = {site: np.concatenate([plain[site], 5 * noise], axis=1) for site in plain.hidden}
    both = FeatureBank.from_arrays(plain.table, arrays, {"reduce": "mean+std"})
    assert WeightedSums(both).measure(WEIGHTS) == WeightedSums(plain).measure(WEIGHTS)


def test_two_utterances_of_one_session_are_no_trial_of_one_speaker():
    sessions = [f"{row % 5 // 2}" for row in range(30)]
    one = bank(session=sessions)
    assert WeightedSums(one).measure(WEIGHTS) == pytest.approx(by_hand(one, WEIGHTS, sessions=sessions)[0])
    assert by_hand(one, WEIGHTS, sessions=sessions)[0]["eer"] != by_hand(one, WEIGHTS)[0]["eer"]


def test_sentences_that_one_speaker_alone_says_are_not_asked_for():
    words = bank().table["sentence"].tolist()
    words[7] = words[22] = "only here"
    words[23] = "nowhere else"
    one = bank(text=words)
    found, chance = by_hand(one, WEIGHTS, column="text")
    sums = WeightedSums(one, sentence="text")
    assert sums.measure(WEIGHTS)["retrieval"] == pytest.approx(found["retrieval"])
    assert sums.chance["retrieval"] == pytest.approx(chance)


@pytest.mark.parametrize(("how", "axis"), [("zscore", 0), ("layer_norm", 1)])
def test_layers_are_normalised_as_they_were_for_the_weights(how, axis):
    one = bank()
    each = {site: one[site] - one[site].mean(axis, keepdims=True) for site in one.hidden}
    scaled = FeatureBank.from_arrays(one.table, {s: x / x.std(axis, keepdims=True) for s, x in each.items()})
    ours = WeightedSums(one, normalize=how).measure(WEIGHTS)
    assert ours == pytest.approx(by_hand(scaled, WEIGHTS)[0])
    assert ours != WeightedSums(one).measure(WEIGHTS)


def test_a_constant_channel_changes_nothing():
    one = bank()
    wider = {site: np.concatenate([one[site], np.full((len(one), 1), 3.0)], axis=1) for site in one.hidden}
    got = WeightedSums(FeatureBank.from_arrays(one.table, wider)).measure(WEIGHTS)
    assert got == pytest.approx(WeightedSums(one).measure(WEIGHTS))


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="normalize='rms' must be"):
        WeightedSums(bank(), normalize="rms")


def test_shares_are_weight_times_norm():
    table = shares(WEIGHTS, np.array([1.0, 2.0, 4.0]))
    assert table["contribution"].tolist() == pytest.approx([0.2 / 2.4, 1.0 / 2.4, 1.2 / 2.4])
    assert table["weight"].tolist() == WEIGHTS.tolist()
    assert mean_layer(table["contribution"].to_numpy()) == pytest.approx((1.0 + 2 * 1.2) / 2.4)


def test_one_weight_is_set_and_the_others_keep_their_proportions():
    assert with_weight(WEIGHTS, 2, 0.6).tolist() == pytest.approx([0.4 * 2 / 7, 0.4 * 5 / 7, 0.6])
    assert with_weight(np.array([0.0, 1.0, 0.0]), 1, 0.5).tolist() == pytest.approx([0.25, 0.5, 0.25])
    assert with_weight(WEIGHTS, 0, 7.0).tolist() == [1, 0, 0]
    assert WEIGHTS.tolist() == [0.2, 0.5, 0.3]  # as it was
