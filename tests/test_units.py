"""Units: planted clusters are found, purities are HuBERT's, and exemplars are where they were planted."""

import numpy as np
import pandas as pd
import pytest
import torch

import unisat as us
from unisat import clusters
from unisat.interpret.features.bank import LENGTHS, FeatureBank, Part
from unisat.interpret.features.collect import collect
from unisat.interpret.units.clusters import units

HOP, FIELD = 320, 400


def bank_of(features, lengths, about=None):
    table = pd.DataFrame({"id": [f"u{row}" for row in range(len(lengths))]})
    arrays = {"hidden.1": features, "hidden.1" + LENGTHS: np.array(lengths)}
    return FeatureBank(table, [Part(np.arange(len(lengths)), arrays)], None, {"frames": "valid", **(about or {})})


@pytest.fixture
def planted():
    """Four phones far apart, in runs of 1 to 6 frames; utterances of 200, 0 and 300 frames."""
    draw = np.random.default_rng(0)
    phones = np.repeat(draw.integers(0, 4, size=300), draw.integers(1, 7, size=300))[:500]
    middles = 10 * np.eye(4, 6)
    return phones, bank_of(middles[phones] + draw.normal(scale=0.3, size=(500, 6)), [200, 0, 300])


def test_planted_clusters_are_found(planted):
    phones, bank = planted
    found = units(bank, "hidden.1", k=4)
    pairs = set(zip(found.assigned.tolist(), phones.tolist(), strict=True))
    assert len(pairs) == 4  # one unit a phone
    purity = found.purity(phones).set_index("metric")
    assert purity["value"].to_dict() == pytest.approx({"phone_purity": 1, "cluster_purity": 1, "pnmi": 1})
    assert purity.loc["pnmi", "floor_high"] < 0.3
    expected = np.linalg.norm(bank["hidden.1"] - found.clusters.centroids.numpy()[found.assigned], axis=1)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-4, atol=1e-4)
    assert found.settings["mean_squared_distance"] == pytest.approx((expected**2).mean(), rel=1e-4)
    again = units(bank, "hidden.1", k=4)
    assert again.assigned.tolist() == found.assigned.tolist()


def test_purities_are_those_of_the_frames_with_a_label(planted):
    phones, bank = planted
    draw = np.random.default_rng(1)
    labels = np.where(draw.random(500) < 0.3, draw.integers(0, 6, size=500), phones)
    labels[draw.random(500) < 0.2] = -1
    found = units(bank, "hidden.1", k=7, seed=1)
    codes = torch.from_numpy(found.assigned)
    table = found.purity(labels, n_shuffles=30).set_index("metric")
    for metric, by_hand in (
        ("phone_purity", clusters.purity),
        ("cluster_purity", clusters.cluster_purity),
        ("pnmi", clusters.pnmi),
    ):
        assert table.loc[metric, "value"] == pytest.approx(by_hand(codes, torch.from_numpy(labels)))
        floors = [by_hand(codes, torch.from_numpy(np.roll(labels, shift))) for shift in range(500)]
        assert table.loc[metric, "floor"] == pytest.approx(np.mean(floors), rel=0.15)
        assert min(floors) <= table.loc[metric, "floor_high"] <= max(floors)
    assert table["frames"].tolist() == [(labels >= 0).sum()] * 3
    # by utterance, and by name
    names = np.array(["a", "b", "c", "d", "e", "f", None], dtype=object)[labels]
    by_id = {"u0": names[:200], "u1": [], "u2": names[200:]}
    pd.testing.assert_frame_equal(found.purity(by_id, n_shuffles=30), table.reset_index())


def test_labels_without_relation_are_at_the_floor(planted):
    _, bank = planted
    other = np.repeat(np.random.default_rng(7).integers(0, 4, size=125), 4)
    table = units(bank, "hidden.1", k=4).purity(other).set_index("metric")
    assert (table["value"] < table["floor_high"] * 1.1).all()
    assert table.loc["pnmi", "value"] > 0  # which alone would look like something


def test_units_are_counted_in_runs(planted):
    _, bank = planted
    found = units(bank, "hidden.1", k=4)
    runs, expected = found.runs(), []
    for row, (start, end) in enumerate(((0, 200), (200, 200), (200, 500))):
        codes = found.assigned[start:end].tolist()
        for place, code in enumerate(codes):
            if place and code == codes[place - 1]:
                expected[-1][3] += 1
            else:
                expected.append([code, row, place, 1])
    assert runs[["unit", "row", "start", "frames"]].to_numpy().tolist() == expected
    table = found.table().set_index("unit")
    for unit in range(4):
        mine = [row for row in expected if row[0] == unit]
        assert table.loc[unit, "runs"] == len(mine)
        assert table.loc[unit, "frames"] == sum(row[3] for row in mine)
        assert table.loc[unit, "utterances"] == len({row[1] for row in mine})
        assert table.loc[unit, "mean_seconds"] == pytest.approx(np.mean([row[3] for row in mine]) * 0.02)
        assert table.loc[unit, "mean_distance"] == pytest.approx(found.distances[found.assigned == unit].mean())
    assert table["share"].sum() == pytest.approx(1)


def test_an_empty_unit_has_its_row(planted):
    _, bank = planted
    found = units(bank, "hidden.1", k=4)
    unit = int(found.assigned[0])
    fewer = type(found)(
        **{name: getattr(found, name) for name in ("clusters", "utterances", "lengths", "distances", "settings")},
        assigned=np.where(found.assigned == unit, (unit + 1) % 4, found.assigned),
    )
    row = fewer.table().set_index("unit").loc[unit]
    assert row["frames"] == row["runs"] == row["share"] == 0
    assert np.isnan(row["mean_seconds"])
    assert fewer.exemplars(unit).empty
    batch = us.Batch.from_arrays([np.ones(10) * np.arange(10)], sampling_rate=16_000, ids=["u0"])
    with pytest.raises(ValueError, match=f"no frame is of unit {unit}"):
        fewer.audio(unit, batch)


