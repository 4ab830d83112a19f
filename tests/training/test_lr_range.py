"""The learning-rate range test on pictures that are learned in seconds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image

from xception.cli.main import main
from xception.training import Recipe
from xception.training.lr_range import LOST, _is_lost, _smoothed, lr_range


def test_rates_grow_and_a_useful_one_is_found(recipe: Recipe) -> None:
    found = lr_range(recipe, steps=60, first=1e-4, last=1e3)
    assert found.rates[0] == pytest.approx(1e-4)
    ratios = {round(b / a, 6) for a, b in zip(found.rates, found.rates[1:], strict=False)}
    assert len(ratios) == 1
    assert len(found.rates) == len(found.losses) == len(found.smoothed) <= 60
    assert found.diverged  # at 1,000 at the latest
    assert found.suggested == pytest.approx(found.lowest / 10)
    assert 1e-4 < found.suggested < 1
    assert not Path(recipe.out).exists()


def test_repeats_itself(recipe: Recipe) -> None:
    one, two = (lr_range(recipe, steps=12, last=0.1) for _ in range(2))
    assert one.losses == two.losses
    assert not one.diverged


def test_running_mean_by_hand() -> None:
    assert _smoothed([2.0, 4.0]) == pytest.approx([2.0, (0.9 * 0.1 * 2 + 0.1 * 4) / (1 - 0.81)])
    assert not _is_lost([])
    assert not _is_lost([1.0, LOST])
    assert _is_lost([1.0, LOST + 0.1])
    assert _is_lost([1.0, math.nan])


@pytest.mark.parametrize("wrong", [{"first": 0.0}, {"first": 1.0, "last": 0.1}, {"steps": 9}])
def test_a_range_that_is_none(recipe: Recipe, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="range must rise"):
        lr_range(recipe, **wrong)  # type: ignore[arg-type]


def test_command(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, plot = tmp_path / "recipe.yaml", tmp_path / "rates.png"
    recipe.save(path)
    words = ["lr-range", "--recipe", str(path), "--steps", "15", "--highest", "0.1"]
    assert main([*words, "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert "a tenth of it, is safe" in out and "--highest may be raised" in out
    with Image.open(plot) as picture:
        assert picture.width > 500
    assert main([*words, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rates"]) == 15
    for extra, line in (
        (["--lowest", "5"], "must be above 0 and below --highest"),
        (["--plot", "a.pdf"], "must end in .png or .svg"),
        (["--epochz", "3"], "unrecognized options"),
    ):
        assert main([*words, *extra]) == 2
        assert line in capsys.readouterr().err
