"""Whatever stands in a file: one plain line, no crash, no memory taken on its word."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from xception.errors import ModelFileError
from xception.models import Classifier
from xception.weights import load, save

Change = Callable[[dict[str, Any]], Any]
Changer = Callable[[Change], Path]


def split_file(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensor bytes of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join_file(header: Any, data: bytes) -> bytes:
    """The inverse of `split_file`, for headers that the safetensors library would not write."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.fixture
def change_header(model_path: Path) -> Callable[[Change], Path]:
    """Rewrite the model file with its header changed in place (or replaced by what is returned)."""

    def apply(change: Change) -> Path:
        header, data = split_file(model_path.read_bytes())
        replaced = change(header)
        model_path.write_bytes(join_file(header if replaced is None else replaced, data))
        return model_path

    return apply


@pytest.fixture
def change_description(change_header: Callable[[Change], Path]) -> Callable[[Change], Path]:
    """Rewrite the model file with the description in its metadata changed in place."""

    def apply(change: Change) -> Path:
        def in_header(header: dict[str, Any]) -> None:
            description = json.loads(header["__metadata__"]["xception"])
            replaced = change(description)
            description = description if replaced is None else replaced
            header["__metadata__"]["xception"] = json.dumps(description)

        return change_header(in_header)

    return apply


