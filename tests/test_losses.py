"""Each term of the objective against loops, by its exact values, its gradient and its chance level."""

import math

import pytest
import reference
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from unisat import losses
from unisat.precision import full_precision
from unisat.quantizer import perplexity


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def contrastive_cases(draw):
    """Anchors, quantized states, utterances (at least two) and instances."""
    utterances = draw(st.lists(st.integers(0, 3), min_size=2, max_size=9).filter(lambda rows: len(set(rows)) > 1))
    seed, dim = draw(st.integers(0, 999)), draw(st.integers(2, 5))
    frames = len(utterances)
    generator = torch.Generator().manual_seed(seed)
    instances = losses.draw_instances(frames, draw(st.integers(1, 7)), generator=generator)
    anchors, quantized = numbers(frames, dim, seed=seed), numbers(frames, dim, seed=seed + 1)
    return anchors, quantized, torch.tensor(utterances), instances


@given(st.integers(1, 8), st.integers(2, 6), st.integers(0, 999), st.sampled_from([0.1, 0.5, 2.0]))
def test_content_loss(frames, clusters, seed, temperature):
    states, embeddings = numbers(frames, 4, seed=seed), numbers(clusters, 4, seed=seed + 1)
    targets = torch.randint(0, clusters, (frames,), generator=torch.Generator().manual_seed(seed))
    targets[1::3] = -100
    loss = losses.content_loss(losses.content_logits(states, embeddings, temperature), targets)
    expected = reference.content_loss(states.tolist(), embeddings.tolist(), targets.tolist(), temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    single = losses.content_loss(losses.content_logits(states.float(), embeddings.float(), temperature), targets)
    assert single.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    cosines = F.cosine_similarity(states[:, None], embeddings[None], dim=-1)
    torch.testing.assert_close(loss, F.cross_entropy(cosines / temperature, targets))


def test_content_loss_starts_near_chance():
    for clusters, starts_at in ((504, 6.25), (104, 4.7)):
        embeddings = torch.rand(clusters, 256, generator=torch.Generator().manual_seed(0))
        states = torch.randn(2000, 256, generator=torch.Generator().manual_seed(1))
        targets = torch.randint(0, clusters, (2000,), generator=torch.Generator().manual_seed(2))
        loss = losses.content_loss(losses.content_logits(states, embeddings), targets).item()
        assert math.log(clusters) < loss
        assert loss == pytest.approx(starts_at, abs=0.1)
        like = losses.content_logits(embeddings, embeddings, 1.0)
        assert like[~torch.eye(clusters, dtype=torch.bool)].mean() == pytest.approx(0.75, abs=0.02)


def test_content_loss_of_no_target_is_zero_with_a_gradient():
    logits = numbers(3, 4).requires_grad_()
    losses.content_loss(logits, torch.full((3,), -100)).backward()
    assert logits.grad.abs().max() == 0


@given(contrastive_cases())
def test_contrastive_losses(case):
    anchors, quantized, utterances, instances = case
    similarity = losses.contrastive_similarity(anchors, quantized, 0.5)
    lists = anchors.tolist(), quantized.tolist(), utterances.tolist()
    bce = losses.contrastive_bce(similarity, utterances, instances)
    assert bce.item() == pytest.approx(reference.contrastive_bce(*lists, instances.tolist(), 0.5), rel=1e-10)
    infonce = losses.contrastive_infonce(similarity, utterances)
    assert infonce.item() == pytest.approx(reference.contrastive_infonce(*lists, 0.5), rel=1e-10)
    right = [
        (similarity[row, other] >= 0) == (utterances[other] == utterances[row])
        for row in range(len(utterances))
        for other in [row, *instances[row].tolist()]
    ]
    report = losses.contrastive_report(similarity, utterances, instances)
    assert report["contrastive_accuracy"].item() == pytest.approx(sum(right).item() / len(right))
    single = losses.contrastive_similarity(anchors.float(), quantized.float(), 0.5)
    assert losses.contrastive_bce(single, utterances, instances).item() == pytest.approx(bce.item(), abs=1e-5)
    # who is called utterance 0, and in which order frames come, changes nothing
    renamed = (utterances + 2) % 4
    torch.testing.assert_close(losses.contrastive_bce(similarity, renamed, instances), bce)
    order = torch.randperm(len(utterances))
    place = order.argsort()
    shuffled = losses.contrastive_similarity(anchors[order], quantized[order], 0.5)
    torch.testing.assert_close(losses.contrastive_bce(shuffled, utterances[order], place[instances[order]]), bce)
    torch.testing.assert_close(losses.contrastive_infonce(shuffled, utterances[order]), infonce)


def test_contrastive_values_that_one_knows():
    utterances = torch.tensor([0, 0, 1, 1, 1])
    instances = losses.draw_instances(5, 400, generator=torch.Generator().manual_seed(0))
    same = (utterances[:, None] == utterances).double()
    solved = losses.contrastive_bce((2 * same - 1) / 0.1, utterances, instances)
    assert solved.item() == pytest.approx(math.log1p(math.exp(-10)), rel=1e-9)  # 4.5e-5
    assert losses.contrastive_report((2 * same - 1) / 0.1, utterances, instances)["contrastive_accuracy"] == 1
    nothing = torch.zeros(5, 5, dtype=torch.float64)
    assert losses.contrastive_bce(nothing, utterances, instances).item() == pytest.approx(math.log(2))
    assert losses.contrastive_infonce(nothing, utterances).item() == pytest.approx(
        0.4 * math.log(4) + 0.6 * math.log(3)
    )
    # the best constant answer gives H(p), and no constant gives less
    report = losses.contrastive_report(nothing, utterances, instances)
    positive = losses.contrastive_targets(utterances, instances).double().mean()
    best = torch.logit(positive) + nothing
    assert losses.contrastive_bce(best, utterances, instances).item() == pytest.approx(
        report["contrastive_chance"].item()
    )
    for shift in (-0.1, 0.1):
        assert losses.contrastive_bce(best + shift, utterances, instances) > report["contrastive_chance"]
    infonce = losses.contrastive_report(nothing, utterances)
    assert infonce["contrastive_chance"].item() == pytest.approx(losses.contrastive_infonce(nothing, utterances).item())
    assert infonce["contrastive_accuracy_chance"].item() == pytest.approx((2 / 4 + 3 / 3) / 5)
    eye = torch.eye(5, dtype=torch.float64)
    assert losses.contrastive_report(eye, utterances)["contrastive_accuracy"] == 1
    assert losses.contrastive_report(-eye, utterances)["contrastive_accuracy"] == 0


@pytest.mark.parametrize(("batch", "entropy"), [(2, 0.693), (4, 0.570), (8, 0.393), (16, 0.258)])
def test_chance_at_the_sizes_of_the_paper(batch, entropy):
    share = torch.tensor((1 + 100 / batch) / 101, dtype=torch.float64)
    assert losses.binary_entropy(share).item() == pytest.approx(entropy, abs=6e-4)
    utterances = torch.arange(batch).repeat_interleave(50)
    instances = losses.draw_instances(50 * batch, 100, generator=torch.Generator().manual_seed(0))
    report = losses.contrastive_report(torch.zeros(50 * batch, 50 * batch), utterances, instances)
    assert report["contrastive_chance"].item() == pytest.approx(entropy, abs=0.01)
    assert report["contrastive_accuracy_chance"].item() == pytest.approx(max(share, 1 - share).item(), abs=0.01)


def test_one_utterance_is_nothing_to_compare():
    for loss in (
        lambda: losses.contrastive_bce(torch.zeros(3, 3), torch.zeros(3).long(), torch.zeros(3, 2).long()),
        lambda: losses.contrastive_infonce(torch.zeros(3, 3), torch.zeros(3).long()),
    ):
        with pytest.raises(ValueError, match="at least two utterances, or set contrastive_loss_weight=0"):
            loss()


def test_instances_are_uniform():
    drawn = losses.draw_instances(50, 2000, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (50, 2000)
    share = torch.bincount(drawn.flatten(), minlength=50) / drawn.numel()
    assert (share - 1 / 50).abs().max() < 0.002
    assert not torch.equal(drawn[0], drawn[1])


@given(st.integers(1, 6), st.integers(1, 3), st.integers(2, 5), st.integers(0, 999))
def test_diversity(frames, groups, entries, seed):
    probabilities = numbers(frames, groups, entries, seed=seed).softmax(-1)
    authors, wav2vec2 = reference.diversity(probabilities.tolist())
    soft = perplexity(probabilities)
    assert ((soft >= 1 - 1e-9) & (soft <= entries + 1e-9)).all()
    assert losses.diversity_loss(soft, entries).item() == pytest.approx(authors, rel=1e-9, abs=1e-12)
    assert losses.diversity_entropy(probabilities.mean(0)).item() == pytest.approx(wav2vec2, rel=1e-9)


def test_diversity_at_its_ends():
    equal, single = torch.full((2, 8), 1 / 8), F.one_hot(torch.tensor([0, 3]), 8).float()
    assert losses.diversity_loss(perplexity(equal[None]), 8).item() == pytest.approx(0, abs=1e-6)
    assert losses.diversity_loss(perplexity(single[None]), 8).item() == pytest.approx(1 - 1 / 8)
    assert losses.diversity_entropy(equal).item() == pytest.approx(-math.log(8) / 8)
    assert losses.diversity_entropy(single).item() == 0


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 99))
def test_feature_penalty(lengths, seed):
    features = numbers(len(lengths), 3, 7, seed=seed)
    valid = torch.arange(7) < torch.tensor(lengths)[:, None]
    expected = reference.feature_penalty(features.tolist(), lengths)
    assert losses.feature_penalty(features, valid).item() == pytest.approx(expected, rel=1e-10)


