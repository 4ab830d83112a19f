"""One thread, the compiled kernels by instruction set, and calls of `separable_unit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from xception.ops import reference, separable_unit, set_kernels
from xception.ops.kernels import usable_names

NOT_BUILT = "the compiled kernels are not built here"
SETS = usable_names() or [pytest.param("none", marks=pytest.mark.skip(reason=NOT_BUILT))]
TENSORS = ("x", "in_scale", "in_shift", "depthwise", "pointwise")
KINKS = (0.0, 6.0)
CANCELLED = 2e-7  # three roundings of float32
# Distances from a tile's first pixel are summed one after another, so many at most. Where values
# repeat all roundings (of partial sums, half of the whole on average) may go one way.
LONGEST_CHAIN = 512


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Small inputs gain nothing from many, and lose much when the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads; the one before comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(params=SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set of this machine in turn; the setting before comes back."""
    before = set_kernels(request.param)
    yield request.param
    set_kernels(before)


@pytest.fixture
def instruction_sets() -> Iterator[list[str]]:
    """All of them, for tests that go through them by themselves."""
    if not usable_names():
        pytest.skip(NOT_BUILT)
    before = set_kernels("auto")
    yield usable_names()
    set_kernels(before)


@dataclass(frozen=True)
class Unit:
    """One call of `separable_unit`: tensors by the names of its arguments, and its settings."""

    tensors: dict[str, Tensor | None]
    settings: dict[str, Any]

    def exact(self) -> Unit:
        """The same in float64, which plain torch computes."""
        doubled = {n: None if t is None else t.detach().double() for n, t in self.tensors.items()}
        return Unit(doubled, self.settings)

    def call(self) -> tuple[Tensor, Tensor, Tensor]:
        return separable_unit(**self.tensors, **self.settings)

    def results(
        self, arriving: Sequence[Tensor | None], frozen: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """Outputs by name, and gradients as grad_x and so on.

        arriving: the gradient at y, mean and var, None where there is none
        frozen: tensors that have no gradient
        """
        leaves = {
            name: tensor if tensor is None else tensor.detach().requires_grad_(name not in frozen)
            for name, tensor in self.tensors.items()
        }
        outputs = Unit(leaves, self.settings).call()
        used = [(out, g.to(out.dtype)) for out, g in zip(outputs, arriving) if g is not None]
        wanted = {n: t for n, t in leaves.items() if t is not None and t.requires_grad}
        outs, arrived = zip(*used)
        grads = torch.autograd.grad(outs, list(wanted.values()), arrived)
        detached = {n: t.detach() for n, t in zip(("y", "mean", "var"), outputs)}
        return detached | {f"grad_{name}": g for name, g in zip(wanted, grads)}

    def masses(self, arriving: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """By the names of `results`: the sums of their terms' sizes, in float64."""
        x, scale, shift, depthwise, pointwise = self.exact().tensors.values()
        values = x if scale is None else x * scale[:, None, None] + shift[:, None, None]
        activated = reference.activated(values, self.settings.get("activation", "none"))
        sizes = (t if t is None else t.abs() for t in (activated, None, None, depthwise, pointwise))
        linear = Unit(dict(zip(TENSORS, sizes)), {**self.settings, "activation": "none"})
        y, mean, _ = linear.call()
        at_y, at_mean, at_var = (
            y.new_zeros(1) if g is None else g.double().abs() for g in arriving
        )
        count = y[:, 0].numel()
        through = at_y + (at_mean / count)[:, None, None]
        through = through + (2 * at_var / count)[:, None, None] * (y + mean[:, None, None])
        masses = linear.results([through, None, None])
        outputs = self.exact().call()[0]
        from_first = (outputs - outputs[:1, :, :1, :1]).abs()  # what the sums of statistics are of
        chain = min(count, LONGEST_CHAIN) / 6
        masses["mean"] = from_first.mean((0, 2, 3)) * chain
        masses["var"] = from_first.square().mean((0, 2, 3)) * chain
        if scale is not None:
            masses["grad_in_scale"] = (masses["grad_x"] * x.abs()).sum((0, 2, 3))
            masses["grad_in_shift"] = masses["grad_x"].sum((0, 2, 3))
            masses["grad_x"] = masses["grad_x"] * scale.abs()[:, None, None]
        return masses


@pytest.fixture
def make_unit() -> Callable[..., Unit]:
    return _make_unit


def _make_unit(
    shape: Sequence[int],
    outputs: int | None,
    kernel: Sequence[int] | None,
    *,
    affine: bool = True,
    seed: int = 0,
    **settings: Any,
) -> Unit:
    """Random float32 tensors, x channels-last; outputs None: no pointwise, kernel None likewise.

    No activated value lies at a kink of an activation, where rounding decides the gradient.
    """
    generator = torch.Generator().manual_seed(seed)

    def rand(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    channels = shape[1]
    x = rand(*shape).contiguous(memory_format=torch.channels_last)
    scale, shift = (rand(channels), rand(channels)) if affine else (None, None)
    factor, offset = (1.0, 0.0) if scale is None else (scale[:, None, None], shift[:, None, None])
    values = x.double() * factor + offset
    near = torch.stack([(values - kink).abs() < 1e-3 for kink in KINKS]).any(0)
    tensors = {
        "x": torch.where(near, x + 0.02 / factor, x),
        "in_scale": scale,
        "in_shift": shift,
        "depthwise": None if kernel is None else rand(channels, 1, *kernel),
        "pointwise": None if outputs is None else rand(outputs, channels, 1, 1),
    }
    return Unit(tensors, settings)


@pytest.fixture
def arriving_at() -> Callable[..., list[Tensor]]:
    """Random gradients for outputs."""

    def make(outputs: Sequence[Tensor], seed: int = 1) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(out.shape, generator=generator) for out in outputs]

    return make


@pytest.fixture
def assert_rounded() -> Callable[..., None]:
    return _assert_rounded


def _assert_rounded(
    actual: dict[str, Tensor],
    exact: dict[str, Tensor],
    masses: dict[str, Tensor],
    bound: float,
    **bounds: float,
) -> None:
    """Each tensor's largest error is at most `bound` (or that of its name) times its largest value.

    A sum that cancels out may have any size itself: it may be wrong by CANCELLED times the largest
    sum of its terms' sizes instead. A mean is held against the standard deviation.
    """
    assert actual.keys() == exact.keys()
    for name, expected in exact.items():
        found = actual[name]
        assert found.dtype == torch.float32 and found.shape == expected.shape, name
        if expected.numel() == 0:
            continue
        error = (found.double() - expected).abs().max().item()
        size, mass = expected.abs().max().item(), masses[name].abs().max().item()
        if name == "mean":
            size = max(size, exact["var"].max().sqrt().item())
        allowed = max(bounds.get(name, bound) * size, CANCELLED * mass)
        assert error <= allowed, (name, error, size, mass)
