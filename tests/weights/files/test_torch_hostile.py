"""Torch files that are hostile, damaged or something else: one line, and nothing of them runs.

The hostile ones are made by hand; so are those of torches that are too old to be had.
"""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xception.weights.files import torch_tensors
from xception.weights.files.contents import FileContents
from xception.weights.files.torch_file import read_torch_file

ZIP: dict[str, Any] = {}
SEQUENCE: dict[str, Any] = {"_use_new_zipfile_serialization": False}
FORMATS = pytest.mark.parametrize("form", [ZIP, SEQUENCE], ids=["zip", "sequence"])


def saved(value: Any, form: dict[str, Any] = ZIP, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without source code
        torch.save(value, buffer, **form, **options)
    return buffer.getvalue()


def read(content: bytes) -> FileContents:
    return read_torch_file(io.BytesIO(content), len(content))


def refused(content: bytes) -> str:
    with pytest.raises(ValueError) as caught:
        read(content)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    return line


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return list(found) == list(wanted) and all(
        found[name].dtype == tensor.dtype
        and found[name].shape == tensor.shape
        and found[name].reshape(-1).view(torch.uint8).equal(tensor.reshape(-1).view(torch.uint8))
        for name, tensor in wanted.items()
    )


# ---------------------------------------------------------------- tensors that are refused


def per_channel() -> Tensor:
    return torch.quantize_per_channel(
        torch.ones(2, 2), torch.ones(2), torch.zeros(2), 0, torch.qint8
    )


@pytest.mark.parametrize(
    ("make", "finding"),
    [
        (lambda: torch.ones(2, dtype=torch.complex64), "complex64"),
        (lambda: torch.ones(2, dtype=torch.complex128), "complex128"),
        (lambda: torch.ones(2, dtype=torch.complex32), "dtype"),
        (lambda: torch.ones(2, dtype=torch.complex64).conj().imag, "complex"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8), "quantized"),
        (per_channel, "quantized"),
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.eye(3).to_sparse_csr(), "sparse"),
        (lambda: torch.ones(3, device="meta"), "without numbers"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
    ],
)
@FORMATS
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_plain(
    make: Callable[[], Tensor], finding: str, form: dict[str, Any]
) -> None:
    try:
        content = saved({"fine": torch.ones(2), "odd.weight": make()}, form)
    except (RuntimeError, AttributeError) as error:  # torch cannot write them in its old format
        pytest.skip(str(error)[:60])
    line = refused(content)
    assert "'odd.weight'" in line and finding in line and "save the weights as" in line


@pytest.mark.parametrize(
    ("value", "finding"),
    [
        (torch.ones(2), "a single tensor"),
        ([torch.ones(2)], "a list of 1 values"),
        ((1, 2), "a tuple of 2 values"),
        ("text", "a text"),
        (3, "a single value"),
        (None, "nothing"),
        ({}, "a mapping without tensors"),
        ({"epoch": 3, "args": {"lr": 0.1}}, "a mapping without tensors"),
        (nn.ReLU(), "torch.nn.modules.activation.ReLU without weights"),
        (np.float64(3.0), "numpy"),
        ({"a": {"b": {"c": {"d": {"e": torch.ones(1)}}}}}, "a mapping without tensors"),
    ],
)
@FORMATS
def test_files_without_weights(value: Any, finding: str, form: dict[str, Any]) -> None:
    line = refused(saved(value, form))
    assert finding in line and "save model.state_dict()" in line


# ---------------------------------------------------------------- files that are something else


def test_torchscript() -> None:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    line = refused(buffer.getvalue())
    assert "TorchScript" in line and "torch.jit.load" in line


