"""Reading a run folder: numbers and text are checked, what is damaged is noted."""

from __future__ import annotations

import base64
import io
import json
import math

import pytest
from PIL import Image

from xception.report.reading import MAX_MISTAKES, clean_text, number, read_run


def test_metrics_of_a_resumed_run_keep_the_later_try(make_run):
    folder = make_run(epochs=3)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 3, "val_accuracy": 0.5}) + "\n")
    metrics = read_run(folder).metrics
    assert [row["epoch"] for row in metrics] == [1, 2, 3]
    assert metrics[-1]["val_accuracy"] == 0.5
    assert math.isnan(metrics[-1]["train_loss"])


def test_damaged_line_in_the_middle_is_named(make_run):
    folder = make_run(epochs=3)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[1] = lines[1][:20]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    run = read_run(folder)
    assert [row["epoch"] for row in run.metrics] == [1, 3]
    assert run.notes == ["Line 2 of metrics.jsonl is damaged and was left out."]


def test_recipe_values_are_spelt_as_in_yaml(make_run):
    folder = make_run(recipe={"flip": True, "weights": None, "crop_scale": [0.6, 1.0]})
    recipe = read_run(folder).recipe
    assert (recipe["flip"], recipe["weights"]) == ("true", "none")
    assert recipe["crop_scale"] == "[0.6, 1.0]"


def test_recipe_that_would_swell_is_bounded(make_run):
    folder = make_run()
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    (folder / "recipe.yaml").write_text("\n".join(lines))
    assert sum(map(len, read_run(folder).recipe.values())) < 100_000


def test_recipe_cannot_make_objects(make_run):
    folder = make_run()
    (folder / "recipe.yaml").write_text("model: !!python/object/apply:os.getcwd []")
    run = read_run(folder)
    assert run.recipe == {}
    assert run.notes == ["recipe.yaml is damaged and was left out."]


def png_uri() -> str:
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    "thumbnail",
    [
        "https://example.org/a.png",
        "javascript:alert(1)",
        "data:text/html;base64,PHNjcmlwdD4=",
        "data:image/svg+xml;base64,PHN2Zz4=",
        png_uri() + '" onerror="alert(1)',
        png_uri().replace("image/png", "image/svg+xml"),
        "data:image/png;base64,AAAA",  # no PNG inside
        "data:image/png;base64," + "A" * 1_000_000,
        None,
        7,
    ],
)
def test_only_embedded_pngs_become_pictures(make_run, make_evaluation, thumbnail):
    evaluation = make_evaluation(["cat", "dog"], mistakes=2)
    evaluation["mistakes"][0]["thumbnail"] = thumbnail
    refused, kept = read_run(make_run(evaluation=evaluation)).evaluation.mistakes
    assert refused.thumbnail is None
    assert kept.thumbnail.startswith("data:image/png;base64,")
    assert kept.width == 28


@pytest.mark.parametrize("name", ["recipe.yaml", "environment.json", "evaluation.json"])
@pytest.mark.parametrize("content", [b'{"a": [1, ', b"[]", b"\xff\xfe\x00", b"[" * 5000])
def test_damaged_file_is_named(make_run, make_evaluation, name, content):
    folder = make_run(evaluation=make_evaluation(["cat", "dog"]))
    (folder / name).write_bytes(content)
    (note,) = read_run(folder).notes
    assert note.startswith(name)


@pytest.mark.parametrize("confusion", [[[1, 2]], [[1, -2], [3, 4]], "x", [["a", "b"], [1, 2]]])
def test_damaged_matrix_is_named(make_run, make_evaluation, confusion):
    evaluation = make_evaluation(["cat", "dog"]) | {"confusion": confusion}
    run = read_run(make_run(evaluation=evaluation))
    assert run.evaluation.confusion is None
    assert run.notes == ["The confusion matrix of evaluation.json is damaged and was left out."]


def test_no_more_mistakes_than_agreed(make_run, make_evaluation):
    run = read_run(make_run(evaluation=make_evaluation(["a", "b"], mistakes=60)))
    assert len(run.evaluation.mistakes) == MAX_MISTAKES


def test_matrix_with_other_classes_gets_numbers(make_run, make_evaluation):
    evaluation = make_evaluation(["a", "b"]) | {"classes": ["a"]}
    run = read_run(make_run(evaluation=evaluation))
    assert run.evaluation.classes == ["class 0", "class 1"]
    assert len(run.notes) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), (0.5, 0.5), (True, None), ("1", None), (math.inf, None), (10**400, None)],
)
def test_number(value, expected):
    assert number(value) == expected


def test_clean_text():
    assert clean_text("a\tb\n c") == "a b c"
    assert clean_text("a\x00\ud800") == "a\ufffd\ufffd"
    assert clean_text("x" * 50, 10) == "x" * 9 + "…"
