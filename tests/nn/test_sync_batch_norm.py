"""Batch normalization over processes equals that of one process on the whole batch."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from xception.nn import SyncBatchNorm2d, can_normalize, convert_sync_batchnorm
from xception.nn.batch_statistics import (
    batch_statistics,
    scale_and_shift,
    update_running_statistics,
)

WORKER = Path(__file__).with_name("sync_worker.py")
SHARES = [(4, 2), (3, 0, 3)]  # pictures of each process: unequal, and none at all
CASES = {  # and how far the results may be off, of the largest value
    "layers": 1e-12, "no affine": 1e-12, "cumulative": 1e-12, "no statistics": 1e-12,
    "one pixel": 1e-12, "network": 1e-11, "checkpointed": 1e-11, "frozen start": 1e-11,
    "no bias": 1e-12, "no weight": 1e-12, "not tracked": 1e-12, "not counted": 1e-12,
    "fused start, checkpointed": 1e-4, "eval": 1e-11, "float32": 1e-5, "fused block": 1e-5,
    "fused identity": 1e-5, "fused tail": 1e-5, "fused aligned": 1e-5, "fused, checkpointed": 1e-5,
    "bfloat16": 1e-2,
}  # fmt: skip

Results = dict[str, Any]


def run(folder: Path, shares: tuple[int, ...]) -> list[Results]:
    """What each process found."""
    numbers = [str(share) for share in shares]
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), str(rank), *numbers],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(len(shares))
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in started:
            process.kill()  # one that failed leaves the others waiting
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(shares))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One process with the whole batch."""
    return run(tmp_path_factory.mktemp("alone"), (6,))[0]


@pytest.fixture(scope="module", params=SHARES, ids=str)
def together(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Results]:
    return run(tmp_path_factory.mktemp("together"), request.param)


def off(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-3)).item()


def merged(key: str, parts: list[Tensor]) -> Tensor:
    """What one process would have: pictures one after the other, gradients added up."""
    if key in ("out", "grad.x"):
        return torch.cat(parts)
    return torch.stack(parts).sum(0) if key.startswith("grad") else parts[0]


@pytest.mark.parametrize("case", CASES)
def test_processes_together_are_one_process(
    alone: Results, together: list[Results], case: str
) -> None:
    """Outputs, gradients of inputs and parameters, and buffers."""
    for key, expected in alone[case].items():
        parts = [results[case][key] for results in together]
        if key.startswith("buffer"):
            assert all(torch.equal(part, parts[0]) for part in parts), key
        assert off(merged(key, parts), expected) <= CASES[case], key


def test_data_parallel_training(alone: Results, together: list[Results]) -> None:
    """DistributedDataParallel averages gradients; their sum is one process's."""
    for key, expected in alone["network"].items():
        parts = [results["ddp"][key] for results in together]
        found = merged(key, parts)
        if key.startswith("grad.") and key != "grad.x":
            assert all(torch.equal(part, parts[0]) for part in parts), key
        assert off(found, expected) <= CASES["network"], key


def test_wrong_use_and_nothing_at_all(together: list[Results]) -> None:
    torch.testing.assert_close(together[0]["alone"], together[0]["alone expected"])
    for rank, results in enumerate(together):
        assert "more than 1 value per channel" in results["one value"]
        if rank > 0:
            assert results["not a member"].startswith("process_group must be")
        assert results["nothing"].shape == (0, 3, 2, 2)
        assert torch.equal(results["after nothing"], torch.ones(3))


# ---- one process ----------------------------------------------------------------------------


@pytest.fixture(params=["no group", "a group of one"])
def single(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "no group":
        yield
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("settings", [
    {}, {"momentum": None, "eps": 1e-3}, {"affine": False}, {"track_running_stats": False},
])  # fmt: skip
def test_alone_it_is_batch_norm_bit_for_bit(
    single: None, settings: dict[str, Any], training: bool
) -> None:
    ours = SyncBatchNorm2d(3, **settings).train(training)
    theirs = nn.BatchNorm2d(3, **settings).train(training)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 3, 4, 5)
    for _ in range(2):
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [ours(inputs[0]), theirs(inputs[1])]
        for out in outputs:
            out.square().sum().backward()
        assert torch.equal(*outputs) and torch.equal(inputs[0].grad, inputs[1].grad)
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[key]), key


@pytest.mark.skipif(
    "bias" not in inspect.signature(nn.BatchNorm2d).parameters, reason="torch without the argument"
)
def test_without_a_bias() -> None:
    norm = SyncBatchNorm2d(3, bias=False)
    assert norm.bias is None and norm.weight is not None


