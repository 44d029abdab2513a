"""Train the built-in model, its twin and other arms on a GPU, in minutes; gpu.sh prepares the machine.

    python recipes/gpu.py unpack                           # speech of build/carry, decoded by all processors
    python recipes/gpu.py train --out OUT --seconds 500    # two iterations, the second one with all arms side by side
    python recipes/gpu.py heads --out OUT --seconds 60     # the heads on what "train" has made, side by side
    python recipes/gpu.py pack --out OUT NAME ...          # more models to bring home

A stage ends by the clock, and its schedules run with it, since nobody knows beforehand how fast a machine is. The runs
of a stage go in step: they hear the same speech and take the same number of steps. Between stages the layer is chosen
whose clusters know most of the phones of the development speakers. OUT gets models in halves, logs and choices.
"""

import argparse
import io
import json
import multiprocessing
import os
import shutil
import sys
import tarfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch
from safetensors.torch import load_file, save_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import targets as judge  # noqa: E402
from phones import SHARED, Phones  # noqa: E402
from recorded import NOMINAL, Recorded  # noqa: E402

from unisat import UniSpeechSatModel  # noqa: E402
from unisat.clusters import entropy, lloyd  # noqa: E402
from unisat.corpus import Corpus  # noqa: E402
from unisat.files import save_json  # noqa: E402
from unisat.frames import conv_length, valid_positions  # noqa: E402
from unisat.training import heads, loop, recipe, resident  # noqa: E402
from unisat.training.data import manifest, union  # noqa: E402
from unisat.training.targets import label_hash  # noqa: E402

FORK = multiprocessing.get_context("fork")  # the speech is read once, before processes begin and the GPU is touched
CARRY, SOUNDS, LOGS = Path("build/carry"), Path("build/sound"), Path("build/gpu")
ALONE = {"mixing_prob": 0.0, "contrastive_loss_weight": 0.0, "diversity_loss_weight": 0.0}
ARMS: dict[str, dict[str, float]] = {
    "sat": {},
    "hubert": ALONE,
    "contrastive": {"mixing_prob": 0.0},
    "mixing": {"contrastive_loss_weight": 0.0, "diversity_loss_weight": 0.0},
}
"""The arms of the second iteration, and in what they differ from the recipe."""
SEEDS = 2
LATER = ("contrastive/2-1", "mixing/2-1")
"""What comes home with the heads, and the first iteration."""
CONTROLS = json.loads((ROOT / "benchmarks" / "training.json").read_text())["probes"]["controls"]
GO = next(row["phones"] for row in CONTROLS if row["features"] == "MFCC, mean off")
"""What MFCC know of the development speakers' phones (benchmarks/development.py); who knows less does not go on."""
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "sat/xvector": ("xvector", {}),
    "sat/ctc": ("ctc", {}),
    "sat/diarization": ("diarization", {}),
    "hubert/xvector": ("xvector", {"model": "build/hubert/2-0/model"}),
}
"""Each head's kind, and in what it differs from its recipe."""
SOUND: dict[str, np.ndarray] = {}
"""All speech by its path, in 16 bits, for this process and those that it begins."""


# ---- speech ----


def decoded(coded: bytes) -> bytes:
    """16-bit samples of a sound file."""
    return soundfile.read(io.BytesIO(coded), dtype="int16")[0].tobytes()


