"""Lists of speech that other tools write: Kaldi, lhotse, NeMo, Common Voice."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import unisat as us
from unisat import audio


@pytest.fixture
def sounds(tmp_path):
    """Two recordings of noise in ``sub``: a of 3 s at 16 kHz, b of 2 s at 8 kHz."""
    (tmp_path / "sub").mkdir()
    for seed, (name, seconds, rate) in enumerate([("a", 3, 16_000), ("b", 2, 8_000)]):
        noise = np.random.default_rng(seed).uniform(-0.3, 0.3, seconds * rate)
        soundfile.write(tmp_path / "sub" / f"{name}.wav", noise, rate)
    return tmp_path


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def column(speech, name):
    return [None if pd.isna(value) else value for value in speech.table[name]]


def kaldi(folder, **files):
    """A Kaldi folder over the recordings; a file that is None is left out."""
    lines = {
        "wav.scp": ["a sub/a.wav", "b sub/b.wav"],
        "segments": ["u1 a 0.5 1.25", "u2 a 1.25 -1", "u3 b 0 2.0"],
        "utt2spk": ["u1 anna", "u2 anna", "u3 bert"],
        "text": ["u1 one two", "u3"],
        "spk2gender": ["anna f", "bert m"],
    }
    for name, content in {**lines, **{name.replace("_", "."): value for name, value in files.items()}}.items():
        if content is not None:
            write(folder / name, *content)
    return folder


@pytest.mark.parametrize("how", ["folder", "layout", "manifest", "file"])
def test_a_kaldi_folder(sounds, how):
    root = kaldi(sounds)
    speech = {
        "folder": lambda: us.corpus.folder(root),
        "layout": lambda: us.corpus.folder(root, layout="kaldi"),
        "manifest": lambda: us.corpus.manifest(root),
        "file": lambda: us.corpus.manifest(root / "wav.scp"),
    }[how]()
    assert column(speech, "id") == ["u1", "u2", "u3"]
    assert column(speech, "speaker") == ["anna", "anna", "bert"]
    assert column(speech, "sex") == ["F", "F", "M"]
    assert column(speech, "session") == ["a", "a", "b"]
    assert column(speech, "text") == ["one two", None, None]
    assert column(speech, "seconds") == [0.75, 1.75, 2.0]
    whole = audio.load(sounds / "sub" / "a.wav")
    batch = speech.batch()
    assert torch.equal(batch.waveforms[0], whole[8_000:20_000])
    assert torch.equal(batch.waveforms[1], whole[20_000:])
    assert len(batch.waveforms[2]) == 32_000


def test_a_kaldi_folder_without_segments(sounds):
    speech = us.corpus.manifest(
        kaldi(sounds, segments=None, utt2spk=["a anna"], text=None, spk2gender=None, utt2dur=["a 3.0"])
    )
    assert column(speech, "id") == ["a", "b"]
    assert column(speech, "speaker") == ["anna", None]
    assert column(speech, "seconds") == [3, 2]
    assert "start" not in speech.table


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"wav_scp": ["a sub/a.wav", "b sph2pipe -f wav b.sph |"]}, r"wav\.scp, line 2: 'b' is a command"),
        ({"wav_scp": ["a sub/a.wav", "b raw.ark:1234"]}, r"wav\.scp, line 2: expected the path of a sound file"),
        ({"wav_scp": ["a"]}, r"wav\.scp, line 1: expected the path"),
        ({"wav_scp": ["a sub/a.wav", "", "a sub/b.wav"]}, r"wav\.scp, line 3: 'a' comes a second time"),
        ({"segments": ["u1 a 1 2", "u2 c 0 1"]}, r"segments, line 2: recording 'c' is not in wav\.scp"),
        ({"segments": ["u1 a -1 2"]}, r"segments, line 1: a start is a number, 0 or more; got '-1'"),
        ({"segments": ["u1 a 2 1"]}, r"segments, line 1: from 2 to 1 s; an utterance ends behind its start"),
        ({"segments": ["u1 a 0 nan"]}, r"segments, line 1: an end is a number"),
        ({"segments": ["u1 a 0"]}, r"segments, line 1: expected an utterance, its recording, start and end"),
        ({"utt2spk": ["u1 anna", "u9 anna"]}, r"utt2spk, line 2: utterance 'u9' is not in segments"),
        ({"text": ["nobody says"]}, r"text, line 1: utterance 'nobody' is not in segments"),
        ({"segments": None, "text": None}, r"utt2spk, line 1: utterance 'u1' is not in wav\.scp"),
    ],
)
def test_a_kaldi_folder_with_mistakes(sounds, files, message):
    with pytest.raises(ValueError, match=message):
        us.corpus.manifest(kaldi(sounds, **files))


def test_files_that_are_not_there_are_left_out(sounds):
    root = kaldi(sounds, wav_scp=["a sub/a.wav", "b gone.wav"], segments=["u1 a 0 1", "u2 a 8 9", "u3 b 0 1"])
    with pytest.warns(UserWarning, match=r"1 file\(s\) in .* left out"):
        speech = us.corpus.manifest(kaldi(root, wav_scp=["a sub/a.wav", "b gone.wav"]))
    assert column(speech, "id") == ["u1", "u2"]
    (reason,) = speech.report["reason"]
    assert "segments, line 3: " in reason
    assert "gone.wav does not exist" in reason
    with pytest.raises(FileNotFoundError, match=r"there is no .*wav\.scp"):
        us.corpus.folder(sounds / "sub", layout="kaldi")


def nemo(**changes):
    entry = {"audio_filepath": "sub/a.wav", "duration": 1.0, "offset": 0.5, "text": "one", "speaker": 7, "lang": "en"}
    return json.dumps({name: value for name, value in {**entry, **changes}.items() if value is not None})


def test_a_manifest_of_nemo(sounds):
    lines = [
        nemo(start="soon", end=-1, seconds=9),
        nemo(offset=1.5),
        nemo(audio_filepath="sub/b.wav", offset=None, duration=None, speaker=None),
    ]
    speech = us.corpus.manifest(write(sounds / "train.json", *lines))
    assert column(speech, "id") == ["a-0.5", "a-1.5", "b"]
    assert column(speech, "speaker") == ["7", "7", None]
    assert column(speech, "seconds") == [1, 1, 2]
    assert column(speech, "lang") == ["en"] * 3
    assert torch.equal(speech.waveform(1), audio.load(sounds / "sub" / "a.wav")[24_000:40_000])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: expected a JSON object on each line"),
        ("[1]", r"line 2: expected a JSON object, got '\[1\]'"),
        ("{}", "line 2: expected a cut of lhotse or audio_filepath of NeMo"),
        (nemo(offset=-1), "line 2: offset is a number, 0 or more; got -1"),
        (nemo(duration=0), "line 2: from 0.5 to 0.5 s"),
        (nemo(duration="long"), "line 2: duration is a number, 0 or more; got 'long'"),
        (nemo(audio_filepath=["a", "b"]), r"line 2: expected the path of a sound file in audio_filepath, got \['a'"),
    ],
)
def test_a_manifest_of_nemo_with_mistakes(sounds, line, message):
    with pytest.raises(ValueError, match=message):
        us.corpus.manifest(write(sounds / "train.jsonl", nemo(), line))


def cut(name="c1", start=0.5, duration=1.0, **changes):
    """A cut as lhotse 1.33 writes it."""
    source = {"type": "file", "channels": [0], "source": "sub/a.wav"}
    recording = {"id": "a", "sources": [source], "sampling_rate": 16_000, "num_samples": 48_000, "duration": 3.0}
    said = {"id": "s1", "recording_id": "a", "start": 0.0, "duration": 1.0, "channel": 0, "text": "one", "gender": "F"}
    about = {"id": name, "start": start, "duration": duration, "channel": 0, "type": "MonoCut"}
    return {
        **about,
        "supervisions": [{**said, "speaker": "anna", "language": "en"}],
        "recording": {**recording, "channel_ids": [0], **changes.pop("recording", {})},
        **changes,
    }


class Cut:
    def __init__(self, about):
        self.about = about

    def to_dict(self):
        return self.about


@pytest.mark.parametrize("how", ["jsonl", "gz", "memory"])
def test_cuts_of_lhotse(sounds, how, monkeypatch):
    monkeypatch.chdir(sounds)
    cuts = [cut(), cut("whole", 0, 3.0, supervisions=[])]
    text = "".join(json.dumps(one) + "\n" for one in cuts)
    (sounds / "cuts.jsonl").write_text(text)
    (sounds / "cuts.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    source = {"jsonl": sounds / "cuts.jsonl", "gz": "cuts.jsonl.gz", "memory": [Cut(one) for one in cuts]}[how]
    speech = us.corpus.manifest(source)
    assert column(speech, "id") == ["c1", "whole"]
    assert column(speech, "speaker") == ["anna", None]
    assert column(speech, "sex") == ["F", None]
    assert column(speech, "text") == ["one", None]
    assert column(speech, "seconds") == [1, 3]
    whole = audio.load(sounds / "sub" / "a.wav")
    assert torch.equal(speech.waveform(0), whole[8_000:24_000])
    assert torch.equal(speech.waveform(1), whole)


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (cut(type="MixedCut", recording={"sources": []}), r"the cut 'c1' \(MixedCut\) is not a recording in one file"),
        (cut(recording={"transforms": [{"name": "Speed"}]}), "changed by Speed; write it with cuts.save_audios"),
        (cut(recording={"channel_ids": [0, 1]}), r"is channel \[0\] of \[0, 1\]"),
        (cut(start=-1.0), "start is a number, 0 or more; got -1.0"),
        (cut(duration=0.0), "from 0.5 to 0.5 s"),
        (cut(duration=None), "duration is a number"),
        (cut(supervisions=["one"]), "the cut is not as lhotse writes it"),
        (cut(recording={"sources": [{"type": "file"}]}), "the cut is not as lhotse writes it .KeyError: 'source'"),
    ],
)
def test_cuts_that_cannot_be_read(sounds, one, message):
    with pytest.raises(ValueError, match=rf"line 1: .*{message}"):
        us.corpus.manifest(write(sounds / "cuts.jsonl", json.dumps(one)))
    with pytest.raises(ValueError, match=rf"cut 0: .*{message}"):
        us.corpus.manifest([Cut(one)])


@pytest.mark.wrong_types
def test_what_is_no_list_of_speech(sounds):
    with pytest.raises(TypeError, match="expected a path or a CutSet of lhotse, got list of int"):
        us.corpus.manifest([1])
    with pytest.raises(TypeError, match="got int of int"):
        us.corpus.manifest(1)
    with pytest.raises(ValueError, match=r"a\.wav is no list of speech that is known"):
        us.corpus.manifest(sounds / "sub" / "a.wav")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        us.corpus.manifest(sounds / "gone.jsonl")
    with pytest.raises(ValueError, match="lists no utterance"):
        us.corpus.manifest(write(sounds / "empty.jsonl"))
    (sounds / "cut.jsonl.gz").write_bytes(gzip.compress(nemo().encode())[:-12])
    with pytest.raises(ValueError, match=r"behind line \d: the compressed file is damaged"):
        us.corpus.manifest(sounds / "cut.jsonl.gz")
    (sounds / "latin.jsonl").write_bytes(nemo(text=None).encode() + '\n{"text": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.jsonl, line 2: not text in UTF-8"):
        us.corpus.manifest(sounds / "latin.jsonl")


def common_voice(folder, *rows, columns="client_id path sentence_id sentence up_votes age gender accents"):
    clips = folder / "clips"
    clips.mkdir(exist_ok=True)
    for name in ("cv_1.mp3", "cv_2.mp3"):
        soundfile.write(clips / name, np.random.default_rng(0).uniform(-0.3, 0.3, 16_000), 16_000)
    return write(folder / "validated.tsv", columns.replace(" ", "\t"), *("\t".join(row) for row in rows))


def test_a_list_of_common_voice(tmp_path):
    file = common_voice(
        tmp_path,
        ["p1", "cv_1.mp3", "17", 'He said "no.\u2028', "2", "", "female_feminine", "Scotland"],
        ["p2", "cv_2.mp3", "18", "Yes", "3", "teens", "", ""],
    )
    speech = us.corpus.manifest(file)
    assert column(speech, "id") == ["cv_1", "cv_2"]
    assert column(speech, "speaker") == ["p1", "p2"]
    assert column(speech, "text") == ['He said "no.\u2028', "Yes"]
    assert column(speech, "sex") == ["F", None]
    assert column(speech, "accent") == ["Scotland", None]
    assert column(speech, "age") == [None, "teens"]
    assert column(speech, "seconds") == pytest.approx([1, 1], abs=0.1)
    write(tmp_path / "clip_durations.tsv", "clip\tduration[ms]", "cv_1.mp3\t1500")
    assert us.corpus.manifest(file).table["seconds"].iloc[0] == 1.5
    write(tmp_path / "clip_durations.tsv", "clip\tduration[ms]", "cv_1.mp3\tlong")
    with pytest.raises(ValueError, match=r"clip_durations\.tsv, line 2: milliseconds is a number"):
        us.corpus.manifest(file)


def test_a_list_of_common_voice_with_mistakes(tmp_path):
    with pytest.raises(ValueError, match=r"validated\.tsv, line 1: expected the columns client_id, path"):
        us.corpus.manifest(common_voice(tmp_path, columns="path text"))
    with pytest.raises(ValueError, match=r"validated\.tsv, line 2: 9 cells for 8 columns"):
        us.corpus.manifest(common_voice(tmp_path, ["p1", "cv_1.mp3", *"1234567"]))
    with pytest.raises(ValueError, match=r"line 2: expected the name of a sound file in the column path"):
        us.corpus.manifest(common_voice(tmp_path, ["p1", "", *"123456"]))
    with pytest.raises(ValueError, match=r"line 2: expected the name of a sound file in the column path"):
        us.corpus.manifest(common_voice(tmp_path, ["p1"]))
    assert column(us.corpus.manifest(common_voice(tmp_path, ["p1", "cv_1.mp3"])), "text") == [None]


def test_cuts_that_lhotse_writes(sounds, monkeypatch):
    lhotse = pytest.importorskip("lhotse")
    monkeypatch.chdir(sounds)
    recordings = lhotse.RecordingSet.from_recordings([lhotse.Recording.from_file(f"sub/{name}.wav") for name in "ab"])
    said = dict(recording_id="a", channel=0, text="one", speaker="anna", gender="F")
    spoken = [lhotse.SupervisionSegment(id=f"s{i}", start=i * 0.5, duration=0.5, **said) for i in range(3)]
    cuts = lhotse.CutSet.from_manifests(recordings, lhotse.SupervisionSet.from_segments(spoken))
    pieces = cuts.trim_to_supervisions()
    pieces.to_file("cuts.jsonl.gz")
    for source in ("cuts.jsonl.gz", pieces):
        speech = us.corpus.manifest(source)
        assert column(speech, "speaker") == ["anna"] * 3
        for waveform, one in zip(speech.batch().waveforms, pieces, strict=True):
            assert np.array_equal(waveform.numpy(), one.load_audio()[0])
    assert column(us.corpus.manifest(cuts), "text") == ["one one one", None]
    with pytest.raises(ValueError, match="MixedCut"):
        us.corpus.manifest(pieces.pad(2.0))
    with pytest.raises(ValueError, match="changed by Speed"):
        us.corpus.manifest(pieces.perturb_speed(1.1))


# Hugging Face's datasets


def encoded(path):
    return {"bytes": path.read_bytes(), "path": path.name}


class Decoder:
    """What torchcodec's AudioDecoder answers."""

    def __init__(self, samples, rate):
        self.data, self.sample_rate = samples, rate

    def get_all_samples(self):
        return self


