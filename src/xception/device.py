"""Which device the user means, and whether it can be used here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xception.errors import UsageError

if TYPE_CHECKING:
    import torch


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device by its torch name ("cpu", "cuda", "cuda:1", "mps"); None picks cuda, else cpu.

    Raises UsageError when there is no such device or this machine or torch build lacks it.
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = " ".join(str(error).splitlines()[:1])[:160]
        raise UsageError(
            f"device {str(device)!r} cannot be used here ({reason}); try 'cpu'"
        ) from None
    if chosen.type == "meta":
        raise UsageError("device 'meta' holds no numbers; give one that computes, such as 'cpu'")
    return chosen
