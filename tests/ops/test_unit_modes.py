"""`separable_unit` in torch's modes: compiled, checkpointed, transformed, threaded, forked."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from xception.ops import separable_unit, set_kernels
from xception.ops.kernels import can_use_kernels

GEOMETRY = ([2, 1], [0, 1, 2, 1], [1, 2])
PLAIN = {"activation": "relu", "padding": 1}


def leaves(unit: Any) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in unit.tensors.values()]


def total(*tensors: Tensor) -> Tensor:
    """One number in which all three outputs have a part."""
    y, mean, var = separable_unit(*tensors, **PLAIN)
    return y.square().mean() + mean.sin().sum() + var.sqrt().sum()


@pytest.mark.parametrize("missing, statistics", [
    ((), True),
    (("in_scale", "in_shift", "pointwise"), True),
    (("depthwise",), False),
])  # fmt: skip
@pytest.mark.usefixtures("instruction_sets")
def test_opcheck(make_unit: Callable[..., Any], missing: tuple[str, ...], statistics: bool) -> None:
    """torch.library's own checks: the schema, the shapes it promises, autograd, compiling."""
    unit = make_unit((2, 3, 8, 7), 4, (3, 3))
    for name in missing:
        unit.tensors[name] = None
    tensors = [t if t is None else t.requires_grad_() for t in unit.tensors.values()]
    arguments = (*tensors[:3], "relu", *tensors[3:], *GEOMETRY, statistics)
    torch.library.opcheck(torch.ops.xception.separable_unit, arguments)


@pytest.mark.parametrize("needs_x", [True, False])
def test_opcheck_of_the_backward_operator(
    instruction_sets: list[str], make_unit: Any, needs_x: bool
) -> None:
    unit = make_unit((2, 3, 8, 7), 4, (3, 3), stride=(2, 1), padding=(0, 1, 2, 1), dilation=(1, 2))
    x, scale, shift, depthwise, pointwise = unit.tensors.values()
    y, mean, _ = unit.call()
    grad_y = torch.ones_like(y, memory_format=torch.contiguous_format)
    torch.library.opcheck(
        torch.ops.xception.separable_unit_backward,
        (
            grad_y, mean, None, y, mean, x.contiguous(), scale, shift, "relu", depthwise,
            pointwise, *GEOMETRY, needs_x,
        ),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


def test_compiles_into_one_graph(
    instruction_sets: list[str], make_unit: Callable[..., Any]
) -> None:
    """Forward and backward, with the operator in the graph and the same bits."""
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    torch.compiler.reset()
    unit = make_unit((2, 33, 9, 8), 40, (3, 3))
    eager, compiled = leaves(unit), leaves(unit)
    expected = total(*eager)
    out = torch.compile(total, fullgraph=True, backend=backend)(*compiled)
    assert any("xception.separable_unit" in target for target in seen)
    assert torch.equal(out, expected)
    for ours, theirs in zip(
        torch.autograd.grad(out, compiled), torch.autograd.grad(expected, eager)
    ):
        assert torch.equal(ours, theirs)


def test_one_compiled_graph_serves_sizes_that_vary(
    instruction_sets: list[str], make_unit: Callable[..., Any]
) -> None:
    torch.compiler.reset()
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager", dynamic=True)
    for height, width in ((9, 8), (12, 15)):
        tensors = make_unit((2, 33, height, width), 40, (3, 3)).tensors.values()
        assert torch.equal(compiled(*tensors), total(*tensors))


def test_checkpointing_changes_no_bit(
    instruction_sets: list[str], make_unit: Callable[..., Any]
) -> None:
    unit = make_unit((2, 33, 9, 8), 40, (3, 3))
    kept, again = leaves(unit), leaves(unit)
    expected = torch.autograd.grad(total(*kept), kept)
    found = torch.autograd.grad(checkpoint(total, *again, use_reentrant=False), again)
    for ours, theirs in zip(found, expected):
        assert torch.equal(ours, theirs)


def test_saved_tensors_may_come_back_in_another_layout(
    instruction_sets: list[str], make_unit: Callable[..., Any]
) -> None:
    """As torch.autograd.graph.save_on_cpu with pinned memory hands them back."""
    unit = make_unit((2, 33, 9, 8), 40, (3, 3))
    kept, copied = leaves(unit), leaves(unit)
    expected = torch.autograd.grad(total(*kept), kept)
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous().clone(), lambda t: t)
    with hooks:
        out = total(*copied)
    for ours, theirs in zip(torch.autograd.grad(out, copied), expected):
        assert torch.equal(ours, theirs)


def test_inference_mode(instruction_sets: list[str], make_unit: Callable[..., Any]) -> None:
    unit = make_unit((2, 33, 9, 8), 40, (3, 3))
    expected = unit.call()
    with torch.inference_mode():
        found = unit.call()
    for ours, theirs in zip(found, expected):
        assert torch.equal(ours, theirs)


