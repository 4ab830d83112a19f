"""Keras's files: the .keras archive, .weights.h5, and the .h5 of Keras 2 (which 3 still writes).

Nothing that a configuration names is looked up or run: it is returned as plain JSON.
Source of the formats: Keras 3.15, keras/src/saving/saving_lib.py and
keras/src/legacy/saving/legacy_h5_format.py
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast

from torch import Tensor

from xception.weights.description import METADATA_KEY
from xception.weights.files.contents import FileContents
from xception.weights.files.hdf5 import Hdf5Contents, read_hdf5
from xception.weights.files.zip_archive import ZipArchive, open_archive
from xception.weights.header import parse_json, without_duplicates
from xception.weights.wording import quoted

MAX_CONFIG_BYTES = 4 * 2**20  # an Xception's has 0.12 MB
MAX_CONFIG_VALUES = 250_000  # an Xception's has 6,000; each takes some 100 bytes of memory
MAX_CONFIG_DEPTH = 100  # a model within a model takes some 8
MAX_UNPACKED = 4  # times the packed size; the weights of a trained network pack by 1.1
FREE_UNPACKED = 4 * 2**20  # bytes that are unpacked in any case
MAX_METADATA_BYTES = 2**22  # with the names of 20,000 classes in it
MAX_MEMBERS = 1000  # of an archive; Keras writes three, and some for layers that look words up

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_AGAIN = "copy or download it again"
_TOP_LEVEL = "top_level_model_weights"  # of a model itself, beside those of its layers
_OTHER_WEIGHTS = {
    "model.weights.npz": "as Keras can be told to",
    "model.weights.json": "in shards",
}


def read_keras_archive(file: BinaryIO, file_bytes: int) -> FileContents:
    """A .keras archive: "keras archive" with configuration and version.

    file: a file of the system (with a file number), whose position may change

    Raises ValueError that says what is wrong and what to do.
    """
    archive = open_archive(file, file_bytes)
    if _CONFIG not in archive.members:
        raise ValueError(f"is a zip archive without {_CONFIG}, so Keras did not write it")
    if len(archive.members) > MAX_MEMBERS:
        raise ValueError(
            f"holds {len(archive.members):,} files, more than the {MAX_MEMBERS:,} allowed in a "
            "Keras archive; save the model anew with Keras"
        )
    found = _read_member(archive, file)  # first: its process is gone when the texts take memory
    config = _parse_config(_text(archive.read(_CONFIG, MAX_CONFIG_BYTES), _CONFIG), _CONFIG)
    metadata: Any = None
    if _METADATA in archive.members:
        text = _text(archive.read(_METADATA, MAX_METADATA_BYTES), _METADATA)
        _check_amount(text, _METADATA)
        metadata = parse_json(text, _METADATA)
    return FileContents(
        kind="keras archive",
        tensors=_some(found.tensors),
        config=config,
        version=_version_in(metadata),
        extra={**_layer_names(found), **_note_in(metadata)},
    )


def read_keras_h5(file: BinaryIO, file_bytes: int) -> FileContents:
    """An HDF5 file of Keras: "keras h5" where it lists its layers, else "keras weights".

    file: a file of the system (with a file number), whose position may change

    Raises ValueError that says what is wrong and what to do.
    """
    _refuse_shards(file)
    found = read_hdf5(file, file_bytes)
    for group in ("", "model_weights"):
        if _listing(found, group, "layer_names") is not None:
            return _contents_by_layer(found, group)
    if not any(_is_variable(path) for path in found.tensors):
        raise ValueError(
            "is an HDF5 file without the weights of a Keras model: it has neither a list of layers "
            "(layer_names) nor variables (.../vars/0); give what model.save or model.save_weights "
            "wrote"
        )
    return FileContents(
        kind="keras weights", tensors=_some(found.tensors), extra=_layer_names(found)
    )


# ---------------------------------------------------------------- Keras 3


def weights_in(file: BinaryIO, file_bytes: int) -> Iterator[bytes]:
    """The HDF5 file in a .keras archive that `read_keras_archive` has read, piece by piece."""
    return open_archive(file, file_bytes).pieces(_WEIGHTS)


def _read_member(archive: ZipArchive, file: BinaryIO) -> Hdf5Contents:
    """The archive's HDF5 file, where it stands; a compressed one is unpacked to a nameless file."""
    member = archive.members.get(_WEIGHTS)
    if member is None:
        for name, how in _OTHER_WEIGHTS.items():
            if name in archive.members:
                raise ValueError(
                    f"keeps its weights in {name} ({how}), which is not read; save the model anew "
                    "with its weights in one HDF5 file"
                )
        raise ValueError(f"is a Keras archive without {_WEIGHTS}; save the model anew")
    if not member.is_deflated:
        for _ in archive.pieces(_WEIGHTS):  # its checksum covers the weights too
            pass
        return _of_member(file, member.size, member.data_at)
    if member.size > FREE_UNPACKED + MAX_UNPACKED * member.packed_bytes:
        raise ValueError(
            f"is packed beyond what weights can be: {_WEIGHTS} has {member.size:,} bytes in "
            f"{member.packed_bytes:,}; get it from somewhere you trust"
        )
    with tempfile.TemporaryFile() as unpacked:
        for piece in archive.pieces(_WEIGHTS):
            unpacked.write(piece)
        unpacked.flush()
        return _of_member(cast(BinaryIO, unpacked), member.size, 0)


