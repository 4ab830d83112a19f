"""What starting imports; how long it takes is measured by benchmarks/import_time.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = ("torchvision", "torchmetrics", "matplotlib", "pandas", "pyarrow", "accelerate", "sklearn")


def imported(code: str) -> set[str]:
    """Top-level names in sys.modules after running `code` in a fresh process."""
    code += "\nimport sys; print('\\n'.join({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


@pytest.mark.parametrize("words", [["--help"], ["predcit"], ["predict", "--help"], []])
def test_help_imports_no_torch(words):
    names = imported(f"from xception.cli.main import main; main({words!r})")
    assert not names & {"torch", "numpy", *SLOW}


def test_importing_the_package_imports_no_torch():
    assert "torch" not in imported("import xception")


def test_the_library_imports_nothing_slow():
    names = imported(
        "import xception; xception.create_model, xception.load, xception.open_data, "
        "xception.Predictor, xception.separable_conv2d"
    )
    assert "torch" in names
    assert not names & set(SLOW)


def test_predicting_imports_nothing_slow(tmp_path):
    from PIL import Image

    import xception

    xception.save(xception.create_model("xception_tiny", num_classes=2), tmp_path / "m")
    Image.new("RGB", (32, 32)).save(tmp_path / "p.png")
    words = ["predict", str(tmp_path / "m"), str(tmp_path / "p.png")]
    names = imported(f"from xception.cli.main import main; assert main({words!r}) == 0")
    assert not names & set(SLOW)
