"""Every preset composes: a header that is not on the first line is silently no header."""

import pytest

from experiments.composing import CONF, compose_cell


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_is_a_cell(path):
    settings, _ = compose_cell([f"+experiment={path.stem}"])
    assert settings["task"]["name"] == path.stem.removesuffix("_80pct") and settings["flops_reduction"] == 0.8
    assert "experiment" not in settings, "it would count as another configuration"


@pytest.mark.parametrize("path", sorted((CONF / "launcher").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_launcher_preset_is_global(path):
    assert path.read_text().startswith("# @package _global_\n")
