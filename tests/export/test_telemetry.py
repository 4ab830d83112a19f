"""Nobody is told of what is run or quantized."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xception.export.telemetry import import_without_telemetry


def test_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setenv("NNCF_CI", "mine")
    before = dict(os.environ)
    assert import_without_telemetry("json").loads("1") == 1
    with pytest.raises(ModuleNotFoundError):
        import_without_telemetry("no_such_package")
    assert dict(os.environ) == before


def in_a_fresh_process(code: str, home: Path) -> str:
    """What it prints, outside of continuous integration, where tools report nothing anyway."""
    kept = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home)}
    code = f"from xception.export.telemetry import import_without_telemetry as get\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_onnx_runtime_keeps_no_identifier(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    in_a_fresh_process("get('onnxruntime').get_available_providers()", tmp_path)
    assert not list(tmp_path.iterdir())


def test_nncf_has_a_stub_that_sends_nothing(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    code = (
        "get('nncf')\n"
        "from nncf.telemetry import wrapper\n"
        "print(isinstance(wrapper.telemetry, wrapper.NNCFTelemetryStub))"
    )
    assert in_a_fresh_process(code, tmp_path) == "True\n"
