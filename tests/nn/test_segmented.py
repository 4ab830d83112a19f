"""The spectrum: its two ends, uneven splits, both orders."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xception.nn import SegmentedConv2d, SeparableConv2d, resolve_segments, split_evenly

EXACT = 1e-12


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def assert_same_gradients(a: Tensor, b: Tensor, of_a: list[Tensor], of_b: list[Tensor]) -> None:
    grad = torch.randn_like(a)
    for ours, theirs in zip(
        torch.autograd.grad(a, of_a, grad), torch.autograd.grad(b, of_b, grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs.reshape(ours.shape), atol=EXACT, rtol=0)


def test_segments_equal_to_channels_is_a_grouped_convolution() -> None:
    module = SegmentedConv2d(4, 6, segments=6).double()
    also = SegmentedConv2d(4, 6, segments="channels").double()
    also.load_state_dict(module.state_dict())
    x = rand(2, 4, 7, 8)
    (run,) = module.spatial.runs
    expected = F.conv2d(module.pointwise(x), run.weight, padding=1, groups=6)
    torch.testing.assert_close(module(x), expected, atol=EXACT, rtol=0)
    torch.testing.assert_close(also(x), expected, atol=EXACT, rtol=0)


def test_one_segment_is_a_1x1_and_a_regular_convolution() -> None:
    module = SegmentedConv2d(4, 6, segments=1, bias=True).double()
    x = rand(2, 4, 7, 8)
    (run,) = module.spatial.runs
    assert run.weight.shape == (6, 6, 3, 3)
    expected = F.conv2d(module.pointwise(x), run.weight, run.bias, padding=1)
    torch.testing.assert_close(module(x), expected, atol=EXACT, rtol=0)


@pytest.mark.parametrize("segments, sizes", [(3, [3, 2, 2]), (4, [2, 2, 2, 1]), (2, [4, 3])])
def test_uneven_segments_are_separate_convolutions(segments: int, sizes: list[int]) -> None:
    module = SegmentedConv2d(5, 7, segments=segments).double()
    x = rand(2, 5, 6, 7)
    hidden = module.pointwise(x)
    kernels = [k for run in module.spatial.runs for k in run.weight.chunk(run.groups)]
    assert [k.shape[0] for k in kernels] == sizes
    pieces = [
        F.conv2d(piece, kernel, padding=1)
        for piece, kernel in zip(hidden.split(sizes, dim=1), kernels, strict=True)
    ]
    torch.testing.assert_close(module(x), torch.cat(pieces, 1), atol=EXACT, rtol=0)


def test_depthwise_first_with_all_segments_is_the_separable_convolution() -> None:
    segmented = SegmentedConv2d(
        6, 4, segments="channels", order="depthwise_first", stride=2, bias=True
    ).double()
    separable = SeparableConv2d(6, 4, stride=2, bias=True).double()
    with torch.no_grad():
        separable.depthwise.weight.copy_(segmented.spatial.runs[0].weight)
        separable.pointwise.load_state_dict(segmented.pointwise.state_dict())
    x = rand(2, 6, 8, 7)
    a, b = segmented(x), separable(x)
    torch.testing.assert_close(a, b, atol=EXACT, rtol=0)
    assert_same_gradients(
        a,
        b,
        [segmented.spatial.runs[0].weight, segmented.pointwise.weight],
        [separable.depthwise.weight, separable.pointwise.weight],
    )


@pytest.mark.parametrize("order, divided", [("pointwise_first", 6), ("depthwise_first", 4)])
def test_segments_divide_what_the_spatial_convolution_sees(order: str, divided: int) -> None:
    SegmentedConv2d(4, 6, segments=divided, order=order)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"segments \({divided + 1}\) cannot exceed .*{divided}"):
        SegmentedConv2d(4, 6, segments=divided + 1, order=order)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["pointwise_first", "depthwise_first"])
@pytest.mark.parametrize("padding", ["keras", "torch"])
def test_stride_and_dilation_give_the_ceiling(order: str, padding: str) -> None:
    for stride, dilation in ((2, 1), (1, 2), (2, 2)):
        module = SegmentedConv2d(
            4,
            6,
            segments=2,
            order=order,
            stride=stride,
            dilation=dilation,
            padding=padding,  # type: ignore[arg-type]
        )
        assert module(torch.zeros(1, 4, 9, 8)).shape == (1, 6, -(-9 // stride), -(-8 // stride))


def test_intermediate_activation_stands_between() -> None:
    module = SegmentedConv2d(4, 6, segments=2, intermediate_activation="elu").double()
    x = rand(1, 4, 5, 5)
    expected = module.spatial(F.elu(module.pointwise(x)))
    torch.testing.assert_close(module(x), expected, atol=EXACT, rtol=0)
    assert isinstance(module.intermediate_activation, nn.ELU)


@pytest.mark.parametrize("segments", [0, -1, 2.0, True, "all"])
def test_segments_must_be_a_positive_integer_or_channels(segments: object) -> None:
    with pytest.raises(ValueError, match="segments must be a positive integer or 'channels'"):
        resolve_segments(segments, 8)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels, parts", [(7, 3), (8, 4), (5, 5), (728, 100)])
def test_split_evenly(channels: int, parts: int) -> None:
    sizes = split_evenly(channels, parts)
    assert sum(sizes) == channels and len(sizes) == parts
    assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)
