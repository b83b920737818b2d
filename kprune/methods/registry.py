"""The methods of this package, as data, and how a method is built from its entry; only then is the method's module imported."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from kprune.errors import UserError
from kprune.settings_checks import described, fits

if TYPE_CHECKING:
    from kprune.contract import Method

Group = Literal["ours", "retraining-free", "floor", "retrained"]


@dataclass(frozen=True)
class Entry:
    """What the command line, tables and figures know of a method.

    Attributes:
        label: its name in tables and figures.
        group: "ours" for K-prune and K-prune+ with their presets, "retraining-free" for their competitors, "floor" for
            methods that any other must beat, "retrained" for methods that train on the whole training set.
        path: "module:Class". The class is a frozen dataclass; its fields are the settings, all with defaults, `name` among
            them.
        settings: values that differ from the class's defaults, nested as the class has them.
    """

    label: str
    group: Group
    path: str
    settings: Mapping[str, Any] = field(default_factory=dict)


KPRUNE, KPRUNE_PLUS = "kprune.methods.kprune.algorithm:KPrune", "kprune.methods.kprune_plus.algorithm:KPrunePlus"
# The authors' code: every departure from the paper switched on (docs/notes/differences_from_the_paper.md).
OFFICIAL = {
    "lambdas": (2.5e-4,),
    "mu": 64.0,
    "knowledge": {"kl": "teacher_student", "gradient": "batch", "head": "mean_of_dimensions"},
    "fill_budget": False,
    "strict_threshold": True,
    "solve": "float32",
    "ridge": 0.0,
    "keep_bias": False,
    "drawn_batches": True,
    "span_padding": True,
}
FAST = {"measure_every": 2, "measure_examples": 8}

METHODS: dict[str, Entry] = {
    "kprune_plus": Entry("K-prune+", "ours", KPRUNE_PLUS),
    "kprune_plus_fast": Entry("K-prune+, fast", "ours", KPRUNE_PLUS, {"refit_epochs": 0}),
    "kprune_two_lambdas": Entry("K-prune, better of two λ", "ours", KPRUNE, {"lambdas": (0.02, 0.1)}),
    "kprune": Entry("K-prune", "ours", KPRUNE),
    "kprune_official_two_lambdas": Entry(
        "K-prune, authors' code, better of two λ", "ours", KPRUNE, OFFICIAL | {"lambdas": (2.5e-4, 1.0)}
    ),
    "kprune_official": Entry("K-prune, authors' code", "ours", KPRUNE, OFFICIAL),
    "kprune_fast": Entry("K-prune, fast", "ours", KPRUNE, FAST),
    # Where norms come first, as in decoders.
    "kprune_fisher": Entry(
        "K-prune, Fisher", "ours", KPRUNE, FAST | {"lambdas": (0.001,), "knowledge": {"predictive": "fisher"}}
    ),
}
"""This package's own methods, in the order that tables show them in. `baselines.registry.METHODS` has all."""


def find_method(name: str) -> "Method":
    """Return the method of a name, with the settings of its entry.

    Raises:
        UserError: the method is unknown, or it is not in this package and there is no clone of the repository.
    """
    return build(name, {})


def build(name: str, settings: Mapping[str, Any]) -> "Method":
    """Return a method with some of its settings changed.

    Args:
        settings: plain values, nested as in conf/method/<name>.yaml; a list for a tuple.

    Raises:
        UserError: the method or a setting is unknown, or a setting does not take its value.
    """
    entry = find(name)
    module, _, attribute = entry.path.partition(":")
    method = getattr(importlib.import_module(module), attribute)()
    preset = changed(method, entry.settings, name)
    return changed(preset, {**settings, "name": name}, name)


def find(name: str) -> Entry:
    """Return the entry of a name, from this package or from a clone's `baselines`.

    Raises:
        UserError: for the reasons that `find_method` names.
    """
    if name in METHODS:
        return METHODS[name]
    try:
        known = importlib.import_module("baselines.registry").METHODS
    except ModuleNotFoundError as error:
        if error.name not in ("baselines", "baselines.registry"):
            raise
        raise UserError(
            f"method '{name}' is not one of the package's own ({', '.join(METHODS)}): "
            "for the others, put a clone of kprune's repository on the Python path"
        ) from error
    if name not in known:
        raise UserError(f"method '{name}' is unknown: use one of {', '.join(known)}")
    return known[name]


def changed(settings: Any, changes: Mapping[str, Any], method: str, group: str = "") -> Any:
    """Return a dataclass of settings with some of them changed; a mapping changes some settings of a nested group.

    Args:
        method: the method's name, for messages.
        group: what messages put before a setting's name: "", or "recipe." for the settings of a method's recipe.

    Raises:
        UserError: a setting is unknown, or its value is of another type than its field.
    """
    known = {entry.name: entry.type for entry in fields(settings)}
    values: dict[str, Any] = {}
    for key, value in changes.items():
        if key not in known:
            names = ", ".join(group + name for name in known if name != "name")
            raise UserError(
                f"method {method} has no setting {group}{key}: {f'use {names}' if names else 'it has none'}"
            )
        current, kind = getattr(settings, key), known[key]
        nested = is_dataclass(current)
        if nested and isinstance(value, Mapping):
            if callable(getattr(current, "prune", None)):  # a method within the method
                inner = {"name": current.name, **value}
                values[key] = build(inner.pop("name"), inner)
            else:
                values[key] = changed(current, value, method, f"{group}{key}.")
        elif is_dataclass(value) if nested else fits(value, kind):
            values[key] = tuple(value) if isinstance(value, list) else value
        elif nested:
            names = ", ".join(f"{group}{key}.{entry.name}" for entry in fields(current))
            raise UserError(f"method {method}: {group}{key}={value} is no group of settings: use {names}")
        else:
            raise UserError(f"method {method}: {group}{key}={value} is not {described(kind)}: the default is {current}")
    return replace(settings, **values)
