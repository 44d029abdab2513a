"""Probes: against scikit-learn and slow loops, and on data in which it is known what each layer knows."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier, RidgeClassifierCV
from sklearn.metrics import balanced_accuracy_score

from unisat.interpret.features.bank import LENGTHS, FeatureBank, Part
from unisat.interpret.probing import classifiers, scoring
from unisat.interpret.probing.classifiers import LAMBDAS
from unisat.interpret.probing.probes import probe_layers
from unisat.interpret.statistics.error_rates import eer

pytestmark = pytest.mark.runs_once

SPEAKERS, SESSIONS, EACH, DIM = 12, 3, 4, 24
QUICK = dict(seeds=2, n_boot=200, progress=False)
BARE = dict(controls=(), metrics=("bal_acc",), **QUICK)


def table():
    speaker = np.repeat(np.arange(SPEAKERS), SESSIONS * EACH)
    session = np.repeat(np.arange(SPEAKERS * SESSIONS), EACH)
    columns = {"id": [f"u{row:03}" for row in range(len(speaker))]}
    columns |= {"speaker": [f"s{number:02}" for number in speaker], "session": [f"c{number:02}" for number in session]}
    columns |= {"sex": np.where(speaker % 2, "F", "M"), "sentence": [f"t{row % EACH}" for row in range(len(speaker))]}
    return pd.DataFrame(columns)


def noise(seed, dim=DIM):
    return np.random.default_rng(seed).normal(size=(SPEAKERS * SESSIONS * EACH, dim))


def each(column, size, seed, dim=DIM):
    """The same random vector in all utterances of a speaker, a session, …"""
    codes = np.unique(table()[column], return_inverse=True)[1]
    return size * np.random.default_rng([seed, 9]).normal(size=(codes.max() + 1, dim))[codes]


@pytest.fixture(scope="module")
def bank():
    """Layer 2 knows the speaker; every layer knows the session; untrained twins and acoustics know nothing."""
    arrays = {f"hidden.{k}": noise(k) + each("session", 0.5, k) + each("speaker", 1.5, k) * (k == 2) for k in range(4)}
    arrays |= {f"untrained.{seed}.hidden.{k}": noise(10 + 4 * seed + k) for seed in range(2) for k in range(4)}
    arrays |= {"logmel": noise(30), "mfcc": noise(31), "loudness": noise(32, 2)}
    return FeatureBank.from_arrays(table(), arrays, {"model": "abc", "reduce": "mean"})


@pytest.fixture(scope="module")
def report(bank):
    return probe_layers(bank, "speaker", **QUICK)


def of(report, control, metric="bal_acc"):
    rows = report.table()
    return rows[(rows["control"] == control) & (rows["metric"] == metric)].set_index("site")


# planted truth


def test_the_layer_that_alone_knows_is_found(report):
    trained = of(report, "trained")
    assert trained["value"]["hidden.2"] > 0.9
    assert report.best_layers() == {2}
    assert report.best_layers("eer") == {2}
    assert report.leaky is False
    for control in ("shuffle", "random_attribute", "untrained", "logmel", "mfcc", "loudness"):
        rows = of(report, control)
        assert (rows["low"] < 0.15).all(), control
        assert (rows["value"] < 0.2).all(), control
    others = trained.drop("hidden.2")
    assert (others["low"] <= 1 / SPEAKERS).all()
    assert trained["selectivity"]["hidden.2"] > 0.7


def test_a_nuisance_of_the_session_is_not_taken_for_the_speaker():
    recorded = FeatureBank.from_arrays(table(), {"hidden.0": noise(0, 80) + each("session", 2.0, 0, 80)})
    options = dict(QUICK, controls=("random_attribute",), metrics=("bal_acc",))
    apart = of(probe_layers(recorded, "speaker", **options), "trained").iloc[0]
    assert apart["low"] <= 1 / SPEAKERS <= apart["high"]
    mixed = probe_layers(recorded, "speaker", groups=None, **options)
    row = of(mixed, "trained").iloc[0]
    assert row["low"] > 0.8
    # and the control task says that the channel explains it
    assert abs(row["selectivity"]) < 0.1
    assert mixed.settings["heard_in_training"]["session"] == 1.0
    assert probe_layers(recorded, "speaker", **BARE).settings["heard_in_training"]["session"] == 0.0


def test_an_attribute_is_asked_of_speakers_that_were_not_learned_from():
    # each speaker has a direction, men and women nothing in common: only a learned speaker's sex is known
    voices = FeatureBank.from_arrays(table(), {"hidden.0": noise(0) + each("speaker", 3.0, 0)})
    apart = probe_layers(voices, "sex", **BARE)
    assert apart.settings["groups"] == "speaker"
    assert apart.settings["heard_in_training"]["speaker"] == 0.0
    assert of(apart, "trained")["low"].iloc[0] <= 0.5
    mixed = probe_layers(voices, "sex", groups=table()["session"].to_numpy(), **BARE)
    assert of(mixed, "trained")["low"].iloc[0] > 0.9


def test_speakers_share_a_random_attribute_as_often_as_their_own():
    voices = FeatureBank.from_arrays(table(), {"hidden.0": noise(0) + each("speaker", 3.0, 0)})
    options = dict(QUICK, controls=("random_attribute",), metrics=("bal_acc",))
    mixed = probe_layers(voices, "sex", groups=None, **options)
    assert of(mixed, "random_attribute")["value"].iloc[0] > 0.9  # known speakers can be given any two names
    changing = probe_layers(voices, "sentence", **options)
    assert of(changing, "random_attribute")["value"].iloc[0] > 0.9
    assert of(changing, "trained")["low"].iloc[0] <= 1 / EACH


def test_each_probe_finds_it(bank):
    for probe in ("ridge", "logistic", "lda"):
        report = probe_layers(bank, "speaker", probe=probe, controls=("shuffle",), metrics=("bal_acc", "eer"), **QUICK)
        assert report.best_layers() == {2}, probe
        assert report.leaky is False, probe
        assert of(report, "trained", "eer")["value"]["hidden.2"] < 0.1, probe


def test_labels_that_reach_the_probe_make_the_report_leaky(bank, monkeypatch):
    honest = scoring.held_out

    def leak(features, task, probe, plan, **options):
        return honest(features, task, probe, plan, **options) + 0.5 * np.eye(task.classes)[task.labels]

    monkeypatch.setattr(scoring, "held_out", leak)
    report = probe_layers(bank, "speaker", controls=("shuffle",), metrics=("bal_acc",), **QUICK)
    assert report.leaky is True
    assert report.settings["leaky"] is True


def test_speakers_with_two_sessions_do_not_look_leaky():
    # a fold that holds out one of two sessions of some speakers would tell which speakers it asks for
    kept = table()["session"].str[1:].astype(int).to_numpy() % SESSIONS < 2
    two = FeatureBank.from_arrays(table()[kept].reset_index(drop=True), {"hidden.0": noise(0, 40)[kept]})
    options = dict(controls=("shuffle",), metrics=("bal_acc",), n_boot=100, progress=False)
    report = probe_layers(two, "speaker", seeds=30, **options)
    assert report.settings["folds"] == 2
    assert abs(of(report, "shuffle")["value"].iloc[0] - 1 / SPEAKERS) < 0.02
    assert report.leaky is False


def test_untrained_models_are_averaged(bank, report):
    single = [
        probe_layers(bank, "speaker", sites=[f"untrained.{seed}.hidden.1"], **BARE).table()["value"].iloc[0]
        for seed in range(2)
    ]
    row = of(report, "untrained").loc["hidden.1"]
    assert row["value"] == pytest.approx(np.mean(single))
    assert row["spread"] == pytest.approx(np.std(single, ddof=1))


# the classifiers


def problem(units, dim, classes, seed=0):
    draw = np.random.default_rng(seed)
    labels = np.append(np.arange(classes), draw.integers(classes, size=units - classes))
    centres = draw.normal(size=(classes, dim))
    train, test = draw.normal(size=(units, dim)) + centres[labels], draw.normal(size=(50, dim))
    return train, labels, test


SHAPES = pytest.mark.parametrize(("units", "dim", "classes"), [(60, 100, 3), (120, 30, 4), (80, 20, 2)])


@SHAPES
def test_ridge_is_scikit_learn_s(units, dim, classes):
    train, labels, test = problem(units, dim, classes)
    theirs = RidgeClassifier(alpha=10.0, class_weight="balanced").fit(train, labels).decision_function(test)
    ours = classifiers.ridge_scores(train, labels, test, classes, np.array([10.0]))
    np.testing.assert_allclose(ours if classes > 2 else ours[:, 1], theirs, atol=1e-8)
    chosen = RidgeClassifierCV(LAMBDAS, class_weight="balanced").fit(train, labels).alpha_
    weights = units / classes / np.bincount(labels)[labels]
    said, best = classifiers.ridge(train, 2.0 * np.eye(classes)[labels] - 1, weights, test)
    assert best == chosen
    np.testing.assert_allclose(said, classifiers.ridge_scores(train, labels, test, classes), atol=1e-8)


@pytest.mark.parametrize("dim", [8, 90])
def test_the_penalty_is_the_one_that_predicts_units_left_out(dim):
    draw = np.random.default_rng(2)
    train = draw.normal(size=(40, dim)) * np.arange(1, dim + 1) ** -1.0
    targets, weights = (train[:, 0] + draw.normal(size=40))[:, None], draw.uniform(0.5, 2, 40)
    errors = np.zeros(len(LAMBDAS))
    for place, penalty in enumerate(LAMBDAS):
        for held in range(40):
            rest = np.arange(40) != held
            refit = Ridge(alpha=penalty).fit(train[rest], targets[rest, 0], sample_weight=weights[rest])
            errors[place] += weights[held] * (targets[held, 0] - refit.predict(train[[held]])[0]) ** 2
    _, best = classifiers.ridge(train, targets, weights, train)
    assert best == LAMBDAS[np.argmin(errors)]
    assert LAMBDAS[0] < best < LAMBDAS[-1]


def test_a_class_s_only_group_is_left_out_unit_by_unit():
    labels, groups = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 2, 2, 2])
    blocks = classifiers.selection_blocks(labels, groups)
    assert blocks[:3].tolist() == [0, 0, 1]
    assert len(set(blocks[3:])) == 3
    assert not set(blocks[3:]) & {0, 1, 2}


@SHAPES
def test_lda_is_scikit_learn_s(units, dim, classes):
    train, labels, test = problem(units, dim, classes)
    train *= 1 + np.arange(dim) / dim
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(classes, 1 / classes))
    said = theirs.fit(train, labels).predict_log_proba(test)
    np.testing.assert_allclose(classifiers.lda_log_probabilities(train, labels, test, classes), said, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (200, 30), (2, 10)])
def test_shrinkage_is_ledoit_and_wolf_s(shape):
    features = np.random.default_rng(0).normal(size=shape) * (1 + np.arange(shape[1]))
    features -= features.mean(0)
    amount, size = classifiers.shrinkage(features)
    assert amount == pytest.approx(ledoit_wolf_shrinkage(features, assume_centered=True))
    assert size == pytest.approx(features.var(0).mean())
    assert classifiers.shrinkage(np.zeros((1, 4))) == (0.0, 0.0)


def with_intercept(features, penalty, of_intercept):
    """Features with a constant of such a size that its coefficient is penalised as ours is."""
    return np.column_stack([features, np.full(len(features), np.sqrt(penalty / of_intercept))])


@SHAPES
def test_logistic_regression_is_scikit_learn_s_for_all_penalties_at_once(units, dim, classes):
    train, labels, test = problem(units, dim, classes)
    lambdas = np.array([0.1, 10.0])
    fitted = classifiers.fit_logistic(train, labels, classes, lambdas, 500, torch.float64, 0.5, 1e-12)
    ours = classifiers.predict_logistic(fitted, test)
    for place, penalty in enumerate(lambdas):
        model = LogisticRegression(
            C=1 / penalty if classes > 2 else 2 / penalty, fit_intercept=False, tol=1e-8, max_iter=5000
        )
        model.fit(with_intercept(train, penalty, 0.5), labels)
        theirs = model.predict_log_proba(with_intercept(test, penalty, 0.5))
        np.testing.assert_allclose(ours[:, place], theirs, atol=2e-3)


def test_features_are_turned_not_changed():
    for shape in [(20, 50), (50, 20)]:
        draw = np.random.default_rng(0)
        train, test = draw.normal(size=shape), draw.normal(size=(7, shape[1]))
        axes = classifiers.rotate(train, test)
        np.testing.assert_allclose(axes.train @ axes.train.T, train @ train.T, atol=1e-9)
        np.testing.assert_allclose(axes.test @ axes.train.T, test @ train.T, atol=1e-9)
        np.testing.assert_allclose(axes.train.T @ axes.train, np.diag(axes.spectrum), atol=1e-9)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(2, 5)), min_size=2, max_size=8),
    st.integers(2, 5),
    st.integers(0, 3),
)
def test_folds_keep_groups_whole_and_spread_classes(classes, folds, seed):
    # (units a group, groups) of each class
    labels = np.concatenate([np.full((size + 1) * number, place) for place, (size, number) in enumerate(classes)])
    groups = np.concatenate(
        [np.repeat(np.arange(number), size + 1) + 10 * place for place, (size, number) in enumerate(classes)]
    )
    fold = classifiers.group_folds(labels, groups, folds, seed)
    assert set(fold) == set(range(min(folds, len(set(groups)))))
    assert all(len(set(fold[groups == group])) == 1 for group in set(groups))
    for place, (_, number) in enumerate(classes):
        there = fold[labels == place]
        assert len(set(there)) == min(number, folds)  # as many as it can


def test_log_odds_are_those_of_the_class_against_all_others():
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(classifiers.log_odds(np.log(p)), np.log(p / (1 - p)), atol=1e-12)


# the metrics


def fixed(scores):
    """A probe that says what it is told."""
    return lambda features, task, probe, plan, **options: np.asarray(scores, dtype=float)


def plan(metrics, weights, probe="ridge"):
    return scoring.Plan(probe, metrics, "standard", 0, np.asarray(weights, dtype=float))


def test_usable_information_by_hand(monkeypatch):
    labels = np.array([[0, 0, 1, 1]])
    task = scoring.Task(labels, 2, np.arange(4), np.array([[0, 1, 0, 1]]), np.arange(4))
    p = np.array([[[0.8, 0.2], [0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]])
    monkeypatch.setattr(scoring, "held_out", fixed(np.log(p)))
    found = scoring.measure(np.zeros((4, 1)), task, plan(["bits"], [[1, 1, 1, 1], [0, 2, 0, 0]]))
    cross_entropy = -np.log2([0.8, 0.5, 0.75, 0.1]).mean()
    np.testing.assert_allclose(found["bits"], [[1 - cross_entropy, 0.0]], atol=1e-12)
    np.testing.assert_allclose(found["bits_share"], found["bits"])  # H is one bit


def test_a_probe_that_knows_nothing_has_no_information_whatever_is_held_out():
    # with one of two sessions held out, a class is rarer in training than on the whole
    labels = np.repeat(np.arange(6), 10)[None]
    folds = (np.arange(60) // 5 % 2 + (np.arange(60) // 10 % 3))[None] % 3
    task = scoring.Task(labels, 6, np.arange(60) // 5, folds, np.arange(60))
    found = scoring.measure(np.zeros((60, 3)), task, plan(["bits"], np.ones((1, 60))))
    np.testing.assert_allclose(found["bits"], 0, atol=1e-3)


def test_balanced_accuracy_is_scikit_learn_s(monkeypatch):
    draw = np.random.default_rng(0)
    labels = draw.integers(3, size=(2, 40))
    scores = draw.normal(size=(2, 40, 3)) + np.eye(3)[labels]
    task = scoring.Task(labels, 3, np.arange(40), np.zeros((2, 40), int), np.arange(40) // 2)
    weights = np.vstack([np.ones(20), draw.integers(0, 3, 20)])
    monkeypatch.setattr(scoring, "held_out", fixed(scores))
    found = scoring.measure(np.zeros((40, 1)), task, plan(["bal_acc"], weights))["bal_acc"]
    for row in range(2):
        for number, drawn in enumerate(weights):
            expected = balanced_accuracy_score(
                labels[row], scores[row].argmax(1), sample_weight=drawn[np.arange(40) // 2]
            )
            assert found[row, number] == pytest.approx(expected)


def test_a_speaker_drawn_twice_counts_twice(monkeypatch):
    labels = np.array([[0, 0, 1, 1, 2, 2]])
    scores = np.eye(3)[[0, 0, 1, 0, 0, 0]][None]  # recall 1, ½, 0
    task = scoring.Task(labels, 3, np.arange(6), np.zeros((1, 6), int), np.arange(6), one_speaker_each=True)
    weights = [[1] * 6, [2, 2, 1, 1, 0, 0]]
    monkeypatch.setattr(scoring, "held_out", fixed(scores))
    found = scoring.measure(np.zeros((6, 1)), task, plan(["bal_acc"], weights))["bal_acc"]
    np.testing.assert_allclose(found, [[0.5, (2 * 1 + 0.5) / 3]])


def test_error_rates_are_those_of_all_pairs_and_draws_are_weighted_ones(monkeypatch):
    draw = np.random.default_rng(0)
    labels = draw.integers(8, size=(1, 300))
    scores = draw.normal(size=(1, 300, 8)) + 2 * np.eye(8)[labels]
    task = scoring.Task(labels, 8, np.arange(300), np.zeros((1, 300), int), np.arange(300))
    weights = np.vstack([np.ones(300), draw.integers(0, 3, (5, 300))])
    monkeypatch.setattr(scoring, "held_out", fixed(scores))
    found = scoring.measure(np.zeros((300, 1)), task, plan(["eer", "min_dcf"], weights))
    flat, same = scores.ravel(), np.eye(8, dtype=bool)[labels[0]].ravel()
    exact = [eer(flat, same, np.repeat(drawn, 8)) for drawn in weights]
    assert found["eer"][0, 0] == exact[0]
    np.testing.assert_allclose(found["eer"][0], exact, atol=2e-3)
    for number, drawn in enumerate(weights):
        each = np.repeat(drawn, 8)
        costs = [
            0.05 * each[same & (flat < t)].sum() / each[same].sum()
            + 0.95 * each[~same & (flat >= t)].sum() / each[~same].sum()
            for t in np.append(flat, np.inf)
        ]
        assert found["min_dcf"][0, number] == pytest.approx(min(costs) / 0.05, abs=1e-12 if number == 0 else 5e-3)


def test_the_cost_of_a_probe_that_knows_nothing_is_that_of_accepting_nothing():
    rows = np.ones((1, 900), dtype=bool)
    task = scoring.Task((np.arange(900) % 3)[None], 3, np.arange(900), np.zeros((1, 900), int), np.arange(900))
    weights = np.vstack([rows, 2 * rows])
    flat = scoring._detection(np.zeros((1, 900, 3)), task, weights)
    np.testing.assert_array_equal(flat["min_dcf"], 1.0)
    np.testing.assert_array_equal(flat["eer"], 0.5)
    sure = scoring._detection(np.eye(3)[task.labels], task, weights)
    np.testing.assert_array_equal(sure["min_dcf"], 0.0)


def test_a_cost_from_too_few_trials_is_not_shown(bank):
    report = probe_layers(bank, "sex", controls=("shuffle",), metrics=("bal_acc", "min_dcf"), **QUICK)
    costs = report.table().query("metric == 'min_dcf'")  # 144 impostor trials, 570 are needed at 5 %
    assert costs[["value", "low", "high"]].isna().all(axis=None)
    assert report.best_layers("min_dcf") == set()
    assert report.best_layers("bal_acc")


# online codelength


def slow_code(features, labels, groups, classes, seed, penalty):
    """Send label after label, a fresh scikit-learn model for each block."""
    place = np.random.default_rng(seed).permutation(groups.max() + 1)[groups]
    order = np.argsort(place, kind="stable")
    out, known, model = np.zeros(len(order)), 0, None
    for end in classifiers.BLOCK_ENDS:
        until = known
        while until < end * len(order) or (0 < until < len(order) and place[order[until]] == place[order[until - 1]]):
            until += 1
        for row in order[known:until]:
            if model is None:
                out[row] = np.log2(classes)
            else:
                out[row] = -model.predict_log_proba(with_intercept(features[[row]], penalty, 1.0))[
                    0, labels[row]
                ] / np.log(2)
        known = until
        seen = order[:known]
        if len(set(labels[seen])) < classes:
            assert model is None  # this slow form has a code only where all classes were seen
        else:
            model = LogisticRegression(C=1 / penalty, fit_intercept=False, tol=1e-8, max_iter=5000)
            model.fit(with_intercept(features[seen], penalty, 1.0), labels[seen])
    return out


def test_the_online_code_is_that_of_a_slow_loop():
    draw = np.random.default_rng(1)
    labels = np.tile(np.arange(3), 40)
    groups = np.arange(120) // 12
    features = draw.normal(size=(120, 6)) + np.eye(6)[labels]
    expected = slow_code(features, labels, groups, 3, 5, 3.0)
    ours = classifiers.codelengths(features, labels, groups, 3, 5, np.array([3.0]))
    np.testing.assert_allclose(ours, expected, atol=1e-2)
    # of several penalties: the mixture of their codes
    singles = [classifiers.codelengths(features, labels, groups, 3, 5, np.array([one])).sum() for one in LAMBDAS]
    mixture = -np.logaddexp2.reduce(-np.array(singles)) + np.log2(len(LAMBDAS))
    assert classifiers.codelengths(features, labels, groups, 3, 5).sum() == pytest.approx(mixture, abs=0.5)


def test_random_labels_cost_more_bits_than_those_that_features_know(bank):
    report = probe_layers(bank, "speaker", sites=["hidden.2"], controls=("shuffle",), metrics=("mdl",), **QUICK)
    trained, shuffled = (of(report, control, "mdl").iloc[0] for control in ("trained", "shuffle"))
    assert trained["high"] < shuffled["low"]
    units = SPEAKERS * SESSIONS * EACH
    assert trained["chance"] == pytest.approx(units * np.log2(SPEAKERS))
    assert shuffled["value"] == pytest.approx(trained["chance"], rel=0.15)
    compression = of(report, "trained", "compression").iloc[0]
    assert compression["value"] == pytest.approx(trained["chance"] / trained["value"], rel=0.05)
    assert report.best_layers("mdl") == {2}


# frames and quantities


@pytest.fixture(scope="module")
def frames():
    """Six speakers with eight utterances of 20 to 30 frames: layer 1 knows phones, layer 0 a pitch."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(20, 31, 48)
    total = lengths.sum()
    utterance = np.repeat(np.arange(48), lengths)
    phones, pitch = draw.integers(0, 4, total), draw.normal(size=total)
    hidden = [draw.normal(size=(total, 10)) + draw.normal(size=(48, 10))[utterance] for _ in range(2)]
    hidden[0][:, 0] += 3 * pitch
    hidden[1][:, :4] += 4 * np.eye(4)[phones]
    people = pd.DataFrame({"id": [f"u{n}" for n in range(48)], "speaker": [f"s{n // 8}" for n in range(48)]})
    arrays = {f"hidden.{k}": hidden[k].astype(np.float32) for k in range(2)}
    arrays |= {name + LENGTHS: lengths for name in list(arrays)}
    return FeatureBank(people, [Part(np.arange(48), arrays)]), phones, pitch


