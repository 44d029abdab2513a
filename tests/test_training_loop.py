"""The loop: exact to resume whatever stopped it, one process or two, and every way in which a run goes wrong."""

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import reference
import soundfile
import torch
from conftest import ROOT

import unisat as us
from unisat import precision
from unisat.cli import main
from unisat.files import alone
from unisat.masking import time_mask
from unisat.training import checkpoints, loop, recipe
from unisat.training.data import TrainingBatch

pytestmark = pytest.mark.runs_once

MODEL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20)
MODEL |= dict(conv_dim=[8, 8, 8], conv_kernel=[10, 8, 10], conv_stride=[5, 8, 8])
MODEL |= dict(num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, num_codevectors_per_group=4)
MODEL |= dict(codevector_dim=8, proj_codevector_dim=8, mask_time_prob=0.5, mask_time_length=4, mixing_prob=0.5)
MODEL |= dict(layerdrop=0.2)  # dropout is on by default: its draws have to come back too


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Eight coloured noises of four speakers, 0.8 to 1.5 s, with a manifest."""
    folder = tmp_path_factory.mktemp("speech")
    draw = np.random.default_rng(0)
    lines = ["path,speaker,seconds"]
    for index in range(8):
        samples = int(16_000 * (0.8 + 0.1 * index))
        wave = np.convolve(draw.normal(size=samples), draw.normal(size=9 + index), "same")
        soundfile.write(folder / f"{index}.wav", 0.1 * wave / np.abs(wave).max(), 16_000)
        lines.append(f"{index}.wav,s{index % 4},{samples / 16_000}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder


def values(speech, out, **changes):
    """A recipe of eight steps as nested dictionaries; ``changes`` by dotted names with __ for the dot."""
    sources = {"noise": {"source": str(speech / "manifest.csv")}}
    whole = dict(
        out=str(out),
        model=dict(MODEL),
        data=dict(train=sources, valid=sources, crop_seconds=1.0, min_seconds=0.5, batch_seconds=4.0),
        targets=dict(clusters=5, sample_seconds=100.0),
        optimizer=dict(learning_rate=1e-3, steps=8, warmup_steps=2),
        run=dict(log_every=1, valid_every=4, save_every=2, keep=2),
    )
    return recipe.apply(whole, {name.replace("__", "."): value for name, value in changes.items()})


def made(speech, out, **changes):
    return recipe.from_dict(values(speech, out, **changes))


def run(speech, out, **changes):
    return loop.pretrain(made(speech, out, **changes), progress=False)


def trace(out, kind="train"):
    """The log without the clock."""
    with (Path(out) / f"{kind}.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(speech, tmp_path_factory):
    """A run of eight steps that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    run(speech, out)
    return out


def test_a_run_leaves_what_it_says(whole):
    assert [int(row["step"]) for row in trace(whole)] == list(range(1, 9))
    assert [int(row["step"]) for row in trace(whole, "valid")] == [4, 8]
    names = {path.name for path in (whole / "model").iterdir()}
    assert names == {"config.json", "model.safetensors", "kmeans.safetensors", "targets.json", "recipe.json"}
    assert [step for step, _ in checkpoints.saved(whole / "checkpoints")] == [6, 8]
    model = us.UniSpeechSatForPreTraining.from_pretrained(whole / "model")
    assert model.config.num_clusters == 5
    described = json.loads((whole / "model" / "targets.json").read_text())
    assert described["label_hash"] == json.loads((whole / "targets" / "targets.json").read_text())["label_hash"]
    assert all(math.isfinite(float(value)) for row in trace(whole) for value in row.values())
    assert float(trace(whole)[-1]["learning_rate"]) == pytest.approx(1e-3 / 6)


def test_validation_has_the_floors_of_its_clusters(speech, whole):
    trainer = loop.Trainer(made(speech, whole), progress=False)
    data, clusters, masks = trainer.valid, [], []
    for index in range(data.batches_per_epoch):
        targets = data[index].targets
        mask = time_mask((targets != -100).sum(1), targets.shape[1], trainer.config, loop.draws(0, index))
        clusters += targets.tolist()
        masks += mask.tolist()
    assert data.batches_per_epoch > 1
    floors = reference.content_floors(clusters, masks, [[cluster != -100 for cluster in row] for row in clusters])
    names = ("accuracy_masked_commonest", "accuracy_masked_copied", "content_masked_entropy")
    for row in trace(whole, "valid"):
        for name, floor in zip(names, floors, strict=True):
            assert float(row[name]) == pytest.approx(floor, rel=1e-5)
    assert not {*names} & {*trace(whole)[0]}


