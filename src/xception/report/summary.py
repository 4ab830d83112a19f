"""The report's words and figures: from a run's numbers to what stands in the page."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import numpy as np

from xception.report.plots import wilson_interval
from xception.report.reading import ClassScore, Evaluation, Run

MISSING = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Headline:
    """The run's result: `value` large, `error` beside it, then a sentence and what limits it."""

    value: str
    error: str
    sentence: str
    detail: str


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often pictures of class `label` were taken for `prediction`."""

    label: str
    prediction: str
    count: str
    share: str  # of the pictures of `label`


def percent(value: float | None, decimals: int = 1) -> str:
    """0.914 as "91.4%"."""
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.{decimals}f}%"


def decimal(value: float | None, decimals: int = 3) -> str:
    """A plain number with fixed decimals."""
    return MISSING if value is None or math.isnan(value) else f"{value:.{decimals}f}"


def duration(seconds: float) -> str:
    """Seconds as "42 s", "1 min 29 s", "2 h 05 min" or "3 d 4 h"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def plural(count: int, word: str) -> str:
    """`count` with thousands separators and the word in its number."""
    return f"{count:,} {word if count == 1 else word + 's'}"


def _known(run: Run, key: str) -> list[float]:
    return [row[key] for row in run.metrics if math.isfinite(row[key])]


def headline(run: Run) -> Headline:
    """The evaluation's accuracy; where there is none, the best of the curves, said as such."""
    evaluation = run.evaluation
    trained = f"after {plural(len(run.metrics), 'epoch')} of training"
    if evaluation is not None and evaluation.top1 is not None:
        return _evaluated(evaluation, run.recipe.get("model", "The model"), trained)
    unfinished = "There is no evaluation yet: the run was cut off, or has not been evaluated."
    for key, what in (("val_accuracy", "validation"), ("train_accuracy", "training")):
        rows = [row for row in run.metrics if math.isfinite(row[key])]
        if rows:
            best = max(rows, key=lambda row: row[key])
            caution = "" if what == "validation" else " It says little about new pictures."
            return Headline(
                value=percent(best[key]),
                error=f"on {what} pictures",
                sentence=f"The best {what} accuracy, at epoch {best['epoch']:.0f} of "
                f"the {len(run.metrics):,} that were finished.{caution}",
                detail=unfinished,
            )
    if run.metrics:
        sentence = f"No accuracy was recorded {trained}."
    else:
        sentence = "No epoch was finished, so there is nothing to show yet."
    return Headline(value=MISSING, error="", sentence=sentence, detail=unfinished)


def _evaluated(evaluation: Evaluation, model: str, trained: str) -> Headline:
    accuracy, n = evaluation.top1, evaluation.count
    assert accuracy is not None
    if n == 0 or not 0.0 <= accuracy <= 1.0:
        return Headline(percent(accuracy), "", f"Accuracy of {model} {trained}.", "")
    error = math.sqrt(accuracy * (1 - accuracy) / n)
    decimals = 2 if 0 < error < 0.003 else 1  # no more digits than the sample supports
    low, high = wilson_interval(accuracy, n)
    split = {"val": "validation", "train": "training"}.get(evaluation.split, evaluation.split)
    detail = (
        f"± is one standard error of {plural(n, 'picture')}; the 95% interval is "
        f"{percent(float(low), decimals)} to {percent(float(high), decimals)}."
    )
    if split == "training":
        detail += " The model was trained on these pictures: new ones will do worse."
    return Headline(
        value=percent(accuracy, decimals),
        error=f"± {100 * error:.{decimals}f} points",
        sentence=f"{model} named {round(accuracy * n):,} of {n:,} {split} pictures "
        f"correctly {trained}.",
        detail=detail,
    )


def facts(run: Run) -> list[tuple[str, str]]:
    """What stands beside the headline: (name, value) pairs, only those that are known."""
    recipe, environment, evaluation = run.recipe, run.environment, run.evaluation
    pairs = [("Model", recipe.get("model", "")), ("Data", recipe.get("data", ""))]
    if evaluation is not None:
        if evaluation.classes:
            pairs.append(("Classes", f"{len(evaluation.classes):,}"))
        if evaluation.top5 is not None:
            pairs.append(("Top-5 accuracy", percent(evaluation.top5)))
        if evaluation.loss is not None:
            pairs.append(("Loss", f"{evaluation.loss:.3f} nats per picture"))
        if evaluation.calibration_error is not None:
            points = f"{100 * evaluation.calibration_error:.1f} points"
            pairs.append(("Calibration error", points))
        if evaluation.model:
            pairs.append(("Weights", evaluation.model))
    pairs.append(("Training", _training(run)))
    speeds = _known(run, "images_per_second")
    if speeds:
        pairs.append(("Speed", f"{statistics.median(speeds):,.0f} images/s (median)"))
    device = environment.get("device", "")
    if device and environment.get("threads"):
        device += f", {environment['threads']} threads"
    pairs += [("Device", device), ("Started", environment.get("started", "").replace("T", " "))]
    return [(name, value) for name, value in pairs if value]


def _training(run: Run) -> str:
    planned = run.recipe.get("epochs", "")
    done = len(run.metrics)
    epochs = plural(done, "epoch")
    if planned.isdecimal() and len(planned) < 9 and int(planned) > done:
        epochs = f"{done:,} of {int(planned):,} epochs"
    seconds = sum(_known(run, "seconds"))
    return f"{epochs} in {duration(seconds)}" if seconds > 0 else epochs


def top_confusions(confusion: np.ndarray, classes: list[str], most: int) -> list[Confusion]:
    """The `most` frequent confusions, most frequent first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0.0)
    rows = confusion.sum(axis=1)
    flat = wrong.ravel()
    order = np.argsort(-flat, kind="stable")[:most]
    found = []
    for index in order[flat[order] > 0]:
        label, prediction = divmod(int(index), len(classes))
        share = float(flat[index] / rows[label])
        found.append(
            Confusion(classes[label], classes[prediction], f"{flat[index]:,.0f}", percent(share, 0))
        )
    return found


def weakest_first(scores: list[ClassScore]) -> list[ClassScore]:
    """By F1, lowest first; classes without one (no pictures) at the end."""
    return sorted(scores, key=lambda score: (score.f1 is None, score.f1))
