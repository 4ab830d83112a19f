"""Reading a run folder leniently: a run that was cut off still makes a report.

Everything read here is untrusted (class folders, file names and recipe values are the user's):
text is cleaned of characters that cannot be shown, numbers are checked, pictures are accepted only
as embedded PNGs. What is missing or damaged becomes a line in `Run.notes`, never an exception.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xception.errors import DataError

MAX_MISTAKES = 24
MAX_RECIPE_BYTES = 65_536
MAX_THUMBNAIL_CHARACTERS = 400_000  # of base64: about 300 kB of PNG
METRICS = (
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "lr",
    "seconds",
    "images_per_second",
    "skipped",
)
_PNG_PREFIX = "data:image/png;base64,"
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
# Control characters, lone surrogates (undecodable file names) and the marks that reorder text.
_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One row of the per-class table; scores are 0..1, None where they are undefined."""

    name: str
    count: int
    precision: float | None
    recall: float | None
    f1: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Mistake:
    """One picture that the model named wrongly, with probabilities in 0..1."""

    name: str
    label: str
    prediction: str
    probability: float | None
    label_probability: float | None
    thumbnail: str | None  # a PNG data URI
    width: int | None  # of the thumbnail, in pixels


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What evaluation.json holds, checked. Accuracies are 0..1, `loss` is in nats."""

    split: str
    model: str
    count: int
    classes: list[str]
    top1: float | None
    top5: float | None
    loss: float | None
    calibration_error: float | None
    confusion: np.ndarray | None  # (classes, classes) counts, rows true, columns predicted
    per_class: list[ClassScore]
    reliability: list[dict[str, float]]  # confidence, accuracy (0..1) and count of each bin
    mistakes: list[Mistake]
    skipped: list[tuple[str, str]]  # name, reason


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder as the report sees it."""

    folder: Path
    name: str
    recipe: dict[str, str]
    environment: dict[str, str]
    metrics: list[dict[str, float]]  # one an epoch; NaN where a value is missing
    evaluation: Evaluation | None
    has_model: bool
    notes: list[str]


def clean_text(value: object, limit: int = 300) -> str:
    """`value` as one line of text that every screen and every encoder can take."""
    text = _UNSHOWABLE.sub("\ufffd", str(value)[: 2 * limit])
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def read_run(folder: str | Path) -> Run:
    """Read a run folder. Raises `DataError` only where it is no folder or holds no run at all."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such run folder; give the folder that training has written")
    known = ("recipe.yaml", "metrics.jsonl", "environment.json", "evaluation.json")
    if not any((folder / name).is_file() for name in known):
        raise DataError(f"{folder}: no run folder (none of {', '.join(known)} is there)")
    notes: list[str] = []
    return Run(
        folder=folder,
        name=clean_text(folder.resolve().name or folder, 120),
        recipe=_read_recipe(folder / "recipe.yaml", notes),
        environment=_read_environment(folder / "environment.json", notes),
        metrics=_read_metrics(folder / "metrics.jsonl", notes),
        evaluation=_read_evaluation(folder / "evaluation.json", notes),
        has_model=(folder / "model.safetensors").is_file(),
        notes=notes,
    )


def number(value: object) -> float | None:
    """A finite float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        converted = float(value)
    except OverflowError:
        return None
    return converted if math.isfinite(converted) else None


def _count(value: object) -> int:
    converted = number(value)
    return 0 if converted is None else max(0, int(converted))


def _read_bytes(path: Path, notes: list[str]) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        notes.append(f"{path.name} cannot be read ({error.strerror}).")
        return None


