"""Whoever reads a deferred tensor that does not know it reads the tensor itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import xception
from xception.fusion.deferred import Deferred, defer, work_of
from xception.fusion.pending import Affine, Filtered


def an_affine(activation: str = "relu6") -> Affine:
    generator = torch.Generator().manual_seed(0)

    def rand(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).requires_grad_()

    return Affine(rand(2, 5, 4, 3), rand(5), rand(5), activation)


def a_filter() -> Filtered:
    depthwise = torch.randn(5, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    return Filtered(an_affine(), depthwise.requires_grad_(), (2, 1), (1, 1, 1, 1), (1, 1))


WORKS = {"affine": an_affine, "silu": lambda: an_affine("silu"), "filtered": a_filter}


class Doubled(torch.autograd.Function):
    """Not seen by torch's function mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


USES: dict[str, Callable[[Tensor], Tensor]] = {
    "function": lambda x: torch.sigmoid(x),
    "method": lambda x: x.mean((2, 3)),
    "operator": lambda x: 3 * x - 1,
    "reversed sum": lambda x: 1 + x,
    "sum of two shapes": lambda x: x + torch.ones(5, 1, 1),
    "sum with a factor": lambda x: torch.add(x, torch.ones_like(x), alpha=2),
    "sum with itself": lambda x: x + x,
    "index": lambda x: x[:, 1:3],
    "split": lambda x: x.chunk(2, 1)[0],
    "concatenation": lambda x: torch.cat([x, torch.ones_like(x)], 1),
    "in a list": lambda x: torch.stack([x, x]),
    "keyword": lambda x: torch.sum(input=x),
    "module": lambda x: nn.Conv2d(5, 2, 1)(x).new_zeros(1) + x.sum(),
    "in place": lambda x: x.mul_(2),
    "view": lambda x: x.view(2, 5, 2, -1),
    "data": lambda x: x.detach() * x,
    "function of one's own": lambda x: Doubled.apply(x),
    "several": lambda x: x.exp() + x.mean() + Doubled.apply(x),
}


@pytest.mark.parametrize("make", WORKS.values(), ids=WORKS)
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_any_use_gives_values_and_gradients(make, use):
    results = []
    for wrap in (defer, lambda work: work.compute()):
        work = make()
        torch.manual_seed(0)
        out = use(wrap(work))
        leaves = [t for t in work.tensors() if t is not None]
        results.append([out, *torch.autograd.grad(out, leaves, torch.ones_like(out))])
    for found, expected in zip(*results):
        assert type(found) is Tensor
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("make", WORKS.values(), ids=WORKS)
def test_questions_are_answered_without_computing(make):
    work = make()
    x, there = defer(work), make().compute()
    assert isinstance(x, Deferred)
    assert x.shape == there.shape and x.size(1) == 5 and x.dim() == 4 and len(x) == 2
    assert x.dtype == torch.float32 and x.device.type == "cpu" and x.requires_grad
    assert x.numel() == there.numel() and x.ndim == 4
    assert x.computed is None
    assert x.stride() == there.stride() and repr(x) and x.tolist()


def test_questions_are_answered_by_the_tensor_once_it_is_there():
    with torch.no_grad():
        x = defer(an_affine())
    name = hash(x)
    x.unsqueeze_(1).requires_grad_()
    assert x.shape == (2, 1, 5, 4, 3) and x.dim() == 5 and x.requires_grad and hash(x) == name


def test_it_is_computed_in_the_precision_that_it_has():
    x = defer(a_filter())
    with torch.autocast("cpu", torch.bfloat16):
        read, work = x.mean(), x * 1
    assert x.dtype == read.dtype == work.dtype == torch.float32
    torch.testing.assert_close(work, a_filter().compute())


def test_it_is_computed_once_and_read_by_all_from_then_on():
    x = defer(an_affine())
    first, second = x * 1, work_of(x)
    assert isinstance(second, Affine) and second.scale is None
    assert torch.equal(second.raw, first)


def test_what_is_done_in_place_is_seen_by_later_readers():
    x = defer(an_affine())
    expected = an_affine().compute() * 2
    x.mul_(2)
    assert torch.equal(x * 1, expected) and torch.equal(work_of(x).tensors()[0], expected)
    y = defer(an_affine("none"))
    before = y
    y += torch.ones_like(y)
    assert torch.allclose(before * 1, an_affine("none").compute() + 1)


def test_computing_without_gradients_does_not_lose_them():
    work = an_affine()
    x = defer(work)
    with torch.no_grad():
        x.mean()
    assert work.raw.grad is None
    x.sum().backward()
    assert work.raw.grad is not None


def test_without_gradients_there_are_none():
    with torch.no_grad():
        x = defer(an_affine())
    assert not x.requires_grad and not (x * 2).requires_grad


@pytest.mark.parametrize("second", ["plain", "normalized", "activated"])
def test_sums_of_two(second):
    results = []
    for wrap in (defer, lambda work: work.compute()):
        first = an_affine("none")
        other = Affine(torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(5)))
        if second != "plain":
            other = an_affine("none" if second == "normalized" else "relu")
        leaves = [t for w in (first, other) for t in w.tensors() if t is not None]
        leaves = [t for t in leaves if t.requires_grad]
        a = wrap(first)
        b = wrap(other) if second != "plain" else other.raw
        out = a + b
        out_swapped = b + a
        torch.testing.assert_close(out, out_swapped)
        results.append([out, *torch.autograd.grad(out, leaves, torch.ones_like(out))])
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("make", WORKS.values(), ids=WORKS)
def test_second_derivatives(make):
    results = []
    for wrap in (defer, lambda work: work.compute()):
        work = make()
        leaves = [t for t in work.tensors() if t is not None]
        out = Doubled.apply(wrap(work)).square().sum()
        grads = torch.autograd.grad(out, leaves, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in grads), leaves))
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected)


class Peeking(nn.Module):
    """Reads the middle of a block in ways that the example did not have."""

    def __init__(self, block: nn.Sequential) -> None:
        super().__init__()
        self.block = block
        self.peek: Callable[[Tensor], Tensor] = lambda x: x.new_zeros(())

    def forward(self, x: Tensor) -> Tensor:
        total = x.new_zeros(())
        for layer in self.block:
            x = layer(x)
            total = total + self.peek(x)
        return x.mean((2, 3)) + total


PEEKS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x.sum() * 0.01,
    "function of one's own": lambda x: Doubled.apply(x).mean(),
    "view": lambda x: x.flatten()[:7].sum(),
}


@pytest.mark.parametrize("peek", PEEKS.values(), ids=PEEKS)
@pytest.mark.parametrize("inplace", [True, False])
def test_readers_that_the_example_did_not_have(peek, inplace, assert_same):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=inplace)]
    layers += [nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)]
    layers += [nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6)]
    plain = Peeking(nn.Sequential(*layers)).train()
    fused = copy.deepcopy(plain)
    xception.fuse(fused)
    plain.peek = fused.peek = peek
    assert_same(fused, plain)
