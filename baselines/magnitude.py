"""Magnitude pruning: a floor that looks at weights alone."""

from dataclasses import dataclass

from torch import Tensor

from baselines.owned import owned_sums
from baselines.ranking import Ranking
from kprune.contract import Job, Outcome
from kprune.models import Block, ModelView


@dataclass(frozen=True)
class Magnitude(Ranking):
    """Keep the units with the largest squared weights per FLOP, or per whatever else the budget counts."""

    name: str = "magnitude"

    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model; neither objective nor data are read."""

        def scores(view: ModelView) -> list[Tensor]:
            costs = job.budget.costs(view)
            return [squared_weights(block) / costs[block.name].per_unit for block in view.blocks]

        return self.keep_best(job, scores)


def squared_weights(block: Block) -> Tensor:
    """Return the sum of squares of all weights that a unit owns, biases left out: [units] in float64."""
    return owned_sums(block, lambda weight: weight.double().square())
