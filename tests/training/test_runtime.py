from __future__ import annotations

import pytest
import torch

from xception.errors import RecipeError, UsageError
from xception.training import Recipe
from xception.training.runtime import Runtime, missing_trackers


def test_what_a_cpu_cannot_do_is_refused() -> None:
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        Runtime(Recipe(device="cpu", precision="fp16"))
    with pytest.raises(UsageError, match="cannot be used here"):
        Runtime(Recipe(device="gpu"))


def test_runs_of_other_precision_may_follow_each_other() -> None:
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        runtime = Runtime(Recipe(device="cpu", precision=precision))  # type: ignore[arg-type]
        with runtime.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_trackers_are_known_or_named() -> None:
    assert missing_trackers(Recipe(trackers=())) == []
    assert missing_trackers(Recipe(trackers=("tensorboard",))) == []
    with pytest.raises(UsageError, match="'tensorbord' is unknown"):
        missing_trackers(Recipe(trackers=("tensorbord",)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fp16_scaler_is_part_of_the_state() -> None:
    runtime = Runtime(Recipe(precision="fp16"))
    assert runtime.scaler is not None
    assert runtime.scaler.state_dict()["scale"] > 1
