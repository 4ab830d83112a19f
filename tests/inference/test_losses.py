"""Loss and accuracy alone, as training asks for them after each epoch."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xception.data.loader import evaluation_loader
from xception.data.samples import FileSamples
from xception.errors import DataError
from xception.inference import evaluate, evaluate_batches

ROWS = [[math.log(0.8), math.log(0.2)], [math.log(0.4), math.log(0.6)]]


def measured(model: Any, samples: Any, batch_size: int = 64) -> tuple[float, float]:
    return evaluate_batches(
        model, evaluation_loader(samples, model.preprocessing, batch_size).epoch()
    )


@pytest.mark.parametrize("batch_size", [1, 2])
def test_by_hand(table_classifier: Any, red_samples: Any, batch_size: int) -> None:
    model = table_classifier(ROWS).train()
    loss, accuracy = measured(model, red_samples([0, 0]), batch_size)
    assert loss == pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2, rel=1e-6)
    assert accuracy == 0.5
    assert model.training


def test_equals_the_whole_evaluation(table_classifier: Any, red_samples: Any) -> None:
    model = table_classifier(ROWS * 10)
    samples = red_samples([0, 1, 1, 0, 1] * 4)
    whole = evaluate(model, samples)
    loss, accuracy = measured(model, samples, 3)
    assert (loss, accuracy) == (pytest.approx(whole.loss), whole.top1)


def test_a_loader_is_used_again_and_again(table_classifier: Any, red_samples: Any) -> None:
    model = table_classifier(ROWS)
    loader = evaluation_loader(red_samples([0, 0]), model.preprocessing, 2, cache="ram")
    first = evaluate_batches(model, loader.epoch())
    assert evaluate_batches(model, loader.epoch()) == first


def test_nothing_readable(table_classifier: Any, tmp_path: Path) -> None:
    missing = str(tmp_path / "none.png")
    model = table_classifier(ROWS)
    skipped: list[tuple[str, str]] = []
    loader = evaluation_loader(FileSamples([0], [missing]), model.preprocessing, 2)
    with pytest.raises(DataError, match="no picture could be read"):
        evaluate_batches(model, loader.epoch(), skipped.extend)
    assert [name for name, _ in skipped] == [missing]


def test_loss_that_is_not_a_number_is_handed_on(table_classifier: Any, red_samples: Any) -> None:
    loss, _ = measured(table_classifier([[math.nan, 0.0]]), red_samples([0]))
    assert math.isnan(loss)


def test_torchmetrics_is_not_imported() -> None:
    program = (
        "import sys, xception.inference.losses, xception.inference.evaluation\n"
        "print({'torchmetrics', 'torchvision'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "set()"
