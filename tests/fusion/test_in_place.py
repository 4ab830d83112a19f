"""Work in place on tensors that a fused network puts off, and on what they are made of."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import xception
from xception.fusion.deferred import Deferred


class Middle(nn.Module):
    """Pointwise, normalization, `between`, depthwise, normalization."""

    def __init__(self, between: Callable[[Middle, Tensor, Tensor], Tensor], inplace: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.act = nn.Hardswish(inplace)  # whose result torch allows to be changed
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm_2 = nn.BatchNorm2d(8)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(self.first(x))
        noise = torch.linspace(-1, 1, z.numel(), dtype=x.dtype).view(z.shape)
        z = self.between(self, z, noise)
        return self.norm_2(self.second(z)).square()


def sum_without_gradients(m: Middle, z: Tensor, noise: Tensor) -> Tensor:
    with torch.no_grad():
        z += noise
    return z


def activation_without_gradients(m: Middle, z: Tensor, noise: Tensor) -> Tensor:
    with torch.no_grad():
        m.act(z)
    return z


def sum_for_all_holders(m: Middle, z: Tensor, noise: Tensor) -> Tensor:
    y = z
    z += noise
    return y


def argument_changed_after(m: Middle, z: Tensor, noise: Tensor) -> Tensor:
    a = m.act(z)
    if m.training:  # not in the example
        z.add_(noise)
    return a


def result_changed_after(m: Middle, z: Tensor, noise: Tensor) -> Tensor:
    a = m.act(z)
    if m.training:
        a.mul_(0.5)
    return z


class Halved(torch.autograd.Function):
    """Not seen by torch's function mode."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 0.5

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * 0.5


def function_of_the_argument(m: Middle, z: Tensor, noise: Tensor) -> Tensor:
    a = m.act(z)
    return a + Halved.apply(z) if m.training else a


def function_of_what_was_changed(m: Middle, z: Tensor, noise: Tensor) -> Tensor:
    y = z
    if m.training:
        z *= noise
    return y + Halved.apply(y) if m.training else y


BETWEEN = [
    sum_without_gradients, activation_without_gradients, sum_for_all_holders,
    argument_changed_after, result_changed_after, function_of_the_argument,
    function_of_what_was_changed,
]  # fmt: skip


@pytest.mark.parametrize(
    "between, inplace",
    [(b, inplace) for b in BETWEEN for inplace in (True, False)
     if inplace or b is not argument_changed_after],  # which torch refuses
)  # fmt: skip
def test_values_and_gradients_are_those_of_plain_torch(between, inplace, assert_same):
    fused = Middle(between, inplace).train()
    xception.fuse(fused)
    assert_same(fused, Middle(between, inplace).train())


def test_a_result_in_place_is_its_argument():
    network = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
                            nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))  # fmt: skip
    xception.fuse(network)
    for training in (True, False):
        network.train(training)
        z = network[:2](torch.randn(2, 3, 4, 4))
        assert type(z) is Deferred and network[2](z) is z and z.computed is None
        assert z.min() == 0


class Overwriting(nn.Module):
    """What is put off reads a tensor that is written into before the end."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm, self.act = nn.BatchNorm2d(8), nn.ReLU()
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.third, self.norm_2 = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        if self.kind == "normalization":
            z = self.norm(y)
            y = F.relu_(y) if not self.training else y
            return self.norm_2(self.third(z)) + y
        y = y * 2
        if self.kind == "activation":
            h = self.act(y)
            y += 1
            return y + self.norm_2(self.third(h))
        if self.kind == "activation, at the end":
            h = self.norm_2(self.third(self.act(y)))
            y += 1
            return y + h
        h = self.second(y)
        y[:, :2] = 0
        return y + self.norm_2(self.third(h))


KINDS = ["normalization", "activation", "activation, at the end"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_what_the_example_overwrites_is_not_put_off(kind, training, assert_same, pictures):
    plain = Overwriting(kind).train(training)
    fused = copy.deepcopy(plain)
    xception.fuse(fused)
    torch.testing.assert_close(fused(pictures()), plain(pictures()), rtol=1e-4, atol=1e-5)
    if kind != "normalization" or training:  # else torch itself refuses the way back
        assert_same(fused, plain)


def test_a_convolution_whose_input_is_overwritten_is_not_put_off(pictures):
    fused = Overwriting("depthwise").eval()
    plain = copy.deepcopy(fused)
    xception.fuse(fused)
    with torch.no_grad():
        torch.testing.assert_close(fused(pictures()), plain(pictures()))


def parts() -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    second = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)
    third = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
    return nn.Sequential(first, second, third).eval()


@pytest.mark.parametrize("source", ["input", "weight"])
def test_what_is_overwritten_before_it_is_read_is_an_error(source, pictures):
    network = parts()
    xception.fuse(network)
    x = pictures()
    with torch.no_grad():
        deferred = network[0](x) if source == "input" else network[:2](x)
        assert type(deferred) is Deferred
        (x if source == "input" else network[1].weight).add_(1)
        for read in (torch.sum, Tensor.tolist, network[1 if source == "input" else 2]):
            with pytest.raises(
                RuntimeError, match=r"modified by an inplace.*version [12], expected"
            ):
                read(deferred)


def test_what_is_read_before_it_is_overwritten_stays(pictures):
    network = parts()
    xception.fuse(network)
    x = pictures()
    with torch.no_grad():
        deferred = network[0](x)
        expected = deferred * 1
        x.zero_()
        assert torch.equal(deferred * 1, expected)
    with torch.inference_mode():  # whose tensors have no versions
        assert type(network[0](torch.ones(2, 3, 4, 4)).sum().item()) is float
