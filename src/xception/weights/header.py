"""The header of a .safetensors file, read as something that a stranger may have written.

A file is: 8 bytes with the header's length (little-endian), the header (a JSON object), the
tensors' bytes. Everything that the header claims is checked against the file's size before any
memory is taken for tensors. Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, BinaryIO

from xception.weights.wording import quoted

MAX_HEADER_BYTES = 16 * 2**20  # some 20,000 class names and as many tensors need 5 MiB
MAX_AXES = 8

_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip

_AGAIN = "copy or download it again"
_FOREIGN = (  # (how a file begins, what it is, what to do)
    (b"\x1f\x8b", "compressed by gzip", "unpack it first"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run git lfs pull"),
    (b"<", "a web page or XML, not a model file", "download it again by a direct link"),
)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """What the header says of one tensor."""

    dtype: str  # safetensors' name: "F32", "BF16", "I64", ...
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """A header whose claims fit the file."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    file_bytes: int


def read_header(file: BinaryIO, file_bytes: int) -> Header:
    """Read and check the header of a file of `file_bytes` bytes, from its beginning.

    Raises ValueError whose text says what the file is instead, or what is wrong, and what to do.
    """
    prefix = file.read(32)
    if not prefix:
        raise ValueError(f"is empty; {_AGAIN}")
    for start, what, advice in _FOREIGN:
        if prefix.startswith(start) and prefix[8:9] != b"{":
            raise ValueError(f"is {what}; {advice}")
    length = int.from_bytes(prefix[:8], "little")
    if len(prefix) < 10 or prefix[8:9] != b"{":
        raise ValueError(
            "is not a safetensors file, nor one of torch or Keras; give a file of weights"
        )
    if length > MAX_HEADER_BYTES:
        raise ValueError(
            f"claims a header of {length:,} bytes, more than the {MAX_HEADER_BYTES:,} allowed; "
            "it is damaged or no model file"
        )
    if 8 + length > file_bytes:
        raise ValueError(f"is cut short: it ends within its header; {_AGAIN}")
    file.seek(8)
    content = parse_json(_text(file.read(length)), "header")
    if not isinstance(content, dict):
        raise ValueError(f"is damaged: its header is no JSON object; {_AGAIN}")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"is damaged: its metadata do not map names to text; {_AGAIN}")
    tensors = _check_layout(content, file_bytes - 8 - length)
    return Header(tensors, metadata, file_bytes)


def parse_json(text: str, what: str) -> Any:
    """JSON without duplicate names, NaN or infinite numbers; raises ValueError naming `what`."""
    try:
        return json.loads(
            text,
            object_pairs_hook=without_duplicates,
            parse_constant=_finite,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is damaged: its {what} is no valid JSON ({quoted(error)})") from None


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"is damaged: its header is no UTF-8 text; {_AGAIN}") from None


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`: an object whose names differ; raises ValueError for others."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _check_layout(content: dict[str, Any], data_bytes: int) -> dict[str, TensorEntry]:
    """The tensors, whose bytes must fill the rest of the file without gap or overlap."""
    tensors: dict[str, TensorEntry] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in content.items():
        parsed, begin, end = _parse_entry(name, entry)
        tensors[name] = parsed
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ValueError(f"is damaged: its tensors overlap or leave gaps; {_AGAIN}")
        at = end
    if at > data_bytes:
        raise ValueError(
            f"is cut short: its tensors need {at:,} bytes, {data_bytes:,} are there; {_AGAIN}"
        )
    if at < data_bytes:
        raise ValueError(
            f"is damaged: {data_bytes - at:,} bytes follow that belong to no tensor; {_AGAIN}"
        )
    return tensors


def _parse_entry(name: str, entry: Any) -> tuple[TensorEntry, int, int]:
    wrong = ValueError(f"is damaged: tensor {quoted(name)!r} is not described well; {_AGAIN}")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise wrong
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not _are_counts(shape) or not _are_counts(offsets):
        raise wrong
    if len(offsets) != 2 or len(shape) > MAX_AXES:
        raise wrong
    if dtype not in _ITEM_BYTES:
        raise ValueError(
            f"holds tensor {quoted(name)!r} of dtype {quoted(dtype)}, which cannot be used; "
            "give a model file with 16, 32 or 64-bit weights"
        )
    begin, end = offsets
    if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise wrong
    return TensorEntry(dtype, tuple(shape)), begin, end


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**62 for v in value)
