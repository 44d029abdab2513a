import math
from contextlib import ExitStack

import pytest
import torch
from conftest import relative, shuffled, small_config
from reference import attention

from unisat import UniSpeechSatConfig, UniSpeechSatModel, shortcuts
from unisat.frames import valid_positions
from unisat.model import Attention


def test_shapes_valid_frames_and_lengths(model, ragged):
    waveforms, mask, _ = ragged
    out = model(waveforms, mask, output_hidden_states=True, output_attentions=True)
    assert out.last_hidden_state.shape == (3, 45, 16)
    assert out.extract_features.shape == (3, 45, 10)
    assert len(out.hidden_states) == 4
    assert len(out.attentions) == 3
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
    assert out.lengths.tolist() == [45, 9, 1]
    assert out.valid.sum(-1).tolist() == [45, 9, 1]


def test_an_utterance_in_a_padded_batch_gives_what_it_gives_alone(model, ragged):
    waveforms, mask, lengths = ragged
    batch = model(waveforms, mask, output_hidden_states=True, output_attentions=True)
    for i, length in enumerate(lengths):
        alone = model(waveforms[i : i + 1, :length], output_hidden_states=True, output_attentions=True)
        frames = alone.last_hidden_state.shape[1]
        assert frames == batch.lengths[i]
        for k in range(4):
            assert relative(batch.hidden_states[k][i : i + 1, :frames], alone.hidden_states[k]) <= 1e-5, (i, k)
        assert relative(batch.extract_features[i : i + 1, :frames], alone.extract_features) <= 1e-5
        for k in range(3):
            assert relative(batch.attentions[k][i : i + 1, :, :frames, :frames], alone.attentions[k]) <= 1e-5


def test_the_reference_s_padding_depends_on_the_batch_with_group_norm(ragged):
    waveforms, mask, _ = ragged
    for norm, differs in [("group", True), ("layer", False)]:
        config = small_config(padding="reference", feat_extract_norm=norm)
        model = shuffled(UniSpeechSatModel(config))
        alone, batch = model(waveforms[1:2, :700]), model(waveforms, mask)
        error = relative(batch.last_hidden_state[1:2, :9], alone.last_hidden_state)
        assert (error > 1e-2) == differs
        assert differs or error <= 1e-5


def test_padding_modes_agree_without_padding(model, ragged):
    waveforms, _, _ = ragged
    exact = model(waveforms).last_hidden_state
    model.config.padding = "reference"
    assert torch.equal(model(waveforms).last_hidden_state, exact)
    assert torch.equal(model(waveforms, torch.ones_like(waveforms)).last_hidden_state, exact)


def test_what_lies_in_the_padding_does_not_matter(model, ragged):
    waveforms, mask, _ = ragged
    out = model(waveforms, mask)
    other = model(torch.where(mask.bool(), waveforms, torch.tensor(9.0)), mask)
    assert torch.equal(out.last_hidden_state[out.valid], other.last_hidden_state[out.valid])


@pytest.mark.parametrize("dtype", [torch.long, torch.int32, torch.bool, torch.float32])
def test_attention_masks_of_any_type(one_model, ragged, dtype):
    waveforms, mask, _ = ragged
    expected = one_model(waveforms, mask).last_hidden_state
    assert torch.equal(one_model(waveforms, mask.to(dtype)).last_hidden_state, expected)


@torch.no_grad()
def test_attention_against_loops():
    torch.manual_seed(0)
    module = shuffled(Attention(small_config()))
    hidden, valid = torch.randn(2, 6, 16), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    out, pattern = module(hidden, valid, output_attentions=True)
    for i in range(2):
        slow_out, slow_pattern = attention(hidden[i], module, 2, valid[i])
        torch.testing.assert_close(out[i], slow_out)
        torch.testing.assert_close(pattern[i], slow_pattern)


