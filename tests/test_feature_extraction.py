"""The feature extractor: the reference's numbers and files, except where it lets the padding into the statistics."""

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unisat import AutoFeatureExtractor, Wav2Vec2FeatureExtractor
from unisat.feature_extraction import BatchFeature

RATE = {"sampling_rate": 16000}


def noise(*lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(0.3, 2, length).astype(np.float32) for length in lengths]


def by_hand(samples):
    double = samples.astype(np.float64)
    return ((double - double.mean()) / np.sqrt(double.var() + 1e-7)).astype(np.float32)


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("transformers").Wav2Vec2FeatureExtractor


def assert_same(ours, theirs, tolerance=2e-6):
    assert list(ours) == list(theirs)
    for name in ours:
        assert len(ours[name]) == len(theirs[name])
        for our, their in zip(ours[name], theirs[name], strict=True):
            assert np.asarray(our).dtype == np.asarray(their).dtype
            np.testing.assert_allclose(our, their, rtol=tolerance, atol=tolerance)


def test_golden_cases(fixtures):
    golden = json.loads((fixtures / "feature_extractor.json").read_text())
    speech = [np.array(golden[name], np.float32) for name in "AB"]
    assert len(golden["cases"]) == 16
    same = 0
    for case in golden["cases"]:
        extractor = Wav2Vec2FeatureExtractor(
            do_normalize=case["do_normalize"], return_attention_mask=case["return_attention_mask"]
        )
        ours = extractor(speech, **case["kw"], **RATE)
        theirs = [np.array(values, np.float32) for values in case["input_values"]]
        assert [len(values) for values in ours.input_values] == [len(values) for values in theirs]
        mask = case.get("attention_mask")
        assert ("attention_mask" in ours) == bool(mask)
        for index, their in enumerate(theirs):
            our = ours.input_values[index]
            assert our.dtype == np.float32
            if mask:
                assert ours.attention_mask[index].tolist() == mask[index]
            samples = min(len(speech[index]), len(our))
            if case["do_normalize"] and not mask and samples < len(our):
                # the deliberate difference: the reference normalises over the padding, ours does not
                np.testing.assert_allclose(our[:samples], by_hand(speech[index][:samples]), rtol=1e-6, atol=1e-6)
                assert not our[samples:].any()
                assert their[samples:].all()
                assert np.abs(our - their).max() > 0.1
            else:
                # the reference takes the mean in float32, which costs some of the last digits of a loud constant
                loudness = np.abs(speech[index]).max() / speech[index].std() if case["do_normalize"] else 0
                np.testing.assert_allclose(our, their, rtol=0, atol=1.2e-7 * loudness)
                same += 1
    assert same >= 24


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=4),
    padding=st.sampled_from([False, True, "longest", "max_length", "do_not_pad"]),
    max_length=st.integers(1, 50),
    truncation=st.booleans(),
    multiple=st.sampled_from([None, 1, 7, 16]),
    normalize=st.booleans(),
    fill=st.sampled_from([0.0, -1.0]),
)
def test_live_reference(reference, lengths, padding, max_length, truncation, multiple, normalize, fill):
    # with a mask the reference normalises over the samples alone, as unisat always does, but not ragged batches
    options = dict(do_normalize=normalize, return_attention_mask=True, padding_value=fill)
    if padding == "max_length" and not truncation:
        max_length = max(max_length, *lengths)
    speech = noise(*lengths, seed=sum(lengths))
    lengths = dict(padding=padding, max_length=max_length, truncation=truncation, pad_to_multiple_of=multiple)
    lengths["raw_speech"] = speech
    ours, theirs = Wav2Vec2FeatureExtractor(**options), reference(**options)
    assert_same(ours(**lengths, **RATE), theirs(**lengths, **RATE))
    lone = lengths | {"raw_speech": speech[0]}
    for kind in ("np", "pt"):
        our = ours(**lone, **RATE, return_tensors=kind)
        assert_same(our, theirs(**lone, **RATE, return_tensors=kind))
        assert type(our.input_values) is {"np": np.ndarray, "pt": torch.Tensor}[kind]
        assert our.input_values.ndim == 2


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    mask=st.booleans(),
    truncation=st.booleans(),
    multiple=st.sampled_from([None, 8]),
)
def test_collating_matches_the_reference(reference, lengths, mask, truncation, multiple):
    examples = [{"input_values": one.tolist()} for one in noise(*lengths)]
    options = dict(max_length=9, truncation=truncation, pad_to_multiple_of=multiple, return_attention_mask=mask)
    ours = Wav2Vec2FeatureExtractor().pad(examples, **options)
    theirs = reference().pad(examples, **options)
    assert_same(ours, theirs, 0)
    assert ours.input_values.shape == theirs["input_values"].shape
    assert all(example.keys() == {"input_values"} for example in examples)


