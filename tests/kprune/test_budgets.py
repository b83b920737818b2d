"""What units cost and what may be left, against counts on the models."""

import copy

import pytest
import torch
from retrained import RETRAINED
from tiny import FAMILIES, head_share, tiny_labelled, tiny_model

from baselines.kcm import KCM
from baselines.registry import METHODS
from kprune.budgets import FlopsBudget, ParametersBudget
from kprune.budgets.costs import whole_cost
from kprune.contract import ANY_BUDGET, Job, PruningData
from kprune.errors import OutOfReach, UserError
from kprune.methods.registry import find_method
from kprune.models import view_of
from kprune.models.flops import flops_reduction, layer_parameters, model_flops, params_reduction
from kprune.models.surgery import keep_units
from kprune.objectives import objective_of

BY_FLOPS = [
    name for name in METHODS if "classification" in find_method(name).heads and "flops" in find_method(name).budgets
]
OTHERWISE = ("llm_pruner", "shortgpt")
"""For language models alone, and by whole layers: tests/baselines/test_on_decoders.py."""
TO_ANY_BUDGET = [name for name in METHODS if find_method(name).budgets == ANY_BUDGET and name not in OTHERWISE]
NOTHING = torch.arange(0)


def prune(name, model, budget):
    method, calibration = RETRAINED.get(name, find_method(name)), tiny_labelled(examples=24)
    data = PruningData(calibration, lambda: calibration.examples)
    return method.prune(Job(model, objective_of(model), data, budget))


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_are_the_closed_form(family):
    """Of d = 32 and heads of 8 columns, at s = 10: 8 s d d_h + 4 s² d_h a head, 4 s d a neuron."""
    view, budget = view_of(tiny_model(family)), FlopsBudget(0.8, 10.0)
    costs = budget.costs(view)
    assert list(costs) == [f"{layer}.{site}" for layer in range(3) for site in ("attention", "ffn")]
    for layer in range(3):
        assert costs[f"{layer}.attention"].of(1, 4) == 8 * 10 * 32 * 8 + 4 * 10**2 * 8
        assert costs[f"{layer}.ffn"].of(1, 48) == 4 * 10 * 32
    assert whole_cost(view, costs) == model_flops(view, 10.0)
    assert budget.limit(view) == pytest.approx(0.2 * model_flops(view, 10.0))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("biased", [True, False])
def test_the_parameters_of_a_unit_are_those_that_go_with_it(family, biased):
    model = tiny_model(family)
    if not biased:
        for block in view_of(model).blocks:
            for module in (*block.inputs, block.output):
                module.bias = None
    view = view_of(model)
    costs = ParametersBudget(0.5).costs(view)
    for block in view.blocks:
        pruned = view_of(copy.deepcopy(model))
        for kept in (range(1, block.units), [0], []):
            keep_units(
                pruned.named(block.name), torch.tensor(list(kept), dtype=torch.long)[: pruned.named(block.name).units]
            )
            gone = block.units - len(kept)
            assert layer_parameters(view) - layer_parameters(pruned) == gone * costs[block.name].of(1, block.units)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", TO_ANY_BUDGET)
def test_parameters_are_met_by_less_than_a_unit(name, share):
    model = tiny_model(dtype=torch.float32)
    if name == "kcm":  # keeps all heads
        share /= 3
    dense, outcome = view_of(model), prune(name, model, ParametersBudget(share))
    removed = params_reduction(dense, view_of(outcome.model))
    unit = max(block.unit_parameters() for block in dense.blocks) / layer_parameters(dense)
    assert share - 1e-9 <= removed < share + unit
    assert outcome.plan.units == {block.name: block.units for block in view_of(outcome.model).blocks}


SHARES = (ParametersBudget(0.5), params_reduction), (FlopsBudget(0.5, 8.0), lambda *views: flops_reduction(*views, 8.0))
FROM_EMPTIED = ("kprune", "kprune_plus", "kwon", "wanda_sp", "flap", "oscar", "magnitude", "random")
EMPTY = ("0.attention", "0.ffn", "2.ffn", "attention", "ffn")


