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


def bucket(distance, buckets, farthest):
    """Number of the bucket of a distance from a query to a key: one each while near, then logarithmic (T5, WavLM)."""
    side = buckets // 2
    near = side // 2
    far = abs(distance)
    number = far
    if far >= near:
        number = min(side - 1, near + int(math.log(far / near) / math.log(farthest / near) * (side - near)))
    return number + (side if distance > 0 else 0)


def gated_bias(hidden, table, linear, scale, buckets, farthest):
    """WavLM's bias of one utterance, head by head and pair by pair: (gate, bias)."""
    frames, heads = len(hidden), table.shape[1]
    dim = hidden.shape[1] // heads
    gate, bias = torch.zeros(frames, heads), torch.zeros(heads, frames, frames)
    for h in range(heads):
        for q in range(frames):
            eight = linear(hidden[q, h * dim : (h + 1) * dim]).tolist()
            update, reset = (1 / (1 + math.exp(-sum(four))) for four in (eight[:4], eight[4:]))
            gate[q, h] = 1 + update * reset * float(scale[h]) + (1 - update)
            for k in range(frames):
                bias[h, q, k] = gate[q, h] * table[bucket(k - q, buckets, farthest), h]
    return gate, bias


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


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / max(math.sqrt(sum(x * x for x in a)), 1e-12) / max(math.sqrt(sum(y * y for y in b)), 1e-12)


def softplus(x):
    """ln(1 + e^x): -ln sigmoid(-x), without the digits that 1 - sigmoid loses."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def content_logits(states, embeddings, temperature):
    return [[cosine(state, embedding) / temperature for embedding in embeddings] for state in states]


def content_loss(states, embeddings, targets, temperature):
    """As fairseq: cross-entropy of [positive; all], the positive's copy among all struck out."""
    total, counted = 0.0, 0
    for state, target in zip(states, targets, strict=True):
        if target == -100:
            continue
        positive = cosine(state, embeddings[target]) / temperature
        others = [cosine(state, e) / temperature for c, e in enumerate(embeddings) if c != target]
        total -= positive - math.log(math.exp(positive) + sum(math.exp(other) for other in others))
        counted += 1
    return total / counted


def content_floors(targets, mask, valid):
    """Shares of the commonest cluster and of right copies, and entropy, frame by frame."""
    counts, copies = {}, 0
    for clusters, hidden, real in zip(targets, mask, valid, strict=True):
        known = [t for t, cluster in enumerate(clusters) if real[t] and cluster != -100]
        seen = [t for t in known if not hidden[t]]
        for t in known:
            if not hidden[t]:
                continue
            counts[clusters[t]] = counts.get(clusters[t], 0) + 1
            if seen:
                copies += clusters[min(seen, key=lambda other: (abs(other - t), other))] == clusters[t]
    total = sum(counts.values())
    entropy = -sum(count / total * math.log(count / total) for count in counts.values())
    return max(counts.values()) / total, copies / total, entropy


def gathered(anchors, quantized, utterances, instances, temperature):
    """Scores and answers of [own frame; instances], with the codes of all instances copied out, as the authors do."""
    codes = [list(quantized)] + [
        [quantized[drawn[place]] for drawn in instances] for place in range(len(instances[0]))
    ]  # (1 + K, S, dim)
    owners = [list(utterances)] + [
        [utterances[drawn[place]] for drawn in instances] for place in range(len(instances[0]))
    ]
    pairs = []
    for copies, whose in zip(codes, owners, strict=True):
        for anchor, utterance, code, owner in zip(anchors, utterances, copies, whose, strict=True):
            pairs.append((cosine(anchor, code) / temperature, owner == utterance))
    return pairs


def contrastive_bce(anchors, quantized, utterances, instances, temperature):
    """The authors' loss: yes or no by yes or no."""
    pairs = gathered(anchors, quantized, utterances, instances, temperature)
    return sum(softplus(-score if same else score) for score, same in pairs) / len(pairs)


def contrastive_infonce(anchors, quantized, utterances, temperature):
    terms = []
    for row, anchor in enumerate(anchors):
        own = cosine(anchor, quantized[row]) / temperature
        rivals = [
            cosine(anchor, other) / temperature
            for place, other in enumerate(quantized)
            if utterances[place] != utterances[row]
        ]
        terms.append(math.log1p(sum(math.exp(rival - own) for rival in rivals)))
    return sum(terms) / len(terms)


def contrastive_report(anchors, quantized, utterances, instances, temperature):
    """Share of right answers, that of the best constant answer, and its loss; ``instances`` None for the paper's."""
    if instances is not None:
        pairs = gathered(anchors, quantized, utterances, instances, temperature)
        yes = sum(same for _, same in pairs) / len(pairs)
        right = sum((score >= 0) == same for score, same in pairs) / len(pairs)
        entropy = -sum(p * math.log(p) for p in (yes, 1 - yes) if p)
        return right, max(yes, 1 - yes), entropy
    right, guess, chance = 0, 0.0, 0.0
    for row, anchor in enumerate(anchors):
        own = cosine(anchor, quantized[row])
        rivals = [
            cosine(anchor, code) for code, whose in zip(quantized, utterances, strict=True) if whose != utterances[row]
        ]
        right += all(own > rival for rival in rivals)
        guess += 1 / (1 + len(rivals))
        chance += math.log(1 + len(rivals))
    return right / len(anchors), guess / len(anchors), chance / len(anchors)


def diversity(probabilities):
    """Both forms, from probabilities (frames, groups, entries): (GV - perplexity) / GV, and sum of p log p over GV."""
    frames, groups, entries = len(probabilities), len(probabilities[0]), len(probabilities[0][0])
    perplexity_sum, negative_entropy = 0.0, 0.0
    for group in range(groups):
        mean = [sum(frame[group][v] for frame in probabilities) / frames for v in range(entries)]
        negative = sum(p * math.log(p) for p in mean if p > 0)
        perplexity_sum += math.exp(-negative)
        negative_entropy += negative
    size = groups * entries
    return (size - perplexity_sum) / size, negative_entropy / size


def feature_penalty(features, lengths):
    """Features (batch, channels, frames) as nested lists."""
    squares = [
        value * value
        for utterance, length in zip(features, lengths, strict=True)
        for channel in utterance
        for value in channel[:length]
    ]
    return sum(squares) / len(squares)


def criterion(sums, frames, weights, extras):
    """fairseq's: weighted sums of content losses, plus N times each weighted extra, all over N."""
    counted = sum(frames[name] for name in sums if weights[name])
    total = sum(weights[name] * sums[name] for name in sums)
    total += sum(weights[name] * extra * counted for name, extra in extras.items())
    return total / counted
