import re
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from conftest import VARIANTS, shuffled, small_config
from torch import nn

import unisat as us
from unisat.interpret.activations.sites import chosen_layers, hidden_sites, layer_number, select, site_list
from unisat.interpret.interventions.edits import Edit
from unisat.interpret.interventions.intervene import intervene


class WithQuantizer(nn.Module):
    """A backbone and a quantizer on one of its hidden states, as in pretraining."""

    def __init__(self, config):
        super().__init__()
        self.unispeech_sat = us.UniSpeechSatModel(config)
        self.quantizer = us.GumbelVectorQuantizer(config)

    def forward(self, input_values, attention_mask=None):
        out = self.unispeech_sat(input_values, attention_mask, output_hidden_states=True)
        return self.quantizer(out.hidden_states[2], out.valid)


def raw_hook(model, site, seen):
    """Hang a bare PyTorch hook on the site's submodule and side, which keeps what it sees as it is."""
    module = dict(model.named_modules())[site.module]
    if site.side == "input":
        return module.register_forward_pre_hook(lambda module, args: seen.setdefault(site.name, args[0]))
    return module.register_forward_hook(lambda module, args, output: seen.setdefault(site.name, output))


# how the raw value becomes the site's, written a second time
def as_site(name, raw, config):
    heads, groups = config.num_attention_heads, config.num_codevector_groups
    if name in ("mask.indices", "mask.out"):
        return raw[1 if name == "mask.indices" else 0]
    if name in ("quant.probs", "quant.codes", "quant.out"):
        return {"probs": raw.probabilities, "codes": raw.codevector_indices, "out": raw.codevectors}[name[6:]]
    raw = raw[0] if isinstance(raw, tuple) else raw
    if name.startswith("conv."):
        return raw.permute(0, 2, 1)
    if re.search(r"attn\.[qkvz]$", name):
        return raw.reshape(*raw.shape[:2], heads, raw.shape[2] // heads)
    if name == "quant.logits":
        return raw.reshape(*raw.shape[:2], groups, raw.shape[2] // groups)
    return raw


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_site_records_what_a_raw_hook_records(variant, ragged):
    config = small_config(**VARIANTS[variant])
    model = shuffled(WithQuantizer(config))
    everything, seen = site_list(model), {}
    handles = [raw_hook(model, site, seen) for site in everything]
    with us.capture(model, "*") as trace, torch.no_grad():
        model(input_values=ragged[0], attention_mask=ragged[1])
    for handle in handles:
        handle.remove()
    assert trace.sites == [site.name for site in everything]
    assert len(everything) >= 58
    for site in everything:
        expected = as_site(site.name, seen[site.name], config)
        assert torch.equal(trace[site.name], expected), site.name
        assert len(site.shape) == expected.ndim
        declared = [size for size in site.sizes if size]
        assert declared == [n for n, size in zip(expected.shape, site.sizes, strict=True) if size], site.name
        numbers = site.numel(3, 3000, config)
        assert numbers == expected.numel(), site.name


class Both(WithQuantizer):
    """As above, with what the backbone gives."""

    def forward(self, input_values, attention_mask=None):
        out = self.unispeech_sat(input_values, attention_mask, output_hidden_states=True)
        return out, self.quantizer(out.hidden_states[2], out.valid)


def own(raw):
    """A copy of what a hook sees, however deep the tensors lie."""
    if isinstance(raw, tuple):
        return tuple(own(item) for item in raw)
    if is_dataclass(raw):
        return replace(raw, **{item.name: own(getattr(raw, item.name)) for item in fields(raw)})
    return raw.clone() if isinstance(raw, torch.Tensor) else raw


def halved(site, raw, config, lengths):
    """Write ``|x| / 2 + 0.1`` over the valid part of a site, through views of a copy: no `write` of ours."""
    beside = site.name.endswith("resid_mid") and config.do_stable_layer_norm  # the stream goes on beside the norm
    raw = raw if beside else own(raw)
    for row, length in enumerate(lengths):
        for _ in range(site.conv_layers):
            length = (length - 8) // 4 + 1
        value = as_site(site.name, raw, config)[row]
        value = value[:, :length, :length] if "queries" in site.shape else value[:length]
        value.abs_().mul_(0.5).add_(0.1)
    return raw


def given(output):
    """Every float that a model gives for valid frames, as one vector."""
    out, quantized = output
    frames = [*out.hidden_states, quantized.codevectors, quantized.probabilities]
    convs = out.conv_features.transpose(1, 2)
    return torch.cat([value[out.valid].flatten().float() for value in (convs, *frames)])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_site_edits_what_a_raw_hook_edits(variant, ragged):
    config = small_config(**VARIANTS[variant])
    model = shuffled(Both(config))
    waveforms, mask, lengths = ragged
    fixed = {"mask.indices", "quant.codes", "quant.probs"}
    sites = [site for site in site_list(model) if site.name not in fixed]
    assert len(sites) >= 55
    with torch.no_grad():
        plain = given(model(waveforms, mask))
        for site in sites:
            module = dict(model.named_modules())[site.module]
            if site.side == "input":
                hook = lambda module, args: halved(site, args, config, lengths)  # noqa: B023, E731
                handle = module.register_forward_pre_hook(hook)
            else:
                hook = lambda module, args, output: halved(site, output, config, lengths)  # noqa: B023, E731
                handle = module.register_forward_hook(hook)
            expected = given(model(waveforms, mask))
            handle.remove()
            with (
                intervene(model, Edit(site.name, lambda x: 0.5 * x.abs() + 0.1)),
                us.capture(model, site.name) as trace,
            ):
                edited = given(model(waveforms, mask))
            torch.testing.assert_close(edited, expected, rtol=1e-5, atol=1e-6, msg=site.name)
            assert (edited - plain).abs().max() > 1e-3, site.name
            assert torch.equal(given(model(waveforms, mask)), plain), site.name
            with us.capture(model, site.name) as before:
                model(waveforms, mask)
            for after, value in zip(trace.ragged(site.name), before.ragged(site.name), strict=True):
                torch.testing.assert_close(after, 0.5 * value.abs() + 0.1, rtol=1e-5, atol=1e-6, msg=site.name)


@pytest.mark.parametrize("grad", [False, True])
def test_an_edit_of_the_middle_of_a_block_reaches_all_that_follows(model, ragged, grad):
    with (
        torch.set_grad_enabled(grad),
        intervene(model, Edit("block.1.resid_mid", lambda x: 3 - x * x)),
        us.capture(model, "block.1.*", grad=grad) as trace,
    ):
        model(ragged[0], ragged[1])
    middle = trace["block.1.resid_mid"]
    expected = 3 - (trace["block.1.resid_pre"] + trace["block.1.attn.out"]).square()
    valid, layer = trace.valid("block.1.resid_mid"), model.encoder.layers[1]
    torch.testing.assert_close(middle[valid], expected[valid])
    if model.config.do_stable_layer_norm:
        added = trace["block.1.mlp.out"] + (trace["block.1.adapter.out"] if "adapter" in str(trace.sites) else 0)
        after = middle + added
    else:
        after = layer.final_layer_norm(layer.layer_norm(middle) + trace["block.1.mlp.out"])
    torch.testing.assert_close(after[valid], trace["block.1.resid_post"][valid])
    if grad:  # through the square: an edit in place must not spoil what the backward pass has kept
        (ours,) = torch.autograd.grad(middle[valid].sum(), trace["block.1.attn.out"], retain_graph=True)
        (theirs,) = torch.autograd.grad(expected[valid].sum(), trace["block.1.attn.out"])
        torch.testing.assert_close(ours, theirs)


def test_sites_that_cannot_be_edited_say_why(ragged):
    model = shuffled(WithQuantizer(small_config()))
    assert set(us.sites(model).query("not editable").index) == {"mask.indices", "quant.codes", "quant.probs"}
    for name, reason in {
        "mask.indices": "the frames are hidden by then: give the model mask_time_indices, or edit mask.out",
        "quant.codes": "the codevectors are looked up by then: edit quant.logits",
        "quant.probs": "the codevectors are looked up by then: edit quant.logits",
        "*": "mask.indices cannot be edited",
    }.items():
        with pytest.raises(ValueError, match=reason), intervene(model, Edit(name, lambda x: x)):
            pass


def test_hidden_sites_are_the_reference_s_hidden_states(model, ragged):
    out, trace = us.run(model, ragged[0], "hidden.*", "embed", attention_mask=ragged[1])
    with torch.no_grad():
        states = model(ragged[0], ragged[1], output_hidden_states=True).hidden_states
    assert trace.sites == ["embed", *(f"hidden.{k}" for k in range(4))]
    for k, state in enumerate(states):
        assert torch.equal(trace[f"hidden.{k}"], state)
    assert torch.equal(trace["embed"], states[0])
    assert torch.equal(out.last_hidden_state, states[-1])


def test_residual_identities_hold_for_both_placements(model, ragged):
    _, trace = us.run(model, ragged[0], "block.*", "hidden.*", attention_mask=ragged[1], budget="1GB")
    for k, layer in enumerate(model.encoder.layers):
        site = lambda name: trace[f"block.{k}.{name}"]  # noqa: B023, E731
        torch.testing.assert_close(site("resid_pre") + site("attn.out"), site("resid_mid"))
        if model.config.do_stable_layer_norm:
            added = site("mlp.out") + (site("adapter.out") if "adapter.out" in str(trace.sites) else 0)
            torch.testing.assert_close(site("resid_mid") + added, site("resid_post"))
        else:
            middle = layer.layer_norm(site("resid_mid"))
            torch.testing.assert_close(layer.final_layer_norm(middle + site("mlp.out")), site("resid_post"))
        after = trace[f"block.{k + 1}.resid_pre"] if k < 2 else trace[f"block.{k}.resid_post"]
        assert torch.equal(site("resid_post"), after)
        torch.testing.assert_close(layer.attention.out_proj(site("attn.z").flatten(2)), site("attn.out"))
        activated = layer.feed_forward.activation(site("mlp.pre"))
        torch.testing.assert_close(layer.feed_forward.output_dense(activated), site("mlp.out"))
        assert torch.equal(activated, site("mlp.post"))


def test_pattern_follows_from_queries_keys_and_scores(model, ragged):
    _, trace = us.run(model, ragged[0], "block.1.attn.*", attention_mask=ragged[1])
    q, k, v, scores, pattern, z = (trace[f"block.1.attn.{name}"] for name in "q k v scores pattern z".split())
    expected = torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5
    valid = trace.valid("hidden.0" if "hidden.0" in trace else "block.1.attn.q")
    keep = valid[:, None, None, :].expand_as(scores)
    torch.testing.assert_close(scores[keep], expected[keep])
    torch.testing.assert_close(pattern, scores.softmax(-1))
    torch.testing.assert_close(pattern.sum(-1), torch.ones(3, 2, 45))
    assert (pattern[~keep] == 0).all()
    torch.testing.assert_close(torch.einsum("bhqk,bkhd->bqhd", pattern, v), z)


NAMES = [f"hidden.{k}" for k in range(13)]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("hidden.3", ["hidden.3"]),
        ("hidden.?", NAMES[:10]),
        ("hidden.{2:5}", NAMES[2:5]),
        ("hidden.{10:}", NAMES[10:]),
        ("hidden.{:2}", NAMES[:2]),
        (re.compile(r"hidden\.1[12]"), NAMES[11:]),
        ("block.{1:3}.attn.[qk]", [f"block.{k}.attn.{name}" for k in (1, 2) for name in "qk"]),
        ("block.{11:}.resid_*", ["block.11.resid_pre", "block.11.resid_mid", "block.11.resid_post"]),
        ("conv.{5:}", ["conv.5", "conv.6"]),
    ],
)
def test_selectors(selector, expected):
    with torch.device("meta"):
        model = us.UniSpeechSatModel(us.UniSpeechSatConfig.base())
    assert [site.name for site in select(site_list(model), [selector])] == expected


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("hiden.3", r"no site matches 'hiden.3' \(did you mean hidden.3"),
        ("block.0.attn.patern", r"did you mean block.0.attn.pattern"),
        ("block.{5:9}.resid_mid", "no site matches"),
        ("hidden.{-2:}", r"'hidden.{-2:}': the ends of a range are numbers of sites and count from 0"),
        ("block.{:-1}.attn.z", "count from 0"),
        ("zzz", r"there are wave, conv.\*, conv.out"),
        (re.compile("x+"), "no site matches 'x\\+'"),
        ("quant.codes", "this model has no quantizer, only pretraining models have one"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_names(one_model, selector, message):
    with pytest.raises(ValueError, match=message):
        us.run(one_model, torch.randn(1, 500), selector)
    with pytest.raises(ValueError, match=message):
        us.sites(one_model, "wave", selector)


def test_the_table(one_model):
    table = us.sites(one_model)
    assert table.loc["block.2.attn.pattern", "shape"] == "batch heads=2 queries keys"
    frames = us.frames.stack_length(16000, [8] * 3, [4] * 3)
    assert table.loc["block.2.attn.pattern", "bytes"] == 2 * frames**2 * 4
    assert table.loc["wave", "bytes"] == 16000 * 4
    assert table.loc["mask.indices", "bytes"] == frames
    assert us.sites(one_model, "hidden.1", seconds=2.0).loc["hidden.1", "bytes"] > table.loc["hidden.1", "bytes"]
    assert table.meaning.str.len().min() > 3


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="Linear holds no UniSpeechSatModel"):
        us.sites(nn.Linear(2, 2))


