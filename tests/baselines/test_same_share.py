"""The same share of units in every block."""

from itertools import product

import pytest
from decoders import tiny_decoder
from tiny import tiny_model

from baselines.oscar import Oscar
from baselines.same_share import same_share
from kprune.budgets import FlopsBudget, ParametersBudget
from kprune.errors import OutOfReach, UserError
from kprune.models import view_of


@pytest.mark.parametrize("make", [tiny_model, tiny_decoder])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.77, 0.95])
def test_shares_are_the_same_up_to_a_unit(make, share):
    view = view_of(make())
    for budget in (FlopsBudget(share, 8.0), ParametersBudget(min(share, 0.9))):
        counts = same_share(view, budget)
        rows = list(zip(view.blocks, counts, strict=True))
        for kind in ("heads", "neurons"):
            of_kind = [count for block, count in rows if block.kind == kind]
            assert max(of_kind) - min(of_kind) <= 1 and of_kind == sorted(of_kind, reverse=True)
        for (attention, heads), (ffn, neurons) in zip(rows[::2], rows[1::2], strict=True):
            assert abs(heads / attention.units - neurons / ffn.units) <= 1 / attention.units
        costs = budget.costs(view)
        spare = budget.limit(view) - sum(count * costs[block.name].per_unit for block, count in rows)
        assert -1e-9 < spare < min(costs[block.name].per_unit for block in view.blocks)


def test_a_share_of_whole_units_is_met_exactly():
    view = view_of(tiny_model())
    assert same_share(view, FlopsBudget(0.25, 8.0)) == [3, 36] * 3
    assert same_share(view, FlopsBudget(0.5, 8.0)) == [2, 24] * 3


def test_layers_that_are_spared_stay_whole():
    view = view_of(tiny_model())
    counts = same_share(view, FlopsBudget(0.25, 8.0), {0})
    # A quarter of three layers is three eighths of two: a head is half above it.
    assert counts[:2] == [4, 48] and all(heads in (2, 3) for heads in counts[2::2]) and max(counts[3::2]) <= 31
    with pytest.raises(OutOfReach, match="that stay whole cost more than the budget leaves: ask for less"):
        same_share(view, FlopsBudget(0.4, 8.0), {0, 2})


@pytest.mark.parametrize("uniform", [False, True])
def test_units_of_the_other_kind_stay(uniform):
    view = view_of(tiny_decoder())
    for kind, other in (("neurons", "heads"), ("heads", "neurons")):
        counts = same_share(view, ParametersBudget(0.15, uniform=uniform), kinds=[kind])
        for block, count in zip(view.blocks, counts, strict=True):
            assert (count == block.units) == (block.kind == other)


def test_a_method_that_may_not_take_enough_says_so_before_it_reads_a_text():
    model = tiny_model()
    with pytest.raises(OutOfReach, match="that stay whole cost more"):
        Oscar(kinds=["heads"]).check(model, ParametersBudget(0.9))
    with pytest.raises(UserError, match="lets nothing go"):
        Oscar(kinds=[])


def test_layers_that_are_alike_keep_the_closest_share():
    """Of all pairs of counts that fit, none has less of the smallest shares' loss."""
    view, budget = view_of(tiny_decoder()), ParametersBudget(0.4, uniform=True)
    counts = same_share(view, budget)
    heads, neurons = counts[0], counts[1]
    assert counts == [heads, neurons] * 3
    costs = budget.costs(view)
    head, neuron = costs["0.attention"].per_unit, costs["0.ffn"].per_unit

    def lost(h, n):
        return sum((k + 1) / 2 * head for k in range(2 - h)) + sum((k + 1) / 48 * neuron for k in range(48 - n))

    fitting = [(h, n) for h, n in product((1, 2), range(1, 49)) if 3 * (h * head + n * neuron) <= budget.limit(view)]
    assert (heads, neurons) == min(fitting, key=lambda pair: lost(*pair))
