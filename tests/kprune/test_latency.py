"""The latency budget without a clock: the fit on synthetic times, the search and its corrections on a fake machine."""

import itertools
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from families import tiny_of
from tiny import SHAPE, tiny_batch, tiny_calibration, tiny_labelled, tiny_model
from transformers import BertConfig, BertForSequenceClassification

import kprune
from baselines.kwon import Kwon
from baselines.magnitude import Magnitude
from baselines.registry import METHODS
from kprune.budgets import FlopsBudget, UnitCost
from kprune.budgets.latency import LatencyBudget, LatencyTable, Point, measure_latency, measure_table
from kprune.budgets.latency.table import fit
from kprune.contract import ANY_BUDGET, Job, Method, PruningData
from kprune.errors import OutOfReach, UserError
from kprune.methods.kprune.algorithm import KPrune
from kprune.methods.kprune_plus.algorithm import KPrunePlus
from kprune.methods.registry import find_method
from kprune.models import view_of
from kprune.models.flops import flops_reduction
from kprune.models.surgery import keep_units
from kprune.objectives import objective_of
from kprune.solve.mask_search import threshold
from kprune.speedup import corrected, prune_to_speedup

WIDTHS = [1, 2, 4, 6, 8, 12, 16, 24, 32, 48]
TABLE = LatencyTable(
    {"attention": [1, 2, 3, 4], "ffn": WIDTHS}, {"attention": [6, 8, 10, 12], "ffn": WIDTHS}, 210.0, 30.0
)
"""A tiny model's three layers: an attention takes 4 + 2 k, an FFN k milliseconds, 180 in all."""


@pytest.mark.parametrize(
    "truth", [UnitCost(0.5, 3.0, 6), UnitCost(0.25), UnitCost(2.0, 1.0, 0), UnitCost(1.0, 4.0, 23)]
)
def test_the_fit_finds_what_made_the_times(truth):
    found = fit(WIDTHS, [truth.of(width, 48) for width in WIDTHS])
    for k in WIDTHS:
        assert found.of(k, 48) == pytest.approx(truth.of(k, 48), rel=1e-6)
    assert found.per_unit == pytest.approx(truth.per_unit)


def test_the_fit_bears_noise():
    generator = torch.Generator().manual_seed(0)
    truth = UnitCost(0.5, 3.0, 6)
    noisy = [truth.of(k, 48) * (1 + 0.02 * torch.randn(1, generator=generator).item()) for k in WIDTHS]
    found = fit(WIDTHS, noisy)
    assert all(found.of(k, 48) == pytest.approx(truth.of(k, 48), rel=0.06) for k in WIDTHS)


@pytest.mark.parametrize("ms", [[5.0] * 10, [0.0] * 10, [-1.0] * 10, [9.0, 1.0] * 5])
def test_times_without_a_slope_still_cost_something(ms):
    found = fit(WIDTHS, ms)
    assert 0 < found.per_unit < math.inf and found.base >= 0
    assert fit([1], [3.0]).per_unit == pytest.approx(3.0)


def test_the_costs_of_a_dense_model_add_up_to_what_it_takes():
    table, view = replace(TABLE, dense_ms=390.0), view_of(tiny_model())
    costs = table.costs(view)
    assert list(costs) == [block.name for block in view.blocks]
    assert sum(costs[s.name].of(s.units, s.units) for s in view.blocks) == pytest.approx(360.0)
    assert costs["0.attention"].of(2, 4) == pytest.approx(16.0) and costs["0.ffn"].of(5, 48) == pytest.approx(10.0)


def test_more_than_everything():
    with pytest.raises(OutOfReach, match="speedup=7 is out of reach: .* 7.0x faster"):
        LatencyBudget(7, TABLE, 8.0)
    for speedup in (1, 0.5, None, float("nan")):
        with pytest.raises(UserError, match="asks for no speed-up"):
            LatencyBudget(speedup, TABLE, 8.0)


class FakeMachine:
    """Runs a model in time by its widths: the table's times, blocks `factor` times as slow."""

    def __init__(self, factor):
        self.factor, self.seen = factor, []

    def __call__(self, pruned):
        widths = [(s.kind, s.units) for s in view_of(pruned).blocks]
        units = sum((4 + 2 * k if kind == "heads" else k) for kind, k in widths if k)
        speedup = 210.0 / (30.0 + self.factor * units)
        self.seen.append(speedup)
        return {"speedup": speedup, "speedup_range": [0.9 * speedup, 1.1 * speedup]}


