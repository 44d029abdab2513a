"""The x-vector head on a frozen backbone, error rates of trials, and the checkpoint that comes with unisat."""

import csv
import json
from pathlib import Path

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
from unisat.files import alone
from unisat.interpret.statistics.error_rates import eer, eer_interval
from unisat.training import heads
from unisat.training.data import manifest

pytestmark = pytest.mark.runs_once


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
    return heads.HeadRecipe(**{**values, **changes})


def test_a_head_learns_voices_and_leaves_the_backbone(speech):
    folder = heads.train("xvector", made(speech), progress=False)
    model = us.UniSpeechSatForXVector.from_pretrained(folder)
    backbone = us.UniSpeechSatModel.from_pretrained(speech / "backbone")
    for name, weight in backbone.state_dict().items():
        assert torch.equal(model.unispeech_sat.state_dict()[name], weight), name
    assert model.config.id2label == {row: f"s{row}" for row in range(6)}
    with (speech / "out" / "train.csv").open() as lines:
        losses = [float(row["loss"]) for row in csv.DictReader(lines)]
    assert losses[-1] < 0.7 * losses[0]
    assert json.loads((folder / "recipe.json").read_text())["steps"] == 60
    again = heads.train("xvector", made(speech, out=str(speech / "again")), progress=False)
    same = us.UniSpeechSatForXVector.from_pretrained(again).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())


def test_states_that_are_kept_teach_what_hearing_teaches(speech, monkeypatch):
    """A batch that is recalled in each step against the same batch heard in each step; and several of them."""
    heard = []

    def losses(name, **changes):
        recipe = made(speech, out=str(speech / name), steps=12, learning_rate=1e-3, **changes)
        heads.train("xvector", recipe, progress=False)
        return pd.read_csv(speech / name / "train.csv")["loss"].to_numpy()

    original, forward = heads.XVector.batches, us.UniSpeechSatModel.forward

    def always_the_same(self, speech, draw):
        first = next(original(self, speech, draw))
        while True:
            yield first

    def counted(self, *arguments, **options):
        heard.append(1)
        return forward(self, *arguments, **options)

    monkeypatch.setattr(us.UniSpeechSatModel, "forward", counted)
    several = losses("several", hearings=3)
    assert len(heard) == 1 + 3  # once to give the head's signals their size
    assert np.isfinite(several).all()
    monkeypatch.setattr(heads.XVector, "batches", always_the_same)
    assert losses("recalled", hearings=1) == pytest.approx(losses("heard"), rel=5e-3)  # halves
    with pytest.raises(ValueError, match=r"hearings=4 must be at least 0, and 0 where the backbone learns"):
        made(speech, hearings=4, backbone_learning_rate=1e-3)
    with pytest.raises(ValueError, match="only the training of an x-vector keeps hidden states"):
        heads.train("diarization", made(speech, hearings=1), progress=False)


@pytest.mark.filterwarnings("ignore:on this processor")
def test_the_transformer_may_learn_too(speech):
    more = dict(steps=150, learning_rate=5e-3)
    recipe = made(speech, backbone_learning_rate=1e-3, speeds=[1.0, 0.8], precision="bf16", margin=0.2, **more)
    model = us.UniSpeechSatForXVector.from_pretrained(heads.train("xvector", recipe, progress=False))
    before = us.UniSpeechSatModel.from_pretrained(speech / "backbone").state_dict()
    kept = {name: torch.equal(value, before[name]) for name, value in model.unispeech_sat.state_dict().items()}
    assert all(same for name, same in kept.items() if name.startswith("feature_extractor."))
    assert not kept["feature_projection.projection.weight"]
    assert not kept["encoder.layers.1.attention.q_proj.weight"]
    # the classes of the other speed are gone: what is left tells the speakers at their own
    assert model.objective.weight.shape == (model.config.xvector_output_dim, 6)
    assert model.config.num_labels == 6
    right = []
    for voice, index in np.ndindex(6, 4):
        wave = us.audio.normalize(us.audio.load(speech / f"{voice}{index}.wav"))
        with torch.no_grad():
            logits = model(wave[None]).logits
        right.append(int((logits @ torch.nn.functional.normalize(model.objective.weight, dim=0)).argmax() == voice))
    assert np.mean(right) >= 0.5, right  # a sixth by chance; the last digits of 150 steps in bf16 move some of them


@pytest.mark.filterwarnings("ignore:on this processor")
def test_margin_and_precision_reach_the_loss(speech):
    def first_loss(name, **changes):
        heads.train("xvector", made(speech, out=str(speech / name), steps=1, **changes), progress=False)
        return float(pd.read_csv(speech / name / "train.csv")["loss"].iloc[0])

    none, some, half = (
        first_loss("a", margin=0.0),
        first_loss("b", margin=0.3),
        first_loss("c", margin=0.0, precision="bf16"),
    )
    assert none < some <= none + 30 * 0.3 + 1e-4  # no more than scale times margin
    assert half != none
    assert half == pytest.approx(none, rel=0.1)


