"""State dicts of torch.save: equal to what torch reads, wherever in the file they lie."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xception.weights.files.contents import FileContents

Write = Callable[..., bytes]
Read = Callable[[bytes], FileContents]
Refusal = Callable[[bytes], str]
Same = Callable[[dict[str, Tensor], dict[str, Tensor]], bool]
Network = Callable[[], nn.Sequential]


# ---------------------------------------------------------------- state dicts, as torch reads them


@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
def test_a_state_dict(
    saved: Write,
    torch_contents: Read,
    same_bits: Same,
    network: Network,
    form: str,
    protocol: int,
) -> None:
    state = network().state_dict()
    contents = torch_contents(saved(state, form, pickle_protocol=protocol))
    assert same_bits(contents.tensors, dict(state))
    assert (contents.kind, contents.origin, contents.extra) == ("torch state dict", "", {})
    assert contents.config is None and contents.version is None
    assert not any(type(t) is not Tensor or t.requires_grad for t in contents.tensors.values())


DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
]


def test_every_dtype(saved: Write, torch_contents: Read, same_bits: Same, form: str) -> None:
    values = torch.linspace(0, 100, 12).reshape(3, 4)
    state = {str(dtype): values.to(dtype) for dtype in DTYPES}
    content = saved(state, form)
    assert same_bits(torch_contents(content).tensors, state)
    if form == "zip":  # torch cannot read its newer dtypes from its older format
        assert same_bits(torch.load(io.BytesIO(content), weights_only=True), state)


def test_every_layout(saved: Write, torch_contents: Read, same_bits: Same, form: str) -> None:
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
    ours = torch_contents(content).tensors
    assert same_bits(ours, state) and same_bits(ours, theirs)
    for name in ("whole", "transposed", "channels last"):
        assert ours[name].stride() == theirs[name].stride()


def test_parts_keep_no_more_memory_than_they_need(
    saved: Write, torch_contents: Read, form: str
) -> None:
    base = torch.arange(1000.0)
    tensors = torch_contents(saved({"a": base[:10], "b": base[10:20], "whole": base}, form)).tensors
    assert tensors["a"].untyped_storage().nbytes() == 40
    assert tensors["whole"].untyped_storage().nbytes() == 4000


def test_parameters_with_attributes_and_subclasses(
    saved: Write, torch_contents: Read, same_bits: Same, form: str
) -> None:
    plain = nn.Parameter(torch.randn(3))
    marked = nn.Parameter(torch.randn(3))
    marked.note = "mine"  # type: ignore[attr-defined]
    buffer = torch.randn(3)
    buffer.note = "mine"  # type: ignore[attr-defined]
    state = {"plain": plain, "marked": marked, "buffer": buffer}
    found = torch_contents(saved(state, form)).tensors
    assert same_bits(found, {name: value.detach() for name, value in state.items()})


def test_big_endian_numbers(saved: Write, torch_contents: Read, same_bits: Same) -> None:
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
    assert same_bits(torch_contents(swapped.getvalue()).tensors, state)


def test_an_archive_that_somebody_packed_anew(
    saved: Write, torch_contents: Read, same_bits: Same
) -> None:
    state = {"a": torch.zeros(1000)}
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(state))) as source,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert same_bits(torch_contents(buffer.getvalue()).tensors, state)


# ---------------------------------------------------------------- where the weights lie


@pytest.mark.parametrize(
    "key", ["state_dict", "model", "model_state_dict", "model_ema", "net", "network", "my weights"]
)
def test_dictionaries_around_a_state_dict(
    saved: Write,
    torch_contents: Read,
    same_bits: Same,
    network: Network,
    form: str,
    key: str,
) -> None:
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
    contents = torch_contents(saved(checkpoint, form))
    assert same_bits(contents.tensors, dict(model.state_dict()))
    assert contents.origin == f"under {key}"
    assert contents.extra == {"epoch": "12", "arch": "xception", "best": "0.75"}


def test_a_dictionary_in_a_dictionary(saved: Write, torch_contents: Read, same_bits: Same) -> None:
    state = {"a.weight": torch.ones(2)}
    contents = torch_contents(saved({"checkpoint": {"step": 5, "state_dict": state}, "x": 1}))
    assert same_bits(contents.tensors, state)
    assert contents.origin == "under checkpoint > state_dict"
    assert contents.extra == {"x": "1", "step": "5"}


def test_the_first_of_several_known_names_is_taken_and_the_others_noted(
    saved: Write, torch_contents: Read, same_bits: Same
) -> None:
    first, second = {"a": torch.ones(2)}, {"a": torch.zeros(2)}
    contents = torch_contents(saved({"state_dict_ema": second, "state_dict": first, "model": None}))
    assert same_bits(contents.tensors, first)
    assert contents.origin == "under state_dict"
    assert contents.extra == {"other weights": "state_dict_ema"}


def test_several_unknown_names_are_not_chosen_from(saved: Write, torch_refusal: Refusal) -> None:
    state = {"a": torch.ones(2)}
    assert "several sets of tensors (encoder, decoder)" in torch_refusal(
        saved({"encoder": state, "decoder": state})
    )


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
def test_a_common_prefix_is_removed(
    saved: Write,
    torch_contents: Read,
    same_bits: Same,
    network: Network,
    prefix: str,
) -> None:
    state = dict(network().state_dict())
    contents = torch_contents(saved({prefix + name: value for name, value in state.items()}))
    assert same_bits(contents.tensors, state)
    assert contents.origin == f"without the prefix {prefix}"


def test_a_prefix_of_some_names_is_kept(
    saved: Write, torch_contents: Read, same_bits: Same
) -> None:
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert same_bits(torch_contents(saved(state)).tensors, state)
    found = torch_contents(saved({"module.a": torch.ones(1), "module.b": torch.ones(1)}))
    assert list(found.tensors) == ["a", "b"]


def test_averaged_weights(
    saved: Write, torch_contents: Read, same_bits: Same, network: Network
) -> None:
    model = network()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    state = dict(model.state_dict())
    assert same_bits(torch_contents(saved(averaged.state_dict())).tensors, state)
    assert same_bits(torch_contents(saved(averaged)).tensors, state)


def test_other_entries_of_a_state_dict_are_left_out(saved: Write, torch_contents: Read) -> None:
    state = {"a": torch.ones(2), "epoch": 3, "list": [1], "none": None, 5: torch.ones(1)}
    contents = torch_contents(saved(state))
    assert list(contents.tensors) == ["a"] and contents.extra == {"epoch": "3"}
