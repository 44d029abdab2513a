"""Batches: aligned crops, honest buckets, mixed speakers, and every batch a function of its number."""

import json
import math
import os
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import ROOT, small_config
from hypothesis import given
from hypothesis import strategies as st

import unisat as us
from unisat.corpus import Corpus
from unisat.training import data
from unisat.training.data import MisalignedTargetsError, SoundCache, TrainingData, manifest, plan, read_crop, union
from unisat.training.resident import ResidentData

HOP, FIELD = 64, 148  # of small_config


@pytest.fixture
def speech(tmp_path):
    """Twelve ramps of four speakers, 1 to 2.1 s: sample i of file f is (i + 40,000 f) / 1e6."""
    rows = []
    for index in range(12):
        samples = 16_000 + 1_600 * index
        ramp = (np.arange(samples) + 40_000 * index) / 1e6
        soundfile.write(tmp_path / f"{index:02d}.wav", ramp, 16_000, subtype="FLOAT")
        rows.append(
            {
                "path": f"{index:02d}.wav",
                "speaker": f"s{index % 4}",
                "seconds": samples / 16_000,
                "split": "ab"[index % 2],
            }
        )
    table = pd.DataFrame(rows)
    table.to_csv(tmp_path / "table.csv", index=False)
    table.to_parquet(tmp_path / "table.parquet", index=False)
    return tmp_path


def counting(corpus):
    """Labels that count the frames of their utterance."""
    frames = {row.id: (round(row.seconds * 16_000) - FIELD) // HOP + 1 for row in corpus.table.itertuples()}
    return {name: torch.arange(count) for name, count in frames.items()}


def made(speech, labels=None, **options):
    corpus = manifest(speech / "table.csv")
    given_labels = counting(corpus) if labels is None else labels
    defaults = dict(crop_seconds=1.2, batch_seconds=4.0, do_normalize=False)
    return TrainingData(corpus, given_labels, small_config(), **{**defaults, **options})


# manifests


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_manifests(speech, name):
    corpus = manifest(speech / name)
    assert len(corpus) == 12
    assert corpus.table["id"].tolist()[:2] == ["00", "01"]
    assert corpus.table["path"].iloc[3] == str(speech / "03.wav")
    assert len(manifest(speech / name, split="a", speaker=["s0", "s2"])) == 6
    assert len(manifest(str(speech))) == 12  # a folder, too
    assert len(manifest("builtin")) == 288
    both = union({"x": corpus, "y": manifest("builtin")})
    assert len(both) == 300
    assert both.table["id"].iloc[0] == "x/00"
    assert both.table["speaker"].nunique() == 4 + 24


def listed(speech, *lines):
    """A list of NeMo over the ramps."""
    file = speech / "list.jsonl"
    file.write_text("\n".join(json.dumps({"duration": 1.0, **line}) for line in lines), encoding="utf-8")
    return file


def test_lists_of_other_tools_are_sources(speech):
    lines = [{"audio_filepath": f"{n:02d}.wav", "speaker": f"s{n % 4}", "offset": 0.1 * (n > 5)} for n in range(8)]
    file = listed(speech, *lines)
    found = manifest(file, speaker=["s0", "s1"])
    expected = us.corpus.manifest(file).where(speaker=["s0", "s1"]).table
    pd.testing.assert_frame_equal(found.table, expected)
    data = TrainingData(found, counting(found), small_config(), crop_seconds=1.2, batch_seconds=4.0, do_normalize=False)
    batch = data[0]
    for values, name, start in zip(batch.input_values, batch.ids, batch.starts.tolist(), strict=True):
        file, offset = int(name[:2]), 1600 * (int(name[:2]) > 5)  # a ramp says which sample of which file it is
        assert values[0].item() == pytest.approx((offset + start + 40_000 * file) / 1e6, abs=1e-7)
    (speech / "wav.scp").write_text("a 00.wav\nb 01.wav\n", encoding="utf-8")
    assert manifest(speech / "wav.scp").table["id"].tolist() == ["a", "b"]


def test_a_list_with_many_files_gone_is_refused(speech):
    lines = [{"audio_filepath": f"{n:02d}.wav"} for n in range(20)]
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match="8 of 20 files could not be"):
        manifest(listed(speech, *lines))


def test_manifests_without_lengths_or_files(speech, tmp_path):
    table = pd.read_csv(speech / "table.csv")
    table.drop(columns="seconds").to_csv(speech / "bare.csv", index=False)
    assert manifest(speech / "bare.csv").table["seconds"].tolist() == table["seconds"].tolist()
    many = pd.concat([table] * 3, ignore_index=True)
    many["id"] = [f"r{row}" for row in range(36)]
    many.loc[5, "path"] = "absent.wav"
    many.to_csv(speech / "many.csv", index=False)
    with pytest.warns(UserWarning, match=r"1 file\(s\) of .*many.csv left out"):
        corpus = manifest(speech / "many.csv")
    assert len(corpus) == 35
    assert "absent.wav" in corpus.report["path"].iloc[0]
    many.loc[6, "path"] = "gone.wav"
    many.to_csv(speech / "many.csv", index=False)
    with pytest.raises(ValueError, match="2 of 36 files could not be read, more than 5%"):
        manifest(speech / "many.csv")
    with pytest.raises(FileNotFoundError, match="no manifest"):
        manifest(tmp_path / "nowhere.csv")
    (speech / "wrong.csv").write_text("file\nx.wav\n")
    with pytest.raises(ValueError, match=r"needs a column path .* \['file'\]"):
        manifest(speech / "wrong.csv")
    with pytest.raises(ValueError, match="at least one source"):
        union({})


