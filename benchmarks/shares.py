"""Where the time of a training step goes: `python benchmarks/shares.py` writes benchmarks/shares.json.

The clock is read when a part is called and when it returns, and again when the gradients of its output arrive and those
of its input are there. Hooks stand at whole parts only, so that no fast way inside is disturbed.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path

import roofline
import torch
from works import STEPS, STILL, noise

STEP, ROUNDS = "step_tiny", 7
PARTS = {
    "FeatureEncoder": "front end",
    "PositionalConvEmbedding": "positional convolution",
    "Attention": "attention",
    "FeedForward": "feed-forward",
    "GumbelVectorQuantizer": "quantizer",
}
"""Class of a part, and its name. What is left of forward and backward: norms, sums, masks, losses."""


class Clock:
    """Seconds of each part in one step, by part and direction."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        for module in model.modules():
            if name := PARTS.get(type(module).__name__):
                self.watch(module, name)

    def watch(self, module: torch.nn.Module, name: str) -> None:
        """Measure a part, forward and backward."""
        began: dict[str, float] = {}

        def start(direction: str) -> None:
            began[direction] = time.perf_counter()

        def stop(direction: str) -> None:
            self.seconds[name, direction] += time.perf_counter() - began[direction]

        def before(_: torch.nn.Module, given: tuple) -> None:
            if given[0].requires_grad:
                given[0].register_hook(lambda _: stop("backward"))
            start("forward")

        def after(_: torch.nn.Module, given: tuple, output: object) -> None:
            stop("forward")
            first = next(one for one in _tensors(output) if one.requires_grad)
            first.register_hook(lambda _: start("backward"))
            if not given[0].requires_grad:  # the front end comes last
                self.last = (name, began)

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    def finish(self) -> None:
        """The backward pass is over, and with it that of the front end."""
        name, began = self.last
        self.seconds[name, "backward"] += time.perf_counter() - began["backward"]


def _tensors(output: object) -> list[torch.Tensor]:
    parts = output if isinstance(output, tuple) else vars(output).values() if hasattr(output, "__dict__") else [output]
    found = [output] if isinstance(output, torch.Tensor) else parts
    return [one for one in found if isinstance(one, torch.Tensor)]


def shares() -> dict:
    """Median share of a step by part, direction forward and backward."""
    import unisat as us

    size, batch, seconds = STEPS[STEP]
    config = getattr(us.UniSpeechSatConfig, size)(**STILL, layerdrop=0.0, mask_time_prob=0.65)
    model = us.UniSpeechSatForPreTraining(config).train()
    clock, waves = Clock(model), torch.stack(noise(*[seconds] * batch))
    targets = torch.randint(0, 100, (batch, 50 * seconds - 1), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS + 1):
        clock.seconds.clear()
        times = [time.perf_counter()]
        loss = model(waves, targets=targets).loss
        times.append(time.perf_counter())
        optimizer.zero_grad()
        loss.backward()
        clock.finish()
        times.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        times.append(time.perf_counter())
        forward, backward, update = (b - a for a, b in itertools.pairwise(times))
        found = {f"{name}, {direction}": spent for (name, direction), spent in clock.seconds.items()}
        for direction, whole in (("forward", forward), ("backward", backward)):
            found[f"norms, sums, masks, losses, {direction}"] = whole - sum(
                spent for (_, other), spent in clock.seconds.items() if other == direction
            )
        found["clipping and AdamW"] = update
        rounds.append(
            {name: spent / (times[-1] - times[0]) for name, spent in found.items()} | {"step": times[-1] - times[0]}
        )
    return {name: statistics.median(one[name] for one in rounds[1:]) for name in rounds[-1]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    machine = roofline.processor(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    found = {"when": datetime.date.today().isoformat(), "machine": machine, "threads": threads, "shares": shares()}
    (Path(__file__).parent / "shares.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
