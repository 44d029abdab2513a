"""The objective of the pretraining model: every term from what the model returns, and where its gradients go."""

import math

import pytest
import torch
from conftest import shuffled, small_config

import unisat as us
from unisat import losses
from unisat.masking import span_mask

OFF = {f"{name}_dropout": 0.0 for name in ("hidden", "attention", "activation", "final", "feat_proj")}
OFF |= dict(layerdrop=0.0, feat_quantizer_dropout=0.0)
TERMS = ["content_masked", "content_unmasked", "contrastive", "diversity", "feature_penalty"]


def make(**changes):
    config = small_config(**{**OFF, "num_negatives": 7, "mask_time_prob": 0.5, "mask_time_length": 3, **changes})
    return shuffled(us.UniSpeechSatForPreTraining(config))


@pytest.fixture
def given(ragged):
    """Three noises of 45, 9 and 1 frames, half of them masked, with clusters."""
    waveforms, mask, _ = ragged
    draw = torch.Generator().manual_seed(4)
    hide = torch.rand(3, 45, generator=draw) < 0.5
    hide[:, 0] = True
    return dict(
        input_values=waveforms,
        attention_mask=mask,
        targets=torch.randint(0, 12, (3, 45), generator=draw),
        mask_time_indices=hide,
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("form", ["bce", "infonce"])
@pytest.mark.parametrize("diversity", ["perplexity", "entropy"])
def test_every_term_from_what_is_returned(given, stable, form, diversity):
    model = make(
        do_stable_layer_norm=stable,
        contrastive_loss=form,
        diversity_loss=diversity,
        unmasked_loss_weight=0.5,
        contrastive_loss_weight=0.7,
    )
    with torch.no_grad():
        out = model(**given, generator=seeded(), output_hidden_states=True)
        logits = torch.nn.functional.cosine_similarity(
            out.projected_states[..., None, :], model.label_embeddings_concat, dim=-1
        )
    torch.testing.assert_close(out.logits, logits / 0.1)
    masked = given["mask_time_indices"] & out.valid
    visible = ~given["mask_time_indices"] & out.valid
    assert torch.equal(out.mask_time_indices, masked)
    assert list(out.terms) == TERMS == list(out.weights)
    cross_entropy = torch.nn.functional.cross_entropy
    assert out.terms["content_masked"] == cross_entropy(out.logits[masked], given["targets"][masked])
    assert out.terms["content_unmasked"] == cross_entropy(out.logits[visible], given["targets"][visible])
    right = (out.logits.argmax(-1) == given["targets"]).float()
    assert out.metrics["accuracy_masked"] == right[masked].mean()
    assert out.metrics["accuracy_unmasked"] == right[visible].mean()
    similarity = losses.contrastive_similarity(out.speaker_states[masked], out.projected_quantized_states[masked])
    utterances = masked.nonzero()[:, 0]
    assert torch.equal(out.utterances, utterances)
    if form == "bce":
        instances = losses.draw_instances(len(utterances), 7, generator=seeded())
        assert torch.equal(out.instances, instances)
        assert out.terms["contrastive"] == losses.contrastive_bce(similarity, utterances, instances)
    else:
        assert out.instances is None
        assert out.terms["contrastive"] == losses.contrastive_infonce(similarity, utterances)
    layer = out.hidden_states[2]
    layer = model.layer_norm_for_extract(layer) if stable else layer
    quantized = model.quantizer(layer, masked)
    torch.testing.assert_close(out.codevector_perplexity, quantized.code_perplexity)
    torch.testing.assert_close(out.prob_perplexity, quantized.prob_perplexity)
    if diversity == "perplexity":
        expected = (16 - quantized.prob_perplexity.sum()) / 16
    else:
        mean = quantized.probabilities[masked].mean(0)
        expected = (mean * mean.log()).sum() / 16
    torch.testing.assert_close(out.terms["diversity"], expected)
    trace = us.run(model, given["input_values"], "conv.out", attention_mask=given["attention_mask"])[1]
    features = trace["conv.out"]
    features = features if features.shape[1] == 10 else features.transpose(1, 2)
    torch.testing.assert_close(out.terms["feature_penalty"], features.transpose(1, 2)[out.valid].square().mean())
    # fairseq's criterion, with sums
    s, u = int(masked.sum()), int(visible.sum())
    assert out.sample_size == s + u
    total = s * out.terms["content_masked"] + 0.5 * u * out.terms["content_unmasked"]
    extras = 0.7 * out.terms["contrastive"] + 0.1 * out.terms["diversity"] + 10 * out.terms["feature_penalty"]
    torch.testing.assert_close(out.loss, (total + (s + u) * extras) / (s + u))


def test_the_penalty_grows_with_the_masked_frames(given):
    """In fairseq's sums it is 10·P·S; torchaudio forgot the S at first."""
    model = make(contrastive_loss_weight=0.0, diversity_loss_weight=0.0)
    out = model(**given)
    assert out.sample_size == int(out.mask_time_indices.sum())
    summed = out.terms["content_masked"] * out.sample_size + 10 * out.terms["feature_penalty"] * out.sample_size
    torch.testing.assert_close(out.loss * out.sample_size, summed)


def test_without_targets_nothing_is_lost(given):
    model = make()
    out = model(**given | {"targets": None})
    assert out.loss is None
    assert out.terms is None
    assert torch.equal(out.logits, model(**given).logits)
    assert "loss" not in out
    # the tuple is the reference's
    full = model(**given, output_hidden_states=True, output_attentions=True)
    names = ["loss", "logits", "projected_states", "projected_quantized_states", "codevector_perplexity"]
    for value, name in zip(full.to_tuple(), [*names, "hidden_states", "attentions"], strict=True):
        assert value is full[name]
    assert "content_masked" in repr(full)


def test_weights_of_zero(given):
    out = make(contrastive_loss_weight=0.0)(**given)
    assert "contrastive" not in out.terms
    assert "contrastive_accuracy" not in out.metrics
    assert out.instances is None
    model = make()
    out = model(**given, generator=seeded())  # the unmasked term is only watched
    assert out.weights["content_unmasked"] == 0
    assert not out.terms["content_unmasked"].requires_grad
    assert out.terms["content_masked"].requires_grad


def test_gradients_go_where_they_should(given):
    model = make(do_stable_layer_norm=True)
    out = model(**given, generator=seeded(), output_hidden_states=True)
    layer = out.hidden_states[2]
    (gradient,) = torch.autograd.grad(out.terms["contrastive"], layer, retain_graph=True)
    assert gradient[out.mask_time_indices].abs().min(-1).values.max() > 0
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(
        out.terms["contrastive"], list(named.values()), allow_unused=True, retain_graph=True
    )
    reached = {name for (name, _), gradient in zip(named.items(), gradients, strict=True) if gradient is not None}
    # in evaluation choices are hard and exact: the codes learn, what chooses them does not
    for name in ("speaker_proj.weight", "project_q.weight", "quantizer.codevectors", "layer_norm_for_extract.weight"):
        assert name in reached, name
    above = [
        name for name in named if "encoder.layers.2." in name or name.startswith(("project_hid", "label_embeddings"))
    ]
    assert above
    assert not reached & set(above)
    assert "unispeech_sat.encoder.layers.1.feed_forward.output_dense.weight" in reached
    # in training the gradient also goes straight through the choice
    model.train()
    out = model(**given, generator=seeded())
    (chooser,) = torch.autograd.grad(out.terms["contrastive"], model.quantizer.weight_proj.weight, retain_graph=True)
    assert chooser.abs().max() > 0
    (content,) = torch.autograd.grad(out.terms["content_masked"], model.speaker_proj.weight, allow_unused=True)
    assert content is None


def test_the_whole_loss_by_finite_differences():
    model = make(unmasked_loss_weight=0.3).double()
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.randn(2, 400, generator=generator).double()
    targets = torch.randint(0, 12, (2, 4), generator=generator)
    hide = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]]).bool()
    names = ["label_embeddings_concat", "speaker_proj.bias", "project_q.bias", "unispeech_sat.masked_spec_embed"]
    names += ["unispeech_sat.encoder.layers.1.attention.v_proj.bias"]
    weights = [model.get_parameter(name) for name in names]

    def loss(*changed):
        swapped = dict(zip(names, changed, strict=True))
        options = dict(targets=targets, mask_time_indices=hide, generator=seeded())
        return torch.func.functional_call(model, swapped, (waveforms,), options).loss

    assert torch.autograd.gradcheck(loss, weights)


