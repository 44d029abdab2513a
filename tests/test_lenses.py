"""What each layer would say: against the model itself, hand computation and planted truth."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import VARIANTS, shuffled, small_config

import unisat as us
from unisat import clusters
from unisat.interpret.features.bank import FeatureBank, Part
from unisat.interpret.units.lenses import Lens, _measure, ctc_lens, kmeans_lens, over_frames, unit_lens


def num_hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


# a head on every layer


@pytest.mark.parametrize("kind", VARIANTS)
def test_the_last_layer_says_what_the_model_says_and_the_others_what_its_head_makes_of_them(kind, ragged):
    waveforms, mask, _ = ragged
    model = shuffled(us.UniSpeechSatForCTC(small_config(vocab_size=7, pad_token_id=0, **VARIANTS[kind])))
    found = ctc_lens(model, waveforms, attention_mask=mask)
    with torch.no_grad():
        output = model(waveforms, mask, output_hidden_states=True)
        norm = model.unispeech_sat.encoder.layer_norm if model.config.do_stable_layer_norm else torch.nn.Identity()
        for row, frames in enumerate((45, 9, 1)):
            assert found.logits[row].shape == (4, frames, 7)
            assert torch.equal(found.logits[row][-1], output.logits[row, :frames])
            for layer in range(3):
                expected = model.lm_head(norm(output.hidden_states[layer][row, :frames]))
                torch.testing.assert_close(found.logits[row][layer], expected, rtol=1e-5, atol=1e-5)
    alone = ctc_lens(model, waveforms[1:2, :700])
    torch.testing.assert_close(alone.logits[0], found.logits[1], rtol=1e-4, atol=1e-4)
    assert found.table().groupby("layer")["agreement"].min()[3] == 1
    assert num_hooks(model) == 0


def test_layers_that_change_nothing_agree_with_the_last(ragged):
    model = shuffled(us.UniSpeechSatForCTC(small_config(vocab_size=7, **VARIANTS["pre-LN"])))
    with torch.no_grad():
        for layer in model.unispeech_sat.encoder.layers[1:]:
            for linear in (layer.attention.out_proj, layer.feed_forward.output_dense):
                linear.weight.zero_()
                linear.bias.zero_()
    found = ctc_lens(model, ragged[0])
    agreement = found.table().groupby("layer")["agreement"].mean().tolist()
    assert agreement[0] < 0.9
    assert agreement[1:] == [1, 1, 1]
    torch.testing.assert_close(found.entropy[0][1], found.entropy[0][3])


@pytest.mark.parametrize("kind", ["post-LN", "pre-LN"])
def test_units_are_read_as_the_pretraining_model_reads_them(kind, ragged):
    waveforms, mask, _ = ragged
    model = shuffled(us.UniSpeechSatForPreTraining(small_config(utterance_contrastive_layer=2, **VARIANTS[kind])))
    hide = torch.zeros(3, 45, dtype=torch.bool)
    hide[0, 3:30] = hide[1, 2:6] = True
    with torch.no_grad():
        output = model(waveforms, mask, output_hidden_states=True, mask_time_indices=hide)
        norm = model.unispeech_sat.encoder.layer_norm if model.config.do_stable_layer_norm else torch.nn.Identity()
        state = norm(output.hidden_states[1][0, 4])
    said = output.logits.argmax(-1)
    targets = torch.where(torch.arange(45) % 3 == 0, (said + 1) % 12, said)  # two thirds are right
    targets = torch.nn.functional.pad(targets, (0, 1), value=0)  # one frame more than the features
    found = unit_lens(model, waveforms, targets, attention_mask=mask, mask_time_indices=hide)
    assert torch.equal(found.logits[0][-1], output.logits[0])
    projected = model.project_hid(state).detach()
    for unit in range(12):
        label = model.label_embeddings_concat[unit].detach()
        cosine = float(projected @ label) / math.sqrt(float(projected @ projected) * float(label @ label))
        temperature = model.config.contrastive_logits_temperature
        assert found.logits[0][1, 4, unit].item() == pytest.approx(cosine / temperature, rel=1e-3, abs=1e-4)
    last = found.table().query("layer == 3")
    assert last["frames_counted"].tolist() == [27, 4, 0]
    assert last["accuracy"].tolist()[:2] == [18 / 27, 3 / 4]
    assert math.isnan(last["accuracy"].tolist()[2])
    shown = unit_lens(model, waveforms, targets, attention_mask=mask).table().query("layer == 3")
    assert shown["frames_counted"].tolist() == [45, 9, 1]
    assert "accuracy" not in unit_lens(model, waveforms).table()


@pytest.fixture
def lens():
    """Two layers, four frames, three classes, 0 the blank; one utterance of each length."""
    logits = torch.tensor(
        [[[9.0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 0]], [[9, 0, 0], [0, 9, 0], [0, 9, 0], [0, 0, 9]]]
    )
    targets = (torch.tensor([0, 1, -100, 1]), torch.tensor([-100]))
    return Lens(
        ids=("a", "b"),
        logits=(logits, logits[:, :1]),
        seconds=(torch.arange(4).double() / 50, torch.zeros(1).double()),
        blank=0,
        targets=targets,
        settings={"model": "none"},
    )


def test_the_table_counts_by_hand(lens, tmp_path):
    table = lens.table()
    first = table.iloc[0]
    assert table[["id", "layer", "frames"]].to_numpy().tolist() == [["a", 0, 4], ["a", 1, 4], ["b", 0, 1], ["b", 1, 1]]
    assert first["agreement"] == 0.5  # says 0 0 1 0, the last layer 0 1 1 2
    assert first["constant"] == 0.5
    assert first["blank"] == 0.75
    assert first["agreement_said"] == pytest.approx(1 / 3)
    assert first["accuracy"] == pytest.approx(1 / 3)  # 0 0 0 against 0 1 1
    assert first["accuracy_constant"] == pytest.approx(2 / 3)
    assert table["accuracy"][1] == pytest.approx(2 / 3)
    share = math.exp(9) / (math.exp(9) + 2)
    rest = 1 / (math.exp(9) + 2)
    sure = -(share * math.log2(share) + 2 * rest * math.log2(rest))
    assert first["entropy_bits"] == pytest.approx((3 * sure + math.log2(3)) / 4)
    assert np.isnan(table["agreement_said"][2])
    assert table["frames_counted"].tolist() == [3, 3, 0, 0]
    lens.save(tmp_path / "lens.csv")
    assert len(pd.read_csv(tmp_path / "lens.csv")) == 4


def test_a_share_over_all_frames_weighs_utterances_by_theirs():
    rows = {"layer": [0, 1, 0, 1], "frames": [4, 4, 12, 12], "agreement": [0.5, 1.0, 0.1, 0.2]}
    table = pd.DataFrame(rows).assign(counted=[4, 4, 0, 0], accuracy=[0.3, 0.6, np.nan, np.nan])
    assert over_frames(table, "agreement", "frames").to_dict() == pytest.approx({0: 3.2 / 16, 1: 6.4 / 16})
    assert over_frames(table, "accuracy", "counted").to_dict() == pytest.approx({0: 0.3, 1: 0.6})


def test_each_layer_is_written_as_text(lens):
    tokenizer = us.Wav2Vec2CTCTokenizer({"<pad>": 0, "A": 1, "B": 2, "<unk>": 3, "|": 4, "<s>": 5, "</s>": 6})
    texts = lens.decode(tokenizer)
    assert texts["text"].tolist() == ["A", "AB", "", ""]
    assert texts[["id", "layer"]].to_numpy().tolist() == [["a", 0], ["a", 1], ["b", 0], ["b", 1]]


@pytest.mark.wrong_types
def test_lenses_refuse_what_they_cannot_read(ragged, one_model, lens):
    waveforms = ragged[0]
    with pytest.raises(ValueError, match="needs a UniSpeechSatForCTC with its lm_head, got UniSpeechSatModel"):
        ctc_lens(one_model, waveforms)
    with pytest.raises(ValueError, match="needs a UniSpeechSatForPreTraining .* for other models take kmeans_lens"):
        unit_lens(one_model, waveforms)
    model = shuffled(us.UniSpeechSatForPreTraining(small_config(utterance_contrastive_layer=2)))
    with pytest.raises(ValueError, match="targets have 12 frames, the features 45"):
        unit_lens(model, waveforms, torch.zeros(3, 12, dtype=torch.long))
    with pytest.raises(ValueError, match="training mode"):
        unit_lens(model.train(), waveforms)
    with pytest.raises(ValueError, match="show='loudness' must be 'entropy' or 'probability'"):
        lens.plot(0, show="loudness")
    units = Lens(ids=lens.ids, logits=lens.logits, seconds=lens.seconds)
    with pytest.raises(ValueError, match="units are no letters: only what ctc_lens gives"):
        units.decode(None)


# k-means on every layer


def frames_bank(**more):
    """Six speakers, two utterances each; layer 1 shows five phones, layer 0 nothing, the untrained ones little."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(30, 60, size=12)
    labels = [np.repeat(draw.integers(0, 5, size=20), 3)[:length] for length in lengths]
    flat = np.concatenate(labels)
    centres = draw.normal(size=(5, 4)) * 5
    noise = draw.normal(size=(3, len(flat), 4))
    arrays = {
        "hidden.0": noise[0],
        "hidden.1": noise[1] + centres[flat],
        "untrained.0.hidden.1": noise[2] + 0.1 * centres[flat],
    }
    arrays = {name: values.astype(np.float32) for name, values in arrays.items()} | more
    table = pd.DataFrame({"id": [f"u{i}" for i in range(12)], "speaker": [f"s{i // 2}" for i in range(12)]})
    whole = {
        name: item for site, values in arrays.items() for name, item in ((site, values), (f"{site}#frames", lengths))
    }
    return FeatureBank(table, [Part(np.arange(12), whole)], settings={"model": "planted", "reduce": "frames"}), labels


