"""K-means targets: MFCC against plain numpy, clusters that were planted, labels that lie where they should."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import shuffled, small_config

import unisat as us
from unisat.acoustics import mfcc
from unisat.clusters import Clusters, fit
from unisat.training import targets as module
from unisat.training.targets import (
    HiddenFeatures,
    MeanOff,
    MfccFeatures,
    Reader,
    Targets,
    align,
    bounded_sample,
    featured,
    make_targets,
    write_targets,
)


def test_a_label_for_every_frame_of_every_length():
    features = MfccFeatures()
    edges = [400 + 320 * 120 + shift for shift in (-1, 0, 1, 159, 160, 161, 319, 320)]
    for samples in [400, 401, 559, 560, 719, 720, *edges, *range(32_000, 40_000, 37), 39_999]:
        frames = us.frames.stack_length(samples, [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2])
        assert frames == (samples - 400) // 320 + 1
        rows = torch.arange((samples - 400) // 160 + 1.0)[:, None]
        assert align(rows, frames).flatten().tolist() == [2 * t for t in range(frames)]
    assert features(torch.zeros(399)).shape == (0, 39)
    noise = 0.1 * torch.randn(39_999, generator=torch.Generator().manual_seed(0))
    for samples in [400, 719, 720, 32_100, *edges]:
        wave = noise[:samples]
        rows = mfcc(wave)
        assert len(rows) == (samples - 400) // 160 + 1
        assert torch.equal(features(wave), rows[::2])
        assert len(features(wave)) == (samples - 400) // 320 + 1
    # at most a frame more or fewer: what is too many goes, what is not there is not made up
    assert [len(align(torch.zeros(100, 3), frames)) for frames in (49, 50, 51)] == [49, 50, 50]
    with pytest.raises(ValueError, match="100 rows of features, 2 for each frame, do not belong to 48 frames"):
        align(torch.zeros(100, 3), 48)
    with pytest.raises(ValueError, match="every 64 samples, each of 148, does not fit MFCC"):
        MfccFeatures(64, 148)


# k-means


class Loudness:
    """A feature that one can compute in one's head: the largest sample of each hop."""

    def __call__(self, waveform):
        frames = max(0, (len(waveform) - 400) // 320 + 1)
        return waveform[: 320 * frames].view(frames, 320).amax(1, keepdim=True)

    def describe(self):
        return {"features": "loudness"}


@pytest.fixture
def corpus(tmp_path):
    """Four files whose loudness steps through levels that one knows."""
    folder, rows = tmp_path / "speech", []
    folder.mkdir()
    for index in range(4):
        levels = np.repeat((np.arange(40 + index) * 7 + index) % 5 / 10 + 0.1, 320)
        soundfile.write(folder / f"{index}.wav", levels, 16_000, subtype="FLOAT")
        rows.append({"path": f"{index}.wav", "id": f"u{index}", "speaker": f"s{index}"})
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    return us.corpus.folder(folder)


def levels(index, frames):
    return (np.arange(frames) * 7 + index) % 5


def test_targets_of_a_corpus(corpus, tmp_path):
    folder = tmp_path / "targets"
    made = make_targets(corpus, Loudness(), folder, clusters=5, sample_seconds=100.0, seed=0)
    assert isinstance(made.labels, np.memmap)
    order = made.clusters.centroids.flatten().argsort().argsort()  # level of each cluster
    for index in range(4):
        frames = (320 * (40 + index) - 400) // 320 + 1
        assert order[made[f"u{index}"]].tolist() == levels(index, frames).tolist()
        assert made[f"u{index}"].dtype == torch.int64
    assert made.histogram().sum() == len(made.labels) == made.description["frames"]
    assert "u3" in made
    assert "u9" not in made
    with pytest.raises(KeyError, match="no targets for utterance 'u9'"):
        made["u9"]
    again = Targets.load(folder)
    assert again.ids == ["u0", "u1", "u2", "u3"]
    assert torch.equal(again["u2"], made["u2"])
    assert (again.clusters.features, again.clusters.layer) == ("loudness", None)
    assert (again.description["seed"], again.description["sample_seconds"]) == (0, 100.0)
    assert again.label_hash == made.label_hash
    assert made.description["features"] == "loudness"
    assert made.description["entropy"] == pytest.approx(math.log(5), abs=0.01)
    # another label, another hash; and so with another order of utterances
    rows = [{"id": name, **row} for name, row in made.index.to_dict("index").items()]
    changed = np.array(made.labels)
    assert module.label_hash(rows, changed) == made.label_hash
    changed[3] += 1
    assert module.label_hash(rows, changed) != made.label_hash
    rows[0]["id"] = "other"
    assert module.label_hash(rows, made.labels) != made.label_hash
    with pytest.raises(FileNotFoundError, match="holds no targets"):
        Targets.load(tmp_path)


def test_labels_and_clusters_belong_together(corpus, tmp_path):
    folder = tmp_path / "targets"
    made = make_targets(corpus, Loudness(), folder, clusters=5, sample_seconds=100.0, seed=0)
    names = Targets.load(folder).ids
    labels = np.array(made.labels)
    labels[3] = 5
    np.save(folder / "labels.npy", labels)
    broken = Targets.load(folder)
    for use in [lambda: broken[names[0]], broken.histogram]:
        with pytest.raises(ValueError, match="there is a label 5, but 5 clusters have the labels 0 to 4"):
            use()
    assert torch.equal(broken[names[1]], made[names[1]])
    np.save(folder / "labels.npy", labels[:-1])
    with pytest.raises(ValueError, match=f"index.csv counts {len(labels)} frames, its labels.npy holds"):
        Targets.load(folder)
    other = Clusters(made.clusters.centroids, 0.0, "loudness", 3)
    with pytest.raises(ValueError, match="clusters are of features='loudness', layer=3, the features are 'loudness'"):
        write_targets(corpus, Loudness(), other, tmp_path / "other")
    many = Clusters(torch.zeros(65_536, 1), 0.0)
    with pytest.raises(ValueError, match="65536 clusters are more than the 65,535"):
        write_targets(corpus, Loudness(), many, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_labels_are_counted_in_blocks():
    labels = np.random.default_rng(0).integers(0, 9, 1000).astype(np.uint16)
    for block in (1, 7, 1000, 4096):
        assert module.count_labels(labels, 12, block).tolist() == [(labels == label).sum() for label in range(12)]


def test_the_sample_is_bounded_and_drawn(corpus):
    one = bounded_sample(corpus, Loudness(), seconds=1.0, seed=0)
    assert 50 <= len(one) < 50 + 45  # the utterance that passes the bound is the last
    assert torch.equal(one, bounded_sample(corpus, Loudness(), seconds=1.0, seed=0))
    everything = bounded_sample(corpus, Loudness(), seconds=1e9, seed=0)
    assert len(everything) == sum((320 * (40 + i) - 400) // 320 + 1 for i in range(4))
    drawn = {len(bounded_sample(corpus, Loudness(), seconds=0.1, seed=seed)) for seed in range(20)}
    assert len(drawn) == 4
    with pytest.raises(ValueError, match="seconds=0.0 must be positive"):
        bounded_sample(corpus, Loudness(), seconds=0.0, seed=0)


def test_a_crash_leaves_the_old_targets(corpus, tmp_path, monkeypatch):
    folder = tmp_path / "targets"
    made = make_targets(corpus, Loudness(), folder, clusters=5, sample_seconds=100.0, seed=0)
    calls = []

    class Broken(Loudness):
        def __call__(self, waveform):
            calls.append(1)
            if len(calls) == 3:
                raise RuntimeError("out of luck")
            return super().__call__(waveform)

    with pytest.raises(RuntimeError, match="out of luck"):
        write_targets(corpus, Broken(), made.clusters, folder)
    calls.clear()
    with pytest.raises(RuntimeError, match="out of luck"):
        write_targets(corpus, Broken(), made.clusters, tmp_path / "new")
    assert Targets.load(folder).label_hash == made.label_hash
    # what was done is kept, and a call that goes through leaves nothing of it
    write_targets(corpus, Loudness(), made.clusters, folder)
    write_targets(corpus, Loudness(), made.clusters, tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"speech", "targets", "new"}


class Interrupted(Loudness):
    """Is interrupted after some files, and counts them."""

    def __init__(self, files):
        self.left = files

    def __call__(self, waveform):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().__call__(waveform)


def test_parts_are_bounded_and_in_order(monkeypatch):
    monkeypatch.setattr(module, "PART", 3)
    monkeypatch.setattr(module, "PART_SECONDS", 10.0)
    divided = [list(rows) for rows in module._divided([1, 1, 1, 1, 30, 6, 5, 5, 1])]
    assert divided == [[0, 1, 2], [3], [4], [5], [6, 7], [8]]


def same_files(one, other):
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in other.iterdir()}
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_targets_that_were_interrupted_go_on(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 1)
    options = dict(clusters=5, sample_seconds=100.0, seed=0)
    make_targets(corpus, Loudness(), tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):  # the sample is of four files
        make_targets(corpus, Interrupted(4 + 2), tmp_path / "a", **options)
    assert not (tmp_path / "a").exists()
    rest = Interrupted(99)
    make_targets(corpus, rest, tmp_path / "a", **options)
    assert rest.left == 99 - 2
    assert same_files(tmp_path / "a", tmp_path / "whole")
    # with another seed, or other speech, everything is done anew
    for name, other, changes in [("b", corpus, {"seed": 1}), ("c", us.corpus.Corpus(corpus.table[:3]), {})]:
        with pytest.raises(KeyboardInterrupt):
            make_targets(corpus, Interrupted(4 + 2), tmp_path / name, **options)
        anew = Interrupted(99)
        make_targets(other, anew, tmp_path / name, **{**options, **changes})
        assert anew.left == 99 - 2 * len(other)
    assert not [path.name for path in tmp_path.iterdir() if "unfinished" in path.name]


def test_several_processes_make_the_same_targets(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 1)
    options = dict(clusters=5, sample_seconds=100.0, seed=0)
    make_targets(corpus, Loudness(), tmp_path / "alone", **options)
    heard = [Interrupted(99) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:

        def share(rank):
            return make_targets(corpus, heard[rank], tmp_path / "together", **options, rank=rank, processes=3)

        assert [made.label_hash for made in pool.map(share, range(3))] == [share(2).label_hash] * 3
    assert [99 - one.left for one in heard] == [4 + 2, 1, 1]
    assert same_files(tmp_path / "alone", tmp_path / "together")


@pytest.mark.parametrize("size", [0, 100])
@pytest.mark.parametrize("name", ["labels.npy", "kmeans.safetensors", "targets.json", "index.csv"])
def test_damaged_targets_are_named(corpus, tmp_path, name, size):
    make_targets(corpus, Loudness(), tmp_path / "t", clusters=5, sample_seconds=100.0, seed=0)
    if name == "index.csv":
        (tmp_path / "t" / name).write_text("id,start,frames\nu0,0\n" if size else "")
    else:
        (tmp_path / "t" / name).write_bytes((tmp_path / "t" / name).read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"{name} is damaged .*(Delete .*t: the run|Make the targets again)"):
        Targets.load(tmp_path / "t")


def test_the_hash_is_of_the_labels_that_are_there(corpus, tmp_path):
    made = make_targets(corpus, Loudness(), tmp_path / "t", clusters=5, sample_seconds=100.0, seed=0)
    assert made.hash_labels() == made.label_hash
    np.save(tmp_path / "t" / "labels.npy", (np.array(made.labels) + 1) % 5)
    changed = Targets.load(tmp_path / "t")
    assert changed.hash_labels() != changed.label_hash == made.label_hash


@pytest.mark.filterwarnings("ignore:left out")
def test_files_that_cannot_be_read(corpus, tmp_path):
    found = fit(bounded_sample(corpus, Loudness(), seconds=100.0, seed=0), 5)
    table = pd.concat([corpus.table] * 10, ignore_index=True)
    table["id"] = [f"r{row}" for row in range(len(table))]
    (tmp_path / "broken.wav").write_bytes(b"RIFF, but not quite")
    table.loc[7, "path"] = str(tmp_path / "broken.wav")
    made = write_targets(us.corpus.Corpus(table), Loudness(), found, tmp_path / "t")
    assert made.description["unreadable"] == [str(tmp_path / "broken.wav")]
    assert made.description["utterances"] == 39
    assert "r7" not in made
    # of few files drawn, one that is unreadable is no judgement on the corpus
    for seed in range(40):
        assert len(bounded_sample(us.corpus.Corpus(table), Loudness(), seconds=2.0, seed=seed)) >= 95
    for row in range(8, 12):
        table.loc[row, "path"] = str(tmp_path / f"absent-{row}.wav")
    with pytest.raises(ValueError, match="3 of 40 files could not be read, more than 5%: .*absent-8"):
        write_targets(us.corpus.Corpus(table), Loudness(), found, tmp_path / "u")
    assert not (tmp_path / "u").exists()
    with pytest.raises(ValueError, match="3 of 40 files"):
        bounded_sample(us.corpus.Corpus(table), Loudness(), seconds=1e9, seed=0)


@pytest.mark.filterwarnings("ignore:1 of 2 clusters", "ignore:the labels are degenerate")
def test_too_short_and_nothing_at_all(corpus, tmp_path):
    found = Clusters(torch.tensor([[0.0], [1.0]]), 0.0)
    soundfile.write(tmp_path / "short.wav", np.full(300, 0.1), 16_000)
    row = {"path": str(tmp_path / "short.wav"), "id": "short", "seconds": 300 / 16_000}
    table = pd.concat([corpus.table, pd.DataFrame([row])], ignore_index=True)
    made = write_targets(us.corpus.Corpus(table), Loudness(), found, tmp_path / "t")
    assert made.description["too_short"] == ["short"]
    with pytest.raises(ValueError, match="no utterance of the corpus is as long as a frame"):
        write_targets(us.corpus.Corpus(table[4:]), Loudness(), found, tmp_path / "u")


def test_labels_that_say_nothing_are_called_so(corpus, tmp_path):
    far = Clusters(torch.tensor([[0.3], [50.0], [90.0]]), 0.0)
    with (
        pytest.warns(UserWarning, match="2 of 3 clusters are empty"),
        pytest.warns(UserWarning, match=r"degenerate: their entropy is 0.00 of at most 1.10 nats .* 100%"),
    ):
        write_targets(corpus, Loudness(), far, tmp_path / "t")
    # half of the entropy and more, but one cluster with more than half of the frames
    with pytest.warns(UserWarning, match=r"degenerate: .* the largest cluster holds 60% of the frames"):
        module.warn_of_labels(np.array([60, 20, 20]))
    # no cluster with more than half of the frames, but little entropy
    with pytest.warns(UserWarning, match="30 of 40 clusters are empty"), pytest.warns(UserWarning, match="degenerate"):
        module.warn_of_labels(np.array([45, 45] + [1] * 8 + [0] * 30))
    module.warn_of_labels(np.array([50, 30, 20]))
    described = json.loads((tmp_path / "t" / "targets.json").read_text())
    assert (described["entropy"], described["empty_clusters"]) == (0, 2)
    with pytest.raises(ValueError, match="clusters=1 must be between 2 and 65,535"):
        make_targets(corpus, Loudness(), tmp_path / "u", clusters=1, sample_seconds=1.0, seed=0)


# hidden states


# a group norm takes away offset and scale by itself, a layer norm over channels does not: do_normalize shows there
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("normalize", [True, False])
def test_hidden_features_are_hidden_states(normalize, norm):
    model = shuffled(us.UniSpeechSatModel(small_config(feat_extract_norm=norm)))
    wave = torch.randn(3000, generator=torch.Generator().manual_seed(0)) + 0.2
    whole = HiddenFeatures(model, 2, do_normalize=normalize)(wave)
    given_wave = us.audio.normalize(wave) if normalize else wave
    with torch.no_grad():
        expected = model(given_wave[None], output_hidden_states=True).hidden_states[2][0]
    torch.testing.assert_close(whole, expected)
    # in pieces of ten frames: as many frames, each piece by itself
    pieces = HiddenFeatures(model, 2, do_normalize=normalize, chunk_seconds=10 * 64 / 16_000)(wave)
    assert pieces.shape == whole.shape == (45, 16)
    with torch.no_grad():
        second = model(given_wave[None, 640 : 640 + 9 * 64 + 148], output_hidden_states=True).hidden_states[2][0]
    torch.testing.assert_close(pieces[10:20], second)
    assert HiddenFeatures(model, 2)(wave[:100]).shape == (0, 16)
    described = HiddenFeatures(model, 2, do_normalize=normalize).describe()
    assert (described["features"], described["layer"], described["do_normalize"]) == ("hidden", 2, normalize)
    with pytest.raises(ValueError, match="layer=4 must be one of the model's 3 layers"):
        HiddenFeatures(model, 4)


def test_hidden_features_of_a_model_in_training_are_of_one_in_evaluation():
    model = us.UniSpeechSatModel(small_config()).train()
    features = HiddenFeatures(model, 1)
    wave = torch.randn(2000)
    expected = features(wave)
    assert torch.equal(expected, features(wave))
    assert torch.equal(expected, HiddenFeatures(model.eval(), 1)(wave))
    # whatever was done to the model in between, and without doing anything to it
    model.train()
    model.encoder.eval()
    modes = [module.training for module in model.modules()]
    assert torch.equal(expected, features(wave))
    assert [module.training for module in model.modules()] == modes


# targets without the voice


class Drawn:
    """Random numbers, others for each recording."""

    def __call__(self, waveform):
        draw = torch.Generator().manual_seed(len(waveform))
        return (
            torch.randn(len(waveform) // 320, 3, generator=draw) * torch.tensor([1.0, 5.0, 0.2]) + len(waveform) / 9000
        )

    def describe(self):
        return {"features": "drawn"}


def by_hand(parts, names, over, variance_one):
    """The same in plain numpy: a loop over recordings, features and frames."""
    found = []
    for part, name in zip(parts, names, strict=True):
        heard = [part] if over == "utterance" else [p for p, n in zip(parts, names, strict=True) if n == name]
        out = np.empty(part.shape)
        for feature in range(part.shape[1]):
            values = [float(row[feature]) for recording in heard for row in recording]
            mean = sum(values) / len(values)
            deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
            for frame in range(len(part)):
                out[frame, feature] = (part[frame, feature] - mean) / (deviation if variance_one else 1)
        found.append(out)
    return found


@pytest.mark.parametrize("variance_one", [False, True])
@pytest.mark.parametrize("over", ["utterance", "speaker"])
def test_mean_off_is_that_of_a_plain_loop(corpus, over, variance_one):
    corpus.table["speaker"] = ["a", "b", "a", "b"]
    features = Drawn()
    parts = [features(us.audio.load(path)) for path in corpus.table["path"]]
    off = MeanOff.fit(corpus, features, over, variance_one)
    expected = by_hand([part.double().numpy() for part in parts], ["a", "b", "a", "b"], over, variance_one)
    before = [part.clone() for part in parts]
    for part, name, numbers in zip(parts, "abab", expected, strict=True):
        np.testing.assert_allclose(off(part, name).numpy(), numbers, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(parts, before, strict=True))
    assert off.describe() == {"mean_off": over, "variance_one": variance_one}


def test_mean_off_without_anything_to_take_off(corpus):
    part = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert MeanOff()(part) is part
    assert MeanOff().describe() == {}
    assert MeanOff("utterance", True)(torch.zeros(0, 3)).shape == (0, 3)
    assert MeanOff("utterance", True)(torch.ones(4, 3)).tolist() == [[0.0] * 3] * 4  # a constant has no deviation
    # whose speaker nobody knows is taken as a speaker of that recording
    corpus.table["speaker"] = ["a", None, "a", "b"]
    off = MeanOff.fit(corpus, Loudness(), "speaker")
    assert set(off.speakers) == {"a", "b"}
    torch.testing.assert_close(off(part, None), part - part.mean(0))
    with pytest.raises(ValueError, match="mean_off='file' must be"):
        MeanOff.fit(corpus, Loudness(), "file")


def test_targets_say_what_was_taken_off(corpus, tmp_path):
    plain = make_targets(corpus, Loudness(), tmp_path / "a", clusters=3, sample_seconds=99, seed=0)
    off = MeanOff("utterance")
    made = make_targets(corpus, Loudness(), tmp_path / "b", clusters=3, sample_seconds=99, seed=0, mean_off=off)
    assert "mean_off" not in plain.description
    assert (made.description["mean_off"], made.description["variance_one"]) == ("utterance", False)
    # a recording that is louder all along has other clusters, and the same ones without its mean
    louder = corpus.table["path"].iloc[1]
    wave, _ = soundfile.read(louder)
    soundfile.write(louder, wave + 0.4, 16_000, subtype="FLOAT")
    again = write_targets(corpus, Loudness(), made.clusters, tmp_path / "c", mean_off=off)
    assert again["u1"].tolist() == made["u1"].tolist()
    assert plain.clusters.assign(Loudness()(us.audio.load(louder))).tolist() != plain["u1"].tolist()


def test_lloyd_makes_targets_too(corpus, tmp_path):
    made = make_targets(corpus, Loudness(), tmp_path, clusters=5, sample_seconds=99, seed=0, device="cpu")
    order = made.clusters.centroids.flatten().argsort().argsort()
    for index in range(4):
        found = order[made[f"u{index}"]].tolist()
        assert found == levels(index, len(found)).tolist()


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_many_at_once_are_each_alone(corpus, norm, monkeypatch):
    model = us.UniSpeechSatModel(small_config(feat_extract_norm=norm)).eval()
    features = HiddenFeatures(shuffled(model, 0), 2, chunk_seconds=1.0)
    draw = torch.Generator().manual_seed(0)
    lengths = (16_000, 400, 9_000, 30_000, 100, 15_990, 148)
    waves = [torch.randn(samples, generator=draw) for samples in lengths]
    monkeypatch.setattr(module, "BATCH_SECONDS", 1.2)
    for alone, together in zip(map(features, waves), features.many(waves), strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    # and in that way through a corpus, in its order
    assert not features.batched
    expected = [(row, samples, part) for row, samples, part in featured(Reader(corpus), features, [3, 0, 2])]
    monkeypatch.setattr(HiddenFeatures, "batched", True)
    monkeypatch.setattr(module, "GROUP", 2)
    found = list(featured(Reader(corpus), features, [3, 0, 2]))
    assert [row for row, _, _ in found] == [3, 0, 2]
    for (_, samples, part), (_, others, same) in zip(found, expected, strict=True):
        assert samples == others
        torch.testing.assert_close(part, same, rtol=1e-4, atol=1e-4)
