"""Feature maps kept in half precision: what is rounded, what is not, and what memory it frees."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from xception import create_model
from xception.nn.saved_activations import _Compressed, compress_saved_activations
from xception.ops import set_kernels


@pytest.fixture(params=["auto", "off"])
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    before = set_kernels(request.param)
    yield request.param
    set_kernels(before)


def kept() -> int:
    """How many maps wait in half precision."""
    gc.collect()
    return sum(type(found) is _Compressed for found in gc.get_objects())


def feature_map(requires_grad: bool = True) -> Tensor:
    """No leaf of the graph, as what a layer makes."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5)
    return x.requires_grad_() * 1 if requires_grad else x


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_backward_reads_the_rounded_map(dtype: torch.dtype) -> None:
    x = feature_map()
    with compress_saved_activations(dtype):
        y = x.square()
    assert torch.equal(y, x.square())
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, 2 * x.to(dtype).float())


def test_a_map_kept_twice_is_stored_once_and_float32_is_given_back() -> None:
    before = kept()
    with compress_saved_activations():
        x = feature_map()
        out = x.sin() + x.cos()
        assert kept() == before + 1
        storage = StorageWeakRef(x.untyped_storage())
        del x
        assert storage.expired()
        y = out * 2
        out = y.square().sum()
        assert kept() == before + 2
    out.backward()
    del out, y
    assert kept() == before


def test_a_map_changed_in_place_is_another_map() -> None:
    x = feature_map()
    start = x.detach().to(torch.bfloat16).float()
    with compress_saved_activations():
        y = x * 1
        first = y.square().sum()
        y.add_(64)
        second = y.square().sum()
    (gradient,) = torch.autograd.grad(first, x, retain_graph=True)
    assert torch.equal(gradient, 2 * start)
    (gradient,) = torch.autograd.grad(second, x)
    assert torch.equal(gradient, 2 * (x + 64).to(torch.bfloat16).float())


def test_views_of_one_storage_are_told_apart() -> None:
    x = feature_map()
    with compress_saved_activations():
        y = x[:1].square().sum() + 2 * x[1:].square().sum() + x.transpose(2, 3).square().sum()
    (gradient,) = torch.autograd.grad(y, x)
    rounded = x.detach().to(torch.bfloat16).float()
    assert torch.equal(gradient, rounded * torch.tensor([4.0, 6.0])[:, None, None, None])


def test_what_is_left_alone() -> None:
    """Parameters, pictures, other shapes and dtypes, maps that are a repeated vector."""
    before = kept()
    weight = nn.Parameter(torch.randn(4, 3, 1, 1))
    x = feature_map()
    with compress_saved_activations():
        outputs = [
            torch.conv2d(feature_map(requires_grad=False), weight),
            x.double().square(),
            x.flatten(1).square(),
            x.mean((2, 3), keepdim=True).expand(2, 3, 40, 50).square(),
        ]
        assert kept() == before
        outputs.append(torch.conv2d(x, weight))
        assert kept() == before + 1
    gradient = torch.autograd.grad(outputs[-1].sum(), x, retain_graph=True)[0]
    assert torch.equal(gradient, torch.autograd.grad(torch.conv2d(x, weight).sum(), x)[0])


def test_a_negated_view_is_another_map() -> None:
    """The imaginary part of a conjugate: the same numbers in memory, read with the other sign."""
    x = torch.randn(1, 2, 3, 4, dtype=torch.complex64, requires_grad=True) * 1
    with compress_saved_activations():
        y = x.imag.square().sum() + 3 * x.conj().imag.square().sum()
    (gradient,) = torch.autograd.grad(y, x)
    expected = 8 * x.imag.detach().to(torch.bfloat16).float()
    torch.testing.assert_close(gradient.imag, expected)


def _sparse() -> Tensor:
    place, size = torch.zeros(4, 1), (2, 2, 2, 2)
    sparse = torch.sparse_coo_tensor(place, torch.ones(1), size, check_invariants=True)
    return sparse.requires_grad_()


@pytest.mark.parametrize(
    "make", [_sparse, lambda: feature_map().to_mkldnn()], ids=["coo", "mkldnn"]
)
def test_other_layouts_are_left_alone(make: Callable[[], Tensor]) -> None:
    with compress_saved_activations():
        x = make() * 2
        assert torch.equal((x * x).to_dense(), x.to_dense().square())


def step(context: Any, dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[Tensor, ...]:
    """Loss, all gradients and all buffers of one training step."""
    torch.manual_seed(0)
    model = create_model("xception_tiny", num_classes=5).train().to(dtype)
    model.set_grad_checkpointing(changes.get("checkpointing", False))
    x = torch.randn(8, 3, 28, 31, generator=torch.Generator().manual_seed(1)).to(dtype)
    with context:
        loss = nn.functional.cross_entropy(model(x), torch.arange(8) % 5)
    loss.backward()
    gradients = torch.cat([p.grad.double().flatten() for p in model.parameters()])
    return loss.detach(), gradients, torch.cat([b.flatten() for b in model.buffers()])


@pytest.mark.parametrize("dtype, most", [(torch.bfloat16, 0.1), (torch.float16, 0.03)])
def test_a_training_step(kernels: str, dtype: torch.dtype, most: float) -> None:
    """The forward pass to the bit; gradients to the error that the page on speed states.

    Without kernels a ReLU's own output is kept, whose sign rounding does not change; the kernels
    find that sign anew from the rounded map.
    """
    expected, found = step(nullcontext()), step(compress_saved_activations(dtype))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[2], expected[2])
    exact = step(nullcontext(), torch.float64)[1]
    error = ((found[1] - exact).norm() / exact.norm()).item()
    assert 0 < error <= (most if kernels == "auto" else most / 5)


def test_with_gradient_checkpointing(kernels: str) -> None:
    """What a checkpoint keeps, its input, is rounded; buffers still move once, by exact maps."""
    expected = step(nullcontext(), checkpointing=True)
    before = kept()
    found = step(compress_saved_activations(torch.float16), checkpointing=True)
    assert kept() == before
    assert torch.equal(found[0], expected[0]) and torch.equal(found[2], expected[2])
    error = ((found[1] - expected[1]).norm() / expected[1].norm()).item()
    assert 0 < error <= 0.06


def test_other_dtypes_are_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"^dtype must be .* got torch\.int8$"),
        compress_saved_activations(torch.int8),
    ):
        pass
