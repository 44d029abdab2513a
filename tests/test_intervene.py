import copy
import gc
import json
import threading
from contextlib import ExitStack

import pytest
import torch
from conftest import shuffled, small_config

import unisat as us
from unisat import shortcuts
from unisat.interpret.interventions.edit_text import from_json, to_json
from unisat.interpret.interventions.edits import Ablate, Edit, Erase, Patch, Placebo, Project, Steer
from unisat.interpret.interventions.intervene import _INSTALLED, active_scopes, intervene

FRAMES = [45, 9, 1]  # of `ragged`
Z = "block.1.attn.z"


def num_hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def padded(*lengths, seed=0):
    """Noises of so many samples with garbage behind them, and their mask."""
    lengths = torch.tensor(lengths)
    waveforms = noise(len(lengths), int(lengths.max()), seed=seed)
    return waveforms, (torch.arange(waveforms.shape[1]) < lengths[:, None]).long()


def edited(model, batch, *edits, site=None):
    """What a site holds, and what the model gives, under edits."""
    with intervene(model, *edits), torch.no_grad():
        output, trace = us.run(model, batch[0], site or edits[0].site, attention_mask=batch[1])
    return trace, output.last_hidden_state[output.valid]


@pytest.fixture
def batch(ragged):
    return ragged[0], ragged[1]


# what the edits do


def test_a_zeroed_head_is_a_model_without_its_columns(model, batch):
    _, ours = edited(model, batch, Ablate("block.*.attn.z", head=1))
    without = copy.deepcopy(model)
    for layer in without.encoder.layers:
        layer.attention.out_proj.weight.data[:, 8:] = 0
    with torch.no_grad():
        output = without(*batch)
    torch.testing.assert_close(ours, output.last_hidden_state[output.valid])


def test_a_zeroed_pattern_is_a_zeroed_head_and_zero_scores_attend_evenly(one_model, batch):
    _, by_pattern = edited(one_model, batch, Ablate("block.1.attn.pattern", head=1))
    _, by_head = edited(one_model, batch, Ablate(Z, head=1))
    torch.testing.assert_close(by_pattern, by_head)
    trace, _ = edited(one_model, batch, Ablate("block.1.attn.scores"), site="block.1.attn.pattern")
    for pattern, frames in zip(trace.ragged("block.1.attn.pattern"), FRAMES, strict=True):
        torch.testing.assert_close(pattern, torch.full((2, frames, frames), 1 / frames))
    assert trace["block.1.attn.pattern"][1, :, :9, 9:].abs().max() == 0  # nobody attends to padding


def test_the_mean_is_that_of_all_utterances_without_their_padding(model, batch):
    plain = us.run(model, batch[0], Z, attention_mask=batch[1])[1]
    trace, _ = edited(model, batch, Ablate(Z, head=0, mode="mean"))
    frames = [frame for utterance in plain.ragged(Z) for frame in utterance]
    assert len(frames) == sum(FRAMES)
    mean = sum(frame[0].double() for frame in frames) / len(frames)
    for before, after in zip(plain.ragged(Z), trace.ragged(Z), strict=True):
        torch.testing.assert_close(after[:, 0].double(), mean.expand(len(after), -1), rtol=1e-5, atol=1e-6)
        assert torch.equal(after[:, 1], before[:, 1])


@pytest.mark.parametrize("whole", [True, False])
def test_a_given_mean_makes_a_batch_what_its_utterances_are_alone(model, ragged, whole):
    waveforms, mask, lengths = ragged
    mean = noise(16, seed=3) if whole else noise(8, seed=4).numpy()
    edit = Ablate(Z, head=1, mode="mean", mean=mean)
    trace, together = edited(model, (waveforms, mask), edit)
    expected = torch.as_tensor(mean)[-8:]
    assert torch.equal(trace[Z][0, :, 1], expected.expand(45, -1))
    alone = [edited(model, (wave[None, :n], None), edit)[1] for wave, n in zip(waveforms, lengths, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_resampling_takes_whole_others_and_never_padding(one_model, seed):
    waves = padded(3000, 700, 2000, 1000)
    plain = us.run(one_model, waves[0], "hidden.1", attention_mask=waves[1])[1].ragged("hidden.1")
    after = edited(one_model, waves, Ablate("hidden.1", mode="resample", seed=seed))[0].ragged("hidden.1")
    donors = []
    for row, values in enumerate(after):
        found = [k for k, other in enumerate(plain) if (values[0] == other).all(-1).any()]
        assert len(found) == 1
        assert found[0] != row
        other, frames = plain[found[0]], len(values)
        # the frame whose span holds the centre of this one
        expected = [other[int((t + 0.5) / frames * len(other))] for t in range(frames)]
        assert torch.equal(values, torch.stack(expected))
        donors += found
    assert sorted(donors) == [0, 1, 2, 3]


def test_resampling_depends_on_its_seed_alone(one_model, batch):
    results = []
    for state, seed in ((0, 1), (5, 1), (0, 2)):
        torch.manual_seed(state)
        results.append(edited(one_model, batch, Ablate("hidden.1", mode="resample", seed=seed))[1])
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(state)))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@shortcuts.plain()  # hooks on the convolutions keep shortcuts from being taken, and would show in the last digit
def test_patching_a_model_with_its_own_trace_changes_nothing(model, batch):
    with torch.no_grad():
        plain = model(*batch).last_hidden_state[model(*batch).valid]
    sites = us.sites(model).query("editable").index
    fused = [name for name in sites if not name.endswith((".scores", ".pattern"))]
    for names in (fused, list(sites)):
        _, trace = us.run(model, batch[0], *names, attention_mask=batch[1])
        _, result = edited(model, batch, *(Patch(name, trace) for name in names))
        if names is fused:
            assert torch.equal(result, plain)
        torch.testing.assert_close(result, plain)


