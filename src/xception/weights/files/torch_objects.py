"""The weights among the objects of a torch pickle: where they lie and what each is called.

People save a state dict, a dictionary that holds one beside the epoch and the optimizer, or a whole
module. A module's class is not needed for its weights: every `torch.nn.Module` keeps them in three
mappings, `_parameters`, `_buffers` and `_modules`, from which `state_dict()` takes its names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from xception.weights.files.pickle_values import Made, Name, Persistent, elements_of, pairs_of
from xception.weights.files.torch_storages import class_of
from xception.weights.files.torch_tensors import is_tensor
from xception.weights.wording import quoted

MAX_TENSORS = 20_000
MAX_DEPTH = 64  # of modules in modules
MAX_NAME = 512  # characters
MAX_NOTES = 50
MAX_STEPS = 500_000  # entries of mappings that are looked at; a pickle can repeat one for nothing
_MAX_WRAPPERS = 4  # dictionaries in dictionaries around the weights

WRAPPERS = (
    "state_dict", "model", "model_state_dict", "model_state", "state_dict_ema", "model_ema", "net",
    "network", "ema", "ema_state_dict", "net_state_dict", "params", "params_ema", "weights",
    "module",
)  # fmt: skip
PREFIXES = ("module.", "_orig_mod.")  # of nn.DataParallel, of torch.compile
_BESIDE_PREFIX = "n_averaged"  # torch.optim.swa_utils.AveragedModel has it beside "module."

_SAVE_STATE = "save model.state_dict() by torch.save where it can be loaded"
_NO_MODEL = "it is damaged or no model file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The records of tensors by name, and the words for where they were.

    notes: other plain values beside them, such as the epoch
    """

    kind: Literal["torch state dict", "torch module"]
    records: dict[str, Made]
    origin: str
    notes: dict[str, str]


def find_weights(value: Any) -> Weights:
    """The weights in `value`, the object of a torch pickle.

    Raises ValueError when there are none, or several of which none is the obvious one.
    """
    return _Search().run(value)


