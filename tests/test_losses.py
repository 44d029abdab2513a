"""Each term of the objective against loops, by its exact values, its gradient and its chance level."""

import math

import pytest
import reference
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from unisat import losses, precision
from unisat.precision import full_precision, xlogx
from unisat.quantizer import perplexity

EXACT = dict(rel=1e-12, abs=1e-12)  # float64 against the loops
SINGLE = dict(rel=1e-6, abs=1e-6)  # float32 against the loops in float64 on the same numbers


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
    for tensors, close in (((states, embeddings), EXACT), ((states.float(), embeddings.float()), SINGLE)):
        lists = [tensor.double().tolist() for tensor in tensors]
        logits = losses.content_logits(*tensors, temperature)
        assert logits.dtype == tensors[0].dtype
        for row, expected in zip(logits.tolist(), reference.content_logits(*lists, temperature), strict=True):
            assert row == pytest.approx(expected, rel=close["rel"], abs=close["abs"] / temperature)
        expected = reference.content_loss(*lists, targets.tolist(), temperature)
        near = pytest.approx(expected, rel=close["rel"], abs=close["abs"] / temperature)
        assert losses.content_loss(logits, targets).item() == near
    cosines = F.cosine_similarity(states[:, None], embeddings[None], dim=-1)
    loss = losses.content_loss(losses.content_logits(states, embeddings, temperature), targets)
    torch.testing.assert_close(loss, F.cross_entropy(cosines / temperature, targets))


@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 6), st.integers(0, 999))
def test_content_floors(batch, frames, clusters, seed):
    draw = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, clusters, (batch, frames), generator=draw)
    mask, labelled, valid = (torch.rand(batch, frames, generator=draw) < share for share in (0.5, 0.8, 0.8))
    targets = targets.masked_fill(~labelled, -100)
    mask[0, 0] = valid[0, 0] = True
    targets[0, 0] = 0
    found = losses.content_floors(targets, mask, valid)
    expected = reference.content_floors(targets.tolist(), mask.tolist(), valid.tolist())
    for one, value in zip((found.commonest, found.copied, found.entropy), expected, strict=True):
        assert one.item() == pytest.approx(value, abs=1e-6)
    # the floors are reached: by a constant answer, and by constant probabilities
    asked = mask & valid & (targets != -100)
    shares = found.counts / found.counts.sum()
    constant = shares.log().clamp(min=-1e4).expand(int(asked.sum()), -1)
    torch.testing.assert_close(losses.content_loss(constant, targets[asked]), found.entropy, atol=1e-5, rtol=1e-5)
    assert (targets[asked] == found.counts.argmax()).float().mean().item() == pytest.approx(found.commonest.item())


def test_content_floors_of_planted_clusters():
    targets = torch.tensor([[1, 1, 1, 2, 2, 2, -100], [0, 0, 0, 0, 0, 0, 0]])
    mask = torch.tensor([[0, 1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]).bool()
    valid = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0, 0]]).bool()
    found = losses.content_floors(targets, mask, valid, num_clusters=9)
    assert found.counts.tolist() == [2, 1, 2, 0, 0, 0, 0, 0, 0]
    assert found.copies == 3  # nobody is left to copy from in the second utterance
    assert found.commonest == 2 / 5
    assert found.entropy.item() == pytest.approx(-0.8 * math.log(0.4) - 0.2 * math.log(0.2))
    # between two visible frames the earlier one is copied
    tie = losses.content_floors(torch.tensor([[3, 3, 4]]), torch.tensor([[0, 1, 0]]).bool(), torch.ones(1, 3).bool())
    assert tie.copied == 1
    nothing = losses.content_floors(targets, torch.zeros_like(mask), valid)
    assert all(value.isnan() for value in (nothing.commonest, nothing.copied, nothing.entropy))


