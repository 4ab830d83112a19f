"""How far an imported network is from the same weights in the library that they come from.

The input is fixed: two made-up pictures of the model's size. Both sides work in float32 and in
float64; only the second tells whether they are the same function.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xception.models import Classifier
from xception.weights.dialects.keras_plain import plain_config
from xception.weights.parity_pictures import parity_pictures, scaled
from xception.weights.wording import quoted

PICTURES = 2
TOLERANCE = 1e-9  # of the largest logit, in float64
TIMEOUT = 900  # seconds for Keras to start and to go through two pictures, twice


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """The largest difference of a logit (or feature, where there are no classes), and its scale."""

    library: str  # name and version
    size: tuple[int, int]  # height, width in pixels
    float32: float
    float64: float
    largest: float  # absolute value of the largest logit in float64

    @property
    def is_good(self) -> bool:
        """Whether both compute the same function, as far as float64 can tell."""
        return self.float64 <= TOLERANCE * self.largest

    def __str__(self) -> str:
        height, width = self.size
        text = (
            f"parity with {self.library} at {height}x{width}: largest difference of the logits "
            f"{self.float32:.1e} in float32, {self.float64:.1e} in float64"
        )
        if not self.largest > 0:
            return f"{text} (all logits are 0)"
        relative = (f"{value / self.largest:.1e}" for value in (self.float32, self.float64))
        return (
            f"{text}, relative to the largest logit ({self.largest:.3g}) {' and '.join(relative)}"
        )


def parity_with_keras(
    config: Mapping[str, Any], weights: Path, model: Classifier, *, takes_raw: bool
) -> Parity | str:
    """Compare `model` with what Keras makes of a configuration and a file of weights.

    config: as a file says it, of a network that was imported; it is cleaned here
    weights: an HDF5 file that was read before
    takes_raw: the network there scales values of 0..255 itself, which our preprocessing does
    Text says why they cannot be compared.
    """
    if find_spec("keras") is None:
        return "Keras is not installed"
    pictures = parity_pictures(model.preprocessing.size, model.in_channels, PICTURES)
    x = scaled(pictures, model.preprocessing)
    x_nhwc = (pictures if takes_raw else x).permute(0, 2, 3, 1).numpy()
    program = Path(__file__).with_name("parity_keras.py")
    with tempfile.TemporaryDirectory(prefix="xception-parity-") as name:
        folder = Path(name)
        try:
            (folder / "model.json").write_text(json.dumps(plain_config(config)), "utf-8")
        except (KeyError, TypeError, ValueError) as error:
            return f"its configuration cannot be cleaned ({quoted(error)})"
        ending = "weights.weights.h5" if "module" in config else "weights.h5"
        shutil.copyfile(weights, folder / ending)
        np.save(folder / "x_nhwc.npy", x_nhwc)
        # isolated: nothing beside the user's file, and no variable, is taken for a module
        command = [sys.executable, "-I", str(program), *_installed_in("keras", "torch", "numpy")]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, timeout=TIMEOUT, check=False
            )
            if done.returncode:
                lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
                reason = quoted(lines[-1], 200) if lines else f"exit code {done.returncode}"
                return f"Keras cannot load it ({reason})"
            with np.load(folder / "logits.npz", allow_pickle=False) as found:
                theirs32, theirs64 = (torch.from_numpy(found[k]) for k in ("float32", "float64"))
                library = f"Keras {found['version'].item()}"
        except subprocess.TimeoutExpired:
            return f"Keras took longer than {TIMEOUT} s"
        except (OSError, ValueError, KeyError) as error:
            return f"Keras gave no numbers ({quoted(error)})"
    return _compared(library, model, x, theirs32, theirs64)


def _installed_in(*packages: str) -> list[str]:
    """The folders in which these packages lie, for an interpreter that looks in few places."""
    specs = [find_spec(package) for package in packages]
    origins = [Path(spec.origin) for spec in specs if spec is not None and spec.origin is not None]
    return list(dict.fromkeys(str(origin.parent.parent) for origin in origins))


def parity_with_timm(name: str, tensors: dict[str, Tensor], model: Classifier) -> Parity | str:
    """Compare `model` with timm's network `name` and the file's own `tensors` in it.

    tensors: a state dict by timm's names; text says why they cannot be compared
    """
    if find_spec("timm") is None:
        return "timm is not installed"
    import timm

    arguments: dict[str, Any] = {"num_classes": model.num_classes, "in_chans": model.in_channels}
    try:
        theirs: nn.Module = timm.create_model(name, **arguments)
        theirs.load_state_dict(tensors)
    except RuntimeError as error:
        return f"timm cannot load it ({quoted(' '.join(str(error).split()), 200)})"
    pictures = parity_pictures(model.preprocessing.size, model.in_channels, PICTURES)
    x = scaled(pictures, model.preprocessing)
    theirs32 = _outputs(theirs.float(), x.float())
    theirs64 = _outputs(theirs.double(), x)
    return _compared(f"timm {timm.__version__}", model, x, theirs32, theirs64)


def _compared(
    library: str, model: Classifier, x: Tensor, theirs32: Tensor, theirs64: Tensor
) -> Parity | str:
    """x: float64 (N, C, H, W), what the network here gets."""
    ours = copy.deepcopy(model).cpu()
    ours32, ours64 = _outputs(ours.float(), x.float()), _outputs(ours.double(), x)
    if theirs64.shape[1] == 1 and ours64.shape[1] == 2:  # one logit there: the second of two here
        ours32, ours64 = (y[:, 1:] - y[:, :1] for y in (ours32, ours64))
    if ours64.shape != theirs64.shape:
        return (
            f"{library} gives {tuple(theirs64.shape[1:])} numbers a picture, "
            f"this model {tuple(ours64.shape[1:])}"
        )
    return Parity(
        library=library,
        size=model.preprocessing.size,
        float32=(ours32 - theirs32).abs().max().item(),
        float64=(ours64 - theirs64).abs().max().item(),
        largest=theirs64.abs().max().item(),
    )


@torch.inference_mode()
def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    outputs: Tensor = model.eval()(x)
    return outputs
