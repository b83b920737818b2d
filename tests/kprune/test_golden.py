"""Every method keeps the units that it kept before, and the pruned models are the same functions."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from tiny import FAMILIES, tiny_batch, tiny_labelled, tiny_model

from kprune.budgets import FlopsBudget
from kprune.contract import Job, PruningData
from kprune.methods.registry import build
from kprune.objectives import objective_of

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "kept_units.json").read_text())
"""By "family/head/method[:setting=value]", the kept units per block, bottom to top; by "...#sum", the outputs' squares."""
UNSTABLE = "kprune_official"
"""Float32 normal equations without a ridge, on fewer tokens than neurons: two runs on one machine differ."""


def method_of(key):
    name, _, setting = key.partition(":")
    setting, _, value = setting.partition("=")
    return build(name, {setting: yaml.safe_load(value)} if setting else {})


@torch.no_grad()
def squares(model):
    return sum(value.double().square().sum().item() for value in model(**tiny_batch()).to_tuple())


@pytest.mark.parametrize("head", ("classification", "regression", "span"))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_units_and_the_same_function_as_before(family, head):
    prefix = f"{family}/{head}/"
    names = [key.removeprefix(prefix) for key in GOLDEN if key.startswith(prefix) and "#" not in key]
    assert len(names) == 15
    model, data = tiny_model(family, head), PruningData(tiny_labelled(head))
    for name in names:
        budget = FlopsBudget(0.2 if name == "kcm" else 0.5, 8.0)
        outcome = method_of(name).prune(Job(model, objective_of(model), data, budget))
        kept, total = list(outcome.plan.kept.values()), squares(outcome.model)
        if name == UNSTABLE:
            assert any(kept) and total < float("inf")
            continue
        assert kept == GOLDEN[prefix + name], name
        assert total == pytest.approx(GOLDEN[f"{prefix}{name}#sum"], rel=1e-9), name
