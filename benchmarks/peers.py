"""The networks of other libraries, and plain ones, that our training step is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn


class PlainSeparable(nn.Module):
    """[ReLU,] depthwise 3x3, pointwise, batch normalization, as one writes it by hand."""

    def __init__(self, inputs: int, outputs: int, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        if self.relu:
            x = nn.functional.relu(x)
        return self.norm(self.pointwise(self.depthwise(x)))


class PlainBlock(nn.Module):
    """Separable convolutions with a residual connection; the pooled ones halve the size."""

    def __init__(self, inputs: int, channels: list[int], pooled: bool, first_relu: bool) -> None:
        super().__init__()
        sizes = [inputs, *channels]
        self.convs = nn.Sequential(
            *(
                PlainSeparable(a, b, relu=first_relu or i > 0)
                for i, (a, b) in enumerate(zip(sizes, channels))
            )
        )
        self.pool = nn.MaxPool2d(3, 2, padding=1) if pooled else nn.Identity()
        self.skip: nn.Module = nn.Identity()
        if pooled:
            self.skip = nn.Sequential(
                nn.Conv2d(inputs, channels[-1], 1, 2, bias=False),
                nn.BatchNorm2d(channels[-1], eps=1e-3),
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.convs(x)) + self.skip(x)


def plain_tiny(width: float = 1) -> nn.Module:
    """`xception_tiny` at 10 classes (291,018 parameters) in plain torch modules.

    width: factor on the channels of every layer
    """
    c = int(32 * width)
    return nn.Sequential(
        nn.Conv2d(3, c, 3, padding=1, bias=False),
        nn.BatchNorm2d(c, eps=1e-3),
        nn.ReLU(inplace=True),
        PlainBlock(c, [2 * c] * 2, pooled=True, first_relu=False),
        PlainBlock(2 * c, [4 * c] * 2, pooled=True, first_relu=True),
        PlainBlock(4 * c, [4 * c] * 3, pooled=False, first_relu=True),
        PlainBlock(4 * c, [4 * c] * 3, pooled=False, first_relu=True),
        PlainBlock(4 * c, [8 * c] * 2, pooled=True, first_relu=True),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * c, 10),
    )


def our_tiny(width: float = 1) -> nn.Module:
    """`xception_tiny` at 10 classes, its channels multiplied by `width`."""
    from xception.models import Xception
    from xception.models.layout import TINY, BlockLayout

    def scaled(blocks: tuple[BlockLayout, ...]) -> tuple[BlockLayout, ...]:
        return tuple(
            replace(block, channels=tuple(int(c * width) for c in block.channels))
            for block in blocks
        )

    layout = replace(
        TINY,
        stem=tuple((int(c * width), stride) for c, stride in TINY.stem),
        entry=scaled(TINY.entry),
        middle=scaled(TINY.middle),
        exit=scaled(TINY.exit),
    )
    return Xception(layout, num_classes=10)


def from_timm(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name)

    return build


def from_torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None)

    return build


def our(name: str, **arguments: object) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from xception import create_model

        return create_model(name, **arguments)

    return build


# Case: input shape, classes, our network, {peer: network}
CASES: dict[str, tuple[tuple[int, ...], int, Callable[[], nn.Module], dict[str, Callable]]] = {
    "xception-299": (
        (8, 3, 299, 299),
        1000,
        our("xception", padding="torch"),
        {"timm legacy_xception": from_timm("legacy_xception")},
    ),
    "tiny-32": (
        (128, 3, 32, 32),
        10,
        our("xception_tiny", num_classes=10),
        {"plain torch": plain_tiny},
    ),
}


def seconds_of_steps(
    model: nn.Module,
    shape: tuple[int, ...],
    classes: int,
    within: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Callable[[], float]:
    """A training step (SGD with momentum, cross entropy) that returns the seconds it took.

    within: what the forward pass runs in
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (shape[0],), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> float:
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with within():
            loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return time.perf_counter() - began

    return step
