"""One .safetensors file is a whole classifier: weights, architecture, classes, preprocessing.

    xception.save(model, "model.safetensors")
    model = xception.load("model.safetensors")

Loading never runs code from the file and takes no memory on its word: header, description and
tensors' shapes are checked against the file's size and the network first.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from xception.atomic import write_atomically
from xception.errors import ModelFileError
from xception.models import Classifier
from xception.weights.description import METADATA_KEY, ModelDescription
from xception.weights.header import Header
from xception.weights.skeleton import FLOATS, build_skeleton, check_tensors, entry_of
from xception.weights.wording import quoted

FILE_NAME = "model.safetensors"  # of the model in a run folder


def save(
    model: Classifier,
    path: str | os.PathLike[str],
    *,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Write `model` to `path` whole or not at all; an existing file stays until then.

    provenance: where the weights came from (run, data, recipe), plain JSON; the libraries'
        versions are added as "versions"

    Raises ModelFileError when the model could not be loaded again (changed layers, NaN weights,
    no architecture) or the file cannot be written.
    """
    shown = quoted(os.fspath(path), 500)
    if not isinstance(model, Classifier):
        raise ModelFileError(
            f"{shown}: a {type(model).__name__} is not a classifier that can be saved; "
            "give what create_model returned"
        )
    try:
        tensors = model.state_dict()
        description = ModelDescription.of(model, _with_versions(provenance or {}))
        text = description.to_json()
        skeleton = build_skeleton(ModelDescription.from_json(text).architecture)
        check_tensors(skeleton, {name: entry_of(tensor) for name, tensor in tensors.items()})
        check_finite(tensors)
    except ValueError as error:
        raise ModelFileError(f"{shown}: not written: the model {error}") from None
    write_file(Path(path).expanduser(), _serialized(tensors, text), shown)


def read_model(file: BinaryIO, header: Header) -> Classifier:
    """The classifier of a file of `save`, on the CPU, in training mode.

    Peak memory is about twice the file's size. Raises ValueError with what is wrong and what to do.
    """
    description = described_in(header)
    model = build_skeleton(description.architecture)
    check_tensors(model, header.tensors)
    tensors = read_tensors(file, header)
    check_finite(tensors)
    model.load_state_dict(tensors, assign=True)
    model.class_names = description.class_names
    model.preprocessing = description.preprocessing
    return model


def described_in(header: Header) -> ModelDescription:
    """What a file of `save` says of its model; raises ValueError when that is damaged."""
    return ModelDescription.from_json(header.metadata[METADATA_KEY])


def _with_versions(provenance: dict[str, Any]) -> dict[str, Any]:
    from xception import __version__

    versions = {
        "xception": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    return {**provenance, "versions": versions}


def _serialized(tensors: dict[str, Tensor], description: str) -> bytes:
    """The bytes of the file, the same for the same model.

    The library's `save_file` is not used: it does not sync, and puts a file in a device's place. A
    second name in the metadata would come in random order.
    """
    from safetensors.torch import save as serialize

    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return serialize(contiguous, metadata={METADATA_KEY: description})


def write_file(path: Path, content: bytes | Callable[[BinaryIO], None], shown: str) -> None:
    """Write a file of weights whole or not at all, through a link to where it points.

    Raises ModelFileError, which calls the file `shown`.
    """
    try:
        path = Path(os.path.realpath(path))  # a link stays a link
        if path.is_dir():
            raise ModelFileError(f"{shown}: is a folder; give a file name, such as {FILE_NAME}")
        if path.exists() and not path.is_file():  # renaming over it would remove a device
            raise ModelFileError(f"{shown}: is not a plain file; give another file name")
        write_atomically(path, content)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or quoted(error)
        raise ModelFileError(
            f"{shown}: cannot be written ({reason}); make room or choose a folder that exists and "
            "can be written"
        ) from None


def read_tensors(file: BinaryIO, header: Header) -> dict[str, Tensor]:
    """The tensors that a checked header describes; raises ValueError when they are not there."""
    from safetensors import SafetensorError
    from safetensors.torch import load as deserialize

    file.seek(0)
    content = file.read(header.file_bytes)
    if len(content) != header.file_bytes:
        raise ValueError("became shorter while it was read; copy or download it again")
    try:
        return deserialize(content)
    except SafetensorError as error:
        raise ValueError(f"is damaged ({quoted(error)}); copy or download it again") from None


def check_finite(tensors: dict[str, Tensor]) -> None:
    """Raise ValueError naming the first tensor that holds NaN or infinite numbers."""
    bad = [n for n, t in tensors.items() if t.dtype in FLOATS and not torch.isfinite(t).all()]
    if bad:
        more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        raise ValueError(
            f"holds NaN or infinite weights in {quoted(bad[0])}{more}; take an earlier state of "
            "training"
        )