def test_normalised_alone_as_in_a_batch():
    speech = noise(4000, 70, 900)
    for mask in (False, True):
        batch = Wav2Vec2FeatureExtractor(return_attention_mask=mask)(speech, padding=True, return_tensors="pt", **RATE)
        for index, one in enumerate(speech):
            np.testing.assert_array_equal(batch.input_values[index, : len(one)], by_hand(one))
            assert not batch.input_values[index, len(one) :].any()


def test_lists_of_arrays_and_tensors_give_the_same():
    speech = noise(60, 60)
    expected = np.stack([by_hand(one) for one in speech])
    forms = [
        speech,
        tuple(speech),
        np.stack(speech),
        [torch.tensor(one) for one in speech],
        torch.tensor(np.stack(speech)),
    ]
    forms += [[one.tolist() for one in speech], [one.astype(np.float64) for one in speech]]
    for batch in forms:
        result = Wav2Vec2FeatureExtractor()(batch, return_tensors="np", **RATE).input_values
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)
    for single in (speech[0], torch.tensor(speech[0]), speech[0].tolist()):
        result = Wav2Vec2FeatureExtractor()(single, **RATE).input_values
        np.testing.assert_allclose(result, expected[:1], rtol=1e-6, atol=1e-6)


def test_int16_is_scaled(reference):
    pcm = np.array([0, 16384, -32768, 8192], np.int16)
    raw = Wav2Vec2FeatureExtractor(do_normalize=False)(pcm, **RATE).input_values[0]
    np.testing.assert_array_equal(raw, np.array([0, 0.5, -1, 0.25], np.float32))
    normalised = Wav2Vec2FeatureExtractor()(pcm, **RATE).input_values[0]
    assert normalised.dtype == np.float32
    # the reference leaves the integers, and comes out in float64
    assert reference()(pcm, **RATE)["input_values"][0].dtype == np.float64


def test_silence_and_the_input_are_left_alone():
    speech = np.full(50, 0.1, np.float32)
    assert not Wav2Vec2FeatureExtractor()(speech, **RATE).input_values[0].any()
    raw = Wav2Vec2FeatureExtractor(do_normalize=False)(speech, **RATE).input_values[0]
    raw += 1
    np.testing.assert_array_equal(speech, np.full(50, 0.1, np.float32))


def test_tensors_and_other_keys_are_collated():
    examples = [{"input_values": torch.ones(n), "label": n} for n in (3, 5)]
    batch = Wav2Vec2FeatureExtractor(return_attention_mask=True).pad(examples)
    torch.testing.assert_close(batch.input_values, torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]))
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.label.tolist() == [3, 5]
    forms = [
        {"input_values": np.ones(2), "attention_mask": [1, 0]},
        {"input_values": np.ones(3), "attention_mask": [1] * 3},
    ]
    assert Wav2Vec2FeatureExtractor().pad(forms).attention_mask.tolist() == [[1, 0, 0], [1, 1, 1]]


