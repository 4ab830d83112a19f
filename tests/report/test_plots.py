"""The figures: they draw for every size of data, without pyplot and without leaving a trace."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from xception.errors import DataError, XceptionError
from xception.report import confusion_png, plot_confusion, plot_curves, plot_reliability
from xception.report.plots import classes_per_cell, wilson_interval

NAN = float("nan")


def texts(figure: Figure) -> list[str]:
    figure.canvas.draw()
    found = figure.findobj(matplotlib.text.Text)
    return [text.get_text() for text in found if text.get_visible() and text.get_text()]


def test_curves_say_what_is_seen():
    metrics = [
        {"epoch": 1, "train_loss": 2.0, "val_loss": 1.5, "val_accuracy": 0.6, "lr": 0.1},
        {"epoch": 2, "train_loss": 1.0, "val_loss": 0.9, "val_accuracy": 0.8, "lr": 0.05},
        {"epoch": 3, "train_loss": 0.5, "val_loss": 1.1, "val_accuracy": 0.7, "lr": 0.0},
    ]
    figure = plot_curves(metrics)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [
        "Validation loss 1.100, lowest 0.900 at epoch 2",
        "Validation accuracy 70.0%, best 80.0% at epoch 2",
        "Learning rate, highest 0.1 at epoch 1",
    ]
    assert all(ax.get_xlabel() == "epochs finished" for ax in figure.axes)
    labels = [ax.get_ylabel() for ax in figure.axes]
    assert labels == ["loss (nats per picture)", "accuracy (%)", "learning rate"]


@pytest.mark.parametrize(
    "metrics",
    [
        [],
        [{"epoch": 1}],
        [{"epoch": 1, "train_loss": NAN, "val_loss": float("inf"), "lr": None}],
        [{"epoch": i, "train_loss": 1 / i, "train_accuracy": 1 - 1 / i} for i in range(1, 1001)],
    ],
)
def test_curves_draw_with_gaps(metrics):
    assert texts(plot_curves(metrics))


def test_unknown_panel():
    with pytest.raises(ValueError, match="speed"):
        plot_curves([], ["speed"])


@pytest.mark.parametrize("n", [1, 2, 3, 10, 20])
def test_few_classes_have_names_and_counts(n):
    drawn = texts(plot_confusion(np.eye(n) * 7, [f"name{i}" for i in range(n)]))
    assert drawn.count("name0") == 2  # at its row and its column
    assert drawn.count("7") >= n


def test_name_that_looks_like_a_formula_is_a_name():
    assert texts(plot_confusion([[3]], ["$\\frac{$"])).count("$\\frac{$") == 2


def test_labels_then_drop_out():
    middle = texts(plot_confusion(np.eye(40), [f"name{i}" for i in range(40)]))
    assert middle.count("name39") == 2
    many = texts(plot_confusion(np.eye(41), [f"name{i}" for i in range(41)]))
    assert not [text for text in many if text.startswith("name")]


def test_many_classes_share_cells_and_no_confusion_is_lost():
    matrix = np.eye(1000) * 50
    matrix[3, 900] = 1
    image = plot_confusion(matrix, ["x"] * 1000).axes[0].images[0].get_array()
    block = classes_per_cell(1000)
    assert image.shape == (250, 250, 4)
    assert image[3 // block, 900 // block, 3] > 0
    assert np.count_nonzero(image[..., 3]) == 251


def test_class_without_pictures_and_empty_matrix():
    assert texts(plot_confusion([[0, 0], [1, 3]], ["none", "some"]))
    assert texts(plot_confusion([[0]], ["none"]))


@pytest.mark.parametrize(
    ("matrix", "classes", "message"),
    [
        ([[1, 2]], ["a", "b"], "not a square table"),
        ([[1, 2], [3, NAN]], ["a", "b"], "not a square table"),
        ([[1, 2], [3, 4]], ["a"], "2 rows but 1 classes"),
    ],
)
def test_matrix_that_does_not_fit(matrix, classes, message):
    with pytest.raises(DataError, match=message):
        plot_confusion(matrix, classes)


def test_reliability_says_which_way():
    over = plot_reliability([{"confidence": 0.9, "accuracy": 0.8, "count": 10}])
    assert over.axes[0].get_title(loc="left") == "Surer than right, by 10.0 points on average"
    empty = plot_reliability([{"confidence": None, "accuracy": None, "count": 0}])
    assert empty.axes[0].get_title(loc="left") == "No predictions to compare"


def test_wilson_interval_of_a_known_case():
    low, high = wilson_interval(0.5, 100)  # 0.4038 to 0.5962: Agresti and Coull, 1998
    assert low == pytest.approx(0.4038, abs=1e-4)
    assert high == pytest.approx(0.5962, abs=1e-4)
    low, high = wilson_interval(1.0, 20)
    assert low < 0.9
    assert high == 1.0


def test_settings_of_a_user_neither_matter_nor_change():
    with matplotlib.rc_context({"text.usetex": True, "font.size": 40}):
        assert texts(plot_confusion([[3]], ["a"]))
        assert matplotlib.rcParams["text.usetex"]
        assert matplotlib.rcParams["font.size"] == 40


def test_confusion_png(tmp_path, make_evaluation):
    path = confusion_png(make_evaluation(["cat", "dog", "猫"]), tmp_path / "confusion.png")
    with Image.open(path) as picture:
        assert min(picture.size) > 500
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_confusion_png_errors(tmp_path, make_evaluation):
    with pytest.raises(DataError, match="not a square table"):
        confusion_png({"classes": ["a"]}, tmp_path / "a.png")
    with pytest.raises(XceptionError, match=r"a.png: cannot write the confusion matrix \(No such"):
        confusion_png(make_evaluation(["a", "b"]), tmp_path / "nowhere" / "a.png")


def test_importing_the_report_needs_neither_matplotlib_nor_pyplot():
    code = (
        "import sys, xception.report\n"
        "assert 'matplotlib' not in sys.modules\n"
        "xception.report.plot_confusion([[1]], ['a']).canvas.draw()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