def test_only_files_that_are_kept_have_to_be_there(speech):
    table = pd.read_csv(speech / "table.csv")
    table.loc[table["split"] == "b", "path"] = [f"absent{row}.wav" for row in range(6)]
    table.to_csv(speech / "half.csv", index=False)
    assert len(manifest(speech / "half.csv", split="a")) == 6
    with pytest.raises(ValueError, match="6 of 6 files could not be read"):
        manifest(speech / "half.csv", split="b")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_labels_are_strings(speech, ending):
    table = pd.read_csv(speech / "table.csv").assign(id=range(12), speaker=[None, *range(11)], text="7")
    write = {"csv": table.to_csv, "parquet": table.to_parquet}[ending]
    write(speech / f"numbers.{ending}", index=False)
    first, second = manifest(speech / f"numbers.{ending}").table[["id", "speaker", "text"]].head(2).to_numpy().tolist()
    assert (first[0], first[2], second[0], second[2]) == ("0", "7", "1", "7")
    assert pd.isna(first[1])
    assert isinstance(second[1], str)


def test_a_row_without_a_path(speech):
    pd.read_csv(speech / "table.csv").assign(path=["00.wav", None] * 6).to_csv(speech / "no.csv", index=False)
    with pytest.raises(ValueError, match=r"a path in each row; row\(s\) \[1, 3, 5, 7, 9, 11\]"):
        manifest(speech / "no.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'path,seconds\n00.wav,1\n01.wav,"1,5"\n', r"odd\.csv has '1,5' in the column seconds \(row 1, "),
        (b"path,seconds\n00.wav,0:01\n", r"odd\.csv has '0:01' in the column seconds"),
        (b"", r"odd\.csv is not a comma-separated table"),
        ("path,text\n00.wav,Zoë\n".encode("latin-1"), r"odd\.csv is not a comma-separated table in UTF-8"),
        (b"path,text\n00.wav,well, then\n", r"odd\.csv .*line 2 has more than 2 cells"),
    ],
)
def test_tables_that_are_not_understood_are_named(speech, content, message):
    (speech / "odd.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        manifest(speech / "odd.csv")


def test_a_parquet_file_that_is_none_is_named(speech):
    (speech / "odd.parquet").write_bytes(b"path,seconds\n")
    with pytest.raises(ValueError, match=r"odd\.parquet is not a Parquet"):
        manifest(speech / "odd.parquet")


def test_a_table_of_a_spreadsheet_and_empty_cells(speech):
    seconds = pd.read_csv(speech / "table.csv")["seconds"]
    text = "path,id,speaker,seconds\n00.wav,,Zoë,inf\n01.wav,0007,,\n02.wav,x,,-1\n"
    (speech / "odd.csv").write_text(text, encoding="utf-16")
    table = manifest(speech / "odd.csv").table
    assert table["id"].tolist() == ["00", "0007", "x"]
    assert table["speaker"].iloc[0] == "Zoë"
    assert table["seconds"].tolist() == seconds[:3].tolist()  # measured where no length is given


def test_files_are_looked_for_by_folder_and_keep_the_names_of_their_links(tmp_path, monkeypatch):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "view").mkdir()
    for row in range(40):
        soundfile.write(tmp_path / "blobs" / f"{row}", np.full(800, 0.1), 16_000, format="WAV")
        (tmp_path / "view" / f"{row}.wav").symlink_to(tmp_path / "blobs" / f"{row}")
    (tmp_path / "view" / "39.wav").unlink()
    (tmp_path / "view" / "39.wav").symlink_to(tmp_path / "not fetched")
    lines = "".join(f"view/../view/{row}.wav,1\n" for row in range(40))
    (tmp_path / "m.csv").write_text("path,seconds\n" + lines)
    with pytest.warns(UserWarning, match="1 file"):
        found = manifest(tmp_path / "m.csv")
    assert found.table["path"].tolist() == [str(tmp_path / "view" / f"{row}.wav") for row in range(39)]
    assert found.report["path"].tolist() == [str(tmp_path / "view" / "39.wav")]
    for row in range(40):
        (tmp_path / "view" / f"{row}.wav").unlink()
        (tmp_path / "view" / f"{row}.wav").touch()
    asked = []
    monkeypatch.setattr(os, "stat", lambda path, **_: asked.append(path) or pytest.fail(f"asked for {path}"))
    assert list(data._missing(found.table["path"])) == []


