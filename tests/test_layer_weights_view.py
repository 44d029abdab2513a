"""Weighing layers by hand: rates against loops and the library's trials, sliders against the sums they ask for."""

import numpy as np
import pandas as pd
import pytest
import torch

import unisat as us
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.layers.weighted_sums import LEAST, MOST, WeightedSums
from unisat.interpret.layers.weights import fit_layer_weights
from unisat.interpret.layers.weights import layer_weights as measured
from unisat.interpret.statistics.error_rates import eer
from unisat.plots._layer_weights import layer_shares, set_layer_shares, set_own_sum, sum_result
from unisat.widgets._layer_weights import LayerWeightsView, layer_weights
from unisat.widgets._picture import Refusal

pytestmark = pytest.mark.usefixtures("no_widget_is_left")

WEIGHTS = np.array([0.2, 0.5, 0.3])
LOGITS = np.log(WEIGHTS)
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


@pytest.fixture
def view():
    made = layer_weights(bank(), LOGITS)
    assert isinstance(made, LayerWeightsView), made.error
    return made


# what is computed


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


# the widget


def test_it_begins_with_the_trained_weights(view):
    assert view.controls["start from"].value == "trained"
    np.testing.assert_allclose(view.weights, WEIGHTS)
    norms = np.array([np.sqrt(np.mean(np.square(bank()[site]))) for site in bank().hidden])
    np.testing.assert_allclose(view.table["norm"], norms)
    product = WEIGHTS * norms
    np.testing.assert_allclose(view.table["contribution"], product / product.sum())
    assert view.numbers == pytest.approx(by_hand(bank(), WEIGHTS)[0])
    assert view.references["uniform"] == pytest.approx(by_hand(bank(), np.full(3, 1 / 3))[0])
    assert view.references["trained"] == view.numbers
    assert f"equal error rate {view.numbers['eer']:.0%} (trained {view.numbers['eer']:.0%}" in view.sentence
    assert "Trained weights: most weight has hidden.1, 50%" in view.sentence


def test_sliders_weigh_and_say_that_the_weights_are_own(view):
    for site, weights in (("hidden.0", [1.0, 1.0, 0.6]), ("hidden.1", [1.0, 0.2, 0.6]), ("hidden.2", [1.0, 0.2, 0.1])):
        before = view.png
        view.controls[site].value = weights[view.sums.sites.index(site)]
        np.testing.assert_allclose(view.weights, np.array(weights) / sum(weights))
        assert view.numbers == pytest.approx(by_hand(bank(), view.weights)[0])
        assert view.controls["start from"].value == "own"
        assert view.png != before
        assert view.sentence.startswith("Own weights: ")
    heights = np.array([bar.get_height() for bar in view.shares.patches])
    np.testing.assert_allclose(heights, [*view.table["weight"], *view.table["contribution"]])
    for name, ax in view.results.items():
        layer = view.table["contribution"] @ [0, 1, 2]
        np.testing.assert_allclose(np.ravel(ax.lines[-1].get_data()), [layer, view.numbers[name]])


@pytest.mark.parametrize(
    ("start", "weights"), [("uniform", [1 / 3] * 3), ("only hidden.2", [0, 0, 1]), ("trained", WEIGHTS)]
)
def test_start_from_moves_the_sliders(view, start, weights):
    view.controls["hidden.0"].value = 0.9
    view.controls["start from"].value = start
    np.testing.assert_allclose(view.weights, weights)
    there = [view.controls[site].value for site in view.sums.sites]
    assert there == (np.array(weights) / max(weights)).round(2).tolist()  # steps, or the page would send them back
    assert view.controls["start from"].value == start
    view.set(**{"hidden.0": 0.25, "hidden.1": 0.75, "hidden.2": 0.0})
    assert view.controls["start from"].value == "own"
    np.testing.assert_allclose(view.weights, [0.25, 0.75, 0])
    view.controls["start from"].value = "own"
    np.testing.assert_allclose(view.weights, [0.25, 0.75, 0])


def test_a_click_on_the_bars_sets_a_weight_and_one_on_the_results_a_layer(view):
    view.clicked(view.shares, 2.2, 0.6)
    np.testing.assert_allclose(view.weights, [0.4 * 2 / 7, 0.4 * 5 / 7, 0.6], atol=0.01)
    view.clicked(view.results["retrieval"], 0.9, 0.5)
    assert view.controls["start from"].value == "only hidden.1"
    view.clicked(view.shares, 0.8, 0.5)  # the others, which have none, share alike
    np.testing.assert_allclose(view.weights, [0.25, 0.5, 0.25])
    view.clicked(view.shares, 7.0, 2.0)
    np.testing.assert_allclose(view.weights, [0, 0, 1])


def test_nothing_to_sum_is_said_and_forgiven(view):
    view.set(**dict.fromkeys(view.sums.sites, 0.0))
    assert "all layers are at 0" in str(view.error)
    view.controls["hidden.1"].value = 0.5
    assert view.error is None
    np.testing.assert_allclose(view.weights, [0, 1, 0])


def test_without_trained_weights_it_begins_with_equal_ones():
    made = layer_weights(bank())
    np.testing.assert_allclose(made.weights, np.full(3, 1 / 3))
    assert list(made.references) == ["uniform", "chance"]
    assert "trained" not in made.sentence


