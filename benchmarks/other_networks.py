"""Our networks beside others that users choose among: cost a picture, and how well it is used.

    python benchmarks/other_networks.py [--size 224] [--batch 8] [--rounds 5]

MobileNets of timm and torchvision, and ResNet-50, are other networks with other accuracies: their
times are no race. What can be compared is GFLOP/s, how much of the machine a network's layers make
use of. They are as they come (benchmarks/fused_networks.py has them by our kernels). Inference is
torch's (benchmarks/inference.py has the runtimes), training SGD with momentum; channels_last, the
allocator tuned for all, in turns in one process. Prints a table and writes
benchmarks/results/other_networks.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from fma_peak import FmaPeak
from peers import from_timm, from_torchvision, our, seconds_of_steps
from record import add_out, write
from torch import nn
from turns import in_turns, summary

from xception import tune_allocator
from xception.models import summarize, totals

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ours xception": our("xception"),
    "ours xception41": our("xception41"),
    "timm legacy_xception": from_timm("legacy_xception"),
    "timm mobilenetv2_100": from_timm("mobilenetv2_100"),
    "timm mobilenetv3_large_100": from_timm("mobilenetv3_large_100"),
    "torchvision mobilenet_v2": from_torchvision("mobilenet_v2"),
    "torchvision mobilenet_v3_large": from_torchvision("mobilenet_v3_large"),
    "torchvision resnet50": from_torchvision("resnet50"),
}


def answering(model: nn.Module, shape: tuple[int, ...]) -> Callable[[], Any]:
    """A forward pass in eval mode."""
    x = torch.randn(shape).to(memory_format=torch.channels_last)

    def run() -> Any:
        model.eval()
        with torch.inference_mode():
            return model(x)

    return run


def training(model: nn.Module, shape: tuple[int, ...]) -> Callable[[], Any]:
    step = seconds_of_steps(model, shape, 1000)

    def run() -> float:
        model.train()
        return step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    add_out(parser, "other_networks")
    arguments = parser.parse_args()
    tune_allocator()
    shape = (arguments.batch, 3, arguments.size, arguments.size)
    calls: dict[str, Callable[[], Any]] = {}
    costs = {}
    for name in arguments.networks:
        model = NETWORKS[name]().to(memory_format=torch.channels_last)
        costs[name] = totals(summarize(model, arguments.size, in_channels=3))
        calls[f"{name}: inference"] = answering(model, shape)
        calls[f"{name}: training"] = training(model, shape)
    peak = FmaPeak(torch.get_num_threads())
    calls["peak"] = peak.measure
    seconds = in_turns(calls, arguments.rounds)
    rows = {}
    print(f"batch {arguments.batch}, {arguments.size}x{arguments.size}, ms a picture")
    for name, cost in costs.items():
        row: dict[str, Any] = {"parameters": cost.parameters, "macs": cost.macs}
        for work, passes in (("inference", 1), ("training", 3)):
            row[work] = summary(seconds[f"{name}: {work}"])
            gflop = passes * 2 * cost.macs * arguments.batch * 1e-9
            row[f"{work}_gflops"] = round(gflop / row[work]["median_s"], 1)
        rows[name] = row
        print(
            f"  {name:<36}{cost.macs * 1e-9:6.2f} GMAC"
            f"{1000 * row['inference']['median_s'] / arguments.batch:9.1f} inference"
            f"{1000 * row['training']['median_s'] / arguments.batch:9.1f} training"
            f"{row['training_gflops']:7.0f} GFLOP/s"
        )
    write(
        arguments.out,
        {
            "rounds": arguments.rounds,
            "batch": arguments.batch,
            "size": arguments.size,
            "fma_peak": peak.summary(),
            "networks": rows,
        },
    )


if __name__ == "__main__":
    main()
