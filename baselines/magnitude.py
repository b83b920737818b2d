"""Magnitude pruning: the sanity floor that looks at weights alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.ranking import Ranking
from kprune.contract import Job, Outcome
from kprune.models import Block, ModelView
from kprune.models.surgery import input_weight, output_weight


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
    if block.units == 0:
        return torch.zeros(0, dtype=torch.float64)
    squares = output_weight(block).double().square().sum(dim=0).unflatten(0, (-1, block.width)).sum(dim=1)
    for rows, module in zip(block.site.inputs, block.inputs, strict=True):
        by_row = input_weight(module).double().square().sum(dim=1)
        squares = squares + by_row.view(rows.parts, block.units, -1).sum(dim=(0, 2))
    return squares
