import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import shuffled, small_config
from matplotlib.axes import Axes
from scipy import stats

import unisat as us
from unisat.interpret.interventions.edits import Patch, Placebo
from unisat.interpret.interventions.intervene import intervene
from unisat.interpret.interventions.metrics import logit_difference, speaker_cosine
from unisat.interpret.interventions.sweep import SweepResult, sweep
from unisat.plots import effects

QUIET = {"progress": False}


def batch(lengths, seed, speaker=None):
    generator = torch.Generator().manual_seed(seed)
    waves = [torch.randn(length, generator=generator) for length in lengths]
    waves = [wave.cumsum(0) for wave in waves] if seed == 1 else waves  # a voice of its own: low
    return us.Batch.from_arrays(waves, sampling_rate=16000, speaker=speaker)


def first_channel(output):
    """Mean over valid frames of channel 0 of the stream behind layer 1."""
    return (output.hidden_states[2][..., 0] * output.valid).sum(1) / output.lengths


LENGTHS = [900, 1100, 1300, 700, 1500, 800, 1000, 1200]


@pytest.fixture
def pairs():
    return batch(LENGTHS, 1), batch(LENGTHS, 2)


@pytest.fixture
def planted(pairs):
    """A model whose head 1 of layer 1 alone writes to channel 0 of the stream; its other heads write nothing at all.

    It writes the direction in which that head tells clean from corrupt utterances.
    """
    config = small_config(do_stable_layer_norm=True, feat_extract_norm="layer", output_hidden_states=True)
    model = shuffled(us.UniSpeechSatModel(config))
    with torch.no_grad():
        model.feature_projection.projection.weight[0] = model.feature_projection.projection.bias[0] = 0
        positions = model.encoder.pos_conv_embed.conv
        positions.parametrizations.weight.original1[0] = 0
        positions.bias[0] = 0
        attention = [layer.attention for layer in model.encoder.layers]
        for layer in model.encoder.layers:
            layer.attention.out_proj.bias[0] = layer.feed_forward.output_dense.bias[0] = 0
            layer.feed_forward.output_dense.weight[0] = 0
        kept = attention[1].out_proj.weight[:, 8:].clone()
        for each in attention:
            each.out_proj.weight.zero_()
        attention[1].out_proj.weight[:, 8:] = kept
        z = [us.run(model, side, "block.1.attn.z")[1].ragged("block.1.attn.z") for side in pairs]
        apart = torch.stack([(a[:, 1].mean(0) - b[:, 1].mean(0)) for a, b in zip(*z, strict=True)]).mean(0)
        attention[1].out_proj.weight[0, 8:] = apart / apart.norm()
    return model


def test_a_head_that_alone_carries_the_difference_is_found_and_its_placebo_is_not(planted, pairs):
    result = sweep(planted, *pairs, "block.*.attn.z", first_channel, **QUIET)
    table = result.table().set_index(["layer", "head"])
    assert table.index.tolist() == [(layer, head) for layer in range(3) for head in range(2)]
    carrier = table.loc[1, 1]
    assert carrier[["effect", "low", "high"]].tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert carrier.difference == pytest.approx((result.clean - result.corrupt).mean(), rel=1e-5)
    assert abs(carrier.placebo) < 0.5
    assert carrier.placebo_low < carrier.placebo < carrier.placebo_high
    assert (
        max(abs(carrier.placebo_low), abs(carrier.placebo_high)) < 0.8
    )  # cosines in 8 channels have standard deviation 0.35
    assert carrier.p_value < 0.05
    assert carrier.p_adjusted < 0.05
    others = table.drop((1, 1))
    assert others[["effect", "low", "high", "placebo"]].abs().to_numpy().max() < 1e-6
    assert others.p_value.min() == others.p_adjusted.min() == 1
    whole = sweep(
        planted, *pairs, ["block.1.attn.z", "hidden.*"], first_channel, heads=False, placebo=2, **QUIET
    ).table()
    assert whole.site.tolist() == ["hidden.0", "hidden.1", "block.1.attn.z", "hidden.2", "hidden.3"]
    assert whole.layer.tolist() == [0, 1, 1, 2, 3]
    assert whole["head"].isna().all()
    assert whole.effect.tolist() == pytest.approx([1, 1, 1, 1, 0], abs=1e-4)  # hidden.3 comes behind what is measured


