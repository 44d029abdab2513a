"""Train the built-in model, its twin and the arms of the ablation on a GPU, in minutes; gpu.sh prepares the machine.

    python recipes/gpu.py first --out OUT --seconds 150    # iteration 1, at two learning rates; the better one counts
    python recipes/gpu.py rest --out OUT --seconds 420     # iteration 2 likewise; then all arms and seeds side by side
    python recipes/gpu.py heads --out OUT --seconds 90     # the heads on what "rest" has made, side by side
    python recipes/gpu.py pack --out OUT NAME ...          # more models to bring home

A stage ends by the clock, and its schedules run with it, since nobody knows beforehand how fast a machine is. The runs
of a stage go in step: they hear the same speech and take the same number of steps. Between stages the layer is chosen
whose clusters know most of the phones of the development speakers. OUT gets models in halves, logs and choices.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import targets as judge  # noqa: E402

from unisat.corpus import Corpus  # noqa: E402
from unisat.training import heads, loop, recipe, resident  # noqa: E402
from unisat.training.data import manifest, union  # noqa: E402

FORK = multiprocessing.get_context("fork")  # the speech is read once, before processes begin and the GPU is touched
NOMINAL = 1_000_000
"""Steps of a schedule that runs by the clock; real ones are fewer."""
BLOCK = 25
"""Real steps between two looks at the clock."""
RATES = {"first": [1.5e-3, 3e-3], "second": [1e-3, 2e-3]}
ARMS: dict[str, dict[str, float]] = {
    "tiny": {},
    "tiny-hubert": {"mixing_prob": 0.0, "contrastive_loss_weight": 0.0, "diversity_loss_weight": 0.0},
    "contrastive": {"mixing_prob": 0.0},
    "mixing": {"contrastive_loss_weight": 0.0, "diversity_loss_weight": 0.0},
}
MEMORY = 130.0
"""GiB of the GPU; 75 for one with 80."""
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny/xvector": ("xvector", {}),
    "tiny/ctc": ("ctc", {}),
    "tiny/diarization": ("diarization", {}),
    "tiny/xvector-frozen": ("xvector", {"backbone_learning_rate": 0.0}),
    "tiny-hubert/xvector": ("xvector", {"model": "build/tiny-hubert/3-0/model"}),
}
"""Each head's kind, and in what it differs from its recipe."""
SOUND: dict[str, np.ndarray] = {}


def available(name: str, changes: dict) -> recipe.Recipe:
    """A recipe with those of its sources that are here."""
    made = recipe.read(ROOT / "recipes" / f"{name}.toml", changes)
    for source in [*made.data.train]:
        if not is_here(made.data.train[source]):
            del made.data.train[source], made.data.weights[source]
    return made


def is_here(source: dict) -> bool:
    """Whether there is anything of a source."""
    try:
        return len(manifest(**source)) > 0
    except (ValueError, FileNotFoundError):
        return False


def read_sound(sources: list[dict]) -> None:
    """Read all speech of sources into memory, in 16 bits, for this process and those that it begins."""
    corpus = union({str(number): manifest(**source) for number, source in enumerate(sources)})
    corpus = Corpus(corpus.table.drop_duplicates("path", ignore_index=True))

    def read(row: int) -> np.ndarray:
        path = corpus.table["path"].iloc[row]
        if isinstance(path, str) and path.endswith(".wav") and soundfile.info(path).samplerate == 16_000:
            return soundfile.read(path, dtype="int16")[0]
        return (original(corpus, row).numpy() * resident.FULL_SCALE).round().astype(np.int16)

    original = Corpus.waveform
    with ThreadPoolExecutor(16) as pool:
        SOUND.update(zip(corpus.table["path"], pool.map(read, range(len(corpus))), strict=True))

    def waveform(self: Corpus, row: int) -> torch.Tensor:
        sound = SOUND.get(self.table["path"].iloc[row])
        return original(self, row) if sound is None else torch.from_numpy(sound.astype(np.float32) / 2**15)

    def decode(corpus: Corpus, workers: int = 8) -> tuple[torch.Tensor, np.ndarray]:
        waves = [SOUND[path] for path in corpus.table["path"]]
        starts = np.concatenate([[0], np.cumsum([len(wave) for wave in waves])]).astype(np.int64)
        return torch.from_numpy(np.concatenate(waves)), starts

    Corpus.waveform, resident.decode = waveform, decode  # type: ignore[method-assign]


