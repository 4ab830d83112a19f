"""Blocks of a region stay apart, come back, and become one; maps in them are ordinary tensors."""

from __future__ import annotations

import copy
import io
import multiprocessing
import resource
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import xception
from xception.ops import region
from xception.ops.kernels import can_use_kernels
from xception.ops.region import LEAST_BYTES, Region, converted_map, empty_map

PAGE = region._PAGE
MIB = 1024 * 1024

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="a region is for Linux"
)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Region]:
    own = Region(512 * MIB)
    monkeypatch.setattr(region, "_region", own)
    yield own


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 40 * PAGE), st.integers(0, 30)), max_size=60)
)
def test_blocks_do_not_touch_and_all_of_it_comes_back(
    steps: list[tuple[bool, int, int]],
) -> None:
    own = Region(100 * PAGE)
    held = []
    for takes, size, which in steps:
        if takes:
            block = own.take(size)
            if block is None:
                assert all(length < size for _, length in own.free_blocks)
                continue
            assert len(block) == size
            value = len(held) % 251 + 1
            block[:] = bytes([value]) * size
            held.append((block, value))
            del block
        elif held:
            held.pop(which % len(held))
        free = own.free_blocks
        assert all(a + n < b for (a, n), (b, _) in pairwise(free))
        used = sum(-(-len(block) // PAGE) * PAGE for block, _ in held)
        assert sum(length for _, length in free) + used == own.size
    assert all(bytes(block) == bytes([value]) * len(block) for block, value in held)
    held.clear()
    assert own.free_blocks == [(0, own.size)]


def test_the_smallest_gap_that_fits_is_taken() -> None:
    own = Region(20 * PAGE)
    blocks = [own.take(n * PAGE) for n in (5, 1, 2, 1, 3, 1)]
    blocks[0] = blocks[2] = blocks[4] = None
    assert own.free_blocks[:3] == [(0, 5 * PAGE), (6 * PAGE, 2 * PAGE), (9 * PAGE, 3 * PAGE)]
    assert own.take(2 * PAGE) is not None
    assert own.free_blocks[:2] == [(0, 5 * PAGE), (6 * PAGE, 2 * PAGE)]


@pytest.mark.parametrize("form", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bfloat16])
def test_a_map_is_an_ordinary_tensor(
    opened: Region, form: torch.memory_format, dtype: torch.dtype
) -> None:
    like = torch.empty(1)
    shape = (2, 3, 1000, 801)
    x = empty_map(like, shape, dtype, form)
    assert opened.free_blocks != [(0, opened.size)]
    expected = torch.empty(shape, dtype=dtype, memory_format=form)
    assert x.stride() == expected.stride() and x.dtype == dtype and x.shape == expected.shape
    assert x._version == 0 and not x.requires_grad
    assert x._base is None and x.data_ptr() % 64 == 0
    assert x.untyped_storage().nbytes() == expected.untyped_storage().nbytes()
    x.copy_(torch.arange(7).repeat(x.numel() // 7 + 1)[: x.numel()].view(shape))
    stored = io.BytesIO()
    torch.save(x, stored)
    stored.seek(0)
    copies = (torch.load(stored), copy.deepcopy(x), x.clone())
    assert all(torch.equal(other, x) for other in copies)
    view = x[1:]
    del x
    assert opened.free_blocks != [(0, opened.size)]  # held by its view
    del view
    assert opened.free_blocks == [(0, opened.size)]


def test_small_maps_other_devices_and_fake_tensors_are_torchs(opened: Region) -> None:
    empty_map(torch.empty(1), (1, 1, 1, LEAST_BYTES // 4 - 1))
    shape = (1, 64, 256, 256)
    assert empty_map(torch.empty(1, device="meta"), shape).device.type == "meta"
    with FakeTensorMode():
        assert type(empty_map(torch.empty(1), shape)) is not torch.Tensor
    assert opened.free_blocks == [(0, opened.size)]


def test_where_the_region_is_full_torch_gives_the_map(opened: Region) -> None:
    maps = [empty_map(torch.empty(1), (1, 64, 1000, 1000)) for _ in range(3)]  # 256 MB each
    assert len({m.data_ptr() for m in maps}) == 3
    for value, m in enumerate(maps):
        m[..., -1] = value
    assert [m[0, 0, 0, -1].item() for m in maps] == [0, 1, 2]


def test_another_default_device_does_not_matter(opened: Region) -> None:
    like = torch.empty(1)
    with torch.device("meta"):
        x = empty_map(like, (1, 64, 256, 256))
    assert x.device.type == "cpu"
    assert opened.free_blocks != [(0, opened.size)]


def test_symbolic_shapes_are_no_matter_of_the_region(opened: Region) -> None:
    """Else every size would be a condition on which a compiled graph depends."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    environment = ShapeEnv()
    with FakeTensorMode(shape_env=environment) as mode:
        like = mode.from_tensor(torch.empty(64, 64, 64, 64))
        before = len(environment.guards)
        empty_map(like, like.shape)
        assert len(environment.guards) == before


@pytest.mark.parametrize("form", [torch.channels_last, torch.contiguous_format])
def test_converted_keeps_values_and_layout(opened: Region, form: torch.memory_format) -> None:
    x = torch.randn(4, 64, 128, 128).contiguous(memory_format=form)
    for y in (x, x[:, ::2], x[..., ::2], x[:, :1].contiguous(), x[..., :1, :1].contiguous()):
        found = converted_map(y, torch.bfloat16)
        assert torch.equal(found, y.to(torch.bfloat16))
        assert found.stride() == y.to(torch.bfloat16).stride()


def test_training_is_the_same_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_use_kernels(torch.empty(1)):
        pytest.skip("no kernels")
    x = torch.randn(8, 3, 64, 64).contiguous(memory_format=torch.channels_last)

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = xception.create_model("xception_tiny", num_classes=3)
        model = model.to(memory_format=torch.channels_last)
        for _ in range(2):
            with xception.compress_saved_activations():
                loss = model(x).square().sum()
            loss.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    plain = gradients()
    own = Region(1024 * MIB)
    monkeypatch.setattr(region, "_region", own)
    monkeypatch.setattr(region, "LEAST_BYTES", 1)
    taken = []
    take = own.take
    monkeypatch.setattr(own, "take", lambda size: taken.append(size) or take(size))
    within = gradients()
    assert len(taken) > 50
    assert all(torch.equal(a, b) for a, b in zip(plain, within, strict=True))
    assert own.free_blocks == [(0, own.size)]


def test_threads_take_and_return_at_once(opened: Region) -> None:
    wrong = []

    def work(value: int) -> None:
        for turn in range(50):
            x = empty_map(torch.empty(1), (1, 1, 1024 + value, 1024 + turn))
            x.fill_(value)
            if not bool((x == value).all()):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert opened.free_blocks == [(0, opened.size)]


def _child(ours: torch.Tensor, queue: multiprocessing.Queue[float]) -> None:
    theirs = empty_map(torch.empty(1), ours.shape)
    theirs.fill_(5)
    ours.add_(1)
    queue.put(ours[0, 0, 0, 0].item() + theirs[0, 0, 0, 0].item())


def test_a_forked_child_has_a_copy_of_its_own(opened: Region) -> None:
    x = empty_map(torch.empty(1), (1, 1, 1024, 1025)).fill_(1)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_child, args=(x, queue))
    process.start()
    assert queue.get(timeout=60) == 7
    process.join()
    assert x[0, 0, 0, 0].item() == 1


def test_before_a_fork_free_memory_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Region(64 * MIB)
    block, held = own.take(8 * MIB), own.take(MIB)
    assert block is not None and held is not None
    block[:4], held[:4] = b"free", b"held"
    del block
    own.discard()
    assert own.free_blocks[0] == (0, 8 * MIB)
    block = own.take(8 * MIB)
    assert block is not None
    assert (bytes(block[:4]), bytes(held[:4])) == (b"\0" * 4, b"held")


@pytest.mark.parametrize("scarce", ["addresses", "data", "overcommit"])
def test_where_addresses_count_there_is_no_region(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scarce: str
) -> None:
    monkeypatch.setattr(region, "_region", None)
    limited = {"addresses": resource.RLIMIT_AS, "data": resource.RLIMIT_DATA}.get(scarce)
    monkeypatch.setattr(resource, "getrlimit", lambda what: (2**34 if what == limited else -1, -1))
    strict = tmp_path / "overcommit"
    strict.write_text("2\n" if scarce == "overcommit" else "0\n")
    monkeypatch.setattr(region, "_OVERCOMMIT", strict)
    region.open_region()
    assert region._region is None


def test_a_system_that_refuses_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region, "_region", None)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(region.mmap, "mmap", refuse)
    region.open_region()
    assert region._region is None
    assert empty_map(torch.empty(1), (1, 64, 256, 256)).shape == (1, 64, 256, 256)
