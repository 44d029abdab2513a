"""unisat.audio: files and arrays become mono 16 kHz waveforms, or a sentence that says why not."""

from __future__ import annotations

import io
import math
import os
import re
from contextlib import nullcontext

import numpy as np
import pytest
import soundfile
import torch
from conftest import ANNEX, POINTER
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unisat import audio


def sine(hertz, rate, seconds=1.0, peak=0.5):
    return peak * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def loudest_hertz(waveform, rate=16_000):
    spectrum = np.abs(np.fft.rfft(np.asarray(waveform) * np.hanning(len(waveform))))
    return spectrum.argmax() * rate / len(waveform)


@pytest.fixture
def ramp():
    """400 different 16-bit samples, both ends of the scale among them."""
    return np.linspace(-(2**15), 2**15 - 1, 400).round().astype(np.int16)


# files


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_lossless_files_give_the_samples_divided_by_full_scale(tmp_path, ramp, ending):
    path = tmp_path / f"ramp.{ending}"
    soundfile.write(path, ramp, 16_000, subtype="PCM_16")
    waveform = audio.load(path)
    assert waveform.dtype == torch.float32
    assert waveform.tolist() == [int(sample) / 32768 for sample in ramp]


def test_path_bytes_and_open_files_give_the_same(tmp_path, ramp):
    path = tmp_path / "ramp.wav"
    soundfile.write(path, ramp, 16_000)
    content = path.read_bytes()
    for source in (str(path), content, bytearray(content), memoryview(content), io.BytesIO(content)):
        assert audio.load(source).tolist() == [int(sample) / 32768 for sample in ramp]
    with path.open("rb") as file:
        assert len(audio.load(file)) == len(ramp)


def test_nothing_is_clipped_or_made_louder(tmp_path):
    samples = np.array([0.0, 1.5, -2.0, 0.001], dtype=np.float32)
    soundfile.write(tmp_path / "loud.wav", samples, 16_000, subtype="FLOAT")
    assert audio.load(tmp_path / "loud.wav").tolist() == samples.tolist()


def test_channels_are_averaged_with_a_warning_that_names_the_file(tmp_path):
    stereo = np.array([[0.5, 0.25], [-0.5, 0.0], [0.125, -0.125]])
    soundfile.write(tmp_path / "two.wav", stereo, 16_000, subtype="FLOAT")
    with pytest.warns(UserWarning, match=r"two\.wav has 2 channels"):
        waveform = audio.load(tmp_path / "two.wav")
    assert waveform.tolist() == [0.375, -0.25, 0.0]


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_another_rate_keeps_pitch_loudness_and_length(tmp_path, rate):
    soundfile.write(tmp_path / "sine.wav", sine(1000, rate), rate, subtype="FLOAT")
    waveform = audio.load(tmp_path / "sine.wav")
    assert len(waveform) == 16_000
    assert loudest_hertz(waveform) == 1000
    middle = waveform[4000:12_000]
    torch.testing.assert_close(middle, torch.tensor(sine(1000, 16_000)[4000:12_000]).float(), atol=1e-4, rtol=0)


def test_what_16_khz_cannot_hold_is_filtered_away():
    assert audio.resample(sine(10_000, 48_000), 48_000).abs().max() < 0.5
    assert audio.resample(sine(10_000, 48_000), 48_000)[2000:-2000].abs().max() < 1e-4


def test_broken_files_say_what_to_do(tmp_path, ramp):
    soundfile.write(tmp_path / "good.wav", ramp, 16_000)
    soundfile.write(tmp_path / "good.flac", ramp, 16_000)
    broken = {
        "noise.wav": (b"this is not sound" * 50, "could not be read as sound .*ffmpeg"),
        "pointer.wav": (POINTER, "run git lfs pull"),
        "annex.wav": (ANNEX, "run git annex get"),
        "nothing.wav": (b"", "could not be read as sound"),
        "cut.wav": ((tmp_path / "good.wav").read_bytes()[:44], "holds no samples"),
        "cut.flac": ((tmp_path / "good.flac").read_bytes()[:-300], r"could not be read as sound \("),
        "headerless.raw": (b"12345678", "could not be read as sound"),
    }
    for name, (content, message) in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(name) + ".*" + message):
            audio.load(tmp_path / name)


@pytest.mark.parametrize("claim", [0, 2**36 - 1, 60_000_000_000])
def test_a_header_that_does_not_say_how_long_the_sound_is_is_not_believed(tmp_path, ramp, claim):
    path = tmp_path / "stream.flac"
    soundfile.write(path, ramp, 16_000)
    content = bytearray(path.read_bytes())
    # STREAMINFO: the 36 bits of the number of samples, 0 for unknown
    content[21] = content[21] & 0xF0 | claim >> 32
    content[22:26] = (claim & (2**32 - 1)).to_bytes(4, "big")
    path.write_bytes(content)
    assert audio.load(path).tolist() == [int(sample) / 32768 for sample in ramp]
    assert audio.duration(path) == 400 / 16_000


