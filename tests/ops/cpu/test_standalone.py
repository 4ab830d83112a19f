"""The kernels by a C++ program of their own: on this machine, under sanitizers, and on aarch64.

`standalone_check.cpp` compares them with sums in double precision. Python and torch take no part:
a sanitizer reports the kernels alone, and an emulator of another processor is enough to run them.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent
CROSS = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"
LIBRARIES = "/usr/aarch64-linux-gnu"  # where Debian puts those of the cross compiler
# Of a vector's width depend addresses, not who works on what: for races the baseline will do.
BASELINE_ALONE = ("-Dhas_v3=OFF", "-Dhas_v4=OFF")


def tool(name: str) -> str:
    """Where a program is, beside this Python as well; the test is skipped where it is not."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"no {name} here")
    return found


def compiler() -> str:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            return name
    pytest.skip("no C++ compiler here")


def run(command: Sequence[str | Path]) -> str:
    """Its output, which is also the message when it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}"
    return done.stdout


@dataclass(frozen=True)
class Build:
    """How the program is built for one purpose."""

    folder: Path
    compiler: str
    settings: tuple[str, ...] = ()

    def program(self) -> Path:
        cmake, settings = tool("cmake"), [f"-DCMAKE_CXX_COMPILER={self.compiler}", *self.settings]
        if shutil.which("make") is None:
            settings += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
        run([cmake, "-S", SOURCE, "-B", self.folder, *settings])
        run([cmake, "--build", self.folder, "--parallel", str(os.cpu_count() or 1)])
        return self.folder / "standalone_check"


def sanitized(folder: Path, sanitizers: str, *settings: str) -> Build:
    """Quickly built; skipped where a program with these sanitizers cannot be built or started."""
    trial, flags = folder / "trial.cpp", ["-fsanitize=" + sanitizers, "-fno-sanitize-recover=all"]
    trial.write_text("int main() {}\n")
    program = str(folder / "trial")
    for command in ([compiler(), *flags, str(trial), "-o", program], [program]):
        if subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip(f"no {sanitizers} sanitizer here")
    flag = "-DCMAKE_CXX_FLAGS=-O1 -g1 " + " ".join(flags)
    return Build(folder / "build", compiler(), ("-DCMAKE_BUILD_TYPE=None", flag, *settings))


def instruction_sets(output: str) -> list[str]:
    """Those that a run of the program went through; it ended well."""
    lines = output.strip().splitlines()
    assert lines and all(", 0 wrong, " in line for line in lines), output
    return [line.partition(":")[0] for line in lines]


def test_every_instruction_set_of_this_machine(tmp_path: Path) -> None:
    program = Build(tmp_path, compiler()).program()
    names = instruction_sets(run([program, "--large"]))
    assert names[0] == "baseline"
    # The program can say no.
    unknown = subprocess.run([program, "mmx"], capture_output=True, text=True)
    assert unknown.returncode == 2 and "mmx: not usable on this machine" in unknown.stderr


def test_no_access_out_of_bounds_and_no_undefined_behaviour(tmp_path: Path) -> None:
    """AddressSanitizer, which knows the borders of scratch memory as well, and its companion."""
    assert instruction_sets(run([sanitized(tmp_path, "address,undefined").program()]))


def test_no_races(tmp_path: Path) -> None:
    """ThreadSanitizer: the parts of one call, and two calls at once."""
    build = sanitized(tmp_path, "thread", *BASELINE_ALONE)
    assert instruction_sets(run([build.program()])) == ["baseline"]


@pytest.mark.skipif(platform.machine() in ("aarch64", "arm64"), reason="this is one")
def test_neon(tmp_path: Path) -> None:
    """On an emulated aarch64, whose baseline is NEON; flags are CMake's own choice."""
    cross, emulator = tool(CROSS), tool(EMULATOR)
    system = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
    program = Build(tmp_path, cross, system).program()
    assert instruction_sets(run([emulator, "-L", LIBRARIES, program])) == ["baseline"]
