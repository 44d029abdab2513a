"""Train the built-in model and its twin on a GPU, in minutes; recipes/gpu.sh prepares the machine.

    python recipes/gpu.py check --out OUT      # the CPU's numbers? how fast, with which batch, alone and in pairs?
    python recipes/gpu.py run --out OUT --seconds 540

``run`` does what the recipes say, one iteration after the other (sat-1; sat-2 and hubert-2 side by side on the same
targets; sat-3 and hubert-3 likewise), with as many steps as the time allows at the speed that ``check`` found. Between
them the layer is chosen whose clusters know most of the phones of the development speakers. What is done lies in OUT
at once: models in halves, logs, choices.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from unisat.training import checkpoints, loop, recipe
from unisat.training.data import manifest

ROOT = Path(__file__).resolve().parents[1]
CHECK = Path("build/check")


def available(name: str, changes: dict) -> recipe.Recipe:
    """A recipe with those of its sources that are here."""
    made = recipe.read(ROOT / "recipes" / f"{name}.toml", changes)
    for source, where in list(made.data.train.items()):
        try:
            manifest(**where)
        except (ValueError, FileNotFoundError):
            del made.data.train[source], made.data.weights[source]
    return made


def speed(name: str, steps: int, changes: dict, *, profile: bool = False) -> dict:
    """Time a step of a recipe, from fresh weights on the first iteration's targets."""
    out = CHECK / f"{name}-{time.time_ns()}"
    began = time.time()
    fixed = {"out": str(out), "targets.features": "mfcc", "targets.model": None, "targets.layer": None}
    fixed |= {"targets.clusters": 100, "optimizer.steps": 2 * steps, "optimizer.warmup_steps": steps // 4}
    fixed |= {"model.unmasked_loss_weight": 1.0}
    if (target := Path("build/sat/1/targets")).exists():
        shutil.copytree(target, out / "targets")
    trainer = loop.Trainer(available(name, {**fixed, "init": None, **changes}), progress=False)
    batches, rows, times = trainer.train.iterate(), [], []
    startup = time.time() - began
    for _ in range(steps):
        rows.append(trainer.take_step(batches))
        trainer.step += 1
        times.append(rows[-1]["seconds"])
    if profile:
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as seen:
            for _ in range(3):
                trainer.take_step(batches)
        averages = seen.key_averages()
        print(averages.table(sort_by="self_cuda_time_total", row_limit=14, max_name_column_width=60), flush=True)
    half = len(rows) // 2
    row = {key: float(np.mean([row[key] for row in rows[-min(10, steps // 2) :]])) for key in rows[-1]}
    told = {"recipe": name, "changes": changes, "startup": startup, "ms": 1000 * float(np.median(times[half:]))}
    told |= {"first_ms": 1000 * float(np.sum(times[:5])), "audio_seconds": row["audio_seconds"]}
    told["hours_a_minute"] = row["audio_seconds"] / told["ms"] * 1000 * 60 / 3600
    names = ("loss", "accuracy_masked", "contrastive", "contrastive_chance", "code_perplexity_0", "grad_norm")
    told |= {key: row[key] for key in names if key in row}
    if torch.cuda.is_available():
        told["gigabytes"] = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in told.items()}), flush=True)
    return told


def parity() -> float:
    """Largest relative difference between the hidden states of the CPU and of the GPU, in float32."""
    import unisat as us

    torch.manual_seed(0)
    model = us.UniSpeechSatModel(recipe.read(ROOT / "recipes" / "sat-1.toml").model_config()).eval()
    batch = us.corpus.builtin().sample(4, seed=0).batch()
    given = (batch.input_values, batch.attention_mask)
    with torch.inference_mode():
        ours = model(*given, output_hidden_states=True).hidden_states
        model.cuda()
        theirs = model(*(part.cuda() for part in given), output_hidden_states=True).hidden_states
    pairs = zip(ours, theirs, strict=True)
    worst = max(float((a - b.cpu()).norm() / a.norm()) for a, b in pairs)
    print(f"hidden states, CPU and GPU: relative difference {worst:.2e}", flush=True)
    return worst


def check(out: Path, steps: int, changes: dict, seconds: float) -> None:
    """Measure everything that ``run`` wants to know, into build/check/check.json; what fails is said and left out."""
    began = time.time()
    CHECK.mkdir(parents=True, exist_ok=True)
    told: dict = {"card": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}

    def pair() -> list[dict]:
        command = [sys.executable, __file__, "speed", "--steps", str(5 * steps), *_sets(changes), "--name"]
        both = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in ("sat-2", "hubert-2")]
        return [json.loads(process.communicate()[0].splitlines()[-1]) for process in both]

    def twice() -> dict:
        return {**changes, "data.batch_seconds": 2 * round(told["alone"]["audio_seconds"])}

    works = {
        "alone": lambda: speed("sat-1", 5 * steps, changes, profile=torch.cuda.is_available()),
        "pair": pair,
        "large": lambda: speed("sat-1", steps, twice()),
        "parity": parity,
        "compiled": lambda: speed("sat-1", 2 * steps, {**changes, "run.compile": True}),
    }
    for name, work in works.items():
        if name in ("parity", "compiled") and (not torch.cuda.is_available() or time.time() - began > seconds):
            continue
        try:
            told[name] = work()
        except Exception as error:
            told[name + "_failed"] = repr(error)
            print(f"{name} failed: {error!r}", flush=True)
        told["seconds"] = time.time() - began
        for place in (CHECK, out):
            (place / "check.json").write_text(json.dumps(told, indent=1))
    print(json.dumps({"card": told["card"], "seconds": told["seconds"]}))


def _sets(changes: dict) -> list[str]:
    return [part for name, value in changes.items() for part in ("--set", f"{name}={json.dumps(value)}")]


class Run:
    """The stages, their time, and what they leave in ``out``."""

    def __init__(self, out: Path, seconds: float, changes: dict) -> None:
        self.out, self.end, self.changes = out, time.time() + seconds, changes
        self.began, self.seconds = time.time(), seconds
        found = json.loads((CHECK / "check.json").read_text())
        alone, pair = found["alone"], found.get("pair", [{"ms": 2.5 * found["alone"]["ms"]}])
        self.batch: dict = {}
        self.step = {"alone": alone["ms"] / 1000, "pair": max(part["ms"] for part in pair) / 1000}
        for name, key, most in (("compiled", "run.compile", 0.75), ("large", "data.batch_seconds", 1.35)):
            if name in found and found[name]["ms"] < most * alone["ms"]:
                self.batch = {key: found[name]["changes"][key]}
                self.step["alone"] = found[name]["ms"] / 1000
        self.startup = {"alone": alone["startup"] + 15, "pair": alone["startup"] + 25}
        self.say(f"steps of {self.step}, start {self.startup}, {self.batch}")

    def say(self, text: str) -> None:
        """Print and keep a line."""
        line = f"{time.time() - self.began:6.1f} s  {text}"
        print(line, flush=True)
        with (self.out / "stages.txt").open("a") as file:
            file.write(line + "\n")

    def start(self, name: str, folder: str, seconds: float, how: str, changes: dict) -> subprocess.Popen:
        """Start a recipe with as many steps as fit."""
        steps = max(20, int(0.93 * (seconds - self.startup[how]) / self.step[how]))
        values = {"optimizer.steps": steps, "run.valid_every": max(1, steps // 8), "run.save_every": max(1, steps // 8)}
        values |= {"run.keep": 9, "run.log_every": max(1, min(50, steps // 20))}
        values |= {"optimizer.warmup_steps": min(300, steps // 10)}
        made = available(name, {**values, **self.changes, **changes, "out": folder})
        file = CHECK / f"{folder.replace('/', '-')}.json"
        file.write_text(json.dumps(asdict(made)))
        self.say(f"{name}: {steps} steps, {changes}")
        log = (CHECK / f"{folder.replace('/', '-')}.log").open("w")
        program = "import json, sys; from unisat.training import loop, recipe; "
        program += "loop.pretrain(recipe.from_dict(json.load(open(sys.argv[1]))), progress=False)"
        return subprocess.Popen([sys.executable, "-c", program, file], stdout=log, stderr=subprocess.STDOUT)

    def wait(self, process: subprocess.Popen, folder: str) -> Path:
        """Wait for a run, no longer than there is time; give its model, or its last checkpoint."""
        try:
            process.wait(max(1.0, self.end - 12 - time.time()))
        except subprocess.TimeoutExpired:
            process.kill()
            self.say(f"{folder}: stopped, the time is over")
        place = Path(folder) / "model"
        if not place.exists() and (saved := checkpoints.saved(Path(folder) / "checkpoints")):
            shutil.copytree(saved[-1][1], place)
        self.keep(folder)
        log = CHECK / f"{folder.replace('/', '-')}.log"
        if not place.exists():
            self.say(f"{folder}: failed\n{log.read_text()[-1500:]}")
            raise RuntimeError(folder)
        valid = pd.read_csv(Path(folder) / "valid.csv").iloc[-1] if (Path(folder) / "valid.csv").exists() else {}
        train = pd.read_csv(Path(folder) / "train.csv")
        hours = (train["audio_seconds"] * train["step"].diff().fillna(train["step"])).sum() / 3600
        names = (
            "accuracy_masked accuracy_masked_commonest accuracy_masked_copied contrastive contrastive_chance".split()
        )
        names += "code_perplexity_0 code_perplexity_1".split()
        text = ", ".join(f"{name} {valid[name]:.3f}" for name in names if name in valid)
        steps, milliseconds = int(train["step"].iloc[-1]), 1000 * train["seconds"].median()
        self.say(f"{folder}: step {steps}, {hours:.0f} h, {milliseconds:.1f} ms, {text}")
        return place

    def keep(self, folder: str) -> None:
        """Put a run's model (in halves), its logs and targets' description into ``out``."""
        name = folder.removeprefix("build/").replace("/", "-")
        for label, place in {"model": Path(folder) / "model", **self.early(folder)}.items():
            if place.exists():
                with tarfile.open(self.out / f"{name}-{label}.tgz", "w:gz", compresslevel=1) as tar:
                    for file in sorted(place.iterdir()):
                        if file.name == "model.safetensors":
                            halves = CHECK / "halves.safetensors"
                            save_file(
                                {key: part.half() for key, part in load_file(file).items()}, halves, {"format": "pt"}
                            )
                            tar.add(halves, f"{name}-{label}/model.safetensors")
                        elif file.suffix in (".json", ".safetensors"):
                            tar.add(file, f"{name}-{label}/{file.name}")
        with tarfile.open(self.out / "logs.tgz", "w:gz") as tar:
            for file in [*Path("build").rglob("*.csv"), *CHECK.glob("*.log"), *Path("build").rglob("layer-*.txt")]:
                if file.name != "index.csv":
                    tar.add(file)
            for file in Path("build").rglob("targets/targets.json"):
                tar.add(file)

    def early(self, folder: str) -> dict[str, Path]:
        """An early checkpoint of the first iteration, for those who want to see a model learn."""
        saved = checkpoints.saved(Path(folder) / "checkpoints")
        return {"early": saved[0][1]} if folder == "build/sat/1" and len(saved) > 1 else {}

    def choose(self, model: str, clusters: int, number: int) -> int:
        """The layer whose clusters know most of the phones."""
        file = Path(f"build/sat/layer-{number}.txt")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        command = [sys.executable, str(ROOT / "benchmarks" / "targets.py"), "--model", model, "--device", device]
        command += ["--clusters", str(clusters), "--ways", "mean off, utterance", "--choose", str(file)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            self.say(f"no layer chosen: {done.stderr[-600:]}")
            return 5
        table = pd.read_csv(file.with_suffix(".csv"))
        told = ", ".join(f"{row.features}: {row.pnmi:.3f} / {row.speaker_bits:.2f}" for row in table.itertuples())
        self.say(f"{model}, k={clusters}, PNMI / bits of the speaker: {told}")
        return int(file.read_text())

    def pair(self, number: int, teacher: str, layer: int, seconds: float) -> None:
        """Both arms of an iteration side by side, on the same targets."""
        changes = {"targets.layer": layer, "targets.model": teacher}
        ours, twin = f"build/sat/{number}", f"build/hubert/{number}"
        first = self.start(f"sat-{number}", ours, seconds, "pair", changes)
        while not (Path(ours) / "targets" / "targets.json").exists() and first.poll() is None:
            time.sleep(0.2)
        if (Path(ours) / "targets").exists():
            shutil.copytree(Path(ours) / "targets", Path(twin) / "targets", dirs_exist_ok=True)
        second = self.start(f"hubert-{number}", twin, seconds, "pair", changes)
        failed = []
        for process, folder in ((second, twin), (first, ours)):
            try:
                self.wait(process, folder)
            except RuntimeError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def all(self) -> None:
        """Three iterations."""
        self.wait(self.start("sat-1", "build/sat/1", 0.24 * self.seconds, "alone", self.batch), "build/sat/1")
        layer = self.choose("build/sat/1/model", 200, 2)
        left = self.end - time.time()
        self.pair(2, "build/sat/1/model", layer, 0.46 * left)
        layer = self.choose("build/hubert/2/model", 400, 3)
        self.pair(3, "build/hubert/2/model", layer, self.end - time.time() - 15)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["check", "speed", "run"])
    parser.add_argument("--out", type=Path, default=Path("build/out"))
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--name", default="sat-1")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="in every recipe")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    changes = {name: json.loads(value) for name, value in (part.split("=", 1) for part in options.set)}
    if options.command == "check":
        check(options.out, options.steps, changes, options.seconds)
    elif options.command == "speed":
        speed(options.name, options.steps, changes)
    else:
        Run(options.out, options.seconds, changes).all()


if __name__ == "__main__":
    main()
