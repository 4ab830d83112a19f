"""From the bytes of any real picture to an upright RGB picture, or one plain reason why not.

The format is told by the first bytes, never by the file's ending, and only formats that Pillow
decodes inside this process are served: nothing here starts another program.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import re
import stat
import warnings
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image, JpegImagePlugin

from xception.data.modes import to_rgb, to_uint8
from xception.data.wording import path_text
from xception.errors import PictureError

if TYPE_CHECKING:
    import numpy as np

MAX_PIXELS = 178_956_970  # width x height; where Pillow, too, refuses a "decompression bomb"

PICTURE_SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "bmp", "webp", "avif"),
        *("tif", "tiff", "ppm", "pgm", "pbm", "pnm", "pfm", "jp2", "j2k"),
    )
)

_PLUGINS = {  # format -> (module of Pillow, class of picture file)
    "PNG": ("PngImagePlugin", "PngImageFile"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "WEBP": ("WebPImagePlugin", "WebPImageFile"),
    "TIFF": ("TiffImagePlugin", "TiffImageFile"),
    "PPM": ("PpmImagePlugin", "PpmImageFile"),
    "JPEG 2000": ("Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "AVIF": ("AvifImagePlugin", "AvifImageFile"),
}
FORMATS = ("JPEG", *_PLUGINS)

_ORIENTATION_TAG = 0x0112  # of EXIF
_TRANSPOSE = {  # EXIF orientation -> what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow speaks of damaged metadata by warnings; a picture that still decodes is not worth a line.
# The entry goes straight into the list, and out again: `warnings.catch_warnings` is not safe with
# threads, and makes every other warning of the program that was shown once be shown again.
_SILENCE: Any = (
    "ignore",
    None,
    Warning,
    re.compile(r"(PIL|xception\.data\.decode)(\.|$)"),
    0,
)
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its errors go to stderr


def decode_picture(
    source: str | Path | bytes | BinaryIO | np.ndarray | Image.Image,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decode one picture to mode RGB, 8 bits a channel, upright.

    Args:
        source: path, encoded bytes, binary file, array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
            (bool, uint8, uint16, or floats in 0..1 or 0..255), or a Pillow picture.
        name: what errors call the picture; the path, where there is one, by default.
        max_pixels: largest width x height; checked from the header before anything is decoded.

    EXIF orientation is applied; transparency is laid over white; of an animation the first frame
    is taken; 16-bit grey is scaled by 255/65535 (not clipped); 32-bit integers and floats are
    scaled from the smallest of the ranges 0..1 (floats), 0..255, 0..65535 (integers) that holds
    all values, else from their own range; CMYK is converted without a colour profile.

    Raises:
        PictureError: with the reason in plain words; also for a truncated or damaged file.
    """
    label = name if name is not None else _name_of(source)
    warnings.filters.insert(0, _SILENCE)  # type: ignore[attr-defined]
    try:
        if isinstance(source, (str, os.PathLike)):
            with _open_file(os.fspath(source), label) as file:
                return _decode_file(file, label, max_pixels)
        if isinstance(source, (bytes, bytearray, memoryview)):
            return _decode_file(io.BytesIO(source), label, max_pixels)
        if isinstance(source, Image.Image):
            _check_size(source.size, label, max_pixels)
            return _load_rgb(source, label, "picture")
        if hasattr(source, "read"):
            return _decode_file(_seekable(source), label, max_pixels)
        if hasattr(source, "__array_interface__"):
            return _from_array(source, label, max_pixels)
    finally:
        # a concurrent catch_warnings may have put another list in place
        if _SILENCE in warnings.filters:
            warnings.filters.remove(_SILENCE)  # type: ignore[attr-defined]
    kinds = "a path, bytes, a binary file, an array or a Pillow picture"
    raise PictureError(label, f"is a {type(source).__name__}; give {kinds}")


def picture_size(path: str | Path, *, name: str | None = None) -> tuple[int, int]:
    """Width and height in pixels by the header alone (before EXIF orientation).

    Raises PictureError as `decode_picture` does, for what the header can tell.
    """
    label = name if name is not None else path_text(path)
    warnings.filters.insert(0, _SILENCE)  # type: ignore[attr-defined]
    try:
        with _open_file(os.fspath(path), label) as file:
            return _open_header(file, label)[0].size
    finally:
        if _SILENCE in warnings.filters:
            warnings.filters.remove(_SILENCE)  # type: ignore[attr-defined]


def _name_of(source: object) -> str:
    if isinstance(source, (str, os.PathLike)):
        return path_text(source)
    for attribute in ("filename", "name"):
        value = getattr(source, attribute, None)
        if isinstance(value, str) and value:
            return value
    return "picture"


