"""Long recordings by chunks, against the whole."""

import math

import pytest
import torch
from conftest import small_config
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import unisat as us
from unisat.interpret.activations.long_recordings import MOST_SECONDS, chunk_error, encode_long, tile

REACH = 16 / 2  # frames that the positional convolution of the small models looks to either side
FRAME = 64 / 16_000  # seconds from frame to frame


def noise(seconds, seed=0):
    return torch.randn(int(16_000 * seconds), generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 5000), st.integers(1, 700))
def test_chunks_tile_the_recording(frames, length):
    chunks = tile(frames, length)
    assert [frame for start, stop in chunks for frame in range(start, stop)] == list(range(frames))
    sizes = [stop - start for start, stop in chunks]
    assert set(sizes[:-1]) <= {length}
    assert sizes[-1] < 1.5 * length
    assert len(sizes) == 1 or sizes[-1] >= length / 2


@torch.no_grad()
def test_one_chunk_is_the_model(model):
    waveform = noise(0.5)
    found = encode_long(model, waveform, layers="all")
    expected = model(us.audio.normalize(waveform)[None], output_hidden_states=True)
    assert found.chunks == [(0, expected.last_hidden_state.shape[1])]
    # the last layer's comes before the final norm where there is one, which ends the states
    for layer, state in enumerate(expected.hidden_states):
        torch.testing.assert_close(found.hidden_states[layer], state[0])
    times = us.frames.frame_seconds(len(found.seconds), model.config.conv_kernel, model.config.conv_stride)
    torch.testing.assert_close(found.seconds, times)


@torch.no_grad()
def test_each_chunk_is_its_surroundings_through_the_model(model):
    """By hand: the frames of a chunk and its context through the encoder, the context cut off."""
    waveform = noise(1.0)
    found = encode_long(model, waveform, chunk_seconds=0.2, context_seconds=0.05, layers=[1, 3], do_normalize=False)
    features = model.feature_extractor(waveform[None]).transpose(1, 2)
    hidden, _ = model.feature_projection(features)
    context = round(0.05 / FRAME)
    assert len(found.chunks) == 5
    for start, stop in found.chunks:
        seen = range(max(0, start - context), min(hidden.shape[1], stop + context))
        _, states, _ = model.encoder(hidden[:, list(seen)], output_hidden_states=True)
        for layer in (1, 3):
            torch.testing.assert_close(
                found.hidden_states[layer][start:stop], states[layer][0, start - seen[0] :][: stop - start]
            )


def test_what_enters_the_layers_is_exact_where_the_context_covers_the_kernel(model):
    waveform = noise(1.5)
    covered = chunk_error(model, waveform, chunk_seconds=0.3, context_seconds=(REACH + 1) * FRAME)
    assert covered.loc[0, "largest"] < 1e-5
    assert covered.loc[3, "largest"] > 1e-3  # attention looks further
    cut = chunk_error(model, waveform, chunk_seconds=0.3, context_seconds=2 * FRAME)
    assert cut.loc[0, "largest"] > 1e-3


def test_the_error_falls_as_the_context_grows(model):
    waveform = noise(1.5)
    errors = [
        chunk_error(model, waveform, chunk_seconds=0.3, context_seconds=context).loc[3, "rms"]
        for context in (0.0, 0.2, 1.5)
    ]
    assert errors[0] > errors[1] > 100 * errors[2]
    assert errors[2] < 1e-5  # each chunk sees everything


def test_errors_by_hand(one_model):
    waveform = noise(1.0)
    how = dict(chunk_seconds=0.3, context_seconds=0.05)
    table = chunk_error(one_model, waveform, **how)
    parts = encode_long(one_model, waveform, layers="all", **how)
    whole = encode_long(one_model, waveform, layers="all", chunk_seconds=9.0, context_seconds=0.0)
    seams = [float(parts.seconds[start]) for start, _ in parts.chunks[1:]]
    assert table.index.tolist() == [0, 1, 2, 3]
    for layer in table.index:
        a, b = parts.hidden_states[layer].double(), whole.hidden_states[layer].double()
        apart, size, seam_apart, seam_size = [], [], 0.0, 0.0
        for frame, time in enumerate(parts.seconds.tolist()):
            apart.append(sum((x - y) ** 2 for x, y in zip(a[frame].tolist(), b[frame].tolist(), strict=True)))
            size.append(sum(y**2 for y in b[frame].tolist()))
            if min(abs(time - seam) for seam in seams) <= 0.25:
                seam_apart, seam_size = seam_apart + apart[-1], seam_size + size[-1]
        assert table.loc[layer, "rms"] == pytest.approx(math.sqrt(sum(apart) / sum(size)))
        assert table.loc[layer, "largest"] == pytest.approx(math.sqrt(max(apart) * len(size) / sum(size)))
        assert table.loc[layer, "seam_rms"] == pytest.approx(math.sqrt(seam_apart / seam_size))
    assert chunk_error(one_model, waveform, chunk_seconds=9.0)["seam_rms"].isna().all()


class Largest(TorchDispatchMode):
    """Values of the largest tensor that is made."""

    values = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, torch.Tensor):
                self.values = max(self.values, one.untyped_storage().nbytes() // one.element_size())
        return out


def test_memory_does_not_grow_with_the_square(one_model):
    found = []
    for seconds in (4.0, 16.0):
        with Largest() as largest:
            encode_long(one_model, noise(seconds), chunk_seconds=0.5, context_seconds=0.1)
        found.append(largest.values)
    assert found[1] <= 5 * found[0]
    assert found[1] < (16 / FRAME) ** 2


def test_layers_modes_and_other_models(one_model):
    head = us.UniSpeechSatForCTC(small_config(vocab_size=8)).train()
    waveform = noise(0.5)
    last = encode_long(head, waveform, chunk_seconds=0.2)
    assert head.training
    assert head.unispeech_sat.encoder.layers[0].dropout.training
    assert list(last.hidden_states) == [3]
    some = encode_long(head, waveform, chunk_seconds=0.2, layers=(2, 0))
    assert list(some.hidden_states) == [0, 2]
    every = encode_long(head, waveform, chunk_seconds=0.2, layers="all").hidden_states
    torch.testing.assert_close(every[3], last.hidden_states[3])
    assert every[2].untyped_storage().nbytes() == every[2].nbytes  # nothing else is kept


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("waveform", "options", "said"),
    [
        (torch.zeros(2, 900), {}, "must be \\(samples,\\), got \\(2, 900\\)"),
        (torch.zeros(20), {}, "20 samples"),
        (torch.full((900,), torch.nan), {}, "NaN"),
        (torch.zeros(900), {"chunk_seconds": 0.0}, "chunk_seconds=0.0"),
        (torch.zeros(900), {"context_seconds": -1.0}, "context_seconds=-1.0"),
        (torch.zeros(900), {"layers": [4]}, "numbers from 0 to 3"),
        (torch.zeros(900), {"layers": "first"}, "'last', 'all' or numbers"),
        (torch.zeros(900), {"layers": []}, "'last', 'all' or numbers"),
    ],
)
def test_bad_input(one_model, waveform, options, said):
    with pytest.raises(ValueError, match=said):
        encode_long(one_model, waveform, **options)


def test_too_long_for_a_comparison(one_model):
    with pytest.raises(ValueError, match="120 s of it"):
        chunk_error(one_model, torch.zeros(int(16_001 * MOST_SECONDS)))