@pytest.mark.parametrize("says", [0, 200, 1_000_000, 2**32 - 1])
def test_of_an_unfinished_wav_all_that_follows_is_read(tmp_path, says):
    """A recorder that is killed leaves the size that it wrote at the beginning, or some time later."""
    path = tmp_path / "killed.wav"
    samples = np.random.default_rng(0).uniform(-1, 1, 4000).astype(np.float32)
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = says.to_bytes(4, "little")
    path.write_bytes(content)
    short = says < 4 * 4000
    with (
        pytest.warns(UserWarning, match=f"killed.wav says .* {says} bytes .* 16,000 follow") if short else nullcontext()
    ):
        assert audio.load(path).tolist() == samples.tolist()
    with pytest.warns(UserWarning, match="reading all of them") if short else nullcontext():
        assert audio.duration(path) == 0.25


def test_what_lies_behind_the_samples_is_no_sound(tmp_path, ramp):
    path = tmp_path / "with_notes.wav"
    soundfile.write(path, ramp, 16_000)
    with path.open("ab") as file:
        file.write(b"LIST\x04\x00\x00\x00INFO" + b"ID3 \xff\xff\xff\xff cut off")
    assert len(audio.load(path)) == len(ramp)
    soundfile.write(tmp_path / "nothing.wav", ramp[:0], 16_000)
    (tmp_path / "nothing.wav").write_bytes((tmp_path / "nothing.wav").read_bytes() + b"LIST\x04\x00\x00\x00INFO")
    with pytest.raises(ValueError, match=r"nothing\.wav holds no samples; record"):
        audio.load(tmp_path / "nothing.wav")


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_chained_ogg_is_read_to_its_end(tmp_path, subtype):
    links = []
    for hertz, rate in ((400, 16_000), (800, 16_000), (1200, 48_000)):
        soundfile.write(tmp_path / "link.ogg", sine(hertz, rate, 0.5), rate, format="OGG", subtype=subtype)
        links.append((tmp_path / "link.ogg").read_bytes())
    (tmp_path / "chain.ogg").write_bytes(b"".join(links))
    waveform = audio.load(tmp_path / "chain.ogg")
    assert torch.equal(waveform, torch.cat([audio.load(link) for link in links]))
    assert audio.duration(tmp_path / "chain.ogg") == 1.5
    assert [round(loudest_hertz(part)) for part in waveform.split(8000)] == [400, 800, 1200]


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "GSM610"), ("AU", "G721_32"), ("AU", "G723_24"), ("WAV", "NMS_ADPCM_16"), ("AIFF", "DWVW_16")],
)
def test_codings_that_cannot_jump_are_read(tmp_path, kind, subtype):
    path = tmp_path / "call.wav"
    soundfile.write(path, sine(500, 8000), 8000, format=kind, subtype=subtype)
    waveform = audio.load(path)
    assert len(waveform) / 16_000 == audio.duration(path)
    assert len(waveform) == pytest.approx(16_000, abs=640)
    assert loudest_hertz(waveform) == pytest.approx(500, abs=1)


def test_what_is_no_file_is_neither_waited_for_nor_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "terminal.wav").symlink_to("/dev/ptmx")
    for name in ("pipe.wav", "terminal.wav"):
        with pytest.raises(ValueError, match=f"{name} is a pipe or a device"):
            audio.duration(tmp_path / name)
    for name, goal in (("itself.wav", "itself.wav"), ("nowhere.wav", "away.wav")):
        (tmp_path / name).symlink_to(goal)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.wav is a link to a file that does not exist"):
        audio.load(tmp_path / "nowhere.wav")
    with pytest.raises(OSError, match=r"itself\.wav"):
        audio.load(tmp_path / "itself.wav")
    with pytest.raises(ValueError, match=r"'a\\x00\.wav' is no path"):
        audio.load("a\0.wav")


def test_names_that_are_long_or_not_in_utf_8(tmp_path, ramp):
    deep = tmp_path.joinpath(*["x" * 200] * 6)
    deep.mkdir(parents=True)
    for path in (os.path.join(os.fsencode(deep), b"a.wav"), os.path.join(os.fsencode(tmp_path), b"caf\xe9.wav")):
        soundfile.write(tmp_path / "a.wav", ramp, 16_000)
        os.rename(tmp_path / "a.wav", path)
        assert len(audio.load(os.fsdecode(path))) == len(ramp)
        assert audio.duration(os.fsdecode(path)) == 400 / 16_000


