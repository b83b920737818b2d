"""One-shot pruning by a score per unit, weights left as they are: the frame of the sanity floors."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from kprune.mask_search import greedy
from kprune.objectives import Objective
from kprune.pruner import Budget, Clock, Outcome, PruningData, frozen_copy
from kprune.transformer import adapter_for
from kprune.transformer.adapter import Sublayer
from kprune.transformer.flops import model_flops
from kprune.transformer.surgery import keep_masked


class Ranking(ABC):
    """Keep the units with the highest scores; one that does not fit what is left of the budget is passed over, so that
    less is left than the FLOPs of one unit."""

    name: str
    needs_labels = False

    @abstractmethod
    def scores(self, sublayer: Sublayer, flops: float) -> Tensor:
        """Scores of a sublayer's units, [units]; `flops` is the cost of one."""

    def reach(self, model: nn.Module, sequence_length: float) -> float:
        """All heads and neurons may go."""
        return 1.0

    def prune(self, model: nn.Module, objective: Objective, data: PruningData, budget: Budget) -> Outcome:
        """Prune a copy of `model` to the budget; neither objective nor data are read.

        Raises:
            UserError: the model's family is not supported.
        """
        clock, adapter = Clock(), adapter_for(frozen_copy(model))
        with clock("mask_search"):
            flops = [sublayer.unit_flops(budget.sequence_length) for sublayer in adapter.sublayers]
            scores = [self.scores(sublayer, f) for sublayer, f in zip(adapter.sublayers, flops, strict=True)]
            allowed = model_flops(adapter, budget.sequence_length) * (1 - budget.flops_reduction)
            masks = greedy(scores, flops, allowed)
        with clock("surgery"):
            kept = keep_masked(adapter.sublayers, masks)
        return Outcome.of(adapter.model, kept, clock, {})
