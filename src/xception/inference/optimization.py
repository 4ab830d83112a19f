"""The fastest way to run a network on this machine: batch normalization folded, runtimes measured.

    fast = xception.optimize(model)
    rows = fast(pictures)     # float32 (N, C, H, W) -> (N, num_classes), as model(pictures) gives
    print(fast.road)          # what has run it, and what else was measured

Exports and choices are kept, see export_cache.py.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from xception.errors import UsageError
from xception.export.folding import fold_batch_norm
from xception.export.onnx import picture_size
from xception.export.outputs import NetworkOutput, Output, check_output
from xception.inference.calibration import Calibration, Item, read_calibration
from xception.inference.choosing import Chooser
from xception.inference.export_cache import ExportCache
from xception.inference.exports import Exports
from xception.inference.network import as_network, class_labels
from xception.inference.runtimes import (
    Precision,
    Road,
    Run,
    Runtime,
    RuntimeChoice,
    check_runtime,
    installed_runtimes,
    require_runtime,
)
from xception.models import Classifier, Preprocessing
from xception.ops import can_use_kernels

BORROWED = 2  # batches of a second kind that the road of the first takes, before it is measured


def optimize(
    model: str | os.PathLike[str] | Classifier,
    runtime: RuntimeChoice = "auto",
    precision: Literal["fp32", "int8", "auto"] = "fp32",
    *,
    calibration: Tensor | Iterable[Item] | None = None,
    max_loss: float = 0.005,
    size: int | tuple[int, int] | None = None,
    output: Output = "logits",
    cache: str | os.PathLike[str] | None = None,
) -> OptimizedModel:
    """A callable that gives what `model` gives in eval mode, as fast as can be had here.

    Args:
        model: a model file, a run folder, or a network of `create_model`. What it holds now is
            used; later changes are not seen.
        runtime: "auto" measures torch and each installed runtime on the first batch (single
            pictures and larger batches for themselves) and remembers the fastest. A model on an
            accelerator is run by torch.
        precision: "fp32"; "int8", which falls back to float32 with a warning where it loses too
            much; "auto" takes int8 where there is a calibration, it loses little and is faster.
        calibration: some hundred prepared pictures for int8: float32 (N, C, H, W), or anything
            that iterates over such tensors, or over pairs of them and their classes.
        max_loss: accuracy that int8 may lose on `calibration`, 0..1; without classes, what the
            network's own probabilities say of it (see `accuracy_lost`).
        size: side or (height, width) of the pictures in pixels, by default the preprocessing's.
        output: "logits", or features (see `Output`).
        cache: folder for exports and choices, by default ~/.cache/xception/exports.

    Raises XceptionError where the runtime is not installed or the cache cannot be written,
    UsageError for arguments that do not fit each other, ModelFileError for the model's file.
    """
    check_runtime(runtime)
    check_output(output)
    if precision not in ("auto", *get_args(Precision)):
        raise UsageError(f"precision must be one of fp32, int8, auto, got {precision!r}")
    if not 0 <= max_loss <= 1:
        raise UsageError(f"max_loss must be within 0..1, got {max_loss}")
    network = as_network(model, None)
    sides = picture_size(network, size)
    runtimes = _runtimes(runtime, next(network.parameters()).device)
    data: Calibration | None = None
    if precision != "fp32" and calibration is not None:
        data = read_calibration(calibration, network.in_channels, sides)
    if precision != "fp32":
        _check_int8(network, output, precision, data)
    if precision == "int8" and runtimes == ["torch"]:
        if runtime == "auto" and next(network.parameters()).device.type == "cpu":
            require_runtime("onnxruntime")  # which says how to get it
        raise UsageError("precision 'int8' needs runtime 'onnxruntime' or 'openvino', on the CPU")
    frozen = fold_batch_norm(network).float().to(memory_format=torch.channels_last)
    whole = NetworkOutput(frozen, output).eval()
    exports = Exports(whole, sides, data, ExportCache(cache))
    by_torch = NetworkOutput(_for_torch(network, frozen), output).eval()
    return OptimizedModel(
        whole, sides, Chooser(by_torch, exports, runtimes, precision, data, max_loss)
    )


def _for_torch(network: Classifier, folded: Classifier) -> Classifier:
    """The copy that torch runs: whole where the compiled kernels apply normalization in passing.

    They take blocks as they were built; of a folded one torch's own layers would be called.
    """
    if not can_use_kernels(next(folded.parameters())):
        return folded
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    return copied.to(torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _runtimes(runtime: str, device: torch.device) -> list[Runtime]:
    """Those to choose among; UsageError or XceptionError where the one that is asked for cannot."""
    if runtime == "auto":
        return installed_runtimes() if device.type == "cpu" else ["torch"]
    (named,) = (name for name in get_args(Runtime) if name == runtime)
    if named != "torch" and device.type != "cpu":
        raise UsageError(
            f"runtime {named!r} computes on the CPU and the model is on {device}; give "
            "runtime='torch', or move it by model.cpu()"
        )
    require_runtime(named)
    return [named]


def _check_int8(
    network: Classifier, output: Output, precision: str, data: Calibration | None
) -> None:
    if output != "logits" or network.num_classes < 2:
        raise UsageError("int8 is judged by classes: it needs output 'logits' and two classes")
    if precision == "int8" and data is None:
        raise UsageError("precision 'int8' needs calibration=, some hundred prepared pictures")


class OptimizedModel:
    """What `optimize` returns: x, float32 (N, C, height, width) -> float32 (N, width), any N.

    The rows come on the model's device, whatever that of x is. Several Python threads may call it
    at once. The number of torch's threads counts as it is when a road is chosen.

    network: the folded copy, in eval mode; it must not be changed
    output: what comes out of it
    size: (height, width) of the pictures in pixels
    road: what has run the last batch; None before the first, where there is something to measure
    """

    def __init__(self, whole: NetworkOutput, size: tuple[int, int], chooser: Chooser) -> None:
        self.network = whole.network
        self.output: Output = whole.output
        self.size = size
        self.road: Road | None = None
        self._width = whole.width
        self._device = next(whole.parameters()).device
        self._chooser = chooser
        self._lock = threading.Lock()
        self._roads: dict[bool, tuple[Run, Road]] = {}  # by whether a picture comes alone
        self._borrowed = 0
        if chooser.is_settled:
            self._roads = dict.fromkeys((False, True), chooser.choose(torch.empty(0)))
            self.road = self._roads[True][1]

    @property
    def class_names(self) -> list[str] | None:
        """One name a class, or None when they are not known."""
        return self.network.class_names

    @property
    def classes(self) -> list[str]:
        """Class names by index; "class 17" where they are not known."""
        return class_labels(self.network)

    @property
    def num_classes(self) -> int:
        """Logits that come out."""
        return self.network.num_classes

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.network.in_channels

    @property
    def preprocessing(self) -> Preprocessing:
        """How a picture becomes the input."""
        return self.network.preprocessing

    @property
    def architecture(self) -> dict[str, Any]:
        """Name and arguments of the network."""
        return self.network.architecture

    def __call__(self, x: Tensor) -> Tensor:
        """Raises ValueError for another shape than (N, in_channels, height, width)."""
        expected = (self.in_channels, *self.size)
        if x.dim() != 4 or tuple(x.shape[1:]) != expected:
            raise ValueError(
                f"x must be (N, {', '.join(map(str, expected))}), got {tuple(x.shape)}; another "
                "size needs an optimize(..., size=) of its own"
            )
        if len(x) == 0:
            return torch.empty(0, self._width, device=self._device)
        x = x.detach().to(self._device, torch.float32)
        run, self.road = self._roads.get(len(x) == 1) or self._choose(x)
        return run(x)

    def _choose(self, x: Tensor) -> tuple[Run, Road]:
        single = len(x) == 1
        with self._lock:
            if single not in self._roads:
                if self._roads and self._borrowed < BORROWED:
                    # such as the last picture of a long row of batches: not worth measuring
                    self._borrowed += 1
                    return self._roads[not single]
                self._roads[single] = self._chooser.choose(x)
            return self._roads[single]