def test_a_fresh_head_gives_signals_their_size(speech):
    """Mean 0 and variance 1 for each channel of each layer, on the batch it began with."""
    head = heads.XVector(made(speech), small_config(), torch.device("cpu"))
    model = shuffled(us.UniSpeechSatForXVector(small_config(use_weighted_layer_sum=True, **TDNN))).eval()
    waves = torch.randn(16, 4000, generator=torch.Generator().manual_seed(0))
    batch = heads.HeadBatch(waves, torch.full((16,), 4000), torch.zeros(16, dtype=torch.long))
    head.begin(model, batch)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    seen = {}
    for name in ("projector", "feature_extractor", "classifier"):
        getattr(model, name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    for index, layer in enumerate(model.tdnn):
        layer.activation.register_forward_pre_hook(lambda _, given, name=f"tdnn {index}": seen.update({name: given[0]}))
    with torch.no_grad():
        model(waves)
    assert len(seen) == 3 + len(model.tdnn)
    for name, out in seen.items():
        std, mean = torch.std_mean(out.flatten(0, -2), 0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-4, msg=name)
        # a channel behind dead units is constant, and stays so
        assert ((std - 1).abs() < 1e-3).float().mean() > 0.9, name


def test_crops_are_the_files(speech):
    corpus = manifest(speech / "table.csv")
    found = heads.Speech(corpus, "cpu")
    rows, first, lengths = np.array([3, 14]), np.array([100, 0]), np.array([5000, 700])
    crops = found.cut(rows, first, lengths, 6000, offsets=np.array([0, 400]))
    for crop, row, start, length, offset in zip(crops, rows, first, lengths, (0, 400), strict=True):
        wave = us.audio.load(corpus.table["path"][row])
        torch.testing.assert_close(crop[offset : offset + length], wave[start : start + length], rtol=0, atol=2e-5)
        assert not crop[:offset].any()
        assert not crop[offset + length :].any()


def test_batches_hold_voices_of_their_labels(speech):
    """Each crop is a stretch of a file of its speaker, normalised; utterances too short for the crop are padded."""
    recipe = made(speech, shortest_seconds=0.6, longest_seconds=0.75, batch_size=5)
    head = heads.XVector(recipe, small_config(), torch.device("cpu"))
    batches, draw = head.batches(head.speech, np.random.default_rng(0)), 0
    for _ in range(5):
        batch = next(batches)
        assert len({*batch.truth.tolist()}) == 5
        for wave, length, label in zip(batch.waves, batch.lengths.tolist(), batch.truth.tolist(), strict=True):
            assert not wave[length:].any()
            assert float(wave[:length].mean()) == pytest.approx(0, abs=1e-4)
            assert float(wave[:length].std()) == pytest.approx(1, abs=1e-2)
            best = 0.0
            for index in range(1, 4):
                whole = us.audio.load(speech / f"{label}{index}.wav")
                windows = whole.unfold(0, length, 1) if len(whole) >= length else torch.zeros(1, length)
                windows = torch.nn.functional.normalize(windows - windows.mean(1, keepdim=True), dim=1)
                best = max(best, float((windows @ torch.nn.functional.normalize(wave[:length], dim=0)).max()))
            assert best > 0.999
            draw += length < len(wave)
    assert draw  # some were padded


def test_another_speed_moves_the_pitch():
    """At twice the speed a tone of 400 Hz is one of 800 Hz, and half as long."""
    time = torch.arange(16_000) / 16_000
    fast = heads.at_speed(torch.sin(2 * torch.pi * 400 * time)[None], 8000)[0]
    torch.testing.assert_close(fast, torch.sin(2 * torch.pi * 800 * time[:8000]), rtol=0, atol=1e-3)


def test_a_second_run_in_the_same_folder_is_refused(speech):
    recipe = made(speech)
    with alone(Path(recipe.out)), pytest.raises(OSError, match="is at work in"):
        heads.train("xvector", recipe, progress=False)


def test_mistakes(speech, capsys):
    table = pd.read_csv(speech / "table.csv")
    table.loc[3, "speaker"] = None
    table.to_csv(speech / "nameless.csv", index=False)
    with pytest.raises(ValueError, match=r"1 utterance\(s\) have no speaker"):
        heads.train("xvector", made(speech, train={"x": {"source": str(speech / "nameless.csv")}}), progress=False)
    with pytest.raises(ValueError, match=r"needs at least two speakers, got \['s0'\]"):
        heads.train(
            "xvector", made(speech, train={"x": {"source": str(speech / "table.csv"), "speaker": "s0"}}), progress=False
        )
    for values, message in [
        (dict(train={}), "at least one source"),
        (dict(shortest_seconds=3.0), "must be positive and in order"),
        (dict(steps=0), "must be at least 1"),
        (dict(learning_rate=0.0), "must be positive"),
        (dict(backbone_learning_rate=-1e-4), "at least 0"),
        (dict(speeds=[0.9, 1.0]), "begin with 1"),
        (dict(speeds=[1.0, 0.9, 0.9]), "each another one"),
        (dict(precision="fp16"), "must be 'no' or 'bf16'"),
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
    # against itself there is nothing; of a worse system each draw says so, though the intervals of the two overlap
    assert eer_interval(scores, same, (first, second), versus=scores, n_boot=50) == (0, 0)
    worse = scores + 1.5 * draw.normal(size=len(same))
    below, above = eer_interval(scores, same, (first, second), versus=worse, n_boot=200)
    assert below < eer(scores, same) - eer(worse, same) < above < 0
    assert eer_interval(worse, same, (first, second), n_boot=200)[0] < high
    # many trials of few speakers: trials alone would promise far more than is known
    narrow = [eer(scores[rows], same[rows]) for rows in (draw.integers(len(same), size=len(same)) for _ in range(200))]
    assert high - low > 1.2 * (np.quantile(narrow, 0.975) - np.quantile(narrow, 0.025))
