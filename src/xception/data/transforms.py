"""From a picture to a network's input in training (with random changes) and in evaluation.

A transform works in three stages, so that the first can be kept in memory and the last be done on
a whole batch: `prepare` (decoded picture -> uint8 tensor, nothing random), `augment` (uint8 ->
uint8, random by torch's default generator) and `finish` (uint8 -> normalized float32).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from xception.data.picture_tensor import fit, normalize, to_tensor
from xception.models.preprocessing import Preprocessing

CROPS = ("none", "pad", "resized")
CROP_EDGES = ("black", "reflect")
RANDAUGMENT_LEVELS = 31  # magnitudes 0..30, torchvision's default


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """What is changed at random in training pictures; the default changes nothing."""

    crop: str = "none"  # none; pad: shift by up to crop_padding; resized: random part, resized
    crop_padding: int = 4  # pixels on each side, with crop="pad"
    crop_edges: str = "black"  # what the padding shows: black, or the picture mirrored at its edge
    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the area kept, with crop="resized"
    flip: bool = False  # left-right, half of the pictures
    erase: float = 0.0  # probability that a random rectangle is filled with the mean colour
    color_jitter: float = 0.0  # largest relative change of brightness, contrast and saturation
    randaugment: int = 0  # magnitude of 2 random operations, 0 (off)..30
    cutout: int = 0  # side in pixels of a square filled with the mean colour, 0: off

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        checks = (
            ("crop", self.crop in CROPS, f"one of {', '.join(CROPS)}"),
            ("crop_padding", self.crop_padding >= 0, "0 or more pixels"),
            (
                "crop_edges",
                self.crop_edges in CROP_EDGES,
                f"one of {', '.join(CROP_EDGES)}",
            ),
            ("crop_scale", 0.0 < low <= high <= 1.0, "two shares of 0..1, the smaller first"),
            ("erase", 0.0 <= self.erase <= 1.0, "a probability, 0..1"),
            ("color_jitter", 0.0 <= self.color_jitter <= 1.0, "in 0..1"),
            ("randaugment", 0 <= self.randaugment < RANDAUGMENT_LEVELS, "in 0..30"),
            ("cutout", self.cutout >= 0, "0 or more pixels"),
        )
        for name, is_right, meaning in checks:
            if not is_right:
                value = getattr(self, name)
                raise ValueError(f"augmentation {name} must be {meaning}, got {value}")


class EvaluationTransform:
    """The network's preprocessing, nothing random; equals `preprocess`."""

    is_random = False

    def __init__(self, p: Preprocessing) -> None:
        self.preprocessing = p
        self.channels = p.channels
        self.prepared_size: tuple[int, int] | None = p.size  # None: each picture has its own
        self.output_size: tuple[int, int] | None = p.size

    def prepare(self, picture: Image.Image) -> torch.Tensor:
        """Resize and crop an RGB picture: uint8 (C, H, W)."""
        return to_tensor(fit(picture, self.preprocessing))

    def augment(self, values: torch.Tensor) -> torch.Tensor:
        """Random changes, none here: uint8 (C, H, W) to the same."""
        return values

    def finish(self, values: torch.Tensor) -> torch.Tensor:
        """Scale uint8 (..., C, H, W) to normalized float32 (batches: channels_last)."""
        return normalize(values, self.preprocessing)

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        """RGB picture to float32 (C, H, W)."""
        return self.finish(self.augment(self.prepare(picture)))


