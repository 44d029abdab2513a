"""The x-vector head on a frozen backbone, error rates of trials, and the checkpoint that comes with unisat."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import shuffled, small_config
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_curve
from test_heads import TDNN

import unisat as us
from unisat.cli import main
from unisat.interpret.verification import eer, eer_interval
from unisat.training import speakers


@pytest.fixture
def speech(tmp_path):
    """Six voices, four hums each: a voice is a pitch and a colour."""
    rows, draw = [], np.random.default_rng(0)
    for voice in range(6):
        colour = draw.normal(size=12)
        for index in range(4):
            seconds = np.arange(int(16_000 * (0.5 + 0.1 * index))) / 16_000
            hum = sum(np.sin(2 * np.pi * (150 + 60 * voice) * k * seconds + k) / k for k in range(1, 6))
            wave = np.convolve(hum + 0.1 * draw.normal(size=len(seconds)), colour, "same")
            soundfile.write(tmp_path / f"{voice}{index}.wav", 0.3 * wave / np.abs(wave).max(), 16_000)
            rows.append({"path": f"{voice}{index}.wav", "speaker": f"s{voice}"})
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    shuffled(us.UniSpeechSatModel(small_config(**TDNN))).save_pretrained(tmp_path / "backbone")
    return tmp_path


def made(speech, **changes):
    sources = {"hums": {"source": str(speech / "table.csv")}}
    values = dict(out=str(speech / "out"), model=str(speech / "backbone"), train=sources)
    values |= dict(shortest_seconds=0.2, longest_seconds=0.4, batch_size=6, steps=60, learning_rate=1e-2)
    return speakers.XVectorRecipe(**{**values, **changes})


def test_a_head_learns_voices_and_leaves_the_backbone(speech):
    folder = speakers.train(made(speech), progress=False)
    model = us.UniSpeechSatForXVector.from_pretrained(folder)
    backbone = us.UniSpeechSatModel.from_pretrained(speech / "backbone")
    for name, weight in backbone.state_dict().items():
        assert torch.equal(model.unispeech_sat.state_dict()[name], weight), name
    assert model.config.id2label == {row: f"s{row}" for row in range(6)}
    with (speech / "out" / "train.csv").open() as lines:
        losses = [float(row["loss"]) for row in csv.DictReader(lines)]
    assert losses[-1] < 0.7 * losses[0]
    assert not (speech / "out" / "hidden.f16").exists()
    assert json.loads((folder / "recipe.json").read_text())["steps"] == 60
    again = speakers.train(made(speech, out=str(speech / "again")), progress=False)
    same = us.UniSpeechSatForXVector.from_pretrained(again).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())


def test_stored_hidden_states_are_the_models(speech, tmp_path):
    backbone = us.UniSpeechSatModel.from_pretrained(speech / "backbone")
    corpus = us.corpus.folder(speech, layout="metadata") if (speech / "metadata.csv").exists() else None
    corpus = speakers.manifest(speech / "table.csv") if corpus is None else corpus
    store = speakers.HiddenStore(backbone, corpus, tmp_path / "store")
    row = 7
    wave = us.audio.normalize(us.audio.load(corpus.table["path"][row]))
    with torch.no_grad():
        states = backbone(wave[None], output_hidden_states=True).hidden_states
    crop = store.crop(row, 5, 20)
    assert crop.shape == (20, 4, 16)
    torch.testing.assert_close(crop[:, 2].float(), states[2][0, 5:25], rtol=2e-3, atol=2e-3)
    assert store.speakers[row] == "s1"
    # the head on the stored states is the head on the waveform
    model = shuffled(us.UniSpeechSatForXVector(backbone.config.replace(use_weighted_layer_sum=True)))
    model.unispeech_sat.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        whole = store.crop(row, 0, store.frames[row]).float()[None]
        torch.testing.assert_close(
            model.embed(model.weigh(whole.unbind(2))), model(wave[None]).embeddings, rtol=1e-2, atol=1e-2
        )


def test_mistakes(speech, capsys):
    table = pd.read_csv(speech / "table.csv")
    table.loc[3, "speaker"] = None
    table.to_csv(speech / "nameless.csv", index=False)
    with pytest.raises(ValueError, match=r"1 utterance\(s\) have no speaker"):
        speakers.train(made(speech, train={"x": {"source": str(speech / "nameless.csv")}}), progress=False)
    with pytest.raises(ValueError, match=r"needs at least two speakers, got \['s0'\]"):
        speakers.train(
            made(speech, train={"x": {"source": str(speech / "table.csv"), "speaker": "s0"}}), progress=False
        )
    for values, message in [
        (dict(train={}), "at least one source"),
        (dict(shortest_seconds=3.0), "must be positive and in order"),
        (dict(steps=0), "must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            made(speech, **values)
    recipe = speech / "recipe.toml"
    recipe.write_text(f'out = "{speech / "cli"}"\nmodel = "{speech / "backbone"}"\nstep = 3\n')
    with pytest.raises(SystemExit):
        main(["xvector", "--config", str(recipe)])
    assert "no key step (did you mean steps" in capsys.readouterr().err
    text = recipe.read_text().replace("step = 3", "steps = 3\nshortest_seconds = 0.2\nlongest_seconds = 0.3")
    recipe.write_text(text + f'[train.hums]\nsource = "{speech / "table.csv"}"\n')
    main(["xvector", "--config", str(recipe), "--set", "batch_size=4"])
    assert capsys.readouterr().out.strip() == str(speech / "cli" / "model")


# error rates


def test_error_rates_one_knows():
    same = np.array([True, True, False, False])
    assert eer(np.array([4.0, 3, 2, 1]), same) == 0
    assert eer(np.array([1.0, 2, 3, 4]), same) == 1
    assert eer(np.zeros(4), same) == pytest.approx(0.5)
    assert eer(np.array([4.0, 1, 3, 0]), same) == pytest.approx(0.5)
    draw = np.random.default_rng(0)
    scores, labels = draw.normal(size=20_000), draw.random(20_000) < 0.3
    assert eer(scores, labels) == pytest.approx(0.5, abs=0.02)
    assert eer(scores + 2 * labels, labels) == pytest.approx(0.1587, abs=0.01)  # two normals, two apart: Φ(-1)
    for wrong, message in [
        ((np.zeros(3), same), "one number a trial"),
        ((np.array([1, np.nan, 0, 0]), same), "1 of 4 scores are not finite"),
        ((np.zeros(4), np.ones(4, bool)), "trials of one speaker and trials of two"),
    ]:
        with pytest.raises(ValueError, match=message):
            eer(*wrong)


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40))
def test_error_rate_is_where_the_roc_meets_the_diagonal(trials):
    scores, same = (np.array(side) for side in zip(*trials, strict=True))
    if same.all() or not same.any():
        return
    rate = eer(scores, same)
    false_alarm, hit, _ = roc_curve(same, scores, drop_intermediate=False)
    # on the curve through scikit-learn's points (vertical steps apart) misses equal false alarms there
    grid = np.linspace(0, 1, len(false_alarm) * 2000)
    points = np.interp(grid, np.linspace(0, 1, len(false_alarm)), false_alarm)
    misses = 1 - np.interp(grid, np.linspace(0, 1, len(hit)), hit)
    assert rate == pytest.approx(points[np.abs(points - misses).argmin()], abs=2e-3)
    assert eer(2.0 * scores + 7, same) == pytest.approx(rate)
    assert eer(-scores, ~same) == pytest.approx(rate)
    # a trial of weight two is the trial twice
    weights = np.arange(len(scores)) % 3 + 1
    assert eer(scores, same, weights) == pytest.approx(eer(np.repeat(scores, weights), np.repeat(same, weights)))


def test_intervals_are_over_speakers():
    draw = np.random.default_rng(0)
    voices, first, second, same = 20, [], [], []
    for a in range(voices):
        for b in range(voices):
            first.append(f"s{a}")
            second.append(f"s{b}")
            same.append(a == b)
    same = np.repeat(same, 5)
    first, second = np.repeat(first, 5), np.repeat(second, 5)
    quality = {f"s{a}": draw.normal(2, 1) for a in range(voices)}
    scores = draw.normal(size=len(same)) + same * np.array([quality[name] for name in first])
    low, high = eer_interval(scores, same, (first, second), n_boot=200)
    assert low < eer(scores, same) < high
    assert eer_interval(scores, same, (first, second), n_boot=200) == (low, high)
    # many trials of few speakers: trials alone would promise far more than is known
    narrow = [eer(scores[rows], same[rows]) for rows in (draw.integers(len(same), size=len(same)) for _ in range(200))]
    assert high - low > 1.2 * (np.quantile(narrow, 0.975) - np.quantile(narrow, 0.025))