@pytest.mark.parametrize("rate", [10, 2**31 - 1])
def test_a_rate_that_sound_does_not_have_is_refused(rate):
    file = io.BytesIO()
    soundfile.write(file, np.full(4000, 0.1), 16_000, format="WAV")
    content = bytearray(file.getvalue())
    content[24:28] = rate.to_bytes(4, "little")
    with pytest.raises(ValueError, match=f"odd has a sample rate of {rate} Hz; expected 100 to 10,000,000"):
        audio.load(bytes(content), name="odd")
    with pytest.raises(ValueError, match=r"audio has a sample rate of 0\.01 Hz"):
        audio.resample(np.ones(2), 0.01, 8000)


def test_channels_that_cancel_each_other_are_said(tmp_path):
    left, noise = sine(300, 16_000), np.random.default_rng(0).normal(0, 1e-3, 16_000)
    soundfile.write(tmp_path / "phase.wav", np.stack([left, noise - left], axis=1), 16_000, subtype="FLOAT")
    with (
        pytest.warns(UserWarning, match=r"phase\.wav has 2 channels"),
        pytest.warns(UserWarning, match=r"the channels of .*phase\.wav cancel each other"),
    ):
        audio.load(tmp_path / "phase.wav")


def test_samples_far_above_full_scale_are_said_and_kept(ramp):
    with pytest.warns(UserWarning, match=r"audio has samples up to 32,768, where full scale is 1; divide"):
        assert audio.as_waveform(ramp.astype(np.float32), 16_000).tolist() == ramp.tolist()


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"away\.wav does not exist"):
        audio.load(tmp_path / "away.wav")
    with pytest.raises(ValueError, match=r"is a folder.*unisat\.corpus\.folder"):
        audio.load(tmp_path)


def test_text_file_and_name_of_an_upload():
    with pytest.raises(ValueError, match=r"open file is opened as text.*'rb'"):
        audio.load(io.StringIO("speech"))
    with pytest.raises(ValueError, match=r"^lecture\.wav could not be read"):
        audio.load(b"speech", name="lecture.wav")
    with pytest.raises(ValueError, match=r"^sound of 6 bytes could not be read"):
        audio.load(b"speech")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_in_a_file_are_counted_and_placed(tmp_path, bad):
    samples = np.zeros(50, np.float32)
    samples[[7, 20]] = bad
    soundfile.write(tmp_path / "bad.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"bad\.wav has 2 of 50 .* first is sample 7;"):
        audio.load(tmp_path / "bad.wav")


def test_a_file_too_short_to_resample_is_refused(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.ones(1), 48_000)
    with pytest.raises(ValueError, match=r"short\.wav holds no samples at 16000 Hz"):
        audio.load(tmp_path / "short.wav")


def test_duration_is_what_is_decoded_at_the_rate_of_the_file(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(4410), 44_100)
    assert audio.duration(tmp_path / "a.wav") == 0.1
    soundfile.write(tmp_path / "b.wav", np.zeros(0), 16_000)
    with pytest.raises(ValueError, match=r"b\.wav holds no samples"):
        audio.duration(tmp_path / "b.wav")


# arrays


@pytest.mark.parametrize(
    ("dtype", "given_samples", "expected"),
    [
        (np.int16, [-(2**15), 0, 2**14, 2**15 - 1], [-1, 0, 0.5, 32767 / 32768]),
        (">i2", [-(2**15), 0, 2**14, 2**15 - 1], [-1, 0, 0.5, 32767 / 32768]),
        (np.int32, [-(2**31), 0, 2**30], [-1, 0, 0.5]),
        (np.uint8, [0, 128, 192, 255], [-1, 0, 0.5, 127 / 128]),
        (np.float16, [-1, 0.5], [-1, 0.5]),
        (np.float32, [-1.5, 0.1], [-1.5, float(np.float32(0.1))]),
        (np.float64, [-1.5, 0.1], [-1.5, float(np.float32(0.1))]),
    ],
)
def test_every_sample_format_has_its_scale(dtype, given_samples, expected):
    waveform = audio.as_waveform(np.array(given_samples, dtype=dtype), 16_000)
    assert waveform.dtype == torch.float32
    assert waveform.tolist() == expected


def test_lists_tensors_and_half_precision():
    assert audio.as_waveform([0.5, -0.25], 16_000).tolist() == [0.5, -0.25]
    assert audio.as_waveform(torch.tensor([2**14], dtype=torch.int16), 16_000).tolist() == [0.5]
    assert audio.as_waveform(torch.tensor([0.5], dtype=torch.bfloat16), 16_000).tolist() == [0.5]
    assert not audio.as_waveform(torch.ones(3, requires_grad=True), 16_000).requires_grad


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_the_waveform_is_a_copy(make):
    given_samples = make([0.5, 0.25, -0.5])
    waveform = audio.as_waveform(given_samples, 16_000)
    waveform[0] = 9
    assert given_samples[0] == 0.5
    same_rate = audio.resample(given_samples, 16_000)
    same_rate[0] = 9
    assert given_samples[0] == 0.5


def test_the_rate_has_to_be_given():
    with pytest.raises(ValueError, match="a bare array has no sample rate; pass sampling_rate=16000 or use resample"):
        audio.as_waveform(np.zeros(3), None)
    with pytest.raises(ValueError, match=r"44100.*unisat\.audio\.resample\(audio, 44100\)"):
        audio.as_waveform(np.zeros(3), 44_100)


@pytest.mark.parametrize("rate", [0, -16_000, math.nan, math.inf])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(ValueError, match="positive number of samples a second"):
        audio.resample(np.zeros(3), rate)
    with pytest.raises(ValueError, match="positive number of samples a second"):
        audio.resample(np.zeros(3), 16_000, target=rate)


@pytest.mark.parametrize("shape", [(2, 30), (30, 2), (8, 9), (9, 8)])
def test_channels_of_an_array_are_averaged_whichever_axis_they_are(shape):
    channels = np.random.default_rng(0).normal(size=shape)
    with pytest.warns(UserWarning, match=f"audio has {min(shape)} channels"):
        waveform = audio.as_waveform(channels, 16_000)
    expected = [sum(row) / min(shape) for row in (channels if shape[0] > shape[1] else channels.T)]
    torch.testing.assert_close(waveform, torch.tensor(expected).float())


@pytest.mark.parametrize("shape", [(1, 30), (30, 1), (1, 1)])
def test_a_single_channel_is_taken_silently(shape):
    samples = np.linspace(0.1, 0.5, max(shape))
    torch.testing.assert_close(audio.as_waveform(samples.reshape(shape), 16_000), torch.tensor(samples).float())


@pytest.mark.parametrize("shape", [(), (9, 9), (2, 2), (9, 30), (30, 9), (1, 1, 30)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"audio must be \(samples,\).*" + re.escape(str(shape))):
        audio.as_waveform(np.ones(shape), 16_000)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 2)])
