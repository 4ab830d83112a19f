"""SeparableConv2d: the paper's claims on order, and children that stay ordinary modules."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from xception.nn import SeparableConv2d
from xception.nn import separable as module_under_test
from xception.ops import equivalent_kernel

EXACT = 1e-12


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_it_is_the_full_convolution_of_the_outer_product() -> None:
    module = SeparableConv2d(3, 5, depth_multiplier=2, bias=True).double()
    x = rand(2, 3, 8, 9)
    kernel = equivalent_kernel(module.depthwise.weight, module.pointwise.weight, 2)
    expected = F.conv2d(x, kernel, module.pointwise.bias, padding=1)
    torch.testing.assert_close(module(x), expected, atol=EXACT, rtol=0)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_stacks_of_both_orders_agree_once_shifted_by_one_layer(layers: int) -> None:
    """(pw, dw) L times = pw, then (dw, pw) L - 1 times, then dw: the paper's section 1.2."""
    channels = [3, 5, 4, 6, 2][: layers + 1]
    pointwise_first = nn.Sequential(
        *(
            SeparableConv2d(before, after, order="pointwise_first")
            for before, after in pairwise(channels)
        )
    ).double()
    shifted = nn.Sequential(nn.Conv2d(channels[0], channels[1], 1, bias=False))
    for before, after in pairwise(channels[1:]):
        shifted.append(SeparableConv2d(before, after, order="depthwise_first"))
    last = channels[-1]
    shifted.append(nn.Conv2d(last, last, 3, padding=1, groups=last, bias=False))
    shifted.double()
    # Read from input to output, the two hold the same convolutions.
    convs = [c for unit in pointwise_first for c in (unit.pointwise, unit.depthwise)]
    same = [shifted[0]]
    for unit in shifted[1:-1]:
        same += [unit.depthwise, unit.pointwise]
    same.append(shifted[-1])
    for source, target in zip(convs, same, strict=True):
        target.load_state_dict(source.state_dict())

    x = rand(2, 3, 7, 6)
    a, b = pointwise_first(x), shifted(x)
    torch.testing.assert_close(a, b, atol=EXACT, rtol=0)
    grad = torch.randn_like(a)
    of_a = torch.autograd.grad(a, [c.weight for c in convs], grad)
    of_b = torch.autograd.grad(b, [c.weight for c in same], grad)
    for ours, theirs in zip(of_a, of_b):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


@pytest.mark.parametrize("activation", ["none", "relu", "elu"])
@pytest.mark.parametrize("order", ["depthwise_first", "pointwise_first"])
@pytest.mark.parametrize("padding", ["keras", "torch"])
def test_it_is_its_two_children(activation: str, order: str, padding: str) -> None:
    module = SeparableConv2d(
        4, 6, stride=2, depth_multiplier=2, order=order, bias=True,  # type: ignore[arg-type]
        intermediate_activation=activation, padding=padding,  # type: ignore[arg-type]
    ).double()  # fmt: skip
    x = rand(2, 4, 8, 7)
    between = {"none": lambda t: t, "relu": F.relu, "elu": F.elu}[activation]
    first, second = module.depthwise, module.pointwise
    if order == "pointwise_first":
        first, second = second, first
    expected = second(between(first(x)))
    out = module(x)
    assert out.shape == (2, 6, 4, 4)
    torch.testing.assert_close(out, expected, atol=EXACT, rtol=0)
    assert first.bias is None and second.bias is not None


def test_the_two_paddings_differ_on_even_sizes_only_when_strided() -> None:
    keras = SeparableConv2d(3, 4, stride=2).double()
    symmetric = SeparableConv2d(3, 4, stride=2, padding="torch").double()
    symmetric.load_state_dict(keras.state_dict())
    odd, even = rand(1, 3, 9, 9), rand(1, 3, 8, 8)
    torch.testing.assert_close(keras(odd), symmetric(odd), atol=EXACT, rtol=0)
    assert not torch.allclose(keras(even), symmetric(even))
    padded = F.pad(even, (0, 1, 0, 1))
    expected = keras.pointwise(F.conv2d(padded, keras.depthwise.weight, stride=2, groups=3))
    torch.testing.assert_close(keras(even), expected, atol=EXACT, rtol=0)


def without_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Tensor:
        raise AssertionError("the one-operator path was taken")

    monkeypatch.setattr(module_under_test, "separable_conv2d", fail)


def test_untouched_children_are_one_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    without_operator(monkeypatch)
    with pytest.raises(AssertionError, match="one-operator path"):
        SeparableConv2d(3, 4)(torch.zeros(1, 3, 5, 5))


