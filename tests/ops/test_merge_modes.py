"""`merge` in torch's modes, with other dtypes and layouts, and the errors it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from xception.ops import merge, set_kernels

POOL = (3, 3, 2, 2, 0, 1, 1, 1, 1, 1)
KINDS = ("none", "plain", "scaled")  # of skip connection


def inputs(kind: str = "scaled", dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """y (2, 33, 8, 9), scale, shift; with a skip connection that as well, and its own two."""
    generator = torch.Generator().manual_seed(0)
    count = 3 + KINDS.index(kind) + (kind == "scaled")
    shapes = [(2, 33, 8, 9), (33,), (33,), (2, 33, 4, 5), (33,), (33,)][:count]
    return [torch.randn(*s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def total(*tensors: Tensor, activation: str = "relu") -> Tensor:
    return merge(*tensors, pool=POOL, activation=activation).sin().sum()


def gradients(function: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(function(*tensors), tensors))


@pytest.mark.usefixtures("instruction_sets")
@pytest.mark.parametrize("kind, pool", [("scaled", POOL), ("plain", ()), ("none", POOL)])
def test_opcheck(kind: str, pool: tuple[int, ...]) -> None:
    """torch.library's own checks: the schema, the shapes it promises, autograd, compiling."""
    tensors = inputs(kind)
    if kind == "plain":
        tensors[3] = torch.randn(2, 33, 8, 9, requires_grad=True)
    arguments = (*tensors, *[None] * (6 - len(tensors)), list(pool), "relu")
    torch.library.opcheck(torch.ops.xception.merge, arguments)


@pytest.mark.usefixtures("instruction_sets")
def test_compiles_into_one_graph() -> None:
    torch.compiler.reset()
    tensors = inputs()
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(gradients(compiled, tensors), gradients(total, tensors)):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_no_bit(instruction_set: str, kind: str) -> None:
    tensors = inputs(kind)

    def again(*tensors: Tensor) -> Tensor:
        return checkpoint(total, *tensors, use_reentrant=False)

    for ours, theirs in zip(gradients(again, tensors), gradients(total, tensors)):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("instruction_sets")
@pytest.mark.parametrize("kind", KINDS)
def test_saved_tensors_may_come_back_in_another_layout(kind: str) -> None:
    """As torch.autograd.graph.save_on_cpu with pinned memory hands them back."""
    tensors = inputs(kind)
    expected = gradients(total, tensors)
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous().clone(), lambda t: t)
    with hooks:
        out = total(*tensors)
    for ours, theirs in zip(torch.autograd.grad(out, tensors), expected):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("layout", ["channels first", "misaligned", "expanded"])