class Clock:
    """What the runs of a stage agree on: how much of its time has gone."""

    def __init__(self, runs: int, end: float) -> None:
        self.end = end
        self.begun, self.share = FORK.Value("d", 0.0), FORK.Value("d", 0.0)
        self.barrier = FORK.Barrier(runs, self._look)

    def _look(self) -> None:
        now = time.time()
        if not self.begun.value:  # all have started up
            self.begun.value = now
        self.share.value = min(1.0, (now - self.begun.value) / max(1.0, self.end - self.begun.value))

    def __call__(self) -> float:
        """Wait for the others; give the share of the time that has gone, the same for all."""
        try:
            self.barrier.wait(120)
        except BrokenBarrierError:  # another run has failed: go on without the others
            self._look()
        return self.share.value


class ByTheClock(loop.Trainer):
    """A run whose schedule follows the clock."""

    def __init__(self, made: recipe.Recipe, clock: Callable[[], float]) -> None:
        super().__init__(made, progress=False)
        self.clock = clock

    def _steps(self, bar: Any) -> None:
        taken, audio, began, batches = 0, 0.0, time.time(), self.train.iterate()
        while (share := self.clock()) < 1:
            for _ in range(BLOCK):
                self.step = max(self.step + 1, int(share * NOMINAL))  # draws differ as long as steps do
                row = self.take_step(batches)
                taken, audio = taken + 1, audio + row["audio_seconds"]
                assert self.log is not None
                self.log.add(taken, row, write=taken % (2 * BLOCK) == 0)
        memory = torch.cuda.max_memory_reserved() / 2**30 if torch.cuda.is_available() else 0.0
        ms = 1000 * (time.time() - began) / taken
        print(f"{taken} steps, {audio / 3600:.1f} h heard, {ms:.1f} ms a step, {memory:.1f} GiB", flush=True)
        if self.valid is not None and self.log is not None:
            self.log.validation(taken, {"hours": audio / 3600, **self.validate()})
        warm = self.recipe.optimizer.warmup_steps * taken // NOMINAL
        self.recipe.optimizer.steps, self.recipe.optimizer.warmup_steps = taken, warm


def begin(work: Callable[..., None], log: Path, *arguments: Any) -> Any:
    """Begin a process that writes what it says into a file."""

    def run() -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", buffering=1) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            torch.backends.cudnn.benchmark = True
            work(*arguments)

    process = FORK.Process(target=run)
    process.start()
    return process


