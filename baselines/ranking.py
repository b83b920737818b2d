"""One-shot pruning by a score per unit, weights left as they are: the frame of the sanity floors."""

from collections.abc import Callable

from torch import Tensor, nn

from kprune.budgets.flops import Budget
from kprune.clock import Clock
from kprune.contract import Outcome
from kprune.models import view_of
from kprune.models import ModelView
from kprune.models.copies import frozen_copy
from kprune.models.surgery import keep_masked
from kprune.solve.mask_search import greedy


class Ranking:
    """Keep the units with the highest scores; one that does not fit what is left of the budget is passed over, so that
    less is left than one unit costs."""

    name: str
    needs_labels = False
    any_budget = True

    def reach(self, model: nn.Module, sequence_length: float) -> float:
        """All heads and neurons may go."""
        return 1.0

    def keep_best(self, model: nn.Module, budget: Budget, scores: Callable[[ModelView], list[Tensor]]) -> Outcome:
        """Prune a copy of `model` to the budget.

        Args:
            scores: gives the scores of all units, [units] per block, bottom to top.

        Raises:
            UserError: the model's family is not supported.
        """
        clock, view = Clock(), view_of(frozen_copy(model))
        with clock("mask_search"):
            masks = greedy(scores(view), budget.costs(view), budget.limit(view))
        with clock("surgery"):
            kept = keep_masked(view.blocks, masks)
        return Outcome.of(view.model, kept, clock, {})
