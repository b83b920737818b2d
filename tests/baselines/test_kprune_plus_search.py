"""The evolutionary search over K-prune+'s widths: what a candidate is, how cost moves, and what is found."""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from decoders import block_features, prune, tiny_decoder
from tiny import tiny_calibration, tiny_model

import kprune
from baselines.kprune_plus_search import Fitness, KPrunePlusSearch, Moves
from kprune.budgets import FlopsBudget, ParametersBudget
from kprune.contract import Job, PruningData
from kprune.data import split
from kprune.divergence import held_out_divergence
from kprune.errors import UserError
from kprune.methods.kprune_plus import KPrunePlus
from kprune.models import view_of
from kprune.models.copies import frozen_copy, frozen_shared_copy
from kprune.models.surgery import output_weight
from kprune.objectives import objective_of
from kprune.streams import ON_DEVICE

MODELS = {
    "bert": tiny_model,
    "gpt2": lambda: tiny_decoder("gpt2"),
    "llama": tiny_decoder,
    "gpt_neox": lambda: tiny_decoder("gpt_neox"),
}
QUICK = dict(rounds=2, generations=3, offspring=6, refit_epochs=0)


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


@torch.no_grad()
def supernet(model, calibration, top_logits=8192):
    """The solutions on most examples, and the fitness on the others."""
    method = KPrunePlusSearch().resolved(view_of(model))
    teacher, objective = view_of(frozen_shared_copy(model)), objective_of(model)
    fit, held_out = split(calibration, 4)
    solutions = method.solutions(teacher, fit, objective, ON_DEVICE)
    return method, solutions, Fitness(teacher, solutions, held_out, objective, 2.0, top_logits), (fit, held_out)