def test_training_draws_from_the_generator_alone(given):
    drawn = {key: value for key, value in given.items() if key != "mask_time_indices"}
    model = make(mixing_prob=1.0).train()
    one, same, other = (model(**drawn, generator=seeded(seed)) for seed in (0, 0, 1))
    assert one.loss == same.loss
    assert torch.equal(one.mask_time_indices, same.mask_time_indices)
    assert one.mixing.mixed.all()
    assert not torch.equal(one.mask_time_indices, other.mask_time_indices)
    assert not torch.equal(one.mixing.start, other.mixing.start)
    # mixing changes what the model hears, as the function of that name does, and no target
    model.eval()
    mixed, record = us.mixing.mix_utterances(
        given["input_values"], torch.tensor([3000, 700, 160]), mixing_prob=1.0, generator=seeded()
    )
    assert torch.equal(record.start, one.mixing.start)
    calm = model(**given | {"input_values": mixed, "mask_time_indices": one.mask_time_indices}, generator=seeded())
    torch.testing.assert_close(calm.terms["content_masked"], one.terms["content_masked"])
    still, again = (model(**given, generator=seeded()) for _ in range(2))
    assert still.loss == again.loss
    assert still.mixing is None


def test_a_drawn_mask_counts_for_the_perplexity(given):
    model = make().train()
    out = model(given["input_values"], given["attention_mask"], generator=seeded(), output_hidden_states=True)
    assert 0 < out.mask_time_indices.sum() < out.valid.sum()
    quantized = model.eval().quantizer(out.hidden_states[2], out.mask_time_indices)
    torch.testing.assert_close(out.codevector_perplexity, quantized.code_perplexity)


