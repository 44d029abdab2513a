"""Banks with a row for each segment: against slices of all frames, and with planted words."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import shuffled, small_config

import unisat as us
from unisat.acoustics import log_mel, mfcc
from unisat.interpret.features.collect import BASELINES
from unisat.interpret.features.labels import frame_codes
from unisat.segments import span

LENGTHS = {"u0": 9000, "u1": 16_000, "u2": 5000, "u3": 400}
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def model():
    return shuffled(us.UniSpeechSatModel(small_config()))


@pytest.fixture(scope="module")
def speech():
    draw = torch.Generator().manual_seed(0)
    waves = [torch.randn(length, generator=draw) for length in LENGTHS.values()]
    return us.Batch.from_arrays(waves, sampling_rate=16_000, ids=list(LENGTHS), speaker=["a", "b", "a", "b"])


@pytest.fixture(scope="module")
def segments():
    rows = [
        ("u1", 0.1, 0.4, "K"),
        ("u1", 0.0, 0.1, "AA"),
        ("u0", 0.2, 0.5, "K"),
        ("u0", 0.501, 0.505, "AA"),
        ("u9", 0, 1, "K"),
    ]
    rows += [("u2", 0.3, 0.32, "T"), ("u1", 0.9, 1.03, "T")]
    table = pd.DataFrame(rows, columns=["id", "start", "end", "label"])
    return us.Segments(table.assign(tier="phone"))


@pytest.mark.parametrize("pool", ["mean", "centre"])
@pytest.mark.parametrize("batch_seconds", [0.1, 10.0])
def test_rows_are_the_frames_of_each_segment(model, speech, segments, pool, batch_seconds):
    sites = ["hidden.1", "block.0.attn.z"]
    found = us.collect(model, speech, sites, segments=segments, pool=pool, batch_seconds=batch_seconds, **QUIET)
    frames = us.collect(model, speech, sites, reduce="frames", **QUIET)
    assert found.table["utterance"].tolist() == ["u0", "u0", "u1", "u1", "u1", "u2"]
    assert found.table["label"].tolist() == ["K", "AA", "AA", "K", "T", "T"]
    assert found.table["id"].tolist() == ["u0#0", "u0#1", "u1#0", "u1#1", "u1#2", "u2#0"]
    assert found.table["previous"].tolist() == ["", "K", "", "AA", "K", ""]
    assert found.table["next"].tolist() == ["AA", "", "K", "T", "", ""]
    assert found.table["speaker"].tolist() == ["a", "a", "b", "b", "b", "a"]
    hop, field = frames.settings["hop"], frames.settings["receptive_field"]
    for site in sites:
        for row, one in enumerate(found.table.itertuples()):
            values = frames.frames(site, frames.ids.index(one.utterance))
            middles = np.array([field / 2 + hop * t for t in range(len(values))]) / 16_000
            inside = (middles >= one.start) & (middles < one.end)
            nearest = np.abs(middles - (one.start + one.end) / 2).argmin()
            expected = values[inside].mean(0) if pool == "mean" and inside.any() else values[nearest]
            np.testing.assert_allclose(found[site][row], expected, rtol=1e-4, atol=1e-5)


def test_segments_are_found_to_the_frame(speech):
    """A label for each frame that only the segment has: shifted by one frame, none would fit."""
    table = pd.DataFrame([("u1", "t", 0.1, 0.4, "x")], columns=["id", "tier", "start", "end", "label"])
    (first, last) = span(table["start"], table["end"])[0]
    assert (first, last) == (5, 20)  # centres at 112.5 and 392.5 ms
    labels = us.Segments(table).frames({"u1": 49})["u1"]
    assert [t for t, label in enumerate(labels) if label == "x"] == list(range(5, 20))


def test_what_is_measured_on_them(model, speech, segments):
    found = us.collect(model, speech, "hidden.*", segments=segments, **QUIET)
    assert found.settings["reduce"] == "segments"
    assert not found.is_frames("hidden.1")
    assert us.layer_similarity(found).values.shape == (len(found.hidden),) * 2
    again = us.collect(
        model, speech, "hidden.*", segments=segments, baselines=["untrained"], untrained_seeds=1, **QUIET
    )
    np.testing.assert_allclose(again["hidden.1"], found["hidden.1"])
    assert again["untrained.0.hidden.1"].shape == found["hidden.1"].shape


@pytest.mark.parametrize("pool", ["mean", "centre"])
def test_baselines_are_the_sound_of_each_segment(model, speech, segments, pool):
    kinds = ["logmel", "mfcc", "loudness"]
    found = us.collect(model, speech, "hidden.1", segments=segments, pool=pool, baselines=kinds, **QUIET)
    for row, one in enumerate(found.table.itertuples()):
        wave = speech.waveforms[speech.ids.index(one.utterance)]
        sound = wave[round(16_000 * one.start) : round(16_000 * one.end)]
        level = 10 * math.log10(sound.double().square().mean())
        np.testing.assert_allclose(found["loudness"][row], [level, len(sound) / 16_000], rtol=1e-4)
        for name, frames in {"logmel": log_mel(wave).numpy(), "mfcc": mfcc(wave).numpy()}.items():
            middles = [(160 * t + 200) / 16_000 for t in range(len(frames))]
            inside = [t for t, middle in enumerate(middles) if one.start <= middle < one.end]
            nearest = int(np.abs(np.array(middles) - (one.start + one.end) / 2).argmin())
            expected = frames[inside].mean(0) if pool == "mean" and inside else frames[nearest]
            np.testing.assert_allclose(found[name][row], expected, rtol=1e-4, atol=1e-4)


def test_utterances_without_segments_have_no_rows_of_sound(model, speech, segments):
    some = segments.where(id=["u1"])
    found = us.collect(model, speech, "hidden.1", segments=some, baselines=["mfcc", "loudness"], **QUIET)
    assert found["mfcc"].shape == (3, 39)
    assert found["loudness"].shape == (3, 2)


def test_a_probe_has_its_floors_in_one_call(model, speech, segments):
    bank = us.collect(model, speech, "hidden.1", segments=segments, baselines=BASELINES, untrained_seeds=1, **QUIET)
    report = us.probe_layers(bank.where(label=["AA", "K"]), "label", cv=2, seeds=1, n_boot=10, progress=False)
    assert {"untrained", "logmel", "mfcc", "loudness"} <= set(report.table()["control"])


def test_probes_hold_speakers_out_by_themselves():
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"id": [f"u{n}" for n in range(240)], "speaker": np.repeat([f"s{n}" for n in range(12)], 20)})
    table["session"], table["label"] = table["id"], np.tile(["AA", "K"], 120)
    values = draw.normal(size=(240, 5)) + (table["label"] == "K").to_numpy()[:, None]
    bank = us.FeatureBank.from_arrays(table, {"hidden.0": values}, {"segments": "x", "reduce": "segments"})
    report = us.probe_layers(bank, "label", probe="lda", controls=["shuffle"], n_boot=50, progress=False)
    assert report.settings["groups"] == "speaker"
    assert report.table()["value"].iloc[0] > 0.8


def test_segments_are_labels_of_frames(model, speech, segments):
    bank = us.collect(model, speech, "hidden.1", reduce="frames", **QUIET)
    codes, names = frame_codes(segments, bank.ids, bank.lengths("hidden.1"))
    assert names == ["AA", "K", "T"]
    assert codes.sum() != 0
    assert len(codes) == bank.lengths("hidden.1").sum()


def test_a_folder_keeps_them(model, speech, segments, tmp_path):
    one = us.collect(model, speech, "hidden.1", segments=segments, folder=tmp_path / "b", **QUIET)
    two = us.collect(model, speech, "hidden.1", segments=segments, folder=tmp_path / "b", **QUIET)
    np.testing.assert_array_equal(one["hidden.1"], two["hidden.1"])
    with pytest.raises(ValueError, match="made otherwise: segments"):
        us.collect(model, speech, "hidden.1", segments=segments.where(label="K"), folder=tmp_path / "b", **QUIET)
    one.save(tmp_path / "saved")
    assert us.FeatureBank.load(tmp_path / "saved").table["label"].tolist() == one.table["label"].tolist()


@pytest.mark.wrong_types
def test_what_does_not_fit_is_refused_before_anything_runs(model, speech, segments):
    late = us.Segments.from_rows({"u2": [{"start": 0.2, "end": 0.9, "label": "x"}]})
    with pytest.raises(ValueError, match=r"1 segment\(s\) end later than their utterance, first 'x' of 'u2' at 0.9 s"):
        us.collect(model, speech, "hidden.1", segments=late, **QUIET)
    assert len(us.collect(model, speech, "hidden.1", segments=segments, max_seconds=0.45, **QUIET)) == 3
    with pytest.raises(ValueError, match="none of the 4 utterances has segments: theirs are called 'u0' and so on"):
        us.collect(model, speech, "hidden.1", segments=segments.where(id="u9"), **QUIET)
    with pytest.raises(ValueError, match="conv.0 has no row for each frame behind the convolutions"):
        us.collect(model, speech, "conv.0", segments=segments, **QUIET)
    with pytest.raises(ValueError, match="leave frames='visible' out"):
        us.collect(model, speech, "hidden.1", segments=segments, frames="visible", **QUIET)
    with pytest.raises(ValueError, match="pool='max' must be 'mean' or 'centre'"):
        us.collect(model, speech, "hidden.1", segments=segments, pool="max", **QUIET)
