"""A network of ours as Keras layers with the same numbers, for the files that Keras 3 reads.

The layers of the paper's network bear the names they have in `keras.applications.Xception`.

Legend: hwio, hwcm: height, width, in-channels (c), out-channels (o) or multiplier (m) of a kernel.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from xception.models import Classifier
from xception.models.aligned import (
    AlignedBlock,
    NormalizedSeparableConv2d,
    PreActivatedSeparableConv2d,
)
from xception.models.head import ClassifierHead
from xception.models.mini_xception import ConvolutionHead
from xception.models.xception import SeparableUnit, XceptionBlock
from xception.nn import Conv2dSame, MaxPool2d, SegmentedConv2d, SeparableConv2d
from xception.weights.dialects.keras_writer import KerasLayer, Shape

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


def to_keras(model: Classifier, *, softmax: bool = True) -> KerasLayer:
    """The output layer of a Keras model that computes what `model` does in evaluation.

    softmax: end in probabilities, as Keras's own classifiers do; False: in logits
    Weights are float32 (16-bit ones are widened, which changes no value). The input has the size
    of the model's preprocessing and takes numbers that are scaled already, as
    `keras.applications.xception.preprocess_input` does.

    Raises ValueError, as the end of a sentence that begins with the model's name, when Keras has no
    equal for a layer or setting.
    """
    wide = [n for n, p in model.named_parameters() if p.dtype == torch.float64]
    if wide:
        raise ValueError(f"has 64-bit weights ({wide[0]}), which Keras would round; use .float()")
    height, width = model.preprocessing.size
    shape = (height, width, model.in_channels)
    x = KerasLayer(
        class_name="InputLayer",
        name="input_layer",
        config={"batch_shape": [None, *shape], "sparse": False},
        inputs=(),
        shape=shape,
    )
    builder = _Builder(model)
    for name, stage in model.stages():
        x = builder.layers_of(stage, name, x)
    x = builder.layers_of(model.head, "head", x)
    if softmax and model.num_classes > 1:
        if x.class_name == "Dense":
            x.config["activation"] = "softmax"
        else:
            x = builder.add("Activation", "predictions_softmax", {"activation": "softmax"}, x)
    return x


class _Builder:
    """Walks the modules in the order of their forward methods."""

    def __init__(self, model: Classifier) -> None:
        self._names = _KerasNames(model)

    def add(
        self,
        class_name: str,
        name: str,
        config: dict[str, Any],
        *inputs: KerasLayer,
        shape: Shape | None = None,
        weights: Sequence[npt.NDArray[Any]] = (),
    ) -> KerasLayer:
        """A layer after `inputs`; its output has the first one's shape unless `shape` is given."""
        return KerasLayer(
            class_name=class_name,
            name=self._names(name, class_name),
            config=config,
            inputs=inputs,
            shape=inputs[0].shape if shape is None else shape,
            weights=tuple(weights),
        )

    def layers_of(self, module: nn.Module, path: str, x: KerasLayer) -> KerasLayer:
        """The layers of `module`, whose name in the state dict is `path`, after `x`."""
        if isinstance(module, nn.Identity) or (isinstance(module, nn.Dropout) and module.p == 0):
            return x
        if isinstance(module, XceptionBlock | AlignedBlock):
            return self._block(module, path, x)
        if isinstance(module, SeparableConv2d):
            return self._separable(module, path, x)
        if isinstance(module, SegmentedConv2d):
            return self._segmented(module, path, x)
        if isinstance(module, _IN_SEQUENCE):
            for name, child in module.named_children():
                x = self.layers_of(child, f"{path}.{name}", x)
            return x
        if isinstance(module, nn.Conv2d):
            return self._convolution(module, path, x)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            return self._normalization(module, path, x)
        if isinstance(module, MaxPool2d):
            return self._pool(module, path, x)
        return self._simple(module, path, x)

    def _block(self, block: XceptionBlock | AlignedBlock, path: str, x: KerasLayer) -> KerasLayer:
        for name in ("norm", "act"):  # what an aligned block has before its skip connection
            if hasattr(block, name):
                x = self.layers_of(getattr(block, name), f"{path}.{name}", x)
        y = self.layers_of(block.units, f"{path}.units", x)
        pool = getattr(block, "pool", None)
        if pool is not None:
            y = self.layers_of(pool, f"{path}.pool", y)
        if block.skip is None:
            return y
        return self.add("Add", f"{path}.add", {}, y, self.layers_of(block.skip, f"{path}.skip", x))

    def _separable(self, module: SeparableConv2d, path: str, x: KerasLayer) -> KerasLayer:
        depthwise, pointwise = module.depthwise, module.pointwise
        at_once = (
            module.order == "depthwise_first"
            and isinstance(module.intermediate_activation, nn.Identity)
            and depthwise.bias is None
        )
        if not at_once:
            steps = ["depthwise", "intermediate_activation", "pointwise"]
            for name in steps if module.order == "depthwise_first" else reversed(steps):
                x = self.layers_of(getattr(module, name), f"{path}.{name}", x)
            return x
        x, padding = self._padded(depthwise, path, x)
        config = {
            "filters": pointwise.out_channels,
            "depth_multiplier": depthwise.out_channels // depthwise.in_channels,
            "use_bias": pointwise.bias is not None,
            "activation": "linear",
            **_geometry(depthwise, padding),
        }
        weights = [_depthwise_hwcm(depthwise), _array(pointwise.weight.permute(2, 3, 1, 0))]
        if pointwise.bias is not None:
            weights.append(_array(pointwise.bias))
        shape = (*_convolved(depthwise, x.shape, padding), pointwise.out_channels)
        return self.add("SeparableConv2D", path, config, x, shape=shape, weights=weights)

    def _segmented(self, module: SegmentedConv2d, path: str, x: KerasLayer) -> KerasLayer:
        if len(module.spatial.runs) > 1:
            raise ValueError(
                f"cannot go to Keras: {path} splits its channels unevenly into {module.segments} "
                "segments; choose a number of segments that divides the channels"
            )
        spatial = (module.spatial.runs[0], f"{path}.spatial")
        pointwise = (module.pointwise, f"{path}.pointwise")
        first, last = (
            (pointwise, spatial) if module.order == "pointwise_first" else (spatial, pointwise)
        )
        x = self.layers_of(*first, x)
        x = self.layers_of(module.intermediate_activation, f"{path}.intermediate_activation", x)
        return self.layers_of(*last, x)

    def _convolution(self, conv: nn.Conv2d, path: str, x: KerasLayer) -> KerasLayer:
        x, padding = self._padded(conv, path, x)
        config = {**_geometry(conv, padding), "use_bias": conv.bias is not None}
        config["activation"] = "linear"
        if conv.groups == conv.in_channels > 1:
            class_name, kernel = "DepthwiseConv2D", _depthwise_hwcm(conv)
            config["depth_multiplier"] = conv.out_channels // conv.in_channels
        else:
            class_name, kernel = "Conv2D", _array(conv.weight.permute(2, 3, 1, 0))
            config |= {"filters": conv.out_channels, "groups": conv.groups}
        weights = [kernel] if conv.bias is None else [kernel, _array(conv.bias)]
        shape = (*_convolved(conv, x.shape, padding), conv.out_channels)
        return self.add(class_name, path, config, x, shape=shape, weights=weights)

    def _padded(self, conv: nn.Conv2d, path: str, x: KerasLayer) -> tuple[KerasLayer, str]:
        """What `conv` reads, and Keras's name for the padding that remains to be done."""
        if isinstance(conv, Conv2dSame):
            return x, "same"
        assert not isinstance(conv.padding, str)
        if conv.padding == (0, 0):
            return x, "valid"
        keeps_size = all(
            2 * p == d * (k - 1) for p, d, k in zip(conv.padding, conv.dilation, conv.kernel_size)
        )
        if keeps_size and conv.stride == (1, 1):
            return x, "same"  # the same on both sides, as here
        down, across = conv.padding
        height, width, channels = x.shape
        zeros = self.add(
            "ZeroPadding2D",
            f"{path}.pad",
            {"padding": [[down, down], [across, across]], "data_format": "channels_last"},
            x,
            shape=(height + 2 * down, width + 2 * across, channels),
        )
        return zeros, "valid"

    def _normalization(
        self, norm: nn.BatchNorm2d | nn.BatchNorm1d, path: str, x: KerasLayer
    ) -> KerasLayer:
        if norm.momentum is None or norm.running_mean is None or norm.running_var is None:
            raise ValueError(f"cannot go to Keras: {path} keeps no moving statistics")
        config = {
            "axis": -1,
            "momentum": round(1 - norm.momentum, 12),  # 0.99, not 0.99000000000000001
            "epsilon": norm.eps,
            "center": True,
            "scale": True,
        }
        parts = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        weights = [_array(part) for part in parts]
        return self.add("BatchNormalization", path, config, x, weights=weights)

    def _pool(self, pool: MaxPool2d, path: str, x: KerasLayer) -> KerasLayer:
        if pool.dilation > 1:
            raise ValueError(
                f"cannot go to Keras: {path} pools pixels that lie apart (output_stride), which "
                "Keras's layer cannot; use the network's own output_stride"
            )
        height, width, channels = x.shape
        if pool.padding == "torch" and pool.stride == 2 and (height % 2 == 0 or width % 2 == 0):
            raise ValueError(
                f"cannot go to Keras exactly: {path} pads {height}x{width} on both sides "
                "(padding='torch'), Keras at the end only, which gives other numbers"
            )
        config = {
            "pool_size": [3, 3],
            "strides": [pool.stride, pool.stride],
            "padding": "same",
            "data_format": "channels_last",
        }
        shape = (math.ceil(height / pool.stride), math.ceil(width / pool.stride), channels)
        return self.add("MaxPooling2D", path, config, x, shape=shape)

    def _simple(self, module: nn.Module, path: str, x: KerasLayer) -> KerasLayer:
        if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            kind = "Average" if isinstance(module, nn.AdaptiveAvgPool2d) else "Max"
            config = {"data_format": "channels_last", "keepdims": False}
            return self.add(f"Global{kind}Pooling2D", path, config, x, shape=x.shape[-1:])
        if isinstance(module, nn.Flatten):  # after global pooling there is nothing to flatten
            return x
        if isinstance(module, nn.Dropout):
            return self.add("Dropout", path, {"rate": module.p}, x)
        if isinstance(module, nn.Linear):
            weights = [_array(module.weight.T)]
            if module.bias is not None:
                weights.append(_array(module.bias))
            config = {
                "units": module.out_features,
                "use_bias": module.bias is not None,
                "activation": "linear",
            }
            shape = (module.out_features,)
            return self.add("Dense", path, config, x, shape=shape, weights=weights)
        if isinstance(module, nn.LeakyReLU):
            return self.add("LeakyReLU", path, {"negative_slope": module.negative_slope}, x)
        if isinstance(module, nn.ELU):
            return self.add("ELU", path, {"alpha": module.alpha}, x)
        if isinstance(module, nn.GELU):
            if module.approximate != "none":  # Keras's name "gelu" is the exact one
                raise ValueError(f"cannot go to Keras: {path} is the approximate GELU; use gelu")
            return self.add("Activation", path, {"activation": "gelu"}, x)
        if type(module) in _ACTIVATIONS:
            return self.add("Activation", path, {"activation": _ACTIVATIONS[type(module)]}, x)
        raise ValueError(f"cannot go to Keras: {path} is a {type(module).__name__}")


