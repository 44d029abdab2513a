"""Where the reference (transformers 4.37.2) is wrong and we are right, shown on both; see docs/differences.md."""

import logging
import re

import numpy as np
import pytest
import torch
from conftest import ROOT, relative, shuffled
from safetensors.torch import save_file
from test_heads import head_config

import unisat as us

pytestmark = pytest.mark.runs_once

transformers = pytest.importorskip("transformers")
TABLE = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
WAVES = torch.randn(3, 3000, generator=torch.Generator().manual_seed(1))
LENGTHS = [3000, 1400, 700]
MASK = (torch.arange(3000) < torch.tensor(LENGTHS)[:, None]).long()


@pytest.fixture
def both(tmp_path):
    """Make the same model twice: ours, and the reference's from our files."""

    def make(name, **changes):
        ours = shuffled(getattr(us, name)(head_config(**changes)))
        ours.save_pretrained(tmp_path)
        logging.disable(logging.WARNING)
        theirs = getattr(transformers, name).from_pretrained(tmp_path).eval()
        logging.disable(logging.NOTSET)
        return ours, theirs

    return make


def test_every_row_names_a_test_that_exists():
    rows = [line for line in TABLE.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(line.split("|")[1]) for line in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 22
    sources = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    for line in rows:
        file, name = re.search(r"`(test_\w+\.py)::(test_\w+)`", line).groups()
        assert f"def {name}(" in sources[file], line


@torch.no_grad()
def test_padding_does_not_leak(both):
    ours, theirs = both("UniSpeechSatModel")
    for model, leaks in ((theirs, True), (ours, False)):
        alone = model(WAVES[1:2, :1400]).last_hidden_state
        together = model(WAVES * MASK, MASK).last_hidden_state[1:2, : alone.shape[1]]
        assert (relative(together, alone) > 1e-2) == leaks
        assert leaks or relative(together, alone) <= 1e-5


def test_pretraining_gives_its_quantities(both):
    ours, theirs = both("UniSpeechSatForPreTraining")
    wrong, right = theirs(WAVES), ours(WAVES)
    assert wrong.projected_quantized_states is None
    assert wrong.codevector_perplexity is None
    assert wrong.logits.shape[-1] == 10  # the convolutions' channels
    assert right.projected_quantized_states.shape == (3, 45, 8)
    assert right.codevector_perplexity.shape == (2,)
    assert right.logits.shape == (3, 45, 12)  # clusters


def test_pretraining_has_a_loss(both):
    ours, theirs = both("UniSpeechSatForPreTraining")
    assert theirs(WAVES).loss is None
    assert ours(WAVES).loss is None
    hide = torch.arange(45)[None].expand(3, 45) % 2 == 0
    right = ours(WAVES, targets=torch.zeros(3, 45).long(), mask_time_indices=hide)
    assert right.loss.item() > 0
    assert right.loss.requires_grad


def test_pretraining_freezes_its_feature_encoder(both):
    ours, theirs = both("UniSpeechSatForPreTraining")
    with pytest.raises(AttributeError, match="wav2vec2"):
        theirs.freeze_feature_encoder()
    ours.freeze_feature_encoder()
    assert not any(weight.requires_grad for weight in ours.unispeech_sat.feature_extractor.parameters())


def test_language_adapters_load(both, tmp_path):
    ours, _ = both("UniSpeechSatForCTC", do_stable_layer_norm=True, adapter_attn_dim=4)
    other = shuffled(us.UniSpeechSatForCTC(ours.config), seed=7)
    part = {k: v for k, v in other.state_dict().items() if ".adapter_layer." in k or k.startswith("lm_head")}
    save_file(part, tmp_path / "adapter.fra.safetensors")
    with pytest.raises((TypeError, ImportError)):
        transformers.UniSpeechSatForCTC.from_pretrained(tmp_path, target_lang="fra")
    loaded = us.UniSpeechSatForCTC.from_pretrained(tmp_path, target_lang="fra")
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in part.items())


FRAMES = (torch.rand(3, 45, 3, generator=torch.Generator().manual_seed(2)) > 0.5).float()