def test_the_sound_of_a_row_in_each_of_its_forms(sounds):
    path = sounds / "sub" / "b.wav"
    samples, rate = soundfile.read(path, dtype="float32")
    expected = audio.load(path)
    forms = [
        encoded(path),
        {"bytes": None, "path": str(path)},
        {"array": samples, "sampling_rate": rate, "path": None},
        Decoder(torch.tensor(samples)[None], rate),
        str(path),
        path.read_bytes(),
    ]
    for form in forms:
        torch.testing.assert_close(audio.decoded(form), expected, rtol=0, atol=1e-6)
    whole = soundfile.read(sounds / "sub" / "a.wav", dtype="float32")[0]
    assert np.array_equal(audio.decoded({"array": whole, "sampling_rate": 16_000}).numpy(), whole)


@pytest.mark.wrong_types
def test_a_row_without_sound():
    with pytest.raises(ValueError, match="u1 has neither array nor bytes nor path; it has text"):
        audio.decoded({"text": "one"}, "u1")
    with pytest.raises(ValueError, match="u1 is an array without its sampling_rate"):
        audio.decoded({"array": [0.0, 0.1]}, "u1")
    with pytest.raises(TypeError, match="u1 is NoneType; expected a row's audio"):
        audio.decoded(None, "u1")
    with pytest.raises(ValueError, match="u1 could not be read as sound"):
        audio.decoded({"bytes": b"nothing", "path": None}, "u1")
    with pytest.raises(ValueError, match="rows have no column 'who'; they have audio"):
        us.Batch.from_rows({"audio": {"array": [0.0, 0.1], "sampling_rate": 16_000}}, speaker="who")
    with pytest.raises(TypeError, match="a row of a dataset is a mapping .* got int"):
        us.Batch.from_rows([1])