@pytest.mark.wrong_types
def test_content_floors_need_one_shape():
    targets, mask = torch.zeros(2, 7, dtype=torch.long), torch.ones(2, 7).bool()
    with pytest.raises(ValueError, match=r"of one shape \(batch, frames\), got \(2, 7\), \(2, 6\) and \(2, 7\)"):
        losses.content_floors(targets, mask[:, :-1], mask)


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


@given(contrastive_cases(), st.sampled_from([0.1, 0.5, 2.0]))
def test_contrastive_losses(case, temperature):
    anchors, quantized, utterances, instances = case
    for tensors, close in (((anchors, quantized), EXACT), ((anchors.float(), quantized.float()), SINGLE)):
        lists = [tensor.double().tolist() for tensor in tensors] + [utterances.tolist()]
        similarity = losses.contrastive_similarity(*tensors, temperature)
        expected = [[reference.cosine(a, q) / temperature for q in lists[1]] for a in lists[0]]
        for row, slow in zip(similarity.tolist(), expected, strict=True):
            assert row == pytest.approx(slow, rel=close["rel"], abs=close["abs"] / temperature)
        bce = losses.contrastive_bce(similarity, utterances, instances)
        assert bce.item() == pytest.approx(reference.contrastive_bce(*lists, instances.tolist(), temperature), **close)
        infonce = losses.contrastive_infonce(similarity, utterances)
        assert infonce.item() == pytest.approx(reference.contrastive_infonce(*lists, temperature), **close)
        for drawn in (instances, None):
            report = losses.contrastive_report(similarity, utterances, drawn)
            slow = reference.contrastive_report(*lists, None if drawn is None else drawn.tolist(), temperature)
            assert [value.item() for value in report.values()] == pytest.approx(slow, **close)
            assert list(report) == ["contrastive_accuracy", "contrastive_accuracy_chance", "contrastive_chance"]


@given(contrastive_cases())
def test_the_order_of_utterances_and_frames_changes_nothing(case):
    anchors, quantized, utterances, instances = case
    similarity = losses.contrastive_similarity(anchors, quantized, 0.5)
    bce = losses.contrastive_bce(similarity, utterances, instances)
    infonce = losses.contrastive_infonce(similarity, utterances)
    renamed = (utterances + 2) % 4
    torch.testing.assert_close(losses.contrastive_bce(similarity, renamed, instances), bce)
    torch.testing.assert_close(losses.contrastive_infonce(similarity, renamed), infonce)
    # whole utterances in another order, and frames at random; instances go where their frames went
    for order in (utterances.argsort(descending=True, stable=True), torch.randperm(len(utterances))):
        place = order.argsort()
        shuffled = losses.contrastive_similarity(anchors[order], quantized[order], 0.5)
        torch.testing.assert_close(losses.contrastive_bce(shuffled, utterances[order], place[instances[order]]), bce)
        torch.testing.assert_close(losses.contrastive_infonce(shuffled, utterances[order]), infonce)


def test_anchors_are_rows_and_codes_are_columns():
    anchors, quantized = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    expected = torch.tensor([[math.sqrt(0.5), 1.0], [math.sqrt(0.5), 0.0]])
    torch.testing.assert_close(losses.contrastive_similarity(anchors, quantized, 0.5), expected / 0.5)
    targets = losses.contrastive_targets(torch.tensor([4, 7]), torch.tensor([[1, 0, 1], [1, 0, 0]]))
    assert targets.tolist() == [[True, False, True, False], [True, True, False, False]]


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
    two = losses.draw_instances(2, 3, generator=torch.Generator().manual_seed(0))
    losses.contrastive_bce(torch.zeros(2, 2), torch.tensor([5, 0]), two)


def test_no_instances_are_nothing_to_compare_with():
    with pytest.raises(ValueError, match="num_instances=0 leaves nothing to compare with; draw at least one"):
        losses.draw_instances(5, 0)
    assert losses.draw_instances(5, 1).shape == (5, 1)
    assert losses.draw_instances(5).shape == (5, 100)


