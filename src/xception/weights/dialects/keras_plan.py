"""What Keras layers one of our networks is made of: read off its modules, so that a network that is
added needs no description here.

Both ways go by it: files of Keras are matched with it, and written from it (`keras_export`).
Settings are those of Keras's configuration, in one form: see `keras_match.settings_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from xception.models import Classifier
from xception.models.aligned import AlignedBlock
from xception.models.aligned_units import NormalizedSeparableConv2d, PreActivatedSeparableConv2d
from xception.models.block import XceptionBlock
from xception.models.head import ClassifierHead
from xception.models.mini_xception import ConvolutionHead
from xception.models.separable_unit import SeparableUnit
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
_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SELU: "selu",
    nn.SiLU: "silu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.Softplus: "softplus",
    nn.Softsign: "softsign",
}
_IN_SEQUENCE = (
    ClassifierHead,
    ConvolutionHead,
    nn.Sequential,
    SeparableUnit,
    NormalizedSeparableConv2d,
    PreActivatedSeparableConv2d,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedLayer:
    """One Keras layer.

    kind: its class; path: of the module it stands for, in our state dict; of zeros and sums, which
        are no modules here, a name beside it
    settings: what its configuration must say
    inputs: indices of the layers it reads, in any order
    weights: our names, in Keras's order
    """

    kind: str
    path: str
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[int, ...]
    weights: tuple[str, ...] = ()


def plan_of(model: Classifier, *, with_head: bool = False) -> list[PlannedLayer]:
    """The layers from picture to feature map, each after those it reads; the last gives the map.

    with_head: go on to the logits

    Raises ValueError, as the end of a sentence that begins with the model's name, for a module that
    is no layer of Keras's.
    """
    planner = _Planner()
    at = INPUT
    for name, stage in model.stages():
        at = planner.after(at, stage, name)
    if with_head:
        planner.after(at, model.head, "head")
    return planner.layers


def in_keras_order(plan: Sequence[PlannedLayer]) -> list[PlannedLayer]:
    """As a model of Keras lists its layers, without the picture's; see `keras_order`."""
    return [plan[index] for index in keras_order(plan)]


def keras_order(plan: Sequence[PlannedLayer]) -> list[int]:
    """Indices of the layers by their distance to the last one, the farthest first.

    The distance is that of the longest way; among equals the order is that in which a walk from
    the last layer back to the picture meets them.
    Source: keras `Functional`, "depth" of nodes.
    """
    met: dict[int, None] = {}
    stack = [len(plan) - 1]
    while stack:
        index = stack.pop()
        if index != INPUT and index not in met:
            met[index] = None
            stack += reversed(plan[index].inputs)
    distance = dict.fromkeys([INPUT, *met], 0)
    for index in sorted(met, reverse=True):  # each after all that read it
        for source in plan[index].inputs:
            distance[source] = max(distance[source], distance[index] + 1)
    return sorted(met, key=lambda index: -distance[index])  # stable: keeps the walk's order