def test_a_tar_archive() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    assert "tar archive" in refused(buffer.getvalue())


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"", "is empty"),
        (b"\x80\x02N.", "not written by torch.save"),
        (pickle.dumps({"a": 1}), "not written by torch.save"),
        (b"some text", "not written by torch.save"),
        (
            pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1000, 2),
            "format that is not known",
        ),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2), "cut short"),
        (b"PK\x03\x04" + bytes(60), "cut short"),
        (b"PK\x05\x06" + bytes(18), "holds nothing"),
    ],
)
def test_files_that_are_something_else(content: bytes, finding: str) -> None:
    assert finding in refused(content)


def test_zip_archives_of_others() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    assert "nor Keras wrote (it holds word/document.xml)" in refused(buffer.getvalue())


# ---------------------------------------------------------------- hostile files


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


def written(value: Any, numbers: dict[str, bytes] | None = None, **others: bytes) -> bytes:
    """A torch archive by hand: the pickle of `value` and the storages `numbers`."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return value.identity if isinstance(value, Storage) else None

    content = io.BytesIO()
    Pickler(content, 2).dump(value)
    return archived(content.getvalue(), numbers, **others)


def archived(content: bytes, numbers: dict[str, bytes] | None = None, **others: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", content)
        for key, data in (numbers or {"0": bytes(40)}).items():
            archive.writestr(f"a/data/{key}", data)
        for name, data in others.items():
            archive.writestr(f"a/{name}", data)
    return buffer.getvalue()


REBUILD = torch._utils._rebuild_tensor_v2
TEN = ("storage", torch.FloatStorage, "0", "cpu", 10)


def tensor(
    offset: Any = 0, size: Any = (10,), stride: Any = (1,), identity: tuple[Any, ...] = TEN
) -> Call:
    return Call(REBUILD, Storage(*identity), offset, size, stride, False, OrderedDict())


def test_the_archive_by_hand_is_a_fair_one() -> None:
    found = read(written({"w": tensor()}, {"0": np.arange(10, dtype="f4").tobytes()}))
    assert same(found.tensors, {"w": torch.arange(10.0)})


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
def test_tensors_that_lie(record: Call, finding: str) -> None:
    content = written({"fine": 1, "w": record})
    tracemalloc.start()
    line = refused(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert finding in line and ("'w'" in line or "claims tensors" in line or "key" in line)
    assert peak < 2**20


def test_expanded_tensors_are_bounded_together() -> None:
    """Each different one; the same one under many names takes its memory once."""
    expanded = [tensor(size=(200_000 + number,), stride=(0,)) for number in range(10)]
    read(written({"one": expanded[0]}))
    found = read(written({str(number): expanded[0] for number in range(10)})).tensors
    assert len({value.data_ptr() for value in found.values()}) == 1
    assert "claims tensors of 8,000,180 bytes" in refused(
        written({str(number): record for number, record in enumerate(expanded)})
    )


@FORMATS
def test_many_names_of_one_tensor(form: dict[str, Any]) -> None:
    """Layers that share their weights have them under each name in the state dict."""
    shared = torch.randn(100_000)
    state = {str(number): shared for number in range(20)}
    assert same(read(saved(state, form)).tensors, state)


@FORMATS
def test_a_small_part_of_a_large_storage(
    form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One number must not cost the memory of a file that unpacks to gigabytes."""
    content = saved({"w": torch.zeros(10_000)[:2]}, form)
    assert read(content).tensors["w"].shape == (2,)
    monkeypatch.setattr(torch_tensors, "MAX_UNUSED_BYTES", 1000)
    assert "'w' as a part of 40,000 bytes" in refused(content)


@pytest.mark.parametrize("name", ["", "a\nb", "a\x1b[2J", "x" * 600])
def test_names_that_are_no_names(name: str) -> None:
    line = refused(written({name: tensor()}))
    assert "name" in line


