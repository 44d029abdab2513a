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
