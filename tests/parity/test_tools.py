"""The Trainer and the pipelines of transformers with unisat's classes, and files both ways; in 4.37.2 and in 5."""

import inspect
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import shuffled, small_config

import unisat as us

pytestmark = [pytest.mark.runs_once, pytest.mark.filterwarnings("ignore")]

transformers = pytest.importorskip("transformers")
MAJOR = int(transformers.__version__.split(".")[0])
TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJK"]


def clips(count=8):
    random = np.random.default_rng(0)
    return [random.normal(0, 0.1, random.integers(700, 1500)).astype(np.float32) for _ in range(count)]


def config(**changes):
    return small_config(vocab_size=len(TOKENS), num_labels=3, classifier_proj_size=8, mask_time_length=2, **changes)


@pytest.fixture
def processor():
    vocabulary = {token: index for index, token in enumerate(TOKENS)}
    extractor = us.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return us.Wav2Vec2Processor(extractor, us.Wav2Vec2CTCTokenizer(vocabulary))


@pytest.fixture
def trainer(monkeypatch):
    """Give a function that makes the Trainer of the version that is installed."""
    accelerate = pytest.importorskip("accelerate")
    known = inspect.signature(accelerate.Accelerator).parameters

    def accelerator(**options):  # newer releases have taken arguments away that 4.37.2 passes
        return accelerate.Accelerator(**{name: value for name, value in options.items() if name in known})

    monkeypatch.setattr("transformers.trainer.Accelerator", accelerator)

    def make(model, folder, data, collator, **options):
        arguments = inspect.signature(transformers.TrainingArguments).parameters
        if options.pop("checkpointing", False):
            newer = "activation_checkpointing" in arguments
            options["activation_checkpointing" if newer else "gradient_checkpointing"] = True
        settings = dict(max_steps=5, save_steps=1, logging_steps=1, report_to=[], disable_tqdm=True, use_cpu=True)
        args = transformers.TrainingArguments(
            str(folder), per_device_train_batch_size=4, per_device_eval_batch_size=3, **settings, **options
        )
        return transformers.Trainer(model, args, data_collator=collator, train_dataset=data, eval_dataset=data)

    return make


def losses(run):
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_classifier_is_trained_resumed_and_loaded(trainer, processor, tmp_path, checkpointing):
    data = [{"input_values": clip, "label": index % 3} for index, clip in enumerate(clips())]
    collator = transformers.DataCollatorWithPadding(processor.feature_extractor)
    model = us.UniSpeechSatForSequenceClassification(config())
    start = {name: value.clone() for name, value in model.state_dict().items()}
    run = trainer(model, tmp_path, data, collator, checkpointing=checkpointing)
    run.train()
    assert len(losses(run)) == 5
    assert np.isfinite(run.evaluate()["eval_loss"])
    predicted = run.predict([{"input_values": one["input_values"]} for one in data]).predictions
    with torch.no_grad():
        batch = collator([{"input_values": one["input_values"]} for one in data])
        torch.testing.assert_close(torch.tensor(predicted), model.eval()(**batch).logits)

    again = us.UniSpeechSatForSequenceClassification(config())
    again.load_state_dict(start)
    checkpoint = tmp_path / "checkpoint-3"
    if MAJOR < 5:  # torch refuses the random state that 4.37.2 keeps; dropout then draws others
        (checkpoint / "rng_state.pth").unlink()
    resumed = trainer(again, tmp_path, data, collator, checkpointing=checkpointing)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == 5
    if MAJOR >= 5:
        torch.testing.assert_close(again.state_dict(), model.state_dict())

    with pytest.raises(FileNotFoundError, match="config=model.config"):
        us.UniSpeechSatForSequenceClassification.from_pretrained(tmp_path / "checkpoint-5")
    loaded = us.UniSpeechSatForSequenceClassification.from_pretrained(tmp_path / "checkpoint-5", config=model.config)
    for name, value in again.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_letters_are_trained(trainer, processor, tmp_path):
    texts = ["A BAD CAB", "I FED A", "HI", "KID"] * 2
    data = [
        {"input_values": clip, "labels": processor(text=text).input_ids}
        for clip, text in zip(clips(), texts, strict=True)
    ]

    def collate(examples):
        sounds = [{"input_values": one["input_values"]} for one in examples]
        letters = [{"input_ids": one["labels"]} for one in examples]
        return processor.pad(sounds, letters, pad_labels_with=-100, return_tensors="pt")

    model = us.UniSpeechSatForCTC(config(ctc_zero_infinity=True))
    run = trainer(model, tmp_path, data, collate)
    run.train()
    assert np.isfinite(losses(run)).all()
    assert np.isfinite(run.evaluate()["eval_loss"])