def test_the_layer_that_shows_the_phones_is_found():
    bank, labels = frames_bank()
    found = kmeans_lens(bank, labels, k=5)
    values = found.table().set_index(["model", "layer", "metric"])
    assert len(values) == 9
    assert values.loc[("trained", 1, "pnmi"), "value"] > 0.95
    assert values.loc[("trained", 1, "phone_purity"), "value"] > 0.95
    assert values.loc[("trained", 1, "pnmi"), "low"] > values.loc[("trained", 1, "pnmi"), "floor_high"]
    nothing = values.loc[("trained", 0, "pnmi")]
    assert nothing["value"] < 0.05
    assert abs(nothing["value"] - nothing["floor"]) < 0.02
    assert values.loc[("untrained.0", 1, "pnmi"), "value"] < 0.3
    assert found.settings["model"] == "planted"
    assert found.settings["labels"] == 5


def test_each_number_is_that_of_the_definitions():
    bank, labels = frames_bank()
    labels = [np.where(np.arange(len(row)) < 5, -1, row * 7) for row in labels]  # gaps in the numbers, frames without
    found = kmeans_lens(bank, labels, k=6, groups="speaker", seed=3).table().set_index(["model", "layer", "metric"])
    flat = np.concatenate(labels)
    speaker = np.repeat(bank.table["speaker"].to_numpy(), [len(row) for row in labels])
    features = torch.from_numpy(bank["hidden.1"])
    units = clusters.fit(features[torch.arange(len(flat))], 6, 3).assign(features).numpy()
    left_out = [speaker != name for name in np.unique(speaker)]
    functions = {"pnmi": clusters.pnmi, "phone_purity": clusters.purity, "cluster_purity": clusters.cluster_purity}
    for metric, function in functions.items():
        row = found.loc[("trained", 1, metric)]
        assert row["value"] == pytest.approx(function(units.tolist(), flat.tolist()))
        without = [function(units[keep].tolist(), flat[keep].tolist()) for keep in left_out]
        error = math.sqrt(5 / 6 * sum((value - sum(without) / 6) ** 2 for value in without))
        assert row["high"] - row["value"] == pytest.approx(
            2.5706 * error, rel=1e-3
        )  # Student's t, 5 degrees of freedom
        assert row["value"] - row["low"] == pytest.approx(row["high"] - row["value"])