def test_fused_and_explicit_attention_give_the_same_numbers(model, ragged):
    waveforms, mask, _ = ragged
    fused, valid = (model(waveforms, mask)[name] for name in ("last_hidden_state", "valid"))
    explicit = model(waveforms, mask, output_attentions=True).last_hidden_state
    assert relative(fused[valid], explicit[valid]) <= 2e-6
    handle = model.encoder.layers[1].attention.dropout.register_forward_hook(lambda *_: None)
    hooked = model(waveforms, mask).last_hidden_state
    handle.remove()
    assert relative(hooked[valid], explicit[valid]) <= 2e-6


def test_patterns_sum_to_one_and_are_zero_on_padding(model, ragged):
    waveforms, mask, _ = ragged
    out = model(waveforms, mask, output_attentions=True)
    for pattern in out.attentions:
        torch.testing.assert_close(pattern.sum(-1), torch.ones(3, 2, 45))
        assert (pattern.masked_select(~out.valid[:, None, None, :].expand_as(pattern)) == 0).all()


def test_tuples_and_names(one_model, ragged):
    waveforms, _, _ = ragged
    out = one_model(waveforms, output_hidden_states=True, output_attentions=True)
    plain = one_model(waveforms, output_hidden_states=True, output_attentions=True, return_dict=False)
    assert [type(item) for item in plain] == [torch.Tensor, torch.Tensor, tuple, tuple]
    last, features, hidden_states, attentions = out
    assert last is out[0] is out["last_hidden_state"]
    assert features is out.to_tuple()[1]
    assert hidden_states is out.hidden_states
    assert attentions is out[-1]
    assert len(one_model(waveforms, return_dict=False)) == 2
    assert "attentions" not in one_model(waveforms)
    assert "valid" in out.keys()  # noqa: SIM118 - a result, no dict
    with pytest.raises(KeyError, match="'logits' is not in this output; it holds last_hidden_state"):
        out["logits"]
    assert "hidden_states: 4 × (3, 45, 16) float32" in repr(out)


def test_flags_in_the_config(one_model, ragged):
    one_model.config.output_hidden_states = one_model.config.output_attentions = True
    one_model.config.return_dict = False
    assert len(one_model(ragged[0])) == 4


def test_a_given_mask_holds_in_evaluation_and_without_spec_augment(model, ragged):
    waveforms, _, _ = ragged
    mask = torch.zeros(3, 45, dtype=torch.bool)
    mask[0, 3:9] = mask[2, 40:] = True
    seen = []
    handle = model.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    plain = model(waveforms, mask_time_indices=torch.zeros_like(mask)).last_hidden_state
    for augment in (True, False):
        model.config.apply_spec_augment = augment
        masked = model(waveforms, mask_time_indices=mask).last_hidden_state
        hidden = seen[-1]
        assert torch.equal(hidden[mask], model.masked_spec_embed.expand(int(mask.sum()), -1))
        assert torch.equal(hidden[~mask], seen[0][~mask])
        assert not torch.equal(masked, plain)
    handle.remove()


def test_spec_augment_in_training_only(ragged):
    waveforms, mask, _ = ragged
    config = small_config(layerdrop=0.0, mask_time_prob=0.5, mask_time_length=3, mask_feature_prob=0.5)
    config.mask_feature_length = 4
    for name in ("hidden_dropout", "activation_dropout", "attention_dropout"):
        setattr(config, name, 0.0)
    model = shuffled(UniSpeechSatModel(config))
    seen = []
    model.spec_augment.register_forward_hook(lambda module, args, output: seen.append((args[0], *output)))
    model(waveforms, mask)
    before, after, drawn = seen[-1]
    assert torch.equal(before, after)
    assert not drawn.any()

    model.train()
    model(waveforms, mask, generator=torch.Generator().manual_seed(0))
    before, after, drawn = seen[-1]
    assert drawn[0].any()
    assert not drawn[1, 9:].any()  # never on padding
    assert not drawn[2].any()  # one frame: shorter than a span
    channels = (after[0] == 0).all(0)
    assert 4 <= channels.sum() <= 12
    hidden = torch.where(drawn[..., None], model.masked_spec_embed, before)
    assert torch.equal(after[0], hidden[0].masked_fill(channels, 0))
    model(waveforms, mask, generator=torch.Generator().manual_seed(0))
    assert torch.equal(seen[-1][2], drawn)
    model(waveforms, mask, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(seen[-1][2], drawn)


def test_clips_shorter_than_a_mask_train(ragged):
    model = UniSpeechSatModel(small_config(mask_time_prob=0.9, mask_time_length=40))
    with pytest.warns(UserWarning, match="nothing is hidden"):
        model(ragged[0][:, :300]).last_hidden_state.sum().backward()
    assert torch.isfinite(model.feature_projection.projection.weight.grad).all()


def test_evaluation_draws_nothing(model, ragged):
    state = torch.get_rng_state()
    first = model(ragged[0], ragged[1]).last_hidden_state
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(ragged[0], ragged[1]).last_hidden_state, first)


