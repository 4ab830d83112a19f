"""`xception info MODEL`: show a network or model file, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from xception.cli.arguments import Model, Switch, parse, unset
from xception.cli.output import writable_file
from xception.cli.screen import say, shown
from xception.errors import UsageError

if TYPE_CHECKING:
    from xception.models import Classifier
    from xception.weights import ModelDescription

DESCRIPTION = """Show a network or model file, layer by layer.

For each layer: what comes out of it (channels x height x width) for one picture, its
parameters, and its multiply-accumulates (MACs). MODEL is a name that `xception models`
lists, a model file, or a run folder; of a file, its classes, preprocessing and origin are
shown, too."""


@dataclass(kw_only=True)
class Arguments:
    """What the command line can say."""

    # name of a network, or what `predict` takes as a model
    model: Model
    # pixels, height and width of the picture
    size: Annotated[int | None, unset("PIXELS", "the model's")] = None
    # classes of a network that is given by name
    num_classes: Annotated[int | None, unset("INT", "1000")] = None
    # draw the flows of the network
    diagram: Annotated[Path | None, unset("FILE.png", "draw none")] = None
    # layers and totals as one JSON object
    json: Switch = False


def run(argv: Sequence[str]) -> int:
    """Show and draw; 0 where that could be done."""
    arguments = parse(Arguments, "info", DESCRIPTION, argv)
    diagram = None if arguments.diagram is None else writable_file(arguments.diagram)
    from xception.cli.layers import layers_as_json, show_description, show_layers
    from xception.models import list_models
    from xception.models.summary import summarize

    by_name = arguments.model in list_models()
    description: ModelDescription | None = None
    if by_name:
        model = _fresh(arguments.model, arguments.num_classes)
    elif arguments.num_classes is not None:
        raise UsageError("--num-classes goes with the name of a network; a file has its own")
    else:
        model, description = _from_file(arguments.model)
    try:
        rows = summarize(model, arguments.size)
    except ValueError as error:
        raise UsageError(f"--size {arguments.size}: {error}") from None
    if arguments.json:
        print(layers_as_json(model, rows))
    else:
        if description is not None:
            show_description(arguments.model, description)
        show_layers(model, rows, arguments.size)
    if diagram is not None:
        from xception.models.diagram import draw_diagram

        try:
            draw_diagram(model, diagram, arguments.size)
        except ValueError as error:
            raise UsageError(f"--diagram {diagram}: {error}") from None
        say(f"written: {diagram}")
    return 0


def _fresh(name: str, num_classes: int | None) -> Classifier:
    import torch

    from xception.models import create_model

    with torch.device("meta"):  # shapes and counts need no memory
        try:
            model = create_model(name, num_classes=1000 if num_classes is None else num_classes)
        except ValueError as error:
            raise UsageError(str(error)) from None
    return cast("Classifier", model)


def _from_file(name: str) -> tuple[Classifier, ModelDescription]:
    import difflib

    from xception.models import list_models
    from xception.weights import ModelDescription, is_elsewhere, open_model, published_names

    if not is_elsewhere(name) and not Path(name).expanduser().exists():
        near = difflib.get_close_matches(name, [*list_models(), *published_names()], n=1)
        hint = f"did you mean {near[0]}?" if near else "`xception models` lists the networks"
        raise UsageError(f"{name} is no network and there is no such file; {hint}")
    imported = open_model(name)
    for choice in imported.report.choices:
        say(f"chosen: {shown(choice)}")
    return imported.model, ModelDescription.of(imported.model, imported.provenance)