def test_files_are_the_references(reference, tmp_path):
    theirs = reference(return_attention_mask=True, do_normalize=False, padding_value=-0.5, house="style")
    theirs.save_pretrained(tmp_path / "theirs")
    ours = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "theirs")
    assert ours.extra["house"] == "style"
    assert (ours.return_attention_mask, ours.do_normalize, ours.padding_value) == (True, False, -0.5)
    ours.save_pretrained(tmp_path / "ours")
    name = "preprocessor_config.json"
    assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    read = reference.from_pretrained(tmp_path / "ours").to_dict()
    assert ours.to_dict() == {key: read[key] for key in ours.to_dict()}
    assert set(read) - set(ours.to_dict()) <= {"_processor_class"}
    again = AutoFeatureExtractor.from_pretrained(tmp_path / "ours" / name, do_normalize=True)
    assert type(again) is Wav2Vec2FeatureExtractor
    assert again.do_normalize
    assert repr(again).startswith("Wav2Vec2FeatureExtractor(feature_size=1, sampling_rate=16000, padding_value=-0.5")


def test_batch_feature():
    batch = BatchFeature(input_values=torch.ones(2), attention_mask=torch.ones(2, dtype=torch.int32), names=["a"])
    half = batch.to(torch.float16)
    assert (half.input_values.dtype, half.attention_mask.dtype, half.names) == (torch.float16, torch.int32, ["a"])
    assert batch.input_values.dtype == torch.float32
    meta = batch.to("meta", torch.float64)
    assert (meta.input_values.device.type, meta.attention_mask.device.type) == ("meta", "meta")
    assert (meta.input_values.dtype, meta.attention_mask.dtype) == (torch.float64, torch.int32)
    with pytest.raises(AttributeError, match="'labels' is not in this batch; it holds input_values, attention_mask"):
        _ = batch.labels


def test_no_rate_warns_once():
    extractor = Wav2Vec2FeatureExtractor()
    with pytest.warns(UserWarning, match="pass sampling_rate=16000"):
        extractor(np.ones(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extractor(np.ones(4))
    with pytest.warns(UserWarning, match="no sampling_rate"):
        Wav2Vec2FeatureExtractor()(np.ones(4))


def test_unknown_names_warn_when_typed():
    with pytest.warns(UserWarning, match=r"'do_normalise' is not an argument.*did you mean do_normalize"):
        assert Wav2Vec2FeatureExtractor(do_normalise=False).extra == {"do_normalise": False}


@pytest.mark.parametrize(
    ("speech", "sentence"),
    [
        ([np.ones(3), np.array([1.0, np.nan])], "utterance 1: audio has 1 of 2 samples NaN or infinite, the first"),
        (np.array([np.inf]), "^audio has 1 of 1 samples NaN"),
        ([], "the batch is empty"),
        (np.empty(0), r"audio of shape \(0,\) holds no samples"),
        ([np.ones(3), np.empty(0)], "utterance 1: audio of shape"),
        (np.empty((0, 5)), r"batch of shape \(0, 5\) is empty"),
        (np.ones((2, 3, 4)), r"audio must be mono.*got shape \(2, 3, 4\)"),
        ([np.ones(3), np.ones((1, 3))], r"utterance 1: audio must be mono.*got shape \(1, 3\).*squeeze"),
        ([[[0.1, 0.2]]], r"utterance 0: audio must be mono.*got shape \(1, 2\)"),
        (np.float32(0.5), r"got shape \(\)"),
        ([1, 2, 3], "audio holds int64.*no agreed full scale"),
        ("speech.wav", "A path goes to unisat.audio.load"),
        (["speech.wav"], "A path goes to unisat.audio.load"),
    ],
)
def test_bad_audio(speech, sentence):
    with pytest.raises(ValueError, match=sentence):
        Wav2Vec2FeatureExtractor()(speech, **RATE)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(sampling_rate=8000), r"sampling_rate is 8000, .* use unisat.audio.resample\(audio, 8000, 16000\) first"),
        (dict(truncation=True), "truncation=True without a max_length"),
        (dict(padding="max_length"), "padding='max_length' without a max_length"),
        (dict(padding="left"), "padding='left'; expected one of"),
        (dict(return_tensors="tf"), "return_tensors='tf'; expected 'pt', 'np' or None"),
        (dict(return_tensors="pt"), r"of different lengths \(5, 3\).*padding=True"),
        (dict(padding=True, max_length=0), "max_length=0; expected a positive"),
        (dict(padding=True, pad_to_multiple_of=-1), "pad_to_multiple_of=-1; expected a positive"),
    ],
)
def test_bad_arguments(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Wav2Vec2FeatureExtractor()(noise(5, 3), **{**RATE, **options})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(padding_side="left"), "padding_side='left'; the models read padding behind"),
        (dict(feature_size=80), "feature_size=80"),
        (dict(sampling_rate=0), "sampling_rate=0; expected samples a second"),
        (dict(padding_value=float("nan")), "padding_value=nan; expected a finite number"),
    ],
)
def test_bad_settings(options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        Wav2Vec2FeatureExtractor(**options)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(options))
    with pytest.raises(ValueError, match=sentence):
        Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("examples", "sentence"),
    [
        ({"input_values": np.zeros(400, np.float32)}, "'input_values' is that of one example, .*; pass a list"),
        ({"input_values": [0.1, 0.2]}, "'input_values' is that of one example"),
        ([], r"expected a list of dicts with 'input_values'.*got \[\]"),
        ([{"audio": [1.0]}], "got keys audio"),
        ([{"input_values": [1.0]}, {"input_values": [1.0], "label": 1}], "examples 0 and 1 have different keys"),
        ({"input_values": [[1.0], [2.0]], "label": [1]}, "different numbers of examples"),
        ([{"input_values": [float("nan")]}], "NaN"),
    ],
)
def test_bad_examples(examples, sentence):
    with pytest.raises(ValueError, match=sentence):
        Wav2Vec2FeatureExtractor().pad(examples)


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder 'microsoft/unispeech-sat-base'.*local folders"):
        Wav2Vec2FeatureExtractor.from_pretrained("microsoft/unispeech-sat-base")
    with pytest.raises(FileNotFoundError, match="there is no preprocessor_config.json in"):
        Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    for text, sentence in (
        ('{"sampling_rate": 16', "is not JSON"),
        ("[]", "holds a list; expected a JSON object"),
        ('{"feature_extractor_type": "WhisperFeatureExtractor"}', "'WhisperFeatureExtractor': it is for a model of"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=sentence):
            Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)


