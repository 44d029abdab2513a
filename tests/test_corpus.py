"""unisat.corpus: batches of ragged utterances, and folders of speech in five layouts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unisat import audio, corpus, files
from unisat.corpus import Batch, Corpus

RECORDINGS = Path(__file__).parents[2] / "shared" / "speech"
needs_recordings = pytest.mark.skipif(
    not (RECORDINGS / "metadata.csv").exists(), reason="the real recordings are not beside the repository"
)


def write(path, seconds=0.05, rate=16_000, level=0.5):
    """A short noise, another one for every path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(sum(path.name.encode())).uniform(-level, level, round(seconds * rate))
    soundfile.write(path, noise, rate)
    return path


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def column(speech, name):
    return [None if pd.isna(value) else value for value in speech.table[name]]


# Batch


@given(
    st.lists(
        hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1, 1, width=32)).filter(np.ptp),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_padding_holds_each_utterance_and_zeros_behind_it(arrays, do_normalize):
    batch = Batch.from_arrays(arrays, sampling_rate=16_000, do_normalize=do_normalize)
    longest = max(map(len, arrays))
    assert batch.input_values.dtype == torch.float32
    assert batch.input_values.shape == batch.attention_mask.shape == (len(arrays), longest)
    assert batch.lengths.tolist() == [len(array) for array in arrays]
    for array, waveform, row, mask in zip(
        arrays, batch.waveforms, batch.input_values, batch.attention_mask, strict=True
    ):
        alone = audio.normalize(torch.tensor(array)) if do_normalize else torch.tensor(array)
        assert torch.equal(row[: len(array)], alone)
        assert row[len(array) :].tolist() == [0] * (longest - len(array))
        assert mask.tolist() == [1] * len(array) + [0] * (longest - len(array))
        assert torch.equal(waveform, torch.tensor(array))


def test_from_files(tmp_path):
    paths = [write(tmp_path / "a.wav", 0.5), write(tmp_path / "b.flac", 0.25, rate=8_000)]
    batch = Batch.from_files(paths, speaker=["anna", 7], session="monday", text=["hello", None])
    assert batch.ids == ("a", "b")
    assert batch.speakers == ("anna", "7")
    assert batch.sessions == ("monday", "monday")
    assert batch.texts == ("hello", None)
    assert batch.paths == tuple(path.resolve() for path in paths)
    assert batch.seconds.tolist() == [0.5, 0.25]
    assert batch.lengths.tolist() == [8000, 4000]
    assert batch.do_normalize
    for waveform, path in zip(batch.waveforms, paths, strict=True):
        assert torch.equal(waveform, audio.load(path))
    one = Batch.from_files(str(paths[0]), ids="x", do_normalize=False)
    assert (len(one), one.ids, one.speakers, one.do_normalize) == (1, ("x",), (None,), False)


def test_file_names_are_lengthened_until_they_differ(tmp_path):
    same = [write(tmp_path / "anna" / "1.wav"), write(tmp_path / "ben" / "1.wav")]
    assert [Path(name).parts[-2:] for name in Batch.from_files(same).ids] == [("anna", "1"), ("ben", "1")]
    twins = [write(tmp_path / "1.wav"), write(tmp_path / "1.flac")]
    assert [Path(name).name for name in Batch.from_files(twins).ids] == ["1.wav", "1.flac"]


@pytest.mark.parametrize("arrays", [[0.5, -0.25], np.array([0.5, -0.25]), torch.tensor([0.5, -0.25])])
def test_one_array_is_a_batch_of_one(arrays):
    for given_arrays in (arrays, [arrays]):
        batch = Batch.from_arrays(given_arrays, sampling_rate=16_000)
        assert len(batch) == 1
        assert batch.waveforms[0].tolist() == [0.5, -0.25]
        assert batch.ids == ("utterance 0",)
        assert batch.paths == (None,)


def test_array_mistakes_are_refused():
    with pytest.raises(ValueError, match="no sample rate"):
        Batch.from_arrays([np.zeros(4)])
    with pytest.raises(ValueError, match=r"\(2, 4\) may hold utterances or channels; pass list\(array\)"):
        Batch.from_arrays(np.zeros((2, 4)), sampling_rate=16_000)
    with pytest.raises(ValueError, match="at least one utterance"):
        Batch.from_arrays([], sampling_rate=16_000)
    with pytest.raises(ValueError, match="at least one utterance"):
        Batch.from_files([])


