"""The objective of the pretraining model: every term from what the model returns, and where its gradients go."""

import argparse
import math

import pytest
import reference
import torch
from conftest import shuffled, small_config
from test_head_checkpoints import FRONT, to_fairseq

import unisat as us
from unisat import losses
from unisat.masking import span_mask
from unisat.pretraining import check_targets

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
        contrastive_logits_temperature=0.3,
    )
    with torch.no_grad():
        out = model(**given, generator=seeded(), output_hidden_states=True)
        logits = torch.nn.functional.cosine_similarity(
            out.projected_states[..., None, :], model.label_embeddings_concat, dim=-1
        )
    torch.testing.assert_close(out.logits, logits / 0.3)
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
    anchors, codes = out.speaker_states[masked], out.projected_quantized_states[masked]
    similarity = losses.contrastive_similarity(anchors, codes, 0.3)
    utterances, instances = masked.nonzero()[:, 0], None
    assert torch.equal(out.utterances, utterances)
    if form == "bce":
        instances = losses.draw_instances(len(utterances), 7, generator=seeded())
        assert torch.equal(out.instances, instances)
        assert out.terms["contrastive"] == losses.contrastive_bce(similarity, utterances, instances)
        slow = reference.contrastive_bce
    else:
        assert out.instances is instances is None
        assert out.terms["contrastive"] == losses.contrastive_infonce(similarity, utterances)
        slow = reference.contrastive_infonce
    # and all of it in loops, from the states on
    lists = [value.double().tolist() for value in (anchors, codes)] + [utterances.tolist()]
    drawn = [] if instances is None else [instances.tolist()]
    assert out.terms["contrastive"].item() == pytest.approx(slow(*lists, *drawn, 0.3), rel=1e-6)
    report = reference.contrastive_report(*lists, *(drawn or [None]), 0.3)
    names = ["contrastive_accuracy", "contrastive_accuracy_chance", "contrastive_chance"]
    assert list(out.metrics) == ["accuracy_masked", "accuracy_unmasked", *names]
    assert [out.metrics[name].item() for name in names] == pytest.approx(report, rel=1e-6)
    embeddings = model.label_embeddings_concat.tolist()
    for name, chosen in (("content_masked", masked), ("content_unmasked", visible)):
        content = out.projected_states[chosen].double().tolist(), embeddings, given["targets"][chosen].tolist()
        assert out.terms[name].item() == pytest.approx(reference.content_loss(*content, 0.3), rel=1e-6)
    layer = out.hidden_states[2]
    layer = model.layer_norm_for_extract(layer) if stable else layer
    torch.testing.assert_close(out.speaker_states, model.speaker_proj(layer))
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
    plain = model(**given, generator=seeded(), return_dict=False)
    out = model(**given, generator=seeded())
    assert len(plain) == 5
    assert plain[0] == out.loss
    assert torch.equal(plain[4], out.codevector_perplexity)
    assert out.mixing is None


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
    other = make(masked_loss_weight=0.0, unmasked_loss_weight=2.0, contrastive_loss_weight=0.0)
    out = other(**given)
    assert not out.terms["content_masked"].requires_grad
    assert out.sample_size == int((out.valid & ~out.mask_time_indices).sum())
    rest = 0.1 * out.terms["diversity"] + 10 * out.terms["feature_penalty"]
    torch.testing.assert_close(out.loss, 2 * out.terms["content_unmasked"] + rest)
    # without any content the other terms are means over masked frames, and weigh as much in a sum over batches
    out = make(masked_loss_weight=0.0, diversity_loss_weight=0.0, feature_penalty_weight=0.0)(**given)
    assert out.loss == out.terms["contrastive"]
    assert out.sample_size == int(out.mask_time_indices.sum()) > 0