def test_phones_are_found_in_frames_of_other_utterances(frames):
    bank, phones, _ = frames
    report = probe_layers(bank, phones, groups=None, controls=("shuffle",), metrics=("bal_acc", "eer"), **QUICK)
    assert report.best_layers() == {1}
    assert of(report, "trained")["value"]["hidden.1"] > 0.9
    assert of(report, "trained")["n"].tolist() == [len(phones)] * 2
    assert of(report, "trained")["n_groups"].tolist() == [48] * 2
    assert of(report, "shuffle")["low"].max() <= 0.25
    assert report.leaky is False


def test_frames_without_a_label_are_left_out(frames):
    bank, phones, _ = frames
    some = np.where(np.arange(len(phones)) % 3 > 0, phones, -1)
    some[: bank.lengths("hidden.0")[:4].sum()] = -1  # four utterances have no label at all
    report = probe_layers(bank, some, groups=None, **BARE)
    assert report.table()["n"].iloc[0] == (some >= 0).sum()
    assert report.table()["n_groups"].iloc[0] == 44
    named = np.array(["abcd"[label] if label >= 0 else [None, ""][row % 2] for row, label in enumerate(some)], object)
    again = probe_layers(bank, named, groups=None, **BARE)
    pd.testing.assert_frame_equal(report.table(), again.table())


