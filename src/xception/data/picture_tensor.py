"""A picture as a network sees it in evaluation: resize, crop, scale; Pillow and torch alone.

The numbers equal those of torchvision's v2 pipeline on Pillow pictures (Resize, CenterCrop,
ToImage, ToDtype(scale=True), Normalize), without the two seconds that importing torchvision takes.
"""

from __future__ import annotations

import torch
from PIL import Image, ImageOps

from xception.models.preprocessing import Preprocessing

GREY = 128  # fills what the picture does not cover with resize="pad"

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
_EXTREME = 64  # a resized picture of more than 64 crops' area is resized only where it is cropped


def preprocess(picture: Image.Image, p: Preprocessing) -> torch.Tensor:
    """Turn an RGB picture of any size into the network's input, float32 (C, H, W)."""
    return normalize(to_tensor(fit(picture, p)), p)


def fit(picture: Image.Image, p: Preprocessing) -> Image.Image:
    """Bring a picture to `p.size` and `p.channels` (mode RGB or L), 8 bits a channel."""
    mode = "RGB" if p.channels == 3 else "L"
    if picture.mode != mode:
        picture = picture.convert(mode)
    height, width = p.size
    if p.resize == "squash":
        return _resized(picture, width, height, p)
    if p.resize == "pad":
        return _padded(picture, p)
    new_width, new_height = _covering_size(picture.size, p)
    left = round((new_width - width) / 2.0)
    top = round((new_height - height) / 2.0)
    if new_width * new_height > _EXTREME * width * height:
        # 1 x 100,000 pixels: the resized whole would not fit into memory
        across, down = picture.width / new_width, picture.height / new_height
        right = min((left + width) * across, float(picture.width))
        bottom = min((top + height) * down, float(picture.height))
        box = (left * across, top * down, right, bottom)
        return picture.resize((width, height), _RESAMPLING[p.interpolation], box=box)
    picture = _resized(picture, new_width, new_height, p)
    if (left, top, new_width, new_height) == (0, 0, width, height):
        return picture
    return picture.crop((left, top, left + width, top + height))


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """Values of a picture of mode RGB or L: uint8 (C, H, W), channels last in memory."""
    channels = len(picture.getbands())
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(picture.height, picture.width, channels).permute(2, 0, 1)


def normalize(values: torch.Tensor, p: Preprocessing) -> torch.Tensor:
    """Scale uint8 (..., C, H, W) to float32: `(values / 255 - mean) / std` for each channel.

    A batch (N, C, H, W) comes back contiguous in channels_last.
    """
    if values.dim() == 4:
        scaled = values.to(torch.float32, memory_format=torch.channels_last)
    else:
        scaled = values.to(torch.float32, memory_format=torch.contiguous_format)
    scaled.mul_(1.0 / 255)
    if any(p.mean):
        scaled.sub_(torch.tensor(p.mean).view(-1, 1, 1))
    if any(value != 1.0 for value in p.std):
        scaled.div_(torch.tensor(p.std).view(-1, 1, 1))
    return scaled


def _covering_size(size: tuple[int, int], p: Preprocessing) -> tuple[int, int]:
    """Width and height once the picture just covers `p.size / p.crop_fraction`."""
    width, height = size
    target_height, target_width = (round(side / p.crop_fraction) for side in p.size)
    if width * target_height >= height * target_width:  # height decides
        return max(target_width, int(target_height * width / height)), target_height
    return target_width, max(target_height, int(target_width * height / width))


def _resized(picture: Image.Image, width: int, height: int, p: Preprocessing) -> Image.Image:
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), _RESAMPLING[p.interpolation])


def _padded(picture: Image.Image, p: Preprocessing) -> Image.Image:
    height, width = p.size
    scale = min(width / picture.width, height / picture.height)
    new_width = min(width, max(1, round(picture.width * scale)))
    new_height = min(height, max(1, round(picture.height * scale)))
    picture = _resized(picture, new_width, new_height, p)
    left, top = (width - new_width) // 2, (height - new_height) // 2
    border = (left, top, width - new_width - left, height - new_height - top)
    if not any(border):
        return picture
    fill = (GREY,) * p.channels if p.channels > 1 else GREY
    return ImageOps.expand(picture, border, fill)
