"""Which pruning method a config names."""

from typing import Any, cast

from experiments.config.composing import compose_cell
from kprune.contract import Method
from kprune.methods.registry import build
from kprune.precision import Precision


def build_method(settings: dict[str, Any]) -> Method:
    """Build the method of conf/method/<name>.yaml from its plain settings.

    Raises:
        UserError: the method or one of its settings is unknown.
    """
    return build(settings["name"], settings)


def method_with(text: str) -> Method:
    """Build `kwon` as conf/method/kwon.yaml has it; `kprune:measure_every=4` with settings changed.

    Raises:
        UserError: the method or a setting is unknown.
    """
    name, *settings = text.split(":")
    config, _ = compose_cell([f"method={name}", *(f"method.{setting}" for setting in settings)])
    return build_method(config["method"])


def method_and_precision(text: str) -> tuple[Method, Precision]:
    """Build a method as `method_with` does, and read the precision of its passes: `kprune:measure_every=4:precision=reduced`.

    Raises:
        UserError: the method, a setting or the precision is unknown, or the method has no passes.
    """
    name, *settings = text.split(":")
    said = [setting for setting in settings if setting.startswith("precision=")]
    method = method_with(":".join([name, *(setting for setting in settings if setting not in said)]))
    precision = cast(Precision, said[-1].partition("=")[2] if said else "full")
    method.check_precision(precision)
    return method, precision
