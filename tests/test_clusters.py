"""Clusters that were planted, and what labels know about phones, against counting by hand and scikit-learn."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ANNEX, POINTER
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn.metrics import mutual_info_score

import unisat as us
from unisat.clusters import (
    Clusters,
    cluster_purity,
    cluster_quality,
    contingency,
    fit,
    interval_labels,
    joint,
    lloyd,
    mutual_information,
    pnmi,
    purity,
)
from unisat.training.targets import MfccFeatures


def test_planted_clusters_are_found(tmp_path):
    draw = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(7, 5, generator=draw)
    truth = torch.randint(0, 7, (3000,), generator=draw)
    sample = centres[truth] + 0.1 * torch.randn(3000, 5, generator=draw)
    found = fit(sample, 7, seed=0)
    assert pnmi(found.assign(sample), truth) == pytest.approx(1)
    assert found.inertia == pytest.approx(5 * 0.01, rel=0.05)
    distances = torch.cdist(sample.double(), found.centroids.double())
    assert torch.equal(found.assign(sample, block=100), distances.argmin(1))
    found.save(tmp_path)
    loaded = Clusters.load(tmp_path)
    assert torch.equal(loaded.centroids, found.centroids)
    assert loaded.inertia == found.inertia
    assert (loaded.features, loaded.layer) == (None, None)
    Clusters(found.centroids, 0.5, "hidden", 6).save(tmp_path)
    assert (Clusters.load(tmp_path).features, Clusters.load(tmp_path).layer) == ("hidden", 6)
    # as written before there was metadata
    save_file({"centroids": found.centroids, "inertia": torch.tensor(0.5)}, tmp_path / "kmeans.safetensors")
    assert (Clusters.load(tmp_path).inertia, Clusters.load(tmp_path).features) == (0.5, None)
    # fairseq's settings decide where it ends: the same seed is the same result, another is another
    crowded = torch.rand(500, 3, generator=draw)
    assert torch.equal(fit(crowded, 20, seed=1).centroids, fit(crowded, 20, seed=1).centroids)
    assert not torch.equal(fit(crowded, 20, seed=1).centroids, fit(crowded, 20, seed=2).centroids)
    with pytest.raises(ValueError, match="5 frames cannot make 7 clusters"):
        fit(sample[:5], 7)
    with pytest.raises(ValueError, match="features of width 4 cannot be compared with centroids of 5"):
        found.assign(sample[:, :4])


def test_equal_clusters_are_equal_files(tmp_path):
    found = Clusters(torch.rand(3, 2), 0.5, "hidden", 6)
    written = set()
    for _ in range(20):
        found.save(tmp_path)
        written.add((tmp_path / "kmeans.safetensors").read_bytes())
    assert len(written) == 1
    # as they were before, an entry for each
    tensors = {"centroids": found.centroids, "inertia": torch.tensor(0.5)}
    save_file(tensors, tmp_path / "kmeans.safetensors", {"features": '"mfcc"', "layer": "null"})
    assert (Clusters.load(tmp_path).features, Clusters.load(tmp_path).layer) == ("mfcc", None)


@pytest.mark.parametrize("size", [0, 5, 60])
def test_a_damaged_file_of_clusters_is_named(tmp_path, size):
    Clusters(torch.rand(3, 2), 0.5).save(tmp_path)
    (tmp_path / "kmeans.safetensors").write_bytes((tmp_path / "kmeans.safetensors").read_bytes()[:size])
    with pytest.raises(ValueError, match=r"kmeans.safetensors is damaged .* Make the targets again"):
        Clusters.load(tmp_path)


@pytest.mark.parametrize(("content", "command"), [(POINTER, "git lfs pull"), (ANNEX, "git annex get")])
def test_a_pointer_to_a_file_of_clusters_is_not_called_damaged(tmp_path, content, command):
    (tmp_path / "kmeans.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=rf"kmeans.safetensors is only a pointer to the file .*; run {command}"):
        Clusters.load(tmp_path)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=60), st.permutations(range(5)))
def test_purities_and_information(pairs, names):
    z, y = (torch.tensor(side) for side in zip(*pairs, strict=True))
    table = {}
    for label, phone in pairs:
        table.setdefault(label, []).append(phone)
    best = sum(max(phones.count(phone) for phone in phones) for phones in table.values())
    assert purity(z, y) == pytest.approx(best / len(pairs))
    table = {}
    for label, phone in pairs:
        table.setdefault(phone, []).append(label)
    best = sum(max(labels.count(label) for label in labels) for labels in table.values())
    assert cluster_purity(z, y) == pytest.approx(best / len(pairs))
    uncertainty = mutual_info_score(y, y)
    if uncertainty > 1e-9:
        assert pnmi(z, y) == pytest.approx(mutual_info_score(z, y) / uncertainty, abs=1e-9)
    assert -1e-9 <= pnmi(z, y) <= 1 + 1e-9
    assert pnmi(torch.tensor(names)[z], y) == pytest.approx(pnmi(z, y))
    assert pnmi(y, y) == pytest.approx(1)
    # frames that nobody labelled count for nothing
    assert pnmi(torch.cat([z, z]), torch.cat([y, torch.full_like(y, -1)])) == pytest.approx(pnmi(z, y))


@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 4), st.integers(-1, 3)), min_size=1, max_size=40))
def test_tables_count_what_comes_together(frames):
    codes = [np.array(side) for side in zip(*frames, strict=True)]
    table = contingency(*codes, shape=(3, 6, 4))
    for place in np.ndindex(3, 6, 4):
        assert table[place] == frames.count(place)
    two = contingency(codes[1], codes[1])
    assert two.shape == (codes[1].max() + 1,) * 2
    assert np.diag(two).tolist() == np.bincount(codes[1]).tolist()
    assert contingency(codes[1][:0], codes[1][:0], shape=(2, 3)).tolist() == [[0, 0, 0], [0, 0, 0]]
    if table.sum():
        known = [frame for frame in frames if min(frame) >= 0]
        z, y = ([frame[side] for frame in known] for side in (1, 2))
        flat = table.sum(0)
        assert mutual_information(flat) == pytest.approx(mutual_info_score(z, y), abs=1e-9)
        expected = {"pnmi": pnmi(z, y), "phone_purity": purity(z, y), "cluster_purity": cluster_purity(z, y)}
        assert cluster_quality(flat) == pytest.approx(expected)
        seen = flat[flat.any(1)][:, flat.any(0)]
        np.testing.assert_array_equal(joint(z, y), seen)  # labels and phones that never come have no place in it


def test_information_of_chance_and_of_nothing():
    draw = torch.Generator().manual_seed(0)
    z, y = (torch.randint(0, 5, (50_000,), generator=draw) for _ in range(2))
    assert pnmi(z, y) < 0.001
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        pnmi([0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="no frame has both"):
        purity([0, 1], [-1, -1])


def test_labels_of_intervals():
    codes, names = interval_labels([(0.0, 0.05, "b"), (0.07, 1.0, "a")], 6)
    assert names == ["a", "b"]
    # frames are centred at 12.5, 32.5, 52.5, 72.5, 92.5 and 112.5 ms
    assert codes.tolist() == [1, 1, -1, 0, 0, 0]
    # the centres of another front end: 37, 101 and 165 of 16,000; of two words at once the later
    codes, _ = interval_labels([(0.0, 0.008, "b"), (0.006, 0.0103, "a")], 3, hop=64, receptive_field=74)
    assert codes.tolist() == [1, 0, -1]
    with pytest.raises(ValueError, match=r"an interval cannot end before it starts, got \(0.5, 0.1, 'x'\)"):
        interval_labels([(0.5, 0.1, "x")], 6)


def test_mfcc_clusters_know_words(recorded):
    words = pd.read_csv(recorded / "words.csv")
    files = words["path"].unique()[:40]
    features, labels, truth = MfccFeatures(), [], []
    waves = {path: us.audio.load(recorded / path) for path in files}
    rows = {path: features(wave) for path, wave in waves.items()}
    found = fit(torch.cat(list(rows.values())), 50)
    names = sorted(words["label"].unique())
    for path in files:
        spoken = words[words["path"] == path]
        labels.append(found.assign(rows[path]))
        intervals = [(row.start, row.end, f"{names.index(row.label):03d}") for row in spoken.itertuples()]
        codes, known = interval_labels(intervals, len(rows[path]))
        truth.append(torch.tensor([int(known[code]) if code >= 0 else -1 for code in codes]))
    z, y = torch.cat(labels), torch.cat(truth)
    shuffled_labels = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(0))]
    assert (y >= 0).float().mean() > 0.5
    assert pnmi(z, y) > 2 * pnmi(shuffled_labels, y)


def test_lloyd_finds_what_is_there_and_is_no_worse_than_scikit_learn():
    draw = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(6, 4, generator=draw)
    sample = (centres[:, None] + torch.randn(6, 200, 4, generator=draw)).flatten(0, 1)
    found = lloyd(sample, 6, seed=1)
    distances = torch.cdist(centres, found.centroids).min(1)
    assert (distances.values < 0.5).all()
    assert distances.indices.unique().numel() == 6
    # each centroid is the mean of its frames
    labels = found.assign(sample)
    means = torch.stack([sample[labels == label].mean(0) for label in range(6)])
    torch.testing.assert_close(found.centroids, means, rtol=1e-4, atol=1e-4)
    expected = float((sample - means[labels]).square().sum(1).mean())
    assert found.inertia == pytest.approx(expected, rel=1e-4)
    assert found.inertia < 1.05 * fit(sample, 6).inertia
    assert torch.equal(lloyd(sample, 6, seed=1).centroids, found.centroids)
    with pytest.raises(ValueError, match="3 frames cannot make 6 clusters"):
        lloyd(sample[:3], 6)
    # frames that are all alike: centroids without frames stay, nothing is divided by 0
    assert lloyd(torch.ones(10, 2), 3).centroids.isfinite().all()
