"""The pretraining loop on Accelerate, for one process or many, which resumes exactly.

Every draw of a step (crops, mixing, masks, Gumbel noise, dropout) is a function of the seed, the step and the process.
So a run that stopped goes on with the numbers it would have had, and no state of a random generator has to be kept.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from unisat.corpus import Corpus
from unisat.files import NotWrittenError, alone, remove_partial, save_json, whole_file, whole_folder, writing
from unisat.losses import ContentFloors, content_floors
from unisat.masking import time_mask
from unisat.model import UniSpeechSatModel
from unisat.outputs import UniSpeechSatForPreTrainingOutput
from unisat.precision import check_bfloat16
from unisat.pretraining import UniSpeechSatForPreTraining
from unisat.training import checkpoints
from unisat.training.augment import augment
from unisat.training.data import TrainingBatch, TrainingData, begun_with, manifest, union
from unisat.training.recipe import Recipe, differences, from_dict
from unisat.training.resident import ResidentData
from unisat.training.targets import HiddenFeatures, MeanOff, MfccFeatures, Targets, make_targets

PROGRESS = {
    "loss": "loss",
    "content": "content_masked",
    "accuracy": "accuracy_masked",
    "contrastive": "contrastive",
    "chance": "contrastive_chance",
    "codes": "code_perplexity_0",
    "norm": "grad_norm",
}
"""What the progress bar shows of a step, by its shorter names."""

# these may differ between a run and its resumption, since they do not change what is computed
_FREE = {"run.log_every", "run.valid_every", "run.save_every", "run.keep", "run.tensorboard", "data.cache_mb", "out"}


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up from 0, then linear decay to 0 (polynomial decay of power 1); ``step`` counts from 0."""
    optimizer = recipe.optimizer
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * (step + 1) / optimizer.warmup_steps
    left = (optimizer.steps - step) / max(1, optimizer.steps - optimizer.warmup_steps)
    return optimizer.learning_rate * left


def gumbel_temperature(step: int, recipe: Recipe) -> float:
    """``max(start · d^step, end)``, where ``d`` is such that the end is reached after 70 % of the steps.

    The authors' ``max(2 · 0.999995^n, 0.5)`` reaches its end at update 277,259 of 400,000.
    """
    start, end = recipe.gumbel.start, recipe.gumbel.end
    return max(start * (end / start) ** (step / (0.7 * recipe.optimizer.steps)), end)


def term_scales(step: int, recipe: Recipe) -> dict[str, float]:
    """Give the factors of the loss's weights at a step, for those that a schedule moves."""
    share, schedule = step / recipe.optimizer.steps, recipe.schedule
    scales = {}
    if schedule.unmasked_fade:
        scales["content_unmasked"] = 1 - _risen(share, *schedule.unmasked_fade)
    if schedule.contrastive_ramp:
        scales["contrastive"] = scales["diversity"] = _risen(share, *schedule.contrastive_ramp)
    return scales


def _risen(share: float, begin: float, end: float) -> float:
    """Rise linearly from 0 at ``begin`` to 1 at ``end``; stay at 0 before and at 1 after."""
    return float(share >= end) if begin == end else min(1.0, max(0.0, (share - begin) / (end - begin)))


