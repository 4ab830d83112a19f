"""Tuning of glibc's allocator for CPU training.

By default glibc maps every large block afresh from the kernel and gives it back at once; each
activation of a training step is page-faulted in again. Keeping freed memory inside the process
removes that cost. It is process-wide, so it is never done by importing: a program asks for it.
"""

from __future__ import annotations

import ctypes
import logging
import sys

from xception.ops.region import open_region

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD = -1  # the numbers are those of glibc's malloc.h
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_TOP_PAD_BYTES = 256 * 1024 * 1024


def tune_allocator() -> bool:
    """Make glibc keep freed memory in the process; call it before the first large allocation.

    Returns True when the setting was taken, False where there is no glibc (macOS, Windows, musl)
    or it refused; nothing changes then. Memory that was used once stays with the process. Which of
    the two it was is logged as INFO; `xception --verbose` shows it.
    """
    taken = _set()
    if taken:
        open_region()
    log.info(
        "glibc's allocator keeps freed memory from now on"
        if taken
        else "the allocator stays as it is: there is no glibc here, or it refuses"
    )
    return taken


def _set() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        _ = libc.gnu_get_libc_version  # musl has no such function, and its mallopt does nothing
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    largest = 2**31 - 1
    settings = (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, largest),
        (_M_TOP_PAD, _TOP_PAD_BYTES),
    )
    return all(mallopt(name, value) == 1 for name, value in settings)