@pytest.mark.parametrize("child", ["depthwise", "pointwise"])
def test_hooks_on_children_run_and_count(child: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = SeparableConv2d(3, 4)
    x = torch.randn(1, 3, 5, 5, requires_grad=True)
    expected = module(x)
    conv = getattr(module, child)
    seen: list[str] = []
    handles = [
        conv.register_forward_pre_hook(lambda *_: seen.append("pre")),
        conv.register_forward_hook(lambda _, __, out: seen.append("post") or out * 2),
        conv.register_full_backward_hook(lambda *_: seen.append("backward")),
    ]
    out = module(x)
    torch.testing.assert_close(out, expected * 2)
    out.sum().backward()
    assert seen == ["pre", "post", "backward"]
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(module(x), expected)


def test_global_hooks_see_the_children() -> None:
    seen: list[type] = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, *_: seen.append(type(module))
    )
    try:
        SeparableConv2d(3, 4)(torch.zeros(1, 3, 5, 5))
    finally:
        handle.remove()
    assert seen.count(nn.Conv2d) == 2


def test_parametrizations_and_weight_norm_are_honoured() -> None:
    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    x = torch.randn(1, 3, 5, 5)
    module = SeparableConv2d(3, 4)
    expected = module(x)
    parametrize.register_parametrization(module.depthwise, "weight", Doubled())
    parametrize.register_parametrization(module.pointwise, "weight", Doubled())
    torch.testing.assert_close(module(x), expected * 4)

    normed = SeparableConv2d(3, 4)
    expected = normed(x)
    nn.utils.parametrizations.weight_norm(normed.pointwise)
    torch.testing.assert_close(normed(x), expected)
    with torch.no_grad():
        normed.pointwise.parametrizations.weight.original0.mul_(3)
    torch.testing.assert_close(normed(x), expected * 3)


def test_replaced_and_patched_children_are_honoured() -> None:
    x = torch.randn(1, 3, 6, 6)
    module = SeparableConv2d(3, 4)
    module.depthwise = nn.Conv2d(3, 3, 3, padding=0, groups=3, bias=False)
    assert module(x).shape == (1, 4, 4, 4)
    module.pointwise = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    torch.testing.assert_close(module(x), module.pointwise(module.depthwise(x)))
    module.depthwise = nn.Conv2d(3, 3, 3, padding=1, bias=False)  # across channels
    torch.testing.assert_close(module(x), module.pointwise(module.depthwise(x)))
    module.depthwise = nn.Conv2d(3, 3, 3, padding=1, groups=3, padding_mode="reflect", bias=False)
    torch.testing.assert_close(module(x), module.pointwise(module.depthwise(x)))
    module.depthwise = nn.Conv2d(3, 3, 3, padding="valid", groups=3, bias=False)
    torch.testing.assert_close(module(x), module.pointwise(module.depthwise(x)))
    patched = SeparableConv2d(3, 4)
    patched.depthwise.forward = lambda x: torch.zeros_like(x)  # type: ignore[method-assign]
    assert not patched(x).any()


@pytest.mark.parametrize("arguments", [{"stride": 2}, {"stride": 2, "kernel_size": 5}, {}])
def test_exports_with_height_and_width_of_any_size(arguments: dict[str, int]) -> None:
    module = SeparableConv2d(3, 4, padding="keras", **arguments)
    side = dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(module, (torch.randn(1, 3, 9, 12),), dynamic_shapes=(side,))
    for size in ((7, 7), (7, 8), (8, 7), (8, 8)):
        x = torch.randn(1, 3, *size)
        torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
def test_a_trace_serves_height_and_width_of_any_size() -> None:
    module = SeparableConv2d(3, 4, stride=2, padding="keras")
    traced = torch.jit.trace(module, torch.randn(1, 3, 9, 12))
    for size in ((7, 7), (7, 8), (8, 7), (8, 8)):
        x = torch.randn(1, 3, *size)
        torch.testing.assert_close(traced(x), module(x))


def test_a_deep_copy_owns_its_weights() -> None:
    module = SeparableConv2d(3, 4).double()
    twin = copy.deepcopy(module)
    with torch.no_grad():
        module.depthwise.weight.zero_()
    assert twin(rand(1, 3, 5, 5)).abs().sum() > 0


def test_one_step_in_channels_last_equals_contiguous() -> None:
    module = SeparableConv2d(8, 4, stride=2).double()
    x = rand(2, 8, 9, 9)
    a = module(x)
    b = module(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(a, b, atol=EXACT, rtol=0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"padding": "same"}, "padding must be one of"),
        ({"order": "both"}, "order must be one of"),
        ({"intermediate_activation": "gelu"}, "intermediate_activation must be one of"),
        ({"depth_multiplier": 0}, "depth_multiplier must be at least 1, got 0"),
        (
            {"depth_multiplier": 3, "order": "pointwise_first"},
            r"out_channels \(4\) must be a multiple of depth_multiplier \(3\)",
        ),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SeparableConv2d(3, 4, **arguments)  # type: ignore[arg-type]