def pruned_to(speedup, machine, grain=1, pruner=None):
    model, data = tiny_model(dtype=torch.float32), PruningData(tiny_calibration())
    prune = lambda budget: (pruner or KPrune()).prune(Job(model, objective_of(model), data, budget))  # noqa: E731
    return corrected(prune, model, LatencyBudget(speedup, TABLE, 8.0, grain), machine)


def test_a_table_that_is_right_needs_no_correction():
    outcome, latency = pruned_to(3, machine := FakeMachine(1.0))
    assert len(machine.seen) == 1 and 3 <= latency["speedup"] <= 3.15
    details = outcome.details["latency_budget"]
    assert details["reached"] and details["attempts"][0]["range"] == latency["speedup_range"]
    assert {"latency_search", "latency_table", "knowledge"} <= set(outcome.seconds_by_stage)


@pytest.mark.parametrize("factor", [0.6, 1.7])
def test_a_table_that_is_off_is_corrected(factor):
    outcome, latency = pruned_to(3, machine := FakeMachine(factor))
    assert 2 <= len(machine.seen) <= 3
    assert abs(machine.seen[0] / 3 - 1) > 0.05 >= abs(latency["speedup"] / 3 - 1)
    assert outcome.details["latency_budget"]["attempts"][1]["scale"] == pytest.approx(factor, rel=0.05)


def test_after_two_corrections_the_closest_is_taken():
    class Erratic(FakeMachine):
        def __call__(self, pruned):
            self.seen.append(speedup := (5.0, 2.7, 1.5)[len(self.seen)])
            return {"speedup": speedup, "speedup_range": [speedup, speedup]}

    outcome, latency = pruned_to(3, machine := Erratic(1.0))
    assert len(machine.seen) == 3 and latency["speedup"] == 2.7
    assert not outcome.details["latency_budget"]["reached"]


def test_widths_are_whole_grains_within_the_budget():
    outcome, latency = pruned_to(3, FakeMachine(1.0), grain=16)
    assert latency["speedup"] >= 3
    assert all(n % 16 == 0 for n in outcome.kept_neurons) and all(h % 2 == 0 for h in outcome.kept_heads)
    model = tiny_model(dtype=torch.float32)
    for grain, reduction in itertools.product((16, 32), (0.3, 0.6, 0.9)):
        budget = FlopsBudget(reduction, 8.0, grain)
        outcome = KPrune().prune(Job(model, objective_of(model), PruningData(tiny_calibration()), budget))
        assert flops_reduction(view_of(model), view_of(outcome.model), 8.0) >= reduction - 1e-9
        assert all(n % grain == 0 or n == 48 for n in outcome.kept_neurons)
        assert all(8 * h % grain == 0 for h in outcome.kept_heads)
    # Uniform widths are searched among whole grains, so nothing needs to be filled.
    outcome = kprune.prune(model, [tiny_batch()], 0.2, "kprune_official", uniform=True, grain=16)
    assert outcome.kept_neurons[0] % 16 == 0
    with pytest.raises(UserError, match="grain=0"):
        FlopsBudget(0.5, 8.0, 0)


@pytest.mark.parametrize("asked", [dict(flops_reduction=0.5), dict(params_reduction=0.5), dict(speedup=2.0)])
@pytest.mark.parametrize(
    "name, words", [("kprune_official", "has fill_budget=False, and widths are"), ("kwon", "does not round widths")]
)
def test_a_grain_that_a_method_would_not_keep_is_refused_before_anything_is_measured(name, words, asked, monkeypatch):
    monkeypatch.setattr("kprune.speedup.measure_table", None)
    labelled = tiny_batch() | {"labels": torch.tensor([0, 1, 2, 0])}
    with pytest.raises(UserError, match=f"method {name} {words}.*: leave grain=1 or use kprune"):
        kprune.prune(tiny_model(dtype=torch.float32), [labelled], method=name, grain=16, **asked)


def test_the_search_is_as_good_as_any_threshold():
    """Against every threshold there is, on the scores of the first search: none keeps more within the milliseconds."""
    view = view_of(tiny_model())
    budget = LatencyBudget(3, TABLE, 8.0)
    costs, limit = list(budget.costs(view).values()), budget.limit(view)
    assert limit == pytest.approx(40.0)
    generator = torch.Generator().manual_seed(0)
    scores = [torch.rand(s.units, generator=generator, dtype=torch.float64) for s in view.blocks]
    kept_at = lambda nu: [int((s >= nu).sum()) for s in scores]  # noqa: E731
    taken = lambda kept: sum(  # noqa: E731
        (4 + 2 * k if s.kind == "heads" else k) for k, s in zip(kept, view.blocks, strict=True) if k
    )
    fitting = [nu for nu in torch.cat(scores).tolist() if taken(kept_at(nu)) <= 40.0 + 1e-9]
    assert threshold(scores, costs, limit) == min(fitting)