def test_frames_without_a_target_do_not_count(given):
    model = make(unmasked_loss_weight=0.5, contrastive_loss_weight=0.0)
    targets = given["targets"].clone()
    targets[:, ::3] = -100
    out = model(**given | {"targets": targets})
    masked, has = out.mask_time_indices, targets != -100
    visible = out.valid & ~masked
    cross_entropy = torch.nn.functional.cross_entropy
    torch.testing.assert_close(
        out.terms["content_masked"], cross_entropy(out.logits[masked & has], targets[masked & has])
    )
    right = (out.logits.argmax(-1) == targets).float()
    assert out.metrics["accuracy_masked"] == right[masked & has].mean()
    assert out.metrics["accuracy_unmasked"] == right[visible & has].mean()
    assert out.sample_size == int((out.valid & has).sum())
    # everything hidden: nothing unmasked to be right about
    out = model(**given | {"mask_time_indices": torch.ones(3, 45, dtype=torch.bool)})
    assert out.terms["content_unmasked"] == 0
    assert out.metrics["accuracy_unmasked"].isnan()
    assert out.sample_size == int(out.valid.sum())
    assert out.loss.isfinite()
    # no target where it counts
    nowhere = torch.where(given["mask_time_indices"], -100, given["targets"])
    with pytest.raises(ValueError, match="none of the frames of content_masked has a target"):
        make()(**given | {"targets": nowhere})


def test_small_integers_are_targets_too(given):
    model = make(contrastive_loss_weight=0.0)
    expected = model(**given | {"targets": given["targets"][:, :44]}).loss
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        assert model(**given | {"targets": given["targets"][:, :44].to(dtype)}).loss == expected
    many = make(contrastive_loss_weight=0.0, num_clusters=504)
    assert many(**given | {"targets": given["targets"].to(torch.int8)}).loss == many(**given).loss


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("form", ["bce", "infonce"])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_go_where_they_should(given, stable, form, training):
    model = make(do_stable_layer_norm=stable, contrastive_loss=form).train(training)
    out = model(**given, generator=seeded(), output_hidden_states=True)
    named = dict(model.named_parameters())

    def reached(term):
        weights = [weight for weight in named.values() if weight.requires_grad]
        names = [name for name, weight in named.items() if weight.requires_grad]
        found = torch.autograd.grad(term, weights, allow_unused=True, retain_graph=True)
        return {
            name for name, gradient in zip(names, found, strict=True) if gradient is not None and gradient.abs().max()
        }

    contrastive = reached(out.terms["contrastive"])
    # in evaluation choices are hard and exact: the codes learn, what chooses them does not
    chooser = {"quantizer.weight_proj.weight", "quantizer.weight_proj.bias"}
    heads = {name for name in named if not name.startswith("unispeech_sat.")}
    own = {"speaker_proj.weight", "speaker_proj.bias", "project_q.weight", "project_q.bias", "quantizer.codevectors"}
    own |= chooser if training else set()
    own |= {"layer_norm_for_extract.weight", "layer_norm_for_extract.bias"} if stable else set()
    assert contrastive & heads == own
    assert "unispeech_sat.encoder.layers.1.feed_forward.output_dense.weight" in contrastive
    assert "unispeech_sat.feature_extractor.conv_layers.0.conv.weight" in contrastive
    assert "unispeech_sat.masked_spec_embed" in contrastive
    above = {name for name in named if "encoder.layers.2." in name}
    above |= {name for name in named if name.startswith("unispeech_sat.encoder.layer_norm") and stable}
    assert len(above) == (18 if stable else 16)
    assert not contrastive & above
    content = reached(out.terms["content_masked"])
    assert above - {"unispeech_sat.encoder.layers.2.attention.k_proj.bias"} <= content
    assert content & heads == {"project_hid.weight", "project_hid.bias", "label_embeddings_concat"}
    diversity = reached(out.terms["diversity"])
    norm = {"layer_norm_for_extract.weight", "layer_norm_for_extract.bias"} if stable else set()
    assert diversity & heads == chooser | norm
    assert not diversity & above
    penalty = reached(out.terms["feature_penalty"])
    assert penalty
    assert all(name.startswith("unispeech_sat.feature_extractor.") for name in penalty)


