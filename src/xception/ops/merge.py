"""`merge`: how a block ends. Normalization, max pool, skip connection and activation in one pass.

Legend: n batch, c channels, h w height and width of y, p q those of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, library

from xception.ops import reference
from xception.ops.eager import differentiable_gradients, is_ordinary, wants_gradients
from xception.ops.geometry import output_size
from xception.ops.kernels import address, can_use_kernels, required_kernels
from xception.ops.region import empty_map

# In the order of the kernels' enumeration; those whose gradient follows from what they give.
ACTIVATIONS = ("none", "relu", "relu6")
LARGEST_POOL = 9  # pixels a side; larger ones are plain torch's


def merge(
    y: Tensor,
    scale: Tensor,
    shift: Tensor,
    skip: Tensor | None = None,
    skip_scale: Tensor | None = None,
    skip_shift: Tensor | None = None,
    *,
    pool: Sequence[int] = (),
    activation: str = "none",
) -> Tensor:
    """activation(max_pool(y * scale + shift) + skip * skip_scale + skip_shift).

    y: (N, C, H, W), channels-last preferred; scale, shift: (C,)
    skip: (N, C, P, Q) or None; skip_scale, skip_shift: (C,), or both None: skip as it is
    pool: () for none, or the max pool's kernel_h, kernel_w, stride_h, stride_w, top, bottom, left,
        right (its padding, which never wins), dilation_h, dilation_w
    out: (N, C, P, Q); without a pool P, Q = H, W

    Raises ValueError naming the argument when shapes do not fit together.
    """
    _check(y, scale, shift, skip, skip_scale, skip_shift, pool, activation)
    arguments = (y, scale, shift, skip, skip_scale, skip_shift, list(pool), activation)
    tensors = (y, scale, shift, skip, skip_scale, skip_shift)
    if y.numel() > 0 and _is_served(y, pool) and can_use_kernels(*tensors):
        if not is_ordinary(*tensors):
            return torch.ops.xception.merge(*arguments)[0]
        run = XceptionMerge.apply if wants_gradients(*tensors) else _compute
        return run(*arguments)[0]
    return reference.merge(*arguments)


def _check(
    y: Tensor,
    scale: Tensor,
    shift: Tensor,
    skip: Tensor | None,
    skip_scale: Tensor | None,
    skip_shift: Tensor | None,
    pool: Sequence[int],
    activation: str,
) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {ACTIVATIONS}, got {activation!r}")
    _check_pool(y, pool)
    _check_shapes(y, scale, shift, skip, skip_scale, skip_shift, pool)


def _check_pool(y: Tensor, pool: Sequence[int]) -> None:
    if y.dim() != 4:
        raise ValueError(f"y must be (N, C, H, W), got {tuple(y.shape)}")
    if len(pool) not in (0, 10):
        raise ValueError(f"pool must have no or ten numbers, got {len(pool)}")
    if not pool:
        return
    if min(*pool[:4], *pool[8:]) < 1 or min(pool[4:8]) < 0:
        raise ValueError(
            "pool must have kernel, stride and dilation of at least 1 and no negative padding, "
            f"got {list(pool)}"
        )
    if min(_output_size(y, pool)) < 1:
        raise ValueError(f"pool {list(pool)} is larger than y of {tuple(y.shape[2:])} pixels")


def _check_shapes(
    y: Tensor,
    scale: Tensor,
    shift: Tensor,
    skip: Tensor | None,
    skip_scale: Tensor | None,
    skip_shift: Tensor | None,
    pool: Sequence[int],
) -> None:
    n, c = y.shape[:2]
    expected = (n, c, *_output_size(y, pool))
    if skip is not None and tuple(skip.shape) != expected:
        raise ValueError(f"skip must be {expected}, got {tuple(skip.shape)}")
    if (skip_scale is None) != (skip_shift is None):
        raise ValueError("skip_scale and skip_shift come together, or neither")
    if skip is None and skip_scale is not None:
        raise ValueError("skip_scale and skip_shift need a skip")
    for name, vector in (
        ("scale", scale), ("shift", shift), ("skip_scale", skip_scale), ("skip_shift", skip_shift)
    ):  # fmt: skip
        if vector is not None and tuple(vector.shape) != (c,):
            raise ValueError(f"{name} must be ({c},), got {tuple(vector.shape)}")


def _is_served(y: Tensor, pool: Sequence[int]) -> bool:
    """Whether the kernels know this pool: small, and no window of it lies outside the picture."""
    if not pool:
        return True
    outputs = _output_size(y, pool)
    return all(
        pool[i] <= LARGEST_POOL
        and _has_place_inside(
            y.shape[2 + i], pool[i], pool[2 + i], pool[4 + 2 * i], pool[8 + i], outputs[i]
        )
        for i in range(2)
    )


def _has_place_inside(
    size: int, kernel: int, stride: int, before: int, dilation: int, outputs: int
) -> bool:
    """Whether one place of the kernel meets a pixel at every output along an axis."""
    first = [k * dilation - before for k in range(kernel)]
    return any(f >= 0 and f + (outputs - 1) * stride < size for f in first)


def _output_size(y: Tensor, pool: Sequence[int]) -> tuple[int, int]:
    if not pool:
        return y.shape[2], y.shape[3]
    return output_size(y, pool[:2], pool[2:4], pool[4:8], pool[8:])


def _empty_outputs(y: Tensor, pool: Sequence[int]) -> tuple[Tensor, Tensor]:
    shape = (*y.shape[:2], *_output_size(y, pool))
    out = empty_map(y, shape)
    if not pool:
        return out, y.new_empty(0, dtype=torch.uint8)
    return out, empty_map(y, shape, torch.uint8)


def _shape(y: Tensor, out: Tensor, pool: Sequence[int], activation: str) -> list[int]:
    n, c, h, w = y.shape
    top_left = [0, 0, 1, 1, 0, 0, 1, 1]
    if pool:
        top_left = [*pool[:4], pool[4], pool[6], *pool[8:]]
    return [n, h, w, c, out.shape[2], out.shape[3], *top_left, ACTIVATIONS.index(activation)]


def _compute(
    y: Tensor,
    scale: Tensor,
    shift: Tensor,
    skip: Tensor | None,
    skip_scale: Tensor | None,
    skip_shift: Tensor | None,
    pool: list[int],
    activation: str,
) -> tuple[Tensor, Tensor]:
    extension = required_kernels("merge", y)
    # Once more, since the operator can be called by its registered name as well.
    _check(y, scale, shift, skip, skip_scale, skip_shift, pool, activation)
    if not _is_served(y, pool):
        raise ValueError(f"pool {pool} is not served by the kernels; call xception.ops.merge")
    y = y.contiguous(memory_format=torch.channels_last)
    skip = None if skip is None else skip.contiguous(memory_format=torch.channels_last)
    out, winners = _empty_outputs(y, pool)
    vectors = [None if v is None else v.contiguous() for v in (scale, shift)]
    skip_vectors = [None if v is None else v.contiguous() for v in (skip_scale, skip_shift)]
    extension.merge(
        _shape(y, out, pool, activation),
        [address(t) for t in (y, *vectors, skip, *skip_vectors, out, winners)],
        torch.get_num_threads(),
    )
    return out, winners


_merge = library.custom_op("xception::merge", _compute, mutates_args=())


@_merge.register_fake
def _merge_fake(
    y: Tensor,
    scale: Tensor,
    shift: Tensor,
    skip: Tensor | None,
    skip_scale: Tensor | None,
    skip_shift: Tensor | None,
    pool: list[int],
    activation: str,
) -> tuple[Tensor, Tensor]:
    return _empty_outputs(y, pool)


def _compute_backward(
    grad_out: Tensor,
    out: Tensor | None,
    y: Tensor,
    scale: Tensor,
    skip: Tensor | None,
    skip_scale: Tensor | None,
    winners: Tensor,
    pool: list[int],
    activation: str,
    needs_skip: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of y, scale, shift, skip, skip_scale and skip_shift; empty where not wanted."""
    extension = required_kernels("merge", y, has_begun=True)
    grad_out, y = (t.contiguous(memory_format=torch.channels_last) for t in (grad_out, y))
    # What was saved may come back in another form: hooks of saved tensors copy as they like.
    out, skip = (
        t if t is None else t.contiguous(memory_format=torch.channels_last) for t in (out, skip)
    )
    if pool:
        winners = winners.contiguous(memory_format=torch.channels_last)
    scale = scale.contiguous()
    skip_scale = None if skip_scale is None else skip_scale.contiguous()
    results = _empty_gradients(grad_out, y, scale, skip_scale, needs_skip)
    extension.merge_backward(
        _shape(y, grad_out, pool, activation),
        [address(t) for t in (grad_out, out, y, scale, skip, skip_scale, winners, *results)],
        torch.get_num_threads(),
    )
    return results


