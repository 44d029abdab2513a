"""The families beside UniSpeech-SAT: what is watched, padding, bad input; parity is in parity/test_family.py."""

import json
import re

import numpy as np
import pytest
import reference
import torch
from conftest import FAMILIES, family_config, relative, shuffled
from safetensors.torch import load_file, save_file

import unisat as us
from unisat.config import FAMILIES as NAMES
from unisat.configs import CONFIGS
from unisat.contrastive import draw_negatives
from unisat.interpret.activations.attention import measures
from unisat.interpret.activations.attention_blocks import MEASURES, rollout_of
from unisat.interpret.activations.sites import site_list
from unisat.shortcuts import plain

OTHERS = [family for family in NAMES if family != "unispeech-sat"]
KINDS = {
    **{f"{family}, post-LN": (family, {}) for family in OTHERS},
    **{
        f"{family}, pre-LN": (family, {"do_stable_layer_norm": True, "feat_extract_norm": "layer"})
        for family in OTHERS
        if family != "data2vec-audio"
    },
    "hubert, batch norm": ("hubert", {"conv_pos_batch_norm": True}),
}


def made(family, head="Model", **changes):
    return shuffled(getattr(us, NAMES[family] + head)(family_config(family, **changes)))


@pytest.fixture(params=KINDS)
def model(request):
    family, changes = KINDS[request.param]
    model = made(family, **changes)
    for name, buffer in model.named_buffers():  # statistics of a batch norm, as training would leave them
        if "running" in name:
            buffer.copy_(torch.rand(buffer.shape, generator=torch.Generator().manual_seed(0)) + 0.5)
    return model


@pytest.fixture
def wavlm():
    return made("wavlm")


@torch.no_grad()
def test_a_padded_utterance_gets_what_it_gets_alone(model, ragged):
    waveforms, mask, lengths = ragged
    together = model(waveforms, mask, output_hidden_states=True, output_attentions=True)
    for row, length in enumerate(lengths):
        alone = model(waveforms[row : row + 1, :length], output_hidden_states=True, output_attentions=True)
        frames, last = alone.hidden_states[0].shape[1], alone.last_hidden_state.shape[1]
        assert together.lengths[row] == last == int(together.valid[row].sum())
        assert relative(together.last_hidden_state[row, :last], alone.last_hidden_state[0]) <= 1e-5
        for a, b in zip(together.hidden_states, alone.hidden_states, strict=True):
            assert relative(a[row, :frames], b[0]) <= 1e-5
        for a, b in zip(together.attentions, alone.attentions, strict=True):
            assert relative(a[row, :, :frames, :frames], b[0]) <= 1e-5


@torch.no_grad()
def test_the_fast_ways_give_the_formulas_numbers(model, ragged):
    waveforms, mask, _ = ragged
    for given in (None, mask):
        fast = model(waveforms, given)
        with plain():
            expected = model(waveforms, given)
        assert relative(fast.last_hidden_state[fast.valid], expected.last_hidden_state[fast.valid]) <= 1e-5


@torch.no_grad()
def test_raw_hooks_see_what_sites_record(model, ragged):
    waveforms, mask, _ = ragged
    sites = site_list(model)
    seen, handles = {}, []
    for site in sites:
        module = model.get_submodule(site.module)

        def keep(module, *values, site=site):
            seen[site.name] = site.read(values[-1]).clone()

        add = module.register_forward_pre_hook if site.side == "input" else module.register_forward_hook
        handles.append(add(keep))
    model(waveforms, mask)
    for handle in handles:
        handle.remove()
    _, trace = us.run(model, waveforms, "*", attention_mask=mask)
    assert [site.name for site in sites] == list(trace.sites) == list(seen)
    for name, value in seen.items():
        assert torch.equal(trace[name], value), name
    with_all = model(waveforms, mask, output_hidden_states=True, output_attentions=True)
    for k, state in enumerate(with_all.hidden_states):
        assert relative(trace[f"hidden.{k}"], state) <= 1e-6
    for k, pattern in enumerate(with_all.attentions):
        assert relative(trace[f"block.{k}.attn.pattern"], pattern) <= 1e-5