@pytest.mark.parametrize("align", ["crop", "stretch"])
def test_numbers_are_those_of_patches_by_hand(planted, align):
    clean, corrupt = batch([900, 1100, 1300], 1), batch([1200, 700, 1300], 2)
    options = dict(align=align, placebo=2, seed=3, **QUIET)
    result = sweep(planted, clean, corrupt, "block.1.attn.v", first_channel, **options)
    draws = np.random.default_rng(3).integers(2**31, size=(2, 2, 3))
    for row in range(3):
        alone = corrupt[row].input_values
        output, source = us.run(planted, clean[row], "block.1.attn.v")
        with torch.no_grad():
            values = [first_channel(output), first_channel(planted(alone))]
            for head in range(2):
                patch = Patch("block.1.attn.v", source, head=head, align=align)
                for edit in (patch, *(Placebo(patch, int(seed)) for seed in draws[head, :, row])):
                    with intervene(planted, edit):
                        values.append(first_channel(planted(alone)))
        ours = [result.clean[row], result.corrupt[row]]
        for head in range(2):
            ours += [result.patched[head, row], *result.placebos[head, :, row]]
        np.testing.assert_allclose(ours, torch.cat(values).numpy(), rtol=1e-4, atol=1e-5)


def test_batches_and_the_global_state_change_nothing(planted, pairs):
    tables = []
    for size, state in ((8, 0), (3, 1)):
        torch.manual_seed(state)
        np.random.seed(state)  # noqa: NPY002
        tables.append(sweep(planted, *pairs, "block.1.attn.z", first_channel, batch_size=size, **QUIET).table())
    pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-5)
    other = sweep(planted, *pairs, "block.1.attn.z", first_channel, seed=1, **QUIET).table()
    assert other.placebo[1] != tables[0].placebo[1]


def test_windows_of_time_add_up_where_the_model_is_linear(planted):
    lengths = [1700, 1650, 1600]
    clean, corrupt = batch(lengths, 1), batch(lengths, 2)
    options = dict(heads=False, placebo=0, **QUIET)
    table = sweep(planted, clean, corrupt, "block.1.attn.z", first_channel, window=0.025, **options).table()
    # behind the head everything is a sum; the shortest has 0.1 s
    assert table.start.tolist() == pytest.approx([0, 0.025, 0.05, 0.075])
    assert table.end.tolist() == pytest.approx([0.025, 0.05, 0.075, 0.1])
    with torch.no_grad():
        states = [planted(b.input_values, b.attention_mask) for b in (clean, corrupt)]
    gap = states[0].hidden_states[2][..., 0] - states[1].hidden_states[2][..., 0]
    total = torch.stack([first_channel(out) for out in states]).diff(dim=0).neg().mean()
    for row in table.itertuples():
        inside = [t for t in range(24) if row.start <= (64 * t + 74) / 16000 < row.end]
        assert len(inside) in (6, 7)
        moved = (gap * states[0].valid)[:, inside].sum(1) / states[0].lengths
        assert row.effect == pytest.approx((moved.mean() / total).item(), rel=1e-3, abs=1e-5)
    assert table[["placebo", "placebo_low", "placebo_high", "p_value", "p_adjusted"]].isna().all(axis=None)


# the numbers


def simulated(units=4, count=10, draws=3, groups=None, seed=0, effect=0.0):
    """Pairs with a gap of about 2, and patches that move by a share of it and noise."""
    rng = np.random.default_rng(seed)
    corrupt = rng.normal(size=count)
    clean = corrupt + 2 + 0.2 * rng.normal(size=count)
    return SweepResult(
        units=pd.DataFrame(
            {"site": "block.0.attn.z", "layer": 0, "head": range(units), "start": np.nan, "end": np.nan}
        ),
        clean=clean,
        corrupt=corrupt,
        patched=corrupt + effect * (clean - corrupt) + 0.3 * rng.normal(size=(units, count)),
        placebos=corrupt + 0.3 * rng.normal(size=(units, draws, count)),
        groups=np.arange(count).astype(str) if groups is None else np.asarray(groups, dtype=str),
    )


