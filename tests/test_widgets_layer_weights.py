"""The layer-weights widget: sliders against the sums that they ask for, and what it reads and refuses."""

import numpy as np
import pytest
from test_weighted_sums import WEIGHTS, bank, by_hand

import unisat as us
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.layers.weighted_sums import LEAST, MOST, WeightedSums
from unisat.interpret.layers.weights import fit_layer_weights
from unisat.interpret.layers.weights import layer_weights as measured
from unisat.widgets._layer_weights import LayerWeightsView, layer_weights
from unisat.widgets._picture import Refusal

pytestmark = pytest.mark.usefixtures("no_widget_is_left")

LOGITS = np.log(WEIGHTS)


@pytest.fixture
def view():
    made = layer_weights(bank(), LOGITS)
    assert isinstance(made, LayerWeightsView), made.error
    return made


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
    low, high = view.intervals["eer"]
    rate = f"{view.numbers['eer']:.0%}"
    assert f"equal error rate {rate} ({low:.0%} to {high:.0%}; trained {rate}, " in view.caption
    assert "Trained weights: hidden.1 has the largest weight, 50%" in view.caption
    assert view.caption.endswith("Ranges: 95 %, from 200 draws of the 6 speakers.")


def test_sliders_weigh_and_say_that_the_weights_are_own(view):
    for site, weights in (("hidden.0", [1.0, 1.0, 0.6]), ("hidden.1", [1.0, 0.2, 0.6]), ("hidden.2", [1.0, 0.2, 0.1])):
        view.controls[site].value = weights[view.sums.sites.index(site)]
        np.testing.assert_allclose(view.weights, np.array(weights) / sum(weights))
        assert view.numbers == pytest.approx(by_hand(bank(), view.weights)[0])
        assert view.controls["start from"].value == "own"
        assert view.caption.startswith("Own weights: ")
    heights = np.array([bar.get_height() for bar in view.shares.patches])
    np.testing.assert_allclose(heights, [*view.table["weight"], *view.table["contribution"]])
    for name, ax in view.results.items():
        layer = view.table["contribution"] @ [0, 1, 2]
        np.testing.assert_allclose(np.ravel(ax.lines[-1].get_data()), [layer, view.numbers[name]])
        np.testing.assert_allclose(np.ravel(ax.lines[-2].get_data()), [layer, layer, *view.intervals[name]])
    assert view.intervals == WeightedSums(bank()).intervals(view.weights)


@pytest.mark.parametrize(("name", "value"), [("hidden.2", 0.9), ("start from", "only hidden.0")])
def test_a_look_at_what_is_not_chosen_yet_is_that_of_choosing_it(view, name, value):
    values = {**{key: one.value for key, one in view.controls.items()}, name: value}
    asked = view.look(**values).caption
    assert asked != view.caption
    view.controls[name].value = value
    assert view.caption == asked


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


def test_without_trained_weights_it_begins_with_equal_ones():
    made = layer_weights(bank())
    np.testing.assert_allclose(made.weights, np.full(3, 1 / 3))
    assert list(made.references) == ["uniform", "chance"]
    assert "trained" not in made.caption
    assert "every layer has the same weight" in made.caption


def test_without_sentences_voices_alone_are_shown():
    made = layer_weights(bank().take(np.arange(10)), sentence=None)
    assert list(made.numbers) == ["eer"]
    assert "sentence" not in made.caption
    assert "retrieval" not in made.table


def test_heads_and_results_are_read():
    model = us.load("tiny", "xvector")
    clips = us.corpus.builtin().where(speaker=["v01", "v02", "v03"], sentence=["s01", "s02", "s03"]).batch()
    collected = us.collect(model, clips, "hidden.*", max_seconds=0.5, progress=False)
    expected = model.layer_weights.detach().double().softmax(0).numpy()
    result = measured(model, collected)
    assert model.layer_weights.requires_grad
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


def test_what_is_not_finite_is_refused():
    one = bank()
    one["hidden.1"][3, 2] = np.nan
    assert "hidden.1 has values that are not finite" in str(layer_weights(one).error)
