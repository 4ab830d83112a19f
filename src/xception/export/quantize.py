"""int8 by the runtimes' own tools: static quantization, scales and zero points from real pictures.

    quantize_onnx("model.onnx", "int8.onnx", calibration)        for ONNX Runtime
    quantize_openvino("model.onnx", "int8.xml", calibration)     for OpenVINO, by NNCF

Weights are quantized a channel at a time, activations as a whole. How much accuracy that costs is
for the caller to measure, on the processor that will run it: without VNNI instructions sums of
8-bit products can saturate.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xception.atomic import move_atomically
from xception.errors import UsageError
from xception.export.onnx import INPUT
from xception.export.openvino import save_openvino
from xception.export.requirements import require
from xception.export.telemetry import import_without_telemetry


def quantize_onnx(source: Path, target: Path, calibration: Sequence[Tensor]) -> None:
    """Write the int8 form (QDQ) of an ONNX file of `to_onnx` to `target`, whole or not at all.

    calibration: batches of prepared pictures, float32 (N, C, height, width), as the graph takes
        them; some hundred pictures in all are enough

    Metadata come along. Raises XceptionError where the extra is missing, UsageError without any
    picture, OSError where the file cannot be written.
    """
    require("int8 by ONNX Runtime", "onnx", "onnxruntime")
    batches = _filled(calibration)
    quantization = import_without_telemetry("onnxruntime.quantization")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}.") as folder:
        made = Path(folder) / target.name
        with _quiet():
            quantization.quantize_static(
                source,
                made,
                _reader(batches, quantization.CalibrationDataReader),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=not has_vnni(),  # weights of 7 bits: their sums cannot saturate
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        move_atomically(made, target)


def quantize_openvino(source: Path, target: Path, calibration: Sequence[Tensor]) -> None:
    """Write the int8 form of an ONNX file of `to_onnx` to `target` (.xml) and its .bin.

    calibration: as for `quantize_onnx`

    Raises XceptionError where the extra is missing or the files cannot be written, UsageError
    without any picture.
    """
    require("int8 by OpenVINO", "openvino", "nncf")
    batches = _filled(calibration)
    import openvino

    with _quiet():
        nncf = import_without_telemetry("nncf")
        pictures = [picture for batch in batches for picture in torch.split(batch, 1)]
        data = nncf.Dataset(pictures, lambda picture: {INPUT: picture.numpy()})
        quantized = nncf.quantize(
            openvino.Core().read_model(source), data, subset_size=len(pictures)
        )
    save_openvino(quantized, target)


def has_vnni() -> bool:
    """Whether 8-bit products are summed in 32 bits here: VNNI on x86, any ARM; False if unsaid."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return "vnni" in flags or "asimd" in flags


def _filled(calibration: Sequence[Tensor]) -> list[Tensor]:
    batches = [batch for batch in calibration if len(batch)]
    if not batches:
        raise UsageError("calibration has no picture; give some hundred of those that will come")
    return batches


def _reader(batches: Sequence[Tensor], base: Any) -> Any:
    """What ONNX Runtime asks for one batch after the other; `base` is its class for that."""

    class Reader(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch.contiguous().numpy()}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Both tools print, draw bars and log advice that does not apply to these graphs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
