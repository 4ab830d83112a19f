"""Which dialect a state dict is in, what is said of one in none, and the ways out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from xception.models import Classifier, create_model
from xception.weights.dialects.torch_dialects import (
    recognise,
    timm_state_dict,
    to_state_dict,
)
from xception.weights.files.contents import FileContents


def contents(tensors: dict[str, Tensor]) -> FileContents:
    return FileContents(kind="torch state dict", tensors=tensors)


def hollow(name: str) -> dict[str, Tensor]:
    """A state dict as timm names it, all zeros that take no memory."""
    arguments: dict[str, Any] = {"padding": "torch", "bn_eps": 1e-5} if name == "xception" else {}
    with torch.device("meta"):
        model = create_model(name, num_classes=4, **arguments)
    assert isinstance(model, Classifier)
    return {
        key: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
        for key, tensor in to_state_dict(model, "timm").items()
    }


@pytest.mark.parametrize("name", ["xception", "xception41", "xception71", "xception65p"])
def test_each_network_is_recognised_and_has_its_name_in_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    found = contents(hollow(name))
    model = recognise(found).model
    assert model.architecture["name"] == name
    there, tensors = timm_state_dict(found, model)
    assert there == ("legacy_xception" if name == "xception" else name)
    with torch.device("meta"):
        other = timm.create_model(there, num_classes=4)
    other.load_state_dict(tensors, strict=True, assign=True)


def test_cadene_has_the_papers_network_alone() -> None:
    with torch.device("meta"):
        paper = create_model("xception", padding="torch", bn_eps=1e-5)
        aligned = create_model("xception41")
    assert isinstance(paper, Classifier) and isinstance(aligned, Classifier)
    assert "last_linear.weight" in to_state_dict(paper, "cadene")
    with pytest.raises(ValueError, match=r"is xception41, not Cadene's xception; keep it as"):
        to_state_dict(aligned, "cadene")


def test_timm_has_no_small_networks() -> None:
    with torch.device("meta"):
        tiny = create_model("xception_tiny")
    assert isinstance(tiny, Classifier)
    with pytest.raises(ValueError, match=r"is xception_tiny, which timm does not have \(it has x"):
        to_state_dict(tiny, "timm")


def refusal(*names: str) -> str:
    with pytest.raises(ValueError) as error:
        recognise(contents({name: torch.zeros(1) for name in names}))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "name, network",
    [
        ("layer1.0.conv1.weight", "a ResNet"),
        ("module.layer1.0.conv1.weight", "a ResNet"),
        ("blocks.1.0.conv_pw.weight", "an EfficientNet"),
        ("_blocks.0._project_conv.weight", "an EfficientNet"),
        ("features.1.0.block.0.0.weight", "a MobileNet or EfficientNet"),
        ("features.1.conv.0.0.weight", "a MobileNet or EfficientNet"),
        ("features.denseblock1.denselayer1.norm1.weight", "a DenseNet"),
        ("Mixed_5b.branch1x1.conv.weight", "an Inception V3"),
        ("stages.0.blocks.0.conv_dw.weight", "a ConvNeXt"),
        ("blocks.0.attn.qkv.weight", "a transformer"),
        ("encoder.layer.0.attention.self.query.weight", "a transformer"),
        ("features.0.weight", "a VGG or AlexNet"),
    ],
)
def test_other_networks_are_called_by_their_name(name: str, network: str) -> None:
    message = refusal("a.weight", name)
    assert message.startswith(f"holds 2 tensors such as {name}, as {network} has them, and no Xc")
    assert "legacy_xception" in message and "xception65p" in message


def test_unknown_names_are_shown() -> None:
    assert refusal("w\n").startswith("holds 1 tensor such as w\\n, and no Xception that xception")
    assert refusal("w", "v", "u").startswith("holds 3 tensors such as w and 2 more, and no Xc")
    assert len(refusal("x" * 10_000)) < 600


def test_no_tensors() -> None:
    assert refusal() == "holds no tensors; give a file with the weights of a network"


def test_a_bare_state_dict_of_ours_says_how_to_keep_it() -> None:
    with torch.device("meta"):
        names = list(create_model("xception_tiny").state_dict())
    assert refusal(*names).startswith("is a state dict of xception without the description of its")
