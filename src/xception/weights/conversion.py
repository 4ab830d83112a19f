"""From one library's file of weights to another's."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch

from xception.errors import ModelFileError, UsageError
from xception.models import Classifier
from xception.weights.description import METADATA_KEY, ModelDescription, check_class_names
from xception.weights.dialects.keras_export import to_keras
from xception.weights.dialects.keras_writer import write_keras_archive, write_keras_weights
from xception.weights.dialects.torch_dialects import timm_state_dict, to_state_dict
from xception.weights.files.contents import FileContents
from xception.weights.imported import ImportReport
from xception.weights.model_file import save, write_file
from xception.weights.opening import import_file
from xception.weights.parity import Parity, parity_with_keras, parity_with_timm
from xception.weights.wording import quoted

Target = Literal["xception", "timm", "cadene", "keras"]
SUFFIXES: dict[Target, tuple[str, ...]] = {
    "xception": (".safetensors",),
    "timm": (".pth", ".pt", ".bin", ".safetensors"),
    "cadene": (".pth", ".pt", ".bin", ".safetensors"),
    "keras": (".keras", ".weights.h5"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """What was read and written.

    report: how the source was understood
    model: the classifier between the two
    target: the library whose file was written
    parity: with the library that the source comes from, or why there is none; None when it was
        not asked for, or the source was a model file of ours
    parity_after: the same of the file that was written
    """

    report: ImportReport
    model: Classifier
    target: Target
    parity: Parity | str | None
    parity_after: Parity | str | None


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    to: Target | None = None,
    classes: Sequence[str] | None = None,
    changes: dict[str, Any] | None = None,
    check: bool = True,
) -> Conversion:
    """Write the model in `source` to `destination`, whole or not at all.

    to: "xception" (a model file), "timm" or "cadene" (a state dict by their names), "keras"; by
        default as the destination's suffix says (.safetensors ours, .pth timm's, .keras and
        .weights.h5 Keras's)
    classes: names of the classes, in the order of the logits
    changes: fields of the preprocessing that the source does not say or says wrongly
    check: compare the logits with the other library's, where it is installed

    Raises UsageError for a target or suffix that there is not, or names that do not fit;
    ModelFileError when the source cannot be used, the target library has no equal of this network,
    or the destination cannot be written.
    """
    path = Path(destination).expanduser()
    target = _target(path, to)
    imported, contents = import_file(source)
    model, report = imported.model, imported.report
    if classes is not None:
        try:
            check_class_names(list(classes), model.num_classes)
        except ValueError as error:
            raise UsageError(f"the model {error}; give as many different names") from None
        model.class_names = list(classes)
    if changes:
        try:
            model.preprocessing = dataclasses.replace(model.preprocessing, **changes)
        except ValueError as error:
            raise UsageError(str(error)) from None
    before: Parity | str | None = None
    if check and contents is not None:
        before = _parity(Path(source).expanduser(), contents, model)
    _write(model, path, target, imported.provenance)
    after: Parity | str | None = None
    if check and target != "xception":
        after = _parity(path, import_file(path)[1], model)
    return Conversion(report=report, model=model, target=target, parity=before, parity_after=after)


def _target(destination: Path, to: Target | None) -> Target:
    name = destination.name.lower()
    if to is None:
        for target in get_args(Target):  # .safetensors is ours unless `to` says else
            if name.endswith(SUFFIXES[target]):
                return cast(Target, target)
        known = sorted({suffix for suffixes in SUFFIXES.values() for suffix in suffixes})
        raise UsageError(
            f"{quoted(destination, 500)}: no file of weights that can be written ends so; choose "
            f"one of {', '.join(known)}"
        )
    if to not in get_args(Target):
        raise UsageError(f"to must be one of {', '.join(get_args(Target))}, got {to!r}")
    if not name.endswith(SUFFIXES[to]):
        raise UsageError(
            f"{quoted(destination, 500)}: a file for {to} ends in {' or '.join(SUFFIXES[to])}; "
            "rename it"
        )
    return to


def _parity(path: Path, contents: FileContents | None, model: Classifier) -> Parity | str:
    assert contents is not None
    if contents.kind == "keras weights" or (contents.kind == "keras h5" and not contents.config):
        return "the file holds weights alone, of which Keras makes no model by itself"
    if contents.kind.startswith("keras"):
        return parity_with_keras(path, model)
    return parity_with_timm(*timm_state_dict(contents, model), model)


def _write(model: Classifier, path: Path, target: Target, provenance: dict[str, Any]) -> None:
    shown = quoted(path, 500)
    if target == "xception":
        save(model, path, provenance=provenance)
        return
    try:
        if target == "keras":
            output = to_keras(model)
            name = model.architecture["name"]
            if path.name.lower().endswith(".keras"):
                notes = {METADATA_KEY: json.loads(ModelDescription.of(model, {}).to_json())}
                write_file(path, lambda f: write_keras_archive(f, output, name, notes), shown)
            else:
                write_file(path, lambda f: write_keras_weights(f, output), shown)
            return
        tensors = to_state_dict(model, target)
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import save as serialize

            whole = {name: value.contiguous() for name, value in tensors.items()}
            write_file(path, serialize(whole, metadata={"format": "pt"}), shown)
        else:
            write_file(path, lambda file: torch.save(tensors, file), shown)
    except ValueError as error:
        raise ModelFileError(f"{shown}: not written: the model {error}") from None