def test_patching_every_head_is_patching_all_that_they_give(model, batch):
    _, source = us.run(model, noise(3, 3000, seed=9), "block.*.attn.z", attention_mask=batch[1])
    _, whole = edited(model, batch, Patch(Z, source))
    _, by_head = edited(model, batch, *(Patch(Z, source, head=head) for head in range(2)))
    _, at_once = edited(model, batch, Patch(Z, source, head=[1, 0]))
    _, by_channel = edited(model, batch, *(Patch(Z, source, dims=slice(k, k + 4)) for k in (0, 4)))
    for other in (by_head, at_once, by_channel):
        assert torch.equal(whole, other)


def test_all_of_the_last_layer_makes_the_output_the_source_s(one_model, batch):
    waves = noise(3, 3000, seed=9)
    expected, source = us.run(one_model, waves, "hidden.*", attention_mask=batch[1])
    for site in ("hidden.0", "hidden.2", "hidden.3"):
        torch.testing.assert_close(
            edited(one_model, batch, Patch(site, source))[1], expected.last_hidden_state[expected.valid]
        )


@pytest.mark.parametrize("align", ["crop", "stretch"])
def test_patching_between_lengths_frame_by_frame(one_model, align):
    ours, theirs = padded(3000, 700, 2000, seed=1), padded(1000, 2500, 2000, seed=2)
    _, source = us.run(one_model, theirs[0], Z, attention_mask=theirs[1])
    plain = us.run(one_model, ours[0], Z, attention_mask=ours[1])[1].ragged(Z)
    after = edited(one_model, ours, Patch(Z, source, head=1, align=align))[0].ragged(Z)
    for before, other, values in zip(plain, source.ragged(Z), after, strict=True):
        expected = before.clone()
        for t in range(len(before)):
            if align == "stretch":
                expected[t, 1] = other[int((t + 0.5) / len(before) * len(other)), 1]
            elif t < len(other):
                expected[t, 1] = other[t, 1]
        assert torch.equal(values, expected)


def test_one_source_serves_a_batch_and_other_padding_does_not_matter(one_model):
    ours = padded(1000, 1000, seed=1)
    wide = torch.cat([ours[0], noise(2, 500)], 1), torch.cat([ours[1], torch.zeros(2, 500).long()], 1)
    for site in (Z, "block.1.attn.pattern"):
        _, source = us.run(one_model, noise(1, 1000, seed=5), site)
        trace, result = edited(one_model, wide, Patch(site, source))
        for values in trace.ragged(site):
            assert torch.equal(values, source[site][0])
        torch.testing.assert_close(result, edited(one_model, ours, Patch(site, source))[1])


def test_unequal_lengths_are_refused_with_what_to_do(one_model, batch):
    _, source = us.run(one_model, noise(3, 2900, seed=9), "*", attention_mask=torch.ones(3, 2900).long())
    message = r"block.1.attn.z: utterance 0 has 45 frames, its source 44. .*align='crop' .*or 'stretch'"
    with pytest.raises(ValueError, match=message):
        edited(one_model, batch, Patch(Z, source))
    with pytest.raises(ValueError, match="pairs frames with frames: a cropped or stretched row would no longer sum"):
        edited(one_model, batch, Patch("block.1.attn.pattern", source, align="crop"))
    assert num_hooks(one_model) == 0


def test_seconds_choose_frames_by_their_centre(one_model, batch):
    # frame t of this front end starts at sample 64 t and sees 148
    chosen = [t for t in range(45) if 0.05 <= (64 * t + 74) / 16000 < 0.1]
    assert 5 < len(chosen) < 20
    plain = us.run(one_model, batch[0], "*", attention_mask=batch[1])[1]
    trace, _ = edited(one_model, batch, Ablate("hidden.1", dims=[3, -1], time=(0.05, 0.1)))
    expected = plain["hidden.1"].clone()
    expected[0, chosen, 3] = expected[0, chosen, 15] = 0
    assert chosen[0] > 9  # beyond the second utterance
    speech = plain.valid("hidden.1")
    torch.testing.assert_close(trace["hidden.1"][speech], expected[speech])
    trace, _ = edited(one_model, batch, Ablate("wave", time=(0.05, 0.1)))
    assert (trace["wave"][0] == 0).nonzero().flatten().tolist() == list(range(800, 1600))
    trace, _ = edited(one_model, batch, Ablate("block.1.attn.pattern", time=(0.05, 0.1)))
    zero = (trace["block.1.attn.pattern"][0] == 0).all(-1)
    assert zero[0].nonzero().flatten().tolist() == zero[1].nonzero().flatten().tolist() == chosen
    trace, _ = edited(one_model, batch, Ablate("hidden.1", dims=[3], time=(0.05, 0.1)))
    assert (trace["hidden.1"] == 0).sum() == len(chosen)
    with pytest.raises(ValueError, match=r"no frame of hidden.1 lies in time=\(5.0, 6.0\): .* 0.005 to 0.181 s"):
        edited(one_model, batch, Ablate("hidden.1", time=(5.0, 6.0)))