def test_layerdrop_skips_whole_layers(ragged):
    model = UniSpeechSatModel(small_config(layerdrop=1.0, apply_spec_augment=False, hidden_dropout=0.0)).train()
    out = model(ragged[0], output_hidden_states=True, output_attentions=True)
    assert out.attentions == (None, None, None)
    assert all(torch.equal(hidden, out.hidden_states[0]) for hidden in out.hidden_states)
    model.config.layerdrop = 0.0
    assert model(ragged[0], output_attentions=True).attentions[0] is not None
    model.config.layerdrop = 0.5
    skipped = [
        [pattern is None for pattern in model(ragged[0][:1, :300], output_attentions=True, generator=g).attentions]
        for g in (torch.Generator().manual_seed(s) for s in range(60))
    ]
    assert 0.35 < sum(map(sum, skipped)) / 180 < 0.65


def quiet(config):
    """No randomness in training."""
    off = "hidden_dropout activation_dropout attention_dropout feat_proj_dropout layerdrop".split()
    return config.replace(**dict.fromkeys(off, 0.0), apply_spec_augment=False)


def gradients(model, ragged):
    model.zero_grad()
    model(ragged[0], ragged[1]).last_hidden_state.square().mean().backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def test_gradients_reach_everything_and_checkpointing_changes_nothing(model, ragged):
    model = shuffled(UniSpeechSatModel(quiet(model.config))).train()
    plain = gradients(model, ragged)
    assert set(plain) == {name for name, _ in model.named_parameters()} - {"masked_spec_embed"}
    assert all(torch.isfinite(grad).all() for grad in plain.values())
    assert all(grad.abs().sum() > 0 for name, grad in plain.items() if not name.endswith("k_proj.bias"))
    model.gradient_checkpointing_enable()
    passes = []
    model.encoder.layers[0].register_forward_pre_hook(lambda *_: passes.append(1))
    again = gradients(model, ragged)
    assert len(passes) == 2  # computed twice: it really was checkpointed
    for name, grad in plain.items():
        torch.testing.assert_close(again[name], grad)
    model.gradient_checkpointing_disable()
    gradients(model, ragged)
    assert len(passes) == 3


def test_the_mask_embedding_learns(one_model, ragged):
    mask = torch.zeros(3, 45, dtype=torch.bool)
    mask[0, :5] = True
    one_model(ragged[0], mask_time_indices=mask).last_hidden_state.sum().backward()
    assert one_model.masked_spec_embed.grad.abs().sum() > 0


def test_frozen_feature_encoder(one_model, ragged):
    one_model.freeze_feature_encoder()
    one_model.gradient_checkpointing_enable()
    grads = gradients(one_model.train(), ragged)
    assert not [name for name in grads if name.startswith("feature_extractor.")]
    assert "feature_projection.projection.weight" in grads


def test_gradients_to_the_waveform_in_training(one_model, ragged):
    waveform = ragged[0].clone().requires_grad_()
    one_model.train()(waveform * 2).last_hidden_state.sum().backward()
    assert waveform.grad.abs().sum() > 0


