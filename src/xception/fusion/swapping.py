"""`fuse` and `unfuse`: modules change their class, and nothing else about them changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from xception.errors import UsageError
from xception.fusion.layers import (
    Fused,
    FusedActivation,
    FusedConvolution,
    FusedNormalization,
    Role,
)
from xception.fusion.legality import (
    activation_of,
    has_activation_inside,
    has_depthwise_form,
    is_convolution,
    is_normalization,
    original_class,
)
from xception.fusion.planning import NOT_CALLED, Plan
from xception.fusion.recording import record, undisturbed
from xception.fusion.report import Entry, FusionReport
from xception.ops import describe_kernels
from xception.ops.kernels import kernels

EXAMPLE_SIDE = 224  # pixels
OUR_NETWORKS = "xception.models."  # whose blocks fuse by themselves, their pools included

_CLASSES: dict[tuple[type[Fused], type[nn.Module]], type[nn.Module]] = {}


def fuse(model: nn.Module, example: Tensor | None = None) -> FusionReport:
    """Let the depthwise and pointwise convolutions of any network run by this package's kernels.

    Their batch normalizations and activations are folded into them: applied where a tensor is
    loaded, statistics taken where one is stored. The network is changed in place; parameters,
    names, state dict and the classes that `isinstance` sees stay. What it computes is the same up
    to rounding, in training and in evaluation, values and gradients.

    model: any module whose forward takes one tensor (N, C, H, W)
    example: such a tensor, of the size that is to be trained on; the network is run with it once,
        in eval mode and without gradients, to see which module reads which, and once more when all
        is done. By default one picture of the size in timm's `pretrained_cfg`, else 224 x 224.

    Returns what was swapped, and for what was not the reason: print it. `unfuse` goes back; `fuse`
    again plans anew. Where the kernels cannot serve (other dtypes and devices, autocast, a compiler
    or an exporter at work, hooks) a module does what it did before.
    Raises UsageError when the network cannot be run with the example, before or after.
    """
    unfuse(model)
    paths = dict(_candidates(model))
    if kernels() is None:
        reason = f"the kernels are {describe_kernels()}"
        return FusionReport(
            tuple(Entry(path, type(m).__name__, reason, False) for m, path in paths.items())
        )
    example = _example_for(model) if example is None else example
    try:
        seen = record(model, paths, example)
    except Exception as error:
        raise UsageError(
            f"the model does not run with an example of {tuple(example.shape)} "
            f"({_in_brief(error)}); give fuse(model, example) one that it takes"
        ) from error
    plan = Plan(seen)
    entries: list[Entry] = []
    for module, path in _in_order(paths, seen):
        role = plan.roles.get(module)
        kind = type(module).__name__
        if role is None:
            entries.append(Entry(path, kind, plan.reasons.get(module, NOT_CALLED), False))
            continue
        entries.append(Entry(path, kind, _describe(module, role), True))
        _swap(module, role)
    _check_that_it_runs(model, example)
    return FusionReport(tuple(entries))


def unfuse(model: nn.Module) -> None:
    """Give every module that `fuse` has swapped its own class back."""
    for module in model.modules():
        if type(module) in _CLASSES.values():
            del module.__dict__["role"]
            module.__class__ = original_class(module)
        elif isinstance(module, Fused):  # somebody, such as a parametrization, went further
            module.__dict__["role"] = None


def _check_that_it_runs(model: nn.Module, example: Tensor) -> None:
    try:
        with undisturbed(model):
            model(example)
    except Exception as error:
        unfuse(model)
        raise UsageError(
            f"the model runs no more once it is fused ({_in_brief(error)}), and is left as it was; "
            "fused layers give tensors in channels_last memory format, which x.view(n, -1) does "
            "not take: x.flatten(1) does"
        ) from error


def _in_brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _swap(module: nn.Module, role: Role) -> None:
    behaviour: type[Fused] = FusedActivation
    if is_convolution(module):
        behaviour = FusedConvolution
    elif is_normalization(module):
        behaviour = FusedNormalization
    module.__class__ = _fused_class(behaviour, type(module))
    module.__dict__["role"] = role


def _fused_class(behaviour: type[Fused], original: type[nn.Module]) -> type[nn.Module]:
    """Under the original's name and module, by which tools tell torch's own layers from others."""
    pair = (behaviour, original)
    if pair not in _CLASSES:
        attributes = {
            "original": original,
            "in_place_of": staticmethod(lambda other: _fused_class(behaviour, other)),
            "__module__": original.__module__,
            "__qualname__": original.__qualname__,
            "__reduce_ex__": _reduce,
        }
        _CLASSES[pair] = type(original.__name__, pair, attributes)
    return _CLASSES[pair]


def _reduce(module: nn.Module, protocol: int) -> tuple[Any, ...]:
    """For copies and pickles: the class is made anew where they are read."""
    kind = type(module)
    behaviour = next(b for b, original in _CLASSES if _CLASSES[b, original] in kind.__mro__)
    state = cast("tuple[Any, ...]", nn.Module.__reduce_ex__(module, protocol))[2]
    return _empty, (behaviour, original_class(module)), state


def _empty(behaviour: type[Fused], original: type[nn.Module]) -> nn.Module:
    kind = _fused_class(behaviour, original)
    return kind.__new__(kind)


def _candidates(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Modules that may have a part in it, with their paths."""
    inner: set[nn.Module] = set()
    for path, module in model.named_modules():
        if module in inner or isinstance(module, torch.jit.ScriptModule):
            continue
        if type(module).__module__.startswith(OUR_NETWORKS) or has_activation_inside(module):
            inner.update(module.modules())
        if is_convolution(module) or is_normalization(module) or activation_of(module):
            yield module, path


def _in_order(
    paths: dict[nn.Module, str], seen: dict[nn.Module, Any]
) -> Iterator[tuple[nn.Module, str]]:
    for module in seen:
        yield module, paths[module]
    for module, path in paths.items():
        if module not in seen:
            yield module, path


def _example_for(model: nn.Module) -> Tensor:
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        raise UsageError("the model holds no Conv2d: there is nothing to fuse")
    config = getattr(model, "pretrained_cfg", None)
    shape = config.get("input_size") if isinstance(config, dict) else None
    size = tuple(shape)[1:] if shape else (EXAMPLE_SIDE, EXAMPLE_SIDE)
    generator = torch.Generator().manual_seed(0)
    example = torch.rand((1, first.in_channels, *size), generator=generator)
    return example.to(first.weight.device, first.weight.dtype)


def _describe(module: nn.Module, role: Role) -> str:
    if is_convolution(module):
        assert isinstance(module, nn.Conv2d)
        if role.is_alone:
            return "depthwise alone: its gradients"
        if role.defers:
            return "one operator with the pointwise convolution behind it"
        name = "depthwise" if has_depthwise_form(module) else "pointwise"
        return f"{name}, takes statistics" if role.takes_statistics else name
    if role.defers:
        return "folded into what reads it"
    return "applied in one pass"
