"""Whether the packages in a folder install and compute where there is no compiler.

    python tests/packaging/check_wheel.py dist

`make check-wheel` runs it. Each wheel goes into a fresh environment whose PATH holds that
environment's own programs and nothing else; torch and the like come from the environment that runs
this script. There it answers `xception --version`, computes a unit forward and backward, and passes
tests/ops. Then the sdist is built with that PATH: a wheel for every machine, without kernels.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD_TOOLS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "cmake", "ninja", "make")
LONGEST_TOLD = 3000  # characters of a program's output
COMPUTE = """
import torch
import xception
from xception.ops import separable_unit
from xception.ops.kernels import active_name

def results():
    torch.manual_seed(0)
    x = torch.randn(2, 33, 9, 8, requires_grad=True)
    depthwise, pointwise = torch.randn(33, 1, 3, 3), torch.randn(40, 33, 1, 1)
    y, mean, var = separable_unit(x, None, None, depthwise, pointwise, padding=1)
    (y.square().mean() + var.sum()).backward()
    return y.detach(), mean.detach(), var.detach(), x.grad

found, name = results(), active_name()
xception.set_kernels("off")
for ours, torchs in zip(found, results()):
    torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-4)
print(name, xception.__file__)
"""


class Failed(Exception):
    """A check that failed; its text is what is to be told."""


class Bare:
    """A fresh environment with one wheel, beside the packages of this one, and no compiler."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder, with_pip=True)
        self.folder = folder
        self.programs = folder / ("Scripts" if os.name == "nt" else "bin")
        self.environment = {**os.environ, "PATH": str(self.programs), "CC": "", "CXX": ""}
        if present := [tool for tool in BUILD_TOOLS if shutil.which(tool, path=self.programs)]:
            raise Failed(f"{self.programs}: holds {', '.join(present)}")
        self.python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel))
        # A path in a .pth file: what that path's own .pth files say, an editable xception above
        # all, does not come along.
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        others = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        Path(self.python("-c", code).strip(), "others.pth").write_text("\n".join(others) + "\n")

    def python(self, *arguments: str) -> str:
        return self.run(str(self.programs / "python"), *arguments)

    def run(self, *command: str) -> str:
        """Its output; raises Failed with the end of it where it fails."""
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if done.returncode != 0:
            end = done.stdout[-LONGEST_TOLD:]
            raise Failed(f"{' '.join(command)[:200]}: exit code {done.returncode}\n{end}")
        return done.stdout

    def kernels(self) -> str:
        """What the installed program says of them."""
        told = self.run(str(self.programs / "xception"), "--version")
        lines = [line.split(maxsplit=1) for line in told.splitlines()]
        return next(line[1] for line in lines if line[0] == "kernels")


def check_wheel(wheel: Path, folder: Path) -> str:
    bare = Bare(folder, wheel)
    told = bare.kernels()
    is_pure = wheel.name.endswith("-none-any.whl")
    if told.startswith("none") != is_pure:
        raise Failed(f"{wheel.name}: kernels {told}")
    name, file = bare.python("-c", COMPUTE).splitlines()[-1].split(maxsplit=1)
    if not Path(file).is_relative_to(folder):
        raise Failed(f"{wheel.name}: imported from {file}, not from the wheel")
    if name != told.split()[0] and not is_pure:
        raise Failed(f"{wheel.name}: computed by {name}, kernels {told}")
    tests = ("-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), str(ROOT / "tests" / "ops"))
    summary = bare.python("-m", "pytest", *tests).splitlines()[-1].strip("= ")
    size = wheel.stat().st_size / 1e6
    return f"{wheel.name} ({size:.1f} MB): kernels {told}; tests/ops: {summary}"


def check_sdist(sdist: Path, wheel: Path, folder: Path) -> str:
    """Built without a compiler, which takes nothing but what the sdist holds."""
    bare = Bare(folder / "first", wheel)
    bare.python("-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(sdist))
    (built,) = folder.glob("*.whl")
    if not built.name.endswith("-py3-none-any.whl"):
        raise Failed(f"{built.name}: built without a compiler, it should be py3-none-any")
    told = Bare(folder / "second", built).kernels()
    if not told.startswith("none"):
        raise Failed(f"{built.name}: kernels {told}")
    return f"{sdist.name}: without a compiler {built.name}, kernels {told}"


def main(folder: str) -> int:
    wheels, sdists = sorted(Path(folder).glob("*.whl")), sorted(Path(folder).glob("*.tar.gz"))
    if not wheels or len(sdists) != 1:
        print(f"{folder}: needs wheels and one sdist; `make wheel` puts them there")
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch).resolve()
        try:
            for number, wheel in enumerate(wheels):
                print(check_wheel(wheel.resolve(), place / f"wheel-{number}"), flush=True)
            print(check_sdist(sdists[0].resolve(), wheels[0].resolve(), place / "sdist"))
        except Failed as failed:
            print(f"failed: {failed}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
