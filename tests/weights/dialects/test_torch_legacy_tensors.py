"""Channels, classes, counts and dtypes of the paper's network come from the tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from xception.weights.imported import Imported

State = dict[str, Tensor]
Import = Callable[..., Imported]


@pytest.mark.parametrize("in_channels", [1, 4])
def test_channels_of_the_stem(import_legacy: Import, legacy_state: State, in_channels: int) -> None:
    stem = torch.randn(32, in_channels, 3, 3)
    found = import_legacy({**legacy_state, "conv1.weight": stem})
    assert found.model.in_channels == in_channels
    assert found.model.preprocessing.channels == (1 if in_channels == 1 else 3)
    assert len(found.model.preprocessing.mean) == found.model.preprocessing.channels
    told = "made grey" if in_channels == 1 else "takes 4 channels"
    assert any(told in choice for choice in found.report.choices)
    assert found.model(torch.randn(1, in_channels, 71, 71)).shape == (1, 5)


@pytest.mark.parametrize("num_classes", [1, 2])
def test_classes_are_as_many_as_the_last_layer_has_rows(
    import_legacy: Import, legacy_state: State, num_classes: int
) -> None:
    few = {
        name: t[:num_classes] if name.startswith("fc.") else t for name, t in legacy_state.items()
    }
    assert import_legacy(few).model.num_classes == num_classes


def test_without_a_last_layer_features_come_out(import_legacy: Import, legacy_state: State) -> None:
    found = import_legacy(
        {name: tensor for name, tensor in legacy_state.items() if not name.startswith("fc.")}
    )
    assert found.model.num_classes == 0
    assert found.model(torch.randn(1, 3, 71, 71)).shape == (1, 2048)
    assert any("pooled features come out" in choice for choice in found.report.choices)


def test_counts_of_batches_may_be_absent(import_legacy: Import, legacy_state: State) -> None:
    old = {n: t for n, t in legacy_state.items() if not n.endswith("num_batches_tracked")}
    found = import_legacy(old)
    counts = [t for n, t in found.model.state_dict().items() if n.endswith("num_batches_tracked")]
    assert len(counts) == 40 and all(t.dtype == torch.int64 and t == 0 for t in counts)
    assert any("does not count the batches" in choice for choice in found.report.choices)
    assert {there for there, _ in found.report.mapped} == set(old)


def test_counts_of_batches_that_were_cast_with_the_weights_are_left_out(
    import_legacy: Import, legacy_state: State
) -> None:
    found = import_legacy({name: tensor.half() for name, tensor in legacy_state.items()})
    assert found.model.head.fc.weight.dtype == torch.float16
    left = dict(found.report.left_out)
    assert len(left) == 40
    assert left["bn1.num_batches_tracked"] == "a count of batches as float16; 0 is taken"
    assert found.model.state_dict()["stem.norm1.num_batches_tracked"] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_dtype_stays_and_tensors_are_not_copied(
    import_legacy: Import, legacy_state: State, dtype: torch.dtype
) -> None:
    cast = {n: t.to(dtype) if t.is_floating_point() else t for n, t in legacy_state.items()}
    model = import_legacy(cast).model
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(p.requires_grad for p in model.parameters())
    conv1 = model.get_submodule("stem.conv1")
    assert isinstance(conv1, nn.Conv2d)
    assert conv1.weight.data_ptr() == cast["conv1.weight"].data_ptr()


def test_parameters_of_a_whole_module_are_taken(
    import_legacy: Import, legacy_network: nn.Module
) -> None:
    parameters = {**legacy_network.state_dict(), **dict(legacy_network.named_parameters())}
    assert isinstance(parameters["conv1.weight"], nn.Parameter)
    assert import_legacy(parameters).model.num_classes == 5
