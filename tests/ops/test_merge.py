"""`merge` by the compiled kernels: values and gradients against float64, and who wins a pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from xception.ops import merge, set_kernels

BOUND = 1e-5  # of the largest value; float32's unit roundoff is 6e-8 and the longest sums are short
NAMES = ("y", "scale", "shift", "skip", "skip_scale", "skip_shift")
POOLS = {  # y's sides; kernel, stride, (top, bottom, left, right), dilation
    "no pool": ((13, 11), ()),
    "keras, even": ((12, 10), (3, 3, 2, 2, 0, 1, 0, 1, 1, 1)),
    "keras, odd": ((13, 11), (3, 3, 2, 2, 1, 1, 1, 1, 1, 1)),
    "keras, odd and even": ((13, 10), (3, 3, 2, 2, 1, 1, 0, 1, 1, 1)),
    "torch, even": ((12, 10), (3, 3, 2, 2, 1, 1, 1, 1, 1, 1)),
    "stride 1": ((9, 8), (3, 3, 1, 1, 1, 1, 1, 1, 1, 1)),
    "dilation 2": ((9, 8), (3, 3, 1, 1, 2, 2, 2, 2, 2, 2)),
    "dilation beyond the picture": ((3, 2), (3, 3, 1, 1, 4, 4, 4, 4, 4, 4)),
    "1x1 picture": ((1, 1), (3, 3, 2, 2, 1, 1, 1, 1, 1, 1)),
    "unpadded, rows left over": ((12, 11), (3, 2, 3, 4, 0, 0, 0, 0, 1, 1)),
    "the largest kernel": ((11, 12), (9, 9, 1, 2, 0, 0, 0, 0, 1, 1)),
    "larger, plain torch's": ((11, 12), (10, 2, 1, 2, 0, 0, 0, 0, 1, 1)),
    "windows of padding alone, plain torch's": ((4, 5), (2, 2, 1, 1, 3, 3, 0, 0, 1, 1)),
    "many rows": ((37, 19), (3, 3, 2, 2, 1, 1, 1, 1, 1, 1)),
}


def inputs(
    shape: Sequence[int], pool: Sequence[int], skip: str, activation: str, seed: int = 0
) -> dict[str, Tensor | None]:
    """Float32, channels last. No two values of y are near each other, so rounding flips no pool.

    With a skip connection nothing lies near a kink of the activation either.
    """
    generator = torch.Generator().manual_seed(seed)

    def rand(*size: int) -> Tensor:
        values = torch.randn(*size, generator=generator)
        return values.contiguous(memory_format=torch.channels_last) if len(size) == 4 else values

    channels = shape[1]
    y = rand(*shape)
    y.copy_(torch.randperm(y.numel(), generator=generator).view(shape) / y.numel() * 4 - 2)
    tensors: dict[str, Tensor | None] = {"y": y, "scale": rand(channels), "shift": rand(channels)}
    if skip == "none":
        return tensors | dict.fromkeys(NAMES[3:])
    sides = merge(**tensors, pool=pool).shape[2:]
    tensors["skip"] = rand(shape[0], channels, *sides)
    tensors |= dict.fromkeys(NAMES[4:])
    if skip == "scaled":
        tensors |= {"skip_scale": rand(channels), "skip_shift": rand(channels)}
    before = merge(**exact(tensors), pool=pool)
    near = (before.abs() < 1e-3) | ((before - 6).abs() < 1e-3)
    step = 0.02 if skip == "plain" else 0.02 / tensors["skip_scale"][:, None, None]
    tensors["skip"] = torch.where(near, tensors["skip"] + step, tensors["skip"])
    return tensors


def exact(tensors: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if t is None else t.double() for name, t in tensors.items()}


def results(
    tensors: dict[str, Tensor | None], arriving: Tensor, frozen: Sequence[str] = (), **other: Any
) -> dict[str, Tensor]:
    leaves = {
        name: t if t is None else t.detach().requires_grad_(name not in frozen)
        for name, t in tensors.items()
    }
    out = merge(**leaves, **other)
    wanted = {name: t for name, t in leaves.items() if t is not None and t.requires_grad}
    grads = torch.autograd.grad(out, list(wanted.values()), arriving.to(out.dtype))
    return {"out": out.detach()} | {f"grad_{name}": g for name, g in zip(wanted, grads)}


def masses(
    tensors: dict[str, Tensor | None], found: dict[str, Tensor], pool: Sequence[int]
) -> dict[str, Tensor]:
    """The sums of the terms' sizes, given the results in float64."""
    y, scale, shift, skip, skip_scale, skip_shift = exact(tensors).values()
    sums = {"grad_y": found["grad_y"], "out": (y * scale[:, None, None]).abs() + shift.abs().max()}
    at_y = (found["grad_y"] / scale[:, None, None]).abs()
    sums |= {"grad_scale": (at_y * y.abs()).sum((0, 2, 3)), "grad_shift": at_y.sum((0, 2, 3))}
    if skip is not None:
        sums |= {"grad_skip": found["grad_skip"], "out": sums["out"].max() + skip.abs().max()}
    if skip_scale is not None and skip_shift is not None:
        at_skip = (found["grad_skip"] / skip_scale[:, None, None]).abs()
        sums["grad_skip_scale"] = (at_skip * skip.abs()).sum((0, 2, 3))
        sums["grad_skip_shift"] = at_skip.sum((0, 2, 3))
        sums["out"] = (
            sums["out"] + (skip * skip_scale[:, None, None]).abs().max() + skip_shift.abs().max()
        )
    return sums