class _Planner:
    def __init__(self) -> None:
        self.layers: list[PlannedLayer] = []

    def after(self, at: int, module: nn.Module, path: str) -> int:
        """Plan `module`, which reads layer `at`; the index of the layer that gives its output."""
        if isinstance(module, nn.Identity | nn.Flatten):  # flat already, after global pooling
            return at
        if isinstance(module, XceptionBlock | AlignedBlock):
            return self._block(at, module, path)
        if isinstance(module, SeparableConv2d):
            return self._separable(at, module, path)
        if isinstance(module, SegmentedConv2d):
            return self._segmented(at, module, path)
        if isinstance(module, _IN_SEQUENCE):
            return self._chain(at, path, *(name for name, _ in module.named_children()), of=module)
        if isinstance(module, nn.Conv2d):
            return self._convolution(at, module, path, path)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            parts = ("weight", "bias", "running_mean", "running_var")
            settings = {"axis": -1, "center": True, "scale": True}
            weights = tuple(f"{path}.{part}" for part in parts)
            return self._add("BatchNormalization", path, settings, at, weights)
        if isinstance(module, MaxPool2d):
            return self._pool(at, module, path)
        if isinstance(module, nn.Dropout) and module.p == 0:
            return at
        return self._simple(at, module, path)

    def _chain(self, at: int, path: str, *names: str, of: nn.Module) -> int:
        """Plan children of `of`, each after the one before."""
        for name in names:
            at = self.after(at, getattr(of, name), f"{path}.{name}")
        return at

    def _block(self, at: int, block: XceptionBlock | AlignedBlock, path: str) -> int:
        if isinstance(block, AlignedBlock):  # its skip connection starts after these
            at = self._chain(at, path, "norm", "act", of=block)
        y = self._chain(at, path, "units", of=block)
        if isinstance(block, XceptionBlock) and block.pool is not None:
            y = self._chain(y, path, "pool", of=block)
        if block.skip is None:
            return y
        return self._add("Add", f"{path}.add", {}, (y, self._chain(at, path, "skip", of=block)))

    def _separable(self, at: int, module: SeparableConv2d, path: str) -> int:
        depthwise, pointwise = module.depthwise, module.pointwise
        at_once = (
            module.order == "depthwise_first"
            and isinstance(module.intermediate_activation, nn.Identity)
            and depthwise.bias is None
        )
        if not at_once:
            steps = ["depthwise", "intermediate_activation", "pointwise"]
            if module.order == "pointwise_first":
                steps.reverse()
            return self._chain(at, path, *steps, of=module)
        at, geometry = self._padded(at, depthwise, path)
        bias = pointwise.bias is not None
        settings = {
            "filters": pointwise.out_channels,
            "depth_multiplier": depthwise.out_channels // depthwise.in_channels,
            "use_bias": bias,
            **geometry,
        }
        names = ("depthwise.weight", "pointwise.weight", "pointwise.bias")
        weights = tuple(f"{path}.{name}" for name in names[: 2 + bias])
        return self._add("SeparableConv2D", path, settings, at, weights)

    def _segmented(self, at: int, module: SegmentedConv2d, path: str) -> int:
        if len(module.spatial.runs) > 1:
            raise ValueError(
                f"cannot go to Keras: {path} splits its channels unevenly into {module.segments} "
                "segments; choose a number of segments that divides the channels"
            )
        if module.order == "pointwise_first":
            at = self._chain(at, path, "pointwise", "intermediate_activation", of=module)
        spatial = f"{path}.spatial"
        at = self._convolution(at, module.spatial.runs[0], spatial, f"{spatial}.runs.0")
        if module.order == "pointwise_first":
            return at
        return self._chain(at, path, "intermediate_activation", "pointwise", of=module)

    def _convolution(self, at: int, conv: nn.Module, path: str, owner: str) -> int:
        """owner: what our names of its weights begin with"""
        assert isinstance(conv, nn.Conv2d)
        at, settings = self._padded(at, conv, path)
        settings["use_bias"] = conv.bias is not None
        weights = (f"{owner}.weight", f"{owner}.bias")[: 1 if conv.bias is None else 2]
        if conv.groups == conv.in_channels > 1:
            settings["depth_multiplier"] = conv.out_channels // conv.in_channels
            return self._add("DepthwiseConv2D", path, settings, at, weights)
        settings |= {"filters": conv.out_channels, "groups": conv.groups}
        return self._add("Conv2D", path, settings, at, weights)

    def _padded(self, at: int, conv: nn.Conv2d, path: str) -> tuple[int, dict[str, Any]]:
        """What `conv` reads, a layer of zeros where Keras needs one, and its own settings."""
        assert not isinstance(conv.padding, str)
        keeps_size = all(
            2 * p == d * (k - 1) for p, d, k in zip(conv.padding, conv.dilation, conv.kernel_size)
        )
        padding = "valid"
        if isinstance(conv, Conv2dSame):
            padding = "same"
        elif conv.padding != (0, 0):
            if keeps_size and conv.stride == (1, 1):
                padding = "same"  # as many zeros on both sides, as here
            else:
                down, across = conv.padding
                zeros = {"padding": ((down, down), (across, across)), **_LAST}
                at = self._add("ZeroPadding2D", f"{path}.pad", zeros, at)
        return at, {
            "kernel_size": conv.kernel_size,
            "strides": conv.stride,
            "padding": padding,
            "dilation_rate": conv.dilation,
            **_LAST,
        }

    def _pool(self, at: int, pool: MaxPool2d, path: str) -> int:
        if pool.dilation > 1:
            raise ValueError(
                f"cannot go to Keras: {path} pools pixels that lie apart (output_stride), which "
                "Keras's layer cannot; use the network's own output_stride"
            )
        settings = {"pool_size": (3, 3), "strides": (pool.stride,) * 2, "padding": "same", **_LAST}
        return self._add("MaxPooling2D", path, settings, at)

    def _simple(self, at: int, module: nn.Module, path: str) -> int:
        """What has no weights, and the dense layer."""
        if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            kind = "Average" if isinstance(module, nn.AdaptiveAvgPool2d) else "Max"
            return self._add(f"Global{kind}Pooling2D", path, {**_LAST, "keepdims": False}, at)
        if isinstance(module, nn.Dropout):
            return self._add("Dropout", path, {"rate": module.p}, at)
        if isinstance(module, nn.Linear):
            bias = module.bias is not None
            settings = {"units": module.out_features, "use_bias": bias}
            weights = (f"{path}.weight", f"{path}.bias")[: 1 + bias]
            return self._add("Dense", path, settings, at, weights)
        if isinstance(module, nn.LeakyReLU):
            return self._add("LeakyReLU", path, {"negative_slope": module.negative_slope}, at)
        return self._add("Activation", path, {"activation": _activation(module, path)}, at)

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


def _activation(module: nn.Module, path: str) -> str:
    if type(module) in _ACTIVATIONS:
        return _ACTIVATIONS[type(module)]
    if isinstance(module, nn.ELU) and module.alpha == 1:
        return "elu"
    if isinstance(module, nn.GELU):
        if module.approximate != "none":  # Keras's name "gelu" is the exact one
            raise ValueError(f"cannot go to Keras: {path} is the approximate GELU; use gelu")
        return "gelu"
    raise ValueError(f"cannot go to Keras: {path} is a {type(module).__name__}")
