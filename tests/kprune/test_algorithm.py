import copy
import itertools
import json
from dataclasses import replace

import pytest
import torch
from language import tiny_llama
from tiny import FAMILY_AND_HEAD, assert_less_than_a_head_over, narrowed, tiny_batch, tiny_calibration, tiny_model

from kprune.budgets import FlopsBudget
from kprune.checkpoint.dense import densified
from kprune.contract import Job, PruningData
from kprune.data import CalibrationSet, collate, split
from kprune.divergence import held_out_divergence
from kprune.errors import UserError
from kprune.memory import GPU_PASS, SMALL_PASS, pass_tokens
from kprune.methods.kprune.algorithm import KPrune
from kprune.methods.kprune.knowledge import KnowledgeSettings, measure
from kprune.methods.kprune_plus.algorithm import KPrunePlus
from kprune.methods.registry import build
from kprune.models import view_of
from kprune.models.copies import frozen_copy, frozen_shared_copy
from kprune.models.flops import flops_reduction
from kprune.models.masks import masked
from kprune.models.surgery import keep_units, unit_columns
from kprune.objectives import objective_of
from kprune.streams import TeacherLogits, calibration_states

OFFICIAL = build("kprune_official", {})


def prune(model, reduction, pruner=None, calibration=None):
    data = PruningData(calibration or tiny_calibration(24))
    return (pruner or KPrune()).prune(Job(model, objective_of(model), data, FlopsBudget(reduction, 8.0)))


@pytest.mark.parametrize("family, head", FAMILY_AND_HEAD)
@pytest.mark.parametrize("pruner", [KPrune(), OFFICIAL], ids=lambda pruner: pruner.name)
def test_the_budget_is_met_by_less_than_a_head(family, head, pruner):
    model = tiny_model(family, head, dtype=torch.float32)
    before = copy.deepcopy(model.state_dict())
    for reduction in (0.3, 0.6, 0.9):
        outcome = prune(model, reduction, pruner)
        assert_less_than_a_head_over(outcome, model, reduction)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_tuning_brings_the_student_closer_to_the_teacher():
    """Against the same masks without tuning, on examples that were not fitted."""
    model, calibration = tiny_model(), tiny_calibration(400, 32)
    objective = objective_of(model)
    tuned = prune(model, 0.5, calibration=calibration)

    class Untuned(KPrune):
        def tune(self, student, teacher, states):
            weight = copy.deepcopy(student.output.state_dict())
            super().tune(student, teacher, states)
            student.output.load_state_dict(weight)

    untuned = prune(model, 0.5, Untuned(), calibration)
    fresh = tiny_calibration(100, 32, seed=9)
    divergences = [held_out_divergence(o.model, model, objective, fresh, 2.0) for o in (tuned, untuned)]
    assert divergences[0] < 0.8 * divergences[1]


def test_two_runs_are_identical():
    one, two = (prune(tiny_model(dtype=torch.float32), 0.6) for _ in range(2))
    assert one.plan.kept == two.plan.kept
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))


def test_kprune_does_not_depend_on_batches():
    model, calibration = tiny_model(), tiny_calibration(24)
    other = CalibrationSet(calibration.examples[::-1], 7, 1)
    pruner = KPrune(lambdas=(0.1,))
    assert prune(model, 0.6, pruner, calibration).plan.kept == prune(model, 0.6, pruner, other).plan.kept


def test_several_lambdas_are_chosen_among_by_held_out_divergence():
    model, calibration = tiny_model(), tiny_calibration(40)
    outcome = prune(model, 0.6, KPrune(lambdas=(1e-4, 1e2, 1e5)), calibration)
    divergences = outcome.details["held_out_divergence"]
    assert len(set(divergences.values())) > 1, "the λs make no difference here, so the choice proves nothing"
    assert outcome.details["lambda"] == float(min(divergences, key=divergences.get))
    fit, held_out = split(calibration)
    assert outcome.plan.kept == prune(model, 0.6, KPrune(lambdas=(outcome.details["lambda"],)), fit).plan.kept
    assert len(fit.examples) + len(held_out.examples) == 40 and len(held_out.examples) == 4


def test_what_is_held_out_is_not_fitted_though_examples_are_drawn_twice():
    few = tiny_calibration(30).examples
    fit, held_out = split(CalibrationSet([few[i * i % 30] for i in range(90)], 4, 1))
    sides = [{tuple(example["input_ids"]) for example in side.examples} for side in (fit, held_out)]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert len(fit.examples) + len(held_out.examples) == 90
    with pytest.raises(UserError, match="there is only one example"):
        split(CalibrationSet(few[:1] * 5, 4, 1))


