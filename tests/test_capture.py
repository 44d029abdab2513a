import copy
import gc
import threading

import pytest
import torch
from conftest import shuffled, small_config

import unisat as us
from unisat.interpret.activations.capture import parse_bytes


def num_hooks(model):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )


@pytest.fixture
def wave():
    return torch.randn(1, 1000, generator=torch.Generator().manual_seed(3))


def test_capture_changes_nothing_and_leaves_nothing(model, ragged):
    waveforms, mask, _ = ragged
    for given in (None, mask):
        with torch.no_grad():
            output = model(waveforms, given)
            before = output.last_hidden_state
            with us.capture(model, "hidden.*", "block.*.mlp.pre"):
                inside = model(waveforms, given).last_hidden_state
                assert num_hooks(model) > 0
            after = model(waveforms, given).last_hidden_state
        if given is None:
            assert torch.equal(before, inside)
        # who looks into a layer sees the padded batch, so sums of speech are rounded otherwise
        torch.testing.assert_close(before[output.valid], inside[output.valid], atol=1e-5, rtol=1e-5)
        assert torch.equal(before, after)
        assert num_hooks(model) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error_in_the_scope(one_model, wave, error):
    with pytest.raises(error), us.capture(one_model, "*"):
        one_model(wave)
        raise error
    assert num_hooks(one_model) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error_in_the_forward_pass(one_model, wave, error):
    def fail(*_):
        raise error

    handle = one_model.encoder.layers[1].register_forward_hook(fail)
    with pytest.raises(error), us.capture(one_model, "hidden.*") as trace:
        one_model(wave)
    handle.remove()
    assert num_hooks(one_model) == 0
    assert trace.calls == []
    with pytest.raises(ValueError, match="saw 0 forward passes; call the model inside"):
        trace["hidden.0"]


def test_the_user_s_own_hooks_stay(one_model, wave):
    seen = []
    handle = one_model.encoder.layers[0].register_forward_hook(lambda *_: seen.append(1))
    us.run(one_model, wave, "*")
    one_model(wave)
    assert len(seen) == 2
    handle.remove()


def test_nested_scopes_each_record(one_model, wave):
    with us.capture(one_model, "hidden.1") as outer:
        with us.capture(one_model, "hidden.1", "block.0.attn.pattern", dtype=torch.float16) as inner:
            one_model(wave)
        assert outer["hidden.1"].dtype == torch.float32
        assert inner["hidden.1"].dtype == torch.float16
        torch.testing.assert_close(inner["hidden.1"].float(), outer["hidden.1"], rtol=1e-3, atol=1e-3)
        one_model(wave)
    assert (len(outer.calls), len(inner.calls)) == (2, 1)
    with pytest.raises(ValueError, match=r"saw 2 forward passes; use trace.calls\[i\]"):
        outer["hidden.1"]
    torch.testing.assert_close(outer.calls[0]["hidden.1"], outer.calls[1]["hidden.1"])
    assert num_hooks(one_model) == 0


def in_threads(work, *arguments):
    """Call a function with each argument in a thread of its own, at the same time; give what each returned."""
    found = {}
    threads = [threading.Thread(target=lambda one=one: found.update({one: work(one)})) for one in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[one] for one in arguments]


@pytest.mark.parametrize("shared", [False, True])
def test_two_threads_can_each_run(one_model, shared):
    """Each gets its own numbers, also where both run one model and both passes begin before either ends."""
    waves = {length: torch.randn(1, length, generator=torch.Generator().manual_seed(length)) for length in (700, 2000)}
    alone = {length: us.run(one_model, wave, "wave", "hidden.*")[1] for length, wave in waves.items()}
    models = {length: one_model if shared else copy.deepcopy(one_model) for length in waves}
    both = threading.Barrier(2)

    def meet(*_):
        both.wait(60)

    handles = [model.feature_extractor.register_forward_hook(meet) for model in {*models.values()}]
    with us.capture(one_model, "hidden.*") as outside:
        traces = in_threads(lambda length: us.run(models[length], waves[length], "wave", "hidden.*")[1], *waves)
    for handle in handles:
        handle.remove()
    for length, trace in zip(waves, traces, strict=True):
        assert trace.lengths("wave").tolist() == [length]
        for site in trace:
            torch.testing.assert_close(trace[site], alone[length][site], rtol=0, atol=1e-5)
    assert outside.calls == []  # a scope is for its own thread
    assert num_hooks(one_model) == 0


