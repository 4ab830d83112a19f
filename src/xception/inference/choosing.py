"""Which runtime and precision take a network's batches here: opened, checked, measured, remembered.

Remembered is what the measured figures depend on: the network, the candidates with their versions,
processor and threads.
"""

from __future__ import annotations

import logging
import os
import platform
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from xception.environment import cpu_name
from xception.errors import XceptionError
from xception.export.outputs import NetworkOutput
from xception.inference.calibration import Calibration, accuracy_lost
from xception.inference.exports import Exports, digest_of
from xception.inference.measuring import median_seconds
from xception.inference.runtimes import (
    OnnxRuntimeRun,
    OpenVinoRun,
    Precision,
    Road,
    Run,
    Runtime,
    TorchRun,
    version_of,
)
from xception.ops import describe_kernels

log = logging.getLogger(__name__)

MEASURED_PICTURES = 8  # of a batch; more would take long and rank the runtimes alike
TOLERANCE = 1e-3  # of the largest number; float32 exports that are further from torch are broken
_SHOWN = {"fp32": "float32", "int8": "int8"}

Candidate = tuple[Runtime, Precision]
Choice = tuple[Candidate, dict[str, float], int]  # seconds by label, for so many pictures

_TORCH: Candidate = ("torch", "fp32")


class Chooser:
    """Chooses among `runtimes` for one network at one size.

    whole: the network in eval mode as torch runs it, channels last, float32
    precision: "int8" leaves float32 out where int8 is accepted; "auto" measures both
    calibration: for int8; None leaves it out
    max_loss: accuracy that int8 may lose on it, 0..1
    """

    def __init__(
        self,
        whole: NetworkOutput,
        exports: Exports,
        runtimes: Sequence[Runtime],
        precision: Literal["fp32", "int8", "auto"],
        calibration: Calibration | None,
        max_loss: float,
    ) -> None:
        self._whole = whole
        self._exports = exports
        self._cache = exports.cache
        self._runtimes = list(runtimes)
        self._runs: dict[Candidate, Run] = {}
        self._kept: set[Candidate] = set()
        self._note = ""
        self._candidates: list[Candidate] = [(runtime, "fp32") for runtime in runtimes]
        if calibration is not None and precision != "fp32":
            accepted = self._accepted(calibration, max_loss, warn=precision == "int8")
            only_int8 = precision == "int8" and accepted
            self._candidates = accepted if only_int8 else [*self._candidates, *accepted]
        if len(self._candidates) == 1:  # what cannot be built or does not agree is told at once
            self._open(self._candidates[0])

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to measure."""
        return len(self._candidates) == 1

    def choose(self, x: Tensor) -> tuple[Run, Road]:
        """What runs batches like `x` from now on.

        Raises XceptionError where no candidate runs, or the cache cannot be written.
        """
        if self.is_settled:
            return self._settle(self._candidates[0], {}, 0)
        x = x[:MEASURED_PICTURES]
        versions = [(*candidate, version_of(candidate[0])) for candidate in self._candidates]
        key = digest_of("choice", self._exports.key, versions, len(x) == 1, *_machine())
        with self._cache.locked(key):
            choice = self._read(self._cache.recall(key))
            if choice is None:
                choice = self._measure(x)
                chosen, seconds, pictures = choice
                self._cache.remember(
                    key, {"chosen": _label(chosen), "seconds": seconds, "pictures": pictures}
                )
        return self._settle(*choice)

    def _settle(
        self, candidate: Candidate, seconds: dict[str, float], pictures: int
    ) -> tuple[Run, Road]:
        run = self._open(candidate)
        self._kept.add(candidate)
        self._runs = {c: r for c, r in self._runs.items() if c in self._kept}  # frees memory
        runtime, precision = candidate
        road = Road(
            runtime=runtime,
            version=version_of(runtime),
            precision=_SHOWN[precision],
            threads=torch.get_num_threads(),
            seconds=seconds,
            pictures=pictures,
            note=self._note,
        )
        return run, road

    def _measure(self, x: Tensor) -> Choice:
        runs: dict[str, Run] = {}
        for candidate in self._candidates:
            try:
                run = self._open(candidate)
                run(x)
            except Exception as error:  # of one runtime, in its own classes; the others are there
                log.info("%s is left out: %s", _label(candidate), _one_line(error))
                continue
            runs[_label(candidate)] = run
        if not runs:
            raise XceptionError("none of the runtimes can run this network; give runtime='torch'")
        seconds = median_seconds(runs, x)
        fastest = min(seconds, key=lambda label: seconds[label])
        return self._by_label()[fastest], seconds, len(x)

    def _read(self, content: dict[str, Any] | None) -> Choice | None:
        """A choice as it was remembered; None for anything else, which is then measured again."""
        if content is None:
            return None
        chosen, seconds, pictures = (content.get(k) for k in ("chosen", "seconds", "pictures"))
        candidate = self._by_label().get(chosen) if isinstance(chosen, str) else None
        if candidate is None or type(pictures) is not int or not isinstance(seconds, dict):
            return None
        if not all(isinstance(value, float) for value in seconds.values()):
            return None
        return candidate, seconds, pictures

    def _by_label(self) -> dict[str, Candidate]:
        return {_label(candidate): candidate for candidate in self._candidates}

    def _open(self, candidate: Candidate) -> Run:
        """Ready to run; a float32 export has been compared with torch, once on this machine."""
        if candidate in self._runs:
            return self._runs[candidate]
        runtime, precision = candidate
        if runtime == "torch":
            self._runs[candidate] = TorchRun(self._whole)
            return self._runs[candidate]
        kind = OnnxRuntimeRun if runtime == "onnxruntime" else OpenVinoRun
        try:
            run = kind(self._exports.file(runtime, precision), torch.get_num_threads())
            if precision == "fp32":
                self._compare(runtime, run)
        except XceptionError:
            raise
        except Exception as error:  # each runtime has classes of its own
            raise XceptionError(
                f"{runtime} {version_of(runtime)} cannot run this network ({_one_line(error)}); "
                "take another runtime"
            ) from error
        self._runs[candidate] = run
        return run

    def _compare(self, runtime: Runtime, run: Run) -> None:
        """Raise XceptionError unless `run` gives what torch gives."""
        key = digest_of("agrees", self._exports.key, runtime, version_of(runtime), *_machine())
        if (self._cache.recall(key) or {}).get("agrees") is True:
            return
        x = torch.randn(2, *self._exports.picture_shape, generator=torch.Generator().manual_seed(0))
        expected, found = self._open(_TORCH)(x), run(x)
        difference, scale = (found - expected).abs().max(), expected.abs().max()
        if not difference <= TOLERANCE * scale:
            raise XceptionError(
                f"{runtime} {version_of(runtime)} gives other numbers than torch for this network "
                f"({difference:.3g} apart, the largest is {scale:.3g}); take another runtime"
            )
        self._cache.remember(key, {"agrees": True})

    def _accepted(self, data: Calibration, max_loss: float, warn: bool) -> list[Candidate]:
        """int8 where it loses little enough; else the reasons are noted."""
        found: list[Candidate] = []
        reasons: list[str] = []
        for runtime in self._runtimes:
            if runtime == "torch":
                continue
            try:
                lost = self._lost(runtime, data)
            except XceptionError as error:
                if len(self._runtimes) == 1:
                    raise
                reasons.append(str(error))
                continue
            if lost <= max_loss:
                found.append((runtime, "int8"))
            else:
                reasons.append(
                    f"{runtime} would lose {lost:.4f} of accuracy on the {data.count:,} "
                    f"calibration pictures, more than max_loss {max_loss:g}"
                )
        if reasons and not found:
            self._note = f"float32 instead of int8: {'; '.join(reasons)}"
            if warn:
                warnings.warn(self._note, stacklevel=4)  # of `optimize`
        return found

    def _lost(self, runtime: Runtime, data: Calibration) -> float:
        """Accuracy that int8 by `runtime` loses on `data`, measured once on this machine."""
        parts = ("lost", self._exports.key, data.digest(), runtime, version_of(runtime))
        key = digest_of(*parts, *_machine())
        lost = (self._cache.recall(key) or {}).get("lost")
        if isinstance(lost, float):
            return lost
        int8, exact = self._open((runtime, "int8")), self._open(_TORCH)
        reference = torch.cat([exact(batch) for batch in data.batches])
        outputs = torch.cat([int8(batch) for batch in data.batches])
        lost = accuracy_lost(reference, outputs, data.labels)
        log.info("int8 by %s loses %.4f of accuracy on %d pictures", runtime, lost, data.count)
        self._cache.remember(key, {"lost": lost})
        return lost


def _machine() -> tuple[object, ...]:
    """What decides, besides network and versions, which is fastest and what int8 gives."""
    threads = torch.get_num_threads()
    return (platform.machine(), cpu_name(), os.cpu_count(), threads, describe_kernels())


def _label(candidate: Candidate) -> str:
    runtime, precision = candidate
    return runtime if precision == "fp32" else f"{runtime} {precision}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
