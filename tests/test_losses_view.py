"""The losses widget: one step of the objective against the model's own numbers, and what each control moves."""

import copy
import html

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import unisat as us
from unisat.interpret.objective import clean_targets, one_step
from unisat.masking import span_mask
from unisat.mixing import mix_utterances
from unisat.plots._objective import contributions
from unisat.widgets._objective import ALL, COMPARED, KEPT, WANTED, losses

pytestmark = pytest.mark.usefixtures("no_widget_is_left")

IDS = ["v01", "v03", "<v05>"]


@pytest.fixture(scope="module")
def model():
    return us.load("tiny", "pretraining")


@pytest.fixture(scope="module")
def batch():
    """Three voices, of unequal length."""
    speech = us.corpus.builtin()
    lengths = (24_000, 20_000, 16_000)
    waves = [speech.where(speaker=f"v0{i}", sentence=f"s0{i}").batch().waveforms[0] for i in (1, 3, 5)]
    waves = [wave[:length] for wave, length in zip(waves, lengths, strict=True)]
    return us.Batch.from_arrays(waves, sampling_rate=16_000, ids=IDS)


@pytest.fixture
def view(model, batch):
    made = losses(model, batch, seed=1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def paper(model):
    """The same model with the loss as the paper writes it."""
    other = copy.deepcopy(model)
    other.config = model.config.replace(contrastive_loss="infonce")
    return other


# one step


def test_a_step_is_the_models_own(model, batch):
    step = one_step(model, batch, mask_prob=0.5, mixing_prob=1.0, seed=4)
    draws = torch.Generator().manual_seed(4)
    mixed, record = mix_utterances(batch.input_values, batch.lengths, mixing_prob=1.0, generator=draws)
    frames = torch.tensor([74, 62, 49])
    mask = span_mask(frames, 74, mask_prob=0.5, mask_length=10, min_spans=2, generator=draws)
    with torch.no_grad():
        targets = model(batch.input_values, attention_mask=batch.attention_mask).logits.argmax(-1)
        output = model(
            mixed,
            attention_mask=batch.attention_mask,
            targets=targets,
            mask_time_indices=mask,
            generator=draws,
        )
    torch.testing.assert_close(step.mixed, mixed)
    assert torch.equal(step.record.secondary, record.secondary)
    assert torch.equal(step.output.mask_time_indices, mask)
    assert torch.equal(step.output.instances, output.instances)
    table = step.terms()
    for name, term in output.terms.items():
        assert table.loc[name, "value"] == pytest.approx(float(term), rel=1e-5)
    assert table["contribution"].sum() == pytest.approx(float(output.loss), rel=1e-5)
    assert table.loc["content_masked", "chance"] == pytest.approx(np.log(100))
    assert table.loc["contrastive", "chance"] == pytest.approx(float(output.metrics["contrastive_chance"]), rel=1e-5)
    assert table["chance"].isna().tolist() == [False, False, False, True, True]
    anchors, codes = output.speaker_states[mask], output.projected_quantized_states[mask]
    expected = F.cosine_similarity(anchors[:, None], codes[None], dim=-1)
    torch.testing.assert_close(step.cosines, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_another_temperature_is_that_of_another_configuration(model, paper, batch, temperature):
    for one in (model, paper):
        other = copy.deepcopy(one)
        other.config = one.config.replace(contrastive_logits_temperature=temperature)
        targets = clean_targets(one, batch)
        expected = one_step(other, batch, targets).terms()
        pd.testing.assert_frame_equal(one_step(one, batch, targets).terms(temperature), expected, rtol=1e-4)


def test_what_is_compared(model, paper, batch):
    step = one_step(model, batch)
    rows = step.output.mask_time_indices.nonzero()[:, 0]
    assert torch.equal(step.positives, rows[:, None] == rows[None])
    anchor = 7
    columns = [anchor, *step.output.instances[anchor].tolist()]
    assert step.candidates(anchor).tolist() == columns
    assert set(step.compared[anchor].nonzero()[:, 0].tolist()) == set(columns)
    step = one_step(paper, batch)
    others = (rows != rows[anchor]).nonzero()[:, 0].tolist()
    assert step.candidates(anchor).tolist() == [anchor, *others]
    assert sorted(step.compared[anchor].nonzero()[:, 0].tolist()) == sorted([anchor, *others])


def test_targets_end_with_the_utterance(model, batch):
    assert (clean_targets(model, batch) == -100).sum(1).tolist() == [0, 12, 25]


def test_without_a_contrastive_loss(model, batch):
    plain = copy.deepcopy(model)
    plain.config = model.config.replace(contrastive_loss_weight=0.0)
    view = losses(plain, batch)
    assert view.error is None
    assert "contrastive" not in view.table.index
    assert torch.equal(view.step.compared, torch.eye(len(view.step.cosines), dtype=torch.bool))
    assert "no weight" in view.sentence
    view.close()


# the picture


def test_bars_and_marks():
    table = pd.DataFrame(
        {"value": [2.0, 0.5], "chance": [4.0, np.nan], "weight": [1.0, 0.1], "share": [0.5, 1.0]},
        index=["content_masked", "diversity"],
    )
    table["contribution"] = [1.0, 0.05]
    ax = contributions(table)
    assert [bar.get_width() for bar in ax.patches] == [1.0, 0.05]
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [2.0, np.nan])
    assert [text.get_text() for text in ax.texts] == ["2 · 1 · 50%", "0.5 · 0.1"]
    assert ax.get_title() == "loss 1.050, term by term"
    with pytest.raises(ValueError, match="no terms"):
        contributions(table.iloc[:0])


# the widget


def test_first_look(view, model):
    config = model.config
    assert view.error is None
    assert view.controls["mask_prob"].value == config.mask_time_prob
    assert view.controls["mixing_prob"].value == config.mixing_prob
    assert view.controls["temperature"].value == config.contrastive_logits_temperature
    assert f"Loss {float(view.step.output.loss):.3f}" in view.sentence
    assert "by chance" in view.sentence
    np.testing.assert_allclose(view.cells.images[0].get_array(), view.step.cosines / 0.1, rtol=1e-5)
    assert [tick.get_text() for tick in view.cells.get_xticklabels()] == IDS
    assert [bar.get_width() for bar in view.bars.patches] == view.table["contribution"].tolist()
    assert "&lt;v05&gt;" in view.stage.extra
    assert view.stage.extra.count("<tr") == 2 + 5 + 3
    assert "<v05>" not in view.stage.extra


def test_what_draws_and_what_only_shows(view, monkeypatch):
    import unisat.widgets._objective as module

    taken = []
    monkeypatch.setattr(module, "one_step", lambda *a, **k: taken.append(k) or one_step(*a, **k))
    first = view.step
    for name, value in {"temperature": 0.2, "matrix": WANTED, "utterance": 1, "anchor": 0.5}.items():
        before = view.png
        view.controls[name].value = value
        assert view.error is None
        assert view.png != before, name
    assert view.step is first
    assert not taken
    for name, value in {"seed": 2, "mixing_prob": 1.0, "mask_prob": 0.3}.items():
        before = view.step
        view.controls[name].value = value
        assert view.step is not before
    assert len(taken) == 3
    view.set(seed=1, mixing_prob=0.2, mask_prob=0.65)
    assert view.step is first
    for seed in range(10, 12 + KEPT):
        view.controls["seed"].value = seed
    view.controls["seed"].value = 1
    assert view.step is not first
    torch.testing.assert_close(view.step.cosines, first.cosines)


def test_mask_and_mixing_do_what_they_say(view):
    shares = []
    for mask_prob in (0.2, 0.9):
        view.controls["mask_prob"].value = mask_prob
        shares.append(float(view.step.output.mask_time_indices.float().mean()))
    assert shares[0] < shares[1]
    view.controls["mixing_prob"].value = 0.0
    assert len(view.record) == 0
    assert "0 of 3 mixed" in view.sentence
    assert torch.equal(view.step.mixed, view.batch.input_values)
    assert "nobody mixed in" in view.wave.get_title()
    view.controls["mixing_prob"].value = 1.0
    assert view.record["into"].tolist() == IDS
    row, first = view.record.iloc[0], view.step.record.rows()[0]
    assert row["from"] == IDS[first["secondary"]]
    assert row["start"] == first["start"] / 16_000
    box = view.wave.collections[0].get_paths()[0].get_extents()
    assert (box.x0, box.x1) == pytest.approx((row["start"], row["end"]))
    assert f"with {html.unescape(row['from'])} from {row['start']:.2f}" in view.sentence


def test_temperature_scales_the_matrix_and_the_terms(view):
    view.controls["temperature"].value = 0.5
    np.testing.assert_allclose(view.cells.images[0].get_array(), view.step.cosines / 0.5, rtol=1e-5)
    pd.testing.assert_frame_equal(view.table, view.step.terms(0.5))
    assert view.bars.get_title() == f"loss {view.table['contribution'].sum():.3f}, term by term"
    assert [bar.get_width() for bar in view.bars.patches] == view.table["contribution"].tolist()


def test_views_of_the_matrix(view):
    shown = {}
    for kind in (ALL, COMPARED, WANTED):
        view.controls["matrix"].value = kind
        shown[kind] = view.cells.images[0].get_array()
    assert not np.ma.getmaskarray(shown[ALL]).any()
    for kind in (COMPARED, WANTED):
        np.testing.assert_array_equal(~np.ma.getmaskarray(shown[kind]), view.step.compared)
    np.testing.assert_array_equal(shown[WANTED].data > 0, view.step.positives)


def test_the_anchor_is_the_nearest_hidden_frame(view):
    view.set(utterance=1, anchor=0.6)
    hidden = view.step.output.mask_time_indices
    row = view.step.utterances[view.anchor]
    assert row == 1
    frames = hidden[1].nonzero()[:, 0]
    nearest = frames[(frames - 30).abs().argmin()]
    assert torch.equal(hidden.nonzero()[view.anchor], torch.stack([torch.tensor(1), nearest]))
    assert view.moved[0].get_ydata()[0] == view.anchor + 0.5
    assert view.moved[1].get_xdata()[0] == pytest.approx(0.02 * float(nearest))
    columns = view.step.candidates(view.anchor)
    scores = (view.step.cosines / 0.1)[view.anchor, columns]
    same = view.step.positives[view.anchor, columns]
    np.testing.assert_allclose(view.marks.lines[0].get_xdata(), scores[same], rtol=1e-5)
    np.testing.assert_allclose(view.marks.lines[1].get_xdata(), scores[~same], rtol=1e-5)
    right = int((scores[same] >= 0).sum() + (scores[~same] < 0).sum())
    assert view.marks.get_title() == f"one anchor: {right} of 101 right"
    above = int((scores[same] >= 0).sum())
    assert f"with {int(same.sum())} of its own utterance, {above} of them above" in view.sentence


def test_the_papers_anchor_is_compared_with_its_own_score(paper, batch):
    view = losses(paper, batch)
    own = float(view.step.cosines[view.anchor, view.anchor] / 0.1)
    assert view.marks.lines[2].get_xdata()[0] == pytest.approx(own)
    assert "with 1 of its own utterance, 1 of them above" in view.sentence
    view.close()


def test_a_click_on_a_row_takes_it(view):
    row = int((view.step.utterances == 2).nonzero()[3, 0])
    view.clicked(view.cells, 3.0, row + 0.4)
    assert view.error is None
    assert view.anchor == row
    assert view.controls["utterance"].value == 2
    before = view.sentence
    view.clicked(view.cells, 3.0, len(view.step.cosines) + 5.0)
    view.clicked(view.bars, 1.0, 1.0)
    assert view.sentence == before


def test_an_utterance_of_which_nothing_is_hidden(model, batch):
    bare = copy.deepcopy(model)
    bare.config = model.config.replace(mask_time_min_masks=0)
    view = losses(bare, batch)
    seeds = range(100)
    view.controls["mask_prob"].value = 0.15
    for seed in seeds:
        hidden = one_step(bare, batch, view.targets, mask_prob=0.15, seed=seed).output.mask_time_indices.any(1)
        if hidden.sum() == 2:
            break
    view.set(seed=seed, utterance=int((~hidden).nonzero()[0, 0]))
    assert view.anchor is None
    assert "none of its frames is hidden" in view.sentence
    view.close()


def test_sounds_and_cursor(view):
    names = [sound["label"] for sound in view.stage.sounds]
    assert names == ["what the model hears, quieter, 1.5 s", "the main speaker alone, 1.5 s"]
    assert len(view.stage.cursors) == 1
    view.controls["utterance"].value = 2
    assert view.stage.cursors[0]["t1"] == 1.0
    assert "quieter, 1.0 s" in view.stage.sounds[0]["label"]


# bad input


@pytest.mark.wrong_types
def test_a_model_without_the_parts_is_answered(batch):
    view = losses(us.load("tiny"), batch)
    assert "has no parts of the pretraining objective" in str(view.error)
    assert view.stage.alert
    view.close()


def test_other_mistakes_are_answered(model, batch):
    trained = copy.deepcopy(model).train()
    long = us.Batch.from_arrays([torch.rand(16_000 * 31)] * 2, sampling_rate=16_000, ids=["a", "b"])
    for made, words in {
        losses(trained, batch): "call model.eval()",
        losses(model, batch[0]): "at least two utterances",
        losses(model, long): "62 s long",
        losses(model, batch, torch.zeros(3, 60, dtype=torch.long)): "more than one apart",
    }.items():
        assert words in str(made.error)
        made.close()


def test_a_mistake_with_a_control_leaves_the_picture(model, batch):
    bare = copy.deepcopy(model)
    bare.config = model.config.replace(mask_time_min_masks=0)
    view = losses(bare, batch)
    png = view.png
    view.controls["mask_prob"].value = 0.0
    assert "no frame is masked" in view.stage.alert
    assert view.png == png
    view.controls["mask_prob"].value = 0.5
    assert view.error is None
    view.close()
