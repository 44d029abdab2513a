"""What is measured of unisat alone, each in a fresh process: `python benchmarks/alone.py NAME` prints a JSON object."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from worker import peak_mb
from works import noise

THREADS = 2
CONTRASTIVE = {"utterances": 8, "masked frames each": 430, "dim": 256, "instances": 100}


def capture() -> dict:
    """A forward pass of 10 s with pooled hidden states over one without, in turn, and the bytes that are kept."""
    import unisat as us

    model = us.UniSpeechSatModel(us.UniSpeechSatConfig.base()).eval()
    wave, ratios, kept = noise(10)[0][None], [], 0
    with torch.inference_mode():
        for _ in range(21):
            start = time.perf_counter()
            model(wave)
            plain = time.perf_counter() - start
            start = time.perf_counter()
            with us.capture(model, "hidden.*", reduce="mean+std") as trace:
                model(wave)
            ratios.append((time.perf_counter() - start) / plain)
            kept = trace.nbytes
    return {"ratio": statistics.median(ratios[1:]), "least": min(ratios[1:]), "most": max(ratios[1:]), "bytes": kept}


def corpus(times: int = 1) -> dict:
    """Highest memory, in MB, of collecting 16 files ``times`` over, into a folder; with the narrow built-in model."""
    import pandas as pd
    import soundfile

    import unisat as us

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for index, wave in enumerate(noise(*[2 + 0.5 * n for n in range(16)])):
            path = f"{folder}/{index}.flac"
            soundfile.write(path, wave.clamp(-1, 1).numpy(), 16_000)
            rows += [{"path": path, "id": f"{index}-{n}", "seconds": len(wave) / 16_000} for n in range(times)]
        model, files = us.load("tiny"), us.corpus.Corpus(pd.DataFrame(rows))
        us.collect(model, us.corpus.Corpus(files.table[:16]), "hidden.*", progress=False)
        peak_mb(reset=True)
        us.collect(model, files, "hidden.*", progress=False, folder=Path(folder) / "bank")
        return {"mb": peak_mb()}


def corpus_16() -> dict:
    """The same of sixteen times as many files."""
    return corpus(16)


def segments(each: int = 50) -> dict:
    """Rows for 10,000 segments of 200 utterances of 5 s over a mean for each utterance, in turn; the built-in model."""
    import pandas as pd

    import unisat as us

    speech = us.Batch.from_arrays(noise(*[5.0] * 200), sampling_rate=us.frames.SAMPLE_RATE)
    rows = [(name, "phone", n * 5 / each, (n + 1) * 5 / each, "x") for name in speech.ids for n in range(each)]
    said = us.Segments(pd.DataFrame(rows, columns=["id", "tier", "start", "end", "label"]))
    model, ratios = us.load("tiny"), []
    for _ in range(5):
        start = time.perf_counter()
        us.collect(model, speech, "hidden.*", reduce="mean", progress=False)
        means = time.perf_counter() - start
        start = time.perf_counter()
        us.collect(model, speech, "hidden.*", segments=said, progress=False)
        ratios.append((time.perf_counter() - start) / means)
    found = {"ratio": statistics.median(ratios[1:]), "least": min(ratios[1:]), "most": max(ratios[1:])}
    return {**found, "segments": len(said)}


def contrastive(form: str = "matrix") -> dict:
    """Memory that forward and backward of the contrastive loss add, in MB, by the matrix of cosines."""
    import torch.nn.functional as F

    from unisat import losses

    utterances = torch.arange(CONTRASTIVE["utterances"]).repeat_interleave(CONTRASTIVE["masked frames each"])
    frames = len(utterances)
    pair = [torch.randn(frames, CONTRASTIVE["dim"], requires_grad=True) for _ in range(2)]
    instances = losses.draw_instances(frames, CONTRASTIVE["instances"])
    small = torch.randn(8, 8, requires_grad=True)
    losses.contrastive_infonce(small, torch.arange(8) % 2).backward()  # what the first call loads
    peak_mb(reset=True)
    before = peak_mb()
    if form == "matrix":
        loss = losses.contrastive_bce(losses.contrastive_similarity(*pair), utterances, instances)
    else:
        anchors, quantized = pair
        chosen = torch.cat([torch.arange(frames)[:, None], instances], dim=1)
        logits = F.cosine_similarity(anchors[:, None], quantized[chosen], dim=-1) / 0.1
        same = (utterances[chosen] == utterances[:, None]).float()
        loss = F.binary_cross_entropy_with_logits(logits, same)
    loss.backward()
    return {"mb": peak_mb() - before}


def contrastive_gathered() -> dict:
    """The same as the authors compute it: 101 vectors gathered for each masked frame."""
    return contrastive("gathered")


def long() -> dict:
    """Time of ten minutes in one pass, and the memory that it takes beyond the weights."""
    import unisat as us

    model, wave = us.UniSpeechSatModel(us.UniSpeechSatConfig.base()).eval(), noise(600)[0][None]
    before = peak_mb(reset=True)
    with torch.inference_mode():
        start = time.perf_counter()
        model(wave)
        return {"seconds": time.perf_counter() - start, "mb": peak_mb() - before}


def long_chunks() -> dict:
    """The same by chunks of 20 s."""
    import unisat as us

    model, wave = us.UniSpeechSatModel(us.UniSpeechSatConfig.base()).eval(), noise(600)[0]
    before = peak_mb(reset=True)
    start = time.perf_counter()
    us.encode_long(model, wave)
    return {"seconds": time.perf_counter() - start, "mb": peak_mb() - before}


ALONE = {
    one.__name__: one
    for one in (long, long_chunks, capture, segments, corpus, corpus_16, contrastive, contrastive_gathered)
}

if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    print(json.dumps(ALONE[sys.argv[1]]()))
