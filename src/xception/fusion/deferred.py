"""A tensor that is not computed yet: what its next reader folds into its own loading.

A `Deferred` goes between two modules that know it. Everything else sees the tensor itself: by
`__torch_function__` a call gets it computed, by autograd for once and all; what goes around that
(a `torch.autograd.Function`, hooks on the way back) finds its numbers by `__torch_dispatch__` and
its gradient by the graph's node that every `Deferred` has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from xception.fusion.calls import ADDITIONS, ADDITIONS_IN_PLACE, QUESTIONS
from xception.fusion.pending import Affine, Filtered
from xception.ops import merge

Work: TypeAlias = Affine | Filtered


class Deferred(Tensor):
    """(N, C, H, W), float32; `work` says of what, and how it is computed.

    is_linked: gradients reach it through the tensors of `work`, if at all
    """

    work: Work
    computed: Tensor | None
    is_linked: bool

    @staticmethod
    def __new__(cls, work: Work, is_linked: bool = False) -> Deferred:
        n, c, h, w = work.shape
        tensor: Deferred = Tensor._make_wrapper_subclass(
            cls,
            (n, c, h, w),
            strides=(h * w * c, 1, w * c, c),  # channels last, as it would be computed
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        tensor.work = work
        tensor.computed = None
        tensor.is_linked = is_linked
        return tensor

    def compute(self) -> Tensor:
        """The tensor itself; from the first time on it is what everyone reads."""
        if self.computed is None:
            with torch.enable_grad():  # whoever asks first may be without, others not
                self.computed = _Cut.apply(self) if self.is_cut() else self.work.compute()
        return self.computed

    def is_cut(self) -> bool:
        """Whether it was made without gradients, and a `torch.autograd.Function` has returned it:
        then it has a gradient of which `work` knows nothing."""
        return not self.is_linked and self.requires_grad

    def becomes(self, y: Tensor) -> None:
        """After an operation in place: what its other holders read from now on."""
        if type(y) is Deferred:
            self.work, self.computed = y.work, y.computed
        else:
            self.computed = y

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in QUESTIONS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        is_in_place = func in ADDITIONS_IN_PLACE
        if (is_in_place or func in ADDITIONS) and len(args) == 2 and not kwargs:
            total = _sum(args[0], args[1], is_in_place)
            if total is not None:
                return total
        return func(*_computed(tuple(args)), **_computed(dict(kwargs or {})))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # Below autograd: the numbers alone count here, and must not be kept for those above it.
        x = args[0] if args else None
        if func is torch.ops.aten.detach.default and type(x) is Deferred and x.computed is None:
            # How autograd saves a tensor: what checkpointing reads again is to be read as before.
            return Deferred(x.work.with_tensors(_detached(x.work)), is_linked=True)
        if func._schema.is_mutable and any(isinstance(a, Deferred) for a in args):
            raise RuntimeError(
                f"{func} would write into a tensor that `xception.fuse` has not computed; "
                "call xception.unfuse(model) to use this operation here"
            )
        return func(*_numbers(tuple(args)), **_numbers(dict(kwargs or {})))


class _Defer(torch.autograd.Function):
    """The graph's node of a `Deferred`, for those who do not know it."""

    @staticmethod
    def forward(ctx: Any, work: Work, *tensors: Tensor | None) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.work = work.without_tensors()
        return Deferred(work, is_linked=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        create_graph = torch.is_grad_enabled()
        # Each by itself: scale and shift may depend on each other and on what raw depends on.
        leaves = [
            t if t is None else t.view_as(t) if create_graph else t.detach().requires_grad_(needs)
            for t, needs in zip(ctx.saved_tensors, needed)
        ]
        with torch.enable_grad():
            out = ctx.work.with_tensors(leaves).compute()
        wanted = [t for t, needs in zip(leaves, needed) if t is not None and needs]
        found = iter(torch.autograd.grad(out, wanted, grad, create_graph=create_graph))
        return None, *(next(found) if needs else None for needs in needed)


class _Cut(torch.autograd.Function):
    """The numbers of a `Deferred` that is cut, with the gradient that it has of its own."""

    @staticmethod
    def forward(ctx: Any, x: Deferred) -> Tensor:
        return x.work.compute()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def defer(work: Work) -> Tensor:
    """A tensor that stands for the result of `work`."""
    tensors = work.tensors()
    if not any(t is not None and t.requires_grad for t in tensors):
        return Deferred(work)
    if torch.is_grad_enabled():
        return _Defer.apply(work, *tensors)
    return Deferred(work.with_tensors(_detached(work)))


def _detached(work: Work) -> list[Tensor | None]:
    return [t if t is None else t.detach() for t in work.tensors()]


def work_of(x: Tensor) -> Work:
    """What there is to do for `x`; nothing for a tensor that is there."""
    if type(x) is not Deferred:
        return Affine(x)
    if x.computed is None and not x.is_cut():
        return x.work
    return Affine(x.compute())


def computed(x: Tensor) -> Tensor:
    """`x` as an ordinary tensor."""
    return x.compute() if type(x) is Deferred else x


def _computed(tree: Any) -> Any:
    return tree_map_only(Deferred, Deferred.compute, tree)


def _numbers(tree: Any) -> Any:
    return tree_map_only(Deferred, _numbers_of, tree)


@torch.no_grad()
def _numbers_of(x: Deferred) -> Tensor:
    return x.work.compute() if x.computed is None else x.computed.detach()


def _sum(a: Any, b: Any, is_in_place: bool) -> Tensor | None:
    """a + b in one pass, where both have one shape and one of them is only normalized."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape:
        return None
    if a.dtype != b.dtype or a.device != b.device or (is_in_place and type(a) is not Deferred):
        return None
    first, second = work_of(a), work_of(b)
    if not _is_normalized(first):
        if is_in_place:
            return None
        first, second, b = second, first, a
    if not isinstance(first, Affine) or not _is_normalized(first):
        return None
    if not isinstance(second, Affine) or second.activation != "none":
        second = Affine(computed(b))
    assert first.scale is not None and first.shift is not None
    total = merge(first.raw, first.scale, first.shift, second.raw, second.scale, second.shift)
    if is_in_place and type(a) is Deferred:
        a.computed = total  # what its other holders are to see from now on
    return total


def _is_normalized(work: Work) -> bool:
    return isinstance(work, Affine) and work.scale is not None and work.activation == "none"