def test_instances_are_uniform():
    drawn = losses.draw_instances(50, 2000, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (50, 2000)
    share = torch.bincount(drawn.flatten(), minlength=50) / drawn.numel()
    assert (share - 1 / 50).abs().max() < 0.002
    assert not torch.equal(drawn[0], drawn[1])


@given(st.integers(1, 6), st.integers(1, 3), st.integers(2, 5), st.integers(0, 999), st.sampled_from([0.1, 1, 9, 400]))
def test_diversity(frames, groups, entries, seed, scale):
    logits = numbers(frames, groups, entries, seed=seed) * scale
    for probabilities, close in ((logits.softmax(-1), EXACT), (logits.float().softmax(-1), SINGLE)):
        authors, wav2vec2 = reference.diversity(probabilities.double().tolist())
        soft = perplexity(probabilities)
        assert soft.shape == (groups,)
        assert ((soft >= 1 - 1e-6) & (soft <= entries * (1 + 1e-6))).all()
        assert groups * (1 - 1e-6) <= soft.sum().item() <= groups * entries * (1 + 1e-6)
        assert losses.diversity_loss(soft, entries).item() == pytest.approx(authors, **close)
        assert losses.diversity_entropy(probabilities.mean(0)).item() == pytest.approx(wav2vec2, **close)


def slow_xlogx(p):
    return p * math.log(p) if p else 0.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_x_log_x(values):
    probability = torch.tensor(values, dtype=torch.float64)
    assert xlogx(probability).tolist() == pytest.approx([slow_xlogx(p) for p in values], **EXACT)
    entropy = [-slow_xlogx(p) - slow_xlogx(1 - p) for p in values]
    assert losses.binary_entropy(probability).tolist() == pytest.approx(entropy, **EXACT)
    assert xlogx(torch.tensor([0.0, 1.0])).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_entry_of_probability_zero_stops_no_gradient(dtype):
    """`torch.xlogy` has the gradient NaN there: a fresh Base got it in its first step."""
    distant = -2000.0
    rest = numbers(3, 1, 3).to(dtype)
    for loss in (
        lambda p: losses.diversity_loss(perplexity(p), 4),
        lambda p: losses.diversity_entropy(p.mean(0)) * 4,
        lambda p: losses.binary_entropy(p).sum(),
    ):
        logits = F.pad(rest, (0, 1), value=distant).requires_grad_()
        probabilities = logits.softmax(-1)
        assert (probabilities[..., 3] == 0).all()
        loss(probabilities).backward()
        assert (logits.grad[..., 3] == 0).all()
        # and the other entries' gradient is the limit: that of an entry far down that is not quite 0
        near = F.pad(rest, (0, 1), value=-60.0).requires_grad_()
        loss(near.softmax(-1)).backward()
        torch.testing.assert_close(logits.grad, near.grad)
        assert logits.grad.abs().max() > 1e-3


def test_diversity_at_its_ends():
    equal, single = torch.full((2, 8), 1 / 8), F.one_hot(torch.tensor([0, 3]), 8).float()
    assert losses.diversity_loss(perplexity(equal[None]), 8).item() == pytest.approx(0, abs=1e-6)
    assert losses.diversity_loss(perplexity(single[None]), 8).item() == pytest.approx(1 - 1 / 8)
    assert losses.diversity_entropy(equal).item() == pytest.approx(-math.log(8) / 8)
    assert losses.diversity_entropy(single).item() == 0


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 99))
def test_feature_penalty(lengths, seed):
    valid = torch.arange(7) < torch.tensor(lengths)[:, None]
    features = numbers(len(lengths), 3, 7, seed=seed)
    for tensor, close in ((features, EXACT), (features.float(), SINGLE)):
        expected = reference.feature_penalty(tensor.double().tolist(), lengths)
        garbage = tensor.masked_fill(~valid[:, None], 1e9)
        assert losses.feature_penalty(tensor, valid).item() == pytest.approx(expected, **close)
        assert losses.feature_penalty(garbage, valid).item() == pytest.approx(expected, **close)


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


