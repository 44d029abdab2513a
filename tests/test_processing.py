"""The processor: the reference's batches and files; labels padded with -100 on request."""

import contextlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenization import VOCAB

from unisat import (
    AutoFeatureExtractor,
    AutoProcessor,
    AutoTokenizer,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

FILES = {"preprocessor_config.json", "vocab.json", "tokenizer_config.json", "special_tokens_map.json"}
TEXTS = ["HELLO", "AB"]
RATE = {"sampling_rate": 16000}


@pytest.fixture
def speech():
    generator = np.random.default_rng(3)
    return [generator.normal(size=length).astype(np.float32) for length in (50, 20)]


@pytest.fixture(scope="module")
def processor():
    return Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=True), Wav2Vec2CTCTokenizer(VOCAB))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("reference") / "vocab.json"
    path.write_text(json.dumps(VOCAB))
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return transformers.Wav2Vec2Processor(extractor, transformers.Wav2Vec2CTCTokenizer(str(path)))


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name in ours:
        assert type(ours[name]) is type(theirs[name])
        for our, their in zip(ours[name], theirs[name], strict=True):
            np.testing.assert_allclose(our, their, rtol=2e-6, atol=2e-6)


@settings(max_examples=30)
@given(
    texts=st.lists(st.text("AB '", min_size=1, max_size=8), min_size=1, max_size=3),
    lengths=st.fixed_dictionaries(
        {},
        optional={
            "padding": st.sampled_from([True, "longest", "max_length"]),
            "pad_to_multiple_of": st.sampled_from([1, 4]),
        },
    ),
    truncation=st.booleans(),
)
def test_calls_match_the_reference(processor, reference, texts, lengths, truncation):
    generator = np.random.default_rng(len(texts[0]))
    audio = [generator.normal(size=5 + index).astype(np.float32) for index, _ in enumerate(texts)]
    # a multiple of 4, as the reference's tokenizer refuses another where it both cuts and pads to multiples
    lengths = lengths | ({"max_length": 4, "truncation": True} if truncation else {})
    if lengths.get("padding") == "max_length":
        lengths["max_length"] = 4 if truncation else 12
    for inputs in ({"audio": audio}, {"text": texts}, {"audio": audio, "text": texts}):
        rate = RATE if "audio" in inputs else {}
        assert_same(processor(**inputs, **rate, **lengths), reference(**inputs, **rate, **lengths))
    one = dict(**RATE, **lengths, return_tensors="pt", text=texts[0])
    assert_same(processor(audio[0], **one), reference(audio[0], **one))


def test_collating_matches_the_reference(processor, reference, speech):
    features = [{"input_values": one} for one in speech]
    labels = [{"input_ids": processor.tokenizer.encode(text)} for text in TEXTS]
    for inputs in (
        {"input_features": features},
        {"labels": labels},
        {"input_features": features, "labels": labels},
    ):
        for kind in ("np", "pt"):
            assert_same(processor.pad(**inputs, return_tensors=kind), reference.pad(**inputs, return_tensors=kind))
    assert processor.pad(features).keys() == {"input_values", "attention_mask"}


def test_labels_padded_on_request(processor, speech):
    ids = [processor.tokenizer.encode(text) for text in TEXTS]
    expected = [ids[0], [*ids[1], -100, -100, -100]]
    options = dict(padding=True, pad_labels_with=-100)
    both = processor(speech, text=TEXTS, **RATE, **options)
    assert both.labels == expected
    assert processor(speech, TEXTS, 16000, padding=True).labels[1] == [*ids[1], 0, 0, 0]
    for kind in ("np", "pt"):
        assert processor(speech, TEXTS, **RATE, **options, return_tensors=kind).labels.tolist() == expected
        examples = [{"input_ids": one} for one in ids]
        assert processor.pad(labels=examples, pad_labels_with=-100, return_tensors=kind).input_ids.tolist() == expected
    assert processor(text=TEXTS, **options) == {"input_ids": expected, "attention_mask": [[1] * 5, [1, 1, 0, 0, 0]]}
    assert processor(text="AB", padding="max_length", max_length=3, pad_labels_with=-100).input_ids == [*ids[1], -100]
    only = processor(text=TEXTS, **options, return_attention_mask=False)
    assert only == {"input_ids": expected}
    assert processor.batch_decode(expected, skip_special_tokens=True, group_tokens=False) == TEXTS
    # a pad token inside a transcript is no padding
    assert processor(text=["A<pad>B", "A"], **options).input_ids == [[7, 0, 24], [7, -100, -100]]