@pytest.mark.parametrize(
    "name, empty, share",
    [(name, empty, (i + j) % 2) for i, name in enumerate(FROM_EMPTIED) for j, empty in enumerate(EMPTY)],
)
def test_the_share_counts_from_the_model_given(name, empty, share):
    """Of which a block may be empty, or all of a kind: it costs nothing, and says nothing of what the others cost."""
    model, (budget, removed) = tiny_model(dtype=torch.float32), SHARES[share]
    gone = [block for block in view_of(model).blocks if block.name.endswith(empty)]
    for block in gone:
        keep_units(block, NOTHING)
    outcome = prune(name, model, budget)
    assert 0.5 - 1e-9 <= removed(view_of(model), view_of(outcome.model)) < 0.5 + 2 * head_share(view_of(model))
    assert gone and all(outcome.plan.kept[block.name] == [] for block in gone)


def test_parameters_on_whole_grains():
    model = tiny_model(dtype=torch.float32)
    for name in ("kprune", "kprune_plus", "wanda_sp", "flap", "oscar", "magnitude"):
        outcome = prune(name, model, ParametersBudget(0.6, grain=16))
        assert params_reduction(view_of(model), view_of(outcome.model)) >= 0.6 - 1e-9
        assert all(heads % 2 == 0 for heads in outcome.kept_heads)
        assert all(neurons % 16 == 0 for neurons in outcome.kept_neurons)


def test_norms_and_output_biases_are_out_of_reach():
    """They stay whatever is removed: the largest share that can be asked for removes every unit."""
    model = tiny_model(dtype=torch.float32)
    emptied = view_of(copy.deepcopy(model))
    for block in emptied.blocks:
        keep_units(block, NOTHING)
    most = params_reduction(view_of(model), emptied)
    assert 0.9 < most < 0.99
    outcome = prune("kprune", model, ParametersBudget(most - 1e-9))
    assert not any(outcome.plan.kept.values())
    with pytest.raises(
        OutOfReach, match=rf"params_reduction=0.97\d* is out of reach: .*{1 - most:.1%}.*: ask for less"
    ) as refused:
        prune("kprune", model, ParametersBudget(most + 1e-3))
    assert "\n" not in str(refused.value)


def test_a_method_that_keeps_heads_says_when_it_can_not():
    model = tiny_model(dtype=torch.float32)
    with pytest.raises(UserError, match="heads alone.*: ask for less"):
        KCM().prune(Job(model, objective_of(model), PruningData(tiny_labelled()), ParametersBudget(0.9)))


@pytest.mark.parametrize("name", ["cofi", "dynabert_d", "dynabert_w", "ebert"])
def test_a_method_that_prunes_by_flops_alone(name):
    with pytest.raises(UserError, match=f"method {name} prunes by flops alone, not by parameters"):
        find_method(name).check(tiny_model(), ParametersBudget(0.5))


@pytest.mark.parametrize("name", BY_FLOPS)
def test_a_flops_budget_within_reach_is_taken_and_beyond_is_told(name):
    model, method = tiny_model(), find_method(name)
    reach = method.reach(model, 8.0)
    method.check(model, FlopsBudget(min(reach, 0.999), 8.0))
    if reach < 1:
        with pytest.raises(OutOfReach, match=f"method {name} reaches a FLOPs reduction of {reach:.3f}.*: ask for less"):
            method.check(model, FlopsBudget((1 + reach) / 2, 8.0))


@pytest.mark.parametrize("share", [0, 0.0, 1, 1.0, -0.5, 80, float("nan"), float("inf")])
def test_a_share_out_of_range(share):
    for budget, of in ((ParametersBudget, "parameters"), (lambda share: FlopsBudget(share, 8.0), "FLOPs")):
        with pytest.raises(UserError, match=rf"_reduction={share:g} is outside \(0, 1\): give the share of .*{of}"):
            budget(share)


@pytest.mark.parametrize("share", ["0.8", None, True, [0.5]])
def test_a_share_that_is_no_number(share):
    for budget in (ParametersBudget, lambda share: FlopsBudget(share, 8.0)):
        with pytest.raises(UserError, match="is not a number: give the share"):
            budget(share)


@pytest.mark.parametrize("grain", [0, -1, 1.5, "16", None, 2**20 + 1, 2**63 - 1])
def test_a_grain_that_is_no_width(grain):
    for budget in (ParametersBudget(0.5), FlopsBudget(0.5, 8.0)):
        with pytest.raises(UserError, match=f"grain={grain} is no width to round to"):
            type(budget)(**{**vars(budget), "grain": grain})
