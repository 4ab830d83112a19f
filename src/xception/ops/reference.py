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
