"""A model made ready for inference: where it comes from, its device, its classes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from xception.device import usable_device
from xception.errors import UsageError
from xception.models import Classifier
from xception.weights.opening import load


def as_classifier(
    model: str | os.PathLike[str] | Classifier, device: str | torch.device | None
) -> Classifier:
    """As `as_network`, and it must have classes."""
    classifier = as_network(model, device)
    check_classes(classifier)
    return classifier


def check_classes(model: Classifier) -> None:
    """Raises UsageError where there are none."""
    if model.num_classes < 1:
        raise UsageError(
            "the model has no classes; its features are what `xception embed` writes, and "
            "`xception train --weights` gives it classes"
        )


def as_network(
    model: str | os.PathLike[str] | Classifier, device: str | torch.device | None
) -> Classifier:
    """The network itself, or the one in a model file or run folder, on `device`.

    None leaves a network where it is and puts a loaded one on CUDA where there is one. The
    preprocessing must fit the network. Raises UsageError, ModelFileError.
    """
    if isinstance(model, Classifier):
        network = model if device is None else model.to(usable_device(device))
    elif isinstance(model, (str, os.PathLike)):
        network = load(model, device=usable_device(device))
        network.to(memory_format=torch.channels_last)
    else:
        raise UsageError(
            f"a {type(model).__name__} cannot classify pictures or give their features; give a "
            "model file, a run folder or a whole network of create_model"
        )
    _check(network)
    return network


def _check(model: Classifier) -> None:
    p = model.preprocessing
    if p.channels != model.in_channels:
        raise UsageError(
            f"the model takes {model.in_channels} channels but its preprocessing gives "
            f"{p.channels}; pictures have 3 (RGB) or 1 (grey)"
        )
    if min(p.size) < model.minimum_size:
        raise UsageError(
            f"the model's preprocessing gives {p.size[0]}x{p.size[1]} pixels but its network needs "
            f"at least {model.minimum_size}x{model.minimum_size}; set preprocessing size"
        )


def class_labels(model: Classifier) -> list[str]:
    """Class names by index; "class 17" where they are not known."""
    if model.class_names is not None:
        return list(model.class_names)
    return [f"class {index}" for index in range(model.num_classes)]


@torch.inference_mode()
def logits(model: Classifier, x: Tensor) -> Tensor:
    """x: float32 (N, C, H, W) on any device -> float32 (N, num_classes) on the model's."""
    return model(placed(model, x)).float()


def placed(model: Classifier, x: Tensor) -> Tensor:
    """x: float (N, C, H, W) -> the same on the model's device, in its dtype, channels last."""
    weight = next(model.parameters())
    return x.to(weight.device, weight.dtype, memory_format=torch.channels_last)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; every module gets its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