def test_rows_become_a_batch(sounds):
    files = [sounds / "sub" / "a.wav", sounds / "sub" / "b.wav"]
    rows = [{"audio": encoded(file), "who": number, "said": "x", "n": file.stem} for number, file in enumerate(files)]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    expected = us.Batch.from_files(files)
    for given in (rows, iter(rows), columns):
        batch = us.Batch.from_rows(given, id="n", speaker="who", text="said")
        assert batch.ids == ("a", "b")
        assert batch.speakers == ("0", "1")
        assert batch.texts == ("x", "x")
        assert torch.equal(batch.input_values, expected.input_values)
    assert us.Batch.from_rows(rows[0]).ids == ("utterance 0",)
    assert torch.equal(us.Batch.from_rows(rows[1]["audio"]).waveforms[0], expected.waveforms[1])


def test_a_row_or_rows_in_run(sounds, one_model):
    files = [sounds / "sub" / "a.wav", sounds / "sub" / "b.wav"]
    rows = [{"audio": encoded(file), "text": "x"} for file in files]
    expected, _ = us.run(one_model, files, "hidden.1")
    output, trace = us.run(one_model, rows, "hidden.1")
    assert torch.equal(output.last_hidden_state, expected.last_hidden_state)
    assert len(trace.ids) == 2
    output, _ = us.run(one_model, rows[0], "hidden.1")
    alone, _ = us.run(one_model, files[0], "hidden.1")
    assert torch.equal(output.last_hidden_state, alone.last_hidden_state)


