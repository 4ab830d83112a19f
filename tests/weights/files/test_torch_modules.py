"""Whole modules in torch files: their weights come out, and the code of no class is needed."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import Tensor, nn

from xception.weights.files.contents import FileContents

Write = Callable[..., bytes]
Read = Callable[[bytes], FileContents]
Refusal = Callable[[bytes], str]
Same = Callable[[dict[str, Tensor], dict[str, Tensor]], bool]
Network = Callable[[], nn.Sequential]


def test_a_whole_module(
    saved: Write,
    torch_contents: Read,
    same_bits: Same,
    network: Network,
    form: str,
) -> None:
    model = network()
    contents = torch_contents(saved(model, form))
    assert same_bits(contents.tensors, dict(model.state_dict()))
    assert contents.kind == "torch module"
    assert contents.origin == "torch.nn.modules.container.Sequential"


@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
def test_a_module_of_a_wrapper(
    saved: Write,
    torch_contents: Read,
    same_bits: Same,
    network: Network,
    form: str,
    protocol: int,
) -> None:
    model = network()
    contents = torch_contents(saved(nn.DataParallel(model), form, pickle_protocol=protocol))
    assert same_bits(contents.tensors, dict(model.state_dict()))
    assert contents.origin == ("torch.nn.modules.container.Sequential, without the prefix module.")


def test_a_module_in_a_dictionary(
    saved: Write,
    torch_contents: Read,
    same_bits: Same,
    network: Network,
    form: str,
) -> None:
    contents = torch_contents(saved({"epoch": 3, "model": network(), "ema": None}, form))
    assert same_bits(contents.tensors, dict(network().state_dict()))
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


@pytest.mark.parametrize("wrap", [False, True])
def test_a_module_whose_classes_do_not_exist(
    saved: Write,
    torch_contents: Read,
    same_bits: Same,
    lost_model: Callable[[], nn.Module],
    form: str,
    wrap: bool,
) -> None:
    """FaceForensics' files are such: whole modules of classes that nobody has installed."""
    model = lost_model()
    content = saved(nn.DataParallel(model) if wrap else model, form)
    assert (SOURCE.encode()[-40:] in content) == (form == "sequence")  # the old format has the code
    state = dict(model.state_dict())
    assert "model.0.kept" in state and "model.0.temporary" not in state
    del sys.modules["network"], sys.modules["network.models"]
    contents = torch_contents(content)
    assert same_bits(contents.tensors, state)
    assert contents.kind == "torch module"
    assert contents.origin.startswith("network.models.TransferModel")
    assert "network.models" not in sys.modules and "network" not in sys.modules


def test_a_part_that_is_no_module(saved: Write, torch_refusal: Refusal, network: Network) -> None:
    model = network()
    model[1].__class__ = type("Odd", (nn.BatchNorm2d,), {"__reduce__": lambda self: (Odd, ())})
    line = torch_refusal(saved(model))
    assert "as its part '1', which cannot be read without its code" in line and "Odd" in line


class Odd:
    """What a module with a way of its own to be pickled can turn into."""