@given(st.integers(1, 900), st.integers(1, 900), st.floats(0.1, 3), st.sampled_from([0.0, 0.5, 2.0]))
def test_total(masked, unmasked, weight, unmasked_weight):
    weights = {"content_masked": weight, "content_unmasked": unmasked_weight}
    weights |= {"contrastive": 0.7, "diversity": 0.1, "feature_penalty": 10.0}
    means = {
        "content_masked": 4.2,
        "content_unmasked": 3.1,
        "contrastive": 0.3,
        "diversity": 0.9,
        "feature_penalty": 0.02,
    }
    frames = {"content_masked": masked, "content_unmasked": unmasked}
    sums = {name: means[name] * count for name, count in frames.items()}
    extras = {name: value for name, value in means.items() if name not in frames}
    expected = reference.criterion(sums, frames, weights, extras)
    used = {name: count for name, count in frames.items() if weights[name]}
    terms = {name: torch.tensor(value, dtype=torch.float64) for name, value in means.items() if weights[name]}
    assert losses.total_loss(terms, weights, used).item() == pytest.approx(expected, rel=1e-12)


def test_gradients():
    states, embeddings = numbers(4, 3).requires_grad_(), numbers(5, 3, seed=1).requires_grad_()
    targets, utterances = torch.tensor([0, 4, -100, 2]), torch.tensor([0, 1, 1, 0])
    instances = losses.draw_instances(4, 3, generator=torch.Generator().manual_seed(0))
    check = torch.autograd.gradcheck
    assert check(lambda s, e: losses.content_loss(losses.content_logits(s, e), targets), (states, embeddings))
    pair = states, numbers(4, 3, seed=2).requires_grad_()
    similar = losses.contrastive_similarity
    assert check(lambda a, q: losses.contrastive_bce(similar(a, q), utterances, instances), pair)
    assert check(lambda a, q: losses.contrastive_infonce(similar(a, q), utterances), pair)
    logits = numbers(3, 2, 4).requires_grad_()
    assert check(lambda z: losses.diversity_loss(perplexity(z.softmax(-1)), 4), (logits,))
    assert check(lambda z: losses.diversity_entropy(z.softmax(-1).mean(0)), (logits,))
    valid = torch.tensor([[True, True, False], [True, False, False]])
    assert check(lambda f: losses.feature_penalty(f, valid), (numbers(2, 4, 3).requires_grad_(),))


