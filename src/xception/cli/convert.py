"""`xception convert SOURCE FILE`: weights of one library for another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from xception.cli.arguments import Switch, parse, unset, word
from xception.cli.output import writable_file
from xception.cli.screen import say, shown, stages
from xception.errors import UsageError
from xception.weights.wording import CLASSES_UNSAID, PICTURES_UNSAID

if TYPE_CHECKING:
    from xception.weights import Conversion, Parity

DESCRIPTION = """Turn weights of one library into a file for another.

SOURCE is a model file or run folder of xception, a Keras file (.keras, .weights.h5, .h5),
or a state dict or pickled module of timm, Cadene's or FaceForensics' Xception (.pth,
.safetensors), whose content tells which; or hf-hub:OWNER/NAME, or a name that `xception
models --pretrained` lists. FILE's ending tells what is written: .safetensors a
model file of xception, .keras or .weights.h5 Keras, .pth a state dict by timm's names.

What was mapped and what had to be chosen is printed, and, where the other library is
installed, how far the logits of the two are apart."""

SCALINGS = {  # name: (mean, standard deviation) of values in 0..1
    "keras": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_MAX_NAMES_BYTES = 10_000_000


@dataclass(kw_only=True)
class Arguments:
    """What the command line can say."""

    # file or run folder to read
    source: Annotated[str, tyro.conf.Positional, word("SOURCE")]
    # file to write
    destination: Annotated[Path, tyro.conf.Positional, word("FILE")]
    # whose file to write
    to: Annotated[
        Literal["xception", "timm", "cadene", "keras"] | None,
        unset("{xception,timm,cadene,keras}", "as FILE ends"),
    ] = None
    # names of the classes in order, a text file with one a line, or imagenet
    classes: Annotated[tuple[str, ...], unset("NAME ...", "the source's")] = ()
    # pixels, height and width that the network sees
    size: Annotated[int | None, unset("PIXELS", "the source's")] = None
    # how pictures of other shapes become square
    resize: Annotated[
        Literal["crop", "squash", "pad"] | None, unset("{crop,squash,pad}", "the source's")
    ] = None
    # how pictures are resized
    interpolation: Annotated[
        Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] | None,
        unset("{nearest,bilinear,bicubic,lanczos,box}", "the source's"),
    ] = None
    # how numbers are scaled: -1..1 as Keras does, or by ImageNet's mean and deviation
    scaling: Annotated[
        Literal["keras", "imagenet"] | None, unset("{keras,imagenet}", "the source's")
    ] = None
    # do not compare with the other library
    no_check: Switch = False
    # name there and name here of every tensor
    mapping: Switch = False


def run(argv: Sequence[str]) -> int:
    """Read, compare, write; 0 where that could be done."""
    arguments = parse(Arguments, "convert", DESCRIPTION, argv)
    if not any(arguments.classes) and any(w.partition("=")[0] == "--classes" for w in argv):
        raise UsageError("--classes needs names, a text file with one a line, or imagenet")
    destination = writable_file(arguments.destination)
    is_here = os.path.lexists(arguments.source)  # a download has a bar of its own
    with stages(f"reading {arguments.source}" if is_here else None) as stage:
        from xception.weights import convert

        conversion = convert(
            arguments.source,
            destination,
            to=arguments.to,
            classes=_class_names(arguments.classes),
            changes=_changes(arguments),
            check=not arguments.no_check,
            stage=stage,
        )
    _show(arguments, conversion)
    bad = [p for p in (conversion.parity, conversion.parity_after) if _is_bad(p)]
    if bad:
        say(
            "xception: the two compute different numbers: do not rely on this file, and report it "
            "with its dialect and versions"
        )
    return 1 if bad else 0


def _class_names(words: tuple[str, ...]) -> list[str] | None:
    if not words:
        return None
    if words == ("imagenet",):
        from xception.weights import imagenet_classes

        return list(imagenet_classes())
    path = Path(words[0]).expanduser()
    if len(words) == 1 and path.is_file():
        try:
            if path.stat().st_size > _MAX_NAMES_BYTES:
                raise UsageError(f"--classes {path}: too large for a list of names")
            return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--classes {path}: no text file that can be read ({error})") from None
    if len(words) == 1 and ("/" in words[0] or path.suffix == ".txt"):
        raise UsageError(f"--classes {words[0]}: there is no such file")
    return list(words)


def _changes(arguments: Arguments) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if arguments.size is not None:
        changes["size"] = (arguments.size, arguments.size)
    for name in ("resize", "interpolation"):
        if getattr(arguments, name) is not None:
            changes[name] = getattr(arguments, name)
    if arguments.scaling is not None:
        changes["mean"], changes["std"] = SCALINGS[arguments.scaling]
    return changes


def _show(arguments: Arguments, conversion: Conversion) -> None:
    from xception.cli.layers import show_description
    from xception.weights import ModelDescription

    report = conversion.report
    print(f"{shown(arguments.source)}: {shown(report.dialect)}")
    if report.mapped:
        print(f"mapped {len(report.mapped)} tensors")
    if arguments.mapping:
        _show_names(report.mapped)
        if not report.mapped and conversion.target == "xception":
            print(f"all {len(conversion.model.state_dict())} tensors keep their names")
    for name, reason in report.left_out:
        print(f"left out {shown(name)}: {shown(reason)}")
    for choice in _still_chosen(arguments, report.choices):
        print(f"chosen: {shown(choice)}")
    _show_parity(conversion.parity, "")
    show_description(str(arguments.destination), ModelDescription.of(conversion.model, {}))
    if conversion.written:
        print(f"written {len(conversion.written)} tensors")
    if arguments.mapping:
        _show_names(conversion.written)
        if not conversion.written and conversion.target != "xception":
            print("names in the written file: by its weights alone they cannot be told")
    _show_parity(conversion.parity_after, "written file: ")
    _say_what_it_lacks(conversion, arguments.destination.name)
    say(f"written: {arguments.destination}")


def _show_names(pairs: Sequence[tuple[str, str]]) -> None:
    """What each tensor was called and is called."""
    for before, after in pairs:
        print(f"  {shown(before)} -> {shown(after)}")


def _still_chosen(arguments: Arguments, choices: Sequence[str]) -> list[str]:
    """The choices without those that the command line has made."""
    gone: list[str] = []
    if arguments.classes:
        gone.append(CLASSES_UNSAID)
    if arguments.size or arguments.resize or arguments.interpolation or arguments.scaling:
        gone.append(PICTURES_UNSAID)
    return [choice for choice in choices if not choice.startswith(tuple(gone))]


def _say_what_it_lacks(conversion: Conversion, name: str) -> None:
    """Formats of others have no place for everything."""
    if conversion.target == "xception":
        return
    p = conversion.model.preprocessing
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (p.mean, p.std))
    print(f"the network in {name} takes (x / 255 - mean) / std with mean {mean} and std {std}")
    if not name.lower().endswith(".keras"):
        print(f"{name} holds weights alone: class names and preprocessing are not in it")


def _is_bad(parity: Parity | str | None) -> bool:
    return parity is not None and not isinstance(parity, str) and not parity.is_good


def _show_parity(parity: Parity | str | None, whose: str) -> None:
    if parity is not None:
        print(f"{whose}{parity if not isinstance(parity, str) else f'no parity: {parity}'}")
