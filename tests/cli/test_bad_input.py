"""What goes wrong for users: one clear line, an exit code, and nothing lost that was there."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xception.cli.main import main

QUICK = (
    "--size=16", "--epochs=1", "--batch-size=4", "--lr=0.05", "--trackers",
)  # fmt: skip


def pictures(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 6) -> Path:
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            values = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(values).save(folder / name / f"{index}.jpg")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on cats and dogs."""
    root = tmp_path_factory.mktemp("model")
    data = pictures(root / "data")
    assert main(["train", str(data), *QUICK, f"--out={root}", "--name=run"]) == 0
    return root / "run" / "model.safetensors"


def error_of(capsys: pytest.CaptureFixture[str], argv: list[str], code: int = 1) -> str:
    """Run, expect `code`, and return the one line of error."""
    capsys.readouterr()
    assert main(argv) == code
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("xception: ")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("xception: error: "), lines[0]
    return lines[0]


def train(data: Path, out: Path, *more: str) -> list[str]:
    return ["train", str(data), *QUICK, f"--out={out}", "--name=run", *more]


def test_missing_path(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    pictures(tmp_path / "pictures")
    line = error_of(capsys, train(tmp_path / "picturs", tmp_path / "runs"))
    assert "does not exist" in line
    assert "pictures" in line
    assert not (tmp_path / "runs").exists()
    assert "does not exist" in error_of(capsys, ["check", str(tmp_path / "gone")])
    assert "gone" in error_of(capsys, ["evaluate", str(model), str(tmp_path / "gone")])
    assert "gone" in error_of(capsys, ["predict", str(tmp_path / "gone"), str(tmp_path)])


@pytest.mark.parametrize("command", ["train", "check"])
def test_empty_folder_and_one_class(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    (tmp_path / "empty").mkdir()
    one = pictures(tmp_path / "one", ("cat",))
    more = [*QUICK, f"--out={tmp_path}/runs"] if command == "train" else []
    assert "empty" in error_of(capsys, [command, str(tmp_path / "empty"), *more])
    assert "class" in error_of(capsys, [command, str(one), *more])


def test_text_files_named_jpg(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(4):
            (tmp_path / "data" / name / f"{index}.jpg").write_text("not a picture at all\n")
    line = error_of(capsys, train(tmp_path / "data", tmp_path / "runs"))
    assert "cannot be read" in line
    assert ".jpg" in line
    assert main(["check", str(tmp_path / "data")]) == 1


def test_truncated_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    data = pictures(tmp_path / "data", count=20)
    victim = data / "cat" / "3.jpg"
    victim.write_bytes(victim.read_bytes()[:250])
    assert main(["check", str(data)]) == 1
    assert "3.jpg" in capsys.readouterr().out
    assert "3.jpg" in error_of(capsys, train(data, tmp_path / "runs", "--val-fraction=0"))
    allowed = train(data, tmp_path / "allowed", "--val-fraction=0", "--max-unreadable=0.1")
    assert main(allowed) == 0
    assert capsys.readouterr().err.count("skipped") == 1
    assert main(["predict", str(model), str(data / "cat"), "--json"]) == 1
    printed = capsys.readouterr()
    assert printed.out.count('"labels"') >= 19
    assert "3.jpg" in printed.out + printed.err


def test_picture_that_claims_a_billion_pixels(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", 40_000, 25_000, 8, 2, 0, 0, 0)
    bomb = tmp_path / "bomb.png"
    signature = b"\x89PNG\r\n\x1a\n"
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    bomb.write_bytes(signature + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b""))
    assert main(["predict", str(model), str(bomb), "--json"]) == 1
    printed = capsys.readouterr()
    assert "pixels" in printed.out + printed.err


def test_unwritable_output(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    data = pictures(tmp_path / "data")
    (tmp_path / "file").write_text("mine")
    line = error_of(capsys, train(data, tmp_path / "file"))
    assert "choose another --out" in line
    assert (tmp_path / "file").read_text() == "mine"
    target = tmp_path / "file" / "table.csv"
    assert main(["predict", str(model), str(data), "--csv", f"--out={target}"]) != 0
    assert main(["evaluate", str(model), str(data), f"--out={tmp_path}/file"]) != 0
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB: a checkpoint of the smallest network needs more."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small file system needs root on Linux")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_full_disk(capsys: pytest.CaptureFixture[str], tmp_path: Path, small_disk: Path) -> None:
    data = pictures(tmp_path / "data")
    (small_disk / "precious").write_text("mine")
    line = error_of(capsys, train(data, small_disk / "runs"))
    assert "No space left on device" in line
    assert "checkpoint" in line
    assert (small_disk / "precious").read_text() == "mine"
    assert not list(small_disk.rglob("*.tmp"))


def test_model_file_cut_in_half(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    data = pictures(tmp_path / "data")
    content = model.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(content[: len(content) // 2])
    for argv in (["predict", str(cut), str(data)], ["evaluate", str(cut), str(data)]):
        assert "cut.safetensors" in error_of(capsys, argv)
    assert "cut.safetensors" in error_of(capsys, ["info", str(cut)])


def test_model_for_other_classes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    data = pictures(tmp_path / "data", ("cup", "fork", "knife"))
    line = error_of(capsys, ["evaluate", str(model), str(data)])
    assert "cup" in line
    assert "cat" in line


def test_loss_that_is_no_number(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", count=12)
    argv = train(data, tmp_path / "runs", "--optimizer=sgd")
    argv[argv.index("--lr=0.05")] = "--lr=1e30"
    line = error_of(capsys, argv)
    assert "the loss became" in line
    assert "step" in line
    assert "learning rate" in line


def test_a_run_folder_that_lost_its_checkpoint(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(model.parent, run)
    last = run / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    assert "damaged" in error_of(capsys, ["train", "--resume", str(run)])
    last.unlink()
    assert "nothing to resume" in error_of(capsys, ["train", "--resume", str(run)])
    assert os.path.getsize(run / "model.safetensors") == model.stat().st_size


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume"], "--resume needs a value"),
        (["--preset=smal"], "did you mean small"),
        (["--preset=small", "--recipe=x.yaml"], "only one of"),
        (["--resume=x", "--epochs=3"], "leave out --epochs=3"),
        (["--epochs=0"], "epochs must be above 0"),
    ],
)
def test_wrong_usage_of_train(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in error_of(capsys, ["train", *words], code=2)