@pytest.mark.parametrize("name", ["speaker", "session", "text", "ids"])
def test_each_label_column_has_one_entry_for_each_utterance(name):
    arrays = [np.array([0.1, 0.2]), np.array([0.3, 0.4])]
    with pytest.raises(ValueError, match=r"has 3 entries for 2 utterances"):
        Batch.from_arrays(arrays, sampling_rate=16_000, **{name: ["a", "b", "c"]})


def test_ids_differ():
    arrays = [np.array([0.1, 0.2]), np.array([0.3, 0.4])]
    with pytest.raises(ValueError, match=r"ids must differ, \['a'\] come"):
        Batch.from_arrays(arrays, sampling_rate=16_000, ids=["a", "a"])


def test_silence_is_kept_but_named():
    arrays = [np.zeros(500), np.array([0.1, 0.2]), np.full(30, 0.5)]
    with pytest.warns(UserWarning, match=r"nothing but silence in a, c\."):
        batch = Batch.from_arrays(arrays, sampling_rate=16_000, ids=["a", "b", "c"])
    assert batch.input_values[0].tolist() == [0] * 500


def test_a_part_of_a_batch_keeps_its_labels():
    arrays = [np.array([0.1, 0.2]), np.array([0.3, 0.4, 0.5]), np.array([0.6, 0.7])]
    batch = Batch.from_arrays(arrays, sampling_rate=16_000, speaker=list("xyz"), text=list("uvw"), do_normalize=False)
    picked = batch[[2, 1]]
    assert (picked.speakers, picked.texts, picked.do_normalize) == (("z", "y"), ("w", "v"), False)
    torch.testing.assert_close(picked.input_values, torch.tensor([[0.6, 0.7, 0], [0.3, 0.4, 0.5]]))
    assert batch[-1].ids == ("utterance 2",)
    assert batch[:2].speakers == ("x", "y")
    assert batch[np.array([0, 2])].speakers == batch[torch.tensor([0, 2])].speakers == ("x", "z")
    assert [single.speakers for single in batch] == [("x",), ("y",), ("z",)]
    with pytest.raises(IndexError, match="there are 3 utterances, 0 to 2; got"):
        batch[3]
    with pytest.raises(ValueError, match="True and False"):
        batch[[True, False, True]]
    with pytest.raises(ValueError, match="at least one"):
        batch[:0]


def test_repr_and_table():
    arrays = [np.linspace(0, 1, 8000), np.linspace(0, 1, 24_000)]
    batch = Batch.from_arrays(arrays, sampling_rate=16_000, speaker=["anna", None], text=["hi", None])
    assert repr(batch) == "Batch(utterances=2, speakers=1, seconds=0.50 to 1.50, 2.00 in all)"
    table = batch.table()
    assert list(table) == ["id", "speaker", "session", "seconds", "text"]
    assert table["seconds"].tolist() == [0.5, 1.5]
    assert table["speaker"].tolist()[0] == "anna"
    assert pd.isna(table["speaker"][1])


# folders


def test_metadata(tmp_path):
    write(tmp_path / "x" / "1.wav", 0.5)
    write(tmp_path / "x" / "2.wav", 0.25)
    write_text(
        tmp_path / "metadata.csv",
        'path,speaker,text,loudness,seconds\nx/2.wav,007,NA,0.5,99\nx/1.wav,,"one, two",,99\n',
    )
    speech = corpus.folder(tmp_path)
    assert list(speech.table) == [*corpus.COLUMNS, "loudness"]
    assert column(speech, "path") == [str((tmp_path / "x" / name).resolve()) for name in ("2.wav", "1.wav")]
    assert column(speech, "id") == ["2", "1"]
    assert column(speech, "speaker") == ["007", None]
    assert column(speech, "text") == ["NA", "one, two"]
    assert column(speech, "loudness") == [0.5, None]
    assert column(speech, "seconds") == [0.25, 0.5]
    assert speech.report.empty
    batch = speech.batch()
    assert (batch.speakers, batch.texts, batch.sessions) == (("007", None), ("NA", "one, two"), (None, None))
    assert torch.equal(batch.waveforms[0], audio.load(tmp_path / "x" / "2.wav"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,speaker\na.wav,x\n", "needs a column path.*'file', 'speaker'"),
        ("path,speaker\n", "at least a row"),
        ("", "not a comma-separated table in UTF-8"),
        ("path,speaker\na.wav,x\n,y\na.wav,z\n", r"line\(s\) \[3, 4\]"),
        ("path,text\nb.wav,x\na.wav,well, then\n", r"metadata\.csv is not .* \(line 3 has more than 2 cells\)"),
        ("path,text\na.wav,well, then\nb.wav,so, what\n", r"metadata\.csv is not .* \(line 2 has more than 2 cells\)"),
    ],
)
def test_broken_metadata(tmp_path, content, message):
    write(tmp_path / "a.wav")
    write_text(tmp_path / "metadata.csv", content)
    with pytest.raises(ValueError, match=message):
        corpus.folder(tmp_path)


