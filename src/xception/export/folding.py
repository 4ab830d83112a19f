"""Batch normalization made part of the layer before it, as it can be once training is over.

With fixed statistics it is a scale and a shift of each channel, and so is the end of a convolution:

    gamma (W x + b - mean) / sqrt(var + eps) + beta  =  (s W) x + (s (b - mean) + beta),
    s = gamma / sqrt(var + eps)
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from xception.models.meta_twin import meta_picture
from xception.nn import Conv2dSame

Network = TypeVar("Network", bound=nn.Module)

_LAYERS = (nn.Conv2d, Conv2dSame, nn.Linear)  # exactly these: a subclass may do more
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def fold_batch_norm(network: Network, size: int | tuple[int, int] | None = None) -> Network:
    """A copy in eval mode, without gradients, in which such batch normalization is gone.

    size: side or (height, width) in pixels for the one forward that shows what follows what; by
        default the smallest that the network takes

    Folded is what takes the output of a convolution or linear layer that nothing else takes, each
    called once; an `Identity` stands in its place. `forward` gives the same within float rounding
    (the new weights are computed in float64). Other normalization stays as it is: behind a sum,
    say, as in the pre-activation networks. Hooks are not copied.
    Raises ValueError when no size is known, and what the network raises for a size it refuses.
    """
    picture = meta_picture(network, size or getattr(network, "minimum_size", None))
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for module in folded.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    for layer_name, norm_name in _pairs(folded, picture):
        _fold(folded.get_submodule(layer_name), folded.get_submodule(norm_name))
        folded.set_submodule(norm_name, nn.Identity())
    return folded


def _pairs(network: nn.Module, picture: Tensor) -> list[tuple[str, str]]:
    """Names of layers and of the normalization that alone takes what comes out of them.

    picture: what the network takes, without numbers
    """
    trace = _Trace()
    handles = [
        module.register_forward_hook(trace.note(name))
        for name, module in network.named_modules()
        if type(module) in _LAYERS or (type(module) in _NORMS and module.running_mean is not None)
    ]
    # On its own device: without numbers it would be quicker, but torch then imports its compiler.
    device = next((parameter.device for parameter in network.parameters()), "cpu")
    try:
        with torch.no_grad(), trace:
            network(torch.zeros_like(picture, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return trace.pairs(lambda name: type(network.get_submodule(name)) in _NORMS)


class _Trace(TorchFunctionMode):
    """Which tensor came out of which layer, and how many operations took it."""

    def __init__(self) -> None:
        super().__init__()
        self._uses: Counter[int] = Counter()
        self._seen: list[Tensor] = []  # kept, so that no other tensor gets the id of one
        self._calls: list[tuple[str, int, int]] = []  # module, ids of what it takes and gives

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # not: a shape
            taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self._uses.update(map(id, taken))
            self._seen += taken
        return result

    def note(self, name: str) -> Callable[..., None]:
        """A forward hook for the module `name`."""

        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            self._seen += [args[0], output]
            self._calls.append((name, id(args[0]), id(output)))

        return hook

    def pairs(self, is_norm: Callable[[str], bool]) -> list[tuple[str, str]]:
        times = Counter(name for name, _, _ in self._calls)
        givers = {given: name for name, _, given in self._calls if not is_norm(name)}
        return [
            (givers[taken], name)
            for name, taken, _ in self._calls
            if is_norm(name)
            and taken in givers
            and self._uses[taken] == 1
            and times[name] == times[givers[taken]] == 1
        ]


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    weight, bias = cast(Tensor, layer.weight), cast("Tensor | None", layer.bias)
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = torch.ones_like(mean) if norm.weight is None else norm.weight
    shift = torch.zeros_like(mean) if norm.bias is None else norm.bias
    fuse = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    new_weight, new_bias = fuse(
        _exact(weight),
        None if bias is None else _exact(bias),
        _exact(mean),
        _exact(var),
        cast(float, norm.eps),
        _exact(cast(Tensor, scale)),
        _exact(cast(Tensor, shift)),
    )
    layer.weight = nn.Parameter(new_weight.to(weight.device, weight.dtype), requires_grad=False)
    layer.bias = nn.Parameter(new_bias.to(weight.device, weight.dtype), requires_grad=False)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()  # not every accelerator has float64