def test_lambda_is_chosen_by_a_teacher_without_dropout():
    outcomes = [
        prune(tiny_model(dtype=torch.float32).train(mode), 0.6, KPrune(lambdas=(0.1, 1.0))) for mode in (True, False)
    ]
    assert outcomes[0].details == outcomes[1].details


def test_a_divergence_that_is_not_finite_is_never_chosen(monkeypatch):
    divergences = iter([float("nan"), 1.0])
    monkeypatch.setattr("kprune.methods.kprune.algorithm.held_out_divergence", lambda *_: next(divergences))
    with pytest.raises(UserError, match="pruned with λ=0.1 diverges from the dense one by nan"):
        prune(tiny_model(), 0.5, KPrune(lambdas=(0.1, 1.0)))


def test_an_emptied_block_keeps_its_bias_unless_told():
    for keep_bias in (True, False):
        outcome = prune(tiny_model(), 0.97, replace(KPrune(), keep_bias=keep_bias))
        empty = [s for s in view_of(outcome.model).blocks if s.units == 0]
        assert empty and all((s.output.bias.abs().max() > 0) == keep_bias for s in empty)


def test_what_is_on_record_is_plain_json_if_no_unit_fits():
    outcome = prune(tiny_model(), 0.9999, KPrune())
    assert outcome.kept_heads == outcome.kept_neurons == [0, 0, 0]
    assert json.loads(json.dumps(outcome.details, allow_nan=False)) == outcome.details
    assert outcome.details["threshold"][1:] == [None] * 5


@pytest.mark.parametrize("reduction", [0.0, 1.0, -0.5, 80])
def test_a_reduction_out_of_range(reduction):
    with pytest.raises(UserError, match="outside \\(0, 1\\)"):
        FlopsBudget(reduction, 8.0)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(solve="float23"), "solve=float23 is unknown: use float64 or float32"),
        (dict(measure_examples=0), "measure_examples=0 is out of range: give a whole number above 0"),
        (dict(measure_every=0), "measure_every=0 is out of range"),
        (dict(measure_every=1.5), "measure_every=1.5 is not a whole number or None: the default is 1"),
        (dict(lambdas=0.1), r"lambdas=0.1 is not a list, each a number or None: the default is \(0.1,\)"),
        (dict(lambdas=["0.1"]), r"lambdas=\['0.1'\] is not a list, each a number or None"),
        (dict(tuning="no"), "tuning=no is not True or False: the default is True"),
        (dict(fill_budget="false"), "fill_budget=false is not True or False"),
        (dict(keep_bias=None), "keep_bias=None is not True or False"),
        (
            dict(knowledge={"temperature": 1.0}),
            "knowledge={.*} is not a KnowledgeSettings: the default is KnowledgeSett",
        ),
        (dict(lambdas=()), "lambdas is empty"),
        (dict(lambdas=(1e-5, -1.0)), "lambdas=-1.0 is out of range: give 0 or a number above"),
        (dict(lambdas=(float("nan"),)), "lambdas=nan is out of range"),
        (dict(mu=0), "mu=0 is out of range"),
        (dict(ridge=-1e-6), "ridge=-1e-06 is out of range"),
    ],
)
def test_settings_that_mean_nothing(settings, message):
    with pytest.raises(UserError, match=message):
        KPrune(**settings)


def test_empty_calibration_set():
    with pytest.raises(UserError, match="^the calibration set is empty: give more examples$"):
        CalibrationSet([], 4, 0)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_pruned_model_is_pruned_again(family):
    """Emptied blocks among those it comes with; the reduction counts from the model given."""
    once = prune(tiny_model(family), 0.9)
    assert 0 in once.kept_heads + once.kept_neurons
    twice = prune(once.model, 0.5)
    assert flops_reduction(view_of(once.model), view_of(twice.model), 8.0) >= 0.5
    assert all(a >= b for a, b in zip(once.kept_neurons, twice.kept_neurons, strict=True))
    assert torch.isfinite(twice.model(**tiny_batch())[0]).all()