def test_metadata_saved_by_a_spreadsheet(tmp_path):
    write(tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_text("path,speaker\r\na.wav,Zoë\r\n", encoding="utf-8-sig", newline="")
    assert column(corpus.folder(tmp_path), "speaker") == ["Zoë"]
    (tmp_path / "metadata.csv").write_text("path,speaker\r\na.wav,Zoë\r\n", encoding="utf-16", newline="")
    assert column(corpus.folder(tmp_path), "speaker") == ["Zoë"]
    (tmp_path / "metadata.csv").write_text("path,speaker\r\na.wav,Zoë\r\n", encoding="latin-1")
    with pytest.raises(ValueError, match="in UTF-8"):
        corpus.folder(tmp_path)


@pytest.fixture
def librispeech(tmp_path):
    root = tmp_path / "LibriSpeech" / "dev-clean"
    for name in ("84/121123/84-121123-0001", "84/121123/84-121123-0000", "84/9/84-9-0000", "7/9/7-9-0000"):
        write(root / f"{name}.flac")
    write_text(root / "84/121123/84-121123.trans.txt", "84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT\n")
    write_text(root / "7/9/7-9.trans.txt", "7-9-0000 SEVEN\n")
    write_text(
        tmp_path / "LibriSpeech/SPEAKERS.TXT",
        ";ID  |SEX| SUBSET |MINUTES| NAME\n7  | M | dev-clean | 8.0 | A B\n84   | F | dev-clean | 8.03 | C D\n",
    )
    return root


def test_librispeech(librispeech):
    for place in (librispeech, librispeech.parent, librispeech.parent.parent):
        speech = corpus.folder(place)
        assert column(speech, "id") == ["7-9-0000", "84-121123-0000", "84-121123-0001", "84-9-0000"]
        assert column(speech, "speaker") == ["7", "84", "84", "84"]
        assert column(speech, "session") == ["9", "121123", "121123", "9"]
        assert column(speech, "text") == ["SEVEN", "GO DO YOU HEAR", "BUT", None]
        assert column(speech, "sex") == ["M", "F", "F", "F"]
    assert column(corpus.folder(librispeech / "84" / "121123"), "speaker") == ["84", "84"]


def test_voxceleb(tmp_path):
    for name in ("id10002/vidB/00001.wav", "id10001/vidA/00002.wav", "id10001/vidA/00001.wav"):
        write(tmp_path / "wav" / name)
    (tmp_path / "wav/id10001/vidA/00003.m4a").write_bytes(b"\0\0\0\x18ftypM4A " + bytes(200))
    with pytest.warns(UserWarning, match=r"1 file\(s\) .* left out; see report"):
        speech = corpus.folder(tmp_path)
    assert column(speech, "speaker") == ["id10001", "id10001", "id10002"]
    assert column(speech, "session") == ["vidA", "vidA", "vidB"]
    assert column(speech, "id") == ["wav/id10001/vidA/00001", "wav/id10001/vidA/00002", "wav/id10002/vidB/00001"]
    assert column(speech, "text") == [None, None, None]
    assert [Path(path).name for path in speech.report["path"]] == ["00003.m4a"]
    assert "ffmpeg" in speech.report["reason"][0]


@pytest.mark.parametrize(
    ("wav", "microphones", "ending", "prefix"),
    [("wav48", [""], "wav", ""), ("wav48_silence_trimmed", ["_mic1", "_mic2"], "flac", "p")],
)
def test_vctk(tmp_path, wav, microphones, ending, prefix):
    for microphone in microphones:
        write(tmp_path / wav / "p225" / f"p225_001{microphone}.{ending}")
        write(tmp_path / wav / "p226" / f"p226_003{microphone}.{ending}")
    write_text(tmp_path / "txt/p225/p225_001.txt", "Please call Stella.\n")
    write_text(
        tmp_path / "speaker-info.txt",
        f"ID  AGE  GENDER  ACCENTS  REGION\n{prefix}225  23  F    English    Southern  England\n"
        f"{prefix}226  22  M    English    Surrey\n",
    )
    speech = corpus.folder(tmp_path)
    each = len(microphones)
    assert column(speech, "id") == [
        f"{name}{microphone}" for name in ("p225_001", "p226_003") for microphone in microphones
    ]
    assert column(speech, "speaker") == ["p225"] * each + ["p226"] * each
    assert column(speech, "sex") == ["F"] * each + ["M"] * each
    assert column(speech, "accent") == ["English"] * 2 * each
    assert column(speech, "text") == ["Please call Stella."] * each + [None] * each
    assert column(speech, "microphone") == [microphone[1:] or None for microphone in microphones] * 2


LAYOUTS = {
    "libritts": (
        {
            "train-clean-100/84/121/84_121_000007_000001.normalized.txt": "Good day.\n",
            "speakers.tsv": "READER\tGENDER\tSUBSET\tNAME\n84\tF\ttrain-clean-100\tA B\n",
        },
        {
            "train-clean-100/84/121/84_121_000007_000001.wav": ("84", "121", "Good day.", "F"),
            "dev-clean/174/5/174_5_000005_000000.wav": ("174", "5", None, None),
        },
    ),
    "mls": (
        {
            "train/transcripts.txt": "10148_10119_000000\tguten tag\n",
            "metainfo.txt": "SPEAKER | GENDER | PARTITION\n 10148 |   M    | train\n",
        },
        {
            "train/audio/10148/10119/10148_10119_000000.flac": ("10148", "10119", "guten tag", "M"),
            "train/audio/10148/10120/10148_10120_000000.flac": ("10148", "10120", None, "M"),
            "dev/audio/1024/11/1024_11_000000.flac": ("1024", "11", None, None),
        },
    ),
    "timit": (
        {"TRAIN/DR1/FCJF0/SA1.TXT": "0 46797 She had your dark suit\n"},
        {
            "TRAIN/DR1/FCJF0/SA1.WAV": ("FCJF0", None, "She had your dark suit", "F"),
            "TEST/DR2/MABC0/SX9.WAV": ("MABC0", None, None, "M"),
            "TEST/DR2/MABC0/SI9.WAV.wav": ("MABC0", None, None, "M"),
        },
    ),
    "aishell": (
        {
            "transcript/aishell_transcript_v0.8.txt": "BAC009S0002W0122 而 对\n",
            "speaker.info": "0002 F\n",
        },
        {
            "wav/train/S0002/BAC009S0002W0122.wav": ("S0002", None, "而 对", "F"),
            "wav/test/S0764/BAC009S0764W0121.wav": ("S0764", None, None, None),
        },
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_have_the_right_speakers(tmp_path, layout):
    texts, sounds = LAYOUTS[layout]
    for name, text in texts.items():
        write_text(tmp_path / name, text)
    for name in sounds:
        write(tmp_path / "sound.wav" if name.isupper() else tmp_path / name)
        if name.isupper():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "sound.wav").rename(tmp_path / name)
    speech = corpus.folder(tmp_path)
    found = zip(*(column(speech, name) for name in ("path", "speaker", "session", "text", "sex")), strict=True)
    assert {path: tuple(labels) for path, *labels in found} == {str(tmp_path / k): v for k, v in sounds.items()}
    if layout == "timit":
        assert set(zip(column(speech, "accent"), column(speech, "sentence"), strict=True)) == {
            ("DR1", "SA1"),
            ("DR2", "SX9"),
            ("DR2", "SI9"),
        }


@pytest.mark.parametrize(
    "names",
    [
        ("train/anna/1.wav", "train/ben/1.wav", "test/cleo/1.wav"),
        ("wavs/LJ001-0001.wav", "wavs/LJ001-0002.wav"),
        ("Corpus/anna/1.wav", "Corpus/ben/1.wav"),
        ("clips/a.wav", "anna/1.wav"),
    ],
)
def test_where_folders_are_no_speakers_nobody_s_name_is_guessed(tmp_path, names):
    for name in names:
        write(tmp_path / name)
    with pytest.warns(
        UserWarning, match=r"is laid out in no way that is known, and its folders \(\w+.* pass layout='fold"
    ):
        speech = corpus.folder(tmp_path)
    assert column(speech, "speaker") == [None] * len(names)
    assert None not in column(corpus.folder(tmp_path, layout="folders"), "speaker")


def test_speakers_whose_names_are_like_those_of_parts(tmp_path):
    for name in ("Devon/1.wav", "Valentina/1.wav", "testa/1.wav"):
        write(tmp_path / name)
    assert column(corpus.folder(tmp_path), "speaker") == ["Devon", "Valentina", "testa"]


def test_the_layout_is_that_of_most_files(tmp_path):
    for name in ("anna/1.wav", "ben/1.wav", "id10001/vid/00001.wav"):
        write(tmp_path / name)
    assert column(corpus.folder(tmp_path), "speaker") == ["anna", "ben", "id10001"]


def test_links_are_followed_and_keep_their_names(tmp_path):
    """Folders that link to a store, files that link to names of hashes, and links in circles."""
    root = tmp_path / "view"
    root.mkdir()
    for hashed, name in (("store/anna/1.wav", "anna"), ("blobs/9f2c", "ben/1.wav")):
        write(tmp_path / "sound.wav")
        (tmp_path / hashed).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sound.wav").rename(tmp_path / hashed)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(tmp_path / (hashed if name.endswith("wav") else "store/anna"))
    (root / "ben" / "circle").symlink_to(root)
    (root / "ben" / "itself.wav").symlink_to("itself.wav")
    with pytest.warns(UserWarning, match="1 file"):
        speech = corpus.folder(root)
    assert column(speech, "path") == [str(root / "anna/1.wav"), str(root / "ben/1.wav")]
    assert column(speech, "speaker") == ["anna", "ben"]
    assert Batch.from_files(root / "ben/1.wav").paths == (root / "ben/1.wav",)
    (tmp_path / "alias").symlink_to(root)
    write_text(root / "metadata.csv", "path\nben/1.wav\n")
    assert column(corpus.folder(tmp_path / "alias"), "path") == [str(tmp_path / "alias" / "ben/1.wav")]


def test_a_name_that_is_not_in_utf_8_is_read(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "anna" / f"{name}.wav")
    for name in (b"anna/b.wav", b"anna"):
        os.rename(os.path.join(os.fsencode(tmp_path), name), os.path.join(os.fsencode(tmp_path), name + b"\xe9.wav"))
    speech = corpus.folder(tmp_path)
    assert column(speech, "id") == ["a", "b.wav\\xe9"]
    assert set(column(speech, "speaker")) == {"anna\\xe9.wav"}
    assert len(speech.batch()) == 2
    os.truncate(speech.table["path"][1], 10)
    with pytest.warns(UserWarning, match="1 file"):
        assert len(corpus.folder(tmp_path).report) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_reported(tmp_path):
    write(tmp_path / "anna" / "1.wav")
    write(tmp_path / "ben" / "1.wav")
    (tmp_path / "ben").chmod(0)
    with pytest.warns(UserWarning, match="1 file"):
        assert "could not be listed" in corpus.folder(tmp_path).report["reason"][0]


def test_folder_per_speaker(tmp_path):
    for name in ("ben/1.WAV", "anna/monday/am/1.flac", "anna/2.ogg", "anna/1.mp3", "anna/.hidden.wav", "loose.wav"):
        write(tmp_path / name)
    write_text(tmp_path / "anna" / "notes.txt", "not sound")
    speech = corpus.folder(tmp_path)
    found = list(zip(column(speech, "id"), column(speech, "speaker"), column(speech, "session"), strict=True))
    assert found == [
        ("anna/1", "anna", None),
        ("anna/2", "anna", None),
        ("anna/monday/am/1", "anna", "monday/am"),
        ("ben/1", "ben", None),
        ("loose", None, None),
    ]


def test_a_layout_can_be_forced(librispeech):
    speech = corpus.folder(librispeech, layout="folders")
    assert column(speech, "text") == [None] * 4
    with pytest.raises(ValueError, match=r"no file under .* fits the layout 'vctk': wav48/p225"):
        corpus.folder(librispeech, layout="vctk")
    with pytest.raises(
        ValueError, match=r"layout must be 'auto' or one of metadata, kaldi, librispeech, .*got 'tedlium'"
    ):
        corpus.folder(librispeech, layout="tedlium")
    with pytest.raises(FileNotFoundError, match=r"no .*metadata\.csv"):
        corpus.folder(librispeech, layout="metadata")


def test_a_stray_file_does_not_change_the_layout(librispeech):
    write(librispeech / "jingle.wav")
    with pytest.warns(UserWarning, match="left out"):
        speech = corpus.folder(librispeech)
    assert len(speech) == 4
    assert "does not fit the layout 'librispeech'" in speech.report["reason"][0]


def test_folders_without_speech(tmp_path):
    with pytest.raises(ValueError, match=r"no sound file \(.*\.wav, .*\) under"):
        corpus.folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        corpus.folder(tmp_path / "away")
    with pytest.raises(ValueError, match="is a file, expected a folder"):
        corpus.folder(write(tmp_path / "a.wav"))
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(ValueError, match=r"no sound file in .* could be read\. .*a\.wav could not be read"):
        corpus.folder(tmp_path)


@pytest.mark.parametrize("row", [".", "..", "a\0.wav", "x" * 5000 + ".wav", "/dev/ptmx", "pipe.wav"])
def test_a_row_that_is_no_file_does_not_cost_the_others(tmp_path, row):
    write(tmp_path / "a.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    write_text(tmp_path / "metadata.csv", f"path\na.wav\n{row}\n")
    with pytest.warns(UserWarning, match=r"1 file\(s\)"):
        speech = corpus.folder(tmp_path)
    assert column(speech, "id") == ["a"]


def test_one_broken_file_does_not_cost_the_others(tmp_path):
    for name in ("anna/1.wav", "anna/2.wav", "ben/1.wav"):
        write(tmp_path / name)
    (tmp_path / "anna/3.wav").write_bytes(b"not sound")
    (tmp_path / "ben/2.flac").write_bytes(b"")
    soundfile.write(tmp_path / "ben/3.wav", np.zeros(0), 16_000)
    with pytest.warns(UserWarning, match=r"3 file\(s\)"):
        speech = corpus.folder(tmp_path)
    assert column(speech, "id") == ["anna/1", "anna/2", "ben/1"]
    assert [Path(path).name for path in speech.report["path"]] == ["3.wav", "2.flac", "3.wav"]
    assert "holds no samples" in speech.report["reason"][2]
    assert len(speech.batch()) == 3


def test_the_built_in_speech_of_an_installed_package(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "__file__", str(tmp_path / "unisat" / "files.py"))
    with pytest.raises(FileNotFoundError, match=r"the speech that comes with unisat \(speech\) is missing"):
        corpus.builtin()
    write(tmp_path / "unisat" / "speech" / "v01" / "a.wav")
    write_text(tmp_path / "unisat" / "speech" / "metadata.csv", "path,speaker\nv01/a.wav,v01\n")
    assert column(corpus.builtin(), "path") == [str((tmp_path / "unisat/speech/v01/a.wav").resolve())]


# Corpus


@pytest.fixture
def speech(tmp_path):
    for speaker in ("anna", "ben", "cleo"):
        for number in range(3):
            write(tmp_path / speaker / f"{number}.wav", 0.1 + 0.05 * number)
    return corpus.folder(tmp_path)


def test_where(speech):
    assert column(speech.where(speaker="ben"), "id") == ["ben/0", "ben/1", "ben/2"]
    assert column(speech.where(speaker=["cleo", "anna"], id=["anna/2", "cleo/0", "ben/0"]), "id") == [
        "anna/2",
        "cleo/0",
    ]
    assert len(speech) == 9
    with pytest.raises(ValueError, match="there is no column 'speakr'; there are path, id, speaker"):
        speech.where(speakr="ben")
    with pytest.raises(ValueError, match=r"no utterance fits .*'speaker': 'bob'.* one of: anna, ben, cleo"):
        speech.where(speaker="bob")
    assert len(speech.where(session=None)) == 9


def test_sample_depends_on_the_seed_alone(speech):
    state = torch.random.get_rng_state()
    draws = [column(speech.sample(4, seed=seed), "id") for seed in range(20)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert column(speech.sample(4, seed=3), "id") == draws[3]
    assert len({tuple(draw) for draw in draws}) > 10
    assert all(draw == sorted(set(draw)) and len(draw) == 4 for draw in draws)
    assert set().union(*draws) == set(column(speech, "id"))
    for count in (0, 10):
        with pytest.raises(ValueError, match="ask for 1 to 9"):
            speech.sample(count, seed=0)


def test_batches_cover_the_corpus_in_order(speech):
    assert [batch.ids for batch in speech.batches(4)] == [
        tuple(column(speech, "id")[start : start + 4]) for start in (0, 4, 8)
    ]
    assert speech.batch([8, 0]).ids == ("cleo/2", "anna/0")
    assert speech.batch(-1).ids == ("cleo/2",)
    assert speech.batch(slice(1, 3), do_normalize=False).do_normalize is False
    assert speech.batch(1).seconds.tolist() == [speech.table["seconds"][1]] == [0.15]
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        speech.batches(0)
    with pytest.raises(IndexError, match="there are 9 utterances"):
        speech.batch(9)
    for nothing in ([], slice(0)):
        with pytest.raises(ValueError, match="choose at least one of 9"):
            speech.batch(nothing)


def test_a_file_that_breaks_later_is_left_out_and_reported(speech):
    Path(speech.table["path"][1]).write_bytes(b"gone bad")
    Path(speech.table["path"][2]).unlink()
    subset = speech.where(speaker="anna")
    with pytest.warns(UserWarning, match="left out") as caught:
        batch = subset.batch()
    assert len(caught) == 2
    assert batch.ids == ("anna/0",)
    for reported in (speech.report, subset.report):
        assert [Path(path).name for path in reported["path"]] == ["1.wav", "2.wav"]
        assert "does not exist" in reported["reason"][1]
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match=r"none of the 2 .*1\.wav could not"),
    ):
        subset.batch([1, 2])
    with pytest.warns(UserWarning, match="left out"):
        assert [batch.ids[0] for batch in subset.batches(1)] == ["anna/0"]


def test_a_table_of_ones_own(speech, tmp_path):
    table = speech.table[["path", "id"]].assign(mood="calm")
    own = Corpus(table)
    assert list(own.table) == [*corpus.COLUMNS, "mood"]
    assert list(table) == ["path", "id", "mood"]
    assert own.batch(0).speakers == (None,)
    assert repr(speech) == "Corpus(utterances=9, speakers=3, minutes=0.0, unreadable=0)"
    with pytest.raises(ValueError, match=r"needs the column\(s\) \['id'\]"):
        Corpus(table[["path"]])
    with pytest.raises(ValueError, match="ids must differ"):
        Corpus(pd.concat([table, table]))
    with pytest.raises(ValueError, match="empty table"):
        Corpus(table[:0])
    with pytest.raises(ValueError, match="1 of 9 ids are empty"):
        Corpus(table.assign(id=[None, *table["id"][1:]]))


# real recordings


@needs_recordings
def test_every_real_recording_is_found():
    truth = pd.read_csv(RECORDINGS / "metadata.csv", dtype=str, keep_default_na=False)
    speech = corpus.folder(RECORDINGS)
    assert len(speech) == len(truth) > 1000
    assert speech.report.empty
    assert set(speech.table["speaker"]) == set(truth["speaker"])
    assert column(speech, "text") == [text or None for text in truth["text"]]
    np.testing.assert_allclose(speech.table["seconds"], truth["seconds"].astype(float), atol=1e-3)
    women = speech.where(sex="F", split="unseen")
    assert len(women) == ((truth["sex"] == "F") & (truth["split"] == "unseen")).sum() > 0


@needs_recordings
def test_real_recordings_decode_to_their_length():
    speech = corpus.folder(RECORDINGS).sample(20, seed=0)
    batch = speech.batch()
    np.testing.assert_allclose(batch.seconds, speech.table["seconds"], atol=1 / 16_000)
    assert batch.speakers == tuple(speech.table["speaker"])
    for row, samples in zip(batch.input_values, batch.lengths, strict=True):
        assert abs(row[:samples].mean()) < 1e-5
        assert row[:samples].std(unbiased=False) == pytest.approx(1, abs=1e-3)


@needs_recordings
def test_a_real_folder_of_speakers_without_its_table():
    speech = corpus.folder(RECORDINGS / "pool", layout="folders")
    truth = pd.read_csv(RECORDINGS / "pool" / "metadata.csv", dtype=str)
    assert set(zip(speech.table["speaker"], speech.table["id"], strict=True)) == {
        (speaker, Path(path).stem) for speaker, path in zip(truth["speaker"], truth["path"], strict=True)
    }


# several utterances in one file


@pytest.fixture
def long_file(tmp_path):
    """A file of 3 s at 16 kHz, its samples, and a corpus of two pieces of it and of the whole file."""
    path = write(tmp_path / "long.wav", 3.0)
    table = pd.DataFrame({"path": [str(path)] * 3, "id": ["a", "b", "c"], "start": [0.5, 2.0, None]})
    return path, audio.load(path), Corpus(table.assign(end=[1.25, None, None], speaker=["x", "y", "z"], seconds=None))


@pytest.mark.parametrize(("ending", "slack"), [("wav", 0), ("flac", 0), ("ogg", 1e-3), ("mp3", 0)])
def test_a_piece_is_that_part_of_its_file(tmp_path, ending, slack):
    path = write(tmp_path / f"a.{ending}", 4.0, level=0.1)
    whole = audio.load(path)
    torch.testing.assert_close(audio.load(path, start=1.5, end=2.0), whole[24_000:32_000], rtol=0, atol=slack)
    torch.testing.assert_close(audio.load(path, start=3.25), whole[52_000:], rtol=0, atol=slack)
    assert torch.equal(audio.load(path, end=0.5), whole[:8_000])
    assert audio.duration(path, start=1.5, end=2.25) == 0.75
    assert audio.duration(path, start=1) == 3


def test_a_piece_of_a_file_of_another_rate(tmp_path):
    path = tmp_path / "slow.wav"
    soundfile.write(path, np.sin(np.arange(16_000) / 10), 8_000)
    piece = audio.load(path, start=0.5, end=1.5)
    assert len(piece) == 16_000
    assert (piece - audio.load(path)[8_000:24_000])[200:-200].abs().max() < 1e-3


def test_an_end_a_little_behind_the_file_is_the_file_s(long_file):
    path, whole, _ = long_file
    assert torch.equal(audio.load(path, start=2, end=3.25), whole[32_000:])
    assert audio.duration(path, start=2, end=3.25) == 1
    for start, end in [(3, 4), (0, 4), (2, 2), (-1, 2), (5, None)]:
        with pytest.raises(ValueError, match=r"long\.wav lasts 3 s and has no part from .* correct start and end"):
            audio.load(path, start=start, end=end)


def test_pieces_of_one_file_in_a_batch(long_file):
    _, whole, speech = long_file
    batch = speech.batch()
    for waveform, (start, end) in zip(batch.waveforms, [(8_000, 20_000), (32_000, 48_000), (0, 48_000)], strict=True):
        assert torch.equal(waveform, whole[start:end])
    assert torch.equal(speech.where(speaker="y").waveform(0), whole[32_000:])
    assert torch.equal(speech[1:].batch(0).waveforms[0], whole[32_000:])
    assert speech.table["seconds"].iloc[0] == 0.75


def test_a_piece_that_is_not_there_leaves_out_only_itself(long_file):
    _, _, speech = long_file
    speech.table.loc[1, ["start", "end"]] = 7.0, 8.0
    with pytest.warns(UserWarning, match="left out: .*from 7 to 8 s"):
        assert speech.batch().ids == ("a", "c")
    assert speech.report["path"].tolist() == ["b"]
    with pytest.warns(UserWarning, match="from 7"), pytest.raises(ValueError, match="none of the 1 utterance"):
        speech.batch(1)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"start": [-1.0]}, "start of utterance 'a' is '-1.0'; expected seconds"),
        ({"start": [1.0], "end": [1.0]}, "utterance 'a' ends at 1 s, not behind its start"),
        ({"end": [0.0]}, "'a' ends at 0 s"),
        ({"end": ["soon"]}, "end of utterance 'a' is 'soon'"),
        ({"start": [np.inf]}, "start of utterance 'a' is 'inf'"),
    ],
)
def test_times_that_cannot_be(times, message):
    with pytest.raises(ValueError, match=message):
        Corpus(pd.DataFrame({"path": ["a.wav"], "id": ["a"], **times}))


def test_pieces_in_a_metadata_table(tmp_path):
    write(tmp_path / "sub" / "long.wav", 3.0)
    lines = ["path,start,end,speaker", "sub/long.wav,0.5,1.25,x", "sub/long.wav,2,,y", "sub/long.wav,9,10,z"]
    write_text(tmp_path / "metadata.csv", "\n".join(lines))
    with pytest.warns(UserWarning, match="1 file"):
        speech = corpus.folder(tmp_path)
    assert speech.table["id"].tolist() == ["long-0.5", "long-2"]
    assert speech.table["seconds"].tolist() == [0.75, 1.0]
    assert speech.report["path"].tolist() == ["long-9"]
    write_text(tmp_path / "metadata.csv", "\n".join([*lines[:2], lines[1]]))
    with pytest.raises(ValueError, match=r"different path in each row; see line\(s\) \[3\]"):
        corpus.folder(tmp_path)
