"""Measure a pruned model's size and latency."""

from dataclasses import dataclass

from experiments.config.groups import LatencyPoint
from experiments.inputs.subject import Subject
from experiments.store.record import Latency
from kprune.budgets.latency import measure_latency
from kprune.contract import Outcome
from kprune.data import CalibrationSet
from kprune.models import view_of
from kprune.models.flops import flops_reduction, model_flops, params_reduction
from kprune.plan import Plan


@dataclass(frozen=True)
class Sizes:
    """Shares that were removed, and what is kept."""

    flops_reduction: float
    params_reduction: float
    plan: Plan


def measure_sizes(subject: Subject, outcome: Outcome, length: float) -> Sizes:
    """Count reductions and kept units on the pruned model; on the evaluation inputs if they depend on them."""
    dense, plan = view_of(subject.model), outcome.plan
    if outcome.count_units:
        inputs = subject.task.evaluation(subject.tokenizer).examples
        batches = CalibrationSet(inputs, subject.task.batch_size, subject.tokenizer.pad_token_id or 0).batches()
        plan = Plan.of_means(dense, outcome.count_units(batches))
        left = sum(plan.units[block.name] * block.unit_flops(length) for block in dense.blocks)
        flops, params = 1 - left / model_flops(dense, length), 0.0
    else:
        pruned = view_of(outcome.model)
        flops, params = flops_reduction(dense, pruned, length), params_reduction(dense, pruned)
    return Sizes(flops, params, plan)


def latency_of(point: LatencyPoint | None, subject: Subject, outcome: Outcome) -> Latency | None:
    """Measure the pruned model's latency; None without a point to measure it at, or if no smaller model came out."""
    if point is None or outcome.count_units:
        return None
    return Latency(**measure_latency(subject.model, outcome.model, point.batch_size, point.sequence_length))
