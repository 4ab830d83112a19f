"""A network as OpenVINO's intermediate representation, in memory or on disk.

    to_openvino(model, "model.xml")     weights lie beside it, in model.bin

It is read from ONNX, whose reader sends nothing anywhere; `openvino.convert_model` reports its use.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from xception.atomic import move_atomically
from xception.errors import UsageError, XceptionError
from xception.export.description import METADATA_KEY, describe
from xception.export.onnx import onnx_bytes
from xception.export.outputs import Output
from xception.export.requirements import require
from xception.models import Classifier


def to_openvino(
    model: Classifier,
    path: str | os.PathLike[str] | None = None,
    *,
    batch: Literal["dynamic"] | int = "dynamic",
    size: int | tuple[int, int] | None = None,
    output: Output = "logits",
) -> Any:
    """The `openvino.Model` of `model` in float32, written to `path` (.xml) as well if it is given.

    The other arguments are those of `to_onnx`, as are names and meaning of input and output. The
    description of the model is `rt_info` "xception".
    Raises XceptionError where the extra is missing or the files cannot be written, UsageError for
    arguments that do not fit.
    """
    require("an OpenVINO model", "openvino")
    content = onnx_bytes(model, batch=batch, size=size, output=output)
    import openvino

    converted = openvino.Core().read_model(content)
    converted.set_rt_info(describe(model), METADATA_KEY)
    if path is not None:
        save_openvino(converted, Path(path).expanduser())
    return converted


def save_openvino(model: Any, path: Path) -> None:
    """Write an `openvino.Model` to `path` (.xml) and its weights to .bin beside it, uncompressed.

    Each file is whole or not there; the one that names the other comes last. Raises UsageError for
    another ending, XceptionError where they cannot be written.
    """
    if path.suffix != ".xml":
        raise UsageError(f"{path}: give a name that ends in .xml; weights lie beside it, in .bin")
    import openvino

    path = path.resolve()
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
            made = Path(folder) / path.name
            # else weights become float16, which loses more than an export may
            openvino.save_model(model, made, compress_to_fp16=False)
            move_atomically(made.with_suffix(".bin"), path.with_suffix(".bin"))
            move_atomically(made, path)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:160]
        raise XceptionError(f"{path}: cannot be written ({reason}); choose another place") from None
