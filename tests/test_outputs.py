"""Outputs as dicts, and as torch and accelerate take them apart and put them together."""

import pytest
import torch
from conftest import shuffled
from test_heads import KINDS, clips, head_config  # noqa: F401 - a fixture

from unisat.outputs import CausalLMOutput, ModelOutput

# torch and accelerate give the first field what its annotation does not allow
pytestmark = pytest.mark.wrong_types


def outputs_of(kind, clips, **flags):  # noqa: F811
    model = shuffled(KINDS[kind](head_config()))
    return model, model(clips[0], clips[1], **flags)


def test_an_output_is_a_mapping_and_unpacks_into_values():
    out = CausalLMOutput(logits=torch.ones(1, 2, 3), lengths=torch.tensor([2]))
    assert dict(out.items()) == {"logits": out.logits, "lengths": out.lengths}
    assert list(out.values()) == [out.logits, out.lengths]
    assert dict(out) == {**out} == dict(out.items())
    assert out.get("logits") is out.logits
    assert out.get("loss") is None
    assert out.get("nothing", 5) == 5
    (logits,) = out
    assert logits is out.logits
    again = CausalLMOutput(dict(out.items()))  # as the reference's outputs are made
    assert (again.loss, again.logits, again.lengths) == (None, out.logits, out.lengths)


@pytest.mark.parametrize("flags", [{}, {"output_hidden_states": True}, {"output_attentions": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_data_parallel_gathers_each_field_where_it_belongs(kind, flags, clips, monkeypatch):  # noqa: F811
    from torch.nn.parallel import scatter_gather

    # the part of torch that needs two GPUs
    monkeypatch.setattr(scatter_gather.Gather, "apply", lambda device, dim, *parts: torch.cat(parts))
    _, out = outputs_of(kind, clips, **flags)
    both = scatter_gather.gather([out, out], "cpu")
    assert type(both) is type(out)
    assert both.loss is None
    for name in set(out.keys()) & {"logits", "embeddings", "projected_states"}:
        torch.testing.assert_close(both[name], torch.cat([out[name], out[name]]))
    assert (both.hidden_states is None) == (out.hidden_states is None)
    assert (both.attentions is None) == (out.attentions is None)
    loss = CausalLMOutput(torch.ones(1), torch.zeros(1, 2, 3))
    assert scatter_gather.gather([loss, loss], "cpu").loss.tolist() == [1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_accelerate_widens_half_precision(kind, clips):  # noqa: F811
    utils = pytest.importorskip("accelerate.utils")
    _, out = outputs_of(kind, clips, output_hidden_states=True)
    half = type(out)(
        {k: v.bfloat16() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in out.items()}
    )
    wide = utils.convert_to_fp32(half)
    assert isinstance(wide, ModelOutput)
    assert type(wide) is type(out)
    assert (half.logits.dtype, wide.logits.dtype) == (torch.bfloat16, torch.float32)
    assert list(wide.keys()) == list(out.keys())
