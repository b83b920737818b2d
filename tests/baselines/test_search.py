"""Kwon's search against every subset of units."""

import itertools

import pytest
import torch

from baselines.kwon.search import search
from kprune.budgets import UnitCost
from kprune.errors import UserError


def random_importance(seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    importance = [torch.rand(n, generator=generator, dtype=torch.float64) for n in sizes]
    if seed % 3 == 0:
        importance = [(4 * i).round() for i in importance]  # ties and zeros
    return importance


def cost_of(kept: list[int], cost: UnitCost) -> float:
    return sum(cost.base + cost.per_unit * max(k - cost.free, 0) for k in kept)


def subsets(importance: list[torch.Tensor], cost: UnitCost):
    """(importance, cost) of every subset that leaves each block its free units."""
    for bits in itertools.product([False, True], repeat=sum(map(len, importance))):
        masks = torch.tensor(bits).split([len(i) for i in importance])
        kept = [int(m.sum()) for m in masks]
        if min(kept) >= cost.free:
            yield sum(i[m].sum().item() for i, m in zip(importance, masks, strict=True)), cost_of(kept, cost)


@pytest.mark.parametrize(
    "head_cost, neuron_cost",
    [(UnitCost(7.0), UnitCost(1.5)), (UnitCost(2.0, base=3.0, free=1), UnitCost(0.5, base=1.0, free=2))],
    ids=["flops", "latency"],
)
@pytest.mark.parametrize("seed", range(12))
def test_no_subset_within_the_budget_is_more_important(head_cost, neuron_cost, seed):
    heads, neurons = random_importance(seed, (3, 3)), random_importance(seed + 100, (4, 4))
    least = cost_of([head_cost.free] * 2, head_cost) + cost_of([neuron_cost.free] * 2, neuron_cost)
    full = cost_of([3, 3], head_cost) + cost_of([4, 4], neuron_cost)
    budget = least + (full - least) * torch.rand(1, generator=torch.Generator().manual_seed(seed)).item()
    masks = search(heads, neurons, head_cost, neuron_cost, budget)
    importance = sum(i[m].sum().item() for i, m in zip(heads + neurons, masks[0] + masks[1], strict=True))
    spent = sum(
        cost_of([int(m.sum()) for m in kept], cost) for kept, cost in zip(masks, (head_cost, neuron_cost), strict=True)
    )
    best = max(
        a + b
        for (a, x), (b, y) in itertools.product(subsets(heads, head_cost), list(subsets(neurons, neuron_cost)))
        if x + y <= budget
    )
    assert spent <= budget * (1 + 1e-9)
    assert importance == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_less_than_a_head_is_left(seed):
    heads, neurons = random_importance(seed, (12, 12)), random_importance(seed + 1, (50, 50))
    if seed % 2:
        heads = [torch.zeros(12, dtype=torch.float64)] * 2  # heads that gain nothing are kept where they are free
    budget = 24 * 40.0 + 100 * 3.0
    for share in (0.05, 0.4, 0.9, 0.99):
        kept = search(heads, neurons, UnitCost(40.0), UnitCost(3.0), share * budget)
        spent = [sum(int(m.sum()) for m in masks) * cost for masks, cost in zip(kept, (40.0, 3.0), strict=True)]
        assert 0 <= share * budget - sum(spent) < 40


def test_a_budget_for_neither_head_nor_neuron_keeps_nothing():
    heads, neurons = random_importance(1, (2,)), random_importance(2, (3,))
    kept = search(heads, neurons, UnitCost(5.0), UnitCost(2.0), 1.9)
    assert not kept[0][0].any() and not kept[1][0].any()


def test_a_budget_below_the_least_cost():
    importance = random_importance(1, (2, 2))
    with pytest.raises(UserError, match="less than what the blocks cost"):
        search(importance, importance, UnitCost(1.0, base=3.0, free=1), UnitCost(1.0), 5.9)