def test_steering_adds(one_model, batch):
    vector = noise(16, seed=2)
    plain = us.run(one_model, batch[0], "hidden.2", attention_mask=batch[1])[1]
    for edit, added in (
        (Steer("hidden.2", vector, 3.0), 3 * vector),
        (Steer("hidden.2", vector.numpy(), -0.5), -0.5 * vector),
        (
            Steer("hidden.2", torch.tensor([1.0, 2.0]), dims=[4, 1]),
            torch.zeros(16).index_put((torch.tensor([4, 1]),), vector.new([1, 2])),
        ),
    ):
        trace, _ = edited(one_model, batch, edit)
        for before, after in zip(plain.ragged("hidden.2"), trace.ragged("hidden.2"), strict=True):
            torch.testing.assert_close(after, before + added)
        assert torch.equal(trace["hidden.2"][~trace.valid("hidden.2")], plain["hidden.2"][~plain.valid("hidden.2")])


def test_gradients_reach_a_steering_vector(one_model, batch):
    vector = torch.zeros(16, dtype=torch.float64, requires_grad=True)
    model = one_model.double()
    loss = lambda vector: model(*batch).last_hidden_state[0].square().sum()  # noqa: E731
    with intervene(model, Steer("hidden.1", vector)):
        (gradient,) = torch.autograd.grad(loss(vector), vector)
        with torch.no_grad():
            vector[5] += 1e-5
            up = loss(vector)
            vector[5] -= 2e-5
            down = loss(vector)
    assert gradient[5].item() == pytest.approx((up - down).item() / 2e-5, rel=1e-5)


@pytest.mark.parametrize("keep", [True, False])
def test_projecting_removes_or_keeps_what_the_rows_span(one_model, batch, keep):
    basis = noise(3, 16, seed=6)
    basis = torch.cat([basis, basis[:1] * 2 - basis[1:2]])  # four rows, rank three
    plain = us.run(one_model, batch[0], "hidden.1", attention_mask=batch[1])[1]
    trace, _ = edited(one_model, batch, Project("hidden.1", basis, keep=keep))
    inside = basis.double().T @ torch.linalg.pinv(basis.double().T, rtol=1e-5)  # (16, 16)
    assert torch.linalg.matrix_rank(inside, rtol=1e-5) == 3
    for before, after in zip(plain.ragged("hidden.1"), trace.ragged("hidden.1"), strict=True):
        expected = before.double() @ (inside if keep else torch.eye(16) - inside)
        torch.testing.assert_close(after.double(), expected, rtol=1e-5, atol=1e-5)
    again, _ = edited(one_model, batch, *[Project("hidden.1", basis, keep=keep)] * 2)
    torch.testing.assert_close(again["hidden.1"], trace["hidden.1"])


def test_projecting_one_direction_of_one_head(one_model, batch):
    direction = noise(8, seed=6)
    plain = us.run(one_model, batch[0], Z, attention_mask=batch[1])[1]
    trace, _ = edited(one_model, batch, Project(Z, direction, head=1))
    unit = direction / direction.norm()
    before, after = plain[Z][0], trace[Z][0]
    assert torch.equal(after[:, 0], before[:, 0])
    torch.testing.assert_close(after[:, 1], before[:, 1] - (before[:, 1] @ unit)[:, None] * unit)


def test_a_function_gets_each_utterance_without_its_padding(one_model, batch):
    shapes = []

    def centre(values):
        shapes.append(tuple(values.shape))
        values -= values.mean(0)  # in its own copy
        return values

    plain = us.run(one_model, batch[0], "hidden.1", attention_mask=batch[1])[1]
    trace, _ = edited(one_model, batch, Edit("hidden.1", centre))
    assert shapes == [(frames, 16) for frames in FRAMES]
    for before, after in zip(plain.ragged("hidden.1"), trace.ragged("hidden.1"), strict=True):
        torch.testing.assert_close(after, before - before.mean(0))
    for site, shape in {
        "wave": (3000,),
        Z: (45, 2, 8),
        "block.1.attn.scores": (2, 45, 45),
        "conv.0": (749, 12),
    }.items():
        shapes.clear()
        edited(one_model, batch, Edit(site, lambda x: shapes.append(tuple(x.shape)) or x))
        assert shapes[0] == shape


# placebo


REAL = {
    "zero": Ablate("hidden.1"),
    "one head": Ablate(Z, head=1),
    "mean, some channels": Ablate("hidden.1", mode="mean", dims=range(3, 12)),
    "seconds": Ablate("hidden.1", time=(0.05, 0.1)),
    "steer": Steer("hidden.1", noise(16, seed=3), 2.0),
    "project": Project("hidden.1", noise(2, 16, seed=4)),
    "edit": Edit("hidden.1", lambda x: x.square()),
}


