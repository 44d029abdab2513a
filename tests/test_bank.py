import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import POINTER

from unisat.interpret.features import bank as module
from unisat.interpret.features.bank import FeatureBank, Part


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "id": list("abcd"),
            "speaker": ["x", "x", "y", None],
            "sex": ["F", "", "M", "M"],
            "seconds": [1.0, 2.0, 3.0, 4.0],
        }
    )


@pytest.fixture
def bank(table):
    """Two parts whose utterances lie crosswise; 3, 1, 2 and 2 frames."""
    pooled = np.arange(12, dtype=np.float32).reshape(4, 3)
    by_frame = {0: [[1], [2], [3]], 1: [[4]], 2: [[5], [6]], 3: [[7], [8]]}
    parts = []
    for rows in ([2, 0], [3, 1]):
        frames = np.concatenate([np.array(by_frame[row], dtype=np.float32) for row in rows])
        sizes = np.array([len(by_frame[row]) for row in rows])
        parts.append(Part(np.array(rows), {"hidden.10": pooled[rows], "hidden.2": frames, "hidden.2#frames": sizes}))
    return FeatureBank(table, parts, {"hidden.1": {"mean": np.array([0.5])}}, {"reduce": "mean", "model": "m"})


def check(bank):
    np.testing.assert_array_equal(bank["hidden.10"], np.arange(12).reshape(4, 3))
    np.testing.assert_array_equal(bank["hidden.2"], np.arange(1, 9)[:, None])
    assert bank.lengths("hidden.2").tolist() == [3, 1, 2, 2]
    assert [bank.frames("hidden.2", row).ravel().tolist() for row in range(4)] == [[1, 2, 3], [4], [5, 6], [7, 8]]
    assert bank.sites == ["hidden.10", "hidden.2"]
    assert bank.hidden == ["hidden.2", "hidden.10"]
    assert bank.ids == ["a", "b", "c", "d"]
    assert bank.statistics("hidden.1")["mean"].tolist() == [0.5]


def test_parts_are_put_together_in_the_order_of_the_table(bank):
    check(bank)
    assert bank.nbytes == 12 * 4 + 8 * 4 + 4 * 8


def test_a_saved_bank_is_the_bank_and_is_mapped_from_its_file(bank, tmp_path, monkeypatch):
    bank.save(tmp_path / "bank")
    loaded = FeatureBank.load(tmp_path / "bank")
    check(loaded)
    assert loaded.settings == bank.settings
    pd.testing.assert_frame_equal(loaded.table.isna(), bank.table.isna())
    assert loaded.table["speaker"].tolist()[:3] == ["x", "x", "y"]
    # no memory of its own: what changes in the file changes in the array
    path = tmp_path / "bank" / "part-00000.safetensors"
    content = bytearray(path.read_bytes())
    place = content.index(np.float32(11).tobytes())
    with path.open("r+b") as file:
        file.seek(place)
        file.write(np.float32(99).tobytes())
    assert loaded["hidden.10"][3, 2] == 99
    with pytest.raises(ValueError, match="is not empty; save a bank into a folder of its own"):
        bank.save(tmp_path / "bank")


def test_choosing_utterances(bank):
    np.testing.assert_array_equal(bank.take([3, 1])["hidden.10"], [[9, 10, 11], [3, 4, 5]])
    assert bank.take([3, 1]).lengths("hidden.2").tolist() == [2, 1]
    assert bank.take(np.array([True, False, False, True])).ids == ["a", "d"]
    assert bank.where(speaker="x").ids == ["a", "b"]
    assert bank.where(speaker=["x", "y"], sex="M").ids == ["c"]
    assert bank.known("speaker", "sex").ids == ["a", "c"]
    assert len(bank) == 4  # itself it stays whole
    np.testing.assert_array_equal(bank.take([2]).take([0])["hidden.2"], [[5], [6]])
    assert bank.take([2]).timing == bank.timing == {}  # nothing was run for them
    with pytest.raises(KeyError, match="no statistics of 'hidden.1'"):
        bank.take([1]).statistics("hidden.1")  # those were of all utterances
    with pytest.raises(ValueError, match="no utterance of the bank fits"):
        bank.where(speaker="z")
    with pytest.raises(ValueError, match="no utterance is chosen"):
        bank.take([])
    with pytest.raises(ValueError, match="no column 'spaeker'"):
        bank.where(spaeker="x")


