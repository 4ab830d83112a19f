"""Feature maps kept in half precision: the memory in use, and what it does to gradients.

    python benchmarks/saved_activations.py [--size 299] [--batch 8]

Memory is torch's own account of a training step of `xception`, one thread: what the forward pass
leaves, and the peak in backward, beyond what stood before (the weights). Gradients are those of
`xception_tiny` as it begins; how far all of them together are from float64's, relative, the mean of
several seeds; also by autocast, and within gradient checkpointing. Writes
benchmarks/results/saved_activations.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from record import add_out, write
from torch import Tensor, nn
from torch.nn import functional as F

import xception

Way = Callable[[], AbstractContextManager[Any]]
WAYS: dict[str, Way] = {
    "float32": nullcontext,
    "bfloat16 kept": lambda: xception.compress_saved_activations(torch.bfloat16),
    "float16 kept": lambda: xception.compress_saved_activations(torch.float16),
    "autocast, bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
}
KEPT = ("float32", "bfloat16 kept", "float16 kept")  # autocast is no matter of the kernels
SEEDS = 5


def pictures(batch: int, size: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 3, size, size, generator=generator)
    labels = torch.randint(classes, (batch,), generator=generator)
    return x.contiguous(memory_format=torch.channels_last), labels


def memory(batch: int, size: int) -> dict[str, dict[str, int]]:
    """Megabytes by torch's account."""
    from torch.profiler import ProfilerActivity, profile, record_function

    torch.manual_seed(0)
    model = xception.create_model("xception", num_classes=1000).train()
    model = model.to(memory_format=torch.channels_last)
    x, labels = pictures(batch, size, 1000)
    rows = {}
    for name in KEPT[:2]:
        model.zero_grad(set_to_none=True)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            with WAYS[name]():
                loss = F.cross_entropy(model(x), labels)
            with record_function("BACKWARD"):
                loss.backward()
        account = _account(found.profiler.kineto_results.events())
        rows[name] = account
        print(f"xception at {size}, batch {batch}, {name}: {account}", flush=True)
    return rows


def _account(events: Any) -> dict[str, int]:
    events = sorted(events, key=lambda e: e.start_ns())
    begins = next(e.start_ns() for e in events if e.name() == "BACKWARD")
    now = kept = peak = 0
    for event in events:
        if event.name() != "[memory]":
            continue
        now += event.nbytes()
        if event.start_ns() < begins:
            kept = now
        else:
            peak = max(peak, now)
    return {"after_forward_mb": round(kept / 1e6), "peak_in_backward_mb": round(peak / 1e6)}


def gradients(model: nn.Module, x: Tensor, labels: Tensor, way: Way) -> Tensor:
    """All of them, one behind the other, in float64."""
    model.zero_grad(set_to_none=True)
    with way():
        loss = F.cross_entropy(model(x).to(torch.promote_types(x.dtype, torch.float32)), labels)
    loss.backward()
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])


def errors() -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, list[float]]] = {}
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model = xception.create_model("xception_tiny", num_classes=10).train()
        model = model.to(memory_format=torch.channels_last)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        x, labels = pictures(64, 32, 10, seed)
        exact = gradients(model.double(), x.double(), labels, nullcontext)
        model.float().load_state_dict(state)
        for title, kernels, checkpointing, ways in (
            ("with the kernels", "auto", False, KEPT),
            ("without", "off", False, tuple(WAYS)),
            ("with the kernels, gradient checkpointing", "auto", True, KEPT),
        ):
            before = xception.set_kernels(kernels)
            model.set_grad_checkpointing(checkpointing)
            for way in ways:
                found = gradients(model, x, labels, WAYS[way])
                error = float((found - exact).norm() / exact.norm())
                rows.setdefault(title, {}).setdefault(way, []).append(error)
            xception.set_kernels(before)
    means = {
        title: {way: sum(values) / len(values) for way, values in row.items()}
        for title, row in rows.items()
    }
    for title, row in means.items():
        print(f"{title}: " + ", ".join(f"{way} {100 * e:.2f}%" for way, e in row.items()))
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=299)
    parser.add_argument("--batch", type=int, default=8)
    add_out(parser, "saved_activations")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    content = {
        "size": arguments.size,
        "batch": arguments.batch,
        "memory": memory(arguments.batch, arguments.size),
        "seeds": SEEDS,
        "gradient_errors": errors(),
    }
    write(arguments.out, content)


if __name__ == "__main__":
    main()