def test_names_say_the_same_as_numbers():
    bank, labels = frames_bank()
    names = {
        name: np.array(["a", "e", "i", "o", None], dtype=object)[row]
        for name, row in zip(bank.ids, labels, strict=True)
    }
    numbers = [np.where(row == 4, -1, row) for row in labels]
    given, expected = (kmeans_lens(bank, each, k=5, shuffles=2) for each in (names, numbers))
    pd.testing.assert_frame_equal(given.table(), expected.table())
    assert given.settings == expected.settings


def test_results_depend_on_the_seed_alone_and_write_nothing():
    bank, labels = frames_bank()
    before = [row.copy() for row in labels]
    np.random.seed(0)  # noqa: NPY002
    first = kmeans_lens(bank, labels, k=5, groups=None, shuffles=3).table()
    np.random.seed(1)  # noqa: NPY002
    pd.testing.assert_frame_equal(first, kmeans_lens(bank, labels, k=5, groups=None, shuffles=3).table())
    assert first["low"].isna().all()
    for row, copy in zip(labels, before, strict=True):
        assert (row == copy).all()


def test_intervals_cover_what_other_speakers_would_give():
    draw = np.random.default_rng(0)
    base = draw.dirichlet(np.full(24, 0.3))
    speaker, worlds = np.repeat(np.arange(10), 300), []
    for _ in range(400):
        places = np.concatenate(
            [np.repeat(np.arange(24), draw.multinomial(300, one)) for one in draw.dirichlet(base * 40, 10)]
        )
        units, codes = places // 4, places % 4
        worlds.append(pd.DataFrame(_measure(units, codes, [codes], speaker)))
    values = np.stack([table["value"] for table in worlds])
    low, high = (np.stack([table[end] for table in worlds]) for end in ("low", "high"))
    truth = values.mean(0)
    covered = ((low <= truth) & (truth <= high)).mean(0)
    assert (covered > 0.90).all()
    assert (covered < 0.98).all()