def test_islands_of_full_precision():
    states, embeddings = numbers(6, 8).bfloat16(), numbers(5, 8, seed=1).bfloat16()
    exact = losses.content_logits(states.float(), embeddings.float())
    with torch.autocast("cpu", torch.bfloat16):
        inside = losses.content_logits(states, embeddings)
        product = states.float() @ embeddings.float().T
    assert inside.dtype == torch.float32
    assert torch.equal(inside, exact)
    assert product.dtype == torch.bfloat16  # what autocast does to those who let it
    assert losses.content_logits(states.double(), embeddings.double()).dtype == torch.float64

    @full_precision
    def dtypes(a, *, b):
        return a.dtype, b.dtype

    assert dtypes(states, b=torch.zeros(1, dtype=torch.float16)) == (torch.float32, torch.float32)
    assert dtypes(torch.zeros(1, dtype=torch.int64), b=states.double()) == (torch.int64, torch.float64)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that anything made."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def test_instances_are_never_gathered():
    frames, dim = 200, 64
    anchors, quantized = torch.randn(frames, dim), torch.randn(frames, dim)
    utterances = torch.arange(frames) % 4
    instances = losses.draw_instances(frames, 100)
    with Largest() as seen:
        losses.contrastive_bce(losses.contrastive_similarity(anchors, quantized), utterances, instances)
    assert seen.numel <= frames * frames
    with Largest() as gathered:
        F.cosine_similarity(anchors[:, None], quantized[instances], dim=-1)
    assert seen.numel * 4 <= gathered.numel
