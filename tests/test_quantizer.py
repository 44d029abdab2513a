import math

import pytest
import torch
from conftest import small_config
from reference import perplexity as slow_perplexity

from unisat import GumbelVectorQuantizer
from unisat.quantizer import gumbel_choice, one_hot, perplexity


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    return GumbelVectorQuantizer(small_config()).eval()


@pytest.fixture
def hidden():
    return torch.randn(2, 30, 16, generator=torch.Generator().manual_seed(1))


def test_reference_values(fixtures):
    from safetensors.torch import load_file

    from unisat import UniSpeechSatConfig

    for variant in ("post__pretraining", "stable__pretraining"):
        state = load_file(fixtures / variant / "model.safetensors")
        data = load_file(fixtures / variant / "io.safetensors")
        quantizer = GumbelVectorQuantizer(UniSpeechSatConfig.from_pretrained(fixtures / variant)).eval()
        weights = {k.removeprefix("quantizer."): v for k, v in state.items() if k.startswith("quantizer.")}
        quantizer.load_state_dict(weights)
        quantized = quantizer(torch.tanh(data["mask.projected_states"]))
        assert [name for name in data if name.startswith("quantizer.")] != []
        torch.testing.assert_close(quantized.codevectors, data["quantizer.codevectors"])
        # the reference adds the groups up, and 1e-7 inside the logarithm
        torch.testing.assert_close(
            quantized.code_perplexity.sum(), data["quantizer.perplexity"].squeeze(), rtol=1e-5, atol=1e-5
        )


def test_codevectors_are_the_chosen_entries(quantizer, hidden):
    quantized = quantizer(hidden)
    logits = quantizer.weight_proj(hidden)
    for b in range(2):
        for t in range(30):
            for g in range(2):
                scores = logits[b, t, g * 8 : (g + 1) * 8].tolist()
                chosen = scores.index(max(scores))
                assert quantized.codevector_indices[b, t, g] == chosen
                entry = quantizer.codevectors[0, g * 8 + chosen]
                assert torch.equal(quantized.codevectors[b, t, g * 4 : (g + 1) * 4], entry)


def test_perplexities_of_the_frames_that_count(quantizer, hidden):
    mask = torch.zeros(2, 30, dtype=torch.bool)
    mask[0, :7] = mask[1, 20:] = True
    quantized = quantizer(hidden, mask)
    for g in range(2):
        choices = quantized.codevector_indices[..., g][mask].tolist()
        assert quantized.code_perplexity[g].item() == pytest.approx(slow_perplexity(choices, 8), rel=1e-5)
        mean = quantized.probabilities[..., g, :][mask].mean(0)
        entropy = -sum(p * math.log(p) for p in mean.tolist())
        assert quantized.prob_perplexity[g].item() == pytest.approx(math.exp(entropy), rel=1e-5)
    unmasked = quantizer(hidden)
    assert not torch.equal(unmasked.code_perplexity, quantized.code_perplexity)


def test_perplexity_by_hand():
    one = torch.zeros(3, 1, 4)
    one[:, 0, 2] = 1
    assert perplexity(one).item() == pytest.approx(1.0)
    assert perplexity(torch.full((3, 1, 4), 0.25)).item() == pytest.approx(4.0)
    with pytest.raises(ValueError, match="over no frames"):
        perplexity(one, torch.zeros(3, dtype=torch.bool))


def test_evaluation_draws_nothing(quantizer, hidden):
    state = torch.get_rng_state()
    first, second = quantizer(hidden), quantizer(hidden)
    assert torch.equal(first.codevectors, second.codevectors)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_draws_from_the_generator(quantizer, hidden):
    quantizer.train()
    draws = [quantizer(hidden, generator=torch.Generator().manual_seed(s)).codevector_indices for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_choices_have_the_softmax_distribution_at_every_temperature(temperature):
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    choices = gumbel_choice(logits.expand(20000, 4), temperature, generator)
    assert torch.equal(choices.sum(-1).round(), torch.ones(20000))
    # standard error of a share of 20,000 draws is below 0.0036
    assert (choices.mean(0) - logits.softmax(-1)).abs().max() < 4 * 0.0036


def test_gradients_are_those_of_the_soft_draw():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    direction = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    (gumbel_choice(logits, 0.7, torch.Generator().manual_seed(2)) * direction).sum().backward()
    noise = -torch.empty(6, 5).exponential_(generator=torch.Generator().manual_seed(2)).log()
    soft = logits.detach().clone().requires_grad_()
    (((soft + noise) / 0.7).softmax(-1) * direction).sum().backward()
    torch.testing.assert_close(logits.grad, soft.grad)
    assert logits.grad.abs().sum() > 0


def test_gradients_reach_codebook_and_projection(quantizer, hidden):
    quantizer.train()
    quantizer(hidden, generator=torch.Generator().manual_seed(0)).codevectors.square().sum().backward()
    for name, weight in quantizer.named_parameters():
        assert weight.grad.abs().sum() > 0, name


def test_ties_and_bad_temperature():
    assert one_hot(torch.tensor([1.0, 3.0, 3.0])).tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="temperature=0.0 must be positive"):
        gumbel_choice(torch.zeros(2, 3), 0.0)


@pytest.mark.wrong_types
def test_hidden_states_of_another_shape_are_named(quantizer, hidden):
    for other in (hidden[0], hidden[..., :5], hidden[None]):
        with pytest.raises(ValueError, match=r"must be \(batch, frames, 16\), got \("):
            quantizer(other)
    with pytest.raises(TypeError, match="hidden_states must be a tensor, got list"):
        quantizer(hidden.tolist())
