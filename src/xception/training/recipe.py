"""Everything that decides a training run, in one dataclass: command line, YAML and Python alike.

    recipe = Recipe.preset("small", data="pictures/", epochs=20)
    recipe.save("recipe.yaml")
    recipe = Recipe.load("recipe.yaml")

Torch is not imported here, so `xception train --help` answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from xception.errors import RecipeError

MAX_RECIPE_BYTES = 1_000_000


@dataclass(kw_only=True, slots=True)
class Recipe:
    """One training run. Each field says its unit and meaning; None leaves the choice to the model.

    Raises RecipeError naming the field when a value is not allowed.
    """

    # What is learned, and where the result goes
    data: str = "fashion-mnist-5k"  # folder of class folders, table, or data set name
    model: str | None = None  # see `xception models`; None: that of the weights, else xception_tiny
    weights: str | None = None  # to start from: model file, Keras, timm or published name
    name: str | None = None  # run folder's name under `out`; None: model, data and a number
    out: str = "runs"  # folder that holds run folders

    # The network (None: the network's own default)
    segments: int | Literal["channels"] | None = None  # spatial segments a layer; channels: all
    intermediate_activation: Literal["none", "relu", "elu"] | None = None  # in between
    residual: bool | None = None  # residual connections
    pooling: Literal["avg", "max"] | None = None  # over height and width of the last feature map
    fc_units: tuple[int, ...] | None = None  # units of fully connected layers before the classes
    head_layers: tuple[str, ...] | None = None  # layers instead: "linear 64" relu "dropout 0.5" ...
    dropout: float | None = None  # probability, before the last layer
    output_stride: int | None = None  # input pixels a feature pixel
    padding: Literal["keras", "torch"] | None = None  # TensorFlow's SAME or symmetric
    bn_eps: float | None = None  # epsilon of batch normalization
    bn_momentum: float | None = None  # share of a new batch in the running statistics

    # Pictures
    size: int | None = None  # pixels, height and width that the network sees; None: the model's
    resize: Literal["crop", "squash", "pad"] | None = None  # how other shapes become square
    val_fraction: float = 0.1  # share of the training pictures held out when there is no val split
    cache: Literal["auto", "ram", "none"] = "auto"  # keep pictures in memory (auto: up to 1 GiB)
    workers: int | None = None  # decoding processes; None: by the machine, 0: in this one
    max_unreadable: float = 0.01  # share of unreadable pictures at which the run stops

    # Augmentation of training pictures
    crop: Literal["none", "pad", "resized"] = "pad"  # random crop after padding, or of random size
    crop_padding: int = 4  # pixels on each side before a "pad" crop
    crop_edges: Literal["black", "reflect"] = "black"  # what a "pad" crop shows beyond the edge
    crop_scale: tuple[float, float] = (0.35, 1.0)  # area share that a "resized" crop takes
    flip: bool = True  # mirror left-right half of the time
    color_jitter: float = 0.0  # strength of brightness, contrast and saturation changes, 0..1
    randaugment: int = 0  # magnitude of RandAugment, 0..30; 0: off
    cutout: int = 0  # pixels, side of a square that is greyed out; 0: off
    erase: float = 0.0  # probability of erasing a random rectangle

    # Optimization
    epochs: int = 10  # passes over the training pictures
    batch_size: int = 128  # pictures a step, of all processes together
    adapt: bool = True  # few pictures: fewer a step, lr and bn_momentum accordingly
    optimizer: Literal["sgd", "adamw", "muon", "rmsprop"] = "sgd"  # rmsprop: TensorFlow's
    lr: float = 0.3  # highest learning rate
    lr_batch: int | None = None  # pictures a step that `lr` is meant for: others scale it
    momentum: float = 0.9  # of SGD, Muon and RMSprop; first beta of AdamW
    nesterov: bool = True  # Nesterov's form of SGD's momentum
    weight_decay: float = 5e-4  # L2 for SGD and RMSprop, decoupled for the others
    no_decay: tuple[str, ...] = ("norm", "bias", "depthwise")  # kinds of weights without decay
    schedule: Literal["cosine", "linear", "step", "constant"] = "linear"  # after warm-up, to zero
    warmup: float = 0.2  # share of the epochs in which the learning rate grows from zero
    step_decay: float = 0.94  # "step": the learning rate is multiplied by this
    step_epochs: float = 2.0  # "step": every so many epochs
    step_pictures: int | None = None  # "step": every so many training pictures instead
    sampling: Literal["each", "balanced"] = "each"  # each picture once, or all classes as often
    class_weights: Literal["none", "balanced"] = "none"  # balanced: rare classes' losses count more
    label_smoothing: float = 0.0  # share of the target spread over all classes
    accumulate: int = 1  # parts in which a step's pictures are computed, one after the other
    clip_norm: float = 0.0  # gradients are scaled down to this norm; 0: never
    averaging: float = 0.99  # decay a step of the averaged weights that are evaluated; 0: none
    select: Literal["last", "best"] = "last"  # epoch (best by validation) that becomes the model
    patience: int | None = None  # epochs without a better validation accuracy that end the run
    evaluate_on: Literal["val", "test"] | None = None  # measured at the end; None: test if there is
    freeze_epochs: int = 0  # first epochs that train the head alone (with `weights`)
    freeze_norm: bool = False  # below the head, normalize by the statistics of `weights` throughout
    backbone_lr: float = 1.0  # learning rate of all but the head, as a share of `lr`
    layer_decay: float = 1.0  # factor on it for each block further from the head, 0..1

    # The run
    seed: int = 0  # of weights, order, augmentation and the validation split
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the network's arithmetic (autocast)
    sync_bn: bool = False  # several processes: batch normalization over all their pictures
    compile: bool = False  # torch.compile the network
    checkpoint_gradients: bool = False  # recompute activations in backward: less memory, slower
    trackers: tuple[str, ...] = ("tensorboard",)  # tensorboard, wandb, mlflow (where installed)

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _converted(field.name, getattr(self, field.name), hints[field.name])
            setattr(self, field.name, value)
        self._check_ranges()

    def _check_ranges(self) -> None:
        positive = ("epochs", "lr", "step_epochs", "step_decay")
        not_negative = (
            "weight_decay", "clip_norm", "crop_padding", "cutout",
            "freeze_epochs", "backbone_lr",
        )  # fmt: skip
        shares = ("label_smoothing", "averaging", "momentum", "val_fraction", "warmup")
        for name in positive:
            _require(getattr(self, name) > 0, name, "above 0", self)
        for name in not_negative:
            _require(getattr(self, name) >= 0, name, "at least 0", self)
        for name in shares:
            _require(0 <= getattr(self, name) < 1, name, "at least 0 and below 1", self)
        for name in ("erase", "max_unreadable", "color_jitter"):
            _require(0 <= getattr(self, name) <= 1, name, "within 0..1", self)
        # Batch normalization in training needs more than one value a channel.
        _require(self.batch_size >= 2, "batch_size", "at least 2", self)
        _require(0 <= self.seed < 2**63, "seed", "within 0..2^63 - 1", self)
        _require(0 <= self.randaugment <= 30, "randaugment", "within 0..30", self)
        _require(self.size is None or 1 <= self.size <= 8_192, "size", "within 1..8192", self)
        _require(self.workers is None or self.workers >= 0, "workers", "at least 0", self)
        _require(
            self.bn_momentum is None or 0 < self.bn_momentum <= 1, "bn_momentum", "in 0..1", self
        )
        _require(self.accumulate >= 1, "accumulate", "at least 1", self)
        for name in ("lr_batch", "step_pictures", "patience"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, "at least 1", self)
        _require(self.dropout is None or 0 <= self.dropout < 1, "dropout", "within 0..1", self)
        _require(self.bn_eps is None or self.bn_eps > 0, "bn_eps", "above 0", self)
        _require(0 < self.layer_decay <= 1, "layer_decay", "above 0 and at most 1", self)
        low, high = self.crop_scale
        _require(0 < low <= high <= 1, "crop_scale", "two rising shares in 0..1", self)
        _require(bool(self.data), "data", "a folder, table or data set name", self)
        name_is_safe = self.name is None or self.name == Path(self.name).name
        _require(name_is_safe and self.name != "", "name", "a folder name without slashes", self)
        kinds = {"norm", "bias", "depthwise"}
        _require(set(self.no_decay) <= kinds, "no_decay", f"among {sorted(kinds)}", self)

    def model_arguments(self) -> dict[str, Any]:
        """The architecture's arguments that this recipe sets, for `create_model`."""
        names = (
            "segments", "intermediate_activation", "residual", "pooling", "fc_units",
            "head_layers", "dropout", "output_stride", "padding", "bn_eps", "bn_momentum",
        )  # fmt: skip
        return {n: getattr(self, n) for n in names if getattr(self, n) is not None}

    def replaced(self, **changes: Any) -> Recipe:
        """A copy with other values; raises RecipeError for unknown fields."""
        _check_names(changes)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML types, every field, in the order of the class."""
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in dataclasses.fields(self)
            for value in (getattr(self, field.name),)
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "recipe") -> Recipe:
        """Build from a mapping; `preset` in it gives the base that the others change."""
        if not isinstance(values, dict):
            raise RecipeError(f"{where}: a recipe is a mapping of field: value")
        values = dict(values)
        base = values.pop("preset", None)
        _check_names(values, where)
        return cls.preset(str(base), **values) if base is not None else cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a YAML file; raises RecipeError naming the file and the field."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                text = file.read(MAX_RECIPE_BYTES + 1)
        except OSError as error:
            raise RecipeError(f"cannot read recipe {path}: {error.strerror}") from None
        if len(text) > MAX_RECIPE_BYTES:
            raise RecipeError(f"{path} is too large to be a recipe (over {MAX_RECIPE_BYTES} bytes)")
        try:
            values = yaml.safe_load(text)
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RecipeError(f"{path} is not valid YAML: {line}") from None
        try:
            return cls.from_dict(values, str(path))
        except RecipeError as error:
            text_of_error = str(error)
            prefix = "" if text_of_error.startswith(str(path)) else f"{path}: "
            raise RecipeError(prefix + text_of_error) from None

    def to_yaml(self) -> str:
        """The recipe as YAML, fields in the order of the class."""
        return str(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML, for `load` and `xception train --recipe`."""
        Path(path).write_text(self.to_yaml(), encoding="utf-8")

    @classmethod
    def preset(cls, preset_name: str, /, **changes: Any) -> Recipe:
        """One of the named recipes (see presets.py), with changes."""
        from xception.training.presets import PRESETS

        if preset_name not in PRESETS:
            raise RecipeError(_unknown("preset", preset_name, list(PRESETS)))
        _check_names(changes)
        return cls(**{**PRESETS[preset_name], **changes})


