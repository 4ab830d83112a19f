"""Mutated torch files: each gives tensors or one ValueError, in bounded memory, and nothing else.

XCEPTION_FUZZ=50000 pytest -s tests/weights/files/test_torch_fuzz.py

makes a long run. Input number N is the same in every run.
"""

from __future__ import annotations

import io
import os
import pickletools
import random
import re
import struct
import sys
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from xception.weights.files.contents import FileContents
from xception.weights.files.torch_file import read_torch_file

resource = pytest.importorskip("resource")  # limits of memory are the system's

INPUTS = int(os.environ.get("XCEPTION_FUZZ", "500"))
MEMORY_BYTES = 96 * 2**20  # 64 MiB, twice the tensors of a mutated seed, and the allocator's waste
SECONDS = 30  # of one input, on a machine that is busy with other things

NUMBERS = [0, 1, 2, 7, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63]
OPCODES = [operation.code.encode("latin-1") for operation in pickletools.opcodes]
PIECES = [
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"cos\nsystem\n"),
    *(b"X\x07\x00\x00\x00storage", b"X\x01\x00\x00\x000", b"X\x0a\x00\x00\x00state_dict"),
    *(
        b"ccollections\nOrderedDict\n)R",
        b"\x8a\x08" + b"\xff" * 8,
        b"M\xff\xff",
        b"K\x02",
        b"K\x00",
    ),
    *(
        b"X\x08\x00\x00\x00_modules}",
        b"X\x0b\x00\x00\x00_parameters}",
        b"(tQ",
        b")\x81}b",
        b"h\x00",
    ),
]


def seeds() -> list[bytes]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Sequential(nn.Linear(2, 2)))
    base = torch.arange(24.0)
    values: list[Any] = [
        model.state_dict(),
        model,
        nn.DataParallel(model),
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}},
        {"a": base[2:7], "b": base.view(4, 6).t(), "c": torch.ones(1).expand(9), "d": base.half()},
        {"parameter": nn.Parameter(base), "bool": base > 3, "new": base.to(torch.uint16)},
        {"sparse": torch.eye(2).to_sparse(), "meta": torch.ones(2, device="meta")},
    ]
    made = []
    for value in values:
        for options in ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}):
            buffer = io.BytesIO()
            torch.save(value, buffer, **options)  # type: ignore[arg-type]
            made.append(buffer.getvalue())
    return made


