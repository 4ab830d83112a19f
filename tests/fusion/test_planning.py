"""What is swapped, and the reasons of what is not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import xception
from xception.fusion import FusionReport
from xception.ops import set_kernels


def texts(report: FusionReport) -> dict[str, str]:
    return {entry.path: entry.text for entry in report.entries}


def fused_with(*middle: nn.Module, side: int = 8) -> FusionReport:
    """Between two pointwise convolutions of 8 channels that batch normalization follows."""
    ends = [
        [nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)] for _ in range(2)
    ]
    network = nn.Sequential(*ends[0], *middle, *ends[1])
    report = xception.fuse(network, torch.zeros(2, 8, side, side))
    network.train()(torch.randn(2, 8, side, side)).sum().backward()
    return report


REASONS = {
    "regular": (nn.Conv2d(8, 8, 3, padding=1, bias=False), "a regular 3x3 convolution"),
    "grouped": (nn.Conv2d(8, 8, 3, groups=2, bias=False), "2 groups of channels: neither"),
    "multiplier": (nn.Conv2d(8, 16, 3, groups=8), "more than one filter a channel"),
    "pointwise bias": (nn.Conv2d(8, 8, 1), "has a bias"),
    "depthwise bias": (nn.Conv2d(8, 8, 3, groups=8), "has a bias"),
    "reflection": (
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect", groups=8, bias=False),
        "padding_mode 'reflect'",
    ),
    "no affine": (nn.BatchNorm2d(8, affine=False), "has no weight and bias"),
    "no statistics": (nn.BatchNorm2d(8, track_running_stats=False), "keeps no running statistics"),
    "twice": (nn.BatchNorm2d(8), "neither side of it is swapped"),
    "activation": (nn.SiLU(), "no swapped normalization before it"),
}


@pytest.mark.parametrize("module, reason", REASONS.values(), ids=REASONS)
def test_reasons(module, reason):
    after = [nn.Conv2d(16, 8, 1)] if getattr(module, "out_channels", 8) == 16 else []
    report = fused_with(module, nn.MaxPool2d(2, 1), *after)
    (entry,) = [entry for entry in report.left if entry.path == "3"]
    assert reason in entry.text and entry.kind == type(module).__name__
    assert {"0", "1"} <= {entry.path for entry in report.swapped}


def test_a_subclass_may_do_anything():
    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Centred(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) - 1

    report = fused_with(Scaled(8, 8, 1, bias=False), Centred(8))
    assert texts(report)["3"] == "Scaled has a forward of its own"
    assert texts(report)["4"] == "Centred has a forward of its own"


def test_single_pixels_are_left_to_torch():
    report = fused_with(side=1)
    assert "a single pixel" in texts(report)["0"]


def test_a_convolution_of_single_pictures():
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(torch.stack([self.conv(picture) for picture in x]))

    network = Single().train()
    report = xception.fuse(network, torch.randn(2, 3, 8, 8))
    assert texts(report)["conv"] == "called with a single picture (C, H, W)"
    network(torch.randn(2, 3, 8, 8)).sum().backward()


def test_inputs_by_keyword(assert_same):
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
            self.act, self.last = nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False)
            self.norm_2 = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(input=self.norm(input=self.conv(input=x)))
            return self.norm_2(input=self.last(input=x))

    fused = Named().train()
    report = texts(xception.fuse(fused))
    assert report["norm"] == report["act"] == "folded into what reads it"
    assert_same(fused, Named().train())


WRONG = {"smaller than the kernel": (1, 3, 3, 3), "other channels": (2, 5, 9, 9)}


@pytest.mark.parametrize("size", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_wrong_inputs_are_refused_in_torchs_words(size, index):
    plain = nn.Sequential(
        nn.Conv2d(3, 3, 5, groups=3, bias=False), nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
    )
    fused = copy.deepcopy(plain)
    xception.fuse(fused)
    messages = []
    for network in (plain, fused):
        try:
            network[index](torch.zeros(size))
        except (RuntimeError, ValueError) as error:
            messages.append(str(error))
        else:
            messages.append("")
    assert messages[0] == messages[1]


def test_separable_convolutions_are_one_operator(assert_same):
    def build() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False),
            nn.Conv2d(3, 7, 1, bias=False),
            nn.BatchNorm2d(7),
            nn.ReLU(inplace=True),
            nn.Conv2d(7, 7, 3, stride=2, padding="valid", groups=7, bias=False),
            nn.Conv2d(7, 5, 1, bias=False),
            nn.BatchNorm2d(5),
        ).train()

    fused = build()
    report = texts(xception.fuse(fused))
    assert report["1"] == report["5"] == "one operator with the pointwise convolution behind it"
    assert report["0"] == "folded into what reads it"
    assert_same(fused, build())


@pytest.mark.parametrize("kernel, swapped", [(3, False), (5, True), (7, True)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_depthwise_convolution_by_itself(kernel, swapped, bias, assert_same, pictures):
    def build() -> nn.Sequential:
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 3, kernel, padding="same", groups=3, bias=bias)
        return nn.Sequential(conv, nn.GELU(), nn.Conv2d(3, 4, 1)).train()

    fused = build()
    report = xception.fuse(fused)
    assert [entry.path for entry in report.swapped] == (["0"] if swapped else [])
    assert_same(fused, build())
    with torch.no_grad():
        torch.testing.assert_close(fused(pictures()), build()(pictures()))
    seconds = []
    for network in (fused, build()):
        x = pictures().requires_grad_()
        (grad,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
        seconds.append(torch.autograd.grad(grad.square().sum(), [x, *network.parameters()]))
    torch.testing.assert_close(*seconds, rtol=1e-4, atol=1e-4)


def test_what_the_example_does_not_reach():
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.always = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
            self.training_only = nn.Conv2d(4, 4, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.always(x)
            return self.training_only(x) if self.training else x

    network = Optional().train()
    report = xception.fuse(network)
    assert texts(report)["training_only"] == "not called in the example"
    assert type(network(torch.randn(2, 3, 5, 5))) is Tensor


def test_a_shared_activation(assert_same):
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 1, bias=False)
            self.norm_1, self.norm_2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.norm_1(self.first(x)))
            return self.act(self.norm_2(self.second(x)) + x)

    fused = Shared().train()
    xception.fuse(fused)
    assert_same(fused, Shared().train())


def test_a_shared_convolution(assert_same):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU6(inplace=True)
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(self.layers(x)) + x

    fused = Twice().train()
    xception.fuse(fused)
    assert_same(fused, Twice().train())


def test_without_kernels_nothing_is_swapped():
    set_kernels("off")
    report = fused_with()
    assert not report.swapped and "kernels are off" in texts(report)["0"]


def test_the_table(small_network):
    network = small_network()
    lines = str(xception.fuse(network)).splitlines()
    assert lines[0].split() == ["module", "class", "what", "became", "of", "it"]
    assert lines[1].split(maxsplit=2) == ["0", "Conv2d", "left: a regular 3x3 convolution"]
    assert lines[-1] == "20 of 21 modules swapped"