def theirs_of(model, folder):
    model.save_pretrained(folder)
    return getattr(transformers, type(model).__name__).from_pretrained(folder).eval()


@pytest.mark.parametrize("options", [{}, {"return_timestamps": "word"}, {"chunk_length_s": 0.05}])
def test_speech_recognition_in_a_pipeline(processor, tmp_path, options):
    ours = shuffled(us.UniSpeechSatForCTC(config()))
    processor.save_pretrained(tmp_path)
    theirs, reader = theirs_of(ours, tmp_path), transformers.AutoProcessor.from_pretrained(tmp_path)
    heard = []
    for model, parts in ((ours, processor), (theirs, reader)):
        pipe = transformers.pipeline(
            "automatic-speech-recognition", model, feature_extractor=parts.feature_extractor, tokenizer=parts.tokenizer
        )
        heard.append([pipe(clip, **options) for clip in clips(3)])
    assert heard[0] == heard[1]
    assert any(one["text"] for one in heard[0])


def test_classes_of_sound_in_a_pipeline(processor, tmp_path):
    ours = shuffled(us.UniSpeechSatForSequenceClassification(config()))
    processor.save_pretrained(tmp_path)
    theirs, reader = theirs_of(ours, tmp_path), transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    for clip in clips(3):
        mine, other = (
            transformers.pipeline("audio-classification", model, feature_extractor=extractor)(clip)
            for model, extractor in ((ours, processor.feature_extractor), (theirs, reader))
        )
        assert [one["label"] for one in mine] == [one["label"] for one in other]
        assert [one["score"] for one in mine] == pytest.approx([one["score"] for one in other], abs=1e-5)


def test_processors_are_read_both_ways(processor, tmp_path):
    text, clip = "A BAD CAB", clips(1)[0]
    processor.feature_extractor.do_normalize = False
    processor.save_pretrained(tmp_path / "ours")
    theirs = transformers.Wav2Vec2Processor.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    assert (tmp_path / "theirs" / "processor_config.json").exists() == (MAJOR >= 5)
    shutil.copytree(tmp_path / "theirs", tmp_path / "again")
    ours = us.Wav2Vec2Processor.from_pretrained(tmp_path / "theirs")
    ours.feature_extractor.do_normalize = True
    ours.save_pretrained(tmp_path / "again")
    again = transformers.Wav2Vec2Processor.from_pretrained(tmp_path / "again")
    assert (theirs.feature_extractor.do_normalize, again.feature_extractor.do_normalize) == (False, True)
    for one in (theirs, us.Wav2Vec2Processor.from_pretrained(tmp_path / "theirs")):
        assert one(text=text).input_ids == processor(text=text).input_ids
        values = one(clip, sampling_rate=16000, return_tensors="np").input_values
        np.testing.assert_allclose(values, clip[None])
        assert one.decode([5, 5, 0, 5, 4, 6]) == "AA B"


@pytest.mark.parametrize("kind", ["UniSpeechSatForSequenceClassification", "UniSpeechSatForAudioFrameClassification"])
def test_weighted_sums_are_those_of_the_version_that_wrote_the_file(tmp_path, kind):
    changes = dict(do_stable_layer_norm=True, feat_extract_norm="layer", use_weighted_layer_sum=True)
    shuffled(getattr(us, kind)(config(**changes))).save_pretrained(tmp_path / "ours")
    theirs = getattr(transformers, kind).from_pretrained(tmp_path / "ours").eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = getattr(us, kind).from_pretrained(tmp_path / "theirs")
    waveform = torch.from_numpy(clips(1)[0])[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(waveform).logits, theirs(waveform).logits, rtol=1e-4, atol=1e-5)


def test_half_precision_does_not_outlive_its_weights(tmp_path):
    """A file that says half and holds float32 would be halved by transformers 5."""
    half = transformers.UniSpeechSatModel(transformers.UniSpeechSatConfig(**json.loads(config().to_json_string())))
    half.half().save_pretrained(tmp_path / "half")
    assert us.UniSpeechSatModel.from_pretrained(tmp_path / "half").dtype == torch.float16
    us.UniSpeechSatModel.from_pretrained(tmp_path / "half", dtype="float32").save_pretrained(tmp_path / "whole")
    written = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert {key: value for key, value in written.items() if "dtype" in key} == {"torch_dtype": "float32"}
    assert transformers.UniSpeechSatModel.from_pretrained(tmp_path / "whole").dtype == torch.float32