def test_effects_intervals_and_placebos_by_hand():
    result = simulated(effect=0.4, groups=list("aabbbccdde"))
    table = result.table()
    for unit, row in enumerate(table.itertuples()):
        moved = [p - c for p, c in zip(result.patched[unit], result.corrupt, strict=True)]
        gap = [a - c for a, c in zip(result.clean, result.corrupt, strict=True)]
        assert row.effect == pytest.approx(sum(moved) / sum(gap))
        assert row.difference == pytest.approx(sum(moved) / 10)
        # leave each of five groups out; Student's t with four degrees of freedom
        others = [[k for k in range(10) if result.groups[k] != name] for name in "abcde"]
        shares = [sum(moved[k] for k in rows) / sum(gap[k] for k in rows) for rows in others]
        mean = sum(shares) / 5
        error = (4 / 5 * sum((share - mean) ** 2 for share in shares)) ** 0.5
        reach = stats.t.ppf(0.975, 4) * error
        assert (row.low, row.high) == pytest.approx((row.effect - reach, row.effect + reach))
        draws = [
            sum(p - c for p, c in zip(draw, result.corrupt, strict=True)) / sum(gap) for draw in result.placebos[unit]
        ]
        assert row.placebo == pytest.approx(sum(draws) / 3)
        assert (row.placebo_low, row.placebo_high) == pytest.approx((min(draws), max(draws)))
        assert row.n == 10
    narrow = result.table(level=0.5)
    assert (narrow.high - narrow.low < table.high - table.low).all()


def test_p_values_are_those_of_all_exchanges_with_placebos():
    result = simulated(effect=0.1, count=5, draws=2, seed=4)
    values = np.concatenate([result.patched[:, None], result.placebos], axis=1)
    every = list(itertools.product(range(3), repeat=5))
    sums = np.array([[unit[choice, range(5)].sum() for choice in every] for unit in values])
    beyond = np.abs(sums - values.sum(2).mean(1, keepdims=True))  # the first is the patch in all pairs
    alone = (beyond >= beyond[:, :1] - 1e-9).mean(1)
    spread = np.sqrt(values.var(1).sum(1, keepdims=True))
    family = ((beyond / spread).max(0) >= (beyond / spread)[:, :1] - 1e-9).mean(1)
    many = SweepResult(**{**vars(result), "n_boot": 40_000}).table()
    np.testing.assert_allclose(many.p_value, alone, atol=0.01)
    np.testing.assert_allclose(many.p_adjusted, family, atol=0.01)
    assert (many.p_adjusted >= many.p_value).all()
    assert 0 < min(alone) < 0.3
    assert (many.p_least == 3.0**-5).all()
    assert (result.table().p_least == 3.0**-5).all()
    assert (simulated(draws=8).table().p_least == 1 / 1001).all()


def test_p_values_of_placebos_are_even_and_one_in_twenty_families_shows_one():
    tables = [simulated(units=10, count=12, seed=seed).table() for seed in range(200)]
    single = np.concatenate([table.p_value for table in tables])
    assert 0.03 < (single <= 0.05).mean() < 0.07
    assert 0.45 < single.mean() < 0.55
    any_of_them = np.array([table.p_adjusted.min() <= 0.05 for table in tables])
    assert 0.01 < any_of_them.mean() < 0.1
    assert np.array([table.p_value.min() <= 0.05 for table in tables]).mean() > 0.25


