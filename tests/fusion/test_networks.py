"""Networks of torchvision and timm: what is swapped, and that they compute what they did."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import xception


def torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return pytest.importorskip("torchvision").models.get_model(name, weights=None)

    return build


def timm(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return pytest.importorskip("timm").create_model(name)

    return build


NETWORKS = {  # and how many modules of how many are swapped
    "mobilenet_v2": (torchvision("mobilenet_v2"), 138, 139),
    "mobilenet_v3_small": (torchvision("mobilenet_v3_small"), 90, 119),
    "mnasnet0_5": (torchvision("mnasnet0_5"), 138, 139),
    "efficientnet_b0": (torchvision("efficientnet_b0"), 130, 179),
    "shufflenet_v2_x0_5": (torchvision("shufflenet_v2_x0_5"), 146, 149),
    "convnext_tiny": (torchvision("convnext_tiny"), 18, 22),
    "resnet18": (torchvision("resnet18"), 6, 49),
    "timm mobilenetv1_100": (timm("mobilenetv1_100"), 53, 54),
    "timm mobilenetv2_050": (timm("mobilenetv2_050"), 103, 104),
    "timm efficientnet_b0": (timm("efficientnet_b0"), 97, 146),
    "timm legacy_xception": (timm("legacy_xception"), 145, 149),
}


def without_chance(network: nn.Module) -> nn.Module:
    for module in network.modules():
        for name in ("p", "drop_prob", "drop_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return network.train()


@pytest.mark.parametrize("build, swapped, total", NETWORKS.values(), ids=NETWORKS)
def test_a_step(build, swapped, total):
    """Gradients of a whole network are compared by their norm: at kinks of the activations,
    rounding decides on which side a value lies, and float32 by itself is as far off."""
    torch.manual_seed(0)
    plain = without_chance(build())
    fused, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    report = xception.fuse(fused)
    assert (len(report.swapped), len(report.entries)) == (swapped, total), str(report)
    x = torch.randn(2, 3, 64, 64)
    outputs = [network(x.to(next(network.parameters()).dtype)) for network in (fused, exact)]
    error = (outputs[0].double() - outputs[1]).norm() / outputs[1].norm()
    assert error < 1e-4
    for out in outputs:
        out[:, 0].sum().backward()
    grads = [torch.cat([p.grad.double().flatten() for p in n.parameters()]) for n in (fused, exact)]
    assert (grads[0] - grads[1]).norm() < 0.05 * grads[1].norm()
    buffers = dict(exact.named_buffers())
    for name, buffer in fused.named_buffers():
        torch.testing.assert_close(
            buffer, buffers[name].to(buffer.dtype), rtol=1e-4, atol=1e-5, msg=name
        )
    fused.eval(), exact.eval()
    with torch.no_grad():
        torch.testing.assert_close(fused(x).double(), exact(x.double()), rtol=1e-3, atol=1e-4)


def test_our_own_networks_are_left_to_themselves():
    """They fuse already, and better: a block's pool and skip connection are part of it."""
    ours = xception.create_model("xception_tiny", num_classes=3)
    network = nn.Sequential(nn.Conv2d(4, 3, 1, bias=False), nn.BatchNorm2d(3), ours).train()
    report = xception.fuse(network)
    assert [entry.path for entry in report.entries] == ["0", "1"] and len(report.swapped) == 2
    network(torch.randn(2, 4, 32, 32)).sum().backward()


def test_our_layers_in_other_networks(assert_same):
    def build() -> nn.Module:
        torch.manual_seed(0)
        layer = xception.SeparableConv2d(3, 8, padding="torch")
        return nn.Sequential(layer, nn.BatchNorm2d(8), nn.ReLU()).train()

    fused = build()
    assert len(xception.fuse(fused).swapped) == 4
    assert_same(fused, build())
