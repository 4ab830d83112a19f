"""How good a model is on labelled pictures: everything that evaluation.json holds.

    source = xception.open_data("pictures/")
    print(xception.evaluate("runs/NAME", source).top1)

torchmetrics, which takes seconds to import, is imported only when `evaluate` is called.
"""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xception.data.loader import evaluation_loader
from xception.data.samples import DataSource, Samples
from xception.data.wording import path_text
from xception.errors import DataError, OtherProcessError, UsageError, XceptionError
from xception.inference.classes import match_classes
from xception.inference.network import check_classes, evaluating
from xception.inference.runner import AnyModel, Runner
from xception.inference.runtimes import Road, RuntimeChoice
from xception.inference.thumbnail import thumbnail
from xception.processes import Processes

BINS = 15  # of the reliability diagram and the calibration error (Guo et al. 2017)
TOP_K = 5
DIGITS = 6  # decimals of ratios; torchmetrics computes in float32


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """How one class fares, all 0..1; None where it is undefined (nothing to divide by)."""

    name: str
    count: int  # pictures of this class
    precision: float | None
    recall: float | None
    f1: float | None
    accuracy: float | None  # share of this class's pictures that are named rightly, as recall is


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityBin:
    """Pictures whose prediction has a probability in one of 15 equal ranges."""

    confidence: float  # mean probability of the prediction, 0..1
    accuracy: float  # 0..1
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """A picture that the model named wrongly."""

    name: str
    label: str
    prediction: str
    probability: float  # of the prediction, 0..1
    label_probability: float  # of the true label, 0..1
    thumbnail: str | None  # PNG data URI of at most 96 pixels a side


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A picture that could not be read."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Measures of a model on the readable pictures of one split.

    `top1`, `top5`, `calibration_error` are 0..1; `top5` is None below six classes; `loss` is the
    mean cross entropy in nats. `confusion` counts pictures, rows by true class, columns by
    predicted one. `top1_standard_error` is sqrt(p (1 - p) / n).
    """

    split: str
    model: str  # the model file, or "" for a model in memory
    count: int
    classes: list[str]
    top1: float
    top1_standard_error: float
    top5: float | None
    loss: float
    calibration_error: float
    confusion: list[list[int]]
    per_class: list[ClassScore]
    reliability: list[ReliabilityBin]  # bins without pictures are left out
    mistakes: list[Mistake]  # the most confident ones first
    skipped: list[Skipped]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, as evaluation.json has them."""
        return asdict(self)