@pytest.mark.parametrize("make", [tiny_model, partial(tiny_of, "gpt_neox"), partial(tiny_of, "gptj")])
def test_a_table_of_a_tiny_model(make):
    table = measure_table(make(dtype=torch.float32), 2, 8, grain=16)
    assert table.widths["attention"] == [2, 4] and table.widths["ffn"] == [16, 32, 48]
    assert 0 < table.empty_ms < table.dense_ms and table.seconds > 0
    assert [len(table.ms[name]) for name in ("attention", "ffn")] == [2, 3]


def test_a_table_of_a_model_without_heads():
    model = tiny_model(dtype=torch.float32)
    for block in view_of(model).of_kind("heads"):
        keep_units(block, torch.arange(0))
    costs = measure_table(model, 2, 8).costs(view_of(model))
    assert [costs[f"{layer}.attention"].of(0, 0) for layer in range(3)] == [0, 0, 0]
    table = LatencyTable({"ffn": TABLE.widths["ffn"]}, {"ffn": TABLE.ms["ffn"]}, 174.0, 30.0)
    for pruner in (KPrune(), KPrunePlus(), Kwon(), Magnitude()):
        outcome = pruner.prune(
            Job(model, objective_of(model), PruningData(tiny_labelled()), LatencyBudget(2, table, 8.0))
        )
        assert outcome.kept_heads == [0, 0, 0]
        assert 55 <= sum(outcome.kept_neurons) <= 57


@pytest.mark.parametrize("speedup", [1, float("inf"), float("nan"), "3", True])
def test_a_speed_up_that_is_none_is_told_before_anything_is_measured(speedup, monkeypatch):
    monkeypatch.setattr("kprune.speedup.measure_table", None)
    with pytest.raises(UserError, match="^speedup=.* asks for no speed-up: give a factor above 1"):
        kprune.prune(tiny_model(dtype=torch.float32), [tiny_batch()], speedup=speedup)


@pytest.mark.parametrize("settings", [(0, 16), (2.5, 16), (2, -1), ("2", 16), (2, None)])
def test_a_point_that_nothing_can_be_measured_at(settings):
    with pytest.raises(UserError, match="batch_size|sequence_length.*: the default is|: give a whole number above 0"):
        Point(*settings)


def test_a_method_that_counts_flops_alone():
    class Counting(Method):
        name, budgets = "counting", frozenset({"flops"})

        def prune(self, job):
            raise AssertionError("refused before anything is measured or pruned")

    model = tiny_model()
    with pytest.raises(UserError, match="counting prunes by flops alone, not by latency"):
        prune_to_speedup(Counting(), model, None, None, 2, 8.0, Point(2, 8))
    with pytest.raises(UserError, match="counting prunes by flops alone, not by latency"):
        Counting().check(model, LatencyBudget(2, TABLE, 8.0))
    with pytest.raises(UserError, match="counting does not round widths"):
        Counting().check(model, FlopsBudget(0.5, 8.0, 16))
    Counting().check(model, FlopsBudget(0.5, 8.0))


def test_a_model_of_a_few_tokens_is_measured():
    """As one that reads the four bases of DNA."""
    config = BertConfig(**SHAPE | {"vocab_size": 4})
    model = BertForSequenceClassification(config).eval()
    assert measure_latency(model, model, 2, 8)["dense_ms"] > 0


def test_measuring_leaves_the_models_in_the_mode_they_were_in():
    """And measures without dropout: inside, everything is in evaluation mode."""
    model, pruned = (tiny_model(dtype=torch.float32).train() for _ in range(2))
    seen = []
    for module in (*model.modules(), *pruned.modules()):
        module.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    measure_table(model, 2, 8)
    measure_latency(model, pruned, 2, 8)
    assert seen and not any(seen)
    assert all(module.training for module in (*model.modules(), *pruned.modules()))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_which_budgets_it_takes(name):
    others = dict.fromkeys(("cofi", "dynabert_d", "dynabert_w", "ebert"), {"flops"})
    others |= dict.fromkeys(("sparsegpt", "wanda"), {"sparsity"}) | {"none": {"nothing"}}
    assert find_method(name).budgets == others.get(name, ANY_BUDGET)
