"""Short work is torch's, at once; long work takes another road where one is there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import xception
from xception.errors import UsageError, XceptionError
from xception.inference import optimize, runner
from xception.inference.runner import Runner
from xception.inference.runtimes import Road
from xception.models import Classifier
from xception.models.summary import summarize, totals

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def file(trained: Classifier, tmp_path: Path) -> Path:
    xception.save(trained, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def everything_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "WORTH_MACS", 1.0)


def need_runtimes() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)


def run(made: Runner, count: int, batches: int = 2) -> Tensor:
    made.prepare(count)
    with torch.no_grad():
        return torch.cat([made(X) for _ in range(batches)])


def assert_agrees(rows: Tensor, model: Classifier) -> None:
    with torch.no_grad():
        expected = model(X).repeat(len(rows) // len(X), 1)
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5)


def test_short_work_is_torchs_and_no_news(file: Path, trained: Classifier) -> None:
    told: list[Road] = []
    made = Runner(file, device="cpu", on_road=told.append)
    assert_agrees(run(made, 8), trained)
    (road,) = told
    assert road == made.road and road.runtime == "torch" and not road.is_news
    assert runner.SHORT in str(road)


@pytest.mark.parametrize("factor", [1.001, 0.999])
def test_work_is_pictures_times_macs_a_thread(
    factor: float,
    file: Path,
    trained: Classifier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count, macs = 100, totals(summarize(trained)).macs
    monkeypatch.setattr(runner, "installed_runtimes", lambda: ["torch"])
    monkeypatch.setattr(runner, "WORTH_MACS", factor * count * macs / torch.get_num_threads())
    made = Runner(file, device="cpu")
    run(made, count)
    assert made.road.is_news == (factor < 1)
    assert not any(module._forward_hooks for module in made.network.modules())


def test_long_work_takes_another_road(
    file: Path, trained: Classifier, everything_is_long: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_runtimes()
    told: list[Road] = []
    made = Runner(file, device="cpu", on_road=told.append)
    made.prepare(100)
    assert_agrees(made(X), trained)
    assert not told  # torch took this one, to see how much work there is
    assert_agrees(run(made, 96), trained)
    (road,) = told
    assert road.is_news and len(road.seconds) > 1
    assert made.road == road


def test_a_batch_that_is_all_there_is_pays_for_nothing(
    file: Path, everything_is_long: None
) -> None:
    for count in (0, len(X)):  # not known, or in one batch
        made = Runner(file, device="cpu")
        run(made, count, batches=1)
        assert made.road.runtime == "torch" and not made.road.is_news


def test_without_the_extra_long_work_says_how_to_get_it(
    file: Path, trained: Classifier, everything_is_long: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xception.export.requirements.find_spec", lambda name: None)
    told: list[Road] = []
    made = Runner(file, device="cpu", on_road=told.append)
    assert_agrees(run(made, 100), trained)
    assert told[0].is_news and 'pip install "xception[export]"' in str(told[0])
    with pytest.raises(XceptionError, match="runtime openvino needs"):
        Runner(file, device="cpu", runtime="openvino")


@pytest.mark.parametrize("late", [False, True])
def test_what_fails_on_the_way_leaves_torch(
    late: bool,
    file: Path,
    trained: Classifier,
    everything_is_long: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    need_runtimes()
    if late:  # at the first batch, where it is measured
        (tmp_path / "no_folder").write_text("")
        monkeypatch.setenv("XCEPTION_CACHE", str(tmp_path / "no_folder"))
    else:
        monkeypatch.setattr(runner, "optimize", lambda *_, **__: 1 / 0)
    made = Runner(file, device="cpu")
    assert_agrees(run(made, 100, batches=3), trained)
    assert made.road.runtime == "torch" and made.road.is_news
    assert "no other could be taken" in str(made.road)


def test_a_runtime_asked_for_runs_every_batch(file: Path, trained: Classifier) -> None:
    need_runtimes()
    told: list[Road] = []
    made = Runner(file, device="cpu", runtime="onnxruntime", on_road=told.append)
    assert_agrees(run(made, 0, batches=1), trained)
    assert told[0].runtime == "onnxruntime" and told[0].is_news
    with pytest.raises(UsageError, match="runtime must be one of auto, torch"):
        Runner(file, device="cpu", runtime="tvm")  # type: ignore[arg-type]


def test_a_classifier_in_memory_may_go_on_changing(
    trained: Classifier, everything_is_long: None
) -> None:
    model = copy.deepcopy(trained)
    made = Runner(model)
    run(made, 100)
    nn.init.zeros_(model.head.fc.weight)
    nn.init.ones_(model.head.fc.bias)
    assert torch.equal(run(made, 100), torch.ones(8, 7))
    assert made.road.runtime == "torch"


@pytest.mark.parametrize("output", ["pre_logits", "pool"])
def test_features(output: Any, file: Path, trained: Classifier, everything_is_long: None) -> None:
    need_runtimes()
    made = Runner(file, device="cpu", runtime="onnxruntime", output=output)
    made.prepare(0)
    with torch.no_grad():
        expected = trained.forward_head(trained.forward_features(X), pre_logits=True)
        torch.testing.assert_close(made(X), expected, rtol=1e-4, atol=1e-5)
    assert made.width == 256


@pytest.mark.parametrize("change", [nn.Module.bfloat16, nn.Module.double])
def test_other_types_are_torchs(
    change: Callable[[nn.Module], Classifier], trained: Classifier, everything_is_long: None
) -> None:
    made = Runner(change(copy.deepcopy(trained)), runtime="auto")
    rows = run(made, 100)
    assert rows.dtype == torch.float32 and made.road.runtime == "torch"
    assert made.road.precision == str(next(made.network.parameters()).dtype)[len("torch.") :]
    assert not made.road.is_news and runner.FOREIGN in str(made.road)


def test_an_optimized_model_is_taken_as_it_is(trained: Classifier) -> None:
    fast = optimize(trained, "torch")
    made = Runner(fast)
    assert_agrees(run(made, 100), trained)
    assert made.road == fast.road and made.network is fast.network
    for arguments in ({"device": "cpu"}, {"runtime": "auto"}, {"output": "pool"}):
        with pytest.raises(UsageError, match="has its device, runtime and output"):
            Runner(fast, **arguments)  # type: ignore[arg-type]
