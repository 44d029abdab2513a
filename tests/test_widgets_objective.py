"""The losses widget: what each control moves of one step of the objective."""

import copy
import html

import numpy as np
import pandas as pd
import pytest
import torch
from widget_cases import noise, pretraining

import unisat as us
from unisat import losses as losses_of
from unisat.interpret.objective import clean_targets, one_step
from unisat.widgets._objective import ALL, COMPARED, KEPT, WANTED, losses

pytestmark = pytest.mark.usefixtures("no_widget_is_left")


IDS = list(noise().ids)


@pytest.fixture
def view():
    made = losses(pretraining(), noise(), seed=1)
    assert made.error is None, made.error
    return made


def test_first_look(view):
    config = pretraining().config
    assert view.error is None
    assert view.controls["mask_prob"].value == config.mask_time_prob
    assert view.controls["mixing_prob"].value == config.mixing_prob
    assert view.controls["temperature"].value == config.contrastive_logits_temperature
    assert f"Loss {float(view.step.output.loss):.3f}" in view.caption
    floors = losses_of.content_floors(view.targets, view.step.output.mask_time_indices, view.step.output.valid)
    assert f"the commonest one {floors.commonest:.0%}" in view.caption
    assert f"nearest visible frame {floors.copied:.0%}." in view.caption
    assert f"Contrastive {view.table.loc['contrastive', 'value']:.3f}, the best constant answer" in view.caption
    np.testing.assert_allclose(view.cells.images[0].get_array(), view.step.cosines / 0.1, rtol=1e-5)
    assert [tick.get_text() for tick in view.cells.get_xticklabels()] == IDS
    assert [bar.get_width() for bar in view.bars.patches] == view.table["contribution"].tolist()
    assert "amy &lt;1&gt;" in view.stage.extra
    assert view.stage.extra.count("<tr") == 2 + 5 + 3
    assert "<1>" not in view.stage.extra


def test_what_draws_and_what_only_shows(view, monkeypatch):
    import unisat.widgets._objective as module

    taken = []
    monkeypatch.setattr(module, "one_step", lambda *a, **k: taken.append(k) or one_step(*a, **k))
    first = view.step
    draws = {name: view.controls[name].value for name in ("seed", "mixing_prob", "mask_prob")}
    view.set(temperature=0.2, matrix=WANTED, utterance=1, anchor=0.1)
    assert view.error is None
    assert view.step is first
    assert not taken
    for name, value in {"seed": 2, "mixing_prob": 1.0, "mask_prob": 0.3}.items():
        before = view.step
        view.controls[name].value = value
        assert view.step is not before
    assert len(taken) == 3
    view.set(**draws)
    assert view.step is first
    for seed in range(10, 12 + KEPT):
        view.controls["seed"].value = seed
    view.controls["seed"].value = 1
    assert view.step is not first
    torch.testing.assert_close(view.step.cosines, first.cosines)


@pytest.mark.parametrize("targets", [False, True])
def test_a_model_that_has_learned_gets_new_steps(targets):
    model = copy.deepcopy(pretraining())
    given = clean_targets(model, noise()).clamp(max=2) if targets else None
    view = losses(model, noise(), given, seed=1)
    before, caption = view.step, view.caption
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    one_loss = sum(weight.square().sum() for weight in model.parameters())
    one_loss.backward()
    optimizer.step()
    view.controls["anchor"].value = 0.1  # the same mixtures, masks and instances
    assert view.error is None, view.error
    assert not torch.equal(view.step.cosines, before.cosines)
    assert view.caption != caption
    expected = one_step(model, noise(), given, seed=1)
    torch.testing.assert_close(view.step.cosines, expected.cosines)
    assert torch.equal(view.step.targets, expected.targets)
    view.close()