def _read_json(path: Path, notes: list[str]) -> Mapping[str, Any] | None:
    content = _read_bytes(path, notes)
    if content is None:
        return None
    try:
        value = json.loads(content.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        notes.append(f"{path.name} is damaged and was left out.")
        return None
    if not isinstance(value, Mapping):
        notes.append(f"{path.name} does not hold a mapping and was left out.")
        return None
    return value


def _plain(value: object, depth: int = 0) -> str:
    """One recipe value as YAML would spell it, bounded in length."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)) and depth < 3:
        return "[" + ", ".join(_plain(v, depth + 1) for v in value[:12]) + "]"
    if isinstance(value, Mapping) and depth < 3:
        pairs = list(value.items())[:12]
        return ", ".join(f"{clean_text(k, 60)}: {_plain(v, depth + 1)}" for k, v in pairs)
    if isinstance(value, (Mapping, list, tuple, set)):
        return "…"  # a recipe is flat: what is nested deeper is not one
    return clean_text(value)


def _read_recipe(path: Path, notes: list[str]) -> dict[str, str]:
    import yaml

    content = _read_bytes(path, notes)
    if content is None:
        return {}
    if len(content) > MAX_RECIPE_BYTES:
        notes.append(f"{path.name} is larger than {MAX_RECIPE_BYTES} bytes and was left out.")
        return {}
    try:
        value = yaml.safe_load(content.decode("utf-8", "replace"))
        if isinstance(value, Mapping):
            return {clean_text(key, 80): _plain(item) for key, item in value.items()}
    except (yaml.YAMLError, ValueError, RecursionError):
        pass
    notes.append(f"{path.name} is damaged and was left out.")
    return {}


def _read_environment(path: Path, notes: list[str]) -> dict[str, str]:
    value = _read_json(path, notes) or {}
    return {clean_text(key, 80): _plain(item) for key, item in value.items()}


def _read_metrics(path: Path, notes: list[str]) -> list[dict[str, float]]:
    content = _read_bytes(path, notes)
    if content is None:
        return []
    lines = content.decode("utf-8", "replace").split("\n")
    rows: dict[int, dict[str, float]] = {}
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            epoch = _count(row["epoch"])
        except (ValueError, RecursionError, KeyError, TypeError):
            last = not any(rest.strip() for rest in lines[index + 1 :])
            notes.append(
                "The last line of metrics.jsonl was cut off; the epochs before it are shown."
                if last
                else f"Line {index + 1} of metrics.jsonl is damaged and was left out."
            )
            continue
        values = {key: number(row.get(key)) for key in METRICS}
        rows[epoch] = {"epoch": float(epoch)} | {
            key: math.nan if value is None else value for key, value in values.items()
        }  # an epoch that was run again after a resume replaces its first try
    return [rows[epoch] for epoch in sorted(rows)]


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []


def _read_evaluation(path: Path, notes: list[str]) -> Evaluation | None:
    value = _read_json(path, notes)
    if value is None:
        return None
    listed = value.get("classes")
    classes = [clean_text(name, 120) for name in listed] if isinstance(listed, list) else []
    confusion = confusion_array(value.get("confusion"))
    if confusion is None and value.get("confusion") is not None:
        notes.append("The confusion matrix of evaluation.json is damaged and was left out.")
    if confusion is not None and len(classes) != len(confusion):
        notes.append("evaluation.json names another number of classes than its matrix has.")
        classes = [f"class {index}" for index in range(len(confusion))]
    return Evaluation(
        split=clean_text(value.get("split", "evaluation"), 40),
        model=clean_text(value.get("model", ""), 40),
        count=_count(value.get("count")),
        classes=classes,
        top1=number(value.get("top1")),
        top5=number(value.get("top5")),
        loss=number(value.get("loss")),
        calibration_error=number(value.get("calibration_error")),
        confusion=confusion,
        per_class=[_class_score(row) for row in _mappings(value.get("per_class"))],
        reliability=[row for r in _mappings(value.get("reliability")) if (row := _bin(r))],
        mistakes=[_mistake(row) for row in _mappings(value.get("mistakes"))[:MAX_MISTAKES]],
        skipped=[
            (clean_text(row.get("name", "?")), clean_text(row.get("reason", "")))
            for row in _mappings(value.get("skipped"))
        ],
    )


def confusion_array(value: object) -> np.ndarray | None:
    """(classes, classes) float64 counts from nested lists, or None where it is no such matrix."""
    try:
        matrix = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] and matrix.size > 0
    return matrix if square and bool(np.isfinite(matrix).all() and (matrix >= 0).all()) else None


def _class_score(row: Mapping[str, Any]) -> ClassScore:
    return ClassScore(
        name=clean_text(row.get("name", "?"), 120),
        count=_count(row.get("count")),
        precision=number(row.get("precision")),
        recall=number(row.get("recall")),
        f1=number(row.get("f1")),
        accuracy=number(row.get("accuracy")),
    )


def _bin(row: Mapping[str, Any]) -> dict[str, float] | None:
    confidence, accuracy = number(row.get("confidence")), number(row.get("accuracy"))
    count = _count(row.get("count"))
    if confidence is None or accuracy is None or count == 0:
        return None
    return {"confidence": confidence, "accuracy": accuracy, "count": float(count)}


def _mistake(row: Mapping[str, Any]) -> Mistake:
    thumbnail, width = _thumbnail(row.get("thumbnail"))
    return Mistake(
        name=clean_text(row.get("name", "?")),
        label=clean_text(row.get("label", "?"), 120),
        prediction=clean_text(row.get("prediction", "?"), 120),
        probability=number(row.get("probability")),
        label_probability=number(row.get("label_probability")),
        thumbnail=thumbnail,
        width=width,
    )


def _thumbnail(value: object) -> tuple[str | None, int | None]:
    """The data URI and the picture's width, or Nones unless it is a PNG embedded as base64."""
    if not isinstance(value, str) or not value.startswith(_PNG_PREFIX):
        return None, None
    payload = value[len(_PNG_PREFIX) :]
    if len(payload) > MAX_THUMBNAIL_CHARACTERS or not _BASE64.fullmatch(payload):
        return None, None
    try:
        picture = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        return None, None
    if picture[:8] != b"\x89PNG\r\n\x1a\n" or picture[12:16] != b"IHDR":
        return None, None
    return value, int.from_bytes(picture[16:20], "big")
