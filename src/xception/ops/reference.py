"""What a separable convolution means, in plain torch: test oracle and fallback of every fast form.

Legend: n batch, c input channels, m = c * multiplier channels after the depthwise step,
o output channels, h and w height and width; `x_nchw` has those axes in that order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def separable_conv2d(
    x_nchw: Tensor,
    depthwise_m1hw: Tensor,
    pointwise_om11: Tensor,
    bias_o: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Depthwise, then pointwise, nothing between; the signature of the registered operator.

    `stride` and `dilation` are (height, width), `padding` is (top, bottom, left, right) in pixels.
    """
    hidden_nmhw = depthwise_conv2d(x_nchw, depthwise_m1hw, stride, padding, dilation)
    return F.conv2d(hidden_nmhw, pointwise_om11, bias_o)


def depthwise_conv2d(
    x_nchw: Tensor,
    depthwise_m1hw: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """One spatial filter (or `multiplier` of them) for each channel on its own, zeros around."""
    top, bottom, left, right = padding
    # While a graph is recorded, sides may stand for numbers not known yet: never compare those.
    known = all(isinstance(side, int) for side in padding)
    if known and top == bottom and left == right:
        inner = (top, left)
    else:
        x_nchw = F.pad(x_nchw, (left, right, top, bottom))
        inner = (0, 0)
    return F.conv2d(
        x_nchw,
        depthwise_m1hw,
        None,
        tuple(stride),
        inner,
        tuple(dilation),
        groups=x_nchw.shape[1],
    )


def separable_conv2d_backward(
    grad_nohw: Tensor,
    x_nchw: Tensor,
    depthwise_m1hw: Tensor,
    pointwise_om11: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, depthwise and pointwise, the depthwise output computed anew.

    Written with aten's own backward because an operator's kernel runs below autograd.
    """
    top, bottom, left, right = padding
    padded_nchw = F.pad(x_nchw, (left, right, top, bottom))
    hidden_nmhw = depthwise_conv2d(padded_nchw, depthwise_m1hw, stride, (0, 0, 0, 0), dilation)
    convolution_backward = torch.ops.aten.convolution_backward
    wanted = [True, True, False]
    grad_hidden, grad_pointwise, _ = convolution_backward(
        grad_nohw, hidden_nmhw, pointwise_om11, None,
        [1, 1], [0, 0], [1, 1], False, [0, 0], 1, wanted,
    )  # fmt: skip
    grad_padded, grad_depthwise, _ = convolution_backward(
        grad_hidden, padded_nchw, depthwise_m1hw, None,
        stride, [0, 0], dilation, False, [0, 0], x_nchw.shape[1], wanted,
    )  # fmt: skip
    height, width = x_nchw.shape[2:]
    grad_x = grad_padded[:, :, top : top + height, left : left + width]
    return grad_x.clone(memory_format=torch.preserve_format), grad_depthwise, grad_pointwise


def separable_unit(
    x_nchw: Tensor,
    in_scale_c: Tensor | None,
    in_shift_c: Tensor | None,
    activation: str,
    depthwise_c1hw: Tensor | None,
    pointwise_oc11: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, shift, activation, depthwise, pointwise; then mean and biased variance a channel."""
    z_nchw = x_nchw
    if in_scale_c is not None and in_shift_c is not None:
        z_nchw = x_nchw * in_scale_c[:, None, None] + in_shift_c[:, None, None]
    z_nchw = activated(z_nchw, activation)
    if depthwise_c1hw is None:
        top, bottom, left, right = padding
        padded = F.pad(z_nchw, (left, right, top, bottom))
        hidden_nchw = padded[:, :, :: stride[0], :: stride[1]]
    else:
        hidden_nchw = depthwise_conv2d(z_nchw, depthwise_c1hw, stride, padding, dilation)
    y_nohw = hidden_nchw if pointwise_oc11 is None else F.conv2d(hidden_nchw, pointwise_oc11)
    if not statistics:
        return y_nohw, y_nohw.new_empty(0), y_nohw.new_empty(0)
    var_o, mean_o = torch.var_mean(y_nohw, (0, 2, 3), correction=0)
    return y_nohw, mean_o, var_o


def activated(x: Tensor, activation: str) -> Tensor:
    """The activation of a unit by its name."""
    if activation == "relu":
        return F.relu(x)
    if activation == "relu6":
        return F.relu6(x)
    if activation == "hardswish":
        return F.hardswish(x)
    return F.silu(x) if activation == "silu" else x


def merge(
    y_nchw: Tensor,
    scale_c: Tensor,
    shift_c: Tensor,
    skip_ncpq: Tensor | None,
    skip_scale_c: Tensor | None,
    skip_shift_c: Tensor | None,
    pool: Sequence[int],
    activation: str,
) -> Tensor:
    """Scale and shift, max pool over real pixels alone, the skip connection, activation."""
    out = y_nchw * scale_c[:, None, None] + shift_c[:, None, None]
    if pool:
        kernel, stride, (top, bottom, left, right), dilation = (
            pool[:2], pool[2:4], pool[4:8], pool[8:],
        )  # fmt: skip
        out = F.pad(out, (left, right, top, bottom), value=float("-inf"))
        out = F.max_pool2d(out, tuple(kernel), tuple(stride), 0, tuple(dilation))
    if skip_ncpq is not None:
        if skip_scale_c is not None and skip_shift_c is not None:
            skip_ncpq = skip_ncpq * skip_scale_c[:, None, None] + skip_shift_c[:, None, None]
        out = out + skip_ncpq
    return activated(out, activation)


def conv2d_by_definition(x_nchw: Tensor, weight_ochw: Tensor) -> Tensor:
    """A regular convolution as the paper's section 1 defines it: loops over the sum, stride 1.

    out[n, i, y, x] = sum over c, h, w of in[n, c, y - K/2 + h, x - K/2 + w] * filter_i[c, h, w],
    zeros outside the picture, odd kernels. Slow: it exists to be compared with.
    """
    o, c, kh, kw = weight_ochw.shape
    n, _, height, width = x_nchw.shape
    padded = F.pad(x_nchw, (kw // 2, kw // 2, kh // 2, kh // 2))
    out_nohw = x_nchw.new_zeros((n, o, height, width))
    for i in range(o):
        for channel in range(c):
            for h in range(kh):
                for w in range(kw):
                    window = padded[:, channel, h : h + height, w : w + width]
                    out_nohw[:, i] += window * weight_ochw[i, channel, h, w]
    return out_nohw


def equivalent_kernel(
    depthwise_m1hw: Tensor, pointwise_om11: Tensor, depth_multiplier: int = 1
) -> Tensor:
    """The regular kernel (o, c, h, w) that does what a separable convolution does.

    It is the outer product of the two, summed over the multiplier: rank 1 for each input channel
    when the depth multiplier is 1. Raises ValueError when the channels do not fit together.
    """
    m = depthwise_m1hw.shape[0]
    c_times_multiplier = pointwise_om11.shape[1]
    if m != c_times_multiplier:
        raise ValueError(f"depthwise has {m} channels, pointwise expects {c_times_multiplier}")
    if m % depth_multiplier:
        raise ValueError(f"{m} channels are not a multiple of depth_multiplier {depth_multiplier}")
    kernel_omhw = torch.einsum("mhw,om->omhw", depthwise_m1hw[:, 0], pointwise_om11[:, :, 0, 0])
    o, _, kh, kw = kernel_omhw.shape
    return kernel_omhw.reshape(o, -1, depth_multiplier, kh, kw).sum(2)
