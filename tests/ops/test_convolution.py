"""`conv2d` is torch's, whatever the layout in which its gradients are taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from xception.ops import conv2d, set_kernels
from xception.ops.kernels import usable_names

CASES = {
    "stem": ((2, 32, 13, 11), 48, 3, {}),
    "strided": ((2, 33, 13, 12), 7, 3, {"stride": (2, 1), "padding": (1, 1)}),
    "few channels": ((2, 3, 9, 9), 8, 3, {"stride": (2, 2), "padding": (1, 0)}),
}


@pytest.fixture(params=[True, False], ids=["chosen", "torch's own"], autouse=True)
def chosen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With the other layout, wherever the tests run, and without."""
    if request.param and not usable_names():
        pytest.skip("the compiled kernels are not built here")
    if request.param:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    before = set_kernels("auto" if request.param else "off")
    yield request.param
    set_kernels(before)


def tensors(shape: tuple[int, ...], outputs: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)
    weight = torch.randn(outputs, shape[1], size, size, generator=generator) / 10
    return x.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize("shape, outputs, size, settings", CASES.values(), ids=CASES)
@pytest.mark.parametrize("frozen", [(), (0,), (1,), (0, 1)], ids=str)
def test_values_and_gradients(shape, outputs, size, settings, frozen, chosen) -> None:
    results = []
    for function in (conv2d, F.conv2d):
        inputs = tensors(shape, outputs, size)
        for index in frozen:
            inputs[index].requires_grad_(False)
        wanted = [t for t in inputs if t.requires_grad]
        out = function(*inputs, **settings)
        results.append([out.detach()])
        if wanted:
            results[-1] += torch.autograd.grad(out.square().sum(), wanted)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    assert results[0][0].is_contiguous(memory_format=torch.channels_last)
    if len(frozen) == 0 and shape[1] >= 32:
        name = type(conv2d(*tensors(shape, outputs, size), **settings).grad_fn).__name__
        assert ("_Conv2d" in name) == chosen


def test_second_derivatives() -> None:
    results = []
    for function in (conv2d, F.conv2d):
        inputs = tensors((2, 32, 6, 5), 4, 3)
        out = function(*inputs, padding=(1, 1))
        first = torch.autograd.grad(out.pow(3).sum(), inputs, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), inputs))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())