@pytest.mark.parametrize("pruner", [KPrune(), KPrunePlus()], ids=lambda pruner: pruner.name)
@pytest.mark.parametrize("empty", [[5], [4, 5]], ids=["top_ffn", "top_layer"])
def test_a_model_whose_top_is_empty_is_pruned_again(empty, pruner):
    model = tiny_model()
    for index in empty:
        keep_units(view_of(model).blocks[index], torch.tensor([], dtype=torch.long))
    outcome = prune(model, 0.5, pruner)
    kept = list(outcome.plan.kept.values())
    assert all(kept[index] == [] for index in empty)
    assert flops_reduction(view_of(model), view_of(outcome.model), 8.0) >= 0.5
    assert torch.isfinite(outcome.model(**tiny_batch())[0]).all()


def test_ablations_differ_from_the_method_and_from_one_another():
    model, calibration = tiny_model(), tiny_calibration(24)
    fisher = replace(KPrune().knowledge, predictive="fisher")
    ablations = [
        KPrune(),
        KPrune(lambdas=(None,)),
        KPrune(lambdas=(0.0,)),
        KPrune(lambdas=(0.0,), knowledge=fisher),
        KPrune(measure_every=None, knowledge=fisher),
    ]
    kept = [prune(model, 0.6, ablation, calibration).plan.kept for ablation in ablations]
    assert all(kept[i] != kept[j] for i in range(5) for j in range(i))


def test_without_tuning_weights_are_the_models_own():
    model = tiny_model()
    outcome = prune(model, 0.5, KPrune(tuning=False))
    for block, pruned, units in zip(
        view_of(model).blocks, view_of(outcome.model).blocks, outcome.plan.kept.values(), strict=True
    ):
        if units:
            columns = unit_columns(torch.tensor(units), block.width)
            assert torch.equal(pruned.output.weight, block.output.weight[:, columns])


def test_k_rep_alone_needs_no_gradient_signal_and_k_pred_alone_has_none_at_the_bottom():
    model = tiny_model()
    alone = prune(model, 0.5, KPrune(lambdas=(0.0,)))
    kept = list(alone.plan.kept.values())
    lost = [len(units) < s.units for units, s in zip(kept, view_of(model).blocks, strict=True)]
    first = lost.index(True)
    assert kept[first] == list(range(len(kept[first]))), "ties are broken by index"
    assert first > 0, "block 0 stays whole, so that rounding is all the K_pred there is above it, too"
    assert alone.details["no_signal"] == list(range(first + 1))
    assert prune(model, 0.5, KPrune(lambdas=(None,))).details["no_signal"] == []
    assert (
        prune(model, 0.5, KPrune(lambdas=(0.0,), knowledge=replace(KPrune().knowledge, predictive="fisher"))).details[
            "no_signal"
        ]
        == []
    )