def refused(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        load(path)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 800
    assert str(path)[:400] in line
    return line


# ---------------------------------------------------------------- no model file at all


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"", "is empty"),
        (b"{}", "not a safetensors file"),
        (b"\0" * 100, "not a safetensors file"),
        (os.urandom(8)[:7] + b"\x7f" + b"{" + b"x" * 50, "claims a header"),
        (b"PK\x03\x04" + b"\0" * 60, "zip archive"),
        (b"\x80\x04\x95" + b"\0" * 60, "not written by torch.save"),
        (b"<!DOCTYPE html><html>Not found", "web page"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 60, "HDF5"),
        (b"\x1f\x8b\x08" + b"\0" * 60, "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"just some text that goes on", "not a safetensors file"),
        (join_file(b"{\xff\xfe}", b""), "no UTF-8"),
        (join_file(b'{"a": ', b""), "no valid JSON"),
        (join_file(b'{"a": NaN}', b""), "no valid JSON"),
        (join_file(b'{"a": 1e999}', b""), "no valid JSON"),
        (join_file(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b""), "no valid JSON"),
        (join_file(b'{"a": ' + b"9" * 10_000 + b"}", b""), "no valid JSON"),
        (join_file(b'{"__metadata__": [1]}', b""), "metadata"),
        (join_file(b'{"__metadata__": {"xception": 1}}', b""), "metadata"),
        (join_file(b"{}", b""), "holds no tensors"),
        (join_file(b"{}", b"abc"), "belong to no tensor"),
    ],
)
def test_files_that_are_something_else(content: bytes, finding: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    assert finding in refused(path)


def test_a_state_dict_of_ours_lacks_the_network(
    tiny: Callable[..., Classifier], tmp_path: Path
) -> None:
    torch.save(tiny().state_dict(), tmp_path / "m.pt")
    line = refused(tmp_path / "m.pt")
    assert "is a state dict of xception without the description of its network" in line


def test_weights_without_a_description(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "m.safetensors", metadata={"format": "pt"})
    assert "holds 1 tensor such as a, and no Xception that xception knows" in refused(
        tmp_path / "m.safetensors"
    )


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    for path, finding in (
        (tmp_path / "missing.safetensors", "does not exist"),
        (tmp_path / "dangling", "does not exist"),
        (tmp_path / "pipe", "not a plain file"),
        (tmp_path, "folder without model.safetensors"),
        (Path("/dev/zero"), "not a plain file"),
        (tmp_path / ("x" * 300), "too long"),
    ):
        assert finding in refused(path)
    with pytest.raises(ModelFileError, match="null"):
        load(f"{tmp_path}/nul\0")


@pytest.mark.parametrize("keep", [3, 9, 100, 5_000, 0.5, -1])
def test_a_file_that_is_cut(keep: float, model_path: Path) -> None:
    content = model_path.read_bytes()
    size = int(keep * len(content)) if isinstance(keep, float) else keep
    model_path.write_bytes(content[:size])
    line = refused(model_path)
    assert "cut short" in line or "not a safetensors file" in line


def test_a_file_that_goes_on(model_path: Path) -> None:
    model_path.write_bytes(model_path.read_bytes() + b"more")
    assert "4 bytes follow" in refused(model_path)


# ---------------------------------------------------------------- lies in the header


def entry_of(header: dict[str, Any], name: str = "head.fc.weight") -> dict[str, Any]:
    return header[name]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda h: entry_of(h).update(shape=[3, 255]), "not described well"),
        (lambda h: entry_of(h).update(shape=[2**61, 2**61]), "not described well"),
        (lambda h: entry_of(h).update(shape=[3, -256]), "not described well"),
        (lambda h: entry_of(h).update(shape="3x256"), "not described well"),
        (lambda h: entry_of(h).update(shape=[3.0, 256]), "not described well"),
        (lambda h: entry_of(h).update(shape=[1] * 100), "not described well"),
        (lambda h: entry_of(h).update(shape=[256, 3]), "is 256x3, the network needs 3x256"),
        (lambda h: entry_of(h).update(dtype="I32"), "head.fc.weight is of dtype I32"),
        (lambda h: entry_of(h).update(dtype="F4"), "of dtype F4"),
        (lambda h: entry_of(h).update(dtype=None), "not described well"),
        (lambda h: entry_of(h).pop("dtype") and None, "not described well"),
        (lambda h: entry_of(h).update(data_offsets=[0, 3072]), "overlap or leave gaps"),
        (lambda h: entry_of(h).update(data_offsets=[3072, 0]), "not described well"),
        (lambda h: entry_of(h).update(data_offsets=[0]), "not described well"),
        (lambda h: h.update({"head.fc.weight": 5}), "not described well"),
        (lambda h: h.update(extra={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}), "extra"),
        (lambda h: h.pop("head.fc.weight") and None, "leave gaps"),
        (lambda h: h.update({"other": h.pop("head.fc.weight")}), "lacks tensors"),
        (lambda h: h.pop("__metadata__") and None, "without the description of its network"),
        (lambda h: [h], "not a safetensors file"),
        (lambda h: json.dumps(h).replace('{"dtype"', '{"dtype":"F32","dtype"', 1).encode(), "JSON"),
    ],
)
def test_lies_about_tensors(change: Change, finding: str, change_header: Changer) -> None:
    assert finding in refused(change_header(change))


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda d: d.update(format_version=2), "newer version of xception (format 2"),
        (lambda d: d.update(format_version=0), "invalid format_version"),
        (lambda d: d.update(format_version="1"), "invalid format_version"),
        (lambda d: d.update(format_version=True), "invalid format_version"),
        (lambda d: d.pop("format_version") and None, "invalid format_version"),
        (lambda d: [], "no JSON object"),
        (lambda d: d.pop("architecture") and None, "without architecture"),
        (lambda d: d["architecture"].update(name=["xception"]), "without architecture"),
        (lambda d: d["architecture"].update(name="yception"), "'yception' that this version"),
        (lambda d: d["architecture"].update(name="y" * 10**5), "upgrade"),
        (lambda d: d.update(class_names=["a", "b"]), "names 2 classes but has 3"),
        (lambda d: d.update(class_names=["a", "b", "b"]), "alike: 'b'"),
        (lambda d: d.update(class_names=["a", "b", 3]), "no list of texts"),
        (lambda d: d.update(class_names="abc"), "no list of texts"),
        (lambda d: d.update(class_names=["a", "b", "c" * 10**5]), "100,000 characters"),
        (lambda d: d.pop("preprocessing") and None, "without preprocessing"),
        (lambda d: d["preprocessing"].update(size=[10**9, 2]), "preprocessing size"),
        (lambda d: d["preprocessing"].update(colour="grey"), "unknown fields"),
        (lambda d: d["preprocessing"].update(std=[0, 1, 1]), "preprocessing std"),
        (lambda d: d["preprocessing"].update(mean=None), "preprocessing mean"),
        (lambda d: d["preprocessing"].update(crop_fraction=10**400), "bad description"),
        (lambda d: d.update(provenance=[1]), "provenance"),
    ],
)
def test_descriptions_that_are_wrong(
    change: Change, finding: str, change_description: Changer
) -> None:
    path = change_description(change)
    assert finding in refused(path)


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        ({"num_classes": 10**12}, "the network needs 1000000000000x256"),
        ({"num_classes": 10**30}, "cannot be built"),
        ({"num_classes": -1}, "cannot be built"),
        ({"num_classes": 3.0}, "without architecture name, args and num_classes"),
        ({"in_channels": 10**15}, "stem.conv1.weight is 32x3x3x3"),
        ({"in_channels": 0}, "cannot be built"),
        ({"fc_units": [10**9, 10**9, 10**9]}, ""),
        ({"fc_units": [2] * 10**5}, "fc_units cannot be"),
        ({"fc_units": "12"}, "fc_units cannot be"),
        ({"fc_units": ["12"]}, "fc_units must be positive, got ('12',)"),
        ({"fc_units": [8], "head_layers": ["relu"]}, "cannot be given together"),
        ({"head_layers": "relu"}, "head_layers cannot be 'relu'"),
        ({"head_layers": ["relu"] * 33}, "head_layers cannot be"),
        ({"head_layers": [["relu"]]}, "head_layers cannot be"),
        ({"head_layers": [None]}, "head_layers cannot be"),
        ({"head_layers": [8]}, "head_layers: 8 is not a layer; a layer is one of linear N"),
        ({"head_layers": ["relu", "eval(1)"]}, "head_layers: 'eval(1)' is not a layer; a layer is"),
        ({"head_layers": ["x" * 10**7]}, "is not a layer"),
        ({"head_layers": ["\x1b[31m\u202e"]}, "is not a layer"),
        ({"head_layers": ["linear 1048577"]}, "head_layers: 'linear 1048577' is not a layer"),
        ({"head_layers": ["linear 1048576"] * 16}, "lacks tensors"),
        ({"head_layers": ["relu"] * 16, "pooling": "sum"}, "pooling must be one of"),
        ({"pooling": ["max"]}, "pooling cannot be"),
        ({"pooling": 3}, "pooling must be one of"),
        ({"segments": 10**9}, "cannot be built"),
        ({"segments": [3]}, "segments cannot be"),
        ({"segments": 3}, "tensors"),
        ({"residual": "yes"}, "residual cannot be"),
        ({"residual": False}, "does not have"),
        ({"dropout": 2}, "dropout"),
        ({"bn_eps": "small"}, "bn_eps cannot be"),
        ({"bn_eps": {"a": 1}}, "bn_eps cannot be"),
        ({"bn_eps": -1.0}, "bn_eps must be above 0, got -1.0"),
        ({"bn_momentum": 0}, "bn_momentum must be above 0"),
        ({"output_stride": 7}, "output_stride"),
        ({"output_stride": {}}, "output_stride cannot be"),
        ({"padding": "none"}, "padding"),
        ({"features_only": True}, "'features_only', which"),
        ({"pretrained": "http://example.org"}, "'pretrained', which"),
        ({"layout": 1}, "layout"),
        ({"x" * 10**5: 1}, "does not take"),
    ],
)
def test_absurd_arguments(
    arguments: dict[str, Any], finding: str, change_description: Changer
) -> None:
    def change(description: dict[str, Any]) -> None:
        description["class_names"] = None
        description["architecture"]["args"].update(arguments)

    path = change_description(change)
    tracemalloc.start()
    assert finding in refused(path)
    assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers(value: float, model_path: Path) -> None:
    tensors = load_file(model_path)
    metadata = split_file(model_path.read_bytes())[0]["__metadata__"]
    tensors["stem.norm1.running_var"][3] = value
    tensors["head.fc.bias"][0] = value
    save_file(tensors, model_path, metadata=metadata)
    assert "NaN or infinite weights in " in (line := refused(model_path))
    assert "1 more tensors" in line