def field_names() -> list[str]:
    """The names of all recipe fields."""
    return [field.name for field in dataclasses.fields(Recipe)]


def _require(condition: Any, name: str, wanted: str, recipe: Recipe) -> None:
    if not condition:
        raise RecipeError(
            f"recipe field {name} must be {wanted}, got {_short(getattr(recipe, name))}"
        )


def _check_names(values: dict[str, Any], where: str = "recipe") -> None:
    known = field_names()
    for name in values:
        if name not in known:
            raise RecipeError(f"{where}: {_unknown('field', str(name), known)}")


def _unknown(kind: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return f"there is no {kind} {name!r}; {hint}"


def _converted(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type that the field declares (YAML has no tuples, and 1 may stand for 1.0)."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        for option in get_args(hint):
            try:
                return _converted(name, value, option)
            except RecipeError:
                continue
    elif origin is Literal:
        if any(value == option and type(value) is type(option) for option in get_args(hint)):
            return value
    elif origin is tuple:
        kinds = get_args(hint)
        if isinstance(value, (list, tuple)):
            if kinds[-1] is Ellipsis:
                return tuple(_converted(name, v, kinds[0]) for v in value)
            if len(value) == len(kinds):
                return tuple(_converted(name, v, k) for v, k in zip(value, kinds))
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
            return float(value)
        if isinstance(value, str):  # YAML 1.1 reads 1e-4 (no dot) as text
            try:
                return float(value)
            except ValueError:
                pass
    elif type(value) is hint:
        return value
    raise RecipeError(f"recipe field {name} must be {_type_name(hint)}, got {_short(value)}")


def _short(value: Any) -> str:
    """A value for a message: a YAML file of some hundred bytes can hold one of gigabytes."""
    text = reprlib.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _type_name(hint: Any) -> str:
    if hint is type(None):
        return "null"
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(str(option) for option in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_type_name(option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        return "a list of " + _type_name(get_args(hint)[0])
    return {int: "an integer", float: "a number", str: "text", bool: "true or false"}[hint]