def evaluate(
    model: AnyModel,
    data: DataSource | Samples,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
    mistakes: int = 24,
    runtime: RuntimeChoice | None = None,
    on_road: Callable[[Road], None] | None = None,
    processes: Processes | None = None,
) -> Evaluation:
    """Measure `model` on every readable picture of a split, each exactly once.

    Args:
        model: a model file, a run folder, a classifier (its mode is left as it was), or what
            `optimize` has returned.
        data: a data source, or the samples of one split.
        split: of a data source: "test" by default, else "val", else "train"; of samples: the name
            that the evaluation carries ("test").
        classes: class names by label, of samples; the model's own by default. Classes in another
            order than the model's are matched by name.
        batch_size: pictures that go through the network at once.
        workers: processes that decode; 0 decodes in this one.
        device: torch's name; None leaves a classifier where it is.
        progress: called with the numbers of pictures done and in all after each batch.
        mistakes: wrongly named pictures to keep, the most confident ones.
        runtime: what runs the network, see `Runner`.
        on_road: called once, after the first batch, with what has run it.
        processes: that evaluate a share each, and all get the whole; None: this one alone.

    Raises:
        DataError: the data have classes that the model does not know, or no readable picture.
        ModelFileError, UsageError: the model or device cannot be used.
    """
    runner = Runner(model, device=device, runtime=runtime, on_road=on_road)
    classifier = runner.network
    check_classes(classifier)
    if classifier.num_classes < 2:
        raise UsageError("a model of a single class cannot be evaluated; train it on two or more")
    if isinstance(data, DataSource):
        split = split or data.evaluation_split()
        samples, classes, name = data.split(split), data.classes, data.name
    else:
        samples, split, name = data, split or "test", "the data"
    names, position = match_classes(classifier, classes, samples.labels, name)
    processes = processes or Processes()
    whole = len(samples)
    if processes.are_several:
        samples = samples.select(processes.share(range(whole)))
    tally = _Tally(len(names), mistakes, processes)
    loader = evaluation_loader(samples, classifier.preprocessing, batch_size, workers=workers)
    runner.prepare(len(samples))
    done, own = 0, len(samples)
    failure: XceptionError | None = None
    try:
        with evaluating(classifier):
            for batch in loader.epoch():
                tally.skipped += [Skipped(name=n, reason=r) for n, r in batch.skipped]
                if len(batch.y):
                    target = position[batch.y]
                    tally.add(runner(batch.x).cpu(), target, batch.index, samples)
                done += len(batch.y) + len(batch.skipped)
                if progress is not None:  # of a share, as if the others went as fast
                    progress(done * whole // own, whole)
    except XceptionError as error:
        if not processes.are_several:
            raise
        failure = error
    finally:
        loader.close()
    if any(processes.gathered(failure is not None)):
        raise failure or OtherProcessError("another process cannot evaluate its share")
    worst = [m for share in processes.gathered(tally.worst(names, samples)) for m in share]
    tally.merge(processes)
    if tally.count == 0:
        reason = f"; the first: {tally.skipped[0].reason}" if tally.skipped else ""
        raise DataError(f"{name}: no picture of split {split!r} can be read{reason}")
    shown = path_text(model) if isinstance(model, (str, os.PathLike)) else ""
    worst.sort(key=lambda mistake: -mistake.probability)
    return tally.result(split, shown, names, worst[:mistakes])


class _Tally:
    """Sums over batches, and the worst mistakes so far.

    processes: whose tallies `merge` adds up
    """

    def __init__(self, num_classes: int, mistakes: int, processes: Processes) -> None:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import (
            MulticlassAccuracy,
            MulticlassCalibrationError,
            MulticlassConfusionMatrix,
            MulticlassF1Score,
            MulticlassPrecision,
            MulticlassRecall,
        )

        # Else a process that evaluates alone would wait for those that train with it.
        own: dict[str, Any] = {"validate_args": False, "sync_on_compute": False}

        def each(metric: Any) -> Any:
            return metric(num_classes, average=None, **own)

        measures = {
            "confusion": MulticlassConfusionMatrix(num_classes, **own),
            "precision": each(MulticlassPrecision),
            "recall": each(MulticlassRecall),
            "f1": each(MulticlassF1Score),
        }
        if num_classes > TOP_K:
            measures["top5"] = MulticlassAccuracy(num_classes, top_k=TOP_K, average="micro", **own)
        # Metrics that share sums would have them added up once for each.
        self.measures = MetricCollection(measures, compute_groups=not processes.are_several)
        self.calibration = MulticlassCalibrationError(num_classes, BINS, **own)
        self.loss = 0.0
        self.count = 0
        self.skipped: list[Skipped] = []
        self._most = mistakes
        self._wrong: list[tuple[float, int, int, int, float]] = []

    def add(self, outputs: Tensor, target: Tensor, index: Tensor, samples: Samples) -> None:
        """outputs: logits (N, classes), target and index: int64 (N,), all on the CPU."""
        finite = outputs.isfinite().all(dim=1)
        if not finite.all():
            bad = samples.names[int(index[~finite][0])]
            raise XceptionError(
                f"{bad}: the network gives no finite numbers for it; its weights or its "
                "preprocessing are damaged, take an earlier state of training"
            )
        self.loss += float(F.cross_entropy(outputs, target, reduction="sum").double())
        self.count += len(target)
        probabilities = outputs.softmax(dim=1)
        self.measures.update(probabilities, target)
        # torchmetrics puts a probability of exactly 1 into a bin of its own, a 16th
        below_one = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
        self.calibration.update(probabilities.minimum(below_one), target)
        self._note_mistakes(probabilities, target, index)

    def _note_mistakes(self, probabilities: Tensor, target: Tensor, index: Tensor) -> None:
        confidence, predicted = probabilities.max(dim=1)
        wrong = predicted != target
        of_label = probabilities.gather(1, target[:, None])[:, 0]
        columns = (confidence, index, target, predicted, of_label)
        rows = zip(*(column[wrong].tolist() for column in columns), strict=True)
        self._wrong = heapq.nlargest(
            self._most, [*self._wrong, *rows], key=lambda row: (row[0], -row[1])
        )

    def merge(self, processes: Processes) -> None:
        """The sums of all processes, in each of them; positions stay each process's own."""
        if not processes.are_several:
            return
        metrics = [*self.measures.values(), self.calibration]
        own = [_as_lists(metric.metric_state) for metric in metrics]
        everybodys = processes.gathered((own, self.loss, self.count, self.skipped))
        self.loss = math.fsum(loss for _, loss, _, _ in everybodys)
        self.count = sum(count for _, _, count, _ in everybodys)
        self.skipped = [picture for _, _, _, skipped in everybodys for picture in skipped]
        for number, metric in enumerate(metrics):
            states = [state[number] for state, _, _, _ in everybodys]
            for name, value in metric.metric_state.items():
                parts = [state[name] for state in states]
                if isinstance(value, list):
                    setattr(metric, name, [part for share in parts for part in share])
                else:
                    setattr(metric, name, torch.stack(parts).sum(dim=0))

    def worst(self, names: list[str], samples: Samples) -> list[Mistake]:
        """This process's mistakes, the most confident first."""
        return [
            Mistake(
                name=samples.names[i],
                label=names[label],
                prediction=names[predicted],
                probability=_rounded(probability),
                label_probability=_rounded(of_label),
                thumbnail=thumbnail(samples, i),
            )
            for probability, i, label, predicted, of_label in self._wrong
        ]

    def result(
        self, split: str, model: str, names: list[str], mistakes: list[Mistake]
    ) -> Evaluation:
        values = self.measures.compute()
        confusion = values["confusion"]
        top1 = int(confusion.trace()) / self.count
        return Evaluation(
            split=split,
            model=model,
            count=self.count,
            classes=names,
            top1=top1,
            top1_standard_error=math.sqrt(top1 * (1.0 - top1) / self.count),
            top5=_rounded(values["top5"]) if "top5" in values else None,
            loss=self.loss / self.count,
            calibration_error=_rounded(self.calibration.compute()),
            confusion=confusion.tolist(),
            per_class=_class_scores(names, values),
            reliability=_reliability(
                torch.cat(self.calibration.confidences), torch.cat(self.calibration.accuracies)
            ),
            mistakes=mistakes,
            skipped=self.skipped,
        )


def _as_lists(state: dict[str, Any]) -> dict[str, Any]:
    """What can be sent: torchmetrics has lists of a class of its own."""
    return {n: [*v] if isinstance(v, list) else v for n, v in state.items()}


def _class_scores(names: list[str], values: dict[str, Tensor]) -> list[ClassScore]:
    of_class = values["confusion"].sum(dim=1).tolist()
    predicted = values["confusion"].sum(dim=0).tolist()
    scores = []
    for i, name in enumerate(names):
        precision, recall, f1 = (_rounded(values[key][i]) for key in ("precision", "recall", "f1"))
        scores.append(
            ClassScore(
                name=name,
                count=of_class[i],
                precision=precision if predicted[i] else None,
                recall=recall if of_class[i] else None,
                f1=f1 if of_class[i] or predicted[i] else None,
                accuracy=recall if of_class[i] else None,
            )
        )
    return scores


def _reliability(confidences: Tensor, correct: Tensor) -> list[ReliabilityBin]:
    """The bins whose weighted gaps the calibration error sums up."""
    edges = torch.linspace(0.0, 1.0, BINS + 1)
    bins = torch.bucketize(confidences, edges, right=True) - 1
    result = []
    for number in sorted(set(bins.tolist())):
        inside = bins == number
        result.append(
            ReliabilityBin(
                confidence=_rounded(confidences[inside].double().mean()),
                accuracy=_rounded(correct[inside].double().mean()),
                count=int(inside.sum()),
            )
        )
    return result


def _rounded(value: Tensor | float) -> float:
    return round(float(value), DIGITS)