class Feature:
    names = None


class Classes(Feature):
    def __init__(self, *names):
        self.names = names


class Table:
    """As much of `datasets.Dataset` as is used, over sounds that are not of the type Audio."""

    def __init__(self, columns, features=None):
        self.columns, self.features = columns, {name: Feature() for name in columns} | (features or {})
        self.column_names = list(columns)

    def with_format(self, kind):
        return self

    def remove_columns(self, names):
        kept = {name: column for name, column in self.columns.items() if name not in names}
        return Table(kept)

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        return {name: column[key] for name, column in self.columns.items()}


def test_a_corpus_of_a_dataset(sounds, one_model, tmp_path):
    files = [sounds / "sub" / "a.wav", sounds / "sub" / "b.wav"]
    broken = {"bytes": b"nothing", "path": None}
    columns = {"sound": [*map(encoded, files), broken], "who": [1, 0, -1], "gender": ["F", "M", None]}
    ds = Table(columns, {"who": Classes("anna", "bert")})
    with pytest.warns(UserWarning, match=r"1 row\(s\) left out"):
        speech = us.corpus.Corpus.from_dataset(ds, "sound", speaker="who", sex="gender")
    assert column(speech, "speaker") == ["bert", "anna"]
    assert column(speech, "sex") == ["F", "M"]
    assert column(speech, "seconds") == [3, 2]
    assert speech.report["path"].tolist() == ["utterance 2"]
    assert "could not be read as sound" in speech.report["reason"][0]
    expected = us.Batch.from_files(files)
    assert torch.equal(speech.batch().input_values, expected.input_values)
    assert speech.batch().paths == (None, None)
    assert torch.equal(speech.where(speaker="anna").batch().waveforms[0], expected.waveforms[1])
    assert torch.equal(speech[[1]].sample(1, seed=0).waveform(0), expected.waveforms[1])
    bank = us.collect(one_model, speech, "hidden.1", folder=tmp_path / "bank")
    assert np.array_equal(bank["hidden.1"], us.collect(one_model, expected, "hidden.1")["hidden.1"])
    us.collect(one_model, speech, "hidden.1", folder=tmp_path / "bank")
    columns["sound"][0] = encoded(files[1])
    with pytest.raises(ValueError, match="sound"):
        us.collect(one_model, speech, "hidden.1", folder=tmp_path / "bank")