def test_autocast_is_plain_torch(
    instruction_sets: list[str], make_unit: Callable[..., Any]
) -> None:
    unit = make_unit((2, 33, 9, 8), 40, (3, 3), **PLAIN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not can_use_kernels(*unit.tensors.values())
        found = unit.call()
        before = set_kernels("off")
        expected = unit.call()
        set_kernels(before)
    assert found[0].dtype == torch.bfloat16
    for ours, theirs in zip(found, expected):
        assert torch.equal(ours, theirs)


def test_transforms_and_forward_mode_are_plain_torch(
    instruction_sets: list[str], make_unit: Callable[..., Any]
) -> None:
    """A registered operator would have no part in forward mode: a tangent of zero, silently."""
    unit = make_unit((2, 33, 9, 8), 40, (3, 3))
    tensors = list(unit.tensors.values())
    tangents = [torch.ones_like(t) for t in tensors]
    used = leaves(unit)
    along = sum(g.sum() for g in torch.autograd.grad(total(*used), used))
    _, tangent = torch.func.jvp(total, tuple(tensors), tuple(tangents))
    torch.testing.assert_close(tangent, along, rtol=1e-3, atol=1e-3)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, d) for t, d in zip(tensors, tangents)]
        _, tangent = forward_ad.unpack_dual(total(*duals))
    torch.testing.assert_close(tangent, along, rtol=1e-3, atol=1e-3)
    gradient = torch.func.grad(total)(*tensors)
    torch.testing.assert_close(gradient, torch.autograd.grad(total(*used), used)[0])


@pytest.mark.parametrize("shift_from_scale", [False, True])
def test_second_derivatives_are_those_of_plain_torch(
    instruction_sets: list[str], make_unit: Callable[..., Any], shift_from_scale: bool
) -> None:
    """The kernels have none; asked for a graph of the gradients, the reference makes it.

    A batch normalization's shift is computed from its scale.
    """
    unit = make_unit((2, 33, 9, 8), 40, (3, 3))

    def second() -> list[Tensor]:
        tensors = leaves(unit)
        x, scale, shift, *weights = tensors
        if shift_from_scale:
            shift = shift - scale * x.mean((0, 2, 3))
        value = total(x, scale, shift, *weights)
        first = torch.autograd.grad(value, tensors, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), tensors))

    found = second()
    before = set_kernels("off")
    try:
        expected = second()
    finally:
        set_kernels(before)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_statistics_left_out_have_no_gradients(instruction_set: str) -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    y, mean, var = separable_unit(x, None, None, None, None, statistics=False)
    assert y.requires_grad and not mean.requires_grad and not var.requires_grad

    class Nothing(torch.autograd.Function):
        """A gradient of nothing arrives at what is before it."""

        @staticmethod
        def forward(ctx: Any, y: Tensor) -> Tensor:
            return y.sum()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> None:
            return None

    for create_graph in (False, True):
        (grad,) = torch.autograd.grad(
            Nothing.apply(y) + x.sum(), x, retain_graph=True, create_graph=create_graph
        )
        assert torch.equal(grad, torch.ones_like(x))


def test_two_threads_of_python_at_once(
    instruction_sets: list[str], make_unit: Callable[..., Any]
) -> None:
    """The kernels run without Python's lock; scratch memory is each thread's own."""
    shapes = {"small": ((2, 33, 9, 8), 40), "large": ((2, 64, 30, 31), 64)}
    units = {name: make_unit(*shape, (3, 3)) for name, shape in shapes.items()}

    def gradients(name: str) -> list[Tensor]:
        tensors = leaves(units[name])
        return list(torch.autograd.grad(total(*tensors), tensors))

    expected = {name: gradients(name) for name in units}
    wrong: list[str] = []
    start = threading.Barrier(len(units))

    def work(name: str) -> None:
        start.wait()
        found = [gradients(name) for _ in range(10)]
        wrong.extend(name for f in found if not all(map(torch.equal, f, expected[name])))

    workers = [threading.Thread(target=work, args=(name,)) for name in units]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


class Filtered(Dataset[Tensor]):
    """Each element is computed by the operator, where it is asked for."""

    def __init__(self, unit: Any) -> None:
        self.unit = unit

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        y, _, _ = self.unit.call()
        return y * (index + 1)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_worker_does_not_hang(
    instruction_sets: list[str], make_unit: Callable[..., Any], threads: Callable[[int], None]
) -> None:
    """After the parent used the kernels with two threads, which a fork does not take along."""
    unit = make_unit((2, 64, 40, 37), 64, (3, 3), **PLAIN)
    threads(2)
    expected, _, _ = unit.call()
    loader = DataLoader(
        Filtered(unit), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    for index, found in enumerate(loader):
        assert torch.equal(found, expected * (index + 1))


def test_turned_off_between_forward_and_backward(
    instruction_sets: list[str], make_unit: Callable[..., Any]
) -> None:
    tensors = leaves(make_unit((2, 33, 9, 8), 40, (3, 3)))
    expected = torch.autograd.grad(total(*tensors), tensors)
    loss = total(*tensors)
    set_kernels("off")
    for ours, before in zip(torch.autograd.grad(loss, tensors), expected):
        assert torch.equal(ours, before)
