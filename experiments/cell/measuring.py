"""Measure a pruned model's size and latency."""

from dataclasses import dataclass, replace
from typing import Any

from experiments.config.groups import LatencyPoint
from experiments.inputs.subject import Subject
from experiments.store.record import Latency, Size, TokensPerSecond, VocabularyUsed
from kprune.budgets.latency import measure_generation, measure_latency
from kprune.contract import Outcome
from kprune.data import CalibrationSet
from kprune.models import ModelView, view_of
from kprune.models.flops import (
    flops_reduction,
    megabytes,
    model_flops,
    model_parameters,
    params_reduction,
    params_reduction_of_model,
    sparsity,
)
from kprune.plan import Plan
from kprune.vocabulary import Spelling, Vocabulary


@dataclass(frozen=True)
class Sizes:
    """Shares that were removed, what is kept and what it takes; the share of zeros if single weights were masked."""

    flops_reduction: float
    params_reduction: float
    params_reduction_of_model: float
    plan: Plan
    size: Size
    sparsity: float | None = None

    def on_record(self) -> dict[str, Any]:
        """Return the entries of a `Record` that say this."""
        kept = self.plan.kept
        return {
            "flops_reduction": self.flops_reduction,
            "params_reduction": self.params_reduction,
            "params_reduction_of_model": self.params_reduction_of_model,
            "kept_heads": self.plan.per_layer("heads"),
            "kept_neurons": self.plan.per_layer("neurons"),
            "plan": kept and {block: list(units) for block, units in kept.items()},
            "size": self.size,
            "sparsity": self.sparsity,
        }


def measure_sizes(subject: Subject, outcome: Outcome, length: float) -> Sizes:
    """Count reductions and kept units on the pruned model; on the evaluation inputs if they depend on them."""
    dense, plan = view_of(subject.model), outcome.plan
    if outcome.count_units:
        inputs = subject.task.evaluation(subject.tokenizer).examples
        batches = CalibrationSet(inputs, subject.task.batch_size, subject.tokenizer.pad_token_id or 0).batches()
        plan = Plan.of_means(dense, outcome.count_units(batches))
        left = sum(plan.units[block.name] * block.unit_flops(length) for block in dense.blocks)
        return Sizes(1 - left / model_flops(dense, length), 0.0, 0.0, plan, size_of(dense, dense))
    pruned = view_of(outcome.model)
    shares = params_reduction(dense, pruned), params_reduction_of_model(dense, pruned)
    zeros = sparsity(pruned) if plan.sparsity else None
    return Sizes(flops_reduction(dense, pruned, length), *shares, plan, size_of(dense, pruned), zeros)


def size_of(dense: ModelView, pruned: ModelView) -> Size:
    """Count parameters and megabytes of two models."""
    return Size(model_parameters(dense), model_parameters(pruned), megabytes(dense), megabytes(pruned))


def vocabulary_used(vocabulary: Vocabulary | None, subject: Subject) -> VocabularyUsed | None:
    """Return how many tokens are kept, and how the evaluation set is spelled by them; None if all are."""
    if vocabulary is None:
        return None
    before, after = (
        [example["input_ids"] for example in subject.task.evaluation(tokenizer).examples]
        for tokenizer in (vocabulary.whole, vocabulary.tokenizer)
    )
    spelled = Spelling.of(before, after, vocabulary.kept)
    return VocabularyUsed(len(vocabulary.kept), vocabulary.of, spelled.missing, spelled.growth)


def latency_of(
    point: LatencyPoint | None, subject: Subject, outcome: Outcome, measured: Latency | None
) -> Latency | None:
    """Measure the pruned model's latency, and a generating one's speed; None without a point to measure at, or a smaller model.

    Zeros are multiplied like other weights: what a model with the dense one's shapes was measured to gain would be noise.

    Args:
        measured: the latency, if it was the budget.
    """
    if point is None or outcome.count_units or outcome.plan.sparsity:
        return None
    models, shape = (subject.model, outcome.model), (point.batch_size, point.sequence_length)
    latency = measured or Latency(**measure_latency(*models, *shape))
    if not subject.task.generates:
        return latency
    speeds = {name: TokensPerSecond(*pair) for name, pair in measure_generation(models, *shape).items()}
    return replace(latency, **speeds)
