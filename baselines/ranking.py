"""One-shot pruning by a score per unit, weights left as they are: the frame of the sanity floors."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from kprune.mask_search import greedy
from kprune.objectives import Objective
from kprune.pruner import Budget, Clock, Outcome, PruningData, frozen_copy
from kprune.transformer import adapter_for
from kprune.transformer.adapter import Sublayer
from kprune.transformer.surgery import keep_masked


class Ranking(ABC):
    """Keep the units with the highest scores; one that does not fit what is left of the budget is passed over, so that
    less is left than one unit costs."""

    name: str
    needs_labels = False
    any_budget = True

    @abstractmethod
    def scores(self, sublayer: Sublayer, cost: float) -> Tensor:
        """Scores of a sublayer's units, [units]; `cost` is that of one."""

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
            costs = budget.unit_costs(adapter)
            scores = [self.scores(s, cost.per_unit) for s, cost in zip(adapter.sublayers, costs, strict=True)]
            masks = greedy(scores, costs, budget.limit(adapter))
        with clock("surgery"):
            kept = keep_masked(adapter.sublayers, masks)
        return Outcome.of(adapter.model, kept, clock, {})
