"""A tensor that is not computed yet: what its next reader folds into its own loading.

A `Deferred` goes between two modules that know it. Everything else sees the tensor itself: by
`__torch_function__` a call gets it computed, by autograd for once and all; what goes around that
(a `torch.autograd.Function`, hooks on the way back) finds its numbers by `__torch_dispatch__` and
its gradient by the graph's node that every `Deferred` has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from xception.fusion.calls import ADDITIONS, ADDITIONS_IN_PLACE, OF_THE_OBJECT, QUESTIONS
from xception.fusion.pending import Affine
from xception.fusion.promise import Promise, Work, evaluated, version_of
from xception.ops import merge
from xception.ops.eager import differentiable_gradients


class Deferred(Tensor):
    """(N, C, H, W), float32; `promise` says of what, and how it is computed.

    is_linked: gradients reach it through the tensors of its work, if at all
    """

    promise: Promise
    is_linked: bool

    @staticmethod
    def __new__(cls, promise: Promise, is_linked: bool = False) -> Deferred:
        n, c, h, w = promise.work.shape
        tensor: Deferred = Tensor._make_wrapper_subclass(
            cls,
            (n, c, h, w),
            strides=(h * w * c, 1, w * c, c),  # channels last, as it would be computed
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        tensor.promise = promise
        tensor.is_linked = is_linked
        return tensor

    @property
    def computed(self) -> Tensor | None:
        return self.promise.computed

    def compute(self) -> Tensor:
        """The tensor itself; from the first time on it is what everyone reads."""
        promise = self.promise
        if promise.computed is None:
            if self.is_cut():
                with torch.inference_mode(False), torch.enable_grad():
                    promise.computed = _Cut.apply(self)
            else:  # whoever asks first may be without gradients, others not
                promise.computed = evaluated(promise.work, has_graph=True)
        return promise.computed

    def is_cut(self) -> bool:
        """Whether it was made without gradients, and a `torch.autograd.Function` has returned it:
        then it has a gradient of which its work knows nothing."""
        return not self.is_linked and self.requires_grad

    def can_note_in_place(self) -> bool:
        """Whether an operation in place may be put off: not one that is kept out of the graph."""
        return torch.is_grad_enabled() or not self.requires_grad

    def becomes(self, y: Tensor) -> Tensor:
        """What an operation in place on it, with the result `y`, returns: all who hold the one or
        the other see what happens to either."""
        if type(y) is Deferred:
            self.promise.take(y.promise)
        else:
            self.promise.computed = y
        self._follow(y)
        return self if type(y) is Deferred else y

    def _follow(self, y: Tensor) -> None:
        if torch.is_grad_enabled() and y.requires_grad:
            with torch._C.DisableTorchFunctionSubclass():
                _Follow.apply(self, y)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        x = args[0] if args and type(args[0]) is Deferred else None
        if func in QUESTIONS and (x is None or x.computed is None or func in OF_THE_OBJECT):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        is_in_place = func in ADDITIONS_IN_PLACE
        if (is_in_place or func in ADDITIONS) and len(args) == 2 and not kwargs:
            total = _sum(args[0], args[1], is_in_place)
            if total is not None:
                return total
        version = version_of(x.compute()) if x is not None else None
        out = func(*_computed(tuple(args)), **_computed(dict(kwargs or {})))
        if x is not None and version != version_of(x.compute()):
            x._follow(x.compute())
        return out

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
            return Deferred(x.promise.detached(), is_linked=True)
        if func._schema.is_mutable and any(isinstance(a, Deferred) for a in args):
            raise RuntimeError(
                f"{func} would write into a tensor that `xception.fuse` has not computed; "
                "call xception.unfuse(model) to use this operation here"
            )
        return func(*_numbers(tuple(args)), **_numbers(dict(kwargs or {})))


class _Defer(torch.autograd.Function):
    """The graph's node of a `Deferred`, for those who do not know it."""

    @staticmethod
    def forward(ctx: Any, promise: Promise, *tensors: Tensor | None) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.work = promise.work.without_tensors()
        return Deferred(promise, is_linked=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]

        def value(*tensors: Tensor | None) -> Tensor:
            return evaluated(ctx.work.with_tensors(tensors), has_graph=True)

        if torch.is_grad_enabled():  # create_graph
            return None, *differentiable_gradients(value, ctx.saved_tensors, needed, (grad,))
        # Each by itself: scale and shift may depend on each other and on what raw depends on.
        leaves = [
            t if t is None else t.detach().requires_grad_(needs)
            for t, needs in zip(ctx.saved_tensors, needed, strict=True)
        ]
        wanted = [t for t in leaves if t is not None and t.requires_grad]
        found = iter(torch.autograd.grad(value(*leaves), wanted, grad))
        return None, *(next(found) if needs else None for needs in needed)


class _Follow(torch.autograd.Function):
    """The graph's node of a `Deferred` after an operation in place on it: that of the result."""

    @staticmethod
    def forward(ctx: Any, x: Deferred, y: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, grad


class _Cut(torch.autograd.Function):
    """The numbers of a `Deferred` that is cut, with the gradient that it has of its own."""

    @staticmethod
    def forward(ctx: Any, x: Deferred) -> Tensor:
        return evaluated(x.promise.work, has_graph=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def defer(work: Work) -> Tensor:
    """A tensor that stands for the result of `work`."""
    tensors, promise = work.tensors(), Promise(work)
    if not any(t is not None and t.requires_grad for t in tensors):
        return Deferred(promise)
    if torch.is_grad_enabled():
        return _Defer.apply(promise, *tensors)
    return Deferred(promise.detached())


def work_of(x: Tensor) -> Work:
    """What there is to do for `x`; nothing for a tensor that is there."""
    if type(x) is not Deferred:
        return Affine(x)
    if x.computed is None and not x.is_cut():
        return x.promise.work
    return Affine(x.compute())


def computed(x: Tensor) -> Tensor:
    """`x` as an ordinary tensor."""
    return x.compute() if type(x) is Deferred else x


def _computed(tree: Any) -> Any:
    return tree_map_only(Deferred, Deferred.compute, tree)


def _numbers(tree: Any) -> Any:
    return tree_map_only(Deferred, _numbers_of, tree)


def _numbers_of(x: Deferred) -> Tensor:
    if x.computed is None:
        return evaluated(x.promise.work, has_graph=False)
    return x.computed.detach()


def _sum(a: Any, b: Any, is_in_place: bool) -> Tensor | None:
    """a + b in one pass, where both have one shape and one of them is only normalized."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape:
        return None
    if a.dtype != b.dtype or a.device != b.device:
        return None
    if is_in_place and not (type(a) is Deferred and a.can_note_in_place()):
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
    return a.becomes(total) if is_in_place and type(a) is Deferred else total


def _is_normalized(work: Work) -> bool:
    return isinstance(work, Affine) and work.scale is not None and work.activation == "none"
