"""Torch files without plain weights, files of others and cut ones: each gets one line."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xception.weights.files.contents import FileContents

Write = Callable[..., bytes]
Read = Callable[[bytes], FileContents]
Refusal = Callable[[bytes], str]


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
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_plain(
    saved: Write, torch_refusal: Refusal, make: Callable[[], Tensor], finding: str, form: str
) -> None:
    try:
        content = saved({"fine": torch.ones(2), "odd.weight": make()}, form)
    except (RuntimeError, AttributeError) as error:  # torch cannot write them in its old format
        pytest.skip(str(error)[:60])
    line = torch_refusal(content)
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
def test_files_without_weights(
    saved: Write, torch_refusal: Refusal, value: Any, finding: str, form: str
) -> None:
    line = torch_refusal(saved(value, form))
    assert finding in line and "save model.state_dict()" in line


# ---------------------------------------------------------------- files that are something else


def test_torchscript(torch_refusal: Refusal) -> None:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    line = torch_refusal(buffer.getvalue())
    assert "TorchScript" in line and "torch.jit.load" in line


def test_a_tar_archive(torch_refusal: Refusal) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    assert "tar archive" in torch_refusal(buffer.getvalue())


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
def test_files_that_are_something_else(
    torch_refusal: Refusal, content: bytes, finding: str
) -> None:
    assert finding in torch_refusal(content)


def test_zip_archives_of_others(torch_refusal: Refusal) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    assert "nor Keras wrote (it holds word/document.xml)" in torch_refusal(buffer.getvalue())


# ---------------------------------------------------------------- damaged files


def test_every_cut_is_noticed(
    saved: Write, torch_contents: Read, torch_refusal: Refusal, form: str
) -> None:
    content = saved({"state_dict": {"a": torch.ones(9), "b": torch.ones(3, 3)}}, form)
    torch_contents(content)
    for length in range(1, len(content)):
        line = torch_refusal(content[:length])
        assert "cut short" in line or (length < 20 and "not written by torch.save" in line)


def test_storages_of_a_sequence_that_lie(saved: Write, torch_refusal: Refusal) -> None:
    content = saved({"a": torch.ones(9)}, "sequence")
    at = len(content) - 36 - 8
    assert int.from_bytes(content[at : at + 8], "little") == 9
    for count in (10, 2**31, 2**63):
        claimed = content[:at] + count.to_bytes(8, "little") + content[at + 8 :]
        assert "cut short: it ends within its tensors" in torch_refusal(claimed)
    claimed = content[:at] + (8).to_bytes(8, "little") + content[at + 8 :]
    assert "takes 36 bytes, 32 are there" in torch_refusal(claimed)
    keys = content.rindex(b"\x80\x02]", 0, at)
    for listed in (["1"], [None], ["x" * 99], [2**70]):
        line = torch_refusal(content[:keys] + pickle.dumps(listed, 2) + content[at:])
        assert "no tensor uses" in line or "no usable key" in line
    assert "are missing" in torch_refusal(content[:keys] + pickle.dumps("1", 2) + content[at:])
