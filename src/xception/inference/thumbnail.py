"""Small pictures that a page can hold within itself."""

from __future__ import annotations

import base64
import io

from xception.data.samples import Samples
from xception.errors import PictureError

MAX_SIDE = 96  # pixels


def thumbnail(samples: Samples, i: int) -> str | None:
    """Picture `i` as a PNG data URI of at most 96 pixels a side; None if it cannot be read."""
    try:
        picture = samples.load(i)
    except PictureError:
        return None
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    png = io.BytesIO()
    picture.save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode("ascii")
