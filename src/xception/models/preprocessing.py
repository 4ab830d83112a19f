"""How a picture becomes a network's input: one small record that travels with every model."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

RESIZES = ("crop", "squash", "pad")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box")
MAX_SIDE = 8_192  # pixels; a bound on what a model file may ask for


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """From an RGB picture to the tensor that the network sees.

    Values are scaled to 0..1, then `(value - mean) / std` per channel. The default is Keras's
    `xception.preprocess_input` (x / 127.5 - 1).
    """

    size: tuple[int, int] = (299, 299)  # height, width in pixels that the network sees
    resize: str = "crop"  # crop: short side to size / crop_fraction, then centre crop; squash; pad
    crop_fraction: float = 1.0  # share of the resized short side that the centre crop keeps, 0..1
    interpolation: str = "bilinear"  # nearest | bilinear | bicubic | lanczos | box
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # of values in 0..1, one a channel
    std: tuple[float, ...] = (0.5, 0.5, 0.5)  # of values in 0..1, one a channel
    channels: int = 3  # 3: RGB, 1: greyscale

    def __post_init__(self) -> None:
        size = self.size
        if len(size) != 2 or not all(type(s) is int and 1 <= s <= MAX_SIDE for s in size):
            raise ValueError(
                f"preprocessing size must be two integers in 1..{MAX_SIDE}, got {size!r}"
            )
        if self.resize not in RESIZES:
            raise ValueError(f"preprocessing resize must be one of {RESIZES}, got {self.resize!r}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"preprocessing interpolation must be one of {INTERPOLATIONS}, "
                f"got {self.interpolation!r}"
            )
        if not 0.0 < self.crop_fraction <= 1.0:
            raise ValueError(
                "preprocessing crop_fraction must be above 0 and at most 1, "
                f"got {self.crop_fraction}"
            )
        if self.channels not in (1, 3):
            raise ValueError(f"preprocessing channels must be 1 or 3, got {self.channels!r}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels:
                raise ValueError(
                    f"preprocessing {name} needs {self.channels} values (one a channel), "
                    f"got {values!r}"
                )
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)):
            raise ValueError(
                f"preprocessing mean and std must be finite, got {self.mean!r} and {self.std!r}"
            )
        if any(not s > 0.0 for s in self.std):
            raise ValueError(f"preprocessing std must be above 0, got {self.std!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, the inverse of `from_dict`."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Build from JSON types; raises ValueError naming the field that is unknown or wrong."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"preprocessing has unknown fields {unknown}; known: {sorted(known)}")
        converted: dict[str, Any] = {}
        for key, value in values.items():
            try:
                if key == "size":
                    converted[key] = tuple(int(s) for s in value)
                elif key in ("mean", "std"):
                    converted[key] = tuple(float(s) for s in value)
                elif key == "crop_fraction":
                    converted[key] = float(value)
                else:
                    converted[key] = value
            except (TypeError, ValueError):
                raise ValueError(f"preprocessing {key} cannot be {value!r}") from None
        return cls(**converted)
