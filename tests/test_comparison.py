"""Several models on one axis: planted truth, worlds without a difference, and what is measured elsewhere."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

import unisat as us
from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.statistics.error_rates import eer_interval
from unisat.interpret.statistics.intervals import interval

pytestmark = pytest.mark.runs_once

SPEAKERS, EACH, DIM, WORDS = 16, 6, 12, 3
QUICK = dict(controls=(), metrics=("bal_acc",), cv=4, seeds=2, n_boot=200, progress=False)


def table(speakers=SPEAKERS):
    speaker = np.repeat(np.arange(speakers), EACH)
    names = [f"s{number:02}" for number in speaker]
    word = [f"w{row % WORDS}" for row in range(len(speaker))]
    ids = [f"u{row:03}" for row in range(len(speaker))]
    return pd.DataFrame({"id": ids, "speaker": names, "session": names, "word": word})


def layer(seed, knows=0.0, rows=None, voices=0.0):
    """Noise in which the word is known by ``knows``, and the speaker by ``voices``."""
    draw = np.random.default_rng(seed)
    rows = table() if rows is None else rows
    values = draw.normal(size=(len(rows), DIM))
    values[:, :WORDS] += knows * np.eye(WORDS)[rows["word"].str[1:].astype(int)]
    return values + voices * draw.normal(size=(SPEAKERS * 4, DIM))[rows["speaker"].str[1:].astype(int)]


def bank(seed, layers=4, knows=(), voices=0.0, extra=None, **settings):
    """A bank in which the layers ``knows`` know the word."""
    arrays = {f"hidden.{k}": layer([seed, k], 3.0 * (k in knows), voices=voices * (k in knows)) for k in range(layers)}
    return FeatureBank.from_arrays(table(), arrays | (extra or {}), settings)


def controls(seed, layers=4):
    arrays = {f"untrained.{twin}.hidden.{k}": layer([seed, 9, twin, k]) for twin in range(2) for k in range(layers)}
    return arrays | {name: layer([seed, 8, place]) for place, name in enumerate(("logmel", "mfcc", "loudness"))}


def shuffled(one, seed=0):
    return one.take(np.random.default_rng(seed).permutation(len(one)))


def same(first, second):
    pd.testing.assert_frame_equal(first, second, check_exact=False, rtol=0, atol=1e-12)


# planted truth


def test_each_model_knows_in_a_layer_of_its_own():
    found = us.compare({"A": bank(0, 8, {3}), "B": bank(1, 8, {7})}, "word", groups="speaker", **QUICK)
    assert {name: report.best_layers() for name, report in found.reports.items()} == {"A": {3}, "B": {7}}
    rows = found.differences()
    assert rows["at"].tolist() == ["layer"] * 8 + ["best"]
    by_layer = rows[rows["at"] == "layer"].set_index("first_layer")
    assert by_layer["low"][3] > 0.4
    assert by_layer["high"][7] < -0.4
    assert (by_layer["difference"].drop([3, 7]).abs() < 0.25).all()
    best = rows.iloc[-1]
    assert (best["first_layer"], best["second_layer"]) == (3, 7)
    assert best["low"] <= 0 <= best["high"]
    assert best["high"] - best["low"] < 0.2


@pytest.mark.parametrize("layers", [(3, 3), (3, 9)])
def test_where_both_models_know_the_same_95_percent_of_intervals_hold_0(layers):
    rows = table(24)
    word = np.eye(WORDS, DIM)[rows["word"].str[1:].astype(int)]
    held = {"each": [], "best": []}
    for world in range(80):
        size = np.exp(0.5 * np.random.default_rng(world).normal(size=24))  # some speakers are hard for both models
        hard = size[rows["speaker"].str[1:].astype(int), None]
        arrays = [
            {f"hidden.{k}": word + hard * layer([world, side, k], rows=rows) for k in range(number)}
            for side, number in enumerate(layers)
        ]
        banks = {name: FeatureBank.from_arrays(rows, each) for name, each in zip("AB", arrays, strict=True)}
        found = us.compare(banks, "word", groups="speaker", **QUICK | {"seeds": 3, "n_boot": 300}).differences()
        inside = (found["low"] <= 0) & (found["high"] >= 0)
        held["each"] += inside[found["at"] != "best"].tolist()
        held["best"] += inside[found["at"] == "best"].tolist()
    assert 0.89 <= np.mean(held["each"]) <= 0.98
    assert np.mean(held["best"]) >= 0.9  # more: the best of equal layers varies more from draw to draw than it does


def test_equal_banks_differ_by_exactly_nothing():
    one = bank(0, 4, {1, 2}, 1.0, controls(0))
    options = QUICK | {"controls": ("shuffle", "untrained", "logmel"), "metrics": ("bal_acc", "eer")}
    for found in (
        us.compare({"A": one, "B": one}, "word", groups="speaker", **options),
        us.compare({"A": one, "B": one}, task="verify", exclude_same_session=False, n_boot=100),
    ):
        for metric in found.table()["metric"].unique():
            rows = found.differences(metric)
            assert len(rows) == 10
            assert (rows[["difference", "low", "high"]] == 0).all().all()


def test_rows_may_have_any_order():
    banks = {"A": bank(0, 4, {1}), "B": bank(1, 4, {2})}
    ask = lambda banks: us.compare(banks, "word", groups="speaker", **QUICK)  # noqa: E731
    found = ask(banks)
    same(ask({"A": banks["A"], "B": shuffled(banks["B"])}).differences(), found.differences())
    mixed = {name: shuffled(one, place) for place, (name, one) in enumerate(banks.items())}
    same(ask(mixed).differences(), found.differences())
    # a sequence has the order of the first bank
    given = us.compare(mixed, mixed["A"].labels("word"), groups="speaker", **QUICK)
    same(given.differences(), found.differences())


# what is measured elsewhere


def test_reports_are_those_of_each_bank_alone():
    banks = {"A": bank(0, 4, {1}, 0.0, controls(0)), "B": bank(1, 4, {2}, 0.0, controls(1))}
    options = QUICK | {"controls": ("shuffle", "untrained", "mfcc")}
    found = us.compare(banks, "word", groups="speaker", **options)
    for name, one in banks.items():
        alone = us.probe_layers(one, "word", groups="speaker", **options)
        same(found.reports[name].table(), alone.table())
        rows = found.table()
        mine = rows[rows["model"] == name].drop(columns=["model", "depth"]).reset_index(drop=True)
        same(mine, alone.table())
    assert set(found.differences()["control"]) == {"trained", "untrained"}


def test_differences_are_paired_and_the_best_is_chosen_anew_in_each_draw():
    banks = {"A": bank(0, 3, {0, 1, 2}), "B": bank(1, 3, {0, 1, 2}), "C": bank(2, 3)}
    found = us.compare(banks, "word", groups="speaker", **QUICK)
    rows = found.differences().set_index(["first", "second", "at", "first_layer"])
    draws = {
        n: np.stack([r.draws["bal_acc", "trained", f"hidden.{k}"] for k in range(3)]) for n, r in found.reports.items()
    }
    values = {n: r.table()["value"].to_numpy() for n, r in found.reports.items()}
    for a, b in combinations("ABC", 2):
        for k in range(3):
            row = rows.loc[(a, b, "layer", k)]
            assert row["difference"] == pytest.approx(values[a][k] - values[b][k])
            expected = interval(draws[a][k] - draws[b][k], groups=SPEAKERS)
            assert (row["low"], row["high"]) == pytest.approx(expected)
        row = rows.xs("best", level="at").loc[(a, b)].iloc[0]
        assert row["difference"] == pytest.approx(values[a].max() - values[b].max())
        expected = interval(
            np.array([x.max() - y.max() for x, y in zip(draws[a].T, draws[b].T, strict=True)]), groups=SPEAKERS
        )
        assert (row["low"], row["high"]) == pytest.approx(expected)


def test_trials_are_those_of_verify_trials_and_their_differences_are_paired():
    pooled = {"reduce": "mean+std"}  # of which trials take the means, and all of the spectrum
    banks = {name: bank(seed, 3, {1, 2}, 0.4, controls(seed, 3), **pooled) for name, seed in (("A", 0), ("B", 1))}
    options = {"exclude_same_session": False, "n_boot": 150, "seed": 3}
    found = us.compare(banks | {"B": shuffled(banks["B"])}, task="verify", **options)
    scored = {}
    for name, one in banks.items():
        report = found.reports[name].table().set_index(["control", "site"])
        for k in range(3):
            trials = scored[name, k] = us.verify_trials(one, k, **options)
            row = report.loc[("trained", f"hidden.{k}")]
            assert row["value"] == trials.eer()
            assert (row["low"], row["high"]) == pytest.approx(trials.interval())
            twins = [us.verify_trials(one, f"untrained.{twin}.hidden.{k}", **options).eer() for twin in range(2)]
            assert report["value"]["untrained", f"hidden.{k}"] == pytest.approx(np.mean(twins))
        for name in ("logmel", "mfcc", "loudness"):
            assert report["value"][name, name] == us.verify_trials(one, name, pool=None, **options).eer()
    rows = found.differences().set_index(["control", "at", "first_layer"])
    trials = scored["A", 1]
    who = banks["A"].labels("speaker")
    for k in range(3):
        row, a, b = rows.loc[("trained", "layer", k)], scored["A", k], scored["B", k]
        assert row["difference"] == pytest.approx(a.eer() - b.eer())
        how = {"versus": b.scores, "n_boot": 150, "seed": 3}
        expected = eer_interval(a.scores, a.same, (who[a.enrol], who[a.test]), **how)
        assert (row["low"], row["high"]) == pytest.approx(expected)
    # the best has the smallest rate
    best = {name: min(range(3), key=lambda k, name=name: scored[name, k].eer()) for name in "AB"}
    chosen = found.differences().query("at == 'best' and control == 'trained'")["first_layer"].iloc[0]
    assert chosen == best["A"] in (1, 2)


def test_a_backend_is_fitted_on_other_speakers_of_the_same_model():
    halves = [{name: bank(seed, 2, {1}, 1.0) for name, seed in (("A", 0), ("B", 1))} for _ in range(2)]
    speakers = sorted(set(table()["speaker"]))
    asked = {name: one.where(speaker=speakers[:8]) for name, one in halves[0].items()}
    train = {name: one.where(speaker=speakers[8:]) for name, one in halves[1].items()}
    how = {"backend": "lda", "exclude_same_session": False, "n_boot": 50}
    found = us.compare(asked, task="verify", train=train, controls=(), **how)
    for name, one in asked.items():
        alone = us.verify_trials(one, 1, train=train[name], **how).eer()
        assert found.reports[name].table()["value"][1] == alone
    with pytest.raises(ValueError, match="train must be a dict with a bank for each model: A, B"):
        us.compare(asked, task="verify", train=train["A"], controls=(), **how)


# layers beside each other


def test_layers_are_put_beside_each_other_by_number_or_by_depth():
    banks = {"base": bank(0, 4, {3}), "large": bank(1, 7, {6})}
    ask = lambda **more: us.compare(banks, "word", groups="speaker", **QUICK | more)  # noqa: E731

    def pairs(found, at):
        return found.differences().query("at == @at")[["first_layer", "second_layer"]].to_numpy().tolist()

    found = ask()
    assert found.by == "depth"
    assert pairs(found, "depth") == [[0, 0], [1, 2], [2, 4], [3, 6]]
    assert found.differences().query("at == 'depth'")["depth"].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    rows = found.table().query("control == 'trained'")
    assert rows[rows["model"] == "large"]["depth"].tolist() == pytest.approx(np.arange(7) / 6)
    turned = us.compare({name: banks[name] for name in ("large", "base")}, "word", groups="speaker", **QUICK)
    assert pairs(turned, "depth") == [[0, 0], [2, 1], [4, 2], [6, 3]]
    assert turned.differences().query("at == 'depth'")["depth"].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert pairs(ask(by="layer"), "layer") == [[0, 0], [1, 1], [2, 2], [3, 3]]
    few = ask(sites=["hidden.0", "hidden.3"])  # the last layer is that of the bank, not of the sites
    assert few.last == {"base": 3, "large": 6}
    assert pairs(few, "depth") == [[0, 0], [3, 3]]
    # the nearest layer, where none has the same depth
    odd = us.compare({"A": bank(0, 3), "B": bank(1, 4)}, "word", groups="speaker", **QUICK)
    assert pairs(odd, "depth") == [[0, 0], [1, 1], [2, 3]]


def test_a_comparison_is_saved_as_two_files(tmp_path):
    found = us.compare({"A": bank(0, 2), "B": bank(1, 2)}, "word", groups="speaker", **QUICK)
    found.save(tmp_path / "found.csv")
    assert set(pd.read_csv(tmp_path / "found.csv")["model"]) == {"A", "B"}
    assert '"by": "layer"' in (tmp_path / "found.json").read_text()


# what is refused


def with_table(one, **columns):
    return FeatureBank.from_arrays(one.table.assign(**columns), {site: one[site] for site in one.sites}, one.settings)


ONE, OTHER = bank(0, 2, reduce="mean+std"), bank(1, 2, reduce="mean+std")
BAD = {
    "one bank": (lambda: us.compare({"A": ONE}), r'a dict of two banks or more by name: \{"SAT"'),
    "a list": (lambda: us.compare([ONE, OTHER]), "must be a dict of two banks"),
    "task": (lambda: us.compare({"A": ONE, "B": OTHER}, task="abx"), "task='abx' must be one of 'probe', 'verify'"),
    "by": (lambda: us.compare({"A": ONE, "B": OTHER}, by="size"), "by='size' must be one of None, 'layer', 'depth'"),
    "target of trials": (
        lambda: us.compare({"A": ONE, "B": OTHER}, "word", task="verify"),
        "task='verify' tells speakers apart",
    ),
    "ids": (
        lambda: us.compare({"SAT": ONE.take(range(3, 96)), "HuBERT": OTHER.take(range(90))}, "word"),
        r"'SAT' lacks 3 of them \('u000', 'u001', 'u002'\) and 'HuBERT' lacks 6 of them \('u090', 'u091', 'u092', …\)",
    ),
    "ids of one": (
        lambda: us.compare({"SAT": ONE, "HuBERT": OTHER.take(range(1, 96))}, "word"),
        r"same utterances; 'HuBERT' lacks 1 of them \('u000'\)\. Take those that both have",
    ),
    "double ids": (
        lambda: us.compare({"SAT": ONE, "HuBERT": with_table(OTHER, id="u0")}, "word"),
        "'HuBERT' has 95 ids more than once",
    ),
    "labels": (
        lambda: us.compare({"SAT": ONE, "HuBERT": with_table(OTHER, speaker="x")}, "word"),
        "'speaker' of 'u000' is 's00' in 'SAT' and 'x' in 'HuBERT', and 96 utterance",
    ),
    "target": (
        lambda: us.compare({"SAT": ONE, "HuBERT": with_table(OTHER, word="x")}, "word"),
        "'word' of 'u000' is 'w0' in 'SAT' and 'x' in 'HuBERT'",
    ),
    "sound": (
        lambda: us.compare({"SAT": with_table(ONE, seconds=3.0), "HuBERT": with_table(OTHER, seconds=1.0)}, "word"),
        "'seconds' of 'u000' is '3.0' in 'SAT' and '1.0' in 'HuBERT'",
    ),
    "pooling": (
        lambda: us.compare({"SAT": ONE, "HuBERT": bank(1, 2, reduce="mean")}, "word"),
        "'SAT' was collected with reduce='mean\\+std', 'HuBERT' with 'mean'.* pool='mean' takes",
    ),
    "frames": (
        lambda: us.compare({"SAT": bank(0, 2, frames="valid"), "HuBERT": bank(1, 2, frames="masked")}, "word"),
        "collected with frames='valid', 'HuBERT' with 'masked'",
    ),
    "controls": (
        lambda: us.compare({"SAT": bank(0, 2, extra=controls(0, 2)), "HuBERT": OTHER}, "word", groups="speaker"),
        "'HuBERT': the bank lacks untrained, logmel, mfcc, loudness",
    ),
    "controls of trials": (
        lambda: us.compare({"SAT": ONE, "HuBERT": OTHER}, task="verify", controls=["shuffle"]),
        "'SAT': trials have no control 'shuffle'; they have untrained, logmel",
    ),
    "missing controls of trials": (
        lambda: us.compare({"SAT": ONE, "HuBERT": OTHER}, task="verify", controls=["logmel"]),
        "'SAT': the bank lacks logmel",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_compared_is_refused(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_banks_pooled_in_different_ways_are_compared_by_what_both_have():
    wide = FeatureBank.from_arrays(
        table(),
        {"hidden.0": np.hstack([layer(0), layer(5)]), "hidden.1": np.hstack([layer(1), layer(6)])},
        {"reduce": "mean+std"},
    )
    narrow = FeatureBank.from_arrays(table(), {"hidden.0": layer(0), "hidden.1": layer(1)}, {"reduce": "mean"})
    found = us.compare({"A": wide, "B": narrow}, "word", groups="speaker", pool="mean", **QUICK)
    assert (found.differences()["difference"] == 0).all()


def test_a_picture_or_metric_that_is_not_there_is_said():
    found = us.compare({"A": ONE, "B": OTHER}, "word", groups="speaker", **QUICK)
    with pytest.raises(ValueError, match="kind='bars' must be 'curves' or 'differences'"):
        found.plot("bars")
    with pytest.raises(ValueError, match="no metric 'eer'"):
        found.differences("eer")
