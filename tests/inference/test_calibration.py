"""What int8 is calibrated by, and how what it loses is counted."""

from __future__ import annotations

import math

import pytest
import torch

from xception.errors import UsageError
from xception.inference.calibration import accuracy_lost, read_calibration

X = torch.arange(5 * 3 * 4 * 6.0).reshape(5, 3, 4, 6)
Y = torch.tensor([0, 1, 2, 0, 1])


@pytest.mark.parametrize(
    "given",
    [
        X,
        X.double(),
        X.to(memory_format=torch.channels_last),
        list(X),
        [X[:3], X[3:3], X[3], X[4:]],
        (x for x in X),
    ],
)
def test_pictures_come_in_many_forms(given: object) -> None:
    data = read_calibration(given, 3, (4, 6))  # type: ignore[arg-type]
    assert torch.equal(torch.cat(data.batches), X) and data.labels is None
    assert data.count == 5


@pytest.mark.parametrize(
    "given",
    [
        [(X, Y)],
        [(X[:2], Y[:2]), (X[2:], Y[2:])],
        [[x, int(y)] for x, y in zip(X, Y)],
        [(X, Y.to(torch.uint8))],
    ],
)
def test_with_classes(given: object) -> None:
    data = read_calibration(given, 3, (4, 6))  # type: ignore[arg-type]
    assert torch.equal(torch.cat(data.batches), X)
    assert data.labels is not None and torch.equal(data.labels, Y)
    assert data.labels.dtype == torch.int64


def test_the_digest_tells_all_apart() -> None:
    given = [[X], [X[:2], X[2:]], [X + 1], [(X, Y)], [(X, Y.flip(0))], [X[:4]]]
    digests = [read_calibration(g, 3, (4, 6)).digest() for g in given]
    assert len(set(digests)) == len(given)
    assert digests[0] == read_calibration(list(X.split(5)), 3, (4, 6)).digest()


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ([], "has no picture"),
        (X[:0], "has no picture"),
        (X[:, :1], "pictures of 3x4x6, got 1x4x6"),
        (X[0, 0], r"got torch.float32 \(4, 6\)"),
        ([X.long()], "got torch.int64"),
        (["a.jpg"], "got a str"),
        ([(X, Y[:2])], r"one class, an integer, for each of 5 pictures, got torch.int64 \(2,\)"),
        ([(X, Y.float())], "an integer"),
        ([(X, Y), X], "classes for some of its pictures"),
    ],
)
def test_what_does_not_fit_is_refused(given: object, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        read_calibration(given, 3, (4, 6))  # type: ignore[arg-type]


def test_loss_with_classes_is_a_difference_of_accuracies() -> None:
    reference = torch.eye(4)
    outputs = reference[[0, 1, 3, 3]]  # the third picture changes its class
    assert accuracy_lost(reference, outputs, torch.tensor([0, 1, 2, 3])) == 0.25
    assert accuracy_lost(reference, outputs, torch.tensor([0, 1, 3, 3])) == -0.25
    assert accuracy_lost(reference, outputs, torch.tensor([0, 1, 1, 3])) == 0.0


def test_loss_without_classes_is_the_probability_that_is_lost() -> None:
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.2, 0.3]])
    outputs = torch.tensor([[1.0, 2.0, 0.0], [9.0, 0.0, 0.0]])
    assert accuracy_lost(probabilities.log(), outputs, None) == pytest.approx((0.6 - 0.3) / 2)


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 0])])
def test_numbers_that_are_not_finite_lose_everything(labels: torch.Tensor | None) -> None:
    outputs = torch.tensor([[1.0, 0.0], [1.0, math.nan]])
    assert accuracy_lost(torch.eye(2), outputs, labels) == 1.0