def test_the_contrastive_gradient_reaches_the_layer_by_both_paths(given):
    """As anchors, through `speaker_proj`, and as codes, through the quantizer's straight-through choice."""

    def at_the_layer(training, anchors):
        model = make().train(training)
        if not anchors:
            model.speaker_proj.weight.data.zero_()
        out = model(**given, generator=seeded(), output_hidden_states=True)
        (gradient,) = torch.autograd.grad(out.terms["contrastive"], out.hidden_states[2])
        assert (gradient[~out.mask_time_indices] == 0).all()  # only masked frames are compared
        return gradient[out.mask_time_indices].abs().max(-1).values

    assert (at_the_layer(training=False, anchors=True) > 0).all()  # evaluation: hard codes, anchors alone
    assert (at_the_layer(training=True, anchors=False) > 0).all()  # codes alone
    assert (at_the_layer(training=False, anchors=False) == 0).all()


@pytest.mark.parametrize("stable", [False, True])
def test_every_weight_learns_and_checkpointing_changes_nothing(given, stable):
    model = make(do_stable_layer_norm=stable).train()

    def gradients():
        model.zero_grad()
        model(**given, generator=seeded()).loss.backward()
        return {name: weight.grad for name, weight in model.named_parameters()}

    plain = gradients()
    missing = [name for name, gradient in plain.items() if gradient is None or not gradient.abs().max() > 0]
    assert missing == ([] if stable else ["layer_norm_for_extract.weight", "layer_norm_for_extract.bias"])
    model.gradient_checkpointing_enable()
    for name, gradient in gradients().items():
        if gradient is not None:
            torch.testing.assert_close(gradient, plain[name], msg=name)


@pytest.mark.parametrize("diversity", ["perplexity", "entropy"])
@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_codebook_entries_that_nobody_chooses_stop_no_gradient(given, diversity, weight):
    """Logits as wide as those of a fresh Base make probabilities of exactly 0, whose logarithm has no gradient."""
    model = make(diversity_loss=diversity, diversity_loss_weight=weight).train()
    model.quantizer.weight_proj.weight.data.mul_(1000)
    out = model(**given, generator=seeded(), output_hidden_states=True)
    probabilities = model.quantizer(out.hidden_states[2], generator=seeded()).probabilities
    assert (probabilities[out.mask_time_indices].mean(0) == 0).any()
    out.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(("stable", "form", "diversity"), [(False, "bce", "perplexity"), (True, "infonce", "entropy")])
def test_the_whole_loss_by_finite_differences(stable, form, diversity):
    model = make(
        unmasked_loss_weight=0.3, do_stable_layer_norm=stable, contrastive_loss=form, diversity_loss=diversity
    ).double()
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.randn(2, 400, generator=generator).double()
    targets = torch.randint(0, 12, (2, 4), generator=generator)
    hide = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]]).bool()
    names = ["label_embeddings_concat", "speaker_proj.bias", "project_q.bias", "unispeech_sat.masked_spec_embed"]
    names += ["project_hid.bias", "quantizer.weight_proj.bias", "quantizer.codevectors"]
    names += ["unispeech_sat.encoder.layers.1.attention.v_proj.bias"]
    names += ["unispeech_sat.feature_extractor.conv_layers.0.layer_norm.bias"]
    names += ["layer_norm_for_extract.weight"] if stable else []
    weights = [model.get_parameter(name) for name in names]

    def loss(*changed):
        swapped = dict(zip(names, changed, strict=True))
        options = dict(targets=targets, mask_time_indices=hide, generator=seeded())
        return torch.func.functional_call(model, swapped, (waveforms,), options).loss

    assert torch.autograd.gradcheck(loss, weights)