def test_frames_of_an_utterance_stay_in_one_fold(frames):
    bank, phones, _ = frames
    codes = np.unique(np.repeat(np.arange(48), bank.lengths("hidden.0")))
    marks = FeatureBank(
        bank.table.assign(sentence=[f"t{n}" for n in codes]),
        [Part(np.arange(48), {name: bank._parts[0].arrays[name] for name in bank._parts[0].arrays})],
    )
    settings = probe_layers(marks, phones, groups=None, **BARE).settings
    assert settings["heard_in_training"] == {"speaker": 1.0, "sentence": 0.0}


def test_a_pitch_is_found_by_ridge_regression(frames):
    bank, _, pitch = frames
    report = probe_layers(bank, np.where(pitch > 2.5, np.nan, pitch), groups=None, controls=("shuffle",), **QUICK)
    trained = of(report, "trained", "r2")
    # 3 pitch + noise of variance 2: 9 / (9 + 2), a little less as its tail is cut
    assert trained["value"]["hidden.0"] == pytest.approx(9 / 11, abs=0.03)
    assert trained["value"]["hidden.1"] == pytest.approx(0, abs=0.03)
    assert report.best_layers() == {0}
    assert of(report, "shuffle", "r2")["value"].max() < 0.02
    assert report.settings["classes"] == []


