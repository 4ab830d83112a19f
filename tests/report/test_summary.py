"""The words and figures of the page."""

from __future__ import annotations

import numpy as np
import pytest

from xception.report.reading import ClassScore, read_run
from xception.report.summary import (
    duration,
    facts,
    headline,
    percent,
    plural,
    top_confusions,
    weakest_first,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (8.94, "8.9 s"),
        (59.7, "1 min 00 s"),
        (89, "1 min 29 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (86_395, "1 d 0 h"),
        (273_600, "3 d 4 h"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_percent_and_plural():
    assert percent(0.9143) == "91.4%"
    assert percent(None) == percent(float("nan")) == "–"  # noqa: RUF001
    assert plural(1, "epoch") == "1 epoch"
    assert plural(1200, "epoch") == "1,200 epochs"


def test_headline_has_as_many_digits_as_the_sample_supports(make_run, make_evaluation):
    few = headline(read_run(make_run("few", evaluation=make_evaluation(["a", "b"]))))
    assert (few.value, few.error) == ("90.0%", "± 3.0 points")
    many = make_evaluation(["a", "b"], each=10_000)
    result = headline(read_run(make_run("many", evaluation=many)))
    assert (result.value, result.error) == ("90.00%", "± 0.21 points")


def test_headline_of_a_perfect_score_is_not_certain(make_run, make_evaluation):
    evaluation = make_evaluation(["a", "b"]) | {"top1": 1.0}
    result = headline(read_run(make_run(evaluation=evaluation)))
    assert result.error == "± 0.0 points"
    assert "the 95% interval is 96.3% to 100.0%" in result.detail


def test_headline_warns_of_training_pictures(make_run, make_evaluation):
    evaluation = make_evaluation(["a", "b"]) | {"split": "train"}
    result = headline(read_run(make_run(evaluation=evaluation)))
    assert "100 training pictures" in result.sentence
    assert "new ones will do worse" in result.detail


def test_headline_without_evaluation_is_the_best_epoch(make_run):
    result = headline(read_run(make_run(epochs=4)))
    assert result.error == "on validation pictures"
    assert "at epoch 4 of the 4" in result.sentence


def test_facts_leave_out_what_is_unknown(make_run):
    named = dict(facts(read_run(make_run(epochs=2, recipe={"epochs": 9}))))
    assert named["Training"] == "2 of 9 epochs in 18 s"
    assert named["Device"] == "cpu, 2 threads"
    assert "Top-5 accuracy" not in named
    assert "Started" not in named


def test_top_confusions():
    confusion = np.array([[8.0, 2.0, 0.0], [0.0, 10.0, 0.0], [5.0, 1.0, 14.0]])
    found = top_confusions(confusion, ["a", "b", "c"], 2)
    assert [(c.label, c.prediction, c.count, c.share) for c in found] == [
        ("c", "a", "5", "25%"),
        ("a", "b", "2", "20%"),
    ]
    assert top_confusions(np.eye(3), ["a", "b", "c"], 5) == []


def test_weakest_first_puts_the_unknown_last():
    scores = [ClassScore(n, 1, None, None, f1, None) for n, f1 in [("a", None), ("b", 0.9)]]
    scores += [ClassScore("c", 1, None, None, None, None), ClassScore("d", 1, None, None, 0.1, 0.1)]
    assert [score.name for score in weakest_first(scores)] == ["d", "b", "a", "c"]
