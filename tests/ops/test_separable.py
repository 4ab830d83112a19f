"""The registered operator: against the reference, torch.library's own checks, and every mode."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xception.nn import SeparableConv2d
from xception.ops import four_sides, reference, separable_conv2d
from xception.ops import separable as operator_module

GEOMETRIES = [  # stride, padding (top, bottom, left, right), dilation
    pytest.param([1, 1], [1, 1, 1, 1], [1, 1], id="plain"),
    pytest.param([2, 2], [0, 1, 0, 1], [1, 1], id="keras-even"),
    pytest.param([2, 1], [2, 1, 0, 3], [2, 1], id="asymmetric"),
    pytest.param([1, 1], [2, 2, 2, 2], [2, 2], id="dilated"),
]


def inputs(
    *, bias: bool = True, dtype: torch.dtype = torch.float64, multiplier: int = 1
) -> list[Any]:
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_()

    hidden = 3 * multiplier
    x, depthwise, pointwise = rand(2, 3, 8, 7), rand(hidden, 1, 3, 3), rand(4, hidden, 1, 1)
    return [x, depthwise, pointwise, rand(4) if bias else None]


@pytest.fixture
def fused_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if every input had a fused kernel: `separable_conv2d` goes through the operator."""
    monkeypatch.setattr(operator_module, "_prefers_operator", lambda *_: True)
    yield


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("stride, padding, dilation", GEOMETRIES)
def test_opcheck(stride: list[int], padding: list[int], dilation: list[int], bias: bool) -> None:
    arguments = (*inputs(bias=bias), stride, padding, dilation)
    torch.library.opcheck(torch.ops.xception.separable_conv2d, arguments)


def test_opcheck_of_the_backward_operator_channels_last() -> None:
    x, depthwise, pointwise, _ = (None if t is None else t.detach() for t in inputs())
    grad = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    for form in (torch.contiguous_format, torch.channels_last):
        torch.library.opcheck(
            torch.ops.xception.separable_conv2d_backward,
            (
                grad.to(memory_format=form), x.to(memory_format=form), depthwise, pointwise,
                [2, 2], [0, 1, 1, 1], [1, 1],
            ),
        )  # fmt: skip


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("stride, padding, dilation", GEOMETRIES)
def test_operator_is_the_reference_in_values_and_gradients(
    stride: list[int], padding: list[int], dilation: list[int], bias: bool
) -> None:
    arguments = inputs(bias=bias, multiplier=2)
    ours = torch.ops.xception.separable_conv2d(*arguments, stride, padding, dilation)
    theirs = reference.separable_conv2d(*arguments, stride, padding, dilation)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    wanted = [t for t in arguments if t is not None]
    grad = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, wanted, grad), torch.autograd.grad(theirs, wanted, grad)
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("stride, padding, dilation", GEOMETRIES)
def test_gradcheck(stride: list[int], padding: list[int], dilation: list[int]) -> None:
    def call(*tensors: Tensor) -> Tensor:
        return torch.ops.xception.separable_conv2d(*tensors, stride, padding, dilation)

    assert torch.autograd.gradcheck(call, tuple(inputs()), fast_mode=True)


def test_public_function_is_two_convolutions() -> None:
    x, depthwise, pointwise, bias = inputs(multiplier=2)
    hidden = F.conv2d(x, depthwise, None, 2, 1, 1, groups=3)
    expected = F.conv2d(hidden, pointwise, bias)
    out = separable_conv2d(x, depthwise, pointwise, bias, stride=2, padding=1)
    torch.testing.assert_close(out, expected, atol=0, rtol=0)