def test_labels_are_there_or_missed_by_name(bank):
    assert bank.known("speaker").labels("speaker").tolist() == ["x", "x", "y"]
    with pytest.raises(ValueError, match=r"'speaker' is empty for 1 of 4 utterances \(first: 'd'\); take bank.known"):
        bank.labels("speaker")
    with pytest.raises(ValueError, match=r"'sex' is empty for 1 of 4 utterances \(first: 'b'\)"):
        bank.labels("sex")
    with pytest.raises(ValueError, match=r"no column 'speakers'.*speaker"):
        bank.labels("speakers")


def test_features_are_finite_or_say_whose_are_not(table):
    values = np.ones((4, 2, 3), dtype=np.float32)
    bank = FeatureBank.from_arrays(table, {"hidden.0": values, "hidden.1": torch.ones(4, 2)}, {"reduce": "mean+std"})
    assert bank.features("hidden.0").shape == (4, 6)
    assert bank.features("hidden.0").dtype == np.float64
    values = values.copy()
    values[1, 0, 2] = np.nan
    bank = FeatureBank.from_arrays(table, {"hidden.3": values})
    with pytest.raises(ValueError, match=r"hidden\.3 has values that are not finite for 1 utterance\(s\): 'b'"):
        bank.features("hidden.3")
    assert bank.take([0, 2]).features("hidden.3").shape == (2, 6)


def test_frames_that_are_not_finite_name_their_utterance(table):
    frames = np.ones((8, 1))
    frames[4] = np.inf
    sizes = np.array([3, 1, 2, 2])
    bank = FeatureBank(table, [Part(np.arange(4), {"hidden.2": frames, "hidden.2#frames": sizes})])
    with pytest.raises(ValueError, match=r"hidden\.2 has values .* for 1 utterance\(s\): 'c'"):
        bank.features("hidden.2")


def test_pools(table):
    bank = FeatureBank.from_arrays(table, {"hidden.0": np.arange(16.0).reshape(4, 4)}, {"reduce": "mean+std"})
    np.testing.assert_array_equal(bank.features("hidden.0", "mean")[0], [0, 1])
    np.testing.assert_array_equal(bank.features("hidden.0", "mean+std")[0], [0, 1, 2, 3])
    bank.settings["reduce"] = "mean"
    with pytest.raises(ValueError, match=r"pool='mean\+std' cannot be had of .* reduce='mean'"):
        bank.features("hidden.0", "mean+std")


def test_what_does_not_fit_is_refused(table, bank, tmp_path):
    with pytest.raises(ValueError, match=r"one row for each of the 4 utterances, got \{'hidden.0': \(3, 2\)\}"):
        FeatureBank.from_arrays(table, {"hidden.0": np.ones((3, 2))})
    with pytest.raises(ValueError, match="each utterance of its table exactly once"):
        FeatureBank(table, [Part(np.array([0, 1, 2]), {})])
    with pytest.raises(KeyError, match="the bank has no 'hidden.11'"):
        bank["hidden.11"]
    with pytest.raises(ValueError, match="collect it with reduce='frames'"):
        bank.frames("hidden.10", 0)
    with pytest.raises(FileNotFoundError, match="holds no feature bank"):
        FeatureBank.load(tmp_path)


def test_arrays_of_frames_say_how_many_each_utterance_has(bank, table):
    frames = np.arange(1.0, 9.0)[:, None]
    made = FeatureBank.from_arrays(
        table, {"hidden.10": bank["hidden.10"], "hidden.2": frames}, lengths={"hidden.2": [3, 1, 2, 2]}
    )
    check(FeatureBank(table, made._parts, {"hidden.1": {"mean": np.array([0.5])}}))
    for lengths in ([3, 1, 2], [3, 1, 2, 3], [3, -1, 4, 2]):
        with pytest.raises(ValueError, match="must say how many of its 8 frames each of the 4 utterances has"):
            FeatureBank.from_arrays(table, {"hidden.2": frames}, lengths={"hidden.2": lengths})
    with pytest.raises(ValueError, match="of its 0 frames"):
        FeatureBank.from_arrays(table, {}, lengths={"hidden.2": [3, 1, 2, 2]})
    with pytest.raises(ValueError, match="lengths= says how many frames each utterance has"):
        FeatureBank.from_arrays(table, {"hidden.2": frames})


