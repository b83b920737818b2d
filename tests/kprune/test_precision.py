"""What the caller has set in torch changes neither the kept units nor the weights."""

import pytest
import torch
from tiny import tiny_labelled, tiny_model

from kprune.budgets import FlopsBudget
from kprune.contract import Job, PruningData
from kprune.methods.registry import build
from kprune.objectives import objective_of
from kprune.precision import full_precision


def pruned(name):
    model = tiny_model(dtype=torch.float32)
    return build(name, {}).prune(Job(model, objective_of(model), PruningData(tiny_labelled()), FlopsBudget(0.5, 8.0)))


def same(one, other):
    assert one.plan == other.plan
    for ours, theirs in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["kprune", "kprune_plus", "kwon"])
@pytest.mark.parametrize("precision", ["high", "medium"])
def test_a_precision_that_the_caller_set(name, precision):
    expected = pruned(name)
    torch.set_float32_matmul_precision(precision)
    try:
        same(pruned(name), expected)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("name", ["kprune", "kprune_plus", "kwon"])
@pytest.mark.parametrize(
    "surroundings", [torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), torch.no_grad()]
)
def test_surroundings_of_the_caller(name, surroundings):
    expected = pruned(name)
    with surroundings:
        same(pruned(name), expected)


def test_the_flag_holds_within_and_comes_back_after_an_error():
    """Where no product of this machine is coarser, this is what can be seen."""
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(ZeroDivisionError), full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.is_autocast_enabled("cpu")
            1 / 0  # noqa: B018
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