@pytest.mark.wrong_types  # the checks of types cannot be compiled
def test_compiled_models_are_compiled_again_behind_scopes_that_end_in_another_order(one_model, wave):
    compiled = torch.compile(one_model, backend="eager")
    compiled(wave)
    before = torch._dynamo.eval_frame._stance
    first, second = us.capture(one_model), us.capture(one_model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    second.__exit__(None, None, None)
    assert torch._dynamo.eval_frame._stance == before


def test_a_copy_made_inside_a_scope_has_no_part_in_it(one_model, wave):
    own = one_model.encoder.layers[0].register_forward_hook(lambda *_: None)
    with us.capture(one_model, "hidden.*") as trace, us.intervene(one_model, us.Ablate("hidden.1")):
        other = copy.deepcopy(one_model)
        part = copy.deepcopy(one_model.encoder)
        other(wave)
    own.remove()
    assert trace.calls == []
    assert num_hooks(other) == num_hooks(part) == 1  # the user's own
    torch.testing.assert_close(other(wave).last_hidden_state, one_model(wave).last_hidden_state)


def test_selective_typed_detached(one_model, wave):
    with us.capture(one_model, "hidden.2", dtype=torch.float16) as trace:
        one_model(wave)
    assert trace.sites == ["hidden.2"]
    assert trace["hidden.2"].dtype == torch.float16
    assert not trace["hidden.2"].requires_grad
    with us.capture(one_model, "mask.indices", dtype=torch.float16) as trace:
        one_model(wave)
    assert trace["mask.indices"].dtype == torch.bool


def test_gradients_on_request(one_model, wave):
    out, trace = us.run(one_model, wave, "hidden.1", grad=True)
    (gradient,) = torch.autograd.grad(out.last_hidden_state.sum(), trace["hidden.1"])
    assert gradient.abs().sum() > 0


def test_budget_is_refused_before_the_forward_pass(one_model, wave):
    ran = []
    one_model.feature_extractor.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(ValueError, match=r"would record 0.0 MB, over the budget of 0.0 MB; the largest site is 'wave'"):
        us.run(one_model, wave, "hidden.0", "wave", budget=1000)
    assert ran == []
    long = torch.randn(4, 16000)
    frames = us.frames.stack_length(16000, [8] * 3, [4] * 3)
    needed = 3 * (4 * 2 * frames * frames * 4)
    with pytest.raises(ValueError, match=rf"would record {needed / 1e6:.1f} MB.*'block.0.attn.pattern'.*float16"):
        us.run(one_model, long, "block.*.attn.pattern", budget=needed - 1)
    _, trace = us.run(one_model, long, "block.*.attn.pattern", budget=needed)
    assert trace.nbytes == needed
    _, trace = us.run(one_model, long, "block.*.attn.pattern", budget=needed // 2, dtype=torch.float16)
    assert trace.nbytes == needed // 2
    assert num_hooks(one_model) == 1


def test_what_is_reduced_in_the_hook_is_what_one_would_reduce_afterwards(model, ragged):
    waveforms, mask, _ = ragged
    with torch.no_grad(), us.capture(model, "hidden.*", "block.1.attn.z") as whole:
        model(waveforms, mask)
    with torch.no_grad(), us.capture(model, "hidden.*", reduce="mean+std", budget=1) as trace:
        model(waveforms, mask)
    for row, frames in enumerate(whole.ragged("hidden.2")):
        expected = torch.cat([frames.mean(0), frames.std(0, unbiased=False)])
        torch.testing.assert_close(trace["hidden.2"][row], expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(trace.ragged("hidden.2")[row], expected, rtol=1e-5, atol=1e-6)
    assert trace.table().loc["hidden.2", "shape"] == "batch=3 reduced=32"
    assert trace.lengths("hidden.2").tolist() == whole.lengths("hidden.2").tolist()
    reducers = {"hidden.1": lambda values, valid: valid.sum(1), "block.1.attn.z": lambda values, valid: values[:, 0]}
    with torch.no_grad(), us.capture(model, *reducers, reduce=reducers) as trace:
        model(waveforms, mask)
    assert trace["hidden.1"].tolist() == whole.lengths("hidden.1").tolist()
    assert torch.equal(trace["block.1.attn.z"], whole["block.1.attn.z"][:, 0])
    with pytest.raises(ValueError, match="reduce='sum' must be one of mean"), us.capture(model, reduce="sum"):
        pass


def test_a_default_trace_of_base_is_small():
    with torch.device("meta"):
        base = us.UniSpeechSatModel(us.UniSpeechSatConfig())
    hidden = us.sites(base, "hidden.*", seconds=10.0)
    assert hidden["bytes"].sum() == 13 * 499 * 768 * 4 <= 20e6
    # the mean and standard deviation of each
    assert 13 * 2 * 768 * 4 <= 0.1e6


@pytest.mark.parametrize(
    "cell",
    [
        "%%time\nwith us.capture(model, 'hidden.1') as trace:\n    model(wave)",
        "%%timeit -n1 -r1\nwith us.capture(model, 'hidden.1') as trace: model(wave)\nseen.append(trace['hidden.1'])",
        "with us.capture(model, 'hidden.1') as trace: model(wave)",
        "exec(\"with us.capture(model, 'hidden.1') as trace: model(wave)\")",
        "with us.capture(model, 'hidden.1') as trace:\n    try:\n        model(wave)\n    finally:\n        pass",
    ],
    ids=["time", "timeit", "one line", "exec", "try"],
)
def test_scopes_work_in_every_kind_of_cell(one_model, wave, cell):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.user_ns |= {"us": us, "model": one_model, "wave": wave, "seen": []}
    done = shell.run_cell(cell)
    done.raise_error()
    found = shell.user_ns["seen"][0] if "timeit" in cell else shell.user_ns["trace"]["hidden.1"]
    with torch.no_grad():
        expected = one_model(wave, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(found, expected)


def test_parse_bytes():
    assert [parse_bytes(x) for x in (10, "10", "1kB", "500MB", "1.5 GB")] == [10, 10, 1000, 500 * 10**6, 15 * 10**8]
    with pytest.raises(ValueError, match="'much' is not a size"):
        parse_bytes("much")


def test_training_mode_is_refused_unless_allowed(one_model, wave):
    one_model.train()
    with pytest.raises(ValueError, match=r"training mode.*model.eval\(\) first, or pass allow_train=True"):
        us.run(one_model, wave)
    one_model.config.layerdrop = 1.0
    _, trace = us.run(one_model, wave, "hidden.0", "block.1.attn.q", allow_train=True)
    assert trace["hidden.0"].shape[0] == 1
    with pytest.raises(KeyError, match=r"not computed in this forward pass \(did LayerDrop"):
        trace["block.1.attn.q"]


def test_gradient_checkpointing_records_once(ragged):
    model = us.UniSpeechSatModel(small_config(layerdrop=0.0, apply_spec_augment=False)).train()
    model.gradient_checkpointing_enable()
    with us.capture(model, "block.1.attn.q", allow_train=True, grad=True) as trace:
        out = model(ragged[0])
        first = trace["block.1.attn.q"]
        out.last_hidden_state.sum().backward()
        assert trace["block.1.attn.q"] is first
    assert len(trace.calls) == 1


@pytest.mark.wrong_types  # the checks of types cannot be compiled
@pytest.mark.parametrize("way", ["wrapper", "in place"])
def test_compiled_models_record(one_model, wave, way):
    if way == "wrapper":
        compiled = torch.compile(one_model, backend="eager")
    else:
        compiled = one_model
        compiled.compile(backend="eager")
    plain = shuffled(us.UniSpeechSatModel(small_config()))
    expected = plain(wave, output_hidden_states=True, output_attentions=True)
    for _ in range(2):
        compiled(wave)  # compiled without hooks: from here on PyTorch would not call them
    with us.capture(compiled, "hidden.2", "block.0.attn.pattern") as trace:
        compiled(wave)
    torch.testing.assert_close(trace["hidden.2"], expected.hidden_states[2])
    torch.testing.assert_close(trace["block.0.attn.pattern"], expected.attentions[0])
    assert num_hooks(one_model) == 0
    _, trace = us.run(compiled, wave, "hidden.1")
    assert len(trace.calls) == 1


def test_a_trace_is_a_mapping_from_sites_to_tensors(one_model, wave):
    _, trace = us.run(one_model, wave, "hidden.{:2}", "wave")
    names = ["wave", "hidden.0", "hidden.1"]
    assert list(trace) == list(trace.keys()) == trace.sites == names
    assert len(trace) == 3
    assert [name for name, value in trace.items() if value is trace[name]] == names
    assert [value.shape[0] for value in trace.values()] == [1, 1, 1]
    assert "hidden.1" in trace
    assert "hidden.2" not in trace
    assert trace.get("hidden.2") is None
    assert dict(**trace)["wave"] is trace["wave"]
    assert trace == trace
    assert trace != us.run(one_model, wave, "hidden.{:2}", "wave")[1]
    assert len({trace, trace}) == 1


def test_a_trace_knows_lengths_times_and_ids(model, ragged):
    waveforms, mask, lengths = ragged
    arrays = [wave[:length] for wave, length in zip(waveforms, lengths, strict=True)]
    batch = us.Batch.from_arrays(arrays, sampling_rate=16000, ids=["a", "b", "c"])
    out, trace = us.run(model, batch, "wave", "conv.{0:2}", "hidden.3", "block.0.attn.pattern")
    assert trace.ids == ("a", "b", "c")
    assert len(trace.ids) == 3
    assert trace.lengths("wave").tolist() == lengths
    assert trace.lengths("conv.0").tolist() == [(n - 8) // 4 + 1 for n in lengths]
    assert torch.equal(trace.lengths("hidden.3"), out.lengths)
    assert torch.equal(trace.valid("hidden.3"), out.valid)
    assert torch.equal(trace.valid("wave"), mask.bool())
    # frame t of the whole front end starts at 64 t and sees 148 samples
    assert trace.seconds("hidden.3")[2].item() == pytest.approx((128 + 74) / 16000)
    assert trace.seconds("conv.0")[2].item() == pytest.approx((8 + 4) / 16000)
    assert trace.seconds("wave")[2].item() == pytest.approx(2 / 16000)
    assert [tuple(part.shape) for part in trace.ragged("block.0.attn.pattern")] == [(2, n, n) for n in (45, 9, 1)]
    assert [len(part) for part in trace.ragged("wave")] == lengths
    assert torch.equal(trace.ragged("hidden.3")[1], trace["hidden.3"][1, :9])


def test_the_table_measures_valid_values_only(one_model, ragged):
    _, trace = us.run(one_model, ragged[0], "hidden.1", "wave", attention_mask=ragged[1])
    table = trace.table()
    samples = torch.cat([wave[:n] for wave, n in zip(ragged[0], ragged[2], strict=True)])
    assert table.loc["wave", "rms"] == pytest.approx(samples.square().mean().sqrt().item(), rel=1e-5)
    assert table.loc["hidden.1", "shape"] == "batch=3 frames=45 hidden=16"
    assert table.loc["hidden.1", "MB"] == pytest.approx(3 * 45 * 16 * 4 / 1e6)
    assert (table.not_finite == 0).all()
    assert "hidden.1" in trace
    with pytest.raises(KeyError, match=r"'hidden.0' was not captured \(did you mean hidden.1\?\)"):
        trace["hidden.0"]
    assert "2 sites, 1 forward pass" in repr(trace)


def test_shared_memory_counts_once(one_model, wave):
    _, trace = us.run(one_model, wave, "hidden.0", "embed", "block.0.resid_pre")
    assert trace.nbytes == trace["embed"].nbytes


def test_a_trace_does_not_keep_the_model(wave):
    import weakref

    model = us.UniSpeechSatModel(small_config()).eval()
    _, trace = us.run(model, wave)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert trace["hidden.0"].shape[0] == 1


def test_what_run_takes(one_model, wave, tmp_path):
    import soundfile

    expected = us.run(one_model, us.Batch.from_arrays([wave[0]], sampling_rate=16000), "hidden.1")[1]["hidden.1"]
    for audio in (wave[0], wave[0].numpy(), [wave[0]]):
        assert torch.equal(us.run(one_model, audio, "hidden.1", sampling_rate=16000)[1]["hidden.1"], expected)
    path = tmp_path / "a.wav"
    soundfile.write(path, wave[0].numpy(), 16000, subtype="FLOAT")
    for audio in (path, str(path), [path]):
        torch.testing.assert_close(us.run(one_model, audio, "hidden.1")[1]["hidden.1"], expected)
    with pytest.raises(ValueError, match="sampl"):
        us.run(one_model, wave[0], "hidden.1")
    with pytest.raises(ValueError, match="attention_mask belongs to a tensor"):
        us.run(one_model, wave[0], sampling_rate=16000, attention_mask=torch.ones(1, 1000))
    mask = torch.zeros(1, us.frames.stack_length(1000, [8] * 3, [4] * 3), dtype=torch.bool)
    mask[0, 2:5] = True
    assert torch.equal(us.run(one_model, wave, "mask.indices", mask_time_indices=mask)[1]["mask.indices"], mask)
    with (
        pytest.raises(ValueError, match="2 ids were given for a batch of 1"),
        us.capture(one_model, ids=["a", "b"]),
    ):
        one_model(wave)


def test_hundreds_of_scopes_leak_nothing(wave):
    model = us.UniSpeechSatModel(small_config(num_hidden_layers=1)).eval()
    for _ in range(20):
        us.run(model, wave[:, :200])
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(300):
        us.run(model, wave[:, :200])
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert num_hooks(model) == 0
