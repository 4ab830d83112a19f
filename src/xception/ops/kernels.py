"""The compiled kernels for CPUs: whether they are there, which ones run, how to do without.

The environment variable XCEPTION_KERNELS says at the start, and `set_kernels` later:

    off        plain torch everywhere, what the kernels are compared with
    auto       the best instruction set of this machine (the default)
    baseline, avx2, avx512   one instruction set by its name
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import warnings
from collections.abc import Callable
from types import ModuleType

import torch
from torch.autograd import forward_ad

_is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]
VARIABLE = "XCEPTION_KERNELS"
_RUNTIMES = ("libgomp.so.1", "libomp.so", "libomp.so.5", "libiomp5.so", "libomp.dylib", None)


def _team_entry() -> int:
    """Address of GOMP_parallel in the OpenMP runtime that torch has loaded; 0: there is none."""
    if sys.platform == "win32":
        return 0
    for name in _RUNTIMES:  # None: whatever the process shows to all of its libraries
        try:
            library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0
        except (OSError, AttributeError):
            continue
    return 0


_extension: ModuleType | None
try:
    _extension = importlib.import_module("xception.ops._cpu")
    _extension.use_team(_team_entry())
except ImportError as error:
    _extension = None
    _why_not = "not built" if isinstance(error, ModuleNotFoundError) else str(error)

_active: ModuleType | None = None


def kernels() -> ModuleType | None:
    """The extension with its functions on addresses, or None: absent, or turned off."""
    return _active


def set_kernels(name: str) -> str:
    """Choose the kernels for this process: "off", "auto" or an instruction set.

    Returns the name to give for going back. Raises ValueError naming what is possible here.
    """
    global _active
    before = active_name()
    if name == "off":
        _active = None
        return before
    usable = usable_names()
    if name != "auto" and name not in usable:
        possible = ", ".join(["off", "auto", *usable])
        raise ValueError(f"kernels must be one of {possible} on this machine, got {name!r}")
    _active = _extension
    if _extension is not None:
        _extension.use_instruction_set(usable[-1] if name == "auto" else name)
    return before


def active_name() -> str:
    """The instruction set of the kernels in use, or "off"."""
    return "off" if _active is None else str(_active.instruction_set())


def usable_names() -> list[str]:
    """Instruction sets that were compiled in and that this machine has, the best one last."""
    return [] if _extension is None else list(_extension.usable_instruction_sets())


def describe_kernels() -> str:
    """For `xception --version`: "avx2 (of baseline, avx2), threads: ..." or why there are none."""
    if _extension is None:
        return f"none ({_why_not}: install with a C++ compiler at hand to have them)"
    if _active is None:
        return f"off (of {', '.join(usable_names())})"
    names = ", ".join(usable_names())
    return f"{active_name()} (of {names}), threads: {_extension.threading_name()}"


def required_kernels(operator: str, x: torch.Tensor, has_begun: bool = False) -> ModuleType:
    """For an operator's own body; raises RuntimeError where the kernels cannot compute it.

    has_begun: what is asked for is the way back of something that the kernels computed, so whether
        they were turned off since has no say
    """
    found = _extension if has_begun else _active
    if found is None or x.dtype != torch.float32 or x.device.type != "cpu":
        raise RuntimeError(
            f"torch.ops.xception.{operator} computes float32 on a CPU with the compiled kernels "
            f"alone; call xception.ops.{operator}, which knows other ways"
        )
    return found


def address(tensor: torch.Tensor | None) -> int:
    """Where its data lie; 0 for none."""
    return 0 if tensor is None or tensor.numel() == 0 else tensor.data_ptr()


def can_use_kernels(*tensors: torch.Tensor | None) -> bool:
    """Whether the kernels may take these: float32 on a CPU, no graph recorded, no autocast."""
    if _active is None or torch.is_autocast_enabled("cpu"):
        return False
    if torch.compiler.is_exporting() or _is_tracing() or _is_transformed():
        return False
    return all(
        tensor is None or (tensor.dtype == torch.float32 and tensor.device.type == "cpu")
        for tensor in tensors
    )


def _is_transformed() -> bool:
    """Within torch.func's transforms or forward-mode differentiation: these see plain torch alone.

    A registered operator has a backward and nothing else; forward mode would take it as constant.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _start() -> None:
    wanted = os.environ.get(VARIABLE, "auto") or "auto"
    try:
        set_kernels(wanted)
    except ValueError as error:
        warnings.warn(f"{VARIABLE}={wanted}: {error}; going on with auto", stacklevel=2)
        set_kernels("auto")


_start()
