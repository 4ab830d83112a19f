"""With PyTorch's conventions chosen by name, the paper's network is timm's `legacy_xception`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xception.models import create_model


def layers_in_order(network: nn.Module, x: torch.Tensor) -> list[nn.Module]:
    """Layers with weights as a picture meets them, those of the skip connections first."""
    met: list[nn.Module] = []
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    layers = [layer for layer in network.modules() if isinstance(layer, kinds)]
    hooks = [layer.register_forward_hook(lambda m, *_: met.append(m)) for layer in layers]
    network(x)
    for hook in hooks:
        hook.remove()
    skips = {
        place
        for i, layer in enumerate(met)
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride == (2, 2)
        for place in (i, i + 1)
    }
    rest = (layer for i, layer in enumerate(met) if i not in skips)
    return [*(met[i] for i in sorted(skips)), *rest]


@torch.no_grad()
def test_logits_and_features_are_those_of_timms_legacy_xception() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model("legacy_xception", num_classes=5).double().eval()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
    ours = create_model("xception", num_classes=5, padding="torch", bn_eps=1e-5).double().eval()
    x = torch.randn(2, 3, 150, 131, dtype=torch.float64)  # even sizes, where paddings differ
    pairs = zip(layers_in_order(theirs, x), layers_in_order(ours, x), strict=True)
    for their_layer, our_layer in pairs:
        our_layer.load_state_dict(their_layer.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)
    # Fresh weights make logits nearly independent of the picture: the feature map says more.
    ours_map, their_map = ours.forward_features(x), theirs.forward_features(x)
    torch.testing.assert_close(ours_map, their_map, rtol=1e-10, atol=1e-10)
    keras = create_model("xception", num_classes=5, padding="keras", bn_eps=1e-5).double().eval()
    keras.load_state_dict(ours.state_dict())
    after_first_pool = [net.forward_intermediates(x, [1])[0] for net in (ours, keras)]
    assert (after_first_pool[0] - after_first_pool[1]).abs().max() > 1e-3
