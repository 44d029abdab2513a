import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import conv_outputs, samples_of_frame
from torch import nn

from unisat import frames

KERNELS, STRIDES = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]


@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 5), st.integers(1, 4))
def test_conv_length_is_that_of_the_layer_and_of_counting(length, kernel, stride, dilation):
    expected = conv_outputs(length, kernel, stride, dilation)
    assert frames.conv_length(length, kernel, stride, dilation) == expected
    assert frames.conv_length(torch.tensor([length]), kernel, stride, dilation).tolist() == [expected]
    if expected:
        layer = nn.Conv1d(1, 1, kernel, stride, dilation=dilation)
        assert layer(torch.zeros(1, 1, length)).shape[-1] == expected


def test_default_front_end():
    assert frames.hop(STRIDES) == 320
    assert frames.receptive_field(KERNELS, STRIDES) == 400
    lengths = {399: 0, 400: 1, 719: 1, 720: 2, 16000: 49, 93680: 292, 160000: 499}
    for samples, expected in lengths.items():
        assert frames.stack_length(samples, KERNELS, STRIDES) == expected
    tensor = torch.tensor(list(lengths))
    assert frames.stack_length(tensor, KERNELS, STRIDES).tolist() == list(lengths.values())


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=4), st.integers(0, 5))
def test_frame_times_follow_the_layers_backwards(layers, frame):
    kernels, strides = zip(*layers, strict=True)
    first, end = samples_of_frame(frame, kernels, strides)
    assert end - first == frames.receptive_field(kernels, strides)
    for at, sample in [(0.0, first), (0.5, (first + end) / 2), (1.0, end)]:
        seconds = frames.frame_seconds(frame + 1, kernels, strides, at=at)
        assert seconds[frame].item() == pytest.approx(sample / 16000)


def test_a_frame_sees_its_receptive_field_and_nothing_else():
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Conv1d(1, 1, k, s) for k, s in zip(KERNELS, STRIDES, strict=True)))
    wave = torch.randn(1, 1, 2000, requires_grad=True)
    layers(wave)[0, 0, 3].backward()
    seen = wave.grad[0, 0].nonzero().flatten()
    assert (seen.min().item(), seen.max().item()) == (960, 1359)


def test_frames_between():
    seconds = frames.frame_seconds(5, KERNELS, STRIDES)  # 12.5, 32.5, 52.5, 72.5, 92.5 ms
    assert frames.frames_between(seconds, 0.0325, 0.0925) == slice(1, 4)
    assert frames.frames_between(seconds, 0.2, 0.3) == slice(5, 5)


def test_valid_positions():
    expected = [[True, True, False], [False, False, False], [True, True, True]]
    assert frames.valid_positions(torch.tensor([2, 0, 3]), 3).tolist() == expected
