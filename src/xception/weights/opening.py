"""From any file of weights to a classifier: the file's content tells which kind it is.

    model = xception.load("model.safetensors")   # ours
    model = xception.load("best.keras")          # Keras 3; .weights.h5 and Keras 2's .h5 likewise
    model = xception.load("xception.pth")        # timm, Cadene, FaceForensics

Nothing of a file is run as code, and no memory is taken on its word.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch

from xception.device import usable_device
from xception.errors import ModelFileError
from xception.models import Classifier
from xception.weights.description import METADATA_KEY, ModelDescription
from xception.weights.files.contents import FileContents
from xception.weights.header import Header, read_header
from xception.weights.imported import Imported, ImportReport
from xception.weights.model_file import (
    FILE_NAME,
    described_in,
    read_model,
    read_tensors,
)
from xception.weights.wording import quoted

if TYPE_CHECKING:
    from xception.weights.hub import Resolved

_log = logging.getLogger(__name__)

OWN_DIALECT = "xception model file"
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
_PICKLE_PROTOCOLS = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_TAR_SIGNATURE_AT = 257
_KERAS_MEMBER = "config.json"


def load(source: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Classifier:
    """The classifier in a file of weights, in eval mode on `device`.

    source: a model file of `save`; a run folder with one in it; a file of Keras (.keras,
        .weights.h5, .h5), timm, Cadene or FaceForensics (.pth, .safetensors). The content tells
        which it is, never the name. Or, where there is no such file, a name of
        `published_weights()` or hf-hub:OWNER/NAME, which is downloaded once.

    What a foreign file does not say (how pictures are prepared, mostly) is chosen as its library
    would. How many choices that took is logged as a warning, each of them as information;
    `open_model` gives them as a list. Peak memory is about twice the file's size. Raises
    ModelFileError with one line that names the file, what is wrong and what to do; UsageError when
    the device cannot be used.
    """
    imported = open_model(source, device=device)
    name, choices = quoted(os.fspath(source), 500), imported.report.choices
    if choices:
        _log.warning(
            "%s: %s made in reading it; `xception info %s` lists what was chosen, `xception "
            "convert` fixes it in a file",
            name,
            "1 choice was" if len(choices) == 1 else f"{len(choices)} choices were",
            shlex.quote(name),
        )
    for choice in choices:
        _log.info("%s: %s", name, choice)
    return imported.model


def open_model(source: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Imported:
    """As `load`, with the report of what was mapped and chosen, and no warnings."""
    target = usable_device(device)
    imported = import_file(source).imported
    imported.model.to(target)
    return imported


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedFile:
    """path: of the file itself; contents: of a foreign one (tensors may be shared), else None."""

    imported: Imported
    contents: FileContents | None
    path: Path


def import_file(source: str | os.PathLike[str]) -> ImportedFile:
    """As `open_model`, on the CPU, with what the file holds and where it lies."""
    resolved = _from_elsewhere(source)
    with opened(source if resolved is None else resolved.path) as (file, file_bytes):
        header = _safetensors_header(file, file_bytes)
        contents: FileContents | None = None
        if header is not None and METADATA_KEY in header.metadata:
            model = read_model(file, header)
            report = ImportReport(dialect=OWN_DIALECT)
            provenance = described_in(header).provenance
        else:
            contents = _contents(file, file_bytes, header)
            imported = _recognised(contents)
            model, report = imported.model, imported.report
            provenance = {"imported_from": report.dialect}
        model.eval()
        takes_raw = imported.takes_raw if contents is not None else False
        imported = Imported(model=model, report=report, provenance=provenance, takes_raw=takes_raw)
        if resolved is not None and contents is not None:
            from xception.weights.stated import as_stated

            imported = as_stated(imported, resolved)
        return ImportedFile(imported=imported, contents=contents, path=Path(file.name))


def _from_elsewhere(source: str | os.PathLike[str]) -> Resolved | None:
    """The downloaded file that a name stands for; None for what is a path."""
    if not isinstance(source, str) or os.path.lexists(source):
        return None
    from xception.weights.hub import is_elsewhere, resolve

    return resolve(source) if is_elsewhere(source) else None


def _recognised(contents: FileContents) -> Imported:
    """The classifier that these tensors are; raises ValueError when none is known that fits."""
    if contents.kind.startswith("keras"):
        from xception.weights.dialects.keras_import import recognise
    else:
        from xception.weights.dialects.torch_dialects import recognise
    imported = recognise(contents)
    told = [f"taken from {contents.origin}"] if contents.origin else []
    if "other weights" in contents.extra:
        told.append(
            f"the file holds other weights, too: {contents.extra['other weights']}, left aside"
        )
    if told:
        report = dataclasses.replace(imported.report, choices=(*told, *imported.report.choices))
        imported = dataclasses.replace(imported, report=report)
    note = contents.extra.get(METADATA_KEY) if contents.kind == "keras archive" else None
    return imported if note is None else _as_noted(imported, note)


def _as_noted(imported: Imported, note: str) -> Imported:
    """With the class names and preprocessing that our own export left beside Keras's entries.

    Somebody may have gone on in Keras since: a note on another network is passed over.
    """
    model = imported.model
    try:
        description = ModelDescription.from_json(note)
    except ValueError:
        return imported
    if description.architecture != model.architecture:
        return imported
    model.class_names = description.class_names
    model.preprocessing = description.preprocessing
    report = dataclasses.replace(imported.report, choices=())
    return dataclasses.replace(imported, report=report)


def _safetensors_header(file: BinaryIO, file_bytes: int) -> Header | None:
    """The header of a safetensors file; None when the file is one of the other kinds."""
    prefix = file.read(_TAR_SIGNATURE_AT + 5)
    file.seek(0)
    is_other = (
        prefix.startswith((*_ZIP_SIGNATURES, *_PICKLE_PROTOCOLS, _HDF5_SIGNATURE))
        and prefix[8:9] != b"{"
    ) or prefix[_TAR_SIGNATURE_AT:] == b"ustar"
    return None if is_other else read_header(file, file_bytes)


def _contents(file: BinaryIO, file_bytes: int, header: Header | None) -> FileContents:
    from xception.weights.files.keras_file import read_keras_archive, read_keras_h5
    from xception.weights.files.torch_file import read_torch_file
    from xception.weights.files.zip_archive import member_names

    if header is not None:
        tensors = read_tensors(file, header)
        return FileContents(kind="safetensors", tensors=tensors, extra=header.metadata)
    prefix = file.read(len(_HDF5_SIGNATURE))
    file.seek(0)
    if prefix == _HDF5_SIGNATURE:
        return read_keras_h5(file, file_bytes)
    if prefix.startswith(_ZIP_SIGNATURES):
        names = member_names(file, file_bytes)
        file.seek(0)
        if _KERAS_MEMBER in names:
            return read_keras_archive(file, file_bytes)
    return read_torch_file(file, file_bytes)


@contextmanager
def opened(source: str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, int]]:
    """The open file and its size in bytes; whatever goes wrong inside becomes a ModelFileError.

    source: a file, or a run folder with model.safetensors in it
    """
    shown = quoted(os.fspath(source), 500)
    try:
        path = _model_path(Path(source).expanduser())
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
            raise ValueError("is not a plain file; give a file of weights")
        with path.open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise ModelFileError(f"{shown}: does not exist; {_instead(source)}") from None
    except OSError as error:
        raise ModelFileError(f"{shown}: cannot be read ({error.strerror or error})") from None
    except MemoryError:
        raise ModelFileError(f"{shown}: needs more memory than there is") from None
    except RuntimeError as error:  # a home that is not known
        raise ModelFileError(f"{shown}: {quoted(error)}; give the whole path") from None
    except ValueError as error:
        raise ModelFileError(f"{shown}: {error}") from None


def _instead(source: str | os.PathLike[str]) -> str:
    """What may have been meant by a name of no file."""
    from xception.weights.published import published_names

    near = difflib.get_close_matches(os.fspath(source), published_names(), n=1, cutoff=0.7)
    if near:
        return f"did you mean {near[0]}?"
    return "give a model file, a run folder, or a name of `xception models --pretrained`"


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
