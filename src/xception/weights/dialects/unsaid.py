"""What a state dict does not say beside its weights, and the sentences that tell what is chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from xception.models import Classifier, Preprocessing
from xception.weights.wording import CLASSES_UNSAID, PICTURES_UNSAID


def prepared_for(preprocessing: Preprocessing, in_channels: int) -> Preprocessing:
    """The same for grey pictures where the network takes one channel."""
    if in_channels != 1:
        return preprocessing
    mean, std = preprocessing.mean[:1], preprocessing.std[:1]
    return replace(preprocessing, channels=1, mean=mean, std=std)


def network_choices(model: Classifier, like: str) -> tuple[str, ...]:
    """How `model` computes, as far as no tensor tells; `like` names whose settings these are."""
    arguments: dict[str, Any] = model.architecture["args"]
    return (
        "the file does not say the settings of batch normalization: epsilon "
        f"{arguments['bn_eps']:g}, momentum {arguments['bn_momentum']:g} (PyTorch's), as in {like}",
        "the file does not say how edges are padded: alike on all sides "
        f"(padding={arguments['padding']!r}), as in {like}",
        f"the file does not say how features are pooled: by their average, as in {like}",
    )


def class_choice(num_classes: int) -> str:
    """What the outputs mean."""
    if num_classes == 0:
        return "the file has no last layer: pooled features come out (num_classes=0)"
    classes = "class" if num_classes == 1 else "classes"
    return f"{CLASSES_UNSAID} {num_classes} {classes}: they are numbered"


def picture_choices(model: Classifier, like: str) -> tuple[str, ...]:
    """How pictures are prepared for `model`; `like` names whose way it is."""
    p = model.preprocessing
    size = "x".join(map(str, p.size))
    how = "squashed to" if p.resize == "squash" else f"centre crop ({p.crop_fraction:g}) of"
    scaled = f"(x - {p.mean[0]:g}) / {p.std[0]:g} of values in 0..1"
    said = (
        f"{PICTURES_UNSAID} prepared: {how} {size} pixels, {p.interpolation}, "
        f"{scaled}, the way of {like}"
    )
    if model.in_channels == 1:
        return (said, "the network takes one channel: pictures are made grey")
    if model.in_channels != 3:
        return (said, f"the network takes {model.in_channels} channels, which no picture has")
    return (said,)
