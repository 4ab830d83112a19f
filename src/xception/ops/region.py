"""Memory for large feature maps that stays with the process and does not fall to pieces.

A general allocator puts small objects, and gradients that outlive the backward pass, into the gaps
that large maps leave; the next large map then finds room nowhere and the process grows, to nearly
twice what is in use when Xception trains at 299 pixels. So the large ones get a range of addresses
of their own: best fit, and neighbours that are free become one block again.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor, nn

LEAST_BYTES = 4 * 1024 * 1024  # smaller ones fit into gaps anyway
_PAGE = mmap.PAGESIZE
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python has it from 3.13 on
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


class Region:
    """A range of addresses handed out in blocks.

    size: bytes; nothing of it is memory before it is written to
    Raises OSError where the system refuses such a range.
    """

    def __init__(self, size: int) -> None:
        self.size = size // _PAGE * _PAGE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        self._memory = mmap.mmap(-1, self.size, flags=flags)
        self._memory.madvise(mmap.MADV_DONTDUMP)  # a core file would hold zeros up to its end
        self._whole = memoryview(self._memory)
        self._free = [(0, self.size)]  # (start, bytes), by start
        self._returned: deque[tuple[int, int]] = deque()
        self._lock = Lock()

    def take(self, size: int) -> memoryview | None:
        """A block of `size` bytes, its own until nobody holds it; None where there is no room.

        Slices of it do not hold it; `torch.frombuffer` does.
        """
        needed = -(-size // _PAGE) * _PAGE
        with self._lock:
            self._take_back()
            fitting = [i for i, (_, length) in enumerate(self._free) if length >= needed]
            if not fitting:
                return None
            index = min(fitting, key=lambda i: self._free[i][1])
            start, length = self._free[index]
            self._free[index : index + 1] = (
                [(start + needed, length - needed)] if length > needed else []
            )
        block = self._whole[start : start + size]
        # Called wherever the last reference goes, even within `take`: so it takes no lock.
        weakref.finalize(block, self._returned.append, (start, needed)).atexit = False
        return block

    @property
    def free_blocks(self) -> list[tuple[int, int]]:
        """(start, bytes) of what is free, by start; neighbours are one."""
        with self._lock:
            self._take_back()
            return list(self._free)

    def discard(self) -> None:
        """Hand the memory of all free blocks back to the system; their addresses stay."""
        with self._lock:
            self._take_back()
            for start, length in self._free:
                self._memory.madvise(mmap.MADV_DONTNEED, start, length)

    def unlock(self) -> None:
        """In a forked child: whoever held the lock is not here."""
        self._lock = Lock()

    def _take_back(self) -> None:
        while self._returned:
            start, length = self._returned.popleft()
            index = bisect_left(self._free, (start, length))
            if index < len(self._free) and start + length == self._free[index][0]:
                length += self._free.pop(index)[1]
            if index and sum(self._free[index - 1]) == start:
                before, its_length = self._free.pop(index - 1)
                start, length, index = before, its_length + length, index - 1
            self._free.insert(index, (start, length))


_region: Region | None = None


def open_region() -> None:
    """From now on large feature maps of our operators come from a region, where there can be one.

    It spans as many addresses as the machine has memory, on Linux; elsewhere, and where addresses
    are limited or count as memory, nothing changes.
    """
    global _region
    if _region is not None or not sys.platform.startswith("linux") or _are_addresses_scarce():
        return
    try:
        region = Region(os.sysconf("SC_PHYS_PAGES") * _PAGE)
    except (OSError, ValueError, OverflowError):
        return
    # What is free would be copied page by page while a child lives: data workers live long.
    os.register_at_fork(before=region.discard, after_in_child=region.unlock)
    _region = region


def _are_addresses_scarce() -> bool:
    """Whether what the region only reserves would be missing elsewhere."""
    import resource

    limits = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    if any(resource.getrlimit(limit)[0] != resource.RLIM_INFINITY for limit in limits):
        return True
    try:
        return _OVERCOMMIT.read_text().strip() == "2"  # strict: every address counts
    except OSError:
        return False


def empty_map(
    like: Tensor,
    shape: Sequence[int],
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """A tensor (N, C, H, W) of any content, of `like`'s device and, unless given, its dtype."""
    dtype = dtype or like.dtype
    if (
        _region is not None
        and type(like) in (Tensor, nn.Parameter)  # first: the shapes of fake ones are symbols
        and like.device.type == "cpu"
        and (size := math.prod(shape) * dtype.itemsize) >= LEAST_BYTES
        and (block := _region.take(size)) is not None
    ):
        strides = _strides(shape, memory_format)
        storage = torch.frombuffer(block, dtype=torch.uint8).untyped_storage()
        found = torch.empty(0, dtype=dtype, device="cpu").set_(storage, 0, tuple(shape), strides)
        return found.data  # which nobody has written into yet: its version is 0
    return torch.empty(tuple(shape), dtype=dtype, device=like.device, memory_format=memory_format)


def converted_map(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` (N, C, H, W) in another dtype, its layout kept where it is one of the two usual ones."""
    if type(x) in (Tensor, nn.Parameter):
        for memory_format in (torch.channels_last, torch.contiguous_format):
            if x.stride() == _strides(x.shape, memory_format):
                return empty_map(x, x.shape, dtype, memory_format).copy_(x)
    return x.to(dtype)


def _strides(shape: Sequence[int], memory_format: torch.memory_format) -> tuple[int, ...]:
    _, c, h, w = shape
    if memory_format == torch.channels_last:
        return h * w * c, 1, w * c, c
    return h * w * c, h * w, w, 1
