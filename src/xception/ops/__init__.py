"""Floor 0: the depthwise separable convolution as one operator, and its defining reference."""

from xception.ops.allocator import tune_allocator
from xception.ops.convolution import conv2d
from xception.ops.geometry import four_sides
from xception.ops.kernels import can_use_kernels, describe_kernels, set_kernels
from xception.ops.merge import merge
from xception.ops.reference import activated, conv2d_by_definition, equivalent_kernel
from xception.ops.separable import separable_conv2d
from xception.ops.statistics import measured
from xception.ops.unit import separable_unit

__all__ = [
    "activated",
    "can_use_kernels",
    "conv2d",
    "conv2d_by_definition",
    "describe_kernels",
    "equivalent_kernel",
    "four_sides",
    "measured",
    "merge",
    "separable_conv2d",
    "separable_unit",
    "set_kernels",
    "tune_allocator",
]
