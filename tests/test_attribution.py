"""Attribution: against plain loops, hand computation and planted truth."""

import numpy as np
import pytest
import torch
from conftest import VARIANTS, shuffled, small_config

import unisat as us
from unisat.interpret.activations.attention import rollout, value_norms
from unisat.interpret.activations.capture import capture, run
from unisat.interpret.interventions.attribution import Attribution, attribute, long_term_noise
from unisat.interpret.interventions.metrics import speaker_cosine

XVECTOR = dict(tdnn_dim=[8, 8], tdnn_kernel=[3, 1], tdnn_dilation=[2, 1], xvector_output_dim=6)


def num_hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def last_frames(output):
    return output.last_hidden_state[:, -3:].square().mean((1, 2))


@pytest.fixture
def wave():
    return torch.randn(1, 1000, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def voices():
    return shuffled(us.UniSpeechSatForXVector(small_config(**XVECTOR)))


# integrated gradients


def test_a_linear_target_gets_weights_times_input_and_is_complete(one_model, wave):
    frames = run(one_model, wave, "hidden.3")[1]["hidden.3"][0].double()
    weights = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))

    def linear(output):
        return (output.last_hidden_state * weights).sum((1, 2)) + 3

    expected = (weights * frames).sum(1)
    found = attribute(one_model, wave, linear, wrt="hidden.3", baselines="zero", steps=3)
    torch.testing.assert_close(found.values[0], expected, rtol=1e-5, atol=1e-5)
    gradient = attribute(one_model, wave, linear, wrt="hidden.3", method="gradient")
    torch.testing.assert_close(gradient.values[0], expected, rtol=1e-5, atol=1e-5)
    row = found.completeness_error.iloc[0]
    assert row["baseline_value"] == pytest.approx(3, abs=1e-6)
    assert row["attributed"] == pytest.approx(row["value"] - 3, abs=1e-4)
    assert abs(row["error"]) < 1e-4
    assert gradient.completeness_error.empty


def riemann(function, start, end, steps):
    """Integrated gradients as in the paper's equation 3 (midpoints), one point after the other."""
    total = torch.zeros_like(end)
    for step in range(steps):
        point = (start + (step + 0.5) / steps * (end - start)).requires_grad_()
        total += torch.autograd.grad(function(point), point)[0] / steps
    return (end - start) * total


@pytest.mark.parametrize("kind", ["post-LN", "pre-LN"])
def test_the_wave_s_attribution_is_that_of_a_plain_riemann_sum(kind, wave):
    model = shuffled(us.UniSpeechSatModel(small_config(**VARIANTS[kind])).double())
    other = torch.randn(1000, generator=torch.Generator().manual_seed(8)).double()
    expected = riemann(lambda x: last_frames(model(x[None]))[0], other, wave[0].double(), 200)
    found = attribute(model, wave.double(), last_frames, baselines=other, steps=60, batch_size=7)
    torch.testing.assert_close(found.values[0], expected, rtol=0.01, atol=0.003 * float(expected.abs().max()))
    assert found.completeness_error["relative"].item() < 0.005


def inner(model, site):
    """The module of a site, and how its output is replaced; written from the model's source."""
    return {
        "conv.1": (model.feature_extractor.conv_layers[1], lambda old, new: new.transpose(1, 2)),
        "conv.out": (model.feature_extractor.conv_layers[2], lambda old, new: new.transpose(1, 2)),
        "proj.out": (model.feature_projection, lambda old, new: (new, old[1])),
        "hidden.0": (model.encoder.dropout, lambda old, new: new),
        "hidden.2": (model.encoder.layers[1], lambda old, new: (new, old[1])),
        "block.1.attn.v": (model.encoder.layers[1].attention.v_proj, lambda old, new: new.flatten(-2)),
        "block.2.mlp.out": (model.encoder.layers[2].feed_forward.output_dense, lambda old, new: new),
    }[site]