def mutated(content: bytes, chance: random.Random, places: range) -> bytes:
    """`content` with a few changes at `places`: bits, numbers, runs, instructions, cuts."""
    result = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        at = chance.choice(places) if places else 0
        at = min(at, max(len(result) - 1, 0))
        kind = chance.randrange(9)
        if kind == 0 and result:
            result[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and result:
            result[at] = chance.randrange(256)
        elif kind == 2:
            form = chance.choice(["<B", "<H", "<L", "<Q", ">Q"])
            number = chance.choice(NUMBERS) + chance.randrange(-1, 2)
            width = struct.calcsize(form)
            result[at : at + width] = struct.pack(form, number % 2 ** (8 * width))
        elif kind == 3:
            del result[at : at + chance.choice([1, 2, 4, 30])]
        elif kind == 4:
            result[at:at] = chance.choice(PIECES)
        elif kind == 5:
            result[at:at] = chance.choice(OPCODES) * chance.choice([1, 1, 1, 2, 1000])
        elif kind == 6:
            start = chance.choice(places) if places else 0
            result[at:at] = result[start : start + chance.choice([4, 20, 100])]
        elif kind == 7 and result:
            result[at : at + 1] = chance.choice(OPCODES)
        elif kind == 8 and chance.random() < 0.2:
            del result[at:]
    return bytes(result)


def retold(pickled: bytes, chance: random.Random) -> bytes:
    """A pickle with whole instructions changed, so that most of it still makes sense."""
    starts = [at for _, _, at in pickletools.genops(pickled) if at is not None]
    told = [pickled[a:b] for a, b in zip(starts, [*starts[1:], len(pickled)])]
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        at, other = chance.randrange(len(told)), chance.randrange(len(told))
        kind = chance.randrange(5)
        if told[at][:1] in b"KMJ\x8a" and chance.random() < 0.9:
            number = chance.choice([*NUMBERS, 6, 9, 24]) * chance.choice([1, 1, 1, -1])
            width = chance.choice([1, 2, 4, 9])
            inside = number % 2 ** (8 * width)
            told[at] = b"\x8a" + bytes([width]) + inside.to_bytes(width, "little")
        elif kind == 0:
            told[at] = told[other]
        elif kind == 1:
            told[at], told[other] = told[other], told[at]
        elif kind == 2:
            told.insert(at, told[other])
        elif kind == 3:
            told[at] = chance.choice([b"N", b")", b"]", b"}", b"\x88", b"K\x05", *PIECES])
        else:
            told[at] = b""
    return b"".join(told)


def anew(content: bytes, chance: random.Random) -> bytes:
    """A zip seed with its pickle, or another member, mutated and a directory that fits it."""
    buffer = io.BytesIO()
    method = chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with (
        zipfile.ZipFile(io.BytesIO(content)) as source,
        zipfile.ZipFile(buffer, "w", method) as target,
    ):
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl") and chance.random() < 0.7:
                data = retold(data, chance)
            elif name.endswith("data.pkl") or chance.random() < 0.05:
                data = mutated(data, chance, range(len(data)))
            if chance.random() < 0.02:
                name = chance.choice(["../x", "archive/data/0", "a\n", name + "0", "x/data.pkl"])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of duplicate names
                target.writestr(name, data)
    return buffer.getvalue()


def invented(chance: random.Random) -> bytes:
    """A pickle of random instructions in an archive that is right."""
    parts = [chance.choice(OPCODES + PIECES * 3) for _ in range(chance.randrange(2, 60))]
    if chance.random() < 0.2:
        parts.append(chance.choice([b"(", b"]", b")\x85", b"}", b"N", b"2"]) * 20_000)
    arguments = bytes(chance.choice([0, 1, 2, 10, 255]) for _ in range(40))
    pickled = b"".join(p + arguments[: chance.randrange(3)] * (len(p) == 1) for p in parts) + b"."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", bytes(16))
    return buffer.getvalue()


def sequence_anew(content: bytes, chance: random.Random) -> bytes:
    """A seed of the format without zip, changed in its pickles rather than in its numbers."""
    if chance.random() < 0.3:
        return mutated(content, chance, range(30, min(len(content), 2000)))
    file = io.BytesIO(content)
    parts = []
    for _ in range(5):
        start = file.tell()
        for _ in pickletools.genops(file):
            pass
        parts.append(content[start : file.tell()])
    which = chance.choice([2, 3, 3, 3, 3, 3, 4])
    parts[which] = retold(parts[which], chance)
    return b"".join(parts) + content[file.tell() :]


def structure(content: bytes, chance: random.Random) -> bytes:
    """A seed changed at its very end, where a zip archive has its directory."""
    return mutated(content, chance, range(max(0, len(content) - 1200), len(content)))


def anywhere(content: bytes, chance: random.Random) -> bytes:
    return mutated(content, chance, range(len(content)))


def made(number: int, originals: list[bytes]) -> bytes:
    chance = random.Random(number)
    content = chance.choice(originals)
    is_zip = content.startswith(b"PK")
    ways: list[Callable[[bytes, random.Random], bytes]] = [anywhere, structure]
    ways += [anew] * 5 if is_zip else [sequence_anew] * 3
    ways.append(lambda _, chance: invented(chance))
    return chance.choice(ways)(content, chance)


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """The process may take MEMORY_BYTES more than it has; a request for more fails."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the size of the process is read as Linux gives it")
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.timeout(0)
@pytest.mark.usefixtures("bounded_memory")
@pytest.mark.filterwarnings("ignore")
def test_mutated_files() -> None:
    originals = seeds()
    outcomes: Counter[str] = Counter()
    slowest = (0.0, 0)
    for number in range(INPUTS):
        content = made(number, originals)
        start = time.monotonic()
        try:
            contents = read_torch_file(io.BytesIO(content), len(content))
        except ValueError as error:
            line = str(error)
            assert "\n" not in line and len(line) < 1000 and "bytes of memory" not in line, number
            assert line.split()[0] in {"is", "holds", "claims", "has", "was", "packs", "became"}, (
                number,
                line,
            )
            outcomes[re.sub(r"'.*'|b\".*\"|\(.*\)|[\d,]+", "_", line)[:70]] += 1
        except BaseException as error:
            raise AssertionError(f"input {number}: {type(error).__name__}: {error}") from error
        else:
            assert isinstance(contents, FileContents) and contents.tensors
            total = sum(tensor.double().nan_to_num().sum() for tensor in contents.tensors.values())
            assert total is not None  # every number was touched
            outcomes["tensors"] += 1
        slowest = max(slowest, (time.monotonic() - start, number))
    assert slowest[0] < SECONDS, slowest
    assert outcomes["tensors"] > INPUTS // 50 and len(outcomes) > 10
    print(f"\n{INPUTS:,} inputs, slowest {slowest[0]:.2f} s ({slowest[1]})")
    for outcome, count in outcomes.most_common(60):
        print(f"{count:8,}  {outcome}")


def test_the_seeds_are_read_or_refused_for_what_they_hold() -> None:
    for content in seeds():
        try:
            assert read_torch_file(io.BytesIO(content), len(content)).tensors
        except ValueError as error:
            assert "sparse" in str(error)