def test_inputs_are_left_alone(model, ragged):
    waveforms, mask, _ = ragged
    time_mask = torch.ones(3, 45, dtype=torch.bool)
    copies = [tensor.clone() for tensor in (waveforms, mask, time_mask)]
    hidden = []
    model.feature_projection.register_forward_hook(lambda module, args, out: hidden.append((out[0], out[0].clone())))
    model(waveforms, mask, time_mask)
    assert all(torch.equal(a, b) for a, b in zip((waveforms, mask, time_mask), copies, strict=True))
    assert torch.equal(*hidden[0])  # what a hook saw stays as it was


@torch.no_grad()
@pytest.mark.parametrize("part", ["conv", "layer_norm", "activation"])
def test_hooks_in_the_front_end_see_what_was_computed(part, ragged):
    model = shuffled(UniSpeechSatModel(small_config(feat_extract_norm="layer")))
    plain = model(ragged[0]).last_hidden_state
    layer = model.feature_extractor.conv_layers[1]
    seen = {}

    def keep(module, args, output):
        seen["input"], seen["output"], seen["copy"] = args[0], output, output.clone()

    handle = getattr(layer, part).register_forward_hook(keep)
    torch.testing.assert_close(model(ragged[0]).last_hidden_state, plain)
    handle.remove()
    assert torch.equal(seen["output"], seen["copy"])  # in-place activation kept away from it
    if part == "activation":
        assert torch.equal(torch.nn.functional.gelu(seen["input"]), seen["output"])


def test_half_precision(model, ragged):
    waveforms, mask, _ = ragged
    full = model(waveforms, mask)
    half = model.to(torch.bfloat16)(waveforms, mask)
    assert half.last_hidden_state.dtype == torch.bfloat16
    valid = full.valid
    assert relative(half.last_hidden_state[valid].float(), full.last_hidden_state[valid]) < 0.1
    assert torch.isfinite(half.last_hidden_state).all()


@pytest.mark.parametrize("way", ["plain", "autocast", "gradients"])
def test_a_long_padded_batch_in_float16_without_shortcuts(way):
    """The first norm sums squares over time, here over 8000 positions."""
    model = shuffled(UniSpeechSatModel(small_config(conv_bias=True)))
    waveforms = 5 * torch.randn(2, 32_000, generator=torch.Generator().manual_seed(0))
    mask = valid_positions(torch.tensor([32_000, 20_000]), 32_000).long()
    with torch.no_grad():
        expected = model(waveforms, mask)
        model = model if way == "autocast" else model.half()
    with ExitStack() as stack:
        if way != "gradients":
            stack.enter_context(torch.no_grad())
            stack.enter_context(shortcuts.plain())
        stack.enter_context(torch.autocast("cpu", torch.float16, enabled=way == "autocast"))
        found = model(waveforms, mask)
    valid = expected.valid
    assert relative(found.last_hidden_state[valid].float(), expected.last_hidden_state[valid]) < 0.02


def test_frames_of_padding_are_zero_whoever_shares_the_batch(model, ragged):
    waveforms, mask, _ = ragged
    with torch.no_grad():
        quiet = model(waveforms, mask)
    for out in (quiet, model(waveforms, mask)):
        assert (out.conv_features.transpose(1, 2)[~out.valid] == 0).all()
        assert (out.extract_features[~out.valid] == 0).all()


def test_float64_audio_is_cast_to_the_model(one_model, ragged):
    waveforms = ragged[0]
    out = one_model(waveforms.double()).last_hidden_state
    assert out.dtype == torch.float32
    assert torch.equal(out, one_model(waveforms).last_hidden_state)


@pytest.mark.wrong_types  # the checks of types cannot be compiled
def test_compiled_is_the_same(one_model, ragged):
    compiled = torch.compile(one_model, backend="eager")
    with shortcuts.plain():  # as in what is compiled, which falls back to eager where torch has compiled too often
        expected = one_model(ragged[0]).last_hidden_state
    torch.testing.assert_close(compiled(ragged[0]).last_hidden_state, expected)