# reading


def test_a_part_of_a_file_is_that_part(tmp_path):
    whole = us.corpus.builtin().batch(0).waveforms[0].numpy()
    files = [us.corpus.builtin().table["path"].iloc[0]]
    for ending in ("wav", "flac"):
        files.append(tmp_path / f"a.{ending}")
        soundfile.write(files[-1], whole, 16_000)
    soundfile.write(tmp_path / "fast.wav", np.repeat(whole, 2), 32_000)
    for file in [*files, tmp_path / "fast.wav"]:
        expected = us.audio.load(file)[5000:9000]
        torch.testing.assert_close(read_crop(file, 5000, 4000), expected, rtol=0, atol=1e-6)
    assert len(read_crop(files[1], len(whole) - 10, 4000)) == 10


@pytest.mark.parametrize("coding", ["OPUS", "VORBIS", "MPEG_LAYER_III", "PCM_16", "ALAW", "FLAC"])
def test_any_part_is_exactly_the_whole_file_s(tmp_path, coding):
    clips = us.corpus.builtin().batch([0, 40, 80]).waveforms
    whole = torch.cat(clips).numpy()
    ending = {"OPUS": "ogg", "VORBIS": "ogg", "MPEG_LAYER_III": "mp3", "FLAC": "flac"}.get(coding, "wav")
    soundfile.write(tmp_path / f"a.{ending}", whole, 16_000, subtype="PCM_16" if coding == "FLAC" else coding)
    expected = us.audio.load(tmp_path / f"a.{ending}")
    for start in range(0, len(whole) - 4000, 4160):
        assert torch.equal(read_crop(tmp_path / f"a.{ending}", start, 4000), expected[start : start + 4000])


def test_a_file_with_nan_is_refused_with_and_without_a_cache(tmp_path):
    samples = np.full(16_000, 0.1)
    samples[4000:] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16_000, subtype="FLOAT")
    for cache in (0, 1):
        with pytest.raises(ValueError, match="NaN or infinite"):
            SoundCache(cache).crop(str(tmp_path / "nan.wav"), 3900, 400)


def test_the_cache_keeps_its_bound(speech):
    cache = SoundCache(1)  # a mebibyte: 262,144 samples
    paths = sorted(map(str, speech.glob("*.wav")))
    for path in paths * 2:
        part = cache.crop(path, 100, 50)
        torch.testing.assert_close(part, us.audio.load(path)[100:150])
        assert cache.size <= 2**20
        assert cache.size == 4 * sum(map(len, cache.waveforms.values()))
    assert list(cache.waveforms)[-1] == paths[-1]
    assert 1 < len(cache.waveforms) < 12
    part += 1  # what was handed out is the caller's
    torch.testing.assert_close(cache.crop(paths[-1], 100, 50), us.audio.load(paths[-1])[100:150])


# crops


