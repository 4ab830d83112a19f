"""The processes that work on one thing together, as torchrun and `accelerate launch` start them.

Each takes its share: of every batch in training, of the pictures in evaluation. What is counted is
summed over all of them; what is written, the first one writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xception.errors import OtherProcessError, UsageError, XceptionError

Value = TypeVar("Value")

TIMEOUT = timedelta(hours=2)  # one process may evaluate or write while the others wait


class Processes:
    """The group of this command; alone where nobody started several.

    index: of this process, from 0; count: of all of them; local_index: on this machine
    """

    def __init__(
        self, index: int = 0, count: int = 1, local_index: int = 0, on_this_machine: int = 1
    ) -> None:
        self.index, self.count = index, count
        self.local_index, self.on_this_machine = local_index, on_this_machine
        self._owns_group = False

    @classmethod
    def started(cls) -> Processes:
        """Those that a launcher has started, by its variables, or a program that calls us.

        Raises UsageError where the variables do not fit together.
        """
        if dist.is_available() and dist.is_initialized():
            index, count = dist.get_rank(), dist.get_world_size()
        else:
            index, count = _number("RANK", 0), _number("WORLD_SIZE", 1)
            if index >= count or (count > 1 and "RANK" not in os.environ):
                raise UsageError(
                    f"RANK {os.environ.get('RANK', '(none)')} does not fit WORLD_SIZE {count}; "
                    "start the processes by torchrun, or unset both"
                )
        return cls(index, count, _number("LOCAL_RANK", index), _number("LOCAL_WORLD_SIZE", count))

    @property
    def launch(self) -> str | None:
        """What torchrun calls this start of them and all restarts of it; None without torchrun."""
        name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
        return None if name == "none" else name

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.index == 0

    @property
    def are_several(self) -> bool:
        return self.count > 1

    def join(self, device: torch.device) -> None:
        """Meet the others; before anything is exchanged.

        Raises UsageError when they cannot be reached, or not so that numbers can be exchanged.
        """
        if not self.are_several or self._owns_group:
            return
        if dist.is_initialized():
            try:
                self.wait()
            except RuntimeError:
                raise UsageError(
                    "the process group takes no tensors of the CPU; initialize it with backend "
                    "'gloo', or 'cpu:gloo,cuda:nccl'"
                ) from None
            return
        # Numbers of the host go over gloo, tensors of a GPU over nccl.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, timeout=TIMEOUT)
        except (ValueError, RuntimeError) as error:
            line = str(error).strip().splitlines()[0]
            raise UsageError(
                f"the {self.count} processes cannot meet ({line}); start them by torchrun"
            ) from None
        self._owns_group = True

    def own_device(self, device: torch.device) -> torch.device:
        """Where this process computes: several of a machine take a GPU each.

        Raises UsageError where there are not so many, or one was named.
        """
        if device.type == "cpu" or not self.are_several:
            return device
        if device.type != "cuda" or device.index is not None:
            raise UsageError(
                f"{self.count} processes cannot share device {device}; give --device cuda, which "
                "is one for each, or cpu"
            )
        if self.on_this_machine > torch.cuda.device_count():
            raise UsageError(
                f"{self.on_this_machine} processes were started on a machine with "
                f"{torch.cuda.device_count()} GPUs; start one for each, or give --device cpu"
            )
        device = torch.device("cuda", self.local_index)
        torch.cuda.set_device(device)
        return device

    def leave(self) -> None:
        """Part from the others; at the end."""
        if self._owns_group and dist.is_initialized():
            dist.destroy_process_group()
        self._owns_group = False

    def share(self, items: Sequence[Value]) -> Sequence[Value]:
        """This process's part of what all have: neighbours, as evenly as it goes, maybe none."""
        first = len(items) * self.index // self.count
        return items[first : len(items) * (self.index + 1) // self.count]

    def sums(self, *values: float) -> list[float]:
        """Of each value over all processes, in float64."""
        if not self.are_several:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def add_up(self, value: Tensor) -> Tensor:
        """The sum over all processes of a tensor on their devices."""
        if not self.are_several:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total

    def gathered(self, value: Value) -> list[Value]:
        """That of every process, in their order. Plain values and tensors of the host."""
        if not self.are_several:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def from_first(self, value: Value) -> Value:
        """The first process's value."""
        if not self.are_several:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def first_does(self, action: Callable[[], Value]) -> Value:
        """What `action` gives in the first process, which alone does it, for all.

        Its XceptionError there is an OtherProcessError elsewhere.
        """
        if not self.are_several:
            return action()
        outcome: Any = None
        failure: XceptionError | None = None
        if self.is_first:
            try:
                outcome = (action(), None)
            except XceptionError as error:
                failure, outcome = error, (None, str(error))
        value, message = self.from_first(outcome)
        if failure is not None:
            raise failure
        if message is not None:
            raise OtherProcessError(f"the first process has stopped: {message}")
        return value

    def copy_from_first(self, model: nn.Module) -> None:
        """Weights and buffers of the first process's network, into everybody's."""
        if self.are_several:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Until all have come here."""
        if self.are_several:
            self.sums(0.0)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UsageError(f"{name} must be a number, got {text!r}; start the processes by torchrun")
    return int(text)