@pytest.mark.parametrize("name", sorted(set(REAL) - {"project"}))
def test_a_placebo_changes_each_frame_as_much_in_another_direction(one_model, batch, name):
    edit = REAL[name]
    before = us.run(one_model, batch[0], edit.site, attention_mask=batch[1])[1][edit.site].flatten(2)
    valid = us.run(one_model, batch[0], edit.site, attention_mask=batch[1])[1].valid(edit.site)
    real = edited(one_model, batch, edit)[0][edit.site].flatten(2) - before
    turned = edited(one_model, batch, Placebo(edit, seed=1))[0][edit.site].flatten(2) - before
    assert (turned[~valid] == 0).all()
    real, turned = real[valid].double(), turned[valid].double()
    torch.testing.assert_close(turned @ turned.T, real @ real.T, rtol=1e-4, atol=1e-4)  # norms, and angles of frames
    assert torch.linalg.matrix_rank(turned, rtol=1e-4) == torch.linalg.matrix_rank(real, rtol=1e-4)
    assert torch.equal(turned.abs().sum(0) > 0, real.abs().sum(0) > 0)  # the channels that the edit may change
    moved = real.norm(dim=1) > 0
    cosines = torch.nn.functional.cosine_similarity(real[moved], turned[moved])
    assert cosines.abs().mean() < 0.8
    another = edited(one_model, batch, Placebo(edit, seed=2))[0][edit.site].flatten(2) - before
    assert (another[valid].double() - turned).abs().max() > 1e-2


def variances(values, directions):
    return ((values - values.mean(0)) @ directions.T).square().mean(0).sum()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("match", ["rank", "variance"])
def test_a_placebo_of_a_projection_is_a_projection(one_model, batch, match, keep):
    """It takes away (or keeps) as many directions, none of which is left (or all that is left)."""
    trace = us.run(one_model, batch[0], "hidden.1", attention_mask=batch[1])[1]
    before, valid = trace["hidden.1"], trace.valid("hidden.1")
    values = before[valid].double()
    basis = torch.linalg.svd(values - values.mean(0), full_matrices=False)[2][1:3]  # second and third in variance
    project = Project("hidden.1", basis.float(), keep=keep)
    after = edited(one_model, batch, Placebo(project, seed=1, match=match))[0]["hidden.1"]
    assert torch.equal(after[~valid], before[~valid])
    gone = values - after[valid].double() if not keep else after[valid].double()
    singular = torch.linalg.svdvals(gone)
    assert (singular > 1e-4 * singular[0]).sum() == 2
    directions = torch.linalg.svd(gone, full_matrices=False)[2][:2]
    left = after[valid].double() if not keep else values - after[valid].double()
    assert (left @ directions.T).abs().max() < 1e-4
    assert (directions @ basis.double().T).abs().max() < 0.99  # other directions than the edit's
    if match == "variance":
        torch.testing.assert_close(variances(values, directions), variances(values, basis.double()), rtol=1e-3, atol=0)
    other = edited(one_model, batch, Placebo(project, seed=2, match=match))[0]["hidden.1"]
    assert (other - after).abs().max() > 1e-2


def test_no_directions_hold_more_than_the_largest(one_model, batch):
    """Where the edit takes the largest directions, so does its placebo of equal variance."""
    trace = us.run(one_model, batch[0], "hidden.1", attention_mask=batch[1])[1]
    before, valid = trace["hidden.1"], trace.valid("hidden.1")
    values = before[valid].double()
    basis = torch.linalg.svd(values - values.mean(0), full_matrices=False)[2][:2]
    placebo = Placebo(Project("hidden.1", basis.float()), seed=1, match="variance")
    after = edited(one_model, batch, placebo)[0]["hidden.1"][valid].double()
    directions = torch.linalg.svd(values - after, full_matrices=False)[2][:2]
    torch.testing.assert_close(variances(values, directions), variances(values, basis), rtol=0.02, atol=0)


def test_each_utterance_may_have_a_placebo_of_its_own(one_model, batch):
    edit = Ablate("hidden.1")
    both = edited(one_model, batch, Placebo(edit, seed=(3, 4, 5)))[0]["hidden.1"]
    for row, seed in enumerate((3, 4, 5)):
        assert torch.equal(both[row], edited(one_model, batch, Placebo(edit, seed=seed))[0]["hidden.1"][row])
    with pytest.raises(ValueError, match="Placebo has 2 seeds for 3 utterances"):
        edited(one_model, batch, Placebo(edit, seed=(3, 4)))


def test_directions_of_placebos_are_spread_evenly():
    """Mean 0, and the squared cosine of a random direction in d channels is 1 / d on average."""
    from unisat.interpret.interventions.edits import rotation

    drawn = torch.stack([rotation(8, seed) for seed in range(3000)]).double()
    torch.testing.assert_close(
        drawn @ drawn.transpose(1, 2), torch.eye(8).double().expand(3000, -1, -1), atol=1e-5, rtol=0
    )
    # of 64 entries, each the mean of 3000 with standard deviation 1 / sqrt(8), the largest lies within 4.5 of them
    assert drawn.mean(0).abs().max() < 4.5 / (8 * 3000) ** 0.5
    torch.testing.assert_close(drawn.square().mean(0), torch.full((8, 8), 1 / 8).double(), atol=0.015, rtol=0)


def test_a_placebo_depends_on_its_seed_alone(one_model, batch):
    torch.manual_seed(3)
    first = edited(one_model, batch, Placebo(Ablate("hidden.1"), seed=4))[1]
    torch.manual_seed(4)
    assert torch.equal(first, edited(one_model, batch, Placebo(Ablate("hidden.1"), seed=4))[1])
    alone = edited(one_model, (batch[0][1:2, :700], None), Placebo(Ablate("hidden.1"), seed=4))[1]
    torch.testing.assert_close(alone, first[45:54], rtol=1e-4, atol=1e-5)


