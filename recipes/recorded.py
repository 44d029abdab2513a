"""A pretraining step that a GPU records once and plays again, as launching its many kernels takes longer than they do.

It computes what `UniSpeechSatForPreTraining` computes, with tensors whose shapes do not depend on what they hold. So
the contrastive loss compares a fixed number of masked frames, drawn anew each time. Everything else is the same; a test
compares the two. Random choices of the masks, the crops and the mixtures are drawn on the CPU.
"""

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unisat import UniSpeechSatForPreTraining
from unisat import model as parts
from unisat.losses import _chosen, binary_entropy, content_logits, contrastive_similarity, contrastive_targets
from unisat.masking import time_mask
from unisat.precision import widen, xlogx
from unisat.quantizer import one_hot
from unisat.training import loop, recipe
from unisat.training.augment import augment
from unisat.training.resident import ResidentData

COMPARED = 0.4
"""Share of a batch's frames that the contrastive loss compares; some 0.48 are masked."""
NOMINAL = 1_000_000
"""Steps of a schedule that runs by the clock; real ones are fewer."""
BLOCK = 25
"""Real steps between two looks at the clock."""
NAMES = (
    "loss content_masked content_unmasked accuracy_masked contrastive contrastive_chance contrastive_accuracy "
    "code_perplexity_0 code_perplexity_1 prob_perplexity_0 prob_perplexity_1 feature_penalty grad_norm"
).split()


def mixed(waves: Tensor, draws: Tensor, decibels: Tensor, normalize: bool) -> Tensor:
    """Utterance mixing (see `unisat.mixing`); ``draws`` are partner, start, start in the partner, length (0: none)."""
    _, start, source_start, length = draws[..., None]
    place = torch.arange(waves.shape[1], device=waves.device)
    inside = (place >= start) & (place < start + length)
    power = waves.square().mean(1, keepdim=True)
    level = (power / (power[draws[0]] * 10 ** (decibels[:, None] / 10)).clamp(min=1e-12)).sqrt()
    source = waves[draws[0]].gather(1, (place - start + source_start).clamp(0, waves.shape[1] - 1))
    result = waves + torch.where(inside, source * level, 0.0)
    if normalize:
        variance, mean = torch.var_mean(result, 1, correction=0, keepdim=True)
        result = torch.where(length > 0, (result - mean) * (variance + 1e-7).rsqrt(), result)
    return result


