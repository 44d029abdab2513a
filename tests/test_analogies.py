"""Analogies between class means: planted steps are found, and floors are where chance or c alone is."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics.pairwise import cosine_similarity

import unisat as us

PAIRS = [("p", "b"), ("t", "d"), ("k", "g"), ("f", "v")]
OTHERS = ["m", "n", "s", "z", "h", "l"]
QUICK = {"draws": 20, "n_boot": 50, "sites": "hidden.1"}


def planted(step=3.0, own=3.0, apart=0.0, speakers=12, each=4, seed=0):
    """Phones in random places; the second of a pair lies ``step`` from the first, along one channel for all pairs.

    With ``apart`` each pair has a step of its own besides, in a channel of its own.
    """
    draw = np.random.default_rng(seed)
    places = {name: own * draw.standard_normal(16) for name in OTHERS}
    for number, (first, second) in enumerate(PAIRS):
        places[first] = own * draw.standard_normal(16)
        places[second] = places[first] + step * np.eye(16)[15] + apart * np.eye(16)[number]
    rows = [(f"s{who}", name) for who in range(speakers) for name in places for _ in range(each)]
    voices = 2 * draw.standard_normal((speakers, 16))
    values = [places[name] + voices[int(who[1:])] + draw.standard_normal(16) for who, name in rows]
    table = pd.DataFrame(rows, columns=["speaker", "label"])
    table.insert(0, "id", [f"u{row}" for row in range(len(table))])
    return us.FeatureBank.from_arrays(table, {"hidden.1": np.array(values)})


def test_a_planted_step_is_found_and_nothing_else_finds_it():
    found = us.analogies(planted(step=20.0), "label", PAIRS, **QUICK)
    table = found.table().set_index("what")
    assert table["accuracy"]["analogy"] == 1
    assert table["rank"]["analogy"] == 1
    assert table["low"]["analogy"] > table["high"][["shuffled labels", "random offsets"]].max()
    assert table["accuracy"]["no offset"] < 0.5
    assert table["accuracy"]["shuffled labels"] < 0.3
    assert (table["chance"] == 1 / 11).all()
    assert len(found.questions) == 2 * 4 * 3
    assert (found.questions["found"] == found.questions["d"]).all()


def test_what_is_right_because_it_is_near_is_right_without_the_step():
    """Pairs that are close together: d is nearest to c, so the analogy shows nothing, and the table says so."""
    table = us.analogies(planted(step=0.0, own=8.0), "label", PAIRS, **QUICK).table().set_index("what")
    assert table["accuracy"]["no offset"] == 1
    assert table["accuracy"]["analogy"] == 1
    assert table["accuracy"]["random offsets"] > 0.5


def test_a_step_of_its_own_in_each_pair_is_no_analogy():
    shared = us.analogies(planted(step=20.0, apart=0.0), "label", PAIRS, **QUICK).table()
    alone = us.analogies(planted(step=0.0, apart=20.0), "label", PAIRS, **QUICK).table()
    assert alone["accuracy"][0] < shared["accuracy"][0] - 0.4


def test_answers_by_a_loop():
    bank = planted(step=4.0)
    found = us.analogies(bank, "label", PAIRS, **QUICK)
    means = {name: bank.where(label=name)["hidden.1"].mean(0) for name in bank.table["label"].unique()}
    middle = np.mean(list(means.values()), axis=0)
    unit = {name: (mean - middle) / np.linalg.norm(mean - middle) for name, mean in means.items()}
    asked = [(*one, *other) for one, other in permutations(PAIRS, 2)]
    asked += [(b, a, d, c) for a, b, c, d in asked]
    assert list(found.questions[["a", "b", "c", "d"]].itertuples(index=False, name=None)) == asked
    for row, (a, b, c, d) in zip(found.questions.itertuples(), asked, strict=True):
        others = [name for name in unit if name not in (a, b, c)]
        scores = cosine_similarity([unit[b] - unit[a] + unit[c]], [unit[name] for name in others])[0]
        best = [others[place] for place in np.argsort(-scores)]
        assert row.found == best[0]
        assert row.rank == 1 + best.index(d)


def test_the_interval_is_over_speakers():
    """A speaker whose T and D are exchanged counts in some draws more often than in others."""
    bank = planted(step=6.0, speakers=3, each=2)
    wrong = (bank.table["speaker"] == "s0") & bank.table["label"].isin(["t", "d"])
    bank["hidden.1"][wrong] *= -8
    table = us.analogies(bank, "label", PAIRS, **QUICK).table().set_index("what")
    assert table["low"]["analogy"] < table["high"]["analogy"]
    same = us.analogies(bank, "label", PAIRS, **QUICK).table()
    pd.testing.assert_frame_equal(same, us.analogies(bank, "label", PAIRS, **QUICK).table())


def test_a_class_that_a_draw_leaves_out_is_not_asked():
    bank = planted(step=20.0, speakers=4)
    rare = bank.where(label="v", speaker="s0").ids
    keep = ~((bank.table["label"] == "v") & ~bank.table["id"].isin(rare))
    table = us.analogies(bank.take(keep.to_numpy()), "label", PAIRS, **QUICK).table().set_index("what")
    assert np.isfinite(table[["accuracy", "low", "high", "rank"]].to_numpy()).all()


@pytest.mark.wrong_types
def test_mistakes_are_said():
    bank = planted()
    for message, wrong in {
        "no row's label is 'x'; there are 'b', 'd'": [("p", "b"), ("t", "x")],
        "must be two or more pairs of classes": [("p", "b")],
        "pairs='pb' must be two": "pb",
        "'p' is in several pairs": [("p", "b"), ("p", "d")],
    }.items():
        with pytest.raises(ValueError, match=message):
            us.analogies(bank, "label", wrong, **QUICK)
    with pytest.raises(ValueError, match="has 4 classes; three are given"):
        us.analogies(bank.where(label=["p", "b", "t", "d"]), "label", PAIRS[:2], **QUICK)
    with pytest.raises(ValueError, match="draws=0 must be at least 1"):
        us.analogies(bank, "label", PAIRS, draws=0)
    with pytest.raises(ValueError, match="no column 'who'"):
        us.analogies(bank, "label", PAIRS, groups="who", **QUICK)
