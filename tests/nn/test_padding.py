"""TensorFlow's SAME against expectations by hand and a plain numpy oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from xception.nn import Conv2dSame, MaxPool2d, conv2d, same_padding, symmetric_padding
from xception.nn.padding import average_pool3x3, four_sided_padding

SIZES = [299, 150, 149, 147, 74, 71]
ANY_SIZE = dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)  # height and width


def windows(
    size: int, kernel: int, stride: int, dilation: int
) -> tuple[list[list[int]], list[list[int]]]:
    """For each output: kernel places and input places of one axis that lie inside the picture.

    Written from TensorFlow's rule: ceil(size / stride) outputs, centred, the odd pixel at the end.
    """
    outputs = -(-size // stride)
    needed = (outputs - 1) * stride + (kernel - 1) * dilation + 1
    first = -(max(needed - size, 0) // 2)
    places, inputs = [], []
    for out in range(outputs):
        positions = [first + out * stride + k * dilation for k in range(kernel)]
        inside = [k for k, p in enumerate(positions) if 0 <= p < size]
        places.append(inside)
        inputs.append([positions[k] for k in inside])
    return places, inputs


def numpy_same(
    x: np.ndarray, weight: np.ndarray | None, kernel: int, stride: int, dilation: int
) -> np.ndarray:
    """x (H, W): convolution with `weight` (k, k), or maximum when it is None."""
    rows_k, rows = windows(x.shape[0], kernel, stride, dilation)
    columns_k, columns = windows(x.shape[1], kernel, stride, dilation)
    out = np.empty((len(rows), len(columns)))
    for i in range(len(rows)):
        for j in range(len(columns)):
            patch = x[np.ix_(rows[i], columns[j])]
            if weight is None:
                out[i, j] = patch.max()
            else:
                out[i, j] = (patch * weight[np.ix_(rows_k[i], columns_k[j])]).sum()
    return out


@pytest.mark.parametrize(
    "size, kernel, stride, dilation, expected",
    [
        (299, 3, 1, 1, (1, 1)),
        (299, 3, 2, 1, (1, 1)),  # odd: one on each side
        (74, 3, 2, 1, (0, 1)),  # even: after it only
        (74, 3, 1, 2, (2, 2)),
        (74, 3, 2, 2, (1, 2)),
        (8, 1, 2, 1, (0, 0)),
        (7, 2, 1, 1, (0, 1)),  # even kernel: the odd pixel at the end
        (1, 3, 2, 1, (1, 1)),
        (6, 2, 3, 1, (0, 0)),  # strides over the third pixel: never less than none
        (7, 2, 3, 1, (0, 1)),
    ],
)
def test_same_padding_by_hand(
    size: int, kernel: int, stride: int, dilation: int, expected: tuple[int, int]
) -> None:
    assert same_padding(size, kernel, stride, dilation) == expected


def test_conv_on_an_even_size_by_hand() -> None:
    """Four ones under a kernel of ones, stride 2: TensorFlow's windows start at the first pixel."""
    x = torch.ones(1, 1, 4, 4)
    keras = conv2d(1, 1, 3, stride=2, padding="keras")
    symmetric = conv2d(1, 1, 3, stride=2, padding="torch")
    for conv in (keras, symmetric):
        nn.init.ones_(conv.weight)
    assert keras(x).tolist() == [[[[9.0, 6.0], [6.0, 4.0]]]]
    assert symmetric(x).tolist() == [[[[4.0, 6.0], [6.0, 9.0]]]]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel, stride, dilation", [(3, 2, 1), (3, 1, 2), (3, 3, 2), (5, 2, 1)])