def test_the_share_explained_is_that_of_a_slow_loop():
    draw = np.random.default_rng(0)
    features, values = draw.normal(size=(40, 5)), draw.normal(size=40)
    values += features[:, 0]
    task = scoring.Task(values[None], 0, np.arange(40), (np.arange(40) % 4)[None], np.arange(40))
    found = scoring.measure(features, task, plan(["r2"], np.ones((1, 40))))["r2"]
    errors = without = 0.0
    for fold in range(4):
        held = np.arange(40) % 4 == fold
        scaled = (features - features[~held].mean(0)) / features[~held].std(0)
        _, best = classifiers.ridge(scaled[~held], values[~held, None], np.ones(30), scaled[held])
        said = Ridge(alpha=best).fit(scaled[~held], values[~held]).predict(scaled[held])
        errors += ((values[held] - said) ** 2).sum()
        without += ((values[held] - values[~held].mean()) ** 2).sum()
    assert found[0, 0] == pytest.approx(1 - errors / without)


def test_an_attribute_that_is_a_quantity_is_asked_of_other_speakers(bank):
    ages = table()["speaker"].map({f"s{n:02}": 20.0 + n for n in range(SPEAKERS)})
    aged = FeatureBank.from_arrays(table().assign(age=ages), {"hidden.0": noise(0) + each("speaker", 3.0, 0)})
    report = probe_layers(aged, "age", controls=(), **QUICK)
    assert report.settings["groups"] == "speaker"
    assert of(report, "trained", "r2")["low"].iloc[0] < 0
    mixed = probe_layers(aged, "age", groups=None, controls=(), **QUICK)
    assert of(mixed, "trained", "r2")["low"].iloc[0] > 0.8