def test_half_precision_computes_the_loss_in_float32(given):
    model = make(unmasked_loss_weight=0.5)
    exact = model(**given, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        out = model(**given, generator=seeded())
    assert out.projected_states.dtype == out.speaker_states.dtype == torch.bfloat16
    assert out.logits.dtype == out.loss.dtype == out.prob_perplexity.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in (out.terms | out.metrics).values())
    masked = out.mask_time_indices
    logits = losses.content_logits(out.projected_states.float(), model.label_embeddings_concat)
    assert out.terms["content_masked"] == losses.content_loss(logits[masked], given["targets"][masked])
    pair = [states[masked].float() for states in (out.speaker_states, out.projected_quantized_states)]
    similarity = losses.contrastive_similarity(*pair)
    assert out.terms["contrastive"] == losses.contrastive_bce(similarity, out.utterances, out.instances)
    for name, value in out.terms.items():
        torch.testing.assert_close(value, exact.terms[name], rtol=0.1, atol=0.05)
    double = make().double()(**given | {"input_values": given["input_values"].double()}, generator=seeded())
    assert all(value.dtype == torch.float64 for value in double.terms.values())
    assert double.loss.dtype == torch.float64


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
    raw = make(mixing_prob=1.0, mixing_normalize=False).train()
    mixed, _ = us.mixing.mix_utterances(
        given["input_values"],
        torch.tensor([3000, 700, 160]),
        mixing_prob=1.0,
        normalize=False,
        generator=seeded(),
    )
    louder = raw.eval()(**given | {"input_values": mixed})
    heard = raw.train()(**given, generator=seeded())
    torch.testing.assert_close(heard.terms["content_masked"], louder.terms["content_masked"])
    assert heard.terms["content_masked"] != one.terms["content_masked"]


def test_evaluation_draws_nothing_but_instances(given):
    before = torch.get_rng_state()
    model = make(mixing_prob=1.0)
    torch.set_rng_state(before)
    quiet = {key: value for key, value in given.items() if key != "targets"}
    model(**quiet)
    model(**quiet | {"mask_time_indices": None})
    model(**given, generator=seeded())  # instances come from the generator
    watched = seeded()
    start = watched.get_state()
    model(**quiet, generator=watched)
    make(contrastive_loss_weight=0.0)
    torch.set_rng_state(before)
    model.config.contrastive_loss = "infonce"  # compares with everybody
    model(**given, generator=watched)
    assert torch.equal(watched.get_state(), start)
    model.train()(**given, generator=seeded())  # nothing here has dropout
    assert torch.equal(torch.get_rng_state(), before)
    model.config.contrastive_loss = "bce"
    model.eval()(**given)
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_given_mask_comes_before_a_drawn_one(given):
    model = make().train()
    out = model(**given, generator=seeded())
    assert torch.equal(out.mask_time_indices, given["mask_time_indices"] & out.valid)
    drawn = model(**given | {"mask_time_indices": None}, generator=seeded())
    assert not (drawn.mask_time_indices & ~drawn.valid).any()
    options = dict(mask_prob=0.5, mask_length=3, min_spans=2, generator=seeded())
    assert torch.equal(drawn.mask_time_indices, span_mask(drawn.lengths, 45, **options))


def test_quantizer_dropout_is_for_the_quantizer_alone(given):
    out = make(feat_quantizer_dropout=1.0).train()(**given, generator=seeded())
    same = make().train()(**given, generator=seeded())
    assert torch.equal(out.speaker_states, same.speaker_states)
    assert torch.equal(out.logits, same.logits)
    assert torch.equal(out.codevector_perplexity, torch.ones(2))  # every frame has the bias's logits
    assert (same.codevector_perplexity > 1).any()