def test_mask_and_mixing_do_what_they_say(view):
    shares = []
    for mask_prob in (0.2, 0.9):
        view.controls["mask_prob"].value = mask_prob
        shares.append(float(view.step.output.mask_time_indices.float().mean()))
    assert shares[0] < shares[1]
    view.controls["mixing_prob"].value = 0.0
    assert len(view.record) == 0
    assert "0 of 3 mixed" in view.caption
    assert torch.equal(view.step.mixed, view.batch.input_values)
    assert "nobody mixed in" in view.wave.get_title()
    view.controls["mixing_prob"].value = 1.0
    assert view.record["into"].tolist() == IDS
    row, first = view.record.iloc[0], view.step.record.rows()[0]
    assert row["from"] == IDS[first["secondary"]]
    assert row["start"] == first["start"] / 16_000
    box = view.wave.collections[0].get_paths()[0].get_extents()
    assert (box.x0, box.x1) == pytest.approx((row["start"], row["end"]))
    assert f"with {html.unescape(row['from'])} from {row['start']:.2f}" in view.caption


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
    view.set(utterance=1, anchor=0.12)
    row, start = view.step.nearest(1, 0.12)
    assert view.anchor == row
    assert view.moved[0].get_ydata()[0] == row + 0.5
    assert view.moved[1].get_xdata()[0] == pytest.approx(start)
    columns = view.step.candidates(view.anchor)
    scores = (view.step.cosines / 0.1)[view.anchor, columns]
    same = view.step.positives[view.anchor, columns]
    np.testing.assert_allclose(view.marks.lines[0].get_xdata(), scores[same], rtol=1e-5)
    np.testing.assert_allclose(view.marks.lines[1].get_xdata(), scores[~same], rtol=1e-5)
    right = int((scores[same] >= 0).sum() + (scores[~same] < 0).sum())
    assert view.marks.get_title() == f"one anchor: {right} of 101 right"
    above = int((scores[same] >= 0).sum())
    assert f"with {int(same.sum())} of its own utterance, {above} of them above" in view.caption


def test_the_papers_anchor_is_compared_with_its_own_score():
    view = losses(pretraining(contrastive_loss="infonce"), noise())
    own = float(view.step.cosines[view.anchor, view.anchor] / 0.1)
    assert view.marks.lines[2].get_xdata()[0] == pytest.approx(own)
    assert "with 1 of its own utterance, 1 of them above" in view.caption
    view.close()


def test_a_click_on_a_row_takes_it(view):
    row = int((view.step.utterances == 2).nonzero()[3, 0])
    view.clicked(view.cells, 3.0, row + 0.4)
    assert view.error is None
    assert view.anchor == row
    assert view.controls["utterance"].value == 2
    before = view.caption
    view.clicked(view.cells, 3.0, len(view.step.cosines) + 5.0)
    view.clicked(view.bars, 1.0, 1.0)
    assert view.caption == before


def test_an_utterance_of_which_nothing_is_hidden():
    bare = pretraining(mask_time_min_masks=0)
    view = losses(bare, noise())
    view.controls["mask_prob"].value = 0.1
    for seed in range(100):
        hidden = one_step(bare, noise(), view.targets, mask_prob=0.1, seed=seed).output.mask_time_indices.any(1)
        if hidden.sum() == 2:
            break
    view.set(seed=seed, utterance=int((~hidden).nonzero()[0, 0]))
    assert view.anchor is None
    assert "none of its frames is hidden" in view.caption


def test_without_a_contrastive_loss():
    view = losses(pretraining(contrastive_loss_weight=0.0), noise())
    assert view.error is None
    assert "contrastive" not in view.table.index
    assert torch.equal(view.step.compared, torch.eye(len(view.step.cosines), dtype=torch.bool))
    assert "no weight" in view.caption


def test_sounds_and_cursor(view):
    names = [sound["label"] for sound in view.stage.sounds]
    assert names == ["what the model hears, quieter, 0.6 s", "the main speaker alone, 0.6 s"]
    assert sum(ax["time"] for ax in view.stage.scene["axes"]) == 1
    view.controls["utterance"].value = 2
    assert next(ax for ax in view.stage.scene["axes"] if ax["time"])["x"]["lim"][1] == 0.125
    assert "quieter, 0.1 s" in view.stage.sounds[0]["label"]


def test_mistakes_are_answered():
    model, batch = pretraining(), noise()
    long = us.Batch.from_arrays([torch.rand(16_000 * 31)] * 2, sampling_rate=16_000, ids=["a", "b"])
    for made, words in {
        losses(copy.deepcopy(model).train(), batch): "call model.eval()",
        losses(model, long): "62 s long",
        losses(model, batch, torch.zeros(3, 130, dtype=torch.long)): "more than one apart",
    }.items():
        assert words in str(made.error)


@pytest.mark.wrong_types
def test_a_model_without_the_parts_is_answered():
    assert "has no parts of the pretraining objective" in losses(us.load("tiny"), noise()).stage.alert