# the report


def test_the_report_is_tidy_and_says_how_it_was_made(report, tmp_path):
    rows = report.table()
    columns = "layer site control metric value low high spread chance selectivity n n_groups"
    assert list(rows) == columns.split()
    assert len(rows) == 3 * (4 * 4 + 3)  # metrics × (curves × layers + flat ones)
    assert rows["layer"].isna().sum() == 3 * 3
    assert (rows["low"] <= rows["high"]).all()
    assert rows["chance"].groupby(rows["metric"]).first().to_dict() == {"bal_acc": 1 / 12, "eer": 0.5, "min_dcf": 1.0}
    report.save(tmp_path / "layers.csv")
    said = json.loads((tmp_path / "layers.json").read_text())
    assert said["model"] == "abc"
    assert said["folds"] == SESSIONS
    assert (said["seeds"], said["n_boot"], said["groups"], said["kind"]) == (2, 200, "session", "speaker")
    again = pd.read_csv(tmp_path / "layers.csv")
    np.testing.assert_allclose(again["value"], rows["value"])


def test_differences_are_paired(report):
    value, low, high = report.difference(2, 0)
    trained = of(report, "trained")["value"]
    assert value == pytest.approx(trained["hidden.2"] - trained["hidden.0"])
    assert 0 < low <= value <= high
    assert report.difference("hidden.2", 2) == (0.0, 0.0, 0.0)
    against = report.difference(2, "untrained")[0], report.difference(2, "logmel", "eer")[0]
    assert against[0] == pytest.approx(trained["hidden.2"] - of(report, "untrained")["value"]["hidden.2"])
    eers = of(report, "trained", "eer")["value"]["hidden.2"], of(report, "logmel", "eer")["value"]["logmel"]
    assert against[1] == pytest.approx(eers[0] - eers[1])


