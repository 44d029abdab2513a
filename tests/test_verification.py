"""Trials: costs and curves against loops, PLDA against normal densities, intervals against simulated voices."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm, t
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import det_curve

from unisat.interpret.features.bank import FeatureBank
from unisat.interpret.speakers.plda import PLDA, fit_plda
from unisat.interpret.speakers.trials import verify_trials
from unisat.interpret.statistics.error_rates import det, eer, eer_interval, min_dcf, trials_needed


def voices(speakers, utterances, *, noise=0.6, dim=8, seed=0, prefix="s"):
    """A bank: each speaker a point, each utterance near it, two to a session; layer 1 is noise."""
    draw = np.random.default_rng(seed)
    points = draw.normal(size=(speakers, 1, dim)) + noise * draw.normal(size=(speakers, utterances, dim))
    rows = [
        {
            "id": f"{prefix}{speaker}u{number}",
            "path": f"/corpus/{prefix}{speaker}/u{number}.wav",
            "speaker": f"{prefix}{speaker}",
            "session": f"day {number // 2}",
            "sex": "FM"[speaker % 2],
        }
        for speaker in range(speakers)
        for number in range(utterances)
    ]
    flat = points.reshape(-1, dim)
    arrays = {"hidden.0": flat, "hidden.1": draw.normal(size=flat.shape)}
    return FeatureBank.from_arrays(pd.DataFrame(rows), arrays, {"model": "m", "reduce": "mean"})


# error rates


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=30),
    st.sampled_from([0.01, 0.05, 0.3, 0.9]),
    st.sampled_from([1.0, 10.0]),
)
def test_least_cost_is_the_least_over_all_thresholds(trials, p, c_miss):
    scores, same = (np.array(side) for side in zip(*trials, strict=True))
    if same.all() or not same.any():
        return
    costs = []
    for threshold in [*np.unique(scores), 99]:
        accepted = scores >= threshold
        missed, let_in = (~accepted & same).sum() / same.sum(), (accepted & ~same).sum() / (~same).sum()
        costs.append((c_miss * p * missed + (1 - p) * let_in) / min(c_miss * p, 1 - p))
    found = min_dcf(scores, same, p, c_miss, rule_of_30=False)
    assert found == pytest.approx(min(costs))
    assert 0 <= found <= 1


def test_a_cost_of_too_few_trials_is_hidden():
    """Thirty false alarms at the rate where accepting costs as much as rejecting everybody: 1 in 99 for p = 0.01."""
    assert trials_needed(0.01) == (2970, 30)
    assert trials_needed(0.05) == (570, 30)
    assert trials_needed(0.9) == (30, 270)
    assert trials_needed(0.01, c_miss=10.0) == (297, 30)
    draw = np.random.default_rng(0)
    same = np.arange(3000) < 30
    scores = draw.normal(size=3000) + 2 * same
    assert min_dcf(scores, same) == min_dcf(scores, same, rule_of_30=False)
    assert np.isnan(min_dcf(scores[:-1], same[:-1]))
    assert np.isnan(min_dcf(scores[1:], same[1:]))
    assert np.isfinite(min_dcf(scores[:-1], same[:-1], 0.05))
    # a system without an error is not hidden for it
    assert min_dcf(same.astype(float), same) == 0
    for p, costs in ((0.0, (1.0, 1.0)), (1.0, (1.0, 1.0)), (0.5, (0.0, 1.0))):
        with pytest.raises(ValueError, match="between 0 and 1 and costs must be positive"):
            min_dcf(scores, same, p, *costs)


def test_curve_against_scikit_learn_and_two_normal_distributions():
    draw = np.random.default_rng(1)
    same = draw.random(2000) < 0.3
    scores = np.round(draw.normal(size=2000) + 1.5 * same, 2)
    points = det(scores, same)
    alarms, misses, thresholds = det_curve(same, scores)
    ours = points.set_index("threshold").loc[thresholds[np.isfinite(thresholds)]]
    np.testing.assert_allclose(ours["false_alarm"], alarms[-len(ours) :])
    np.testing.assert_allclose(ours["miss"], misses[-len(ours) :])
    assert points.iloc[0].tolist() == [np.inf, 0, 1]
    assert points.iloc[-1].tolist()[1:] == [1, 0]
    # quantiles of two normal distributions d apart: the equal error rate is Φ(-d / 2)
    steps = norm.ppf((np.arange(5000) + 0.5) / 5000)
    for d in (0.5, 2.0, 4.0):
        rate = eer(np.concatenate([steps, steps + d]), np.arange(10_000) >= 5000)
        assert rate == pytest.approx(norm.cdf(-d / 2), abs=2e-4)


# intervals


def test_interval_is_that_of_rounds_taken_one_by_one():
    """Many trials of few scores, so that blocks and ties are crossed; rounds of one speaker alone are redrawn."""
    for speakers, utterances, decimals in ((3, 2, 1), (8, 4, 1), (8, 4, 9)):
        bank = voices(speakers, utterances, noise=1.0)
        scored = verify_trials(bank, 0, exclude_same_session=False)
        scores, same, n_boot = np.round(scored.scores, decimals), scored.same, 60
        names = bank.table["speaker"].to_numpy()
        sides = names[scored.enrol].tolist(), names[scored.test].tolist()
        who, draw, rates = np.unique(names).tolist(), np.random.default_rng(5), []
        while len(rates) < n_boot:
            drawn = draw.integers(speakers, size=speakers).tolist()
            count = {name: drawn.count(place) for place, name in enumerate(who)}
            weights = np.array([count[a] if a == b else count[a] * count[b] for a, b in zip(*sides, strict=True)])
            if weights[same].any() and weights[~same].any():
                rates.append(eer(scores, same, weights))
        # percentiles farther out, as Student's t with so few speakers and their own spread ask for
        tail = norm.cdf(t.ppf(0.025, speakers - 1) * np.sqrt(speakers / (speakers - 1)))
        expected = np.quantile(rates, [tail, 1 - tail])
        assert eer_interval(scores, same, sides, n_boot=n_boot, seed=5) == pytest.approx(expected, abs=1e-12)


def test_interval_covers_the_truth():
    """A 95 % interval from 15 speakers with 4 utterances each, some of them harder than others, 1000 times over."""
    draw = np.random.default_rng(0)

    def cosines(speakers, utterances):
        hard = np.exp(0.3 * draw.normal(size=(speakers, 1, 1)))
        x = draw.normal(size=(speakers, 1, 6)) + 0.8 * hard * draw.normal(size=(speakers, utterances, 6))
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    pairs = cosines(40_000, 2)
    impostors = np.concatenate([np.einsum("sd,sd->s", pairs[:, 0], np.roll(pairs[:, 1], k, 0)) for k in (1, 2, 3)])
    many = np.concatenate([np.einsum("sd,sd->s", pairs[:, 0], pairs[:, 1]), impostors])
    truth = eer(many, np.arange(len(many)) < len(pairs))
    who = np.repeat(np.arange(15), 4)
    enrol, test = np.triu_indices(60, 1)
    sides, same, rounds = (who[enrol], who[test]), who[enrol] == who[test], 1000
    covered = by_trials = 0
    for number in range(rounds):
        x = cosines(15, 4).reshape(60, 6)
        scores = (x @ x.T)[enrol, test]
        low, high = eer_interval(scores, same, sides, n_boot=80, seed=number)
        covered += low <= truth <= high
        if number < 60:
            each = np.arange(len(same)).astype(str)
            low, high = eer_interval(scores, same, (each, each), n_boot=60, seed=number)
            by_trials += low <= truth <= high
    assert 0.90 <= covered / rounds <= 0.98, covered / rounds
    assert by_trials / 60 < 0.85  # trials taken for independent: what the interval over speakers is for


# PLDA


@pytest.fixture
def planted():
    draw = np.random.default_rng(0)
    between, within = ((a := draw.normal(size=(3, 3))) @ a.T + 0.3 * np.eye(3) for _ in range(2))
    return np.array([1.0, -2.0, 3.0]), between, within


def drawn(planted, sizes, seed):
    mean, between, within = planted
    draw, who = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)
    points = draw.multivariate_normal(mean, between, len(sizes))[who]
    return points + draw.multivariate_normal(np.zeros(3), within, len(who)), who


def likelihood(features, who, mean, between, within):
    """Log-density of all recordings, from the normal distribution of each speaker's side by side."""
    total = 0.0
    for name in np.unique(who):
        mine = features[who == name]
        n = len(mine)
        covariance = np.kron(np.ones((n, n)), between) + np.kron(np.eye(n), within)
        total += multivariate_normal.logpdf(mine.ravel(), np.tile(mean, n), covariance)
    return total / len(who)


