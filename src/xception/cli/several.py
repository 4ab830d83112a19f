"""A command in several processes, as torchrun starts them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from xception.processes import Processes


@contextmanager
def together(device: str | None) -> Iterator[tuple[Processes, str | torch.device | None]]:
    """The processes of this command, met with each other, and where this one computes.

    Alone, `device` is what comes back. Raises UsageError.
    """
    from xception.device import usable_device
    from xception.processes import Processes

    processes = Processes.started()
    if not processes.are_several:
        yield processes, device
        return
    own = processes.own_device(usable_device(device))
    processes.join(own)
    try:
        yield processes, own
    finally:
        processes.leave()