def test_layers_that_say_the_same_cannot_be_told_apart():
    features = noise(2) + each("speaker", 1.0, 2)
    twins = FeatureBank.from_arrays(table(), {"hidden.0": features, "hidden.1": features, "hidden.2": noise(1)})
    report = probe_layers(twins, "speaker", **BARE)
    assert report.best_layers() == {0, 1}
    assert report.difference(0, 1) == (0.0, 0.0, 0.0)
    assert report.leaky is None


def test_the_same_seed_gives_the_same_report_whatever_was_drawn_before(bank):
    options = dict(BARE, controls=("shuffle", "random_attribute"))
    first = probe_layers(bank, "speaker", **options).table()
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    pd.testing.assert_frame_equal(first, probe_layers(bank, "speaker", **options).table())
    other = probe_layers(bank, "speaker", seed=1, **options).table()
    assert (first["value"] != other["value"]).any()


def test_scaling_a_layer_changes_nothing_unless_asked(bank):
    scaled = FeatureBank.from_arrays(table(), {"hidden.0": 1e3 * bank["hidden.2"] + 5, "hidden.1": bank["hidden.2"]})
    rows = probe_layers(scaled, "speaker", **BARE).table()
    assert rows["value"][0] == pytest.approx(rows["value"][1])


def test_a_constant_feature_does_no_harm():
    flat = FeatureBank.from_arrays(table(), {"hidden.0": np.ones((len(table()), 3))})
    for probe in ("ridge", "lda", "logistic"):
        value = probe_layers(flat, "speaker", probe=probe, **BARE).table()["value"][0]
        assert value == pytest.approx(1 / SPEAKERS, abs=0.1), probe