def test_frame_classification_keeps_its_loss_in_a_tuple(both):
    ours, theirs = both("UniSpeechSatForAudioFrameClassification")
    assert len(theirs(WAVES, labels=FRAMES, return_dict=False)) == 1
    loss, logits = ours(WAVES, labels=FRAMES, return_dict=False)
    assert (loss.ndim, logits.ndim) == (0, 3)


def test_frame_loss_leaves_padding_out_and_keeps_overlap(both):
    ours, theirs = both("UniSpeechSatForAudioFrameClassification")
    valid = ours(WAVES, MASK).valid
    in_padding = torch.where(valid[..., None], FRAMES, 1 - FRAMES)
    one, two = torch.zeros(3, 45, 3), torch.zeros(3, 45, 3)
    one[..., 0] = 1
    two[..., :2] = 1  # a second speaker at the same time
    with torch.no_grad():
        losses = {
            name: [model(WAVES * MASK, MASK, labels=y).loss.item() for y in (FRAMES, in_padding, one, two)]
            for name, model in (("ours", ours), ("theirs", theirs))
        }
    assert losses["theirs"][0] != losses["theirs"][1]
    assert losses["theirs"][2] == losses["theirs"][3]
    assert losses["ours"][0] == losses["ours"][1]
    assert losses["ours"][2] != losses["ours"][3]


def test_one_label_is_regression():
    config = head_config().replace(num_labels=1)
    ours = shuffled(us.UniSpeechSatForSequenceClassification(config))
    theirs = transformers.UniSpeechSatForSequenceClassification(transformers.UniSpeechSatConfig(**config.to_dict()))
    labels = torch.tensor([0.5, -1.0, 2.0])
    with pytest.raises(RuntimeError):
        theirs(WAVES, labels=labels)
    out = ours(WAVES, labels=labels)
    torch.testing.assert_close(out.loss, (out.logits.flatten() - labels).square().mean())


@torch.no_grad()
def test_xvectors_count_frames_with_dilation(both):
    ours, theirs = both("UniSpeechSatForXVector", feat_extract_norm="layer")  # so that only the head can leak
    for model, leaks in ((theirs, True), (ours, False)):
        alone = model(WAVES[1:2, :1400]).embeddings
        together = model(WAVES * MASK, MASK).embeddings[1:2]
        assert (relative(together, alone) > 1e-3) == leaks
        assert leaks or relative(together, alone) <= 1e-5


@torch.no_grad()
def test_xvectors_of_short_clips_are_refused(both):
    ours, theirs = both("UniSpeechSatForXVector")
    samples = round(ours.shortest_seconds * 16000) - 64
    with pytest.warns(UserWarning, match="degrees of freedom"):
        assert theirs(WAVES[:1, :samples]).embeddings.isnan().all()
    with pytest.raises(ValueError, match="an x-vector needs 8 frames"):
        ours(WAVES[:1, :samples])


def test_clips_shorter_than_a_frame_are_refused(both):
    ours, theirs = both("UniSpeechSatModel")
    mask = MASK.clone()
    mask[2, 50:] = 0
    frames = theirs._get_feature_vector_attention_mask(45, mask)
    assert frames[2].sum() > 40  # wraps around: nearly every frame of 50 samples counts
    with pytest.raises(ValueError, match=r"utterance 2 \(50 samples\)"):
        ours(WAVES, mask)


@torch.no_grad()
def test_left_padding_is_refused(both):
    ours, theirs = both("UniSpeechSatModel")
    left = MASK.flip(1)
    assert torch.equal(theirs(WAVES, left).last_hidden_state, theirs(WAVES, MASK).last_hidden_state)
    with pytest.raises(ValueError, match="zeros in front of ones"):
        ours(WAVES, left)


def test_gradients_reach_the_input_in_training(both):
    ours, theirs = both("UniSpeechSatModel")
    wave = WAVES.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="leaf variables"):
        theirs.train()(wave * 2)
    ours.train()(wave * 2).last_hidden_state.sum().backward()
    assert wave.grad.abs().sum() > 0