@torch.no_grad()
def test_the_parts_of_a_layer_add_up(model, ragged):
    waveforms, mask, _ = ragged
    config = model.config
    _, trace = us.run(model, waveforms, "*", attention_mask=mask)
    for k in range(config.num_hidden_layers):
        at = {name: trace[f"block.{k}.{name}"] for name in "resid_pre resid_mid attn.out resid_post mlp.out".split()}
        assert relative(at["resid_pre"] + at["attn.out"], at["resid_mid"]) <= 1e-6
        q, key, v = (trace[f"block.{k}.attn.{side}"].transpose(1, 2) for side in "qkv")
        scores = q @ key.transpose(2, 3) / q.shape[-1] ** 0.5
        if config.model_type == "wavlm":
            scores = scores + trace[f"block.{k}.attn.bias"]
        frames = trace.valid("block.0.attn.q")
        pattern = scores.masked_fill(~frames[:, None, None], -torch.inf).softmax(-1)
        assert relative(trace[f"block.{k}.attn.pattern"], pattern) <= 1e-5
        assert relative(trace[f"block.{k}.attn.z"].transpose(1, 2), pattern @ v) <= 1e-5
        if config.do_stable_layer_norm:
            assert relative(at["resid_mid"] + at["mlp.out"], at["resid_post"]) <= 1e-6


@torch.no_grad()
def test_gradients_reach_every_weight(model, ragged):
    waveforms, mask, _ = ragged
    model.train()
    model.config.layerdrop = 0.0
    hidden = torch.ones(3, 45, dtype=torch.bool) & us.frames.valid_positions(torch.tensor([45, 9, 1]), 45)
    hidden[:, 1::2] = False
    with torch.enable_grad():
        model(waveforms, mask, mask_time_indices=hidden).last_hidden_state.square().mean().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0 or name.endswith("k_proj.bias"), name


def test_files_keep_everything(model, tmp_path, ragged):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == model.config.model_type
    loaded = us.AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.config.to_dict() == us.AutoConfig.from_pretrained(tmp_path).to_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


# ---- WavLM ----


@torch.no_grad()
def test_the_bias_is_the_formula_pair_by_pair(wavlm, ragged):
    waveforms, mask, _ = ragged
    _, trace = us.run(wavlm, waveforms, "block.*", attention_mask=mask)
    table, config = wavlm.encoder.layers[0].attention.rel_attn_embed.weight, wavlm.config
    for k, layer in enumerate(wavlm.encoder.layers):
        hidden = trace.ragged(f"block.{k}.resid_pre")[1]  # what the attention of a post-LN layer reads
        linear, scale = layer.attention.gru_rel_pos_linear, layer.attention.gru_rel_pos_const.flatten()
        gate, bias = reference.gated_bias(hidden, table, linear, scale, config.num_buckets, config.max_bucket_distance)
        assert relative(trace.ragged(f"block.{k}.attn.gate")[1], gate) <= 1e-5
        assert relative(trace.ragged(f"block.{k}.attn.bias")[1], bias) <= 1e-5
    with pytest.raises(AttributeError):
        _ = wavlm.encoder.layers[1].attention.rel_attn_embed


@torch.no_grad()
def test_rows_of_the_bias_are_those_of_the_whole(wavlm):
    whole = wavlm.encoder.position_bias(30)
    assert whole.shape == (2, 30, 30)
    assert torch.equal(wavlm.encoder.position_bias(30, 7, 12), whole[:, 7:12])


@torch.no_grad()
def test_an_edit_of_the_bias_changes_the_attention(wavlm, ragged):
    waveforms, mask, _ = ragged
    twin = made("wavlm")
    twin.encoder.layers[0].attention.rel_attn_embed.weight.zero_()

    def speech(model):
        output = model(waveforms, mask)
        return output.last_hidden_state[output.valid]

    for site in ("block.*.attn.bias", "block.*.attn.gate"):
        with us.intervene(wavlm, us.Ablate(site)):
            assert relative(speech(wavlm), speech(twin)) <= 1e-5
    assert relative(speech(wavlm), speech(twin)) > 1e-3


def test_the_layer_with_the_table_is_never_dropped(wavlm, ragged):
    waveforms, _, _ = ragged
    wavlm.train()
    wavlm.config.layerdrop = 1.0
    attentions = wavlm(waveforms, output_attentions=True).attentions
    assert [pattern is None for pattern in attentions] == [False, True, True]
    other = made("hubert", layerdrop=1.0).train()
    assert other(waveforms, output_attentions=True).attentions == (None, None, None)


