import math

import pytest
import torch

from kprune.mask_search import fill, greedy, search, threshold


def literal_algorithm_1(scores, flops, budget):
    """The lowest ν among all scores for which the units with S ≥ ν fit: every candidate tried, nothing sorted."""
    fitting = []
    for nu in {value.item() for s in scores for value in s}:
        if sum((s >= nu).sum().item() * f for s, f in zip(scores, flops, strict=True)) <= budget:
            fitting.append(nu)
    return min(fitting, default=math.inf)


def literal_authors_loop(scores, flops, budget):
    """Their loop: raise the threshold score by score, keep what is above it, stop once strictly under the budget."""
    for nu in torch.cat(scores).sort().values:
        if sum((s > nu).sum().item() * f for s, f in zip(scores, flops, strict=True)) < budget:
            break
    return scores[0] > nu


def random_case(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.rand(n, generator=generator, dtype=torch.float64) for n in (4, 30, 4, 30)]
    if seed % 2:
        scores = [(10 * s).round() for s in scores]  # ties
    flops = [17.0, 1.0, 17.0, 1.0]
    return scores, flops, 196 * torch.rand(1, generator=generator).item()


@pytest.mark.parametrize("seed", range(40))
def test_threshold_is_algorithm_1(seed):
    scores, flops, budget = random_case(seed)
    nu = literal_algorithm_1(scores, flops, budget)
    kept, found = search(scores, flops, budget, fill_budget=False)
    assert found == nu
    assert torch.equal(kept, scores[0] >= nu)


@pytest.mark.parametrize("seed", range(40))
def test_strict_threshold_is_the_authors_loop(seed):
    scores, flops, budget = random_case(seed)
    kept, _ = search(scores, flops, budget, fill_budget=False, strict=True)
    assert torch.equal(kept, literal_authors_loop(scores, flops, budget))


@pytest.mark.parametrize("seed", range(10))
def test_fill_takes_the_best_that_fit(seed):
    scores, flops, budget = random_case(2 * seed)
    scores, flops = scores[1:], flops[1:]
    bare, nu = search(scores, flops, budget, fill_budget=False)
    kept, _ = search(scores, flops, budget)
    spare = budget - sum((s >= nu).sum().item() * f for s, f in zip(scores, flops, strict=True))
    added = kept & ~bare
    assert torch.equal(kept | bare, kept)
    assert added.sum() == min(int(spare), (~bare).sum())
    if added.any() and (~kept).any():
        assert scores[0][added].min() >= scores[0][~kept].max()


def test_nothing_fits():
    scores = [torch.tensor([1.0, 2.0])]
    assert threshold(scores, [5.0], 4.0) == math.inf
    assert not search(scores, [5.0], 4.0)[0].any()


def test_everything_fits_exactly():
    scores = [torch.tensor([1.0, 2.0, 3.0])]
    assert search(scores, [0.1], 0.1 + 0.1 + 0.1 - 1e-17)[0].all()


def test_no_room_adds_nothing():
    kept = torch.tensor([True, False])
    assert torch.equal(fill(torch.tensor([1.0, 0.5]), kept, 10.0, 9.9), kept)


def literal_greedy(scores, flops, budget):
    """One unit at a time; of equal scores the first."""
    units = [(-value.item(), index, unit) for index, s in enumerate(scores) for unit, value in enumerate(s)]
    kept = [torch.zeros(len(s), dtype=torch.bool) for s in scores]
    for _, index, unit in sorted(units):
        if flops[index] <= budget:
            kept[index][unit] = True
            budget -= flops[index]
    return kept


@pytest.mark.parametrize("seed", range(40))
def test_greedy_is_the_loop_over_units(seed):
    scores, flops, budget = random_case(seed)
    flops = flops if seed % 4 else [17.0, 1.0, 5.0, 2.0]
    for share in (0.0, 0.3, 1.0):
        kept, expected = (f(scores, flops, share * budget) for f in (greedy, literal_greedy))
        assert all(torch.equal(a, b) for a, b in zip(kept, expected, strict=True))


def test_greedy_at_the_size_of_bert_base():
    generator = torch.Generator().manual_seed(0)
    scores = [torch.rand(n, generator=generator, dtype=torch.float64) for n in (12, 3072) * 12]
    kept = greedy(scores, [100.0, 1.0] * 12, 20000.0)
    used = sum(float(k.sum()) * f for k, f in zip(kept, [100.0, 1.0] * 12, strict=True))
    assert used == 20000
