"""A classifier made from somebody else's file, and the account of how it was made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from xception.models import Classifier


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportReport:
    """What became of a file's tensors, and what had to be chosen.

    dialect: what the file was taken for, such as "timm legacy_xception state dict"
    mapped: (name there, name in our state dict), one a tensor that was taken over
    left_out: names there that hold nothing a network needs (optimizer, auxiliary outputs), each
        with the reason
    choices: one sentence for each thing that the file does not say and that was decided for it
        ("the file does not say how pictures are scaled: x / 127.5 - 1, as Keras's Xception"), or
        that stands there in another form ("its softmax at the end is left away")
    """

    dialect: str
    mapped: tuple[tuple[str, str], ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """A classifier in eval mode with its class names and preprocessing, and the report.

    provenance: where the weights came from, as a model file keeps it
    takes_raw: the network there scales values of 0..255 itself; here the preprocessing does
    """

    model: Classifier
    report: ImportReport = field(repr=False)
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)
    takes_raw: bool = False