def test_labels_train_a_model(processor, speech):
    batch = processor(speech, TEXTS, **RATE, padding=True, pad_labels_with=-100, return_tensors="pt")
    assert (batch.input_values.dtype, batch.attention_mask.dtype, batch.labels.dtype) == (
        torch.float32,
        torch.int32,
        torch.int64,
    )
    assert batch.attention_mask.sum(-1).tolist() == [50, 20]


def test_decoding_is_the_tokenizers(processor):
    ids = [11, 5, 15, 0, 15, 8, 2]
    assert processor.decode(ids, skip_special_tokens=True) == "HELLO"
    assert processor.batch_decode([ids], True) == ["HELLO"]
    word = {"word": "HELLO</s>", "start_offset": 0, "end_offset": 7, "start_seconds": 0.0, "end_seconds": 3.5}
    assert processor.decode(ids, output_word_offsets=True, frame_seconds=0.5).word_offsets == [word]


def test_files_are_the_references(processor, reference, tmp_path):
    reference.save_pretrained(tmp_path / "theirs")
    processor.save_pretrained(tmp_path / "ours")
    read = AutoProcessor.from_pretrained(tmp_path / "theirs")
    read.save_pretrained(tmp_path / "again")
    for folder in ("ours", "again"):
        assert {path.name for path in (tmp_path / folder).iterdir()} == FILES
        for name in FILES:
            assert (tmp_path / folder / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    theirs = type(reference).from_pretrained(tmp_path / "ours")
    audio = np.arange(9, dtype=np.float32)
    assert_same(read(audio, "A B", **RATE), theirs(audio, text="A B", **RATE))


def test_auto_classes(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is Wav2Vec2Processor
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is Wav2Vec2FeatureExtractor
    assert type(AutoTokenizer.from_pretrained(str(tmp_path))) is Wav2Vec2CTCTokenizer
    changed = AutoProcessor.from_pretrained(tmp_path, do_normalize=False, do_lower_case=True)
    assert not changed.feature_extractor.do_normalize
    assert changed.tokenizer.do_lower_case
    assert repr(changed).startswith("Wav2Vec2Processor(\n  Wav2Vec2FeatureExtractor(")


def test_inputs_are_left_alone(processor, speech):
    before = [one.copy() for one in speech]
    features = [{"input_values": one} for one in speech]
    labels = [{"input_ids": [5]}, {"input_ids": [5, 6]}]
    processor.pad(features, labels, pad_labels_with=-100)
    processor(speech, TEXTS, **RATE, padding=True)
    assert labels == [{"input_ids": [5]}, {"input_ids": [5, 6]}]
    assert all(features[index]["input_values"] is speech[index] for index in range(2))
    for one, old in zip(speech, before, strict=True):
        np.testing.assert_array_equal(one, old)


def test_bad_input(processor, speech, tmp_path):
    for call, sentence in (
        (lambda: processor(), "neither audio nor text was passed"),
        (lambda: processor.pad(), "neither input_features nor labels"),
        (lambda: processor(speech, TEXTS[:1], **RATE), r"audio holds 2 utterance\(s\) and text 1"),
        (lambda: processor(speech, "AB", **RATE), r"audio holds 2 utterance\(s\) and text 1"),
        (lambda: processor(speech, sampling_rate=44100), r"unisat.audio.resample\(audio, 44100, 16000\)"),
        (lambda: processor([np.ones(3), np.full(3, np.nan)], **RATE), "utterance 1: .*NaN"),
        (lambda: processor(speech, TEXTS, pad_labels_with=0, **RATE), "pad_labels_with=0; expected a negative number"),
        (lambda: processor(speech, pad_labels_with=-100, **RATE), "and transcripts to pad"),
        (lambda: processor(speech, TEXTS, return_tensors="pt", **RATE), "padding=True"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()
    processor.feature_extractor.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no vocab.json in.*use AutoFeatureExtractor"):
        AutoProcessor.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder 'owner/name'"):
        AutoProcessor.from_pretrained("owner/name")


def test_older_scripts_make_labels_inside_a_with(processor):
    texts = processor.as_target_processor()
    with pytest.warns(DeprecationWarning, match=r"now processor\(text=...\)"):
        texts.__enter__()
    with contextlib.ExitStack() as stack:
        stack.push(texts)
        encoded = processor(["A", "AB"])
        collated = processor.pad([{"input_ids": ids} for ids in encoded.input_ids], return_tensors="pt")
    assert encoded.input_ids == processor(text=["A", "AB"]).input_ids
    assert collated.input_ids.shape == (2, 2)
    with pytest.raises(ValueError, match="audio holds"):
        processor(["A"], sampling_rate=16000)
    assert processor.model_input_names == processor.feature_extractor.model_input_names
