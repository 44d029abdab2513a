"""Time each shortcut beside the plain way, and what was tried and left beside what was kept; all in turn.

    python benchmarks/tricks.py [--threads 2]

Prints JSON: rows of ``what``, ``this`` and ``other`` (what was timed), ``ms`` and ``other_ms`` (medians), ``ratio``
(other over this) and ``difference`` (largest, over the largest value). `python -m benchmarks` runs it and reports.
"""

from __future__ import annotations

import argparse
import inspect
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from works import RAGGED, noise

from unisat import UniSpeechSatConfig, UniSpeechSatModel, fast, shortcuts
from unisat.frames import valid_positions
from unisat.masking import span_mask
from unisat.model import Attention

ROUNDS = 9
FRAMES, WIDTH, INNER, HEADS = 499, 768, 3072, 12
"""Of 10 s of Base."""


def compare(what: str, this: str, run: Callable, other: str, plain: Callable) -> dict:
    """Both in turn; their outputs compared where they give some."""
    times: tuple[list[float], list[float]] = ([], [])
    outputs: list = [None, None]
    for _ in range(ROUNDS + 1):
        for side, way in enumerate((run, plain)):
            start = time.perf_counter()
            outputs[side] = way()
            times[side].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(times[0][1:], times[1][1:], strict=True)]
    row = {"what": what, "this": this, "other": other, "ratio": statistics.median(ratios)}
    row |= {"ms": 1e3 * statistics.median(times[0][1:]), "other_ms": 1e3 * statistics.median(times[1][1:])}
    if isinstance(outputs[0], torch.Tensor) and outputs[0].dtype == torch.float32:
        row["difference"] = float((outputs[0] - outputs[1]).abs().max() / outputs[1].abs().max())
    return row


def in_plain(run: Callable) -> Callable:
    """The same without shortcuts."""

    def way():
        with shortcuts.plain():
            return run()

    return way