class TrainTransform(EvaluationTransform):
    """Preprocessing with random changes drawn from torch's default generator."""

    def __init__(self, p: Preprocessing, augmentation: Augmentation) -> None:
        super().__init__(p)
        self.augmentation = augmentation
        self.is_random = augmentation != Augmentation()
        if augmentation.crop == "resized":
            self.prepared_size = None
        self._mean_colour = [round(value * 255) for value in p.mean]
        self._resized_crop = _resized_crop(p, augmentation)
        self._further = _further_changes(augmentation, self._mean_colour)

    def prepare(self, picture: Image.Image) -> torch.Tensor:
        """Bring to the network's size; with crop="resized" keep the picture's: uint8 (C, H, W)."""
        if self._resized_crop is None:
            return super().prepare(picture)
        mode = "RGB" if self.channels == 3 else "L"
        return to_tensor(picture if picture.mode == mode else picture.convert(mode))

    def augment(self, values: torch.Tensor) -> torch.Tensor:
        """Random crop, flip, colours and holes: uint8 (C, H, W) to the network's size."""
        augmentation = self.augmentation
        if self._resized_crop is not None:
            values = self._resized_crop(values)
        # one draw for all: calls cost more than numbers here
        down, across, side, hole_y, hole_x = torch.rand(5).tolist()
        if augmentation.crop == "pad" and augmentation.crop_padding:
            reach = augmentation.crop_padding
            choices = 2 * reach + 1
            shift = _shift_reflecting if augmentation.crop_edges == "reflect" else _shift
            values = shift(values, int(down * choices) - reach, int(across * choices) - reach)
        if augmentation.flip and side < 0.5:
            values = values.flip(-1)
        for change in self._further:
            values = change(values)
        if augmentation.cutout:
            values = self._cut_out(values, hole_y, hole_x)
        return values

    def _cut_out(self, values: torch.Tensor, y: float, x: float) -> torch.Tensor:
        """Fill a square around any pixel with the mean colour (DeVries and Taylor 2017)."""
        height, width = values.shape[-2:]
        half, side = self.augmentation.cutout // 2, self.augmentation.cutout
        top, left = int(y * height) - half, int(x * width) - half
        values = values.clone()  # the picture may be the cached one
        hole = values[:, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)]
        hole.copy_(torch.tensor(self._mean_colour, dtype=torch.uint8).view(-1, 1, 1))
        return values


def train_transform(p: Preprocessing, augmentation: Augmentation) -> TrainTransform:
    """A callable from an RGB picture to float32 (C, H, W), with random changes.

    Crop by padding, flip and cutout are done here; what goes further (random resized crop, colour
    jitter, RandAugment, erasing) is torchvision's v2, imported only if it is asked for. There,
    "lanczos" becomes bicubic and "box" bilinear, because tensors know no other resizing.
    """
    return TrainTransform(p, augmentation)


def evaluation_transform(p: Preprocessing) -> EvaluationTransform:
    """A callable from an RGB picture to float32 (C, H, W); the same numbers as `preprocess`."""
    return EvaluationTransform(p)


def _shift(values: torch.Tensor, down: int, across: int) -> torch.Tensor:
    """What a crop of the black-padded picture shows: row `r` is the picture's row `r + down`."""
    if down == 0 and across == 0:
        return values
    height, width = values.shape[-2:]
    if abs(down) >= height or abs(across) >= width:
        return torch.zeros_like(values)
    shifted = torch.zeros_like(values)
    kept = values[:, max(0, down) : height + min(0, down), max(0, across) : width + min(0, across)]
    shifted[:, max(0, -down) : height - max(0, down), max(0, -across) : width - max(0, across)] = (
        kept
    )
    return shifted


def _shift_reflecting(values: torch.Tensor, down: int, across: int) -> torch.Tensor:
    """As `_shift`, with what lies beyond an edge mirrored at it (the edge itself not repeated)."""
    if down == 0 and across == 0:
        return values
    rows, columns = (_reflected(n, by) for n, by in zip(values.shape[-2:], (down, across)))
    return values[:, rows.unsqueeze(1), columns]


def _reflected(length: int, by: int) -> torch.Tensor:
    """Indices `by` .. `by + length - 1`, folded back into the picture as often as it takes."""
    if length == 1:
        return torch.zeros(1, dtype=torch.long)
    period = 2 * (length - 1)
    there_and_back = torch.arange(by, by + length) % period
    return torch.minimum(there_and_back, period - there_and_back)


_Change = Callable[[torch.Tensor], torch.Tensor]


def _resized_crop(p: Preprocessing, augmentation: Augmentation) -> _Change | None:
    if augmentation.crop != "resized":
        return None
    from torchvision.transforms import v2

    modes = v2.InterpolationMode
    on_tensors = {"nearest": modes.NEAREST, "bicubic": modes.BICUBIC, "lanczos": modes.BICUBIC}
    mode = on_tensors.get(p.interpolation, modes.BILINEAR)
    crop: _Change = v2.RandomResizedCrop(p.size, scale=augmentation.crop_scale, interpolation=mode)
    return crop


def _further_changes(augmentation: Augmentation, fill: list[int]) -> list[_Change]:
    if not (augmentation.randaugment or augmentation.color_jitter or augmentation.erase):
        return []
    from torchvision.transforms import v2

    changes: list[Any] = []
    if augmentation.randaugment:
        changes.append(v2.RandAugment(magnitude=augmentation.randaugment, fill=fill))
    if augmentation.color_jitter:
        changes.append(v2.ColorJitter(*[augmentation.color_jitter] * 3))
    if augmentation.erase:
        changes.append(v2.RandomErasing(p=augmentation.erase, value=fill))
    return changes