@torch.no_grad()
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_statistics_of_attention_count_the_bias(wavlm, ragged, block):
    waveforms, mask, _ = ragged
    table = us.attention_statistics(wavlm, waveforms, near=2, block=block, attention_mask=mask)
    _, trace = us.run(wavlm, waveforms, "block.*.attn.pattern", attention_mask=mask)
    seconds = trace.seconds("block.0.attn.pattern")
    for layer in range(3):
        for row, heads in enumerate(trace.ragged(f"block.{layer}.attn.pattern")):
            described = [measures(head, seconds[: len(head)], near=2) for head in heads]
            expected = [[one[name] for name in MEASURES] for one in described]
            found = table.loc[(str(row), layer)]
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    rows = rollout_of(wavlm, waveforms, [3, 44], block=block, attention_mask=mask)
    torch.testing.assert_close(rows, us.rollout(trace)[-1][[3, 44]].float(), rtol=1e-5, atol=1e-6)
    assert not rows.requires_grad


# ---- what watches ----


@pytest.mark.filterwarnings("ignore:clean and corrupt utterances differ")  # noises without a voice do, or do not
@pytest.mark.parametrize("family", OTHERS)
def test_banks_sweeps_and_long_recordings(family, clip):
    model = made(family, **({"do_stable_layer_norm": True} if family != "data2vec-audio" else {}))
    batch = us.Batch.from_arrays([clip, clip[:9000]], sampling_rate=16000)
    bank = us.collect(model, batch, sites=["hidden.*"], reduce="mean", progress=False)
    output = model(batch.input_values, batch.attention_mask, output_hidden_states=True)
    kept = us.frames.stack_length(9000, model.config.conv_kernel, model.config.conv_stride)
    for k, state in enumerate(output.hidden_states):
        np.testing.assert_allclose(bank[f"hidden.{k}"][1], state[1, :kept].mean(0).detach(), rtol=1e-4, atol=1e-5)
    other = us.Batch.from_arrays([clip.flip(0), clip[1000:10000]], sampling_rate=16000)

    def metric(output):
        return (output.last_hidden_state[..., 0] * output.valid).sum(1) / output.lengths

    # the clean states in the place of the corrupt ones bring all of the effect back, and masks of padding are the same
    table = us.sweep(model, batch, other, "hidden.*", metric, progress=False).table()
    assert len(table) == 4
    np.testing.assert_allclose(table["effect"].iloc[[0, 3]], 1, atol=1e-4)
    long = us.encode_long(model, clip, layers="all", do_normalize=False)
    whole = model(clip[None], output_hidden_states=True).hidden_states
    assert len(long.hidden_states) == len(whole)
    for k, state in enumerate(whole):
        assert relative(long.hidden_states[k], state[0].detach()) <= 1e-5


# ---- parts of one family ----


@torch.no_grad()
def test_hubert_s_tuple_is_the_reference_s(ragged):
    model = made("hubert")
    output = model(ragged[0], output_hidden_states=True)
    assert len(output) == 2
    assert output[1] is output.hidden_states
    assert output.extract_features.shape == (3, 45, 10)


