"""Every separable layer of our networks, forward and backward: fused, and in plain torch.

    python benchmarks/layers.py [--rounds 15] [--threads 2]

The shapes are read off the networks. Both contenders do the same work: a normalization, ReLU where
the network has one, depthwise 3x3, pointwise, statistics of the result, and the gradients of all of
these. The fused one applies the normalization of the layer before while it reads, plain torch
(channels_last) that of the layer itself at its end. They are called in turns in one process whose
allocator is tuned. Prints a table and writes benchmarks/results/layers.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from fma_peak import FmaPeak
from peers import PlainSeparable
from record import add_out, write
from torch import Tensor, nn
from turns import in_turns, summary

from xception import create_model, tune_allocator
from xception.models import Classifier
from xception.models.meta_twin import meta_picture, meta_twin
from xception.models.separable_unit import SeparableUnit
from xception.nn import normalized
from xception.ops import separable_unit

NETWORKS = {  # pixels, pictures
    "xception": (299, 8),
    "xception_small": (32, 128),
    "xception_tiny": (32, 128),
    "mini_xception": (64, 128),
}
BAR = 0.97  # plain / fused: no shape is to fall below


@dataclass(frozen=True)
class Shape:
    """What tells one separable layer from another, for its cost."""

    inputs: int  # channels
    outputs: int
    height: int  # of what comes in, and with stride 1 and padding of what comes out
    width: int
    relu: bool
    batch: int

    def gflop(self) -> float:
        """Forward and backward, a multiply-add counted twice; nothing for the small rest."""
        macs = self.inputs * 9 + self.inputs * self.outputs
        return 3 * 2 * macs * self.height * self.width * self.batch * 1e-9


def shapes_of(model: nn.Module, size: int, batch: int) -> dict[Shape, list[str]]:
    """The distinct shapes of its separable layers, in the network's order, with their names."""
    twin = meta_twin(model)
    activated = {unit for unit, has_relu in _units(twin) if has_relu}
    found: dict[Shape, list[str]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(unit: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            channels, height, width = inputs[0].shape[1:]
            shape = Shape(channels, output.shape[1], height, width, unit in activated, batch)
            found.setdefault(shape, []).append(name)

        return hook

    for name, module in twin.named_modules():
        if isinstance(module, SeparableUnit):
            module.register_forward_hook(note(name))
    with torch.no_grad():
        twin(meta_picture(model, size))
    return found


def _units(model: nn.Module) -> Iterator[tuple[nn.Module, bool]]:
    """Separable units, and whether a ReLU stands before: their own, or one of the chain."""
    for chain in model.modules():
        before: nn.Module | None = None
        for part in chain.children():
            if isinstance(part, SeparableUnit):
                yield part, isinstance(before, nn.ReLU) or isinstance(part.act, nn.ReLU)
            before = part


def plain_step(shape: Shape) -> Callable[[], None]:
    layer = PlainSeparable(shape.inputs, shape.outputs, relu=shape.relu)
    layer = layer.to(memory_format=torch.channels_last)
    x, gradient = picture_tensor(shape, shape.inputs), picture_tensor(shape, shape.outputs)
    x.requires_grad_()
    weights = [x, *layer.parameters()]

    def step() -> None:
        torch.autograd.grad(layer(x), weights, gradient)

    return step


def fused_step(shape: Shape) -> Callable[[], None]:
    layer = PlainSeparable(shape.inputs, shape.outputs)
    x, gradient = picture_tensor(shape, shape.inputs), picture_tensor(shape, shape.outputs)
    scale, shift = torch.rand(shape.inputs) + 0.5, torch.randn(shape.inputs) * 0.1
    for tensor in (x, scale, shift):
        tensor.requires_grad_()
    vectors = [torch.randn(shape.outputs) * 1e-3 for _ in range(2)]
    weights = [x, scale, shift, *layer.parameters()]

    def step() -> None:
        raw, mean, var = separable_unit(
            x,
            scale,
            shift,
            layer.depthwise.weight,
            layer.pointwise.weight,
            activation="relu" if shape.relu else "none",
            padding=1,
        )
        y = normalized(layer.norm, raw, mean, var)
        results = cast("tuple[Tensor, ...]", (y.raw, y.scale, y.shift))
        torch.autograd.grad(results, weights, [gradient, *vectors])

    return step


def picture_tensor(shape: Shape, channels: int) -> Tensor:
    """Random, channels-last, as a layer meets it."""
    x = torch.randn(shape.batch, channels, shape.height, shape.width)
    return x.to(memory_format=torch.channels_last)


def measure(shape: Shape, rounds: int, peak: FmaPeak) -> dict[str, Any]:
    """The figures of one shape."""
    now = peak.measure()
    seconds = in_turns({"fused": fused_step(shape), "plain": plain_step(shape)}, rounds)
    now = (now + peak.measure()) / 2
    fused, plain = summary(seconds["fused"]), summary(seconds["plain"])
    speed = {
        name: shape.gflop() / row["median_s"] for name, row in (("fused", fused), ("plain", plain))
    }
    return {
        "fused": fused,
        "plain": plain,
        "gflops_fused": round(speed["fused"], 1),
        "gflops_plain": round(speed["plain"], 1),
        "fma_peak_gflops": round(now, 1),
        "share_of_peak_fused": round(speed["fused"] / now, 3),
        "share_of_peak_plain": round(speed["plain"] / now, 3),
        "plain_to_fused": round(plain["median_s"] / fused["median_s"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batch", type=int, help="pictures; by default 8 or 128, by the network")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    add_out(parser, "layers")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tune_allocator()
    torch.manual_seed(0)
    peak = FmaPeak(arguments.threads)
    rows: list[dict[str, Any]] = []
    for network in arguments.networks:
        size, pictures = NETWORKS[network]
        pictures = arguments.batch or pictures
        print(f"\n{network}, {size}x{size}, batch {pictures}: ms of forward and backward")
        model = cast(Classifier, create_model(network))
        for shape, names in shapes_of(model, size, pictures).items():
            row = {
                "network": network,
                "layers": names,
                **vars(shape),
                "gflop": round(shape.gflop(), 3),
                **measure(shape, arguments.rounds, peak),
            }
            rows.append(row)
            print(
                f"  {shape.inputs:>4} -> {shape.outputs:>4} at {shape.height:>3}"
                f"{1000 * row['fused']['median_s']:9.2f} fused"
                f"{1000 * row['plain']['median_s']:9.2f} plain {row['plain_to_fused']:6.2f}x"
                f"{100 * row['share_of_peak_fused']:6.0f}% of peak",
                flush=True,
            )
    slower = [row for row in rows if row["plain_to_fused"] < BAR]
    for row in slower:
        print(f"below {BAR}: {row['network']}, {row['layers'][0]}: {row['plain_to_fused']:.2f}")
    print(f"{len(slower)} of {len(rows)} shapes are slower fused (plain / fused below {BAR})")
    write(arguments.out, {"rounds": arguments.rounds, "fma_peak": peak.summary(), "layers": rows})


if __name__ == "__main__":
    main()