@torch.no_grad()
def test_a_given_mask_always_holds(both):
    ours, theirs = both("UniSpeechSatModel", apply_spec_augment=False)
    mask = torch.zeros(3, 45, dtype=torch.bool)
    mask[:, 5:20] = True
    for model, ignored in ((theirs, True), (ours, False)):
        plain = model(WAVES).last_hidden_state
        assert torch.equal(model(WAVES, mask_time_indices=mask).last_hidden_state, plain) == ignored
    with pytest.raises(ValueError, match=r"mask.bool\(\)"):
        ours(WAVES, mask_time_indices=mask.long())


@torch.no_grad()
def test_perplexity_counts_the_frames_of_its_mask(both):
    ours, theirs = both("UniSpeechSatForPreTraining")
    hidden = torch.randn(2, 30, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(30).expand(2, 30) < 5
    with pytest.raises(TypeError):
        theirs.quantizer(hidden, mask)
    right = ours.quantizer(hidden, mask).code_perplexity
    assert not torch.equal(right, ours.quantizer(hidden).code_perplexity)
    assert torch.equal(right, ours.quantizer(hidden[:, :5]).code_perplexity)


def test_the_positional_convolution_starts_as_meant():
    config = us.UniSpeechSatConfig(num_hidden_layers=1, hidden_size=192, num_attention_heads=4)
    meant = 2 / (128 * 192) ** 0.5
    theirs = transformers.UniSpeechSatModel(transformers.UniSpeechSatConfig(**config.to_dict()))
    ours = us.UniSpeechSatModel(config)
    assert theirs.encoder.pos_conv_embed.conv.weight.std().item() != pytest.approx(meant, rel=0.1)
    assert ours.encoder.pos_conv_embed.conv.weight.std().item() == pytest.approx(meant, rel=0.02)


@torch.no_grad()
def test_evaluation_leaves_the_random_numbers_alone(both):
    ours, theirs = both("UniSpeechSatModel")
    for model, draws in ((theirs, True), (ours, False)):
        before = torch.get_rng_state()
        model(WAVES)
        assert torch.equal(torch.get_rng_state(), before) != draws


def test_clips_shorter_than_a_span_train(both):
    ours, theirs = both("UniSpeechSatModel", mask_time_length=60, mask_time_prob=0.5)
    with pytest.raises(ValueError, match="mask_length"):
        theirs.train()(WAVES)
    with pytest.warns(UserWarning, match="nothing is hidden"):
        assert torch.isfinite(ours.train()(WAVES).last_hidden_state).all()


def test_features_are_normalised_before_padding():
    audio = [WAVES[0].numpy() + 1, WAVES[1, :700].numpy() * 3]
    theirs = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False)
    ours = us.Wav2Vec2FeatureExtractor(return_attention_mask=False)
    alone = (audio[1] - audio[1].mean()) / np.sqrt(audio[1].var() + 1e-7)
    for extractor, wrong in ((theirs, True), (ours, False)):
        values = extractor(audio, sampling_rate=16000, padding=True, return_tensors="np").input_values[1]
        assert (np.abs(values[:700] - alone).max() > 0.1) == wrong
        assert bool(np.abs(values[700:]).max() > 0) == wrong


def test_loading_older_names_warns_of_nothing_false(both, tmp_path, caplog, recwarn):
    both("UniSpeechSatModel")
    logger = logging.getLogger("transformers.modeling_utils")
    logger.propagate, before = True, logger.propagate
    transformers.logging.set_verbosity_warning()
    transformers.UniSpeechSatModel.from_pretrained(tmp_path)
    theirs = [record.getMessage() for record in caplog.records if "newly initialized" in record.getMessage()]
    logger.propagate = before
    caplog.clear()
    us.UniSpeechSatModel.from_pretrained(tmp_path)
    assert not caplog.records
    assert not recwarn.list
    assert theirs == [] or "original0" in theirs[0]


def test_doubled_letters_survive_skipping_specials(tmp_path):
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    ours = us.Wav2Vec2CTCTokenizer(vocabulary)
    ours.save_pretrained(tmp_path)
    theirs = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    ids = [11, 5, 15, 0, 15, 8]  # H E L blank L O
    assert theirs.decode(ids, skip_special_tokens=True) == "HELO"
    assert ours.decode(ids, skip_special_tokens=True) == "HELLO"


