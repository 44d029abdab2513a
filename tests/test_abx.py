"""ABX errors against a loop over all triples, and planted layers."""

import itertools

import numpy as np
import pandas as pd
import pytest

import unisat as us
from unisat.interpret.features.bank import FeatureBank


def planted(rows=160, seed=0, speakers=3, phones="ABC", dim=5):
    """A layer that hears phones, one that hears speakers, and one of noise."""
    draw = np.random.default_rng(seed)
    who, said = draw.integers(speakers, size=rows), draw.integers(len(phones), size=rows)
    table = pd.DataFrame({"id": [f"p{n}" for n in range(rows)], "speaker": [f"s{n}" for n in who]})
    table["label"] = [phones[n] for n in said]
    table["previous"], table["next"] = draw.choice(["x", "y"], rows), draw.choice(["", "z"], rows)
    noise = draw.standard_normal((3, rows, dim))
    phone, voice = draw.standard_normal((len(phones), dim)), draw.standard_normal((speakers, dim))
    arrays = {"hidden.0": noise[0], "hidden.1": 9 * phone[said] + noise[1], "hidden.2": 50 * voice[who] + noise[2]}
    return FeatureBank.from_arrays(table, arrays)


def by_loop(bank, site, by, across):
    """Every triple: cells are averaged over speakers, then contexts, then pairs of labels."""
    rows, values, cells = bank.table.to_dict("records"), bank[site], {}

    def angle(i, j):
        u, v = values[i], values[j]
        return np.arccos((u @ v) / np.sqrt((u @ u) * (v @ v)))

    for a, b, x in itertools.product(range(len(rows)), repeat=3):
        one, other, asked = rows[a], rows[b], rows[x]
        if a == x or one["label"] != asked["label"] or one["label"] == other["label"]:
            continue
        if any(len({row[name] for row in (one, other, asked)}) > 1 for name in by):
            continue
        if one["speaker"] != other["speaker"] or (one["speaker"] != asked["speaker"]) != across:
            continue
        key = (one["label"], other["label"], *(one[name] for name in by), one["speaker"], asked["speaker"])
        cells.setdefault(key, []).append(float(angle(a, x) > angle(b, x)))
    means = pd.Series({key: np.mean(found) for key, found in cells.items()}).reset_index(name="error")
    columns = [name for name in means.columns if name != "error"]
    contexts = means.groupby(columns[: 2 + len(by)])["error"].mean().reset_index()
    return contexts.groupby(columns[:2])["error"].mean().mean(), len(cells)


@pytest.mark.parametrize("across", ["speaker", None])
@pytest.mark.parametrize("by", [("previous", "next"), ("next",), ()])
def test_a_loop_over_all_triples_says_the_same(across, by):
    bank = planted(rows=60)
    found = us.abx(bank, "hidden.0", by=by, across=across, most=100, most_across=100)
    error, cells = by_loop(bank, "hidden.0", by, across is not None)
    row = found.table().iloc[0]
    assert row.error == pytest.approx(error, abs=1e-12)
    assert row.cells == cells
    assert 0.2 < row.error < 0.8


def test_layers_that_hear_phones_speakers_and_nothing():
    table = us.abx(planted()).table().set_index("site")
    assert table.error["hidden.1"] < 0.1
    assert 0.4 < table.error["hidden.0"] < 0.6
    assert 0.3 < table.error["hidden.2"] < 0.7
    assert ((table.low <= table.error) & (table.error <= table.high)).all()
    voices = us.abx(planted(), label="speaker", by=(), across="label").table().set_index("site").error
    assert voices["hidden.2"] < 0.1 < voices["hidden.1"]  # the roles exchanged


def test_ties_are_half_an_error_and_distances_that_order_alike_agree():
    bank = planted()
    same = FeatureBank.from_arrays(bank.table, {"hidden.1": np.ones((len(bank), 3))})
    assert us.abx(same).table().error[0] == 0.5
    angular, cosine = (us.abx(bank, distance=name).table().error for name in ("angular", "cosine"))
    assert angular.tolist() == cosine.tolist()
    assert us.abx(bank, "hidden.1", distance="euclidean").table().error[0] < 0.1


def test_draws_bound_the_cells_and_are_told_by_the_seed():
    bank = planted(rows=400)
    few = [us.abx(bank, by=(), most=2, most_across=1, seed=seed).table() for seed in (0, 0, 1)]
    assert few[0].equals(few[1])
    assert not few[0].equals(few[2])
    assert few[0].cells[0] == 3 * 3 * 2  # speakers, phones, other phones
    assert abs(few[0].error[1] - us.abx(bank, by=()).table().error[1]) < 0.1


@pytest.mark.wrong_types
def test_mistakes_are_said():
    bank = planted()
    for message, wrong in {
        "no three rows fit": {"by": ("id",)},
        "distance='l1' must be one of angular, cosine, euclidean": {"distance": "l1"},
        "most=0 must be at least 1": {"most": 0},
        "the bank has no column 'nextt'": {"by": "nextt"},
    }.items():
        with pytest.raises(ValueError, match=message):
            us.abx(bank, **wrong)
    with pytest.raises(ValueError, match="a row is zero everywhere"):
        us.abx(FeatureBank.from_arrays(bank.table, {"hidden.0": np.zeros((len(bank), 3))}))