def test_gumbel_noise_comes_from_the_generator_at_the_model_s_temperature(given):
    model = make().train()
    one, same, other = (model(**given, generator=seeded(seed)).projected_quantized_states for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    hard = model.eval()(**given).projected_quantized_states
    assert not torch.equal(one, hard)


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
    assert torch.equal(out.projected_states, model.project_hid(out.hidden_states[0]))
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
        model = make(feature_grad_mult=factor, unmasked_loss_weight=0.5).double()
        model(**given, generator=seeded()).loss.backward()
        found.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    for name, gradient in found[0].items():
        scaled = 0.1 if "feature_extractor" in name else 1.0
        torch.testing.assert_close(found[1][name], scaled * gradient, rtol=1e-9, atol=1e-12, msg=name)


PARTS = {
    "project_hid": {"content_masked", "content_unmasked"},
    "label_embeddings_concat": {"content_masked", "content_unmasked"},
    "speaker_proj": {"contrastive"},
    "project_q": {"contrastive"},
    "quantizer.codevectors": {"contrastive"},
    "quantizer.weight_proj": {"contrastive", "diversity"},
    "layer_norm_for_extract": {"contrastive", "diversity"},
    "unispeech_sat.encoder.layers.2": {"content_masked", "content_unmasked"},
    "unispeech_sat.encoder.layers.1": {"content_masked", "content_unmasked", "contrastive", "diversity"},
    "unispeech_sat.feature_projection": {"content_masked", "content_unmasked", "contrastive", "diversity"},
    "unispeech_sat.feature_extractor": set(TERMS),
}


def test_every_part_of_an_authors_file_enters_the_terms_that_are_its_own(tmp_path):
    config = small_config(**FRONT, do_stable_layer_norm=True, feat_extract_norm="layer")
    model = shuffled(us.UniSpeechSatForPreTraining(config))
    names = to_fairseq(model.state_dict(), True)
    settings = {
        "encoder_attention_heads": 2,
        "layer_norm_first": True,
        "conv_feature_layers": "[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2",
        "latent_groups": 2,
        "utterance_contrastive_layer": 2,
    }
    draw = torch.Generator().manual_seed(0)
    hide = torch.rand(2, 12, generator=draw) < 0.5
    data = dict(
        input_values=torch.randn(2, 4000, generator=draw),
        targets=torch.randint(0, 12, (2, 12), generator=draw),
        mask_time_indices=hide,
    )

    def terms(state):
        content = {names[name]: value for name, value in state.items()}
        torch.save({"model": content, "args": argparse.Namespace(**settings)}, tmp_path / "sat.pt")
        loaded = us.UniSpeechSatForPreTraining.from_fairseq(tmp_path / "sat.pt")
        with torch.no_grad():
            return loaded(**data, generator=seeded()).terms

    plain = terms(model.state_dict())
    with torch.no_grad():
        expected = model(**data, generator=seeded()).terms
    assert plain.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(plain[name], value, msg=name)
    for part, own in PARTS.items():
        changed = {
            name: value + 0.3 * torch.randn(value.shape, generator=draw) if name.startswith(part) else value
            for name, value in model.state_dict().items()
        }
        found = {name for name, value in terms(changed).items() if value != plain[name]}
        assert found == own, part


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
        (torch.zeros(3, 45).bool(), "got .* of torch.bool"),
        (torch.zeros(45).long(), r"targets must be \(3, 45\) integers, got \(45,\)"),
        (torch.full((3, 45), 12), r"targets\[0, 0\] is 12; with num_clusters=12 they run from 0 to 11"),
        (torch.full((3, 45), -1), r"targets\[0, 0\] is -1"),
        (torch.arange(135).reshape(3, 45).remainder(45).clamp(max=12), r"targets\[0, 12\] is 12"),
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
    with pytest.raises(ValueError, match="set contrastive_loss_weight=0"):
        make(contrastive_loss="infonce")(**one)
    # three utterances, but masked frames in one alone
    hide = given["mask_time_indices"] & torch.tensor([[True], [False], [False]])
    with pytest.raises(ValueError, match="all masked frames come from one"):
        model(**given | {"mask_time_indices": hide})
    padding = torch.arange(45).expand(3, 45) >= torch.tensor([[45], [9], [1]])
    with pytest.raises(ValueError, match="no frame is masked"):
        model(**given | {"mask_time_indices": padding})
    with pytest.raises(ValueError, match="num_instances=0 leaves nothing to compare with"):
        make(num_negatives=0)(**given)
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


def test_targets_go_where_the_frames_are():
    valid = torch.ones(2, 5, dtype=torch.bool, device="meta")
    assert check_targets(torch.tensor([[0, 1, 2, -100], [0, 0, 0, 0]]), valid, 3).device.type == "meta"
