"""Weights of a sum of layers: against sums taken by hand, and planted layers found."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import shuffled, small_config

import unisat as us
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.features.collect import collect
from unisat.interpret.layers import weights as module
from unisat.interpret.layers.weights import WeightedLayerSum, fit_layer_weights, layer_weights

LENGTHS = (3000, 1700, 900)


def waves():
    generator = torch.Generator().manual_seed(4)
    return us.Batch.from_arrays([torch.randn(length, generator=generator) for length in LENGTHS], sampling_rate=16000)


def head(seed=0, kind=us.UniSpeechSatForSequenceClassification, **changes):
    model = shuffled(kind(small_config(use_weighted_layer_sum=True, classifier_proj_size=6, **changes)), seed)
    return model.eval()


def hidden_states(model, batch):
    """(layers, frames, width) of each utterance alone."""
    states = []
    for wave in batch.waveforms:
        with torch.no_grad():
            output = model.unispeech_sat(us.audio.normalize(wave)[None], output_hidden_states=True)
        states.append(torch.stack(output.hidden_states)[:, 0].double())
    return states


def gather(model, reduce, **options):
    return collect(model, waves(), "hidden.*", reduce=reduce, progress=False, **options)


# the module


def test_the_sum_is_that_of_the_heads():
    model = head()
    states = [torch.randn(2, 5, 16) for _ in range(4)]
    ours = WeightedLayerSum(4)
    ours.load_state_dict({"layer_weights": model.layer_weights})
    torch.testing.assert_close(ours(states), model.weigh(states))
    torch.testing.assert_close(ours(torch.stack(states)), model.weigh(states))


def test_layers_can_be_normalised_before_they_are_summed():
    states = torch.randn(3, 2, 5, 8) * torch.tensor([1.0, 100.0, 0.5])[:, None, None, None] + 4
    ours = WeightedLayerSum(3, normalize=True)
    each = (states - states.mean(-1, keepdim=True)) / states.std(-1, correction=0, keepdim=True)
    torch.testing.assert_close(ours(states), each.mean(0), rtol=1e-3, atol=1e-3)  # layer norm adds 1e-5 to variances
    torch.testing.assert_close(ours(states), F.layer_norm(states, (8,)).mean(0))


def test_the_weights_start_equal_and_learn():
    ours = WeightedLayerSum(3)
    states = torch.eye(3)
    torch.testing.assert_close(ours(states), torch.full((3,), 1 / 3))
    ours(states)[1].backward()
    assert ours.layer_weights.grad.argmax() == 1


def test_another_number_of_layers_is_refused():
    with pytest.raises(ValueError, match="expected 3 layers to sum, got 4"):
        WeightedLayerSum(3)(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="num_layers=0 must be at least 1"):
        WeightedLayerSum(0)


# weights of a head


@pytest.mark.parametrize("reduce", ["mean+std", "norms", "frames"])
def test_norms_are_root_mean_squares_over_utterances_frames_and_channels(reduce):
    model = head()
    result = layer_weights(model, gather(model, reduce))
    squares = [states.square().mean((1, 2)) for states in hidden_states(model, waves())]
    expected = torch.stack(squares).mean(0).sqrt()
    np.testing.assert_allclose(result.norms[0], expected, rtol=1e-5)
    weights = model.layer_weights.detach().double().softmax(0)
    np.testing.assert_allclose(result.weights[0], weights, rtol=1e-6)
    np.testing.assert_allclose(result.contribution[0], weights * expected / (weights * expected).sum(), rtol=1e-5)
    assert (result.settings["reduce"], result.settings["utterances"]) == (reduce, 3)


def test_change_is_that_of_the_sum_without_the_layer():
    model = head()
    by_frame = layer_weights(model, gather(model, "frames"))
    by_mean = layer_weights(model, gather(model, "mean+std"))
    assert np.isnan(layer_weights(model, gather(model, "norms")).change).all()
    weights = model.layer_weights.detach().double().softmax(0)
    states = hidden_states(model, waves())
    for layer in range(4):
        rest = weights.clone()
        rest[layer] = 0
        rest /= rest.sum()
        sums = [(torch.tensordot(weights, s, 1), torch.tensordot(rest, s, 1)) for s in states]
        # every utterance counts the same, however long
        moved = sum((new - old).square().mean() for old, new in sums) / sum(old.square().mean() for old, _ in sums)
        assert by_frame.change[0, layer] == pytest.approx(moved.sqrt().item(), rel=1e-4)
        means = [(old.mean(0), new.mean(0)) for old, new in sums]
        moved = sum((new - old).square().sum() for old, new in means) / sum(old.square().sum() for old, _ in means)
        assert by_mean.change[0, layer] == pytest.approx(moved.sqrt().item(), rel=1e-4)


def arrays(*layers, **columns):
    table = pd.DataFrame({"id": [f"u{row}" for row in range(len(layers[0]))], **columns})
    return FeatureBank.from_arrays(table, {f"hidden.{k}": layer for k, layer in enumerate(layers)})


def test_a_layer_of_huge_norm_and_tiny_weight_contributes_most():
    draw = np.random.default_rng(0)
    layers = [draw.standard_normal((50, 8)) * size for size in (1, 1, 1000)]
    result = layer_weights(np.log([0.59, 0.4, 0.01]), arrays(*layers))
    np.testing.assert_allclose(result.weights[0], [0.59, 0.4, 0.01])
    assert result.weights[0].argmin() == 2
    assert result.contribution[0, 2] > 0.9


def test_several_heads_are_several_runs_and_only_differences_of_weights_count():
    draw = np.random.default_rng(0)
    bank = arrays(*draw.standard_normal((3, 10, 4)))
    ours = WeightedLayerSum(3)
    result = layer_weights([ours, np.array([5.0, 5.0, 5.0]), torch.tensor([0.0, 0.0, 3.0])], bank)
    np.testing.assert_allclose(result.weights[0], result.weights[1])
    table = result.table()
    assert table["run"].tolist() == [run for run in "012" for _ in range(3)]
    assert table["layer"].tolist() == [0, 1, 2] * 3
    np.testing.assert_allclose(table.groupby("run")["weight"].sum(), 1)
    assert table.query("run == '2' and site == 'hidden.2'")["weight"].item() == result.weights[2, 2]
    assert "accuracy_drop" not in table


def test_a_sum_of_one_layer_cannot_do_without_it():
    draw = np.random.default_rng(0)
    result = layer_weights(np.array([0.0, -1000.0]), arrays(*draw.standard_normal((2, 10, 4))))
    assert np.isnan(result.change[0, 0])
    assert result.change[0, 1] == 0


def test_a_bank_of_another_model_is_refused():
    model, other = head(), head(seed=1)
    bank = gather(model, "norms")
    with pytest.raises(ValueError, match="from another model .* than the head sits on"):
        layer_weights(other, bank)
    with pytest.raises(ValueError, match="the heads sit on 2 different backbones"):
        layer_weights([model, other], bank)
    twin = head()  # another head on the same backbone
    with torch.no_grad():
        twin.classifier.weight.zero_()
        twin.layer_weights[0] += 1
    assert layer_weights([twin, model], bank).weights.shape == (2, 4)
    assert layer_weights(twin, gather(model.unispeech_sat, "norms")).weights.shape == (1, 4)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([], "heads is empty"),
        (np.zeros(3), r"one weight for each of the bank's 4 layers \(hidden.0 included\), got shape \(3,\)"),
        (np.array([0.0, np.nan, 0.0, 0.0]), r"layer weights \[1\] are not finite"),
        (torch.nn.Linear(2, 2), "Linear has no layer_weights: .*fit_layer_weights"),
    ],
)
def test_heads_without_fitting_weights_are_refused(heads, message):
    draw = np.random.default_rng(0)
    with pytest.raises(ValueError, match=message):
        layer_weights(heads, arrays(*draw.standard_normal((4, 10, 4))))


def test_a_head_that_sums_nothing_and_a_bank_without_sizes_are_refused():
    plain = us.UniSpeechSatForSequenceClassification(small_config())
    with pytest.raises(ValueError, match="use_weighted_layer_sum=False"):
        layer_weights(plain, gather(plain, "norms"))
    model = head()
    with pytest.raises(ValueError, match="norms cannot be had of a bank .* reduce='mean'; use 'mean\\+std'"):
        layer_weights(model, gather(model, "mean"))


# weights trained on frozen features


def planted(layer=2, layers=4, strength=1.5, size=1.0, seed=0, classes=5, per_class=16, width=12):
    """The speaker is in one layer alone."""
    draw = np.random.default_rng(seed)
    codes = np.repeat(np.arange(classes), per_class)
    values = draw.standard_normal((layers, len(codes), width))
    values[layer] = size * (values[layer] + strength * draw.standard_normal((classes, width))[codes])
    sessions = [f"s{code}-{number % 4}" for code, number in zip(codes, range(len(codes)), strict=True)]
    return arrays(*values, speaker=[f"s{code}" for code in codes], session=sessions)


@pytest.mark.parametrize("normalize", ["zscore", "layer_norm", None])
def test_the_layer_that_alone_carries_the_label_is_found(normalize):
    result = fit_layer_weights(planted(), "speaker", groups="session", seeds=2, folds=4, normalize=normalize)
    assert (result.accuracy > 0.9).all()
    for numbers in (result.weights, result.contribution, result.change, result.accuracy_drop, result.loss_rise):
        assert (numbers.argmax(1) == 2).all()
    assert (result.accuracy_drop[:, 2] > 0.5).all()
    assert np.abs(np.delete(result.accuracy_drop, 2, axis=1)).max() < 0.05
    low, high = result.accuracy_interval
    assert low <= result.accuracy.mean() <= high
    assert result.chance == 0.2
    np.testing.assert_allclose(result.weights.sum(1), 1)
    assert "accuracy_drop" in result.table()


def test_a_label_that_is_in_no_layer_is_not_found():
    bank = planted(strength=0, per_class=24)
    result = fit_layer_weights(bank, "speaker", groups="session", seeds=3, folds=4)
    low, high = result.accuracy_interval
    assert low < 0.2 < high
    assert abs(result.accuracy.mean() - 0.2) < 0.1


def test_a_large_layer_needs_little_weight():
    result = fit_layer_weights(planted(size=50.0), "speaker", groups="session", seeds=1, folds=4, normalize=None)
    assert result.norms[0].argmax() == 2
    assert 1 - result.weights[0, 2] > 20 * (1 - result.contribution[0, 2])
    equal = fit_layer_weights(planted(size=50.0), "speaker", groups="session", seeds=1, folds=4)
    np.testing.assert_allclose(equal.norms, 1, rtol=1e-4)
    np.testing.assert_allclose(equal.contribution, equal.weights, rtol=1e-3)


def test_leaving_a_layer_out_is_setting_its_weight_to_minus_infinity():
    generator = torch.Generator().manual_seed(0)
    layers = torch.randn(3, 10, 4, generator=generator)
    total, linear = WeightedLayerSum(3), torch.nn.Linear(4, 5)
    with torch.no_grad():
        total.layer_weights.copy_(torch.tensor([0.3, -1.0, 2.0]))
    logits, weights = module._without(layers, total, linear)
    torch.testing.assert_close(logits[0], linear(total(layers)).detach())
    np.testing.assert_allclose(weights, total.layer_weights.detach().softmax(0), rtol=1e-6)
    for layer in range(3):
        less = WeightedLayerSum(3)
        with torch.no_grad():
            less.layer_weights.copy_(total.layer_weights)
            less.layer_weights[layer] = -torch.inf
        torch.testing.assert_close(logits[1 + layer], linear(less(layers)).detach())


def test_numbers_depend_on_the_seeds_alone():
    bank = planted()
    options = dict(groups="session", folds=4, steps=20)
    torch.manual_seed(1)
    first = fit_layer_weights(bank, "speaker", seeds=2, **options)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    again = fit_layer_weights(bank, "speaker", seeds=2, **options)
    pd.testing.assert_frame_equal(first.table(), again.table())
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not np.array_equal(first.weights[0], first.weights[1])


def test_no_session_is_on_both_sides_of_a_fold(monkeypatch):
    bank, parts, prepare = planted(), [], module._prepare

    def watched(layers, train, normalize):
        parts.append(train)
        return prepare(layers, train, normalize)

    monkeypatch.setattr(module, "_prepare", watched)
    fit_layer_weights(bank, "speaker", groups="session", folds=4, seeds=1, steps=1)
    sessions, everything = bank.labels("session"), np.arange(len(bank))
    tested = [np.setdiff1d(everything, train) for train in parts]
    assert sorted(np.concatenate(tested)) == everything.tolist()  # each once
    for train, test in zip(parts, tested, strict=True):
        assert len(test) > 0
        assert not set(sessions[train]) & set(sessions[test])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "sex"}, r"'sex' has one class only \('F'\)"),
        ({"groups": "speaker"}, "5 classes of 'speaker' .*'s0'.* are in one 'speaker' only"),
        ({"folds": 21}, "folds=21 must lie between 2 and the 20 classes of groups='session'"),
        ({"groups": "house"}, "no column 'house'"),
        ({"normalize": "batch"}, "normalize='batch' must be 'zscore', 'layer_norm' or None"),
        ({"sites": ["hidden.0"]}, "at least two layers"),
        ({"sites": ["hidden.0", "wide"]}, "equally wide, got {'hidden.0': 12, 'wide': 3}"),
        ({"sites": ["hidden.0", "broken"]}, "broken has values that are not finite for 1 utterance.*'u7'"),
        ({"seeds": 0}, "seeds=0 and steps=200 must be at least 1"),
    ],
)
def test_what_cannot_be_learned_is_refused(change, message):
    bank = planted()
    bank.table["sex"] = "F"
    broken = bank["hidden.0"].copy()
    broken[7, 3] = np.inf
    more = {site: bank[site] for site in bank.sites} | {"wide": np.zeros((80, 3)), "broken": broken}
    options = {"target": "speaker", "groups": "session", **change}
    with pytest.raises(ValueError, match=message):
        fit_layer_weights(FeatureBank.from_arrays(bank.table, more), **options)
