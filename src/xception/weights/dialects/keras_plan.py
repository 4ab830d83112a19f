"""What Keras layers one of our networks is made of: read off its modules, so that a network that is
added needs no description here.

Settings are those of Keras's configuration, in one form: see `keras_settings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from xception.models import Classifier
from xception.models.aligned import (
    AlignedBlock,
    NormalizedSeparableConv2d,
    PreActivatedSeparableConv2d,
)
from xception.models.xception import SeparableUnit, XceptionBlock
from xception.nn import Conv2dSame, MaxPool2d, SegmentedConv2d, SeparableConv2d

INPUT = -1  # in `PlannedLayer.inputs`: the picture

ROLES = {  # Keras's order of the weights of a layer; a bias comes last where there is one
    "Conv2D": ("kernel",),
    "SeparableConv2D": ("depthwise_kernel", "pointwise_kernel"),
    "DepthwiseConv2D": ("depthwise_kernel",),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "Dense": ("kernel",),
}
_LAST = {"data_format": "channels_last"}
_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.ELU: "elu"}
_IN_SEQUENCE = (
    nn.Sequential,
    SeparableUnit,
    NormalizedSeparableConv2d,
    PreActivatedSeparableConv2d,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedLayer:
    """One Keras layer.

    kind: its class; path: of the module it stands for, in our state dict
    settings: what its configuration must say
    inputs: indices of the layers it reads, in any order
    weights: our names, in Keras's order
    """

    kind: str
    path: str
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[int, ...]
    weights: tuple[str, ...] = ()


def plan_of(model: Classifier) -> list[PlannedLayer]:
    """The layers from picture to feature map, each after those it reads; the last gives the map.

    Raises ValueError for a module that is no layer of Keras's.
    """
    planner = _Planner()
    at = INPUT
    for name, stage in model.stages():
        at = planner.after(at, stage, name)
    return planner.layers


def in_keras_order(plan: Sequence[PlannedLayer]) -> list[PlannedLayer]:
    """As a model of Keras lists its layers: by their distance to the output, the farthest first.

    The distance is that of the longest way; layers of one class never share theirs here, so that
    the order within a class is complete.
    Source: keras `Functional`, "depth" of nodes.
    """
    distance = [0] * len(plan)
    for index in range(len(plan) - 1, -1, -1):
        for source in plan[index].inputs:
            if source != INPUT:
                distance[source] = max(distance[source], distance[index] + 1)
    return [plan[i] for i in sorted(range(len(plan)), key=lambda i: -distance[i])]


class _Planner:
    def __init__(self) -> None:
        self.layers: list[PlannedLayer] = []

    def after(self, at: int, module: nn.Module, path: str) -> int:
        """Plan `module`, which reads layer `at`; the index of the layer that gives its output."""
        if isinstance(module, nn.Identity):
            return at
        if isinstance(module, XceptionBlock | AlignedBlock):
            return self._block(at, module, path)
        if isinstance(module, SeparableConv2d):
            return self._separable(at, module, path)
        if isinstance(module, SegmentedConv2d):
            return self._segmented(at, module, path)
        if isinstance(module, _IN_SEQUENCE):
            for name, child in module.named_children():
                at = self.after(at, child, f"{path}.{name}")
            return at
        if isinstance(module, nn.Conv2d):
            return self._convolution(at, module, path)
        if isinstance(module, nn.BatchNorm2d):
            parts = ("weight", "bias", "running_mean", "running_var")
            settings = {"axis": -1, "center": True, "scale": True}
            weights = tuple(f"{path}.{part}" for part in parts)
            return self._add("BatchNormalization", path, settings, at, weights)
        if type(module) in _ACTIVATIONS:
            return self._add("Activation", path, {"activation": _ACTIVATIONS[type(module)]}, at)
        if isinstance(module, MaxPool2d):
            pool = {"pool_size": (3, 3), "strides": (module.stride,) * 2, "padding": "same"}
            return self._add("MaxPooling2D", path, {**pool, **_LAST}, at)
        raise ValueError(f"holds a {type(module).__name__} ({path}), which is no layer of Keras's")

    def _block(self, at: int, block: XceptionBlock | AlignedBlock, path: str) -> int:
        if isinstance(block, AlignedBlock):  # its skip connection starts after these
            at = self.after(at, block.norm, f"{path}.norm")
            at = self.after(at, block.act, f"{path}.act")
        y = self.after(at, block.units, f"{path}.units")
        if isinstance(block, XceptionBlock) and block.pool is not None:
            y = self.after(y, block.pool, f"{path}.pool")
        if block.skip is None:
            return y
        return self._add("Add", path, {}, (y, self.after(at, block.skip, f"{path}.skip")))

    def _separable(self, at: int, module: SeparableConv2d, path: str) -> int:
        if not isinstance(module.intermediate_activation, nn.Identity):
            for name in ("depthwise", "intermediate_activation", "pointwise"):
                at = self.after(at, getattr(module, name), f"{path}.{name}")
            return at
        at, settings = self._padded(at, module.depthwise, path)
        bias = module.pointwise.bias is not None
        settings |= {"filters": module.out_channels, "use_bias": bias}
        settings["depth_multiplier"] = module.depthwise.out_channels // module.in_channels
        names = ("depthwise.weight", "pointwise.weight", "pointwise.bias")
        weights = tuple(f"{path}.{name}" for name in names[: 2 + bias])
        return self._add("SeparableConv2D", path, settings, at, weights)

    def _segmented(self, at: int, module: SegmentedConv2d, path: str) -> int:
        if len(module.spatial.runs) > 1 or module.order != "depthwise_first":
            raise ValueError(f"splits channels in a way ({path}) that Keras has no layer for")
        at = self.after(at, module.spatial.runs[0], f"{path}.spatial.runs.0")
        for name in ("intermediate_activation", "pointwise"):
            at = self.after(at, getattr(module, name), f"{path}.{name}")
        return at

    def _convolution(self, at: int, conv: nn.Conv2d, path: str) -> int:
        at, settings = self._padded(at, conv, path)
        settings["use_bias"] = conv.bias is not None
        weights = (f"{path}.weight", f"{path}.bias")[: 1 if conv.bias is None else 2]
        if conv.groups == conv.in_channels > 1:
            settings["depth_multiplier"] = conv.out_channels // conv.in_channels
            return self._add("DepthwiseConv2D", path, settings, at, weights)
        settings |= {"filters": conv.out_channels, "groups": conv.groups}
        return self._add("Conv2D", path, settings, at, weights)

    def _padded(self, at: int, conv: nn.Conv2d, path: str) -> tuple[int, dict[str, Any]]:
        """What `conv` reads, a layer of zeros where Keras needs one, and its own settings."""
        height, width = (int(p) for p in conv.padding)
        padding = "valid"
        if isinstance(conv, Conv2dSame) or conv.kernel_size == (1, 1):
            padding = "same"
        elif (height, width) != (0, 0):
            if conv.stride == (1, 1):
                padding = "same"  # keeps the size with as many zeros on both sides
            else:
                zeros = {"padding": ((height, height), (width, width)), **_LAST}
                at = self._add("ZeroPadding2D", path, zeros, at)
        return at, {
            "kernel_size": conv.kernel_size,
            "strides": conv.stride,
            "padding": padding,
            "dilation_rate": conv.dilation,
            **_LAST,
        }

    def _add(
        self,
        kind: str,
        path: str,
        settings: dict[str, Any],
        inputs: int | tuple[int, ...],
        weights: tuple[str, ...] = (),
    ) -> int:
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        layer = PlannedLayer(
            kind=kind, path=path, settings=settings, inputs=inputs, weights=weights
        )
        self.layers.append(layer)
        return len(self.layers) - 1
