"""A network in files that other runtimes read, from the cache or written into it."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import torch

from xception.atomic import write_atomically
from xception.export.description import describe
from xception.export.onnx import onnx_bytes
from xception.export.outputs import NetworkOutput
from xception.export.quantize import has_vnni, quantize_onnx, quantize_openvino
from xception.inference.calibration import Calibration
from xception.inference.export_cache import ExportCache
from xception.inference.runtimes import EXPORTERS, Precision, Runtime, version_of
from xception.models import Classifier

FORMAT = 1  # to be raised when what is written here changes without a version that tells


class Exports:
    """The files of one network at one size; each is made when it is first asked for.

    whole: in eval mode, its batch normalization folded; it must not change any more
    size: (height, width) in pixels
    calibration: for int8, else None
    """

    def __init__(
        self,
        whole: NetworkOutput,
        size: tuple[int, int],
        calibration: Calibration | None,
        cache: ExportCache,
    ) -> None:
        self.cache = cache
        self.picture_shape = (whole.network.in_channels, *size)
        self._whole = whole
        self._calibration = calibration

    @cached_property
    def key(self) -> str:
        """Of the network, its size and output, and of what exports it."""
        digest = network_digest(self._whole.network)
        versions = map(version_of, ("torch", *EXPORTERS))
        return digest_of(FORMAT, digest, self.picture_shape, self._whole.output, *versions)

    def file(self, runtime: Runtime, precision: Precision) -> Path:
        """The file that `runtime` (not torch) reads, whole and checked.

        Raises XceptionError where packages are missing or the cache cannot be written.
        """
        if precision == "fp32":
            return self.cache.entry(self.key, self._build_onnx) / "model.onnx"
        if self._calibration is None:
            raise RuntimeError("int8 without calibration")
        tools = (runtime, "nncf") if runtime == "openvino" else (runtime,)
        key = digest_of(
            self.key, runtime, self._calibration.digest(), has_vnni(), *map(version_of, tools)
        )
        if runtime == "openvino":
            return self.cache.entry(key, self._build_int8_openvino) / "int8.xml"
        return self.cache.entry(key, self._build_int8_onnx) / "int8.onnx"

    def _build_onnx(self, folder: Path) -> None:
        _, height, width = self.picture_shape
        content = onnx_bytes(self._whole.network, size=(height, width), output=self._whole.output)
        write_atomically(folder / "model.onnx", content)

    def _build_int8_onnx(self, folder: Path) -> None:
        quantize_onnx(self.file("onnxruntime", "fp32"), folder / "int8.onnx", self._batches())

    def _build_int8_openvino(self, folder: Path) -> None:
        quantize_openvino(self.file("openvino", "fp32"), folder / "int8.xml", self._batches())

    def _batches(self) -> list[torch.Tensor]:
        return [] if self._calibration is None else self._calibration.batches


def digest_of(*parts: object) -> str:
    """32 hexadecimal digits that differ where the parts (texts, numbers, tuples of them) do."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def network_digest(network: Classifier) -> str:
    """Of all that decides what a network computes and what an export says of it.

    These are weights and statistics, the modules in order with their settings (somebody may have
    replaced some), and the description.
    """
    sha = hashlib.sha256(describe(network).encode())
    for name, module in network.named_modules():
        kind = type(module)
        sha.update(f"{name}:{kind.__module__}.{kind.__qualname__}({module.extra_repr()})".encode())
    for name, tensor in network.state_dict().items():
        sha.update(f"{name}:{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        sha.update(flat.numpy())
    return sha.hexdigest()