@pytest.mark.parametrize("cache", [0, 64])
def test_crops_and_labels_lie_on_each_other(speech, cache):
    data = made(speech, cache_mb=cache)
    starts = []
    for step in range(20):
        batch = data[step]
        assert batch.input_values.shape == batch.attention_mask.shape
        for row, name in enumerate(batch.ids):
            samples = int(batch.attention_mask[row].sum())
            frames = (samples - FIELD) // HOP + 1
            start = int(batch.starts[row])
            assert start % HOP == 0
            # the file says where its samples come from, the labels say which frames they are
            assert batch.input_values[row, 0].item() * 1e6 == pytest.approx(start + 40_000 * int(name), abs=0.05)
            assert batch.targets[row, :frames].tolist() == list(range(start // HOP, start // HOP + frames))
            assert (batch.targets[row, frames:] == -100).all()
            assert samples == min(int(1.2 * 16_000), 16_000 + 1_600 * int(name))
            assert (batch.input_values[row, samples:] == 0).all()
            starts.append(start)
    assert len(set(starts)) > 20
    model = us.UniSpeechSatModel(small_config())
    out = model(batch.input_values, batch.attention_mask)
    assert torch.equal(out.valid, batch.targets != -100)


def test_each_crop_is_normalised_by_itself(speech):
    batch = made(speech, do_normalize=True)[0]
    plain = made(speech)[0]
    for row in range(len(batch)):
        samples = int(batch.attention_mask[row].sum())
        expected = us.audio.normalize(plain.input_values[row, :samples])
        torch.testing.assert_close(batch.input_values[row, :samples], expected)


def test_a_batch_is_a_function_of_its_number(speech):
    data, other = made(speech), made(speech)
    late = other[25]
    for step in range(26):
        batch = data[step]
    assert batch.ids == late.ids
    assert torch.equal(batch.input_values, late.input_values)
    assert torch.equal(batch.starts, late.starts)
    assert any(not torch.equal(made(speech, seed=1)[step].starts, data[step].starts) for step in range(3))
    epochs = [
        [data.rows(step) for step in range(e * data.batches_per_epoch, (e + 1) * data.batches_per_epoch)]
        for e in range(3)
    ]
    assert all(len({row for batch in epoch for row in batch}) == sum(map(len, epoch)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_an_utterance_is_cropped_anew_in_each_epoch(speech):
    corpus = manifest(speech / "table.csv").where(id=["10", "11"])
    data = TrainingData(corpus, counting(corpus), small_config(), crop_seconds=0.5, batch_seconds=2.0)
    assert data.batches_per_epoch == 1
    starts = {name: set() for name in ("10", "11")}
    for step in range(12):
        for name, start in zip(data[step].ids, data[step].starts.tolist(), strict=True):
            starts[name].add(start)
    assert min(map(len, starts.values())) > 8


def test_crops_change_from_step_to_step(speech):
    # as long as each other and one at a time: only the draw decides
    corpus = manifest(speech / "table.csv")
    table = pd.concat([corpus.table.iloc[[11]]] * 8).assign(id=list("abcdefgh"), speaker=list("abcdefgh"))
    corpus = Corpus(table)
    data = TrainingData(corpus, counting(corpus), small_config(), crop_seconds=1.0, batch_seconds=2.0)
    first = [int(data[step].starts[0]) for step in range(12)]
    assert len(set(first)) > 6
    pair = dict(crop_seconds=1.0, batch_seconds=2.0, processes=2)
    ranks = [TrainingData(corpus, counting(corpus), small_config(), **pair, rank=rank) for rank in range(2)]
    assert any(not torch.equal(ranks[0][step].starts, ranks[1][step].starts) for step in range(4))


def test_crops_of_the_published_front_end(speech):
    config = us.UniSpeechSatConfig.tiny()
    hop, field = config.inputs_to_logits_ratio, config.receptive_field
    assert (hop, field) == (320, 400)
    corpus = manifest(speech / "table.csv")
    frames = {row.id: (round(row.seconds * 16_000) - field) // hop + 1 for row in corpus.table.itertuples()}
    labels = {name: torch.arange(count, dtype=torch.int16) for name, count in frames.items()}
    data = TrainingData(corpus, labels, config, crop_seconds=1.01, batch_seconds=4.0, do_normalize=False)
    for step in range(6):
        batch = data[step]
        assert batch.targets.dtype == torch.int64
        for row, name in enumerate(batch.ids):
            start = round(batch.input_values[row, 0].item() * 1e6) - 40_000 * int(name)
            count = int((batch.targets[row] != -100).sum())
            assert batch.targets[row, :count].tolist() == list(range(start // hop, start // hop + count))
            assert count == (int(batch.attention_mask[row].sum()) - field) // hop + 1


def test_processes_share_an_epoch(speech):
    parts = [made(speech, processes=2, rank=rank) for rank in range(2)]
    assert parts[0].batches_per_epoch == parts[1].batches_per_epoch >= 1
    seen = [row for part in parts for step in range(part.batches_per_epoch) for row in part.rows(step)]
    assert len(seen) == len(set(seen))
    assert len(seen) >= 6


def test_reading_ahead_gives_the_same(speech):
    data, ahead = made(speech), made(speech)
    batches = ahead.iterate(3)
    for step in range(3, 15):
        batch = next(batches)
        assert torch.equal(batch.input_values, data[step].input_values)
        assert batch.ids == data[step].ids
    ahead.close()
    assert not ahead._workers


def test_an_error_while_reading_ahead_arrives(speech):
    corpus = manifest(speech / "table.csv")
    labels = {name: values[:-2] for name, values in counting(corpus).items()}
    data = made(speech, labels)
    with pytest.raises(MisalignedTargetsError, match="labels for .* frames, more than one apart"):
        next(data.iterate())
    data.close()


def test_labels_a_frame_off(speech):
    corpus = manifest(speech / "table.csv")
    whole = made(speech)
    short = made(speech, {name: values[:-1] for name, values in counting(corpus).items()})
    for step in range(10):
        a, b = whole[step].targets, short[step].targets
        assert ((a == b) | (b == -100)).all()
        assert ((a != b).sum(1) <= 1).all()


# batches


@given(
    st.lists(st.floats(0.5, 20), min_size=1, max_size=120),
    st.integers(1, 12),
    st.sampled_from([2.0, 5.0, 30.0]),
    st.integers(0, 99),
)
def test_plans(seconds, speakers, crop, seed):
    lengths, names = np.array(seconds), [f"s{row % speakers}" for row in range(len(seconds))]
    options = dict(crop_seconds=crop, batch_seconds=4 * crop)
    batches = plan(lengths, names, **options, draw=np.random.default_rng(seed))
    rows = [row for batch in batches for row in batch]
    assert len(rows) == len(set(rows))
    cut = np.minimum(lengths, crop)
    for batch in batches:
        assert len(batch) >= 2
        assert len(batch) * cut[batch].max() <= 4 * crop + 1e-6
    assert batches == plan(lengths, names, **options, draw=np.random.default_rng(seed))


def test_hardly_anything_is_left_out_and_lengths_go_together():
    draw = np.random.default_rng(0)
    seconds = draw.uniform(1, 15, 3000)
    names = [f"s{row % 50}" for row in range(3000)]
    batches = plan(seconds, names, crop_seconds=15.0, batch_seconds=60.0, draw=draw)
    assert sum(map(len, batches)) >= 0.99 * 3000
    padded = sum(len(batch) * seconds[batch].max() for batch in batches)
    assert sum(seconds[batch].sum() for batch in batches) > 0.9 * padded
    longest = [seconds[batch].max() for batch in batches]
    assert np.corrcoef(longest[:-1], longest[1:])[0, 1] < 0.2  # in random order


def test_a_batch_mixes_speakers():
    # as LibriSpeech lies on the disk: a hundred utterances of one speaker after the other, sorted by length
    seconds = np.repeat(np.linspace(5, 6, 10), 100)
    names = np.repeat([f"s{row}" for row in range(10)], 100)
    batches = plan(seconds, names.tolist(), crop_seconds=3.0, batch_seconds=24.0, draw=np.random.default_rng(0))
    different = np.mean([len(set(names[batch])) / len(batch) for batch in batches])
    chance = np.mean([len(set(names[np.random.default_rng(i).choice(1000, 8, False)])) / 8 for i in range(500)])
    assert different > chance + 0.1


# what goes wrong


def test_one_speaker_is_worth_a_warning(speech):
    corpus = manifest(speech / "table.csv", speaker="s0")
    with pytest.warns(UserWarning, match="all utterances are of one speaker, s0"):
        TrainingData(corpus, counting(corpus), small_config(), crop_seconds=1.0, batch_seconds=4.0)


def test_what_is_left_out_is_counted(speech):
    corpus = manifest(speech / "table.csv")
    labels = counting(corpus)
    del labels["11"]
    data = TrainingData(corpus, labels, small_config(), crop_seconds=1.3, batch_seconds=4.0, min_seconds=1.25)
    assert data.left_out == {"too short": 3, "no targets": 1}
    assert len(data.table) == 8
    with pytest.raises(ValueError, match="0 of 12 utterances last 9 s and have targets; 2 are needed"):
        TrainingData(corpus, labels, small_config(), crop_seconds=10.0, batch_seconds=40.0, min_seconds=9.0)
    with pytest.raises(ValueError, match="batch_seconds=1.0 two crops"):
        TrainingData(corpus, labels, small_config(), crop_seconds=1.0, batch_seconds=1.0)


@pytest.mark.parametrize("changes", [{"batch_seconds": float("nan")}, {"crop_seconds": float("inf")}])
def test_lengths_of_batches_are_finite(speech, changes):
    with pytest.raises(ValueError, match=r"must hold a frame and batch_seconds=.* two crops"):
        made(speech, **changes)


def test_tables_that_make_no_batches(speech):
    corpus = us.corpus.folder(speech)
    labels = counting(corpus)
    for column, value, message in [
        ("id", 7, r"1 id\(s\) are no text, \[7\] among them"),
        ("seconds", math.inf, r"1 utterance\(s\) have no finite seconds, \['\w+'\] among them; correct the table"),
        ("seconds", math.nan, r"1 utterance\(s\) have no finite seconds"),
    ]:
        table = corpus.table.astype({column: object})
        table.loc[1, column] = value
        with pytest.raises(ValueError, match=message):
            TrainingData(us.corpus.Corpus(table), labels, small_config(), crop_seconds=1.0, batch_seconds=4.0)


def test_files_that_break_later(speech):
    table = pd.concat([pd.read_csv(speech / "table.csv")] * 4, ignore_index=True)
    table["id"] = [f"r{row}" for row in range(48)]
    table.to_csv(speech / "many.csv", index=False)
    corpus = manifest(speech / "many.csv")
    for row in range(3):
        bad = speech / f"bad{row}.wav"
        bad.write_bytes(b"not a sound")
        corpus.table.loc[row, "path"] = str(bad)
    data = TrainingData(corpus, counting(corpus), small_config(), crop_seconds=1.0, batch_seconds=4.0)

    def all_steps():
        for step in range(data.batches_per_epoch):
            assert not any("bad" in name for name in data[step].ids)

    with pytest.warns(UserWarning, match="left out: .*bad"), pytest.raises(ValueError, match="3 of 48 files"):
        all_steps()
    assert len(data.unreadable) == 3


def test_a_batch_never_shrinks_to_one(speech):
    table = pd.concat([pd.read_csv(speech / "table.csv")] * 4, ignore_index=True)
    table["id"] = [f"r{row}" for row in range(48)]
    table.to_csv(speech / "many.csv", index=False)
    corpus = manifest(speech / "many.csv")
    options = dict(crop_seconds=1.0, batch_seconds=2.0)
    whole = TrainingData(corpus, counting(corpus), small_config(), **options)
    broken = TrainingData(corpus, counting(corpus), small_config(), **options)
    first, second = whole.rows(0)
    (speech / "bad.wav").write_bytes(b"not a sound")
    broken.table = broken.table.copy()
    broken.table.loc[first, "path"] = str(speech / "bad.wav")
    with pytest.warns(UserWarning, match="left out: .*bad"):
        batch = broken[0]
    assert batch.ids[0] == whole.table["id"][second]
    assert batch.ids[1] == whole.table["id"][whole.rows(1)[0]]
    # what is left is cropped as it would have been
    assert batch.starts[0] == whole[0].starts[1]


def test_more_processes_than_batches(speech):
    with pytest.raises(ValueError, match=r"12 utterances make 1 batch\(es\) of batch_seconds=60.0, too few for 2"):
        made(speech, batch_seconds=60.0, processes=2)


def test_every_epoch_has_as_many_batches():
    seconds = np.random.default_rng(0).uniform(0.5, 9, 301)
    names = [f"s{row % 7}" for row in range(301)]
    options = dict(crop_seconds=5.0, batch_seconds=20.0)
    counts = {len(plan(seconds, names, **options, draw=np.random.default_rng(seed))) for seed in range(30)}
    assert len(counts) == 1


def test_a_crop_is_not_rounded_down_by_floating_point(speech):
    assert int(4.02 * 16_000) == 64_319  # one short of 1,005 hops
    assert made(speech, crop_seconds=4.02, batch_seconds=10.0).crop == 64_320


def test_a_manifest_that_promises_too_much(speech):
    corpus = manifest(speech / "table.csv")
    corpus.table.loc[:, "seconds"] = corpus.table["seconds"] + 100.0
    labels = counting(corpus)
    data = TrainingData(corpus, labels, small_config(), crop_seconds=1.0, batch_seconds=4.0)
    with pytest.warns(UserWarning, match="its manifest says more"), pytest.raises(ValueError, match="1 of 12 files"):
        data[0]
    with pytest.raises(ValueError, match="17600 samples and none from 20000 on"):
        read_crop(speech / "01.wav", 20_000, 10)


def test_folders_stop_at_as_many_broken_files_as_manifests(tmp_path):
    tone = np.sin(np.arange(8000) / 10).astype("float32") / 2
    for row in range(38):
        soundfile.write(tmp_path / f"{row:02d}.wav", tone, 16_000)
    (tmp_path / "broken1.wav").write_bytes(b"RIFF and no more")
    (tmp_path / "broken2.wav").write_bytes(b"")
    with pytest.warns(UserWarning, match="2 file"):
        assert len(manifest(tmp_path)) == 38  # 5 % may be broken
    (tmp_path / "00.wav").write_bytes(b"no more")
    with (
        pytest.warns(UserWarning, match="3 file"),
        pytest.raises(ValueError, match="3 of 40 files could not be read, more than 5%"),
    ):
        manifest(tmp_path)


def test_a_real_corpus(recorded):
    corpus = manifest(recorded / "metadata.csv", split="train")
    assert len(corpus) == 833
    assert isinstance(corpus, Corpus)
    frames = {row.id: (round(row.seconds * 16_000) - 400) // 320 + 1 for row in corpus.table.itertuples()}
    labels = {name: torch.zeros(count).long() for name, count in frames.items()}
    data = TrainingData(
        corpus, labels, us.UniSpeechSatConfig.tiny(), crop_seconds=3.0, batch_seconds=30.0, min_seconds=1.0
    )
    batch = data[0]
    assert len(set(batch.speakers)) == len(batch) == 10
    assert batch.input_values.shape == (10, 48_000)
    assert (ROOT / "recipes").is_dir()


# who is heard, and how often


def test_manifests_keep_and_leave_out_speakers(speech, tmp_path):
    (tmp_path / "some.csv").write_text("speaker,note\ns1,x\ns3,y\n")
    (tmp_path / "nobody.csv").write_text("speaker\ns9\n")
    (tmp_path / "wrong.csv").write_text("name\ns1\n")
    for source in (speech / "table.csv", speech / "table.parquet"):
        assert {*manifest(source, without=[tmp_path / "some.csv"]).table["speaker"]} == {"s0", "s2"}
        assert {*manifest(source, within=[tmp_path / "some.csv"]).table["speaker"]} == {"s1", "s3"}
    both = dict(within=[tmp_path / "some.csv"], where={"split": "b"}, speaker="s3")
    assert {*manifest(speech / "table.csv", **both).table["speaker"]} == {"s3"}
    assert len(manifest("builtin", without=[tmp_path / "some.csv"])) == 288
    with pytest.raises(ValueError, match="no speaker is listed"):
        manifest(speech / "table.csv", within=[tmp_path / "nobody.csv"])
    with pytest.raises(ValueError, match="needs a column speaker"):
        manifest(speech / "table.csv", without=[tmp_path / "wrong.csv"])


def seconds_of(data, epochs, key):
    """Audio heard of each value of a column."""
    heard = {}
    for step in range(epochs * data.batches_per_epoch):
        for row in data.rows(step):
            name = data.table[key].iloc[row] if key != "source" else data.table["id"].iloc[row].split("/")[0]
            heard[name] = heard.get(name, 0.0) + data.crops[row] / 16_000
    return heard


def test_sources_are_heard_as_often_as_they_weigh(speech):
    corpus = union({"a": manifest(speech / "table.csv", split="a"), "b": manifest(speech / "table.csv", split="b")})
    labels = counting(corpus)
    options = dict(crop_seconds=1.0, batch_seconds=4.0, grid_seconds=0.5)
    data = TrainingData(corpus, labels, small_config(), **options, weights={"a": 3.0, "b": 1.0})
    heard = seconds_of(data, 60, "source")
    assert heard["a"] / heard["b"] == pytest.approx(3, rel=0.1)
    # inside a source, every second is as likely as another
    of_a = seconds_of(data, 60, "id")
    ratio = of_a["a/10"] / of_a["a/00"]
    assert ratio == pytest.approx(data.seconds[5] / data.seconds[0], rel=0.15)
    even = TrainingData(corpus, labels, small_config(), **options, weights={"a": 1, "b": 1}, speaker_power=0.0)
    speakers = seconds_of(even, 60, "speaker")
    assert max(speakers.values()) / min(speakers.values()) < 1.15
    with pytest.raises(ValueError, match=r"no weight for the source\(s\) \['b'\]"):
        TrainingData(corpus, labels, small_config(), **options, weights={"a": 1})


def test_weights_are_a_function_of_seed_and_step(speech):
    corpus = union({"a": manifest(speech / "table.csv")})
    make = dict(crop_seconds=1.0, batch_seconds=3.0, weights={"a": 1.0}, speaker_power=0.5)
    one, two = (TrainingData(corpus, counting(corpus), small_config(), **make) for _ in range(2))
    steps = range(5 * one.batches_per_epoch)
    expected = [one.rows(step) for step in steps]
    assert [two.rows(step) for step in reversed(steps)] == expected[::-1]


@given(st.lists(st.floats(1.0, 9.0), min_size=8, max_size=60), st.sampled_from([0.5, 1.0]), st.integers(0, 2**31 - 1))
def test_on_a_grid_nothing_is_padded(seconds, grid, seed):
    seconds = np.array(seconds)
    made = plan(
        seconds,
        list(range(len(seconds))),
        crop_seconds=4.0,
        batch_seconds=8.0,
        grid_seconds=grid,
        draw=np.random.default_rng(seed),
    )
    lengths = np.floor(np.minimum(seconds, 4.0) / grid + 1e-6) * grid
    sizes = {}
    for batch in made:
        assert len({lengths[row] for row in batch}) == 1
        assert len(batch) == len({*batch}) >= 2
        sizes.setdefault(lengths[batch[0]], []).append(len(batch))
    for length, counts in sizes.items():
        assert len({*counts}) == 1
        assert counts[0] == max(2, int(8.0 / length)) or len(counts) == 1
    left_out = len(seconds) - sum(map(len, made))
    assert left_out <= sum(max(2, int(8.0 / length)) for length in np.unique(lengths))


# data on the device


@pytest.mark.parametrize("grid", [0.0, 0.5])
@pytest.mark.parametrize("normalize", [False, True])
def test_data_on_the_device_are_the_same(speech, grid, normalize):
    options = dict(grid_seconds=grid, do_normalize=normalize, seed=3)
    corpus = manifest(speech / "table.csv")
    read = made(speech, **options)
    kept = ResidentData(
        corpus, counting(corpus), small_config(), crop_seconds=1.2, batch_seconds=4.0, device="cpu", **options
    )
    assert kept.batches_per_epoch == read.batches_per_epoch
    for step, batch in zip(range(2 * read.batches_per_epoch), kept.iterate(0), strict=False):
        expected = read[step]
        assert (batch.ids, batch.speakers) == (expected.ids, expected.speakers)
        assert torch.equal(batch.targets, expected.targets)
        assert torch.equal(batch.starts, expected.starts)
        assert batch.seconds == pytest.approx(expected.seconds)
        # ramps of 0.02 a second are coarse in 16 bits
        close = dict(rtol=0, atol=2e-2 if normalize else 1.6e-5)
        torch.testing.assert_close(batch.input_values, expected.input_values, **close)
        if grid:
            assert batch.attention_mask is None
            assert expected.attention_mask.all()
        else:
            mask = torch.ones_like(expected.attention_mask) if batch.attention_mask is None else batch.attention_mask
            assert torch.equal(mask, expected.attention_mask)


def test_data_on_the_device_refuse_labels_of_other_audio(speech):
    corpus = manifest(speech / "table.csv")
    labels = counting(corpus)
    labels["03"] = labels["03"][:-5]
    with pytest.raises(MisalignedTargetsError, match="'03' has .* labels for"):
        ResidentData(corpus, labels, small_config(), crop_seconds=1.2, batch_seconds=4.0, device="cpu")


@pytest.mark.parametrize("cache_mb", [0, 16])
def test_pieces_of_one_file_are_trained_on_as_files_are(speech, cache_mb):
    waves = [soundfile.read(file, dtype="float32")[0] for file in sorted(speech.glob("*.wav"))]
    soundfile.write(speech / "all.wav", np.concatenate(waves), 16_000, subtype="FLOAT")
    ends = np.cumsum([len(wave) for wave in waves]) / 16_000
    table = pd.read_csv(speech / "table.csv")
    starts = [0, *ends[:-1]]
    table = table.assign(id=[path[:2] for path in table["path"]], path="all.wav", start=starts, end=ends)
    table.drop(columns="seconds").to_csv(speech / "pieces.csv", index=False)
    np.testing.assert_allclose(manifest(speech / "pieces.csv").table["seconds"], table["seconds"], atol=1e-9)
    table.to_csv(speech / "pieces.csv", index=False)
    whole, pieces = made(speech, cache_mb=cache_mb), manifest(speech / "pieces.csv")
    options = dict(crop_seconds=1.2, batch_seconds=4.0, do_normalize=False, cache_mb=cache_mb)
    data = TrainingData(pieces, counting(pieces), small_config(), **options)
    for step in range(3):
        assert torch.equal(data[step].input_values, whole[step].input_values)
    del options["cache_mb"]
    resident = ResidentData(pieces, counting(pieces), small_config(), **options, device="cpu")
    assert (resident[0].input_values - whole[0].input_values).abs().max() <= 0.51 / 2**15
    joined = union({"one": manifest(speech / "table.csv"), "other": pieces})
    assert torch.equal(joined.waveform(15), torch.tensor(waves[3]))
    assert torch.equal(joined.waveform(3), torch.tensor(waves[3]))


# large tables


@pytest.fixture
def many(tmp_path):
    """A table of 20,000 rows, of whose paths no two are the same."""
    (tmp_path / "real").mkdir()
    for number in range(500):
        (tmp_path / "real" / f"utterance-{number}.wav").touch()
    lines = ["path,id,speaker,seconds"]
    for who in range(40):
        (tmp_path / f"speaker-{who}").symlink_to("real")
        lines += [f"speaker-{who}/utterance-{n}.wav,s{who}-{n},s{who},1.0" for n in range(500)]
    (tmp_path / "many.csv").write_text("\n".join(lines))
    return tmp_path / "many.csv"


def test_a_large_table_is_no_heap_of_python_s_strings(many, monkeypatch):
    if getattr(pd.Series(["a"]).dtype, "storage", "python") != "pyarrow":
        pytest.skip("this pandas keeps strings as objects of Python; the one of constraints.txt does not")
    monkeypatch.setattr(data, "BLOCK", 1000)
    manifest(many)  # what is imported on the way does not count
    tracemalloc.start()
    corpus = data.union({"a": manifest(many)})
    peak = tracemalloc.get_traced_memory()[1] / len(corpus)
    tracemalloc.stop()
    assert len(corpus) == 20_000
    assert all(isinstance(corpus.table[name].dtype, pd.StringDtype) for name in ("path", "id", "speaker"))
    assert peak < 250  # bytes a row


def test_blocks_of_a_table_change_nothing(many, monkeypatch):
    table = pd.read_csv(many)[:900]
    table.loc[[3, 500], "id"] = None
    table.loc[100:120, "speaker"] = None
    table.to_csv(many.with_name("few.csv"), index=False)
    whole = manifest(many.with_name("few.csv")).table
    monkeypatch.setattr(data, "BLOCK", 7)
    pd.testing.assert_frame_equal(manifest(many.with_name("few.csv")).table, whole)
    assert whole["path"].tolist() == [str(many.parent / path) for path in table["path"]]
    assert whole["id"][[3, 500]].tolist() == ["speaker-0/utterance-3", "speaker-1/utterance-0"]
    assert whole["speaker"].isna().sum() == 21
    # a file that is gone is found behind every block
    (many.parent / "real" / "utterance-1.wav").unlink()
    with pytest.warns(UserWarning, match=r"2 file\(s\) of .*few.csv left out"):
        assert len(manifest(many.with_name("few.csv"))) == 898


def test_unions_keep_what_their_tables_hold():
    whole = {
        "path": ["/a", "/b"],
        "id": ["x", "y"],
        "speaker": ["s", "t"],
        "seconds": [1.0, 2.0],
        "text": ["one", "two"],
    }
    empty = {"path": ["/c"], "id": [7], "seconds": [3]}
    found = data.union({"m": us.corpus.Corpus(pd.DataFrame(whole)), "n": us.corpus.Corpus(pd.DataFrame(empty))}).table
    assert found["id"].tolist() == ["m/x", "m/y", "n/7"]
    assert found["speaker"].tolist()[:2] == ["s", "t"]
    assert found["speaker"].isna().tolist() == [False, False, True]
    assert found["seconds"].tolist() == [1.0, 2.0, 3.0]
