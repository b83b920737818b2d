"""conf/method/ and the registry: the settings of a method stand in both."""

from dataclasses import fields, is_dataclass

import pytest

from baselines.registry import METHODS
from experiments.config.composing import CONF, file_settings
from experiments.config.methods import build_method, method_with
from kprune.errors import UserError
from kprune.methods.registry import build


def plain(value):
    """As a config file has it: dicts and lists. A method within a method has a config file of its own."""
    if is_dataclass(value):
        entries = {field.name: getattr(value, field.name) for field in fields(value)}
        return {name: plain(entry) for name, entry in entries.items() if not hasattr(entry, "prune")}
    return [plain(entry) for entry in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_file_says_what_its_entry_and_its_class_say(name):
    settings = file_settings("method", name)
    assert settings == plain(build(name, {})) and build_method(settings) == build(name, {})


def test_every_method_has_a_file_and_every_file_a_method():
    assert {path.stem for path in (CONF / "method").glob("*.yaml")} == set(METHODS)


def test_a_method_with_settings_in_one_word():
    method = method_with("kprune:measure_every=4:knowledge.temperature=3.0")
    assert method == build("kprune", {"measure_every": 4, "knowledge": {"temperature": 3.0}})
    with pytest.raises(UserError, match="nonsense"):
        method_with("kprune:nonsense=1")