def test_the_total_is_a_mean_over_the_frames_that_count():
    """Twice the masked frames leave the total where it is, and fairseq's sum doubles (torchaudio forgot the S)."""
    terms = {"content_masked": torch.tensor(4.0), "feature_penalty": torch.tensor(0.5)}
    weights = {"content_masked": 1.0, "feature_penalty": 10.0}
    for count in (7, 14):
        total = losses.total_loss(terms, weights, {"content_masked": count})
        assert total.item() == 9
        summed = reference.criterion({"content_masked": 4.0 * count}, {"content_masked": count}, weights, {})
        assert total.item() * count == summed * count + 10 * 0.5 * count
    # no content at all
    assert losses.total_loss({"feature_penalty": torch.tensor(0.5)}, weights, {}).item() == 5
    # one of two contents has no frame
    both = {"content_masked": torch.tensor(0.0), "content_unmasked": torch.tensor(3.0)}
    weights = {"content_masked": 1.0, "content_unmasked": 2.0}
    assert losses.total_loss(both, weights, {"content_masked": 0, "content_unmasked": 5}).item() == 6
    with pytest.raises(ValueError, match="none of the frames of content_masked, content_unmasked has a target"):
        losses.total_loss(both, weights, {"content_masked": 0, "content_unmasked": 0})
    with pytest.raises(KeyError, match="content_unmasked"):
        losses.total_loss(both, {"content_masked": 1.0}, {"content_masked": 5})


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
    assert check(lambda z: xlogx(z.softmax(-1)).sum(), (logits,))
    assert check(lambda z: losses.binary_entropy(z.sigmoid()).sum(), (logits,))
    pieces = [numbers(1, seed=seed).requires_grad_() for seed in range(3)]
    weights, counts = {"m": 1.5, "u": 0.5, "p": 10.0}, {"m": 3, "u": 8}
    assert check(lambda *t: losses.total_loss(dict(zip("mup", t, strict=True)), weights, counts), pieces)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    assert check(lambda f: losses.feature_penalty(f, valid), (numbers(2, 4, 3).requires_grad_(),))


UTTERANCES, DRAWN = torch.tensor([0, 0, 1, 2, 1, 2]), torch.tensor([[5, 1], [2, 2], [0, 4], [3, 1], [4, 4], [0, 3]])
VALID = torch.tensor([[True, True, False], [True, False, False]])
ISLANDS = {
    "content_logits": lambda: (numbers(6, 8), numbers(5, 8, seed=1), 0.1),
    "content_loss": lambda: (3 * numbers(6, 5), torch.tensor([0, 4, 2, -100, 1, 1])),
    "contrastive_similarity": lambda: (numbers(6, 8), numbers(6, 8, seed=1), 0.1),
    "contrastive_bce": lambda: (3 * numbers(6, 6), UTTERANCES, DRAWN),
    "contrastive_infonce": lambda: (3 * numbers(6, 6), UTTERANCES),
    "contrastive_report": lambda: (3 * numbers(6, 6), UTTERANCES, DRAWN),
    "diversity_loss": lambda: (1 + numbers(2).abs(), 8),
    "diversity_entropy": lambda: (numbers(2, 8).softmax(-1),),
    "feature_penalty": lambda: (numbers(2, 4, 3), VALID),
}


def floats(value):
    return {"": value} if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ISLANDS)
