"""Floor 0: the depthwise separable convolution as one operator, and its defining reference."""

from xception.ops.allocator import tune_allocator
from xception.ops.reference import conv2d_by_definition, equivalent_kernel
from xception.ops.separable import four_sides, separable_conv2d

__all__ = [
    "conv2d_by_definition",
    "equivalent_kernel",
    "four_sides",
    "separable_conv2d",
    "tune_allocator",
]
