"""Every preset composes: a header that is not on the first line is silently no header."""

import pytest

from experiments.config.budgets import check_budget
from experiments.config.composing import CONF, compose_cell
from experiments.config.methods import build_method
from experiments.config.settings import check_settings

EXPERIMENTS = CONF / "experiment"


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_is_a_cell(path):
    name = path.relative_to(EXPERIMENTS).with_suffix("")
    settings, _ = compose_cell([f"+experiment={name}"])
    check_settings(settings)  # a group that stays in the config is an unknown setting
    check_budget(settings, build_method(settings["method"]))
    if name.parent.name == "retrained":
        assert settings["method"]["name"] == path.stem and settings["flops_reduction"] == 0.75
    else:
        assert settings["task"]["name"] == path.stem.removesuffix("_80pct") and settings["flops_reduction"] == 0.8


@pytest.mark.parametrize("path", sorted((CONF / "launcher").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_launcher_preset_is_global(path):
    assert path.read_text().startswith("# @package _global_\n")