def device() -> str:
    """Where there is work; only processes that were begun may ask."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def train(made: recipe.Recipe, clock: Clock, teacher: Path | None) -> None:
    """One run of a stage."""
    out = Path(made.out)
    shutil.rmtree(out / "model", ignore_errors=True)
    if teacher is not None and teacher.resolve() != (out / "targets").resolve():
        out.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(out / "targets", ignore_errors=True)
        shutil.copytree(teacher, out / "targets")
    loop.begun_with = lambda *_: {}  # type: ignore[assignment]
    ByTheClock(made, clock).run()


def teach(made: recipe.Recipe) -> None:
    """Make the targets of a stage."""
    torch.set_num_threads(8 if device() == "cuda" else 1)
    loop.targets_of(made, device())


def choose(speech: judge.Speech, model: Path, clusters: int, file: Path) -> None:
    """What clusters of each layer know."""
    torch.set_num_threads(6 if device() == "cuda" else 1)
    judge.measure(speech, model, [clusters], [], device()).to_csv(file, index=False)


def train_heads(out: Path, seconds: float, changes: dict) -> None:
    """Train the heads side by side for some time, from the first pretrained model; put them into ``out``."""
    begun, made = time.time(), {}
    for name, (kind, own) in HEADS.items():
        where = {"model": "build/tiny/3-0/model", "out": f"build/{name}", **changes, **own}
        if (Path(where["model"]) / "model.safetensors").exists():
            file = ROOT / "recipes" / f"tiny-{kind}.toml"
            made[name] = recipe.read(file, where, heads.HeadRecipe)
            for sources in (made[name].train, made[name].valid):
                for source in [source for source in sources if not is_here(sources[source])]:
                    del sources[source]
    found = [source for each in made.values() for source in [*each.train.values(), *each.valid.values()]]
    read_sound([source for number, source in enumerate(found) if source not in found[:number]])
    print(f"{time.time() - begun:.1f} s: {len(SOUND)} recordings read", flush=True)
    end = begun + seconds - 15  # judging, saving and packing take a while
    log = {name: Path("build/gpu") / f"{name.replace('/', '-')}.log" for name in made}
    processes = {name: begin(train_head, log[name], HEADS[name][0], each, end) for name, each in made.items()}
    for name, process in processes.items():
        process.join(max(0.1, begun + seconds + 60 - time.time()))
        if process.is_alive():
            process.kill()
        table = Path("build") / name / "train.csv"
        told = table.read_text().splitlines() if table.exists() and not process.exitcode else ["failed"]
        print(
            f"{time.time() - begun:.1f} s: {name}: {told[0]}: {told[-1]}\n{log[name].read_text()[-1500:]}", flush=True
        )
    pack(out, [*made])


def train_head(kind: str, made: heads.HeadRecipe, end: float) -> None:
    """One of them, by the clock."""
    torch.backends.cudnn.benchmark = False  # each batch is of another length
    shutil.rmtree(Path(made.out) / "model", ignore_errors=True)
    begun: list[float] = []

    def clock() -> float:
        begun.append(time.time())
        return (begun[-1] - begun[0]) / max(1.0, end - begun[0])

    heads.train(kind, made, progress=False, clock=clock)
    told = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device() == "cuda" else ""
    print(f"{len(begun) - 1} steps, {1000 * (begun[-1] - begun[0]) / max(1, len(begun) - 1):.0f} ms each{told}")


class Stages:
    """The stages one after the other, and what they leave in ``out``."""

    def __init__(self, out: Path, seconds: float, changes: dict) -> None:
        self.out, self.began, self.end, self.changes = out, time.time(), time.time() + seconds, changes
        self.logs = Path("build/gpu")
        self.logs.mkdir(parents=True, exist_ok=True)
        judge.WAYS = {name: way for name, way in judge.WAYS.items() if name == "mean off, utterance"}
        with ThreadPoolExecutor(2) as pool:
            speech = pool.submit(judge.Speech, 400)
            data = available("tiny-1", changes).data
            read_sound([*data.train.values(), *data.valid.values()])
            self.speech = speech.result()
        self.say(f"{len(SOUND)} recordings, {sum(map(len, SOUND.values())) / 16_000 / 3600:.2f} h read")

    def say(self, text: str) -> None:
        """Print and keep a line."""
        line = f"{time.time() - self.began:6.1f} s  {text}"
        print(line, flush=True)
        for folder in (self.out, self.logs):
            with (folder / "stages.txt").open("a") as file:
                file.write(line + "\n")

    def stage(self, jobs: dict[str, tuple[str, dict]], seconds: float, teacher: Path | None) -> list[str]:
        """Train side by side for some time; give the names of the runs that came to their end."""
        schedule = {"optimizer.steps": NOMINAL, "optimizer.warmup_steps": NOMINAL // 20}
        clock = Clock(len(jobs), time.time() + seconds)
        begun = {}
        for name, (file, changes) in jobs.items():
            made = available(file, {**schedule, **self.changes, **changes, "out": f"build/{name}"})
            begun[name] = begin(train, self.log(name), made, clock, teacher)
        self.wait(begun, seconds + 60)
        done = [name for name in jobs if (Path("build") / name / "model").exists()]
        for name in jobs:
            told = self.log(name).read_text()
            self.say(f"{name}: {self.numbers(name)}" if name in done else f"{name} failed\n{told[-1500:]}")
        if not done:
            raise RuntimeError("no run came to its end")
        return done

    def wait(self, begun: dict[str, Any], seconds: float) -> None:
        """Wait for processes, and end those that take too long."""
        end = time.time() + seconds
        for name, process in begun.items():
            process.join(max(0.1, end - time.time()))
            if process.is_alive():
                process.kill()
                self.say(f"{name}: stopped, it took too long")

    def log(self, name: str) -> Path:
        """Where a run writes what it says."""
        return self.logs / f"{name.replace('/', '-')}.log"

    def numbers(self, name: str) -> str:
        """The last validation of a run, and how fast it was."""
        row = pd.read_csv(Path("build") / name / "valid.csv").iloc[-1]
        names = "hours content_masked accuracy_masked accuracy_masked_commonest contrastive contrastive_chance".split()
        names += ["code_perplexity_0", "code_perplexity_1"]
        told = ", ".join(f"{part} {row[part]:.3f}" for part in names if part in row)
        return f"{told}; {self.log(name).read_text().splitlines()[-1]}" if told else told

    def best(self, names: list[str], clusters: int) -> tuple[str, int]:
        """The run and the layer whose clusters know most of the phones."""
        files = {name: self.log(name).with_suffix(f".{clusters}.csv") for name in names}
        begun = {
            name: begin(choose, self.log(f"{name}-choose"), self.speech, Path("build") / name / "model", clusters, file)
            for name, file in files.items()
        }
        self.wait(begun, 60)
        tables = [pd.read_csv(file).assign(run=name) for name, file in files.items() if file.exists()]
        if not tables:
            self.say(f"nothing chosen: {self.log(f'{names[0]}-choose').read_text()[-1200:]}")
            layers = json.loads((Path("build") / names[0] / "model" / "config.json").read_text())["num_hidden_layers"]
            return names[0], max(1, 3 * layers // 4)
        for table in tables:
            told = ", ".join(f"{row.pnmi:.3f} / {row.speaker_bits:.2f}" for row in table.itertuples())
            self.say(f"{table['run'][0]}, k={clusters}, PNMI / bits of the speaker by layer: {told}")
        row = pd.concat(tables).sort_values("pnmi").iloc[-1]
        return row["run"], int(row["features"].removeprefix("layer "))

    def targets(self, name: str, changes: dict) -> Path:
        """Make targets, in a process of their own."""
        made = available(name, {**self.changes, **changes})
        self.wait({"targets": begin(teach, self.log(f"{name}-targets"), made)}, 90)
        folder = Path(made.out) / "targets"
        if not folder.exists():
            raise RuntimeError(self.log(f"{name}-targets").read_text()[-1500:])
        self.say(f"targets {folder}")
        return folder

    def first(self) -> None:
        """Iteration 1."""
        left = self.end - time.time()
        jobs = {f"first-{rate:g}": ("tiny-1", {"optimizer.learning_rate": rate}) for rate in RATES["first"]}
        done = self.stage(jobs, left - 40, Path("build/tiny/1/targets"))
        name, layer = self.best(done, 250)
        self.keep(name, "tiny/1")
        Path("build/tiny/1/layer.json").write_text(json.dumps(layer))
        self.say(f"iteration 1 is {name}, layer {layer}")
        self.pack(["tiny/1"])

    def rest(self) -> None:
        """Iteration 2, then all arms and seeds."""
        layer = json.loads(Path("build/tiny/1/layer.json").read_text())
        folder = self.targets("tiny-2", {"targets.layer": layer})
        jobs = {
            f"second-{rate:g}": ("tiny-2", {"optimizer.learning_rate": rate, "targets.layer": layer})
            for rate in RATES["second"]
        }
        done = self.stage(jobs, 0.3 * (self.end - time.time()), folder)
        name, layer = self.best(done, 400)
        self.keep(name, "tiny/2")
        self.pack(["tiny/2"])
        self.say(f"iteration 2 is {name}, layer {layer}")
        folder = self.targets("tiny-3", {"targets.layer": layer})
        jobs = {}
        for seed in range(self.seeds(done[0])):
            for arm, values in ARMS.items():
                changes = {f"model.{key}": value for key, value in values.items()}
                jobs[f"{arm}/3-{seed}"] = ("tiny-3", {**changes, "seed": seed, "targets.layer": layer})
        self.stage(jobs, self.end - time.time() - 30, folder)
        self.pack([*(f"{arm}/3-{seed}" for seed in (0, 1) for arm in ("tiny", "tiny-hubert"))])

    def seeds(self, name: str) -> int:
        """How many times all arms fit into the memory of the GPU beside each other, three at most."""
        needed = float(self.log(name).read_text().split(" GiB")[0].split()[-1]) + 4  # the contrastive loss wants more
        return max(1, min(3, int(MEMORY / needed) // len(ARMS)))

    def keep(self, name: str, place: str) -> None:
        """Let a run stand for an iteration."""
        for part in ("model", "train.csv", "valid.csv"):
            source, goal = Path("build") / name / part, Path("build") / place / part
            shutil.rmtree(goal, ignore_errors=True)
            goal.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, goal)

    def pack(self, names: list[str]) -> None:
        """Put models, in halves, and all logs into ``out``."""
        pack(self.out, names)


def pack(out: Path, names: list[str]) -> None:
    """Put models, in halves, and all logs into ``out``."""
    with tarfile.open(out / "logs.tgz", "w:gz") as tar:
        for file in [*Path("build").rglob("*.csv"), *Path("build/gpu").glob("*"), *Path("build").rglob("targets.json")]:
            if file.name != "index.csv" and "shared" not in file.parts and "site" not in file.parts:
                tar.add(file)
    for name in names:
        place = Path("build") / name / "model"
        if not place.exists():
            continue
        halves = Path("build/gpu/halves.safetensors")
        save_file(
            {key: part.half() for key, part in load_file(place / "model.safetensors").items()}, halves, {"format": "pt"}
        )
        with tarfile.open(out / f"{name.replace('/', '-')}.tgz", "w:gz", compresslevel=4) as tar:
            for file in sorted(place.iterdir()):
                tar.add(halves if file.name == "model.safetensors" else file, f"build/{name}/model/{file.name}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["first", "rest", "heads", "pack"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("build/out"))
    parser.add_argument("--seconds", type=float, default=400.0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="in every recipe")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    changes = {name: json.loads(value) for name, value in (part.split("=", 1) for part in options.set)}
    if options.command == "pack":
        pack(options.out, options.names)
    elif options.command == "heads":
        train_heads(options.out, options.seconds, changes)
    else:
        getattr(Stages(options.out, options.seconds, changes), options.command)()


if __name__ == "__main__":
    main()