@pytest.mark.parametrize("count", [6, 12])
def test_intervals_hold_the_true_effect_as_often_as_they_say(count):
    """Pairs differ in how far a patch moves them."""
    inside = []
    for seed in range(600):
        rng = np.random.default_rng(seed)
        corrupt, gap = rng.normal(size=count), 2 + 0.3 * rng.normal(size=count)
        share = 0.5 + 0.2 * rng.normal(size=count)
        result = SweepResult(
            units=pd.DataFrame({"site": ["hidden.1"], "layer": 1, "head": None, "start": np.nan, "end": np.nan}),
            clean=corrupt + gap,
            corrupt=corrupt,
            patched=(corrupt + share * gap + 0.2 * rng.normal(size=count))[None],
            placebos=np.empty((1, 0, count)),
            groups=np.arange(count).astype(str),
        )
        table = result.table()
        inside.append(table.low[0] <= 0.5 <= table.high[0])
    assert 0.93 <= np.mean(inside) <= 0.97


@pytest.mark.filterwarnings("ignore:clean and corrupt")  # few pairs, random weights
def test_what_is_drawn_first(planted):
    run = lambda a, b, **more: sweep(planted, a, b, "hidden.1", first_channel, placebo=0, **more, **QUIET)  # noqa: E731
    lengths = [700] * 4
    unknown = run(batch(lengths, 1), batch(lengths, 2))
    assert unknown.groups.tolist() == list("0123")
    assert unknown.settings["groups"] == "pairs"
    known = run(batch(lengths, 1, list("abca")), batch(lengths, 2, list("xyyx")))
    assert known.groups.tolist() == list("xyyx")
    assert known.settings["groups"] == "speakers of corrupt"
    one = run(batch(lengths, 1, list("abca")), batch(lengths, 2, "x"))
    assert one.groups.tolist() == list("abca")
    given = run(batch(lengths, 1), batch(lengths, 2), groups=list("ppqq"))
    assert given.groups.tolist() == list("ppqq")
    with pytest.raises(
        ValueError, match="groups must name one for each of the 4 pairs, at least two different ones; got 2 names"
    ):
        run(batch(lengths, 1), batch(lengths, 2), groups=["a", "b"])


# metrics


@pytest.mark.filterwarnings("ignore:clean and corrupt")  # few pairs, random weights
def test_speaker_cosine_is_the_cosine_to_each_pair_s_voice():
    config = small_config(tdnn_dim=(12, 12), tdnn_kernel=(3, 1), tdnn_dilation=(1, 1), xvector_output_dim=10)
    model = shuffled(us.UniSpeechSatForXVector(config))
    clean, corrupt = batch([900, 1000, 1100], 1), batch([900, 1000, 1100], 2)
    with torch.no_grad():
        voices = model(clean.input_values, clean.attention_mask).embeddings
        others = model(corrupt.input_values, corrupt.attention_mask).embeddings
    result = sweep(model, clean, corrupt, "embed", speaker_cosine(voices), placebo=0, batch_size=2, **QUIET)
    assert result.clean == pytest.approx([1, 1, 1])
    expected = [
        a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(voices.numpy(), others.numpy(), strict=True)
    ]
    assert result.corrupt == pytest.approx(expected, abs=1e-5)
    assert result.table().effect[0] == pytest.approx(1, abs=1e-4)
    assert result.settings["metric"] == "cosine to the reference voice"
    one = sweep(model, clean, corrupt, "embed", speaker_cosine(voices[0].numpy()), placebo=0, **QUIET)
    assert one.clean[0] == pytest.approx(1)
    assert one.clean[1] < 0.9999
    with pytest.raises(ValueError, match="compares with 2 utterances, there are 3 pairs"):
        sweep(model, clean, corrupt, "embed", speaker_cosine(voices[:2]), **QUIET)
    with pytest.raises(
        ValueError, match=r"Wav2Vec2BaseModelOutput has none; use the x-vector model .*UniSpeechSatForXVector"
    ):
        sweep(model.unispeech_sat, clean, corrupt, "embed", speaker_cosine(voices), **QUIET)