def test_without_sentences_voices_alone_are_shown():
    made = layer_weights(bank().take(np.arange(10)), sentence=None)
    assert list(made.numbers) == ["eer"]
    assert "sentence" not in made.sentence
    assert "retrieval" not in made.table


def test_heads_and_results_are_read():
    model = us.load("tiny", "xvector")
    clips = us.corpus.builtin().where(speaker=["v01", "v02", "v03"], sentence=["s01", "s02", "s03"]).batch()
    collected = us.collect(model, clips, "hidden.*", max_seconds=0.5, progress=False)
    expected = model.layer_weights.detach().double().softmax(0).numpy()
    result = measured(model, collected)
    for trained in (model, model.layer_weights, result):
        made = layer_weights(collected, trained, sentence="text")
        np.testing.assert_allclose(made.weights, expected)
        np.testing.assert_allclose(made.table["contribution"], result.contribution[0])


def test_weights_of_several_runs_are_averaged_and_their_normalisation_kept():
    one = bank()
    fitted = fit_layer_weights(one, "speaker", groups="sentence", seeds=2, folds=2, steps=3, n_boot=10)
    made = layer_weights(one, fitted)
    np.testing.assert_allclose(made.weights, fitted.weights.mean(0))
    np.testing.assert_allclose(made.table["norm"], fitted.norms.mean(0))
    scaled = WeightedSums(one, normalize="zscore").measure(made.weights)
    assert made.numbers == scaled != WeightedSums(one).measure(made.weights)


def taken(one, rows, **columns):
    return FeatureBank.from_arrays(one.table.assign(**columns).iloc[rows], {s: one[s][rows] for s in one.hidden})


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda: bank(people=1, said=9), {}, "all 9 utterances are of speaker 's0'"),
        (lambda: bank(people=2, said=3), {}, f"6 utterances are too few: .* {LEAST} to {MOST}; collect more"),
        (lambda: bank(people=41, said=10), {}, r"410 utterances are too many.*bank.take\(range\(400\)\)"),
        (lambda: bank(people=9, said=1), {}, "trials of one speaker and trials of two, got 0 and 36"),
        (lambda: bank(), {"sentence": "phrase"}, "no column 'phrase', it has .* pass sentence=None"),
        (lambda: bank(sentence=None), {}, "'sentence' is empty for 30 of 30"),
        (lambda: bank(own=[f"x{row}" for row in range(30)]), {"sentence": "own"}, "no two speakers share a 'own'"),
        (lambda: bank(speaker=None), {}, "'speaker' is empty"),
        (lambda: bank(session="one"), {}, "60 target trials of one session were left out"),
        (lambda: bank(), {"trained": np.zeros(4)}, r"expected one weight for each of the bank's 3 layers"),
        (lambda: bank(), {"trained": us.load("tiny")}, "UniSpeechSatModel has no layer_weights"),
        (lambda: FeatureBank.from_arrays(bank().table, {"mfcc": bank()["hidden.0"]}), {}, "holds mfcc, but no hidden"),
        (lambda: bank(layers=2), {"trained": measured(np.zeros(3), bank())}, "weights are of hidden.0, hidden.1, hidd"),
    ],
)
def test_what_cannot_be_weighed_is_refused_in_the_widget(make, options, words):
    made = layer_weights(make(), **options)
    assert isinstance(made, Refusal)
    with pytest.raises(ValueError, match=words):
        raise made.error


def test_what_is_not_finite_or_unknown_is_refused():
    one = bank()
    one["hidden.1"][3, 2] = np.nan
    assert "hidden.1 has values that are not finite" in str(layer_weights(one).error)
    with pytest.raises(ValueError, match="normalize='rms' must be"):
        WeightedSums(bank(), normalize="rms")


# the pictures


def test_bars_stand_beside_one_another_and_the_axis_follows():
    table = pd.DataFrame({"site": ["hidden.0", "hidden.1"], "weight": [0.6, 0.4], "contribution": [0.1, 0.9]})
    marks = table.assign(weight=[0.5, 0.5], contribution=[0.2, 0.8])
    ax = layer_shares(table, marks=marks)
    assert [bar.get_height() for bar in ax.patches] == [0.6, 0.4, 0.1, 0.9]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.5, 0.5], [0.2, 0.8]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["trained", "weight", "weight × norm"]
    assert ax.get_ylim()[1] > 0.9
    small = table.assign(weight=[0.1, 0.05], contribution=[0.02, 0.1])
    assert not set_layer_shares(small, ax)  # the ticks are still there
    bare = layer_shares(small)
    assert bare.get_ylim()[1] < 0.2
    assert set_layer_shares(table, bare)
    assert bare.get_ylim()[1] > 0.9


def test_a_result_outside_the_axis_widens_it():
    ax = sum_result([0.2, 0.3], ["hidden.0", "hidden.1"], references={"uniform": 0.25})
    assert ax.lines[0].get_ydata().tolist() == [0.2, 0.3]
    assert list(ax.lines[1].get_ydata()) == [0.25, 0.25]
    assert not set_own_sum(0.5, 0.25, ax)
    assert set_own_sum(1.0, 0.6, ax)
    assert ax.get_ylim()[1] > 0.6
    assert np.ravel(ax.lines[-1].get_data()).tolist() == [1.0, 0.6]


def test_it_draws_without_gradients(view):
    logits = torch.nn.Parameter(torch.tensor(LOGITS))
    made = layer_weights(bank(), logits)
    np.testing.assert_allclose(made.weights, WEIGHTS)
