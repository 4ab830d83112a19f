"""Decoded pictures kept in memory, shared between a process and the workers it forks."""

from __future__ import annotations

import mmap
import multiprocessing

import torch

AUTO_BYTES = 2**30  # "auto" keeps a data set that needs at most this much
_SAMPLED = 32  # pictures whose size is asked to guess what all need


class PictureCache:
    """Room for `count` uint8 pictures (C, H, W) of any sizes, filled as pictures come.

    The memory is anonymous and shared: what one worker decodes, the others and later epochs find.
    It is taken from the system as it fills, not at once, and does not count against /dev/shm. A
    process that is not forked but started afresh (spawn) gets no cache.

    Args:
        count: number of pictures.
        channels: of every picture.
        capacity: bytes for all pictures; those that do not fit any more are simply not kept.
    """

    def __init__(self, count: int, channels: int, capacity: int) -> None:
        self.channels = channels
        self.capacity = max(1, capacity)
        self._values = torch.frombuffer(mmap.mmap(-1, self.capacity), dtype=torch.uint8)
        self._places = _shared_integers(3 * max(1, count)).view(-1, 3)  # start + 1, height, width
        self._used = _shared_integers(1)
        self._lock = multiprocessing.get_context("fork").Lock()

    def get(self, i: int) -> torch.Tensor | None:
        """Picture `i`, a view that must not be changed; None if it is not kept."""
        start, height, width = self._places[i].tolist()
        if start == 0:
            return None
        flat = self._values[start - 1 : start - 1 + self.channels * height * width]
        return flat.view(height, width, self.channels).permute(2, 0, 1)

    def put(self, i: int, values: torch.Tensor) -> None:
        """Keep picture `i`, if there is room."""
        channels, height, width = values.shape
        size = channels * height * width
        with self._lock:
            start = int(self._used[0])
            if start + size > self.capacity or int(self._places[i, 0]):
                return
            self._used[0] = start + size
        self._values[start : start + size].view(height, width, channels).copy_(
            values.permute(1, 2, 0)
        )
        place = torch.tensor([start + 1, height, width])
        with self._lock:  # so that the values are seen before the place that points to them
            self._places[i] = place

    @property
    def bytes_used(self) -> int:
        """Bytes of the pictures that are kept."""
        return int(self._used[0])


def _shared_integers(count: int) -> torch.Tensor:
    return torch.frombuffer(mmap.mmap(-1, 8 * count), dtype=torch.int64)


def sampled_indices(count: int) -> list[int]:
    """A few indices spread over 0..count - 1."""
    step = max(1, count // _SAMPLED)
    return list(range(0, count, step))[:_SAMPLED]