def test_conv_is_the_numpy_oracle(size: int, kernel: int, stride: int, dilation: int) -> None:
    x = torch.randn(1, 1, 9 + size % 2, size, dtype=torch.float64)
    conv = conv2d(1, 1, kernel, stride=stride, dilation=dilation, padding="keras").double()
    expected = numpy_same(
        x[0, 0].numpy(), conv.weight[0, 0].detach().numpy(), kernel, stride, dilation
    )
    np.testing.assert_allclose(conv(x)[0, 0].detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("height", [7, 8])
def test_max_pool_is_the_numpy_oracle(height: int, width: int) -> None:
    x = -torch.rand(1, 1, height, width, dtype=torch.float64) - 1  # zeros of a padding would win
    expected = numpy_same(x[0, 0].numpy(), None, 3, 2, 1)
    np.testing.assert_array_equal(MaxPool2d(2, "keras")(x)[0, 0].numpy(), expected)


@pytest.mark.parametrize("size", [(7, 7), (7, 8), (8, 7), (8, 8)])
def test_max_pool_of_any_size_in_one_graph(size: tuple[int, int]) -> None:
    """Exported at other sides, odd and even; gradients at ties go to the same places as well."""
    pool = MaxPool2d(2, "keras")
    program = torch.export.export(pool, (torch.randn(1, 2, 9, 12),), dynamic_shapes=(ANY_SIZE,))
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("aten.max_pool2d.default") == 1
    assert "inf" not in str(program.graph)
    x = torch.randint(0, 3, (1, 2, *size)).float() - 5
    eager, recorded = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = torch.rand(1, 2, 4, 4)
    (pool(eager) * weight).sum().backward()
    exported = program.module()(recorded)
    (exported * weight).sum().backward()
    assert torch.equal(exported, pool(x))
    torch.testing.assert_close(recorded.grad, eager.grad)


@pytest.mark.parametrize("kernel, stride, dilation", [(3, 2, 1), (3, 2, 2), (2, 1, 1), (2, 3, 1)])
def test_conv_of_any_size_in_one_graph(kernel: int, stride: int, dilation: int) -> None:
    conv = conv2d(2, 3, kernel, stride=stride, dilation=dilation)
    program = torch.export.export(conv, (torch.randn(1, 2, 9, 12),), dynamic_shapes=(ANY_SIZE,))
    for height in (7, 8, 9):
        for width in (10, 11, 12):
            x = torch.randn(1, 2, height, width)
            torch.testing.assert_close(program.module()(x), conv(x))


@pytest.mark.parametrize("dilation", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(7, 8), (3, 2), (1, 1)])
def test_dilated_max_pool_is_the_numpy_oracle(size: tuple[int, int], dilation: int) -> None:
    x = -torch.rand(1, 1, *size, dtype=torch.float64) - 1
    expected = numpy_same(x[0, 0].numpy(), None, 3, 1, dilation)
    pooled = MaxPool2d(1, "keras", dilation=dilation)(x)
    np.testing.assert_array_equal(pooled[0, 0].numpy(), expected)


def test_torch_max_pool_is_symmetric() -> None:
    x = torch.randn(2, 3, 74, 75)
    expected = nn.MaxPool2d(3, 2, padding=1)(x)
    assert torch.equal(MaxPool2d(2, "torch")(x), expected)
    assert not torch.equal(MaxPool2d(2, "keras")(x)[..., :37], expected[..., :37])


def test_conv_is_plain_wherever_that_can_express_the_padding() -> None:
    assert type(conv2d(1, 1, 3)) is nn.Conv2d
    assert type(conv2d(1, 1, 3, dilation=2)) is nn.Conv2d
    assert type(conv2d(1, 1, 1, stride=2)) is nn.Conv2d
    assert type(conv2d(1, 1, 3, stride=2, padding="torch")) is nn.Conv2d
    assert type(conv2d(1, 1, 3, stride=2)) is Conv2dSame
    assert type(conv2d(1, 1, 2)) is Conv2dSame


def test_state_dicts_do_not_depend_on_the_padding() -> None:
    same, plain = conv2d(2, 3, 3, stride=2), conv2d(2, 3, 3, stride=2, padding="torch")
    assert list(same.state_dict()) == list(plain.state_dict())


def test_an_even_kernel_is_refused_where_no_symmetric_padding_keeps_the_size() -> None:
    with pytest.raises(ValueError, match=r"kernel_size 2 .*padding='keras'"):
        conv2d(1, 1, 2, padding="torch")


def test_four_sides_of_both_rules() -> None:
    x = torch.empty(1, 1, 8, 7)
    assert four_sided_padding(x, (3, 3), (2, 2), (1, 1), "keras") == [0, 1, 1, 1]
    assert four_sided_padding(x, (3, 5), (2, 2), (1, 2), "torch") == [1, 1, 4, 4]
    assert symmetric_padding((3, 5), (1, 2)) == (1, 4)


def test_average_pool_counts_only_what_is_inside() -> None:
    assert torch.equal(average_pool3x3(torch.ones(1, 1, 4, 5)), torch.ones(1, 1, 4, 5))


@pytest.mark.parametrize("make", [lambda p: conv2d(1, 1, 3, padding=p), lambda p: MaxPool2d(2, p)])
def test_an_unknown_padding_is_an_error(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(
        ValueError, match=r"padding must be one of \('keras', 'torch'\), got 'same'"
    ):
        make("same")


def test_pool_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="stride must be 1 or 2, got 3"):
        MaxPool2d(3)
    with pytest.raises(ValueError, match="dilation must be 1, or more with stride 1, got 2"):
        MaxPool2d(2, dilation=2)
