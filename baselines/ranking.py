"""One-shot pruning by a score per unit, weights left as they are: the frame of the floors."""

from collections.abc import Callable

from torch import Tensor

from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome
from kprune.models import ModelView, view_of
from kprune.models.copies import frozen_copy
from kprune.models.surgery import keep_units
from kprune.solve.mask_search import greedy
from kprune.solve.uniform import best_units, curve_of_scores, uniform_counts


class Ranking(Method):
    """Keep the units with the highest scores.

    A unit that does not fit what is left of the budget is passed over, so that in the end less is left than a unit costs.
    """

    uniform = True
    passes = False

    def keep_best(self, job: Job, scores: Callable[[ModelView], list[Tensor]]) -> Outcome:
        """Prune a copy of the job's model.

        Args:
            scores: gives the scores of all units, [units] per block, bottom to top.

        Raises:
            UserError: the model's family is not supported.
            OutOfReach: the layers are to be alike, and the fewest units that a stock config can say cost more than the budget leaves.
        """
        clock, view = Clock(), view_of(frozen_copy(job.model))
        with clock("mask_search"):
            found, costs = scores(view), list(job.budget.costs(view).values())
            if job.budget.uniform:
                counts = uniform_counts(view, list(map(curve_of_scores, found, costs)), job.budget)
                kept = list(map(best_units, found, counts))
            else:
                kept = [mask.nonzero()[:, 0] for mask in greedy(found, costs, job.budget.limit(view))]
        with clock("surgery"):
            for block, units in zip(view.blocks, kept, strict=True):
                keep_units(block, units)
        return Outcome.of(view, [units.tolist() for units in kept], clock, {})
