"""The page: whole, safe with hostile names, lenient with what is missing."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from xception.errors import DataError, XceptionError
from xception.report import write_report

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "img", "input", "br", "hr", "link"}
LOADING = {"src", "href", "xlink:href", "action", "data", "srcset", "poster"}


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails where tags do not nest."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.cells: list[str] = []
        self._open: list[str] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()
        assert self._open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.words.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


def test_page_holds_every_part(make_run, make_evaluation):
    classes = [f"class {c}" for c in "abcdefgh"]
    folder = make_run(evaluation=make_evaluation(classes))
    path = write_report(folder)
    assert path == folder / "report.html"
    page = Page(path)
    assert "90.0%" in page.text
    assert "± 1.5 points" in page.text  # sqrt(0.9 * 0.1 / 400)
    assert "xception_tiny named 360 of 400 test pictures correctly after 5 epochs" in page.text
    assert "shop-pictures" in page.text
    assert "5 epochs in 45 s" in page.text
    assert page.tags["svg"] == 5  # loss, accuracy, learning rate, confusion, reliability
    assert page.tags["img"] == 4
    assert all(page.values("alt"))
    assert "class a → class b" in page.text
    assert "shop/test/broken.jpg" in page.text
    assert f"xception predict {folder}/model.safetensors PICTURES..." in page.text
    assert "from xception.inference import Predictor" in page.text
    assert list(folder.glob(".*")) == []  # no temporary file stays


def test_page_asks_nothing_from_outside(make_run, make_evaluation):
    page = Page(write_report(make_run(evaluation=make_evaluation(["cat", "dog"]))))
    for tag, name, value in page.attributes:
        if name in LOADING:
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
    assert "@import" not in page.html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page.html))
    policy = next(v for v in page.values("content") if "default-src" in v)
    assert policy.startswith("default-src 'none'; img-src data:")


def test_ids_are_unique_and_links_lead_somewhere(make_run, make_evaluation):
    page = Page(write_report(make_run(evaluation=make_evaluation(list("abcdefghijkl")))))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = [v[1:] for v in page.values("href") + page.values("xlink:href") if v[0] == "#"]
    clips = re.findall(r"url\(#([^)]*)\)", page.html)
    assert set(links + clips) <= set(ids)


def test_hostile_names_show_as_text(make_run, make_evaluation):
    evaluation = make_evaluation([HOSTILE, "$\\frac{$", "--> & ]]> \"'", "{{ 7 * 191 }}"])
    evaluation["skipped"] = [{"name": HOSTILE, "reason": HOSTILE}]
    evaluation["mistakes"][0]["name"] = f'"><img src=x onerror=alert(1)>{HOSTILE}'
    folder = make_run(
        "a'b\"<b>", evaluation=evaluation, recipe={HOSTILE: HOSTILE, "model": HOSTILE}
    )
    (folder / "environment.json").write_text(json.dumps({"cpu": HOSTILE, "xception": HOSTILE}))
    page = Page(write_report(folder))
    assert page.tags["script"] == 1  # the page's own
    assert page.tags["b"] == 0
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) >= 8
    assert "$\\frac{$" in page.text  # neither a formula nor an error
    assert "{{ 7 * 191 }}" in page.text
    assert "1337" not in page.text
    svg = "".join(re.findall(r"<svg.*?</svg>", page.html, re.DOTALL))
    assert "&lt;script&gt;" in svg
    assert "<script" not in svg


def test_mistake_without_a_usable_picture(make_run, make_evaluation):
    evaluation = make_evaluation(["cat", "dog"], mistakes=1)
    evaluation["mistakes"][0]["thumbnail"] = "https://example.org/a.png"
    page = Page(write_report(make_run(evaluation=evaluation)))
    assert page.tags["img"] == 0
    assert "no picture kept" in page.text
    assert "example.org" not in page.html


def test_names_that_no_encoder_takes(make_run, make_evaluation):
    classes = [os.fsdecode(b"caf\xe9"), "a\nb\x00\x1b[31m", "\u202egnp.exe", "猫 кот 🐈", "x" * 500]
    page = Page(write_report(make_run(evaluation=make_evaluation(classes))))
    assert "caf\ufffd" in page.text
    assert "猫 кот 🐈" in page.text
    assert not re.search("[\x00\x1b\u202e]", page.html)


def test_run_cut_off(make_run):
    folder = make_run(epochs=4, model=False, recipe={"epochs": 20})
    metrics = folder / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-40])
    page = Page(write_report(folder))
    assert "There is no evaluation yet" in page.text
    assert "The last line of metrics.jsonl was cut off" in page.text
    assert "3 of 20 epochs" in page.text
    assert f"xception train --resume {folder}" in page.text
    assert page.tags["svg"] == 3


def test_single_epoch_without_validation(make_run, make_evaluation):
    folder = make_run(epochs=1, evaluation=make_evaluation(["cat", "dog"]))
    row = json.loads((folder / "metrics.jsonl").read_text())
    row["val_loss"] = row["val_accuracy"] = None
    row["train_loss"] = float("nan")
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    page = Page(write_report(folder))
    assert "after 1 epoch of training" in page.text
    assert "No loss was recorded" in page.text


def test_nothing_but_a_recipe(make_run):
    folder = make_run(model=False)
    (folder / "metrics.jsonl").unlink()
    (folder / "environment.json").unlink()
    page = Page(write_report(folder))
    assert "No epoch was finished" in page.text
    assert page.tags["svg"] == 0


def test_damaged_files_are_named_and_the_rest_shown(make_run):
    folder = make_run()
    for name in ("recipe.yaml", "environment.json", "evaluation.json"):
        (folder / name).write_bytes(b'{"a": [1, ')
    page = Page(write_report(folder))
    for name in ("recipe.yaml", "environment.json", "evaluation.json"):
        assert f"{name} is damaged and was left out." in page.text
    assert page.tags["svg"] == 3


def test_damaged_matrix_is_left_out(make_run, make_evaluation):
    evaluation = make_evaluation(["cat", "dog"]) | {"confusion": [[1, 2]]}
    page = Page(write_report(make_run(evaluation=evaluation)))
    assert "confusion matrix of evaluation.json is damaged" in page.text
    assert page.tags["svg"] == 4


def test_fields_of_wrong_types_do_no_harm(make_run, make_evaluation):
    evaluation = make_evaluation(["cat", "dog"])
    evaluation |= {"top1": "high", "count": -3, "loss": [1], "per_class": [7, {}], "mistakes": [{}]}
    evaluation |= {"reliability": {"a": 1}, "skipped": "none", "calibration_error": 10**400}
    page = Page(write_report(make_run(evaluation=evaluation)))
    assert "There is no evaluation yet" in page.text


def test_huge_run_stays_quick_and_small(make_run, make_evaluation):
    classes = [f"class number {i}" for i in range(1000)]
    folder = make_run(epochs=1000, evaluation=make_evaluation(classes, each=50, mistakes=24))
    started = time.perf_counter()
    path = write_report(folder)
    assert time.perf_counter() - started < 8
    assert path.stat().st_size < 3e6
    page = Page(path)
    assert page.tags["svg"] == 5
    assert "class number 999" in page.text
    assert "A dot shows the strongest of 4 x 4 cells" in page.text


def test_same_run_same_page(make_run, make_evaluation):
    folder = make_run(evaluation=make_evaluation(["cat", "dog"]))
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_missing_folder_and_folder_without_a_run(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such run folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no run folder \(none of recipe.yaml"):
        write_report(tmp_path)


def test_full_disk_keeps_the_older_report(make_run, make_evaluation):
    folder = make_run(evaluation=make_evaluation(["cat", "dog"]))
    (folder / "report.html").write_text("older")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # bytes: the page is larger
    try:
        with pytest.raises(XceptionError) as caught:
            write_report(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.strerror(errno.EFBIG) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (folder / "report.html").read_text() == "older"
    assert list(folder.glob(".*")) == []


def test_report_that_cannot_be_replaced(make_run):
    folder = make_run()
    (folder / "report.html").mkdir()
    with pytest.raises(XceptionError, match=r"report.html: cannot write the report"):
        write_report(folder)
    assert list(folder.glob(".*")) == []