# scopes


def test_edits_apply_in_order_the_outer_block_s_first(one_model, batch):
    plain = us.run(one_model, batch[0], "hidden.1", attention_mask=batch[1])[1]["hidden.1"][0]
    double, more = Edit("hidden.1", lambda x: 2 * x), Edit("hidden.1", lambda x: x + 1)
    trace, _ = edited(one_model, batch, double, more)
    torch.testing.assert_close(trace["hidden.1"][0], 2 * plain + 1)
    trace, _ = edited(one_model, batch, more, double)
    torch.testing.assert_close(trace["hidden.1"][0], 2 * (plain + 1))
    with intervene(one_model, double):
        trace, _ = edited(one_model, batch, more)
        torch.testing.assert_close(trace["hidden.1"][0], 2 * plain + 1)
        trace = us.run(one_model, batch[0], "hidden.1", attention_mask=batch[1])[1]
        torch.testing.assert_close(trace["hidden.1"][0], 2 * plain)


def test_captures_see_edits_wherever_they_were_opened(model, batch):
    edits = [Ablate("hidden.1"), Ablate("block.2.resid_mid"), Ablate("block.0.attn.z", head=0), Ablate("wave")]
    names = [edit.site for edit in edits]
    with torch.no_grad(), us.capture(model, *names) as outside, intervene(model, edits[0]):
        with us.capture(model, *names) as between, intervene(model, *edits[1:]), us.capture(model, *names) as inside:
            model(*batch)
        model(*batch)
    for trace in (outside.calls[0], between.calls[0], inside):
        valid = trace.valid("hidden.1")
        assert (trace["hidden.1"][valid] == 0).all()
        assert (trace["block.2.resid_mid"][valid] == 0).all()
        assert (trace["block.0.attn.z"][valid][:, 0] == 0).all()
        assert (trace["block.0.attn.z"][valid][:, 1] != 0).any()
        assert (trace["wave"][batch[1].bool()] == 0).all()
    assert (outside.calls[1]["hidden.1"][valid] == 0).all()
    assert (outside.calls[1]["block.2.resid_mid"][valid] != 0).any()
    assert num_hooks(model) == 0


def test_what_is_installed_can_be_seen(one_model):
    assert active_scopes().empty
    _, trace = us.run(one_model, noise(1, 500), Z)
    with intervene(one_model, Ablate("block.{0:2}.attn.z", head=1), Placebo(Patch(Z, trace))):
        with intervene(one_model, Steer("hidden.1", noise(16), 2.0)):
            table = active_scopes()
        assert len(active_scopes()) == 2
    assert table["scope"].tolist() == [0, 0, 1]
    assert table["sites"].tolist() == ["block.0.attn.z, block.1.attn.z", Z, "hidden.1"]
    assert table["edit"].tolist() == [
        "Ablate(site='block.{0:2}.attn.z', head=1)",
        "Placebo(of=Patch(site='block.1.attn.z'))",
        "Steer(site='hidden.1', scale=2.0)",
    ]
    assert active_scopes().empty


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["scope", "forward pass", "edit"])
def test_nothing_is_left_after_an_error(one_model, batch, error, where):
    def fail(*_):
        raise error

    with torch.no_grad():
        before = one_model(*batch).last_hidden_state
    with pytest.raises(error), intervene(one_model, Ablate("block.*.attn.z")), intervene(one_model, Ablate("hidden.*")):
        if where == "forward pass":
            with ExitStack() as stack:
                stack.callback(one_model.encoder.layers[2].register_forward_pre_hook(fail).remove)
                one_model(*batch)
        elif where == "edit":
            with intervene(one_model, Edit("hidden.2", fail)):
                one_model(*batch)
        fail()
    assert num_hooks(one_model) == 0
    assert len(_INSTALLED) == 0
    assert active_scopes().empty
    with torch.no_grad():
        assert torch.equal(one_model(*batch).last_hidden_state, before)


def test_a_refused_edit_leaves_nothing_and_runs_nothing(one_model, batch):
    ran = []
    handle = one_model.feature_extractor.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(ValueError, match="no site matches"):
        edited(one_model, batch, Ablate("hidden.1"), Ablate("hiden.2"))
    handle.remove()
    assert ran == []
    assert num_hooks(one_model) == 0


def test_scopes_may_end_in_any_order(one_model, batch):
    first, second = ExitStack(), ExitStack()
    first.enter_context(intervene(one_model, Edit("hidden.1", lambda x: 0 * x + 1)))
    second.enter_context(intervene(one_model, Edit("hidden.1", lambda x: x + 1)))
    first.close()
    plain = us.run(one_model, batch[0], "embed", attention_mask=batch[1])
    with intervene(one_model, Ablate("hidden.1")):
        trace = us.run(one_model, batch[0], "hidden.1", attention_mask=batch[1])[1]
    assert (trace["hidden.1"][0] == 0).all()  # the later one last
    second.close()
    assert num_hooks(one_model) == 0
    assert plain[0].last_hidden_state.shape == (3, 45, 16)