def test_a_log_that_was_begun_with_fewer_columns_goes_on_with_them(tmp_path):
    (tmp_path / "valid.csv").write_text("step,loss\r\n1,2\r\n")
    log = loop.Log(tmp_path, 1)
    log.validation(2, {"accuracy": 0.5, "loss": 1.5})
    assert trace(tmp_path, "valid") == [{"step": "1", "loss": "2"}, {"step": "2", "loss": "1.5"}]


def test_the_same_recipe_gives_the_same_numbers(speech, whole, tmp_path):
    run(speech, tmp_path)
    assert trace(tmp_path) == trace(whole)
    run(speech, tmp_path / "other", seed=1)
    assert trace(tmp_path / "other") != trace(whole)


KILL = {
    "in a step": """
        step = loop.Trainer.take_step
        def take_step(self, batches):
            row = step(self, batches)
            if self.step == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return row
        loop.Trainer.take_step = take_step
    """,
    "in a write": """
        save = torch.save
        def half(value, path):
            save(value, path)
            if "step-0000006" in str(path):
                os.truncate(path, os.path.getsize(path) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
        torch.save = half
    """,
}


@pytest.mark.parametrize("where", KILL)
@pytest.mark.parametrize("log_every", [1, 3])
def test_killed_and_resumed_is_the_uninterrupted_run(speech, whole, tmp_path, where, log_every):
    changes = {"run.log_every": log_every}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.apply(values(speech, tmp_path / "out"), changes)))
    program = "import json, os, signal, sys, torch\nfrom unisat.training import loop, recipe\n"
    program += textwrap.dedent(KILL[where])
    program += "loop.pretrain(recipe.from_dict(json.load(open(sys.argv[1]))), progress=False)\n"
    killed = subprocess.run([sys.executable, "-c", program, tmp_path / "recipe.json"], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    left = checkpoints.saved(tmp_path / "out" / "checkpoints")
    assert [step for step, _ in left] == [2, 4]
    resumed = loop.pretrain(made(speech, tmp_path / "out", run__log_every=log_every), progress=False)
    if log_every == 1:
        assert trace(tmp_path / "out") == trace(whole)
    else:
        run(speech, tmp_path / "straight", run__log_every=3)
        assert trace(tmp_path / "out") == trace(tmp_path / "straight")
        assert [row["step"] for row in trace(tmp_path / "out")] == ["3", "6", "8"]
    ours = us.UniSpeechSatForPreTraining.from_pretrained(resumed).state_dict()
    theirs = us.UniSpeechSatForPreTraining.from_pretrained(whole / "model").state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not [path for path in (tmp_path / "out" / "checkpoints").iterdir() if path.name.startswith(".")]


def test_another_recipe_does_not_go_on(speech, whole, tmp_path):
    with pytest.raises(ValueError, match=r"optimizer.learning_rate was 0.001, is 0.01; seed was 0, is 3"):
        run(speech, whole, seed=3, optimizer__learning_rate=1e-2)
    with pytest.raises(ValueError, match="holds 2 checkpoint"):
        loop.pretrain(made(speech, whole), fresh=True, progress=False)
    # a finished run has nothing left to do, whatever its logging
    assert run(speech, whole, run__log_every=2) == whole / "model"
    assert len(trace(whole)) == 8


@pytest.fixture(scope="module")
def begun(speech, tmp_path_factory):
    """Speech of its own, and a run of two steps on it."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(speech, folder / "speech")
    run(folder / "speech", folder / "out", optimizer__steps=2)
    return folder


def other_labels(folder):
    labels = np.load(folder / "out" / "targets" / "labels.npy")
    np.save(folder / "out" / "targets" / "labels.npy", (labels + 1) % 5)  # targets.json has the old hash


def fewer_rows(folder):
    lines = (folder / "speech" / "manifest.csv").read_text().splitlines()
    (folder / "speech" / "manifest.csv").write_text("\n".join(lines[:-1]))


def other_speakers(folder):
    text = (folder / "speech" / "manifest.csv").read_text()
    (folder / "speech" / "manifest.csv").write_text(text.replace("0.wav,s0", "0.wav,s1"))


def other_sound(folder):
    wave, rate = soundfile.read(folder / "speech" / "3.wav")
    soundfile.write(folder / "speech" / "3.wav", wave, rate, subtype="PCM_24")


def other_sound_of_equal_size(folder):
    wave, rate = soundfile.read(folder / "speech" / "3.wav")
    size = (folder / "speech" / "3.wav").stat().st_size
    soundfile.write(folder / "speech" / "3.wav", wave[::-1], rate)
    assert (folder / "speech" / "3.wav").stat().st_size == size


def other_pieces(folder):
    header, *lines = (folder / "speech" / "manifest.csv").read_text().splitlines()
    starts = [0.25 if line.startswith("3.wav") else 0.0 for line in lines]
    rows = [f"{line},{start}" for line, start in zip(lines, starts, strict=True)]
    (folder / "speech" / "manifest.csv").write_text("\n".join([f"{header},start", *rows]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_labels, r"other data: labels was '\w+', is '\w+'\. Go on with the old data"),
        (fewer_rows, r"data.train.noise.ids was .*; data.train.noise.utterances was 8, is 7; data.valid.noise.ids"),
        (other_speakers, r"other data: data.train.noise.ids was '\w+', is '\w+'; data.valid.noise.ids was"),
        (other_sound, r"other data: data.train.noise.sizes was '\w+', is '\w+'; data.train.noise.sound was"),
        (other_sound_of_equal_size, r"other data: data.train.noise.sound was '\w+', is '\w+'; data.valid.noise.sound"),
        (other_pieces, r"other data: data.train.noise.sound was '\w+', is '\w+'; data.valid.noise.sound"),
    ],
)
def test_other_data_do_not_go_on(begun, tmp_path, change, message, monkeypatch):
    shutil.copytree(begun, tmp_path / "begun")
    monkeypatch.chdir(tmp_path / "begun")  # the manifest is the same file for the recipe
    for state in (tmp_path / "begun" / "out").glob("checkpoints/*/state.json"):
        state.write_text(state.read_text().replace(f"{begun}/", ""))
    here = Path()
    assert run(here / "speech", here / "out", optimizer__steps=2) == here / "out" / "model"
    change(here)
    with pytest.raises(ValueError, match=message):
        run(here / "speech", here / "out", optimizer__steps=2)
    if change is not other_labels:
        # checkpoints of earlier versions know their labels alone, or all but the sound
        for path in here.glob("out/checkpoints/*/state.json"):
            state = json.loads(path.read_text())
            known = state.pop("begun_with")
            if change in (other_sound_of_equal_size, other_pieces):
                state["begun_with"] = {name: value for name, value in known.items() if not name.endswith("sound")}
            path.write_text(json.dumps(state))
        assert run(here / "speech", here / "out", optimizer__steps=2)


def test_a_second_run_in_the_same_folder_is_refused(speech, tmp_path):
    with alone(tmp_path), pytest.raises(OSError, match=r"process \d+ on .* is at work in .* Wait for its end"):
        run(speech, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(speech, whole, tmp_path, name):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    for folder in (out / "targets", out / "checkpoints"):  # killed while it wrote
        (folder.parent / f".{folder.name}.17.partial").mkdir()
    with (out / "train.csv").open("a") as log:
        log.write("\n9,0.5")
    last = out / "checkpoints" / "step-0000008" / name
    os.truncate(last, last.stat().st_size // 2)
    with pytest.warns(UserWarning, match=rf"step-0000008/{name} is damaged .* goes on from .*step-0000006"):
        run(speech, out, run__save_every=7, run__keep=1)
    assert trace(out) == trace(whole)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (out, whole)]
    assert weights[0] == weights[1]
    assert [step for step, _ in checkpoints.saved(out / "checkpoints")] == [8]
    assert not [path.name for path in out.iterdir() if path.name.endswith("partial")]
    os.truncate(out / "checkpoints" / "step-0000008" / name, 9)
    with pytest.raises(ValueError, match=rf"no checkpoint can be read: .*{name} is damaged .* to begin anew"):
        run(speech, out)


def test_a_damaged_checkpoint_does_not_push_out_a_good_one(speech, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out" / "checkpoints" / "step-0000008" / "state.json").write_text("{")
    with pytest.warns(UserWarning, match="state.json is damaged"):
        trainer = loop.Trainer(made(speech, tmp_path / "out", run__keep=1), progress=False)
    trainer.step = 7
    trainer.save()
    assert [step for step, _ in checkpoints.saved(tmp_path / "out" / "checkpoints")] == [7]


def test_how_many_processes_there_are_is_said_at_the_start(speech, tmp_path, capsys, monkeypatch):
    loop.Trainer(made(speech, tmp_path))
    assert re.match(r"1 process on \w+, into /", capsys.readouterr().err)
    # as accelerate launch --num_processes 2 starts one process on a machine without GPUs
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with pytest.raises(ValueError, match=r"several processes and started one.*--multi_gpu --num_processes 2"):
        loop.Trainer(made(speech, tmp_path), progress=False)


# one step by hand


def batch_of(rows, samples):
    """Waveforms of different lengths with made-up labels, the same for the same rows."""
    draw = torch.Generator().manual_seed(7)
    waves = torch.randn(4, 9600, generator=draw)[rows]
    labels = torch.randint(0, 5, (4, 29), generator=draw)[rows]
    lengths = torch.tensor(samples)[rows]
    mask = (torch.arange(9600) < lengths[:, None]).long()
    frames = (lengths - 405) // 320 + 1
    labels = labels.masked_fill(torch.arange(29) >= frames[:, None], -100)
    longest, most = int(lengths.max()), int(frames.max())
    parts = (waves * mask)[:, :longest], mask[:, :longest], labels[:, :most]
    return TrainingBatch(*parts, torch.zeros(len(rows)), tuple(map(str, rows)), tuple(map(str, rows)))


SAMPLES = [9600, 3200, 6400, 8000]
STILL = dict(model__contrastive_loss_weight=0.0, model__diversity_loss_weight=0.0, model__feature_penalty_weight=0.0)
STILL |= dict(model__mixing_prob=0.0, model__layerdrop=0.0, model__unmasked_loss_weight=0.5, optimizer__clip_norm=1e9)
STILL |= {f"model__{name}_dropout": 0.0 for name in ("hidden", "attention", "activation", "final", "feat_proj")}


def thirds(lengths, frames, **_):
    """Every third frame, drawn by nobody."""
    place = torch.arange(frames)
    return (place % 3 == 0) & (place < lengths[:, None])


def gradients(trainer, batches):
    trainer.take_step(iter(batches))
    return {name: weight.grad.clone() for name, weight in trainer.model.named_parameters() if weight.grad is not None}


def compare(found, expected):
    assert set(found) == set(expected)
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        # a gradient that is zero in theory (of a key's bias) is rounding in both
        size = max(gradient.abs().max(), 1e-3 * largest)
        assert (found[name] - gradient).abs().max() <= 1e-5 * size, name


def test_accumulated_halves_are_one_batch(speech, tmp_path, monkeypatch):
    monkeypatch.setattr("unisat.masking.span_mask", thirds)
    one = loop.Trainer(made(speech, tmp_path / "one", **STILL), progress=False)
    expected = gradients(one, [batch_of([0, 1, 2, 3], SAMPLES)])
    two = loop.Trainer(made(speech, tmp_path / "two", **STILL, run__accumulate=2), progress=False)
    found = gradients(two, [batch_of([0, 3], SAMPLES), batch_of([1, 2], SAMPLES)])
    compare(found, expected)


def test_two_processes_are_one(speech, tmp_path, monkeypatch):
    monkeypatch.setattr("unisat.masking.span_mask", thirds)
    one = loop.Trainer(made(speech, tmp_path / "one", **STILL), progress=False)
    expected = gradients(one, [batch_of([0, 1, 2, 3], SAMPLES)])
    (tmp_path / "recipe.json").write_text(json.dumps(values(speech, tmp_path / "two", **STILL)))
    program = f"""
        import json, sys, torch
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import unisat.masking
        from test_training_loop import SAMPLES, batch_of, gradients, thirds
        from unisat.training import loop, recipe
        unisat.masking.span_mask = thirds
        trainer = loop.Trainer(recipe.from_dict(json.load(open({str(tmp_path / "recipe.json")!r}))), progress=False)
        rows = [[0, 3], [1, 2]][trainer.rank]
        found = gradients(trainer, [batch_of(rows, SAMPLES)])
        torch.save(found, {str(tmp_path)!r} + f"/gradients-{{trainer.rank}}.pt")
        trainer.accelerator.end_training()
    """
    launch(tmp_path, textwrap.dedent(program))
    for rank in (0, 1):
        compare(torch.load(tmp_path / f"gradients-{rank}.pt"), expected)


def launch(folder, program, *arguments, dies=False):
    """Run a program in two processes on the CPU, as torchrun does; give what it says."""
    (folder / "program.py").write_text(program)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command += [folder / "program.py", *arguments]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=300)
    assert (done.returncode != 0) == dies, done.stderr.decode()[-3000:]
    return done.stderr.decode()


def test_a_process_that_dies_ends_the_run_of_all(speech, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(values(speech, tmp_path / "out")))
    program = """
        import json, os, signal, sys
        from unisat.training import loop, recipe
        take_step = loop.Trainer.take_step

        def dies(trainer, batches):
            if trainer.step == 3 and trainer.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return take_step(trainer, batches)

        loop.Trainer.take_step = dies
        loop.pretrain(recipe.from_dict(json.load(open(sys.argv[1]))), progress=False)
    """
    said = launch(tmp_path, textwrap.dedent(program), tmp_path / "recipe.json", dies=True)
    assert "Signal 9" in said
    assert "rank      : 1" in said  # the launcher tells which one it was
    # what is saved is whole
    assert [step for step, _ in checkpoints.saved(tmp_path / "out" / "checkpoints")] == [2]
    assert not (tmp_path / "out" / "model").exists()


def test_torchrun_trains(speech, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(values(speech, tmp_path / "out", optimizer__steps=4)))
    program = "import json, sys\nfrom unisat.training import loop, recipe\n"
    program += "loop.pretrain(recipe.from_dict(json.load(open(sys.argv[1]))), progress=False)\n"
    launch(tmp_path, program, tmp_path / "recipe.json")
    rows = trace(tmp_path / "out")
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    # two processes, each with a batch of its own
    alone = loop.Trainer(made(speech, tmp_path / "alone", optimizer__steps=4), progress=False)
    assert float(rows[0]["frames"]) > 1.5 * int((alone.train[0].targets >= 0).sum()) / 2
    with pytest.raises(ValueError, match=r"processes was 2, is 1"):
        run(speech, tmp_path / "out", optimizer__steps=4)


def readme_command(name, folder):
    """The README's command of a launcher, with the recipe ``folder/recipe.toml``, as words."""
    (line,) = re.findall(rf"^{name} .*?sat-1.toml", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    module = {"torchrun": "torch.distributed.run", "accelerate": "accelerate.commands.accelerate_cli"}[name]
    words = line.replace("recipes/sat-1.toml", str(folder / "recipe.toml")).split()
    return [sys.executable, "-m", module, *words[1:]]


def toml(given, place=""):
    """A recipe's values as TOML, one a line."""
    lines = []
    for name, value in given.items():
        nested = isinstance(value, dict)
        lines += [toml(value, f"{place}{name}.")] if nested else [f"{place}{name} = {json.dumps(value)}"]
    return "\n".join(lines)


@pytest.mark.parametrize("name", ["torchrun", "accelerate"])
def test_the_commands_of_the_readme_start_two_processes_on_a_cpu(speech, tmp_path, name):
    pytest.importorskip("accelerate", reason="pretraining needs Accelerate: pip install 'unisat[train]'")
    (tmp_path / "recipe.toml").write_text(toml(values(speech, tmp_path / "out", optimizer__steps=2)))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = readme_command(name, tmp_path)

    def called(words):
        return subprocess.run(words, capture_output=True, encoding="utf-8", env=environment, cwd=tmp_path)

    if name == "accelerate":  # without --multi_gpu it starts one process, in which nothing says how many were meant
        one = called([word for word in command if word != "--multi_gpu"])
        assert one.returncode != 0, one.stderr[-3000:]
        assert "started one" in one.stderr
        assert " ".join(command[3:6]) in one.stderr  # the same words as in the README
        assert not (tmp_path / "out" / "checkpoints").exists()
    done = called(command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 processes on cpu" in done.stderr
    assert checkpoints.newest(tmp_path / "out" / "checkpoints").state["processes"] == 2
    assert done.stdout.split() == [str(tmp_path / "out" / "model")]


def test_bf16_trains_like_float32(speech, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_product_seconds", {torch.bfloat16: 0.009, torch.float32: 0.001}.get)
    with pytest.warns(UserWarning, match="bfloat16 takes 9 times as long as in float32; precision='no' trains faster"):
        run(speech, tmp_path, run__precision="bf16")
    for ours, theirs in zip(trace(tmp_path), trace(whole), strict=True):
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=0.05)
    assert trace(tmp_path) != trace(whole)


# what goes wrong


def broken(trainer, steps, place=math.nan):
    """Let the loss of some steps be NaN."""
    forward = trainer.model.objective

    def objective(*arguments):
        output = forward(*arguments)
        factor = place if trainer.step in steps else 1.0
        object.__setattr__(output, "loss", output.loss * factor)
        return output

    trainer.model.objective = objective


def test_a_step_without_a_finite_loss_changes_nothing(speech, tmp_path):
    trainer = loop.Trainer(made(speech, tmp_path), progress=False)
    broken(trainer, {2, 5})
    before = {}
    step = trainer.take_step

    def take_step(batches):
        before[trainer.step] = trainer.model.project_hid.weight.detach().clone()
        return step(batches)

    trainer.take_step = take_step
    with pytest.warns(UserWarning, match=r"step [25]: loss or gradient not finite, step skipped"):
        trainer.run()
    assert torch.equal(before[2], before[3])
    assert not torch.equal(before[3], before[4])
    assert [row["bad_steps"] for row in trace(tmp_path)] == list("00100100")
    assert torch.isfinite(trainer.model.project_hid.weight).all()


@pytest.mark.filterwarnings("ignore:step")
def test_too_many_bad_steps_stop_the_run(speech, tmp_path):
    trainer = loop.Trainer(made(speech, tmp_path, run__max_bad_steps=3), progress=False)
    broken(trainer, {3, 4, 5}, math.inf)
    with pytest.raises(FloatingPointError, match=r"3 steps in a row, up to step 5, .*bad_batch-5-0\.pt \("):
        trainer.run()
    batch = torch.load(tmp_path / "bad_batch-5-0.pt")
    assert torch.equal(batch["input_values"], trainer.train[5].input_values)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_full_disk_leaves_the_last_checkpoint(speech, whole, tmp_path, monkeypatch, error):
    save = torch.save

    def full(value, path):
        if "step-0000004" in str(path):
            Path(path).write_bytes(b"half")
            raise error
        save(value, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"optimizer.pt could not be .*step-0000002, stands.*after step 4. Make room"):
        run(speech, tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-0000002"]
    monkeypatch.undo()
    run(speech, tmp_path)
    assert trace(tmp_path) == trace(whole)


def test_collapse_is_called_by_its_name():
    assert loop.collapse({"code_perplexity_0": 3.0, "feature_penalty": 0.1}) == []
    found = loop.collapse(
        {"code_perplexity_0": 1.0, "code_perplexity_1": 2.0, "feature_penalty": 1e3}
        | {"accuracy_unmasked": 1.0, "content_unmasked": 1e-4}
    )
    assert len(found) == 3
    assert found[0].startswith("code_perplexity_0 is 1.00")


# schedules, and what a recipe may say


def test_schedules(speech, tmp_path):
    plan = made(speech, tmp_path, optimizer__steps=100, optimizer__warmup_steps=10, optimizer__learning_rate=1.0)
    rates = [loop.learning_rate(step, plan) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(1 / 90)
    heat = [loop.gumbel_temperature(step, plan) for step in range(100)]
    assert heat[0] == 2.0
    assert heat[35] == pytest.approx(1.0)
    assert heat[70] == heat[99] == pytest.approx(0.5)
    # the authors' schedule, to the digits that they wrote down
    authors = made(speech, tmp_path, optimizer__steps=400_000, optimizer__warmup_steps=32_000)
    for step in (1, 50_000, 200_000, 280_000):
        assert loop.gumbel_temperature(step, authors) == pytest.approx(max(2 * 0.999995**step, 0.5), rel=2e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer.stepz": 3}, r"no key optimizer.stepz \(did you mean steps"),
        ({"optimiser": {}}, r"no key optimiser \(did you mean optimizer"),
        ({"optimizer.steps": "many"}, r"optimizer.steps='many' must be of type int"),
        ({"optimizer.steps": 0}, r"'optimizer.steps': 0"),
        ({"targets.features": "hidden"}, r"'targets.model': None, 'targets.layer': None"),
        ({"model.num_clusters": 7}, r"'model.num_clusters': 7"),
        ({"run.precision": "fp16"}, r"'run.precision': 'fp16'"),
        ({"seed": 1.5}, r"seed=1.5 must be of type int"),
    ],
)
def test_recipes_that_make_no_run(speech, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        recipe.from_dict(recipe.apply(values(speech, tmp_path), change))


def test_a_preset_with_changes(speech, tmp_path):
    config = made(speech, tmp_path, model={"preset": "tiny", "layerdrop": 0.0}).model_config()
    assert (config.hidden_size, config.layerdrop, config.num_clusters) == (192, 0.0, 5)
    with pytest.raises(ValueError, match=r"preset='small' must be base, large or tiny"):
        made(speech, tmp_path, model={"preset": "small"}).model_config()


TOML = """
out = "nowhere"
[model]
{model}
[data]
crop_seconds = 1.0
min_seconds = 0.5
batch_seconds = 4.0
train.noise.source = "{manifest}"
[targets]
{targets}
clusters = 5
[optimizer]
steps = 2
warmup_steps = 1
"""


def test_two_iterations_from_the_command_line(speech, tmp_path, capsys):
    model = "\n".join(f"{name} = {value}" for name, value in MODEL.items())
    file = tmp_path / "first.toml"
    file.write_text(TOML.format(model=model, manifest=speech / "manifest.csv", targets=""))
    main(["pretrain", "--config", str(file), "--set", f"out={tmp_path / 'first'}", "--set", "run.log_every=1"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "first" / "model")
    assert len(trace(tmp_path / "first")) == 2
    # the second iteration is one command: targets from a layer of the first, then a model from scratch
    targets = f'features = "hidden"\nmodel = "{tmp_path / "first" / "model"}"\nlayer = 1'
    second = tmp_path / "second.toml"
    second.write_text(TOML.format(model=model, manifest=speech / "manifest.csv", targets=targets))
    main(["pretrain", "--config", str(second), "--set", f"out={tmp_path / 'second'}"])
    described = json.loads((tmp_path / "second" / "model" / "targets.json").read_text())
    assert (described["features"], described["layer"], described["clusters"]) == ("hidden", 1, 5)


def test_the_command_line_answers_mistakes(tmp_path, capsys):
    (tmp_path / "broken.toml").write_text("out = ")
    for arguments, message in [
        (["--config", str(tmp_path / "broken.toml")], "is not TOML"),
        (["--config", str(tmp_path / "absent.toml")], "No such file"),
        (["--config", str(tmp_path / "broken.toml"), "--set", "steps"], "'steps' is not KEY=VALUE"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            main(["pretrain", *arguments])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    done = subprocess.run([sys.executable, "-m", "unisat", "--help"], capture_output=True, text=True, check=True)
    assert "pretrain" in done.stdout


def test_tensorboard(speech, tmp_path):
    pytest.importorskip("tensorboard")
    run(speech, tmp_path, run__tensorboard=True, optimizer__steps=2)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    logged = [event.value for event in events.Scalars("train/loss")]
    assert logged == pytest.approx([float(row["loss"]) for row in trace(tmp_path)])


# other iterations, schedules, channels


def test_an_iteration_begins_with_an_earlier_model(speech, whole, tmp_path):
    changes = dict(init=str(whole / "model"), targets__clusters=7, optimizer__steps=1, optimizer__warmup_steps=0)
    trainer = loop.Trainer(made(speech, tmp_path, **changes), progress=False)
    fresh = us.UniSpeechSatForPreTraining
    torch.manual_seed(0)
    drawn = fresh(trainer.config).state_dict()
    earlier = fresh.from_pretrained(whole / "model").state_dict()
    for name, weight in trainer.model.state_dict().items():
        anew = name.startswith(("label_embeddings_concat", "project_hid."))
        assert torch.equal(weight, drawn[name] if anew else earlier[name]), name
    # of the same labels it knows what to say
    same = loop.Trainer(made(speech, tmp_path / "same", init=changes["init"]), progress=False)
    assert all(torch.equal(weight, earlier[name]) for name, weight in same.model.state_dict().items())
    trainer.run()
    # a run that goes on does not begin again
    assert loop.Trainer(made(speech, tmp_path, **changes), progress=False).step == 1
    with pytest.raises(ValueError, match=r"of another shape .* weights differ, layer_norm_for_extract.bias"):
        loop.Trainer(made(speech, tmp_path / "b", **{**changes, "model__hidden_size": 8}), progress=False)


def test_terms_come_and_go_as_scheduled(speech, tmp_path):
    plan = made(
        speech, tmp_path, optimizer__steps=100, schedule={"unmasked_fade": [0.1, 0.3], "contrastive_ramp": [0, 0.5]}
    )
    assert loop.term_scales(0, plan) == {"content_unmasked": 1.0, "contrastive": 0.0, "diversity": 0.0}
    assert loop.term_scales(20, plan) == pytest.approx({"content_unmasked": 0.5, "contrastive": 0.4, "diversity": 0.4})
    assert loop.term_scales(60, plan) == {"content_unmasked": 0.0, "contrastive": 1.0, "diversity": 1.0}
    assert loop.term_scales(60, made(speech, tmp_path)) == {}
    switched = made(speech, tmp_path, optimizer__steps=10, schedule={"contrastive_ramp": [0.5, 0.5]})
    assert [loop.term_scales(step, switched)["contrastive"] for step in (0, 4, 5, 9)] == [0, 0, 1, 1]


def test_a_schedule_moves_the_loss_and_not_what_is_saved(speech, tmp_path):
    changes = dict(
        model__unmasked_loss_weight=0.5, schedule={"unmasked_fade": [0.25, 0.5], "contrastive_ramp": [0.25, 0.5]}
    )
    saved = run(speech, tmp_path, **changes)
    assert us.UniSpeechSatConfig.from_pretrained(saved).unmasked_loss_weight == 0.5
    rows = trace(tmp_path)
    # unmasked frames count while their term has a weight
    counted = [float(row["frames"]) for row in rows]
    assert min(counted[:3]) > max(counted[4:])
    # a term whose weight is 0 for now has its column, and moves nothing
    trainer = loop.Trainer(made(speech, tmp_path / "b", **changes, model__mixing_prob=0.0), progress=False)
    batches = trainer.train.iterate()
    first = trainer.take_step(batches)
    assert list(first) == list(trainer.take_step(batches))
    assert first["contrastive"] > 0
    assert trainer.model.speaker_proj.weight.grad.abs().max() == 0
    trainer.step = 6
    trainer.take_step(batches)
    assert trainer.model.speaker_proj.weight.grad.abs().max() > 0


def test_channels_change_what_is_heard_and_not_what_is_validated(speech, whole, tmp_path):
    run(speech, tmp_path, augment={"clean_prob": 0.0, "noise_prob": 1.0, "change_prob": 1.0})
    ours, theirs = trace(tmp_path), trace(whole)
    assert ours[0]["loss"] != theirs[0]["loss"]
    assert ours[0]["audio_seconds"] == theirs[0]["audio_seconds"]
    run(speech, tmp_path / "again", augment={"clean_prob": 0.0, "noise_prob": 1.0, "change_prob": 1.0})
    assert trace(tmp_path / "again") == ours


def test_a_run_on_kept_data_goes_on_exactly(speech, tmp_path):
    changes = dict(data__on_device=True, data__grid_seconds=0.5, data__weights={"noise": 1.0}, data__speaker_power=0.5)
    run(speech, tmp_path / "whole", **changes)
    half = loop.Trainer(made(speech, tmp_path / "half", **changes), progress=False)
    half.recipe.optimizer.steps = 8
    batches = half.train.iterate()
    while half.step < 4:
        row = half.take_step(batches)
        half.step += 1
        half.log.add(half.step, row, write=True)
    half.validate()
    half.log.validation(4, half.validate())
    half.save()
    run(speech, tmp_path / "half", **changes)
    assert trace(tmp_path / "half") == trace(tmp_path / "whole")


def test_layers_are_compiled_where_that_is_asked_for(speech, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(
        "torch.nn.Module.compile", lambda self, **options: compiled.append((type(self).__name__, options))
    )
    loop.Trainer(made(speech, tmp_path, run__compile=True), progress=False)
    assert compiled == [("EncoderLayer", {"dynamic": True})] * 2
