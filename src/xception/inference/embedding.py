"""Features of pictures: what a network makes of each, for search, clustering, other classifiers.

    features = xception.embed("runs/NAME", ["cat.jpg", "dog.jpg"])  # float32 (2, 2048)

They are taken behind the global pooling, at one of two places:
"pre_logits"  what enters the last layer, `forward_head(x, pre_logits=True)`: all that the classes
              are told apart by, so the default.
"pool"        before the further layers of the head, which are trained for the classes alone and
              may be narrow.
The two are the same where the head has no such layers, as in the paper's network for ImageNet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from xception.errors import UsageError
from xception.inference.batches import (
    Decoded,
    all_rows,
    check_batch_size,
    forward_batches,
    picture_count,
)
from xception.inference.runner import AnyModel, Runner
from xception.inference.runtimes import Road, RuntimeChoice

if TYPE_CHECKING:
    from xception.inference.batches import Picture

Layer = Literal["pre_logits", "pool"]


@dataclass(frozen=True, slots=True)
class Embedding:
    """The features of one picture, or why there are none."""

    name: str  # the path, or "picture 3" (counted from 1) for what has no name
    features: Tensor | None  # float32 (C,) on the CPU
    error: str | None = None  # why the picture cannot be used; then there are no features


def embed(
    model: AnyModel,
    pictures: Iterable[Picture] | Picture,
    *,
    layer: Layer = "pre_logits",
    batch_size: int = 32,
    device: str | torch.device | None = None,
    runtime: RuntimeChoice | None = None,
) -> Tensor:
    """Features of `pictures`, in order: float32 (N, C) on the CPU.

    The arguments are those of `embed_iter`, which serves where some pictures may be broken, or
    where there are more than memory holds.
    Raises PictureError for the first picture that cannot be used; ModelFileError, UsageError.
    """
    runner, batches = _batches(model, pictures, layer, batch_size, device, runtime, None)
    return all_rows(batches, runner.width)


def embed_iter(
    model: AnyModel,
    pictures: Iterable[Picture] | Picture,
    *,
    layer: Layer = "pre_logits",
    batch_size: int = 32,
    device: str | torch.device | None = None,
    runtime: RuntimeChoice | None = None,
    on_road: Callable[[Road], None] | None = None,
) -> Iterator[Embedding]:
    """Features one picture after the other, in the order of `pictures`, which may be endless.

    model: a model file, a run folder, or a network of `create_model` (with or without classes; put
        into eval mode while it works), whose own preprocessing is used
    pictures: whatever `decode_picture` takes, mixed at will
    layer: where the features are taken, see above
    batch_size: pictures that go through the network at once
    device: torch's name; None leaves a network where it is, and loads a file to CUDA if it can
    runtime: what runs the network, see `Runner`
    on_road: called once, after the first batch, with what has run it

    A picture that cannot be used gives an embedding with `error`; the rest go on.
    Raises ModelFileError, UsageError.
    """
    _, batches = _batches(model, pictures, layer, batch_size, device, runtime, on_road)
    return _embeddings(batches)


def _batches(
    model: AnyModel,
    pictures: Iterable[Picture] | Picture,
    layer: Layer,
    batch_size: int,
    device: str | torch.device | None,
    runtime: RuntimeChoice | None,
    on_road: Callable[[Road], None] | None,
) -> tuple[Runner, Iterator[tuple[list[Decoded], Tensor]]]:
    if layer not in get_args(Layer):
        raise UsageError(f"layer must be one of {', '.join(get_args(Layer))}, got {layer!r}")
    check_batch_size(batch_size)
    runner = Runner(model, device=device, runtime=runtime, output=layer, on_road=on_road)
    runner.prepare(picture_count(pictures))
    return runner, forward_batches(pictures, runner.network, runner, runner.width, batch_size)


def _embeddings(batches: Iterable[tuple[list[Decoded], Tensor]]) -> Iterator[Embedding]:
    for decoded, features in batches:
        rows = iter(features)
        for item in decoded:
            if item.error is None:
                yield Embedding(item.name, next(rows))
            else:
                yield Embedding(item.name, None, item.error.reason)
