"""Pictures of every mode of Pillow, and numbers of every range, as 8-bit RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    import numpy as np

_WHITE = (255, 255, 255, 255)
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF


def to_rgb(picture: Image.Image, kind: str) -> Image.Image:
    """Any mode to RGB, 8 bits a channel; `kind` is the file's format (it may tell the range)."""
    mode = picture.mode
    if mode.startswith("I;16") or mode in ("I", "F"):
        picture = _scale_to_8_bit(picture, kind)
    elif mode == "LAB":
        picture = _lab_to_rgb(picture)
    elif mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = _over_white(picture)
    rgb = picture.convert("RGB") if picture.mode != "RGB" else picture
    rgb.info = {}  # an orientation that has been applied must not be found again
    return rgb


def _over_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.mode != "RGBA":
        key = picture.info.get("transparency")
        if picture.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
            # the key colour of a 16-bit PNG, of whose values Pillow keeps the upper 8 bits
            picture.info["transparency"] = tuple(value >> 8 for value in key)
        picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, _WHITE), picture)


def _lab_to_rgb(picture: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
    assert converted is not None  # it is None only when asked to work in place
    return converted


def _scale_to_8_bit(picture: Image.Image, kind: str) -> Image.Image:
    """Grey of more than 8 bits to mode L (see `decode_picture` for the ranges)."""
    import numpy as np

    values = np.asarray(picture)
    tags = getattr(picture, "tag_v2", {})  # of a TIFF
    top: float | None = None
    if picture.mode.startswith("I;16"):
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]  # 12 bits are given as 12 of 16
        top = float(2**bits - 1) if 8 < bits <= 16 else 65535.0
    elif kind == "PPM" and picture.mode == "I":
        top = 65535.0
    grey = to_uint8(values, top)
    if tags.get(_PHOTOMETRIC) == 0 and picture.mode.startswith("I;16"):
        grey = 255 - grey  # 0 means white
    key = picture.info.get("transparency")
    if isinstance(key, int):
        grey = np.where(values == key, np.uint8(255), grey)
    return Image.fromarray(np.ascontiguousarray(grey))


def to_uint8(values: np.ndarray, top: float | None) -> np.ndarray:
    """Scale 0..top to 0..255; where `top` is None, from the smallest usual range that fits."""
    import numpy as np

    if top is None:
        is_float = values.dtype.kind == "f"
        if is_float:
            values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(values.min()), float(values.max())
        ranges = (1.0, 255.0) if is_float else (255.0, 65535.0)
        fitting = [r for r in ranges if low >= 0.0 and high <= r]
        if fitting:
            top = fitting[0]
        else:
            values = values.astype(np.float64) - low
            top = (high - low) or 1.0
    if top == 255.0 and values.dtype.kind in "iu":
        return values.astype(np.uint8)
    if top == 65535.0 and values.dtype.kind in "iu":
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.clip(values * (255.0 / top) + 0.5, 0, 255).astype(np.uint8)