def test_lengths_that_a_dataset_knows_are_not_measured(sounds):
    ds = Table({"audio": [None, encoded(sounds / "sub" / "a.wav")], "length": [1.0, 3.0], "name": ["x", "y"]})
    speech = us.corpus.Corpus.from_dataset(ds, id="name", seconds="length")
    assert column(speech, "id") == ["x", "y"]
    assert column(speech, "seconds") == [1, 3]
    assert len(speech.waveform(1)) == 48_000


@pytest.mark.wrong_types
def test_what_is_no_dataset():
    opened = us.corpus.Corpus.from_dataset
    with pytest.raises(TypeError, match=r"there are the splits train, test; pass one of them, ds\['train'\]"):
        opened({"train": 1, "test": 2})
    with pytest.raises(TypeError, match="a generator has no rows to choose from; expected a dataset that is not str"):
        opened(row for row in [])
    with pytest.raises(ValueError, match="there is no column 'who'; there are audio"):
        opened(Table({"audio": []}), speaker="who")
    with pytest.raises(ValueError, match="no sound in the dataset could be read. utterance 0: "):
        opened(Table({"audio": [{"bytes": None, "path": None}]}))
    with pytest.raises(ValueError, match="no sound in the dataset could be read. It is empty"):
        opened(Table({"audio": []}))


