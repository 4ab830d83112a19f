"""One self-contained HTML page from a run folder."""

from __future__ import annotations

import base64
import hashlib
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

from xception.report import plots, summary
from xception.report.output import write_file
from xception.report.reading import Evaluation, Run, read_run
from xception.report.style import POINTS_PER_INCH
from xception.report.svg import inline_svg

REPORT_NAME = "report.html"
MAX_SKIPPED = 200  # unreadable pictures listed by name
WIDE_MATRIX = 640  # CSS pixels above which the table of confusions goes below the matrix
MAX_EPOCH_ROWS = 300  # of the table of epochs; longer runs show evenly spaced ones
TALL_TABLE = 25  # rows above which a table scrolls in itself


def write_report(run_folder: str | Path) -> Path:
    """Write `report.html` into `run_folder` (recipe.yaml, metrics.jsonl, ...) and return its path.

    Files that are missing or cut off are named in the page and the rest is shown. Raises
    `DataError` where the folder is no run, `XceptionError` where the page cannot be written; an
    older report is then still there.
    """
    run = read_run(run_folder)
    path = run.folder / REPORT_NAME
    # "replace": whatever text a file system or a recipe may hold, the page can be written
    write_file(path, render(run).encode("utf-8", "replace"), "the report")
    return path


def render(run: Run) -> str:
    """The page's HTML. Every text in it is escaped; its own script is the only one that may run."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": summary.percent, "decimal": summary.decimal, "plural": summary.plural
    }  # fmt: skip
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment.from_string(_asset("report.html.jinja"))
    return template.render(
        style=Markup(_asset("report.css")),
        script=Markup(script),
        script_hash=digest,
        run=run,
        headline=summary.headline(run),
        facts=summary.facts(run),
        curves=_curves(run),
        epoch_rows=_epoch_rows(run),
        evaluation=run.evaluation,
        **_evaluation_parts(run.evaluation),
        skipped_in_training=int(max((row["skipped"] for row in run.metrics), default=0) or 0),
        tall_table=TALL_TABLE,
        wide_matrix=WIDE_MATRIX,
        **_next_steps(run),
    )


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _curves(run: Run) -> list[dict[str, Any]]:
    if not run.metrics:
        return []
    described = {
        "loss": "Training and validation loss over the epochs",
        "accuracy": "Training and validation accuracy over the epochs",
        "lr": "Learning rate over the epochs",
    }
    return [
        {
            "width": plots.PANEL_WIDTH,
            "svg": inline_svg(
                plots.plot_curves(run.metrics, [panel]), name=panel, description=text
            ),
        }
        for panel, text in described.items()
    ]


def _epoch_rows(run: Run) -> list[dict[str, float]]:
    step = -(-len(run.metrics) // MAX_EPOCH_ROWS) or 1
    return run.metrics[::-1][::step][::-1]  # the last epoch is always among them


def _evaluation_parts(evaluation: Evaluation | None) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "confusion": None,
        "confusions": [],
        "reliability": None,
        "scores": [],
        "show_accuracy": False,
        "skipped": [],
        "skipped_more": 0,
    }
    if evaluation is None:
        return parts
    if evaluation.confusion is not None:
        n = len(evaluation.classes)
        block = plots.classes_per_cell(n)
        figure = plots.plot_confusion(evaluation.confusion, evaluation.classes)
        parts["confusion"] = {
            "width": figure.get_size_inches()[0] * POINTS_PER_INCH,
            "shared": f"{block} x {block}" if block > 1 else "",
            "svg": inline_svg(
                figure,
                name="confusion",
                description=f"Confusion matrix of {n} classes; the table of confusions beside it "
                "names the largest of its cells",
            ),
        }
        most = 12 if n <= plots.NUMBERED_CLASSES else 25
        parts["confusions"] = summary.top_confusions(evaluation.confusion, evaluation.classes, most)
    if evaluation.reliability:
        figure = plots.plot_reliability(evaluation.reliability)
        parts["reliability"] = {
            "width": figure.get_size_inches()[0] * POINTS_PER_INCH,
            "svg": inline_svg(
                figure,
                name="reliability",
                description="Accuracy against confidence in bins, with the count of each bin",
            ),
        }
    parts["scores"] = summary.weakest_first(evaluation.per_class)
    parts["show_accuracy"] = any(
        s.accuracy is not None and s.accuracy != s.recall for s in evaluation.per_class
    )
    parts["skipped"] = evaluation.skipped[:MAX_SKIPPED]
    parts["skipped_more"] = max(0, len(evaluation.skipped) - MAX_SKIPPED)
    return parts


def _next_steps(run: Run) -> dict[str, str]:
    model = str(run.folder / "model.safetensors")
    return {
        "predict_command": f"xception predict {shlex.quote(model)} PICTURES...",
        "resume_command": f"xception train --resume {shlex.quote(str(run.folder))}",
        "python_lines": "\n".join(
            (
                "from xception.inference import Predictor",
                "",
                f"predictor = Predictor({model!r})",
                'for prediction in predictor.predict(["picture.jpg"]):',
                "    print(prediction.name, prediction.error or prediction.labels[0])",
            )
        ),
    }
