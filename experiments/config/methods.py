"""Which pruning method a config names."""

from typing import Any

from experiments.config.composing import compose_cell
from kprune.contract import Method
from kprune.methods.registry import build


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
