"""Every preset composes: a header that is not on the first line is silently no header."""

import pytest

from experiments.config.cell import configured
from experiments.config.composing import CONF
from kprune.target import Target

EXPERIMENTS = CONF / "experiment"


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_is_a_cell(path):
    name = path.relative_to(EXPERIMENTS).with_suffix("")
    config = configured([f"+experiment={name}"])  # a group that stays in the config is an unknown setting
    if name.parent.name == "retrained":
        assert config.method.name == path.stem and config.target == Target("flops", 0.75)
    else:
        assert config.task.name == path.stem.removesuffix("_80pct")
        assert config.target == Target("flops", 0.8)


@pytest.mark.parametrize("path", sorted((CONF / "launcher").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_launcher_preset_is_global(path):
    assert path.read_text().startswith("# @package _global_\n")
