"""How pictures are run through a network: by torch at once, or by a faster road where that pays.

runner = Runner("runs/NAME")
runner.prepare(10_000)      # pictures that will come
rows = runner(x)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xception.errors import UsageError, XceptionError
from xception.export.outputs import NetworkOutput, Output
from xception.export.requirements import EXTRA
from xception.inference.network import as_network, placed
from xception.inference.optimization import OptimizedModel, optimize
from xception.inference.runtimes import (
    Road,
    RuntimeChoice,
    check_runtime,
    installed_runtimes,
    require_runtime,
    version_of,
)
from xception.models import Classifier
from xception.models.summary import layer_macs

AnyModel = str | os.PathLike[str] | Classifier | OptimizedModel

# Multiply-accumulates for each of torch's threads from which on "auto" exports and measures. That
# takes some 20 s for a large network, once, and the fastest runtime saves about a third of torch's
# time, which is about 30e9 of them a second and thread: 20 s are won back after 60 s, 1.8e12. Twice
# as much, so that it also pays where the gain is smaller; on two threads these are 860 pictures of
# the paper's network.
WORTH_MACS = 3.6e12

SHORT = "other runtimes are tried where the work is longer"
FOREIGN = "other runtimes take float32 networks on the CPU"
ALONE = f"no other runtime is installed ({EXTRA})"


class Runner:
    """x, normalized float32 (N, C, H, W) on the CPU -> float32 (N, width), in eval mode.

    model: a model file, a run folder, a classifier, or what `optimize` has returned
    device: as for `as_network`
    runtime: "torch", "onnxruntime" or "openvino"; "auto" leaves torch where the work is long
        enough, the network float32 on the CPU, and the extra installed. None is "auto" for a file
        and "torch" for a classifier, whose weights may go on changing: other runtimes run them as
        they were when the first batch came.
    on_road: called once, as soon as it is settled, with the road that the batches take

    Raises ModelFileError, UsageError; XceptionError where `runtime` is not installed.
    """

    def __init__(
        self,
        model: AnyModel,
        *,
        device: str | torch.device | None = None,
        runtime: RuntimeChoice | None = None,
        output: Output = "logits",
        on_road: Callable[[Road], None] | None = None,
    ) -> None:
        self._fast: OptimizedModel | None = None
        self._on_road = on_road
        self._count = 0
        self._is_long = False
        if isinstance(model, OptimizedModel):
            if device is not None or runtime is not None or output != model.output:
                raise UsageError(
                    "an optimized model has its device, runtime and output; give none, or the "
                    "model that it was made of"
                )
            self.network, self._fast, self._runtime = model.network, model, None
        else:
            self.network = as_network(model, device)
            self._runtime = runtime or ("torch" if isinstance(model, Classifier) else "auto")
            check_runtime(self._runtime)
            if self._runtime != "auto":
                require_runtime(self._runtime)
        self._whole = NetworkOutput(self.network, output)
        self._is_free = self._runtime == "auto"  # to take another road than torch
        self._is_open = False  # whether the first batch is still to show what pays
        self._note = SHORT if self._is_free else ""

    @property
    def width(self) -> int:
        """Numbers that come out for a picture."""
        return self._whole.width

    @property
    def road(self) -> Road:
        """What has run the last batch, or would run one now."""
        if self._fast is not None and self._fast.road is not None:
            return self._fast.road
        return Road(
            runtime="torch",
            version=version_of("torch"),
            precision=str(next(self.network.parameters()).dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
            note=self._note,
            is_news=self._is_long,
        )

    def prepare(self, count: int) -> None:
        """Say that `count` pictures will come, 0 where that is not known."""
        self._count = count
        self._is_open = self._is_free and self._fast is None
        if self._fast is None and self._runtime not in ("auto", "torch"):
            self._fast = self._optimized()

    def __call__(self, x: Tensor) -> Tensor:
        if self._is_open and self._count > len(x):
            self._is_open = False
            rows, macs = self._counted(x)
            self._decide(macs * self._count)
            if self._fast is not None:
                return rows  # the road that this batch took was not the one to tell of
        else:
            rows = self._rows(x)
        if self._on_road is not None:
            on_road, self._on_road = self._on_road, None
            on_road(self.road)
        return rows

    def _rows(self, x: Tensor) -> Tensor:
        if self._fast is not None:
            try:
                return self._fast(x)
            except XceptionError as error:
                if not self._is_free:
                    raise
                self._give_up(error)
        return self._by_torch(x)

    def _by_torch(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return self._whole(placed(self.network, x)).float()

    def _counted(self, x: Tensor) -> tuple[Tensor, int]:
        """The rows, by torch, and the multiply-accumulates of one picture."""
        macs = 0

        def note(module: nn.Module, _: Any, output: Tensor) -> None:
            nonlocal macs
            macs += layer_macs(module, output)

        layers = (m for m in self.network.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
        handles = [layer.register_forward_hook(note) for layer in layers]
        try:
            return self._by_torch(x), macs
        finally:
            for handle in handles:
                handle.remove()

    def _decide(self, macs: float) -> None:
        """Take another road if so many multiply-accumulates, of all pictures, are worth it."""
        weight = next(self.network.parameters())
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            self._note = FOREIGN
            return
        self._is_long = macs / torch.get_num_threads() >= WORTH_MACS
        if not self._is_long:
            return
        if installed_runtimes() == ["torch"]:
            self._note = ALONE
            return
        try:
            self._fast = self._optimized()
        except Exception as error:
            # nobody has asked for more than torch, which runs whatever the network is
            self._give_up(error)

    def _optimized(self) -> OptimizedModel:
        if self._runtime is None:
            raise RuntimeError("the model is optimized already")
        return optimize(self.network, self._runtime, output=self._whole.output)

    def _give_up(self, error: Exception) -> None:
        self._fast, self._is_free = None, False
        self._note = f"no other could be taken: {' '.join(str(error).split())[:200]}"
