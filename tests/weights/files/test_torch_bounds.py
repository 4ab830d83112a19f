"""What repeats or holds itself in a torch file takes no more time and memory than promised."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xception.weights.files import torch_tensors
from xception.weights.files.contents import FileContents
from xception.weights.files.torch_file import read_torch_file

Write = Callable[..., bytes]
Read = Callable[[bytes], FileContents]
Refusal = Callable[[bytes], str]
Same = Callable[[dict[str, Tensor], dict[str, Tensor]], bool]


def test_many_names_of_one_tensor(
    saved: Write, torch_contents: Read, same_bits: Same, form: str
) -> None:
    """Layers that share their weights have them under each name in the state dict."""
    shared = torch.randn(100_000)
    state = {str(number): shared for number in range(20)}
    assert same_bits(torch_contents(saved(state, form)).tensors, state)


def test_a_small_part_of_a_large_storage(
    saved: Write,
    torch_contents: Read,
    torch_refusal: Refusal,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One number must not cost the memory of a file that unpacks to gigabytes."""
    content = saved({"w": torch.zeros(10_000)[:2]}, form)
    assert torch_contents(content).tensors["w"].shape == (2,)
    monkeypatch.setattr(torch_tensors, "MAX_UNUSED_BYTES", 1000)
    assert "'w' as a part of 40,000 bytes" in torch_refusal(content)


MODULE = b"cnetwork\nModel\n)\x81"
PARTS = b"X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_buffers}X\x08\x00\x00\x00_modules"


def test_modules_that_hold_themselves(torch_archive: Write, torch_refusal: Refusal) -> None:
    itself = MODULE + b"q\x00}(" + PARTS + b"}X\x01\x00\x00\x00ah\x00sub."
    assert "more than 64 deep" in torch_refusal(torch_archive(itself))
    as_wrapper = MODULE + b"q\x00}(" + PARTS + b"}X\x06\x00\x00\x00moduleh\x00sub."
    line = torch_refusal(torch_archive(as_wrapper))
    assert "64 deep" in line or "without weights" in line


def test_modules_that_share_each_other_in_every_level(
    torch_archive: Write, torch_refusal: Refusal
) -> None:
    """Sixty levels of two children that are the same one: 2 ** 60 modules by name."""
    level = MODULE + b"}(" + PARTS + b"}ub"
    for _ in range(60):
        level = (
            level
            + b"\x94"
            + MODULE
            + b"}("
            + PARTS
            + b"}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00b"
            b"h\x00uub"
        ).replace(b"\x94", b"q\x00", 1)
    assert "more than 500,000 objects" in torch_refusal(torch_archive(level + b"."))


def test_dictionaries_that_hold_themselves(torch_archive: Write, torch_refusal: Refusal) -> None:
    content = b"}q\x00X\x0a\x00\x00\x00state_dicth\x00s."
    assert "no state dict" in torch_refusal(torch_archive(content))


def test_one_large_mapping_under_many_names(torch_archive: Write, torch_refusal: Refusal) -> None:
    """A few bytes repeat a mapping; looking at each anew would take for ever."""
    entries = b"".join(b"X\x05\x00\x00\x00" + b"%05d" % n + b"N" for n in range(20_000))
    names = b"".join(b"X\x05\x00\x00\x00" + b"%05d" % n + b"h\x00" for n in range(20_000))
    content = b"}(" + entries + b"uq\x000}(" + names + b"u."
    assert "objects around tensors" in torch_refusal(torch_archive(content))


def test_wrappings_without_end(torch_archive: Write, torch_refusal: Refusal) -> None:
    parameter = b"ctorch._utils\n_rebuild_parameter\n"
    deep = b"}X\x01\x00\x00\x00w" + parameter * 1000 + b"N" + b"\x85R" * 1000 + b"s."
    assert "'w'" in torch_refusal(torch_archive(deep))
    cycle = b"}X\x01\x00\x00\x00w" + parameter + b"]q\x00h\x00a\x85Rs."
    assert "'w'" in torch_refusal(torch_archive(cycle))


def test_more_tensors_than_allowed(torch_archive: Write, torch_refusal: Refusal) -> None:
    record = b"ctorch._utils\n_rebuild_tensor\n)Rq\x000"
    names = b"".join(b"X\x05\x00\x00\x00" + b"%05d" % n + b"h\x00" for n in range(20_001))
    assert "more than 20,000 tensors" in torch_refusal(
        torch_archive(record + b"}(" + names + b"u.")
    )


def test_memory_stays_within_the_promise(saved: Write, same_bits: Same, form: str) -> None:
    """Python's own memory is counted here; the tensors' is the file's."""
    state = {str(number): torch.ones(1000) for number in range(500)}
    content = saved(state, form)
    file = io.BytesIO(content)
    tracemalloc.start()
    tensors = read_torch_file(file, len(content)).tensors
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert same_bits(tensors, state) and peak < 8 * 2**20