def test_sites_without_a_number_are_numbered(bank):
    report = probe_layers(bank, "speaker", sites=["logmel", "hidden.2"], **BARE)
    assert report.table()["layer"].tolist() == [0, 1]
    assert report.best_layers() == {1}


def test_what_is_not_in_the_report_is_said(report):
    with pytest.raises(ValueError, match=r"no metric 'eerr'.*did you mean eer.*it has bal_acc, eer, min_dcf"):
        report.plot("eerr")
    with pytest.raises(ValueError, match="no layer 9; it has hidden.0, hidden.1"):
        report.difference(9, 0)
    bare = type(report)(rows=report.rows.query("control == 'trained'"), draws={}, leaky=None)
    with pytest.raises(ValueError, match="no control 'logmel'; it has trained"):
        bare.difference(2, "logmel")


# bad input


def changed(bank, **columns):
    return FeatureBank.from_arrays(
        bank.table.assign(**columns), {site: bank[site] for site in bank.sites}, bank.settings
    )


BAD = {
    "one class": (lambda b: probe_layers(changed(b, sex="F"), "sex"), "one class only, 'F'; a probe needs two"),
    "one session a speaker": (
        lambda b: probe_layers(changed(b, session=b.table["speaker"]), "speaker"),
        "every speaker has a single session: .* groups=None splits by utterance .* channel",
    ),
    "some with one session": (
        lambda b: probe_layers(changed(b, session=["c0"] * 24 + list(b.table["session"][24:])), "speaker"),
        r"2 of 12 classes \('s00', 's01'\) lie in a single session.*bank.where",
    ),
    "one utterance": (
        lambda b: probe_layers(changed(b, word=["rare"] + ["often"] * (len(b) - 1)), "word", groups=None),
        r"1 of 2 classes \('rare'\) have fewer than two utterances; leave them out",
    ),
    "one speaker of a class": (
        lambda b: probe_layers(changed(b, sex=np.where(b.table["speaker"] == "s00", "X", b.table["sex"])), "sex"),
        r"1 of 3 classes \('X'\) lie in a single speaker: held out",
    ),
    "no column": (lambda b: probe_layers(b, "speakr"), "no column 'speakr'.*did you mean speaker"),
    "partly empty": (
        lambda b: probe_layers(changed(b, accent=[None, ""] + ["x", "y"] * (len(b) // 2 - 1)), "accent"),
        "'accent' is empty for 2 of 144 utterances.*bank.known",
    ),
    "no sessions": (
        lambda b: probe_layers(changed(b, session=None), "speaker"),
        "'session' is empty for 144 .* pass groups=None: each utterance by itself",
    ),
    "too few labels": (
        lambda b: probe_layers(b, ["a", "b"]),
        r"each of the 144 utterances, got shape \(2,\)",
    ),
    "no labels": (lambda b: probe_layers(b, [None] * 144), "target has no label: all are None"),
    "a quantity that is one": (lambda b: probe_layers(b, [1.5] * 144), "target is 1.5 everywhere"),
    "metrics of classes": (
        lambda b: probe_layers(b, np.arange(144.0), metrics=("eer",), groups=None),
        "'eer' is none of those for a quantity .* r2",
    ),
    "metrics of a quantity": (lambda b: probe_layers(b, "speaker", metrics="r2"), "'r2' is none of those for classes"),
    "no metrics": (lambda b: probe_layers(b, "speaker", metrics=()), "metrics is empty; give some of bal_acc"),
    "lda of a quantity": (
        lambda b: probe_layers(b, np.arange(144.0), probe="lda", groups=None),
        "probe='lda' tells classes apart, but target is a quantity",
    ),
    "groups": (lambda b: probe_layers(b, "speaker", groups=["a"]), r"groups must be a column, .* got \(1,\)"),
    "one group of a quantity": (
        lambda b: probe_layers(changed(b, session="c"), np.arange(144.0)),
        "all utterances have one session; folds need two",
    ),
    "probe": (lambda b: probe_layers(b, "speaker", probe="svm"), "probe='svm' must be one of ridge, logistic, lda"),
    "cv": (lambda b: probe_layers(b, "speaker", cv=1), "cv=1 must be at least 2"),
    "site": (lambda b: probe_layers(b, "speaker", sites=["hidden.44"]), "no 'hidden.44'.*did you mean hidden"),
    "no hidden states": (
        lambda b: probe_layers(FeatureBank.from_arrays(b.table, {"logmel": b["logmel"]}), "speaker"),
        "no hidden states to probe; give sites= of logmel",
    ),
    "a control": (
        lambda b: probe_layers(b, "speaker", controls=("shufle",)),
        "no control 'shufle'.*did you mean shuffle",
    ),
    "no baselines": (
        lambda b: probe_layers(FeatureBank.from_arrays(b.table, {"hidden.0": b["hidden.0"]}), "speaker"),
        r"lacks untrained, logmel, mfcc, loudness.* us.collect\(…, baselines=\['untrained', 'logmel'",
    ),
    "no random attribute": (
        lambda b: probe_layers(b, np.arange(144.0), controls="random_attribute", groups=None),
        "random_attribute needs classes of utterances",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_told_before_any_work(bank, name, monkeypatch):
    call, match = BAD[name]
    monkeypatch.setattr("unisat.interpret.probing.probes.measure", None)
    with pytest.raises(ValueError, match=f"(?s){match}"):
        call(bank)


def test_features_that_are_not_finite_name_utterance_and_site(bank, monkeypatch):
    broken = bank["hidden.1"].copy()
    broken[7, 3] = np.nan
    bad = FeatureBank.from_arrays(table(), {"hidden.0": bank["hidden.0"], "hidden.1": broken})
    with monkeypatch.context() as patch:
        patch.setattr("unisat.interpret.probing.probes.measure", None)
        with pytest.raises(ValueError, match=r"hidden.1 has values that are not finite for 1 utterance\(s\): 'u007'"):
            probe_layers(bad, "speaker", **BARE)
    # an utterance without a label is not looked at
    labels = [None if row == 7 else name for row, name in enumerate(table()["speaker"])]
    assert len(probe_layers(bad, labels, **BARE).table()) == 2


def test_frames_and_utterances_are_not_mixed_up(frames, bank):
    framewise, phones, _ = frames
    with pytest.raises(ValueError, match=r"give a label for each frame, np.repeat\(bank.labels\('speaker'\)"):
        probe_layers(framewise, "speaker", **BARE)
    with pytest.raises(ValueError, match="label for each of the .* frames"):
        probe_layers(framewise, ["a", "b"] * 24, **BARE)
    with pytest.raises(ValueError, match="no logmel of frames"):
        probe_layers(framewise, phones, groups=None, controls=("logmel",), progress=False)
    with pytest.raises(ValueError, match="lacks untrained"):  # by default, without what collect has not of frames
        probe_layers(framewise, phones, groups=None, progress=False)
    arrays = dict(framewise._parts[0].arrays) | {"hidden.2": np.zeros((48, 3))}
    both = FeatureBank(framewise.table, [Part(np.arange(48), arrays)])
    with pytest.raises(ValueError, match=r"hidden.2 has other rows than hidden.0"):
        probe_layers(both, phones, groups=None, progress=False)


def test_classes_with_gaps_are_classes_and_no_quantity(bank):
    numbers = np.unique(table()["speaker"], return_inverse=True)[1].astype(float)
    numbers[[0, 5]] = np.nan
    labelled = FeatureBank.from_arrays(bank.table.assign(number=numbers), {"hidden.2": bank["hidden.2"]}, bank.settings)
    of_column = probe_layers(labelled.known("number"), "number", groups="session", **BARE)
    of_series = probe_layers(labelled, pd.Series(numbers), groups="session", **BARE)
    assert of_column.settings["classes"] == of_series.settings["classes"] == sorted(map(str, range(SPEAKERS)))
    assert of(of_column, "trained")["value"].tolist() == of(of_series, "trained")["value"].tolist()
