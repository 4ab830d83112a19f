"""Versions and machine: what a bug report or the repetition of a run needs to know."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("torch", "torchvision", "accelerate", "torchmetrics", "numpy", "pillow", "safetensors")


def describe_environment() -> dict[str, str]:
    """Versions, platform, processor, threads and accelerators, in the order to show them.

    Imports torch (it alone knows threads and accelerators) but no other package; one that is not
    installed is said to be "missing".
    """
    import torch

    from xception import __version__
    from xception.ops import describe_kernels

    described = {"xception": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            described[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            described[package] = "missing"
    described["torch"] = str(torch.__version__)  # with its build, such as +cpu or +cu130
    described["platform"] = platform.platform()
    capability = torch.backends.cpu.get_cpu_capability()
    described["cpu"] = f"{cpu_name()} ({os.cpu_count()} logical cores, torch uses {capability})"
    described["kernels"] = describe_kernels()
    described["threads"] = str(torch.get_num_threads())
    described["cuda"] = _cuda()
    return described


def cpu_name() -> str:
    """The processor's name as its maker calls it, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):
        pass  # not Linux, or hidden: the standard library's answer is less telling, but there
    return platform.processor() or platform.machine()


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{torch.version.cuda}, {', '.join(names)}"
