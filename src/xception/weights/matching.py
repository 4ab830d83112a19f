"""Starting from another classifier's weights: which of them fit, and what becomes of its classes.

Everything below the last layer must be of the same network. The last layer belongs to classes, not
to a network: it is kept only where its rows are known to mean what the new model's rows mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor

from xception.errors import UsageError
from xception.models import Classifier, resolved_arguments
from xception.weights.wording import quoted

FREE_ARGUMENTS = ("num_classes", "dropout")  # no weight below the last layer depends on them
HEAD_ARGUMENTS = ("pooling", "fc_units", "head_layers")  # none below the head does
_HEAD = "head."
_LAST_LAYER = ("head.fc.weight", "head.fc.bias")


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferReport:
    """What `transfer` did.

    last_layer: "kept" as it was, "reordered" (the same classes in another order) or "fresh" (not
        copied: the model's own stays; with another head, all layers after the pooling do)
    reason: why, as the end of a sentence that begins with "the last layer is kept, ..."
    """

    last_layer: Literal["kept", "reordered", "fresh"]
    reason: str


def arguments_from(source: Classifier, given: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture's arguments of `source` with those that are `given` in their place.

    fc_units and head_layers say the same in two ways: giving the one drops the source's other.
    """
    arguments = {**source.architecture["args"], **given}
    for name, other in (("fc_units", "head_layers"), ("head_layers", "fc_units")):
        if name in given and other not in given and other in arguments:
            arguments[other] = []
    return arguments


def transfer(
    model: Classifier,
    source: Classifier,
    *,
    classes: Sequence[str] | None,
    name: str = "the source",
) -> TransferReport:
    """Copy the weights of `source` into `model`; neither class names nor preprocessing move.

    classes: what the model's outputs mean. The last layer is kept when `source` has these classes
        (its rows put in their order), and left as it is in `model` otherwise, also when it has
        their number only. None: unknown; then it is kept when the numbers of classes agree.
    name: what errors call the source, such as its path

    Dtype and device stay the model's. Raises UsageError naming the arguments that differ when the
    two are not the same network (`FREE_ARGUMENTS` and `HEAD_ARGUMENTS` may differ), and then
    nothing was copied; ValueError when `classes` are not as many as the model's.
    """
    if classes is not None and len(classes) != model.num_classes:
        raise ValueError(f"{len(classes)} classes were named, the model has {model.num_classes}")
    _check_same_network(model, source, name)
    weights, own = source.state_dict(), model.state_dict()
    other_head = _differing(model, source, HEAD_ARGUMENTS)
    if other_head:
        reason = f"the head has other {' and '.join(other_head)}"
        report = TransferReport(last_layer="fresh", reason=reason)
    else:
        report = _what_of_the_last_layer(model, source, classes)
    if report.last_layer == "fresh":
        left = (_HEAD,) if other_head else _LAST_LAYER
        weights = {key: value for key, value in weights.items() if not key.startswith(left)}
        own = {key: value for key, value in own.items() if not key.startswith(left)}
    _check_shapes(own, weights, name)
    if report.last_layer == "reordered":
        order = _rows(cast(list[str], source.class_names), cast(Sequence[str], classes))
        for key in _LAST_LAYER:
            weights[key] = weights[key][order]
    model.load_state_dict(weights, strict=False)
    return report


def _check_same_network(model: Classifier, source: Classifier, name: str) -> None:
    if not model.architecture or not source.architecture:
        raise UsageError(
            f"the architecture of {'the model' if not model.architecture else name} is not known; "
            "build it by create_model"
        )
    own, other = model.architecture["name"], source.architecture["name"]
    if own != other:
        raise UsageError(
            f"{name} holds weights of {quoted(other)}, which do not fit {own}; choose "
            f"{quoted(other)}, or weights of {own}"
        )
    free = (*FREE_ARGUMENTS, *HEAD_ARGUMENTS)
    wanted, given = _arguments(model), _arguments(source)
    differing = _differing(model, source, [name for name in wanted if name not in free])
    if differing:
        raise UsageError(
            f"{name} holds weights of {own} with {_settings(given, differing)}, which do not fit "
            f"{_settings(wanted, differing)}; set {_settings(given, differing)}"
        )


def _arguments(model: Classifier) -> dict[str, Any]:
    return resolved_arguments(model.architecture["name"], **model.architecture["args"])


def _differing(model: Classifier, source: Classifier, names: Sequence[str]) -> list[str]:
    """Those of the arguments `names` that the two, of one network, do not share."""
    own, other = _arguments(model), _arguments(source)
    return [name for name in names if own.get(name) != other.get(name)]


def _settings(values: dict[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{key}={quoted(repr(values[key]))}" for key in names)


def _what_of_the_last_layer(
    model: Classifier, source: Classifier, classes: Sequence[str] | None
) -> TransferReport:
    named = source.class_names
    if classes is None:
        if model.num_classes == source.num_classes:
            return TransferReport(last_layer="kept", reason="the number of classes agrees")
        reason = f"{source.num_classes} classes there, {model.num_classes} here"
        return TransferReport(last_layer="fresh", reason=reason)
    if named is None:
        reason = "the names of the classes there are not known"
        return TransferReport(last_layer="fresh", reason=reason)
    if list(classes) == named:
        return TransferReport(last_layer="kept", reason="the classes are the same")
    if sorted(classes) == sorted(named):
        reason = "the classes are the same in another order"
        return TransferReport(last_layer="reordered", reason=reason)
    return TransferReport(last_layer="fresh", reason="the classes are other ones")


def _rows(named: Sequence[str], classes: Sequence[str]) -> list[int]:
    """For each of `classes`, its place among `named`."""
    row_of = {class_name: row for row, class_name in enumerate(named)}
    return [row_of[class_name] for class_name in classes]


def _check_shapes(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], name: str) -> None:
    """The networks agree by their arguments; somebody may have changed layers since."""
    wanted = {key: value.shape for key, value in own.items()}
    given = {key: value.shape for key, value in weights.items()}
    differing = [key for key in {**wanted, **given} if wanted.get(key) != given.get(key)]
    if differing:
        raise UsageError(
            f"{name} holds weights that do not fit: {quoted(differing[0])} differs; its layers or "
            "the model's were changed after create_model"
        )
