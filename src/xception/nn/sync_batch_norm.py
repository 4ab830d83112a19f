"""Batch normalization over the batches of all processes, on any device.

`torch.nn.SyncBatchNorm` refuses CPUs. Here each process takes mean and variance of its own share
(as every way of computing the layer does), and (n, mean, variance) of all are combined. The shares
may differ in size, and may be empty: such a process takes part all the same.

Source of the combination: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise
algorithm for computing sample variances".
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from xception.nn.batch_statistics import (
    batch_statistics,
    refuse_single_value,
    scale_and_shift,
    update_running_statistics,
)

Network = TypeVar("Network", bound=nn.Module)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` whose statistics in training are those of all processes' pictures.

    x: (N, C, H, W) -> the same; N may differ between processes and be 0 on some

    process_group: the processes that share statistics (`torch.distributed`); None: all of them

    State dict, eps, momentum and eval mode are `BatchNorm2d`'s; running_var is unbiased over the
    values of all processes, and the running statistics are equal on all of them. Alone (no process
    group, or one of size 1) it is `BatchNorm2d`. Any device whose tensors the group's backend
    takes: gloo on CPUs, nccl on GPUs. Statistics are combined in float64.

    Every process of the group must call it equally often and in the same order, forward and
    backward. `torch.compile` leaves the exchange outside its graphs. Second derivatives through an
    exchange raise RuntimeError. A pickled layer leaves its group behind: loaded, it has None.
    Raises TypeError or ValueError when `process_group` does not hold this process, and ValueError
    when x has another number of channels than the layer, or when all processes together have one
    value a channel in training (checked on CPUs, where it costs nothing).
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: dist.ProcessGroup | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        more: dict[str, Any] = {} if bias else {"bias": False}  # older torch knows no such argument
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, **more
        )
        _check_group(process_group)
        self.process_group = process_group

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        if not (self.training and self.is_shared()):
            return super().forward(x)
        count = x.numel() // x.shape[1]
        mean, var, total = self.combined(*batch_statistics(x), count, x.shape)
        update_running_statistics(self, mean, var, total)
        scale, shift = scale_and_shift(self, mean, var)
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None]).to(x.dtype)

    def is_shared(self) -> bool:
        """Whether there are other processes in the group.

        Raises ValueError when this process is not in it.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return False
        size = dist.get_world_size(self.process_group)
        if size < 1:
            raise ValueError(
                "process_group does not hold this process; give it a group of its own, or None"
            )
        return size > 1

    def combined(
        self, mean: Tensor, var: Tensor, count: int, shape: torch.Size
    ) -> tuple[Tensor, Tensor, int | Tensor]:
        """Mean, biased variance and number of values a channel, of all processes; with gradients.

        mean, var: (C,), of this process's `count` values a channel (`count` 0: not read)
        shape: of this process's tensor, for the error alone

        The number is a tensor on devices where reading it would make the host wait.
        """
        own = (self.weight, self.bias, self.running_mean)
        sizes = {tensor.numel() for tensor in own if tensor is not None}
        if not sizes <= {mean.numel()}:
            raise ValueError(
                f"x must have as many channels as the layer, {self.num_features}, got input size "
                f"{tuple(shape)}"
            )
        mean, var, total = _combined(mean, var, count, self.process_group)
        if total.device.type != "cpu":
            return mean, var, total
        refuse_single_value(int(total), shape)
        return mean, var, int(total)

    def __getstate__(self) -> dict[str, Any]:
        """For pickling: a group belongs to the processes that run now."""
        return {**self.__dict__, "process_group": None}

    def __copy__(self) -> SyncBatchNorm2d:
        made = self.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> SyncBatchNorm2d:
        """A group is no data: the copy shares it (torch cannot copy one)."""
        if self.process_group is not None:
            memo[id(self.process_group)] = self.process_group
        made = self.__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made


def convert_sync_batchnorm(
    model: Network, process_group: dist.ProcessGroup | None = None
) -> Network:
    """`model`, each `torch.nn.BatchNorm2d` of which has become a `SyncBatchNorm2d`.

    process_group: see `SyncBatchNorm2d`

    Changes `model` and returns it. The layers stay the same objects with the same parameters and
    buffers, so an optimizer made before stays right, and so do hooks and other references; names
    and state dict do not change. Left alone: subclasses of BatchNorm2d, other normalization. Call
    it before DistributedDataParallel wraps the model; what `xception.fuse` swapped stays swapped.
    Raises TypeError when `model` is no module or `process_group` no group of this process.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    _check_group(process_group)
    for module in model.modules():
        kind = type(module)
        # A class that was put in the place of another names it, and makes its like for a third.
        if kind.__dict__.get("original", kind) is nn.BatchNorm2d:
            like: Any = getattr(kind, "in_place_of", lambda other: other)
            module.__class__ = like(SyncBatchNorm2d)
            cast(SyncBatchNorm2d, module).process_group = process_group
    return model


def _check_group(process_group: Any) -> None:
    if process_group is None:
        return
    if not (dist.is_available() and isinstance(process_group, dist.ProcessGroup)):
        raise TypeError(
            "process_group must be None or a torch.distributed.ProcessGroup that holds this "
            f"process, got {process_group!r}"
        )


def _combined(
    mean: Tensor, var: Tensor, count: int, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor]:
    if torch.compiler.is_compiling():  # an exchange between processes stays outside of the graph
        apply = torch.compiler.disable(_Combination.apply)  # type: ignore[no-untyped-call]
        return apply(mean, var, count, group)
    return _Combination.apply(mean, var, count, group)


class _Combination(torch.autograd.Function):
    """Mean and variance of all processes' values; one exchange forward, one backward.

    With n_r values, mean_r and var_r on process r, N their sum and s_r = n_r / N:

        mean = sum s_r mean_r        var = sum s_r (var_r + (mean_r - mean)^2)

    So d mean / d mean_r = d var / d var_r = s_r and d var / d mean_r = 2 s_r (mean_r - mean), and
    each process needs the sum of what arrives at mean and var on all of them.
    """

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, var: Tensor, count: int, group: dist.ProcessGroup | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        channels = mean.shape[0]
        own = mean.new_zeros(2 * channels + 1, dtype=torch.float64)
        if count > 0:
            own[0] = count
            own[1 : channels + 1] = mean
            own[channels + 1 :] = var
        gathered = own.new_empty(dist.get_world_size(group), own.shape[0])
        dist.all_gather(list(gathered.unbind()), own, group=group)
        counts, means, variances = torch.split(gathered, [1, channels, channels], dim=1)
        total = counts.sum()
        shares = counts / total.clamp(min=1)
        combined_mean = (shares * means).sum(0)
        combined_var = (shares * (variances + (means - combined_mean).square())).sum(0)
        ctx.save_for_backward(own[0] / total.clamp(min=1), own[1 : channels + 1] - combined_mean)
        ctx.group = group
        ctx.mark_non_differentiable(total)
        return combined_mean.to(mean.dtype), combined_var.to(var.dtype), total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_var: Tensor, _: Any) -> tuple[Any, ...]:
        share, offset = ctx.saved_tensors
        arrived = torch.cat((grad_mean, grad_var)).double()
        dist.all_reduce(arrived, group=ctx.group)
        of_mean, of_var = arrived.chunk(2)
        own_mean = share * (of_mean + 2 * offset * of_var)
        return own_mean.to(grad_mean.dtype), (share * of_var).to(grad_var.dtype), None, None