@contextmanager
def _open_file(path: str, name: str) -> Iterator[BinaryIO]:
    """Open a plain file, or say plainly why that cannot be."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise PictureError(name, "is a folder, not a picture")
        if not stat.S_ISREG(mode):  # opening a pipe would wait forever
            raise PictureError(name, "is not a plain file")
        file = open(path, "rb")  # noqa: SIM115  # errors of opening only are caught here
    except FileNotFoundError:
        broken = os.path.islink(path)
        reason = "is a link to a file that does not exist" if broken else "does not exist"
        raise PictureError(name, reason) from None
    except NotADirectoryError:
        raise PictureError(name, "does not exist (a part of its path is a file)") from None
    except PermissionError:
        raise PictureError(name, "cannot be read: permission denied") from None
    except (OSError, ValueError) as error:
        raise PictureError(name, f"cannot be opened: {_words(error)}") from None
    with file:
        yield file


def _seekable(file: Any) -> BinaryIO:
    try:
        if file.seekable():
            return file
    except AttributeError:
        pass
    return io.BytesIO(file.read())


def _decode_file(file: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    picture, kind = _open_header(file, name)
    _check_size(picture.size, name, max_pixels)
    return _load_rgb(picture, name, kind)


def _open_header(file: BinaryIO, name: str) -> tuple[Image.Image, str]:
    """The picture, not decoded yet, and its format."""
    try:
        start = file.tell()
        prefix = file.read(32)
        file.seek(start)
    except OSError as error:
        raise PictureError(name, f"cannot be read: {_words(error)}") from None
    kind = _format_of(prefix)
    if kind is None:
        raise PictureError(name, _not_a_picture(prefix))
    try:
        if kind == "JPEG":
            # not through Image.open: that looks for further frames and costs half as much again
            return JpegImagePlugin.JpegImageFile(file, name), kind
        return _plugin(kind)(file, name), kind
    except MemoryError:
        raise PictureError(name, "needs more memory than there is") from None
    except Exception as error:  # Pillow's plugins raise errors of a dozen types on damaged headers
        raise PictureError(name, _reason(error, kind)) from None


def _format_of(prefix: bytes) -> str | None:
    if prefix.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if prefix.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if prefix.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if prefix.startswith(b"RIFF") and prefix[8:12] == b"WEBP":
        return "WEBP"
    if prefix.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if prefix.startswith(b"BM") and len(prefix) >= 26:
        return "BMP"
    if re.match(rb"P[1-6fF]\s", prefix):
        return "PPM"
    if prefix.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")):
        return "JPEG 2000"
    if prefix[4:8] == b"ftyp" and prefix[8:12] in (b"avif", b"avis"):
        return "AVIF"
    return None


@cache
def _plugin(kind: str) -> Any:
    module, attribute = _PLUGINS[kind]
    if kind == "TIFF":
        _silence_libtiff()
    return getattr(import_module(f"PIL.{module}"), attribute)


def _silence_libtiff() -> None:
    """Keep libtiff from writing to stderr of a damaged file; Pillow raises an error anyway."""
    with suppress(AttributeError, OSError):  # linked in another way: the lines stay
        ctypes.CDLL(import_module("PIL._imaging").__file__).TIFFSetErrorHandler(None)


def _not_a_picture(prefix: bytes) -> str:
    if not prefix:
        return "is an empty file"
    if prefix.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the picture: run git lfs pull"
    if prefix[4:8] == b"ftyp" and prefix[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "is a HEIC picture, which cannot be read: convert it to JPEG or PNG"
    if prefix.startswith(b"%PDF"):
        return "is a PDF document, not a picture"
    if not prefix.strip(b"\0"):
        return "is not a picture (it holds zeros)"
    try:
        getincrementaldecoder("utf-8")().decode(prefix)  # its last character may be cut
        is_text = not re.search(rb"[\0-\x08\x0e-\x1a]", prefix)
    except UnicodeDecodeError:
        is_text = False
    return f"is not a picture ({'it holds text' if is_text else 'unknown format'})"


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(name, f"claims to be {width} x {height} pixels")
    if width * height > max_pixels:
        raise PictureError(
            name, f"claims {width} x {height} pixels, more than the {max_pixels:,} that are allowed"
        )


def _load_rgb(picture: Image.Image, name: str, kind: str) -> Image.Image:
    try:
        picture.load()
        method = _transposition(picture)
        rgb = to_rgb(picture.copy() if kind == "picture" else picture, kind)
        return rgb if method is None else rgb.transpose(method)
    except MemoryError:
        raise PictureError(name, "needs more memory than there is") from None
    except Exception as error:  # Pillow's decoders raise errors of a dozen types on damaged data
        raise PictureError(name, _reason(error, kind)) from None


def _transposition(picture: Image.Image) -> Image.Transpose | None:
    """What makes the picture upright, as its EXIF or XMP data say."""
    info = picture.info
    if picture.format == "JPEG" and "exif" not in info and "xmp" not in info:
        return None  # most pictures of data sets; asking Pillow costs more than decoding 32x32
    try:
        return _TRANSPOSE.get(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata: the picture itself is whole
        return None


def _from_array(source: Any, name: str, max_pixels: int) -> Image.Image:
    import numpy as np

    array = np.asarray(source)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise PictureError(
            name, f"is an array of shape {array.shape}; give (H, W), (H, W, 3) or (H, W, 4)"
        )
    _check_size((array.shape[1], array.shape[0]), name, max_pixels)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint16:
        array = to_uint8(array, 65535.0)
    elif array.dtype.kind == "f":
        array = to_uint8(array, None)
    elif array.dtype != np.uint8:
        raise PictureError(
            name, f"is an array of {array.dtype}; give uint8, uint16, bool or floats"
        )
    return _load_rgb(Image.fromarray(np.ascontiguousarray(array)), name, "array")


def _reason(error: Exception, kind: str) -> str:
    """Pillow's words for a damaged picture in plain ones."""
    words = _words(error)
    if isinstance(error, Image.DecompressionBombError):
        return "claims more pixels than are allowed"
    if "truncated" in words.lower() or isinstance(error, EOFError):
        return "is truncated: the file ends before the picture does"
    return f"is damaged, or no {kind} that can be read ({words})"


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = " ".join(str(error).split())
    return text[:120] if text else type(error).__name__
