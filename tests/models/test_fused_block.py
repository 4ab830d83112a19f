"""The fused way through blocks and tail: the numbers of the modules' own forward.

Rounding can change which value wins a pool, or the side of zero it lies on; the gradient then takes
another way. In one block of some ten thousand values that is rare (and does not happen with these
seeds): there gradients are held to rounding. In a whole network in training it happens to plain
torch, too, which says what is allowed there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from xception import create_model
from xception.models.tail import Tail
from xception.models.xception import XceptionBody
from xception.ops import set_kernels
from xception.ops.kernels import usable_names

BLOCK = 2e-5  # of the largest value: a few hundred of float32's roundings, in a few layers
FLIPPED = 2e-2  # of a network's whole gradient: what some values on the other side of zero change


@pytest.fixture(params=usable_names() or ["none"])
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "none":
        pytest.skip("the compiled kernels are not built here")
    before = set_kernels(request.param)
    yield request.param
    set_kernels(before)


@dataclass
class Results:
    out: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


def results(module: nn.Module, x: Tensor, dtype: torch.dtype, *, training: bool) -> Results:
    """Of one step of a copy; the gradient that arrives is the same each time."""
    module = copy.deepcopy(module).to(dtype).train(training)
    leaf = x.to(dtype).requires_grad_()
    out = module(leaf)
    arriving = torch.randn(out.shape, generator=torch.Generator().manual_seed(7))
    wanted = {"x": leaf, **dict(module.named_parameters())}
    grads = torch.autograd.grad(out, list(wanted.values()), arriving.to(dtype))
    buffers = {name: b.double() for name, b in module.named_buffers()}
    return Results(out.detach(), dict(zip(wanted, grads)), buffers)


class Operators(TorchDispatchMode):
    """Notes which of our operators are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "xception":
            self.names.append(func._schema.name.removeprefix("xception::"))
        return func(*args, **(kwargs or {}))


def operators(module: nn.Module, x: Tensor) -> list[str]:
    with torch.no_grad(), Operators() as noted:
        module(x)
    return noted.names


def warmed_up(name: str, shape: tuple[int, ...], **settings: Any) -> nn.Module:
    """A network whose running statistics and weights are not those of the start."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, **settings)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.5)
            norm.momentum = 0.5
    with torch.no_grad():
        model(torch.randn(shape))
    return model


def largest_error(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).abs().max() / exact.abs().max()).item()


def norm_error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Of all tensors as one vector, relative."""
    pairs = [(found[name].double().flatten(), e.double().flatten()) for name, e in exact.items()]
    a, b = (torch.cat(list(side)) for side in zip(*pairs))
    return ((a - b).norm() / b.norm()).item()


BLOCKS = [  # network, its settings, block, sides of the block's input
    pytest.param("xception_tiny", {}, "entry_flow.0", (9, 8), id="no leading ReLU"),
    pytest.param("xception_tiny", {}, "entry_flow.1", (10, 8), id="pool, even sides"),
    pytest.param("xception_tiny", {}, "entry_flow.1", (9, 11), id="pool, odd sides"),
    pytest.param("xception_tiny", {"padding": "torch"}, "entry_flow.1", (10, 9), id="torch"),
    pytest.param("xception_tiny", {}, "middle_flow.0", (7, 6), id="identity skip"),
    pytest.param("xception_tiny", {}, "middle_flow.1", (1, 2), id="two pixels"),
    pytest.param("xception_tiny", {"residual": False}, "middle_flow.0", (7, 6), id="no skip"),
    pytest.param("xception_tiny", {"residual": False}, "exit_flow.0", (7, 6), id="pool, no skip"),
    pytest.param("xception_tiny", {"output_stride": 2}, "exit_flow.0", (9, 8), id="dilated pool"),
    pytest.param("xception_small", {}, "tail", (4, 5), id="tail"),
    pytest.param("xception", {}, "tail", (3, 2), id="tail of two"),
    pytest.param("xception41", {}, "entry_flow.0", (9, 8), id="aligned, stride"),
    pytest.param("xception41", {"padding": "keras"}, "entry_flow.1", (7, 6), id="aligned, keras"),
    pytest.param("xception41", {}, "middle_flow.0", (5, 4), id="aligned, identity skip"),
    pytest.param(
        "xception41", {"output_stride": 8}, "middle_flow.0", (5, 4), id="aligned, dilated"
    ),
    pytest.param("xception41", {}, "exit_flow.1", (3, 4), id="aligned, inner ReLUs"),
    pytest.param("xception41p", {}, "entry_flow.0", (9, 8), id="pre-activation, stride"),
    pytest.param("xception41p", {}, "middle_flow.0", (5, 4), id="pre-activation, identity skip"),
    pytest.param("xception41p", {}, "exit_flow.1", (3, 4), id="pre-activation, no skip"),
]


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("name, settings, path, sides", BLOCKS)
def test_one_block(
    kernels: str,
    name: str,
    settings: dict[str, Any],
    path: str,
    sides: tuple[int, int],
    training: bool,
) -> None:
    """Output, all gradients and buffers against float64."""
    block = warmed_up(name, (2, 3, 71, 71), **settings).get_submodule(path)
    channels = next(m for m in block.modules() if isinstance(m, nn.Conv2d)).in_channels
    x = torch.randn(2, channels, *sides, generator=torch.Generator().manual_seed(3))
    assert "separable_unit" in operators(copy.deepcopy(block), x)
    exact = results(block, x, torch.float64, training=training)
    found = results(block, x, torch.float32, training=training)
    assert largest_error(found.out, exact.out) <= BLOCK
    largest = max(gradient.abs().max() for gradient in exact.gradients.values())
    for key, gradient in exact.gradients.items():
        if gradient.abs().max() < 1e-12 * largest:  # an offset that the next normalization undoes
            assert found.gradients[key].abs().max() <= BLOCK * largest, key
        else:
            assert largest_error(found.gradients[key], gradient) <= BLOCK, key
    for key, buffer in exact.buffers.items():
        assert largest_error(found.buffers[key], buffer) <= BLOCK, key


