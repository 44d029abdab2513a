"""The heads: what they compute against loops and by hand, on padded batches, in training, and on bad labels."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import VARIANTS, relative, shuffled, small_config
from reference import ctc_loss_by_paths, pit_by_loops, tdnn_by_loops

import unisat as us
from unisat.heads import frame_loss, impossible_targets, pit_loss
from unisat.xvector import AMSoftmaxLoss, TDNNLayer, pool_statistics

KINDS = {
    "ctc": us.UniSpeechSatForCTC,
    "sequence": us.UniSpeechSatForSequenceClassification,
    "frames": us.UniSpeechSatForAudioFrameClassification,
    "xvector": us.UniSpeechSatForXVector,
    "pretraining": us.UniSpeechSatForPreTraining,
}
TDNN = dict(tdnn_dim=[12, 12, 10], tdnn_kernel=[3, 3, 1], tdnn_dilation=[1, 2, 1], xvector_output_dim=9)


def head_config(**changes):
    return small_config(vocab_size=7, num_labels=3, classifier_proj_size=8, **TDNN, **changes)


@pytest.fixture(params=KINDS)
def head(request):
    return shuffled(KINDS[request.param](head_config(use_weighted_layer_sum=True)))


def labels_for(head, frames=45):
    generator = torch.Generator().manual_seed(5)
    match head:
        case us.UniSpeechSatForCTC():
            return {"labels": torch.tensor([[1, 2, 3, 3], [4, 5, -100, -100], [6, -100, -100, -100]])}
        case us.UniSpeechSatForAudioFrameClassification():
            return {"labels": (torch.rand(3, frames, 3, generator=generator) > 0.5).float()}
        case us.UniSpeechSatForPreTraining():
            return {}
        case _:
            return {"labels": torch.tensor([0, 2, 1])}


@pytest.fixture
def clips():
    """A padded batch long enough for an x-vector, lengths far apart, garbage in the padding."""
    lengths = [3000, 1400, 700]
    waveforms = torch.randn(3, 3000, generator=torch.Generator().manual_seed(1))
    return waveforms, (torch.arange(3000) < torch.tensor(lengths)[:, None]).long(), lengths


PER_FRAME = {"logits", "projected_states", "projected_quantized_states", "speaker_states"}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_utterance_in_a_padded_batch_gives_what_it_gives_alone(kind, weighted, variant, clips):
    model = shuffled(KINDS[kind](head_config(use_weighted_layer_sum=weighted, **VARIANTS[variant])))
    waveforms, mask, lengths = clips
    batch = model(waveforms, mask)
    compared = 0
    for i, length in enumerate(lengths):
        alone = model(waveforms[i : i + 1, :length])
        for name in ("logits", "embeddings", "projected_states", "projected_quantized_states", "speaker_states"):
            if name not in alone:
                continue
            together = batch[name][i : i + 1]
            if name in PER_FRAME and together.ndim == 3:
                together = together[:, : alone[name].shape[1]]
            assert relative(together, alone[name]) <= 1e-5, name
            compared += 1
    assert compared >= 3


def test_tuples_have_the_reference_s_order(head, clips):
    labels = labels_for(head)
    out = head(*clips[:2], output_attentions=True, **labels)
    plain = head(*clips[:2], output_attentions=True, return_dict=False, **labels)
    assert len(plain) == len(out.to_tuple())
    if labels:
        assert plain[0].item() == out.loss.item()
        assert torch.equal(plain[1], out.logits)
    else:
        assert torch.equal(plain[0], out.logits)


def test_freezing(head, clips):
    head.freeze_feature_encoder()
    assert not any(weight.requires_grad for weight in head.unispeech_sat.feature_extractor.parameters())
    assert head.unispeech_sat.feature_projection.projection.weight.requires_grad
    head.freeze_base_model()
    assert not any(weight.requires_grad for weight in head.unispeech_sat.parameters())
    free = [name for name, weight in head.named_parameters() if weight.requires_grad]
    assert free
    assert all(not name.startswith("unispeech_sat.") for name in free)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pretraining"])
def test_gradients_reach_the_head_and_checkpointing_changes_nothing(kind, clips):
    off = "hidden_dropout activation_dropout attention_dropout feat_proj_dropout final_dropout layerdrop".split()
    config = head_config(use_weighted_layer_sum=True).replace(**dict.fromkeys(off, 0.0), apply_spec_augment=False)
    model = shuffled(KINDS[kind](config)).train()

    def gradients():
        model.zero_grad()
        model(*clips[:2], **labels_for(model)).loss.backward()
        return {name: weight.grad for name, weight in model.named_parameters()}

    plain = gradients()
    missing = [name for name, grad in plain.items() if grad is None]
    assert missing == ["unispeech_sat.masked_spec_embed"]
    model.gradient_checkpointing_enable()
    for name, grad in gradients().items():
        if grad is not None:
            torch.testing.assert_close(grad, plain[name], msg=name)


def test_weighted_sum_by_hand(clips):
    model = shuffled(us.UniSpeechSatForSequenceClassification(head_config(use_weighted_layer_sum=True)))
    out = model(clips[0])
    weights = model.layer_weights.detach().exp()
    weights = weights / weights.sum()
    mixed = sum(float(weight) * hidden for weight, hidden in zip(weights, out.hidden_states, strict=True))
    logits = model.classifier(model.projector(mixed).mean(1))
    torch.testing.assert_close(out.logits, logits)
    assert len(out.hidden_states) == 4  # as the reference: returned, since they were needed


@pytest.mark.parametrize(("version", "raw"), [("4.37.2", False), ("5.15.1", False), ("5.16.1", True), ("x", False)])
@pytest.mark.parametrize("stable", [False, True])
def test_the_last_summand_is_that_of_the_version_that_trained_it(clips, tmp_path, version, raw, stable):
    config = head_config(use_weighted_layer_sum=True, do_stable_layer_norm=stable, feat_extract_norm="layer")
    shuffled(us.UniSpeechSatForSequenceClassification(config)).save_pretrained(tmp_path)
    config.extra["transformers_version"] = version
    config.save_pretrained(tmp_path)
    model = us.UniSpeechSatForSequenceClassification.from_pretrained(tmp_path)
    seen = []
    model.unispeech_sat.encoder.layers[-1].register_forward_hook(lambda module, args, output: seen.append(output[0]))
    out = model(clips[0])
    last = seen[0] if raw and stable else model.unispeech_sat(clips[0]).last_hidden_state
    torch.testing.assert_close(out.hidden_states[-1], last)
    states, weights = [*out.hidden_states[:-1], last], model.layer_weights.detach().softmax(0)
    mixed = sum(float(weight) * hidden for weight, hidden in zip(weights, states, strict=True))
    torch.testing.assert_close(out.logits, model.classifier(model.projector(mixed).mean(1)))
    # whoever knows better can say so
    other = us.UniSpeechSatForSequenceClassification.from_pretrained(tmp_path, transformers_version="4.37.2")
    assert not other.config.sums_before_norm


# CTC


def test_ctc_loss_against_all_paths():
    config = head_config(ctc_loss_reduction="none")
    model = shuffled(us.UniSpeechSatForCTC(config))
    logits = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2], [3, 3], [5, -100]])
    lengths = torch.tensor([4, 3, 2])
    loss = model.loss(logits, labels, lengths)
    for i in range(3):
        target = [label for label in labels[i].tolist() if label >= 0]
        slow = ctc_loss_by_paths(logits[i, : lengths[i]].softmax(-1), target, blank=0)
        assert loss[i].item() == pytest.approx(slow, rel=1e-5)


def test_ctc_reductions(clips):
    losses = {}
    for reduction in ("none", "sum", "mean"):
        model = shuffled(us.UniSpeechSatForCTC(head_config(ctc_loss_reduction=reduction)))
        losses[reduction] = model(*clips[:2], **labels_for(model)).loss
    torch.testing.assert_close(losses["none"].sum(), losses["sum"])
    torch.testing.assert_close((losses["none"] / torch.tensor([4, 2, 1])).mean(), losses["mean"])


def test_impossible_targets_are_named_and_infinite_or_zeroed():
    labels, lengths = torch.tensor([[1, 1, 1], [1, 2, 3]]), torch.tensor([4, 3])
    sentence = "utterance 0 has 4 frames for 3 tokens and 2 blanks between equal ones; their loss is infinite"
    assert impossible_targets(labels, lengths).startswith(sentence)
    assert impossible_targets(labels, torch.tensor([5, 3])) == ""
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    model = us.UniSpeechSatForCTC(head_config())
    with pytest.warns(UserWarning, match=sentence):
        assert math.isinf(model.loss(logits, labels, lengths))
    zeroing = us.UniSpeechSatForCTC(head_config(ctc_zero_infinity=True, ctc_loss_reduction="none"))
    loss = zeroing.loss(logits, labels, lengths)
    assert loss[0] == 0
    assert loss[1] > 0


def test_empty_targets(clips):
    model = shuffled(us.UniSpeechSatForCTC(head_config(ctc_loss_reduction="none")))
    out = model(*clips[:2], labels=torch.full((3, 2), -100))
    for i, length in enumerate(out.lengths):
        blanks = out.logits[i, :length].log_softmax(-1)[:, 0].sum()  # only the path of blanks spells nothing
        torch.testing.assert_close(out.loss[i], -blanks)


def test_one_utterance_may_have_flat_labels(clips):
    model = shuffled(us.UniSpeechSatForCTC(head_config()))
    flat = model(clips[0][:1], labels=torch.tensor([1, 2, 3])).loss
    assert flat == model(clips[0][:1], labels=torch.tensor([[1, 2, 3]])).loss


# sequences


def test_pooling_against_a_loop(clips):
    model = shuffled(us.UniSpeechSatForSequenceClassification(head_config()))
    out = model(*clips[:2])
    hidden = model.unispeech_sat(*clips[:2]).last_hidden_state
    for i, length in enumerate(out.lengths.tolist()):
        mean = torch.stack([model.projector(hidden[i, t]) for t in range(length)]).mean(0)
        torch.testing.assert_close(out.logits[i], model.classifier(mean))


@pytest.mark.parametrize(
    ("changes", "labels", "expected"),
    [
        ({}, torch.tensor([0, 2, 1]), F.cross_entropy),
        ({}, torch.tensor([[0], [2], [1]]), lambda logits, y: F.cross_entropy(logits, y.flatten())),
        ({}, torch.tensor([0, -100, 1]), F.cross_entropy),
        ({}, torch.eye(3), F.binary_cross_entropy_with_logits),
        ({"num_labels": 1}, torch.tensor([0.5, -1.0, 2.0]), lambda x, y: F.mse_loss(x.flatten(), y)),
        ({"num_labels": 1}, torch.tensor([0, 1, 2]), lambda x, y: F.mse_loss(x.flatten(), y.float())),
        ({"problem_type": "regression"}, torch.eye(3), F.mse_loss),
        (
            {"problem_type": "multi_label_classification"},
            torch.eye(3).long(),
            lambda x, y: F.binary_cross_entropy_with_logits(x, y.float()),
        ),
    ],
)
def test_the_problem_decides_the_loss(clips, changes, labels, expected):
    model = shuffled(us.UniSpeechSatForSequenceClassification(head_config().replace(**changes)))
    out = model(*clips[:2], labels=labels)
    torch.testing.assert_close(out.loss, expected(out.logits, labels))


# frames


def test_frame_loss_by_hand_counts_no_padding():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 4, 2, generator=generator), (torch.rand(2, 4, 2, generator=generator) > 0.5).float()
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    total, count = 0.0, 0
    for b, t, c in itertools.product(range(2), range(4), range(2)):
        if valid[b, t]:
            p = 1 / (1 + math.exp(-logits[b, t, c]))
            total -= math.log(p) if labels[b, t, c] else math.log(1 - p)
            count += 1
    assert frame_loss(logits, labels, valid, "bce").item() == pytest.approx(total / count, rel=1e-5)
    other = torch.where(valid[..., None], logits, torch.tensor(50.0))
    for kind in ("bce", "pit"):
        torch.testing.assert_close(frame_loss(other, labels, valid, kind), frame_loss(logits, labels, valid, kind))


@pytest.mark.parametrize("speakers", [1, 2, 3, 4])
def test_pit_against_loops(speakers):
    generator = torch.Generator().manual_seed(speakers)
    logits = torch.randn(3, 6, speakers, generator=generator)
    labels = (torch.rand(3, 6, speakers, generator=generator) > 0.5).float()
    lengths = [6, 3, 1]
    valid = torch.arange(6) < torch.tensor(lengths)[:, None]
    assert pit_loss(logits, labels, valid).item() == pytest.approx(pit_by_loops(logits, labels, lengths), rel=1e-5)
    shuffled_labels = labels[..., torch.randperm(speakers, generator=generator)]
    torch.testing.assert_close(pit_loss(logits, shuffled_labels, valid), pit_loss(logits, labels, valid))


# x-vectors


def test_tdnn_against_loops():
    torch.manual_seed(0)
    config = head_config()
    hidden = torch.randn(2, 15, 12)
    for layer in range(3):
        module = shuffled(TDNNLayer(config, layer), seed=layer)
        fast, slow = module(hidden), tdnn_by_loops(hidden, module.kernel, config.tdnn_kernel[layer], module.dilation)
        torch.testing.assert_close(fast, slow)
        hidden = fast


def test_pooling_of_statistics():
    hidden, lengths = torch.randn(3, 9, 4, generator=torch.Generator().manual_seed(0)), [9, 2, 5]
    pooled = pool_statistics(hidden, torch.tensor(lengths))
    for i, length in enumerate(lengths):
        part = hidden[i, :length]
        torch.testing.assert_close(pooled[i], torch.cat([part.mean(0), part.std(0)]))
    flat = torch.ones(1, 3, 4, requires_grad=True)
    pool_statistics(flat, torch.tensor([3])).sum().backward()
    assert torch.isfinite(flat.grad).all()


def test_statistics_of_many_frames_in_float16():
    hidden = 3 + 6 * torch.randn(1, 9000, 4, generator=torch.Generator().manual_seed(0)).half()
    expected = torch.cat([hidden.float().mean(1), hidden.float().std(1)], dim=1)
    found = pool_statistics(hidden, torch.tensor([9000]))
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, atol=1e-2, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", ["SequenceClassification", "AudioFrameClassification"])
def test_a_head_in_float16_reads_long_utterances(name):
    """A mean over 248 frames whose sum is beyond float16, and losses in float32."""
    model = shuffled(getattr(us, f"UniSpeechSatFor{name}")(head_config()))
    if name == "SequenceClassification":
        model.projector.bias += 500
        labels = torch.tensor([1])
    else:
        labels = torch.ones(1, 248, 3)
    wave = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    expected = model(wave, labels=labels)
    found = model.half()(wave, labels=labels)
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.logits.float(), expected.logits, atol=0.02, rtol=0.02)
    torch.testing.assert_close(found.loss, expected.loss, atol=0.02, rtol=0.02)


@pytest.mark.filterwarnings("ignore:.*quantiz")
def test_an_x_vector_s_linear_layers_can_be_quantized():
    """Also those that are convolutions over frames: quantized they multiply the frames that each output sees."""
    model, wave = shuffled(us.UniSpeechSatForXVector(head_config())), torch.randn(2, 6000)
    small = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    assert not any(isinstance(module, torch.nn.Linear) for module in small.modules())
    assert any(isinstance(module, torch.nn.Linear) for module in model.modules())
    with torch.no_grad():
        cosine = F.cosine_similarity(small(wave).embeddings, model(wave).embeddings)
    assert (cosine > 0.98).all()


def test_am_softmax_by_hand():
    torch.manual_seed(0)
    objective = AMSoftmaxLoss(4, 3)
    torch.nn.init.normal_(objective.weight)
    objective.requires_grad_(False)
    x, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])
    total = 0.0
    for vector, label in zip(x, labels.tolist(), strict=True):
        cosine = [float(F.cosine_similarity(vector, objective.weight[:, k], dim=0)) for k in range(3)]
        scores = [30 * (c - 0.4 * (k == label)) for k, c in enumerate(cosine)]
        total += math.log(sum(math.exp(s) for s in scores)) - scores[label]
    assert objective(x, labels).item() == pytest.approx(total / 5, rel=1e-4)
    half, x = objective.bfloat16(), x.bfloat16()
    rounded = half(x, labels)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(objective.float()(x.float(), labels).item(), rel=1e-5)


def test_the_shortest_clip_for_an_xvector():
    model = shuffled(us.UniSpeechSatForXVector(head_config()))
    assert model.shortest_frames == 2 + 2 + 4
    samples = round(model.shortest_seconds * 16000)
    assert torch.isfinite(model(torch.randn(1, samples)).embeddings).all()
    with pytest.raises(ValueError, match=r"needs 8 frames \(0.03725 s of speech\); utterance\(s\) \[0\] have \[7\]"):
        model(torch.randn(1, samples - 1))
    assert us.UniSpeechSatForXVector(small_config(num_hidden_layers=1)).shortest_frames == 16
    mask = torch.ones(2, 900).long()
    mask[1, 300:] = 0
    with pytest.raises(ValueError, match=r"utterance\(s\) \[1\] have \[3\].*Join or drop"):
        model(torch.randn(2, 900), mask)


def test_default_sizes_need_a_third_of_a_second():
    with torch.device("meta"):
        model = us.UniSpeechSatForXVector(us.UniSpeechSatConfig.base())
    assert model.shortest_seconds == pytest.approx(0.325)


# bad labels


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        ("ctc", torch.tensor([[1], [2]]), r"labels must be \(3, tokens\).*got \(2, 1\)"),
        ("ctc", torch.ones(3, 2), r"of integers, got \(3, 2\) of torch.float32"),
        ("ctc", torch.tensor([[1, 2], [3, 7], [1, 1]]), r"labels\[1, 1\] is 7; with vocab_size=7 .* 0 to 6"),
        ("sequence", torch.tensor([0, 3, 1]), r"labels\[1\] is 3; with 3 classes labels run from 0 to 2"),
        ("sequence", torch.tensor([0, 1]), r"labels must be \(3,\) \(batch,\) of integers, got \(2,\)"),
        ("sequence", torch.rand(3, 4), r"labels must be \(3, 3\) for multi_label_classification"),
        ("sequence", torch.full((3, 3), 2.0), r"must lie in \[0, 1\]"),
        ("frames", torch.zeros(3, 3000, 3), r"labels must be \(3, 45, 3\).*got \(3, 3000, 3\); frames are not samples"),
        ("frames", torch.full((3, 45, 3), 2.0), "labels must be 0 or 1"),
        ("xvector", torch.tensor([0, 1, -100]), r"labels\[2\] is -100; with 3 classes"),
        ("xvector", torch.tensor([0.0, 1.0, 2.0]), r"got \(3,\) of torch.float32"),
    ],
)
def test_bad_labels(clips, kind, labels, message):
    model = KINDS[kind](head_config()).eval()
    with pytest.raises(ValueError, match=message):
        model(*clips[:2], labels=labels)


@pytest.mark.wrong_types
def test_other_mistakes(clips):
    with pytest.raises(ValueError, match="vocab_size=None: CTC needs a vocabulary"):
        us.UniSpeechSatForCTC(head_config().replace(vocab_size=None))
    model = us.UniSpeechSatForAudioFrameClassification(head_config()).eval()
    with pytest.raises(ValueError, match="loss='mse' must be 'bce', 'pit' or 'reference'"):
        model(*clips[:2], labels=torch.zeros(3, 45, 3), loss="mse")
    with pytest.raises(ValueError, match="pit over 9 classes would try 9! orders"):
        pit_loss(torch.zeros(1, 2, 9), torch.zeros(1, 2, 9), torch.ones(1, 2).bool())


@pytest.mark.wrong_types
@pytest.mark.parametrize("kind", KINDS)
def test_every_input_mistake_is_answered_at_every_head(kind):
    model = KINDS[kind](head_config()).eval()
    for values, mask, message in [
        (torch.zeros(500), None, r"\(batch, samples\), got \(500,\)"),
        (torch.ones(1, 500, dtype=torch.int16), None, "expected floats"),
        (torch.full((1, 500), torch.nan), None, "NaN or Inf"),
        (torch.zeros(1, 100), None, "needs 148 samples"),
        (torch.zeros(1, 500), torch.zeros(1, 500), "all zeros"),
        (torch.zeros(1, 500), torch.arange(500)[None] > 100, "zeros in front of ones"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(values, mask)


# pretraining


def test_pretraining_reads_the_contrastive_layer(clips):
    for stable in (False, True):
        config = head_config(do_stable_layer_norm=stable, utterance_contrastive_layer=1)
        model = shuffled(us.UniSpeechSatForPreTraining(config))
        out = model(*clips[:2], output_hidden_states=True)
        layer = out.hidden_states[1]
        layer = model.layer_norm_for_extract(layer) if stable else layer
        torch.testing.assert_close(out.speaker_states, model.speaker_proj(layer))
        quantized = model.quantizer(layer, out.valid)
        torch.testing.assert_close(out.projected_quantized_states, model.project_q(quantized.codevectors))
        torch.testing.assert_close(out.codevector_perplexity, quantized.code_perplexity)
        assert out.codevector_perplexity.shape == (2,)
        projected = model.project_hid(out.hidden_states[-1])
        torch.testing.assert_close(out.projected_states, projected)
        cosine = F.cosine_similarity(projected[0, 3], model.label_embeddings_concat[5], dim=0)
        torch.testing.assert_close(out.logits[0, 3, 5], cosine / 0.1)
        assert out.loss is None
        assert model(*clips[:2]).hidden_states is None


def test_the_contrastive_layer_is_the_middle_one_unless_said():
    assert us.UniSpeechSatConfig.base().contrastive_layer == 6
    assert us.UniSpeechSatConfig.large().contrastive_layer == 12
    assert us.UniSpeechSatConfig(utterance_contrastive_layer=3).contrastive_layer == 3
    with pytest.raises(ValueError, match="utterance_contrastive_layer=13 must be one of the num_hidden_layers=12"):
        us.UniSpeechSatConfig(utterance_contrastive_layer=13)


def test_perplexity_counts_masked_frames(clips):
    model = shuffled(us.UniSpeechSatForPreTraining(head_config()))
    mask = torch.zeros(3, 45, dtype=torch.bool)
    mask[0, 4:8] = mask[2, 2:40] = True  # utterance 2 has 9 frames: the rest is padding
    out = model(*clips[:2], mask_time_indices=mask, output_hidden_states=True)
    quantized = model.quantizer(out.hidden_states[2], mask & out.valid)
    torch.testing.assert_close(out.codevector_perplexity, quantized.code_perplexity)


def test_gumbel_temperature():
    model = us.UniSpeechSatForPreTraining(head_config())
    model.set_gumbel_temperature(0.7)
    assert model.quantizer.temperature == 0.7
    with pytest.raises(ValueError, match="temperature=-1.0 must be positive"):
        model.set_gumbel_temperature(-1.0)
    with pytest.raises(ValueError, match="codevector_dim=8 and proj_codevector_dim=4 must be equal"):
        us.UniSpeechSatForPreTraining(head_config().replace(proj_codevector_dim=4))


def test_quantizer_sites_of_the_pretraining_model(clips):
    model = shuffled(us.UniSpeechSatForPreTraining(head_config()))
    out, trace = us.run(model, clips[0], "quant.*", "hidden.2", attention_mask=clips[1])
    assert torch.equal(trace["quant.in"], trace["hidden.2"])
    torch.testing.assert_close(model.project_q(trace["quant.out"]), out.projected_quantized_states)
    assert trace["quant.codes"].shape == (3, 45, 2)


def test_head_initialisation():
    torch.manual_seed(0)
    model = us.UniSpeechSatForPreTraining(us.UniSpeechSatConfig(num_hidden_layers=1))
    state = model.state_dict()
    assert state["quantizer.weight_proj.weight"].std().item() == pytest.approx(1, rel=0.01)
    assert 0 <= state["quantizer.codevectors"].min() < 0.01 < 0.99 < state["quantizer.codevectors"].max() <= 1
    assert 0 <= state["label_embeddings_concat"].min() < 0.01 < 0.99 < state["label_embeddings_concat"].max() <= 1
    assert state["project_hid.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    xvector = us.UniSpeechSatForXVector(head_config(use_weighted_layer_sum=True))
    assert xvector.layer_weights.tolist() == [0.25] * 4
    assert xvector.objective.weight.std().item() == pytest.approx(1, abs=0.4)


DRAWN = {
    "ctc": (329.7122, 0.145797),
    "sequence": (329.7254, 0.01746),
    "frames": (329.6868, 0.663023),
    "xvector": (364.0142, 0.945227),
    "pretraining": (667.6997, 0.987161),
}
"""The sum of all squared weights that seed 0 gave in version 0.1, and the next number from the generator."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_draws_what_it_always_drew(kind):
    torch.manual_seed(0)
    model = KINDS[kind](head_config(do_stable_layer_norm=True, adapter_attn_dim=5))
    total = sum(float(weight.double().square().sum()) for weight in model.state_dict().values())
    assert (total, torch.rand(()).item()) == pytest.approx(DRAWN[kind], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_file_will_fill_draws_nothing(kind):
    before = torch.get_rng_state()
    with torch.device("meta"):
        KINDS[kind](head_config())
    assert torch.equal(torch.get_rng_state(), before)


def test_parameter_counts_of_the_released_sizes():
    with torch.device("meta"):
        pretraining = us.UniSpeechSatForPreTraining(us.UniSpeechSatConfig.base())
        ctc = us.UniSpeechSatForCTC(us.UniSpeechSatConfig.base())
        voices = us.UniSpeechSatForXVector(us.UniSpeechSatConfig.base(num_labels=1251, use_weighted_layer_sum=True))
        large = us.UniSpeechSatForPreTraining(us.UniSpeechSatConfig.large())
    counts = [sum(weight.numel() for weight in model.parameters()) for model in (pretraining, ctc, voices, large)]
    assert counts == [95_535_872, 94_396_320, 101_122_409, 318_891_008]


@pytest.mark.wrong_types
@pytest.mark.parametrize("name", ["CTC", "SequenceClassification", "AudioFrameClassification", "XVector"])
def test_labels_are_a_tensor(name):
    model = shuffled(getattr(us, f"UniSpeechSatFor{name}")(head_config()))
    with pytest.raises(TypeError, match=r"labels must be a tensor, got list; torch.as_tensor\(labels\)"):
        model(torch.randn(1, 2000), labels=[0])