_IN_SEQUENCE = (
    ClassifierHead,
    ConvolutionHead,
    nn.Sequential,
    SeparableUnit,
    NormalizedSeparableConv2d,
    PreActivatedSeparableConv2d,
)


class _KerasNames:
    """From a module's name in the state dict to the layer's name in Keras."""

    def __init__(self, model: Classifier) -> None:
        flows = [name for name, _ in model.stages() if re.fullmatch(r"\w+_flow\.\d+", name)]
        # block1 is the stem; what follows the last block counts as one more.
        self._numbers = {name: number for number, name in enumerate(flows, start=2)}
        self._tail = len(flows) + 2
        self._taken: set[str] = set()

    def __call__(self, path: str, class_name: str) -> str:
        name = self._keras_name(path, class_name)
        if name in self._taken:
            name = path.replace(".", "_")
        self._taken.add(name)
        return name

    def _keras_name(self, path: str, class_name: str) -> str:
        if path in _HEAD_NAMES:
            return _HEAD_NAMES[path]
        if stem := re.fullmatch(r"stem\.(conv|norm|act)(\d)", path):
            return f"block1_conv{stem[2]}" + _SUFFIXES[stem[1]]
        if unit := re.fullmatch(r"(\w+_flow\.\d+)\.units\.(\d+)\.(act|conv|norm)", path):
            block = self._numbers[unit[1]]
            return f"block{block}_sepconv{int(unit[2]) + 1}" + _SUFFIXES[unit[3]]
        if part := re.fullmatch(r"(\w+_flow\.\d+)\.(pool|add)", path):
            return f"block{self._numbers[part[1]]}_{part[2]}"
        if skip := re.fullmatch(r"(\w+_flow\.\d+)\.skip\.(conv|norm)", path):
            return f"block{self._numbers[skip[1]]}_skip" + _SUFFIXES[skip[2]]
        if tail := re.fullmatch(r"tail\.(\d+)(?:\.(conv|norm))?", path):
            number = int(tail[1]) // 2 + 1
            suffix = _SUFFIXES[tail[2] or "act"]
            return f"block{self._tail}_sepconv{number}" + suffix
        return path.replace(".", "_")