@pytest.mark.usefixtures("fused_on_cpu")
def test_public_function_goes_through_the_operator_where_a_kernel_is_loaded() -> None:
    x, depthwise, pointwise, bias = inputs()
    out = separable_conv2d(x, depthwise, pointwise, bias, padding=(0, 1, 0, 1), stride=2)
    assert "xception" in type(out.grad_fn).__name__.lower()
    torch.testing.assert_close(
        out,
        reference.separable_conv2d(x, depthwise, pointwise, bias, (2, 2), (0, 1, 0, 1), (1, 1)),
        atol=1e-12,
        rtol=0,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_lowers_float32_and_gives_float32_gradients(dtype: torch.dtype) -> None:
    arguments = inputs(dtype=torch.float32)
    geometry = ([1, 1], [1, 1, 1, 1], [1, 1])
    with torch.autocast("cpu", dtype=dtype):
        out = torch.ops.xception.separable_conv2d(*arguments, *geometry)
        expected = reference.separable_conv2d(*arguments, *geometry)
    assert out.dtype == expected.dtype == dtype
    torch.testing.assert_close(out, expected, atol=0, rtol=0)
    out.float().sum().backward()
    assert [t.grad.dtype for t in arguments] == [torch.float32] * 4


def test_autocast_leaves_float64_alone_as_torch_does() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = torch.ops.xception.separable_conv2d(*inputs(), [1, 1], [1, 1, 1, 1], [1, 1])
    assert out.dtype == torch.float64


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_compiles_into_one_graph(autocast: bool) -> None:
    def call(*tensors: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            return torch.ops.xception.separable_conv2d(*tensors, [2, 2], [0, 1, 0, 1], [1, 1])

    torch.compiler.reset()
    arguments = inputs(dtype=torch.float32)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    out, expected = compiled(*arguments), call(*arguments)
    torch.testing.assert_close(out, expected, atol=0, rtol=0)
    grad = torch.randn_like(out)
    for a, b in zip(
        torch.autograd.grad(out, arguments, grad), torch.autograd.grad(expected, arguments, grad)
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("fused_on_cpu")
def test_an_exported_module_holds_only_aten_convolutions() -> None:
    module = SeparableConv2d(3, 4, stride=2, padding="keras").eval()
    exported = torch.export.export(module, (torch.randn(1, 3, 8, 8),))
    for program in (exported, exported.run_decompositions()):
        targets = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
        assert not any("xception" in target for target in targets)
        assert any("aten.conv" in target for target in targets)


def test_meta_tensors_give_the_shape() -> None:
    tensors = [t.detach().to("meta") for t in inputs()]
    out = torch.ops.xception.separable_conv2d(*tensors, [2, 2], [0, 1, 0, 1], [1, 1])
    assert out.shape == (2, 4, 4, 3) and out.device.type == "meta"


def test_inputs_are_not_written_to() -> None:
    arguments = inputs()
    before = copy.deepcopy([t.detach() for t in arguments])
    torch.ops.xception.separable_conv2d(*arguments, [1, 1], [1, 1, 1, 1], [1, 1]).sum().backward()
    for old, new in zip(before, arguments):
        assert torch.equal(old, new)


@pytest.mark.parametrize(
    "padding, expected",
    [(1, [1, 1, 1, 1]), ((1, 2), [1, 1, 2, 2]), ([1, 2, 3, 4], [1, 2, 3, 4])],
)
def test_four_sides(padding: Any, expected: list[int]) -> None:
    assert four_sides(padding) == expected


def test_symbolic_padding_is_taken(fused_on_cpu: None) -> None:
    """torch.export with a dynamic side: the sides' numbers are not known, and stay so."""

    class Padded(nn.Module):
        def forward(self, x: Tensor, depthwise: Tensor, pointwise: Tensor) -> Tensor:
            side = x.shape[2] % 3
            return separable_conv2d(x, depthwise, pointwise, padding=(side, side))

    x, depthwise, pointwise, _ = (t.detach() for t in inputs())
    shapes = ({2: torch.export.Dim.DYNAMIC}, None, None)
    program = torch.export.export(Padded(), (x, depthwise, pointwise), dynamic_shapes=shapes)
    for height in (6, 7, 8):
        other = torch.randn(2, 3, height, 7, dtype=torch.float64)
        expected = reference.separable_conv2d(
            other, depthwise, pointwise, None, (1, 1), [height % 3] * 4, (1, 1)
        )
        torch.testing.assert_close(program.module()(other, depthwise, pointwise), expected)


@pytest.mark.parametrize(
    "padding", [-1, (1, 2, 3), (0, -1), "same", (1.0, 1.0), (torch.tensor(1), 1)]
)
def test_four_sides_names_what_it_takes(padding: Any) -> None:
    with pytest.raises(ValueError, match=r"padding must be an int, \(height, width\)"):
        four_sides(padding)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(3, 8, 8)}, r"x must be \(N, C, H, W\), got \(3, 8, 8\)"),
        ({"depthwise": torch.zeros(4, 1, 3, 3)}, r"depthwise must be .* C = 3 .* \(4, 1, 3, 3\)"),
        ({"depthwise": torch.zeros(3, 3, 3, 3)}, r"depthwise must be"),
        ({"pointwise": torch.zeros(4, 2, 1, 1)}, r"pointwise must be \(O, 3, 1, 1\)"),
        ({"pointwise": torch.zeros(4, 3, 3, 3)}, r"pointwise must be"),
        ({"bias": torch.zeros(3)}, r"bias must be \(4,\), got \(3,\)"),
        ({"stride": 0}, "stride must be an int or two, at least 1; got 0"),
        ({"stride": (1, 2, 3)}, "stride must be"),
        ({"dilation": (1, 0)}, "dilation must be an int or two, at least 1"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "x": torch.zeros(1, 3, 8, 8),
        "depthwise": torch.zeros(3, 1, 3, 3),
        "pointwise": torch.zeros(4, 3, 1, 1),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        separable_conv2d(**arguments)


def test_a_network_trains_through_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step with the operator equals one step with two convolutions."""
    torch.manual_seed(0)
    plain = nn.Sequential(
        SeparableConv2d(3, 8), nn.BatchNorm2d(8), nn.ReLU(), SeparableConv2d(8, 4, stride=2)
    ).double()
    fused = copy.deepcopy(plain)
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    plain(x).square().sum().backward()
    monkeypatch.setattr(operator_module, "_prefers_operator", lambda *_: True)
    fused(x).square().sum().backward()
    for a, b in zip(plain.parameters(), fused.parameters()):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-10, rtol=0)
