"""From one library's file of weights to another's."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch

from xception.errors import ModelFileError, UsageError
from xception.models import Classifier, Preprocessing
from xception.weights.description import METADATA_KEY, ModelDescription, check_class_names
from xception.weights.dialects.keras_export import to_keras
from xception.weights.dialects.keras_writer import write_keras_archive, write_keras_weights
from xception.weights.dialects.torch_dialects import timm_state_dict, to_state_dict
from xception.weights.files.keras_file import weights_in
from xception.weights.imported import ImportReport
from xception.weights.model_file import save, write_file
from xception.weights.opening import ImportedFile, import_file
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
    written: (name in our state dict, name in the file), one a tensor, read from the file that was
        written; empty for a model file of ours, whose names are the state dict's, and for weights
        alone that do not tell their network
    """

    report: ImportReport
    model: Classifier
    target: Target
    parity: Parity | str | None
    parity_after: Parity | str | None
    written: tuple[tuple[str, str], ...] = ()


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    to: Target | None = None,
    classes: Sequence[str] | None = None,
    changes: dict[str, Any] | None = None,
    check: bool = True,
    stage: Callable[[str], None] = lambda what: None,
) -> Conversion:
    """Write the model in `source` to `destination`, whole or not at all.

    to: "xception" (a model file), "timm" or "cadene" (a state dict by their names), "keras"; by
        default as the destination's suffix says (.safetensors ours, .pth timm's, .keras and
        .weights.h5 Keras's)
    classes: names of the classes, in the order of the logits
    changes: fields of the preprocessing that the source does not say or says wrongly
    check: compare the logits with the other library's, where it is installed
    stage: called before each step that can take seconds, with what it is ("writing m.keras")

    Raises UsageError for a target or suffix that there is not, or names that do not fit;
    ModelFileError when the source cannot be used, the target library has no equal of this network,
    or the destination cannot be written.
    """
    path = Path(destination).expanduser()
    target = _target(path, to)
    source_file = import_file(source)
    imported, model = source_file.imported, source_file.imported.model
    if classes is not None:
        try:
            check_class_names(list(classes), model.num_classes)
        except ValueError as error:
            raise UsageError(
                f"with the {len(classes)} names of classes that were given the model {error}"
            ) from None
        model.class_names = list(classes)
    own = model.preprocessing
    changed = _changed(own, changes or {}, model.minimum_size)
    model.preprocessing = changed
    write = _writer(model, path, target, imported.provenance)  # before a comparison of minutes
    before: Parity | str | None = None
    if check and source_file.contents is not None:
        model.preprocessing = own
        before = _parity(source_file, model, stage)
        model.preprocessing = changed
    stage(f"writing {quoted(path.name)}")
    write()
    after: Parity | str | None = None
    written: tuple[tuple[str, str], ...] = ()
    if target != "xception":
        try:
            back = import_file(path)
        except ModelFileError:  # weights alone do not tell every network
            after = "by its weights alone the network cannot be told" if check else None
        else:
            written = tuple((here, there) for there, here in back.imported.report.mapped)
            after = _parity(back, model, stage) if check else None
    return Conversion(
        report=imported.report,
        model=model,
        target=target,
        parity=before,
        parity_after=after,
        written=written,
    )


def _changed(own: Preprocessing, changes: dict[str, Any], minimum_size: int) -> Preprocessing:
    try:
        changed = dataclasses.replace(own, **changes)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if changes and min(changed.size) < minimum_size:
        raise UsageError(
            f"size must be at least {minimum_size} pixels for this network, got {min(changed.size)}"
        )
    return changed


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


def _parity(file: ImportedFile, model: Classifier, stage: Callable[[str], None]) -> Parity | str:
    contents = file.contents
    assert contents is not None
    name = quoted(file.path.name)
    if not contents.kind.startswith("keras"):
        stage(f"comparing {name} with timm")
        return parity_with_timm(*timm_state_dict(contents, model), model)
    if contents.config is None:
        return "the file holds weights alone, of which Keras makes no model by itself"
    stage(f"comparing {name} with Keras, which takes seconds to start")
    takes_raw = file.imported.takes_raw
    if contents.kind == "keras h5":
        return parity_with_keras(contents.config, file.path, model, takes_raw=takes_raw)
    with tempfile.NamedTemporaryFile(suffix=".h5") as weights, file.path.open("rb") as archive:
        for piece in weights_in(archive, os.fstat(archive.fileno()).st_size):
            weights.write(piece)
        weights.flush()
        path = Path(weights.name)
        return parity_with_keras(contents.config, path, model, takes_raw=takes_raw)


def _writer(
    model: Classifier, path: Path, target: Target, provenance: dict[str, Any]
) -> Callable[[], None]:
    """What writes the file; raises ModelFileError when the target has no equal of the network."""
    shown = quoted(path, 500)
    if target == "xception":
        return lambda: save(model, path, provenance=provenance)
    try:
        if target == "keras":
            return _keras_writer(model, path, shown)
        tensors = to_state_dict(model, target)
    except ValueError as error:
        raise ModelFileError(f"{shown}: not written: the model {error}") from None
    if path.suffix.lower() != ".safetensors":
        return lambda: write_file(path, lambda file: torch.save(tensors, file), shown)
    from safetensors.torch import save as serialize

    whole = {name: value.contiguous() for name, value in tensors.items()}
    return lambda: write_file(path, serialize(whole, metadata={"format": "pt"}), shown)


def _keras_writer(model: Classifier, path: Path, shown: str) -> Callable[[], None]:
    layers = to_keras(model)
    if not path.name.lower().endswith(".keras"):
        return lambda: write_file(path, lambda f: write_keras_weights(f, layers), shown)
    name = model.architecture["name"]
    notes = {METADATA_KEY: json.loads(ModelDescription.of(model, {}).to_json())}
    return lambda: write_file(path, lambda f: write_keras_archive(f, layers, name, notes), shown)