class First(torch.nn.Module):
    """Gives the first of a model's outputs: what records code wants tensors."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, waveforms):
        return self.model(waveforms, return_dict=False)[0]


@torch.no_grad()
@pytest.mark.wrong_types  # the checks of types cannot be recorded
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["export", "trace"])
def test_recorded_code_is_the_same(one_model, how):
    waveforms, other = torch.randn(2, 1, 3000, generator=torch.Generator().manual_seed(0))
    model = First(one_model)
    if how == "export":
        again = torch.export.export(model, (waveforms,)).module()
    else:
        again = torch.jit.trace(model, (waveforms,), check_trace=False)
    torch.testing.assert_close(again(other), model(other), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.wrong_types
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["export", "trace"])
def test_lengths_are_not_recorded(one_model, how):
    waveforms, mask = torch.zeros(1, 3000), torch.ones(1, 3000, dtype=torch.long)
    record = torch.export.export if how == "export" else torch.jit.trace
    with pytest.raises(ValueError, match="attention_mask cannot be exported or traced.*Leave the mask out"):
        record(one_model, (waveforms, mask))


@pytest.mark.filterwarnings("ignore:.*quantiz")
def test_every_linear_layer_can_be_exchanged(model, ragged):
    """Tools that quantize ask for layers whose class is `torch.nn.Linear` itself."""
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert linear
    assert {type(module) for module in linear} == {torch.nn.Linear}
    small = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    assert not any(isinstance(module, torch.nn.Linear) for module in small.modules())
    with torch.no_grad():
        found, expected = small(*ragged[:2]), model(*ragged[:2])
    assert relative(found.last_hidden_state[found.valid], expected.last_hidden_state[found.valid]) < 0.1


def test_initialisation():
    torch.manual_seed(0)
    config = UniSpeechSatConfig(num_hidden_layers=1)
    model = UniSpeechSatModel(config)
    state = model.state_dict()
    assert state["encoder.layers.0.attention.q_proj.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert not state["encoder.layers.0.attention.q_proj.bias"].any()
    # the intended std, which the reference misses (0.036 instead)
    position = model.encoder.pos_conv_embed.conv.weight
    assert position.std().item() == pytest.approx(2 / math.sqrt(128 * 768), rel=0.01)
    assert not state["encoder.pos_conv_embed.conv.bias"].any()
    conv = state["feature_extractor.conv_layers.1.conv.weight"]
    assert conv.std().item() == pytest.approx(math.sqrt(2 / (512 * 3)), rel=0.01)
    projection = state["feature_projection.projection.weight"]
    assert projection.abs().max().item() == pytest.approx(1 / math.sqrt(512), rel=0.01)
    assert state["feature_projection.projection.bias"].any()
    assert (state["encoder.layers.0.layer_norm.weight"] == 1).all()
    embed = state["masked_spec_embed"]
    assert 0 <= embed.min() < 0.05 < 0.95 < embed.max() <= 1
    torch.manual_seed(0)
    assert torch.equal(UniSpeechSatModel(config).state_dict()["masked_spec_embed"], embed)


def test_parameter_counts_of_the_released_sizes():
    with torch.device("meta"):
        base = UniSpeechSatModel(UniSpeechSatConfig.base())
        large = UniSpeechSatModel(UniSpeechSatConfig.large())
    assert sum(weight.numel() for weight in base.parameters()) == 94_371_712
    assert sum(weight.numel() for weight in large.parameters()) == 315_435_136


def test_no_layers(ragged):
    for stable in (False, True):
        model = UniSpeechSatModel(small_config(num_hidden_layers=0, do_stable_layer_norm=stable)).eval()
        out = model(ragged[0], output_hidden_states=True)
        assert len(out.hidden_states) == 1
        assert torch.equal(out.hidden_states[0], out.last_hidden_state)


@pytest.mark.wrong_types
def test_a_model_is_made_from_a_config():
    with pytest.raises(ValueError, match=r"made from a UniSpeechSatConfig, got str.*from_pretrained"):
        UniSpeechSatModel("microsoft/unispeech-sat-base")
