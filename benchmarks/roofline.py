"""How fast this machine can be: matrix products and memory, measured; and what a forward pass asks of both, counted.

    python benchmarks/roofline.py [--threads 2] [--device cpu]

No forward pass can take less time than its operations at the rate of matrix products, nor than its bytes at the rate
of memory: the floor is the larger of the two.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F

from unisat import UniSpeechSatConfig
from unisat.frames import conv_length, stack_length

ROUNDS = 15


def _seconds(run: Callable[[], Any], device: str) -> float:
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])  # what the machine can do, not what it does on average


def rates(device: str = "cpu") -> dict[str, float]:
    """Operations in a second of matrix products in float32 and bfloat16, and bytes in a second of a copy.

    The products are those of a feed-forward layer for 40 s of speech, through either library that torch brings.
    """
    rows, inner, outer = 2000, 768, 3072
    found: dict[str, float] = {}
    with torch.inference_mode():
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            values = torch.randn(rows, inner, device=device).to(dtype)
            weight = torch.randn(outer, inner, device=device).to(dtype)
            image, kernel = values.reshape(1, 1, rows, inner).permute(0, 3, 1, 2), weight[:, :, None, None]
            ways = [
                lambda values=values, weight=weight: F.linear(values, weight),
                lambda image=image, kernel=kernel: F.conv2d(image, kernel, dilation=(1, 2)),
            ]
            found[name] = 2 * rows * inner * outer / min(_seconds(way, device) for way in ways)
        source = torch.randn(64_000_000, device=device)
        target = torch.empty_like(source)
        found["bytes"] = 2 * source.nbytes / _seconds(lambda: target.copy_(source), device)
    return found


def processor(cpuinfo: str) -> dict[str, str]:
    """Name, family and model of the first processor in the text of /proc/cpuinfo, those that are there.

    The name alone does not say which it is: hosts of rented machines call many of them "AMD EPYC".
    """
    lines = (line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines())
    facts = {key.strip(): value.strip() for key, _, value in lines}
    names = {"processor": "model name", "family": "cpu family", "model": "model"}
    return {ours: facts[theirs] for ours, theirs in names.items() if theirs in facts}


def operations(config: UniSpeechSatConfig, seconds: Iterable[float]) -> float:
    """Multiplications and additions of a forward pass over utterances of these lengths, none of it padding."""
    total = 0.0
    for one in seconds:
        samples = int(16_000 * one)
        channels, length = 1, samples
        for out, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
            length = conv_length(length, kernel, stride)
            total += 2 * length * channels * kernel * out
            channels = out
        width, inner, frames = config.hidden_size, config.intermediate_size, length
        total += 2 * frames * channels * width
        groups, taps = config.num_conv_pos_embedding_groups, config.num_conv_pos_embeddings
        total += 2 * frames * width * (width // groups) * taps
        layer = 4 * width * width + 2 * width * inner + 2 * frames * width
        total += 2 * frames * layer * config.num_hidden_layers
    return total


def traffic(config: UniSpeechSatConfig, seconds: Iterable[float], itemsize: int = 4) -> float:
    """Bytes that a forward pass reads and writes at least: its weights once, each layer's input and output once."""
    inputs = (1, *config.conv_dim[:-1])
    weights = sum(a * b * k for a, b, k in zip(inputs, config.conv_dim, config.conv_kernel, strict=True))
    width, inner = config.hidden_size, config.intermediate_size
    weights += config.num_hidden_layers * (4 * width * width + 2 * width * inner)
    weights += width * width // config.num_conv_pos_embedding_groups * config.num_conv_pos_embeddings
    signals = 0
    for one in seconds:
        samples = int(16_000 * one)
        for layer, channels in enumerate(config.conv_dim):
            positions = stack_length(samples, config.conv_kernel[: layer + 1], config.conv_stride[: layer + 1])
            signals += 2 * channels * positions
        # stream, queries, keys, values, heads' outputs; feed-forward
        signals += config.num_hidden_layers * positions * (2 * 6 * width + 2 * inner)
    return float(itemsize * (weights + signals))


def floor_seconds(config: UniSpeechSatConfig, seconds: Iterable[float], rate: dict[str, float], dtype: str) -> float:
    """The least time of a forward pass on a machine of these `rates`."""
    lengths = list(seconds)
    itemsize = 2 if dtype == "bfloat16" else 4
    return max(operations(config, lengths) / rate[dtype], traffic(config, lengths, itemsize) / rate["bytes"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rate = rates(options.device)
    base = UniSpeechSatConfig.base()
    print(f"matrix products: {rate['float32'] / 1e9:.0f} billion operations a second in float32, ", end="")
    print(f"{rate['bfloat16'] / 1e9:.0f} in bfloat16; memory: {rate['bytes'] / 1e9:.1f} GB a second")
    size = f"{operations(base, [10]) / 1e9:.0f} billion operations, {traffic(base, [10]) / 1e6:.0f} MB"
    print(f"Base, 10 s: {size}, at least {floor_seconds(base, [10], rate, 'float32'):.3f} s")


if __name__ == "__main__":
    main()