@torch.no_grad()
def test_a_batch_norm_in_front_of_the_positions():
    model = made("hubert", conv_pos_batch_norm=True)
    embedding = model.encoder.pos_conv_embed
    norm, hidden = embedding.batch_norm, torch.randn(1, 30, 16, generator=torch.Generator().manual_seed(0))
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    normed = (hidden - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
    around = torch.cat([torch.zeros(1, 8, 16), normed, torch.zeros(1, 8, 16)], dim=1)
    expected = torch.zeros(1, 30, 16)
    for t in range(30):
        for channel in range(16):
            group = slice(0, 8) if channel < 8 else slice(8, 16)
            weight = embedding.conv.weight[channel]  # (8, 16): of the group's channels and the taps
            expected[0, t, channel] = (around[0, t : t + 16, group].T * weight).sum() + embedding.conv.bias[channel]
    assert relative(embedding(hidden), torch.nn.functional.gelu(expected)) <= 1e-5


@torch.no_grad()
def test_frames_behind_an_adapter_are_counted():
    model = made("wav2vec2", adapter_kernel_size=2, adapter_stride=3)
    for samples in (500, 1000, 2345):
        output = model(torch.zeros(1, samples), output_hidden_states=True)
        assert model.get_feat_extract_output_lengths(samples) == output.last_hidden_state.shape[1]
        front = model.get_feat_extract_output_lengths(torch.tensor([samples]), add_adapter=False)
        assert front.tolist() == [output.hidden_states[0].shape[1]]


def test_layers_of_an_adapter_are_never_dropped(ragged):
    model = made("wav2vec2", layerdrop=1.0).train()
    assert model(ragged[0]).last_hidden_state.shape == (3, 12, 12)
    assert model.encoder.layers[0].attention.training


# ---- wav2vec 2.0's pretraining ----


@pytest.fixture
def pretrained(ragged):
    """A pretraining model, waveforms, their mask, the frames to hide, and negatives drawn for them."""
    waveforms, mask, _ = ragged
    model = made("wav2vec2", "ForPreTraining", add_adapter=False, num_negatives=4)
    hidden = torch.zeros(3, 45, dtype=torch.bool)
    hidden[0, 3:30] = hidden[1, 2:8] = True
    generator = torch.Generator().manual_seed(0)
    return model, waveforms, mask, hidden, draw_negatives(hidden, 4, generator=generator)


@torch.no_grad()
def test_the_contrastive_loss_frame_by_frame(pretrained):
    model, waveforms, mask, hidden, negatives = pretrained
    with us.capture(model, "quant.codes") as trace:
        output = model(waveforms, mask, mask_time_indices=hidden, sampled_negative_indices=negatives)
    codes, total = trace["quant.codes"].flatten(0, 1), 0.0
    quantized = output.projected_quantized_states.flatten(0, 1)
    rows = {tuple(place): row for row, place in enumerate(hidden.nonzero().tolist())}
    for (utterance, frame), row in rows.items():
        own = utterance * 45 + frame
        rivals = [n for n in negatives[row].tolist() if codes[n].tolist() != codes[own].tolist()]
        anchor = output.projected_states[utterance, frame].tolist()
        scores = [reference.cosine(anchor, quantized[n].tolist()) / 0.1 for n in [own, *rivals]]
        total += np.logaddexp.reduce(scores) - scores[0]
    assert abs(output.contrastive_loss.item() - total) <= 1e-4 * total
    used = sum(reference.perplexity(codes[hidden.flatten(), group].tolist(), 8) for group in range(2))
    assert abs(output.codevector_perplexity.sum().item() - used) <= 1e-4
    assert abs(output.diversity_loss.item() - (16 - used) / 16 * len(rows)) <= 1e-3
    assert abs(output.loss.item() - output.contrastive_loss.item() - 0.1 * output.diversity_loss.item()) <= 1e-4


@torch.no_grad()
def test_the_quantizer_reads_the_convolutions(pretrained, ragged):
    model, waveforms, mask, hidden, _ = pretrained
    with_mask = us.run(model, waveforms, "quant.in", attention_mask=mask, mask_time_indices=hidden)
    without = us.run(model, waveforms, "quant.in", attention_mask=mask)
    assert torch.equal(with_mask[1]["quant.in"], without[1]["quant.in"])  # masks hide frames from the transformer alone
    assert torch.equal(without[1]["quant.in"], model.wav2vec2(waveforms, mask).extract_features)
    assert without[0].loss is None
    table = us.sites(model, "quant.*")
    assert table.loc["quant.in", "shape"] == "batch frames hidden=10"


def test_negatives_are_other_hidden_frames_of_the_utterance():
    hidden = torch.zeros(3, 20, dtype=torch.bool)
    hidden[0, 2:7] = hidden[2, [0, 9]] = True
    found = draw_negatives(hidden, 200, generator=torch.Generator().manual_seed(1))
    places = (hidden.flatten()).nonzero().flatten().tolist()
    assert found.shape == (7, 200)
    for own, row in zip(places, found.tolist(), strict=True):
        allowed = [place for place in places if place // 20 == own // 20 and place != own]
        counts = np.array([row.count(place) for place in allowed])
        assert counts.sum() == 200
        assert (abs(counts - 200 / len(allowed)) < 40).all()
    hidden[1, 4] = True
    with pytest.raises(ValueError, match=r"utterance\(s\) \[1\] hide one frame; a negative is another hidden frame"):
        draw_negatives(hidden, 5)


def test_pretraining_trains(pretrained):
    model, waveforms, mask, hidden, _ = pretrained
    model.train()
    model.config.layerdrop = 0.0
    output = model(waveforms, mask, mask_time_indices=hidden, generator=torch.Generator().manual_seed(0))
    output.loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0 or name.endswith("k_proj.bias"), name
    bad = torch.zeros(2, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"sampled_negative_indices must be \(3, 45, negatives\) or \(33, negatives\)"):
        model(waveforms, mask, mask_time_indices=hidden, sampled_negative_indices=bad)
    with pytest.raises(ValueError, match="does not read frames behind a convolutional adapter"):
        us.Wav2Vec2ForPreTraining(family_config("wav2vec2"))


def test_a_codebook_is_shown(pretrained, clip):
    model = pretrained[0]
    batch = us.Batch.from_arrays([clip, clip[:9000]], sampling_rate=16000)
    bank = us.collect(model, batch, sites=["quant.codes"], reduce="counts", progress=False)
    report = us.codebook_usage(bank)  # no warning: this quantizer reads all frames as they are
    _, trace = us.run(model, batch, "quant.codes")
    codes = torch.cat(trace.ragged("quant.codes"))
    assert report.counts.sum((0, 2)).tolist() == [len(codes)] * 2
    for group in range(2):
        assert report.counts.sum(0)[group].tolist() == torch.bincount(codes[:, group], minlength=8).tolist()
    us.widgets.quantizer(model, batch).close()


# ---- the authors' own files: names written out a second time ----


def to_authors(name):
    for pattern, new in [
        (r".*masked_spec_embed", "mask_emb"),
        (r".*conv_layers\.(\d+)\.conv\.(.*)", r"feature_extractor.conv_layers.\1.0.\2"),
        (r".*conv_layers\.(\d+)\.layer_norm\.(.*)", r"feature_extractor.conv_layers.\1.2.\2"),
        (r".*feature_projection\.layer_norm\.(.*)", r"layer_norm.\1"),
        (r".*feature_projection\.projection\.(.*)", r"post_extract_proj.\1"),
        (r".*pos_conv_embed\.conv\.parametrizations\.weight\.original0", "encoder.pos_conv.0.weight_g"),
        (r".*pos_conv_embed\.conv\.parametrizations\.weight\.original1", "encoder.pos_conv.0.weight_v"),
        (r".*pos_conv_embed\.conv\.bias", "encoder.pos_conv.0.bias"),
        (r".*attention\.rel_attn_embed\.weight", "encoder.layers.0.self_attn.relative_attention_bias.weight"),
        (r".*layers\.(\d+)\.attention\.gru_rel_pos_const", r"encoder.layers.\1.self_attn.grep_a"),
        (r".*layers\.(\d+)\.attention\.gru_rel_pos_linear\.(.*)", r"encoder.layers.\1.self_attn.grep_linear.\2"),
        (r".*layers\.(\d+)\.attention\.(.*)", r"encoder.layers.\1.self_attn.\2"),
        (r".*layers\.(\d+)\.layer_norm\.(.*)", r"encoder.layers.\1.self_attn_layer_norm.\2"),
        (r".*layers\.(\d+)\.feed_forward\.intermediate_dense\.(.*)", r"encoder.layers.\1.fc1.\2"),
        (r".*layers\.(\d+)\.feed_forward\.output_dense\.(.*)", r"encoder.layers.\1.fc2.\2"),
        (r"(?:.*\.)?(encoder\..*)", r"\1"),
        (r"project_hid\.(.*)", r"final_proj.\1"),
        (r"quantizer\.codevectors", "quantizer.vars"),
        (r"(project_q\..*|quantizer\..*)", r"\1"),
    ]:
        if found := re.fullmatch(pattern, name):
            return found.expand(new)
    raise AssertionError(name)


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("name", ["HubertModel", "WavLMModel", "Wav2Vec2Model", "Wav2Vec2ForPreTraining"])
def test_the_authors_files_give_the_same_model(tmp_path, name, stable, recwarn):
    family = next(family for family in OTHERS if name.startswith(NAMES[family]))
    front = dict(conv_dim=[8] * 7, conv_kernel=[10, 3, 3, 3, 3, 2, 2], conv_stride=[5, 2, 2, 2, 2, 2, 2])
    own = {"max_bucket_distance": 20} if family == "wavlm" else {"add_adapter": False} if family == "wav2vec2" else {}
    own |= {"feat_proj_layer_norm": True} if family == "hubert" else {}
    model = shuffled(getattr(us, name)(family_config(family, **front, **own, do_stable_layer_norm=stable)))
    content = {to_authors(key): value for key, value in model.state_dict().items()}
    assert len(content) == len(model.state_dict())
    if family in ("hubert", "wavlm"):
        content |= {"final_proj.weight": torch.zeros(4, 16), "label_embs_concat": torch.zeros(9, 4)}
    given = {"encoder_attention_heads": 2, "layer_norm_first": stable, "max_distance": 20, "latent_groups": 2}
    torch.save({"cfg": given if family == "wavlm" else {"model": given}, "model": content}, tmp_path / "x.pt")
    loaded = type(model).from_fairseq(tmp_path / "x.pt")
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    wave = torch.randn(1, 9000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(wave)[0], model(wave)[0])
    assert not recwarn.list
    if name == "WavLMModel":
        with pytest.raises(ValueError, match=r"weights that hubert does not have: encoder.layers.0.self_attn.grep_a"):
            us.HubertModel.from_fairseq(tmp_path / "x.pt")
        torch.save({"cfg": {}, "model": content}, tmp_path / "x.pt")
        with pytest.raises(ValueError, match="do not say layer_norm_first"):
            us.WavLMModel.from_fairseq(tmp_path / "x.pt")
        with pytest.raises(ValueError, match="files of data2vec-audio are not read; those of unispeech-sat, wav2vec2"):
            us.Data2VecAudioModel.from_fairseq(tmp_path / "x.pt")


# ---- bad input ----


def test_a_family_s_files_in_another_family_s_class_are_refused(tmp_path):
    made("wavlm").save_pretrained(tmp_path)
    for kind in (us.HubertModel, us.UniSpeechSatModel, us.UniSpeechSatForCTC):
        with pytest.raises(ValueError, match=r"model_type='wavlm'.*load it with unisat.WavLMModel.*AutoModel"):
            kind.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="made from a HubertConfig, got WavLMConfig; use the classes of WavLM"):
        us.HubertModel(family_config("wavlm"))
    with pytest.raises(ValueError, match="UniSpeechSatModel is made from a UniSpeechSatConfig, got HubertConfig"):
        us.UniSpeechSatModel(family_config("hubert"))


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("whisper", "hears log-mel spectra"),
        ("wav2vec2-bert", "hears log-mel spectra"),
        ("seamless_m4t", "hears log-mel spectra"),
        ("bert", "unknown; unisat reads unispeech-sat, wav2vec2, hubert"),
        (7, "unknown"),
        (None, "says nothing"),
    ],
)
def test_families_of_other_houses_are_named(tmp_path, family, said):
    (tmp_path / "config.json").write_text(json.dumps({} if family is None else {"model_type": family}))
    with pytest.raises(ValueError, match=said):
        us.AutoModel.from_pretrained(tmp_path)