def draws(seed: int, *place: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Give the generator for one place of a run (step, process, …); earlier draws do not matter."""
    number = int(np.random.SeedSequence([seed, *place]).generate_state(2, np.uint64)[0])
    return torch.Generator(device).manual_seed(number)


def pretrain(recipe: Recipe, *, fresh: bool = False, progress: bool = True) -> Path:
    """Pretrain a model as the recipe says, from its last checkpoint if there is one.

    Targets are made first if ``<out>/targets`` does not hold them. Under ``torchrun`` or ``accelerate launch`` all
    processes share that work, and each takes batches of its own; losses are averaged over the masked frames of all.
    Without GPUs the processes meet on the CPU. No other run may write to ``<out>`` meanwhile.

    Parameters
    ----------
    recipe : Recipe
        See `unisat.training.recipe`.
    fresh : bool
        Whether to refuse to go on from a checkpoint: the run's folder must hold none.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Path
        ``<out>/model``: the trained model with its k-means and the hash of its labels.

    Raises
    ------
    ValueError
        If the recipe or the data differ from those of the checkpoints (the message lists what differs), too many files
        cannot be read, or ``fresh`` is asked for where there are checkpoints.
    OSError
        If another run is at work in ``<out>``, or its disk is full.
    FloatingPointError
        If ``run.max_bad_steps`` steps in a row had no finite gradient; the last batch is saved in ``<out>``.
    """
    out = Path(recipe.out)
    with alone(out) if _started()[0] == 0 else nullcontext():
        if _started()[0] == 0:
            remove_partial(out)
            remove_partial(out / "checkpoints")
        return Trainer(recipe, fresh=fresh, progress=progress).run()


def _started() -> tuple[int, int]:
    """Rank and number of the processes that a launcher has started, as it says in the environment."""
    launchers = [("RANK", "WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")]
    for rank, size in launchers:
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1


def _accelerator() -> Any:
    """Bring the processes together, on the CPU where they have no GPU.

    Raises
    ------
    ValueError
        If ``accelerate launch`` has started one process where several were asked for.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise ImportError("pretraining needs Accelerate: pip install 'unisat[train]'.") from error
    # weights get no gradient where a term has weight 0 or a layer is dropped
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    # left alone, Accelerate would make each process one of its own; Apple's GPUs cannot meet either
    no_gpu = not torch.accelerator.is_available() or torch.backends.mps.is_available()
    accelerator = Accelerator(cpu=_started()[1] > 1 and no_gpu, kwargs_handlers=[unused])
    # accelerate launch sets these two for several processes, and starts one, without a rank, where it finds no GPUs
    one = accelerator.num_processes == 1 and "RANK" not in os.environ
    if one and {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= {*os.environ}:
        raise ValueError(
            "accelerate launch was asked for several processes and started one, since it found at most one GPU. Write "
            "accelerate launch --multi_gpu --num_processes 2, which works on a CPU too, or torchrun --nproc_per_node 2."
        )
    return accelerator


class Trainer:
    """One pretraining run: its model, data and files. `pretrain` makes one and runs it."""

    def __init__(self, recipe: Recipe, *, fresh: bool = False, progress: bool = True) -> None:
        self.recipe, self.progress = recipe, progress
        self.accelerator = _accelerator()
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        self.out = Path(recipe.out)
        self.checkpoints = self.out / "checkpoints"
        if progress and self.rank == 0:
            count = f"{self.processes} process{'es' if self.processes > 1 else ''}"
            tqdm.write(f"{count} on {self.accelerator.device.type}, into {self.out}", file=sys.stderr)
        if fresh and (found := checkpoints.saved(self.checkpoints)):
            raise ValueError(f"{self.checkpoints} holds {len(found)} checkpoint(s); delete them, or resume.")
        resumed = checkpoints.newest(self.checkpoints)
        if resumed:
            self._check_same(resumed.state)

        torch.manual_seed(recipe.seed)  # fresh weights, the same in every process
        self.config = recipe.model_config()
        self.model = UniSpeechSatForPreTraining(self.config)
        if recipe.init and not resumed:  # a wrong shape is said before targets are made, which may take long
            begin_with(self.model, recipe.init)
        self.model.to(self.accelerator.device)
        self.optimizer = self._optimizer()
        self.step, self.bad_steps = 0, 0
        self.unlogged: list[dict[str, float]] = []  # rows since the last line of the log
        state = resumed.state if resumed else {}
        if resumed:
            self._load(resumed)
            del resumed  # its weights take memory
        with self._last_stands():
            self.targets = targets_of(recipe, self.accelerator.device, self.rank, self.processes)
        if recipe.init and not state:  # again, now that the labels are known: what predicts them may stay, too
            begin_with(self.model, recipe.init, self.targets.label_hash)
        self.train = self._data("train", recipe.data.train, crop_seed=recipe.seed)
        self.valid = self._data("valid", recipe.data.valid, crop_seed=0) if recipe.data.valid else None
        if self.rank == 0:
            sources = {"train": self.train.table} | ({"valid": self.valid.table} if self.valid else {})
            self.begun_with = begun_with(self.targets, sources)
            self._check_begun(state)
        if recipe.run.compile:
            for layer in self.model.unispeech_sat.encoder.layers:
                layer.compile(dynamic=True)
        self.objective = Objective(self.model, recipe.run.precision)
        if self.objective.bf16 and self.rank == 0:
            check_bfloat16(self.accelerator.device)
        self.synced, self.optimizer = self.accelerator.prepare(self.objective, self.optimizer)
        self.log = Log(self.out, self.step, tensorboard=recipe.run.tensorboard) if self.rank == 0 else None
        if self.log is not None:
            self.log.recent = self.unlogged

    # before the first step

    def _optimizer(self) -> Any:
        settings = self.recipe.optimizer
        return torch.optim.AdamW(
            self.model.parameters(),
            lr=settings.learning_rate,
            betas=(settings.betas[0], settings.betas[1]),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=self.accelerator.device.type == "cuda",
        )

    def _check_same(self, state: dict[str, Any]) -> None:
        changed = differences(from_dict(state["recipe"]), self.recipe)
        changed = {name: values for name, values in changed.items() if name not in _FREE}
        if state["processes"] != self.processes:
            changed["processes"] = (state["processes"], self.processes)
        self._refuse(changed, "another recipe", "values")

    def _check_begun(self, state: dict[str, Any]) -> None:
        """Refuse to go on with other speech or labels; checkpoints of earlier versions do not know all of it."""
        if not state:
            return
        known = {"labels": state["label_hash"][:16], **state.get("begun_with", {})}
        kinds = {name.rpartition(".")[2] for name in known}
        ours = {name: value for name, value in self.begun_with.items() if name.rpartition(".")[2] in kinds}
        names = sorted({*known, *ours})
        changed = {name: (known.get(name), ours.get(name)) for name in names if known.get(name) != ours.get(name)}
        self._refuse(changed, "other data", "data")

    def _refuse(self, changed: dict[str, tuple[Any, Any]], other: str, what: str) -> None:
        if changed:
            listed = "; ".join(f"{name} was {old!r}, is {new!r}" for name, (old, new) in changed.items())
            raise ValueError(
                f"{self.checkpoints} belongs to a run with {other}: {listed}. Go on with the old {what}, or write to "
                "another folder (out)."
            )

    def _data(self, split: str, sources: dict[str, dict[str, Any]], crop_seed: int) -> TrainingData:
        prefix = "valid-" if split == "valid" else ""
        corpus: Corpus = union({f"{prefix}{name}": manifest(**source) for name, source in sources.items()})
        data = self.recipe.data
        options: dict[str, Any] = {"device": self.accelerator.device} if data.on_device else {}
        options |= {"processes": self.processes, "rank": self.rank, "weights": data.weights} if split == "train" else {}
        return (ResidentData if data.on_device else TrainingData)(
            corpus,
            self.targets,
            self.config,
            crop_seconds=data.crop_seconds,
            min_seconds=data.min_seconds,
            batch_seconds=data.batch_seconds,
            do_normalize=data.do_normalize,
            cache_mb=data.cache_mb,
            seed=crop_seed,
            speaker_power=data.speaker_power,
            grid_seconds=data.grid_seconds,
            **options,
        )

    # steps

    def run(self) -> Path:
        """Take the remaining steps; give the folder of the trained model."""
        bar = tqdm(total=self.recipe.optimizer.steps, initial=self.step, disable=not self.progress or self.rank > 0)
        try:
            with self._last_stands():
                self._steps(bar)
                return self._finish()
        finally:
            bar.close()
            self.train.close()
            if self.log is not None:
                self.log.close()

    def _steps(self, bar: tqdm) -> None:
        """Take the remaining steps, and log, validate and save when it is time."""
        recipe = self.recipe
        batches = self.train.iterate(self.step * recipe.run.accumulate)
        while self.step < recipe.optimizer.steps:
            row = self.take_step(batches)
            self.step += 1
            last = self.step == recipe.optimizer.steps
            if self.log is not None:
                for warning in self.log.add(self.step, row, write=last or self.step % recipe.run.log_every == 0):
                    tqdm.write(f"step {self.step}: {warning}")
            bar.set_postfix({short: f"{row[name]:.3g}" for short, name in PROGRESS.items() if name in row})
            bar.update()
            if self.valid is not None and (last or self.step % recipe.run.valid_every == 0):
                row = self.validate()
                if self.log is not None:
                    self.log.validation(self.step, row)
            if last or self.step % recipe.run.save_every == 0:
                self.save()

    @contextmanager
    def _last_stands(self) -> Iterator[None]:
        """Say of a file that could not be written that nothing is lost."""
        try:
            yield
        except NotWrittenError as error:
            found = checkpoints.saved(self.checkpoints)
            stands = f"The last checkpoint, {found[-1][1]}, stands" if found else "What was done of the targets stands"
            raise OSError(
                f"{error}. {stands}; the run stopped after step {self.step}. Make room and start it again: it goes on "
                "from there."
            ) from error

    def take_step(self, batches: Iterator[TrainingBatch]) -> dict[str, float]:
        """Update the weights once; give what to log."""
        recipe, began = self.recipe, time.perf_counter()
        rate, temperature = learning_rate(self.step, recipe), gumbel_temperature(self.step, recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.set_gumbel_temperature(temperature)
        self.model.term_scales = term_scales(self.step, recipe)
        self.model.train()
        self.optimizer.zero_grad()
        sums: dict[str, float] = defaultdict(float)
        seconds = 0.0
        for micro in range(recipe.run.accumulate):
            batch = self._augmented(next(batches).to(self.accelerator.device), micro)
            generator = draws(recipe.seed, self.step, micro, self.rank, device=self.accelerator.device)
            torch.manual_seed(draws(recipe.seed, self.step, micro, self.rank, 1).initial_seed())  # dropout
            last = micro == recipe.run.accumulate - 1
            with nullcontext() if last else self.accelerator.no_sync(self.synced):
                loss, numbers, counted = self.synced(batch, generator=generator)
                # a sum over frames for now, which is divided by the frames of all processes before the weights change
                self.accelerator.backward(loss * counted)
            for name, value in numbers.items():
                sums[name] += value * counted
            sums["frames"] += counted
            seconds += batch.seconds
        names = sorted(sums)
        *totals, audio_seconds = self._over_processes([*(sums[name] for name in names), seconds])
        whole = dict(zip(names, totals, strict=True))
        frames = whole.pop("frames")
        row = {name: value / frames for name, value in whole.items()}

        # DDP has averaged the processes' sums; the mean over frames is the sum of these over the number of all frames
        gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        torch._foreach_mul_(gradients, self.processes / frames)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), recipe.optimizer.clip_norm)
        row |= {"grad_norm": float(norm), "learning_rate": rate, "temperature": temperature, "frames": frames}
        if math.isfinite(row["grad_norm"]) and math.isfinite(row["loss"]):
            self.optimizer.step()
            self.bad_steps = 0
        else:
            self._refuse_step(batch)
        row |= {"bad_steps": self.bad_steps, "audio_seconds": audio_seconds}
        return {**row, "seconds": time.perf_counter() - began}

    def _augmented(self, batch: TrainingBatch, micro: int) -> TrainingBatch:
        """Give the batch as heard through other channels, if the recipe asks for that."""
        settings = self.recipe.augment
        if settings.idle:
            return batch
        generator = draws(self.recipe.seed, self.step, micro, self.rank, 2, device=self.accelerator.device)
        lengths = None if batch.attention_mask is None else batch.attention_mask.sum(1)
        return replace(batch, input_values=augment(batch.input_values, settings, generator=generator, lengths=lengths))

    def _over_processes(self, numbers: list[float]) -> list[float]:
        """Add up numbers over all processes."""
        totals = torch.tensor(numbers, dtype=torch.float64)
        # a process that is alone may have a device without float64
        whole = self.accelerator.reduce(totals.to(self.accelerator.device), "sum") if self.processes > 1 else totals
        return list(whole.tolist())

    def _refuse_step(self, batch: TrainingBatch) -> None:
        """Leave the weights as they are; after too many such steps save the batch and stop."""
        self.bad_steps += 1
        # gradients are sums over processes, so all processes come here together
        if self.bad_steps >= self.recipe.run.max_bad_steps:
            file = self.out / f"bad_batch-{self.step}-{self.rank}.pt"
            with writing(file):
                torch.save(dict(vars(batch)), file)
            raise FloatingPointError(
                f"{self.bad_steps} steps in a row, up to step {self.step}, had a loss or gradient that is not finite; "
                f"the weights were left as they were before. The last batch is in {file} ({', '.join(batch.ids)}). Try "
                "a lower learning rate, a longer warm-up or run.precision='no'."
            )
        warnings.warn(f"step {self.step}: loss or gradient not finite, step skipped.", stacklevel=2)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Give mean terms over the validation set, without mixing and dropout and always with the same masks.

        Beside them stand the floors of `content_floors` over all its masked frames: ``accuracy_masked_commonest`` and
        ``accuracy_masked_copied`` for ``accuracy_masked``, ``content_masked_entropy`` for ``content_masked``.
        """
        assert self.valid is not None
        self.model.eval()
        self.model.term_scales = {}
        sums: dict[str, float] = defaultdict(float)
        clusters, device = self.config.num_clusters, self.accelerator.device
        counted_clusters = torch.zeros(clusters + 1, dtype=torch.long)
        for index in range(self.rank, self.valid.batches_per_epoch, self.processes):
            batch = self.valid[index].to(device)
            generator, labelled = draws(0, index), batch.targets != -100
            mask = time_mask(labelled.sum(1), batch.targets.shape[1], self.config, generator)
            found = content_floors(batch.targets, mask, labelled, clusters)
            counted_clusters += torch.cat([found.counts, found.copies[None]]).cpu()
            _, numbers, counted = self.objective(batch, mask_time_indices=mask, generator=generator)
            for name, value in numbers.items():
                sums[name] += value * counted
            sums["frames"] += counted
        names = sorted(sums)
        totals = self._over_processes([*(sums[name] for name in names), *counted_clusters.tolist()])
        whole = dict(zip(names, totals, strict=False))
        frames = whole.pop("frames")
        counts = torch.tensor(totals[len(names) :], dtype=torch.float64).long()
        floors = ContentFloors(counts[:-1], counts[-1])
        return {
            **{name: value / frames for name, value in whole.items()},
            "accuracy_masked_commonest": float(floors.commonest),
            "accuracy_masked_copied": float(floors.copied),
            "content_masked_entropy": float(floors.entropy),
        }

    # files

    def save(self) -> Path:
        """Write a checkpoint of all that the next step depends on; delete the oldest."""
        folder = self.checkpoints / checkpoints.name(self.step)
        if self.rank == 0:
            state = {
                "step": self.step,
                "bad_steps": self.bad_steps,
                "unlogged": self.unlogged,
                "processes": self.processes,
                "label_hash": self.targets.label_hash,
                "begun_with": self.begun_with,
                "recipe": asdict(self.recipe),
            }
            with writing(folder), whole_folder(folder) as partial:
                self.write_model(partial)
                kept = self.optimizer.state_dict()
                size = sum(part.nbytes for of_weight in kept["state"].values() for part in of_weight.values())
                with writing(partial / "optimizer.pt", size):
                    torch.save(kept, partial / "optimizer.pt")
                save_json(state, partial / "state.json")
            for step, path in checkpoints.saved(self.checkpoints):
                if step > self.step:  # it was damaged, and is not to stand for a good one
                    shutil.rmtree(path)
            checkpoints.prune(self.checkpoints, self.recipe.run.keep)
        self.accelerator.wait_for_everyone()
        return folder

    def write_model(self, folder: Path) -> None:
        """Write the model and what its clusters mean: k-means, and the hash of the labels it was trained on."""
        self.model.save_pretrained(folder)
        self.targets.clusters.save(folder)
        save_json(self.targets.description, folder / "targets.json")

    def _load(self, found: checkpoints.Checkpoint) -> None:
        self.model.load_state_dict(found.weights)
        self.optimizer.load_state_dict(found.optimizer)
        self.step, self.bad_steps, self.unlogged = (found.state[name] for name in ("step", "bad_steps", "unlogged"))

    def _finish(self) -> Path:
        if self.rank == 0:
            with writing(self.out / "model"), whole_folder(self.out / "model") as partial:
                self.write_model(partial)
                save_json(asdict(self.recipe), partial / "recipe.json")
        self.accelerator.wait_for_everyone()
        return self.out / "model"


def targets_of(recipe: Recipe, device: torch.device | str = "cpu", rank: int = 0, processes: int = 1) -> Targets:
    """Open the targets in ``<out>/targets``; make them first, on a device, if they are not there.

    Nobody waits at a barrier: what takes longer than its timeout could never be made.
    """
    folder, settings = Path(recipe.out) / "targets", recipe.targets
    if (folder / "targets.json").exists():
        return Targets.load(folder)
    sources = {**recipe.data.train, **{f"valid-{name}": source for name, source in recipe.data.valid.items()}}
    corpus = union({name: manifest(**source) for name, source in sources.items()})
    if settings.features == "mfcc":
        features: Any = MfccFeatures()
    else:
        teacher = UniSpeechSatModel.from_pretrained(str(settings.model)).to(device)
        assert settings.layer is not None
        features = HiddenFeatures(teacher, settings.layer, do_normalize=recipe.data.do_normalize)
    return make_targets(
        corpus,
        features,
        folder,
        clusters=settings.clusters,
        sample_seconds=settings.sample_seconds,
        seed=recipe.seed,
        mean_off=MeanOff.fit(corpus, features, settings.mean_off, settings.variance_one),
        device=device if settings.method == "lloyd" else None,
        rank=rank,
        processes=processes,
    )


class Objective(nn.Module):
    """The model as the loop sees it: from a batch to the loss, the numbers for the log, and the frames they count.

    With several processes DDP waits for the gradient of every weight that an output depends on. So only the loss may
    leave this module with a history: for the weights of a term with weight 0 DDP would wait without end.
    """

    def __init__(self, model: UniSpeechSatForPreTraining, precision: str) -> None:
        super().__init__()
        self.model, self.bf16 = model, precision == "bf16"

    def forward(self, batch: TrainingBatch, **options: Any) -> tuple[Tensor, dict[str, float], int]:
        """Give loss, numbers and frames."""
        with torch.autocast(batch.input_values.device.type, torch.bfloat16, enabled=self.bf16):
            output = self.model(batch.input_values, batch.attention_mask, targets=batch.targets, **options)
        return output.loss, report(output), output.sample_size


def report(output: UniSpeechSatForPreTrainingOutput) -> dict[str, float]:
    """Give the numbers of a batch for the log."""
    assert output.loss is not None
    assert output.codevector_perplexity is not None
    row = {"loss": output.loss, **output.terms, **output.metrics}
    for kind, perplexity in (("code", output.codevector_perplexity), ("prob", output.prob_perplexity)):
        row |= {f"{kind}_perplexity_{group}": value for group, value in enumerate(perplexity)}
    # all at once, since a GPU is waited for each time that a number is read
    return dict(zip(row, torch.stack([value.detach().float() for value in row.values()]).tolist(), strict=True))


def begin_with(model: UniSpeechSatForPreTraining, folder: str | Path, label_hash: str | None = None) -> None:
    """Give a fresh model the weights of an earlier iteration; those that predict its clusters only if these are ours.

    The ``label_hash`` of our targets says so, where it is known.

    Raises
    ------
    ValueError
        If the two are of different shapes.
    """
    from safetensors.torch import load_file

    told = Path(folder) / "targets.json"
    same = label_hash and told.exists() and json.loads(told.read_text()).get("label_hash") == label_hash
    fresh = () if same else ("label_embeddings_concat", "project_hid.")

    def kept(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: part for name, part in weights.items() if not name.startswith(fresh)}

    earlier, ours = kept(load_file(Path(folder) / "model.safetensors")), kept(model.state_dict())
    shapes = [{name: part.shape for name, part in weights.items()} for weights in (earlier, ours)]
    if wrong := sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()}):
        raise ValueError(
            f"the model in {folder} is of another shape than the recipe's; {len(wrong)} weights differ, {wrong[0]} "
            "among them. Give the recipe the sizes in its config.json, or no init."
        )
    model.load_state_dict(earlier, strict=False)


class Log:
    """Writes the numbers of a run as CSV (``train.csv``, ``valid.csv``) and, if asked for, for TensorBoard.

    A run that goes on first drops the rows after its checkpoint, so that the file is that of an uninterrupted run.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.recent = folder, list[dict[str, float]]()
        for name in ("train", "valid"):
            self._cut(folder / f"{name}.csv", step)
        self.writer = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError("run.tensorboard needs TensorBoard: pip install 'unisat[train]'.") from error
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    @staticmethod
    def _cut(file: Path, step: int) -> None:
        if file.exists():
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            # a line without a step is one that was not written to its end
            numbers = [int(number) if (number := line.split(",")[0]).isdecimal() else step + 1 for line in lines[1:]]
            kept = lines[:1] + [line for line, number in zip(lines[1:], numbers, strict=True) if number <= step]
            with writing(file), whole_file(file) as partial:
                partial.write_text("".join(kept) if step else "", encoding="utf-8")

    def add(self, step: int, row: dict[str, float], *, write: bool) -> list[str]:
        """Remember a step; with ``write``, write the mean since the last time. Give warnings of collapse."""
        self.recent.append(row)
        if not write:
            return []
        names = list(dict.fromkeys(name for seen in self.recent for name in seen))
        mean = {name: float(np.mean([seen[name] for seen in self.recent if name in seen])) for name in names}
        self.recent.clear()
        self._write("train", step, mean)
        return collapse(mean)

    def validation(self, step: int, row: dict[str, float]) -> None:
        """Write a row of validation results."""
        self._write("valid", step, row)

    def _write(self, kind: str, step: int, row: dict[str, float]) -> None:
        file = self.folder / f"{kind}.csv"
        names = ["step", *row]
        begun = file.exists() and file.stat().st_size > 0
        if begun:  # perhaps by an earlier version, which wrote fewer columns
            with file.open(newline="", encoding="utf-8") as lines:
                names = next(csv.reader(lines))
        with writing(file), file.open("a", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, names, extrasaction="ignore")
            if not begun:
                writer.writeheader()
            writer.writerow({"step": step, **{name: f"{value:.8g}" for name, value in row.items()}})
        if self.writer is not None:
            for name, value in row.items():
                self.writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self.writer is not None:
            self.writer.close()


def collapse(row: dict[str, float]) -> list[str]:
    """List what looks like a collapse in a row of the log."""
    found = []
    for name, value in row.items():
        if name.startswith("code_perplexity") and value < 1.5:
            found.append(f"{name} is {value:.2f}: (nearly) every masked frame picks the same code.")
    if not math.isnan(row.get("accuracy_unmasked", math.nan)) and row["content_unmasked"] < 1e-3:
        found.append("content_unmasked is nearly 0: are there more than a few labels? See targets.json.")
    if row.get("feature_penalty", 0) > 100:
        found.append(f"feature_penalty is {row['feature_penalty']:.3g}: the features of the convolutions blow up.")
    return found
