import math

import pytest
import torch

from kprune.budgets import UnitCost
from kprune.solve.mask_search import fill, greedy, search, threshold


def literal_cost(kept, units, cost):
    """What `kept` of `units` units cost, by the words of `UnitCost`."""
    if kept == 0:
        return 0.0
    rounded = min(math.ceil(kept / cost.grain) * cost.grain, units)
    return cost.base + cost.per_unit * max(rounded - cost.free, 0)


def spent(masks, costs):
    return sum(literal_cost(int(m.sum()), len(m), c) for m, c in zip(masks, costs, strict=True))


def literal_algorithm_1(scores, costs, budget):
    """The lowest ν among all scores for which the units with S ≥ ν fit: every candidate tried, nothing sorted."""
    fitting = []
    for nu in {value.item() for s in scores for value in s}:
        if spent([s >= nu for s in scores], costs) <= budget:
            fitting.append(nu)
    return min(fitting, default=math.inf)


def literal_authors_loop(scores, costs, budget):
    """Their loop: raise the threshold score by score, keep what is above it, stop once strictly under the budget."""
    for nu in torch.cat(scores).sort().values:
        if spent([s > nu for s in scores], costs) < budget:
            break
    return scores[0] > nu


COSTS = {
    "flops": [UnitCost(17.0), UnitCost(1.0)] * 2,
    "latency": [UnitCost(9.0, base=20.0, free=2), UnitCost(1.0, base=7.0, free=5)] * 2,
    "grain": [UnitCost(17.0), UnitCost(1.0, grain=8)] * 2,
    "both": [UnitCost(9.0, base=20.0, free=1, grain=2), UnitCost(1.0, base=7.0, free=5, grain=8)] * 2,
}


def random_case(seed, kind="flops"):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.rand(n, generator=generator, dtype=torch.float64) for n in (4, 30, 4, 30)]
    if seed % 2:
        scores = [(10 * s).round() for s in scores]  # ties
    return scores, COSTS[kind], 196 * torch.rand(1, generator=generator).item()


def test_costs_of_a_block():
    cost = UnitCost(2.0, base=3.0, free=2, grain=4)
    assert [cost.of(k, 10) for k in range(11)] == [0, 7, 7, 7, 7, 15, 15, 15, 15, 19, 19]
    assert cost.steps(10).tolist() == [7, 0, 0, 0, 8, 0, 0, 0, 4, 0]
    assert UnitCost(2.0).steps(0).tolist() == []
    for costs in COSTS.values():
        for units, c in zip((4, 30), costs, strict=False):
            assert [c.of(k, units) for k in range(units + 1)] == [literal_cost(k, units, c) for k in range(units + 1)]


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("seed", range(40))
def test_threshold_is_algorithm_1(seed, kind):
    scores, costs, budget = random_case(seed, kind)
    nu = literal_algorithm_1(scores, costs, budget)
    kept, found = search(scores, costs, budget, fill_budget=False)
    assert found == nu
    assert torch.equal(kept, scores[0] >= nu)


@pytest.mark.parametrize("seed", range(40))
def test_strict_threshold_is_the_authors_loop(seed):
    scores, costs, budget = random_case(seed)
    kept, _ = search(scores, costs, budget, fill_budget=False, strict=True)
    assert torch.equal(kept, literal_authors_loop(scores, costs, budget))


@pytest.mark.parametrize("seed", range(10))
def test_fill_takes_the_best_that_fit(seed):
    scores, costs, budget = random_case(2 * seed)
    scores, costs = scores[1:], costs[1:]
    bare, nu = search(scores, costs, budget, fill_budget=False)
    kept, _ = search(scores, costs, budget)
    spare = budget - spent([s >= nu for s in scores], costs)
    added = kept & ~bare
    assert torch.equal(kept | bare, kept)
    assert added.sum() == min(int(spare), (~bare).sum())
    if added.any() and (~kept).any():
        assert scores[0][added].min() >= scores[0][~kept].max()


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("seed", range(20))
def test_block_by_block_the_budget_is_kept_on_whole_grains(seed, kind):
    """As K-prune goes up: less is left in the end than one more unit of the last block would cost."""
    scores, costs, budget = random_case(2 * seed, kind)
    remaining, masks = budget, []
    for index, (of_block, cost) in enumerate(zip(scores, costs, strict=True)):
        kept, _ = search(scores[index:], costs[index:], remaining)
        count = int(kept.sum())
        assert count % cost.grain == 0 or count == len(of_block)
        remaining -= cost.of(count, len(of_block))
        masks.append(kept)
    assert spent(masks, costs) <= budget + 1e-9
    if not masks[-1].all():
        assert remaining < literal_cost(int(masks[-1].sum()) + 1, 30, costs[-1]) - literal_cost(
            int(masks[-1].sum()), 30, costs[-1]
        )


def test_nothing_fits():
    scores, costs = [torch.tensor([1.0, 2.0])], [UnitCost(5.0)]
    assert threshold(scores, costs, 4.0) == math.inf
    assert not search(scores, costs, 4.0)[0].any()


def test_everything_fits_exactly():
    scores = [torch.tensor([1.0, 2.0, 3.0])]
    assert search(scores, [UnitCost(0.1)], 0.1 + 0.1 + 0.1 - 1e-17)[0].all()


def test_no_room_adds_nothing():
    kept = torch.tensor([True, False])
    assert torch.equal(fill(torch.tensor([1.0, 0.5]), kept, UnitCost(10.0), 9.9), kept)


def literal_greedy(scores, costs, budget):
    """One unit at a time; of equal scores the first."""
    units = [(-value.item(), index, unit) for index, s in enumerate(scores) for unit, value in enumerate(s)]
    kept = [torch.zeros(len(s), dtype=torch.bool) for s in scores]
    for _, index, unit in sorted(units):
        count, size = int(kept[index].sum()), len(scores[index])
        more = literal_cost(count + 1, size, costs[index]) - literal_cost(count, size, costs[index])
        if more <= budget:
            kept[index][unit] = True
            budget -= more
    return kept


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("seed", range(40))
def test_greedy_is_the_loop_over_units(seed, kind):
    scores, costs, budget = random_case(seed, kind)
    costs = costs if seed % 4 else [*costs[:2], UnitCost(5.0), UnitCost(2.0)]
    for share in (0.0, 0.3, 1.0):
        kept, expected = (f(scores, costs, share * budget) for f in (greedy, literal_greedy))
        assert all(torch.equal(a, b) for a, b in zip(kept, expected, strict=True))


def test_greedy_at_the_size_of_bert_base():
    generator = torch.Generator().manual_seed(0)
    scores = [torch.rand(n, generator=generator, dtype=torch.float64) for n in (12, 3072) * 12]
    kept = greedy(scores, [UnitCost(100.0), UnitCost(1.0)] * 12, 20000.0)
    used = sum(float(k.sum()) * f for k, f in zip(kept, [100.0, 1.0] * 12, strict=True))
    assert used == 20000
