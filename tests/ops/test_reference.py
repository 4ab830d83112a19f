"""The definition: triple loop, outer product, and the gradients written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from xception.ops import conv2d_by_definition, equivalent_kernel, reference

EXACT = 1e-12  # float64, sums of a few hundred terms


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 3)])
def test_triple_loop_of_the_definition_is_the_regular_convolution(kernel: tuple[int, int]) -> None:
    x, weight = rand(2, 3, 7, 6), rand(4, 3, *kernel)
    by_definition = conv2d_by_definition(x, weight)
    by_torch = F.conv2d(x, weight, padding=(kernel[0] // 2, kernel[1] // 2))
    torch.testing.assert_close(by_definition, by_torch, atol=EXACT, rtol=0)


@pytest.mark.parametrize("multiplier", [1, 3])
def test_separable_is_the_full_convolution_of_the_outer_product(multiplier: int) -> None:
    channels = 4
    x, depthwise = rand(2, channels, 9, 8), rand(channels * multiplier, 1, 3, 3)
    pointwise = rand(5, channels * multiplier, 1, 1)
    separable = reference.separable_conv2d(
        x, depthwise, pointwise, None, (1, 1), (1, 1, 1, 1), (1, 1)
    )
    full_kernel = equivalent_kernel(depthwise, pointwise, multiplier)
    assert full_kernel.shape == (5, channels, 3, 3)
    torch.testing.assert_close(separable, F.conv2d(x, full_kernel, padding=1), atol=EXACT, rtol=0)


def test_separable_kernel_has_rank_one_for_each_pair_of_channels() -> None:
    kernel = equivalent_kernel(rand(4, 1, 3, 3), rand(5, 4, 1, 1))
    by_input_channel = kernel.permute(1, 0, 2, 3).flatten(2)  # (c, o, h*w)
    assert torch.linalg.matrix_rank(by_input_channel).tolist() == [1] * 4


def test_equivalent_kernel_rejects_channels_that_do_not_meet() -> None:
    with pytest.raises(ValueError, match="depthwise has 4 channels, pointwise expects 6"):
        equivalent_kernel(rand(4, 1, 3, 3), rand(5, 6, 1, 1))
    with pytest.raises(ValueError, match="4 channels are not a multiple of depth_multiplier 3"):
        equivalent_kernel(rand(4, 1, 3, 3), rand(5, 4, 1, 1), 3)


@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 1, 0, 1), (2, 0, 1, 3)])
def test_padding_is_zeros_around_the_picture(padding: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = padding
    x, depthwise = rand(1, 3, 8, 7), rand(3, 1, 3, 3)
    padded = F.pad(x, (left, right, top, bottom))
    torch.testing.assert_close(
        reference.depthwise_conv2d(x, depthwise, (2, 1), padding, (1, 2)),
        F.conv2d(padded, depthwise, stride=(2, 1), dilation=(1, 2), groups=3),
        atol=EXACT,
        rtol=0,
    )


@pytest.mark.parametrize("stride, padding, dilation", [
    ((1, 1), (1, 1, 1, 1), (1, 1)),
    ((2, 2), (0, 1, 0, 1), (1, 1)),
    ((2, 1), (2, 1, 0, 3), (2, 1)),
])  # fmt: skip
def test_backward_agrees_with_autograd(
    stride: tuple[int, int], padding: tuple[int, ...], dilation: tuple[int, int]
) -> None:
    inputs = [rand(2, 3, 9, 8), rand(6, 1, 3, 3), rand(4, 6, 1, 1)]
    for tensor in inputs:
        tensor.requires_grad_()
    out = reference.separable_conv2d(*inputs, None, stride, padding, dilation)
    grad = torch.randn_like(out)
    expected = torch.autograd.grad(out, inputs, grad)
    with torch.no_grad():
        by_hand = reference.separable_conv2d_backward(grad, *inputs, stride, padding, dilation)
    for ours, theirs in zip(by_hand, expected):
        torch.testing.assert_close(ours, theirs, atol=EXACT, rtol=0)
