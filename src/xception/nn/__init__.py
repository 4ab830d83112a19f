"""Floor 1: modules on the operator, from the Inception module to the separable convolution."""

from xception.nn.activation import IntermediateActivation, intermediate_activation_layer
from xception.nn.inception import ConvNormAct, InceptionModule, SimplifiedInception
from xception.nn.normalized import Normalized, can_normalize, normalized
from xception.nn.padding import (
    Conv2dSame,
    MaxPool2d,
    Padding,
    check_padding,
    conv2d,
    four_sided_padding,
    same_padding,
    symmetric_padding,
)
from xception.nn.segmented import SegmentedConv2d, Segments, resolve_segments, split_evenly
from xception.nn.separable import Order, SeparableConv2d
from xception.nn.untouched import is_untouched

__all__ = [
    "Conv2dSame",
    "ConvNormAct",
    "InceptionModule",
    "IntermediateActivation",
    "MaxPool2d",
    "Normalized",
    "Order",
    "Padding",
    "SegmentedConv2d",
    "Segments",
    "SeparableConv2d",
    "SimplifiedInception",
    "can_normalize",
    "check_padding",
    "conv2d",
    "four_sided_padding",
    "intermediate_activation_layer",
    "is_untouched",
    "normalized",
    "resolve_segments",
    "same_padding",
    "split_evenly",
    "symmetric_padding",
]
