"""The measures of an evaluation against numbers worked out by hand."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xception.data.samples import ArraySamples, DataSource, FileSamples
from xception.errors import DataError, UsageError, XceptionError
from xception.inference import evaluate
from xception.models import Classifier, create_model
from xception.weights import save

Samples = Callable[[Sequence[int]], ArraySamples]


def logs(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


# Four pictures of the classes a, a, b, b (none of c); the second and the fourth are named wrongly.
ROWS = [logs(0.7, 0.2, 0.1), logs(0.3, 0.6, 0.1), logs(0.1, 0.8, 0.1), logs(0.9, 0.05, 0.05)]
LABELS = [0, 0, 1, 1]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_all_measures_by_hand(table_classifier: Any, red_samples: Samples, batch_size: int) -> None:
    model = table_classifier(ROWS, ["a", "b", "c"])
    result = evaluate(model, red_samples(LABELS), batch_size=batch_size)
    assert sum(model.seen) == 4
    assert (result.split, result.model, result.count) == ("test", "", 4)
    assert result.classes == ["a", "b", "c"]
    assert result.top1 == 0.5
    assert result.top1_standard_error == pytest.approx(0.25)
    assert result.top5 is None
    expected_loss = -(math.log(0.7) + math.log(0.3) + math.log(0.8) + math.log(0.05)) / 4
    assert result.loss == pytest.approx(expected_loss, rel=1e-6)
    assert result.confusion == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    a, b, c = result.per_class
    assert (a.name, a.count, a.precision, a.recall, a.f1, a.accuracy) == (
        "a",
        2,
        0.5,
        0.5,
        0.5,
        0.5,
    )
    assert (b.count, b.precision) == (2, 0.5)
    assert (c.count, c.precision, c.recall, c.f1, c.accuracy) == (0, None, None, None, None)
    # bins: 0.6 wrong (9), 0.7 right (10), 0.8 right (12), 0.9 wrong (13)
    assert [(r.confidence, r.accuracy, r.count) for r in result.reliability] == [
        (pytest.approx(0.6), 0.0, 1),
        (pytest.approx(0.7), 1.0, 1),
        (pytest.approx(0.8), 1.0, 1),
        (pytest.approx(0.9), 0.0, 1),
    ]
    assert result.calibration_error == pytest.approx((0.6 + 0.3 + 0.2 + 0.9) / 4, abs=1e-6)
    assert [m.name for m in result.mistakes] == ["red/3", "red/1"]
    worst = result.mistakes[0]
    assert (worst.label, worst.prediction) == ("b", "a")
    assert (worst.probability, worst.label_probability) == (0.9, 0.05)
    assert result.skipped == []


def test_precision_recall_and_f1_of_unequal_classes(
    table_classifier: Any, red_samples: Samples
) -> None:
    predicted, labels = [0, 0, 0, 1, 1], [0, 0, 1, 1, 0]
    rows = [[3.0 if c == p else 0.0 for c in range(2)] for p in predicted]
    a, b = evaluate(table_classifier(rows), red_samples(labels)).per_class
    assert a.precision == pytest.approx(2 / 3, abs=1e-6)
    assert a.recall == pytest.approx(2 / 3, abs=1e-6)
    assert (b.precision, b.recall, b.f1) == (0.5, 0.5, 0.5)


def test_top5_counts_labels_among_the_five_best(
    table_classifier: Any, red_samples: Samples
) -> None:
    rows = [[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]] * 4
    result = evaluate(table_classifier(rows), red_samples([0, 4, 5, 5]))
    assert (result.top1, result.top5) == (0.25, 0.5)
    assert result.classes[5] == "class 5"


def test_certain_predictions_share_the_last_bin(
    table_classifier: Any, red_samples: Samples
) -> None:
    rows = [[200.0, 0.0], [200.0, 0.0], logs(0.95, 0.05)]  # float32 makes the first two exactly 1
    result = evaluate(table_classifier(rows), red_samples([0, 1, 0]))
    (only,) = result.reliability
    assert only.count == 3
    assert only.confidence == pytest.approx(2.95 / 3, abs=1e-6)
    assert result.calibration_error == pytest.approx(2.95 / 3 - 2 / 3, abs=1e-6)
    assert result.mistakes[0].probability == 1.0


def test_calibration_error_is_what_the_reliability_bins_say(
    table_classifier: Any, red_samples: Samples
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = (torch.randn(200, 4, generator=generator) * 2).tolist()
    labels = torch.randint(0, 4, (200,), generator=generator).tolist()
    result = evaluate(table_classifier(rows), red_samples(labels), mistakes=7)
    gaps = sum(abs(r.accuracy - r.confidence) * r.count for r in result.reliability) / 200
    assert result.calibration_error == pytest.approx(gaps, abs=1e-5)
    assert sum(r.count for r in result.reliability) == 200
    wrong = [(max(r), i) for i, r in enumerate(torch.tensor(rows).softmax(1).tolist())
             if r.index(max(r)) != labels[i]]  # fmt: skip
    wrong.sort(key=lambda pair: (-pair[0], pair[1]))
    assert [m.name for m in result.mistakes] == [f"red/{i}" for _, i in wrong[:7]]


def test_to_dict_is_the_json_of_a_run_folder(table_classifier: Any, red_samples: Samples) -> None:
    model = table_classifier(ROWS, ["a", "b", "c"])
    result = json.loads(json.dumps(evaluate(model, red_samples(LABELS)).to_dict(), allow_nan=False))
    assert set(result) == {
        "split", "model", "count", "classes", "top1", "top1_standard_error", "top5", "loss",
        "calibration_error", "confusion", "per_class", "reliability", "mistakes", "skipped",
    }  # fmt: skip
    assert set(result["per_class"][0]) == {
        "name", "count", "precision", "recall", "f1", "accuracy",
    }  # fmt: skip
    assert set(result["reliability"][0]) == {"confidence", "accuracy", "count"}
    assert set(result["mistakes"][0]) == {
        "name", "label", "prediction", "probability", "label_probability", "thumbnail",
    }  # fmt: skip


def test_thumbnails_are_small_png_pictures(table_classifier: Any) -> None:
    wide = np.zeros((40, 400, 3), dtype=np.uint8)
    samples = ArraySamples(np.stack([wide, wide]), [1, 1], ["x", "y"])
    result = evaluate(table_classifier([[1.0, 0.0]]), samples, mistakes=1)
    (mistake,) = result.mistakes
    assert mistake.thumbnail is not None
    kind, _, content = mistake.thumbnail.partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert (picture.format, picture.size) == ("PNG", (96, 10))


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_pictures_are_listed_and_the_rest_measured(
    table_classifier: Any, tmp_path: Path, workers: int
) -> None:
    names = []
    for i in range(5):
        names.append(str(tmp_path / f"{i}.png"))
        Image.new("RGB", (8, 8), (i, 0, 0)).save(names[-1])
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    (tmp_path / "3.png").unlink()
    done: list[tuple[int, int]] = []
    result = evaluate(
        table_classifier([[1.0, 0.0]] * 5),
        FileSamples([0, 0, 0, 0, 1], names),
        batch_size=2,
        workers=workers,
        progress=lambda *numbers: done.append(numbers),
    )
    assert result.count == 3
    assert result.confusion == [[2, 0], [1, 0]]
    assert [s.name for s in result.skipped] == [names[1], names[3]]
    assert result.skipped[1].reason == "does not exist"
    assert done == [(2, 5), (4, 5), (5, 5)]


def test_no_readable_picture(table_classifier: Any, tmp_path: Path) -> None:
    model = table_classifier([[1.0, 0.0]])
    with pytest.raises(DataError, match="can be read; the first: does not exist"):
        evaluate(model, FileSamples([0], [str(tmp_path / "none.png")]))
    with pytest.raises(DataError, match="no picture of split 'test'"):
        evaluate(model, FileSamples([], []))


def test_numbers_that_are_not_finite(table_classifier: Any, red_samples: Samples) -> None:
    model = table_classifier([[1.0, 0.0], [math.nan, 0.0]])
    with pytest.raises(XceptionError, match="red/1: the network gives no finite numbers"):
        evaluate(model, red_samples([0, 1]))


def test_a_model_of_one_class(table_classifier: Any, red_samples: Samples) -> None:
    with pytest.raises(UsageError, match="single class"):
        evaluate(table_classifier([[1.0]]), red_samples([0]))


# ---------------------------------------------------------------- classes of model and data


def source_of(samples: ArraySamples, classes: list[str], split: str = "test") -> DataSource:
    return DataSource(name="pictures/", classes=classes, splits={split: samples})


def test_classes_in_another_order_are_matched_by_name(
    table_classifier: Any, red_samples: Samples
) -> None:
    model = table_classifier(ROWS, ["a", "b", "c"])
    expected = evaluate(model, red_samples(LABELS))
    turned = source_of(red_samples([2, 2, 0, 0]), ["b", "c", "a"])
    assert evaluate(model, turned) == expected
    assert evaluate(model, turned.splits["test"], classes=["b", "c", "a"]) == expected


def test_data_may_lack_classes_and_name_others_that_have_no_picture(
    table_classifier: Any, red_samples: Samples
) -> None:
    model = table_classifier(ROWS, ["a", "b", "c"])
    result = evaluate(model, source_of(red_samples([1, 1, 2, 2]), ["0", "a", "b"]))
    assert result.confusion == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_data_of_other_classes_are_refused(table_classifier: Any, red_samples: Samples) -> None:
    model = table_classifier(ROWS, ["a", "b", "c"])
    with pytest.raises(DataError) as caught:
        evaluate(model, source_of(red_samples([0, 1, 2, 3]), ["a", "cat", "dog", "b"]))
    line = str(caught.value)
    assert "pictures/ has classes that the model does not know: 'cat', 'dog'" in line
    assert "'a', 'b', 'c'" in line and "\n" not in line
    nameless = table_classifier(ROWS)
    with pytest.raises(DataError, match="has 2 classes, the model 3"):
        evaluate(nameless, source_of(red_samples(LABELS), ["a", "b"]))
    assert evaluate(nameless, source_of(red_samples(LABELS), ["x", "y", "z"])).classes == list(
        "xyz"
    )
    for labels in ([0, 3], [-1, 0]):
        with pytest.raises(DataError, match="there are 3 classes"):
            evaluate(nameless, red_samples(labels))


def test_the_split_that_is_measured(table_classifier: Any, red_samples: Samples) -> None:
    model = table_classifier(ROWS, ["a", "b", "c"])
    source = DataSource(
        name="pictures/",
        classes=["a", "b", "c"],
        splits={"train": red_samples([0]), "val": red_samples([0, 0])},
    )
    assert evaluate(model, source).split == "val"
    assert evaluate(model, source, split="train").count == 1
    with pytest.raises(DataError, match="no split 'test'"):
        evaluate(model, source, split="test")


def test_a_model_file_and_the_mode_of_a_model(tmp_path: Path, red_samples: Samples) -> None:
    model = create_model("xception_tiny", num_classes=3)
    assert isinstance(model, Classifier)
    save(model, tmp_path / "model.safetensors")
    result = evaluate(model, red_samples(LABELS))
    assert model.training
    loaded = evaluate(str(tmp_path), red_samples(LABELS), device="cpu")
    assert loaded.model == str(tmp_path)
    assert loaded.loss == pytest.approx(result.loss, rel=1e-5)
