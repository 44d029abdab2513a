"""Lists of speech that other tools write: Kaldi, lhotse, NeMo, Common Voice."""

import gzip
import json

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
    lines = [nemo(), nemo(offset=1.5), nemo(audio_filepath="sub/b.wav", offset=None, duration=None, speaker=None)]
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
