"""The paper's network as timm and Cadene have it, both ways: the same numbers, the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xception.models import Classifier, create_model
from xception.weights.dialects import torch_legacy
from xception.weights.dialects.torch_legacy import to_cadene, to_timm
from xception.weights.imported import Imported

State = dict[str, Tensor]
Import = Callable[..., Imported]


@pytest.fixture
def assert_same_numbers(assert_same_stages: Callable[..., Tensor]) -> Callable[..., None]:
    """assert_same_numbers(ours, other, x, tolerance): at the stem, every block, tail and logits."""

    def check(ours: Classifier, other: nn.Module, x: Tensor, tolerance: float) -> None:
        theirs = ["act2", *(f"block{i}" for i in range(1, 13)), "act4"]
        names = dict(zip(dict(ours.stages()), theirs, strict=True))
        logits = assert_same_stages(ours, other, names, x, tolerance)
        assert (logits[0] - logits[1]).abs().max() > 0.01  # they see the picture

    return check


@pytest.mark.parametrize("size", [(71, 71), (96, 131)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_every_block_and_the_logits_are_timms(
    import_legacy: Import,
    assert_same_numbers: Callable[..., None],
    legacy_network: nn.Module,
    size: tuple[int, int],
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    legacy_network.to(dtype)
    model = import_legacy(dict(legacy_network.state_dict())).model
    assert not model.training
    assert_same_numbers(model, legacy_network, torch.randn(2, 3, *size, dtype=dtype), tolerance)


def test_at_299(
    import_legacy: Import, assert_same_numbers: Callable[..., None], legacy_network: nn.Module
) -> None:
    model = import_legacy(dict(legacy_network.double().state_dict())).model
    assert_same_numbers(
        model, legacy_network, torch.randn(2, 3, 299, 299, dtype=torch.float64), 1e-10
    )


def test_numerics_are_pytorchs(import_legacy: Import, legacy_state: State) -> None:
    arguments = import_legacy(legacy_state).model.architecture["args"]
    assert (arguments["padding"], arguments["bn_eps"], arguments["bn_momentum"]) == (
        "torch",
        1e-5,
        0.1,
    )


def test_the_way_back_is_bit_identical(import_legacy: Import, legacy_state: State) -> None:
    result = import_legacy(legacy_state)
    back = to_timm(result.model)
    assert set(back) == set(legacy_state)
    assert all(back[name].dtype == legacy_state[name].dtype for name in legacy_state)
    assert all(torch.equal(back[name], legacy_state[name]) for name in legacy_state)
    assert {there for there, _ in result.report.mapped} == set(legacy_state)
    assert {here for _, here in result.report.mapped} == set(result.model.state_dict())
    assert not result.report.left_out


@pytest.mark.parametrize("num_classes, in_channels", [(5, 3), (0, 1)])
def test_timm_loads_what_is_written_for_it(
    assert_same_numbers: Callable[..., None],
    randomize_torch: Callable[[nn.Module, str], None],
    num_classes: int,
    in_channels: int,
) -> None:
    timm = pytest.importorskip("timm")
    sizes = {"num_classes": num_classes, "in_channels": in_channels}
    ours = create_model("xception", padding="torch", bn_eps=1e-5, dropout=0.5, **sizes)
    assert isinstance(ours, Classifier)
    randomize_torch(ours, "relu")
    ours.double().eval()
    other = timm.create_model("legacy_xception", num_classes=num_classes, in_chans=in_channels)
    other.double().eval().load_state_dict(to_timm(ours), strict=True)
    x = torch.randn(2, in_channels, 80, 97, dtype=torch.float64)
    assert_same_numbers(ours, other, x, 1e-10)


def test_cadenes_names_differ_in_the_last_layer_alone(
    import_legacy: Import, legacy_state: State
) -> None:
    cadene = to_cadene(import_legacy(legacy_state).model)
    renamed = {name.replace("fc.", "last_linear."): tensor for name, tensor in legacy_state.items()}
    assert set(cadene) == set(renamed)
    assert all(torch.equal(cadene[name], tensor) for name, tensor in renamed.items())


# ---------------------------------------------------------------- what is written for them


def exportable(**arguments: Any) -> Classifier:
    with torch.device("meta"):
        model = create_model(
            "xception", **{"num_classes": 3, "padding": "torch", "bn_eps": 1e-5, **arguments}
        )
    assert isinstance(model, Classifier)
    return model


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"padding": "keras", "bn_eps": 1e-3},
            r"has padding='keras', bn_eps=0\.001; timm's legacy_xception has padding='torch', "
            r"bn_eps=1e-05 and would compute other numbers; keep it as a model file of xception, "
            r"or convert it to keras",
        ),
        ({"segments": 4}, r"has segments=4; .* has segments='channels'"),
        ({"intermediate_activation": "elu"}, r"has intermediate_activation='elu';"),
        ({"residual": False}, r"has residual=False;"),
        ({"fc_units": (10,)}, r"has fc_units=\[10\]; .* has fc_units=\[\]"),
        ({"output_stride": 16}, r"has output_stride=16;"),
    ],
)
@pytest.mark.parametrize("export", [to_timm, to_cadene])
def test_what_timm_would_compute_otherwise_is_not_written_for_it(
    arguments: dict[str, Any], message: str, export: Callable[[Classifier], State]
) -> None:
    if export is to_cadene:
        message = message.replace("timm's legacy_xception", "Cadene's xception")
    with pytest.raises(ValueError, match=message):
        export(exportable(**arguments))


@pytest.mark.parametrize("arguments", [{"output_stride": 32}, {"dropout": 0.5, "bn_momentum": 0.3}])
def test_what_changes_no_output_does_not_hinder(arguments: dict[str, Any]) -> None:
    assert len(to_timm(exportable(**arguments))) == 276


def test_other_networks_and_changed_ones_are_not_written() -> None:
    with torch.device("meta"):
        aligned, tiny = create_model("xception41"), create_model("xception_tiny")
    for model in (aligned, tiny):
        assert isinstance(model, Classifier)
        with pytest.raises(ValueError, match=r"is xception\w+, not timm's legacy_xception; keep"):
            to_timm(model)
    model = exportable()
    model.head.fc = nn.Linear(2048, 4, device="meta")
    with pytest.raises(ValueError, match=r"head\.fc\.weight is 4x2048"):
        to_timm(model)
    model.architecture = {}
    with pytest.raises(ValueError, match="does not know its architecture"):
        to_timm(model)


def test_the_map_is_one_to_one() -> None:
    model = exportable()
    names = torch_legacy._port().names(model)
    assert len(set(names.values())) == len(names) == len(model.state_dict())
