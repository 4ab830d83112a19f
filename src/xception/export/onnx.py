"""A network as an ONNX file.

    to_onnx(model, "model.onnx")

Batch normalization is folded, height and width are fixed, and so padding by TensorFlow's rule is a
plain attribute of each convolution: nothing but convolutions, pools, sums and activations is left.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Literal

import torch

from xception.atomic import write_atomically
from xception.errors import UsageError, XceptionError
from xception.export.description import METADATA_KEY, describe
from xception.export.folding import fold_batch_norm
from xception.export.outputs import NetworkOutput, Output
from xception.export.requirements import require
from xception.models import Classifier

INPUT = "pictures"  # the name of the graph's input; its output has that of `Output`
MAX_BYTES = 2**31 - 1  # of one file of protocol buffers


def to_onnx(
    model: Classifier,
    path: str | os.PathLike[str],
    *,
    batch: Literal["dynamic"] | int = "dynamic",
    size: int | tuple[int, int] | None = None,
    output: Output = "logits",
) -> None:
    """Write `model` in float32 to `path` whole or not at all; the model is left as it is.

    batch: pictures at once; "dynamic" takes any number
    size: side or (height, width) of the pictures in pixels, by default the preprocessing's
    output: "logits" (N, num_classes), or features, see `Output`

    The graph takes "pictures", float32 (N, C, height, width), prepared as the model's preprocessing
    says, and gives one output that is called as `output`. Its metadata have the description of the
    model (class names, preprocessing, architecture) as JSON under "xception".
    Raises XceptionError where the extra is missing or the file cannot be written, UsageError for
    arguments that do not fit.
    """
    path = Path(path).expanduser()
    content = onnx_bytes(model, batch=batch, size=size, output=output)
    try:
        write_atomically(path.resolve(), content)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise XceptionError(f"{path}: cannot be written ({reason}); choose another place") from None


def onnx_bytes(
    model: Classifier,
    *,
    batch: Literal["dynamic"] | int = "dynamic",
    size: int | tuple[int, int] | None = None,
    output: Output = "logits",
) -> bytes:
    """What `to_onnx` writes. The arguments and errors are its own."""
    from xception import __version__

    require("an ONNX file", "onnx", "onnxscript")
    if batch != "dynamic" and (type(batch) is not int or batch < 1):
        raise UsageError(f"batch must be 'dynamic' or a positive integer, got {batch!r}")
    height, width = picture_size(model, size)
    network = fold_batch_norm(model).float().cpu()
    # Weights that lie channels last would be taken for the layout of what is computed with them:
    # a chain of shape operations then stands where one mean over the map does.
    network = network.to(memory_format=torch.contiguous_format)
    # two pictures: one would make torch.export take the number for a constant
    example = torch.zeros(2 if batch == "dynamic" else batch, model.in_channels, height, width)
    axes = {0: torch.export.Dim("batch")} if batch == "dynamic" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            NetworkOutput(network, output).eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=None if axes is None else (axes,),
            input_names=[INPUT],
            output_names=[output],
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gives no program")
    proto = program.model_proto
    _spell_out_pools(proto.graph)
    _clean(proto.graph)
    proto.producer_name, proto.producer_version = "xception", __version__
    proto.metadata_props.add(key=METADATA_KEY, value=describe(model))
    if proto.ByteSize() > MAX_BYTES:
        raise XceptionError(
            f"the network has {proto.ByteSize():,} bytes, and one ONNX file holds {MAX_BYTES:,}; "
            "give it fewer fc_units"
        )
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def picture_size(network: Classifier, size: int | tuple[int, int] | None = None) -> tuple[int, int]:
    """(height, width) in pixels that a static graph is made for, by default the preprocessing's.

    Raises UsageError when the network refuses so small a picture.
    """
    height, width = (size, size) if isinstance(size, int) else size or network.preprocessing.size
    least = network.minimum_size
    if min(height, width) < least:
        raise UsageError(
            f"size must be at least {least}x{least} pixels for this network, got {height}x{width}"
        )
    return height, width


def _spell_out_pools(graph: Any) -> None:
    """Pooling that rounds its output's size up becomes padding at the end, as TensorFlow has it.

    Not every runtime takes the former for a map that is smaller than the kernel.
    """
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in graph.value_info
    }
    for node in graph.node:
        given = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type != "MaxPool" or not given["ceil_mode"].i:
            continue
        sides = shapes[node.input[0]][2:]
        kernel, strides, pads = (given[name].ints for name in ("kernel_shape", "strides", "pads"))
        for axis, (side, extent, stride) in enumerate(zip(sides, kernel, strides, strict=True)):
            begin = pads[axis]
            outputs = -(-(side + begin + pads[axis + 2] - extent) // stride) + 1
            if (outputs - 1) * stride >= side + begin:
                outputs -= 1  # its window would lie in the padding altogether
            pads[axis + 2] = max((outputs - 1) * stride + extent - side - begin, 0)
        given["ceil_mode"].i = 0


def _clean(graph: Any) -> None:
    """Drop what the exporter notes of its own work, file paths of this machine among it."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for tensor in graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