def unpack() -> None:
    """Decode what lies in build/carry, each part once, into one file of samples; tables go where recipes look."""
    SOUNDS.mkdir(parents=True, exist_ok=True)
    for part in sorted(CARRY.glob("part-*.tgz")):
        if (SOUNDS / f"{part.stem}.json").exists():
            continue
        with tarfile.open(part) as tar:
            items = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
        for name in items:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".csv"):
                Path(name).write_bytes(items[name])
        names = [name for name in items if not name.endswith(".csv")]
        with FORK.Pool(os.cpu_count()) as pool:
            sounds = pool.map(decoded, [items[name] for name in names], chunksize=32)
        paths = [str(Path(name).with_suffix(".wav")) for name in names]
        for path in paths:
            Path(path).touch()  # manifests ask whether files are there
        (SOUNDS / f"{part.stem}.raw").write_bytes(b"".join(sounds))
        (SOUNDS / f"{part.stem}.json").write_text(
            json.dumps([[path, len(sound) // 2] for path, sound in zip(paths, sounds, strict=True)])
        )
        print(f"{part}: {len(items)} files", flush=True)


def read_sound() -> None:
    """Read what was unpacked, and the built-in voices; corpora give their speech from there."""
    for file in sorted(SOUNDS.glob("*.json")):
        samples, place = np.fromfile(file.with_suffix(".raw"), np.int16), 0
        for path, count in json.loads(file.read_text()):
            SOUND[os.path.abspath(path)] = samples[place : place + count]
            place += count
    original, voices = Corpus.waveform, manifest("builtin")
    for row, path in enumerate(voices.table["path"]):
        SOUND[path] = (original(voices, row).numpy() * resident.FULL_SCALE).round().astype(np.int16)

    def waveform(self: Corpus, row: int) -> torch.Tensor:
        return torch.from_numpy(SOUND[self.table["path"].iloc[row]].astype(np.float32) / resident.FULL_SCALE)

    decoded: dict[tuple[str, ...], tuple[torch.Tensor, np.ndarray]] = {}

    def decode(corpus: Corpus, workers: int = 8) -> tuple[torch.Tensor, np.ndarray]:
        key = tuple(corpus.table["path"])
        if key not in decoded:  # runs side by side share what they hear
            waves = [SOUND[path] for path in key]
            starts = np.concatenate([[0], np.cumsum([len(wave) for wave in waves])]).astype(np.int64)
            decoded[key] = (torch.from_numpy(np.concatenate(waves)).to(device()), starts)
        return decoded[key]

    Corpus.waveform, resident.decode = waveform, decode  # type: ignore[method-assign]


def is_here(source: dict) -> bool:
    """Whether there is anything of a source."""
    try:
        return len(manifest(**source)) > 0
    except (ValueError, FileNotFoundError):
        return False


def available(name: str, changes: dict) -> recipe.Recipe:
    """A recipe with those of its sources that are here."""
    made = recipe.read(ROOT / "recipes" / f"{name}.toml", changes)
    for source in [*made.data.train]:
        if not is_here(made.data.train[source]):
            del made.data.train[source], made.data.weights[source]
    for source in [source for source in made.data.valid if not is_here(made.data.valid[source])]:
        del made.data.valid[source]
    return made


# ---- processes ----


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
            self.barrier.wait(150)
        except BrokenBarrierError:  # another run has failed: go on without the others
            self._look()
        return self.share.value


def begin(work: Callable[..., None], log: Path, *arguments: Any) -> Any:
    """Begin a process that writes what it says into a file."""

    def run() -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", buffering=1) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            work(*arguments)

    process = FORK.Process(target=run)
    process.start()
    return process


def device() -> str:
    """Where there is work; only processes that were begun may ask."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def train(jobs: dict[str, tuple[recipe.Recipe, Path]], clock: Clock) -> None:
    """The runs of a stage with their targets, side by side: threads that take turns, since they share one GPU."""
    loop.begun_with = lambda *_: {}  # type: ignore[assignment]
    turn = threading.Lock()

    def one(made: recipe.Recipe, teacher: Path) -> None:
        try:
            with turn:
                out = Path(made.out)
                shutil.rmtree(out / "model", ignore_errors=True)
                if teacher.resolve() != (out / "targets").resolve():
                    out.mkdir(parents=True, exist_ok=True)
                    shutil.rmtree(out / "targets", ignore_errors=True)
                    shutil.copytree(teacher, out / "targets")
                run = Recorded(made, clock, turn)
            run.run()
        except Exception:
            print(f"{made.out}: failed\n{traceback.format_exc()}", flush=True)
            clock.barrier.abort()  # the others go on

    threads = [threading.Thread(target=one, args=job) for job in jobs.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@torch.inference_mode()
def teach(made: recipe.Recipe, told_of_phones: bool) -> None:
    """Cluster each layer of the teacher; the targets are those that know most of the development speakers' phones.

    A recipe that is told of phones has its layers turned by a linear discriminant first, fitted on training speakers.
    """
    began, where, settings = time.time(), torch.device(device()), made.targets
    torch.set_num_threads(4 if where.type == "cuda" else 1)
    sources = {**made.data.train, **{f"valid-{name}": source for name, source in made.data.valid.items()}}
    table = union({name: manifest(**source) for name, source in sources.items()}).table
    model = UniSpeechSatModel.from_pretrained(str(settings.model)).to(where)
    config = model.config
    sizes = np.array([len(SOUND[path]) for path in table["path"]])
    frames = conv_length(torch.from_numpy(sizes), config.receptive_field, config.inputs_to_logits_ratio).numpy()
    starts, total = np.cumsum(frames) - frames, int(frames.sum())
    layers = range(1, config.num_hidden_layers + 1)
    states = [torch.empty(total, config.hidden_size, dtype=torch.float16, device=where) for _ in layers]
    order = np.argsort(-sizes)
    while len(order):
        count = max(1, int((300 if where.type == "cuda" else 30) * 16_000 / sizes[order[0]]))
        rows, order = order[:count], order[count:]
        waves = torch.zeros(len(rows), int(sizes[rows[0]]), dtype=torch.int16)
        for place, row in enumerate(rows):
            waves[place, : sizes[row]] = torch.from_numpy(SOUND[table["path"].iloc[row]])
        lengths = torch.from_numpy(sizes[rows]).to(where)
        valid = valid_positions(lengths, waves.shape[1])
        heard = resident.normalized(waves.to(where).float() / resident.FULL_SCALE, lengths, valid)
        with torch.autocast(where.type, torch.bfloat16, enabled=where.type == "cuda"):
            output = model(heard, valid.long(), output_hidden_states=True)
        place = np.concatenate([np.arange(starts[row], starts[row] + frames[row]) for row in rows])
        for kept, state in zip(states, output.hidden_states[1:], strict=True):
            kept[torch.from_numpy(place).to(where)] = state[output.valid].half()
    print(f"{time.time() - began:.1f} s: {total} frames", flush=True)

    utterance = torch.from_numpy(np.repeat(np.arange(len(table)), frames)).to(where)
    share = torch.from_numpy(frames).to(where)[:, None].clamp(min=1)
    sample = torch.randperm(total, generator=torch.Generator().manual_seed(made.seed))[
        : int(50 * settings.sample_seconds)
    ]
    known, home = Phones(), os.path.abspath(SHARED / "speech")
    files = [os.path.relpath(path, home).removesuffix(".wav") for path in table["path"]]
    codes = {row: known(file, int(sizes[row])) for row, file in enumerate(files) if file in known}
    valid = table["id"].str.startswith("valid-").to_numpy()
    judged = [row for row in codes if valid[row]]
    said = [codes[row] for row in judged]
    fitted, asked = (spoken(codes, starts, valid == kind) for kind in (False, True))
    fitted = tuple(part[:: max(1, len(fitted[0]) // 200_000)] for part in fitted)
    rows, best, found = [], 0.0, None
    for layer, state in zip(layers, states, strict=True):
        values = state.float()
        values -= (torch.zeros(len(table), values.shape[1], device=where).index_add_(0, utterance, values) / share)[
            utterance
        ]
        probe = LinearDiscriminantAnalysis(solver="eigen", shrinkage=1e-3)
        probe.fit(values[fitted[0].to(where)].cpu().numpy(), fitted[1].numpy())
        right = probe.predict(values[asked[0].to(where)].cpu().numpy()) == asked[1].numpy()
        if told_of_phones:
            turned = probe.scalings_[:, : len(probe.classes_) - 1]
            values = values @ torch.from_numpy(turned).float().to(where)
        clusters = lloyd(values[sample.to(where)], settings.clusters, made.seed)
        labels = clusters.assign(values, block=2**16).cpu().numpy().astype(np.uint16)
        parts = [labels[starts[row] : starts[row] + frames[row]].astype(int) for row in judged]
        told = judge.judge(parts, said, table["speaker"].iloc[judged].tolist())
        rows.append({"layer": layer, "clusters": settings.clusters, "phones": right.mean(), **told})
        print(f"{time.time() - began:.1f} s: {rows[-1]}", flush=True)
        if told["pnmi"] > best:
            best, found = told["pnmi"], (layer, clusters, labels)
    assert found is not None
    layer, clusters, labels = found
    pd.DataFrame(rows).to_csv(LOGS / f"{made.out.removeprefix('build/').replace('/', '-')}-layers.csv", index=False)
    folder = Path(made.out) / "targets"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    index = pd.DataFrame({"id": table["id"], "start": starts, "frames": frames})
    index.to_csv(folder / "index.csv", index=False)
    np.save(folder / "labels.npy", labels)
    torch_clusters = type(clusters)(clusters.centroids, clusters.inertia, "hidden", layer)
    torch_clusters.save(folder)
    count = np.bincount(labels, minlength=settings.clusters)
    about = {"features": "hidden", "layer": layer, "do_normalize": made.data.do_normalize, "model": "model"}
    about |= {"mean_off": "utterance", "variance_one": False, "seed": made.seed, "clusters": settings.clusters}
    about |= {"discriminant": "LDA to phones"} if told_of_phones else {}
    about |= {"sample_seconds": settings.sample_seconds, "utterances": len(index), "frames": total}
    about |= {"label_hash": label_hash(index.to_dict("records"), labels), "entropy": entropy(count)}
    about |= {"empty_clusters": int((count == 0).sum()), "too_short": [], "unreadable": []}
    save_json(about, folder / "targets.json")


def spoken(codes: dict[int, np.ndarray], starts: np.ndarray, wanted: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of the frames with a phone in the wanted recordings, and their phones."""
    rows = [row for row in codes if wanted[row]]
    place = np.concatenate([starts[row] + np.arange(len(codes[row])) for row in rows])
    phone = np.concatenate([codes[row] for row in rows])
    return torch.from_numpy(place[phone >= 0]), torch.from_numpy(phone[phone >= 0])


class Stages:
    """The stages one after the other, and what they leave in ``out``."""

    def __init__(self, out: Path, seconds: float, changes: dict) -> None:
        self.out, self.began, self.end, self.changes = out, time.time(), time.time() + seconds, changes
        LOGS.mkdir(parents=True, exist_ok=True)
        read_sound()
        self.say(f"{len(SOUND)} recordings, {sum(map(len, SOUND.values())) / 16_000 / 3600:.2f} h read")

    def say(self, text: str) -> None:
        """Print and keep a line."""
        line = f"{time.time() - self.began:6.1f} s  {text}"
        print(line, flush=True)
        for folder in (self.out, LOGS):
            with (folder / "stages.txt").open("a") as file:
                file.write(line + "\n")

    def all(self) -> None:
        """Two iterations, of a self-supervised model and of one that is told of phones; the better one has all arms."""
        left = self.end - time.time()
        first = {}
        for name in ("sat/1", "lda/1"):  # they learn on from where such models stand
            file = name.replace("/", "-")
            begun = {"init": self.changes.get("init", f"recipes/interim/{file}")}
            first[name] = (file, begun, Path("build") / name / "targets")
        self.stage(first, 0.4 * left)
        pack(self.out, [*first])
        layers, phones = self.targets({"sat-2": "build/sat/1/model", "lda-2": "build/lda/1/model"})
        whole, other = ("sat-2", "lda-2") if phones["sat-2"] > GO else ("lda-2", "sat-2")
        self.say(f"phones: {phones}, MFCC {GO}: {whole} goes on with all arms")
        runs = {f"{arm}/2-{seed}": (whole, arm, seed) for arm in ARMS for seed in range(SEEDS)}
        runs |= {"other/2-0": (other, "sat", 0), "other-hubert/2-0": (other, "hubert", 0)}
        jobs = {}
        for name, (file, arm, seed) in runs.items():
            changes: dict[str, Any] = {f"model.{key}": value for key, value in ARMS[arm].items()}
            place = Path("build") / file.replace("-", "/")
            changes |= {"seed": seed, "targets.layer": layers[file], "init": f"{place.parent}/1/model"}
            jobs[name] = (file, changes, place / "targets")
        self.stage(jobs, self.end - time.time() - 20)
        for packed in self.out.glob("*.tgz"):
            packed.unlink()  # what comes home is limited: four files, of two models each
        pack(self.out, [name for name in jobs if name not in LATER])

    def stage(self, jobs: dict[str, tuple[str, dict, Path]], seconds: float) -> None:
        """Train side by side for some time; each run with its recipe, changes to it, and targets."""
        schedule = {"optimizer.steps": NOMINAL, "optimizer.warmup_steps": NOMINAL // 12}
        clock, log = Clock(len(jobs), time.time() + seconds), log_of("+".join(jobs))
        runs = {}
        for name, (file, changes, teacher) in jobs.items():
            made = available(file, {**schedule, **self.changes, **changes, "out": f"build/{name}"})
            runs[name] = (made, teacher)
        self.wait({"+".join(jobs): begin(train, log, runs, clock)}, seconds + 60)
        done = [name for name in jobs if (Path("build") / name / "model").exists()]
        for name in jobs:
            self.say(f"{name}: {self.numbers(name, log)}" if name in done else f"{name} failed")
        if len(done) < len(jobs):
            print(log.read_text()[-6000:], flush=True)
        if not done:
            raise RuntimeError("no run came to its end")

    def wait(self, begun: dict[str, Any], seconds: float) -> None:
        """Wait for processes, and end those that take too long."""
        end = time.time() + seconds
        for name, process in begun.items():
            process.join(max(0.1, end - time.time()))
            if process.is_alive():
                process.kill()
                self.say(f"{name}: stopped, it took too long")

    def numbers(self, name: str, log: Path) -> str:
        """The last validation of a run, and how fast it was."""
        judged = Path("build") / name / "valid.csv"
        row = pd.read_csv(judged).iloc[-1] if judged.exists() else {}
        names = "hours content_masked accuracy_masked accuracy_masked_commonest contrastive contrastive_chance".split()
        names += ["code_perplexity_0", "code_perplexity_1"]
        told = ", ".join(f"{part} {row[part]:.3f}" for part in names if part in row)
        lines = [line.split(": ", 1) for line in log.read_text().splitlines() if line.startswith(f"build/{name}: ")]
        return f"{told}; {' | '.join(line for _, line in lines)}"

    def targets(self, teachers: dict[str, str]) -> tuple[dict[str, int], dict[str, float]]:
        """Make the targets of recipes, in processes of their own, with their teachers; give layers and phones known."""
        made = {name: available(name, {**self.changes, "targets.model": path}) for name, path in teachers.items()}
        self.wait(
            {name: begin(teach, log_of(f"{name}-targets"), each, "lda" in name) for name, each in made.items()}, 90
        )
        layers, phones = {}, {}
        for name, each in made.items():
            folder, told = Path(each.out) / "targets", log_of(f"{name}-targets").read_text()
            if not (folder / "targets.json").exists():
                raise RuntimeError(told[-2500:])
            table = pd.read_csv(LOGS / f"{name}-layers.csv")
            shown = ", ".join(
                f"{row.phones:.3f} / {row.pnmi:.3f} / {row.speaker_bits:.2f}" for row in table.itertuples()
            )
            self.say(f"{folder}: phones by LDA / PNMI / bits of the speaker by layer: {shown}")
            phones[name] = float(table["phones"].max())
            layers[name] = int(json.loads((folder / "targets.json").read_text())["layer"])
        return layers, phones


def log_of(name: str) -> Path:
    """Where a run writes what it says."""
    return LOGS / f"{name.replace('/', '-')}.log"


def train_heads(out: Path, seconds: float, changes: dict) -> None:
    """Train the heads side by side for some time, from the first pretrained model; put them into ``out``."""
    begun, made = time.time(), {}
    LOGS.mkdir(parents=True, exist_ok=True)
    for name, (kind, own) in HEADS.items():
        where = {"model": "build/sat/2-0/model", "out": f"build/{name}", **changes, **own}
        if (Path(where["model"]) / "model.safetensors").exists():
            file = ROOT / "recipes" / f"sat-{kind}.toml"
            made[name] = recipe.read(file, where, heads.HeadRecipe)
            for sources in (made[name].train, made[name].valid):
                for source in [source for source in sources if not is_here(sources[source])]:
                    del sources[source]
    read_sound()
    print(f"{time.time() - begun:.1f} s: {len(SOUND)} recordings read", flush=True)
    end = begun + seconds - 15  # judging, saving and packing take a while
    processes = {name: begin(train_head, log_of(name), HEADS[name][0], each, end) for name, each in made.items()}
    for name, process in processes.items():
        process.join(max(0.1, begun + seconds + 60 - time.time()))
        if process.is_alive():
            process.kill()
        table = Path("build") / name / "train.csv"
        told = table.read_text().splitlines() if table.exists() and not process.exitcode else ["failed"]
        print(
            f"{time.time() - begun:.1f} s: {name}: {told[0]}: {told[-1]}\n{log_of(name).read_text()[-1500:]}",
            flush=True,
        )
        judged = Path("build") / name / "valid.csv"
        print(judged.read_text() if judged.exists() else "", flush=True)
    pack(out, [*made])


def train_head(kind: str, made: heads.HeadRecipe, end: float) -> None:
    """One of them, by the clock."""
    shutil.rmtree(Path(made.out) / "model", ignore_errors=True)
    begun: list[float] = []

    def clock() -> float:
        begun.append(time.time())
        return (begun[-1] - begun[0]) / max(1.0, end - begun[0])

    heads.train(kind, made, progress=False, clock=clock)
    told = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device() == "cuda" else ""
    print(f"{len(begun) - 1} steps, {1000 * (begun[-1] - begun[0]) / max(1, len(begun) - 1):.0f} ms each{told}")


def pack(out: Path, names: list[str]) -> None:
    """Put models, in halves, and all logs into ``out``."""
    with tarfile.open(out / "logs.tgz", "w:gz") as tar:
        for file in [*Path("build").rglob("*.csv"), *LOGS.glob("*"), *Path("build").rglob("targets.json")]:
            if file.name != "index.csv" and "site" not in file.parts and file.suffix != ".safetensors":
                tar.add(file)
    names = [name for name in names if (Path("build") / name / "model").exists()]
    for two in (names[start : start + 2] for start in range(0, len(names), 2)):
        with tarfile.open(out / f"{'_'.join(two).replace('/', '-')}.tgz", "w:gz", compresslevel=1) as tar:
            for name in two:
                place, halves = Path("build") / name / "model", LOGS / "halves.safetensors"
                weights = {key: part.half() for key, part in load_file(place / "model.safetensors").items()}
                save_file(weights, halves, {"format": "pt"})
                for file in sorted(place.iterdir()):
                    tar.add(halves if file.name == "model.safetensors" else file, f"build/{name}/model/{file.name}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["unpack", "train", "heads", "pack"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("build/out"))
    parser.add_argument("--seconds", type=float, default=400.0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="in every recipe")
    options = parser.parse_intermixed_args()  # names may come behind the options
    options.out.mkdir(parents=True, exist_ok=True)
    changes = {name: json.loads(value) for name, value in (part.split("=", 1) for part in options.set)}
    if options.command == "unpack":
        unpack()
    elif options.command == "pack":
        pack(options.out, options.names)
    elif options.command == "heads":
        train_heads(options.out, options.seconds, changes)
    else:
        Stages(options.out, options.seconds, changes).all()


if __name__ == "__main__":
    main()
