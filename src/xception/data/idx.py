"""The IDX format of MNIST and its kin (plain or gzip), read with every header field checked.

Format: http://yann.lecun.com/exdb/mnist/ (two zero bytes, type, number of dimensions, the
dimensions as big-endian 32-bit integers, then the values).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from xception.errors import DataError

if TYPE_CHECKING:
    import numpy as np

MAX_BYTES = 2**31  # of values; ten times the largest data set of this kind
_UINT8 = 0x08


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read a file of unsigned bytes with that many dimensions: uint8 array.

    Raises:
        DataError: the file is missing, not IDX of that kind, shorter or longer than its header
            says, or larger than `MAX_BYTES`.
    """
    import numpy as np

    opener = gzip.open if path.suffix == ".gz" else open
    header_size = 4 + 4 * dimensions
    try:
        with opener(path, "rb") as file:
            header = file.read(header_size)
            if len(header) < header_size or header[:4] != bytes((0, 0, _UINT8, dimensions)):
                raise DataError(
                    f"{path}: not an IDX file of bytes with {dimensions} dimension(s) "
                    f"(it starts with {header[:4].hex()}); fetch it again"
                )
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size = 1
            for side in shape:
                size *= side
            if size > MAX_BYTES:
                raise DataError(f"{path}: its header claims {size:,} bytes; fetch it again")
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path}: cannot be read ({reason}); fetch it again") from None
    if len(data) != size:
        more_or_less = "more" if len(data) > size else f"{len(data):,}"
        raise DataError(
            f"{path}: its header claims {size:,} bytes but it holds {more_or_less}; fetch it again"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write a uint8 array as gzip IDX; the same values always give the same bytes."""
    header = bytes((0, 0, _UINT8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(header + values.tobytes())
