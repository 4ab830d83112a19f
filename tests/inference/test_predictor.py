"""Pictures of every kind go in, one prediction each comes out, in order."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xception.data.decode import decode_picture
from xception.data.picture_tensor import preprocess
from xception.errors import ModelFileError, PictureError, UsageError
from xception.inference import Prediction, Predictor
from xception.models import Classifier, Preprocessing, create_model
from xception.weights import save

Red = Callable[[int], np.ndarray]


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def rows(count: int, classes: int = 3) -> list[list[float]]:
    """Picture i is of class i % classes, with probability 1 / (1 + 2 / e^2)."""
    return [[2.0 if c == i % classes else 0.0 for c in range(classes)] for i in range(count)]


def test_any_mixture_of_sources_in_order(
    table_classifier: Any, red_picture: Red, tmp_path: Path
) -> None:
    (tmp_path / "four.png").write_bytes(png(red_picture(4)))
    (tmp_path / "text.jpg").write_text("no picture")
    with (tmp_path / "four.png").open("rb") as opened:
        pictures = [
            red_picture(0),
            png(red_picture(1)),
            Image.fromarray(red_picture(2)),
            tmp_path / "missing.png",
            io.BytesIO(png(red_picture(3))),
            str(tmp_path / "four.png"),
            tmp_path / "text.jpg",
            opened,
            None,
        ]
        predictor = Predictor(table_classifier(rows(5), ["a", "b", "c"]), batch_size=2)
        predictions = predictor.predict(pictures)
    assert [p.labels[:1] for p in predictions] == [
        ["a"], ["b"], ["c"], [], ["a"], ["b"], [], ["b"], [],
    ]  # fmt: skip
    assert [p.name for p in predictions] == [
        "picture 1",
        "picture 2",
        "picture 3",
        str(tmp_path / "missing.png"),
        "picture 5",
        str(tmp_path / "four.png"),
        str(tmp_path / "text.jpg"),
        str(tmp_path / "four.png"),
        "picture 9",
    ]
    assert predictions[3].error == "does not exist"
    assert "it holds text" in str(predictions[6].error)
    assert "NoneType" in str(predictions[8].error)
    assert predictions[0].error is None


def test_probabilities_by_hand_and_top_k(table_classifier: Any, red_picture: Red) -> None:
    logits = [[math.log(0.1), math.log(0.6), math.log(0.3)]]
    predictor = Predictor(table_classifier(logits))
    (best,) = predictor.predict([red_picture(0)], top_k=2)
    assert best.labels == ["class 1", "class 2"]
    assert best.probabilities == pytest.approx([0.6, 0.3])
    (all_of_them,) = predictor.predict([red_picture(0)], top_k=100)
    assert len(all_of_them.labels) == 3
    assert sum(all_of_them.probabilities) == pytest.approx(1.0)
    assert predictor.probabilities([red_picture(0)] * 3).shape == (3, 3)
    for wrong in (0, -1):
        with pytest.raises(UsageError, match="top_k"):
            predictor.predict_iter([], top_k=wrong)


def test_batch_size_does_not_change_the_numbers(tiny: Classifier) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (40, 50 + i, 3), dtype=np.uint8) for i in range(7)]
    one = Predictor(tiny, batch_size=1).probabilities(pictures)
    three = Predictor(tiny, batch_size=3).probabilities(pictures)
    assert torch.allclose(one, three, atol=1e-6)
    x = torch.stack([preprocess(decode_picture(p), tiny.preprocessing) for p in pictures])
    with torch.no_grad():
        assert torch.allclose(tiny(x).softmax(1), three, atol=1e-6)


def test_grey_networks_get_grey_pictures() -> None:
    model = create_model("xception_tiny", num_classes=2, in_channels=1)
    assert Predictor(model).probabilities(np.zeros((30, 30, 3), np.uint8)).shape == (1, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_networks_of_other_precision(dtype: torch.dtype) -> None:
    model = create_model("xception_tiny", num_classes=2).to(dtype)
    probabilities = Predictor(model).probabilities(np.zeros((30, 30, 3), np.uint8))
    assert probabilities.dtype == torch.float32
    assert float(probabilities.sum()) == pytest.approx(1.0)


def test_one_picture_by_itself_counts_as_a_list_of_one(
    table_classifier: Any, red_picture: Red, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(png(red_picture(1)))
    predictor = Predictor(table_classifier(rows(2)))
    for single in (
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        png(red_picture(1)),
        red_picture(1),
        Image.open(tmp_path / "a.png"),
        io.BytesIO(png(red_picture(1))),
    ):
        (prediction,) = predictor.predict(single)
        assert prediction.labels[0] == "class 1"
    stack = np.stack([red_picture(0), red_picture(1)])
    assert [p.labels[0] for p in predictor.predict(stack)] == ["class 0", "class 1"]


def test_nothing_gives_nothing(table_classifier: Any, tmp_path: Path) -> None:
    predictor = Predictor(table_classifier(rows(3)))
    assert predictor.predict([]) == []
    assert predictor.probabilities([]).shape == (0, 3)
    only_bad = predictor.predict([tmp_path / "a", tmp_path / "b"])
    assert [p.error for p in only_bad] == ["does not exist"] * 2
    assert predictor.model.seen == []  # type: ignore[union-attr]


def test_probabilities_stop_at_an_unreadable_picture(table_classifier: Any, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="does not exist"):
        Predictor(table_classifier(rows(3))).probabilities([tmp_path / "nothing.png"])


def test_numbers_that_overflow_are_an_error_of_that_picture(
    table_classifier: Any, red_picture: Red, tmp_path: Path
) -> None:
    model = table_classifier([[1.0, 0.0], [math.nan, 0.0], [math.inf, 0.0], [0.0, 1.0]])
    pictures = [red_picture(0), tmp_path / "no", red_picture(1), red_picture(2), red_picture(3)]
    predictions = Predictor(model).predict(pictures)
    assert [p.labels[:1] for p in predictions] == [["class 0"], [], [], [], ["class 1"]]
    assert predictions[1].error == "does not exist"
    assert "no finite numbers" in str(predictions[2].error)
    assert "no finite numbers" in str(predictions[3].error)


def test_an_endless_stream_is_read_only_a_little_ahead(
    table_classifier: Any, red_picture: Red
) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield red_picture(taken % 2)

    before = threading.active_count()
    predictions = Predictor(table_classifier(rows(2)), batch_size=4).predict_iter(endless())
    for count in range(1, 50):
        assert next(predictions).name == f"picture {count}"
        assert taken <= count + 3 * 4
    predictions.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_an_error_of_the_source_comes_through(table_classifier: Any, red_picture: Red) -> None:
    def breaking() -> Iterator[np.ndarray]:
        yield red_picture(0)
        raise RuntimeError("the list ended badly")

    with pytest.raises(RuntimeError, match="ended badly"):
        Predictor(table_classifier(rows(2))).predict(breaking())


def test_the_modes_of_the_model_come_back(table_classifier: Any, red_picture: Red) -> None:
    model = table_classifier(rows(2)).train()
    model.head.eval()
    result = Predictor(model).probabilities([red_picture(0)])
    assert model.training and not model.head.training and torch.is_grad_enabled()
    result += 1.0  # an ordinary tensor, not one of inference mode


def test_models_from_files_and_run_folders(tiny: Classifier, tmp_path: Path) -> None:
    save(tiny, tmp_path / "model.safetensors")
    picture = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    expected = Predictor(tiny).probabilities(picture)
    for source in (tmp_path, str(tmp_path / "model.safetensors")):
        actual = Predictor(source, device="cpu").probabilities(picture)
        assert torch.allclose(actual, expected, atol=1e-6)
    with pytest.raises(ModelFileError, match="does not exist"):
        Predictor(tmp_path / "none")


def test_models_that_cannot_predict() -> None:
    four = create_model("xception_tiny", in_channels=4)
    headless = create_model("xception_tiny", num_classes=0)
    small = create_model("xception_tiny")
    small.preprocessing = Preprocessing(size=(8, 8))
    for model, finding in (
        (four, "takes 4 channels"),
        (headless, "has no classes"),
        (small, "at least 16x16"),
        (torch.nn.Linear(1, 1), "a Linear cannot classify"),
    ):
        with pytest.raises(UsageError, match=finding):
            Predictor(model)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="batch_size"):
        Predictor(create_model("xception_tiny"), batch_size=0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="device 'abacus'"):
        Predictor(create_model("xception_tiny"), device="abacus")  # type: ignore[arg-type]


def test_a_name_that_is_no_text_can_be_printed(table_classifier: Any, tmp_path: Path) -> None:
    (prediction,) = Predictor(table_classifier(rows(2))).predict([f"{tmp_path}/\udcff.png"])
    prediction.name.encode("utf-8")
    assert isinstance(prediction, Prediction)


def test_predicting_imports_nothing_slow() -> None:
    program = (
        "import sys, xception.inference.predictor\n"
        "slow = {'torchvision', 'torchmetrics', 'matplotlib', 'pandas', 'pyarrow', 'accelerate'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "[]"