def arriving_at(out: Tensor) -> Tensor:
    return torch.randn(out.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("skip", ["none", "plain", "scaled"])
@pytest.mark.parametrize("name", POOLS)
def test_the_pools_of_networks(
    instruction_sets: list[str],
    assert_rounded: Callable[..., None],
    threads: Callable[[int], None],
    name: str,
    skip: str,
) -> None:
    """On every instruction set; the same bits on any number of threads."""
    sides, pool = POOLS[name]
    for channels in (3, 33, 64):
        tensors = inputs((2, channels, *sides), pool, skip, "relu")
        arriving = arriving_at(merge(**tensors, pool=pool))
        other: dict[str, Any] = {"pool": pool, "activation": "relu"}
        expected = results(exact(tensors), arriving, **other)
        for kernels in instruction_sets:
            set_kernels(kernels)
            threads(1)
            found = results(tensors, arriving, **other)
            assert_rounded(found, expected, masses(tensors, expected, pool), BOUND)
            for count in (1, 2, 3):
                threads(count)
                for result, again in results(tensors, arriving, **other).items():
                    assert torch.equal(again, found[result]), (kernels, count, result)


@st.composite
def pools(draw: Any) -> tuple[int, ...]:
    pairs = [
        draw(st.tuples(s, s)) for s in (st.integers(1, 4), st.integers(1, 3), st.integers(1, 2))
    ]
    kernel, stride, dilation = pairs
    sides = [draw(st.integers(0, (kernel[i // 2] - 1) * dilation[i // 2])) for i in range(4)]
    return (*kernel, *stride, *sides, *dilation)


@settings(  # derandomized: the same examples everywhere, as bounds on rounding need it
    max_examples=100, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    pool=st.just(()) | pools(),
    batch=st.integers(1, 3),
    channels=st.sampled_from([1, 3, 31, 32, 33, 64, 728]),
    extra=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    skip=st.sampled_from(["none", "plain", "scaled"]),
    activation=st.sampled_from(["none", "relu", "relu6"]),
    seed=st.integers(0, 2**31),
)
def test_values_and_gradients(
    instruction_sets: list[str],
    assert_rounded: Callable[..., None],
    pool: tuple[int, ...],
    batch: int,
    channels: int,
    extra: tuple[int, int],
    skip: str,
    activation: str,
    seed: int,
) -> None:
    """For any pool that has an output."""
    sides = list(extra)
    for i in range(2):
        least = 1
        if pool:
            padding = pool[4 + 2 * i] + pool[5 + 2 * i]
            least = max(1, (pool[i] - 1) * pool[8 + i] + 1 - padding)
        sides[i] += least
    tensors = inputs((batch, channels, *sides), pool, skip, activation, seed)
    arriving = arriving_at(merge(**tensors, pool=pool))
    other: dict[str, Any] = {"pool": pool, "activation": activation}
    expected = results(exact(tensors), arriving, **other)
    assume(expected["out"].isfinite().all())  # else a window holds padding alone
    for name in instruction_sets:
        set_kernels(name)
        found = results(tensors, arriving, **other)
        assert_rounded(found, expected, masses(tensors, expected, pool), BOUND)


@pytest.mark.parametrize("name", POOLS)
def test_of_equal_values_the_first_wins(instruction_set: str, name: str) -> None:
    """As in torch: few different whole numbers, so that all is exact and most windows have ties."""
    sides, pool = POOLS[name]
    tensors = inputs((2, 33, *sides), pool, "plain", "none")
    for key, tensor in tensors.items():
        if tensor is not None:
            tensors[key] = tensor.round()
    tensors["scale"] = torch.ones(33)
    arriving = arriving_at(tensors["skip"]).mul(8).round()
    found = results(tensors, arriving, pool=pool)
    set_kernels("off")
    for key, expected in results(tensors, arriving, pool=pool).items():
        assert torch.equal(found[key], expected), key


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("name", [n for n in POOLS if "plain torch" not in n])
def test_nan_wins_every_pool(instruction_set: str, name: str, activation: str) -> None:
    """The gradient of its windows goes to it, as in torch."""
    sides, pool = POOLS[name]
    tensors = inputs((2, 33, *sides), pool, "scaled", activation)
    tensors["y"][0, 32, -1, -1] = tensors["y"][1, 0, 0, 0] = tensors["y"][1, 0, -1, 0] = torch.nan
    tensors["skip"][0, 5, 0, 0] = torch.nan
    arriving = arriving_at(tensors["skip"])
    other: dict[str, Any] = {"pool": pool, "activation": activation}
    found = results(tensors, arriving, **other)
    set_kernels("off")
    for key, expected in results(tensors, arriving, **other).items():
        torch.testing.assert_close(
            found[key], expected, rtol=1e-4, atol=1e-4, equal_nan=True, msg=key
        )


@pytest.mark.parametrize("bad", [float("inf"), -float("inf")])
@pytest.mark.parametrize("name", POOLS)
def test_infinities(instruction_set: str, name: str, bad: float) -> None:
    """Also where a whole window is -inf, as padding is to torch."""
    sides, pool = POOLS[name]
    tensors = inputs((2, 33, *sides), pool, "none", "none")
    tensors["y"][0, 32] = tensors["y"][1, 0, 0, 0] = bad
    found = merge(**tensors, pool=pool)
    set_kernels("off")
    torch.testing.assert_close(found, merge(**tensors, pool=pool), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize(
    "frozen", [["y"], ["skip"], ["skip_scale", "skip_shift"], ["y", "scale", "shift"]], ids="-".join
)
def test_frozen_inputs_change_no_other_gradient(
    instruction_set: str, frozen: list[str], activation: str
) -> None:
    sides, pool = POOLS["keras, even"]
    for skip in ("plain", "scaled"):
        tensors = inputs((2, 33, *sides), pool, skip, activation)
        arriving = arriving_at(tensors["skip"])
        other: dict[str, Any] = {"pool": pool, "activation": activation}
        full = results(tensors, arriving, **other)
        for key, result in results(tensors, arriving, frozen, **other).items():
            assert torch.equal(result, full[key]), key