@pytest.mark.filterwarnings("ignore:clean and corrupt")  # few pairs, random weights
def test_logit_difference_of_one_class_less_another():
    model = shuffled(us.UniSpeechSatForSequenceClassification(small_config(num_labels=3, classifier_proj_size=6)))
    clean, corrupt = batch([900, 1000, 1100], 1), batch([900, 1000, 1100], 2)
    with torch.no_grad():
        logits = model(clean.input_values, clean.attention_mask).logits.tolist()
    result = sweep(model, clean, corrupt, "embed", logit_difference([0, 1, 2], 1), placebo=0, batch_size=2, **QUIET)
    assert result.clean == pytest.approx([logits[0][0] - logits[0][1], 0, logits[2][2] - logits[2][1]], abs=1e-5)
    ctc = shuffled(us.UniSpeechSatForCTC(small_config(vocab_size=5)))
    with pytest.raises(ValueError, match=r"reads logits \(batch, classes\), CausalLMOutput has \(3, .*, 5\)"):
        sweep(ctc, clean, corrupt, "embed", logit_difference(0, 1), **QUIET)


# results and mistakes


def test_a_result_is_drawn_and_saved(tmp_path):
    result = simulated()
    assert isinstance(result.plot(), Axes)
    assert isinstance(result.heatmap(), Axes)
    assert result.heatmap(value="placebo").get_xlabel() == "head"
    result.save(tmp_path / "sweep.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "sweep.csv"), result.table(), check_dtype=False)
    assert effects(result.table()).get_ylabel() == "patched place"


def test_settings_say_what_has_to_be_known(planted, pairs):
    import json

    settings = sweep(planted, *pairs, "hidden.1", first_channel, placebo=1, n_boot=50, **QUIET).settings
    assert json.loads(json.dumps(settings)) == settings
    assert settings["metric"] == "first_channel"
    assert (settings["pairs"], settings["placebo"], settings["n_boot"], settings["seed"]) == (8, 1, 50, 0)
    assert settings["gap"]["low"] < settings["gap"]["mean"] < settings["gap"]["high"]


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean": batch([700], 1), "corrupt": batch([700], 2)}, "have 1 and 1 utterances; .* at least two pairs"),
        ({"clean": batch([700] * 3, 1)}, "have 3 and 8 utterances; they are paired in order"),
        ({"clean": batch([700] * 8, 1)}, "block.1.attn.z: utterance 0 has .* frames, its source 9. .*align='crop'"),
        ({"sites": "block.1.attn.zz"}, "did you mean block.1.attn.z"),
        ({"sites": "mask.indices"}, "mask.indices cannot be edited"),
        ({"sites": "block.0.attn.pattern", "placebo": 1}, "Placebo needs channels, and block.0.attn.pattern has none"),
        ({"metric": lambda out: out.last_hidden_state}, r"one finite number for each of 8 utterances, got \(8, "),
        ({"metric": lambda out: 3.0}, "one finite number for each of 8 utterances, got float"),
        ({"metric": lambda out: first_channel(out) / 0}, "one finite number for each of 8 utterances"),
        ({"metric": lambda out: out.lengths.float()}, "the metric is the same for clean and corrupt utterances"),
        ({"window": 1.0}, r"window=1.0 s must be above 0 and fit the shortest utterance, 0.044 s"),
        ({"placebo": -1}, "placebo=-1 must be at least 0"),
        ({"batch_size": 0}, "batch_size=0 at least 1"),
    ],
)
def test_a_user_s_mistake_is_said(planted, pairs, change, message):
    given = dict(clean=pairs[0], corrupt=pairs[1], sites="block.1.attn.z", metric=first_channel, placebo=0) | change
    with pytest.raises(ValueError, match=message):
        sweep(planted, **given, **QUIET)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in planted.modules())


def test_pairs_that_the_metric_does_not_tell_apart_are_warned_of(planted):
    clean, corrupt = batch([700] * 6, 1), batch([700] * 6, 2)
    # the three noises and their counterparts both ways, one of them changed: what tells them apart is that one
    waves = [[*clean.waveforms[:3], *corrupt.waveforms[:3]], [*corrupt.waveforms[:3], *clean.waveforms[:3]]]
    waves[0][0] = waves[0][0] * torch.linspace(0.5, 1, 700)
    both = [us.Batch.from_arrays(side, sampling_rate=16000) for side in waves]
    with pytest.warns(UserWarning, match="clean and corrupt utterances differ by .* are not to be trusted"):
        sweep(planted, *both, "hidden.1", first_channel, placebo=0, **QUIET)
