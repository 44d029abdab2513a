"""data/speech: the built-in set is what data/README.md and its table say, and its voices differ."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unisat import corpus

pytestmark = pytest.mark.runs_once

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def speech():
    return corpus.builtin()


@pytest.fixture(scope="module")
def batch(speech):
    return speech.batch(do_normalize=False)


@pytest.fixture(scope="module")
def make_speech():
    spec = importlib.util.spec_from_file_location("make_speech", ROOT / "data" / "make_speech.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_voice_says_every_sentence_once(speech):
    table = speech.table
    pairs = Counter(zip(table["speaker"], table["sentence"], strict=True))
    speakers, sentences = set(table["speaker"]), set(table["sentence"])
    assert len(speakers) >= 24
    assert len(sentences) >= 12
    assert pairs == {(speaker, sentence): 1 for speaker in speakers for sentence in sentences}
    assert (table.groupby("sentence")["text"].nunique() == 1).all()
    assert table["text"].nunique() == len(sentences)
    assert (table.groupby("speaker")[["voice", "sex", "accent", "pitch", "speed"]].nunique() == 1).all(axis=None)


def test_voices_are_balanced_and_none_is_used_twice(speech):
    voices = speech.table.drop_duplicates("speaker")
    assert voices["sex"].value_counts().to_dict() == {"F": 12, "M": 12}
    assert set(voices.groupby(["accent", "sex"]).size()) == {2}
    variants = voices["voice"].str.split("+").str[1]
    assert variants.is_unique
    assert not variants.str.contains("whisper|croak").any()
    assert not voices[["pitch", "speed"]].duplicated().any()


def test_sentences_share_words(speech):
    words = Counter(word for text in speech.table["text"].unique() for word in set(text.lower().strip(".").split()))
    content = {word for word, count in words.items() if count > 1 and len(word) > 4}
    assert {"judge", "garden", "river", "quiet", "seven", "thursday", "yellow"} <= content


def test_the_table_lists_the_files_that_are_there(speech):
    folder = ROOT / "data" / "speech"
    assert sorted(map(Path, speech.table["path"])) == sorted(folder.rglob("*.opus"))
    assert speech.report.empty
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 8e6


def test_every_file_is_audible_16_khz_mono_of_the_length_in_the_table(speech, batch):
    written = {}
    for line in (ROOT / "data" / "speech" / "metadata.csv").read_text(encoding="utf-8").splitlines()[1:]:
        written[line.split(",")[0]] = float(line.rsplit(",", 1)[1])
    assert len(written) == len(speech)
    for path, waveform in zip(batch.paths, batch.waveforms, strict=True):
        about = soundfile.info(path)
        assert (about.samplerate, about.channels, about.subtype) == (16_000, 1, "OPUS")
        assert len(waveform) == about.frames == round(written[f"{path.parent.name}/{path.name}"] * 16_000)
        assert 2 <= len(waveform) / 16_000 <= 4
        assert 0.03 < waveform.square().mean().sqrt() < 0.2
        assert 0.3 < waveform.abs().max() < 0.8


def mean_log_spectrum(waveform):
    """Mean over the louder frames of 32 ms of the log power in 32 bands, apart from loudness."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform.numpy(), 512)[::256]
    frames = frames[frames.std(axis=1) > 0.1 * waveform.std().item()]
    power = np.abs(np.fft.rfft(frames * np.hanning(512))[:, :256]) ** 2
    bands = np.log(power.reshape(len(frames), 32, 8).sum(-1) + 1e-6).mean(0)
    return bands - bands.mean()


def test_voices_differ_more_than_sentences(speech, batch):
    spectra = np.stack([mean_log_spectrum(waveform) for waveform in batch.waveforms])
    speaker = speech.table["speaker"].to_numpy(dtype=object)
    distance = np.linalg.norm(spectra[:, None] - spectra[None], axis=-1)
    same = speaker[:, None] == speaker[None]
    others = ~np.eye(len(speaker), dtype=bool)
    assert distance[same & others].mean() < 0.5 * distance[~same].mean()
    # and no two voices are one: each utterance's nearest neighbour nearly always has its own voice
    nearest = np.where(others, distance, np.inf).argmin(axis=1)
    assert (speaker[nearest] == speaker).mean() > 0.9
    assert min(Counter(speaker[speaker[nearest] == speaker]).values()) > 6


def test_the_script_declares_what_the_table_says(speech, make_speech):
    table = speech.table.drop_duplicates("speaker")
    assert [f"{voice.accent}+{voice.variant}" for voice in make_speech.VOICES] == table["voice"].tolist()
    assert [voice.pitch for voice in make_speech.VOICES] == table["pitch"].tolist()
    assert speech.table["text"][: len(make_speech.SENTENCES)].tolist() == make_speech.SENTENCES


def test_written_opus_is_the_same_every_time_and_nothing_is_lost(make_speech, tmp_path):
    samples = 0.3 * np.sin(np.arange(20_001) * 0.2)
    assert make_speech.write_opus(tmp_path / "a.opus", samples, serial=7) == len(samples)
    assert make_speech.write_opus(tmp_path / "b.opus", samples, serial=7) == len(samples)
    assert (tmp_path / "a.opus").read_bytes() == (tmp_path / "b.opus").read_bytes()
    # a page with a wrong checksum would be dropped by the decoder
    decoded, _ = soundfile.read(tmp_path / "a.opus")
    assert np.corrcoef(decoded, samples)[0, 1] > 0.99


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_the_script_still_says_what_lies_in_the_repository(make_speech, speech, batch, tmp_path):
    version = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True, check=True).stdout
    if "1.51" not in version:
        pytest.skip("another espeak-ng than the one that made the set")
    voice = make_speech.VOICES[-1]
    samples = make_speech.say(voice, make_speech.SENTENCES[0], tmp_path)
    stored = batch.waveforms[speech.table.index[speech.table["id"] == f"v{len(make_speech.VOICES)}_s01"][0]].numpy()
    assert len(samples) == len(stored)
    assert np.corrcoef(samples, stored)[0, 1] > 0.95
