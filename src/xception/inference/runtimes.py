"""What can run a network: torch, ONNX Runtime, OpenVINO. Each takes and gives ordinary tensors.

All compute in float32 (or int8, where the graph is quantized), with as many threads as torch has.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from xception.errors import UsageError
from xception.export.onnx import INPUT
from xception.export.outputs import NetworkOutput
from xception.export.requirements import is_installed, require
from xception.export.telemetry import import_without_telemetry

Runtime = Literal["torch", "onnxruntime", "openvino"]
RuntimeChoice = Literal["auto", Runtime]
Precision = Literal["fp32", "int8"]
Run = Callable[[Tensor], Tensor]  # float32 (N, C, H, W), N at least 1 -> float32 (N, width)

EXPORTERS = ("onnx", "onnxscript")  # without which torch is all there is


@dataclass(frozen=True, kw_only=True, slots=True)
class Road:
    """What runs a network, and how that was chosen.

    seconds: medians for one batch of `pictures`, by name, where candidates were measured
    note: why it is this one, where that is not by measuring
    is_news: whether a person should be told without asking; not of torch for short work
    """

    runtime: str
    version: str
    precision: str
    threads: int
    seconds: dict[str, float] = field(default_factory=dict)
    pictures: int = 0
    note: str = ""
    is_news: bool = True

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        text = f"{self.runtime} {self.version}, {self.precision}, {threads}"
        if self.seconds:
            figures = sorted(self.seconds.items(), key=lambda item: item[1])
            listed = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in figures)
            batch = f"{self.pictures} picture{'' if self.pictures == 1 else 's'}"
            text += f" (measured on {batch}: {listed})"
        return f"{text}; {self.note}" if self.note else text


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def check_runtime(runtime: str) -> None:
    """Raise UsageError unless it is "auto" or a runtime's name."""
    names = ("auto", *get_args(Runtime))
    if runtime not in names:
        raise UsageError(f"runtime must be one of {', '.join(names)}, got {runtime!r}")


def installed_runtimes() -> list[Runtime]:
    """Those that can be tried here, torch first; nothing is imported."""
    found: list[Runtime] = ["torch"]
    if all(map(is_installed, EXPORTERS)):
        others: tuple[Runtime, ...] = ("onnxruntime", "openvino")
        found += [name for name in others if is_installed(name)]
    return found


def require_runtime(runtime: Runtime) -> None:
    """Raise XceptionError, naming the extra, where `runtime` or what exports for it is missing."""
    if runtime != "torch":
        require(f"runtime {runtime}", *EXPORTERS, runtime)


def version_of(package: str) -> str:
    """Of what is installed, "missing" without it."""
    if package == "torch":
        return str(torch.__version__)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # it may come under another name, as -gpu
        if not is_installed(package):
            return "missing"
        return str(getattr(import_without_telemetry(package), "__version__", "unknown"))


class TorchRun:
    """A float32 network in eval mode, channels last, on the device of its pictures."""

    def __init__(self, network: NetworkOutput) -> None:
        self._network = network

    def __call__(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            rows = self._network(x.to(memory_format=torch.channels_last))
        return rows.clone()  # no inference tensor, which autograd would refuse


class OnnxRuntimeRun:
    """A session of ONNX Runtime on the CPU; several Python threads may call it at once."""

    def __init__(self, file: Path, threads: int) -> None:
        onnxruntime = import_without_telemetry("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        # Between calls the cores belong to torch and to those who decode pictures.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, x: Tensor) -> Tensor:
        (rows,) = self._session.run(None, {INPUT: x.contiguous().numpy()})
        return torch.from_numpy(rows)


class OpenVinoRun:
    """A compiled model of OpenVINO on the CPU; each Python thread has a request of its own."""

    def __init__(self, file: Path, threads: int) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # By itself it computes in bfloat16 or float16 where the processor has them.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        core = openvino.Core()
        self._compiled = core.compile_model(core.read_model(file), "CPU", settings)
        self._own = threading.local()

    def __call__(self, x: Tensor) -> Tensor:
        request: Any = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self._compiled.create_infer_request()
        results = request.infer({0: x.contiguous().numpy()}, share_inputs=True)
        return torch.from_numpy(results[0])