@pytest.mark.filterwarnings("default")
def test_a_dataset_of_hugging_face(sounds, one_model):
    datasets = pytest.importorskip("datasets")
    files = [str(sounds / "sub" / "a.wav"), str(sounds / "sub" / "b.wav")]
    stored = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}  # version 4 encodes by torchcodec
    types = {"audio": stored, "who": datasets.ClassLabel(names=["anna", "bert"]), "text": datasets.Value("string")}
    columns = {"who": [1, 0], "text": ["one", "two"]}
    paths = [{"bytes": None, "path": file} for file in files]
    ds = datasets.Dataset.from_dict({"audio": paths, **columns}, datasets.Features(types))
    ds = ds.cast_column("audio", datasets.Audio(sampling_rate=16_000))
    held = datasets.Dataset.from_dict(
        {"audio": [encoded(Path(file)) for file in files], **columns}, datasets.Features(types)
    )
    held.cast_column("audio", datasets.Audio()).to_parquet(sounds / "ds.parquet")
    embedded = datasets.load_dataset("parquet", data_files=str(sounds / "ds.parquet"), split="train", cache_dir=sounds)
    expected = us.Batch.from_files(files)
    for given in (
        ds,
        embedded,
        embedded.with_format("torch"),
        embedded.cast_column("audio", datasets.Audio(decode=False)),
    ):
        speech = us.corpus.Corpus.from_dataset(given, speaker="who", text="text")
        assert column(speech, "speaker") == ["bert", "anna"]
        assert column(speech, "seconds") == [3, 2]
        assert torch.equal(speech.batch().input_values, expected.input_values)
    rows = embedded.cast_column("audio", datasets.Audio(decode=False))
    assert torch.equal(us.Batch.from_rows(rows[:2], text="text").input_values, expected.input_values)
    assert torch.equal(us.Batch.from_rows(rows).input_values, expected.input_values)
    for part in rows.to_iterable_dataset().iter(2):
        assert us.Batch.from_rows(part, text="text").texts == ("one", "two")
    with pytest.raises(TypeError, match="IterableDataset has no rows to choose from"):
        us.corpus.Corpus.from_dataset(rows.to_iterable_dataset())
