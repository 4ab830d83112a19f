"""The depthwise separable convolution as a module that owns two ordinary convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast, get_args

from torch import Tensor, nn

from xception.nn.activation import IntermediateActivation, intermediate_activation_layer
from xception.nn.padding import Conv2dSame, Padding, check_padding, conv2d, four_sided_padding
from xception.nn.untouched import is_untouched
from xception.ops import separable_conv2d

Order = Literal["depthwise_first", "pointwise_first"]


def check_order(order: str) -> None:
    """Raise ValueError unless `order` is one of the two names."""
    if order not in get_args(Order):
        raise ValueError(f"order must be one of {get_args(Order)}, got {order!r}")


class SeparableConv2d(nn.Module):
    """Depthwise KxK and pointwise 1x1 convolution, in either order.

    x: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))

    depth_multiplier: spatial filters a channel (1 in Xception)
    order: "depthwise_first" (the separable convolution of the frameworks) or "pointwise_first"
        (extreme Inception, Fig. 4; there the depthwise step gives the output channels, and their
        number must be a multiple of `depth_multiplier`)
    intermediate_activation: "none", "relu" or "elu" between the two (paper section 4.7)
    padding: "keras" (TensorFlow's SAME) or "torch" (symmetric)
    bias: adds a bias to the second of the two

    The children `depthwise` and `pointwise` are `torch.nn.Conv2d`: hooks on them, replacements and
    quantization work; only when both are untouched does the one-operator path take their place.
    Raises ValueError naming the argument.
    Source: paper sections 1.2 and 2; Keras's `SeparableConv2D`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        depth_multiplier: int = 1,
        order: Order = "depthwise_first",
        intermediate_activation: IntermediateActivation = "none",
        padding: Padding = "keras",
        bias: bool = False,
    ) -> None:
        super().__init__()
        check_padding(padding)
        check_order(order)
        if depth_multiplier < 1:
            raise ValueError(f"depth_multiplier must be at least 1, got {depth_multiplier}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.order = order
        self.padding = padding
        depthwise_first = order == "depthwise_first"
        if not depthwise_first and out_channels % depth_multiplier:
            raise ValueError(
                f"out_channels ({out_channels}) must be a multiple of depth_multiplier "
                f"({depth_multiplier}) when the pointwise step is first"
            )
        spatial_in = in_channels if depthwise_first else out_channels // depth_multiplier
        spatial_out = spatial_in * depth_multiplier
        self.depthwise = conv2d(
            spatial_in,
            spatial_out,
            kernel_size,
            stride=stride,
            dilation=dilation,
            groups=spatial_in,
            bias=bias and not depthwise_first,
            padding=padding,
        )
        self.intermediate_activation = intermediate_activation_layer(intermediate_activation)
        self.pointwise = nn.Conv2d(
            spatial_out if depthwise_first else in_channels,
            out_channels if depthwise_first else spatial_in,
            1,
            bias=bias and depthwise_first,
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.is_one_operator():
            conv = self.depthwise
            return separable_conv2d(
                x,
                conv.weight,
                self.pointwise.weight,
                self.pointwise.bias,
                stride=conv.stride,
                padding=self.padding_for(x),
                dilation=conv.dilation,
            )
        if self.order == "depthwise_first":
            return self.pointwise(self.intermediate_activation(self.depthwise(x)))
        return self.depthwise(self.intermediate_activation(self.pointwise(x)))

    def is_one_operator(self) -> bool:
        """Whether depthwise and pointwise may be computed together: both as they were built."""
        depthwise, pointwise = self.depthwise, self.pointwise
        return (
            self.order == "depthwise_first"
            and is_untouched(self.intermediate_activation, nn.Identity)
            and is_depthwise(depthwise)
            and is_pointwise(pointwise)
        )

    def padding_for(self, x: Tensor) -> Sequence[int]:
        """(height, width) or (top, bottom, left, right): zeros that the depthwise puts around x."""
        return depthwise_padding(self.depthwise, x)

    def extra_repr(self) -> str:
        return f"order={self.order!r}, padding={self.padding!r}"


def is_depthwise(conv: nn.Module) -> bool:
    """Whether it is a convolution of each channel on its own, without bias, as it was built."""
    return (
        is_untouched(conv, nn.Conv2d, Conv2dSame)
        and isinstance(conv, nn.Conv2d)
        and conv.bias is None
        and conv.groups == conv.in_channels
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


def depthwise_padding(conv: nn.Conv2d, x: Tensor) -> Sequence[int]:
    """(height, width) or (top, bottom, left, right): zeros that it puts around x (N, C, H, W)."""
    if isinstance(conv, Conv2dSame):
        return four_sided_padding(x, conv.kernel_size, conv.stride, conv.dilation, "keras")
    return cast(tuple[int, int], conv.padding)  # a string is ruled out by is_depthwise


def is_pointwise(conv: nn.Module) -> bool:
    """Whether it is a 1x1 convolution over all channels, of stride 1, as it was built."""
    return (
        is_untouched(conv, nn.Conv2d)
        and isinstance(conv, nn.Conv2d)
        and conv.kernel_size == (1, 1)
        and conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
    )
