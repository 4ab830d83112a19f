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
from xception.nn.saved_activations import compress_saved_activations
from xception.nn.segmented import SegmentedConv2d, Segments, resolve_segments, split_evenly
from xception.nn.separable import (
    Order,
    SeparableConv2d,
    depthwise_padding,
    is_depthwise,
    is_pointwise,
)
from xception.nn.sync_batch_norm import SyncBatchNorm2d, convert_sync_batchnorm
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
    "SyncBatchNorm2d",
    "can_normalize",
    "check_padding",
    "compress_saved_activations",
    "conv2d",
    "convert_sync_batchnorm",
    "depthwise_padding",
    "four_sided_padding",
    "intermediate_activation_layer",
    "is_depthwise",
    "is_pointwise",
    "is_untouched",
    "normalized",
    "resolve_segments",
    "same_padding",
    "split_evenly",
    "symmetric_padding",
]