def objective(
    model: UniSpeechSatForPreTraining,
    waves: Tensor,
    targets: Tensor,
    mask: Tensor,
    chosen: Tensor,
    instances: Tensor,
    temperature: Tensor,
    unmasked: Tensor,
    speaker: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and numbers; ``unmasked`` and ``speaker`` scale the weights of terms, as `loop.term_scales` says."""
    config, backbone = model.config, model.base_model
    features = backbone.feature_extractor(waves)
    hidden, _ = backbone.feature_projection(features.transpose(1, 2))
    hidden = torch.where(mask[..., None], backbone.masked_spec_embed, hidden)
    last, states, _ = backbone.encoder(hidden, None, False, True)
    temper = config.contrastive_logits_temperature
    logits = content_logits(model.project_hid(last), model.label_embeddings_concat, temper)
    entropy = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-100)
    entropy, known, right = entropy.view_as(targets), targets != -100, logits.argmax(-1) == targets
    hide, show = (mask & known).float(), (~mask & known).float()
    weight = unmasked * config.unmasked_loss_weight
    counted = hide.sum() + show.sum() * (weight > 0)
    told = {
        "content_masked": (entropy * hide).sum() / hide.sum(),
        "content_unmasked": (entropy * show).sum() / show.sum(),
    }
    told["accuracy_masked"] = (right * hide).sum() / hide.sum()
    loss = (config.masked_loss_weight * (entropy * hide).sum() + weight * (entropy * show).sum()) / counted
    told["feature_penalty"] = features.float().square().mean()
    loss = loss + config.feature_penalty_weight * told["feature_penalty"]

    contrastive = states[config.contrastive_layer]
    if config.do_stable_layer_norm:
        contrastive = model.layer_norm_for_extract(contrastive)
    quantizer, picked = model.quantizer, contrastive.flatten(0, 1).index_select(0, chosen)
    scores = widen(quantizer.weight_proj(picked)).view(len(chosen), quantizer.num_groups, quantizer.num_vars)
    codes = one_hot(scores)
    told |= {f"code_perplexity_{group}": value for group, value in enumerate(torch.exp(-xlogx(codes.mean(0)).sum(-1)))}
    if model.training:
        noise = torch.empty_like(scores).exponential_().clamp(min=1e-20).log()
        soft = ((scores - noise) / temperature).softmax(-1)
        codes = one_hot(soft.detach()) + soft - soft.detach()
    perplexity = torch.exp(-xlogx(scores.softmax(-1).mean(0)).sum(-1))
    told |= {f"prob_perplexity_{group}": value for group, value in enumerate(perplexity)}
    if config.contrastive_loss_weight:
        entries = quantizer.codevectors.view(quantizer.num_groups, quantizer.num_vars, -1)
        codevectors = torch.einsum("sgv,gvd->sgd", codes.to(entries.dtype), entries).flatten(1)
        similarity = contrastive_similarity(model.speaker_proj(picked), model.project_q(codevectors), temper)
        pairs, same = _chosen(similarity, instances), contrastive_targets(chosen // targets.shape[1], instances).float()
        told["contrastive"] = F.binary_cross_entropy_with_logits(pairs, same)
        told["contrastive_chance"] = binary_entropy(same.mean())
        told["contrastive_accuracy"] = ((pairs >= 0) == (same > 0)).float().mean()
        diversity = 1 - perplexity.sum() / (quantizer.num_groups * quantizer.num_vars)
        loss = loss + speaker * (
            config.contrastive_loss_weight * told["contrastive"] + config.diversity_loss_weight * diversity
        )
    return loss, {"loss": loss, **told}


def convolve(layer: Any, signal: Tensor, lengths: Tensor | None) -> Tensor:
    """`unisat.model.ConvLayer` with its norm over channels in half precision, which autocasting makes float32."""
    signal, norm = layer.conv(signal), layer.layer_norm
    with torch.autocast(signal.device.type, enabled=False):
        scale = (norm.weight.to(signal.dtype), norm.bias.to(signal.dtype))
        normed = F.layer_norm(signal.transpose(1, 2), norm.normalized_shape, *scale, norm.eps).transpose(1, 2)
    return layer.activation(normed)


class Inputs:
    """What a step reads, in tensors that stay where they are."""

    def __init__(self, batch: int, frames: int, device: torch.device) -> None:
        integers = {"numbers": (5, batch), "mixing": (4, batch), "chosen": (int(COMPARED * batch * frames),)}
        self.tensors = {name: torch.zeros(shape, dtype=torch.long, device=device) for name, shape in integers.items()}
        self.tensors["mask"] = torch.zeros(batch, frames, dtype=torch.bool, device=device)
        self.tensors |= {name: torch.zeros(batch, device=device) for name in ("decibels",)}
        self.tensors |= {name: torch.ones((), device=device) for name in ("temperature", "unmasked", "speaker")}

    def fill(self, values: dict[str, Any]) -> None:
        """Put values in, without waiting for the device."""
        for name, value in values.items():
            if isinstance(value, float):
                self.tensors[name].fill_(value)
            else:
                self.tensors[name].copy_(torch.as_tensor(value, dtype=self.tensors[name].dtype), non_blocking=True)


def drawn(data: ResidentData, made: recipe.Recipe, config: Any, step: int) -> dict[str, Any]:
    """Draw everything of a step that is drawn on the CPU."""
    _, _, numbers = data.places(step)
    draw = np.random.default_rng([made.seed, 7, step])
    batch, samples, frames = numbers.shape[1], int(numbers[1].max()), int(numbers[3].max())
    mask = time_mask(torch.full((batch,), frames), frames, config, loop.draws(made.seed, step, 8))
    places, count = np.flatnonzero(mask.numpy()), int(COMPARED * batch * frames)
    length = draw.integers(1, samples // 2 + 1, batch) * (draw.random(batch) < config.mixing_prob)
    partner = (np.arange(batch) + draw.integers(1, batch, batch)) % batch
    starts = [(draw.random(batch) * (samples - length + 1)).astype(int) for _ in range(2)]
    return {
        "numbers": numbers,
        "mask": mask,
        "chosen": np.sort(draw.choice(places, count, replace=len(places) < count)),
        "mixing": np.stack([partner, *starts, length]),
        "decibels": draw.uniform(-5, 5, batch),
    }


class Recorded(loop.Trainer):
    """A run by the clock whose steps are played on a GPU; on a CPU they are computed.

    Runs in threads of one process share the GPU, each with a stream of its own: a step of one leaves most of it idle.
    Of these, only the one with the turn may ask for anything, so that nobody disturbs a recording.
    """

    def __init__(
        self, made: recipe.Recipe, clock: Callable[[], float], turn: AbstractContextManager | None = None
    ) -> None:
        super().__init__(made, progress=False)
        self.clock, self.device = clock, self.accelerator.device
        self.turn = turn or nullcontext()
        self.cuda, settings = self.device.type == "cuda", made.optimizer
        self.rate = torch.tensor(settings.learning_rate, device=self.device)
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.adam = torch.optim.AdamW(
            self.weights,
            lr=self.rate if self.cuda else settings.learning_rate,
            betas=(settings.betas[0], settings.betas[1]),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            **({"fused": True, "capturable": True} if self.cuda else {}),
        )
        if self.cuda and made.run.precision == "bf16" and self.config.feat_extract_norm == "layer":
            parts.ConvLayer.forward = convolve  # type: ignore[method-assign,assignment]
        self.stream = torch.cuda.Stream() if self.cuda else None
        if self.cuda and os.environ.get("COMPILE", "1") == "1":
            for layer in self.model.base_model.encoder.layers:
                layer.compile(dynamic=True)
        self.kinds: dict[tuple[int, int, int], tuple[Inputs, Any, Tensor]] = {}
        self.model.train()

    def compute(self, inputs: dict[str, Tensor], samples: int, frames: int) -> Tensor:
        """One step, from places of crops to new weights; give its numbers."""
        made, config = self.recipe, self.config
        waves, _, targets = self.train.gather(inputs["numbers"], samples, frames, False)  # type: ignore[attr-defined]
        generator = torch.cuda.default_generators[self.device.index or 0] if self.cuda else torch.default_generator
        if not made.augment.idle:
            waves = augment(waves, made.augment, generator=generator)
        if config.mixing_prob:
            waves = mixed(waves, inputs["mixing"], inputs["decibels"], config.mixing_normalize)
        compared = len(inputs["chosen"])
        instances = torch.randint(compared, (compared, config.num_negatives), device=self.device)
        half = made.run.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            loss, told = objective(
                self.model, waves, targets, inputs["mask"], inputs["chosen"], instances,
                inputs["temperature"], inputs["unmasked"], inputs["speaker"],
            )  # fmt: skip
        loss.backward()
        told["grad_norm"] = torch.nn.utils.clip_grad_norm_(self.weights, made.optimizer.clip_norm)
        self.adam.step()
        zero = loss.new_zeros(())
        return torch.stack([told.get(name, zero).detach().float() for name in NAMES])

    def fresh(self, *size: Any) -> Tensor:
        """A step whose gradients are tensors of its own."""
        self.adam.zero_grad(set_to_none=True)
        return self.compute(*size)

    def plain(self) -> None:
        """Compute the layers as they are written, as validation does, whose batches are of many kinds."""
        for layer in self.model.base_model.encoder.layers:
            layer._compiled_call_impl = None

    def record(self, batch: int, samples: int, frames: int, values: dict[str, Any]) -> tuple[Inputs, Any, Tensor]:
        """Prepare steps of a size; where recording fails, its steps are computed."""
        inputs = Inputs(batch, frames, self.device)
        inputs.fill(values)
        graph, told = None, torch.zeros(len(NAMES))
        if self.cuda and os.environ.get("RECORD", "1") == "1":
            began = time.time()
            try:
                self.fresh(inputs.tensors, samples, frames)
            except Exception as error:
                print(f"{self.out}: not compiled: {error!r}", flush=True)
                self.plain()
            for _ in range(3):
                self.fresh(inputs.tensors, samples, frames)
            try:
                self.adam.zero_grad(set_to_none=True)
                graph = torch.cuda.CUDAGraph()
                # the run's own stream, since runs that share one would share the memory that products work in
                with torch.cuda.graph(graph, stream=self.stream):
                    told = self.compute(inputs.tensors, samples, frames)
            except Exception as error:
                print(f"{self.out}: not recorded: {error!r}", flush=True)
                graph = None
                torch.cuda.synchronize()
            told_of = f"{time.time() - began:.1f} s to record, {graph is not None}"
            print(f"{self.out}: {batch} × {samples}: {told_of}", flush=True)
        return inputs, graph, told

    def play(self, number: int, share: float) -> Tensor:
        """Take a step at a share of the time; give its numbers, which a GPU may still be computing."""
        made, step = self.recipe, int(share * NOMINAL)
        values = drawn(self.train, made, self.config, number)  # type: ignore[arg-type]
        scales = loop.term_scales(step, made)
        values |= {"temperature": loop.gumbel_temperature(step, made)}
        values |= {"unmasked": scales.get("content_unmasked", 1.0), "speaker": scales.get("contrastive", 1.0)}
        rate = loop.learning_rate(step, made)
        if self.cuda:
            self.rate.fill_(rate)
        else:
            self.adam.param_groups[0]["lr"] = rate
        size = (values["numbers"].shape[1], int(values["numbers"][1].max()), int(values["numbers"][3].max()))
        if size not in self.kinds and len(self.kinds) < 5:
            self.kinds[size] = self.record(*size, values)
        inputs, graph, told = self.kinds.get(size, (None, None, None))
        if inputs is None:  # a rare size
            inputs = Inputs(size[0], size[2], self.device)
        inputs.fill(values)
        self.seconds = size[0] * size[1] / 16_000
        if graph is None:
            return self.fresh(inputs.tensors, *size[1:])
        graph.replay()
        assert told is not None
        return told

    def _steps(self, bar: Any) -> None:
        taken, audio, began = 0, 0.0, time.time()
        if self.stream is not None:  # of this thread
            self.stream.wait_stream(torch.cuda.current_stream())
            torch.cuda.set_stream(self.stream)
        while (share := self.clock()) < 1:
            for _ in range(BLOCK):
                with self.turn:
                    told = self.play(taken, share)
                taken, audio = taken + 1, audio + self.seconds
            with self.turn:
                row = dict(zip(NAMES, told.tolist(), strict=True))
            if not np.isfinite(row["loss"]):
                raise FloatingPointError(f"the loss is {row['loss']} at step {taken}")
            assert self.log is not None
            row |= {"hours": audio / 3600, "learning_rate": loop.learning_rate(int(share * NOMINAL), self.recipe)}
            self.log.add(taken, {**row, "seconds": time.time() - began}, write=taken % (2 * BLOCK) == 0)
        memory = torch.cuda.max_memory_reserved() / 2**30 if self.cuda else 0.0
        ms = 1000 * (time.time() - began) / max(1, taken)
        with self.turn:
            print(
                f"{self.out}: {taken} steps, {audio / 3600:.1f} h heard, {ms:.1f} ms a step, {memory:.1f} GiB",
                flush=True,
            )
        self.kinds.clear()
        self.plain()
        if self.valid is not None and self.log is not None:
            self.log.validation(taken, {"hours": audio / 3600, **self.validate()})
        warm = self.recipe.optimizer.warmup_steps * taken // NOMINAL
        self.recipe.optimizer.steps, self.recipe.optimizer.warmup_steps = taken, warm
