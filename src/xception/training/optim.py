"""Optimizer, learning rate schedule and averaged weights of a recipe."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from xception.training.muon import Muon
from xception.training.recipe import Recipe
from xception.training.rmsprop import TensorFlowRMSprop


def make_optimizer(model: nn.Module, head: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over groups of one learning rate each, with or without weight decay.

    A group's `lr_scale` is its share of the schedule's learning rate: 1 for `head`, `backbone_lr`
    for what stands before it, less by the factor `layer_decay` for each layer group of
    `model.group_matcher()` further from it.
    """
    head_parameters = {id(p) for p in head.parameters()}
    depth = _depths(model) if recipe.layer_decay != 1.0 else {}
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for parameter, kind in _kinds(model):
        scale = 1.0
        if id(parameter) not in head_parameters:
            scale = recipe.backbone_lr * recipe.layer_decay ** depth.get(id(parameter), 0)
        # As its authors do, Muon leaves out the head and filters of a single channel.
        is_matrix = kind == "weight" and id(parameter) not in head_parameters
        groups.setdefault((scale, kind in recipe.no_decay, is_matrix), []).append(parameter)
    described: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": 0.0 if exempt else recipe.weight_decay,
            "lr_scale": scale,
            **({"matrix": is_matrix} if recipe.optimizer == "muon" else {}),
        }
        for (scale, exempt, is_matrix), parameters in groups.items()
    ]
    if recipe.optimizer == "sgd":
        nesterov = recipe.nesterov and recipe.momentum > 0
        return torch.optim.SGD(described, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov)
    if recipe.optimizer == "rmsprop":
        return TensorFlowRMSprop(described, recipe.lr, momentum=recipe.momentum)
    if recipe.optimizer == "muon":
        return Muon(described, lr=recipe.lr, momentum=recipe.momentum)
    return torch.optim.AdamW(described, lr=recipe.lr, betas=(recipe.momentum, 0.999))


def _depths(model: nn.Module) -> dict[int, int]:
    """For each parameter by its id, how many layer groups lie between it and the classifier.

    Groups are `model.group_matcher()`'s, in its order and that of the numbers its patterns catch;
    what no pattern fits (the head) counts as 0.
    """
    matcher = cast(Callable[[], dict[str, str]], model.group_matcher)()
    place: dict[int, tuple[int, ...]] = {}
    for name, parameter in model.named_parameters():
        for number, pattern in enumerate(matcher.values()):
            found = re.match(pattern, name)
            if found is not None:
                place[id(parameter)] = (number, *(int(caught) for caught in found.groups()))
                break
    from_the_head = sorted(set(place.values()), reverse=True)
    distance = {group: depth for depth, group in enumerate(from_the_head, start=1)}
    return {parameter: distance[group] for parameter, group in place.items()}


def _kinds(model: nn.Module) -> list[tuple[nn.Parameter, str]]:
    """Every trainable parameter once, with its kind: norm, bias, depthwise or weight."""
    found: dict[int, tuple[nn.Parameter, str]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, _BatchNorm):
                kind = "norm"
            elif name == "bias":
                kind = "bias"
            elif isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
                kind = "depthwise"
            else:
                kind = "weight"
            found.setdefault(id(parameter), (parameter, kind))
    return [pair for pair in found.values() if pair[0].requires_grad]


def learning_rate(recipe: Recipe, epoch: float, pictures: int) -> float:
    """The schedule's learning rate at `epoch` (a fraction: 1.5 is the middle of the second).

    pictures: training pictures of an epoch
    """
    highest = recipe.lr * scale_of_batch(recipe)
    warmup = recipe.warmup * recipe.epochs
    if epoch < warmup:
        return highest * epoch / warmup
    if recipe.schedule == "constant":
        return highest
    if recipe.schedule == "step":
        after = recipe.step_epochs
        if recipe.step_pictures is not None:
            after = recipe.step_pictures / pictures
        return highest * recipe.step_decay ** math.floor(epoch / after)
    done = min((epoch - warmup) / (recipe.epochs - warmup), 1.0)
    if recipe.schedule == "linear":
        return highest * (1.0 - done)
    return highest * 0.5 * (1.0 + math.cos(math.pi * done))


def scale_of_batch(recipe: Recipe) -> float:
    """What the learning rate is multiplied by where `lr_batch` names another number of pictures.

    In proportion for SGD (Goyal et al. 2017), by the square root for the others, whose steps do
    not grow with the gradient (Malladi et al. 2022).
    """
    share = recipe.batch_size / (recipe.lr_batch or recipe.batch_size)
    return share if recipe.optimizer == "sgd" else math.sqrt(share)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


class AveragedWeights:
    """Exponential moving average of weights and batch normalization buffers (Polyak averaging).

    The decay grows with the steps, min(decay, (1 + step) / (10 + step)), so that the first values
    are forgotten soon. `state` has the names and shapes of the model's state dict.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.step = 0
        self.state: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move a step towards the model's weights."""
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        self.step += 1
        current = model.state_dict()
        floating = [name for name, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.state[name] for name in floating],
            [current[name] for name in floating],
            1.0 - decay,
        )
        for name, value in current.items():
            if not value.is_floating_point():
                self.state[name].copy_(value)