def _of_member(file: BinaryIO, size: int, offset: int) -> Hdf5Contents:
    try:
        return read_hdf5(file, size, offset=offset)
    except ValueError as error:
        raise ValueError(f"cannot be used: its {_WEIGHTS} {error}") from None


def _refuse_shards(file: BinaryIO) -> None:
    file.seek(0)
    start = file.read(4096)
    if start.lstrip().startswith(b"{") and (b'"weight_map"' in start or b'"total_size"' in start):
        raise ValueError(
            "is the index of weights that Keras saved in several files, which are not read; save "
            "them in one, by model.save_weights without max_shard_size"
        )


def _is_variable(path: str) -> bool:
    return path.split("/")[-2:-1] == ["vars"]


def _layer_names(found: Hdf5Contents) -> dict[str, str]:
    """ "PATH@name" -> the layer's name, for the groups of variables that carry it."""
    return {
        key: value
        for key, value in found.attributes.items()
        if key.endswith("@name") and isinstance(value, str)
    }


# ---------------------------------------------------------------- Keras 2


def _contents_by_layer(found: Hdf5Contents, group: str) -> FileContents:
    tensors: dict[str, Tensor] = {}
    for layer, weight in _listed_weights(found, group):
        path = _joined(group, layer, weight)
        name = f"{layer}/{weight}"
        if path not in found.tensors:
            raise ValueError(
                f"is damaged: it lists the weight {quoted(name)!r}, which is not there; {_AGAIN}"
            )
        if name in tensors:
            raise ValueError(f"is damaged: it lists the weight {quoted(name)!r} twice; {_AGAIN}")
        tensors[name] = found.tensors[path]
    unlisted = set(found.tensors) - {_joined(group, name) for name in tensors}
    if unlisted:
        raise ValueError(
            f"is damaged: it holds {quoted(min(unlisted))!r}, which belongs to none of the layers "
            f"that it lists; {_AGAIN}"
        )
    config = _text_at(found, "", "model_config")
    backend = _text_at(found, group, "backend")
    return FileContents(
        kind="keras h5",
        tensors=_some(tensors),
        config=None if config is None else _parse_config(config, "model_config"),
        version=_text_at(found, group, "keras_version") or _text_at(found, "", "keras_version"),
        extra={} if backend is None else {"backend": backend},
    )