def test_hundreds_of_scopes_leak_nothing():
    model = us.UniSpeechSatModel(small_config(num_hidden_layers=1)).eval()
    wave = noise(1, 200)
    _, source = us.run(model, wave, "block.0.attn.z")

    def once():
        with torch.no_grad(), intervene(model, Ablate("hidden.*"), Placebo(Patch("block.*.attn.z", source, head=0))):
            model(wave)

    for _ in range(10):
        once()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(200):
        once()
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert num_hooks(model) == 0
    assert len(_INSTALLED) == 0


def test_a_copy_made_inside_a_scope_is_not_edited_behind_it(one_model, batch):
    with torch.no_grad():
        expected = one_model(*batch).last_hidden_state
        with intervene(one_model, Ablate("hidden.*"), Ablate("block.1.attn.z")):
            other = copy.deepcopy(one_model)
        torch.testing.assert_close(other(*batch).last_hidden_state, expected)


def test_the_user_s_own_hooks_stay_and_see_edited_values(one_model, batch):
    seen = []
    handle = one_model.encoder.layers[0].register_forward_hook(lambda module, args, output: seen.append(output[0]))
    edited(one_model, batch, Ablate("hidden.1"))
    assert (seen[0][0] == 0).all()
    assert num_hooks(one_model) == 1
    handle.remove()


def test_it_works_in_a_line_of_its_own_and_in_functions(one_model, batch):
    names = {"intervene": intervene, "Ablate": Ablate, "model": one_model, "batch": batch, "torch": torch}
    exec("with torch.no_grad(), intervene(model, Ablate('hidden.3')): out = model(*batch)", names)
    assert (names["out"].last_hidden_state[0] == 0).all()
    code = "try:\n  with intervene(model, Ablate('hidden.3')):\n    out = model(*batch)\nfinally: done = True"
    exec(compile(code, "cell", "exec"), names)
    assert (names["out"].last_hidden_state[0] == 0).all()

    def scopes():
        with intervene(one_model, Ablate("hidden.3")):
            yield one_model(*batch).last_hidden_state

    opened = scopes()
    assert (next(opened)[0] == 0).all()
    opened.close()
    assert num_hooks(one_model) == 0


def test_threads_run_one_edited_model_on_batches_of_their_own(one_model):
    """Each thread edits in its own way, one not at all."""
    edits = {0: [Ablate("hidden.1", mode="mean")], 1: [Ablate("hidden.1", dims=[3]), Ablate(Z, head=0)], 2: []}
    waves = {seed: padded(*lengths, seed=seed) for seed, lengths in enumerate([(3000, 500), (900, 900, 1500), (700,)])}
    expected = {seed: edited(one_model, batch, *edits[seed], site="hidden.1")[1] for seed, batch in waves.items()}
    wrong = []

    def work(seed):
        for _ in range(10):
            with torch.no_grad(), intervene(one_model, *edits[seed]):
                assert len(active_scopes()) == len(edits[seed])
                output = one_model(*waves[seed])
            if (output.last_hidden_state[output.valid] - expected[seed]).abs().max() > 1e-4:
                wrong.append(seed)

    with intervene(one_model, Ablate("hidden.3")):
        threads = [threading.Thread(target=work, args=(seed,)) for seed in waves]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (one_model(*waves[2]).last_hidden_state == 0).all()
    assert wrong == []
    assert num_hooks(one_model) == 0


@pytest.mark.wrong_types  # the checks of types cannot be compiled
def test_compiled_models_are_edited(one_model, batch):
    expected = edited(one_model, batch, Ablate(Z, head=0))[1]
    compiled = torch.compile(one_model, backend="eager")
    with torch.no_grad():
        plain = compiled(*batch)  # compiled without hooks: from here on PyTorch would not call them
        with intervene(compiled, Ablate(Z, head=0)):
            inside = compiled(*batch)
            with us.capture(compiled, Z) as trace:
                compiled(*batch)
        after = compiled(*batch)
    torch.testing.assert_close(inside.last_hidden_state[inside.valid], expected)
    assert (trace[Z][0, :, 0] == 0).all()
    assert torch.equal(after.last_hidden_state, plain.last_hidden_state)


def test_half_precision_stays_half(one_model, batch):
    model = one_model.to(torch.bfloat16)
    _, source = us.run(model, batch[0], "hidden.1", attention_mask=batch[1], dtype=torch.float32)
    for edit in (Steer("hidden.1", noise(16)), Ablate("hidden.1", mode="mean"), Placebo(Patch("hidden.1", source))):
        trace, result = edited(model, batch, edit)
        assert trace["hidden.1"].dtype == result.dtype == torch.bfloat16
        assert torch.isfinite(result).all()


def test_edits_reach_the_heads_and_the_quantizer(ragged):
    model = shuffled(us.UniSpeechSatForPreTraining(small_config()))
    with torch.no_grad():
        plain = model(ragged[0], ragged[1])
        with intervene(model, Steer("quant.logits", 100 * torch.eye(16)[3])):
            edited = model(ragged[0], ragged[1])
        with intervene(model, Ablate("quant.out")):
            silent = model(ragged[0], ragged[1])
    bias = model.project_q.bias.expand(3, 45, -1)
    torch.testing.assert_close(silent.projected_quantized_states[plain.valid], bias[plain.valid])
    assert torch.equal(plain.logits, silent.logits)
    assert edited.codevector_perplexity[0] == pytest.approx(1)
    assert plain.codevector_perplexity[0] > 1.01


