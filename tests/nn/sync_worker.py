"""One of several processes that train on shares of a batch; `test_sync_batch_norm.py` starts it.

python sync_worker.py FOLDER RANK SHARE...    a share: how many pictures a process has

Writes FOLDER/RANK.pt: for each case its name and what it gave. Without shares of others (a single
SHARE) it is the process that the others are compared with.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xception import create_model
from xception.models.checkpointing import checkpoint_block
from xception.nn import SyncBatchNorm2d, convert_sync_batchnorm

Found = dict[str, Tensor]


def pictures(total: int, channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The whole batch, far from zero mean, each picture otherwise; and a weight for each."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(total, channels, height, width, generator=generator, dtype=torch.float64)
    offsets = torch.arange(total, dtype=torch.float64)[:, None, None, None]
    return x * (1 + offsets / total) + offsets + 3, torch.rand(total, generator=generator)


def step(module: nn.Module, x: Tensor, weights: Tensor) -> Found:
    """Forward and backward of a loss that adds up over pictures; all that came of it."""
    leaf = x.clone().requires_grad_()
    out = module(leaf)
    shape = (1, *out.shape[1:])
    slopes = torch.linspace(-1, 1, out.shape[1:].numel(), dtype=x.dtype).reshape(shape)
    loss = (out * slopes * weights.to(x.dtype).reshape(-1, *[1] * (out.dim() - 1))).sum()
    loss.backward()
    found = {"out": out.detach(), "grad.x": leaf.grad}
    found |= {f"grad.{name}": p.grad for name, p in module.named_parameters()}
    found |= {f"buffer.{name}": b.clone() for name, b in module.named_buffers()}
    return found


def layers(**settings: Any) -> nn.Module:
    """Two normalizations one after the other, with a convolution between."""
    torch.manual_seed(0)
    return nn.Sequential(
        SyncBatchNorm2d(3, **settings),
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        SyncBatchNorm2d(4, **settings),
        nn.ReLU(),
    )


def changed(name: str, value: Any, **settings: Any) -> nn.Module:
    """`layers`, an attribute of both normalizations set afterwards."""
    model = layers(**settings)
    for norm in (model[0], model[2]):
        setattr(norm, name, value)
    return model.double()


def network(name: str = "xception_tiny", dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    model = create_model(name, num_classes=5).to(dtype).train()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.5)
    return convert_sync_batchnorm(model)


def checkpointed() -> nn.Module:
    model = network()
    model.set_grad_checkpointing()
    return model


class Recomputed(nn.Module):
    """A block that the kernels compute, and compute again on the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.block = network(dtype=torch.float32).entry_flow[1]

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint_block(self.block, x)


class Start(nn.Module):
    """Stem and first block by the kernels, recomputed; a process without pictures has none."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(dtype=torch.float32)
        self.network.keep_features(1)
        self.network.set_grad_checkpointing()

    def forward(self, x: Tensor) -> Tensor:
        return self.network.forward_features(x)


def frozen_start() -> nn.Module:
    """Some normalization in eval mode: there nothing is exchanged."""
    model = network()
    model.stem.eval()
    return model


LAYERS = (3, 5, 4)  # channels, height, width
PICTURES = (3, 28, 31)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], torch.dtype]] = {
    "layers": (lambda: layers().double(), LAYERS, torch.float64),
    "no affine": (lambda: layers(affine=False).double(), LAYERS, torch.float64),
    "cumulative": (lambda: layers(momentum=None).double(), LAYERS, torch.float64),
    "no statistics": (lambda: layers(track_running_stats=False).double(), LAYERS, torch.float64),
    "no bias": (lambda: changed("bias", None), LAYERS, torch.float64),
    "no weight": (lambda: changed("weight", None), LAYERS, torch.float64),
    "not tracked": (lambda: changed("track_running_stats", False), LAYERS, torch.float64),
    "not counted": (
        lambda: changed("num_batches_tracked", None, momentum=None), LAYERS, torch.float64,
    ),
    "float32": (layers, LAYERS, torch.float32),
    "bfloat16": (lambda: SyncBatchNorm2d(3), LAYERS, torch.bfloat16),
    "one pixel": (lambda: layers().double(), (3, 1, 1), torch.float64),
    "network": (network, PICTURES, torch.float64),
    "checkpointed": (checkpointed, PICTURES, torch.float64),
    "eval": (lambda: network().eval(), PICTURES, torch.float64),
    "frozen start": (frozen_start, PICTURES, torch.float64),
    "fused block": (
        lambda: network(dtype=torch.float32).entry_flow[1], (64, 9, 8), torch.float32,
    ),
    "fused, checkpointed": (Recomputed, (64, 9, 8), torch.float32),
    "fused start, checkpointed": (Start, PICTURES, torch.float32),
    "fused identity": (
        lambda: network(dtype=torch.float32).middle_flow[0], (128, 6, 5), torch.float32,
    ),
    "fused aligned": (
        lambda: network("xception41", torch.float32).exit_flow[1], (1024, 3, 4), torch.float32,
    ),
    "fused tail": (
        lambda: network("xception_small", torch.float32).tail, (384, 4, 5), torch.float32,
    ),
}  # fmt: skip


def distributed_cases(x: Tensor, weights: Tensor) -> dict[str, Any]:
    """What only several processes can show."""
    found: dict[str, Any] = {}
    model = nn.parallel.DistributedDataParallel(network())
    found["ddp"] = {
        name.replace("module.", ""): tensor for name, tensor in step(model, x, weights).items()
    }
    group = dist.new_group([0])
    if dist.get_rank() == 0:  # in eval mode, and alone in a group, the others need not be there
        network().eval()(x)
        norm = SyncBatchNorm2d(3, process_group=group)
        found["alone"] = copy.deepcopy(norm)(x.float())
        found["alone expected"] = nn.BatchNorm2d(3)(x.float())
    else:
        try:
            SyncBatchNorm2d(3, process_group=group)
        except TypeError as error:
            found["not a member"] = str(error)
    try:
        one_value = torch.ones(int(dist.get_rank() == 0), 3, 1, 1)
        SyncBatchNorm2d(3)(one_value)
    except ValueError as error:
        found["one value"] = str(error)
    norm = SyncBatchNorm2d(3)
    found["nothing"] = norm(torch.ones(0, 3, 2, 2)).detach()
    found["after nothing"] = norm.running_var
    return found


def main(folder: str, rank: int, shares: list[int]) -> None:
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    world = len(shares)
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
        )
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    for name, (make, shape, dtype) in CASES.items():
        x, weights = pictures(sum(shares), *shape)
        results[name] = step(make(), x[own].to(dtype), weights[own])
    if world > 1:
        x, weights = pictures(sum(shares), *PICTURES)
        results |= distributed_cases(x[own], weights[own])
        dist.destroy_process_group()
    torch.save(results, Path(folder) / f"{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(share) for share in sys.argv[3:]])
