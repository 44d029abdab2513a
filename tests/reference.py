"""Slow second versions in plain loops, written from the formulas; nothing of `unisat` is imported."""

import itertools
import math

import torch


def conv_outputs(samples, kernel, stride=1, dilation=1):
    """Count the places where the kernel fits, one by one."""
    span = dilation * (kernel - 1) + 1
    return sum(1 for start in range(0, samples, stride) if start + span <= samples)


def samples_of_frame(frame, kernels, strides):
    """First and one past the last sample that a frame sees, following the layers backwards."""
    first, last = frame, frame
    for kernel, stride in list(zip(kernels, strides, strict=True))[::-1]:
        first, last = first * stride, last * stride + kernel - 1
    return first, last + 1


def masked_group_norm(channels, lengths, weight, bias, eps):
    """Each channel of each utterance by the mean and variance of its own valid part."""
    out = torch.empty_like(channels)
    for i, length in enumerate(lengths):
        for c in range(channels.shape[1]):
            part = channels[i, c, :length]
            mean = sum(part.tolist()) / length
            variance = sum((x - mean) ** 2 for x in part.tolist()) / length
            out[i, c] = (channels[i, c] - mean) / math.sqrt(variance + eps) * weight[c] + bias[c]
    return out


def attention(hidden, module, heads, valid):
    """Bart-style attention of one utterance, frame by frame and head by head: (output, pattern)."""
    frames, width = hidden.shape
    dim = width // heads
    q, k, v = module.q_proj(hidden), module.k_proj(hidden), module.v_proj(hidden)
    z = torch.zeros(frames, width)
    pattern = torch.zeros(heads, frames, frames)
    for h in range(heads):
        part = slice(h * dim, (h + 1) * dim)
        for t in range(frames):
            scores = [float((q[t, part] * dim**-0.5) @ k[s, part]) for s in range(frames) if valid[s]]
            top = max(scores)
            total = sum(math.exp(score - top) for score in scores)
            weights = iter(math.exp(score - top) / total for score in scores)
            for s in range(frames):
                if valid[s]:
                    pattern[h, t, s] = next(weights)
                    z[t, part] += pattern[h, t, s] * v[s, part]
    return module.out_proj(z), pattern


def perplexity(choices, entries):
    """exp(entropy) of how often each entry was chosen, from a list of choices."""
    entropy = 0.0
    for entry in range(entries):
        share = choices.count(entry) / len(choices)
        entropy -= share * math.log(share) if share else 0.0
    return math.exp(entropy)


def span_lengths(mask):
    """Lengths of the runs of True."""
    runs, run = [], 0
    for value in [*mask, False]:
        if value:
            run += 1
        elif run:
            runs.append(run)
            run = 0
    return runs


def ctc_loss_by_paths(probabilities, target, blank):
    """-log of the summed probability of every path of frames that spells the target."""
    frames, tokens = probabilities.shape
    total = 0.0
    for path in itertools.product(range(tokens), repeat=frames):
        grouped = [token for i, token in enumerate(path) if i == 0 or token != path[i - 1]]
        if [token for token in grouped if token != blank] == target:
            total += math.prod(float(probabilities[t, token]) for t, token in enumerate(path))
    return -math.log(total)


def pit_by_loops(logits, labels, lengths):
    """Mean over utterances of the least binary cross-entropy over all orders of the speakers."""
    speakers, losses = logits.shape[-1], []
    for i, length in enumerate(lengths):
        orders = []
        for order in itertools.permutations(range(speakers)):
            total = 0.0
            for t in range(length):
                for output, speaker in enumerate(order):
                    p = 1 / (1 + math.exp(-logits[i, t, output]))
                    total -= math.log(p) if labels[i, t, speaker] else math.log(1 - p)
            orders.append(total / length / speakers)
        losses.append(min(orders))
    return sum(losses) / len(losses)


def tdnn_by_loops(hidden, linear, width, dilation):
    """A linear layer over every ``width`` frames that lie ``dilation`` apart, frame by frame."""
    frames = hidden.shape[1] - (width - 1) * dilation
    rows = [torch.cat([hidden[:, t + i * dilation] for i in range(width)], dim=-1) for t in range(frames)]
    return torch.stack([linear(row).clamp(min=0) for row in rows], dim=1)