class _Search:
    """One search, which counts its steps."""

    def __init__(self) -> None:
        self.steps = 0
        self.notes: dict[str, str] = {}
        self.path: list[str] = []  # of the wrappers that were opened

    def run(self, value: Any) -> Weights:
        for _ in range(_MAX_WRAPPERS):
            if self.is_module(value):
                return self.from_module(value)
            entries = self.entries(value)
            if entries is None:
                break
            self.note(entries)
            key = self.wrapper(entries)
            if key is None:
                records = {name: entry for name, entry in entries.items() if is_tensor(entry)}
                if not records:
                    break
                return self.result("torch state dict", records)
            self.path.append(key)
            value = entries[key]
        raise ValueError(f"holds {_described(value)}, no state dict and no module; {_SAVE_STATE}")

    def from_module(self, module: Made) -> Weights:
        prefix = ""
        while (inner := self.only_child(module)) and len(prefix) < MAX_NAME:
            prefix += inner[0]
            module = inner[1]
        records = dict(self.walk(module))
        if not records:
            raise ValueError(f"holds {_described(module)} without weights; {_SAVE_STATE}")
        return self.result("torch module", records, _class_name(module), prefix)

    def result(
        self,
        kind: Literal["torch state dict", "torch module"],
        records: dict[str, Made],
        what: str = "",
        removed: str = "",
    ) -> Weights:
        if len(records) > MAX_TENSORS:
            raise ValueError(f"holds more than {MAX_TENSORS:,} tensors; {_NO_MODEL}")
        records, prefix = self.without_prefix(records)
        for name in records:
            if not name or not _checked(name).isprintable():
                raise ValueError(f"holds a tensor whose name is {quoted(name)!r}; {_NO_MODEL}")
        removed += prefix
        under = f"under {' > '.join(map(quoted, self.path))}" if self.path else ""
        without = f"without the prefix {removed}" if removed else ""
        origin = ", ".join(text for text in (what, under, without) if text)
        return Weights(kind=kind, records=records, origin=origin, notes=self.notes)

    def walk(self, module: Made) -> Iterator[tuple[str, Made]]:
        """The tensors of a module's state dict, in its order, with their names."""
        waiting: list[tuple[str, Any, int]] = [("", module, 0)]
        count = 0
        while waiting:
            prefix, part, depth = waiting.pop()
            if depth > MAX_DEPTH:
                raise ValueError(f"holds modules more than {MAX_DEPTH} deep; {_NO_MODEL}")
            if not self.is_module(part):
                raise ValueError(
                    f"holds {_described(part)} as its part {quoted(prefix[:-1])!r}, which cannot "
                    f"be read without its code; {_SAVE_STATE}"
                )
            attributes = self.attributes(part)
            for name, record in self.own_tensors(attributes):
                if not is_tensor(record):
                    shown = quoted(prefix + name)
                    raise ValueError(f"holds {_described(record)} as {shown!r}; {_SAVE_STATE}")
                count += 1
                if count > MAX_TENSORS:
                    raise ValueError(f"holds more than {MAX_TENSORS:,} tensors; {_NO_MODEL}")
                yield _checked(prefix + name), record
            children = self.mapping(attributes, "_modules")
            for name, child in reversed(children.items()):
                if child is not None:
                    waiting.append((_checked(f"{prefix}{name}."), child, depth + 1))

    def own_tensors(self, attributes: dict[str, Any]) -> list[tuple[str, Any]]:
        """Parameters and buffers that a module has itself and that its state dict holds."""
        left_out = elements_of(attributes.get("_non_persistent_buffers_set"))
        self.count(1 + len(left_out))
        temporary = {name for name in left_out if isinstance(name, str)}
        parameters = self.mapping(attributes, "_parameters")
        buffers = self.mapping(attributes, "_buffers")
        kept = {name: value for name, value in buffers.items() if name not in temporary}
        own = (*parameters.items(), *kept.items())
        return [(name, value) for name, value in own if value is not None]

    def only_child(self, module: Made) -> tuple[str, Made] | None:
        """(prefix, module) when `module` holds nothing but one child that it wraps."""
        attributes = self.attributes(module)
        children = self.mapping(attributes, "_modules")
        own = [name for name, _ in self.own_tensors(attributes) if name != _BESIDE_PREFIX]
        if len(children) != 1 or own:
            return None
        name, child = next(iter(children.items()))
        return (f"{name}.", child) if f"{name}." in PREFIXES and self.is_module(child) else None

    def wrapper(self, entries: dict[str, Any]) -> str | None:
        """The key under which the weights lie, None when they are `entries` themselves."""
        known = [key for key in WRAPPERS if self.holds_tensors(entries.get(key))]
        if known:
            if len(known) > 1:
                self.notes["other weights"] = ", ".join(known[1:])
            return known[0]
        least = _tensors_in(entries)  # tensors beside the weights, such as a random state
        others = [key for key, value in entries.items() if self.holds_tensors(value, least)]
        if len(others) > 1:
            names = ", ".join(quoted(key) for key in others[:4])
            raise ValueError(f"holds several sets of tensors ({names}); save one of them by itself")
        return others[0] if others else None

    def holds_tensors(self, value: Any, least: int = 0) -> bool:
        if self.is_module(value):
            return True
        entries = self.entries(value)
        if not entries:
            return False
        if _tensors_in(entries) > least:
            return True
        inner = [entries[key] for key in WRAPPERS if key in entries]
        return any(self.is_module(v) or _tensors_in(self.entries(v) or {}) for v in inner)

    def is_module(self, value: Any) -> bool:
        return (
            isinstance(value, Made) and {"_parameters", "_modules"} <= self.attributes(value).keys()
        )

    def attributes(self, value: Made) -> dict[str, Any]:
        """The attributes of an object that was pickled with them."""
        state = value.state
        if isinstance(state, tuple) and state:  # (attributes, those in __slots__)
            state = state[0]
        return self.entries(state) or {}

    def mapping(self, attributes: dict[str, Any], name: str) -> dict[str, Any]:
        return self.entries(attributes.get(name)) or {}

    def entries(self, value: Any) -> dict[str, Any] | None:
        """The entries of a mapping that have a text for a key; None of what is no mapping."""
        pairs = pairs_of(value)
        if pairs is None:
            return None
        self.count(len(pairs))
        return {key: entry for key, entry in pairs if isinstance(key, str)}

    def count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise ValueError(f"holds more than {MAX_STEPS:,} objects around tensors; {_NO_MODEL}")

    def note(self, entries: dict[str, Any]) -> None:
        plain = [(k, v) for k, v in entries.items() if isinstance(v, (bool, int, float, str))]
        for key, value in plain[: MAX_NOTES - len(self.notes)]:
            self.notes[quoted(key)] = quoted(value)

    def without_prefix(self, records: dict[str, Made]) -> tuple[dict[str, Made], str]:
        """The records without a prefix that all names have, and the prefix."""
        removed = ""
        while len(removed) < MAX_NAME:
            names = [name for name in records if name != _BESIDE_PREFIX]
            common = [p for p in PREFIXES if names and all(name.startswith(p) for name in names)]
            if not common:
                break
            if len(names) < len(records):
                self.notes[_BESIDE_PREFIX] = "left out"
            records = {name.removeprefix(common[0]): records[name] for name in names}
            removed += common[0]
        return records, removed


def _tensors_in(entries: dict[str, Any]) -> int:
    return sum(is_tensor(value) for value in entries.values())


def _checked(name: str) -> str:
    if len(name) > MAX_NAME:
        raise ValueError(f"holds a tensor name of more than {MAX_NAME} characters; {_NO_MODEL}")
    return name


def _class_name(value: Made) -> str:
    """The class of an object, by the call that would have made it."""
    made_by = value.function
    if isinstance(made_by, Name) and made_by.name in ("_reconstructor", "__newobj__"):
        made_by = value.arguments[0] if value.arguments else made_by
    if isinstance(made_by, Persistent):
        made_by = class_of(made_by)
    return quoted(made_by) if isinstance(made_by, Name) else "an unknown class"


def _described(value: Any) -> str:
    """What an object is, for an error."""
    if pairs_of(value) is not None:
        return "a mapping without tensors"
    if isinstance(value, Made):
        return "a single tensor" if is_tensor(value) else f"an object of {_class_name(value)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value):,} values"
    return {str: "a text", bytes: "bytes", type(None): "nothing"}.get(type(value), "a single value")
