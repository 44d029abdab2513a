"""Human speech through the model: padding that changes nothing, and the reference's numbers."""

import pytest
import torch
from conftest import relative

import unisat as us

pytestmark = pytest.mark.runs_once


@pytest.fixture(scope="module")
def base():
    """Width and front end of Base with two layers, fresh weights."""
    torch.manual_seed(0)
    return us.UniSpeechSatModel(us.UniSpeechSatConfig.base(num_hidden_layers=2)).eval()


@pytest.fixture(scope="module")
def batch(recorded):
    """A long and a very short recording and one between, each normalised by itself."""
    corpus = us.corpus.folder(recorded)
    longest, shortest = (corpus.table.seconds - 8).abs().idxmin(), corpus.table.seconds.idxmin()
    middle = (corpus.table.seconds - 4).abs().idxmin()
    batch = corpus.batch([longest, shortest, middle])
    assert batch.seconds.max() > 4 * batch.seconds.min()
    return batch


def test_batch_equals_single(base, batch):
    output, trace = us.run(base, batch, "hidden.*")
    for i, utterance in enumerate(batch):
        alone, single = us.run(base, utterance, "hidden.*")
        assert alone.lengths[0] == output.lengths[i]
        for k in range(3):
            assert relative(trace.ragged(f"hidden.{k}")[i], single[f"hidden.{k}"][0]) <= 1e-5


@torch.no_grad()
def test_the_reference_gives_the_same(base, batch, tmp_path):
    transformers = pytest.importorskip("transformers")
    base.save_pretrained(tmp_path)
    transformers.logging.set_verbosity_error()
    theirs = transformers.UniSpeechSatModel.from_pretrained(tmp_path).eval()
    ours = us.UniSpeechSatModel.from_pretrained(tmp_path, padding="reference")
    values, mask = batch.input_values, batch.attention_mask
    expected = theirs(values, mask, output_hidden_states=True)
    output = ours(values, mask, output_hidden_states=True)
    for mine, other in zip(output.hidden_states, expected.hidden_states, strict=True):
        assert relative(mine, other) <= 5e-6
    # and its padding does leak
    alone = theirs(values[1:2, : batch.lengths[1]]).last_hidden_state
    assert relative(expected.last_hidden_state[1:2, : alone.shape[1]], alone) > 1e-2
