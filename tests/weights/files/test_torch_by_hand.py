"""Torch archives that are made by hand: hostile ones, and those of torches too old to be had.

Tensors that lie get one line, and calls in the place of values never happen.
"""

from __future__ import annotations

import io
import os
import pickle
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xception.weights.files.contents import FileContents

Write = Callable[..., bytes]
Read = Callable[[bytes], FileContents]
Refusal = Callable[[bytes], str]
Same = Callable[[dict[str, Tensor], dict[str, Tensor]], bool]


class Storage:
    """Stands for a storage in a pickle; what it says is free to be wrong."""

    def __init__(self, *identity: Any) -> None:
        self.identity = identity


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.fixture(scope="session")
def written(torch_archive: Write) -> Write:
    """written(value, numbers, **others) -> a torch archive of `value`, written by hand."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return value.identity if isinstance(value, Storage) else None

    def write(value: Any, numbers: dict[str, bytes] | None = None, **others: bytes) -> bytes:
        content = io.BytesIO()
        Pickler(content, 2).dump(value)
        return torch_archive(content.getvalue(), numbers, **others)

    return write


REBUILD = torch._utils._rebuild_tensor_v2
TEN = ("storage", torch.FloatStorage, "0", "cpu", 10)


def tensor(
    offset: Any = 0, size: Any = (10,), stride: Any = (1,), identity: tuple[Any, ...] = TEN
) -> Call:
    return Call(REBUILD, Storage(*identity), offset, size, stride, False, OrderedDict())


def test_the_archive_by_hand_is_a_fair_one(
    written: Write, torch_contents: Read, same_bits: Same
) -> None:
    found = torch_contents(written({"w": tensor()}, {"0": np.arange(10, dtype="f4").tobytes()}))
    assert same_bits(found.tensors, {"w": torch.arange(10.0)})


@pytest.mark.parametrize(
    ("record", "finding"),
    [
        (tensor(size=(11,)), "reaches beyond"),
        (tensor(offset=1), "reaches beyond"),
        (tensor(offset=2**40), "begins outside"),
        (tensor(offset=-1), "begins outside"),
        (tensor(offset=True), "begins outside"),
        (tensor(offset=1.0), "begins outside"),
        (tensor(stride=(-1,)), "no proper shape"),
        (tensor(size=(-10,)), "no proper shape"),
        (tensor(size=(2, 5)), "no proper shape"),
        (tensor(size=10), "no proper shape"),
        (tensor(size=("10",)), "no proper shape"),
        (tensor(size=(2**60,), stride=(0,)), "no proper shape"),
        (tensor(size=(1,) * 9, stride=(1,) * 9), "no proper shape"),
        (tensor(size=(2**30,), stride=(0,)), "claims tensors of 4,294,967,296 bytes out of 40"),
        (tensor(size=(2**20, 2**20), stride=(0, 0)), "claims tensors of"),
        (tensor(size=(2**30, 2**30), stride=(0, 0)), "more than 1,099,511,627,776 numbers"),
        (tensor(size=(2**30, 2**30, 0), stride=(0, 0, 0)), "more than"),
        (tensor(size=(2, 2), stride=(2**47, 1)), "reaches beyond"),
        (tensor(identity=("storage", torch.FloatStorage, "0", "cpu", 11)), "takes 44 bytes, 40"),
        (tensor(identity=("storage", torch.FloatStorage, "0", "cpu", 2**40)), "40 are there"),
        (tensor(identity=("storage", torch.DoubleStorage, "0", "cpu", 10)), "takes 80 bytes"),
        (tensor(identity=("storage", torch.FloatStorage, "0", "cpu", -1)), "no proper length"),
        (tensor(identity=("storage", torch.FloatStorage, "0", "cpu", 2**70)), "no proper length"),
        (tensor(identity=("storage", torch.FloatStorage, "1", "cpu", 10)), "are missing"),
        (tensor(identity=("storage", torch.FloatStorage, "../x", "cpu", 10)), "no usable key"),
        (tensor(identity=("storage", torch.FloatStorage, "9" * 99, "cpu", 10)), "no usable key"),
        (tensor(identity=("storage", torch.FloatStorage, None, "cpu", 10)), "no usable key"),
        (tensor(identity=("storage", os.system, "0", "cpu", 10)), "system"),
        (tensor(identity=("storage", "FloatStorage", "0", "cpu", 10)), "without a name"),
        (tensor(identity=("storage", torch.FloatStorage)), "has no storage"),
        (tensor(identity=(*TEN, (1, 2))), "no proper part"),
        (tensor(identity=(*TEN, ("k", 5, 6))), "reaches beyond its storage"),
        (tensor(identity=(*TEN, ("k", 5, 5))), "beyond the 5 numbers"),
        (Call(REBUILD), "not known here"),
        (Call(REBUILD, 1, 2, 3, 4, 5, 6), "has no storage"),
        (Call(REBUILD, None, 0, (10,), (1,), False, OrderedDict()), "has no storage"),
        (Call(torch._utils._rebuild_parameter), "not known here"),
        (Call(torch._utils._rebuild_parameter, Call(os.system, "x"), 1, 2), "system"),
        (Call(torch._utils._rebuild_device_tensor_from_numpy, b"", 1, 2, 3), "NumPy"),
    ],
)
def test_tensors_that_lie(
    written: Write, torch_refusal: Refusal, record: Call, finding: str
) -> None:
    content = written({"fine": 1, "w": record})
    tracemalloc.start()
    line = torch_refusal(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert finding in line and ("'w'" in line or "claims tensors" in line or "key" in line)
    assert peak < 2**20


def test_expanded_tensors_are_bounded_together(
    written: Write, torch_contents: Read, torch_refusal: Refusal
) -> None:
    """Each different one; the same one under many names takes its memory once."""
    expanded = [tensor(size=(200_000 + number,), stride=(0,)) for number in range(10)]
    torch_contents(written({"one": expanded[0]}))
    found = torch_contents(written({str(number): expanded[0] for number in range(10)})).tensors
    assert len({value.data_ptr() for value in found.values()}) == 1
    assert "claims tensors of 8,000,180 bytes" in torch_refusal(
        written({str(number): record for number, record in enumerate(expanded)})
    )


@pytest.mark.parametrize("name", ["", "a\nb", "a\x1b[2J", "x" * 600])
def test_names_that_are_no_names(written: Write, torch_refusal: Refusal, name: str) -> None:
    line = torch_refusal(written({name: tensor()}))
    assert "name" in line


def test_hostile_calls_beside_the_weights(
    saved: Write,
    torch_contents: Read,
    torch_refusal: Refusal,
    same_bits: Same,
    form: str,
    tmp_path: Path,
) -> None:
    """The weights are read, and the calls beside and around them never happen."""
    witness = tmp_path / "ran"
    call = Call(os.system, f"touch {witness}")
    state = {"w": torch.ones(2), "evil": call}
    contents = torch_contents(
        saved(OrderedDict(a=call, state_dict=state, b=[call, {"c": call}]), form)
    )
    assert same_bits(contents.tensors, {"w": torch.ones(2)}) and not witness.exists()
    for value in (call, [call], {"state_dict": call}, {"model": {"w": call}}):
        torch_refusal(saved(value, form))
    module = nn.Linear(1, 1)
    module.hook = call  # type: ignore[assignment]
    assert len(torch_contents(saved(module, form)).tensors) == 2
    module._buffers["evil"] = call  # type: ignore[assignment]
    assert "system as 'evil'" in torch_refusal(saved(module, form))
    assert not witness.exists()
    assert pickle.loads(pickle.dumps(call)) == 0 and witness.exists()


def test_a_hostile_call_in_the_place_of_every_argument(
    written: Write, torch_contents: Read, torch_refusal: Refusal, tmp_path: Path
) -> None:
    witness = tmp_path / "ran"
    call = Call(os.system, f"touch {witness}")
    arguments = (Storage(*TEN), 0, (10,), (1,), False, OrderedDict(), {})
    for place in range(len(arguments)):
        changed = [*arguments]
        changed[place] = call
        content = written({"w": Call(REBUILD, *changed)})
        if place in (4, 5, 6):  # whether gradients are wanted, hooks, metadata: not looked at
            assert torch_contents(content).tensors["w"].shape == (10,)
        else:
            torch_refusal(content)
    for place in range(1, 5):
        identity = [*TEN]
        identity[place] = call
        content = written({"w": tensor(identity=tuple(identity))})
        if place == 3:  # the device
            torch_contents(content)
        else:
            torch_refusal(content)
    assert not witness.exists()


@pytest.mark.parametrize("order", [b"middle", b"\xff", b"little" * 3])
def test_a_byte_order_that_there_is_not(
    written: Write, torch_refusal: Refusal, order: bytes
) -> None:
    line = torch_refusal(written({"w": tensor()}, byteorder=order))
    assert "byte order" in line or "byteorder" in line


# ---------------------------------------------------------------- what older torches wrote

FLOATS = {"0": np.arange(10, dtype="f4").tobytes()}
PYTHON_2_TENSOR = (
    b"ctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x0at"
    b"QK\x00(K\x0at(K\x01ttR"
)


def test_tensors_of_torch_before_0_4(
    torch_archive: Write,
    written: Write,
    torch_contents: Read,
    same_bits: Same,
) -> None:
    """A rebuilding function of four arguments, and parameters made by their class."""
    early = Call(torch._utils._rebuild_tensor, Storage(*TEN), 2, (2, 3), (3, 1))
    assert same_bits(
        torch_contents(written({"w": early}, FLOATS)).tensors,
        {"w": torch.arange(2.0, 8).view(2, 3)},
    )
    for name in ("torch.nn.parameter Parameter", "torch.autograd.variable Variable"):
        parameter = f"c{name}\n".replace(" ", "\n").encode()
        data = PYTHON_2_TENSOR + b"\x85\x81(\x89\x89ccollections\nOrderedDict\n)Rtb"
        content = torch_archive(b"}U\x01w" + parameter + data + b"s.", FLOATS)
        assert same_bits(torch_contents(content).tensors, {"w": torch.arange(10.0)})


def test_tensors_of_python_2(torch_archive: Write, torch_contents: Read, same_bits: Same) -> None:
    content = torch_archive(b"}U\x01w" + PYTHON_2_TENSOR + b"s.", FLOATS)
    assert same_bits(torch_contents(content).tensors, {"w": torch.arange(10.0)})


def test_parts_of_storages(
    written: Write, torch_contents: Read, torch_refusal: Refusal, same_bits: Same
) -> None:
    """Old files name a part of a storage, whose own places its tensors count."""
    part = tensor(offset=1, size=(3,), identity=(*TEN, ("part", 5, 4)))
    assert same_bits(
        torch_contents(written({"w": part}, FLOATS)).tensors, {"w": torch.arange(6.0, 9)}
    )
    line = torch_refusal(
        written({"w": tensor(offset=2, size=(3,), identity=(*TEN, ("part", 5, 4)))})
    )
    assert "beyond the 4 numbers" in line
