"""What the tests share: small models with weights that show a wrong order, and data that may be absent."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from unisat import UniSpeechSatConfig, UniSpeechSatModel
from unisat.configs import CONFIGS

# times vary on shared machines; in CI the same examples every time, elsewhere new ones
settings.register_profile("unisat", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("unisat")

THREADS = torch.get_num_threads()
ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 377\n"  # a file that was not fetched
ANNEX = b"/annex/objects/SHA256E-s377--00.wav\n"


def small_config(**changes):
    """Three layers of width 16 on a three-layer front end: 3000 samples are 45 frames, one frame needs 148."""
    sizes = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=20)
    front = dict(conv_dim=[12, 12, 10], conv_kernel=[8, 8, 8], conv_stride=[4, 4, 4])
    front |= dict(num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
    codebook = dict(num_codevectors_per_group=8, codevector_dim=8, proj_codevector_dim=8, num_clusters=12)
    return UniSpeechSatConfig(**{**sizes, **front, **codebook, **changes})


FAMILIES = {
    "unispeech-sat": {},
    "wav2vec2": {"add_adapter": True, "num_adapter_layers": 2, "output_hidden_size": 12},
    "hubert": {"feat_proj_layer_norm": False},
    "wavlm": {"num_buckets": 12, "max_bucket_distance": 20},
    "data2vec-audio": {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 6},
    "unispeech": {},
}
"""By ``model_type``: what shows what the family has of its own."""


def family_config(family, **changes):
    """`small_config` of another family."""
    kind = CONFIGS[family]
    values = small_config().to_dict() | {"model_type": family} | FAMILIES[family] | kind.fixed | changes
    return kind.from_dict(values)


def shuffled(model, seed=0):
    """Draw every weight anew, norms and biases far from 1 and 0, so that a swapped one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            norm = "norm" in name and name.endswith("weight")
            weight.copy_(1 + 0.3 * noise if norm else 0.2 * noise)
    return model.eval()


@pytest.fixture(autouse=True)
def as_many_threads():
    """Give the next test as many threads as this one: sums in another order differ in their last bit."""
    yield
    torch.set_num_threads(THREADS)


VARIANTS = {
    "post-LN": dict(),
    "pre-LN": dict(do_stable_layer_norm=True, feat_extract_norm="layer"),
    "pre-LN group": dict(do_stable_layer_norm=True, conv_bias=True, num_conv_pos_embeddings=15),
    "post-LN layer": dict(feat_extract_norm="layer", hidden_act="relu", feat_extract_activation="silu"),
    "adapters": dict(do_stable_layer_norm=True, adapter_attn_dim=5),
}


@pytest.fixture(params=VARIANTS)
def model(request):
    """A small model of each kind, in evaluation mode."""
    return shuffled(UniSpeechSatModel(small_config(**VARIANTS[request.param])))


@pytest.fixture
def one_model():
    """The default kind alone."""
    return shuffled(UniSpeechSatModel(small_config()))


@pytest.fixture
def ragged():
    """A padded batch of three noises, lengths far apart, with garbage in the padding; and its mask."""
    lengths = [3000, 700, 160]
    waveforms = torch.randn(3, 3000, generator=torch.Generator().manual_seed(1))
    return waveforms, (torch.arange(3000) < torch.tensor(lengths)[:, None]).long(), lengths


@pytest.fixture
def clip():
    """1.03 s, 51 frames and a tail that belongs to no frame."""
    return torch.rand(16_480, generator=torch.Generator().manual_seed(0)) - 0.5


@pytest.fixture
def masked():
    """Frames 3-5, 10 and the last, 50."""
    mask = torch.zeros(51, dtype=torch.bool)
    mask[[3, 4, 5, 10, 50]] = True
    return mask


@pytest.fixture(scope="session")
def fixtures():
    """Folder of the reference's golden data."""
    folder = SHARED / "fixtures"
    if not folder.is_dir():
        pytest.skip("the reference's golden data (shared/fixtures) are not beside this clone")
    return folder


@pytest.fixture(scope="session")
def recorded():
    """Folder of recorded human speech."""
    folder = SHARED / "speech"
    if not folder.is_dir():
        pytest.skip("the recorded speech (shared/speech) is not beside this clone")
    return folder


def relative(ours, theirs):
    """Largest difference over the largest value."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.fixture
def no_widget_is_left():
    """Whatever a test makes, closing it leaves nothing behind: no control, layout or style."""
    from ipywidgets.widgets.widget import _instances

    from unisat.widgets._picture import Picture

    before = set(_instances)
    yield
    for made in [one for one in _instances.values() if isinstance(one, Picture)]:
        made.close()
    assert set(_instances) == before