@pytest.mark.parametrize("change", [
    {"bias": None}, {"weight": None}, {"track_running_stats": False},
    {"momentum": None, "num_batches_tracked": None},
], ids=lambda change: ", ".join(change))  # fmt: skip
def test_the_parts_together_are_torchs(change: dict[str, Any]) -> None:
    theirs = nn.BatchNorm2d(3).double()
    nn.init.uniform_(theirs.weight, 0.5, 1.5)
    nn.init.normal_(theirs.bias)
    for name, value in change.items():
        setattr(theirs, name, value)
    ours = copy.deepcopy(theirs)
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64) + 2
    mean, var = batch_statistics(x)
    update_running_statistics(ours, mean, var, x.numel() // 3)
    scale, shift = scale_and_shift(ours, mean, var)
    torch.testing.assert_close(x * scale[:, None, None] + shift[:, None, None], theirs(x))
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer)


@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"track_running_stats": False}])
def test_other_channels_are_refused_before_the_exchange(settings: dict[str, Any]) -> None:
    norm = SyncBatchNorm2d(1, **settings)
    with pytest.raises(ValueError, match=r"as many channels as the layer, 1, got .*\(2, 3, 4, 5\)"):
        norm.combined(torch.zeros(3), torch.ones(3), 40, torch.Size((2, 3, 4, 5)))


class Own(nn.BatchNorm2d):
    pass


def test_conversion_keeps_everything_else() -> None:
    shared = nn.BatchNorm2d(4)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0.1, momentum=None), nn.BatchNorm1d(4), Own(4),
        nn.Sequential(shared, shared), nn.BatchNorm2d(4, affine=False).eval(),
    ).double()  # fmt: skip
    seen: list[str] = []
    model[1].register_forward_hook(lambda *_: seen.append("hook"))
    before = dict(model.named_parameters()) | dict(model.named_buffers())
    keys = list(model.state_dict())
    assert convert_sync_batchnorm(model) is model
    after = dict(model.named_parameters()) | dict(model.named_buffers())
    assert list(model.state_dict()) == keys
    assert before.keys() == after.keys() and all(after[key] is before[key] for key in before)
    assert [type(layer).__name__ for layer in model[1:4]] == [
        "SyncBatchNorm2d",
        "BatchNorm1d",
        "Own",
    ]
    assert model[4][0] is model[4][1] and isinstance(model[4][0], SyncBatchNorm2d)
    assert model[1].eps == 0.1 and model[1].momentum is None and model[1].training
    assert not model[5].training and model[5].process_group is None and model[5].weight is None
    model[1](torch.ones(2, 4, 1, 1, dtype=torch.float64))
    assert seen == ["hook"]


def test_conversion_keeps_the_layer_itself() -> None:
    """So what holds it goes on to hold it: state-dict hooks, other lists of layers."""
    norm = nn.BatchNorm2d(3)
    seen: list[nn.Module] = []
    norm.register_load_state_dict_pre_hook(lambda module, *_: seen.append(module))
    model = nn.Sequential(norm)
    convert_sync_batchnorm(model)
    model.load_state_dict(model.state_dict())
    assert model[0] is norm and seen == [norm] and isinstance(norm, SyncBatchNorm2d)
    alone = nn.BatchNorm2d(2)
    assert convert_sync_batchnorm(alone) is alone and isinstance(alone, SyncBatchNorm2d)


def test_a_copy_shares_the_group(single: None) -> None:
    group = dist.group.WORLD if dist.is_initialized() else None
    model = convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(3)), group)
    copied = copy.deepcopy(model)
    assert copied[0].process_group is group
    assert copied[0].weight is not model[0].weight
    assert torch.equal(copied(torch.ones(2, 3, 1, 1)), model(torch.ones(2, 3, 1, 1)))


def test_a_pickled_layer_leaves_the_group_behind(single: None) -> None:
    group = dist.group.WORLD if dist.is_initialized() else None
    norm = SyncBatchNorm2d(3, process_group=group)
    loaded = pickle.loads(pickle.dumps(norm))
    assert loaded.process_group is None and torch.equal(loaded.weight, norm.weight)
    assert norm.process_group is group and copy.copy(norm).process_group is group


def test_the_fused_way_takes_it() -> None:
    assert can_normalize(SyncBatchNorm2d(3))


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"^process_group must be .* got 3$"):
        SyncBatchNorm2d(3, process_group=3)
    with pytest.raises(TypeError, match=r"^process_group must be"):
        convert_sync_batchnorm(nn.Identity(), "gloo")
    with pytest.raises(TypeError, match=r"^model must be a torch\.nn\.Module, got list$"):
        convert_sync_batchnorm([])