def test_islands_of_full_precision(name, half):
    """In a model that computes in half: the value of the same halves in float32; float64 stays float64."""
    function = getattr(losses, name)

    def cast(dtype, arguments):
        return [a.to(dtype) if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]

    halves = cast(half, ISLANDS[name]())
    exact = floats(function(*cast(torch.float32, halves)))
    with torch.autocast("cpu", half):
        inside = floats(function(*halves))
        wide = floats(function(*cast(torch.float32, halves)))
    alone = floats(function(*halves))  # a model whose own weights are halves
    double = floats(function(*ISLANDS[name]()))
    for key, value in exact.items():
        for other in (inside, wide, alone):
            assert other[key].dtype == torch.float32
            assert torch.equal(other[key], value)
        assert double[key].dtype == torch.float64
        if key != "contrastive_accuracy":
            torch.testing.assert_close(double[key].float(), value, rtol=0.1, atol=0.1)


def test_perplexity_is_no_lower_for_halves():
    probabilities = numbers(2000, 2, 320).softmax(-1).bfloat16()
    assert torch.equal(perplexity(probabilities), perplexity(probabilities.float()))


def test_a_processor_without_halves_is_named(monkeypatch):
    assert 0 < precision._product_seconds(torch.bfloat16) < 10
    monkeypatch.setattr(precision, "_product_seconds", {torch.bfloat16: 0.0015, torch.float32: 0.001}.get)
    precision.check_bfloat16(torch.device("cpu"))
    monkeypatch.setattr(precision, "_product_seconds", {torch.bfloat16: 0.0025, torch.float32: 0.001}.get)
    precision.check_bfloat16(torch.device("cuda"))
    with pytest.warns(UserWarning, match="takes 2 times as long"):
        precision.check_bfloat16(torch.device("cpu"))


def test_what_an_island_widens():
    states, embeddings = numbers(6, 8).bfloat16(), numbers(5, 8, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert (states.float() @ embeddings.float().T).dtype == torch.bfloat16  # what autocast does to those who let it

    @full_precision
    def dtypes(a, *, b):
        return a.dtype, b.dtype, (torch.ones(2, 2) @ torch.ones(2, 2)).dtype

    with torch.autocast("cpu", torch.bfloat16):
        half = dtypes(states, b=torch.zeros(1, dtype=torch.float16))
    assert half == (torch.float32, torch.float32, torch.float32)
    assert dtypes(torch.zeros(1, dtype=torch.int64), b=states.double())[:2] == (torch.int64, torch.float64)


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


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.content_loss(torch.zeros(3, 4), torch.tensor([0, -101, 1])), "hold -101; with 4 clusters"),
        (lambda: losses.content_loss(torch.zeros(3, 4), torch.tensor([0, 4, 1])), "hold 4; .* run from 0 to 3"),
        (lambda: losses.content_loss(torch.zeros(3, 4), torch.tensor([0, 1])), r"must be \(3,\) integers, got \(2,\)"),
        (lambda: losses.content_loss([[0.0]], [0]), "content_loss takes tensors, got none"),
        (
            lambda: losses.feature_penalty(torch.zeros(2, 5, 7), torch.ones(2, 6).bool()),
            r"valid must be \(2, 7\) \(batch, frames\) of bool, got \(2, 6\)",
        ),
        (
            lambda: perplexity(torch.ones(2, 7, 1, 3) / 3, torch.ones(2, 6).bool()),
            r"mask must be \(2, 7\) of bool.*got \(2, 6\)",
        ),
        (
            lambda: losses.content_logits(torch.zeros(3, 4), torch.zeros(2, 4), {0.1, 0.2}),
            "temperature={.*} must be one",
        ),
        (lambda: losses.contrastive_similarity(*torch.zeros(2, 3, 4), 0.0), "temperature=0.0 must be positive"),
        (lambda: losses.draw_instances(5, [3, 4]), r"num_instances=\[3, 4\] must be one whole number, got list"),
        (
            lambda: losses.contrastive_infonce(torch.zeros(3, 3), torch.tensor([0, 1])),
            r"similarity must be \(frames, frames\) and utterances \(frames,\), got \(3, 3\) and \(2,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