def test_exemplars_are_cut_where_they_are_heard():
    """One unit is planted in frames 3 to 7 of u0 and, closer to its centroid, 10 to 11 of u2."""
    draw = np.random.default_rng(0)
    lengths = [20, 15, 30]
    features = draw.normal(scale=0.1, size=(65, 2))
    features[3:8] = [[19, 0], [21, 0], [19, 0], [21, 0], [20, 1]]
    features[35 + 10 : 35 + 12] = [20, 0]
    bank = bank_of(features, lengths, {"hop": HOP, "receptive_field": FIELD})
    found = units(bank, "hidden.1", k=2)
    unit = int(found.assigned[3])
    assert found.exemplars(unit).drop(columns="distance").to_numpy().tolist() == [
        ["u0", 3 * 0.02, 7 * 0.02 + 0.025, 5],
        ["u2", 10 * 0.02, 11 * 0.02 + 0.025, 2],
    ]
    closest = found.exemplars(unit, by="closest")
    assert closest["id"].tolist() == ["u2", "u0"]
    assert (np.diff(closest["distance"]) > 0).all()
    assert found.exemplars(unit, 1)["id"].tolist() == ["u0"]
    samples = [HOP * (length - 1) + FIELD for length in lengths]
    waves = [torch.arange(n) / n / 2 for n in samples]
    batch = us.Batch.from_arrays(waves, sampling_rate=16_000, ids=["u0", "u1", "u2"], speaker=["a", "b", "c"])
    clips = found.audio(unit, batch)
    assert clips.speakers == ("a", "c")
    assert clips.ids[0] == "u0 0.060 to 0.165 s"
    assert torch.equal(clips.waveforms[0], batch.waveforms[0][3 * HOP : 7 * HOP + FIELD])
    assert torch.equal(clips.waveforms[1], batch.waveforms[2][10 * HOP : 11 * HOP + FIELD])
    wider = found.audio(unit, batch, 1, context=0.1)
    assert torch.equal(wider.waveforms[0], batch.waveforms[0][: 7 * HOP + FIELD + 1600])
    with pytest.raises(ValueError, match="'u2' is not in Batch"):
        found.audio(unit, batch[:2])
    for options, message in [
        (dict(unit=2), "unit=2 must be one of the 2 units"),
        (dict(unit=0, n=0), "n=0 at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            found.exemplars(**options)
    with pytest.raises(ValueError, match="context=-1.0 seconds"):
        found.audio(unit, batch, context=-1.0)


def test_units_of_the_built_in_checkpoint_are_heard_in_the_corpus():
    corpus = us.corpus.builtin().where(speaker=["v01", "v02"], sentence=["s01", "s02"])
    bank = collect(us.load("tiny"), corpus, "hidden.3", reduce="frames", progress=False)
    found = units(bank, "hidden.3", k=5)
    row = found.exemplars(2, 1).iloc[0]
    clip = found.audio(2, corpus, 1)
    wave = us.audio.load(corpus.table.set_index("id")["path"][row["id"]])
    start = round(row["start_seconds"] * 16_000)
    assert torch.equal(clip.waveforms[0], wave[start : start + HOP * (row["frames"] - 1) + FIELD])


def test_shares_of_labels(planted):
    phones, bank = planted
    found = units(bank, "hidden.1", k=4)
    names = np.array(["silence", "a", "t", "s"])[phones].astype(object)
    names[:50] = None
    shares = found.shares(names)
    assert sorted(shares.columns) == ["a", "s", "silence", "t"]
    for unit in range(4):
        assert shares.loc[unit, names[50:][found.assigned[50:] == unit][0]] == 1


@pytest.mark.wrong_types
def test_mistakes(planted):
    phones, bank = planted
    broken = bank["hidden.1"].copy()
    broken[230, 3] = np.inf
    pooled = FeatureBank.from_arrays(bank.table, {"hidden.1": np.zeros((3, 6))})
    for given, options, message in [
        (bank, dict(k=1), "k=1 must be at least 2"),
        (bank, dict(k=501), "500 frames cannot make 501 clusters"),
        (pooled, dict(k=2), "'hidden.1' has one row for each utterance; collect it with reduce='frames'"),
        (bank_of(bank["hidden.1"], [200, 0, 300], {"frames": "masked"}), dict(k=2), "masked frames only, whose times"),
        (bank_of(broken, [200, 0, 300]), dict(k=2), "not finite for 1 utterance.*'u2'"),
    ]:
        with pytest.raises(ValueError, match=message):
            units(given, "hidden.1", **options)
    found = units(bank, "hidden.1", k=4)
    with pytest.raises(ValueError, match="by='loudest' must be"):
        found.exemplars(0, by="loudest")
    for labels, options, message in [
        ({"u0": phones[:200], "u1": []}, {}, r"nothing for 1 utterance\(s\), first 'u2'"),
        ({"u0": phones[:199], "u1": [], "u2": phones[200:]}, {}, r"'u0' has 200 frames, but 'labels' of shape .199,"),
        (phones[:-1], {}, r"one label for each of the 500 frames, got shape \(499,\)"),
        (phones, dict(n_shuffles=0), "n_shuffles=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            found.purity(labels, **options)
