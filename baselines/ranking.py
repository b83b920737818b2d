"""One-shot pruning by a score per unit, weights left as they are: the frame of the sanity floors."""

from collections.abc import Callable

from torch import Tensor

from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome
from kprune.models import ModelView, view_of
from kprune.models.copies import frozen_copy
from kprune.models.surgery import keep_masked
from kprune.solve.mask_search import greedy


class Ranking(Method):
    """Keep the units with the highest scores; one that does not fit what is left of the budget is passed over, so that
    less is left than one unit costs."""

    def keep_best(self, job: Job, scores: Callable[[ModelView], list[Tensor]]) -> Outcome:
        """Prune a copy of the job's model.

        Args:
            scores: gives the scores of all units, [units] per block, bottom to top.

        Raises:
            UserError: the model's family is not supported.
        """
        clock, view = Clock(), view_of(frozen_copy(job.model))
        with clock("mask_search"):
            masks = greedy(scores(view), list(job.budget.costs(view).values()), job.budget.limit(view))
        with clock("surgery"):
            kept = keep_masked(view.blocks, masks)
        return Outcome.of(view, kept, clock, {})
