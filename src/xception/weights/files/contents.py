"""Named tensors out of a file, before anybody says which network they belong to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

Kind = Literal[
    "safetensors",  # names and tensors alone (a model file of our own is read elsewhere)
    "torch state dict",  # torch.save of a mapping of names to tensors
    "torch module",  # torch.save of a whole module; the names are those of its state dict
    "keras archive",  # Keras 3 .keras: configuration and weights
    "keras weights",  # Keras 3 .weights.h5: weights by the order of creation
    "keras h5",  # Keras 2 .h5 (and Keras 3's legacy form): weights by layer name, with or without
    # a configuration
]


@dataclass(frozen=True, kw_only=True, slots=True)
class FileContents:
    """What a reader found.

    kind: the form of the file
    tensors: in the file's order, as they are there (layout, dtype), on the CPU.
        "torch ...": the state dict's names, after wrappers ("state_dict", "model", ...) are opened.
        "keras archive", "keras weights": the path in the HDF5 file, without a leading slash, such
        as "layers/functional/layers/conv2d_2/vars/0"; the optimizer's are left out.
        "keras h5": "LAYER/WEIGHT" by the file's own listings of layers and weights, such as
        "block1_conv1/block1_conv1/kernel:0"; layers in the listing's order
    config: Keras's description of the model ({"class_name": ..., "config": ...}), None without one
    version: of the library that wrote it ("3.3.3"), None when the file does not say
    extra: what else the file says, name: value. "keras archive" and "keras weights": the layers'
        names as newer Keras 3 notes them ("layers/conv2d/vars@name": "block1_conv1"), and
        "xception", the description that our own export leaves; "keras h5": "backend"; "torch ...":
        entries of a checkpoint that are no weights
    origin: plain text on where it comes from for the report, such as the class of a pickled module
        ("network.models.TransferModel") or the key under which the tensors lay; "" when there is
        nothing to say
    """

    kind: Kind
    tensors: dict[str, Tensor]
    config: dict[str, Any] | None = None
    version: str | None = None
    origin: str = ""
    extra: dict[str, str] = field(default_factory=dict)