@FORMATS
def test_hostile_calls_beside_the_weights(form: dict[str, Any], tmp_path: Path) -> None:
    """The weights are read, and the calls beside and around them never happen."""
    witness = tmp_path / "ran"
    call = Call(os.system, f"touch {witness}")
    state = {"w": torch.ones(2), "evil": call}
    contents = read(saved(OrderedDict(a=call, state_dict=state, b=[call, {"c": call}]), form))
    assert same(contents.tensors, {"w": torch.ones(2)}) and not witness.exists()
    for value in (call, [call], {"state_dict": call}, {"model": {"w": call}}):
        refused(saved(value, form))
    module = nn.Linear(1, 1)
    module.hook = call  # type: ignore[assignment]
    assert len(read(saved(module, form)).tensors) == 2
    module._buffers["evil"] = call  # type: ignore[assignment]
    assert "system as 'evil'" in refused(saved(module, form))
    assert not witness.exists()
    assert pickle.loads(pickle.dumps(call)) == 0 and witness.exists()


def test_a_hostile_call_in_the_place_of_every_argument(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    call = Call(os.system, f"touch {witness}")
    arguments = (Storage(*TEN), 0, (10,), (1,), False, OrderedDict(), {})
    for place in range(len(arguments)):
        changed = [*arguments]
        changed[place] = call
        content = written({"w": Call(REBUILD, *changed)})
        if place in (4, 5, 6):  # whether gradients are wanted, hooks, metadata: not looked at
            assert read(content).tensors["w"].shape == (10,)
        else:
            refused(content)
    for place in range(1, 5):
        identity = [*TEN]
        identity[place] = call
        content = written({"w": tensor(identity=tuple(identity))})
        if place == 3:  # the device
            read(content)
        else:
            refused(content)
    assert not witness.exists()


MODULE = b"cnetwork\nModel\n)\x81"
PARTS = b"X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_buffers}X\x08\x00\x00\x00_modules"


def test_modules_that_hold_themselves() -> None:
    itself = MODULE + b"q\x00}(" + PARTS + b"}X\x01\x00\x00\x00ah\x00sub."
    assert "more than 64 deep" in refused(archived(itself))
    as_wrapper = MODULE + b"q\x00}(" + PARTS + b"}X\x06\x00\x00\x00moduleh\x00sub."
    line = refused(archived(as_wrapper))
    assert "64 deep" in line or "without weights" in line


def test_modules_that_share_each_other_in_every_level() -> None:
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
    assert "more than 500,000 objects" in refused(archived(level + b"."))


def test_dictionaries_that_hold_themselves() -> None:
    content = b"}q\x00X\x0a\x00\x00\x00state_dicth\x00s."
    assert "no state dict" in refused(archived(content))


def test_one_large_mapping_under_many_names() -> None:
    """A few bytes repeat a mapping; looking at each anew would take for ever."""
    entries = b"".join(b"X\x05\x00\x00\x00" + b"%05d" % n + b"N" for n in range(20_000))
    names = b"".join(b"X\x05\x00\x00\x00" + b"%05d" % n + b"h\x00" for n in range(20_000))
    content = b"}(" + entries + b"uq\x000}(" + names + b"u."
    assert "objects around tensors" in refused(archived(content))


def test_wrappings_without_end() -> None:
    parameter = b"ctorch._utils\n_rebuild_parameter\n"
    deep = b"}X\x01\x00\x00\x00w" + parameter * 1000 + b"N" + b"\x85R" * 1000 + b"s."
    assert "'w'" in refused(archived(deep))
    cycle = b"}X\x01\x00\x00\x00w" + parameter + b"]q\x00h\x00a\x85Rs."
    assert "'w'" in refused(archived(cycle))


def test_more_tensors_than_allowed() -> None:
    record = b"ctorch._utils\n_rebuild_tensor\n)Rq\x000"
    names = b"".join(b"X\x05\x00\x00\x00" + b"%05d" % n + b"h\x00" for n in range(20_001))
    assert "more than 20,000 tensors" in refused(archived(record + b"}(" + names + b"u."))


@pytest.mark.parametrize("order", [b"middle", b"\xff", b"little" * 3])
def test_a_byte_order_that_there_is_not(order: bytes) -> None:
    line = refused(written({"w": tensor()}, byteorder=order))
    assert "byte order" in line or "byteorder" in line


# ---------------------------------------------------------------- what older torches wrote


FLOATS = {"0": np.arange(10, dtype="f4").tobytes()}


def test_tensors_of_torch_before_0_4() -> None:
    """A rebuilding function of four arguments, and parameters made by their class."""
    early = Call(torch._utils._rebuild_tensor, Storage(*TEN), 2, (2, 3), (3, 1))
    assert same(read(written({"w": early}, FLOATS)).tensors, {"w": torch.arange(2.0, 8).view(2, 3)})
    for name in ("torch.nn.parameter Parameter", "torch.autograd.variable Variable"):
        parameter = f"c{name}\n".replace(" ", "\n").encode()
        data = PYTHON_2_TENSOR + b"\x85\x81(\x89\x89ccollections\nOrderedDict\n)Rtb"
        content = archived(b"}U\x01w" + parameter + data + b"s.", FLOATS)
        assert same(read(content).tensors, {"w": torch.arange(10.0)})


PYTHON_2_TENSOR = (
    b"ctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x0at"
    b"QK\x00(K\x0at(K\x01ttR"
)


def test_tensors_of_python_2() -> None:
    content = archived(b"}U\x01w" + PYTHON_2_TENSOR + b"s.", FLOATS)
    assert same(read(content).tensors, {"w": torch.arange(10.0)})


def test_parts_of_storages() -> None:
    """Old files name a part of a storage, whose own places its tensors count."""
    part = tensor(offset=1, size=(3,), identity=(*TEN, ("part", 5, 4)))
    assert same(read(written({"w": part}, FLOATS)).tensors, {"w": torch.arange(6.0, 9)})
    line = refused(written({"w": tensor(offset=2, size=(3,), identity=(*TEN, ("part", 5, 4)))}))
    assert "beyond the 4 numbers" in line


# ---------------------------------------------------------------- damaged files


@FORMATS
def test_every_cut_is_noticed(form: dict[str, Any]) -> None:
    content = saved({"state_dict": {"a": torch.ones(9), "b": torch.ones(3, 3)}}, form)
    read(content)
    for length in range(1, len(content)):
        line = refused(content[:length])
        assert "cut short" in line or (length < 20 and "not written by torch.save" in line)


def test_storages_of_a_sequence_that_lie() -> None:
    content = saved({"a": torch.ones(9)}, SEQUENCE)
    at = len(content) - 36 - 8
    assert int.from_bytes(content[at : at + 8], "little") == 9
    for count in (10, 2**31, 2**63):
        claimed = content[:at] + count.to_bytes(8, "little") + content[at + 8 :]
        assert "cut short: it ends within its tensors" in refused(claimed)
    claimed = content[:at] + (8).to_bytes(8, "little") + content[at + 8 :]
    assert "takes 36 bytes, 32 are there" in refused(claimed)
    keys = content.rindex(b"\x80\x02]", 0, at)
    for listed in (["1"], [None], ["x" * 99], [2**70]):
        line = refused(content[:keys] + pickle.dumps(listed, 2) + content[at:])
        assert "no tensor uses" in line or "no usable key" in line
    assert "are missing" in refused(content[:keys] + pickle.dumps("1", 2) + content[at:])


@FORMATS
def test_memory_stays_within_the_promise(form: dict[str, Any]) -> None:
    """Python's own memory is counted here; the tensors' is the file's."""
    state = {str(number): torch.ones(1000) for number in range(500)}
    content = saved(state, form)
    file = io.BytesIO(content)
    tracemalloc.start()
    tensors = read_torch_file(file, len(content)).tensors
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert same(tensors, state) and peak < 8 * 2**20