def test_control_characters_stay_off_the_terminal(
    change_description: Changer, tmp_path: Path
) -> None:
    path = change_description(lambda d: d["architecture"].update(name="\x1b[31mred\n\u202e"))
    line = refused(path)
    assert "\x1b" not in line and "\u202e" not in line
    with pytest.raises(ModelFileError, match=r"line\\nbreak"):
        load(tmp_path / "line\nbreak")


# ---------------------------------------------------------------- anything at all


@pytest.fixture(scope="module")
def sample(
    tiny: Callable[..., Classifier], tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, Path]:
    folder = tmp_path_factory.mktemp("mutated")
    model = tiny()
    model.class_names = ["a", "b", "c"]
    save(model, folder / "m.safetensors")
    return (folder / "m.safetensors").read_bytes(), folder / "changed.safetensors"


def loads_or_says_why(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    try:
        load(path)
    except ModelFileError as error:
        assert "\n" not in str(error)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_changed_bytes_of_the_header(data: st.DataObject, sample: tuple[bytes, Path]) -> None:
    content, path = bytearray(sample[0]), sample[1]
    length = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, length - 1))] = data.draw(st.integers(0, 255))
    loads_or_says_why(bytes(content), path)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_changed_values_of_the_description(data: st.DataObject, sample: tuple[bytes, Path]) -> None:
    header, tensors = split_file(sample[0])
    description = json.loads(header["__metadata__"]["xception"])
    places = [(description, key) for key in description]
    places += [(description["architecture"], key) for key in description["architecture"]]
    places += [(description["preprocessing"], key) for key in description["preprocessing"]]
    arguments = [
        "num_classes", "in_channels", "segments", "pooling", "fc_units", "head_layers", "bn_eps",
        "output_stride",
    ]  # fmt: skip
    places += [(description["architecture"]["args"], key) for key in arguments]
    place, key = data.draw(st.sampled_from(places))
    place[key] = data.draw(_json)
    header["__metadata__"]["xception"] = json.dumps(description)
    loads_or_says_why(join_file(header, tensors), sample[1])


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=200))
def test_random_bytes(content: bytes, sample: tuple[bytes, Path]) -> None:
    loads_or_says_why(content, sample[1])
    loads_or_says_why(join_file(b"{" + content, b""), sample[1])
