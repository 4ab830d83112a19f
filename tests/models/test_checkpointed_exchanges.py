"""Processes that compute a stage differently exchange the same things in the same order.

One process plays them in turn: with the kernels, without, and with no pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from xception import create_model
from xception.nn import SyncBatchNorm2d, convert_sync_batchnorm
from xception.ops import set_kernels
from xception.ops.kernels import usable_names

Exchanges = list[tuple[str, int]]


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exchanges]:
    """What is exchanged, in a group of one that takes itself for more."""
    if not usable_names():
        pytest.skip("the compiled kernels are not built here")
    seen: Exchanges = []
    gather, reduce = dist.all_gather, dist.all_reduce

    def all_gather(out: list[Tensor], own: Tensor, **options: Any) -> Any:
        seen.append(("forward", own.numel()))
        return gather(out, own, **options)

    def all_reduce(own: Tensor, **options: Any) -> Any:
        seen.append(("backward", own.numel()))
        return reduce(own, **options)

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setattr(SyncBatchNorm2d, "is_shared", lambda _: True)
    before = set_kernels("auto")
    yield seen
    set_kernels(before)
    dist.destroy_process_group()


TRAINED: dict[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    "pointwise": lambda name: "pointwise" in name or "head" in name,
    "biases": lambda name: name.endswith("bias"),
    "skips": lambda name: "skip" not in name,
    "without stem": lambda name: "stem" not in name,
}


@pytest.mark.parametrize("name", ["xception_tiny", "xception41"])
@pytest.mark.parametrize("trained", TRAINED)
def test_every_process_exchanges_alike(exchanges: Exchanges, name: str, trained: str) -> None:
    torch.manual_seed(0)
    model = convert_sync_batchnorm(create_model(name, features_only=True, out_indices=(1,)))
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(TRAINED[trained](key.removeprefix("network.")))
    model.set_grad_checkpointing()

    def found(kernels: str, pictures: int) -> Exchanges:
        set_kernels(kernels)
        exchanges.clear()
        model.network.forward_features(torch.randn(pictures, 3, 33, 33)).sum().backward()
        return list(exchanges)

    expected = found("off", 2)
    forward, backward = (
        sum(kind == way for kind, _ in expected) for way in ("forward", "backward")
    )
    assert forward > backward > 0
    assert found("auto", 2) == expected
    assert found("auto", 0) == expected


def test_a_tap_within_a_stage(exchanges: Exchanges) -> None:
    """Two tensors of a stage, one of which the loss may leave out."""
    model = create_model("xception41", features_only=True, out_indices=(0, 1))
    model.set_grad_checkpointing()
    x = torch.randn(2, 3, 33, 33)

    def gradient() -> Tensor:
        model.zero_grad()
        model(x)[0].square().sum().backward()
        return model.network.stem.conv1.weight.grad.clone()

    expected = gradient()
    convert_sync_batchnorm(model)
    torch.testing.assert_close(gradient(), expected, rtol=1e-3, atol=1e-3)
