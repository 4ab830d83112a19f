"""`separable_unit` by the compiled kernels: values and gradients against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xception.ops import set_kernels

# float32's unit roundoff is 6e-8. A sum of k products in any order is wrong by some sqrt(k) of it:
# here k is at most a few thousand, and sums are taken in parts.
BOUND = 1e-5
# A tile's squares are summed about its first pixel. Where that one lies d from the mean, the sum is
# (var + d^2) / var times what is wanted, and so is its rounding.
VAR_BOUND = 3e-5
ARRIVING = {  # gradients at y, mean, var
    "all": (True, True, True),
    "y": (True, False, False),
    "mean": (False, True, False),
    "var": (False, False, True),
    "statistics": (False, True, True),
}
CASES = {  # shape, outputs, kernel, settings; what is special about it
    "one tile": ((2, 32, 9, 7), 32, (3, 3), {"padding": 1}),
    "many tiles": ((2, 64, 40, 37), 64, (3, 3), {"padding": 1, "activation": "relu"}),
    "several strips of 5x5": ((1, 33, 41, 30), 31, (5, 5), {"padding": 2, "activation": "relu"}),
    "rows cut into pieces": ((1, 3, 3, 1100), 31, (3, 3), {"padding": 1}),
    "whole pictures together": ((37, 31, 3, 2), 33, (3, 3), {"padding": 1, "activation": "relu6"}),
    "channels of the middle flow": ((1, 728, 7, 6), 728, (3, 3), {"padding": 1}),
    "more channels in than out": ((2, 728, 5, 5), 3, (3, 3), {"activation": "relu"}),
    "more channels out than in": ((2, 3, 8, 8), 728, (3, 3), {"padding": (0, 1, 0, 1)}),
    "1x1 picture": ((3, 32, 1, 1), 33, (3, 3), {"padding": 1}),
    "one value": ((1, 1, 1, 1), 1, (1, 1), {}),
    "batch of one": ((1, 64, 6, 6), 64, (3, 3), {"padding": 1, "activation": "relu"}),
    "padding beyond the kernel": ((1, 32, 4, 5), 32, (3, 3), {"padding": (6, 4, 5, 7)}),
    "stride beyond the kernel": ((2, 33, 11, 10), 32, (1, 1), {"stride": (3, 2)}),
    "last rows and columns unread": ((2, 31, 12, 12), 32, (3, 3), {"stride": 3, "dilation": 2}),
    "dilated": ((2, 64, 12, 11), 33, (3, 3), {"padding": 2, "dilation": 2, "activation": "relu"}),
    "7x7 on few pixels": ((2, 3, 2, 3), 64, (7, 7), {"padding": 3}),
    "even kernel": ((1, 32, 7, 8), 31, (2, 4), {"padding": (0, 1, 1, 2)}),
    "strided 1x1 without depthwise": ((2, 64, 9, 9), 128, None, {"stride": 2}),
    "1x1 alone": ((2, 33, 9, 9), 31, None, {"activation": "relu"}),
    "depthwise alone": ((2, 33, 20, 21), None, (3, 3), {"padding": 1, "activation": "relu"}),
    "strided depthwise alone": ((2, 64, 9, 8), None, (3, 3), {"padding": 1, "stride": 2}),
    "neither": ((2, 33, 5, 4), None, None, {"activation": "relu6"}),
    "neither, padded": ((2, 3, 5, 4), None, None, {"padding": (1, 0, 2, 1), "stride": (1, 2)}),
}


@st.composite
def units(draw: Any) -> dict[str, Any]:
    """Arguments of `make_unit` whose output has at least one pixel."""
    channels = st.sampled_from([1, 3, 8, 9, 16, 17, 24, 25, 31, 32, 33, 64, 728])
    kernel = draw(st.none() | st.tuples(*[st.sampled_from([1, 3, 5, 7])] * 2))
    outputs = draw(st.none() | channels)
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    # With nothing to spread the picture, wide padding would make most of y the same zero.
    widest = 1 if kernel is None else 9
    padding = draw(st.tuples(*[st.integers(0, min(widest, 3)) | st.integers(0, widest)] * 4))
    sides = []
    for i in range(2):
        extent = 1 if kernel is None else (kernel[i] - 1) * dilation[i] + 1
        least = max(1, extent - padding[2 * i] - padding[2 * i + 1])
        sides.append(draw(st.integers(least, least + 9)))
    return {
        "shape": (draw(st.integers(1, 3)), draw(channels), *sides),
        "outputs": outputs,
        "kernel": kernel,
        "affine": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**31)),
        "activation": draw(st.sampled_from(["none", "relu", "relu6"])),
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
    }


@settings(  # derandomized: the same examples everywhere, as bounds on rounding need it
    max_examples=100, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(arguments=units(), arriving=st.sampled_from(list(ARRIVING)), count=st.integers(1, 3))
def test_values_and_gradients(
    instruction_sets: list[str],
    make_unit: Callable[..., Any],
    arriving_at: Callable[..., Any],
    assert_rounded: Callable[..., None],
    threads: Callable[[int], None],
    arguments: dict[str, Any],
    arriving: str,
    count: int,
) -> None:
    """For any geometry, on every instruction set and number of threads."""
    unit = make_unit(**arguments)
    gradients = arriving_at(unit.exact().call())
    chosen = [g if used else None for g, used in zip(gradients, ARRIVING[arriving])]
    exact, masses = unit.exact().results(chosen), unit.masses(chosen)
    threads(count)
    for name in instruction_sets:
        set_kernels(name)
        assert_rounded(unit.results(chosen), exact, masses, BOUND, var=VAR_BOUND)


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "as-it-is"])
@pytest.mark.parametrize("case", CASES)
def test_every_way_through_the_kernels(
    instruction_sets: list[str],
    make_unit: Callable[..., Any],
    arriving_at: Callable[..., Any],
    assert_rounded: Callable[..., None],
    threads: Callable[[int], None],
    case: str,
    affine: bool,
) -> None:
    """Shapes that are cut up differently; and the same bits each time it is computed."""
    shape, outputs, kernel, other = CASES[case]
    unit = make_unit(shape, outputs, kernel, affine=affine, **other)
    gradients = arriving_at(unit.exact().call())
    exact, masses = unit.exact().results(gradients), unit.masses(gradients)
    for name in instruction_sets:
        set_kernels(name)
        for count in (1, 2, 3):
            threads(count)
            once, again = unit.results(gradients), unit.results(gradients)
            assert_rounded(once, exact, masses, BOUND, var=VAR_BOUND)
            for result in once:
                assert torch.equal(once[result], again[result]), (name, count, result)


def test_an_output_larger_than_the_caches(
    instruction_set: str, make_unit: Callable[..., Any]
) -> None:
    """More than 24 MB, which the kernels write past the caches."""
    unit = make_unit((1, 3, 316, 317), 64, (3, 3), padding=1, activation="relu")
    y, mean, var = unit.call()
    assert y.numel() > 6 << 20
    exact = unit.exact().call()
    for found, expected, bound in zip((y, mean, var), exact, (BOUND, BOUND, VAR_BOUND)):
        assert (found - expected).abs().max() <= bound * expected.abs().max()


def test_a_large_mean_leaves_the_variance_right(
    instruction_set: str, make_unit: Callable[..., Any]
) -> None:
    """Mean 1e3, standard deviation 1: E[y^2] - mean^2 would have two digits left, or none."""
    unit = make_unit((4, 40, 30, 31), None, None, affine=False)
    unit.tensors["x"] = unit.tensors["x"] + 1e3
    for pointwise in (None, torch.eye(40)[:, :, None, None]):
        unit.tensors["pointwise"] = pointwise
        y, mean, var = unit.call()
        exact_var, exact_mean = torch.var_mean(y.double(), (0, 2, 3), correction=0)
        torch.testing.assert_close(var.double(), exact_var, rtol=1e-5, atol=0)
        torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-7, atol=0)


def test_a_constant_has_no_variance(instruction_set: str, make_unit: Callable[..., Any]) -> None:
    unit = make_unit((3, 33, 20, 20), None, None, affine=False)
    unit.tensors["x"] = torch.full((3, 33, 20, 20), 0.1)
    _, mean, var = unit.call()
    assert torch.equal(mean, torch.full((33,), 0.1)) and torch.equal(var, torch.zeros(33))


@pytest.mark.parametrize("frozen", [
    ["x"],
    ["depthwise", "pointwise"],
    ["in_scale", "in_shift"],
    ["x", "in_scale", "in_shift"],
    ["x", "in_scale", "in_shift", "depthwise"],
    ["in_scale", "in_shift", "depthwise", "pointwise"],
], ids="-".join)  # fmt: skip
def test_frozen_inputs_change_no_other_gradient(
    instruction_set: str,
    make_unit: Callable[..., Any],
    arriving_at: Callable[..., Any],
    frozen: list[str],
) -> None:
    unit = make_unit((2, 33, 9, 8), 40, (3, 3), padding=1, activation="relu")
    gradients = arriving_at(unit.exact().call())
    full, partial = unit.results(gradients), unit.results(gradients, frozen)
    assert full.keys() - partial.keys() == {f"grad_{name}" for name in frozen}
    for name, result in partial.items():
        assert torch.equal(result, full[name]), name


def test_without_statistics_the_rest_is_the_same(
    instruction_set: str, make_unit: Callable[..., Any], arriving_at: Callable[..., Any]
) -> None:
    unit = make_unit((2, 33, 9, 8), 40, (3, 3), padding=1, activation="relu")
    gradient = arriving_at(unit.call())[0]
    expected = unit.results([gradient, None, None])
    unit.settings["statistics"] = False
    found = unit.results([gradient, None, None])
    assert found.pop("mean").shape == found.pop("var").shape == (0,)
    for name, result in found.items():
        assert torch.equal(result, expected[name]), name


def test_inputs_are_not_written_to(
    instruction_set: str, make_unit: Callable[..., Any], arriving_at: Callable[..., Any]
) -> None:
    unit = make_unit((2, 33, 9, 8), 40, (3, 3), padding=1, activation="relu")
    before = {name: tensor.clone() for name, tensor in unit.tensors.items()}
    unit.results(arriving_at(unit.call()))
    for name, tensor in unit.tensors.items():
        assert torch.equal(tensor, before[name]), name
