"""Files of torch.save: equal to what torch reads, without its code; hostile ones in one line."""

from __future__ import annotations

import io
import pickle
import sys
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

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


def network() -> nn.Sequential:
    """Convolution, batch norm with changed statistics, a block in a block, a shared layer."""
    torch.manual_seed(3)
    shared = nn.Linear(4, 4)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Sequential(shared, nn.ReLU(), nn.Sequential(nn.Dropout(), shared)),
        nn.Linear(4, 2),
    )
    for value in model.state_dict().values():
        value.normal_() if value.is_floating_point() else value.fill_(7)
    return model


# ---------------------------------------------------------------- state dicts, as torch reads them


@FORMATS
@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
def test_a_state_dict(form: dict[str, Any], protocol: int) -> None:
    state = network().state_dict()
    contents = read(saved(state, form, pickle_protocol=protocol))
    assert same(contents.tensors, dict(state))
    assert (contents.kind, contents.origin, contents.extra) == ("torch state dict", "", {})
    assert contents.config is None and contents.version is None
    assert not any(type(t) is not Tensor or t.requires_grad for t in contents.tensors.values())


DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
]


@FORMATS
def test_every_dtype(form: dict[str, Any]) -> None:
    values = torch.linspace(0, 100, 12).reshape(3, 4)
    state = {str(dtype): values.to(dtype) for dtype in DTYPES}
    content = saved(state, form)
    assert same(read(content).tensors, state)
    if form == ZIP:  # torch cannot read its newer dtypes from its older format
        assert same(torch.load(io.BytesIO(content), weights_only=True), state)


@FORMATS
def test_every_layout(form: dict[str, Any]) -> None:
    """Views of one storage, transposed, channels last, strided, expanded, overlapping, empty."""
    base = torch.arange(240.0)
    picture = base.view(2, 3, 5, 8)
    state = {
        "whole": base,
        "part": base[7:19],
        "same": base,
        "transposed": base.view(12, 20).t(),
        "channels last": picture.contiguous(memory_format=torch.channels_last),
        "strided": base.view(12, 20)[::2, 3::5],
        "expanded": torch.ones(3, 1).expand(3, 50),
        "overlapping": torch.arange(10.0).as_strided((4, 4), (2, 1)),
        "scalar": torch.tensor(2.5),
        "one of many": base[5],
        "empty": torch.empty(0, 3),
        "empty part": base[3:3],
    }
    content = saved(state, form)
    theirs = torch.load(io.BytesIO(content), weights_only=True)
    ours = read(content).tensors
    assert same(ours, state) and same(ours, theirs)
    for name in ("whole", "transposed", "channels last"):
        assert ours[name].stride() == theirs[name].stride()


@FORMATS
def test_parts_keep_no_more_memory_than_they_need(form: dict[str, Any]) -> None:
    base = torch.arange(1000.0)
    tensors = read(saved({"a": base[:10], "b": base[10:20], "whole": base}, form)).tensors
    assert tensors["a"].untyped_storage().nbytes() == 40
    assert tensors["whole"].untyped_storage().nbytes() == 4000


@FORMATS
def test_parameters_with_attributes_and_subclasses(form: dict[str, Any]) -> None:
    plain = nn.Parameter(torch.randn(3))
    marked = nn.Parameter(torch.randn(3))
    marked.note = "mine"  # type: ignore[attr-defined]
    buffer = torch.randn(3)
    buffer.note = "mine"  # type: ignore[attr-defined]
    state = {"plain": plain, "marked": marked, "buffer": buffer}
    found = read(saved(state, form)).tensors
    assert same(found, {name: value.detach() for name, value in state.items()})


def test_big_endian_numbers() -> None:
    state = {"a": torch.arange(5.0), "b": torch.arange(5, dtype=torch.int16), "c": torch.ones(2)}
    content = io.BytesIO(saved(state))
    swapped = io.BytesIO()
    with zipfile.ZipFile(content) as source, zipfile.ZipFile(swapped, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if "/data/" in name:
                kind = {"0": "f4", "1": "i2", "2": "f4"}[name[-1]]
                data = np.frombuffer(data, "<" + kind).astype(">" + kind).tobytes()
            target.writestr(name, b"big" if name.endswith("byteorder") else data)
    assert same(read(swapped.getvalue()).tensors, state)


def test_an_archive_that_somebody_packed_anew() -> None:
    state = {"a": torch.zeros(1000)}
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(state))) as source,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert same(read(buffer.getvalue()).tensors, state)


# ---------------------------------------------------------------- where the weights lie


@FORMATS
@pytest.mark.parametrize(
    "key", ["state_dict", "model", "model_state_dict", "model_ema", "net", "network", "my weights"]
)
def test_dictionaries_around_a_state_dict(form: dict[str, Any], key: str) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 3, 3, 3).repeat(1, 1, 1, 4)[..., :6]).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 12,
        "arch": "xception",
        "best": 0.75,
        key: model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random state": torch.get_rng_state(),
        "history": [1.0, 2.0],
        "scheduler": None,
    }
    contents = read(saved(checkpoint, form))
    assert same(contents.tensors, dict(model.state_dict()))
    assert contents.origin == f"under {key}"
    assert contents.extra == {"epoch": "12", "arch": "xception", "best": "0.75"}


