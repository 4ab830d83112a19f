"""The machine's float32 peak, measured beside everything else: neighbours and heat move it.

    python benchmarks/fma_peak.py [--threads 2]

fma_peak.cpp is compiled for this very processor. Without a C++ compiler a large matrix product of
torch stands in: what a good library reaches, some percent below the peak.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_suffix(".cpp")
BURST = 60  # milliseconds; long enough for the clock to settle, short enough to stand in a turn
SIDE = 2048  # of the matrices that stand in
REST = 0.02  # seconds before a burst, in which other threads stop spinning


class FmaPeak:
    """Measures GFLOP/s of `threads` threads together; `how` says by what means."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._folder = tempfile.TemporaryDirectory()
        self._program = _compiled(Path(self._folder.name))
        self.how = "matrix product of torch" if self._program is None else "chains of FMA"
        self.values: list[float] = []
        self._square = torch.randn(SIDE, SIDE) if self._program is None else torch.empty(0)

    def measure(self) -> float:
        """One burst, GFLOP/s; kept in `values` too."""
        time.sleep(REST)
        self.values.append(self._product() if self._program is None else self._chains())
        return self.values[-1]

    def summary(self) -> dict[str, Any]:
        """For a result file."""
        return {
            "gflops": round(statistics.median(self.values), 1),
            "least": round(min(self.values), 1),
            "most": round(max(self.values), 1),
            "threads": self.threads,
            "how": self.how,
        }

    def _chains(self) -> float:
        command = [str(self._program), str(self.threads), str(BURST)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def _product(self) -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        began = time.perf_counter()
        torch.mm(self._square, self._square)
        seconds = time.perf_counter() - began
        torch.set_num_threads(before)
        return 2 * SIDE**3 / seconds * 1e-9


def _compiled(folder: Path) -> Path | None:
    """The program, or None where it cannot be built."""
    compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if compiler is None:
        return None
    program = folder / "fma_peak"
    flags = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-pthread"]
    done = subprocess.run(
        [compiler, *flags, str(SOURCE), "-o", str(program)], capture_output=True, check=False
    )
    return program if done.returncode == 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    peak = FmaPeak(parser.parse_args().threads)
    for _ in range(9):
        peak.measure()
    print(peak.summary())


if __name__ == "__main__":
    main()