def test_a_head_that_a_family_does_not_have(tmp_path):
    made("hubert").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no HubertForXVector; of this family there are HubertModel, HubertFor"):
        us.AutoModelForAudioXVector.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"AutoModel.from_pretrained\(name\)"):
        us.AutoModel()


def test_auto_classes_give_each_family_s_own(tmp_path):
    heads = {
        us.AutoModelForCTC: "ForCTC",
        us.AutoModelForAudioClassification: "ForSequenceClassification",
        us.AutoModelForAudioFrameClassification: "ForAudioFrameClassification",
        us.AutoModelForAudioXVector: "ForXVector",
    }
    for kind, head in heads.items():
        model = kind.from_config(family_config("wavlm", vocab_size=7))
        assert type(model) is getattr(us, f"WavLM{head}")
        model.save_pretrained(tmp_path)
        assert type(kind.from_pretrained(tmp_path, layerdrop=0.0)) is type(model)
        assert kind.from_pretrained(tmp_path, layerdrop=0.0).config.layerdrop == 0
    assert type(us.AutoModelForPreTraining.from_config(us.load().config)) is us.UniSpeechSatForPreTraining


@pytest.mark.parametrize("name", ["encoder.layers.0.attention.rel_attn_embed.weight", "encoder.layer_norm.bias"])
def test_a_checkpoint_without_a_weight_is_refused(tmp_path, name):
    made("wavlm").save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state[name]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"missing from the checkpoint: \n    {name}\n"):
        us.WavLMModel.from_pretrained(tmp_path)


