"""Measure a pruned model's size and latency."""

from dataclasses import dataclass, replace

from experiments.config.groups import LatencyPoint
from experiments.inputs.subject import Subject
from experiments.store.record import Latency, TokensPerSecond
from kprune.budgets.latency import measure_generation, measure_latency
from kprune.contract import Outcome
from kprune.data import CalibrationSet
from kprune.models import view_of
from kprune.models.flops import flops_reduction, model_flops, params_reduction, params_reduction_of_model, sparsity
from kprune.plan import Plan


@dataclass(frozen=True)
class Sizes:
    """Shares that were removed, and what is kept; the share of zeros if single weights were masked."""

    flops_reduction: float
    params_reduction: float
    params_reduction_of_model: float
    plan: Plan
    sparsity: float | None = None


def measure_sizes(subject: Subject, outcome: Outcome, length: float) -> Sizes:
    """Count reductions and kept units on the pruned model; on the evaluation inputs if they depend on them."""
    dense, plan = view_of(subject.model), outcome.plan
    if outcome.count_units:
        inputs = subject.task.evaluation(subject.tokenizer).examples
        batches = CalibrationSet(inputs, subject.task.batch_size, subject.tokenizer.pad_token_id or 0).batches()
        plan = Plan.of_means(dense, outcome.count_units(batches))
        left = sum(plan.units[block.name] * block.unit_flops(length) for block in dense.blocks)
        return Sizes(1 - left / model_flops(dense, length), 0.0, 0.0, plan)
    pruned = view_of(outcome.model)
    shares = params_reduction(dense, pruned), params_reduction_of_model(dense, pruned)
    return Sizes(flops_reduction(dense, pruned, length), *shares, plan, sparsity(pruned) if plan.masks else None)


def latency_of(
    point: LatencyPoint | None, subject: Subject, outcome: Outcome, measured: Latency | None
) -> Latency | None:
    """Measure the pruned model's latency, and a generating one's speed; None without a point to measure at, or a smaller model.

    Zeros are multiplied like other weights: what a model with the dense one's shapes was measured to gain would be noise.

    Args:
        measured: the latency, if it was the budget.
    """
    if point is None or outcome.count_units or outcome.plan.masks:
        return None
    models, shape = (subject.model, outcome.model), (point.batch_size, point.sequence_length)
    latency = measured or Latency(**measure_latency(*models, *shape))
    if not subject.task.generates:
        return latency
    speeds = {name: TokensPerSecond(*pair) for name, pair in measure_generation(*models, *shape).items()}
    return replace(latency, **speeds)