def test_files_of_a_bank_may_be_read_by_others(bank, tmp_path):
    (tmp_path / "usual").touch()
    bank.save(tmp_path / "bank")
    assert {path.stat().st_mode for path in (tmp_path / "bank").iterdir()} == {(tmp_path / "usual").stat().st_mode}


def test_damaged_files_of_a_bank_are_named(bank, tmp_path):
    bank.save(tmp_path)
    part, index = tmp_path / "part-00000.safetensors", tmp_path / "bank.json"
    whole = index.read_bytes()
    for content in (whole[:40], b"[]", whole.replace(b'"rows"', b'"row"'), b"\xff"):
        index.write_bytes(content)
        with pytest.raises(ValueError, match=r"bank\.json is damaged .*\. Where collect made the bank"):
            FeatureBank.load(tmp_path)
    index.write_bytes(whole)
    for size in (60, 4):
        with part.open("r+b") as file:
            file.truncate(size)
        with pytest.raises(ValueError, match=r"part-00000\.safetensors is damaged .*\. Delete it"):
            FeatureBank.load(tmp_path)
    part.write_bytes(POINTER)
    with pytest.raises(ValueError, match=r"part-00000\.safetensors is only a pointer .*; run git lfs pull"):
        FeatureBank.load(tmp_path)
    part.unlink()
    with pytest.raises(FileNotFoundError, match=r"bank of 1 part\(s\), and part-00000\.safetensors are not there"):
        FeatureBank.load(tmp_path)


@pytest.mark.parametrize("elsewhere", ["../other.safetensors", "/etc/part-0.safetensors", "a/part-0.safetensors", 3])
def test_parts_lie_beside_their_index(bank, tmp_path, elsewhere):
    bank.save(tmp_path)
    index = json.loads((tmp_path / "bank.json").read_text())
    (tmp_path / "bank.json").write_text(json.dumps({**index, "parts": [elsewhere]}))
    with pytest.raises(ValueError, match=r"names .* as a part of the bank; expected names such as part-00000"):
        FeatureBank.load(tmp_path)


def test_of_a_bank_with_very_many_parts_none_is_mapped(table, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_MAPS", 2)
    for row in range(4):
        module.write_part(
            tmp_path / f"part-{row}.safetensors", Part(np.array([row]), {"hidden.0": np.full((1, 2), row)})
        )
    names = [f"part-{row}.safetensors" for row in range(4)]
    module.write_index(tmp_path, table, {}, {}, ["hidden.0"], names, np.arange(4))
    bank = FeatureBank.load(tmp_path)
    for name in names:
        (tmp_path / name).write_bytes(b"\xff" * (tmp_path / name).stat().st_size)
    assert bank["hidden.0"].tolist() == [[row, row] for row in range(4)]
    assert bank.take([3, 1])["hidden.0"].tolist() == [[3, 3], [1, 1]]


def test_what_json_does_not_know_is_written_as_text(bank, tmp_path):
    """At the end of a long collection nothing may fail for a column that nobody asked for."""
    bank.table["day"] = pd.to_datetime(["2020-01-02", None, "2020-01-03", "2020-01-04"])
    bank.table["price"] = [Decimal("1.5")] * 4
    bank.table["vector"] = [np.arange(2)] * 4
    bank.table["mixed"] = pd.Series(["caf\udce9.wav", 1.5, None, True], dtype=object)
    bank.save(tmp_path / "bank")
    table = FeatureBank.load(tmp_path / "bank").table
    assert table["day"].iloc[0].startswith("2020-01-02")
    assert pd.isna(table["day"].iloc[1])
    assert (table["price"].iloc[0], table["vector"].iloc[0]) == ("1.5", [0, 1])
    assert table["mixed"].tolist() == ["caf\\xe9.wav", 1.5, None, True]