def test_empty_arrays_are_refused(shape):
    with pytest.raises(ValueError, match="holds no samples"):
        audio.as_waveform(np.ones(shape), 16_000)


@pytest.mark.parametrize("samples", [np.array([1, 2]), np.array([True]), np.array([1j]), [1, 2], "speech.wav"])
def test_formats_without_a_scale_are_refused(samples):
    with pytest.raises(ValueError, match=r"no agreed full scale.*int16.*unisat\.audio\.load"):
        audio.as_waveform(samples, 16_000)


def test_ragged_lists_nan_and_overflow_are_refused():
    with pytest.raises(ValueError, match="unequal lengths"):
        audio.as_waveform([[0.5, 0.5], [0.5]], 16_000)
    with pytest.raises(ValueError, match="1 of 3 samples NaN or infinite, the first is sample 1;"):
        audio.as_waveform([0.0, math.nan, 0.0], 16_000)
    with pytest.raises(ValueError, match="the first is sample 0;"):
        audio.as_waveform(np.array([1e300, 0]), 16_000)


# normalisation


@given(hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1, 1, width=32)))
def test_normalised_as_in_a_plain_loop(samples):
    values = [float(sample) for sample in samples]
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    expected = [(value - mean) / math.sqrt(variance + 1e-7) for value in values]
    waveform = torch.tensor(samples)
    torch.testing.assert_close(audio.normalize(waveform), torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert waveform.tolist() == values


@pytest.mark.parametrize("peak", [0.5, 1e-3])
def test_normalised_as_the_reference_does(peak):
    transformers = pytest.importorskip("transformers", reason="the reference is not installed")
    samples = sine(220, 16_000, peak=peak) + peak / 5
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    expected = extractor(samples.astype(np.float32), sampling_rate=16_000, return_tensors="pt").input_values[0]
    torch.testing.assert_close(audio.normalize(torch.tensor(samples).float()), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.1, -0.7])
def test_silence_becomes_zeros(level):
    assert audio.normalize(torch.full((16_001,), level)).tolist() == [0.0] * 16_001


@pytest.mark.parametrize("shape", [(2, 30), (0,), ()])
def test_only_one_utterance_is_normalised_at_a_time(shape):
    with pytest.raises(ValueError, match="before padding"):
        audio.normalize(torch.ones(shape))


def test_decibels_against_numpy():
    samples = torch.randn(2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    # the 400-sample window sits in the middle of a 512-sample transform, centred on sample 160 * 3
    piece = samples.numpy()[480 - 200 : 480 + 200] * window
    expected = 20 * np.log10(np.abs(np.fft.rfft(piece, 512)) * 2 / window.sum())
    np.testing.assert_allclose(audio.decibels(samples)[:, 3], expected, atol=1e-3)
