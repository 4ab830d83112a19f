"""One of several processes, or the single one that they are compared with.

torchrun --nproc-per-node N several_worker.py FOLDER

Takes one step of each case that is for N processes (all of them, where there is one) and writes
FOLDER/CASE-INDEX.pt: gradients, weights after the step, running statistics, the loss summed over
all, right answers.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xception import create_model
from xception.processes import Processes
from xception.training import Recipe, gradients
from xception.training.losses import make_loss
from xception.training.runtime import Runtime
from xception.training.step import Step


@dataclass(frozen=True)
class Case:
    processes: int
    pictures: int
    fields: dict[str, Any] = field(default_factory=dict)
    evaluates: bool = False  # by running statistics
    freezes_stem: bool = False
    dtype: torch.dtype = torch.float64
    bucket_bytes: int = gradients.BUCKET_BYTES


COMMON = {"sync_bn": True}
CASES = {
    "common statistics, shares of 3 and 4": Case(2, 7, COMMON),
    "common statistics, an empty share": Case(4, 3, COMMON),
    "common statistics, many buckets": Case(2, 5, COMMON, bucket_bytes=20_000),
    "the same in float32": Case(2, 5, COMMON, bucket_bytes=20_000, dtype=torch.float32),
    "an empty share in float32": Case(4, 3, COMMON, bucket_bytes=20_000, dtype=torch.float32),
    "checkpointed": Case(2, 5, {**COMMON, "checkpoint_gradients": True}, bucket_bytes=20_000),
    "weighted": Case(2, 7, {**COMMON, "class_weights": "balanced", "label_smoothing": 0.1}),
    "frozen": Case(2, 7, evaluates=True),
    "frozen, four": Case(4, 9, evaluates=True),
    "frozen, in parts": Case(2, 11, {"accumulate": 2}, evaluates=True),
    "clipped": Case(2, 8, {"clip_norm": 0.01}, evaluates=True),
    "some weights frozen": Case(2, 6, COMMON, freezes_stem=True),
    "a share of one counts nothing": Case(4, 5),
}


def take(case: Case, processes: Processes) -> dict[str, torch.Tensor]:
    gradients.BUCKET_BYTES = case.bucket_bytes
    recipe = Recipe(device="cpu", batch_size=64, **case.fields)
    runtime = Runtime(recipe, processes)
    torch.manual_seed(0)
    model = create_model("xception_tiny", num_classes=5).to(case.dtype)
    for module in model.modules():  # statistics that matter
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
    model.set_grad_checkpointing(recipe.checkpoint_gradients)
    model = runtime.place(model).to(memory_format=torch.channels_last).train(not case.evaluates)
    if case.freezes_stem:
        model.stem.requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(case.pictures, 3, 32, 32, generator=generator, dtype=torch.float64)
    y = torch.randint(5, (case.pictures,), generator=generator)
    trained = [p for p in model.parameters() if p.requires_grad]
    step = Step(
        model, torch.optim.SGD(trained, lr=0.1), make_loss(recipe, y.tolist(), 5), recipe, runtime
    )
    own = processes.share(range(case.pictures))
    share = slice(own.start, own.start + step.usable(len(own)))
    pictures = int(processes.sums(share.stop - share.start)[0])
    losses, correct = step(x[share].to(case.dtype), y[share], pictures)
    return {
        "loss": processes.add_up(losses) / pictures,
        "correct": processes.add_up(correct),
        **{f"gradient {n}": p.grad for n, p in model.named_parameters() if p.grad is not None},
        **{f"state {n}": v for n, v in model.state_dict().items()},
    }


def main(folder: str) -> None:
    processes = Processes.started()
    processes.join(torch.device("cpu"))
    for name, case in CASES.items():
        if processes.count in (1, case.processes):
            path = Path(folder) / f"{name} {processes.count}-{processes.index}.pt"
            torch.save(take(case, processes), path)
    processes.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