def _listed_weights(found: Hdf5Contents, group: str) -> Iterator[tuple[str, str]]:
    """(layer, weight) in the listings' order."""
    layers = _listing(found, group, "layer_names") or []
    if len(set(layers)) != len(layers):
        raise ValueError(f"is damaged: it lists a layer twice; {_AGAIN}")
    if _listing(found, _joined(group, _TOP_LEVEL), "weight_names"):
        layers = [*layers, _TOP_LEVEL]
    for layer in layers:
        weights = _listing(found, _joined(group, layer), "weight_names")
        if weights is None:
            raise ValueError(
                f"is damaged: it lists the layer {quoted(layer)!r}, whose weights are not listed; "
                f"{_AGAIN}"
            )
        yield from ((layer, weight) for weight in weights)


def _listing(found: Hdf5Contents, group: str, name: str) -> list[str] | None:
    """A list of names, which Keras splits over attributes NAME0, NAME1, ... when it is long."""
    whole = found.attributes.get(f"{group}@{name}")
    parts = [whole] if whole is not None else []
    while (
        whole is None and (part := found.attributes.get(f"{group}@{name}{len(parts)}")) is not None
    ):
        parts.append(part)
    if any(isinstance(part, str) for part in parts):
        raise ValueError(f"is damaged: its {name} is no list; {_AGAIN}")
    return [item for part in parts for item in part] if parts else None


def _text_at(found: Hdf5Contents, group: str, name: str) -> str | None:
    value = found.attributes.get(f"{group}@{name}")
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"is damaged: its {name} is no text; {_AGAIN}")


def _joined(*parts: str) -> str:
    return "/".join(part for part in parts if part)


# ---------------------------------------------------------------- both


def _some(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if not tensors:
        raise ValueError("holds no weights; save the model after its layers were built")
    return tensors


def _text(content: bytes, what: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"is damaged: its {what} is no UTF-8 text; {_AGAIN}") from None


def _note_in(metadata: Any) -> dict[str, str]:
    """What our own export says beside Keras's entries: the description of a model file."""
    note = metadata.get(METADATA_KEY) if isinstance(metadata, Mapping) else None
    return {} if note is None else {METADATA_KEY: json.dumps(note)}


def _version_in(metadata: Any) -> str | None:
    version = metadata.get("keras_version") if isinstance(metadata, Mapping) else None
    return version if isinstance(version, str) else None


def _parse_config(text: str, what: str) -> dict[str, Any]:
    """Keras's description of a model, bounded in size and depth.

    NaN and Infinity are taken, unlike in our own files: Python writes a layer's infinite bound so.
    """
    _check_amount(text, what)
    try:
        config = json.loads(text, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is damaged: its {what} is no valid JSON ({quoted(error)})") from None
    if not isinstance(config, dict) or "class_name" not in config:
        raise ValueError(f"is damaged: its {what} describes no model; {_AGAIN}")
    level: list[Any] = [config]
    for _ in range(MAX_CONFIG_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
    if level:
        raise ValueError(
            f"holds a {what} nested more than {MAX_CONFIG_DEPTH} deep; it is damaged or of no "
            "Xception"
        )
    return config


def _check_amount(text: str, what: str) -> None:
    """Refuse JSON that would take much more memory than its text, before it is parsed."""
    values = text.count(",") + text.count("[") + text.count("{")
    if len(text) > MAX_CONFIG_BYTES or values > MAX_CONFIG_VALUES:
        raise ValueError(
            f"holds a {what} of {len(text):,} characters and some {values:,} values, more than "
            f"{MAX_CONFIG_BYTES:,} and {MAX_CONFIG_VALUES:,}; it is damaged or of no Xception"
        )


def _inside(value: Any) -> list[Any]:
    """The lists and mappings in a list or mapping."""
    items = value.values() if isinstance(value, dict) else value
    return [item for item in items if isinstance(item, (dict, list))]