def test_layers_have_the_numbers_in_the_names_of_sites(one_model):
    names = [site.name for site in site_list(one_model)]
    assert list(hidden_sites(names)) == [0, 1, 2, 3]
    assert {layer_number(name) for name in names if name.startswith("block.")} == {0, 1, 2}
    assert layer_number("block.11.attn.z") == layer_number("hidden.11") == 11
    assert {layer_number(name) for name in names if not name.startswith(("block.", "hidden."))} == {None}
    shuffled_names = ["hidden.10", "untrained.0.hidden.1", "hidden.2", "wave", "block.3.attn.z", "hidden.0"]
    assert hidden_sites(shuffled_names) == {0: "hidden.0", 2: "hidden.2", 10: "hidden.10"}
    assert list(hidden_sites(shuffled_names)) == [0, 2, 10]


@pytest.mark.wrong_types
def test_layers_are_chosen_by_number():
    assert chosen_layers(2, 3) == [2]
    assert chosen_layers(iter([3, 0, 3]), 3) == [0, 3]
    assert chosen_layers(torch.tensor([1, 0]), 3) == [0, 1]
    for wrong in (4, -1, [], [1, 4], [True], [1.0], "all"):
        with pytest.raises(ValueError, match=r"must be numbers from 0 to 3, one or more"):
            chosen_layers(wrong, 3)
