"""docs/speed.md says what the committed results of the benchmarks say."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
PAGE = ROOT / "docs" / "speed.md"


@pytest.fixture
def speed_page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if not PAGE.exists() or not BENCHMARKS.is_dir():
        pytest.skip("a source distribution has no pages and no results")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("write_speed_page", "record"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import write_speed_page

    return write_speed_page


def test_page_is_what_the_results_give(speed_page: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert speed_page.written(page, BENCHMARKS / "results") == page


def test_every_place_is_in_the_page_once(speed_page: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in speed_page.SECTIONS:
        assert page.count(f"<!-- {name}: begin -->") == page.count(f"<!-- {name}: end -->") == 1


def test_replaced_keeps_the_rest(speed_page: ModuleType) -> None:
    page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n"
    assert speed_page.replaced(page, "x", "new") == page.replace("old", "new")


def test_replaced_names_a_place_that_is_missing(speed_page: ModuleType) -> None:
    with pytest.raises(ValueError, match="y: begin"):
        speed_page.replaced("a page", "y", "new")


def test_times_are_medians_with_quartiles_in_ms(speed_page: ModuleType) -> None:
    row = {"median_s": 0.0123, "first_quartile_s": 0.012, "third_quartile_s": 0.0131}
    assert speed_page.ms(row) == "12.3 (12.0-13.1)"
    assert speed_page.ms(row, 8) == "1.54 (1.50-1.64)"
