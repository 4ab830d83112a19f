"""One .safetensors file is a whole classifier: weights, architecture, classes, preprocessing.

    xception.save(model, "model.safetensors")
    model = xception.load("model.safetensors")

Loading never runs code from the file and takes no memory on its word: header, description and
tensors' shapes are checked against the file's size and the network first.
"""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from xception.atomic import write_atomically
from xception.device import usable_device
from xception.errors import ModelFileError
from xception.models import Classifier
from xception.weights.description import ModelDescription
from xception.weights.header import Header, quoted, read_header
from xception.weights.skeleton import build_skeleton, check_tensors, entry_of

FILE_NAME = "model.safetensors"  # of the model in a run folder
METADATA_KEY = "xception"


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
        _check_finite(tensors)
    except ValueError as error:
        raise ModelFileError(f"{shown}: not written: the model {error}") from None
    _write(Path(path).expanduser(), _serialized(tensors, text), shown)


def load(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Classifier:
    """The classifier in the model file `path`, in eval mode on `device`.

    path: a .safetensors file that `save` wrote, or a run folder with model.safetensors in it

    Peak memory is about twice the file's size. Raises ModelFileError with one line that names the
    file, what is wrong and what to do; UsageError when the device cannot be used.
    """
    target = usable_device(device)
    file_path = _model_path(Path(path).expanduser())
    with _opened(file_path) as (file, header, description):
        model = build_skeleton(description.architecture)
        check_tensors(model, header.tensors)
        tensors = _read_tensors(file, header)
        _check_finite(tensors)
        model.load_state_dict(tensors, assign=True)
        model.class_names = description.class_names
        model.preprocessing = description.preprocessing
    return model.to(target).eval()


def read_info(path: str | os.PathLike[str]) -> ModelDescription:
    """The description in a model file (or of a run folder's model), without its weights.

    Raises ModelFileError as `load` does, for what the header can tell.
    """
    with _opened(_model_path(Path(path).expanduser())) as (_, _, description):
        return description


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


def _write(path: Path, content: bytes, shown: str) -> None:
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


def _model_path(path: Path) -> Path:
    try:
        if not path.is_dir():
            return path
    except (OSError, ValueError):  # the opening of it will say what is wrong
        return path
    inside = path / FILE_NAME
    if not inside.exists():
        raise ModelFileError(
            f"{quoted(path, 500)}: is a folder without {FILE_NAME}; give a model file or the run "
            "folder of a finished training"
        )
    return inside


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, Header, ModelDescription]]:
    """The open file, its checked header and description; errors become one ModelFileError."""
    shown = quoted(path, 500)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
            raise ValueError("is not a plain file; give a .safetensors model file")
        with path.open("rb") as file:
            header = read_header(file, os.fstat(file.fileno()).st_size)
            if METADATA_KEY not in header.metadata:
                raise ValueError(
                    f"holds {len(header.tensors)} tensors but no description of their network "
                    f"(its metadata have no {METADATA_KEY!r}); give a file that xception wrote"
                )
            yield file, header, ModelDescription.from_json(header.metadata[METADATA_KEY])
    except FileNotFoundError:
        raise ModelFileError(
            f"{shown}: does not exist; give a model file or a run folder"
        ) from None
    except OSError as error:
        raise ModelFileError(f"{shown}: cannot be read ({error.strerror or error})") from None
    except MemoryError:
        raise ModelFileError(f"{shown}: needs more memory than there is") from None
    except ValueError as error:
        raise ModelFileError(f"{shown}: {error}") from None


def _read_tensors(file: BinaryIO, header: Header) -> dict[str, Tensor]:
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


def _check_finite(tensors: dict[str, Tensor]) -> None:
    bad = [n for n, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if bad:
        more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        raise ValueError(
            f"holds NaN or infinite weights in {bad[0]}{more}; take an earlier state of training"
        )
