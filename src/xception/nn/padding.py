"""Zero padding as TensorFlow's SAME ("keras") and as PyTorch ports use it ("torch"), by name.

The two agree for stride 1 and odd kernels. For stride 2 on an even size TensorFlow pads one pixel
less at the top and left: the sampled positions shift by one, and so do all numbers after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Padding = Literal["keras", "torch"]


def check_padding(padding: str) -> None:
    """Raise ValueError unless `padding` is one of the two names."""
    if padding not in get_args(Padding):
        raise ValueError(f"padding must be one of {get_args(Padding)}, got {padding!r}")


def same_padding(size: int, kernel_size: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Pixels before and after one axis under TensorFlow's SAME: ceil(size / stride) outputs.

    `size` may be symbolic (torch.export with a dynamic height or width): nothing here then depends
    on which number it stands for, unless the stride is larger than the kernel's extent.
    Source: TensorFlow's rule, total = max((ceil(size / stride) - 1) * stride + extent - size, 0),
    the odd pixel at the end.
    """
    extent = (kernel_size - 1) * dilation + 1
    total = extent - 1 - (size - 1) % stride
    if extent < stride:
        total = max(total, 0)
    return total // 2, total - total // 2


def four_sided_padding(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Padding,
) -> list[int]:
    """[top, bottom, left, right] for `x` (N, C, H, W) under the named rule."""
    if padding == "keras":
        top, bottom = same_padding(x.shape[2], kernel_size[0], stride[0], dilation[0])
        left, right = same_padding(x.shape[3], kernel_size[1], stride[1], dilation[1])
        return [top, bottom, left, right]
    vertical, horizontal = symmetric_padding(kernel_size, dilation)
    return [vertical, vertical, horizontal, horizontal]


def symmetric_padding(kernel_size: Sequence[int], dilation: Sequence[int]) -> tuple[int, int]:
    """The padding of PyTorch ports: dilation * (kernel - 1) / 2 on each side."""
    return (
        dilation[0] * (kernel_size[0] - 1) // 2,
        dilation[1] * (kernel_size[1] - 1) // 2,
    )


class Conv2dSame(nn.Conv2d):
    """`torch.nn.Conv2d` whose zero padding follows TensorFlow's SAME for the size that arrives.

    x: (N, C, H, W) -> (N, O, ceil(H / stride), ceil(W / stride)). Same parameters and state dict
    as `torch.nn.Conv2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        top, bottom, left, right = four_sided_padding(
            x, self.kernel_size, self.stride, self.dilation, "keras"
        )
        return super().forward(F.pad(x, (left, right, top, bottom)))


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
    padding: Padding = "keras",
) -> nn.Conv2d:
    """A convolution that keeps the size (divided by the stride), padded by the named rule.

    A plain `torch.nn.Conv2d` wherever one can express the padding, `Conv2dSame` elsewhere.
    Raises ValueError for an unknown padding, or one that cannot keep the size.
    """
    check_padding(padding)
    extent = (kernel_size - 1) * dilation
    if padding == "torch" and extent % 2:
        raise ValueError(
            f"kernel_size {kernel_size} cannot be padded symmetrically; use padding='keras'"
        )
    expressible = padding == "torch" or kernel_size == 1 or (stride == 1 and extent % 2 == 0)
    cls = nn.Conv2d if expressible else Conv2dSame
    return cls(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=extent // 2 if expressible else 0,
        dilation=dilation,
        groups=groups,
        bias=bias,
    )


class MaxPool2d(nn.Module):
    """3x3 maximum, stride 2 (or 1), as the paper's modules end; padding "keras" or "torch".

    x: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)).

    dilation: pixels between the nine places; only for stride 1, where an earlier stride was left
        out (output_stride) and the pooled places lie apart
    Padded places never win, so no -inf stands in a graph. torch.export may leave height and width
    dynamic; with its strict=True, "keras" fixes whether they are even.
    Source: TensorFlow's SAME max pooling.
    """

    def __init__(self, stride: int = 2, padding: Padding = "keras", *, dilation: int = 1) -> None:
        super().__init__()
        check_padding(padding)
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, got {stride}")
        if dilation < 1 or (dilation > 1 and stride > 1):
            raise ValueError(f"dilation must be 1, or more with stride 1, got {dilation}")
        self.stride = stride
        self.padding = padding
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2 and self.padding == "keras":
            # An even size needs one column after it, which ceil_mode supplies; an odd one needs
            # one on each side.
            odd = (x.shape[2] % 2, x.shape[3] % 2)
            if all(isinstance(o, int) for o in odd):
                return F.max_pool2d(x, 3, 2, padding=odd, ceil_mode=True)
            # A graph of any size is being recorded, and the pool takes no symbolic padding. Copies
            # of the outermost row and column stand around: these lie in the same windows.
            return F.max_pool2d(F.pad(x, (odd[1], 1, odd[0], 1), mode="replicate"), 3, 2)
        if self.dilation > 1:
            return _dilated_maximum(_dilated_maximum(x, self.dilation, 2), self.dilation, 3)
        return F.max_pool2d(x, 3, self.stride, padding=1)

    def extra_repr(self) -> str:
        dilation = f", dilation={self.dilation}" if self.dilation > 1 else ""
        return f"stride={self.stride}, padding={self.padding!r}{dilation}"


def _dilated_maximum(x: Tensor, dilation: int, axis: int) -> Tensor:
    """Maximum of each place and the two at `dilation` pixels from it along `axis`.

    `max_pool2d` refuses the padding this needs. Where a neighbour lies outside the picture, the
    place itself stands in for it.
    """
    size = x.shape[axis]
    inside = max(size - dilation, 0)
    before = torch.cat((x.narrow(axis, 0, size - inside), x.narrow(axis, 0, inside)), axis)
    after = torch.cat(
        (x.narrow(axis, size - inside, inside), x.narrow(axis, inside, size - inside)), axis
    )
    return torch.maximum(x, torch.maximum(before, after))


def average_pool3x3(x: Tensor) -> Tensor:
    """3x3 average, stride 1, of the values inside the picture only (Inception's pooling branch)."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