def test_the_backward_passes_are_those_of_the_blocks_where_student_and_teacher_differ(monkeypatch):
    model, calibration, calls = tiny_model(), tiny_calibration(8, 4), []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or grad(*a, **k))
    outcome = prune(model, 0.6, KPrune(), calibration)
    blocks, passes = len(outcome.plan.kept), len(KPrune().batches(calibration, view_of(model)))
    assert len(calls) == (blocks - 1) * passes
    prune(model, 0.6, KPrune(measure_every=2), calibration)
    assert len(calls) == (blocks - 1 + blocks // 2 - 1) * passes


def test_measuring_less_often_and_on_fewer_batches_stays_within_the_budget():
    model, calibration = tiny_model(), tiny_calibration(48)
    for pruner in (KPrune(measure_every=2), KPrune(measure_every=4, measure_examples=3), KPrune(measure_every=None)):
        outcome = prune(model, 0.6, pruner, calibration)
        assert flops_reduction(view_of(model), view_of(outcome.model), 8.0) >= 0.6 - 1e-9


def test_the_size_of_a_pass_makes_no_difference_and_every_kth_example_is_measured(monkeypatch):
    model, calibration = tiny_model(), tiny_calibration(24, batch_size=6)
    some = {every: prune(model, 0.6, KPrune(measure_examples=every), calibration).plan.kept for every in (1, 5)}
    assert some[1] != some[5]
    for tokens in (1, 20, 60):
        monkeypatch.setattr("kprune.methods.kprune.algorithm.pass_tokens", lambda view, tokens=tokens: tokens)
        for every, kept in some.items():
            pruner = KPrune(measure_examples=every)
            assert prune(model, 0.6, pruner, calibration).plan.kept == kept
            states = calibration_states(view_of(model), pruner.batches(calibration, view_of(model)))
            assert all(len(state.student) == 1 or state.student.shape[:2].numel() <= tokens * every for state in states)
            ids = [row.tolist() for state in states for row in state.batch["input_ids"]]
            measured = [row.tolist() for state in pruner.measured(states) for row in state.batch["input_ids"]]
            assert len(ids) == 24 and [row[:3] for row in measured] == [row[:3] for row in ids[::every]]


def test_whole_batches_are_measured_where_the_gradient_is_that_of_a_batch():
    model, calibration = tiny_model(), tiny_calibration(24, batch_size=6)
    pruner = KPrune(measure_examples=2, knowledge=KnowledgeSettings(gradient="batch"))
    states = calibration_states(view_of(model), pruner.batches(calibration, view_of(model)))
    assert [len(state.student) for state in states] == [6, 6, 6, 6]
    assert [len(state.student) for state in pruner.measured(states)] == [3, 3, 3, 3]


def test_a_pass_is_larger_on_a_gpu_and_smaller_for_a_large_model():
    def on_gpu(model):
        return pass_tokens(view_of(model, torch.device("cuda", 0)))

    assert pass_tokens(view_of(tiny_model())) == SMALL_PASS
    small, large = (on_gpu(tiny_model(layers=layers)) for layers in (1, 4))
    assert small == pytest.approx(4 * large, abs=4) and large > 100 * SMALL_PASS


def test_a_vocabularys_logits_take_their_share_of_a_pass():
    """Of a decoder, they may be most of what a graph keeps: some 10 GB were taken where 6 were asked for."""
    sizes = [
        pass_tokens(view_of(tiny_llama(vocab_size=words), torch.device("cuda", 0))) for words in (60, 6000, 60_000)
    ]
    bytes_of_a_token = [GPU_PASS / size for size in sizes]
    added = [after - before for before, after in itertools.pairwise(bytes_of_a_token)]
    assert added == pytest.approx([16 * (6000 - 60), 16 * (60_000 - 6000)], rel=0.01)


def test_fisher_knowledge_is_half_the_squared_gradient_of_its_roots():
    """Two classes would be one root; three classes are three, added up."""
    model = frozen_copy(tiny_model())
    view, objective, calibration = view_of(model), objective_of(model), tiny_calibration(4, 2)
    states = calibration_states(view, calibration.batches())
    logits = TeacherLogits(view, states, objective)
    measured = measure(view, 0, states, logits, objective, KnowledgeSettings(predictive="fisher")).predictive
    expected = [torch.zeros(s.units, dtype=torch.float64) for s in view.blocks]
    for example in calibration.examples:
        batch = collate([example], 1)
        masks = [torch.ones(s.units, dtype=torch.float64, requires_grad=True) for s in view.blocks]
        with masked(view, masks):
            log_p = torch.log_softmax(model(**batch).logits / 2.0, dim=1)[0]
        for label in range(3):
            for total, g in zip(expected, torch.autograd.grad(log_p[label], masks, retain_graph=True), strict=True):
                total += 4 * log_p[label].exp().item() * g**2 / 2 / 4
    for ours, literal in zip(measured, expected, strict=True):
        torch.testing.assert_close(ours, literal, rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize("pruner", [KPrune(), KPrunePlus()], ids=lambda pruner: pruner.name)
def test_the_model_passed_in_is_left_as_it_was(pruner):
    """The teacher has its weights in memory."""
    model = tiny_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    outcome = prune(model, 0.5, pruner)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    mine = {p.data_ptr() for p in model.parameters()}
    assert not mine & {p.data_ptr() for p in outcome.model.parameters()}
    view = frozen_shared_copy(model)
    assert mine == {p.data_ptr() for p in view.parameters()} and not any(p.requires_grad for p in view.parameters())
    assert not view.training


@pytest.mark.parametrize("pruner", [KPrune(), KPrunePlus()], ids=lambda pruner: pruner.name)
@pytest.mark.parametrize("reduction", [0.1, 0.5])
def test_a_dense_copy_of_a_pruned_model_is_pruned_again(reduction, pruner):
    """The removed units are there as zeros, whole blocks of them."""
    dense = densified(narrowed())
    assert {0, 3} == {i for i, s in enumerate(view_of(dense).blocks) if not s.output.weight.any()}
    outcome = prune(dense, reduction, pruner)
    weights = [s.output.weight for s in view_of(outcome.model).blocks if s.units]
    assert all(torch.isfinite(w).all() for w in weights) and torch.isfinite(outcome.model(**tiny_batch())[0]).all()
    for index in (0, 3):
        block = view_of(outcome.model).blocks[index]
        assert block.units == 0 or block.output.weight.abs().max() == 0