def halves(model):
    return tuple(block.units // 2 for block in view_of(model).blocks)


@torch.no_grad()
def test_a_projection_is_the_optimum_for_the_dense_update_of_the_dense_features(model):
    """As a least squares over all tokens' features, ridge and intercept included: no factor, no Gram matrix in an order."""
    calibration = tiny_calibration(24)
    method, solutions, fitness, (fit, _) = supernet(model, calibration)
    teacher = view_of(model)
    states = kprune.streams.calibration_states(teacher, fit.steps(1024))
    fishers = method.fishers(teacher, states, objective_of(model), ON_DEVICE)
    counts = (1, 20, 0, 40, 1, 7)
    candidate = fitness.candidate(counts)
    for index, (count, fisher) in enumerate(zip(counts, fishers, strict=True)):
        dense, found = teacher.blocks[index], candidate.blocks[index]
        x = block_features(model, [], index, fit.steps(1024))
        real = [state.real for state in states]
        clip = method.clip
        energy = torch.cat([e[r] for e, r in zip(fisher.clipped_energies(clip), real, strict=True)])
        columns = solutions[index].columns[: count * dense.width]
        weight, bias = output_weight(dense), dense.bias()
        mean = (energy @ x) / energy.sum() if bias is not None else torch.zeros(x.shape[1]).to(x)
        rows = (x - mean) * energy.sqrt()[:, None]
        ridge = method.ridge * rows.square().sum() / x.shape[1]
        rows = torch.cat([rows, ridge.sqrt() * torch.eye(x.shape[1])])
        optimum = torch.linalg.lstsq(rows[:, columns], rows @ weight.T, driver="gelsd").solution.T
        assert found.units == count
        if count:
            torch.testing.assert_close(output_weight(found), optimum, rtol=1e-5, atol=1e-6)
        if bias is not None:
            constant = bias + weight @ mean - optimum @ mean[columns]
            torch.testing.assert_close(found.bias(), constant, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_candidates_fitness_is_that_of_the_dense_model_with_masks_and_other_projections(model):
    """Masked is physically pruned, here by hand: projections at their places in the stock model, and zeros elsewhere."""
    _, solutions, fitness, (_, held_out) = supernet(model, tiny_calibration(24))
    objective = objective_of(model)
    whole = tuple(block.units for block in view_of(model).blocks)
    assert fitness.divergence(whole) == 0
    counts = halves(model)
    candidate, wide = fitness.candidate(counts), frozen_copy(model)
    for narrow, block, of in zip(candidate.blocks, view_of(wide).blocks, solutions, strict=True):
        weight = torch.zeros_like(output_weight(block))
        weight[:, of.columns[: narrow.columns]] = output_weight(narrow)
        output_weight(block).copy_(weight)
        if block.bias() is not None:
            block.bias().copy_(narrow.bias())
    assert sum(p.numel() for p in candidate.model.parameters()) < sum(p.numel() for p in model.parameters())
    expected = held_out_divergence(wide, model, objective, held_out, 2.0)
    assert fitness.divergence(counts) == pytest.approx(expected, rel=1e-6) and expected > 1e-3
    assert held_out_divergence(model, fitness.teacher.model, objective, held_out, 2.0) == 0, "the dense one stays"


@torch.no_grad()
def test_of_a_vocabulary_the_teachers_largest_logits_are_compared():
    model, counts = tiny_decoder(), (1, 24, 1, 24, 1, 24)
    few, all_of_them = (supernet(model, tiny_calibration(24), k)[2] for k in (5, 99))
    expected, examples = 0.0, 0
    pruned = few.candidate(counts).model
    for state in few.states:
        ours, theirs = (m(**state.batch).logits for m in (pruned, model))
        for row, (student, teacher) in enumerate(zip(ours, theirs, strict=True)):
            for s, t in zip(student[state.real[row]], teacher[state.real[row]], strict=True):
                top = t.argsort(descending=True)[:5]
                p = F.softmax(t[top] / 2, dim=-1)
                expected += 4 * (F.softmax(s[top] / 2, dim=-1) * (F.softmax(s[top] / 2, dim=-1) / p).log()).sum()
            examples += 1
    assert few.divergence(counts) == pytest.approx(float(expected) / examples, rel=1e-6)
    assert all_of_them.divergence(counts) > few.divergence(counts)
    assert all(indices is None for _, indices in all_of_them.compared)


def moves_of(model, budget, free=None):
    view = view_of(model)
    job = Job(model, objective_of(model), PruningData(tiny_calibration()), budget)
    return view, Moves(view, job, free or range(len(view.blocks)))


@pytest.mark.parametrize(
    "budget",
    [FlopsBudget(0.6, 8.0), ParametersBudget(0.6), ParametersBudget(0.6, grain=8)],
    ids=["flops", "p", "grain"],
)
def test_moves_hold_the_budget_and_leave_nothing_of_it(model, budget):
    view, moves = moves_of(model, budget)
    costs, limit = list(budget.costs(view).values()), budget.limit(view)
    outcome = prune("kprune_plus_search", model, budget, **QUICK | {"rounds": 1, "generations": 1})
    counts = tuple(len(units) for units in outcome.plan.kept.values())
    draw, seen, dearest = random.Random(0), set(), max(cost.per_unit * max(cost.grain, 1) for cost in costs)
    for _ in range(60):
        before, counts = counts, moves.one(counts, 0.125, draw)
        spent = [cost.of(count, block.units) for cost, count, block in zip(costs, counts, view.blocks, strict=True)]
        assert limit - dearest < sum(spent) <= limit * (1 + 1e-9)
        assert all(0 <= count <= block.units for count, block in zip(counts, view.blocks, strict=True))
        changed = [index for index, (a, b) in enumerate(zip(before, counts, strict=True)) if a != b]
        assert len(changed) <= 2
        seen |= {tuple(view.blocks[index].kind for index in changed)}
    assert ("heads", "neurons") in seen or ("neurons", "heads") in seen, "cost goes from one kind to the other"


def test_only_free_blocks_move():
    view, moves = moves_of(tiny_model(), FlopsBudget(0.6, 8.0), free=[1, 5])
    counts, draw = (1, 20, 1, 20, 1, 20), random.Random(0)
    found = {moves.one(counts, 0.25, draw) for _ in range(20)}
    assert counts not in found and all((c[0], *c[2:5]) == (1, 1, 20, 1) for c in found)
    _, alone = moves_of(tiny_model(), FlopsBudget(0.6, 8.0), free=[1])
    assert alone.one(counts, 0.25, draw) == counts


def test_the_search_finds_the_best_of_a_landscape():
    """Four blocks of ten units of the same cost, and a distance from widths that are known."""
    target = (1, 9, 4, 6)

    class Level(Moves):
        def __init__(self):
            self.free, self.limit, self.totals = range(4), 20.5, [[float(k) for k in range(11)]] * 4

    def distance(counts):
        return float(sum((a - b) ** 2 for a, b in zip(counts, target, strict=True)))

    method = KPrunePlusSearch(rounds=3, generations=20, offspring=8, step=0.4)
    found, fitness = method.search((5, 5, 5, 5), Level(), distance, random.Random(0))
    assert found == target and fitness[found] == 0 and fitness[5, 5, 5, 5] == 34
    assert all(sum(counts) <= 20 for counts in fitness)
    stuck, _ = method.search(target, Level(), distance, random.Random(1))
    assert stuck == target


@pytest.mark.parametrize("family", MODELS)
def test_what_is_found_is_no_worse_than_the_start_and_meets_the_budget(family):
    better = 0
    for seed in range(2):
        model, budget = MODELS[family](), ParametersBudget(0.6)
        data = PruningData(tiny_calibration(24, seed=seed), seed=seed)
        outcome = prune("kprune_plus_search", model, budget, data=data, **QUICK)
        told = outcome.details["search"]
        assert told["found"] <= told["start"] and 1 < told["candidates"] <= 2 * 3 * 6 + 1
        better += told["found"] < told["start"]
        start = KPrunePlus(refit_epochs=0).prune(Job(model, objective_of(model), data, budget))
        assert [len(units) for units in start.plan.kept.values()] == told["units"]
        view = view_of(outcome.model)
        spent = sum(block.units * budget.costs(view_of(model))[block.name].per_unit for block in view.blocks)
        assert spent <= budget.limit(view_of(model))
        assert {"supernet", "search"} < outcome.seconds_by_stage.keys()
        if told["found"] == told["start"]:
            assert outcome.plan == start.plan
    assert better


def test_the_same_seed_finds_the_same():
    model, budget = tiny_model(), FlopsBudget(0.6, 8.0)
    plans = []
    for seed in (0, 0, 1):
        outcome = prune("kprune_plus_search", model, budget, data=PruningData(tiny_calibration(24), seed=seed), **QUICK)
        plans.append((outcome.plan, outcome.details["search"]))
    assert plans[0] == plans[1] != plans[2]


def test_units_that_may_not_go_stay():
    """Groups of query heads, as long as neurons are enough."""
    outcome = prune("kprune_plus_search", tiny_decoder(), ParametersBudget(0.3), **QUICK)
    assert outcome.kept_heads == [2, 2, 2] and len(set(outcome.kept_neurons)) > 1


def test_states_on_disk_make_no_difference():
    model, budget = tiny_decoder("gpt2"), ParametersBudget(0.5)
    one, other = (prune("kprune_plus_search", model, budget, states=where, **QUICK) for where in ("device", "disk"))
    assert one.plan == other.plan
    assert one.details["search"]["found"] == pytest.approx(other.details["search"]["found"], rel=1e-6)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"rounds": 0}, "rounds=0 is out of range: give a whole number above 0"),
        ({"offspring": 1.5}, "offspring=1.5 is not a whole number: the default is 16"),
        ({"step": 0.0}, "step=0.0 is out of range"),
        ({"held_out": 0.6}, "held_out=0.6 is out of range: give a share above 0, up to 0.5"),
        ({"held_out": 0}, "held_out=0 is out of range"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(UserError, match=words):
        KPrunePlusSearch(**settings)


def test_layers_alike_and_a_single_example_are_told():
    model, batches = tiny_model(dtype=torch.float32), tiny_calibration().batches()
    with pytest.raises(UserError, match="method kprune_plus_search does not keep the layers alike"):
        kprune.prune(model, batches, 0.5, method="kprune_plus_search", uniform=True)
    one = replace(tiny_calibration(), examples=tiny_calibration().examples[:1])
    with pytest.raises(UserError, match="chooses on held-out examples, and there is only one example"):
        prune("kprune_plus_search", model, FlopsBudget(0.5, 8.0), one)
