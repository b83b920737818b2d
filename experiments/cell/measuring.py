"""Measuring the size and the latency of a pruned model."""

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
    """The removed shares, the plan and the size of a pruned model.

    Attributes:
        flops_reduction: removed share of the layers' FLOPs.
        params_reduction: removed share of the layers' parameters.
        params_reduction_of_model: removed share of all parameters.
        plan: the kept units.
        size: parameters and megabytes of the dense and the pruned model.
        sparsity: share of zeros among the layers' weights; None if whole units were removed.
    """

    flops_reduction: float
    params_reduction: float
    params_reduction_of_model: float
    plan: Plan
    size: Size
    sparsity: float | None = None

    def on_record(self) -> dict[str, Any]:
        """Return these values as entries of a `Record`."""
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
    """Measure the sizes of a pruned model; if the units depend on the input, the FLOPs are means over the evaluation set.

    Args:
        length: length of a sequence, in tokens, at which FLOPs are counted.
    """
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
    """Count the parameters and the megabytes of the dense and the pruned model."""
    return Size(model_parameters(dense), model_parameters(pruned), megabytes(dense), megabytes(pruned))


def vocabulary_used(vocabulary: Vocabulary | None, subject: Subject) -> VocabularyUsed | None:
    """Return the size of a cut vocabulary and how the evaluation set is spelled in it; None if every token is kept."""
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
    """Measure the latency of the pruned model and, if it generates text, the speed of reading a prompt and of generating.

    None without a point, and for a model that is not smaller: zeros are multiplied like other weights, so that a measured speed-up
    of a model with zeros would be noise.

    Args:
        point: batch size and length to measure at; None for no measurement.
        measured: the latency, if it was already measured because it is the budget.
    """
    if point is None or outcome.count_units or outcome.plan.sparsity:
        return None
    models, shape = (subject.model, outcome.model), (point.batch_size, point.sequence_length)
    latency = measured or Latency(**measure_latency(*models, *shape))
    if not subject.task.generates:
        return latency
    speeds = {name: TokensPerSecond(*pair) for name, pair in measure_generation(models, *shape).items()}
    return replace(latency, **speeds)
