"""One of our networks and where its layers lie in another library's state dict.

Tensors move between the two names as they are: nothing is computed, no dtype changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xception.models import Classifier, resolved_arguments
from xception.weights.imported import ImportReport
from xception.weights.skeleton import build_skeleton, check_tensors, entry_of
from xception.weights.wording import listed, quoted, sizes

_COUNT = ".num_batches_tracked"  # nothing computes with it where the momentum is a number
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_KEEP = "keep it as a model file of xception"
_FREE_ARGUMENTS = ("num_classes", "in_channels", "dropout", "bn_momentum")  # see `exported`


@dataclass(frozen=True, kw_only=True, slots=True)
class Counterpart:
    """A network that both sides have.

    library: how messages call it there, such as "timm's xception41"
    name: its name in our registry
    modules: our module -> theirs, for every module with tensors (and perhaps some without)
    arguments: those of `create_model` that give their numbers, where they are not the defaults
    any_of: argument -> values that all mean the same
    instead: what to do with a model that computes what theirs cannot
    """

    library: str
    name: str
    modules: Mapping[str, str]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    any_of: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    instead: str = _KEEP

    def skeleton(self, num_classes: int, in_channels: int, **arguments: Any) -> Classifier:
        """The network on the meta device."""
        given = {"num_classes": num_classes, "in_channels": in_channels, **self.arguments}
        resolved = resolved_arguments(self.name, **given, **arguments)
        return build_skeleton({"name": self.name, "args": resolved})

    def names(self, model: Classifier) -> dict[str, str]:
        """Our name -> theirs, for each entry of the state dict."""
        pairs = {}
        for ours in model.state_dict():
            module, _, leaf = ours.rpartition(".")
            pairs[ours] = f"{self.modules[module]}.{leaf}"
        return pairs


def fill(
    model: Classifier,
    names: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    *,
    library: str,
    dialect: str,
    choices: tuple[str, ...] = (),
) -> ImportReport:
    """Put `tensors` into `model`, a skeleton, and leave it in eval mode.

    names: our name -> theirs, for each entry of the state dict
    tensors: their name -> tensor; the counts of batches may be missing, all of them
    library: how messages call the network there
    dialect, choices: for the report

    Raises ValueError naming the first tensors, by their names, that are missing, left over, of
    another shape or dtype, or that hold no usable numbers.
    """
    counts = {ours: theirs for ours, theirs in names.items() if ours.endswith(_COUNT)}
    if not any(theirs in tensors for theirs in counts.values()):
        names = {ours: theirs for ours, theirs in names.items() if ours not in counts}
        choices = (*choices, "the file does not count the batches of training: 0")
    _check_names(names.values(), tensors, library)

    wanted = model.state_dict()
    taken: dict[str, Tensor] = {}
    left_out: list[tuple[str, str]] = []
    for ours, theirs in names.items():
        tensor = tensors[theirs].detach()
        if ours not in counts:
            _check_form(theirs, tensor, wanted[ours], library)
            taken[ours] = tensor
        elif tensor.dtype == torch.int64 and tensor.dim() == 0:
            taken[ours] = tensor
        else:  # a cast of the whole state dict does this
            left_out.append((theirs, f"a count of batches as {_dtype_name(tensor)}; 0 is taken"))
    _check_numbers({names[ours]: t for ours, t in taken.items() if ours not in counts})

    zeros = {ours: torch.zeros((), dtype=torch.int64) for ours in counts if ours not in taken}
    model.load_state_dict({**taken, **zeros}, assign=True)
    model.eval()
    return ImportReport(
        dialect=dialect,
        mapped=tuple((names[ours], ours) for ours in taken),
        left_out=tuple(left_out),
        choices=choices,
    )


def exported(model: Classifier, counterpart: Counterpart) -> dict[str, Tensor]:
    """The state dict of `model` under their names; the tensors are the model's own, not copies.

    Raises ValueError when the other side would compute other numbers in eval mode, naming the
    arguments that have no equal there, or when layers were changed after `create_model`.
    """
    if not model.architecture:
        raise ValueError("does not know its architecture; build it by create_model")
    own = model.architecture["name"]
    if own != counterpart.name:
        raise ValueError(f"is {own}, not {counterpart.library}; {_KEEP}")
    _check_arguments(model.architecture["args"], counterpart)
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    skeleton = build_skeleton(model.architecture)
    check_tensors(skeleton, {name: entry_of(tensor) for name, tensor in tensors.items()})
    names = counterpart.names(skeleton)
    return {names[ours]: tensor for ours, tensor in tensors.items()}


def _check_arguments(arguments: Mapping[str, Any], counterpart: Counterpart) -> None:
    own = resolved_arguments(counterpart.name, **arguments)
    there = resolved_arguments(counterpart.name, **counterpart.arguments)
    differing = [
        name
        for name, value in own.items()
        if name not in _FREE_ARGUMENTS and value not in counterpart.any_of.get(name, (there[name],))
    ]
    if differing:
        raise ValueError(
            f"has {_settings(own, differing)}; {counterpart.library} has "
            f"{_settings(there, differing)} and would compute other numbers; {counterpart.instead}"
        )


def _settings(values: Mapping[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name}={quoted(repr(values[name]))}" for name in names)


def _check_names(needed: Iterable[str], tensors: Mapping[str, Tensor], library: str) -> None:
    known = dict.fromkeys(needed)
    missing = [name for name in known if name not in tensors]
    if missing:
        raise ValueError(
            f"lacks tensors that {library} needs: {listed(missing)}; give a whole state dict, or "
            "copy or download it again"
        )
    extra = [name for name in tensors if name not in known]
    if extra:
        raise ValueError(
            f"holds tensors that {library} does not have: {listed(extra)}; only the network as it "
            "is there can be taken over"
        )


def _check_form(name: str, tensor: Tensor, wanted: Tensor, library: str) -> None:
    if tensor.shape != wanted.shape:
        raise ValueError(
            f"does not fit {library}: {quoted(name)} is {sizes(tensor.shape)}, not "
            f"{sizes(wanted.shape)}; give its state dict as it was saved"
        )
    if tensor.dtype not in _FLOATS or tensor.layout != torch.strided:
        raise ValueError(
            f"holds {quoted(name)} as {_dtype_name(tensor)}, which cannot be used; save the "
            "weights as 16, 32 or 64-bit floating point"
        )


def _check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError for mixed precisions and numbers that no good training leaves behind."""
    precisions: dict[str, str] = {}  # dtype -> the first tensor that has it
    for name, tensor in tensors.items():
        precisions.setdefault(_dtype_name(tensor), name)
    if len(precisions) > 1:
        kinds = " and ".join(f"{dtype} ({quoted(name)})" for dtype, name in precisions.items())
        raise ValueError(f"mixes precisions: {kinds}; convert all weights to one")
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise ValueError(
            f"holds NaN or infinite weights in {listed(bad)}; take an earlier state of training"
        )
    negative = [n for n, t in tensors.items() if n.endswith(".running_var") and (t < 0).any()]
    if negative:
        raise ValueError(
            f"holds variances below zero in {listed(negative)}; copy or download it again"
        )


def _dtype_name(tensor: Tensor) -> str:
    kind = tensor.dtype if tensor.layout == torch.strided else tensor.layout
    return str(kind).removeprefix("torch.")
