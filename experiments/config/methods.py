"""Building the pruning method that a config or an option of a command names."""

from typing import Any, cast

from experiments.config.composing import compose_cell
from kprune.contract import Method
from kprune.methods.registry import build
from kprune.precision import Precision


def build_method(settings: dict[str, Any]) -> Method:
    """Build a method from its plain settings, such as those of conf/method/<name>.yaml.

    Raises:
        UserError: the method or one of its settings is unknown, or a value is out of range.
    """
    return build(settings["name"], settings)


def method_with(text: str) -> Method:
    """Build a method from a text such as `kwon`, for conf/method/kwon.yaml, or `kprune:measure_every=4`, with a changed setting.

    Raises:
        UserError: the method or a setting is unknown, or a value is out of range.
    """
    name, *settings = text.split(":")
    config, _ = compose_cell([f"method={name}", *(f"method.{setting}" for setting in settings)])
    return build_method(config["method"])


def method_and_precision(text: str) -> tuple[Method, Precision]:
    """Return the method and the precision of its passes from a text such as `kprune:measure_every=4:precision=reduced`.

    The other settings are read as in `method_with`; without `precision=`, the precision is "full".

    Raises:
        UserError: the method, a setting or the precision is unknown, or the method takes no other precision than "full".
    """
    name, *settings = text.split(":")
    said = [setting for setting in settings if setting.startswith("precision=")]
    method = method_with(":".join([name, *(setting for setting in settings if setting not in said)]))
    precision = cast(Precision, said[-1].partition("=")[2] if said else "full")
    method.check_precision(precision)
    return method, precision
