"""What came out of a pruning: sizes and latency of the model itself."""

from dataclasses import dataclass

from experiments.config.groups import LatencyPoint
from experiments.inputs.subject import Subject
from experiments.store.record import Latency
from kprune.budgets.latency import measure_latency
from kprune.contract import Outcome
from kprune.data import CalibrationSet
from kprune.models import adapter_for
from kprune.models.flops import flops_reduction, model_flops, params_reduction


@dataclass(frozen=True)
class Sizes:
    """Reductions, and units kept per layer and by block."""

    flops_reduction: float
    params_reduction: float
    kept_heads: list[float]
    kept_neurons: list[float]
    plan: dict[str, list[int]] | None


def measure_sizes(subject: Subject, outcome: Outcome, length: float) -> Sizes:
    """Count reductions and kept units on the pruned model; on the evaluation inputs if they depend on them."""
    dense = adapter_for(subject.model)
    if not outcome.count_units:
        pruned = adapter_for(outcome.model)
        flops, params = flops_reduction(dense, pruned, length), params_reduction(dense, pruned)
        names = [f"{layer}.{site}" for layer in range(len(outcome.kept_heads)) for site in ("attention", "ffn")]
        plan = dict(zip(names, outcome.kept_units, strict=True))
        return Sizes(flops, params, outcome.kept_heads, outcome.kept_neurons, plan)
    inputs = subject.task.evaluation(subject.tokenizer).examples
    batches = CalibrationSet(inputs, subject.task.batch_size, subject.tokenizer.pad_token_id or 0).batches()
    units = outcome.count_units(batches)
    left = sum(n * s.unit_flops(length) for n, s in zip(units, dense.sublayers, strict=True))
    return Sizes(1 - left / model_flops(dense, length), 0.0, units[0::2], units[1::2], None)


def latency_of(point: LatencyPoint | None, subject: Subject, outcome: Outcome) -> Latency | None:
    """Measure the pruned model's latency; None without a point to measure it at, or if no smaller model came out."""
    if point is None or outcome.count_units:
        return None
    return Latency(**measure_latency(subject.model, outcome.model, point.batch_size, point.sequence_length))