_merge_backward = library.custom_op("xception::merge_backward", _compute_backward, mutates_args=())


@_merge_backward.register_fake
def _merge_backward_fake(
    grad_out: Tensor,
    out: Tensor | None,
    y: Tensor,
    scale: Tensor,
    skip: Tensor | None,
    skip_scale: Tensor | None,
    winners: Tensor,
    pool: list[int],
    activation: str,
    needs_skip: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _empty_gradients(grad_out, y, scale, skip_scale, needs_skip)


def _empty_gradients(
    grad_out: Tensor, y: Tensor, scale: Tensor, skip_scale: Tensor | None, needs_skip: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    like_y = empty_map(y, y.shape)
    like_skip = y.new_empty(0)
    if needs_skip:
        like_skip = empty_map(grad_out, grad_out.shape)
    channels = scale.shape[0]
    skip_channels = 0 if skip_scale is None else channels
    return (
        like_y,
        y.new_empty(channels),
        y.new_empty(channels),
        like_skip,
        y.new_empty(skip_channels),
        y.new_empty(skip_channels),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, pool, activation = inputs
    y, scale, shift, skip, skip_scale, skip_shift = tensors
    out, winners = output
    # Added as it is, without an activation behind it, skip has the very gradient that arrives, and
    # is not looked at: whoever made it may write into it.
    is_same = skip is not None and skip_scale is None and activation == "none"
    kept = (y, scale, shift, None if is_same else skip, skip_scale, skip_shift)
    ctx.save_for_backward(*kept, winners, None if activation == "none" else out)
    ctx.settings = (pool, activation, is_same)
    ctx.mark_non_differentiable(winners)


def _backward(
    ctx: Any,
    grad_out: Tensor,
    _: Any,
    run: Callable[..., tuple[Tensor, ...]] = torch.ops.xception.merge_backward,
) -> tuple[Tensor | None, ...]:
    y, scale, _, skip, skip_scale, _, winners, out = ctx.saved_tensors
    pool, activation, is_same = ctx.settings
    needs_skip = skip is not None and ctx.needs_input_grad[3]
    grads = run(grad_out, out, y, scale, skip, skip_scale, winners, pool, activation, needs_skip)
    grad_y, grad_scale, grad_shift, grad_skip, grad_skip_scale, grad_skip_shift = grads
    return (
        grad_y,
        grad_scale,
        grad_shift,
        grad_out if is_same else grad_skip if needs_skip else None,
        None if skip_scale is None else grad_skip_scale,
        None if skip_scale is None else grad_skip_shift,
        None,
        None,
    )


_merge.register_autograd(_backward, setup_context=_setup_context)


class XceptionMerge(torch.autograd.Function):
    """The same two bodies for autograd alone."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = _compute(*inputs)
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, grad_out: Any, _: Any) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: the kernels have no second derivative
            *settings, is_same = ctx.settings
            inputs = (*ctx.saved_tensors[:6], *settings)
            needs = list(ctx.needs_input_grad)
            needs[3] = needs[3] and not is_same
            grads: tuple[Tensor | None, ...] = (None,) * len(needs)
            if any(needs):
                grads = differentiable_gradients(reference.merge, inputs, needs, (grad_out,))
            return (*grads[:3], grad_out, *grads[4:]) if is_same else grads
        return _backward(ctx, grad_out, None, _compute_backward)