def test_plda_scores_are_ratios_of_normal_densities(planted):
    mean, between, within = planted
    one, two = np.random.default_rng(1).normal(scale=3, size=(2, 20, 3))
    total = between + within
    joint = np.block([[total, between], [between, total]])
    expected = multivariate_normal.logpdf(np.hstack([one, two]), np.tile(mean, 2), joint)
    expected -= multivariate_normal.logpdf(one, mean, total) + multivariate_normal.logpdf(two, mean, total)
    np.testing.assert_allclose(PLDA(mean, between, within).scores(one, two), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(PLDA(mean, between, within).scores(two, one), expected, rtol=1e-9, atol=1e-9)


def test_plda_finds_planted_covariances(planted):
    features, who = drawn(planted, np.random.default_rng(2).integers(2, 8, size=3000), 3)
    model = fit_plda(features, who)
    for found, true in zip((model.mean, model.between, model.within), planted, strict=True):
        np.testing.assert_allclose(found, true, atol=0.06 * np.abs(true).max())
    assert model.log_likelihood == pytest.approx(likelihood(features, who, *planted), abs=1e-2)


def test_plda_is_the_most_likely_one(planted):
    """Fitted to speakers with different numbers of recordings; any change makes the data less likely."""
    features, who = drawn(planted, [1, 1, 2, 3, 4, 6, 9, 9, 2, 5] * 4, 4)
    model = fit_plda(features, who, iterations=3000, tolerance=0.0)
    best = likelihood(features, who, model.mean, model.between, model.within)
    assert model.log_likelihood == pytest.approx(best, abs=1e-9)
    draw = np.random.default_rng(0)
    for _ in range(20):
        step = 0.02 * draw.normal(size=(3, 3))
        moved = (np.eye(3) + step) @ model.between @ (np.eye(3) + step).T
        assert likelihood(features, who, model.mean, moved, model.within) < best
        moved = (np.eye(3) + step) @ model.within @ (np.eye(3) + step).T
        assert likelihood(features, who, model.mean, model.between, moved) < best
        assert likelihood(features, who, model.mean + 0.02 * draw.normal(size=3), model.between, model.within) < best
    steps = [fit_plda(features, who, iterations=n, tolerance=0.0).log_likelihood for n in range(1, 12)]
    assert (np.diff(steps) >= -1e-12).all()
    with pytest.raises(
        ValueError, match="at least two speakers and 3 recordings more than speakers, got 10 recordings"
    ):
        fit_plda(features[:10], np.arange(10))


@pytest.mark.parametrize("alike", [1.0, 0.05, 0.0])
def test_plda_is_as_likely_as_what_plain_steps_reach_in_the_end(alike):
    """Speakers hardly differ in one direction, or not at all: plain steps from elsewhere, thousands of them."""
    draw = np.random.default_rng(3)
    sizes = draw.integers(2, 7, size=50)
    who = np.repeat(np.arange(50), sizes)
    spread = np.array([3.0, 1.0, alike, 1.0]) * draw.normal(size=(50, 4))
    features = spread[who] + draw.normal(size=(len(who), 4)) @ draw.normal(size=(4, 4))
    mean, between, within = features.mean(0), np.cov(features.T) / 2, np.cov(features.T) / 2
    for _ in range(2000):
        at, unsure = np.empty((50, 4)), np.empty((50, 4, 4))
        for name in range(50):
            gain = between @ np.linalg.inv(between + within / sizes[name])
            at[name] = mean + gain @ (features[who == name].mean(0) - mean)
            unsure[name] = between - gain @ between
        rest = features - at[who]
        within = (rest.T @ rest + np.einsum("k,kij->ij", sizes, unsure)) / len(who)
        mean = at.mean(0)
        between = (at - mean).T @ (at - mean) / 50 + unsure.mean(0)
    plain = likelihood(features, who, mean, between, within)
    assert fit_plda(features, who).log_likelihood >= plain - 1e-5


@pytest.mark.parametrize("backend", ["lda", "plda"])
@pytest.mark.parametrize("each", [2, 3])
@pytest.mark.filterwarnings("ignore:PLDA is fitted")
def test_few_utterances_of_few_speakers_are_enough_to_fit_on(backend, each):
    """Fewer speakers than channels with two utterances each: no speaker's own covariance is of use."""
    draw = np.random.default_rng(0)

    def wide(prefix, speakers, each):
        who = np.repeat(np.arange(speakers), each)
        x = 3 * draw.normal(size=(speakers, 64))[who] + draw.normal(size=(len(who), 64))
        table = pd.DataFrame(
            {"id": [f"{prefix}{n}" for n in range(len(who))], "speaker": [f"{prefix}s{w}" for w in who]}
        )
        return FeatureBank.from_arrays(table.assign(session=table["id"]), {"hidden.1": x})

    scored = verify_trials(wide("t", 12, 4), 1, backend=backend, train=wide("r", 30, each), n_boot=50)
    assert scored.eer() < 0.2


# trials


def test_all_pairs_without_targets_of_one_session():
    bank = voices(5, 4)
    scored = verify_trials(bank, 0)
    heard = list(zip(*(bank.table[name] for name in ("id", "speaker", "session")), strict=True))
    expected = {
        (a, b)
        for place, (a, s, d) in enumerate(heard)
        for b, t, e in heard[place + 1 :]
        if not (s == t and d == e)  # an impostor with a session of the same name stays
    }
    rows = scored.table()
    assert set(zip(rows["enrol"], rows["test"], strict=True)) == expected
    assert len(rows) == len(expected)
    assert (rows["same"] == (rows["enrol_speaker"] == rows["test_speaker"])).all()
    assert scored.settings["same_session_removed"] == 5 * 2
    every = verify_trials(bank, 0, exclude_same_session=False)
    assert len(every.table()) == 20 * 19 / 2
    # without a train bank the bank's own mean and spread are used, and it says so
    x = bank["hidden.0"]
    x = (x - x.mean(0)) / x.std(0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(every.scores, (x @ x.T)[every.enrol, every.test])
    assert every.settings["scaled_on"] == "the bank itself"


def test_speakers_are_found_where_they_are_planted_and_not_in_noise():
    bank = voices(12, 6)
    assert verify_trials(bank, 0).eer() < 0.15
    noise = verify_trials(bank, "hidden.1", n_boot=300)
    low, high = noise.interval()
    assert low < 0.5 < high
    assert noise.eer() == pytest.approx(0.5, abs=0.1)


def test_centring_comes_from_other_speakers_when_there_are_some():
    bank, train = voices(4, 4), voices(9, 3, seed=1, prefix="t")
    train["hidden.0"][:, 0] = 3.0  # a channel that never changes
    train["hidden.0"][:] += 10
    cut, mean, spread = bank["hidden.0"], train["hidden.0"].mean(0), train["hidden.0"].std(0)
    for scale, x in (("standard", (cut - mean) / np.append(1, spread[1:])), ("centre", cut - mean), ("raw", cut)):
        found = verify_trials(bank, 0, train=train, scale=scale)
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        np.testing.assert_allclose(found.scores, (x @ x.T)[found.enrol, found.test], rtol=1e-9, atol=1e-12)
        assert found.settings["scaled_on"] == (None if scale == "raw" else "train")


def noisy(bank, seed):
    """The bank with eight louder channels that say nothing of the speaker."""
    noise = np.random.default_rng(seed).normal(scale=4, size=(len(bank), 8))
    arrays = {"hidden.0": np.hstack([bank["hidden.0"], noise])}
    return FeatureBank.from_arrays(bank.table, arrays, bank.settings)


def test_discriminant_analysis_and_plda_drop_what_differs_within_a_speaker():
    bank, train = noisy(voices(12, 5, noise=0.9), 1), noisy(voices(60, 6, noise=0.9, seed=2, prefix="t"), 2)
    alone = FeatureBank.from_arrays(
        pd.DataFrame({"id": ["x"], "speaker": ["once"]}), {"hidden.0": np.full((1, 16), 50.0)}, train.settings
    )
    rates = {b: verify_trials(bank, 0, backend=b, train=train) for b in ("cosine", "lda", "plda")}
    assert rates["lda"].eer() < rates["cosine"].eer() - 0.05
    assert rates["plda"].eer() < rates["cosine"].eer() - 0.05
    assert rates["plda"].settings["train_speakers"] == 60
    # the same as scikit-learn's, on standardised features
    x, y = bank["hidden.0"], train["hidden.0"]
    x, y = (x - y.mean(0)) / y.std(0), (y - y.mean(0)) / y.std(0)
    model = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(y, train.table["speaker"])
    z = model.transform(x)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    scored = rates["lda"]
    np.testing.assert_allclose(scored.scores, (z @ z.T)[scored.enrol, scored.test], atol=1e-9)
    few = verify_trials(bank, 0, backend="lda", train=train, dimensions=2)
    assert few.settings["dimensions"] == 2
    assert few.eer() > scored.eer()
    # a speaker heard once counts for mean and spread alone
    both = pd.concat([train.table, alone.table], ignore_index=True)
    more = FeatureBank.from_arrays(
        both, {"hidden.0": np.vstack([train["hidden.0"], alone["hidden.0"]])}, train.settings
    )
    assert verify_trials(bank, 0, backend="lda", train=more).settings["train_speakers"] == 60


def test_a_trial_list_in_a_file_keeps_ids_that_look_like_numbers(tmp_path):
    bank = voices(4, 3)
    bank.table["id"] = [f"{row:04}" for row in range(12)]
    (tmp_path / "trials.csv").write_text("label,enrol_id,test_id\n1,0000,0001\n0,0000,0007\n")
    assert verify_trials(bank, 0, trials=tmp_path / "trials.csv").test.tolist() == [1, 7]
    (tmp_path / "trials.csv").write_text("label,enrol_id,test_id\n1,0000,0001\n0,0000,\n")
    with pytest.raises(ValueError, match=r"1 test recording\(s\) of the trial list are not in the bank"):
        verify_trials(bank, 0, trials=tmp_path / "trials.csv")


def test_plda_of_few_speakers_warns():
    with pytest.warns(UserWarning, match="54 utterances of 9 speakers; its covariances want at least 50"):
        verify_trials(voices(4, 4), 0, backend="plda", train=voices(9, 6, seed=1, prefix="t"))


@pytest.mark.parametrize("form", ["id", "path", "tail", "csv"])
def test_a_list_of_trials_is_found_in_the_bank(form, tmp_path):
    bank = voices(4, 3)
    names = {"id": bank.ids, "path": bank.table["path"].tolist()}.get(
        form, [path.removeprefix("/corpus/") for path in bank.table["path"]]
    )
    rows = [(0, 1, 1), (0, 3, 0), (4, 5, 1), (5, 0, 0)]
    kind = "id" if form == "id" else "path"
    trials = pd.DataFrame(
        [{"label": label, f"enrol_{kind}": names[a], f"test_{kind}": names[b]} for a, b, label in rows]
    )
    if form == "csv":
        trials.to_csv(tmp_path / "trials.csv", index=False)
    scored = verify_trials(bank, 0, trials=tmp_path / "trials.csv" if form == "csv" else trials)
    assert scored.enrol.tolist() == [0, 0, 4, 5]
    assert scored.test.tolist() == [1, 3, 5, 0]
    assert scored.same.tolist() == [True, False, True, False]
    every = verify_trials(bank, 0, exclude_same_session=False)
    known = {(a, b): s for a, b, s in zip(every.enrol, every.test, every.scores, strict=True)}
    assert scored.scores == pytest.approx([known[tuple(sorted((a, b)))] for a, b, _ in rows])
    # without labels, the bank knows who speaks
    assert verify_trials(bank, 0, trials=trials.drop(columns="label")).same.tolist() == scored.same.tolist()
    words = trials.assign(label=["target", "nontarget", True, "0"])
    assert verify_trials(bank, 0, trials=words).same.tolist() == scored.same.tolist()


def test_summary_says_how_many_and_how_sure(tmp_path):
    bank = voices(30, 6, noise=1.0)
    scored = verify_trials(bank, 0, n_boot=200)
    row = scored.summary().iloc[0]
    assert row["utterances"] == 180
    assert row["speakers"] == 30
    assert row["target_trials"] == 30 * (15 - 3)
    assert row["impostor_trials"] == 30 * 29 / 2 * 36
    assert row["low"] < row["eer"] == scored.eer() < row["high"]
    assert (row["low"], row["high"]) == scored.interval()
    assert scored.interval("session") != scored.interval()
    assert row["min_dcf_0.01"] == min_dcf(scored.scores, scored.same)
    sex = bank.table["sex"].to_numpy()
    keep = scored.same | (sex[scored.enrol] == sex[scored.test])
    assert row["eer_same_sex"] == eer(scored.scores[keep], scored.same[keep])
    threshold = scored.det().assign(cost=lambda t: 0.05 * t["miss"] + 0.95 * t["false_alarm"])
    best = threshold.loc[threshold["cost"].idxmin(), "threshold"]
    assert row["false_alarms_0.05"] == ((scored.scores >= best) & ~scored.same).sum()
    histogram = scored.histogram(20)
    assert histogram[["target", "impostor"]].sum().tolist() == pytest.approx([1, 1])
    inside = (scored.scores >= histogram["low"][7]) & (scored.scores < histogram["high"][7])
    assert histogram["target"][7] == pytest.approx((inside & scored.same).sum() / scored.same.sum())
    scored.save(tmp_path / "trials.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "trials.csv"), scored.table())
    assert json.loads((tmp_path / "trials.json").read_text())["min_dcf_needs"]["0.01"]["impostor"] == 2970
    small = verify_trials(bank.take(range(24)), 0, n_boot=50)
    assert small.summary()["min_dcf_0.01"].isna().all()


def test_pooled_halves():
    bank = voices(6, 4)
    both = {"hidden.0": np.hstack([bank["hidden.0"], bank["hidden.1"]])}
    halves = FeatureBank.from_arrays(bank.table, both, {"reduce": "mean+std"})
    expected = verify_trials(bank, 0).scores
    np.testing.assert_array_equal(verify_trials(halves, 0).scores, expected)
    assert verify_trials(halves, 0, pool=None).scores == pytest.approx(verify_trials(halves, 0, pool="mean+std").scores)
    assert np.abs(verify_trials(halves, 0, pool=None).scores - expected).max() > 0.1
    unsaid = FeatureBank.from_arrays(bank.table, {"hidden.0": bank["hidden.0"]})
    np.testing.assert_array_equal(verify_trials(unsaid, 0).scores, expected)


@pytest.mark.wrong_types
def test_mistakes():
    bank, train = voices(4, 4), voices(5, 4, seed=1, prefix="t")
    listed = pd.DataFrame({"label": [1, 0], "enrol": ["s0u0", "s0u0"], "test": ["s0u1", "s1u0"]})

    def without(column, rows=slice(None)):
        table = bank.table.copy()
        table.loc[table.index[rows], column] = None
        return FeatureBank.from_arrays(table, {site: bank[site] for site in bank.sites}, bank.settings)

    broken = bank["hidden.0"].copy()
    broken[5, 2] = np.nan
    once = bank.take(np.arange(0, 16, 4))
    frames = FeatureBank(bank.table, bank._parts, settings=bank.settings)
    frames.is_frames = lambda site: True
    other = FeatureBank.from_arrays(train.table, {"hidden.0": train["hidden.0"]}, {"model": "another"})
    narrow = FeatureBank.from_arrays(train.table, {"hidden.0": train["hidden.0"][:, :3]}, {"reduce": "mean"})
    alone = train.take(np.arange(0, 20, 4))
    for given_bank, options, message in [
        (bank, dict(backend="gmm"), "backend='gmm' must be one of 'cosine', 'lda', 'plda'"),
        (bank, dict(scale="z"), "scale='z' must be one of"),
        (bank, dict(dimensions=0), "must be at least 1"),
        (bank, dict(backend="lda"), "backend='lda' is fitted on other speakers: pass train"),
        (bank, dict(train=voices(6, 2)), r"4 speaker\(s\) are in train as well as in bank \(s0, s1, s2, …\)"),
        (bank, dict(train=other), r"of different models \(m, another\)"),
        (bank, dict(train=narrow), "hidden.0 has 8 channels in the bank and 3 in train"),
        (bank, dict(train=alone, backend="lda"), "two speakers with two utterances each or more, got 0"),
        (bank, dict(trials=listed.assign(test="s9u9")), r"1 test recording\(s\) .* not in the bank, .*: 's9u9'"),
        (bank, dict(trials=listed.assign(enrol="u0.wav")), "or more than once: 'u0.wav'"),
        (bank, dict(trials=listed.drop(columns="test")), "needs the columns enrol_path and test_path"),
        (bank, dict(trials=listed.assign(label=[1, 2])), "label must be 1 or 0 .*, got '2' in row 1"),
        (bank, dict(trials=listed.assign(label=[1, None])), "got 'nan' in row 1"),
        (
            bank,
            dict(trials=listed.assign(label=1)),
            r"1 label\(s\) contradict .* row 1: label '1', speakers 's0' and 's1'",
        ),
        (bank, dict(trials=listed[:1]), "of one speaker and trials of two, got 1 and 0; take more"),
        (without("speaker", [0]), dict(trials=listed.drop(columns="label")), "no column label, and the bank"),
        (without("speaker", [3]), {}, "'speaker' is empty for 1 of 16"),
        (without("session"), {}, "'session' is empty for 16 of 16 .* exclude_same_session=False"),
        (bank.take([0, 1, 4, 5]), {}, "got 0 and 4; 2 target trials of one session were left out"),
        (once, {}, "got 0 and 6; take more utterances"),
        (FeatureBank.from_arrays(bank.table, {"hidden.0": broken}), {}, "not finite for 1 utterance.*'s1u1'"),
        (frames, {}, "has a row for each frame"),
    ]:
        with pytest.raises(ValueError, match=message):
            verify_trials(given_bank, 0, **options)
    with pytest.raises(KeyError, match="the bank has no 'hidden.7'"):
        verify_trials(bank, 7)
    with pytest.raises(ValueError, match="kind='roc' must be"):
        verify_trials(bank, 0).plot("roc")
    with pytest.raises(ValueError, match="no column 'room'"):
        verify_trials(bank, 0).interval("room")
    many = FeatureBank.from_arrays(pd.DataFrame({"id": range(6400)}), {"hidden.0": np.zeros((6400, 1))})
    with pytest.raises(ValueError, match="6400 utterances make 20,476,800 pairs"):
        verify_trials(many, 0)
    # speakers who are not known do not stop a list that says who is who
    assert np.isnan(verify_trials(without("speaker"), 0, trials=listed).summary()["low"].iloc[0])
