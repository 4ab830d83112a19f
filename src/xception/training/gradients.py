"""Gradients summed over processes while backward still runs.

torch's DistributedDataParallel takes the mean over processes and waits for a gradient of each of
them. Here shares of a batch may differ in size, and a process whose share is empty takes part with
zeros; so what is summed has been divided by the pictures of all before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_BYTES = 25 * 1024 * 1024  # exchanged together; DistributedDataParallel's size


class GradientExchange:
    """Buckets of parameters whose gradients are summed over all processes.

    parameters: those that are trained, of one device, in the order of the network: backward
        reaches the last ones first

    with exchange.summing():
        loss.backward()

    leaves the sum over all processes in every `grad`, the same to the bit on all. Within, a
    parameter that backward does not reach counts as zeros; one that is frozen stays without. Every
    process has to do so equally often.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._buckets = _buckets(parameters)
        self._place = {id(p): i for i, bucket in enumerate(self._buckets) for p in bucket}
        self._waiting: list[int] = []
        self._next = 0
        self._running: list[tuple[Any, Tensor, list[nn.Parameter]]] = []
        self._is_open = False
        for bucket in self._buckets:
            for parameter in bucket:  # all of which require gradients now; later some may not
                parameter.register_post_accumulate_grad_hook(self._has_gradient)  # type: ignore[no-untyped-call]

    def __enter__(self) -> None:
        self._waiting = [sum(p.requires_grad for p in bucket) for bucket in self._buckets]
        self._next = 0
        self._is_open = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_open = False
        if kind is not None:
            self._running.clear()
            return
        while self._next < len(self._buckets):  # what backward did not reach
            self._start(self._next)
        for work, total, bucket in self._running:
            work.wait()
            parts = torch.split(total, [p.numel() for p in bucket])
            for parameter, part in zip(bucket, parts, strict=True):
                if parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
                parameter.grad.copy_(part.view(parameter.shape))
        self._running.clear()

    def summing(self) -> GradientExchange:
        """For a `with` statement around the last backward pass before a step."""
        return self

    def _has_gradient(self, parameter: Tensor) -> None:
        if not self._is_open:  # a part of an accumulated batch that is not the last
            return
        index = self._place[id(parameter)]
        self._waiting[index] -= 1
        # In this order alone, so that all processes exchange the same bucket at a time.
        while self._next < len(self._buckets) and self._waiting[self._next] == 0:
            self._start(self._next)

    def _start(self, index: int) -> None:
        self._next = index + 1
        bucket = [parameter for parameter in self._buckets[index] if parameter.requires_grad]
        if not bucket:
            return
        total = torch.cat([_flat_gradient(parameter) for parameter in bucket])
        self._running.append((dist.all_reduce(total, async_op=True), total, bucket))


def _flat_gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        return parameter.new_zeros(parameter.numel())
    return parameter.grad.detach().reshape(-1)


def _buckets(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """From the last parameter to the first; one dtype each."""
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for parameter in reversed(list(parameters)):
        own = parameter.numel() * parameter.element_size()
        if not buckets or size + own > BUCKET_BYTES or buckets[-1][0].dtype != parameter.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += own
    return buckets