def convolved(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A linear layer as a convolution of width 1, on any processor."""
    image = values.reshape(1, 1, -1, values.shape[-1]).permute(0, 3, 1, 2)
    return F.conv2d(image, weight[:, :, None, None], bias, dilation=(1, 2)).permute(0, 2, 3, 1)


def kept(model: UniSpeechSatModel) -> list[dict]:
    """Shortcuts that are taken."""
    rows = []
    hidden, weight, bias = torch.randn(1, FRAMES, WIDTH), torch.randn(INNER, WIDTH), torch.randn(INNER)
    run = lambda: fast.linear(hidden, weight, bias)  # noqa: E731
    rows.append(compare("feed-forward product", "`fast.linear`", run, "`F.linear`", in_plain(run)))
    wave = noise(10)[0][None]
    first = model.feature_extractor.conv_layers[0]
    run = lambda: first(wave[:, None], None)  # noqa: E731
    rows.append(compare("first convolution, norm, GELU", "norm folded", run, "in three steps", in_plain(run)))
    run = lambda: model.feature_extractor(wave)  # noqa: E731
    rows.append(compare("front end", "in pieces, folded", run, "layer by layer", in_plain(run)))
    run = lambda: model.encoder.pos_conv_embed(hidden)  # noqa: E731
    rows.append(compare("positional convolution", "by spectra", run, "direct", in_plain(run)))
    layer, frames = model.encoder.layers[0], torch.tensor([int(50 * seconds) - 1 for seconds in RAGGED])
    batch, valid = torch.randn(len(frames), FRAMES, WIDTH), valid_positions(frames, FRAMES)
    run = lambda: layer(batch, valid)[0][valid]  # noqa: E731
    padded = lambda: inspect.unwrap(type(layer).forward)(layer, batch, valid)[0][valid]  # noqa: E731
    rows.append(compare("a layer, 8 ragged clips", "without padding", run, "with padding", padded))
    half = torch.randn(1, HEADS, FRAMES, WIDTH // HEADS).bfloat16()
    products = lambda: torch.softmax((half * 0.125) @ half.mT, -1) @ half  # noqa: E731
    fused = lambda: F.scaled_dot_product_attention(half, half, half)  # noqa: E731
    rows.append(compare("attention in bfloat16", "products", products, "fused", fused))
    lengths, draws = torch.full((64,), 1500), torch.Generator().manual_seed(0)

    def scored() -> None:
        """A score for each frame, the highest are starts, and running counts: what masks were before."""
        starts = torch.rand(64, 1500, generator=draws).topk(97, dim=-1).indices
        count = torch.zeros(64, 1500, dtype=torch.int32).scatter_add(1, starts, torch.ones_like(starts).int()).cumsum(1)
        count > F.pad(count, (10, 0))[:, :1500]  # noqa: B015

    run = lambda: (span_mask(lengths, 1500, mask_prob=0.65, mask_length=10, generator=draws), None)[1]  # noqa: E731
    rows.append(compare("span masks, 64 × 1,500", "places drawn", run, "a score for each frame", scored))
    with torch.inference_mode(False), torch.enable_grad():
        rows += learning()
    return rows


def learning() -> list[dict]:
    """Of these, the one about training in bfloat16: forward and backward, with the sizes of the built-in model."""
    rows = []
    batch, frames, config = 8, 199, UniSpeechSatConfig.tiny()
    width = config.hidden_size // config.num_attention_heads
    heads = [torch.randn(batch, config.num_attention_heads, frames, width).bfloat16() for _ in range(4)]
    inputs, upstream = [head.requires_grad_() for head in heads[:3]], heads[3]
    attention = Attention(config).eval()

    def attended() -> None:
        torch.autograd.grad(attention.attend(*inputs, None, False)[0], inputs, upstream)

    def fused() -> None:
        torch.autograd.grad(F.scaled_dot_product_attention(*inputs), inputs, upstream)

    rows.append(compare("attention in bfloat16, with gradients", "products", attended, "fused", fused))
    return rows


def left() -> list[dict]:
    """What was tried and is not taken: ``this`` is what is."""
    rows = []
    hidden, bias = torch.randn(1, FRAMES, WIDTH), torch.randn(3 * WIDTH)
    weights = [torch.randn(WIDTH, WIDTH) for _ in range(3)]
    joined = torch.cat(weights)
    three = lambda: torch.cat([fast.linear(hidden, w, bias[:WIDTH]) for w in weights])  # noqa: E731
    one = lambda: fast.linear(hidden, joined, bias)  # noqa: E731
    rows.append(compare("queries, keys, values", "three products", lambda: (three(), None)[1], "one", one))
    q, k, v = (torch.randn(1, FRAMES, WIDTH) for _ in range(3))
    heads = lambda x: x.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # noqa: E731

    def grouped() -> torch.Tensor:
        image = (q / 8).reshape(1, 1, FRAMES, WIDTH).permute(0, 3, 1, 2)
        scores = F.conv2d(image, heads(k).reshape(HEADS * FRAMES, WIDTH // HEADS, 1, 1), groups=HEADS)
        pattern = torch.softmax(scores.permute(0, 2, 3, 1).reshape(FRAMES, HEADS, FRAMES), -1)
        image = pattern.reshape(1, 1, FRAMES, HEADS * FRAMES).permute(0, 3, 1, 2)
        out = F.conv2d(image, heads(v).mT.reshape(WIDTH, FRAMES, 1, 1), groups=HEADS)
        return out.permute(0, 2, 3, 1).reshape(1, FRAMES, WIDTH)

    fused = lambda: F.scaled_dot_product_attention(*map(heads, (q, k, v))).transpose(1, 2).flatten(2)  # noqa: E731
    rows.append(compare("attention in float32, one utterance", "fused", fused, "grouped convolutions", grouped))
    half, weight = hidden.bfloat16(), torch.randn(INNER, WIDTH).bfloat16()
    wide = torch.randn(INNER).bfloat16()
    linear, convolution = lambda: F.linear(half, weight, wide), lambda: convolved(half, weight, wide)
    rows.append(compare("feed-forward product in bfloat16", "`F.linear`", linear, "a convolution", convolution))
    with torch.inference_mode(False), torch.enable_grad():
        rows += gradients()
    return rows


def gradients() -> list[dict]:
    """Of these, the ones about training: forward and backward."""
    rows = []
    signal, kernel = torch.randn(4, WIDTH, 149, requires_grad=True), torch.randn(WIDTH, 48, 128, requires_grad=True)
    upstream = torch.randn(4, WIDTH, 150)

    def direct() -> None:
        torch.autograd.grad(F.conv1d(signal, kernel, padding=64, groups=16), (signal, kernel), upstream)

    def spectra() -> None:
        window = 512
        spectrum = torch.fft.rfft(kernel, n=window).conj().unflatten(0, (16, -1)).permute(3, 0, 2, 1)
        seen = torch.fft.rfft(F.pad(signal, (64, window - 64 - 149))).unflatten(1, (16, -1)).permute(3, 1, 0, 2)
        out = torch.fft.irfft((seen @ spectrum).permute(2, 1, 3, 0).flatten(1, 2), n=window)[..., :150]
        torch.autograd.grad(out, (signal, kernel), upstream)

    rows.append(compare("positional convolution, with gradients", "direct", direct, "by spectra", spectra))
    apart = torch.randn(4, 512, 1, 5333, requires_grad=True)
    beside = apart.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(512, 512, 1, 3, requires_grad=True)

    def second(values: torch.Tensor) -> Callable:
        def run() -> None:
            out = F.conv2d(values, weight, stride=(1, 2))
            torch.autograd.grad(out, (values, weight), torch.ones_like(out))

        return run

    title = "second convolution, with gradients"
    rows.append(compare(title, "channels apart", second(apart), "channels side by side", second(beside)))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    # made outside inference mode: weights made inside do not count their changes
    model = UniSpeechSatModel(UniSpeechSatConfig.base()).eval()
    with torch.inference_mode():
        print(json.dumps({"kept": kept(model), "left": left()}))


if __name__ == "__main__":
    main()