def test_training_mode_is_refused_unless_allowed(one_model, batch):
    edit = Ablate("block.1.attn.z")
    one_model.train()
    with pytest.raises(ValueError, match=r"training mode.*model.eval\(\) first, or pass allow_train=True"):
        edited(one_model, batch, edit)
    one_model.config.layerdrop = 0.5
    with (
        pytest.raises(ValueError, match=r"LayerDrop may skip the layer of block.1.attn.z.*model.config.layerdrop = 0"),
        intervene(one_model, edit, allow_train=True),
    ):
        pass
    one_model.config.layerdrop = 0.0
    with intervene(one_model, edit, allow_train=True), us.capture(one_model, Z, allow_train=True) as trace:
        one_model(*batch)
    assert (trace[Z][0] == 0).all()
    one_model.gradient_checkpointing_enable()
    with (
        pytest.raises(ValueError, match=r"second time in the backward pass.*gradient_checkpointing_disable\(\)"),
        intervene(one_model, edit, allow_train=True),
    ):
        pass
    one_model.eval()
    with intervene(one_model, edit):
        one_model(*batch)


def test_parts_of_the_model_are_not_run_with_edits(one_model, batch):
    def refused():
        with pytest.raises(ValueError, match="inside intervene call the model, not its parts"):
            one_model.encoder(noise(3, 45, 16))  # as many frames as in the pass before

    with intervene(one_model, Ablate("hidden.1")):
        refused()
        one_model(*batch)
        refused()
        handle = one_model.encoder.layers[2].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            one_model(*batch)
        handle.remove()
        refused()


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda trace: Ablate("block.0.attn.zz"), r"no site matches 'block.0.attn.zz' \(did you mean block.0.attn.z"),
        (lambda trace: Ablate("hidden.1", head=0), r"hidden.1 has no heads \(batch frames hidden\); leave head out"),
        (lambda trace: Ablate(Z, head=2), r"head=2: block.1.attn.z has 2, numbered 0 to 1; \[2\] are beyond"),
        (lambda trace: Ablate(Z, head=[0, 5]), r"\[5\] are beyond"),
        (lambda trace: Ablate(Z, head=[0, 0]), r"head=\(0, 0\) must be different numbers"),
        (lambda trace: Ablate(Z, dims=8), r"dims=\(8,\): block.1.attn.z has 8, numbered 0 to 7"),
        (lambda trace: Ablate(Z, dims=slice(8, 9)), "chooses none of the 8 channels"),
        (lambda trace: Ablate("wave", dims=[0]), "wave has no channels"),
        (lambda trace: Ablate(Z, mode="none"), "mode='none' must be one of zero, mean, resample"),
        (lambda trace: Ablate(Z, mean=noise(16)), "mean= belongs to mode='mean', not to 'zero'"),
        (lambda trace: Ablate(Z, mode="mean", mean=noise(7)), "mean has 7 channels, block.1.attn.z needs 16"),
        (lambda trace: Ablate("block.0.attn.pattern", mode="mean"), "zero it, or edit attn.z"),
        (lambda trace: Ablate(Z, time=(1, 1)), r"time=\(1, 1\) must be \(start, end\) in seconds"),
        (lambda trace: Patch(Z, trace, align="fit"), "align='fit' must be one of error, crop, stretch"),
        (
            lambda trace: Patch("hidden.1", trace),
            "the source of Patch holds block.0.attn.z, block.1.attn.z, not hidden.1",
        ),
        (lambda trace: Steer("hidden.1", noise(15)), "vector has 15 channels, hidden.1 needs 16"),
        (lambda trace: Steer("hidden.1", noise(4), dims=[1, 2]), r"needs 2 \(those chosen\) or 16 \(all\)"),
        (lambda trace: Steer("hidden.1", noise(16) / 0), "vector for hidden.1 has values that are not finite"),
        (lambda trace: Steer("wave", noise(1)), r"Steer needs channels, and wave has none \(batch samples\)"),
        (lambda trace: Project("hidden.1", noise(16, 2)), "basis has 2 channels, hidden.1 needs 16; its rows are the"),
        (lambda trace: Project("hidden.1", torch.zeros(2, 16)), "basis is zero everywhere"),
        (lambda trace: Project("hidden.1", torch.zeros(0, 16)), "basis has no rows"),
        (lambda trace: Placebo("hidden.1"), r"Placebo\(of=...\) takes an edit such as Ablate\(...\), got str"),
        (lambda trace: Placebo(Placebo(Ablate(Z))), "got Placebo"),
        (lambda trace: Placebo(Ablate(Z), match="variance"), "match='variance' must be 'rank', or 'variance' for the"),
        (lambda trace: Placebo(Ablate("block.0.attn.pattern")), "Placebo needs channels"),
        (lambda trace: Placebo(Ablate(Z, head=0, dims=[1])), "a random direction needs at least two channels"),
        (lambda trace: Ablate(Z, head=torch.tensor([0, 1])), r"head=tensor.* must be a whole number or a list.*tolist"),
        (lambda trace: Ablate(Z, dims=[0.5]), r"dims=\[0.5\] must be a whole number or a list of them, got list"),
        (lambda trace: Ablate(Z, time=3), r"time=3 must be \(start, end\) in seconds"),
        (lambda trace: Ablate(Z, time=("a", "b")), r"time='a' must be one number, got str"),
        (lambda trace: Ablate(Z, mode="resample", seed="one"), "seed='one' must be one whole number, got str"),
        (lambda trace: Ablate(5), "a site is named by a text or a regular expression, got 5"),
        (
            lambda trace: Ablate(Z, mode="mean", mean="no"),
            "mean for block.1.attn.z must be a tensor of numbers, got str",
        ),
        (lambda trace: Steer("hidden.1", noise(16), scale={1.0}), "scale={1.0} must be one number, got set"),
        (lambda trace: Patch(Z, {Z: noise(1)}), "source of Patch must be a Trace, got dict"),
        (lambda trace: Edit(Z, 5), "fn of Edit must be a function of one utterance's values, got int"),
        (lambda trace: "hidden.1", r"intervene takes edits such as Ablate\(.*got 'hidden.1'"),
    ],
)
def test_a_user_s_mistake_is_said_before_anything_runs(one_model, make, message):
    _, trace = us.run(one_model, noise(1, 500), "block.{0:2}.attn.z")
    with pytest.raises((ValueError, TypeError), match=message), intervene(one_model, make(trace)):
        pass
    assert num_hooks(one_model) == 0


