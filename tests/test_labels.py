"""Labels of frames and utterances, in every form that they come in."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unisat.interpret.features.bank import FeatureBank, Part
from unisat.interpret.features.known import plain
from unisat.interpret.features.labels import frame_codes, frame_labels, known, label_codes, row_labels

IDS, LENGTHS = ["a", "b", "c"], np.array([2, 0, 3])
FORMS = {
    "by utterance id": {"c": ["x", None, ""], "a": ["y", "x"], "b": []},
    "utterance by utterance": [["y", "x"], [], ["x", None, ""]],
    "frame by frame": ["y", "x", "x", np.nan, ""],
    "array": np.array(["y", "x", "x", None, ""], dtype=object),
    "column": pd.Series(["y", "x", "x", pd.NA, ""]),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_frames_in_any_form(form):
    codes, names = frame_codes(FORMS[form], IDS, LENGTHS)
    assert codes.tolist() == [1, 0, 0, -1, -1]
    assert names == ["x", "y"]


@pytest.mark.parametrize(
    "numbers",
    [
        np.array([10, -1, 3, 10, -2]),
        torch.tensor([10, -1, 3, 10, -1]),
        [10, None, 3, 10, -2],
        [10.0, np.nan, 3, 10, -0.5],
        [np.array([10, -1]), [], np.array([3, 10, -1])],
        {"a": torch.tensor([10, -1]), "b": [], "c": [3, 10, np.nan]},
    ],
)
def test_numbers_are_labels_unless_they_are_negative(numbers):
    codes, names = frame_codes(numbers, IDS, LENGTHS)
    assert (codes >= 0).tolist() == [True, False, True, True, False]
    assert codes[0] == codes[3] != codes[2]
    assert {float(name) for name in names} == {3, 10}
    assert float(names[codes[2]]) == 3


def test_whole_numbers_are_named_by_size_and_keep_their_type():
    assert label_codes(np.array([10, 2, -1, 10]))[1] == ["2", "10"]
    assert frame_labels([[7, 8], [], [9, 9, 9]], IDS, LENGTHS).dtype.kind == "i"
    # numpy would make strings of both
    mixed = frame_labels([["a", "b"], [], [1, -1, 2]], IDS, LENGTHS)
    assert mixed.tolist() == ["a", "b", 1, -1, 2]
    assert frame_labels(["a", -1, None, 2.5, "b"], IDS, LENGTHS).tolist() == ["a", -1, None, 2.5, "b"]


@given(st.lists(st.sampled_from(["x", "y", "", None, np.nan, -1, 0, 3, 2.5, -0.5]), min_size=1, max_size=12))
def test_codes_are_those_of_a_loop(values):
    labels = np.array([*values, "z"], dtype=object)
    there = [
        value not in ("", None) and value == value and not (isinstance(value, int | float) and value < 0)
        for value in labels
    ]
    assert known(labels).tolist() == there
    codes, names = label_codes(labels)
    assert names == sorted({str(value) for value, known in zip(labels, there, strict=True) if known})
    assert codes.tolist() == [names.index(str(v)) if known else -1 for v, known in zip(labels, there, strict=True)]


@pytest.mark.parametrize("dtype", ["float64", "float32", "Int64", "Int8", "object", "category"])
def test_whole_numbers_with_gaps_mean_the_same_in_any_dtype(dtype, tmp_path):
    """pandas makes floats of them, and what is left after the gaps are gone is a class and no quantity."""
    column = pd.Series([3, None, -100, 12, 3]).astype(dtype)
    given = plain(column)
    assert known(given).tolist() == [True, False, False, True, True]
    assert label_codes(given)[0][[1, 2]].tolist() == [-1, -1]
    table = pd.DataFrame({"id": list("abcde"), "phone": column})
    bank = FeatureBank.from_arrays(table, {"hidden.0": np.zeros((5, 1))})
    bank.save(tmp_path / "bank")
    for found in (bank, FeatureBank.load(tmp_path / "bank")):
        with pytest.raises(ValueError, match=r"'phone' is empty for 2 of 5 utterances .* negative whole number"):
            found.labels("phone")
        assert found.known("phone").ids == ["a", "d", "e"]
        assert found.known("phone").labels("phone").tolist() == ["3", "12", "3"]
        assert found.known("phone").table["phone"].dtype.kind != "f"


def test_a_quantity_with_gaps_stays_one():
    table = pd.DataFrame(
        {"id": list("abc"), "pitch": [120.5, np.nan, 131], "level": pd.array([-20, None, -3], "Float64")}
    )
    bank = FeatureBank.from_arrays(table, {"hidden.0": np.zeros((3, 1))}).known("pitch", "level")
    assert [bank.table[name].dtype.kind for name in ("pitch", "level")] == ["f", "f"]
    assert plain(bank.table["level"]).tolist() == [-20.0, -3.0]
    assert bank.ids == ["a", "c"]


def test_a_quantity_may_be_negative():
    assert known(np.array([-1.5, np.nan, 0])).tolist() == [True, False, True]
    assert known(np.array([-1, 0])).tolist() == [False, True]
    assert known(np.array(["", "a"])).tolist() == [False, True]


def test_rows_are_utterances_or_frames():
    table = pd.DataFrame({"id": IDS, "speaker": ["s1", "s2", "s1"]})
    arrays = {"hidden.0": np.zeros((5, 1)), "hidden.0#frames": LENGTHS}
    framewise = FeatureBank(table, [Part(np.arange(3), arrays)])
    assert row_labels(framewise, "hidden.0", "speaker").tolist() == ["s1"] * 5
    assert row_labels(framewise, "hidden.0", [1, 2, 3, 4, 5]).tolist() == [1, 2, 3, 4, 5]
    pooled = FeatureBank.from_arrays(table, {"hidden.0": np.zeros((3, 1))})
    assert row_labels(pooled, "hidden.0", "speaker").tolist() == ["s1", "s2", "s1"]
    assert row_labels(pooled, "hidden.0", [0.5, 1, -2]).tolist() == [0.5, 1, -2]
    with pytest.raises(ValueError, match=r"'phone' must be a column, or one label .* 3 utterances, got shape \(5,\)"):
        row_labels(pooled, "hidden.0", range(5), "phone")
    with pytest.raises(ValueError, match="no column 'phone'"):
        row_labels(pooled, "hidden.0", "phone")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a": [1, 2], "b": []}, r"'phone' has nothing for 1 utterance\(s\), first 'c'"),
        ({"a": [1, 2], "b": [], "c": [1]}, r"'c' has 3 frames, but 'phone' of shape \(1,\)"),
        ([[1, 2], [1, 2, 3]], "'phone' has 2 rows for 3 utterances"),
        ([1, 2], r"'phone' must have one label for each of the 5 frames, got shape \(2,\)"),
        ([-1, None, "", np.nan, -2], "no row has a label in 'phone'"),
        ([[], [], []], r"'a' has 2 frames, but 'phone' of shape \(0,\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        frame_codes(labels, IDS, LENGTHS, "phone")