def test_samples_by_channels_are_no_batch():
    speech = np.zeros((400, 2), np.float32)
    for stereo in (speech, torch.from_numpy(speech)):
        with pytest.raises(ValueError, match=r"shape \(400, 2\) is that of \(samples, channels\).*audio.mean\(1\)"):
            Wav2Vec2FeatureExtractor()(stereo, sampling_rate=16000)
    assert len(Wav2Vec2FeatureExtractor()(speech.T, sampling_rate=16000).input_values) == 2


def test_one_example_is_no_list_of_examples():
    with pytest.raises(ValueError, match=r"'input_values' is that of one example, .*pass a list"):
        Wav2Vec2FeatureExtractor().pad({"input_values": np.zeros(400, np.float32)})


def test_keys_inside_the_file_of_a_processor(tmp_path):
    nested = {**Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).to_dict()}
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "X", "feature_extractor": nested}))
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    assert (extractor.do_normalize, extractor.return_attention_mask) == (False, True)
    # transformers 5 believes that file before the other: saving into the folder changes both
    extractor.do_normalize = True
    extractor.save_pretrained(tmp_path)
    assert Wav2Vec2FeatureExtractor.from_pretrained(tmp_path).do_normalize
    kept = json.loads((tmp_path / "processor_config.json").read_text())
    assert kept["processor_class"] == "X"
    assert json.loads((tmp_path / "preprocessor_config.json").read_text()) == kept["feature_extractor"]


def test_the_text_of_the_file(tmp_path):
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    extractor.to_json_file(tmp_path / "preprocessor_config.json")
    assert json.loads(extractor.to_json_string()) == extractor.to_dict()
    assert Wav2Vec2FeatureExtractor.from_pretrained(tmp_path).to_dict() == extractor.to_dict()
