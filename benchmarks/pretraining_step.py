"""Time a step of pretraining against transformers' Wav2Vec2ForPreTraining, and weigh the contrastive loss.

    python benchmarks/pretraining_step.py [--peers 4.37.2 latest] [--repeats 9] [--threads 2]

A step draws its masks (and the peer its negatives), runs forward and backward, clips, and updates with AdamW:
what a training script does for a batch. The objectives differ, the sizes do not; ours computes the content loss, the
contrastive loss over all masked frames, diversity and penalty. Two processes take turns, as in forward.py. The
memory of the contrastive loss is that of its forward and backward pass alone, in a fresh process, against the
authors' form, which gathers 101 vectors for each masked frame. Writes benchmarks/pretraining_step.json and .md.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from forward import Process, peak_mb, peer_site

FOLDER = Path(__file__).resolve().parent
CASES = {"tiny, 10 × 3 s": ("tiny", 10, 3), "Base, 4 × 3 s": ("base", 4, 3)}
SHARED = (
    "hidden_size num_hidden_layers num_attention_heads intermediate_size conv_dim conv_stride conv_kernel conv_bias "
    "feat_extract_norm do_stable_layer_norm num_conv_pos_embeddings num_conv_pos_embedding_groups codevector_dim "
    "proj_codevector_dim num_codevectors_per_group num_codevector_groups mask_time_prob mask_time_length"
).split()
CONTRASTIVE = {"utterances": 8, "masked frames each": 430, "dim": 256, "instances": 100}


def config(size: str):
    """Ours, without dropout, with the recipe's mask."""
    from unisat import UniSpeechSatConfig

    still = {f"{name}_dropout": 0.0 for name in ("hidden", "attention", "activation", "final", "feat_proj")}
    return getattr(UniSpeechSatConfig, size)(**still, layerdrop=0.0, mask_time_prob=0.65, mask_time_length=10)


def our_step(size: str):
    """A function that takes a step and gives the loss."""
    import torch

    from unisat import UniSpeechSatForPreTraining

    ours = config(size)
    model = UniSpeechSatForPreTraining(ours).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step(waveforms, labels):
        output = model(waveforms, targets=labels)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return output.loss.item()

    return step