def test_a_dropped_layer_hands_on_what_it_got(given):
    model = make(layerdrop=1.0).train()
    out = model(**given, generator=seeded(), output_hidden_states=True)
    assert torch.equal(out.hidden_states[2], out.hidden_states[0])
    torch.testing.assert_close(out.speaker_states, model.speaker_proj(out.hidden_states[0]))


def test_padding_adds_nothing(given):
    model = make(contrastive_loss_weight=0.0, diversity_loss_weight=0.0, unmasked_loss_weight=1.0)
    whole = model(**given)
    sums, counted, squares, cells = 0.0, 0, 0.0, 0
    for row, (samples, frames) in enumerate(zip([3000, 700, 160], [45, 9, 1], strict=True)):
        wave = given["input_values"][row : row + 1, :samples]
        place = (slice(row, row + 1), slice(frames))
        alone = model(wave, targets=given["targets"][place], mask_time_indices=given["mask_time_indices"][place])
        content = alone.loss - 10 * alone.terms["feature_penalty"]
        sums, counted = sums + content * alone.sample_size, counted + alone.sample_size
        squares, cells = squares + alone.terms["feature_penalty"] * frames, cells + frames
    assert whole.sample_size == counted
    torch.testing.assert_close(whole.terms["feature_penalty"], squares / cells)
    torch.testing.assert_close(whole.loss, sums / counted + 10 * squares / cells)


def test_the_gradient_of_the_convolutions_is_scaled(given):
    found = []
    for factor in (1.0, 0.1):
        model = make(feature_grad_mult=factor)
        model(**given, generator=seeded()).loss.backward()
        found.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    for name, gradient in found[0].items():
        scaled = 0.1 if "feature_extractor" in name else 1.0
        torch.testing.assert_close(found[1][name], scaled * gradient, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("frames", [44, 46])
def test_targets_may_be_a_frame_off(given, frames):
    model = make(contrastive_loss_weight=0.0)
    targets = torch.nn.functional.pad(given["targets"], (0, 1), value=3)[:, :frames]
    cut = given["targets"].clone()
    if frames < 45:
        cut[:, frames:] = -100
    assert model(**given | {"targets": targets}).loss == model(**given | {"targets": cut}).loss


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(3, 43).long(), "targets have 43 frames, the features 45: more than one apart"),
        (torch.zeros(3, 47).long(), "targets have 47 frames"),
        (torch.zeros(2, 45).long(), r"targets must be \(3, 45\) integers, got \(2, 45\)"),
        (torch.zeros(3, 45), "got .* of torch.float32"),
        (torch.full((3, 45), 12), r"targets\[0, 0\] is 12; with num_clusters=12 they run from 0 to 11"),
        (torch.full((3, 45), -1), r"targets\[0, 0\] is -1"),
    ],
)
def test_targets_that_do_not_fit(given, targets, message):
    with pytest.raises(ValueError, match=message):
        make()(**given | {"targets": targets})


def test_what_has_no_loss(given):
    model = make()
    with pytest.raises(ValueError, match="no frame is masked, so there is nothing to predict"):
        model(**given | {"mask_time_indices": None})
    one = {key: value[:1] for key, value in given.items()}
    with pytest.raises(ValueError, match="pass a batch of at least two utterances, or set contrastive_loss_weight=0"):
        model(**one)
    assert math.isfinite(make(contrastive_loss_weight=0.0)(**one).loss.item())


@pytest.mark.parametrize(("probability", "frames", "share"), [(0.8, 781, 0.566), (0.8, 199, 0.567), (0.65, 781, 0.49)])
def test_the_recipes_masks_hide_what_they_say(probability, frames, share):
    lengths = torch.full((2000,), frames)
    options = dict(mask_prob=probability, mask_length=10, min_spans=2)
    assert span_mask(lengths, frames, **options, generator=seeded()).float().mean() == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(contrastive_loss="nce"), "contrastive_loss='nce' must be one of 'bce', 'infonce'"),
        (dict(diversity_loss="none"), "diversity_loss='none' must be one of"),
        (dict(mixing_prob=1.2), "mixing_prob=1.2 must be a probability"),
        (dict(unmasked_loss_weight=-1.0), "unmasked_loss_weight=-1.0 must not be negative"),
        (dict(feature_grad_mult=0.0), "feature_grad_mult=0.0 must be positive"),
    ],
)
def test_configs_without_an_objective(change, message):
    with pytest.raises(ValueError, match=message):
        small_config(**change)
