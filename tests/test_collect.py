"""A corpus through a model: the same numbers as one utterance at a time, whatever is batched, interrupted or shared."""

import copy
import functools
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import shuffled, small_config

import unisat as us
from unisat import acoustics
from unisat.interpret.activations.capture import capture
from unisat.interpret.activations.reduce import Moments, TopFrames, mean_std
from unisat.interpret.features import collect as module
from unisat.interpret.features import store
from unisat.interpret.features.code import code_digest
from unisat.interpret.features.collect import batches, draw_masks, untrained_twin

SECONDS = [0.2, 0.05, 0.11, 0.16, 0.07, 0.2, 0.13, 0.03]
MASKED = dict(mask_time_prob=0.4, mask_time_length=3, mask_time_min_masks=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Eight noises of four speakers, lengths far apart."""
    folder = tmp_path_factory.mktemp("speech")
    draw = np.random.default_rng(0)
    rows = []
    for index, seconds in enumerate(SECONDS):
        wave = np.convolve(draw.normal(size=int(16_000 * seconds)), draw.normal(size=5 + index), "same")
        soundfile.write(folder / f"{index}.wav", 0.3 * wave / np.abs(wave).max(), 16_000, subtype="FLOAT")
        rows.append({"path": f"{index}.wav", "id": f"u{index}", "speaker": f"s{index % 4}", "colour": index % 2})
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    return us.corpus.folder(folder)


def alone(model, corpus, row, site="hidden.2", **inputs):
    """A site's values for one utterance, frame by frame."""
    batch = corpus.batch(row)
    with torch.no_grad(), capture(model, site) as trace:
        model(batch.input_values, **inputs)
    return trace[site][0].double().numpy()


def test_batched_is_alone(model, corpus):
    """In every kind of model: padding is exact, the order is the corpus's, and the table comes along."""
    bank = us.collect(model, corpus, ["hidden.*", "block.1.attn.z", "conv.1", "wave"], batch_seconds=0.6)
    assert bank.ids == [f"u{index}" for index in range(8)]
    assert bank.table["colour"].tolist() == [0, 1] * 4
    assert bank.hidden == ["hidden.0", "hidden.1", "hidden.2", "hidden.3"]
    for row in range(8):
        for site in ("hidden.2", "block.1.attn.z", "conv.1", "wave"):
            frames = alone(model, corpus, row, site).reshape(-1, int(np.prod(bank[site].shape[1:])) // 2)
            expected = np.concatenate([frames.mean(0), frames.std(0)])
            np.testing.assert_allclose(bank[site][row], expected, rtol=1e-4, atol=1e-5)


def test_frames_and_other_reductions(one_model, corpus):
    frames = us.collect(one_model, corpus, "hidden.2", reduce="frames")
    norms = us.collect(one_model, corpus, "hidden.2", reduce="norms")
    largest = us.collect(one_model, corpus, "hidden.2", reduce=lambda values, valid: values[..., 0].amax(1))
    for row in range(8):
        expected = alone(one_model, corpus, row)
        np.testing.assert_allclose(frames.frames("hidden.2", row), expected, rtol=1e-4, atol=1e-5)
        assert norms["hidden.2"][row, 0] == pytest.approx(np.sqrt((expected**2).mean()), rel=1e-5)
        assert largest["hidden.2"].shape == (8,)
    assert frames.lengths("hidden.2").tolist() == [len(alone(one_model, corpus, row)) for row in range(8)]


def test_what_a_reducer_of_one_s_own_gathers(one_model, corpus):
    class Largest:
        def __init__(self):
            self.seen = -torch.inf

        def update(self, values, valid):
            self.seen = max(self.seen, values[valid].max().item())

        def value(self):
            return {"largest": torch.tensor(self.seen)}

    prototype = Largest()
    bank = us.collect(one_model, corpus, "hidden.*", reduce=prototype)
    expected = max(alone(one_model, corpus, row).max() for row in range(8))
    assert bank.statistics("hidden.2")["largest"] == pytest.approx(expected, rel=1e-5)
    assert prototype.seen == -torch.inf  # each site has one of its own
    assert bank.sites == []
    assert len(bank) == 8


def test_moments_and_top_frames_over_the_corpus(one_model, corpus, tmp_path):
    everything = np.concatenate([alone(one_model, corpus, row) for row in range(8)])
    for folder in (None, tmp_path / "moments"):
        bank = us.collect(one_model, corpus, "hidden.2", reduce=Moments(), batch_seconds=0.3, folder=folder)
        found = bank.statistics("hidden.2")
        np.testing.assert_allclose(found["mean"], everything.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["covariance"], np.cov(everything.T, bias=True), rtol=1e-3, atol=1e-5)
    for folder in (None, tmp_path / "top"):
        bank = us.collect(one_model, corpus, "hidden.2", reduce=TopFrames(2), batch_seconds=0.3, folder=folder)
        top = bank.statistics("hidden.2")
        for channel in range(3):
            row, frame = int(top["rows"][channel, 0]), int(top["frames"][channel, 0])
            assert alone(one_model, corpus, row)[frame, channel] == pytest.approx(
                everything[:, channel].max(), rel=1e-5
            )


def test_masked_and_visible_frames(corpus):
    model = shuffled(us.UniSpeechSatModel(small_config(**MASKED)))
    hidden = us.collect(model, corpus, "mask.out", reduce="frames", frames="masked", seed=3)
    seen = us.collect(model, corpus, "mask.out", reduce="frames", frames="visible", seed=3, batch_seconds=0.2)
    others = us.collect(model, corpus, "mask.out", reduce="frames", frames="masked", seed=4)
    embedding = model.masked_spec_embed.detach().numpy()
    assert np.abs(hidden["mask.out"] - embedding).max() == 0
    assert (np.abs(seen["mask.out"] - embedding).max(1) > 0).all()
    whole = [len(alone(model, corpus, row)) for row in range(8)]
    # the draw is the utterance's own, so other batches do not change it
    assert (hidden.lengths("mask.out") + seen.lengths("mask.out")).tolist() == whole
    assert hidden.lengths("mask.out").min() > 0
    lengths = torch.tensor([3000, 900])
    one, other = (draw_masks(lengths, ["a", "b"], model.config, seed) for seed in (0, 1))
    assert torch.equal(one[1:, : other.shape[1]], draw_masks(lengths[[1, 0]], ["b", "a"], model.config, 0)[:1])
    assert not torch.equal(one, other)
    assert others["mask.out"].shape != hidden["mask.out"].shape or others.lengths("mask.out").sum() > 0


def test_codes_of_masked_frames(corpus):
    model = shuffled(us.UniSpeechSatForPreTraining(small_config(**MASKED)))
    bank = us.collect(model, corpus, "quant.codes", reduce="counts", frames="masked", batch_seconds=0.3)
    config = model.config
    assert bank["quant.codes"].shape == (8, config.num_codevector_groups, config.num_codevectors_per_group)
    for row in range(8):
        batch = corpus.batch(row)
        mask = draw_masks(batch.lengths, batch.ids, config, 0)
        with torch.no_grad(), capture(model, "quant.codes") as trace:
            model(batch.input_values, mask_time_indices=mask)
        codes = trace["quant.codes"][0][mask[0]]
        for group in range(config.num_codevector_groups):
            expected = np.bincount(codes[:, group], minlength=config.num_codevectors_per_group)
            np.testing.assert_array_equal(bank["quant.codes"][row, group], expected)


def test_baselines_hear_the_same_sound(one_model, corpus):
    bank = us.collect(
        one_model, corpus, "hidden.1", baselines=["mfcc", "untrained", "loudness", "logmel"], max_seconds=0.1, seed=5
    )
    untrained = [f"untrained.{n}.hidden.1" for n in range(3)]
    assert bank.sites == ["hidden.1", *untrained, "logmel", "mfcc", "loudness"]
    waves = [wave[:1600] for wave in corpus.batch().waveforms]
    for row, wave in enumerate(waves):
        mfcc, bands = acoustics.mfcc(wave).double(), acoustics.log_mel(wave).double()
        for site, rows in (("mfcc", mfcc), ("logmel", bands)):
            expected = torch.cat([rows.mean(0), rows.std(0, unbiased=False)])
            np.testing.assert_allclose(bank[site][row], expected, rtol=1e-4, atol=1e-4)
        level = 10 * np.log10(float(wave.double().square().mean()))
        np.testing.assert_allclose(bank["loudness"][row], [level, len(wave) / 16_000], rtol=1e-5)
    assert bank.table["seconds"].max() == 0.1
    twin = untrained_twin(one_model, 6)
    cut = us.Batch.from_arrays(waves, sampling_rate=16_000)
    for row in range(8):
        with torch.no_grad():
            frames = twin(cut[row].input_values, output_hidden_states=True).hidden_states[1][0].numpy()
        expected = np.concatenate([frames.mean(0), frames.std(0)])
        np.testing.assert_allclose(bank["untrained.1.hidden.1"][row], expected, rtol=1e-4, atol=1e-5)
    state = torch.random.get_rng_state()
    untrained_twin(one_model, 1)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_batch_in_memory_and_a_model_in_training(corpus):
    model = us.UniSpeechSatModel(small_config(**MASKED)).train()
    model.encoder.layers[0].eval()
    bank = us.collect(model, corpus.batch(), "hidden.2", do_normalize=False)
    assert model.training
    assert not model.encoder.layers[0].training
    model.eval()
    with torch.no_grad():
        frames = model(corpus.batch(3, do_normalize=False).input_values, output_hidden_states=True).hidden_states[2][0]
    np.testing.assert_allclose(bank["hidden.2"][3][:16], frames.mean(0), rtol=1e-4, atol=1e-5)


def counted(monkeypatch):
    """Counts the batches that are measured, and fails at one of them if told so."""
    calls, real = [], module._measure

    def measure(*args):
        calls.append(1)
        if len(calls) == measure.fail_at:
            raise KeyboardInterrupt
        return real(*args)

    measure.fail_at = None
    monkeypatch.setattr(module, "_measure", measure)
    return calls, measure


def test_an_interrupted_collection_goes_on(one_model, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BATCHES_A_PART", 1)
    whole = us.collect(one_model, corpus, batch_seconds=0.3)
    calls, measure = counted(monkeypatch)
    measure.fail_at = 4
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / ".collect.json.1.partial").write_text("{")  # of a process that was killed
    with pytest.raises(KeyboardInterrupt):
        us.collect(one_model, corpus, batch_seconds=0.3, folder=tmp_path / "bank")
    with pytest.raises(FileNotFoundError, match=r"3 part\(s\) are there: run the same collect"):
        us.FeatureBank.load(tmp_path / "bank")
    before = len(calls)
    bank = us.collect(one_model, corpus, batch_seconds=0.3, folder=tmp_path / "bank")
    assert len(calls) - before == len(batches(np.array(SECONDS), 0.3)) - 3
    before = len(calls)
    again = us.collect(one_model, corpus, batch_seconds=0.3, folder=tmp_path / "bank")
    assert len(calls) == before  # nothing was left to do
    sorted((tmp_path / "bank").glob("part-*"))[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"bank of \d part\(s\), and part-\d+\.safetensors .* same collect"):
        us.FeatureBank.load(tmp_path / "bank")
    mended = us.collect(one_model, corpus, batch_seconds=0.3, folder=tmp_path / "bank")
    for site in whole.sites:
        np.testing.assert_array_equal(bank[site], whole[site])
        np.testing.assert_array_equal(again[site], whole[site])
        np.testing.assert_array_equal(mended[site], whole[site])
    assert bank.sites == whole.sites
    assert bank.table["id"].tolist() == whole.table["id"].tolist()
    assert {path.name.split("-")[0] for path in (tmp_path / "bank").iterdir()} == {
        ".lock",
        "bank.json",
        "collect.json",
        "part",
    }
    with pytest.raises(ValueError, match=r"holds a bank made otherwise: reduce \(mean\+std there\), seed \(0 there\)"):
        us.collect(one_model, corpus, reduce="mean", batch_seconds=0.3, folder=tmp_path / "bank", seed=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds other files"):
        us.collect(one_model, corpus, folder=tmp_path / "other")


def loudest(scale):
    def reduce(values, valid):
        return scale * values.amax(1)

    return reduce


def test_a_folder_is_not_taken_for_that_of_another_reducer(one_model, corpus, tmp_path):
    class Largest(Moments):
        power = 1

    class Other(Moments):
        power = 2

        def merge(self, state):
            super().merge({name: value**self.power for name, value in state.items()})

    pairs = [
        (lambda values, valid: values.mean(1), lambda values, valid: values.amax(1)),
        (loudest(1), loudest(2)),
        (loudest(torch.tensor(1)), loudest(torch.tensor(2))),
        (functools.partial(torch.mean, dim=1), functools.partial(torch.mean, dim=-1)),
        (Largest(), type("Largest", (Other,), {})()),
    ]
    for number, (first, second) in enumerate(pairs):
        assert code_digest(first) == code_digest(first)
        assert code_digest(first) != code_digest(second)
        if number in (0, 1):
            us.collect(one_model, corpus, "hidden.1", reduce=first, folder=tmp_path / str(number))
            us.collect(one_model, corpus, "hidden.1", reduce=first, folder=tmp_path / str(number))
            with pytest.raises(ValueError, match=r"made otherwise: reduce_code \(\w{16} there\)"):
                us.collect(one_model, corpus, "hidden.1", reduce=second, folder=tmp_path / str(number))
    assert code_digest("mean") is code_digest(Moments()) is code_digest(mean_std) is None
    assert code_digest(loudest(1)) == code_digest(loudest(1))


def test_a_folder_takes_up_what_was_repaired_and_refuses_other_sound(one_model, corpus, tmp_path):
    speech, folder = tmp_path / "speech", tmp_path / "bank"
    speech.mkdir()
    for row, path in enumerate(corpus.table["path"]):
        shutil.copy(path, speech / f"{row}.wav")
    own = us.corpus.Corpus(corpus.table.assign(path=[str(speech / f"{row}.wav") for row in range(8)]))
    whole = (speech / "1.wav").read_bytes()
    (speech / "1.wav").write_bytes(b"broken")
    with pytest.warns(UserWarning, match="left out"):
        assert len(us.collect(one_model, own, batch_seconds=0.6, folder=folder)) == 7
    (speech / "1.wav").write_bytes(whole)
    repaired = us.collect(one_model, own, batch_seconds=0.6, folder=folder)
    expected = us.collect(one_model, own, batch_seconds=0.6)
    assert repaired.ids == expected.ids
    for site in expected.sites:
        np.testing.assert_allclose(repaired[site], expected[site], rtol=1e-5, atol=1e-6)
    corrected = us.corpus.Corpus(own.table.assign(speaker="corrected"))
    assert set(us.collect(one_model, corrected, batch_seconds=0.6, folder=folder).labels("speaker")) == {"corrected"}
    samples, rate = soundfile.read(speech / "3.wav")
    soundfile.write(speech / "3.wav", -samples, rate, subtype="FLOAT")
    with pytest.raises(
        ValueError, match=r"numbers of other sound: the files of 1 utterance.* first 'u3'\. Use another"
    ):
        us.collect(one_model, own, batch_seconds=0.6, folder=folder)
    in_memory = own.batch()
    us.collect(one_model, in_memory, folder=tmp_path / "memory")
    in_memory.waveforms[4][7] += 0.1
    with pytest.raises(ValueError, match=r"first 'u4'"):
        us.collect(one_model, in_memory, folder=tmp_path / "memory")


@pytest.mark.parametrize("reduce", ["frames", Moments()])
def test_many_parts_become_few(one_model, corpus, tmp_path, monkeypatch, reduce):
    monkeypatch.setattr(store, "BATCHES_A_PART", 1)
    expected = us.collect(one_model, corpus, "hidden.2", reduce=reduce, baselines=["mfcc"], batch_seconds=0.2)
    monkeypatch.setattr(store, "MOST_PARTS", 3)
    folder = tmp_path / "bank"
    options = dict(reduce=reduce, baselines=["mfcc"], batch_seconds=0.2, folder=folder)
    if reduce == "frames":  # a kill leaves a large part beside those that it is made of
        real = Path.unlink
        monkeypatch.setattr(Path, "unlink", lambda path, **k: real(path, **k) if "partial" in path.name else None)
        us.collect(one_model, corpus, "hidden.2", **options)
        assert len(list(folder.glob("part-*"))) > 6
        monkeypatch.setattr(Path, "unlink", real)
    for _ in range(2):
        bank = us.collect(one_model, corpus, "hidden.2", **options)
        assert len(list(folder.glob("part-*"))) == 1
        assert bank.ids == expected.ids
        np.testing.assert_array_equal(bank["mfcc"], expected["mfcc"])
        if reduce == "frames":
            assert bank.lengths("hidden.2").tolist() == expected.lengths("hidden.2").tolist()
            np.testing.assert_array_equal(bank["hidden.2"], expected["hidden.2"])
        else:
            np.testing.assert_allclose(bank.statistics("hidden.2")["mean"], expected.statistics("hidden.2")["mean"])


@pytest.mark.runs_once
def test_two_processes_give_the_bank_of_one(one_model, corpus, tmp_path):
    one_model.save_pretrained(tmp_path / "model")
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import sys, time
            from datetime import timedelta
            import torch
            import unisat as us
            from unisat.interpret.activations.reduce import Moments

            torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=4))
            model = us.UniSpeechSatModel.from_pretrained(sys.argv[1])
            corpus = us.corpus.folder(sys.argv[2])
            bank = us.collect(model, corpus, "hidden.*", batch_seconds=0.3, folder=sys.argv[3], baselines=["untrained"])
            assert len(bank) == 8
            time.sleep(5 * torch.distributed.get_rank())  # one may be done before the group of all gives up the other
            us.collect(model, corpus, "hidden.2", reduce=Moments(), batch_seconds=0.3, folder=sys.argv[4])
            one = us.collect(model, corpus[:1], "hidden.2", folder=sys.argv[5])  # fewer utterances than processes
            assert one.table["id"].tolist() == corpus.table["id"].tolist()[:1]
            """
        )
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    folders = [tmp_path / "model", corpus.table["path"].iloc[0].rpartition("/")[0], tmp_path / "bank", tmp_path / "m"]
    folders.append(tmp_path / "one")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, program, *folders], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    two, one = us.FeatureBank.load(tmp_path / "bank"), us.collect(one_model, corpus, batch_seconds=0.3)
    assert len(list((tmp_path / "bank").glob("part-*"))) == 2
    assert two.table["id"].tolist() == one.table["id"].tolist()
    for site in one.sites:
        np.testing.assert_allclose(two[site], one[site], rtol=1e-5, atol=1e-6)
    few = us.FeatureBank.load(tmp_path / "one")
    np.testing.assert_allclose(few["hidden.2"], one["hidden.2"][:1], rtol=1e-5, atol=1e-6)
    moments = us.collect(one_model, corpus, "hidden.2", reduce=Moments(), batch_seconds=0.3).statistics("hidden.2")
    for name, value in us.FeatureBank.load(tmp_path / "m").statistics("hidden.2").items():
        np.testing.assert_allclose(value, moments[name], rtol=1e-6, atol=1e-6)


def test_one_call_at_a_time_writes_to_a_folder(one_model, corpus, tmp_path):
    def meanwhile(values, valid):
        with pytest.raises(OSError, match=r"process \d+ on .* is at work in .*bank"):
            us.collect(one_model, corpus, folder=tmp_path / "bank")
        return values.mean(1)

    us.collect(one_model, corpus, "hidden.2", reduce=meanwhile, folder=tmp_path / "bank")
    # a call that was refused or has ended keeps nobody out
    with pytest.raises(ValueError, match="made otherwise"):
        us.collect(one_model, corpus, folder=tmp_path / "bank")
    us.collect(one_model, corpus, "hidden.2", reduce=meanwhile, folder=tmp_path / "bank")


def test_batches_are_of_like_length_and_bounded():
    seconds = np.array([1.0, 9.0, 2.0, 30.0, 8.0, 1.5])
    plan = batches(seconds, 20.0)
    assert [rows.tolist() for rows in plan] == [[3], [1, 4], [2, 5, 0]]
    with pytest.raises(ValueError, match="batch_seconds=0.0 must be positive"):
        batches(seconds, 0.0)


@pytest.mark.filterwarnings("ignore:left out")
def test_what_cannot_be_read_or_is_too_short_is_left_out(one_model, corpus, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF, but not quite")
    soundfile.write(tmp_path / "short.wav", np.linspace(0, 1, 100), 16_000)
    table = corpus.table.copy()
    table.loc[[2, 5], "path"] = [str(tmp_path / "broken.wav"), str(tmp_path / "short.wav")]
    for folder in (None, tmp_path / "bank"):
        with pytest.warns(UserWarning, match="'u5' has 100 samples, a frame needs 148"):
            bank = us.collect(one_model, us.corpus.Corpus(table), folder=folder)
        assert bank.ids == ["u0", "u1", "u3", "u4", "u6", "u7"]
        frames = alone(one_model, corpus, 6)
        np.testing.assert_allclose(bank["hidden.2"][4][:16], frames.mean(0), rtol=1e-4, atol=1e-5)
    for folder in (None, tmp_path / "empty"):
        with pytest.raises(ValueError, match=r"none of the 1 utterances could be read"):
            us.collect(one_model, us.corpus.Corpus(table[2:3]), folder=folder)


def test_what_a_reducer_gives_has_to_be_a_row_for_each_utterance(one_model, corpus):
    with pytest.raises(
        ValueError, match=r"reduce='<lambda>' gives \(1, 16\) at hidden\.0 for a batch of \d utterances"
    ):
        us.collect(one_model, corpus, reduce=lambda values, valid: values.mean(1)[:1], batch_seconds=9.0)
    half = copy.deepcopy(one_model).bfloat16()
    with pytest.raises(ValueError, match=r"reduce='frames' gives bfloat16 at hidden\.0, .* model\.float\(\)"):
        us.collect(half, corpus, reduce="frames")


def test_silence_is_measured_but_said(one_model, corpus, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(4000), 16_000)
    table = corpus.table.copy()
    table.loc[1, "path"] = str(tmp_path / "silent.wav")
    with pytest.warns(UserWarning, match="nothing but silence in 'u1'"):
        assert len(us.collect(one_model, us.corpus.Corpus(table))) == 8


def test_what_makes_no_sense_is_refused_before_anything_runs(one_model, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_measure", None)
    for wanted, message in [
        (dict(frames="hidden"), "frames='hidden' must be one of valid, masked, visible"),
        (dict(baselines=["logmels"]), "no baseline 'logmels'; there are untrained, logmel"),
        (dict(reduce="median"), "reduce='median' must be one of mean, mean\\+std"),
        (dict(reduce="counts"), "reduce='counts' counts codes; hidden.0 has none"),
        (dict(sites="block.*.attn.pattern"), "with two time axes it cannot be reduced"),
        (dict(sites="hidden.9"), "no site matches 'hidden.9'"),
        (dict(sites="quant.codes", reduce="counts"), "this model has no quantizer"),
        (dict(sites="conv.0", frames="masked"), "conv.0 has no masked frames"),
        (dict(reduce="frames", budget="10KB"), r"\(\d+ frames\) would be 0 MB, over the budget .* 'hidden.0'"),
    ]:
        with pytest.raises(ValueError, match=message):
            us.collect(one_model, corpus, **wanted)
    with pytest.raises(ValueError, match="this model's config has mask_time_prob=0"):
        us.collect(us.UniSpeechSatModel(small_config(mask_time_prob=0.0)), corpus, frames="masked")
    unknown = us.corpus.Corpus(corpus.table.assign(seconds=np.nan))
    with pytest.raises(ValueError, match=r"the length of 8 utterance\(s\) is not known \(first: 'u0'\)"):
        us.collect(one_model, unknown)

    class Last:
        def update(self, values, valid):
            self.values = values

        def value(self):
            return {"last": self.values}

    with pytest.raises(ValueError, match=r"Last\(\) cannot be put together from parts: give it state\(\)"):
        us.collect(one_model, corpus, reduce=Last(), folder=tmp_path / "bank")
    monkeypatch.setattr(module, "processes", lambda: (0, 2))
    with pytest.raises(ValueError, match="2 processes share this work; give them a folder"):
        us.collect(one_model, corpus)


def test_pieces_of_one_file_are_collected_as_files_are(one_model, tmp_path):
    waves = us.corpus.builtin().batch([0, 40]).waveforms
    soundfile.write(tmp_path / "both.wav", torch.cat(waves).numpy(), 16_000, subtype="FLOAT")
    cut = len(waves[0]) / 16_000
    table = pd.DataFrame({"path": str(tmp_path / "both.wav"), "id": ["a", "b"], "start": [0, cut], "end": [cut, None]})
    pieces = us.corpus.Corpus(table.assign(seconds=[len(wave) / 16_000 for wave in waves]))
    bank = us.collect(one_model, pieces, "hidden.2", folder=tmp_path / "bank")
    alone = us.collect(one_model, us.Batch.from_arrays(list(waves), sampling_rate=16_000), "hidden.2")
    torch.testing.assert_close(torch.tensor(bank["hidden.2"]), torch.tensor(alone["hidden.2"]))
    # another piece behind the same name is other sound
    moved = us.corpus.Corpus(pieces.table.assign(start=[0.0, cut / 2], end=[cut / 2, cut], seconds=cut / 2))
    with pytest.raises(ValueError, match="sound"):
        us.collect(one_model, moved, "hidden.2", folder=tmp_path / "bank")
