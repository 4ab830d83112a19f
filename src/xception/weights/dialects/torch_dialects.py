"""Whose state dict it is, and the way back to timm and Cadene."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from torch import Tensor

from xception.models import Classifier
from xception.weights.dialects import torch_aligned, torch_legacy
from xception.weights.files.contents import FileContents
from xception.weights.imported import Imported
from xception.weights.wording import listed

Target = Literal["timm", "cadene"]

TORCH_DIALECTS: tuple[Callable[[FileContents], Imported | None], ...] = (
    torch_legacy.recognise,
    torch_aligned.recognise,
)
_KNOWN = (
    "the paper's network as timm (legacy_xception), Cadene and FaceForensics++ name it, and timm's "
    "xception41, xception65, xception71, xception41p and xception65p"
)
_OWN_NAME = re.compile(r"(?:^|\.)(?:entry|middle|exit)_flow\.\d+\.units\.")
_OTHER_NETWORKS = (  # (a name in its state dict, what it is); the first that fits is told
    (re.compile(r"(?:^|\.)layer[1-4]\.\d+\.conv[123]\.weight$"), "a ResNet"),
    (re.compile(r"(?:^|\.)_?blocks\.\d+\.(?:\d+\.conv_pwl?\.|_project_conv\.)"), "an EfficientNet"),
    (
        re.compile(r"(?:^|\.)features\.\d+\.(?:\d+\.)?(?:block|conv)\."),
        "a MobileNet or EfficientNet",
    ),
    (re.compile(r"(?:^|\.)features\.denseblock\d"), "a DenseNet"),
    (re.compile(r"(?:^|\.)Mixed_[567][a-e]\."), "an Inception V3"),
    (re.compile(r"(?:^|\.)features\.\d+\.\d+\.layer_scale$|\.\d+\.conv_dw\."), "a ConvNeXt"),
    (re.compile(r"(?:^|\.)(?:self_)?att(?:ention|n)(?:\.|_)"), "a transformer"),
    (re.compile(r"(?:^|\.)features\.\d+\.weight$"), "a VGG or AlexNet"),
)
_MOST_LETTERS = 300  # of a name that are searched


def recognise(contents: FileContents) -> Imported:
    """The classifier in `contents` by the first dialect that knows its names.

    Raises ValueError saying what the file holds instead, or what is broken in it.
    """
    for dialect in TORCH_DIALECTS:
        imported = dialect(contents)
        if imported is not None:
            return imported
    raise ValueError(_what_it_holds(contents))


def to_state_dict(model: Classifier, target: Target) -> dict[str, Tensor]:
    """The state dict by the names of timm or Cadene, which loads there with strict=True.

    The tensors are the model's own, not copies. Raises ValueError when the network is not there, or
    would compute other numbers.
    """
    name = model.architecture.get("name", "xception")
    if target == "cadene":
        return torch_legacy.to_cadene(model)
    if name in torch_aligned.NAMES:
        return torch_aligned.to_timm(model)
    if name == "xception":
        return torch_legacy.to_timm(model)
    raise ValueError(
        f"is {name}, which timm does not have (it has xception and "
        f"{', '.join(torch_aligned.NAMES)}); keep it as a model file of xception"
    )


def timm_state_dict(contents: FileContents, model: Classifier) -> tuple[str, dict[str, Tensor]]:
    """The network's name in timm, and the file's tensors under the names that they have there.

    model: what `recognise` made of `contents`

    Names alone are changed, without the map that `recognise` goes by: so timm's outputs can be
    compared with the model's.
    """
    name = model.architecture["name"]
    if name == "xception":
        return "legacy_xception", torch_legacy.timm_tensors(contents)
    return name, torch_aligned.timm_tensors(contents)


def _what_it_holds(contents: FileContents) -> str:
    names = [name[:_MOST_LETTERS] for name in contents.tensors]
    if not names:
        return "holds no tensors; give a file with the weights of a network"
    if any(_OWN_NAME.search(name) for name in names):
        return (
            "is a state dict of xception without the description of its network; load it into "
            "what create_model returns and write it by xception.save"
        )
    count = f"{len(names)} tensor" + ("s" if len(names) > 1 else "")
    for mark, network in _OTHER_NETWORKS:
        fitting = next((name for name in names if mark.search(name)), None)
        if fitting is not None:
            what = f"{count} such as {listed([fitting])}, as {network} has them"
            break
    else:
        what = f"{count} such as {listed(names, most=1)}"
    return f"holds {what}, and no Xception that xception knows (it knows {_KNOWN})"
