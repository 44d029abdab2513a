"""Letters and who speaks when: what the training of the two heads is given, and that it learns what is there."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import shuffled, small_config

import unisat as us
from unisat.cli import main
from unisat.training import heads

pytestmark = pytest.mark.runs_once
PITCH = {"A": 300, "B": 2000}


@pytest.fixture
def spoken(tmp_path):
    """A letter is a tone, three times; by two speakers of different loudness. Two rows say nothing."""
    rows, draw = [], np.random.default_rng(0)
    for number in range(24):
        letter = "AB"[number // 2 % 2]
        time = np.arange(2400) / 16_000
        tone = np.sin(2 * np.pi * PITCH[letter] * time) * np.hanning(2400)
        wave = np.concatenate([tone, np.zeros(800)] * 3)
        wave = (0.2 + 0.2 * (number % 2)) * wave + 1e-4 * draw.normal(size=len(wave))
        soundfile.write(tmp_path / f"{number}.wav", wave, 16_000)
        rows.append({"id": number, "path": f"{number}.wav", "speaker": "ab"[number % 2], "text": letter.lower() + " "})
    rows.append({"id": 24, "path": "0.wav", "speaker": "a", "text": None})
    rows.append({"id": 25, "path": "1.wav", "speaker": "b", "text": "12 ?"})
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    shuffled(us.UniSpeechSatModel(small_config())).save_pretrained(tmp_path / "backbone")
    return tmp_path


def made(spoken, **changes):
    sources = {"tones": {"source": str(spoken / "table.csv")}}
    values = dict(out=str(spoken / "out"), model=str(spoken / "backbone"), train=sources, valid=sources)
    values |= dict(shortest_seconds=0.2, longest_seconds=1.0, batch_size=8, batch_seconds=5.0, learning_rate=5e-3)
    return heads.HeadRecipe(**{**values, "backbone_learning_rate": 2e-3, "steps": 200, **changes})


def test_letters_are_learned_and_what_is_written_reads(spoken):
    ear = us.load("tiny")  # one that has learned to hear, cut down to two layers
    backbone = us.UniSpeechSatModel(ear.config.replace(num_hidden_layers=2))
    backbone.load_state_dict(ear.state_dict(), strict=False)
    backbone.save_pretrained(spoken / "backbone")
    settings = dict(learning_rate=3e-3, backbone_learning_rate=1e-3, batch_seconds=8.0, steps=60)
    folder = heads.train("ctc", made(spoken, **settings), progress=False)
    row = pd.read_csv(spoken / "out" / "valid.csv").iloc[0]
    assert row["utterances"] == 24  # those that say nothing are left out
    assert row["characters"] == 24
    losses = pd.read_csv(spoken / "out" / "train.csv")["loss"]
    assert losses.min() < 0.6 < losses[0]  # who hears nothing has ln 2 at best
    # what is written reads: the processor prepares the sound, the words come out, and the rates are those of the text
    model, processor = us.UniSpeechSatForCTC.from_pretrained(folder), us.Wav2Vec2Processor.from_pretrained(folder)
    table = pd.read_csv(spoken / "table.csv").iloc[:24]
    wrong = 0
    for path, text in zip(table["path"], table["text"], strict=True):
        inputs = processor(us.audio.load(spoken / path).numpy(), sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            wrong += heads.edits(processor.decode(model(**inputs).logits[0].argmax(-1)), text.strip().upper())
    assert wrong == pytest.approx(row["character_error"] * 24, abs=1)  # 16 bits, and padding in batches
    before = us.UniSpeechSatModel.from_pretrained(spoken / "backbone").state_dict()
    kept = {name: torch.equal(value, before[name]) for name, value in model.unispeech_sat.state_dict().items()}
    assert all(same for name, same in kept.items() if name.startswith("feature_extractor."))
    assert not kept["encoder.layers.0.attention.q_proj.weight"]


def test_a_text_is_spelled_in_the_vocabulary():
    assert heads.spelled("It’s 5 o'clock -- Peas,\nplease!") == "IT'S O'CLOCK PEAS PLEASE"
    assert heads.spelled(float("nan")) == ""
    assert len(heads.LETTERS) == 32


@pytest.mark.parametrize(
    ("one", "other", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("ab", "ba", 2)]
)
def test_edits_one_knows(one, other, distance):
    assert heads.edits(one, other) == heads.edits(other, one) == distance


def test_batches_of_letters_hold_everything_once(spoken):
    head = heads.CTC(made(spoken, speeds=[1.0, 0.8]), small_config(), torch.device("cpu"))
    plan = head.plan(head.speech, np.random.default_rng(0))
    assert sorted(row for rows in plan for row in rows.tolist()) == [*range(24)]
    assert all(len(rows) * head.speech.samples[rows].max() <= 5.0 * 16_000 for rows in plan)
    batch = head.batch(head.speech, plan[0], 0.8)
    assert batch.lengths.tolist() == [int(9600 / 0.8)] * len(plan[0])
    for row, ids in zip(plan[0], batch.truth, strict=True):
        assert head.tokenizer.decode(ids[ids >= 0], group_tokens=False) == head.speech.table["text"].iloc[row]


def test_who_speaks_when_is_learned(spoken):
    heads.train("diarization", made(spoken, steps=80), progress=False)
    row = pd.read_csv(spoken / "out" / "valid.csv").iloc[0]
    assert 0.1 < row["frame_error_constant"] <= row["frame_error_nobody"] < 0.7
    assert row["frame_error"] < 0.8 * row["frame_error_constant"]


def test_frames_of_a_mixture_made_by_hand(spoken):
    """Speech is where the tones are; of what is weaker by more than 30 dB nothing counts."""
    head = heads.Diarization(made(spoken), small_config(), torch.device("cpu"))
    wave = torch.zeros(1, 16_000)
    time = torch.arange(4000) / 16_000
    wave[0, 2000:6000] = torch.sin(2 * torch.pi * 500 * time)
    wave[0, 8000:12_000] = 0.05 * torch.sin(2 * torch.pi * 500 * time)  # -26 dB
    wave[0, 12_000:16_000] = 0.02 * torch.sin(2 * torch.pi * 500 * time)  # -34 dB
    active = head.active(wave)[0]
    config = head.config
    size, step = us.frames.receptive_field(config.conv_kernel, config.conv_stride), us.frames.hop(config.conv_stride)
    assert len(active) == us.frames.stack_length(16_000, config.conv_kernel, config.conv_stride)
    for frame, on in enumerate(active.tolist()):
        start, end = frame * step, frame * step + size
        inside = [first <= start and end <= last for first, last in ((2000, 6000), (8000, 12_000))]
        silent = end <= 2000 or (start >= 6000 and end <= 8000) or start >= 12_000
        assert on == any(inside) or not (any(inside) or silent), frame


def test_a_mixture_is_the_sum_of_its_voices(spoken, monkeypatch):
    head = heads.Diarization(made(spoken, do_normalize=False), small_config(), torch.device("cpu"))
    seen, cut = [], head.speech.cut
    monkeypatch.setattr(head.speech, "cut", lambda *given: seen.append((given, cut(*given))) or seen[-1][1])
    batch = head.mixtures(head.speech, np.random.default_rng(3), 12)
    (one, first), (other, second) = seen
    names = head.speech.table["speaker"].to_numpy()
    assert (names[one[0]] != names[other[0]]).all()
    offsets = other[4]
    assert (offsets < one[2]).all()  # the second begins while the first speaks
    assert (batch.lengths.numpy() == np.maximum(one[2], offsets + other[2])).all()
    for row in range(12):
        voices = torch.stack([first[row], second[row]], 1)
        found = torch.linalg.lstsq(voices, batch.waves[row, :, None])
        torch.testing.assert_close(voices @ found.solution[:, 0], batch.waves[row], rtol=0, atol=1e-4)
        power = (voices * found.solution[:, 0]).square().sum(0) / torch.tensor([one[2][row], other[2][row]])
        assert abs(10 * torch.log10(power[1] / power[0])) < 5.01
        assert torch.equal(batch.truth[row, :, 1] > 0, head.active(second[row : row + 1])[0])


def test_errors_do_not_depend_on_the_order_of_voices():
    draw = torch.Generator().manual_seed(0)
    truth = torch.rand(5, 40, 2, generator=draw) < 0.4
    valid = torch.arange(40) < torch.tensor([40, 30, 20, 10, 5])[:, None]
    assert heads.frame_errors(truth.flip(-1), truth, valid) == (0, 2 * 105)
    said = truth.clone()
    said[0, :3, 1] ^= True
    said[4, 20:] ^= True  # padding
    assert heads.frame_errors(said, truth, valid)[0] == 3
    assert heads.frame_errors(said.flip(-1), truth, valid)[0] == 3


def test_a_clock_ends_the_training_and_lowers_the_rate(spoken):
    shares = iter([0.0, 0.3, 0.6, 1.0])
    folder = heads.train("ctc", made(spoken, valid={}), progress=False, clock=lambda: next(shares))
    assert json.loads((folder / "recipe.json").read_text())["steps"] == 3
    rates = [heads.one_cycle(share) for share in (0, 0.075, 0.15, 0.575, 1)]
    assert rates == pytest.approx([0.04, 0.52, 1, 0.5, 0], abs=1e-9)


def test_mistakes(spoken, capsys):
    pd.read_csv(spoken / "table.csv").drop(columns="text").to_csv(spoken / "mute.csv", index=False)
    recipe = spoken / "recipe.toml"
    recipe.write_text(
        f'out = "{spoken / "cli"}"\nmodel = "{spoken / "backbone"}"\nsteps = 2\nshortest_seconds = 0.2\n'
        f'batch_size = 2\n[train.x]\nsource = "{spoken / "mute.csv"}"\n[augment]\nclean_prob = 0.1\nroom_prob = 0.5\n'
    )
    with pytest.raises(SystemExit):
        main(["ctc", "--config", str(recipe)])
    assert "needs; see shortest_seconds" in capsys.readouterr().err
    main(["diarization", "--config", str(recipe)])
    assert capsys.readouterr().out.strip() == str(spoken / "cli" / "model")