NETWORKS = [
    pytest.param("xception", {}, (2, 3, 75, 90), id="xception"),
    pytest.param(
        "xception", {"padding": "torch", "output_stride": 8}, (2, 3, 72, 71), id="torch-8"
    ),
    pytest.param("xception_tiny", {"padding": "torch"}, (4, 3, 33, 30), id="tiny-torch"),
    pytest.param("xception_tiny", {"output_stride": 2}, (4, 3, 28, 17), id="tiny-2"),
    pytest.param("xception_small", {}, (4, 3, 28, 31), id="small"),
    pytest.param("xception_small", {"residual": False}, (4, 3, 28, 32), id="no-residual"),
    pytest.param("mini_xception", {"in_channels": 1}, (4, 1, 48, 47), id="mini"),
    pytest.param("xception41", {}, (2, 3, 66, 75), id="aligned"),
    pytest.param("xception41p", {"output_stride": 16}, (2, 3, 66, 75), id="pre-activation"),
]


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("name, settings, shape", NETWORKS)
def test_a_network_is_as_near_to_float64_as_plain_torch(
    name: str, settings: dict[str, Any], shape: tuple[int, ...], training: bool
) -> None:
    if not usable_names():
        pytest.skip("the compiled kernels are not built here")
    model = warmed_up(name, shape, **settings)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    exact = results(model, x, torch.float64, training=training)
    before = set_kernels("off")
    plain = results(model, x, torch.float32, training=training)
    set_kernels("auto")
    called = operators(copy.deepcopy(model), x)
    found = results(model, x, torch.float32, training=training)
    set_kernels(before)
    blocks = [stage for name, stage in model.stages() if "flow" in name]
    if name == "xception41p":  # nothing to normalize at a block's end
        skips = [block.skip for block in blocks if isinstance(block.skip, nn.Conv2d)]
        assert called == ["separable_unit"] * (3 * len(blocks) + len(skips))
    else:
        has_tail = isinstance(model.tail, Tail) and len(model.tail) > 1
        inside_stem = len(model.stem) // 3 - 1 if isinstance(model, XceptionBody) else 0
        assert called.count("merge") == len(blocks) + has_tail + inside_stem
    # Roundings are others than plain torch's, not more: a few times as far is chance.
    allowed = 4 * largest_error(plain.out, exact.out) + 1e-6
    assert largest_error(found.out, exact.out) <= allowed
    allowed = max(4 * norm_error(plain.buffers, exact.buffers), 1e-6)
    assert norm_error(found.buffers, exact.buffers) <= allowed
    assert norm_error(found.gradients, exact.gradients) <= FLIPPED
    for key, count in found.buffers.items():
        if key.endswith("num_batches_tracked"):
            assert count == exact.buffers[key]


@pytest.mark.parametrize("settings", [
    {"segments": 4}, {"intermediate_activation": "relu"}, {"intermediate_activation": "elu"},
])  # fmt: skip
def test_what_is_not_served_is_not_touched(settings: dict[str, Any]) -> None:
    """Not one operator is called, and every bit is plain torch's."""
    shape = (2, 3, 32, 32)
    model = warmed_up("xception_tiny", shape, **settings)
    x = torch.randn(shape)
    before = set_kernels("off")
    expected = results(model, x, torch.float32, training=True)
    set_kernels("auto")
    assert operators(copy.deepcopy(model), x) == []
    found = results(model, x, torch.float32, training=True)
    set_kernels(before)
    assert torch.equal(found.out, expected.out)
    for key, gradient in expected.gradients.items():
        assert torch.equal(found.gradients[key], gradient), key


def test_other_dtypes_and_autocast_are_not_touched() -> None:
    model = warmed_up("xception_tiny", (2, 3, 32, 32))
    x = torch.randn(2, 3, 32, 32)
    assert operators(copy.deepcopy(model).double(), x.double()) == []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert operators(model, x) == []