def test_memory_layouts_change_nothing(instruction_set: str, layout: str) -> None:
    def laid_out(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if layout == "channels first":
            return tensor.contiguous()
        if layout == "expanded":
            return tensor[:1].expand(tensor.shape)
        room = torch.empty(tensor.numel() + 1)
        return room[1:].as_strided(tensor.shape, tensor.stride(), 1).copy_(tensor)

    plain = [
        t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in inputs()
    ]
    given = [laid_out(t).requires_grad_() for t in plain]
    dense = [t.detach().clone(memory_format=torch.contiguous_format) for t in given]
    dense = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in dense]
    dense = [t.requires_grad_() for t in dense]
    arriving = laid_out(dense[3])
    out, expected = (merge(*t, pool=POOL, activation="relu") for t in (given, dense))
    assert torch.equal(out, expected)
    assert out.is_contiguous(memory_format=torch.channels_last)
    ours = torch.autograd.grad(out, given, arriving)
    for found, wanted in zip(ours, torch.autograd.grad(expected, dense, arriving.clone())):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_its_output_may_be_written_to(instruction_set: str, kind: str) -> None:
    """Without an activation nothing of it is kept: an in-place ReLU behind it is in order."""
    tensors = inputs(kind)

    def written(*tensors: Tensor) -> Tensor:
        return merge(*tensors, pool=POOL).relu_().sin().sum()

    for ours, theirs in zip(gradients(written, tensors), gradients(total, tensors)):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("only_skip", [False, True])
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_skip_added_as_it_is_may_be_written_to(
    instruction_set: str, only_skip: bool, create_graph: bool
) -> None:
    """As in plain torch, whose sum keeps nothing."""
    seconds = []
    for name in (instruction_set, "off"):
        set_kernels(name)
        y, scale, shift, skip = inputs("plain")
        if only_skip:
            y, scale, shift = (t.detach() for t in (y, scale, shift))
        leaves = [t for t in (y, scale, shift, skip) if t.requires_grad]
        kept = skip * 1
        out = merge(y, scale, shift, kept, pool=POOL).square()
        kept.mul_(2)
        grads = torch.autograd.grad(out.sum() + kept.sum(), leaves, create_graph=create_graph)
        seconds.append(list(grads))
        if create_graph:
            seconds[-1] += torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)
    torch.testing.assert_close(*seconds, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_plain_torch(instruction_set: str, dtype: torch.dtype) -> None:
    out = merge(*inputs(dtype=dtype), pool=POOL, activation="relu")
    assert out.dtype == dtype and "xception" not in type(out.grad_fn).__name__.lower()


def test_autocast_is_plain_torch(instruction_set: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = merge(*inputs(), pool=POOL)
        set_kernels("off")
        assert torch.equal(out, merge(*inputs(), pool=POOL))


@pytest.mark.usefixtures("instruction_sets")
def test_transforms_and_forward_mode_are_plain_torch() -> None:
    """A registered operator would have no part in forward mode: a tangent of zero, silently."""
    tensors = inputs()
    along = sum(g.sum() for g in gradients(total, tensors))
    primals = tuple(t.detach() for t in tensors)
    _, tangent = torch.func.jvp(total, primals, tuple(map(torch.ones_like, primals)))
    torch.testing.assert_close(tangent, along, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(0, 33, 8, 9), (2, 0, 8, 9)])
def test_nothing_to_merge(instruction_set: str, shape: tuple[int, ...]) -> None:
    vector = torch.zeros(shape[1])
    assert merge(torch.zeros(shape), vector, vector).shape == shape


@pytest.mark.parametrize(
    "change, message",
    [
        ({"y": torch.zeros(3, 4, 4)}, r"y must be \(N, C, H, W\), got \(3, 4, 4\)"),
        ({"scale": torch.zeros(4)}, r"scale must be \(3,\), got \(4,\)"),
        ({"shift": torch.zeros(1, 3)}, r"shift must be \(3,\), got \(1, 3\)"),
        ({"skip": torch.zeros(1, 3, 4, 5)}, r"skip must be \(1, 3, 4, 4\), got \(1, 3, 4, 5\)"),
        ({"skip_scale": torch.zeros(3)}, "skip_scale and skip_shift come together, or neither"),
        ({"skip_shift": torch.zeros(3)}, "skip_scale and skip_shift come together, or neither"),
        (
            {"skip_scale": torch.zeros(2), "skip_shift": torch.zeros(3)},
            r"skip_scale must be \(3,\), got \(2,\)",
        ),
        (
            {"skip": None, "skip_scale": torch.zeros(3), "skip_shift": torch.zeros(3)},
            "skip_scale and skip_shift need a skip",
        ),
        ({"activation": "elu"}, r"activation must be one of .*'relu6'.*, got 'elu'"),
        ({"pool": (3, 3)}, "pool must have no or ten numbers, got 2"),
        ({"pool": (0, 3, 1, 1, 0, 0, 0, 0, 1, 1)}, "pool must have kernel, stride and dilation of"),
        ({"pool": (3, 3, 1, 0, 0, 0, 0, 0, 1, 1)}, "pool must have kernel, stride and dilation of"),
        ({"pool": (3, 3, 1, 1, 0, 0, 0, 0, 0, 1)}, "pool must have kernel, stride and dilation of"),
        ({"pool": (3, 3, 1, 1, 0, -1, 0, 0, 1, 1)}, "no negative padding, got"),
        ({"pool": (5, 3, 1, 1, 0, 0, 0, 0, 1, 1)}, r"pool .* is larger than y of \(4, 4\) pixels"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "y": torch.zeros(1, 3, 4, 4),
        "scale": torch.zeros(3),
        "shift": torch.zeros(3),
        "skip": torch.zeros(1, 3, 4, 4),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        merge(**arguments)
