"""Names of timm, Cadene and FaceForensics++: one network, and whose they are tells the rest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xception.models import Preprocessing
from xception.weights.dialects.torch_legacy import recognise, timm_tensors
from xception.weights.files.contents import FileContents
from xception.weights.imported import Imported

State = dict[str, Tensor]
Import = Callable[..., Imported]
LAST = ("fc.weight", "fc.bias")


def in_place_of_fc(state: State, last_layer: str, prefix: str = "") -> State:
    return {
        prefix + (name.replace("fc", last_layer) if name in LAST else name): tensor
        for name, tensor in state.items()
    }


def with_matrices(state: State) -> State:
    return {
        name: tensor[:, :, 0, 0] if name.endswith("pointwise.weight") else tensor
        for name, tensor in state.items()
    }


TIMM = Preprocessing(crop_fraction=0.8975, interpolation="bicubic")
CADENE = Preprocessing(crop_fraction=0.8975, interpolation="bilinear")
FACES = Preprocessing(resize="squash", interpolation="bilinear")
VARIANTS: dict[str, tuple[Callable[[State], State], str, Preprocessing]] = {
    "timm": (lambda s: s, "timm legacy_xception", TIMM),
    "timm, compiled": (lambda s: in_place_of_fc(s, "fc", "_orig_mod."), "timm legacy_xcep", TIMM),
    "head.fc": (lambda s: in_place_of_fc(s, "head.fc"), "timm legacy_xception", TIMM),
    "classifier": (lambda s: in_place_of_fc(s, "classifier", "net."), "timm legacy_xcep", TIMM),
    "Cadene": (lambda s: in_place_of_fc(s, "last_linear"), "Cadene xception", CADENE),
    "Cadene, matrices": (
        lambda s: with_matrices(in_place_of_fc(s, "last_linear")),
        "Cadene xception",
        CADENE,
    ),
    "Cadene's first file": (with_matrices, "Cadene xception", CADENE),
    "Cadene, parallel": (lambda s: in_place_of_fc(s, "last_linear", "module."), "Cadene", CADENE),
    "faces": (lambda s: in_place_of_fc(s, "last_linear", "model."), "FaceForensics++", FACES),
    "faces, in sequence": (
        lambda s: in_place_of_fc(s, "last_linear.1", "model."),
        "FaceForensics++",
        FACES,
    ),
    "faces, parallel": (
        lambda s: in_place_of_fc(s, "last_linear.1", "module.model."),
        "FaceForensics++",
        FACES,
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_names_gives_the_same_network(
    import_legacy: Import, legacy_state: State, variant: str
) -> None:
    rename, dialect, preprocessing = VARIANTS[variant]
    found = import_legacy(rename(legacy_state))
    plain = import_legacy(legacy_state).model.state_dict()
    assert all(torch.equal(tensor, plain[n]) for n, tensor in found.model.state_dict().items())
    assert found.report.dialect.startswith(dialect)
    assert found.report.dialect.endswith(", torch state dict")
    assert found.model.preprocessing == preprocessing


@pytest.mark.parametrize("variant", VARIANTS)
def test_timm_loads_every_variant_by_renaming_alone(legacy_state: State, variant: str) -> None:
    """What parity is measured on does not go through our map."""
    timm = pytest.importorskip("timm")
    tensors = VARIANTS[variant][0](legacy_state)
    renamed = timm_tensors(FileContents(kind="torch state dict", tensors=tensors))
    with torch.device("meta"):
        other = timm.create_model("legacy_xception", num_classes=5)
    other.load_state_dict(renamed, strict=True, assign=True)
    assert all(
        torch.equal(tensor, legacy_state[name]) for name, tensor in other.state_dict().items()
    )


def test_timms_own_preprocessing() -> None:
    timm = pytest.importorskip("timm")
    cfg = timm.get_pretrained_cfg("legacy_xception")
    assert (cfg.input_size[1:], cfg.crop_pct, cfg.interpolation, cfg.mean, cfg.std) == (
        TIMM.size,
        TIMM.crop_fraction,
        TIMM.interpolation,
        TIMM.mean,
        TIMM.std,
    )


def of_two_classes(state: State) -> State:
    return {name: t[:2] if name in LAST else t for name, t in state.items()}


@pytest.mark.parametrize(
    "last_layer, origin, names, dropout",
    [
        ("last_linear", "", None, 0.0),
        ("last_linear", "network.models.TransferModel", ["real", "fake"], 0.0),
        ("last_linear.1", "", ["real", "fake"], 0.5),
    ],
)
def test_faceforensics_classes_are_named_where_the_file_is_surely_its(
    import_legacy: Import,
    legacy_state: State,
    last_layer: str,
    origin: str,
    names: list[str] | None,
    dropout: float,
) -> None:
    tensors = in_place_of_fc(of_two_classes(legacy_state), last_layer, "model.")
    found = import_legacy(tensors, origin=origin)
    assert found.model.num_classes == 2
    assert found.model.class_names == names
    assert found.model.architecture["args"]["dropout"] == dropout
    said = " ".join(found.report.choices)
    assert "1.3 times the face's box" in said
    assert ("real and fake, as FaceForensics++'s" if names else "0 real, 1 fake") in said
    assert ("a dropout of 0.5" in said) == bool(dropout)


def test_imagenets_classes_under_a_wrapper_are_not_faces(
    import_legacy: Import, legacy_state: State
) -> None:
    of_1000 = {**legacy_state, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    found = import_legacy(in_place_of_fc(of_1000, "last_linear", "model."))
    assert found.report.dialect.startswith("Cadene")


def test_everything_that_the_file_does_not_say_is_told(
    import_legacy: Import, legacy_state: State
) -> None:
    choices = import_legacy(legacy_state).report.choices
    for told in (
        "epsilon 1e-05, momentum 0.1",
        "padding='torch'",
        "by their average",
        "dropout before the last layer: none",
        "centre crop (0.8975) of 299x299 pixels, bicubic, (x - 0.5) / 0.5",
        "does not name its 5 classes",
    ):
        assert any(told in choice for choice in choices), told
    assert not any("\n" in choice for choice in choices)


def test_other_names_are_not_this_dialect() -> None:
    tensors = {
        "layer1.0.conv1.weight": torch.zeros(1),
        "xblock1.rep.0.conv1.weight": torch.zeros(1),
    }
    assert recognise(FileContents(kind="safetensors", tensors=tensors)) is None
    assert recognise(FileContents(kind="safetensors", tensors={})) is None