BAD = {
    "few rows": (lambda labels: labels[:3], {}, "'labels' has 3 rows for 12 utterances"),
    "short row": (
        lambda labels: [labels[0][:5], *labels[1:]],
        {},
        r"'u0' has \d+ frames, but 'labels' of shape \(5,\)",
    ),
    "floats": (lambda labels: [row * 1.0 for row in labels], {}, "whole numbers or names, got float64: a quantity"),
    "one class": (lambda labels: [row * 0 for row in labels], {}, "fewer than two classes"),
    "no floor": (lambda labels: labels, {"shuffles": 0}, "shuffles=0 must be at least 1"),
    "column": (lambda labels: labels, {"groups": "speakr"}, "no column 'speakr'.*speaker"),
    "clusters": (lambda labels: labels, {"k": 10_000}, "frames cannot make 10000 clusters"),
}


@pytest.mark.wrong_types
@pytest.mark.parametrize("case", BAD)
def test_bad_labels_are_refused_in_a_sentence(case):
    bank, labels = frames_bank()
    change, options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        kmeans_lens(bank, change(labels), **options)


def test_banks_without_frames_speakers_or_finite_features_are_refused():
    bank, labels = frames_bank()
    pooled = FeatureBank.from_arrays(bank.table, {"hidden.0": np.zeros((12, 4))})
    with pytest.raises(ValueError, match='no frames of hidden states; collect it with reduce="frames"'):
        kmeans_lens(pooled, labels)
    one = bank.take([0, 1])
    with pytest.raises(ValueError, match="all utterances are of speaker 's0'.*pass groups=None, or 'id'"):
        kmeans_lens(one, labels[:2], k=3)
    spoilt = np.array(bank["hidden.1"])
    spoilt[0] = np.nan
    with pytest.raises(ValueError, match=r"hidden.1 has values that are not finite for 1 utterance\(s\): 'u0'"):
        kmeans_lens(frames_bank(**{"hidden.1": spoilt})[0], labels, k=5)