def test_the_vector_for_hidden_frames_may_be_missing_or_useless(tmp_path):
    made("wav2vec2", "ForCTC").save_pretrained(tmp_path)
    without = us.Wav2Vec2ForCTC.from_pretrained(tmp_path, mask_time_prob=0.0)
    assert without.wav2vec2.masked_spec_embed is None
    frames = torch.zeros(1, 45, dtype=torch.bool)
    with pytest.raises(ValueError, match="has no masked_spec_embed"):
        without.wav2vec2(torch.zeros(1, 3000), mask_time_indices=frames)
    without.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"no weights for wav2vec2.masked_spec_embed: they start fresh"):
        again = us.Wav2Vec2ForCTC.from_pretrained(tmp_path, mask_time_prob=0.05)
    assert again.wav2vec2.masked_spec_embed.min() >= 0


def test_adapters_where_there_are_none(tmp_path):
    made("wav2vec2").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"not used by the model: \n    adapter.layers.0.conv.bias"):
        us.Wav2Vec2Model.from_pretrained(tmp_path, add_adapter=False)
    made("wav2vec2", add_adapter=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"missing from the checkpoint: \n    adapter.layers.0.conv.bias"):
        us.Wav2Vec2Model.from_pretrained(tmp_path, add_adapter=True)
    with pytest.raises(ValueError, match="this HubertForCTC has no adapters"):
        made("hubert", "ForCTC").save_adapter("fra", tmp_path)
    with pytest.raises(ValueError, match="ForXVector does not read frames behind a convolutional adapter"):
        us.WavLMForXVector(family_config("wavlm", add_adapter=True))


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("wavlm", {"num_buckets": 3}, "num_buckets=3 must be at least 4"),
        ("wavlm", {"num_buckets": 320, "max_bucket_distance": 80}, "max_bucket_distance=80 beyond a quarter"),
        ("wavlm", {"num_buckets": -1}, "num_buckets=-1 must be positive"),
        ("wav2vec2", {"adapter_stride": 0}, "adapter_stride=0 must be positive"),
        ("wav2vec2", {"num_adapter_layers": 501}, "at most 500"),
        ("wav2vec2", {"output_hidden_size": 1.5}, "output_hidden_size=1.5 must be a positive whole number"),
        ("wav2vec2", {"add_adapter": 1}, "add_adapter=1 is a int; a bool was expected"),
        ("wav2vec2", {"add_adapter": True, "adapter_kernel_size": 10**6, "output_hidden_size": 10**6}, "beyond reason"),
        ("data2vec-audio", {"num_conv_pos_embeddings": 101}, "is a number of layers here, at most 100"),
        ("data2vec-audio", {"do_stable_layer_norm": True}, "a data2vec-audio model has False always"),
        ("hubert", {"conv_pos_batch_norm": "yes"}, "a bool was expected"),
    ],
)
def test_configs_are_checked(family, changes, said):
    with pytest.raises(ValueError, match=said):
        CONFIGS[family](**changes)
    config = CONFIGS[family]()
    with pytest.raises(ValueError, match=said):
        config.replace(**changes)


def test_a_data2vec_file_may_say_what_the_reference_does_not_read():
    config = us.Data2VecAudioConfig.from_dict({"do_stable_layer_norm": True, "feat_extract_norm": "group"})
    assert (config.do_stable_layer_norm, config.feat_extract_norm) == (False, "layer")


def test_every_family_is_tried():
    assert list(FAMILIES) == list(NAMES) == list(CONFIGS)
