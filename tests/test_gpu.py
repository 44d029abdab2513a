"""The same numbers on a real GPU, where there is one; elsewhere `test_apple.py` stands for one.

``UNISAT_TEST_DEVICE=cpu`` tries these tests themselves on a machine without a GPU.
"""

import os

import pytest
import torch
from conftest import shuffled, small_config
from test_apple import MEASURES, OFF, WAVES, relative

import unisat as us

DEVICE = os.environ.get("UNISAT_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "")
pytestmark = pytest.mark.skipif(not DEVICE, reason="there is no GPU here")
FAMILIES = ["UniSpeechSatModel", "Wav2Vec2Model", "HubertModel", "WavLMModel"]
NORMS = {"post-LN": {}, "pre-LN": {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}}


@pytest.fixture(autouse=True)
def exact(request):
    """Products in float32 proper, unless a test asks for TF32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def batch():
    return us.Batch.from_arrays([*WAVES, WAVES[0][:2500]], sampling_rate=16_000)


def states(model, **options):
    """All hidden states of the valid frames of a padded batch."""
    given = batch()
    with torch.no_grad():
        output = model(
            given.input_values.to(model.device),
            given.attention_mask.to(model.device),
            output_hidden_states=True,
            **options,
        )
    return torch.stack([state[output.valid].float().cpu() for state in output.hidden_states])


@pytest.mark.parametrize("name", MEASURES)
def test_measures_are_the_same(name):
    expected = MEASURES[name](shuffled(us.UniSpeechSatModel(small_config())), batch())
    found = MEASURES[name](shuffled(us.UniSpeechSatModel(small_config())).to(DEVICE), batch()).cpu()
    assert relative(found.double(), expected.double()) <= 1e-4


def made(family, norms):
    kind = getattr(us, family)
    names = small_config(**NORMS[norms]).to_dict()
    config = kind.config_class(**{name: value for name, value in names.items() if name != "model_type"})
    return shuffled(kind(config)).eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("norms", NORMS)
def test_every_family_computes_the_same(family, norms):
    model = made(family, norms)
    expected, patterns = states(model), states(model, output_attentions=True)
    model.to(DEVICE)
    assert relative(states(model), expected) <= 1e-4
    assert relative(states(model, output_attentions=True), patterns) <= 1e-4


def test_tf32_and_bfloat16_are_as_near_as_they_can_be():
    model = made("UniSpeechSatModel", "post-LN")
    expected = states(model)
    model.to(DEVICE)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    assert relative(states(model), expected) <= 1e-2  # 10 bits behind the point
    with torch.autocast(DEVICE, torch.bfloat16):
        assert relative(states(model), expected) <= 5e-2  # 7 bits


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own
def test_a_compiled_model_computes_the_same():
    model = made("UniSpeechSatModel", "post-LN")
    expected = states(model)
    model.to(DEVICE)
    for layer in model.encoder.layers:
        layer.compile(dynamic=True)
    assert relative(states(model), expected) <= 1e-4


def stepped(device):
    """A step of pretraining with masks, mixing and all terms, drawn on the CPU: loss, terms, a gradient."""
    config = small_config(**OFF, mask_time_length=3, mask_time_prob=0.5, mixing_prob=0.9, unmasked_loss_weight=1.0)
    model = shuffled(us.UniSpeechSatForPreTraining(config)).train().to(device)
    given = batch()
    targets = (torch.arange(45).expand(len(given.ids), -1) % 12).to(device)
    values, mask = given.input_values.to(device), given.attention_mask.to(device)
    output = model(values, mask, targets=targets, generator=torch.Generator().manual_seed(0))
    output.loss.backward()
    numbers = torch.stack([output.loss, *output.terms.values(), *output.metrics.values()]).detach().cpu()
    return torch.cat([numbers, model.speaker_proj.weight.grad.flatten().cpu()])


def test_a_step_of_pretraining_is_the_same():
    assert relative(stepped(DEVICE), stepped("cpu")) <= 1e-4