def test_the_norm_for_extraction_learns_where_it_is_used(both):
    for stable in (False, True):
        ours, theirs = both("UniSpeechSatForPreTraining", do_stable_layer_norm=stable)
        assert theirs.layer_norm_for_extract.weight.requires_grad  # meant to be frozen, by a line without effect
        assert ours.layer_norm_for_extract.weight.requires_grad == stable


@torch.no_grad()
def test_frames_and_lengths_are_returned(both):
    ours, theirs = both("UniSpeechSatModel")
    assert "valid" not in theirs(WAVES, MASK)
    out = ours(WAVES, MASK)
    assert torch.equal(out.valid, theirs._get_feature_vector_attention_mask(45, MASK))
    assert torch.equal(out.lengths, theirs._get_feat_extract_output_lengths(MASK.sum(-1)))


@torch.no_grad()
def test_the_temperature_is_used(both):
    cold, theirs = both("UniSpeechSatForPreTraining", contrastive_logits_temperature=0.1)
    reference = theirs(WAVES).logits
    theirs.config.contrastive_logits_temperature = 0.2
    assert torch.equal(theirs(WAVES).logits, reference)
    before = cold(WAVES).logits
    cold.config.contrastive_logits_temperature = 0.2
    torch.testing.assert_close(cold(WAVES).logits, before / 2)


# what has no row of its own in the reference's documents


def test_the_file_s_precision_is_kept(tmp_path):
    shuffled(us.UniSpeechSatModel(head_config())).half().save_pretrained(tmp_path)
    assert transformers.UniSpeechSatModel.from_pretrained(tmp_path).dtype == torch.float32
    assert us.UniSpeechSatModel.from_pretrained(tmp_path).dtype == torch.float16
    assert us.UniSpeechSatModel.from_pretrained(tmp_path, torch_dtype="float32").dtype == torch.float32