def test_mistakes_that_only_a_batch_can_show(one_model, batch):
    with pytest.raises(ValueError, match="mode='resample' takes values from another utterance .*this batch has one"):
        edited(one_model, (noise(1, 500), None), Ablate(Z, mode="resample"))
    _, trace = us.run(one_model, noise(2, 500), Z)
    with pytest.raises(ValueError, match="has 2 utterances, the batch 3; it needs as many, or one for all"):
        edited(one_model, batch, Patch(Z, trace, align="crop"))
    with pytest.raises(
        ValueError, match=r"return a tensor of the shape that it got, \(45, 16\); it returned shape \(16,\)"
    ):
        edited(one_model, batch, Edit("hidden.1", lambda x: x.mean(0)))
    with pytest.raises(ValueError, match="it returned NoneType"):
        edited(one_model, batch, Edit("hidden.1", lambda x: None))


def test_a_source_of_another_model_or_of_means_is_refused(one_model):
    other = us.UniSpeechSatModel(small_config(hidden_size=32)).eval()
    _, trace = us.run(other, noise(1, 500), "hidden.1")
    with pytest.raises(ValueError, match=r"holds hidden.1 as \(1, 6, 32\), this model has batch frames hidden=16"):
        edited(one_model, (noise(1, 500), None), Patch("hidden.1", trace))
    _, trace = us.run(one_model, noise(1, 500), "hidden.1", reduce="mean")
    with pytest.raises(ValueError, match=r"holds hidden.1 as \(1, 16\)"):
        edited(one_model, (noise(1, 500), None), Patch("hidden.1", trace))


# as text


def test_edits_as_text_do_the_same(one_model, batch):
    import re

    _, source = us.run(one_model, noise(3, 2900, seed=9), "block.*.attn.z", "hidden.*")
    edits = [
        Ablate("block.{0:2}.attn.z", head=[0, 1], time=(0.02, 0.1)),
        Ablate(re.compile(r"hidden\.[01]"), mode="mean", dims=slice(2, None, 3)),
        Ablate("hidden.1", mode="resample", seed=3),
        Ablate("hidden.1", mode="mean", mean=noise(16).double() / 3),
        Patch("block.*.attn.z", source, head=1, align="stretch"),
        Steer("hidden.2", noise(16).numpy(), 1 / 3),
        Project("hidden.2", noise(2, 16), keep=True),
        Erase("hidden.2", torch.eye(16)[:2], torch.ones(16), whiten=torch.eye(16)),
        Placebo(Patch("hidden.1", source, align="crop"), seed=5),
        Placebo(Project("hidden.1", torch.eye(16)[:2]), seed=(1, 2, 3), match="variance"),
    ]
    text = to_json(*edits)
    again = from_json(text)
    assert [repr(edit) for edit in again] == [repr(edit) for edit in edits]
    for edit, other in zip(edits, again, strict=True):
        assert torch.equal(
            edited(one_model, batch, edit, site="wave")[1], edited(one_model, batch, other, site="wave")[1]
        )
    assert to_json(*again) == text
    assert sorted(again[4].source.sites) == [
        "block.0.attn.z",
        "block.1.attn.z",
        "block.2.attn.z",
    ]  # no more than it needs


@pytest.mark.wrong_types
def test_text_makes_nothing_but_edits():
    with pytest.raises(ValueError, match="Edit cannot be written as text: it holds Python code"):
        to_json(Placebo(Edit("hidden.1", lambda x: x)))
    for data, message in {
        '[{"edit": "Edit", "site": "wave", "fn": "print"}]': "is no edit; expected a dict whose 'edit' is one of",
        '[{"edit": "Ablate", "site": "wave", "fn": "print"}]': "Ablate has no fn; it has dims, head, mean",
        '[{"edit": "Ablate", "site": "wave", "mode": "boom"}]': "mode='boom' must be",
        '{"edit": "Ablate"}': "a list of edits",
    }.items():
        with pytest.raises(ValueError, match=message):
            from_json(data)
    assert json.loads(to_json(Ablate("wave"))) == [{"edit": "Ablate", "site": "wave", "mode": "zero", "seed": 0}]