def test_a_dictionary_in_a_dictionary() -> None:
    state = {"a.weight": torch.ones(2)}
    contents = read(saved({"checkpoint": {"step": 5, "state_dict": state}, "x": 1}))
    assert same(contents.tensors, state)
    assert contents.origin == "under checkpoint > state_dict"
    assert contents.extra == {"x": "1", "step": "5"}


def test_the_first_of_several_known_names_is_taken_and_the_others_noted() -> None:
    first, second = {"a": torch.ones(2)}, {"a": torch.zeros(2)}
    contents = read(saved({"state_dict_ema": second, "state_dict": first, "model": None}))
    assert same(contents.tensors, first)
    assert contents.origin == "under state_dict"
    assert contents.extra == {"other weights": "state_dict_ema"}


def test_several_unknown_names_are_not_chosen_from() -> None:
    state = {"a": torch.ones(2)}
    assert "several sets of tensors (encoder, decoder)" in refused(
        saved({"encoder": state, "decoder": state})
    )


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
def test_a_common_prefix_is_removed(prefix: str) -> None:
    state = dict(network().state_dict())
    contents = read(saved({prefix + name: value for name, value in state.items()}))
    assert same(contents.tensors, state)
    assert contents.origin == f"without the prefix {prefix}"


def test_a_prefix_of_some_names_is_kept() -> None:
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert same(read(saved(state)).tensors, state)
    assert list(read(saved({"module.a": torch.ones(1), "module.b": torch.ones(1)})).tensors) == [
        "a",
        "b",
    ]


def test_averaged_weights() -> None:
    model = network()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    state = dict(model.state_dict())
    assert same(read(saved(averaged.state_dict())).tensors, state)
    assert same(read(saved(averaged)).tensors, state)


def test_other_entries_of_a_state_dict_are_left_out() -> None:
    state = {"a": torch.ones(2), "epoch": 3, "list": [1], "none": None, 5: torch.ones(1)}
    contents = read(saved(state))
    assert list(contents.tensors) == ["a"] and contents.extra == {"epoch": "3"}


# ---------------------------------------------------------------- whole modules


@FORMATS
def test_a_whole_module(form: dict[str, Any]) -> None:
    model = network()
    contents = read(saved(model, form))
    assert same(contents.tensors, dict(model.state_dict()))
    assert contents.kind == "torch module"
    assert contents.origin == "torch.nn.modules.container.Sequential"


@FORMATS
@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
def test_a_module_of_a_wrapper(form: dict[str, Any], protocol: int) -> None:
    model = network()
    contents = read(saved(nn.DataParallel(model), form, pickle_protocol=protocol))
    assert same(contents.tensors, dict(model.state_dict()))
    assert contents.origin == ("torch.nn.modules.container.Sequential, without the prefix module.")


@FORMATS
def test_a_module_in_a_dictionary(form: dict[str, Any]) -> None:
    contents = read(saved({"epoch": 3, "model": network(), "ema": None}, form))
    assert same(contents.tensors, dict(network().state_dict()))
    assert contents.origin == "torch.nn.modules.container.Sequential, under model"
    assert contents.extra == {"epoch": "3"}


SOURCE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1)
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("temporary", torch.zeros(9), persistent=False)
        self.register_parameter("absent", None)
        self.register_module("nothing", None)
        self.settings = {"width": width, "again": self.__class__}

    def __setstate__(self, state):
        raise RuntimeError("the code of the class ran")

class TransferModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(2))
        self.model = nn.Sequential(Block(2), Block(3))
        self.model.last_linear = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2))
"""


@pytest.fixture
def lost_model(tmp_path: Path) -> Iterator[Callable[[], nn.Module]]:
    """Makes a module whose classes' file and module are there until the test deletes them."""
    source = tmp_path / "models.py"
    source.write_text(SOURCE)
    module = types.ModuleType("network.models")
    exec(compile(SOURCE, str(source), "exec"), module.__dict__)
    module.__file__ = str(source)
    sys.modules["network"] = types.ModuleType("network")
    sys.modules["network.models"] = module
    yield module.TransferModel
    sys.modules.pop("network", None)
    sys.modules.pop("network.models", None)


@FORMATS
@pytest.mark.parametrize("wrap", [False, True])
def test_a_module_whose_classes_do_not_exist(
    lost_model: Callable[[], nn.Module], form: dict[str, Any], wrap: bool
) -> None:
    """FaceForensics' files are such: whole modules of classes that nobody has installed."""
    model = lost_model()
    content = saved(nn.DataParallel(model) if wrap else model, form)
    assert (SOURCE.encode()[-40:] in content) == (form == SEQUENCE)  # the old format has the code
    state = dict(model.state_dict())
    assert "model.0.kept" in state and "model.0.temporary" not in state
    del sys.modules["network"], sys.modules["network.models"]
    contents = read(content)
    assert same(contents.tensors, state)
    assert contents.kind == "torch module"
    assert contents.origin.startswith("network.models.TransferModel")
    assert "network.models" not in sys.modules and "network" not in sys.modules


def test_a_part_that_is_no_module() -> None:
    model = network()
    model[1].__class__ = type("Odd", (nn.BatchNorm2d,), {"__reduce__": lambda self: (Odd, ())})
    line = refused(saved(model))
    assert "as its part '1', which cannot be read without its code" in line and "Odd" in line


class Odd:
    """What a module with a way of its own to be pickled can turn into."""