def test_an_incomplete_checkpoint_is_refused(tmp_path, caplog):
    model = shuffled(us.UniSpeechSatModel(head_config()))
    model.save_pretrained(tmp_path)
    state = {k: v for k, v in model.state_dict().items() if k != "encoder.layer_norm.bias"}
    save_file(state | {"stray": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    logging.disable(logging.WARNING)
    assert transformers.UniSpeechSatModel.from_pretrained(tmp_path).encoder.layer_norm.bias.eq(0).all()  # made up
    logging.disable(logging.NOTSET)
    with pytest.raises(ValueError, match=r"(?s)missing from the checkpoint: \n    encoder.layer_norm.bias.*stray"):
        us.UniSpeechSatModel.from_pretrained(tmp_path)


def test_configs_are_checked_when_made():
    for wrong in (dict(hidden_dropout=5.0), dict(hidden_act="x"), dict(hidden_size=10), dict(mask_time_length=0)):
        transformers.UniSpeechSatConfig(**wrong)
        with pytest.raises(ValueError, match=next(iter(wrong))):
            us.UniSpeechSatConfig(**wrong)


@torch.no_grad()
def test_outputs_unpack_into_values(both):
    ours, theirs = both("UniSpeechSatModel")
    assert list(theirs(WAVES)) == ["last_hidden_state", "extract_features"]
    out = ours(WAVES)
    assert [id(value) for value in out] == [id(out.last_hidden_state), id(out.extract_features)]
    assert list(out.keys())[:2] == ["last_hidden_state", "extract_features"]


def test_ragged_arrays_are_refused():
    ragged = [np.ones(5, np.float32), np.arange(9.0, dtype=np.float32)]
    theirs = transformers.Wav2Vec2FeatureExtractor()(ragged, sampling_rate=16000, return_tensors="np").input_values
    assert theirs.dtype == object
    extractor = us.Wav2Vec2FeatureExtractor()
    with pytest.raises(ValueError, match="return_tensors=None for a list"):
        extractor(ragged, sampling_rate=16000, return_tensors="np")
    assert [len(one) for one in extractor(ragged, sampling_rate=16000).input_values] == [5, 9]


# the authors' own code, in a few lines each


def frames_of(samples):
    return us.frames.stack_length(samples, us.UniSpeechSatConfig().conv_kernel, us.UniSpeechSatConfig().conv_stride)


def test_the_authors_count_up_to_two_frames_more():
    """They cut the padded batch into as many equal pieces as there are frames; a piece with any sample is valid."""
    more = set()
    for width in range(3000, 60000, 9970):
        piece = width // frames_of(width)
        more |= {min(-(-samples // piece), frames_of(width)) - frames_of(samples) for samples in range(400, width, 31)}
    assert more == {0, 1, 2}


def test_the_authors_penalise_features_of_padding_too():
    features = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0))
    valid = torch.arange(10) < torch.tensor([[10], [3]])
    features[1, :, 3:] *= 3
    ours = us.losses.feature_penalty(features, valid)
    torch.testing.assert_close(ours, torch.cat([features[0].flatten(), features[1, :, :3].flatten()]).square().mean())
    assert features.square().mean() > 1.5 * ours


def test_the_authors_mix_into_padding_and_from_it():
    """They draw place and length in the padded width; a stretch that lies in padding is no overlap."""
    lengths = torch.tensor([4000, 600])
    sounds = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)) * (torch.arange(4000) < lengths[:, None])
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        mixed, mixing = us.mixing.mix_utterances(sounds, lengths, mixing_prob=1.0, normalize=False, generator=generator)
        assert (mixing.end <= lengths).all()
        assert (mixing.source_start + mixing.end - mixing.start <= lengths[mixing.secondary]).all()
        assert not mixed[1, 600:].any()
    ends = np.random.default_rng(0).integers(300, 4000 + 1, 1000)  # theirs, for a stretch of 300 samples
    assert (ends - 300 > 600).mean() > 0.8


@torch.no_grad()
def test_a_frame_without_a_target_stays():
    """The authors cut the features to the targets; here the last frame is encoded, and has no target."""
    model = shuffled(us.UniSpeechSatForPreTraining(head_config()))
    frames = int(model.get_feat_extract_output_lengths(3000))
    mask = torch.ones(3, frames, dtype=torch.bool)
    targets = torch.zeros(3, frames - 1, dtype=torch.long)
    out = model(WAVES, targets=targets, mask_time_indices=mask, generator=torch.Generator().manual_seed(0))
    assert out.logits.shape[1] == frames
    assert out.sample_size == 3 * (frames - 1)


def test_the_authors_never_hide_the_last_frame():
    """They draw starts below ``frames - length``, round for each utterance, and give all as many hidden frames."""
    lengths, generator = torch.full((400,), 30), torch.Generator().manual_seed(0)
    mask = us.masking.span_mask(lengths, 30, mask_prob=0.5, mask_length=3, generator=generator)
    assert mask[:, -1].any()
    random = np.random.default_rng(0)
    starts = np.stack([random.choice(30 - 3, 5, replace=False) for _ in range(400)])
    assert (starts + 3 - 1).max() == 28  # of frames 0 to 29
    hidden = us.masking.span_mask(lengths, 30, mask_prob=0.55, mask_length=3, generator=generator).sum(1)
    assert len(hidden.unique()) > 1


@torch.no_grad()
def test_the_last_layer_of_a_pre_norm_model_is_read_behind_its_norm():
    """The authors read the last layer in front of the final norm; all layers below it are read as they read them."""
    for layer, same in ((2, True), (3, False)):
        config = head_config(do_stable_layer_norm=True, feat_extract_norm="layer", utterance_contrastive_layer=layer)
        model, seen = shuffled(us.UniSpeechSatForPreTraining(config)), []
        part = model.unispeech_sat.encoder.layers[layer - 1]
        hook = part.register_forward_hook(lambda module, args, output, seen=seen: seen.append(output[0]))
        states = model(WAVES).speaker_states
        hook.remove()
        theirs = model.speaker_proj(model.layer_norm_for_extract(seen[0]))
        assert (relative(states, theirs) < 1e-5) == same
