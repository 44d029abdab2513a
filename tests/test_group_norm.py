"""Group norm without the padding, against loops."""

import torch
from conftest import shuffled
from reference import masked_group_norm

from unisat.group_norm import MaskedGroupNorm


@torch.no_grad()
def test_masked_group_norm_against_loops():
    generator = torch.Generator().manual_seed(0)
    channels, lengths = torch.randn(3, 4, 9, generator=generator), [9, 1, 5]
    norm = shuffled(MaskedGroupNorm(4, 4))
    slow = masked_group_norm(channels, lengths, norm.weight, norm.bias, norm.eps)
    fast = norm(channels, torch.tensor(lengths))
    for i, length in enumerate(lengths):
        torch.testing.assert_close(fast[i, :, :length], slow[i, :, :length])
    torch.testing.assert_close(norm(channels, torch.tensor([9, 9, 9])), norm(channels))


@torch.no_grad()
def test_loud_channels_in_float16_are_normed_as_in_float32():
    """The sum of 4000 squares around 900 is far beyond the largest number of float16, 65504."""
    channels = 30 * torch.randn(2, 3, 4000, generator=torch.Generator().manual_seed(0)).half()
    norm, lengths = shuffled(MaskedGroupNorm(3, 3)), torch.tensor([4000, 3000])
    expected = norm(channels.float(), lengths)
    found = norm.half()(channels, lengths)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, atol=5e-3, rtol=5e-3)