@pytest.mark.parametrize(
    "site", ["conv.1", "conv.out", "proj.out", "hidden.0", "hidden.2", "block.1.attn.v", "block.2.mlp.out"]
)
def test_a_site_s_attribution_is_that_of_a_plain_riemann_sum(site, wave):
    model = shuffled(us.UniSpeechSatModel(small_config(**VARIANTS["pre-LN"])).double())
    here = run(model, wave.double(), site)[1][site][0]
    module, put = inner(model, site)

    def function(value):
        handle = module.register_forward_hook(lambda module, args, old: put(old, value[None]))
        result = last_frames(model(wave.double()))[0]
        handle.remove()
        return result

    start = here.mean(0).expand_as(here)
    expected = riemann(function, start, here, 100).flatten(1).sum(1)
    found = attribute(model, wave.double(), last_frames, wrt=site, baselines="mean")
    torch.testing.assert_close(found.values[0], expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert found.completeness_error["relative"].item() < 1e-3
    gradient = attribute(model, wave.double(), last_frames, wrt=site, method="gradient")
    point = here.clone().requires_grad_()
    times_input = here * torch.autograd.grad(function(point), point)[0]
    torch.testing.assert_close(gradient.values[0], times_input.flatten(1).sum(1))


def test_steps_come_in_chunks_of_any_size(one_model, wave):
    results = [attribute(one_model, wave, last_frames, draws=1, steps=9, batch_size=size) for size in (1, 4, 100)]
    for result in results[1:]:
        torch.testing.assert_close(result.values[0], results[0].values[0], rtol=1e-4, atol=1e-5)


def test_each_baseline_counts_and_random_ones_are_drawn_anew(one_model, wave):
    given = torch.randn(10, generator=torch.Generator().manual_seed(2))
    found = attribute(
        one_model, wave, last_frames, wrt="conv.out", baselines=["noise", "mean", given], draws=2, steps=40
    )
    errors = found.completeness_error
    assert errors["baseline"].tolist() == ["noise", "noise", "mean", "given"]
    assert errors["draw"].tolist() == [0, 1, 0, 0]
    assert found.each[0].shape == (4, 14)
    np.testing.assert_allclose(found.each[0].sum(1), errors["attributed"])
    np.testing.assert_allclose(errors["error"], errors["attributed"] - (errors["value"] - errors["baseline_value"]))
    np.testing.assert_allclose(errors["relative"], abs(errors["error"] / (errors["value"] - errors["baseline_value"])))
    assert errors["value"].nunique() == 1
    assert errors["baseline_value"].nunique() == 4
    torch.testing.assert_close(found.values[0], found.each[0].mean(0))
    table = found.table()
    assert table["spread"].tolist() == pytest.approx(np.std(found.each[0].numpy(), axis=0, ddof=1).tolist())
    # with noise, the other end of the path is what the model makes of that noise
    noise = long_term_noise(wave[0], torch.Generator().manual_seed(0))
    assert errors["baseline_value"][0] == pytest.approx(last_frames(one_model(noise[None])).item(), rel=1e-4)
    again = attribute(one_model, wave, last_frames, wrt="conv.out", draws=2, steps=40)
    torch.testing.assert_close(again.each[0], found.each[0][:2])
    other = attribute(one_model, wave, last_frames, wrt="conv.out", draws=2, steps=40, seed=1)
    assert (other.each[0] - again.each[0]).abs().max() > 0.01


def test_noise_has_the_utterance_s_spectrum_and_level_and_silence_is_40_db_down(one_model, wave):
    white = torch.randn(32_000, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft(white)
    frequency = torch.arange(len(spectrum)) / len(spectrum)
    speech = torch.fft.irfft(spectrum * (1 + 30 * torch.exp(-(((frequency - 0.2) / 0.05) ** 2))), n=32_000)
    speech = speech * (torch.arange(32_000) % 8000 < 4000)  # half of it pauses
    noise = long_term_noise(speech, torch.Generator().manual_seed(1))
    assert noise.square().mean() == pytest.approx(speech.square().mean().item(), rel=1e-4)
    powers = [torch.fft.rfft(x).abs().square()[:16_000].view(100, 160).mean(1).log10() * 10 for x in (speech, noise)]
    assert (powers[0] - powers[1]).abs().max() < 2  # dB, in bands that differ by 30
    assert powers[0].max() - powers[0].min() > 25
    quarters = noise.view(4, -1).square().mean(1)
    assert quarters.min() / quarters.max() > 0.8  # no pauses
    seen = []
    handle = one_model.feature_extractor.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    attribute(one_model, wave, last_frames, baselines="silence", draws=1, steps=2)
    handle.remove()
    level = (seen[-1].square().mean() / wave.square().mean()).log10() * 10
    assert level.item() == pytest.approx(-40, abs=0.5)


def local_model(**changes):
    """No frame sees another one: neither attention nor the positional convolution adds anything."""
    model = shuffled(us.UniSpeechSatModel(small_config(feat_extract_norm="layer", **changes)))
    with torch.no_grad():
        for weight in model.encoder.pos_conv_embed.conv.parameters():
            weight.zero_()
        model.encoder.pos_conv_embed.conv.parametrizations.weight.original1.fill_(1)
        for layer in model.encoder.layers:
            layer.attention.out_proj.weight.zero_()
            layer.attention.out_proj.bias.zero_()
    return model


def test_a_target_of_one_stretch_of_time_gets_all_its_attribution_there(wave):
    model = local_model(do_stable_layer_norm=True)
    stretch = slice(5, 9)

    def target(output):
        return output.last_hidden_state[:, stretch].square().sum((1, 2))

    for site in ("conv.out", "hidden.1"):
        values = attribute(model, wave, target, wrt=site, draws=1, steps=20).values[0]
        outside = values.clone()
        outside[stretch] = 0
        assert outside.abs().max() == 0
        assert values[stretch].abs().min() > 0.01
    # frame t sees the samples from 64 t on, 148 of them
    values = attribute(model, wave, target, draws=1, steps=20).values[0]
    first, end = 64 * 5, 64 * 8 + 148
    assert values[:first].abs().max() == 0
    assert values[end:].abs().max() == 0
    assert values[first:end].abs().sum() > 0.1


def test_an_utterance_in_a_batch_is_attributed_as_it_is_alone(voices, ragged):
    waveforms, mask, lengths = ragged
    arrays = [wave[:length] for wave, length in zip(waveforms[:2], lengths[:2], strict=True)]
    batch = us.Batch.from_arrays(arrays, sampling_rate=16000, ids=["a", "b"])
    target = speaker_cosine(torch.randn(6, generator=torch.Generator().manual_seed(0)))
    together = attribute(voices, batch, target, draws=1, steps=10)
    padded = attribute(voices, waveforms[:2], target, attention_mask=mask[:2], draws=1, steps=10)
    assert together.ids == ("a", "b")
    assert [len(values) for values in together.values] == lengths[:2]
    for row in range(2):
        alone = attribute(voices, batch[row], target, draws=1, steps=10)
        torch.testing.assert_close(together.values[row], alone.values[0], rtol=0, atol=0)
        bare = attribute(voices, arrays[row][None], target, draws=1, steps=10)
        torch.testing.assert_close(padded.values[row], bare.values[0], rtol=0, atol=0)
    # what one listens to is as recorded
    assert torch.equal(together.waveforms[1], arrays[1])
    assert together.table().groupby("id").size().to_dict() == {"a": lengths[0], "b": lengths[1]}
    each = attribute(voices, batch, [target, speaker_cosine(torch.ones(6))], draws=1, steps=10)
    torch.testing.assert_close(each.values[0], together.values[0])
    assert (each.values[1] - together.values[1]).abs().max() > 1e-3
    assert each.settings["target"] == "one for each utterance"


def test_nothing_of_the_model_changes(one_model, wave):
    flags = [index % 2 == 0 for index, _ in enumerate(one_model.parameters())]
    before = {name: weight.clone() for name, weight in one_model.state_dict().items()}
    for weight, flag in zip(one_model.parameters(), flags, strict=True):
        weight.requires_grad_(flag)
        weight.grad = torch.full_like(weight, 7) if flag else None
    state = torch.get_rng_state()
    for method, site in (("ig", "wave"), ("ig", "hidden.1"), ("gradient", "conv.out")):
        attribute(one_model, wave, last_frames, method=method, wrt=site, steps=3, draws=1)
    with torch.no_grad():  # a caller's no_grad is no obstacle
        attribute(one_model, wave, last_frames, steps=2, draws=1)
        assert not torch.is_grad_enabled()
    assert torch.equal(state, torch.get_rng_state())
    assert [weight.requires_grad for weight in one_model.parameters()] == flags
    for weight, flag in zip(one_model.parameters(), flags, strict=True):
        assert (weight.grad == 7).all() if flag else weight.grad is None
    assert all(torch.equal(before[name], weight) for name, weight in one_model.state_dict().items())
    assert not one_model.training
    assert num_hooks(one_model) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error_in_the_target(one_model, wave, error):
    def target(output):
        raise error

    with pytest.raises(error):
        attribute(one_model, wave, target, wrt="hidden.1")
    assert num_hooks(one_model) == 0


def test_frozen_models_are_attributed_the_same(one_model, wave):
    learning = attribute(one_model, wave, last_frames, wrt="conv.0", draws=1, steps=4)
    one_model.requires_grad_(False)
    frozen = attribute(one_model, wave, last_frames, wrt="conv.0", draws=1, steps=4)
    torch.testing.assert_close(frozen.values[0], learning.values[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("site", ["wave", "conv.1", "conv.out", "proj.out"])
def test_training_s_damped_gradients_do_not_spoil_completeness(one_model, wave, site):
    plain = attribute(one_model, wave, last_frames, wrt=site, draws=1, steps=4)
    one_model.config.feature_grad_mult = 0.1
    damped = attribute(one_model, wave, last_frames, wrt=site, draws=1, steps=4)
    torch.testing.assert_close(damped.values[0], plain.values[0], rtol=1e-4, atol=1e-6)


# targets


def test_the_cosine_of_an_utterance_with_another_voice(voices, wave):
    reference = torch.randn(6, generator=torch.Generator().manual_seed(0))
    found = attribute(voices, wave, speaker_cosine(reference), draws=1, steps=8)
    embedding = voices(wave).embeddings[0].tolist()
    dot = sum(a * b for a, b in zip(embedding, reference.tolist(), strict=True))
    expected = dot / (sum(a * a for a in embedding) * sum(b * b for b in reference.tolist())) ** 0.5
    assert found.completeness_error["value"].item() == pytest.approx(expected, rel=1e-4)
    assert found.settings["target"] == "cosine to the reference voice"


def test_classes_and_frames_are_targets_of_models_with_logits(wave):
    config = small_config(num_labels=5, vocab_size=9)
    classes = shuffled(us.UniSpeechSatForSequenceClassification(config))
    letters = shuffled(us.UniSpeechSatForCTC(config))
    for model, place, function in (
        (classes, 3, lambda output: output.logits[:, 3]),
        (letters, (4, 7), lambda output: output.logits[:, 4, 7]),
    ):
        found = attribute(model, wave, place, draws=1, steps=3)
        expected = attribute(model, wave, function, draws=1, steps=3)
        torch.testing.assert_close(found.values[0], expected.values[0], rtol=0, atol=0)
    assert found.settings["target"] == "class 7 in frame 4"
    with pytest.raises(ValueError, match=r"logits are \(\d+, 14, 9\): the target must be \(frame, class\), got 3"):
        attribute(letters, wave, 3)
    with pytest.raises(ValueError, match=r"logits are .* must be a class, got \(1, 2\)"):
        attribute(classes, wave, (1, 2))
    with pytest.raises(ValueError, match=r"target 5: there is no class 5, they run from 0 to 4"):
        attribute(classes, wave, 5)
    with pytest.raises(ValueError, match=r"target \(14, 0\): there is no frame 14, they run from 0 to 13"):
        attribute(letters, wave, (14, 0))


def test_a_target_may_read_hidden_states(one_model, wave):
    def target(output):
        return output.hidden_states[1][:, 2].sum(1)

    found = attribute(one_model, wave, target, wrt="hidden.1", baselines="zero", steps=2)
    state = run(one_model, wave, "hidden.1")[1]["hidden.1"][0, 2]
    assert found.values[0][2].item() == pytest.approx(state.sum().item(), rel=1e-4)
    assert found.values[0].count_nonzero() == 1


# attention


@pytest.mark.parametrize("kind", ["post-LN", "pre-LN"])
def test_rollout_is_a_plain_loop_s(kind, ragged):
    model = shuffled(us.UniSpeechSatModel(small_config(**VARIANTS[kind])))
    waveforms, mask, _ = ragged
    _, trace = run(model, waveforms, "block.*.attn.pattern", attention_mask=mask)
    for row, frames in enumerate((45, 9, 1)):
        arrived = np.eye(frames)
        found = rollout(trace, utterance=row)
        for layer in range(3):
            pattern = trace[f"block.{layer}.attn.pattern"][row].numpy()
            step = np.zeros((frames, frames))
            for q in range(frames):
                for s in range(frames):
                    step[q, s] = 0.5 * (pattern[0, q, s] + pattern[1, q, s]) / 2 + 0.5 * (q == s)
            arrived = step @ arrived
            np.testing.assert_allclose(found[layer].numpy(), arrived, atol=1e-6)
            np.testing.assert_allclose(found[layer].sum(-1), 1, atol=1e-12)
    batch = attribute(model, waveforms, method="rollout", attention_mask=mask)
    torch.testing.assert_close(batch.values[0], rollout(trace)[-1].mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(batch.values[1], rollout(trace, utterance=1)[-1].mean(0), rtol=1e-4, atol=1e-6)
    frame = attribute(model, waveforms[:2], 3, method="rollout", attention_mask=mask[:2], wrt="hidden.1")
    _, upper = run(model, waveforms, "block.{1:}.attn.pattern", attention_mask=mask)
    torch.testing.assert_close(frame.values[1], rollout(upper, utterance=1)[-1][3], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["post-LN", "pre-LN"])
def test_value_weighted_vectors_add_up_to_the_output_and_the_norms_are_theirs(kind, ragged):
    model = shuffled(us.UniSpeechSatModel(small_config(**VARIANTS[kind])))
    waveforms, mask, _ = ragged
    sites = [f"block.1.attn.{name}" for name in ("pattern", "v", "out")]
    _, trace = run(model, waveforms, *sites, attention_mask=mask)
    projection = model.encoder.layers[1].attention.out_proj
    for row in range(2):
        pattern, values, out = (trace.ragged(site)[row] for site in sites)
        frames = len(out)
        vectors = torch.zeros(2, frames, frames, 16)  # alpha f(x) of each head, query and key
        for head in range(2):
            for key in range(frames):
                moved = projection.weight[:, 8 * head : 8 * head + 8] @ values[key, head]
                vectors[head, :, key] = pattern[head, :, key, None] * moved
        torch.testing.assert_close(vectors.sum((0, 2)) + projection.bias, out, rtol=1e-4, atol=1e-5)
        each = value_norms(model, trace, 1, utterance=row)
        both = value_norms(model, trace, 1, utterance=row, summed=True)
        torch.testing.assert_close(each.float(), vectors.norm(dim=-1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(both.float(), vectors.sum(0).norm(dim=-1), rtol=1e-4, atol=1e-5)
        found = attribute(model, waveforms, method="norms", wrt="hidden.1", attention_mask=mask)
        torch.testing.assert_close(found.values[row], both.mean(0), rtol=1e-4, atol=1e-5)


# what one sees and hears


def made(values, seconds=None, waveform=None):
    waveform = torch.ones(1600) * 0.5 if waveform is None else waveform
    seconds = torch.arange(len(waveform)).double() / 16000 if seconds is None else seconds
    return Attribution(
        ids=("a",), each=(values[None].double(),), seconds=(seconds,), waveforms=(waveform,), settings={"target": "x"}
    )


def test_one_hears_what_speaks_for_the_target():
    values = torch.zeros(1600)
    values[200:400], values[1000:1200] = 1.0, -2.0
    heard = made(values).play(window=0.002)
    assert heard[250:350].tolist() == pytest.approx([0.5] * 100)
    assert heard[500:].abs().max() == 0
    against = made(values).play(part="negative", window=0.002)
    assert against[1050:1150].tolist() == pytest.approx([0.5] * 100)
    assert against[:900].abs().max() == 0
    both = made(values).play(part="both", window=0.002)
    assert both[300].item() == pytest.approx(0.25)
    assert both[1100].item() == pytest.approx(0.5)
    # frames: between the centres the attribution goes over
    frames = made(torch.tensor([0.0, 4.0, 0.0]), torch.tensor([0.02, 0.05, 0.08]))
    heard = frames.play(window=0.001)
    assert heard[800].item() == pytest.approx(0.5, rel=0.02)
    assert heard[560].item() == pytest.approx(0.25, rel=0.05)
    # nothing beyond full scale, and short utterances keep their length
    assert made(values, waveform=torch.full((1600,), 3.0)).play().max() == pytest.approx(1)
    assert len(made(torch.ones(300), waveform=torch.ones(300)).play()) == 300
    with pytest.raises(ValueError, match="no attribution of 'a' is negative: there is nothing to hear"):
        made(values.clamp(min=0)).play(part="negative")


def test_the_result_can_be_written(one_model, wave, tmp_path):
    found = attribute(one_model, wave, last_frames, draws=1, steps=2, wrt="conv.out")
    found.save(tmp_path / "a.csv")
    import json

    import pandas as pd

    table = pd.read_csv(tmp_path / "a.csv")
    assert table["value"].tolist() == pytest.approx(found.values[0].tolist())
    # frame t begins at 64 t and sees 148 samples
    assert table["seconds"].tolist() == pytest.approx([(64 * t + 74) / 16000 for t in range(14)])
    assert table["spread"].isna().all()
    settings = json.loads((tmp_path / "a.json").read_text())
    assert (settings["steps"], settings["wrt"], settings["target"]) == (2, "conv.out", "last_frames")


# bad input


BAD = {
    "site": (dict(wrt="hiden.1"), "no site matches 'hiden.1'.*hidden.1"),
    "several sites": (dict(wrt="hidden.*"), r"wrt='hidden.\*' names 4 sites"),
    "square site": (dict(wrt="block.0.attn.pattern"), "attribution needs 'wave' or"),
    "input of a module": (dict(wrt="block.0.resid_mid"), "input of encoder.layers.0.*attribution needs"),
    "mask": (dict(wrt="mask.indices"), "attribution needs 'wave' or"),
    "method": (dict(method="lime"), "method='lime' must be one of 'ig', 'gradient', 'rollout', 'norms'"),
    "steps": (dict(steps=0), "steps=0 must be at least 1"),
    "draws": (dict(draws=0), "draws=0 must be at least 1"),
    "zero wave": (dict(baselines=["noise", "zero"]), "a waveform of zeros .* is no baseline.*take 'noise', 'silence'"),
    "mean wave": (dict(baselines="mean"), "a waveform of zeros .* is no baseline"),
    "given zeros": (dict(baselines=torch.zeros(1000)), "a waveform of zeros .* is no baseline"),
    "constant": (dict(baselines=torch.ones(1000)), "a waveform of zeros .* is no baseline"),
    "unknown": (dict(baselines="blur"), "no baseline 'blur' at 'wave'; take noise, silence or a tensor"),
    "none": (dict(baselines=[]), "integrated gradients need a baseline"),
    "short": (dict(baselines=torch.randn(999)), r"at 'wave' must be \(1000,\) or longer for '0', got \(999,\)"),
    "batch": (dict(baselines=torch.randn(1, 1000)), r"must be \(1000,\) or longer for '0', got \(1, 1000\)"),
    "NaN": (dict(baselines=torch.full((1000,), torch.nan)), "a baseline holds NaN or Inf"),
    "shape": (dict(wrt="conv.out", baselines=torch.randn(9)), r"must be \(14, 10\) or \(10,\) for '0', got \(9,\)"),
    "not ig": (dict(method="gradient", baselines="noise"), "baselines belong to method='ig'"),
    "rollout site": (dict(target=None, method="rollout", wrt="wave"), "'hidden.0' to 'hidden.2'"),
    "last layer": (dict(target=None, method="norms", wrt="hidden.3"), "'hidden.0' to 'hidden.2'"),
    "rollout target": (dict(method="rollout"), "rollout and norms say where a frame looks; give its number"),
    "far frame": (dict(target=14, method="rollout"), "target=14: the utterance has 14 frames, 0 to 13"),
    "no target": (dict(target=None), "target=None must be a function of the model's output"),
    "tensor": (dict(target=torch.ones(6)), r"a tensor \(6,\) must be a function.*speaker_cosine"),
    "word": (dict(target="speaker"), "target='speaker' must be a function"),
    "targets": (dict(target=[0, 1]), "2 targets were given for 1 utterances"),
    "no logits": (dict(target=1), "this model has no logits"),
    "vector": (
        dict(target=lambda output: output.last_hidden_state.mean(1)),
        r"one number for each utterance, \(16,\) for 16 of them; got \(16, 16\)",
    ),
    "batch mean": (dict(target=lambda output: output.last_hidden_state.mean()), r"got \(\). Reduce over frames"),
    "number": (dict(target=lambda output: 1.0), "got float"),
    "detached": (dict(target=lambda output: output.last_hidden_state.detach().sum((1, 2))), "no gradient at 'wave'"),
    "before": (
        dict(target=lambda output: output.hidden_states[0].sum((1, 2)), wrt="hidden.2"),
        "no gradient at 'hidden.2': it reads nothing that comes after",
    ),
    "NaN target": (
        dict(target=lambda output: output.last_hidden_state.sum((1, 2)) * torch.nan),
        "the target is not finite for utterance '0'",
    ),
}


@pytest.mark.wrong_types
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_a_sentence(one_model, wave, case):
    options, message = BAD[case]
    options = {"target": last_frames} | options
    with pytest.raises(ValueError, match=message):
        attribute(one_model, wave, **options)
    assert num_hooks(one_model) == 0


def test_training_mode_is_refused(voices, wave):
    voices.tdnn.train()
    with pytest.raises(ValueError, match=r"tdnn is in training mode, where every pass differs; call model.eval\(\)"):
        attribute(voices, wave, speaker_cosine(torch.ones(6)))


@pytest.mark.wrong_types
def test_parts_are_positive_negative_or_both():
    with pytest.raises(ValueError, match="part='loud' must be one of 'positive', 'negative', 'both'"):
        made(torch.ones(1600)).play(part="loud")


@pytest.mark.wrong_types
def test_bad_waveforms_and_references_are_refused(voices, one_model, wave):
    spoilt = wave.clone()
    spoilt[0, 3] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or Inf in utterance\(s\) \[0\]"):
        attribute(voices, spoilt, speaker_cosine(torch.ones(6)))
    with pytest.raises(ValueError, match=r"attention_mask belongs to a tensor \(batch, samples\)"):
        attribute(voices, wave[0], speaker_cosine(torch.ones(6)), sampling_rate=16000, attention_mask=wave)
    for wrong in (torch.ones(1, 1, 6), torch.tensor([1.0, torch.nan])):
        with pytest.raises(ValueError, match=r"reference must be one x-vector \(dim,\), or one for each .* of finite"):
            speaker_cosine(wrong)
    with pytest.raises(ValueError, match="compares each utterance with a value of its own, .* a single x-vector"):
        attribute(voices, wave, speaker_cosine(torch.ones(1, 6)))
    with pytest.raises(ValueError, match="reads embeddings of width 5, got width 6"):
        attribute(voices, wave, speaker_cosine(torch.ones(5)))
    with pytest.raises(ValueError, match="reads embeddings of width 5, Wav2Vec2BaseModelOutput has none"):
        attribute(one_model, wave, speaker_cosine(torch.ones(5)))
    with pytest.raises(ValueError, match=r"are no classes; the target of a voice is unisat.metrics.speaker_cosine\("):
        attribute(voices, wave, 2)


def test_rollout_needs_consecutive_layers(one_model, wave):
    with torch.no_grad(), capture(one_model, "block.0.attn.pattern", "block.2.attn.pattern") as trace:
        one_model(wave)
    with pytest.raises(ValueError, match=r"consecutive layers, the trace has those of \[0, 2\]"):
        rollout(trace)
    with pytest.raises(KeyError, match="'block.1.attn.pattern' was not captured"):
        value_norms(one_model, trace, 1)


def test_the_built_in_voices_are_complete_within_a_percent():
    model = us.load("tiny", "xvector")
    batch = us.corpus.builtin().batch([0, 1])
    arrays = [wave[8000:28000] for wave in batch.waveforms]
    batch = us.Batch.from_arrays(arrays, sampling_rate=16000)
    with torch.no_grad():
        reference = model(batch.input_values[1:]).embeddings[0]
    found = attribute(model, batch[0], speaker_cosine(reference), wrt="conv.out", draws=1)
    error = found.completeness_error.iloc[0]
    assert error["relative"] < 0.01
    assert error["value"] - error["baseline_value"] > 0.3