_SUFFIXES = {"conv": "", "norm": "_bn", "act": "_act"}
_HEAD_NAMES = {
    "head.pool": "avg_pool",
    "head.dropout": "dropout",
    "head.fc": "predictions",
}


def _geometry(conv: nn.Conv2d, padding: str) -> dict[str, Any]:
    return {
        "kernel_size": list(conv.kernel_size),
        "strides": list(conv.stride),
        "padding": padding,
        "dilation_rate": list(conv.dilation),
        "data_format": "channels_last",
    }


def _convolved(conv: nn.Conv2d, shape: Shape, padding: str) -> tuple[int, ...]:
    """Height and width after `conv` on height, width, channels."""
    if padding == "same":
        return tuple(math.ceil(size / s) for size, s in zip(shape, conv.stride))
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size)]
    return tuple((size - r - 1) // s + 1 for size, r, s in zip(shape, reach, conv.stride))


def _depthwise_hwcm(conv: nn.Conv2d) -> npt.NDArray[Any]:
    """(c * m, 1, h, w), a channel's filters side by side, to (h, w, c, m)."""
    height, width = conv.kernel_size
    weight = conv.weight.reshape(conv.in_channels, -1, height, width)
    return _array(weight.permute(2, 3, 0, 1))


def _array(values: Tensor) -> npt.NDArray[Any]:
    return values.detach().float().cpu().contiguous().numpy()
