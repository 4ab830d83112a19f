"""The compiled kernels on one thread, small networks, and how they are compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import xception
from xception.ops import set_kernels
from xception.ops.kernels import usable_names


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    if not usable_names():
        pytest.skip("the compiled kernels are not built here")
    before, threads = set_kernels("auto"), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    set_kernels(before)


class InvertedResidual(nn.Module):
    """Expand, filter, narrow, and add: the block of MobileNetV2, with any activation."""

    def __init__(self, channels: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        wide = 3 * channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            activation(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            activation(),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _small_network(activation: Callable[[], nn.Module] | None = None) -> nn.Sequential:
    """A stem, two blocks of which the first reads what is only normalized, and a head."""
    torch.manual_seed(0)
    activation = activation or (lambda: nn.ReLU6(inplace=True))
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        activation(),
        nn.Conv2d(8, 16, 1, bias=False),
        nn.BatchNorm2d(16),
        InvertedResidual(16, activation),
        InvertedResidual(16, activation),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # nothing is left at zeros and ones
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0.5, 0.5)
    return network


def _pictures(side: int = 17, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn((count, 3, side, side), generator=generator)


def _step(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, gradients of parameters and of x, and buffers afterwards, by name."""
    x = x.clone().requires_grad_()
    network.zero_grad(set_to_none=True)
    out = network(x)
    generator = torch.Generator().manual_seed(4)
    arriving = torch.randn(out.shape, generator=generator).to(out.dtype)
    out.backward(arriving)
    assert x.grad is not None
    results = {"output": out.detach(), "grad x": x.grad}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            results[f"grad {name}"] = parameter.grad
    for name, buffer in network.named_buffers():
        results[name] = buffer.clone()
    return results


def _assert_near(found: dict[str, Tensor], exact: dict[str, Tensor], bound: float = 2e-5) -> None:
    """Each within `bound` of its largest value; gradients of theirs all together.

    A gradient may cancel out wholly (a shift that the next normalization takes away), so it is held
    against the largest of all.
    """
    assert found.keys() == exact.keys()
    gradients = [t for name, t in exact.items() if name.startswith("grad ") and name != "grad x"]
    largest = max(t.abs().max().item() for t in gradients)
    for name, expected in exact.items():
        is_gradient = name.startswith("grad ") and name != "grad x"
        size = largest if is_gradient else max(expected.abs().max().item(), 1e-3)
        error = (found[name].double() - expected.double()).abs().max().item()
        assert error <= bound * size, (name, error, size)


def _operators(out: Tensor) -> int:
    """How many nodes of the graph of `out` are this package's."""
    nodes, seen, found = [out.grad_fn], set(), 0
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found += any(name in type(node).__name__.lower() for name in ("xception", "_eager"))
        nodes += [following for following, _ in node.next_functions]
    return found


@pytest.fixture
def small_network() -> Callable[..., nn.Sequential]:
    return _small_network


@pytest.fixture
def pictures() -> Callable[..., Tensor]:
    return _pictures


@pytest.fixture
def step() -> Callable[[nn.Module, Tensor], dict[str, Tensor]]:
    return _step


@pytest.fixture
def assert_near() -> Callable[..., None]:
    return _assert_near


@pytest.fixture
def operators() -> Callable[[Tensor], int]:
    return _operators


@pytest.fixture
def assert_same(step: Callable, assert_near: Callable) -> Callable[[nn.Module, nn.Module], None]:
    """A step of the first, in float32, against one of the second, in float64 or a copy in it."""

    def check(fused: nn.Module, plain: nn.Module, x: Tensor | None = None) -> None:
        x = _pictures() if x is None else x
        is_double = next(plain.parameters()).dtype == torch.float64
        exact = plain if is_double else copy.deepcopy(plain).double()
        assert_near(step(fused, x), step(exact, x.double()))

    return check


@pytest.fixture
def pair(small_network) -> tuple[nn.Sequential, nn.Sequential]:
    """A network and its fused copy, in training."""
    plain = small_network().train()
    fused = copy.deepcopy(plain)
    xception.fuse(fused)
    return fused, plain