def their_step(size: str):
    """The same of the peer, as its own example script does it."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    ours = config(size)
    still = {f"{name}_dropout": 0.0 for name in ("hidden", "attention", "activation", "final", "feat_proj")}
    sizes = {name: getattr(ours, name) for name in SHARED}
    theirs = Wav2Vec2Config(**sizes, **still, layerdrop=0.0, feat_quantizer_dropout=0.0)
    model = Wav2Vec2ForPreTraining(theirs).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step(waveforms, labels):
        shape = (len(waveforms), int(model._get_feat_extract_output_lengths(waveforms.shape[1])))
        mask = _compute_mask_indices(shape, theirs.mask_time_prob, theirs.mask_time_length)
        negatives = _sample_negative_indices(shape, theirs.num_negatives, mask)
        output = model(
            waveforms, mask_time_indices=torch.tensor(mask), sampled_negative_indices=torch.tensor(negatives)
        )
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return output.loss.item()

    return step


def worker(kind: str, threads: int) -> None:
    """Answer a case name on standard input with the time and memory of a step."""
    import torch

    torch.set_num_threads(threads)
    version = "here"
    if kind == "transformers":
        import transformers

        transformers.logging.set_verbosity_error()
        version = transformers.__version__
    print(json.dumps({"version": version, "torch": torch.__version__}), flush=True)
    steps: dict = {}
    for line in sys.stdin:
        size, batch, seconds = CASES[line.strip()]
        if size not in steps:
            steps.clear()
            steps[size] = our_step(size) if kind == "unisat" else their_step(size)
        generator = torch.Generator().manual_seed(0)
        waveforms = torch.randn(batch, 16000 * seconds, generator=generator)
        labels = torch.randint(0, 100, (batch, 50 * seconds - 1), generator=generator)
        peak_mb(reset=True)
        start = time.perf_counter()
        loss = steps[size](waveforms, labels)
        print(json.dumps({"seconds": time.perf_counter() - start, "mb": peak_mb(), "loss": loss}), flush=True)


def contrastive_mb(form: str) -> float:
    """Memory that forward and backward of the contrastive loss add, in MB."""
    import torch
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
    return peak_mb() - before


def compare(peer: str, repeats: int, threads: int) -> dict:
    """All cases against one peer."""
    ours = Process("unisat", "-", threads, script=__file__)
    theirs = Process("transformers", "-", threads, peer_site(peer), script=__file__)
    rows = {}
    for case in CASES:
        ours.ask(case), theirs.ask(case)  # warm up
        pairs = [(ours.ask(case), theirs.ask(case)) for _ in range(repeats)]
        ratios = [b["seconds"] / a["seconds"] for a, b in pairs]
        _, batch, seconds = CASES[case]
        rows[case] = {
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "ours_audio_per_s": batch * seconds / statistics.median(a["seconds"] for a, _ in pairs),
            "theirs_audio_per_s": batch * seconds / statistics.median(b["seconds"] for _, b in pairs),
            "ours_mb": max(a["mb"] for a, _ in pairs),
            "theirs_mb": max(b["mb"] for _, b in pairs),
        }
        print(f"{case:20} {rows[case]['ratio']:.3f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    facts = theirs.facts
    ours.close(), theirs.close()
    return {"transformers": facts["version"], "torch": facts["torch"], "rows": rows}


def table(results: dict) -> str:
    """The results as Markdown."""
    lines = ["# A step of pretraining, float32, CPU", ""]
    lines += [f"Written by `python benchmarks/pretraining_step.py` on {results['when']}."]
    lines += [f"Machine: {results['machine']}, {results['threads']} threads, torch {results['torch']}. "]
    lines[-1] += "Ratios are `Wav2Vec2ForPreTraining`'s time over ours in neighbouring runs: above 1, ours is faster."
    for peer in results["peers"]:
        lines += ["", f"## Against transformers {peer['transformers']}", ""]
        lines += [
            "| case | ratio (median) | min to max | audio in a second, ours | theirs | peak memory, ours | theirs |"
        ]
        lines += ["|---|---|---|---|---|---|---|"]
        for case, row in peer["rows"].items():
            rate = f"{row['ours_audio_per_s']:.1f} s | {row['theirs_audio_per_s']:.1f} s"
            memory = f"{row['ours_mb']:.0f} MB | {row['theirs_mb']:.0f} MB"
            span = f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}"
            lines.append(f"| {case} | **{row['ratio']:.2f}×** | {span} | {rate} | {memory} |")
    memory = results["contrastive_mb"]
    sizes = ", ".join(f"{value} {name}" for name, value in CONTRASTIVE.items())
    lines += ["", "## Memory of the contrastive loss", "", f"Forward and backward at {sizes}:"]
    lines += [f"{memory['matrix']:.0f} MB through the matrix of cosines, {memory['gathered']:.0f} MB with gathered "]
    lines[-1] += f"instances: **{memory['matrix'] / memory['gathered']:.2f}** of it."
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", default=["4.37.2", "latest"])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, form, threads = options.worker
        if kind == "memory":
            print(contrastive_mb(form))
        else:
            worker(kind, int(threads))
        return

    import torch

    results = {
        "when": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": options.threads,
        "torch": torch.__version__,
        "peers": [compare(peer, options.repeats, options.threads) for peer in options.peers],
    }
    memory = {}
    for form in ("matrix", "gathered"):
        command = [sys.executable, __file__, "--worker", "memory", form, str(options.threads)]
        memory[form] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    results["contrastive_mb"] = memory
    (FOLDER / "pretraining_step.json").write_text(json.dumps(results, indent=1) + "\n")
    (FOLDER / "pretraining_step.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
